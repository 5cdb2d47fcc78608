"""The settings of every method: one frozen dataclass each, one sentence with its unit under each field.

The same dataclass draws the terminal's flags, the Studio's controls and the README's table. Contradictions are
refused where the value is made, with the reason. A setting marked `live` may be edited while a run is paused or plays.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any


class ConfigError(ValueError):
    """A setting that cannot work, with the reason and what to do."""


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    live: bool = False,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field with its meaning, unit, range (`low` ≤ value ≤ `high`) and whether it may change during a run."""
    meta = {"help": help, "unit": unit, "live": live, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=meta)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a config, as a form or a flag needs it."""

    name: str
    kind: type
    default: Any
    help: str
    unit: str
    live: bool
    low: float | None
    high: float | None
    choices: tuple[str, ...]


def settings(cls: type) -> Iterator[Setting]:
    """Every field of a config class, in order."""
    hints = typing.get_type_hints(cls)
    for f in fields(cls):
        m = f.metadata
        yield Setting(
            f.name,
            hints[f.name],
            _default(f),
            m.get("help", ""),
            m.get("unit", ""),
            m.get("live", False),
            m.get("low"),
            m.get("high"),
            m.get("choices", ()),
        )


def live_settings(cls: type) -> dict[str, Setting]:
    """The settings that may be edited while the run goes on."""
    return {s.name: s for s in settings(cls) if s.live}


def _default(f: Field) -> Any:
    return f.default if f.default is not MISSING else None


KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "True or False"),
    str: ((str,), "text"),
}
"""The types of settings: what each accepts, and what it is called."""


def check(config: Any) -> None:
    """Refuses values of another type, outside their range or choices; every config calls it in `__post_init__`."""
    for s in settings(type(config)):
        value = getattr(config, s.name)
        if s.choices and value not in s.choices:
            raise ConfigError(f"{s.name} is {value!r}; choose one of {', '.join(s.choices)}.")
        accepted, words = KINDS[s.kind]
        if not isinstance(value, accepted) or isinstance(value, bool) != (s.kind is bool):
            raise ConfigError(f"{s.name} is {value!r}; it must be {words}.")
        if isinstance(value, (bool, str)):
            continue
        if not math.isfinite(value):
            raise ConfigError(f"{s.name} is {value}; it must be a finite number.")
        if (s.low is not None and value < s.low) or (s.high is not None and value > s.high):
            raise ConfigError(f"{s.name} is {value:g}; it must lie in [{_edge(s.low, '−∞')}, {_edge(s.high, '∞')}].")


def _edge(x: float | None, infinity: str) -> str:
    return infinity if x is None else f"{x:g}"


SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Adapter:
    """The low-rank adapter (LoRA) of a new role."""

    rank: int = setting(16, "rank of the two low-rank matrices", low=1, high=512)
    alpha: int = setting(32, "scale: the update is multiplied by alpha / rank", low=1)
    targets: str = setting(
        "all-linear",
        "which layers carry adapters: all-linear, attention or mlp",
        choices=("all-linear", "attention", "mlp"),
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning: imitate demonstrations by maximum likelihood of the completion tokens."""

    lr: float = setting(2e-4, "peak learning rate of the adapter", live=True, low=0)
    epochs: float = setting(1.0, "passes over the data", unit="passes", low=0)
    batch: int = setting(32, "demonstrations per optimizer update", unit="rows", low=1)
    max_length: int = setting(1024, "longest row; longer ones are dropped and counted", unit="tokens", low=2)
    warmup: float = setting(0.05, "share of the updates in which the learning rate rises from 0", low=0, high=1)
    schedule: str = setting("cosine", "how the learning rate goes on after the warm-up", choices=SCHEDULES)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", low=0, live=True)
    weight_decay: float = setting(0.0, "decoupled weight decay of AdamW", low=0)
    eval_share: float = setting(0.05, "share of the prompts held out for the evaluation loss", low=0, high=0.5)
    eval_every: int = setting(25, "updates between evaluations (0: only at the end)", unit="updates", low=0)
    probe_every: int = setting(
        25, "updates between answers to the probe prompts (0: start and end)", unit="updates", low=0
    )
    save_every: int = setting(50, "updates between checkpoints (0: only at the end)", unit="updates", low=0)
    tokens_per_pass: int = setting(8192, "packed tokens that go through the base at once", unit="tokens", low=1)
    seed: int = setting(0, "seed of the data order")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class RewardConfig:
    """Reward model: a scalar head on the last token, trained on preferences by Bradley and Terry's likelihood."""

    lr: float = setting(1e-4, "peak learning rate of the adapter", live=True, low=0)
    head_lr: float = setting(1e-4, "peak learning rate of the reward head", live=True, low=0)
    epochs: float = setting(1.0, "passes over the data", unit="passes", low=0)
    batch: int = setting(32, "pairs per optimizer update", unit="pairs", low=1)
    centring: float = setting(0.01, "weight of (r_chosen + r_rejected)², which keeps rewards near zero", low=0)
    max_length: int = setting(
        1024, "longest prompt with completion; longer pairs are dropped and counted", unit="tokens", low=2
    )
    warmup: float = setting(0.05, "share of the updates in which the learning rate rises from 0", low=0, high=1)
    schedule: str = setting("linear", "how the learning rate goes on after the warm-up", choices=SCHEDULES)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", low=0, live=True)
    weight_decay: float = setting(0.0, "decoupled weight decay of AdamW", low=0)
    eval_share: float = setting(0.1, "share of the prompts held out for accuracy", low=0, high=0.5)
    eval_every: int = setting(25, "updates between evaluations (0: only at the end)", unit="updates", low=0)
    probe_every: int = setting(
        25, "updates between scores of the probe prompts (0: start and end)", unit="updates", low=0
    )
    save_every: int = setting(50, "updates between checkpoints (0: only at the end)", unit="updates", low=0)
    tokens_per_pass: int = setting(8192, "packed tokens that go through the base at once", unit="tokens", low=1)
    standardise: bool = setting(
        True,
        "store mean and spread of the rewards on held-out chosen and rejected "
        "completions with the model, so that one unit is one standard deviation",
    )
    seed: int = setting(0, "seed of the data order and the head")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation from a reward model, with a KL penalty to the starting policy in the reward."""

    steps: int = setting(100, "steps: sample, score, credit, update", unit="steps", low=0)
    lr: float = setting(1e-5, "learning rate of the policy's adapter", live=True, low=0)
    value_lr: float = setting(1e-5, "learning rate of the value role's adapter", live=True, low=0)
    value_head_lr: float = setting(1e-4, "learning rate of the value head", live=True, low=0)
    batch: int = setting(64, "completions per step", unit="completions", low=1)
    per_prompt: int = setting(1, "completions per distinct prompt of a step", unit="completions", low=1)
    minibatches: int = setting(1, "optimizer updates per pass over a step's completions", unit="updates", low=1)
    epochs: int = setting(2, "passes over a step's completions", unit="passes", low=1)
    kl: float = setting(
        0.05, "weight β of the KL penalty to the reference, in the reward", unit="reward per nat", live=True, low=0
    )
    kl_target: float = setting(
        0.0, "if > 0, β is adapted to keep the summed KL per completion near this", unit="nats", low=0
    )
    kl_horizon: int = setting(10_000, "completions over which β adapts", unit="completions", low=1)
    gamma: float = setting(1.0, "discount per token", low=0, high=1)
    lam: float = setting(0.95, "λ of generalised advantage estimation", low=0, high=1)
    clip: float = setting(
        0.2, "the ratio to the old policy earns nothing outside [1 − clip, 1 + clip]", live=True, low=0
    )
    value_clip: float = setting(0.2, "the value may move this far from its old estimate", unit="reward", low=0)
    value_coef: float = setting(0.1, "weight of the value loss", low=0)
    temperature: float = setting(
        1.0, "sampling temperature, in the sampler and in every log-probability", live=True, low=1e-3
    )
    max_new_tokens: int = setting(
        64, "longest completion; a longer one is cut and counts as not ended", unit="tokens", low=1
    )
    missing_end: float = setting(
        1.0, "taken from the reward of a completion that did not end", unit="reward", live=True, low=0
    )
    truncated: str = setting(
        "keep", "completions that did not end: keep them, or mask them out of the losses", choices=("keep", "mask")
    )
    reward_clip: float = setting(
        10.0, "rewards are clipped to ± this after standardising (0: no clip)", unit="reward", low=0
    )
    whiten_rewards: bool = setting(False, "give the per-token rewards unit spread, keeping their mean")
    max_grad_norm: float = setting(1.0, "gradients of each role are scaled down to this norm", low=0, live=True)
    adam_eps: float = setting(1e-5, "ε of Adam", low=0)
    warmup: float = setting(0.0, "share of the updates in which the learning rates rise from 0", low=0, high=1)
    schedule: str = setting("constant", "how the learning rates go on after the warm-up", choices=SCHEDULES)
    probe_every: int = setting(10, "steps between answers to the probe prompts (0: start and end)", unit="steps", low=0)
    save_every: int = setting(10, "steps between checkpoints (0: only at the end)", unit="steps", low=0)
    tokens_per_pass: int = setting(8192, "packed tokens that go through the base at once", unit="tokens", low=1)
    seed: int = setting(0, "seed of the prompts' order and of the sampling noise")

    def __post_init__(self) -> None:
        check(self)
        if self.batch % self.per_prompt:
            raise ConfigError(
                f"batch ({self.batch}) must be a multiple of per_prompt ({self.per_prompt}), "
                "so that every prompt of a step has the same number of completions."
            )
        if self.batch % self.minibatches:
            raise ConfigError(f"batch ({self.batch}) must be a multiple of minibatches ({self.minibatches}).")


CONFIGS: dict[str, type] = {"sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig}
