"""Verdicts of both orders, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from lab.feedback.judging import Habits, Opinion, habits, judge, preferences
from lab.records import Comparison, Message, Preference, Verdict

PAIRS = [Comparison("x?", a, b) for a, b in (("good", "bad"), ("bad", "good"), ("same", "same"))]


@dataclass
class Says:
    """A judge who answers by a table: (first, second) -> p, or None."""

    table: dict[tuple[str, str], float | None]
    name: str = "table"
    seen: list[Comparison] = field(default_factory=list)

    def ask(self, comparisons: Sequence[Comparison]) -> Sequence[Opinion]:
        self.seen += comparisons
        return [Opinion(self.table[str(c.a), str(c.b)], "mm", (10, 1)) for c in comparisons]


def test_a_comparison_has_one_name_in_either_order():
    c = Comparison((Message("user", "x?"),), "a", "b", (True, False))
    assert c.swap() == Comparison((Message("user", "x?"),), "b", "a", (False, True))
    assert c.id == c.swap().id
    assert len({c.id, Comparison("x?", "a", "b").id, Comparison("y?", "a", "b").id, Comparison("x?", "a", "c").id}) == 4
    assert Verdict(0.75, "me", "why").swap() == Verdict(0.25, "me", "why")
    assert Verdict(None).swap() == Verdict(None)


def test_both_orders_by_hand():
    """Sure of good first, less sure when it stands second: (0.9 + 1 − 0.3) / 2 = 0.8."""
    who = Says({("good", "bad"): 0.9, ("bad", "good"): 0.3, ("same", "same"): 0.6})
    seen = judge(who, PAIRS, soft=True)
    assert [j.verdict.p for j in seen] == pytest.approx([0.8, 0.2, 0.5])
    assert [j.verdict.p for j in judge(who, PAIRS)] == [1.0, 0.0, 0.5]
    assert [j.flipped for j in seen] == [False, False, True]
    assert [(c.a, c.b) for c in who.seen[:6]] == [("good", "bad"), ("bad", "good"), ("same", "same"),
                                                 ("bad", "good"), ("good", "bad"), ("same", "same")]  # fmt: skip
    # (0.9 + 0.3) / 2 − 0.5 = 0.1 twice, 0.6 − 0.5 = 0.1
    assert habits(seen) == Habits(3, 0, pytest.approx(0.1), pytest.approx(2 / 3), pytest.approx(1 / 3), (60, 6))


def test_a_verdict_that_flips_with_the_order_is_a_tie():
    """Always the first: 0.99 against 0.6 would be 0.695 for the one that stood first when it was surest."""
    who = Says({("good", "bad"): 0.99, ("bad", "good"): 0.6, ("same", "same"): 0.99})
    assert [j.verdict.p for j in judge(who, PAIRS)] == [0.5, 0.5, 0.5]
    assert habits(judge(who, PAIRS)).consistency == 0.0


def test_an_order_without_an_answer_has_no_verdict():
    who = Says({("good", "bad"): 0.9, ("bad", "good"): None, ("same", "same"): 0.5})
    seen = judge(who, PAIRS)
    assert [j.verdict.p for j in seen] == [None, None, 0.5]
    assert habits(seen) == Habits(3, 2, 0.0, None, 1.0, (60, 6))
    assert habits([]) == Habits(0, 0, None, None, None, (0, 0))


def test_preferences_of_verdicts():
    who = Says({("good", "bad"): 0.9, ("bad", "good"): 0.3, ("same", "same"): 0.5})
    better = Preference("x?", "good", "bad", annotator="table", label=pytest.approx(0.8))
    assert preferences(judge(who, PAIRS, soft=True)) == [better, better]
    assert [p.label for p in preferences(judge(who, PAIRS), ties=True)] == [1.0, 1.0, 0.5]
    assert preferences(judge(Says(dict.fromkeys(who.table)), PAIRS), ties=True) == []
