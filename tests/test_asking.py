"""Who answers a run that asks: a judge in the worker thread, people through a label store, nobody who raises."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from session_toy import ToyConfig, ToyState, build, toy

from lab import tiny
from lab.asking import Answerer, attend, by_judge, by_people
from lab.cli import main
from lab.events import Answered, Ask
from lab.feedback.judging import Opinion
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item, Rules
from lab.records import Comparison, Verdict, prompt_text
from lab.runs import Run
from lab.session import Session, resume
from lab.worker import Worker

CONFIG = ToyConfig(steps=2, asks=3, save_every=0)
ASKED = tuple(next(e for e in toy(ToyState(CONFIG), CONFIG) if isinstance(e, Ask)).comparisons)


@pytest.fixture
def worker() -> Iterator[Worker]:
    hands = Worker()
    yield hands
    hands.close()


def begin(root: Path, worker: Worker, config: ToyConfig = CONFIG) -> Session:
    return Session(Run.create(root, "toy", config), ToyState(config), config, toy, worker=worker)


@dataclass
class Likes:
    """A judge who likes a0 and b1, and has no opinion of the third pair when it is shown the other way round."""

    name: str = "likes"
    threads: set[str] = field(default_factory=set)

    def ask(self, comparisons: Sequence[Comparison]) -> list[Opinion]:
        self.threads.add(threading.current_thread().name)
        p = {"a0": 0.9, "b0": 0.3, "a1": 0.2, "b1": 0.6, "a2": 0.7, "b2": None}
        return [Opinion(p[str(c.a)]) for c in comparisons]


def by_hand(verdicts: Sequence[Verdict]) -> str:
    state = ToyState(CONFIG)
    for event in toy(state, CONFIG):
        if isinstance(event, Ask):
            event.answer(verdicts)
    return state.fingerprint


@pytest.mark.parametrize("soft", [False, True])
def test_a_judge_answers(tmp_path: Path, worker: Worker, soft: bool) -> None:
    """(0.9 + 1 − 0.3) / 2 = 0.8 for a0, (0.2 + 1 − 0.6) / 2 = 0.3 for a1, and no answer."""
    session, who = begin(tmp_path, worker), Likes()
    thread = attend(session, by_judge(who, soft=soft))
    session.play()
    session.wait(20)
    thread.join(20)
    assert not thread.is_alive()
    assert len(who.threads) == 1
    assert threading.current_thread().name not in who.threads
    kept = session.run.reply(1, ASKED)
    assert kept is not None
    assert [v.p for v in kept] == ([pytest.approx(0.8), pytest.approx(0.3), None] if soft else [1.0, 0.0, None])
    assert session.state.fingerprint == by_hand(kept)
    said = [e.event for e in session.run.read()[0] if isinstance(e.event, Answered)]
    assert said == [Answered(step, 2, 1, ("likes",)) for step in (1, 2)]


def test_one_who_raises_ends_the_run(tmp_path: Path, worker: Worker) -> None:
    def answer(ask: Ask) -> list[Verdict]:
        if ask.step == 2:
            raise ConnectionError("the judge went away")
        return [Verdict(1.0)] * 3

    for model in (False, True):
        session = begin(tmp_path, worker)
        attend(session, Answerer(answer, model=model))
        session.play()
        with pytest.raises(ConnectionError, match="the judge went away"):
            session.wait(20)
        assert session.done is not None
        assert "the judge went away" in session.done.sentence


def split_of(store: Store) -> dict[str, str]:
    return {item.id: item.split for item in store.items()}


def vote_all(store: Store, strength: dict[str, int], *people: str) -> None:
    """Everybody judges what they are shown; `strength` is in content order, of the comparisons as they were asked."""
    ids = {c.id: c for c in ASKED}
    for name in people:
        store.person(name)
        while (showing := store.assign(name)) is not None:
            c = ids.get(showing.item.id)
            if c is None:
                store.record(showing.skip())
                continue
            how = strength[str(c.a)] * (1 if showing.item.comparison.a == c.a else -1)
            store.record(showing.vote(how if showing.first == "a" else -how))


def test_people_answer_through_a_store(tmp_path: Path, worker: Worker) -> None:
    """Two votes a pair: both for a0, one each about the second pair, both for b2."""
    with Store.open(tmp_path / "labels.sqlite", rules=Rules(overlap=2, gold=0.0, repeats=0.0, explore=0.0)) as store:
        store.add([Item(ASKED[2].swap())])  # somebody had put it there before, the other way round
        session = begin(tmp_path / "runs", worker)
        attend(session, by_people(store, session.run.id), every_s=0.02)
        session.play()
        wait_for(lambda: len(store.items()) == 3)
        time.sleep(0.1)
        assert session.asking is not None, "nobody has voted"
        vote_all(store, {"a0": 1, "a1": 1, "a2": -2}, "mina")
        time.sleep(0.1)
        assert session.asking is not None, "one vote a pair is not enough"
        vote_all(store, {"a0": 2, "a1": -1, "a2": -1}, "noor")
        wait_for(lambda: session.status.step == 1)
        kept = session.run.reply(1, ASKED)
        assert kept == [Verdict(p, "mina + noor") for p in (1.0, 0.5, 0.0)]
        wait_for(lambda: {item.source.get("step") for item in store.items() if item.source} == {1, 2})
        assert {item.source.get("run") for item in store.items() if item.source} == {session.run.id}
        session.close()


def wait_for(holds, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_what_is_kept_for_evaluation_is_left_open(tmp_path: Path) -> None:
    with Store.open(tmp_path / "labels.sqlite", rules=Rules(overlap=1, gold=0.0, repeats=0.0, explore=1.0)) as store:
        said = by_people(store, "run").answer(Ask(1, ASKED))
        assert said == [Verdict(None, why="kept for evaluation")] * 3
        assert set(split_of(store).values()) == {"evaluation"}


def test_withdrawn_and_unfit_pairs_are_left_open(tmp_path: Path) -> None:
    odd = Comparison("odd?", "a\x00", "b")
    with Store.open(tmp_path / "labels.sqlite", rules=Rules(overlap=1, gold=0.0, repeats=0.0, explore=0.0)) as store:
        who, ask = by_people(store, "run"), Ask(1, (*ASKED, odd))
        assert who.answer(ask) is None
        store.person("host")
        store.withdraw(ASKED[1].id, "host", "w")
        vote_all(store, {"a0": 1, "a1": 1, "a2": 0}, "mina")
        said = who.answer(ask)
        assert said is not None
        assert [v.p for v in said] == [1.0, None, 0.5, None]
        assert "control character U+0000" in said[3].why


def test_a_resumed_run_asks_the_store_again(tmp_path: Path, worker: Worker) -> None:
    with Store.open(tmp_path / "labels.sqlite", rules=Rules(overlap=1, gold=0.0, repeats=0.0, explore=0.0)) as store:
        session = begin(tmp_path / "runs", worker)
        attend(session, by_people(store, session.run.id), every_s=0.02)
        session.play()
        wait_for(lambda: len(store.items()) == 3)
        session.close()
        vote_all(store, {"a0": 1, "a1": 1, "a2": 1}, "mina")
        again = resume(Run.open(session.run.path), build, worker=worker)
        attend(again, by_people(store, again.run.id), every_s=0.02)
        again.play()
        wait_for(lambda: len(store.items()) == 6)
        time.sleep(0.1)
        assert again.status.step == 1
        assert len(store.items()) == 6, "three pairs a step, none twice"
        again.close()


# --- from the terminal -----------------------------------------------------------------------------------------------

SMALL = ("--model", "tiny", "--data", "tiny:prompts", "--device", "cpu", "--steps", "1", "--prompts", "2",
         "--rank", "4", "--max-new-tokens", "16", "--probe-every", "0")  # fmt: skip


def lab(*words: str):
    return CliRunner().invoke(main, ["online", *SMALL, *words])


def test_a_simulated_person_answers_in_the_terminal(tmp_path: Path) -> None:
    done = lab("--judge", "asked", "--ask", "annotator:crowd", "--runs", str(tmp_path), "--out", "asked")
    assert done.exit_code == 0, done.output
    run = Run.open(tmp_path / "asked")
    said = [e.event for e in run.read()[0] if isinstance(e.event, Ask | Answered)]
    assert [type(e) for e in said] == [Ask, Answered]
    assert said[1] == Answered(1, len(said[0].comparisons), 0, ("crowd",))
    kept = run.reply(1, said[0].comparisons)
    assert kept is not None
    crowd = tiny.ANNOTATORS["crowd"]
    for c, v in zip(said[0].comparisons, kept, strict=True):
        p = crowd.preference(prompt_text(c.prompt), (c.a, c.ended[0]), (c.b, c.ended[1]))
        assert v.p == (0.5 if p == 0.5 else float(p > 0.5))


def test_people_answer_in_the_terminal(tmp_path: Path) -> None:
    """Somebody votes while the run waits in this thread."""
    where = tmp_path / "labels.sqlite"
    Store.open(where, rules=Rules(overlap=1, gold=0.0, repeats=0.0, explore=0.0)).close()

    over = threading.Event()

    def votes() -> None:
        with Store.open(where) as store:
            store.person("mina")
            while not over.wait(0.05):
                if (showing := store.assign("mina")) is not None:
                    store.record(showing.vote(1))

    person = threading.Thread(target=votes)
    person.start()
    done = lab("--judge", "asked", "--ask", f"labels:{where}", "--runs", str(tmp_path / "runs"), "--out", "asked")
    over.set()
    person.join(20)
    assert done.exit_code == 0, done.output
    asked, said = [
        e.event for e in Run.open(tmp_path / "runs" / "asked").read()[0] if isinstance(e.event, Ask | Answered)
    ]
    assert said == Answered(1, len(asked.comparisons), 0, ("mina",))


def test_nobody_to_ask(tmp_path: Path) -> None:
    for words, sentence in (
        (("--judge", "asked"), "Nobody would answer; give --ask a judge, or labels:FILE for people."),
        (("--judge", "asked", "--ask", "annotator:nobody"), "There is no annotator 'nobody'; choose one of expert"),
        (("--judge", "asked", "--ask", "reward:nobody"), "'reward:nobody' is no judge"),
        (("--judge", "asked", "--ask", f"labels:{tmp_path}"), "cannot be opened; check that its folder exists"),
        (
            ("--ask", "gold", "--reward", "length?most=9"),
            "gold would answer, but the run does not ask; give --judge asked.",
        ),
        ((), "Nothing says what a completion earns"),
    ):
        done = lab(*words, "--runs", str(tmp_path / "runs"))
        assert done.exit_code != 0
        assert sentence in done.output, done.output
        assert not (tmp_path / "runs").exists()
