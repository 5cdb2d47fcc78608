"""What the widgets of a cell hold, and letting go of it when the cell is run again.

A widget lives on in the kernel when its cell is run again: ipywidgets keeps it, it keeps its callbacks, and they keep
a run, an engine, a model. So whatever has widgets says `hold(self)` once it is made, and the next turn of the same cell
closes it.
"""

from __future__ import annotations

import sys
from typing import NamedTuple, Protocol


class Closable(Protocol):
    """What can let go of what it holds; a second `close` does nothing."""

    def close(self) -> object: ...


class Turn(NamedTuple):
    """A cell that is being run: which one, and which of its turns this is."""

    cell: str
    turn: str


_HELD: dict[str, tuple[str, list[Closable]]] = {}
"""For each cell, its last turn and what that made."""


def current() -> Turn | None:
    """The cell that is being run, by the front end's name for it or else by its text; None outside one."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    tell = getattr(shell, "get_parent", None)  # a kernel's shell has it
    parent = tell() if tell is not None else {}
    if parent.get("header", {}).get("msg_type") != "execute_request":
        return None
    name = (parent.get("metadata") or {}).get("cellId") or parent["content"]["code"]
    return Turn(name, parent["header"]["msg_id"])


def hold(made: Closable) -> None:
    """Keeps `made` for the cell that is being run, and closes what earlier turns of that cell have made."""
    if (now := current()) is None:
        return
    last, things = _HELD.get(now.cell, ("", []))
    if last != now.turn:
        _HELD[now.cell] = (now.turn, [])
        for thing in things:
            thing.close()
    _HELD[now.cell][1].append(made)


def forget(made: Closable) -> None:
    """Keeps `made` no longer: it has been closed."""
    for _, things in _HELD.values():
        things[:] = [thing for thing in things if thing is not made]


def close_widgets(*roots: object) -> None:
    """Closes widgets with all that is inside them, layouts and styles too, so that the kernel lets go of them."""
    from ipywidgets import Widget

    waiting = list(roots)
    while waiting:
        widget = waiting.pop()
        waiting += getattr(widget, "children", ())
        for name in ("layout", "style"):
            part = getattr(widget, name, None)
            if isinstance(part, Widget):  # plotly's `layout` is the figure's own
                part.close()
        if isinstance(widget, Widget):
            widget.close()
