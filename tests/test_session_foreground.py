"""Ctrl-C in the terminal, in a real process: once is a safe stop, twice is at once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from session_toy import ToyConfig, ToyState, build, straight, toy

from lab.events import Done, Event, Updated
from lab.runs import Run, RunError
from lab.session import Session, resume, run_in_foreground
from lab.worker import Worker

PLAY = """
import sys
from pathlib import Path
from session_toy import build
from lab.events import Progress
from lab.runs import Run
from lab.session import resume, run_in_foreground
session = resume(Run.open(sys.argv[1]), build)
def show(event):
    print(type(event).__name__, event.step, flush=True)
done = run_in_foreground(session, show)
print("ended", done.outcome, flush=True)
"""


def play(run: Run) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PLAY, str(run.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def until_said(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(f"the process never said {word!r}: {process.stderr.read() if process.stderr else ''}")


@pytest.mark.parametrize("press", [signal.SIGINT, signal.SIGTERM])
def test_one_press_stops_with_a_checkpoint_and_says_how_to_go_on(tmp_path: Path, press: signal.Signals) -> None:
    config = ToyConfig(steps=4000, pause_s=0.01, save_every=0, probe_every=0, torch=False)
    run = Run.create(tmp_path, "toy", config)
    process = play(run)
    until_said(process, "Updated 3")
    process.send_signal(press)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.endswith("ended stopped\n")
    step = run.latest_checkpoint()
    assert f"stopped after step {step}; go on with: lab resume {run.path}" in err
    state = ToyState(config)
    state.load(run.checkpoint(step or 0))
    assert state.fingerprint == straight(ToyConfig(steps=step or 0, torch=False))
    assert run.status().state == "stopped"


def test_two_presses_leave_at_once(tmp_path: Path) -> None:
    config = ToyConfig(steps=400, pause_s=300.0, save_every=1, torch=False)
    run = Run.create(tmp_path, "toy", config)
    process = play(run)
    until_said(process, "Progress 0")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "Ctrl-C again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"Left at once; go on with: lab resume {run.path}" in err
    assert (run.checkpoints(), run.status().state) == ([], "stopped")
    run.lock()
    run.unlock()


def test_events_come_to_the_caller_in_order(tmp_path: Path) -> None:
    worker, config = Worker(), ToyConfig(steps=3)
    session = Session(Run.create(tmp_path, "toy", config), ToyState(config), config, toy, worker=worker)
    seen: list[Event] = []
    before = signal.getsignal(signal.SIGINT)
    done = run_in_foreground(session, seen.append, say=lambda text: None)
    assert done == seen[-1] == Done(3, "finished", "all steps are done")
    assert [e.step for e in seen if isinstance(e, Updated)] == [1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is before
    worker.close()


def test_a_failing_run_raises_its_own_error(tmp_path: Path) -> None:
    worker, config = Worker(), ToyConfig(steps=3, fail_at=2)
    session = Session(Run.create(tmp_path, "toy", config), ToyState(config), config, toy, worker=worker)
    with pytest.raises(RuntimeError, match="the loss is not finite"):
        run_in_foreground(session)
    worker.close()


def test_a_full_disk_ends_a_run_that_nobody_can_play_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, config = Worker(), ToyConfig(steps=5, save_every=2)
    session = Session(Run.create(tmp_path, "toy", config), ToyState(config), config, toy, worker=worker)
    real = os.rename

    def full(source: Any, target: Any) -> None:
        if "step-000004" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(RunError, match=r"step 4 could not be written \(No space left on device\).*step 2 is untouched"):
        run_in_foreground(session)
    monkeypatch.undo()
    assert session.run.checkpoints() == [2]
    again = resume(Run.open(session.run.path), build, worker=worker)
    run_in_foreground(again)
    assert again.state.fingerprint == straight(config)
    worker.close()
