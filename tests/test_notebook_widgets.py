"""Widgets that ask and point: the sampler, clicks on a curve, and letting go when a cell is run again."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

from ipywidgets.widgets import widget as widgets

from lab.client import EngineClient, EngineError
from lab.config import PPOConfig
from lab.engine import Engine, Handlers, SampleRequest
from lab.events import Probed, Sample, Updated
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item
from lab.figures import uid
from lab.notebook import Knob, LiveRun, Sampler, cards, held, label, turn
from lab.notebook.answers import beside
from lab.records import Comparison
from lab.runs import Run, Status

EVIL = '<img src=x onerror="alert(1)">'
CLOSED: list[str] = []
"""Prompts whose sampling was ended, in order."""


def until(over: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not over():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.01)


# --- the sampler -----------------------------------------------------------------------------------------------------


def say(asked: SampleRequest) -> Iterator[dict[str, Any]]:
    """Each role says its name and the prompt, word by word; everything known comes at the end.

    "slow" never ends by itself, and "odd" is refused.
    """
    prompt = asked.prompt if isinstance(asked.prompt, str) else asked.prompt[-1].content
    if prompt == "odd":
        raise ValueError("The tiny world does not know “odd”.")
    try:
        for role in asked.roles:
            yield {"role": role, "token": "the ", "text": "the "}
        while prompt == "slow":
            time.sleep(0.01)
            yield {"role": asked.roles[0], "token": ".", "text": "the first words"}
        for i, role in enumerate(asked.roles):
            yield {"role": role, "text": f"the {role} {prompt}", "ended": True, "tokens": ["the ", role, f" {prompt}"],
                   "logprobs": [-1.0, -0.5, -2.0], "reference": [-1.0, -3.0 - i, -1.0], "gold": 0.25,
                   "reasons": [["content", 0.25]], "kl": 1.5, "reward": None}  # fmt: skip
    finally:
        CLOSED.append(prompt)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EngineClient]:
    with Engine(tmp_path, Handlers(build=lambda run: None, sample=say, score=lambda asked: {})):  # type: ignore[arg-type]
        yield EngineClient(tmp_path)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody is looking: widgets are made."""
    for module in ("sampler", "knobs", "labelling"):
        monkeypatch.setattr(f"lab.notebook.{module}.front_end", lambda: True)


def test_a_sampler_without_a_front_end_is_a_table(client: EngineClient) -> None:
    sampler = Sampler(client, {"SFT": "sft-1", "<b>": "ppo-1"}, "hello")
    assert sampler.box is None
    assert [s.completion for s in sampler.said.values()] == ["the sft-1 hello", "the ppo-1 hello"]
    assert repr(sampler) == "hello\n  SFT: the sft-1 hello\n  <b>: the ppo-1 hello   (parts at word 2)"
    html = sampler._repr_html_()
    assert "&lt;b&gt;" in html
    assert "parts from A at word 2" in html
    assert "true score +0.25" in html
    sampler.ask("again", names=("<b>",), seed=4)
    assert (list(sampler.said), sampler.wish.seed) == (["<b>"], 4)
    with pytest.raises(ValueError, match="There is no 'base' here; there are SFT, <b>"):
        sampler.ask(names=("base",))
    with pytest.raises(EngineError, match="does not know “odd”"):
        sampler.ask("odd")
    with pytest.raises(ValueError, match="There is nobody to ask"):
        Sampler(client, {})


