"""The *Curves* panel: what runs did step by step, the answers behind every point, and the way to steer them.

The page asks `Curves.poll` every second or two while it can be seen, and says how many points of every line it has; the
reply holds only the points that are new, and whole figures only where the lines themselves changed. Nothing is kept
per visitor.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from dataclasses import asdict
from typing import Any, NamedTuple

import gradio as gr

from apps.studio.components import host_ask, open_ask, panel, person_ask, spoken
from apps.studio.parts import Parts
from apps.studio.people import Person
from apps.studio.shelf import ago, shown
from lab import figures, reading
from lab.config import CONFIGS, live_settings
from lab.follow import Follower
from lab.runs import Run, RunInfo, resume_command

ACTIONS = ("play", "pause", "step", "stop")
ENDED = ("finished", "stopped", "failed")


class Curves:
    """What the page may ask; every method takes and returns plain JSON."""

    def __init__(self, parts: Parts) -> None:
        self.shelf, self.link, self.labels = parts.shelf, parts.link, parts.labels
        self._drawn: OrderedDict[Any, list[dict[str, Any]]] = OrderedDict()

    def poll(self, ask: dict[str, Any]) -> dict[str, Any]:
        """The list of runs, and for the chosen ones: new points, health, invariants, status.

        `ask` has `runs` (ids; None: the panel chooses), `focus` (the run of the status line), `x`, `smooth`, `dark`,
        `more` (whether all curves are shown), and `have`: for every figure the signature and the number of points of
        each line on the page.
        """
        with self.shelf.lock:
            listed = self.shelf.list()
            chosen = self.shelf.known(ask.get("runs")) or _default(listed)
            focus = next((i for i in chosen if i.id == ask.get("focus")), chosen[-1] if chosen else None)
            dark = bool(ask.get("dark"))
            palette = self.shelf.palette(dark)
            reply: dict[str, Any] = {
                "runs": [_entry(info, palette[info.id]) for info in reversed(listed)],
                "chosen": [info.id for info in chosen], "root": self.shelf.root.name, "focus": None,
            }  # fmt: skip
            if focus is None:
                return reply
            chosen = [info for info in chosen if info.manifest.method]
            if focus not in chosen:  # its config cannot be read; the status says why
                reply["cards"], reply["focus"] = [], {
                    "status": status_line(focus, None), "controls": controls(focus, self.link.reason()), "health": [],
                    "checks": [], "summary": "", "live": [], "edits": [], "probed": [], "spread": None,
                }  # fmt: skip
                return reply
            followers = [self.shelf.follower(info) for info in chosen]
            view = View(_axis(ask.get("x")), min(max(float(ask.get("smooth") or 0.0), 0.0), 0.99), dark)
            epoch = " ".join(self.shelf.epoch(f.run) for f in followers)
            drawn = self._draw(followers, view, palette)
            reply["cards"] = news(drawn, view, epoch, ask.get("have") or {}, bool(ask.get("more")))
            reply["focus"] = self._focus(focus, self.shelf.follower(focus))
            return reply

    def _draw(self, followers: list[Follower], view: View, palette: dict[str, str]) -> list[dict[str, Any]]:
        """The cards, drawn once however many people watch the same runs in the same way."""
        key = (view, tuple((f.run, f.source.manifest.created, f.cursor, palette[f.run]) for f in followers))
        if key not in self._drawn:
            self._drawn[key] = cards(followers, view, palette)
            while len(self._drawn) > 16:
                self._drawn.popitem(last=False)
        return self._drawn[key]

    def _focus(self, info: RunInfo, follower: Follower) -> dict[str, Any]:
        rows, summary = reading.invariants(follower.checks.values())
        return {
            "status": status_line(info, follower), "controls": controls(info, self.link.reason()),
            "health": [asdict(n) for n in reading.health(follower)],
            "checks": [asdict(c) for c in rows], "summary": summary, "live": live_values(info, follower),
            "edits": [asdict(e) for e in follower.edits[-3:]], "probed": sorted(follower.probes),
            "spread": max(follower.spreads, default=None),
        }  # fmt: skip

    def answers(self, ask: dict[str, Any]) -> dict[str, Any]:
        """The probe answers of run `run` nearest to `step` beside those nearest to `against`, with word diffs."""
        with self.shelf.lock:
            found = self.shelf.known([ask.get("run")])
            if not found or not found[0].manifest.method:
                return {"steps": [], "rows": []}
            probes = self.shelf.follower(found[0]).probes
            now, then, rows = reading.probes_table(probes, _step(ask.get("step")), _step(ask.get("against")))
        phrase = reading.added_phrase(rows) if now > then else None
        return {
            "run": found[0].id, "asked": ask.get("step"), "now": now, "then": then, "steps": sorted(probes),
            "phrase": None if phrase is None else {"text": phrase[0], "count": phrase[1], "of": len(rows)},
            "rows": [{"prompt": r.prompt, "before": spoken(r.before), "after": spoken(r.after), "diff": r.diff,
                      "split": r.split} for r in rows],
        }  # fmt: skip

    def spreads(self, ask: dict[str, Any]) -> dict[str, Any]:
        """How rewards, lengths, margins, token KL … lay at the step of run `run` nearest to `step`, over `against`."""
        with self.shelf.lock:
            found = self.shelf.known([ask.get("run")])
            known = self.shelf.follower(found[0]).spreads if found else {}
            steps, dark = sorted(known), bool(ask.get("dark"))
            if not steps:
                return {"run": ask.get("run"), "steps": [], "cards": []}
            now = _nearest(steps, _step(ask.get("step")), steps[-1])
            then = _nearest(steps, _step(ask.get("against")), steps[0])
            names = [n for n in figures.SPREADS if n in known[now]] + sorted(known[now].keys() - figures.SPREADS.keys())
            colour, labels = self.shelf.palette(dark)[found[0].id], (f"step {now}", f"step {then}")
            drawn = [figures.histogram(known[now][n], known[then].get(n) if then != now else None, colour, labels, dark)
                     for n in names]  # fmt: skip
        titles = [figures.SPREADS.get(n, (n.replace("_", " "), "")) for n in names]
        return {"run": found[0].id, "steps": steps, "now": now, "then": then, "asked": ask.get("step"),
                "cards": [{"key": n, "title": t, "hint": h, "figure": f} for n, (t, h), f in
                          zip(names, titles, drawn, strict=True)]}  # fmt: skip

    def send(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Puts the answers of two steps to one probe prompt into the label queue."""
        found = self.shelf.known([ask.get("run")])
        steps = (_step(ask.get("then")), _step(ask.get("now")))
        if not found or None in steps:
            return {"error": "This run or these steps are not there any more; choose others."}
        with self.shelf.lock:
            probes = self.shelf.follower(found[0]).probes
            said = [next((s for s in probes.get(n or 0, ()) if s.prompt == ask.get("prompt")), None) for n in steps]
        if said[0] is None or said[1] is None:
            return {"error": "This prompt was not asked at both steps; choose two others."}
        source = {
            "by": "curves",
            "who": person.name,
            "a": f"{found[0].id}@{steps[0]}",
            "b": f"{found[0].id}@{steps[1]}",
        }
        return {"sentence": self.labels.add(said[0].prompt, (said[0].completion, said[1].completion),
                                            (said[0].ended, said[1].ended), source)}  # fmt: skip

    def control(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Plays, pauses, steps or stops a run through the engine; says in one sentence what was asked of it."""
        found = self.shelf.known([ask.get("run")])
        action = ask.get("action")
        if not found or action not in ACTIONS:
            return {"error": "This run is not there any more; choose another one."}
        self.link.act(found[0].id, str(action))
        words = {"play": "plays", "pause": "pauses after this step", "step": "plays a step", "stop": "stops and saves"}
        return {"sentence": f"{found[0].id} {words[str(action)]}."}

    def change(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Changes a live setting of a run from the next step on."""
        found = self.shelf.known([ask.get("run")])
        if not found:
            return {"error": "This run is not there any more; choose another one."}
        name, value = str(ask.get("name")), ask.get("value")
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return {"error": f"{name} needs a number; {value!r} is none."}
        self.link.edit(found[0].id, name, number)
        return {"sentence": f"{name} is {number:g} from the next step on."}


def build(parts: Parts) -> gr.HTML:
    """The panel as a component; call it inside a tab."""
    curves = Curves(parts)
    return panel(
        "curves",
        "The curves of the runs",
        [
            open_ask(curves.poll),
            open_ask(curves.answers),
            open_ask(curves.spreads),
            person_ask(curves.send),
            host_ask(curves.control),
            host_ask(curves.change),
        ],
        scripts=("spreads.js",),
    )


class View(NamedTuple):
    """How figures are drawn."""

    x: figures.XAxis
    smoothing: float
    dark: bool


def cards(followers: list[Follower], view: View, palette: dict[str, str]) -> list[dict[str, Any]]:
    """One card a group of metrics: its words, the newest value of each run, and the figure as JSON."""
    look = (view.smoothing, view.x, view.dark, palette)
    out = [_card(g, figures.curve(followers, g, *look), palette) for g in figures.groups(followers)]
    if any("kl" in row and "reward" in row for f in followers for row in f.metrics.values()):
        group = figures.Group("Frontier", (), "", "reward against √KL; dashed: true score", True)
        spec = figures.frontier(followers, max(view.smoothing, 0.8), view.dark, palette)
        out.insert(2, _card(group, spec, palette))
    return out


def _card(group: figures.Group, spec: dict[str, Any], palette: dict[str, str]) -> dict[str, Any]:
    lines = [t for t in spec["data"] if t.get("hoverinfo") != "skip"]
    newest = [{"name": t["name"].removeprefix(t["legendgroup"] + " "), "run": t["legendgroup"], "value": t["y"][-1],
               "colour": palette[t["legendgroup"]]} for t in lines]  # fmt: skip
    return {"key": group.title, "title": group.title, "unit": group.unit, "hint": group.hint,
            "essential": group.essential, "newest": newest, "figure": spec}  # fmt: skip


def news(drawn: list[dict[str, Any]], view: View, epoch: str, have: dict[str, Any], more: bool) -> list[dict[str, Any]]:
    """The cards without what the page has: `append` (points by line) in place of `figure` where the lines are the same.

    `have` maps a card's key to {"signature", "counts"}. The signature changes with the lines, with how they are drawn,
    with their decimation, and with `epoch`, which stands for histories that were rewritten. The cards that are not
    essential come without points unless the page shows them (`more`).
    """
    out = []
    for card in drawn:
        if not card["essential"] and not more:
            out.append({k: v for k, v in card.items() if k != "figure"})
            continue
        data = card["figure"]["data"]
        strides = [t["customdata"][1] - t["customdata"][0] if len(t["customdata"]) > figures.LIMIT // 2 else 1
                   for t in data]  # fmt: skip
        signature = json.dumps([[t["uid"] for t in data], strides, view, epoch])
        old = have.get(card["key"]) or {}
        counts = old.get("counts") or []
        card = {**card, "signature": signature}
        same = old.get("signature") == signature and len(counts) == len(data)
        if same and all(n <= len(t["x"]) for n, t in zip(counts, data, strict=True)):
            del card["figure"]
            card["append"] = [{k: t[k][n:] for k in ("x", "y", "customdata", "text") if k in t}
                              for n, t in zip(counts, data, strict=True)]  # fmt: skip
        out.append(card)
    return out


def status_line(info: RunInfo, follower: Follower | None, now: float | None = None) -> dict[str, Any]:
    """What the status bar says: state, progress, time left, and one sentence where something needs one."""
    now = time.time() if now is None else now
    status, state = info.status, shown(info.status, now)
    done = None if follower is None else follower.done
    sentence = status.error or (done.sentence if done is not None and state in ENDED else "")
    if state in ("lost", "stale"):
        sentence = f"last update {ago(max(0.0, now - status.heartbeat))} ago, worker silent"
        if state == "lost":
            sentence += f"; go on from the last checkpoint with: {_resume(info)}"
    within = f"{status.phase} {status.done}/{status.of}" if status.phase and status.of else status.phase
    live = state in ("running", "stale", "starting")
    return {
        "id": info.id, "method": info.manifest.method, "state": state, "step": status.step, "total": status.total,
        "phase": within if live else "", "eta": ago(status.eta_s) if live and status.eta_s is not None else "",
        "wanted": status.wanted, "sentence": sentence, "title": info.manifest.title,
        "share": status.step / status.total if status.total else 0.0,
    }  # fmt: skip


def _resume(info: RunInfo) -> str:
    return resume_command(Run(info.path))


def controls(info: RunInfo, no_engine: str) -> dict[str, Any]:
    """Which of play, pause, step and stop can be pressed now, and if none can, why not."""
    state, engine = shown(info.status), info.status.engine
    playing = state in ("running", "stale")
    allowed = {"play": not playing and state != "finished", "pause": playing, "step": not playing and
               state != "finished", "stop": playing or state == "paused"}  # fmt: skip
    reason = no_engine or (f"{info.id} is finished." if state == "finished" else "")
    if not no_engine and state == "starting" and engine:
        reason = f"{info.id} is getting ready."
    if not no_engine and state in ("running", "stale", "paused") and not engine:
        reason = f"{info.id} is played by another process (pid {info.status.pid}), perhaps a notebook; steer it there."
    return {"reason": reason, "playing": playing} | {name: ok and not reason for name, ok in allowed.items()}


def live_values(info: RunInfo, follower: Follower) -> list[dict[str, Any]]:
    """The settings that may change while the run goes on, with their present values."""
    cls = CONFIGS.get(info.manifest.method)
    if cls is None:
        return []
    edited = {e.name: e.new for e in follower.edits}
    now = {
        name: edited.get(name, info.manifest.settings.get(name, s.default)) for name, s in live_settings(cls).items()
    }
    return [{"name": s.name, "help": s.help, "unit": s.unit, "low": s.low, "high": s.high, "value": now[s.name]}
            for s in live_settings(cls).values() if now[s.name] is not None]  # fmt: skip


def _entry(info: RunInfo, colour: str) -> dict[str, Any]:
    status = info.status
    return {"id": info.id, "method": info.manifest.method, "state": shown(status), "step": status.step,
            "total": status.total, "colour": colour, "title": info.manifest.title}  # fmt: skip


def _default(listed: list[RunInfo]) -> list[RunInfo]:
    """What to show when nobody chose: the newest run that plays, or else the newest."""
    playing = [i for i in listed if shown(i.status) in ("running", "starting", "paused", "stale")]
    return (playing or listed)[-1:]


def _axis(value: object) -> figures.XAxis:
    return value if value in figures.X_TITLES else "step"  # type: ignore[return-value]


def _nearest(steps: list[int], wanted: int | None, otherwise: int) -> int:
    return otherwise if wanted is None else min(steps, key=lambda s: (abs(s - wanted), s))


def _step(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
