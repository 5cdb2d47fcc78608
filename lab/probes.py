"""Fixed prompts that a role in training answers at intervals, always with the same noise, so that what changes is the
policy's doing; and what is known about each answer: reward, true score where there is one, log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from lab.base import SharedBase
from lab.events import Sample
from lab.pack import Row
from lab.records import Prompt, Rollout, prompt_text
from lab.sample import sample
from lab.score import score, token_scores, token_values

SEED = 20_26
"""Of the noise behind every probe answer."""


class Judged(Protocol):
    """A true score with its itemised reasons, as the tiny world's gold gives it."""

    @property
    def score(self) -> float: ...
    @property
    def reasons(self) -> tuple[tuple[str, float], ...]: ...


Gold = Callable[[str, str, bool], Judged]
"""(prompt, completion, ended) -> the true score. Only a world that knows the truth has one."""


@dataclass(frozen=True)
class Probes:
    """What to ask at intervals, and how long an answer may get."""

    prompts: tuple[Prompt, ...] = ()
    max_new_tokens: int = 64
    temperature: float = 1.0
    gold: Gold | None = None


def answer(
    base: SharedBase, probes: Probes, role: str, reference: str | None = None, reward: str | None = None
) -> tuple[Sample, ...]:
    """The probe prompts answered by `role`. With a reference, per-token log-probabilities of both and the summed k1."""
    if not probes.prompts:
        return ()
    rollouts = sample(
        base, probes.prompts, (role,), temperature=probes.temperature, max_new_tokens=probes.max_new_tokens, seed=SEED
    )
    return describe(base, rollouts, probes.gold, reference, reward, probes.temperature)


def describe(
    base: SharedBase,
    rollouts: Sequence[Rollout],
    gold: Gold | None = None,
    reference: str | None = None,
    reward: str | None = None,
    temperature: float = 1.0,
) -> tuple[Sample, ...]:
    """Everything known about some answers, one `Sample` each; the rollouts may come from several roles."""
    pairs = [(r.prompt_ids, r.completion_ids) for r in rollouts]
    want = {name: kind for name, kind in ((reference, "logprobs"), (reward, "reward")) if name is not None}
    known = score(base, pairs, want, temperature=temperature or 1.0) if pairs and want else {}
    own = _own(base, rollouts, temperature)
    out = []
    for i, rollout in enumerate(rollouts):
        n = len(rollout.completion_ids)
        logprobs = own[i, :n].tolist()
        before = known[reference][i, :n].tolist() if reference is not None else []
        judged = gold(prompt_text(rollout.prompt), rollout.completion, rollout.ended) if gold else None
        out.append(
            Sample(
                prompt=prompt_text(rollout.prompt),
                completion=rollout.completion,
                ended=rollout.ended,
                reward=float(known[reward][i]) if reward is not None else None,
                gold=judged.score if judged else None,
                reasons=tuple(judged.reasons) if judged else (),
                kl=sum(logprobs) - sum(before) if reference is not None else None,
                tokens=pieces(base, rollout.completion_ids),
                logprobs=tuple(logprobs),
                reference=tuple(before),
            )
        )
    return tuple(out)


class Inside(NamedTuple):
    """What a model holds inside one answer, a number a token.

    entropy : (T,) of the distribution each token was drawn from, nats
    earned  : (T,) what the reward head reads after each token, were the answer to end there; () without a reward
    """

    entropy: tuple[float, ...]
    earned: tuple[float, ...]


@torch.no_grad()
def inside(base: SharedBase, rollout: Rollout, reward: str | None = None, temperature: float = 1.0) -> Inside:
    """The entropies and the running reward of one answer, in one pass.

    A reward model is trained on whole answers only: what it reads in the middle shows where its mind changes, and is
    no judgement of an answer that somebody gave.
    """
    prompt, completion = rollout.prompt_ids, rollout.completion_ids
    if not completion:
        return Inside((), ())
    # The head reads the state before a token; one token more, and it reads the state after the last.
    rows = [Row(rollout.role, prompt, completion), *([Row(reward, prompt, (*completion, 0))] if reward else [])]
    packed = base.pack(rows)
    hidden = base.forward(packed)
    entropy = token_scores(base, hidden, packed, 0, 1, temperature or 1.0).entropy[0].tolist()
    earned = token_values(base, reward, hidden, packed, 1, 2)[0, 1:].tolist() if reward else []
    return Inside(tuple(entropy), tuple(earned))


def pieces(base: SharedBase, ids: Sequence[int]) -> tuple[str, ...]:
    """What each token adds to the text; together they are the whole text, the end token's own name included."""
    decode = base.chat.tokenizer.decode
    texts = [decode(list(ids[: k + 1]), skip_special_tokens=False) for k in range(len(ids))]
    before = ["", *texts]
    return tuple(
        text[len(old) :] if text.startswith(old) else text[-1:] for old, text in zip(before, texts, strict=False)
    )


def _own(base: SharedBase, rollouts: Sequence[Rollout], temperature: float) -> torch.Tensor:
    """(B, T) log-probabilities of every rollout under the role that drew it."""
    width = max((len(r.completion_ids) for r in rollouts), default=0)
    out = torch.zeros(len(rollouts), width)
    for role in dict.fromkeys(r.role for r in rollouts):
        rows = [i for i, r in enumerate(rollouts) if r.role == role]
        scored = score(
            base,
            [(rollouts[i].prompt_ids, rollouts[i].completion_ids) for i in rows],
            {role: "logprobs"},
            temperature=temperature or 1.0,
        )[role]
        out[rows, : scored.shape[1]] = scored.cpu()
    return out
