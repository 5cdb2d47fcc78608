"""What a notebook offers beside a run: exercises that are marked, figures with knobs, and the base behind a bench."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab import tiny
from lab.config import Adapter, GroupConfig, SFTConfig
from lab.launch import setup_of
from lab.notebook import Case, Knob, Workbench, check, turn

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

EVIL = "<img src=x onerror=alert(1)>"


# --- exercises -------------------------------------------------------------------------------------------------------


def test_a_wrong_case_says_why_and_a_right_one_says_nothing():
    cases = [Case((2, 3), 5, "two and three"), Case((2, 2), 5, "wanted on purpose")]
    marks = check(lambda a, b: a + b, cases, "sums")
    assert [m.right for m in marks.marks] == [True, False]
    assert not marks.right
    assert repr(marks) == "sums: 1 of 2 cases are right\n✓ 2 · 3 → 5\n✗ 2 · 2 → 4, wanted 5: wanted on purpose"
    html = marks._repr_html_()
    assert "wanted on purpose" in html
    assert "two and three" not in html
    assert check(lambda a, b: a + b, cases[:1]).right


@pytest.mark.parametrize(("seen", "wanted", "right"), [
    (25.02, 25.0, True),  # off by less than 1e-3 · 25
    (25.03, 25.0, False),
    (0.0009, 0.0, True),
    (0.0011, 0.0, False),
    (1, 1.0, True),
    (float("nan"), 0.0, False),
    (1.0, True, False),  # a number is no verdict
    (True, True, True),
    (None, 0.0, False),
    ("same", "same", True),
])  # fmt: skip
def test_numbers_may_be_off_a_little_and_nothing_else(seen: Any, wanted: Any, right: bool):
    assert check(lambda: seen, [Case((), wanted, "")]).right is right


def test_a_tensor_of_one_number_is_a_number():
    import torch

    assert check(lambda x: torch.tensor([x]) * 2, [Case((1.5,), 3.0, "")]).right


def test_an_error_is_a_wrong_answer_with_its_sentence():
    marks = check({"a": 1}.__getitem__, [Case(("b",), 1, "no such key"), Case(("a",), 1, "")])
    assert [m.seen for m in marks.marks] == ["KeyError: 'b'", 1]
    with pytest.raises(KeyboardInterrupt):
        check(interrupted, [Case((), 1, "")])


def interrupted():
    raise KeyboardInterrupt


def test_what_an_answer_gives_is_shown_as_text():
    html = check(lambda x: x, [Case((EVIL,), 1, EVIL)], EVIL)._repr_html_()
    assert "<img" not in html
    assert html.count("&lt;img") == 4  # the title, what was given, what came back, why


# --- knobs -----------------------------------------------------------------------------------------------------------


def powers(base: float, shift: float = 0.0) -> dict[str, Any]:
    return {"data": [{"type": "scatter", "x": [0, 1, 2], "y": [shift, base + shift, base**2 + shift]}],
            "layout": {"title": {"text": f"base {base:g}"}}}  # fmt: skip


def test_a_figure_without_a_front_end_stands_still_and_turns_from_code():
    turned = turn(powers, base=Knob(1, 5, 2), shift=Knob(0, 9, 0))
    assert turned.box is None
    assert list(turned.figure.data[0].y) == [0, 2, 4]
    turned.set(base=3, shift=1)
    assert list(turned.figure.data[0].y) == [1, 4, 10]
    assert turned.figure.layout.title.text == "base 3"
    assert repr(turned) == "Turned(base=3, shift=1)"
    with pytest.raises(KeyError, match="no knob 'bass'; there are base, shift"):
        turned.set(bass=1)


def test_a_slider_draws_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lab.notebook.knobs.front_end", lambda: True)
    turned = turn(powers, base=Knob(0.01, 100, 2, log=True, label="the base"), shift=Knob(0, 9, 0, 1))
    sliders = turned.box.children[0].children
    assert [s.description for s in sliders] == ["the base", "shift"]
    assert (sliders[0].min, sliders[0].max) == (-2, 2)
    sliders[0].value = 10
    sliders[1].value = 3
    assert list(turned.figure.data[0].y) == [3, 13, 103]
    assert turned.figure._config["showSendToCloud"] is False


# --- the bench -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bench_knows_rewards_roles_and_measures_without_a_judge(tmp_path: Path):
    bench = Workbench(tmp_path / "runs", adapter=Adapter(rank=2, alpha=4))
    try:
        sft = bench.new("sft", SFTConfig(batch=4, eval_share=0.0, probe_every=0, save_every=0),
                        tiny.demonstrations(4), name="sft", probes=tiny.PROBES[:1])  # fmt: skip
        bench.play(sft).wait(120)
        roles = set(bench.base.roles)
        board = bench.measure({"SFT": sft, "base": "base"}, n=2)
        assert [row.role for row in board.rows] == ["SFT", "base"]
        assert "reward" not in repr(board) + board._repr_html_()
        assert board["SFT"].kl.mean == 0
        assert set(bench.base.roles) == roles, "the role that stood in for a judge is gone"

        sums = [row for row in tiny.train_prompts() if row.columns.get("family") == "sum"]
        config = GroupConfig(steps=1, prompts=1, group=2, max_new_tokens=8)
        run = bench.new("grpo", config, sums, {"policy": sft}, rewards=("number",))
        assert setup_of(run).rewards == ("number",)
        assert bench.role(sft) in bench.base.roles
        assert bench.call(lambda: len(bench.base.roles)) == len(roles)
    finally:
        bench.close()
