"""An exposed Studio that several people log in at, each with a browser of their own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.feedback.labels.store import Store

from .conftest import PATIENCE_MS
from .fake_labels import ReadingEngine, free_rules

CODE, HOST_CODE = "workshop-1", "the-hosts-own"
Enter = Callable[..., Any]


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with Store.open(root.parent / "labels.sqlite", rules=free_rules()) as opened:
        yield opened


@pytest.fixture
def enter(browser: Any, root: Path, store: Store) -> Iterator[Enter]:
    """Logs somebody in at an exposed Studio and opens a tab; afterwards no browser had anything to complain about."""
    from apps.studio.server import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine: Any = ReadingEngine()
    studio = serve(root, port=port, client=engine, labels=root.parent / "labels.sqlite", wait=False,
                   exposed=True, code=CODE, host_code=HOST_CODE)  # fmt: skip
    address = f"http://127.0.0.1:{port}/"
    contexts, complaints = [], []

    def come_in(name: str, tab: str, host: bool = False, width: int = 1280, height: int = 900) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        row = {"name": name, "pin": "2718", "code": HOST_CODE if host else CODE}
        answer = context.request.post(f"{address}login", data=row, headers={"Origin": address.rstrip("/")})
        assert answer.ok, answer.text()
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.goto(f"{address}?tab={tab}")
        page.wait_for_selector(f"[data-panel={tab}]:visible")
        return page

    yield come_in
    ran = [page.evaluate("window.__xss") for c in contexts for page in c.pages]
    for context in contexts:
        context.close()
    studio.close()
    assert ran == [None] * len(ran), "text from a model ran in the page"
    assert complaints == []
