"""Losses of rankings on paper: K-wise pairs and Plackett and Luce's order; their limits, gradients, padding."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.ranking import kwise, plackett_luce

NAN = float("nan")


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def rows(*groups: list[float]) -> torch.Tensor:
    return torch.tensor(groups, dtype=torch.float64)


def pair(lead: float) -> float:
    """−log σ(lead) = log(1 + e^−lead)."""
    return math.log1p(math.exp(-lead))


# --- all pairs of a group --------------------------------------------------------------------------------------------


def test_a_group_is_the_mean_of_its_pairs():
    """Rewards ln 6, ln 2, ln 1, best first: σ = 3/4, 6/7 and 2/3, so the mean of ln 4/3, ln 7/6 and ln 3/2."""
    loss = kwise(rows([6, 2, 1]).log(), torch.tensor([[0, 1, 2]]))
    assert_close(loss, t((math.log(4 / 3) + math.log(7 / 6) + math.log(3 / 2)) / 3))


def test_a_lower_rank_is_better_wherever_it_stands():
    """Ranks 5, 1, 3 of rewards ln 1, ln 6, ln 2 say the same as above; ranks 1, 5, 3 the opposite: ln 4, ln 7, ln 3."""
    rewards = rows([1, 6, 2], [1, 6, 2]).log()
    loss = kwise(rewards, torch.tensor([[5, 1, 3], [1, 5, 3]]))
    assert_close(loss, t(math.log(4 / 3 * 7 / 6 * 3 / 2) / 3, math.log(4 * 7 * 3) / 3))


def test_two_completions_are_one_pair():
    """σ(ln 3) = 3/4: ln 4/3 when right, ln 4 when wrong."""
    loss = kwise(rows([3, 1], [3, 1]).log(), torch.tensor([[0, 1], [1, 0]]))
    assert_close(loss, t(math.log(4 / 3), math.log(4)))


def test_equal_ranks_are_no_pair():
    """Ranks 0, 0, 1: two pairs remain, (6, 1) and (2, 1). All equal: nothing to learn."""
    rewards = rows([6, 2, 1], [6, 2, 1]).log().requires_grad_()
    loss = kwise(rewards, torch.tensor([[0, 0, 1], [4, 4, 4]]))
    loss.sum().backward()
    assert_close(loss, t((math.log(7 / 6) + math.log(3 / 2)) / 2, 0))
    assert rewards.grad[1].tolist() == [0, 0, 0]


def test_equal_rewards_cost_ln_2_whatever_the_size():
    for K in (2, 3, 7):
        assert_close(kwise(torch.full((1, K), 5.0), torch.arange(K)[None]), torch.tensor([math.log(2)]))


def test_groups_of_different_sizes_stand_in_one_grid():
    rewards = rows([6, 2, 1], [3, 1, 999], [999, 999, 999]).log()
    mask = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    loss = kwise(rewards, torch.tensor([[0, 1, 2], [0, 1, -7], [0, 1, 2]]), mask)
    assert_close(loss, t(math.log(4 / 3 * 7 / 6 * 3 / 2) / 3, math.log(4 / 3), 0))


def test_a_prompt_counts_once_however_many_completions_it_has():
    """Gradients of equal rewards: each pair gives ∓½ / n. K = 3: −⅓, 0, ⅓. K = 4: −3/12, −1/12, 1/12, 3/12."""
    three, four = torch.zeros(1, 3, requires_grad=True), torch.zeros(1, 4, requires_grad=True)
    kwise(three, torch.arange(3)[None]).sum().backward()
    kwise(four, torch.arange(4)[None]).sum().backward()
    assert_close(three.grad, torch.tensor([[-1 / 3, 0, 1 / 3]]))
    assert_close(four.grad, torch.tensor([[-3.0, -1.0, 1.0, 3.0]]) / 12)


def test_smoothing_and_centring_reach_every_pair():
    """Two pairs (3, 1) and (3, 1) in logs, ranks 0, 1, 1; ε = 0.1 gives 0.9 ln 4/3 + 0.1 ln 4; c (ln 3 + 0)² more."""
    rewards, ranks = rows([3, 1, 1]).log(), torch.tensor([[0, 1, 1]])
    smoothed = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert_close(kwise(rewards, ranks, smoothing=0.1), t(smoothed))
    centred = kwise(rewards, ranks, smoothing=0.1, centring=0.5)
    assert_close(centred, t(smoothed + 0.5 * math.log(3) ** 2))


def test_a_common_shift_of_a_group_changes_nothing():
    rewards, ranks = rows([0.5, -1, 2], [1, 0, 3]), torch.tensor([[0, 1, 2], [2, 0, 1]])
    assert_close(kwise(rewards + t(100, -7)[:, None], ranks), kwise(rewards, ranks))


def test_the_order_of_standing_does_not_matter():
    rewards, ranks = rows([0.5, -1, 2, 0.1]), torch.tensor([[0, 1, 1, 2]])
    for order in itertools.permutations(range(4)):
        assert_close(kwise(rewards[:, order], ranks[:, order]), kwise(rewards, ranks))


def test_kwise_gradcheck():
    rewards = rows([0.5, -1, 2, 0.1], [1, 0.3, NAN, -2]).requires_grad_()
    ranks = torch.tensor([[0, 1, 1, 2], [2, 0, 9, 1]])
    mask = torch.tensor([[True] * 4, [True, True, False, True]])
    filled = torch.where(mask, rewards, 0).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda r: kwise(r, ranks, mask, 0.1, 0.3), (filled,))


# --- the order as a whole --------------------------------------------------------------------------------------------


def test_an_order_is_chosen_one_by_one():
    """Weights 6, 2, 1: the first of nine has 6/9, the second of three 2/3, so ln 9/6 + ln 3/2."""
    assert_close(plackett_luce(rows([6, 2, 1]).log()), t(math.log(9 / 6) + math.log(3 / 2)))
    assert_close(plackett_luce(rows([1, 2, 6]).log()), t(math.log(9) + math.log(8 / 2)))


def test_an_order_of_two_is_a_pair():
    """σ(ln 3) = 3/4. With centring ½: ½ (ln 3 + ln 2)² for rewards ln 3 and ln 2, beside ln 5/3."""
    assert_close(plackett_luce(rows([3, 1], [1, 3]).log()), t(math.log(4 / 3), math.log(4)))
    centred = plackett_luce(rows([3, 2]).log(), centring=0.5)
    assert_close(centred, t(math.log(5 / 3) + 0.5 * math.log(6) ** 2))


def test_centring_is_twice_the_mean_squared_over_completions_that_are_there():
    """Rewards 1, 2, 3: mean 2, so c · 16; equal rewards 3, 3 beside padding: ln 2 + c · 36; none: 0."""
    rewards = rows([1, 2, 3], [3, 3, NAN], [NAN, NAN, NAN])
    mask = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    without, centred = plackett_luce(rewards, mask), plackett_luce(rewards, mask, centring=0.25)
    assert_close(centred - without, t(4, 9, 0))
    assert_close(without[1:], t(math.log(2), 0))


def test_equal_rewards_cost_ln_k_factorial():
    for K in (1, 2, 3, 6):
        loss = plackett_luce(torch.full((1, K), -4.0))
        assert_close(loss, torch.tensor([math.log(math.factorial(K))]))


def test_the_likelihoods_of_all_orders_add_up_to_one():
    rewards = t(0.5, -1, 2, 0.1)
    orders = torch.stack([rewards[list(order)] for order in itertools.permutations(range(4))])
    assert plackett_luce(orders).neg().exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_orders_of_different_lengths_stand_in_one_grid():
    rewards = rows([6, 2, 1], [3, 1, 999], [5, 999, 999], [999, 3, 1]).log()
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False], [False, True, True]])
    expected = t(math.log(9 / 4), math.log(4 / 3), 0, math.log(4 / 3))
    assert_close(plackett_luce(rewards, mask), expected)


def test_an_order_does_not_know_where_zero_is():
    rewards = rows([0.5, -1, 2], [1, 0, 3])
    assert_close(plackett_luce(rewards + t(100, -7)[:, None]), plackett_luce(rewards))


def test_the_gradient_is_what_was_expected_minus_what_was_chosen():
    """Weights 6, 2, 1. Turn 1: 6/9 − 1, 2/9, 1/9. Turn 2: 2/3 − 1, 1/3. Sums −1/3, −1/9, 4/9."""
    rewards = rows([6, 2, 1]).log().requires_grad_()
    plackett_luce(rewards).sum().backward()
    assert_close(rewards.grad, rows([-1 / 3, -1 / 9, 4 / 9]))


def test_plackett_luce_gradcheck():
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    rewards = rows([0.5, -1, 2, 0.1], [1, 0.3, 0, 0]).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: plackett_luce(r, mask, 0.3), (rewards,))


def test_extreme_rewards_stay_finite():
    assert plackett_luce(torch.tensor([[0.0, 500.0], [500.0, 0.0]])).tolist() == [500.0, 0.0]
    ranks = torch.tensor([[0, 1], [0, 1]])
    assert kwise(torch.tensor([[0.0, 500.0], [500.0, 0.0]]), ranks).tolist() == [500.0, 0.0]


# --- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("junk", [1e6, NAN, math.inf, -math.inf])
def test_junk_in_the_padding_reaches_neither_loss_nor_gradient(junk):
    mask = torch.tensor([[True, True, False], [False, False, False]])
    clean = torch.tensor([[math.log(3), 0.0, 0.0], [0.0, 0.0, 0.0]])
    ranks = torch.where(mask, torch.tensor([0.0, 1.0, 2.0]), junk)
    for function in (
        lambda x: kwise(x, ranks, mask, centring=0.5),
        lambda x: plackett_luce(x, mask, centring=0.5),
    ):
        x = torch.where(mask, clean, torch.tensor(junk)).requires_grad_()
        loss = function(x)
        loss.sum().backward()
        assert_close(loss, torch.tensor([math.log(4 / 3) + 0.5 * math.log(3) ** 2, 0]))
        centring = 0.5 * 2 * math.log(3)
        assert_close(x.grad, torch.tensor([[centring - 0.25, centring + 0.25, 0], [0, 0, 0]]))


def test_half_precision_becomes_float32():
    half = torch.tensor([[1.0, 1.0]], dtype=torch.bfloat16)
    for loss in (kwise(half, torch.tensor([[0, 1]])), plackett_luce(half)):
        assert loss.dtype is torch.float32
        assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_refusals(refuses):
    two, one = torch.zeros(1, 2), torch.zeros(1, 1)
    with refuses("ranks has shape (1, 1) but rewards has (1, 2); give both the same shape."):
        kwise(two, one)
    with refuses("mask has shape (1, 1) but rewards has (1, 2); give both the same shape."):
        kwise(two, two, one > 0)
    with refuses("mask has dtype torch.float32; give booleans, True where a token counts."):
        kwise(two, two, two)
    with refuses("smoothing is 0.6; it must lie in [0, 0.5]."):
        kwise(two, two, smoothing=0.6)
    with refuses("centring is -1; it must not be negative."):
        kwise(two, two, centring=-1)
    with refuses("mask has shape (1, 1) but x has (1, 2); give both the same shape."):
        plackett_luce(two, one > 0)
    with refuses("centring is -1; it must not be negative."):
        plackett_luce(two, centring=-1)
