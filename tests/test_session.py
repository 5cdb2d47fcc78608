"""Play, pause, step, stop, edit, branch, call: whatever people do, the run is bitwise the run nobody touched."""

from __future__ import annotations

import errno
import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from session_toy import ToyConfig, ToyState, TroubleError, build, straight, toy

from lab.config import ConfigError
from lab.events import Done, Edited, Event, Probed, Progress, Saved, Started, Updated
from lab.runs import Follower, Run, RunError
from lab.session import Built, Session, close_current, resume
from lab.worker import Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    hands = Worker()
    yield hands
    hands.close()


def begin(root: Path, config: ToyConfig, worker: Worker | None, name: str = "") -> Session:
    return Session(Run.create(root, "toy", config, name=name), ToyState(config), config, toy, worker=worker)


def kinds(run: Run) -> list[tuple[str, int]]:
    return [(type(e.event).__name__, e.event.step) for e in run.read()[0]]


def test_a_run_nobody_touches(tmp_path: Path, worker: Worker) -> None:
    config = ToyConfig(steps=3, save_every=2)
    session = begin(tmp_path, config, worker)
    assert session.status.state == "paused"
    session.play()
    assert session.wait(20) == Done(3, "finished", "all steps are done")
    assert session.state.fingerprint == straight(config)
    step = ["Updated", "Checked", "Probed", "Evaluated"]
    saved_first = ["Updated", "Saved", "Checked", "Probed", "Evaluated"]
    names = [
        ("Started", 0),
        ("Probed", 0),
        *[(k, 1) for k in step],
        *[(k, 2) for k in saved_first],
        *[(k, 3) for k in step],
        ("Saved", 3),
        ("Done", 3),
    ]
    assert kinds(session.run) == names
    status = session.run.status()
    assert (status.state, status.step, status.total, status.pid, status.error) == ("finished", 3, 3, os.getpid(), "")
    assert session.run.checkpoints() == [2, 3]
    session.run.lock()
    session.run.unlock()


@pytest.mark.parametrize("marks", [True, False])
def test_stepping_stops_after_each_step(tmp_path: Path, worker: Worker, marks: bool) -> None:
    config = ToyConfig(steps=4, marks=marks)
    session = begin(tmp_path, config, worker)
    for step in (1, 2):
        session.step()
        status = session.wait_paused(20)
        assert (status.state, status.step, session.call(lambda s: s.step).result()) == ("paused", step, step)
        if marks:
            assert session.run.read()[0][-1].event.step == step
            assert follow(session).probes.keys() == set(range(step + 1))
    session.step()
    session.wait_paused(20)
    session.play()
    assert session.wait(20).outcome == "finished"
    assert session.state.fingerprint == straight(config)


def follow(session: Session) -> Follower:
    follower = Follower(session.run)
    follower.refresh()
    return follower


def test_pausing_and_looking_change_nothing(tmp_path: Path, worker: Worker) -> None:
    config = ToyConfig(steps=5, pause_s=0.01)
    session = begin(tmp_path, config, worker)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())

    def look(state: ToyState) -> int:
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        torch.set_grad_enabled(False)
        return state.step

    session.play()
    seen = [session.call(look).result(20)]
    session.pause()
    session.wait_paused(20)
    seen.append(session.call(look).result(20))
    assert session.call(lambda state: torch.is_grad_enabled()).result(20)
    session.play()
    session.wait(20)
    assert session.state.fingerprint == straight(config)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert session.call(look).result(20) == 5, "one can still look at a finished run"


def test_a_call_waits_for_an_event_and_not_for_a_step(tmp_path: Path, worker: Worker) -> None:
    config = ToyConfig(steps=1)
    session = begin(tmp_path, config, worker)
    seen: list[Any] = []
    session.subscribe(lambda event: seen.append(session.call(lambda s: (s.step, type(event).__name__)).result()))
    session.play()
    session.wait(20)
    assert (0, "Progress") in seen
    assert (1, "Updated") in seen


def test_a_call_that_fails_harms_only_its_caller(tmp_path: Path, worker: Worker) -> None:
    config = ToyConfig(steps=2)
    session = begin(tmp_path, config, worker)
    with pytest.raises(ZeroDivisionError):
        session.call(lambda state: 1 / 0).result(20)
    session.play()
    assert session.wait(20).outcome == "finished"


