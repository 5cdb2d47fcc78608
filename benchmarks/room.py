"""Forty simulated people in a Studio room, beside a run that trains: does everybody's vote arrive, and how fast?

    python -m benchmarks.room [--seconds 120] [--people 40] [--pause 3] [--quiet]

Everybody logs in with the workshop's code, has the Label panel open and votes every `--pause` seconds; what the page
asks by itself is asked too: where the room is every 2 s, what the engine does every 3 s. One vote in ten is sent twice,
as on a bad network. The host watches the Room panel. Meanwhile the tiny world's whole path is trained in another
process over the same runs (`--quiet`: not).

Measured: milliseconds from sending a vote to hearing that it is on the disk, with the next pair in the same answer;
votes that were acknowledged and are not in the store (lost), or are there twice (doubled).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx

from benchmarks.labellers import ROOT, Heard, fill, process
from lab.feedback.labels.store import Store
from lab.machine import free_port

CODE, HOST_CODE = "workshop-code", "host-of-the-room"


class Seat(NamedTuple):
    """Somebody at the page: a client that has logged in, and the page's panels by name."""

    client: httpx.AsyncClient
    panels: dict[str, int]

    async def ask(self, panel: str, function: str, ask: dict[str, Any] | None = None) -> dict[str, Any]:
        """Asks a function of a panel as its script does."""
        body = {"component_id": self.panels[panel], "fn_name": function, "data": ask or {}, "session_hash": "bench"}
        answer = await self.client.post("/gradio_api/component_server", json=body)
        answer.raise_for_status()
        return answer.json()


async def seat(address: str, name: str, code: str = CODE) -> Seat:
    """Logs in, and reads which component is which panel."""
    client = httpx.AsyncClient(base_url=address, timeout=120, headers={"origin": address.rstrip("/")})
    (await client.post("/login", json={"name": name, "pin": "2718", "code": code})).raise_for_status()
    config = (await client.get("/config")).json()
    return Seat(client, {part.split('"')[0]: c["id"] for c in config["components"] for part in
                         str(c["props"].get("html_template") or "").split('data-panel="')[1:]})  # fmt: skip


async def every(seconds: float, until: float, seat: Seat, panel: str, function: str) -> None:
    """What a page asks by itself."""
    while time.monotonic() < until:
        await seat.ask(panel, function)
        await asyncio.sleep(seconds)


async def votes(seat: Seat, name: str, until: float, pause: float, heard: list[Heard]) -> None:
    """One person's votes."""
    pair = (await seat.ask("label", "place"))["next"]
    n = 0
    while pair is not None and time.monotonic() < until:
        body = {"item": pair["item"], "key": pair["key"], "strength": (n % 5) - 2, "ms": 2900}
        again = [seat.ask("label", "vote", body)] if n % 10 == 9 else []
        sent = time.perf_counter()
        answer, *_ = await asyncio.gather(seat.ask("label", "vote", body), *again)
        if answer.get("saved"):
            heard.append(Heard(name, pair["item"], 1000 * (time.perf_counter() - sent)))
        pair, n = answer["next"], n + 1
        await asyncio.sleep(pause)


async def room(address: str, people: int, seconds: float, pause: float) -> list[Heard]:
    """Everybody at once, and the host who watches."""
    heard: list[Heard] = []
    seats = [await seat(address, f"person {n}") for n in range(people)]
    host = await seat(address, "host", HOST_CODE)
    until = time.monotonic() + seconds

    async def person(n: int) -> None:
        await asyncio.sleep(pause * n / people)
        await asyncio.gather(votes(seats[n], f"person {n}", until, pause, heard),
                             every(2, until, seats[n], "label", "look"),
                             every(3, until, seats[n], "header", "engine"))  # fmt: skip

    await asyncio.gather(*map(person, range(people)), every(2, until, host, "room", "poll"))
    for s in (*seats, host):
        await s.client.aclose()
    return heard


def measure(seconds: float, people: int, pause: float, quiet: bool) -> dict[str, Any]:
    """The figures of a room."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        runs, where = Path(folder) / "runs", str(Path(folder) / "labels.sqlite")
        fill(where, int(people * (seconds / pause + 3) / 2) + 60)
        if not quiet:
            log = running.enter_context(open(Path(folder) / "demo.log", "wb"))
            path = [sys.executable, "-m", "lab", "demo", "--no-studio", "--runs", str(runs)]
            trains = subprocess.Popen(path, cwd=ROOT, stdout=log, stderr=log)
            running.callback(trains.wait)
            running.callback(trains.kill)
        port = free_port(7861)
        serve = ("-m", "apps.studio", "--runs", str(runs), "--labels", where, "--expose", "--code", CODE, "--host-code",
                 HOST_CODE, "--host", "127.0.0.1", "--port", str(port))  # fmt: skip
        running.enter_context(process(*serve, until="Studio:"))
        address = f"http://127.0.0.1:{port}/"
        _wait_for(address)
        heard = asyncio.run(room(address, people, seconds, pause))
        trained = quiet or trains.poll() is None
        with Store.open(where, create=False) as store:
            stored = Counter((e.annotator, e.item) for e in store.events() if e.kind == "vote" and not e.repeat)
            twice = Counter((e.annotator, e.item, e.repeat) for e in store.events() if e.kind == "vote")
    times = sorted(h.ms for h in heard)
    acknowledged = Counter((h.annotator, h.item) for h in heard)
    return {"people": people, "seconds": seconds, "pause_s": pause, "training_beside": not quiet,
            "training_lasted": trained, "cores": os.cpu_count(), "votes": len(heard),
            "p50_ms": round(times[len(times) // 2], 1), "p95_ms": round(times[int(0.95 * len(times))], 1),
            "max_ms": round(times[-1], 1), "lost": len(acknowledged.keys() - stored.keys()),
            "doubled": sum(n - 1 for n in twice.values()), "load": round(os.getloadavg()[0], 1)}  # fmt: skip


def _wait_for(address: str) -> None:
    """Until the page is there behind the login."""
    deadline = time.monotonic() + 120
    with httpx.Client(base_url=address, timeout=60, headers={"origin": address.rstrip("/")}) as client:
        client.post("/login", json={"name": "door", "pin": "2718", "code": CODE}).raise_for_status()
        while not client.get("/ready").json()["ready"]:
            if time.monotonic() > deadline:
                raise RuntimeError("the Studio's page was not there after two minutes")
            time.sleep(0.2)


@click.command()
@click.option("--seconds", default=120.0, show_default=True, help="how long everybody votes")
@click.option("--people", default=40, show_default=True, help="how many there are")
@click.option("--pause", default=3.0, show_default=True, help="seconds between two votes of one person")
@click.option("--quiet", is_flag=True, help="train nothing beside it")
def main(seconds: float, people: int, pause: float, quiet: bool) -> None:
    """Prints the figures as one JSON object."""
    click.echo(json.dumps(measure(seconds, people, pause, quiet)))


if __name__ == "__main__":
    main()
