"""The engine and its channel: control, sampling that can be cancelled, one engine a directory, a life of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import engine_toy
import httpx
import pytest
from session_toy import ToyConfig, ToyState, straight, toy

from lab.client import engine_command, engine_file, find_engine, log_file, start_detached
from lab.engine import Engine, EngineClient, EngineError
from lab.records import Message
from lab.runs import Follower, Run
from lab.session import Session
from lab.worker import Worker

SLOW = {"steps": 10_000, "pause_s": 0.02, "save_every": 0, "probe_every": 0, "torch": False}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "runs", engine_toy.handlers()) as served:
        yield served


@pytest.fixture
def client(engine: Engine) -> EngineClient:
    return EngineClient(engine.root)


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def state_of(client: EngineClient, run: str) -> tuple[str, int]:
    row = next(r for r in client.status()["runs"] if r["id"] == run)
    return row["state"], row["step"]


def end(root: Path, run: str) -> str:
    state = ToyState(ToyConfig())
    folder = Run.open(root / run)
    state.load(folder.checkpoint(folder.latest_checkpoint() or 0))
    return state.fingerprint


def test_a_run_from_its_making_to_its_end(engine: Engine, client: EngineClient) -> None:
    run = client.create("toy", {"steps": 5, "lr": 0.25}, title="first")
    assert run == "toy-1"
    assert state_of(client, run) == ("starting", 0)
    client.step(run, 2)
    until(lambda: state_of(client, run) == ("paused", 2))
    client.edit(run, "lr", 0.75)
    until(lambda: bool(Run.open(engine.root / run).edits()))
    child = client.branch(run, edits={"spread": 0.0}, name="calm")
    client.play(run)
    client.play(child)
    for name in (run, child):
        until(lambda name=name: state_of(client, name) == ("finished", 5))
    config = ToyConfig(steps=5, lr=0.25)
    assert end(engine.root, run) == straight(config, {2: {"lr": 0.75}})
    assert end(engine.root, child) == straight(config, {2: {"lr": 0.75, "spread": 0.0}})
    assert Run.open(engine.root / run).status().engine == engine.address
    until(lambda: not engine.sessions)


def test_pause_and_stop_over_the_channel(engine: Engine, client: EngineClient) -> None:
    run = client.create("toy", SLOW)
    client.play(run)
    until(lambda: state_of(client, run)[1] > 1)
    client.pause(run)
    until(lambda: state_of(client, run)[0] == "paused")
    client.play(run)
    client.stop(run)
    until(lambda: state_of(client, run)[0] == "stopped")
    folder = Run.open(engine.root / run)
    assert folder.latest_checkpoint() == folder.status().step
    client.step(run)
    until(lambda: state_of(client, run) == ("paused", (folder.latest_checkpoint() or 0) + 1))


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda c: c.play("nothing"), "there is no run at"),
        (lambda c: c.play(".."), "does not know this request"),
        (lambda c: c.play("..%2Fnothing"), "does not know this request"),
        (lambda c: c.pause("toy-1"), "toy-1 is not open in this engine; play it first"),
        (lambda c: c.create("magic"), "'magic' is not a method; choose one of sft, reward, process, "),
        (lambda c: c.create("toy", {"speed": 1}), "the settings of toy do not fit: .*'speed'"),
        (lambda c: c.create("toy", {"lr": 3.0}), "lr is 3; it must lie in"),
        (lambda c: c.create("toy", name="toy-1"), "exists already"),
        (lambda c: c.branch("toy-1"), "toy-1 has no checkpoint to branch from"),
        (lambda c: c._verb("toy-1", "fly"), "a run cannot 'fly'"),
        (lambda c: list(c.sample("", ["a"])), "needs a prompt and at least one role"),
        (lambda c: list(c.sample("x", [])), "needs a prompt and at least one role"),
        (lambda c: list(c.sample("x", ["a"], max_new_tokens=0)), "max_new_tokens 1 or more"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    client: EngineClient, ask: Callable[[EngineClient], object], sentence: str
) -> None:
    client.create("toy")
    with pytest.raises(EngineError, match=sentence):
        ask(client)


def test_an_edit_that_is_refused_says_why(client: EngineClient) -> None:
    run = client.create("toy")
    client.step(run)
    with pytest.raises(EngineError, match="lr must be a finite number, not 'much'"):
        client.edit(run, "lr", "much")


def test_sampling_streams_from_the_worker_thread(client: EngineClient) -> None:
    engine_toy.THREADS.clear()
    rows = list(client.sample("hello", ["policy"], max_new_tokens=3))
    assert rows == [{"role": "policy", "text": t, "ids": list(range(len(t)))} for t in ("h", "he", "hel")]
    talk = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))
    assert [r["text"] for r in client.sample(talk, ["policy"], max_new_tokens=2)] == ["t", "th"]
    assert client.score("p", ["ab", "abc"], ["reward", "gold"]) == {"reward": [2, 3], "gold": [2, 3]}
    assert {"lab-worker"} == engine_toy.THREADS


def test_rows_arrive_while_the_sampler_goes_on(client: EngineClient) -> None:
    engine_toy.CLOSED.clear()
    rows = client.sample("a long story", ["policy"], max_new_tokens=10_000, options={"sleep_s": 0.01})
    assert next(rows)["text"] == "a"
    assert engine_toy.CLOSED == []
    rows.close()  # type: ignore[attr-defined]
    until(lambda: engine_toy.CLOSED == ["a long story"])
    assert [r["text"] for r in client.sample("next", ["policy"], max_new_tokens=1)] == ["n"]


def test_a_sampler_that_fails_ends_the_stream_with_its_sentence(client: EngineClient) -> None:
    rows = client.sample("hello", ["policy"], max_new_tokens=9, options={"fail_at": 2})
    assert [next(rows)["text"], next(rows)["text"]] == ["h", "he"]
    with pytest.raises(EngineError, match="StrangeWordError: the sampler met a word it does not know") as raised:
        next(rows)
    assert raised.value.payload == {"unknown": ["zebroid"]}


def test_a_task_says_row_after_row_in_the_worker_thread(client: EngineClient) -> None:
    engine_toy.THREADS.clear()
    assert list(client.task("count", {"to": 4})) == [{"n": 0}, {"n": 1}, {"n": 2}, {"n": 3}]
    assert {"lab-worker"} == engine_toy.THREADS
    with pytest.raises(EngineError, match="there is no task 'nothing'"):
        list(client.task("nothing"))


def test_a_task_that_fails_ends_with_its_sentence_and_payload(client: EngineClient) -> None:
    rows = client.task("fall")
    assert next(rows) == {"n": 0}
    with pytest.raises(EngineError, match="a word it does not know") as caught:
        next(rows)
    assert caught.value.payload == {"unknown": ["zebroid"]}


def test_a_run_goes_on_between_two_rows_of_a_task(engine: Engine, client: EngineClient) -> None:
    run = client.create("toy", SLOW)
    client.play(run)
    rows = client.task("count", {"to": 10**9})
    next(rows)
    before = engine.sessions[run].status.step
    until(lambda: next(rows)["n"] > 0 and engine.sessions[run].status.step > before)
    engine_toy.CLOSED.clear()
    rows.close()
    until(lambda: engine_toy.CLOSED == ["task count"])
    client.stop(run)


def test_sampling_and_scoring_leave_a_run_as_it_is(engine: Engine, client: EngineClient) -> None:
    config = ToyConfig(steps=20, pause_s=0.005, save_every=0)
    run = client.create("toy", {"steps": 20, "pause_s": 0.005, "save_every": 0})
    client.play(run)
    while state_of(client, run)[0] != "finished":
        list(client.sample("hello", ["policy"], max_new_tokens=2))
        client.score("p", ["c"], ["reward"])
    assert end(engine.root, run) == straight(config)


def test_the_token_is_needed_and_only_its_owner_can_read_it(engine: Engine) -> None:
    assert stat.S_IMODE(engine_file(engine.root).stat().st_mode) == 0o600
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {engine.token}"}):
        with httpx.Client(base_url=engine.address, trust_env=False, headers=headers) as other:
            for method, path in (
                ("GET", "/status"),
                ("POST", "/sample"),
                ("POST", "/runs"),
                ("POST", "/shutdown"),
                ("POST", "/task/count"),
                ("POST", "/runs/toy-1/play"),
            ):
                answer = other.request(method, path)
                assert (answer.status_code, "token is needed" in answer.json()["error"]) == (401, True)
    assert engine.address.startswith("http://127.0.0.1:")


def test_one_engine_a_directory(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"another engine serves .* already"):
        Engine(engine.root, engine_toy.handlers())


def test_a_run_in_use_elsewhere_is_not_opened(engine: Engine, client: EngineClient) -> None:
    run = client.create("toy")
    elsewhere = Run.open(engine.root / run)
    elsewhere.lock()
    with pytest.raises(EngineError, match="toy-1 is in use"):
        client.play(run)
    elsewhere.unlock()
    client.play(run)
    until(lambda: state_of(client, run)[0] == "finished")
    with pytest.raises(EngineError, match="has finished; branch it"):
        client.play(run)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(EngineError, match=r"port \d+ cannot be used \(Address already in use\); choose another"):
            Engine(tmp_path, engine_toy.handlers(), port=other.getsockname()[1])
    with Engine(tmp_path, engine_toy.handlers()):
        assert find_engine(tmp_path)
    assert not engine_file(tmp_path).exists()


def test_no_engine_and_the_file_of_one_that_is_gone(tmp_path: Path) -> None:
    client = EngineClient(tmp_path)
    with pytest.raises(EngineError, match=r"no engine is running here; start one with `lab engine .*`"):
        client.status()
    row = {"address": "http://127.0.0.1:9", "token": "t", "pid": 2**22 + 1, "host": socket.gethostname()}
    engine_file(tmp_path).write_text(json.dumps(row))
    with pytest.raises(EngineError, match="no engine is running here"):
        client.status()
    engine_file(tmp_path).write_text(json.dumps({**row, "pid": os.getpid()}))
    with pytest.raises(EngineError, match="no engine answers at"):
        client.status()
    engine_file(tmp_path).write_text("{torn")
    assert find_engine(tmp_path) is None


def test_closing_the_engine_saves_what_plays(tmp_path: Path) -> None:
    with Engine(tmp_path, engine_toy.handlers()) as engine:
        client = EngineClient(tmp_path)
        run = client.create("toy", SLOW)
        client.play(run)
        until(lambda: state_of(client, run)[1] > 0)
    folder = Run.open(tmp_path / run)
    assert folder.status().state == "stopped"
    assert folder.latest_checkpoint() == folder.status().step > 0
    assert engine.over.is_set()


@pytest.fixture
def detached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineClient]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    client = start_detached(tmp_path, engine_command(tmp_path, "engine_toy:handlers"))
    pid = client.status()["pid"]
    yield client
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_an_engine_with_a_life_of_its_own(tmp_path: Path, detached: EngineClient) -> None:
    status = detached.status()
    assert (status["about"], status["pid"] != os.getpid()) == ({"base": "toy"}, True)
    assert os.getsid(status["pid"]) != os.getsid(0), "closing the terminal does not reach it"
    again = start_detached(tmp_path, ["/nothing/here"])
    assert again.status()["pid"] == status["pid"], "an engine that is there is used"
    run = detached.create("toy", {**SLOW, "save_every": 5})
    detached.play(run)
    rows = detached.sample("hello", ["policy"], max_new_tokens=2)
    assert [r["text"] for r in rows] == ["h", "he"]
    folder = Run.open(tmp_path / run)
    until(lambda: bool(folder.checkpoints()))
    os.kill(status["pid"], signal.SIGKILL)
    os.waitpid(status["pid"], 0)
    assert folder.status().state == "running"
    assert folder.status().shown == "lost"
    with pytest.raises(EngineError, match="no engine is running here"):
        detached.status()
    saved = folder.latest_checkpoint()
    second = start_detached(tmp_path, engine_command(tmp_path, "engine_toy:handlers"))
    second.play(run)
    until(lambda: folder.status().step > (saved or 0) + 5)
    second.shutdown()
    until(lambda: find_engine(tmp_path) is None)
    follower = Follower(folder)
    follower.refresh()
    assert list(follower.metrics) == list(range(1, folder.status().step + 1)), "no step is missing or twice"
    assert folder.status().state == "stopped"
    state = ToyState(folder.config())
    state.load(folder.checkpoint(folder.status().step))
    assert state.fingerprint == straight(ToyConfig(steps=folder.status().step, torch=False))


def test_ctrl_c_in_the_engine_process_saves_and_ends(tmp_path: Path, detached: EngineClient) -> None:
    pid = detached.status()["pid"]
    run = detached.create("toy", SLOW)
    detached.play(run)
    until(lambda: state_of(detached, run)[1] > 0)
    os.kill(pid, signal.SIGINT)
    assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 0
    folder = Run.open(tmp_path / run)
    assert (folder.status().state, folder.latest_checkpoint()) == ("stopped", folder.status().step)
    assert "Stopping the runs" in log_file(tmp_path).read_text()
    assert find_engine(tmp_path) is None


def test_an_engine_that_cannot_start_says_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="ended before it answered: ModuleNotFoundError: No module named 'nowhere'"):
        start_detached(tmp_path, engine_command(tmp_path, "nowhere:handlers"))
    with pytest.raises(EngineError, match="the engine ended before it answered: port 1 is bad"):
        start_detached(tmp_path, [sys.executable, "-c", "raise SystemExit('port 1 is bad')"])


def test_the_client_needs_no_torch() -> None:
    code = "import sys, lab.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_notebook_that_is_the_engine_itself(tmp_path: Path) -> None:
    worker = Worker()
    config = ToyConfig(steps=4)
    session = Session(Run.create(tmp_path, "toy", config), ToyState(config), config, toy, worker=worker)
    with Engine(tmp_path, engine_toy.handlers(), worker=worker) as engine:
        engine.adopt(session)
        client = EngineClient(tmp_path)
        client.step("toy-1", 2)
        assert session.wait_paused(20).step == 2
        client.play("toy-1")
        assert session.wait(20).outcome == "finished"
    assert session.call(lambda state: state.step).result(20) == 4, "the kernel's worker outlives the channel"
    worker.close()
