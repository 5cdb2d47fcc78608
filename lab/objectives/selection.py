"""Choosing among samples: best-of-n and what it costs, rejection sampling for fine-tuning, and pass@k.

A proxy (a reward model) chooses and gold (people, a verifier, the true reward) judges the choice. Distances are from
the policy that was sampled, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lab.objectives.tokens import check_shapes, real


def _counts(n: int) -> None:
    if n < 1:
        raise ValueError(f"n is {n}; best-of-n needs at least 1 sample.")


def best_of(rewards: Tensor) -> Tensor:
    """The sample with the highest reward: best-of-n, and what RAFT fine-tunes on. Among equals the first is taken.

    Args:
        rewards: (P, n): n samples of each prompt.

    Returns:
        (P,) indices in [0, n).

    Source:
        Stiennon et al. 2020 (best-of-n); Dong et al. 2023, "RAFT: Reward rAnked FineTuning".

    Raises:
        ValueError: not (P, n) with n ≥ 1, or a NaN, which no order can place.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 1:
        raise ValueError(f"rewards has shape {tuple(rewards.shape)}; give (P, n), one row of samples per prompt.")
    if bool(rewards.isnan().any()):
        raise ValueError("rewards hold NaN; score every sample before choosing among them.")
    return rewards.argmax(dim=1)


def rso_accept(rewards: Tensor, beta: float, uniform: Tensor) -> Tensor:
    """Rejection sampling towards the optimal policy of RLHF: keep y if u < exp((r(y) − r_max) / β).

    What is kept is distributed as π(y) exp(r(y) / β), the policy that maximises E[r] − β KL; with r_max the largest of
    n samples, and not of all completions, nearly so.

    Limits: the best sample of a prompt is always kept. β → ∞ keeps everything, β → 0 only the best.

    Args:
        rewards: (P, n).
        beta: β > 0, reward per nat.
        uniform: (P, n) random numbers in [0, 1).

    Returns:
        (P, n) bool, True where a sample is kept.

    Source:
        Liu et al. 2024, "Statistical Rejection Sampling Improves Preference Optimization".

    Raises:
        ValueError: different shapes, not (P, n), or β ≤ 0.
    """
    check_shapes(rewards=rewards, uniform=uniform)
    if rewards.dim() != 2:
        raise ValueError(f"rewards has shape {tuple(rewards.shape)}; give (P, n), one row of samples per prompt.")
    if beta <= 0:
        raise ValueError(f"beta is {beta:g}; it must be above 0.")
    rewards = real(rewards)
    return uniform < torch.exp((rewards - rewards.amax(1, keepdim=True)) / beta)


def rso_subset(rewards: Tensor, count: int, beta: float, uniform: Callable[[int], Tensor]) -> Tensor:
    """`count` of n samples that follow the optimal policy of RLHF, without putting any back.

    Round after round over what is left, in order: y is taken if u < exp((r(y) − r_max) / β), r_max being the largest
    left when the round begins, until `count` are taken. Every round takes its best, so it ends after `count` of them.

    Limits: β → ∞ takes the first `count`, β → 0 the `count` best, best first (equal ones as they come).

    Args:
        rewards: (n,): samples of one prompt.
        count: in [1, n], how many to take.
        beta: β > 0, reward per nat.
        uniform: called with m, gives (m,) random numbers in [0, 1), on the device of the rewards.

    Returns:
        (count,) numbers of samples, in the order in which they were taken; on the CPU.

    Source:
        Liu et al. 2024, "Statistical Rejection Sampling Improves Preference Optimization", algorithm 1.

    Raises:
        ValueError: rewards not (n,) or not finite, a count outside [1, n], or β ≤ 0.
    """
    if rewards.dim() != 1 or not bool(rewards.isfinite().all()):
        raise ValueError(f"rewards has shape {tuple(rewards.shape)}; give (n,), the finite rewards of one prompt.")
    if not 1 <= count <= len(rewards):
        raise ValueError(f"count is {count}; it must lie in [1, {len(rewards)}], the samples there are.")
    left, taken = torch.arange(len(rewards)), []
    while len(taken) < count:
        accepted = rso_accept(rewards[left][None], beta, uniform(len(left))[None])[0].cpu()
        taken += left[accepted].tolist()
        left = left[~accepted]
    return torch.tensor(taken[:count])


def best_of_n_kl(n: int) -> float:
    """KL(best-of-n ‖ π) ≤ ln n − (n − 1) / n.

    Exact when scores never tie, as with a continuous reward over very many completions. Ties and a few likely
    completions make it smaller: `best_of_n_exact_kl`.

    Args:
        n: samples per prompt, ≥ 1.

    Returns:
        Nats; 0 at n = 1.

    Source:
        Stiennon et al. 2020; as an upper bound: Beirami et al. 2024, "Theoretical guarantees on the best-of-n
        alignment policy".

    Raises:
        ValueError: n < 1.
    """
    _counts(n)
    return math.log(n) - (n - 1) / n