@pytest.mark.usefixtures("looked_at")
def test_a_sampler_streams_and_compares(client: EngineClient) -> None:
    sampler = Sampler(client, {"SFT": "sft-1", "PPO": "ppo-1"})
    sampler._prompt.value = EVIL
    sampler._go.click()
    until(lambda: sampler._go.description == "Generate" and "true score" in sampler._columns.value, "the end")
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;" in sampler._columns.value
    sampler._view.value = "diff"
    assert ">sft-1</del>" in sampler._columns.value
    assert ">ppo-1</ins>" in sampler._columns.value
    sampler._view.value = "heat"
    html = sampler._columns.value
    # Δ log p of the tokens is 0, 2.5 (A) or 3.5 (B), and −1: no colour, red and underlined, a third of blue
    assert 'background:rgba(52,110,235,0.00);border-radius:3px" title="Δ log p +0.00 nats">the ' in html
    assert "rgba(222,62,48,0.62);border-radius:3px;text-decoration:underline" in html
    assert 'title="Δ log p +3.50 nats">ppo-1</span>' in html
    assert 'background:rgba(52,110,235,0.25);border-radius:3px" title="Δ log p -1.00 nats">' in html
    assert "<img" not in html
    sampler._again.click()
    until(lambda: sampler.wish.seed == 1 and not sampler._going, "another seed")
    sampler._prompt.value = "odd"
    sampler._go.click()
    until(lambda: "does not know" in sampler._note.value, "the refusal")
    until(lambda: not sampler._going, "the end of the refusal")
    for prompt, button in ((" ", True), ("hello", False)):
        sampler._prompt.value = prompt
        for one in sampler._who.values():
            one.value = button
        sampler._go.click()
        assert ("Write a prompt" if button else "Choose at least one") in sampler._note.value
    sampler.close()


@pytest.mark.usefixtures("looked_at")
def test_four_at_most(client: EngineClient) -> None:
    sampler = Sampler(client, {name: f"{name}-1" for name in "abcde"})
    assert sampler.wish.names == ("a", "b", "c", "d")
    sampler._who["e"].value = True
    assert not sampler._who["e"].value
    assert "4 at most" in sampler._note.value
    sampler._who["a"].value = False
    sampler._who["e"].value = True
    assert sampler._wished().names == ("b", "c", "d", "e")
    with pytest.raises(ValueError, match="5 roles are asked for; one to 4"):
        sampler.ask("hello", names=tuple("abcde"))
    sampler.close()


@pytest.mark.usefixtures("looked_at")
def test_closing_a_sampler_ends_what_is_under_way_and_lets_go(client: EngineClient) -> None:
    before = set(widgets._instances)
    gone = weakref.ref(sampler := Sampler(client, {"SFT": "sft-1"}, "slow"))
    columns = sampler._columns
    until(lambda: "first words" in columns.value, "the first words")
    CLOSED.clear()
    sampler.close()
    until(lambda: CLOSED == ["slow"], "the end of the sampling in the engine")
    assert [t for t in threading.enumerate() if t.name == "lab-sampler"] == []
    assert set(widgets._instances) - before == set()
    sampler.close()
    del sampler
    until(lambda: gc.collect() >= 0 and gone() is None, "letting go of the sampler")


@pytest.mark.usefixtures("looked_at")
def test_stopping_keeps_what_was_said(client: EngineClient) -> None:
    sampler = Sampler(client, {"SFT": "sft-1"}, "slow")
    until(lambda: "first words" in sampler._columns.value, "the first words")
    CLOSED.clear()
    sampler._go.click()
    until(lambda: CLOSED == ["slow"], "the end of the sampling in the engine")
    assert sampler._go.description == "Generate"
    assert "the first words …" in sampler._columns.value
    sampler.close()


# --- clicks on a curve -----------------------------------------------------------------------------------------------


@pytest.fixture
def probed(tmp_path: Path) -> Run:
    """A run with answers at steps 0, 2 and 4."""
    run = Run.create(tmp_path, "ppo", PPOConfig(steps=4), name="by-hand")
    for step, word in ((0, "old"), (2, "middle"), (4, "new")):
        if step:
            run.append(Updated(step - 1, {"reward": 0.0, "kl": 0.0}))
            run.append(Updated(step, {"reward": step / 10, "kl": step / 100}))
        sample = Sample("Which?", f"the {word} answer", True, tokens=("the ", word, " answer"),
                        logprobs=(-1.0, -1.0, -1.0), reference=(-1.0, -1.5, -1.0))  # fmt: skip
        run.append(Probed(step, "policy", (sample,)))
    now = run.status()
    run.write_status(Status("paused", 4, 4, heartbeat=time.time() + 1000, pid=now.pid, host=now.host))
    return run


