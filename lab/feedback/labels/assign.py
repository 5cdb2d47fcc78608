"""Who is shown what, so that no item ever has more votes and leases together than the rules' overlap.

    a showing is a lease    while it lasts the place is kept; when it ends the item goes to somebody else
    gold pairs              `gold` of the showings; everybody sees each once, so they have no overlap
    flipped repeats         `repeats` of the showings: a pair one has judged, the other way round; no further vote
    the rest                1 − explore: the training item reward models disagree about most;
                            explore: the evaluation items in a random order that is the same for everybody

The evaluation items are those of a random share of the prompts, and among them nothing is chosen, so that what is
measured on their votes holds for all pairs. Everyone's next item is the first that has room, which fills an item's
places one after the other.

All of it happens inside one writing transaction. In SQLite there is one at a time; elsewhere an item is locked, and
what is locked is passed over (SKIP LOCKED); the room is counted again under the lock: the first count may be older.
"""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from lab.feedback.labels import people
from lab.feedback.labels.rows import chance, item_of
from lab.feedback.labels.schema import events, items, leases, live
from lab.feedback.labels.words import Item, LabelError, Rules, Showing, Side

OTHERS = (leases.c.annotator != bindparam("who"), leases.c.repeat.is_(False), leases.c.expires > bindparam("now"))
HELD = sa.select(sa.func.count()).where(leases.c.item == bindparam("what"), *OTHERS).scalar_subquery()
VOTED = (sa.select(sa.func.count()).where(live.c.item == bindparam("what"), live.c.annotator != bindparam("who"),
                                          live.c.counts).scalar_subquery())  # fmt: skip
TAKEN = sa.select(HELD + VOTED)
LOCKED = sa.select(items).where(items.c.id == bindparam("what")).with_for_update()
LEASED = sa.select(leases).where(leases.c.annotator == bindparam("who"))
UNLEASE = leases.delete().where(leases.c.annotator == bindparam("who"))
LEASE = leases.insert()
LONGER = leases.update().where(leases.c.annotator == bindparam("who")).values(expires=bindparam("until"))
SEEN = sa.select(sa.func.count()).where(live.c.annotator == bindparam("who"))


def taken(connection: sa.Connection, item: str, annotator: str, now: int) -> int:
    """How many of an item's places others have: live votes, and leases that have not ended."""
    return connection.scalar(TAKEN, {"what": item, "who": annotator, "now": now}) or 0


def assign(connection: sa.Connection, annotator: str, rules: Rules, now: int) -> Showing | None:
    """The next item for an annotator, leased; the same one again while it is not judged. None: nothing is left."""
    row = people.find(connection, annotator, lock=True)
    if row is None:
        raise LabelError(f"There is nobody called {annotator} in this store.")
    kept = _kept(connection, row.name, rules, now)
    if kept is not None:
        return kept
    seen = connection.scalar(SEEN, {"who": row.name}) or 0
    draw = chance(rules.seed, row.name, seen, "what")
    explore = chance(rules.seed, row.name, seen, "split") < rules.explore
    order = [_gold] if draw < rules.gold else [_repeat] if draw < rules.gold + rules.repeats else []
    rest = [_gold] if rules.gold else []
    for find in (*order, _evaluation if explore else _training, _training if explore else _evaluation, *rest):
        found = find(connection, row.name, rules, now)
        if found is not None:
            item, first, repeat = found
            return lease(connection, item, row.name, rules, now, first=first, repeat=repeat)
    connection.execute(UNLEASE, {"who": row.name})
    return None


def lease(connection: sa.Connection, item: Item, annotator: str, rules: Rules, now: int, *, first: Side,
          repeat: bool) -> Showing:  # fmt: skip
    """Shows an item to an annotator, in place of whatever they were shown before."""
    key, expires = secrets.token_urlsafe(12), now + round(1000 * rules.lease_s)
    connection.execute(UNLEASE, {"who": annotator})
    connection.execute(LEASE, {"annotator": annotator, "item": item.id, "repeat": repeat, "first": first, "key": key,
                               "expires": expires})  # fmt: skip
    return Showing(item, annotator, first, repeat, key, expires)


def has_room(connection: sa.Connection, item: Any, annotator: str, rules: Rules, now: int) -> bool:
    """Whether an item (its row, locked) has a place left for this annotator's vote."""
    return bool(item.gold) or taken(connection, item.id, annotator, now) < rules.overlap


