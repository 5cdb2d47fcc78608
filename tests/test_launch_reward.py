"""Ensembles and process reward models through run directories: found whole, read as told, from the terminal."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from models import build_model

from lab import launch
from lab.cli import main
from lab.follow import Follower
from lab.runs import Run

SMALL = ["--rank", "4", "--alpha", "8", "--device", "cpu", "--lr", "1e-3"]


def lab(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_model(tmp_path / "model", "llama")
    lines(tmp_path / "ranked.jsonl", [
        {"prompt": f"Who repairs clock {i}?", "completions": ["A young doctor.", "Nobody.", "in the morning " * 2],
         "ranks": [1, 2, 2 + i % 2]} for i in range(24)])  # fmt: skip
    lines(tmp_path / "prompts.jsonl", [{"prompt": f"Who paints door {i}?"} for i in range(8)])
    return tmp_path


def metrics(name):
    follower = Follower(Run(f"runs/{name}"))
    follower.refresh()
    assert all(check.ok for check in follower.checks.values()), follower.checks
    return follower.metrics


def test_an_ensemble_from_rankings_judges_a_policy(here):
    lab("reward", "--model", "model", "--data", "ranked.jsonl", "--objective", "kwise", "--members", 3, "--batch", 6,
        "--head-lr", 1e-2, "--out", "rms", *SMALL)  # fmt: skip
    found = launch.members("reward", launch.find_role("runs", "rms"))
    assert list(found) == ["reward-1", "reward-2"]
    assert all((folder / "head.safetensors").is_file() for folder, _ in found.values())
    for how in ("mean", "worst"):
        lab("grpo", "--model", "model", "--reward", "rms", "--ensemble", how, "--data", "prompts.jsonl", "--steps", 1,
            "--prompts", 2, "--group", 4, "--max-new-tokens", 8, "--missing-end", 0, "--out", how, *SMALL)  # fmt: skip
    assert Run("runs/worst").manifest.parents["reward-2"]["member"] == 2
    # the same completions (same seed, same start), read by the mean and by the worst of three
    assert metrics("worst")[1]["reward"] < metrics("mean")[1]["reward"]


def test_plackett_luce_leaves_out_ties_and_says_so(here):
    lab("reward", "--model", "model", "--data", "ranked.jsonl", "--objective", "plackett_luce", "--batch", 4,
        "--eval-share", 0, "--out", "orders", *SMALL)  # fmt: skip
    follower = Follower(Run("runs/orders"))
    follower.refresh()
    assert [(s.reason, s.count) for s in follower.skipped] == [("no strict order", 12)]


def test_a_process_reward_model_from_the_terminal(here):
    solutions = [{"prompt": f"Count to {i}.", "completions": ["One step is right.", "This one is wrong."],
                  "labels": [True, False]} for i in range(16)]  # fmt: skip
    lines(here / "steps.jsonl", solutions)
    lab("process", "--model", "model", "--data", "steps.jsonl", "--batch", 4, "--epochs", 2, "--head-lr", 1e-2,
        "--eval-share", 0.3, "--out", "prm", *SMALL)  # fmt: skip
    seen = metrics("prm")
    assert seen[max(seen)]["step_auroc"] == 1.0
    assert launch.find_role("runs", "prm")[0].name == "process"


def test_a_role_that_is_asked_for_a_score_is_a_reward(here):
    """Two judges by weight, one with an adapter of its own: the total is their weighted sum, each within [−1, 1]."""
    lines(here / "demos.jsonl", [{"prompt": f"Who sells lamp {i}?", "completion": "An old man."} for i in range(16)])
    lab("sft", "--model", "model", "--data", "demos.jsonl", "--batch", 4, "--out", "judge", *SMALL)
    lab("grpo", "--model", "model", "--reward", "score:judge", "--reward", "0.5*score:base", "--data", "prompts.jsonl",
        "--steps", 2, "--prompts", 2, "--group", 4, "--max-new-tokens", 8, "--missing-end", 0, "--out", "rlaif",
        *SMALL)  # fmt: skip
    run = Run("runs/rlaif")
    assert launch.setup_of(run).rewards == ("score:scorer", "0.5*score:base")
    assert run.manifest.parents["scorer"]["run"] == "judge"
    for row in metrics("rlaif").values():
        judge, base = row["reward score:scorer"], row["reward score:base"]
        assert row["reward"] == pytest.approx(judge + 0.5 * base, abs=1e-5)
        assert -1 <= judge <= 1
        assert -1 <= base <= 1
        assert judge != base, "the adapter says something else"
    known = Run("runs/rlaif").path
    assert (known / "inputs" / "roles" / "scorer" / "adapter_config.json").is_file(), "the run needs nothing outside"


def test_a_judge_that_is_not_there_is_no_reward(here):
    for reward, sentence in (
        ("score:nobody", "There is no run and no adapter 'nobody'"),
        ("score:", "There is no run"),
    ):
        result = CliRunner().invoke(main, ["grpo", "--model", "model", "--reward", reward, "--data", "prompts.jsonl",
                                           "--device", "cpu"])  # fmt: skip
        assert result.exit_code == 1
        assert sentence in result.output, result.output
    assert not (here / "runs").exists()
