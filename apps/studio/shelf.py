"""The runs of one root as the Studio reads them: one reader a run, shared by everybody who looks."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from lab.events import Started
from lab.figures import colours
from lab.follow import Follower
from lab.runs import Run, RunInfo, Status, runs

SILENT_AFTER_S = 6.0
"""A run that plays and whose heartbeat is older than this is shown as stale (it beats about once a second)."""


@dataclass
class _Reader:
    """A follower, the creation time of the run it reads, and how often that run began (again)."""

    created: float
    follower: Follower
    started: Started | None = None
    epoch: int = 0


class Shelf:
    """Runs by id, each with a follower that reads only what is new. Safe to use from several threads."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.lock = threading.RLock()
        self._readers: dict[str, _Reader] = {}
        self._listed: tuple[float, list[RunInfo]] = (0.0, [])

    def list(self) -> list[RunInfo]:
        """Every run, oldest first; read from the disk at most twice a second."""
        with self.lock:
            if time.monotonic() - self._listed[0] > 0.5:
                self._listed = (time.monotonic(), runs(self.root))
            return self._listed[1]

    def known(self, ids: object, limit: int = 8) -> list[RunInfo]:
        """The runs of these ids that exist, in the order of `list`; anything else in `ids` is passed over."""
        wanted = {i for i in ids if isinstance(i, str)} if isinstance(ids, (list, tuple, set)) else set()
        return [info for info in self.list() if info.id in wanted][-limit:]

    def follower(self, info: RunInfo) -> Follower:
        """The reader of a run, up to date. A directory that was replaced under the same name is read anew."""
        with self.lock:
            reader = self._readers.get(info.id)
            if reader is None or reader.created != info.manifest.created:
                reader = self._readers[info.id] = _Reader(info.manifest.created, Follower(Run(info.path)))
            reader.follower.refresh()
            if reader.started is not reader.follower.started:
                reader.started, reader.epoch = reader.follower.started, reader.epoch + 1
            return reader.follower

    def epoch(self, run: str) -> str:
        """Changes whenever points that were read before may have been taken back: the run began again, or anew."""
        with self.lock:
            reader = self._readers.get(run)
            return "" if reader is None else f"{reader.created:.6f}/{reader.epoch}"

    def palette(self, dark: bool) -> dict[str, str]:
        """The colour of every run."""
        return colours([info.id for info in self.list()], dark)


def shown(status: Status, now: float | None = None) -> str:
    """The state in one word: starting, running, stale, paused, finished, stopped, failed or lost."""
    now = time.time() if now is None else now
    if status.lost(now):
        return "lost"
    return "stale" if status.state == "running" and now - status.heartbeat > SILENT_AFTER_S else status.state


def ago(seconds: float) -> str:
    """A time span a person can read: 14 s, 3 min, 2.5 h, 4 days."""
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / size
            return f"{value:.1f} {unit}" if unit == "h" else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
