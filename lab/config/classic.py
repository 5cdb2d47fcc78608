"""Settings of the classic pipeline: supervised fine-tuning, the reward model, proximal policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from lab.config.setting import SCHEDULES, ConfigError, check, setting


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
    batch: int = setting(
        32, "pairs, prompts or rankings per optimizer update, as the objective says", unit="elements", low=1
    )
    objective: str = setting(
        "bradley_terry",
        "pairs one by one, all pairs of a prompt as one element, or the whole order of a prompt's completions",
        choices=("bradley_terry", "kwise", "plackett_luce"),
    )
    members: int = setting(1, "reward models trained side by side: an ensemble", low=1, high=16)
    bootstrap: bool = setting(
        True, "each member of an ensemble learns from a draw of its own from the data, with replacement, not from all"
    )
    smoothing: float = setting(0.0, "share of the labels believed to be flipped", low=0, high=0.5)
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
        if self.smoothing and self.objective == "plackett_luce":
            raise ConfigError("smoothing is given, but the likelihood of an order knows no flipped labels; choose the "
                              "objective bradley_terry or kwise.")  # fmt: skip


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
    ensemble: str = setting(
        "mean",
        "how the members of an ensemble of reward models are read: their mean, the worst, or mean − doubt · variance",
        choices=("mean", "worst", "uncertainty"),
    )
    doubt: float = setting(0.1, "weight of an ensemble's variance", unit="per unit of reward", low=0)
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
