"""The Constitution panel without a browser: drafts, versions, the test against people, chains, votes of a version."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from apps.studio.book import Book
from apps.studio.components import host_ask, person_ask
from apps.studio.constitution import HIDDEN, Constitutions, voter
from apps.studio.link import Link
from apps.studio.parts import Labels
from apps.studio.people import ME, Person, acting
from lab.feedback.constitution.principles import ConstitutionError
from lab.feedback.labels.room import Room
from lab.feedback.labels.store import Store

from .made import EVIL
from .made_contests import Contests, fill

GUEST = Person("mina")


class Revising(Contests):
    """An engine that writes chains and has opinions: a role finds the shorter answer better by every principle."""

    def task(self, name: str, row: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        row = dict(row or {})
        if name == "opinions":
            self.asked.append(("task", name, row))
            pairs = row["pairs"]
            p = [0.9 if len(c["a"]) < len(c["b"]) else 0.1 for c in pairs]
            yield {"principle": 0, "at": 0, "ab": p, "ba": [1 - x for x in p], "done": len(pairs), "of": len(pairs)}
        elif name == "chain":
            self.asked.append(("task", name, row))
            text = EVIL if "evil" in row["prompt"] else "What a question! It is good."
            yield {"stage": "draft", "text": text[:6]}
            yield {"stage": "draft", "text": text, "done": True, "ended": True}
            yield {"stage": "critique", "at": 0, "principle": "flattery", "text": "You praise."}
            yield {"stage": "round", "at": 0, "principle": "flattery", "says": "No praise.", "critique": "You praise.",
                   "revision": "It is good.", "changed": True}  # fmt: skip
            yield {"stage": "end", "draft": text, "final": "It is good.", "ended": True,
                   "worth": [{"score": -0.5, "reasons": []}, {"score": 1.0, "reasons": [[EVIL, 1.0]]}]}  # fmt: skip
        else:
            yield from super().task(name, row)


@pytest.fixture
def engine() -> Revising:
    return Revising()


@pytest.fixture
def labels(tmp_path: Path) -> Iterator[Labels]:
    found = Labels(tmp_path / "labels.sqlite")
    yield found
    found.close()


@pytest.fixture
def store(labels: Labels) -> Store:
    return labels.store()


@pytest.fixture
def desk(root: Path, labels: Labels, engine: Revising) -> Constitutions:
    return Constitutions(root, Book(labels), Link(root, engine))


def until(look: Callable[[], dict[str, Any]], state: str = "done") -> dict[str, Any]:
    for _ in range(600):
        shown = look()
        if shown["state"] == state:
            return shown
        assert shown["state"] in ("running", state), shown
        time.sleep(0.05)
    raise AssertionError(f"never {state}: {look()}")


def form(desk: Constitutions, **changes: dict[str, Any]) -> dict[str, Any]:
    """The tiny world's preset as a form; `changes` of its principles by id."""
    found = desk.open({"preset": "tiny"})
    return {"about": found["about"], "principles": [p | changes.get(p["id"], {}) for p in found["principles"]]}


# --- drafts and versions ---------------------------------------------------------------------------------------------


def test_presets_and_versions_can_be_opened(desk: Constitutions) -> None:
    look = desk.look({}, ME)
    assert (look["presets"], look["books"], look["judged"]) == (["general", "tiny"], {}, 0)
    assert desk.save({**form(desk), "name": "our-room"}) == {"name": "our-room", "version": 1, "problems": []}
    found = desk.open({"name": "our-room", "version": 1})
    assert [p["id"] for p in found["principles"]] == ["harm", "refusal", "claim", "flattery", "brevity", "honesty"]
    assert found["principles"][0]["weight"] == 6.0
    assert desk.look({}, GUEST)["books"] == {"our-room": [1]}
    for odd in (
        {"preset": "../../etc/passwd"},
        {"name": "../out", "version": 1},
        {"name": "our-room", "version": "x"},
        {},
    ):
        with pytest.raises((ValueError, ConstitutionError)):
            desk.open(odd)


def test_form_and_yaml_are_the_same_thing(desk: Constitutions) -> None:
    written = desk.read(form(desk, harm={"text": EVIL, "weight": "2.5"}))
    assert written["problems"] == []
    again = desk.read({"yaml": written["yaml"]})
    assert again["principles"] == written["principles"]
    assert (again["principles"][0]["text"], again["principles"][0]["weight"]) == (EVIL, 2.5)


