"""Factories for the page's components: a `gr.HTML` each, drawn by a script under `assets/`.

Scripts put text into the page through textContent only, so nothing a model says can run there. Components are made by
functions, never by subclassing (Gradio writes a stub file beside a module that subclasses one).
"""

from __future__ import annotations

import functools
import hashlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.studio.front import ASSETS, MOUNT, plotly_script
from apps.studio.people import HostOnlyError, Person, asking
from lab.events import Sample

OUR_OWN = ("lab.", "apps.")
"""Packages whose errors are sentences for people."""

Ask = Callable[[dict[str, Any]], dict[str, Any]]


def address(name: str) -> str:
    """The address of an asset, with a digest of its content so that a browser never keeps an old one."""
    path = plotly_script() if name == "plotly.min.js" else ASSETS / name
    return f"{MOUNT}/{name}?v={_digest(path, path.stat().st_mtime_ns)}"


@functools.lru_cache(maxsize=32)
def _digest(path: Path, _changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def panel(name: str, label: str, asks: Sequence[Ask], value: Any = None, scripts: Sequence[str] = ()) -> gr.HTML:
    """A component drawn by `assets/<name>.js`, whose functions of the page's `server` object are `asks`.

    scripts : further files under `assets/`, read before it
    """
    head = "".join(f'<script src="{address(f)}"></script>' for f in ("common.js", *scripts, f"{name}.js"))
    given = f"element, server: window.Lab.heard(server), props, watch, trigger, plotly: '{address('plotly.min.js')}'"
    start = (f"window.Lab.{name}({{{given}}}); "
             "/* events: 'generate' 'halt' */")  # fmt: skip
    return gr.HTML(
        value=value, html_template=f'<section class="lab" data-panel="{name}" aria-label="{label}"></section>',
        js_on_load=start, head=head, server_functions=list(asks), apply_default_css=False,
    )  # fmt: skip


def open_ask(ask: Ask) -> Ask:
    """`ask` for everybody, with every error as `{"error": sentence}`."""

    def call(request: dict[str, Any]) -> dict[str, Any]:
        try:
            return ask(request if isinstance(request, dict) else {})
        except Exception as error:
            return {"error": sentence(error)}

    call.__name__ = ask.__name__
    return call


def person_ask(ask: Callable[[dict[str, Any], Person], dict[str, Any]]) -> Ask:
    """`ask`, which wants to know who asks, for everybody."""

    def call(request: dict[str, Any]) -> dict[str, Any]:
        return ask(request, asking())

    call.__name__ = ask.__name__
    return open_ask(call)


def host_ask(ask: Ask) -> Ask:
    """`ask` for the host alone: what hides a button is decoration, what refuses a request is this."""

    def call(request: dict[str, Any]) -> dict[str, Any]:
        if not asking().host:
            raise HostOnlyError
        return ask(request)

    call.__name__ = ask.__name__
    return open_ask(call)


def sentence(error: Exception) -> str:
    """What people are told about an error. Those that are not the lab's own are printed for whoever runs the Studio."""
    if type(error).__module__.startswith(OUR_OWN):
        return str(error)
    traceback.print_exception(error, file=sys.stderr)
    return f"The Studio stumbled ({type(error).__name__}); the terminal where it was started has the details."


def spoken(sample: Sample | None) -> dict[str, Any] | None:
    """An answer as the page shows it; `deltas` are log p − log p of the reference, nats per token."""
    if sample is None:
        return None
    pairs = zip(sample.logprobs, sample.reference, strict=False)
    return {
        "text": sample.completion, "tokens": sample.tokens, "deltas": [p - q for p, q in pairs],
        "reward": sample.reward, "gold": sample.gold, "reasons": sample.reasons, "kl": sample.kl,
        "ended": sample.ended, "length": len(sample.tokens) or len(sample.completion.split()),
        "unit": "tokens" if sample.tokens else "words",
    }  # fmt: skip
