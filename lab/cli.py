"""`lab …`: every method, sampling, the list of runs, the Studio and the demonstration, from the terminal.

Flags of a method are its config's fields. Heavy libraries are imported when a command needs them.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import click

from lab.commands import COMMANDS, load, local_model, play, root_option, world
from lab.config import CONFIGS, ConfigError, settings
from lab.constitution_commands import constitution, redteam
from lab.fitting import memory
from lab.jury import judge_pairs
from lab.labelling import label
from lab.machine import limit_threads
from lab.measuring import best_of, pairs

PORT = 7860
KNOWN = ("ConfigError", "ModelError", "DataError", "ChatError", "RunError", "DiskError", "EngineError", "RoleError",
         "AdapterError", "SampleError", "PromptError", "RewardError", "NonFiniteError", "StudioError",
         "VerifierError", "RecipeError", "PoolError", "PairingError", "JudgeError", "ConstitutionError",
         "CriticError", "LabelError", "QueueError", "ShapeError", "RefusedError", "LoginError")  # fmt: skip
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


for command in (*COMMANDS, best_of, pairs, judge_pairs, constitution, redteam, label, memory):
    main.add_command(command)


@main.command()
@click.argument("names", nargs=-1)
def methods(names: tuple[str, ...]) -> None:
    """What there is to choose from; with NAMES (dpo, ipo, dapo, …): when to use each, its equation, its source."""
    from rich.console import Console

    from lab.catalogue import pages
    from lab.terminal import method_page, methods_table

    every = list(pages())
    unknown = [name for name in names if name not in {p.name for p in every}]
    if unknown:
        raise ConfigError(
            f"There is no method {unknown[0]!r}; there are {', '.join(dict.fromkeys(p.name for p in every))}."
        )
    console = Console()
    if not names:
        console.print(methods_table(every))
    for page in every:
        if page.name in names:
            console.print(method_page(page))


# --- runs ------------------------------------------------------------------------------------------


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
    play(found, setup, load(setup, device))


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
    play(made, setup, load(setup, device))


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
    local = local_model(model)
    setup = setups[0] if setups else launch.Setup(local, world=world(local))
    desk = Desk(root, setup.load(device), setup.world)
    return desk.sample(SampleRequest(prompt, names, temperature, max_new_tokens, seed))


@main.command("run")
@click.argument("recipe", default="")
@click.option("--list", "show_list", is_flag=True, help="list the recipes that come with the lab")
@click.option("--only-check", is_flag=True, help="check the recipe and print its plan; play nothing")
@click.option("--set", "edits", multiple=True, metavar="STAGE.SETTING=VALUE", help="a word to change; may be repeated")
@click.option("--heldout", type=click.IntRange(min=0), default=300, show_default=True,
              help="prompts on which the tiny world's policies are measured at the end (0: none)")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@click.option("--json", "as_json", is_flag=True, help="print the figures as one JSON object last")
@click.option("--runs", "root", default="", help="the folder of the stack (default: runs/ and the recipe's name)")
def run_recipe(recipe: str, show_list: bool, only_check: bool, edits: tuple[str, ...], heldout: int, device: str,
               as_json: bool, root: str) -> None:  # fmt: skip
    """A stack of stages from a recipe: a file, or a name that --list shows. Stopped, it goes on where it stood."""
    from lab.playbill import show_run, show_shipped

    if show_list:
        show_shipped()
    elif not recipe:
        raise ConfigError("No recipe is named: give a file, or a name that `lab run --list` shows.")
    else:
        show_run(recipe, root, edits=edits, device=device, heldout=heldout, only_check=only_check, as_json=as_json)


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
        local = local_model(model)
        return launch.Setup(local, bits, world=world(local))
    found = runs(root)
    return launch.setup_of(Run(found[-1].path)) if found else launch.Setup(str(tiny.CHECKPOINT), 4, world="tiny")


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def studio(words: tuple[str, ...]) -> None:
    """The Studio in a browser, with an engine behind it; for a room: --expose --code <workshop code>."""
    from apps.studio.__main__ import main as serve

    serve.main(list(words), prog_name="lab studio", default_map={"engine": True})


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
