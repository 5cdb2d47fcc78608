"""The *Arena* panel: which policy wins, by whose votes, and how sure that is.

The leaderboard is drawn from the votes of the label store. The host sees it live; the others after the room's reveal,
so that nobody's vote leans on it. The host can have roles answer the same prompts, and let a judge vote on the pairs.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from apps.studio.book import Book, book_of, plain
from apps.studio.components import host_ask, panel, person_ask
from apps.studio.jobs import Job
from apps.studio.link import Link
from apps.studio.parts import Parts
from apps.studio.people import Person
from lab import arena_figures, tiny
from lab.evaluate import arena, contests
from lab.evaluate.record import Moment
from lab.feedback.labels.room import BLIND
from lab.feedback.labels.words import Item, LabelError
from lab.records import Verdict, comparison, prompt_text, to_json

PEOPLE = "people"
"""Everybody's votes together, where no single annotator is chosen."""

HIDDEN = "The standings are shown after the reveal, so that nobody's vote leans on them."
MOST_DISPUTED = 5
MOST_KEPT = 16


class ArenaError(ValueError):
    """A wish that cannot be granted, with the reason."""


class Arena:
    """What the page may ask."""

    def __init__(self, book: Book, link: Link) -> None:
        self.book, self.link, self.job = book, link, Job()
        self._lock = threading.Lock()
        self._boards: OrderedDict[tuple[int, int, str], dict[str, Any]] = OrderedDict()

    # ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """The leaderboard by the votes of `who` (people, or one annotator), the figure in `dark` or light, and the
        disputed pairs of `one` and `other`."""
        shown = {"host": person.host, "engine": self._engine(), "job": self.job.look() if person.host else None}
        if not person.host and self.book.state().phase in BLIND:
            return shown | {"hidden": HIDDEN}
        moment = self.book.moment()
        judges = _judges(moment)
        who = str(ask.get("who") or "")
        if who not in {j["name"] for j in judges}:
            who = judges[0]["name"] if judges else PEOPLE
        found = self._board(moment, who)
        board: arena.Leaderboard = found["board"]
        names = [s.policy for s in board.standings]
        pair = [str(ask.get(side) or "") for side in ("one", "other")]
        if len(set(pair)) < 2 or not set(pair) <= set(names):
            pair = names[:2]
        return shown | {
            "hidden": "", "judges": judges, "who": who, "contests": found["contests"], "waiting": found["waiting"],
            "board": plain(arena.as_json(board)), "worth": plain(found["worth"]), "pair": pair,
            "figure": arena_figures.leaderboard(board, bool(ask.get("dark"))) if names else None,
            "needed": _needed(board), "disputed": self._disputed(moment, who, pair),
        }  # fmt: skip

    def _board(self, moment: Moment, who: str) -> dict[str, Any]:
        """What one annotator's votes make of the store, computed once however many look."""
        key = (moment.newest, len(moment.items), who)
        with self._lock:
            if key not in self._boards:
                self._boards[key] = _computed(moment, who)
                while len(self._boards) > MOST_KEPT:
                    self._boards.popitem(last=False)
            return self._boards[key]

    def _disputed(self, moment: Moment, who: str, pair: list[str]) -> list[dict[str, Any]]:
        if len(pair) < 2:
            return []
        found = contests.disputed(_items(moment), moment.state.votes(), pair[0], pair[1],
                                  annotators=_voters(moment, who), n=MOST_DISPUTED)  # fmt: skip
        return [plain(d) for d in found]

    def _engine(self) -> dict[str, Any]:
        """What can be asked of the engine: its roles, and whether its model is the tiny world's."""
        about = self.link.status().get("about", {})
        return {"reason": self.link.reason(), "roles": self.link.about("roles"), "tiny": self._tiny(),
                "model": str(about.get("model", ""))}  # fmt: skip

    def _tiny(self) -> bool:
        return str(self.link.status().get("about", {}).get("model", "")) == str(tiny.CHECKPOINT)

    # ── what the host does ───────────────────────────────────────────────────────────────────────────────────────────

    def duel(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Has roles answer prompts, and adds their pairs to the queue."""
        roles = [str(r) for r in ask.get("roles") or ()]
        known = set(self.link.about("roles"))
        if not 2 <= len(set(roles)) <= 4 or any(r.partition("@")[0] not in known for r in roles):
            raise ArenaError("A duel is between two to four roles of the list; choose them first.")
        typed = [line.strip() for line in str(ask.get("prompts") or "").splitlines() if line.strip()]
        n = min(max(_whole(ask.get("n"), 20), 1), 500)
        if not typed and not self._tiny():
            raise ArenaError("Give the prompts of the duel, one a line.")
        row = {"roles": roles, "n": len(typed) or n, "prompts": typed, "seed": _whole(ask.get("seed"), 0),
               "temperature": _number(ask.get("temperature"), 1.0),
               "max_new_tokens": _whole(ask.get("length"), 32)}  # fmt: skip
        return {"job": self.job.begin(f"The duel of {', '.join(roles)}", lambda: self._duel(row))}

    def _duel(self, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Samples, and keeps the pairs of every few prompts as they come."""
        new = known = alike = 0
        for part in self.link.client.task("duel", row):
            if part.get("pairs") is not None:
                made = []
                for pair in part["pairs"]:
                    try:
                        made.append(Item(comparison(pair["comparison"]), source=pair["source"]))
                    except LabelError:
                        alike += 1
                added = self.book.store.add(made)
                new, known, alike = new + added, known + len(made) - added, alike + int(part.get("alike", 0))
            said = f"{_many(new, 'new pair')} in the queue" + (f", {alike} alike and left out" if alike else "")
            yield {**_progress(part), "sentence": said + (f", {known} there already" if known else "") + "."}

    def judge(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Lets a judge vote on every pair of two policies that it has not judged yet."""
        name = str(ask.get("judge") or "").strip()
        if not name:
            raise ArenaError("Name a judge first.")
        moment = self.book.moment(now=True)
        voted = {place.item for place in moment.state.answers if place.annotator == name}
        left = [i for i in _items(moment) if i.id not in voted and arena.contestants(i)]
        if not left:
            raise ArenaError(f"{name} has judged every pair of two policies already." if voted else
                             "There are no pairs of two policies yet; start a duel.")  # fmt: skip
        return {"job": self.job.begin(f"{name} votes", lambda: self._judge(name, left))}

    def _judge(self, name: str, left: list[Item]) -> Iterator[dict[str, Any]]:
        """Asks the judge, and keeps its verdicts as they come."""
        pairs, kept, flipped, made_by = [to_json(i.comparison) for i in left], 0, 0, "judge"
        for part in self.link.client.task("judge", {"judge": name, "pairs": pairs}):
            made_by = part.get("made_by", made_by)
            if part.get("verdicts") is not None:
                at = int(part["at"])
                said = [(left[at + k].comparison, Verdict(p, name, str(why)[:2000]))
                        for k, (p, why) in enumerate(part["verdicts"])]  # fmt: skip
                kept += self.book.store.verdicts(name, made_by, said)
                flipped += int(part.get("flipped", 0))
            turned = f"; in {flipped} of them the two orders named different answers" if flipped else ""
            yield {**_progress(part), "sentence": f"{_many(kept, 'verdict')} kept{turned}."}

    def stop(self, _ask: dict[str, Any]) -> dict[str, Any]:
        """Ends what goes on after its present step; what was kept stays."""
        return {"job": self.job.stop()}


# --- from the store --------------------------------------------------------------------------------------------------


def _items(moment: Moment) -> list[Item]:
    """The pairs that are asked still."""
    return [k.item for name, k in moment.items.items() if name not in moment.state.withdrawn]


def _voters(moment: Moment, who: str) -> set[str]:
    """The annotators whose votes count."""
    return {n for n, by in moment.makers.items() if by == "person"} if who == PEOPLE else {who}


def _judges(moment: Moment) -> list[dict[str, Any]]:
    """Whose votes on contests there are: people together, then every machine, those with most votes first."""
    contest = {i.id for i in _items(moment) if arena.contestants(i)}
    votes = Counter(v.annotator for v in moment.state.votes() if v.item in contest)
    people = sum(n for name, n in votes.items() if moment.makers.get(name) == "person")
    machines = [{"name": name, "by": by, "votes": n} for name, n in votes.most_common()
                if (by := moment.makers.get(name, "judge")) != "person" and name != PEOPLE]  # fmt: skip
    return ([{"name": PEOPLE, "by": "person", "votes": people}] if people else []) + machines


def _computed(moment: Moment, who: str) -> dict[str, Any]:
    items, votes, voters = _items(moment), moment.state.votes(), _voters(moment, who)
    contest = [i for i in items if arena.contestants(i)]
    judged = {v.item for v in votes if v.annotator in voters}
    in_tiny = bool(contest) and all(not tiny.unknown_words(prompt_text(i.comparison.prompt)) for i in contest)
    worth = contests.worth(contest, lambda x, y, ended: tiny.gold(x, y, ended).score) if in_tiny else {}
    return {"board": arena.bradley_terry(arena.results(items, votes, voters)), "contests": len(contest),
            "waiting": sum(i.id not in judged for i in contest), "worth": worth}  # fmt: skip


def _needed(board: arena.Leaderboard) -> dict[str, Any] | None:
    """How many more votes tell the first two of the largest group apart."""
    first = [s.policy for s in board.standings if s.group == 0][:2]
    if len(first) < 2:
        return None
    gap = board.gap(*first)
    return {"one": first[0], "other": first[1], "votes": arena.votes_needed(board, *first), "gap": plain(gap)}


def _progress(part: Mapping[str, Any]) -> dict[str, int]:
    return {"done": int(part.get("done", 0)), "of": int(part.get("of", 0))}


def _many(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _whole(value: Any, usual: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return usual


def _number(value: Any, usual: float) -> float:
    try:
        return min(max(float(value), 0.01), 5.0)
    except (TypeError, ValueError):
        return usual


def build(parts: Parts) -> gr.HTML:
    """The panel as a component; call it inside a tab."""
    desk = Arena(book_of(parts), parts.link)
    asks = [person_ask(desk.look), host_ask(desk.duel), host_ask(desk.judge), host_ask(desk.stop)]
    return panel("arena", "Arena of policies", asks)
