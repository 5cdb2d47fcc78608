"""Settings of process reward models: a judgement of every step of a solution."""

from __future__ import annotations

from dataclasses import dataclass

from lab.config.setting import SCHEDULES, ConfigError, check, setting


@dataclass(frozen=True)
class ProcessConfig:
    """Process reward model: a scalar head at the end of every step, trained on which steps are right."""

    lr: float = setting(1e-4, "peak learning rate of the adapter", live=True, low=0)
    head_lr: float = setting(1e-4, "peak learning rate of the head", live=True, low=0)
    epochs: float = setting(1.0, "passes over the data", unit="passes", low=0)
    batch: int = setting(32, "solutions per optimizer update", unit="solutions", low=1)
    separator: str = setting("\n", "text that ends every step; the head reads its last token")
    last_only: bool = setting(False, "learn the last step alone: an outcome reward model")
    aggregate: str = setting(
        "min",
        "how the probabilities of the steps become one of the solution, where solutions are compared",
        choices=("min", "product", "last", "mean"),
    )
    max_length: int = setting(
        1024, "longest prompt with all steps; longer solutions are dropped and counted", unit="tokens", low=2
    )
    warmup: float = setting(0.05, "share of the updates in which the learning rate rises from 0", low=0, high=1)
    schedule: str = setting("linear", "how the learning rate goes on after the warm-up", choices=SCHEDULES)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", low=0, live=True)
    weight_decay: float = setting(0.0, "decoupled weight decay of AdamW", low=0)
    eval_share: float = setting(0.1, "share of the prompts held out for the figures", low=0, high=0.5)
    eval_every: int = setting(25, "updates between evaluations (0: only at the end)", unit="updates", low=0)
    probe_every: int = setting(
        25, "updates between readings of the probe solutions (0: start and end)", unit="updates", low=0
    )
    save_every: int = setting(50, "updates between checkpoints (0: only at the end)", unit="updates", low=0)
    tokens_per_pass: int = setting(8192, "packed tokens that go through the base at once", unit="tokens", low=1)
    seed: int = setting(0, "seed of the data order")

    def __post_init__(self) -> None:
        check(self)
        if not self.separator:
            raise ConfigError("separator is empty, so no token would end a step; give a text such as a line break.")
