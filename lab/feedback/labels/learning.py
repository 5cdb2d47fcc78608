"""Data to learn from out of a label store, by name, where a file could stand.

labels:labels.sqlite                        the votes of people on training items
labels:labels.sqlite?round=2&by=mina        given in the second round of a room, by one annotator
labels:labels.sqlite?made_by=judge&ties=1   of judges in place of people; ties too, as pairs at one half

What was drawn for evaluation, gold pairs, repeats and withdrawn pairs are never among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import sqlalchemy as sa

from lab.columns import DataError, Kind, Rows
from lab.feedback.labels.exporting import Tally, preferences, ratings, tallies
from lab.feedback.labels.room import Room
from lab.feedback.labels.schema import events
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import MAKERS, LabelError
from lab.records import PromptRow

OPTIONS = ("round", "run", "by", "made_by", "ties")
KINDS: tuple[Kind, ...] = ("preference", "rating", "prompt")


def records(text: str, kind: Kind) -> Rows[Any]:
    """What `FILE-or-URL?option=…` stands for, as records of a kind.

    Raises DataError for a store that cannot be opened, an option that does not exist, a kind that votes do not give,
    and where nothing is left.
    """
    where, _, query = text.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    odd = [name for name in options if name not in OPTIONS]
    if odd:
        raise DataError(f"labels: has no option {odd[0]!r}; it has {', '.join(OPTIONS)}.")
    if kind not in KINDS:
        raise DataError(f"Votes on pairs give {', '.join(KINDS)} data, not {kind!r}.")
    if options.get("made_by", "person") not in MAKERS:
        raise DataError(f"made_by is {options['made_by']!r}; choose one of {', '.join(MAKERS)}.")
    if not where or ("://" not in where and not Path(where).expanduser().is_file()):
        raise DataError(f"There is no label store {where or 'without a name'}; give its file or its URL.")
    try:
        with Store.open(Path(where).expanduser() if "://" not in where else where, create=False) as store:
            found = chosen(store, **options)
    except LabelError as error:
        raise DataError(str(error)) from error
    made = made_of(found, kind, ties=options.get("ties", "") in ("1", "true", "yes"))
    if not made:
        raise DataError(f"No vote of {where} can be learnt from: {_why(found)}")
    return Rows(tuple(made))


def chosen(store: Store, *, round: str = "", run: str = "", by: str = "", made_by: str = "person",
           **_: str) -> list[Tally]:  # fmt: skip
    """The training items with votes, of a round and a run where these are named."""
    found = tallies(store, part="training", made_by=(made_by,), annotator=by)  # type: ignore[arg-type]
    if round:
        said = _said(store).get(round, set())
        kept = ((t.item, tuple(v for v in t.votes if (v.item, v.annotator, v.key) in said)) for t in found)
        found = [Tally(item, votes) for item, votes in kept if votes]
    return [t for t in found if not run or run in _runs(t)]


def made_of(found: Sequence[Tally], kind: Kind, *, ties: bool = False) -> list[Any]:
    """The records of these votes: pairs, thumbs, or the pairs' prompts."""
    if kind == "preference":
        return preferences(found, ties=ties)
    if kind == "rating":
        return ratings(found)
    prompts = dict.fromkeys(t.item.comparison.prompt for t in found)
    return [PromptRow(prompt, row=i) for i, prompt in enumerate(prompts)]


def rounds(store: Store) -> dict[str, int]:
    """Training items that prefer a side, by the rounds of the room; "" counts all of them."""
    found = {name: chosen(store, round=name) for name in ("", *_said(store))}
    return {name: sum(t.share not in (None, 0.5) for t in all_) for name, all_ in found.items()}


def _said(store: Store) -> dict[str, set[tuple[str, str, str]]]:
    """Round -> the votes that were given in it (item, annotator, key), those of the talk with them."""
    of_room = Room(store).state().rounds
    if not of_room:
        return {}
    with store.database.read() as connection:
        rows = connection.execute(sa.select(events.c.seq, events.c.item, events.c.annotator, events.c.key).where(
            events.c.kind == "vote")).all()  # fmt: skip
    return {str(r.number): {(v.item, v.annotator, v.key) for v in rows if r.began < v.seq and
                            (r.over is None or v.seq <= r.over)} for r in of_room}  # fmt: skip


def _runs(tally: Tally) -> set[str]:
    """The runs whose answers are compared."""
    source = tally.item.source
    names = [source.get(name) for name in ("run", "a", "b")]
    named = [n.get("run") if isinstance(n, dict) else n for n in names]
    return {str(n).partition("@")[0] for n in named if n}


def _why(found: Sequence[Tally]) -> str:
    return ("nobody has judged a training pair of these yet." if not found else
            f"the {len(found)} judged pairs are all ties or bad on both sides.")  # fmt: skip
