"""Best-of-n: the best of n samples by a reward, and what it is worth by the true score, for many n from one pool.

A *pool* holds N completions of each of P prompts with the reward that chooses (the proxy) and, where it is known, the
true score (gold). From it the worth of best-of-n follows for every n ≤ N, as the mean over all subsets of n samples;
intervals are 95 % and treat the prompts as the sample. Where gold falls while the proxy rises, the proxy is exploited.

The distance to the sampled policy is given twice. ln n − (n − 1) / n is exact where no two samples tie, and too much
otherwise. The other takes the pool for the policy: a completion sampled c times has the probability c / N, equal
rewards tie, and the KL of best-of-n over this list is exact. It needs N well above n: it can never exceed ln N.

Source: Nakano et al. 2021, "WebGPT"; Gao et al. 2023, "Scaling Laws for Reward Model Overoptimization"; Beirami et al.
2024, "Theoretical guarantees on the best-of-n alignment policy"; pass@k: Chen et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lab.base import SharedBase
from lab.evaluate.table import ROWS_AT_ONCE, Figure, figure
from lab.feedback.rewards import Rewards
from lab.objectives import missing_end as without_end
from lab.objectives.selection import best_of, best_of_n_curve, best_of_n_exact_kl, best_of_n_kl, pass_at_k
from lab.probes import Gold
from lab.records import PromptRow, Rollout, prompt_text
from lab.sample import sample
from lab.score import score

PROMPTS_AT_ONCE = 32
"""Prompts whose N² comparisons are held in memory together."""


class PoolError(ValueError):
    """A pool that cannot be made or cannot answer, with the reason."""


@dataclass(frozen=True)
class Pool:
    """N completions of each of P prompts, prompt by prompt.

    proxy (P, N) : what the rewards say, less what a missing end costs
    gold (P, N)  : the true score, or None where nobody knows it
    """

    rollouts: tuple[Rollout, ...]
    proxy: Tensor
    gold: Tensor | None

    def of(self, prompt: int) -> tuple[Rollout, ...]:
        """The completions of one prompt."""
        n = self.proxy.shape[1]
        return self.rollouts[prompt * n : (prompt + 1) * n]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The best of n completions of a prompt: the proxy `reward` took it. `gold` is its true score, where known."""

    rollout: Rollout
    reward: float
    gold: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """Best-of-n for one n. KL in nats: `kl_bound` is ln n − (n − 1) / n, `kl` the one of the pool, ties and all."""

    n: int
    proxy: Figure
    gold: Figure | None
    kl_bound: float
    kl: Figure


@dataclass(frozen=True, slots=True)
class Curve:
    """Best-of-n for growing n, from `samples` completions of each of `prompts` prompts."""

    points: tuple[Point, ...]
    samples: int
    prompts: int

    @property
    def peak(self) -> Point | None:
        """Where gold is highest (the smallest n of those): more samples than that only please the proxy."""
        known = [p for p in self.points if p.gold is not None]
        return max(known, key=lambda p: p.gold.mean if p.gold else 0.0) if known else None


@dataclass(frozen=True, slots=True)
class Passed:
    """The probability that at least one of k samples is right."""

    k: int
    rate: Figure


