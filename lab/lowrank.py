"""The low-rank forward over role slices: y = x Wᵀ + (alpha / rank) · (x Aᵀ) Bᵀ, with A and B chosen by the slice.

PEFT injects, configures, saves and loads the adapters; only the arithmetic is here. For one role it is bitwise what
PEFT computes. Which role a part of the packed axis belongs to is data (`Now.slices`), remembered by the graph: a
checkpointed layer is recomputed under the slices it was first computed with (`Now.remember`).

With gradients a whole layer is one node of the graph. Its backward writes every slice's share in place, where autograd
would copy each slice in and out of a tensor of zeros:

    D = scale · (∂y B)      ∂A = Dᵀ x      ∂B = scale · ∂yᵀ (x Aᵀ)      ∂x = ∂y W + D A

Source: Hu et al. 2021, "LoRA", equation 3; Dettmers et al. 2023, "QLoRA", equation 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab import quantise
from lab.pack import Slice


@dataclass
class Now:
    """Which slices the base is computing. One per base; only the thread that owns the model touches it."""

    slices: tuple[Slice, ...] = ()
    dense: dict[nn.Module, Tensor] = field(default_factory=dict)  # layer -> its dequantised weight, where kept

    @contextmanager
    def of(self, slices: tuple[Slice, ...]) -> Iterator[None]:
        """Inside, the base computes these slices."""
        before, self.slices = self.slices, slices
        try:
            yield
        finally:
            self.slices = before

    def remember(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """The `context_fn` of torch.utils.checkpoint: the recomputation sees the slices of the first computation."""
        return nullcontext(), self.of(self.slices)


class Part(NamedTuple):
    """Rows start:stop of the packed axis go through the adapter with this scale."""

    start: int
    stop: int
    scale: float


def role_linear(layer: Any, now: Now, x: Tensor) -> Tensor:
    """The forward of one adapted linear layer: x (1, N, in) -> (1, N, out)."""
    dense = now.dense.get(layer)
    parts: list[Part] = []
    matrices: list[Tensor] = []
    adapters_a, adapters_b = layer.lora_A._modules, layer.lora_B._modules  # ModuleDict's own access is slow
    for s in now.slices:
        if s.role in adapters_a:
            parts.append(Part(s.start, s.stop, layer.scaling[s.role]))
            matrices += (adapters_a[s.role].weight, adapters_b[s.role].weight)
    if not torch.is_grad_enabled():
        return _forward(layer, dense, x.squeeze(0), parts, matrices)[0][None]
    weighed = dense is not None or type(layer.base_layer) is nn.Linear or quantise.is_nf4(layer.base_layer)
    if weighed:
        return _RoleLinear.apply(x.squeeze(0), layer, dense, parts, *matrices)[None]
    return _by_autograd(layer, x.squeeze(0), parts, matrices)[None]


def _base(layer: Any, dense: Tensor | None, x: Tensor) -> Tensor:
    return layer.base_layer(x) if dense is None else F.linear(x, dense, layer.base_layer.bias)


def _forward(
    layer: Any, dense: Tensor | None, x: Tensor, parts: list[Part], matrices: Any
) -> tuple[Tensor, list[Tensor]]:
    """y (N, out) and x Aᵀ (n, rank) of every part. Masters stay fp32 and are cast to the dtype of x."""
    y = _base(layer, dense, x)
    inner = []
    for i, (start, stop, scale) in enumerate(parts):
        a, b = matrices[2 * i].to(x.dtype), matrices[2 * i + 1].to(x.dtype)
        inner.append(F.linear(x[start:stop], a))
        y[start:stop].addmm_(inner[-1], b.t(), alpha=scale)
    return y, inner


def _by_autograd(layer: Any, x: Tensor, parts: list[Part], matrices: list[Tensor]) -> Tensor:
    """The same by torch's own rules, for a base layer whose weight cannot be had as a matrix (LLM.int8)."""
    y = layer.base_layer(x)
    pieces, at = [], 0
    for i, (start, stop, scale) in enumerate(parts):
        a, b = matrices[2 * i].to(x.dtype), matrices[2 * i + 1].to(x.dtype)
        update = torch.addmm(y[start:stop], F.linear(x[start:stop], a), b.t(), alpha=scale)
        pieces += [y[at:start], update]
        at = stop
    return torch.cat([*pieces, y[at:]]) if pieces else y


class _RoleLinear(torch.autograd.Function):
    """`_forward` with the backward of the module's docstring."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, dense: Tensor | None, parts: list[Part], *matrices: Tensor) -> Tensor:
        y, inner = _forward(layer, dense, x, parts, matrices)
        ctx.save_for_backward(x if any(ctx.needs_input_grad[4:]) else None, *inner, *matrices)
        ctx.layer, ctx.dense, ctx.parts = layer, dense, parts
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Any, ...]:
        (dy,) = outputs
        x, *saved = ctx.saved_tensors
        inner, matrices = saved[: len(ctx.parts)], saved[len(ctx.parts) :]
        dx = dy @ _matrix(ctx.layer, ctx.dense) if ctx.needs_input_grad[0] else None
        found: list[Tensor | None] = [None] * len(matrices)
        for i, (start, stop, scale) in enumerate(ctx.parts):
            a, b = matrices[2 * i], matrices[2 * i + 1]
            part = dy[start:stop]
            d = (part @ b.to(dy.dtype)).mul_(scale)
            if ctx.needs_input_grad[4 + 2 * i]:
                found[2 * i] = (d.t() @ x[start:stop]).to(a.dtype)
            if ctx.needs_input_grad[5 + 2 * i]:
                found[2 * i + 1] = (part.t() @ inner[i]).mul_(scale).to(b.dtype)
            if dx is not None:
                dx[start:stop].addmm_(d, a.to(dy.dtype))
        return (dx, None, None, None, *found)


def _matrix(layer: Any, dense: Tensor | None) -> Tensor:
    """(out, in) weight of the base layer."""
    if dense is not None:
        return dense
    base = layer.base_layer
    return quantise.dequantise(base) if quantise.is_nf4(base) else base.weight
