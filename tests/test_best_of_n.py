"""Best-of-n measured: the curve by hand from small pools, what a pool holds, the exact world, its figure."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from lab.base import RAW, SharedBase
from lab.charts import best_of_n_curve
from lab.config import Adapter
from lab.evaluate.best_of_n import Pool, PoolError, as_json, best_of_n, chosen, curve, pass_rates, pool
from lab.feedback.rewards import Rewards, Term
from lab.records import PromptRow, Rollout
from lab.score import score
from lab.tabular import forecasts


def made(proxy, gold=None, ids=None):
    """A pool of these scores; `ids` says which completions are the same."""
    ids = ids or [list(range(len(row))) for row in proxy]
    rollouts = tuple(Rollout("base", f"{i}?", str(k), (1,), (k,), True) for i, row in enumerate(ids) for k in row)
    return Pool(rollouts, torch.tensor(proxy), None if gold is None else torch.tensor(gold))


TWO = made([[1.0, 3.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]], [[5.0, 1.0, 4.0, 2.0], [0.0, 4.0, 3.0, 1.0]])
"""Sorted by proxy, gold is 2, 5, 4, 1 and 0, 4, 3, 1."""


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_the_curve_by_hand():
    """n = 1: the means 3 and 2. n = 2, weights 0, 1, 2, 3 sixths: (5 + 8 + 3) / 6, (4 + 6 + 3) / 6. n = 4: 1, 1."""
    found = curve(TWO)
    assert [p.n for p in found.points] == [1, 2, 4]
    assert (found.samples, found.prompts) == (4, 2)
    assert [p.gold.mean for p in found.points] == pytest.approx([2.5, (16 / 6 + 13 / 6) / 2, 1.0])
    assert [p.proxy.mean for p in found.points] == pytest.approx([1.5, (0 + 1 + 4 + 9) / 6, 3.0])
    # two prompts, 3 and 2: s = √½, the half width 1.96 · √½ / √2
    assert found.points[0].gold.high - found.points[0].gold.mean == pytest.approx(1.959964 / 2, abs=1e-5)
    assert found.points[0].gold.n == 2
    assert found.peak.n == 1


def test_gold_peaks_where_the_proxy_is_still_right():
    found = curve(made([[0.0, 1.0, 2.0, 3.0]] * 2, [[0.0, 5.0, 6.0, 1.0], [0.0, 4.0, 6.0, 2.0]]), [1, 2, 3, 4])
    # Σ C(i−1, n−1)/C(4, n) gold: n = 2: (5 + 12 + 3)/6 and (4 + 12 + 6)/6; n = 3: (6 + 3)/4 and (6 + 6)/4
    assert [p.gold.mean for p in found.points] == pytest.approx([3.0, 3.5, 2.625, 1.5])
    assert found.peak.n == 2
    assert curve(made([[0.0, 1.0]])).peak is None


def test_both_distances_by_hand():
    """Two outcomes alike in number: best of two takes the better one with ¾, KL = ¾ ln 1.5 + ¼ ln ½ = 0.1308; where all
    tie, nothing is chosen. ln 2 − ½ = 0.1931 knows of neither."""
    coin = made([[0.0, 1.0] * 4], ids=[[0, 1] * 4])
    found = curve(coin, [1, 2, 8])
    assert [p.kl_bound for p in found.points] == pytest.approx([0.0, math.log(2) - 1 / 2, math.log(8) - 7 / 8])
    assert found.points[1].kl.mean == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert found.points[2].kl.mean < math.log(2), "the best level has the probability ½"
    flat = curve(made([[1.0, 1.0, 1.0, 1.0]] * 2), [4])
    assert flat.points[0].kl.mean == pytest.approx(0.0, abs=1e-12)
    assert flat.points[0].kl_bound == pytest.approx(math.log(4) - 3 / 4)


def test_the_same_completion_has_one_reward():
    """Two samples of it that the passes round differently are still one outcome: a share of ½ and not two of ¼."""
    rounded = made([[1.0, 1.0 + 1e-7, 0.0, 0.0]], ids=[[7, 7, 8, 8]])
    (point,) = curve(rounded, [2]).points
    assert point.kl.mean == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_ties_of_the_proxy_are_broken_blindly():
    """The proxy cannot tell 2 from 4: whoever is taken, it is 3 on average."""
    found = curve(made([[1.0, 1.0, 0.0]], [[2.0, 4.0, 0.0]]), [1, 2, 3])
    assert [p.gold.mean for p in found.points] == pytest.approx([2.0, 3.0, 3.0])


def test_chosen_is_the_best_of_each_prompt():
    best = chosen(TWO)
    assert [(c.rollout.prompt, c.rollout.completion, c.reward, c.gold) for c in best] == [
        ("0?", "1", 3.0, 1.0), ("1?", "3", 3.0, 1.0)]  # fmt: skip
    assert chosen(made([[2.0, 2.0]]))[0].rollout.completion == "0"


def test_pass_at_k_by_hand():
    """c = 1 and 2 of n = 4: 1 − C(n − c, k) / C(n, k); k = 2: 1 − 3/6 and 1 − 1/6."""
    verified = made([[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]])
    found = pass_rates(verified)
    assert [p.k for p in found] == [1, 2, 4]
    assert [p.rate.mean for p in found] == pytest.approx([(1 / 4 + 2 / 4) / 2, (1 / 2 + 5 / 6) / 2, 1.0])
    half = pass_rates(made([[0.5, 0.0], [0.0, 0.0]]), [1, 2], right=0.5)
    assert [p.rate.mean for p in half] == pytest.approx([1 / 4, 1 / 2])


def test_everything_goes_through_json():
    for found in (curve(TWO), chosen(TWO), pass_rates(TWO)):
        assert json.loads(json.dumps(as_json(found))) is not None
    assert json.loads(json.dumps(as_json(curve(TWO))))["points"][2]["gold"]["mean"] == 1.0


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(ValueError, match=r"n is 5; it must lie in \[1, 4\]"):
        curve(TWO, [5])
    with pytest.raises(ValueError, match=r"k is 9; it must lie in \[1, 4\]"):
        pass_rates(TWO, [9])
    with pytest.raises(PoolError, match="There are 1 prompts and 0 samples of each"):
        best_of_n(forecasts().base, [PromptRow("summer?")], RAW, 0, Rewards.program(lambda *_: 0.0), max_new_tokens=3)
    with pytest.raises(PoolError, match="There are 0 prompts"):
        pool(forecasts().base, [], RAW, 2, Rewards.program(lambda *_: 0.0), max_new_tokens=3)


# --- sampled ---------------------------------------------------------------------------------------------------------


def letters(prompt, completion, row):
    """The share of a completion's characters that are the row's letter."""
    return completion.count(row["letter"]) / max(1, len(completion))


@pytest.fixture
def base(qwen3_folder):
    base = SharedBase.load(qwen3_folder, bits=4, device="cpu")
    for i in range(3):
        base.add_role(f"judge{i}", Adapter(rank=4, alpha=8), seed=5 + i)
        base.add_head(f"judge{i}", seed=5 + i)
    return base


ROWS = [PromptRow(f"Somebody describes {w}.", i, {"letter": "aeiou"[i]})
        for i, w in enumerate(("the broken clock", "a small boat", "every question"))]  # fmt: skip


def test_a_pool_holds_what_the_rewards_say(base, monkeypatch):
    """A program that reads the row, minus twice the worst of an ensemble, a few prompts at a time."""
    monkeypatch.setattr("lab.evaluate.best_of_n.ROWS_AT_ONCE", 8)
    base.chat = replace(base.chat, stop_ids=frozenset(range(60)))
    names = ("judge0", "judge1", "judge2")
    rewards = Rewards((Term("letters", program=letters), Term("judges", -2.0, roles=names, combine="worst")))
    told = []
    found = pool(base, ROWS, RAW, 4, rewards, max_new_tokens=8, missing_end=3.0, seed=1,
                 on_progress=lambda *x: told.append(x))  # fmt: skip
    assert told == [(2, 3), (3, 3)]
    known = score(base, [(r.prompt_ids, r.completion_ids) for r in found.rollouts], dict.fromkeys(names, "reward"))
    worst = torch.stack([known[n] for n in names]).amin(0)
    own = torch.tensor([letters("", r.completion, ROWS[i // 4].columns) for i, r in enumerate(found.rollouts)])
    ended = torch.tensor([r.ended for r in found.rollouts])
    assert 0 < int(ended.sum()) < 12
    assert torch.allclose(found.proxy.view(-1), own - 2 * worst - 3 * (~ended).float(), atol=1e-5)
    assert [r.prompt for r in found.rollouts] == [p.prompt for p in ROWS for _ in range(4)]
    assert found.of(1) == found.rollouts[4:8]


def test_prompts_sampled_apart_have_noise_of_their_own(base, monkeypatch):
    monkeypatch.setattr("lab.evaluate.best_of_n.ROWS_AT_ONCE", 4)
    found = pool(base, [ROWS[0]] * 3, RAW, 4, Rewards.program(letters), max_new_tokens=8)
    assert len({r.completion_ids for r in found.rollouts}) == 12


def test_best_of_n_takes_the_highest_of_its_samples(base):
    settings = {"max_new_tokens": 8, "seed": 3}
    rewards = Rewards.program(letters)
    best = best_of_n(base, ROWS, RAW, 5, rewards, **settings)
    everything = pool(base, ROWS, RAW, 5, rewards, **settings)
    assert [c.reward for c in best] == everything.proxy.amax(1).tolist()
    assert [c.reward for c in best] == pytest.approx([letters("", c.rollout.completion, p.columns)
                                                      for c, p in zip(best, ROWS, strict=True)])  # fmt: skip
    assert all(c.gold is None for c in best)


class Said:
    """A true score without reasons."""

    def __init__(self, score):
        self.score, self.reasons = score, ()


def test_the_curve_in_a_world_that_can_be_listed():
    """The exact expectation of gold under the best of n, summed over all completions, within four standard errors."""
    world = forecasts()
    rewards = world.rewards(lambda x, y: float(y.count("rain")))
    truth = world.rewards(lambda x, y: 1.0 * ("rain" in y) - len(y.split()))
    told = world.program(truth)
    rows = [PromptRow("summer?", i) for i in range(60)]
    found = curve(pool(world.base, rows, RAW, 64, Rewards.program(world.program(rewards)),
                       lambda x, y, ended: Said(told(x, y, {})), max_new_tokens=3))  # fmt: skip
    p, r, g = world.distribution()[0], rewards[0], truth[0]
    for point in found.points:
        exact = torch.zeros_like(p)
        for level in r.unique():
            share = p * (r == level)
            up_to, below = p[r <= level].sum(), p[r < level].sum()
            exact += share / share.sum() * (up_to**point.n - below**point.n)
        width = (point.gold.high - point.gold.mean) / 1.96
        assert point.gold.mean == pytest.approx(float((exact * g).sum()), abs=4 * width + 1e-6)
        exact_kl = float((exact * (exact / p).log()).nan_to_num(0.0).sum())
        assert exact_kl <= point.kl_bound + 1e-12
        low = 0.05 if point.n <= 16 else 0.35  # the pool is short of rare completions where n is near N
        assert exact_kl - low < point.kl.mean < exact_kl + 0.01


# --- drawn -----------------------------------------------------------------------------------------------------------


def test_the_figure_has_both_scores_with_their_intervals_and_the_peak():
    found = curve(made([[0.0, 1.0, 2.0, 3.0]] * 2, [[0.0, 5.0, 6.0, 1.0], [0.0, 4.0, 6.0, 2.0]]), [1, 2, 3, 4])
    drawn = best_of_n_curve(found)
    band, proxy, _, gold = drawn["data"]
    assert proxy["y"] == [p.proxy.mean for p in found.points]
    assert gold["y"] == pytest.approx([3.0, 3.5, 2.625, 1.5])
    assert gold["x"] == pytest.approx([0.0, math.sqrt(math.log(2) - 1 / 2), math.sqrt(math.log(3) - 2 / 3),
                                       math.sqrt(math.log(4) - 3 / 4)])  # fmt: skip
    assert (proxy["line"]["dash"], gold["line"]["dash"]) == ("solid", "dash")
    assert band["y"][0] == found.points[0].proxy.high
    assert band["y"][-1] == found.points[0].proxy.low
    (note,) = drawn["layout"]["annotations"]
    assert (note["text"], note["y"]) == ("n = 2", pytest.approx(3.5))
    by_n = best_of_n_curve(found, x="n", dark=True)
    assert by_n["data"][1]["x"] == [1, 2, 3, 4]
    assert by_n["layout"]["annotations"][0]["x"] == pytest.approx(math.log10(2))
    json.dumps(by_n)


def test_the_figure_is_valid_plotly_with_and_without_gold():
    import plotly.graph_objects as go

    assert len(go.Figure(best_of_n_curve(curve(TWO), x="n")).data) == 4
    alone = best_of_n_curve(curve(made([[0.0, 1.0], [1.0, 0.0]])))
    assert len(go.Figure(alone).data) == 2
    assert "annotations" not in alone["layout"]
