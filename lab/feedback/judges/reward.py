"""A reward as a judge: the higher one wins, with the probability that Bradley and Terry give it.

    p = σ(r_a − r_b)

Source: Bradley and Terry 1952.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lab.base import SharedBase
from lab.feedback.judging import Opinion
from lab.feedback.rewards import Rewards
from lab.records import Comparison, Completion, Prompt, Rollout, completion_text
from lab.score import score


@dataclass(frozen=True)
class RewardJudge:
    """A reward model on the base, an ensemble of them, a verifier, or any sum of rewards. The order cannot matter.

    missing_end : taken from the reward of a completion that did not end, reward units
    """

    base: SharedBase
    rewards: Rewards
    name: str = "reward"
    missing_end: float = 0.0

    def ask(self, comparisons: Sequence[Comparison]) -> list[Opinion]:
        """σ(r_a − r_b) for every comparison. Raises RewardError where a reward gives no number."""
        a = [self._rollout(c.prompt, c.a, c.ended[0]) for c in comparisons]
        b = [self._rollout(c.prompt, c.b, c.ended[1]) for c in comparisons]
        if not comparisons:
            return []
        rollouts = a + b
        want = dict.fromkeys(self.rewards.roles, "reward")
        known = score(self.base, [(r.prompt_ids, r.completion_ids) for r in rollouts], want) if want else {}
        earned = self.rewards.earn(rollouts, [{} for _ in rollouts], known).total.double().cpu()
        earned = earned - self.missing_end * torch.tensor([not r.ended for r in rollouts]).double()
        r_a, r_b = earned.chunk(2)
        return [Opinion(p, f"{x:+.2f} against {y:+.2f}") for p, x, y in
                zip(torch.sigmoid(r_a - r_b).tolist(), r_a.tolist(), r_b.tolist(), strict=True)]  # fmt: skip

    def _rollout(self, prompt: Prompt, completion: Completion, ended: bool) -> Rollout:
        """The tokens a sampler would have drawn; without the end tokens where it came to no end of its own."""
        ids, answer = self.base.chat.split(prompt, completion)
        end = self.base.chat.split(prompt, "")[1]
        kept = answer if ended else answer[: len(answer) - len(end)]
        return Rollout("", prompt, completion_text(completion), tuple(ids), tuple(kept), ended)
