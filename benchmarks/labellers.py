"""Forty simulated labellers, one vote a second each, against a labelling server in a process of its own.

    python -m benchmarks.labellers [--seconds 120] [--people 40] [--busy] [--store URL]

Measured: milliseconds from sending a vote to hearing that it is on the disk (with the next pair in the same answer);
votes that were acknowledged and are not in the store (lost), and votes of one person on one pair that are there twice
(doubled). Without gold pairs, no pair may have more votes than the overlap of 3.

`--busy` trains a model on every core meanwhile, as a workshop does. One vote in ten is sent twice, as on a bad network.
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx

from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item, Rules
from lab.records import Comparison

ROOT = Path(__file__).resolve().parent.parent
ANSWER = "The water boils when the bubbles are large. " * 12
BUSY = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(768, 3072), torch.nn.GELU(), torch.nn.Linear(3072, 768))
optimizer = torch.optim.AdamW(model.parameters())
print("training", flush=True)
while True:
    rows = torch.randn(256, 768)
    loss = (model(rows) - rows).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


class Heard(NamedTuple):
    """A vote that was acknowledged, after so many milliseconds."""

    annotator: str
    item: str
    ms: float


def fill(where: str, pairs: int) -> None:
    """A store with enough pairs for everybody."""
    with Store.open(where, rules=Rules(overlap=3)) as store:
        store.add(Item(Comparison(f"question {i}", f"{ANSWER}{i} a", f"{ANSWER}{i} b"), uncertainty=float(i % 97))
                  for i in range(pairs))  # fmt: skip


@contextmanager
def process(*arguments: str, until: str) -> Iterator[str]:
    """A process of this Python, from the line that holds `until` on; ended afterwards."""
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    line = next((line for line in child.stdout if until in line), "")
    if not line:
        raise RuntimeError(f"{' '.join(arguments)[:80]} ended before it was ready")
    try:
        yield line
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(5)
        child.kill()
        child.wait()


async def labeller(address: str, number: int, started: asyncio.Event, seconds: float, heard: list[Heard]) -> None:
    """One person: logs in, waits for the others, judges one pair a second."""
    name = f"labeller {number}"
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        (await client.post("/login", json={"name": name, "pin": "2718"})).raise_for_status()
        pair = (await client.get("/next")).json()["next"]
        await started.wait()
        await asyncio.sleep(number / 40)
        begun, votes = time.monotonic(), 0
        while pair is not None and time.monotonic() - begun < seconds:
            body = {"item": pair["item"], "key": pair["key"], "strength": (votes % 5) - 2, "ms": 900}
            again = [client.post("/vote", json=body)] if votes % 10 == 9 else []
            sent = time.perf_counter()
            answer, *_ = await asyncio.gather(client.post("/vote", json=body), *again)
            answer.raise_for_status()
            heard.append(Heard(name, pair["item"], 1000 * (time.perf_counter() - sent)))
            pair, votes = answer.json()["next"], votes + 1
            await asyncio.sleep(max(0.0, begun + votes - time.monotonic()))


async def room(address: str, people: int, seconds: float) -> list[Heard]:
    """Everybody at once."""
    heard: list[Heard] = []
    started = asyncio.Event()
    tasks = [asyncio.create_task(labeller(address, n, started, seconds, heard)) for n in range(people)]
    await asyncio.sleep(3 + people * 0.1)  # logging in is slow on purpose
    started.set()
    await asyncio.gather(*tasks)
    return heard


def measure(seconds: float = 120, people: int = 40, busy: bool = False, where: str = "") -> dict[str, Any]:
    """The figures: acknowledgement in ms (p50, p95, greatest), votes, lost and doubled rows, most votes of a pair."""
    with tempfile.TemporaryDirectory() as folder:
        where = where or str(Path(folder) / "labels.sqlite")
        fill(where, int(people * (seconds + 10) / 2) + 50)
        with process("-m", "lab", "label", "serve", "--port", "0", "--store", where, until="http") as line:
            address = line.split("at ")[1].split(";")[0]
            if busy:
                with process("-c", BUSY, until="training"):
                    heard = asyncio.run(room(address, people, seconds))
            else:
                heard = asyncio.run(room(address, people, seconds))
        with Store.open(where, create=False) as store:
            stored = Counter((e.annotator, e.item) for e in store.events() if e.kind == "vote" and not e.repeat)
            every = Counter((e.annotator, e.item, e.repeat) for e in store.events() if e.kind == "vote")
            overlap = Counter(v.item for v in store.state().votes())
    times = sorted(h.ms for h in heard)
    acknowledged = Counter((h.annotator, h.item) for h in heard)
    return {"people": people, "seconds": seconds, "busy": busy, "cores": os.cpu_count(), "votes": len(heard),
            "p50_ms": round(times[len(times) // 2], 1), "p95_ms": round(times[int(0.95 * len(times))], 1),
            "max_ms": round(times[-1], 1), "lost": len(acknowledged.keys() - stored.keys()),
            "doubled": sum(n - 1 for n in every.values()), "most_votes_of_a_pair": max(overlap.values())}  # fmt: skip


@click.command()
@click.option("--seconds", default=120.0, show_default=True, help="how long everybody votes")
@click.option("--people", default=40, show_default=True, help="how many there are")
@click.option("--busy", is_flag=True, help="train a model beside it")
@click.option("--store", "where", default="", help="a store to fill and use (default: a file of its own)")
def main(seconds: float, people: int, busy: bool, where: str) -> None:
    """Prints the figures as one JSON object."""
    click.echo(json.dumps(measure(seconds, people, busy, where)))


if __name__ == "__main__":
    main()
