"""Rounds, the reveal, the talk, second votes, the guide and predictions: rows beside the events of a label store."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from label_stores import Clock, some_items

from lab.feedback.labels.exporting import export_events, preferences, tallies
from lab.feedback.labels.importing import import_file
from lab.feedback.labels.room import Room, RoomState, Said, fold_room
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import LabelError, RefusedError, Rules, Showing

RULES = Rules(overlap=2, explore=0.0, gold=0.0, repeats=0.0)


@pytest.fixture
def store(label_place: str) -> Iterator[Store]:
    with Store.open(label_place, rules=RULES, clock=Clock()) as opened:
        yield opened


def shown(store: Store, name: str) -> Showing:
    """What somebody is shown; there is something."""
    store.person(name)
    found = store.assign(name)
    assert found is not None
    return found


def voted(store: Store, name: str, strength: int) -> Showing:
    """Somebody votes on what they are shown, in display order."""
    showing = shown(store, name)
    store.record(showing.vote(strength))
    return showing


# --- rounds ----------------------------------------------------------------------------------------------------------


def test_a_round_goes_through_its_phases(store: Store) -> None:
    room = Room(store)
    assert room.state() == RoomState()
    phases = [room.turn(kind, "host", **more).phase for kind, more in (
        ("open", {"title": "capitals"}), ("pause", {}), ("resume", {}), ("reveal", {}), ("talk", {"items": ["x"]}),
        ("talk", {"items": ["y"]}), ("close", {}), ("open", {}))]  # fmt: skip
    assert phases == ["open", "paused", "open", "revealed", "talk", "talk", "closed", "open"]
    first, second = room.state().rounds
    assert (first.number, first.title, first.talk) == (1, "capitals", ("y",))
    assert (second.number, second.title, second.talk, second.over) == (2, "", (), None)


def test_what_the_phase_does_not_allow_is_refused_with_a_sentence(store: Store) -> None:
    room = Room(store)
    with pytest.raises(RefusedError, match="not in a round yet; reveal follows when it is judging or paused"):
        room.turn("reveal", "host")
    room.turn("open", "host")
    with pytest.raises(RefusedError, match="talk follows"):
        room.turn("talk", "host", items=["x"])
    with pytest.raises(LabelError, match="no turn of a round"):
        room.turn("explode", "host")
    assert room.state().phase == "open"


def test_a_quick_finger_reveals_once(store: Store) -> None:
    room = Room(store)
    room.turn("open", "host")
    for _ in range(3):
        room.turn("reveal", "host")
    assert [s.kind for s in room.said()] == ["open", "reveal"]


def test_a_round_remembers_which_event_was_the_newest(store: Store) -> None:
    room = Room(store)
    store.add(some_items(3))
    voted(store, "mina", 1)
    room.turn("open", "host")
    voted(store, "mina", 1)
    voted(store, "mina", 1)
    room.turn("reveal", "host")
    now = room.turn("close", "host").now
    assert now is not None
    assert now.revealed is not None
    assert now.revealed - now.began == 2
    assert now.over == now.revealed


def test_a_new_round_ends_the_one_before_and_takes_new_predictions(store: Store) -> None:
    room = Room(store)
    room.note("prediction", "mina", winner="ppo", agreement=0.5)
    room.turn("open", "host")
    assert room.state().predictions["mina"]["winner"] == "ppo", "made before the first round, and meant for it"
    room.note("prediction", "mina", winner="sft", agreement=0.6)
    room.turn("reveal", "host")
    with pytest.raises(RefusedError, match="revealed"):
        room.note("prediction", "tom", winner="sft", agreement=0.5)
    assert dict(room.state().predictions) == {"mina": {"winner": "sft", "agreement": 0.6}}
    state = room.turn("open", "host")
    assert state.predictions == {}
    assert state.rounds[0].over is not None


def test_two_hosts_at_once_open_one_round(store: Store) -> None:
    room, together = Room(store), threading.Barrier(4)

    def open_one() -> None:
        together.wait()
        room.turn("open", "host")

    threads = [threading.Thread(target=open_one) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(room.state().rounds) == 1


# --- the guide -------------------------------------------------------------------------------------------------------


def test_guide_steps_are_kept_by_name_and_the_last_word_counts(store: Store) -> None:
    room = Room(store)
    room.note("guide", "mina", step="rules")
    room.note("guide", "mina", step="practice 0", right=False)
    room.note("guide", "tom", step="practice 0", right=True)
    room.note("skip", "host", steps=["biases"])
    state = Room(store).state()
    assert set(state.steps["mina"]) == {"rules", "practice 0"}
    assert state.steps["tom"]["practice 0"]["right"] is True
    assert state.skipped == {"biases"}
    room.note("skip", "host", steps=[])
    assert room.state().skipped == frozenset()


@pytest.mark.parametrize(("kind", "who", "value", "sentence"), [
    ("vote", "mina", {}, "nothing a person says here"), ("guide", "", {}, "names who says it"),
    ("guide", "mina", {"step": "x" * 5000}, "up to 4000 characters"),
    ("guide", "mina", {"step": "\x00"}, "control character U"),
])  # fmt: skip
def test_what_a_room_does_not_take(store: Store, kind: str, who: str, value: dict, sentence: str) -> None:
    with pytest.raises(LabelError, match=sentence):
        Room(store).note(kind, who, **value)
    assert Room(store).said() == []


# --- second votes ----------------------------------------------------------------------------------------------------


def talk_of(store: Store, item: str) -> Room:
    """The room, talking about one pair."""
    room = Room(store)
    room.turn("open", "host")
    room.turn("reveal", "host")
    room.turn("talk", "host", items=[item])
    return room


def test_a_second_vote_takes_the_place_of_the_first(store: Store) -> None:
    store.add(some_items(1))
    mina, tom = voted(store, "mina", 2), voted(store, "tom", -1)
    item = mina.item.id
    room = talk_of(store, item)
    before = store.state()
    room.revise("mina", item, "again-00", -1, note="convinced", reasons=("correct",))
    after = store.answer(item, "mina")
    assert after is not None
    sign = 1 if mina.first == "a" else -1
    assert (after.strength, after.note, after.reasons, after.first) == (-sign, "convinced", ("correct",), mina.first)
    assert [e.kind for e in store.events()] == ["vote", "vote", "undo", "vote"]
    assert len(before.votes()) == len(store.state().votes()) == 2
    tom_said = 1 if tom.first == "b" else -1
    (tally,) = tallies(store, part="all")
    assert tally.share == pytest.approx(((-sign > 0) + (tom_said > 0)) / 2)
    assert store.progress("mina") == {"mine": 1, "room": 2, "wanted": 2}, "nobody's place was taken"


def test_the_same_key_again_is_one_second_vote(store: Store) -> None:
    store.add(some_items(1))
    item = voted(store, "mina", 2).item.id
    room = talk_of(store, item)
    assert room.revise("mina", item, "again-00", 1).new
    assert not room.revise("mina", item, "again-00", -2).new
    assert room.revise("mina", item, "again-01", 0).new
    assert [e.kind for e in store.events()] == ["vote", "undo", "vote", "undo", "vote"]


def test_a_remark_is_taken_back_with_its_vote(store: Store) -> None:
    from lab.feedback.labels.words import Event

    store.add(some_items(1))
    item = voted(store, "mina", 2).item.id
    store.record(Event("remark", item, "mina", "r1", note="hm"))
    talk_of(store, item).revise("mina", item, "again-00", -2)
    after = store.answer(item, "mina")
    assert after is not None
    assert (after.note, abs(after.strength)) == ("", 2)
    assert [e.kind for e in store.events()] == ["vote", "remark", "undo", "undo", "vote"]


def test_who_may_vote_again_and_when(store: Store) -> None:
    store.add(some_items(2))
    item = voted(store, "mina", 2).item.id
    other = voted(store, "mina", 1).item.id
    room = Room(store)
    room.turn("open", "host")
    with pytest.raises(RefusedError, match="not talked about"):
        room.revise("mina", item, "again-00", 1)
    room.turn("reveal", "host")
    room.turn("talk", "host", items=[item])
    with pytest.raises(RefusedError, match="not talked about"):
        room.revise("mina", other, "again-00", 1)
    store.person("tom")
    with pytest.raises(RefusedError, match="had not judged this pair"):
        room.revise("tom", item, "again-00", 1)
    with pytest.raises(LabelError, match="nobody called"):
        room.revise("nobody", item, "again-00", 1)
    assert [e.kind for e in store.events()] == ["vote", "vote"]


def test_a_second_vote_survives_export_and_import(store: Store, tmp_path: Path) -> None:
    store.add(some_items(1))
    item = voted(store, "mina", 2).item.id
    talk_of(store, item).revise("mina", item, "again-00", -2)
    wanted = preferences(tallies(store, part="all"))
    export_events(store, tmp_path / "e.jsonl")
    with Store.open(tmp_path / "other.sqlite") as other:
        import_file(other, tmp_path / "e.jsonl")
        assert preferences(tallies(other, part="all")) == wanted


# --- the table -------------------------------------------------------------------------------------------------------


def test_a_store_without_the_table_gets_it_once(store: Store) -> None:
    for _ in range(2):
        Room(store).note("guide", "mina", step="rules")
    assert len(Room(store).said()) == 2
    assert Room(store).newest() == 2


def test_a_store_has_no_table_of_the_room_until_one_is_asked_for(tmp_path: Path) -> None:
    with Store.open(tmp_path / "l.sqlite") as store:
        store.add(some_items(1))
    with sqlite3.connect(tmp_path / "l.sqlite") as raw:
        assert "room" not in {r[0] for r in raw.execute("SELECT name FROM sqlite_master")}, "made when it is asked for"


def test_rows_that_a_phase_does_not_allow_are_as_if_unsaid() -> None:
    rows = [Said(1, 0, "reveal", "h", 0), Said(2, 0, "open", "h", 3), Said(3, 0, "open", "h", 4)]
    assert fold_room(rows).rounds[0].began == 3
    assert len(fold_room(rows).rounds) == 1
