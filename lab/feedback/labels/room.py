"""What happens in a room that judges together, beside the judgements: rounds, reveal, talk, guide and predictions.

    host    open → pause ⇄ resume → reveal → talk → close        a new `open` ends the round before it
    anybody guide (a step of the guide), prediction (who will win, how far all will agree)
    host    skip (steps of the guide that nobody needs to take)

It is a table of its own, `room`, to which rows are only ever added; a store that has none gets it when one is asked
for. Every change of phase says which event of the store was the newest at that moment, so that what stood before the
reveal and what stands after the talk can both be folded from the events.

    blind votes     what stands after the events up to the reveal
    after the talk  what stands now: a second vote takes the place of the first, as an undo and a vote, both or neither
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import sqlalchemy as sa

from lab.feedback.labels import assign, people
from lab.feedback.labels.ledger import SAME, STANDING, Recorded, take
from lab.feedback.labels.rows import dumps, event_of
from lab.feedback.labels.schema import Number, events
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import LONGEST_NAME, Event, LabelError, RefusedError, control_character, vote

Phase = Literal["free", "open", "paused", "revealed", "talk", "closed"]
"""free: no round was ever opened, and everybody judges when they like."""

PHASES: dict[str, tuple[tuple[Phase, ...], Phase]] = {
    "open": (("free", "closed", "revealed", "talk"), "open"),
    "pause": (("open",), "paused"),
    "resume": (("paused",), "open"),
    "reveal": (("open", "paused"), "revealed"),
    "talk": (("revealed", "talk"), "talk"),
    "close": (("open", "paused", "revealed", "talk"), "closed"),
}
"""kind -> the phases it may follow, and the phase it begins."""

OPEN: tuple[Phase, ...] = ("free", "open")
"""The phases in which pairs are handed out."""

BLIND: tuple[Phase, ...] = ("free", "open", "paused")
"""The phases in which a vote is taken: one that was under way when the host paused is not lost."""

PERSONAL = ("guide", "prediction", "skip")
MOST_BYTES = 4000
"""Of what one row says, as JSON."""

tables = sa.MetaData()
room = sa.Table(
    "room",
    tables,
    sa.Column("seq", Number, primary_key=True, autoincrement=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("newest", Number, nullable=False),  # the store's newest event at that moment, 0 for none
    sa.Column("value", sa.Text, nullable=False),  # JSON
    sa.Index("room_of_person", "who", "kind"),
)
NEWEST = sa.select(sa.func.coalesce(sa.func.max(events.c.seq), 0))


@dataclass(frozen=True, slots=True)
class Said:
    """One row: `newest` is the number of the store's newest event when it was said, `at` milliseconds since 1970."""

    seq: int
    at: int
    kind: str
    who: str
    newest: int
    value: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Round:
    """One round.

    began, revealed, over : the store's newest event when it began, was revealed, and ended; None: not yet
    talk                  : the pairs that are talked about and may be judged again
    """

    number: int
    title: str
    began: int
    revealed: int | None = None
    over: int | None = None
    talk: tuple[str, ...] = ()


@dataclass(frozen=True)
class RoomState:
    """What stands after all rows.

    predictions : person -> their last one in the present round
    steps       : person -> guide step -> what was last said about it; skipped: steps the host passes over for all
    """

    phase: Phase = "free"
    rounds: tuple[Round, ...] = ()
    predictions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    steps: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    skipped: frozenset[str] = frozenset()

    @property
    def now(self) -> Round | None:
        """The round that goes on, or was the last."""
        return self.rounds[-1] if self.rounds else None


def fold_room(said: Sequence[Said]) -> RoomState:
    """The state after these rows, in their order. A row that its phase does not allow is as if unsaid."""
    phase: Phase = "free"
    rounds: list[Round] = []
    predictions: dict[str, Mapping[str, Any]] = {}
    steps: dict[str, dict[str, Mapping[str, Any]]] = {}
    skipped: frozenset[str] = frozenset()
    for row in said:
        if row.kind == "prediction":
            predictions[row.who] = row.value
        elif row.kind == "guide":
            steps.setdefault(row.who, {})[str(row.value.get("step"))] = row.value
        elif row.kind == "skip":
            skipped = frozenset(map(str, row.value.get("steps", ())))
        elif row.kind in PHASES and phase in PHASES[row.kind][0]:
            phase = PHASES[row.kind][1]
            _turn(rounds, row)
            if row.kind == "open" and len(rounds) > 1:
                predictions = {}
    return RoomState(phase, tuple(rounds), predictions, steps, skipped)


def _turn(rounds: list[Round], row: Said) -> None:
    """What a change of phase does to the rounds."""
    if row.kind == "open":
        if rounds and rounds[-1].over is None:
            rounds[-1] = replace(rounds[-1], over=row.newest)
        rounds.append(Round(len(rounds) + 1, str(row.value.get("title", "")), row.newest))
    elif row.kind == "reveal":
        rounds[-1] = replace(rounds[-1], revealed=row.newest)
    elif row.kind == "talk":
        rounds[-1] = replace(rounds[-1], talk=tuple(map(str, row.value.get("items", ()))))
    elif row.kind == "close":
        rounds[-1] = replace(rounds[-1], over=row.newest)


