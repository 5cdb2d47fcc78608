"""`lab …`: every method, sampling, the list of runs, the Studio and the demonstration, from the terminal.

Flags of a method are its config's fields. Heavy libraries are imported when a command needs them.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from lab.config import CONFIGS, Adapter, ConfigError, PPOConfig, RewardConfig, Setting, SFTConfig, settings
from lab.machine import limit_threads

PORT = 7860
KNOWN = ("ConfigError", "ModelError", "DataError", "ChatError", "RunError", "DiskError", "EngineError", "RoleError",
         "AdapterError", "SampleError", "PromptError", "RewardError", "NonFiniteError", "StudioError")  # fmt: skip
"""Errors that carry their own sentence: shown without a traceback."""


class Lab(click.Group):
    """Shows the lab's own errors as one sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if type(error).__name__ in KNOWN and type(error).__module__.startswith(("lab.", "apps.")):
                raise click.ClickException(str(error)) from error
            raise


@click.group(cls=Lab, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="rlhf-lab")
def main() -> None:
    """Learn, try and study how language models are trained from human preferences."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")


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
        return click.option(f"--{name}/--no-{name}", s.name, default=s.default, show_default=True, help=text)
    kind: Any = click.Choice(s.choices) if s.choices else s.kind
    return click.option(f"--{name}", s.name, type=kind, default=s.default, show_default=True, help=text)


def pick(config: type, given: dict[str, Any]) -> Any:
    """The config out of a command's arguments."""
    return config(**{s.name: given[s.name] for s in settings(config)})


def shared(command: Callable) -> Callable:
    """Flags of every command that makes a run."""
    options = [
        click.option("--out", default="", help="the run's name (default: method and number)"),
        click.option("--runs", "root", default="runs", show_default=True, help="the folder that holds the runs"),
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
    ]
    for option in reversed(options):
        command = option(command)
    return command


# --- methods ---------------------------------------------------------------------------------------


@main.command()
@click.option("--model", default="", help="folder or Hub id of the base model (with --init: that run's)")
@click.option("--data", required=True, help="demonstrations: .jsonl, .json, .parquet, a folder, or a Hub id")
@click.option("--init", default="", help="a run, run@step or adapter folder to go on from")
@shared
@flags(Adapter)
@flags(SFTConfig)
def sft(**given: Any) -> None:
    """Supervised fine-tuning: imitate demonstrations."""
    _train("sft", SFTConfig, given, {"sft": given["init"]} if given["init"] else {})


@main.command()
@click.option("--model", default="", help="folder or Hub id of the base model (with --init: that run's)")
@click.option("--data", required=True, help="preferences: prompt, chosen, rejected")
@click.option("--init", default="", help="a run, run@step or adapter folder to start from, usually the SFT model")
@shared
@flags(Adapter)
@flags(RewardConfig)
def reward(**given: Any) -> None:
    """Reward model: learn a score from preferences."""
    _train("reward", RewardConfig, given, {"reward": given["init"]} if given["init"] else {})


@main.command()
@click.option("--model", default="", help="folder or Hub id of the base model (with --init: that run's)")
@click.option("--data", required=True, help="prompts: a column `prompt` or `messages`")
@click.option("--init", default="", help="a run, run@step or adapter folder: the policy's start and its reference")
@click.option(
    "--reward",
    "reward_source",
    required=True,
    help="a reward run, run@step or adapter folder, or path/to/file.py:function",
)
@shared
@flags(Adapter)
@flags(PPOConfig)
def ppo(**given: Any) -> None:
    """Proximal policy optimisation: earn the reward, stay near the reference."""
    starts = {"policy": given["init"]} if given["init"] else {}
    if ".py:" in given["reward_source"]:
        given["function"] = str(Path(given["reward_source"]).absolute())
    else:
        starts["reward"] = given["reward_source"]
    _train("ppo", PPOConfig, given, starts)


