"""The queue: a file that outlives everybody, launches that happen once, and an engine that plays what waits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_toy
import pytest
from session_toy import ToyConfig

from lab.engine import Engine
from lab.queueing import FILE, Entry, Player, Queue, QueueError, new_key
from lab.runs import Run, RunError

SLOW = {"steps": 10_000, "pause_s": 0.02, "save_every": 0, "probe_every": 0, "torch": False}
SHORT = {"steps": 3, "save_every": 0, "probe_every": 0, "torch": False}


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path)


def titles(queue: Queue) -> list[str]:
    return [e.title for e in queue.read().waiting]


def test_entries_wait_in_order_and_keep_their_place(queue: Queue) -> None:
    assert [queue.add(Entry(n, {"method": "sft", "name": n})) for n in "abc"] == [1, 2, 3]
    assert queue.add(Entry("b", {"method": "dpo"})) == 2, "the same key keeps its place"
    queue.move("c", 1)
    assert titles(queue) == ["c", "a", "b"]
    queue.move("c", 99)
    queue.move("nobody", 1)
    assert titles(queue) == ["a", "b", "c"]
    taken = queue.remove("b")
    assert taken is not None
    assert taken.form == {"method": "sft", "name": "b"}
    assert queue.remove("b") is None
    assert titles(Queue(queue.root)) == ["a", "c"], "another process reads the same"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"waiting": [{}, 3], "done": 4}', "null"])
def test_a_damaged_file_is_an_empty_queue(queue: Queue, text: str) -> None:
    (queue.root / FILE).write_text(text)
    assert queue.read().waiting == ()
    assert queue.add(Entry("a", run="sft-1")) == 1
    assert titles(queue) == ["sft-1"]


def test_a_full_queue_says_so(queue: Queue) -> None:
    row = {"waiting": [{"key": str(i), "run": f"sft-{i}"} for i in range(50)]}
    (queue.root / FILE).write_text(json.dumps(row))
    with pytest.raises(QueueError, match="50 runs wait already"):
        queue.add(Entry("one more", run="sft-51"))


def test_a_key_is_one_launch_however_often_it_is_sent(queue: Queue) -> None:
    made: list[int] = []

    def begin() -> dict[str, Any]:
        time.sleep(0.02)
        made.append(1)
        return {"id": f"sft-{len(made)}"}

    found: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: found.append(Queue(queue.root).launch("k", begin))) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [{"id": "sft-1"}] * 6
    assert made == [1]
    assert queue.launch(new_key(), begin) == {"id": "sft-2"}


def test_a_launch_that_fails_may_be_tried_again(queue: Queue) -> None:
    def fail() -> dict[str, Any]:
        raise RunError("no data")

    with pytest.raises(RunError):
        queue.launch("k", fail)
    assert queue.launch("k", lambda: {"id": "sft-1"}) == {"id": "sft-1"}


# --- the engine plays what waits -------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    def make(form: dict[str, Any]) -> dict[str, Any]:
        if form.get("name") == "broken":
            raise RunError("There is no file or folder nothing.jsonl.")
        run = Run.create(tmp_path / "runs", "toy", ToyConfig(**form["settings"]), name=form["name"])
        return {"id": run.id}

    handlers = replace(engine_toy.handlers(), make=make, opened=lambda e: Player(e, 0.05).start())
    with Engine(tmp_path / "runs", handlers) as served:
        yield served


def until(holds: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def state(engine: Engine, run: str) -> str:
    path = engine.root / run
    return Run(path).status().state if (path / "status.json").is_file() else ""


def created(engine: Engine, name: str, **settings: Any) -> str:
    return Run.create(engine.root, "toy", ToyConfig(**settings), name=name).id


def test_the_next_begins_when_the_present_one_ends(engine: Engine) -> None:
    first = created(engine, "first", **SLOW)
    engine.open(first).play()
    queue = Queue(engine.root)
    queue.add(Entry("a", {"method": "toy", "name": "second", "settings": SHORT}))
    queue.add(Entry("b", run=created(engine, "third", **SHORT)))
    time.sleep(1.6)
    assert state(engine, "second") == "", "it waits while the first one plays"
    engine.session(first).pause()
    engine.session(first).wait_paused(30)
    time.sleep(1.6)
    assert state(engine, "second") == "", "and while it is paused"
    engine.session(first).stop()
    until(lambda: state(engine, "third") == "finished")
    assert state(engine, "second") == "finished"
    assert queue.read().waiting == ()
    assert queue.read().done["a"]["id"] == "second"


def test_what_cannot_begin_says_why_and_holds_the_others(engine: Engine) -> None:
    queue = Queue(engine.root)
    queue.add(Entry("a", {"method": "toy", "name": "broken", "settings": SHORT}))
    queue.add(Entry("b", {"method": "toy", "name": "fine", "settings": SHORT}))
    until(lambda: bool(queue.read().held))
    assert queue.read().held == "broken could not begin: There is no file or folder nothing.jsonl."
    assert queue.read().waiting[0].wrong == "There is no file or folder nothing.jsonl."
    time.sleep(1.3)
    assert state(engine, "fine") == ""
    queue.remove("a")
    queue.hold("")
    until(lambda: state(engine, "fine") == "finished")


def test_a_run_that_fails_holds_the_queue(engine: Engine) -> None:
    first = created(engine, "first", **SLOW)
    session = engine.open(first)
    session.play()
    queue = Queue(engine.root)
    queue.add(Entry("a", {"method": "toy", "name": "second", "settings": SHORT}))
    session.fail(RunError("nobody answers"))
    until(lambda: bool(queue.read().held))
    assert queue.read().held == "first failed; the queue waits until somebody says go on."
    assert state(engine, "second") == ""


def test_a_new_engine_waits_for_a_word(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    queue = Queue(root)
    queue.add(Entry("a", {"method": "toy", "name": "second", "settings": SHORT}))
    with Engine(root, replace(engine_toy.handlers(), opened=lambda e: Player(e, 0.05).start())):
        assert queue.read().held.startswith("The engine was started anew")
        time.sleep(1.3)
        assert titles(queue) == ["second"]


def test_an_engine_that_closes_begins_nothing_more(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    made: list[Any] = []
    handlers = replace(engine_toy.handlers(), make=lambda form: made.append(form) or {"id": "never"},
                       opened=lambda e: Player(e, 0.05).start())  # fmt: skip
    engine = Engine(root, handlers).start()
    engine.open(created(engine, "first", **SLOW)).play()
    Queue(root).add(Entry("a", {"method": "toy", "name": "never"}))
    engine.close()
    time.sleep(1.3)
    assert made == []
    assert titles(Queue(root)) == ["never"]
