"""A label store as it grows: read once, and from then on only what is new, for all who look at the same store.

A `Moment` is what the store held at one time; nothing in it changes. Events keep their numbers, so that what stood at a
reveal can be told from what stands now.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import sqlalchemy as sa

from lab.evaluate.agreement import Mark
from lab.feedback.labels.fold import State, fold
from lab.feedback.labels.rows import event_of, item_of, prompt_id
from lab.feedback.labels.schema import annotators, events, items
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import By, Event, Item
from lab.records import completion_text


class Known(NamedTuple):
    """An item, the identity of its prompt, and the words of its a and its b."""

    item: Item
    prompt: str
    words: tuple[float, float]


class Numbered(NamedTuple):
    """An event with its number in the store."""

    seq: int
    event: Event


@dataclass(frozen=True)
class Moment:
    """What a store held: items by id, events in their order, who judges."""

    items: Mapping[str, Known]
    said: tuple[Numbered, ...]
    makers: Mapping[str, By]

    @cached_property
    def newest(self) -> int:
        """The number of the newest event, 0 for none."""
        return self.said[-1].seq if self.said else 0

    @cached_property
    def state(self) -> State:
        """What stands."""
        return fold(n.event for n in self.said)

    def at(self, seq: int | None) -> State:
        """What stood after the event of this number; None: what stands now."""
        return self.state if seq is None or seq >= self.newest else fold(n.event for n in self.said if n.seq <= seq)

    def judged(self, after: int, until: int | None) -> frozenset[str]:
        """The items that people judged after one event and up to another: what a round was about."""
        return frozenset(n.event.item for n in self.said if n.event.kind == "vote" and n.seq > after
                         and (until is None or n.seq <= until) and self.makers.get(n.event.annotator) == "person"
                         and not self.items[n.event.item].item.gold)  # fmt: skip

    def votes(self, state: State | None = None, *, made_by: Sequence[By] = ("person",), gold: bool = False,
              repeats: bool = False, among: Collection[str] | None = None) -> list[Event]:  # fmt: skip
        """The votes that count in a state (None: now), of these kinds of annotators, on these items (None: all)."""
        state = self.state if state is None else state
        return [v for v in state.votes(repeats=repeats) if self.makers.get(v.annotator) in made_by
                and v.item in self.items and (gold or not self.items[v.item].item.gold)
                and (among is None or v.item in among)]  # fmt: skip

    def marks(self, votes: Sequence[Event]) -> list[Mark]:
        """Votes as marks with strengths in content order; both bad is 0."""
        return [Mark(v.item, self.items[v.item].prompt, v.annotator, v.strength, v.first, v.ms) for v in votes]

    @cached_property
    def words(self) -> dict[str, tuple[float, float]]:
        """Item -> words of a and of b."""
        return {name: known.words for name, known in self.items.items()}


def sides(marks: Sequence[Mark]) -> list[Mark]:
    """The marks without their strengths: a, b or tie."""
    return [replace(m, value="a" if m.strength > 0 else "b" if m.strength < 0 else "tie") for m in marks]


class Record:
    """Reads a store and keeps what it read. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._moment = Moment({}, (), {})
        self._counted = (-1, -1, -1, -1)

    def moment(self) -> Moment:
        """What the store holds now."""
        with self._lock:
            with self.store.database.read() as connection:
                counted = connection.execute(COUNTED).one()._tuple()
                if counted != self._counted:
                    self._moment = self._read(connection, counted)
                    self._counted = counted
            return self._moment

    def _read(self, connection: sa.Connection, counted: tuple[int, ...]) -> Moment:
        old = self._moment
        new = [Numbered(r.seq, event_of(r)) for r in connection.execute(
            sa.select(events).where(events.c.seq > old.newest).order_by(events.c.seq))]  # fmt: skip
        said = (*old.said, *new)
        if len(said) != counted[1]:  # a transaction with a lower number ended later than one with a higher
            said = tuple(
                Numbered(r.seq, event_of(r)) for r in connection.execute(sa.select(events).order_by(events.c.seq))
            )
        known = dict(old.items)
        if len(known) != counted[2]:
            rows = connection.execute(sa.select(items).order_by(items.c.seq))
            known = {r.id: old.items.get(r.id) or _known(item_of(r)) for r in rows}
        who = connection.execute(sa.select(annotators.c.name, annotators.c.made_by))
        return Moment(known, said, {r.name: r.made_by for r in who})


COUNTED = sa.select(
    sa.select(sa.func.coalesce(sa.func.max(events.c.seq), 0)).scalar_subquery(),
    sa.select(sa.func.count()).select_from(events).scalar_subquery(),
    sa.select(sa.func.count()).select_from(items).scalar_subquery(),
    sa.select(sa.func.count()).select_from(annotators).scalar_subquery(),
)


def _known(item: Item) -> Known:
    c = item.comparison
    return Known(item, prompt_id(item), (float(len(completion_text(c.a).split())),
                                         float(len(completion_text(c.b).split()))))  # fmt: skip
