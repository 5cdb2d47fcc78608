"""The present state out of events, by hand."""

from __future__ import annotations

import pytest

from lab.feedback.labels.fold import Place, fold
from lab.feedback.labels.words import Event, Item, LabelError, Rules, Showing, machine_vote, swap, vote
from lab.records import Comparison, Message, Verdict


def said(kind: str, item: str = "i", who: str = "mina", **more: object) -> Event:
    """An event with a key of its own."""
    said.n += 1  # type: ignore[attr-defined]
    return Event(kind, item, who, f"k{said.n}", **more)  # type: ignore[attr-defined,arg-type]


said.n = 0  # type: ignore[attr-defined]


def voted(strength: int, item: str = "i", who: str = "mina", **more: object) -> Event:
    said.n += 1  # type: ignore[attr-defined]
    return vote(item, who, f"k{said.n}", strength, **more)  # type: ignore[attr-defined,arg-type]


MINE = Place("i", "mina", False)


def strengths(events: list[Event]) -> dict[tuple[str, str], int]:
    return {(p.item, p.annotator): e.strength for p, e in fold(events).answers.items()}


def test_a_vote_stands_until_it_is_undone() -> None:
    assert strengths([voted(2)]) == {("i", "mina"): 2}
    assert strengths([voted(2), said("undo")]) == {}
    assert strengths([voted(2), said("undo"), voted(-1)]) == {("i", "mina"): -1}
    assert strengths([voted(2), said("undo"), said("undo"), voted(-1)]) == {("i", "mina"): -1}, (
        "nothing to undo is nothing"
    )


def test_each_annotator_and_each_item_has_a_history_of_its_own() -> None:
    events = [voted(2), voted(-2, who="tom"), voted(1, item="j"), said("undo", who="tom")]
    assert strengths(events) == {("i", "mina"): 2, ("j", "mina"): 1}


def test_undo_takes_back_remarks_first_then_the_vote() -> None:
    events = [
        voted(1, reasons=("safe",)),
        said("remark", reasons=("helpful",), note="more"),
        said("remark", note="most"),
    ]
    found = [fold(events + [said("undo") for _ in range(n)]).answers.get(MINE) for n in range(4)]
    assert [None if e is None else (e.strength, e.reasons, e.note) for e in found] == [
        (1, (), "most"), (1, ("helpful",), "more"), (1, ("safe",), ""), None]  # fmt: skip


def test_a_second_answer_without_an_undo_is_as_if_unsaid() -> None:
    assert strengths([voted(2), voted(-2)]) == {("i", "mina"): 2}
    assert strengths([voted(2), voted(-2), said("undo")]) == {}
    skipped = fold([said("skip"), voted(1)])
    assert [e.kind for e in skipped.answers.values()] == ["skip"]
    assert skipped.votes() == []


def test_a_remark_without_an_answer_is_nothing() -> None:
    assert fold([said("remark", note="well")]).answers == {}


def test_a_flipped_repeat_is_a_place_of_its_own() -> None:
    state = fold([voted(2), voted(-1, repeat=True)])
    assert len(state.answers) == 2
    assert [e.strength for e in state.votes()] == [2]
    assert [e.strength for e in state.votes(repeats=True)] == [2, -1]


def test_withdrawn_items_have_no_votes_until_they_are_restored() -> None:
    events = [voted(2), said("withdraw", who="host")]
    assert fold(events).votes() == []
    assert fold(events).withdrawn == {"i"}
    assert len(fold([*events, said("restore", who="host")]).votes()) == 1


def test_the_newest_uncertainty_stands() -> None:
    events = [said("uncertainty", value=0.5), said("uncertainty", value=0.25), said("uncertainty", "j", value=3.0)]
    assert fold(events).uncertainty == {"i": 0.25, "j": 3.0}


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "choice", "p"), [(2, "a", 1.0), (1, "a", 1.0), (0, "tie", 0.5), (-1, "b", 0.0)])
def test_a_strength_says_choice_and_probability(strength: int, choice: str, p: float) -> None:
    event = vote("i", "mina", "k", strength)
    assert (event.choice, event.p) == (choice, p)
    assert event.verdict() == Verdict(p, "mina")


