"""The page: Gradio's shell, and a tab for every panel. It is read in a thread: Gradio takes seconds to import."""

from __future__ import annotations

import os

# Gradio reads these when it is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")

from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import gradio as gr
from fastapi import FastAPI

from apps.studio import header
from apps.studio.front import ASSETS
from apps.studio.parts import Parts
from apps.studio.shelf import Shelf
from apps.studio.waiting import TABS

MOST_THREADS = 80
"""Handlers at a time: a class that polls."""


def build(parts: Parts) -> gr.Blocks:
    """The page over the parts: a header, and a tab a panel."""
    with gr.Blocks(title="rlhf-lab Studio", fill_width=True, analytics_enabled=False) as blocks:
        header.build(parts)
        with gr.Tabs() as tabs:
            for name, title in TABS.items():
                with gr.Tab(title, id=name) as tab:
                    import_module(f"apps.studio.{name}").build(parts)
                tab.select(None, js=f"() => window.Lab.link({{tab: '{name}'}})", api_visibility="private")

        def opening(request: gr.Request) -> Any:
            return gr.Tabs(selected=opening_tab(dict(request.query_params), parts.shelf))

        blocks.load(opening, None, tabs, show_progress="hidden", api_visibility="private")
    blocks.queue(default_concurrency_limit=None, max_size=64)
    return blocks


def opening_tab(query: dict[str, str], shelf: Shelf) -> str:
    """The tab an address means: the one it names, Curves where it names a run, else where there is something."""
    if query.get("tab") in TABS:
        return query["tab"]
    return "curves" if "run" in query or shelf.list() else "sample"


def application(parts: Parts) -> FastAPI:
    """The page as an ASGI application: nothing leaves the machine, nothing is kept, no file can be had by its path."""
    blocks = build(parts)
    blocks.max_threads = MOST_THREADS
    blocks.limiter = anyio.CapacityLimiter(MOST_THREADS)
    hub = os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    return gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None), blocks, path="/", show_error=False, run_history=False,
        enable_monitoring=False, mcp_server=False, ssr_mode=False, pwa=False, footer_links=["settings"],
        allowed_paths=[], blocked_paths=[str(parts.shelf.root.resolve()), hub], max_file_size="5mb", theme=theme(),
        css_paths=[ASSETS / "studio.css", *sorted(p for p in ASSETS.glob("*.css") if p.name != "studio.css")],
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )  # fmt: skip


def theme() -> gr.themes.Base:
    """Gradio's own parts (tabs, footer) in the Studio's colours, with fonts that come with Gradio.

    Regular and bold: the semi-bold file that Gradio 6.31 brings lacks most letters.
    """
    sans = (gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif")
    mono = (gr.themes.LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace")
    base = gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=sans, font_mono=mono)
    return base.set(
        body_background_fill="#f6f6f3",
        body_background_fill_dark="#111319",
        color_accent="#3450c8",
        body_text_size="1rem",
    )
