"""Plays a stack of Constitutional AI, or goes on with it: every stage that trains is a run, played as a recipe.

An artefact is on disk as a whole or not at all, and made from (settings, seed) and what stands before it; a run that
was stopped goes on from its checkpoint. So a stack that was stopped anywhere ends as one that was never stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lab import launch, tiny
from lab.base import RAW, SharedBase
from lab.cai import book, data
from lab.cai.plan import CRITIC, HELPFUL, RL, stages
from lab.cai.settings import CAIConfig, Sources
from lab.config import Adapter, ConfigError
from lab.data import write_jsonl
from lab.disk import write_atomic
from lab.events import Event
from lab.feedback.constitution import chain, labels
from lab.feedback.constitution.critics import Critic, ModelCritic
from lab.feedback.constitution.principles import Constitution, read_constitution
from lab.recipes.recipe import Recipe, Stage
from lab.recipes.stack import OnEvent, OnProgress, alone, interruptible, play
from lab.runs import Run
from lab.saving import load_role
from lab.tiny.constitution import CRITIC as RULES
from lab.tiny.constitution import shipped
from lab.worker import default_worker

START = "start"
"""The policy that a stack started from, when it did not make its own helpful model."""
T = TypeVar("T")


@dataclass(frozen=True)
class Ended:
    """How a stack stands.

    stopped  : the stage in which it was stopped; empty when all have finished
    policies : who can be asked, in order: a stage → its role on the base
    habits   : how each principle worked as a label, where the labels were made
    fired    : principle → (rounds that drew it, rounds in which it changed the answer)
    """

    root: Path
    constitution: Constitution
    base: SharedBase
    stopped: str = ""
    policies: dict[str, str] = field(default_factory=dict)
    habits: tuple[labels.Habit, ...] = ()
    fired: dict[str, tuple[int, int]] = field(default_factory=dict)


def run(
    principles: str,
    config: CAIConfig,
    root: Path | str,
    *,
    setup: launch.Setup | None = None,
    start: Path | None = None,
    sources: Sources | None = None,
    edits: Sequence[str] = (),
    device: str = "auto",
    base: SharedBase | None = None,
    on_event: OnEvent = lambda run, event: None,
    on_progress: OnProgress = lambda what, done, of: None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Ended:
    """Plays the stack of these principles (a file, or a name) under `root`, or goes on with it.

    setup : the model to stand on (default: the tiny world's); start : the adapter of a helpful-only model
    edits : `stage.setting=value`, as `lab run --set` takes them; base : a model that is loaded already

    Raises ConstitutionError for principles that cannot be used, ConfigError for settings that differ from those it
    began with, data that are missing, RunError when somebody else plays here, and the error of a run that fails.
    """
    folder = Path(root).absolute()
    constitution = read_constitution(principles, shipped())
    ground = setup or launch.Setup(str(tiny.CHECKPOINT), adapter=Adapter(rank=16, alpha=32), world="tiny")
    source = data.check(sources or Sources(), config, ground.world, start is not None)
    asked = (config.critic if config.sl else "", config.labels if config.rl in ("dpo", "ppo") else "")
    if "rules" in asked or config.rl == "direct":
        if ground.world != "tiny":
            raise ConfigError("The programs know the tiny world alone; let a model be the critic and compare.")
        RULES.check(constitution)
    planned = stages(config, ground.world, str(start.absolute()) if start else "", str(folder))
    book.check(book.edited(Recipe(tuple(planned.values())), edits, list(planned)))
    with alone(folder, "constitution"):
        began = {"principles": constitution.digest, "model": ground.model, "start": str(start or ""),
                 "config": asdict(config), "sources": asdict(source), "edits": list(edits)}  # fmt: skip
        book.remember(folder, began)
        if not (folder / "principles.yaml").exists():
            book.keep(constitution, principles, folder / "principles.yaml")
        own = base or default_worker().submit(lambda: ground.load(device)).result()
        stack = _Stack(folder, constitution, config, ground, source, planned, edits, own, on_event, on_progress, say)
        return stack.play(start)


@dataclass(frozen=True)
class _Stack:
    """The stages of a constitution over a folder."""

    root: Path
    constitution: Constitution
    config: CAIConfig
    setup: launch.Setup
    sources: Sources
    planned: dict[str, Stage]
    edits: Sequence[str]
    base: SharedBase
    on_event: Callable[[str, Event], None]
    on_progress: OnProgress
    say: Callable[[str], None]

    def play(self, start: Path | None) -> Ended:
        """All stages in order, each passed over where it has finished."""
        if start is not None:
            self.load(start, self.start)
        if HELPFUL in self.planned:
            self.once("demonstrations.jsonl", lambda: data.helpful(self.config.seed))
        if CRITIC in self.planned:
            self.once("critic-demonstrations.jsonl", lambda: data.critic(self.config.seed))
        self.once("prompts.jsonl", lambda: data.rl_prompts(self.sources, self.setup.world, self.config.seed))
        if self.config.rl == "direct":
            write_atomic(self.root / "verdict.py", data.VERDICT.encode())
        for name in self.planned:
            if name == "revised":
                self.once("chains.jsonl", self.chains)
                self.once("revisions.jsonl", self.revisions)
            if name in ("reward", RL) and self.config.rl in ("ppo", "dpo"):
                self.once("comparisons.jsonl", self.comparisons)
                self.once("preferences.jsonl", self.preferences)
            if not self.train(name):
                return Ended(self.root, self.constitution, self.base, stopped=name)
        names = [n for n in (HELPFUL, "revised", RL) if n in self.planned]
        policies = ({START: self.start} if start else {}) | {n: self.role(n) for n in names}
        return Ended(self.root, self.constitution, self.base, "", policies, self.habits(), self.fired())

    @property
    def start(self) -> str:
        """The role of the adapter it starts from."""
        return f"{self.root.name}-{START}"

    def once(self, file: str, make: Callable[[], Sequence[Any]]) -> None:
        """Makes an artefact unless it is there."""
        path = self.root / file
        if not path.exists():
            write_jsonl(make(), path)

    def train(self, name: str) -> bool:
        """Plays a stage, unless it has finished, with all before it passed over; False when it was stopped."""
        if (self.root / name / "config.json").is_file() and Run(self.root / name).status().state == "finished":
            return True
        upto = list(self.planned)[: list(self.planned).index(name) + 1]
        recipe = Recipe([self.planned[n] for n in upto], name=self.root.name, model=self.setup.model,
                        bits=self.setup.bits, double_quant=self.setup.double_quant, adapter=self.setup.adapter,
                        seed=self.config.seed, probes=self.setup.probes)  # fmt: skip
        played = play(book.edited(recipe, self.edits, list(self.planned)), self.root, heldout=0, base=self.base,
                      on_event=self.on_event, on_progress=self.on_progress, say=self.say)  # fmt: skip
        return not played.stopped

    def role(self, name: str) -> str:
        """The role of a stage on the base, with a name that no run of another stack has."""
        return self.load(launch.find_role(self.root, name)[0], f"{self.root.name}-{name}-policy")

    def load(self, folder: Path, role: str) -> str:
        """An adapter on the base, in the place of what had this name."""

        def load() -> None:
            if role in self.base.roles:
                self.base.drop(role)
            load_role(self.base, folder, role)

        default_worker().submit(load).result()
        return role

    def helpful(self) -> str:
        """The role that everything starts from."""
        return self.role(HELPFUL) if HELPFUL in self.planned else self.start

    # --- artefacts -----------------------------------------------------------------------------------------------

    def chains(self) -> list[chain.Chain]:
        """Drafts of the helpful model, criticised and revised."""
        config, rows = self.config, data.red_team(self.sources, self.setup.world, self.config.chains, self.config.seed)
        critic, role = self.critic(), self.helpful()
        drafts = self.ask("answering the red team", lambda progress: data.drafts(
            self.base, role, rows, max_new_tokens=config.max_new_tokens, temperature=config.temperature,
            seed=config.seed, on_progress=progress))  # fmt: skip
        if len(drafts) < len(rows):
            self.say(f"chains: left out {len(rows) - len(drafts)} answers that did not end")
        return self.ask("revising", lambda progress: chain.revise(
            drafts, self.constitution, critic, rounds=config.rounds, seed=config.seed,
            on_progress=progress))  # fmt: skip

    def critic(self) -> Critic:
        """Who criticises and revises."""
        config = self.config
        if config.critic == "rules":
            return RULES
        learned = config.critic == "learned"
        role = self.role(CRITIC) if learned else RAW if config.critic == "base" else self.helpful()
        return ModelCritic(self.base, role, fine=config.fine or ("Yes" if learned else ""), seed=config.seed,
                           temperature=0.0 if learned else config.temperature,
                           max_new_tokens=config.max_new_tokens)  # fmt: skip

    def revisions(self) -> list[Any]:
        """What the revised model imitates: the last revisions and helpful demonstrations."""
        made = chain.demonstrations(chain.read_chains(self.root / "chains.jsonl"))
        return [*made, *data.mixed(self.sources, self.setup.world, self.config.mix, self.config.seed)]

    def comparisons(self) -> list[labels.Labelled]:
        """Pairs of answers, labelled by the constitution (with `people`: not labelled yet)."""
        config, role = self.config, self.role("revised") if "revised" in self.planned else self.helpful()
        prompts = data.compared_prompts(self.root / "prompts.jsonl")
        pairs = self.ask("comparing answers", lambda progress: data.pairs(
            self.base, role, prompts, config.comparisons, max_new_tokens=config.max_new_tokens,
            temperature=config.temperature, seed=config.seed, on_progress=progress))  # fmt: skip
        if len(pairs) < config.comparisons:
            self.say(f"comparisons: {len(pairs)} pairs of different answers that ended, and not {config.comparisons}")
        if config.labels == "people":
            return [labels.Labelled(c, (), None) for c in pairs]
        judge_of = self.judge_of()
        return self.ask("labelling", lambda progress: labels.label(
            pairs, self.constitution, judge_of, draw=config.draw, soft=config.soft, chain_of_thought=config.thinks,
            annotator=f"constitution {self.constitution.digest}", seed=config.seed))  # fmt: skip

    def judge_of(self) -> labels.JudgeOf:
        """Principle → who compares two answers by it."""
        if self.config.labels == "rules":
            return lambda p: labels.RuleJudge(RULES, p, self.config.slips, self.config.seed)
        role = RAW if self.config.labels == "base" else self.helpful()
        return data.role_judge(self.base, role, self.setup.world)

    def preferences(self) -> list[Any]:
        """The labels as preferences, mixed with what people say about helpfulness."""
        labelled = labels.read_labelled(self.root / "comparisons.jsonl")
        made = labels.preferences(labelled, data.annotator(self.config, self.setup.world))
        return [*made, *data.people(self.sources)]

    def habits(self) -> tuple[labels.Habit, ...]:
        path = self.root / "comparisons.jsonl"
        if not path.exists() or self.config.labels == "people":
            return ()
        labelled = labels.read_labelled(path)
        truth = data.truth(labelled) if self.setup.world == "tiny" else None
        return tuple(labels.report(labelled, self.constitution, truth))

    def fired(self) -> dict[str, tuple[int, int]]:
        path = self.root / "chains.jsonl"
        return chain.fired(chain.read_chains(path)) if path.exists() else {}

    def ask(self, what: str, fn: Callable[[Callable[[int, int], None]], T]) -> T:
        """`fn(progress)` in the worker thread."""
        return interruptible(fn, lambda done, of: self.on_progress(what, done, of))
