"""A constitution as a form: its fields, what is wrong with it and where, and what changed, word by word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from lab.evaluate.principles import Tested, as_json
from lab.feedback.constitution.principles import Constitution, ConstitutionError, Principle
from lab.feedback.constitution.versions import changes, checked, places, yaml_of
from lab.feedback.labels.words import control_character
from lab.reading import word_diff

FILE = "this version"
MOST = 64
"""Principles of a form."""
TEXTS = ("id", "text", "critique", "revision", "critic")
LINE = re.compile(rf"{FILE}, line (\d+): (.*)", re.S)


class Problem(NamedTuple):
    """What is wrong: the line of the YAML, the place of the principle it is in, and a sentence. None: of the whole."""

    line: int | None
    principle: int | None
    sentence: str


class Draft(NamedTuple):
    """A version that is being written: its YAML, and the constitution or what is wrong with it."""

    text: str
    constitution: Constitution | None
    problems: tuple[Problem, ...]


def form(found: Constitution) -> dict[str, Any]:
    """A constitution as the fields of a form."""
    return {"about": found.about, "principles": [asdict(p) for p in found.principles]}


def draft(asked: Mapping[str, Any], name: str = "draft") -> Draft:
    """What somebody wrote, as YAML (`yaml`) or as the fields of a form (`about`, `principles`)."""
    if isinstance(asked.get("yaml"), str):
        text = asked["yaml"]
    else:
        rows = asked.get("principles")
        rows = [_row(p) for p in rows if isinstance(p, Mapping)] if isinstance(rows, list) else []
        odd = control_character([rows, str(asked.get("about") or "")])
        if odd or len(rows) > MOST:
            said = (
                f"The text holds the control character {odd}; take it out."
                if odd
                else f"A constitution has up to {MOST} principles."
            )
            return Draft("", None, (Problem(None, None, said),))
        text = yaml_of(name, str(asked.get("about") or ""), rows)
    try:
        return Draft(text, checked(text, FILE), ())
    except ConstitutionError as error:
        starts = places(text)
        return Draft(text, None, tuple(_problem(sentence, starts) for sentence in error.problems))


def _row(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one principle with their kinds; a weight that is no number stays as it was written."""
    out: dict[str, Any] = {key: str(given.get(key) or "") for key in TEXTS}
    weight = given.get("weight", 1.0)
    try:
        out["weight"] = float(weight)
    except (TypeError, ValueError):
        out["weight"] = str(weight)
    out["on"] = given.get("on", True) is not False
    return {f.name: out[f.name] for f in fields(Principle)}


def _problem(sentence: str, starts: Sequence[int]) -> Problem:
    found = LINE.fullmatch(sentence)
    if not found:
        return Problem(None, None, sentence.removeprefix(f"{FILE}: "))
    line = int(found[1])
    before = [i for i, start in enumerate(starts) if start <= line]
    return Problem(line, before[-1] if before else None, found[2])


def changed(old: Constitution, new: Constitution) -> list[dict[str, Any]]:
    """What became of every principle that is not the same, its texts word by word."""
    return [{"id": c.id, "what": c.what, "parts": [{"name": name, "diff": word_diff(a, b)} for name, a, b in c.parts]}
            for c in changes(old, new) if c.what != "same"]  # fmt: skip


def told(tested: Tested, most: int = 30) -> dict[str, Any]:
    """A test as JSON, with its first flips and how many there are."""
    out = as_json(tested)
    return out | {"flips": out["flips"][:most], "flipped": len(out["flips"])}
