"""Who judges. People have a nickname and a PIN, of which the store keeps a scrypt hash; programs have a name.

    a name is bound to the PIN it first came with      mina, Mina and ＭＩＮＡ are one person
    five wrong PINs lock the name for five minutes     by the store's clock
    a session is a random token; the store keeps a hash of it

No address of anybody's machine is kept anywhere.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from lab.feedback.labels.schema import annotators, sessions
from lab.feedback.labels.words import By, LabelError, LoginError

TRIES, LOCK_S, SESSION_S = 5, 300, 86_400 * 14
LONGEST_NICKNAME, SHORTEST_PIN, LONGEST_PIN = 32, 4, 64


FOUND = sa.select(annotators).where(annotators.c.folded == sa.bindparam("spelt"))
FOUND_LOCKED = FOUND.with_for_update()


def nickname(text: str) -> str:
    """A nickname without surrounding spaces. Raises LoginError for one that is empty, long or not printable."""
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not name or len(name) > LONGEST_NICKNAME or not name.isprintable():
        raise LoginError(f"A nickname has 1 to {LONGEST_NICKNAME} printable characters; choose another one.")
    return name


def folded(name: str) -> str:
    """What two spellings of one name share."""
    return unicodedata.normalize("NFKC", name).casefold()


def hashed(pin: str, salt: bytes) -> bytes:
    """scrypt of a PIN: 16 MiB and some tens of milliseconds for each guess."""
    return hashlib.scrypt(pin.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)


def check_pin(pin: str) -> None:
    """Raises LoginError for a PIN that is too short or too long."""
    if not SHORTEST_PIN <= len(pin) <= LONGEST_PIN:
        raise LoginError(f"A PIN has {SHORTEST_PIN} to {LONGEST_PIN} characters.")


def find(connection: sa.Connection, name: str, *, lock: bool = False) -> sa.Row | None:
    """The row of whoever has this name, in any spelling; `lock`: for this transaction alone."""
    return connection.execute(FOUND_LOCKED if lock else FOUND, {"spelt": folded(name)}).first()


def ensure(connection: sa.Connection, name: str, made_by: By) -> str:
    """The annotator of this name, made where there is none; its name. Raises LabelError where it is somebody of another
    kind."""
    row = find(connection, name, lock=True)
    if row is None:
        if _made(connection, name=name, folded=folded(name), made_by=made_by):
            return name
        row = find(connection, name, lock=True)
    assert row is not None
    if row.made_by != made_by:
        raise LabelError(f"{name} is a {row.made_by.replace('_', ' ')} in this store, not a "
                         f"{made_by.replace('_', ' ')}; use another name.")  # fmt: skip
    return row.name


def _made(connection: sa.Connection, **columns: Any) -> bool:
    """Adds an annotator; False where somebody else did so at the same moment."""
    try:
        with connection.begin_nested():
            connection.execute(annotators.insert().values(columns))
    except IntegrityError:
        return False
    return True


class Guess(NamedTuple):
    """A PIN's hash under a salt. It is made outside any transaction: it takes long on purpose."""

    salt: bytes
    pin: bytes


def guess(connection: sa.Connection, name: str) -> bytes:
    """The salt to hash a PIN with: the one the name has, or a new one."""
    row = find(connection, name)
    return secrets.token_bytes(16) if row is None or row.salt is None else bytes(row.salt)


def try_pin(connection: sa.Connection, name: str, given: Guess, now: int) -> str | LoginError | None:
    """The name, once the PIN is right; a new name is bound to it. Otherwise the error to raise after the transaction,
    which has counted the try. None: somebody took the name meanwhile, and the PIN wants hashing with another salt."""
    row = find(connection, name, lock=True)
    if row is None:
        new = {"name": name, "folded": folded(name), "made_by": "person", "salt": given.salt, "pin": given.pin}
        return name if _made(connection, **new) else None
    if row.pin is None:
        return LoginError(f"The name {row.name} is held by labels that came from elsewhere; choose another nickname.")
    if row.locked_until > now:
        minutes = -(-(row.locked_until - now) // 60_000)
        return LoginError(f"Too many wrong PINs for {row.name}; try again in {minutes} min, or choose another "
                          "nickname.")  # fmt: skip
    if bytes(row.salt) != given.salt:
        return None
    mine = annotators.c.name == row.name
    if secrets.compare_digest(given.pin, bytes(row.pin)):
        connection.execute(annotators.update().where(mine).values(tries=0))
        return row.name
    tries = row.tries + 1
    locked = {"tries": 0, "locked_until": now + 1000 * LOCK_S} if tries >= TRIES else {"tries": tries}
    connection.execute(annotators.update().where(mine).values(locked))
    return LoginError(
        f"The name {row.name} is taken, and this is not its PIN; if it is not you, choose another nickname."
    )


def start_session(connection: sa.Connection, name: str, now: int) -> str:
    """A token that stands for the annotator for two weeks; sessions that have ended are forgotten."""
    token = secrets.token_urlsafe(32)
    connection.execute(sessions.delete().where(sessions.c.expires < now))
    connection.execute(sessions.insert().values(token=_hash(token), annotator=name, expires=now + 1000 * SESSION_S))
    return token


def whose(connection: sa.Connection, token: str, now: int) -> str | None:
    """Whose session it is; None where it has ended or never was."""
    query = sa.select(sessions.c.annotator).where(sessions.c.token == _hash(token), sessions.c.expires >= now)
    return connection.scalar(query)


def end_session(connection: sa.Connection, token: str) -> None:
    """Forgets a session."""
    connection.execute(sessions.delete().where(sessions.c.token == _hash(token)))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