def _train(method: str, config: type, given: dict[str, Any], starts: dict[str, str]) -> None:
    """Makes a run from a command's arguments and plays it here."""
    from lab import launch
    from lab.data import read

    settings_, adapter = pick(config, given), pick(Adapter, given)
    rows = read(_source(given["data"]), launch.KINDS[method])
    found = {part: launch.find_role(given["root"], text) for part, text in starts.items()}
    setup = _setup(given, adapter, [where for _, where in found.values()], rows.some())
    if setup.function:
        launch.reward_function(setup.function)
    base = _load(setup, given["device"])
    run = launch.new_run(given["root"], method, settings_, setup, rows.some(),
                         {part: folder for part, (folder, _) in found.items()}, name=given["out"],
                         parents={part: where for part, (_, where) in found.items()})  # fmt: skip
    for event in rows.events():
        click.echo(f"left out {event.count}: {event.reason} ({'; '.join(event.rows)})", err=True)
    _play(run, setup, base)


def _source(data: str) -> str:
    """A local path must exist; anything else is taken for a Hub id."""
    if not Path(data).exists() and (Path(data).suffix or data.startswith((".", "/", "~"))):
        raise ConfigError(f"There is no file or folder {data}.")
    return data


def _setup(given: dict[str, Any], adapter: Adapter, parents: Sequence[dict[str, Any]], records: Sequence[Any]) -> Any:
    """What the run is made from: its parents' model unless --model names one."""
    from lab import launch
    from lab.records import prompt_text
    from lab.runs import Run

    runs = [Run.open(Path(given["root"]) / p["run"]) for p in parents if "run" in p]
    inherited = launch.setup_of(runs[0]) if runs else None
    if not given["model"] and inherited is None:
        raise ConfigError("No base model is named: give --model a folder or Hub id, or --init a run that has one.")
    probes = tuple(given["probes"]) or (inherited.probes if inherited else ()) or tuple(
        dict.fromkeys(prompt_text(r.prompt) for r in records[:200]))[:6]  # fmt: skip
    if given["model"] or inherited is None:
        model = given["model"]
        local = str(Path(model).absolute()) if Path(model).exists() else model
        return launch.Setup(local, int(given["bits"]), given["double_quant"], adapter, _world(local),
                            given.get("function", ""), probes)  # fmt: skip
    return launch.Setup(inherited.model, inherited.bits, inherited.double_quant, adapter, inherited.world,
                        given.get("function", ""), probes)  # fmt: skip


def _world(model: str) -> str:
    from lab import tiny

    return "tiny" if Path(model) == tiny.CHECKPOINT else ""


def _load(setup: Any, device: str) -> Any:
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


def _play(run: Any, setup: Any, base: Any) -> None:
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
    try:
        with View(console) as view:
            view.event(run.id, Started(run.manifest.method, session.state.step, session.state.total))
            done = run_in_foreground(session, lambda event: view.event(run.id, event))
        console.print(view.invariants())
        console.print(f"{run.id} {done.outcome} at step {done.step}; look at it with: lab show {run.id}")
    finally:
        if engine:
            engine.close()


# --- runs ------------------------------------------------------------------------------------------

root_option = click.option("--runs", "root", default="runs", show_default=True, help="the folder that holds the runs")


@main.command()
@click.argument("run")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@root_option
def resume(run: str, device: str, root: str) -> None:
    """Goes on with a stopped, paused or killed run from its latest checkpoint."""
    from lab import launch

    found = _open(root, run)
    if found.status().state == "finished":
        raise ConfigError(f"{found.id} has finished; `lab branch {found.id} --step N` goes on from one of its steps.")
    setup = launch.setup_of(found)
    _play(found, setup, _load(setup, device))


