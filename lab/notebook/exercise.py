"""Exercises: an answer written in a notebook against the cases it must get right, each with the reason it is asked.

check(my_loss, [Case((2.0, 0.1), 9.0, "the target is 1 / (2β) = 5 nats")], "IPO")
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lab.notebook import cards

MISTAKES = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, RuntimeError,
            TypeError, ValueError, re.error)  # fmt: skip
"""What code that somebody is still writing may raise: it is shown, not raised."""


@dataclass(frozen=True, slots=True)
class Case:
    """Arguments of the answer, what it must give, and why: the words that are shown where it does not."""

    given: tuple[Any, ...]
    wanted: Any
    why: str


@dataclass(frozen=True, slots=True)
class Mark:
    """What became of one case. `seen` is what the answer gave, or the sentence of the error it raised."""

    case: Case
    seen: Any
    right: bool


@dataclass(frozen=True)
class Marks:
    """What became of every case of an exercise."""

    title: str
    marks: tuple[Mark, ...]

    @property
    def right(self) -> bool:
        """Whether every case came out as wanted."""
        return all(mark.right for mark in self.marks)

    @property
    def sentence(self) -> str:
        """How far it is."""
        done, of = sum(mark.right for mark in self.marks), len(self.marks)
        return "all cases are right" if self.right else f"{done} of {of} cases are right"

    def _repr_html_(self) -> str:
        body = []
        for m in self.marks:
            colour, sign = (cards.GOOD, "✓") if m.right else (cards.BAD, "✗")
            why = "" if m.right else escape(m.case.why)
            given = escape(_listed(m.case.given))
            body.append((f'<b style="color:{colour}">{sign}</b> {given}', escape(_shown(m.seen)),
                         escape(_shown(m.case.wanted)), why))  # fmt: skip
        return cards.table(("given", "yours", "wanted", "why"), body, f"{self.title}: {self.sentence}")

    def __repr__(self) -> str:
        lines = [f"{self.title}: {self.sentence}"]
        for m in self.marks:
            wrong = "" if m.right else f", wanted {_shown(m.case.wanted)}: {m.case.why}"
            lines.append(f"{'✓' if m.right else '✗'} {_listed(m.case.given)} → {_shown(m.seen)}{wrong}")
        return "\n".join(lines)


def check(
    answer: Callable[..., Any], cases: Sequence[Case], title: str = "your answer", tolerance: float = 1e-3
) -> Marks:
    """Asks an answer every case. Numbers may be off by `tolerance` · max(1, |wanted|); all else must be equal.

    An error is a wrong answer to its case, and its sentence is shown.
    """
    return Marks(title, tuple(_marked(answer, case, tolerance) for case in cases))


def _marked(answer: Callable[..., Any], case: Case, tolerance: float) -> Mark:
    try:
        seen = answer(*case.given)
        if hasattr(seen, "item"):  # a tensor or an array of one number
            seen = seen.item()
        return Mark(case, seen, _equal(seen, case.wanted, tolerance))
    except MISTAKES as error:
        return Mark(case, f"{type(error).__name__}: {error}", False)


def _equal(seen: Any, wanted: Any, tolerance: float) -> bool:
    if _is_number(seen) and _is_number(wanted):
        return bool(abs(seen - wanted) <= tolerance * max(1.0, abs(wanted)))
    return type(seen) is type(wanted) and seen == wanted


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _listed(given: tuple[Any, ...]) -> str:
    return " · ".join(map(_shown, given))


def _shown(x: Any) -> str:
    return f"{x:.4g}" if isinstance(x, float) else "“”" if x == "" else str(x)
