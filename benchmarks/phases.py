"""The phases of training on a base with random weights, each as a function that can be called again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from lab.base import SharedBase
from lab.config import Adapter, GroupConfig, KTOConfig, PPOConfig, PreferenceConfig, RewardConfig, SFTConfig
from lab.encode import TokenPair, TokenPrompt, TokenRating, TokenRow
from lab.feedback.rewards import Rewards, Term
from lab.records import Rollout
from lab.sample import stream
from lab.train import group as group_story
from lab.train import ppo as ppo_story
from lab.train import preference as preference_story
from lab.train import reward as reward_story
from lab.train import sft as sft_story
from lab.train import unpaired as unpaired_story


@dataclass(frozen=True)
class Phase:
    """Something to run and how many real tokens (prompts and completions, unpadded) it handles."""

    run: Callable[[], Any]
    tokens: int


def size(row: TokenRow) -> int:
    """Tokens of a row."""
    return len(row.prompt_ids) + len(row.completion_ids)


def sft_phase(base: SharedBase, rows: Sequence[TokenRow], tokens_per_pass: int, rank: int = 16) -> Phase:
    """One SFT update on these rows."""
    if "sft" not in base.roles:
        base.add_role("sft", Adapter(rank=rank, alpha=2 * rank))
    config = SFTConfig(batch=len(rows), tokens_per_pass=tokens_per_pass, warmup=0)
    state = sft_story.SFTState(base, {"sft": "sft"}, ("sft",), 1000, rows=list(rows))

    def run() -> None:
        state.own()
        sft_story.update(state, rows, config)

    return Phase(run, sum(map(size, rows)))


def reward_phase(base: SharedBase, pairs: Sequence[TokenPair], tokens_per_pass: int, rank: int = 16) -> Phase:
    """One update of a reward model on these pairs."""
    if "reward" not in base.roles:
        base.add_role("reward", Adapter(rank=rank, alpha=2 * rank))
        base.add_head("reward", seed=0)
    config = RewardConfig(batch=len(pairs), tokens_per_pass=tokens_per_pass, warmup=0)
    state = reward_story.RewardState(base, {"reward": "reward"}, ("reward",), 1000)
    batch = reward_story.shared("reward", [(pair,) for pair in pairs])

    def run() -> None:
        state.own()
        reward_story.update(state, batch, config)

    return Phase(run, sum(size(p.chosen) + size(p.rejected) for p in pairs))


def ppo_phase(
    base: SharedBase, rows: Sequence[TokenRow], tokens_per_pass: int, rank: int = 16, epochs: int = 1
) -> Phase:
    """Scoring under four roles, credit, and `epochs` updates of policy and value, on given completions."""
    if "policy" not in base.roles:
        base.add_role("policy", Adapter(rank=rank, alpha=2 * rank))
        base.add_role("reference", Adapter(rank=rank, alpha=2 * rank))
        for name in ("value", "frozen_reward"):
            base.add_role(name, Adapter(rank=rank, alpha=2 * rank))
            base.add_head(name, seed=0)
    names = {"policy": "policy", "value": "value", "reference": "reference", "reward": "frozen_reward"}
    config = PPOConfig(steps=1000, batch=len(rows), epochs=epochs, tokens_per_pass=tokens_per_pass, temperature=1.0)
    state = ppo_story.PPOState(base, names, ("policy", "value"), 1000, numbers={"beta": 0.05, "updates": 0.0},
                               rewards=Rewards.role("frozen_reward"))  # fmt: skip
    rollouts = [Rollout("policy", "", "", r.prompt_ids, r.completion_ids, True) for r in rows]

    def run() -> None:
        state.own()
        ppo_story.learn(state, config, ppo_story.experience(state, config, rollouts))

    return Phase(run, sum(map(size, rows)))


def with_reference(base: SharedBase, rank: int) -> dict[str, str]:
    """The names of a policy and its frozen copy on the base, made where they are missing."""
    for name in ("policy", "reference"):
        if name not in base.roles:
            base.add_role(name, Adapter(rank=rank, alpha=2 * rank))
    return {"policy": "policy", "reference": "reference"}


def preference_phase(base: SharedBase, pairs: Sequence[TokenPair], tokens_per_pass: int, rank: int = 16) -> Phase:
    """The reference's scores of these pairs, and one DPO update on them."""
    config = PreferenceConfig(batch=len(pairs), tokens_per_pass=tokens_per_pass, warmup=0)
    state = preference_story.PreferenceState(base, with_reference(base, rank), ("policy",), 1000, pairs=list(pairs))

    def run() -> None:
        state.own()
        state.memory[preference_story.KNOWN] = torch.full((len(pairs), 2), torch.nan)
        preference_story.update(state, range(len(pairs)), config)

    return Phase(run, sum(size(p.chosen) + size(p.rejected) for p in pairs))


def unpaired_phase(base: SharedBase, rows: Sequence[TokenRow], tokens_per_pass: int, rank: int = 16) -> Phase:
    """The reference's scores of these rows, KTO's zero point, and one update; every other row is liked."""
    config = KTOConfig(batch=len(rows), tokens_per_pass=tokens_per_pass, warmup=0)
    state = unpaired_story.UnpairedState(
        base,
        with_reference(base, rank),
        ("policy",),
        1000,
        numbers={"liked_weight": 1.0, "disliked_weight": 1.0},
        ratings=[TokenRating(r, bool(i % 2)) for i, r in enumerate(rows)],
    )

    def run() -> None:
        state.own()
        state.memory[unpaired_story.KNOWN] = torch.full((len(rows),), torch.nan)
        unpaired_story.update(state, range(len(rows)), config)

    return Phase(run, sum(map(size, rows)))


def group_phase(base: SharedBase, rows: Sequence[TokenRow], tokens_per_pass: int, rank: int = 16) -> Phase:
    """Scoring under the reference, credit, and one GRPO update, on given completions; a prompt's follow each other."""
    prompts = list(dict.fromkeys(r.prompt_ids for r in rows))
    config = GroupConfig(steps=1000, prompts=len(prompts), group=len(rows) // len(prompts),
                         tokens_per_pass=tokens_per_pass)  # fmt: skip
    length = Term("length", many=lambda rollouts: [float(len(r.completion_ids)) for r in rollouts])
    state = group_story.GroupState(base, with_reference(base, rank), ("policy",), 1000,
                                   numbers={"updates": 0.0, "drawn": 0.0}, rewards=Rewards((length,)),
                                   prompts=[TokenPrompt("", p) for p in prompts])  # fmt: skip
    rollouts = [Rollout("policy", "", "", r.prompt_ids, r.completion_ids, True) for r in rows]

    def run() -> None:
        state.own()
        group_story.learn(state, config, groups_of(state, config, rollouts))

    return Phase(run, sum(map(size, rows)))


def groups_of(state: group_story.GroupState, config: GroupConfig, rollouts: list[Rollout]) -> group_story.Groups:
    """What the run would make of these completions, had it sampled them."""
    with patch("lab.feedback.groups.sample", lambda *_, **__: rollouts):
        return group_story.experience(state, config)


def rollout_phase(base: SharedBase, prompts: Sequence[tuple[int, ...]], role: str, new: int) -> Callable[[], int]:
    """Sampling up to `new` tokens after each prompt; gives back how many tokens were sampled."""
    return lambda: sum(len(d.tokens) for d in stream(base, prompts, (role,), max_new_tokens=new, seed=0))
