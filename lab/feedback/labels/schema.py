"""The tables of a label store, opening one, and one sentence for everything that can go wrong with its file or server.

    items       what is to be judged, with two columns that follow from the events: `votes` and `withdrawn`
    events      what was said, append-only
    live        for every place the answer that stands, following from the events: who has seen what, who voted
    annotators  who judges; a person's PIN as a scrypt hash
    leases      who is looking at what, until when; sessions: who is logged in. Both may be lost
    about       the schema's version, and the rules

One transaction writes at a time. In SQLite BEGIN IMMEDIATE sees to that, with a write-ahead log and `synchronous=FULL`,
so that what was committed survives a killed process and a lost power supply. A PostgreSQL server locks rows instead:
first the annotator's, then the item's.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from lab.feedback.labels.words import LabelError

VERSION = 1
"""Of the tables. A store of a newer one is refused; it knows something that would be lost."""

tables = sa.MetaData()
about = sa.Table("about", tables, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text))
Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
items = sa.Table(
    "items",
    tables,
    sa.Column("seq", Number, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, unique=True, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),  # JSON, as are a, b and source
    sa.Column("a", sa.Text, nullable=False),
    sa.Column("b", sa.Text, nullable=False),
    sa.Column("ended_a", sa.Boolean, nullable=False),
    sa.Column("ended_b", sa.Boolean, nullable=False),
    sa.Column("prompt_id", sa.Text, nullable=False, index=True),
    sa.Column("answer", sa.Text),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("uncertainty", sa.Float),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("gold", sa.Boolean, nullable=False),
    sa.Column("draw", sa.Float, nullable=False),  # a place in a random order
    sa.Column("priority", sa.Float, nullable=False),  # the newest uncertainty, −1 where there is none
    sa.Column("votes", sa.Integer, nullable=False, default=0),
    sa.Column("withdrawn", sa.Boolean, nullable=False, default=False),
    sa.Index("items_queue", "gold", "split", "priority", "draw", "votes", "withdrawn"),
)
events = sa.Table(
    "events",
    tables,
    sa.Column("seq", Number, primary_key=True, autoincrement=True),
    sa.Column("item", sa.Text, sa.ForeignKey("items.id"), nullable=False),
    sa.Column("annotator", sa.Text, sa.ForeignKey("annotators.name"), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("choice", sa.Text),
    sa.Column("strength", sa.Integer, nullable=False),
    sa.Column("p", sa.Float),
    sa.Column("first", sa.Text, nullable=False),
    sa.Column("repeat", sa.Boolean, nullable=False),
    sa.Column("reasons", sa.Text, nullable=False),  # JSON
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("ms", sa.Integer),
    sa.Column("value", sa.Float),
    sa.UniqueConstraint("item", "annotator", "key"),
    sa.Index("events_of_annotator", "annotator", "key"),
)
live = sa.Table(
    "live",
    tables,
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("item", sa.Text, primary_key=True),
    sa.Column("repeat", sa.Boolean, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("first", sa.Text, nullable=False),
    sa.Column("counts", sa.Boolean, nullable=False),  # a person's vote at the first showing
    sa.Column("begun", Number, nullable=False),  # the answer's event
    sa.Column("last", Number, nullable=False),  # the newest event that stands
    sa.Index("live_of_item", "item", "counts"),
)
annotators = sa.Table(
    "annotators",
    tables,
    sa.Column("seq", Number, primary_key=True, autoincrement=True),
    sa.Column("name", sa.Text, unique=True, nullable=False),
    sa.Column("folded", sa.Text, unique=True, nullable=False),
    sa.Column("made_by", sa.Text, nullable=False),
    sa.Column("salt", sa.LargeBinary),
    sa.Column("pin", sa.LargeBinary),
    sa.Column("tries", sa.Integer, nullable=False, default=0),
    sa.Column("locked_until", sa.BigInteger, nullable=False, default=0),
)
leases = sa.Table(
    "leases",
    tables,
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("item", sa.Text, nullable=False, index=True),
    sa.Column("repeat", sa.Boolean, nullable=False),
    sa.Column("first", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
)
sessions = sa.Table(
    "sessions",
    tables,
    sa.Column("token", sa.Text, primary_key=True),  # a hash of it
    sa.Column("annotator", sa.Text, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
)


class Database:
    """A store's tables behind two kinds of transactions, `read()` and `write()`.

    where  : a file for SQLite, or a URL such as postgresql+psycopg://host/name
    create : make the tables where there are none
    wait_s : how long to wait for somebody else's transaction, in seconds

    Raises LabelError, here and inside both transactions, with one sentence for whatever is wrong with file or server.
    """

    def __init__(self, where: str | Path, *, create: bool = True, wait_s: float = 10.0) -> None:
        self.where = Path(where) if "://" not in str(where) else None
        if self.where is not None and not create and not self.where.is_file():
            raise LabelError(f"There is no label store {self.where}; `lab label add` and `lab label import` make one.")
        try:
            url = sa.make_url(str(where)) if self.where is None else sa.URL.create("sqlite", database=str(where))
            self.name = url.render_as_string(hide_password=True) if self.where is None else str(where)
            self.sqlite = url.get_backend_name() == "sqlite"
            self._engine = sa.create_engine(url, **({"connect_args": {"timeout": wait_s}} if self.sqlite else
                                                    {"pool_pre_ping": True, "pool_size": 8}))  # fmt: skip
        except (ArgumentError, NoSuchModuleError) as error:
            raise LabelError(f"{str(where).split('@')[-1]!r} is neither a file nor the URL of a database that can be "
                             "used; give a file, or postgresql+psycopg://….") from error  # fmt: skip
        except ImportError as error:
            raise LabelError(f"The driver {error.name} is missing; pip install 'rlhf-lab[postgres]' brings it.") \
                from error  # fmt: skip
        if self.sqlite:
            event.listen(self._engine, "connect", _prepare)
            event.listen(self._engine, "begin", _begin)
        self._turn = threading.Lock()  # threads of one process wait in a row; SQLite's own waiting is a lottery
        self._reading = self._engine.execution_options(**{"isolation_level": "REPEATABLE READ"} if not self.sqlite else
                                                       {"reads": True})  # fmt: skip
        self._open(create)

    def _open(self, create: bool) -> None:
        try:
            with self.read() as connection:
                names = sa.inspect(connection).get_table_names()
                found = connection.scalar(sa.select(about.c.value).where(about.c.name == "version")) \
                    if "about" in names else None  # fmt: skip
            if found is None:
                if names:
                    raise LabelError(f"{self.name} holds tables of something else; give the label store another name.")
                if not create:
                    raise LabelError(f"{self.name} is no label store yet; `lab label add` makes one.")
                self._make()
            elif int(found) > VERSION:
                raise LabelError(f"{self.name} was written by a newer rlhf-lab (store version {found}, this one knows "
                                 f"{VERSION}); update rlhf-lab.")  # fmt: skip
        except LabelError:
            self.close()
            raise

    def _make(self) -> None:
        with self.write() as connection:
            if not self.sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x1ABE15)))
            tables.create_all(connection)
            if connection.scalar(sa.select(about.c.value).where(about.c.name == "version")) is None:
                connection.execute(about.insert().values(name="version", value=str(VERSION)))

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees the store as it was at one moment, and waits for nobody."""
        with self._sentences(), self._reading.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, alone: bool = False) -> Iterator[sa.Connection]:
        """A transaction that writes; when it is left, what it wrote is on the disk, or nothing of it is.

        alone : nobody else writes meanwhile; SQLite has one writer at a time anyway
        """
        if not self.sqlite:
            with self._sentences(), self._engine.begin() as connection:
                if alone:
                    connection.exec_driver_sql("LOCK TABLE annotators, items, events IN EXCLUSIVE MODE")
                yield connection
            return
        with self._turn, self._sentences(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise LabelError(_sentence(error, self.name)) from error

    def close(self) -> None:
        """Lets go of file and server."""
        self._engine.dispose()


def _prepare(connection: Any, _record: Any) -> None:
    """Of every SQLite connection: transactions begin where this file says, and are on the disk when they end."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        try:
            connection.execute(f"PRAGMA {pragma}")
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):
                raise


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE")


SENTENCES = (
    ("database is locked", "The label store {0} is in use by another program that does not let go; close it there, or "
     "try again."),
    ("readonly database", "The label store {0} can only be read: its file or folder is write-protected; change that, "
     "or copy it elsewhere."),
    ("unable to open database", "The label store {0} cannot be opened; check that its folder exists and may be "
     "written."),
    ("not a database", "{0} is no label store: it is not a SQLite file."),
    ("disk is full", "The disk that holds {0} is full; what was acknowledged is safe. Make room, and try again."),
    ("malformed", "The label store {0} is damaged; go back to a copy, or to its last export."),
)  # fmt: skip


def _sentence(error: SQLAlchemyError, name: str) -> str:
    cause = str(error.orig if isinstance(error, DBAPIError) and error.orig is not None else error).strip()
    for part, sentence in SENTENCES:
        if part in cause:
            return sentence.format(name)
    first = cause.split("\n")[0][:200]
    return f"The label store {name} does not answer as it should ({first}); check that it can be reached and used."
