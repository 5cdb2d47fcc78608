"""What the Label panel answers, without a browser."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

from apps.studio.book import Book
from apps.studio.components import person_ask
from apps.studio.heads import Heads
from apps.studio.label import Labelling, card, figure
from apps.studio.parts import Parts
from apps.studio.people import Person, acting
from lab.evaluate.agreement import Estimate
from lab.evaluate.oneself import BLOCK, Count, oneself
from lab.feedback.labels.words import Item
from lab.records import Comparison, Message, Preference

from .fake_labels import HOSTILE, ReadingEngine, free_rules, judge, pairs, parts_over, strengths
from .made import make_ppo, make_sft

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
def desk(parts: Parts) -> Labelling:
    book = Book(parts.labels)
    return Labelling(book, Heads(book, parts.link, parts.shelf), parts.link)


def vote(desk: Labelling, at: dict[str, Any], strength: int = 1, person: Person = MINA, **more: Any) -> dict[str, Any]:
    """A vote on what is shown."""
    shown = at["next"]
    return desk.vote({"item": shown["item"], "key": shown["key"], "strength": strength, "ms": 3000} | more, person)


def block(desk: Labelling, n: int = BLOCK, person: Person = MINA, strength: int = 1) -> dict[str, Any]:
    """`n` votes in a row; the last answer."""
    at = desk.place({}, person)
    for _ in range(n):
        at = vote(desk, at, strength, person)
    return at


# --- one after the other ---------------------------------------------------------------------------------------------


def test_an_empty_store_shows_nothing_to_judge(desk: Labelling) -> None:
    at = desk.place({}, MINA)
    assert (at["next"], at["mine"], at["wanted"], at["about"], at["waits"]) == (None, 0, 0, None, "")


def test_a_vote_is_saved_and_carries_the_next_pair(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(3))
    at = desk.place({}, MINA)
    reply = vote(desk, at, 2, reasons=["correct"], note="why not")
    assert (reply["saved"], reply["new"], reply["mine"], reply["room"]) == (True, True, 1, 1)
    assert reply["next"]["item"] != at["next"]["item"]
    assert "about" not in reply
    (said,) = parts.labels.store().events()
    assert (abs(said.strength), said.reasons, said.note, said.ms) == (2, ("correct",), "why not", 3000)


def test_a_pair_is_blind(desk: Labelling, parts: Parts) -> None:
    """Nothing that is sent with a pair names a model, a score, a length or what others said."""
    store = parts.labels.store()
    store.add([Item(Comparison("p", "one", "two"), uncertainty=0.5, source={"a": "secret-sft", "b": "secret-ppo"})])
    judge(store, "tom", 1)
    at = desk.place({}, MINA)
    assert set(at["next"]) == {"item", "key", "prompt", "first", "second", "cut"}
    assert "secret" not in json.dumps(at)
    assert at["about"] is None


def test_two_quick_presses_are_one_vote(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(3))
    at = desk.place({}, MINA)
    first, second = vote(desk, at, 2), vote(desk, at, -2)
    assert (first["new"], second["new"], second["saved"]) == (True, False, True)
    assert second["next"] == first["next"]
    assert len(parts.labels.store().events()) == 1


def test_both_bad_skip_and_undo_without_limit(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(5))
    at = desk.place({}, MINA)
    shown = [at["next"]["item"]]
    at = vote(desk, at, 0, both_bad=True)
    shown.append(at["next"]["item"])
    at = desk.skip({"item": at["next"]["item"], "key": at["next"]["key"]}, MINA)
    for n, (item, kind) in enumerate(zip(reversed(shown), ("skip", "vote"), strict=True)):
        kinds = [e.kind for e in parts.labels.store().events()]
        at = desk.undo({"key": f"undo-000{n}"}, MINA)
        assert at["next"]["item"] == item
        assert kind in kinds
    with pytest.raises(ValueError, match="nothing of yours left"):
        desk.undo({"key": "undo-0009"}, MINA)


def test_a_withdrawn_pair_is_a_sentence_and_the_next_one(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(2))
    at = desk.place({}, MINA)
    parts.labels.store().person("ada")
    parts.labels.store().withdraw(at["next"]["item"], "ada", "w")
    reply = vote(desk, at)
    assert reply["saved"] is False
    assert "withdrawn" in reply["error"]
    assert reply["next"]["item"] != at["next"]["item"]


def test_a_turn_by_turn_prompt_keeps_its_roles(desk: Labelling, parts: Parts) -> None:
    talk = (Message("system", "Be brief."), Message("user", "Hello"))
    parts.labels.store().add([Item(Comparison(talk, "Hi.", "Hello there.", (True, False)))])
    shown = desk.place({}, MINA)["next"]
    assert [t["role"] for t in shown["prompt"]] == ["system", "user"]
    assert sorted(shown["cut"]) == [False, True]


def test_hostile_text_arrives_as_it_is(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(0, hostile=True))
    at, seen = desk.place({}, MINA), set()
    for _ in HOSTILE:
        seen |= {at["next"]["first"][0]["text"], at["next"]["second"][0]["text"]}
        at = vote(desk, at)
    assert set(HOSTILE) <= seen


@pytest.mark.parametrize("more", [
    {}, {"strength": 3}, {"strength": True}, {"strength": 1, "reasons": ["because"]}, {"strength": 1, "ms": -1},
    {"strength": 1, "note": "n" * 2001}, {"strength": 1, "who": "tom"}, {"strength": 1, "key": 5},
])  # fmt: skip
def test_what_does_not_fit_is_a_sentence(desk: Labelling, more: dict) -> None:
    with acting(MINA):
        assert person_ask(desk.vote)({"item": "x", "key": "k"} | more)["error"].startswith("The request does not fit: ")


def test_nobody_judges_in_anothers_name(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(2))
    at = desk.place({}, MINA)
    reply = vote(desk, at, person=TOM)
    assert (reply["saved"], reply["error"]) == (False, "This pair is not yours any more; here is the next one.")
    assert parts.labels.store().events() == []


def test_forty_people_at_once_lose_no_vote(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(30))
    people = [Person(f"p{i}") for i in range(40)]
    threads = [threading.Thread(target=block, args=(desk, 5, p)) for p in people]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    said = parts.labels.store().events()
    assert len(said) == 200 == len({(e.annotator, e.item) for e in said})
    assert max(Counter(e.item for e in said).values()) <= 40
    assert desk.look({}, people[0])["room"] == 200


# --- rounds ----------------------------------------------------------------------------------------------------------


def test_a_vote_under_way_when_the_host_pauses_is_not_lost(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(3))
    desk.book.room.turn("open", "ada", title="capitals")
    desk.book.state(now=True)
    at = desk.place({}, MINA)
    assert (at["round"], at["title"], at["phase"]) == (1, "capitals", "open")
    desk.book.room.turn("pause", "ada")
    desk.book.state(now=True)
    reply = vote(desk, at)
    assert (reply["saved"], reply["next"]) == (True, None)
    assert "paused" in reply["waits"]
    assert desk.place({}, MINA)["next"] is None


def test_after_the_reveal_nothing_blind_is_taken_or_taken_back(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(3))
    desk.book.room.turn("open", "ada")
    at = vote(desk, desk.place({}, MINA))
    desk.book.room.turn("reveal", "ada")
    desk.book.state(now=True)
    reply = vote(desk, at)
    assert (reply["saved"], reply["next"]) == (False, None)
    assert "revealed in Room" in reply["error"]
    with pytest.raises(ValueError, match="before the reveal stays"):
        desk.undo({"key": "undo-0000"}, MINA)
    assert desk.look({}, MINA)["mine"] == 1


# --- about oneself ---------------------------------------------------------------------------------------------------


def test_a_card_comes_with_the_tenth_vote_and_not_before(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(30))
    at = block(desk, BLOCK - 1)
    assert "about" not in at
    assert desk.about({}, MINA)["about"] is None
    at = vote(desk, at)
    assert at["about"]["blocks"] == 1
    assert [f["name"] for f in at["about"]["figures"]] == ["with the room", "with the reward model", "longer", "first"]
    assert "about" not in vote(desk, at)
    assert desk.place({}, MINA)["about"]["blocks"] == 1


def test_the_engines_reward_model_judges_what_no_other_has(
    desk: Labelling, parts: Parts, engine: ReadingEngine
) -> None:
    store = parts.labels.store()
    store.add(pairs(30))
    block(desk)
    told = desk.about({}, MINA)["about"]["figures"][1]
    assert told["of"] > 0
    assert store.makers()["reward-1@60"] == "reward_model"
    asked = engine.asked.count(("task", "rewards"))
    desk.about({}, MINA)
    assert engine.asked.count(("task", "rewards")) == asked == 1, "once for each pair"


@pytest.mark.parametrize("gone", [True, False])
def test_without_a_reward_model_the_rest_of_the_card_is_there(
    desk: Labelling, parts: Parts, engine: ReadingEngine, gone: bool
) -> None:
    engine.there, engine.model = not gone, ""
    parts.labels.store().add(pairs(30))
    block(desk)
    figures = desk.about({}, MINA)["about"]["figures"]
    assert figures[1]["words"] == "no reward model has judged these"
    assert figures[3]["words"].startswith("you picked A 10 of 10")


def test_words_say_when_chance_would_not_explain_it() -> None:
    coin = Count(6, 10, 6, 10, Estimate(0.6, 0.31, 0.83, 10, 10))
    sure = Count(10, 10, 20, 20, Estimate(1.0, 0.84, 1.0, 20, 20))
    none = Count(0, 0, 0, 0, Estimate(None, why="nothing"))
    assert figure("longer", coin, "picked the longer one", "-", coin=True)["words"] == (
        "you picked the longer one 6 of 10; a coin would do that too")  # fmt: skip
    assert figure("first", sure, "picked A", "-", coin=True)["words"] == (
        "you picked A 10 of 10; more than chance would explain")  # fmt: skip
    assert figure("first", none, "picked A", "you chose no side")["words"] == "you chose no side"


def test_the_card_is_plain_json(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(30))
    block(desk)
    found = oneself(desk.book.moment(now=True), "mina")
    assert found is not None
    assert json.loads(json.dumps(card(found), allow_nan=False))["votes"] == 10


# --- one's own reward model ------------------------------------------------------------------------------------------


def trained(desk: Labelling, person: Person = MINA) -> dict[str, Any]:
    """One's own reward model, made or failed."""
    job = desk.train({}, person)
    while job["state"] not in ("done", "failed"):
        time.sleep(0.02)
        job = desk.trained({}, person)
    return job


