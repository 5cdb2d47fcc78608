"""Preference pairs out of samples and what they earn: data for the methods that learn from pairs.

    y_1 … y_n ~ π(· | x), with rewards r_1 … r_n

    rso        `keep` of them by rejection sampling, which follow π exp(r / β) / Z, nearly; paired by chance
    extremes   the best and the worst: one pair
    chance     all of them, paired as they were sampled

The higher reward of a pair is the chosen one; with labels of `probability` the pair also says how surely, σ(r − r'), as
Bradley and Terry have it. Two equal completions are no pair, two of equal reward have no verdict, and a completion that
did not end is in no pair, because whoever learns from its text would learn an end after it.

When to use: Where a reward exists and the method wants pairs: RSO is the first rule with `hinge` or `dpo` on top, pairs
from where the policy is to go. Pairs of extremes have the widest gaps, and the reward's mistakes are in them too.

Source: Liu et al. 2024, "Statistical Rejection Sampling Improves Preference Optimization" (rso, first-round ranking);
Xiong et al. 2024, "Iterative Preference Learning from Human Feedback" (extremes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lab.objectives.selection import rso_subset
from lab.records import Preference, Rollout

Rule = Literal["rso", "extremes", "chance"]
Labels = Literal["verdict", "probability"]


class PairingError(ValueError):
    """Samples that cannot be paired as asked, with the reason."""


class Paired(NamedTuple):
    """The pairs, each with its places (chosen, rejected) among the rollouts; and how many were left out, by reason."""

    preferences: tuple[Preference, ...]
    places: tuple[tuple[int, int], ...]
    equal: int = 0
    tied: int = 0
    unended: int = 0


def pairs(
    rollouts: Sequence[Rollout],
    rewards: Tensor,
    rule: Rule = "rso",
    *,
    keep: int = 8,
    beta: float = 0.5,
    labels: Labels = "verdict",
    annotator: str = "",
    seed: int = 0,
) -> Paired:
    """Pairs of samples of the same prompt.

    rollouts : n samples of each of P prompts, prompt by prompt
    rewards  : (P, n)
    keep     : completions of a prompt that `rso` pairs, an even number up to n
    beta     : β > 0 of `rso`, reward per nat

    Raises PairingError for another number of rollouts, fewer than two samples, an odd or too large `keep`, β ≤ 0, an
    unknown rule or a reward that is not finite.
    """
    P, n = rewards.shape
    if len(rollouts) != P * n or n < 2:
        raise PairingError(f"There are {len(rollouts)} completions for {P} prompts with {n} each; a pair needs "
                           "two of a prompt.")  # fmt: skip
    if not bool(rewards.isfinite().all()):
        raise PairingError("A reward is not finite; without one a completion cannot be compared.")
    choose = _rule(rule, n, keep, beta, np.random.default_rng([seed, 11]))
    out, places, equal, tied, unended = [], [], 0, 0, 0
    for p, row in enumerate(rewards.cpu().double()):
        for i, j in choose(row):
            better, worse = (i, j) if row[i] >= row[j] else (j, i)
            a, b = rollouts[p * n + better], rollouts[p * n + worse]
            gap = float(row[better] - row[worse])
            if not (a.ended and b.ended):
                unended += 1
            elif a.completion == b.completion:
                equal += 1
            elif gap == 0 and labels == "verdict":
                tied += 1
            else:
                label = 1.0 if labels == "verdict" else 1 / (1 + math.exp(-gap))
                out.append(Preference(a.prompt, a.completion, b.completion, annotator=annotator, label=label))
                places.append((p * n + better, p * n + worse))
    return Paired(tuple(out), tuple(places), equal, tied, unended)


def _rule(
    rule: Rule, n: int, keep: int, beta: float, noise: np.random.Generator
) -> Callable[[Tensor], list[tuple[int, int]]]:
    """(n,) rewards of a prompt -> the places that make pairs."""
    if rule == "extremes":
        return lambda row: [(int(row.argmax()), int(row.argmin()))]
    if rule == "chance":
        return lambda row: [(i, i + 1) for i in range(0, n - 1, 2)]
    if rule != "rso":
        raise PairingError(f"There is no rule {rule!r}; choose one of rso, extremes, chance.")
    if keep % 2 or not 2 <= keep <= n:
        raise PairingError(f"keep is {keep}; rso pairs an even number of completions, from 2 to the {n} there are.")
    if not beta > 0:
        raise PairingError(f"beta is {beta:g}; it must be above 0.")

    def rso(row: Tensor) -> list[tuple[int, int]]:
        taken = rso_subset(row, keep, beta, lambda m: torch.from_numpy(noise.random(m))).tolist()
        mixed = [taken[i] for i in noise.permutation(keep)]
        return list(zip(mixed[::2], mixed[1::2], strict=True))

    return rso
