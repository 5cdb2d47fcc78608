"""XPO and Nash-MD by hand, and their expectations over policies small enough to sum over."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.online import geometric_mixture, nash_md, xpo

LN2 = math.log(2)


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# log π − log π_ref is 1 for the policy's completion and −2 for the reference's: d = 3
OWN, OTHER, OWN_REF, OTHER_REF = t(-4, -4), t(-7, -7), t(-5, -5), t(-5, -5)
WON = torch.tensor([True, False])


def test_xpo_by_hand():
    """β = ½: −log σ(±3/2) = log(1 + e^∓1.5). α = ¼ adds ¼ · (−7), whoever won."""
    loss = xpo(OWN, OTHER, OWN_REF, OTHER_REF, WON, beta=0.5, alpha=0.25)
    assert_close(loss, t(softplus(-1.5) - 1.75, softplus(1.5) - 1.75))


def test_xpo_without_exploration_is_dpo():
    loss = xpo(OWN, OTHER, OWN_REF, OTHER_REF, WON, beta=0.5, alpha=0)
    assert_close(loss, t(softplus(-1.5), softplus(1.5)))


def test_xpo_starts_at_ln_2():
    loss = xpo(OWN, OTHER, OWN, OTHER, WON, beta=0.1, alpha=0)
    assert_close(loss, t(LN2, LN2))


def test_xpo_gradient_by_hand():
    """At π = π_ref: ∓β/2 on the policy's completion, ±β/2 + α on the reference's."""
    own, other = OWN.clone().requires_grad_(), OTHER.clone().requires_grad_()
    xpo(own, other, OWN, OTHER, WON, beta=0.5, alpha=0.125).sum().backward()
    assert own.grad.tolist() == [-0.25, 0.25]
    assert other.grad.tolist() == [0.375, -0.125]
    assert torch.autograd.gradcheck(lambda a, b: xpo(a, b, OWN_REF, OTHER_REF, WON, 0.5, 0.1), (own, other))


def test_xpo_with_certain_losers_does_not_overflow():
    far = torch.tensor([-1e4])
    loss = xpo(far, -far * 0, torch.zeros(1), torch.zeros(1), torch.tensor([True]), beta=1.0, alpha=0.0)
    assert loss.tolist() == [1e4]


def test_xpo_reference_is_constant():
    tensors = [torch.zeros(1, requires_grad=True) for _ in range(4)]
    xpo(*tensors, torch.tensor([True]), beta=0.1, alpha=0.1).sum().backward()
    assert [x.grad is None for x in tensors] == [False, False, True, True]
    half = torch.zeros(1, dtype=torch.bfloat16)
    assert xpo(half, half, half, half, torch.tensor([True]), 0.1, 0.0).dtype is torch.float32


def test_xpo_refuses(refuses):
    one, two, won = torch.zeros(1), torch.zeros(2), torch.tensor([True])
    for place, name in ((1, "other"), (2, "own_reference"), (3, "other_reference")):
        arguments = [one, one, one, one]
        arguments[place] = two
        with refuses(f"{name} has shape (2,) but own has (1,); give both the same shape."):
            xpo(*arguments, won, 0.1, 0.1)
    with refuses("won has shape (2,) but own has (1,); give both the same shape."):
        xpo(one, one, one, one, two > 0, 0.1, 0.1)
    with refuses("won has dtype torch.float32; give booleans, True where the policy's own completion won."):
        xpo(one, one, one, one, one, 0.1, 0.1)
    for beta in (0, -1):
        with refuses(f"beta is {beta}; it must be above 0."):
            xpo(one, one, one, one, won, beta, 0.1)
    with refuses("alpha is -0.1; it must not be negative."):
        xpo(one, one, one, one, won, 0.1, -0.1)
    assert xpo(one, one, one, one, won, 0.5, 0.0).item() == pytest.approx(LN2)


# --- Nash-MD ---------------------------------------------------------------------------------------------------------


def test_nash_md_by_hand():
    """log π/π_ref = 1 and β = ⅛: the weights are ¾ − ½ − ⅛ = ⅛ and 0 − ½ − ⅛ = −⅝."""
    logprobs = t(-4, -4).requires_grad_()
    loss = nash_md(logprobs, t(-5, -5), t(0.75, 0), beta=0.125)
    loss.sum().backward()
    assert loss.tolist() == [0.5, -2.5]
    assert logprobs.grad.tolist() == [-0.125, 0.625]


def test_nash_md_expects_the_gradient_of_winning_minus_the_kl():
    """π = softmax(θ) over three completions, exact expectations. The objective −Σ π P + β KL(π ‖ π_ref) is written
    out and differentiated by itself."""
    theta = t(0.3, -0.8, 0.5).requires_grad_()
    reference, preference, beta = t(0.2, 0.5, 0.3), t(0.9, 0.1, 0.4), 0.3
    logprobs = torch.log_softmax(theta, 0)
    (logprobs.detach().exp() * nash_md(logprobs, reference.log(), preference, beta)).sum().backward()
    free = theta.detach().clone().requires_grad_()
    p = torch.softmax(free, 0)
    (-(p * preference).sum() + beta * (p * (p / reference).log()).sum()).backward()
    assert_close(theta.grad, free.grad)


def test_nash_md_constants():
    tensors = [torch.full((1,), 0.5, requires_grad=True) for _ in range(3)]
    nash_md(*tensors, beta=0.1).sum().backward()
    assert [x.grad is None for x in tensors] == [False, True, True]
    half = torch.zeros(1, dtype=torch.bfloat16)
    assert nash_md(half, half, half, 0.1).dtype is torch.float32
    assert nash_md(t(-4), t(-9), t(1), beta=0).tolist() == [2]


def test_nash_md_refuses(refuses):
    one, two = torch.zeros(1), torch.zeros(2)
    with refuses("reference has shape (2,) but logprobs has (1,); give both the same shape."):
        nash_md(one, two, one, 0.1)
    with refuses("preference has shape (2,) but logprobs has (1,); give both the same shape."):
        nash_md(one, one, two, 0.1)
    with refuses("beta is -0.1; it must not be negative."):
        nash_md(one, one, one, -0.1)
    for wrong in (-0.5, 1.5, math.nan):
        with refuses("preference holds a value outside [0, 1]; give the probability that the completion wins."):
            nash_md(two, two, torch.tensor([0.5, wrong]), 0.1)


def test_geometric_mixture_by_hand():
    """π = (½, ½), π_ref = (0.9, 0.1), α = ½: the roots are √0.45 and √0.05, a ratio of 3: (¾, ¼)."""
    mixed = geometric_mixture(t(0.5, 0.5).log(), t(0.9, 0.1).log(), 0.5)
    assert_close(mixed.exp(), t(0.75, 0.25))
    assert_close(geometric_mixture(t(0.5, 0.5).log() + 7, t(0.9, 0.1).log() - 3, 0.5), mixed)


def test_geometric_mixture_at_its_ends():
    p, q = torch.tensor([[0.2, 0.8], [0.6, 0.4]]), torch.tensor([[0.5, 0.5], [0.1, 0.9]])
    assert_close(geometric_mixture(p.log(), q.log(), 0).exp(), p)
    assert_close(geometric_mixture(p.log(), q.log(), 1).exp(), q)
    quarter = p**0.75 * q**0.25
    assert_close(geometric_mixture(p.log(), q.log(), 0.25).exp(), quarter / quarter.sum(1, keepdim=True))
    half = torch.zeros(2, dtype=torch.bfloat16)
    assert geometric_mixture(half, half, 0.5).dtype is torch.float32


def test_geometric_mixture_refuses(refuses):
    with refuses("reference_logits has shape (2,) but logits has (3,); give both the same shape."):
        geometric_mixture(torch.zeros(3), torch.zeros(2), 0.5)
    for alpha in (-0.1, 1.1):
        with refuses(f"alpha is {alpha}; it must lie in [0, 1]."):
            geometric_mixture(torch.zeros(3), torch.zeros(3), alpha)
