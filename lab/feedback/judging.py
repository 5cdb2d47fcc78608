"""Verdicts from anything that can be asked which of two completions is better, in both orders.

    p = (p_ab + 1 − p_ba) / 2

where p_ab is how surely the first is said to be better when a stands first, and p_ba when b does. A judge that looks at
the place instead of the text says 1 both times, and p is ½. Measured on the way:

    position bias   mean of (p_ab + p_ba) / 2 − ½: above 0 it favours what stands first
    consistency     share of the comparisons in which both orders name the same completion

Source: Zheng et al. 2023, "Judging LLM-as-a-Judge"; Bai et al. 2022, "Constitutional AI" (both orders averaged).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from lab.records import Comparison, Preference, Verdict


class JudgeError(ValueError):
    """A judge that cannot be asked, with the reason and what to do."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge said of a comparison in the order it was shown.

    p      : the probability in [0, 1] that the first is the better one, ½ a tie; None where it gave no usable answer
    why    : its words, or what was wrong with them
    tokens : read and written, where that costs something
    """

    p: float | None
    why: str = ""
    tokens: tuple[int, int] = (0, 0)


class Judge(Protocol):
    """Anything that can be asked which of two completions is better. It sees them in one order at a time."""

    @property
    def name(self) -> str: ...
    def ask(self, comparisons: Sequence[Comparison]) -> Sequence[Opinion]: ...


@dataclass(frozen=True, slots=True)
class Judged:
    """A comparison with the verdict of both orders together: `ab` as it stands, `ba` with b shown first."""

    comparison: Comparison
    verdict: Verdict
    ab: Opinion
    ba: Opinion

    @property
    def flipped(self) -> bool:
        """Whether the two orders name different completions."""
        return self.ab.p is not None and self.ba.p is not None and (self.ab.p - 0.5) * (self.ba.p - 0.5) > 0


class Habits(NamedTuple):
    """How a judge judged `asked` comparisons. A share is None where there was nothing to take it of.

    unanswered    : comparisons without a usable answer in one order or both
    position_bias : in [−½, ½]; above 0 it favours what stands first
    consistency   : share of comparisons in which both orders name the same completion, of those where each names one
    ties          : share of the answered comparisons with p = ½
    tokens        : read and written, in all
    """

    asked: int
    unanswered: int
    position_bias: float | None
    consistency: float | None
    ties: float | None
    tokens: tuple[int, int]


def judge(who: Judge, comparisons: Sequence[Comparison], *, soft: bool = False) -> list[Judged]:
    """Asks about every comparison in both orders.

    soft : keep p as it is; otherwise it becomes 1, 0, or ½ where the orders disagree or are as sure as each other

    Where an order has no usable answer there is no verdict: its p is None.
    """
    ab, ba = who.ask(comparisons), who.ask([c.swap() for c in comparisons])
    return [Judged(c, _verdict(x, y, who.name, soft), x, y) for c, x, y in zip(comparisons, ab, ba, strict=True)]


def _verdict(ab: Opinion, ba: Opinion, name: str, soft: bool) -> Verdict:
    why = " | ".join(dict.fromkeys(w for w in (ab.why, ba.why) if w))
    if ab.p is None or ba.p is None:
        return Verdict(None, name, why)
    p = (ab.p + 1 - ba.p) / 2
    if not soft:
        flipped = (ab.p - 0.5) * (ba.p - 0.5) > 0
        p = 0.5 if flipped or p == 0.5 else float(p > 0.5)
    return Verdict(p, name, why)


def habits(judged: Sequence[Judged]) -> Habits:
    """How the judge judged: position bias, consistency, ties, what it left open and what it read and wrote."""
    both = [(j.ab.p, j.ba.p) for j in judged if j.ab.p is not None and j.ba.p is not None]
    sides = [(x - 0.5) * (y - 0.5) for x, y in both if x != 0.5 and y != 0.5]
    ties = [j.verdict.p == 0.5 for j in judged if j.verdict.p is not None]
    spent = [o.tokens for j in judged for o in (j.ab, j.ba)]
    return Habits(
        len(judged), len(judged) - len(both),
        sum((x + y) / 2 - 0.5 for x, y in both) / len(both) if both else None,
        sum(side < 0 for side in sides) / len(sides) if sides else None,
        sum(ties) / len(ties) if ties else None,
        (sum(t[0] for t in spent), sum(t[1] for t in spent)),
    )  # fmt: skip


def preferences(judged: Sequence[Judged], *, ties: bool = False) -> list[Preference]:
    """The verdicts as preferences, `label` being how sure they are. No verdict is no preference; a tie is one with
    `ties` only, at ½."""
    out = []
    for j in judged:
        p, c = j.verdict.p, j.comparison
        if p is None or (p == 0.5 and not ties):
            continue
        chosen, rejected = (c.a, c.b) if p >= 0.5 else (c.b, c.a)
        out.append(Preference(c.prompt, chosen, rejected, annotator=j.verdict.annotator, label=max(p, 1 - p)))
    return out
