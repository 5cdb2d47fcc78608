"""Items and events as rows of the tables, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa

from lab.data import split
from lab.feedback.labels.schema import events, items
from lab.feedback.labels.words import Event, Item, LabelError, Rules
from lab.records import Comparison, Message, PromptRow, as_messages, digest, to_json


def dumps(value: Any) -> str:
    """JSON of one spelling: keys sorted, no spaces, nothing escaped that need not be."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=to_json)


def chance(*about: Any) -> float:
    """A number in [0, 1) that depends on `about` alone: every draw of a store can be redone."""
    return int.from_bytes(hashlib.sha256(dumps(about).encode()).digest()[:8], "big") / 2**64


def as_text(value: Any) -> str | tuple[Message, ...]:
    """A prompt or a completion out of its JSON."""
    return value if isinstance(value, str) else tuple(Message(m["role"], m["content"]) for m in value)


def prompt_id(item: Item) -> str:
    """Names the prompt, plain or as a user's turn alike."""
    return digest(as_messages(item.comparison.prompt))


def item_row(item: Item, rules: Rules) -> dict[str, Any]:
    """The columns of a new item; its split is drawn by its prompt where it names none."""
    c = item.comparison
    drawn = "evaluation" if split([PromptRow(c.prompt)], rules.explore, rules.seed).heldout else "training"
    return {"id": item.id, "prompt": dumps(to_json(c.prompt)), "a": dumps(to_json(c.a)), "b": dumps(to_json(c.b)),
            "ended_a": c.ended[0], "ended_b": c.ended[1], "prompt_id": prompt_id(item), "answer": item.answer,
            "split": item.split or drawn, "uncertainty": item.uncertainty, "source": dumps(dict(item.source)),
            "gold": item.gold, "draw": chance(rules.seed, "draw", item.id),
            "priority": -1.0 if item.uncertainty is None else item.uncertainty}  # fmt: skip


def item_of(row: Any) -> Item:
    """The item of a row, with the newest uncertainty."""
    prompt, a, b = (as_text(json.loads(text)) for text in (row.prompt, row.a, row.b))
    comparison = Comparison(prompt, a, b, (bool(row.ended_a), bool(row.ended_b)))
    newest = None if row.priority < 0 else row.priority
    return Item(comparison, row.answer, row.split, newest, json.loads(row.source), bool(row.withdrawn))


def event_row(event: Event) -> dict[str, Any]:
    """The columns of an event."""
    names = ("kind", "item", "annotator", "key", "at", "choice", "strength", "p", "first", "repeat", "note", "ms",
             "value")  # fmt: skip
    return {name: getattr(event, name) for name in names} | {"reasons": dumps(list(event.reasons))}


def event_of(row: Any) -> Event:
    """The event of a row."""
    return Event(row.kind, row.item, row.annotator, row.key, row.at, row.choice, row.strength, row.p, row.first,
                 bool(row.repeat), tuple(json.loads(row.reasons)), row.note, row.ms, row.value)  # fmt: skip


class Inserted(NamedTuple):
    """Whether an item is new; `turned`: it was there with a and b the other way round."""

    new: bool
    turned: bool


def insert_item(connection: sa.Connection, item: Item, rules: Rules) -> Inserted:
    """Adds an item that is not there yet, in either order. Raises LabelError where its prompt stands in the other
    split, or the answer of a gold item differs."""
    old = connection.execute(sa.select(items).where(items.c.id == item.id)).first()
    row = item_row(item, rules)
    if old is not None:
        same = old.a == row["a"]
        given = item.answer if same else {"a": "b", "b": "a"}.get(item.answer or "", item.answer)
        if given != old.answer:
            raise LabelError(f"The pair {item.id} is in the store with the answer {old.answer}, and comes with "
                             f"{given}; settle which is right.")  # fmt: skip
        return Inserted(False, not same)
    if not item.gold:
        where = sa.and_(items.c.prompt_id == row["prompt_id"], items.c.gold.is_(False))
        stands = connection.scalar(sa.select(items.c.split).where(where).limit(1))
        if stands is not None and item.split and stands != item.split:
            raise LabelError(f"The prompt of {item.id} is in the {stands} split already and is now to go to the "
                             f"{item.split} split; a prompt is in one of them alone.")  # fmt: skip
        row["split"] = stands or row["split"]
    connection.execute(items.insert().values(row))
    return Inserted(True, False)


def every(connection: sa.Connection) -> Iterable[Event]:
    """All events, in the order in which they were taken."""
    return map(event_of, connection.execute(sa.select(events).order_by(events.c.seq)))
