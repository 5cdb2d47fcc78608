"""The arithmetic of the methods: pure functions of tensors, and nothing else.

Log-probabilities, values or rewards go in; one number per token (B, T) or per pair (B,) comes out. No function
knows a model, a device or a config, and none reduces a loss: a run makes `token_weights` for its whole update and
adds up `weighted_sum`, so that the way an update is split into passes changes nothing.

- `tokens`      masks from lengths, the shift by one, masked statistics, whitening, weights of an update
- `likelihood`  log-probabilities of given tokens; the loss of supervised fine-tuning
- `reward`      Bradley and Terry's likelihood for reward models
- `policy`      PPO's clipped losses, and what to watch beside them
- `advantages`  from a score per completion to rewards, advantages and returns per token
- `kl`          estimators of the distance to the reference; the controller of its weight

These are imported from here. What belongs to one family of methods is imported from its own file:

- `preference`  every objective for pairs by name, from `margins`, `divergences`, `anchors`, `reference_free`
- `unpaired`    KTO and BCO
- `group`       advantages from a group of completions; `surrogate`: policy losses of one signature; `variants`: recipes
- `online`      XPO and Nash-MD; `selection`: best-of-n, rejection sampling, pass@k
- `ranking`     K-wise and Plackett–Luce; `ensemble`: several reward models as one; `process`: steps of a solution

Shapes: B rows, T tokens (right-padded), V vocabulary, H hidden. Masks are True where a token counts.
"""

from lab.objectives.advantages import Credit, gae, kept_rows, missing_end, reward_to_tokens
from lab.objectives.kl import ESTIMATORS, adapt, k1, k2, k3, k3_corrected
from lab.objectives.likelihood import nll, token_logprobs
from lab.objectives.policy import Clipped, approx_kl, explained_variance, ppo_policy, ppo_value, ratio
from lab.objectives.reward import accuracy, bradley_terry
from lab.objectives.tokens import (
    REDUCTIONS,
    Shifted,
    at_last,
    length_mask,
    masked_mean,
    masked_sum,
    masked_var,
    shift,
    token_weights,
    weighted_sum,
    whiten,
)

__all__ = [
    "ESTIMATORS",
    "REDUCTIONS",
    "Clipped",
    "Credit",
    "Shifted",
    "accuracy",
    "adapt",
    "approx_kl",
    "at_last",
    "bradley_terry",
    "explained_variance",
    "gae",
    "k1",
    "k2",
    "k3",
    "k3_corrected",
    "kept_rows",
    "length_mask",
    "masked_mean",
    "masked_sum",
    "masked_var",
    "missing_end",
    "nll",
    "ppo_policy",
    "ppo_value",
    "ratio",
    "reward_to_tokens",
    "shift",
    "token_logprobs",
    "token_weights",
    "weighted_sum",
    "whiten",
]
