"""What the estimators of the KL are as values and as losses, by exact expectations over every outcome.

A policy over four tokens, written at two positions, so that there are 16 completions to sum over; the reference is
another such policy. Expected gradients come from the definition of the KL, summed and differentiated here.

Per token of one position: k1 as a loss has no expected gradient, k2 and k3_corrected have that of KL(π ‖ π_ref), and
k3 that of KL(π_ref ‖ π), which is p − q. Over two positions a loss per token leaves out what a token does to the
KL of the tokens after it; k1 in the reward does not.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lab.objectives.kl import ESTIMATORS, k1, k3_corrected

V = 4


def logits(seed: int) -> Tensor:
    """(1 + V, V): row 0 for the first token, row 1 + y for the token after y."""
    return torch.randn(1 + V, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


REFERENCE = torch.log_softmax(logits(1), 1)


def reverse(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q), from log-probabilities (V,)."""
    return (p.exp() * (p - q)).sum()


# --- one position ----------------------------------------------------------------------------------------------------


def expected_gradient(name: str, seed: int) -> Tensor:
    """∇ of E[estimator] as autograd sees it on-policy: the weights of the expectation are constants."""
    theta = logits(seed)[0].requires_grad_()
    policy = torch.log_softmax(theta, 0)
    (policy.detach().exp() * ESTIMATORS[name](policy, REFERENCE[0], None)).sum().backward()
    assert theta.grad is not None
    return theta.grad


def gradient_of_kl(seed: int) -> Tensor:
    theta = logits(seed)[0].requires_grad_()
    reverse(torch.log_softmax(theta, 0), REFERENCE[0]).backward()
    assert theta.grad is not None
    return theta.grad


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_k1_as_a_loss_has_no_expected_gradient(seed):
    assert_close(expected_gradient("k1", seed), torch.zeros(V, dtype=torch.float64), rtol=0, atol=1e-15)
    assert gradient_of_kl(seed).abs().max() > 0.05


@pytest.mark.parametrize("seed", [2, 3, 4])
@pytest.mark.parametrize("name", ["k2", "k3_corrected"])
def test_k2_and_the_corrected_k3_have_the_gradient_of_the_kl(name, seed):
    assert_close(expected_gradient(name, seed), gradient_of_kl(seed))


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_k3_has_the_gradient_of_the_other_kl(seed):
    """p − q, whose size is bounded whatever the KL is; not the gradient of KL(π ‖ π_ref)."""
    theta = logits(seed)[0].requires_grad_()
    reverse(REFERENCE[0], torch.log_softmax(theta, 0)).backward()
    p, q = torch.softmax(theta.detach(), 0), REFERENCE[0].exp()
    assert_close(expected_gradient("k3", seed), p - q)
    assert_close(theta.grad, p - q)
    assert (gradient_of_kl(seed) - (p - q)).abs().max() > 0.01


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_as_values_k1_and_k3_are_unbiased_and_k2_is_not(seed):
    policy = torch.log_softmax(logits(seed)[0], 0)
    mean = {name: (policy.exp() * ESTIMATORS[name](policy, REFERENCE[0], None)).sum() for name in ESTIMATORS}
    truth = reverse(policy, REFERENCE[0])
    for name in ("k1", "k3", "k3_corrected"):
        assert_close(mean[name], truth)
    assert (mean["k2"] - truth).abs() > 0.005


def test_k2_is_nearly_unbiased_near_the_reference():
    """KL and E[k2] agree to second order in the distance ε, so their difference is of order ε³."""
    direction = logits(5)[0]
    errors = []
    for step in (0.02, 0.01):
        policy = torch.log_softmax(REFERENCE[0] + step * direction, 0)
        value = (policy.exp() * ESTIMATORS["k2"](policy, REFERENCE[0], None)).sum()
        errors.append((value - reverse(policy, REFERENCE[0])).abs().item())
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.1)


@pytest.mark.parametrize("seed", [2, 3])
def test_the_correction_holds_for_tokens_of_an_older_policy(seed):
    """Drawn from π_old, ρ k3 is KL(π ‖ π_ref) and has its gradient; k3 without ρ is neither."""
    old = torch.log_softmax(logits(7)[0], 0)
    theta = logits(seed)[0].requires_grad_()
    policy = torch.log_softmax(theta, 0)
    value = (old.exp() * k3_corrected(policy, REFERENCE[0], None, old)).sum()
    value.backward()
    assert_close(value, reverse(policy, REFERENCE[0]))
    assert_close(theta.grad, gradient_of_kl(seed))
    plain = (old.exp() * ESTIMATORS["k3"](policy, REFERENCE[0], None)).sum()
    assert (plain - value).abs() > 0.01


# --- two positions ---------------------------------------------------------------------------------------------------

FIRST = torch.arange(V).repeat_interleave(V)  # all 16 completions: (0, 0), (0, 1), … (3, 3)
SECOND = torch.arange(V).repeat(V)


def completions(table: Tensor) -> Tensor:
    """(16, 2): the log-probability of each token of each completion, from log-probabilities (1 + V, V)."""
    return torch.stack([table[0, FIRST], table[1 + FIRST, SECOND]], dim=1)


def kl_of_completions(policy: Tensor) -> Tensor:
    """KL of the 16 completions: that of the first token plus, weighted, those of the second."""
    later = torch.stack([reverse(policy[1 + y], REFERENCE[1 + y]) for y in range(V)])
    return reverse(policy[0], REFERENCE[0]) + (policy[0].exp() * later).sum()


def test_the_sum_of_k1_is_the_kl_of_whole_completions():
    policy = torch.log_softmax(logits(2), 1)
    logprobs = completions(policy)
    estimate = k1(logprobs, completions(REFERENCE)).sum(1)
    assert_close((logprobs.sum(1).exp() * estimate).sum(), kl_of_completions(policy))


def test_k1_in_the_reward_has_the_gradient_of_the_kl_of_whole_completions():
    """REINFORCE with reward −Σ k1: every token answers for the KL of those after it."""
    theta = logits(2).requires_grad_()
    logprobs = completions(torch.log_softmax(theta, 1)).sum(1)
    penalty = k1(completions(torch.log_softmax(theta, 1)), completions(REFERENCE)).sum(1)
    (logprobs.detach().exp() * penalty.detach() * logprobs).sum().backward()
    free = logits(2).requires_grad_()
    kl_of_completions(torch.log_softmax(free, 1)).backward()
    assert_close(theta.grad, free.grad)


@pytest.mark.parametrize("name", ["k2", "k3_corrected"])
def test_a_loss_per_token_has_the_gradient_with_the_earlier_tokens_held(name):
    """Exact at the last position; at the first one without what it does to the KL of the second."""
    theta = logits(2).requires_grad_()
    logprobs = completions(torch.log_softmax(theta, 1))
    (
        logprobs.detach().sum(1).exp()[:, None] * ESTIMATORS[name](logprobs, completions(REFERENCE), None)
    ).sum().backward()
    free = logits(2).requires_grad_()
    policy = torch.log_softmax(free, 1)
    held = policy[0].detach().exp()
    later = torch.stack([reverse(policy[1 + y], REFERENCE[1 + y]) for y in range(V)])
    (reverse(policy[0], REFERENCE[0]) + (held * later).sum()).backward()
    whole = logits(2).requires_grad_()
    kl_of_completions(torch.log_softmax(whole, 1)).backward()
    assert_close(theta.grad, free.grad)
    assert_close(theta.grad[1:], whole.grad[1:])
    assert (theta.grad[0] - whole.grad[0]).abs().max() > 0.01
