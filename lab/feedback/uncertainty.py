"""How unsure reward models are about a pair: what is worth a person's look.

    d_k = r_k(a) − r_k(b)                      the lead of a by member k of an ensemble

    several members    sd_k(d_k)               they disagree about the lead (population standard deviation)
    one                1 − |2 σ(d) − 1|        1 where the model says even odds, 0 where it is sure

Source: Christiano et al. 2017, section 2.2.4 (queries where an ensemble disagrees most); Lewis and Gale 1994 (queries
of which a model is least sure).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lab.base import SharedBase
from lab.records import Comparison
from lab.score import score

AT_ONCE = 512
"""Pairs read together."""


def uncertainty(readings: Tensor) -> Tensor:
    """(n,) how unsure M reward models are about n pairs, each ≥ 0.

    readings : (M, n, 2) standardised rewards of a and b by every member

    Raises ValueError for another shape.
    """
    if readings.dim() != 3 or readings.shape[0] < 1 or readings.shape[2] != 2:
        raise ValueError(f"readings has shape {tuple(readings.shape)}; give (M, n, 2), a and b of each pair by member.")
    leads = (readings[:, :, 0] - readings[:, :, 1]).double()
    if len(leads) > 1:
        return leads.std(0, correction=0)
    return 1 - (2 * torch.sigmoid(leads[0]) - 1).abs()


def read(base: SharedBase, members: Sequence[str], pairs: Sequence[Comparison]) -> Tensor:
    """(M, n, 2) what these reward roles say of both answers of every pair, on the CPU."""
    out = []
    for at in range(0, len(pairs), AT_ONCE):
        texts = [base.chat.split(c.prompt, y) for c in pairs[at : at + AT_ONCE] for y in (c.a, c.b)]
        rows = [(tuple(prompt), tuple(said)) for prompt, said in texts]
        known = score(base, rows, dict.fromkeys(members, "reward"))
        out.append(torch.stack([known[role].cpu().view(-1, 2) for role in members]))
    return torch.cat(out, 1) if out else torch.zeros(len(members), 0, 2)
