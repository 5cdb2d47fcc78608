"""A figure with knobs: sliders that draw it again while they move.

    turn(lambda beta: {"data": […], "layout": {…}}, beta=Knob(0.02, 2.0, 0.5, log=True))

Where there is no front end, the figure stands still, with its knobs as they start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab import figures
from lab.notebook.held import close_widgets, forget, hold
from lab.notebook.live import front_end

Draw = Callable[..., Mapping[str, Any]]
"""From the knobs' values, by name, to a figure as JSON (`data`, `layout`): always the same number of traces."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One slider from `low` to `high`, at first at `start`, with `step` between its places.

    log   : places are equally far apart in their logarithms, and `step` is in powers of ten
    label : what stands beside it; empty: its name
    """

    low: float
    high: float
    start: float
    step: float = 0.01
    log: bool = False
    label: str = ""


class Turned:
    """A figure and its knobs; `set` turns them from code as a hand does. Shown by being the last line of a cell."""

    def __init__(self, draw: Draw, knobs: Mapping[str, Knob]) -> None:
        import plotly.graph_objects as go

        self.draw, self.knobs = draw, dict(knobs)
        self.values = {name: knob.start for name, knob in knobs.items()}
        self.live = front_end()
        drawn = go.Figure(dict(draw(**self.values)))
        self.figure: Any = go.FigureWidget(drawn) if self.live else drawn
        self.box: Any = self._boxed() if self.live else None
        if self.live:
            hold(self)

    def set(self, **values: float) -> Turned:
        """Turns knobs and draws again; in one message where it is live.

        Raises KeyError for a knob that is not there.
        """
        for name in values:
            if name not in self.knobs:
                raise KeyError(f"There is no knob {name!r}; there are {', '.join(self.knobs)}.")
        self.values |= values
        drawn = self.draw(**self.values)
        with self.figure.batch_update():
            for line, now in zip(self.figure.data, drawn["data"], strict=True):
                line.update(now)
            self.figure.update_layout(drawn["layout"])
        return self

    def close(self) -> None:
        """Closes figure and sliders, so that the kernel lets go of them; running the cell again does it too."""
        forget(self)
        box, self.box = self.box, None
        if box is not None:
            close_widgets(box)

    def _boxed(self) -> Any:
        from ipywidgets import HBox, Layout, VBox

        self.figure._config = dict(figures.CONFIG)
        sliders = [_slider(name, knob, self.set) for name, knob in self.knobs.items()]
        wrapped = Layout(width="100%", flex_flow="row wrap")
        return VBox([HBox(sliders, layout=wrapped), self.figure], layout=Layout(width="100%"))

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self.box is not None:
            display(self.box)
        else:
            self.figure.show(config=figures.CONFIG)

    def __repr__(self) -> str:
        return f"Turned({', '.join(f'{name}={value:g}' for name, value in self.values.items())})"


def turn(draw: Draw, **knobs: Knob) -> Turned:
    """The figure that `draw` makes, with a slider for each knob."""
    return Turned(draw, knobs)


def _slider(name: str, knob: Knob, changed: Callable[..., Any]) -> Any:
    """A slider that says its value at once, while it is dragged."""
    from ipywidgets import FloatLogSlider, FloatSlider, Layout

    look = {"value": knob.start, "step": knob.step, "description": knob.label or name, "continuous_update": True,
            "readout_format": ".3g", "layout": Layout(width="340px"),
            "style": {"description_width": "initial"}}  # fmt: skip
    slider = (
        FloatLogSlider(min=math.log10(knob.low), max=math.log10(knob.high), **look)
        if knob.log
        else FloatSlider(min=knob.low, max=knob.high, **look)
    )
    slider.observe(lambda change: changed(**{name: float(change["new"])}), names="value")
    return slider
