"""A run once more: its form again, and cards about what went wrong, from run directories alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from lab import form, making
from lab.again import Remedy, card, changed, edits_of, form_of
from lab.config import Adapter, ConfigError, PPOConfig, PreferenceConfig
from lab.data import write_jsonl
from lab.events import Updated
from lab.launch import Setup
from lab.learner import NonFiniteError
from lab.memory import Machine, Rows, Wish
from lab.presets import presets
from lab.records import Preference
from lab.runs import Run, RunError, Status
from lab.timing import before, steps_of, work

SETUP = Setup("a-model", world="tiny", probes=("Hi.",))
PAIRS = [Preference(f"Question {i}?", "Yes.", "No.") for i in range(8)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_jsonl(PAIRS, tmp_path / "pairs.jsonl")
    return tmp_path / "runs"


def made(root: Path, **more: Any) -> Run:
    """A DPO run, with checkpoints of the `saved` steps."""
    saved = more.pop("saved", ())
    asked = {"method": "dpo", "data": str(root.parent / "pairs.jsonl"), **more}
    run = making.prepare(root, form.order(asked), SETUP).make(root)
    for step in saved:
        folder = run.checkpoint(step) / "policy"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
    return run


def failed(run: Run, step: int, error: BaseException, **status: Any) -> Any:
    run.save_failure(step, error)
    return card(run, Status("failed", step - 1, 100, error=str(error), **status), "failed")


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


# --- the form --------------------------------------------------------------------------------------------------------


def test_the_form_of_a_run_makes_it_again(root: Path) -> None:
    """Settings, adapter, start, data and rewards; the run's own data stand in for wherever they came from."""
    first = made(root, saved=(20, 40))
    asked = {"settings": {"lr": "0.001", "steps": "7", "whiten_rewards": "true"}, "adapter": {"rank": "4"},
             "init": f"{first.id}@20", "rewards": [{"what": f"{first.id}@40", "weight": "0.5"},
                                                   {"what": "length", "options": {"most": "8"}}]}  # fmt: skip
    run = made(root, **{"method": "ppo", **asked})
    again = form_of(run)
    assert again["settings"] == {"steps": "7", "lr": "0.001", "whiten_rewards": "true"}
    assert (again["adapter"], again["init"], again["data"]) == ({"rank": "4"}, "dpo-1@20", f"run:{run.id}")
    assert again["rewards"] == [{"what": "dpo-1@40", "weight": "0.5", "options": {}},
                                {"what": "length", "weight": "", "options": {"most": "8"}}]  # fmt: skip
    order = form.order(again)
    assert order.config == PPOConfig(lr=0.001, steps=7, whiten_rewards=True)
    assert order.adapter == Adapter(rank=4)
    twin = making.prepare(root, order, SETUP).make(root)
    assert (twin.path / "inputs" / "data.jsonl").read_text() == (run.path / "inputs" / "data.jsonl").read_text()
    assert changed(again, {"tokens_per_pass": 64})["settings"]["tokens_per_pass"] == "64"


def test_edits_have_the_types_of_their_settings(root: Path) -> None:
    run = made(root)
    assert edits_of(run, {"lr": "1e-3", "batch": " 4 ", "beta": "", "objective": "ipo"}) == {
        "lr": 1e-3, "batch": 4, "objective": "ipo"}  # fmt: skip
    with pytest.raises(ConfigError, match="batch is 'many'"):
        edits_of(run, {"batch": "many"})
    with pytest.raises(ConfigError, match="'tea' is not a setting of dpo"):
        edits_of(run, {"tea": "1"})


# --- cards -----------------------------------------------------------------------------------------------------------


def test_only_what_stands_still_by_accident_has_a_card(root: Path) -> None:
    run = made(root)
    for state in ("running", "paused", "finished", "stopped", "stale", "starting"):
        assert card(run, Status(state), state) is None
    lost = card(run, Status("running"), "lost")
    assert lost is not None
    assert lost.remedies == (Remedy("Resume", "resume"),)


