"""The widgets around a run: status, progress, curves, buttons, live settings, a prompt box, invariants and answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lab import reading
from lab.follow import Follower
from lab.notebook import cards
from lab.notebook.answers import Answers
from lab.notebook.chart import Chart
from lab.notebook.control import SHOWN, Control
from lab.notebook.held import close_widgets
from lab.runs import LIVE_STATES, Status

SAID = (RuntimeError, ValueError)
"""Errors whose sentence is shown beside the buttons: those of runs, engines, settings and prompts."""

BAR = {"finished": "success", "failed": "danger", "lost": "danger"}
"""The colour of the progress bar, by state."""

SEED = 0
"""Of the noise behind the prompt box: asking twice differs only by what the policy learned in between."""


class Panel:
    """Made of ipywidgets; `box` is what a cell shows. `wake` is called after every wish, to look at the run again."""

    def __init__(self, control: Control, follower: Follower, wake: Callable[[], object]) -> None:
        from ipywidgets import HTML, FloatProgress, HBox, Layout, VBox

        self.control, self.wake = control, wake
        self.head, self.left, self.said = HTML(), HTML(), HTML()
        self.invariants, self.health, self.edits = HTML(), HTML(), HTML()
        self.progress = FloatProgress(min=0.0, max=1.0, layout=Layout(flex="1 1 auto", height="14px"))
        self.answers = Answers(lambda step: self.chart.pick(step, follower))
        self.chart = Chart(follower, self.answers.go)
        wide = Layout(width="100%")
        wrapped = Layout(width="100%", flex_flow="row wrap", align_items="center")
        half = Layout(flex="1 1 380px", padding="0 12px 0 0")
        self.box = VBox(layout=wide)
        self.rows = [
            self.head,
            HBox([self.progress, self.left], layout=Layout(width="100%", align_items="center")),
            HBox([*self._buttons(), *self._editor()], layout=wrapped),
            HBox([self.said, self.edits], layout=wrapped),
            self.chart.widget,
            HBox([VBox(self._prompt(), layout=half), VBox([self.invariants, self.health], layout=half)],
                 layout=Layout(width="100%", flex_flow="row wrap", align_items="flex-start")),
            self.answers.box,
        ]  # fmt: skip
        self.box.children = self.rows

    def show(self, follower: Follower, status: Status) -> None:
        """Brings every part up to date; a part that did not change sends nothing."""
        self.head.value = cards.status_line(follower, status)
        self.left.value = cards.remaining(status)
        self.progress.value = status.step / status.total if status.total else 0.0
        self.progress.bar_style = BAR.get(status.shown, "info")
        self.invariants.value = cards.invariants(follower.checked)
        self.health.value = cards.health(reading.health(follower))
        self.edits.value = cards.edits(follower)
        self.answers.show(follower)
        self._enable(status)
        for edit in follower.edits:
            self._set(edit.name, edit.new)
        if (former := self.chart.show(follower)) is not None:
            self.rows = [self.chart.widget if row is former else row for row in self.rows]
            self.box.children = self.rows
            former.close()

    def close(self) -> None:
        """Closes every widget, so that the kernel lets go of them."""
        self.chart.deafen()
        close_widgets(self.box)

    def _buttons(self) -> list[Any]:
        from ipywidgets import Button, Layout

        wishes = {"Play": ("play", self.control.play), "Pause": ("pause", self.control.pause),
                  "Step": ("step-forward", self.control.step), "Stop": ("stop", self.control.stop)}  # fmt: skip
        tips = {"Play": "Play until the run ends", "Pause": "Pause before the next step",
                "Step": "Play one step, then pause", "Stop": "End with a checkpoint after this step"}  # fmt: skip
        self.buttons = {}
        for name, (icon, wish) in wishes.items():
            button = Button(
                description=name, icon=icon, tooltip=tips[name], layout=Layout(width="76px", padding="0 4px")
            )
            button.on_click(lambda _, wish=wish: self._try(wish))
            self.buttons[name] = button
        return list(self.buttons.values())

    def _editor(self) -> list[Any]:
        """A field for each live setting, and one button that applies those which differ."""
        from ipywidgets import Button, FloatText, Layout

        settings = self.control.run.manifest.settings
        self.fields, self.known = {}, {}
        for name, setting in self.control.settings().items():
            self.known[name] = float(settings.get(name, setting.default))
            self.fields[name] = FloatText(value=self.known[name], description=SHOWN[name], tooltip=setting.help,
                                          step=None, layout=Layout(width="154px"),
                                          style={"description_width": "86px"})  # fmt: skip
        if not self.fields:
            return []
        apply = Button(description="Apply", tooltip="Holds from the next step on", layout=Layout(width="60px"))
        apply.on_click(lambda _: self._try(self._apply))
        return [*self.fields.values(), apply]

    def _apply(self) -> None:
        for name, field in self.fields.items():
            if field.value != self.known[name]:
                self.control.edit(name, field.value)

    def _set(self, name: str, value: Any) -> None:
        """Shows a setting that was changed, here or elsewhere, unless somebody is typing another value."""
        if name not in self.fields or value == self.known[name]:
            return
        field = self.fields[name]
        if field.value == self.known[name]:
            field.value = value
        self.known[name] = value

    def _prompt(self) -> list[Any]:
        """A prompt, a temperature, and what the role in training answers now."""
        from ipywidgets import HTML, Button, HBox, Layout, Text

        self.prompt = Text(placeholder="Ask the role in training", layout=Layout(flex="1 1 auto"))
        self.answer = HTML()
        self.ask = Button(description="Sample", icon="comment", layout=Layout(width="96px"),
                          tooltip="Asks between two steps; the run does not notice")  # fmt: skip
        self.ask.on_click(lambda _: self._sample())
        self.prompt.continuous_update = False
        return [HBox([self.prompt, self.ask], layout=Layout(width="100%")), self.answer]

    def _sample(self) -> None:
        """Asks in a thread of its own: the answer comes after the event in work, and the kernel stays free."""
        self.ask.disabled = True
        threading.Thread(target=self._answer, args=(self.prompt.value,), name="lab-ask", daemon=True).start()

    def _answer(self, prompt: str) -> None:
        temperature = self.known.get("temperature", 1.0)
        try:
            self.answer.value = cards.answer(self.control.sample(prompt, temperature=temperature, seed=SEED))
        except SAID as error:
            self.answer.value = cards.error(str(error))
        finally:
            self.ask.disabled = False

    def _try(self, wish: Callable[[], None]) -> None:
        try:
            wish()
            self.said.value = ""
        except SAID as error:
            self.said.value = cards.error(str(error))
        self.wake()

    def _enable(self, status: Status) -> None:
        shown, over = status.shown, status.state == "finished"
        reachable = self.control.alive is not None or self.control.client is not None
        live = status.state in LIVE_STATES and shown != "lost"
        allowed = {"Play": not over and (shown != "running" or bool(status.wanted)), "Pause": shown == "running",
                   "Step": not over and shown != "running", "Stop": live}  # fmt: skip
        for name, button in self.buttons.items():
            button.disabled = not (reachable and allowed[name])