@main.command()
@click.argument("run")
@click.option("--step", type=int, default=None, help="the saved step to start from (default: the latest)")
@click.option("--set", "edits", multiple=True, metavar="NAME=VALUE", help="a setting to change; may be repeated")
@click.option("--out", default="", help="the new run's name")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@root_option
def branch(run: str, step: int | None, edits: tuple[str, ...], out: str, device: str, root: str) -> None:
    """A new run from a saved step of another, with some settings changed; plays it."""
    from lab import launch

    found = _open(root, run)
    at = found.latest_checkpoint() if step is None else step
    if at is None:
        raise ConfigError(f"{found.id} has no checkpoint yet; let it reach its first one.")
    changes = dict(_edit(found.manifest.method, text) for text in edits)
    made = found.fork(at, found.config(), edits=changes, name=out)
    click.echo(f"{made.id} starts from step {at} of {found.id}", err=True)
    setup = launch.setup_of(made)
    _play(made, setup, _load(setup, device))


def _edit(method: str, text: str) -> tuple[str, Any]:
    """NAME=VALUE as the setting's own type."""
    name, _, value = text.partition("=")
    known = {s.name: s for s in settings(CONFIGS[method])}
    key = name.strip().replace("-", "_")
    if key not in known:
        raise ConfigError(f"{name!r} is not a setting of {method}; it has {', '.join(known)}.")
    try:
        return key, value == "true" if known[key].kind is bool else known[key].kind(value)
    except ValueError:
        raise ConfigError(f"{value!r} is no value for {name}, which is a {known[key].kind.__name__}.") from None


def _open(root: str, run: str) -> Any:
    from lab.runs import Run

    return Run.open(Path(root) / run if (Path(root) / run / "config.json").is_file() else Path(run))


@main.command("runs")
@root_option
def list_runs(root: str) -> None:
    """What ran, oldest first."""
    from rich.console import Console

    from lab.runs import runs
    from lab.terminal import runs_table

    found = runs(root)
    if not found:
        click.echo(f"There are no runs in {root} yet; `lab demo` makes three.")
        return
    Console().print(runs_table(found))


@main.command()
@click.argument("run")
@root_option
def show(run: str, root: str) -> None:
    """A run's state, settings, invariants, curves and latest answers."""
    from rich.console import Console

    from lab.terminal import run_report

    console = Console()
    console.print(run_report(_open(root, run), console.width))


@main.command()
@click.argument("prompt")
@click.option("--roles", default="base", show_default=True, help="base, runs, run@step; separated by commas")
@click.option("--model", default="", help="folder or Hub id, where no run says which")
@click.option("--temperature", default=1.0, show_default=True, help="0 takes the most probable token")
@click.option("--max-new-tokens", default=64, show_default=True, help="longest answer [tokens]")
@click.option("--seed", default=0, show_default=True, help="of the noise, the same for every role")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object instead")
@root_option
def sample(prompt: str, roles: str, model: str, temperature: float, max_new_tokens: int, seed: int, device: str,
           as_json: bool, root: str) -> None:  # fmt: skip
    """One prompt answered by several roles side by side, with the same noise."""
    from rich.console import Console
    from rich.live import Live

    from lab.terminal import columns

    names = tuple(dict.fromkeys(r.strip() for r in roles.split(",") if r.strip()))
    rows = iter(_ask(root, names, model, device, prompt, temperature, max_new_tokens, seed))
    begun = list(itertools.islice(rows, 1))  # what is wrong with the request shows here, before there is a table
    answered: dict[str, dict[str, Any]] = {name: {} for name in names}
    console = Console()
    with Live(columns(answered), console=console, refresh_per_second=12, transient=as_json) as live:
        for row in itertools.chain(begun, rows):
            answered[row["role"]] |= row
            if not as_json:
                live.update(columns(answered))
    if as_json:
        click.echo(json.dumps({"prompt": prompt, "answers": answered}, ensure_ascii=False))


