"""One row of the standard columns as a record, or the reason why it cannot be one.

| kind         | columns                                                                                        |
|--------------|------------------------------------------------------------------------------------------------|
| "sft"        | prompt + completion, or messages                                                               |
| "preference" | prompt + chosen + rejected, or chosen + rejected that share a beginning; margin, label, weight; |
|              | or the columns of a ranking                                                                    |
| "rating"     | prompt + completion + label (true or false), or the columns of a preference: two ratings       |
| "ranking"    | prompt + completions + ranks (1 is best)                                                       |
| "steps"      | prompt + completions (the steps) + labels                                                      |
| "prompt"     | prompt, or messages; every other column is kept for the rewards that read it                   |

Every text is plain (a string) or conversational (a list of {"role", "content"}).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Generic, Literal, TypeVar, get_args

from lab.events import Skipped
from lab.records import (
    Completion,
    Demonstration,
    Message,
    Preference,
    Prompt,
    PromptRow,
    Ranking,
    Rating,
    Role,
    Steps,
    to_json,
)

T = TypeVar("T")
Kind = Literal["sft", "preference", "rating", "ranking", "steps", "prompt"]
Record = Demonstration | Preference | Rating | Ranking | Steps | PromptRow

EXPECTED: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "sft": (("prompt", "completion"), ("messages",)),
    "preference": (("prompt", "chosen", "rejected"), ("chosen", "rejected"), ("prompt", "completions", "ranks")),
    "rating": (("prompt", "completion", "label"), ("prompt", "completion", "liked"), ("chosen", "rejected")),
    "ranking": (("prompt", "completions", "ranks"),),
    "steps": (("prompt", "completions", "labels"), ("prompt", "steps", "labels")),
    "prompt": (("prompt",), ("messages",)),
}
"""The columns each kind may come in, the first that fits is taken; other columns are left alone."""

ALL_OR_NONE: dict[Kind, tuple[str, ...]] = {"preference": ("margin", "label", "weight")}
"""Columns that every row has or none: a number missing in some rows would be taken for the default in silence."""


class DataError(ValueError):
    """Data that cannot be used at all, with the cause and what to do."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A row that was left out: its 0-based number, the reason (few distinct ones, to be counted) and the detail."""

    reason: str
    row: int
    detail: str


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """What could be used, in the order of the source, and what could not."""

    records: tuple[T, ...]
    skipped: tuple[Skip, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many rows were left out, by reason."""
        return dict(Counter(skip.reason for skip in self.skipped))

    def some(self) -> tuple[T, ...]:
        """The records, at least one; raises `DataError` with the reasons when none is left."""
        if not self.records:
            why = f": {reasons(self.skipped)}. The first: {self.skipped[0].detail}" if self.skipped else ""
            raise DataError(f"No row can be used{why}. Repair the data or the settings that leave every row out.")
        return self.records

    def events(self, step: int = 0) -> list[Skipped]:
        """What was left out as events of a run: one for each reason, with the first few rows named."""
        return [
            Skipped(
                step, reason, count, tuple(f"row {s.row}: {s.detail}" for s in self.skipped if s.reason == reason)[:3]
            )
            for reason, count in self.counts.items()
        ]

    def report(self) -> str:
        """One sentence for people: `98 of 100 rows are used; left out: 2 not JSON (rows 4, 17).`"""
        total = len(self.records) + len(self.skipped)
        left_out = f"; left out: {reasons(self.skipped)}" if self.skipped else ""
        return f"{len(self.records)} of {total} rows are used{left_out}."


class Unusable(Exception):  # noqa: N818 - caught by whoever reads rows, and reported as a Skip
    """A row that is left out: `Unusable(reason, detail)`."""


def short(value: Any) -> str:
    """A value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:60] + "…"


def reasons(skipped: Sequence[Skip]) -> str:
    """`2 not JSON (rows 4, 17), 1 empty completion (row 9)`."""
    parts = []
    for reason, count in Counter(skip.reason for skip in skipped).items():
        rows = [str(skip.row) for skip in skipped if skip.reason == reason]
        listed = ", ".join(rows[:5]) + (", …" if count > 5 else "")
        parts.append(f"{count} {reason} (row{'s' if count > 1 else ''} {listed})")
    return ", ".join(parts)


