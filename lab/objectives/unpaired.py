"""Learning from single ratings, liked or not, without pairs: KTO and BCO, their baselines, the balance of the kinds.

r = log π(y) − log π_ref(y)        nats, the sum over the tokens of a completion
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lab.objectives.tokens import check_shapes, real

MOST = 4 / 3
"""How much more the liked completions may weigh in all than the disliked ones (KTO, eq. 8)."""


class Ratings(NamedTuple):
    """B rated completions.

    logprobs: (B,) nats, Σ_t log π(y_t), the end token among them, with gradient.
    reference: (B,) nats, the same sums under the reference; constant.
    liked: (B,) bool.
    """

    logprobs: Tensor
    reference: Tensor
    liked: Tensor


UnpairedLoss = Callable[[Ratings, float, Tensor, float, float], Tensor]
"""Ratings, beta, baseline, liked_weight, disliked_weight to one loss per rating, (B,); never reduced."""


@dataclass(frozen=True, slots=True)
class UnpairedObjective:
    """One way to learn from ratings, and what has to be known to run it."""

    loss: UnpairedLoss
    beta: float
    """The paper's default, reward per nat."""
    mismatched: bool
    """Whether its baseline needs the log-probabilities of completions under prompts they do not belong to."""
    start: float
    """The loss of every rating, before its weight, where the policy is the reference and the baseline 0."""


def _log_ratios(logprobs: Tensor, reference: Tensor) -> Tensor:
    return real(logprobs) - real(reference.detach())


def _lead(ratings: Ratings, beta: float, baseline: Tensor) -> Tensor:
    """How far a rating lies on the side where it should be, (B,): β r − baseline if liked, its negative if not."""
    check_shapes(**ratings._asdict())
    if ratings.liked.dtype is not torch.bool:
        raise ValueError(f"liked has dtype {ratings.liked.dtype}; give booleans, True for a liked completion.")
    if not 0 < beta < math.inf:
        raise ValueError(f"beta is {beta:g}; it must be above 0 and finite.")
    if baseline.dim():
        raise ValueError(f"baseline has shape {tuple(baseline.shape)}; give one number for all ratings.")
    ahead = beta * _log_ratios(ratings.logprobs, ratings.reference) - real(baseline.detach())
    return torch.where(ratings.liked, ahead, -ahead)


def kto(
    ratings: Ratings, beta: float, baseline: Tensor, liked_weight: float = 1.0, disliked_weight: float = 1.0
) -> Tensor:
    """Kahneman–Tversky optimisation, per rating.

        L = λ_D (1 − σ(β (r − z0)))   if liked
        L = λ_U (1 − σ(β (z0 − r)))   if not

    Limits: λ / 2 at the reference, where z0 = 0. Between 0 and λ: the gradient fades where a rating is fulfilled and
    where it is hopeless, so single wrong ratings do little harm.

    When to use: Thumbs up and down without pairs, or far more of one than of the other. Its trap is z0: it has to come
    from completions under other prompts (`kto_baseline`), and a batch of one has none.

    Args:
        ratings: B rated completions.
        beta: β > 0, reward per nat.
        baseline: z0, one number, nats; constant.
        liked_weight, disliked_weight: λ_D and λ_U, see `balance`.

    Returns:
        (B,), no unit.

    Source:
        Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", eq. 7.

    Raises:
        ValueError: different shapes, ratings that are not boolean, β ≤ 0, or more than one baseline.
    """
    losses = torch.sigmoid(-_lead(ratings, beta, beta * baseline))
    return torch.where(ratings.liked, liked_weight * losses, disliked_weight * losses)


def bco(
    ratings: Ratings, beta: float, baseline: Tensor, liked_weight: float = 1.0, disliked_weight: float = 1.0
) -> Tensor:
    """Binary classifier optimisation, per rating: is a completion liked, judged by its reward β r?

        L = −λ_D log σ(β r − δ)   if liked
        L = −λ_U log σ(δ − β r)   if not

    Limits: λ ln 2 at the reference, where δ = 0. A liked and a disliked completion of one prompt together cost more
    than their DPO loss, whatever δ is; least above it where δ is the middle of their rewards.

    When to use: Thumbs up and down without pairs, where KTO learns too little from what is far off. Its trap is just
    that: the gradient of a wrong rating never fades, as in every logistic loss.

    Args:
        ratings: B rated completions.
        beta: β > 0, reward per nat.
        baseline: δ, one number, reward units; constant, from `bco_baseline`.
        liked_weight, disliked_weight: λ_D and λ_U, see `balance`.

    Returns:
        (B,) nats.

    Source:
        Jung et al. 2024, "Binary Classifier Optimization for Large Language Model Alignment".

    Raises:
        ValueError: different shapes, ratings that are not boolean, β ≤ 0, or more than one baseline.
    """
    losses = -logsigmoid(_lead(ratings, beta, baseline))
    return torch.where(ratings.liked, liked_weight * losses, disliked_weight * losses)


