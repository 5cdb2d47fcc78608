"""A reader that keeps up with a run: what its log says, gathered by step, reading only what is new."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from lab.events import (
    Checked,
    Done,
    Edited,
    Evaluated,
    Logged,
    Probed,
    Sample,
    Saved,
    Skipped,
    Spread,
    Started,
    Updated,
)

if TYPE_CHECKING:
    from lab.runs import Run


class Cursor(NamedTuple):
    """How far a reader has come in the log: the next byte and the next line number."""

    offset: int
    line: int


START = Cursor(0, 0)


class Series(NamedTuple):
    """One metric over the steps at which it was logged."""

    steps: list[int]
    values: list[float]


class Follower:
    """What a run's log says, gathered by step. Each `refresh` reads only the lines that are new.

    After a crash a run goes on from an earlier step: the `Started` of that step takes back every later point, probe,
    check, edit and checkpoint which was logged before it, so that no step is shown twice.

    `metrics[step][name]` joins what the step's `Updated` and `Evaluated` say; `times[step]` is in seconds since the
    epoch; `probes[step]` are the answers to the probe prompts; `spreads[step][name]` says how a quantity lay over the
    rows or tokens of the step; `checks[name]` is the latest line of each invariant.
    """

    def __init__(self, source: Run) -> None:
        self.source = source
        self.cursor = START
        self.metrics: dict[int, dict[str, float]] = {}
        self.times: dict[int, float] = {}
        self.probes: dict[int, tuple[Sample, ...]] = {}
        self.spreads: dict[int, dict[str, Spread]] = {}
        self.checked: list[Checked] = []
        self.edits: list[Edited] = []
        self.saved: list[Saved] = []
        self.skipped: list[Skipped] = []
        self.started: Started | None = None
        self.done: Done | None = None

    @property
    def run(self) -> str:
        """The run's id."""
        return self.source.id

    @property
    def method(self) -> str:
        """The run's method."""
        return self.source.manifest.method

    @property
    def checks(self) -> dict[str, Checked]:
        """The latest line of each invariant, by its name."""
        return {c.name: c for c in self.checked}

    def refresh(self) -> int:
        """Reads what is new; returns the number of new events."""
        logged, self.cursor = self.source.read(self.cursor)
        for entry in logged:
            self._take(entry)
        return len(logged)

    def columns(self, names: Iterable[str]) -> dict[str, Series]:
        """The metrics of these names as columns; a name that was never logged has an empty one."""
        found = {name: Series([], []) for name in names}
        for step, row in self.metrics.items():
            for name in found.keys() & row.keys():
                found[name].steps.append(step)
                found[name].values.append(row[name])
        return found

    def _take(self, entry: Logged) -> None:
        event = entry.event
        match event:
            case Updated() | Evaluated():
                self.metrics.setdefault(event.step, {}).update(event.metrics)
                self.times[event.step] = entry.time
                if event.spreads:
                    self.spreads.setdefault(event.step, {}).update(event.spreads)
            case Probed():
                self.probes[event.step] = event.samples
            case Checked():
                self.checked.append(event)
            case Edited():
                self.edits.append(event)
            case Saved():
                self.saved.append(event)
            case Skipped():
                self.skipped.append(event)
            case Started():
                self._take_back(event.step)
                self.started, self.done = event, None
            case Done():
                self.done = event

    def _take_back(self, step: int) -> None:
        for table in (self.metrics, self.times, self.probes, self.spreads):
            for later in [s for s in table if s > step]:
                del table[later]
        for events in (self.checked, self.edits, self.saved, self.skipped):
            _keep(events, step)


def _keep(events: list[Any], step: int) -> None:
    events[:] = [e for e in events if e.step <= step]
