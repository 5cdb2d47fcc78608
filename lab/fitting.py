"""`lab memory`: what a run will need, before anything is loaded, and what would make it fit."""

from __future__ import annotations

from typing import Any

import click

from lab.commands import local_model
from lab.config import CONFIGS, Adapter, ConfigError, settings


@click.command()
@click.argument("method", type=click.Choice(tuple(CONFIGS)))
@click.option("--model", required=True, help="folder or Hub id of the base model, or tiny; no weights are read")
@click.option("--set", "edits", multiple=True, metavar="NAME=VALUE", help="a setting of the method or of its adapter; "
              "may be repeated")  # fmt: skip
@click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="4", show_default=True)
@click.option("--double-quant", is_flag=True, help="quantise the scales of NF4 too")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option("--free", type=float, default=None, help="free memory to fit into [GB]; default: this machine's")
@click.option("--rows", default="", metavar="PROMPT,COMPLETION", help="typical lengths [tokens]; default: as long as "
              "the settings allow")  # fmt: skip
@click.option("--judges", type=click.IntRange(min=0), default=1, show_default=True, help="reward models that judge")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object instead")
def memory(method: str, model: str, edits: tuple[str, ...], bits: str, double_quant: bool, device: str,
           free: float | None, rows: str, judges: int, as_json: bool) -> None:  # fmt: skip
    """What a run of METHOD needs on this model, by role and phase, and the cheapest change if that is too much."""
    from lab.memory import Machine, Wish, shape_of

    config, adapter = _configs(method, edits)
    kind, found = _device(device)
    budget = round(free * 10**9) if free is not None else found
    machine = Machine(kind, budget, RUNTIME[kind])
    wish = Wish(method, config, adapter, int(bits), double_quant, machine, _rows(rows), judges)
    _say(shape_of(local_model(model)), wish, as_json)


RUNTIME = {"cpu": 700_000_000, "cuda": 600_000_000}
"""Bytes of torch and the libraries around it: resident in a process on a CPU, the context on a GPU; both roughly."""


def _say(shape: Any, wish: Any, as_json: bool) -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    from lab.memory import changes, fits, predict, pretty

    plan, free = predict(shape, wish), wish.machine.free
    better = changes(shape, wish, free) if free else []
    if as_json:
        row = {"total": plan.total, "free": free, "fits": fits(plan, free), "peak": plan.peak.name,
               "standing": [p._asdict() for p in plan.standing],
               "phases": {p.name: [q._asdict() for q in p.parts] for p in plan.phases},
               "changes": [{"values": dict(c.values), "saves": c.saves, "fits": c.fits, "costs": c.costs}
                           for c in better]}  # fmt: skip
        click.echo(json.dumps(row))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("what", "whose", "bytes"):
        table.add_column(name, justify="right" if name == "bytes" else "left")
    for part in (*plan.standing, *plan.peak.parts):
        table.add_row(part.name, plan.peak.name if part.owner == "passing" else part.owner, pretty(part.size))
    table.add_row("torch itself", "", pretty(plan.runtime))
    table.add_row("[b]at the worst moment", plan.peak.name, f"[b]{pretty(plan.total)}")
    console = Console()
    console.print(table)
    console.print("; ".join(f"{p.name} adds {pretty(p.size)}" for p in plan.phases))
    verdict = "it fits" if fits(plan, free) else "it does not fit"
    said = f"{pretty(free)} free on this {wish.machine.device}: {verdict}"
    console.print(said if free else "free memory is not known")
    for change in better:
        values = ", ".join(f"{k} {v}" for k, v in change.values)
        enough = ", and it fits" if change.fits else ""
        console.print(f"  {values}: saves {pretty(change.saves)}{enough}. {change.costs.capitalize()}.")


def _configs(method: str, edits: tuple[str, ...]) -> tuple[Any, Adapter]:
    """The method's settings and the adapter with what `--set` changes. Raises ConfigError for what is neither."""
    cls = CONFIGS[method]
    kinds = {s.name: (c, s.kind) for c in (Adapter, cls) for s in settings(c)}
    given: dict[type, dict[str, Any]] = {cls: {}, Adapter: {}}
    for text in edits:
        name, _, value = text.partition("=")
        key = name.strip().replace("-", "_")
        if key not in kinds:
            raise ConfigError(f"{name!r} is neither a setting of {method} nor of the adapter.")
        owner, kind = kinds[key]
        try:
            given[owner][key] = value == "true" if kind is bool else kind(value)
        except ValueError:
            raise ConfigError(f"{value!r} is no value for {name}, which is a {kind.__name__}.") from None
    return cls(**given[cls]), Adapter(**given[Adapter])


def _device(name: str) -> tuple[str, int]:
    from lab.quantise import free_memory, pick_device

    device = pick_device(name)
    return device.type, free_memory(device)


def _rows(text: str) -> Any:
    from lab.memory import Rows

    if not text:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(p.strip().isdecimal() for p in parts):
        raise click.UsageError("--rows takes two whole numbers, such as 200,300.")
    prompt, completion = map(int, parts)
    return Rows(max(1, prompt), completion)
