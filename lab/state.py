"""What a session and a trainer promise each other.

What a trainer promises, so that a run that was stopped, looked at or resumed is bitwise the run that never was:

- `method(state, config)` continues from `state.step`, and `state` holds everything it needs to do so;
- a step begins with `Progress(step, phase, 0, of)`, yielded before anything in the state changes; it runs under
  `dataclasses.replace(config, **state.live)`;
- it ends with `state.step += 1` and `Updated(state.step, …)`; `Checked`, `Probed`, `Evaluated`, and `Progress` of the
  phases "evaluating" and "probing", may follow and do not change the state. From `Updated` to the beginning of the next
  step it is safe to save, and safe to leave the generator and call it again;
- an `Ask` may come between the beginning of a step and its first change of the state, again and again until it is
  answered: there it is safe to save and to leave as well, and a generator that is called again asks the same;
- it writes no files, and never yields inside a `with`.

A trainer that does not mark the beginning of its steps works too; a pause then comes right after `Updated`, before
the probes of that step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lab.config import ConfigError, Setting
from lab.events import Answered, Ask, Checked, Evaluated, Event, Probed, Progress, Skipped, Started

if TYPE_CHECKING:
    from lab.runs import Run

LOOKS = ("evaluating", "probing")
"""Phases of `Progress` that look at the state between two steps and leave it as it is."""


class State(Protocol):
    """Everything a run needs to go on. Only the worker thread touches it."""

    step: int
    """Complete steps."""
    total: int
    """Steps in all."""
    live: dict[str, Any]
    """Edited live settings by name; they override the config from the next step on and are saved with the state."""

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the roles in training."""
        ...

    def save(self, folder: Path) -> None:
        """Writes everything into an existing empty folder, as safetensors and JSON."""
        ...

    def load(self, folder: Path) -> None:
        """Restores, bitwise, what `save` wrote."""
        ...


Method = Callable[[Any, Any], Iterator[Event]]
Listener = Callable[[Event], None]


class Built(NamedTuple):
    """What a run directory means in memory: a fresh state at step 0, the settings, and the trainer."""

    state: Any
    config: Any
    method: Method


Build = Callable[["Run"], Built]


def coerce(setting: Setting, value: Any) -> Any:
    """`value` as the setting's own type. Raises ConfigError for text in a number, a fraction in an integer, NaN."""
    kind = setting.kind
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    if kind is float and number:
        return float(value)
    if kind is int and number and value == int(value):
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    words = {float: "a finite number", int: "a whole number", bool: "true or false", str: "text"}
    raise ConfigError(f"{setting.name} must be {words.get(kind, kind.__name__)}, not {value!r}.")


def built_at(run: Run, build: Build) -> Built:
    """A fresh state with the latest checkpoint in it, and the edits that hold there."""
    built = build(run)
    step = run.latest_checkpoint()
    if step is not None:
        built.state.load(run.checkpoint(step))
        for edit in run.edits():
            if edit.step == step:
                built.state.live[edit.name] = edit.new
    return built


def begins_step(event: Event) -> bool:
    """Whether a trainer marks the beginning of a step with this."""
    return isinstance(event, Progress) and event.done == 0 and event.phase not in LOOKS


def only_looks(event: Event) -> bool:
    """Whether the state is after this event as it was before."""
    looks = (Started, Checked, Probed, Evaluated, Skipped)
    return isinstance(event, looks) or (isinstance(event, Progress) and event.phase in LOOKS)


def answered(run: Run, ask: Ask) -> Answered | None:
    """What there is to say of an answer, given now or kept in the run directory; None while there is none."""
    if ask.reply.verdicts is None and (kept := run.reply(ask.step, ask.comparisons)) is not None:
        ask.answer(kept)
    if ask.reply.verdicts is None:
        return None
    given = [v for v in ask.reply.verdicts if v.p is not None]
    who = tuple(dict.fromkeys(v.annotator for v in given if v.annotator))
    return Answered(ask.step, len(given), len(ask.comparisons) - len(given), who)
