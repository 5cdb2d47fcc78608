"""A leaderboard of policies from votes on pairs of their answers: Bradley-Terry strengths with 95 % intervals.

    P(i beats j) = σ(θ_i − θ_j)        θ̂ = argmax Σ_votes s log σ(θ_i − θ_j) + (1 − s) log σ(θ_j − θ_i),   Σ θ̂ = 0

with s = 1 where i's answer was preferred, 0 where j's was, ½ for a tie and for both bad. Strengths are in nats of log
odds: a policy 1.1 above another wins three times of four.

    who can be compared  only policies that a chain of votes joins; each such group has strengths of its own, mean 0
    who never loses      has no finite maximum, and neither has a group of which some never lose to the rest. There
                         every two that met are given one more vote, a tie: half a win each way. For two policies that
                         is Jeffreys' prior, θ̂_1 − θ̂_2 = log (w + ½) / (l + ½)
    errors               votes on one prompt go together, so errors are clustered by prompt; where the plain ones of
                         maximum likelihood are larger (few prompts, or nothing but wins), those are taken
    whose votes          a pair's two policies stand in its `source`, as {"a": role, "b": role}; pairs of one policy
                         with itself, gold pairs and pairs from elsewhere are no contest

Source: Bradley & Terry 1952; Ford 1957 (when a maximum exists); Hunter 2004, "MM algorithms for generalized
Bradley-Terry models"; Liang & Zeger 1986 (clusters); Firth 1993 (Jeffreys' prior). The rank that counts who is surely
better is that of Chiang et al. 2024, "Chatbot Arena".
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, logit
from scipy.stats import norm

from lab.evaluate.agreement import Estimate
from lab.feedback.labels.rows import prompt_id
from lab.feedback.labels.words import Event, Item

Z95 = float(norm.ppf(0.975))
POWER = 0.8
"""How probably the votes that `votes_needed` asks for tell two policies apart."""
MOST_VOTES = 100_000
"""Where more votes than this would be needed, two policies count as equally good."""


@dataclass(frozen=True, slots=True)
class Result:
    """A vote on answers of two policies. `score` is 1 where `one` was preferred, 0 where `other` was, ½ for neither;
    `prompt` names what belongs together."""

    one: str
    other: str
    score: float
    prompt: str


@dataclass(frozen=True, slots=True)
class Meeting:
    """How often two policies met, and how it ended for `one`."""

    one: str
    other: str
    wins: int
    ties: int
    losses: int

    @property
    def votes(self) -> int:
        """How often they met."""
        return self.wins + self.ties + self.losses

    @property
    def share(self) -> float:
        """The share of the votes that `one` got, a tie being half a vote."""
        return (self.wins + self.ties / 2) / self.votes


@dataclass(frozen=True, slots=True)
class Standing:
    """One policy on the leaderboard.

    strength : θ, nats, with mean 0 in its group
    win_rate : expected share of the votes against the others of its group, each as often as any other
    rank     : 1 + how many of its group are surely better (the 95 % interval of the gap is above 0)
    group    : the number of its group
    """

    policy: str
    strength: Estimate
    win_rate: Estimate
    rank: int
    group: int
    votes: int


@dataclass(frozen=True)
class Leaderboard:
    """Policies group by group, the strongest first.

    groups   : policies that can be compared with each other; the largest group first
    supposed : numbers of the groups in which every meeting was given one more tie
    """

    standings: tuple[Standing, ...]
    meetings: tuple[Meeting, ...]
    groups: tuple[tuple[str, ...], ...]
    supposed: tuple[int, ...]
    votes: int
    _fits: tuple[_Fit, ...] = field(repr=False, default=())

    def gap(self, one: str, other: str) -> Estimate:
        """θ of one less θ of the other, nats, with its interval; an estimate that says why where nothing joins them."""
        for fit in self._fits:
            if one in fit.policies and other in fit.policies:
                contrast = fit.unit(one) - fit.unit(other)
                return fit.estimate(contrast, self._votes(one, other))
        return Estimate(None, why=f"no chain of votes joins {one} and {other}")

    def _votes(self, one: str, other: str) -> int:
        return sum(m.votes for m in self.meetings if {m.one, m.other} == {one, other})

    def notes(self) -> tuple[str, ...]:
        """What must be said beside the figures."""
        out = []
        if len(self.groups) > 1:
            parts = "; ".join(_listed(g) for g in self.groups)
            out.append(f"No vote joins these groups, so each has a ranking of its own: {parts}. Let one of each meet.")
        for number in self.supposed:
            group = self.groups[number]
            every = [p for p in group if self._points(p) == 1]
            none = [p for p in group if self._points(p) == 0]
            said = [f"{_listed(every)} won every vote" if every else "", f"{_listed(none)} won none" if none else ""]
            why = " and ".join(filter(None, said)) or f"Some of {_listed(group)} never lost to the rest"
            out.append(f"{why}, and votes like these alone would put strengths at infinity; so each two that met count "
                       "as having tied once more.")  # fmt: skip
        return tuple(out)

    def _points(self, policy: str) -> float:
        """The share of its votes that a policy got."""
        mine = [(m.share if m.one == policy else 1 - m.share, m.votes) for m in self.meetings
                if policy in (m.one, m.other)]  # fmt: skip
        return sum(share * n for share, n in mine) / sum(n for _, n in mine)


@dataclass(frozen=True)
class _Fit:
    """Strengths of one group, and two covariances of them: that of maximum likelihood, and by prompts (if any)."""

    policies: tuple[str, ...]
    theta: np.ndarray
    covariances: tuple[np.ndarray, ...]
    prompts: int

    def unit(self, policy: str) -> np.ndarray:
        return np.eye(len(self.policies))[self.policies.index(policy)]

    def error(self, contrast: np.ndarray) -> float:
        """The standard error of Σ_i c_i θ_i."""
        return math.sqrt(max(float(contrast @ c @ contrast) for c in self.covariances))

    def estimate(self, contrast: np.ndarray, n: int) -> Estimate:
        """Σ_i c_i θ_i with its interval."""
        mean, wide = float(contrast @ self.theta), Z95 * self.error(contrast)
        return Estimate(mean, mean - wide, mean + wide, n, self.prompts)


# --- from a store to results -----------------------------------------------------------------------------------------


def contestants(item: Item) -> tuple[str, str] | None:
    """The policies that said a and b; None where the item does not say, is of one policy alone, or is gold."""
    one, other = item.source.get("a"), item.source.get("b")
    named = isinstance(one, str) and isinstance(other, str) and bool(one) and bool(other)
    return (str(one), str(other)) if named and one != other and not item.gold else None


def results(items: Iterable[Item], votes: Iterable[Event], annotators: Collection[str] | None = None) -> list[Result]:
    """The votes of some annotators (None: all) on pairs of two policies; withdrawn pairs are left out."""
    met = {i.id: (who, prompt_id(i)) for i in items if not i.withdrawn and (who := contestants(i)) is not None}
    return [Result(*met[v.item][0], score_of(v), met[v.item][1]) for v in votes
            if v.item in met and (annotators is None or v.annotator in annotators)]  # fmt: skip


def score_of(vote: Event) -> float:
    """1 for a, 0 for b, ½ for a tie and for both bad."""
    return {"a": 1.0, "b": 0.0}.get(vote.choice or "", 0.5)


# --- the leaderboard -------------------------------------------------------------------------------------------------


def bradley_terry(results: Sequence[Result]) -> Leaderboard:
    """The leaderboard of the policies that met. Raises ValueError for a score other than 1, ½ and 0, or one policy
    against itself."""
    for r in results:
        if r.score not in (0.0, 0.5, 1.0) or r.one == r.other:
            raise ValueError(f"{r} is no result; two policies and a score of 1, ½ or 0 are one.")
    policies = sorted({p for r in results for p in (r.one, r.other)})
    meetings = _meetings(results)
    groups = sorted(_parts(policies, [(m.one, m.other) for m in meetings]), key=lambda g: (-len(g), g))
    fits, supposed = [], []
    for number, group in enumerate(groups):
        played = [r for r in results if r.one in group]
        beaten = [(r.one, r.other) for r in played if r.score] + [(r.other, r.one) for r in played if r.score < 1]
        if len(_parts(group, beaten, strong=True)) > 1:
            supposed.append(number)
            met = sorted({tuple(sorted((r.one, r.other))) for r in played})
            extra = [Result(one, other, 0.5, f"supposed {one} {other}") for one, other in met]
        else:
            extra = []
        fits.append(_fit(group, played, extra))
    votes = Counter(p for r in results for p in (r.one, r.other))
    standings = [s for number, fit in enumerate(fits) for s in _standings(number, fit, votes)]
    return Leaderboard(tuple(standings), meetings, tuple(groups), tuple(supposed), len(results), tuple(fits))


def _meetings(results: Sequence[Result]) -> tuple[Meeting, ...]:
    ends: dict[tuple[str, str], Counter[float]] = defaultdict(Counter)
    for r in results:
        turned = r.one > r.other
        ends[(r.other, r.one) if turned else (r.one, r.other)][1 - r.score if turned else r.score] += 1
    return tuple(Meeting(one, other, n[1.0], n[0.5], n[0.0]) for (one, other), n in sorted(ends.items()))


def _parts(policies: Sequence[str], edges: Iterable[tuple[str, str]], strong: bool = False) -> list[tuple[str, ...]]:
    """The connected components of a graph of policies; `strong`: of its directed edges, both ways."""
    at = {p: i for i, p in enumerate(policies)}
    pairs = np.array([(at[i], at[j]) for i, j in edges], dtype=np.int64).reshape(-1, 2)
    graph = csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(policies), len(policies)))
    n, of = connected_components(graph, directed=strong, connection="strong" if strong else "weak")
    return [tuple(p for p, part in zip(policies, of, strict=True) if part == k) for k in range(n)]


def _fit(policies: tuple[str, ...], played: Sequence[Result], supposed: Sequence[Result]) -> _Fit:
    """Strengths of a group that is joined: a logistic regression of the scores on who met, without an intercept."""
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    rows = [*played, *supposed]
    place = {p: i for i, p in enumerate(policies)}
    X = np.zeros((len(rows), len(policies)))
    for row, r in enumerate(rows):
        X[row, place[r.one]], X[row, place[r.other]] = 1.0, -1.0
    basis = _centred(len(policies))  # (P, P − 1): strengths whose sum is 0
    of = np.unique([r.prompt for r in rows], return_inverse=True)[1]
    prompts = len({r.prompt for r in played})
    with np.errstate(divide="ignore", invalid="ignore"):  # a dispersion of no degrees of freedom, which is not used
        model = GLM(np.array([r.score for r in rows]), X @ basis, family=Binomial())
        plain = model.fit(tol=1e-12)
        found = [plain.cov_params()]
        if prompts > 1:
            found.append(model.fit(tol=1e-12, cov_type="cluster", cov_kwds={"groups": of}).cov_params())
    return _Fit(policies, basis @ plain.params, tuple(basis @ c @ basis.T for c in found), prompts)


def _centred(n: int) -> np.ndarray:
    """(n, n − 1) an orthonormal basis of the vectors whose sum is 0."""
    return np.linalg.svd(np.eye(n) - 1 / n)[0][:, : n - 1]


def _standings(number: int, fit: _Fit, votes: Mapping[str, int]) -> list[Standing]:
    out = []
    for i, policy in sorted(enumerate(fit.policies), key=lambda e: (-round(float(fit.theta[e[0]]), 9), e[1])):
        gaps = [fit.unit(other) - fit.unit(policy) for other in fit.policies if other != policy]
        surely = sum(float(g @ fit.theta) > Z95 * fit.error(g) for g in gaps)
        strength = fit.estimate(fit.unit(policy), votes[policy])
        out.append(Standing(policy, strength, _win_rate(fit, i, votes[policy]), 1 + surely, number, votes[policy]))
    return out


def _win_rate(fit: _Fit, i: int, n: int) -> Estimate:
    """w = mean over j ≠ i of σ(θ_i − θ_j); the interval is that of logit w, by the delta method."""
    others = [j for j in range(len(fit.theta)) if j != i]
    shares = expit(fit.theta[i] - fit.theta[others])
    w = float(shares.mean())
    slope = np.zeros(len(fit.theta))
    slope[others] = -shares * (1 - shares) / len(others)
    slope[i] = -slope.sum()
    wide = Z95 * fit.error(slope / (w * (1 - w)))
    low, high = expit(np.array([logit(w) - wide, logit(w) + wide]))
    return Estimate(w, float(low), float(high), n, fit.prompts)


# --- what to do next, and in writing ---------------------------------------------------------------------------------


def votes_needed(board: Leaderboard, one: str, other: str) -> int | None:
    """About how many more votes on pairs of these two tell them apart, four times of five; None: they are as good as
    equal, or nothing joins them.

    By the normal approximation: with d the gap and e its error now, n further votes of p (1 − p) each, p = σ(d), bring
    the error to (1 / e² + n p (1 − p))^−½, and that must be |d| / (z₀.₉₇₅ + z₀.₈). 0 where they are told apart already.
    """
    gap = board.gap(one, other)
    if gap.mean is None or gap.low is None or gap.high is None:
        return None
    if gap.low > 0 or gap.high < 0:
        return 0
    error, p = (gap.high - gap.low) / (2 * Z95), float(expit(gap.mean))
    if abs(gap.mean) < 1e-9:
        return None
    wanted = ((Z95 + float(norm.ppf(POWER))) / gap.mean) ** 2
    n = math.ceil(max(0.0, wanted - 1 / error**2) / (p * (1 - p)))
    return n if n <= MOST_VOTES else None


def as_json(board: Leaderboard) -> dict[str, Any]:
    """The leaderboard as JSON-able values."""
    return {"standings": [asdict(s) for s in board.standings],
            "meetings": [asdict(m) | {"votes": m.votes, "share": m.share} for m in board.meetings],
            "groups": [list(g) for g in board.groups], "supposed": list(board.supposed), "votes": board.votes,
            "notes": list(board.notes())}  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
