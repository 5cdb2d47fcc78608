"""This library as a contender: python -m benchmarks.ours <work> sft|reward|ppo[-4][-fixed]|rollout."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.turns import Turn
from benchmarks.work import read_facts, read_rows
from lab.base import SharedBase
from lab.config import PPOConfig, RewardConfig, SFTConfig
from lab.encode import TokenPair, TokenPrompt, TokenRow
from lab.events import Updated
from lab.feedback.rewards import Rewards
from lab.records import Rollout
from lab.sample import stream
from lab.saving import load_role
from lab.train import ppo as ppo_story
from lab.train import reward as reward_story
from lab.train import sft as sft_story

NEVER = {"probe_every": 0, "save_every": 0}


def base_with(work: Path, facts: dict[str, Any], *roles: tuple[str, str, bool]) -> SharedBase:
    """The tiny model in NF4 with roles (name, folder of the adapter, whether it gets the head)."""
    base = SharedBase.load(facts["model"], bits=4, device="cpu")
    for name, source, head in roles:
        load_role(base, work / source, name)
        if head:
            from safetensors.torch import load_file

            base.add_head(name)
            role = base.role(name)
            role.weights[role.n_adapter : -1] = load_file(str(work / "head.safetensors"))["weight"][0]
    return base


def note_gradients(base: SharedBase, work: Path, name: str, *roles: str) -> None:
    """Writes the gradients of the roles' adapters, as they are before the first update, to <work>/<name>.npz."""
    found = {}
    for role in roles:
        for path, layer in base.layers(role):
            for letter, part in (("A", layer.lora_A), ("B", layer.lora_B)):
                key = f"{role}.{path.split('layers.')[1]}.{letter}"
                found[key] = part[role].weight.grad.detach().clone().numpy()
    np.savez(work / f"{name}.npz", **found)


def steps_of(events: Iterator[Any], turn: Turn) -> None:
    """One turn for every update of a run."""
    turn.wait()
    for event in events:
        if isinstance(event, Updated):
            turn.done()
            turn.wait()


def sft(work: Path, turn: Turn) -> None:
    facts, rows = read_facts(work), read_rows(work)["sft"]
    base = base_with(work, facts, ("sft", "adapter", False))
    tokens = [TokenRow(tuple(p), tuple(c), (True,) * len(c), i) for i, (p, c) in enumerate(rows)]
    config = SFTConfig(batch=facts["batch"], eval_share=0, eval_every=0, warmup=0, **NEVER)
    state = sft_story.SFTState(base, {"sft": "sft"}, ("sft",), facts["steps"], rows=tokens)
    state.own()
    weights = sft_story._weights(tokens[: config.batch])
    loss, _ = sft_story._pass(state, [sft_story.Row("sft", r.prompt_ids, r.completion_ids)
                                      for r in tokens[: config.batch]], weights)  # fmt: skip
    loss.backward()
    note_gradients(base, work, "sft-ours", "sft")
    base.role("sft").grad.zero_()
    turn.ready(loss=float(loss.detach()))
    steps_of(sft_story.sft(in_file_order(state, "rows", config), config), turn)


def reward(work: Path, turn: Turn) -> None:
    facts, rows = read_facts(work), read_rows(work)["pairs"]
    base = base_with(work, facts, ("reward", "adapter", True))

    def side(prompt: list[int], completion: list[int]) -> TokenRow:
        return TokenRow(tuple(prompt), tuple(completion), (True,) * len(completion))

    pairs = [TokenPair(side(p, c), side(p, r), row=i) for i, (p, c, r) in enumerate(rows)]
    config = RewardConfig(batch=facts["batch"], eval_share=0, eval_every=0, standardise=False, warmup=0, **NEVER)
    state = reward_story.RewardState(base, {"reward": "reward"}, ("reward",), facts["steps"], pairs=pairs)
    state.own()
    c, r = reward_story._read(state, pairs[: config.batch])
    loss = reward_story.bradley_terry(c, r, centring=config.centring).mean()
    loss.backward()
    note_gradients(base, work, "reward-ours", "reward")
    base.role("reward").grad.zero_()
    turn.ready(loss=float(loss.detach()))
    steps_of(reward_story.reward(in_file_order(state, "pairs", config), config), turn)


