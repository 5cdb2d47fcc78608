"""The estimators of the KL on a distribution small enough to sum over, exactly; the controller by hand.

π = (½, ¼, ⅛, ⅛) and π_ref uniform over four tokens, so d = ln 2 · (1, 0, −1, −1).
KL(π ‖ π_ref) = Σ π d = ln 2 · (½ − ⅛ − ⅛) = ¼ ln 2. With respect to the logits of π:
∇ KL(π ‖ π_ref) = π (d − KL) = ln 2 · (½·¾, −¼·¼, −⅛·5/4, −⅛·5/4), and ∇ KL(π_ref ‖ π) = π − π_ref.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.kl import ESTIMATORS, adapt, k1, k2, k3, k3_corrected

LN2 = math.log(2)
NAN = float("nan")


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


PI = t(1 / 2, 1 / 4, 1 / 8, 1 / 8)
REF = t(1 / 4, 1 / 4, 1 / 4, 1 / 4)
REVERSE = LN2 * t(3 / 8, -1 / 16, -5 / 32, -5 / 32)
FORWARD = t(1 / 4, 0, -1 / 8, -1 / 8)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("k1", t(LN2, 0, -LN2, -LN2)),
        ("k2", LN2**2 / 2 * t(1, 0, 1, 1)),
        ("k3", t(LN2 - 1 / 2, 0, 1 - LN2, 1 - LN2)),
        ("k3_corrected", t(LN2 - 1 / 2, 0, 1 - LN2, 1 - LN2)),
    ],
)
def test_estimators_by_hand(name, expected):
    assert_close(ESTIMATORS[name](PI.log(), REF.log(), None), expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("k1", LN2 / 4), ("k2", LN2**2 * 3 / 8), ("k3", LN2 / 4), ("k3_corrected", LN2 / 4)],
)
def test_expected_values(name, expected):
    """k1 and k3 are unbiased; k2 says ⅜ ln² 2 = 0.180 where the KL is 0.173."""
    assert (PI * ESTIMATORS[name](PI.log(), REF.log(), None)).sum().item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("k1", t(0, 0, 0, 0)), ("k2", REVERSE), ("k3", FORWARD), ("k3_corrected", REVERSE)],
)
def test_expected_gradients_as_a_loss(name, expected):
    """Tokens are drawn from π, so the weights of the expectation carry no gradient."""
    logits = PI.log().requires_grad_()
    loss = ESTIMATORS[name](torch.log_softmax(logits, -1), REF.log(), None)
    (PI * loss).sum().backward()
    assert_close(logits.grad, expected)


def test_the_correction_is_exact_for_samples_of_an_older_policy():
    """Drawn from the uniform policy, ρ · k3 still averages to KL(π ‖ π_ref), with its exact gradient."""
    logits = PI.log().requires_grad_()
    other = t(1 / 8, 1 / 8, 1 / 4, 1 / 2)
    mean = (REF * k3_corrected(torch.log_softmax(logits, -1), other.log(), old=REF.log())).sum()
    mean.backward()
    d = (PI / other).log()
    assert mean.item() == pytest.approx((PI * d).sum().item(), abs=1e-12)
    assert_close(logits.grad, PI * (d - (PI * d).sum()))


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_the_same_policy_has_no_kl(name):
    assert ESTIMATORS[name](PI.log(), PI.log(), None).tolist() == [0, 0, 0, 0]


def test_signs():
    apart = t(-5, -0.1, 0, 0.1, 5)
    zero = torch.zeros_like(apart)
    assert k1(apart, zero).tolist() == [-5, -0.1, 0, 0.1, 5]
    for estimator in (k2, k3, k3_corrected):
        assert (estimator(apart, zero) >= 0).all()


def test_k3_keeps_its_digits_close_to_zero():
    """d = 1e-3 in float32: d²/2 − d³/6 = 4.998e-7, which exp(−d) − 1 + d would lose to rounding."""
    assert k3(torch.tensor([1e-3]), torch.tensor([0.0])).item() == pytest.approx(4.99833e-7, abs=6e-11)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_junk_in_the_padding(name):
    mask = torch.tensor([[True, False]])
    x = torch.tensor([[-1.0, NAN]], requires_grad=True)
    out = ESTIMATORS[name](x, torch.tensor([[-1.5, -math.inf]]), mask)
    out.sum().backward()
    assert out[0, 1].item() == 0
    assert x.grad[0, 1].item() == 0
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_the_reference_is_a_constant(name):
    reference = torch.zeros(2, requires_grad=True)
    ESTIMATORS[name](torch.ones(2, requires_grad=True), reference, None).sum().backward()
    assert reference.grad is None


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_gradcheck(name):
    assert torch.autograd.gradcheck(
        lambda x: ESTIMATORS[name](x, REF.log(), None), (PI.log().requires_grad_(),), eps=1e-7
    )


def test_gradcheck_of_the_correction():
    old = t(-1, -1.5, -2, -2.5)
    assert torch.autograd.gradcheck(lambda x: k3_corrected(x, REF.log(), None, old), (PI.log().requires_grad_(),))


def test_half_precision_becomes_float32():
    half = torch.ones(2, dtype=torch.bfloat16)
    assert all(estimate(half, half, None).dtype is torch.float32 for estimate in ESTIMATORS.values())


def test_refusals(refuses):
    two, one = torch.zeros(2), torch.zeros(1)
    for estimate in ESTIMATORS.values():
        with refuses("reference has shape (1,) but logprobs has (2,); give both the same shape."):
            estimate(two, one, None)
        with refuses("mask has shape (1,) but logprobs has (2,); give both the same shape."):
            estimate(two, two, one > 0)
    with refuses("reference has shape (1,) but logprobs has (2,); give both the same shape."):
        k3_corrected(two, two, old=one)


# --- the controller -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observed", "n", "expected"),
    [
        (6.0, 100, 0.05),  # at the target: stays
        (6.6, 100, 0.05 * 1.01),  # 10 % above, a tenth of the horizon: + 1 %
        (5.4, 100, 0.05 * 0.99),
        (60.0, 100, 0.05 * 1.02),  # the error is held at a fifth
        (0.0, 100, 0.05 * 0.98),
        (-3.0, 100, 0.05 * 0.98),
        (60.0, 1000, 0.05 * 1.2),
        (60.0, 50_000, 0.05 * 1.2),  # a step longer than the horizon still changes a fifth at most
        (0.0, 50_000, 0.05 * 0.8),
    ],
)
def test_adapt_by_hand(observed, n, expected):
    assert adapt(0.05, observed, target=6.0, horizon=1000, n=n) == pytest.approx(expected, abs=1e-12)


def test_adapt_refuses(refuses):
    for observed in (NAN, math.inf):
        with refuses(f"The observed KL is {observed}; look for NaN or infinity in the log-probabilities."):
            adapt(0.05, observed, 6.0, 1000, 10)
    with refuses("target is 0 and horizon is 10; both must be above 0."):
        adapt(0.05, 1.0, 0.0, 10, 10)
    with refuses("target is 6 and horizon is 0; both must be above 0."):
        adapt(0.05, 1.0, 6.0, 0, 10)
    assert adapt(0.05, 1.0, target=1.0, horizon=1, n=1) == 0.05
    assert adapt(0.05, 0.5, target=0.5, horizon=0.5, n=1) == 0.05
