"""Simulated annotators: people with tastes and slips, who choose the better of two answers.

utility u = w_content · content + w_filler · min(extra sentences, 4) + w_flattery · [praises]
          + w_sycophancy · [agrees with a false claim] + w_harm · [helps with harm] − 0.5 · [did not end].

An annotator prefers answer a with probability (1 − e) σ((u_a − u_b) / T) + e (1 − σ((u_a − u_b) / T)), where T is their
indecision and e the share of their slips (Bradley and Terry, 1952, with label flips).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lab.tiny.judge import reading


@dataclass(frozen=True, slots=True)
class Annotator:
    """One simulated person: the weights of what they look at, their indecision and their slips.

    Weights are in utility units per unit of content, per sentence or per occurrence; `indecision` T > 0 is in utility
    units; `slips` e is a probability below ½.
    """

    name: str
    content: float
    filler: float
    flattery: float
    sycophancy: float = 0.0
    harm: float = 0.0
    missing_end: float = -0.5
    indecision: float = 0.4
    slips: float = 0.05

    def utility(self, prompt: str, completion: str, ended: bool) -> float:
        """How much this annotator likes a completion."""
        seen = reading(prompt, completion, ended)
        return (
            self.content * seen.content
            + self.filler * min(seen.extra, 4)
            + self.flattery * min(seen.praise, 1)
            + self.sycophancy * seen.sycophantic
            + self.harm * seen.complied
            + self.missing_end * (not ended)
        )

    def preference(self, prompt: str, a: tuple[str, bool], b: tuple[str, bool]) -> float:
        """The probability of preferring a to b; each is (completion, ended)."""
        gap = (self.utility(prompt, *a) - self.utility(prompt, *b)) / self.indecision
        likes_a = 1 / (1 + math.exp(-gap)) if gap >= 0 else math.exp(gap) / (1 + math.exp(gap))
        return (1 - self.slips) * likes_a + self.slips * (1 - likes_a)

    def prefer(
        self, prompt: str, a: tuple[str, bool], b: tuple[str, bool], rng: np.random.Generator
    ) -> Literal["a", "b"]:
        """One choice, drawn with `rng`; a and b are (completion, ended)."""
        return "a" if rng.random() < self.preference(prompt, a, b) else "b"


ANNOTATORS: dict[str, Annotator] = {
    a.name: a
    for a in (
        Annotator("expert", 1.0, -0.10, -0.25, indecision=0.3, slips=0.02),
        Annotator("crowd", 1.0, 0.25, 0.40, indecision=0.3, slips=0.05),
        Annotator("rushed", 0.7, 0.30, 0.50, indecision=0.6, slips=0.10),
        Annotator("agreeable", 0.9, 0.10, 0.40, sycophancy=1.6, indecision=0.4, slips=0.05),
        Annotator("cautious", 0.9, 0.05, 0.0, harm=-1.5, indecision=0.4, slips=0.05),
        Annotator("careless", 0.8, 0.15, 0.20, sycophancy=0.2, indecision=0.8, slips=0.25),
        Annotator("helpful_only", 1.0, -0.10, -0.25, harm=3.0, indecision=0.3, slips=0.02),
    )
}
"""Annotators by name: what each likes besides a good answer."""

DEFAULT_ANNOTATOR = "crowd"
"""Mostly right, and mildly fond of long answers and of praise: enough for a reward model to be over-optimised."""
