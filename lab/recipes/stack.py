"""Plays a recipe: one stage after the other, each a run under one folder; a stopped stack goes on where it stood.

A stage that has finished is passed over, one that was stopped or killed goes on from its checkpoint, and one that has
not begun is made from what the others left on disk: so the stack ends as one that was never stopped, bit for bit.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from lab import earning, tiny
from lab.base import RAW, SharedBase
from lab.config import ConfigError
from lab.data import write_jsonl
from lab.desk import Desk
from lab.engine import Engine, EngineError
from lab.evaluate.table import Row, compare_roles
from lab.events import Done, Event, Started
from lab.feedback.annotate import compare
from lab.foreground import run_in_foreground
from lab.making import Order, prepare, rows_of
from lab.recipes.book import Book
from lab.recipes.plan import COMPARE, Plan, Planned, trains_policy, trains_reward
from lab.recipes.planner import plan_of
from lab.recipes.recipe import Recipe, Stage
from lab.records import Prompt
from lab.runs import Run, RunError
from lab.session import resume
from lab.worker import default_worker

HELDOUT = 300
"""Prompts on which the policies of the tiny world are measured at the end."""

OnEvent = Callable[[str, Event], None]
OnProgress = Callable[[str, int, int], None]
T = TypeVar("T")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Hears:
    """Who is told what happens: events of runs (in the caller's thread), other long work (in the worker's), words."""

    event: OnEvent = lambda run, event: None
    progress: OnProgress = lambda what, done, of: None
    say: Callable[[str], None] = _tell


@dataclass(frozen=True)
class Played:
    """How a stack stands.

    runs    : stage -> run, of the stages that have begun
    stopped : the stage in which it was stopped; empty when all have finished
    rows    : the policies measured on held-out prompts, where the world knows the truth
    judge   : the reward stage whose scores are the proxies in `rows`; empty for none
    """

    plan: Plan
    root: Path
    runs: dict[str, str] = field(default_factory=dict)
    stopped: str = ""
    rows: list[Row] = field(default_factory=list)
    judge: str = ""


def play(
    recipe: Recipe | Sequence[Stage],
    root: Path | str = "",
    *,
    device: str = "auto",
    heldout: int = HELDOUT,
    base: SharedBase | None = None,
    on_event: OnEvent = Hears.event,
    on_progress: OnProgress = Hears.progress,
    say: Callable[[str], None] = _tell,
) -> Played:
    """Plays a recipe under `root` (default: runs/<its name>), or goes on with it.

    Ctrl-C stops the stage that plays at its next safe point, with a checkpoint. `heldout` prompts measure the policies
    at the end in the tiny world (0: none). `base` is a model that is loaded already.

    Raises RecipeError when the recipe is wrong, or differs from the one that began here in a stage that has begun;
    RunError when somebody else plays here; and the error of a run that fails.
    """
    plan = plan_of(recipe)
    folder = Path(root or f"runs/{plan.ground.name}")
    measures = bool(plan.setup.world) and heldout > 0
    if measures:
        _heldout(heldout)
    with alone(folder, "recipe"):
        book = Book(folder, plan)
        book.check()
        book.write()
        if not measures and all(map(book.finished, plan.stages)):
            return Played(plan, folder, book.runs())
        own = base or default_worker().submit(lambda: plan.setup.load(device)).result()
        with _desk(folder, own, plan.setup.world) as (desk, engine):
            stack = _Stack(book, desk, engine, Hears(on_event, on_progress, say))
            for stage in plan.stages:
                if not book.finished(stage) and not stack.stage(stage):
                    return Played(plan, folder, book.runs(), stopped=stage.name)
            rows, judge = stack.measure(_heldout(heldout)) if measures else ([], "")
            return Played(plan, folder, book.runs(), rows=rows, judge=judge)


def _heldout(n: int) -> list[Prompt]:
    try:
        return [row.prompt for row in tiny.heldout_prompts(n)]
    except ValueError as error:
        raise ConfigError(str(error)) from None


@contextmanager
def alone(root: Path, what: str) -> Iterator[None]:
    """Lets one process at a time play a stack of this kind (recipe, constitution) in a folder; RunError for another."""
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / f".{what}.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"Another process plays a {what} in {root}; stop it there, or choose another folder.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _desk(root: Path, base: SharedBase, world: str) -> Iterator[tuple[Desk, Engine | None]]:
    """The desk around a base, and an engine of its own unless another one serves the folder."""
    desk = Desk(root, base, world)
    try:
        engine = Engine(root, desk.handlers(), worker=default_worker()).start()
    except EngineError:
        engine = None
    try:
        yield desk, engine
    finally:
        if engine:
            engine.close()


class _Stack:
    """The stages of a book played on a desk."""

    def __init__(self, book: Book, desk: Desk, engine: Engine | None, hears: Hears) -> None:
        self.book, self.desk, self.engine, self.hears = book, desk, engine, hears
        self.root, self.plan = book.root, book.plan

    def stage(self, stage: Planned) -> bool:
        """Plays a stage, from where it stands, to its end; False when it was stopped before."""
        if stage.method == COMPARE:
            self.compare(stage)
            return True
        if not self.book.begun(stage.name):
            self.make(stage)
        return self.play(self.book.run(stage)).outcome == "finished"

    def make(self, stage: Planned) -> None:
        """The run of a stage, from its data and from what earlier stages left."""
        rewards = ((weight, self.last(what)) for weight, what in map(earning.parse, stage.rewards))
        order = Order(
            stage.method,
            stage.config,
            self.data(stage),
            self.plan.setup.adapter,
            init="" if stage.init == RAW else self.last(stage.init),
            rewards=tuple(f"{weight:g}*{what}" for weight, what in rewards),
            name=stage.name,
        )
        ready = prepare(self.root, order, self.plan.setup)
        for sentence in ready.left_out():
            self.hears.say(f"{stage.name}: {sentence}")
        ready.make(self.root)
        self.book.write()

    def last(self, what: str) -> str:
        """A stage's run at its last step; what is no stage stands for itself."""
        stage = next((s for s in self.plan.stages if s.name == what), None)
        return f"{what}@{self.book.run(stage).latest_checkpoint()}" if stage else what

    def data(self, stage: Planned) -> str:
        """The data of a stage, as a path where another stage gave them."""
        compared = any(s.name == stage.data and s.method == COMPARE for s in self.plan.stages)
        return str(self.book.pairs(stage.data).absolute()) if compared else stage.data

    def play(self, run: Run) -> Done:
        """A run from its latest checkpoint to its end, or to where it is stopped."""
        handlers = self.desk.handlers()
        session = self.engine.open(run.id) if self.engine else resume(run, handlers.build, worker=default_worker())
        self.hears.event(run.id, Started(run.manifest.method, session.state.step, session.state.total))
        done = run_in_foreground(session, lambda event: self.hears.event(run.id, event), self.hears.say)
        if self.engine is None:
            default_worker().submit(lambda: handlers.release(session.state)).result()
        return done

    def compare(self, stage: Planned) -> None:
        """Pairs of answers of a policy, judged, on disk as a whole once all are there."""
        config = stage.config
        rows = rows_of(self.root, self.data(stage), stage.kind, config.seed, self.plan.setup.world).some()
        prompts = [row.prompt for row in rows]
        found = self.ask("comparing answers", lambda progress: compare(
            self.desk.base, self.desk.role(stage.init), prompts, tiny.ANNOTATORS[config.annotator], config.n,
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=config.seed,
            per_prompt=config.per_prompt, on_progress=progress))  # fmt: skip
        if not found.preferences:
            raise RunError(f"{stage.name}: {stage.init} gave no two different answers that ended to any of "
                           f"{len(prompts)} prompts; let it learn for longer, or raise the temperature.")  # fmt: skip
        if len(found.preferences) < config.n:
            self.hears.say(f"{stage.name} gives {len(found.preferences)} pairs, and not {config.n}: {found.equal} more "
                           f"were of equal answers, {found.unended} had one that did not end.")  # fmt: skip
        write_jsonl(found.preferences, self.book.pairs(stage.name))

    def measure(self, prompts: Sequence[Prompt]) -> tuple[list[Row], str]:
        """The policies on held-out prompts, the first one as the reference and the opponent; and whose the proxy is."""
        policies = [s for s in self.plan.stages if trains_policy(s.method)]
        judges = [s.name for s in self.plan.stages if trains_reward(s.method)]
        if not policies:
            return [], ""

        def rows(progress: Callable[[int, int], None]) -> list[Row]:
            roles = {RAW: RAW} | {s.name: self.desk.role(s.name) for s in policies}
            judge = self.desk.role(judges[-1]) if judges else None
            return compare_roles(
                self.desk.base, prompts, roles, tiny.gold, reward=judge, reference=roles[policies[0].name],
                against=policies[0].name, max_new_tokens=tiny.MAX_NEW_TOKENS,
                temperature=getattr(policies[-1].config, "temperature", 1.0), seed=self.plan.ground.seed + 1,
                on_progress=progress)  # fmt: skip

        return self.ask("measuring on held-out prompts", rows), judges[-1] if judges else ""

    def ask(self, what: str, fn: Callable[[Callable[[int, int], None]], T]) -> T:
        """`fn(progress)` in the worker thread."""
        return interruptible(fn, lambda done, of: self.hears.progress(what, done, of))


def interruptible(fn: Callable[[Callable[[int, int], None]], T], on_progress: Callable[[int, int], None]) -> T:
    """`fn(progress)` in the worker thread; Ctrl-C ends it the next time it tells how far it is."""
    left = threading.Event()

    def progress(done: int, of: int) -> None:
        if left.is_set():
            raise KeyboardInterrupt
        on_progress(done, of)

    future = default_worker().submit(lambda: fn(progress))
    try:
        return future.result()
    except KeyboardInterrupt:
        left.set()
        wait([future])
        raise
