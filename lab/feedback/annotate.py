"""Comparisons of a role's own answers, judged by a simulated annotator: the data a reward model learns from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from lab.base import SharedBase
from lab.records import Preference, Prompt, Rollout, prompt_text
from lab.sample import sample

ROWS_AT_ONCE = 256
"""Completions sampled together."""


class Prefers(Protocol):
    """Anybody who chooses the better of two answers; each is (completion, ended)."""

    @property
    def name(self) -> str: ...
    def prefer(self, prompt: str, a: tuple[str, bool], b: tuple[str, bool],
               rng: np.random.Generator) -> Literal["a", "b"]: ...  # fmt: skip


class Comparisons(NamedTuple):
    """Judged pairs, and how many were not shown: pairs of equal answers, and answers that did not end."""

    preferences: list[Preference]
    equal: int
    unended: int


def compare(
    base: SharedBase,
    role: str,
    prompts: Sequence[Prompt],
    annotator: Prefers,
    n: int,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    per_prompt: int = 2,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Comparisons:
    """Samples `per_prompt` answers to each prompt from `role`, round after round, until `n` pairs are judged.

    Each prompt gives up to per_prompt · (per_prompt − 1) / 2 pairs a round. Few pairs of many prompts teach a reward
    model more than many pairs of few: the same answer in several pairs is soon known by heart. Equal answers are not
    shown; answers that did not end are not either, because a reward model reads the end token. Stops early, with fewer
    pairs, when a whole round gives none.
    """
    rng = np.random.default_rng([seed, 7])
    out = Comparisons([], 0, 0)
    chunk = max(1, ROWS_AT_ONCE // per_prompt)
    for round_ in itertools.count():
        before = len(out.preferences)
        order = [prompts[i] for i in np.random.default_rng([seed, 8, round_]).permutation(len(prompts))]
        for at in range(0, len(order), chunk):
            rollouts = sample(
                base,
                order[at : at + chunk],
                (role,),
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                seed=(seed, round_, at),
                per_prompt=per_prompt,
            )
            for i in range(0, len(rollouts), per_prompt):
                out = _judge(rollouts[i : i + per_prompt], annotator, rng, out)
            on_progress(min(len(out.preferences), n), n)
            if len(out.preferences) >= n:
                return Comparisons(out.preferences[:n], out.equal, out.unended)
        if len(out.preferences) == before:
            return out
    raise AssertionError("unreachable")


def _judge(
    answers: Sequence[Rollout], annotator: Prefers, rng: np.random.Generator, so_far: Comparisons
) -> Comparisons:
    preferences, equal, unended = so_far
    for j, b in enumerate(answers):
        for a in answers[:j]:
            if not (a.ended and b.ended):
                unended += 1
            elif a.completion == b.completion:
                equal += 1
            else:
                first = annotator.prefer(prompt_text(a.prompt), (a.completion, True), (b.completion, True), rng) == "a"
                chosen, rejected = (a, b) if first else (b, a)
                preferences.append(Preference(a.prompt, chosen.completion, rejected.completion,
                                              annotator=annotator.name))  # fmt: skip
    return Comparisons(preferences, equal, unended)
