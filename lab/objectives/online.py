"""Online preference learning: both completions are sampled now, and a judge or a reward model compares them.

`xpo` has one completion of the policy and one of the reference; `nash_md` plays the policy against a mixture of the
two. A log-probability is that of a whole completion: Σ_t log π(y_t), nats.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lab.objectives.tokens import check_shapes, real


def xpo(
    own: Tensor, other: Tensor, own_reference: Tensor, other_reference: Tensor, won: Tensor, beta: float, alpha: float
) -> Tensor:
    """Exploratory preference optimisation, per pair: online DPO plus a bonus for leaving the reference.

        d = log π(y) / π_ref(y) − log π(ỹ) / π_ref(ỹ)      y sampled from π, ỹ from π_ref
        L = −log σ(β d) + α log π(ỹ)   if y won,   −log σ(−β d) + α log π(ỹ)   if ỹ won

    The second term lowers the probability of what the reference writes, whoever won: optimism about what has not
    been tried. It has no lower end, so α is kept small.

    Limits: α = 0 is DPO on pairs of this kind. At π = π_ref the first term is ln 2.

    When to use: Where online DPO has settled on what the reference already says, and better answers are thought to lie
    outside it. Its trap is α: the bonus has no lower end, and a large one teaches the policy to unlearn its language.

    Args:
        own: (B,) log π(y), with gradient.
        other: (B,) log π(ỹ), with gradient.
        own_reference, other_reference: (B,) log π_ref(y) and log π_ref(ỹ), constant.
        won: (B,) bool, True where y, the policy's own completion, is the preferred one.
        beta: β > 0, per nat.
        alpha: α ≥ 0, per nat.

    Returns:
        (B,) nats.

    Source:
        Xie et al. 2024, "Exploratory Preference Optimization", algorithm 1.

    Raises:
        ValueError: different shapes, verdicts that are not boolean, β ≤ 0, or α < 0.
    """
    check_shapes(own=own, other=other, own_reference=own_reference, other_reference=other_reference, won=won)
    if won.dtype is not torch.bool:
        raise ValueError(f"won has dtype {won.dtype}; give booleans, True where the policy's own completion won.")
    if beta <= 0:
        raise ValueError(f"beta is {beta:g}; it must be above 0.")
    if alpha < 0:
        raise ValueError(f"alpha is {alpha:g}; it must not be negative.")
    own, other = real(own), real(other)
    d = (own - real(own_reference.detach())) - (other - real(other_reference.detach()))
    return -logsigmoid(beta * torch.where(won, d, -d)) + alpha * other


def nash_md(logprobs: Tensor, reference: Tensor, preference: Tensor, beta: float) -> Tensor:
    """Nash mirror descent as a policy gradient, per completion: win against the mixture, and stay near the reference.

        L = −sg(P(y ≻ y') − ½ − β log π(y) / π_ref(y)) log π(y)      y sampled from π, y' from the mixture

    sg stops the gradient: only the gradient of L means something. In expectation over y it is that of
    −P(y ≻ y') + β KL(π ‖ π_ref), with y' held as it is; the ½ is a baseline and changes only the variance. The
    log-ratio is of the whole completion: multiplied token by token, a token would not answer for what follows it.

    Limits: β = 0 is REINFORCE on the probability of winning. At π = π_ref only the verdict counts.

    When to use: Where preferences are no score at all (A over B, B over C, C over A), so that nobody is best and one
    plays for a draw with everybody. Its trap is the variance of a score-function gradient: it needs many completions.

    Args:
        logprobs: (B,) log π(y), with gradient; y was sampled from this very policy.
        reference: (B,) log π_ref(y), constant.
        preference: (B,) P(y ≻ y') in [0, 1], of a judge or σ(r(y) − r(y')); constant.
        beta: β ≥ 0, per nat.

    Returns:
        (B,).

    Source:
        Munos et al. 2023, "Nash Learning from Human Feedback", Nash-MD-PG.

    Raises:
        ValueError: different shapes, a preference outside [0, 1], or β < 0.
    """
    check_shapes(logprobs=logprobs, reference=reference, preference=preference)
    if beta < 0:
        raise ValueError(f"beta is {beta:g}; it must not be negative.")
    if not bool(((preference >= 0) & (preference <= 1)).all()):
        raise ValueError("preference holds a value outside [0, 1]; give the probability that the completion wins.")
    logprobs = real(logprobs)
    log_ratio = logprobs.detach() - real(reference.detach())
    return -(real(preference.detach()) - 0.5 - beta * log_ratio) * logprobs


def geometric_mixture(logits: Tensor, reference_logits: Tensor, alpha: float) -> Tensor:
    """log of π^(1 − α) π_ref^α / Z, the policy that Nash-MD plays against, for one next token.

    Z normalises over the vocabulary, token by token; completions sampled so are near the mixture of whole completions,
    whose Z cannot be summed.

    Limits: α = 0 is π, α = 1 is π_ref. Adding a constant to either of the logits changes nothing.

    Args:
        logits, reference_logits: (..., V), of π and of π_ref at the same position, with the temperature in them.
        alpha: α in [0, 1], the share of the reference.

    Returns:
        (..., V) nats, ≤ 0; their exponentials sum to 1.

    Source:
        Munos et al. 2023, "Nash Learning from Human Feedback", on the geometric mixture.

    Raises:
        ValueError: different shapes, or α outside [0, 1].
    """
    check_shapes(logits=logits, reference_logits=reference_logits)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha:g}; it must lie in [0, 1].")
    return torch.log_softmax((1 - alpha) * real(logits) + alpha * real(reference_logits), -1)
