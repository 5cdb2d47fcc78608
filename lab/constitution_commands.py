"""`lab constitution …` and `lab redteam`: principles checked, played, held against people; models attacked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lab.cai.settings import CAIConfig
from lab.commands import flags, ground, local_model, pick, root_option, world

principles_option = click.option("--principles", default="tiny", show_default=True,
                                 help="a YAML file, or one that comes with the lab: general, tiny")  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="print one JSON object instead")


@click.group()
def constitution() -> None:
    """Learning from principles: Constitutional AI, and tests of a constitution."""


@constitution.command("show")
@click.argument("principles", default="tiny")
@json_option
def show(principles: str, as_json: bool) -> None:
    """Checks a constitution and prints it, with the digest its version is known by."""
    from rich.console import Console

    from lab.constitution_tables import constitution_table

    found = _read(principles)
    if as_json:
        click.echo(json.dumps(asdict(found) | {"digest": found.digest}, ensure_ascii=False))
        return
    Console().print(constitution_table(found))


@constitution.command("run")
@principles_option
@click.option("--init", default="", help="a run, run@step or adapter folder that helps with everything asked (in the "
              "tiny world the stack makes one)")  # fmt: skip
@click.option("--model", default="", help="folder or Hub id of the base, where --init does not say")
@click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="4", show_default=True)
@click.option("--out", default="constitution", show_default=True, help="the folder of the stack, under --runs")
@click.option("--red-team", default="", help="prompts that ask for harm (default: the tiny world's)")
@click.option("--helpful", default="", help="demonstrations that are mixed with the revisions")
@click.option("--prompts", default="", help="further prompts, to be compared and for RL")
@click.option("--people", default="", help="people's preferences about helpfulness, mixed with the labels")
@click.option("--set", "edits", multiple=True, metavar="STAGE.SETTING=VALUE", help="a setting of a stage; may be "
              "repeated")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@json_option
@root_option
@flags(CAIConfig)
def run(**given: Any) -> None:
    """Constitutional AI as a stack of runs: revisions, SFT, labels, DPO or PPO. Stopped, it goes on where it stood."""
    from rich.console import Console

    from lab import launch
    from lab.cai import play
    from lab.cai.measure import measure
    from lab.cai.settings import Sources
    from lab.config import ConfigError
    from lab.constitution_tables import ended_json, show_ended
    from lab.machine import limit_threads
    from lab.terminal import View
    from lab.worker import default_worker

    limit_threads()
    config, root = pick(CAIConfig, given), Path(given["root"])
    setup, start = ground(given), None
    if given["init"]:
        start, _ = launch.find_role(root, given["init"])
        setup = setup or _setup_of(root, given["init"])
        if setup is None:
            raise ConfigError("Nothing says which model the adapter is of: give --model a folder or Hub id.")
    sources = Sources(given["red_team"], given["helpful"], given["prompts"], given["people"])
    console = Console(stderr=given["as_json"])
    with View(console) as view:
        ended = play.run(given["principles"], config, root / given["out"], setup=setup, start=start, sources=sources,
                         edits=given["edits"], device=given["device"], on_event=view.event, on_progress=view.work,
                         say=lambda text: view.progress.console.print(text, style="dim", markup=False))  # fmt: skip
        in_tiny = not ended.stopped and world(ended.base.source) == "tiny"
        rows = default_worker().submit(lambda: measure(ended.base, ended.policies, seed=config.seed,
                                                       on_progress=view.work)).result() if in_tiny else []  # fmt: skip
    if ended.stopped:
        console.print(f"stopped in the stage {ended.stopped}; the same command goes on from there", markup=False)
        return
    show_ended(console, ended, rows)
    if given["as_json"]:
        click.echo(json.dumps(ended_json(ended, rows), ensure_ascii=False))


@constitution.command("test")
@principles_option
@click.option("--against", default="", help="the version to compare with")
@click.option("--labels", required=True, help="people's judgements: prompt, chosen, rejected; perhaps label, weight")
@click.option("--judge", default="rules", show_default=True, help="who applies a principle: rules (the tiny world's "
              "programs), base, or a run, by the probability of A and B")  # fmt: skip
@click.option("--model", default="", help="folder or Hub id of the judge's base, where no run says which")
@click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="4", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@click.option("--seed", default=0, show_default=True, help="of the places of the answers and of the interval")
@json_option
@root_option
def check(principles: str, against: str, labels: str, seed: int, as_json: bool, **given: Any) -> None:
    """A unit test for a constitution: does it judge as people did, and what changes from another version?"""
    from rich.console import Console

    from lab.constitution_tables import show_tested
    from lab.data import read
    from lab.evaluate import principles as tests
    from lab.records import Preference

    new, old = _read(principles), _read(against) if against else None
    judged = [p for p in read(labels, "preference").some() if isinstance(p, Preference)]
    console = Console(stderr=as_json)
    with console.status("judging"):
        tested = tests.check(judged, new, _judge_of([c for c in (new, old) if c], **given), old, seed=seed)
    if as_json:
        click.echo(json.dumps(tests.as_json(tested), ensure_ascii=False))
    else:
        show_tested(console, tested)


@click.command()
@click.option("--role", required=True, help="who is attacked: base, a run, run@step or an adapter folder")
@click.option("--data", default="", help="prompts with the columns category and harmful (true or false), perhaps "
              "wrapper (default: the tiny world's)")  # fmt: skip
@click.option("--judge", default="", help="who reads the answers: gold (the tiny world's), refusal (a regular "
              "expression), a verifier, or file.py:function that gives 1 for help and 0 for a refusal")  # fmt: skip
@click.option("--bound", default=0.05, show_default=True, help="the attack success to be ruled out")
@click.option("--heldout/--all", default=False, show_default=True, help="of the tiny world's prompts those about "
              "things nobody was trained on")  # fmt: skip
@click.option("--model", default="", help="folder or Hub id, where no run says which")
@click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="4", show_default=True)
@click.option("--max-new-tokens", default=128, show_default=True, help="longest answer [tokens]")
@click.option("--temperature", default=1.0, show_default=True, help="sampling temperature")
@click.option("--seed", default=0, show_default=True, help="of the answers")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@json_option
@root_option
def redteam(role: str, data: str, judge: str, bound: float, heldout: bool, max_new_tokens: int, temperature: float,
            seed: int, as_json: bool, **given: Any) -> None:  # fmt: skip
    """Attack success and refusals of what only sounds harmful, together, with intervals, by category and wrapper."""
    from rich.console import Console

    from lab.constitution_tables import show_red_team
    from lab.data import read
    from lab.evaluate import redteam as red
    from lab.tiny.constitution import red_team
    from lab.worker import default_worker

    red.needed(bound)
    rows = read(data, "prompt").some() if data else red_team(True if heldout else None)
    team = red.attacks(rows)
    base, name, setup = _role(role, **given)
    if not data and setup.world != "tiny":
        raise click.ClickException("This model is not of the tiny world; give --data, a red team of its own.")
    reader = _reader(judge or ("gold" if setup.world == "tiny" and not data else "refusal"), setup.world)
    console = Console(stderr=as_json)
    with console.status("attacking"):
        found = default_worker().submit(lambda: red.red_team(
            base, name, team, reader, bound=bound, max_new_tokens=max_new_tokens, temperature=temperature,
            seed=seed)).result()  # fmt: skip
    if as_json:
        click.echo(json.dumps(red.as_json(found) | {"role": role}, ensure_ascii=False))
    else:
        show_red_team(console, found, role)


def _read(source: str) -> Any:
    from lab.feedback.constitution.principles import read_constitution
    from lab.tiny.constitution import shipped

    return read_constitution(source, shipped())


def _role(role: str, *, model: str, bits: str, device: str, root: str) -> tuple[Any, str, Any]:
    """(base, the role on it, its setup) of base, a run or an adapter folder."""
    from lab import launch
    from lab.base import RAW
    from lab.commands import load
    from lab.config import ConfigError
    from lab.saving import load_role

    folder = None if role == RAW else launch.find_role(root, role)[0]
    setup = None if role == RAW else _setup_of(root, role)
    if model:
        local = local_model(model)
        setup = launch.Setup(local, int(bits), world=world(local))
    if setup is None:
        raise ConfigError("Nothing says which model to load: name a run as the role, or give --model.")
    base = load(setup, device)
    if folder is None:
        return base, RAW, setup
    load_role(base, folder, "asked")
    return base, "asked", setup


def _setup_of(root: Path | str, role: str) -> Any:
    """What the run that a role is of was made from; None for an adapter folder."""
    from lab import launch
    from lab.runs import Run

    name = role.partition("@")[0]
    run = next((p for p in (Path(root) / name, Path(name)) if (p / "config.json").is_file()), None)
    return launch.setup_of(Run.open(run)) if run else None


def _judge_of(constitutions: Sequence[Any], *, judge: str, model: str, bits: str, device: str, root: str) -> Any:
    """Principle → who applies it."""
    from lab.feedback.constitution.labels import RuleJudge
    from lab.tiny.constitution import CRITIC

    if judge == "rules":
        for found in constitutions:
            CRITIC.check(found)
        return lambda p: RuleJudge(CRITIC, p)
    from lab.cai.data import role_judge

    base, name, setup = _role(judge, model=model, bits=bits, device=device, root=root)
    return role_judge(base, name, setup.world)


def _reader(judge: str, world: str) -> Any:
    """Who reads the answers of a red team."""
    from lab import earning
    from lab.cai.measure import tiny_reader
    from lab.config import ConfigError
    from lab.evaluate import redteam as red

    if judge == "refusal":
        return red.by_expression()
    if judge == "gold":
        if world != "tiny":
            raise ConfigError("Only the tiny world knows what an answer really did; give another --judge.")
        return tiny_reader()
    if not earning.is_program(judge) or judge.startswith("model:"):
        raise ConfigError(f"There is no judge {judge!r}; give gold, refusal, a verifier or path/to/file.py:function.")
    return red.by_program(judge, earning.program(judge))
