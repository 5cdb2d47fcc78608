"""One figure with a run's curves, fed while the run grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from lab import figures
from lab.follow import Follower
from lab.metrics import GROUPS, NOISY, PANELS

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLUMNS = 3


def panels(follower: Follower) -> tuple[figures.Group, ...]:
    """The groups of metrics to draw; those of a known method stand before its first step."""
    leading = PANELS.get(follower.method)
    if leading is None:
        return tuple(figures.groups([follower])[:6])
    return tuple(g for g in GROUPS if g.names[0] in leading)


class Chart:
    """A plotly `FigureWidget` that keeps up with a follower.

    Every `show` sends the lines that changed and nothing else, in one message. A line has at most `figures.LIMIT`
    points. A zoom survives new points. `clicked` is called with the step of a point that somebody clicks on.
    """

    def __init__(self, follower: Follower, clicked: Callable[[int], object] | None = None) -> None:
        self.colour = figures.LIGHT[0]
        self.clicked = clicked
        self.picked = -1
        self._build(follower, panels(follower))

    def pick(self, step: int, follower: Follower) -> None:
        """Draws a line at the step whose answers are shown; -1: at none."""
        self.picked = step
        self._mark(self.widget, follower)

    def deafen(self) -> None:
        """Forgets who was to be told of clicks."""
        self.clicked = None
        for trace in tuple(self.widget.data):
            cast(Any, trace).on_click(None)

    def show(self, follower: Follower) -> go.FigureWidget | None:
        """Draws what is new.

        When the run begins to log metrics that need axes of their own, `widget` becomes another one, and the one it
        replaces is given back, to be closed once it is off the page.
        """
        wanted = panels(follower)
        if wanted != self.groups:
            former = self.widget
            self._build(follower, wanted)
            return former
        fresh: list[tuple[dict[str, Any], int]] = []
        with self.widget.batch_update():
            for trace, place in self._traces(follower):
                if trace["uid"] in self.lines:
                    self._extend(trace)
                else:
                    fresh.append((trace, place))
            self._mark(self.widget, follower)
        for trace, place in fresh:
            self._add(self.widget, trace, place)
            self._listen(self.widget.data[-1])
        return None

    def _traces(self, follower: Follower) -> Iterator[tuple[dict[str, Any], int]]:
        smoothing = NOISY.get(follower.method, 0.0)
        for place, group in enumerate(self.groups):
            for trace in figures.traces(follower, group, self.colour, smoothing):
                yield trace, place

    def _build(self, follower: Follower, groups: tuple[figures.Group, ...]) -> None:
        """A fresh widget with everything known so far inside, so that its first picture is whole."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        self.groups = groups
        self.lines: dict[str, tuple[int, list[Any], list[Any]]] = {}
        self.marked: tuple[tuple[int, str], ...] = ()
        self.columns = max(1, min(COLUMNS, len(groups)))
        rows = max(1, math.ceil(len(groups) / self.columns))
        titles = [f"{_plain(g.title)} <span style='font-size:11px'>{_plain(g.unit)}</span>" for g in groups]
        figure = make_subplots(rows, self.columns, subplot_titles=titles or None, horizontal_spacing=0.07,
                               vertical_spacing=min(0.16, 0.6 / rows))  # fmt: skip
        shared = figures.look()
        figure.update_xaxes(shared.pop("xaxis"), matches="x")
        figure.update_yaxes(shared.pop("yaxis"))
        figure.update_layout(shared | {"height": 60 + 190 * rows, "autosize": True, "uirevision": "keep",
                                       "hovermode": "x", "margin": {"l": 8, "r": 10, "t": 34, "b": 8}})  # fmt: skip
        figure.update_annotations(font_size=13)
        for trace, place in self._traces(follower):
            self._add(figure, trace, place)
        self._mark(figure, follower)
        self.widget = go.FigureWidget(figure)
        self.widget._config = dict(figures.CONFIG)
        for trace in self.widget.data:
            self._listen(trace)

    def _listen(self, trace: Any) -> None:
        """Has a click on a point of this line name its step; the faint raw lines do not answer."""
        if self.clicked is None or trace.hoverinfo == "skip":
            return

        def heard(line: Any, points: Any, _state: Any) -> None:
            if points.point_inds and self.clicked is not None:
                self.clicked(int(line.customdata[points.point_inds[0]]))

        trace.on_click(heard)

    def _add(self, figure: Any, trace: dict[str, Any], place: int) -> None:
        figure.add_trace(trace, row=place // self.columns + 1, col=place % self.columns + 1)
        self.lines[trace["uid"]] = (len(self.lines), list(trace["x"]), list(trace["y"]))

    def _extend(self, trace: dict[str, Any]) -> None:
        index, xs, ys = self.lines[trace["uid"]]
        if trace["x"] == xs and trace["y"] == ys:
            return
        changes = {key: trace[key] for key in ("x", "y", "customdata", "text", "mode") if key in trace}
        self.widget.data[index].update(changes)
        self.lines[trace["uid"]] = (index, list(trace["x"]), list(trace["y"]))

    def _mark(self, figure: Any, follower: Follower) -> None:
        """A dotted line at every step where somebody changed a setting, and a plain one at the step that is picked."""
        marks = [(step, "dot") for step in sorted({e.step for e in follower.edits})]
        marks += [(self.picked, "solid")] if self.picked >= 0 else []
        if tuple(marks) == self.marked or not self.groups:
            return
        self.marked = tuple(marks)
        axes = [("x" + n, f"y{n} domain") for n in ("" if i == 0 else str(i + 1) for i in range(len(self.groups)))]
        figure.layout.shapes = [
            {"type": "line", "xref": x, "yref": y, "x0": s, "x1": s, "y0": 0, "y1": 1,
             "line": {"dash": dash, "width": 1.2, "color": "#8a6a00" if dash == "dot" else self.colour}}
            for s, dash in marks for x, y in axes]  # fmt: skip


def _plain(text: str) -> str:
    """Text that plotly will not read as markup: a metric's name may be anything."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
