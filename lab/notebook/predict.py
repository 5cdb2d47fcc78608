"""Predictions made before a run, and what the run said: guess first, then look.

A word is "higher", "lower" or "same". Two stretches of steps differ when their means are more than two standard
errors apart, SE² = s_a² / n_a + s_b² / n_b with n − 1 in the variances (Welch 1947). Neighbouring steps resemble each
other, so this is a rule of thumb and not a test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, variance

from lab.follow import Follower
from lab.notebook import cards
from lab.runs import Run

WORDS = ("higher", "lower", "same")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prediction: what was said, what was seen, the two means, and the standard error of their difference.

    `seen` is "unclear" where a stretch has fewer than three steps.
    """

    metric: str
    said: str
    seen: str
    before: float
    after: float
    error: float

    @property
    def right(self) -> bool | None:
        """Whether the prediction came true; None where nobody can say."""
        return None if self.seen == "unclear" else self.said == self.seen


@dataclass(frozen=True)
class Verdict:
    """What became of some predictions."""

    title: str
    columns: tuple[str, str]
    outcomes: tuple[Outcome, ...]
    hint: str = ""

    def _repr_html_(self) -> str:
        marks = {True: (cards.GOOD, "✓"), False: (cards.BAD, "✗"), None: (cards.FAINT, "?")}
        body = []
        for o in self.outcomes:
            colour, mark = marks[o.right]
            metric = f'<b style="color:{colour}">{mark}</b> {escape(o.metric)}'
            numbers = (f"{o.before:.3g}", f"{o.after:.3g}", f"± {o.error:.2g}")
            body.append((metric, escape(o.said), f"<b>{escape(o.seen)}</b>", *numbers))
        html = cards.table(("", "you said", "it was", *self.columns, "standard error"), body, self.title)
        return f'{html}<div style="color:{cards.FAINT};margin-top:4px">{escape(self.hint)}</div>'

    def __repr__(self) -> str:
        marks = {True: "✓", False: "✗", None: "?"}
        lines = [f"{marks[o.right]} {o.metric}: you said {o.said}, it was {o.seen} ({o.before:.3g} → {o.after:.3g})"
                 for o in self.outcomes]  # fmt: skip
        return "\n".join([self.title, *lines])


def compared(metric: str, said: str, before: Sequence[float], after: Sequence[float]) -> Outcome:
    """One prediction against two stretches of a metric. Raises ValueError for a word that is none of `WORDS`."""
    if said not in WORDS:
        raise ValueError(f"{said!r} is not a prediction for {metric}; say one of {', '.join(WORDS)}.")
    a, b = (fmean(x) if x else math.nan for x in (before, after))
    if min(len(before), len(after)) < 3:
        return Outcome(metric, said, "unclear", a, b, math.nan)
    error = math.sqrt(variance(before) / len(before) + variance(after) / len(after))
    seen = "same" if abs(b - a) <= 2 * error else "higher" if b > a else "lower"
    return Outcome(metric, said, seen, a, b, error)


def check_change(prediction: Mapping[str, str], run: Run, stretch: int = 6) -> Verdict:
    """Predictions about where a run ends (its last `stretch` steps) against where it began (its first).

    A run of fewer than twice `stretch` steps is cut in halves.
    """
    found, outcomes = _series(run, prediction), []
    for metric, said in prediction.items():
        values = list(found[metric].values())
        n = min(stretch, len(values) // 2)
        outcomes.append(compared(metric, said, values[:n], values[len(values) - n :]))
    return Verdict(f"{run.id}: its last steps against its first", ("first", "last"), tuple(outcomes))


def check_branch(prediction: Mapping[str, str], branch: Run, parent: Run, stretch: int = 6) -> Verdict:
    """Predictions about a branch against its parent, over the last `stretch` steps that both have."""
    mine, theirs = _series(branch, prediction), _series(parent, prediction)
    outcomes = []
    for metric, said in prediction.items():
        shared = sorted(mine[metric].keys() & theirs[metric].keys())[-stretch:]
        both = ([series[metric][step] for step in shared] for series in (theirs, mine))
        outcomes.append(compared(metric, said, *both))
    kl = next((o for o in outcomes if o.metric == "kl"), None)
    hint = "" if kl is None or kl.right else (
        "The penalty is the only thing that pulls the policy back to where it began: without it, nothing in the reward "
        "says how far is too far.")  # fmt: skip
    return Verdict(f"{branch.id} against {parent.id}, the last steps of both", (parent.id, branch.id),
                   tuple(outcomes), hint)  # fmt: skip


def _series(run: Run, metrics: Iterable[str]) -> dict[str, dict[int, float]]:
    """metric -> step -> value."""
    follower = Follower(run)
    follower.refresh()
    return {name: dict(zip(*series, strict=True)) for name, series in follower.columns(metrics).items()}
