"""The surrogates at and around their clips, by hand; their gradients; the correction for another sampler's tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.surrogate import SURROGATES, correction, sapo, two_sided
from lab.objectives.tokens import token_weights, weighted_sum

NAN, INF = float("nan"), float("inf")


def t(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def all_of(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape, dtype=torch.bool)


def one(name, rho, advantage, low=0.25, high=0.5, **more):
    """Loss, dL/dlog π and clipped of a single token with this ratio; log π_old = −1."""
    logprobs = t([math.log(rho) - 1]).requires_grad_()
    out = SURROGATES[name](logprobs, t([-1]), t([advantage]), low, high, all_of(logprobs), **more)
    out.loss.sum().backward()
    assert logprobs.grad is not None
    return out.loss.item(), logprobs.grad.item(), out.clipped.item()


def test_there_are_these_surrogates():
    assert list(SURROGATES) == [
        "token", "two_sided", "sequence_mean", "sequence_sum", "cispo", "reinforce", "sapo"
    ]  # fmt: skip


# ratio, advantage → loss, slope dL/dρ, clipped, at low = ¼ and high = ½: the ratio is free in [¾, 3/2]
CASES = [
    (1.0, 2.0, -2.0, -2.0, False),
    (1.0, -2.0, 2.0, 2.0, False),
    (1.375, 2.0, -2.75, -2.0, False),  # above 1 + low, below 1 + high
    (2.0, 2.0, -3.0, 0.0, True),  # a better token is held at 3/2
    (0.5, 2.0, -1.0, -2.0, False),  # a better token that became less likely is pulled back in full
    (0.5, -2.0, 1.5, 0.0, True),  # a worse token is held at ¾
    (0.8, -2.0, 1.6, 2.0, False),
    (2.0, -2.0, 4.0, 2.0, False),  # a worse token that became likelier is pushed down in full
    (2.0, 0.0, 0.0, 0.0, False),
]


@pytest.mark.parametrize("name", ["token", "two_sided", "sequence_mean", "sequence_sum"])
@pytest.mark.parametrize(("rho", "advantage", "loss", "slope", "clipped"), CASES)
def test_the_clip_has_two_sides(name, rho, advantage, loss, slope, clipped):
    """Of a completion of one token all four are the same."""
    assert one(name, rho, advantage) == pytest.approx((loss, slope * rho, clipped), abs=1e-12)


@pytest.mark.parametrize("name", ["token", "two_sided", "sequence_mean", "sequence_sum"])
def test_no_clip_at_all_leaves_the_first_update_free(name):
    """low = high = 0 at ρ = 1 exactly: the policy gradient."""
    assert one(name, 1.0, 2.0, low=0, high=0) == (-2.0, -2.0, False)
    assert one(name, 1.0, -2.0, low=0, high=0) == (2.0, 2.0, False)


def test_two_sided_ends_the_push_on_worse_tokens():
    """δ = 3 by default: ρ = 8 and A = −2 give 6 in place of 16; at ρ = δ it is still free; A > 0 knows only one end."""
    assert one("two_sided", 8.0, -2.0) == pytest.approx((6.0, 0.0, True))
    assert one("two_sided", 2.9, -2.0) == pytest.approx((5.8, 5.8, False))
    assert one("two_sided", 8.0, -0.5) == pytest.approx((1.5, 0.0, True))
    assert one("two_sided", 8.0, 2.0) == pytest.approx((-3.0, 0.0, True))
    assert one("two_sided", 8.0, -2.0, delta=1.6) == pytest.approx((3.2, 0.0, True))
    assert one("two_sided", 8.0, -2.0, delta=4) == pytest.approx((8.0, 0.0, True))
    assert one("two_sided", 8.0, -2.0, delta=INF) == pytest.approx((16.0, 16.0, False))
    assert one("two_sided", 0.5, -2.0, delta=4) == pytest.approx((1.5, 0.0, True))
    assert one("token", 8.0, -2.0) == pytest.approx((16.0, 16.0, False))


def test_a_ratio_at_delta_is_free():
    """ρ = e and δ the same number, to the last bit."""
    logprobs = t([1]).requires_grad_()
    out = two_sided(logprobs, t([0]), t([-1]), 0.2, 0.2, all_of(logprobs), delta=t(1).exp().item())
    assert out.clipped.tolist() == [[False]]


# --- one ratio per completion ----------------------------------------------------------------------------------------

# Three tokens, the last one padding: log ρ = (0.1, 0.3), so exp(mean) = e^0.2 = 1.221 and exp(Σ) = e^0.4 = 1.492.
OLD = t([-1, -2, NAN], [-1, -1, -1])
NEW = t([-0.9, -1.7, NAN], [-1.2, -1.1, -1.0])
MASK = torch.tensor([[True, True, False], [True, True, True]])


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("sequence_mean", math.exp(0.2), math.exp(-0.1)), ("sequence_sum", math.exp(0.4), math.exp(-0.3))],
)
def test_every_token_carries_the_loss_of_its_row(name, first, second):
    out = SURROGATES[name](NEW, OLD, t([2, 2, NAN], [-1, -1, -1]), 5, 5, MASK)
    assert_close(out.loss, t([-2 * first, -2 * first, 0], [second, second, second]))
    assert not out.clipped.any()
    loss = weighted_sum(out.loss, token_weights(MASK, "sequence_mean"))
    assert loss.item() == pytest.approx((-2 * first + second) / 2, abs=1e-6)


def test_a_row_is_clipped_at_all_its_tokens_or_at_none():
    """e^0.2 = 1.22 is inside 1 + 0.3, e^0.4 = 1.49 outside; e^−0.1 = 0.90 is inside 1 − 0.2, e^−0.3 = 0.74 outside."""
    advantages = t([2, 2, 2], [-1, -1, -1])
    mean = SURROGATES["sequence_mean"](NEW, OLD, advantages, 0.2, 0.3, MASK)
    assert not mean.clipped.any()
    total = SURROGATES["sequence_sum"](NEW, OLD, advantages, 0.2, 0.3, MASK)
    assert total.clipped.tolist() == [[True, True, False], [True, True, True]]
    assert_close(total.loss, t([-2.6, -2.6, 0], [0.8, 0.8, 0.8]))


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reduction", "expected"),
    [
        # ∇ log π of each token is 1; A = 2 for two tokens, −1 for three; two rows
        ("token", "token_mean", t([-2 / 5, -2 / 5, 0], [1 / 5, 1 / 5, 1 / 5])),
        ("two_sided", "token_mean", t([-2 / 5, -2 / 5, 0], [1 / 5, 1 / 5, 1 / 5])),
        ("cispo", "token_mean", t([-2 / 5, -2 / 5, 0], [1 / 5, 1 / 5, 1 / 5])),
        ("sapo", "token_mean", t([-2 / 5, -2 / 5, 0], [1 / 5, 1 / 5, 1 / 5])),
        ("token", "sequence_mean", t([-2 / 4, -2 / 4, 0], [1 / 6, 1 / 6, 1 / 6])),
        ("sequence_mean", "sequence_mean", t([-2 / 4, -2 / 4, 0], [1 / 6, 1 / 6, 1 / 6])),  # (A / length) / 2
        ("sequence_sum", "sequence_mean", t([-2 / 2, -2 / 2, 0], [1 / 2, 1 / 2, 1 / 2])),  # A / 2
        ("reinforce", "sequence_sum", t([-2 / 2, -2 / 2, 0], [1 / 2, 1 / 2, 1 / 2])),
    ],
)
def test_at_the_first_update_each_is_the_policy_gradient(name, reduction, expected):
    logprobs = OLD.clone().requires_grad_()
    out = SURROGATES[name](logprobs, OLD, t([2, 2, 2], [-1, -1, -1]), 0.2, 0.2, MASK)
    weighted_sum(out.loss, token_weights(MASK, reduction)).backward()
    assert_close(logprobs.grad, expected, rtol=1e-6, atol=1e-7)
    assert not out.clipped.any()


@pytest.mark.parametrize("name", list(SURROGATES))
def test_gradcheck_away_from_the_corners(name):
    """cispo holds its weight constant, so its numerical gradient is another one: see below."""
    old = t([-1, -2, -1.5], [-0.5, -1, -1])
    logprobs = (old + t([0.15, -0.1, 0.7], [-0.7, -0.05, 0.05])).requires_grad_()
    advantages = t([1, 1, 1], [-2, -2, -2])
    if name != "cispo":
        mask = all_of(old)
        assert torch.autograd.gradcheck(
            lambda x: SURROGATES[name](x, old, advantages, 0.2, 0.3, mask).loss, (logprobs,)
        )


def test_only_the_new_log_probabilities_carry_a_gradient():
    for name, surrogate in SURROGATES.items():
        new, old, advantages = (torch.ones(1, 2, requires_grad=True) for _ in range(3))
        surrogate(new, old, advantages, 0.2, 0.2, torch.ones(1, 2, dtype=torch.bool)).loss.sum().backward()
        assert new.grad is not None, name
        assert old.grad is None, name
        assert advantages.grad is None, name


# --- without a clip --------------------------------------------------------------------------------------------------


def test_cispo_caps_the_weight_and_keeps_the_gradient():
    """1 + high = 5: ρ = 2 weighs 2, ρ = 8 weighs 5. L = −w A log π and dL/dlog π = −w A; log π = log ρ − 1."""
    assert one("cispo", 2.0, 3.0, high=4) == pytest.approx((-6 * (math.log(2) - 1), -6, False))
    assert one("cispo", 8.0, 3.0, high=4) == pytest.approx((-15 * (math.log(8) - 1), -15, True))
    assert one("cispo", 5.5, 3.0, high=4) == pytest.approx((-15 * (math.log(5.5) - 1), -15, True))
    assert one("cispo", 8.0, -3.0, high=4) == pytest.approx((15 * (math.log(8) - 1), 15, True))
    assert one("cispo", 0.01, 3.0, low=0, high=0) == pytest.approx((-0.03 * (math.log(0.01) - 1), -0.03, False))
    assert one("cispo", 1.0, 3.0, low=0, high=0) == (3.0, -3.0, False)  # at the cap: not clipped
    assert one("cispo", 2.0, 3.0, low=-1, high=4)[1] == pytest.approx(-6)  # low is not used


def test_reinforce_has_no_ratio():
    assert one("reinforce", 8.0, 3.0) == pytest.approx((-3 * (math.log(8) - 1), -3, False))
    assert one("reinforce", 0.1, -3.0, low=-1, high=-1) == pytest.approx((3 * (math.log(0.1) - 1), 3, False))


def test_sapo_by_hand():
    """ρ = 2: −A (4/τ) σ(τ), slope in ρ −4 A σ(τ)(1 − σ(τ)); τ = 1 for A > 0 and 1.05 otherwise."""

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    for advantage, tau in ((3.0, 1.0), (-3.0, 1.05)):
        s = sigma(tau)
        expected = (-advantage * 4 / tau * s, -4 * advantage * s * (1 - s) * 2, False)
        assert one("sapo", 2.0, advantage) == pytest.approx(expected, rel=1e-12)
    assert one("sapo", 2.0, 3.0, better=2, worse=7)[0] == pytest.approx(-6 * sigma(2))
    assert one("sapo", 2.0, -3.0, better=2, worse=7)[0] == pytest.approx(12 / 7 * sigma(7))
    assert one("sapo", 2.0, 0.0, better=0.5, worse=0.5)[:2] == (0, 0)
    assert one("sapo", math.exp(5), 0.25, better=1e-3)[0] == pytest.approx(-1000 * sigma(1e-3 * (math.exp(5) - 1)))


# --- extremes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SURROGATES))
@pytest.mark.parametrize("junk", [1e6, NAN, -INF])
def test_junk_in_the_padding_reaches_neither_loss_nor_gradient(name, junk):
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    dirty = torch.where(mask, torch.tensor(-1.0), torch.tensor(junk))
    x = dirty.clone().requires_grad_()
    advantages = torch.where(mask, torch.tensor(2.0), torch.tensor(junk))
    out = SURROGATES[name](x, dirty, advantages, 0.2, 0.2, mask)
    out.loss.sum().backward()
    assert (out.loss[~mask] == 0).all()
    assert (x.grad[~mask] == 0).all()
    assert not out.clipped[~mask].any()
    assert torch.isfinite(out.loss).all()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[mask] != 0).all()


@pytest.mark.parametrize("name", ["token", "two_sided", "sequence_mean", "sequence_sum", "sapo"])
@pytest.mark.parametrize("advantage", [2.0, 0.0])
def test_a_ratio_that_overflows_is_not_nan(name, advantage):
    """e^200 is ∞ in float32, and 0 · ∞ is NaN: a clipped ratio, and one without an advantage, has gradient 0."""
    logprobs = torch.full((1, 1), -1.0, requires_grad=True)
    old = torch.full((1, 1), -201.0)
    out = SURROGATES[name](logprobs, old, torch.full((1, 1), advantage), 0.2, 0.5, torch.ones(1, 1, dtype=torch.bool))
    out.loss.sum().backward()
    assert out.loss.item() == pytest.approx(-advantage * (4 if name == "sapo" else 1.5))
    assert logprobs.grad.item() == 0
    assert out.clipped.item() is (advantage > 0 and name != "sapo")


def test_a_capped_ratio_that_overflows_is_not_nan():
    logprobs = torch.full((1, 1), -1.0, requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    out = two_sided(logprobs, torch.full((1, 1), -201.0), torch.full((1, 1), -2.0), 0.2, 0.2, mask)
    out.loss.sum().backward()
    assert (out.loss.item(), logprobs.grad.item(), out.clipped.item()) == (6, 0, True)


def test_the_range_must_not_be_negative(refuses):
    x = torch.zeros(1, 2)
    for name in ("token", "two_sided", "sequence_mean", "sequence_sum"):
        with refuses("The clip is low = -0.1, high = 0.2; neither may be negative."):
            SURROGATES[name](x, x, x, -0.1, 0.2, all_of(x))
        with refuses("The clip is low = 0.1, high = -0.2; neither may be negative."):
            SURROGATES[name](x, x, x, 0.1, -0.2, all_of(x))
    with refuses("high is -0.2; it must not be negative."):
        SURROGATES["cispo"](x, x, x, 0.1, -0.2, all_of(x))
    with refuses("delta is 1.2; it must be above 1 + high = 1.5, where the other clip ends."):
        two_sided(x, x, x, 0.2, 0.5, all_of(x), delta=1.2)
    with refuses("delta is 1.5; it must be above 1 + high = 1.5, where the other clip ends."):
        two_sided(x, x, x, 0.2, 0.5, all_of(x), delta=1.5)
    with refuses("The temperatures are 0 and 1.05; both must be above 0."):
        sapo(x, x, x, 0.2, 0.2, all_of(x), better=0)
    with refuses("The temperatures are 1 and 0; both must be above 0."):
        sapo(x, x, x, 0.2, 0.2, all_of(x), worse=0)


@pytest.mark.parametrize("name", list(SURROGATES))
def test_refusals(name, refuses):
    surrogate, two, three = SURROGATES[name], torch.zeros(1, 2), torch.zeros(1, 3)
    with refuses("old has shape (1, 3) but logprobs has (1, 2); give both the same shape."):
        surrogate(two, three, two, 0.2, 0.2, all_of(two))
    with refuses("advantages has shape (1, 3) but logprobs has (1, 2); give both the same shape."):
        surrogate(two, two, three, 0.2, 0.2, all_of(two))
    with refuses("mask has shape (1, 3) but logprobs has (1, 2); give both the same shape."):
        surrogate(two, two, two, 0.2, 0.2, all_of(three))
    with refuses("mask has dtype torch.float32; give booleans, True where a token counts."):
        surrogate(two, two, two, 0.2, 0.2, two)


# --- another sampler's tokens ----------------------------------------------------------------------------------------

# w per token: (½, 2, 4) and (2, 1); of the whole completions 4 and 2
TRAINER = t([0.5, 2, 4], [2, 1, 1]).log()
SAMPLER = t([1, 1, 1], [1, 1, NAN]).log()
INSIDE = torch.tensor([[True, True, True], [True, True, False]])


@pytest.mark.parametrize(
    ("how", "level", "expected"),
    [
        ("none", "token", t([1, 1, 1], [1, 1, 0])),
        ("none", "sequence", t([1, 1, 1], [1, 1, 0])),
        ("truncate", "token", t([0.75, 2, 3], [2, 1, 0])),
        ("mask", "token", t([0, 2, 0], [2, 1, 0])),
        ("truncate", "sequence", t([3, 3, 3], [2, 2, 0])),
        ("mask", "sequence", t([0, 0, 0], [2, 2, 0])),
    ],
)
def test_correction_by_hand(how, level, expected):
    """The range is [¾, 3]."""
    assert_close(correction(TRAINER, SAMPLER, INSIDE, how, level, 0.75, 3), expected)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_ends_of_the_range_are_inside(level):
    """w = ½ and w = 2, to the last bit."""
    trainer = t([0.5], [2]).log()
    for how in ("truncate", "mask"):
        w = correction(trainer, t([0], [0]), all_of(trainer), how, level, trainer[0].exp().item(), 2.0)
        assert_close(w, t([0.5], [2]))


def test_equal_log_probabilities_need_no_correction():
    for how in ("none", "truncate", "mask"):
        for level in ("token", "sequence"):
            assert correction(TRAINER, TRAINER, all_of(TRAINER), how, level, 1, 1).tolist() == [[1.0] * 3] * 2
    assert correction(TRAINER, SAMPLER, INSIDE, "truncate", "token", 0, INF)[0].tolist() == pytest.approx([0.5, 2, 4])


def test_the_correction_is_a_constant_and_loud():
    """A NaN inside the mask stays NaN: no token is dropped in silence."""
    trainer, sampler = (torch.zeros(1, 2, requires_grad=True) for _ in range(2))
    mask = torch.ones(1, 2, dtype=torch.bool)
    for how in ("none", "truncate", "mask"):
        assert not correction(trainer, sampler, mask, how, "token", 0, 3).requires_grad
    for how in ("truncate", "mask"):
        w = correction(torch.tensor([[NAN, 0.0]]), torch.zeros(1, 2), mask, how, "token", 0, 3)
        assert w.isnan().tolist() == [[True, False]]


def test_correction_refuses(refuses):
    x = torch.zeros(1, 2)
    with refuses("There is no correction 'clip'; choose one of none, truncate, mask."):
        correction(x, x, all_of(x), "clip", "token", 0, 3)
    with refuses("There is no level 'row'; choose one of token, sequence."):
        correction(x, x, all_of(x), "mask", "row", 0, 3)
    for low, high in ((-1, 3), (2, 3), (0, 0.5)):
        with refuses(f"The range is [{low:g}, {high:g}]; it must hold 1, the weight of equal log-probabilities."):
            correction(x, x, all_of(x), "mask", "token", low, high)
    with refuses("sampler has shape (1, 3) but trainer has (1, 2); give both the same shape."):
        correction(x, torch.zeros(1, 3), all_of(x), "mask", "token", 0, 3)
    with refuses("mask has shape (1, 3) but trainer has (1, 2); give both the same shape."):
        correction(x, x, torch.ones(1, 3, dtype=torch.bool), "mask", "token", 0, 3)
    with refuses("mask has dtype torch.float32; give booleans, True where a token counts."):
        correction(x, x, x, "none", "token", 0, 3)
