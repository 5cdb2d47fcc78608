"""The benchmarks run and say what they find; nothing here is timed."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import gpu, memory
from benchmarks.models import random_groups
from benchmarks.run import RACES, Outcome, agree, compare, passes, sampled
from benchmarks.trl_now import mismatched
from benchmarks.turns import Contender, ContenderError
from lab.encode import TokenRow


def test_the_gpu_benchmark_runs_its_whole_path_on_the_cpu(tmp_path):
    target = tmp_path / "out.json"
    result = CliRunner().invoke(gpu.main, ["--tiny", "--device", "cpu", "--target", str(target)])
    assert result.exit_code == 0, result.output
    found = json.loads(target.read_text())
    rows = found["models"]["tiny"]["rows"]
    assert not [name for name, row in rows.items() if "error" in row or "skipped" in row], rows
    speeds = [row["tokens_per_s"] for name, row in rows.items() if not name.startswith("agreement")]
    assert len(speeds) >= 16
    assert all(speed > 0 for speed in speeds)
    assert rows["agreement nf4"]["greatest_gap_nats"] < 1e-4
    assert found["machine"]["launch_us"] > 0
    ratios = {"sft over plain, tokens/s", *(f"sft over {what}, tokens/s" for what in ("ppo", "dpo", "kto", "grpo"))}
    assert ratios <= set(found["models"]["tiny"]["ratios"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_gpu_benchmark_says_so_in_a_sentence():
    result = CliRunner().invoke(gpu.main, [])
    assert result.exit_code == 1
    assert "torch sees no GPU" in result.output
    assert "Traceback" not in result.output


def test_a_failed_measurement_becomes_a_sentence_and_time_that_is_up_is_said(capsys):
    def broken():
        raise ValueError("no such layer")

    clock = gpu.Clock(torch.device("cpu"), minutes=1, repeats=1)
    assert gpu.attempt("x", broken, clock) == {"error": "ValueError: no such layer"}
    assert gpu.attempt("x", broken, gpu.Clock(torch.device("cpu"), 0, 1)) == {"skipped": "the time given was used up"}


def test_a_peak_is_seen_after_its_memory_is_given_back():
    before = memory.reset_peak()
    block = torch.ones(64 << 20, dtype=torch.uint8)
    del block
    assert memory.resident("VmHWM") - before > 48 << 20


def test_a_pair_for_the_memory_benchmark_has_the_tokens_of_a_row():
    [pair] = memory.halves([TokenRow((1, 2), (3, 4, 5, 6), (True,) * 4)])
    assert (pair.chosen.prompt_ids, pair.rejected.prompt_ids) == ((1, 2), (1, 2))
    assert (pair.chosen.completion_ids, pair.rejected.completion_ids) == ((3, 4), (5, 6))


def outcome(ours, theirs, **agreement):
    return Outcome("sft", agreement or {"loss gap": 0.0, "gradient cosine": 1.0}, ours, theirs, ours, theirs, block=2)


def test_the_ratio_is_the_median_over_turns_and_the_range_that_of_blocks():
    found = outcome([1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0])
    assert found.ratio == 2.5  # of 3, 3, 2, 2
    assert found.cpu_ratio == 2.5
    assert found.spread == (2.0, 3.0)


def test_a_row_passes_at_its_gate_and_only_with_the_same_work():
    gate = next(r.gate for r in RACES if r.name == "sft")
    assert passes(outcome([1.0], [gate]))
    assert not passes(outcome([1.0], [gate * 0.99]))
    assert not passes(outcome([1.0], [9.0], **{"loss gap": 0.01, "gradient cosine": 1.0}))
    assert not passes(outcome([1.0], [9.0], **{"loss gap": 0.0, "gradient cosine": 0.99}))
    assert not passes(outcome([1.0], [9.0], **{"same tokens": 0.98}))


def test_a_faster_side_that_samples_shorter_completions_does_not_pass():
    found = outcome([1.0, 1.0], [9.0, 9.0])
    for mine, other in ((13.0, 14.0), (14.0, 13.0)):
        compare(found, {"length": mine}, {"length": other, "width": 32})
    assert passes(found)
    assert sampled(found) == {"our length": 13.5, "their length": 13.5, "their width": 32.0}
    compare(found, {"length": 1.0}, {"length": 20.0, "width": 32})  # 28 tokens against 47
    assert not passes(found)


def test_the_losses_of_every_step_and_the_first_gradients_are_compared(tmp_path):
    race = next(r for r in RACES if r.name == "dpo")
    np.savez(tmp_path / "dpo-ours.npz", **{"policy.0.A": np.array([3.0, 0.0]), "policy.0.B": np.array([[4.0]])})
    np.savez(tmp_path / "dpo-theirs.npz", **{"policy.0.A": np.array([3.0, 4.0]), "policy.0.B": np.array([[0.0]])})
    found = outcome([1.0], [9.0])
    for mine, other in ((0.5, 0.5), (0.375, 0.25), (0.25, 0.1875)):
        compare(found, {"loss": mine}, {"loss": other})
    assert agree(race, tmp_path, {"loss": 0.5}, {}, found.losses) == {
        "loss": 0.5, "loss gap": 0.0, "gradient cosine": 9 / 25, "gradient length gap": 0.0, "last loss": 0.25,
        "later loss gap": 0.125,
    }  # fmt: skip


def test_trl_reads_the_completion_under_the_prompt_that_this_library_reads_it_under():
    rows = [[[i], [10 + i], bool(i % 2)] for i in range(8)]
    ours = {(p[0], rows[(i + 1) % 4 + i // 4 * 4][1][0]) for i, (p, _, _) in enumerate(rows)}  # the row after it
    theirs = mismatched(rows, 4)
    assert {(row["prompt_ids"][0], row["KL_completion_ids"][0]) for row in theirs} == ours
    assert [row["prompt_ids"][0] for row in theirs] == [3, 2, 1, 0, 7, 6, 5, 4]
    assert [row["label"] for row in theirs[:4]] == [True, False, True, False]


def test_the_rows_of_a_group_share_their_prompt():
    rows = random_groups(6, 50, 4, 5, 20, 3)
    assert [len({r.prompt_ids for r in rows[i : i + 3]}) for i in (0, 3)] == [1, 1]
    assert rows[0].prompt_ids != rows[3].prompt_ids
    assert len({r.completion_ids for r in rows}) == 6


def test_a_contender_does_a_step_when_told_to_and_its_failure_is_told(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(
        "from benchmarks.turns import Turn\nturn = Turn()\nprint('noise')\nturn.ready(hello=1)\n"
        "for i in range(2):\n    turn.wait()\n    turn.done(i=i)\nraise SystemExit('worn out')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    toy = Contender(sys.executable, "toy", tmp_path)
    assert toy.start() == {"hello": 1}
    for i in range(2):
        answer = toy.step()
        assert answer["i"] == i
        assert answer["wall_s"] >= 0
        assert answer["cpu_s"] >= 0
    with pytest.raises(ContenderError, match="worn out"):
        toy.step()
    toy.stop()