def pool(
    base: SharedBase,
    prompts: Sequence[PromptRow],
    role: str,
    N: int,
    rewards: Rewards,
    gold: Gold | None = None,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    missing_end: float = 0.0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Pool:
    """Samples N completions of every prompt and scores them.

    missing_end : taken from the reward of a completion that did not end, reward units

    Raises PoolError for no prompt or N < 1.
    """
    if not prompts or N < 1:
        raise PoolError(f"There are {len(prompts)} prompts and {N} samples of each; give at least one of both.")
    rollouts: list[Rollout] = []
    proxy: list[Tensor] = []
    chunk = max(1, ROWS_AT_ONCE // N)
    for at in range(0, len(prompts), chunk):
        part = prompts[at : at + chunk]
        new = sample(base, [p.prompt for p in part], (role,), temperature=temperature, max_new_tokens=max_new_tokens,
                     seed=(seed, at), per_prompt=N)  # fmt: skip
        want = dict.fromkeys(rewards.roles, "reward")
        known = score(base, [(r.prompt_ids, r.completion_ids) for r in new], want) if want else {}
        earned = rewards.earn(new, [p.columns for p in part for _ in range(N)], known).total
        proxy.append(without_end(earned.cpu(), torch.tensor([r.ended for r in new]), missing_end))
        rollouts += new
        on_progress(min(at + chunk, len(prompts)), len(prompts))
    truth = [gold(prompt_text(r.prompt), r.completion, r.ended).score for r in rollouts] if gold else None
    return Pool(
        tuple(rollouts), torch.cat(proxy).view(-1, N), None if truth is None else torch.tensor(truth).view(-1, N)
    )


def best_of_n(
    base: SharedBase, prompts: Sequence[PromptRow], role: str, n: int, rewards: Rewards, **settings: Any
) -> list[Chosen]:
    """The best of n samples of every prompt, in order; among equals the first. Settings and errors as in `pool`."""
    return chosen(pool(base, prompts, role, n, rewards, **settings))


def chosen(found: Pool) -> list[Chosen]:
    """The completion of each prompt that the proxy takes; among equals the first."""
    out = []
    for i, j in enumerate(best_of(found.proxy).tolist()):
        gold = None if found.gold is None else float(found.gold[i, j])
        out.append(Chosen(found.of(i)[j], float(found.proxy[i, j]), gold))
    return out


def curve(found: Pool, ns: Sequence[int] | None = None) -> Curve:
    """What best-of-n is worth for every n (powers of two up to N, and N), without bias.

    Raises ValueError for an n outside [1, N].
    """
    P, N = found.proxy.shape
    ns = [*(1 << i for i in range(N.bit_length()) if 1 << i < N), N] if ns is None else ns
    proxy = _worth(found.proxy, found.proxy, ns)
    gold = None if found.gold is None else _worth(found.proxy, found.gold, ns)
    outcomes = list(_outcomes(found))
    points = []
    for i, n in enumerate(ns):
        kl = figure([best_of_n_exact_kl(p, scores, n) for p, scores in outcomes])
        truth = None if gold is None else figure(gold[:, i].numpy())
        points.append(Point(n, figure(proxy[:, i].numpy()), truth, best_of_n_kl(n), kl))
    return Curve(tuple(points), N, P)


def pass_rates(found: Pool, ks: Sequence[int] | None = None, right: float = 1.0) -> tuple[Passed, ...]:
    """pass@k for every k (powers of two up to N, and N): a completion is right where a verifier gave `right` or more.

    Raises ValueError for a k outside [1, N].
    """
    N = found.proxy.shape[1]
    ks = [*(1 << i for i in range(N.bit_length()) if 1 << i < N), N] if ks is None else ks
    correct = (found.proxy >= right).sum(1).tolist()
    return tuple(Passed(k, figure([pass_at_k(N, c, k) for c in correct])) for k in ks)


def as_json(found: Curve | Sequence[Chosen] | Sequence[Passed]) -> Any:
    """The result as JSON-able values."""
    return asdict(found) if isinstance(found, Curve) else [asdict(row) for row in found]


def _worth(proxy: Tensor, values: Tensor, ns: Sequence[int]) -> Tensor:
    """(P, len(ns)) the mean value of what the proxy takes from n samples, a few prompts at a time."""
    parts = zip(proxy.split(PROMPTS_AT_ONCE), values.split(PROMPTS_AT_ONCE), strict=True)
    return torch.cat([best_of_n_curve(a, b, ns) for a, b in parts])


def _outcomes(found: Pool) -> Iterator[tuple[Tensor, Tensor]]:
    """For each prompt the share of every distinct completion, (U,), and its proxy, (U,)."""
    for i, scores in enumerate(found.proxy):
        places: dict[tuple[int, ...], list[int]] = {}
        for j, r in enumerate(found.of(i)):
            places.setdefault(r.completion_ids, []).append(j)
        share = torch.tensor([len(at) for at in places.values()]).double() / len(scores)
        yield share, scores[[at[0] for at in places.values()]]