def _demonstration(value: dict[str, Any], row: int) -> Demonstration:
    if "prompt" in value and "completion" in value:
        return Demonstration(_prompt(value["prompt"]), _completion(value["completion"], "completion"), row)
    turns = _turns(_column(value, "messages", "prompt + completion or messages"), "messages")
    first = next((i for i, m in enumerate(turns) if m.role == "assistant"), None)
    if first is None:
        raise Unusable("no assistant turn", "nothing in messages can be learnt")
    return Demonstration(turns[:first], _completion(turns[first:], "messages"), row)


def _comparison(value: dict[str, Any], row: int) -> Preference | Ranking:
    return _ranking(value, row) if "ranks" in value and "chosen" not in value else _preference(value, row)


def _preference(value: dict[str, Any], row: int) -> Preference:
    chosen, rejected = (_column(value, name, "chosen and rejected") for name in ("chosen", "rejected"))
    if value.get("prompt") is not None:
        prompt = _prompt(value["prompt"])
    else:
        prompt, chosen, rejected = _shared(chosen, rejected)
    better, worse = _completion(chosen, "chosen"), _completion(rejected, "rejected")
    if better == worse:
        raise Unusable("chosen equals rejected", "a pair of the same completions prefers nothing")
    margin, weight = _number(value, "margin", 0.0), _number(value, "weight", 1.0)
    label = _number(value, "label", 1.0, most=1.0)
    return Preference(prompt, better, worse, margin, str(value.get("annotator") or ""), row, label, weight)


def _rating(value: dict[str, Any], row: int) -> Rating | list[Rating]:
    if "chosen" in value and "rejected" in value:
        pair = _preference(value, row)
        return [Rating(pair.prompt, y, liked, pair.annotator, row)
                for y, liked in ((pair.chosen, True), (pair.rejected, False))]  # fmt: skip
    completion = _column(value, "completion", "prompt + completion + label")
    liked = _column(value, "label" if value.get("liked") is None else "liked", "prompt + completion + label")
    if liked not in (0, 1):
        raise Unusable("label is neither true nor false", f"label is {short(liked)}")
    prompt = _prompt(_column(value, "prompt", "prompt + completion + label"))
    return Rating(prompt, _completion(completion, "completion"), bool(liked), str(value.get("annotator") or ""), row)


def _ranking(value: dict[str, Any], row: int) -> Ranking:
    found, ranks = (_column(value, name, "completions and ranks") for name in ("completions", "ranks"))
    if not isinstance(found, (list, tuple)) or not isinstance(ranks, (list, tuple)) or len(found) != len(ranks):
        raise Unusable("not one rank for each completion", f"ranks is {short(ranks)}")
    if len(found) < 2 or len(set(map(str, ranks))) < 2:
        raise Unusable("nothing is ranked", "a ranking needs two completions of different rank")
    if any(isinstance(r, bool) or not isinstance(r, int) for r in ranks):
        raise Unusable("ranks are not whole numbers", f"ranks is {short(ranks)}")
    completions = tuple(_completion(c, "completions") for c in found)
    prompt = _prompt(_column(value, "prompt", "prompt + completions + ranks"))
    return Ranking(prompt, completions, tuple(ranks), str(value.get("annotator") or ""), row)


def _steps(value: dict[str, Any], row: int) -> Steps:
    found = _column(value, "completions" if value.get("steps") is None else "steps", "completions and labels")
    labels = _column(value, "labels", "completions and labels")
    if not isinstance(found, (list, tuple)) or not isinstance(labels, (list, tuple)) or len(found) != len(labels):
        raise Unusable("not one label for each step", f"labels is {short(labels)}")
    if not found:
        raise Unusable("empty completion", "there is no step")
    numbers = tuple(_number({"labels": label}, "labels", 1.0, 1.0, truth=True) for label in labels)
    prompt = _prompt(_column(value, "prompt", "prompt + completions + labels"))
    return Steps(prompt, tuple(_text(step, "completions") for step in found), numbers, row)


def _number(value: dict[str, Any], name: str, default: float, most: float = math.inf, truth: bool = False) -> float:
    """The number in a column, in [0, most]; a missing one is the default. `truth`: true and false count as 1 and 0."""
    found = default if value.get(name) is None else value[name]
    if (isinstance(found, bool) and not truth) or not isinstance(found, (int, float)):
        raise Unusable(f"{name} is no number ≥ 0", f"{name} is {short(found)}")
    if not (0 <= found <= most and found < math.inf):
        limits = "≥ 0" if most == math.inf else f"in [0, {most:g}]"
        raise Unusable(f"{name} is no number {limits}", f"{name} is {short(found)}")
    return float(found)


