"""The three stories: first losses, invariants, splits, bad rewards, exact resume."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lab.base import RAW, SharedBase
from lab.config import Adapter, ConfigError, PPOConfig, RewardConfig, SFTConfig
from lab.data import batch_at
from lab.events import Checked, Evaluated, Probed, Skipped, Updated
from lab.feedback.rewards import RewardError, Rewards
from lab.learner import Learner, NonFiniteError, apply_gradients, learning_rate
from lab.probes import Probes, pieces
from lab.records import Demonstration, Message, Preference, PromptRow
from lab.score import score
from lab.train import ppo as P
from lab.train import reward as R
from lab.train import sft as S

WORDS = ("the broken clock", "a small boat", "every question", "the green door", "two apples", "an honest answer",
         "a difficult problem", "the weather of the island")  # fmt: skip


def turn(text):
    return (Message("user", text),)


DEMOS = [Demonstration(turn(f"My neighbour repairs {w}."), f"Nobody knows {w} " + "in the morning " * (i % 4), i)
         for i, w in enumerate(WORDS * 3)]  # fmt: skip
PAIRS = [Preference(turn(f"My neighbour {v} {w}."), "with great care.", "after seven years " * (1 + i % 3), row=i)
         for i, (v, w) in enumerate((v, w) for v in ("paints", "finds", "thanked") for w in WORDS)]  # fmt: skip
PROMPTS = [PromptRow(turn(f"Somebody describes {w}."), i) for i, w in enumerate(WORDS)]
SMALL = Adapter(rank=4, alpha=8)
SFT = SFTConfig(lr=1e-3, batch=6, epochs=1, eval_share=0.2, eval_every=2, probe_every=2, save_every=0, warmup=0.25)
REWARD = RewardConfig(lr=1e-3, head_lr=1e-3, batch=6, epochs=1, eval_share=0.2, eval_every=2, save_every=0)
PPO = PPOConfig(steps=3, lr=1e-3, value_lr=1e-3, value_head_lr=1e-3, batch=8, epochs=2, minibatches=2,
                max_new_tokens=12, probe_every=2, save_every=0, kl=0.1)  # fmt: skip


@pytest.fixture
def base(qwen3_folder):
    return SharedBase.load(qwen3_folder, bits=4, device="cpu")


def reward_role(base):
    """A reward role with weights that do something."""
    base.add_role("reward", SMALL, seed=5)
    base.add_head("reward", seed=5)
    role = base.role("reward")
    role.weights.add_(torch.randn(role.weights.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    return role


def ppo_state(base, config=PPO, program=None):
    base.add_role("policy", SMALL, seed=1)
    role = base.role("policy")
    role.weights.add_(torch.randn(role.weights.shape, generator=torch.Generator().manual_seed(2)) * 0.02)
    if program is None:
        reward_role(base)
    rewards = Rewards.program(program) if program else Rewards.role("reward")
    return P.start(base, PROMPTS, config, rewards, probes=Probes((PROMPTS[0].prompt,), 8))


def events(run, kind):
    return [e for e in run if isinstance(e, kind)]


# --- supervised fine-tuning ------------------------------------------------------------------------


def test_first_sft_loss_is_the_mean_nll_of_the_completion_tokens(base, qwen3_folder):
    """Against transformers' own forward, row by row, with nothing of the lab in it but the token rows."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain = AutoModelForCausalLM.from_pretrained(
        qwen3_folder, dtype=torch.float32, quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32))  # fmt: skip
    state = S.start(base, DEMOS, SFT, adapter=SMALL)
    batch = [state.rows[i] for i in batch_at(0, len(state.rows), SFT.batch, SFT.seed)]
    total, count = 0.0, 0
    for row in batch:
        with torch.no_grad():
            logp = torch.log_softmax(plain(torch.tensor([row.ids])).logits[0].float(), -1)
        for t, (token, counts) in enumerate(zip(row.completion_ids, row.mask, strict=True)):
            if counts:
                total -= float(logp[len(row.prompt_ids) + t - 1, token])
                count += 1
    state.own()
    assert S.update(state, batch, SFT)["loss"] == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_an_sft_update_does_not_depend_on_the_split_into_passes(qwen3_folder, tokens):
    def weights(tokens_per_pass):
        base = SharedBase.load(qwen3_folder, bits=4, device="cpu")
        state = S.start(base, DEMOS, SFT, adapter=SMALL)
        state.own()
        for _ in range(2):  # B is zero at first: only from the second update on does A move
            S.update(state, state.rows[:6], replace(SFT, tokens_per_pass=tokens_per_pass, warmup=0.0))
            state.step += 1
        return state.role("sft").weights.clone()

    assert float((weights(tokens) - weights(10_000)).abs().max()) < 5e-6