def best_of_n_win_rate(n: int) -> float:
    """How often best-of-n can beat one sample of π, by its own score: n / (n + 1), reached when scores never tie.

    Args:
        n: samples per prompt, ≥ 1.

    Returns:
        A probability in [½, 1).

    Raises:
        ValueError: n < 1.
    """
    _counts(n)
    return n / (n + 1)


def best_of_n_pmf(probabilities: Tensor, scores: Tensor, n: int) -> Tensor:
    """The distribution of best-of-n over outcomes that can be listed.

        P(y) = p(y) / p(level of y) · (F^n − F₋^n)

    with F the probability of a score up to that of y, F₋ of one strictly below, and a level all outcomes of the same
    score: among equal samples one is taken blindly. Limits: n = 1 is p. n → ∞ is p within the best level.

    Args:
        probabilities: (V,), summing to 1.
        scores: (V,).
        n: samples, ≥ 1.

    Returns:
        (V,) float64; 0 where p is 0.

    Source:
        Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy".

    Raises:
        ValueError: different shapes, not (V,), probabilities that are negative or do not sum to 1, or n < 1.
    """
    _counts(n)
    check_shapes(probabilities=probabilities, scores=scores)
    p = probabilities.double()
    if p.dim() != 1 or bool((p < 0).any()) or not math.isclose(p.sum().item(), 1, abs_tol=1e-6):
        raise ValueError("probabilities must be one list of numbers ≥ 0 that sum to 1.")
    levels, level = scores.unique(return_inverse=True)  # sorted from low to high
    mass = p.new_zeros(len(levels)).index_add(0, level, p)
    up_to = mass.cumsum(0)
    below = torch.cat([up_to.new_zeros(1), up_to[:-1]])
    share = torch.where(p > 0, p / mass[level], torch.zeros_like(p))
    return share * (up_to**n - below**n)[level]


def best_of_n_exact_kl(probabilities: Tensor, scores: Tensor, n: int) -> float:
    """KL(best-of-n ‖ π) = Σ P log(P / p) over outcomes that can be listed, ties and all; at most `best_of_n_kl`.

    Arguments and errors as in `best_of_n_pmf`.

    Returns:
        Nats. At most −ln p of the best level, however large n is.
    """
    chosen = best_of_n_pmf(probabilities, scores, n)
    p = probabilities.double()
    seen = chosen > 0
    return (chosen[seen] * (chosen[seen] / p[seen]).log()).sum().item()


def best_of_n_curve(proxy: Tensor, gold: Tensor, ns: Sequence[int]) -> Tensor:
    """What best-of-n would be worth in gold, for many n from one set of N samples, without bias.

        Σ_i C(i − 1, n − 1) / C(N, n) · gold_(i)      samples sorted by proxy, i = 1 the lowest

    The mean over all subsets of n samples of the gold of the one that the proxy takes. Where the proxy ties, every
    tied sample counts with the mean gold of the tie: the choice is blind. The binomials are taken in log space.

    Limits: n = 1 is the mean of gold, n = N the gold of the best sample.

    Args:
        proxy, gold: (P, N): N scored samples of each prompt.
        ns: values of n, each in [1, N].

    Returns:
        (P, len(ns)) float64, units of gold.

    Source:
        Nakano et al. 2021, "WebGPT"; Gao et al. 2023, "Scaling Laws for Reward Model Overoptimization".

    Raises:
        ValueError: different shapes, not (P, N), or an n outside [1, N].
    """
    check_shapes(proxy=proxy, gold=gold)
    if proxy.dim() != 2:
        raise ValueError(f"proxy has shape {tuple(proxy.shape)}; give (P, N), one row of samples per prompt.")
    N = proxy.shape[1]
    for n in ns:
        if not 1 <= n <= N:
            raise ValueError(f"n is {n}; it must lie in [1, {N}], the samples there are of each prompt.")
    tied = (proxy[:, :, None] == proxy[:, None, :]).double()
    blind = (tied @ gold.double()[:, :, None]).squeeze(2) / tied.sum(2)
    ranked = blind.gather(1, proxy.argsort(1))
    i, n = torch.arange(1, N + 1).double()[:, None], torch.tensor(ns).double()
    weights = (_log_binomial(i - 1, n - 1) - _log_binomial(torch.tensor(N).double(), n)).exp()
    return ranked @ weights.to(ranked.device)


def _log_binomial(n: Tensor, k: Tensor) -> Tensor:
    """log C(n, k), −∞ where k > n: Γ has its poles at 0, −1, −2, …"""
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The probability that at least one of k samples is right, without bias, from n samples of which c are.

        pass@k = 1 − C(n − c, k) / C(n, k)

    Limits: k = 1 is c / n; fewer than k wrong ones give 1. 1 − (1 − c / n)^k, by contrast, is too low.

    Args:
        n: samples drawn.
        correct: c in [0, n], right ones among them.
        k: in [1, n].

    Source:
        Chen et al. 2021, "Evaluating Large Language Models Trained on Code", eq. 1.

    Raises:
        ValueError: c outside [0, n], or k outside [1, n].
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct is {correct}; it must lie in [0, {n}], the samples drawn.")
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; it must lie in [1, {n}], the samples drawn.")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)
