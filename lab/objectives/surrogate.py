"""Policy losses of one signature, per token, and the correction for tokens that another program sampled.

With ρ_t = exp(log π − log π_old), and a clip to [1 − low, 1 + high]:

=============  ==================================================  ===============================================
name           the loss of a token                                 goes with the reduction (`tokens.REDUCTIONS`)
=============  ==================================================  ===============================================
token          PPO's clip of ρ_t                                   any; token_mean is DAPO, sequence_mean GRPO
two_sided      the same, and for A < 0 never above −A δ            any
sequence_mean  PPO's clip of exp(mean_t log ρ_t): GSPO             sequence_mean: one loss per completion
sequence_sum   PPO's clip of exp(Σ_t log ρ_t): RLOO                sequence_mean: one loss per completion
cispo          −sg(min(ρ_t, 1 + high)) A log π_t                   token_mean
reinforce      −A log π_t                                          sequence_sum: −A log π(y) per completion
sapo           −A (4/τ) σ(τ (ρ_t − 1)), no clip                    sequence_mean
=============  ==================================================  ===============================================

At ρ = 1 the gradient of each is the policy gradient −A ∇ log π: of the token for the token losses, of the completion,
reduced as above, for sequence_sum, and of the completion divided by its length for sequence_mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lab.objectives.policy import Clipped, ratio
from lab.objectives.tokens import check_shapes, fill, masked_mean

Surrogate = Callable[[Tensor, Tensor, Tensor, float, float, Tensor], Clipped]
"""logprobs, old, advantages (B, T), low, high, mask (B, T) to the loss per token and where it is clipped."""


def _log_ratio(logprobs: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """log ρ = log π − log π_old with π_old constant, (B, T) nats; 0 outside the mask."""
    check_shapes(logprobs=logprobs, old=old, mask=mask)
    return fill(logprobs, mask) - fill(old.detach(), mask)


def _constants(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """The advantages without a gradient, (B, T); 0 outside the mask."""
    check_shapes(logprobs=logprobs, advantages=advantages, mask=mask)
    return fill(advantages.detach(), mask)


def _clip(log_ratio: Tensor, A: Tensor, low: float, high: float, delta: float = math.inf) -> Clipped:
    """max(−A ρ, −A clip(ρ, 1 − low, 1 + high)), and for A < 0 at most −A δ.

    Where the clip decides, or A is 0, ρ is taken out of the graph: one that overflows would give 0 · ∞ = NaN.

    Args:
        log_ratio: (B, T), or (B, 1) for one ratio per completion.
        A: (B, T), 0 outside the mask.
    """
    if low < 0 or high < 0:
        raise ValueError(f"The clip is low = {low:g}, high = {high:g}; neither may be negative.")
    rho = log_ratio.detach().exp()
    bounded = -A * rho.clamp(1 - low, 1 + high)
    capped = (A < 0) & (rho > delta)
    clipped = (bounded > -A * rho) | capped
    free = torch.where(clipped | (A == 0), torch.zeros_like(log_ratio), log_ratio).exp()
    held = torch.where(capped, -A * delta, bounded)
    return Clipped(torch.where(clipped, held, -A * free), clipped)


def token(logprobs: Tensor, old: Tensor, advantages: Tensor, low: float, high: float, mask: Tensor) -> Clipped:
    """The clipped surrogate of PPO with a lower and an upper range of its own.

        L = max(−A ρ, −A clip(ρ, 1 − low, 1 + high))

    Limits: low = high = ε is `policy.ppo_policy`. high > low ("clip higher") leaves unlikely tokens more room to
    rise: at ε = 0.2 a token of probability 0.01 may only reach 0.012.

    Args:
        logprobs: (B, T) nats, with gradient.
        old: (B, T) nats, under the policy as it was when the completions were scored; constant.
        advantages: (B, T), constant.
        low, high: the ratio earns nothing outside [1 − low, 1 + high]; ≥ 0.
        mask: (B, T) bool, True where a token counts.

    Returns:
        Clipped: the loss, in units of the advantage and 0 outside the mask, and where the clip decides.

    Source:
        Schulman et al. 2017, eq. 7; two ranges: Yu et al. 2025, "DAPO", section "Clip-Higher".

    Raises:
        ValueError: different shapes, a mask that is not boolean, or a negative range.
    """
    return _clip(_log_ratio(logprobs, old, mask), _constants(logprobs, advantages, mask), low, high)


def two_sided(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    low: float,
    high: float,
    mask: Tensor,
    delta: float = 3.0,
) -> Clipped:
    """`token`, and for A < 0 the loss ends at −A δ: a worse token that became likelier pushes no harder than that.

    Limits: δ = ∞ is `token`. low = high and δ = c is the dual clip of `policy.ppo_policy`.

    Args:
        logprobs, old, advantages, low, high, mask: as in `token`.
        delta: δ > 1 + high.

    Returns:
        Clipped, as in `token`.

    Source:
        Ye et al. 2020, "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning", eq. 5 (c = 3);
        Prime Intellect 2025, INTELLECT-2, as "two-sided" GRPO clipping.

    Raises:
        ValueError: as in `token`, or δ ≤ 1 + high.
    """
    if delta <= 1 + high:
        raise ValueError(f"delta is {delta:g}; it must be above 1 + high = {1 + high:g}, where the other clip ends.")
    return _clip(_log_ratio(logprobs, old, mask), _constants(logprobs, advantages, mask), low, high, delta)


def sequence_mean(logprobs: Tensor, old: Tensor, advantages: Tensor, low: float, high: float, mask: Tensor) -> Clipped:
    """One ratio per completion, the geometric mean of those of its tokens: GSPO.

        s = exp(mean_t log ρ_t)
        L = max(−A s, −A clip(s, 1 − low, 1 + high))

    Every token of a row carries the loss of the row, so the reduction "sequence_mean" gives it back once per
    completion. s moves far less than a ρ_t, so the ranges are far smaller. Limits: at s = 1, row by row, the
    gradient is that of −A (mean_t log π_t).

    Args:
        logprobs, old, low, high, mask: as in `token`.
        advantages: (B, T), the same number at all tokens of a row.

    Returns:
        Clipped, as in `token`; a row is clipped at all its tokens or at none.

    Source:
        Zheng et al. 2025, "Group Sequence Policy Optimization".

    Raises:
        ValueError: as in `token`.
    """
    log_s = masked_mean(_log_ratio(logprobs, old, mask), mask, dim=1)[:, None]
    return _clip(log_s, _constants(logprobs, advantages, mask), low, high)


def sequence_sum(logprobs: Tensor, old: Tensor, advantages: Tensor, low: float, high: float, mask: Tensor) -> Clipped:
    """One ratio per completion, the ratio of the probabilities of the whole completion: RLOO.

        s = exp(Σ_t log ρ_t) = π(y) / π_old(y)
        L = max(−A s, −A clip(s, 1 − low, 1 + high))

    Every token of a row carries the loss of the row, so the reduction "sequence_mean" gives it back once per
    completion; "sequence_sum" would count it once per token. Limits: at s = 1, row by row, the gradient is that of
    −A log π(y). Of long completions nearly all are clipped after one update.

    Arguments, result and errors as in `sequence_mean`.

    Source:
        Ahmadian et al. 2024, "Back to Basics", with PPO's clip as in TRL's RLOO.
    """
    log_s = _log_ratio(logprobs, old, mask).sum(1, keepdim=True)
    return _clip(log_s, _constants(logprobs, advantages, mask), low, high)


def cispo(logprobs: Tensor, old: Tensor, advantages: Tensor, low: float, high: float, mask: Tensor) -> Clipped:
    """The policy gradient with a capped weight: no token loses its gradient.

        L = −sg(min(ρ, 1 + high)) A log π

    sg stops the gradient. The papers name the cap itself: ε_max = 1 + high, so ε_max = 5 is high = 4. There is no
    lower end, and low is not used. Limits: at ρ ≤ 1 + high the gradient is that of −A ρ, the unclipped surrogate.

    Args:
        logprobs, old, advantages, low, high, mask: as in `token`.

    Returns:
        Clipped: the loss, whose value means nothing, and where the weight is capped. There the gradient is *not* 0.

    Source:
        MiniMax 2025, "MiniMax-M1"; ε_max = 5: Khatri et al. 2025, "The Art of Scaling Reinforcement Learning
        Compute for LLMs".

    Raises:
        ValueError: different shapes, a mask that is not boolean, or high < 0.
    """
    if high < 0:
        raise ValueError(f"high is {high:g}; it must not be negative.")
    rho = ratio(logprobs.detach(), old, mask)
    A = _constants(logprobs, advantages, mask)
    return Clipped(-rho.clamp(max=1 + high) * A * fill(logprobs, mask), rho > 1 + high)


def reinforce(logprobs: Tensor, old: Tensor, advantages: Tensor, low: float, high: float, mask: Tensor) -> Clipped:
    """L = −A log π, without a ratio: right for the first update after sampling, and for no other.

    Args:
        logprobs, old, advantages, low, high, mask: as in `token`; old, low and high are not used.

    Returns:
        Clipped: the loss, whose value means nothing, and False everywhere.

    Source:
        Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".

    Raises:
        ValueError: different shapes, or a mask that is not boolean.
    """
    check_shapes(logprobs=logprobs, old=old)
    A = _constants(logprobs, advantages, mask)
    return Clipped(-A * fill(logprobs, mask), torch.zeros_like(mask))


def sapo(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    low: float,
    high: float,
    mask: Tensor,
    better: float = 1.0,
    worse: float = 1.05,
) -> Clipped:
    """A smooth gate in place of the clip: the gradient fades with the distance of ρ from 1, and never stops.

        L = −A (4 / τ) σ(τ (ρ − 1)),   τ = `better` where A > 0, otherwise `worse`

    Limits: at ρ = 1 the gradient is that of −A log π; the weight of a token far from 1 goes to 0.

    Args:
        logprobs, old, advantages, low, high, mask: as in `token`; low and high are not used.
        better, worse: temperatures τ > 0; the larger, the faster the gradient fades.

    Returns:
        Clipped: the loss, in units of the advantage and 0 outside the mask, and False everywhere.

    Source:
        "Soft Adaptive Policy Optimization" (arXiv 2511.20347), with the values of TRL.

    Raises:
        ValueError: different shapes, a mask that is not boolean, or τ ≤ 0.
    """
    if better <= 0 or worse <= 0:
        raise ValueError(f"The temperatures are {better:g} and {worse:g}; both must be above 0.")
    A = _constants(logprobs, advantages, mask)
    tau = torch.full_like(A, worse).masked_fill(A > 0, better)
    rho = _log_ratio(logprobs, old, mask).clamp(max=40).exp()  # beyond it the gate is flat to the last bit
    return Clipped(-A * 4 / tau * torch.sigmoid(tau * (rho - 1)), torch.zeros_like(mask))


SURROGATES: dict[str, Surrogate] = {
    "token": token,
    "two_sided": two_sided,
    "sequence_mean": sequence_mean,
    "sequence_sum": sequence_sum,
    "cispo": cispo,
    "reinforce": reinforce,
    "sapo": sapo,
}

CORRECTIONS = ("none", "truncate", "mask")
LEVELS = ("token", "sequence")


def correction(trainer: Tensor, sampler: Tensor, mask: Tensor, how: str, level: str, low: float, high: float) -> Tensor:
    """How much each token counts, if the program that sampled it has other log-probabilities than the one that trains.

        w = exp(log π_trainer − log π_sampler), per token, or of the whole completion at all of its tokens
        truncate: clip(w, low, high)          mask: w inside [low, high], 0 outside          none: 1

    Both are the *same* weights in two programs, so w differs from 1 by rounding, or because the sampler left out
    tokens (top-p) or the temperature. Multiply the surrogate by it, never the KL to the reference.

    Limits: equal log-probabilities give 1. Truncation bounds the variance at the price of a small bias; the mask
    drops what the two disagree about. Per token the correction is biased, of the whole completion it is not.

    Args:
        trainer, sampler: (B, T) log-probabilities of the sampled tokens at the sampling temperature, nats; constant.
        mask: (B, T) bool, True where a token counts.
        how: "none", "truncate" or "mask".
        level: "token" or "sequence".
        low, high: the range of w, 0 ≤ low ≤ 1 ≤ high.

    Returns:
        (B, T) without gradient; 0 outside the mask.

    Source:
        Truncated importance sampling: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
        Training"; the mask: IcePop (Ling team, 2025).

    Raises:
        ValueError: different shapes, a mask that is not boolean, an unknown word, or a range that leaves out 1.
    """
    if how not in CORRECTIONS:
        raise ValueError(f"There is no correction {how!r}; choose one of {', '.join(CORRECTIONS)}.")
    if level not in LEVELS:
        raise ValueError(f"There is no level {level!r}; choose one of {', '.join(LEVELS)}.")
    if not 0 <= low <= 1 <= high:
        raise ValueError(f"The range is [{low:g}, {high:g}]; it must hold 1, the weight of equal log-probabilities.")
    check_shapes(trainer=trainer, sampler=sampler, mask=mask)
    log_w = _log_ratio(trainer.detach(), sampler, mask)
    if how == "none":
        return fill(torch.ones_like(log_w), mask)
    if level == "sequence":
        log_w = log_w.sum(1, keepdim=True).expand_as(log_w)
    w = log_w.exp()
    outside = (w < low) | (w > high)
    return fill(w.clamp(low, high) if how == "truncate" else w.masked_fill(outside, 0), mask)