def locked(connection: sa.Connection, item: str) -> sa.Row | None:
    """An item's row, nobody else's until the transaction ends."""
    return connection.execute(LOCKED, {"what": item}).first()


def _kept(connection: sa.Connection, annotator: str, rules: Rules, now: int) -> Showing | None:
    """What the annotator was shown last, where they have not answered and it is still theirs or has room again."""
    held = connection.execute(LEASED, {"who": annotator}).first()
    row = locked(connection, held.item) if held is not None else None
    if held is None or row is None or row.withdrawn:
        return None
    if held.expires <= now and not held.repeat and not has_room(connection, row, annotator, rules, now):
        return None
    expires = now + round(1000 * rules.lease_s)
    connection.execute(LONGER, {"who": annotator, "until": expires})
    return Showing(item_of(row), annotator, held.first, bool(held.repeat), held.key, expires)


Found = tuple[Item, Side, bool]


def _side(rules: Rules, annotator: str, item: str) -> Side:
    """Which side stands first, a fair coin for every annotator and item."""
    return "a" if chance(rules.seed, annotator, item, "first") < 0.5 else "b"


def _queue(*where: Any, order: Any, room: bool = True) -> sa.Select:
    """The first item in an order that an annotator has not seen and that has room, locked; locked ones are passed."""
    others = sa.select(sa.func.count()).where(leases.c.item == items.c.id, *OTHERS).scalar_subquery()
    unseen = ~sa.exists().where(live.c.annotator == bindparam("who"), live.c.item == items.c.id)
    overlap = bindparam("overlap")
    free = [items.c.votes < overlap, items.c.votes + others < overlap] if room else []
    passed = items.c.id.not_in(bindparam("passed", expanding=True))
    query = sa.select(items).where(*where, items.c.withdrawn.is_(False), *free, unseen, passed)
    return query.order_by(*order).limit(1).with_for_update(skip_locked=True)


TRAINING = _queue(items.c.gold.is_(False), items.c.split == "training",
                  order=(items.c.priority.desc(), items.c.draw.desc()))  # fmt: skip
EVALUATION = _queue(items.c.gold.is_(False), items.c.split == "evaluation", order=(items.c.draw,))
GOLD = _queue(items.c.gold.is_(True), order=(items.c.draw,), room=False)


def _first(connection: sa.Connection, query: sa.Select, annotator: str, rules: Rules, now: int) -> Found | None:
    """The first item of a queue that has room still when it is locked."""
    passed: list[str] = []
    while True:
        asked = {"who": annotator, "now": now, "overlap": rules.overlap, "passed": passed}
        row = connection.execute(query, asked).first()
        if row is None:
            return None
        if has_room(connection, row, annotator, rules, now):
            return item_of(row), _side(rules, annotator, row.id), False
        passed.append(row.id)


def _training(connection: sa.Connection, annotator: str, rules: Rules, now: int) -> Found | None:
    return _first(connection, TRAINING, annotator, rules, now)


def _evaluation(connection: sa.Connection, annotator: str, rules: Rules, now: int) -> Found | None:
    return _first(connection, EVALUATION, annotator, rules, now)


def _gold(connection: sa.Connection, annotator: str, rules: Rules, now: int) -> Found | None:
    return _first(connection, GOLD, annotator, rules, now)


def _repeat(connection: sa.Connection, annotator: str, rules: Rules, now: int) -> Found | None:
    """A pair the annotator judged at least `gap` answers ago and has not seen again, with the sides exchanged."""
    mine = sa.and_(live.c.annotator == annotator, live.c.repeat.is_(False), live.c.kind == "vote")
    again = live.alias()
    repeated = sa.exists().where(again.c.annotator == annotator, again.c.item == live.c.item, again.c.repeat)
    recent = (sa.select(events.c.item).where(events.c.annotator == annotator, events.c.kind.in_(("vote", "skip")))
              .order_by(events.c.seq.desc()).limit(rules.gap).subquery())  # fmt: skip
    query = (sa.select(items, live.c.first.label("before")).join(live, live.c.item == items.c.id)
             .where(mine, ~repeated, items.c.gold.is_(False), items.c.withdrawn.is_(False),
                    items.c.id.not_in(sa.select(recent.c.item)))
             .order_by(items.c.draw).limit(1))  # fmt: skip
    row = connection.execute(query).first()
    if row is None:
        return None
    return item_of(row), "b" if row.before == "a" else "a", True
