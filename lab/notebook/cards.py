"""What a notebook shows besides curves, as small pieces of HTML.

An HTML widget runs whatever it is given, so every word that does not come from this file passes through `escape`:
prompts, answers, run names, error sentences. Colours follow the theme of the front end where it names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from lab import reading
from lab.events import Checked, Sample
from lab.follow import Follower
from lab.metrics import HEADLINES
from lab.runs import Status

INK = "var(--jp-ui-font-color1, #1d2029)"
FAINT = "var(--jp-ui-font-color2, #5a6070)"
LINE = "var(--jp-border-color2, rgba(128,136,150,.35))"
GOOD, WARN, BAD, ACCENT = "#12805c", "#a76100", "#c22f2a", "#2f6fd0"
STATES = {"running": GOOD, "finished": ACCENT, "paused": WARN, "starting": FAINT, "stopped": WARN, "failed": BAD,
          "lost": BAD}  # fmt: skip
LEVELS = {"good": GOOD, "warn": WARN, "bad": BAD}
DIFF = {"same": "{}", "added": f'<ins style="text-decoration:none;color:{GOOD};font-weight:600">{{}}</ins>',
        "removed": f'<del style="color:{BAD};opacity:.7">{{}}</del>'}  # fmt: skip


def number(x: float | None, sign: bool = False) -> str:
    """Three significant digits, or a dash where there is no number."""
    return "–" if x is None else f"{x:+.3g}" if sign else f"{x:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 8 s, 3 min 20 s, 2 h 5 min; empty where not known."""
    if seconds is None:
        return ""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60} min {s % 60} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60} min"


def latest(follower: Follower, names: Iterable[str]) -> dict[str, float]:
    """The newest value of each metric that has one."""
    found = follower.columns(names)
    return {name: series.values[-1] for name, series in found.items() if series.values}


def status_line(follower: Follower, status: Status) -> str:
    """The run's name, method and state, what it is doing, its newest figures, and its error if it has one."""
    shown = status.shown
    doing = f" · {status.phase} {status.done}/{status.of}" if status.phase else ""
    wish = f" · will {status.wanted} after this step" if status.wanted in ("pause", "stop") else ""
    figures = " &nbsp; ".join(
        f"{escape(name.replace('_', ' '))} <b>{number(value)}</b>"
        for name, value in latest(follower, HEADLINES.get(follower.method, ())).items()
    )
    said = follower.done.sentence if follower.done and shown in ("stopped", "failed") else status.error
    lost = "its process is gone; play it to go on from the last checkpoint" if shown == "lost" else ""
    tail = f'<div style="color:{STATES.get(shown, FAINT)}">{escape(said or lost)}</div>' if said or lost else ""
    return (
        f'<div style="color:{INK};line-height:1.5"><b style="font-size:1.1em">{escape(follower.run)}</b> '
        f'<span style="color:{FAINT}">{escape(follower.source.manifest.title or follower.method)}</span> · '
        f'<b style="color:{STATES.get(shown, FAINT)}">{escape(shown)}</b>'
        f'<span style="color:{FAINT}">{escape(doing + wish)}</span><br>{figures}</div>{tail}'
    )


def remaining(status: Status) -> str:
    """Steps done, and the time left while the run plays."""
    eta = duration(status.eta_s) if status.state == "running" else ""
    left = f" · about {eta} left" if eta else ""
    return f'<span style="color:{FAINT};white-space:nowrap">step {status.step} of {status.total}{left}</span>'


def invariants(checks: Iterable[Checked]) -> str:
    """What must hold, each with ✓ or ✗, the number that was seen and its limit; broken ones first."""
    rows, sentence = reading.invariants(checks)
    lines = "".join(_invariant(c) for c in rows)
    return f'<div style="color:{INK};line-height:1.45"><b>Invariants</b> · {escape(sentence)}{lines}</div>'


