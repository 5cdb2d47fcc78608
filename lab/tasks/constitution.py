"""A constitution at work on the engine's base: a chain of revisions as it is written, and what a role says of pairs.

Both end in plain rows, so that the Studio shows every step as it comes and keeps what a judge has said.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from lab.cai.data import role_judge
from lab.columns import DataError
from lab.feedback.constitution.chain import ROUNDS
from lab.feedback.constitution.critics import Review, Task, talk
from lab.feedback.constitution.principles import Principle
from lab.feedback.constitution.versions import checked
from lab.records import Comparison, Message, Prompt, comparison, prompt_text
from lab.runs import RunError
from lab.sample import stream
from lab.tasks.judging import known_role

if TYPE_CHECKING:
    from lab.desk import Desk

RULES = "rules"
"""The critic that is a program for each principle, in the tiny world."""
NAMES = tuple(f.name for f in fields(Principle))
FINE = "Yes"
"""How a critic of the tiny world begins where nothing is wrong (`lab.cai` has it so too)."""
AT_ONCE = 4
"""Pairs that a role is asked about in one row, in both orders."""

Said = Generator[dict[str, Any], None, tuple[str, bool]]


def chain(desk: Desk, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Draft → critique → revision, up to four times, every text as it grows.

    row : principles (a constitution's YAML), prompt, role (who drafts), critic (`rules`, or the role that criticises
          and revises), rounds, seed, temperature, max_new_tokens; draft: a draft that is there already

    Rows: {"stage": "draft", "text"}; for round `at` {"stage": "critique" | "revision", "at", "principle", "text"}; and
    after each, with everything known, {"stage": "round", "at", "principle", "says", "critique", "revision", "changed"};
    {"stage": "end", "draft", "final", "ended", "worth": [of the draft, of the last] or None} is the last.
    """
    constitution = checked(str(row.get("principles", "")), "this version")
    rounds = int(row.get("rounds") or 1)
    if not 1 <= rounds <= ROUNDS:
        raise DataError(f"A chain has 1 to {ROUNDS} rounds, not {rounds}.")
    prompt = desk.checked(str(row.get("prompt") or "").strip()[:4000])
    pen = _Pen(desk, row)
    by_rules = str(row.get("critic") or RULES) == RULES
    critic = "" if by_rules else known_role(desk, str(row["critic"]))
    if by_rules:
        _rules_of(desk).check(constitution)
    text, ended = str(row.get("draft") or ""), True
    if not text.strip():
        text, ended = yield from pen.say(known_role(desk, str(row.get("role") or "base")), prompt, {"stage": "draft"})
    draft = text
    yield {"stage": "draft", "text": draft, "done": True, "ended": ended}
    for at, principle in enumerate(constitution.draw(rounds, pen.seed, 0)):
        task = Task(prompt, text, principle)
        review = _rules_of(desk).review([task])[0] if by_rules else (yield from pen.review(critic, task, at))
        changed, text = review.revision != text, review.revision
        yield {"stage": "round", "at": at, "principle": principle.id, "says": principle.text,
               "critique": review.critique, "revision": review.revision, "changed": changed}  # fmt: skip
    yield {"stage": "end", "draft": draft, "final": text, "ended": ended,
           "worth": _worth(desk, prompt, (draft, text), ended)}  # fmt: skip


def _rules_of(desk: Desk) -> Any:
    if desk.world != "tiny":
        raise RunError("Only the tiny world has programs for principles; let a role be the critic.")
    from lab.tiny.constitution import CRITIC

    return CRITIC


def _worth(desk: Desk, prompt: Prompt, said: Sequence[str], ended: bool) -> list[dict[str, Any]] | None:
    """The true score of each answer with its reasons, in the tiny world. A revision came to an end."""
    if desk.world != "tiny":
        return None
    from lab import tiny

    found = [tiny.gold(prompt_text(prompt), text, ended or i > 0) for i, text in enumerate(said)]
    return [{"score": g.score, "reasons": [list(r) for r in g.reasons]} for g in found]


class _Pen:
    """What writes: a role on the base, token by token."""

    def __init__(self, desk: Desk, row: Mapping[str, Any]) -> None:
        self.desk = desk
        self.seed = int(row.get("seed") or 0) % 2**31
        self.temperature = min(max(float(row.get("temperature", 1.0)), 0.0), 5.0)
        self.length = min(max(int(row.get("max_new_tokens") or 32), 1), 512)

    def say(self, role: str, prompt: Prompt, about: Mapping[str, Any], turn: int = 0) -> Said:
        """A row as the text grows; gives back (text, whether it came to an end)."""
        base, ids, ended, text = self.desk.base, list[int](), False, ""
        for drawn in stream(base, [base.chat.encode_prompt(prompt)], (role,), temperature=self.temperature,
                            max_new_tokens=self.length, seed=(self.seed, turn)):  # fmt: skip
            for _, token, _, end in drawn.tokens:
                ids.append(token)
                ended = end
            text = base.chat.decode(ids)
            yield {**about, "text": text}
        return text, ended

    def review(self, role: str, task: Task, at: int) -> Generator[dict[str, Any], None, Review]:
        """Critique and revision by a role, as `ModelCritic` asks for them; an empty revision, or one that came to no
        end, leaves the answer as it is, and so does a critique that finds it fine in the tiny world's words."""
        asked, about = talk(task), {"at": at, "principle": task.principle.id}
        critique, _ = yield from self.say(role, asked, {"stage": "critique", **about}, 2 * at + 1)
        if self.desk.world == "tiny" and critique.startswith(FINE):
            return Review(critique, task.answer)
        more = (*asked, Message("assistant", critique), Message("user", task.principle.revision))
        text, ended = yield from self.say(role, more, {"stage": "revision", **about}, 2 * at + 2)
        return Review(critique, text if ended and text.strip() else task.answer)


def opinions(desk: Desk, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a role says of pairs, principle by principle, in both orders.

    row : judge (a role), principles ([{id, text, critique, …}, …]), pairs (comparisons as JSON)

    Rows: {"principle": its place, "at": of the first pair, "ab": [p, …], "ba": [p, …], "done", "of"}; p is the
    probability that the first shown keeps better to the principle, or None.
    """
    role = known_role(desk, str(row.get("judge") or ""))
    principles = [Principle(**{key: p[key] for key in NAMES if key in p}) for p in row["principles"]]
    pairs = [comparison(pair) for pair in row["pairs"]]
    judge_of = role_judge(desk.base, role, desk.world)
    done, of = 0, len(principles) * len(pairs)
    yield {"done": 0, "of": of}
    for place, principle in enumerate(principles):
        who = judge_of(principle)
        for at in range(0, len(pairs), AT_ONCE):
            part: list[Comparison] = pairs[at : at + AT_ONCE]
            ab = [o.p for o in who.ask(part)]
            ba = [o.p for o in who.ask([c.swap() for c in part])]
            done += len(part)
            yield {"principle": place, "at": at, "ab": ab, "ba": ba, "done": done, "of": of}
