"""The low-rank forward over role slices: y = x Wᵀ + (alpha / rank) · (x Aᵀ) Bᵀ, with A and B chosen by the slice.

PEFT injects, configures, saves and loads the adapters; only the arithmetic is here. For one role it is bitwise what
PEFT computes. Which role a part of the packed axis belongs to is data (`Now.slices`), remembered by the graph: a
checkpointed layer is recomputed under the slices it was first computed with (`Now.remember`).

Source: Hu et al. 2021, "LoRA", equation 3; Dettmers et al. 2023, "QLoRA", equation 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.pack import Slice


@dataclass
class Now:
    """Which slices the base is computing. One per base; only the thread that owns the model touches it."""

    slices: tuple[Slice, ...] = ()
    dense: dict[nn.Module, Tensor] = field(default_factory=dict)  # layer -> its dequantised weight, where kept

    @contextmanager
    def of(self, slices: tuple[Slice, ...]) -> Iterator[None]:
        before, self.slices = self.slices, slices
        try:
            yield
        finally:
            self.slices = before

    def remember(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """The `context_fn` of torch.utils.checkpoint: the recomputation sees the slices of the first computation."""
        return nullcontext(), self.of(self.slices)


def role_linear(layer: Any, now: Now, x: Tensor) -> Tensor:
    """The forward of one adapted linear layer: x (1, N, in) -> (1, N, out)."""
    weight = now.dense.get(layer)
    y = layer.base_layer(x) if weight is None else F.linear(x, weight, layer.base_layer.bias)
    adapted = [s for s in now.slices if s.role in layer.lora_A]
    if not adapted:
        return y
    if len(now.slices) == 1:
        return _update(layer, adapted[0].role, x[0], y[0])[None]
    parts = [_update(layer, s.role, x[0, s.start : s.stop], y[0, s.start : s.stop]) for s in now.slices]
    return torch.cat(parts)[None]


def _update(layer: Any, role: str, x: Tensor, y: Tensor) -> Tensor:
    """y + scale · (x Aᵀ) Bᵀ in the dtype of x, for one slice; masters stay fp32."""
    if role not in layer.lora_A:
        return y
    a, b = layer.lora_A[role].weight, layer.lora_B[role].weight
    return torch.addmm(y, F.linear(x, a.to(x.dtype)), b.to(x.dtype).t(), alpha=layer.scaling[role])
