"""A label store in which policies met, and an engine that has them meet again: from formulas, without a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lab.client import EngineError
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item, Rules, vote
from lab.records import Comparison

from .fake import FakeEngine
from .made import PROMPTS

ROLES = ("sft", "policy", "base")
GOOD = {"policy": 0, "sft": 2, "base": 5}
"""Role -> from which prompt on it answers wrongly."""

TAIL = {"policy": "", "sft": "I hope this helps you.", "base": "Please ask me anything else."}


def said(role: str, i: int) -> str:
    """A right answer (with a role's own last word, so that no two are alike) or a wrong one."""
    _, wrong, right = PROMPTS[i % len(PROMPTS)]
    text = right if i % len(PROMPTS) >= GOOD[role] else wrong
    return f"{text} {TAIL[role]}".strip()


def contest(one: str, other: str, i: int) -> Item:
    """Two roles on one prompt."""
    return Item(Comparison(PROMPTS[i % len(PROMPTS)][0], said(one, i), said(other, i)),
                source={"a": one, "b": other, "by": "test"})  # fmt: skip


def fill(store: Store, people: int = 5) -> list[Item]:
    """Every two of three roles on eight prompts, judged by a few people who mostly like the policy."""
    items = [contest(one, other, i) for one, other in (("sft", "policy"), ("sft", "base"), ("policy", "base"))
             for i in range(len(PROMPTS))]  # fmt: skip
    store.rule(Rules(overlap=people))
    store.add(items)
    for p in range(people):
        name = store.person(f"person {p}")
        for k, item in enumerate(items):
            better = {"policy": 3, "sft": 2, "base": 1}
            a, b = item.source["a"], item.source["b"]
            side = 1 if better[a] > better[b] else -1
            surprise = (k * 7 + p * 3) % 5
            strength = -side if surprise == 0 else 0 if surprise == 1 else side
            store.record(vote(item.id, name, "k", strength, first="a", ms=4000))
    return items


class Contests(FakeEngine):
    """An engine that knows duels and judges: `policy` wins by the judge `gold`."""

    def task(self, name: str, row: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        row = dict(row or {})
        self.asked.append(("task", name, row))
        if name == "duel":
            yield from self._duel(row)
        elif name == "judge":
            yield {"made_by": "judge", "done": 0, "of": len(row["pairs"])}
            for at, pair in enumerate(row["pairs"]):
                p = 1.0 if len(pair["a"]) < len(pair["b"]) else 0.0
                yield {
                    "at": at,
                    "verdicts": [[p, "shorter"]],
                    "flipped": at % 2,
                    "done": at + 1,
                    "of": len(row["pairs"]),
                }
        else:
            raise EngineError(f"There is no task {name!r}.")

    def _duel(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        one, other = row["roles"][:2]
        for i in range(row["n"]):
            prompt = (row["prompts"] or [f"What is {i} plus 1?"])[i % max(1, len(row["prompts"]))]
            pair = {"prompt": prompt, "a": f"{one} {i}", "b": f"{other} {i}", "ended": [True, True]}
            yield {"done": i, "of": row["n"]}
            yield {"pairs": [{"comparison": pair, "source": {"a": one, "b": other, "by": "duel"}}], "alike": 0,
                   "done": i + 1, "of": row["n"]}  # fmt: skip
