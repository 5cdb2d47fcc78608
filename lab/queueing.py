"""What is to be trained next: forms and runs that wait for the run that plays now, in `<runs>/.queue.json`.

The file is the queue: whoever holds `.queue.lock` may change it, from any process, and the engine's own thread
(`Player`) takes the first entry when nothing is open any more. So it outlives tabs, Studios and engines. Launching goes
through the same lock, and every launch has a key: the same key twice is one launch, and two people who launch at once
get one run that plays and one clear answer.

A form waits as a form: it may start from the run that plays now, and takes that run's last checkpoint when its turn
comes. After a run that failed, and for an engine that was started anew, the queue waits until somebody says go on.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lab.disk import pretty, write_atomic
from lab.runs import RunError, one_sentence, runs

FILE, LOCK = ".queue.json", ".queue.lock"
MOST = 50
"""Entries that may wait, and launches that are remembered."""

PATIENCE_S = 120.0
"""How long a launch waits for another one that is being made ready."""

QUIET_S = 1.0
"""How long nothing may be open before the next one begins: an engine that closes ends its runs one by one."""


class QueueError(RuntimeError):
    """A queue that cannot take or do what was asked, with the reason."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that waits: a form, or a run that goes on. `key` names it; `wrong` says why it could not begin."""

    key: str
    form: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    by: str = ""
    at: float = 0.0
    wrong: str = ""

    @property
    def title(self) -> str:
        """What it is called where nothing has been made yet."""
        return self.run or str(self.form.get("name") or "") or str(self.form.get("method") or "")


@dataclass(frozen=True)
class State:
    """What the file says: who waits, why nobody is taken (`held`), and what became of recent launches by their keys."""

    waiting: tuple[Entry, ...] = ()
    held: str = ""
    done: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Queue:
    """The queue of one folder of runs. Every method may be called from any thread and any process."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @property
    def path(self) -> Path:
        return self.root / FILE

    def read(self) -> State:
        """How it is now; a file that is missing or damaged is an empty queue."""
        try:
            row = json.loads(self.path.read_bytes())
            waiting = tuple(_entry(e) for e in row.get("waiting", ()) if isinstance(e, dict) and e.get("key"))
            done = row.get("done", {})
            return State(waiting, str(row.get("held", "")), done if isinstance(done, dict) else {})
        except (OSError, ValueError, AttributeError):
            return State()

    def add(self, entry: Entry) -> int:
        """Puts an entry at the end; its place, from 1. The same key again keeps its place.

        Raises QueueError when the queue is full.
        """
        with self.locked() as state:
            keys = [e.key for e in state.waiting]
            if entry.key in keys:
                return keys.index(entry.key) + 1
            if len(keys) >= MOST:
                raise QueueError(f"{MOST} runs wait already; take one out of the queue first.")
            self._write(replace(state, waiting=(*state.waiting, replace(entry, at=entry.at or time.time()))))
            return len(keys) + 1

    def put(self, entry: Entry) -> None:
        """The same for whoever is alone with the queue already, inside a launch."""
        state = self.read()
        self._write(replace(state, waiting=(*state.waiting, replace(entry, at=entry.at or time.time()))))

    def remove(self, key: str) -> Entry | None:
        """Takes an entry out; None where it has begun, or was taken out by somebody else."""
        with self.locked() as state:
            found = next((e for e in state.waiting if e.key == key), None)
            self._write(replace(state, waiting=tuple(e for e in state.waiting if e.key != key)))
            return found

    def move(self, key: str, place: int) -> None:
        """Puts an entry at this place, from 1; nothing happens where it is gone."""
        with self.locked() as state:
            found = [e for e in state.waiting if e.key == key]
            rest = [e for e in state.waiting if e.key != key]
            at = min(max(place - 1, 0), len(rest))
            self._write(replace(state, waiting=(*rest[:at], *found, *rest[at:])))

    def hold(self, why: str) -> None:
        """Takes nobody until somebody says go on (`why` empty)."""
        with self.locked() as state:
            clean = tuple(replace(e, wrong="") for e in state.waiting) if not why else state.waiting
            self._write(replace(state, held=why, waiting=clean))

    def launch(self, key: str, begin: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What `begin()` gives, called at most once for a key; only one launch of this folder happens at a time.

        What `begin` raises passes through, and the key may be tried again. Raises QueueError when another launch takes
        too long.
        """
        with self.locked() as state:
            if key and key in state.done:
                return dict(state.done[key])
            given = dict(begin())
            if key:
                self._remember(key, given)
            return given

    @contextmanager
    def locked(self) -> Iterator[State]:
        """Alone with the queue."""
        lock = FileLock(self.root / LOCK, thread_local=False)
        try:
            lock.acquire(timeout=PATIENCE_S)
        except Timeout as error:
            raise QueueError("Another run has been made ready for two minutes; try again in a moment.") from error
        except OSError as error:
            raise QueueError(f"The folder of runs cannot be written ({error.strerror or error}).") from error
        try:
            yield self.read()
        finally:
            lock.release()

    def _remember(self, key: str, given: Mapping[str, Any]) -> None:
        state = self.read()
        self._write(replace(state, done=dict([*state.done.items(), (key, given)][-MOST:])))

    def _write(self, state: State) -> None:
        row = {"waiting": [asdict(e) for e in state.waiting], "held": state.held, "done": dict(state.done)}
        try:
            write_atomic(self.path, pretty(row))
        except OSError as error:
            raise QueueError(f"The queue could not be kept ({error.strerror or error}); free some space.") from error


