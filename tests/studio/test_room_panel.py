"""What the Room panel answers, without a browser."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

from apps.studio.book import HERE_S, Board, Book, plain
from apps.studio.components import host_ask
from apps.studio.heads import ROOM, Heads
from apps.studio.parts import Parts
from apps.studio.people import HostOnlyError, Person, acting
from apps.studio.room import Rooms, figures
from lab.feedback.labels.importing import import_file
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item
from lab.records import Comparison

from .fake_labels import HOSTILE, ReadingEngine, free_rules, judge, pairs, parts_over, strengths

MINA, TOM, HOST = Person("mina"), Person("tom"), Person("ada", host=True)


@pytest.fixture
def engine() -> ReadingEngine:
    return ReadingEngine()


@pytest.fixture
def parts(tmp_path: Path, engine: ReadingEngine) -> Iterator[Parts]:
    found = parts_over(tmp_path, engine)
    found.labels.store().rule(free_rules())
    yield found
    found.labels.close()


@pytest.fixture
def desk(parts: Parts) -> Rooms:
    book = Book(parts.labels)
    return Rooms(book, Heads(book, parts.link, parts.shelf), parts.link)


def seen(desk: Rooms, person: Person = HOST) -> dict[str, Any]:
    """What a person sees once everything that was said is in the figures."""
    desk.book.moment(now=True)
    state = desk.book.state(now=True)
    moment = desk.book.moment()
    desk.board.get((moment.newest, len(moment.items), state.phase, state.now), wait=True)
    return desk.poll({}, person)


def turn(desk: Rooms, kind: str, **more: Any) -> None:
    desk.turn({"kind": kind} | more, HOST)


# --- who sees what ---------------------------------------------------------------------------------------------------


def test_others_see_only_counts_before_the_reveal(desk: Rooms, parts: Parts) -> None:
    parts.labels.store().add(pairs(12))
    turn(desk, "open", title="capitals")
    judge(parts.labels.store(), "tom", 5)
    told = seen(desk, MINA)
    assert set(told) == {"host", "name", "phase", "round", "here", "votes", "round_votes", "pairs", "overlap",
                         "predictions", "ms"}  # fmt: skip
    assert (told["votes"], told["round_votes"], told["ms"], told["round"]["title"]) == (5, 5, None, "capitals")
    assert "sft-1" not in json.dumps(told)
    with pytest.raises(ValueError, match="still blind"):
        desk.pair({"item": parts.labels.store().items()[0].id}, MINA)
    assert seen(desk, HOST)["figures"]["votes"] == 5
    turn(desk, "reveal")
    assert seen(desk, MINA)["figures"]["votes"] == 5
    assert desk.pair({"item": parts.labels.store().items()[0].id}, MINA)["models"] == ["sft-1", "ppo-1"]


@pytest.mark.parametrize("name", ["turn", "withdraw"])
def test_only_the_host_acts(desk: Rooms, name: str) -> None:
    with pytest.raises(HostOnlyError):
        getattr(desk, name)({"kind": "open"}, MINA)
    with acting(MINA):
        for ask in (desk.make, desk.offers, desk.train, desk.export):
            assert host_ask(ask)({})["error"].startswith("Only the host can do this")


def test_who_is_here_is_forgotten_after_a_while(desk: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.poll({}, MINA)
    assert desk.poll({}, HOST)["here"] == 2
    now = time.monotonic()
    monkeypatch.setattr("apps.studio.book.time.monotonic", lambda: now + HERE_S + 1)
    assert [p["name"] for p in desk.poll({}, HOST)["people"]] == ["ada"]


# --- a round ---------------------------------------------------------------------------------------------------------


def test_a_round_from_the_opening_to_the_second_vote(desk: Rooms, parts: Parts) -> None:
    """mina and tom say the opposite of all four pairs; after the talk tom comes round on two of them."""
    store = parts.labels.store()
    store.add(pairs(4))
    desk.book.room.note("prediction", "mina", winner="sft-1", agreement=0.1)
    turn(desk, "open", overlap=5)
    assert store.rules.overlap == 5
    for name, side in (("mina", "a"), ("tom", "b")):
        judge(store, name, 4, lambda showing, side=side: 1 if showing.first == side else -1)
    turn(desk, "reveal")
    told = seen(desk)["figures"]
    assert told["agreement"]["raw"]["mean"] == 0.0
    assert told["talk"]["changed"] == 0
    assert (told["predictions"]["nearest"], told["predictions"]["by"]) == ("mina", {"sft-1": ["mina"]})
    items = [d["item"] for d in told["disputes"]][:2]
    turn(desk, "talk", items=items)
    for n, item in enumerate(items):
        assert desk.revote({"item": item, "key": f"again-{n:03d}", "strength": 1}, TOM) == {"saved": True, "new": True}
    told = seen(desk, MINA)
    talk = told["figures"]["talk"]
    assert (talk["before"]["raw"]["mean"], talk["after"]["raw"]["mean"], talk["changed"]) == (0.0, 0.5, 2)
    assert (talk["talked_before"]["raw"]["mean"], talk["talked_after"]["raw"]["mean"]) == (0.0, 1.0)
    assert told["mine"] == dict.fromkeys(items, 1)
    shown = desk.pair({"item": items[0]}, MINA)
    assert {v["who"]: (v["strength"], v["before"]) for v in shown["votes"]} == {"mina": (1, None), "tom": (1, -1)}
    turn(desk, "close")
    turn(desk, "open")
    assert seen(desk)["figures"]["votes"] == 0, "a new round begins with nothing"


def test_a_second_vote_is_in_content_order_whichever_way_it_was_shown(desk: Rooms, parts: Parts) -> None:
    store = parts.labels.store()
    store.add(pairs(8))
    judge(store, "mina", 8)
    firsts = {e.item: e.first for e in store.events()}
    assert set(firsts.values()) == {"a", "b"}
    turn(desk, "open")
    turn(desk, "reveal")
    turn(desk, "talk", items=list(firsts))
    for item in firsts:
        desk.revote({"item": item, "key": f"k-{item}", "strength": 2}, MINA)
        said = store.answer(item, "mina")
        assert said is not None
        assert (said.choice, said.strength, said.first) == ("a", 2, firsts[item])


def test_a_talk_wants_pairs_that_exist(desk: Rooms) -> None:
    turn(desk, "open")
    turn(desk, "reveal")
    with pytest.raises(ValueError, match="at least one pair"):
        turn(desk, "talk", items=["nothing"])


def test_a_withdrawn_pair_counts_no_more_and_comes_back(desk: Rooms, parts: Parts) -> None:
    store = parts.labels.store()
    store.add(pairs(3))
    judge(store, "mina", 3)
    item = store.items()[0].id
    desk.withdraw({"item": item, "key": "withdraw-1"}, HOST)
    assert seen(desk)["figures"]["votes"] == 2
    assert desk.pair({"item": item}, HOST)["withdrawn"] is True
    desk.withdraw({"item": item, "key": "restore-1", "restore": True}, HOST)
    assert seen(desk)["figures"]["votes"] == 3


def test_hostile_pairs_are_sent_as_they_are(desk: Rooms, parts: Parts) -> None:
    store = parts.labels.store()
    store.add(pairs(0, hostile=True))
    judge(store, "mina", 4, strengths([1]))
    judge(store, "tom", 4, strengths([-1, 1]))
    told = seen(desk)
    json.dumps(told, allow_nan=False)
    assert all(len(d["prompt"]) <= 90 for d in told["figures"]["items"])
    texts = {desk.pair({"item": i.id}, HOST)["a"][0]["text"] for i in store.items()}
    assert texts == set(HOSTILE)


# --- figures for all -------------------------------------------------------------------------------------------------


def test_forty_who_poll_cost_one_computing(desk: Rooms, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    store = parts.labels.store()
    store.add(pairs(6))
    judge(store, "mina", 6)
    turn(desk, "open")
    turn(desk, "reveal")
    seen(desk)
    calls: list[int] = []
    monkeypatch.setattr("apps.studio.room.figures", lambda state, moment: calls.append(1) or {"votes": 0})
    people = [Person(f"p{i}") for i in range(40)]
    threads = [threading.Thread(target=lambda p=p: desk.poll({}, p)) for p in people]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert calls == []
    store.undo("mina", "undo-0000")
    desk.book.moment(now=True)
    desk.board._ready = -1e9
    for p in people:
        desk.poll({}, p)
    while desk.board._busy:
        time.sleep(0.01)
    assert calls == [1]


def test_a_board_gives_the_old_value_while_a_new_one_is_made() -> None:
    go = threading.Event()
    values = iter([{"n": 1}, {"n": 2}])

    def compute() -> dict[str, Any]:
        go.wait()
        return next(values)

    board = Board(compute, pause_s=0.0)
    assert board.get("one") is None
    go.set()
    while board.get("one") is None:
        time.sleep(0.01)
    assert board.get("one") == {"n": 1}
    go.clear()
    assert board.get("two") == {"n": 1}
    go.set()
    while board._busy:
        time.sleep(0.01)
    assert board.get("two") == {"n": 2}


def test_a_board_raises_what_the_computing_raised() -> None:
    def compute() -> dict[str, Any]:
        raise ValueError("no figures today")

    with pytest.raises(ValueError, match="no figures today"):
        Board(compute).get("key", wait=True)


def test_an_empty_room_has_figures_that_say_why(desk: Rooms) -> None:
    told = seen(desk)["figures"]
    assert told["agreement"]["alpha"]["why"] == "no item was judged by two annotators"
    assert (told["votes"], told["disputes"], told["models"], told["heat"]["names"]) == (0, [], [], [])


def test_figures_are_of_the_round_not_of_what_was_before(desk: Rooms, parts: Parts) -> None:
    store = parts.labels.store()
    store.add(pairs(6))
    judge(store, "mina", 3)
    turn(desk, "open")
    judge(store, "mina", 2)
    assert seen(desk)["figures"]["votes"] == 2
    assert figures(desk.book.state(), desk.book.moment())["people"] == 1


def test_plain_turns_what_json_cannot_hold_into_what_it_can() -> None:
    assert plain({"a": (float("nan"), {1}), 2: [None, float("inf")]}) == {"a": [None, [1]], "2": [None, None]}


# --- pairs, export, the room's reward model --------------------------------------------------------------------------


def test_roles_make_pairs_for_the_queue(desk: Rooms, parts: Parts) -> None:
    assert desk.offers({})["roles"] == ["base", "sft", "policy", "reference"]
    assert desk.make({"roles": ["sft", "policy"], "prompts": ["Hello", "Goodbye"]}) == {
        "new": 2,
        "unfit": 0,
        "equal": 0,
    }
    assert desk.make({"roles": ["sft", "policy"], "prompts": ["Hello"]}) == {"new": 0, "unfit": 0, "equal": 0}
    item = parts.labels.store().items()[0]
    assert (item.source["a"], item.source["b"], item.source["by"]) == ("sft", "policy", "room")


def test_without_an_engine_no_pairs_are_made_and_one_is_told_why(desk: Rooms, engine: ReadingEngine) -> None:
    engine.there = False
    with pytest.raises(ValueError, match="lab engine"):
        desk.make({"roles": ["sft"], "prompts": ["Hello"]})


def test_an_export_of_events_can_be_read_back(desk: Rooms, parts: Parts, tmp_path: Path) -> None:
    store = parts.labels.store()
    store.add(pairs(4))
    judge(store, "mina", 4)
    told = desk.export({"kind": "events"})
    assert told["name"].endswith(".jsonl")
    assert told["rows"] == 1 + 4 + 1 + 4
    (tmp_path / "e.jsonl").write_text(told["text"], encoding="utf-8")
    with Store.open(tmp_path / "other.sqlite") as other:
        import_file(other, tmp_path / "e.jsonl")
        assert other.events() == store.events()
    rows = [json.loads(line) for line in desk.export({"kind": "preferences", "part": "all"})["text"].splitlines()]
    assert len(rows) == 4
    assert all(r["chosen"] != r["rejected"] for r in rows)


def test_an_export_of_nothing_says_so(desk: Rooms) -> None:
    with pytest.raises(ValueError, match="No pair has votes"):
        desk.export({"kind": "preferences"})


def test_the_rooms_reward_model_is_held_against_the_evaluation_split(desk: Rooms, parts: Parts) -> None:
    store = parts.labels.store()
    store.add([Item(Comparison(i.comparison.prompt, i.comparison.a, i.comparison.b), source=i.source, split="evaluation"
                    if str(i.comparison.prompt).startswith("Name") else "training") for i in pairs(60)])  # fmt: skip
    for name in ("mina", "tom", "li"):
        judge(store, name, 60)  # all for what is shorter
    desk.train({})
    while desk.heads.job(ROOM).state not in ("done", "failed"):  # type: ignore[union-attr]
        time.sleep(0.02)
    told = seen(desk)["head"]
    assert told["state"] == "done", told["error"]
    held = sum(i.split == "evaluation" for i in store.items())
    assert (told["heldout"], told["pairs"]) == (3 * held, 60 - held)
    assert told["accuracy"]["mean"] > 0.9
    assert told["ceiling"]["low"]["mean"] == told["ceiling"]["high"]["mean"] == 1.0, "all three always agree"
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(("name", "ask"), [
    ("turn", {"kind": "explode"}), ("turn", {}), ("turn", {"kind": "open", "overlap": 0}), ("pair", {}),
    ("withdraw", {"item": "x"}), ("revote", {"item": "x", "key": "again-00", "strength": 5}),
])  # fmt: skip
def test_what_does_not_fit_is_refused(desk: Rooms, name: str, ask: dict) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        getattr(desk, name)(ask, HOST)
