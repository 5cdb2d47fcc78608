"""Rankings as pairs, and pairs in groups: what counts as one element of a batch of reward modelling.

A ranking is the pairs of its completions whose ranks differ. From there on everything is pairs; how many of them make
one element is the objective's choice:

    bradley_terry : each pair alone
    kwise         : all pairs of one prompt, so that no completion is learnt by heart from many elements
    plackett_luce : the pairs of one ranking, which must give a strict order; a preference is an order of two
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import permutations

from lab.columns import DataError, Rows, Skip
from lab.encode import TokenPair, TokenRow
from lab.records import Preference, Ranking

Group = tuple[TokenPair, ...]
"""The pairs of one element, at least one, all of one prompt."""


def comparisons(records: Sequence[Preference | Ranking]) -> Rows[Preference]:
    """Preferences as they are, rankings as the pairs of their completions; every pair knows the row it is from.

    A ranking of K completions without ties gives K (K − 1) / 2 pairs, in the order in which its completions stand.
    Equal ranks give none, and a ranking of equal ranks alone is left out.
    """
    pairs: list[Preference] = []
    skipped: list[Skip] = []
    for i, record in enumerate(records):
        row = record.row if record.row >= 0 else i
        if isinstance(record, Preference):
            pairs.append(replace(record, row=row))
        elif found := _pairs(record, row):
            pairs += found
        else:
            skipped.append(Skip("no completion is better than another", row, f"its ranks are {record.ranks}"))
    return Rows(tuple(pairs), tuple(skipped))


def _pairs(ranking: Ranking, row: int) -> list[Preference]:
    ranked = list(zip(ranking.ranks, ranking.completions, strict=True))
    return [
        Preference(ranking.prompt, better, worse, annotator=ranking.annotator, row=row)
        for (high, better), (low, worse) in permutations(ranked, 2)
        if high < low
    ]


def groups(pairs: Sequence[TokenPair], objective: str) -> Rows[Group]:
    """The pairs as elements of a batch, in the order in which they first appear.

    Raises DataError for a margin or a soft label where the objective, an order's likelihood, knows neither.
    """
    key = KEYS[objective]
    found: dict[Hashable, list[TokenPair]] = {}
    for at, pair in enumerate(pairs):
        found.setdefault(key(at, pair), []).append(pair)
    together = [tuple(group) for group in found.values()]
    if objective != "plackett_luce":
        return Rows(tuple(together))
    odd = next((p for p in pairs if p.margin or p.label != 1), None)
    if odd is not None:
        raise DataError(f"Row {odd.row} has the margin {odd.margin:g} and the label {odd.label:g}, but the likelihood "
                        "of an order knows neither: choose the objective bradley_terry or kwise.")  # fmt: skip
    strict = [group for group in together if in_order(group)]
    tied = [Skip("no strict order", group[0].row, "two of its completions are equally good; the objective kwise "
                 "leaves out such pairs alone") for group in together if not in_order(group)]  # fmt: skip
    return Rows(tuple(strict), tuple(tied))


KEYS: dict[str, Callable[[int, TokenPair], Hashable]] = {
    "bradley_terry": lambda at, pair: at,
    "kwise": lambda at, pair: pair.chosen.prompt_ids,
    "plackett_luce": lambda at, pair: (pair.chosen.prompt_ids, pair.row),
}
"""Objective -> what the pairs of one element have in common."""


def in_order(group: Group) -> tuple[TokenRow, ...]:
    """The completions of a group, best first; empty when its pairs do not put each before exactly the later ones."""
    beaten: dict[TokenRow, set[TokenRow]] = {}
    for pair in group:
        beaten.setdefault(pair.chosen, set()).add(pair.rejected)
        beaten.setdefault(pair.rejected, set())
    order = sorted(beaten, key=lambda row: -len(beaten[row]))
    strict = all(beaten[row] == set(order[k + 1 :]) for k, row in enumerate(order))
    return tuple(order) if strict else ()
