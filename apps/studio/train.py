"""The *Train* panel: a run made from a form and played by the engine, what it needs, what waits, and what went wrong.

The page holds what was typed. What there is to choose from, whether it fits together and whether it fits the memory is
asked of the engine; the runs and the queue are read from their files, so that everything survives a closed tab, a
reload and another Studio. The host acts; everybody else looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from apps.studio.components import Ask, host_ask, open_ask, panel, person_ask, sentence
from apps.studio.parts import Parts
from apps.studio.people import Person, asking
from apps.studio.runlist import entry, listed
from apps.studio.shelf import shown
from lab.again import card, changed, edits_of, form_of
from lab.client import EngineError
from lab.queueing import Entry, Queue, new_key
from lab.runs import Run, RunError, RunInfo

FORM = ("method", "settings", "adapter", "init", "data", "rewards", "name", "probes")
"""What the page sends, as `lab.form` reads it."""

ACTIONS = {"play": "plays", "pause": "pauses after this step", "step": "plays a step", "stop": "stops and saves"}
LISTED = 30
"""Runs in the list, the newest first."""

LABELS_S = 10.0
"""Seconds for which the labels are not counted again."""


class NotNowError(RuntimeError):
    """A launch that cannot be, with everything the page should know."""

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(reply.get("error", ""))
        self.reply = reply


class Train:
    """What the page may ask; every method takes and returns plain JSON."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.shelf, self.link = parts, parts.shelf, parts.link
        self.queue = Queue(parts.shelf.root)
        self._lock = threading.Lock()
        self._offers: tuple[str, dict[str, Any]] = ("", {})
        self._labels: tuple[float, dict[str, Any]] = (-LABELS_S, {})

    # --- looking -----------------------------------------------------------------------------------------------------

    def look(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """What can be started now: the engine's offers unless the page has them (`have`), runs to build on; and the
        list of runs, the queue, the pinned prompts and the labels that there are.

        `stamp` names the offers; `reason` says why nothing can be started.
        """
        reason, status = self.link.reason(), self.link.status()
        about = status.get("about", {})
        stamp, offers = self._offered(status)
        with self.shelf.lock:
            infos = list(reversed(self.shelf.list()))
        playing = busy(status)
        opened = {str(r["id"]) for r in status.get("runs", ()) if r.get("open")}
        other = playing[0]["id"] if playing else ""
        found = (listed(info, reason, info.id in opened, other) for info in infos[:LISTED])
        reply: dict[str, Any] = {
            "reason": reason, "stamp": stamp, "busy": playing, "host": person.host,
            "runs": [entry(info) for info in infos if _fits(info, about)], "list": [r for r in found if r],
            "more": max(0, len(infos) - LISTED),
            "model": about.get("model", ""), "root": str(self.shelf.root),
            "pins": self.parts.pins.read(), "labels": self._labelled() if person.host else {}, "queue": self._queued(),
        }  # fmt: skip
        if stamp and stamp != ask.get("have"):
            reply["offers"] = offers
        return reply

    def check(self, ask: dict[str, Any]) -> dict[str, Any]:
        """What is wrong with a form, by field, and the values its empty fields will have."""
        return self.link.client.check(_form(ask))

    def estimate(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Memory, time and data of a form, as far as they are known, with the reason for what is not."""
        found: dict[str, Any] = {}
        for row in self.link.client.task("estimate", {"form": _form(ask)}):
            found |= row
        return found

    def again(self, ask: dict[str, Any]) -> dict[str, Any]:
        """The form that would make a run once more."""
        return {"form": form_of(self._run(ask))}

    def _offered(self, status: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """What the engine offers, asked once for each engine; without one, what the last one offered."""
        stamp = f"{status.get('pid', '')}/{status.get('started', '')}"
        with self._lock:
            if status and stamp != self._offers[0]:
                self._offers = (stamp, self.link.client.offers())
            return self._offers

    def _queued(self) -> dict[str, Any]:
        state = self.queue.read()
        return {"held": state.held, "waiting": [
            {"key": e.key, "title": e.title, "method": e.form.get("method", ""), "run": e.run, "by": e.by,
             "wrong": e.wrong, "init": e.form.get("init", ""), "data": e.form.get("data", "")}
            for e in state.waiting]}  # fmt: skip

    def _labelled(self) -> dict[str, Any]:
        """The label store and how many pairs there are to learn from, by round; no store is made by looking."""
        where = self.parts.labels.where
        there = "://" in where or Path(where).is_file()
        with self._lock:
            at, found = self._labels
            if time.monotonic() - at >= LABELS_S:
                from lab.feedback.labels.learning import rounds

                found = {}
                if there:
                    whole = where if "://" in where else str(Path(where).absolute())
                    found = {"where": whole, "rounds": rounds(self.parts.labels.store())}
                self._labels = (time.monotonic(), found)
            return found

    # --- acting ------------------------------------------------------------------------------------------------------

    def start(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Makes the run of a form and plays it, or (`after`) puts the form into the queue; says which one, or what is
        in the way and `at` which part. The same `key` again is the same launch."""
        form, key = _form(ask), str(ask.get("key") or new_key())
        wrong = self.link.client.check(form)
        if wrong["errors"]:
            return {**wrong, "error": "Some settings cannot be; the sentences beside them say why."}
        if ask.get("after"):
            return self._wait(form, key, person)
        return self._launch(key, lambda: self._begin(form))

    def branch(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """A new run from a saved step of another with some settings changed; it plays, or waits if another one does."""
        run, step = self._run(ask), ask.get("step")
        edits = edits_of(run, ask.get("edits") or {})

        def begin() -> dict[str, Any]:
            made = self.link.client.branch(run.id, None if step in (None, "") else int(step), edits=edits,
                                           name=str(ask.get("name") or ""))  # fmt: skip
            return self._play({"id": made}, f"{made} begins as {run.id} did.", person)

        return self._launch(str(ask.get("key") or new_key()), begin)

    def act(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """play, pause, step or stop; `after` puts a run into the queue that is to go on."""
        run, action = self._run(ask), str(ask.get("action"))
        if action not in ACTIONS:
            return {"error": f"A run cannot {action}; it can {', '.join(ACTIONS)}."}
        if ask.get("after"):
            place = self.queue.add(Entry(str(ask.get("key") or new_key()), run=run.id, by=person.name))
            return {"place": place, "sentence": f"{run.id} waits at place {place}."}
        if action in ("play", "step"):
            return self._launch("", lambda: self._other(run.id) or self._act(run.id, action))
        return self._act(run.id, action)

    def edit(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Changes a live setting of a run from the next step on."""
        run, name = self._run(ask), str(ask.get("name"))
        values = edits_of(run, {name: ask.get("value")})
        if not values:
            return {"error": f"{name} is empty; type a value."}
        self.link.edit(run.id, name, values[name])
        return {"sentence": f"{name} of {run.id} is {values[name]} from the next step on."}

    def mend(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Does what a card proposes: the remedy of this label, as the card stands now."""
        run = self._run(ask)
        status = run.status()
        found = card(run, status, shown(status))
        remedy = next((r for r in found.remedies if r.label == ask.get("label")), None) if found else None
        if remedy is None:
            return {"error": f"{run.id} has changed meanwhile; look at it again."}
        key = str(ask.get("key") or new_key())
        match remedy.does:
            case "branch":
                return self.branch({"run": run.id, "step": remedy.step, "edits": dict(remedy.edits), "key": key},
                                   person)  # fmt: skip
            case "retry":
                return self.start({**changed(form_of(run), remedy.edits), "key": key}, person)
            case "form":
                return {"form": form_of(run), "sentence": f"The settings of {run.id} stand in the form."}
        return self.act({"run": run.id, "action": "play"}, person)

    def line(self, ask: dict[str, Any]) -> dict[str, Any]:
        """The queue: `do` is remove, move (to `place`), hold or go; what was taken out comes back as `form`."""
        do, key = ask.get("do"), str(ask.get("key") or "")
        if do == "remove":
            found = self.queue.remove(key)
            return {"form": dict(found.form) if found and found.form else None, **self._queued()}
        if do == "move":
            self.queue.move(key, int(ask.get("place") or 1))
        elif do == "hold":
            self.queue.hold("Held by the host.")
        elif do == "go":
            self.queue.hold("")
        return self._queued()

    # --- launching ---------------------------------------------------------------------------------------------------

    def _launch(self, key: str, begin: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return self.queue.launch(key, begin)
        except NotNowError as refused:
            return refused.reply

    def _begin(self, form: dict[str, Any]) -> dict[str, Any]:
        playing = busy(self.link.client.status())
        if playing:
            raise NotNowError(_occupied(playing[0]["id"]))
        try:
            made = self.link.client.make(form)
        except EngineError as error:
            raise NotNowError({"error": sentence(error), "at": error.payload.get("at", "")}) from error
        try:
            self.link.act(made["id"], "play")
        except EngineError as error:
            return {**made, "error": f"{made['id']} is made, but does not play: {sentence(error)}"}
        return {**made, "sentence": f"{made['id']} plays."}

    def _play(self, made: dict[str, Any], words: str, person: Person) -> dict[str, Any]:
        """Plays a run that is made, or has it wait behind the one that plays."""
        playing = busy(self.link.client.status())
        if playing:
            self.queue.put(Entry(new_key(), run=made["id"], by=person.name))
            return {**made, "sentence": f"{words} It waits for {playing[0]['id']}."}
        self.link.act(made["id"], "play")
        return {**made, "sentence": words}

    def _wait(self, form: dict[str, Any], key: str, person: Person) -> dict[str, Any]:
        """Puts a form into the queue, if its data are there."""
        for row in self.link.client.task("estimate", {"form": form}):
            if (row.get("data") or {}).get("error"):
                return {"error": row["data"]["error"], "at": "data"}
            break
        place = self.queue.add(Entry(key, form, by=person.name))
        return {"place": place, "sentence": f"It waits in the queue, at place {place}."}

    def _other(self, run: str) -> dict[str, Any] | None:
        """Refuses a second run that would learn beside the first."""
        playing = [r["id"] for r in busy(self.link.client.status()) if r["id"] != run]
        if playing:
            raise NotNowError(_occupied(playing[0]))
        return None

    def _act(self, run: str, action: str) -> dict[str, Any]:
        self.link.act(run, action)
        return {"id": run, "sentence": f"{run} {ACTIONS[action]}."}

    def _run(self, ask: Mapping[str, Any]) -> Run:
        name = str(ask.get("run") or "")
        if not name or Path(name).name != name:
            raise RunError("No run is named; choose one from the list.")
        if not (self.shelf.root / name / "config.json").is_file():
            raise RunError(f"{name} is not there any more; its folder was removed.")
        return Run(self.shelf.root / name)


def build(parts: Parts) -> gr.HTML:
    """The panel as a component; call it inside a tab."""
    train = Train(parts)
    asks = [person_ask(train.look), open_ask(train.check), open_ask(train.again)]
    asks += [host_ask(f) for f in (train.estimate, train.edit, train.line)]
    asks += [_by_host(f) for f in (train.start, train.branch, train.act, train.mend)]
    return panel("train", "Train a model", asks, scripts=("train_need.js", "train_runs.js"))


def _by_host(act: Callable[[dict[str, Any], Person], dict[str, Any]]) -> Ask:
    """`act` for the host alone, who is named."""

    def call(ask: dict[str, Any]) -> dict[str, Any]:
        return act(ask, asking())

    call.__name__ = act.__name__
    return host_ask(call)


def busy(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that learn in the engine now."""
    return [{"id": r["id"], "step": r.get("step", 0), "total": r.get("total", 0)} for r in status.get("runs", ())
            if r.get("open") and r.get("shown") in ("running", "starting")]  # fmt: skip


def _form(ask: Mapping[str, Any]) -> dict[str, Any]:
    return {name: ask[name] for name in FORM if name in ask}


def _occupied(run: str) -> dict[str, Any]:
    return {"error": f"{run} plays already, and one run learns at a time; this one can wait for it in the queue.",
            "behind": run}  # fmt: skip


def _fits(info: RunInfo, about: Mapping[str, Any]) -> bool:
    """Whether a run stands on the engine's model; an engine that names none takes them all."""
    return "model" not in about or all(info.manifest.base.get(k) == about.get(n)
                                       for k, n in (("source", "model"), ("bits", "bits")))  # fmt: skip