def test_out_of_memory_offers_half_the_tokens(root: Path) -> None:
    """Without a checkpoint a new run of the same inputs, with one a branch from it."""
    found = failed(made(root), 4, OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), phase="updating")
    assert found.title == "Out of memory at step 4 while updating"
    assert found.remedies[0] == Remedy("Retry with 4096 tokens a pass", "retry", {"tokens_per_pass": 4096})
    saved = made(root, saved=(10, 20), settings={"tokens_per_pass": "512"})
    found = failed(
        saved, 24, RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    )
    assert found.remedies[0] == Remedy("Retry with 256 tokens a pass", "branch", {"tokens_per_pass": 256}, 20)
    small = failed(made(root, settings={"tokens_per_pass": "100"}), 1, OutOfMemoryError("CUDA out of memory."))
    assert [r.does for r in small.remedies] == ["form"], "nothing is left to halve"


def test_not_a_number_offers_a_fifth_of_the_rate_from_the_last_step(root: Path) -> None:
    run = made(root, saved=(20,), settings={"lr": "0.01"})
    error = NonFiniteError("The gradient of policy is nan at step 26, so the run stopped.", {"rows": [3, 17, 4]})
    found = failed(run, 27, error)
    assert found.title == "Not a number at step 27"
    assert found.rows == ("rows 3, 17, 4 of its data (counted from 0)",)
    assert found.remedies[0] == Remedy("Branch from step 20 with lr 0.002", "branch", {"lr": 0.002}, 20)
    fork = run.fork(20, run.config(), edits=found.remedies[0].edits)
    assert fork.edits()[-1].new == 0.002


def test_other_errors_keep_their_words_and_show_what_was_said(root: Path) -> None:
    class RewardError(RuntimeError):
        evidence = {"prompts": ["Hi?"], "completions": ["Ho."]}  # noqa: RUF012

    found = failed(made(root), 3, RewardError("the program said no"))
    assert (found.title, found.rows) == ("Failed at step 3", ("Hi? → Ho.",))
    assert [r.does for r in found.remedies] == ["resume", "form"]
    template = failed(made(root), 1, RunError("The adapter was made with another chat template."))
    assert template.title == "It does not fit its base"
    assert [r.does for r in template.remedies] == ["form"]


def test_a_failure_without_its_folder_still_has_its_sentence(root: Path) -> None:
    found = card(made(root), Status("failed", 3, 9, error="Something went wrong."), "failed")
    assert found is not None
    assert (found.title, found.cause) == ("Failed at step 4", "Something went wrong.")
    broken = made(root)
    (broken.path / "failure" / "step-000003").mkdir(parents=True)
    (broken.path / "failure" / "step-000003" / "error.json").write_text("[1")
    found = card(broken, Status("failed", 2, 9, error="No."), "failed")
    assert found is not None
    assert found.cause == "No."


# --- time and presets ------------------------------------------------------------------------------------------------


def test_steps_and_work_are_counted() -> None:
    """100 rows less a tenth, 32 to an update, two passes: 180 / 32 begun. A DPO pair: (10 + 2 · 5) tokens, thrice."""
    config = PreferenceConfig(batch=32, epochs=2, eval_share=0.1)
    assert steps_of("dpo", config, 100) == 6
    assert steps_of("dpo", config, None) is None
    assert steps_of("ppo", PPOConfig(steps=9), None) == 9
    assert work(Wish("dpo", config, rows=Rows(10, 5), machine=Machine())) == 3 * 32 * 20


def test_the_time_of_a_step_is_the_median_between_updates(root: Path) -> None:
    run, base = made(root), {"source": "a-model", "bits": 4}
    assert before(root, "dpo", base) is None
    at = time.time()
    rows = [{"kind": "Updated", "time": at + t, "step": i + 1, "metrics": {"loss": 0.1}}
            for i, t in enumerate((0, 2, 4, 6, 500, 502))]  # fmt: skip
    (run.path / "events.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert run.read()[0][0].event == Updated(1, {"loss": 0.1})
    found = before(root, "dpo", base)
    assert found is not None
    assert (found.run, found.seconds) == (run.id, 2.0)
    assert before(root, "dpo", {"source": "another", "bits": 4}) is None
    assert before(root, "sft", base) is None


@pytest.mark.parametrize("world", ["", "tiny"])
def test_every_preset_is_a_form_that_can_be(world: str) -> None:
    for method in form.launch.KINDS:
        for preset in presets(method, world):
            found = form.check({"method": method, "settings": preset["settings"]})
            assert found["errors"] == {}, (method, preset["name"])
    names = [p["name"] for p in presets("ppo", "tiny")]
    assert names == ["quick look", "as in the demonstration", "careful"]
    assert presets("ppo", "tiny")[1]["settings"]["kl"] == "0.25", "as in lab/demo.py"
