"""Advantages of groups by hand: equal rewards, groups of one, several rewards, lengths and returns."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.group import ADVANTAGES, flat_groups, gdpo, overlong, returns_to_go

GROUPED = ("group_std", "group_mean", "leave_one_out", "batch_std")
LONELY = (
    "Every prompt has 1 completion, but its baseline is the mean of its group, so that every advantage would be 0; "
    'sample at least 2 completions per prompt, or take the advantage "none".'
)


def t(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# Two prompts with two completions each: means 2 and 0; within the groups σ = √2 and 2√2; of all four rewards
# (1, 3, −2, 2) the mean is 1 and the sum of squares 0 + 4 + 9 + 1 = 14, so σ = √(14/3).
REWARDS = t([1, 3], [-2, 2])
CENTRED = t([-1, 1], [-2, 2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("group_std", CENTRED / t([math.sqrt(2) + 1e-4], [2 * math.sqrt(2) + 1e-4])),
        ("group_mean", CENTRED),
        ("leave_one_out", t([-2, 2], [-4, 4])),  # r minus the other one
        ("batch_std", CENTRED / (math.sqrt(14 / 3) + 1e-4)),
        ("none", REWARDS),
    ],
)
def test_advantages_by_hand(name, expected):
    assert_close(ADVANTAGES[name](REWARDS), expected, rtol=1e-12, atol=0)


def test_there_are_these_advantages():
    assert list(ADVANTAGES) == ["group_std", "group_mean", "leave_one_out", "batch_std", "none"]


def test_leave_one_out_is_the_reward_minus_the_mean_of_the_others():
    """Of four: 7 − (1 + 2 + 6)/3 = 4, and so on."""
    assert_close(ADVANTAGES["leave_one_out"](t([7, 1, 2, 6])), t([4, 1 - 15 / 3, 2 - 14 / 3, 6 - 10 / 3]))


def test_leave_one_out_is_unbiased_where_the_group_mean_is_not():
    """Two completions drawn from p = (¼, ¾) with rewards (0, 4), so E r = 3. The gradient of E r with respect to the
    first logit is p_0 (r_0 − E r) = ¼ · (−3); summed over both draws, leave-one-out expects twice that and the group
    mean half of it."""
    p, reward = (0.25, 0.75), (0.0, 4.0)
    expected = {"leave_one_out": 2 * 0.25 * -3, "group_mean": 0.25 * -3}
    for name, answer in expected.items():
        total = 0.0
        for i in (0, 1):
            for j in (0, 1):
                advantages = ADVANTAGES[name](t([reward[i], reward[j]]))[0].tolist()
                slopes = [(k == 0) - p[0] for k in (i, j)]  # ∂ log p_k / ∂ logit_0
                total += p[i] * p[j] * sum(a * s for a, s in zip(advantages, slopes, strict=True))
        assert total == pytest.approx(answer, abs=1e-12)


def test_group_std_ignores_place_and_scale_and_batch_std_keeps_them():
    """Rewards (0, 1) and (0, 10): the first counts both alike, the second a tenth."""
    wide = t([0, 1], [0, 10])
    grouped, batched = ADVANTAGES["group_std"](wide), ADVANTAGES["batch_std"](wide)
    assert_close(grouped[0], grouped[1], rtol=2e-4, atol=0)
    assert_close(10 * batched[0], batched[1])
    assert_close(ADVANTAGES["group_std"](wide + 5), grouped)


@pytest.mark.parametrize("name", GROUPED)
def test_equal_rewards_teach_exactly_nothing(name):
    """In float32 the mean of eight 0.1 is not 0.1: the rounding must not become an advantage."""
    equal = torch.full((8,), 0.1)
    assert (equal - equal.mean()).abs().max() > 0
    advantages = ADVANTAGES[name](torch.stack([equal, torch.arange(8.0)]))
    assert advantages[0].tolist() == [0.0] * 8
    assert (advantages[1] != 0).all()
    assert ADVANTAGES[name](equal[None].expand(3, 8)).tolist() == [[0.0] * 8] * 3


@pytest.mark.parametrize("name", GROUPED)
def test_groups_of_one_have_no_baseline(name, refuses):
    with refuses(LONELY):
        ADVANTAGES[name](torch.zeros(4, 1))
    assert ADVANTAGES["none"](torch.ones(4, 1)).tolist() == [[1.0]] * 4


@pytest.mark.parametrize("name", list(ADVANTAGES))
def test_advantages_are_constants_of_a_table(name, refuses):
    rewards = torch.tensor([[1, 2, 4]], dtype=torch.bfloat16, requires_grad=True)
    advantages = ADVANTAGES[name](rewards)
    assert not advantages.requires_grad
    assert advantages.dtype is torch.float32
    with refuses("rewards has shape (4,); give (P, G), one row per prompt and one column per completion."):
        ADVANTAGES[name](torch.zeros(4))


def test_flat_groups():
    """Flat up to a millionth of 1 + |mean|: 0.9e-6 apart at 0, and 90e-6 apart at 100 − but not 2e-6 and 120e-6."""
    rewards = t([0, 9e-7], [0, 2e-6], [100, 100 + 9e-5], [100, 100 + 1.2e-4], [-100, -100 + 9e-5])
    assert flat_groups(rewards).tolist() == [True, False, True, False, True]
    assert flat_groups(torch.full((1, 8), 0.1)).tolist() == [True]
    assert flat_groups(torch.tensor([[0.0], [7.0]])).tolist() == [True, True]
    assert flat_groups(torch.tensor([[0, 0, 1], [1, 1, 1]])).tolist() == [False, True]


def test_flat_groups_refuses_a_list(refuses):
    with refuses("rewards has shape (2,); give (P, G), one row per prompt and one column per completion."):
        flat_groups(torch.zeros(2))


# --- several rewards -------------------------------------------------------------------------------------------------


def test_gdpo_by_hand():
    """Group 1: (0, 2) and (3, 1), group 2: (0, 6) and (5, 5). Normalised in the group each difference is ±1/√2 (up to
    1e-4), the equal pair 0. With weights 2 and 1 the sums are ∓1/√2 and ∓2/√2: mean 0, Σ² = 2 (½ + 2) = 5, σ = √(5/3).
    """
    rewards = torch.stack([t([0, 2], [0, 6]), t([3, 1], [5, 5])], dim=2)
    u, v, w = (half / (half * math.sqrt(2) + 1e-4) for half in (1, 3, 1))  # of (0, 2), (0, 6) and (3, 1)
    sums = [2 * -u + w, 2 * u - w, 2 * -v, 2 * v]
    sigma = math.sqrt(sum(s * s for s in sums) / 3) + 1e-4
    expected = t([sums[0] / sigma, sums[1] / sigma], [sums[2] / sigma, sums[3] / sigma])
    assert sigma == pytest.approx(math.sqrt(5 / 3), rel=1e-3)
    assert_close(gdpo(rewards, torch.tensor([2, 1])), expected)


def test_gdpo_has_mean_0_and_spread_1_over_the_batch():
    """Three completions: r = (0, 0, 3) is (−1, −1, 2)/√3 normalised; every group sums to 0, so does the batch."""
    rewards = t([0, 0, 3], [1, 2, 3])[:, :, None]
    advantages = gdpo(rewards, t(1)[0, None])
    assert advantages.sum().item() == pytest.approx(0, abs=1e-12)
    assert advantages.std().item() == pytest.approx(1, abs=2e-4)
    assert (advantages[0, 2] / advantages[0, 0]).item() == pytest.approx(-2, abs=1e-9)


def test_gdpo_keeps_apart_what_a_sum_of_rewards_mixes_up():
    """Right (1, 0, 1, 0) and well formed (0, 1, 0, 0) have sums 1, 1, 1, 0. Normalised, right is ±½/√⅓ = ±√¾ and
    formed −½ or 3/2, so the sums are √¾ − ½, 3/2 − √¾, √¾ − ½ and −√¾ − ½: what is rarer counts for more."""
    right, formed, h = t([1, 0, 1, 0]), t([0, 1, 0, 0]), math.sqrt(3 / 4)
    advantages = gdpo(torch.stack([right, formed], dim=2), torch.ones(2))
    sums = t([h - 1 / 2, 3 / 2 - h, h - 1 / 2, -h - 1 / 2])
    assert_close(advantages, sums / math.sqrt((sums**2).sum().item() / 3), rtol=1e-3, atol=0)
    assert (advantages[0, 1] - advantages[0, 0]).item() == pytest.approx(0.2915, abs=5e-4)


def test_gdpo_leaves_flat_groups_at_exactly_zero():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(3, 5, 2, generator=generator)
    rewards[1] = torch.tensor([0.1, 0.7])
    rewards[2, :, 1] = -rewards[2, :, 0]  # the two cancel
    advantages = gdpo(rewards, torch.tensor([1.0, 1.0]))
    assert advantages[1:].tolist() == [[0.0] * 5] * 2
    assert (advantages[0] != 0).all()
    assert not gdpo(rewards.requires_grad_(), torch.ones(2, requires_grad=True)).requires_grad


def test_gdpo_refuses(refuses):
    with refuses("rewards has shape (2, 3); give (P, G, K), the K rewards of every completion of a group."):
        gdpo(torch.zeros(2, 3), torch.ones(3))
    with refuses("weights has shape (3,); give one weight for each of the 4 rewards."):
        gdpo(torch.zeros(2, 3, 4), torch.ones(3))
    with refuses(LONELY):
        gdpo(torch.zeros(2, 1, 4), torch.ones(4))


# --- lengths and returns ---------------------------------------------------------------------------------------------


def test_overlong_by_hand():
    """100 tokens allowed, the last 20 a buffer: 0 up to 80, half-way −½, −1 at 100 and above."""
    lengths = torch.tensor([0, 79, 80, 85, 90, 100, 130])
    assert overlong(lengths, 100, 20).tolist() == [0, 0, 0, -0.25, -0.5, -1, -1]
    assert overlong(torch.tensor([0, 1, 2, 4]), 4, 4).tolist() == [0, -0.25, -0.5, -1]
    assert overlong(torch.tensor([3, 4]), 4, 1).tolist() == [0, -1]


def test_overlong_refuses(refuses):
    for buffer in (0, 9):
        with refuses(f"buffer is {buffer} tokens; it must lie in [1, 8], the longest completion allowed."):
            overlong(torch.tensor([1]), 8, buffer)


def test_returns_to_go_by_hand():
    """γ = 0.1 and rewards 1, 2, 3: 1.23, 2.3, 3. What lies past the end, NaN or not, is no reward."""
    rewards = t([1, 2, 3], [5, math.nan, 7], [1, 1, 1])
    out = returns_to_go(rewards, torch.tensor([3, 1, 0]), 0.1)
    assert_close(out, t([1.23, 2.3, 3], [5, 0, 0], [0, 0, 0]))
    assert returns_to_go(t([1, 2, 3]), torch.tensor([3]), 1).tolist() == [[6, 5, 3]]
    assert not returns_to_go(rewards.requires_grad_(), torch.tensor([3, 1, 0]), 1).requires_grad


def test_returns_to_go_refuses(refuses):
    with refuses("lengths run from 3 to 3; they must lie in [0, 2]."):
        returns_to_go(torch.zeros(1, 2), torch.tensor([3]), 1.0)
