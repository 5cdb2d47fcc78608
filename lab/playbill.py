"""`lab run`: a recipe checked, shown as a table, and played with its progress in the terminal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.machine import limit_threads
from lab.runs import runs
from lab.terminal import View, number, runs_table

if TYPE_CHECKING:
    from lab.evaluate.table import Row
    from lab.recipes import Plan, Played


def show_shipped() -> None:
    """Prints the recipes that come with the lab."""
    from lab.recipes import read_recipe, shipped

    table = Table("recipe", "what it does", "stages", box=None, header_style="bold")
    for name in shipped():
        recipe = read_recipe(name)
        table.add_row(Text(name), Text(recipe.about), ", ".join(stage.method for stage in recipe.stages))
    Console().print(table)


def show_run(
    source: str,
    root: str,
    *,
    edits: Sequence[str] = (),
    device: str = "auto",
    heldout: int = 300,
    only_check: bool = False,
    as_json: bool = False,
) -> None:
    """Checks a recipe, prints its plan, plays it (unless `only_check`) and prints what came out."""
    from lab.recipes import plan_of, play, read_recipe
    from lab.recipes.recipe import edit

    recipe = read_recipe(source)
    for text in edits:
        recipe = edit(recipe, text)
    found = plan_of(recipe)
    console = Console(stderr=as_json)
    console.print(plan_table(found))
    if only_check:
        return
    limit_threads()
    with View(console) as view:
        played = play(recipe, root, device=device, heldout=heldout, on_event=view.event, on_progress=view.work,
                      say=lambda text: view.progress.console.print(Text(text, style="dim")))  # fmt: skip
    console.print(view.invariants())
    if played.stopped:
        again = " ".join(f"--set {shlex.quote(text)}" for text in edits)
        console.print(f"stopped in the stage {played.stopped}; go on with: "
                      f"lab run {shlex.quote(source)} --runs {shlex.quote(str(played.root))} {again}".rstrip(),
                      markup=False, highlight=False)  # fmt: skip
        return
    if played.rows:
        console.print(measured_table(played))
    else:
        console.print(runs_table(i for i in runs(played.root) if i.id in played.runs.values()))
    console.print(f"the runs are in {played.root}", markup=False)
    if as_json:
        rows = [asdict(row) for row in played.rows]
        print(json.dumps({"rows": rows, "runs": played.runs, "judge": played.judge}, ensure_ascii=False), flush=True)


def plan_table(plan: Plan) -> Table:
    """One line a stage: what it starts from, what it reads, what completions earn, how long it goes on."""
    title = f"{plan.ground.name} on {plan.ground.model}, {plan.ground.bits} bits, rank {plan.setup.adapter.rank}"
    table = Table("", "stage", "method", "from", "data", "rows", "reward", "steps", title=title, title_justify="left",
                  header_style="bold")  # fmt: skip
    for i, stage in enumerate(plan.stages, 1):
        passes = not hasattr(stage.config, "steps")
        steps = "–" if stage.steps is None else f"{'≈ ' if passes else ''}{stage.steps}"
        pairs = f" → {stage.config.n} pairs" if stage.method == "compare" else ""
        table.add_row(str(i), Text(stage.name, style="bold"), stage.method, Text(stage.init), Text(stage.data),
                      ("?" if stage.rows is None else str(stage.rows)) + pairs, Text(", ".join(stage.rewards)),
                      steps)  # fmt: skip
    return table


def measured_table(played: Played) -> Table:
    """The policies of a stack on held-out prompts; the first of them is the reference and the opponent."""
    rows = played.rows
    first = next((row.role for row in rows if row.win_rate is None), "")
    proxy = [f"score of {played.judge}"] if played.judge else []
    table = Table("", "gold reward (95 %)", *proxy, f"KL to {first}", "length", "ended", f"win rate against {first}",
                  header_style="bold", title=f"On {rows[0].gold.n} held-out prompts", title_justify="left")  # fmt: skip
    for row in rows:
        gold = f"{row.gold.mean:+.2f} [{row.gold.low:+.2f}, {row.gold.high:+.2f}]"
        table.add_row(Text(row.role, style="bold"), gold, *([number(row.proxy.mean)] if row.proxy else []),
                      f"{row.kl.mean:.2f}", f"{row.length:.1f}", f"{row.ended:.1%}", _won(row))  # fmt: skip
    return table


def _won(row: Row) -> str:
    if row.win_rate is None:
        return "–"
    return f"{row.win_rate.mean:.0%} [{row.win_rate.low:.0%}, {row.win_rate.high:.0%}]"