def in_file_order(state: Any, field: str, config: Any) -> Any:
    """The state with its records moved so that the run, which visits them in its own order, meets the file's order."""
    from lab.data import batch_at

    records = getattr(state, field)
    moved: list[Any] = [None] * len(records)
    places = [i for step in range(len(records) // config.batch)
              for i in batch_at(step, len(records), config.batch, config.seed)]  # fmt: skip
    for place, record in zip(places, records, strict=True):
        moved[place] = record
    setattr(state, field, moved)
    return state


def ppo(work: Path, turn: Turn, epochs: int = 1, ragged: bool = True) -> None:
    facts, rows = read_facts(work), read_rows(work)
    base = base_with(work, facts, ("policy", "fresh", False), ("reward", "adapter", True))
    if not ragged:
        base.chat = replace(base.chat, stop_ids=frozenset())  # every completion takes all its tokens
    n = facts["batch"]
    config = PPOConfig(steps=10_000, batch=n, epochs=epochs, max_new_tokens=facts["max_new_tokens"], kl=0.05, clip=0.2,
                       temperature=1.0, missing_end=1.0 if ragged else 0.0, **NEVER)  # fmt: skip
    state = _ppo_state(base, rows["prompts"], config)
    check = replace(config, missing_end=0.0, reward_clip=0.0, max_grad_norm=0.0, epochs=1)
    state.own()
    batch = ppo_story.experience(state, check, fixed_completions(rows["prompts"][:n]))
    weights = ppo_story.token_weights(batch.mask, "token_mean", batch.kept)
    losses = ppo_story._pass(state, check, batch, torch.arange(n), weights)
    (losses["policy_loss"] + check.value_coef * losses["value_loss"]).backward()
    note_gradients(base, work, "ppo-ours", state.roles["policy"], state.roles["value"])
    for name in ("policy", "value"):
        state.role(name).grad.zero_()
    turn.ready(policy_loss=float(losses["policy_loss"].detach()), value_loss=float(losses["value_loss"].detach()))
    steps_of(ppo_story.ppo(state, config), turn)


def _ppo_state(base: SharedBase, prompts: list[list[int]], config: PPOConfig) -> ppo_story.PPOState:
    texts = [base.chat.decode(p) for p in prompts]
    names = {"policy": "policy", "value": "value", "reference": "reference", "reward": "reward"}
    base.fork("policy", "reference", head=False)
    base.fork("reward", "value")
    state = ppo_story.PPOState(
        base,
        names,
        ("policy", "value"),
        config.steps,
        numbers={"beta": config.kl, "updates": 0.0},
        rewards=Rewards.role("reward"),
    )
    state.prompts = [TokenPrompt(text, tuple(p)) for text, p in zip(texts, prompts, strict=True)]
    return state


def fixed_completions(prompts: list[list[int]], length: int = 8) -> list[Rollout]:
    """One completion of `length` ordinary tokens for each prompt, made by arithmetic: both sides make the same."""
    return [Rollout("policy", "", "", tuple(p), tuple(20 + (7 * i + 11 * t) % 400 for t in range(length)), True)
            for i, p in enumerate(prompts)]  # fmt: skip


def rollout(work: Path, turn: Turn) -> None:
    facts, prompts = read_facts(work), read_rows(work)["prompts"]
    base = base_with(work, facts, ("policy", "adapter", False))
    batch = [tuple(p) for p in prompts[:64]]

    def run(temperature: float, seed: int) -> list[list[int]]:
        rows: list[list[int]] = [[] for _ in batch]
        for drawn in stream(base, batch, ("policy",), temperature=temperature, max_new_tokens=facts["max_new_tokens"],
                            seed=seed):  # fmt: skip
            for row, token, _, _ in drawn.tokens:
                rows[row].append(token)
        return rows

    turn.ready(greedy=run(0.0, 0))
    for seed in itertools.count():
        turn.wait()
        rows = run(1.0, seed)
        turn.done(tokens=sum(map(len, rows)), longest=max(map(len, rows)))


def main() -> None:
    work, what = Path(sys.argv[1]), sys.argv[2]
    turn = Turn()
    {
        "sft": sft,
        "reward": reward,
        "ppo": ppo,
        "ppo-4": lambda w, t: ppo(w, t, 4),
        "ppo-fixed": lambda w, t: ppo(w, t, 1, False),
        "ppo-4-fixed": lambda w, t: ppo(w, t, 4, False),
        "rollout": rollout,
    }[what](work, turn)


if __name__ == "__main__":
    main()
