"""Several roles on the same held-out prompts with the same noise: one row of figures each.

Intervals are 95 % and treat the prompts as the sample. A win rate compares two roles on the same prompt by the true
score, ties counted half: (wins + ties / 2) / n; its interval is that of the mean of {0, ½, 1}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
from scipy.stats import norm

from lab.base import SharedBase
from lab.probes import Gold
from lab.records import Prompt, Rollout, prompt_text
from lab.sample import sample
from lab.score import score

Z95 = float(norm.ppf(0.975))
ROWS_AT_ONCE = 256
"""Completions sampled together."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its 95 % interval over n prompts."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Row:
    """One role's figures. `kl` is the summed k1 per completion to the reference, nats; `length` counts tokens.

    `proxy` is None where no reward model scored the answers.
    """

    role: str
    gold: Figure
    proxy: Figure | None
    kl: Figure
    length: float
    ended: float
    win_rate: Figure | None


def figure(values: Sequence[float] | np.ndarray, groups: Sequence[int] | None = None) -> Figure:
    """Mean and normal interval: mean ± 1.96 s / √n, s with n − 1.

    `groups` says which values belong together (several of one prompt), G of them; the error of the mean is then
    √(G / (G − 1) · Σ_g (Σ_{i ∈ g} (x_i − mean))²) / n, which is the same where every group holds one value.
    Source: Liang & Zeger 1986, the sandwich estimator for clusters.
    """
    x = np.asarray(values, dtype=np.float64)
    sums = np.bincount(np.unique(np.arange(len(x)) if groups is None else groups, return_inverse=True)[1], x - x.mean())
    g = len(sums)
    half = Z95 * sqrt(g / (g - 1) * float((sums**2).sum())) / len(x) if g > 1 else float("inf")
    return Figure(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))


def win_rate(mine: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Share of prompts on which `mine` scores higher, ties counted half."""
    gap = np.sign(np.asarray(mine, dtype=np.float64) - np.asarray(theirs, dtype=np.float64))
    return figure((gap + 1) / 2)


def compare_roles(
    base: SharedBase,
    prompts: Sequence[Prompt],
    roles: Mapping[str, str],
    gold: Gold,
    *,
    reward: str | None,
    reference: str,
    max_new_tokens: int,
    against: str = "",
    temperature: float = 1.0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Row]:
    """One row for each of `roles` (shown name -> role on the base), all on the same prompts with the same noise.

    `reward` scores every answer (the proxy; None: nobody does), `reference` is what the KL is measured to, `against`
    (a shown name) is the opponent of the win rate.
    """
    golds: dict[str, list[float]] = {shown: [] for shown in roles}
    figures: dict[str, list[tuple[float, float, float, float]]] = {shown: [] for shown in roles}
    chunk = max(1, ROWS_AT_ONCE // len(roles))
    for at in range(0, len(prompts), chunk):
        part = prompts[at : at + chunk]
        rollouts = sample(
            base, part, tuple(roles.values()), temperature=temperature, max_new_tokens=max_new_tokens, seed=(seed, at)
        )
        for i, (shown, role) in enumerate(roles.items()):
            mine = rollouts[i * len(part) : (i + 1) * len(part)]
            golds[shown] += [gold(prompt_text(r.prompt), r.completion, r.ended).score for r in mine]
            figures[shown] += _measure(base, mine, role, reward, reference, temperature)
        on_progress(min(at + chunk, len(prompts)), len(prompts))
    rows = []
    for shown in roles:
        proxy, kl, length, ended = (np.array(column) for column in zip(*figures[shown], strict=True))
        opponent = win_rate(golds[shown], golds[against]) if against and against != shown else None
        rows.append(Row(shown, figure(golds[shown]), figure(proxy) if reward else None, figure(kl),
                        float(length.mean()), float(ended.mean()), opponent))  # fmt: skip
    return rows


def reward_accuracy(
    base: SharedBase,
    prompts: Sequence[Prompt],
    role: str,
    reward: str,
    gold: Gold,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    pairs: int = 1,
) -> Figure:
    """How often a reward model ranks two answers of `role` as the true score does, over pairs the truth tells apart.

    `pairs` pairs of two answers to every prompt, none in two pairs; a tie of rewards is half right; answers that did
    not end are left out, because a reward model reads the end token. The interval takes the prompts as the sample.
    """
    right: list[float] = []
    of: list[int] = []
    chunk = max(1, ROWS_AT_ONCE // (2 * pairs))
    for at in range(0, len(prompts), chunk):
        part = prompts[at : at + chunk]
        rollouts = sample(
            base,
            part,
            (role,),
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=(seed, at, 2),
            per_prompt=2 * pairs,
        )
        rewards = score(base, [(r.prompt_ids, r.completion_ids) for r in rollouts], {reward: "reward"})[reward].tolist()
        truth = [gold(prompt_text(r.prompt), r.completion, r.ended).score for r in rollouts]
        for i in range(0, len(rollouts), 2):
            if truth[i] != truth[i + 1] and rollouts[i].ended and rollouts[i + 1].ended:
                agree = np.sign(rewards[i] - rewards[i + 1]) * np.sign(truth[i] - truth[i + 1])
                right.append((float(agree) + 1) / 2)
                of.append(at + i // (2 * pairs))
    return figure(right, of)


def _measure(
    base: SharedBase, rollouts: Sequence[Rollout], role: str, reward: str | None, reference: str, temperature: float
) -> list[tuple[float, float, float, float]]:
    """(proxy, KL, length, ended) of every rollout of one role; the proxy is NaN where nobody scores."""
    pairs = [(r.prompt_ids, r.completion_ids) for r in rollouts]
    want = {role: "logprobs", reference: "logprobs"} | ({reward: "reward"} if reward else {})
    known = score(base, pairs, want, temperature)
    kl = (known[role] - known[reference]).sum(1)
    proxy = known[reward].tolist() if reward else [nan] * len(rollouts)
    return [(proxy[i], float(kl[i]), float(len(r.completion_ids)), float(r.ended)) for i, r in enumerate(rollouts)]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table as JSON-able values."""
    return [asdict(row) for row in rows]
