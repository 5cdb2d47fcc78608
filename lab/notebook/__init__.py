"""Runs in a notebook: a live view of a run, and a kernel that is the engine itself.

    bench = Workbench("runs/quickstart")              # the tiny world's base, in this kernel
    live = bench.play(bench.new("sft", config, demonstrations))
    live                                              # curves, buttons, live settings, a prompt box
    live.wait()

`watch` shows any run: one of this kernel (a session), one that an engine plays, or one that is only a directory. A
click on its curves shows the answers of that step. `bench.sampler` puts roles side by side, `label` is a card to judge
pairs on. A cell that is run again closes what its widgets held before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lab import figures
from lab.client import EngineClient, find_engine
from lab.follow import Follower
from lab.notebook.bench import Scoreboard, SideBySide, Workbench
from lab.notebook.exercise import Case, Marks, check
from lab.notebook.knobs import Knob, Turned, turn
from lab.notebook.labelling import Labelling, label
from lab.notebook.live import LiveRun, front_end
from lab.notebook.predict import Verdict, check_branch, check_change
from lab.notebook.sampler import Sampler
from lab.runs import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lab.session import Session

__all__ = ["Case", "Knob", "Labelling", "LiveRun", "Marks", "Sampler", "Scoreboard", "SideBySide", "Turned", "Verdict",
           "Workbench", "check", "check_branch", "check_change", "front_end", "frontier", "label", "play", "turn",
           "watch"]  # fmt: skip


def watch(run: Session | Run | Path | str, *, block: bool | None = None) -> LiveRun:
    """A live view of a session in this kernel, or of a run directory; an engine that serves the directory is found."""
    if not isinstance(run, (Run, Path, str)):
        return LiveRun(run.run, run, block=block)
    path = run.path if isinstance(run, Run) else Path(run)
    served = find_engine(path.parent) is not None
    return LiveRun(path, client=EngineClient(path.parent) if served else None, block=block)


def play(run: Session | Run | Path | str, *, block: bool | None = None) -> LiveRun:
    """As `watch`, and plays it. Raises RunError where neither a session nor an engine is there to play it."""
    return watch(run, block=block).play()


def frontier(*runs: Run) -> go.Figure:
    """Reward (solid) and true score (dashed) against √KL: where the two part, the policy exploits the reward model.

    Show it with `.show(config=lab.figures.CONFIG)`, which leaves out the upload button.
    """
    import plotly.graph_objects as go

    followers = [Follower(run) for run in runs]
    for follower in followers:
        follower.refresh()
    figure = go.Figure(figures.frontier(followers))
    figure.update_traces(showlegend=True)
    figure.update_layout(height=340, showlegend=True, legend={"orientation": "h", "y": 1.12, "x": 0})
    return figure
