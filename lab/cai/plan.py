"""What a stack of Constitutional AI is made of: its stages in order.

    helpful       run        a model that helps with everything (or the run it starts from)
    critic        run        a critic that learned from the programs (critic = learned)
    chains        chains.jsonl, revisions.jsonl: draft → critique → revision
    revised       run        SFT on the last revisions mixed with helpful data
    comparisons   comparisons.jsonl, preferences.jsonl: two answers, labelled
    reward        run        a reward model on these labels (rl = ppo)
    rl            run        PPO from the reward model, DPO from the labels, or PPO from the critics' verdict (direct)

Source: Bai et al. 2022, "Constitutional AI", figure 1; direct: Lee et al. 2023, "RLAIF".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab.cai.settings import CAIConfig
from lab.recipes.recipe import Stage

HELPFUL, CRITIC, REVISED, REWARD, RL = "helpful", "critic", "revised", "reward", "rl"
"""The stages that are runs."""


TINY: Mapping[str, Mapping[str, Any]] = {
    HELPFUL: {"lr": 3e-3, "batch": 32, "eval_share": 0.0, "eval_every": 0, "probe_every": 20, "save_every": 0},
    CRITIC: {"lr": 3e-3, "batch": 32, "epochs": 4.0, "eval_share": 0.0, "eval_every": 0, "probe_every": 0,
             "save_every": 50},
    REVISED: {"lr": 3e-3, "batch": 32, "epochs": 2.0, "eval_share": 0.0, "eval_every": 0, "probe_every": 20,
              "save_every": 0},
    REWARD: {"lr": 1e-3, "head_lr": 3e-3, "batch": 32, "eval_share": 0.08, "eval_every": 25, "probe_every": 0,
             "save_every": 0},
    "dpo": {"beta": 0.5, "lr": 1e-3, "batch": 32, "eval_every": 25, "probe_every": 25, "save_every": 50},
    "ppo": {"steps": 60, "lr": 3e-3, "value_lr": 3e-3, "value_head_lr": 3e-3, "batch": 64, "per_prompt": 2,
            "epochs": 2, "kl": 0.25, "missing_end": 1.0, "probe_every": 10, "save_every": 10},
}  # fmt: skip
"""Settings of the stages in the tiny world; elsewhere the methods' own defaults hold, and --set changes either."""


def stages(config: CAIConfig, world: str, start: str, folder: str) -> dict[str, Stage]:
    """The stages that are runs, by name and in order.

    start  : the folder of the adapter it starts from; empty: the stack makes its own helpful model
    folder : where the artefacts are
    """
    known = TINY if world == "tiny" else {}
    policy = start or HELPFUL
    out: dict[str, Stage] = {}

    def add(name: str, method: str, settings: str, **says: Any) -> None:
        places = {"": f"the stage {name}"}
        out[name] = Stage(method, {**known.get(settings, {}), **says, "name": name, "seed": config.seed}, places)

    if not start:
        add(HELPFUL, "sft", HELPFUL, data=f"{folder}/demonstrations.jsonl")
    if config.critic == "learned" and config.sl:
        add(CRITIC, "sft", CRITIC, data=f"{folder}/critic-demonstrations.jsonl", init="base")
    if config.sl:
        add(REVISED, "sft", REVISED, data=f"{folder}/revisions.jsonl", init=policy)
        policy = REVISED
    longest = {"max_new_tokens": config.max_new_tokens}
    if config.rl == "dpo":
        add(RL, "dpo", "dpo", data=f"{folder}/preferences.jsonl", init=policy)
    elif config.rl == "direct":
        add(RL, "ppo", "ppo", data=f"{folder}/prompts.jsonl", init=policy,
            reward=f"{folder}/verdict.py:verdict", **longest)  # fmt: skip
    elif config.rl == "ppo":
        add(REWARD, "reward", REWARD, data=f"{folder}/preferences.jsonl", init=policy)
        add(RL, "ppo", "ppo", data=f"{folder}/prompts.jsonl", init=policy, reward=REWARD, **longest)
    return out
