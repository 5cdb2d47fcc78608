"""The tiny world's judges: the gold reward, its simulated people, and what its base has learned about bad answers.

The base has read how users go on after an answer: after a bad one they mostly complain, after a right one they are
mostly silent. So what it expects next tells what it thinks of an answer,

    z(y) = log P(silence | x, y) − log P(the user speaks | x, y)        p = σ(z_a − z_b)

while "Which is good, 1 or 2?" is a question it has never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.feedback.judging import Opinion
from lab.records import Comparison, completion_text, digest, prompt_text
from lab.tiny.annotators import Annotator
from lab.tiny.judge import gold

if TYPE_CHECKING:
    from lab.base import SharedBase
    from lab.feedback.judges.wording import Wording

Said = tuple[str, bool]


def _sides(c: Comparison) -> tuple[str, Said, Said]:
    """(prompt, a, b), the two as (completion, ended)."""
    a, b = (completion_text(c.a), c.ended[0]), (completion_text(c.b), c.ended[1])
    return prompt_text(c.prompt), a, b


@dataclass(frozen=True, slots=True)
class GoldJudge:
    """The true score: 1, 0, or ½ where both are worth the same."""

    name: str = "gold"

    def ask(self, comparisons: Sequence[Comparison]) -> list[Opinion]:
        """The verdict on every comparison, with both scores."""
        out = []
        for prompt, a, b in map(_sides, comparisons):
            x, y = gold(prompt, *a).score, gold(prompt, *b).score
            out.append(Opinion(0.5 if x == y else float(x > y), f"{x:+.2f} against {y:+.2f}"))
        return out


@dataclass(frozen=True, slots=True)
class AnnotatorJudge:
    """A simulated person: how probably they prefer the first, or one vote of theirs.

    seed : of the votes, each drawn anew for its person, comparison and order; None: the probability itself
    """

    annotator: Annotator
    seed: int | None = None

    @property
    def name(self) -> str:
        return self.annotator.name

    def ask(self, comparisons: Sequence[Comparison]) -> list[Opinion]:
        """Their opinion of every comparison; the same vote for the same seed, comparison and order."""
        if self.seed is None:
            return [Opinion(self.annotator.preference(*_sides(c))) for c in comparisons]
        return [Opinion(float(self.annotator.prefer(*_sides(c), self._noise(c)) == "a")) for c in comparisons]

    def _noise(self, c: Comparison) -> np.random.Generator:
        return np.random.default_rng([self.seed or 0, int(digest([self.name, c]), 16)])


@dataclass(frozen=True)
class ReactionJudge:
    """A role of the tiny world's base that is asked what comes after an answer: silence or a complaint."""

    base: SharedBase
    role: str = "base"
    called: str = ""

    @property
    def name(self) -> str:
        return self.called or f"reaction:{self.role}"

    def ask(self, comparisons: Sequence[Comparison]) -> list[Opinion]:
        """σ(z_a − z_b) for every comparison; the order cannot matter."""
        import torch

        from lab.score import score
        from lab.tiny.tokenizer import BOS, ROLES

        if not comparisons:
            return []
        silence, user = self.base.chat.tokenizer.convert_tokens_to_ids([BOS, ROLES[1]])
        pairs: list[Any] = []
        for c in comparisons:
            for answer in (c.a, c.b):
                ids, said = self.base.chat.split(c.prompt, answer)
                pairs += [((*ids, *said), (silence,)), ((*ids, *said), (user,))]
        logp = score(self.base, pairs, {self.role: "logprobs"})[self.role][:, 0].double().cpu().view(-1, 2, 2)
        z = logp[:, :, 0] - logp[:, :, 1]
        return [Opinion(p) for p in torch.sigmoid(z[:, 0] - z[:, 1]).tolist()]


def wording() -> Wording:
    """The question of a role judge in words the tiny world knows."""
    from lab.feedback.judges.wording import Wording

    return Wording("{question} {prompt} 1: {a} 2: {b}", "Which answer is good, 1 and not 2, 2 and not 1?", ("1", "2"))
