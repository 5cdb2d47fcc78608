"""What fits: bytes against arithmetic a reader can redo, and passes against what torch allocates on random models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from models import build_model, english
from torch.profiler import ProfilerActivity, profile

from lab import earning, memory, quantise
from lab.base import SharedBase
from lab.cli import main
from lab.config import (
    Adapter,
    GroupConfig,
    OnlineConfig,
    PPOConfig,
    PreferenceConfig,
    RewardConfig,
    SelectionConfig,
    SFTConfig,
)
from lab.events import Updated
from lab.learner import Learner, apply_gradients
from lab.memory import Linear, Machine, Rows, Shape, Wish, cost, passes
from lab.memory.plan import pretty
from lab.pack import Row
from lab.records import PromptRow
from lab.sample import stream
from lab.score import token_scores
from lab.train import ppo

BOUND = 0.05
"""How far a predicted pass may be from what torch allocated; on the models here it was within 1.5 %."""

WHOLE = 0.1
"""And a whole step on rows of uneven lengths."""

SMALL = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "vocab_size": 4096}

# Two layers of width 8 with one key-value head of size 4: every number below can be counted on paper.
TOY = Shape("toy", "toy", 2, 8, 2, 1, 4, 16, 32, 64, (Linear("q_proj", 8, 8, False, 2), Linear("k_proj", 8, 4, True, 2),
            Linear("up_proj", 8, 16, False, 2)), 32 * 8, 0, 5 * 8)  # fmt: skip


def peak_of(call: Callable[[], Any]) -> int:
    """Bytes that torch's allocator held at most, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        call()
    found: list[tuple[int, int]] = []

    def walk(nodes: Any) -> None:
        for node in nodes:
            if node.name == "[memory]":
                found.append((node.start_time_ns, node.extra_fields.alloc_size))
            walk(node.children)

    walk(watched.profiler.kineto_results.experimental_event_tree())
    now = most = 0
    for _, size in sorted(found, key=lambda x: x[0]):
        now += size
        most = max(most, now)
    return most


# --- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "device", "linear", "rest"),
    [
        # 2 layers x (8·8 + 8·4 + 8·16) = 448 weights; 256 embeddings, 40 norms, 2·4 biases = 304 other numbers
        (32, "cuda", 448 * 4, 304 * 4),
        (16, "cuda", 448 * 2, 304 * 2),
        (16, "cpu", 448 * 4, 304 * 4),
        (8, "cuda", 448 + 4 * 2 * (8 + 4 + 16), 304 * 2),
        # one scale (4 bytes) for 64 weights begun, and 16 values of 4 bytes, in each of the 6 layers
        (4, "cuda", 224 + 2 * ((4 + 64) + (4 + 64) + (8 + 64)), 304 * 2),
    ],
)  # fmt: skip
def test_weights_are_counted_to_the_byte(bits: int, device: str, linear: int, rest: int) -> None:
    wish = Wish("sft", SFTConfig(), bits=bits, machine=Machine(device))
    assert sum(cost.weight_bytes(TOY, wish).values()) == linear + rest
    assert TOY.parameters == 448 + 304


def test_a_role_is_its_adapter_its_head_its_gradients_and_two_moments() -> None:
    """Rank 2 on all: 2 · 2 layers · ((8+8) + (8+4) + (8+16)) = 208 numbers; a head has 8 + 1."""
    assert cost.role_bytes(TOY, Adapter(rank=2), head=False, trained=False) == {"weights": 832}
    assert cost.role_bytes(TOY, Adapter(rank=2), head=True, trained=True) == {
        "weights": 868, "gradients": 868, "moments": 1736}  # fmt: skip
    assert TOY.adapter(2, "attention") == 2 * 2 * (16 + 12)
    assert TOY.adapter(2, "mlp") == 2 * 2 * 24


def test_keys_and_values_are_two_of_every_layer_head_and_token() -> None:
    """2 · 2 layers · 1 head · size 4 · 2 bytes · 3 rows · 10 tokens; never longer than the window."""
    wish = Wish("grpo", GroupConfig(), machine=Machine("cuda"))
    assert cost.cache_bytes(TOY, wish, 3, 10) == 2 * 2 * 1 * 4 * 2 * 3 * 10
    assert cost.cache_bytes(TOY, wish, 3, 1000) == cost.cache_bytes(TOY, wish, 3, 64)


