"""Maximum likelihood: log-probabilities of given tokens, and the loss of supervised fine-tuning."""

from __future__ import annotations

import torch
from torch import Tensor

from lab.objectives.tokens import fill, real


def token_logprobs(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(z / τ)[y]: the log-probability of each target under the logits that predict it.

    logits[..., t, :] must already be the prediction of targets[..., t] (see `tokens.shift`). Meant for chunks of
    tokens, so that no (B, T, V) tensor has to exist. τ is the temperature the tokens were sampled at (1 for given
    text): a policy is the distribution that was sampled.

    Args:
        logits: (..., V).
        targets: (...) token ids in [0, V).
        temperature: τ > 0.

    Returns:
        (...) nats, ≤ 0.

    Raises:
        ValueError: shapes that do not fit, or τ ≤ 0.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and targets {tuple(targets.shape)}; give one target for each row "
            "of logits."
        )
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature:g}; it must be above 0.")
    scaled = real(logits) / temperature
    return scaled.gather(-1, targets[..., None]).squeeze(-1) - torch.logsumexp(scaled, -1)


def nll(logprobs: Tensor, mask: Tensor | None = None) -> Tensor:
    """Negative log-likelihood per token: L_t = −log π(y_t | x, y_<t).

    With the token mean over an update it is the loss of supervised fine-tuning; its exponential is the perplexity.

    Args:
        logprobs: (B, T) nats.
        mask: (B, T) bool, True on the tokens to be learnt, the end token among them. Default: all.

    Returns:
        (B, T) nats, ≥ 0; 0 outside the mask.

    Raises:
        ValueError: different shapes, or a mask that is not boolean.
    """
    return -fill(logprobs, mask)
