"""The labelling card of a notebook: what buttons record, undo, the guard against double presses, and hostile words."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.evaluate.room import lengths, marks
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item, Rules
from lab.notebook import labelling
from lab.records import Comparison

HOSTILE = "<img src=x onerror=alert(1)>"
PAIRS = [
    Comparison("1?", "one", "two words"),
    Comparison("2?", HOSTILE, "plain"),
    Comparison("3?", "x", "y", (True, False)),
]


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "labels.sqlite", rules=Rules(overlap=2, gold=0.0, repeats=0.0, explore=0.0)) as opened:
        opened.add([Item(c) for c in PAIRS])
        yield opened


def test_buttons_record_what_they_say(store: Store) -> None:
    """A stood first: a+ is two steps for it, b one step against it, and both bad is no strength."""
    card = labelling.label(store, "mina")
    wanted = {}
    for what, strength in (("a+", 2), ("b", -1), ("bad", 0)):
        showing = card.showing
        assert showing is not None
        wanted[showing.item.id] = strength if showing.first == "a" else -strength
        card.press(what, ms=2000)
    assert card.showing is None
    assert card.done == 3
    assert {m.item: m.strength for m in marks(store)} == wanted
    assert {m.ms for m in marks(store)} == {2000}
    assert sorted(e.choice for e in store.state().votes()) != []
    assert [e.choice for e in store.state().votes() if e.strength == 0] == ["both_bad"]
    assert "nothing is left" in repr(card)
    assert card.press("a").done == 3, "there is nothing to press it about"


def test_undo_and_skip(store: Store) -> None:
    card = labelling.label(store, "mina")
    first = card.showing
    assert first is not None
    card.press("skip").press("a")
    assert (len(marks(store)), card.done) == (1, 2)
    card.press("undo").press("undo")
    assert card.showing is not None
    assert card.showing.item.id == first.item.id
    assert (len(marks(store)), card.done) == (0, 0)
    assert "nothing of yours left to undo" in card.press("undo").note
    assert labelling.label(store, "mina").showing.item.id == first.item.id, "somebody who comes back goes on"
    with pytest.raises(KeyError, match="There is no button 'c'; there are a\\+, a, tie, b"):
        card.press("c")


def test_words_are_shown_as_words(store: Store) -> None:
    card = labelling.label(store, "mina")
    seen = ""
    while card.showing is not None:
        seen += card._repr_html_()
        card.press("tie")
    assert HOSTILE not in seen
    assert "&lt;img src=x onerror=alert(1)&gt;" in seen
    assert " …" in seen, "an answer that did not end is shown as cut"


def test_the_card_is_live_in_a_notebook(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two quick presses are one vote; undo is quick; at the end only undo can be pressed."""
    now = [100.0]
    monkeypatch.setattr(labelling, "front_end", lambda: True)
    monkeypatch.setattr(labelling.time, "monotonic", lambda: now[0])
    card = labelling.label(store, "mina")
    press = card._buttons["a"].click
    press()
    assert card.done == 0, "nobody reads this fast"
    now[0] += 1.0
    press()
    press()
    assert card.done == 1
    assert "1 judged" in card._text.value
    card._buttons["undo"].click()
    assert card.done == 0
    for _ in PAIRS:
        now[0] += 1.0
        press()
    assert card.showing is None
    assert {what for what, button in card._buttons.items() if not button.disabled} == {"undo"}
    assert sorted(m.ms or 0 for m in marks(store)) == [1000, 1000, 1000]


def test_words_of_the_answers_are_counted(store: Store) -> None:
    assert lengths(store) == {PAIRS[0].id: (1.0, 2.0), PAIRS[1].id: (3.0, 1.0), PAIRS[2].id: (1.0, 1.0)}


def test_marks_leave_out_machines_gold_and_what_was_withdrawn(store: Store) -> None:
    from lab.records import Verdict

    gold = Comparison("4?", "right", "wrong")
    store.add([Item(gold, answer="a")])
    store.rule(Rules(overlap=2, gold=0.5, repeats=0.0, explore=0.0))
    store.verdicts("judge", "judge", [(PAIRS[0], Verdict(0.9))])
    card = labelling.label(store, "mina")
    while card.showing is not None:
        card.press("tie")
    store.withdraw(PAIRS[1].id, "mina", "w")
    assert {m.item for m in marks(store)} == {PAIRS[0].id, PAIRS[2].id}
    assert {m.item for m in marks(store, gold=True)} == {PAIRS[0].id, PAIRS[2].id, gold.id}
    assert [(m.annotator, m.item, m.strength) for m in marks(store, made_by=("judge",))] == [("judge", PAIRS[0].id, 1)]
