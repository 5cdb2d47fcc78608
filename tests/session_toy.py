"""A trainer small enough to reason about: a vector walks towards 1 with noise from two generators of its own."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from lab.config import CONFIGS, check, setting
from lab.events import Ask, Checked, Done, Evaluated, Event, Probed, Progress, Sample, Started, Updated
from lab.records import Comparison
from lab.runs import Run
from lab.session import Built


@dataclass(frozen=True)
class ToyConfig:
    """w ← w + lr · (1 − w + spread · noise)."""

    steps: int = setting(6, "steps", low=0)
    lr: float = setting(0.5, "learning rate", live=True, low=0, high=1)
    spread: float = setting(0.1, "size of the noise", live=True, low=0)
    save_every: int = setting(2, "steps between checkpoints", low=0)
    probe_every: int = setting(1, "steps between probes", low=0)
    pause_s: float = setting(0.0, "seconds a step takes", low=0)
    fail_at: int = setting(0, "step that raises (0: none)", low=0)
    marks: bool = setting(True, "whether steps begin with Progress")
    torch: bool = setting(True, "whether the noise is torch's (without it a process starts faster)")
    asks: int = setting(0, "comparisons it asks about in every step; the share preferred is where w walks to", low=0)
    seed: int = setting(0, "seed")

    def __post_init__(self) -> None:
        check(self)


CONFIGS["toy"] = ToyConfig


class Noise:
    """Standard normal numbers from a generator of torch, or of Python, whose state can be kept."""

    def __init__(self, config: ToyConfig) -> None:
        self.python = random.Random(config.seed)
        self.torch: Any = None
        if config.torch:
            import torch

            self.torch = torch.Generator().manual_seed(config.seed)

    def draw(self) -> np.ndarray:
        if self.torch is None:
            return np.array([self.python.gauss(0, 1) for _ in range(4)])
        import torch

        return torch.randn(4, generator=self.torch, dtype=torch.float64).numpy()

    @property
    def state(self) -> list[Any]:
        version, numbers, spare = self.python.getstate()
        torch = "" if self.torch is None else self.torch.get_state().numpy().tobytes().hex()
        return [version, list(numbers), spare, torch]

    @state.setter
    def state(self, state: list[Any]) -> None:
        self.python.setstate((state[0], tuple(state[1]), state[2]))
        if self.torch is not None:
            import torch

            self.torch.set_state(torch.tensor(list(bytes.fromhex(state[3])), dtype=torch.uint8))


class ToyState:
    """A vector, a NumPy generator for the data and another generator for the noise."""

    trained = ("policy",)

    def __init__(self, config: ToyConfig) -> None:
        self.step, self.total = 0, config.steps
        self.live: dict[str, Any] = {}
        self.w = np.zeros(4)
        self.data = np.random.default_rng(config.seed)
        self.noise = Noise(config)

    def save(self, folder: Path) -> None:
        save_file({"w": self.w}, folder / "state.safetensors")
        row = {"step": self.step, "live": self.live, "data": self.data.bit_generator.state, "noise": self.noise.state}
        (folder / "state.json").write_text(json.dumps(row))

    def load(self, folder: Path) -> None:
        row = json.loads((folder / "state.json").read_text())
        self.w = load_file(folder / "state.safetensors")["w"]
        self.noise.state, self.data.bit_generator.state = row["noise"], row["data"]
        self.step, self.live = row["step"], row["live"]

    @property
    def fingerprint(self) -> str:
        """Everything in the state, exactly."""
        return json.dumps(
            [self.step, [x.hex() for x in self.w.tolist()], self.live, self.noise.state, self.data.bit_generator.state]
        )


class TroubleError(RuntimeError):
    """An error that carries the batch it met."""

    def __init__(self, text: str, **evidence: Any) -> None:
        super().__init__(text)
        self.evidence = evidence


def probe(state: ToyState) -> Probed:
    return Probed(state.step, "policy", (Sample("p", f"{state.w[0]:.3f}", True),))


def toy(state: ToyState, config: ToyConfig) -> Iterator[Event]:
    yield Started("toy", state.step, state.total)
    if state.step == 0:
        yield probe(state)
    while state.step < state.total:
        now = replace(config, **state.live)
        if config.marks:
            yield Progress(state.step, "sampling", 0, 2)
        goal = 1.0
        if config.asks:
            question = Ask(state.step + 1, tuple(Comparison(f"{state.step}?", f"a{i}", f"b{i}")
                                                 for i in range(config.asks)))  # fmt: skip
            while question.reply.verdicts is None:
                yield question
            given = [v.p for v in question.reply.verdicts if v.p is not None]
            goal = sum(given) / len(given) if given else 0.0
        x = state.data.standard_normal(4)
        yield Progress(state.step, "sampling", 1, 2)
        y = state.noise.draw()
        if config.pause_s:
            time.sleep(config.pause_s)
        yield Progress(state.step, "updating", 0, 1)
        if config.fail_at == state.step + 1:
            raise TroubleError("the loss is not finite", rows=["a", "b"])
        state.w = state.w + now.lr * (goal - state.w + now.spread * (x + y))
        state.step += 1
        yield Updated(state.step, {"w": float(state.w[0]), "lr": now.lr})
        yield Checked(state.step, "finite", True, 0.0, 0.0, "every weight is finite")
        if config.probe_every and state.step % config.probe_every == 0:
            yield Progress(state.step, "probing", 0, 1)
            yield probe(state)
            yield Evaluated(state.step, {"eval_w": float(state.w[1])})
    yield Done(state.step, "finished", "all steps are done")


def build(run: Run) -> Built:
    config = run.config()
    return Built(ToyState(config), config, toy)


def straight(config: ToyConfig, edits: dict[int, dict[str, Any]] | None = None) -> str:
    """The fingerprint after a run that nobody touched; `edits[s]` hold from step s + 1 on."""
    state = ToyState(config)
    state.live.update((edits or {}).get(0, {}))
    for event in toy(state, config):
        if isinstance(event, Updated):
            state.live.update((edits or {}).get(event.step, {}))
    return state.fingerprint
