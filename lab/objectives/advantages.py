"""Credit: from one score per completion to a reward, an advantage and a return per token.

Nothing here carries a gradient: advantages and returns are constants of the update that uses them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lab.objectives.tokens import check_shapes, fill, length_mask, real

TRUNCATED = ("keep", "mask")


def missing_end(scores: Tensor, ended: Tensor, penalty: float) -> Tensor:
    """Takes `penalty` from the score of every completion that did not end.

    A reward model only ever saw finished texts; without a penalty a policy may learn never to end.

    Args:
        scores: (B,) rewards.
        ended: (B,) bool, True if the completion has an end token of its own.
        penalty: reward units.

    Returns:
        (B,).

    Raises:
        ValueError: different shapes.
    """
    check_shapes(scores=scores, ended=ended)
    scores = real(scores).detach()
    return torch.where(ended, scores, scores - penalty)


def kept_rows(ended: Tensor, truncated: str) -> Tensor:
    """Which completions take part in the losses: all of them ("keep"), or only those that ended ("mask").

    Give the result to `tokens.token_weights(rows=…)`, so that numerator and divisor leave out the same completions.

    Args:
        ended: (B,) bool.
        truncated: "keep" or "mask".

    Returns:
        (B,) bool.

    Raises:
        ValueError: another word.
    """
    if truncated not in TRUNCATED:
        raise ValueError(f"There is no way {truncated!r} to treat cut completions; choose one of keep, mask.")
    return ended if truncated == "mask" else torch.ones_like(ended)


def reward_to_tokens(scores: Tensor, kl: Tensor, lengths: Tensor, beta: float) -> Tensor:
    """The reward of each token: r_t = −β k1_t, plus the score on the last real token.

    The sum over a completion is score − β · log(π/π_ref) of the whole completion. An empty completion has no token,
    so its score goes nowhere.

    Args:
        scores: (B,) rewards of whole completions.
        kl: (B, T) k1 = log π − log π_ref of the sampled tokens, nats.
        lengths: (B,) tokens of each completion, the end token included.
        beta: reward per nat.

    Returns:
        (B, T) rewards; 0 past the end.

    Source:
        Ziegler et al. 2019, eq. 2; Ouyang et al. 2022 (InstructGPT), eq. 2, token by token.

    Raises:
        ValueError: shapes that do not fit, or lengths outside [0, T].
    """
    check_shapes(scores=scores, lengths=lengths)
    mask = length_mask(lengths, kl.shape[1])
    last = torch.arange(kl.shape[1], device=kl.device) == lengths[:, None] - 1
    penalty = -beta * fill(kl.detach(), mask)
    return torch.where(last, penalty + real(scores).detach()[:, None], penalty)


class Credit(NamedTuple):
    """advantages, returns: (B, T), in units of reward; 0 past the end."""

    advantages: Tensor
    returns: Tensor


def gae(rewards: Tensor, values: Tensor, lengths: Tensor, gamma: float, lam: float) -> Credit:
    """Generalised advantage estimation, from the last token of each completion to its first.

        δ_t = r_t + γ V_{t+1} − V_t
        A_t = δ_t + γ λ A_{t+1}  =  Σ_k (γλ)^k δ_{t+k}
        R_t = A_t + V_t

    with V = 0 and A = 0 past the last real token. λ = 1 is Monte Carlo: R_t = Σ_k γ^k r_{t+k}, whatever the values.
    λ = 0 is the one-step error: A_t = δ_t. R uses A as it is here, before any whitening.

    Args:
        rewards, values: (B, T); V_t is the estimate *before* token t is chosen. What lies past the end is ignored.
        lengths: (B,) in [0, T].
        gamma: discount γ per token in [0, 1].
        lam: λ in [0, 1].

    Source:
        Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation", eq. 16.

    Raises:
        ValueError: different shapes, or lengths outside [0, T].
    """
    check_shapes(rewards=rewards, values=values)
    mask = length_mask(lengths, rewards.shape[1])
    rewards, values = fill(rewards.detach(), mask), fill(values.detach(), mask)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = rewards + gamma * following - values
    advantages = torch.zeros_like(deltas)
    carried = deltas.new_zeros(deltas.shape[0])
    for t in reversed(range(deltas.shape[1])):
        carried = deltas[:, t] + gamma * lam * carried
        advantages[:, t] = carried
    return Credit(advantages, advantages + values)
