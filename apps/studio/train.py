"""The *Train* panel: a run made from a form, and played by the engine.

The page holds what was typed. What there is to choose from, and whether it fits together, is asked of the engine, which
knows the methods' own numbers; the runs to start from are read from their directories.
"""

from __future__ import annotations

import threading
from typing import Any

import gradio as gr

from apps.studio.components import guarded, panel, sentence
from apps.studio.link import Link
from apps.studio.shelf import Shelf, shown
from lab.client import EngineError
from lab.runs import Run, RunInfo

FORM = ("method", "settings", "adapter", "init", "data", "rewards", "name")
"""What the page sends, as `lab.form` reads it."""


class Train:
    """What the page may ask; every method takes and returns plain JSON."""

    def __init__(self, shelf: Shelf, link: Link) -> None:
        self.shelf = shelf
        self.link = link
        self._lock = threading.Lock()
        self._offers: tuple[str, dict[str, Any]] = ("", {})

    def look(self, ask: dict[str, Any]) -> dict[str, Any]:
        """What can be started now: the engine's offers unless the page has them (`have`), runs to build on, what plays.

        `stamp` names the offers; `reason` says why nothing can be started.
        """
        reason, status = self.link.reason(), self.link.status()
        about = status.get("about", {})
        stamp, offers = self._offered(status)
        with self.shelf.lock:
            runs = [_entry(info) for info in reversed(self.shelf.list()) if _fits(info, about)]
        reply: dict[str, Any] = {"reason": reason, "stamp": stamp, "runs": runs, "busy": busy(status),
                                 "model": about.get("model", ""), "root": str(self.shelf.root)}  # fmt: skip
        if stamp and stamp != ask.get("have"):
            reply["offers"] = offers
        return reply

    def check(self, ask: dict[str, Any]) -> dict[str, Any]:
        """What is wrong with a form, by field, and the values its empty fields will have."""
        return self.link.client.check(_form(ask))

    def start(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Makes the run of a form and plays it; says which one, or what is in the way and `at` which part."""
        form, playing = _form(ask), busy(self.link.status())
        if playing:
            return {"error": f"{playing[0]['id']} plays; pause or stop it first, for one run learns at a time."}
        wrong = self.link.client.check(form)
        if wrong["errors"]:
            return {**wrong, "error": "Some settings cannot be; the sentences beside them say why."}
        try:
            made = self.link.client.make(form)
        except EngineError as error:
            return {"error": sentence(error), "at": error.payload.get("at", "")}
        try:
            self.link.act(made["id"], "play")
        except EngineError as error:
            return {**made, "error": f"{made['id']} is made, but does not play: {sentence(error)}"}
        return {**made, "sentence": f"{made['id']} plays."}

    def _offered(self, status: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """What the engine offers, asked once for each engine; without one, what the last one offered."""
        stamp = f"{status.get('pid', '')}/{status.get('started', '')}"
        with self._lock:
            if status and stamp != self._offers[0]:
                self._offers = (stamp, self.link.client.offers())
            return self._offers


def build(shelf: Shelf, link: Link) -> gr.HTML:
    """The panel as a component; call it inside a tab."""
    train = Train(shelf, link)
    return panel("train", "Train a model", [guarded(f) for f in (train.look, train.check, train.start)])


def busy(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that learn in the engine now."""
    return [{"id": r["id"], "step": r.get("step", 0), "total": r.get("total", 0)} for r in status.get("runs", ())
            if r.get("open") and r.get("shown") in ("running", "starting")]  # fmt: skip


def _form(ask: dict[str, Any]) -> dict[str, Any]:
    return {name: ask[name] for name in FORM if name in ask}


def _fits(info: RunInfo, about: dict[str, Any]) -> bool:
    """Whether a run stands on the engine's model; an engine that names none takes them all."""
    return "model" not in about or all(info.manifest.base.get(k) == about.get(n)
                                       for k, n in (("source", "model"), ("bits", "bits")))  # fmt: skip


def _entry(info: RunInfo) -> dict[str, Any]:
    return {"id": info.id, "method": info.manifest.method, "state": shown(info.status),
            "steps": Run(info.path).checkpoints(), "data": (info.path / "inputs" / "data.jsonl").is_file()}  # fmt: skip
