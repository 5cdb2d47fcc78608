"""Preference objectives that hold each completion of a pair to the reference by itself, not only their difference.

    a = log [π(y_c) / π_ref(y_c)],    b = log [π(y_r) / π_ref(y_r)]        nats

Where DPO lets both fall together, these say where each of them should go. Adding the same number to the policy's and
the reference's log-probability of a completion changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lab.objectives.pairs import Knobs, Pairs, log_ratios


def nca(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Noise contrastive alignment, for pairs.

        L = −log σ(β a) − ½ log σ(−β a) − ½ log σ(−β b)

    Limits: 2 ln 2 at the reference. In a the minimum is at β a = ln 2; in b there is none, the loss falls as b → −∞.

    When to use: DPO on the same data makes the chosen completions less likely, and you want their likelihood held. Its
    trap is that it is held from above as well: past β a = ln 2 the chosen completion is pushed down again.

    Arguments, result and errors as in `margins.dpo`.

    Source:
        Chen et al. 2024, "Noise Contrastive Alignment of Language Models with Explicit Rewards".
    """
    a, b = log_ratios(pairs)
    above, below = knobs.beta * a, knobs.beta * b
    return -logsigmoid(above) - 0.5 * logsigmoid(-above) - 0.5 * logsigmoid(-below)


def bco_pair(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Binary classifier optimisation, for pairs and without the shift of the reward.

        L = −log σ(β a) − log σ(−β b)

    Limits: 2 ln 2 at the reference. It is above the DPO loss everywhere, because σ(x) σ(y) < σ(x + y).

    When to use: The completions of a pair are good and bad in themselves, so that each can be classified alone. Its
    trap is a pair of two good answers: the loss still makes the second one less likely than the reference has it.

    Arguments, result and errors as in `margins.dpo`.

    Source:
        Jung et al. 2024, "Binary Classifier Optimization for Large Language Model Alignment". For ratings of single
        completions, with the shift: `unpaired.bco`.
    """
    a, b = log_ratios(pairs)
    return -logsigmoid(knobs.beta * a) - logsigmoid(-knobs.beta * b)


def sppo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Self-play preference optimisation with hard labels (β is the paper's 1 / η).

        L = (a − 1 / (2β))² + (b + 1 / (2β))²

    Limits: 1 / (2β²) at the reference. The minimum 0 is at a = 1 / (2β) and b = −1 / (2β).

    When to use: In rounds, each with fresh completions of the present policy and that policy as the reference. Its
    trap is β = 0.001: the target is 500 nats away, so within a round the loss is next to linear and never arrives.

    Arguments and errors as in `margins.dpo`.

    Returns:
        (B,) squared nats.

    Source:
        Wu et al. 2024, "Self-Play Preference Optimization for Language Model Alignment", eq. 4.7, with the
        probability of winning 1 for the chosen and 0 for the rejected completion.
    """
    a, b = log_ratios(pairs)
    target = 1 / (2 * knobs.beta)
    return (a - target) ** 2 + (b + target) ** 2


def apo_zero(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Anchored preference optimisation, zero: the chosen completion up, the rejected one down.

        L = 1 − σ(β a) + σ(β b)

    Limits: 1 at the reference. Between 0 and 2; its gradient fades both where a pair is right and where it is wrong.

    When to use: The chosen completions are better than what the policy writes, for instance because a stronger model
    wrote them. Its trap is the opposite case: it then teaches the policy to write worse, which `apo_down` does not.

    Arguments and errors as in `margins.dpo`.

    Returns:
        (B,), no unit.

    Source:
        D'Oosterlinck et al. 2024, "Anchored Preference Optimization and Contrastive Revisions", eq. 7.
    """
    a, b = log_ratios(pairs)
    return torch.sigmoid(-knobs.beta * a) + torch.sigmoid(knobs.beta * b)


def apo_down(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Anchored preference optimisation, down: both completions down, the rejected one further.

        L = σ(β a) + 1 − σ(β (a − b))

    Limits: 1 at the reference. Between 0 and 2. At the reference the gradients in a cancel: y_r moves first.

    When to use: The policy already writes better than both completions, and only their order is worth learning. Its
    trap is that the chosen completion is unlearnt on purpose, so with good data it throws the best of it away.

    Arguments and errors as in `margins.dpo`.

    Returns:
        (B,), no unit.

    Source:
        D'Oosterlinck et al. 2024, "Anchored Preference Optimization and Contrastive Revisions", eq. 8.
    """
    a, b = log_ratios(pairs)
    return torch.sigmoid(knobs.beta * a) + torch.sigmoid(-knobs.beta * (a - b))
