"""The whole path on real architectures and a file of conversations, as a person in a terminal walks it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from models import build_model

from lab.cli import main
from lab.follow import Follower
from lab.runs import Run, runs

GRPO = ["grpo", "--model", "model", "--data", "prompts.jsonl"]
SMALL = ["--rank", "4", "--alpha", "8", "--device", "cpu", "--max-grad-norm", "1"]


def conversations(path):
    """Forty conversations of two or four messages, one of them broken and one too long."""
    rows = []
    for i in range(40):
        turns = [
            {"role": "user", "content": f"What does the old teacher think of question {i}?"},
            {"role": "assistant", "content": f"Nobody knows why question {i} matters."},
        ]
        if i % 3 == 0:
            turns += [
                {"role": "user", "content": "And my neighbour?"},
                {"role": "assistant", "content": "My neighbour forgets every question."},
            ]
        rows.append(json.dumps({"messages": turns}))
    rows.insert(5, '{"messages": [')
    rows.append(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": "the green door " * 300},
                    {"role": "assistant", "content": "Yes."},
                ]
            }
        )
    )
    path.write_text("\n".join(rows) + "\n")


def preferences(path):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Who repairs clock {i}?"}],
            "chosen": [{"role": "assistant", "content": f"A young doctor repairs clock {i}."}],
            "rejected": [{"role": "assistant", "content": "with great care " * (1 + i % 3)}],
        }
        for i in range(30)
    ]
    rows.append({"prompt": "Same?", "chosen": "Yes.", "rejected": "Yes."})
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


def prompts(path):
    path.write_text("\n".join(json.dumps({"prompt": [{"role": "user", "content": f"Who paints door {i}?"}]})
                              for i in range(12)) + "\n")  # fmt: skip


def lab(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_the_path_on_a_real_architecture(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_model(tmp_path / "model", family)
    conversations(tmp_path / "demos.jsonl")
    preferences(tmp_path / "preferences.jsonl")
    prompts(tmp_path / "prompts.jsonl")

    done = lab(
        "sft",
        "--model",
        "model",
        "--data",
        "demos.jsonl",
        "--out",
        "sft",
        "--lr",
        5e-3,
        "--batch",
        8,
        "--max-length",
        200,
        *SMALL,
    )
    assert "left out 1" in done.output
    follower = Follower(Run("runs/sft"))
    follower.refresh()
    assert {s.reason.split()[0] for s in follower.skipped} >= {"longer"}
    losses = follower.columns(["loss"])["loss"].values
    assert losses[-1] < losses[0]

    lab("reward", "--init", "sft", "--data", "preferences.jsonl", "--out", "rm", "--batch", 8, "--lr", 1e-3,
        "--head-lr", 1e-3, *SMALL)  # fmt: skip
    lab("ppo", "--init", "sft", "--reward", "rm", "--data", "prompts.jsonl", "--out", "policy", "--steps", 3,
        "--batch", 8, "--max-new-tokens", 12, "--save-every", 2, *SMALL)  # fmt: skip
    assert [i.id for i in runs("runs")] == ["sft", "rm", "policy"]
    assert all(i.status.state == "finished" for i in runs("runs"))
    follower = Follower(Run("runs/policy"))
    follower.refresh()
    assert all(check.ok for check in follower.checks.values())
    assert follower.metrics[1]["kl"] == 0.0

    said = json.loads(
        lab(
            "sample",
            "--roles",
            "base,sft,policy",
            "Who paints door 3?",
            "--json",
            "--max-new-tokens",
            8,
            "--device",
            "cpu",
        ).output
    )
    assert list(said["answers"]) == ["base", "sft", "policy"]
    for name in ("sft", "policy"):
        answer = said["answers"][name]
        assert len(answer["tokens"]) == len(answer["logprobs"]) == len(answer["reference"])
        assert answer["reward"] is not None
    lab("runs")
    shown = lab("show", "policy").output
    assert "first ratio" in shown
    assert "reward" in shown

    branch = lab("branch", "policy", "--step", 2, "--set", "kl=0.5", "--out", "tighter", "--device", "cpu")
    assert "starts from step 2 of policy" in branch.output
    follower = Follower(Run("runs/tighter"))
    follower.refresh()
    assert follower.metrics[3]["beta"] == 0.5


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_the_modern_stack_on_a_real_architecture(family, tmp_path, monkeypatch):
    """Pairs, thumbs from the same pairs, then groups with a reward model, a verifier and a function of the row."""
    monkeypatch.chdir(tmp_path)
    build_model(tmp_path / "model", family)
    preferences(tmp_path / "pairs.jsonl")
    (tmp_path / "doors.jsonl").write_text(
        "\n".join(
            json.dumps({"prompt": [{"role": "user", "content": f"Who paints door {i}?"}], "door": i}) for i in range(12)
        )
        + "\n"
    )
    (tmp_path / "mine.py").write_text(
        "def named(prompt, completion, row):\n    return float(str(row['door']) in completion)\n"
    )
    lab("dpo", "--model", "model", "--data", "pairs.jsonl", "--out", "pairs", "--objective", "0.9*dpo + 0.1*nll",
        "--batch", 8, "--lr", 1e-3, *SMALL)  # fmt: skip
    lab("kto", "--init", "pairs", "--data", "pairs.jsonl", "--out", "thumbs", "--batch", 8, "--lr", 1e-3, *SMALL)
    lab("reward", "--init", "pairs", "--data", "pairs.jsonl", "--out", "rm", "--batch", 8, "--lr", 1e-3, *SMALL)
    lab("grpo", "--init", "thumbs", "--reward", "rm", "--reward", "0.5*mine.py:named", "--reward", "length?most=9",
        "--data", "doors.jsonl", "--out", "groups", "--variant", "dapo", "--steps", 3, "--prompts", 2, "--group", 4,
        "--max-new-tokens", 12, *SMALL)  # fmt: skip
    for name in ("pairs", "thumbs", "groups"):
        follower = Follower(Run(f"runs/{name}"))
        follower.refresh()
        assert follower.checks
        assert all(check.ok for check in follower.checks.values()), name
    assert {"reward reward", "reward named", "reward length"} <= follower.metrics[1].keys()
    assert "reward named" in lab("show", "groups").output or "flat_groups" in lab("show", "groups").output


def test_the_reward_may_be_a_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_model(tmp_path / "model", "llama")
    prompts(tmp_path / "prompts.jsonl")
    (tmp_path / "mine.py").write_text("def short(prompt, completion, row):\n    return -len(completion) / 10\n")
    lab("ppo", "--model", "model", "--reward", "mine.py:short", "--data", "prompts.jsonl", "--out", "brief", "--steps",
        2, "--batch", 8, "--max-new-tokens", 10, *SMALL)  # fmt: skip
    assert Run("runs/brief").status().state == "finished"


def test_mistakes_get_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_model(tmp_path / "model", "llama")
    prompts(tmp_path / "prompts.jsonl")
    preferences(tmp_path / "pairs.jsonl")
    (tmp_path / "bad.py").write_text("def wrong(prompt, completion, row):\n    return [1.0]\n")
    cases = [
        (["sft", "--model", "model", "--data", "nothing.jsonl"], "There is no file or folder nothing.jsonl"),
        (["sft", "--model", "model", "--data", "prompts.jsonl"], "rename the columns"),
        (["ppo", "--model", "./nothing", "--reward", "bad.py:wrong", "--data", "prompts.jsonl"], "There is no folder"),
        (["ppo", "--model", "model", "--reward", "rm", "--data", "prompts.jsonl"], "There is no run and no adapter"),
        (["ppo", "--model", "model", "--reward", "no.py:f", "--data", "prompts.jsonl"], "no reward function"),
        (["ppo", "--model", "model", "--reward", "bad.py:wrong", "--data", "prompts.jsonl", "--batch", "4",
          "--max-new-tokens", "4", "--device", "cpu"], "The reward wrong gave [1.0]"),
        ([*GRPO, "--reward", "numbr"], "There is no run and no adapter"),
        ([*GRPO, "--reward", "number?digits=2"], "has no option 'digits'"),
        ([*GRPO, "--reward", "number", "--group", "1"], "has no baseline"),
        (["dpo", "--model", "model", "--data", "prompts.jsonl"], "rename the columns"),
        (["dpo", "--model", "model", "--data", "pairs.jsonl", "--objective", "0.5*dpo"], "sum to 0.5, not to 1"),
        (["kto", "--model", "model", "--data", "pairs.jsonl", "--batch", "1"], "needs at least 2 rows"),
        (["resume", "nothing"], "there is no run"),
        (["sample", "hello"], "Nothing says which model to load"),
    ]  # fmt: skip
    for arguments, words in cases:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code != 0, arguments
        assert words in result.output, (arguments, result.output, result.exception)
        assert "Traceback" not in result.output
