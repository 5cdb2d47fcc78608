"""Process reward models: a judgement of every step of a solution, and one number for the solution from all of them.

S steps of a solution stand in a row of a (B, S) grid, right-padded. A logit z is the log-odds that the step is right.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lab.objectives.tokens import check_shapes, fill, masked_mean


def step_nll(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of each step.

        L = −y log σ(z) − (1 − y) log σ(−z)

    The label stands at the token the logit is read at: nothing is shifted. A softmax over two logits (wrong, right) is
    the same with z = z_right − z_wrong.

    Limits: z = 0 costs ln 2 whatever the label. A soft label y is met where σ(z) = y: the gradient σ(z) − y is 0 there.

    Args:
        logits: (B, S), with gradient.
        labels: (B, S) y in [0, 1]: 1 right, 0 wrong, between them the share of continuations that reach the answer.
        mask: (B, S) bool, True where a step counts. Default: all.

    Returns:
        (B, S) nats; 0 outside the mask.

    Source:
        Lightman et al. 2023, "Let's Verify Step by Step"; soft labels: Wang et al. 2024, "Math-Shepherd".

    Raises:
        ValueError: different shapes, a mask that is not boolean, or labels outside [0, 1].
    """
    check_shapes(logits=logits, labels=labels, mask=mask)
    z, y = fill(logits, mask), fill(labels, mask)
    if not bool(((y >= 0) & (y <= 1)).all()):
        raise ValueError("labels hold a value outside [0, 1]; give the probability that the step is right.")
    return fill(-y * logsigmoid(z) - (1 - y) * logsigmoid(-z), mask)


def _min(p: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, p, torch.inf).amin(1)


def _product(p: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, p, 1.0).prod(1)


def _last(p: Tensor, mask: Tensor) -> Tensor:
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    return torch.where(last, p, 0.0).sum(1)


def _mean(p: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(p, mask, dim=1)


AGGREGATE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "min": _min,
    "product": _product,
    "last": _last,
    "mean": _mean,
}


def aggregate(probabilities: Tensor, how: str = "min", mask: Tensor | None = None) -> Tensor:
    """One number for a solution from the probabilities of its steps.

    =======  ==========  ======================================================================
    min      min_s p_s   a solution is as good as its weakest step
    product  Π_s p_s     the probability that all steps are right, if they were independent
    last     p_S         the last step answers for all: an outcome reward model
    mean     mean_s p_s  forgives one wrong step among many right ones
    =======  ==========  ======================================================================

    Limits: one step is itself in all four. product ≤ min ≤ mean.

    Args:
        probabilities: (B, S) in [0, 1].
        how: a key of `AGGREGATE`.
        mask: (B, S) bool, True where there is a step. Default: all.

    Returns:
        (B,) in [0, 1].

    Source:
        Lightman et al. 2023 compare product and min; min: Wang et al. 2024, "Math-Shepherd".

    Raises:
        ValueError: unknown word, different shapes, a mask that is not boolean, or a solution without a step.
    """
    if how not in AGGREGATE:
        raise ValueError(f"There is no way {how!r} to aggregate steps; choose one of {', '.join(AGGREGATE)}.")
    p = fill(probabilities, mask)
    there = torch.ones_like(p, dtype=torch.bool) if mask is None else mask
    if not bool(there.any(1).all()):
        raise ValueError("A solution has no step, so there is nothing to aggregate; leave it out.")
    return AGGREGATE[how](p, there)


def first_error(right: Tensor, mask: Tensor | None = None) -> Tensor:
    """The place of the first wrong step of each solution, from 0; −1 where no step is wrong.

    Args:
        right: (B, S) bool, True where the step is (held to be) right.
        mask: (B, S) bool, True where there is a step. Default: all.

    Returns:
        (B,) whole numbers in [−1, S).

    Raises:
        ValueError: different shapes.
    """
    check_shapes(right=right, mask=mask)
    wrong = ~right if mask is None else ~right & mask
    return torch.where(wrong.any(1), wrong.int().argmax(1), -1)
