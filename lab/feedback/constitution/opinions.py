"""What a judge said of comparisons, principle by principle, kept so that nothing is asked twice.

A principle is known by its words, so another weight, another order or another name asks nobody again: only what is
really new does. Each comparison is asked about in both orders.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.feedback.constitution.principles import Principle
from lab.feedback.judging import Judge, Opinion
from lab.records import Comparison, digest


class Opinions:
    """The opinions of one judge. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str], float | None] = {}

    def missing(self, principle: Principle, comparisons: Iterable[Comparison]) -> list[Comparison]:
        """Those of the comparisons on which the judge has not applied this principle yet."""
        words = _words(principle)
        with self._lock:
            return [c for c in comparisons if (words, _shown(c)) not in self._said]

    def keep(self, principle: Principle, comparison: Comparison, ab: float | None, ba: float | None) -> None:
        """What was said: the probability that the first shown keeps better to it, as it stands and exchanged."""
        words = _words(principle)
        with self._lock:
            self._said[words, _shown(comparison)] = ab
            self._said[words, _shown(comparison.swap())] = ba

    def judge_of(self, principle: Principle) -> Judge:
        """The judge that says again what was said; of anything else it gives no answer."""
        return _Remembered(self, principle)

    def said(self, principle: Principle, comparisons: Sequence[Comparison]) -> list[float | None]:
        """What was said of these, in the order in which they are shown; None for no answer, or none yet."""
        words = _words(principle)
        with self._lock:
            return [self._said.get((words, _shown(c))) for c in comparisons]


@dataclass(frozen=True)
class _Remembered:
    opinions: Opinions
    principle: Principle

    @property
    def name(self) -> str:
        return f"remembered:{self.principle.id}"

    def ask(self, comparisons: Sequence[Comparison]) -> list[Opinion]:
        return [Opinion(p) for p in self.opinions.said(self.principle, comparisons)]


def _words(principle: Principle) -> str:
    return digest([principle.text, principle.critique])


def _shown(comparison: Comparison) -> str:
    return digest([comparison.prompt, comparison.a, comparison.b])
