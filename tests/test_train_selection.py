"""Rejection sampling: what is kept, the loss on it by hand, splits, resume, and the distributions it must reach."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lab.base import SharedBase
from lab.config import Adapter, ConfigError
from lab.config.selection import SelectionConfig
from lab.events import Checked, Probed, Updated
from lab.feedback.rewards import RewardError, Rewards
from lab.learner import NonFiniteError
from lab.probes import Probes
from lab.records import Message, PromptRow
from lab.score import score
from lab.tabular import TabularWorld, forecasts, total_variation
from lab.train import selection as S

WORDS = ("the broken clock", "a small boat", "every question", "the green door", "two apples", "an honest answer")
PROMPTS = [PromptRow((Message("user", f"Somebody describes {w}."),), i, {"letter": "aeiou"[i % 5]})
           for i, w in enumerate(WORDS)]  # fmt: skip
SMALL = Adapter(rank=4, alpha=8)
RAFT = SelectionConfig(steps=3, lr=1e-3, prompts=3, samples=4, max_new_tokens=12, probe_every=2, save_every=0,
                       missing_end=0.0)  # fmt: skip
REJECTION = replace(RAFT, rule="rejection", beta=0.05)


def letters(prompt, completion, row):
    """The share of a completion's characters that are the row's letter."""
    return completion.count(row["letter"]) / max(1, len(completion))


def load(folder):
    base = SharedBase.load(folder, bits=4, device="cpu")
    base.add_role("policy", SMALL, seed=1)
    role = base.role("policy")
    role.weights.add_(torch.randn(role.weights.shape, generator=torch.Generator().manual_seed(2)) * 0.02)
    return base


@pytest.fixture
def base(qwen3_folder):
    return load(qwen3_folder)


def start(base, config=RAFT, rewards=None):
    if "reference" in base.roles:
        base.drop("reference")
    return S.start(base, PROMPTS, config, rewards or Rewards.program(letters),
                   probes=Probes((PROMPTS[0].prompt,), 8))  # fmt: skip


def metrics(run):
    return [e.metrics for e in run if isinstance(e, Updated)]


# --- the round -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [
    RAFT, REJECTION, replace(RAFT, epochs=2, minibatches=3), replace(REJECTION, truncated="mask", minibatches=2),
], ids=["raft", "rejection", "raft-6", "rejection-2"])  # fmt: skip
def test_a_run_starts_at_its_reference_and_every_invariant_holds(base, config):
    base.chat = replace(base.chat, stop_ids=frozenset(range(40)))
    seen = list(S.selection(start(base, config), config))
    checks = {(c.step, c.name): c for c in seen if isinstance(c, Checked)}
    assert all(c.ok for c in checks.values()), [c for c in checks.values() if not c.ok]
    assert checks[1, "first KL"].value == 0.0
    assert checks[3, "updates"].value == 3 * config.epochs * config.minibatches
    assert [e.step for e in seen if isinstance(e, Probed)] == [0, 2, 3]
    assert metrics(seen)[1]["kl_max"] > 0, "the policy moved"
    first = metrics(seen)[0]
    assert first["reward_kept"] > first["reward"]
    assert first["accepted"] >= 1 / 4


def test_raft_keeps_the_best_of_every_prompt(base):
    chosen = S.experience(start(base), RAFT)
    rewards = [letters("", r.completion, PROMPTS[[p.prompt for p in PROMPTS].index(r.prompt)].columns)
               for r in chosen.found.rollouts]  # fmt: skip
    groups = [rewards[i : i + 4] for i in range(0, 12, 4)]
    assert chosen.kept.tolist() == [4 * i + g.index(max(g)) for i, g in enumerate(groups)]
    assert len({r for g in groups for r in g}) > 3, "the rewards differ"
    known = S.describe(start(base), RAFT, chosen)
    assert known["reward_kept"] == pytest.approx(sum(map(max, groups)) / 3, abs=1e-6)
    assert known["reward"] == pytest.approx(sum(rewards) / 12, abs=1e-6)
    assert known["accepted"] == 0.25


def test_rso_keeps_each_sample_with_the_probability_of_its_distance_from_the_best():
    """r = (0, −ln 2, −ln 4) β: 1, ½ and ¼ of 20 000 draws each, within five standard errors; equal ones all stay."""
    config = replace(REJECTION, beta=0.3)
    scores = torch.tensor([[0.0, -math.log(2) * 0.3, -math.log(4) * 0.3, -3.0]]).expand(20_000, 4)
    kept = S.keep(config, scores, (1, 2))
    share = torch.bincount(kept % 4, minlength=4) / 20_000
    for j, p in enumerate((1.0, 0.5, 0.25, math.exp(-10))):
        assert float(share[j]) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 20_000) + 1e-4)
    assert S.keep(config, torch.ones(3, 4), (1, 2)).tolist() == list(range(12))
    assert torch.equal(S.keep(config, scores, (1, 2)), kept), "the seed decides"
    assert not torch.equal(S.keep(config, scores, (1, 3)), kept)


def test_every_round_draws_anew_what_it_keeps(base, monkeypatch):
    seeds = []
    plain = S.keep
    monkeypatch.setattr(S, "keep", lambda config, scores, seed: seeds.append(seed) or plain(config, scores, seed))
    list(S.selection(start(base, REJECTION), REJECTION))
    assert len(set(seeds)) == 3


@pytest.mark.parametrize("config", [RAFT, replace(REJECTION, truncated="mask"), replace(RAFT, temperature=0.7)],
                         ids=["raft", "rejection", "cold"])  # fmt: skip
def test_the_loss_is_the_mean_over_all_kept_tokens(base, config):
    """−Σ log π(y_t) / tokens, at the temperature they were sampled at; masked completions leave both sums."""
    base.chat = replace(base.chat, stop_ids=frozenset(range(40)))
    state = start(base, config)
    chosen = S.experience(state, config)
    kept = [chosen.found.rollouts[i] for i in chosen.kept.tolist()]
    used = [r for r in kept if r.ended or config.truncated == "keep"]
    assert used
    assert (len(used) < len(kept)) == (config.truncated == "mask")
    pairs = [(r.prompt_ids, r.completion_ids) for r in used]
    total = float(score(base, pairs, {"policy": "logprobs"}, config.temperature)["policy"].sum())
    state.own()
    found = S.learn(state, config, chosen)
    assert found["loss"] == pytest.approx(-total / sum(len(r.completion_ids) for r in used), abs=1e-5)


def test_the_gradient_is_that_of_the_likelihood_of_what_was_kept_alone(base):
    """One completion kept: the slope of log π along a direction, by finite differences, is the gradient's."""
    config = replace(RAFT, prompts=1, lr=0.0, max_grad_norm=0.0)
    state = start(base, config)
    chosen = S.experience(state, config)
    (best,) = [chosen.found.rollouts[i] for i in chosen.kept.tolist()]
    role = base.role("policy")
    state.own()
    S.learn(state, config, chosen)
    (moments,) = state.optimizers["policy"].state.values()
    slope = moments["exp_avg"] / 0.1  # the first moment after one update is (1 − 0.9) g
    direction = torch.randn(role.weights.shape, generator=torch.Generator().manual_seed(3))
    sides = []
    for step in (1e-3, -1e-3):
        role.weights.add_(step * direction)
        known = score(base, [(best.prompt_ids, best.completion_ids)], {"policy": "logprobs"})["policy"]
        sides.append(-float(known.double().sum()) / len(best.completion_ids))
        role.weights.sub_(step * direction)
    assert float(slope @ direction) == pytest.approx((sides[0] - sides[1]) / 2e-3, rel=5e-3)


