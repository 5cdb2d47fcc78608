"""What comes into a store from files: its own exports, comparisons to be judged, and comparisons with verdicts.

    {"format": "rlhf-lab labels", …} first      an export of raw events
    prompt, completion_a, completion_b          a comparison; verdict (a, b, tie, both_bad) makes it a vote
    chosen, rejected, perhaps prompt            a preference, which is a vote for the chosen one

Every line is checked before anything is written: its size while it is read (a line beyond the limit is passed over,
never held in memory), its JSON, its columns, its verdict, control characters, and whether it says something twice. HTML
is text and stays as it is. One bad line and nothing is imported, unless bad lines are to be left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from lab.columns import PARSERS, Unusable
from lab.feedback.labels import ledger, people
from lab.feedback.labels.exporting import EXPORT_VERSION, FORMAT
from lab.feedback.labels.rows import insert_item
from lab.feedback.labels.shapes import flag, misfit, number, one_of, or_null, several, table, text, whole
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import (
    CHOICES,
    MAKERS,
    SPLITS,
    By,
    Event,
    Item,
    LabelError,
    control_character,
    machine_vote,
    swap,
    turn,
    vote,
)
from lab.records import Comparison, Verdict, digest

LINE_LIMIT = 1_000_000
"""Bytes of one line."""

SHOWN = 5
"""Bad lines that a sentence names."""


class Annotator(NamedTuple):
    """A line that says who somebody is."""

    name: str
    made_by: By


class Fault(NamedTuple):
    """A line that cannot be used, and why."""

    line: int
    reason: str


class Imported(NamedTuple):
    """What came in: new items and events, those that were there already, and the lines left out."""

    items: int
    events: int
    known: int
    left_out: tuple[Fault, ...] = ()


class _BadError(ValueError):
    """What is wrong with a line."""


Parts = tuple[Item | Annotator | Event, ...]


def _lines(file: IO[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file with their numbers, from 1; None for one over `limit` bytes, which is never held whole."""
    number = 0
    while piece := file.readline(limit + 1):
        number += 1
        if len(piece) <= limit or piece.endswith(b"\n"):
            yield number, piece
            continue
        while piece and not piece.endswith(b"\n"):
            piece = file.readline(65_536)
        yield number, None


