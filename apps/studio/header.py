"""The strip at the top: what the engine does, and who is at the page."""

from __future__ import annotations

from typing import Any

import gradio as gr

from apps.studio.components import open_ask, panel, person_ask
from apps.studio.link import Link
from apps.studio.parts import Parts
from apps.studio.people import ME, Person


class Header:
    """What the page may ask."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def engine(self, _ask: dict[str, Any]) -> dict[str, Any]:
        """What the engine does, in two words."""
        reason = self.link.reason()
        if reason:
            return {"dot": "", "text": "no engine", "more": reason}
        playing = self.link.playing()
        return {"dot": "running", "text": f"playing {', '.join(playing)}" if playing else "engine ready", "more": ""}

    def me(self, _ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Who is at the page; `alone` where nobody else can come in, and nobody logs in or out."""
        return {"name": person.name, "host": person.host, "alone": person is ME}


def build(parts: Parts) -> gr.HTML:
    """The strip as a component; call it above the tabs."""
    header = Header(parts.link)
    return panel("header", "Studio", [open_ask(header.engine), person_ask(header.me)])
