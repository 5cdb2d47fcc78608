"""f-DPO: DPO whose policy is held to the reference by another divergence than the reverse KL.

With u = π / π_ref of a whole completion, and f' the derivative of the divergence:

    L = −log σ(β (f'(u_c) − f'(u_r)))

=======================  ==================  ======================================================
divergence               f'(u)               a chosen completion that became unlikely (u → 0)
=======================  ==================  ======================================================
reverse KL: `dpo`        log u               is pulled back as much as the rejected one is pushed
α: `fdpo_alpha`          (1 − u^−α) / α      the more strongly, the larger α is
forward KL               1 − 1 / u           with a pull that grows as 1 / u
Jensen–Shannon           log(2u / (1 + u))   as by DPO; one that became likely (u → ∞) is let go
=======================  ==================  ======================================================

Exponentials of log-ratios are continued by their tangent above 30 nats: they stay finite, and so does their gradient,
which keeps its direction. Up to there they are exact.

Source: Wang et al. 2023, "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence
Constraints", table 1 (its constants cancel in the difference).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lab.objectives.pairs import Knobs, Pairs, log_ratios

CAP = 30.0
"""Nats above which exp(x) is continued by its tangent: e³⁰ is 10¹³, whose square still fits into float32."""


def _expm1(x: Tensor) -> Tensor:
    """exp(x) − 1 up to x = CAP, its tangent above."""
    capped = x.clamp(max=CAP)
    return torch.expm1(capped) + capped.exp() * (x - capped)


def fdpo_forward_kl(pairs: Pairs, knobs: Knobs) -> Tensor:
    """f-DPO with the forward KL, KL(π_ref ‖ π).

        L = −log σ(β (exp(−b) − exp(−a)))

    Limits: ln 2 at the reference. For small log-ratios it is DPO. A chosen completion can earn at most β, an unlikely
    one costs β / u.

    When to use: The policy must not lose anything that the reference can say, as when diversity matters more than the
    last point of reward. Its trap is exp(−a) of a whole completion: a few nats below the reference it drowns all else.

    Arguments, result and errors as in `margins.dpo`.

    Source:
        Wang et al. 2023, table 1, forward KL.
    """
    a, b = log_ratios(pairs)
    return -logsigmoid(knobs.beta * (_expm1(-b) - _expm1(-a)))


def fdpo_js(pairs: Pairs, knobs: Knobs) -> Tensor:
    """f-DPO with the divergence of Jensen and Shannon.

        L = −log σ(β (log σ(a) − log σ(b)))

    Limits: ln 2 at the reference. For a, b → −∞ it is DPO; near 0 it is DPO with β / 2. A chosen completion can earn
    at most β ln 2.

    When to use: Between DPO and the forward KL: completions that fell are treated as by DPO. Its trap is that a chosen
    completion already likelier than under the reference earns nothing more, so the rest comes from pushing y_r down.

    Arguments, result and errors as in `margins.dpo`.

    Source:
        Wang et al. 2023, table 1, JS-divergence.
    """
    a, b = log_ratios(pairs)
    return -logsigmoid(knobs.beta * (logsigmoid(a) - logsigmoid(b)))


def fdpo_alpha(pairs: Pairs, knobs: Knobs) -> Tensor:
    """f-DPO with an α-divergence, 0 < α < 1.

        L = −log σ(β (exp(−α b) − exp(−α a)) / α)

    Limits: ln 2 at the reference. α → 0 is DPO (reverse KL), α → 1 is `fdpo_forward_kl`.

    When to use: To move in small steps from DPO towards keeping all that the reference can say, with one number. Its
    trap is that exp(−α a) of a whole completion is large even for small α, once log-ratios reach tens of nats.

    Arguments, result and errors as in `margins.dpo`; reads divergence (α).

    Source:
        Wang et al. 2023, table 1, α-divergence. TRL's coefficient is 1 − α.
    """
    a, b = log_ratios(pairs)
    return -logsigmoid(knobs.beta * (_expm1(-knobs.divergence * b) - _expm1(-knobs.divergence * a)) / knobs.divergence)