def test_both_bad_prefers_neither_and_has_no_strength() -> None:
    event = vote("i", "mina", "k", 0, both_bad=True)
    assert (event.choice, event.p, event.strength) == ("both_bad", 0.5, 0)
    with pytest.raises(LabelError, match="no strength"):
        vote("i", "mina", "k", 1, both_bad=True)


def test_display_order_becomes_content_order() -> None:
    item = Item(Comparison("p", "x", "y"))
    straight, turned = (Showing(item, "mina", first, False, "k", 0) for first in ("a", "b"))
    assert (straight.shown.a, turned.shown.a) == ("x", "y")
    assert (straight.vote(2).choice, straight.vote(2).strength) == ("a", 2)
    assert (turned.vote(2).choice, turned.vote(2).strength, turned.vote(2).first) == ("b", -2, "b")


def test_swap_is_its_own_inverse() -> None:
    event = vote("i", "mina", "k", -2, first="a")
    assert (swap(event).choice, swap(event).strength, swap(event).p, swap(event).first) == ("a", 2, 1.0, "b")
    assert swap(swap(event)) == event


def test_a_machine_is_as_soft_as_it_says() -> None:
    assert machine_vote("i", "rm", "k", Verdict(0.75, why="longer")).strength == 1
    soft = machine_vote("i", "rm", "k", Verdict(0.25))
    assert (soft.choice, soft.p) == ("b", 0.25)
    assert machine_vote("i", "rm", "k", Verdict(0.5)).choice == "tie"
    assert machine_vote("i", "rm", "k", Verdict(None, why="no answer")).kind == "skip"


WRONG_EVENTS = [
    ({"kind": "like"}, "kind of event"),
    ({"choice": "c"}, "no verdict"),
    ({"strength": 3}, "strength"),
    ({"p": 1.5}, "probability"),
    ({"p": float("nan")}, "probability"),
    ({"strength": -1}, "contradict"),
    ({"p": 0.2}, "contradict"),
    ({"first": "left"}, "side"),
    ({"note": "x" * 2001}, "note"),
    ({"note": "bell\a"}, "U\\+0007"),
    ({"reasons": ("x" * 61,)}, "reasons"),
    ({"ms": -1}, "time"),
    ({"annotator": ""}, "names"),
    ({"item": "x" * 121}, "names"),
]


@pytest.mark.parametrize(("change", "cause"), WRONG_EVENTS)
def test_events_that_make_no_sense_are_refused(change: dict, cause: str) -> None:
    good = {"kind": "vote", "item": "i", "annotator": "mina", "key": "k", "choice": "a", "strength": 1, "p": 1.0}
    Event(**good)
    with pytest.raises(LabelError, match=cause):
        Event(**good | change)


@pytest.mark.parametrize(
    ("a", "b", "cause"),
    [("x", "x", "the same"), ("", "y", "empty completion"), ("x\x00", "y", "U\\+0000"), ("x\x1b[2J", "y", "U\\+001B"),
     ("x\ud800", "y", "U\\+D800"), ("x" * 200_000, "y", "200000")],
)  # fmt: skip
def test_pairs_that_nobody_can_judge_are_refused(a: str, b: str, cause: str) -> None:
    with pytest.raises(LabelError, match=cause):
        Item(Comparison("p", a, b))


def test_html_and_tabs_and_other_alphabets_are_text() -> None:
    item = Item(Comparison((Message("user", "<script>\n\tשלום"),), "<img src=x onerror=alert(1)>", "🙂"))
    assert item.comparison.a == "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize("change", [{"overlap": 0}, {"gold": 0.6, "repeats": 0.5}, {"explore": 1.5}, {"lease_s": 0}])
def test_rules_that_cannot_be_kept_are_refused(change: dict) -> None:
    with pytest.raises(LabelError):
        Rules(**change)
