"""The true score and the proxy at every checkpoint of demonstrations: python -m benchmarks.overoptimise FOLDER…

Each FOLDER holds the runs of one `lab demo --runs FOLDER`. All checkpoints of its PPO run answer the same held-out
prompts with the same noise. The fall is from the best checkpoint's true score to the last one's.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table


def measure(folder: Path, prompts: int, seed: int) -> dict[str, Any]:
    """Rows for the start and for each saved step of the folder's PPO run, and how far the true score fell."""
    from lab import tiny
    from lab.base import SharedBase
    from lab.desk import Desk
    from lab.evaluate.table import compare_roles
    from lab.runs import Run

    base = SharedBase.load(tiny.CHECKPOINT, bits=4, device="cpu")
    desk = Desk(folder, base, "tiny")
    run = Run.open(folder / "ppo-1")
    steps = run.checkpoints()
    roles = {"SFT": desk.role("sft-1")} | {str(step): desk.role(f"ppo-1@{step}") for step in steps}
    rows = compare_roles(
        base,
        [p.prompt for p in tiny.heldout_prompts(prompts)],
        roles,
        tiny.gold,
        reward=desk.role("reward-1"),
        reference=roles["SFT"],
        max_new_tokens=tiny.MAX_NEW_TOKENS,
        seed=seed,
    )
    golds = [row.gold.mean for row in rows[1:]]
    return {"folder": folder.name, "kl": run.config().kl, "seed": run.config().seed, "rows": [asdict(r) for r in rows],
            "fall": max(golds) - golds[-1], "proxy_gain": rows[-1].proxy.mean - rows[0].proxy.mean}  # fmt: skip


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--prompts", default=1000, show_default=True, help="held-out prompts")
@click.option("--seed", default=11, show_default=True, help="of the sampling")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a folder instead of tables")
def main(folders: tuple[Path, ...], prompts: int, seed: int, as_json: bool) -> None:
    """Gold and proxy along the PPO runs of demonstrations."""
    console = Console()
    for folder in folders:
        found = measure(folder, prompts, seed)
        if as_json:
            click.echo(json.dumps(found))
            continue
        title = f"{found['folder']}: KL weight {found['kl']:g}, seed {found['seed']}"
        table = Table("step", "true score", "95 %", "proxy", "KL", "length", "ended", title=title)
        for row in found["rows"]:
            g = row["gold"]
            table.add_row(row["role"], f"{g['mean']:+.2f}", f"[{g['low']:+.2f}, {g['high']:+.2f}]",
                          f"{row['proxy']['mean']:+.2f}", f"{row['kl']['mean']:.2f}", f"{row['length']:.1f}",
                          f"{row['ended']:.1%}")  # fmt: skip
        console.print(table)
        console.print(f"fall of the true score from its peak {found['fall']:.2f} · proxy {found['proxy_gain']:+.2f}\n")


if __name__ == "__main__":
    main()
