"""The group family: first ratios, advantages, dynamic sampling, splits, several rewards, resume."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lab.base import SharedBase
from lab.config import Adapter, ConfigError, GroupConfig
from lab.events import Checked, Probed, Updated
from lab.feedback.rewards import RewardError, Rewards, Term
from lab.learner import NonFiniteError
from lab.objectives.variants import VARIANTS
from lab.probes import Probes
from lab.records import Message, PromptRow
from lab.score import score
from lab.train import group as G

WORDS = ("the broken clock", "a small boat", "every question", "the green door", "two apples", "an honest answer")
PROMPTS = [PromptRow((Message("user", f"Somebody describes {w}."),), i, {"letter": "aeiou"[i % 5]})
           for i, w in enumerate(WORDS)]  # fmt: skip
SMALL = Adapter(rank=4, alpha=8)
GRPO = GroupConfig(steps=3, lr=1e-3, prompts=3, group=4, max_new_tokens=12, probe_every=2, save_every=0)


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


def start(base, config=GRPO, rewards=None):
    return G.start(base, PROMPTS, config, rewards or Rewards.program(letters),
                   probes=Probes((PROMPTS[0].prompt,), 8))  # fmt: skip


def metrics(run):
    return [e.metrics for e in run if isinstance(e, Updated)]


def test_a_run_starts_at_its_reference_and_every_invariant_holds(base):
    config = replace(GRPO, epochs=2, minibatches=3)
    seen = list(G.group(start(base, config), config))
    checks = {(c.step, c.name): c for c in seen if isinstance(c, Checked)}
    assert all(c.ok for c in checks.values()), [c for c in checks.values() if not c.ok]
    assert checks[1, "first ratio"].value < 1e-4
    assert checks[1, "first KL"].value == 0.0
    assert checks[3, "updates"].value == 3 * 2 * 3
    assert [e.step for e in seen if isinstance(e, Probed)] == [0, 2, 3]
    assert {"reward", "kl", "flat_groups", "entropy", "length", "ended", "clip_fraction"} <= metrics(seen)[0].keys()


def test_advantages_compare_a_completion_with_its_own_group(base):
    """A reward that is the prompt's length: equal within every group, so that nothing is learnt and nothing moves."""
    config = replace(GRPO, missing_end=0.0, kl_in_loss=0.0)
    state = start(base, config, rewards=Rewards.program(lambda prompt, completion, row: float(len(prompt))))
    batch = G.experience(state, config)
    assert batch.flat == 1.0
    assert not batch.advantages.any()
    before = base.role("policy").digest()
    assert metrics(G.group(state, config))[-1]["policy_loss"] == 0.0
    assert base.role("policy").digest() == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_plays_and_its_first_gradient_is_one_of_policy(base, variant):
    config = GroupConfig(variant=variant, group=VARIANTS[variant].group and 4, steps=2, lr=1e-3, prompts=3,
                         max_new_tokens=12, save_every=0, missing_end=0.0, truncated="keep")  # fmt: skip
    state = start(base, config)
    seen = list(G.group(state, config))
    assert all(c.ok for c in seen if isinstance(c, Checked))
    assert metrics(seen)[0]["grad_norm"] > 0
    assert metrics(seen)[1]["kl_max"] > 0, "the policy moved"


def test_the_loss_of_one_update_by_hand(base):
    """Dr. GRPO at ratio 1: L = −Σ_i T_i A_i / (B · longest), with A = r − mean of the group."""
    config = replace(GroupConfig(variant="dr_grpo", group=4, prompts=3, max_new_tokens=12, missing_end=0.0), steps=1)
    state = start(base, config)
    batch = G.experience(state, config)
    rewards = batch.found.earned.total.view(3, 4)
    centred = (rewards - rewards.mean(1, keepdim=True)).view(-1)
    lengths = torch.tensor([len(r.completion_ids) for r in batch.found.rollouts])
    want = -float((centred * lengths).sum()) / (12 * 12)
    state.own()
    assert G.learn(state, config, batch)["policy_loss"] == pytest.approx(want, abs=1e-5)


