"""What the people of a label store said: as marks for the figures of agreement and bias, and as a room sees itself.

agreement   Krippendorff's α of sides and of strengths, raw agreement; who agrees with whom
disputes    the pairs on which votes are most divided:  1 − Σ_c n_c (n_c − 1) / (n (n − 1))  over the choices c
bias        how often what stood first, and what is longer, is chosen; votes too quick to be read for; flipped
            repeats that get the same answer; pairs with a known answer that get it
models      how often each model's answer is the chosen one, where it met another model's
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

from lab.evaluate.agreement import Estimate, Mark, krippendorff, raw_agreement, share
from lab.evaluate.record import Moment, Record, sides
from lab.feedback.labels.store import Store
from lab.feedback.labels.summary import QUICK_MS
from lab.feedback.labels.words import By, Event, Item

LIVE_DRAWS = 200
"""Bootstrap samples of an interval that is drawn again and again while people vote."""

MOST_DISPUTES, MOST_PEOPLE = 12, 24


def marks(store: Store, *, made_by: Sequence[By] = ("person",), gold: bool = False) -> list[Mark]:
    """Every vote that stands, as a strength in content order; both bad is 0. Withdrawn pairs are left out.

    made_by : whose votes
    gold    : take the pairs with a known answer too

    Repeats are among them: figures of agreement take an annotator's first mark of an item, `self_consistency` both.
    """
    moment = Record(store).moment()
    return moment.marks(moment.votes(made_by=made_by, gold=gold, repeats=True))


def lengths(store: Store) -> dict[str, tuple[float, float]]:
    """Item -> words of a and of b."""
    return Record(store).moment().words


class Agreement(NamedTuple):
    """How far people agree: α of sides, α of strengths, raw agreement of sides."""

    alpha: Estimate
    strengths: Estimate
    raw: Estimate


def agreement(said: Sequence[Mark], *, draws: int = LIVE_DRAWS) -> Agreement:
    """The figures of some marks, each pair in both orders."""
    by_side = sides(said)
    return Agreement(krippendorff(by_side, symmetric=True, draws=draws),
                     krippendorff(said, "ordinal", symmetric=True, draws=draws),
                     raw_agreement(by_side, draws=draws))  # fmt: skip


class Bias(NamedTuple):
    """What is looked at besides the answers' worth, with how many votes were quick, and of how many people."""

    first: Estimate
    longer: Estimate
    consistent: Estimate
    right: Estimate
    quick: Estimate
    quick_votes: int
    quick_people: int


def bias(moment: Moment, among: Collection[str] | None = None) -> Bias:
    """The figures of the votes that stand, on these items (None: all); pairs with a known answer come on top."""
    from lab.evaluate.bias import length_share, position_share, self_consistency

    votes = moment.votes(repeats=True, among=among)
    once = [v for v in votes if not v.repeat]
    told = moment.marks(once)
    gold = [v for v in moment.votes(gold=True) if moment.items[v.item].item.gold]
    timed = [v for v in once if v.ms is not None]
    quick = [v for v in timed if v.ms is not None and v.ms < QUICK_MS]
    right = share([v.choice == moment.items[v.item].item.answer for v in gold],
                  [moment.items[v.item].prompt for v in gold])  # fmt: skip
    fast = share([v in quick for v in timed], [moment.items[v.item].prompt for v in timed])
    return Bias(position_share(told), length_share(told, moment.words), self_consistency(moment.marks(votes)),
                right if gold else Estimate(None, why="no pair with a known answer was judged"),
                fast if timed else Estimate(None, why="no vote was timed"), len(quick),
                len({v.annotator for v in quick}))  # fmt: skip


class Dispute(NamedTuple):
    """A pair on which votes are divided, in content order. `split`: the share of pairs of votes that differ."""

    item: str
    a: int
    b: int
    tie: int
    both_bad: int
    split: float


def disputed(votes: Sequence[Event], most: int = MOST_DISPUTES) -> list[Dispute]:
    """The pairs whose votes are most divided, the most divided first, more votes before fewer."""
    by: dict[str, Counter[str]] = defaultdict(Counter)
    for v in votes:
        by[v.item][v.choice or ""] += 1
    found = []
    for item, n in by.items():
        total = n.total()
        if total > 1:
            same = sum(k * (k - 1) for k in n.values()) / (total * (total - 1))
            found.append(Dispute(item, n["a"], n["b"], n["tie"], n["both_bad"], 1 - same))
    found = [d for d in found if d.split > 0]
    return sorted(found, key=lambda d: (-d.split, -(d.a + d.b + d.tie + d.both_bad), d.item))[:most]


class Heat(NamedTuple):
    """Who agrees with whom: `share[i][j]` of the `n[i][j]` items both judged; None where there is none."""

    names: list[str]
    share: list[list[float | None]]
    n: list[list[int]]


def heat(said: Sequence[Mark], most: int = MOST_PEOPLE) -> Heat:
    """The agreement of everybody with everybody; of more than `most` people, those with the most marks."""
    by: dict[str, dict[str, int]] = defaultdict(dict)
    for m in sides(said):
        by[m.annotator].setdefault(m.item, m.strength)
    names = sorted(sorted(by, key=lambda name: (-len(by[name]), name))[:most])
    rate: list[list[float | None]] = [[None] * len(names) for _ in names]
    n = [[0] * len(names) for _ in names]
    for (i, one), (j, other) in combinations(enumerate(names), 2):
        both = by[one].keys() & by[other].keys()
        n[i][j] = n[j][i] = len(both)
        if both:
            rate[i][j] = rate[j][i] = sum(by[one][k] == by[other][k] for k in both) / len(both)
    return Heat(names, rate, n)


def models(item: Item) -> tuple[str, str] | None:
    """Who said a and who said b, where the item's source knows; None where it does not."""
    a, b = item.source.get("a"), item.source.get("b")
    return (a, b) if isinstance(a, str) and isinstance(b, str) and a and b else None


class Model(NamedTuple):
    """How often a model's answer was chosen where it met another model's; ties count half."""

    name: str
    chosen: Estimate


def chosen(moment: Moment, votes: Sequence[Event]) -> list[Model]:
    """Every model that met another one, the most chosen first; both bad is half for each, as a tie is."""
    hits: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for v in votes:
        who = models(moment.items[v.item].item)
        if who is not None and who[0] != who[1] and v.p is not None:
            for name, p in zip(who, (v.p, 1 - v.p), strict=True):
                hits[name].append(((p > 0.5) + 0.5 * (p == 0.5), moment.items[v.item].prompt))
    found = [Model(name, share([x for x, _ in h], [q for _, q in h])) for name, h in hits.items()]
    return sorted(found, key=lambda m: -(m.chosen.mean or 0.0))


def typical_ms(votes: Sequence[Event]) -> float | None:
    """The median time of the votes that were timed, milliseconds."""
    times = [v.ms for v in votes if v.ms is not None]
    return median(times) if times else None


def majority(votes: Sequence[Event], without: Collection[str] = ()) -> dict[str, float]:
    """Item -> the share of side a among its votes that name a side or a tie, some annotators left out."""
    by: dict[str, list[float]] = defaultdict(list)
    for v in votes:
        if v.choice != "both_bad" and v.p is not None and v.annotator not in without:
            by[v.item].append(v.p)
    return {item: sum(p) / len(p) for item, p in by.items()}
