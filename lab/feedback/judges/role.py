"""A role of the shared base as a judge: how probable it finds each of the labels it may answer with.

    P(label_i) ∝ Σ_spellings Π_t p(token_t | text, tokens before)

A label is scored by all its tokens, with and without a space before it where the tokenizer tells these apart; all
labels of all texts go through the base packed, each text once. Where the tokens of one label begin another's (1 and 1 0
in a tokenizer of single digits), what belongs to the longer one is taken off the shorter one's probability.

Two labels judge a comparison, p = P(A) / (P(A) + P(B)). Ten score one answer by its expected score, from −1 to 1:

    r = (Σ_s s P(s) − 5.5) / 4.5

Source: Bai et al. 2022, "Constitutional AI" (labels by log-probability); Lee et al. 2023, "RLAIF" (direct RLAIF).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lab.base import RAW, SharedBase
from lab.feedback.judges.wording import ONE_LETTER, ONE_TO_TEN, Wording
from lab.feedback.judging import JudgeError, Opinion
from lab.records import Comparison, Completion, Prompt, Rollout
from lab.score import score

TEXTS_AT_ONCE = 64
"""Texts tokenised and scored together; `score` parts them further by tokens."""

Ids = tuple[int, ...]


class Choice(NamedTuple):
    """What a role would answer to each text, of some labels.

    shares : (B, L) float64 probabilities of the labels, which add up to 1; a row of NaN where the text is too long
    mass   : (B,) how much of all it might say begins with a label
    """

    shares: Tensor
    mass: Tensor


def choose(base: SharedBase, role: str, texts: Sequence[str], wording: Wording) -> Choice:
    """P(label | text) for every text under a role.

    Raises JudgeError where the tokenizer writes two labels alike or knows one of them only as unknown, RoleError for a
    role that does not exist.
    """
    if role != RAW:
        base.role(role)
    labels = spellings(base, wording)
    logs = [_chunk(base, role, texts[at : at + TEXTS_AT_ONCE], wording, labels)
            for at in range(0, len(texts), TEXTS_AT_ONCE)]  # fmt: skip
    logp = torch.cat(logs) if logs else torch.zeros(0, len(labels), dtype=torch.float64)
    return Choice(torch.softmax(logp, dim=1), torch.logsumexp(logp, dim=1).exp())


def spellings(base: SharedBase, wording: Wording) -> list[tuple[Ids, ...]]:
    """The tokens of every label, with and without a space before it, each once; the same after every text, because
    no token crosses from the prompt into the answer. Raises JudgeError as `choose` does."""
    prompt, unknown = wording.as_prompt(base.chat, "?"), base.chat.tokenizer.unk_token_id
    end = base.chat.split(prompt, "")[1]
    out: list[tuple[Ids, ...]] = []
    seen: dict[Ids, int] = {}
    for j, label in enumerate(wording.labels):
        rows = [base.chat.split(prompt, text)[1] for text in (label, f" {label}")]
        spelled = tuple(dict.fromkeys(tuple(ids[: len(ids) - len(end)]) for ids in rows))
        if any(not ids or unknown in ids or seen.setdefault(ids, j) != j for ids in spelled):
            raise JudgeError(f"This model's tokenizer does not tell the label {label!r} from other words, so its "
                             "probability cannot be read; give the judge labels that the tokenizer knows (now: "
                             f"{', '.join(wording.labels)}).")  # fmt: skip
        out.append(spelled)
    return out


def _chunk(
    base: SharedBase, role: str, texts: Sequence[str], wording: Wording, labels: list[tuple[Ids, ...]]
) -> Tensor:
    """(B, L) log P(label | text), NaN where a text with its longest label does not fit the window."""
    prompts = [tuple(base.chat.encode_prompt(wording.as_prompt(base.chat, text))) for text in texts]
    every = [(j, ids) for j, spelled in enumerate(labels) for ids in spelled]
    longest = max(len(ids) for _, ids in every)
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) + longest <= base.window]
    pairs = [(prompts[i], ids) for i in fits for _, ids in every]
    out = torch.full((len(texts), len(labels)), torch.nan, dtype=torch.float64)
    if pairs:
        sums = score(base, pairs, {role: "logprobs"})[role].double().sum(1).cpu().view(len(fits), len(every))
        alone = torch.stack([_alone(k, every, sums) for k in range(len(every))], dim=1)
        for j in range(len(labels)):
            out[fits, j] = torch.logsumexp(alone[:, [k for k, (of, _) in enumerate(every) if of == j]], dim=1)
    return out


def _alone(k: int, every: Sequence[tuple[int, Ids]], sums: Tensor) -> Tensor:
    """(B,) the log of the probability that spelling k is said and no other label's goes on from it: log(p − Σ p')."""
    label, ids = every[k]
    longer = [m for m, (of, other) in enumerate(every) if of != label and len(other) > len(ids)
              and other[: len(ids)] == ids]  # fmt: skip
    if not longer:
        return sums[:, k]
    rest = torch.logsumexp(sums[:, longer], dim=1) - sums[:, k]
    return sums[:, k] + torch.log1p(-rest.clamp(max=0.0).exp())


TOO_LONG = "the question with both answers is longer than the model's window"


@dataclass(frozen=True)
class RoleJudge:
    """A role that is asked for one of two labels and judged by their probabilities; nothing is sampled.

    wording : how it is asked, and the two labels
    least   : how much of all it might say must begin with a label, in [0, 1]; below, it has given no answer
    called  : its name among annotators; empty: the role's
    """

    base: SharedBase
    role: str = RAW
    wording: Wording = ONE_LETTER
    least: float = 0.0
    called: str = ""

    @property
    def name(self) -> str:
        return self.called or self.role

    def ask(self, comparisons: Sequence[Comparison]) -> list[Opinion]:
        """How surely the first is the better one, for every comparison. Errors as in `choose`."""
        found = choose(self.base, self.role, [self.wording.compare(c) for c in comparisons], self.wording)
        return [_opinion(p, m, self.least) for p, m in zip(found.shares[:, 0].tolist(), found.mass.tolist(),
                                                           strict=True)]  # fmt: skip


def _opinion(p: float, mass: float, least: float) -> Opinion:
    if mass != mass:
        return Opinion(None, TOO_LONG)
    if mass < least or mass == 0:
        return Opinion(None, f"only {mass:.2%} of what it might say is one of the labels")
    return Opinion(p)


@dataclass(frozen=True)
class Scorer:
    """A role that is asked for a whole number and read by its expected value: a reward without a reward model.

    With `Term("judge", many=scorer)` it is one of the `Rewards` of a run (direct RLAIF).
    """

    base: SharedBase
    role: str = RAW
    wording: Wording = ONE_TO_TEN

    def shares(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        """(B, L) float64 probability of each score; a row of NaN where the text is too long."""
        texts = [self.wording.single(x, y) for x, y in zip(prompts, completions, strict=True)]
        return choose(self.base, self.role, texts, self.wording).shares

    def expected(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        """(B,) float64 Σ_s s P(s), in the unit of the labels: 1 to 10."""
        return self.shares(prompts, completions) @ self._levels

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """The expected scores, rescaled to [−1, 1]. Raises JudgeError for a text longer than the window."""
        levels = self._levels
        middle, half = (levels.max() + levels.min()) / 2, (levels.max() - levels.min()) / 2
        rewards = (self.expected([r.prompt for r in rollouts], [r.completion for r in rollouts]) - middle) / half
        for rollout, value in zip(rollouts, rewards.tolist(), strict=True):
            if value != value:
                raise JudgeError(f"The text to score is longer than the {self.base.window} tokens of the judge's "
                                 f"window (completion: {rollout.completion[:80]!r}); sample shorter ones.")  # fmt: skip
        return rewards.tolist()

    @property
    def _levels(self) -> Tensor:
        """(L,) the labels as numbers."""
        return torch.tensor([float(label) for label in self.wording.labels], dtype=torch.float64)