def test_rloo_takes_the_kl_from_the_reward(base):
    """r = s − β Σ k1, then r minus the mean of the others: G/(G−1) (r − mean)."""
    config = GroupConfig(variant="rloo", group=4, prompts=3, max_new_tokens=12, kl_in_reward=0.3, missing_end=0.0)
    state = start(base, config)
    base.role("policy").weights.mul_(1.5)  # away from the reference
    batch = G.experience(state, config)
    pairs = [(r.prompt_ids, r.completion_ids) for r in batch.found.rollouts]
    known = score(base, pairs, {"policy": "logprobs", "reference": "logprobs"})
    kl = (known["policy"] - known["reference"]).sum(1)
    assert float(kl.abs().max()) > 1e-3
    r = (batch.found.earned.total - 0.3 * kl).view(3, 4)
    want = (4 / 3 * (r - r.mean(1, keepdim=True))).view(-1)
    assert torch.allclose(batch.advantages[:, 0], want, atol=1e-4)


def test_reinforce_pp_credits_what_is_still_to_come_and_whitens_over_tokens(base):
    config = GroupConfig(variant="reinforce_pp", prompts=6, max_new_tokens=12, missing_end=0.0)
    state = start(base, config)
    batch = G.experience(state, config)
    counted = batch.advantages[batch.mask]
    assert float(counted.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(counted.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    # at the start the KL is 0: every token of a completion has the same return, its score
    assert float((batch.advantages[0, :1] - batch.advantages[0][batch.mask[0]]).abs().max()) < 1e-4


def test_dynamic_sampling_asks_further_prompts_in_place_of_flat_groups(base):
    """Only two of the six prompts can differ within a group; the others earn 1 whatever is said."""

    def some(prompt, completion, row):
        return letters(prompt, completion, row) if "clock" in prompt or "apples" in prompt else 1.0

    config = replace(GRPO, dynamic_sampling=True, resamples=4, prompts=2, missing_end=0.0)
    state = start(base, config, Rewards.program(some))
    batch = G.experience(state, config)
    assert batch.rounds > 1
    assert batch.drawn > 2
    assert 0 < batch.flat < 1
    kept = {r.prompt[0].content for r in batch.found.rollouts}
    assert all("clock" in p or "apples" in p for p in kept)
    state.total = 1
    list(G.group(state, config))
    assert state.numbers["drawn"] == batch.drawn
    nothing = start_again(base, config, Rewards.program(lambda p, c, row: 1.0))
    assert not G.experience(nothing, config).advantages.any(), "no group differs: those of the last round stay"


def start_again(base, config, rewards):
    base.drop("reference")
    return start(base, config, rewards)


def test_several_rewards_add_up_by_weight_and_are_reported_apart(base):
    rewards = Rewards((
        Term("letters", 2.0, program=letters), Term("long", -0.5, program=lambda p, c, row: float(len(c) > 20)),
        Term("rare", 1.0, program=lambda p, c, row: 1.0 if row["letter"] == "a" else None)))  # fmt: skip
    state = start(base, rewards=rewards)
    batch = G.experience(state, GRPO)
    for i, r in enumerate(batch.found.rollouts):
        letter = "aeiou"[[p.prompt for p in PROMPTS].index(r.prompt) % 5]
        want = 2 * letters("", r.completion, {"letter": letter}) - 0.5 * (len(r.completion) > 20) + (letter == "a")
        assert float(batch.found.earned.total[i]) == pytest.approx(want, abs=1e-6)
    figures = batch.found.earned.figures()
    assert figures["reward long"] in {k / 12 for k in range(13)}
    gdpo = replace(GRPO, advantage="gdpo")
    assert G.experience(state, gdpo).advantages.shape == batch.advantages.shape


def test_an_ensemble_of_reward_models_is_read_as_told(base):
    for i in range(3):
        base.add_role(f"judge{i}", SMALL, seed=5 + i)
        base.add_head(f"judge{i}", seed=5 + i)
    names = ("judge0", "judge1", "judge2")
    state = start(base, rewards=Rewards.role(*names))
    rollouts = G.experience(state, GRPO).found.rollouts
    known = score(base, [(r.prompt_ids, r.completion_ids) for r in rollouts], dict.fromkeys(names, "reward"))
    stacked = torch.stack([known[n] for n in names])
    for combine, want in (("mean", stacked.mean(0)), ("worst", stacked.amin(0)),
                          ("uncertainty", stacked.mean(0) - 0.5 * stacked.var(0, correction=0))):  # fmt: skip
        rewards = Rewards.role(*names, combine=combine, doubt=0.5)
        assert torch.allclose(rewards.earn(rollouts, [], known).total, want)


def test_a_step_does_not_depend_on_the_split_into_passes(qwen3_folder):
    def weights(tokens):
        config = replace(GRPO, steps=2, tokens_per_pass=tokens)
        state = start(load(qwen3_folder), config)
        for _ in G.group(state, config):
            pass
        return state.role("policy").weights.clone()

    gaps = (weights(40) - weights(100_000)).abs()
    assert float((gaps > 1e-5).float().mean()) < 0.01


def test_bad_rewards_and_bad_groups_stop_with_the_reason(base):
    with pytest.raises(RewardError, match=r"The reward program raised KeyError: 'number' \(prompt: 'Somebody desc"):
        list(G.group(start(base, rewards=Rewards.program(lambda p, c, row: row["number"])), GRPO))
    with pytest.raises(ConfigError, match="A group of 1 has no baseline; sample at least 2 completions per prompt"):
        GroupConfig(group=1)
    with pytest.raises(ConfigError, match="There is no variant 'grpoo'; choose one of grpo, dr_grpo"):
        GroupConfig(variant="grpoo")
    with pytest.raises(ConfigError, match="k1 in the loss has no expected gradient"):
        GroupConfig(kl_in_loss=0.1, kl_estimator="k1")
    with pytest.raises(ConfigError, match=r"prompts × group \(12\) must be a multiple of minibatches \(5\)"):
        GroupConfig(prompts=3, group=4, minibatches=5)
    with pytest.raises(RewardError, match="Two rewards have the same name"):
        Rewards((Term("a", program=letters), Term("a", program=letters)))


def test_nan_stops_the_run_before_a_weight_changes(base):
    state = start_nan(base)
    with pytest.raises(NonFiniteError, match="so the run stopped") as caught:
        list(G.group(state, GRPO))
    assert caught.value.evidence["completions"]


def start_nan(base):
    state = start(base)
    state.own()
    state.role("reference").weights[:4] = float("nan")  # log-probabilities of NaN: the KL in the loss is NaN
    return state


@pytest.mark.parametrize("settings", [
    {}, {"variant": "dapo", "prompts": 2}, {"variant": "rloo", "epochs": 2}, {"variant": "reinforce_pp", "prompts": 6},
])  # fmt: skip
def test_resuming_equals_never_stopping_bit_for_bit(settings, qwen3_folder, tmp_path):
    config = GroupConfig(**{"steps": 4, "lr": 1e-3, "prompts": 3, "group": 4, "max_new_tokens": 12,
                            "truncated": "keep"} | settings)  # fmt: skip
    straight = start(load(qwen3_folder), config)
    wanted = metrics(G.group(straight, config))
    stopped = start(load(qwen3_folder), config)
    for event in G.group(stopped, config):
        if isinstance(event, Updated) and event.step == 2:
            break
    stopped.save(tmp_path)
    resumed = start(load(qwen3_folder), config)
    resumed.load(tmp_path)
    again = metrics(G.group(resumed, config))
    assert resumed.role("policy").digest() == straight.role("policy").digest()
    for mine, theirs in zip(again, wanted[2:], strict=True):
        assert {k: v for k, v in mine.items() if k != "step_s"} == {k: v for k, v in theirs.items() if k != "step_s"}
