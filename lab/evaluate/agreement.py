"""How far those who judge agree: raw, and beyond what chance would give, with intervals that know the prompts.

    raw agreement        A = agreeing pairs of marks / pairs of marks of the same item
    Cohen's κ            (A − A_chance) / (1 − A_chance) of two annotators, unweighted, linear or quadratic
    Fleiss' κ            the same for a fixed number of annotators an item
    Krippendorff's α     1 − D_observed / D_chance, any number of annotators, marks may be missing; nominal or ordinal

An interval is the 95 % percentile bootstrap that draws whole prompts: marks about one prompt are not independent. What
cannot be computed (one annotator, one value, nothing judged twice) is an `Estimate` without a number that says why.

Which of two answers is called a is often arbitrary, or always the chosen one. With `symmetric`, every item counts in
both orders, so that no name is more common than the other: chance then agrees on half of all choices, and what is
left does not depend on who was called a.

Source: Cohen 1960 and 1968; Fleiss 1971; Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Value = Literal["a", "b", "tie"] | int
Weights = Literal["none", "linear", "quadratic"]
Level = Literal["nominal", "ordinal"]

DRAWS = 1000
"""Bootstrap samples of an interval."""

LEAST_DRAWS = 0.5
"""Share of the bootstrap samples in which a figure must exist for it to have an interval."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What one annotator said of one item, a pair of answers to a prompt.

    value : a, b or tie; or a strength from −2 (b is much better) to 2 (a is much better)
    first : which of the two stood first when it was judged; empty: neither, or nobody knows
    ms    : how long it took, milliseconds; None: nobody knows
    """

    item: str
    prompt: str
    annotator: str
    value: Value
    first: Literal["a", "b", ""] = "a"
    ms: float | None = None

    def __post_init__(self) -> None:
        if self.value not in ("a", "b", "tie", -2, -1, 0, 1, 2):
            raise ValueError(f"{self.value!r} is no mark; give a, b, tie, or a strength from -2 to 2.")

    @property
    def strength(self) -> int:
        """The value as a number: above 0 where a is the better one."""
        return {"a": 1, "tie": 0, "b": -1}[self.value] if isinstance(self.value, str) else self.value


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval.

    mean      : the figure; None where it cannot be computed
    low, high : the interval; None where there is none
    n         : what it was taken from (marks, pairs of marks or items)
    prompts   : how many prompts those belong to
    why       : why there is no figure, or no interval
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    prompts: int = 0
    why: str = ""

    def __str__(self) -> str:
        if self.mean is None:
            return self.why
        return f"{self.mean:.3f}" + (f" [{self.low:.3f}, {self.high:.3f}]" if self.low is not None else "")


# --- the figures -----------------------------------------------------------------------------------------------------


def raw_agreement(marks: Iterable[Mark], *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Share of the pairs of marks of the same item, by different annotators, that say the same."""
    agree, prompts = [], []
    for item in _items(marks).values():
        pairs = [x.strength == y.strength for x, y in itertools.combinations(item, 2)]
        if pairs:
            agree.append((sum(pairs), len(pairs)))
            prompts.append(item[0].prompt)
    if not agree:
        return Estimate(None, why="no item was judged by two annotators")
    table = np.array(agree, dtype=np.float64)
    return bootstrap(lambda at: table[at, 0].sum() / table[at, 1].sum(), prompts, n=int(table[:, 1].sum()),
                     draws=draws, seed=seed)  # fmt: skip


