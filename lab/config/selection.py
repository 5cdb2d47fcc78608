"""Settings of rejection sampling: many completions sampled, the good ones imitated."""

from __future__ import annotations

from dataclasses import dataclass

from lab.config.setting import SCHEDULES, ConfigError, check, setting


@dataclass(frozen=True)
class SelectionConfig:
    """Rejection sampling: sample many completions of every prompt, keep the good ones, imitate them, and again."""

    rule: str = setting(
        "best", "what is kept: the best of each prompt's samples (RAFT), or any, the better the likelier",
        choices=("best", "rejection"),
    )  # fmt: skip
    steps: int = setting(20, "rounds: sample, keep, imitate", unit="rounds", low=0)
    lr: float = setting(1e-4, "learning rate of the policy's adapter", live=True, low=0)
    prompts: int = setting(32, "distinct prompts per round", unit="prompts", low=1)
    samples: int = setting(8, "completions of each prompt; two at least", unit="completions", low=1)
    beta: float | None = setting(
        None, "β of the rejection: a completion this far below the best is kept 1 / e of the time; empty: 0.5",
        unit="reward", live=True, low=0
    )  # fmt: skip
    epochs: int = setting(1, "passes over what a round kept", unit="passes", low=1)
    minibatches: int = setting(1, "optimizer updates per pass over what a round kept", unit="updates", low=1)
    truncated: str = setting(
        "keep", "kept completions that did not end: imitate them, or leave them out of the loss",
        choices=("keep", "mask")
    )  # fmt: skip
    temperature: float = setting(
        1.0, "sampling temperature, in the sampler and in every log-probability", live=True, low=1e-3
    )
    max_new_tokens: int = setting(
        64, "longest completion; a longer one is cut and counts as not ended", unit="tokens", low=1
    )
    missing_end: float = setting(
        1.0, "taken from the reward of a completion that did not end", unit="reward", live=True, low=0
    )
    ensemble: str = setting(
        "mean",
        "how the members of an ensemble of reward models are read: their mean, the worst, or mean − doubt · variance",
        choices=("mean", "worst", "uncertainty"),
    )
    doubt: float = setting(0.1, "weight of an ensemble's variance", unit="per unit of reward", low=0)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", low=0, live=True)
    weight_decay: float = setting(0.0, "decoupled weight decay of AdamW", low=0)
    warmup: float = setting(0.0, "share of the rounds in which the learning rate rises from 0", low=0, high=1)
    schedule: str = setting("constant", "how the learning rate goes on after the warm-up", choices=SCHEDULES)
    probe_every: int = setting(
        5, "rounds between answers to the probe prompts (0: start and end)", unit="rounds", low=0
    )
    save_every: int = setting(5, "rounds between checkpoints (0: only at the end)", unit="rounds", low=0)
    tokens_per_pass: int = setting(8192, "packed tokens that go through the base at once", unit="tokens", low=1)
    seed: int = setting(0, "seed of the prompts' order, of the sampling noise and of what is kept")

    def __post_init__(self) -> None:
        check(self)
        if self.samples < 2:
            raise ConfigError("samples is 1; of one completion nothing can be chosen, so give 2 at least.")
        if self.rule == "best" and self.beta is not None:
            raise ConfigError("beta is given, but the rule best does not read it; rejection does.")
        if self.rule == "rejection" and self.beta is None:
            object.__setattr__(self, "beta", 0.5)
        if self.beta == 0:
            raise ConfigError("beta is 0; it must be above 0. Only the best is kept by rule=best.")
        if self.minibatches > self.prompts:
            raise ConfigError(f"minibatches ({self.minibatches}) must not be more than prompts ({self.prompts}): a "
                              "round may keep no more than one completion of each.")  # fmt: skip

    @property
    def batch(self) -> int:
        """Completions of a round."""
        return self.prompts * self.samples