def test_rewards_that_are_all_equal_are_counted(base):
    chosen = S.experience(start(base, REJECTION, Rewards.program(lambda p, c, row: 1.0)), REJECTION)
    known = S.describe(start(base, REJECTION), REJECTION, chosen)
    assert known["flat_groups"] == 1.0
    assert known["accepted"] == 1.0


def test_a_missing_end_costs(base):
    base.chat = replace(base.chat, stop_ids=frozenset(range(60)))
    config = replace(RAFT, missing_end=5.0)
    chosen = S.experience(start(base, config), config)
    ended = torch.tensor([r.ended for r in chosen.found.rollouts])
    assert 0 < int(ended.sum()) < 12
    assert torch.allclose(chosen.scores, chosen.found.earned.total - 5 * (~ended).float())
    assert ended[chosen.kept].tolist() == ended.view(3, 4).any(1).tolist()


@pytest.mark.parametrize("config", [RAFT, replace(REJECTION, minibatches=2)], ids=["raft", "rejection"])
def test_a_round_does_not_depend_on_the_split_into_passes(qwen3_folder, config):
    def played(tokens):
        state = start(load(qwen3_folder), config)
        chosen = S.experience(state, config)
        state.own()
        found = S.learn(state, replace(config, tokens_per_pass=tokens, epochs=2), chosen)
        return found, state.role("policy").weights.clone()

    (mine, weights), (whole, wanted) = played(1), played(100_000)
    assert mine["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert float((weights - wanted).abs().max()) < 2e-5


def test_settings_that_cannot_work_are_refused_with_the_reason():
    for settings, words in (
        ({"samples": 1}, "samples is 1; of one completion nothing can be chosen, so give 2 at least"),
        ({"rule": "rejection", "beta": 0.0}, "beta is 0; it must be above 0"),
        ({"rule": "rejection", "beta": -1.0}, "beta is -1; it must lie in"),
        ({"beta": 0.1}, "beta is given, but the rule best does not read it; rejection does"),
        ({"rule": "worst"}, "rule is 'worst'; choose one of best, rejection"),
        ({"prompts": 2, "minibatches": 3}, r"minibatches \(3\) must not be more than prompts \(2\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            SelectionConfig(**settings)
    assert SelectionConfig(rule="rejection").beta == 0.5
    assert SelectionConfig().batch == 32 * 8


def test_bad_rewards_stop_with_the_prompt_and_nan_before_a_weight_changes(base):
    with pytest.raises(RewardError, match=r"The reward program raised KeyError: 'number' \(prompt: 'Somebody desc"):
        list(S.selection(start(base, rewards=Rewards.program(lambda p, c, row: row["number"])), RAFT))
    state = start(base)
    chosen = S.experience(state, RAFT)
    state.own()
    base.role("policy").weights[:4] = float("nan")
    before = base.role("policy").digest()
    with pytest.raises(NonFiniteError, match="so the run stopped") as caught:
        S.learn(state, RAFT, chosen)
    assert len(caught.value.evidence["completions"]) == 3
    assert base.role("policy").digest() == before


@pytest.mark.parametrize("config", [RAFT, replace(REJECTION, epochs=2, minibatches=2)], ids=["raft", "rejection"])
def test_resuming_equals_never_stopping_bit_for_bit(config, qwen3_folder, tmp_path):
    config = replace(config, steps=4)
    straight = start(load(qwen3_folder), config)
    wanted = metrics(S.selection(straight, config))
    stopped = start(load(qwen3_folder), config)
    for event in S.selection(stopped, config):
        if isinstance(event, Updated) and event.step == 2:
            break
    stopped.save(tmp_path)
    resumed = start(load(qwen3_folder), config)
    resumed.load(tmp_path)
    again = metrics(S.selection(resumed, config))
    assert resumed.role("policy").digest() == straight.role("policy").digest()
    for mine, theirs in zip(again, wanted[2:], strict=True):
        assert {k: v for k, v in mine.items() if k != "step_s"} == {k: v for k, v in theirs.items() if k != "step_s"}


# --- in a world where the answer is known ----------------------------------------------------------------------------


def kept_shares(world, chosen):
    """(P, C) the shares of the completions that were kept."""
    n = torch.zeros(len(world.prompts), len(world.completions), dtype=torch.float64)
    for i in chosen.kept.tolist():
        r = chosen.found.rollouts[i]
        n[world.prompts.index(r.prompt), world.completions.index(r.completion)] += 1
    return n


def fitted(world, rewards, **settings):
    """What one round kept, counted, and the policy after imitating it."""
    world.base.add_role("policy", world.adapter)
    config = SelectionConfig(**{"steps": 1, "lr": 0.05, "epochs": 80, "max_new_tokens": 3, "missing_end": 0.0,
                                "probe_every": 0, "save_every": 0, "tokens_per_pass": 1 << 16} | settings)  # fmt: skip
    state = S.start(world.base, world.rows(), config, Rewards.program(world.program(rewards)))
    chosen = S.experience(state, config)
    assert [e for e in S.selection(state, config) if isinstance(e, Checked) and not e.ok] == []
    return kept_shares(world, chosen), world.distribution("policy")


CHI2 = 31.26
"""The 99.9 % quantile of χ² with 11 degrees of freedom: twelve completions."""


def best_of_four(p, scores):
    """The distribution of the best of four, its score being at most s with F(s)⁴; blind within a score."""
    out = torch.zeros_like(p)
    for i, score_ in enumerate(scores.tolist()):
        level = scores == score_
        below, up_to = p[scores < score_].sum(), p[scores <= score_].sum()
        out[i] = (up_to**4 - below**4) * p[i] / p[level].sum()
    return out


def test_one_round_of_raft_is_best_of_n():
    """600 best of four for each season have the exact distribution, ties and all; the policy becomes what was kept."""
    world = forecasts()
    rewards = world.rewards(lambda x, y: float(y.count("rain")) + (x == "winter?") * ("snow" in y))
    assert len(set(rewards[0].tolist())) == 3, "many completions tie"
    seen, found = fitted(world, rewards, prompts=1800, samples=4)
    assert seen.sum(1).tolist() == [600.0] * 3
    wanted = torch.stack([best_of_four(p, r) for p, r in zip(world.distribution(), rewards, strict=True)])
    assert wanted.sum(1).tolist() == pytest.approx([1.0] * 3)
    assert float((((seen / 600 - wanted) ** 2 / wanted).sum(1) * 600).max()) < CHI2
    assert float(total_variation(found, seen / 600).max()) < 0.005
    assert float(total_variation(wanted, world.distribution()).min()) > 0.3


def test_one_round_of_rso_is_nearly_the_optimum():
    """With many samples of a prompt the best of them is the best there is: what is kept has the frequencies of π*."""
    world = TabularWorld.of(["a?", "b?"], ["w", "x", "y", "z"], [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    rewards = torch.tensor([[0.0, 0.5, -0.3, 0.8]] * 2, dtype=torch.float64)
    seen, found = fitted(world, rewards, rule="rejection", beta=0.5, prompts=60, samples=100)
    best = world.optimum(rewards, 0.5)
    assert float(total_variation(found, seen / seen.sum(1, keepdim=True)).max()) < 0.005
    assert float(total_variation(found, best).max()) < 0.03
    assert float(total_variation(world.distribution(), best).min()) > 0.15
