"""The limits and identities of the objectives for pairs, as their docstrings state them; and knobs and mixtures."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.anchors import apo_down, apo_zero, bco_pair, nca, sppo
from lab.objectives.divergences import CAP, fdpo_alpha, fdpo_forward_kl, fdpo_js
from lab.objectives.margins import aot, cdpo, discopop, dpo, dpo_norm, exo, hinge, ipo, ipo_mean, robust
from lab.objectives.pairs import Knobs, Pairs
from lab.objectives.preference import (
    OBJECTIVES,
    knobs_for,
    mixture_knobs,
    parse_mixture,
    preference_loss,
    start_loss,
)
from lab.objectives.reference_free import chosen_nll, cpo, log_odds, orpo, simpo

L2, L3 = math.log(2), math.log(3)
KNOBS = Knobs(0.5, smoothing=0.2, divergence=0.3)


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def at(a: torch.Tensor, b: torch.Tensor, length: int = 1) -> Pairs:
    """Pairs with the log-ratios a and b, all completions of the same length."""
    zeros, ends = torch.zeros_like(a), torch.full(a.shape, length)
    return Pairs(a, b, zeros, zeros, ends, ends)


A, B = t(0.5, -2, 7, -30), t(-1, -1.5, 3, 20)


def slope(loss, a: float, b: float, knobs: Knobs) -> tuple[float, float]:
    """dL/da and dL/db."""
    a_, b_ = t(a).requires_grad_(), t(b).requires_grad_()
    loss(at(a_, b_), knobs).sum().backward()
    return a_.grad.item(), b_.grad.item()


# --- one margin ------------------------------------------------------------------------------------------------------


def test_dpo_exchanged_differs_by_the_reward():
    """L(−d) − L(d) = β d."""
    assert_close(dpo(at(B, A), KNOBS) - dpo(at(A, B), KNOBS), 0.5 * (A - B))


def test_dpo_far_away_is_linear_or_nothing():
    assert_close(dpo(at(t(-400, 400), t(0, 0)), KNOBS), t(200, 0))


def test_cdpo_between_dpo_and_no_preference():
    assert_close(cdpo(at(A, B), Knobs(0.5, smoothing=0)), dpo(at(A, B), KNOBS))
    assert slope(cdpo, 0, 0, Knobs(0.5, smoothing=0.5)) == (0, 0)
    assert slope(cdpo, 2 * math.log(4), 0, KNOBS) == pytest.approx((0, 0), abs=1e-12)  # log((1 − ε) / ε) = log 4


def test_robust_is_dpo_without_noise_and_on_average():
    """(1 − ε) L(d) + ε L(−d) is the loss of the clean label."""
    assert_close(robust(at(A, B), Knobs(0.5, smoothing=0)), dpo(at(A, B), KNOBS))
    assert_close(0.8 * robust(at(A, B), KNOBS) + 0.2 * robust(at(B, A), KNOBS), dpo(at(A, B), KNOBS))


def test_robust_falls_without_end():
    """Slope −β ε / (1 − 2ε) = −½ · 0.2 / 0.6."""
    assert slope(robust, 500, 0, KNOBS)[0] == pytest.approx(-1 / 6, abs=1e-12)


def test_robust_wants_to_know_more_than_half(refuses):
    with refuses("smoothing is 0.5; robust divides by 1 − 2 · smoothing, so it must be below 0.5."):
        robust(at(A, B), Knobs(0.5, smoothing=0.5))
    assert robust(at(t(0), t(0)), Knobs(0.5, smoothing=0.4)).item() == pytest.approx(L2, abs=1e-12)


def test_ipo_stops_at_its_target():
    """1 / (2τ): nats per pair for sums, nats per token for averages."""
    assert ipo(at(t(5), t(0)), Knobs(0.1)).item() == 0
    assert slope(ipo, 5, 0, Knobs(0.1)) == (0, 0)
    assert ipo_mean(at(t(15), t(0), length=3), Knobs(0.1)).item() == 0


def test_averages_of_one_token_are_sums():
    assert_close(ipo_mean(at(A, B), KNOBS), ipo(at(A, B), KNOBS))
    assert_close(dpo_norm(at(A, B), KNOBS), dpo(at(A, B), KNOBS))


def test_dpo_norm_on_equal_lengths_is_dpo_with_a_smaller_beta():
    assert_close(dpo_norm(at(A, B, length=4), Knobs(2.0)), dpo(at(A, B, length=4), Knobs(0.5)))


def test_hinge_leaves_pairs_alone_that_are_far_enough_apart():
    assert_close(hinge(at(t(3, 1, -2), t(0, 0, 0)), KNOBS), t(0, 0.5, 2))
    assert slope(hinge, 3, 0, KNOBS) == (0, 0)
    assert slope(hinge, 1, 0, KNOBS) == (-0.5, 0.5)


def test_exo_is_a_kl():
    """0 with zero slope where σ(β d) = 1 − ε = 0.8; from above 0 everywhere else; −ln ε · σ(−β d) for small ε."""
    assert exo(at(t(2 * math.log(4)), t(0)), KNOBS).item() == pytest.approx(0, abs=1e-12)
    assert slope(exo, 2 * math.log(4), 0, KNOBS) == pytest.approx((0, 0), abs=1e-12)
    assert (exo(at(A, B), KNOBS) > 0).all()
    tiny = 1e-300
    assert_close(exo(at(t(2 * L3), t(0)), Knobs(0.5, smoothing=tiny)) / -math.log(tiny), t(0.25), rtol=0, atol=1e-3)


def test_exo_far_away():
    """Nothing is learnt from a pair far on the wrong side: L = −ln ε, flat; nor on the right one: −ln(1 − ε)."""
    assert_close(exo(at(t(-3000, 3000), t(0, 0)), KNOBS), -t(0.2, 0.8).log())


def test_exo_needs_some_noise(refuses):
    with refuses("smoothing is 0; exo takes its logarithm, so it must be above 0."):
        exo(at(A, B), Knobs(0.5))


def test_aot_by_hand():
    """u = (9 + ln 3, 1, 4) has ranks 3, 1, 2; v = (4, 9, 1) sorted is 1, 4, 9: u − v = ln 3, 0, 0 with β = 1.

    Row by row, DPO would see 5 + ln 3, −8 and 3.
    """
    zeros = torch.zeros(3, dtype=torch.float64)
    pairs = Pairs(t(9 + L3, 1, 4), zeros, t(4, 9, 1), zeros, torch.ones(3), torch.ones(3))
    assert_close(aot(pairs, Knobs(1.0)), t(math.log(4 / 3), L2, L2))


def test_aot_is_dpo_in_the_same_order_and_at_most_dpo_otherwise():
    same = Pairs(t(1, 5, 3), t(0, 0, 0), t(2, 4, 3), t(0, 0, 0), torch.ones(3), torch.ones(3))
    assert_close(aot(same, KNOBS), dpo(same, KNOBS))
    other = same._replace(chosen_reference=t(4, 2, 3))
    assert aot(other, KNOBS).sum() < dpo(other, KNOBS).sum()


def test_aot_takes_the_whole_margin_of_policy_and_reference():
    """u = 3 − 1 = 2, v = −4 + 3 = −1: β d = 3 ln 3 / 3."""
    pairs = Pairs(t(3), t(1), t(-4), t(-3), torch.ones(1), torch.ones(1))
    assert_close(aot(pairs, Knobs(L3 / 3)), t(math.log(4 / 3)))


def test_discopop_is_exponential_above_and_logistic_below():
    knobs = Knobs(0.05, sharpness=0.05)
    assert_close(discopop(at(t(100), t(0)), knobs), t(math.exp(-5)))
    assert_close(discopop(at(t(-100), t(0)), knobs), t(math.log1p(math.exp(5))))
    far = at(torch.tensor([-1e5, 1e5]), torch.zeros(2))  # exp(5000) would be infinite
    assert_close(discopop(far, knobs), torch.tensor([5000.0, 0.0]))


def test_discopop_pushes_the_wrong_way_at_the_reference():
    """Slope β ((1 − ln 2) / (4τ) − ¾), positive for τ = 0.05; β d ≈ −0.12 is a valley, 0.07 a hill."""
    knobs = Knobs(0.05, sharpness=0.05)
    assert slope(discopop, 0, 0, knobs)[0] == pytest.approx(0.05 * ((1 - L2) / 0.2 - 0.75), abs=1e-12)
    signs = [slope(discopop, z / 0.05, 0, knobs)[0] > 0 for z in (-0.13, -0.11, 0.06, 0.08)]
    assert signs == [False, True, True, False]
    assert slope(discopop, 0, 0, Knobs(0.05, sharpness=0.11))[0] < 0


# --- divergences -----------------------------------------------------------------------------------------------------


def test_alpha_runs_from_dpo_to_the_forward_kl():
    near = at(t(0.5, -2, 1.5), t(-1, -1.5, 3))
    assert_close(fdpo_alpha(near, Knobs(0.5, divergence=1e-9)), dpo(near, KNOBS))
    assert_close(fdpo_alpha(near, Knobs(0.5, divergence=1 - 1e-12)), fdpo_forward_kl(near, KNOBS))


def test_small_log_ratios_make_the_forward_kl_dpo_and_halve_beta_for_js():
    tiny = at(t(1e-4), t(-1e-4))
    assert slope(fdpo_forward_kl, 1e-6, -1e-6, KNOBS) == pytest.approx(slope(dpo, 1e-6, -1e-6, KNOBS), rel=1e-5)
    assert_close(fdpo_js(tiny, Knobs(1.0)), dpo(tiny, Knobs(0.5)))


def test_js_of_unlikely_completions_is_dpo():
    assert_close(fdpo_js(at(t(-50), t(-53)), KNOBS), dpo(at(t(-50), t(-53)), KNOBS))


def test_how_much_a_chosen_completion_can_earn():
    """f'(∞) − f'(1): 1 for the forward KL, ln 2 for Jensen–Shannon, 1 / α for α."""
    sure = at(t(500), t(0))
    assert_close(fdpo_forward_kl(sure, Knobs(L3)), t(math.log(4 / 3)))
    assert_close(fdpo_js(sure, Knobs(L3 / L2)), t(math.log(4 / 3)))
    assert_close(fdpo_alpha(sure, Knobs(0.3 * L3, divergence=0.3)), t(math.log(4 / 3)))


def test_exponentials_go_on_as_their_tangent_above_30_nats():
    """At a = −31, 1 / u counts as 2 e³⁰; up to 30 nats it is exact. The slope stays −β e³⁰ from there on."""
    assert CAP == 30
    edge = math.exp(30)
    for a, inverse in ((-29.0, math.exp(29)), (-30.0, edge), (-31.0, 2 * edge), (-1030.0, 1001 * edge)):
        assert_close(fdpo_forward_kl(at(t(a), t(0)), KNOBS), t(0.5 * (inverse - 1)), rtol=1e-12, atol=0)
        assert slope(fdpo_forward_kl, a, 0, KNOBS)[0] == pytest.approx(
            -0.5 * min(math.exp(-a) if a > -31 else edge, edge)
        )
    assert_close(fdpo_alpha(at(t(-310), t(0)), Knobs(0.5, divergence=0.1)), t(5 * (2 * edge - 1)), rtol=1e-12, atol=0)
    wrong = fdpo_forward_kl(at(torch.tensor([-9000.0]), torch.tensor([0.0])), Knobs(0.1))
    assert wrong.item() == pytest.approx(0.1 * 8971 * edge, rel=1e-6)


# --- anchors ---------------------------------------------------------------------------------------------------------


def test_nca_holds_the_chosen_completion_from_both_sides():
    """The minimum in a is at β a = ln 2; in b the slope is β σ(β b) / 2 everywhere."""
    assert slope(nca, 2 * L2, -2 * L3, KNOBS) == pytest.approx((0, 0.5 * 0.25 / 2), abs=1e-12)
    assert slope(nca, 2 * L2 + 1, 0, KNOBS)[0] > 0 > slope(nca, 2 * L2 - 1, 0, KNOBS)[0]


def test_bco_pair_is_above_dpo():
    assert (bco_pair(at(A, B), KNOBS) > dpo(at(A, B), KNOBS)).all()


def test_sppo_stops_at_both_targets():
    assert sppo(at(t(500), t(-500)), Knobs(0.001)).item() == 0
    assert slope(sppo, 500, -500, Knobs(0.001)) == (0, 0)
    assert_close(sppo(at(t(500), t(500)), Knobs(0.001)), t(1e6))


def test_apo_runs_from_0_to_2():
    assert_close(apo_zero(at(t(1e4, -1e4), t(-1e4, 1e4)), KNOBS), t(0, 2))
    assert_close(apo_down(at(t(-1e4, 1e4), t(-3e4, 3e4)), KNOBS), t(0, 2))


def test_apo_down_moves_the_rejected_completion_first():
    assert slope(apo_down, 0, 0, KNOBS) == (0, 0.125)
    assert slope(apo_down, 0, -9, KNOBS)[0] > 0  # far apart already: the chosen one goes down


# --- without a reference ---------------------------------------------------------------------------------------------


def test_simpo_takes_gamma_off_after_beta():
    """Equal averages cost log(1 + e^γ); a margin of γ / β nats per token costs ln 2."""
    assert_close(simpo(at(t(-3), t(-3), length=3), Knobs(2.0, gamma=L3)), t(math.log(4)))
    assert_close(simpo(at(t(-3), t(-6), length=3), Knobs(2.0, gamma=2.0)), t(L2))


def test_simpo_without_gamma_is_normalised_dpo_without_reference():
    pairs = at(-A.abs(), -B.abs(), length=3)
    assert_close(simpo(pairs, KNOBS), dpo_norm(pairs, KNOBS))


def test_cpo_is_dpo_without_reference_and_the_likelihood_as_a_sum():
    pairs = at(-A.abs(), -B.abs(), length=3)
    assert_close(cpo(pairs, Knobs(0.5, nll=0.0)), dpo(pairs, KNOBS))
    assert_close(cpo(pairs, Knobs(0.5, nll=2.0)) - dpo(pairs, KNOBS), 2 * A.abs())


@pytest.mark.parametrize(("chosen", "rejected"), [(0.5, 0.2), (0.01, 0.9), (0.999, 1e-9)])
def test_orpo_is_plain_arithmetic_with_probabilities(chosen, rejected):
    """−log p_c − λ log(odds ratio / (1 + odds ratio)), the probabilities per token; lengths 2 and 5."""
    pairs = Pairs(2 * t(chosen).log(), 5 * t(rejected).log(), t(0), t(0), torch.tensor([2]), torch.tensor([5]))
    ratio = chosen / (1 - chosen) / (rejected / (1 - rejected))
    assert_close(orpo(pairs, Knobs(0.3)), t(-math.log(chosen) - 0.3 * math.log(ratio / (1 + ratio))))


def test_log_odds_from_sure_to_hopeless():
    """p = ½ has odds 1, p = ¾ has 3. Sure: the odds of exp(−1e-6), 999 999.5 to 1, and no gradient."""
    average = t(0, -1e-9, math.log(0.75), -L2, -100).requires_grad_()
    odds = log_odds(average)
    odds.sum().backward()
    sure = math.log(999_999.5)
    assert_close(odds.detach(), t(sure, sure, L3, 0, -100))
    assert_close(average.grad, t(0, 0, 4, 2, 1))
    assert log_odds(torch.tensor([0.0, 1e-7])).tolist() == pytest.approx([sure, sure], abs=1e-5)


def test_nll_reads_the_chosen_completion_alone():
    pairs = Pairs(t(-6), t(-8), t(-1), t(-1), torch.tensor([3]), torch.tensor([4]))
    assert chosen_nll(pairs, KNOBS).tolist() == [2]


# --- knobs -----------------------------------------------------------------------------------------------------------


def test_knobs_that_no_objective_can_work_with(refuses):
    for beta in (0.0, -0.1, math.inf, math.nan):
        with refuses(f"beta is {beta:g}; it must be above 0 and finite."):
            Knobs(beta)
    for smoothing in (-0.1, 0.6, math.nan):
        with refuses(f"smoothing is {smoothing:g}; it must lie in [0, 0.5]."):
            Knobs(0.1, smoothing=smoothing)
    for field in ("gamma", "nll"):
        for number in (-0.1, math.inf):
            with refuses(f"{field} is {number:g}; it must not be negative, and finite."):
                Knobs(0.1, **{field: number})
    for divergence in (0.0, 1.0, -1.0, 2.0):
        with refuses(f"divergence is {divergence:g}; it must lie between 0 and 1."):
            Knobs(0.1, divergence=divergence)
    for sharpness in (0.0, 1.5, -1.0):
        with refuses(f"sharpness is {sharpness:g}; it must be above 0 and at most 1."):
            Knobs(0.1, sharpness=sharpness)


def test_knobs_at_the_edge_of_their_range():
    edge = Knobs(2.5, smoothing=0.5, gamma=0.0, nll=0.0, divergence=0.999, sharpness=1.0)
    assert (edge.smoothing, edge.gamma, edge.nll, edge.sharpness) == (0.5, 0, 0, 1)
    assert Knobs(1e-9) == Knobs(1e-9, smoothing=0.0, gamma=0.0, nll=1.0, divergence=0.5, sharpness=0.05)


def test_given_numbers_replace_the_defaults():
    assert knobs_for("dpo") == Knobs(0.1)
    assert knobs_for("dpo", beta=0.3, gamma=None, smoothing=None) == Knobs(0.3)
    assert knobs_for("simpo", gamma=0.0) == Knobs(2.0, gamma=0.0)
    assert knobs_for("cdpo", smoothing=0.25) == Knobs(0.1, smoothing=0.25)
    assert knobs_for("nll", beta=0.7) == Knobs(0.7)


def test_what_an_objective_cannot_work_with_is_refused_by_knobs_for(refuses):
    with refuses(f"There is no objective 'ppo'; choose one of {', '.join(OBJECTIVES)}."):
        knobs_for("ppo")
    with refuses("gamma is given, but dpo does not read it; what it reads: beta."):
        knobs_for("dpo", gamma=0.5)
    with refuses("betta is given, but simpo does not read it; what it reads: beta, gamma."):
        knobs_for("simpo", betta=0.5)
    with refuses("beta is 0; it must be above 0 and finite."):
        knobs_for("ipo", beta=0.0)
    with refuses("smoothing is 0.5; robust divides by 1 − 2 · smoothing, so it must be below 0.5."):
        knobs_for("robust", smoothing=0.5)
    with refuses("smoothing is 0; exo takes its logarithm, so it must be above 0."):
        knobs_for("exo", smoothing=0.0)


def test_a_mixture_hands_each_objective_what_it_reads():
    knobs = mixture_knobs([("cdpo", 0.5), ("simpo", 0.3), ("nll", 0.2)], beta=0.4, gamma=0.6, smoothing=None)
    assert knobs == {"cdpo": Knobs(0.4, smoothing=0.1), "simpo": Knobs(0.4, gamma=0.6), "nll": Knobs(0.4)}
    assert mixture_knobs([("robust", 0.5), ("dpo", 0.5)]) == {"robust": Knobs(0.01, smoothing=0.1), "dpo": Knobs(0.1)}


def test_a_knob_that_no_part_of_a_mixture_reads_is_refused(refuses):
    with refuses(f"There is no objective 'ppo'; choose one of {', '.join(OBJECTIVES)}."):
        mixture_knobs([("dpo", 0.5), ("ppo", 0.5)])
    with refuses(
        "divergence is given, but cdpo + simpo + exo does not read it; what it reads: beta, smoothing, gamma."
    ):
        mixture_knobs([("cdpo", 0.5), ("simpo", 0.25), ("exo", 0.25)], divergence=0.5)
    with refuses("smoothing is 0.5; robust divides by 1 − 2 · smoothing, so it must be below 0.5."):
        mixture_knobs([("cdpo", 0.5), ("robust", 0.5)], smoothing=0.5)


# --- mixtures --------------------------------------------------------------------------------------------------------


def test_mixtures_as_they_are_written():
    assert parse_mixture("dpo") == (("dpo", 1.0),)
    assert parse_mixture(" 0.8*dpo + 0.2*nll ") == (("dpo", 0.8), ("nll", 0.2))
    assert parse_mixture("0.2 * ipo+.5*hinge + 3e-1*sppo") == (("ipo", 0.2), ("hinge", 0.5), ("sppo", 0.3))
    assert parse_mixture("0.3333333*dpo+0.3333333*ipo+0.3333333*exo")[2] == ("exo", 0.3333333)


def test_mixtures_that_are_refused(refuses):
    names = ", ".join(OBJECTIVES)
    for text, name in (("", ""), ("0.5*dpo + 0.5*rlhf", "rlhf"), ("dpo*0.5 + 0.5*nll", "0.5"), ("dpo +", "")):
        with refuses(f"There is no objective {name!r}; choose one of {names}."):
            parse_mixture(text)
    for weight in ("0", "-1", "much", "nan", "inf", "", "1*1"):
        with refuses(f"The weight of dpo is {weight!r}; give a number above 0."):
            parse_mixture(f"{weight}*dpo")
    with refuses("dpo stands in '0.5*dpo + 0.5*dpo' more than once; add its weights up."):
        parse_mixture("0.5*dpo + 0.5*dpo")
    with refuses("The weights in 'dpo + 0.25*nll' sum to 1.25, not to 1; divided by their sum: 0.8*dpo + 0.2*nll."):
        parse_mixture("dpo + 0.25*nll")
    with refuses("The weights in '0.5*dpo' sum to 0.5, not to 1; divided by their sum: 1*dpo."):
        parse_mixture("0.5*dpo")
    with refuses("The weights in '0.99999*dpo' sum to 0.99999, not to 1; divided by their sum: 1*dpo."):
        parse_mixture("0.99999*dpo")


def test_a_mixture_is_the_weighted_sum():
    """d = 2 ln 3 with β = ½ costs DPO ln 4/3; the chosen completion, one token of log-probability −1, costs 1."""
    pairs = Pairs(t(-1, -1), t(-2, -2), t(-1 - 2 * L3, -1), t(-2, -2), torch.ones(2), torch.ones(2))
    loss = preference_loss(pairs, (("dpo", 0.8), ("nll", 0.2)), {"dpo": Knobs(0.5), "nll": Knobs(0.1)})
    assert_close(loss, t(0.8 * math.log(4 / 3) + 0.2, 0.8 * L2 + 0.2))


def test_the_start_of_a_mixture():
    knobs = {"dpo": Knobs(0.1), "ipo": Knobs(0.5), "hinge": Knobs(0.1), "nll": Knobs(0.1)}
    assert start_loss([("dpo", 1.0)], knobs) == L2
    assert start_loss([("dpo", 0.25), ("ipo", 0.5), ("hinge", 0.25)], knobs) == 0.25 * L2 + 0.5 + 0.25
    assert start_loss([("dpo", 0.8), ("nll", 0.2)], knobs) is None
    assert start_loss([("nll", 0.2), ("dpo", 0.8)], knobs) is None