def new_key() -> str:
    """A key nobody else has."""
    return uuid.uuid4().hex


def _entry(row: Mapping[str, Any]) -> Entry:
    form = row.get("form")
    return Entry(str(row["key"]), form if isinstance(form, dict) else {}, str(row.get("run", "")),
                 str(row.get("by", "")), float(row.get("at") or 0.0), str(row.get("wrong", "")))  # fmt: skip


class Player:
    """The thread of an engine that plays what waits, one after the other.

    engine : has `root`, `sessions` (id -> session, each with `done`), `over`, `open(id)` and `handlers.make(form)`
    """

    def __init__(self, engine: Any, pause_s: float = 0.5) -> None:
        self.engine, self.queue, self.pause_s = engine, Queue(engine.root), pause_s
        self._quiet, self._since = 0.0, time.time()
        self._thread = threading.Thread(target=self._watch, name="lab-queue", daemon=True)

    def start(self) -> Player:
        """Plays from now on; what waited before this engine began waits until somebody says go on."""
        state = self.queue.read()
        if state.waiting and not state.held:
            self.queue.hold("The engine was started anew; the queue waits until somebody says go on.")
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self.engine.over.wait(self.pause_s):
            try:
                self.turn()
            except (QueueError, RunError, OSError):
                continue  # a folder that cannot be read now may be read at the next turn

    def turn(self) -> str:
        """Takes the next one if nothing is open and nothing holds the queue; the id of the run that began."""
        now = time.monotonic()
        if any(s.done is None for s in tuple(self.engine.sessions.values())):
            self._quiet = 0.0
            return ""
        self._quiet = self._quiet or now
        state = self.queue.read()
        if now - self._quiet < QUIET_S or state.held or not state.waiting:
            return ""
        # A run may begin and fail between two looks, so the directories are asked, and each failure counts once.
        failed = [
            i.id for i in runs(self.queue.root) if i.status.state == "failed" and i.status.heartbeat > self._since
        ]
        self._since = time.time()
        if failed:
            self.queue.hold(f"{failed[-1]} failed; the queue waits until somebody says go on.")
            return ""
        return self._begin()

    def _begin(self) -> str:
        with self.queue.locked() as state:
            if state.held or not state.waiting or any(s.done is None for s in tuple(self.engine.sessions.values())):
                return ""
            entry, *rest = state.waiting
            run = entry.run
            try:
                run = run or str(self.engine.handlers.make(dict(entry.form))["id"])
                self.engine.open(run).play()
            except Exception as error:  # the entry says why, and the thread must live on for the others
                wrong = one_sentence(error)
                waiting = (replace(entry, run=run, wrong=wrong), *rest)
                self.queue._write(replace(state, waiting=waiting, held=f"{entry.title} could not begin: {wrong}"))
                return ""
            done = dict([*state.done.items(), (entry.key, {"id": run, "sentence": f"{run} plays."})][-MOST:])
            self.queue._write(replace(state, waiting=tuple(rest), done=done))
            return run
