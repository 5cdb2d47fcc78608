"""The *Label* panel: which of two answers is better, blind, one key a pair; and what one learns about oneself from it.

Nothing that is sent before a vote says which model spoke, how long an answer is or what anybody else said. What one
learns about oneself comes after each whole block of ten, about whole blocks alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from apps.studio.book import Book, book_of, plain
from apps.studio.components import panel, person_ask
from apps.studio.heads import ROOM, Heads, heads_of
from apps.studio.link import Link
from apps.studio.parts import Parts
from apps.studio.people import Person
from lab.client import EngineError
from lab.evaluate.oneself import BLOCK, Count, Oneself, oneself, own_votes
from lab.evaluate.record import Moment
from lab.feedback.labels.room import BLIND, OPEN, Phase
from lab.feedback.labels.shapes import misfit
from lab.feedback.labels.words import RefusedError
from lab.label_server import FORMS, REASONS, SAID, shown
from lab.records import Verdict, to_json

LEAST_VOTES = 10
"""Votes before which no reward model of one's own is offered."""

WAITS: dict[Phase, str] = {
    "paused": "The host has paused the round; your place is kept.",
    "revealed": "The round is over: look at what was revealed in Room.",
    "talk": "The room talks about the pairs it disagreed on; judge those again in Room.",
    "closed": "This round is over; the next one has not begun.",
}
"""Why no pair is handed out in a phase."""


class FormError(ValueError):
    """A request that does not fit its form."""


