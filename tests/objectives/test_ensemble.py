"""Ensembles on paper: what each way to combine makes of the same readings, and why they are standardised first."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.ensemble import COMBINE, combine, standardised


def rows(*members: list[float]) -> torch.Tensor:
    return torch.tensor(members, dtype=torch.float64)


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


THREE = rows([1, 0, 4], [2, 0, -2], [6, 0, 1])
"""Three members, three completions. Means 3, 0, 1; worst 1, 0, −2; population variances 14/3, 0, 6."""


def test_the_three_ways_by_hand():
    assert_close(combine(THREE, "mean"), t(3, 0, 1))
    assert_close(combine(THREE, "worst"), t(1, 0, -2))
    assert_close(combine(THREE, "uncertainty", 0.5), t(3 - 7 / 3, 0, 1 - 3))


def test_the_variance_is_the_populations():
    """Readings 0 and 2: variance 1, not 2."""
    assert combine(rows([0], [2]), "uncertainty", 1.0).item() == 0


def test_without_weight_uncertainty_is_the_mean_and_the_weight_is_for_it_alone():
    assert_close(combine(THREE, "uncertainty"), t(3, 0, 1))
    assert_close(combine(THREE, "mean", 9.0), t(3, 0, 1))
    assert_close(combine(THREE, "worst", 9.0), t(1, 0, -2))


@pytest.mark.parametrize("how", COMBINE)
def test_one_member_or_equal_members_are_that_member(how):
    assert combine(rows([1, -2]), how, 0.5).tolist() == [1, -2]
    assert combine(rows([1, -2], [1, -2]), how, 0.5).tolist() == [1, -2]


def test_standardised_by_hand():
    """Member 0: mean 1, spread 2. Member 1: mean −4, spread 0.5."""
    out = standardised(rows([1, 5], [-4, -5]), t(1, -4), t(2, 0.5))
    assert out.tolist() == [[0, 2], [0, -2]]


def test_the_widest_member_does_not_decide_the_worst_case():
    """The second member times ten: its own figures grow with it, so the worst case stays as it was, and with it the
    order of the completions. Without standardising, the order changes."""
    rewards, means, spreads = rows([3, 0.8, 2], [0.1, 0.3, -0.2]), t(2, 0.1), t(1, 0.2)
    wide = t(1, 10)
    worst = combine(standardised(rewards, means, spreads), "worst")
    again = combine(standardised(rewards * wide[:, None], means * wide, spreads * wide), "worst")
    assert_close(worst, t(0, -1.2, -1.5))  # members (1, −1.2, 0) and (0, 1, −1.5)
    assert_close(again, worst)
    raw, raw_wide = combine(rewards, "worst"), combine(rewards * wide[:, None], "worst")
    assert raw.argsort().tolist() == [2, 0, 1]
    assert raw_wide.argsort().tolist() == [2, 1, 0]


def test_gradients():
    """The worst case sends its gradient to the worst member alone; the mean to all alike."""
    worst, mean = THREE.clone().requires_grad_(), THREE[:, :1].clone().requires_grad_()
    combine(worst[:, [0, 2]], "worst").sum().backward()
    assert worst.grad.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    combine(mean, "uncertainty", 0.5).sum().backward()
    # d/dr_m of mean − ½ var = 1/3 − (r_m − 3) / 3
    assert_close(mean.grad, rows([1 + 2 / 3 - 2 / 3], [1 / 3 + 1 / 3], [1 / 3 - 1]))
    wiggle = THREE + rows([0.1, 0.2, 0.3], [0, 0, 0], [0, -0.1, 0])
    for how in COMBINE:
        assert torch.autograd.gradcheck(lambda r, how=how: combine(r, how, 0.5), (wiggle.clone().requires_grad_(),))
    assert torch.autograd.gradcheck(lambda r: standardised(r, t(1, 2, 3), t(1, 2, 0.5)), (wiggle.requires_grad_(),))


def test_nan_is_not_hidden():
    for how in COMBINE:
        assert combine(rows([float("nan"), 1], [0, 1]), how, 0.5).isnan().tolist() == [True, False]


def test_half_precision_becomes_float32():
    half = torch.tensor([[1.0], [3.0]], dtype=torch.bfloat16)
    assert combine(half, "mean").dtype is torch.float32
    out = standardised(half, torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16))
    assert out.dtype is torch.float32


def test_refusals(refuses):
    with refuses("There is no way 'max' to combine rewards; choose one of mean, worst, uncertainty."):
        combine(THREE, "max")
    with refuses("weight is -0.5; it must not be negative."):
        combine(THREE, "uncertainty", -0.5)
    with refuses("rewards has no member; give a row for each, at least one."):
        combine(torch.zeros(0, 3), "worst")
    with refuses("means has shape (2,); give one for each of the 3 members."):
        standardised(THREE, t(0, 0), t(1, 1, 1))
    with refuses("spreads has shape (); give one for each of the 3 members."):
        standardised(THREE, t(0, 0, 0), torch.tensor(1.0))
    for spread in (0.0, -1.0, float("nan")):
        with refuses("spreads hold a value that is not above 0; leave out a member that says the same of all."):
            standardised(THREE, t(0, 0, 0), t(1, 1, spread))
