"""Data of the tiny world by name, where a file or a data set of the Hub could stand.

tiny:demonstrations?n=160                        demonstrations to imitate
tiny:prompts    tiny:prompts?family=plus&n=40    prompts to answer; of some families or kinds only, with commas between
tiny:heldout                                     the same about what nobody was trained on, to measure with
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import parse_qsl

from lab.columns import DataError, Kind
from lab.records import Demonstration, PromptRow, prompt_text
from lab.tiny.questions import FAMILIES, TEMPLATES, read
from lab.tiny.text import demonstrations, heldout_prompts, train_prompts

PREFIX = "tiny:"
SOURCES: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "demonstrations": ("sft", ("n",)),
    "prompts": ("prompt", ("n", "family")),
    "heldout": ("prompt", ("n", "family")),
}
"""Source -> the kind of its records, and its options."""

DEMONSTRATIONS = 2000
"""How many there are where nobody says."""


def records(text: str, kind: Kind, seed: int = 0) -> Sequence[Demonstration | PromptRow]:
    """What a name such as `tiny:prompts?family=plus` stands for; always the same for a seed.

    Raises DataError for a source, an option or a family that does not exist, more rows than there are, and records of
    another kind than `kind`.
    """
    name, _, query = text.removeprefix(PREFIX).partition("?")
    if name not in SOURCES:
        raise DataError(f"The tiny world has no {name!r}; it has {', '.join(PREFIX + s for s in SOURCES)}.")
    own, known = SOURCES[name]
    if kind != own:
        raise DataError(f"{PREFIX}{name} gives {own!r} data, but {kind!r} data are needed.")
    options = dict(parse_qsl(query, keep_blank_values=True))
    odd = [option for option in options if option not in known]
    if odd:
        raise DataError(f"{PREFIX}{name} has no option {odd[0]!r}; it has {', '.join(known)}.")
    n = _count(options["n"]) if "n" in options else None
    if name == "demonstrations":
        return demonstrations(DEMONSTRATIONS if n is None else n, seed)
    every = heldout_prompts(seed=seed) if name == "heldout" else train_prompts(seed=seed)
    return _prompts(every, n, options.get("family", ""))


def _prompts(every: Sequence[PromptRow], n: int | None, families: str) -> list[PromptRow]:
    """The first `n` of these prompts that are of some families (or kinds of question)."""
    wanted = {part.strip() for part in families.split(",") if part.strip()}
    for odd in sorted(wanted - {*FAMILIES, *TEMPLATES}):
        known = ", ".join(dict.fromkeys((*FAMILIES, *TEMPLATES)))
        raise DataError(f"The tiny world asks no questions of the family {odd!r}; it has {known}.")
    rows = [row for row in every if not wanted or _is_one_of(row, wanted)]
    if n is not None and n > len(rows):
        raise DataError(f"The tiny world has {len(rows)} such prompts; ask for at most that many.")
    return [replace(row, row=i) for i, row in enumerate(rows[:n])]


def _is_one_of(row: PromptRow, wanted: set[str]) -> bool:
    question = read(prompt_text(row.prompt))
    return question is not None and not wanted.isdisjoint((question.family, question.kind))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"n is {text!r}; it must be a whole number from 1 on.")
    return int(text)