@pytest.mark.parametrize("marks", [True, False])
def test_stop_and_resume_is_the_run_that_never_stopped(tmp_path: Path, worker: Worker, marks: bool) -> None:
    config = ToyConfig(steps=5, save_every=0, marks=marks)
    session = begin(tmp_path, config, worker)
    session.step(2)
    session.wait_paused(20)
    session.stop()
    done = session.wait(20)
    assert (done.step, done.outcome) == (2, "stopped")
    assert f"lab resume {session.run.path}" in done.sentence
    assert session.run.checkpoints() == [2]
    again = resume(Run.open(session.run.path), build, worker=worker)
    assert again.status.step == 2
    again.play()
    again.wait(20)
    assert again.state.fingerprint == straight(config)
    follower = follow(again)
    assert follower.started == Started("toy", 2, 5, "resumed from step 2")
    assert list(follower.metrics) == [1, 2, 3, 4, 5]


def test_a_run_that_is_being_built_says_so(tmp_path: Path, worker: Worker) -> None:
    session = begin(tmp_path, ToyConfig(steps=5, save_every=0), worker)
    session.step(2)
    session.wait_paused(20)
    session.close()
    seen = []

    def slow(run: Run) -> Built:
        seen.append(run.status())
        return build(run)

    resume(session.run, slow, worker=worker, engine="http://here").close()
    assert (seen[0].state, seen[0].step, seen[0].engine) == ("starting", 2, "http://here")
    assert seen[0].pid == os.getpid()


def test_a_run_that_cannot_be_built_is_as_it_was(tmp_path: Path, worker: Worker) -> None:
    session = begin(tmp_path, ToyConfig(steps=5, save_every=0), worker)
    session.step(2)
    session.wait_paused(20)
    session.close()
    before = session.run.status()

    def refuses(run: Run) -> Built:
        raise RunError("the adapter is of another base.")

    with pytest.raises(RunError, match="another base"):
        resume(session.run, refuses, worker=worker)
    assert session.run.status() == before
    resume(session.run, build, worker=worker).close()  # and it is free again


def test_stop_in_the_middle_of_a_step_ends_after_it(tmp_path: Path, worker: Worker) -> None:
    config = ToyConfig(steps=5, save_every=0)
    session = begin(tmp_path, config, worker)

    def stop_when_updating(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "updating" and event.step == 2:
            session.stop()

    session.subscribe(stop_when_updating)
    session.play()
    assert session.wait(20).step == 3
    assert session.run.checkpoints() == [3]
    assert ("Probed", 3) in kinds(session.run), "the probes of the last step are not lost"
    again = resume(session.run, build, worker=worker)
    again.play()
    again.wait(20)
    assert again.state.fingerprint == straight(config)


def test_stopping_before_the_first_step(tmp_path: Path, worker: Worker) -> None:
    config = ToyConfig(steps=2)
    session = begin(tmp_path, config, worker)
    session.stop()
    assert session.wait(20).outcome == "stopped"
    again = resume(session.run, build, worker=worker)
    again.play()
    again.wait(20)
    assert again.state.fingerprint == straight(config)


def test_an_edit_holds_from_the_next_step_and_is_logged(tmp_path: Path, worker: Worker) -> None:
    config = ToyConfig(steps=4, save_every=0)
    session = begin(tmp_path, config, worker)
    session.step(2)
    session.wait_paused(20)
    assert session.edit("lr", 1).result(20) == Edited(2, "lr", 0.5, 1.0)
    assert session.edit("lr", 0.25).result(20) == Edited(2, "lr", 1.0, 0.25)
    assert session.run.checkpoints() == [2], "an edit makes a checkpoint, so that it cannot be lost"
    session.play()
    session.wait(20)
    assert follow(session).columns(["lr"])["lr"].values == [0.5, 0.5, 0.25, 0.25]
    assert session.state.fingerprint == straight(config, {2: {"lr": 0.25}})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("lr", 2.0, "must lie in"),
        ("lr", "fast", "must be a finite number"),
        ("lr", True, "must be a finite number"),
        ("lr", float("nan"), "must be a finite number"),
        ("lr", float("inf"), "must be a finite number"),
        ("steps", 9, "cannot change during a run; the live settings are lr, spread"),
        ("speed", 1, "cannot change during a run"),
    ],
)
def test_an_edit_that_cannot_be(tmp_path: Path, worker: Worker, name: str, value: Any, sentence: str) -> None:
    session = begin(tmp_path, ToyConfig(), worker)
    with pytest.raises(ConfigError, match=sentence):
        session.edit(name, value)
    assert session.state.live == {}
    session.close()