def _row(line: bytes | None, limit: int) -> dict[str, Any]:
    """The object of a line. Raises _BadError for what is none."""
    if line is None:
        raise _BadError(f"the line has more than {limit} bytes")
    try:
        row = json.loads(line, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise _BadError("the line is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise _BadError(f"the line is not JSON ({str(error)[:80]})") from None
    if not isinstance(row, dict):
        raise _BadError(f"a line is an object with columns, this one is a {type(row).__name__}")
    found = control_character(row)
    if found:
        raise _BadError(f"the text holds the control character {found}; take it out")
    return row


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


COLUMNS = {
    **dict.fromkeys(("annotator", "key", "item", "kind", "note", "name"), text()),
    **dict.fromkeys(("at", "strength"), whole()), **dict.fromkeys(("p", "value", "uncertainty"), or_null(number)),
    "ms": or_null(whole()), "repeat": flag, "source": table, "reasons": several(text()),
    "first": one_of("a", "b", ""), "answer": one_of(*CHOICES, None), "split": one_of(*SPLITS, ""),
    "made_by": one_of(*MAKERS), "ended": several(flag, 2, 2),
}  # fmt: skip
"""What every column must be, but the texts of a pair, which `lab.columns` reads."""


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    wrong = misfit(row, COLUMNS)
    if wrong:
        raise _BadError(wrong)
    return row


def _need(row: dict[str, Any], *names: str) -> None:
    missing = [n for n in names if row.get(n) is None]
    if missing:
        raise _BadError(f"the column {missing[0]} is missing; there are {', '.join(row) or 'none'}")


def _item(row: dict[str, Any], a: str, b: str) -> Item:
    """The item of a row whose completions stand in the columns `a` and `b`."""
    texts = {"chosen": row.get(a), "rejected": row.get(b)} | ({"prompt": row["prompt"]} if "prompt" in row else {})
    try:
        pair: Any = PARSERS["preference"](texts, 0)
    except Unusable as bad:
        raise _BadError(": ".join(bad.args).replace("chosen", a).replace("rejected", b)) from None
    ended = tuple(row.get("ended", (True, True)))
    return Item(Comparison(pair.prompt, pair.chosen, pair.rejected, (ended[0], ended[1])), row.get("answer"),
                row.get("split", ""), row.get("uncertainty"), row.get("source", {}))  # fmt: skip


def _exported(row: dict[str, Any]) -> Parts:
    """A line of an export of raw events."""
    what = row.get("what")
    if what == "item":
        _need(row, "prompt", "a", "b")
        return (_item(row, "a", "b"),)
    if what == "annotator":
        _need(row, "name", "made_by")
        return (Annotator(row["name"], row["made_by"]),)
    if what == "event":
        _need(row, "kind", "item", "annotator", "key", "at")
        known: dict[str, Any] = {name: value for name, value in row.items() if name != "what"}
        other = sorted(set(known) - set(Event.__dataclass_fields__))
        if other:
            raise _BadError(f"an event has no column {other[0]}")
        known["reasons"] = tuple(row.get("reasons", ()))
        return (Event(**known),)
    raise _BadError(f"{what!r} is neither an item, an annotator nor an event")


def _judged(row: dict[str, Any], annotator: str, made_by: By, votes: bool) -> Parts:
    """A comparison, and its verdict where votes are wanted."""
    if "chosen" in row or "rejected" in row:
        _need(row, "chosen", "rejected")
        item, verdict = _item(row, "chosen", "rejected"), "a"
    else:
        _need(row, "prompt", "completion_a", "completion_b")
        item, verdict = _item(row, "completion_a", "completion_b"), row.get("verdict")
    # whoever learns from content order must not find the chosen one always at a
    turned = "chosen" in row and int(item.id, 16) % 2 == 1
    stored = turn(item) if turned else item
    if not votes:
        return (stored,)
    who = row.get("annotator") or annotator
    if not who:
        raise _BadError("the column annotator is missing, and no name was given for those without one")
    by = Annotator(who, row.get("made_by", made_by))
    if verdict is None and row.get("p") is not None:
        said = machine_vote(item.id, who, digest(row), Verdict(row["p"], who, row.get("note", "")))
    else:
        said = _vote(row, item.id, who, verdict)
    return stored, by, swap(said) if turned else said


def _vote(row: dict[str, Any], item: str, who: str, verdict: Any) -> Event:
    if verdict is None:
        raise _BadError(f"the column verdict is missing; there are {', '.join(row)}")
    if verdict not in CHOICES:
        raise _BadError(f"{verdict!r} is no verdict; give one of {', '.join(CHOICES)}")
    usual = {"a": 1, "b": -1}.get(verdict, 0)
    strength = row.get("strength", usual)
    if abs(strength) > 2 or (strength > 0) - (strength < 0) != usual:
        raise _BadError(f"the strength {strength} does not fit the verdict {verdict}; it is 1 or 2 for a, −1 or −2 "
                        "for b, else 0")  # fmt: skip
    return vote(item, who, digest(row), strength, both_bad=verdict == "both_bad",
                reasons=tuple(row.get("reasons", ())), note=row.get("note", ""), ms=row.get("ms"))  # fmt: skip


class _Twice:
    """Whether a file says something twice, and on which line it did so first."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, ...], int] = {}

    def check(self, number: int, parts: Parts) -> None:
        """Raises _BadError for the second of two lines that add the same pair, annotator, event or vote."""
        keys: list[tuple[str, ...]] = []
        for part in parts if len(parts) == 1 else parts[2:]:
            if isinstance(part, Item):
                keys.append(("this pair", part.id))
            elif isinstance(part, Annotator):
                keys.append(("this annotator", people.folded(part.name)))
            else:
                keys += [("a vote of this annotator on this pair", part.item, part.annotator)] if len(parts) > 1 else []
                keys.append(("this event", part.item, part.annotator, part.key))
        for key in keys:
            if key in self.seen:
                raise _BadError(f"{key[0]} stands on line {self.seen[key]} already")
        self.seen.update(dict.fromkeys(keys, number))


Read = Callable[[dict[str, Any]], Parts]


def _checked(path: Path, limit: int, read: Read) -> Iterator[tuple[int, Parts | str]]:
    """For every line what it says, or what is wrong with it."""
    twice = _Twice()
    with path.open("rb") as file:
        for number, line in _lines(file, limit):
            if line is not None and not line.strip():
                continue
            try:
                row = _row(line, limit)
                if row.get("format") == FORMAT and number == 1:
                    continue
                parts = read(_typed(row))
                twice.check(number, parts)
            except (_BadError, LabelError) as error:
                yield number, str(error).rstrip(".")
            else:
                yield number, parts


def _reader(path: Path, limit: int, annotator: str, made_by: By, votes: bool) -> Read:
    """How the lines of a file are to be read, by its first one."""
    try:
        with path.open("rb") as file:
            first = next(_lines(file, limit), (0, None))[1]
    except OSError as error:
        raise LabelError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    try:
        head = _row(first, limit) if first is not None else {}
    except _BadError:
        head = {}
    if head.get("format") != FORMAT:
        return lambda row: _judged(row, annotator, made_by, votes)
    if head.get("version") != EXPORT_VERSION:
        raise LabelError(f"{path} was written by a newer rlhf-lab (version {head.get('version')}, this one knows "
                         f"{EXPORT_VERSION}); update rlhf-lab.")  # fmt: skip
    return _exported if votes else lambda row: tuple(p for p in _exported(row) if isinstance(p, Item))


def import_file(store: Store, path: str | Path, *, annotator: str = "", made_by: By = "person", votes: bool = True,
                leave_out: bool = False, limit: int = LINE_LIMIT,
                source: dict[str, Any] | None = None) -> Imported:  # fmt: skip
    """Brings a file into a store: all of it, or nothing.

    annotator : who judged, where the lines do not say; `made_by` what they are
    votes     : take the verdicts too; without, only the comparisons, to be judged
    leave_out : import the good lines, and name the others in the result
    source    : where new items come from, where their lines do not say

    Raises LabelError with the numbers of the first bad lines.
    """
    path = Path(path)
    read = _reader(path, limit, annotator, made_by, votes)
    faults = [Fault(n, said) for n, said in _checked(path, limit, read) if isinstance(said, str)]
    if faults and not leave_out:
        raise _error(path, faults)
    items = events = known = 0
    turned: set[str] = set()  # items that stand in the store in the other order
    with store.database.write(alone=True) as connection:
        for number, said in _checked(path, limit, read):
            for part in said if not isinstance(said, str) else ():
                try:
                    if isinstance(part, Item):
                        found = insert_item(connection, part if part.source else replace(part, source=source or {}),
                                            store.rules)  # fmt: skip
                        (turned.add if found.turned else turned.discard)(part.id)
                        items, known = items + found.new, known + (not found.new)
                    elif isinstance(part, Annotator):
                        people.ensure(connection, part.name, part.made_by)
                    else:
                        said_here = swap(part) if part.item in turned else part
                        new = ledger.take(connection, said_here, store.rules, store.clock(), history=True).new
                        events, known = events + new, known + (not new)
                except LabelError as error:
                    faults.append(Fault(number, str(error).rstrip(".")))
        if faults and not leave_out:
            raise _error(path, faults)
    return Imported(items, events, known, tuple(faults))


def _error(path: Path, faults: Iterable[Fault]) -> LabelError:
    faults = list(faults)
    first = "; ".join(f"line {f.line}: {f.reason}" for f in faults[:SHOWN])
    more = f"; and {len(faults) - SHOWN} more lines" if len(faults) > SHOWN else ""
    return LabelError(f"{path}, {first}{more}. Nothing was imported; mend the file, or leave such lines out.")