UNPAIRED: dict[str, UnpairedObjective] = {
    "kto": UnpairedObjective(kto, 0.1, mismatched=True, start=0.5),
    "bco": UnpairedObjective(bco, 0.01, mismatched=False, start=math.log(2)),
}
"""Every objective for ratings, by name."""


def kto_baseline(logprobs: Tensor, reference: Tensor) -> Tensor:
    """z0 = max(0, mean r) over mismatched completions: an estimate of KL(π ‖ π_ref) that is never negative.

    Mismatched: every completion of the update under the prompt of another (the next one, say), so that it stands for
    what the policy would say there rather than for what was rated. Take the mean over the whole update, not over its
    parts.

    Limits: 0 where the policy is the reference. With matched completions r would be taken off itself.

    Args:
        logprobs, reference: (B,) nats, of mismatched completions.

    Returns:
        A scalar, nats, without gradient.

    Source:
        Ethayarajh et al. 2024.

    Raises:
        ValueError: different shapes, or no completion.
    """
    check_shapes(logprobs=logprobs, reference=reference)
    if not logprobs.numel():
        raise ValueError("The baseline of KTO is a mean over mismatched completions; give at least one.")
    return _log_ratios(logprobs, reference).detach().mean().clamp(min=0)


def bco_baseline(previous: float, ratings: Ratings, beta: float, momentum: float = 0.9) -> float:
    """δ after an update: a moving average of the middle between the rewards of the liked and the disliked.

        middle = ½ (mean of β r over the liked + mean of β r over the disliked)
        δ ← m δ + (1 − m) middle

    It starts at 0, the middle while the policy is the reference. An update with one kind only has no middle and leaves
    δ as it is.

    Args:
        previous: δ before, reward units.
        ratings: all of an update.
        beta: reward per nat.
        momentum: m in [0, 1), how much of δ stays.

    Source:
        Jung et al. 2024 (the middle, and that it is averaged over time); m = 0.9 is this lab's. TRL up to 1.10 took
        the mean over all ratings seen since the start instead.

    Raises:
        ValueError: different shapes, or m outside [0, 1).
    """
    check_shapes(**ratings._asdict())
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum:g}; it must lie in [0, 1).")
    rewards = beta * _log_ratios(ratings.logprobs.detach(), ratings.reference)
    liked, disliked = rewards[ratings.liked], rewards[~ratings.liked]
    if not liked.numel() or not disliked.numel():
        return previous
    middle = (liked.mean().item() + disliked.mean().item()) / 2
    return momentum * previous + (1 - momentum) * middle


class Balance(NamedTuple):
    """Weights of the two kinds of ratings: λ_D and λ_U."""

    liked: float
    disliked: float


def balance(n_liked: int, n_disliked: int) -> Balance:
    """Weights that let both kinds count about the same, however many there are of each.

        1 ≤ λ_D n_D / (λ_U n_U) ≤ 4/3

    The smallest change that does: no weight is below 1, and one of them is 1. Numbers already in the range keep both
    at 1; fewer liked are raised to the lower end, fewer disliked to the upper end.

    Args:
        n_liked, n_disliked: n_D and n_U, ratings in the training data.

    Source:
        Ethayarajh et al. 2024, eq. 8.

    Raises:
        ValueError: a kind that is missing.
    """
    if n_liked < 1 or n_disliked < 1:
        missing = "liked" if n_liked < 1 else "disliked"
        raise ValueError(f"No completion is {missing}; ratings of one kind alone teach nothing, so add some of both.")
    share = n_liked / n_disliked
    return Balance(max(1.0, 1 / share), max(1.0, share / MOST))
