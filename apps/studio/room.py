"""The *Room* panel: rounds, reveal, talk and second votes; how far people agree, and what they are biased by.

The host acts and sees everything at any time. Others see the figures once a round is revealed; before, only counts that
cannot sway a vote. The figures are computed for all together, at most every two seconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from apps.studio.book import Board, Book, book_of, plain
from apps.studio.components import host_ask, panel, person_ask
from apps.studio.heads import ROOM, Heads, heads_of
from apps.studio.link import Link
from apps.studio.parts import Parts
from apps.studio.people import HostOnlyError, Person
from lab.client import EngineError
from lab.evaluate.record import Moment
from lab.evaluate.room import agreement, bias, chosen, disputed, heat, models, typical_ms
from lab.feedback.labels.exporting import events_text, preferences, tallies
from lab.feedback.labels.room import BLIND, RoomState, Round
from lab.feedback.labels.rows import as_text, dumps
from lab.feedback.labels.shapes import Shape, flag, misfit, number, one_of, several, text, whole
from lab.feedback.labels.words import LONGEST_NOTE, LONGEST_WAIT, Event, Item, LabelError, RefusedError, Showing
from lab.label_server import shown
from lab.records import Comparison, prompt_text, to_json

SHORT = 90
"""Characters of a prompt in a list."""

FORMS: dict[str, tuple[dict[str, Shape], tuple[str, ...]]] = {
    "turn": ({"kind": one_of("open", "pause", "resume", "reveal", "talk", "close"), "title": text(80),
              "overlap": whole(1, 1000), "items": several(text(40), 200)}, ("kind",)),
    "pair": ({"item": text(40)}, ("item",)),
    "revote": ({"item": text(40), "key": text(80, 8), "strength": whole(-2, 2), "both_bad": flag,
                "note": text(LONGEST_NOTE), "ms": whole(0, LONGEST_WAIT)}, ("item", "key", "strength")),
    "withdraw": ({"item": text(40), "restore": flag, "key": text(80, 8)}, ("item", "key")),
    "make": ({"roles": several(text(120), 4, 1), "prompts": several(text(4000), 200, 1), "temperature": number,
              "length": whole(1, 512), "seed": whole(0, 2**31 - 1)}, ("roles", "prompts")),
    "export": ({"kind": one_of("events", "preferences"), "part": one_of("training", "evaluation", "all")}, ("kind",)),
}  # fmt: skip
"""What may be asked, and what must."""


class FormError(ValueError):
    """A request that does not fit its form."""


class Rooms:
    """What the page may ask."""

    def __init__(self, book: Book, heads: Heads, link: Link) -> None:
        self.book, self.heads, self.link = book, heads, link
        self.board = Board(self._figures)
        self._counted: tuple[Moment, Round | None, dict[str, Any]] | None = None

    # ── for everybody ────────────────────────────────────────────────────────────────────────────────────────────────

    def poll(self, _ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """The room as this person may see it now."""
        name = self.book.name(person)
        state, moment, here = self.book.state(), self.book.moment(), self.book.here()
        reply = self._counts(state, moment) | {
            "host": person.host, "name": name, "phase": state.phase, "here": len(here),
            "overlap": self.book.store.rules.overlap, "predictions": len(state.predictions),
        }  # fmt: skip
        if not person.host and state.phase in BLIND:
            reply["ms"] = None
        if not self._may_see(state, person):
            return reply
        figures = self.board.get((moment.newest, len(moment.items), state.phase, state.now))
        people = (
            [{"name": who, "ago": ago} for who, ago in sorted(here.items(), key=lambda p: p[1])] if person.host else []
        )
        return reply | {"figures": figures, "people": people, "head": self._head(name),
                        "mine": self._mine(state, moment, name)}  # fmt: skip

    def pair(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """A pair with its texts; who said what and which models spoke once it is revealed, and for the host."""
        _checked("pair", ask)
        state, moment = self.book.state(), self.book.moment()
        if not self._may_see(state, person):
            raise RefusedError("The round is still blind; wait for the reveal.")
        known = moment.items.get(ask["item"])
        if known is None:
            raise LabelError(f"There is no pair {ask['item']} in this store.")
        who, texts = models(known.item), shown(Showing(known.item, "", "a", False, "", 0)) or {}
        said = [v for v in moment.votes(gold=True) if v.item == ask["item"]]
        before = _before(moment, state.now, ask["item"])
        return {
            "item": ask["item"], "prompt": texts["prompt"], "a": texts["first"], "b": texts["second"],
            "cut": texts["cut"], "models": list(who) if who else None,
            "source": str(known.item.source.get("by") or known.item.source.get("file") or ""),
            "withdrawn": ask["item"] in moment.state.withdrawn,
            "votes": [_vote(v, before.get(v.annotator)) for v in said],
        }  # fmt: skip

    def revote(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """A second vote in the talk, which takes the place of the first: `strength` above 0, a is better."""
        _checked("revote", ask)
        name = self.book.name(person)
        first = self.book.store.answer(ask["item"], name)
        strength = ask["strength"] if first is None or first.first != "b" else -ask["strength"]
        found = self.book.room.revise(name, ask["item"], ask["key"], strength, both_bad=ask.get("both_bad", False),
                                      note=ask.get("note", ""), ms=ask.get("ms"))  # fmt: skip
        return {"saved": True, "new": found.new}

    # ── for the host ─────────────────────────────────────────────────────────────────────────────────────────────────

    def turn(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Opens a round (title, overlap), pauses, resumes, reveals, talks (items), closes."""
        _host(person)
        _checked("turn", ask)
        kind, value = ask["kind"], {}
        if kind == "open":
            value = {"title": " ".join(ask.get("title", "").split())}
            wanted = ask.get("overlap", self.book.store.rules.overlap)
            if wanted != self.book.store.rules.overlap:
                self.book.store.rule(replace(self.book.store.rules, overlap=wanted))
        elif kind == "talk":
            moment = self.book.moment(now=True)
            value = {"items": [i for i in ask.get("items", ()) if i in moment.items]}
            if not value["items"]:
                raise LabelError("Choose at least one pair to talk about.")
        state = self.book.room.turn(kind, self.book.name(person), **value)
        self.book.state(now=True)
        return {"phase": state.phase}

    def withdraw(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Takes a pair out of the questions and its votes out of the data, or puts it back."""
        _host(person)
        _checked("withdraw", ask)
        self.book.store.withdraw(ask["item"], self.book.name(person), ask["key"], restore=ask.get("restore", False))
        self.book.moment(now=True)
        return {"withdrawn": not ask.get("restore", False)}

    def make(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Has roles of the engine answer prompts, and puts the pairs into the queue."""
        _checked("make", ask)
        reason = self.link.reason()
        if reason:
            raise LabelError(reason)
        row = {"roles": ask["roles"], "prompts": ask["prompts"], "temperature": float(ask.get("temperature", 1.0)),
               "max_new_tokens": ask.get("length", 48), "seed": ask.get("seed", 0)}  # fmt: skip
        new = unfit = equal = 0
        try:
            for part in self.link.client.task("pairs", row):
                items, bad = _items(part.get("pairs", ()))
                new, unfit, equal = new + self.book.store.add(items), unfit + bad, equal + int(part.get("equal", 0))
        except EngineError as error:
            raise LabelError(
                f"The engine could not answer all prompts ({new} pairs are in the queue): {error}"
            ) from error
        return {"new": new, "unfit": unfit, "equal": equal}

    def offers(self, _ask: dict[str, Any]) -> dict[str, Any]:
        """The roles that can answer prompts, and prompts to begin with."""
        return {
            "roles": self.link.about("roles"),
            "examples": self.link.about("examples"),
            "reason": self.link.reason(),
        }

    def train(self, _ask: dict[str, Any]) -> dict[str, Any]:
        """Begins the room's reward model from all votes of the training split."""
        return plain(self.heads.begin(ROOM).shown())

    def export(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Every event, or the pairs to learn from, as JSON lines: text for the browser to keep; no path is involved."""
        _checked("export", ask)
        stamp = time.strftime("%Y%m%d-%H%M")
        if ask["kind"] == "events":
            lines = events_text(self.book.store)
            return {"name": f"labels-events-{stamp}.jsonl", "text": lines, "rows": lines.count("\n")}
        rows = preferences(tallies(self.book.store, part=ask.get("part", "training")))
        if not rows:
            raise LabelError("No pair has votes that prefer a side yet.")
        return {"name": f"labels-preferences-{stamp}.jsonl", "rows": len(rows),
                "text": "".join(dumps(to_json(r)) + "\n" for r in rows)}  # fmt: skip

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _counts(self, state: RoomState, moment: Moment) -> dict[str, Any]:
        """What everybody may know, counted once for all who ask about the same moment."""
        seen = self._counted
        if seen is None or seen[0] is not moment or seen[1] is not state.now:
            votes, among = moment.votes(), None if state.now is None else _judged(moment, state.now)
            seen = self._counted = (moment, state.now, {
                "round": plain(state.now) if state.now else None, "votes": len(votes), "ms": typical_ms(votes),
                "round_votes": sum(among is None or v.item in among for v in votes),
                "pairs": sum(not k.item.gold for k in moment.items.values())})  # fmt: skip
        return dict(seen[2])

    def _may_see(self, state: RoomState, person: Person) -> bool:
        return person.host or state.phase in ("revealed", "talk", "closed")

    def _head(self, name: str) -> dict[str, Any] | None:
        """The room's reward model, with the accuracy of the person's own beside it."""
        job, own = self.heads.job(ROOM), self.heads.job(name)
        if job is None:
            return None
        return plain({**job.shown(), "own": own.result.get("accuracy") if own is not None else None})

    def _mine(self, state: RoomState, moment: Moment, name: str) -> dict[str, int]:
        """The person's votes on the pairs that are talked about, in content order."""
        talked = set(state.now.talk) if state.now else set()
        return {v.item: v.strength for v in moment.votes() if v.annotator == name and v.item in talked}

    def _figures(self) -> dict[str, Any]:
        """Everything the room shows of itself, for all."""
        state, moment = self.book.state(), self.book.moment(now=True)
        return figures(state, moment)


def figures(state: RoomState, moment: Moment) -> dict[str, Any]:
    """The room's figures: of the present round where there is one, else of everything."""
    now = state.now
    among = _judged(moment, now) if now is not None else None
    until = now.over if now is not None else None
    votes = moment.votes(moment.at(until), among=among)
    said = moment.marks(votes)
    found: dict[str, Any] = {
        "agreement": agreement(said), "bias": bias(moment, among), "heat": heat(said), "models": chosen(moment, votes),
        "disputes": [d._asdict() | _short(moment, d.item) for d in disputed(votes)],
        "people": len({v.annotator for v in votes}), "votes": len(votes),
        "items": [_row(moment, i, votes) for i in sorted(among or {v.item for v in votes})][:200],
    }  # fmt: skip
    if now is not None and now.revealed is not None:
        blind = moment.votes(moment.at(now.revealed), among=among)
        talked = set(now.talk)
        found["talk"] = {
            "before": agreement(moment.marks(blind)), "after": agreement(said),
            "talked_before": agreement(moment.marks([v for v in blind if v.item in talked])) if talked else None,
            "talked_after": agreement([m for m in said if m.item in talked]) if talked else None,
            "changed": _changed(blind, votes),
        }  # fmt: skip
        found["predictions"] = _predictions(state, found)
    return plain(found)


def _judged(moment: Moment, now: Round) -> frozenset[str]:
    """The pairs of a round: those that were judged in it, before its reveal."""
    return moment.judged(now.began, now.revealed if now.revealed is not None else now.over)


def _changed(before: list[Event], after: list[Event]) -> int:
    """How many votes were given anew in the talk and say something else."""
    old = {(v.item, v.annotator): (v.choice, v.strength) for v in before}
    return sum(old.get((v.item, v.annotator), (v.choice, v.strength)) != (v.choice, v.strength) for v in after)


def _before(moment: Moment, now: Round | None, item: str) -> dict[str, Event]:
    """What everybody had said of an item up to the reveal."""
    if now is None or now.revealed is None:
        return {}
    return {v.annotator: v for v in moment.votes(moment.at(now.revealed), gold=True) if v.item == item}


def _vote(v: Event, before: Event | None) -> dict[str, Any]:
    changed = before is not None and (before.choice, before.strength) != (v.choice, v.strength)
    return {"who": v.annotator, "choice": v.choice, "strength": v.strength, "reasons": list(v.reasons), "note": v.note,
            "before": before.strength if before is not None and changed else None}  # fmt: skip


def _short(moment: Moment, item: str) -> dict[str, str]:
    words = " ".join(prompt_text(moment.items[item].item.comparison.prompt).split())
    return {"prompt": words if len(words) <= SHORT else words[: SHORT - 1] + "…"}


def _row(moment: Moment, item: str, votes: list[Event]) -> dict[str, Any]:
    mine = [v.choice for v in votes if v.item == item]
    return {"item": item, **_short(moment, item), "models": models(moment.items[item].item), "a": mine.count("a"),
            "b": mine.count("b"), "tie": mine.count("tie"), "both_bad": mine.count("both_bad")}  # fmt: skip


def _predictions(state: RoomState, found: Mapping[str, Any]) -> dict[str, Any]:
    """What people had predicted, beside what came."""
    ranked, raw = found["models"], found["agreement"].raw
    by: dict[str, list[str]] = {}
    for who, said in sorted(state.predictions.items()):
        by.setdefault(str(said.get("winner", "")), []).append(who)
    guesses = {who: float(said["agreement"]) for who, said in state.predictions.items() if "agreement" in said}
    nearest = (
        min(guesses, key=lambda who: (abs(guesses[who] - raw.mean), who)) if guesses and raw.mean is not None else ""
    )
    return {
        "winner": ranked[0].name if ranked else "",
        "by": by,
        "agreement": raw,
        "guesses": guesses,
        "nearest": nearest,
    }


def _items(rows: Any) -> tuple[list[Item], int]:
    """Pairs of the engine as items, and how many are none (equal, empty or unreadable answers)."""
    found, bad = [], 0
    for row in rows:
        try:
            c = Comparison(as_text(row["prompt"]), as_text(row["a"]), as_text(row["b"]), tuple(row["ended"]))
            found.append(Item(c, source=row["source"]))
        except LabelError:
            bad += 1
    return found, bad


def _host(person: Person) -> None:
    """Raises HostOnlyError for anybody else."""
    if not person.host:
        raise HostOnlyError


def _checked(form: str, ask: Mapping[str, Any]) -> None:
    """Raises FormError for what does not fit."""
    wrong = misfit(ask, *FORMS[form], closed=True)
    if wrong:
        raise FormError(f"The request does not fit: {wrong}.")


def build(parts: Parts) -> gr.HTML:
    """The panel as a component; call it inside a tab."""
    desk = Rooms(book_of(parts), heads_of(parts), parts.link)
    known = [person_ask(ask) for ask in (desk.poll, desk.pair, desk.revote, desk.turn, desk.withdraw)]
    return panel("room", "The room", [*known, *map(host_ask, (desk.make, desk.offers, desk.train, desk.export))])