class Labelling:
    """What the page may ask."""

    def __init__(self, book: Book, heads: Heads, link: Link) -> None:
        self.book, self.heads, self.link = book, heads, link
        self._rating = threading.Lock()

    def place(self, _ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Where the person is: the next pair, how far they and the room are, and the last card about themselves."""
        name = self.book.name(person)
        return {"reasons": list(REASONS), "block": BLOCK, **self._next(name), "about": self._about(name)}

    def look(self, _ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Whether pairs are handed out, and how far the room is: for whoever waits."""
        name = self.book.name(person)
        return self._counts(name) | self._phase()

    def vote(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Records a vote, and answers when it is on the disk, with the next pair. The same key twice is one vote."""
        return self._answer("vote", ask, person)

    def skip(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Passes a pair over, with the next one."""
        return self._answer("skip", ask, person)

    def undo(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Takes back the person's newest answer, which is then open again."""
        _checked("undo", ask)
        name = self.book.name(person)
        phase = self.book.state().phase
        if phase not in BLIND:
            raise RefusedError(f"{WAITS[phase]} What was said before the reveal stays.")
        undone = self.book.store.undo(name, ask["key"])
        following = undone.showing or self.book.store.assign(name)
        return {"next": shown(following), "taken_back": undone.event.kind, **self._counts(name), **self._phase()}

    def about(self, _ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """The card about oneself, once the engine's reward model has judged the same pairs; None before a block."""
        name = self.book.name(person)
        self._rate(self.book.moment(now=True), name)
        return {"about": self._about(name, now=True)}

    def train(self, _ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Begins a reward model from the person's own votes."""
        self.heads.begin(self.book.name(person))
        return self.trained({}, person)

    def trained(self, _ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """How far one's own reward model is, or what it says; the room's beside it once that gives nothing away."""
        job, of_room = self.heads.job(self.book.name(person)), self.heads.job(ROOM)
        if job is None:
            return {"state": ""}
        blind = self.book.state().phase in ("open", "paused")
        shows = of_room is not None and of_room.state == "done" and not blind
        theirs = of_room.result["policies"] if of_room is not None and shows else []
        return plain({**job.shown(), "room_policies": theirs, "blind": blind})

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self, form: str, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        _checked(form, ask)
        name, phase = self.book.name(person), self.book.state().phase
        if phase not in BLIND:
            return {"saved": False, "new": False, "error": WAITS[phase], "next": None, **self._counts(name),
                    **self._phase()}  # fmt: skip
        said = {part: tuple(ask[part]) if part == "reasons" else ask[part] for part in SAID if part in ask}
        found = self.book.store.respond(name, ask["item"], ask["key"], ask.get("strength"),
                                        both_bad=ask.get("both_bad", False), **said)  # fmt: skip
        new = found.recorded is not None and found.recorded.new
        reply = {"saved": not found.refused, "new": new, "next": shown(found.showing) if phase in OPEN else None,
                 **self._counts(name), **self._phase()}  # fmt: skip
        if found.refused:
            reply["error"] = found.refused
        if new and form == "vote" and reply["mine"] % BLOCK == 0:
            reply["about"] = self._about(name, now=True)
        return reply

    def _next(self, name: str) -> dict[str, Any]:
        phase = self._phase()
        following = self.book.store.assign(name) if not phase["waits"] else None
        return {"next": shown(following), **self._counts(name), **phase}

    def _counts(self, name: str) -> dict[str, int]:
        return self.book.store.progress(name)

    def _phase(self) -> dict[str, Any]:
        state = self.book.state()
        return {"phase": state.phase, "waits": WAITS.get(state.phase, ""),
                "round": state.now.number if state.now else 0, "title": state.now.title if state.now else "",
                "least": LEAST_VOTES}  # fmt: skip

    def _about(self, name: str, *, now: bool = False) -> dict[str, Any] | None:
        found = oneself(self.book.moment(now=now), name)
        return None if found is None else card(found)

    def _rate(self, moment: Moment, name: str) -> None:
        """Has the engine's newest reward model judge what the person judged and no reward model has. Without an engine,
        and while somebody else's pairs are judged, nothing happens."""
        rated = {v.item for v in moment.votes(made_by=("reward_model",), gold=True)}
        mine = own_votes(moment, name)
        items = [v.item for v in mine[: len(mine) // BLOCK * BLOCK] if v.item not in rated][-5 * BLOCK :]
        if not items or self.link.reason() or not self._rating.acquire(blocking=False):
            return
        try:
            rate(self.book, self.link, moment, items)
        except EngineError:  # of another version, or gone: the card does without
            return
        finally:
            self._rating.release()


def rate(book: Book, link: Link, moment: Moment, items: Sequence[str]) -> bool:
    """Asks the engine's newest reward model about items, and puts its verdicts into the store; whether it has one."""
    pairs = [moment.items[i].item.comparison for i in items]
    rows = [[*(_plain(x) for x in (c.prompt, c.a, c.b)), *c.ended] for c in pairs]
    model, verdicts = "", []
    for row in link.client.task("rewards", {"pairs": rows}):
        model = str(row.get("model", model))
        for i, (a, b) in zip(row.get("at", ()), row.get("rewards", ()), strict=True):
            verdicts.append((pairs[i], Verdict(1 / (1 + math.exp(min(700.0, b - a))), model)))
    if model and verdicts:
        book.store.verdicts(model, "reward_model", verdicts)
    return bool(model and verdicts)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else [to_json(m) for m in value]


def card(found: Oneself) -> dict[str, Any]:
    """What is told about oneself after a block, each figure with its words."""
    return {
        "blocks": found.blocks,
        "votes": found.blocks * BLOCK,
        "figures": [
            figure("with the room", found.room, "agreed with most of the others", "nobody else has judged these yet"),
            figure("with the reward model", found.reward_model, "agreed with the reward model",
                   "no reward model has judged these"),
            figure("longer", found.longer, "picked the longer one", "no two answers differed in length", coin=True),
            figure("first", found.first, "picked A", "you chose no side", coin=True),
        ],
        "ms": found.ms, "all_ms": found.all_ms, "quick": found.quick,
    }  # fmt: skip


def figure(name: str, count: Count, did: str, none: str, *, coin: bool = False) -> dict[str, Any]:
    """A figure of the last block and of all blocks, with a sentence. `coin`: one half means no bias."""
    rate, words = count.rate, none
    if count.all_of:
        words = (
            f"you {did} {count.hits} of {count.of}"
            if count.of
            else f"you {did} {count.all_hits} of {count.all_of} so far"
        )
        if coin and rate.low is not None and rate.high is not None:
            leans = rate.low > 0.5 or rate.high < 0.5
            words += "; more than chance would explain" if leans else "; a coin would do that too"
    return {"name": name, "words": words, "coin": coin, **plain(count)}


def _checked(form: str, ask: Mapping[str, Any]) -> None:
    """Raises FormError for what does not fit."""
    wrong = misfit(ask, *FORMS[form], closed=True)
    if wrong:
        raise FormError(f"The request does not fit: {wrong}.")


def build(parts: Parts) -> gr.HTML:
    """The panel as a component; call it inside a tab."""
    desk = Labelling(book_of(parts), heads_of(parts), parts.link)
    asks = (desk.place, desk.look, desk.vote, desk.skip, desk.undo, desk.about, desk.train, desk.trained)
    return panel("label", "Judge pairs of answers", [person_ask(ask) for ask in asks])
