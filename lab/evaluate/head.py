"""A reward model in seconds: a linear Bradley-Terry head on features that a base has made of the answers.

    r(x, y) = w · f(x, y) / s                  s² = mean |f(x, a) − f(x, b)|² over the choices it learns from
    P(a ≻ b) = σ(r(x, a) − r(x, b))
    w = argmax Σ_i n_i [p_i log σ(d_i) + (1 − p_i) log σ(−d_i)] − λ/2 |w|²    d_i = w · (f(x_i, a_i) − f(x_i, b_i)) / s

p_i is the share of the n_i votes that prefer a, ties half. There is no intercept: a and b are only names. λ = 1 is the
prior that rewards of two answers differ by about one nat (d ~ N(0, 1/λ), because differences have mean square 1 after
division by s); in the tiny world no λ from 0.1 to 3 is better by more than 3 points for 20 to 300 votes.

Source: Bradley & Terry 1952; the frozen features with a linear head as in Stiennon et al. 2020 at its smallest.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lab.evaluate.agreement import Estimate, bootstrap, share

PRIOR = 1.0
"""λ, per squared weight."""

FOLDS = 10
LEAST = 10
"""Choices that a head can be fitted to."""


class HeadError(ValueError):
    """A head that cannot be fitted, with the cause and what to do."""


class Choices(NamedTuple):
    """What to learn from: n pairs of answers.

    difference : (n, F) features of a less those of b
    p          : (n,) the share that prefers a, in [0, 1]; ½ is a tie
    weight     : (n,) votes
    prompts    : (n,) what each pair belongs to
    """

    difference: np.ndarray
    p: np.ndarray
    weight: np.ndarray
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Head:
    """Weights (F,) on the features as they are, so that rewards of two answers differ by d; nats of log-odds."""

    weights: np.ndarray
    n: int

    def score(self, features: np.ndarray) -> np.ndarray:
        """(…, F) -> (…,) rewards, in nats, up to a constant."""
        return features @ self.weights


def fit(choices: Choices, prior: float = PRIOR) -> Head:
    """The head of some choices. Raises HeadError where there are no two answers that differ."""
    from scipy.optimize import minimize
    from scipy.special import expit

    x = np.asarray(choices.difference, dtype=np.float64)
    scale = float(np.sqrt((x**2).sum(1).mean())) if len(x) else 0.0
    if scale == 0:
        raise HeadError("There are no two answers that differ to the base; label some pairs first.")
    x, p, n = x / scale, choices.p, choices.weight

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        d = x @ w
        value = (n * (p * np.logaddexp(0, -d) + (1 - p) * np.logaddexp(0, d))).sum() + prior / 2 * w @ w
        return float(value), x.T @ (n * (expit(d) - p)) + prior * w

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"ftol": 1e-10, "gtol": 1e-7})
    return Head(found.x / scale, len(x))


def unseen(choices: Choices, folds: int = FOLDS, seed: int = 0, prior: float = PRIOR) -> np.ndarray:
    """(n,) differences of reward, each by a head that has seen no pair of the same prompt; NaN where there is none."""
    prompts, of = np.unique(choices.prompts, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(prompts))[of] % min(folds, max(1, len(prompts)))
    out = np.full(len(of), np.nan)
    for k in range(int(fold.max()) + 1 if len(fold) else 0):
        inside, held = fold != k, fold == k
        if not inside.any():
            continue
        part = Choices(choices.difference[inside], choices.p[inside], choices.weight[inside],
                       tuple(np.asarray(choices.prompts)[inside]))  # fmt: skip
        try:
            out[held] = fit(part, prior).score(choices.difference[held])
        except HeadError:
            continue
    return out


def agrees(rewards: Sequence[float], votes: Sequence[float], prompts: Sequence[Hashable]) -> Estimate:
    """Share of the votes that a head's differences of reward point to, with an interval that knows the prompts.

    rewards : r(a) − r(b), NaN where there is none; votes : shares that prefer a. Ties are left out.
    """
    told = [(d > 0) == (p > 0.5) if d != 0 else 0.5 for d, p in zip(rewards, votes, strict=True)
            if p != 0.5 and d == d]  # fmt: skip
    of = [q for d, p, q in zip(rewards, votes, prompts, strict=True) if p != 0.5 and d == d]
    found = share(told, of)
    return found if found.mean is not None else Estimate(None, why="there is no choice it could be held against")


@dataclass(frozen=True, slots=True)
class Policy:
    """What a head says of a policy's answers to the probe prompts.

    reward : mean, in nats above the mean of all answers; its interval draws whole prompts
    gold   : mean true score of the same answers, where the world knows it
    """

    name: str
    reward: Estimate
    gold: Estimate | None


def policies(
    head: Head,
    answers: Mapping[str, Mapping[str, np.ndarray]],
    gold: Mapping[str, Mapping[str, float]],
    *,
    draws: int = 500,
) -> tuple[Policy, ...]:
    """The policies by a head's mean reward on the prompts that all have answered, the best first.

    answers : policy -> prompt -> (F,) features of its answer
    gold    : policy -> prompt -> the true score, for those that have one
    """
    common = sorted(set.intersection(*(set(a) for a in answers.values()))) if answers else []
    if not common:
        return ()
    scored = {name: head.score(np.stack([a[q] for q in common])) for name, a in answers.items()}
    middle = float(np.mean([s.mean() for s in scored.values()]))
    out = []
    for name, values in scored.items():
        true = gold.get(name, {})
        known = np.array([true[q] for q in common]) if all(q in true for q in common) else None
        out.append(Policy(name, _mean(values - middle, common, draws), None if known is None else
                          _mean(known, common, draws)))  # fmt: skip
    return tuple(sorted(out, key=lambda p: -(p.reward.mean or 0.0)))


def lead(head: Head, best: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], *, draws: int = 500) -> Estimate:
    """Mean of r(best) − r(other) over the prompts both have answered: paired, so that hard prompts take nothing."""
    common = sorted(set(best) & set(other))
    if not common:
        return Estimate(None, why="the two answered no prompt in common")
    gap = head.score(np.stack([best[q] for q in common])) - head.score(np.stack([other[q] for q in common]))
    return _mean(gap, common, draws)


def _mean(values: np.ndarray, prompts: Sequence[str], draws: int) -> Estimate:
    return bootstrap(lambda at: values[at].mean(), prompts, draws=draws)
