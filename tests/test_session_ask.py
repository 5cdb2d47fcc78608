"""A run that asks in the middle: it waits, is answered by anybody, and is bitwise the run that was answered at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import engine_toy
import pytest
from session_toy import ToyConfig, ToyState, build, toy

from lab.engine import Engine, EngineClient, EngineError
from lab.events import Answered, Ask, Done
from lab.records import Verdict
from lab.runs import Run, RunError
from lab.session import Session, resume
from lab.worker import Worker

CONFIG = ToyConfig(steps=3, asks=2, save_every=0)


def says(step: int) -> list[Verdict]:
    """What is answered in a step: 1 and ½, or 0 and nothing."""
    return [Verdict(1.0, "alex"), Verdict(0.5, "kim")] if step % 2 else [Verdict(0.0, "alex", "no"), Verdict(None)]


def by_hand(config: ToyConfig = CONFIG) -> str:
    """The state after the same answers in a plain loop."""
    state = ToyState(config)
    for event in toy(state, config):
        if isinstance(event, Ask):
            event.answer(says(event.step))
    return state.fingerprint


@pytest.fixture
def worker() -> Iterator[Worker]:
    hands = Worker()
    yield hands
    hands.close()


def begin(root: Path, worker: Worker, config: ToyConfig = CONFIG) -> Session:
    return Session(Run.create(root, "toy", config), ToyState(config), config, toy, worker=worker)


def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def waits(session: Session, step: int) -> Ask:
    """The question of this step, once the run waits with it and its thread has nothing left to do."""
    until(lambda: session.asking is not None and session.asking.step == step and session.status.phase == "asking")
    ask = session.asking
    assert ask is not None
    return ask


def logged(run: Run, *kinds: type) -> list:
    return [e.event for e in run.read()[0] if isinstance(e.event, kinds)]


def test_a_question_comes_again_until_it_is_answered() -> None:
    state = ToyState(CONFIG)
    events = [e for e, _ in zip(toy(state, CONFIG), range(9), strict=False) if isinstance(e, Ask)]
    assert len(events) > 3
    assert all(e is events[0] for e in events)
    assert state.fingerprint == ToyState(CONFIG).fingerprint, "a question changes nothing"


def test_a_run_waits_for_its_answers(tmp_path: Path, worker: Worker) -> None:
    session = begin(tmp_path, worker)
    assert session.asking is None
    session.play()
    for step in (1, 2, 3):
        ask = waits(session, step)
        status = session.run.status()
        assert (status.state, status.phase, status.of, status.step) == ("paused", "asking", 2, step - 1)
        with pytest.raises(ValueError, match="There are 2 comparisons and 1 verdicts"):
            session.answer([Verdict(1.0)])
        assert session.asking is ask
        session.answer(says(step))
    assert session.wait(20).outcome == "finished"
    assert session.state.fingerprint == by_hand()
    assert logged(session.run, Ask, Answered) == [
        entry for step, given in ((1, (2, 0, ("alex", "kim"))), (2, (1, 1, ("alex",))), (3, (2, 0, ("alex", "kim"))))
        for entry in (Ask(step, logged(session.run, Ask)[step - 1].comparisons), Answered(step, *given))
    ]  # fmt: skip
    with pytest.raises(RunError, match="has finished"):
        session.answer(says(1))


def test_nothing_is_asked_before_it_plays(tmp_path: Path, worker: Worker) -> None:
    session = begin(tmp_path, worker)
    with pytest.raises(RunError, match="toy-1 asks nothing now"):
        session.answer(says(1))


def test_stopping_while_it_asks(tmp_path: Path, worker: Worker) -> None:
    """It stops at once, where it stood, and asks the same when it is resumed."""
    session = begin(tmp_path, worker)
    session.play()
    waits(session, 1)
    session.answer(says(1))
    first = waits(session, 2)
    session.stop()
    assert session.wait(20).outcome == "stopped"
    assert session.run.checkpoints() == [1]
    again = resume(Run.open(session.run.path), build, worker=worker)
    again.play()
    assert waits(again, 2).comparisons == first.comparisons
    for step in (2, 3):
        waits(again, step)
        again.answer(says(step))
    assert again.wait(20) == Done(3, "finished", "all steps are done")
    assert again.state.fingerprint == by_hand()


def test_a_killed_run_does_not_ask_again(tmp_path: Path, worker: Worker) -> None:
    """Verdicts are kept before the run goes on with them: steps that are repeated find theirs."""
    session = begin(tmp_path, worker)
    session.play()
    for step in (1, 2):
        waits(session, step)
        session.answer(says(step))
    waits(session, 3)
    session.abandon()
    assert session.run.checkpoints() == []
    again = resume(Run.open(session.run.path), build, worker=worker)
    again.play()
    waits(again, 3)
    assert [a.step for a in logged(again.run, Ask)] == [1, 2, 3, 3]
    again.answer(says(3))
    again.wait(20)
    assert again.state.fingerprint == by_hand()


def test_kept_verdicts_on_other_comparisons_are_not_taken(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "toy", CONFIG)
    one, two = next(e for e in toy(ToyState(CONFIG), CONFIG) if isinstance(e, Ask)).comparisons
    assert run.reply(1, [one, two]) is None
    run.save_reply(1, [one, two], says(2))
    assert run.reply(1, [one, two]) == says(2)
    assert run.reply(1, [two, one]) is None
    assert run.reply(1, [one.swap(), two]) is None, "p is about the first of them"
    assert run.reply(2, [one, two]) is None


def test_pausing_editing_and_branching_while_it_asks(tmp_path: Path, worker: Worker) -> None:
    session = begin(tmp_path, worker)
    session.play()
    waits(session, 1)
    session.pause()
    session.answer(says(1))
    status = session.wait_paused(20)
    assert (status.state, status.step) == ("paused", 0)
    session.play()
    waits(session, 2)
    session.edit("lr", 0.25).result(20)
    child = session.branch(name="child")
    assert waits(session, 2).comparisons == logged(session.run, Ask)[1].comparisons
    assert [a.step for a in logged(session.run, Ask)] == [1, 2], "a question is said once"
    for step in (2, 3):
        waits(session, step)
        session.answer(says(step))
    session.wait(20)
    state = ToyState(CONFIG)
    for event in toy(state, CONFIG):
        if isinstance(event, Ask):
            event.answer(says(event.step))
        if event.step == 1:
            state.live["lr"] = 0.25
    assert session.state.fingerprint == state.fingerprint
    other = resume(child, build, worker=worker)
    other.play()
    assert waits(other, 2)
    other.stop()
    other.wait(20)


def test_another_run_plays_while_one_waits(tmp_path: Path, worker: Worker) -> None:
    asking, other = begin(tmp_path, worker), begin(tmp_path, worker, ToyConfig(steps=4))
    asking.play()
    waits(asking, 1)
    other.play()
    assert other.wait(20).outcome == "finished"
    assert asking.call(lambda s: s.step).result(20) == 0
    asking.close()


def test_a_session_that_is_closed_while_it_asks(tmp_path: Path, worker: Worker) -> None:
    session = begin(tmp_path, worker)
    session.play()
    waits(session, 1)
    session.close()
    assert session.done is not None
    assert session.done.outcome == "stopped"


def test_answers_over_the_channel(tmp_path: Path) -> None:
    with Engine(tmp_path / "runs", engine_toy.handlers()) as engine:
        client = EngineClient(engine.root)
        run = client.create("toy", {"steps": 2, "asks": 2, "save_every": 0})
        client.play(run)

        def asked(step: int) -> bool:
            status = Run.open(engine.root / run).status()
            return status.phase == "asking" and status.step == step - 1

        until(lambda: asked(1))
        with pytest.raises(EngineError, match="There are 2 comparisons and 0 verdicts"):
            client.answer(run, [])
        client.answer(run, says(1))
        until(lambda: asked(2))
        client.answer(run, says(2))
        until(lambda: Run.open(engine.root / run).status().state == "finished")
        state = ToyState(ToyConfig())
        state.load(Run.open(engine.root / run).checkpoint(2))
        assert state.fingerprint == by_hand(ToyConfig(steps=2, asks=2, save_every=0))