def test_sft_learns_its_rows_and_reports_every_phase(base):
    config = replace(SFT, lr=5e-3, epochs=8)
    state = S.start(base, DEMOS, config, adapter=SMALL, probes=Probes((PROMPTS[0].prompt,), 8))
    seen = list(S.sft(state, config))
    losses = [e.metrics["loss"] for e in seen if isinstance(e, Updated)]
    assert len(losses) == state.total == state.step
    assert losses[-1] < 0.6 * losses[0]
    held = [e.metrics["eval_loss"] for e in seen if isinstance(e, Evaluated)]
    assert held[-1] < held[0]
    assert len(events(seen, Probed)) >= 3
    assert all(c.ok for c in events(seen, Checked))


def test_over_long_rows_are_left_out_and_named(base):
    long = Demonstration(turn("My neighbour paints."), "and nobody knows why " * 60, 99)
    state = S.start(base, [*DEMOS, long], replace(SFT, max_length=80, eval_share=0.0), adapter=SMALL)
    (skip,) = [e for e in S.sft(state, SFT) if isinstance(e, Skipped)]
    assert skip.count == 1
    assert "row 99" in skip.rows[0]


def test_learning_rate_by_hand():
    rates = [learning_rate(s, 10, 1.0, 0.2, "linear") for s in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(1 / 8)
    assert learning_rate(6, 10, 2.0, 0.2, "cosine") == pytest.approx(1.0)  # half way down half a cosine
    assert learning_rate(9, 10, 3.0, 0.0, "constant") == 3.0


# --- reward model ----------------------------------------------------------------------------------


def test_first_reward_loss_is_ln_2_and_the_model_learns_the_pairs(base):
    config = replace(REWARD, epochs=6)
    state = R.start(base, PAIRS, config, adapter=SMALL)
    seen = list(R.reward(state, config))
    updates = [e.metrics for e in seen if isinstance(e, Updated)]
    assert updates[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert updates[-1]["accuracy"] == 1.0
    assert all(c.ok for c in events(seen, Checked))
    assert [e.metrics["eval_accuracy"] for e in seen if isinstance(e, Evaluated)][-1] == 1.0


def test_rewards_are_standardised_on_held_out_completions(base):
    state = R.start(base, PAIRS, REWARD, adapter=SMALL)
    for _ in R.reward(state, REWARD):
        pass
    rewards = torch.cat(R.heldout_rewards(state, REWARD))
    assert float(rewards.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(rewards.std(correction=0)) == pytest.approx(1.0, abs=1e-4)


def test_the_reward_is_read_at_the_end_token(base):
    reward_role(base)
    prompt, completion = base.chat.split(turn("My neighbour finds a small boat."), "with great care.")
    pairs = [(tuple(prompt), tuple(completion)), (tuple(prompt), tuple(completion[:-1]))]
    whole, cut = score(base, pairs, {"reward": "reward"})["reward"].tolist()
    assert completion[-1] in base.chat.stop_ids
    assert abs(whole - cut) > 1e-3


# --- PPO -------------------------------------------------------------------------------------------


def test_ppo_starts_at_its_reference_with_ratio_1_and_counts_its_updates(base):
    seen = list(P.ppo(ppo_state(base), PPO))
    checks = {(c.step, c.name): c for c in seen if isinstance(c, Checked)}
    assert all(c.ok for c in checks.values()), [c for c in checks.values() if not c.ok]
    assert checks[1, "first ratio"].value < 1e-4
    assert checks[1, "first KL"].value == 0.0
    assert checks[3, "updates"].value == 3 * 2 * 2  # steps × passes × minibatches
    first = next(e for e in seen if isinstance(e, Updated)).metrics
    assert first["kl"] == 0.0
    assert first["entropy"] > 0
    assert len(events(seen, Probed)) == 3  # at 0, 2 and the end


def test_only_policy_and_value_change_and_the_reference_is_the_exact_start(base):
    state = ppo_state(base)
    before = {name: base.role(state.roles[name]).digest() for name in state.roles}
    start = base.role("policy").weights.clone()
    for _ in P.ppo(state, PPO):
        pass
    after = {name: base.role(state.roles[name]).digest() for name in state.roles}
    assert {n for n in before if before[n] != after[n]} == {"policy", "value"}
    assert torch.equal(base.role("reference").weights, start)
    assert float((base.role("policy").weights - start).abs().max()) > 1e-4


def test_a_ppo_step_does_not_depend_on_the_split_into_passes(qwen3_folder):
    def weights(tokens):
        base = SharedBase.load(qwen3_folder, bits=4, device="cpu")
        config = replace(PPO, steps=1, tokens_per_pass=tokens, minibatches=1, epochs=1)
        state = ppo_state(base, config)
        for _ in P.ppo(state, config):
            pass
        return torch.cat([state.role(n).weights for n in ("policy", "value")])

    # Adam divides by the gradient's own size: where that is nothing but rounding, a weight may step either way.
    gaps = (weights(50) - weights(100_000)).abs()
    assert float((gaps > 1e-5).float().mean()) < 0.01


def test_the_value_starts_as_the_reward_model(base):
    state = ppo_state(base)
    pairs = [((5, 6, 7), (8, 9, 10))]
    value = score(base, pairs, {state.roles["value"]: "values", "reward": "reward"})
    longer = score(base, [((5, 6, 7, 8, 9), (10,))], {"reward": "reward", state.roles["value"]: "values"})
    assert float(longer[state.roles["value"]][0, 0]) == pytest.approx(
        float(score(base, [((5, 6, 7, 8), (9,))], {"reward": "reward"})["reward"][0]), abs=1e-5)  # fmt: skip
    assert value[state.roles["value"]].shape == (1, 3)


def test_score_credit_and_missing_end_by_hand(base):
    config = replace(PPO, missing_end=2.0, reward_clip=0.5)
    state = ppo_state(base, config, lambda prompt, completion, row: 3.0)
    rollouts = P.rollout(state, config)
    batch = P.experience(state, config, rollouts)
    wanted = [0.5 if r.ended else 0.5 - 2.0 for r in rollouts]
    assert batch.earned.total.tolist() == [3.0] * 8
    assert batch.scores.tolist() == wanted
    # γ = 1: the return of the first token is λ-weighted; at λ = 1 it is the score, for KL is 0 at the start
    batch = P.experience(state, replace(config, lam=1.0), rollouts)
    assert batch.returns[:, 0].tolist() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(("program", "words"), [
    (lambda p, c, row: 1 / 0, "The reward program raised ZeroDivisionError: division by zero .prompt: 'Somebody desc"),
    (lambda p, c, row: None, "No reward applies to the prompt 'Somebody describes .*' and the completion '"),
    (lambda p, c, row: float("nan"), "The reward program gave nan .prompt: 'Somebody describes .*', completion: '"),
    (lambda p, c, row: "much", "The reward program gave 'much' "),
])  # fmt: skip
def test_a_bad_reward_stops_the_run_with_the_row(base, program, words):
    with pytest.raises(RewardError, match=words):
        list(P.ppo(ppo_state(base, program=program), PPO))


def test_a_reward_of_zero_is_a_reward(base):
    state = ppo_state(base, program=lambda p, c, row: 0.0)
    metrics = [e.metrics for e in P.ppo(state, PPO) if isinstance(e, Updated)]
    assert [m["reward"] for m in metrics] == [0.0] * 3


def test_nan_stops_the_run_before_a_weight_changes_and_carries_the_batch(base):
    state = ppo_state(base)
    before = base.role("policy").digest()
    base.role("value").weights[:4] = float("nan")
    with pytest.raises(NonFiniteError, match="so the run stopped") as caught:
        list(P.ppo(state, PPO))
    assert base.role("policy").digest() == before
    assert caught.value.evidence["completions"]


def test_live_settings_take_effect_at_the_next_step(base):
    state = ppo_state(base)
    seen = []
    for event in P.ppo(state, replace(PPO, minibatches=1)):
        if isinstance(event, Updated):
            seen.append(event.metrics)
            state.live = {"kl": 0.7, "lr": 5e-4}
    assert [m["beta"] for m in seen] == [0.1, 0.7, 0.7]
    assert [m["lr"] for m in seen] == [1e-3, 5e-4, 5e-4]


def test_adaptive_kl_follows_the_controller(base):
    config = replace(PPO, kl_target=1.0, kl_horizon=80, steps=2)
    betas = [e.metrics["beta"] for e in P.ppo(ppo_state(base, config), config) if isinstance(e, Updated)]
    # the first KL is 0: error clip(0/1 − 1, ±0.2) = −0.2, so β falls by 0.2 · 8 / 80 = 2 %
    assert betas == pytest.approx([0.1, 0.098])


def test_masked_truncation_leaves_cut_completions_out(base):
    config = replace(PPO, truncated="mask", max_new_tokens=2, epochs=1, minibatches=1, steps=1)
    state = ppo_state(base, config)
    rollouts = P.rollout(state, config)
    batch = P.experience(state, config, rollouts)
    assert batch.kept.tolist() == [r.ended for r in rollouts]


def test_contradictory_settings_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match="multiple of per_prompt"):
        PPOConfig(batch=10, per_prompt=4)
    with pytest.raises(ConfigError, match="multiple of minibatches"):
        PPOConfig(batch=10, minibatches=4)


# --- exact resume ----------------------------------------------------------------------------------

STORIES = {
    "sft": (S.sft, replace(SFT, epochs=2), lambda base, c: S.start(base, DEMOS, c, adapter=SMALL)),
    "reward": (R.reward, replace(REWARD, epochs=2), lambda base, c: R.start(base, PAIRS, c, adapter=SMALL)),
    "ppo": (P.ppo, replace(PPO, steps=4, kl_target=0.5), ppo_state),
}


def digests(state):
    return {name: state.role(name).digest() for name in state.roles}


@pytest.mark.parametrize("method", STORIES)
def test_resuming_equals_never_stopping_bit_for_bit(method, qwen3_folder, tmp_path):
    story, config, start = STORIES[method]
    straight = start(SharedBase.load(qwen3_folder, bits=4, device="cpu"), config)
    wanted = [e.metrics for e in story(straight, config) if isinstance(e, Updated)]

    stopped = start(SharedBase.load(qwen3_folder, bits=4, device="cpu"), config)
    for event in story(stopped, config):
        if isinstance(event, Updated) and event.step == 2:
            break
    stopped.save(tmp_path)

    resumed = start(SharedBase.load(qwen3_folder, bits=4, device="cpu"), config)
    resumed.load(tmp_path)
    assert resumed.step == 2
    again = [e.metrics for e in story(resumed, config) if isinstance(e, Updated)]
    assert digests(resumed) == digests(straight)
    timed = {"step_s", "tokens_per_s"}
    for mine, theirs in zip(again, wanted[2:], strict=True):
        assert {k: v for k, v in mine.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}


def test_looking_at_a_run_changes_nothing(qwen3_folder):
    """Sampling, scoring and probing between two steps, and drawing from every global generator."""
    from lab.sample import sample

    def play(look):
        state = ppo_state(SharedBase.load(qwen3_folder, bits=4, device="cpu"))
        for event in P.ppo(state, PPO):
            if look and isinstance(event, Updated):
                torch.rand(3)
                sample(state.base, [PROMPTS[0].prompt], ("policy", RAW), max_new_tokens=5, seed=event.step)
                score(state.base, [((5, 6), (7, 8))], {"policy": "logprobs", "reward": "reward"})
                state.base.add_role(f"visitor{event.step}", SMALL)
        return digests(state)

    assert play(look=True) == play(look=False)


def test_two_runs_on_one_base_do_not_disturb_each_other(qwen3_folder):
    def play(interleaved):
        base = SharedBase.load(qwen3_folder, bits=4, device="cpu")
        one = S.start(base, DEMOS, SFT, role="one", adapter=SMALL)
        two = S.start(base, DEMOS, replace(SFT, seed=3), role="two", adapter=SMALL)
        first, second = S.sft(one, SFT), S.sft(two, replace(SFT, seed=3))
        if interleaved:
            for a in first:
                next(second, None)
                assert a is not None
        else:
            for _ in first:
                pass
        for _ in second:
            pass
        return base.role("one").digest(), base.role("two").digest()

    assert play(True) == play(False)


def test_gradient_clipping_scales_to_the_limit(base):
    base.add_role("x", SMALL)
    state = Learner(base, {"x": "x"}, ("x",), 1)
    state.own()
    role = base.role("x")
    role.grad.fill_(1.0)
    n = role.grad.numel()
    before = role.weights.clone()
    norm = apply_gradients(state, "x", 0.1, 0.1, 1.0, eps=1e3)
    assert norm == pytest.approx(math.sqrt(n), rel=1e-5)
    # with a huge ε, Adam's first step is lr · g / ε; the clipped gradient is 1 / √n everywhere
    moved = (before - role.weights).mean()
    assert float(moved) == pytest.approx(0.1 / math.sqrt(n) / 1e3, rel=1e-2)
    assert not role.grad.any()


def test_pieces_join_to_the_whole_text(base):
    ids = base.chat.encode_prompt("The old teacher explains the broken clock!")
    assert "".join(pieces(base, ids)) == base.chat.tokenizer.decode(ids)
