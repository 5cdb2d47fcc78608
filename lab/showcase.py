"""`lab demo`: opens the Studio, plays the demonstration in this process's engine, and prints the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from lab.machine import free_port, limit_threads
from lab.runs import RunError
from lab.terminal import View, demo_answers, demo_table
from lab.worker import default_worker


def show_demo(
    root: str,
    *,
    studio: bool,
    as_json: bool,
    kl: float | None,
    steps: int | None,
    seed: int,
    annotator: str | None,
    port: int,
    device: str,
) -> None:
    """Prints the Studio's address at once, then plays; at the end the table, and with `as_json` one JSON object last.

    With the Studio the process stays until Ctrl-C, so that the models can still be sampled.
    """
    console = Console(stderr=as_json)
    folder = Path(root or f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}")
    if (folder / ".engine.json").exists() or any(folder.glob("*/config.json")):
        raise RunError(f"{folder} already holds runs; give --runs an empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    page = _open_studio(folder, port, console) if studio else None
    try:
        _play(folder, console, as_json, kl, steps, seed, annotator, device, stay=page is not None)
    except KeyboardInterrupt:
        console.print(
            f"\nLeft. The runs are in {folder}; `lab runs --runs {folder}` lists them and `lab resume` goes "
            "on with one."
        )
        if not default_worker().close(wait_s=5.0):  # it measures; to end it in the middle of an operation is a crash
            if page is not None:
                page.terminate()
            sys.stdout.flush()
            os._exit(130)
    finally:
        if page is not None:
            page.terminate()


def _open_studio(folder: Path, port: int, console: Console) -> subprocess.Popen[bytes]:
    """The Studio as a process of its own."""
    port = free_port(port)
    console.print(f"[bold]Studio[/bold]  http://127.0.0.1:{port}/?tab=curves   (this window shows the progress too)")
    log = open(folder / ".studio.log", "ab")  # noqa: SIM115 - the child keeps it
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "apps.studio",
            "--runs",
            str(folder),
            "--port",
            str(port),
            "--labels",
            str(folder / "labels.sqlite"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )


def _play(
    folder: Path,
    console: Console,
    as_json: bool,
    kl: float | None,
    steps: int | None,
    seed: int,
    annotator: str | None,
    device: str,
    stay: bool,
) -> None:
    began = time.perf_counter()
    with console.status("loading the tiny model"):
        from lab.demo import Plan, open_engine, run_demo

        plan = Plan().seeded(seed)
        changes: dict[str, Any] = {k: v for k, v in (("kl", kl), ("steps", steps)) if v is not None}
        plan = replace(plan, ppo=replace(plan.ppo, **changes), annotator=annotator or plan.annotator)
        limit_threads()
        engine, desk = open_engine(folder, device)
    with engine:
        with View(console) as view:
            result = run_demo(engine, desk, plan, view.event, view.work)
        seconds = time.perf_counter() - began
        console.print(demo_table(result.rows))
        console.print(demo_answers(result.samples))
        console.print(view.invariants())
        console.print(
            f"reward model against gold on held-out pairs: {result.reward_accuracy.mean:.1%} · seed {seed} · "
            f"{seconds:.0f} s · runs in {folder}"
        )
        if as_json:
            print(json.dumps(_row(result, seed, seconds, view), ensure_ascii=False), flush=True)
        if stay:
            console.print("The Studio stays open; stop with Ctrl-C.")
            while True:
                time.sleep(3600)


def _row(result: Any, seed: int, seconds: float, view: View) -> dict[str, Any]:
    from lab.evaluate.table import as_json

    return {
        "rows": as_json(result.rows),
        "samples": result.samples,
        "reward_accuracy": asdict(result.reward_accuracy),
        "runs": result.runs,
        "seed": seed,
        "seconds": seconds,
        "invariants": {"held": view.held, "failed": [c.name for c in view.failed]},
    }
