"""What a run will need, before it begins: memory by role and phase, what would make it fit, and the time.

The rows are few and quick: the data are read once and a few of their rows are tokenised, no pass is made.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import form, launch, making, memory, quantise, timing
from lab.columns import DataError, Kind
from lab.config import ConfigError
from lab.encode import encode_demonstrations, encode_preferences, encode_prompts, encode_ratings
from lab.feedback.labels.words import LabelError
from lab.memory import Machine, Plan, Rows, Shape, Wish
from lab.records import Ranking
from lab.runs import RunError

if TYPE_CHECKING:
    from lab.desk import Desk

LOOKED_AT = 64
"""Rows whose tokens are counted."""

FRESH_S = 30
"""Seconds for which data are not read again."""


def estimate(desk: Desk, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The verdict on a form (`form`), in one row.

    data   : {"rows", "left_out": [sentence], "prompt", "completion", "longest": tokens}, or {"error", "at"}
    memory : {"free", "total", "fits", "standing": [part], "phases": [{"name", "size", "parts"}], "peak", "changes"}
    time   : {"seconds", "steps", "words"}

    Raises ConfigError for settings that cannot be.
    """
    asked = dict(row.get("form") or {})
    config, adapter = form.configs(asked)
    kind = launch.kind_of(str(asked["method"]), config)
    data, rows, count = _data(desk, str(asked.get("data") or "").strip(), kind, config.seed)
    yield {"data": data}
    judges = sum(1 for r in asked.get("rewards") or () if r.get("what") and form.is_judge(str(r["what"])))
    wish = Wish(str(asked["method"]), config, adapter, desk.base.bits, machine=_machine(desk), rows=rows, judges=judges,
                dense=desk.base._dense)  # fmt: skip
    shape = known_shape(desk.base.source)
    base = {"source": desk.base.source, "bits": desk.base.bits}
    found = timing.pace(desk.root, wish, shape, base, count)
    yield {"memory": verdict(shape, wish), "time": found._asdict()}


@functools.lru_cache(maxsize=4)
def known_shape(source: str) -> Shape:
    """The shape of a model, read once."""
    return memory.shape_of(source)


def verdict(shape: Shape, wish: Wish) -> dict[str, Any]:
    """The plan against the free memory, as JSON."""
    plan: Plan = memory.predict(shape, wish)
    free = wish.machine.free
    return {
        "free": free, "total": plan.total, "fits": memory.fits(plan, free) if free else None, "peak": plan.peak.name,
        "device": wish.machine.device, "standing": [p._asdict() for p in plan.standing],
        "phases": [{"name": p.name, "size": p.size, "parts": [q._asdict() for q in p.parts]} for p in plan.phases],
        "runtime": plan.runtime,
        "changes": [asdict(c) for c in memory.changes(shape, wish, free)] if free else [],
    }  # fmt: skip


def _machine(desk: Desk) -> Machine:
    """What is free, with what the base holds already: a run needs no second one."""
    weights = (p for name, p in desk.base.model.named_parameters() if ".lora_" not in name)
    held = sum(p.numel() * p.element_size() for p in weights)
    held += sum(w.numel() * w.element_size() for w in desk.base.now.dense.values())
    return Machine(desk.base.device.type, quantise.free_memory(desk.base.device) + held)


def _data(desk: Desk, text: str, kind: Kind, seed: int) -> tuple[dict[str, Any], Rows | None, int | None]:
    if not text:
        return {"error": "There are no data yet.", "at": "data"}, None, None
    try:
        found = _read(desk.root, text, kind, seed, desk.world, _stamp(text))
    except (ConfigError, DataError, RunError, LabelError) as error:
        return {"error": str(error), "at": "data"}, None, None
    some = found.records[:: max(1, len(found.records) // LOOKED_AT)][:LOOKED_AT]
    rows = timing.lengths(_tokens(desk, kind, some))
    told = {"rows": len(found.records), "left_out": [f"{e.count} rows: {e.reason}" for e in found.events()]}
    return told | ({} if rows is None else asdict(rows)), rows, len(found.records)


@functools.lru_cache(maxsize=2)
def _read(root: Path, text: str, kind: Kind, seed: int, world: str, _stamp: float) -> Any:
    return making.rows_of(root, text, kind, seed, world)


def _stamp(text: str) -> float:
    """Changes when data have to be read again: when the file has changed, or else after a while."""
    path = Path(text).expanduser()
    return path.stat().st_mtime if path.is_file() else time.time() // FRESH_S


def _tokens(desk: Desk, kind: Kind, records: Sequence[Any]) -> list[tuple[int, int]]:
    """(prompt, completion) tokens of some records; of a pair, its longer side."""
    chat, window = desk.base.chat, desk.base.window
    if kind == "sft":
        rows = encode_demonstrations(chat, records, window).records
        return [(len(r.prompt_ids), len(r.completion_ids)) for r in rows]
    if kind == "preference":
        pairs = [r for r in records if not isinstance(r, Ranking)]
        return [(len(p.chosen.prompt_ids), max(len(s.completion_ids) for s in (p.chosen, p.rejected)))
                for p in encode_preferences(chat, pairs, window).records]  # fmt: skip
    if kind == "rating":
        return [(len(r.tokens.prompt_ids), len(r.tokens.completion_ids))
                for r in encode_ratings(chat, records, window).records]  # fmt: skip
    if kind == "steps":
        return [(len(chat.encode_prompt(r.prompt)), sum(len(chat.tokenizer.encode(s)) for s in r.steps))
                for r in records]  # fmt: skip
    return [(len(p.prompt_ids), 0) for p in encode_prompts(chat, records, window).records]
