"""A card to judge pairs on, in a notebook: the answers of a label store, one pair after the other.

    card = label(Store.open("labels.sqlite"), "mina")
    card                                    # buttons; what is recorded is on the disk at once
    card.press("a"); card.press("undo")     # the same from code

Which answer is called A is the store's choice, another one for everybody. Words of prompts and answers are escaped.
"""

from __future__ import annotations

import time
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from lab.notebook import cards
from lab.notebook.held import close_widgets, forget, hold
from lab.notebook.live import front_end
from lab.records import completion_text, prompt_text

if TYPE_CHECKING:
    from lab.feedback.labels.store import Store
    from lab.feedback.labels.words import Showing

VOTES = {"a+": ("A, clearly", 2), "a": ("A", 1), "tie": ("alike", 0), "b": ("B", -1), "b+": ("B, clearly", -2)}
OTHERS = {"bad": "both bad", "skip": "skip", "undo": "undo"}
GUARD_S = 0.4
"""A press this soon after a new pair was meant for the one before, seconds."""


class Labelling:
    """A card of one annotator. Where there is no front end it is text."""

    def __init__(self, store: Store, annotator: str) -> None:
        from lab.feedback.labels.words import RefusedError

        self.refused: type[Exception] = RefusedError
        self.store, self.annotator = store, store.person(annotator)
        self.done, self.note, self._undone = 0, "", 0
        self.showing: Showing | None = None
        self.box: Any = None
        self._next()
        if front_end():
            self._build()
            hold(self)

    def press(self, what: str, *, ms: int | None = None) -> Labelling:
        """What a button does: a+, a, tie, b, b+, bad, skip or undo.

        ms : how long it took; None: since the pair was shown

        Raises KeyError for another word.
        """
        if what not in VOTES and what not in OTHERS:
            raise KeyError(f"There is no button {what!r}; there are {', '.join([*VOTES, *OTHERS])}.")
        self.note = ""
        try:
            if what == "undo":
                self._undone += 1
                self.store.undo(self.annotator, key=f"undo {time.time_ns()} {self._undone}")
                self.done = max(0, self.done - 1)
            elif self.showing is not None:
                took = round(1000 * (time.monotonic() - self._since)) if ms is None else ms
                strength = None if what == "skip" else VOTES[what][1] if what in VOTES else 0
                self.store.respond(self.annotator, self.showing.item.id, self.showing.key, strength,
                                   both_bad=what == "bad", **({} if what == "skip" else {"ms": took}))  # fmt: skip
                self.done += 1
        except self.refused as error:
            self.note = str(error)
        self._next()
        return self

    def close(self) -> None:
        """Closes the widgets, so that the kernel lets go of the store; what was judged is kept. Running the cell again
        does it too."""
        forget(self)
        box, self.box = self.box, None
        if box is not None:
            close_widgets(box)

    def _next(self) -> None:
        self.showing = self.store.assign(self.annotator)
        self._since = time.monotonic()
        if self.box is not None:
            self._draw()

    def _build(self) -> None:
        from ipywidgets import HTML, Button, HBox, Layout, VBox

        self._text = HTML()
        self._buttons = {}
        for what, label in [*((k, v[0]) for k, v in VOTES.items()), *OTHERS.items()]:
            button = Button(description=label, layout=Layout(width="auto", min_width="72px", min_height="44px"),
                            button_style="" if what in OTHERS else "primary")  # fmt: skip
            button.on_click(partial(self._clicked, what))
            self._buttons[what] = button
        wrapped = Layout(flex_flow="row wrap")
        self.box = VBox([self._text, HBox([self._buttons[k] for k in VOTES], layout=wrapped),
                         HBox([self._buttons[k] for k in OTHERS], layout=wrapped)])  # fmt: skip
        self._draw()

    def _clicked(self, what: str, _button: Any) -> None:
        if what == "undo" or time.monotonic() - self._since >= GUARD_S:
            self.press(what)

    def _draw(self) -> None:
        self._text.value = self._repr_html_()
        for what, button in self._buttons.items():
            button.disabled = self.showing is None and what != "undo"

    def _repr_html_(self) -> str:
        said = (
            f'<div style="color:{cards.FAINT}">{self.done} judged{" · " + escape(self.note) if self.note else ""}</div>'
        )
        if self.showing is None:
            return f"{said}<p>Nothing is left to judge. Thank you.</p>"
        c = self.showing.shown
        sides = "".join(
            f'<div style="flex:1 1 240px;border:1px solid {cards.LINE};border-radius:8px;padding:10px 14px">'
            f'<b style="color:{cards.ACCENT}">{name}</b><div style="margin-top:4px;white-space:pre-wrap">'
            f"{escape(completion_text(answer))}{'' if ended else ' …'}</div></div>"
            for name, answer, ended in (("A", c.a, c.ended[0]), ("B", c.b, c.ended[1])))  # fmt: skip
        asked = f'<div style="font-weight:600;margin:8px 0;white-space:pre-wrap">{escape(prompt_text(c.prompt))}</div>'
        return f'{said}{asked}<div style="display:flex;flex-wrap:wrap;gap:10px;margin-bottom:8px">{sides}</div>'

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(self.box if self.box is not None else HTML(self._repr_html_()))

    def __repr__(self) -> str:
        if self.showing is None:
            return f"{self.done} judged; nothing is left to judge"
        c = self.showing.shown
        return f"{self.done} judged\n{prompt_text(c.prompt)}\n  A {completion_text(c.a)}\n  B {completion_text(c.b)}"


def label(store: Store, annotator: str) -> Labelling:
    """A card on which `annotator` judges the pairs of a store; the same person may come back."""
    return Labelling(store, annotator)
