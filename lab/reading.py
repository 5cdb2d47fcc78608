"""What a run shows, in plain words: health sentences, answers side by side, and word diffs.

Pure functions over what a `Follower` has read, for the terminal, the notebook and the Studio alike.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from lab.events import Checked, Sample
from lab.follow import Follower

Level = Literal["good", "warn", "bad"]
Op = Literal["same", "added", "removed"]


@dataclass(frozen=True, slots=True)
class Note:
    """One health sentence, how serious it is, and the step to look at (−1 if none in particular)."""

    level: Level
    text: str
    step: int = -1


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """One probe prompt answered at two steps; `before` is None where the earlier step did not ask it."""

    prompt: str
    before: Sample | None
    after: Sample
    diff: tuple[tuple[Op, str], ...]
    split: int | None
    """0-based word at which the two answers part; None if they are the same."""


def trend(values: Sequence[float]) -> float:
    """t statistic of the least-squares slope of `values` over 0, 1, 2, …; 0 with fewer than 3 values or no spread.

    t = b / (s / √Σ(i − ī)²), s² = Σ(residual²) / (n − 2). A straight line has s = 0 and gives ±∞.
    """
    n = len(values)
    if n < 3:
        return 0.0
    centre, mean = (n - 1) / 2, math.fsum(values) / n
    spread = math.fsum((i - centre) ** 2 for i in range(n))
    slope = math.fsum((i - centre) * (y - mean) for i, y in enumerate(values)) / spread
    rest = math.fsum((y - mean - slope * (i - centre)) ** 2 for i, y in enumerate(values))
    total = math.fsum((y - mean) ** 2 for y in values)
    if total == 0:
        return 0.0
    if rest <= 1e-12 * total:
        return math.copysign(math.inf, slope)
    return slope / math.sqrt(rest / (n - 2) / spread)


def health(follower: Follower) -> list[Note]:
    """What deserves a look in a run's metrics, most serious first; empty if nothing does.

    Trends count when the t statistic of the slope over the last steps is beyond ± 3; flat is below 1.
    """
    metrics = follower.metrics
    found = [
        _overoptimised(metrics),
        _longer(metrics),
        _far(metrics, _setting(follower, "kl_target")),
        _level(
            metrics,
            "ended",
            below=0.9,
            level="bad",
            text="only {0:.0%} of the completions end by themselves: "
            "raise the penalty for a missing end, or allow longer ones",
        ),
        _level(
            metrics,
            "clip_fraction",
            above=0.3,
            level="warn",
            text="{0:.0%} of the token ratios are clipped: the policy moves too far in a step; lower lr",
        ),
        _level(
            metrics,
            "sampler_gap",
            above=0.01,
            level="bad",
            text="sampler and training forward disagree by {0:.3f} in mean probability (limit 0.01)",
        ),
        _level(
            metrics,
            "explained_variance",
            below=0.0,
            level="warn",
            text="the value role explains less than the mean would (explained variance {0:.2f})",
        ),
        _collapsed(metrics),
        _overfit(metrics),
    ]
    order = {"bad": 0, "warn": 1, "good": 2}
    return sorted((n for n in found if n), key=lambda n: order[n.level])


Metrics = Mapping[int, Mapping[str, float]]


def _setting(follower: Follower, name: str) -> float:
    """A numeric setting as it is now: what the run was started with, or what somebody made of it since; else 0."""
    value = follower.source.manifest.settings.get(name)
    for edit in follower.edits:
        value = edit.new if edit.name == name else value
    return float(value) if isinstance(value, (int, float)) else 0.0


def _points(metrics: Metrics, *names: str) -> list[tuple[int, Sequence[float]]]:
    """(step, the values of the names) for every step that has them all, in order."""
    rows = ((step, metrics[step]) for step in sorted(metrics))
    return [(step, [row[n] for n in names]) for step, row in rows if all(n in row for n in names)]


def _overoptimised(metrics: Metrics) -> Note | None:
    """Over the longest tail of at least 20 steps the proxy rises and the true score does not, nor does it at first."""
    both = _points(metrics, "reward", "gold")
    note, width = None, 20
    while width <= len(both):
        tail = both[-width:]
        rewards, golds = [v[0] for _, v in tail], [v[1] for _, v in tail]
        if trend(rewards) > 3 and (gold := trend(golds)) < 1 and trend(golds[: width // 2]) < 2:
            first, last = tail[0][0], tail[-1][0]
            word = "falls" if gold < -3 else "is flat"
            note = Note(
                "bad" if gold < -3 else "warn",
                f"reward rises while the true score {word} for {last - first} "
                "steps: over-optimisation; see the samples",
                last,
            )
        width = width + 10 if width < 100 else width * 2
    return note


def _longer(metrics: Metrics) -> Note | None:
    tail = _points(metrics, "reward", "length")[-60:]
    if len(tail) < 20 or any(trend([v[i] for _, v in tail]) <= 3 for i in (0, 1)):
        return None
    first, last = _mean(v[1] for _, v in tail[:5]), _mean(v[1] for _, v in tail[-5:])
    if last < 1.15 * first:
        return None
    return Note(
        "warn",
        f"length rises with reward: {first:.0f} to {last:.0f} tokens in {tail[-1][0] - tail[0][0]} "
        "steps; look whether the answers got better or only longer",
        tail[-1][0],
    )


def _far(metrics: Metrics, target: float) -> Note | None:
    last = _points(metrics, "kl")[-5:]
    value = _mean(v[0] for _, v in last)
    if target <= 0 or len(last) < 5 or value <= 1.5 * target:
        return None
    return Note("warn", f"KL is above its target: {value:.1f} nats, target {target:g}", last[-1][0])


def _level(
    metrics: Metrics, name: str, *, text: str, level: Level, above: float = math.inf, below: float = -math.inf
) -> Note | None:
    """A sentence when the mean of the last five values lies beyond a limit."""
    last = _points(metrics, name)[-5:]
    value = _mean(v[0] for _, v in last)
    return Note(level, text.format(value), last[-1][0]) if len(last) == 5 and not below <= value <= above else None


def _collapsed(metrics: Metrics) -> Note | None:
    values = _points(metrics, "entropy")
    first, last = _mean(v[0] for _, v in values[:5]), _mean(v[0] for _, v in values[-5:])
    if len(values) < 10 or last >= 0.2 * first:
        return None
    return Note(
        "warn", f"entropy fell from {first:.2f} to {last:.2f} nats: the answers become all alike", values[-1][0]
    )


def _overfit(metrics: Metrics) -> Note | None:
    values = [(step, v[0]) for step, v in _points(metrics, "eval_loss")]
    if len(values) < 4:
        return None
    best, last = min(values, key=lambda v: v[1]), values[-1]
    after = [v[0] for step, v in _points(metrics, "loss") if step >= best[0]]
    if last[1] <= 1.05 * best[1] or trend(after) >= -1:
        return None
    return Note("warn", f"held-out loss rises since step {best[0]} while training loss falls: over-fitting", best[0])


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return math.fsum(kept) / len(kept) if kept else math.nan


def invariants(checks: Iterable[Checked]) -> tuple[list[Checked], str]:
    """The newest check of every name, broken ones first, and one sentence about them all."""
    newest = {c.name: c for c in sorted(checks, key=lambda c: c.step)}
    rows = sorted(newest.values(), key=lambda c: (c.ok, c.name))
    broken = sum(not c.ok for c in rows)
    if not rows:
        return rows, "nothing checked yet"
    if broken:
        return rows, f"{broken} of {len(rows)} invariants broken"
    return rows, f"all {len(rows)} invariants hold" if len(rows) > 1 else "the one invariant holds"


def word_diff(before: str, after: str) -> tuple[tuple[Op, str], ...]:
    """The words of `after` with those `before` lost and gained, in reading order, neighbours of one kind joined."""
    a, b = before.split(), after.split()
    out: list[tuple[Op, str]] = []
    sides: tuple[tuple[Op, list[str]], ...]
    for tag, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal":
            out.append(("same", " ".join(a[i:j])))
            continue
        sides = (("removed", a[i:j]), ("added", b[k:m]))
        out.extend((op, " ".join(words)) for op, words in sides if words)
    return tuple(out)


def first_split(before: str, after: str) -> int | None:
    """The 0-based word at which two answers part; None if they are the same word by word."""
    a, b = before.split(), after.split()
    if a == b:
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def probes_table(
    probes: Mapping[int, Sequence[Sample]],
    step: int | None = None,
    against: int | None = None,
) -> tuple[int, int, list[ProbeRow]]:
    """The probe answers nearest to `step` (None: the newest) beside those nearest to `against` (None: the first).

    Returns both steps found (−1 each, and no rows, where nothing was probed) and one row a prompt. Ties go to the
    earlier step.
    """
    if not probes:
        return -1, -1, []
    steps = sorted(probes)
    now = steps[-1] if step is None else min(steps, key=lambda s: abs(s - step))
    then = steps[0] if against is None else min(steps, key=lambda s: abs(s - against))
    old = {s.prompt: s for s in probes[then]}
    return now, then, [_row(old.get(s.prompt), s) for s in probes[now]]


def _row(before: Sample | None, after: Sample) -> ProbeRow:
    text = after.completion if before is None else before.completion
    return ProbeRow(after.prompt, before, after, word_diff(text, after.completion), first_split(text, after.completion))


def added_phrase(rows: Sequence[ProbeRow], longest: int = 8) -> tuple[str, int] | None:
    """The phrase (2 to `longest` words of a sentence) that most probes gained, with their number.

    Gained means in the later answer and not in the earlier one; of phrases gained by equally many the longest is named.
    None if fewer than three probes share one.
    """
    gained: Counter[str] = Counter()
    for row in rows:
        if row.before is not None:
            gained.update(_phrases(row.after.completion, longest) - _phrases(row.before.completion, longest))
    if not gained:
        return None
    phrase, count = max(gained.items(), key=lambda item: (item[1], len(item[0].split()), item[0]))
    return (phrase, count) if count >= 3 else None


def _phrases(text: str, longest: int) -> set[str]:
    sentences = [s.split() for s in re.split(r"(?<=[.!?])\s+", text)]
    return {" ".join(w[i : i + n]) for w in sentences for n in range(2, longest + 1) for i in range(len(w) - n + 1)}
