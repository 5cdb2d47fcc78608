"""What the panels about labels share: the store as it grows, the room, who is here, and the figures for all who look.

One `Book` for each label store of the process, so that forty people who poll cost one reading of what is new, at most
twice a second, and one computing of the room's figures, at most every two seconds.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from apps.studio.parts import Labels, Parts
from apps.studio.people import Person
from lab.evaluate.features import Features
from lab.evaluate.record import Moment, Record
from lab.feedback.labels.room import Room, RoomState
from lab.feedback.labels.store import Store

READ_S = 0.5
"""Least time between two readings of what is new."""

FIGURES_S, SHARE = 2.0, 12.0
"""Least time between the beginnings of two computings of the room's figures, and how many times the last one's time:
people who vote meanwhile share the interpreter with it."""

HERE_S = 20.0
"""Somebody who was heard of within this is here."""


class Seen(NamedTuple):
    """When somebody was last heard of, seconds of the process's own clock."""

    at: float
    host: bool


class Book:
    """The labels of one Studio. Safe to use from several threads."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._lock, self._reading, self._asking = threading.RLock(), threading.Lock(), threading.Lock()
        self._record: Record | None = None
        self._room: Room | None = None
        self._features: Features | None = None
        self._read: tuple[float, Moment | None] = (-1e9, None)
        self._state: tuple[float, RoomState] = (-1e9, RoomState())
        self._said = -1  # the newest row of the room that `_state` knows
        self._names: dict[str, str] = {}
        self._seen: dict[str, Seen] = {}

    @property
    def store(self) -> Store:
        """The label store. Raises LabelError where none can be opened."""
        return self._labels.store()

    @property
    def room(self) -> Room:
        """The room of the store."""
        with self._lock:
            if self._room is None:
                self._room = Room(self.store)
            return self._room

    @property
    def features(self) -> Features:
        """What the base makes of the answers, kept beside a store that is a file."""
        with self._lock:
            if self._features is None:
                where = self._labels.where
                self._features = Features(None if "://" in where else Path(f"{where}.features.npz"))
            return self._features

    def moment(self, *, now: bool = False) -> Moment:
        """What the store holds; `now`: this very moment, else as of half a second ago, or of whenever somebody who is
        reading at this moment began."""
        at, moment = self._read
        if moment is not None and not now and (time.monotonic() - at < READ_S or self._reading.locked()):
            return moment
        with self._reading:
            at, moment = self._read
            if now or moment is None or time.monotonic() - at > READ_S:
                if self._record is None:
                    self._record = Record(self.store)
                moment = self._record.moment()
                _ = moment.state  # folded here, once for all
                self._read = time.monotonic(), moment
            return moment

    def state(self, *, now: bool = False) -> RoomState:
        """What stands in the room; `now`: this very moment, else as of half a second ago at most."""
        at, state = self._state
        if not now and time.monotonic() - at < READ_S:
            return state
        with self._asking:
            at, state = self._state
            if now or time.monotonic() - at > READ_S:
                newest = self.room.newest()
                if newest != self._said:
                    self._said, state = newest, self.room.state()
                self._state = time.monotonic(), state
            return state

    def name(self, person: Person) -> str:
        """The person's name in the store, where they are from now on; whoever asks is here."""
        with self._lock:
            if person.name not in self._names:
                self._names[person.name] = self.store.person(person.name)
                _warm()
            name = self._names[person.name]
            self._seen[name] = Seen(time.monotonic(), person.host)
            return name

    def here(self) -> dict[str, float]:
        """Who was heard of within the last seconds, and how many seconds ago."""
        with self._lock:
            now = time.monotonic()
            return {name: now - seen.at for name, seen in self._seen.items() if now - seen.at <= HERE_S}


@cache
def _warm() -> None:
    """Reads the libraries of statistics from the disk before the first figure is asked for: it takes seconds."""
    threading.Thread(target=lambda: [import_module(name) for name in STATISTICS], name="lab-warm", daemon=True).start()


STATISTICS = ("statsmodels.stats.proportion", "scipy.optimize", "krippendorff", "lab.evaluate.bias")


@lru_cache(maxsize=4)
def book_of(parts: Parts) -> Book:
    """The book of these parts, the same for every panel."""
    return Book(parts.labels)


class Board:
    """One value for all who look: computed in a thread when its key has changed, and not before `pause_s` is over."""

    def __init__(self, compute: Callable[[], dict[str, Any]], pause_s: float = FIGURES_S) -> None:
        self._compute, self._pause = compute, pause_s
        self._lock = threading.Lock()
        self._key: Any = None
        self._value: dict[str, Any] | None = None
        self._error: Exception | None = None
        self._ready, self._busy = -1e9, False

    def get(self, key: Any, *, wait: bool = False) -> dict[str, Any] | None:
        """The newest value there is, None before the first; where `key` is another than its own, a newer one is begun.
        `wait`: computed here and now. Raises what the computing raised."""
        with self._lock:
            stale = key != self._key and not self._busy and time.monotonic() >= self._ready
            if wait or stale:
                self._busy = True
            else:
                return self._given()
        if wait:
            self._run(key)
        else:
            threading.Thread(target=self._run, args=(key,), name="lab-board", daemon=True).start()
        with self._lock:
            return self._given()

    def _given(self) -> dict[str, Any] | None:
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self, key: Any) -> None:
        value, failed, began = None, None, time.monotonic()
        try:
            value = self._compute()
        except Exception as error:  # whoever asks gets it
            failed = error
        with self._lock:
            self._key, self._error, self._busy = key, failed, False
            self._ready = began + max(self._pause, SHARE * (time.monotonic() - began))
            self._value = value if failed is None else self._value


def plain(value: Any) -> Any:
    """Records and estimates as plain JSON: dataclasses and named tuples by their fields, NaN as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(part) for name, part in value._asdict().items()}  # type: ignore[attr-defined]
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
