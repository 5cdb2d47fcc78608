"""Who asks: every handler of the page can know the person behind a request, and some act for the host alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """Somebody at the page. `host`: whether they train, reveal and change what everybody sees."""

    name: str
    host: bool = False


ME = Person("me", host=True)
"""Whoever sits at the machine itself, where the Studio lets nobody else in."""

_asking: ContextVar[Person | None] = ContextVar("asking", default=None)


class NobodyError(RuntimeError):
    """A request behind which nobody is known."""


class HostOnlyError(RuntimeError):
    """Something only the host may do."""

    def __init__(self) -> None:
        super().__init__("Only the host can do this; whoever holds the host's code can log in as one.")


def asking() -> Person:
    """The person behind the present request. Raises NobodyError outside one: nobody is let in by accident."""
    person = _asking.get()
    if person is None:
        raise NobodyError("Nobody is known behind this request; reload the page, and log in.")
    return person


@contextmanager
def acting(person: Person) -> Iterator[None]:
    """Everything called inside is asked by this person."""
    token = _asking.set(person)
    try:
        yield
    finally:
        _asking.reset(token)
