"""What a JSON object may hold, column by column, and a sentence for the first thing that does not fit.

`jsonschema` says the same and more, but where its optional formats are installed it takes seconds to import, and the
first person to log in would wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from lab.columns import short


class Shape(NamedTuple):
    """What a value must be, in words, and whether one is."""

    words: str
    fits: Callable[[Any], bool]


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def text(most: int = 1_000_000, least: int = 0) -> Shape:
    """A text of `least` to `most` characters."""
    return Shape(f"text of {least} to {most} characters", lambda v: isinstance(v, str) and least <= len(v) <= most)


def whole(least: int | None = None, most: int | None = None) -> Shape:
    """A whole number."""
    limits = "" if least is None else f" from {least} to {most}"
    return Shape(f"a whole number{limits}", lambda v: is_whole(v) and (least is None or least <= v <= (most or v)))


def one_of(*values: Any) -> Shape:
    """One of these."""
    return Shape(f"one of {', '.join(map(str, values))}", lambda v: any(type(v) is type(x) and v == x for x in values))


def several(each: Shape, most: int = 1000, least: int = 0) -> Shape:
    """A list."""
    return Shape(f"a list of {least} to {most}, each {each.words}",
                 lambda v: isinstance(v, list) and least <= len(v) <= most and all(map(each.fits, v)))  # fmt: skip


def or_null(shape: Shape) -> Shape:
    """The same, or nothing."""
    return Shape(f"{shape.words}, or null", lambda v: v is None or shape.fits(v))


flag = Shape("true or false", lambda v: isinstance(v, bool))
number = Shape("a number", lambda v: is_whole(v) or isinstance(v, float))
table = Shape("an object", lambda v: isinstance(v, dict))


def misfit(row: Mapping[str, Any], shapes: Mapping[str, Shape], needed: Collection[str] = (), *,
           closed: bool = False) -> str:  # fmt: skip
    """What is wrong with an object, without a full stop, or nothing. `closed`: it has no other columns."""
    for name in needed:
        if name not in row:
            return f"{name} is missing"
    for name, value in row.items():
        if name in shapes and not shapes[name].fits(value):
            return f"{name} is {short(value)}, not {shapes[name].words}"
        if closed and name not in shapes:
            return f"there is no {short(name)} here"
    return ""