def test_a_dequantised_copy_is_kept_where_it_takes_less_than_a_third() -> None:
    """448 weights of 2 bytes; kept beside 100 bytes of weights from 3 · 896 + 100 + 1 free bytes on."""
    wish = Wish("sft", SFTConfig(), machine=Machine("cuda", 3 * 896 + 100))
    assert cost.dense_bytes(TOY, wish, 100) == 0
    assert cost.dense_bytes(TOY, replace(wish, machine=Machine("cuda", 3 * 896 + 101)), 100) == 896
    assert cost.dense_bytes(TOY, replace(wish, dense=True), 100) == 896
    assert cost.dense_bytes(TOY, replace(wish, bits=16), 100) == 0


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        (Wish("sft", SFTConfig()), ["sft"]),
        (Wish("reward", RewardConfig(members=3)), ["reward", "reward-1", "reward-2"]),
        (Wish("dpo", PreferenceConfig()), ["policy", "reference"]),
        (Wish("ppo", PPOConfig(), judges=2), ["policy", "value", "reference", "reward", "reward2"]),
        (Wish("grpo", GroupConfig(), judges=0), ["policy", "reference"]),
    ],
)
def test_every_method_has_its_roles(wish: Wish, names: list[str]) -> None:
    assert [name for name, _, _ in passes.roles_of(wish)] == names
    owners = {p.owner for p in memory.predict(TOY, wish).standing}
    assert owners == {"base", *names}


# --- passes ----------------------------------------------------------------------------------------------------------


def test_passes_take_as_many_rows_as_fit() -> None:
    """Rows of 30 + 20 tokens, 32 to an update, 400 tokens a pass: 8 rows; of pairs (30 + 2 · 20) five."""
    rows = Rows(30, 20)
    sft = Wish("sft", SFTConfig(tokens_per_pass=400), rows=rows)
    assert passes.training(sft) == (400, 400, 160)
    dpo = Wish("dpo", PreferenceConfig(tokens_per_pass=400), rows=rows)
    assert passes.training(dpo) == (5 * 30 + 10 * 20, 500, 200)
    assert passes.training(Wish("reward", RewardConfig(tokens_per_pass=400), rows=rows)) == (350, 500, 0)
    assert passes.training(replace(sft, config=SFTConfig(tokens_per_pass=10))) == (50, 50, 20), "one row at least"
    assert passes.training(replace(sft, config=SFTConfig(batch=4))) == (200, 200, 80)


def test_policy_and_value_learn_in_one_pass_and_groups_share_their_prompt() -> None:
    """PPO: half of 400 tokens for each of two roles, 4 rows of 50. GRPO, groups of 4: a row is 30 / 4 + 20 tokens."""
    ppo = Wish("ppo", PPOConfig(tokens_per_pass=400, max_new_tokens=20), rows=Rows(30, 0))
    assert passes.training(ppo) == (2 * 4 * 50, 2 * 4 * 50, 80)
    grpo = Wish("grpo", GroupConfig(tokens_per_pass=400, max_new_tokens=20, group=4), rows=Rows(30, 0))
    assert passes.training(grpo) == (4 * 30 + 14 * 20, 14 * 50, 14 * 20)
    assert passes.sampling(grpo) == (64, 16, 30, 50)


def test_padding_is_a_third_at_most() -> None:
    assert Rows(30, 20).padding == 1
    assert Rows(30, 20, 60).padding == 1.2
    assert Rows(30, 20, 5000).padding == 4 / 3


