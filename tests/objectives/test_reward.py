"""Bradley and Terry's likelihood: values on paper and the symmetries it must have."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.reward import accuracy, bradley_terry

NAN = float("nan")


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def ln(*numbers: float) -> torch.Tensor:
    return t(*numbers).log()


def test_equal_rewards_cost_ln_2():
    assert_close(bradley_terry(t(0, 3, -7), t(0, 3, -7)), ln(2, 2, 2))


def test_loss_by_hand():
    """A lead of ln 3 means σ = 3/4: the loss is ln 4/3 when right and ln 4 when wrong."""
    assert_close(bradley_terry(ln(3, 1), ln(1, 3)), ln(4 / 3, 4))


def test_margin_by_hand():
    """A lead of ln 6 with a margin of ln 2 leaves ln 3."""
    assert_close(bradley_terry(ln(6), ln(1), margin=ln(2)), ln(4 / 3))


def test_labels_and_smoothing_by_hand():
    """σ = 3/4. Label ¼: ¼ ln 4/3 + ¾ ln 4. Smoothing 0.1: 0.9 ln 4/3 + 0.1 ln 4; with label 0.25, q = 0.3."""
    right, wrong = math.log(4 / 3), math.log(4)
    assert_close(bradley_terry(ln(3), ln(1), labels=t(0.25)), t(0.25 * right + 0.75 * wrong))
    assert_close(bradley_terry(ln(3), ln(1), smoothing=0.1), t(0.9 * right + 0.1 * wrong))
    assert_close(bradley_terry(ln(3), ln(1), labels=t(0.25), smoothing=0.1), t(0.3 * right + 0.7 * wrong))
    assert_close(bradley_terry(ln(3), ln(1), smoothing=0.5), t((right + wrong) / 2))


def test_centring_by_hand():
    """Rewards 3 and 3: ln 2 + 0.01 · 36. Rewards that cancel pay nothing."""
    assert_close(bradley_terry(t(3), t(3), centring=0.01), t(math.log(2) + 0.36))
    assert_close(bradley_terry(t(3), t(-3), centring=0.01), bradley_terry(t(6), t(0)))


def test_a_common_shift_changes_nothing_without_centring():
    chosen, rejected = t(1, -2, 0.5), t(0, 1, 0.25)
    assert_close(bradley_terry(chosen + 100, rejected + 100), bradley_terry(chosen, rejected))


def test_exchanging_the_pair_with_its_label_and_margin_changes_nothing():
    chosen, rejected, margin, labels = t(1, -2, 0.5), t(0, 1, 0.25), t(0.5, 0, -1), t(0.1, 0.8, 1)
    there = bradley_terry(chosen, rejected, margin, labels, 0.2, 0.01)
    back = bradley_terry(rejected, chosen, -margin, 1 - labels, 0.2, 0.01)
    assert_close(there, back)


def test_exchanging_the_pair_negates_the_log_odds():
    """L(c, r) − L(r, c) = −log σ(z) + log σ(−z) = −z."""
    chosen, rejected = t(1, -2, 0.5), t(0, 1, 0.25)
    assert_close(bradley_terry(chosen, rejected) - bradley_terry(rejected, chosen), t(-1, 3, -0.25))


def test_gradient_by_hand():
    """dL/dr_c = −(1 − σ(z)) = −¼ at z = ln 3, and + ¼ for the rejected one."""
    chosen, rejected = ln(3).requires_grad_(), ln(1).requires_grad_()
    bradley_terry(chosen, rejected).sum().backward()
    assert_close(chosen.grad, t(-0.25))
    assert_close(rejected.grad, t(0.25))


def test_the_label_is_the_minimum():
    """The loss of a soft label ¾ is least where σ(z) = ¾: its gradient there is 0."""
    chosen = ln(3).requires_grad_()
    bradley_terry(chosen, ln(1), labels=t(0.75)).sum().backward()
    assert abs(chosen.grad.item()) < 1e-12


def test_extreme_rewards_stay_finite():
    loss = bradley_terry(torch.tensor([0.0, 500.0]), torch.tensor([500.0, 0.0]))
    assert loss.tolist() == [500.0, 0.0]


def test_gradcheck():
    chosen, rejected = t(1, -2, 0.5).requires_grad_(), t(0, 1, 0.25).requires_grad_()
    labels = t(0.1, 0.8, 1)
    assert torch.autograd.gradcheck(
        lambda c, r: bradley_terry(c, r, t(0.5, 0, -1), labels, 0.2, 0.01), (chosen, rejected)
    )


def test_half_precision_becomes_float32():
    half = torch.tensor([1.0], dtype=torch.bfloat16)
    loss = bradley_terry(half, half, margin=half, labels=half)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(math.log(1 + math.e), abs=1e-6)
    assert accuracy(half, half).dtype is torch.float32


def test_refusals(refuses):
    pair = t(1, 2), t(0, 0)
    with refuses("rejected has shape (1,) but chosen has (2,); give both the same shape."):
        bradley_terry(pair[0], t(1))
    with refuses("margin has shape (1,) but chosen has (2,); give both the same shape."):
        bradley_terry(*pair, margin=t(1))
    with refuses("labels has shape (1,) but chosen has (2,); give both the same shape."):
        bradley_terry(*pair, labels=t(1))
    for smoothing in (-0.1, 0.6):
        with refuses(f"smoothing is {smoothing:g}; it must lie in [0, 0.5]."):
            bradley_terry(*pair, smoothing=smoothing)
    with refuses("centring is -0.5; it must not be negative."):
        bradley_terry(*pair, centring=-0.5)
    for labels in (t(0.5, 1.1), t(-0.1, 0.5), t(NAN, 0.5)):
        with refuses("labels hold a value outside [0, 1]; give the probability that the chosen one is better."):
            bradley_terry(*pair, labels=labels)
    assert bradley_terry(*pair, labels=t(0, 1)).shape == (2,)


def test_accuracy_counts_a_tie_as_half():
    assert accuracy(t(2, 1, 1), t(1, 2, 1)).tolist() == [1, 0, 0.5]


def test_accuracy_does_not_hide_nan():
    assert accuracy(t(NAN, 5), t(1, 1)).isnan().tolist() == [True, False]


def test_accuracy_refuses_other_shapes(refuses):
    with refuses("rejected has shape (1,) but chosen has (2,); give both the same shape."):
        accuracy(t(1, 2), t(1))
