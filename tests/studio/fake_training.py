"""An engine for tests of the Train panel: makes real run directories from forms, and plays nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab import form, making
from lab.client import EngineError
from lab.columns import DataError
from lab.config import ConfigError
from lab.data import write_jsonl
from lab.feedback.verifiers import VerifierError
from lab.launch import Setup
from lab.records import Preference
from lab.runs import RunError

from .fake import FakeEngine
from .made import PROMPTS, status

SETUP = Setup("a-model", world="tiny", probes=("Hi.",))
REFUSALS = (ConfigError, DataError, RunError, VerifierError)


class FakeTraining(FakeEngine):
    """Answers a form as an engine over the tiny world does; `playing` are the runs that learn now."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.playing: dict[str, tuple[int, int]] = {}
        self.refuses_to_play = ""

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
