"""Rewards that a program can check: the right number, the tests that pass, the shape that was asked for.

A verifier is a function of prompt, completion and row. It is deterministic, reads one answer (the one after the last
marker) and gives nothing to a completion that lists several or echoes its prompt. Ask for one by name, with its
options as the query of a URL:

    make("number")    make("number?tolerance=0.01")    make("format?open=<think>&close=</think>")

In an option, write `%25` for `%` and `%26` for `&`; everything else stands for itself, `+` too.
`VERIFIERS` is what exists; to add one, put an `Entry` into it.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from lab.feedback.verifiers.algebra import maths
from lab.feedback.verifiers.answers import choice, equals, number
from lab.feedback.verifiers.code import python
from lab.feedback.verifiers.contract import Entry, Option, Row, Verifier, VerifierError
from lab.feedback.verifiers.shape import format_, json_schema, length, regex

__all__ = ["VERIFIERS", "Entry", "Option", "Row", "Verifier", "VerifierError", "make"]

VERIFIERS: dict[str, Entry] = {
    "number": Entry(number, ("answer",), "The answer is exactly the row's number, however it is written."),
    "maths": Entry(maths, ("answer",), "The answer is equal to the row's expression, as algebra."),
    "choice": Entry(choice, ("answer",), "The answer is the row's letter, or the text of that option."),
    "equals": Entry(equals, ("answer",), "The completion is the row's text, whatever the case."),
    "python": Entry(python, ("tests",), "The share of the row's tests that the Python code passes."),
    "regex": Entry(regex, ("pattern",), "The completion matches a regular expression."),
    "json_schema": Entry(json_schema, ("schema",), "The completion is JSON that fits a schema."),
    "format": Entry(format_, (), "An opening and a closing tag, once each, and an answer after them."),
    "length": Entry(length, (), "The completion is as long as asked; less the farther it is from that."),
}


def make(text: str) -> Verifier:
    """A verifier from its name and options: `number`, `regex?pattern=^yes$`, `length?most=50&unit=words`.

    Raises:
        VerifierError: an unknown name or option, a value that is not of the option's type, or one the verifier refuses.
    """
    name, _, query = text.partition("?")
    if name not in VERIFIERS:
        raise VerifierError(f"There is no verifier {name!r}; there are {', '.join(VERIFIERS)}.")
    entry = VERIFIERS[name]
    known = {option.name: option for option in entry.options}
    values: dict[str, object] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key not in known:
            raise VerifierError(f"{name} has no option {key!r}; it has {', '.join(known) or 'none'}.")
        if key in values:
            raise VerifierError(f"{name} has the option {key!r} twice; give it once.")
        values[key] = _read(name, known[key], unquote(value))
    return entry.make(**values)


def _read(name: str, option: Option, value: str) -> object:
    parse: Callable[[str], object] = option.parse
    try:
        return parse(value)
    except ValueError:
        raise VerifierError(f"{name}: {option.name} is {value!r}; it must be {option.type}.") from None
