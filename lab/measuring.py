"""`lab bestof` and `lab pairs`: what becomes of many samples of a prompt: the best one, or pairs to learn from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lab.commands import ground, load, rewarded, root_option


def sampled(samples: int, limit: int) -> Callable[[Callable], Callable]:
    """Flags of a command that samples many completions of every prompt and has them rewarded."""
    options = [
        click.option("--model", default="", help="folder or Hub id of the base model, or tiny (with --init: that "
                     "run's)"),
        click.option("--data", required=True, help="prompts: a column `prompt` or `messages`; tiny:heldout in the tiny "
                     "world"),
        click.option("--init", default="", help="a run, run@step or adapter folder: who answers (default: the base)"),
        rewarded,
        click.option("-n", "--samples", default=samples, type=click.IntRange(min=1), show_default=True,
                     help="samples of each prompt"),
        click.option("--limit", default=limit, type=click.IntRange(min=0), show_default=True,
                     help="prompts, the first of the data; 0: all"),
        click.option("--max-new-tokens", default=64, show_default=True, help="longest completion [tokens]"),
        click.option("--temperature", default=1.0, show_default=True, help="sampling temperature"),
        click.option("--missing-end", default=1.0, show_default=True, help="taken from the reward without an end "
                     "[reward]"),
        click.option("--ensemble", default="mean", type=click.Choice(["mean", "worst", "uncertainty"]),
                     show_default=True, help="how the members of an ensemble of reward models are read"),
        click.option("--doubt", default=0.1, show_default=True, help="weight of an ensemble's variance [per unit of "
                     "reward]"),
        click.option("--seed", default=0, show_default=True, help="of the samples"),
        click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="4", show_default=True),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n"),
        click.option("--json", "as_json", is_flag=True, help="print one JSON object instead"),
        root_option,
    ]  # fmt: skip

    def add(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command("bestof")
@sampled(32, 100)
def best_of(**given: Any) -> None:
    """What the best of n samples is worth, by the reward that chooses and, where it is known, by the true score."""
    from rich.console import Console

    from lab.evaluate import best_of_n
    from lab.terminal import best_of_n_table
    from lab.worker import default_worker

    console = Console(stderr=given["as_json"])
    with console.status("sampling"):
        found = default_worker().submit(lambda: _pool(given)).result()
    curve = best_of_n.curve(found)
    if given["as_json"]:
        click.echo(json.dumps(best_of_n.as_json(curve), ensure_ascii=False))
    else:
        console.print(best_of_n_table(curve))


@click.command()
@sampled(8, 0)
@click.option(
    "--rule",
    default="rso",
    type=click.Choice(["rso", "extremes", "chance"]),
    show_default=True,
    help="which samples make a pair: some of many by rejection sampling, the best and the worst, or any two",
)
@click.option("--keep", default=4, show_default=True, help="samples of a prompt that rso keeps and pairs")
@click.option("--beta", default=0.5, show_default=True, help="β of rso [reward per nat]")
@click.option(
    "--labels",
    default="verdict",
    type=click.Choice(["verdict", "probability"]),
    show_default=True,
    help="what a pair says: the higher reward is the better one, or it is with probability σ of the gap",
)
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="where the pairs go: .jsonl"
)
def pairs(**given: Any) -> None:
    """Preference pairs out of samples and a reward, for `lab dpo` and its family (RSO, best against worst)."""
    from rich.console import Console

    from lab.data import write_jsonl
    from lab.feedback import pairing
    from lab.worker import default_worker

    if given["out"].exists():
        raise click.ClickException(f"{given['out']} is there already; give another name.")
    if not given["out"].absolute().parent.is_dir():
        raise click.ClickException(f"There is no folder {given['out'].absolute().parent}.")
    console = Console(stderr=True)
    with console.status("sampling"):
        found = default_worker().submit(lambda: _pool(given)).result()
    made = pairing.pairs(found.rollouts, found.proxy, given["rule"], keep=given["keep"], beta=given["beta"],
                         labels=given["labels"], annotator=" + ".join(given["rewards"]),
                         seed=given["seed"])  # fmt: skip
    if not made.preferences:
        raise click.ClickException(f"There is no pair: {_left_out(made)}. Give more samples, or another reward.")
    write_jsonl(made.preferences, given["out"])
    told = _told(found, made)
    if given["as_json"]:
        click.echo(json.dumps(told))
    else:
        names = {"reward": "reward of the chosen, the rejected", "gold": "true score of the chosen, the rejected"}
        console.print(f"{told['pairs']} pairs of {told['prompts']} prompts in {given['out']}; left out: "
                      f"{_left_out(made)}")  # fmt: skip
        for key in (key for key in names if key in told):
            console.print(f"{names[key]}: {told[key][0]:+.3f}, {told[key][1]:+.3f}")
        if "agreement" in told:
            console.print(f"the true score agrees with {told['agreement']:.1%} of the pairs (a tie is half)")


def _left_out(made: Any) -> str:
    return f"{made.equal} of the same text, {made.tied} of the same reward, {made.unended} that did not end"


def _told(found: Any, made: Any) -> dict[str, Any]:
    """What there is to say about pairs from a pool."""
    n = found.proxy.shape[1]
    out: dict[str, Any] = {"pairs": len(made.preferences), "prompts": len({i // n for i, _ in made.places}),
                           "equal": made.equal, "tied": made.tied, "unended": made.unended}  # fmt: skip
    chosen, rejected = (list(side) for side in zip(*made.places, strict=True))
    known = {"reward": found.proxy} | ({} if found.gold is None else {"gold": found.gold})
    for name, values in known.items():
        a, b = values.reshape(-1)[chosen].double(), values.reshape(-1)[rejected].double()
        out[name] = [float(a.mean()), float(b.mean())]
        if name == "gold":
            out["agreement"] = float(((a > b).double() + (a == b).double() / 2).mean())
    return out


def _pool(given: dict[str, Any]) -> Any:
    """The samples, by the role asked for, with what they earn."""
    from lab import earning, launch, making
    from lab.config import SelectionConfig
    from lab.evaluate.best_of_n import pool
    from lab.saving import load_role

    order = making.Order("raft", SelectionConfig(seed=given["seed"]), given["data"], init=given["init"],
                         rewards=given["rewards"])  # fmt: skip
    ready = making.prepare(given["root"], order, ground(given))
    base = load(ready.setup, given["device"])
    for part, (folder, _) in ready.found.items():
        load_role(base, folder, part)
    judges = {part: part for part in ready.found if part != "policy"}
    rewards = earning.rewards(ready.setup.rewards, judges, given["ensemble"], given["doubt"], str(base.device),
                              base)  # fmt: skip
    return pool(base, ready.rows.some()[: given["limit"] or None], "policy" if "policy" in ready.found else "base",
                given["samples"], rewards, launch.truth(ready.setup), max_new_tokens=given["max_new_tokens"],
                temperature=given["temperature"], missing_end=given["missing_end"], seed=given["seed"])  # fmt: skip
