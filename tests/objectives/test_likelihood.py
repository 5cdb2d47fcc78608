"""Log-probabilities of given tokens against logarithms of fractions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.likelihood import nll, token_logprobs

NAN = float("nan")


def test_token_logprobs_by_hand():
    """Logits log 1, log 2, log 5 are the probabilities 1/8, 2/8, 5/8; at τ = ½ they become 1/30, 4/30, 25/30."""
    logits = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log().expand(1, 3, 3)
    targets = torch.tensor([[0, 1, 2]])
    expected = torch.tensor([[1 / 8, 2 / 8, 5 / 8]], dtype=torch.float64).log()
    assert_close(token_logprobs(logits, targets), expected)
    expected = torch.tensor([[1 / 30, 4 / 30, 25 / 30]], dtype=torch.float64).log()
    assert_close(token_logprobs(logits, targets, 0.5), expected)


def test_adding_the_same_number_to_all_logits_changes_nothing():
    logits = torch.tensor([[1e3, 1e3 + math.log(3)]], dtype=torch.float64)
    assert token_logprobs(logits, torch.tensor([1])).item() == pytest.approx(math.log(3 / 4), abs=1e-9)


def test_half_precision_is_summed_in_float32():
    """A thousand equal logits: −log 1000 = −6.9078; bfloat16 could only say −6.90625 or −6.9375."""
    logprob = token_logprobs(torch.zeros(1, 1000, dtype=torch.bfloat16), torch.tensor([7]))
    assert logprob.dtype is torch.float32
    assert logprob.item() == pytest.approx(-math.log(1000), abs=1e-5)


def test_token_logprobs_refuses_what_does_not_fit(refuses):
    logits = torch.zeros(2, 3, 4)
    with refuses("logits has shape (2, 3, 4) and targets (2, 4); give one target for each row of logits."):
        token_logprobs(logits, torch.zeros(2, 4, dtype=torch.long))
    for temperature, shown in ((0.0, "0"), (-0.5, "-0.5")):
        with refuses(f"temperature is {shown}; it must be above 0."):
            token_logprobs(logits, torch.zeros(2, 3, dtype=torch.long), temperature)


def test_gradient_of_token_logprobs():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 1, 2], [3, 3, 0]])
    assert torch.autograd.gradcheck(lambda z: token_logprobs(z, targets, 0.7), (logits,))


def test_nll_by_hand():
    """A token of probability ¼ costs ln 4."""
    logprobs = torch.tensor([[math.log(0.25), NAN]], requires_grad=True)
    loss = nll(logprobs, torch.tensor([[True, False]]))
    assert_close(loss, torch.tensor([[math.log(4), 0.0]]))
    loss.sum().backward()
    assert logprobs.grad.tolist() == [[-1, 0]]
    assert nll(torch.tensor([-2.0])).tolist() == [2.0]


def test_nll_refuses_another_shape(refuses):
    with refuses("mask has shape (1, 1) but x has (1, 2); give both the same shape."):
        nll(torch.zeros(1, 2), torch.tensor([[True]]))