def _invariant(c: Checked) -> str:
    mark, colour = ("✓", GOOD) if c.ok else ("✗", BAD)
    return (
        f'<div><b style="color:{colour}">{mark}</b> {escape(c.name)} '
        f'<span style="color:{FAINT}">{escape(c.sentence)} · seen {c.value:.2g}, limit {c.limit:.2g}, '
        f"step {c.step}</span></div>"
    )


def health(notes: Iterable[reading.Note]) -> str:
    """What deserves a look in the curves."""
    lines = "".join(f'<div style="color:{LEVELS[n.level]}">⚑ {escape(n.text)}</div>' for n in notes)
    return f'<div style="line-height:1.45">{lines}</div>' if lines else ""


def edits(follower: Follower) -> str:
    """The live settings that somebody changed."""
    said = " · ".join(
        f"step {e.step}: {escape(e.name)} {escape(_value(e.old))} → {escape(_value(e.new))}" for e in follower.edits
    )
    return f'<span style="color:{FAINT}">{said}</span>'


def _value(x: Any) -> str:
    return f"{x:g}" if isinstance(x, (int, float)) and not isinstance(x, bool) else str(x)


def probes(follower: Follower, step: int | None = None, against: int | None = None, heat: bool = False) -> str:
    """The answers to the probe prompts nearest to `step` (None: the newest) beside those nearest to `against` (None:
    the first), words lost and gained marked; with `heat` the tokens of both, coloured by how much likelier they are
    than under the reference."""
    now, then, rows = reading.probes_table(follower.probes, step, against)
    if not rows:
        return ""
    if follower.method == "reward":
        return table(
            ("prompt", "completion", "reward", "true score"),
            [(escape(s.prompt), escape(s.completion), number(s.reward, True), number(s.gold, True))
             for s in follower.probes[now]],
            f"Held-out completions at step {now}",
        )  # fmt: skip
    other = now != then
    body = [(escape(r.prompt), _said(r.before, heat=heat),
             _said(r.after, () if heat else r.diff, heat) if other else "") for r in rows]  # fmt: skip
    head = ("prompt", f"step {then}", f"step {now}" if other else "later")
    phrase = reading.added_phrase(rows) if other else None
    note = f" · {phrase[1]} of {len(rows)} gained “{escape(phrase[0])}”" if phrase else ""
    return table(head, body, f"The same prompts with the same noise{note}", safe_title=True)


def _said(sample: Sample | None, diff: Sequence[tuple[str, str]] = (), heat: bool = False) -> str:
    if sample is None:
        return ""
    text = heated(sample) if heat else worded(diff) if diff else escape(sample.completion)
    return f"{text}{'' if sample.ended else ' …'}{scores(sample)}"


def worded(diff: Sequence[tuple[str, str]]) -> str:
    """A word diff with the words lost struck through and those gained in green."""
    return " ".join(DIFF[op].format(escape(words)) for op, words in diff)


def heated(sample: Sample) -> str:
    """Tokens coloured by Δ log p = log p − log p of the reference, nats: red likelier, blue less, underlined beyond 2.

    An answer without a reference has no colours.
    """
    deltas = [p - q for p, q in zip(sample.logprobs, sample.reference, strict=False)]
    if not deltas:
        return escape(sample.completion)
    out = []
    for token, delta in zip(sample.tokens, deltas, strict=False):
        share = 0.75 * min(1.0, abs(delta) / 3)
        colour = "222,62,48" if delta > 0 else "52,110,235"
        far = ";text-decoration:underline;text-underline-offset:3px" if abs(delta) > 2 else ""
        out.append(f'<span style="background:rgba({colour},{share:.2f});border-radius:3px{far}" '
                   f'title="Δ log p {delta:+.2f} nats">{escape(token)}</span>')  # fmt: skip
    return f'<span style="white-space:pre-wrap">{"".join(out)}</span>'