def _ask(
    root: str,
    names: tuple[str, ...],
    model: str,
    device: str,
    prompt: str,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> Any:
    """The rows of an answer: from the engine that serves these runs, or from a model loaded for the purpose."""
    from lab.client import EngineClient, find_engine

    if find_engine(root) is not None and not model:
        return EngineClient(root).sample(
            prompt, names, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed
        )
    from lab import launch
    from lab.desk import Desk
    from lab.engine import SampleRequest
    from lab.runs import Run

    limit_threads()
    found = [Run(Path(root) / n.partition("@")[0]) for n in names]
    setups = [launch.setup_of(r) for r in found if (r.path / "config.json").is_file()]
    if not setups and not model:
        raise ConfigError("Nothing says which model to load: name a run among --roles, or give --model.")
    local = str(Path(model).absolute()) if model and Path(model).exists() else model
    setup = setups[0] if setups else launch.Setup(local, world=_world(local))
    desk = Desk(root, setup.load(device), setup.world)
    return desk.sample(SampleRequest(prompt, names, temperature, max_new_tokens, seed))


# --- the Studio, the engine, the demonstration -----------------------------------------------------


@main.command()
@click.option("--model", default="", help="folder or Hub id (default: the newest run's, else the tiny world)")
@click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="4", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@click.option("--port", default=0, show_default=True, help="of the local channel; 0 takes a free one")
@click.option("--stop", is_flag=True, help="stop the engine that serves these runs, at a safe point")
@root_option
def engine(model: str, bits: str, device: str, port: int, stop: bool, root: str) -> None:
    """The process that owns the model and the runs; the Studio talks to it."""
    from lab.client import EngineClient

    if stop:
        EngineClient(root).shutdown()
        click.echo("The engine stops its runs at their next safe points, and then itself.")
        return
    from lab.desk import Desk
    from lab.engine import serve
    from lab.worker import default_worker

    limit_threads()
    setup = _engine_setup(root, model, int(bits))
    base = default_worker().submit(lambda: setup.load(device)).result()
    serve(root, Desk(root, base, setup.world).handlers(), port=port, worker=default_worker())


def _engine_setup(root: str, model: str, bits: int) -> Any:
    from lab import launch, tiny
    from lab.runs import Run, runs

    if model:
        local = str(Path(model).absolute()) if Path(model).exists() else model
        return launch.Setup(local, bits, world=_world(local))
    found = runs(root)
    return launch.setup_of(Run(found[-1].path)) if found else launch.Setup(str(tiny.CHECKPOINT), 4, world="tiny")


@main.command()
@click.option("--port", default=PORT, show_default=True, help="of the page")
@click.option("--no-engine", is_flag=True, help="only look: start no engine")
@root_option
def studio(port: int, no_engine: bool, root: str) -> None:
    """The Studio in a browser, with an engine behind it that outlives it."""
    from lab.client import start_detached

    if not no_engine:
        start_detached(root, [sys.executable, "-m", "lab", "engine", "--runs", root])
    from apps.studio.app import serve

    serve(root, "127.0.0.1", port)


@main.command()
@click.option("--no-studio", is_flag=True, help="no browser page; exit at the end")
@click.option("--json", "as_json", is_flag=True, help="print the table as one JSON object last")
@click.option("--kl", default=None, type=float, help="weight of the KL penalty [reward per nat]; 0 over-optimises")
@click.option("--steps", default=None, type=int, help="PPO steps")
@click.option("--seed", default=0, show_default=True, help="of everything")
@click.option("--annotator", default=None, help="who judges the answers: expert, crowd, rushed, agreeable, …")
@click.option("--port", default=PORT, show_default=True, help="of the page")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@click.option("--runs", "root", default="", help="the folder for the runs (default: a new one under runs/)")
def demo(no_studio: bool, as_json: bool, kl: float | None, steps: int | None, seed: int, annotator: str | None,
         port: int, device: str, root: str) -> None:  # fmt: skip
    """The whole path in the tiny world: base, SFT, reward model, PPO, watched live."""
    from lab.showcase import show_demo

    show_demo(root, studio=not no_studio, as_json=as_json, kl=kl, steps=steps, seed=seed, annotator=annotator,
              port=port, device=device)  # fmt: skip
