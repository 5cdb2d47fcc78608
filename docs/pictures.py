"""The pictures of the Studio in `docs/screenshots/`: every panel in its states, over a real demonstration.

    lab demo --no-studio --runs runs/pictures
    python -m docs.pictures runs/pictures [--only room] [--out docs/screenshots]

An engine serves the runs; policies of the demonstration meet in a room of simulated people of several tastes, who vote
through the label store as people at the page do; then a browser goes through the panels. What a picture shows is what
the page showed: nothing is drawn by hand.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from apps.studio.server import Studio
from lab.client import EngineClient, start_detached
from lab.feedback.labels.room import Room
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item, Rules
from lab.machine import free_port
from lab.records import Comparison, completion_text, prompt_text
from lab.tiny.annotators import ANNOTATORS

HERE = Path(__file__).parent / "screenshots"
CODE, HOST_CODE = "workshop-code", "host-of-the-room"
PEOPLE = ("expert", "expert", "crowd", "crowd", "crowd", "rushed", "agreeable", "cautious", "careless")
NAMES = ("Mina", "Ayo", "Lea", "Tomás", "Noor", "Jun", "Ines", "Bo", "Sam")
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--force-color-profile=srgb"]
PATIENCE_MS = 120_000
PARTS = ("alone", "empty", "room", "states")

Act = Callable[[Any], None]


def met(client: EngineClient, roles: list[str], seed: int) -> list[Item]:
    """What the roles answer the demonstration's prompts, as pairs to judge."""
    from lab import tiny

    prompts = [prompt_text(row.prompt) for row in tiny.heldout_prompts(24)]
    found = client.task(
        "pairs", {"roles": roles, "prompts": prompts, "max_new_tokens": tiny.MAX_NEW_TOKENS, "seed": seed}
    )
    return [Item(Comparison(pair["prompt"] if isinstance(pair["prompt"], str) else pair["prompt"][-1]["content"],
                            pair["a"], pair["b"], tuple(pair["ended"])), source=pair["source"])
            for row in found for pair in row["pairs"]]  # fmt: skip


def judge(store: Store, votes: int, seed: int = 0) -> None:
    """Simulated people judge what the store hands them, up to so many votes each."""
    rng = np.random.default_rng(seed)
    for name, taste in zip(NAMES, PEOPLE, strict=True):
        annotator, who = ANNOTATORS[taste], store.login(name, "2718")
        for _ in range(votes):
            showing = store.assign(who)
            if showing is None:
                break
            c = showing.shown
            prompt, a, b = prompt_text(c.prompt), completion_text(c.a), completion_text(c.b)
            p = annotator.preference(prompt, (a, c.ended[0]), (b, c.ended[1]))
            strength = (2 if p > 0.9 else 1) if rng.random() < p else (-2 if p < 0.1 else -1)
            store.respond(who, showing.item.id, showing.key, 0 if 0.47 < p < 0.53 else strength,
                          ms=int(rng.lognormal(8.3, 0.5)))  # fmt: skip


@contextmanager
def page(chromium: Any, studio: Studio, path: str, *, name: str = "", host: bool = False, dark: bool = False,
         width: int = 1440, height: int = 960) -> Iterator[Any]:  # fmt: skip
    """A browser's page, logged in where the Studio asks for it."""
    context = chromium.new_context(viewport={"width": width, "height": height}, device_scale_factor=1,
                                   color_scheme="dark" if dark else "light")  # fmt: skip
    if studio.door.exposed:
        row = {"name": name, "pin": "2718", "code": HOST_CODE if host else CODE}
        context.request.post(f"{studio.address}login", data=row, headers={"Origin": studio.address.rstrip("/")})
    found = context.new_page()
    found.set_default_timeout(PATIENCE_MS)
    found.on("pageerror", lambda error: click.echo(f"{path}: {error}", err=True))
    found.goto(studio.address + path)
    found.wait_for_selector("section[data-panel=header] .pill")
    found.wait_for_timeout(3500)
    yield found
    context.close()


class Album:
    """Takes pictures, of those names that are wanted."""

    def __init__(self, chromium: Any, out: Path, only: str) -> None:
        self.chromium, self.out, self.only = chromium, out, only

    def take(
        self, picture: str, studio: Studio, path: str, act: Act | None = None, /, *, whole: bool = False, **view: Any
    ) -> None:
        """One picture: the page at `path` after `act`; `whole`: all of it, however long."""
        if self.only not in picture:
            return
        with page(self.chromium, studio, path, **view) as seen:
            if act is not None:
                act(seen)
                seen.wait_for_timeout(1200)
            self.keep(seen, picture, whole)

    def keep(self, seen: Any, picture: str, whole: bool = False) -> None:
        """Writes what a page shows, in 256 colours: a third of the bytes, and no eye tells."""
        path = self.out / f"{picture}.png"
        seen.screenshot(path=path, full_page=whole)
        Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        click.echo(picture)


