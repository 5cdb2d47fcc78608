"""What happened in a run: small frozen values, on the CPU, JSON-able.

A run is an iterator of these. The run directory keeps them as one JSON object a line, with `kind` naming the class.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Started:
    """A run began, or went on after a pause between processes (`step` > 0)."""

    method: str
    step: int
    total: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Within a step: `done` of `of` units of `phase` (sampling, scoring, updating, evaluating)."""

    step: int
    phase: str
    done: int
    of: int


@dataclass(frozen=True, slots=True)
class Updated:
    """One optimizer update or one step of the method is done. `metrics` are finite floats; NaN never appears."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to a probe prompt. `tokens`, `logprobs`, `reference` (log-probabilities in nats) run in parallel."""

    prompt: str
    completion: str
    ended: bool
    reward: float | None = None
    gold: float | None = None
    reasons: tuple[tuple[str, float], ...] = ()
    kl: float | None = None
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Probed:
    """The fixed probe prompts were answered by the role in training at this step."""

    step: int
    role: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Held-out figures at this step."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Checked:
    """One line of the invariant panel: what must hold, the number seen, the limit, and whether it held."""

    step: int
    name: str
    ok: bool
    value: float
    limit: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is complete on disk. `path` is relative to the run directory."""

    step: int
    path: str


@dataclass(frozen=True, slots=True)
class Edited:
    """A live setting was changed by a person between two steps."""

    step: int
    name: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Skipped:
    """Rows that could not be used, counted, with the first few named."""

    step: int
    reason: str
    count: int
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The run ended. `outcome` is finished, stopped or failed; `sentence` says why and how to go on."""

    step: int
    outcome: str
    sentence: str = ""


Event = Started | Progress | Updated | Probed | Evaluated | Checked | Saved | Edited | Skipped | Done

KINDS: dict[str, type] = {
    cls.__name__: cls for cls in (Started, Progress, Updated, Probed, Evaluated, Checked, Saved, Edited, Skipped, Done)
}


@dataclass(frozen=True, slots=True)
class Logged:
    """An event as it stands in a run's log: with its line number and its time (seconds since the epoch)."""

    index: int
    time: float
    event: Event = field(compare=True)


def to_json(event: Event, now: float | None = None) -> dict[str, Any]:
    """The event as one JSON object: its fields, `kind`, and `time`."""
    return {"kind": type(event).__name__, "time": time.time() if now is None else now, **asdict(event)}


def from_json(row: dict[str, Any]) -> Event:
    """The event that `to_json` wrote. Unknown fields are ignored, so that an older lab reads a newer log."""
    cls = KINDS[row["kind"]]
    values = {f.name: row[f.name] for f in fields(cls) if f.name in row}
    if cls is Probed:
        values["samples"] = tuple(_sample(s) for s in values["samples"])
    return cls(**values)


def _sample(row: dict[str, Any]) -> Sample:
    names = {f.name for f in fields(Sample)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k in names}
    values["reasons"] = tuple((str(n), float(x)) for n, x in values.get("reasons", ()))
    return Sample(**values)
