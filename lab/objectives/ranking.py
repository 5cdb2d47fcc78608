"""Rankings of several completions of one prompt: all their pairs at once, or the order as a whole.

A group is the K completions of one prompt. Groups of different sizes stand in one (P, K) grid under a mask; what lies
outside it, NaN included, reaches neither a loss nor a gradient. Both losses are one number per group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lab.objectives.reward import bradley_terry
from lab.objectives.tokens import check_shapes, fill, masked_mean, masked_sum


def kwise(
    rewards: Tensor, ranks: Tensor, mask: Tensor | None = None, smoothing: float = 0.0, centring: float = 0.0
) -> Tensor:
    """Bradley and Terry's loss, averaged over all pairs of a group.

        L_p = 1/n Σ_{(i, j): rank_i < rank_j} [−log σ(r_i − r_j), smoothed and centred as in `bradley_terry`]

    with n = K (K − 1) / 2 pairs when no two ranks are equal; pairs of equal rank are left out. A prompt then counts
    once however many completions it has: as K (K − 1) / 2 rows of their own its completions would each be seen K − 1
    times a pass, and be learnt by heart.

    Limits: K = 2 is `bradley_terry`. Equal rewards and no centring give ln 2. Without centring, adding the same number
    to all rewards of a group changes nothing. The order in which the completions stand does not matter.

    Args:
        rewards: (P, K), with gradient.
        ranks: (P, K), lower is better; only their order counts.
        mask: (P, K) bool, True where there is a completion. Default: all.
        smoothing: ε in [0, 0.5], the share of pairs believed to be flipped.
        centring: c ≥ 0, the weight of (r_i + r_j)².

    Returns:
        (P,) nats; 0 for a group in which no two ranks differ.

    Source:
        Ouyang et al. 2022 (InstructGPT), eq. 1.

    Raises:
        ValueError: different shapes, a mask that is not boolean, ε outside [0, 0.5], or c < 0.
    """
    check_shapes(rewards=rewards, ranks=ranks, mask=mask)
    rewards = fill(rewards, mask)
    pairs = ranks.unsqueeze(2) < ranks.unsqueeze(1)  # (P, K, K): completion i is better than completion j
    if mask is not None:
        pairs = pairs & mask.unsqueeze(2) & mask.unsqueeze(1)
    better, worse = (rewards.unsqueeze(at).expand(pairs.shape) for at in (2, 1))
    losses = bradley_terry(better, worse, smoothing=smoothing, centring=centring)
    return masked_mean(losses.flatten(1), pairs.flatten(1), dim=1)


def plackett_luce(rewards: Tensor, mask: Tensor | None = None, centring: float = 0.0) -> Tensor:
    """Negative log-likelihood of an order: the best is chosen among all, the next among the rest, down to the last.

        L_p = −Σ_k log (exp r_k / Σ_{j ≥ k} exp r_j) + c (2 r̄)²        completions best first, r̄ their mean

    Limits: K = 2 is `bradley_terry`, centring included. Equal rewards and no centring give ln K!. Without centring,
    adding the same number to all rewards of a group changes nothing. Over all K! orders the likelihoods add up to 1.

    Args:
        rewards: (P, K), the completions of each group in their order, best first; with gradient.
        mask: (P, K) bool, True where there is a completion. Default: all.
        centring: c ≥ 0, keeps the rewards near 0, which the likelihood alone leaves free.

    Returns:
        (P,) nats; 0 for a group of one, or of none, without centring.

    Source:
        Luce 1959, "Individual Choice Behavior"; Plackett 1975, "The Analysis of Permutations".

    Raises:
        ValueError: different shapes, a mask that is not boolean, or c < 0.
    """
    if centring < 0:
        raise ValueError(f"centring is {centring:g}; it must not be negative.")
    rewards = fill(rewards, mask)
    there = torch.ones_like(rewards, dtype=torch.bool) if mask is None else mask
    square = there.new_ones(rewards.shape[1], rewards.shape[1])
    own, later = square.triu().tril(), square.triu(1)
    left = own | later & there.unsqueeze(1)  # (P, K, K): completion j can still be chosen at turn k
    among = rewards.unsqueeze(1).masked_fill(~left, -torch.inf).logsumexp(2)
    return masked_sum(among - rewards, there, dim=1) + centring * (2 * masked_mean(rewards, there, dim=1)) ** 2
