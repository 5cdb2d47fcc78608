"""Pairs of completions sampled for learning, with what they earn or what somebody says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lab.feedback.rewards import Earned
from lab.records import Comparison, Rollout, Verdict


@dataclass(frozen=True)
class Duels:
    """One step's experience: P pairs, and in `rollouts` B = 2 P completions, those of pair i at 2 i and 2 i + 1.

    earned           : the rewards of all completions, or None where nothing rewards them
    scores (P, 2)    : rewards, less what a missing end costs
    preference (P,)  : the probability that the first completion is the better one
    tied, counted (P,) : pairs of which neither is better; pairs that take part in the loss
    same (P,)        : pairs of the same words
    mine (B,)        : completions sampled from the policy; in every pair the first
    sampled, reference, mask (B, T) : log-probabilities of the sampler and of the reference, nats; tokens that count
    """

    rollouts: list[Rollout]
    earned: Earned | None
    scores: Tensor
    preference: Tensor
    tied: Tensor
    counted: Tensor
    same: Tensor
    mine: Tensor
    sampled: Tensor
    reference: Tensor
    mask: Tensor


def judged(gap: Tensor, judge: str) -> Tensor:
    """(P,) the probability that the first completion is the better one, from what it earns more than the second.

    Where the run asks, it is ½ until there is an answer.
    """
    if judge == "asked":
        return torch.full_like(gap, 0.5)
    return torch.sigmoid(gap) if judge == "probability" else (torch.sign(gap) + 1) / 2


def whole(truncated: str, rollouts: Sequence[Rollout]) -> Tensor:
    """(P,) whether a pair takes part although one of its completions may not have ended."""
    return torch.tensor([r.ended for r in rollouts]).view(-1, 2).all(1) | (truncated == "keep")


def comparisons(duels: Duels) -> tuple[Comparison, ...]:
    """The pairs somebody is asked about: all but those of the same words."""
    both = zip(duels.rollouts[::2], duels.rollouts[1::2], duels.same.tolist(), strict=True)
    return tuple(
        Comparison(a.prompt, a.completion, b.completion, (a.ended, b.ended)) for a, b, same in both if not same
    )


def ruled(duels: Duels, verdicts: Sequence[Verdict], ties: str, truncated: str) -> Duels:
    """The pairs with what was answered; one left open takes no part, and the same words are a tie."""
    p = torch.full_like(duels.preference, 0.5)
    open_ = torch.zeros_like(duels.same)
    for i, v in zip(torch.nonzero(~duels.same)[:, 0].tolist(), verdicts, strict=True):
        p[i], open_[i] = (0.5, True) if v.p is None else (v.p, False)
    tied = (p == 0.5) & ~open_
    counted = (~tied | (ties == "half")) & ~open_ & whole(truncated, duels.rollouts).to(p.device)
    return replace(duels, preference=p, tied=tied, counted=counted)
