"""What a verifier is, what it may ask of a row, and how its options are written."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

Row = Mapping[str, Any]
"""The other columns of a prompt's row: answer, choices, tests, schema, …; JSON values."""
Verifier = Callable[[str, str, Row], float | None]
"""(prompt, completion, row) -> one reward; None where this reward does not apply to the row."""


class VerifierError(ValueError):
    """A verifier that cannot be made, or a row it cannot judge: the cause and what to do."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a verifier: its name, its type as people write it, its default and its meaning."""

    name: str
    type: str
    default: Any
    help: str
    parse: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A verifier that can be asked for by name.

    make  : its factory; the options are the factory's keywords, `Annotated` with their meaning
    needs : the columns it reads; one that an option replaces is needed only without that option
    help  : one sentence
    """

    make: Callable[..., Verifier]
    needs: tuple[str, ...]
    help: str

    @property
    def doc(self) -> str:
        """Everything about it: what it reads, what it accepts, its equation."""
        return inspect.getdoc(self.make) or ""

    @property
    def options(self) -> tuple[Option, ...]:
        """The options in the order of the factory's keywords."""
        hints = get_type_hints(self.make, include_extras=True)
        return tuple(_option(p, hints[p.name]) for p in inspect.signature(self.make).parameters.values())


def column(row: Row, name: str) -> Any:
    """What a row says in a column; None (JSON null) means that the reward does not apply to the row.

    Raises:
        VerifierError: the row has no such column.
    """
    if name not in row:
        found = ", ".join(map(str, row)) or "none"
        raise VerifierError(f"The row has no column {name!r}, which the verifier reads; its columns: {found}.")
    return row[name]


def shown(value: Any) -> str:
    """A value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _option(parameter: inspect.Parameter, hint: Any) -> Option:
    words = ""
    if get_origin(hint) is Annotated:
        hint, words = get_args(hint)
    name, parse = _parser(hint)
    return Option(parameter.name, name, parameter.default, words, parse)


def _parser(hint: Any) -> tuple[str, Callable[[str], Any]]:
    """How a type is called, and how its text is read; ValueError where it cannot be."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return " or ".join(map(str, choices)), lambda text: choices[[str(c) for c in choices].index(text)]
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(a for a in get_args(hint) if a is not type(None))
    if hint is bool:
        return "true or false", lambda text: ("false", "true").index(text.lower()) == 1
    return {"float": "a number", "int": "a whole number", "str": "a text"}[hint.__name__], hint
