"""How long a run will take, before it begins: from runs like it, or else from arithmetic, and always with the reason.

    seconds = steps left · seconds a step of a run of the same method on the same base · work of this one / of that one

The work of a step is counted in tokens that go through the base: a token forward is one, backward another (a frozen
base has no gradients of its own weights), a token that is sampled costs as much as one that is read. Where nothing has
been trained yet, 2 · parameters operations a token at the speed of a matrix product that is tried on the spot: good for
the order of magnitude, and said so.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

from lab.config import CONFIGS, ConfigError
from lab.data import updates_in
from lab.events import Evaluated, Probed, Updated
from lab.memory import Rows, Shape, Wish
from lab.memory.passes import SAMPLES, rows_of
from lab.runs import Run, RunError, RunInfo, runs

SHARE = 0.25
"""Of the speed of a large matrix product that a training step reaches, about."""

STEP_S = 15e-6
"""Seconds of the machine's own time for one operation, about."""

OPERATIONS = 60
"""Operations of one layer for one decoding step, about."""

NEWEST = 3
"""Earlier runs that are looked at."""


class Pace(NamedTuple):
    """Seconds of `steps` steps, and in `words` what that rests on. `seconds` is None where nothing can be said."""

    seconds: float | None
    steps: int
    words: str


class Before(NamedTuple):
    """A run that took `seconds` a step with these settings."""

    run: str
    seconds: float
    config: Any


def steps_of(method: str, config: Any, rows: int | None) -> int | None:
    """Steps in all: given, or from the number of rows; None where that is not known."""
    if method in SAMPLES:
        return config.steps
    return None if rows is None else updates_in(max(1, round(rows * (1 - config.eval_share))), config.batch,
                                                config.epochs)  # fmt: skip


def work(wish: Wish) -> float:
    """Tokens through the base in one step: forward, backward, scored and sampled."""
    r, c = rows_of(wish), wish.config
    if wish.method in ("sft", "process"):
        return 2 * c.batch * r.whole
    if wish.method == "reward":
        return 2 * c.batch * c.members * (r.prompt + 2 * r.completion)
    if wish.method == "dpo":
        return 3 * c.batch * (r.prompt + 2 * r.completion)
    if wish.method == "kto":
        return 5 * c.batch * r.whole
    rows = 2 * c.prompts if wish.method == "online" else c.batch
    learnt = c.prompts if wish.method == "raft" and c.rule == "best" else rows
    readers = {"ppo": 3, "grpo": 2, "raft": 2, "online": 1}[wish.method] + wish.judges
    roles = 2 if wish.method == "ppo" else 1
    return rows * r.whole * (1 + readers) + 2 * roles * c.epochs * learnt * r.whole


def before(root: Path | str, method: str, base: dict[str, Any]) -> Before | None:
    """The newest run of a method on a base that has taken a few steps, with the median of their seconds."""
    alike = [i for i in runs(root) if i.manifest.method == method and base.items() <= i.manifest.base.items()]
    for info in reversed(alike[-NEWEST:]):
        seconds = _seconds(info)
        try:
            if seconds is not None:
                return Before(info.id, seconds, Run(info.path).config())
        except (RunError, ConfigError, TypeError):
            continue
    return None


def _seconds(info: RunInfo) -> float | None:
    """The median time between two updates with nothing else in between; None for fewer than three."""
    spans: list[float] = []
    last: float | None = None
    for logged in Run(info.path).read()[0]:
        if isinstance(logged.event, Updated):
            if "step_s" in logged.event.metrics:
                spans.append(float(logged.event.metrics["step_s"]))
            elif last is not None:
                spans.append(logged.time - last)
            last = logged.time
        elif not isinstance(logged.event, (Evaluated, Probed)):
            last = None  # paused, saved, begun again: the time between is no step's
    return statistics.median(spans) if len(spans) >= 3 else None


def pace(root: Path | str, wish: Wish, shape: Shape, base: dict[str, Any], rows: int | None) -> Pace:
    """How long the run will take, with the reason in words. `rows`: records of the data, where they were counted."""
    steps = steps_of(wish.method, wish.config, rows)
    if steps is None:
        return Pace(None, 0, "The data have not been counted yet, so nothing is known about the time.")
    known = before(root, wish.method, base)
    if known is not None and isinstance(known.config, CONFIGS[wish.method]):
        other = Wish(wish.method, known.config, wish.adapter, wish.bits, wish.double_quant, wish.machine, wish.rows,
                     wish.judges)  # fmt: skip
        share = work(wish) / max(1.0, work(other))
        like = "steps like these" if abs(share - 1) < 0.05 else f"this one's steps are {share:.2g} times the work"
        return Pace(steps * known.seconds * share, steps,
                    f"From {known.run}, which took {known.seconds:.2g} s a step; {like}.")  # fmt: skip
    seconds = work(wish) * 2 * shape.parameters / (SHARE * speed(wish.machine.device, wish.size))
    if wish.method in SAMPLES:
        seconds += wish.config.max_new_tokens * shape.layers * OPERATIONS * STEP_S
    return Pace(steps * seconds, steps, f"A rough guess, good to a factor of three: no {wish.method} run has been "
                "played on this model yet, so it rests on the number of weights and the speed of one matrix "
                "product.")  # fmt: skip


def speed(device: str, size: int) -> float:
    """Operations a second of a matrix product, tried for some hundredths of a second."""
    import torch

    n, kind = (512, torch.float32) if device == "cpu" else (4096, torch.float32 if size == 4 else torch.bfloat16)
    a = torch.ones(n, n, dtype=kind, device=device)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        b = a @ a
        float(b[0, 0])  # waits for it
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


def lengths(tokens: list[tuple[int, int]]) -> Rows | None:
    """Typical and longest rows out of (prompt, completion) tokens; None without any."""
    if not tokens:
        return None
    prompts, completions = zip(*tokens, strict=True)
    return Rows(round(statistics.mean(prompts)), round(statistics.mean(completions)),
                max(p + c for p, c in tokens))  # fmt: skip