def krippendorff(
    marks: Iterable[Mark], level: Level = "nominal", *, symmetric: bool = False, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Krippendorff's α; ordinal takes the values as −2 < … < 2. 1: perfect, 0: as chance would have it."""
    from krippendorff import alpha

    items = [item for item in _items(marks).values() if len(item) > 1]
    counts, values = _counts(items, symmetric)
    if not items:
        return Estimate(None, why="no item was judged by two annotators")
    if len(values) < 2:
        return Estimate(None, n=len(items), why=f"every mark is {values[0]}: nothing to agree on")

    def one(at: np.ndarray) -> float:
        seen = counts[at].reshape(-1, len(values))
        if (seen.sum(0) > 0).sum() < 2:
            return math.nan
        return float(alpha(value_counts=seen, value_domain=values, level_of_measurement=level))

    return bootstrap(one, [item[0].prompt for item in items], n=len(items), draws=draws, seed=seed)


def fleiss(marks: Iterable[Mark], *, symmetric: bool = False, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Fleiss' κ over items that all have the same number of marks."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    items = list(_items(marks).values())
    sizes = sorted({len(item) for item in items})
    if not sizes or sizes[-1] < 2:
        return Estimate(None, why="no item was judged by two annotators")
    if len(sizes) > 1:
        return Estimate(None, n=len(items), why=f"Fleiss' κ wants the same number of marks for every item, here there "
                        f"are {sizes[0]} to {sizes[-1]}; Krippendorff's α does not")  # fmt: skip
    counts, values = _counts(items, symmetric)
    if len(values) < 2:
        return Estimate(None, n=len(items), why=f"every mark is {values[0]}: nothing to agree on")
    return bootstrap(lambda at: _quiet(lambda: fleiss_kappa(counts[at].reshape(-1, len(values)))),
                     [item[0].prompt for item in items], n=len(items), draws=draws, seed=seed)  # fmt: skip


def cohen(
    marks: Iterable[Mark],
    one: str,
    other: str,
    weights: Weights = "none",
    *,
    symmetric: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Cohen's κ of two annotators over the items that both judged.

    weights : none; or linear or quadratic in the distance of two strengths
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    both = []
    for item in _items(marks).values():
        said = {m.annotator: m for m in item}
        if one in said and other in said:
            both.append((said[one], said[other]))
    if not both:
        return Estimate(None, why=f"{one} and {other} judged no item in common")
    sides = (1, -1) if symmetric else (1,)
    values = sorted({s * m.strength for pair in both for m in pair for s in sides})
    if len(values) < 2:
        return Estimate(None, n=len(both), why=f"every mark is {values[0]}: nothing to agree on")
    tables = np.zeros((len(both), len(values), len(values)))
    for i, (x, y) in enumerate(both):
        for s in sides:
            tables[i, values.index(s * x.strength), values.index(s * y.strength)] += 1 / len(sides)
    how = {} if weights == "none" else {"wt": weights, "weights": np.array(values, dtype=np.float64)}
    return bootstrap(lambda at: _quiet(lambda: cohens_kappa(tables[at].sum(0), return_results=False, **how)),
                     [x.prompt for x, _ in both], n=len(both), draws=draws, seed=seed)  # fmt: skip


# --- intervals -------------------------------------------------------------------------------------------------------


def bootstrap(
    figure: Callable[[np.ndarray], float],
    prompts: Sequence[Hashable],
    *,
    n: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """A figure of units, and its 95 % percentile interval when whole prompts are drawn with replacement.

    figure  : (K,) unit numbers, some of them several times -> the figure, NaN where they give none
    prompts : what each unit belongs to

    Source: Efron & Tibshirani 1993; by clusters, Davison & Hinkley 1997, section 3.8.
    """
    labels, of = np.unique([str(p) for p in prompts], return_inverse=True)
    P, size = len(labels), len(prompts) if n is None else n
    mean = float(figure(np.arange(len(prompts))))
    if math.isnan(mean):
        return Estimate(None, n=size, prompts=P, why="the marks leave nothing to compare with chance")
    if P < 2:
        return Estimate(mean, n=size, prompts=P, why="one prompt alone gives no interval")
    units = [np.flatnonzero(of == p) for p in range(P)]
    rng = np.random.default_rng([seed, 13])
    drawn = np.array([figure(np.concatenate([units[p] for p in rng.integers(P, size=P)])) for _ in range(draws)])
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) < LEAST_DRAWS * draws or not len(drawn):
        return Estimate(mean, n=size, prompts=P, why="too few prompts differ for an interval")
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(mean, float(low), float(high), size, P)


def share(hits: Sequence[bool | float], prompts: Sequence[Hashable]) -> Estimate:
    """A share with Wilson's 95 % interval; of fewer effective units where those of a prompt go together.

    n is divided by the design effect Σ_g (Σ_{i ∈ g} (x_i − mean))² / (n mean (1 − mean)) where that is above 1. A share
    of 0 or 1 shows no variance: each prompt then counts as one unit.

    Source: Wilson 1927; Korn & Graubard 1998 for the effective number.
    """
    from statsmodels.stats.proportion import proportion_confint

    x = np.asarray(hits, dtype=np.float64)
    if not len(x):
        return Estimate(None, why="nothing to take the share of")
    _, of = np.unique([str(p) for p in prompts], return_inverse=True)
    n, P, mean = len(x), int(of.max()) + 1, float(x.mean())
    together, alone = float((np.bincount(of, x - mean) ** 2).sum()), n * mean * (1 - mean)
    units = n / max(1.0, together / alone) if alone > 0 and P > 1 else float(P)
    low, high = np.clip(np.array(proportion_confint(mean * units, units, alpha=0.05, method="wilson")), 0.0, 1.0)
    return Estimate(mean, float(low), float(high), n, P)


# --- inside ----------------------------------------------------------------------------------------------------------


def _items(marks: Iterable[Mark]) -> dict[str, list[Mark]]:
    """Item -> its marks, the first of each annotator: a repeat says nothing about agreement with others."""
    out: dict[str, dict[str, Mark]] = {}
    for m in marks:
        out.setdefault(m.item, {}).setdefault(m.annotator, m)
    return {item: list(by.values()) for item, by in out.items()}


def _counts(items: Sequence[Sequence[Mark]], symmetric: bool) -> tuple[np.ndarray, list[int]]:
    """((I, S, C) how many marks of each item have each value, in S orders, the values in order)."""
    sides = (1, -1) if symmetric else (1,)
    values = sorted({s * m.strength for item in items for m in item for s in sides})
    counts = np.zeros((len(items), len(sides), len(values)), dtype=np.int64)
    for i, item in enumerate(items):
        for k, s in enumerate(sides):
            for strength, times in Counter(s * m.strength for m in item).items():
                counts[i, k, values.index(strength)] = times
    return counts, values


def _quiet(figure: Callable[[], Any]) -> float:
    """A figure that is NaN, without a warning, where chance agrees on everything."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        value = float(figure())
    return value if math.isfinite(value) else math.nan
