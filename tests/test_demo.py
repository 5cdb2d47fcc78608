"""The demonstration, small: every stage, the table, three prompts side by side, and the JSON that comes last."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest

from benchmarks.overoptimise import measure
from lab import demo, tiny
from lab.follow import Follower
from lab.runs import Run, runs
from lab.showcase import show_demo


@pytest.fixture
def small(monkeypatch):
    """A demonstration of some seconds: few rows, few prompts."""
    plan = partial(demo.Plan, demonstrations=128, comparisons=64, heldout=24, ppo=replace(demo.PPO, batch=16))
    monkeypatch.setattr(demo, "Plan", plan)


def test_the_whole_path(small, tmp_path, capsys):
    show_demo(str(tmp_path), studio=False, as_json=True, kl=0.0, steps=2, seed=3, annotator="expert", port=0,
              device="cpu")  # fmt: skip
    out, err = capsys.readouterr()
    said = json.loads(out.splitlines()[-1])

    base, sft, ppo = said["rows"]
    assert [r["role"] for r in said["rows"]] == ["base", "SFT", "PPO"]
    assert all(r["gold"]["low"] <= r["gold"]["mean"] <= r["gold"]["high"] for r in said["rows"])
    assert all(r["gold"]["n"] == 24 for r in said["rows"])
    assert (sft["kl"]["mean"], sft["win_rate"]) == (0, None), "SFT is its own reference and its own opponent"
    assert base["kl"]["mean"] != 0
    assert 0 <= ppo["win_rate"]["mean"] <= 1
    assert 0 < said["reward_accuracy"]["n"] <= 3 * 24
    assert [s["prompt"] for s in said["samples"]] == [tiny.PROBES[i] for i in demo.SHOWN]
    for shown in said["samples"]:
        for answer in shown["answers"].values():
            assert answer["gold"] == pytest.approx(tiny.gold(shown["prompt"], answer["text"], True).score)
    assert said["invariants"]["failed"] == []
    assert said["invariants"]["held"] > 0
    assert (said["seed"], said["runs"]) == (3, {"sft": "sft-1", "reward": "reward-1", "ppo": "ppo-1"})

    assert {i.id: i.status.state for i in runs(tmp_path)} == dict.fromkeys(("sft-1", "reward-1", "ppo-1"), "finished")
    reward, policy = (Run.open(tmp_path / name) for name in ("reward-1", "ppo-1"))
    assert (policy.config().kl, policy.config().steps, policy.config().seed) == (0.0, 2, 3)
    assert policy.manifest.parents["init"]["run"] == "sft-1"
    assert policy.manifest.parents["reward"]["run"] == "reward-1"
    judged = demo.preferences_from(reward.path)
    assert (len(judged), {p.annotator for p in judged}) == (64, {"expert"})
    follower = Follower(policy)
    follower.refresh()
    assert sorted(follower.metrics) == [1, 2]
    assert sorted(follower.probes) == [0, 2]
    assert follower.metrics[1]["kl"] == 0

    assert "proxy" in err, "people read the table beside the JSON"
    assert not (tmp_path / ".engine.json").exists(), "the engine has gone"

    along = measure(tmp_path, prompts=12, seed=1)
    assert [row["role"] for row in along["rows"]] == ["SFT", "2"], "the start and every checkpoint"
    assert (along["kl"], along["seed"], along["fall"]) == (0.0, 3, 0.0), "one checkpoint is its own peak"
    assert along["rows"][0]["kl"]["mean"] == 0
    assert along["rows"][1]["kl"]["mean"] != 0