def test_a_head_of_ones_own_votes(desk: Labelling, parts: Parts, tmp_path: Path, engine: ReadingEngine) -> None:
    make_sft(tmp_path / "runs")
    make_ppo(tmp_path / "runs", steps=90)
    parts.labels.store().add(pairs(60))
    judge(parts.labels.store(), "mina", 40)  # always what is shorter
    judge(parts.labels.store(), "tom", 40)
    job = trained(desk)
    assert job["state"] == "done", job["error"]
    assert job["accuracy"]["mean"] > 0.8, "that shorter is better can be read from the features"
    assert job["accuracy"]["low"] < job["accuracy"]["mean"] < 1.01
    assert job["room"]["mean"] > 0.8
    assert job["policies"][0]["name"] == "sft-1", "what does not ramble"
    assert all(p["gold"]["mean"] is not None for p in job["policies"])
    assert job["lead"]["mean"] > 0
    json.dumps(job, allow_nan=False)
    read = engine.read
    trained(desk)
    assert engine.read == read, "the features are kept"
    assert (tmp_path / "labels.sqlite.features.npz").is_file()


def test_a_head_wants_ten_pairs(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(30))
    judge(parts.labels.store(), "mina", 9)
    assert trained(desk)["error"] == (
        "You have judged 9 pairs that a reward model can learn from; it takes 10.")  # fmt: skip


