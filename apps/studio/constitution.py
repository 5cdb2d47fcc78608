"""The *Constitution* panel: principles in words, what they do to an answer, and whether they judge as people did.

A change is held against the people's votes as soon as it is typed: which judgements flip is the unit test of a
constitution. Every version that is kept stays; the chain of revisions and the votes of a version go on in this process,
so that a class sees what the host starts.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.studio.book import Book, book_of
from apps.studio.components import host_ask, open_ask, panel, person_ask
from apps.studio.jobs import Job
from apps.studio.link import Link
from apps.studio.parts import Parts
from apps.studio.people import HostOnlyError, Person
from lab import drafting, tiny
from lab.evaluate import principles as tests
from lab.feedback.constitution.labels import JudgeOf, RuleJudge, label
from lab.feedback.constitution.opinions import Opinions
from lab.feedback.constitution.principles import Constitution, Principle, read_constitution
from lab.feedback.constitution.versions import Versions
from lab.feedback.labels.exporting import Tally, preferences
from lab.feedback.labels.room import BLIND
from lab.feedback.labels.words import Event, Item
from lab.reading import word_diff
from lab.records import Comparison, Preference, Verdict, to_json
from lab.tiny.constitution import CRITIC, RULES, shipped

BY_RULES = "rules"
HIDDEN = "How it judges beside the people is shown after the reveal, so that nobody's vote leans on it."
AT_ONCE = 40
"""Pairs that a constitution's programs judge between two looks at the Stop button."""
MOST_KEPT = 32


class DraftError(ValueError):
    """A wish that cannot be granted, with the reason."""


