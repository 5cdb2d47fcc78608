"""Pages that need no Gradio: the login, and what is shown while Gradio is being read from the disk."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template

from apps.studio.shelf import shown
from lab.runs import runs

ASSETS = Path(__file__).parent / "assets"
TABS: dict[str, str] = {
    "guide": "Guide",
    "sample": "Sample",
    "label": "Label",
    "train": "Train",
    "curves": "Curves",
    "constitution": "Constitution",
    "arena": "Arena",
    "room": "Room",
}
"""The page's panels in their order, as an address names them."""

MOST_RUNS = 12


def login_page() -> str:
    """The page on which people say who they are."""
    return (ASSETS / "login.html").read_text(encoding="utf-8")


def waiting_page(root: Path) -> str:
    """The runs as they stand, and a script that loads the page once it is there."""
    rows = [
        f"<li><b>{escape(i.id)}</b><span>{escape(i.manifest.method)}</span><span>step {i.status.step} of "
        f"{i.status.total}</span><span>{escape(shown(i.status))}</span></li>"
        for i in reversed(runs(root)[-MOST_RUNS:])
    ]
    listed = f"<ul>{''.join(rows)}</ul>" if rows else "<p>There are no runs here yet.</p>"
    tabs = "".join(f"<span>{escape(name)}</span>" for name in TABS.values())
    template = Template((ASSETS / "waiting.html").read_text(encoding="utf-8"))
    return template.substitute(tabs=tabs, runs=listed)
