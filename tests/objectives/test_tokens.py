"""Masks, the shift, masked statistics, whitening and the weights of an update, against arithmetic on paper."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.tokens import (
    at_last,
    check_lengths,
    check_shapes,
    fill,
    is_flat,
    length_mask,
    masked_mean,
    masked_sum,
    masked_var,
    real,
    shift,
    token_weights,
    weighted_sum,
    whiten,
)

NAN = float("nan")
LENGTHS = torch.tensor([1, 3])
MASK = torch.tensor([[True, False, False], [True, True, True]])
LOSSES = torch.tensor([[4.0, NAN, 1e6], [1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("given", "inside"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float32),
    ],
)
def test_arithmetic_is_float32_or_float64(given, inside):
    assert real(torch.ones(2, dtype=given)).dtype is inside


# --- masks from lengths ---------------------------------------------------------------------------------------


def test_length_mask_by_hand():
    expected = [[False, False, False], [True, False, False], [True, True, True]]
    assert length_mask(torch.tensor([0, 1, 3]), 3).tolist() == expected


def test_length_mask_of_nothing():
    assert length_mask(torch.tensor([], dtype=torch.long), 3).shape == (0, 3)
    assert length_mask(torch.tensor([0, 0]), 0).shape == (2, 0)


def test_lengths_are_refused_with_the_reason(refuses):
    with refuses("lengths run from 1 to 4; they must lie in [0, 3]."):
        length_mask(torch.tensor([1, 4]), 3)
    with refuses("lengths run from -1 to 2; they must lie in [0, 3]."):
        length_mask(torch.tensor([-1, 2]), 3)
    with refuses("lengths has shape (2, 1); give one length for each of the 2 rows."):
        length_mask(torch.tensor([[1], [2]]), 3)
    with refuses("lengths has shape (2,); give one length for each of the 3 rows."):
        check_lengths(LENGTHS, 3, 3)
    with refuses("lengths has dtype torch.float32; give whole numbers of tokens."):
        length_mask(torch.tensor([1.0, 2.0]), 3)
    with refuses("lengths has dtype torch.bool; give whole numbers of tokens."):
        length_mask(torch.tensor([True, False]), 3)


def test_a_single_row_is_checked_too(refuses):
    with refuses("lengths run from 4 to 4; they must lie in [0, 3]."):
        length_mask(torch.tensor([4]), 3)


def test_shapes_are_refused_by_name(refuses):
    check_shapes(a=torch.zeros(2, 3), b=None, c=torch.zeros(2, 3))
    with refuses("c has shape (2, 1) but a has (2, 3); give both the same shape."):
        check_shapes(a=torch.zeros(2, 3), b=None, c=torch.zeros(2, 1))


def test_fill_replaces_nan_and_leaves_an_exact_zero_gradient():
    x = torch.tensor([[4.0, NAN, NAN], [1.0, 2.0, 3.0]], requires_grad=True)
    fill(x, MASK).exp().sum().backward()
    assert_close(x.grad, torch.tensor([[4.0, 0, 0], [1, 2, 3]]).exp() * MASK)
    assert fill(LOSSES, MASK).tolist() == [[4, 0, 0], [1, 2, 3]]
    assert fill(torch.tensor([3]), None).tolist() == [3.0]
    assert fill(torch.ones(2, dtype=torch.bfloat16), None).dtype is torch.float32
    assert fill(torch.ones(2, 3, dtype=torch.bfloat16), MASK).dtype is torch.float32


def test_masks_of_numbers_and_of_other_shapes_are_refused(refuses):
    with refuses("mask has dtype torch.float32; give booleans, True where a token counts."):
        masked_sum(LOSSES, MASK.float())
    with refuses("mask has shape (2, 1) but x has (2, 3); give both the same shape."):
        masked_sum(LOSSES, MASK[:, :1])


# --- the shift by one -----------------------------------------------------------------------------------------


def test_shift_by_hand():
    """Prompt 5 6, completion 7 8, end 2, padding 2 (the end token pads as well): 6→7, 7→8, 8→2 are learnt."""
    tokens = torch.tensor([[5, 6, 7, 8, 2, 2]])
    mask = torch.tensor([[False, False, True, True, True, False]])
    shifted = shift(tokens, mask)
    assert shifted.inputs.tolist() == [[5, 6, 7, 8, 2]]
    assert shifted.targets.tolist() == [[6, 7, 8, 2, 2]]
    assert shifted.mask.tolist() == [[False, True, True, True, False]]
    assert shifted.targets[shifted.mask].tolist() == [7, 8, 2]


def test_shift_refuses_other_shapes(refuses):
    with refuses("mask has shape (2, 3) but tokens has (1, 3); give both the same shape."):
        shift(torch.tensor([[1, 2, 3]]), MASK)


def test_at_last_by_hand():
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, NAN, NAN], [NAN, NAN, NAN]], requires_grad=True)
    last = at_last(x, torch.tensor([3, 1, 0]))
    assert last.tolist() == [3.0, 4.0, 0.0]
    last.sum().backward()
    assert x.grad.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_at_last_of_hidden_states():
    x = torch.arange(12.0).view(2, 3, 2).bfloat16()
    picked = at_last(x, torch.tensor([2, 0], dtype=torch.int32))
    assert picked.tolist() == [[2.0, 3.0], [0.0, 0.0]]
    assert picked.dtype is torch.float32
    assert at_last(torch.zeros(2, 0), torch.tensor([0, 0])).tolist() == [0.0, 0.0]


def test_at_last_checks_its_lengths(refuses):
    with refuses("lengths run from 1 to 4; they must lie in [0, 3]."):
        at_last(LOSSES, torch.tensor([1, 4]))
    with refuses("lengths has shape (1,); give one length for each of the 2 rows."):
        at_last(LOSSES, torch.tensor([1]))


# --- masked statistics ----------------------------------------------------------------------------------------


def test_masked_statistics_by_hand():
    """Counted: 4 | 1 2 3. Sum 10, mean 10/4; squares of 1.5, −1.5, −0.5, 0.5 add up to 5, variance 5/4."""
    assert masked_sum(LOSSES, MASK).item() == 10
    assert masked_mean(LOSSES, MASK).item() == 2.5
    assert masked_var(LOSSES, MASK).item() == 1.25


def test_masked_statistics_along_a_dimension():
    """Rows: 4 | 1 2 3. Columns: 4 1 | 2 | 3."""
    assert masked_sum(LOSSES, MASK, 1).tolist() == [4, 6]
    assert masked_sum(LOSSES, MASK, 0).tolist() == [5, 2, 3]
    assert masked_mean(LOSSES, MASK, 1).tolist() == [4, 2]
    assert masked_mean(LOSSES, MASK, 0).tolist() == [2.5, 2, 3]
    assert_close(masked_var(LOSSES, MASK, 1), torch.tensor([0, 2 / 3]))
    assert masked_var(LOSSES, MASK, 0).tolist() == [2.25, 0, 0]


def test_statistics_of_nothing_are_zero():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    x = torch.full((2, 3), NAN, requires_grad=True)
    for statistic in (masked_sum, masked_mean, masked_var):
        assert statistic(x, nothing).item() == 0
        assert statistic(x, nothing, 1).tolist() == [0, 0]
    masked_var(x, nothing).backward()
    assert x.grad.tolist() == [[0, 0, 0], [0, 0, 0]]


# --- whitening ------------------------------------------------------------------------------------------------


def test_whiten_by_hand():
    """Counted 4 | 2 4 6: mean 4, population variance (0 + 4 + 0 + 4)/4 = 2."""
    x = torch.tensor([[4.0, NAN, 1e6], [2.0, 4.0, 6.0]])
    root = 2**0.5
    assert_close(whiten(x, MASK), torch.tensor([[0, 0, 0], [-root, 0, root]]))
    assert_close(whiten(x, MASK, shift_mean=False), torch.tensor([[4, 0, 0], [4 - root, 4, 4 + root]]))


def test_whitening_subtracts_the_mean_over_counted_tokens_only():
    generator = torch.Generator().manual_seed(0)
    x = 3 + 5 * torch.randn(8, 16, generator=generator, dtype=torch.float64)
    mask = torch.arange(16) < torch.arange(1, 9)[:, None]
    white = whiten(torch.where(mask, x, torch.tensor(1e6, dtype=torch.float64)), mask)
    counted = white[mask]
    assert abs(counted.mean().item()) < 1e-12
    assert abs((counted**2).mean().item() - 1) < 1e-12
    assert white[~mask].abs().max().item() == 0
    assert_close(whiten(x, mask, shift_mean=False)[mask].mean(), x[mask].mean())


@pytest.mark.parametrize("value", [0.1, 100.1, -3e4])
def test_equal_values_whiten_to_exact_zero(value):
    assert whiten(torch.full((1, 8), value), torch.ones(1, 8, dtype=torch.bool)).abs().max().item() == 0


def test_small_differences_are_not_flat():
    """Values ±3e-6 around 1 have σ = 3e-6, above the limit of 1e-6 · (1 + 1) = 2e-6; ±1e-6 have not."""
    mask = torch.ones(1, 2, dtype=torch.bool)
    x = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    assert_close(whiten(1 + 3e-6 * x, mask), x, rtol=1e-6, atol=0)
    assert whiten(1 + 1.5e-6 * x, mask).tolist() == [[0, 0]]
    assert_close(whiten(3e-6 * x - 1, mask), x, rtol=1e-6, atol=0)
    assert whiten(1.5e-6 * x - 1, mask).tolist() == [[0, 0]]


def test_flat_up_to_and_including_the_limit():
    """The limit is 1e-6 · (1 + |−1|) = 2e-6."""
    sigma = torch.tensor([2e-6, 2.1e-6], dtype=torch.float64)
    assert is_flat(torch.tensor(-1.0, dtype=torch.float64), sigma).tolist() == [True, False]


def test_whitening_one_token_or_none_is_zero_and_carries_no_gradient():
    one = torch.tensor([[True, False]])
    assert whiten(torch.tensor([[7.0, NAN]], requires_grad=True), one).tolist() == [[0, 0]]
    assert whiten(torch.tensor([[7.0, NAN]]), ~one & one).tolist() == [[0, 0]]
    assert not whiten(torch.tensor([[7.0, 8.0]], requires_grad=True), one).requires_grad


# --- the weights of an update ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("token_mean", 10 / 4),
        ("sequence_mean", (4 / 1 + 6 / 3) / 2),
        ("sequence_sum", (4 + 6) / 2),
        ("constant", 10 / (2 * 5)),
    ],
)
def test_reductions_by_hand(reduction, expected):
    weights = token_weights(MASK, reduction, longest=5)
    assert weights.dtype is torch.float32
    assert weighted_sum(LOSSES, weights).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("token_mean", 10 / 4),
        ("sequence_mean", (4 + 2 + 0) / 3),
        ("sequence_sum", (4 + 6 + 0) / 3),
        ("constant", 10 / (3 * 5)),
    ],
)
def test_an_empty_completion_adds_nothing_and_is_counted(reduction, expected):
    mask, losses = torch.cat([MASK, torch.zeros(1, 3) > 0]), torch.cat([LOSSES, torch.full((1, 3), NAN)])
    loss = weighted_sum(losses, token_weights(mask, reduction, longest=5))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("token_mean", 4), ("sequence_mean", 4), ("sequence_sum", 4), ("constant", 4 / 5)],
)
def test_rows_that_do_not_take_part_leave_numerator_and_divisor(reduction, expected):
    rows = torch.tensor([True, False])
    loss = weighted_sum(LOSSES, token_weights(MASK, reduction, rows=rows, longest=5))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "sequence_sum", "constant"])
def test_an_update_without_tokens_is_zero_with_zero_gradient(reduction):
    losses = torch.full((2, 3), NAN, requires_grad=True)
    for rows, mask in ((None, MASK & ~MASK), (torch.zeros(2) > 0, MASK)):
        loss = weighted_sum(losses, token_weights(mask, reduction, rows=rows, longest=5))
        loss.backward()
        assert loss.item() == 0
    assert losses.grad.tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "sequence_sum", "constant"])
@pytest.mark.parametrize("parts", [(8,), (1,) * 8, (3, 5)])
def test_any_split_of_an_update_gives_the_same_gradient(reduction, parts):
    """L[b, t] = θ · f[b, t], so the gradient is Σ w f; w is worked out here row by row from the lengths."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(8, 6, 2, generator=generator, dtype=torch.float64)
    lengths = [6, 1, 3, 0, 2, 5, 4, 6]
    divisor = {
        "token_mean": lambda n: sum(lengths),
        "sequence_mean": lambda n: n * 8,
        "sequence_sum": lambda n: 8,
        "constant": lambda n: 8 * 7,
    }[reduction]
    expected = sum(features[b, t] / divisor(n) for b, n in enumerate(lengths) for t in range(n))
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    weights = token_weights(length_mask(torch.tensor(lengths), 6), reduction, longest=7)
    for part, w in zip(features.split(parts), weights.split(parts), strict=True):
        weighted_sum(part @ theta, w).backward()
    assert_close(theta.grad, expected, rtol=1e-6, atol=1e-6)


