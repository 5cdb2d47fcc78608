"""Reward models in seconds: one's own from one's own votes, and the room's from everybody's, and what each would ship.

The base's features of the answers come from the engine, once for all (`lab.evaluate.features`); the fit is on the CPU,
in a thread of the Studio. One is made at a time, and whoever asked waits in a row.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from apps.studio.book import Book, book_of
from apps.studio.link import Link
from apps.studio.parts import Parts
from apps.studio.shelf import Shelf
from lab.client import EngineError
from lab.evaluate.agreement import Estimate, raw_agreement
from lab.evaluate.features import Text
from lab.evaluate.head import LEAST, Choices, Head, HeadError, Policy, agrees, fit, lead, policies, unseen
from lab.evaluate.people import ceiling_of_repeats
from lab.evaluate.record import Moment, sides
from lab.evaluate.room import majority
from lab.feedback.labels.words import Event, LabelError

ROOM = ""
"""Whose head is the room's."""

MOST_POLICIES = 8


class Probe(NamedTuple):
    """What a policy answered to a probe prompt."""

    policy: str
    text: Text
    gold: float | None


@dataclass
class Job:
    """A head in the making, or made: `state` is waiting, reading, fitting, done or failed."""

    state: str = "waiting"
    done: int = 0
    of: int = 0
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    def tell(self, done: int, of: int) -> None:
        """How many answers the engine has read."""
        self.state, self.done, self.of = "reading", done, of

    def shown(self) -> dict[str, Any]:
        """The job as the page gets it."""
        return {"state": self.state, "done": self.done, "of": self.of, "error": self.error, **self.result}