def test_an_edit_made_while_it_plays(tmp_path: Path, worker: Worker) -> None:
    config = ToyConfig(steps=6, save_every=0)
    session = begin(tmp_path, config, worker)

    def edit(event: Event) -> None:
        if isinstance(event, Progress) and (event.step, event.phase) == (2, "updating"):
            session.edit("spread", 0.0)

    session.subscribe(edit)
    session.play()
    session.wait(20)
    assert follow(session).edits == [Edited(3, "spread", 0.1, 0.0)]
    assert session.run.checkpoints() == [3, 6]
    assert session.state.fingerprint == straight(config, {3: {"spread": 0.0}})


def test_a_branch_goes_its_own_way(tmp_path: Path, worker: Worker) -> None:
    config = ToyConfig(steps=5, save_every=2)
    session = begin(tmp_path, config, worker)
    session.step(3)
    session.wait_paused(20)
    here, back = session.branch(edits={"lr": 0.25}), session.branch(2, edits={"steps": 7}, name="longer")
    assert (here.checkpoints(), back.checkpoints()) == ([3], [2])
    for run in (here, back):
        child = resume(run, build, worker=worker)
        child.play()
        child.wait(20)
    session.play()
    session.wait(20)
    assert session.state.fingerprint == straight(config)

    def end(run: Run) -> str:
        state = ToyState(config)
        state.load(run.checkpoint(run.latest_checkpoint() or 0))
        return state.fingerprint

    assert end(here) == straight(config, {3: {"lr": 0.25}})
    assert end(back) == straight(ToyConfig(steps=7, save_every=2))
    assert Run.open(back.path).manifest.parents == {"branch": {"run": session.run.id, "step": 2}}


