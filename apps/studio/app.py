"""The Studio's page and its server: `python -m apps.studio --runs runs --port 7860`."""

from __future__ import annotations

import os

# Gradio reads these when it is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")

import errno
import socket
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from apps.studio import curves, sample, train
from apps.studio.components import ASSETS, MOUNT, guarded, panel, plotly_script
from apps.studio.link import Client, Link
from apps.studio.shelf import Shelf

SCRIPTS = ("common.js", "header.js", "curves.js", "sample.js", "train.js")


class StudioError(RuntimeError):
    """The Studio cannot start: one sentence with the cause and what to do."""


def build(root: Path | str, client: Client | None = None) -> gr.Blocks:
    """The page over the runs in `root`. `client` stands for the engine (None: the one that serves `root`, if any)."""
    shelf, link = Shelf(root), Link(root, client)
    with gr.Blocks(title="rlhf-lab Studio", fill_width=True, analytics_enabled=False) as blocks:
        panel("header", "Studio", [guarded(Header(link).engine)])
        with gr.Tabs() as tabs:
            with gr.Tab("Sample", id="sample"):
                sample.build(link, examples())
            with gr.Tab("Train", id="train"):
                train.build(shelf, link)
            with gr.Tab("Curves", id="curves"):
                curves.build(shelf, link)

        def opening(request: gr.Request) -> Any:
            return gr.Tabs(selected=opening_tab(dict(request.query_params), shelf))

        blocks.load(opening, None, tabs, show_progress="hidden", api_visibility="private")
    blocks.queue(default_concurrency_limit=None, max_size=64)
    return blocks


def opening_tab(query: dict[str, str], shelf: Shelf) -> str:
    """The tab an address means: the one it names, Curves where it names a run, else where there is something."""
    if query.get("tab") in ("sample", "train", "curves"):
        return query["tab"]
    return "curves" if "run" in query or shelf.list() else "sample"


class Header:
    """The strip at the top."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def engine(self, _ask: dict[str, Any]) -> dict[str, Any]:
        """What the engine does, in two words."""
        reason = self.link.reason()
        if reason:
            return {"dot": "", "text": "no engine", "more": reason}
        playing = self.link.playing()
        return {"dot": "running", "text": f"playing {', '.join(playing)}" if playing else "engine ready", "more": ""}


def examples() -> tuple[str, ...]:
    """Prompts to begin with: a few of the tiny world's."""
    from lab.tiny import PROBES

    return PROBES[:6]


def settings(root: Path | str) -> dict[str, Any]:
    """The arguments of `launch`: nothing leaves the machine, nothing is kept, no file can be asked for by its path."""
    routes = [Route(f"/{MOUNT}/{name}", _asset) for name in (*SCRIPTS, "plotly.min.js")]
    hub = os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    return {
        "share": False,
        "strict_cors": True,
        "show_error": False,
        "run_history": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "ssr_mode": False,
        "pwa": False,
        "footer_links": ["settings"],
        "allowed_paths": [],
        "blocked_paths": [str(Path(root).resolve()), hub],
        "max_file_size": "5mb",
        "max_threads": 80,
        "state_session_capacity": 200,
        "quiet": True,
        "theme": theme(),
        "css_paths": [ASSETS / "studio.css"],
        "app_kwargs": {"routes": routes, "docs_url": None, "redoc_url": None, "openapi_url": None},
    }


async def _asset(request: Request) -> Response:
    name = request.url.path.rsplit("/", 1)[-1]
    path = plotly_script() if name == "plotly.min.js" else ASSETS / name
    return FileResponse(path, media_type="text/javascript", headers={"Cache-Control": "public, max-age=31536000"})


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


def serve(
    root: Path | str, host: str = "127.0.0.1", port: int = 7860, client: Client | None = None, wait: bool = True
) -> gr.Blocks:
    """Serves the Studio until it is interrupted (at once back unless `wait`). Raises StudioError on a taken port."""
    refuse_taken_port(host, port)
    blocks = build(root, client)
    blocks.launch(server_name=host, server_port=port, prevent_thread_lock=True, **settings(root))
    if wait:
        print(f"Studio: http://{host}:{port}  (runs in {root}; stop with Ctrl+C)", flush=True)
        blocks.block_thread()
    return blocks


def refuse_taken_port(host: str, port: int) -> None:
    """Raises StudioError, in one sentence, when nobody can listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StudioError(
                    f"Port {port} is in use, perhaps by another Studio: open http://{host}:{port}, or "
                    f"choose another port with --port {port + 1}."
                ) from error
            raise StudioError(f"The Studio cannot listen on {host}:{port}: {error.strerror}.") from error
