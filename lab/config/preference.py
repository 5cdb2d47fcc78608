"""Settings of learning from given preferences without a reward model: pairs, and single thumbs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.config.setting import SCHEDULES, ConfigError, check, setting

if TYPE_CHECKING:
    from lab.objectives.pairs import Knobs

KNOBS = ("beta", "smoothing", "gamma", "nll", "divergence", "sharpness")
"""The settings that are numbers of an objective, as in `lab.objectives.pairs.Knobs`."""


@dataclass(frozen=True)
class PreferenceConfig:
    """Direct preference optimisation and its family: the policy itself is made to prefer the chosen completion."""

    objective: str = setting("dpo", "the objective, or a mixture by weight such as 0.8*dpo + 0.2*nll")
    beta: float | None = setting(
        None, "β: how much reward a nat of log-ratio stands for; empty: the objective's own", unit="reward per nat",
        live=True, low=0
    )  # fmt: skip
    smoothing: float | None = setting(None, "ε: share of the labels believed to be flipped", low=0, high=0.5)
    gamma: float | None = setting(None, "γ: how far the chosen one should be ahead (SimPO)", unit="reward", low=0)
    nll: float | None = setting(None, "weight of the chosen completion's log-likelihood (CPO)", low=0)
    divergence: float | None = setting(None, "α of the α-divergence (fdpo_alpha)", low=0, high=1)
    sharpness: float | None = setting(None, "how sharply DiscoPOP goes over from one loss to the other", low=1e-6)
    reference: str = setting(
        "live",
        "when the reference scores the pairs: with the batch, or all before the first update; bitwise the same",
        choices=("live", "precomputed"),
    )
    lr: float = setting(5e-6, "peak learning rate of the adapter", live=True, low=0)
    epochs: float = setting(1.0, "passes over the data", unit="passes", low=0)
    batch: int = setting(32, "pairs per optimizer update", unit="pairs", low=1)
    max_length: int = setting(
        1024, "longest prompt with completion; longer pairs are dropped and counted", unit="tokens", low=2
    )
    warmup: float = setting(0.1, "share of the updates in which the learning rate rises from 0", low=0, high=1)
    schedule: str = setting("linear", "how the learning rate goes on after the warm-up", choices=SCHEDULES)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", low=0, live=True)
    weight_decay: float = setting(0.0, "decoupled weight decay of AdamW", low=0)
    eval_share: float = setting(0.1, "share of the prompts held out for accuracy", low=0, high=0.5)
    eval_every: int = setting(25, "updates between evaluations (0: only at the end)", unit="updates", low=0)
    probe_every: int = setting(
        25, "updates between answers to the probe prompts (0: start and end)", unit="updates", low=0
    )
    save_every: int = setting(50, "updates between checkpoints (0: only at the end)", unit="updates", low=0)
    tokens_per_pass: int = setting(8192, "packed tokens that go through the base at once", unit="tokens", low=1)
    seed: int = setting(0, "seed of the data order")

    def __post_init__(self) -> None:
        check(self)
        try:
            knobs = self.knobs()
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if len(knobs) == 1:
            from lab.objectives.preference import OBJECTIVES

            [(name, own)] = knobs.items()
            for knob in ("beta", *OBJECTIVES[name].reads):
                object.__setattr__(self, knob, getattr(own, knob))

    def terms(self) -> tuple[tuple[str, float], ...]:
        """(objective, weight) of every part of the mixture."""
        from lab.objectives.preference import parse_mixture

        return parse_mixture(self.objective)

    def knobs(self) -> dict[str, Knobs]:
        """objective -> its numbers: those given here, else its own.

        Raises ValueError for an unknown objective, weights that do not sum to 1, a number outside its range, or one
        that no part of the mixture reads.
        """
        from lab.objectives.preference import mixture_knobs

        return mixture_knobs(self.terms(), **{name: getattr(self, name) for name in KNOBS})


@dataclass(frozen=True)
class KTOConfig:
    """Learning from thumbs up and thumbs down: no completion needs a rival."""

    objective: str = setting("kto", "Kahneman and Tversky's utility, or a classifier (BCO)", choices=("kto", "bco"))
    beta: float | None = setting(
        None,
        "β: how much reward a nat of log-ratio stands for; empty: the objective's own",
        unit="reward per nat",
        live=True,
        low=0,
    )
    liked_weight: float | None = setting(
        None, "weight of a liked completion; empty: what balances the two kinds", live=True, low=0
    )
    disliked_weight: float | None = setting(
        None, "weight of a disliked completion; empty: what balances the two kinds", live=True, low=0
    )
    lr: float = setting(5e-6, "peak learning rate of the adapter", live=True, low=0)
    epochs: float = setting(1.0, "passes over the data", unit="passes", low=0)
    batch: int = setting(32, "completions per optimizer update; two at least", unit="rows", low=1)
    max_length: int = setting(
        1024, "longest prompt with completion; longer rows are dropped and counted", unit="tokens", low=2
    )
    warmup: float = setting(0.1, "share of the updates in which the learning rate rises from 0", low=0, high=1)
    schedule: str = setting("linear", "how the learning rate goes on after the warm-up", choices=SCHEDULES)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", low=0, live=True)
    weight_decay: float = setting(0.0, "decoupled weight decay of AdamW", low=0)
    eval_share: float = setting(0.1, "share of the prompts held out", low=0, high=0.5)
    eval_every: int = setting(25, "updates between evaluations (0: only at the end)", unit="updates", low=0)
    probe_every: int = setting(
        25, "updates between answers to the probe prompts (0: start and end)", unit="updates", low=0
    )
    save_every: int = setting(50, "updates between checkpoints (0: only at the end)", unit="updates", low=0)
    tokens_per_pass: int = setting(8192, "packed tokens that go through the base at once", unit="tokens", low=1)
    seed: int = setting(0, "seed of the data order")

    def __post_init__(self) -> None:
        check(self)
        if self.beta is None:
            from lab.objectives.unpaired import UNPAIRED

            object.__setattr__(self, "beta", UNPAIRED[self.objective].beta)
        if self.beta == 0:
            raise ConfigError("beta is 0; it must be above 0, or nothing is learnt.")
        if self.batch < 2 and self.objective == "kto":
            raise ConfigError(
                "batch is 1; KTO's zero point is the mean log-ratio of completions under other rows' prompts, "
                "so a batch needs at least 2 rows."
            )