def click(live: LiveRun, name: str, point: int) -> None:
    """What a front end sends when somebody clicks on a point of a line."""
    assert live.panel is not None
    chart = live.panel.chart
    index = chart.lines[uid(live.run.id, name)][0]
    chart.widget._js2py_pointsCallback = {
        "event_type": "plotly_click", "selector": None, "device_state": None,
        "points": {"xs": [0], "ys": [0], "point_indexes": [point], "trace_indexes": [index]}}  # fmt: skip


def test_a_click_shows_the_answers_of_the_nearest_step(probed: Run) -> None:
    live = LiveRun(probed, block=False, every_s=1000)
    assert live.panel is not None
    answers, chart = live.panel.answers, live.panel.chart
    assert ("step 0</th>" in answers.table.value, "step 4</th>" in answers.table.value) == (True, True)
    assert list(chart.widget.layout.shapes) == []
    click(live, "reward", 0)  # step 1 is as near to 0 as to 2: the earlier one
    assert (answers.step, answers.slider.value) == (0, 0)
    click(live, "kl", 1)  # step 2
    assert (answers.step, answers.slider.value, answers.beside.value) == (2, 2, 0)
    assert ">middle</ins>" in answers.table.value
    assert {s.x0 for s in chart.widget.layout.shapes} == {2}
    probed.append(Probed(6, "policy", (Sample("Which?", "the last answer", True),)))
    live.refresh()
    assert "step 2</th>" in answers.table.value, "what somebody picked stays"
    answers.beside.value = 4
    assert ">new</del> <ins" in answers.table.value
    answers.slider.value = 0
    assert (answers.step, answers.against) == (0, 4)
    answers.newest.click()
    assert "step 6</th>" in answers.table.value
    assert list(chart.widget.layout.shapes) == []
    answers.view.value = "heat"
    assert 'title="Δ log p +0.50 nats">old</span>' in answers.table.value
    live.close()


def test_answers_from_code(probed: Run) -> None:
    live = LiveRun(probed, block=True)
    found = live.answers(2, 4)
    assert (found.now, found.then) == (2, 4)
    assert repr(found) == "Which?\n  step 4: the new answer\n  step 2: the middle answer"
    assert ">middle</ins>" in found._repr_html_()
    assert "Δ log p +0.50" in live.answers(heat=True)._repr_html_()
    (probed.path.parent / "empty").mkdir()
    empty = LiveRun(Run.create(probed.path.parent, "ppo", PPOConfig(steps=4), name="nothing"), block=True)
    assert (repr(empty.answers()), empty.answers()._repr_html_()) == ("no probe prompts were answered", "")
    shown = LiveRun(probed, block=False, every_s=1000)
    assert shown.panel is not None
    shown.answers(2)
    assert shown.panel.answers.step == 2, "the widgets follow"
    shown.close()


def test_after_closing_no_click_is_heard(probed: Run) -> None:
    before = set(widgets._instances)
    live = LiveRun(probed, block=False, every_s=1000)
    assert live.panel is not None
    panel = live.panel
    traces: Any = panel.chart.widget.data
    lines = [t for t in traces if t.hoverinfo != "skip"]
    assert {len(t._click_callbacks) for t in lines} == {1}
    live.close()
    assert {len(t._click_callbacks) for t in lines} == {0}
    assert set(widgets._instances) - before == set()
    gone = weakref.ref(panel.answers)
    del panel, live, lines, traces
    until(lambda: gc.collect() >= 0 and gone() is None, "letting go of the answers")


