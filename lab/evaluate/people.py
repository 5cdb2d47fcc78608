"""Judges against people, and how well anybody could do: the noise ceiling.

A judge that knows everything is still wrong about labels that contradict themselves. If the better answer is called so
with probability p and a slip turns a label round with probability e, a label says "a" with

    q = (1 − e) p + e (1 − p)          and nobody agrees with more than  C = mean max(q, 1 − q)  of the labels.

Where p is not known, two labels of the same item bound it. Two independent labels agree with A = mean (q² + (1 − q)²);
with d = |2q − 1| that is (1 + E d²) / 2, while C = (1 + E d) / 2, and so, because d² ≤ d and (E d)² ≤ E d²,

    A ≤ C ≤ ½ (1 + √(2A − 1)), and C ≥ ½

where the upper end holds if all items are equally hard, the lower one if some are certain and the rest are coin tosses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lab.evaluate.agreement import DRAWS, Estimate, Mark, bootstrap, cohen
from lab.feedback.judging import Judged
from lab.records import digest


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Between what shares of the labels the best possible judge agrees with, and the agreement of two labels."""

    low: Estimate
    high: Estimate
    agreement: Estimate


def noise_ceiling(
    p: Sequence[float], flip: float = 0.0, prompts: Sequence[Hashable] | None = None, *, draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:  # fmt: skip
    """mean max(q, 1 − q), from known preferences p and a share of flipped labels.

    prompts : what each p belongs to; None: each to its own

    Raises ValueError for a p or flip outside [0, 1].
    """
    x = np.asarray(p, dtype=np.float64)
    if not len(x):
        return Estimate(None, why="there is no preference")
    if not (0 <= flip <= 1 and bool((x >= 0).all()) and bool((x <= 1).all())):
        raise ValueError("A preference and the share of flips are probabilities in [0, 1].")
    q = (1 - flip) * x + flip * (1 - x)
    best = np.maximum(q, 1 - q)
    return bootstrap(lambda at: best[at].mean(), range(len(x)) if prompts is None else prompts, draws=draws, seed=seed)


def ceiling_of_repeats(agreement: Estimate) -> Ceiling:
    """The bounds that the agreement of two labels of the same items puts on the ceiling.

    agreement : `raw_agreement` of people, on labels without ties
    """
    low = _mapped(agreement, lambda x: max(0.5, x))
    return Ceiling(low, _mapped(agreement, lambda x: (1 + math.sqrt(max(0.0, 2 * x - 1))) / 2), agreement)


def _mapped(a: Estimate, of: Callable[[float], float]) -> Estimate:
    """The estimate of a growing function of what was estimated, its interval with it."""
    mean, low, high = (None if x is None else of(x) for x in (a.mean, a.low, a.high))
    return Estimate(mean, low, high, a.n, a.prompts, a.why)


@dataclass(frozen=True, slots=True)
class Standing:
    """A judge beside people.

    agreement  : share of the people's choices it makes too; its tie is half right
    kappa      : Cohen's κ with the people's choices, its ties and theirs being a value of their own, in both orders
    gap        : agreement less that of the judge it is compared with, on the same choices
    unanswered : comparisons it gave no verdict on; they are in none of the figures
    """

    judge: str
    agreement: Estimate
    kappa: Estimate
    gap: Estimate | None
    unanswered: int


def against(
    judged: Sequence[Judged], people: Sequence[float | None], name: str = "", *, draws: int = DRAWS, seed: int = 0
) -> Standing:
    """How far a judge agrees with people.

    people : for each comparison, in order, the share of people who prefer its a; ½ is a tie, None: nobody said

    Raises ValueError for another number of labels than of comparisons.
    """
    told = [(j, theirs) for j, theirs in zip(judged, people, strict=True)
            if j.verdict.p is not None and theirs is not None]  # fmt: skip
    prompts = [digest(j.comparison.prompt) for j, _ in told]
    right = [_right(j.verdict.p, theirs) for j, theirs in told]
    agreement = _mean(right, prompts, "no comparison has both a verdict and a choice of people", draws, seed)
    marks = []
    for i, (j, theirs) in enumerate(told):
        marks += [Mark(str(i), prompts[i], "judge", _sign(j.verdict.p)), Mark(str(i), prompts[i], "people",
                                                                              _sign(theirs))]  # fmt: skip
    kappa = cohen(marks, "judge", "people", symmetric=True, draws=draws, seed=seed)
    who = name or (judged[0].verdict.annotator if judged else "")
    return Standing(who, agreement, kappa, None, sum(j.verdict.p is None for j in judged))


def compare_judges(
    judges: Mapping[str, Sequence[Judged]], people: Sequence[float | None], *, draws: int = DRAWS, seed: int = 0
) -> tuple[Standing, ...]:
    """Every judge beside people; `gap` is each one's agreement less the first one's, on what both answered.

    All must have judged the same comparisons in the same order. Raises ValueError where they did not.
    """
    out: list[Standing] = []
    first = next(iter(judges), "")
    for name, one in judges.items():
        base = judges[first]
        if [j.comparison for j in one] != [j.comparison for j in base]:
            raise ValueError(f"{name} and {first} judged different comparisons; give both the same list.")
        stands, gap = against(one, people, name, draws=draws, seed=seed), None
        if name != first:
            pairs = [(_right(x.verdict.p, theirs), _right(y.verdict.p, theirs))
                     for x, y, theirs in zip(one, base, people, strict=True)]  # fmt: skip
            gaps = [None if x is None or y is None else x - y for x, y in pairs]
            gap = _mean(gaps, [digest(j.comparison.prompt) for j in one], "the two answered nothing in common", draws,
                        seed)  # fmt: skip
        out.append(Standing(name, stands.agreement, stands.kappa, gap, stands.unanswered))
    return tuple(out)


def _mean(values: Sequence[float | None], prompts: Sequence[str], why: str, draws: int, seed: int) -> Estimate:
    """The mean of what is known, by prompts; an estimate that says why where nothing is."""
    known = [(v, p) for v, p in zip(values, prompts, strict=True) if v is not None]
    if not known:
        return Estimate(None, why=why)
    x = np.array([v for v, _ in known])
    return bootstrap(lambda at: x[at].mean(), [p for _, p in known], draws=draws, seed=seed)


def as_json(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """The table as JSON-able values."""
    return [asdict(s) for s in standings]


def _right(p: float | None, theirs: float | None) -> float | None:
    """1, ½ or 0: whether the verdict is the people's choice; None without a verdict or without a choice."""
    if p is None or theirs is None or theirs == 0.5:
        return None
    return 0.5 if p == 0.5 else float((p > 0.5) == (theirs > 0.5))


def _sign(p: float | None) -> int:
    return 0 if p is None or p == 0.5 else 1 if p > 0.5 else -1
