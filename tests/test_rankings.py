"""Rankings as pairs, pairs as elements of a batch, and the order behind the pairs."""

from __future__ import annotations

import pytest

from lab.columns import DataError
from lab.encode import TokenPair, TokenRow
from lab.rankings import comparisons, groups, in_order
from lab.records import Preference, Ranking


def said(pairs):
    return [(p.chosen, p.rejected) for p in pairs]


def row(*ids, prompt=(1, 2), source=0):
    return TokenRow(prompt, ids, (True,) * len(ids), source)


def pair(better, worse, prompt=(1, 2), source=0, **more):
    sides = (row(better, prompt=prompt, source=source), row(worse, prompt=prompt, source=source))
    return TokenPair(*sides, row=source, **more)


def test_a_ranking_is_the_pairs_of_its_completions():
    """Ranks 2, 1, 3 of a, b, c: b before a before c."""
    (one,) = [Ranking("q", ("a", "b", "c"), (2, 1, 3), "Ada", 7)]
    rows = comparisons([one])
    assert said(rows.records) == [("a", "c"), ("b", "a"), ("b", "c")]
    assert {(p.prompt, p.annotator, p.row, p.label, p.weight, p.margin) for p in rows.records} == {
        ("q", "Ada", 7, 1.0, 1.0, 0.0)
    }
    assert rows.skipped == ()


def test_a_ranking_without_ties_gives_every_pair_once():
    ranked = comparisons([Ranking("q", tuple("abcdefghi"), tuple(range(9)))]).records
    assert len(ranked) == len(set(said(ranked))) == 9 * 8 // 2
    assert all(better < worse for better, worse in said(ranked))


def test_equal_ranks_are_no_pair():
    rows = comparisons([Ranking("q", ("a", "b", "c"), (1, 1, 2), row=4), Ranking("q", ("a", "b"), (5, 5), row=5)])
    assert said(rows.records) == [("a", "c"), ("b", "c")]
    (skip,) = rows.skipped
    assert (skip.row, skip.reason) == (5, "no completion is better than another")


def test_preferences_stay_and_rows_without_a_number_get_their_place():
    first, second = Preference("q", "a", "b", 0.5, label=0.25, weight=2.0), Preference("p", "c", "d", row=9)
    one, two, three = comparisons([first, second, Ranking("q", ("a", "b"), (1, 2))]).records
    assert (one.row, one.margin, one.label, one.weight) == (0, 0.5, 0.25, 2.0)
    assert two == second
    assert three.row == 2


def test_what_stands_together_depends_on_the_objective():
    """Rows 0 and 2 are of one prompt, row 0 has two pairs."""
    pairs = [pair(5, 6), pair(5, 7, prompt=(3,), source=1), pair(6, 7), pair(5, 7), pair(8, 9, source=2)]
    alone, together, orders = (groups(pairs, o).records for o in ("bradley_terry", "kwise", "plackett_luce"))
    assert alone == tuple((p,) for p in pairs)
    assert together == ((pairs[0], pairs[2], pairs[3], pairs[4]), (pairs[1],))
    assert orders == ((pairs[0], pairs[2], pairs[3]), (pairs[1],), (pairs[4],))


def test_equal_pairs_of_different_annotators_are_elements_of_their_own():
    assert len(groups([pair(5, 6), pair(5, 6)], "bradley_terry").records) == 2
    (both,) = groups([pair(5, 6), pair(5, 6)], "kwise").records
    assert len(both) == 2


def test_the_order_behind_the_pairs():
    strict = (pair(6, 7), pair(5, 7), pair(5, 6))
    assert [r.completion_ids for r in in_order(strict)] == [(5,), (6,), (7,)]
    assert [r.completion_ids for r in in_order((pair(9, 8),))] == [(9,), (8,)]


@pytest.mark.parametrize(
    "beaten",
    [
        (pair(5, 7), pair(6, 7)),  # 5 and 6 are tied
        (pair(5, 6), pair(6, 7)),  # 5 and 7 were not compared
        (pair(5, 6), pair(6, 7), pair(7, 5)),  # a circle
        (pair(5, 6), pair(6, 5)),  # both ways
        (pair(5, 6), pair(5, 7), pair(6, 5)),  # both ways, with the numbers of wins of an order
    ],
)
def test_pairs_without_a_strict_order(beaten):
    assert in_order(beaten) == ()
    rows = groups([*beaten, pair(5, 6, source=3)], "plackett_luce")
    assert len(rows.records) == 1
    assert [(s.row, s.reason) for s in rows.skipped] == [(0, "no strict order")]
    assert groups(beaten, "kwise").records == (beaten,)


@pytest.mark.parametrize(("more", "words"), [({"margin": 0.5}, "margin 0.5"), ({"label": 0.9}, "label 0.9")])
def test_an_order_knows_neither_margin_nor_soft_label(more, words):
    pairs = [pair(5, 6), pair(5, 6, source=4, **more)]
    with pytest.raises(DataError, match=f"Row 4 has the .*{words}.*choose the objective bradley_terry or kwise"):
        groups(pairs, "plackett_luce")
    assert len(groups(pairs, "kwise").records) == 1
