"""The label store: preference data as events that are only ever added, in one SQLite file or a PostgreSQL database.

    with Store.open("labels.sqlite") as store:
        store.add([Item(Comparison("Why is the sky blue?", "Because …", "It is not."))])
        name = store.login("mina", "2718")
        showing = store.assign(name)
        store.record(showing.vote(+2))          # what stood first is much better
        store.undo(name, key="u1")

What is recorded is on the disk before the call returns. Any number of threads and processes may use one store.

    the same (item, annotator, key) twice    is one event: the second call gives the first's
    a second vote without an undo            is refused, whatever it says, and so is a vote over a skip
    undo                                     takes back the annotator's newest event that stands; without limit
    a vote on a withdrawn pair, or on one that has its votes    is refused with a sentence for whoever voted
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lab.feedback.labels import assign, ledger, people
from lab.feedback.labels.fold import Place, State, answer, fold, stand
from lab.feedback.labels.ledger import Recorded, Responded, Undone
from lab.feedback.labels.rows import dumps, event_of, every, insert_item, item_of
from lab.feedback.labels.schema import Database, about, annotators, events, items, live
from lab.feedback.labels.words import (
    By,
    Event,
    Item,
    LabelError,
    LoginError,
    Rules,
    Showing,
    machine_vote,
    swap,
)
from lab.records import Comparison, Verdict


def server_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Store:
    """A label store. `Store.open` opens one; `clock` gives milliseconds, and is the only clock that counts."""

    def __init__(self, database: Database, clock: Callable[[], int] = server_clock) -> None:
        self.database, self.clock = database, clock
        with database.read() as connection:
            kept = connection.scalar(sa.select(about.c.value).where(about.c.name == "rules"))
        self.rules = Rules(**json.loads(kept)) if kept else Rules()

    @classmethod
    def open(cls, where: str | Path, *, create: bool = True, rules: Rules | None = None, wait_s: float = 10.0,
             clock: Callable[[], int] = server_clock) -> Store:  # fmt: skip
        """Opens a store, making one where there is none; `rules` are kept in it.

        Raises LabelError for a file that is something else, newer, locked or damaged, with what to do.
        """
        store = cls(Database(where, create=create, wait_s=wait_s), clock)
        if rules is not None and rules != store.rules:
            store.rule(rules)
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file or the server."""
        self.database.close()

    def rule(self, rules: Rules) -> None:
        """Keeps the rules by which items are handed out from now on. The split of items that are there stays."""
        with self.database.write() as connection:
            connection.execute(about.delete().where(about.c.name == "rules"))
            connection.execute(about.insert().values(name="rules", value=dumps(asdict(rules))))
        self.rules = rules

    # ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, new: Iterable[Item]) -> int:
        """Adds items; how many were new. One that is there, in either order, stays as it is."""
        with self.database.write(alone=True) as connection:
            return sum(insert_item(connection, item, self.rules).new for item in new)

    def item(self, item: str) -> Item:
        """The item of this id."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(items).where(items.c.id == item)).first()
        if row is None:
            raise LabelError(f"There is no pair {item} in this store.")
        return item_of(row)

    def items(self) -> list[Item]:
        """All items, in the order in which they were added."""
        with self.database.read() as connection:
            return [item_of(row) for row in connection.execute(sa.select(items).order_by(items.c.seq))]

    def withdraw(self, item: str, annotator: str, key: str, *, note: str = "", restore: bool = False) -> Recorded:
        """Takes an item out of the store's questions and its votes out of the data, or (`restore`) puts it back."""
        return self._note(Event("restore" if restore else "withdraw", item, annotator, key, note=note), "person")

    def rate(self, uncertainty: Mapping[str, float], annotator: str, key: str) -> int:
        """Says how uncertain reward models are about items, as of a round named by `key`; how many were new."""
        return sum(self._note(Event("uncertainty", item, annotator, key, value=value), "reward_model").new
                   for item, value in uncertainty.items())  # fmt: skip

    def _note(self, event: Event, made_by: By) -> Recorded:
        with self.database.write() as connection:
            name = people.ensure(connection, event.annotator, made_by)
            return ledger.take(connection, replace(event, annotator=name), self.rules, self.clock())

    # ── what is said ─────────────────────────────────────────────────────────────────────────────────────────────────

    def record(self, event: Event) -> Recorded:
        """Adds an event of somebody who is known to the store; it is on the disk when this returns.

        Raises RefusedError for a vote that is not taken, LabelError for an unknown item or annotator.
        """
        with self.database.write() as connection:
            return ledger.record(connection, event, self.rules, self.clock())

    def respond(self, annotator: str, item: str, key: str, strength: int | None, *, both_bad: bool = False,
                **said: Any) -> Responded:  # fmt: skip
        """What somebody says to the pair they were shown under `key`, and what they are shown next, both on the disk
        when this returns: `strength` in display order, None to skip; `said`: reasons, note, ms.

        The same key again, however quickly and whatever it says, is the first answer once more.
        """
        with self.database.write() as connection:
            found = ledger.respond(connection, annotator, item, key, strength, self.rules, self.clock(),
                                   both_bad=both_bad, **said)  # fmt: skip
        return found if found.showing is not None else found._replace(showing=self.assign(annotator))

    def undo(self, annotator: str, key: str, item: str = "") -> Undone:
        """Takes back the annotator's newest event that stands, on one item or on any.

        An answer that was taken back is open again, in the order in which it was shown. The same key undoes once.
        Raises RefusedError when nothing stands.
        """
        with self.database.write() as connection:
            return ledger.undo(connection, annotator, key, item, self.rules, self.clock())

    def verdicts(self, name: str, made_by: By, said: Iterable[tuple[Comparison, Verdict]], key: str = "once") -> int:
        """Votes of a program: `said` may hold comparisons in either order; how many were new.

        A program judges an item once; one that has changed (another step, another prompt) has another name.
        Raises LabelError for an item that is not in the store.
        """
        new = 0
        with self.database.write() as connection:
            people.ensure(connection, name, made_by)
            for comparison, verdict in said:
                row = assign.locked(connection, comparison.id)
                if row is None:
                    raise LabelError(f"There is no pair {comparison.id} in this store; add it first.")
                event = machine_vote(comparison.id, name, key, verdict)
                same = item_of(row).comparison.a == comparison.a
                new += ledger.take(connection, event if same else swap(event), self.rules, self.clock()).new
        return new

    # ── who is shown what ────────────────────────────────────────────────────────────────────────────────────────────

    def assign(self, annotator: str) -> Showing | None:
        """The next item for an annotator, kept for them for a while; None when there is nothing left for them."""
        for pause in (0.0, *(() if self.database.sqlite else (0.02, 0.05, 0.1))):
            time.sleep(pause)  # what others have locked at this moment was passed over: look again
            with self.database.write() as connection:
                showing = assign.assign(connection, annotator, self.rules, self.clock())
            if showing is not None:
                return showing
        return None

    # ── who ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def login(self, name: str, pin: str) -> str:
        """The annotator's name as the store spells it; a new name is bound to the PIN.

        Raises LoginError for a name that is held by somebody else, a wrong PIN, or too many wrong ones.
        """
        name = people.nickname(name)
        people.check_pin(pin)
        while True:
            with self.database.read() as connection:
                salt = people.guess(connection, name)
            given = people.Guess(salt, people.hashed(pin, salt))
            with self.database.write() as connection:
                found = people.try_pin(connection, name, given, self.clock())
            if isinstance(found, LoginError):
                raise found
            if found is not None:
                return found

    def start_session(self, name: str) -> str:
        """A token that stands for somebody who has logged in."""
        with self.database.write() as connection:
            return people.start_session(connection, name, self.clock())

    def whose(self, token: str) -> str | None:
        """Who holds this token; None where nobody does (any more)."""
        with self.database.read() as connection:
            return people.whose(connection, token, self.clock())

    def end_session(self, token: str) -> None:
        """The token stands for nobody from now on."""
        with self.database.write() as connection:
            people.end_session(connection, token)

    def person(self, name: str) -> str:
        """A person without a PIN, who cannot log in: yourself, in a notebook."""
        with self.database.write() as connection:
            return people.ensure(connection, people.nickname(name), "person")

    def makers(self) -> dict[str, By]:
        """Who judges: name -> a person, or what kind of program."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(annotators.c.name, annotators.c.made_by).order_by(annotators.c.seq))
            return {row.name: row.made_by for row in rows}

    # ── what stands ──────────────────────────────────────────────────────────────────────────────────────────────────

    def events(self) -> list[Event]:
        """All events, in the order in which they were taken."""
        with self.database.read() as connection:
            return list(every(connection))

    def state(self) -> State:
        """What stands after all events."""
        return fold(self.events())

    def answer(self, item: str, annotator: str, *, repeat: bool = False) -> Event | None:
        """What an annotator's answer on an item is now."""
        place = Place(item, annotator, repeat)
        where = [events.c[n] == v for n, v in place._asdict().items()]
        where.append(events.c.kind.in_(("vote", "skip", "remark", "undo")))
        with self.database.read() as connection:
            rows = connection.execute(sa.select(events).where(*where).order_by(events.c.seq)).all()
        return answer(stand(map(event_of, rows)))

    def progress(self, annotator: str = "") -> dict[str, int]:
        """How many votes there are: `mine`, of the `room`, and `wanted` in all by the rules."""
        open_items = sa.and_(items.c.gold.is_(False), items.c.withdrawn.is_(False))
        with self.database.read() as connection:
            n, votes = connection.execute(
                sa.select(sa.func.count(), sa.func.sum(items.c.votes)).where(open_items)
            ).one()
            mine = connection.scalar(sa.select(sa.func.count()).where(live.c.annotator == annotator,
                                                                      live.c.kind == "vote"))  # fmt: skip
        return {"mine": mine or 0, "room": int(votes or 0), "wanted": n * self.rules.overlap}
