"""How far the policy has moved from the reference: estimators of KL(π ‖ π_ref) from sampled tokens, and the
controller of the penalty's weight.

With d = log π(y) − log π_ref(y) and y sampled from π, per token (nats):

============  =================  =========================  =========================================
name          formula            as a value                 as a loss: its expected gradient is
============  =================  =========================  =========================================
k1            d                  unbiased, any sign         0: nothing is learnt
k2            d² / 2             biased, ≥ 0                the gradient of KL(π ‖ π_ref)
k3            exp(−d) − 1 + d    unbiased, ≥ 0              that of KL(π_ref ‖ π) instead
k3_corrected  (π / π_old) · k3   unbiased, ≥ 0              the gradient of KL(π ‖ π_ref)
============  =================  =========================  =========================================

Inside the reward an estimator is a value: use k1, whose sum over a completion is the log-ratio of the whole
completion. Inside the loss use k2 or k3_corrected.

Source: Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html); the correction by the ratio:
DeepSeek-AI 2025, DeepSeek-V3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lab.objectives.tokens import check_shapes, fill


def _log_ratio(logprobs: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
    """log π − log π_ref with π_ref constant, (B, T) nats; 0 outside the mask."""
    check_shapes(logprobs=logprobs, reference=reference, mask=mask)
    return fill(logprobs, mask) - fill(reference.detach(), mask)


def k1(logprobs: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """k1 = d, per token.

    Args:
        logprobs, reference: (B, T) log-probabilities of the sampled tokens, nats.
        mask: (B, T) bool, True where a token counts. Default: all.

    Returns:
        (B, T) nats; 0 outside the mask.

    Raises:
        ValueError: different shapes, or a mask that is not boolean.
    """
    return _log_ratio(logprobs, reference, mask)


def k2(logprobs: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """k2 = d² / 2, per token. Arguments, result and errors as in `k1`."""
    return _log_ratio(logprobs, reference, mask) ** 2 / 2


def k3(logprobs: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """k3 = exp(−d) − 1 + d, per token. Arguments, result and errors as in `k1`."""
    d = _log_ratio(logprobs, reference, mask)
    return torch.expm1(-d) + d


def k3_corrected(logprobs: Tensor, reference: Tensor, mask: Tensor | None = None, old: Tensor | None = None) -> Tensor:
    """ρ · k3 with ρ = exp(log π − log π_old), per token.

    Args:
        logprobs, reference, mask: as in `k1`.
        old: (B, T) log-probabilities under the policy that sampled, nats. Default: `logprobs` itself, detached, for
            the first update after sampling: ρ is 1 and still carries a gradient.

    Returns:
        (B, T) nats; 0 outside the mask.

    Raises:
        ValueError: different shapes, or a mask that is not boolean.
    """
    return torch.exp(_log_ratio(logprobs, logprobs if old is None else old, mask)) * k3(logprobs, reference, mask)


ESTIMATORS: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "k3_corrected": k3_corrected,
}


def adapt(beta: float, observed: float, target: float, horizon: float, n: int) -> float:
    """The next weight β of the KL penalty, which rises while the KL is above the target and falls while below.

        e = clip(observed / target − 1, −0.2, 0.2)
        β ← β (1 + e · min(n / horizon, 1))

    β changes by a fifth at most, and keeps its sign. At the target it stays.

    Args:
        beta: the present weight, reward per nat.
        observed: KL of the step, nats: the mean over completions of the *sum* of k1 over their tokens.
        target: the KL wanted, nats per completion, > 0.
        horizon: completions over which β may change by a fifth, > 0.
        n: completions of the step.

    Source:
        Ziegler et al. 2019, section 2.2, and the `AdaptiveKLController` of the published code, where n / horizon
        is not limited to 1 (beyond 5, β would change its sign).

    Raises:
        ValueError: a KL that is not finite, or a target or horizon that is not above 0.
    """
    if not math.isfinite(observed):
        raise ValueError(f"The observed KL is {observed}; look for NaN or infinity in the log-probabilities.")
    if target <= 0 or horizon <= 0:
        raise ValueError(f"target is {target:g} and horizon is {horizon:g}; both must be above 0.")
    error = min(max(observed / target - 1, -0.2), 0.2)
    return beta * (1 + error * min(n / horizon, 1))
