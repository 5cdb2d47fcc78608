"""A run that can be played, paused, stepped, stopped, edited, branched and looked into, between two thoughts.

A trainer is a generator function `method(state, config) -> Iterator[Event]`; it can be iterated directly. A `Session`
drives it in the one worker thread, writes the run directory, and takes wishes from any thread.

What trainers promise is in `lab.state`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lab.config import ConfigError, live_settings
from lab.events import Ask, Done, Edited, Event, Progress, Saved, Started, Updated
from lab.foreground import run_in_foreground
from lab.pace import Pace
from lab.records import Verdict
from lab.runs import DiskError, Run, RunError, Status, one_sentence, resume_command
from lab.state import Build, Built, Listener, Method, State, answered, begins_step, built_at, coerce, only_looks
from lab.worker import Worker, default_worker

__all__ = ["Build", "Built", "Method", "Session", "State", "Worker", "close_current", "resume", "run_in_foreground"]


class Session:
    """One run being played. Every method may be called from any thread; it begins paused.

    Without a `worker` of its own the session uses the process's one worker thread and takes the place of the session
    made there before, which is stopped at its next safe point with a checkpoint (re-running a notebook cell).
    `note` goes into the log; `locked` says that the caller holds `run.lock()` and hands it over. Raises RunError when
    another process writes to the run directory.
    """

    def __init__(
        self,
        run: Run,
        state: State,
        config: Any,
        method: Method,
        *,
        worker: Worker | None = None,
        note: str = "",
        engine: str = "",
        locked: bool = False,
    ) -> None:
        if worker is None:
            close_current()
        self.run, self.state, self.config, self.method = run, state, config, method
        self.worker = worker or default_worker()
        self.error: BaseException | None = None
        self.done: Done | None = None
        self._changed = threading.Condition(threading.RLock())
        self._wanted = "pause"
        self._budget: int | None = None
        self._queued = self._in_turn = self._marked = self._again = False
        self._asked: Ask | None = None
        self._safe, self._save_due = True, False
        self._held: Event | None = None
        self._edits: deque[tuple[Future[Edited], str, Any]] = deque()
        self._listeners: list[Listener] = []
        self._pace = Pace()
        self._over = threading.Event()
        if not locked:
            run.lock()
        try:
            self._log(Started(run.manifest.method, state.step, state.total, note))
        except BaseException:
            run.unlock()
            raise
        self._events = iter(method(state, config))
        self._status = Status(
            "paused", state.step, state.total, pid=os.getpid(), host=socket.gethostname(), engine=engine
        )
        self._show()
        threading.Thread(target=self._beat, name=f"lab-heartbeat-{run.id}", daemon=True).start()
        if worker is None:
            _CURRENT.append(self)

    # ------------------------------------------------------------------ wishes, from any thread

    def play(self) -> None:
        """Plays on until the run ends, or somebody pauses it."""
        self._wish("play")

    def step(self, n: int = 1) -> None:
        """Plays `n` steps, then pauses."""
        if n < 1:
            raise RunError(f"step takes a number of steps from 1 on, not {n}.")
        self._wish("play", n)

    def pause(self) -> None:
        """Pauses before the next step; the process keeps the model."""
        self._wish("pause")

    def stop(self) -> None:
        """Ends at the next safe point, with a checkpoint from which the run can be resumed."""
        self._wish("stop")

    def edit(self, name: str, value: Any) -> Future[Edited]:
        """Changes a live setting from the next step on; the future has the logged edit once it holds.

        A checkpoint is made at that step, so that an edit survives whatever happens later. Raises ConfigError, with
        the reason, when the setting is not live or the value is refused.
        """
        live = live_settings(type(self.config))
        if name not in live:
            raise ConfigError(
                f"{name} cannot change during a run; the live settings are {', '.join(live)}. "
                "Branch the run to change others."
            )
        value = coerce(live[name], value)
        replace(self.config, **{**self.state.live, name: value})
        future: Future[Edited] = Future()
        with self._changed:
            self._refuse_if_over()
            self._edits.append((future, name, value))
        self.worker.submit(self._apply_edits)
        return future

    @property
    def asking(self) -> Ask | None:
        """The question the run waits with, or None."""
        with self._changed:
            return self._held if isinstance(self._held, Ask) and self._held.reply.verdicts is None else None

    def answer(self, verdicts: Sequence[Verdict]) -> None:
        """Answers what the run asks, one verdict for each comparison; they are kept, and the run goes on.

        Raises RunError when it asks nothing now, ValueError for another number of verdicts, DiskError when the disk
        refuses them.
        """
        with self._changed:
            self._refuse_if_over()
            ask = self.asking
            if ask is None:
                raise RunError(f"{self.run.id} asks nothing now.")
            Ask(ask.step, ask.comparisons).answer(verdicts)  # refuses what does not fit
            self.run.save_reply(ask.step, ask.comparisons, verdicts)
            ask.answer(verdicts)
            if self._wanted != "pause" and not self._queued and not self._in_turn:
                self._queue()

    def fail(self, error: BaseException) -> None:
        """Ends the run as failed: somebody it waits for cannot go on."""
        self.worker.submit(lambda: self.done is None and self._fail(error))

    def call(self, fn: Callable[[Any], Any]) -> Future[Any]:
        """Calls `fn(state)` in the worker thread between two events, also while paused. It must not change the run."""
        return self.worker.submit(lambda: fn(self.state))

    def branch(self, step: int | None = None, *, edits: Mapping[str, Any] | None = None, name: str = "") -> Run:
        """A new run from a saved step (None: this very step if it can be saved now, or else the last saved one).

        `edits` change settings from there on. Start it with `resume(run, build)`.
        """
        point: int = self.worker.submit(self._branch_point).result() if step is None else step
        return self.run.fork(point, self.config, edits=edits, name=name)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener(event)` in the worker thread for every event; returns the way to end that.

        A listener that raises is told nothing more; its error is printed and the run goes on.
        """
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    @property
    def status(self) -> Status:
        """How the run is now."""
        with self._changed:
            return self._status

    def wait(self, timeout: float | None = None) -> Done:
        """Waits for the end. Raises the run's own error if it failed, TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.done is not None, timeout):
                raise TimeoutError(f"{self.run.id} has not ended within {timeout} seconds.")
        if self.error is not None:
            raise self.error
        assert self.done is not None
        return self.done

    def wait_paused(self, timeout: float | None = None) -> Status:
        """Waits until the run is paused or has ended. Raises as `wait` does."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.done is not None or self._resting, timeout):
                raise TimeoutError(f"{self.run.id} has not paused within {timeout} seconds.")
        if self.error is not None:
            raise self.error
        return self.status

    def close(self) -> None:
        """Stops with a checkpoint and waits for it; with a disk that refuses the checkpoint, ends without."""
        with self._changed:
            if self.done is None:
                self.stop()
                self._changed.wait_for(lambda: self.done is not None or self._resting)
        self.abandon()

    def abandon(self) -> None:
        """Ends at once, without a checkpoint: what came after the last one is repeated on resuming."""
        if self.done is None:
            last = self.run.latest_checkpoint()
            after = "" if last is None else f" after step {last}"
            self._end("stopped", f"left without a checkpoint{after}; go on with: {resume_command(self.run)}")

    # ------------------------------------------------------------------ the worker thread

    @property
    def _resting(self) -> bool:
        return self._wanted == "pause" and not self._queued and not self._in_turn

    def _wish(self, wanted: str, budget: int | None = None) -> None:
        with self._changed:
            if wanted == "stop" and self.done is not None:
                return
            self._refuse_if_over()
            if self._wanted != "stop":
                self._wanted, self._budget = wanted, budget
            waiting = self._queued or self._in_turn
            self._show(wanted=self._wanted if waiting and self._wanted != "play" else "")
            if self._wanted != "pause" and not waiting:
                self._queue()

    def _queue(self) -> None:
        self._queued = True
        self.worker.turn(self._turn)

    def _turn(self) -> None:
        with self._changed:
            self._queued, self._in_turn = False, True
        try:
            self._settle()
            if self.done is None and self._wanted != "pause":
                self._show(state="running", error="")
                self._advance()
        except DiskError as error:
            with self._changed:
                self._wanted = "pause"
            self._show(error=str(error))
        except BaseException as error:  # the run ends with it; the thread must live on
            self._fail(error)
        with self._changed:
            self._in_turn = False
            if self.done is not None:
                getattr(self._events, "close", lambda: None)()
            else:
                ask = self.asking
                if self._wanted == "pause":
                    self._show(state="paused", wanted="", phase="", done=0, of=0)
                elif ask is not None and self._wanted == "play":
                    self._show(state="paused", wanted="", phase="asking", done=0, of=len(ask.comparisons))
                else:
                    self._queue()
            self._changed.notify_all()

    def _settle(self) -> None:
        """What is due at a safe point: edits, a checkpoint, the end."""
        if not self._safe:
            return
        if self._save_due:
            self._save()
        self._apply_edits()
        if isinstance(self._held, Done):
            self._save()
            self._end(self._held.outcome, self._held.sentence)
        elif self._wanted == "stop":
            self._save()
            self._end("stopped", f"stopped after step {self.state.step}; go on with: {resume_command(self.run)}")

    def _advance(self) -> None:
        """Plays to the next safe point at the beginning of a step."""
        while self.done is None:
            self.worker.serve()
            if isinstance(self._held, Ask):
                if not self._answered(self._held):
                    return
                self._held, self._safe = None, False
                continue
            if self._held is not None:
                event, self._held = self._held, None
                self._safe = False
            else:
                with self._pace:
                    event = next(self._events, None) or Done(self.state.step, "finished")
                if self.done is not None:
                    return
                if self._again and only_looks(event):  # said before the generator was called again
                    continue
                self._again = False
                if isinstance(event, Ask):
                    self._held, self._safe = event, True
                    continue
                if self._safe and begins_step(event):
                    self._marked, self._held = True, event
                    return
                if isinstance(event, Done):
                    self._held, self._safe = event, True
                    self._settle()
                    return
                self._safe = self._safe and only_looks(event)
            try:
                self._take(event)
            except DiskError:
                self._held = event
                raise
            if isinstance(event, Updated):
                self._updated(event)
                if not self._marked:
                    return

    def _answered(self, ask: Ask) -> bool:
        """Whether the verdicts are there, given or kept from before; if not, the question is said, once."""
        said = answered(self.run, ask)
        if said is not None:
            self._log(said)
        elif ask != self._asked:  # a generator that was called again asks the same
            self._log(ask)
            self._asked = ask
        return said is not None

    def _take(self, event: Event) -> None:
        if isinstance(event, Started) and not event.note:  # the session has said so already
            return
        if isinstance(event, Progress):
            with self._changed:
                self._status = replace(self._status, phase=event.phase, done=event.done, of=event.of)
            self._tell(event)
        else:
            self._log(event)

    def _updated(self, event: Updated) -> None:
        """After a step: counts it, and saves if that is due."""
        self._safe = True
        eta = self._pace.eta_s(self.state.total - event.step)
        with self._changed:
            if self._budget is not None:
                self._budget -= 1
                if self._budget <= 0 and self._wanted == "play":
                    self._wanted = "pause"
        self._show(step=event.step, total=self.state.total, eta_s=eta)
        every = getattr(self.config, "save_every", 0)
        due = bool(every) and event.step % every == 0
        self._save_due = due or self._wanted == "stop" or bool(self._edits)
        if self._save_due:
            self._save()

    def _save(self) -> None:
        step = self.state.step
        if self.done is None and step not in self.run.checkpoints():
            path = self.run.save(step, self.state.save)
            self._log(Saved(step, str(path.relative_to(self.run.path))))
        self._save_due = False

    def _apply_edits(self) -> None:
        while self._safe and self._edits:
            future, name, value = self._edits.popleft()
            try:
                self._save()
                old = self.state.live.get(name, getattr(self.config, name))
                event = Edited(self.state.step, name, old, value)
                self._log(event)
                self.state.live[name] = value
                self._call_again()
                future.set_result(event)
            except BaseException as error:  # whoever asked for the edit gets it
                future.set_exception(error)

    def _call_again(self) -> None:
        """A generator that waits at the beginning of a step has read its settings; a fresh one reads the new ones."""
        if isinstance(self._held, Progress | Ask):
            if isinstance(self._held, Ask) and self._wanted != "pause" and not (self._queued or self._in_turn):
                self._queue()  # a run that waits for verdicts has no turn of its own
            getattr(self._events, "close", lambda: None)()
            self._events, self._held, self._again = iter(self.method(self.state, self.config)), None, True

    def _branch_point(self) -> int:
        if self._safe and self.done is None:
            self._save()
            return self.state.step
        last = self.run.latest_checkpoint()
        if last is None:
            raise RunError(f"{self.run.id} has no checkpoint yet; pause it and branch then.")
        return last

    def _fail(self, error: BaseException) -> None:
        self.error = error
        last = self.run.latest_checkpoint()
        ahead = "" if last is None else f" Step {last} is saved; go on with: {resume_command(self.run)}"
        with suppress(OSError):  # the error itself matters more than what it could leave behind
            self.run.save_failure(self.state.step + 1, error)
        self._end("failed", one_sentence(error).rstrip(".") + "." + ahead)

    def _end(self, outcome: str, sentence: str) -> None:
        done = Done(self.state.step, outcome, sentence)
        with self._changed:
            if self.done is not None:
                return
            with suppress(DiskError):
                self.run.append(done)
            shown = sentence if outcome == "failed" else ""
            self._show(state=outcome, wanted="", error=shown, phase="", done=0, of=0, eta_s=None)
            self.done = done
            self._over.set()
            self.run.unlock()
            if self in _CURRENT:
                _CURRENT.remove(self)
            for future, name, _ in self._edits:
                future.set_exception(RunError(f"{self.run.id} ended before {name} was changed."))
            self._edits.clear()
            self._changed.notify_all()
        self._tell(done)

    # ------------------------------------------------------------------ telling

    def _log(self, event: Event) -> None:
        with self._changed:
            if self.done is not None:  # abandoned meanwhile: the directory may belong to another process
                return
            self.run.append(event)
        self._tell(event)

    def _tell(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # whoever watches a run must not be able to end it
                self._listeners.remove(listener)
                traceback.print_exc()

    def _show(self, **changes: Any) -> None:
        """Changes the status. A disk that refuses it is tried again with the next heartbeat."""
        with self._changed:
            if self.done is not None:
                return
            self._status = replace(self._status, heartbeat=time.time(), **changes)
            try:
                self.run.write_status(self._status)
            except OSError:
                return

    def _beat(self) -> None:
        while not self._over.wait(1.0):
            self._show()

    def _refuse_if_over(self) -> None:
        if self.done is not None:
            on = "branch it to go on" if self.done.outcome == "finished" else f"go on with `{resume_command(self.run)}`"
            raise RunError(f"{self.run.id} has {self.done.outcome}; {on}.")


def resume(run: Run, build: Build, *, worker: Worker | None = None, engine: str = "") -> Session:
    """A session that goes on from the run's latest checkpoint, or from its start when there is none yet.

    `build` makes a fresh state; it is called in the worker thread. Edits that were logged at the checkpoint's step hold
    again. Raises RunError when another process writes to the run.
    """
    if worker is None:
        close_current()
    run.lock()
    before = run.status()
    try:
        begun = bool(run.read()[0])
        run.write_status(replace(before, state="starting", error="", engine=engine, heartbeat=time.time(),
                                 pid=os.getpid(), host=socket.gethostname()))  # fmt: skip
        built = (worker or default_worker()).submit(lambda: built_at(run, build)).result()
        note = f"resumed from step {built.state.step}" if begun else ""
        return Session(
            run, built.state, built.config, built.method, worker=worker, note=note, engine=engine, locked=True
        )
    except BaseException:
        with suppress(OSError):
            run.write_status(before)
        run.unlock()
        raise


_CURRENT: list[Session] = []
"""The session on the process's own worker, if one is alive."""


def close_current() -> None:
    """Stops the session on the process's own worker at its next safe point, with a checkpoint."""
    for session in tuple(_CURRENT):
        session.close()
