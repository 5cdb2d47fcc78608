"""This library as a contender:

python -m benchmarks.ours <work> sft|reward|dpo[-precomputed]|kto|grpo|ppo[-4][-fixed]|rollout
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.phases import groups_of
from benchmarks.turns import Turn
from benchmarks.work import GROUP, GROUPS, RATES, earn, given_completion, given_groups, read_facts, read_rows
from lab.base import SharedBase
from lab.config import GroupConfig, KTOConfig, PPOConfig, PreferenceConfig, RewardConfig, SFTConfig
from lab.data import batch_at
from lab.encode import TokenPair, TokenPrompt, TokenRating, TokenRow
from lab.events import Progress, Updated
from lab.feedback.rewards import Rewards
from lab.objectives import token_weights, weighted_sum
from lab.records import Message, Rollout
from lab.sample import stream
from lab.saving import load_role
from lab.train import group as group_story
from lab.train import ppo as ppo_story
from lab.train import preference as preference_story
from lab.train import reward as reward_story
from lab.train import sft as sft_story
from lab.train import unpaired as unpaired_story

NEVER = {"probe_every": 0, "save_every": 0}
UNSEEN = {"eval_share": 0, "eval_every": 0, "warmup": 0} | NEVER


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


def steps_of(events: Iterator[Any], turn: Turn, *figures: str) -> None:
    """One turn for every update of a run, with these of its figures."""
    turn.wait()
    for event in events:
        if isinstance(event, Updated):
            turn.done(**{name: event.metrics[name] for name in figures})
            turn.wait()


def side(prompt: list[int], completion: list[int], row: int = -1) -> TokenRow:
    """A prompt with a completion that counts."""
    return TokenRow(tuple(prompt), tuple(completion), (True,) * len(completion), row)


def sft(work: Path, turn: Turn) -> None:
    facts, rows = read_facts(work), read_rows(work)["sft"]
    base = base_with(work, facts, ("sft", "adapter", False))
    tokens = [side(p, c, i) for i, (p, c) in enumerate(rows)]
    config = SFTConfig(lr=RATES["sft"], schedule="cosine", batch=facts["batch"], **UNSEEN)
    state = sft_story.SFTState(base, {"sft": "sft"}, ("sft",), facts["steps"], rows=tokens)
    state.own()
    weights = sft_story._weights(tokens[: config.batch])
    loss, _ = sft_story._pass(state, [sft_story.Row("sft", r.prompt_ids, r.completion_ids)
                                      for r in tokens[: config.batch]], weights)  # fmt: skip
    loss.backward()
    note_gradients(base, work, "sft-ours", "sft")
    base.role("sft").grad.zero_()
    turn.ready(loss=float(loss.detach()))
    steps_of(sft_story.sft(in_file_order(state, "rows", config.batch), config), turn, "loss")


def reward(work: Path, turn: Turn) -> None:
    facts, rows = read_facts(work), read_rows(work)["pairs"]
    base = base_with(work, facts, ("reward", "adapter", True))

    pairs = [TokenPair(side(p, c), side(p, r), row=i) for i, (p, c, r) in enumerate(rows)]
    config = RewardConfig(lr=RATES["reward"], head_lr=RATES["reward"], schedule="cosine", batch=facts["batch"],
                          standardise=False, **UNSEEN)  # fmt: skip
    state = reward_story.RewardState(base, {"reward": "reward"}, ("reward",), facts["steps"],
                                     elements=[(pair,) for pair in pairs])  # fmt: skip
    in_file_order(state, "elements", config.batch).own()
    batch = reward_story.draw(state, config)
    loss = weighted_sum(*reward_story._losses(batch, reward_story._read(state, batch), config))
    loss.backward()
    note_gradients(base, work, "reward-ours", "reward")
    base.role("reward").grad.zero_()
    turn.ready(loss=float(loss.detach()))
    steps_of(reward_story.reward(state, config), turn, "loss")


def in_file_order(state: Any, field: str, batch: int) -> Any:
    """The state with its records moved so that the run, which visits them in its own order, meets the file's order."""
    records = getattr(state, field)
    moved: list[Any] = [None] * len(records)
    places = [i for step in range(len(records) // batch) for i in batch_at(step, len(records), batch, 0)]
    for place, record in zip(places, records, strict=True):
        moved[place] = record
    setattr(state, field, moved)
    return state


def with_reference(work: Path, facts: dict[str, Any]) -> tuple[SharedBase, dict[str, str]]:
    """A base with a policy that starts from the work's adapter, and a frozen copy of it."""
    base = base_with(work, facts, ("policy", "adapter", False))
    base.fork("policy", "reference", head=False)
    return base, {"policy": "policy", "reference": "reference"}


def dpo(work: Path, turn: Turn, reference: str = "live") -> None:
    name = "dpo-precomputed" if reference == "precomputed" else "dpo"
    facts, rows = read_facts(work), read_rows(work)["pairs"]
    base, roles = with_reference(work, facts)
    pairs = [TokenPair(side(p, c), side(p, r), row=i) for i, (p, c, r) in enumerate(rows)]
    config = PreferenceConfig(objective="dpo", beta=0.1, reference=reference, lr=RATES[name], schedule="cosine",
                              batch=facts["batch"], **UNSEEN)  # fmt: skip
    state = preference_story.PreferenceState(
        base,
        roles,
        ("policy",),
        facts["steps"],
        pairs=pairs,
        memory={preference_story.KNOWN: torch.full((len(pairs), 2), torch.nan)},
    )
    in_file_order(state, "pairs", config.batch).own()
    first = batch_at(0, len(pairs), config.batch, config.seed)
    batch = [state.pairs[i] for i in first]
    preference_story.remember(state, config, first)
    known = state.memory[preference_story.KNOWN][list(first)]
    losses = preference_story._losses(batch, preference_story._read(state, "policy", batch), known, config)
    loss = weighted_sum(losses, preference_story._weights(batch))
    check(loss, state, work, name, turn, preference_story.preference(state, config))


def kto(work: Path, turn: Turn) -> None:
    facts, rows = read_facts(work), read_rows(work)["ratings"]
    base, roles = with_reference(work, facts)
    ratings = [TokenRating(side(p, c), liked, i) for i, (p, c, liked) in enumerate(rows)]
    config = KTOConfig(beta=0.1, liked_weight=1.0, disliked_weight=1.0, lr=RATES["kto"], schedule="cosine",
                       batch=facts["batch"], **UNSEEN)  # fmt: skip
    state = unpaired_story.UnpairedState(
        base,
        roles,
        ("policy",),
        facts["steps"],
        ratings=ratings,
        memory={unpaired_story.KNOWN: torch.full((len(ratings),), torch.nan)},
    )
    in_file_order(state, "ratings", config.batch).own()
    first = batch_at(0, len(ratings), config.batch, config.seed)
    batch = [state.ratings[i] for i in first]
    unpaired_story.remember(state, config, first)
    known = state.memory[unpaired_story.KNOWN][list(first)]
    losses = unpaired_story._losses(state, batch, unpaired_story._read(state, "policy", batch), known,
                                    unpaired_story.zero_point(state, batch, config), config)  # fmt: skip
    check(losses.mean(), state, work, "kto", turn, unpaired_story.unpaired(state, config))


def check(loss: torch.Tensor, state: Any, work: Path, name: str, turn: Turn, events: Iterator[Any]) -> None:
    """Notes the first batch's gradients and lets the run do all that comes before its first update; then turns."""
    loss.backward()
    note_gradients(state.base, work, f"{name}-ours", "policy")
    state.role("policy").grad.zero_()
    next(e for e in events if isinstance(e, Progress) and e.phase == "updating")
    turn.ready(loss=float(loss.detach()))
    steps_of(events, turn, "loss")


def grpo(work: Path, turn: Turn) -> None:
    facts, rows = read_facts(work), read_rows(work)
    base, roles = with_reference(work, facts)
    config = GroupConfig(
        variant="grpo",
        reduction="token_mean",
        kl_in_loss=0.04,
        kl_estimator="k3_corrected",
        correction="none",
        steps=10_000,
        prompts=GROUPS,
        group=GROUP,
        lr=RATES["grpo"],
        adam_eps=1e-8,
        max_new_tokens=facts["max_new_tokens"],
        missing_end=0.0,
        reward_clip=0.0,
        **NEVER,
    )
    state = group_story.GroupState(base, roles, ("policy",), config.steps, numbers={"updates": 0.0, "drawn": 0.0},
                                   prompts=asked(rows),
                                   rewards=Rewards.program(lambda _, completion, __: earn(completion)))  # fmt: skip
    in_file_order(state, "prompts", 1).own()
    rollouts = [Rollout("policy", (Message("user", rows["questions"][i // GROUP]),), base.chat.decode(ids),
                        tuple(rows["prompts"][i // GROUP]), tuple(ids), True)
                for i, ids in enumerate(given_groups())]  # fmt: skip
    batch = groups_of(state, config, rollouts)
    weights = token_weights(batch.mask, "token_mean", batch.kept)
    loss = group_story._pass(state, config, batch, torch.arange(config.batch), weights)[0]["loss"]
    loss.backward()
    note_gradients(base, work, "grpo-ours", "policy")
    state.role("policy").grad.zero_()
    turn.ready(loss=float(loss.detach()))
    steps_of(group_story.group(state, config), turn, "length")


def asked(rows: dict[str, Any]) -> list[TokenPrompt]:
    """The work's prompts, as they are said and as tokens."""
    return [TokenPrompt((Message("user", q),), tuple(p))
            for q, p in zip(rows["questions"], rows["prompts"], strict=True)]  # fmt: skip


def ppo(work: Path, turn: Turn, epochs: int = 1, ragged: bool = True) -> None:
    facts, rows = read_facts(work), read_rows(work)
    base = base_with(work, facts, ("policy", "fresh", False), ("reward", "adapter", True))
    if not ragged:
        base.chat = replace(base.chat, stop_ids=frozenset())  # every completion takes all its tokens
    n = facts["batch"]
    config = PPOConfig(steps=10_000, batch=n, epochs=epochs, max_new_tokens=facts["max_new_tokens"], kl=0.05, clip=0.2,
                       temperature=1.0, missing_end=1.0 if ragged else 0.0, **NEVER)  # fmt: skip
    state = _ppo_state(base, rows, config)
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
    steps_of(ppo_story.ppo(state, config), turn, "length")


def _ppo_state(base: SharedBase, rows: dict[str, Any], config: PPOConfig) -> ppo_story.PPOState:
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
    state.prompts = asked(rows)
    return state


def fixed_completions(prompts: list[list[int]], length: int = 8) -> list[Rollout]:
    """A completion of `length` tokens for each prompt."""
    return [Rollout("policy", "", "", tuple(p), tuple(given_completion(i, length)), True)
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
        "dpo": dpo,
        "dpo-precomputed": lambda w, t: dpo(w, t, "precomputed"),
        "kto": kto,
        "grpo": grpo,
        "ppo": ppo,
        "ppo-4": lambda w, t: ppo(w, t, 4),
        "ppo-fixed": lambda w, t: ppo(w, t, 1, False),
        "ppo-4-fixed": lambda w, t: ppo(w, t, 4, False),
        "rollout": rollout,
    }[what](work, turn)


if __name__ == "__main__":
    main()
