"""A unit test for a constitution: does it judge as people did, and what changes from one version to the next?

Stored judgements of people (preferences) are shown to the judge of every principle in both orders, and each version's
verdict is that of all its principles by weight. A judgement counts 1 where the verdict is the people's, ½ where it is a
tie, 0 where it is the other one.

    agreement  = Σ_i w_i a_i / Σ_i w_i, w_i the judgement's weight
    interval   = the 2.5th to the 97.5th percentile over draws of whole prompts with replacement

Prompts are drawn and not judgements, because judgements of one prompt resemble each other. The gap between two versions
is measured on the same draws.

Source: Efron and Tibshirani 1993, chapter 8 (the bootstrap of clusters).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lab.columns import DataError
from lab.feedback.constitution.labels import Habit, JudgeOf, Labelled, label, report, side
from lab.feedback.constitution.principles import Constitution
from lab.records import Comparison, Preference, completion_text, digest, prompt_text

DRAWS = 2000
"""Draws of the bootstrap."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval over prompts."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Version:
    """How one constitution judged.

    ties     : share of the judgements on which it takes no side
    unjudged : judgements on which its judges gave no answer; they count as ties
    habits   : how each of its principles worked
    unstable : share of the judgements of which the two orders name different answers, of those where each names one;
               None where there are none
    """

    name: str
    version: str
    digest: str
    agreement: Interval
    ties: float
    unjudged: int
    habits: tuple[Habit, ...]
    unstable: float | None = None


@dataclass(frozen=True, slots=True)
class Flip:
    """A judgement on which two versions do not say the same. `before` and `after` are +1 where the verdict is the
    people's, −1 where it is the other one, 0 for a tie. `principles`: those that do not vote here as they did, or not
    with the same weight."""

    prompt: str
    chosen: str
    rejected: str
    before: int
    after: int
    principles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tested:
    """A constitution held against stored judgements, and against another version where there is one.

    gain : its agreement less the other's, on the same draws of prompts
    """

    judgements: int
    prompts: int
    version: Version
    against: Version | None = None
    gain: Interval | None = None
    flips: tuple[Flip, ...] = ()


def check(
    judged: Sequence[Preference],
    constitution: Constitution,
    judge_of: JudgeOf,
    against: Constitution | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Tested:
    """Holds a constitution, and another version, against people's judgements.

    A judgement whose label is below ½ prefers the rejected one; one of ½ is left out. Raises DataError where none is
    left.
    """
    used = [p for p in judged if p.label != 0.5 and p.weight > 0]
    if not used:
        raise DataError(f"None of the {len(judged)} judgements takes a side; give some that do.")
    shown = [_shown(p, seed) for p in used]
    weights = np.array([p.weight for p in used])
    groups = np.unique([digest(p.prompt) for p in used], return_inverse=True)[1]
    rng = np.random.default_rng([seed, 23])
    counts = rng.multinomial(groups.max() + 1, np.full(groups.max() + 1, 1 / (groups.max() + 1)), size=draws)
    share = counts[:, groups] * weights  # (draws, judgements): how much each counts in each draw
    mine, right, votes = _judge(shown, constitution, judge_of, share, weights)
    if against is None:
        return Tested(len(used), len(counts[0]), mine)
    other, before, voted = _judge(shown, against, judge_of, share, weights)
    gain = _interval((right - before) / 2, share, weights)
    flips = tuple(
        Flip(prompt_text(p.prompt), *_sides(p), int(before[i]), int(right[i]), _changed(voted[i], votes[i]))
        for i, p in enumerate(used)
        if right[i] != before[i]
    )
    return Tested(len(used), len(counts[0]), mine, other, gain, flips)


def _shown(p: Preference, seed: int) -> tuple[Comparison, float]:
    """A judgement as a comparison, the chosen one in either place by chance, and the people's probability of a."""
    first = int(digest([seed, p.prompt, p.chosen, p.rejected]), 16) % 2 == 0
    c = Comparison(p.prompt, p.chosen, p.rejected)
    return (c, p.label) if first else (c.swap(), 1 - p.label)


def _sides(p: Preference) -> tuple[str, str]:
    """(what people preferred, the other one)."""
    chosen, rejected = completion_text(p.chosen), completion_text(p.rejected)
    return (chosen, rejected) if p.label > 0.5 else (rejected, chosen)


def _changed(before: dict[str, float], after: dict[str, float]) -> tuple[str, ...]:
    """The principles whose vote is another one."""
    return tuple(id for id in before | after if before.get(id, 0.0) != after.get(id, 0.0))


def _judge(
    shown: Sequence[tuple[Comparison, float]],
    constitution: Constitution,
    judge_of: JudgeOf,
    share: np.ndarray,
    weights: np.ndarray,
) -> tuple[Version, np.ndarray, list[dict[str, float]]]:
    """How one version judged; (n,) +1 where it agreed with people, −1 where not, 0 for a tie; and for each judgement
    the vote of each principle: its weight, above 0 for a and below for b."""
    labelled: list[Labelled] = label([c for c, _ in shown], constitution, judge_of, draw=0)
    truth = [p for _, p in shown]
    right = np.array([side(x.p) * side(t) for x, t in zip(labelled, truth, strict=True)])
    habits = tuple(report(labelled, constitution, truth, weighted=True))
    unjudged = sum(x.p is None for x in labelled)
    weight = {p.id: p.weight for p in constitution.active}
    votes = [{v.principle: weight[v.principle] * side(v.p) for v in x.said} for x in labelled]
    agreement = _interval((right + 1) / 2, share, weights)
    version = Version(constitution.name, constitution.version, constitution.digest, agreement,
                      float((right == 0).mean()), unjudged, habits, _unstable(labelled, weight))  # fmt: skip
    return version, right, votes


def _unstable(labelled: Sequence[Labelled], weight: dict[str, float]) -> float | None:
    """The share of the verdicts that turn with the order in which the two answers are shown."""
    turned = []
    for x in labelled:
        known = [(weight[s.principle], s.ab, s.ba) for s in x.said if s.ab is not None and s.ba is not None]
        first = sum(w * (ab - 0.5) for w, ab, _ in known)
        second = sum(w * (0.5 - ba) for w, _, ba in known)
        if abs(first) > 1e-12 and abs(second) > 1e-12:
            turned.append((first > 0) != (second > 0))
    return float(np.mean(turned)) if turned else None


def _interval(values: np.ndarray, share: np.ndarray, weights: np.ndarray) -> Interval:
    """The weighted mean of (n,) values and its percentile interval over the draws, whose shares are (draws, n)."""
    drawn = (share * values).sum(1) / share.sum(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(float((weights * values).sum() / weights.sum()), float(low), float(high))


def as_json(tested: Tested) -> dict[str, Any]:
    """The test as JSON-able values."""
    out = asdict(tested)
    for version in ("version", "against"):
        if out[version]:
            found = tested.version if version == "version" else tested.against
            out[version]["habits"] = [h._asdict() for h in found.habits] if found else []
    return out
