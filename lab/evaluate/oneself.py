"""What a labeller may know about their own votes, after each block of ten and never before.

    agreement with the room            the side most others chose; pairs that nobody else judged, and ties, are left out
    agreement with a reward model      the side it gives more to
    longer, first                      how often the longer one, and what stood first, was chosen: a coin says one half
    speed                              the median time of a vote

Everything is about whole blocks: what was said since the last one is in no figure, so nothing of it is given away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lab.evaluate.agreement import Estimate, share
from lab.evaluate.record import Moment
from lab.evaluate.room import majority, typical_ms
from lab.feedback.labels.summary import QUICK_MS
from lab.feedback.labels.words import Event

BLOCK = 10
"""Votes of a block."""


class Count(NamedTuple):
    """`hits` of `of`, in the last block and in all blocks; `rate` of all blocks with its interval."""

    hits: int
    of: int
    all_hits: int
    all_of: int
    rate: Estimate


class Oneself(NamedTuple):
    """The figures of one person after `blocks` whole blocks; speeds in milliseconds."""

    blocks: int
    room: Count
    reward_model: Count
    longer: Count
    first: Count
    ms: float | None
    all_ms: float | None
    quick: int


def own_votes(moment: Moment, name: str) -> list[Event]:
    """A person's votes that stand, flipped repeats and pairs with a known answer among them, in their order."""
    stands = {(e.item, e.key) for place, e in moment.state.answers.items() if place.annotator == name}
    return [n.event for n in moment.said if n.event.annotator == name and n.event.kind == "vote"
            and (n.event.item, n.event.key) in stands]  # fmt: skip


def oneself(moment: Moment, name: str) -> Oneself | None:
    """The figures of a person; None before the first block is whole."""
    mine = own_votes(moment, name)
    blocks = len(mine) // BLOCK
    if blocks == 0:
        return None
    mine = mine[: blocks * BLOCK]
    last = mine[-BLOCK:]
    others = majority(moment.votes(), without=(name,))
    machine = majority(moment.votes(made_by=("reward_model",)))
    words = moment.words

    def with_share(shares: Mapping[str, float]) -> Callable[[Event], bool | None]:
        return lambda v: None if shares.get(v.item, 0.5) == 0.5 or not v.strength else (
            (v.strength > 0) == (shares[v.item] > 0.5))  # fmt: skip

    def longer(v: Event) -> bool | None:
        a, b = words[v.item]
        return None if a == b or not v.strength else (v.strength > 0) == (a > b)

    def first(v: Event) -> bool | None:
        return None if not v.strength or not v.first else (v.strength > 0) == (v.first == "a")

    def count(of: Callable[[Event], bool | None]) -> Count:
        return _count(moment, mine, last, of)

    quick = sum(v.ms is not None and v.ms < QUICK_MS for v in last)
    return Oneself(blocks, count(with_share(others)), count(with_share(machine)), count(longer), count(first),
                   typical_ms(last), typical_ms(mine), quick)  # fmt: skip


def _count(moment: Moment, mine: Sequence[Event], last: Sequence[Event], of: Callable[[Event], bool | None]) -> Count:
    block = [x for v in last if (x := of(v)) is not None]
    told = [(x, moment.items[v.item].prompt) for v in mine if (x := of(v)) is not None]
    rate = share([x for x, _ in told], [q for _, q in told])
    return Count(sum(block), len(block), sum(x for x, _ in told), len(told), rate)
