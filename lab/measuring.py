"""`lab bestof`: what the best of n samples is worth, for many n from one set of samples."""

from __future__ import annotations

import json
from typing import Any

import click

from lab.commands import ground, load, rewarded, root_option


@click.command("bestof")
@click.option("--model", default="", help="folder or Hub id of the base model, or tiny (with --init: that run's)")
@click.option("--data", required=True, help="prompts: a column `prompt` or `messages`; tiny:heldout in the tiny world")
@click.option("--init", default="", help="a run, run@step or adapter folder: who answers (default: the base)")
@rewarded
@click.option("-n", "--samples", default=32, show_default=True, help="samples of each prompt; the largest n")
@click.option("--limit", default=100, show_default=True, help="prompts, the first of the data")
@click.option("--max-new-tokens", default=64, show_default=True, help="longest completion [tokens]")
@click.option("--temperature", default=1.0, show_default=True, help="sampling temperature")
@click.option("--missing-end", default=1.0, show_default=True, help="taken from the reward without an end [reward]")
@click.option("--ensemble", default="mean", type=click.Choice(["mean", "worst", "uncertainty"]), show_default=True,
              help="how the members of an ensemble of reward models are read")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="of the samples")
@click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="4", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object instead")
@root_option
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
    rewards = earning.rewards(ready.setup.rewards, judges, given["ensemble"], device=str(base.device))
    return pool(base, ready.rows.some()[: given["limit"]], "policy" if "policy" in ready.found else "base",
                given["samples"], rewards, launch.truth(ready.setup), max_new_tokens=given["max_new_tokens"],
                temperature=given["temperature"], missing_end=given["missing_end"], seed=given["seed"])  # fmt: skip
