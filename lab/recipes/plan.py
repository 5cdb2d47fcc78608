"""What a recipe means: every stage with its settings, its data, its start and its rewards.

A stage is a method of `lab.config.CONFIGS`, or `compare`, which is no run: the last policy answers prompts twice and an
annotator says which answer is better. Besides its method's settings a stage may say

    data      a path, a Hub id, `tiny:prompts`, an earlier compare stage (pairs and ratings: by default the last one)
    init      whose adapter it starts from: an earlier stage, a folder, or `base` for none (default: the last policy)
    reward    what completions earn, one or a list of [weight*]what: an earlier reward stage (default: the last one), a
              verifier, file.py:function or model:folder
    name      what it and its run are called (default: the method)

`lab.recipes.planner` finds it out, or everything that is wrong.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from lab import launch, tiny
from lab.columns import Kind
from lab.config import ConfigError, check, setting
from lab.data import updates_in
from lab.recipes.recipe import Stage

COMPARE = "compare"
BITS = (4, 8, 16, 32)


@dataclass(frozen=True)
class CompareConfig:
    """Comparisons: a policy answers prompts, and a simulated annotator says which of two answers is better."""

    n: int = setting(1000, "pairs to be judged", unit="pairs", low=1)
    annotator: str = setting(tiny.DEFAULT_ANNOTATOR, "who judges", choices=tuple(tiny.ANNOTATORS))
    per_prompt: int = setting(2, "answers to a prompt in a round", unit="answers", low=2)
    temperature: float = setting(1.0, "sampling temperature", low=1e-3)
    max_new_tokens: int = setting(tiny.MAX_NEW_TOKENS, "longest answer", unit="tokens", low=1)
    seed: int = setting(0, "seed of the answers and of the annotator", low=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Ground:
    """What all stages stand on."""

    name: str = setting("recipe", "what the stack is called")
    about: str = setting("", "one line for people")
    model: str = setting("tiny", "tiny, a folder, or a Hub id")
    bits: int = setting(4, "how the base is kept")
    double_quant: bool = setting(False, "quantise the scales too")
    seed: int = setting(0, "seed of every stage that names none", low=0)

    def __post_init__(self) -> None:
        check(self)
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ConfigError(f"name is {self.name!r}; it must be letters, digits, '-', '_' and '.'.")
        if self.bits not in BITS:
            raise ConfigError(f"bits is {self.bits}; choose one of {', '.join(map(str, BITS))}.")


@dataclass(frozen=True)
class Planned:
    """One stage as it will be played; `stage` is what was written.

    data : a path, a Hub id, tiny:…, or the name of a compare stage
    init : the stage or the folder it starts from; `base` for the raw base
    rows : how many records it learns from; None where they are fetched only when it begins
    """

    name: str
    method: str
    config: Any
    stage: Stage
    init: str
    data: str = ""
    rewards: tuple[str, ...] = ()
    rows: int | None = None

    @property
    def kind(self) -> Kind:
        """What it reads."""
        return "prompt" if self.method == COMPARE else launch.kind_of(self.method, self.config)

    @property
    def steps(self) -> int | None:
        """Its steps; of a method that passes over data about so many, because whole prompts are held out."""
        if hasattr(self.config, "steps") or self.rows is None or not hasattr(self.config, "epochs"):
            return getattr(self.config, "steps", None)
        used = round(self.rows * (1 - getattr(self.config, "eval_share", 0.0)))
        return updates_in(used, self.config.batch, self.config.epochs)

    def row(self) -> dict[str, Any]:
        """What makes the stage what it is, as JSON-able values."""
        about = {"name": self.name, "method": self.method, "data": self.data, "init": self.init}
        return about | {"rewards": list(self.rewards)} | asdict(self.config)


@dataclass(frozen=True)
class Plan:
    """A recipe that can be played."""

    ground: Ground
    setup: launch.Setup
    stages: tuple[Planned, ...]

    def base(self) -> dict[str, Any]:
        """What all stages share, as JSON-able values."""
        own = asdict(self.setup)
        return {key: own[key] for key in ("model", "bits", "double_quant", "adapter")} | {"probes": [*own["probes"]]}


def trains_policy(method: str) -> bool:
    """Whether people and later stages take a policy from it."""
    return launch.PARTS.get(method) in ("sft", "policy")


def trains_reward(method: str) -> bool:
    """Whether completions can be scored by what it trains."""
    return launch.PARTS.get(method) == "reward"
