"""PPO's losses at and around the clip, by hand; their gradients; junk in the padding."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.policy import approx_kl, explained_variance, ppo_policy, ppo_value, ratio
from lab.objectives.tokens import length_mask, token_weights, weighted_sum

NAN = float("nan")


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_ratio_by_hand():
    assert_close(ratio(t(0.5, 0.5).log(), t(0.25, 0.5).log()), t(2, 1))
    assert ratio(t(NAN, 0), t(0, 0), torch.tensor([False, True])).tolist() == [1, 1]


def test_approx_kl_by_hand():
    """ρ = 2: 2 − 1 − ln 2. ρ = ½: ½ − 1 + ln 2. ρ = 1: 0."""
    kl = approx_kl(t(2, 0.5, 1).log(), t(1, 1, 1).log())
    assert_close(kl, t(1 - math.log(2), math.log(2) - 0.5, 0))
    assert approx_kl(t(NAN, 1), t(0, 1), torch.tensor([False, True])).tolist() == [0, 0]


def test_approx_kl_is_the_kl_from_old_to_new():
    """Old (½, ½), new (¼, ¾): KL(old ‖ new) = ½ ln 2 + ½ ln ⅔."""
    kl = approx_kl(t(0.25, 0.75).log(), t(0.5, 0.5).log())
    assert (0.5 * kl).sum().item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-12)


# ratio, advantage → loss and slope dL/dρ with ε = 0.25 (exact in binary)
CASES = [
    (1.0, 2.0, -2.0, -2.0, False),
    (1.0, -2.0, 2.0, 2.0, False),
    (1.25, 2.0, -2.5, -2.0, False),  # on the edge: still earning
    (1.5, 2.0, -2.5, 0.0, True),  # a better token is already likelier by more than ε
    (0.5, 2.0, -1.0, -2.0, False),  # a better token became less likely: pulled back in full
    (0.75, -2.0, 1.5, 2.0, False),
    (0.5, -2.0, 1.5, 0.0, True),  # a worse token is already less likely by more than ε
    (1.5, -2.0, 3.0, 2.0, False),  # a worse token became likelier: pushed down in full
    (8.0, -2.0, 16.0, 2.0, False),
    (8.0, 0.0, 0.0, 0.0, False),
]


@pytest.mark.parametrize(("rho", "advantage", "loss", "slope", "clipped"), CASES)
def test_policy_loss_around_the_clip(rho, advantage, loss, slope, clipped):
    logprobs = t(rho).log().requires_grad_()
    out = ppo_policy(logprobs, t(0), t(advantage), clip=0.25)
    out.loss.sum().backward()
    assert_close(out.loss, t(loss))
    assert_close(logprobs.grad, t(slope * rho))  # dL/dlog π = dL/dρ · ρ
    assert out.clipped.tolist() == [clipped]


@pytest.mark.parametrize(
    ("rho", "advantage", "loss", "slope", "clipped"),
    [
        (8.0, -2.0, 6.0, 0.0, True),  # the dual clip ends the growth at −A c
        (2.5, -2.0, 5.0, 2.0, False),  # below c nothing changes
        (8.0, 2.0, -2.5, 0.0, True),  # a positive advantage knows only the first clip
        (1.0, 0.5, -0.5, -0.5, False),  # however small
        (0.5, -2.0, 1.5, 0.0, True),
        (2.0, 2.0, -2.5, 0.0, True),
        (8.0, 0.0, 0.0, 0.0, False),
        (1.0, -2.0, 2.0, 2.0, False),
    ],
)
def test_dual_clip(rho, advantage, loss, slope, clipped):
    logprobs = t(rho).log().requires_grad_()
    out = ppo_policy(logprobs, t(0), t(advantage), clip=0.25, dual_clip=3)
    out.loss.sum().backward()
    assert_close(out.loss, t(loss))
    assert_close(logprobs.grad, t(slope * rho))
    assert out.clipped.tolist() == [clipped]


def test_a_dual_clip_just_above_one_is_allowed():
    out = ppo_policy(t(2).log(), t(0), t(-1), clip=0.25, dual_clip=1.5)
    assert_close(out.loss, t(1.5))  # unclipped it would be 2


def test_a_ratio_at_the_dual_clip_is_not_clipped():
    """ρ = e and c the same number, to the last bit: the gradient is still A ρ."""
    logprobs = t(1).requires_grad_()
    out = ppo_policy(logprobs, t(0), t(-1), clip=0.25, dual_clip=t(1).exp().item())
    out.loss.sum().backward()
    assert out.clipped.tolist() == [False]
    assert_close(logprobs.grad, t(math.e))


def test_first_update_is_the_policy_gradient():
    """ρ = 1 exactly: the loss is −A and its gradient −A, whatever ε."""
    logprobs = t(-1, -2, -3).requires_grad_()
    out = ppo_policy(logprobs, logprobs.detach(), t(1, -2, 0.5), clip=0.0)
    out.loss.sum().backward()
    assert out.loss.tolist() == [-1, 2, -0.5]
    out = ppo_policy(logprobs, logprobs.detach(), t(1, -2, 0.5), clip=0.2)
    logprobs.grad = None
    out.loss.sum().backward()
    assert logprobs.grad.tolist() == [-1, 2, -0.5]
    assert not out.clipped.any()


def test_policy_gradcheck_away_from_the_corners():
    old = t(-1, -2, -1.5, -0.5)
    logprobs = (old + t(0.1, -0.1, 0.7, -0.7)).requires_grad_()
    advantages = t(1, -1, 2, -2)
    assert torch.autograd.gradcheck(lambda x: ppo_policy(x, old, advantages, 0.2, 3.0).loss, (logprobs,))
    assert torch.autograd.gradcheck(lambda x: ratio(x, old), (logprobs,))
    assert torch.autograd.gradcheck(lambda x: approx_kl(x, old), (logprobs,))


def test_only_the_new_log_probabilities_carry_a_gradient():
    new, old, advantages = (torch.zeros(2, requires_grad=True) for _ in range(3))
    (ppo_policy(new, old, advantages, 0.2).loss + ratio(new, old) + approx_kl(new, old)).sum().backward()
    assert new.grad is not None
    assert old.grad is None
    assert advantages.grad is None
    old_values, returns = (torch.zeros(2, requires_grad=True) for _ in range(2))
    ppo_value(new, old_values, returns, 0.2).loss.sum().backward()
    assert old_values.grad is None
    assert returns.grad is None


def test_value_loss_around_the_clip():
    """ε = ½, V_old = 0, R = 2. V = ¼: ½·(7/4)². V = 1 is held at ½: ½·(3/2)². V = −1 is worse than its clip: ½·9."""
    values = t(0.25, 1, -1, 0.5).requires_grad_()
    out = ppo_value(values, t(0, 0, 0, 0), t(2, 2, 2, 2), clip=0.5)
    out.loss.sum().backward()
    assert out.loss.tolist() == [1.53125, 1.125, 4.5, 1.125]
    assert values.grad.tolist() == [-1.75, 0, -3, -1.5]
    assert out.clipped.tolist() == [False, True, False, False]


def test_value_clip_is_around_the_old_value():
    """V_old = 10, ε = 1, R = 0, V = 8 is held at 9: ½·81; R = 20, V = 12 is held at 11: ½·81."""
    out = ppo_value(t(8, 12), t(10, 10), t(0, 20), clip=1.0)
    assert out.loss.tolist() == [40.5, 40.5]


def test_without_a_value_clip_it_is_half_the_squared_error():
    assert ppo_value(t(5), t(0), t(2), clip=math.inf).loss.tolist() == [4.5]
    out = ppo_value(t(5), t(0), t(2), clip=0)
    assert out.loss.tolist() == [4.5]
    assert out.clipped.tolist() == [False]


def test_value_gradcheck():
    values = t(0.25, 1.1, -1, 0.4).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: ppo_value(v, t(0, 0, 0, 0), t(2, 2, 2, 2), 0.5).loss, (values,))


@pytest.mark.parametrize("junk", [1e6, NAN, -math.inf])
def test_junk_in_the_padding_reaches_neither_loss_nor_gradient(junk):
    mask = torch.tensor([[True, False], [True, True]])
    clean = torch.tensor([[-1.0, 0.0], [-2.0, -3.0]])
    dirty = torch.where(mask, clean, torch.tensor(junk))
    advantages, zero = torch.tensor([[1.0, junk], [-1.0, 2.0]]), torch.zeros(2, 2)
    for function in (
        lambda x: ppo_policy(x, dirty, advantages, 0.2, 3.0, mask=mask).loss,
        lambda x: ppo_value(x, dirty, advantages, 0.2, mask=mask).loss,
        lambda x: approx_kl(x, dirty, mask),
    ):
        x = dirty.clone().requires_grad_()
        loss = function(x)
        loss.sum().backward()
        assert loss[0, 1].item() == 0
        assert x.grad[0, 1].item() == 0
        assert torch.isfinite(loss).all()
        assert torch.isfinite(x.grad).all()
    assert not ppo_policy(dirty, dirty, advantages, 0.2, mask=mask).clipped[0, 1]
    assert not ppo_value(dirty, zero, advantages, 0.2, mask=mask).clipped[0, 1]


@pytest.mark.parametrize("parts", [(1,) * 8, (3, 5)])
def test_any_split_of_a_ppo_update_gives_the_same_gradient(parts):
    """log π = θ · f; unclipped, so the gradient is −Σ w A ρ f with w = 1/Σ lengths, worked out token by token."""
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(8, 5, 2, generator=generator, dtype=torch.float64)
    old = features @ t(0.05, -0.1)
    advantages = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    lengths = [5, 1, 3, 0, 2, 5, 4, 4]
    theta = t(0.1, 0.2).requires_grad_()
    expected = t(0, 0)
    for b, n in enumerate(lengths):
        for i in range(n):
            rho = math.exp(features[b, i] @ t(0.1, 0.2) - old[b, i])
            expected -= advantages[b, i] * rho * features[b, i] / sum(lengths)
    mask = length_mask(torch.tensor(lengths), 5)
    weights = token_weights(mask, "token_mean")
    for f, o, a, m, w in zip(*(x.split(parts) for x in (features, old, advantages, mask, weights)), strict=True):
        weighted_sum(ppo_policy(f @ theta, o, a, clip=50.0, mask=m).loss, w).backward()
    assert_close(theta.grad, expected, rtol=1e-6, atol=1e-6)


def test_explained_variance_by_hand():
    """Returns 0 2 4 (variance 8/3), errors 0 1 2 (variance 2/3): 1 − ¼. A constant explains 0, the returns all."""
    mask = torch.tensor([True, True, True, False])
    returns = t(0, 2, 4, NAN)
    assert_close(explained_variance(t(0, 1, 2, 1e6), returns, mask), torch.tensor(0.75, dtype=torch.float64))
    assert explained_variance(t(7, 7, 7, NAN), returns, mask).item() == 0
    assert explained_variance(returns, returns, mask).item() == 1
    assert_close(explained_variance(-returns, returns, mask), torch.tensor(-3.0, dtype=torch.float64))


def test_equal_returns_have_nothing_to_explain():
    mask = torch.ones(8, dtype=torch.bool)
    assert explained_variance(torch.arange(8.0), torch.full((8,), 0.1), mask).item() == 0
    assert explained_variance(torch.arange(8.0), torch.arange(8.0), ~mask).item() == 0
    x = torch.arange(8.0, requires_grad=True)
    assert not explained_variance(x, torch.arange(8.0), mask).requires_grad
    assert not explained_variance(torch.arange(8.0), x, mask).requires_grad


def test_flatness_is_relative_to_the_mean():
    """Returns 1000 ± 2e-3 have σ = 2e-3 > 1e-6 · 1001; ± 5e-4 have not. Half the signal explains 1 − ¼."""
    mask = torch.ones(2, dtype=torch.bool)
    for spread, expected in ((2e-3, 0.75), (5e-4, 0.0)):
        returns = 1000 + spread * t(-1, 1)
        share = explained_variance(returns / 2, returns, mask).item()
        assert share == pytest.approx(expected, abs=1e-6)


def test_refusals(refuses):
    two, one = torch.zeros(2), torch.zeros(1)
    with refuses("old has shape (1,) but logprobs has (2,); give both the same shape."):
        ratio(two, one)
    with refuses("mask has shape (1,) but logprobs has (2,); give both the same shape."):
        ratio(two, two, one > 0)
    with refuses("old has shape (1,) but logprobs has (2,); give both the same shape."):
        approx_kl(two, one)
    with refuses("mask has shape (1,) but logprobs has (2,); give both the same shape."):
        approx_kl(two, two, one > 0)
    with refuses("advantages has shape (1,) but logprobs has (2,); give both the same shape."):
        ppo_policy(two, two, one, 0.2)
    with refuses("old has shape (1,) but logprobs has (2,); give both the same shape."):
        ppo_policy(two, one, two, 0.2)
    with refuses("mask has shape (1,) but logprobs has (2,); give both the same shape."):
        ppo_policy(two, two, two, 0.2, mask=one > 0)
    with refuses("clip is -0.1; it must not be negative."):
        ppo_policy(two, two, two, -0.1)
    with refuses("dual_clip is 1; it must be above 1."):
        ppo_policy(two, two, two, 0.2, dual_clip=1)
    with refuses("old_values has shape (1,) but values has (2,); give both the same shape."):
        ppo_value(two, one, two, 0.2)
    with refuses("returns has shape (1,) but values has (2,); give both the same shape."):
        ppo_value(two, two, one, 0.2)
    with refuses("mask has shape (1,) but values has (2,); give both the same shape."):
        ppo_value(two, two, two, 0.2, mask=one > 0)
    with refuses("clip is -0.1; it must not be negative."):
        ppo_value(two, two, two, -0.1)
    with refuses("returns has shape (1,) but values has (2,); give both the same shape."):
        explained_variance(two, one, two > 0)
    with refuses("mask has shape (1,) but values has (2,); give both the same shape."):
        explained_variance(two, two, one > 0)
