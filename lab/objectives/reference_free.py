"""Preference objectives without a reference: only log-probabilities of the policy itself.

They save the reference's forward pass, and with it what holds the policy to where it started: a likelihood of the
chosen completion, an average per token, or a small learning rate has to do that instead.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lab.objectives.pairs import Knobs, Pairs, logprobs, per_token

SURE = -1e-6
"""Nats per token above which a probability counts as exp(−1e-6): the odds of a sure thing would be infinite."""


def simpo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Simple preference optimisation.

        L = −log σ(β (log π(y_c) / |y_c| − log π(y_r) / |y_r|) − γ)

    γ is the paper's: taken off after β, in units of reward. γ / β, which some code asks for instead, is the same
    margin in nats per token; the paper recommends it near 0.5 and β from 2 to 2.5.

    Limits: equal averages cost log(1 + exp(γ)). With γ = 0 it is DPO without a reference on averages per token.

    When to use: Memory or time for a reference is short, and length should not pay. Its trap is that nothing holds the
    policy: a learning rate somewhat too high ruins it within an epoch, and the loss does not show it.

    Arguments, result and errors as in `margins.dpo`; reads gamma.

    Source:
        Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward".
    """
    chosen, rejected = per_token(logprobs(pairs), pairs)
    return -logsigmoid(knobs.beta * (chosen - rejected) - knobs.gamma)


def cpo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Contrastive preference optimisation, as the paper writes it.

        L = −log σ(β (log π(y_c) − log π(y_r))) − w log π(y_c)

    Limits: w = 0 is DPO with a reference that finds all completions equally likely. For large w it is supervised
    fine-tuning on the chosen completions.

    When to use: Chosen completions good enough to imitate, and no room for a reference, as in translation. Its trap is
    the second term: a sum over tokens, it outweighs the first on long completions unless w is small.

    Arguments, result and errors as in `margins.dpo`; reads nll (w).

    Source:
        Xu et al. 2024, "Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in Machine
        Translation". TRL's code averages the second term over all chosen tokens of the batch: on chosen completions of
        T tokens its weight w is w / T here.
    """
    chosen, rejected = logprobs(pairs)
    return -logsigmoid(knobs.beta * (chosen - rejected)) - knobs.nll * chosen


def log_odds(average: Tensor) -> Tensor:
    """log [p / (1 − p)] with p = exp(average), the probability per token; finite also for p = 1.

    From p = exp(−1e-6) upwards it stays at 13.8 and its gradient is 0; an empty completion stands there.

    Args:
        average: (B,) log-probability per token, nats, ≤ 0.

    Returns:
        (B,).
    """
    capped = average.clamp(max=SURE)
    return capped - torch.log(-torch.expm1(capped))


def orpo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Odds ratio preference optimisation: supervised fine-tuning and preferences in one step (β is the paper's λ).

        L = −log π(y_c) / |y_c| − β log σ(log odds(y_c) − log odds(y_r))
        odds(y) = p / (1 − p),    p = exp(log π(y) / |y|)

    Limits: equal averages cost the likelihood plus β ln 2. β → 0 is supervised fine-tuning on the chosen completions.
    For small p the odds ratio is the ratio of the probabilities.

    When to use: From a base model straight to a preferred one, without a stage of supervised fine-tuning. Its trap is
    that the likelihood dominates: bad chosen completions are imitated, however the pairs are ordered.

    Arguments, result and errors as in `margins.dpo`.

    Source:
        Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model". TRL's code takes the
        likelihood of prompt and completion together, averaged over the tokens of the batch.
    """
    chosen, rejected = per_token(logprobs(pairs), pairs)
    return -chosen - knobs.beta * logsigmoid(log_odds(chosen) - log_odds(rejected))


def chosen_nll(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Negative log-likelihood of the chosen completion per token; reads no knob, and nothing of the rejected one.

        L = −log π(y_c) / |y_c|

    Limits: 0 for a chosen completion the policy is sure of, or an empty one.

    When to use: As a small part of a mixture ("0.8*dpo + 0.2*nll"), to keep the chosen completions likely. Its trap is
    the unit: divided by the length, its gradient on a long completion is small beside that of DPO.

    Arguments and errors as in `margins.dpo`.

    Returns:
        (B,) nats per token.

    Source:
        The likelihood of supervised fine-tuning; beside DPO: Liu et al. 2024, "Provably Mitigating Overoptimization in
        RLHF: Your SFT Loss is Implicitly an Adversarial Regularizer" (RPO).
    """
    return -per_token(logprobs(pairs), pairs).chosen
