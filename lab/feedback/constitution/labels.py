"""Which of two answers keeps to the constitution: labels by a judge, principle by principle, in both orders.

    p_k = the judge's probability that a keeps to principle k better, both orders averaged (`lab.feedback.judging`)
    p   = Σ_k w_k p_k / Σ_k w_k over the principles drawn for the comparison, w_k = 1

As a choice, p becomes 1, 0 or ½: with programs for judges, which say 1 for the answer that does not break a principle
the other one breaks, that is the answer with fewer broken principles. A judge that thinks before it answers is surer
than it should be; its labels are clamped to [0.4, 0.6].

Source: Bai et al. 2022, "Constitutional AI", section 4.1 (a principle a comparison; the clamp, with chain of thought
alone); Lee et al. 2023, "RLAIF" (both orders).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lab.feedback.constitution.chain import read_lines
from lab.feedback.constitution.critics import Rules, Task
from lab.feedback.constitution.principles import Constitution, Principle
from lab.feedback.judging import Judge, Opinion, judge
from lab.records import Comparison, Message, Preference, Prompt, completion_text, digest

CLAMP = (0.4, 0.6)
"""Where labels end that a chain of thought came before."""

JudgeOf = Callable[[Principle], Judge]
"""A principle → the judge who applies it."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the judge said of one principle: `ab` and `ba` the probability that the first shown is the better one in
    either order, None where there was no answer."""

    principle: str
    ab: float | None
    ba: float | None

    @property
    def p(self) -> float | None:
        """The probability that a is the better one, both orders averaged."""
        return None if self.ab is None or self.ba is None else (self.ab + 1 - self.ba) / 2


@dataclass(frozen=True, slots=True)
class Labelled:
    """A comparison with what was said of it, and the label: the probability that a is the better one, or None."""

    comparison: Comparison
    said: tuple[Said, ...]
    p: float | None
    annotator: str = ""

    def preference(self) -> Preference | None:
        """The label as a preference; None for a tie and for no answer."""
        c = self.comparison
        if self.p is None or self.p == 0.5:
            return None
        chosen, rejected = (c.a, c.b) if self.p > 0.5 else (c.b, c.a)
        return Preference(c.prompt, chosen, rejected, annotator=self.annotator, label=max(self.p, 1 - self.p))


@dataclass(frozen=True)
class RuleJudge:
    """A program as a judge of one principle: 1 where only the second answer breaks it, 0 where only the first does.

    slips : share of the looks at a comparison in which it names the other answer. A look has one order, so the same
            comparison may be misread in one order and not in the other
    """

    rules: Rules
    principle: Principle
    slips: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.rules.name}:{self.principle.id}"

    def ask(self, comparisons: Sequence[Comparison]) -> list[Opinion]:
        """What it says of every comparison. Raises CriticError with prompt and answer where a program raises."""
        return [self._one(c) for c in comparisons]

    def _one(self, c: Comparison) -> Opinion:
        breaks = [self.rules.violated(Task(c.prompt, completion_text(y), self.principle)) for y in (c.a, c.b)]
        if breaks[0] == breaks[1]:
            return Opinion(0.5, "both break it" if breaks[0] else "neither breaks it")
        p = float(breaks[1])
        if self.slips and self._noise(c) < self.slips:
            p = 1 - p
        return Opinion(p, "the second breaks it" if p else "the first breaks it")

    def _noise(self, c: Comparison) -> float:
        """Uniform in [0, 1), the same whenever this comparison is shown in this order."""
        said = digest([self.seed, self.principle.id, c.id, completion_text(c.a), completion_text(c.b)])
        return int(said, 16) / 16**16


def label(
    comparisons: Sequence[Comparison],
    constitution: Constitution,
    judge_of: JudgeOf,
    *,
    draw: int = 1,
    soft: bool = False,
    chain_of_thought: bool = False,
    annotator: str = "constitution",
    seed: int = 0,
) -> list[Labelled]:
    """Labels comparisons, each by `draw` principles drawn by weight (0: by all that are on, each with its weight).

    soft             : keep p as it is; otherwise it becomes 1, 0 or ½
    chain_of_thought : whether the judge thinks before it answers; then p is clamped to [0.4, 0.6]

    What a principle's judge cannot answer is left out of the mean; p is None where nothing is left.
    """
    active = constitution.active
    drawn = [active if not draw else constitution.draw(min(draw, len(active)), seed, i)
             for i in range(len(comparisons))]  # fmt: skip
    said: list[dict[str, Said]] = [{} for _ in comparisons]
    for principle in active:
        mine = [i for i, d in enumerate(drawn) if principle in d]
        if mine:
            for i, j in zip(mine, judge(judge_of(principle), [comparisons[i] for i in mine], soft=True), strict=True):
                said[i][principle.id] = Said(principle.id, j.ab.p, j.ba.p)
    weights = {p.id: p.weight if not draw else 1.0 for p in active}
    out = []
    for c, d, s in zip(comparisons, drawn, said, strict=True):
        kept = tuple(s[p.id] for p in d)
        out.append(Labelled(c, kept, _label(kept, weights, soft, chain_of_thought), annotator))
    return out


def _label(said: Sequence[Said], weights: dict[str, float], soft: bool, chain_of_thought: bool) -> float | None:
    p = together(said, weights)
    if p is None:
        return None
    if not soft:
        p = 0.5 if abs(p - 0.5) < 1e-12 else float(p > 0.5)
    return min(max(p, CLAMP[0]), CLAMP[1]) if chain_of_thought else p


def together(said: Sequence[Said], weights: dict[str, float], leave: str = "") -> float | None:
    """Σ w p / Σ w over the principles that were answered, but for one that is left out; None where none is left."""
    known = [(weights[s.principle], s.p) for s in said if s.p is not None and s.principle != leave]
    return sum(w * p for w, p in known) / sum(w for w, _ in known) if known else None


def preferences(labelled: Sequence[Labelled], helpful: Callable[[Comparison], Preference] | None = None
                ) -> list[Preference]:  # fmt: skip
    """The labels as preferences. Where the constitution sees no difference, `helpful` decides (None: left out): the
    mixture of harmlessness by AI and helpfulness by people of the paper."""
    made = (x.preference() or (helpful(x.comparison) if helpful else None) for x in labelled)
    return [p for p in made if p is not None]


class Habit(NamedTuple):
    """How one principle worked. A share is None where there was nothing to take it of.

    asked     : comparisons it was drawn for
    fires     : share of those in which it takes a side
    stability : share in which both orders name the same answer, of those in which each names one
    decides   : share of those drawn in which the verdict is another without it
    agreement : share of the comparisons with a known better answer, of those in which it takes a side, with that side
    """

    principle: str
    asked: int
    fires: float | None
    stability: float | None
    decides: float | None
    agreement: float | None


def report(
    labelled: Sequence[Labelled],
    constitution: Constitution,
    truth: Sequence[float | None] | None = None,
    *,
    weighted: bool = False,
) -> list[Habit]:
    """How each principle worked.

    truth    : for every comparison the probability that a is the better one by people or by gold; ½ or None: not known
    weighted : whether the principles were weighed (`draw=0`)
    """
    weights = {p.id: p.weight if weighted else 1.0 for p in constitution.principles}
    known = truth if truth is not None else [None] * len(labelled)
    return [_habit(p.id, labelled, known, weights) for p in constitution.active]


def _habit(id: str, labelled: Sequence[Labelled], truth: Sequence[float | None], weights: dict[str, float]) -> Habit:
    mine = [(x, s, t) for x, t in zip(labelled, truth, strict=True) for s in x.said if s.principle == id]
    answered = [(x, s.p, t) for x, s, t in mine if s.p is not None]
    sides = [(s.ab - 0.5) * (s.ba - 0.5) for _, s, _ in mine if s.ab not in (None, 0.5) and s.ba not in (None, 0.5)]
    right = [side(p) == side(t) for _, p, t in answered if side(p) and side(t)]
    moved = [side(together(x.said, weights)) != side(together(x.said, weights, id)) for x, _, _ in answered]
    return Habit(id, len(mine), _share([p != 0.5 for _, p, _ in answered]), _share([s < 0 for s in sides]),
                 _share(moved), _share(right))  # fmt: skip


def side(p: float | None) -> int:
    """+1 for a, −1 for b, 0 for a tie or no answer."""
    return 0 if p is None or abs(p - 0.5) < 1e-12 else 1 if p > 0.5 else -1


def _share(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def read_labelled(path: Path | str) -> list[Labelled]:
    """Labels as `lab.data.write_jsonl` wrote them. Raises DataError with the line of one that cannot be read."""
    return read_lines(path, _labelled, "labelled comparison")


def _labelled(value: dict[str, Any]) -> Labelled:
    c = value["comparison"]
    found = Comparison(_prompt(c["prompt"]), _prompt(c["a"]), _prompt(c["b"]), (c["ended"][0], c["ended"][1]))
    return Labelled(found, tuple(Said(**s) for s in value["said"]), value["p"], value["annotator"])


def _prompt(value: Any) -> Prompt:
    return value if isinstance(value, str) else tuple(Message(m["role"], m["content"]) for m in value)
