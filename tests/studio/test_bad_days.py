"""What goes wrong in a room: runs that vanish, damaged logs, an engine that is killed, a network that drops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.studio.curves import Curves
from apps.studio.parts import Parts
from apps.studio.sample import stream
from lab.client import EngineError
from lab.events import Started, Updated

from .fake import SAID, FakeEngine
from .made import append, make_demo, make_ppo, make_sft, ppo_events, status

pytest.importorskip("gradio")
expect = pytest.importorskip("playwright.sync_api").expect

Visit = Callable[..., Any]


def have(reply: dict[str, Any]) -> dict[str, Any]:
    return {c["key"]: {"signature": c["signature"], "counts": [len(t["x"]) for t in c["figure"]["data"]]}
            for c in reply["cards"] if c["essential"]}  # fmt: skip


def test_a_run_that_is_deleted_while_it_is_watched(tmp_path: Path) -> None:
    make_demo(tmp_path)
    curves = Curves(Parts.over(tmp_path, FakeEngine()))
    first = curves.poll({"runs": ["ppo-1", "sft-1"], "focus": "ppo-1"})
    shutil.rmtree(tmp_path / "ppo-1")
    curves.shelf._listed = (0.0, [])
    reply = curves.poll({"runs": ["ppo-1", "sft-1"], "focus": "ppo-1", "have": have(first)})
    assert (reply["chosen"], reply["focus"]["status"]["id"]) == (["sft-1"], "sft-1")
    assert "not there any more" in curves.control({"run": "ppo-1", "action": "play"})["error"]
    assert curves.answers({"run": "ppo-1"})["rows"] == []
    shutil.rmtree(tmp_path / "sft-1")
    shutil.rmtree(tmp_path / "reward-1")
    curves.shelf._listed = (0.0, [])
    assert curves.poll({"runs": ["sft-1"]})["focus"] is None


def test_a_damaged_line_and_one_of_a_newer_lab_are_passed_over(tmp_path: Path) -> None:
    path = make_ppo(tmp_path, steps=10, total=20, state="running")
    curves = Curves(Parts.over(tmp_path, FakeEngine()))
    curves.poll({})
    with open(path / "events.jsonl", "ab") as log:
        log.write(b'{"kind": "Updated", "step": 11, "metr\x00\xff\n')
        log.write(json.dumps({"kind": "Dreamt", "time": 1.0, "step": 11}).encode() + b"\n")
        newer = {"kind": "Updated", "time": 1.0, "step": 12, "metrics": {"reward": 9.0}, "mood": 1}
        log.write(json.dumps(newer).encode() + b"\n")
        log.write(b'{"kind": "Updated", "step": 13')  # a line that is still being written
    reply = curves.poll({})
    reward = next(c for c in reply["cards"] if c["key"] == "Reward")["figure"]["data"]
    (shown,) = [t for t in reward if t.get("name", "").endswith("reward") and t.get("hoverinfo") != "skip"]
    assert shown["x"][-1] == 12
    assert 11 not in shown["x"]
    assert 13 not in shown["x"]


def test_a_run_of_a_newer_version_and_one_without_a_readable_config(tmp_path: Path) -> None:
    make_sft(tmp_path)
    newer = make_ppo(tmp_path, "newer", steps=10, total=10)
    row = json.loads((newer / "config.json").read_text())
    (newer / "config.json").write_text(json.dumps(row | {"method": "telepathy", "settings": {"mind": 1}, "aura": []}))
    broken = make_ppo(tmp_path, "broken", steps=10, total=10)
    (broken / "config.json").write_text("{")
    curves = Curves(Parts.over(tmp_path, FakeEngine()))
    assert {r["id"] for r in curves.poll({})["runs"]} == {"sft-1", "newer", "broken"}
    reply = curves.poll({"runs": ["newer"]})
    assert reply["focus"]["live"] == []
    assert any(c["key"] == "Reward" for c in reply["cards"])
    assert "copied in part or damaged" in curves.poll({"runs": ["broken"]})["focus"]["status"]["sentence"]


class Dying(FakeEngine):
    """An engine that is killed while it speaks."""

    def sample(self, *given: Any, **more: Any) -> Iterator[dict[str, Any]]:
        for n, row in enumerate(super().sample(*given, **more)):
            if n == 6:
                self.there = False
                raise EngineError("the engine went away; start it again with `lab engine`.")
            yield row


def test_an_engine_that_is_killed_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    engine = Dying()
    *said, last = stream(Parts.over(tmp_path, engine).link, {"prompt": "Why?", "roles": ["sft", "base"]}, pace=0)
    assert said[-1]["columns"][0]["text"].startswith("The capital")
    assert last["state"] == "error"
    assert last["error"] == "the engine went away; start it again with `lab engine`."
    assert engine.closed == 1


@pytest.mark.browser
def test_a_network_that_drops_and_comes_back_loses_nothing(visit: Visit, root: Path) -> None:
    path = make_ppo(root, steps=40, total=100, state="running")
    page = visit("?run=ppo-1")
    page.wait_for_selector('[data-card="Reward"] .area .main-svg')
    page.context.set_offline(True)
    expect(page.get_by_text("The Studio does not answer")).to_be_visible()
    append(path, list(ppo_events(41, 60, 0.0)))
    status(path, "running", 60, 100)
    page.wait_for_timeout(2500)
    page.context.set_offline(False)
    expect(page.get_by_text("The Studio does not answer")).to_have_count(0)
    page.wait_for_function("document.querySelector(`[data-card='Reward'] .area`).data[0].x.at(-1) === 60")
    assert page.evaluate("document.querySelector(`[data-card='Reward'] .area`).data[0].x.length") == 60
    offline = ("ERR_INTERNET_DISCONNECTED", "Failed to fetch", "network error")
    visit.complaints[:] = [c for c in visit.complaints if not any(o in c for o in offline)]  # type: ignore[attr-defined]


@pytest.mark.browser
@pytest.mark.parametrize("year", [1999, 2061])
def test_a_clock_that_is_years_off_changes_nothing(visit: Visit, root: Path, year: int) -> None:
    make_ppo(root, steps=40, total=100, state="running", eta_s=90.0)
    page = visit("?run=ppo-1", clock=year)
    expect(page.get_by_label("The run", exact=True)).to_contain_text("running")
    expect(page.get_by_label("The run", exact=True)).to_contain_text("2 min left")
    page.wait_for_selector('[data-card="Reward"] .area .main-svg')


@pytest.mark.browser
def test_an_engine_that_comes_back_is_found_again(visit: Visit, engine: FakeEngine) -> None:
    engine.there = False
    page = visit("?tab=sample")
    expect(page.get_by_text("No engine serves these runs")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    engine.there = True
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    page.get_by_role("button", name="What colour is the crow?").click()
    expect(page.locator('.column[data-role="sft"] .said')).to_have_text(SAID["sft"])


def test_a_run_that_was_taken_back_is_drawn_anew(tmp_path: Path) -> None:
    path = make_ppo(tmp_path, steps=20, total=40, state="running")
    curves = Curves(Parts.over(tmp_path, FakeEngine()))
    first = curves.poll({})
    append(path, [(Updated(21, {"reward": 0.5}), 0.0)])
    grown = next(c for c in curves.poll({"have": have(first)})["cards"] if c["key"] == "Reward")
    assert ("append" in grown, "figure" in grown) == (True, False), "only what is new"
    append(path, [(Started("ppo", 10, 40), 0.0)])  # it goes on from its checkpoint at step 10
    again = next(c for c in curves.poll({"have": have(first)})["cards"] if c["key"] == "Reward")
    assert "append" not in again
    assert max(x for t in again["figure"]["data"] for x in t["x"]) == 10
