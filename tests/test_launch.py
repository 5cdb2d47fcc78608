"""Runs from their directories: the real trainers stopped, killed, edited, branched and resumed through them."""

from __future__ import annotations

import numpy as np
import pytest

from lab import earning, launch, tiny
from lab.base import SharedBase
from lab.config import (
    Adapter,
    GroupConfig,
    KTOConfig,
    OnlineConfig,
    PPOConfig,
    PreferenceConfig,
    RewardConfig,
    SelectionConfig,
    SFTConfig,
)
from lab.desk import Desk, PromptError
from lab.engine import SampleRequest
from lab.evaluate.table import compare_roles, figure, win_rate
from lab.feedback.annotate import compare
from lab.follow import Follower
from lab.records import Message, Preference
from lab.runs import RunError
from lab.session import resume
from lab.worker import Worker

SETUP = launch.Setup(str(tiny.CHECKPOINT), adapter=Adapter(rank=4, alpha=8), world="tiny", probes=tiny.PROBES[:2])
SFT = SFTConfig(lr=2e-3, batch=8, epochs=1, eval_every=0, probe_every=2, save_every=2)
REWARD = RewardConfig(lr=2e-3, head_lr=2e-3, batch=8, eval_every=2, save_every=2)
PPO = PPOConfig(steps=4, batch=8, lr=1e-3, max_new_tokens=16, probe_every=2, save_every=2, kl=0.1)


DPO = PreferenceConfig(lr=2e-3, batch=8, eval_every=2, probe_every=2, save_every=2)
KTO = KTOConfig(lr=2e-3, batch=16, eval_every=2, probe_every=2, save_every=2)
GRPO = GroupConfig(steps=4, prompts=3, group=4, lr=1e-3, max_new_tokens=16, probe_every=2, save_every=2)


def pairs():
    demos = tiny.demonstrations(40, seed=5)
    return [Preference(d.prompt, d.completion, "I do not know.") for d in demos if d.completion != "I do not know."]


def ppo_run(root, name="", config=PPO):
    return launch.new_run(root, "ppo", config, launch.Setup(**{**SETUP.__dict__, "rewards": (str(root / "fn.py:fn"),)}),
                          tiny.train_prompts(20), name=name)  # fmt: skip


def rewarded(method, config):
    def make(root, name=""):
        setup = launch.Setup(**{**SETUP.__dict__, "rewards": (f"0.5*{root / 'fn.py:fn'}", "length?most=40")})
        return launch.new_run(root, method, config, setup, tiny.train_prompts(20), name=name)

    return make


RUNS = {
    "sft": lambda root, name="": launch.new_run(root, "sft", SFT, SETUP, tiny.demonstrations(48), name=name),
    "reward": lambda root, name="": launch.new_run(root, "reward", REWARD, SETUP, pairs(), name=name),
    "ppo": ppo_run,
    "dpo": lambda root, name="": launch.new_run(root, "dpo", DPO, SETUP, pairs(), name=name),
    "kto": lambda root, name="": launch.new_run(root, "kto", KTO, SETUP, pairs(), name=name),
    "grpo": rewarded("grpo", GRPO),
    "online": rewarded(
        "online", OnlineConfig(steps=4, prompts=4, lr=1e-3, max_new_tokens=16, probe_every=2, save_every=2)
    ),
    "raft": rewarded(
        "raft", SelectionConfig(steps=4, prompts=4, samples=3, lr=1e-3, max_new_tokens=16, probe_every=2, save_every=2)
    ),
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "fn.py").write_text("def fn(prompt, completion, row):\n    return len(completion) / 40\n")
    return tmp_path


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


def base():
    return SETUP.load("cpu")


def opened(run, worker):
    mine = base()
    return resume(run, lambda r: launch.build(mine, r), worker=worker)


def weights(run):
    """The last checkpoint's bytes, file by file."""
    folder = run.checkpoint(run.latest_checkpoint())
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.parametrize("method", RUNS)
def test_a_run_stopped_looked_at_and_resumed_elsewhere_ends_bit_for_bit_the_same(method, root, worker):
    straight = RUNS[method](root, "straight")
    session = opened(straight, worker)
    session.play()
    session.wait(300)

    stopped = RUNS[method](root, "stopped")
    session = opened(stopped, worker)
    session.step(2)
    session.wait_paused(300)
    session.call(lambda state: state.base.add_role("guest")).result(60)
    session.stop()
    session.wait(300)
    again = opened(stopped, worker)
    again.play()
    again.wait(300)
    assert weights(stopped) == weights(straight)
    assert stopped.status().state == "finished"


