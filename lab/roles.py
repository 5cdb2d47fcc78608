"""Roles: named adapters of one base, each with its weights in one flat fp32 buffer, and perhaps a scalar head.

A head reads the base's last hidden state h (H,) and gives one number, (w·h + b − mean) / spread. `mean` and `spread`
standardise a reward model, so that one unit of reward is one standard deviation on the completions it was measured on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Role:
    """A named adapter of the base. `weights` (one flat fp32 buffer) backs every low-rank matrix and then the head.

    `n_adapter` entries belong to the adapter, the H + 1 after them (if there is a head) to weight and bias. `grad` is
    the same for the gradients, allocated when the role is trained. Freezing and training set `requires_grad` here and
    nowhere else.
    """

    name: str
    parameters: list[nn.Parameter]
    weights: Tensor
    n_adapter: int
    rank: int
    alpha: int
    targets: str
    head: bool = False
    trained: bool = False
    grad: Tensor | None = None
    mean: float = 0.0
    spread: float = 1.0
    origin: str = "base"

    @property
    def head_weight(self) -> Tensor:
        """(H + 1,) fp32: weight and bias of the head."""
        if not self.head:
            raise ValueError(f"The role {self.name!r} has no head; give it one with add_head.")
        return self.parameters[-1]

    def read(self, hidden: Tensor) -> Tensor:
        """(…, H) hidden states -> (…) standardised head outputs, in fp32."""
        w = self.head_weight
        return (hidden.float() @ w[:-1] + w[-1] - self.mean) / self.spread

    def digest(self) -> str:
        """Identity of the weights, bit for bit."""
        return hashlib.sha256(self.weights.detach().cpu().numpy().tobytes()).hexdigest()[:16]

    def train(self, on: bool) -> None:
        """Turns gradients on or off for exactly this role's parameters."""
        self.trained = on
        self.grad = torch.zeros_like(self.weights) if on else None
        at = 0
        for p in self.parameters:
            p.requires_grad_(on)
            p.grad = self.grad[at : at + p.numel()].view_as(p) if self.grad is not None else None
            at += p.numel()

    def pin(self) -> None:
        """Puts `requires_grad` back to what the role says, after a library has changed it."""
        for p in self.parameters:
            p.requires_grad_(self.trained)


def flatten(parameters: list[nn.Parameter], device: Any) -> Tensor:
    """Moves parameters into one contiguous fp32 buffer and makes each a view of it; gives back the buffer."""
    buffer = torch.cat([p.detach().float().reshape(-1) for p in parameters]).to(device)
    at = 0
    for p in parameters:
        p.data = buffer[at : at + p.numel()].view_as(p)
        at += p.numel()
    return buffer