@pytest.fixture(scope="module", params=["llama", "qwen3", "phi3", "gemma3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shape, SharedBase]:
    more = {"layer_types": ["full_attention"] * 3} if request.param == "gemma3" else {}
    folder = build_model(tmp_path_factory.mktemp(request.param), request.param, **SMALL, **more)
    return memory.shape_of(folder), SharedBase.load(folder, 32, "cpu")


@pytest.mark.parametrize(("n", "length", "answer"), [(8, 128, 16), (3, 300, 250)])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_pass_allocates_what_was_predicted(
    model: tuple[Shape, SharedBase], n: int, length: int, answer: int, gradients: bool
) -> None:
    shape, base = model
    if "who" not in base.roles:
        base.add_role("who", Adapter(rank=8))
    base.train("who")
    made = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 500, (n, length), generator=made).tolist()
    rows = [Row("who", tuple(x[: length - answer]), tuple(x[length - answer :])) for x in ids]

    def once() -> None:
        with torch.set_grad_enabled(gradients):
            packed = base.pack(rows)
            scores = token_scores(base, base.forward(packed), packed)
            if gradients:
                scores.logprobs.sum().backward()

    once()
    wish = Wish("sft", SFTConfig(), Adapter(rank=8), 32)
    tokens, scored = n * length, n * answer
    logits = cost.logits_bytes(shape, wish, tokens, scored, gradients=gradients)
    passing = cost.passing_bytes(shape, wish, tokens, tokens, gradients=gradients)
    kept = shape.layers * cost.saved_bytes(shape, wish, tokens, tokens) if gradients else 0
    assert kept + max(logits, passing) == pytest.approx(peak_of(once), rel=BOUND)


def test_sampling_allocates_what_was_predicted(model: tuple[Shape, SharedBase]) -> None:
    shape, base = model
    prompts = [tuple(range(5 + i, 45 + i)) for i in range(12)]
    wish = Wish("grpo", GroupConfig(), bits=32, machine=Machine("cpu", 64 * 10**9))

    def once() -> None:
        for _ in stream(base, prompts, ("base",), max_new_tokens=24):
            pass

    once()
    step = max(cost.drawing_bytes(shape, wish, 12), cost.passing_bytes(shape, wish, 480, 480, gradients=False))
    whole = cost.cache_bytes(shape, wish, 12, 64) + cost.merged_bytes(shape, wish, 1) + step
    assert whole == pytest.approx(peak_of(once), rel=BOUND)


def test_a_whole_step_of_ppo_allocates_what_was_predicted(model: tuple[Shape, SharedBase]) -> None:
    """Sampling, scoring under four roles, two passes of learning, with gradients and moments of two roles."""
    shape, base = model
    for name in ("chosen", "judge"):
        base.add_role(name, Adapter(rank=8))
    base.add_head("judge", seed=1)
    prompts = [PromptRow(f"{words} {i}") for i, words in enumerate(english()[:16])]
    config = PPOConfig(batch=16, max_new_tokens=40, tokens_per_pass=1024, probe_every=0)
    lengths = [len(base.chat.encode_prompt(p.prompt)) for p in prompts]
    rows = Rows(round(sum(lengths) / 16), 0, max(lengths))

    def once() -> None:
        rewards = earning.rewards(("reward",), {"reward": "judge"}, "mean", 0.1, "cpu", base)
        events = ppo.ppo(ppo.start(base, prompts, config, rewards, policy="chosen"), config)
        next(e for e in events if isinstance(e, Updated))

    there = 4 * sum(base.role(name).weights.numel() for name in ("chosen", "judge"))
    machine = Machine("cpu", quantise.free_memory(base.device))
    plan = memory.predict(shape, Wish("ppo", config, Adapter(rank=8), 32, machine=machine, rows=rows))
    new = sum(p.size for p in plan.standing if p.owner != "base") - there + plan.peak.size
    measured = peak_of(once)
    for name in ("value", "reference", "chosen", "judge"):
        base.drop(name)
    assert new == pytest.approx(measured, rel=WHOLE)


def test_shape_weights_and_roles_are_those_of_the_loaded_model(model: tuple[Shape, SharedBase]) -> None:
    shape, base = model
    plain = [p for name, p in base.model.named_parameters() if ".lora_" not in name]
    assert shape.parameters == sum(p.numel() for p in plain)
    wish = Wish("sft", SFTConfig(), bits=32)
    assert sum(cost.weight_bytes(shape, wish).values()) == sum(p.numel() * p.element_size() for p in plain)
    role = base.add_role("counted", Adapter(rank=4))
    base.add_head("counted")
    base.train("counted")
    state = Learner(base, {"own": "counted"}, ("own",), 1)
    assert role.grad is not None
    role.grad.fill_(1.0)
    apply_gradients(state, "own", 1e-3, 1e-3, 1.0, 1e-8)
    own = cost.role_bytes(shape, Adapter(rank=4), head=True, trained=True)
    assert own["weights"] == role.weights.numel() * 4
    assert own["gradients"] == role.grad.numel() * 4
    moments = [v for s in state.optimizer("own", 1e-8).state.values() for k, v in s.items() if k != "step"]
    assert own["moments"] == sum(v.numel() * v.element_size() for v in moments)
    base.drop("counted")


@pytest.mark.parametrize("double", [False, True])
def test_nf4_is_counted_with_its_scales(tmp_path: Path, double: bool) -> None:
    folder = build_model(tmp_path / "m", "qwen2")
    base = SharedBase.load(folder, 4, "cpu", dense=False, double_quant=double)
    held = sum(p.numel() * p.element_size() for p in base.model.parameters())
    for state in (m.weight.quant_state for m in base.model.modules() if type(m).__name__ == "Linear4bit"):
        parts = [state.absmax, state.code] + ([state.state2.absmax, state.state2.code, state.offset] if double else [])
        held += sum(p.numel() * p.element_size() for p in parts)
    wish = Wish("sft", SFTConfig(), double_quant=double)
    assert sum(cost.weight_bytes(memory.shape_of(folder), wish).values()) == held


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_the_peak_is_the_largest_phase_over_what_is_always_there() -> None:
    wish = Wish("ppo", PPOConfig(), machine=Machine("cuda", runtime=7), rows=Rows(30, 0))
    plan = memory.predict(TOY, wish)
    assert [p.name for p in plan.phases] == ["sampling", "scoring", "training"]
    assert plan.total == sum(p.size for p in plan.standing) + max(p.size for p in plan.phases) + 7
    assert memory.fits(plan, plan.total)
    assert not memory.fits(plan, plan.total - 1)


def test_checkpointing_keeps_one_layer_and_the_inputs_of_the_others() -> None:
    wish = Wish("sft", SFTConfig(batch=1), rows=Rows(30, 20), machine=Machine("cuda"))
    layer = cost.saved_bytes(TOY, wish, 50, 50)
    kept = memory.predict(TOY, replace(wish, checkpoint_every=1)).phases[-1].parts[0].size
    assert kept == 2 * 50 * 8 * 2 + layer
    assert memory.predict(TOY, wish).phases[-1].parts[0].size == 2 * layer


WIDE = replace(TOY, layers=24, hidden=2048, heads=16, kv_heads=8, head_dim=128, feedforward=8192, vocabulary=150_000,
               window=32_768)  # fmt: skip


def test_halving_the_passes_is_the_cheapest_way_and_learns_the_same() -> None:
    wish = Wish("sft", SFTConfig(), rows=Rows(300, 200), machine=Machine("cuda"))
    free = memory.predict(WIDE, replace(wish, config=SFTConfig(tokens_per_pass=2048))).total
    assert memory.changes(WIDE, wish, memory.predict(WIDE, wish).total) == []
    first, *rest = memory.changes(WIDE, wish, free)
    assert (first.where, first.values, first.fits, first.exact) == (
        "settings",
        (("tokens_per_pass", 2048),),
        True,
        True,
    )
    assert first.saves == memory.predict(WIDE, wish).total - free
    assert all(not c.exact for c in rest)


def test_keys_and_values_that_do_not_fit_ask_for_fewer_rows_or_tokens() -> None:
    config = GroupConfig(prompts=64, group=16, max_new_tokens=2048, tokens_per_pass=64)
    wish = Wish("grpo", config, rows=Rows(100, 0), machine=Machine("cuda"))
    half = memory.predict(WIDE, replace(wish, config=replace(config, prompts=32))).total
    found = memory.changes(WIDE, wish, half)
    assert memory.predict(WIDE, wish).peak.name == "sampling"
    assert ("prompts", 32) in [c.values[0] for c in found if c.fits]
    # A prompt of 100 tokens stays: 100 + 1024 are more than half of 100 + 2048, so answers are halved twice.
    assert ("max_new_tokens", 512) in [c.values[0] for c in found if c.fits]


def test_what_helps_but_is_not_enough_says_so() -> None:
    found = memory.changes(WIDE, Wish("sft", SFTConfig(), rows=Rows(300, 200), machine=Machine("cuda")), 1000)
    assert found
    assert not any(c.fits for c in found)


@pytest.mark.parametrize("config", [OnlineConfig(), SelectionConfig(), SelectionConfig(rule="rejection")])
def test_the_other_methods_have_a_plan(config: Any) -> None:
    method = "online" if isinstance(config, OnlineConfig) else "raft"
    plan = memory.predict(WIDE, Wish(method, config, rows=Rows(100, 0), machine=Machine("cuda")))
    assert {p.name for p in plan.phases} == {"sampling", "scoring", "training"}


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(memory.ShapeError, match="is no config"):
        memory.shape_of(tmp_path / "nothing")


def test_the_command_says_the_verdict_and_what_would_help() -> None:
    base = ["memory", "ppo", "--model", "tiny", "--device", "cpu", "--rows", "12,0"]
    found = CliRunner().invoke(main, [*base, "--free", "100", "--json"])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert said["fits"] is True
    assert said["changes"] == []
    tight = json.loads(CliRunner().invoke(main, [*base, "--free", "0.71", "--json"]).stdout)
    assert tight["fits"] is False
    assert {"tokens_per_pass"} <= {name for c in tight["changes"] for name in c["values"]}
    smaller = json.loads(CliRunner().invoke(main, [*base, "--free", "100", "--set", "rank=4", "--json"]).stdout)
    assert smaller["total"] < said["total"]
    wrong = CliRunner().invoke(main, [*base, "--set", "tea=1"])
    assert "neither a setting of ppo nor of the adapter" in wrong.output


def test_bytes_in_words() -> None:
    assert [pretty(n) for n in (512, 4_900, 251_000_000, 4_940_000_000)] == ["512 bytes", "4.9 kB", "251 MB", "4.9 GB"]