def test_what_is_wrong_is_said_at_its_principle_and_its_line(desk: Constitutions) -> None:
    reply = desk.save(
        {**form(desk, claim={"text": " "}, brevity={"weight": "-3"}, honesty={"id": "harm"}), "name": "mine"}
    )
    lines = reply["yaml"].splitlines()
    said = {(p["principle"], lines[p["line"] - 1].strip().partition(":")[0]) for p in reply["problems"]}
    assert said == {(2, "text"), (4, "weight"), (5, "- id")}
    broken = desk.read({"yaml": "principles:\n  - id: a\n   text: b"})
    assert broken["problems"][0]["line"] == 3
    assert desk.read({"yaml": "[" * 5000})["problems"][0]["line"] is None
    assert desk.read({"principles": "no list"})["problems"] != []
    (odd,) = desk.read(form(desk, harm={"text": "a\x00b"}))["problems"]
    assert odd["sentence"] == "The text holds the control character U+0000; take it out."
    assert desk.look({}, ME)["books"] == {}


@pytest.mark.parametrize("name", ["../out", "", "A B", "a/b", ".hidden"])
def test_a_name_is_no_path(desk: Constitutions, root: Path, name: str) -> None:
    with pytest.raises(ConstitutionError, match="is no name for a constitution"):
        desk.save({**form(desk), "name": name})
    assert sorted(p.name for p in root.parent.rglob("*.yaml")) == []


