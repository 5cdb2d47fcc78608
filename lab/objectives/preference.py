"""Learning from pairs of completions without sampling: every objective under its name, its defaults, and mixtures.

An objective is a function of `Pairs` and `Knobs` to one loss per pair, (B,); a run weights and adds them up. The
functions stand in four files, by what they look at:

- `margins`         one margin per pair:  dpo, cdpo, robust, ipo, ipo_mean, hinge, dpo_norm, exo, aot, discopop
- `divergences`     DPO with other divergences:  fdpo_forward_kl, fdpo_js, fdpo_alpha
- `anchors`         each completion by itself:  nca, bco_pair, sppo, apo_zero, apo_down
- `reference_free`  the policy alone:  simpo, cpo, orpo, nll
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lab.objectives.anchors import apo_down, apo_zero, bco_pair, nca, sppo
from lab.objectives.divergences import fdpo_alpha, fdpo_forward_kl, fdpo_js
from lab.objectives.margins import aot, cdpo, discopop, dpo, dpo_norm, exo, hinge, ipo, ipo_mean, robust
from lab.objectives.pairs import Knobs, Loss, Pairs
from lab.objectives.reference_free import chosen_nll, cpo, orpo, simpo

Start = Callable[[Knobs], float]
"""From the knobs to the exact loss of every pair while the policy is the reference."""

Terms = Sequence[tuple[str, float]]
"""A mixture: names of objectives with their weights, which sum to 1."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One way to learn from pairs, and what has to be known to run it."""

    loss: Loss
    knobs: Knobs
    """The paper's defaults."""
    reads: tuple[str, ...] = ()
    """The knobs it reads besides beta."""
    reference: bool = True
    """Whether it needs the reference's log-probabilities."""
    coupled: bool = False
    """Whether the loss of one pair depends on the other pairs given with it."""
    start: Start | None = None
    """The loss of every pair where the policy is the reference; None where that depends on the data."""


def _ln_2(knobs: Knobs) -> float:
    return math.log(2)


def _two_ln_2(knobs: Knobs) -> float:
    return 2 * math.log(2)


def _one(knobs: Knobs) -> float:
    return 1.0


def _ipo_start(knobs: Knobs) -> float:
    return 1 / (2 * knobs.beta) ** 2


def _sppo_start(knobs: Knobs) -> float:
    return 1 / (2 * knobs.beta**2)


def _exo_start(knobs: Knobs) -> float:
    return -math.log(2) - math.log(knobs.smoothing * (1 - knobs.smoothing)) / 2


def _discopop_start(knobs: Knobs) -> float:
    return (math.log(2) + 1) / 2


OBJECTIVES: dict[str, Objective] = {
    "dpo": Objective(dpo, Knobs(0.1), start=_ln_2),
    "cdpo": Objective(cdpo, Knobs(0.1, smoothing=0.1), ("smoothing",), start=_ln_2),
    "robust": Objective(robust, Knobs(0.01, smoothing=0.1), ("smoothing",), start=_ln_2),
    "ipo": Objective(ipo, Knobs(0.1), start=_ipo_start),
    "ipo_mean": Objective(ipo_mean, Knobs(0.1), start=_ipo_start),
    "hinge": Objective(hinge, Knobs(0.1), start=_one),
    "dpo_norm": Objective(dpo_norm, Knobs(5.0), start=_ln_2),
    "exo": Objective(exo, Knobs(0.1, smoothing=1e-3), ("smoothing",), start=_exo_start),
    "nca": Objective(nca, Knobs(0.01), start=_two_ln_2),
    "bco_pair": Objective(bco_pair, Knobs(0.01), start=_two_ln_2),
    "sppo": Objective(sppo, Knobs(1e-3), start=_sppo_start),
    "apo_zero": Objective(apo_zero, Knobs(0.1), start=_one),
    "apo_down": Objective(apo_down, Knobs(0.1), start=_one),
    "aot": Objective(aot, Knobs(0.01), coupled=True, start=_ln_2),
    "discopop": Objective(discopop, Knobs(0.05, sharpness=0.05), ("sharpness",), start=_discopop_start),
    "fdpo_forward_kl": Objective(fdpo_forward_kl, Knobs(0.1), start=_ln_2),
    "fdpo_js": Objective(fdpo_js, Knobs(0.1), start=_ln_2),
    "fdpo_alpha": Objective(fdpo_alpha, Knobs(0.1, divergence=0.5), ("divergence",), start=_ln_2),
    "simpo": Objective(simpo, Knobs(2.0, gamma=1.0), ("gamma",), reference=False),
    "cpo": Objective(cpo, Knobs(0.1, nll=1.0), ("nll",), reference=False),
    "orpo": Objective(orpo, Knobs(0.1), reference=False),
    "nll": Objective(chosen_nll, Knobs(0.1), reference=False),
}
"""Every objective for pairs, by name."""

