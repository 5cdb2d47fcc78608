"""A prompt answered by up to four roles side by side, with the same noise, as it is being said.

    bench.sampler({"SFT": sft, "PPO": ppo}, "What is 5 plus 1?")    # a prompt box, sliders, and a column a role
    sampler.ask("Who wrote this?", seed=3)                          # the same from code, waiting for the end

The engine that owns the model answers, between two events of a run that plays. Words are shown as words. Running the
cell again closes what it made before: widgets, thread, and the answer that was under way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple, cast

from lab import reading
from lab.client import EngineClient
from lab.events import Sample
from lab.notebook import cards
from lab.notebook.control import sample_of
from lab.notebook.held import close_widgets, forget, hold
from lab.notebook.live import front_end

MOST_ROLES = 4
PACE_S = 0.1
"""Least time between two pictures of an answer that grows, seconds."""
VIEWS = (("text", "text"), ("diff", "diff"), ("Δ log p", "heat"))


class Wish(NamedTuple):
    """What is asked: the prompt, the shown names of who answers, and the settings of the sampler."""

    prompt: str
    names: tuple[str, ...]
    temperature: float
    length: int
    seed: int


class Sampler:
    """Widgets to ask several roles the same thing; where there is no front end, a table of what they last said.

    client : the way to the engine that answers
    roles  : shown name -> role ("base", a run's id, "run@step"); the first `MOST_ROLES` are asked at first
    prompt : asked at once, if there is one

    Raises ValueError without roles.
    """

    def __init__(self, client: EngineClient, roles: Mapping[str, str], prompt: str = "", *, temperature: float = 1.0,
                 length: int = 32, seed: int = 0) -> None:  # fmt: skip
        if not roles:
            raise ValueError("There is nobody to ask; name at least one role, such as {'base': 'base'}.")
        self.client, self.roles = client, dict(roles)
        self.wish = Wish(prompt, tuple(roles)[:MOST_ROLES], temperature, length, seed)
        self.said: dict[str, Sample] = {}
        self.sentence = ""
        self.view = "text"
        self.closed = threading.Event()
        self._asked = 0
        self._thread: threading.Thread | None = None
        self.box: Any = None
        if front_end():
            self._build()
            hold(self)
            if prompt:
                self._start()
        elif prompt:
            self.ask()

    # ------------------------------------------------------------------ verbs

    def ask(self, prompt: str | None = None, **changes: Any) -> Sampler:
        """Asks, and waits for the end. `changes`: names, temperature, length, seed, as in `Wish`.

        Raises what the engine raises, and ValueError for a name that is none of `roles` or more than `MOST_ROLES`.
        """
        names = tuple(changes.pop("names", self.wish.names))
        if unknown := [n for n in names if n not in self.roles]:
            raise ValueError(f"There is no {unknown[0]!r} here; there are {', '.join(self.roles)}.")
        if not 0 < len(names) <= MOST_ROLES:
            raise ValueError(f"{len(names)} roles are asked for; one to {MOST_ROLES} can answer at once.")
        self.wish = self.wish._replace(prompt=self.wish.prompt if prompt is None else prompt, names=names, **changes)
        self._asked += 1
        for _ in self._rows(self.wish):
            pass
        self._draw()
        return self

    def stop(self) -> None:
        """Leaves the answer that is under way as it is."""
        self._asked += 1
        self._busy(False)

    def close(self) -> None:
        """Ends the answer under way and closes the widgets; a second time does nothing."""
        self.closed.set()
        self._asked += 1
        forget(self)
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(10)
        box, self.box = self.box, None
        if box is not None:
            close_widgets(box)

    # ------------------------------------------------------------------ asking

    def _rows(self, wish: Wish) -> Iterator[None]:
        """Takes the engine's rows as they come; each is in `said` when it yields. Ends early when nobody wants it."""
        turn = self._asked
        roles = dict.fromkeys(self.roles[name] for name in wish.names)
        self.said = {name: Sample(wish.prompt, "", False) for name in wish.names}
        asked = self.client.sample(wish.prompt, list(roles), temperature=wish.temperature, max_new_tokens=wish.length,
                                   seed=wish.seed)  # fmt: skip
        rows = cast("Generator[dict[str, Any]]", asked)
        try:
            for row in rows:
                if turn != self._asked:
                    return
                self.said |= {name: sample_of(wish.prompt, row) for name in wish.names
                              if self.roles[name] == row.get("role")}  # fmt: skip
                yield
        finally:
            rows.close()  # ends the sampling in the engine

    def _start(self) -> None:
        """Asks in a thread of its own: the answer comes between two events of a run, and the kernel stays free."""
        wish = self._wished()
        if not wish.prompt.strip() or not wish.names:
            self._tell("Write a prompt first." if wish.names else "Choose at least one who answers.")
            return
        self.stop()
        self.wish = wish
        self._busy(True)
        self._thread = threading.Thread(target=self._stream, args=(wish, self._asked), name="lab-sampler", daemon=True)
        self._thread.start()

    def _stream(self, wish: Wish, turn: int) -> None:
        last = 0.0
        self._tell("")
        try:
            for _ in self._rows(wish):
                if time.monotonic() - last >= PACE_S:
                    last = time.monotonic()
                    self._draw()
        except (RuntimeError, ValueError) as error:
            if turn == self._asked:
                self._tell(str(error))
        if turn == self._asked:
            self._draw()
            self._busy(False)

    # ------------------------------------------------------------------ widgets

    def _build(self) -> None:
        from ipywidgets import (
            HTML,
            Button,
            FloatSlider,
            HBox,
            IntSlider,
            IntText,
            Layout,
            Textarea,
            ToggleButton,
            ToggleButtons,
            VBox,
        )

        beside = {"description_width": "initial"}
        self._prompt = Textarea(value=self.wish.prompt, placeholder="Ask something…", rows=2,
                                layout=Layout(width="100%"))  # fmt: skip
        self._who = {name: ToggleButton(value=name in self.wish.names, description=name, tooltip=role,
                                        layout=Layout(width="auto", min_width="64px"))
                     for name, role in self.roles.items()}  # fmt: skip
        self._knobs = {
            "temperature": FloatSlider(value=self.wish.temperature, min=0.0, max=2.0, step=0.1,
                                       description="temperature", style=beside, layout=Layout(width="260px")),
            "length": IntSlider(value=self.wish.length, min=4, max=max(128, self.wish.length), step=4,
                                description="longest, tokens", style=beside, layout=Layout(width="280px")),
            "seed": IntText(value=self.wish.seed, description="seed (same noise for all)", style=beside,
                            layout=Layout(width="230px")),
        }  # fmt: skip
        self._go = Button(description="Generate", icon="play", button_style="primary", layout=Layout(width="110px"))
        self._again = Button(description="another seed", icon="random", layout=Layout(width="130px"))
        self._view = ToggleButtons(options=VIEWS, value=self.view, style={"button_width": "72px"},
                                   layout=Layout(width="auto"))  # fmt: skip
        self._note, self._columns = HTML(), HTML()
        self._go.on_click(lambda _: self.stop() if self._going else self._start())
        self._again.on_click(lambda _: self._reseed())
        self._view.observe(self._looked, names="value")
        for button in self._who.values():
            button.observe(self._chosen, names="value")
        wrapped = Layout(width="100%", flex_flow="row wrap", align_items="center")
        right = HBox([self._view], layout=Layout(margin="0 0 0 auto"))
        self._going = False
        self.box = VBox([
            self._prompt,
            HBox([HTML("<b>who answers</b>&nbsp;"), *self._who.values()], layout=wrapped),
            HBox([*self._knobs.values()], layout=wrapped),
            HBox([self._go, self._again, right], layout=wrapped),
            self._note, self._columns], layout=Layout(width="100%"))  # fmt: skip
        self._draw()

    def _wished(self) -> Wish:
        """What the widgets say."""
        names = tuple(name for name, button in self._who.items() if button.value)
        return Wish(self._prompt.value, names, *(self._knobs[k].value for k in ("temperature", "length", "seed")))

    def _reseed(self) -> None:
        self._knobs["seed"].value += 1
        self._start()

    def _looked(self, change: Any) -> None:
        self.view = change["new"]
        self._draw()

    def _chosen(self, change: Any) -> None:
        """Four at most: a fifth button springs back."""
        if sum(button.value for button in self._who.values()) > MOST_ROLES:
            change["owner"].value = False
            self._tell(f"{MOST_ROLES} at most; take one away first.")

    def _busy(self, going: bool) -> None:
        if self.box is not None:
            self._going = going
            self._go.description, self._go.icon = ("Stop", "stop") if going else ("Generate", "play")

    def _tell(self, sentence: str) -> None:
        self.sentence = sentence
        if self.box is not None:
            self._note.value = cards.error(sentence) if sentence else ""

    def _draw(self) -> None:
        if self.box is not None and not self.closed.is_set():
            self._columns.value = self._repr_html_()

    def _repr_html_(self) -> str:
        return cards.columns(self.said, self.view)

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(self.box if self.box is not None else HTML(self._repr_html_()))

    def __repr__(self) -> str:
        first = next(iter(self.said.values()), None)
        lines = [self.wish.prompt]
        for name, sample in self.said.items():
            split = reading.first_split(first.completion, sample.completion) if first is not None else None
            parts = "" if split is None else f"   (parts at word {split + 1})"
            lines.append(f"  {name}: {sample.completion}{'' if sample.ended else ' …'}{parts}")
        return "\n".join(lines)
