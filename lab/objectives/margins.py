"""Preference objectives of one number, the margin: how much further the policy than the reference prefers y_c to y_r.

    d = a − b = log [π(y_c) / π_ref(y_c)] − log [π(y_r) / π_ref(y_r)]        nats

Only the margin counts: both completions may become less likely as long as the rejected one falls faster. Adding the
same number to the policy's and the reference's log-probability of a completion changes nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lab.objectives.pairs import Knobs, Pairs, log_ratios, logprobs, per_token
from lab.objectives.tokens import real


def margin(pairs: Pairs) -> Tensor:
    """d = a − b, (B,) nats per pair of completions.

    Raises:
        ValueError: different shapes.
    """
    a, b = log_ratios(pairs)
    return a - b


def margin_per_token(pairs: Pairs) -> Tensor:
    """a / |y_c| − b / |y_r|, (B,) nats per token: the margin of the average log-ratios.

    Raises:
        ValueError: different shapes.
    """
    a, b = per_token(log_ratios(pairs), pairs)
    return a - b


def dpo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Direct preference optimisation.

        L = −log σ(β d)

    The likelihood of Bradley and Terry with the reward β log(π / π_ref), whose best policy is that of RLHF with the
    KL penalty β.

    Limits: ln 2 at the reference. L → 0 as d → ∞, so no finite margin is enough; L → −β d as d → −∞. Exchanging the
    pair: L(−d) − L(d) = β d.

    When to use: The first thing to try on pairs from a model like yours, and what every other objective here is
    measured against. Its trap is that the chosen completion may become less likely too, so watch log π(y_c) itself.

    Args:
        pairs: B preferences.
        knobs: beta.

    Returns:
        (B,) nats.

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization", eq. 7.

    Raises:
        ValueError: different shapes.
    """
    return -logsigmoid(knobs.beta * margin(pairs))


def cdpo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Conservative DPO: the cross-entropy with labels that are wrong with probability ε.

        L = −(1 − ε) log σ(β d) − ε log σ(−β d)

    Limits: ln 2 at the reference. ε = 0 is DPO; ε = ½ wants d = 0. The minimum is at β d = log((1 − ε) / ε).

    When to use: A known share of the labels is wrong, and the policy should stop at a margin instead of pushing pairs
    apart for ever. Its trap is that the clean pairs are held back at the same margin.

    Arguments, result and errors as in `dpo`; reads smoothing.

    Source:
        Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO".
    """
    z = knobs.beta * margin(pairs)
    return -(1 - knobs.smoothing) * logsigmoid(z) - knobs.smoothing * logsigmoid(-z)


def robust(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Provably robust DPO: unbiased under labels flipped with probability ε.

        L = [−(1 − ε) log σ(β d) + ε log σ(−β d)] / (1 − 2ε)

    Limits: ln 2 at the reference. ε = 0 is DPO. Unbiased: (1 − ε) L(d) + ε L(−d) is the DPO loss of the clean label.
    As d → ∞ the loss falls below every bound, with slope −β ε / (1 − 2ε).

    When to use: Labels are flipped at random at a rate you have measured, and the gradient should be right on average.
    Its trap is that it never stops pushing pairs apart, all the harder the nearer ε is to ½; the opposite of `cdpo`.

    Arguments, result and errors as in `dpo`; reads smoothing.

    Source:
        Chowdhury, Kini and Natarajan 2024, "Provably Robust DPO: Aligning Language Models with Noisy Feedback".

    Raises:
        ValueError: also ε = 0.5, where a label says nothing.
    """
    if knobs.smoothing == 0.5:
        raise ValueError("smoothing is 0.5; robust divides by 1 − 2 · smoothing, so it must be below 0.5.")
    z = knobs.beta * margin(pairs)
    wrong = knobs.smoothing * logsigmoid(-z)
    return (wrong - (1 - knobs.smoothing) * logsigmoid(z)) / (1 - 2 * knobs.smoothing)


def ipo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Identity preference optimisation, on sums over completions as the paper writes it (β is its τ).

        L = (d − 1 / (2β))²

    Limits: 1 / (4β²) at the reference. The minimum 0 is at d = 1 / (2β) nats per pair of completions.

    When to use: Every pair was judged once and nearly all agree, where DPO would push without end. Its trap is that
    the target counts whole completions, so long ones have to move less per token than short ones.

    Arguments and errors as in `dpo`.

    Returns:
        (B,) squared nats.

    Source:
        Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences", eq. 17.
    """
    return (margin(pairs) - 1 / (2 * knobs.beta)) ** 2


def ipo_mean(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Identity preference optimisation on averages per token, as TRL has it.

        L = (a / |y_c| − b / |y_r| − 1 / (2β))²

    Limits: 1 / (4β²) at the reference. Completions of one token: `ipo`. The minimum 0 is at 1 / (2β) nats per token.

    When to use: IPO where lengths differ much, or to compare with TRL's numbers. Its trap is the unit: β = 0.1 asks
    for a margin of 5 nats per token, far more than a policy near its reference can have, so take β near 1 or above.

    Arguments and errors as in `dpo`.

    Returns:
        (B,) squared nats per token.

    Source:
        Azar et al. 2023, eq. 17, with the averages of TRL's `DPOTrainer`.
    """
    return (margin_per_token(pairs) - 1 / (2 * knobs.beta)) ** 2


