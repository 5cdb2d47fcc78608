"""A kernel as the engine, over the tiny world's own base: what a notebook does with it, on a few rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import tiny
from lab.config import Adapter, PPOConfig, RewardConfig, SFTConfig
from lab.desk import PromptError
from lab.engine import Engine, EngineError
from lab.notebook import LiveRun, Workbench, frontier
from lab.runs import Run, RunError

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

SFT = SFTConfig(lr=2e-3, batch=4, eval_share=0.0, probe_every=0, save_every=0)
PROBES = ("What is 5 plus 1?",)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    one = Workbench(tmp_path_factory.mktemp("bench") / "runs", adapter=Adapter(rank=2, alpha=4))
    yield one
    one.close()


@pytest.fixture(scope="module")
def sft(bench: Workbench) -> Run:
    run = bench.new("sft", SFT, tiny.demonstrations(12), name="sft", probes=PROBES)
    bench.play(run).wait(120)
    return run


def weights(run: Run, step: int) -> bytes:
    return (run.checkpoint(step) / "sft" / "adapter_model.safetensors").read_bytes()


def test_talking_to_a_run_leaves_it_bitwise_unchanged(bench: Workbench, sft: Run) -> None:
    run = bench.new("sft", SFT, tiny.demonstrations(12), name="asked", probes=PROBES)
    live = bench.play(run, steps=1)
    live.wait_paused(120)
    by_engine = live.sample(PROBES[0], seed=3)
    session_only = LiveRun(run, live.control.session, block=False)  # takes the former view's place, keeps the session
    by_session = session_only.sample(PROBES[0], seed=3)
    assert by_engine.completion == by_session.completion != ""
    assert by_engine.gold == by_session.gold == tiny.gold(PROBES[0], by_engine.completion, by_engine.ended).score
    bench.ask(PROBES, {"base": "base", "asked": run, "SFT": sft})
    session_only.step(1).wait_paused(120)
    session_only.sample(PROBES[0], temperature=0.5)
    session_only.play().wait(120)
    assert weights(run, 3) == weights(sft, 3)
    session_only.close()


def test_the_same_noise_for_every_role(bench: Workbench, sft: Run) -> None:
    said = bench.ask([PROBES[0], tiny.PROBES[0]], {"one": "base", "two": "base", "SFT": sft}, seed=5)
    assert said.answers["one"] == said.answers["two"]
    assert [s.prompt for s in said.answers["SFT"]] == list(said.prompts)
    html = said._repr_html_()
    assert html.count("<tr>") == 3
    assert "true score" in html


def test_a_sampler_asks_the_engine_of_the_bench(bench: Workbench, sft: Run) -> None:
    """The same words as the bench's own answers, and Δ log p to what the run started from."""
    sampler = bench.sampler({"base": "base", "SFT": sft}, PROBES[0], length=tiny.MAX_NEW_TOKENS, seed=5)
    asked = bench.ask(PROBES, {"base": "base", "SFT": sft}, seed=5)
    assert {name: s.completion for name, s in sampler.said.items()} == {
        name: said[0].completion for name, said in asked.answers.items()
    }
    said = sampler.said["SFT"]
    assert len(said.tokens) == len(said.logprobs) == len(said.reference) > 0
    assert sum(said.logprobs) - sum(said.reference) == pytest.approx(said.kl, abs=1e-4)
    assert sampler.said["base"].reference == ()
    with pytest.raises(EngineError, match="does not know “zebroid”"):
        sampler.ask("What colour is the zebroid?")


def test_words_the_world_does_not_know_are_refused_with_suggestions(bench: Workbench) -> None:
    with pytest.raises(PromptError, match="does not know “zebroid”; try “"):
        bench.ask("What colour is the zebroid?", {"base": "base"})


def test_one_run_plays_at_a_time_and_the_other_goes_on_later(bench: Workbench) -> None:
    first = bench.new("sft", SFT, tiny.demonstrations(12), name="first", probes=PROBES)
    view = bench.play(first, steps=1)
    view.wait_paused(120)
    second = bench.new("sft", SFT, tiny.demonstrations(4), name="second", probes=PROBES)
    bench.play(second).wait(120)
    assert (first.status().state, first.checkpoints()) == ("stopped", [1])
    assert view.play().wait(120).step == 3  # the view's own button opens it again


def test_the_whole_path_on_a_few_rows(bench: Workbench, sft: Run) -> None:
    prompts = tiny.train_prompts(24)
    judged = bench.compare(sft, "crowd", [p.prompt for p in prompts], 12)
    assert {p.annotator for p in judged.preferences} == {"crowd"}
    config = RewardConfig(batch=4, eval_share=0.25, probe_every=0, save_every=0)
    reward = bench.new("reward", config, judged.preferences, {"reward": sft}, name="judge")
    live = bench.play(reward)
    live.wait(120)
    assert live.follower.checks["first loss"].ok
    with pytest.raises(RunError, match="A reward model scores answers and gives none"):
        live.sample(PROBES[0])
    config = PPOConfig(steps=2, batch=4, epochs=1, max_new_tokens=12, save_every=0)
    starts = {"policy": sft, "reward": reward}
    ppo = bench.new("ppo", config, prompts, starts, name="ppo", probes=PROBES)
    live = bench.play(ppo, steps=1)
    live.wait_paused(120)
    live.edit("kl", 0.5).play().wait(120)
    assert [(e.step, e.name, e.new) for e in live.follower.edits] == [(1, "kl", 0.5)]
    assert all(c.ok for c in live.follower.checks.values())
    free = live.branch(step=1, edits={"kl": 0.0})
    assert bench.play(free).wait(120).step == 2
    board = bench.measure({"SFT": sft, "PPO": ppo}, reward=reward, n=4)
    assert (board["SFT"].kl.mean, board["SFT"].win_rate, board["PPO"].gold.n) == (0.0, None, 4)
    assert "On 4 prompts" in board._repr_html_()
    names = [trace.name for trace in frontier(ppo, free).data]
    assert names == ["ppo reward", "ppo gold", f"{free.id} reward", f"{free.id} gold"]


def test_the_directory_has_one_engine_and_a_second_workbench_takes_its_place(tmp_path: Path) -> None:
    first = Workbench(tmp_path, adapter=Adapter(rank=2, alpha=4))
    with pytest.raises(EngineError, match="another engine serves"):
        Engine(tmp_path, first.desk.handlers())
    run = first.new("sft", SFT, tiny.demonstrations(12), name="sft", probes=PROBES)
    first.play(run, steps=1).wait_paused(120)
    second = Workbench(tmp_path, adapter=Adapter(rank=2, alpha=4))
    assert (run.status().state, run.checkpoints(), first.engine.over.is_set()) == ("stopped", [1], True)
    assert second.play(run).wait(120).step == 3
    assert "rlhf-lab" in second._repr_html_()
    second.close()
