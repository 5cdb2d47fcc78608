"""The whole path in the tiny world: base → SFT → reward model → PPO, through the engine, so that it can be watched.

Every stage is a run under `root`. What a person sees (terminal, Studio) is read from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab import launch, tiny
from lab.base import SharedBase
from lab.config import Adapter, ConfigError, PPOConfig, RewardConfig, SFTConfig
from lab.desk import Desk
from lab.engine import Engine
from lab.evaluate.table import Figure, Row, compare_roles, reward_accuracy
from lab.events import Done, Event, Started
from lab.feedback.annotate import compare
from lab.probes import describe
from lab.records import Message, Preference, Prompt, prompt_text
from lab.runs import Run
from lab.sample import sample
from lab.worker import default_worker

OnEvent = Callable[[str, Event], None]
OnProgress = Callable[[str, int, int], None]

SFT = SFTConfig(lr=3e-3, batch=32, epochs=1.0, eval_every=20, probe_every=20, save_every=0)
REWARD = RewardConfig(
    lr=1e-3, head_lr=3e-3, batch=32, epochs=1.0, eval_share=0.08, eval_every=25, probe_every=0, save_every=0
)
PPO = PPOConfig(steps=60, lr=3e-3, value_lr=3e-3, value_head_lr=3e-3, batch=64, per_prompt=2, epochs=2, minibatches=1,
                kl=0.25, missing_end=1.0, max_new_tokens=tiny.MAX_NEW_TOKENS, probe_every=10,
                save_every=10)  # fmt: skip
"""Longer, the true score begins to fall even with this KL weight; without one it has fallen far by then."""

SHOWN = (0, 4, 8)
"""The probe prompts answered side by side at the end: a fact, a false claim, a harmful request."""


@dataclass(frozen=True)
class Plan:
    """How large the demonstration is. `annotator` judges the pairs; `heldout` prompts make the table."""

    demonstrations: int = 2000
    comparisons: int = 4000
    heldout: int = 1000
    annotator: str = tiny.DEFAULT_ANNOTATOR
    adapter: Adapter = Adapter(rank=16, alpha=32)
    sft: SFTConfig = SFT
    reward: RewardConfig = REWARD
    ppo: PPOConfig = PPO
    seed: int = 0

    def __post_init__(self) -> None:
        if self.annotator not in tiny.ANNOTATORS:
            raise ConfigError(f"There is no annotator {self.annotator!r}; choose one of "
                              f"{', '.join(tiny.ANNOTATORS)}.")  # fmt: skip

    def seeded(self, seed: int) -> Plan:
        """The same plan with another seed everywhere."""
        return replace(self, seed=seed, sft=replace(self.sft, seed=seed), reward=replace(self.reward, seed=seed),
                       ppo=replace(self.ppo, seed=seed))  # fmt: skip


@dataclass(frozen=True)
class Result:
    """The table, three prompts answered side by side, and what the reward model is worth."""

    rows: list[Row]
    samples: list[dict[str, Any]]
    reward_accuracy: Figure
    runs: dict[str, str]


def open_engine(root: Path | str, device: str = "auto", port: int = 0) -> tuple[Engine, Desk]:
    """An engine for the tiny world over `root`; it serves while it is used as a context."""
    worker = default_worker()
    base = worker.submit(lambda: SharedBase.load(tiny.CHECKPOINT, bits=4, device=device)).result()
    desk = Desk(root, base, world="tiny")
    return Engine(root, desk.handlers(), port=port, worker=worker), desk


def run_demo(
    engine: Engine,
    desk: Desk,
    plan: Plan,
    on_event: OnEvent = lambda run, event: None,
    on_progress: OnProgress = lambda what, done, of: None,
) -> Result:
    """Plays the stages one after the other and measures base, SFT and PPO on held-out prompts."""
    root, base = engine.root, desk.base
    setup = launch.Setup(base.source, base.bits, adapter=plan.adapter, world="tiny", probes=tiny.PROBES)
    ask = engine.worker.submit

    demonstrations = tiny.demonstrations(plan.demonstrations, seed=plan.seed)
    sft = launch.new_run(root, "sft", plan.sft, setup, demonstrations, title="imitate demonstrations")
    _play(engine, sft, on_event)

    prompts = [p.prompt for p in tiny.train_prompts(seed=plan.seed)]
    judged = ask(lambda: compare(
        base, launch.role_name(sft.id), prompts, tiny.ANNOTATORS[plan.annotator], plan.comparisons,
        max_new_tokens=tiny.MAX_NEW_TOKENS, seed=plan.seed, per_prompt=2,
        on_progress=lambda done, of: on_progress("comparing answers", done, of))).result()  # fmt: skip
    start, parent = launch.find_role(root, sft.id)
    reward = launch.new_run(
        root,
        "reward",
        plan.reward,
        setup,
        judged.preferences,
        {"reward": start},
        title=f"learn what the annotator “{plan.annotator}” prefers",
        parents={"init": parent},
    )
    _play(engine, reward, on_event)

    judge, judge_parent = launch.find_role(root, reward.id)
    ppo = launch.new_run(root, "ppo", plan.ppo, setup, tiny.train_prompts(seed=plan.seed),
                         {"policy": start, "reward": judge}, title="earn the reward",
                         parents={"init": parent, "reward": judge_parent})  # fmt: skip
    _play(engine, ppo, on_event)
    return ask(lambda: _measure(desk, sft, reward, ppo, plan, on_progress)).result()


def _play(engine: Engine, run: Run, on_event: OnEvent) -> Done:
    """Plays a run to its end; a run that fails raises its own error."""
    session = engine.open(run.id)
    session.subscribe(lambda event: on_event(run.id, event))
    on_event(run.id, Started(run.manifest.method, session.state.step, session.state.total))
    session.play()
    return session.wait()


def _measure(desk: Desk, sft: Run, reward: Run, ppo: Run, plan: Plan, on_progress: OnProgress) -> Result:
    roles = {"base": "base", "SFT": desk.role(sft.id), "PPO": desk.role(ppo.id)}
    judge = desk.role(reward.id)
    prompts = [p.prompt for p in tiny.heldout_prompts(plan.heldout)]
    rows = compare_roles(
        desk.base,
        prompts,
        roles,
        tiny.gold,
        reward=judge,
        reference=roles["SFT"],
        against="SFT",
        max_new_tokens=tiny.MAX_NEW_TOKENS,
        temperature=plan.ppo.temperature,
        seed=plan.seed + 1,
        on_progress=lambda done, of: on_progress("measuring on held-out prompts", done, of),
    )
    accuracy = reward_accuracy(
        desk.base,
        prompts,
        roles["SFT"],
        judge,
        tiny.gold,
        max_new_tokens=tiny.MAX_NEW_TOKENS,
        seed=plan.seed + 2,
        pairs=3,
    )
    samples = list(_side_by_side(desk, roles, judge, plan))
    return Result(rows, samples, accuracy, {"sft": sft.id, "reward": reward.id, "ppo": ppo.id})


def _side_by_side(desk: Desk, roles: dict[str, str], judge: str, plan: Plan) -> Iterator[dict[str, Any]]:
    """Three prompts, each answered by every role with the same noise."""
    prompts: list[Prompt] = [(Message("user", tiny.PROBES[i]),) for i in SHOWN]
    rollouts = sample(
        desk.base,
        prompts,
        tuple(roles.values()),
        temperature=plan.ppo.temperature,
        max_new_tokens=tiny.MAX_NEW_TOKENS,
        seed=plan.seed,
    )
    known = describe(desk.base, rollouts, tiny.gold, reward=judge, temperature=plan.ppo.temperature)
    for i, prompt in enumerate(prompts):
        answers = {shown: known[r * len(prompts) + i] for r, shown in enumerate(roles)}
        yield {"prompt": prompt_text(prompt),
               "answers": {shown: {"text": s.completion, "gold": s.gold, "reward": s.reward}
                           for shown, s in answers.items()}}  # fmt: skip


def preferences_from(path: Path) -> list[Preference]:
    """The comparisons a reward run of the demonstration learned from."""
    from lab.data import read

    return list(read(path / "inputs" / "data.jsonl", "preference").records)