def hinge(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Sequence likelihood calibration (SLiC) with the hinge loss, on log-ratios to the reference.

        L = max(0, 1 − β d)

    Limits: 1 at the reference. A pair with d ≥ 1 / β has no loss and no gradient.

    When to use: Pairs that are far enough apart should be left alone, all others pushed equally hard. Its trap is that
    wrong labels, which never get far apart, keep their full push to the end.

    Arguments, result and errors as in `dpo`.

    Source:
        Zhao et al. 2023, "SLiC-HF"; with the reference inside: Liu et al. 2023, "Statistical Rejection Sampling
        Improves Preference Optimization" (hinge-norm).
    """
    return torch.relu(1 - knobs.beta * margin(pairs))


def dpo_norm(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Length-normalised DPO.

        L = −log σ(β (a / |y_c| − b / |y_r|))

    Limits: ln 2 at the reference. Completions of one token: `dpo`. For lengths all T it is `dpo` with β / T.

    When to use: DPO that should not earn its margin by length, as in Tülu 3. Its trap is β: on
    completions of T tokens it works as β / T does in DPO, which is why 5 to 10 is usual here.

    Arguments, result and errors as in `dpo`.

    Source:
        Lambert et al. 2024, "Tülu 3: Pushing Frontiers in Open Language Model Post-Training".
    """
    return -logsigmoid(knobs.beta * margin_per_token(pairs))


def exo(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Efficient exact optimisation for pairs: the reverse KL from the policy's preference to the smoothed label.

        L = KL(σ(β d) ‖ 1 − ε) = σ(β d) log[σ(β d) / (1 − ε)] + σ(−β d) log[σ(−β d) / ε]

    Limits: −ln 2 − ½ ln(ε (1 − ε)) at the reference. The minimum 0 is at β d = log((1 − ε) / ε), where `cdpo` has its
    own. As ε → 0, L / −ln ε → σ(−β d), the probability of the wrong order.

    When to use: Where DPO's forward KL spreads the policy over everything the labels allow and you want it to settle
    on the best. Its trap is that a pair far on the wrong side has next to no gradient, since both its σ are flat there.

    Arguments, result and errors as in `dpo`; reads smoothing.

    Source:
        Ji et al. 2024, "Towards Efficient Exact Optimization of Language Model Alignment", eq. 16.

    Raises:
        ValueError: also ε = 0, where the KL is infinite.
    """
    if knobs.smoothing == 0:
        raise ValueError("smoothing is 0; exo takes its logarithm, so it must be above 0.")
    z = knobs.beta * margin(pairs)
    right = torch.sigmoid(z) * (logsigmoid(z) - math.log(1 - knobs.smoothing))
    return right + torch.sigmoid(-z) * (logsigmoid(-z) - math.log(knobs.smoothing))


def aot(pairs: Pairs, knobs: Knobs) -> Tensor:
    """Alignment by optimal transport, paired: the margins of the policy, as a distribution, ahead of the reference's.

        u = log π(y_c) − log π(y_r),    v = log π_ref(y_c) − log π_ref(y_r)
        L = −log σ(β (u_i − v_j)),    j: the pair whose v has the same rank as u_i

    The loss of a pair stands in its own row, though it is compared with the reference's margin of another.

    Limits: ln 2 at the reference. A batch of one is DPO, and so is any batch where u and v have the same order; in all
    others Σ L is at most that of DPO, because sorting is the cheapest way to match.

    When to use: The whole distribution of margins should move, not every pair by itself. Its trap is the batch: a
    pair's loss depends on the others, so give it all pairs of an update at once, never one part after the other.

    Arguments, result and errors as in `dpo`.

    Source:
        Melnyk et al. 2024, "Distributional Preference Alignment of LLMs via Optimal Transport".
    """
    chosen, rejected = logprobs(pairs)
    u = chosen - rejected
    v = real(pairs.chosen_reference.detach()) - real(pairs.rejected_reference.detach())
    rank = u.detach().argsort().argsort()
    return -logsigmoid(knobs.beta * (u - v.sort().values[rank]))


def discopop(pairs: Pairs, knobs: Knobs) -> Tensor:
    """DiscoPOP, the log-ratio modulated loss that a language model came upon: logistic below 0, exponential above.

        L = (1 − m) log(1 + exp(−β d)) + m exp(−β d),    m = σ(β d / τ)

    Limits: ½ ln 2 + ½ at the reference, with the slope β ((1 − ln 2) / (4τ) − ¾) in d. Far above d = 0 it is
    exp(−β d), far below it is DPO. It is not convex: for τ = 0.05 it rises from β d ≈ −0.12 to 0.07.

    When to use: After DPO, on the same pairs, to see what a searched objective does differently. Its trap is the hill
    at the reference: for τ < 0.1 the first gradients push every pair the wrong way, which DPO's never do.

    Arguments, result and errors as in `dpo`; reads sharpness (τ).

    Source:
        Lu et al. 2024, "Discovering Preference Optimization Algorithms with and for Large Language Models", eq. 5.
    """
    z = knobs.beta * margin(pairs)
    modulation = z / knobs.sharpness
    exponential = torch.exp(logsigmoid(modulation) - z)  # one exponent: m · exp(−z) would be 0 · ∞
    return exponential - torch.sigmoid(-modulation) * logsigmoid(z)
