"""What a completion earns in a run: several rewards with weights, from reward models and from programs.

    total = Σ_k w_k r_k(prompt, completion, row)

A program is asked completion by completion and sees the other columns of the data row (the right answer, unit tests).
0.0 is a reward; None says that this reward does not apply to the row, and counts as missing. A program that raises
stops the run with the prompt and the completion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lab.objectives.ensemble import COMBINE
from lab.records import Rollout, prompt_text

Program = Callable[[str, str, Mapping[str, Any]], float | None]
"""(prompt, completion, the row's other columns) -> a reward, or None where it does not apply."""

Many = Callable[[Sequence[Rollout]], Sequence[float]]
"""Rollouts -> one reward each: another model, with a tokenizer of its own."""


class RewardError(RuntimeError):
    """A reward that raised, or gave back something other than one finite number for each completion."""


@dataclass(frozen=True)
class Term:
    """One reward and its weight (reward units per unit of its own). It comes from exactly one of these:

    roles   : reward roles on the base; several are an ensemble, read as `combine` says with λ = `doubt`
    program : a function of prompt, completion and row
    many    : a function of all rollouts at once
    """

    name: str
    weight: float = 1.0
    roles: tuple[str, ...] = ()
    program: Program | None = None
    many: Many | None = None
    combine: str = "mean"
    doubt: float = 0.1


@dataclass(frozen=True)
class Earned:
    """total (B,): the weighted sum. parts: each reward before its weight, NaN where it does not apply."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """The mean of each reward over the completions it applies to, and the share it does not apply to."""
        if len(self.parts) < 2 and not any(bool(p.isnan().any()) for p in self.parts.values()):
            return {}
        out = {f"reward {name}": float(p.nanmean()) for name, p in self.parts.items() if not bool(p.isnan().all())}
        missing = torch.stack([p.isnan().float().mean() for p in self.parts.values()]).mean()
        return out | ({"missing": float(missing)} if missing else {})


@dataclass(frozen=True)
class Rewards:
    """All the rewards of a run."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise RewardError("There is no reward; give a reward model or a program.")
        names = [t.name for t in self.terms]
        if len(set(names)) < len(names):
            raise RewardError(f"Two rewards have the same name among {', '.join(names)}; each is given once.")
        for t in self.terms:
            if not math.isfinite(t.weight):
                raise RewardError(f"The weight of {t.name} is {t.weight}; it must be a finite number.")

    @classmethod
    def role(cls, *roles: str, combine: str = "mean", doubt: float = 0.1) -> Rewards:
        """One reward model, or an ensemble of them."""
        return cls((Term("reward", roles=roles, combine=combine, doubt=doubt),))

    @classmethod
    def program(cls, program: Program, name: str = "program") -> Rewards:
        """One function of prompt, completion and row."""
        return cls((Term(name, program=program),))

    @property
    def roles(self) -> tuple[str, ...]:
        """Every reward role on the base that must score the completions."""
        return tuple(dict.fromkeys(role for t in self.terms for role in t.roles))

    @property
    def reads_rows(self) -> bool:
        """Whether any reward is a program, which sees the data rows."""
        return any(t.program is not None for t in self.terms)

    def earn(
        self, rollouts: Sequence[Rollout], rows: Sequence[Mapping[str, Any]], known: Mapping[str, Tensor]
    ) -> Earned:
        """What every rollout earns.

        rows  : the data row's other columns, one for each rollout; not looked at unless `reads_rows`
        known : reward role -> (B,) its scores, for every one of `roles`
        """
        parts = {t.name: self._read(t, rollouts, rows, known) for t in self.terms}
        stacked = torch.stack(list(parts.values()))
        for i in torch.nonzero(stacked.isnan().all(0))[:, 0].tolist():
            raise RewardError(f"No reward applies to the prompt {prompt_text(rollouts[i].prompt)!r} and the completion "
                              f"{rollouts[i].completion!r}; one at least must give a number.")  # fmt: skip
        weights = stacked.new_tensor([t.weight for t in self.terms])
        return Earned((stacked.nan_to_num(0.0) * weights[:, None]).sum(0), parts)

    def _read(
        self, term: Term, rollouts: Sequence[Rollout], rows: Sequence[Mapping[str, Any]], known: Mapping[str, Tensor]
    ) -> Tensor:
        if term.roles:
            scores = torch.stack([known[role].cpu() for role in term.roles])
            return scores[0] if len(scores) == 1 else COMBINE[term.combine](scores, term.doubt)
        if term.many is not None:
            return _checked(term.name, term.many(rollouts), rollouts)
        assert term.program is not None
        return _checked(term.name, [_ask(term, r, row) for r, row in zip(rollouts, rows, strict=True)], rollouts)


def _ask(term: Term, rollout: Rollout, row: Mapping[str, Any]) -> float | None:
    assert term.program is not None
    try:
        return term.program(prompt_text(rollout.prompt), rollout.completion, row)
    except Exception as error:
        raise RewardError(f"The reward {term.name} raised {type(error).__name__}: {error} "
                          f"({_where(rollout)}).") from error  # fmt: skip


def _checked(name: str, rewards: Sequence[float | None], rollouts: Sequence[Rollout]) -> Tensor:
    """(B,) the rewards, NaN for None."""
    if len(rewards) != len(rollouts):
        raise RewardError(
            f"The reward {name} gave {len(rewards)} rewards for {len(rollouts)} completions; it must give one for "
            "each, in order."
        )
    for value, rollout in zip(rewards, rollouts, strict=True):
        number = isinstance(value, (int, float)) or (hasattr(value, "__float__") and value is not None)
        if value is not None and not (number and math.isfinite(float(value))):
            raise RewardError(f"The reward {name} gave {value!r} ({_where(rollout)}); it must give a finite number "
                              "(0.0 is one) or None where it does not apply.")  # fmt: skip
    return torch.tensor([math.nan if r is None else float(r) for r in rewards])


def _where(rollout: Rollout) -> str:
    return f"prompt: {prompt_text(rollout.prompt)!r}, completion: {rollout.completion!r}"
