"""The present state of a store: a fold over its events, in the order in which they were taken.

    vote, skip    an answer, where the annotator has none on the item yet; a second one is as if unsaid
    remark        other reasons and another note for the answer
    undo          takes back the annotator's last event on the item that still stands; without limit
    withdraw      the item is asked no more, and its votes no longer count; restore takes that back
    uncertainty   how much reward models disagree about it, from now on

The first showing of an item and its flipped repeat are two places with a history each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lab.feedback.labels.words import Event


class Place(NamedTuple):
    """Where an answer stands: one annotator's on one item, at the first showing or at the flipped repeat."""

    item: str
    annotator: str
    repeat: bool


@dataclass(frozen=True)
class State:
    """What stands: at most one answer (a vote or a skip) for each place, and what became of the items."""

    answers: dict[Place, Event] = field(default_factory=dict)
    withdrawn: frozenset[str] = frozenset()
    uncertainty: dict[str, float] = field(default_factory=dict)

    def votes(self, *, repeats: bool = False) -> list[Event]:
        """The votes that count, in the order of their places' first answers; `repeats`: those of the repeats too."""
        return [e for place, e in self.answers.items()
                if e.kind == "vote" and (repeats or not place.repeat) and e.item not in self.withdrawn]  # fmt: skip


def stand(events: Iterable[Event]) -> list[Event]:
    """Of the events of one place, those that still stand, oldest first: an answer, and remarks on it."""
    stack: list[Event] = []
    for event in events:
        if event.kind == "undo":
            del stack[-1:]
        elif (event.kind == "remark") == bool(stack):
            stack.append(event)
    return stack


def answer(standing: list[Event]) -> Event | None:
    """The answer that stands, with its last remark's reasons and note."""
    if not standing:
        return None
    last = standing[-1]
    return replace(standing[0], reasons=last.reasons, note=last.note)


def fold(events: Iterable[Event]) -> State:
    """The state after these events."""
    places: dict[Place, list[Event]] = {}
    withdrawn: dict[str, bool] = {}
    uncertainty: dict[str, float] = {}
    for event in events:
        if event.kind in ("withdraw", "restore"):
            withdrawn[event.item] = event.kind == "withdraw"
        elif event.kind == "uncertainty":
            uncertainty[event.item] = event.value or 0.0
        else:
            places.setdefault(Place(event.item, event.annotator, event.repeat), []).append(event)
    answers = {place: found for place, said in places.items() if (found := answer(stand(said))) is not None}
    return State(answers, frozenset(i for i, gone in withdrawn.items() if gone), uncertainty)
