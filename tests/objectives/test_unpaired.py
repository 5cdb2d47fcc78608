"""KTO and BCO by hand, their baselines, and the weights of the two kinds."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.unpaired import UNPAIRED, Ratings, balance, bco, bco_baseline, kto, kto_baseline

L2, L3 = math.log(2), math.log(3)


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def scalar(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def rated(liked: list[bool], *log_ratios: float) -> Ratings:
    """Ratings with these log-ratios, under a reference that is not 0."""
    reference = -torch.arange(1, len(log_ratios) + 1, dtype=torch.float64)
    return Ratings((reference + t(*log_ratios)).requires_grad_(), reference, torch.tensor(liked))


def test_the_table_of_objectives():
    rows = {name: (o.loss, o.beta, o.mismatched) for name, o in UNPAIRED.items()}
    assert rows == {"kto": (kto, 0.1, True), "bco": (bco, 0.01, False)}


@pytest.mark.parametrize(("name", "start"), [("kto", 0.5), ("bco", L2)])
def test_the_start_is_the_loss_at_the_reference(name, start):
    objective = UNPAIRED[name]
    assert objective.start == pytest.approx(start, rel=1e-12)
    assert_close(objective.loss(rated([True, False], 0, 0), 0.7, scalar(0)).detach(), t(start, start))
    assert_close(objective.loss(rated([True, False], 0, 0), 0.7, scalar(0), 2, 3).detach(), t(2 * start, 3 * start))


def test_kto_by_hand():
    """β = ½, z0 = 1: β (r − z0) = ln 3, 0, ln 3, −ln 3. Liked: 1 − ¾, ½. Disliked: 1 − σ(−ln 3) = ¾, 1 − ¾.

    Slopes: −λ_D β σ' for the liked, +λ_U β σ' for the disliked, with σ' = 3/16 and ¼.
    """
    ratings = rated([True, True, False, False], 1 + 2 * L3, 1, 1 + 2 * L3, 1 - 2 * L3)
    loss = kto(ratings, 0.5, scalar(1.0), 2.0, 4.0)
    loss.sum().backward()
    assert_close(loss.detach(), t(2 / 4, 2 / 2, 4 * 3 / 4, 4 / 4))
    assert_close(ratings.logprobs.grad, t(-3 / 16, -1 / 4, 3 / 8, 3 / 8))
    assert_close(kto(ratings, 0.5, scalar(1.0)).detach(), t(1 / 4, 1 / 2, 3 / 4, 1 / 4))


def test_kto_runs_from_0_to_its_weight():
    ratings = rated([True, True, False, False], 1e4, -1e4, 1e4, -1e4)
    assert_close(kto(ratings, 0.5, scalar(3.0), 2.0, 4.0).detach(), t(0, 2, 4, 0))


def test_bco_by_hand():
    """β = ½, δ = 1: β r − δ = ln 3, 0, ln 3, −ln 3: liked ln 4/3 and ln 2, disliked ln 4 and ln 4/3.

    Slopes: −λ_D β (1 − σ) for the liked, +λ_U β σ for the disliked.
    """
    ratings = rated([True, True, False, False], 2 + 2 * L3, 2, 2 + 2 * L3, 2 - 2 * L3)
    loss = bco(ratings, 0.5, scalar(1.0), 2.0, 4.0)
    loss.sum().backward()
    assert_close(loss.detach(), t(2 * math.log(4 / 3), 2 * L2, 4 * math.log(4), 4 * math.log(4 / 3)))
    assert_close(ratings.logprobs.grad, t(-1 / 4, -1 / 2, 3 / 2, 1 / 2))
    assert_close(bco(ratings, 0.5, scalar(1.0)).detach(), t(math.log(4 / 3), L2, math.log(4), math.log(4 / 3)))


def test_bco_is_above_dpo_and_nearest_in_the_middle():
    """One liked (r = 3), one disliked (r = 1), β = 1: DPO costs log(1 + e^−2); the middle is δ = 2."""
    losses = {delta: bco(rated([True, False], 3, 1), 1.0, scalar(delta)).sum().item() for delta in (0, 1.9, 2, 2.1, 5)}
    assert min(losses, key=losses.__getitem__) == 2
    assert losses[2] == pytest.approx(2 * math.log1p(math.exp(-1)), abs=1e-12)
    assert min(losses.values()) > math.log1p(math.exp(-2))


def test_bco_far_on_the_wrong_side_is_linear():
    assert_close(bco(rated([True, False], -2000, 2000), 0.5, scalar(0)).detach(), t(1000, 1000))


@pytest.mark.parametrize("loss", [kto, bco])
def test_only_the_policy_has_a_gradient(loss):
    ratings = rated([True, False], 1, 2)
    reference, baseline = ratings.reference.clone().requires_grad_(), scalar(0.5).requires_grad_()
    loss(ratings._replace(reference=reference), 0.5, baseline).sum().backward()
    assert reference.grad is None
    assert baseline.grad is None
    assert ratings.logprobs.grad.abs().min() > 0


@pytest.mark.parametrize("loss", [kto, bco])
def test_gradcheck(loss):
    ratings = rated([True, False, True, False], 1, 2, -3, -0.5)
    assert torch.autograd.gradcheck(
        lambda x: loss(ratings._replace(logprobs=x), 0.5, scalar(0.25), 1.5, 0.5), (ratings.logprobs,)
    )


@pytest.mark.parametrize("loss", [kto, bco])
def test_half_precision_is_widened_before_anything_is_taken_off(loss):
    """−300 − (−1) = −299 does not exist in bfloat16, which counts by twos there; nor does 300 − 0.5."""
    half = (torch.tensor([x], dtype=torch.bfloat16) for x in (-300.0, -1.0))
    got = loss(Ratings(*half, torch.tensor([True])), 1 / 299, torch.tensor(0.0, dtype=torch.bfloat16))
    assert got.dtype is torch.float32
    assert got.item() == pytest.approx(1 / (1 + math.exp(-1)) if loss is kto else math.log1p(math.e), abs=1e-6)


@pytest.mark.parametrize("loss", [kto, bco])
def test_refusals(loss, refuses):
    ratings = rated([True, False], 1, 2)
    with refuses("reference has shape (1,) but logprobs has (2,); give both the same shape."):
        loss(ratings._replace(reference=t(1)), 0.5, scalar(0))
    with refuses("liked has shape (1,) but logprobs has (2,); give both the same shape."):
        loss(ratings._replace(liked=torch.tensor([True])), 0.5, scalar(0))
    with refuses("liked has dtype torch.int64; give booleans, True for a liked completion."):
        loss(ratings._replace(liked=torch.tensor([1, 0])), 0.5, scalar(0))
    for beta in (0.0, -1.0, math.inf, math.nan):
        with refuses(f"beta is {beta:g}; it must be above 0 and finite."):
            loss(ratings, beta, scalar(0))
    with refuses("baseline has shape (2,); give one number for all ratings."):
        loss(ratings, 0.5, t(0, 0))


# --- baselines and weights -------------------------------------------------------------------------------------------


def test_kto_baseline_is_the_mean_and_never_negative():
    logprobs = t(-3, -4, -5).requires_grad_()
    z0 = kto_baseline(logprobs, t(-4, -6, -8))
    assert z0.item() == 2  # (1 + 2 + 3) / 3
    assert z0.shape == ()
    assert not z0.requires_grad
    assert kto_baseline(t(-4, 2), t(-3, 2)).item() == 0
    assert kto_baseline(t(-4, 2), t(-4, 2)).item() == 0
    assert kto_baseline(t(0.5), t(0)).item() == 0.5


def test_kto_baseline_refuses(refuses):
    with refuses("The baseline of KTO is a mean over mismatched completions; give at least one."):
        kto_baseline(t(), t())
    with refuses("reference has shape (1,) but logprobs has (2,); give both the same shape."):
        kto_baseline(t(1, 2), t(1))


def test_bco_baseline_by_hand():
    """β r = 6 and 2 (liked, mean 4), −1 (disliked): the middle is 1.5, however many there are of each kind."""
    ratings = rated([True, False, True], 12, -2, 4)
    assert bco_baseline(0.0, ratings, 0.5) == pytest.approx(0.15, abs=1e-12)
    assert bco_baseline(2.0, ratings, 0.5) == pytest.approx(1.95, abs=1e-12)
    assert bco_baseline(2.0, ratings, 0.5, momentum=0.25) == pytest.approx(1.625, abs=1e-12)
    assert bco_baseline(2.0, ratings, 0.5, momentum=0.0) == pytest.approx(1.5, abs=1e-12)
    assert isinstance(bco_baseline(0.0, ratings, 0.5), float)


def test_bco_baseline_stays_where_it_cannot_know_the_middle():
    assert bco_baseline(0.7, rated([True, True], 8, 4), 0.5) == 0.7
    assert bco_baseline(0.7, rated([False, False], 8, 4), 0.5) == 0.7


def test_bco_baseline_refuses(refuses):
    ratings = rated([True, False], 1, 2)
    for momentum in (-0.1, 1.0):
        with refuses(f"momentum is {momentum:g}; it must lie in [0, 1)."):
            bco_baseline(0.0, ratings, 0.5, momentum)
    with refuses("liked has shape (1,) but logprobs has (2,); give both the same shape."):
        bco_baseline(0.0, ratings._replace(liked=torch.tensor([True])), 0.5)


@pytest.mark.parametrize(
    ("n_liked", "n_disliked", "liked", "disliked"),
    [
        (10, 10, 1.0, 1.0),
        (8, 6, 1.0, 1.0),  # 4/3 is still allowed
        (1, 4, 4.0, 1.0),  # few liked: raised to a share of 1
        (4, 1, 1.0, 3.0),  # few disliked: raised to a share of 4/3
        (999, 1000, 1000 / 999, 1.0),
    ],
)
def test_balance_by_hand(n_liked, n_disliked, liked, disliked):
    weights = balance(n_liked, n_disliked)
    assert weights == pytest.approx((liked, disliked), rel=1e-12)
    assert (weights.liked, weights.disliked) == tuple(weights)


def test_balance_always_lands_in_the_range():
    for n_liked in range(1, 40):
        for n_disliked in range(1, 40):
            liked, disliked = balance(n_liked, n_disliked)
            share = liked * n_liked / (disliked * n_disliked)
            assert 1 - 1e-12 <= share <= Fraction(4, 3) + 1e-12
            assert min(liked, disliked) == 1


def test_balance_names_the_missing_kind(refuses):
    for n_liked, n_disliked, missing in ((0, 5, "liked"), (1, 0, "disliked"), (0, 0, "liked")):
        with refuses(f"No completion is {missing}; ratings of one kind alone teach nothing, so add some of both."):
            balance(n_liked, n_disliked)


@pytest.mark.parametrize("name", sorted(UNPAIRED))
def test_every_docstring_teaches(name):
    doc = re.sub(r"\n {4}", "\n", UNPAIRED[name].loss.__doc__ or "")
    assert re.search(r"^    L = ", doc, re.MULTILINE)
    paragraphs = doc.split("\n\n")
    assert any(p.startswith("Limits: ") for p in paragraphs)
    (when,) = [p for p in paragraphs if p.startswith("When to use: ")]
    assert len(re.findall(r"\.(?=\s|$)", when)) == 2
    assert re.search(r"\.\sIts\strap\sis\s", when)
    assert any(p.startswith("Source:") for p in paragraphs)