class Constitutions:
    """What the page may ask."""

    def __init__(self, root: Path, book: Book, link: Link, labels: str = "") -> None:
        self.versions, self.book, self.link, self.labels = Versions(root), book, link, labels
        self.job, self.chain = Job(), ChainView(link)
        self._lock = threading.Lock()
        self._opinions: dict[str, Opinions] = {}
        self._tested: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()

    # ── what is there ────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self, _ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """What can be opened, who can be asked, and what goes on."""
        about = self.link.status().get("about", {})
        moment = self.book.moment()
        return {
            "host": person.host, "books": self.versions.all(), "presets": list(shipped()), "critics": list(RULES),
            "engine": {"reason": self.link.reason(), "roles": self.link.about("roles"),
                       "tiny": str(about.get("model", "")) == str(tiny.CHECKPOINT)},
            "examples": self.link.about("examples")[4:9], "judged": len(_judged(self.book)), "newest": moment.newest,
            "votes": {n: sum(v.annotator == n for v in moment.state.votes()) for n, by in moment.makers.items()
                      if by == "constitution"},
            "labels": self.labels if person.host else "", "job": self.job.look(), "chain": self.chain.look(),
        }  # fmt: skip

    def open(self, ask: dict[str, Any]) -> dict[str, Any]:
        """A preset, or a version, as the fields of a form."""
        found = self._named(ask)
        text = drafting.draft(drafting.form(found), found.name).text
        return {"name": found.name, "version": found.version, "yaml": text, **drafting.form(found)}

    def read(self, ask: dict[str, Any]) -> dict[str, Any]:
        """YAML that was typed, as the fields of a form, or what is wrong with it."""
        made = drafting.draft(ask)
        found = drafting.form(made.constitution) if made.constitution else {}
        return {"yaml": made.text, "problems": _plain(made.problems), **found}

    def _named(self, ask: Mapping[str, Any]) -> Constitution:
        """The constitution that {preset} or {name, version} means."""
        preset = str(ask.get("preset") or "")
        if preset:
            if preset not in shipped():
                raise DraftError(f"There is no preset {preset[:60]!r}; there are {', '.join(shipped())}.")
            return read_constitution(shipped()[preset])
        return self.versions.read(str(ask.get("name") or ""), _number(ask.get("version")))

    # ── does it judge as people did? ─────────────────────────────────────────────────────────────────────────────────

    def weigh(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """A draft (`yaml` or fields) or a kept one (`of`) held against people's votes and another version (`against`).

        What is wrong with the draft comes as `problems`; what its judge was not asked yet as `missing`.
        """
        if "of" in ask:
            made = drafting.Draft("", self._named(ask["of"] or {}), ())
        elif person.host:
            made = drafting.draft(ask)
        else:
            raise HostOnlyError
        old = self._named(ask["against"]) if ask.get("against") else None
        if made.constitution is None:
            return {"yaml": made.text, "problems": _plain(made.problems)}
        judge, judged = str(ask.get("judge") or BY_RULES), _judged(self.book)
        out: dict[str, Any] = {"yaml": made.text, "problems": [], "judged": len(judged), "missing": 0, "hidden": "",
                               "tested": None, "changes": _changes(old, made.constitution)}  # fmt: skip
        both = [c for c in (made.constitution, old) if c is not None]
        if not person.host and self.book.state().phase in BLIND:
            return out | {"hidden": HIDDEN}
        if not judged:
            return out
        if judge == BY_RULES:
            for c in both:
                CRITIC.check(c)
        else:
            out["missing"] = sum(len(left) for _, left in self._missing(judge, both, _pairs(judged)))
            if out["missing"]:
                return out
        return out | {"tested": self._test(made.constitution, old, judge, judged)}

    def _test(self, new: Constitution, old: Constitution | None, judge: str,
              judged: Sequence[Preference]) -> dict[str, Any]:  # fmt: skip
        """The test, computed once for all who look at the same two versions and the same votes."""
        key = (new.digest, old.digest if old else "", judge, self.book.moment().newest)
        with self._lock:
            if key not in self._tested:
                found = tests.check(judged, new, self._judge_of(judge), old)
                self._tested[key] = drafting.told(found)
                while len(self._tested) > MOST_KEPT:
                    self._tested.popitem(last=False)
            return self._tested[key]

    def _judge_of(self, judge: str) -> JudgeOf:
        return (lambda p: RuleJudge(CRITIC, p)) if judge == BY_RULES else self._known(judge).judge_of

    def _known(self, judge: str) -> Opinions:
        return self._opinions.setdefault(judge, Opinions())

    def _missing(self, judge: str, constitutions: Sequence[Constitution], pairs: Sequence[Comparison]
                 ) -> list[tuple[Principle, list[Comparison]]]:  # fmt: skip
        """What a role must still be asked: each principle that is on, with the pairs."""
        every = {(p.text, p.critique): p for c in constitutions for p in c.active}
        found = [(p, self._known(judge).missing(p, pairs)) for p in every.values()]
        return [(p, left) for p, left in found if left]

    # ── what the host does ───────────────────────────────────────────────────────────────────────────────────────────

    def save(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Keeps a draft as the next version of `name`."""
        name = str(ask.get("name") or "").strip()
        self.versions.of(name)  # a name that is none is refused before anything else
        made = drafting.draft(ask, name)
        if made.constitution is None:
            return {"yaml": made.text, "problems": _plain(made.problems)}
        return {"name": name, "version": self.versions.save(name, made.text), "problems": []}

    def ask_role(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Has a role judge people's pairs by the principles of a draft and of the version beside it."""
        judge = self._role(ask.get("judge"))
        made = drafting.draft(ask)
        if made.constitution is None:
            return {"yaml": made.text, "problems": _plain(made.problems)}
        both = [made.constitution, *([self._named(ask["against"])] if ask.get("against") else [])]
        pairs = _pairs(_judged(self.book))
        return {"job": self.job.begin(f"{judge} judges", lambda: self._asked(judge, both, pairs))}

    def _asked(self, judge: str, constitutions: Sequence[Constitution], pairs: Sequence[Comparison]
               ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """Asks a role what is missing, and keeps it as it comes."""
        left = self._missing(judge, constitutions, pairs)
        of, before = sum(len(part) for _, part in left), 0
        for principle, part in left:
            row = {"judge": judge, "principles": [to_json(principle)], "pairs": [to_json(c) for c in part]}
            for said in self.link.client.task("opinions", row):
                for k, (ab, ba) in enumerate(zip(said.get("ab", ()), said.get("ba", ()), strict=True)):
                    self._known(judge).keep(principle, part[int(said["at"]) + k], ab, ba)
                yield {"done": before + int(said.get("done", 0)), "of": of, "sentence": f"asked about {principle.id}"}
            before += len(part)

    def vote(self, ask: dict[str, Any]) -> dict[str, Any]:
        """A kept version votes on every pair of the store it has not judged, as `constitution:<name>-v<n>`."""
        found = self._named({"name": ask.get("name"), "version": ask.get("version")})
        judge = str(ask.get("judge") or BY_RULES)
        if judge == BY_RULES:
            CRITIC.check(found)
        else:
            judge = self._role(judge)
        name = voter(found.name, found.version, judge)
        moment = self.book.moment(now=True)
        voted = {place.item for place in moment.state.answers if place.annotator == name}
        left = [k.item for i, k in moment.items.items()
                if i not in moment.state.withdrawn and i not in voted and not k.item.gold]  # fmt: skip
        if not left:
            raise DraftError(f"{name} has judged every pair." if voted else "There are no pairs to judge yet.")
        return {"job": self.job.begin(f"{name} votes", lambda: self._votes(found, name, judge, left))}

    def _votes(self, found: Constitution, name: str, judge: str, left: Sequence[Item]) -> Iterator[dict[str, Any]]:
        if judge != BY_RULES:
            yield from self._asked(judge, [found], [i.comparison for i in left])
        kept = 0
        for at in range(0, len(left), AT_ONCE):
            part = [i.comparison for i in left[at : at + AT_ONCE]]
            labelled = label(part, found, self._judge_of(judge), draw=0, annotator=name)
            said = [(x.comparison, Verdict(x.p, name, _why(x.said))) for x in labelled]
            kept += self.book.store.verdicts(name, "constitution", said)
            yield {"done": at + len(part), "of": len(left), "sentence": f"{kept} votes kept"}

    def revise(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Begins a chain: draft → critique → revision, by the principles of a draft."""
        made = drafting.draft(ask)
        if made.constitution is None:
            return {"yaml": made.text, "problems": _plain(made.problems)}
        prompt = str(ask.get("prompt") or "").strip()
        if not prompt:
            raise DraftError("The prompt is empty; type one.")
        critic = str(ask.get("critic") or BY_RULES)
        row = {"principles": made.text, "prompt": prompt[:4000], "role": self._role(ask.get("role")),
               "critic": critic if critic == BY_RULES else self._role(critic),
               "rounds": _number(ask.get("rounds")) or 1, "seed": _number(ask.get("seed"))}  # fmt: skip
        return self.chain.begin(row)

    def stop(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Ends the chain (`what` is chain) or the other work after its present step; what was kept stays."""
        (self.chain.job if ask.get("what") == "chain" else self.job).stop()
        return {}

    def _role(self, role: Any) -> str:
        known, text = self.link.about("roles"), str(role or "")
        if text.partition("@")[0] not in known:
            raise DraftError(
                f"There is no role {text[:60]!r} in the engine; there are {', '.join(known) or 'none yet'}."
            )
        return text


class ChainView:
    """The chain that goes on, or the last one, as everybody sees it."""

    def __init__(self, link: Link) -> None:
        self.link, self.job = link, Job()
        self._lock = threading.Lock()
        self._shown: dict[str, Any] = {}

    def begin(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Starts a chain; what is shown of it. Raises BusyError while another goes on."""
        self.job.begin("The chain", lambda: self._rows(row))
        return self.look()

    def look(self) -> dict[str, Any]:
        """The prompt, the draft and the rounds so far, each with its word diff from the answer before it."""
        with self._lock:
            return {**self._shown, "job": self.job.look()}

    def _rows(self, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        shown: dict[str, Any] = {"prompt": row["prompt"], "role": row["role"], "critic": row["critic"], "draft": "",
                                 "rounds": [], "end": None}  # fmt: skip
        self._show(shown)
        answer, says = "", dict[int, dict[str, Any]]()
        for said in self.link.client.task("chain", row):
            stage, at = said.get("stage"), int(said.get("at", 0))
            if stage == "draft":
                answer = shown["draft"] = said["text"]
            elif stage in ("critique", "revision"):
                says.setdefault(at, {"principle": said["principle"]})[stage] = said["text"]
            elif stage == "round":
                says[at] = {**said, "diff": word_diff(answer, said["revision"])}
                answer = said["revision"]
            elif stage == "end":
                shown["end"] = {**said, "diff": word_diff(said["draft"], said["final"])}
            shown["rounds"] = list(says.values())
            self._show(shown)
            yield {"done": len(says), "of": int(row["rounds"])}

    def _show(self, shown: Mapping[str, Any]) -> None:
        with self._lock:
            self._shown = dict(shown)


# --- small things ----------------------------------------------------------------------------------------------------


def voter(name: str, version: str, judge: str) -> str:
    """What a version is called in the label store: one that a role applies has the role in its name."""
    return f"constitution:{name}-v{version}" + ("" if judge == BY_RULES else f" by {judge}")


def _judged(book: Book) -> list[Preference]:
    """What people prefer: one judgement for each pair on which they take a side, its weight the number of votes."""
    moment = book.moment()
    said: dict[str, list[Event]] = {}
    for v in moment.votes():
        said.setdefault(v.item, []).append(v)
    return preferences([Tally(moment.items[i].item, tuple(votes)) for i, votes in said.items()])


def _changes(old: Constitution | None, new: Constitution) -> list[dict[str, Any]]:
    return drafting.changed(old, new) if old else []


def _pairs(judged: Sequence[Preference]) -> list[Comparison]:
    return [Comparison(p.prompt, p.chosen, p.rejected) for p in judged]


def _why(said: Sequence[Any]) -> str:
    """Which principles voted for which side."""
    sides = {">": [s.principle for s in said if s.p is not None and s.p > 0.5],
             "<": [s.principle for s in said if s.p is not None and s.p < 0.5]}  # fmt: skip
    words = [f"{', '.join(ids)} for {'a' if side == '>' else 'b'}" for side, ids in sides.items() if ids]
    return "; ".join(words) or "no principle takes a side"


def _plain(problems: Sequence[drafting.Problem]) -> list[dict[str, Any]]:
    return [p._asdict() for p in problems]


def _number(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def build(parts: Parts) -> gr.HTML:
    """The panel as a component; call it inside a tab."""
    desk = Constitutions(parts.shelf.root, book_of(parts), parts.link, parts.labels.where)
    for_all = [person_ask(desk.look), person_ask(desk.weigh), open_ask(desk.open)]
    for_hosts = [desk.read, desk.save, desk.ask_role, desk.vote, desk.revise, desk.stop]
    return panel("constitution", "Constitution", [*for_all, *map(host_ask, for_hosts)])
