"""The Arena panel without a browser: the leaderboard of a store, who may see it, duels and judges."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.studio.arena import HIDDEN, Arena
from apps.studio.book import Book
from apps.studio.components import host_ask, person_ask
from apps.studio.link import Link
from apps.studio.parts import Labels
from apps.studio.people import ME, Person, acting
from lab.feedback.labels.room import Room
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item, vote
from lab.records import Comparison

from .made import EVIL, PROMPTS
from .made_contests import Contests, fill

GUEST = Person("mina")


@pytest.fixture
def engine() -> Contests:
    return Contests()


@pytest.fixture
def labels(tmp_path: Path) -> Iterator[Labels]:
    found = Labels(tmp_path / "labels.sqlite")
    yield found
    found.close()


@pytest.fixture
def store(labels: Labels) -> Store:
    return labels.store()


@pytest.fixture
def arena(root: Path, labels: Labels, engine: Contests) -> Arena:
    return Arena(Book(labels), Link(root, engine))


def until(look: Callable[[], dict[str, Any]], state: str = "done") -> dict[str, Any]:
    """What a job shows once it is in a state."""
    for _ in range(600):
        shown = look()
        if shown["state"] == state:
            return shown
        assert shown["state"] in ("running", state), shown
        time.sleep(0.05)
    raise AssertionError(f"never {state}: {look()}")


def test_a_store_without_contests_says_so(arena: Arena, store: Store) -> None:
    store.add([Item(Comparison("p", "x", "y"), source={"file": "mine"})])
    reply = arena.look({}, ME)
    assert (reply["contests"], reply["judges"], reply["figure"], reply["needed"], reply["disputed"]) == (
        0,
        [],
        None,
        None,
        [],
    )
    assert reply["board"]["standings"] == []


def test_the_leaderboard_is_that_of_the_people(arena: Arena, store: Store) -> None:
    """Five people, 24 pairs: of 40 votes between two policies 24 for the better one, 8 ties, 8 against: 70 %."""
    fill(store)
    reply = arena.look({"dark": True}, ME)
    assert [s["policy"] for s in reply["board"]["standings"]] == ["policy", "sft", "base"]
    assert {(m["one"], m["other"]): (m["wins"], m["ties"], m["losses"]) for m in reply["board"]["meetings"]} == {
        ("base", "policy"): (8, 8, 24), ("base", "sft"): (8, 8, 24), ("policy", "sft"): (24, 8, 8)}  # fmt: skip
    assert reply["judges"] == [{"name": "people", "by": "person", "votes": 120}]
    assert (reply["who"], reply["board"]["votes"], reply["contests"], reply["waiting"]) == ("people", 120, 24, 0)
    assert reply["pair"] == ["policy", "sft"]
    assert reply["needed"]["votes"] == 0
    assert len(reply["disputed"]) == 5
    assert reply["figure"]["layout"]["yaxis"]["ticktext"] == ["policy", "sft", "base"]


def test_gold_stands_beside_in_the_tiny_world_alone(arena: Arena, store: Store) -> None:
    fill(store)
    worth = arena.look({}, ME)["worth"]
    assert worth["policy"]["mean"] > worth["sft"]["mean"] > worth["base"]["mean"]
    assert worth["policy"]["n"] == len(PROMPTS)
    store.add([Item(Comparison("Is quicksilver a zebroid?", "x", "y"), source={"a": "sft", "b": "policy"})])
    time.sleep(0.6)  # the store is read twice a second
    assert arena.look({}, ME)["worth"] == {}


def test_one_chooses_whose_votes_count(arena: Arena, store: Store) -> None:
    items = fill(store)
    arena.judge({"judge": "gold"})
    shown = until(arena.job.look)
    assert (shown["done"], shown["of"]) == (24, 24)
    assert shown["sentence"] == "24 verdicts kept; in 12 of them the two orders named different answers."
    time.sleep(0.6)  # the store is read twice a second
    reply = arena.look({"who": "gold"}, ME)
    assert reply["judges"][1] == {"name": "gold", "by": "judge", "votes": 24}
    assert (reply["who"], reply["board"]["votes"]) == ("gold", 24)
    assert arena.look({"who": "person 0"}, ME)["who"] == "people", "nobody's own votes are singled out"
    assert arena.look({"who": EVIL}, ME)["who"] == "people"
    assert len(items) == 24
    with pytest.raises(ValueError, match="gold has judged every pair of two policies already"):
        arena.judge({"judge": "gold"})


def test_others_wait_for_the_reveal(arena: Arena, store: Store) -> None:
    """Hidden while no round was revealed, and again once the next round is open; the host sees it live."""
    fill(store)
    room = Room(store)

    def seen(person: Person) -> bool:
        time.sleep(0.6)
        reply = arena.look({}, person)
        assert ("board" in reply) == (reply["hidden"] == "")
        return "board" in reply

    assert (seen(GUEST), seen(ME)) == (False, True)
    room.turn("open", "host")
    assert (seen(GUEST), seen(ME)) == (False, True)
    room.turn("reveal", "host")
    assert (seen(GUEST), seen(ME)) == (True, True)
    room.turn("close", "host")
    room.turn("open", "host")
    assert arena.look({}, ME)["hidden"] == ""
    assert (seen(GUEST), seen(ME)) == (False, True)
    reply = arena.look({}, GUEST)
    assert reply["hidden"] == HIDDEN
    assert "figure" not in reply
    assert reply["job"] is None


def test_a_duel_adds_its_pairs_with_their_roles(arena: Arena, engine: Contests, store: Store) -> None:
    arena.duel({"roles": ["sft", "policy"], "prompts": "What is 5 plus 1?\n\n  Name two animals. ", "seed": "7"})
    shown = until(arena.job.look)
    assert shown["sentence"] == "2 new pairs in the queue."
    assert {i.source["a"] for i in store.items()} == {"sft"}
    assert sorted(str(i.comparison.prompt) for i in store.items()) == ["Name two animals.", "What is 5 plus 1?"]
    asked = next(row for kind, name, row in (a for a in engine.asked if a[0] == "task") if name == "duel")
    assert (asked["roles"], asked["n"], asked["seed"], asked["temperature"]) == (["sft", "policy"], 2, 7, 1.0)
    arena.duel({"roles": ["sft", "policy"], "prompts": "What is 5 plus 1?", "n": "many"})
    assert until(arena.job.look)["sentence"] == "0 new pairs in the queue, 1 there already."


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"roles": ["sft"]}, "between two to four roles"),
        ({"roles": ["sft", "sft"]}, "between two to four roles"),
        ({"roles": ["sft", "../../etc"]}, "between two to four roles"),
        ({"roles": ["sft", "policy"]}, "Give the prompts of the duel"),
    ],
)
def test_a_duel_says_what_it_lacks(arena: Arena, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        arena.duel(asked)
    assert arena.job.look()["state"] == "idle"


def test_one_thing_at_a_time_and_it_can_be_stopped(arena: Arena, engine: Contests, store: Store,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    fill(store)
    closed: list[bool] = []

    def slow(name: str, row: Any = None) -> Iterator[dict[str, Any]]:
        try:
            yield {"made_by": "judge", "done": 0, "of": 1000}
            for i in range(1000):
                time.sleep(0.01)
                yield {"at": 0, "verdicts": [[1.0, ""]] if i == 0 else [], "done": i + 1, "of": 1000}
        finally:
            closed.append(True)

    monkeypatch.setattr(engine, "task", slow)
    arena.judge({"judge": "gold"})
    with pytest.raises(RuntimeError, match="gold votes is still going on"):
        arena.judge({"judge": "sft"})
    while arena.job.look()["done"] < 2:
        time.sleep(0.01)
    arena.stop({})
    shown = until(arena.job.look, "stopped")
    assert shown["done"] < 1000
    assert closed == [True], "the engine was told"
    assert sum(v.annotator == "gold" for v in store.state().votes()) == 1, "what was kept stays"


def test_a_failure_is_a_sentence(arena: Arena, engine: Contests, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.client import EngineError

    def broken(name: str, row: Any = None) -> Iterator[dict[str, Any]]:
        raise EngineError("There is no role 'sft-9'.")
        yield {}

    fill(store)
    monkeypatch.setattr(engine, "task", broken)
    arena.judge({"judge": "sft-9"})
    assert until(arena.job.look, "failed")["sentence"] == "There is no role 'sft-9'."


def test_hostile_names_of_policies_are_text_in_the_figure(arena: Arena, store: Store) -> None:
    item = Item(Comparison("p", "x", "y"), source={"a": EVIL, "b": "%{x}<a href='javascript:1'>"})
    store.add([item])
    store.record(vote(item.id, store.person("mina"), "k", 1))
    figure = arena.look({}, ME)["figure"]
    ticks = figure["layout"]["yaxis"]["ticktext"]
    said = [*ticks, *(row[0] for trace in figure["data"] for row in trace["customdata"])]
    assert all("<" not in text and "%{" not in text for text in said)


def test_only_the_host_acts(arena: Arena, store: Store) -> None:
    for ask in (arena.duel, arena.judge, arena.stop):
        with acting(GUEST):
            reply = host_ask(ask)({"roles": ["sft", "policy"], "prompts": "Hi.", "judge": "gold"})
        assert reply["error"].startswith("Only the host can do this")
    with acting(GUEST):
        assert person_ask(arena.look)({})["hidden"] == HIDDEN
    assert (store.items(), arena.job.look()["state"]) == ([], "idle")
