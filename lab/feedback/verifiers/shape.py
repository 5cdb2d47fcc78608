"""Verifiers of the shape of a completion; they read no answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from lab.feedback.verifiers.contract import Row, Verifier, VerifierError, column, shown

FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
"""A fenced block of Markdown; its inside is group 1."""


def regex(
    *,
    pattern: Annotated[str | None, "Python's regular expression; without it, the row's column `pattern`"] = None,
    whole: Annotated[bool, "true: the whole completion must match; false: any part of it"] = False,
) -> Verifier:
    """1 if the completion matches, else 0. `^` and `$` are the ends of the completion; spaces around it are left aside.

    Raises:
        VerifierError: no regular expression; the row has no pattern, and none is given.
    """
    given = None if pattern is None else _compiled(pattern)

    def verify(prompt: str, completion: str, row: Row) -> float | None:
        wanted = given
        if wanted is None:
            said = column(row, "pattern")
            if said is None:
                return None
            wanted = _compiled(said)
        return float(bool((wanted.fullmatch if whole else wanted.search)(completion.strip())))

    return verify


def _compiled(pattern: Any) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise VerifierError(f"The pattern {shown(pattern)} is no regular expression: {error}.") from None


def json_schema(
    *, schema: Annotated[str | None, "a JSON Schema as JSON; without it, the row's column `schema`"] = None
) -> Verifier:
    """1 if the completion, or its only fenced block, is JSON that fits the schema; else 0.

    The draft is the one the schema names in `$schema`, 2020-12 if none. References lead within the schema; nothing is
    fetched. NaN and Infinity are not JSON.

    Raises:
        VerifierError: no JSON Schema, or one that refers outside; the row has none, and none is given; the package
            jsonschema is not installed.
    """
    given = None if schema is None else _validator(schema)

    def verify(prompt: str, completion: str, row: Row) -> float | None:
        fits = given
        if fits is None:
            said = column(row, "schema")
            if said is None:
                return None
            fits = _validator(said)
        blocks = FENCE.findall(completion)
        for text in [completion, *(blocks if len(blocks) == 1 else ())]:
            try:
                value = _strict_json(text)
            except (ValueError, RecursionError):
                continue
            return float(fits(value))
        return 0.0

    return verify


def _strict_json(text: str) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def _validator(schema: Any) -> Callable[[Any], bool]:
    try:
        from jsonschema import Draft202012Validator, SchemaError, validators
        from referencing import Registry
        from referencing.exceptions import Unresolvable
    except ImportError:
        raise VerifierError("`json_schema` needs the package jsonschema; install it with pip.") from None
    try:
        schema = _strict_json(schema) if isinstance(schema, str) else schema
        kind = validators.validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
    except (ValueError, TypeError, SchemaError) as error:
        why = str(error).partition("\n")[0]
        raise VerifierError(f"The schema {shown(schema)} is no JSON Schema: {why}.") from None
    validator = kind(schema, registry=Registry())

    def fits(value: Any) -> bool:
        try:
            return validator.is_valid(value)
        except Unresolvable as error:
            raise VerifierError(f"The schema refers to {error.ref}, which is not in it; nothing is fetched.") from None

    return fits


def format_(
    *,
    open: Annotated[str, "the opening tag"] = "<think>",
    close: Annotated[str, "the closing tag"] = "</think>",
) -> Verifier:
    """1 if the completion begins with the opening tag, holds both tags once and in order, and then answers; else 0.

    Where the prompt ends with the opening tag, as some templates make it, the completion begins after it.

    Raises:
        VerifierError: an empty tag, or two equal ones.
    """
    if not open or not close or open == close:
        raise VerifierError(f"open is {open!r} and close is {close!r}; give two different tags.")

    def verify(prompt: str, completion: str, row: Row) -> float | None:
        text = (open if prompt.rstrip().endswith(open) else "") + completion.strip()
        once = text.count(open) == 1 and text.count(close) == 1 and text.startswith(open)
        return float(once and bool(text.partition(close)[2].strip()))

    return verify


def length(
    *,
    target: Annotated[int | None, "the length wanted; stands for `least` and `most` in one"] = None,
    least: Annotated[int | None, "the shortest length with full reward"] = None,
    most: Annotated[int | None, "the longest length with full reward"] = None,
    unit: Annotated[Literal["words", "characters"], "what is counted; words stand between spaces"] = "words",
) -> Verifier:
    """1 between `least` and `most`, falling linearly to 0 at length 0 and at twice `most`.

        r = max(0, min(1, n / least, 2 − n / most)), n the length of the completion

    A bound that is not given leaves its term out.

    Raises:
        VerifierError: no bound, one below 1, `target` beside another, or `least` above `most`.
    """
    if target is not None and (least is not None or most is not None):
        raise VerifierError("target stands for both least and most; give it alone, or the other two.")
    least, most = (target, target) if target is not None else (least, most)
    bounds = [b for b in (least, most) if b is not None]
    if not bounds or min(bounds) < 1 or bounds != sorted(bounds):
        raise VerifierError(f"least is {least} and most is {most}; give one of them or both, 1 ≤ least ≤ most.")

    def verify(prompt: str, completion: str, row: Row) -> float | None:
        n = len(completion.split()) if unit == "words" else len(completion)
        rising = 1.0 if least is None else n / least
        falling = 1.0 if most is None else 2 - n / most
        return max(0.0, min(1.0, rising, falling))

    return verify