_NO_PAIRS = Pairs(*[torch.empty(0)] * 6)


def _check_name(name: str) -> None:
    if name not in OBJECTIVES:
        raise ValueError(f"There is no objective {name!r}; choose one of {', '.join(OBJECTIVES)}.")


def _knobs_of(*names: str) -> list[str]:
    """The knobs that at least one of the objectives reads: beta first."""
    return list(dict.fromkeys(["beta", *(knob for name in names for knob in OBJECTIVES[name].reads)]))


def knobs_for(name: str, **given: float | None) -> Knobs:
    """The objective's own defaults, with the numbers given in their place.

    beta may be given to every objective; nll leaves it aside.

    Args:
        name: a key of `OBJECTIVES`.
        given: numbers by the names of the fields of `Knobs`; None leaves the default.

    Raises:
        ValueError: an unknown name, a knob that the objective does not read, or a number it cannot work with.
    """
    return _knobs([name], given)[name]


def mixture_knobs(terms: Terms, **given: float | None) -> dict[str, Knobs]:
    """The knobs of every objective in a mixture: each takes those of the numbers given that it reads.

    Args:
        terms: from `parse_mixture`.
        given: as in `knobs_for`.

    Raises:
        ValueError: an unknown name, a knob that none of the objectives reads, or a number that one cannot work with.
    """
    return _knobs([name for name, _ in terms], given)


def _knobs(names: Sequence[str], given: Mapping[str, float | None]) -> dict[str, Knobs]:
    for name in names:
        _check_name(name)
    numbers = {knob: number for knob, number in given.items() if number is not None}
    for knob in numbers:
        if knob not in _knobs_of(*names):
            raise ValueError(
                f"{knob} is given, but {' + '.join(names)} does not read it; what it reads: "
                f"{', '.join(_knobs_of(*names))}."
            )
    knobs = {}
    for name in names:
        own = {knob: number for knob, number in numbers.items() if knob in _knobs_of(name)}
        knobs[name] = replace(OBJECTIVES[name].knobs, **own)
        OBJECTIVES[name].loss(_NO_PAIRS, knobs[name])  # refuses what this objective alone cannot work with
    return knobs


def _term(text: str) -> tuple[str, float]:
    """One part of a mixture, "0.8*dpo" or "dpo"."""
    weight, star, name = (word.strip() for word in text.rpartition("*"))
    _check_name(name)
    if not star:
        return name, 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"The weight of {name} is {weight!r}; give a number above 0.")
    return name, number


def parse_mixture(text: str) -> tuple[tuple[str, float], ...]:
    """The objectives named in a text, with their weights: "dpo", or "0.8*dpo + 0.2*nll".

    Args:
        text: names joined by +, each with its weight and * before it; a name alone has the weight 1.

    Returns:
        (name, weight) in the order of the text; the weights sum to 1.

    Raises:
        ValueError: an unknown name, a name twice, a weight that is not a number above 0, or weights that do not sum
            to 1 within 1e-6.
    """
    terms = tuple(_term(part) for part in text.split("+"))
    names = [name for name, _ in terms]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} stands in {text!r} more than once; add its weights up.")
    total = math.fsum(weight for _, weight in terms)
    if not math.isclose(total, 1, abs_tol=1e-6):
        divided = " + ".join(f"{weight / total:g}*{name}" for name, weight in terms)
        raise ValueError(f"The weights in {text!r} sum to {total:g}, not to 1; divided by their sum: {divided}.")
    return terms


def preference_loss(pairs: Pairs, terms: Terms, knobs: Mapping[str, Knobs]) -> Tensor:
    """L = Σ_k w_k L_k: the mixture of objectives, per pair.

    Args:
        pairs: B preferences.
        terms: names and weights, from `parse_mixture`.
        knobs: those of every objective in the mixture, from `mixture_knobs`.

    Returns:
        (B,).

    Raises:
        ValueError: different shapes.
    """
    return torch.stack([weight * OBJECTIVES[name].loss(pairs, knobs[name]) for name, weight in terms]).sum(0)


def start_loss(terms: Terms, knobs: Mapping[str, Knobs]) -> float | None:
    """The loss of every pair while the policy is still the reference; None if that depends on the data.

    The first loss of a run has to be this number: anything else means that the policy or the reference is not what it
    should be.
    """
    total = 0.0
    for name, weight in terms:
        start = OBJECTIVES[name].start
        if start is None:
            return None
        total += weight * start(knobs[name])
    return total
