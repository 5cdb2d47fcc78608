"""The runs as the Train panel lists them: state, progress, what can be done now, live settings, and what went wrong."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from apps.studio.shelf import ago, shown
from lab.again import Card, card
from lab.config import CONFIGS, live_settings, settings
from lab.runs import Run, RunError, RunInfo

LIVE = ("starting", "running", "stale", "paused")


def entry(info: RunInfo) -> dict[str, Any]:
    """A run as something to start from or to learn from."""
    return {"id": info.id, "method": info.manifest.method, "state": shown(info.status),
            "steps": Run(info.path).checkpoints(), "data": (info.path / "inputs" / "data.jsonl").is_file()}  # fmt: skip


def listed(info: RunInfo, no_engine: str, opened: bool, other: str) -> dict[str, Any] | None:
    """A run in the list; None where its folder is gone meanwhile.

    opened : whether the engine has it open · other : another run that learns now, or nothing
    """
    run, status, state = Run(info.path), info.status, shown(info.status)
    try:
        wrong = card(run, status, state)
        live = live_values(run) if state in LIVE else []
        steps, can = run.checkpoints(), allowed(info, state, no_engine, opened, other)
        known = editable(run)
    except (RunError, OSError):
        return None
    within = f"{status.phase} {status.done}/{status.of}" if status.phase and status.of else status.phase
    moving = state in ("running", "stale", "starting")
    return {
        "id": info.id, "method": info.manifest.method, "title": info.manifest.title, "state": state,
        "step": status.step, "total": status.total, "share": status.step / status.total if status.total else 0.0,
        "phase": within if moving else "", "wanted": status.wanted, "steps": steps,
        "eta": ago(status.eta_s) if moving and status.eta_s is not None else "",
        "sentence": said(info, state), "card": drawn(wrong), "live": live,
        "can": can, "settings": known,
    }  # fmt: skip


def said(info: RunInfo, state: str) -> str:
    """One sentence where a state needs one."""
    if state == "stale":
        return f"Last heard {ago(max(0.0, time.time() - info.status.heartbeat))} ago: the worker is silent."
    if state == "paused" and info.status.phase == "asking":
        return f"It asks for {info.status.of} verdicts and waits."
    return info.status.error if state not in ("failed", "lost") else ""


def allowed(info: RunInfo, state: str, no_engine: str, opened: bool, other: str) -> dict[str, Any]:
    """Which of play, pause, step, stop, edit and branch can be pressed, and `why` not where none can.

    A run that an engine of this folder does not have open, and that plays, is another process's.
    """
    foreign = state in ("running", "stale", "paused", "starting") and not opened
    why = no_engine or (f"Another process plays it (pid {info.status.pid}), perhaps a notebook; steer it there."
                        if foreign else "")  # fmt: skip
    moving = state in ("running", "stale", "starting")
    can = {"play": not moving and state != "finished", "step": not moving and state != "finished",
           "pause": moving, "stop": moving or state == "paused", "edit": moving or state == "paused",
           "branch": True}  # fmt: skip
    out: dict[str, Any] = {name: on and not why for name, on in can.items()}
    out["branch"] = not no_engine and bool(Run(info.path).checkpoints())
    return out | {"why": why, "behind": other if can["play"] and other and other != info.id else ""}


def live_values(run: Run) -> list[dict[str, Any]]:
    """The settings that may change while the run goes on, with their present values."""
    cls = CONFIGS.get(run.manifest.method)
    if cls is None:
        return []
    edited = {e.name: e.new for e in run.edits()}
    return [{"name": s.name, "help": s.help, "unit": s.unit,
             "value": edited.get(s.name, run.manifest.settings.get(s.name, s.default))}
            for s in live_settings(cls).values()]  # fmt: skip


def editable(run: Run) -> list[dict[str, Any]]:
    """All settings of a run with their values, for a branch."""
    cls = CONFIGS.get(run.manifest.method)
    if cls is None:
        return []
    return [{"name": s.name, "value": run.manifest.settings.get(s.name, s.default), "live": s.live} for s in
            settings(cls)]  # fmt: skip


def drawn(found: Card | None) -> dict[str, Any] | None:
    """A card as the page draws it."""
    return None if found is None else {"title": found.title, "cause": found.cause, "rows": list(found.rows),
                                       "remedies": [asdict(r) for r in found.remedies]}  # fmt: skip
