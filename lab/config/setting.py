"""What a setting is: a field with its meaning, unit and range, and whether it may be edited while a run goes on."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from types import NoneType
from typing import Any


class ConfigError(ValueError):
    """A setting that cannot work, with the reason and what to do."""


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    live: bool = False,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field with its meaning, unit, range (`low` ≤ value ≤ `high`) and whether it may change during a run."""
    meta = {"help": help, "unit": unit, "live": live, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=meta)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a config, as a form or a flag needs it. `optional`: None stands for the method's own value."""

    name: str
    kind: type
    default: Any
    help: str
    unit: str
    live: bool
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    optional: bool = False


def settings(cls: type) -> Iterator[Setting]:
    """Every field of a config class, in order."""
    hints = typing.get_type_hints(cls)
    for f in fields(cls):
        m = f.metadata
        kinds = [kind for kind in typing.get_args(hints[f.name]) if kind is not NoneType]
        yield Setting(
            f.name,
            kinds[0] if kinds else hints[f.name],
            _default(f),
            m.get("help", ""),
            m.get("unit", ""),
            m.get("live", False),
            m.get("low"),
            m.get("high"),
            m.get("choices", ()),
            bool(kinds),
        )


def live_settings(cls: type) -> dict[str, Setting]:
    """The settings that may be edited while the run goes on."""
    return {s.name: s for s in settings(cls) if s.live}


def _default(f: Field) -> Any:
    return f.default if f.default is not MISSING else None


KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "True or False"),
    str: ((str,), "text"),
}
"""The types of settings: what each accepts, and what it is called."""


def check(config: Any) -> None:
    """Refuses values of another type, outside their range or choices; every config calls it in `__post_init__`."""
    for s in settings(type(config)):
        value = getattr(config, s.name)
        if value is None and s.optional:
            continue
        if s.choices and value not in s.choices:
            raise ConfigError(f"{s.name} is {value!r}; choose one of {', '.join(s.choices)}.")
        accepted, words = KINDS[s.kind]
        if not isinstance(value, accepted) or isinstance(value, bool) != (s.kind is bool):
            raise ConfigError(f"{s.name} is {value!r}; it must be {words}.")
        if value is None or isinstance(value, (bool, str)):
            continue
        if not math.isfinite(value):
            raise ConfigError(f"{s.name} is {value}; it must be a finite number.")
        if (s.low is not None and value < s.low) or (s.high is not None and value > s.high):
            raise ConfigError(f"{s.name} is {value:g}; it must lie in [{_edge(s.low, '−∞')}, {_edge(s.high, '∞')}].")


def _edge(x: float | None, infinity: str) -> str:
    return infinity if x is None else f"{x:g}"


SCHEDULES = ("constant", "linear", "cosine")
"""How a learning rate goes on after its warm-up."""
