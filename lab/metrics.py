"""The figures of a run by name: which share a pair of axes, with units, and which say most about each method."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """Metrics that share one pair of axes; the first is drawn solid, the next dashed, dotted."""

    title: str
    names: tuple[str, ...]
    unit: str = ""
    hint: str = ""
    essential: bool = False


GROUPS: tuple[Group, ...] = (
    Group("Reward", ("reward", "gold"), "", "solid: the reward it learns from; dashed: true score", True),
    Group("KL to the reference", ("kl",), "nats per completion", "", True),
    Group("Loss", ("loss", "eval_loss"), "nats", "solid: training; dashed: held out", True),
    Group("Token accuracy", ("token_accuracy", "eval_token_accuracy"), "share", "dashed: held out", True),
    Group(
        "Accuracy",
        ("accuracy", "eval_accuracy", "gold_accuracy"),
        "share",
        "dashed: held out; dotted: true score",
        True,
    ),
    Group("Steps told apart", ("step_auroc", "solution_auroc"), "AUROC, held out", "dashed: whole solutions", True),
    Group("First mistake found", ("first_error",), "share of solutions", "", True),
    Group("Disagreement", ("disagreement",), "reward", "spread between the members of the ensemble"),
    Group("Margin", ("margin", "eval_margin"), "reward", "chosen minus rejected; dashed: held out", True),
    Group("Reward of chosen and rejected", ("reward_chosen", "reward_rejected"), "reward", "dashed: rejected", True),
    Group("Reward of liked and disliked", ("reward_liked", "reward_disliked"), "reward", "dashed: disliked", True),
    Group("Probability of the chosen", ("logprob_chosen", "eval_logprob_chosen"), "log, nats", "it falls in healthy "
          "runs too; by more than 20 it is displacement", True),
    Group("Length", ("length",), "tokens per completion", "", True),
    Group("Entropy", ("entropy",), "nats per token", "", True),
    Group("Accepted", ("accepted",), "share of completions", "what was good enough to imitate", True),
    Group("Ended", ("ended",), "share of completions", "", True),
    Group("Groups without a difference", ("flat_groups",), "share of groups", "they teach nothing", True),
    Group("Clipped", ("clip_fraction",), "share of tokens", "ratio outside the clip range"),
    Group("KL by k3", ("kl_k3",), "nats per completion"),
    Group("Reward spread", ("reward_mean", "reward_std"), "reward"),
    Group("Explained variance", ("explained_variance",), "share", "1: the value role knows the return"),
    Group("Policy loss", ("policy_loss",)),
    Group("KL in the loss", ("kl_loss",), "nats per token"),
    Group("Value loss", ("value_loss",)),
    Group("Step size in KL", ("approx_kl",), "nats per token"),
    Group("Mean ratio", ("ratio_mean",)),
    Group("KL weight β", ("beta",), "reward per nat"),
    Group("Zero point", ("baseline",), "", "what an ordinary completion gains"),
    Group("Learning rate", ("lr",)),
    Group("Gradient norm", ("grad_norm", "value_grad_norm")),
    Group("Sampler gap", ("sampler_gap",), "probability", "training forward against sampler"),
    Group("Time per step", ("step_s",), "s"),
    Group("Speed", ("tokens_per_s",), "tokens per second"),
)  # fmt: skip

_ON_POLICY = ("reward", "gold", "kl", "length", "ended")
_PAIRS = ("loss", "eval_accuracy", "margin", "logprob_chosen")

HEADLINES: dict[str, tuple[str, ...]] = {
    "sft": ("loss", "eval_loss", "token_accuracy"),
    "reward": ("loss", "accuracy", "eval_accuracy", "gold_accuracy"),
    "process": ("loss", "eval_loss", "step_auroc", "first_error"),
    "ppo": _ON_POLICY,
    "dpo": _PAIRS,
    "kto": ("loss", "eval_accuracy", "margin", "baseline"),
    "grpo": ("reward", "gold", "kl", "length", "ended", "flat_groups"),
    "online": ("reward", "gold", "kl", "margin", "ended"),
    "raft": ("reward", "reward_kept", "gold", "kl", "ended"),
}
"""Method -> the few figures beside a progress bar and in a status line; another method shows its first groups."""

PANELS: dict[str, tuple[str, ...]] = {
    "sft": ("loss", "token_accuracy"),
    "reward": ("loss", "accuracy", "margin"),
    "process": ("loss", "accuracy", "step_auroc"),
    "ppo": ("reward", "kl", "length", "entropy", "ended", "clip_fraction"),
    "dpo": ("loss", "accuracy", "margin", "reward_chosen", "logprob_chosen", "grad_norm"),
    "kto": ("loss", "eval_accuracy", "margin", "reward_liked", "logprob_liked", "baseline"),
    "grpo": ("reward", "kl", "length", "entropy", "flat_groups", "ended"),
    "online": ("reward", "kl", "margin", "length", "entropy", "ended"),
    "raft": ("reward", "kl", "length", "loss", "accepted", "ended"),
}
"""Method -> the first metric of each small pair of axes in a notebook."""

NOISY: dict[str, float] = {"ppo": 0.6, "grpo": 0.6, "online": 0.6, "raft": 0.3}
"""Methods whose steps are noisy -> how much of the past a smooth value holds."""
