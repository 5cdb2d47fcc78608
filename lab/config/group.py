"""Settings of the critic-free on-policy methods: groups of completions, compared with each other."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from lab.config.setting import SCHEDULES, ConfigError, check, setting


@dataclass(frozen=True)
class GroupConfig:
    """Group-relative policy optimisation and its family: a completion is worth what it earns beside its group.

    The variant gives every setting that is left empty its own value.
    """

    variant: str = setting("grpo", "whose recipe: grpo, dr_grpo, dapo, gspo, cispo, rloo, reinforce_pp, …")
    steps: int = setting(100, "steps: sample, reward, compare, update", unit="steps", low=0)
    lr: float = setting(1e-5, "learning rate of the policy's adapter", live=True, low=0)
    prompts: int = setting(16, "distinct prompts per step", unit="prompts", low=1)
    group: int | None = setting(None, "completions of each prompt; empty: the variant's own", unit="completions", low=1)
    minibatches: int = setting(1, "optimizer updates per pass over a step's completions", unit="updates", low=1)
    epochs: int = setting(1, "passes over a step's completions", unit="passes", low=1)
    advantage: str | None = setting(
        None, "how a reward becomes an advantage within its group; empty: the variant's own",
        choices=("group_std", "group_mean", "leave_one_out", "batch_std", "none", "gdpo"),
    )  # fmt: skip
    surrogate: str | None = setting(
        None, "the policy loss and the level of its ratio; empty: the variant's own",
        choices=("token", "two_sided", "sequence_mean", "sequence_sum", "cispo", "reinforce", "sapo"),
    )  # fmt: skip
    reduction: str | None = setting(
        None, "what the loss is averaged over; empty: the variant's own",
        choices=("token_mean", "sequence_mean", "sequence_sum", "constant"),
    )  # fmt: skip
    clip_low: float | None = setting(
        None, "the ratio earns nothing below 1 − this; empty: the variant's own", live=True, low=0
    )
    clip_high: float | None = setting(
        None, "the ratio earns nothing above 1 + this; empty: the variant's own", live=True, low=0
    )
    kl_in_reward: float | None = setting(
        None, "weight of the KL penalty inside the reward; empty: the variant's own", unit="reward per nat",
        live=True, low=0
    )  # fmt: skip
    kl_in_loss: float | None = setting(
        None, "weight of the KL term beside the policy loss; empty: the variant's own",
        unit="advantage per nat of a token", live=True, low=0
    )  # fmt: skip
    kl_estimator: str | None = setting(
        None, "estimator of the KL term in the loss; empty: the variant's own", choices=("k1", "k2", "k3",
                                                                                       "k3_corrected")
    )  # fmt: skip
    whiten_tokens: bool | None = setting(
        None, "whiten the advantages over all tokens of the step; empty: the variant's own"
    )
    dynamic_sampling: bool | None = setting(
        None, "sample again for prompts whose completions all earn the same; empty: the variant's own"
    )
    resamples: int = setting(3, "rounds of sampling at most, with dynamic sampling", unit="rounds", low=1)
    overlong: float | None = setting(
        None, "last share of the longest length in which the reward falls by up to 1; empty: the variant's own", low=0,
        high=1
    )  # fmt: skip
    truncated: str | None = setting(
        None, "completions that did not end: keep them, or mask them out of the losses; empty: the variant's own",
        choices=("keep", "mask")
    )  # fmt: skip
    correction: str = setting(
        "truncate", "weights for the gap between sampler and trainer: none, truncated, or masked outside the limits",
        choices=("none", "truncate", "mask")
    )  # fmt: skip
    correction_level: str = setting("token", "whose ratio is corrected", choices=("token", "sequence"))
    correction_low: float = setting(0.0, "raised to, or masked below, this ratio", low=0, high=1)
    correction_high: float = setting(2.0, "truncated at, or masked above, this ratio", low=1)
    temperature: float = setting(
        1.0, "sampling temperature, in the sampler and in every log-probability", live=True, low=1e-3
    )
    max_new_tokens: int = setting(
        64, "longest completion; a longer one is cut and counts as not ended", unit="tokens", low=1
    )
    missing_end: float = setting(
        1.0, "taken from the reward of a completion that did not end", unit="reward", live=True, low=0
    )
    reward_clip: float = setting(10.0, "rewards are clipped to ± this (0: no clip)", unit="reward", low=0)
    ensemble: str = setting(
        "mean",
        "how the members of an ensemble of reward models are read: their mean, the worst, or mean − doubt · variance",
        choices=("mean", "worst", "uncertainty"),
    )
    doubt: float = setting(0.1, "weight of an ensemble's variance", unit="per unit of reward", low=0)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", low=0, live=True)
    adam_eps: float = setting(1e-5, "ε of Adam", low=0)
    warmup: float = setting(0.0, "share of the updates in which the learning rate rises from 0", low=0, high=1)
    schedule: str = setting("constant", "how the learning rate goes on after the warm-up", choices=SCHEDULES)
    probe_every: int = setting(10, "steps between answers to the probe prompts (0: start and end)", unit="steps", low=0)
    save_every: int = setting(10, "steps between checkpoints (0: only at the end)", unit="steps", low=0)
    tokens_per_pass: int = setting(8192, "packed tokens that go through the base at once", unit="tokens", low=1)
    seed: int = setting(0, "seed of the prompts' order and of the sampling noise")

    def __post_init__(self) -> None:
        from lab.objectives.variants import VARIANTS, Variant

        if self.variant not in VARIANTS:
            raise ConfigError(f"There is no variant {self.variant!r}; choose one of {', '.join(VARIANTS)}.")
        check(self)
        own = {f.name for f in fields(Variant)} & {f.name for f in fields(self)}
        given = {name: getattr(self, name) for name in own if getattr(self, name) is not None}
        decoupled = (
            {"advantage": "group_std"} if self.advantage == "gdpo" else {}
        )  # of several rewards, before they add up
        try:
            variant = replace(VARIANTS[self.variant], **given | decoupled)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        for name in own - given.keys():
            object.__setattr__(self, name, getattr(variant, name))
        if self.batch % self.minibatches:
            raise ConfigError(f"prompts × group ({self.batch}) must be a multiple of minibatches ({self.minibatches}).")
        if self.dynamic_sampling and self.advantage == "none":
            raise ConfigError("Dynamic sampling looks for groups that differ; it needs an advantage of a group.")

    @property
    def batch(self) -> int:
        """Completions of a step."""
        assert self.group is not None
        return self.prompts * self.group
