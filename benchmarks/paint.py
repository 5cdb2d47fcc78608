"""How long until the Studio can be seen: from the start of its process to the first paint, and to the whole page.

    python -m benchmarks.paint [--turns 5]

A browser that is open already goes to the address as soon as somebody listens there. The first paint is the browser's
own `first-contentful-paint` of the page with the runs; the whole page is there when its header says what the engine
does. The median over the turns, in seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from playwright.sync_api import sync_playwright

from benchmarks.labellers import process
from lab.machine import free_port

ARGS = ["--headless", "--no-sandbox", "--disable-gpu"]


def turn(chromium: Any, root: Path, port: int) -> tuple[float, float]:
    """Seconds to the first paint and to the whole page."""
    page = chromium.new_page()
    began = time.time()
    serve = ("-m", "apps.studio", "--runs", str(root), "--labels", str(root / "labels.sqlite"), "--port", str(port))
    with process(*serve, until="Studio:"):
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.01)
        page.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
        paint = page.evaluate("""() => new Promise((seen) => {
            const said = (list) => list.filter((e) => e.name === 'first-contentful-paint').map((e) => performance.timeOrigin + e.startTime)[0];
            const now = said(performance.getEntriesByType('paint'));
            if (now) { seen(now); return; }
            new PerformanceObserver((all) => { const at = said(all.getEntries()); if (at) seen(at); }).observe({ type: 'paint', buffered: true });
        })""")  # noqa: E501
        page.wait_for_selector("section[data-panel=header] .pill", timeout=120_000)
        whole = time.time()
    page.close()
    return paint / 1000 - began, whole - began


@click.command()
@click.option("--turns", default=5, show_default=True, help="how often")
def main(turns: int) -> None:
    """Prints the figures as one JSON object."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=ARGS)
        seen = [turn(chromium, Path(folder), free_port(7870 + n)) for n in range(turns)]
        chromium.close()
    paint, whole = (statistics.median(column) for column in zip(*seen, strict=True))
    click.echo(json.dumps({"first_paint_s": round(paint, 2), "whole_page_s": round(whole, 2), "turns": turns,
                           "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}))  # fmt: skip


if __name__ == "__main__":
    main()