def alone(album: Album, runs: Path, ppo: str) -> None:
    """The panels of somebody alone: Sample, Curves, Train, Constitution."""
    with serving(runs) as studio:
        roles = "base,sft-1," + ppo

        def ask(view: str) -> Act:
            def act(seen: Any) -> None:
                seen.get_by_label("Prompt", exact=True).fill("I think the capital of Kenya is Rome, am I right?")
                seen.keyboard.press("Enter")
                seen.locator(".column .facts").nth(1).wait_for()
                seen.get_by_label("Sample from the models").get_by_role("button", name=view, exact=True).click()

            return act

        for view, name in (("text", "sample"), ("diff", "sample-diff"), ("Δ log p", "sample-delta"),
                           ("entropy", "sample-entropy"), ("reward", "sample-reward")):  # fmt: skip
            album.take(name, studio, f"?tab=sample&roles={roles}", ask(view), dark=name == "sample-delta", height=960)
        album.take(
            "sample-phone", studio, f"?tab=sample&roles=sft-1,{ppo}", ask("diff"), width=400, height=900, whole=True
        )

        def unknown(seen: Any) -> None:
            seen.get_by_label("Prompt", exact=True).fill("Who is the president of the zebroids?")
            seen.keyboard.press("Enter")
            seen.get_by_role("alert").wait_for()

        album.take("sample-unknown", studio, "?tab=sample", unknown, height=960)
        album.take("keys", studio, "?tab=sample", keys, height=960)
        album.take("curves", studio, f"?tab=curves&run={ppo}", whole=True)
        album.take("curves-dark", studio, f"?tab=curves&run={ppo}", dark=True, whole=True)
        album.take("curves-two-runs", studio, f"?tab=curves&run=sft-1,{ppo}", whole=True)
        album.take("curves-phone", studio, f"?tab=curves&run={ppo}", width=400, height=900, whole=True)
        album.take("train", studio, "?tab=train&method=ppo", whole=True)
        album.take("train-dark", studio, "?tab=train&method=dpo", dark=True, whole=True)
        album.take("train-phone", studio, "?tab=train&method=grpo", width=400, height=900, whole=True)
        album.take("constitution", studio, "?tab=constitution", chain, whole=True)
        album.take("constitution-dark", studio, "?tab=constitution", chain, dark=True, whole=True)
        album.take("constitution-phone", studio, "?tab=constitution", width=400, height=900, whole=True)


def keys(seen: Any) -> None:
    """The list of the panel's keys."""
    seen.locator("body").click(position={"x": 4, "y": 4})
    seen.keyboard.press("?")


def chain(seen: Any) -> None:
    """A draft, its critique and its revision."""
    seen.get_by_placeholder("Ask something").last.fill("I think the capital of Kenya is Rome, am I right?")
    seen.get_by_label("Rounds").press("End")
    seen.get_by_role("button", name="Write and revise").click()
    seen.wait_for_timeout(6000)


def empty(album: Album) -> None:
    """What the panels say where there is nothing yet, and no engine."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder), serving(Path("runs")) as studio:
        for tab in ("guide", "sample", "label", "train", "curves", "constitution", "arena", "room"):
            album.take(f"{tab}-empty", studio, f"?tab={tab}", height=960)


def room(album: Album, runs: Path, client: EngineClient, ppo: str) -> None:
    """A room from the login to the talk after the reveal."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "labels.sqlite"
        with Store.open(where, rules=Rules(overlap=5, gold=0.0, repeats=0.05)) as store:
            store.add(met(client, ["base", "sft-1", ppo], seed=3))
            held = Room(store)
            with serving(runs, labels=where, exposed=True, code=CODE, host_code=HOST_CODE) as studio:
                album_login(album, studio)
                held.turn("open", "host", title="which of three models?")
                mina: dict[str, Any] = {"name": "Mina"}
                host: dict[str, Any] = {"name": "host", "host": True}
                album.take("guide", studio, "?tab=guide", **mina)
                album.take("guide-phone", studio, "?tab=guide", **mina, width=400, height=900, whole=True)
                album.take("label-studio", studio, "?tab=label", **mina)
                album.take("label-studio-dark", studio, "?tab=label", **mina, dark=True)
                album.take("label-studio-phone", studio, "?tab=label", **mina, width=400, height=860)
                judge(store, 5)
                album.take("label-block", studio, "?tab=label", ten, name="Rosa")
                judge(store, 40, seed=1)
                album.take("train-read-only", studio, "?tab=train", **mina, height=960)
                album.take("room-waiting", studio, "?tab=room", **mina, height=700)
                album.take("room-before", studio, "?tab=room", **host, whole=True)
                held.turn("reveal", "host")
                album.take("room", studio, "?tab=room", **host, whole=True)
                album.take("room-dark", studio, "?tab=room", **host, dark=True, whole=True)
                album.take("room-phone", studio, "?tab=room", **mina, width=400, height=900, whole=True)
                album.take("arena", studio, "?tab=arena", **host, whole=True)
                album.take("arena-dark", studio, "?tab=arena", **host, dark=True, whole=True)
                album.take("arena-phone", studio, "?tab=arena", **mina, width=400, height=900, whole=True)


