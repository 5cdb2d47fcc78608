"""Proximal policy optimisation: the clipped losses of the policy and of its value function, per token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lab.objectives.tokens import check_shapes, fill, is_flat, masked_mean, masked_var, real


class Clipped(NamedTuple):
    """loss: (B, T). clipped: (B, T) bool, True where the clip decides, so that the gradient there is 0."""

    loss: Tensor
    clipped: Tensor


def ratio(logprobs: Tensor, old: Tensor, mask: Tensor | None = None) -> Tensor:
    """ρ_t = π(y_t) / π_old(y_t) = exp(log π − log π_old). 1 before the first update.

    Args:
        logprobs: (B, T) nats, with gradient.
        old: (B, T) nats, under the policy as it was when the completions were scored; taken as constant.
        mask: (B, T) bool, True where a token counts. Default: all.

    Returns:
        (B, T); 1 outside the mask.

    Raises:
        ValueError: different shapes, or a mask that is not boolean.
    """
    check_shapes(logprobs=logprobs, old=old, mask=mask)
    return torch.exp(fill(logprobs, mask) - fill(old.detach(), mask))


def approx_kl(logprobs: Tensor, old: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(π_old ‖ π) per token, estimated from tokens of π_old as ρ − 1 − log ρ: unbiased and never negative.

    It measures how far the updates since sampling have gone; the distance to the *reference* is in `kl`.

    Args:
        logprobs, old, mask: as in `ratio`.

    Returns:
        (B, T) nats; 0 outside the mask.

    Source:
        Schulman 2020, "Approximating KL divergence", estimator k3.

    Raises:
        ValueError: different shapes, or a mask that is not boolean.
    """
    check_shapes(logprobs=logprobs, old=old, mask=mask)
    log_ratio = fill(logprobs, mask) - fill(old.detach(), mask)
    return torch.expm1(log_ratio) - log_ratio


def ppo_policy(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    clip: float,
    dual_clip: float | None = None,
    mask: Tensor | None = None,
) -> Clipped:
    """The clipped surrogate of PPO, per token.

        L = max(−A ρ, −A clip(ρ, 1 − ε, 1 + ε)),   for A < 0 with dual clip c: min(L, −A c)

    Limits: at ρ = 1, L = −A and its gradient is that of −A log π (the policy gradient); so it is everywhere as
    ε → ∞, up to the factor ρ. A better token (A > 0) earns nothing above 1 + ε, a worse one nothing below 1 − ε;
    moving back is never clipped. For A < 0 the loss grows with ρ without bound, which the dual clip ends at ρ = c.

    Args:
        logprobs: (B, T) nats, with gradient.
        old: (B, T) nats, constant.
        advantages: (B, T), constant; usually whitened.
        clip: ε ≥ 0.
        dual_clip: c > 1, usually 3. Default: none.
        mask: (B, T) bool, True where a token counts. Default: all.

    Returns:
        Clipped: the loss, in units of the advantage and 0 outside the mask, and where the clip decides.

    Source:
        Schulman et al. 2017, "Proximal Policy Optimization Algorithms", eq. 7; dual clip: Ye et al. 2020,
        "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning", eq. 5.

    Raises:
        ValueError: different shapes, a mask that is not boolean, ε < 0, or c ≤ 1.
    """
    if clip < 0:
        raise ValueError(f"clip is {clip:g}; it must not be negative.")
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip is {dual_clip:g}; it must be above 1.")
    check_shapes(logprobs=logprobs, advantages=advantages)
    rho, A = ratio(logprobs, old, mask), fill(advantages.detach(), mask)
    plain, bounded = -A * rho, -A * rho.clamp(1 - clip, 1 + clip)
    loss, clipped = torch.maximum(plain, bounded), bounded > plain
    if dual_clip is not None:
        capped = (A < 0) & (loss > -A * dual_clip)
        loss, clipped = torch.where(capped, -A * dual_clip, loss), clipped | capped
    return Clipped(loss, clipped)


def ppo_value(values: Tensor, old_values: Tensor, returns: Tensor, clip: float, mask: Tensor | None = None) -> Clipped:
    """The clipped squared error of the value function, per token.

        L = ½ max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²)

    Limits: at V = V_old, or with ε = ∞, it is half the squared error.

    Args:
        values: (B, T) reward units, with gradient.
        old_values: (B, T), the values the advantages were computed with; constant.
        returns: (B, T), constant.
        clip: ε ≥ 0, reward units.
        mask: (B, T) bool, True where a token counts. Default: all.

    Returns:
        Clipped: the loss, in squared reward units and 0 outside the mask, and where the clip decides.

    Source:
        Schulman et al. 2017, code of OpenAI Baselines `ppo2`; Ziegler et al. 2019.

    Raises:
        ValueError: different shapes, a mask that is not boolean, or ε < 0.
    """
    if clip < 0:
        raise ValueError(f"clip is {clip:g}; it must not be negative.")
    check_shapes(values=values, old_values=old_values, returns=returns, mask=mask)
    values, old, R = fill(values, mask), fill(old_values.detach(), mask), fill(returns.detach(), mask)
    plain = (values - R) ** 2
    bounded = (values.clamp(old - clip, old + clip) - R) ** 2
    return Clipped(torch.maximum(plain, bounded) / 2, bounded > plain)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(R − V) / Var(R) over the counted tokens: the share of the returns' spread that the values foresee.

    1 is perfect, 0 is as good as a constant, below 0 is worse than one. Equal returns have no spread to explain: 0.

    Args:
        values, returns: (B, T).
        mask: (B, T) bool.

    Returns:
        A scalar.

    Raises:
        ValueError: different shapes, or a mask that is not boolean.
    """
    check_shapes(values=values, returns=returns, mask=mask)
    values, returns = real(values.detach()), real(returns.detach())
    spread = masked_var(returns, mask)
    flat = is_flat(masked_mean(returns, mask), spread.sqrt())
    share = 1 - masked_var(returns - values, mask) / spread
    return torch.where(flat, torch.zeros_like(share), share)