class Heads:
    """The heads of a book: what is asked for is made in a thread of its own."""

    def __init__(self, book: Book, link: Link, shelf: Shelf) -> None:
        self.book, self.link, self.shelf = book, link, shelf
        self._jobs: dict[str, Job] = {}
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def begin(self, who: str) -> Job:
        """Makes the head of a person (`ROOM`: of the room) from the votes as they are now, unless it is being made."""
        with self._lock:
            old = self._jobs.get(who)
            if old is not None and old.state not in ("done", "failed"):
                return old
            job = self._jobs[who] = Job()
        threading.Thread(target=self._work, args=(who, job), name="lab-head", daemon=True).start()
        return job

    def job(self, who: str) -> Job | None:
        """The head that was asked for last."""
        return self._jobs.get(who)

    def _work(self, who: str, job: Job) -> None:
        with self._turn:
            try:
                job.result = self.make(who, job)
                job.state = "done"
            except Exception as error:  # the page shows the sentence in the panel's place
                from apps.studio.components import sentence

                job.error = sentence(error)
                job.state = "failed"

    # ── one head ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def make(self, who: str, job: Job) -> dict[str, Any]:
        """The head and everything that is shown of it. Raises HeadError, LabelError or EngineError with a sentence."""
        moment = self.book.moment(now=True)
        votes = learnt_from(moment, who)
        found = len({v.item for v in votes})
        if found < LEAST:
            whose = "The room has" if who == ROOM else "You have"
            raise HeadError(f"{whose} judged {found} pairs that a reward model can learn from; it takes {LEAST}.")
        probes = probed(self.shelf)
        pairs = sorted(i for i, k in moment.items.items() if not k.item.withdrawn)
        texts = {i: answers(moment, i) for i in pairs}
        known = self._features([t for both in texts.values() for t in both] + [p.text for p in probes], job)
        job.state = "fitting"
        gaps = {i: known[a.key] - known[b.key] for i, (a, b) in texts.items() if a.key in known and b.key in known}
        chosen = choices(moment, votes, gaps)
        if len(chosen.p) < LEAST:
            raise HeadError(f"The base could read {len(chosen.p)} of these pairs; a reward model takes {LEAST}.")
        head = fit(chosen)
        told: dict[str, Any] = {"votes": len(votes), "pairs": len(chosen.p), "eyes": self.book.features.source}
        told |= self._room(moment, head, gaps) if who == ROOM else _own(moment, who, head, chosen, votes, gaps)
        return told | _shipped(head, probes, known)

    def _features(self, texts: Sequence[Text], job: Job) -> dict[str, np.ndarray]:
        def ask(rows: list[list[Any]]) -> Iterator[dict[str, Any]]:
            job.tell(0, len(rows))
            reason = self.link.reason()
            if reason:
                raise LabelError(f"{reason} (the base's eyes are needed once for every new answer; everything else on "
                                 "this page works without it)")  # fmt: skip
            try:
                yield from self.link.client.task("features", {"texts": rows})
            except EngineError as error:
                raise LabelError(f"The engine could not read the answers: {error}") from error

        return self.book.features.get(texts, ask, job.tell)

    def _room(self, moment: Moment, head: Head, gaps: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Accuracy on the votes of the evaluation split, which the head has not seen, and how well anybody could do."""
        held = [v for v in moment.votes() if moment.items[v.item].item.split == "evaluation" and v.item in gaps]
        accuracy = agrees([float(head.score(gaps[v.item])) for v in held], [v.p or 0.0 for v in held],
                          [moment.items[v.item].prompt for v in held])  # fmt: skip
        return {"accuracy": accuracy, "ceiling": ceiling(moment, held), "heldout": len(held)}


@lru_cache(maxsize=4)
def heads_of(parts: Parts) -> Heads:
    """The heads of these parts, the same for every panel."""
    return Heads(book_of(parts), parts.link, parts.shelf)


def learnt_from(moment: Moment, who: str) -> list[Event]:
    """The votes a head learns from: a person's own that name a side or a tie, or (ROOM) all of the training split."""
    if who != ROOM:
        return [v for v in moment.votes(gold=True) if v.annotator == who and v.choice != "both_bad"]
    return [v for v in moment.votes() if v.choice != "both_bad" and moment.items[v.item].item.split == "training"]


def answers(moment: Moment, item: str) -> tuple[Text, Text]:
    """The two answers of an item, in content order."""
    c = moment.items[item].item.comparison
    return Text(c.prompt, c.a, c.ended[0]), Text(c.prompt, c.b, c.ended[1])


def choices(moment: Moment, votes: Sequence[Event], gaps: Mapping[str, np.ndarray]) -> Choices:
    """One row for each pair that has features: the share of its votes, and how many they are."""
    by: dict[str, list[float]] = defaultdict(list)
    for v in votes:
        if v.item in gaps:
            by[v.item].append(v.p or 0.0)
    rows = list(by)
    return Choices(np.stack([gaps[i] for i in rows]) if rows else np.zeros((0, 1)),
                   np.array([np.mean(by[i]) for i in rows]), np.array([len(by[i]) for i in rows], dtype=float),
                   tuple(moment.items[i].prompt for i in rows))  # fmt: skip


def ceiling(moment: Moment, held: Sequence[Event]) -> dict[str, Any]:
    """Between what shares of these votes the best possible judge agrees with."""
    bounds = ceiling_of_repeats(raw_agreement([m for m in sides(moment.marks(held)) if m.strength], draws=300))
    return {"low": bounds.low, "high": bounds.high, "agreement": bounds.agreement}


def _own(moment: Moment, who: str, head: Head, chosen: Choices, votes: Sequence[Event],
         gaps: Mapping[str, np.ndarray]) -> dict[str, Any]:  # fmt: skip
    """Accuracy on one's own votes that the head had not seen, and on the room's choices."""
    away = unseen(chosen)
    rows = list(dict.fromkeys(v.item for v in votes if v.item in gaps))
    mine = dict(zip(rows, away, strict=True))
    others = {i: p for i, p in majority(moment.votes(), without=(who,)).items() if i in gaps}
    rewards = [float(mine[i]) if i in mine else float(head.score(gaps[i])) for i in others]
    return {"accuracy": agrees(list(map(float, away)), list(map(float, chosen.p)), chosen.prompts),
            "room": agrees(rewards, list(others.values()), [moment.items[i].prompt for i in others])}  # fmt: skip


def probed(shelf: Shelf) -> list[Probe]:
    """What the newest runs answered last to the probe prompts."""
    found: list[Probe] = []
    names = 0
    for info in reversed(shelf.list()):
        with shelf.lock:
            follower = shelf.follower(info)
            last = max(follower.probes, default=None)
            said = follower.probes[last] if last is not None else ()
        if said and names < MOST_POLICIES:
            names += 1
            found += [Probe(info.id, Text(s.prompt, s.completion, s.ended), s.gold) for s in said]
    return found


def _shipped(head: Head, probes: Sequence[Probe], known: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The policies by the head's reward of their probe answers, and how far the first leads the second."""
    by: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    gold: dict[str, dict[str, float]] = defaultdict(dict)
    for p in probes:
        if p.text.key in known:
            by[p.policy][str(p.text.prompt)] = known[p.text.key]
            if p.gold is not None:
                gold[p.policy][str(p.text.prompt)] = p.gold
    ranked: tuple[Policy, ...] = policies(head, by, gold)
    gap: Estimate | None = lead(head, by[ranked[0].name], by[ranked[1].name]) if len(ranked) > 1 else None
    return {"policies": ranked, "lead": gap}
