"""What annotators look at besides the answers' worth: the place, the length, the clock, and whatever can be counted.

    position share    how often the one that stood first was chosen       ½: no bias
    length share      how often the longer one was chosen                 ½: no bias, if longer is not better
    self-consistency  how often the same annotator says the same when the two are shown again the other way round
    too fast          votes quicker than anybody reads

An annotator's weights are those of a logistic regression of their choices on the differences of features,

    P(a) = σ(Σ_k w_k (f_k(a) − f_k(b)) / s_k + w_first · (±1))

with s_k the spread of the difference, so that a weight is per standard deviation, in nats of log-odds; no intercept,
because a and b are only names. Ties are left out. Source: Bradley & Terry 1952 with covariates; Zheng et al. 2023.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from lab.evaluate.agreement import Estimate, Mark, share

FAST_MS = 1500.0
"""Nobody reads two answers in less, milliseconds."""

RIDGE = 1.0
"""Penalty where choices are separable: a weight of one standard deviation is as likely as under N(0, 1)."""

FIRST = "stood first"
"""The name of the weight of the place."""


def position_share(marks: Iterable[Mark]) -> Estimate:
    """Share of the choices that went to what stood first. Ties, and choices where neither did, are left out."""
    chosen = [m for m in marks if m.strength and m.first]
    return _named(share([(m.strength > 0) == (m.first == "a") for m in chosen], [m.prompt for m in chosen]),
                  "there is no choice, only ties")  # fmt: skip


def length_share(marks: Iterable[Mark], lengths: Mapping[str, tuple[float, float]]) -> Estimate:
    """Share of the choices that went to the longer one. Ties and items of equal or unknown lengths are left out.

    lengths : item -> (length of a, length of b), in any unit
    """
    chosen = [m for m in marks if m.strength and len(set(lengths.get(m.item, (0, 0)))) == 2]
    longer = [(m.strength > 0) == (lengths[m.item][0] > lengths[m.item][1]) for m in chosen]
    return _named(share(longer, [m.prompt for m in chosen]), "there is no choice between answers of different length")


def self_consistency(marks: Iterable[Mark], flipped: bool = True) -> Estimate:
    """Share of the repeats of an annotator's own item that say the same again.

    flipped : only repeats that were shown the other way round than the first time
    """
    before: dict[tuple[str, str], Mark] = {}
    same: list[bool] = []
    prompts: list[str] = []
    for m in marks:
        old = before.setdefault((m.annotator, m.item), m)
        if old is not m and not (flipped and (old.first == m.first or not (old.first and m.first))):
            same.append(np.sign(old.strength) == np.sign(m.strength))
            prompts.append(m.prompt)
    return _named(share(same, prompts), "nobody was shown an item again" + (" the other way round" if flipped else ""))


def too_fast(marks: Iterable[Mark], ms: float = FAST_MS) -> Estimate:
    """Share of the timed votes that took less than `ms` milliseconds."""
    timed = [m for m in marks if m.ms is not None]
    fast = [m.ms is not None and m.ms < ms for m in timed]
    return _named(share(fast, [m.prompt for m in timed]), "no vote was timed")


@dataclass(frozen=True, slots=True)
class Weight:
    """What one feature is worth to an annotator: log-odds in nats per standard deviation of its difference.

    spread : that standard deviation, in the feature's own unit
    error  : standard error of the weight
    """

    feature: str
    weight: float
    error: float
    low: float
    high: float
    spread: float


@dataclass(frozen=True, slots=True)
class Taste:
    """An annotator's weights, from `n` choices.

    penalty : of a ridge, above 0 where the choices alone would put a weight at infinity
    left_out: features that never differ
    why     : why there are none
    """

    annotator: str
    n: int
    weights: tuple[Weight, ...] = ()
    penalty: float = 0.0
    left_out: tuple[str, ...] = ()
    why: str = ""


def taste(
    marks: Iterable[Mark], annotator: str, features: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]]
) -> Taste:
    """What an annotator looks at, from their choices.

    features : item -> (features of a, features of b), each name -> number, the same names everywhere

    Errors are clustered by prompt where there are at least twice as many prompts as weights, and the plain ones else.
    Raises ValueError where an item has other features than the rest.
    """
    chosen = [m for m in marks if m.annotator == annotator and m.strength and m.item in features]
    names = sorted({name for m in chosen for side in features[m.item] for name in side})
    if any(set(side) != set(names) for m in chosen for side in features[m.item]):
        raise ValueError(f"Every answer needs the same features ({', '.join(names)}); one has others.")
    columns = {name: np.array([features[m.item][0][name] - features[m.item][1][name] for m in chosen], dtype=float)
               for name in names}  # fmt: skip
    columns[FIRST] = np.array([{"a": 1.0, "b": -1.0, "": 0.0}[m.first] for m in chosen])
    spreads = {name: float(np.sqrt((x**2).mean())) if len(x) else 0.0 for name, x in columns.items()}
    kept = [name for name in columns if spreads[name] > 0]
    left_out = tuple(name for name in columns if name not in kept)
    if len(chosen) <= len(kept):
        why = f"{len(chosen)} choices are too few for {len(kept)} weights"
        return Taste(annotator, len(chosen), left_out=left_out, why=why)
    X = np.stack([columns[name] / spreads[name] for name in kept], axis=1)
    y = np.array([float(m.strength > 0) for m in chosen])
    w, error, penalty = _logit(X, y, [m.prompt for m in chosen])
    z = float(norm.ppf(0.975))
    found = tuple(Weight(name, float(w[k]), float(error[k]), float(w[k] - z * error[k]), float(w[k] + z * error[k]),
                         spreads[name]) for k, name in enumerate(kept))  # fmt: skip
    return Taste(annotator, len(chosen), found, penalty, left_out)


def _logit(X: np.ndarray, y: np.ndarray, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, float]:
    """(weights, standard errors, ridge penalty) of y ~ σ(X w); the penalty is 0 where the maximum is finite."""
    from numpy.linalg import LinAlgError
    from statsmodels.discrete.discrete_model import Logit
    from statsmodels.tools.sm_exceptions import ModelWarning, PerfectSeparationError

    _, of = np.unique(prompts, return_inverse=True)
    clustered = of.max() + 1 >= 2 * X.shape[1] and of.max() + 1 < len(y)
    how: dict[str, Any] = {"cov_type": "cluster", "cov_kwds": {"groups": of}} if clustered else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelWarning)  # separation and failure to converge
        warnings.simplefilter("error", RuntimeWarning)
        try:
            fit = Logit(y, X).fit(disp=0, maxiter=100, **how)
            if np.isfinite(fit.bse).all() and np.abs(fit.params).max() < 15:
                return fit.params, fit.bse, 0.0
        except (ModelWarning, PerfectSeparationError, RuntimeWarning, LinAlgError):
            pass
    return *_ridge(X, y, RIDGE), RIDGE


def _ridge(X: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """argmax of Σ log-likelihood − λ/2 |w|² by Newton's method, and its errors √diag((XᵀDX + λ)⁻¹)."""
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(w: np.ndarray) -> float:
        z = X @ w
        return float(np.logaddexp(0, z).sum() - y @ z + penalty / 2 * w @ w)

    def hessian(w: np.ndarray) -> np.ndarray:
        p = expit(X @ w)
        return (X * (p * (1 - p))[:, None]).T @ X + penalty * np.eye(X.shape[1])

    gradient: Callable[[np.ndarray], np.ndarray] = lambda w: X.T @ (expit(X @ w) - y) + penalty * w  # noqa: E731
    w = minimize(loss, np.zeros(X.shape[1]), jac=gradient, hess=hessian, method="trust-exact").x
    return w, np.sqrt(np.diag(np.linalg.inv(hessian(w))))


def _named(found: Estimate, why: str) -> Estimate:
    return found if found.mean is not None else Estimate(None, why=why)
