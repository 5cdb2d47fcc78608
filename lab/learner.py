"""What a run carries from step to step, how it is kept, and the one way weights change.

Saving writes the trained roles (PEFT layout), the optimizers' moments and a small JSON; loading puts back the same
bits. Random numbers need no saving: every draw comes from a generator seeded by (run seed, step).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.base import SharedBase
from lab.roles import Role
from lab.saving import read_weights, save_role


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not a number. `evidence` is the batch, for the run's directory."""

    def __init__(self, sentence: str, evidence: dict[str, Any]) -> None:
        super().__init__(sentence)
        self.evidence = evidence


@dataclass
class Learner:
    """The explicit state of a run: roles on a base, optimizers, the step, and a few numbers.

    roles   : the story's name of each role (policy, value, …) -> its name on the base
    trained : the story's names of those in training
    live    : edited live settings, which override the config from the next step on
    numbers : what a method adapts and counts (the KL coefficient, updates done)
    memory  : what a method remembers of its data (the reference's log-probabilities), as tensors on the CPU
    """

    base: SharedBase
    roles: dict[str, str]
    trained: tuple[str, ...]
    total: int
    step: int = 0
    live: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)
    optimizers: dict[str, torch.optim.AdamW] = field(default_factory=dict)

    def role(self, story: str) -> Role:
        """The role that plays this part."""
        return self.base.role(self.roles[story])

    def own(self) -> None:
        """Makes exactly this run's trained roles carry gradients; another run on the same base may have had the turn.

        A run calls it before every step. It changes no weight and no moment.
        """
        self.base.train(*(self.roles[name] for name in self.trained))
        for name in self.trained:
            if name in self.optimizers:
                _attach(self.optimizers[name], self.role(name))

    def optimizer(self, story: str, eps: float, weight_decay: float = 0.0) -> torch.optim.AdamW:
        """AdamW over the flat buffer of one role: one group for the adapter, one for the head if there is one."""
        if story not in self.optimizers:
            self.optimizers[story] = _adamw(self.role(story), eps, weight_decay)
        return self.optimizers[story]

    def frozen(self) -> dict[str, str]:
        """Digest of every role of the run that must not change."""
        return {name: self.role(name).digest() for name in self.roles if name not in self.trained}

    def save(self, folder: Path) -> None:
        """Writes trained roles, moments, memory and numbers into an existing empty folder."""
        from safetensors.torch import save_file

        moments: dict[str, Tensor] = {}
        for name in self.trained:
            save_role(self.base, self.roles[name], folder / name)
            if name in self.optimizers:
                moments |= {f"{name}.{key}": value for key, value in _moments(self.optimizers[name]).items()}
        save_file(moments, str(folder / "optimizer.safetensors"))
        if self.memory:
            save_file(self.memory, str(folder / "memory.safetensors"))
        numbers = {"step": self.step, "total": self.total, "live": self.live, "numbers": self.numbers}
        (folder / "state.json").write_text(json.dumps(numbers, indent=1))

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote, bit for bit. The roles must already exist on the base."""
        from safetensors.torch import load_file

        moments = load_file(str(folder / "optimizer.safetensors"), device=str(self.base.device))
        for name in self.trained:
            read_weights(self.base, folder / name, self.role(name))
            own = {k.removeprefix(f"{name}."): v for k, v in moments.items() if k.startswith(f"{name}.")}
            self.optimizers.pop(name, None)
            if own:
                _set_moments(self.optimizer(name, 1e-8), own)
        if self.memory:
            self.memory = load_file(str(folder / "memory.safetensors"))
        row = json.loads((folder / "state.json").read_text())
        self.step, self.total = row["step"], row["total"]
        self.live, self.numbers = row["live"], row["numbers"]


def _masters(role: Role) -> list[torch.nn.Parameter]:
    """The flat buffer as one parameter for the adapter and one for the head, sharing memory with the layers' own."""
    parts = [slice(0, role.n_adapter)] + ([slice(role.n_adapter, None)] if role.head else [])
    masters = [torch.nn.Parameter(role.weights[part]) for part in parts]
    for master, part in zip(masters, parts, strict=True):
        master.grad = role.grad[part] if role.grad is not None else None
    return masters


def _adamw(role: Role, eps: float, weight_decay: float) -> torch.optim.AdamW:
    groups = [{"params": [master]} for master in _masters(role)]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=eps, weight_decay=weight_decay, fused=True)


def _attach(optimizer: torch.optim.AdamW, role: Role) -> None:
    """Points an optimizer at the role's present gradient buffer."""
    for group, fresh in zip(optimizer.param_groups, _masters(role), strict=True):
        group["params"][0].grad = fresh.grad


def _moments(optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    out = {}
    for i, group in enumerate(optimizer.param_groups):
        moments = optimizer.state.get(group["params"][0], {})
        out |= {f"{i}.{key}": value.detach().cpu().contiguous() for key, value in moments.items()}
    return out


def _set_moments(optimizer: torch.optim.AdamW, moments: dict[str, Tensor]) -> None:
    for i, group in enumerate(optimizer.param_groups):
        own = {k.removeprefix(f"{i}."): v for k, v in moments.items() if k.startswith(f"{i}.")}
        optimizer.state[group["params"][0]] = {k: v.clone() for k, v in own.items()}


def learning_rate(step: int, total: int, peak: float, warmup: float, schedule: str) -> float:
    """The learning rate of update `step` (from 0): a linear rise over warmup · total updates, then the schedule.

    constant: peak · linear: to 0 at the end · cosine: half a cosine to 0 at the end.
    """
    rise = math.ceil(warmup * total)
    if step < rise:
        return peak * (step + 1) / rise
    share = (step - rise) / max(1, total - rise)
    return peak * {"constant": 1.0, "linear": 1.0 - share, "cosine": 0.5 * (1 + math.cos(math.pi * share))}[schedule]


def apply_gradients(
    state: Learner,
    story: str,
    lr: float,
    head_lr: float,
    max_grad_norm: float,
    eps: float,
    weight_decay: float = 0.0,
    evidence: dict[str, Any] | None = None,
) -> float:
    """One optimizer update of one role from its gradient buffer, which is emptied; gives back the norm before clipping.

    Gradients longer than `max_grad_norm` (0: never) are scaled down to it. Raises NonFiniteError, before anything
    changes, when the norm is not a finite number.
    """
    role = state.role(story)
    assert role.grad is not None, f"{story} is not in training"
    norm = float(torch.linalg.vector_norm(role.grad))
    if not math.isfinite(norm):
        raise NonFiniteError(f"The gradient of {story} is {norm} at step {state.step}, so the run stopped before "
                             "changing a weight; its batch is kept in failure/. Lower the learning rate or look at "
                             "the batch.", evidence or {})  # fmt: skip
    if max_grad_norm and norm > max_grad_norm:
        role.grad.mul_(max_grad_norm / (norm + 1e-6))
    optimizer = state.optimizer(story, eps, weight_decay)
    for group, rate in zip(optimizer.param_groups, (lr, head_lr), strict=False):
        group["lr"], group["eps"], group["weight_decay"] = rate, eps, weight_decay
    optimizer.step()
    role.grad.zero_()
    return norm


def finite(loss: Tensor, state: Learner, evidence: dict[str, Any]) -> Tensor:
    """The loss itself, or NonFiniteError with the batch."""
    if not torch.isfinite(loss):
        raise NonFiniteError(f"The loss is {float(loss.detach())} at step {state.step}, so the run stopped; its batch "
                             "is kept in failure/. Lower the learning rate or look at the batch.",
                             evidence)  # fmt: skip
    return loss