def test_without_an_engine_one_is_told_what_to_do(desk: Labelling, parts: Parts, engine: ReadingEngine) -> None:
    parts.labels.store().add(pairs(30))
    judge(parts.labels.store(), "mina", 12)
    engine.there = False
    job = trained(desk)
    assert job["state"] == "failed"
    assert "lab engine" in job["error"]
    assert "works without it" in job["error"]


def test_the_rooms_order_is_shown_beside_ones_own_once_it_is_not_blind(desk: Labelling, parts: Parts) -> None:
    make_ppo(parts.shelf.root, steps=40)
    parts.labels.store().add(pairs(60))
    for name in ("mina", "tom", "li"):
        judge(parts.labels.store(), name, 40)
    desk.heads.begin("")
    while desk.heads.job("").state not in ("done", "failed"):  # type: ignore[union-attr]
        time.sleep(0.02)
    assert [p["name"] for p in trained(desk)["room_policies"]] == ["ppo-1"]
    desk.book.room.turn("open", "ada")
    desk.book.state(now=True)
    told = desk.trained({}, MINA)
    assert (told["room_policies"], told["blind"]) == ([], True)


def test_ties_teach_a_head_that_two_answers_are_alike(desk: Labelling, parts: Parts) -> None:
    parts.labels.store().add(pairs(40))
    judge(parts.labels.store(), "mina", 30, strengths([0]))
    job = trained(desk)
    assert job["accuracy"]["mean"] is None
    assert job["accuracy"]["why"] == "there is no choice it could be held against"


