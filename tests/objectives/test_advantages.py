"""Credit: numbers on paper, a slow double loop, the limits of λ, and junk past the end."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.advantages import gae, kept_rows, missing_end, reward_to_tokens

NAN = float("nan")


def t(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def ragged() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    rewards, values = torch.randn(2, 6, 7, generator=generator, dtype=torch.float64)
    return rewards, values, torch.tensor([7, 1, 0, 4, 6, 2])


def test_a_discount_of_a_tenth_spells_the_rewards():
    """γ = 0.1, λ = 1, no values: 3; 2 + 0.3; 1 + 0.2 + 0.03."""
    credit = gae(t([1, 2, 3]), t([0, 0, 0]), torch.tensor([3]), 0.1, 1.0)
    assert_close(credit.advantages, t([1.23, 2.3, 3]))
    assert_close(credit.returns, t([1.23, 2.3, 3]))


def test_gae_by_hand():
    """γ = λ = ½, V = ½, r = 0 0 1: δ = −¼ −¼ ½; A₃ = ½, A₂ = −¼ + ½/4, A₁ = −¼ − ⅛/4; R = A + ½."""
    credit = gae(t([0, 0, 1]), t([0.5, 0.5, 0.5]), torch.tensor([3]), 0.5, 0.5)
    assert credit.advantages.tolist() == [[-0.28125, -0.125, 0.5]]
    assert credit.returns.tolist() == [[0.21875, 0.375, 1.0]]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 1.0), (0.9, 0.0), (0.7, 0.6)])
def test_gae_is_the_slow_double_loop(gamma, lam):
    rewards, values, lengths = ragged()
    advantages = gae(rewards, values, lengths, gamma, lam).advantages
    r, v = rewards.tolist(), values.tolist()
    for b, n in enumerate(lengths.tolist()):
        for t_ in range(7):
            expected = 0.0
            for s in range(t_, n):
                after = v[b][s + 1] if s + 1 < n else 0.0
                expected += (gamma * lam) ** (s - t_) * (r[b][s] + gamma * after - v[b][s])
            assert advantages[b, t_].item() == pytest.approx(expected, abs=1e-12)


def test_lambda_one_is_monte_carlo_whatever_the_values():
    rewards, values, lengths = ragged()
    returns = gae(rewards, values, lengths, 0.9, 1.0).returns
    for b, n in enumerate(lengths.tolist()):
        for t_ in range(n):
            expected = sum(0.9 ** (s - t_) * rewards[b, s].item() for s in range(t_, n))
            assert returns[b, t_].item() == pytest.approx(expected, abs=1e-12)


def test_lambda_zero_is_the_one_step_error():
    """γ = ½: 1 + ½·4 − 2 = 1; 3 − 4 = −1 at the end, where the next value is 0."""
    credit = gae(t([1, 3, 9]), t([2, 4, 9]), torch.tensor([2]), 0.5, 0.0)
    assert credit.advantages.tolist() == [[1, -1, 0]]
    assert credit.returns.tolist() == [[3, 3, 0]]


def test_perfect_values_leave_no_advantage():
    """γ = 1 and a reward of 5 at the end: V = 5 everywhere is right."""
    assert gae(t([0, 0, 5]), t([5, 5, 5]), torch.tensor([3]), 1.0, 0.95).advantages.abs().max().item() == 0


def test_returns_less_values_are_the_raw_advantages():
    rewards, values, lengths = ragged()
    credit = gae(rewards, values, lengths, 0.9, 0.8)
    mask = torch.arange(7) < lengths[:, None]
    assert_close((credit.returns - values)[mask], credit.advantages[mask])


@pytest.mark.parametrize("junk", [1e6, NAN, float("inf")])
def test_junk_past_the_end_changes_nothing(junk):
    rewards, values, lengths = ragged()
    mask = torch.arange(7) < lengths[:, None]
    dirty = [torch.where(mask, x, torch.tensor(junk, dtype=torch.float64)) for x in (rewards, values)]
    for clean, other in zip(gae(rewards, values, lengths, 0.9, 0.8), gae(*dirty, lengths, 0.9, 0.8), strict=True):
        assert torch.equal(clean, other)
        assert clean[~mask].abs().max().item() == 0


def test_credit_is_a_constant():
    x = torch.zeros(1, 2, requires_grad=True)
    credit = gae(x, x, torch.tensor([2]), 1.0, 1.0)
    assert not credit.advantages.requires_grad
    assert not credit.returns.requires_grad
    assert not reward_to_tokens(x[:, 0], x, torch.tensor([2]), 1.0).requires_grad
    assert not missing_end(x[:, 0], torch.tensor([True]), 1.0).requires_grad


def test_no_rows_and_no_tokens():
    assert gae(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 1.0, 1.0).returns.shape == (0, 3)
    assert gae(torch.zeros(2, 0), torch.zeros(2, 0), torch.tensor([0, 0]), 1.0, 1.0).returns.shape == (2, 0)
    assert reward_to_tokens(torch.zeros(2), torch.zeros(2, 0), torch.tensor([0, 0]), 1.0).shape == (2, 0)


def test_half_precision_becomes_float32():
    half = torch.ones(1, 2, dtype=torch.bfloat16)
    assert gae(half, half, torch.tensor([2]), 1.0, 1.0).returns.dtype is torch.float32
    assert reward_to_tokens(half[:, 0], half, torch.tensor([2]), 1.0).dtype is torch.float32
    assert missing_end(half[:, 0], torch.tensor([True]), 1.0).dtype is torch.float32


def test_gae_refuses(refuses):
    with refuses("values has shape (1, 2) but rewards has (1, 3); give both the same shape."):
        gae(t([1, 2, 3]), t([1, 2]), torch.tensor([2]), 1.0, 1.0)
    with refuses("lengths run from 4 to 4; they must lie in [0, 3]."):
        gae(t([1, 2, 3]), t([1, 2, 3]), torch.tensor([4]), 1.0, 1.0)


# --- from a score to rewards ----------------------------------------------------------------------------------


def test_the_score_sits_on_the_last_real_token():
    """β = ½. Lengths 0, 1, 2, 3 with KL 1 2 4 each: nothing; s − ½; −½, s − 1; −½, −1, s − 2."""
    kl = torch.tensor([[NAN, NAN, NAN], [1.0, NAN, NAN], [1.0, 2.0, NAN], [1.0, 2.0, 4.0]])
    scores = torch.tensor([NAN, 10.0, 20.0, 30.0])
    rewards = reward_to_tokens(scores, kl, torch.tensor([0, 1, 2, 3]), 0.5)
    assert rewards.tolist() == [[0, 0, 0], [9.5, 0, 0], [-0.5, 19, 0], [-0.5, -1, 28]]


def test_a_reward_of_zero_is_a_reward():
    rewards = reward_to_tokens(torch.tensor([0.0]), torch.tensor([[-1.0, 3.0]]), torch.tensor([2]), 0.25)
    assert rewards.tolist() == [[0.25, -0.75]]


def test_reward_to_tokens_refuses(refuses):
    with refuses("lengths has shape (2,) but scores has (1,); give both the same shape."):
        reward_to_tokens(torch.zeros(1), torch.zeros(2, 3), torch.tensor([1, 2]), 1.0)
    with refuses("mask has shape (1, 3) but x has (2, 3); give both the same shape."):
        reward_to_tokens(torch.zeros(1), torch.zeros(2, 3), torch.tensor([1]), 1.0)
    with refuses("lengths run from 4 to 4; they must lie in [0, 3]."):
        reward_to_tokens(torch.zeros(1), torch.zeros(1, 3), torch.tensor([4]), 1.0)


def test_missing_end_by_hand():
    ended = torch.tensor([True, False, False])
    assert missing_end(torch.tensor([2.0, 2.0, -1.0]), ended, 1.5).tolist() == [2, 0.5, -2.5]


def test_missing_end_refuses(refuses):
    with refuses("ended has shape (2,) but scores has (1,); give both the same shape."):
        missing_end(torch.zeros(1), torch.tensor([True, False]), 1.0)


def test_cut_completions_are_kept_or_masked(refuses):
    ended = torch.tensor([True, False])
    assert kept_rows(ended, "keep").tolist() == [True, True]
    assert kept_rows(ended, "mask").tolist() == [True, False]
    with refuses("There is no way 'drop' to treat cut completions; choose one of keep, mask."):
        kept_rows(ended, "drop")


def test_new_tensors_live_where_the_given_ones_do():
    """With another default device, anything that forgot the device of its input would meet a foreign tensor."""
    score, zeros, lengths = torch.tensor([1.0]), torch.zeros(1, 2), torch.tensor([2])
    with torch.device("meta"):
        rewards = reward_to_tokens(score, zeros, lengths, 1.0)
        assert rewards.tolist() == [[0, 1]]
        assert gae(rewards, zeros, lengths, 1.0, 1.0).returns.tolist() == [[1, 1]]
