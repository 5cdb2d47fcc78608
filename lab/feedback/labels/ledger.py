"""Writing events down, inside a transaction: what is taken, what is refused, and what follows.

The statements are made once: forty people a second go through them, and building one anew takes longer than running it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from lab.feedback.labels import assign, people
from lab.feedback.labels.fold import answer, stand
from lab.feedback.labels.rows import event_of, event_row, item_of
from lab.feedback.labels.schema import events, items, leases, live
from lab.feedback.labels.words import Event, LabelError, RefusedError, Rules, Showing


class Recorded(NamedTuple):
    """The event as it stands in the store; `new` is False where it was there already."""

    event: Event
    new: bool


class Undone(NamedTuple):
    """What an undo took back, and the showing that is open again if that was an answer."""

    event: Event
    showing: Showing | None


class Responded(NamedTuple):
    """What became of an answer: recorded, or refused with a sentence; and the next showing."""

    recorded: Recorded | None
    refused: str
    showing: Showing | None


PLACE = (live.c.annotator == bindparam("who"), live.c.item == bindparam("what"), live.c.repeat == bindparam("again"))
STANDING = sa.select(live).where(*PLACE)
CLEAR = live.delete().where(*PLACE)
STANDS = live.insert()
SAID = events.insert()
SAME = sa.select(events).where(
    events.c.item == bindparam("what"), events.c.annotator == bindparam("who"), events.c.key == bindparam("key")
)
HISTORY = sa.select(events).where(
    events.c.item == bindparam("what"), events.c.annotator == bindparam("who"), events.c.repeat == bindparam("again"),
    events.c.kind.in_(("vote", "skip", "remark", "undo"))).order_by(events.c.seq)  # fmt: skip
COUNTED = sa.select(sa.func.count()).where(live.c.item == bindparam("what"), live.c.counts).scalar_subquery()
COUNT = items.update().where(items.c.id == bindparam("what")).values(votes=COUNTED)
DONE = leases.delete().where(leases.c.annotator == bindparam("who"), leases.c.item == bindparam("what"))
SHOWN = sa.select(leases).where(leases.c.annotator == bindparam("who"), leases.c.key == bindparam("key"))
UNDONE = sa.select(events).where(
    events.c.annotator == bindparam("who"), events.c.key == bindparam("key"), events.c.kind == "undo")  # fmt: skip


def take(connection: sa.Connection, event: Event, rules: Rules, now: int, *, history: bool = False) -> Recorded:
    """Adds an event. `history`: it happened elsewhere, at its own time, under other rules.

    Raises RefusedError for one that is not taken, LabelError for an unknown item or annotator; nothing is written then.
    """
    who = people.find(connection, event.annotator, lock=True)
    row = assign.locked(connection, event.item)
    if who is None or row is None:
        raise LabelError(f"There is no pair {event.item} in this store." if row is None else
                         f"There is nobody called {event.annotator} in this store.")  # fmt: skip
    old = connection.execute(SAME, {"what": event.item, "who": who.name, "key": event.key}).first()
    if old is not None:
        return Recorded(event_of(old), False)
    event = replace(event, annotator=who.name, at=event.at if history and event.at else now)
    person = who.made_by == "person"
    if event.kind in ("withdraw", "restore", "uncertainty"):
        change = {"priority": event.value} if event.kind == "uncertainty" else {"withdrawn": event.kind == "withdraw"}
        connection.execute(items.update().where(items.c.id == event.item).values(change))
        connection.execute(SAID, event_row(event))
        return Recorded(event, True)
    _refuse(connection, event, row, rules, now, person and not history, history)
    seq = connection.execute(SAID, event_row(event)).inserted_primary_key[0]  # type: ignore[index]
    _settle(connection, event, seq, person)
    return Recorded(event, True)


def _refuse(connection: sa.Connection, event: Event, row: sa.Row, rules: Rules, now: int, bound: bool,
            history: bool) -> None:  # fmt: skip
    """Raises RefusedError for what cannot be taken; `bound`: by the overlap."""
    place = {"who": event.annotator, "what": event.item, "again": event.repeat}
    standing = connection.execute(STANDING, place).first()
    if event.kind == "undo":
        if standing is None:
            raise RefusedError("There is nothing of yours left to undo here.")
        return
    if event.kind == "remark":
        if standing is None:
            raise RefusedError("There is no answer of yours here to remark on; judge the pair first.")
        return
    if standing is not None:
        raise RefusedError("You have answered this pair already; undo that first to answer it again.")
    if row.withdrawn and not history:
        raise RefusedError("This pair was withdrawn in the meantime; your judgement is not needed any more. Thank you.")
    if bound and event.kind == "vote" and not event.repeat and not assign.has_room(
            connection, row, event.annotator, rules, now):  # fmt: skip
        raise RefusedError("This pair has all its votes in the meantime; here is another one for you.")


def _settle(connection: sa.Connection, event: Event, seq: int, person: bool) -> None:
    """Brings what follows from the events up to date after an event was added."""
    place = {"who": event.annotator, "what": event.item, "again": event.repeat}
    keys = {"annotator": event.annotator, "item": event.item, "repeat": event.repeat}
    if event.kind in ("vote", "skip"):  # nothing stood there
        standing, first, last = event, seq, seq
    else:
        rows = connection.execute(HISTORY, place).all()
        number = {row.key: row.seq for row in rows}
        left = stand(map(event_of, rows))
        standing = answer(left)
        first, last = (number[left[0].key], number[left[-1].key]) if left else (0, 0)
        connection.execute(CLEAR, place)
    if standing is not None:
        counts = person and standing.kind == "vote" and not event.repeat
        connection.execute(STANDS, keys | {"kind": standing.kind, "first": standing.first, "counts": counts,
                                           "begun": first, "last": last})  # fmt: skip
    connection.execute(COUNT, {"what": event.item})


def record(connection: sa.Connection, event: Event, rules: Rules, now: int) -> Recorded:
    """Adds an event; an answer ends its lease."""
    recorded = take(connection, event, rules, now)
    if recorded.new and event.kind in ("vote", "skip"):
        connection.execute(DONE, {"who": recorded.event.annotator, "what": event.item})
    return recorded


def respond(connection: sa.Connection, annotator: str, item: str, key: str, strength: int | None, rules: Rules,
            now: int, *, both_bad: bool = False, **said: object) -> Responded:  # fmt: skip
    """What somebody says to the pair they were shown under `key`, and what they are shown next."""
    recorded, refused = None, ""
    people.find(connection, annotator, lock=True)  # always the annotator before the item: nobody waits in a circle
    old = connection.execute(SAME, {"what": item, "who": annotator, "key": key}).first()
    held = connection.execute(SHOWN, {"who": annotator, "key": key}).first() if old is None else None
    if old is not None:
        recorded = Recorded(event_of(old), False)
    elif held is None or held.item != item or (row := assign.locked(connection, item)) is None:
        refused = "This pair is not yours any more; here is the next one."
    else:
        showing = Showing(item_of(row), annotator, held.first, bool(held.repeat), key, held.expires)
        event = showing.skip(**said) if strength is None else showing.vote(strength, both_bad=both_bad, **said)
        try:
            recorded = record(connection, event, rules, now)
        except RefusedError as error:
            refused = str(error)
    return Responded(recorded, refused, assign.assign(connection, annotator, rules, now))


def undo(connection: sa.Connection, annotator: str, key: str, item: str, rules: Rules, now: int) -> Undone:
    """Takes back the annotator's newest event that stands, on one item or (empty) on any."""
    who = people.find(connection, annotator, lock=True)
    if who is None:
        raise LabelError(f"There is nobody called {annotator} in this store.")
    old = connection.execute(UNDONE, {"who": who.name, "key": key}).first()
    if old is not None:
        return Undone(event_of(old), assign.assign(connection, who.name, rules, now))
    where = [live.c.annotator == who.name, *([live.c.item == item] if item else [])]
    row = connection.execute(sa.select(live).where(*where).order_by(live.c.last.desc()).limit(1)).first()
    if row is None:
        raise RefusedError("There is nothing of yours left to undo.")
    event = Event("undo", row.item, who.name, key, first=row.first, repeat=bool(row.repeat))
    taken = take(connection, event, rules, now).event
    held = assign.locked(connection, row.item)
    if row.last != row.begun or held is None or held.withdrawn:
        return Undone(taken, None)
    return Undone(taken, assign.lease(connection, item_of(held), who.name, rules, now, first=row.first or "a",
                                      repeat=bool(row.repeat)))  # fmt: skip