@pytest.mark.parametrize("playing", [False, True])
def test_a_head_through_a_real_engine_while_a_run_plays(tmp_path: Path, playing: bool) -> None:
    """The real base of the tiny world reads the answers, and a reward model that plays meanwhile loses no step."""
    pytest.importorskip("torch")
    from lab import launch, tiny
    from lab.base import SharedBase
    from lab.config import RewardConfig
    from lab.desk import Desk
    from lab.engine import Engine
    from lab.runs import Run
    from lab.worker import Worker

    root = tmp_path / "runs"
    worker = Worker()
    base = worker.submit(lambda: SharedBase.load(tiny.CHECKPOINT)).result()
    with Engine(root, Desk(root, base, "tiny").handlers(), worker=worker) as engine:
        parts = Parts.over(root, None, tmp_path / "labels.sqlite")
        store = parts.labels.store()
        store.rule(free_rules())
        store.add([Item(Comparison(p, tiny_answer(p, True), tiny_answer(p, False))) for p in tiny.PROBES])
        judge(store, "mina", 12)
        book = Book(parts.labels)
        heads = Heads(book, parts.link, parts.shelf)
        if playing:
            pairs_of = [Preference("Hello", "Hello, how can I help you?", "I do not know.")] * 8
            run = launch.new_run(root, "reward", RewardConfig(batch=2, epochs=30), launch.Setup(
                str(tiny.CHECKPOINT), world="tiny"), pairs_of)  # fmt: skip
            engine.open(run.id).play()
        job = heads.begin("mina")
        while job.state not in ("done", "failed"):
            time.sleep(0.02)
        assert job.state == "done", job.error
        assert job.result["pairs"] == 12
        assert job.result["eyes"].startswith(base.fingerprint)
        if playing:
            (run_id,) = [p.name for p in root.iterdir() if (p / "config.json").is_file()]
            while Run.open(root / run_id).status().state not in ("finished", "failed"):
                time.sleep(0.05)
            assert Run.open(root / run_id).status().state == "finished"
        parts.labels.close()
    worker.close()


def tiny_answer(prompt: str, good: bool) -> str:
    """An answer of the tiny world, the better one or a poor one."""
    from lab.tiny.answers import DO_NOT_KNOW, ideal
    from lab.tiny.questions import read

    question = read(prompt)
    return ideal(question) if good and question else "I am happy to help. " + DO_NOT_KNOW