def test_a_reward_model_shows_what_it_thought_then(tmp_path: Path) -> None:
    from lab.config import RewardConfig

    run = Run.create(tmp_path, "reward", RewardConfig(), name="judge")
    for step, reward in ((0, 0.0), (8, 1.5)):
        run.append(Probed(step, "reward", (Sample("Which?", "this one", True, reward=reward),)))
    live = LiveRun(run, block=True)
    assert "+1.5" in live.answers()._repr_html_()
    assert "Held-out completions at step 0" in live.answers(1)._repr_html_()
    assert beside(live.follower, 1).now == 0


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Sets the cell and its turn, as a kernel tells them."""
    monkeypatch.setattr(held, "_HELD", {})

    def at(name: str, number: str) -> None:
        monkeypatch.setattr(held, "current", lambda: held.Turn(name, number))

    return at


class Thing:
    """Counts how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0
        held.hold(self)

    def close(self) -> None:
        self.closed += 1
        held.forget(self)


def test_the_next_turn_of_a_cell_closes_what_it_made(cell: Callable[[str, str], None]) -> None:
    cell("one", "1")
    first, second = Thing(), Thing()
    cell("two", "2")
    other = Thing()
    assert (first.closed, second.closed, other.closed) == (0, 0, 0)
    cell("one", "3")
    third = Thing()
    assert (first.closed, second.closed, other.closed, third.closed) == (1, 1, 0, 0)
    third.close()
    cell("one", "4")
    Thing()
    assert third.closed == 1, "what was closed is not closed again"
    assert {name: len(things) for name, (_, things) in held._HELD.items()} == {"two": 1, "one": 1}


def test_outside_a_cell_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "_HELD", {})
    assert held.current() is None
    Thing()
    assert held._HELD == {}


@pytest.mark.usefixtures("looked_at")
def test_running_cells_again_leaves_no_widget_behind(
    cell: Callable[[str, str], None], client: EngineClient, probed: Run, tmp_path: Path
) -> None:
    """Three turns of a notebook with every widget: as many widgets live as after one turn."""
    store = Store.open(tmp_path / "labels.sqlite")
    store.add([Item(Comparison("1?", "one", "two"))])
    other = Run.create(tmp_path, "ppo", PPOConfig(steps=4), name="other")

    def play(number: int) -> list[weakref.ref[Any]]:
        made: list[Any] = []
        makers: dict[str, Callable[[], Any]] = {
            "sampler": lambda: Sampler(client, {"SFT": "sft-1"}, "hello"),
            "card": lambda: label(store, "mina"),
            "knobs": lambda: turn(lambda x: {"data": [{"type": "scatter", "y": [x]}], "layout": {}}, x=Knob(0, 1, 0)),
            "view": lambda: LiveRun(probed if number % 2 else other, block=False, every_s=1000),
        }
        for name, make in makers.items():
            cell(name, str(number))
            made.append(make())
        return [weakref.ref(thing) for thing in made]

    before = len(widgets._instances)
    first = play(1)
    once = len(widgets._instances) - before
    play(2)
    until(lambda: gc.collect() >= 0 and [ref() for ref in first] == [None] * 4, "letting go of the first turn")
    play(3)
    assert once > 40
    assert abs(len(widgets._instances) - before - once) < 8, "the two runs differ in their curves alone"
    for _, things in tuple(held._HELD.values()):
        for thing in tuple(things):
            thing.close()
    assert len(widgets._instances) == before
    store.close()


def test_a_kernel_names_its_cells(tmp_path: Path) -> None:
    """In a real kernel: two cells make a figure with a knob each; running one of them again closes its own."""
    import nbformat
    from nbclient import NotebookClient

    make = "{0} = turn(lambda x: {{'data': [{{'type': 'scatter', 'y': [x]}}], 'layout': {{}}}}, x=Knob(0, 1, 0)); {0}"
    cells = ["from lab.notebook import Knob, turn\nfrom lab.notebook.held import current\nfirst = current()",
             make.format("a"), make.format("b"), "old = (a, b)", make.format("a"),
             "assert first.cell.startswith('from lab') and old[0].box is None and old[1].box is not None\n"
             "assert a is not old[0] and a.box is not None"]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, timeout=300, kernel_name="python3", store_widget_state=False,
                   resources={"metadata": {"path": str(Path(__file__).parent.parent)}}).execute()  # fmt: skip


def test_columns_of_nobody_are_nothing() -> None:
    assert cards.columns({}) == ""
