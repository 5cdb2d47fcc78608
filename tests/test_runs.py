"""The run directory: ids, the log by cursor, status, checkpoints, and what a full disk or a kill leaves."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
from session_toy import ToyConfig

from lab import disk
from lab.config import ConfigError, PPOConfig
from lab.events import Checked, Done, Edited, Evaluated, Probed, Sample, Saved, Started, Updated
from lab.runs import START, DiskError, Follower, Run, RunError, Status, resume_command, runs


def make(root: Path, **kwargs: object) -> Run:
    return Run.create(root, "toy", ToyConfig(), **kwargs)  # type: ignore[arg-type]


def full_disk(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_is_whole_from_its_first_moment(tmp_path: Path) -> None:
    run = Run.create(
        tmp_path,
        "ppo",
        PPOConfig(kl=0.2, seed=7),
        title="a try",
        base={"name": "tiny"},
        parents={"policy": {"run": "sft-1", "role": "sft"}},
    )
    again = Run.open(run.path)
    assert again.id == "ppo-1"
    assert again.config() == PPOConfig(kl=0.2, seed=7)
    assert (again.manifest.seed, again.manifest.title, again.manifest.base) == (7, "a try", {"name": "tiny"})
    assert again.manifest.parents["policy"] == {"run": "sft-1", "role": "sft"}
    assert again.manifest.versions["rlhf-lab"]
    assert again.status().state == "starting"
    assert [p.name for p in tmp_path.iterdir()] == ["ppo-1"]


def test_ids_count_upwards_and_names_are_checked(tmp_path: Path) -> None:
    assert [make(tmp_path).id for _ in range(3)] == ["toy-1", "toy-2", "toy-3"]
    os.rename(tmp_path / "toy-2", tmp_path / "toy-11")
    assert make(tmp_path).id == "toy-12"
    assert make(tmp_path, name="my-run").id == "my-run"
    with pytest.raises(RunError, match=r"exists already; .*lab resume"):
        make(tmp_path, name="my-run")
    for bad in ("../up", ".hidden", "a b", "a/b"):
        with pytest.raises(RunError, match="cannot be the name"):
            make(tmp_path, name=bad)
    with pytest.raises(RunError, match="no run at"):
        Run.open(tmp_path / "nothing")


def test_listing_shows_damaged_runs_and_hides_half_made_ones(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    (tmp_path / ".tmp-toy-9-abc").mkdir()
    (tmp_path / ".tmp-toy-9-abc" / "config.json").write_text("{}")
    (second.path / "config.json").write_text("{half")
    listed = {info.id: info for info in runs(tmp_path)}
    assert set(listed) == {first.id, second.id}
    assert listed[first.id].status.state == "starting"
    assert "cannot be read" in listed[second.id].status.error


def test_reading_by_cursor_never_goes_back(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert run.read() == ([], START)
    events = [Started("toy", 0, 3), Updated(1, {"w": 0.1}), Updated(2, {"w": 0.2})]
    for event in events[:2]:
        run.append(event)
    logged, cursor = run.read()
    assert [(e.index, e.event) for e in logged] == [(0, events[0]), (1, events[1])]
    assert cursor == (run.path.joinpath("events.jsonl").stat().st_size, 2)
    assert run.read(cursor) == ([], cursor)
    run.append(events[2])
    later, _ = run.read(tuple(json.loads(json.dumps(cursor))))
    assert [(e.index, e.event) for e in later] == [(2, events[2])]
    assert logged[0].time <= later[0].time <= time.time()


def test_a_torn_last_line_is_ignored_and_then_cut_off(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.append(Updated(1, {"w": 0.5}))
    log = run.path / "events.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"kind": "Updated", "step": 2, "metr')
    logged, cursor = run.read()
    assert [e.event for e in logged] == [Updated(1, {"w": 0.5})]
    assert cursor == (len(whole), 1)
    run.append(Updated(2, {"w": 0.75}))
    later, _ = run.read(cursor)
    assert [(e.index, e.event) for e in later] == [(1, Updated(2, {"w": 0.75}))]
    assert log.read_bytes().startswith(whole + b'{"kind": "Updated", "time"')


def test_a_torn_line_longer_than_one_read_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n" + b"x" * 200_000)
    disk.append_line(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    path.write_bytes(b"y" * 70_000)
    disk.append_line(path, b"three\n")
    assert path.read_bytes() == b"three\n"


def test_unreadable_and_unknown_lines_are_passed_over(tmp_path: Path) -> None:
    run = make(tmp_path)
    log = run.path / "events.jsonl"
    log.write_bytes(b"\x00\x00\x00\n" + b'{"kind": "FromTheFuture", "time": 1.0, "step": 1}\n')
    run.append(Updated(1, {"w": 0.5}))
    logged, _ = run.read()
    assert [(e.index, e.event) for e in logged] == [(2, Updated(1, {"w": 0.5}))]


def test_every_event_comes_back_as_it_was(tmp_path: Path) -> None:
    run = make(tmp_path)
    sample = Sample(
        "ein Wort: ü\n", "zwei \u2028 Wörter", True, 0.0, None, (("polite", 1.0),), 0.25, ("z",), (-0.5,), (-0.7,)
    )
    events = [
        Probed(1, "policy", (sample,)),
        Checked(1, "ratio", True, 1.0, 1e-5, "ratio is 1"),
        Edited(1, "lr", 0.1, 0.2),
        Saved(1, "checkpoints/step-000001"),
        Evaluated(1, {"eval_loss": 2.0}),
        Done(1, "finished"),
    ]
    for event in events:
        run.append(event)
    assert [e.event for e in run.read()[0]] == events


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, bad: float) -> None:
    run = make(tmp_path)
    with pytest.raises(RunError, match="Updated of step 4 holds a number that is not finite"):
        run.append(Updated(4, {"w": bad}))
    assert run.read()[0] == []


def test_a_full_disk_leaves_the_log_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path)
    run.append(Updated(1, {"w": 0.5}))
    whole = (run.path / "events.jsonl").read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
    with pytest.raises(DiskError, match="No space left"):
        run.append(Updated(2, {"w": 0.75}))
    monkeypatch.undo()
    assert (run.path / "events.jsonl").read_bytes() == whole
    run.append(Updated(2, {"w": 0.75}))
    assert [e.event.step for e in run.read()[0]] == [1, 2]


@pytest.mark.parametrize("call", ["rename", "fsync", "replace", "open"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    run = make(tmp_path)

    def write(folder: Path) -> None:
        disk.write_atomic(folder / "a.json", b"[1]")

    run.save(2, write)
    real = os.open
    refuse_new = lambda path, flags, *rest, **more: (  # noqa: E731
        full_disk() if flags & os.O_CREAT else real(path, flags, *rest, **more)
    )
    monkeypatch.setattr(os, call, refuse_new if call == "open" else full_disk)
    with pytest.raises(DiskError, match=r"checkpoint of step 4 .*No space left.*step 2 is untouched"):
        run.save(4, write)
    monkeypatch.undo()
    assert run.checkpoints() == [2]
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-000002"]
    assert run.save(4, write) == run.path / "checkpoints" / "step-000004"
    assert (run.latest_checkpoint(), (run.checkpoint(4) / "a.json").read_bytes()) == (4, b"[1]")


def test_a_fault_in_saving_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    run = make(tmp_path)

    def broken(folder: Path) -> None:
        raise TypeError("no such tensor")

    with pytest.raises(TypeError, match="no such tensor"):
        run.save(2, broken)
    assert run.checkpoints() == []


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.save(2, lambda folder: disk.write_atomic(folder / "a", b"first"))
    run.save(2, lambda folder: disk.write_atomic(folder / "a", b"second"))
    assert (run.checkpoint(2) / "a").read_bytes() == b"first"


def test_status_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path)
    run.write_status(Status("running", 3, 10))
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        run.write_status(Status("running", 4, 10))
    assert run.status().step == 3
    assert not list(run.path.glob(".*.tmp"))


def test_a_silent_run_is_lost() -> None:
    here = os.uname().nodename
    alive = Status("running", heartbeat=1000.0, pid=os.getpid(), host=here)
    assert not alive.lost(now=1010.0)
    assert alive.lost(now=1010.5)
    assert Status("running", heartbeat=1000.0, pid=2**22 + 1, host=here).lost(now=1000.0)
    assert not Status("running", heartbeat=1000.0, pid=2**22 + 1, host="elsewhere").lost(now=1000.0)
    assert not Status("finished", heartbeat=0.0).lost(now=1000.0)
    assert Status("running", heartbeat=0.0).shown == "lost"


def test_a_run_that_is_starting_is_lost_with_its_process_only() -> None:
    here = os.uname().nodename
    assert not Status("starting", heartbeat=1000.0, pid=os.getpid(), host=here).lost(now=9000.0)
    assert Status("starting", heartbeat=1000.0, pid=2**22 + 1, host=here).lost(now=1000.0)


def test_only_one_writer(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.lock()
    with pytest.raises(RunError, match=r"toy-1 is in use .*stop it there"):
        Run.open(first.path).lock()
    first.unlock()
    second = Run.open(first.path)
    second.lock()
    second.unlock()


def test_a_follower_gathers_by_step(tmp_path: Path) -> None:
    run = make(tmp_path)
    follower = Follower(run)
    sample = Sample("p", "c", True)
    for event in (
        Started("toy", 0, 4),
        Updated(1, {"w": 0.5, "lr": 0.1}),
        Evaluated(1, {"eval_w": 0.4}),
        Checked(1, "finite", False, 1.0, 0.0, "no"),
        Probed(1, "policy", (sample,)),
    ):
        run.append(event)
    assert (follower.refresh(), follower.refresh()) == (5, 0)
    run.append(Checked(2, "finite", True, 0.0, 0.0, "yes"))
    run.append(Updated(2, {"w": 0.75}))
    assert follower.refresh() == 2
    assert (follower.run, follower.method) == ("toy-1", "toy")
    assert follower.metrics == {1: {"w": 0.5, "lr": 0.1, "eval_w": 0.4}, 2: {"w": 0.75}}
    assert follower.columns(["w", "lr", "none"]) == {"w": ([1, 2], [0.5, 0.75]), "lr": ([1], [0.1]), "none": ([], [])}
    assert follower.probes == {1: (sample,)}
    assert follower.checks["finite"].ok
    assert set(follower.times) == {1, 2}


def test_going_on_from_a_checkpoint_takes_back_what_came_after_it(tmp_path: Path) -> None:
    run = make(tmp_path)
    early, late = Follower(run), Follower(run)
    for step in (1, 2, 3, 4):
        run.append(Updated(step, {"w": float(step)}))
        run.append(Probed(step, "policy", (Sample("p", str(step), True),)))
        run.append(Edited(step, "lr", 0.0, float(step)))
        run.append(Checked(step, f"check {step}", True, 0.0, 0.0, "yes"))
    run.append(Saved(4, "checkpoints/step-000004"))
    run.append(Done(4, "failed"))
    early.refresh()
    run.append(Started("toy", 2, 4, "resumed from step 2"))
    run.append(Updated(3, {"w": 30.0}))
    early.refresh()
    late.refresh()
    for follower in (early, late):
        assert follower.metrics == {1: {"w": 1.0}, 2: {"w": 2.0}, 3: {"w": 30.0}}
        assert list(follower.probes) == [1, 2]
        assert [e.step for e in follower.edits] == [1, 2]
        assert list(follower.checks) == ["check 1", "check 2"]
        assert follower.saved == []
        assert follower.done is None
        assert set(follower.times) == {1, 2, 3}


def test_a_branch_is_a_run_with_a_parent(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "toy", ToyConfig(lr=0.5), parents={"policy": {"run": "sft-1"}})
    run.save(2, lambda folder: disk.write_atomic(folder / "a", b"weights"))
    run.append(Edited(1, "spread", 0.1, 0.2))
    run.append(Edited(2, "lr", 0.5, 0.25))
    run.append(Edited(3, "lr", 0.25, 1.0))
    child = run.fork(2, run.config(), edits={"lr": 0.125, "steps": 9})
    assert child.id == "toy-2"
    assert (child.checkpoints(), (child.checkpoint(2) / "a").read_bytes()) == ([2], b"weights")
    assert child.config() == ToyConfig(lr=0.5, steps=9)
    assert child.edits() == [Edited(2, "lr", 0.5, 0.25), Edited(2, "lr", 0.25, 0.125)]
    assert child.manifest.parents == {"policy": {"run": "sft-1"}, "branch": {"run": "toy-1", "step": 2}}
    with pytest.raises(RunError, match="no checkpoint of step 3; saved steps: 2"):
        run.fork(3, run.config())
    with pytest.raises(ConfigError, match="lr is 2; it must lie in"):
        run.fork(2, run.config(), edits={"lr": 2.0})
    with pytest.raises(ConfigError, match="speed is not a setting"):
        run.fork(2, run.config(), edits={"speed": 2.0})
    assert len(runs(tmp_path)) == 2


def test_what_an_error_leaves_behind(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from session_toy import TroubleError

    run = make(tmp_path)
    for text in ("first", "second"):
        folder = run.save_failure(3, TroubleError(text, loss=torch.tensor([1.0, 2.0], requires_grad=True), rows=["a"]))
    row = json.loads((folder / "error.json").read_text())
    assert (row["step"], row["sentence"], row["evidence"]) == (3, "TroubleError: second", {"rows": ["a"]})
    assert load_file(folder / "batch.safetensors")["loss"].tolist() == [1.0, 2.0]


def test_the_command_that_goes_on() -> None:
    assert resume_command(Run("runs/ppo-3")) == "lab resume runs/ppo-3"


WRITER = """
import sys
from pathlib import Path
from lab.disk import write_atomic
from lab.events import Updated
from lab.runs import Run, Status
run = Run.open(sys.argv[1])
run.lock()
step = run.latest_checkpoint() or 0
while True:
    step += 1
    run.append(Updated(step, {"w": float(step), "long": 1 / 3}))
    print(step, flush=True)
    run.write_status(Status("running", step, 10**9))
    if step % 5 == 0:
        run.save(step, lambda folder: [(folder / f"{i}.bin").write_bytes(b"x" * 65536) for i in range(4)])
        print("saved", step, flush=True)
"""


def test_killed_between_any_two_writes(tmp_path: Path) -> None:
    run = make(tmp_path)
    for i in range(8):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(run.path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.003 * i)
        process.kill()
        said = process.stdout.read().split("\n")[:-1]
        process.wait()
        logged, cursor = run.read()
        steps = [e.event.step for e in logged]
        assert cursor.line == len(logged), "every complete line is readable"
        spoken = [int(line) for line in said if line.isdigit()]
        assert not spoken or spoken[-1] in steps[-2:], "what was acknowledged is there"
        saved = [int(line.split()[1]) for line in said if line.startswith("saved")]
        assert set(saved) <= set(run.checkpoints())
        for step in run.checkpoints():
            assert [p.stat().st_size for p in sorted(run.checkpoint(step).iterdir())] == [65536] * 4
        assert run.status().step >= 0
    run.lock()
    assert not list(run.path.glob("checkpoints/.tmp-*"))
    run.unlock()


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys, lab.runs, lab.follow; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
