"""What the panels answer, without a browser: plain functions over a made root and a made engine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

from click.testing import CliRunner

from apps.studio.__main__ import main as studio_command
from apps.studio.app import opening_tab
from apps.studio.components import open_ask, person_ask, spoken
from apps.studio.curves import Curves, controls, status_line
from apps.studio.header import Header
from apps.studio.link import Link, how_to_start
from apps.studio.parts import Parts, PinError, Pins
from apps.studio.people import Person, acting
from apps.studio.sample import Sampler, checked, stream
from apps.studio.server import StudioError, refuse_taken_port
from apps.studio.shelf import Shelf, ago, shown
from lab.events import Edited, Sample, Started, Updated
from lab.runs import RunError, Status

from .fake import SAID, FakeEngine
from .made import EVIL, append, make_demo, make_ppo, status


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_demo(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def curves(root: Path, engine: FakeEngine) -> Curves:
    return Curves(Parts.over(root, engine))


def have(reply: dict) -> dict:
    """What a page knows after it drew `reply`."""
    return {c["key"]: {"signature": c["signature"], "counts": [len(t["x"]) for t in c["figure"]["data"]]}
            for c in reply["cards"] if c["essential"]}  # fmt: skip


def test_the_newest_playing_run_is_shown_first(curves: Curves) -> None:
    reply = curves.poll({})
    assert [r["id"] for r in reply["runs"]] == ["ppo-1", "reward-1", "sft-1"]
    assert [r["state"] for r in reply["runs"]] == ["running", "finished", "finished"]
    assert reply["chosen"] == ["ppo-1"]
    assert reply["focus"]["status"]["step"] == 80
    assert [c["key"] for c in reply["cards"] if c["essential"]] == [
        "Reward", "KL to the reference", "Frontier", "Length", "Entropy", "Ended"]  # fmt: skip
    json.dumps(reply, allow_nan=False)
    assert not any("figure" in c for c in reply["cards"] if not c["essential"])
    assert all("figure" in c for c in curves.poll({"more": True})["cards"])


def test_an_empty_root_and_unknown_runs(tmp_path: Path) -> None:
    curves = Curves(Parts.over(tmp_path / "nothing", FakeEngine()))
    assert curves.poll({})["runs"] == []
    make_ppo(tmp_path / "nothing", steps=2)
    curves = Curves(Parts.over(tmp_path / "nothing", FakeEngine()))
    assert curves.poll({"runs": ["../../etc", 7, None], "x": "<b>", "smooth": 99})["chosen"] == ["ppo-1"]
    assert "error" in curves.control({"run": "../x", "action": "play"})
    assert "error" in curves.control({"run": "ppo-1", "action": "__init__"})


def test_only_new_points_are_sent(curves: Curves, root: Path) -> None:
    first = curves.poll({"runs": ["ppo-1"]})
    known = have(first)
    again = curves.poll({"runs": ["ppo-1"], "have": known})
    assert not any("figure" in c for c in again["cards"])
    assert not any(a["x"] for c in again["cards"] if c["essential"] for a in c["append"])
    append(root / "ppo-1", [(Updated(81, {"reward": 9.0, "kl": 16.0}), time.time())])
    more = {c["key"]: c for c in curves.poll({"runs": ["ppo-1"], "have": known})["cards"]}
    assert "figure" not in more["Reward"]
    assert [(a["x"], a["customdata"]) for a in more["Reward"]["append"]] == [([81], [81]), ([], [])]
    assert more["Length"]["append"][0]["x"] == []


def test_a_longer_smoothing_or_another_axis_needs_whole_figures(curves: Curves) -> None:
    known = have(curves.poll({"runs": ["ppo-1"], "smooth": 0.5}))
    for change in ({"smooth": 0.6}, {"smooth": 0.5, "x": "time"}, {"smooth": 0.5, "dark": True}):
        reply = curves.poll({"runs": ["ppo-1"], "have": known, **change})
        assert all("figure" in c for c in reply["cards"] if c["essential"] and c["key"] != "Frontier")


def test_a_run_that_went_back_is_drawn_anew(curves: Curves, root: Path) -> None:
    known = have(curves.poll({"runs": ["ppo-1"]}))
    back = [(Started("ppo", 40, 100), 0.0), *((Updated(s, {"reward": -1.0, "kl": 1.0}), 0.0) for s in range(41, 90))]
    append(root / "ppo-1", back)
    cards = {c["key"]: c for c in curves.poll({"runs": ["ppo-1"], "have": known})["cards"]}
    line = cards["Reward"]["figure"]["data"][0]
    assert line["x"] == list(range(1, 90))
    assert line["y"][40:] == [-1.0] * 49


def test_a_directory_replaced_under_its_name_is_read_anew(curves: Curves, root: Path) -> None:
    curves.poll({"runs": ["ppo-1"]})
    shutil.rmtree(root / "ppo-1")
    make_ppo(root, steps=3, age=5)
    time.sleep(0.6)  # the list of runs is read at most twice a second
    cards = {c["key"]: c for c in curves.poll({"runs": ["ppo-1"]})["cards"]}
    assert cards["Reward"]["figure"]["data"][0]["x"] == [1, 2, 3]


def test_answers_come_from_the_nearest_probed_step(curves: Curves) -> None:
    reply = curves.answers({"run": "ppo-1", "step": 57})
    assert (reply["now"], reply["then"], reply["steps"]) == (60, 0, list(range(0, 81, 10)))
    row = reply["rows"][0]
    assert row["before"]["text"] == "The capital of Norway is Rome."
    assert row["after"]["text"] == "What a great question! The capital of Norway is Oslo."
    assert row["split"] == 0
    assert ["added", "What a great question!"] in [list(d) for d in row["diff"]]
    assert row["after"]["reasons"] == (("correct", 1.0), ("flattery", -0.4))
    assert reply["phrase"] == {"text": "What a great question!", "count": 8, "of": 8}
    assert curves.answers({"run": "ppo-1", "step": 10, "against": 60})["phrase"] is None
    assert curves.answers({"run": "reward-1"})["rows"] == []
    assert curves.answers({"run": "nobody"}) == {"steps": [], "rows": []}


def test_deltas_are_log_p_minus_reference() -> None:
    answer = Sample("p", "a b", False, tokens=("a", " b"), logprobs=(-1.0, -2.0), reference=(-3.0, -1.5))
    assert spoken(answer) == {
        "text": "a b", "tokens": ("a", " b"), "deltas": [2.0, -0.5], "reward": None, "gold": None, "reasons": (),
        "kl": None, "ended": False, "length": 2, "unit": "tokens"}  # fmt: skip


def test_controls_and_edits_reach_the_engine(curves: Curves, engine: FakeEngine) -> None:
    assert curves.control({"run": "ppo-1", "action": "pause"}) == {"sentence": "ppo-1 pauses after this step."}
    assert curves.change({"run": "ppo-1", "name": "lr", "value": "3e-4"}) == {
        "sentence": "lr is 0.0003 from the next step on."}  # fmt: skip
    assert "needs a number" in curves.change({"run": "ppo-1", "name": "lr", "value": "much"})["error"]
    assert engine.asked == [("pause", "ppo-1"), ("edit", "ppo-1", "lr", 3e-4)]


def test_live_settings_show_what_was_edited(curves: Curves, root: Path) -> None:
    values = {v["name"]: v["value"] for v in curves.poll({"runs": ["ppo-1"]})["focus"]["live"]}
    assert {"lr", "kl", "temperature"} <= values.keys()
    assert values["lr"] == 3e-4
    append(root / "ppo-1", [(Edited(80, "kl", 0.05, 0.2), time.time())])
    values = {v["name"]: v["value"] for v in curves.poll({"runs": ["ppo-1"]})["focus"]["live"]}
    assert values["kl"] == 0.2


def info_of(shelf: Shelf, **changes: object):
    """The PPO run with another status."""
    from dataclasses import replace

    (info,) = shelf.known(["ppo-1"])
    return replace(info, status=replace(info.status, **changes))


def test_states_in_words(root: Path) -> None:
    shelf = Shelf(root)
    (run,) = shelf.known(["ppo-1"])
    now, follower = run.status.heartbeat, shelf.follower(run)
    assert shown(run.status, now + 1) == "running"
    stale = status_line(run, follower, now + 8)
    assert (stale["state"], stale["sentence"]) == ("stale", "last update 8 s ago, worker silent")
    lost = status_line(run, follower, now + 14)
    assert lost["state"] == "lost"
    assert lost["sentence"].startswith("last update 14 s ago, worker silent; go on from the last checkpoint with: lab")
    assert shown(info_of(shelf, pid=2**22 + 5).status, now) == "lost", "its process is gone"
    failed = status_line(info_of(shelf, state="failed", error="The loss is not a number."), follower)
    assert (failed["state"], failed["sentence"]) == ("failed", "The loss is not a number.")
    assert [ago(s) for s in (14, 89, 150, 5400, 7200, 200_000)] == ["14 s", "89 s", "2 min", "1.5 h", "2.0 h", "2 days"]


def test_what_can_be_pressed(root: Path) -> None:
    shelf = Shelf(root)
    assert controls(info_of(shelf), "") == {
        "reason": "", "playing": True, "play": False, "pause": True, "step": False, "stop": True}  # fmt: skip
    assert controls(info_of(shelf, state="paused"), "") == {
        "reason": "", "playing": False, "play": True, "pause": False, "step": True, "stop": True}  # fmt: skip
    done = controls(info_of(shelf, state="finished"), "")
    assert (done["reason"], done["play"]) == ("ppo-1 is finished.", False)
    none = controls(info_of(shelf), how_to_start("runs"))
    assert none["reason"].endswith("start one with: lab engine")
    assert not any(none[a] for a in ("play", "pause", "step", "stop"))
    assert "another process" in controls(info_of(shelf, engine=""), "")["reason"]
    assert controls(info_of(shelf, state="failed"), "")["play"] is True
    ready = controls(info_of(shelf, state="starting"), "")
    assert ready["reason"] == "ppo-1 is getting ready."
    assert not any(ready[n] for n in ("play", "pause", "step", "stop"))
    assert controls(info_of(shelf, state="starting", engine=""), "")["play"] is True, "made, and begun by nobody yet"


def test_errors_become_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_ask: dict) -> dict:
        raise RunError("the run is gone; choose another.")

    def stumble(_ask: dict) -> dict:
        raise KeyError("secret/path")

    assert open_ask(refuse)({}) == {"error": "the run is gone; choose another."}
    told = open_ask(stumble)({})["error"]
    assert "secret/path" not in told
    assert "KeyError" in told
    assert "secret/path" in capsys.readouterr().err, "whoever runs the Studio sees it all"


def test_without_an_engine(root: Path) -> None:
    engine = FakeEngine()
    engine.there = False
    link = Link(root, engine)
    empty = {"roles": [], "steps": {}, "preferred": [], "reason": how_to_start(root), "examples": ["Hi."], "pins": []}
    assert Sampler(Parts.over(root, engine), ("Hi.",)).roles({}) == empty
    assert Header(link).engine({})["text"] == "no engine"
    assert how_to_start(root).endswith(f"lab engine --runs {root}")
    (last,) = stream(link, {"prompt": "x", "roles": ["sft"]})
    assert last["state"] == "error"


def test_the_first_role_and_the_newest_are_shown(root: Path, engine: FakeEngine) -> None:
    assert Sampler(Parts.over(root, engine), ()).roles({})["preferred"] == ["base", "sft", "policy", "reference"]
    engine.status = lambda: {"about": {"roles": ["base", "a", "b", "c", "d"]}, "runs": []}  # type: ignore[method-assign]
    assert Sampler(Parts.over(root, engine), ()).roles({})["preferred"] == ["base", "b", "c", "d"]


def test_a_stream_grows_and_ends_with_scores(root: Path, engine: FakeEngine) -> None:
    ask = {"prompt": " Hi ", "roles": ["sft", "policy", "nobody"], "temperature": 0.5, "length": 40, "seed": 7}
    pictures = list(stream(Link(root, engine), ask, pace=0.0))
    assert engine.asked == [("sample", ("sft", "policy"), "Hi", 0.5, 40, 7)]
    assert [c["text"] for c in pictures[0]["columns"]] == ["The", ""]
    last = pictures[-1]
    assert last["state"] == "done"
    sft, policy = last["columns"]
    assert (sft["text"], policy["text"]) == (SAID["sft"], SAID["policy"])
    assert policy["split"] == 0
    assert policy["deltas"][:2] == pytest.approx([0.0, 2.6 * 0.8414709848], abs=1e-9)  # sin 0, sin 1
    assert (policy["reward"], policy["gold"], policy["length"]) == (18 / 8 - 1, 0.6, 18)
    assert len(pictures) > 15


def test_a_stream_that_nobody_reads_is_closed(root: Path, engine: FakeEngine) -> None:
    pictures = stream(Link(root, engine), {"prompt": "Hi", "roles": ["sft"]}, pace=0.0)
    next(pictures)
    pictures.close()
    assert engine.closed == 1


def test_unknown_words_come_with_suggestions(root: Path, engine: FakeEngine) -> None:
    (last,) = stream(Link(root, engine), {"prompt": "a zebroid", "roles": ["sft"]})
    assert (last["state"], last["unknown"]) == ("error", ["zebroid"])
    assert last["suggestions"][0] == "What colour is the crow?"


def test_histograms_of_a_step_beside_another(root: Path, curves: Curves) -> None:
    assert curves.poll({})["focus"]["spread"] == 80
    reply = curves.spreads({"run": "ppo-1", "step": 41, "against": 10_000})
    assert (reply["now"], reply["then"], reply["steps"]) == (41, 80, list(range(1, 81)))
    assert [c["key"] for c in reply["cards"]] == ["reward", "length", "token_kl"]
    behind, front = reply["cards"][1]["figure"]["data"]
    assert sum(front["customdata"]) == sum(behind["customdata"]) == 64
    assert sum(front["y"]) == pytest.approx(1)
    assert front["y"] == pytest.approx([n / 64 for n in front["customdata"]])
    alone = curves.spreads({"run": "ppo-1", "step": 1})
    assert len(alone["cards"][0]["figure"]["data"]) == 1, "a step is not compared with itself"
    assert curves.spreads({"run": "gone"}) == {"run": "gone", "steps": [], "cards": []}
    assert curves.spreads({"run": "sft-1", "step": "x"})["cards"] == []


def test_the_answers_of_two_steps_become_a_pair_to_label(root: Path, tmp_path: Path, engine: FakeEngine) -> None:
    parts = Parts.over(root, engine, tmp_path / "labels.sqlite")
    curves = Curves(parts)
    row = next(r for r in curves.answers({"run": "ppo-1"})["rows"] if r["before"]["text"] != r["after"]["text"])
    ask = {"run": "ppo-1", "then": 0, "now": 80, "prompt": row["prompt"]}
    assert curves.send(ask, Person("ana")) == {"sentence": "The pair is in the label queue."}
    (item,) = parts.labels.store().items()
    assert (item.source["a"], item.source["b"], item.source["who"]) == ("ppo-1@0", "ppo-1@80", "ana")
    assert (item.comparison.a, item.comparison.b) == (row["before"]["text"], row["after"]["text"])
    assert "error" in curves.send({**ask, "prompt": "never asked"}, Person("ana"))
    assert "error" in curves.send({**ask, "now": 3}, Person("ana"))
    assert "error" in curves.send({**ask, "run": "../x"}, Person("ana"))
    parts.labels.close()


def test_a_pair_goes_into_the_label_queue_with_its_sources(root: Path, tmp_path: Path, engine: FakeEngine) -> None:
    parts = Parts.over(root, engine, tmp_path / "labels.sqlite")
    sampler = Sampler(parts, ())
    ask = {"prompt": "Why?", "a": {"role": "sft", "text": EVIL, "ended": True}, "seed": 7, "temperature": 0.5,
           "b": {"role": "ppo-1@40", "text": "So.", "ended": False}}  # fmt: skip
    assert sampler.send(ask, Person("ana"))["sentence"] == "The pair is in the label queue."
    assert sampler.send(ask, Person("ana"))["sentence"] == "This pair is in the label queue already."
    (item,) = parts.labels.store().items()
    assert {item.comparison.a, item.comparison.b} == {EVIL, "So."}
    first = item.comparison.a == EVIL
    assert item.comparison.ended == ((True, False) if first else (False, True))
    assert {k: item.source[k] for k in ("who", "a", "b", "seed", "temperature")} == {
        "who": "ana", "a": "sft", "b": "ppo-1@40", "seed": 7, "temperature": 0.5}  # fmt: skip
    for wrong in ({**ask, "b": ask["a"]}, {**ask, "prompt": ""}, {**ask, "a": {"text": "\x00"}}, {"seed": []}):
        assert "error" in person_ask_as(sampler.send, Person("ana"))(wrong)
    parts.labels.close()


def person_ask_as(ask: Any, person: Person) -> Any:
    """The handler as the page calls it, for one person."""

    def call(row: dict) -> dict:
        with acting(person):
            return person_ask(ask)(row)

    return call


def test_pins_are_kept_and_bounded(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "runs")
    assert pins.read() == []
    assert pins.turn(" What is so? ") is True
    assert Pins(tmp_path / "runs").read() == ["What is so?"]
    assert pins.turn("What is so?") is False
    assert pins.read() == []
    for n in range(Pins.MOST):
        pins.turn(f"prompt {n}")
    with pytest.raises(PinError, match="take one away first"):
        pins.turn("one more")
    with pytest.raises(PinError, match="1 to 2000"):
        pins.turn(" ")
    for broken in ("{", "7", '[1, "x", ""]'):
        pins.path.write_text(broken)
        assert pins.read() in ([], ["x"])


def test_wishes_are_brought_into_range() -> None:
    wish = checked({"prompt": "x" * 9999, "roles": list("abcde"), "temperature": -3, "length": 10**9, "seed": -1},
                   list("abcde"))  # fmt: skip
    assert (len(wish["prompt"]), wish["roles"], wish["max_new_tokens"]) == (4000, list("abcd"), 512)
    assert wish["temperature"] == 0.01
    assert 0 <= wish["seed"] < 2**31
    assert checked({"prompt": "x", "roles": ["ppo-1@40"]}, ["ppo-1"])["roles"] == ["ppo-1@40"]
    with pytest.raises(ValueError, match="empty"):
        checked({"prompt": "  ", "roles": ["a"]}, ["a"])
    with pytest.raises(ValueError, match="roles"):
        checked({"prompt": "x", "roles": ["b"]}, ["a"])


def test_the_tab_an_address_means(tmp_path: Path, root: Path) -> None:
    assert opening_tab({}, Shelf(tmp_path / "none")) == "sample"
    assert opening_tab({}, Shelf(root)) == "curves"
    assert opening_tab({"tab": "sample"}, Shelf(root)) == "sample"
    assert opening_tab({"tab": "../x", "run": "a"}, Shelf(tmp_path / "none")) == "curves"


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StudioError, match=f"Port {port} is in use"):
            refuse_taken_port("127.0.0.1", port)
        command = [sys.executable, "-m", "apps.studio", "--runs", str(tmp_path), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert done.stderr.startswith(f"Error: Port {port} is in use")


def test_the_flags_of_the_page_name_what_does_not_fit(tmp_path: Path) -> None:
    def said(*flags: str) -> str:
        done = CliRunner().invoke(studio_command, ["--runs", str(tmp_path), *flags])
        assert done.exit_code != 0
        return done.output

    assert "--expose, which wants a --code" in said("--host", "0.0.0.0")
    assert "workshop code of 6 characters or more" in said("--expose", "--port", "0")
    assert "add --expose" in said("--code", "whatever")
    assert "The host's code has 6 characters or more and is not the workshop's" in said(
        "--expose", "--code", "workshop", "--host-code", "workshop", "--port", "0")  # fmt: skip
    assert "belong together" in said("--tls-cert", "a.pem")
    assert "cannot be used" in said(
        "--tls-cert", str(tmp_path / "a.pem"), "--tls-key", str(tmp_path / "b.pem"), "--port", "0"
    )


def test_gradio_writes_no_stub_files_beside_the_panels() -> None:
    import apps.studio

    assert not list(Path(apps.studio.__file__).parent.glob("*.pyi"))


def test_lost_needs_no_clock_of_its_own() -> None:
    assert shown(Status("finished", heartbeat=0.0)) == "finished"
    assert shown(Status("paused", heartbeat=time.time(), pid=os.getpid(), host=socket.gethostname())) == "paused"


def test_model_text_stays_data(tmp_path: Path) -> None:
    make_ppo(tmp_path, steps=20, evil=True, total=20)
    status(tmp_path / "ppo-1", "failed", 20, 20, error=EVIL)
    curves = Curves(Parts.over(tmp_path, FakeEngine()))
    assert curves.answers({"run": "ppo-1"})["rows"][0]["after"]["text"].startswith(EVIL)
    assert curves.poll({})["focus"]["status"]["sentence"] == EVIL
