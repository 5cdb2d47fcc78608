"""Ensembles of reward models: several readings of a completion become one, which trusts what all of them see.

A policy finds the mistakes of one reward model; it is harder to find a mistake that several share. Members are
standardised on the same completions *before* they are combined: otherwise the member with the widest spread decides
every worst case and every variance.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lab.objectives.tokens import real


def standardised(rewards: Tensor, means: Tensor, spreads: Tensor) -> Tensor:
    """(r_m − mean_m) / spread_m: one unit of any member's reward is one standard deviation.

    Limits: a member whose rewards, mean and spread are all multiplied by the same number stays as it is; so does one
    to which the same number is added as to its mean.

    Args:
        rewards: (M, B), a row of rewards for each member.
        means, spreads: (M,), mean and standard deviation of each member on completions that are the same for all.

    Returns:
        (M, B), in standard deviations.

    Raises:
        ValueError: shapes that do not fit, or a spread that is not above 0.
    """
    for name, x in (("means", means), ("spreads", spreads)):
        if x.shape != rewards.shape[:1]:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; give one for each of the {len(rewards)} members.")
    if not bool((spreads > 0).all()):
        raise ValueError("spreads hold a value that is not above 0; leave out a member that says the same of all.")
    return (real(rewards) - real(means).unsqueeze(1)) / real(spreads).unsqueeze(1)


def _mean(rewards: Tensor, weight: float) -> Tensor:
    return rewards.mean(0)


def _worst(rewards: Tensor, weight: float) -> Tensor:
    return rewards.amin(0)


def _uncertainty(rewards: Tensor, weight: float) -> Tensor:
    return rewards.mean(0) - weight * rewards.var(0, correction=0)


COMBINE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mean": _mean,
    "worst": _worst,
    "uncertainty": _uncertainty,
}


def combine(rewards: Tensor, how: str, weight: float = 0.0) -> Tensor:
    """One reward per completion from those of M members.

    ===========  ==================  ===================================================================
    mean         mean_m r_m          errors of single members are averaged away
    worst        min_m r_m           worst-case optimisation (WCO): what one member doubts is not earned
    uncertainty  mean_m − λ var_m    uncertainty-weighted optimisation (UWO): disagreement costs
    ===========  ==================  ===================================================================

    The variance is the population's, Σ (r_m − mean)² / M. Limits: one member, or members that agree, give that reward
    whatever the way; λ = 0 makes "uncertainty" the mean.

    Args:
        rewards: (M, B), standardised.
        how: a key of `COMBINE`.
        weight: λ ≥ 0, only for "uncertainty", per unit of reward.

    Returns:
        (B,) in the unit of the rewards; NaN where a member's reward is.

    Source:
        Coste et al. 2024, "Reward Model Ensembles Help Mitigate Overoptimization".

    Raises:
        ValueError: unknown word, no member, or λ < 0.
    """
    if how not in COMBINE:
        raise ValueError(f"There is no way {how!r} to combine rewards; choose one of {', '.join(COMBINE)}.")
    if weight < 0:
        raise ValueError(f"weight is {weight:g}; it must not be negative.")
    if not len(rewards):
        raise ValueError("rewards has no member; give a row for each, at least one.")
    return COMBINE[how](real(rewards), weight)