def _prompt_row(value: dict[str, Any], row: int) -> PromptRow:
    columns = {k: v for k, v in value.items() if k not in ("prompt", "messages", "row") and _is_plain(v)}
    if value.get("prompt") is not None:
        return PromptRow(_prompt(value["prompt"]), row, columns)
    turns = _turns(_column(value, "messages", "prompt or messages"), "messages")
    while turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    return PromptRow(_prompt(turns), row, columns)


def _is_plain(value: Any) -> bool:
    """Whether a value is one of JSON's; a date or an image stays behind."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, (str, int, float, bool, NoneType)) or (
        isinstance(value, list) and all(map(_is_plain, value))
    )


PARSERS: dict[Kind, Callable[[dict[str, Any], int], Any]] = {
    "sft": _demonstration, "preference": _comparison, "rating": _rating, "ranking": _ranking, "steps": _steps,
    "prompt": _prompt_row}  # fmt: skip


def _shared(chosen: Any, rejected: Any) -> tuple[Prompt, Any, Any]:
    """The prompt two whole conversations begin with, and what is left of each.

    Lists share their first equal turns, up to an answer; transcripts ("Human: … Assistant: …") the text up to the
    last "Assistant:".
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt, found, _ = chosen.rpartition("\n\nAssistant:")
        prompt += found
        if not found or not rejected.startswith(prompt):
            raise Unusable(
                "no shared prompt", "without a prompt column, both texts must be one transcript up to 'Assistant:'"
            )
        return prompt, chosen[len(prompt) :], rejected[len(prompt) :]
    a, b = _turns(chosen, "chosen"), _turns(rejected, "rejected")
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    while same and (same >= min(len(a), len(b)) or a[same - 1].role == "assistant"):
        same -= 1  # each side keeps an answer of its own, and a prompt ends before one
    if not same:
        raise Unusable(
            "no shared prompt", "chosen and rejected differ from the first turn on, and there is no prompt column"
        )
    return a[:same], a[same:], b[same:]


def _column(value: dict[str, Any], name: str, expected: str) -> Any:
    if value.get(name) is None:
        why = "is null" if name in value else "is missing"
        raise Unusable(
            "missing column", f"{name} {why}; expected {expected}, found {', '.join(map(str, value)) or 'none'}"
        )
    return value[name]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Unusable("not text", f"{name} is {short(value)}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unusable("not text", f"{name} holds half of a surrogate pair, which is no character") from None
    return value


def _turns(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, (list, tuple)):
        raise Unusable("not text", f"{name} is {short(value)}, not a list of turns")
    turns = []
    for turn in value:
        if isinstance(turn, Message):
            turn = to_json(turn)
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            raise Unusable("not a turn", f"{name} holds {short(turn)}; a turn has role and content")
        if turn["role"] not in get_args(Role):
            raise Unusable(
                "unknown role", f"{name} has the role {short(turn['role'])}; known: {', '.join(get_args(Role))}"
            )
        turns.append(Message(turn["role"], _text(turn["content"], f"content in {name}")))
    return tuple(turns)


def _prompt(value: Any) -> Prompt:
    prompt = _text(value, "prompt") if isinstance(value, str) or value is None else _turns(value, "prompt")
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise Unusable("empty prompt", "the prompt has no text")
    if not isinstance(prompt, str) and prompt[-1].role == "assistant":
        raise Unusable("prompt ends with an answer", "the last turn of a prompt is not the assistant's")
    return prompt


def _completion(value: Any, name: str) -> Completion:
    if isinstance(value, dict):
        value = [value]
    done = _turns(value, name) if isinstance(value, (list, tuple)) else _text(value, name)
    words = [done] if isinstance(done, str) else [m.content for m in done if m.role == "assistant"]
    if not isinstance(done, str) and (not done or done[0].role != "assistant"):
        raise Unusable("no assistant turn", f"{name} does not begin with an assistant turn")
    if not all(w.strip() for w in words):
        raise Unusable("empty completion", f"{name} has no text")
    return done
