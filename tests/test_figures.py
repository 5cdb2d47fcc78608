"""Figures and the words about them, against arithmetic that can be redone by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from studio.made import append, folder, status

from lab import figures, reading
from lab.events import Checked, Edited, Event, Sample, Started, Updated
from lab.follow import Follower
from lab.metrics import GROUPS
from lab.runs import Run


def run_of(root: Path, rows: list[dict[str, float]], name: str = "ppo-1", settings: dict | None = None) -> Follower:
    """A run whose step i (from 1 on) logged `rows[i - 1]`, two seconds a step."""
    path = folder(root, name, "ppo", settings or {}, 1000.0)
    events: list[tuple[Event, float]] = [(Started("ppo", 0, len(rows)), 1000.0)]
    events += [(Updated(i, row), 1000.0 + 2 * i) for i, row in enumerate(rows, 1)]
    append(path, events)
    status(path, "finished", len(rows), len(rows))
    follower = Follower(Run(path))
    follower.refresh()
    return follower


def test_smooth_is_an_unbiased_causal_average() -> None:
    # w = ½: s₁ = 4; s₂ = (½·4·½ + ½·8) / ¾ = 20/3; s₃ = (¼·½·4 + ½·½·8 + ½·0) / ⅞ = 20/7
    assert figures.smooth([4, 8, 0], 0.5) == pytest.approx([4, 20 / 3, 20 / 7], abs=1e-12)
    assert figures.smooth([3, 1, 2], 0.0) == [3, 1, 2]
    assert figures.smooth([0.7] * 60, 0.6) == [0.7] * 60, "to the last bit"
    assert figures.smooth([4, 8, 0, 99], 0.5)[:3] == figures.smooth([4, 8, 0], 0.5)
    with pytest.raises(ValueError, match="must lie in"):
        figures.smooth([1], 1.0)


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2000, 1), (2001, 2), (4000, 2), (4001, 4), (100_000, 64)])
def test_stride_is_the_smallest_power_of_two_that_fits(count: int, expected: int) -> None:
    assert figures.stride(count) == expected


def test_long_lines_are_decimated_after_smoothing(tmp_path: Path) -> None:
    follower = run_of(tmp_path, [{"loss": float(i % 2)} for i in range(5000)])
    raw, fine = figures.traces(follower, figures.Group("Loss", ("loss",)), "#000", smoothing=0.5)
    assert len(raw["x"]) == len(fine["y"]) == 1250  # 5000 / 4, the power of two that leaves at most 2000
    assert raw["customdata"][:3] == [1, 5, 9]
    # every 4th raw value is 0, but the smooth line saw the ones between: in the long run ½ / (1 + ½) … of them
    assert set(raw["y"]) == {0.0}
    assert fine["y"][-1] == pytest.approx(1 / 3, abs=1e-9)  # s = ½·s′, s′ = ½·s + ½  →  s = 1/3 after a 0


def test_x_axes(tmp_path: Path) -> None:
    follower = run_of(tmp_path, [{"reward": 1.0, "kl": 4.0}, {"reward": 2.0}, {"reward": 3.0, "kl": 9.0}])
    assert figures.line(follower, "reward") == ([1, 2, 3], [1, 2, 3], [1, 2, 3])
    assert figures.line(follower, "reward", "sqrt_kl") == ([1, 3], [2, 3], [1, 3])
    assert figures.line(follower, "reward", "time")[1] == pytest.approx([0, 2 / 60, 4 / 60])
    assert figures.line(follower, "nothing") == ([], [], [])


def test_frontier_puts_proxy_and_gold_over_the_root_of_kl(tmp_path: Path) -> None:
    follower = run_of(tmp_path, [{"reward": 1.0, "gold": 0.5, "kl": 4.0}, {"reward": 2.0, "gold": 0.25, "kl": 9.0}])
    proxy, gold = figures.frontier([follower], smoothing=0.0)["data"]
    assert (proxy["x"], proxy["y"]) == ([2, 3], [1, 2])
    assert (gold["x"], gold["y"]) == ([2, 3], [0.5, 0.25])
    assert (proxy["line"]["dash"], gold["line"]["dash"]) == ("solid", "dash")
    assert proxy["line"]["color"] == gold["line"]["color"]


def test_groups_keep_known_order_and_name_strangers(tmp_path: Path) -> None:
    follower = run_of(tmp_path, [{"zebra_count": 1.0, "kl": 1.0, "reward": 1.0, "reward_se": 0.1}])
    assert [g.title for g in figures.groups([follower])] == ["Reward", "KL to the reference", "zebra count"]
    (line,) = figures.traces(follower, figures.Group("Reward", ("reward",)), "#000")
    assert line["text"] == [" ± 0.1"]


def test_colours_do_not_change_when_runs_come() -> None:
    few, many = figures.colours(["a", "b", "c"]), figures.colours(["a", "b", "c", "d", "e"])
    assert {r: many[r] for r in few} == few
    assert len(set(many.values())) == 5
    assert len(set(figures.colours([str(i) for i in range(8)]).values())) == len(figures.LIGHT)
    assert figures.colours(["x"], dark=True)["x"] in figures.DARK


def test_figures_are_plotly_figures_and_json(tmp_path: Path) -> None:
    import plotly.graph_objects as go

    follower = run_of(tmp_path, [{"reward": 1.0, "gold": 0.0, "kl": float(i), "length": 3.0} for i in range(4)])
    spec = figures.curve([follower], GROUPS[0], 0.5)
    json.dumps(spec, allow_nan=False)
    assert [t.name for t in go.Figure(spec).data] == [None, "ppo-1 reward", None, "ppo-1 gold"]
    assert go.Figure(figures.frontier([follower])).layout.xaxis.title.text.startswith("√KL")
    grid = figures.curves([follower], columns=2)
    assert [a.text.split(" <")[0] for a in grid.layout.annotations] == ["Reward", "KL to the reference", "Length"]
    assert {grid.layout[a].matches for a in ("xaxis", "xaxis2", "xaxis3")} == {"x"}
    assert [t.name for t in figures.curves([follower], ["length"]).data] == ["ppo-1 length", "ppo-1"]


def test_the_names_of_lines_fit_into_a_selector() -> None:
    assert figures.uid("ppo-1", "eval_loss") == "ppo-1__eval_loss"
    assert figures.uid("a.b", "x y:z") == "a_2e_b__x_20_y_3a_z"


def test_no_figure_offers_to_upload() -> None:
    assert figures.CONFIG["showSendToCloud"] is False
    assert figures.CONFIG["displaylogo"] is False
    assert "sendChartToCloud" in figures.CONFIG["modeBarButtonsToRemove"]


# ---------------------------------------------------------------- words


def test_trend_is_the_t_statistic_of_the_slope() -> None:
    # y = 0, 1, 1 over 0, 1, 2: slope ½, residuals −1/6, 1/3, −1/6, s² = 1/6, Σ(i − ī)² = 2: t = ½ / √(1/12) = √3
    assert reading.trend([0, 1, 1]) == pytest.approx(math.sqrt(3), abs=1e-12)
    assert reading.trend([5, 5, 5, 5]) == 0
    assert reading.trend([1, 2, 3, 4]) == math.inf
    assert reading.trend([4, 3, 2, 1]) == -math.inf
    assert reading.trend([1, 2]) == 0


def zigzag(i: int) -> float:
    return 0.01 * (-1) ** i


def test_health_names_over_optimisation_only_when_gold_does_not_follow(tmp_path: Path) -> None:
    flat = run_of(tmp_path, [{"reward": i / 10 + zigzag(i), "gold": 0.3 + zigzag(i)} for i in range(40)], "a-1")
    (note,) = reading.health(flat)
    assert (note.level, note.step) == ("warn", 40)
    assert "is flat for 39 steps" in note.text
    falls = run_of(tmp_path, [{"reward": i / 10 + zigzag(i), "gold": -i / 20 + zigzag(i)} for i in range(40)], "b-1")
    assert [n.level for n in reading.health(falls)] == ["bad"]
    both = run_of(tmp_path, [{"reward": i / 10 + zigzag(i), "gold": i / 20 + zigzag(i)} for i in range(40)], "c-1")
    assert reading.health(both) == []
    peak = run_of(
        tmp_path, [{"reward": i / 10 + zigzag(i), "gold": -abs(i - 40) / 20 + zigzag(i)} for i in range(80)], "d-1"
    )
    (note,) = reading.health(peak)
    assert note.level == "bad"
    assert int(note.text.split(" for ")[1].split()[0]) < 60, "the rise before the peak is no over-optimisation"


def test_health_sentences(tmp_path: Path) -> None:
    rows = [
        {
            "reward": i + zigzag(i),
            "length": 10 + i + zigzag(i),
            "kl": 10.0,
            "ended": 0.5,
            "clip_fraction": 0.4,
            "sampler_gap": 0.02,
            "explained_variance": -0.5,
            "entropy": 2.0 if i < 5 else 0.1,
        }
        for i in range(30)
    ]
    follower = run_of(tmp_path, rows, settings={"kl_target": 6.0})
    notes = reading.health(follower)
    assert [n.level for n in notes] == ["bad"] * 2 + ["warn"] * 5
    text = " | ".join(n.text for n in notes)
    for part in (
        "50% of the completions end",
        "0.020 in mean probability",
        "12 to 37 tokens in 29 steps",
        "10.0 nats, target 6",
        "40% of the token ratios",
        "-0.50",
        "from 2.00 to 0.10 nats",
    ):
        assert part in text
    append(follower.source.path, [(Edited(30, "kl_target", 6.0, 8.0), 2000.0)])
    follower.refresh()
    assert "target" not in " ".join(n.text for n in reading.health(follower)), "10 is within 1.5 × 8"


def test_over_fitting(tmp_path: Path) -> None:
    rows = [
        {"loss": 3 - i / 10 + zigzag(i), **({"eval_loss": abs(i - 10) / 10 + 1} if i % 5 == 0 else {})}
        for i in range(21)
    ]
    assert [n.text for n in reading.health(run_of(tmp_path, rows))] == [
        "held-out loss rises since step 11 while training loss falls: over-fitting"
    ]


def test_invariants_put_the_broken_first() -> None:
    checks = [Checked(1, "a", True, 0, 1, ""), Checked(1, "b", True, 0, 1, ""), Checked(5, "b", False, 2, 1, "")]
    rows, sentence = reading.invariants(checks)
    assert [(c.name, c.ok) for c in rows] == [("b", False), ("a", True)]
    assert sentence == "1 of 2 invariants broken"
    assert reading.invariants(checks[:2])[1] == "all 2 invariants hold"
    assert reading.invariants([]) == ([], "nothing checked yet")


def test_word_diff_and_first_split() -> None:
    assert reading.word_diff("the cat is red", "oh the cat is blue") == (
        ("added", "oh"),
        ("same", "the cat is"),
        ("removed", "red"),
        ("added", "blue"),
    )
    assert reading.word_diff("", "") == ()
    assert reading.first_split("a b c", "a b d") == 2
    assert reading.first_split("a b", "a b c") == 2
    assert reading.first_split("a b", "a b") is None


def sample(prompt: str, text: str) -> Sample:
    return Sample(prompt, text, True)


def test_probes_table_takes_the_nearest_steps() -> None:
    probes = {0: (sample("p", "old"),), 10: (sample("p", "new one"), sample("q", "hm"))}
    now, then, rows = reading.probes_table(probes, step=6)
    assert (now, then) == (10, 0)
    assert [(r.prompt, r.before and r.before.completion, r.after.completion) for r in rows] == [
        ("p", "old", "new one"),
        ("q", None, "hm"),
    ]
    assert reading.probes_table(probes, step=5)[0] == 0, "a tie goes to the earlier step"
    assert reading.probes_table({}) == (-1, -1, [])


def test_added_phrase_is_the_one_most_probes_gained() -> None:
    texts = [
        ("a cat.", "Great question! a cat."),
        ("b.", "Great question! b."),
        ("c.", "Great question! c. Bye."),
        ("d.", "d. Bye."),
    ]
    probes = {
        0: tuple(sample(str(i), a) for i, (a, _) in enumerate(texts)),
        9: tuple(sample(str(i), b) for i, (_, b) in enumerate(texts)),
    }
    rows = reading.probes_table(probes)[2]
    assert reading.added_phrase(rows) == ("Great question!", 3)
    assert reading.added_phrase(rows[2:]) is None