def test_the_mean_of_the_parts_means_is_another_number():
    """Rows 4 | 1 2 3 on their own have the means 4 and 2, and (4 + 2)/2 = 3 is not the token mean 2.5."""
    apart = [
        weighted_sum(x, token_weights(m, "token_mean")) for x, m in zip(LOSSES.split(1), MASK.split(1), strict=True)
    ]
    assert sum(apart).item() / 2 == 3
    assert weighted_sum(LOSSES, token_weights(MASK, "token_mean")).item() == 2.5


def test_weights_are_refused_with_the_reason(refuses):
    with refuses("There is no reduction 'mean'; choose one of token_mean, sequence_mean, sequence_sum, constant."):
        token_weights(MASK, "mean")
    sentence = "The constant reduction divides by the longest completion allowed; give longest in tokens."
    with refuses(sentence):
        token_weights(MASK, "constant")
    with refuses(sentence):
        token_weights(MASK, "constant", longest=0)
    with refuses("rows has shape (1,); give one boolean for each of the 2 rows."):
        token_weights(MASK, "token_mean", rows=torch.tensor([True]))
    with refuses("weights has shape (2, 1) but losses has (2, 3); give both the same shape."):
        weighted_sum(LOSSES, torch.ones(2, 1))


def test_the_shortest_longest_is_one_token():
    assert token_weights(torch.tensor([[True], [True]]), "constant", longest=1).tolist() == [[0.5], [0.5]]


def test_losses_per_pair_are_weighted_the_same_way():
    assert weighted_sum(torch.tensor([3.0, NAN]), torch.tensor([0.5, 0.0])).item() == 1.5


def test_new_tensors_live_where_the_given_ones_do():
    """With another default device, anything that forgot the device of its input would meet a foreign tensor."""
    with torch.device("meta"):
        assert length_mask(LENGTHS, 3).tolist() == MASK.tolist()
        assert token_weights(MASK, "sequence_sum").tolist() == [[0.5, 0, 0], [0.5, 0.5, 0.5]]
        assert at_last(LOSSES, LENGTHS).tolist() == [4, 3]
        assert masked_var(LOSSES, MASK).item() == 1.25