class Room:
    """The room of a label store. Any number of threads and processes may use one."""

    def __init__(self, store: Store) -> None:
        self.store = store
        with store.database.read() as connection:
            there = sa.inspect(connection).has_table("room")
        if not there:
            with store.database.write() as connection:
                if not store.database.sqlite:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x1ABE16)))
                tables.create_all(connection)

    def newest(self) -> int:
        """The number of the newest row, 0 for none: whether anything changed."""
        with self.store.database.read() as connection:
            return int(connection.scalar(sa.select(sa.func.coalesce(sa.func.max(room.c.seq), 0))) or 0)

    def said(self) -> list[Said]:
        """All rows, in the order in which they were taken."""
        with self.store.database.read() as connection:
            return _rows(connection)

    def state(self) -> RoomState:
        """What stands."""
        return fold_room(self.said())

    def turn(self, kind: str, who: str, **value: Any) -> RoomState:
        """Another phase: open (title), pause, resume, reveal, talk (items), close; the state after it.

        Said twice by a quick finger, it happens once. Raises RefusedError where the present phase does not allow it.
        """
        if kind not in PHASES:
            raise LabelError(f"{kind!r} is no turn of a round; there are {', '.join(PHASES)}.")
        with self.store.database.write() as connection:
            if not self.store.database.sqlite:
                connection.exec_driver_sql("LOCK TABLE room IN EXCLUSIVE MODE")
            state = fold_room(_rows(connection))
            before, after = PHASES[kind]
            if state.phase == after and kind != "talk":
                return state
            if state.phase not in before:
                raise RefusedError(f"The room is {WORDS[state.phase]}; {kind} follows when it is "
                                   f"{' or '.join(WORDS[p] for p in before)}.")  # fmt: skip
            self._add(connection, kind, who, value)
            return fold_room(_rows(connection))

    def note(self, kind: str, who: str, **value: Any) -> None:
        """Something a person says beside their judgements: a guide step, a prediction, steps the host skips.

        Raises RefusedError for a prediction after the reveal.
        """
        if kind not in PERSONAL:
            raise LabelError(f"{kind!r} is nothing a person says here; there are {', '.join(PERSONAL)}.")
        with self.store.database.write() as connection:
            if kind == "prediction" and fold_room(_rows(connection)).phase not in BLIND:
                raise RefusedError("The round has been revealed; the next round takes predictions again.")
            self._add(connection, kind, who, value)

    def revise(self, annotator: str, item: str, key: str, strength: int, *, both_bad: bool = False,
               **said: Any) -> Recorded:  # fmt: skip
        """A second vote in the talk, in the place of the first: `strength` in the display order of the first.

        The undo and the vote are one transaction, so that nobody else can take the place between them. The same key
        again is the first answer once more. Raises RefusedError outside the talk, and for those who had not voted.
        """
        with self.store.database.write() as connection:
            who = people.find(connection, annotator, lock=True)
            if who is None:
                raise LabelError(f"There is nobody called {annotator} in this store.")
            old = connection.execute(SAME, {"what": item, "who": who.name, "key": key}).first()
            if old is not None:
                return Recorded(event_of(old), False)
            state = fold_room(_rows(connection))
            if state.phase != "talk" or state.now is None or item not in state.now.talk:
                raise RefusedError("This pair is not talked about now; the host opens pairs for a second vote.")
            if assign.locked(connection, item) is None:
                raise LabelError(f"There is no pair {item} in this store.")
            place = {"who": who.name, "what": item, "again": False}
            standing = connection.execute(STANDING, place).first()
            if standing is None or standing.kind != "vote":
                raise RefusedError("You had not judged this pair before the reveal; tell the others what you think.")
            first, rules, now, n = standing.first, self.store.rules, self.store.clock(), 0
            while connection.execute(STANDING, place).first() is not None:  # remarks stand on the vote
                take(connection, Event("undo", item, who.name, f"{key}/{n}", first=first), rules, now)
                n += 1
            content = strength if first != "b" else -strength
            event = vote(item, who.name, key, content, both_bad=both_bad, first=first, **said)
            return take(connection, event, replace(rules, overlap=10**9), now)  # the place was one's own all along

    def _add(self, connection: sa.Connection, kind: str, who: str, value: Mapping[str, Any]) -> None:
        found = control_character([who, value])
        text = dumps(dict(value))
        if found:
            raise LabelError(f"The text holds the control character {found}; take it out.")
        if not who or len(who) > LONGEST_NAME or (kind != "talk" and len(text) > MOST_BYTES):
            raise LabelError(f"What is said in a room names who says it, and has up to {MOST_BYTES} characters.")
        connection.execute(room.insert().values(at=self.store.clock(), kind=kind, who=who,
                                                newest=connection.scalar(NEWEST) or 0, value=text))  # fmt: skip


WORDS: dict[Phase, str] = {
    "free": "not in a round yet",
    "open": "judging",
    "paused": "paused",
    "revealed": "looking at what was revealed",
    "talk": "talking",
    "closed": "between two rounds",
}
"""The phases in words, after “the room is …”."""


def _rows(connection: sa.Connection) -> list[Said]:
    return [Said(r.seq, r.at, r.kind, r.who, r.newest, json.loads(r.value))
            for r in connection.execute(sa.select(room).order_by(room.c.seq))]  # fmt: skip