def scores(sample: Sample) -> str:
    """Reward, true score with its reasons, and KL of an answer, where they are known."""
    parts = []
    if sample.gold is not None:
        reasons = "; ".join(f"{name} {points:+.2g}" for name, points in sample.reasons)
        colour = GOOD if sample.gold > 0 else BAD
        parts.append(f'<span style="color:{colour}" title="{escape(reasons)}">true score {sample.gold:+.2f}</span>')
    if sample.reward is not None:
        parts.append(f"reward {sample.reward:+.2f}")
    if sample.kl is not None:
        parts.append(f"KL {sample.kl:.2f}")
    return f'<div style="color:{FAINT};font-size:.88em">{" · ".join(parts)}</div>' if parts else ""


def answer(sample: Sample) -> str:
    """One answer of the role in training, as text."""
    return (
        f'<div style="border-left:3px solid {ACCENT};padding:2px 10px;color:{INK}">'
        f'<span style="color:{FAINT}">{escape(sample.prompt)}</span><br>{_said(sample)}</div>'
    )


def side_by_side(prompts: Sequence[str], answers: Mapping[str, Sequence[Sample]]) -> str:
    """One line a prompt and one column a role."""
    body = [(escape(p), *(_said(said[i]) for said in answers.values())) for i, p in enumerate(prompts)]
    return table(("prompt", *answers), body)


def columns(said: Mapping[str, Sample], view: str = "text") -> str:
    """One column a role, beside each other where there is room: its text, where it parts from the first, and scores.

    view : "text"; "diff", the words lost and gained against the first column; "heat", the tokens coloured by Δ log p to
           what the role's own run started from
    """
    first = next(iter(said.values()), None)
    if first is None:
        return ""
    out = []
    for i, (name, sample) in enumerate(said.items()):
        split = reading.first_split(first.completion, sample.completion) if i else None
        parts = "" if not i else "the same as A" if split is None else f"parts from A at word {split + 1}"
        text = escape(sample.completion)
        if view == "diff" and i:
            text = worded(reading.word_diff(first.completion, sample.completion))
        elif view == "heat":
            text = heated(sample)
        out.append(
            f'<div style="border:1px solid {LINE};border-radius:8px;padding:8px 12px">'
            f'<b style="color:{ACCENT}">{chr(65 + i)}</b> <b>{escape(name)}</b> '
            f'<span style="color:{FAINT};font-size:.88em">{parts}</span>'
            f'<div style="margin:4px 0;white-space:pre-wrap;line-height:1.5">{text}{"" if sample.ended else " …"}</div>'
            f"{scores(sample)}</div>"
        )
    legend = ("Δ log p to what its run started from: red likelier, blue less likely, underlined beyond 2 nats"
              if view == "heat" else "")  # fmt: skip
    return (
        f'<div style="color:{INK};display:grid;gap:10px;grid-template-columns:repeat(auto-fit,minmax(220px,1fr))">'
        f'{"".join(out)}</div><div style="color:{FAINT};font-size:.88em">{legend}</div>'
    )


def error(sentence: str) -> str:
    """A sentence that says what went wrong."""
    return f'<span style="color:{BAD}">{escape(sentence)}</span>'


def table(head: Sequence[str], body: Iterable[Sequence[str]], title: str = "", safe_title: bool = False) -> str:
    """A quiet table. `head` is text and is escaped; the cells of `body` are HTML made here."""
    edge = f"border-bottom:1px solid {LINE}"
    cell = f"text-align:left;vertical-align:top;padding:5px 14px 5px 0;white-space:normal;{edge}"
    top = "".join(f'<th style="{cell};color:{FAINT};font-weight:600">{escape(h)}</th>' for h in head)
    rows = "".join("<tr>" + "".join(f'<td style="{cell}">{c}</td>' for c in row) + "</tr>" for row in body)
    heading = title if safe_title else escape(title)
    caption = f'<div style="font-weight:600;margin:6px 0 2px">{heading}</div>' if title else ""
    return (
        f'<div style="color:{INK};overflow-x:auto">{caption}<table style="border-collapse:collapse;'
        f'line-height:1.4;width:100%"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
