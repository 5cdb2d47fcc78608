"""What the preference objectives take and are made of: pairs, knobs, log-ratios, averages per token.

With sums of log-probabilities over the tokens of a completion, the end token among them (nats):

    a = log π(y_c) − log π_ref(y_c)        the chosen completion
    b = log π(y_r) − log π_ref(y_r)        the rejected completion
    d = a − b                              the margin
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lab.objectives.tokens import check_shapes, real


class Pairs(NamedTuple):
    """B preferences as log-probabilities of whole completions: sums over their tokens, the end token among them.

    chosen, rejected: (B,) nats, Σ_t log π(y_t), with gradient.
    chosen_reference, rejected_reference: (B,) nats, the same sums under the reference; constant. Zeros where an
        objective has no reference.
    chosen_length, rejected_length: (B,) tokens, whole numbers.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_reference: Tensor
    rejected_reference: Tensor
    chosen_length: Tensor
    rejected_length: Tensor


@dataclass(frozen=True, slots=True)
class Knobs:
    """The numbers an objective may read; which of them it does read stands in `preference.OBJECTIVES`.

    Raises:
        ValueError: a number outside its range.
    """

    beta: float
    """β > 0, reward per nat of log-ratio: with a larger one, fewer nats do. IPO calls it τ, ORPO λ."""
    smoothing: float = 0.0
    """ε in [0, 0.5], the share of preferences believed to be the wrong way round."""
    gamma: float = 0.0
    """γ ≥ 0, reward: by how much the chosen completion should be ahead (SimPO)."""
    nll: float = 1.0
    """Weight ≥ 0 of the negative log-likelihood of the chosen completion, loss per nat (CPO)."""
    divergence: float = 0.5
    """α in (0, 1), no unit: between the reverse KL (0) and the forward KL (1) (f-DPO)."""
    sharpness: float = 0.05
    """τ in (0, 1], reward: how sharply the loss changes its shape where the margin changes its sign (DiscoPOP)."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta is {self.beta:g}; it must be above 0 and finite.")
        if not 0 <= self.smoothing <= 0.5:
            raise ValueError(f"smoothing is {self.smoothing:g}; it must lie in [0, 0.5].")
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma is {self.gamma:g}; it must not be negative, and finite.")
        if not 0 <= self.nll < math.inf:
            raise ValueError(f"nll is {self.nll:g}; it must not be negative, and finite.")
        if not 0 < self.divergence < 1:
            raise ValueError(f"divergence is {self.divergence:g}; it must lie between 0 and 1.")
        if not 0 < self.sharpness <= 1:
            raise ValueError(f"sharpness is {self.sharpness:g}; it must be above 0 and at most 1.")


Loss = Callable[[Pairs, Knobs], Tensor]
"""An objective: pairs and knobs to one loss per pair, (B,); never reduced."""


class ChosenRejected(NamedTuple):
    """One number for each completion of a pair, (B,) each."""

    chosen: Tensor
    rejected: Tensor


def log_ratios(pairs: Pairs) -> ChosenRejected:
    """a and b: log π − log π_ref of both completions, (B,) nats. The reference is constant.

    Raises:
        ValueError: different shapes.
    """
    check_shapes(**pairs._asdict())
    return ChosenRejected(
        real(pairs.chosen) - real(pairs.chosen_reference.detach()),
        real(pairs.rejected) - real(pairs.rejected_reference.detach()),
    )


def per_token(sums: ChosenRejected, pairs: Pairs) -> ChosenRejected:
    """Sums over completions divided by their lengths, (B,) per token; an empty completion is divided by 1."""
    return ChosenRejected(
        sums.chosen / pairs.chosen_length.clamp(min=1), sums.rejected / pairs.rejected_length.clamp(min=1)
    )


def logprobs(pairs: Pairs) -> ChosenRejected:
    """log π of both completions, (B,) nats: what the objectives without a reference start from.

    Raises:
        ValueError: different shapes.
    """
    check_shapes(**pairs._asdict())
    return ChosenRejected(real(pairs.chosen), real(pairs.rejected))
