"""An engine for tests of the Train panel: makes real run directories from forms, weighs them, and plays nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab import form, launch, making, memory
from lab.client import EngineError
from lab.columns import DataError
from lab.config import ConfigError
from lab.data import write_jsonl
from lab.feedback.verifiers import VerifierError
from lab.launch import Setup
from lab.memory import Linear, Machine, Shape, Wish
from lab.records import Preference
from lab.runs import Run, RunError
from lab.tasks.estimate import verdict

from .fake import FakeEngine
from .made import PROMPTS, status

SETUP = Setup("a-model", world="tiny", probes=("Hi.",))
LAYERS = (Linear("q_proj", 1024, 2048, False, 28), Linear("k_proj", 1024, 1024, False, 28),
          Linear("v_proj", 1024, 1024, False, 28), Linear("o_proj", 2048, 1024, False, 28),
          Linear("gate_proj", 1024, 3072, False, 28), Linear("up_proj", 1024, 3072, False, 28),
          Linear("down_proj", 3072, 1024, False, 28))  # fmt: skip
SHAPE = Shape("a-model", "qwen3", 28, 1024, 16, 8, 128, 3072, 151_936, 40_960, LAYERS, 151_936 * 1024, 0, 65_536,
              head_norms=True)  # fmt: skip
"""A model of 0.6 billion weights."""

REFUSALS = (ConfigError, DataError, RunError, VerifierError)


class FakeTraining(FakeEngine):
    """Answers a form as an engine over the tiny world does; `playing` are the runs that learn now."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.playing: dict[str, tuple[int, int]] = {}
        self.refuses_to_play = ""
        self.free = 24 * 10**9

    def status(self) -> dict[str, Any]:
        runs = [{"id": run, "open": True, "shown": "running", "step": step, "total": total}
                for run, (step, total) in self.playing.items()]  # fmt: skip
        return super().status() | {"runs": runs, "pid": 1, "started": 2.0}

    def offers(self) -> dict[str, Any]:
        self.asked.append(("offers",))
        return json.loads(json.dumps(form.offers("tiny")))

    def check(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return form.check(asked)

    def make(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(("make", dict(asked)))
        try:
            ready = making.prepare(self.root, form.order(asked), SETUP)
            return {"id": ready.make(self.root).id, "left_out": ready.left_out()}
        except REFUSALS as error:
            raise EngineError(str(error), getattr(error, "payload", {})) from error

    def task(self, name: str, row: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        assert name == "estimate"
        asked = dict((row or {}).get("form") or {})
        config, adapter = form.configs(asked)
        try:
            kind = launch.kind_of(asked["method"], config)
            found = making.rows_of(self.root, str(asked.get("data") or "nothing.jsonl"), kind, 0, "tiny")
            yield {"data": {"rows": len(found.records), "left_out": []}}
        except REFUSALS as error:
            yield {"data": {"error": str(error), "at": "data"}}
        machine = Machine("cuda", self.free)
        wish = Wish(asked["method"], config, adapter, 4, machine=machine, rows=memory.Rows(200, 300, 900), dense=False)
        yield {"memory": verdict(SHAPE, wish), "time": {"seconds": 600.0, "steps": 100, "words": "From sft-1."}}

    def branch(
        self, run: str, step: int | None = None, *, edits: Mapping[str, Any] | None = None, name: str = ""
    ) -> str:
        self.asked.append(("branch", run, step, dict(edits or {}), name))
        found = Run(self.root / run)
        try:
            return found.fork(step or found.checkpoints()[-1], found.config(), edits=edits, name=name).id
        except REFUSALS as error:
            raise EngineError(str(error)) from error

    def play(self, run: str) -> None:
        super().play(run)
        if self.refuses_to_play:
            raise EngineError(self.refuses_to_play)
        self.playing[run] = (0, 100)
        status(self.root / run, "running", 0, 100)


def keep(path: Path, part: str, *steps: int) -> None:
    """Gives a made run its setup, and checkpoints with an (empty) adapter of one part."""
    (path / "inputs").mkdir()
    (path / "inputs" / "setup.json").write_text(json.dumps(asdict(SETUP)))
    for step in steps:
        folder = path / "checkpoints" / f"step-{step:06d}" / part
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")


def learnt_from_pairs(path: Path) -> None:
    """Gives a made run with a setup the pairs it would have learnt from."""
    write_jsonl([Preference(p, good, bad) for p, bad, good in PROMPTS], path / "inputs" / "data.jsonl")