def test_a_branch_carries_its_inputs_and_its_edit(root, worker):
    run = ppo_run(root, "first")
    session = opened(run, worker)
    session.play()
    session.wait(300)
    made = run.fork(2, run.config(), edits={"kl": 0.9}, name="tight")
    session = opened(made, worker)
    session.play()
    session.wait(300)
    follower = Follower(made)
    follower.refresh()
    assert [follower.metrics[s]["beta"] for s in (3, 4)] == [0.9, 0.9]


def test_a_run_needs_none_of_the_things_it_was_made_from(root, worker):
    sft = RUNS["sft"](root, "sft")
    session = opened(sft, worker)
    session.play()
    session.wait(300)
    folder, where = launch.find_role(root, "sft")
    assert where == {"run": "sft", "step": 6, "role": "sft"}
    made = launch.new_run(root, "reward", REWARD, SETUP, pairs(), {"reward": folder}, name="rm")
    import shutil

    shutil.rmtree(sft.path)
    session = opened(made, worker)
    session.play()
    assert session.wait(300).outcome == "finished"


def test_names_of_roles_and_runs_that_do_not_exist(root):
    with pytest.raises(RunError, match="There is no run and no adapter 'nobody'"):
        launch.find_role(root, "nobody")
    run = RUNS["sft"](root, "fresh")
    with pytest.raises(RunError, match="no checkpoint yet"):
        launch.find_role(root, "fresh")
    with pytest.raises(RunError, match="this process holds"):
        launch.build(SharedBase.load(tiny.CHECKPOINT, bits=32, device="cpu"), run)
    with pytest.raises(RunError, match="no reward function"):
        earning.function("nothing.py:fn")


def test_the_desk_samples_side_by_side_and_names_unknown_words(root):
    desk = Desk(root, base(), world="tiny")
    rows = list(desk.sample(SampleRequest(tiny.PROBES[0], ("base",), 1.0, 16, 3)))
    tokens = [row["token"] for row in rows[:-1]]
    assert "".join(tokens).startswith(rows[-1]["text"])
    assert rows[-1]["gold"] == tiny.gold(tiny.PROBES[0], rows[-1]["text"], rows[-1]["ended"]).score
    with pytest.raises(PromptError, match="does not know “zeppelins”") as caught:
        list(desk.sample(SampleRequest("What is the capital of zeppelins?", ("base",))))
    assert caught.value.payload["unknown"] == ["zeppelins"]
    assert caught.value.payload["suggestions"]


class Short:
    """Prefers the shorter answer, always."""

    name = "short"

    def prefer(self, prompt, a, b, rng):
        return "a" if len(a[0]) < len(b[0]) else "b"


def test_comparisons_are_of_different_ended_answers_and_reproducible():
    mine = base()
    prompts = [(Message("user", p),) for p in tiny.PROBES]
    found = compare(mine, "base", prompts, Short(), 12, max_new_tokens=24, per_prompt=3)
    assert 0 < len(found.preferences) <= 12
    assert all(len(p.chosen) <= len(p.rejected) and p.chosen != p.rejected for p in found.preferences)
    assert all(p.annotator == "short" for p in found.preferences)
    assert compare(mine, "base", prompts, Short(), 12, max_new_tokens=24, per_prompt=3) == found


def test_figures_by_hand():
    # mean of 1, 2, 3, 4 is 2.5; s² = 5/3, so the half width is 1.959964 · √(5/3) / 2
    assert figure([1, 2, 3, 4]).mean == 2.5
    assert figure([1, 2, 3, 4]).high == pytest.approx(2.5 + 1.959964 * np.sqrt(5 / 3) / 2, abs=1e-6)
    assert figure([1, 2, 3, 4], [7, 5, 0, 9]).high == pytest.approx(figure([1, 2, 3, 4]).high, abs=1e-12)
    doubled = figure([1, 2, 3, 4] * 2, [0, 1, 2, 3] * 2)  # every value twice says no more than once
    assert (doubled.n, doubled.high) == (8, pytest.approx(figure([1, 2, 3, 4]).high, abs=1e-12))
    # two wins, one tie, one loss: (2 + ½) / 4
    assert win_rate([1, 2, 3, 0], [0, 1, 3, 5]).mean == 0.625
    assert win_rate([0, 0], [0, 0]).mean == 0.5


def test_a_role_compared_with_itself_has_no_kl_and_ties_every_prompt():
    mine = base()
    mine.add_role("judge")
    mine.add_head("judge", seed=1)
    mine.add_role("twin")
    rows = compare_roles(mine, [(Message("user", p),) for p in tiny.PROBES], {"a": "base", "b": "twin"}, tiny.gold,
                         reward="judge", reference="twin", against="a", max_new_tokens=24)  # fmt: skip
    assert rows[1].kl.mean == 0.0
    assert rows[1].win_rate.mean == 0.5
    assert rows[0].gold == rows[1].gold
