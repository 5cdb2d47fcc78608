"""Best-of-n and its costs against full enumeration; rejection sampling; pass@k."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.selection import (
    best_of,
    best_of_n_curve,
    best_of_n_exact_kl,
    best_of_n_kl,
    best_of_n_pmf,
    best_of_n_win_rate,
    pass_at_k,
    rso_accept,
    rso_subset,
)

LN2 = math.log(2)


def t(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# --- choosing --------------------------------------------------------------------------------------------------------


def test_best_of():
    rewards = torch.tensor([[0.1, 0.3, 0.2], [5, -1, 5], [-3, -2, -math.inf]])
    assert best_of(rewards).tolist() == [1, 0, 1]  # among equals the first
    assert best_of(torch.tensor([[7], [8]])).tolist() == [0, 0]


def test_best_of_refuses(refuses):
    with refuses("rewards has shape (3,); give (P, n), one row of samples per prompt."):
        best_of(torch.zeros(3))
    with refuses("rewards has shape (3, 0); give (P, n), one row of samples per prompt."):
        best_of(torch.zeros(3, 0))
    with refuses("rewards hold NaN; score every sample before choosing among them."):
        best_of(torch.tensor([[1.0, math.nan]]))


def test_rso_by_hand():
    """β = 2, rewards 4, 2, 0 below a best of 4: accepted with probability 1, e^−1 = 0.368, e^−2 = 0.135."""
    rewards = torch.tensor([[4.0, 2.0, 0.0]]).expand(3, 3)
    uniform = torch.tensor([[0.99, 0.36, 0.13], [0.0, 0.37, 0.14], [0.999, 0.999, 0.999]])
    assert rso_accept(rewards, 2.0, uniform).tolist() == [
        [True, True, True],
        [True, False, False],
        [True, False, False],
    ]


def test_rso_compares_within_a_prompt():
    rewards = torch.tensor([[0, 1], [100, 101]])
    uniform = torch.tensor([[0.36, 0.5], [0.36, 0.5]])
    assert rso_accept(rewards, 1.0, uniform).tolist() == [[True, True], [True, True]]
    assert rso_accept(rewards, 1e6, torch.full((2, 2), 0.999)).all()
    assert rso_accept(rewards, 1e-6, torch.full((2, 2), 1e-6)).tolist() == [[False, True], [False, True]]


def test_rso_does_not_keep_at_equality():
    """u < 1 always holds for the best, and u = e^0 never does: u lies in [0, 1)."""
    assert rso_accept(torch.tensor([[1.0]]), 1.0, torch.tensor([[1.0]])).tolist() == [[False]]


def test_rso_refuses(refuses):
    two = torch.zeros(1, 2)
    with refuses("uniform has shape (1, 3) but rewards has (1, 2); give both the same shape."):
        rso_accept(two, 1.0, torch.zeros(1, 3))
    with refuses("rewards has shape (2,); give (P, n), one row of samples per prompt."):
        rso_accept(two[0], 1.0, two[0])
    with refuses("beta is 0; it must be above 0."):
        rso_accept(two, 0, two)


def drawn(*rounds):
    """A source of "random" numbers that gives these, round by round."""
    left = list(rounds)

    def uniform(m):
        assert len(left[0]) == m, "one number for each sample that is left"
        return torch.tensor(left.pop(0))

    return uniform


def test_rso_subset_by_hand():
    """β = 1, rewards 0, 2, 1. Against 2: e^−2 = 0.135, 1, e^−1 = 0.368. Then 0 and 1 are left, against 1: e^−1, 1."""
    rewards = torch.tensor([0.0, 2.0, 1.0])
    assert rso_subset(rewards, 2, 1.0, drawn([0.14, 0.9, 0.36])).tolist() == [1, 2]
    assert rso_subset(rewards, 2, 1.0, drawn([0.13, 0.9, 0.36])).tolist() == [0, 1], "the round is cut at two"
    assert rso_subset(rewards, 3, 1.0, drawn([0.14, 0.9, 0.37], [0.36, 0.9])).tolist() == [1, 0, 2]
    assert rso_subset(rewards, 3, 1.0, drawn([0.14, 0.9, 0.37], [0.37, 0.9], [0.9])).tolist() == [1, 2, 0]
    assert rso_subset(rewards, 1, 1.0, drawn([0.14, 0.9, 0.37])).tolist() == [1]


def test_rso_subset_limits():
    rewards, noise = torch.tensor([0.3, -1.0, 0.9, 0.9]), torch.Generator().manual_seed(0)

    def uniform(m):
        return torch.rand(m, generator=noise)

    assert rso_subset(rewards, 4, 1e-6, uniform).tolist() == [2, 3, 0, 1]
    assert rso_subset(rewards, 3, 1e9, uniform).tolist() == [0, 1, 2]


def test_the_first_of_an_rso_subset_follows_the_optimum():
    """A hundred samples of an even coin, β = 1, rewards 0 and 1: in the first round heads stay with e^−1 = 0.368."""
    noise = torch.Generator().manual_seed(0)
    rewards = torch.tensor([0.0, 1.0] * 50)
    heads = torch.cat([rewards[rso_subset(rewards, 20, 1.0, lambda m: torch.rand(m, generator=noise))]
                       for _ in range(200)])  # fmt: skip
    assert float(heads.mean()) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.02)


def test_rso_subset_refuses(refuses):
    two = torch.zeros(2)
    with refuses("rewards has shape (1, 2); give (n,), the finite rewards of one prompt."):
        rso_subset(two[None], 1, 1.0, torch.rand)
    with refuses("rewards has shape (2,); give (n,), the finite rewards of one prompt."):
        rso_subset(torch.tensor([0.0, math.nan]), 1, 1.0, torch.rand)
    for count in (0, 3):
        with refuses(f"count is {count}; it must lie in [1, 2], the samples there are."):
            rso_subset(two, count, 1.0, torch.rand)
    with refuses("beta is 0; it must be above 0."):
        rso_subset(two, 1, 0, torch.rand)


# --- what best-of-n costs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "nats"), [(1, 0), (2, 0.1931), (4, 0.6363), (8, 1.2044), (16, 1.8351), (64, 3.1745), (256, 4.5491)]
)
def test_the_bound_of_the_kl(n, nats):
    assert best_of_n_kl(n) == pytest.approx(nats, abs=6e-5)


def test_the_bound_of_the_win_rate():
    assert [best_of_n_win_rate(n) for n in (1, 3, 9)] == [0.5, 0.75, 0.9]


def test_the_bounds_hold_and_are_reached_by_many_unlikely_outcomes():
    """1000 equally likely outcomes of different scores: as good as continuous. A win is more, and half a tie."""
    p, scores = torch.full((1000,), 1e-3), torch.arange(1000.0)
    pmf = best_of_n_pmf(p, scores, 4)
    assert best_of_n_exact_kl(p, scores, 4) == pytest.approx(math.log(4) - 3 / 4, abs=1e-3)
    wins = (pmf * (scores.double() + 0.5) / 1000).sum().item()
    assert wins == pytest.approx(4 / 5, abs=1e-5)


def test_pmf_by_hand():
    """p = (½, ¼, ¼) with scores 0, 1, 1: below 0 + ½, so n = 2 gives ¼ to the first and ¾ to the tie, half each."""
    assert best_of_n_pmf(t(0.5, 0.25, 0.25), t(0, 1, 1), 2).tolist() == [0.25, 0.375, 0.375]
    assert best_of_n_pmf(t(0.5, 0.25, 0.25), t(1, 0, 0), 2).tolist() == [0.75, 0.125, 0.125]
    assert best_of_n_pmf(t(0.25, 0.75), t(1, 1), 9).tolist() == [0.25, 0.75]
    assert best_of_n_pmf(t(0.25, 0.75, 0), t(0, 0, 1), 2).tolist() == [0.25, 0.75, 0]
    assert best_of_n_pmf(t(1), t(3), 5).tolist() == [1]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_pmf_is_that_of_every_draw(n):
    """All V^n draws, each with its probability; a tie between samples is broken at random."""
    p, scores = [0.1, 0.4, 0.2, 0.3, 0.0], [2.0, -1.0, 2.0, 0.0, 5.0]
    expected = [0.0] * 5
    for draw in itertools.product(range(5), repeat=n):
        best = max(scores[i] for i in draw)
        tied = [i for i in draw if scores[i] == best]
        for i in tied:
            expected[i] += math.prod(p[j] for j in draw) / len(tied)
    pmf = best_of_n_pmf(t(*p), t(*scores), n)
    assert_close(pmf, t(*expected))
    kl = sum(b * math.log(b / a) for a, b in zip(p, expected, strict=True) if b)
    assert best_of_n_exact_kl(t(*p), t(*scores), n) == pytest.approx(kl, abs=1e-12)
    assert kl <= math.log(n) - (n - 1) / n + 1e-12


def test_exact_kl_by_hand():
    """Two equally likely outcomes: ¼ ln ½ + ¾ ln 3/2 = 0.1308 where the bound says 0.1931; ever more samples cost at
    most ln 2. A tie of everything costs nothing."""
    two, scores = t(0.5, 0.5), t(0, 1)
    assert best_of_n_exact_kl(two, scores, 2) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-12)
    assert best_of_n_exact_kl(two, scores, 2) == pytest.approx(0.1308, abs=1e-4)
    assert best_of_n_exact_kl(two, scores, 60) == pytest.approx(LN2, abs=1e-12)
    assert best_of_n_exact_kl(two, t(3, 3), 60) == 0


def test_pmf_and_bounds_refuse(refuses):
    for function in (best_of_n_kl, best_of_n_win_rate):
        with refuses("n is 0; best-of-n needs at least 1 sample."):
            function(0)
    for function in (best_of_n_pmf, best_of_n_exact_kl):
        with refuses("n is 0; best-of-n needs at least 1 sample."):
            function(t(1), t(1), 0)
        with refuses("scores has shape (2,) but probabilities has (1,); give both the same shape."):
            function(t(1), t(1, 2), 1)
        for wrong in (t(0.5, 0.4), t(1.5, -0.5), t(0.5, 0.500003), t([0.5, 0.5])):
            with refuses("probabilities must be one list of numbers ≥ 0 that sum to 1."):
                function(wrong, torch.zeros_like(wrong), 1)
    assert best_of_n_pmf(torch.full((10,), 0.1), torch.arange(10), 1).sum().item() == pytest.approx(1, abs=1e-6)


# --- the curve -------------------------------------------------------------------------------------------------------


def test_curve_by_hand():
    """Gold 5, 1, 3 in the order of the proxy. One sample: the mean, 3. Two: of the pairs, one ends at the second and
    two at the third, (1 · 1 + 2 · 3)/3. All three: the last, 3."""
    curve = best_of_n_curve(t([20, 30, 10]), t([1, 3, 5]), [1, 2, 3])
    assert_close(curve, t([3, 7 / 3, 3]))


def test_curve_with_a_tie():
    """Proxy 1, 2, 2 and gold 0, 4, 8: the tied ones count 6 each, wherever they stand."""
    for gold in (t([0, 4, 8]), t([0, 8, 4])):
        assert_close(best_of_n_curve(t([1, 2, 2]), gold, [3, 2, 1]), t([6, 6, 4]))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_curve_is_the_mean_over_all_subsets(n):
    """Every subset of n of the 6 samples; where the proxy ties, the mean of the tied gold of the subset."""
    rng = random.Random(n)
    proxy = [[float(rng.randint(0, 3)) for _ in range(6)] for _ in range(3)]
    gold = [[rng.gauss(0, 1) for _ in range(6)] for _ in range(3)]
    expected = []
    for p, g in zip(proxy, gold, strict=True):
        values = []
        for subset in itertools.combinations(range(6), n):
            best = max(p[i] for i in subset)
            tied = [g[i] for i in subset if p[i] == best]
            values.append(sum(tied) / len(tied))
        expected.append([sum(values) / len(values)])
    assert_close(best_of_n_curve(t(*proxy), t(*gold), [n]), t(*expected))


def test_curve_of_128_samples_keeps_its_digits():
    """Gold = proxy = rank 1 … N: the largest of n from N has the mean n (N + 1) / (n + 1). C(128, 64) is 2.4e37."""
    ranks = torch.arange(1, 129)[None]
    ns = [1, 2, 16, 64, 127, 128]
    expected = [n * 129 / (n + 1) for n in ns]
    assert best_of_n_curve(ranks, ranks, ns)[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_curve_refuses(refuses):
    two = torch.zeros(1, 2)
    with refuses("gold has shape (1, 3) but proxy has (1, 2); give both the same shape."):
        best_of_n_curve(two, torch.zeros(1, 3), [1])
    with refuses("proxy has shape (2,); give (P, N), one row of samples per prompt."):
        best_of_n_curve(two[0], two[0], [1])
    for n in (0, 3):
        with refuses(f"n is {n}; it must lie in [1, 2], the samples there are of each prompt."):
            best_of_n_curve(two, two, [1, n])


# --- pass@k ----------------------------------------------------------------------------------------------------------


def test_pass_at_k_by_hand():
    """5 samples, 2 right: two at once are both wrong in 3 of 10 pairs."""
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7, abs=1e-12)
    assert pass_at_k(5, 2, 1) == pytest.approx(0.4, abs=1e-12)
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9, abs=1e-12)
    assert pass_at_k(5, 2, 4) == 1
    assert pass_at_k(5, 0, 5) == 0
    assert pass_at_k(5, 5, 1) == 1
    assert pass_at_k(1, 1, 1) == 1


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_pass_at_k_is_the_mean_over_all_subsets(k):
    right = [True, False, False, True, False, False]
    hits = [any(subset) for subset in itertools.combinations(right, k)]
    assert pass_at_k(6, 2, k) == pytest.approx(sum(hits) / len(hits), abs=1e-12)


def test_pass_at_k_refuses(refuses):
    for correct in (-1, 6):
        with refuses(f"correct is {correct}; it must lie in [0, 5], the samples drawn."):
            pass_at_k(5, correct, 1)
    for k in (0, 6):
        with refuses(f"k is {k}; it must lie in [1, 5], the samples drawn."):
            pass_at_k(5, 2, k)
