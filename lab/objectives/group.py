"""Advantages without a critic: a completion is compared with the other completions of its prompt.

=============  ============================================  ===================================================
group_std      (r − group mean) / (group std + 1e-4)         GRPO, DAPO, GSPO, CISPO
group_mean     r − group mean                                Dr. GRPO; REINFORCE++ with baseline
leave_one_out  r − mean of the others                        RLOO: unbiased
batch_std      (r − group mean) / (batch std + 1e-4)         Lite PPO
none           r                                             REINFORCE, REINFORCE++
=============  ============================================  ===================================================

A group is one row: P prompts with G completions each, (P, G). Standard deviations divide by n − 1. Advantages are
constants of the update that uses them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lab.objectives.advantages import gae
from lab.objectives.tokens import is_flat, real

Advantage = Callable[[Tensor], Tensor]
"""Rewards (P, G) to advantages (P, G)."""

STD_EPS = 1e-4
"""Added to every standard deviation: bounds the advantages of groups whose rewards hardly differ."""


def _groups(rewards: Tensor) -> Tensor:
    """The rewards as constants in at least float32.

    Raises:
        ValueError: not (P, G).
    """
    if rewards.dim() != 2:
        raise ValueError(
            f"rewards has shape {tuple(rewards.shape)}; give (P, G), one row per prompt and one column per completion."
        )
    return real(rewards.detach())


def flat_groups(rewards: Tensor) -> Tensor:
    """Groups that teach nothing: their rewards are equal but for rounding, max − min ≤ 1e-6 (1 + |mean|).

    All right and all wrong are both flat. Dynamic sampling drops such groups and samples others in their place, so
    that every update holds the same number of groups with a gradient.

    Args:
        rewards: (P, G).

    Returns:
        (P,) bool, True where every advantage is 0. A group of one is flat.

    Source:
        Yu et al. 2025, "DAPO", section "Dynamic Sampling".

    Raises:
        ValueError: not (P, G).
    """
    rewards = _groups(rewards)
    low, high = rewards.aminmax(dim=1)
    return is_flat(rewards.mean(1), high - low)


def _centred(rewards: Tensor) -> Tensor:
    """r − the mean of its group, (P, G): exactly 0 in flat groups, where the difference is only rounding.

    Raises:
        ValueError: not (P, G), or groups of one.
    """
    rewards = _groups(rewards)
    if rewards.shape[1] < 2:
        raise ValueError(
            "Every prompt has 1 completion, but its baseline is the mean of its group, so that every advantage would "
            'be 0; sample at least 2 completions per prompt, or take the advantage "none".'
        )
    centred = rewards - rewards.mean(1, keepdim=True)
    return torch.where(flat_groups(rewards)[:, None], torch.zeros_like(centred), centred)


def group_std(rewards: Tensor) -> Tensor:
    """A = (r − mean) / (σ + 1e-4), with mean and σ of the group: GRPO.

    Limits: within a group the mean is 0 and the standard deviation 1. Rewards scaled or moved by a constant give the
    same advantages (but for 1e-4), so that a prompt solved once in a hundred and one solved half the time weigh alike.

    Args:
        rewards: (P, G), G ≥ 2.

    Returns:
        (P, G), without unit; exactly 0 in flat groups.

    Source:
        Shao et al. 2024, "DeepSeekMath", section "Group Relative Policy Optimization"; 1e-4 as in TRL.

    Raises:
        ValueError: not (P, G), or groups of one.
    """
    return _centred(rewards) / (_groups(rewards).std(1, keepdim=True) + STD_EPS)


def group_mean(rewards: Tensor) -> Tensor:
    """A = r − the mean of the group: Dr. GRPO. It is (G − 1) / G of `leave_one_out`.

    Arguments and errors as in `group_std`.

    Returns:
        (P, G), in units of reward; exactly 0 in flat groups.

    Source:
        Liu et al. 2025, "Understanding R1-Zero-Like Training: A Critical Perspective".
    """
    return _centred(rewards)


def leave_one_out(rewards: Tensor) -> Tensor:
    """A_i = r_i − mean_{j ≠ i} r_j = G / (G − 1) (r_i − mean): RLOO.

    The baseline of a completion does not depend on that completion, so the policy gradient is unbiased.

    Arguments and errors as in `group_std`.

    Returns:
        (P, G), in units of reward; exactly 0 in flat groups.

    Source:
        Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!"; Ahmadian et al. 2024, "Back to Basics".
    """
    centred = _centred(rewards)
    members = centred.shape[1]
    return centred * members / (members - 1)


def batch_std(rewards: Tensor) -> Tensor:
    """A = (r − the mean of the group) / (σ + 1e-4), with σ of all rewards of the batch: Lite PPO.

    One σ for all: unlike in GRPO, a group that hardly differs keeps small advantages.

    Arguments and errors as in `group_std`.

    Returns:
        (P, G), without unit; exactly 0 in flat groups.

    Source:
        Liu et al. 2025, "Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning".
    """
    return _centred(rewards) / (_groups(rewards).std() + STD_EPS)


def none(rewards: Tensor) -> Tensor:
    """A = r, without a baseline: REINFORCE. The policy gradient is unbiased, with a large variance.

    REINFORCE++ takes it before it whitens per token over the whole batch. Equal rewards are not 0 here.

    Args:
        rewards: (P, G), G ≥ 1.

    Returns:
        (P, G), in units of reward.

    Source:
        Williams 1992; Hu et al. 2025, "REINFORCE++".

    Raises:
        ValueError: not (P, G).
    """
    return _groups(rewards)


ADVANTAGES: dict[str, Advantage] = {
    "group_std": group_std,
    "group_mean": group_mean,
    "leave_one_out": leave_one_out,
    "batch_std": batch_std,
    "none": none,
}


def gdpo(rewards: Tensor, weights: Tensor) -> Tensor:
    """Several rewards at once: each is normalised within its group, then they are weighted, summed and normalised.

        s = Σ_k w_k (r_k − mean_k) / (σ_k + 1e-4)      mean_k and σ_k of the group
        A = s / (σ + 1e-4)                             σ of s over the whole batch, whose mean is 0 as every group's is

    Adding the rewards first lets the widest one decide, and (1, 0) and (0, 1) become the same. Limits: a reward that
    is equal within a group has no say there; the scale of a reward does not matter, only its weight.

    Args:
        rewards: (P, G, K): K rewards of each completion, G ≥ 2.
        weights: (K,).

    Returns:
        (P, G), without unit; exactly 0 in groups where the weighted sum is flat.

    Source:
        Liu et al. 2026, "GDPO: Group reward-Decoupled Normalization Policy Optimization".

    Raises:
        ValueError: not (P, G, K), groups of one, or not one weight for each reward.
    """
    if rewards.dim() != 3:
        raise ValueError(
            f"rewards has shape {tuple(rewards.shape)}; give (P, G, K), the K rewards of every completion of a group."
        )
    if weights.shape != rewards.shape[2:]:
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}; give one weight for each of the {rewards.shape[2]} rewards."
        )
    normalised = torch.stack([group_std(reward) for reward in rewards.unbind(2)], dim=2)
    total = normalised @ weights.detach().to(normalised)
    advantages = total / (total.std() + STD_EPS)
    return torch.where(flat_groups(total)[:, None], torch.zeros_like(advantages), advantages)


def overlong(lengths: Tensor, longest: int, buffer: int) -> Tensor:
    """A soft penalty on length, added to the reward: 0 up to longest − buffer, then falling in a line to −1.

        clip((longest − buffer − length) / buffer, −1, 0)

    A cut completion is punished for its length and not for its reasoning, and the last tokens before the cut warn it.

    Args:
        lengths: (B,) tokens of each completion.
        longest: tokens of the longest completion allowed.
        buffer: tokens before the end in which the penalty grows, in [1, longest].

    Returns:
        (B,) in [−1, 0], units of reward.

    Source:
        Yu et al. 2025, "DAPO", eq. 13.

    Raises:
        ValueError: a buffer outside [1, longest].
    """
    if not 1 <= buffer <= longest:
        raise ValueError(f"buffer is {buffer} tokens; it must lie in [1, {longest}], the longest completion allowed.")
    return ((longest - buffer - real(lengths)) / buffer).clamp(-1, 0)


def returns_to_go(rewards: Tensor, lengths: Tensor, gamma: float) -> Tensor:
    """R_t = Σ_k γ^k r_{t+k}, from each token to the last of its completion: `advantages.gae` with λ = 1 and no values.

    With `reward_to_tokens` and γ = 1 a token is credited with the score minus β times the log-ratio still to come.

    Args:
        rewards: (B, T). What lies past the end is ignored.
        lengths: (B,) in [0, T].
        gamma: discount γ per token in [0, 1].

    Returns:
        (B, T), in units of reward; 0 past the end.

    Source:
        Williams 1992; Hu et al. 2025, "REINFORCE++".

    Raises:
        ValueError: lengths outside [0, T].
    """
    return gae(rewards, torch.zeros_like(rewards), lengths, gamma, 1.0).returns
