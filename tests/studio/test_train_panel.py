"""The Train panel without a browser: what a form means, what is wrong with it, and a form's run on the real desk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

from apps.studio import train as train_panel
from apps.studio.link import how_to_start
from apps.studio.parts import Parts
from apps.studio.people import ME, HostOnlyError, Person, acting
from apps.studio.train import Train
from lab import form, launch, making, tiny
from lab.client import EngineClient, EngineError
from lab.columns import DataError
from lab.config import CONFIGS, ConfigError, GroupConfig, PreferenceConfig
from lab.data import write_jsonl
from lab.desk import Desk
from lab.engine import Engine
from lab.events import Updated
from lab.learner import NonFiniteError
from lab.queueing import new_key
from lab.records import Preference
from lab.runs import Run, RunError
from lab.worker import Worker

from .fake_training import SETUP, FakeTraining, keep, learnt_from_pairs
from .made import make_ppo, make_reward, make_sft, status


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    keep(make_sft(path), "sft", 20, 60)
    reward = make_reward(path)
    keep(reward, "reward", 50)
    learnt_from_pairs(reward)
    return path


@pytest.fixture
def engine(root: Path) -> FakeTraining:
    return FakeTraining(root)


@pytest.fixture
def train(root: Path, engine: FakeTraining) -> Train:
    return Train(Parts.over(root, engine, root.parent / "labels.sqlite"))


# --- what there is to choose from ------------------------------------------------------------------------------------


def test_every_method_that_can_be_launched_is_offered_with_its_page() -> None:
    offered = form.offers("tiny")["methods"]
    assert set(offered) == set(launch.KINDS) & set(CONFIGS)
    for name, method in offered.items():
        assert method["page"]["title"], name
        assert method["page"]["when"], name
        assert len({s["name"] for s in method["settings"]}) == len(method["settings"]), name
    assert offered["dpo"]["pick"] == "objective"
    assert (offered["dpo"]["mixes"], offered["grpo"]["mixes"]) == (True, False)
    assert offered["grpo"]["pick"] == "variant"
    assert {p["name"]: p["numbers"] for p in offered["dpo"]["choices"]}["simpo"] == (("beta", "2"), ("gamma", "1"))
    assert [s["name"] for s in offered["dpo"]["settings"] if s["essential"]] == ["lr", "epochs", "batch", "beta"]
    json.dumps(offered, allow_nan=False)


def test_the_world_s_own_data_are_offered_in_the_world_alone() -> None:
    assert form.offers("tiny")["sources"][0]["text"] == "tiny:demonstrations?n=2000"
    assert form.offers("")["sources"] == []


# --- what was typed --------------------------------------------------------------------------------------------------


def test_every_wrong_field_says_what_it_must_be() -> None:
    said = {"lr": "-1", "group": "many", "clip_low": "", "kl_estimator": "k9", "minibatches": "7"}
    found = form.check({"method": "grpo", "settings": said, "adapter": {"rank": "0"}})
    assert found["errors"] == {
        "lr": "lr is -1; it must lie in [0, ∞].",
        "group": "group is 'many'; it must be a whole number.",
        "kl_estimator": "kl_estimator is 'k9'; choose one of k1, k2, k3, k3_corrected.",
        "adapter.rank": "rank is 0; it must lie in [1, 512].",
    }, "7 minibatches do not divide the default 256 completions, which nobody asked for: no word about it"


def test_what_concerns_several_fields_is_said_of_none() -> None:
    found = form.check({"method": "grpo", "settings": {"prompts": "4", "group": "4", "minibatches": "3"}})
    assert found == {"errors": {"": "prompts × group (16) must be a multiple of minibatches (3)."}, "own": {}}


def test_fields_left_empty_have_the_choice_s_own_values() -> None:
    """DAPO's group, its clip and its overlong share; SimPO's β and γ; nothing of SimPO for what it does not read."""
    own = form.check({"method": "grpo", "settings": {"variant": "dapo"}})["own"]
    assert (own["group"], own["clip_low"], own["clip_high"]) == (16, 0.2, 0.28)
    own = form.check({"method": "dpo", "settings": {"objective": "simpo"}})["own"]
    assert (own["beta"], own["gamma"], own["smoothing"]) == (2.0, 1.0, None)


def test_a_number_that_the_objective_does_not_read_is_refused_at_its_field() -> None:
    found = form.check({"method": "dpo", "settings": {"objective": "ipo", "gamma": "1"}})
    assert found["errors"] == {"gamma": "gamma is given, but ipo does not read it; what it reads: beta."}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"what": "sft-1@40"}, "1*sft-1@40"),
        ({"what": "length", "weight": "0.5", "options": {"most": "8", "least": ""}}, "0.5*length?most=8"),
        ({"what": "regex", "weight": "-1e-1", "options": {"pattern": "^5 % a&b=c$"}},
         "-1e-1*regex?pattern=^5 %25 a%26b=c$"),
    ],
)  # fmt: skip
def test_a_line_of_rewards_is_what_the_terminal_takes(row: dict, text: str) -> None:
    assert form.reward(row) == text


@pytest.mark.parametrize("what", ["", "evil.py:f", "model:a-model", "/etc", "../sft-1", "sft-1/x"])
def test_a_form_leads_to_no_code_and_to_no_folder(what: str) -> None:
    with pytest.raises(ConfigError, match="neither a run nor a verifier"):
        form.reward({"what": what})
    if what:
        with pytest.raises(ConfigError, match="is not a run"):
            form.order({"method": "sft", "init": what, "data": "x"})


def test_wrong_weights_and_options_stand_at_their_line() -> None:
    rows = [{"what": "number"}, {"what": "length", "weight": "much", "options": {"most": "8"}},
            {"what": "regex", "options": {"pattern": "("}}]  # fmt: skip
    errors = form.check({"method": "grpo", "rewards": rows})["errors"]
    assert errors.keys() == {"reward.1", "reward.2"}
    assert errors["reward.1"] == "The weight is 'much'; it must be a number."
    assert "no regular expression" in errors["reward.2"]


def test_an_order_has_the_types_of_its_settings() -> None:
    made = form.order({"method": "dpo", "settings": {"lr": "1e-3", "batch": " 8 ", "objective": "ipo"}, "name": " a ",
                       "adapter": {"rank": "4"}, "init": "sft-1@40", "data": " pairs.jsonl "})  # fmt: skip
    assert made.config == PreferenceConfig(lr=1e-3, batch=8, objective="ipo")
    assert (made.adapter.rank, made.init, made.data, made.name) == (4, "sft-1@40", "pairs.jsonl", "a")
    asked = {"method": "grpo", "settings": {"whiten_tokens": "true"}, "data": "x", "rewards": [{"what": "length"}]}
    assert form.order(asked).config == GroupConfig(whiten_tokens=True)


def test_what_is_missing_is_said_with_its_place() -> None:
    with pytest.raises(ConfigError, match="There are no data") as data:
        form.order({"method": "sft", "data": " "})
    with pytest.raises(ConfigError, match="what a completion earns") as rewards:
        form.order({"method": "grpo", "data": "x"})
    assert [vars(e.value)["payload"] for e in (data, rewards)] == [{"at": "data"}, {"at": "rewards"}]
    with pytest.raises(ConfigError, match="'tea' is not a method"):
        form.order({"method": "tea"})
    with pytest.raises(ConfigError, match="There is no setting 'tea'"):
        form.check({"method": "sft", "settings": {"tea": "1"}})


# --- from an order to a run ------------------------------------------------------------------------------------------


def test_what_is_refused_leaves_nothing_behind(root: Path) -> None:
    before = sorted(p.name for p in root.iterdir())
    for asked, at, error, words in (
        ({"method": "dpo", "data": "nothing.jsonl"}, "data", DataError, "There is no file or folder nothing.jsonl."),
        ({"method": "dpo", "data": "run:nobody"}, "data", RunError, "nobody"),
        ({"method": "sft", "data": "run:reward-1"}, "data", DataError, "rename the columns"),
        ({"method": "dpo", "data": "run:reward-1", "init": "sft-1@7"}, "init", RunError, "saved steps: 20, 60"),
        ({"method": "ppo", "data": "run:reward-1", "rewards": [{"what": "nobody"}]}, "rewards", RunError, "nobody"),
        ({"method": "ppo", "data": "run:reward-1", "rewards": [{"what": "number"}]}, "rewards", ConfigError,
         "number reads the column answer, which 8 of 8 prompts lack"),
    ):  # fmt: skip
        with pytest.raises(error, match=words) as caught:
            making.prepare(root, form.order(asked), SETUP)
        assert vars(caught.value)["payload"] == {"at": at}
    assert sorted(p.name for p in root.iterdir()) == before


def test_the_tiny_world_s_data_are_for_its_own_model(root: Path) -> None:
    asked = form.order({"method": "sft", "data": "tiny:demonstrations?n=3"})
    with pytest.raises(DataError, match="this model does not come from there"):
        making.prepare(root, asked, launch.Setup("another"))
    assert len(making.prepare(root, asked, SETUP).rows.records) == 3


def test_a_run_holds_all_it_needs(root: Path) -> None:
    """A run from step 20 of sft-1 on the pairs of reward-1, which judges it too, at half weight beside a verifier."""
    rewards = [{"what": "reward-1", "weight": "0.5"}, {"what": "length", "options": {"most": "8"}}]
    asked = form.order({"method": "ppo", "data": "run:reward-1", "init": "sft-1@20", "rewards": rewards})
    run = making.prepare(root, asked, SETUP).make(root)
    assert run.manifest.parents == {
        "policy": {"run": "sft-1", "step": 20, "role": "sft"},
        "reward": {"run": "reward-1", "step": 50, "role": "reward"},
    }
    setup = launch.setup_of(run)
    assert (setup.model, setup.rewards, setup.probes) == ("a-model", ("0.5*reward", "length?most=8"), ("Hi.",))
    assert sorted(launch.starting_roles(run)) == ["policy", "reward"]
    assert len((run.path / "inputs" / "data.jsonl").read_text().splitlines()) == 8


# --- what the panel answers ------------------------------------------------------------------------------------------


def test_the_engine_is_asked_for_its_offers_once(train: Train, engine: FakeTraining) -> None:
    first = train.look({}, ME)
    assert "dpo" in first["offers"]["methods"]
    assert "offers" not in train.look({"have": first["stamp"]}, ME)
    assert "offers" in train.look({"have": "another engine's"}, ME)
    assert engine.asked == [("offers",)]
    assert {r["id"]: (r["steps"], r["data"]) for r in first["runs"]} == {
        "reward-1": ([50], True),
        "sft-1": ([20, 60], False),
    }


def test_runs_on_another_model_are_no_start(train: Train, engine: FakeTraining, root: Path) -> None:
    engine.about = {"model": "a-model", "bits": 4}  # type: ignore[attr-defined]
    said = engine.status
    engine.status = lambda: said() | {"about": {"model": "a-model", "bits": 4}}  # type: ignore[method-assign]
    assert train.look({}, ME)["runs"] == [], "the made runs name no model"
    made = making.prepare(root, form.order({"method": "dpo", "data": "run:reward-1"}), SETUP).make(root)
    time.sleep(0.6)  # the list of runs is read at most twice a second
    assert [r["id"] for r in train.look({}, ME)["runs"]] == [made.id]


def test_without_an_engine_nothing_is_offered(train: Train, engine: FakeTraining, root: Path) -> None:
    engine.there = False
    reply = train.look({}, ME)
    assert (reply["reason"], reply["stamp"], "offers" in reply) == (how_to_start(root), "", False)


def test_start_makes_a_run_and_plays_it(train: Train, engine: FakeTraining, root: Path) -> None:
    asked = {"method": "dpo", "settings": {"objective": "ipo"}, "data": "run:reward-1", "init": "sft-1", "junk": 1}
    assert train.start(asked, ME) == {"id": "dpo-1", "left_out": [], "sentence": "dpo-1 plays."}
    assert engine.asked == [("make", {k: v for k, v in asked.items() if k != "junk"}), ("play", "dpo-1")]
    assert Run.open(root / "dpo-1").config() == PreferenceConfig(objective="ipo")
    assert train.start(asked, ME) == {
        "error": "dpo-1 plays already, and one run learns at a time; this one can wait for it in the queue.",
        "behind": "dpo-1"}  # fmt: skip


def test_start_says_what_is_in_the_way(train: Train, engine: FakeTraining) -> None:
    wrong = train.start({"method": "dpo", "settings": {"lr": "-1"}, "data": "run:reward-1"}, ME)
    assert wrong["errors"] == {"lr": "lr is -1; it must lie in [0, ∞]."}
    assert train.start({"method": "dpo", "data": "no.jsonl"}, ME) == {
        "error": "There is no file or folder no.jsonl.", "at": "data"}  # fmt: skip
    assert (
        train.start({"method": "dpo", "data": "run:reward-1", "name": "sft-1"}, ME)["error"].count(
            "sft-1 exists already"
        )
        == 1
    )
    engine.refuses_to_play = "There is no memory left."
    reply = train.start({"method": "dpo", "data": "run:reward-1"}, ME)
    assert (reply["id"], reply["error"]) == ("dpo-1", "dpo-1 is made, but does not play: There is no memory left.")


# --- the list, the queue, cards ---------------------------------------------------------------------------------------

DPO = {"method": "dpo", "data": "run:reward-1"}


def fail(root: Path, run: str, step: int, error: BaseException) -> None:
    Run(root / run).save_failure(step, error)
    status(root / run, "failed", step - 1, 100, error=str(error), phase="updating")


def test_two_hosts_who_launch_at_once_get_one_run_and_one_clear_answer(
    root: Path, engine: FakeTraining, train: Train
) -> None:
    """Two Studios over the same folder, the same moment."""
    other = Train(Parts.over(root, engine, root.parent / "labels.sqlite"))
    found: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda t=t: found.append(t.start({**DPO, "key": new_key()}, ME)))
               for t in (train, other)]  # fmt: skip
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(r.get("id", "") for r in found) == ["", "dpo-1"]
    refused = next(r for r in found if "error" in r)
    assert (refused["behind"], refused["error"][:19]) == ("dpo-1", "dpo-1 plays already")
    assert len([a for a in engine.asked if a[0] == "make"]) == 1


def test_the_same_press_twice_is_one_launch(train: Train, engine: FakeTraining) -> None:
    first = train.start({**DPO, "key": "k"}, ME)
    assert train.start({**DPO, "key": "k"}, ME) == first
    assert [a[0] for a in engine.asked if a[0] == "make"] == ["make"]


def test_a_form_waits_behind_the_run_that_plays(train: Train, engine: FakeTraining, root: Path) -> None:
    engine.playing = {"sft-1": (1, 60)}
    mina = Person("mina", host=True)
    assert train.start({**DPO, "key": "a", "after": True}, mina)["place"] == 1
    assert train.act({"run": "reward-1", "action": "play", "after": True, "key": "b"}, ME)["place"] == 2
    queue = train.look({}, ME)["queue"]
    assert [(e["title"], e["by"], e["data"]) for e in queue["waiting"]] == [("dpo", "mina", "run:reward-1"),
                                                                          ("reward-1", "me", "")]  # fmt: skip
    assert [e["key"] for e in train.line({"do": "move", "key": "b", "place": 1})["waiting"]] == ["b", "a"]
    assert train.line({"do": "remove", "key": "a"})["form"] == DPO
    assert train.line({"do": "hold"})["held"] == "Held by the host."
    assert train.line({"do": "go"})["held"] == ""
    again = Train(Parts.over(root, engine, root.parent / "labels.sqlite"))
    assert [e["key"] for e in again.look({}, ME)["queue"]["waiting"]] == ["b"], "another Studio finds it"


def test_data_that_do_not_exist_do_not_wait(train: Train, engine: FakeTraining) -> None:
    engine.playing = {"sft-1": (1, 60)}
    reply = train.start({"method": "dpo", "data": "nothing.jsonl", "after": True}, ME)
    assert reply == {"error": "There is no file or folder nothing.jsonl.", "at": "data"}
    assert train.look({}, ME)["queue"]["waiting"] == []


def test_no_second_run_learns_beside_the_first(train: Train, engine: FakeTraining) -> None:
    engine.playing = {"sft-1": (1, 60)}
    assert train.act({"run": "reward-1", "action": "play"}, ME)["behind"] == "sft-1"
    assert engine.asked == []
    assert train.act({"run": "sft-1", "action": "pause"}, ME)["sentence"] == "sft-1 pauses after this step."
    assert train.act({"run": "sft-1", "action": "tea"}, ME)["error"].startswith("A run cannot tea")
    assert train.edit({"run": "sft-1", "name": "lr", "value": "1e-3"})["sentence"].startswith("lr of sft-1 is 0.001")
    assert engine.asked == [("pause", "sft-1"), ("edit", "sft-1", "lr", 1e-3)]
    with pytest.raises(ConfigError, match="lr is 'much'"):
        train.edit({"run": "sft-1", "name": "lr", "value": "much"})


def test_a_branch_plays_or_waits(train: Train, engine: FakeTraining, root: Path) -> None:
    made = train.branch({"run": "sft-1", "step": 20, "edits": {"lr": "1e-5", "batch": ""}, "key": "k"}, ME)
    assert made == {"id": "sft-2", "sentence": "sft-2 begins as sft-1 did."}
    assert engine.asked == [("branch", "sft-1", 20, {"lr": 1e-5}, ""), ("play", "sft-2")]
    assert train.branch({"run": "sft-1", "step": 20, "edits": {"lr": "1e-5"}, "key": "k"}, ME) == made, "the same press"
    second = train.branch({"run": "sft-1", "step": 60, "edits": {}, "key": "l"}, ME)
    assert second["sentence"] == "sft-3 begins as sft-1 did. It waits for sft-2."
    assert [e["run"] for e in train.look({}, ME)["queue"]["waiting"]] == ["sft-3"]
    assert Run(root / "sft-2").checkpoints() == [20]


def test_a_card_mends_what_failed(train: Train, engine: FakeTraining, root: Path) -> None:
    """Out of memory without a checkpoint: the same run anew with half the tokens. NaN with one: a slower branch."""
    made = making.prepare(root, form.order(DPO), SETUP).make(root)
    fail(root, made.id, 4, MemoryError("CUDA out of memory."))
    time.sleep(0.6)  # the list of runs is read at most twice a second
    row = next(r for r in train.look({}, ME)["list"] if r["id"] == made.id)
    assert row["card"]["title"] == "Out of memory at step 4 while updating"
    assert train.mend({"run": made.id, "label": "Retry with 4096 tokens a pass", "key": "k"}, ME)["id"] == "dpo-2"
    assert Run(root / "dpo-2").config() == PreferenceConfig(tokens_per_pass=4096)
    assert (root / "dpo-2" / "inputs" / "data.jsonl").read_bytes() == (made.path / "inputs/data.jsonl").read_bytes()
    engine.playing.clear()
    fail(root, "sft-1", 61, NonFiniteError("The loss is nan at step 60, so the run stopped.", {"rows": [1]}))
    label = "Branch from step 60 with lr 4e-05"
    assert train.mend({"run": "sft-1", "label": label}, ME)["sentence"] == "sft-2 begins as sft-1 did."
    assert engine.asked[-2] == ("branch", "sft-1", 60, {"lr": 4e-05}, "")
    assert train.mend({"run": "sft-1", "label": "Put its settings into the form"}, ME)["form"]["method"] == "sft"
    assert train.mend({"run": "sft-1", "label": "Tea"}, ME)["error"].startswith("sft-1 has changed meanwhile")


def test_a_lost_run_goes_on_with_one_button(train: Train, engine: FakeTraining, root: Path) -> None:
    status(root / "sft-1", "running", 60, 80, pid=2**22 + 5, heartbeat=1.0)
    row = next(r for r in train.look({}, ME)["list"] if r["id"] == "sft-1")
    assert row["state"] == "lost"
    assert [r["label"] for r in row["card"]["remedies"]] == ["Resume from step 60"]
    assert train.mend({"run": "sft-1", "label": "Resume from step 60"}, ME)["sentence"] == "sft-1 plays."
    assert engine.asked[-1] == ("play", "sft-1")


def test_a_run_that_was_removed_is_said_to_be_gone(train: Train, root: Path) -> None:
    assert [r["id"] for r in train.look({}, ME)["list"]] == ["reward-1", "sft-1"]
    shutil.rmtree(root / "sft-1")
    assert "sft-1" not in [r["id"] for r in train.look({}, ME)["runs"] if r["steps"]], "still listed for half a second"
    for act in (train.branch, train.act, train.mend):
        with pytest.raises(RunError, match="sft-1 is not there any more"):
            act({"run": "sft-1", "action": "play"}, ME)
    for odd in ("", "../sft-1", "/etc", None):
        with pytest.raises(RunError, match="No run is named"):
            train.again({"run": odd})


def test_the_engine_may_go_in_between(train: Train, engine: FakeTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise EngineError("the engine went away; start it again with `lab engine`.")

    monkeypatch.setattr(engine, "make", gone)
    assert train.start({**DPO, "key": "k"}, ME)["error"].startswith("the engine went away")
    monkeypatch.undo()
    assert train.start({**DPO, "key": "k"}, ME)["id"] == "dpo-1", "the same press may be tried again"


def test_absurd_values_are_refused_with_their_reason(train: Train, engine: FakeTraining) -> None:
    said = {"lr": "1e999", "epochs": "-3", "batch": "1e12", "tokens_per_pass": "0", "seed": "abc"}
    errors = train.start({**DPO, "settings": said}, ME)["errors"]
    assert errors.keys() == said.keys()
    assert errors["lr"] == "lr is inf; it must be a finite number."
    with pytest.raises(ConfigError, match="tokens_per_pass is 0"):
        train.estimate({**DPO, "settings": {"tokens_per_pass": "0"}})
    assert made_forms(engine) == []


def made_forms(engine: FakeTraining) -> list[Any]:
    return [a for a in engine.asked if a[0] == "make"]


def test_the_verdict_names_the_cheapest_change(train: Train, engine: FakeTraining) -> None:
    engine.free = 6 * 10**9
    found = train.estimate(DPO)["memory"]
    assert (found["fits"], found["peak"]) == (False, "training")
    first = found["changes"][0]
    assert (first["values"][0][0], first["fits"]) == ("tokens_per_pass", True)
    tokens = str(first["values"][0][1])
    assert train.estimate({**DPO, "settings": {"tokens_per_pass": tokens}})["memory"]["fits"] is True


def test_pins_and_labels_are_offered(train: Train, root: Path) -> None:
    found = train.look({}, ME)
    assert (found["pins"], found["labels"]) == ([], {})
    assert not (root.parent / "labels.sqlite").exists(), "looking makes no store"
    (root / ".pins.json").write_text('["Hi?", 3, "", "Ho?"]')
    assert train.look({}, ME)["pins"] == ["Hi?", "Ho?"]
    (root / ".pins.json").write_text("{")
    assert train.look({}, ME)["pins"] == []


def test_only_the_host_acts() -> None:
    """What hides a button is decoration: the handlers themselves refuse."""
    asks = {f.__name__: f for f in gradio_asks()}
    assert asks.keys() == {"look", "check", "again", "estimate", "edit", "line", "start", "branch", "act", "mend"}
    with acting(Person("ann")):
        assert asks["look"]({})["host"] is False
        for name in ("estimate", "edit", "line", "start", "branch", "act", "mend"):
            assert asks[name]({"run": "sft-1"}) == {"error": str(HostOnlyError())}, name


def gradio_asks() -> list[Any]:
    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(train_panel, "panel", lambda name, label, asks, **_: found.extend(asks))
        train_panel.build(Parts.over(folder, FakeTraining(Path(folder)), Path(folder) / "labels.sqlite"))
    return found


def test_the_page_s_process_loads_no_model_code() -> None:
    code = "import apps.studio.app, sys; print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# --- the real desk ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("desk")
    demos = [d for d in tiny.demonstrations(40, seed=5) if d.completion != "I do not know."]
    write_jsonl([Preference(d.prompt, d.completion, "I do not know.") for d in demos], root / "pairs.jsonl")
    return root


FORMS: dict[str, dict[str, Any]] = {
    "dpo": {"settings": {"objective": "ipo", "batch": "16", "lr": "1e-3", "epochs": "0.9", "eval_every": "0"}},
    "grpo": {"settings": {"variant": "dapo", "steps": "2", "prompts": "2", "group": "4", "max_new_tokens": "12"},
             "data": "tiny:prompts?family=sum&n=20", "rewards": [{"what": "length", "options": {"most": "6"}}]},
}  # fmt: skip


def test_forms_become_runs_that_play_two_steps(desk_root: Path) -> None:
    """DPO on pairs from a file, and the group family with a verifier, on the tiny world's base."""
    root, worker = desk_root / "runs", Worker()
    base = worker.submit(lambda: launch.Setup(str(tiny.CHECKPOINT)).load("cpu")).result()
    with Engine(root, Desk(root, base, "tiny").handlers(), worker=worker):
        client = EngineClient(root)
        train = Train(Parts.over(root, client, desk_root / "labels.sqlite"))
        assert train.look({}, ME)["offers"]["sources"][0]["kind"] == "sft"
        weighed = train.estimate({"method": "dpo", "data": str(desk_root / "pairs.jsonl")})
        rows = len((desk_root / "pairs.jsonl").read_text().splitlines())
        assert (weighed["data"]["rows"], weighed["memory"]["fits"], weighed["memory"]["device"]) == (rows, True, "cpu")
        assert 5 < weighed["data"]["prompt"] < weighed["data"]["longest"] < 64
        assert weighed["time"]["steps"] == -(-round(rows * 0.9) // 32)
        assert weighed["time"]["words"].startswith("A rough guess")
        missing = train.estimate({"method": "dpo", "data": "nothing.jsonl"})
        assert missing["data"] == {"error": "There is no file or folder nothing.jsonl.", "at": "data"}
        assert missing["memory"]["total"] > 0, "memory is known without the data"
        for method, asked in FORMS.items():
            reply = train.start(
                {"method": method, "data": str(desk_root / "pairs.jsonl"), "adapter": {"rank": "4"}} | asked, ME
            )
            assert reply == {"id": f"{method}-1", "left_out": [], "sentence": f"{method}-1 plays."}
            ended(client, reply["id"])
            run = Run.open(root / reply["id"])
            assert [e.event.step for e in run.read()[0] if isinstance(e.event, Updated)] == [1, 2]
            assert launch.setup_of(run).adapter.rank == 4
            time.sleep(1.1)  # what the engine last said is kept for a second
        for name in ("slow", "next"):  # the second waits for the first, and begins by itself
            more = {"name": name, "settings": {**FORMS["dpo"]["settings"], "epochs": "20" if name == "slow" else "0.5"}}
            reply = train.start({"method": "dpo", "data": str(desk_root / "pairs.jsonl"), "after": name == "next",
                                 **more}, ME)  # fmt: skip
            assert "error" not in reply
        client.stop("slow")
        for _ in range(600):
            if (root / "next" / "config.json").is_file():
                break
            time.sleep(0.1)
        ended(client, "next")
        with pytest.raises(EngineError, match="is not a run"):
            client.make({"method": "sft", "init": "/etc", "data": "tiny:demonstrations"})
        with pytest.raises(EngineError, match="regex reads the column pattern") as caught:
            client.make({"method": "grpo", "data": "run:dpo-1", "rewards": [{"what": "regex"}]})
        assert caught.value.payload == {"at": "rewards"}
    worker.close()


def ended(client: EngineClient, run: str) -> None:
    """Waits for the end of a run, which must be a good one."""
    for _ in range(600):
        (row,) = [r for r in client.status()["runs"] if r["id"] == run]
        if row["state"] in ("finished", "failed"):
            assert (row["state"], row["error"]) == ("finished", "")
            return
        time.sleep(0.1)
    raise AssertionError(f"{run} never ended")


def test_a_start_on_another_model_is_refused(desk_root: Path, tmp_path: Path) -> None:
    """The desk looks at the start's own base before anything is made."""

    class OtherBase:
        source, bits, model = "another", 4, type("Model", (), {"config": None})()

    keep(make_ppo(tmp_path, steps=2), "policy", 2)
    status(tmp_path / "ppo-1", "finished", 2, 2)
    desk = Desk(tmp_path, OtherBase())  # type: ignore[arg-type]
    with pytest.raises(RunError, match="ppo-1 runs on another model"):
        desk.make({"method": "dpo", "data": str(desk_root / "pairs.jsonl"), "init": "ppo-1"})
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["ppo-1"]
