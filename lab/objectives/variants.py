"""Critic-free methods as recipes: which advantage, which loss, which reduction, and where the KL goes.

Each entry of `VARIANTS` is a paper's method with its paper's numbers; `dataclasses.replace` makes the neighbours, and
combinations that cannot work are refused with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.objectives.advantages import TRUNCATED
from lab.objectives.group import ADVANTAGES
from lab.objectives.kl import ESTIMATORS
from lab.objectives.surrogate import SURROGATES
from lab.objectives.tokens import REDUCTIONS


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One method.

    advantage, surrogate, reduction: keys of `ADVANTAGES`, `SURROGATES` and `REDUCTIONS`.
    clip_low, clip_high: the ratio earns nothing outside [1 − clip_low, 1 + clip_high].
    group: completions per prompt.
    when: when to take it, and its trap. equation: the loss in one line. source: the paper.
    kl_in_reward: β, reward per nat of k1, taken from the reward; 0 for none.
    kl_in_loss: weight per nat of the estimator, added to the loss of each token; 0 for none.
    kl_estimator: a key of `ESTIMATORS`, for the KL in the loss.
    whiten_tokens: advantages are whitened over all tokens of the batch.
    dynamic_sampling: flat groups are dropped and others sampled in their place.
    overlong: share of the longest completion in which the soft penalty on length grows; 0 for none.
    truncated: "keep" or "mask" completions that did not end.

    Raises:
        ValueError: a word that is no key, or settings that contradict each other.
    """

    advantage: str
    surrogate: str
    reduction: str
    clip_low: float
    clip_high: float
    group: int
    when: str
    equation: str
    source: str
    kl_in_reward: float = 0.0
    kl_in_loss: float = 0.0
    kl_estimator: str = "k3_corrected"
    whiten_tokens: bool = False
    dynamic_sampling: bool = False
    overlong: float = 0.0
    truncated: str = "keep"

    def __post_init__(self) -> None:
        for name, keys in (
            ("advantage", ADVANTAGES),
            ("surrogate", SURROGATES),
            ("reduction", REDUCTIONS),
            ("kl_estimator", ESTIMATORS),
            ("truncated", TRUNCATED),
        ):
            if getattr(self, name) not in keys:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(keys)}.")
        if self.group < 2 and self.advantage != "none":
            raise ValueError(
                f"A group of {self.group} has no baseline; sample at least 2 completions per prompt, or take the "
                'advantage "none".'
            )
        if self.kl_in_loss and self.kl_estimator == "k1":
            raise ValueError(
                "k1 in the loss has no expected gradient; take k2 or k3_corrected, or put it in the reward."
            )
        if self.surrogate.startswith("sequence_") and self.reduction != "sequence_mean":
            raise ValueError(
                f"The surrogate {self.surrogate} has one loss per completion and carries it at every token; only the "
                "reduction sequence_mean counts it once."
            )
        if self.surrogate.startswith("sequence_") and self.whiten_tokens:
            raise ValueError(
                f"The surrogate {self.surrogate} has one advantage per completion; whitening per token is for the "
                "token surrogates."
            )


