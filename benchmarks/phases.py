"""The phases of training on a base with random weights, each as a function that can be called again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lab.base import SharedBase
from lab.config import Adapter, PPOConfig, RewardConfig, SFTConfig
from lab.encode import TokenPair, TokenRow
from lab.feedback.rewards import Rewards
from lab.records import Rollout
from lab.sample import stream
from lab.train import ppo as ppo_story
from lab.train import reward as reward_story
from lab.train import sft as sft_story


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
    state = reward_story.RewardState(base, {"reward": "reward"}, ("reward",), 1000, pairs=list(pairs))

    def run() -> None:
        state.own()
        reward_story.update(state, pairs, config)

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


def rollout_phase(base: SharedBase, prompts: Sequence[tuple[int, ...]], role: str, new: int) -> Callable[[], int]:
    """Sampling up to `new` tokens after each prompt; gives back how many tokens were sampled."""
    return lambda: sum(len(d.tokens) for d in stream(base, prompts, (role,), max_new_tokens=new, seed=0))
