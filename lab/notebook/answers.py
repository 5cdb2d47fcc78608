"""The answers to the probe prompts at one step of a run beside those at another: what training changed.

The step is the newest one until somebody picks another: a click on a curve, the slider, or `go` from code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab import reading
from lab.events import Sample
from lab.follow import Follower
from lab.notebook import cards


@dataclass(frozen=True)
class Beside:
    """The answers of two steps, `now` and `then` (−1 where nothing was probed); shown as a table."""

    now: int
    then: int
    rows: tuple[reading.ProbeRow, ...]
    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        lines = []
        for row in self.rows:
            before = row.before.completion if row.before else "–"
            lines += [row.prompt, f"  step {self.then}: {before}", f"  step {self.now}: {row.after.completion}"]
        return "\n".join(lines) or "no probe prompts were answered"


def beside(follower: Follower, step: int | None = None, against: int | None = None, heat: bool = False) -> Beside:
    """The answers nearest to `step` (None: the newest) beside those nearest to `against` (None: the first)."""
    now, then, rows = reading.probes_table(follower.probes, step, against)
    return Beside(now, then, tuple(rows), cards.probes(follower, step, against, heat))


class Answers:
    """Widgets around a table of answers; `box` is what a cell shows. `picked` is called with the step that is shown."""

    def __init__(self, picked: Callable[[int], object]) -> None:
        from ipywidgets import HTML, Button, Dropdown, HBox, Layout, SelectionSlider, ToggleButtons, VBox

        self.picked = picked
        self.step: int | None = None
        self.against: int | None = None
        self._follower: Follower | None = None
        self._setting = False
        self.table = HTML()
        described = {"description_width": "initial"}
        self.slider = SelectionSlider(options=[0], description="answers at step", continuous_update=True,
                                      layout=Layout(width="340px"), style=described)  # fmt: skip
        self.beside = Dropdown(options=[0], description="beside step", layout=Layout(width="160px"), style=described)
        self.view = ToggleButtons(options=[("diff", "diff"), ("Δ log p", "heat")], style={"button_width": "72px"},
                                  tooltips=["words lost and gained", "how much likelier the run made each token"],
                                  layout=Layout(width="auto"))  # fmt: skip
        self.newest = Button(description="newest", tooltip="Follow the run again", layout=Layout(width="76px"))
        self.slider.observe(self._slid, names="value")
        self.beside.observe(self._slid, names="value")
        self.view.observe(lambda _: self._draw(), names="value")
        self.newest.on_click(lambda _: self.follow())
        wrapped = Layout(width="100%", flex_flow="row wrap", align_items="center", display="none")
        self.bar = HBox([self.slider, self.beside, self.newest, self.view], layout=wrapped)
        self.box = VBox([self.bar, self.table], layout=Layout(width="100%"))

    @property
    def steps(self) -> list[int]:
        """The steps at which the probe prompts were answered."""
        return sorted(self._follower.probes) if self._follower is not None else []

    def show(self, follower: Follower) -> None:
        """Brings slider and table up to date."""
        self._follower = follower
        steps = self.steps
        if self.against is not None and self.against not in steps:  # the run went back behind it
            self.against = None
        if steps and list(self.slider.options) != steps:
            self._quietly(lambda: (setattr(self.slider, "options", steps), setattr(self.beside, "options", steps)))
        self.bar.layout.display = "flex" if len(steps) > 1 else "none"
        compared = any(sample.reference for samples in follower.probes.values() for sample in samples)
        self.view.layout.display = "flex" if compared else "none"  # without a reference there is no Δ log p
        self._draw()

    def go(self, step: int, against: int | None = None) -> None:
        """Shows the answers nearest to `step`, beside those nearest to `against` (None: as it was)."""
        if not self.steps:
            return
        now, then, _ = reading.probes_table(self._probes(), step, self.against if against is None else against)
        self.step, self.against = now, then if against is not None else self.against
        self._draw()
        self.picked(now)

    def follow(self) -> None:
        """Shows the newest answers beside the first, now and while the run goes on."""
        self.step = self.against = None
        self._draw()
        self.picked(-1)

    def _slid(self, _change: Any) -> None:
        if not self._setting:
            self.go(self.slider.value, self.beside.value)

    def _probes(self) -> Mapping[int, tuple[Sample, ...]]:
        return self._follower.probes if self._follower is not None else {}

    def _draw(self) -> None:
        if self._follower is None:
            return
        now, then, rows = reading.probes_table(self._probes(), self.step, self.against)
        if rows and len(self.steps) > 1:
            self._quietly(lambda: (setattr(self.slider, "value", now), setattr(self.beside, "value", then)))
        self.table.value = cards.probes(self._follower, self.step, self.against, heat=self.view.value == "heat")

    def _quietly(self, change: Callable[[], object]) -> None:
        """Moves the slider and the list without taking it for somebody's wish."""
        self._setting = True
        try:
            change()
        finally:
            self._setting = False
