"""The commands that make runs: `lab sft`, `lab reward`, `lab ppo`, `lab dpo`, `lab kto`, `lab grpo`.

Flags of a method are its config's fields. Heavy libraries are imported when a command needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lab.config import (
    Adapter,
    GroupConfig,
    KTOConfig,
    OnlineConfig,
    PPOConfig,
    PreferenceConfig,
    ProcessConfig,
    RewardConfig,
    SelectionConfig,
    Setting,
    SFTConfig,
    settings,
)
from lab.machine import limit_threads

root_option = click.option("--runs", "root", default="runs", show_default=True, help="the folder that holds the runs")
"""Where the runs are."""


def flags(config: type) -> Callable[[Callable], Callable]:
    """One flag for each setting of a config class, with its meaning, unit and default."""

    def add(command: Callable) -> Callable:
        for s in reversed(list(settings(config))):
            command = _flag(s)(command)
        return command

    return add


def _flag(s: Setting) -> Callable[[Callable], Callable]:
    name = s.name.replace("_", "-")
    text = s.help + (f" [{s.unit}]" if s.unit else "") + (" (live)" if s.live else "")
    if s.kind is bool:
        return click.option(f"--{name}/--no-{name}", s.name, default=s.default, show_default=not s.optional, help=text)
    kind: Any = click.Choice(s.choices) if s.choices else s.kind
    return click.option(f"--{name}", s.name, type=kind, default=s.default, show_default=True, help=text)


def pick(config: type, given: dict[str, Any]) -> Any:
    """The config out of a command's arguments."""
    return config(**{s.name: given[s.name] for s in settings(config)})


