"""A Studio over made runs, and a real Chromium to look at it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from .fake import FakeEngine

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update"]  # fmt: skip


PATIENCE_MS = 120_000
"""Longest wait for anything to show up, on a machine that may be very busy."""


@pytest.fixture
def engine() -> FakeEngine:
    """The engine behind the Studio of this test."""
    return FakeEngine()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of runs of this test, empty at first."""
    path = tmp_path / "runs"
    path.mkdir()
    return path


@pytest.fixture
def address(root: Path, engine: FakeEngine) -> Iterator[str]:
    """The address of a Studio that serves `root`."""
    from apps.studio.server import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    studio = serve(root, port=port, client=engine, labels=root.parent / "labels.sqlite", wait=False)
    yield f"http://127.0.0.1:{port}/"
    studio.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium with a fresh profile. While it is open, no other test of this thread can run an event loop."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the Studio. Afterwards: nothing was asked of another machine, nothing was complained about, nothing ran."""
    contexts, requests, complaints = [], [], []

    def open_page(query: str = "", width: int = 1280, height: int = 900, clock: int = 0, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.on("request", lambda r: requests.append(r.url))
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        if clock:  # the year that the browser believes in; time still passes
            page.clock.install(time=datetime(clock, 6, 1))
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.goto(address + query)
        page.wait_for_selector("section[data-panel=header] .pill")
        return page

    open_page.requests = requests  # type: ignore[attr-defined]
    open_page.complaints = complaints  # type: ignore[attr-defined]
    yield open_page
    ran = [page.evaluate("window.__xss") for c in contexts for page in c.pages]
    for context in contexts:
        context.close()
    assert ran == [None] * len(ran), "text from a model ran in the page"
    assert [u for u in requests if not u.startswith((address, "data:", "blob:"))] == []
    assert complaints == []