VARIANTS: dict[str, Variant] = {
    "grpo": Variant(
        advantage="group_std",
        surrogate="token",
        reduction="sequence_mean",
        clip_low=0.2,
        clip_high=0.2,
        kl_in_loss=0.04,
        kl_estimator="k3",
        group=16,
        when="The common starting point for rewards that can be checked, when a prompt is solved sometimes but not "
        "always. Dividing by the length favours short right and long wrong completions, and by the spread of the "
        "group the very easy and the very hard prompts.",
        equation="mean_i 1/T_i Σ_t [max(−A ρ, −A clip(ρ)) + β k3],  A = (r − mean) / std",
        source='Shao et al. 2024, "DeepSeekMath"',
    ),
    "dr_grpo": Variant(
        advantage="group_mean",
        surrogate="token",
        reduction="constant",
        clip_low=0.2,
        clip_high=0.2,
        group=8,
        when="GRPO without its two biases, when lengths grow for no reason or prompts differ much in difficulty. "
        "Without a spread in the divisor the size of an update follows the scale of the reward, so the learning rate "
        "does not carry over.",
        equation="1/(B · longest) Σ max(−A ρ, −A clip(ρ)),  A = r − mean",
        source='Liu et al. 2025, "Understanding R1-Zero-Like Training: A Critical Perspective"',
    ),
    "dapo": Variant(
        advantage="group_std",
        surrogate="token",
        reduction="token_mean",
        clip_low=0.2,
        clip_high=0.28,
        group=16,
        dynamic_sampling=True,
        overlong=0.2,
        truncated="mask",
        when="Long chains of thought under a hard limit of length, where entropy collapses and many groups are all "
        "right or all wrong. Dynamic sampling costs as many completions as it drops, and without a KL nothing holds "
        "the policy near its start.",
        equation="1/Σ T Σ max(−A ρ, −A clip(ρ, 0.8, 1.28)),  A = (r − mean) / std of groups that are not flat",
        source='Yu et al. 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale"',
    ),
    "gspo": Variant(
        advantage="group_std",
        surrogate="sequence_mean",
        reduction="sequence_mean",
        clip_low=3e-4,
        clip_high=4e-4,
        group=8,
        when="Several updates per step, or a mixture of experts, where the ratios of single tokens jump. The ranges "
        "belong to means over long completions: on short ones nearly everything is clipped, and at one update per "
        "step the clip never acts.",
        equation="mean_i max(−A s, −A clip(s)),  s = exp(mean_t log ρ)",
        source='Zheng et al. 2025, "Group Sequence Policy Optimization"',
    ),
    "cispo": Variant(
        advantage="group_std",
        surrogate="cispo",
        reduction="token_mean",
        clip_low=1.0,
        clip_high=4.0,
        group=8,
        when="Several updates per step, when rare tokens that turn a chain of thought must keep their gradient. The "
        "value of the loss means nothing, and nothing stops a token that has already moved far: watch the KL to the "
        "old policy.",
        equation="1/Σ T Σ −sg(min(ρ, 5)) A log π,  A = (r − mean) / std",
        source='MiniMax 2025, "MiniMax-M1"; Khatri et al. 2025, "The Art of Scaling Reinforcement Learning Compute for '
        'LLMs" (the cap of 5)',
    ),
    "rloo": Variant(
        advantage="leave_one_out",
        surrogate="sequence_sum",
        reduction="sequence_mean",
        clip_low=0.2,
        clip_high=0.2,
        kl_in_reward=0.05,
        group=4,
        when="Rewards from a reward model with two to four completions per prompt: unbiased, and with little to tune. "
        "The ratio of a whole completion leaves the clip after one update, so make one update per step.",
        equation="mean_i max(−A s, −A clip(s)),  s = π(y)/π_old(y),  A = r − mean of the others,  r = score − β Σ k1",
        source='Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE Style Optimization"',
    ),
    "reinforce_pp": Variant(
        advantage="none",
        surrogate="token",
        reduction="token_mean",
        clip_low=0.2,
        clip_high=0.2,
        kl_in_reward=0.01,
        whiten_tokens=True,
        group=1,
        when="One completion per prompt and many different prompts, with a reward model and no room for a critic. The "
        "batch is the only baseline: prompts that are hard look like bad completions, unless the batch is large.",
        equation="1/Σ T Σ max(−A ρ, −A clip(ρ)),  A = whiten(Σ_{s ≥ t} [score at the end − β k1])",
        source='Hu et al. 2025, "REINFORCE++"',
    ),
    "reinforce_pp_baseline": Variant(
        advantage="group_mean",
        surrogate="token",
        reduction="token_mean",
        clip_low=0.2,
        clip_high=0.2,
        kl_in_loss=0.01,
        kl_estimator="k2",
        whiten_tokens=True,
        group=8,
        when="As GRPO, when single groups have too little spread to divide by: one spread for the whole batch. Long "
        "completions weigh more in the mean and the spread, as the whitening counts tokens.",
        equation="1/Σ T Σ [max(−A ρ, −A clip(ρ)) + β k2],  A = whiten(r − mean)",
        source='Hu et al. 2025, "REINFORCE++" (with baseline)',
    ),
    "lite_ppo": Variant(
        advantage="batch_std",
        surrogate="token",
        reduction="token_mean",
        clip_low=0.2,
        clip_high=0.2,
        group=8,
        when="The shortest recipe that does without a critic, meant for base models and rewards of 0 or 1. A batch of "
        "few prompts has a poor spread, and one wide reward makes all the others small.",
        equation="1/Σ T Σ max(−A ρ, −A clip(ρ)),  A = (r − group mean) / batch std",
        source='Liu et al. 2025, "Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning"',
    ),
}
