"""Groups of completions with what they earn: sampled from a policy, scored by a reference and by the rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lab.base import SharedBase
from lab.encode import TokenPrompt
from lab.feedback.rewards import Earned, Rewards
from lab.records import Rollout
from lab.sample import sample
from lab.score import score


@dataclass(frozen=True)
class ScoredGroups:
    """P groups of G completions in order, B = P · G, with everything known about them.

    earned        : the rewards of every completion
    ended (B,), lengths (B,) : whether it has an end token of its own, and how many tokens
    sampled       : (B, T) the sampler's own log-probabilities, nats
    reference     : (B, T) log-probabilities under the reference, nats
    policy        : (B, T) log-probabilities under the policy by the training forward, where they were asked for
    """

    rollouts: list[Rollout]
    earned: Earned
    ended: Tensor
    lengths: Tensor
    sampled: Tensor
    reference: Tensor
    policy: Tensor | None

    def only(self, groups: Tensor) -> ScoredGroups:
        """The groups of which `groups` (P,) is True."""
        rows = torch.nonzero(groups.repeat_interleave(len(self.rollouts) // len(groups)))[:, 0]
        at = rows.cpu()
        parts = {name: rewards[at] for name, rewards in self.earned.parts.items()}
        return ScoredGroups([self.rollouts[i] for i in at.tolist()], Earned(self.earned.total[at], parts),
                            self.ended[rows], self.lengths[rows], self.sampled[rows], self.reference[rows],
                            None if self.policy is None else self.policy[rows])  # fmt: skip


def sample_groups(
    base: SharedBase,
    prompts: Sequence[TokenPrompt],
    rewards: Rewards,
    *,
    policy: str,
    reference: str,
    size: int,
    temperature: float,
    max_new_tokens: int,
    seed: tuple[int, ...],
    tokens_per_pass: int = 8192,
    score_policy: bool = False,
) -> ScoredGroups:
    """`size` completions of every prompt; the roles that score them share one pass."""
    rollouts = sample(base, [p.prompt for p in prompts], (policy,), temperature=temperature, seed=seed,
                      max_new_tokens=max_new_tokens, per_prompt=size)  # fmt: skip
    want = {reference: "logprobs"} | ({policy: "logprobs"} if score_policy else {})
    want |= dict.fromkeys(rewards.roles, "reward")
    known = score(base, [(r.prompt_ids, r.completion_ids) for r in rollouts], want, temperature, tokens_per_pass)
    columns: list[Mapping[str, Any]] = [p.columns for p in prompts for _ in range(size)]
    sampled = torch.zeros_like(known[reference])
    for i, r in enumerate(rollouts):
        sampled[i, : len(r.logprobs)] = torch.tensor(r.logprobs)
    return ScoredGroups(rollouts, rewards.earn(rollouts, columns, known),
                        torch.tensor([r.ended for r in rollouts], device=base.device),
                        torch.tensor([len(r.completion_ids) for r in rollouts], device=base.device), sampled,
                        known[reference], known[policy] if score_policy else None)  # fmt: skip


def joined(parts: Sequence[ScoredGroups]) -> ScoredGroups:
    """Several rounds of sampling as one; the (B, T) grids are padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    width = max(p.reference.shape[1] for p in parts)

    def grid(grids: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(g, (0, width - g.shape[1])) for g in grids])

    names = parts[0].earned.parts
    earned = Earned(torch.cat([p.earned.total for p in parts]),
                    {name: torch.cat([p.earned.parts[name] for p in parts]) for name in names})  # fmt: skip
    policies = [p.policy for p in parts if p.policy is not None]
    return ScoredGroups([r for p in parts for r in p.rollouts], earned, torch.cat([p.ended for p in parts]),
                        torch.cat([p.lengths for p in parts]), grid([p.sampled for p in parts]),
                        grid([p.reference for p in parts]), grid(policies) if policies else None)  # fmt: skip
