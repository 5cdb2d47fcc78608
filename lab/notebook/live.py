"""A run, live in a notebook: its curves grow while it plays, and the kernel stays free for other cells."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import figures
from lab.client import EngineClient
from lab.events import Done, Sample
from lab.follow import Follower
from lab.metrics import HEADLINES, NOISY
from lab.notebook import cards
from lab.notebook.answers import Beside, beside
from lab.notebook.control import Control
from lab.notebook.held import forget, hold
from lab.notebook.panel import Panel
from lab.runs import LIVE_STATES, Run, RunError, Status

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lab.session import Session

EVERY_S = 1.0
"""Seconds between two looks at the run directory."""

_LIVE: weakref.WeakValueDictionary[Path, LiveRun] = weakref.WeakValueDictionary()
"""The one live view of each run directory in this kernel."""


def front_end() -> bool:
    """Whether somebody may be looking: a Jupyter kernel with the widget libraries, and LAB_PROFILE is not "ci"."""
    if os.environ.get("LAB_PROFILE") == "ci" or not (find_spec("ipywidgets") and find_spec("anywidget")):
        return False
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


class LiveRun:
    """A view of one run with buttons, and the same verbs as methods.

    run     : a `Run`, or its directory
    session : the session that plays it in this kernel, if there is one; closing the view closes the session too
    client  : the way to the engine that plays it, or can go on with it
    block   : no widgets; `wait` prints the progress as text. None: where there is no front end

    A thread reads the directory by cursor once a second and sends what is new; it ends with the run and with `close`.
    A second view of the same run takes the place of the first, whose widgets are closed and whose session, unless the
    new view has it too, is stopped with a checkpoint and let go of. Running a cell again does the same to the views
    with widgets which it made before.
    """

    def __init__(
        self,
        run: Run | Path | str,
        session: Session | None = None,
        client: EngineClient | None = None,
        *,
        block: bool | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self.run = run if isinstance(run, Run) else Run.open(run)
        self._place = self.run.path.resolve()
        if (former := _LIVE.get(self._place)) is not None:
            former.close(keep=session)
        self.control = Control(self.run, session, client)
        self.follower = Follower(self.run)
        self.status: Status = self.run.status()
        self.block = not front_end() if block is None else block
        self.every_s, self.closed = every_s, threading.Event()
        self._one = threading.RLock()
        self._thread: threading.Thread | None = None
        self._printed, self._asked_at = "", -1
        self.panel: Panel | None = None
        self.follower.refresh()
        if not self.block:
            self.panel = Panel(self.control, self.follower, self._watch)
            self._watch()
            hold(self)
        _LIVE[self._place] = self

    # ------------------------------------------------------------------ verbs

    def play(self) -> LiveRun:
        """Plays on until the run ends or somebody pauses it; a run that was stopped goes on from its checkpoint."""
        return self._wish(self.control.play, self.run.status().step)

    def pause(self) -> LiveRun:
        """Pauses before the next step."""
        return self._wish(self.control.pause)

    def step(self, n: int = 1) -> LiveRun:
        """Plays `n` steps, then pauses."""
        return self._wish(lambda: self.control.step(n), self.run.status().step)

    def stop(self) -> LiveRun:
        """Ends at the next safe point, with a checkpoint."""
        return self._wish(self.control.stop)

    def edit(self, name: str, value: Any) -> LiveRun:
        """Changes a live setting from the next step on."""
        return self._wish(lambda: self.control.edit(name, value))

    def branch(self, step: int | None = None, *, edits: Mapping[str, Any] | None = None, name: str = "") -> Run:
        """A new run from a saved step of this one (None: now), with some settings changed."""
        return self.control.branch(step, edits=edits, name=name)

    def sample(self, prompt: str, *, temperature: float = 1.0, seed: int = 0) -> Sample:
        """What the role in training answers now; the run goes on as if nobody had asked."""
        return self.control.sample(prompt, temperature=temperature, seed=seed)

    def wait(self, timeout: float | None = None) -> Done:
        """Waits until the run ends. Raises the run's own error if it failed, TimeoutError after `timeout` seconds.

        Buttons are answered between cells, so they wait as long as this does. Interrupting the cell stops a run of
        this kernel at its next safe point, with a checkpoint; a second interrupt leaves at once. A run of another
        process goes on.
        """
        self._until(lambda: not self._goes_on(), timeout)
        session = self.control.session
        if session is not None and session.error is not None:
            raise session.error
        done = self.follower.done or Done(self.status.step, self.status.state, self.status.error)
        if done.outcome == "failed":
            raise RunError(f"{self.run.id} failed: {done.sentence}")
        return done

    def wait_paused(self, timeout: float | None = None) -> Status:
        """Waits until the run is paused or has ended; otherwise as `wait`."""
        self._until(lambda: self._rests() or not self._goes_on(), timeout)
        if self.status.state == "failed":
            self.wait()
        return self.status

    def close(self, keep: Session | None = None) -> None:
        """Closes the view: widgets, thread, and the session unless it is `keep`. The run directory stays whole."""
        self.closed.set()
        forget(self)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(10)
        with self._one:
            if _LIVE.get(self._place) is self:
                del _LIVE[self._place]
            panel, self.panel = self.panel, None
            session, self.control.session = self.control.session, None
        if panel is not None:
            panel.close()
        if session is not None and session is not keep:
            session.close()

    # ------------------------------------------------------------------ looking

    @property
    def latest(self) -> dict[str, float]:
        """The newest value of every metric."""
        self.refresh()
        names = {name for row in self.follower.metrics.values() for name in row}
        return cards.latest(self.follower, sorted(names))

    @property
    def figure(self) -> go.Figure:
        """The curves as they are now, as a plain figure that no longer changes."""
        self.refresh()
        return figures.curves([self.follower], smoothing=NOISY.get(self.run.manifest.method, 0.0))

    def answers(self, step: int | None = None, against: int | None = None, *, heat: bool = False) -> Beside:
        """The answers to the probe prompts nearest to `step` (None: the newest) beside those nearest to `against`
        (None: the first): what a click on a curve shows. With `heat` the tokens are coloured by Δ log p to the
        reference."""
        self.refresh()
        if self.panel is not None and step is not None:
            self.panel.answers.go(step, against)
        with self._one:
            return beside(self.follower, step, against, heat)

    def refresh(self) -> bool:
        """Reads and shows what is new; False once the run has ended and all of it is shown."""
        with self._one:
            self.follower.refresh()
            self.status = self.run.status()
            if self.panel is not None and not self.closed.is_set():
                self.panel.show(self.follower, self.status)
            return self.status.state in LIVE_STATES or self.follower.done is None

    def summary(self) -> str:
        """Status, invariants and answers as HTML, for a page without widgets."""
        with self._one:
            parts = (cards.status_line(self.follower, self.status), cards.remaining(self.status),
                     cards.invariants(self.follower.checked), cards.probes(self.follower))  # fmt: skip
        return "".join(f'<div style="margin:4px 0">{part}</div>' for part in parts if part)

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        if self.panel is not None:
            display(self.panel.box)
        else:
            self.refresh()
            display(HTML(self.summary()))

    def __repr__(self) -> str:
        return f"LiveRun({self.run.id}, {self.status.shown}, step {self.status.step} of {self.status.total})"

    # ------------------------------------------------------------------ inside

    def _wish(self, wish: Callable[[], None], asked_at: int = -1) -> LiveRun:
        """`asked_at` is the step from which the run is to move before it can be said to rest."""
        if self.closed.is_set():
            raise RunError(f"This view of {self.run.id} is closed; make another one with watch(run).")
        self._asked_at = asked_at
        wish()
        self._watch()
        return self

    def _watch(self) -> None:
        """Looks at once, and keeps looking while the run goes on."""
        self.refresh()
        if self.panel is not None and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=_tail, args=(weakref.ref(self), self.closed, self.every_s),
                                            name=f"lab-live-{self.run.id}", daemon=True)  # fmt: skip
            self._thread.start()

    def _goes_on(self) -> bool:
        session = self.control.session
        if session is not None and session.done is None:
            return True
        self.status = self.run.status()
        return self.status.state in LIVE_STATES and self.status.shown != "lost"

    def _rests(self) -> bool:
        if session := self.control.alive:
            try:
                self.status = session.wait_paused(0)
            except TimeoutError:
                return False
            return True
        self.status = self.run.status()  # an engine says "paused" until the step that was asked for begins
        return self.status.state == "paused" and not self.status.wanted and self.status.step > self._asked_at

    def _until(self, over: Callable[[], bool], timeout: float | None) -> None:
        """Waits, and shows what is new: as text where there are no widgets."""
        began, looked = time.monotonic(), 0.0
        try:
            while not over():
                if timeout is not None and time.monotonic() - began > timeout:
                    raise TimeoutError(f"{self.run.id} is still {self.status.shown} after {timeout} seconds.")
                if self.block and time.monotonic() - looked >= self.every_s:
                    self.refresh()
                    self._print()
                    looked = time.monotonic()
                time.sleep(0.05)
        except KeyboardInterrupt:
            self._interrupted()
            raise
        self.refresh()
        if self.block:
            self._print(last=True)

    def _print(self, last: bool = False) -> None:
        """One line a tenth of the run, and one at the end."""
        s = self.status
        tenth = f"{s.shown if last else ''}{10 * s.step // s.total if s.total else 0}"
        over = s.step == s.total  # the line of the end says it
        if tenth == self._printed or (not last and (over or not s.step)):
            return
        self._printed = tenth
        figures_ = "  ".join(f"{name} {cards.number(value)}" for name, value in cards.latest(
            self.follower, HEADLINES.get(self.follower.method, ())).items())  # fmt: skip
        left = cards.duration(s.eta_s) if s.state == "running" else s.shown
        print(f"{self.run.id}  step {s.step}/{s.total}  {figures_}  {left}", flush=True)

    def _interrupted(self) -> None:
        session = self.control.alive
        if session is None:
            print(f"{self.run.id} goes on in its engine; watch(run) shows it again.", file=sys.stderr)
            return
        print(f"Stopping {self.run.id} after this step, with a checkpoint; interrupt again to leave at once.",
              file=sys.stderr)  # fmt: skip
        try:
            session.close()
        except KeyboardInterrupt:
            session.abandon()
        self.refresh()
        print(f"{self.run.id} {session.done.sentence if session.done else 'stopped'}", file=sys.stderr)


def _tail(live: weakref.ref[LiveRun], closed: threading.Event, every_s: float) -> None:
    """Looks at a run every so often; holds no reference between two looks, so that a forgotten view can go."""
    while not closed.wait(every_s):
        view = live()
        try:
            if view is None or not view.refresh():
                return
        except RunError:  # the directory is gone
            return
        del view