def test_branching_in_the_middle_of_a_step_takes_the_last_saved_one(tmp_path: Path, worker: Worker) -> None:
    config = ToyConfig(steps=4, save_every=2)
    session = begin(tmp_path, config, worker)
    points: list[Any] = []

    def branch(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "updating":
            try:
                points.append(session.branch().latest_checkpoint())
            except RunError as error:
                points.append("pause it" in str(error))

    session.subscribe(branch)
    session.play()
    session.wait(20)
    assert points == [True, True, 2, 2]
    assert session.state.fingerprint == straight(config)


WISHES = st.lists(
    st.tuples(
        st.sampled_from(["play", "pause", "step", "settle", "edit", "call", "branch", "restart"]),
        st.integers(1, 3),
        st.sampled_from([0.125, 0.25, 0.75]),
    ),
    max_size=10,
)


@given(wishes=WISHES, marks=st.booleans(), save_every=st.integers(0, 3))
@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_wishes_gives_the_same_run(
    tmp_path_factory: pytest.TempPathFactory, wishes: list[Any], marks: bool, save_every: int
) -> None:
    """The run equals one over the same steps, with each edit made at the step its log line names."""
    config = ToyConfig(steps=8, save_every=save_every, marks=marks)
    worker = Worker()
    session = begin(tmp_path_factory.mktemp("runs"), config, worker)
    branches: list[Run] = []
    for wish, n, value in wishes:
        if session.done is not None:
            break
        try:
            match wish:
                case "play" | "pause":
                    getattr(session, wish)()
                case "step":
                    session.step(n)
                case "settle":
                    session.pause()
                    session.wait_paused(20)
                case "edit":
                    session.edit("lr", value)
                case "call":
                    session.call(lambda state: torch.randn(3)).result(20)
                case "branch":
                    branches.append(session.branch(edits={"spread": value}))
                case "restart":
                    session.close()
                    session = resume(session.run, build, worker=worker)
        except RunError as error:  # it finished in the meantime, or nothing is saved yet
            if session.done is None and "no checkpoint yet" not in str(error):
                raise
    if session.done is None:
        session.play()
    session.wait(20)
    edits: dict[int, dict[str, Any]] = {}
    for edit in follow(session).edits:
        edits.setdefault(edit.step, {})[edit.name] = edit.new
    assert session.state.fingerprint == straight(config, edits)
    assert list(follow(session).metrics) == list(range(1, 9))
    for run in branches:
        start = run.checkpoints()[0]
        own = {s: e for s, e in edits.items() if s < start}
        for edit in run.edits():
            own.setdefault(edit.step, {})[edit.name] = edit.new
        child = resume(run, build, worker=worker)
        child.play()
        child.wait(20)
        assert child.state.fingerprint == straight(config, own)
    worker.close()


@pytest.mark.parametrize("marks", [True, False])
def test_a_crash_goes_on_from_the_last_checkpoint_and_keeps_the_edits(tmp_path: Path, marks: bool) -> None:
    config = ToyConfig(steps=6, save_every=2, marks=marks)
    first = Worker()
    session = begin(tmp_path, config, first)
    session.step(3)
    session.wait_paused(20)
    session.edit("lr", 0.25).result(20)
    session.step(1)
    session.wait_paused(20)
    session.run.unlock()  # as a killed process would leave it: no word in the log, no checkpoint at the end
    first.close()
    second = Worker()
    again = resume(Run.open(session.run.path), build, worker=second)
    assert again.status.step == 4
    again.play()
    again.wait(20)
    assert again.state.fingerprint == straight(config, {3: {"lr": 0.25}})
    second.close()
    session._over.set()


def test_an_error_fails_the_run_and_leaves_the_batch(tmp_path: Path, worker: Worker) -> None:
    config = ToyConfig(steps=6, fail_at=4)
    session = begin(tmp_path, config, worker)
    waiting = session.edit("lr", 0.25)
    waiting.result(20)
    session.play()
    with pytest.raises(TroubleError, match="the loss is not finite"):
        session.wait(20)
    status = session.run.status()
    assert status.state == "failed"
    assert status.error == (
        f"TroubleError: the loss is not finite. Step 2 is saved; go on with: lab resume {session.run.path}"
    )
    last = session.run.read()[0][-1].event
    assert isinstance(last, Done)
    assert (last.step, last.outcome) == (3, "failed")
    row = json.loads((session.run.path / "failure" / "step-000004" / "error.json").read_text())
    assert row["evidence"] == {"rows": ["a", "b"]}
    with pytest.raises(RunError, match="has failed; go on with"):
        session.play()


def test_a_metric_that_is_not_finite_fails_the_run(tmp_path: Path, worker: Worker) -> None:
    def bad(state: ToyState, config: ToyConfig) -> Iterator[Event]:
        state.step += 1
        yield Updated(1, {"loss": float("nan")})

    config = ToyConfig()
    session = Session(Run.create(tmp_path, "toy", config), ToyState(config), config, bad, worker=worker)
    session.play()
    with pytest.raises(RunError, match="Updated of step 1 holds a number that is not finite"):
        session.wait(20)


def test_a_full_disk_pauses_the_run_until_there_is_space(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ToyConfig(steps=5, save_every=2)
    session = begin(tmp_path, config, worker)
    session.step(3)
    session.wait_paused(20)
    real = os.rename

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", full)
    session.play()
    status = session.wait_paused(20)
    assert (status.state, status.step) == ("paused", 4)
    assert "No space left on device" in status.error
    assert "step 2 is untouched" in status.error
    assert session.run.checkpoints() == [2]
    monkeypatch.setattr(os, "rename", real)
    session.play()
    assert session.wait(20).outcome == "finished"
    assert session.run.checkpoints() == [2, 4, 5]
    assert session.run.status().error == ""
    assert session.state.fingerprint == straight(config)
    assert list(follow(session).probes) == [0, 1, 2, 3, 4, 5]


def test_a_log_that_cannot_be_written_loses_no_event(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ToyConfig(steps=3)
    session = begin(tmp_path, config, worker)
    session.step()
    session.wait_paused(20)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
    session.play()
    assert "could not be written" in session.wait_paused(20).error
    monkeypatch.setattr(os, "write", real)
    session.play()
    session.wait(20)
    assert list(follow(session).metrics) == [1, 2, 3]
    assert session.state.fingerprint == straight(config)


def test_two_sessions_cannot_share_a_run(tmp_path: Path, worker: Worker) -> None:
    session = begin(tmp_path, ToyConfig(), worker)
    with pytest.raises(RunError, match="is in use"):
        resume(Run.open(session.run.path), build, worker=worker)
    with pytest.raises(RunError, match="is in use"):
        Session(session.run, ToyState(ToyConfig()), ToyConfig(), toy, worker=worker)
    session.step()
    assert session.wait_paused(20).step == 1
    session.close()
    resume(Run.open(session.run.path), build, worker=worker).close()


def test_two_runs_take_turns_in_one_thread(tmp_path: Path, worker: Worker) -> None:
    threads: set[str] = set()
    sessions = [begin(tmp_path, ToyConfig(seed=seed, steps=5), worker) for seed in (1, 2)]
    for session in sessions:
        session.subscribe(lambda event: threads.add(threading.current_thread().name))
        session.play()
    for seed, session in zip((1, 2), sessions, strict=True):
        session.wait(20)
        assert session.state.fingerprint == straight(ToyConfig(seed=seed, steps=5))
    assert threads == {"lab-worker"}


def test_running_a_notebook_cell_again_closes_what_it_made_before(tmp_path: Path) -> None:
    config = ToyConfig(steps=1000, pause_s=0.01, save_every=0, probe_every=0)
    first = begin(tmp_path, config, None)
    first.play()
    second = begin(tmp_path, config, None)
    assert first.wait(20).outcome == "stopped"
    assert first.run.latest_checkpoint() == first.state.step
    assert second.status.state == "paused"
    again = resume(Run.open(first.run.path), build)
    assert second.wait(20).outcome == "stopped"
    assert again.worker is first.worker is second.worker
    close_current()
    assert again.wait(20).outcome == "stopped"


def test_leaving_at_once_makes_no_checkpoint(tmp_path: Path, worker: Worker) -> None:
    session = begin(tmp_path, ToyConfig(steps=5, save_every=2), worker)
    session.step(3)
    session.wait_paused(20)
    session.abandon()
    assert session.run.checkpoints() == [2]
    assert "left without a checkpoint after step 2; go on with: lab resume" in session.wait(20).sentence
    assert session.run.status().state == "stopped"


def test_the_run_says_so_when_it_is_asked_too_late(tmp_path: Path, worker: Worker) -> None:
    session = begin(tmp_path, ToyConfig(steps=1), worker)
    session.play()
    session.wait(20)
    session.stop()
    for wish in (session.play, session.pause, session.step, lambda: session.edit("lr", 0.5)):
        with pytest.raises(RunError, match="has finished; branch it"):
            wish()
    with pytest.raises(RunError, match="from 1 on"):
        session.step(0)
    session.close()


def test_a_wish_on_its_way_is_shown(tmp_path: Path, worker: Worker) -> None:
    session = begin(tmp_path, ToyConfig(steps=3), worker)
    seen: list[tuple[str, str]] = []

    def pause(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "updating":
            session.pause()
            status = session.run.status()
            seen.append((status.state, status.wanted))

    session.subscribe(pause)
    session.play()
    status = session.wait_paused(20)
    assert seen == [("running", "pause")]
    assert (status.state, status.wanted, status.step) == ("paused", "", 1)
    session.close()


def test_iterating_without_a_session() -> None:
    config = ToyConfig(steps=2, probe_every=0)
    state = ToyState(config)
    first = toy(state, config)
    for event in first:
        if isinstance(event, Updated):
            break
    first.close()
    steps = [e.step for e in toy(state, config) if isinstance(e, Updated)]
    assert steps == [2]
    assert state.fingerprint == straight(config)


def test_saved_lines_name_the_folder(tmp_path: Path, worker: Worker) -> None:
    session = begin(tmp_path, ToyConfig(steps=2), worker)
    session.play()
    session.wait(20)
    saved = [e.event for e in session.run.read()[0] if isinstance(e.event, Saved)]
    assert saved == [Saved(2, "checkpoints/step-000002")]
    assert (session.run.path / saved[0].path / "state.safetensors").is_file()
    assert any(isinstance(e.event, Probed) for e in session.run.read()[0])


def test_whoever_watches_cannot_end_the_run(tmp_path: Path, worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    config = ToyConfig(steps=3)
    session = begin(tmp_path, config, worker)
    seen: list[Event] = []

    def broken(event: Event) -> None:
        seen.append(event)
        raise ZeroDivisionError("a view that fails")

    unsubscribe = session.subscribe(broken)
    session.play()
    assert session.wait(20).outcome == "finished"
    assert len(seen) == 1
    assert "a view that fails" in capsys.readouterr().err
    unsubscribe()
