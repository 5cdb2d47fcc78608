"""Judgements of steps on paper: the loss of a step, one number for a solution, the first wrong step."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.process import AGGREGATE, aggregate, first_error, step_nll

NAN = float("nan")


def rows(*solutions: list[float]) -> torch.Tensor:
    return torch.tensor(solutions, dtype=torch.float64)


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_a_step_by_hand():
    """z = ln 3 means σ = 3/4: right costs ln 4/3, wrong ln 4, a label ¼ a quarter of one and three of the other."""
    z = rows([3, 3, 3]).log()
    right, wrong = math.log(4 / 3), math.log(4)
    assert_close(step_nll(z, rows([1, 0, 0.25])), rows([right, wrong, 0.25 * right + 0.75 * wrong]))


def test_no_opinion_costs_ln_2_whatever_the_label():
    assert_close(step_nll(rows([0, 0, 0]), rows([0, 1, 0.3])), rows([math.log(2)] * 3))


def test_a_softmax_of_two_is_the_same():
    """Logits (wrong, right) = (ln 2, ln 6): right has 6/8, the loss ln 4/3; z = ln 6 − ln 2 = ln 3."""
    wrong, right = math.log(2), math.log(6)
    assert_close(step_nll(rows([right - wrong]), rows([1])), rows([math.log(8 / 6)]))


def test_the_gradient_is_probability_minus_label():
    z = rows([math.log(3), math.log(3), math.log(3), 0]).requires_grad_()
    step_nll(z, rows([1, 0, 0.75, 0.5])).sum().backward()
    assert_close(z.grad, rows([-0.25, 0.75, 0, 0]))


def test_turning_label_and_logit_round_changes_nothing():
    z, y = rows([0.5, -2, 3]), rows([0.1, 0.8, 1])
    assert_close(step_nll(-z, 1 - y), step_nll(z, y))


def test_step_gradcheck():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    z = rows([0.5, -2, 3], [1, 0, 0]).requires_grad_()
    y = rows([0.1, 0.8, 1], [0, 0, 0])
    assert torch.autograd.gradcheck(lambda x: step_nll(x, y, mask), (z,))


@pytest.mark.parametrize("junk", [1e6, NAN, -math.inf])
def test_junk_in_the_padding_reaches_neither_loss_nor_gradient(junk):
    mask = torch.tensor([[True, False], [False, False]])
    z = torch.where(mask, 0.0, junk).requires_grad_()
    loss = step_nll(z, torch.where(mask, 1.0, junk), mask)
    loss.sum().backward()
    assert_close(loss, torch.tensor([[math.log(2), 0], [0, 0]]))
    assert z.grad.tolist() == [[-0.5, 0], [0, 0]]


def test_extreme_logits_stay_finite():
    assert step_nll(torch.tensor([[500.0, -500.0, 500.0]]), torch.tensor([[1.0, 1.0, 0.0]])).tolist() == [[0, 500, 500]]


STEPS = rows([0.5, 0.25, 1], [0.8, 0.5, NAN], [0.9, NAN, NAN])
THERE = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
BY_HAND = {
    "min": (0.25, 0.5, 0.9),
    "product": (0.125, 0.4, 0.9),
    "last": (1, 0.5, 0.9),
    "mean": (1.75 / 3, 0.65, 0.9),
}


@pytest.mark.parametrize("how", AGGREGATE)
def test_aggregates_by_hand(how):
    assert_close(aggregate(STEPS, how, THERE), t(*BY_HAND[how]))
    assert_close(aggregate(STEPS[:1], how), t(BY_HAND[how][0]))


def test_the_weakest_step_is_the_default():
    assert aggregate(rows([0.5, 0.25, 1])).tolist() == [0.25]


@pytest.mark.parametrize("how", AGGREGATE)
def test_probabilities_of_zero_and_one_are_kept(how):
    """A padded place is neither a certain failure nor a certain success."""
    mask = torch.tensor([[True, False], [True, False]])
    assert aggregate(rows([1, 0], [0, 1]), how, mask).tolist() == [1, 0]


@pytest.mark.parametrize("how", AGGREGATE)
def test_aggregate_gradcheck(how):
    p = torch.where(THERE, STEPS, 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: aggregate(x, how, THERE), (p,))


def test_the_first_wrong_step():
    right = torch.tensor([[True, False, False], [False, True, False], [True, True, True], [True, True, False]])
    assert first_error(right).tolist() == [1, 0, -1, 2]
    mask = torch.tensor([[True, False, False], [True, True, True], [True, True, True], [True, True, False]])
    assert first_error(right, mask).tolist() == [-1, 0, -1, -1]


def test_half_precision_becomes_float32():
    half = torch.tensor([[0.0]], dtype=torch.bfloat16)
    assert step_nll(half, half).dtype is torch.float32
    assert step_nll(half, half).item() == pytest.approx(math.log(2), abs=1e-6)
    assert aggregate(half).dtype is torch.float32


def test_refusals(refuses):
    two, one = torch.zeros(1, 2), torch.zeros(1, 1)
    with refuses("labels has shape (1, 1) but logits has (1, 2); give both the same shape."):
        step_nll(two, one)
    with refuses("mask has shape (1, 1) but logits has (1, 2); give both the same shape."):
        step_nll(two, two, one > 0)
    for label in (1.5, -0.5, NAN):
        with refuses("labels hold a value outside [0, 1]; give the probability that the step is right."):
            step_nll(one, one + label)
    with refuses("There is no way 'max' to aggregate steps; choose one of min, product, last, mean."):
        aggregate(two, "max")
    with refuses("mask has shape (1, 1) but x has (1, 2); give both the same shape."):
        aggregate(two, "min", one > 0)
    with refuses("A solution has no step, so there is nothing to aggregate; leave it out."):
        aggregate(torch.zeros(2, 2), "min", torch.tensor([[True, True], [False, False]]))
    with refuses("A solution has no step, so there is nothing to aggregate; leave it out."):
        aggregate(torch.zeros(1, 0), "min")
    with refuses("mask has shape (1, 1) but right has (1, 2); give both the same shape."):
        first_error(two > 0, one > 0)
