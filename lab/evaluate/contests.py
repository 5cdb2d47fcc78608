"""What policies met about: the pairs on which votes are split, and what their answers are really worth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import numpy as np

from lab.evaluate.agreement import Estimate, bootstrap
from lab.evaluate.arena import contestants, score_of
from lab.feedback.labels.rows import prompt_id
from lab.feedback.labels.words import Event, Item
from lab.records import completion_text, prompt_text


class Disputed(NamedTuple):
    """A pair of two policies with its votes, `one` first whatever the store's order."""

    item: str
    prompt: str
    one: str
    other: str
    wins: int
    ties: int
    losses: int


def disputed(items: Iterable[Item], votes: Iterable[Event], one: str, other: str, *,
             annotators: Collection[str] | None = None, n: int = 20) -> list[Disputed]:  # fmt: skip
    """Pairs of two policies that were voted on, the most evenly split first, then those with the most votes."""
    said: dict[str, Counter[float]] = defaultdict(Counter)
    for v in votes:
        if annotators is None or v.annotator in annotators:
            said[v.item][score_of(v)] += 1
    out = []
    for item in items:
        who = contestants(item)
        if item.withdrawn or who is None or set(who) != {one, other} or item.id not in said:
            continue
        c, ends = item.comparison, said[item.id]
        if who == (one, other):
            texts, wins, losses = (c.a, c.b), ends[1.0], ends[0.0]
        else:
            texts, wins, losses = (c.b, c.a), ends[0.0], ends[1.0]
        first, second = map(completion_text, texts)
        out.append(Disputed(item.id, prompt_text(c.prompt), first, second, wins, ends[0.5], losses))
    # |Σ ±1| / n: 0 where as many are for one as for the other
    return sorted(out, key=lambda d: (abs(d.wins - d.losses) / (d.wins + d.ties + d.losses),
                                      -(d.wins + d.ties + d.losses), d.item))[:n]  # fmt: skip


def worth(items: Iterable[Item], score: Callable[[str, str, bool], float]) -> dict[str, Estimate]:
    """The mean true score of each policy's answers in these pairs, each answer once, with intervals over prompts.

    score : (prompt, completion, whether it ended) -> its true score, as in the tiny world
    """
    said: dict[str, dict[tuple[str, str], tuple[str, float]]] = defaultdict(dict)
    for item in items:
        who = contestants(item)
        if who is None or item.withdrawn:
            continue
        c, prompt = item.comparison, prompt_text(item.comparison.prompt)
        for policy, side, ended in zip(who, (c.a, c.b), c.ended, strict=True):
            text = completion_text(side)
            if (prompt, text) not in said[policy]:
                said[policy][prompt, text] = (prompt_id(item), score(prompt, text, ended))
    out = {}
    for policy, answers in said.items():
        prompts, values = zip(*answers.values(), strict=True)
        x = np.array(values)
        out[policy] = bootstrap(lambda at, x=x: float(x[at].mean()), prompts)
    return out
