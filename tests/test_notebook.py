"""The live view of a run: what it draws and sends, that it runs nothing, and that it lets go of what it held."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_toy import handlers
from session_toy import ToyConfig, ToyState, build, straight, toy

from lab.client import EngineClient
from lab.config import PPOConfig
from lab.engine import Engine
from lab.events import Checked, Done, Edited, Probed, Sample, Started, Updated
from lab.figures import uid
from lab.notebook import LiveRun, front_end, play, watch
from lab.notebook.predict import check_branch, check_change, compared
from lab.runs import Run, RunError, Status
from lab.session import Session, resume
from lab.worker import Worker

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

EVIL = '<img src=x onerror="alert(1)"><script>alert(2)</script> %{y} {{x}}'


def until(over: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not over():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.01)


@pytest.fixture
def worker() -> Iterator[Worker]:
    one = Worker()
    yield one
    one.close()


@pytest.fixture
def made(tmp_path: Path) -> Run:
    """A paused PPO run of two steps, written by hand; this process is the one it names."""
    run = Run.create(tmp_path, "ppo", PPOConfig(steps=4), name=tmp_path.name.replace("_", "-"), title="by hand")
    run.append(Started("ppo", 0, 4))
    run.append(Probed(0, "policy", (Sample("Which?", "the old answer", True, gold=-1.0),)))
    for step in (1, 2):
        run.append(Updated(step, {"reward": step / 10, "gold": -step / 10, "kl": step / 100, "length": 9.0}))
    status(run, "paused", 2)
    return run


def status(run: Run, state: str, step: int, **more: Any) -> None:
    now = run.status()
    run.write_status(Status(state, step, 4, heartbeat=time.time() + 1000, pid=now.pid, host=now.host, **more))


def toy_session(root: Path, worker: Worker, **settings: Any) -> Session:
    config = ToyConfig(**settings)
    return Session(Run.create(root, "toy", config), ToyState(config), config, toy, worker=worker)


def line(live: LiveRun, name: str) -> tuple[list[float], list[float]]:
    """What the figure widget holds for one metric."""
    assert live.panel is not None
    index, _, _ = live.panel.chart.lines[uid(live.run.id, *name.split(":"))]
    trace = live.panel.chart.widget.data[index]
    return list(trace.x), list(trace.y)


def every_html(live: LiveRun) -> str:
    """Everything the view would hand to a browser as HTML, and the figure with its texts."""
    assert live.panel is not None
    p = live.panel
    parts = [w.value for w in (p.head, p.left, p.said, p.invariants, p.health, p.edits, p.answers.table, p.answer)]
    return "\n".join([*parts, p.chart.widget.to_json(), live.summary()])


# --- what it shows ---------------------------------------------------------------------------------------------------


def test_draws_what_the_log_says(made: Run) -> None:
    live = LiveRun(made, block=False)
    assert line(live, "kl:raw") == ([1, 2], [0.01, 0.02])
    # smoothed with weight 0.6 from 0.01, 0.02: (0.4·0.02 + 0.24·0.01) / (1 − 0.36) = 0.01625
    assert line(live, "kl")[1] == pytest.approx([0.01, 0.01625])
    panel = live.panel
    assert panel is not None
    assert (panel.progress.value, "step 2 of 4" in panel.left.value) == (0.5, True)
    assert "the old answer" in panel.answers.table.value
    assert "true score -1.00" in panel.answers.table.value
    live.close()


def test_a_later_probe_stands_beside_step_0_with_the_words_that_changed(made: Run) -> None:
    made.append(Probed(2, "policy", (Sample("Which?", "the new answer", True),)))
    live = LiveRun(made, block=False)
    assert live.panel is not None
    html = live.panel.answers.table.value
    assert ">old</del>" in html
    assert ">new</ins>" in html
    assert "<th" in html
    assert "step 0</th>" in html
    assert "step 2</th>" in html
    live.close()


def test_invariants_have_their_number_and_the_broken_ones_come_first(made: Run) -> None:
    made.append(Checked(1, "a first ratio", True, 2.4e-7, 1e-4, "the ratio is 1"))
    made.append(Checked(2, "sampler gap", False, 0.043, 0.01, "sampler and trainer agree"))
    live = LiveRun(made, block=False)
    assert live.panel is not None
    html = live.panel.invariants.value
    assert "1 of 2 invariants broken" in html
    assert html.index("✗") < html.index("sampler gap") < html.index("✓") < html.index("a first ratio")
    assert "seen 0.043, limit 0.01" in html
    assert "seen 2.4e-07, limit 0.0001" in html
    live.close()


def test_sends_only_the_lines_that_changed_and_nothing_when_idle(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveRun(made, block=False, every_s=1000)
    assert live.panel is not None
    widget = live.panel.chart.widget
    sent: list[set[str]] = []
    lines = live.panel.chart.lines

    def spy(*_: Any, trace_indexes: Any = None, **__: Any) -> None:
        sent.append({uid.split("__", 1)[1] for uid, (i, _, _) in lines.items() if i in (trace_indexes or ())})

    monkeypatch.setattr(widget, "_send_update_msg", spy)
    monkeypatch.setattr(widget, "_send_restyle_msg", lambda *a, **k: sent.append({"restyle"}))
    monkeypatch.setattr(widget, "_send_addTraces_msg", lambda *a, **k: sent.append({"new line"}))
    live.refresh()
    assert sent == []
    made.append(Updated(3, {"kl": 0.03}))
    live.refresh()
    assert sent == [{"kl", "kl__raw"}]
    assert line(live, "kl")[0] == [1, 2, 3]
    made.append(Updated(3, {"entropy": 1.0}))
    live.refresh()
    assert sent[1:] == [{"new line"}]
    live.close()


def test_no_upload_button(made: Run) -> None:
    live = LiveRun(made, block=False)
    assert live.panel is not None
    config = live.panel.chart.widget._config
    assert config["showSendToCloud"] is False
    assert "sendChartToCloud" in config["modeBarButtonsToRemove"]
    live.close()


def test_an_edit_is_marked_in_the_curves_and_in_the_field(made: Run) -> None:
    live = LiveRun(made, block=False)
    assert live.panel is not None
    assert live.panel.fields["kl"].value == 0.05
    made.append(Edited(2, "kl", 0.05, 0.2))
    live.refresh()
    assert {s.x0 for s in live.panel.chart.widget.layout.shapes} == {2}
    assert live.panel.fields["kl"].value == 0.2
    assert "step 2: kl 0.05 → 0.2" in live.panel.edits.value
    live.close()


def test_a_run_that_went_back_takes_its_points_back(made: Run) -> None:
    live = LiveRun(made, block=False)
    made.append(Started("ppo", 1, 4, "resumed from step 1"))
    live.refresh()
    assert line(live, "kl") == ([1], [0.01])
    live.close()


def test_metrics_that_nobody_foresaw_get_axes_of_their_own(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "toy", ToyConfig())
    live = LiveRun(run, block=False, every_s=1000)
    assert live.panel is not None
    before = live.panel.chart.widget
    run.append(Updated(1, {"w": 0.5}))
    live.refresh()
    assert live.panel.chart.widget is not before
    assert live.panel.chart.widget in live.panel.box.children
    assert line(live, "w") == ([1], [0.5])
    live.close()


def test_what_models_and_people_write_is_text(made: Run) -> None:
    reasons = ((EVIL, 1.0),)
    made.append(Probed(0, "policy", (Sample(EVIL, EVIL, True, reward=1.0, gold=1.0, reasons=reasons),)))
    made.append(Probed(2, "policy", (Sample(EVIL, EVIL + " more", False, gold=1.0, reasons=reasons),)))
    made.append(Checked(2, EVIL, False, 1.0, 0.0, EVIL))
    made.append(Edited(2, EVIL, EVIL, EVIL))
    made.append(Updated(3, {EVIL: 1.0}))
    made.append(Done(3, "failed", EVIL))
    status(made, "failed", 3, error=EVIL, phase=EVIL)
    live = LiveRun(made, block=False)
    assert live.panel is not None
    live.panel.control.sample = lambda *a, **k: Sample(EVIL, EVIL, True, gold=0.0, reasons=reasons)  # type: ignore[method-assign]
    live.panel._answer(EVIL)
    html = every_html(live)
    assert html.count("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;") >= 10
    assert "<img" not in html
    assert "<script" not in html
    assert 'onerror="' not in html
    live.close()


# --- the thread, and letting go --------------------------------------------------------------------------------------


def threads(run: Run) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == f"lab-live-{run.id}"]


def test_the_thread_follows_the_run_and_ends_with_it(made: Run) -> None:
    live = LiveRun(made, block=False, every_s=0.01)
    assert len(threads(made)) == 1
    made.append(Updated(3, {"kl": 0.07}))
    until(lambda: line(live, "kl:raw") == ([1, 2, 3], [0.01, 0.02, 0.07]), "the new point")
    made.append(Done(3, "stopped", "stopped after step 3"))
    status(made, "stopped", 3)
    until(lambda: not threads(made), "the end of the thread")
    assert live.panel is not None
    assert "stopped after step 3" in live.panel.head.value
    live.close()


def test_closing_closes_every_widget_and_the_thread(made: Run) -> None:
    from ipywidgets.widgets import widget as widgets

    before = set(widgets._instances)
    live = LiveRun(made, block=False, every_s=0.01)
    assert len(set(widgets._instances) - before) > 20
    live.close()
    assert set(widgets._instances) - before == set()
    assert threads(made) == []
    with pytest.raises(RunError, match="closed; make another one with watch"):
        live.play()


def test_closing_stops_the_session_with_a_checkpoint_and_frees_its_state(tmp_path: Path, worker: Worker) -> None:
    session = toy_session(tmp_path, worker, steps=1000, save_every=0, pause_s=0.002, probe_every=0)
    live = LiveRun(session.run, session, block=False, every_s=0.02)
    run, state = session.run, weakref.ref(session.state)
    live.play()
    until(lambda: run.status().step >= 2, "two steps")
    del session
    live.close()
    assert run.status().state == "stopped"
    assert run.latest_checkpoint() == run.status().step
    until(lambda: gc.collect() >= 0 and state() is None, "letting go of the state")


def test_running_a_cell_again_closes_the_former_view_and_frees_its_session(tmp_path: Path, worker: Worker) -> None:
    session = toy_session(tmp_path, worker, steps=9, save_every=0)
    first = LiveRun(session.run, session, block=False)
    first.step(2).wait_paused(30)
    kept = LiveRun(session.run, session, block=False)  # the same session: only the view is made again
    assert (first.panel, session.done) == (None, None)
    kept.step(1).wait_paused(30)
    second = LiveRun(session.run.path, block=False)  # without it: the session goes too
    assert session.done is not None
    assert session.done.outcome == "stopped"
    assert session.run.checkpoints() == [3]
    again = LiveRun(session.run, resume(Run.open(session.run.path), build, worker=worker), block=True)
    assert second.panel is None
    assert again.play().wait(30).outcome == "finished"
    assert again.control.session is not None
    assert again.control.session.state.fingerprint == straight(session.config)
    again.close()


def test_a_forgotten_view_without_widgets_is_collected(made: Run) -> None:
    live = weakref.ref(LiveRun(made, block=True))
    gc.collect()
    assert live() is None


# --- playing ---------------------------------------------------------------------------------------------------------


def test_buttons_play_step_pause_stop(tmp_path: Path, worker: Worker) -> None:
    session = toy_session(tmp_path, worker, steps=100_000, pause_s=0.001, probe_every=0, save_every=0)
    live = LiveRun(session.run, session, block=False, every_s=0.01)
    panel = live.panel
    assert panel is not None
    press = panel.buttons
    assert [press[n].disabled for n in ("Play", "Pause", "Step", "Stop")] == [False, True, False, False]
    press["Step"].click()
    until(lambda: session.status.step == 1 and session.status.state == "paused", "one step")
    press["Play"].click()
    until(lambda: session.status.step > 5 and not press["Pause"].disabled, "playing on")
    press["Pause"].click()
    session.wait_paused(30)
    press["Stop"].click()
    assert session.wait(30).outcome == "stopped"
    assert session.run.latest_checkpoint() == session.state.step
    until(lambda: press["Stop"].disabled and press["Pause"].disabled, "the buttons of a run that has ended")
    press["Play"].disabled = False
    press["Play"].click()
    assert "has stopped; resume or branch it" in panel.said.value
    live.close()


def test_the_editor_applies_what_differs_and_says_what_is_refused(tmp_path: Path, worker: Worker) -> None:
    session = toy_session(tmp_path, worker, steps=4)
    live = LiveRun(session.run, session, block=False)
    panel = live.panel
    assert panel is not None
    assert list(panel.fields) == ["lr"]  # of the toy's live settings, the one that notebooks offer
    panel.fields["lr"].value = 0.25
    panel._try(panel._apply)
    until(lambda: "step 0: lr 0.5 → 0.25" in (live.refresh() and panel.edits.value), "the edit")
    panel.fields["lr"].value = 7.0
    panel._try(panel._apply)
    assert "lr is 7; it must lie in [0, 1]" in panel.said.value
    live.play().wait(30)
    assert session.state.fingerprint == straight(session.config, {0: {"lr": 0.25}})
    live.close()


def test_waiting_in_text_prints_the_progress(tmp_path: Path, worker: Worker, capsys: pytest.CaptureFixture) -> None:
    session = toy_session(tmp_path, worker, steps=3)
    live = play(session, block=True)
    assert live.wait(30) == Done(3, "finished", "all steps are done")
    assert live.panel is None
    assert capsys.readouterr().out.splitlines()[-1].split("  ")[:2] == ["toy-1", "step 3/3"]
    assert live.latest == {"eval_w": session.state.w[1], "lr": 0.5, "w": session.state.w[0]}
    assert len(live.figure.data) > 0
    live.close()


def test_waiting_raises_the_runs_own_error(tmp_path: Path, worker: Worker) -> None:
    live = play(toy_session(tmp_path, worker, steps=3, fail_at=2), block=True)
    with pytest.raises(RuntimeError, match="the loss is not finite"):
        live.wait(30)
    live.close()


def test_waiting_has_a_limit(tmp_path: Path, worker: Worker) -> None:
    live = watch(toy_session(tmp_path, worker, steps=3), block=True)
    with pytest.raises(TimeoutError, match="still paused after 0"):
        live.wait(0)
    live.close()


def test_interrupting_a_cell_leaves_a_run_that_goes_on_bit_for_bit(tmp_path: Path, worker: Worker) -> None:
    import _thread
    import signal

    session = toy_session(tmp_path, worker, steps=300, pause_s=0.005, probe_every=0, save_every=0)
    live = play(session, block=True)

    def press() -> None:
        until(lambda: session.state.step >= 3, "three steps")
        _thread.interrupt_main()

    # A shell that starts the tests in the background has them ignore Ctrl-C; a kernel never does.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=press, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            live.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    run = session.run
    step = run.latest_checkpoint()
    assert session.done is not None
    assert (session.done.outcome, run.checkpoints()) == ("stopped", [step])
    assert step is not None
    assert 3 <= step < 300
    config = ToyConfig(steps=300, pause_s=0.0, probe_every=0, save_every=0)
    again = resume(run, lambda r: build(r)._replace(config=config), worker=worker)
    again.play()
    again.wait(60)
    assert again.state.fingerprint == straight(config)


def test_the_engine_of_the_directory_plays_and_samples(tmp_path: Path) -> None:
    with Engine(tmp_path, handlers()) as engine:
        run = Run.create(tmp_path, "toy", ToyConfig(steps=4, save_every=0))
        live = watch(run, block=False)
        assert isinstance(live.control.client, EngineClient)
        assert live.step(2).wait_paused(30).step == 2
        assert live.sample("abc").completion == "abc"
        live.stop()
        assert live.wait(30).outcome == "stopped"
        assert live.play().wait(30).outcome == "finished"  # opened again from its checkpoint
        assert engine.sessions == {}
        assert live.branch(2, name="other").checkpoints() == [2]
        live.close()


def test_a_run_that_is_only_watched_says_so(made: Run) -> None:
    live = LiveRun(made, block=False)
    assert live.panel is not None
    assert all(b.disabled for b in live.panel.buttons.values())
    with pytest.raises(RunError, match="only watched here"):
        live.play()
    with pytest.raises(RunError, match="not in memory here"):
        live.sample("hello")
    live.panel._answer("")
    assert "write a prompt" in live.panel.answer.value
    live.close()


def test_there_is_no_front_end_outside_a_kernel(made: Run) -> None:
    assert front_end() is False
    assert LiveRun(made).panel is None


# --- predictions -----------------------------------------------------------------------------------------------------


def test_two_stretches_differ_beyond_two_standard_errors() -> None:
    # variances 1 and 1 over 3 and 3 values: SE = √(1/3 + 1/3) = 0.81650, twice that is 1.633
    up = compared("kl", "higher", [1.0, 2.0, 3.0], [2.7, 3.7, 4.7])
    assert (up.before, up.after, up.error) == pytest.approx((2.0, 3.7, 0.816497))
    assert (up.seen, up.right) == ("higher", True)
    assert compared("kl", "higher", [1.0, 2.0, 3.0], [2.6, 3.6, 4.6]).seen == "same"  # 1.6 < 1.633
    assert compared("kl", "same", [1.0, 2.0, 3.0], [-0.7, 0.3, 1.3]).seen == "lower"
    few = compared("kl", "same", [1.0, 2.0], [1.0, 2.0])
    assert (few.seen, few.right) == ("unclear", None)
    with pytest.raises(ValueError, match="'up' is not a prediction for kl; say one of higher, lower, same"):
        compared("kl", "up", [1.0], [1.0])


def grown(root: Path, name: str, kls: list[float], first: int = 1) -> Run:
    run = Run.create(root, "ppo", PPOConfig(), name=name)
    for step, kl in enumerate(kls, first):
        run.append(Updated(step, {"kl": kl}))
    return run


def test_a_change_compares_the_ends_of_a_run_and_a_branch_the_steps_that_both_have(tmp_path: Path) -> None:
    parent = grown(tmp_path, "parent", [0.0, 0.1, 0.0, 0.1, 0.0, 0.1, 1.0, 1.1, 1.0, 1.1, 1.0, 1.1])
    (change,) = check_change({"kl": "higher"}, parent).outcomes
    assert (change.before, change.after, change.seen) == (pytest.approx(0.05), pytest.approx(1.05), "higher")
    branch = grown(tmp_path, "branch", [2.0, 2.1, 2.0, 99.0, 99.0], first=10)  # steps 13 and 14 are the branch's alone
    verdict = check_branch({"kl": "lower", "gold": "same"}, branch, parent)
    kl, gold = verdict.outcomes
    assert (kl.before, kl.after) == (pytest.approx((1.1 + 1.0 + 1.1) / 3), pytest.approx((2.0 + 2.1 + 2.0) / 3))
    assert (kl.seen, kl.right, gold.seen) == ("higher", False, "unclear")
    assert "pulls the policy back" in verdict.hint
    assert "✗ kl: you said lower, it was higher" in repr(verdict)
    assert json.dumps(verdict._repr_html_()).count("<tr>") == 3
