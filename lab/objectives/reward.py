"""Reward models: the likelihood of Bradley and Terry for pairs of completions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lab.objectives.tokens import check_shapes, real


def bradley_terry(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | None = None,
    labels: Tensor | None = None,
    smoothing: float = 0.0,
    centring: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of a preference, per pair.

        z = r_c − r_r − margin
        q = (1 − ε) p + ε (1 − p)
        L = −q log σ(z) − (1 − q) log σ(−z) + c (r_c + r_r)²

    Limits: equal rewards, no margin and no centring give ln 2. p = 1 and ε = 0 is the loss of Bradley and Terry.
    Without centring, adding the same number to both rewards changes nothing. Exchanging the pair together with p and
    the margin (p → 1 − p, margin → −margin) changes nothing.

    Args:
        chosen, rejected: (B,) rewards r_c and r_r.
        margin: (B,) in reward units: how far the chosen one should be ahead. Default: 0.
        labels: (B,) p in [0, 1], the probability that the chosen one really is the better one (a share of votes, or
            the judgement of a model). Default: 1.
        smoothing: ε in [0, 0.5], the share of labels believed to be flipped.
        centring: c ≥ 0, keeps the rewards near 0, which the likelihood alone leaves free.

    Returns:
        (B,) nats.

    Source:
        Bradley and Terry 1952; Ouyang et al. 2022 (InstructGPT), eq. 1; margin: Touvron et al. 2023 (Llama 2),
        eq. 2; centring: Eisenstein et al. 2023, "Helping or Herding?"; smoothing: Mitchell 2023 (cDPO).

    Raises:
        ValueError: different shapes, labels outside [0, 1], ε outside [0, 0.5], or c < 0.
    """
    check_shapes(chosen=chosen, rejected=rejected, margin=margin, labels=labels)
    if not 0 <= smoothing <= 0.5:
        raise ValueError(f"smoothing is {smoothing:g}; it must lie in [0, 0.5].")
    if centring < 0:
        raise ValueError(f"centring is {centring:g}; it must not be negative.")
    if labels is not None and not bool(((labels >= 0) & (labels <= 1)).all()):
        raise ValueError("labels hold a value outside [0, 1]; give the probability that the chosen one is better.")
    chosen, rejected = real(chosen), real(rejected)
    z = chosen - rejected - (0 if margin is None else real(margin))
    p = torch.ones_like(z) if labels is None else real(labels)
    q = (1 - smoothing) * p + smoothing * (1 - p)
    return -q * logsigmoid(z) - (1 - q) * logsigmoid(-z) + centring * (chosen + rejected) ** 2


def accuracy(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Whether the reward agrees with the preference, per pair: 1 if r_c > r_r, 0 if r_c < r_r, ½ for a tie.

    A model that says the same about everything is right half the time, as it would be by guessing. NaN stays NaN.

    Args:
        chosen, rejected: (B,) rewards.

    Returns:
        (B,).

    Raises:
        ValueError: different shapes.
    """
    check_shapes(chosen=chosen, rejected=rejected)
    ahead = real(chosen) - real(rejected)
    return torch.where(ahead.isnan(), ahead, (ahead.sign() + 1) / 2)