def test_two_hosts_who_save_at_once_get_two_versions(desk: Constitutions, root: Path, labels: Labels) -> None:
    other, asked, got = Constitutions(root, Book(labels), desk.link), form(desk), []
    gate = threading.Barrier(2)

    def save(who: Constitutions) -> None:
        gate.wait()
        got.append(who.save({**asked, "name": "mine"})["version"])

    threads = [threading.Thread(target=save, args=(who,)) for who in (desk, other)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(got) == [1, 2]
    assert desk.look({}, ME)["books"] == {"mine": [1, 2]}


# --- the test against people -----------------------------------------------------------------------------------------


def test_without_votes_there_is_nothing_to_test(desk: Constitutions) -> None:
    reply = desk.weigh({**form(desk), "against": {"preset": "tiny"}}, ME)
    assert (reply["judged"], reply["tested"], reply["changes"], reply["problems"]) == (0, None, [], [])


def test_a_change_shows_which_judgements_flip(desk: Constitutions, store: Store) -> None:
    """The policy alone adds nothing, and people like it: without brevity all that hangs on it becomes a tie."""
    fill(store)
    reply = desk.weigh({**form(desk, brevity={"on": False}), "against": {"preset": "tiny"}}, ME)
    tested = reply["tested"]
    assert (tested["judgements"], tested["prompts"]) == (24, 8)
    assert tested["against"]["agreement"]["mean"] - tested["version"]["agreement"]["mean"] == pytest.approx(
        -tested["gain"]["mean"])  # fmt: skip
    assert tested["gain"]["mean"] < 0
    assert {tuple(f["principles"]) for f in tested["flips"]} == {("brevity",)}
    assert {(f["before"], f["after"]) for f in tested["flips"]} == {(1, 0)}
    assert tested["flipped"] == len(tested["flips"]) == 14
    assert [h["principle"] for h in tested["version"]["habits"]] == ["harm", "refusal", "claim", "flattery", "honesty"]
    assert tested["version"]["unstable"] == 0.0, "a program looks at no order"
    assert reply["changes"] == [{"id": "brevity", "what": "changed", "parts": [
        {"name": "on", "diff": (("removed", "on"), ("added", "off"))}]}]  # fmt: skip


def test_principles_without_a_program_need_a_role(desk: Constitutions, store: Store) -> None:
    fill(store)
    with pytest.raises(ConstitutionError, match="No program can check the principle serious-harm"):
        desk.weigh({"of": {"preset": "general"}}, ME)


def test_a_role_is_asked_once_for_each_principle_and_pair(desk: Constitutions, engine: Revising, store: Store) -> None:
    fill(store)
    asked = {**form(desk), "judge": "sft"}
    assert desk.weigh(asked, ME)["missing"] == 6 * 24
    assert desk.weigh(asked, ME)["tested"] is None
    desk.ask_role(asked)
    assert until(desk.job.look)["of"] == 6 * 24
    first = desk.weigh(asked, ME)
    assert first["missing"] == 0
    assert first["tested"]["version"]["agreement"]["mean"] > 0.5
    weighed = desk.weigh({**form(desk, harm={"weight": 0.5}), "judge": "sft"}, ME)
    assert weighed["missing"] == 0, "another weight asks nobody"
    assert desk.weigh({**form(desk, harm={"text": "Be kind."}), "judge": "sft"}, ME)["missing"] == 24
    assert sum(a[1] == "opinions" for a in engine.asked if a[0] == "task") == 6


# --- what the host starts --------------------------------------------------------------------------------------------


def test_the_chain_is_seen_by_all_with_its_diffs(desk: Constitutions) -> None:
    desk.revise({**form(desk), "prompt": " evil ", "role": "sft", "critic": "rules", "rounds": "1", "seed": "3"})
    until(desk.chain.job.look)
    shown = desk.look({}, GUEST)["chain"]
    assert (shown["prompt"], shown["draft"], shown["role"]) == ("evil", EVIL, "sft")
    assert shown["rounds"][0]["diff"][-1] == ("added", "It is good.")
    assert [w["score"] for w in shown["end"]["worth"]] == [-0.5, 1.0]
    with pytest.raises(ValueError, match="The prompt is empty"):
        desk.revise({**form(desk), "prompt": " ", "role": "sft"})
    with pytest.raises(ValueError, match=r"There is no role '\.\./x' in the engine"):
        desk.revise({**form(desk), "prompt": "p", "role": "../x"})
    assert desk.revise({"principles": [], "prompt": "p", "role": "sft"})["problems"] != []


def test_a_version_votes_on_the_round(desk: Constitutions, store: Store) -> None:
    items = fill(store)
    desk.save({**form(desk), "name": "mine"})
    desk.vote({"name": "mine", "version": 1})
    assert until(desk.job.look)["done"] == 24
    name = voter("mine", "1", "rules")
    assert name == "constitution:mine-v1"
    assert store.makers()[name] == "constitution"
    votes = {v.item: v for v in store.state().votes() if v.annotator == name}
    assert set(votes) == {i.id for i in items}
    salad = next(i for i in items if i.comparison.prompt == "Name two animals." and i.source == {
        "a": "sft", "b": "policy", "by": "test"})  # fmt: skip
    assert (votes[salad.id].choice, votes[salad.id].note) == ("b", "brevity for b")
    time.sleep(0.6)  # the store is read twice a second
    assert desk.look({}, GUEST)["votes"] == {name: 24}
    with pytest.raises(ValueError, match="constitution:mine-v1 has judged every pair"):
        desk.vote({"name": "mine", "version": 1})
    with pytest.raises(ConstitutionError, match="mine has no version 2; there is v1"):
        desk.vote({"name": "mine", "version": 2})
    desk.vote({"name": "mine", "version": 1, "judge": "sft"})
    until(desk.job.look)
    assert store.makers()["constitution:mine-v1 by sft"] == "constitution"


def test_only_the_host_writes_and_others_read(desk: Constitutions, store: Store) -> None:
    fill(store)
    with acting(GUEST):
        for ask in (desk.read, desk.save, desk.ask_role, desk.vote, desk.revise, desk.stop):
            assert host_ask(ask)({**form(desk), "name": "mine"})["error"].startswith("Only the host can do this")
        assert person_ask(desk.weigh)(form(desk))["error"].startswith("Only the host can do this")
        assert person_ask(desk.weigh)({"of": {"preset": "tiny"}}) | {"changes": []} == {
            "yaml": "", "problems": [], "judged": 24, "missing": 0, "tested": None, "hidden": HIDDEN,
            "changes": []}  # fmt: skip
        assert person_ask(desk.look)({})["host"] is False
    assert desk.look({}, ME)["books"] == {}


def test_what_people_said_is_shown_to_others_after_the_reveal(desk: Constitutions, store: Store) -> None:
    fill(store)
    room = Room(store)
    room.turn("open", "host")
    room.turn("reveal", "host")
    reply = desk.weigh({"of": {"preset": "tiny"}}, GUEST)
    assert (reply["hidden"], reply["tested"]["judgements"]) == ("", 24)
