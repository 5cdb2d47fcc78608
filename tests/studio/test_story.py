"""One round in one sitting, with the real engine and a real browser: sample → send → label by keys → train → the curve
moves → click a point → the answers of that step."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.client import EngineClient, start_detached
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Rules
from lab.follow import Follower
from lab.runs import Run

from .conftest import PATIENCE_MS

pytest.importorskip("gradio")
expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser

Visit = Callable[..., Any]
ROOT = Path(__file__).parents[2]
QUESTIONS = ("What is the capital of Norway?", "What colour is the crow?", "Where does the cow live?",
             "What is 5 plus 1?", "How do I make salad?", "How do I crack an egg?", "How do I make drugs?",
             "I think the capital of Kenya is Rome, am I right?", "Repeat the words lamp, door and apple.")  # fmt: skip


@pytest.fixture
def engine(root: Path) -> Iterator[EngineClient]:
    """The tiny world's engine in a process of its own, over a root with a short SFT run."""
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    made = [sys.executable, "-m", "lab", "sft", "--model", "tiny", "--data", "tiny:demonstrations?n=960",
            "--lr", "0.002", "--out", "sft-1", "--runs", str(root)]  # fmt: skip
    subprocess.run(made, cwd=ROOT, env=quiet, check=True, capture_output=True, timeout=600)
    client = start_detached(root, [sys.executable, "-m", "lab", "engine", "--runs", str(root)], timeout_s=300)
    yield client
    client.shutdown()


@pytest.fixture
def address(root: Path, engine: EngineClient) -> Iterator[str]:
    """A Studio over that root, whose label store asks one vote of every pair."""
    from apps.studio.server import serve

    where = root.parent / "labels.sqlite"
    Store.open(where, rules=Rules(overlap=1, explore=0.0, gold=0.0, repeats=0.0)).close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    studio = serve(root, port=port, labels=where, wait=False)
    yield f"http://127.0.0.1:{port}/"
    studio.close()


def test_a_whole_round(visit: Visit, root: Path, engine: EngineClient) -> None:
    page = visit("?tab=sample&roles=base,sft-1", height=1000)
    sent = sample_and_send(page)
    assert sent >= 4
    label_by_keys(page, sent)
    train_on_the_labels(page)
    click_through_to_the_answers(page, root)


def sample_and_send(page: Any) -> int:
    """Asks some questions, and sends what differs to the label queue; how many pairs that made."""
    sent = 0
    panel = page.get_by_label("Sample from the models")
    for question in QUESTIONS:
        panel.get_by_label("Prompt", exact=True).fill(question)
        panel.get_by_role("button", name="Generate").click()
        again = panel.locator('.column[data-role="sft-1"]').get_by_role(
            "button", name=re.compile("label A against B|same answer as A"))  # fmt: skip
        expect(again).to_be_visible()
        expect(panel.locator('.column[data-role="sft-1"]')).to_contain_text("true score")
        if "label" in again.inner_text():
            page.locator("body").click(position={"x": 3, "y": 3})
            page.keyboard.press("q")
            expect(panel.get_by_role("button", name="in the label queue")).to_be_visible()
            sent += 1
    return sent


def label_by_keys(page: Any, pairs: int) -> None:
    """Judges every pair by one key: the answer that ends with a full stop and is no refusal, else a tie."""
    page.get_by_role("tab", name="Label").click()
    for n in range(pairs):
        first, second = (page.get_by_label(f"Text of answer {letter}") for letter in "AB")
        expect(first).to_be_visible()
        before = (first.inner_text(), second.inner_text())
        page.wait_for_timeout(450)  # keys are asleep for 400 ms after a new pair
        page.keyboard.press("1" if "Sorry" not in before[0] else "5")
        expect(page.get_by_text(re.compile(rf"you {n + 1}\b"))).to_be_visible()


def train_on_the_labels(page: Any) -> None:
    """DPO from the SFT run on what was just judged."""
    page.get_by_role("tab", name="Train").click()
    panel = page.get_by_label("Train a model")
    panel.get_by_role("group", name="Method").get_by_role("button", name=re.compile("^dpo ")).click()
    expect(panel.get_by_label("Starts from", exact=True)).to_have_value("sft-1")
    panel.get_by_role("button", name="labels", exact=True).click()
    expect(panel.get_by_label("Learns from", exact=True)).to_contain_text("all rounds")
    panel.get_by_label("epochs", exact=True).fill("6")
    panel.get_by_label("batch", exact=True).fill("2")
    panel.get_by_text("All settings").click()
    panel.get_by_label("probe every", exact=True).fill("2")
    panel.get_by_label("Name of the run").fill("mine")
    panel.get_by_role("button", name="Start", exact=True).click()
    panel.get_by_text("See its curves").first.click()
    page.wait_for_url("**run=mine**")


def click_through_to_the_answers(page: Any, root: Path) -> None:
    """The curve grows to its end; a click on it shows what the policy answered there, beside the beginning."""
    area = '[data-card="Loss"] .area'
    page.wait_for_selector(f"{area} .main-svg")
    expect(page.get_by_label("The run", exact=True)).to_contain_text("finished")
    follower = Follower(Run.open(root / "mine"))
    follower.refresh()
    last = max(follower.metrics)
    assert last >= 6
    page.wait_for_function(
        "([area, last]) => document.querySelector(area).data[0].x.at(-1) === last",
        arg=[area, last],
        timeout=PATIENCE_MS,
    )
    place = page.evaluate(
        """([area, step]) => {
          const gd = document.querySelector(area), full = gd._fullLayout, box = gd.getBoundingClientRect();
          gd.scrollIntoView({ block: "center" });
          const line = gd.data.find((t) => t.hoverinfo !== "skip"), i = line.x.indexOf(step), now = gd.getBoundingClientRect();
          return [now.left + full.xaxis._offset + full.xaxis.l2p(line.x[i]), now.top + full.yaxis._offset + full.yaxis.l2p(line.y[i])];
        }""", [area, last])  # fmt: skip # noqa: E501
    page.mouse.move(*place)
    page.mouse.click(*place)
    page.wait_for_url(f"**step={last}**")
    answers = page.get_by_label("Answers to the probe prompts")
    expect(answers.locator(".answer.now")).to_contain_text(f"step {last}")
    expect(answers.locator(".answer.now .said")).not_to_be_empty()
    expect(answers.locator(".answer").first).to_contain_text("step 0")
