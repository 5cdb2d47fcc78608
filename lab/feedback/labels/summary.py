"""What a store holds in figures: items, votes and their overlap, and what every annotator did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from lab.feedback.labels.fold import Place
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import By, Choice, Event

QUICK_MS = 1500
"""A vote in less time than this was hardly read for."""


@dataclass(frozen=True)
class Person:
    """What one annotator did. Votes at the first showing; gold pairs are among them, repeats are not.

    again, kept : pairs seen a second time, the other way round, and how many of them got the same choice
    gold, right : pairs with a known answer, and how many got it
    sided, first: votes that chose a side and were shown, and how many of them chose what stood first
    quick       : votes in less than 1.5 s
    median_ms   : time taken
    """

    name: str
    made_by: By
    votes: int
    skips: int
    undone: int
    again: int
    kept: int
    gold: int
    right: int
    sided: int
    first: int
    quick: int
    median_ms: float | None


@dataclass(frozen=True)
class Summary:
    """A store in figures.

    overlap : number of people's votes -> how many items have that many (gold and withdrawn pairs left out)
    choices : of the votes that count, by choice in content order
    """

    items: int
    gold: int
    withdrawn: int
    training: int
    evaluation: int
    events: int
    votes: int
    overlap: dict[int, int]
    choices: dict[str, int]
    annotators: tuple[Person, ...]


def summary(store: Store) -> Summary:
    """The figures of a store."""
    found, said, makers = store.items(), store.events(), store.makers()
    state = store.state()
    golds: dict[str, Choice | None] = {i.id: i.answer for i in found if i.gold}
    asked = [i for i in found if not i.gold and not i.withdrawn]
    votes = [v for v in state.votes() if v.item not in golds]
    by_people = Counter(v.item for v in votes if makers[v.annotator] == "person")
    overlap = Counter(by_people[i.id] for i in asked)
    undone = Counter(e.annotator for e in said if e.kind == "undo")
    people = tuple(_person(name, by, state.answers, golds, undone[name]) for name, by in makers.items())
    return Summary(
        len(found), len(golds), sum(i.withdrawn for i in found), sum(i.split == "training" for i in asked),
        sum(i.split == "evaluation" for i in asked), len(said), len(votes), dict(sorted(overlap.items())),
        dict(Counter(v.choice or "" for v in votes)), people,
    )  # fmt: skip


def _person(name: str, made_by: By, answers: Mapping[Place, Event], golds: Mapping[str, Choice | None],
            undone: int) -> Person:  # fmt: skip
    mine = [(place, e) for place, e in answers.items() if place.annotator == name]
    votes = [e for place, e in mine if e.kind == "vote" and not place.repeat]
    again = [e for place, e in mine if e.kind == "vote" and place.repeat]
    before = {e.item: e.choice for e in votes}
    known = [e for e in votes if e.item in golds]
    sided = [e for e in votes if e.first and e.choice in ("a", "b")]
    times = [e.ms for e in votes if e.ms is not None]
    return Person(
        name, made_by, len(votes), sum(e.kind == "skip" for _, e in mine), undone, len(again),
        sum(before.get(e.item) == e.choice for e in again), len(known), sum(golds[e.item] == e.choice for e in known),
        len(sided), sum(e.first == e.choice for e in sided), sum(t < QUICK_MS for t in times),
        median(times) if times else None,
    )  # fmt: skip
