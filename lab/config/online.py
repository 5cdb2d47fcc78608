"""Settings of online preference learning: two completions sampled now, and a verdict between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.config.preference import KNOBS
from lab.config.setting import SCHEDULES, ConfigError, check, setting

if TYPE_CHECKING:
    from lab.objectives.pairs import Knobs

ALONE = ("xpo", "nash_md")
"""Objectives that are no function of a pair alone, and so stand in no mixture."""


@dataclass(frozen=True)
class OnlineConfig:
    """Online preference learning: sample two completions of every prompt, have one preferred, learn from the pair."""

    objective: str = setting(
        "dpo", "xpo, nash_md, or an objective for pairs, or a mixture of those by weight such as 0.8*dpo + 0.2*nll"
    )
    steps: int = setting(100, "steps: sample two, compare, update", unit="steps", low=0)
    lr: float = setting(1e-5, "learning rate of the policy's adapter", live=True, low=0)
    prompts: int = setting(32, "distinct prompts per step, each with two completions", unit="prompts", low=1)
    judge: str = setting(
        "verdict",
        "what a comparison says: the higher reward wins, it wins with the probability σ of the difference, or the run "
        "waits until somebody has answered",
        choices=("verdict", "probability", "asked"),
    )
    epochs: int = setting(
        1, "passes over a step's pairs, one update each; more than one where verdicts are dear", unit="passes", low=1
    )
    ties: str = setting(
        "half",
        "pairs of equal rewards, or called equal: each side wins by half, or the pair is dropped",
        choices=("half", "drop"),
    )
    beta: float | None = setting(
        None, "β: how much reward a nat of log-ratio stands for; empty: the objective's own", unit="reward per nat",
        live=True, low=0
    )  # fmt: skip
    exploration: float | None = setting(
        None, "α: weight of XPO's bonus for leaving what the reference says (xpo)", unit="per nat", low=0
    )
    mixture: float | None = setting(
        None, "share of the reference in the opponent, a geometric mixture with the policy (nash_md)", low=0, high=1
    )
    smoothing: float | None = setting(None, "ε: share of the verdicts believed to be flipped", low=0, high=0.5)
    gamma: float | None = setting(None, "γ: how far the chosen one should be ahead (SimPO)", unit="reward", low=0)
    nll: float | None = setting(None, "weight of the chosen completion's log-likelihood (CPO)", low=0)
    divergence: float | None = setting(None, "α of the α-divergence (fdpo_alpha)", low=0, high=1)
    sharpness: float | None = setting(None, "how sharply DiscoPOP goes over from one loss to the other", low=1e-6)
    truncated: str = setting(
        "keep", "completions that did not end: keep their pairs, or leave them out of the loss",
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
    adam_eps: float = setting(1e-8, "ε of Adam", low=0)
    warmup: float = setting(0.0, "share of the steps in which the learning rate rises from 0", low=0, high=1)
    schedule: str = setting("constant", "how the learning rate goes on after the warm-up", choices=SCHEDULES)
    probe_every: int = setting(10, "steps between answers to the probe prompts (0: start and end)", unit="steps", low=0)
    save_every: int = setting(10, "steps between checkpoints (0: only at the end)", unit="steps", low=0)
    tokens_per_pass: int = setting(8192, "packed tokens that go through the base at once", unit="tokens", low=1)
    seed: int = setting(0, "seed of the prompts' order and of the sampling noise")

    def __post_init__(self) -> None:
        check(self)
        _check_names(self.objective)
        for name, reader, own in (("exploration", "xpo", 1e-5), ("mixture", "nash_md", 0.5)):
            if self.objective != reader and getattr(self, name) is not None:
                raise ConfigError(f"{name} is given, but {self.objective} does not read it; {reader} does.")
            if self.objective == reader and getattr(self, name) is None:
                object.__setattr__(self, name, own)
        if self.objective in ALONE:
            self._settle_alone()
        else:
            self._settle_pairs()

    def _settle_alone(self) -> None:
        """β, and nothing that a pair objective alone would read."""
        for name in KNOBS:
            if name != "beta" and getattr(self, name) is not None:
                raise ConfigError(f"{name} is given, but {self.objective} does not read it; what it reads: beta.")
        if self.epochs > 1:
            raise ConfigError(f"epochs is {self.epochs}; {self.objective} learns from what the policy says now, and "
                              "after one update it would say something else: give 1.")  # fmt: skip
        if self.beta is None:
            object.__setattr__(self, "beta", 0.1)
        if self.objective == "xpo" and self.beta == 0:
            raise ConfigError("beta is 0; it must be above 0, or nothing is learnt.")
        if self.objective == "nash_md" and self.ties == "drop":
            raise ConfigError("Nash-MD takes the KL of every completion it samples; without the tied ones the penalty "
                              "would be another. Give ties=half.")  # fmt: skip

    def _settle_pairs(self) -> None:
        """The numbers of a pair objective: those given, else its own."""
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
        """(objective, weight) of every part of the mixture; of `xpo` and `nash_md`, that one alone."""
        from lab.objectives.preference import parse_mixture

        return ((self.objective, 1.0),) if self.objective in ALONE else parse_mixture(self.objective)

    def knobs(self) -> dict[str, Knobs]:
        """objective -> its numbers: those given here, else its own; empty for `xpo` and `nash_md`.

        Raises ValueError for weights that do not sum to 1, a number outside its range, or one that no part of the
        mixture reads.
        """
        from lab.objectives.preference import mixture_knobs

        if self.objective in ALONE:
            return {}
        return mixture_knobs(self.terms(), **{name: getattr(self, name) for name in KNOBS})

    @property
    def batch(self) -> int:
        """Completions of a step."""
        return 2 * self.prompts


def _check_names(objective: str) -> None:
    from lab.objectives.preference import OBJECTIVES

    if objective in ALONE:
        return
    for name in (part.rpartition("*")[2].strip() for part in objective.split("+")):
        if name in ALONE:
            raise ConfigError(f"{name} samples in its own way and stands in no mixture; give it by itself.")
        if name not in OBJECTIVES:
            raise ConfigError(f"There is no objective {name!r}; choose one of {', '.join((*ALONE, *OBJECTIVES))}.")
