"""What happened in a run: small frozen values, on the CPU, JSON-able.

A run is an iterator of these. The run directory keeps them as one JSON object a line, with `kind` naming the class.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lab.records import Comparison, Verdict, comparison


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
class Spread:
    """How a quantity lies over the rows or tokens of a step: `counts` of equally wide bins from `low` to `high`."""

    low: float
    high: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: Iterable[float], bins: int = 24) -> Spread | None:
        """The spread of finite values in up to `bins` bins; None where there are none. Equal values make one bin of
        width 1 around them, whole numbers bins of whole width around them."""
        import numpy as np

        numbers = np.asarray(list(values), dtype=float)
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers):
            return None
        low, reach = float(numbers.min()), float(np.ptp(numbers)) + 1
        at: Any = bins if reach > 1 else 1
        if bool((numbers == np.round(numbers)).all()):
            width = -(-reach // bins)
            at = low - 0.5 + width * np.arange(-(-reach // width) + 1)
        counts, edges = np.histogram(numbers, bins=at)
        return cls(float(edges[0]), float(edges[-1]), tuple(int(c) for c in counts))


@dataclass(frozen=True, slots=True)
class Updated:
    """One optimizer update or one step of the method is done. `metrics` are finite floats; NaN never appears."""

    step: int
    metrics: dict[str, float]
    spreads: dict[str, Spread] = field(default_factory=dict)


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
    spreads: dict[str, Spread] = field(default_factory=dict)


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


class Reply:
    """Where the answer to a question goes: empty until `give` is called."""

    __slots__ = ("verdicts",)

    def __init__(self) -> None:
        self.verdicts: tuple[Verdict, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """The run asks for a verdict on each of these comparisons, and waits.

    Nothing has changed since the beginning of the step. The run says this again and again until `answer` has been
    called; iterated by hand:

        for event in online(state, config):
            if isinstance(event, Ask):
                event.answer([Verdict(1.0, "me") for pair in event.comparisons])
    """

    step: int
    comparisons: tuple[Comparison, ...]
    reply: Reply = field(default_factory=Reply, compare=False, repr=False)

    def answer(self, verdicts: Sequence[Verdict]) -> None:
        """Gives one verdict for each comparison, in order; p = None leaves one out.

        Raises ValueError for another number of verdicts, or a p outside [0, 1].
        """
        if len(verdicts) != len(self.comparisons):
            raise ValueError(
                f"There are {len(self.comparisons)} comparisons and {len(verdicts)} verdicts; give one each."
            )
        for v in verdicts:
            if v.p is not None and not 0 <= v.p <= 1:
                raise ValueError(f"A verdict of {v.annotator or 'somebody'} says p = {v.p}; it must lie in [0, 1].")
        self.reply.verdicts = tuple(verdicts)


@dataclass(frozen=True, slots=True)
class Answered:
    """A question was answered: how many comparisons have a verdict, how many were left open, and who gave them."""

    step: int
    verdicts: int
    open: int
    annotators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The run ended. `outcome` is finished, stopped or failed; `sentence` says why and how to go on."""

    step: int
    outcome: str
    sentence: str = ""


Event = Started | Progress | Updated | Probed | Evaluated | Checked | Saved | Edited | Skipped | Ask | Answered | Done

KINDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (Started, Progress, Updated, Probed, Evaluated, Checked, Saved, Edited, Skipped, Ask, Answered, Done)
}


@dataclass(frozen=True, slots=True)
class Logged:
    """An event as it stands in a run's log: with its line number and its time (seconds since the epoch)."""

    index: int
    time: float
    event: Event = field(compare=True)


def to_json(event: Event, now: float | None = None) -> dict[str, Any]:
    """The event as one JSON object: its fields, `kind`, and `time`."""
    values = {key: value for key, value in asdict(event).items() if key != "reply" and (key, value) != ("spreads", {})}
    return {"kind": type(event).__name__, "time": time.time() if now is None else now, **values}


def from_json(row: dict[str, Any]) -> Event:
    """The event that `to_json` wrote. Unknown fields are ignored, so that an older lab reads a newer log."""
    cls = KINDS[row["kind"]]
    values = {f.name: row[f.name] for f in fields(cls) if f.name in row}
    if cls is Probed:
        values["samples"] = tuple(_sample(s) for s in values["samples"])
    elif "spreads" in values:
        values["spreads"] = {name: Spread(v["low"], v["high"], tuple(v["counts"])) for name, v in
                             values["spreads"].items()}  # fmt: skip
    elif cls is Ask:
        values["comparisons"] = tuple(comparison(c) for c in values["comparisons"])
    elif cls is Answered:
        values["annotators"] = tuple(values.get("annotators", ()))
    return cls(**values)


def spreads(**values: Iterable[float]) -> dict[str, Spread]:
    """The spreads of the quantities that have any finite value."""
    return {name: found for name, v in values.items() if (found := Spread.of(v)) is not None}


def _sample(row: dict[str, Any]) -> Sample:
    names = {f.name for f in fields(Sample)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k in names}
    values["reasons"] = tuple((str(n), float(x)) for n, x in values.get("reasons", ()))
    return Sample(**values)