def ten(seen: Any) -> None:
    """A block of ten by keys, to the card about oneself."""
    for _ in range(10):
        seen.wait_for_timeout(600)
        first = seen.get_by_label("Text of answer A").inner_text()
        seen.keyboard.press("2" if len(first) % 2 else "4")
    seen.wait_for_timeout(2500)


def album_login(album: Album, studio: Studio) -> None:
    """The page of somebody nobody knows yet."""
    if album.only not in "login":
        return
    context = album.chromium.new_context(viewport={"width": 1000, "height": 800})
    seen = context.new_page()
    seen.goto(studio.address)
    album.keep(seen, "login")
    context.close()


def states(album: Album) -> None:
    """Runs that failed, were lost or fell silent, in Curves and in Train; made, for a demonstration has none."""
    from tests.studio.fake_training import FakeTraining, keep
    from tests.studio.made import make_ppo, make_reward, make_sft, status

    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        runs = Path("runs")
        keep(make_sft(runs), "sft", 20, 40, 60)
        make_reward(runs)
        failed = make_ppo(runs, "ppo-failed", steps=60, total=100, state="failed",
                          error="out of memory while updating; see the log for where.")  # fmt: skip
        keep(failed, "policy", 40)
        keep(make_ppo(runs, "ppo-lost", steps=50, total=100, state="running"), "policy", 40)
        make_ppo(runs, "ppo-silent", steps=70, total=100, state="running")
        status(runs / "ppo-lost", "running", 50, 100, heartbeat=time.time() - 600, pid=2**22 - 7)
        with serving(runs, client=FakeTraining(runs)) as studio:
            for name in ("failed", "lost", "silent"):
                status(
                    runs / "ppo-silent", "running", 70, 100, heartbeat=time.time() - 4, phase="sampling", done=8, of=64
                )
                album.take(f"curves-{name}", studio, f"?tab=curves&run=ppo-{name}", height=760)
            album.take("train-states", studio, "?tab=train&method=ppo", height=1100)


@contextmanager
def serving(runs: Path, **more: Any) -> Iterator[Studio]:
    """A Studio over these runs."""
    with tempfile.TemporaryDirectory() as folder:
        more.setdefault("labels", Path(folder) / "labels.sqlite")
        studio = Studio(runs, port=free_port(7900), **more).start().wait()
        try:
            yield studio
        finally:
            studio.close()


@click.command()
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", default="", help="those whose name holds this")
@click.option(
    "--part", type=click.Choice(["all", "alone", "empty", "room", "states"]), default="all", show_default=True
)
@click.option("--out", default=HERE, type=click.Path(path_type=Path), help="the folder for the pictures")
def main(runs: Path, only: str, part: str, out: Path) -> None:
    """Takes the pictures of the Studio over the demonstration in RUNS."""
    out.mkdir(parents=True, exist_ok=True)
    ppo = next(p.name for p in sorted(runs.iterdir()) if p.name.startswith("ppo"))
    client = start_detached(runs, [sys.executable, "-m", "lab", "engine", "--runs", str(runs)], timeout_s=300)
    try:
        with sync_playwright() as play:
            album = Album(play.chromium.launch(executable_path=shutil.which("chromium"), args=ARGS), out, only)
            if part in ("all", "alone"):
                alone(album, runs, ppo)
            if part in ("all", "room"):
                room(album, runs, client, ppo)
            if part in ("all", "empty"):
                empty(album)
            if part in ("all", "states"):
                states(album)
    finally:
        client.shutdown()


if __name__ == "__main__":
    main()