def shared(data: str) -> Callable[[Callable], Callable]:
    """Flags of every command that makes a run; `data` says what it learns from."""
    options = [
        click.option(
            "--model", default="", help="folder or Hub id of the base model, or tiny (with --init: that run's)"
        ),
        click.option("--data", required=True, help=data),
        click.option("--init", default="", help="a run, run@step or adapter folder to start from"),
        click.option("--out", default="", help="the run's name (default: method and number)"),
        root_option,
        click.option(
            "--bits",
            type=click.Choice(["4", "8", "16", "32"]),
            default="4",
            show_default=True,
            help="how the base is kept: NF4, LLM.int8, 16 bits or as it is",
        ),
        click.option("--double-quant", is_flag=True, help="quantise the scales of NF4 too"),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n"),
        click.option("--probe", "probes", multiple=True, help="a prompt answered at intervals; may be repeated"),
        flags(Adapter),
    ]

    def add(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _rewarded(required: bool) -> Callable[[Callable], Callable]:
    return click.option(
        "--reward",
        "rewards",
        multiple=True,
        required=required,
        metavar="[WEIGHT*]WHAT",
        help="what a completion earns: a reward run, run@step or adapter folder, a verifier such as number or "
        "regex?pattern=^yes, path/to/file.py:function, model:folder-or-id, or score:run, a role's expected score, 1 "
        "to 10 (score:base: the base's); may be repeated",
    )


rewarded = _rewarded(required=True)
"""Flag of the methods that learn from rewards."""


@click.command()
@shared("demonstrations: .jsonl, .json, .parquet, a folder, or a Hub id")
@flags(SFTConfig)
def sft(**given: Any) -> None:
    """Supervised fine-tuning: imitate demonstrations."""
    _train("sft", SFTConfig, given)


@click.command()
@shared("preferences: prompt, chosen, rejected; or rankings: prompt, completions, ranks; or labels:FILE, what people "
        "said in a label store")  # fmt: skip
@flags(RewardConfig)
def reward(**given: Any) -> None:
    """Reward model: learn a score from preferences."""
    _train("reward", RewardConfig, given)


@click.command()
@shared("solutions: prompt, completions (the steps), labels")
@flags(ProcessConfig)
def process(**given: Any) -> None:
    """Process reward model: learn which steps of a solution are right."""
    _train("process", ProcessConfig, given)


@click.command()
@shared("prompts: a column `prompt` or `messages`; other columns are for the rewards")
@rewarded
@flags(PPOConfig)
def ppo(**given: Any) -> None:
    """Proximal policy optimisation: earn the reward, stay near the reference."""
    _train("ppo", PPOConfig, given)


@click.command()
@shared("preferences: prompt, chosen, rejected; or labels:FILE, what people said in a label store")
@flags(PreferenceConfig)
def dpo(**given: Any) -> None:
    """Direct preference optimisation and its family: learn from pairs, without a reward model."""
    _train("dpo", PreferenceConfig, given)


@click.command()
@shared("ratings: prompt, completion, label (true or false); or preferences, taken apart; or labels:FILE, what people "
        "said in a label store")  # fmt: skip
@flags(KTOConfig)
def kto(**given: Any) -> None:
    """Learning from thumbs up and thumbs down, without pairs (KTO, BCO)."""
    _train("kto", KTOConfig, given)


@click.command()
@shared("prompts: a column `prompt` or `messages`; other columns are for the rewards")
@rewarded
@flags(GroupConfig)
def grpo(**given: Any) -> None:
    """Group-relative policy optimisation and its family: completions of a prompt compared with each other."""
    _train("grpo", GroupConfig, given)


@click.command()
@shared("prompts: a column `prompt` or `messages`; other columns are for the rewards")
@_rewarded(required=False)
@click.option(
    "--ask",
    "asks",
    default="",
    metavar="JUDGE|labels:STORE",
    help="with --judge asked, who answers: a judge as `lab judge` takes it, or people, through the label store of "
    "this file or URL",
)
@flags(OnlineConfig)
def online(**given: Any) -> None:
    """Online preference learning: two fresh completions of every prompt, one preferred (online DPO, XPO, Nash-MD)."""
    if given["judge"] == "asked" and not given["asks"]:
        raise click.UsageError("Nobody would answer; give --ask a judge, or labels:FILE for people.")
    _train("online", OnlineConfig, given)


@click.command()
@shared("prompts: a column `prompt` or `messages`; other columns are for the rewards")
@rewarded
@flags(SelectionConfig)
def raft(**given: Any) -> None:
    """Rejection sampling: sample many, keep the good ones, imitate them (RAFT)."""
    _train("raft", SelectionConfig, given)


COMMANDS = (sft, reward, process, ppo, dpo, kto, grpo, online, raft)
"""Every command that makes a run."""


def _train(method: str, config: type, given: dict[str, Any]) -> None:
    """Makes a run from a command's arguments and plays it here."""
    from lab import making

    order = making.Order(method, pick(config, given), given["data"], pick(Adapter, given), given["init"],
                         tuple(given.get("rewards", ())), given["out"], tuple(given["probes"]),
                         given.get("asks", ""))  # fmt: skip
    ready = making.prepare(given["root"], order, ground(given))
    base = load(ready.setup, given["device"])
    run = ready.make(given["root"])
    for sentence in ready.left_out():
        click.echo(sentence, err=True)
    play(run, ready.setup, base)


def ground(given: dict[str, Any]) -> Any:
    """The model that --model names with its bits and its world, or None."""
    from lab import launch

    local = local_model(given["model"])
    return (
        launch.Setup(local, int(given["bits"]), given.get("double_quant", False), world=world(local)) if local else None
    )


def local_model(model: str) -> str:
    """The folder of a model that is here, as a whole path; `tiny` is the tiny world's; else the name as it is."""
    if model == "tiny":
        from lab import tiny

        return str(tiny.CHECKPOINT)
    return str(Path(model).absolute()) if model and Path(model).exists() else model


def world(model: str) -> str:
    """The name of the world a model is from: tiny, or none."""
    from lab import tiny

    return "tiny" if Path(model) == tiny.CHECKPOINT else ""


def load(setup: Any, device: str) -> Any:
    """The base a setup names, loaded in the worker thread, with what people should know about its tokenizer."""
    from rich.console import Console

    from lab.worker import default_worker

    limit_threads()
    console = Console(stderr=True)
    with console.status("loading the model"):
        base = default_worker().submit(lambda: setup.load(device)).result()
    for note in base.chat.notes:
        console.print(f"[dim]{note}")
    return base


def play(run: Any, setup: Any, base: Any) -> None:
    """Plays a run in this terminal, through an engine of its own unless another one serves the folder."""
    from rich.console import Console

    from lab import launch
    from lab.desk import Desk
    from lab.engine import Engine, EngineError
    from lab.events import Started
    from lab.foreground import run_in_foreground
    from lab.session import resume
    from lab.terminal import View
    from lab.worker import default_worker

    console = Console(stderr=True)
    desk = Desk(run.path.parent, base, setup.world)
    try:
        engine = Engine(run.path.parent, desk.handlers(), worker=default_worker()).start()
    except EngineError:
        engine = None
    session = engine.open(run.id) if engine else resume(run, lambda r: launch.build(base, r))
    if engine is None:
        desk.attend(session)
    try:
        with View(console) as view:
            view.event(run.id, Started(run.manifest.method, session.state.step, session.state.total))
            done = run_in_foreground(session, lambda event: view.event(run.id, event))
        console.print(view.invariants())
        console.print(f"{run.id} {done.outcome} at step {done.step}; look at it with: lab show {run.id}")
    finally:
        if engine:
            engine.close()
