"""Recipes: what their words mean, everything that can be wrong with them, and stacks played, stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import fields, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab import demo, launch, tiny
from lab.cli import main
from lab.columns import DataError
from lab.config import CONFIGS, ConfigError, GroupConfig, KTOConfig, PPOConfig, PreferenceConfig
from lab.data import read
from lab.events import Done, Updated
from lab.recipes import Recipe, RecipeError, Stage, plan_of, play, read_recipe, shipped
from lab.recipes.plan import CompareConfig
from lab.recipes.recipe import KEYS, edit, names, parse
from lab.records import prompt_text
from lab.runs import Run, RunError
from lab.tiny.sources import records

CLASSIC = """
name: small
adapter: {rank: 4, alpha: 8}
probes: ["What is 5 plus 1?"]
stages:
  - sft: {data: "tiny:demonstrations?n=48", lr: 3e-3, batch: 16, eval_every: 0, probe_every: 0, eval_share: 0}
  - compare: {n: 24, annotator: expert, data: "tiny:prompts?n=24", max_new_tokens: 16}
  - reward: {lr: 1e-3, head_lr: 3e-3, batch: 8, eval_every: 0, eval_share: 0}
  - ppo: {data: "tiny:prompts?n=40", steps: 2, batch: 8, lr: 1e-3, max_new_tokens: 16, probe_every: 0}
"""
"""3 updates, 24 pairs, 3 updates, 2 steps."""

MODERN = """
name: small
adapter: {rank: 4, alpha: 8}
probes: ["What is 5 plus 1?"]
stages:
  - sft: {data: "tiny:demonstrations?n=32", lr: 3e-3, batch: 16, eval_every: 0, probe_every: 0, eval_share: 0}
  - compare: {n: 16, data: "tiny:prompts?n=20", max_new_tokens: 16}
  - dpo: {objective: simpo, lr: 1e-3, batch: 8, eval_every: 0, probe_every: 0, eval_share: 0}
  - kto: {lr: 1e-3, batch: 16, eval_every: 0, probe_every: 0, eval_share: 0}
  - grpo: {data: "tiny:prompts?family=plus", rewards: [number, "0.1*length?most=40"], variant: dr_grpo, steps: 1,
           prompts: 2, group: 4, lr: 1e-3, max_new_tokens: 16, probe_every: 0}
"""


def quiet(text: str) -> None:
    """Says nothing."""


# --- words -----------------------------------------------------------------------------------------------------------


def test_a_recipe_is_a_list_of_stages_in_yaml_and_in_python() -> None:
    written = parse("stages:\n  - sft: {data: x.jsonl, lr: 3e-3, batch: 16}\n  - sft:\n  - dpo\n", "mine.yaml")
    assert written.name == "mine"
    assert written.stages == (Stage("sft", {"data": "x.jsonl", "lr": 0.003, "batch": 16}), Stage("sft"), Stage("dpo"))
    assert written.stages[0].place("lr") == "mine.yaml, line 2"
    assert names(written.stages) == ["sft", "sft-2", "dpo"]
    assert names([Stage("sft"), Stage("sft", {"name": "sft-2"}), Stage("sft")]) == ["sft", "sft-2", "sft-3"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-3", 0.003), ("1E5", 1e5), ("-.5", -0.5), ("1.", 1.0), ("010", 10), ("+3", 3), ("true", True), ("no", "no"),
     ("12:30", "12:30"), ("~", None), ("'3e-3'", "3e-3"), ("1_000", "1_000"), ("[a, 2]", ["a", 2]),
     ("0.5*number", "0.5*number"), ("'tiny:prompts?n=3'", "tiny:prompts?n=3")],
)  # fmt: skip
def test_numbers_and_words_are_those_of_yaml_1_2(text: str, value: object) -> None:
    [stage] = parse(f"stages:\n  - sft: {{lr: {text}}}\n").stages
    assert stage.says["lr"] == value
    assert type(stage.says["lr"]) is type(value)
    assert edit(Recipe([Stage("sft")]), f"sft.lr={text}").stages[0].says["lr"] == value


def test_no_method_has_a_setting_that_means_something_else_here() -> None:
    beside = {"data", "init", "name", "reward", "rewards"}
    assert [(m, f.name) for m, cls in CONFIGS.items() for f in fields(cls) if f.name in beside] == []
    assert not {f.name for f in fields(CompareConfig)} & beside


BAD_WORDS = {
    "stages: [": "bad.yaml, line 1: this is no YAML: expected the node content, but found '<stream end>'.",
    "name: x\nstages:\n  - sft: {lr: 1}\n - dpo": "bad.yaml, line 4: this is no YAML: expected <block end>, but found "
    "'<block sequence start>'.",
    "stages:\n  - sft: {data: tiny:prompts?n=3}": "bad.yaml, line 2: this is no YAML: expected ',' or '}', but got '?' "
    "(a text with a question mark stands in quotes there).",
    "": "bad.yaml: a recipe has keys (stages, name, about, model, bits, double_quant, adapter, seed, probes); this is "
    "none.",
    "name: x": "bad.yaml: a recipe needs stages; give a list of them.",
    "stages: sft": "bad.yaml, line 1: stages is a list with one “- method: {…}” for each stage.",
    "stages: []": "bad.yaml, line 1: stages is a list with one “- method: {…}” for each stage.",
    "steps: 3\nstages: [sft]": "bad.yaml, line 1: a recipe has no 'steps' (did you mean 'stages'?); it has "
    + ", ".join(KEYS) + ".",
    "stages:\n  - sft:\n    data: x": "bad.yaml, line 2: a stage has one method, this one has sft and data; what "
    "belongs to sft stands inside it, and another method begins a stage of its own.",
    "stages:\n  - sft: {}\n    dpo: {}": "bad.yaml, line 2: a stage has one method, this one has sft and dpo; what "
    "belongs to sft stands inside it, and another method begins a stage of its own.",
    "stages:\n  - [sft]": "bad.yaml, line 2: a stage is “method: {…}”.",
    "stages:\n  - sft: x.jsonl": "bad.yaml, line 2: sft has settings, “sft: {lr: 1e-3, …}”, and no value of its own.",
    "stages:\n  - sft:\n      lr: 1\n      lr: 2": "bad.yaml, line 4: lr stands twice, first on line 3.",
    "stages:\n  - sft: {lr: {a: 1}}": "bad.yaml, line 2: lr is one value or a list of values.",
    "stages:\n  - sft: {[a]: 1}": "bad.yaml, line 2: a key is a word.",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD_WORDS)
def test_a_file_that_is_no_recipe(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, "bad.yaml")
    assert caught.value.problems == (BAD_WORDS[text],)


def test_a_file_that_is_not_there_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"^There is no recipe 'clasic': neither a file nor one of classic, modern\.$"
    ):
        read_recipe("clasic")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"x\.yaml cannot be read"):
        read_recipe(tmp_path / "x.yaml")


def test_edits_change_one_word() -> None:
    recipe = parse(CLASSIC)
    assert edit(recipe, "ppo.kl=0.5").stages[3].says["kl"] == 0.5
    assert edit(recipe, "ppo.max-new-tokens=8").stages[3].says["max_new_tokens"] == 8
    assert (edit(recipe, "seed=3").seed, edit(recipe, "model=x").model) == (3, "x")
    assert plan_of(edit(recipe, "adapter.rank=2")).setup.adapter.rank == 2
    assert plan_of(edit(edit(recipe, "seed=3"), "ppo.seed=5")).stages[3].config.seed == 5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kl", "--set kl: an edit is stage.setting=value, or setting=value for the whole recipe."),
        ("ppi.kl=1", "--set ppi.kl=1: there is no stage 'ppi' (did you mean 'ppo'?); there are sft, compare, reward, "
                     "ppo."),
        ("stages=1", "--set stages=1: 'stages' cannot be set for a whole recipe; name, about, model, bits, "
                     "double_quant, seed can."),
        ("ppo.kl=-1", "--set ppo.kl=-1: kl is -1; it must lie in [0, ∞]."),
        ("bits=5", "--set bits=5: bits is 5; choose one of 4, 8, 16, 32."),
        ("adapter.rank=0", "--set adapter.rank=0: rank is 0; it must lie in [1, 512]."),
    ],
)  # fmt: skip
def test_edits_that_cannot_work(text: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_of(edit(parse(CLASSIC), text))
    assert caught.value.problems == (sentence,)


# --- meaning ---------------------------------------------------------------------------------------------------------


def test_what_a_stage_leaves_out() -> None:
    plan = plan_of(parse(CLASSIC + "  - compare: {data: 'tiny:prompts'}\n  - ppo: {data: 'tiny:prompts'}\nseed: 7\n"))
    assert [(s.name, s.init, s.data, s.rewards) for s in plan.stages] == [
        ("sft", "base", "tiny:demonstrations?n=48", ()),
        ("compare", "sft", "tiny:prompts?n=24", ()),
        ("reward", "sft", "compare", ()),
        ("ppo", "sft", "tiny:prompts?n=40", ("reward",)),
        ("compare-2", "ppo", "tiny:prompts", ()),
        ("ppo-2", "ppo", "tiny:prompts", ("reward",)),
    ]
    assert {s.config.seed for s in plan.stages} == {7}
    assert [s.steps for s in plan.stages] == [3, None, 3, 2, None, 100]
    assert plan.setup.probes == ("What is 5 plus 1?",)
    assert plan_of([Stage("sft", {"data": "tiny:demonstrations"})]).setup.probes == tiny.PROBES
    modern = plan_of(parse(MODERN)).stages
    assert [(s.init, s.data, s.rows) for s in modern[2:4]] == [("sft", "compare", 16), ("dpo", "compare", 32)]
    assert modern[4].rewards == ("number", "0.1*length?most=40")


def test_the_shipped_recipes() -> None:
    assert set(shipped()) == {"classic", "modern"}
    classic, modern = (plan_of(read_recipe(name)).stages for name in ("classic", "modern"))
    assert [s.config for s in classic if s.method != "compare"] == [demo.SFT, demo.REWARD, demo.PPO], "as lab demo"
    own = demo.Plan()
    assert (classic[0].rows, classic[1].config.n) == (own.demonstrations, own.comparisons)
    assert [s.method for s in modern] == ["sft", "compare", "dpo", "grpo"]
    assert modern[3].rewards == ("number",)
    assert modern[3].config.variant == "dapo"
    for name in ("classic", "modern"):
        assert read_recipe(name).name == name
        assert read_recipe(name).about


def test_paths_begin_where_the_recipe_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    row = {"prompt": "What is 1 plus 1?", "answer": "2", "completion": "2."}
    for name in ("a.jsonl", "mine/b.jsonl"):
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    (tmp_path / "mine" / "fn.py").write_text("def fn(prompt, completion, row):\n    return 0.0\n")
    (tmp_path / "mine" / "r.yaml").write_text(
        "stages:\n  - sft: {data: b.jsonl}\n  - grpo: {data: a.jsonl, reward: ['fn.py:fn', 2*number]}\n"
    )
    monkeypatch.chdir(tmp_path)
    sft, grpo = plan_of(read_recipe("mine/r.yaml")).stages
    assert (sft.data, sft.rows) == (str(tmp_path / "mine" / "b.jsonl"), 1)
    assert grpo.data == str(tmp_path / "a.jsonl"), "or else where the reader does"
    assert grpo.rewards == (f"{tmp_path / 'mine' / 'fn.py'}:fn", "2*number")
    [hub] = plan_of([Stage("sft", {"data": "somebody/something"})]).stages
    assert (hub.data, hub.rows, hub.steps) == ("somebody/something", None, None)


SFT = "  - sft: {data: 'tiny:demonstrations?n=48'}\n"
REWARD = SFT + "  - compare: {data: 'tiny:prompts', n: 8}\n  - reward\n"
BAD = {
    "  - sftt: {data: x}": "line 2: there is no method 'sftt' (did you mean 'sft'?); there are compare, "
    + ", ".join(m for m in CONFIGS if m in launch.KINDS) + ".",
    "  - sft: {data: 'tiny:demonstrations',\n          learning: 1}": "line 3: sft has no setting 'learning'; it has "
    "data, init, name, lr, epochs, batch, ",
    SFT + "  - compare: {data: 'tiny:prompts', anotator: crowd}": "line 3: compare has no setting 'anotator' (did you "
    "mean 'annotator'?); it has data, init, name, n, annotator, ",
    "  - sft: {data: 'tiny:demonstrations', reward: number}": "line 2: sft has no setting 'reward'; it has data, ",
    "  - sft: {data: 'tiny:demonstrations',\n          lr: much}": "line 3: lr is 'much'; it must be a number.",
    "  - sft: {data: 'tiny:demonstrations',\n          batch: 1.5}": "line 3: batch is 1.5; it must be a whole number.",
    "  - sft: {data: 'tiny:demonstrations',\n          lr: -1}": "line 3: lr is -1; it must lie in [0, ∞].",
    SFT + "  - compare: {data: 'tiny:prompts', annotator: me}": "line 3: annotator is 'me'; choose one of expert, ",
    REWARD + "  - ppo: {data: 'tiny:prompts', batch: 9, per_prompt: 2}": "line 5: batch (9) must be a multiple of ",
    SFT + "  - sft: {data: 'tiny:demonstrations', name: sft}": "line 3: an earlier stage is called sft too; name them "
    "apart.",
    "  - sft: {data: 'tiny:demonstrations', name: base}": "line 2: 'base' cannot be a stage's name; use letters, "
    "digits, '-', '_' and '.', and not base or adapter.",
    "  - sft: {data: 'tiny:demonstrations', name: a/b}": "line 2: 'a/b' cannot be a stage's name; ",
    "  - sft": "line 2: sft has no data; give a path, a Hub id or a source of the tiny world.",
    SFT + "  - dpo": "line 3: dpo has no data; give a path, a Hub id or a source of the tiny world, or a compare stage "
    "before it.",
    "  - sft: {data: 3}": "line 2: data is 3; it must be text.",
    "  - sft: {data: none.jsonl}": "line 2: There is no file or folder none.jsonl.",
    "  - sft: {data: 'tiny:prompts'}": "line 2: tiny:prompts gives 'prompt' data, but 'sft' data are needed.",
    "  - sft: {data: 'tiny:demos'}": "line 2: The tiny world has no 'demos'; it has tiny:demonstrations, tiny:prompts",
    SFT + "  - dpo: {data: sft}": "line 3: data is sft, which is no compare stage before this one.",
    SFT + "  - dpo: {data: compare}\n  - compare: {data: 'tiny:prompts'}": "line 3: data is compare, which is no "
    "compare stage before this one.",
    REWARD + "  - ppo: {data: compare}": "line 5: compare gives pairs, but ppo learns from 'prompt' data.",
    "  - compare: {data: 'tiny:prompts'}": "line 2: no stage before this one trains a policy whose answers could be "
    "compared; put it after one, or say init: base for the raw base.",
    REWARD + "  - ppo: {data: 'tiny:prompts', init: reward}": "line 5: init is reward, a stage that trains no policy; "
    "policies so far: sft.",
    "  - sft: {data: 'tiny:demonstrations', init: dpo}\n  - compare: {data: 'tiny:prompts'}\n  - dpo": "line 2: init "
    "is dpo, a stage that comes no earlier; policies so far: none.",
    "  - sft: {data: 'tiny:demonstrations', init: ./nothing}": "line 2: init is './nothing', which is neither an "
    "earlier stage nor a folder with an adapter; policies so far: none.",
    SFT + "  - ppo: {data: 'tiny:prompts'}": "line 3: ppo has no reward; name a verifier (number, ",
    SFT + "  - ppo: {data: 'tiny:prompts', reward: lenght}": "line 3: there is no reward 'lenght' (did you mean "
    "'length'?); it is an earlier reward stage (none yet), a verifier (number, ",
    SFT + "  - ppo: {data: 'tiny:prompts', reward: sft}": "line 3: sft is no reward stage before this one; there are "
    "none.",
    SFT + "  - ppo: {data: 'tiny:prompts', reward: 'none.py:f'}": "line 3: There is no reward function at ",
    SFT + "  - ppo: {data: 'tiny:prompts', reward: 'length?mist=1'}": "line 3: length has no option 'mist'; it has ",
    SFT + "  - ppo: {data: 'tiny:prompts', reward: '2*'}": "line 3: there is no reward '2*'; ",
    SFT + "  - ppo: {data: 'tiny:prompts', reward: ['length?most=9', '2*length?most=9']}":
    "line 3: the reward length?most=9 stands twice; give "
    "it once, with a weight.",
    REWARD + "  - ppo: {data: 'tiny:prompts', reward: 'length?most=9', rewards: reward}": "line 5: reward and "
    "rewards are the same; give one of them.",
    SFT + "  - ppo: {data: 'tiny:prompts?family=greeting&n=9', reward: number}": "line 3: number reads the column "
    "answer, which 9 of 9 prompts lack.",
    SFT + "bits: 5": "line 3: bits is 5; choose one of 4, 8, 16, 32.",
    SFT + "seed: much": "line 3: seed is 'much'; it must be a whole number.",
    SFT + "name: a/b": "line 3: name is 'a/b'; it must be letters, digits, '-', '_' and '.'.",
    SFT + "probes: What?": "line 3: probes is a list of prompts.",
    SFT + "adapter:\n  rnak: 4": "line 4: an adapter has no setting 'rnak' (did you mean 'rank'?); it has "
    "rank, alpha, ",
    "  - sft: {data: somebody/something}\nmodel: ./nothing": "line 3: There is no folder ./nothing; give tiny, a "
    "folder or a Hub id.",
    "  - sft: {data: 'tiny:demonstrations'}\nmodel: some/model": "line 2: tiny:demonstrations is data of the tiny "
    "world, and this model does not come from there; give a file.",
    "  - sft: {data: a/b}\n  - compare: {data: a/b}\nmodel: some/model": "line 3: the annotators judge answers of the "
    "tiny world alone; give the pairs as data.",
}  # fmt: skip


@pytest.mark.parametrize("stages", BAD)
def test_a_recipe_that_cannot_be_played(stages: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_of(parse(f"stages:\n{stages}\n", "bad.yaml"))
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"bad.yaml, {BAD[stages]}")


def test_all_that_is_wrong_is_said_at_once_and_nothing_that_only_follows_from_it() -> None:
    stages = [Stage("sftt"), Stage("compare", {"data": "tiny:prompts", "n": 0}), Stage("reward"),
              Stage("ppo", {"data": "tiny:prompts", "kl": -1})]  # fmt: skip
    with pytest.raises(RecipeError) as caught:
        plan_of(Recipe(stages, bits=3))
    said = caught.value.problems
    assert [line.partition(":")[0] for line in said] == ["the recipe", "stage sftt", "stage compare", "stage ppo"]
    assert str(caught.value) == "\n".join(said)
    with pytest.raises(RecipeError, match="needs stages"):
        plan_of([])


# --- the tiny world's own data ---------------------------------------------------------------------------------------


def test_data_of_the_tiny_world_by_name() -> None:
    assert records("tiny:demonstrations?n=5", "sft", 3) == tiny.demonstrations(5, seed=3)
    every = records("tiny:prompts", "prompt", 3)
    assert [r.prompt for r in every] == [r.prompt for r in tiny.train_prompts(seed=3)]
    sums = records("tiny:prompts?family=plus,greeting&n=60", "prompt", 3)
    kinds = {tiny.family(prompt_text(r.prompt)) for r in sums}
    assert kinds == {"sum", "greeting"}
    assert all("minus" not in prompt_text(r.prompt) for r in sums)
    assert [r.row for r in sums] == list(range(60))
    assert [r.prompt for r in sums] == [r.prompt for r in every if r.prompt in {s.prompt for s in sums}], "their order"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tiny:prompts?m=3", "tiny:prompts has no option 'm'; it has n, family."),
        ("tiny:prompts?n=0", "n is '0'; it must be a whole number from 1 on."),
        ("tiny:prompts?n=many", "n is 'many'; it must be a whole number from 1 on."),
        ("tiny:prompts?family=sums", "The tiny world asks no questions of the family 'sums'; it has capital, animal, "),
        ("tiny:prompts?n=99999", "The tiny world has "),
    ],
)
def test_data_the_tiny_world_has_not(text: str, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        records(text, "prompt")
    assert str(caught.value).startswith(sentence)


# --- playing ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base():
    return launch.Setup(str(tiny.CHECKPOINT), world="tiny").load("cpu")


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory):
    """The classic stack, never stopped, with its events."""
    root = tmp_path_factory.mktemp("straight")
    seen: list[tuple[str, object]] = []
    played = play(parse(CLASSIC), root, base=base, heldout=8, say=quiet, on_event=lambda run, event: seen.append(
        (run, event)))  # fmt: skip
    return played, seen


def weights(root: Path, stage: str) -> dict[str, bytes]:
    """The last checkpoint's tensors, file by file."""
    run = Run.open(root / stage)
    folder = run.checkpoint(run.latest_checkpoint() or 0)
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


def test_the_classic_stack_from_its_first_stage_to_the_table(straight) -> None:
    played, seen = straight
    assert (played.stopped, played.judge) == ("", "reward")
    assert played.runs == {"sft": "sft", "reward": "reward", "ppo": "ppo"}
    done = [(run, event.step) for run, event in seen if isinstance(event, Done)]
    assert done == [("sft", 3), ("reward", 3), ("ppo", 2)]
    ppo = Run.open(played.root / "ppo")
    parents = ppo.manifest.parents
    assert {part: (p["run"], p["step"]) for part, p in parents.items()} == {
        "policy": ("sft", 3),
        "reward": ("reward", 3),
    }
    assert ppo.config() == replace(PPOConfig(), steps=2, batch=8, lr=1e-3, max_new_tokens=16, probe_every=0)
    pairs = read(played.root / "compare.jsonl", "preference").records
    assert (len(pairs), {p.annotator for p in pairs}) == (24, {"expert"})
    base, sft, earned = played.rows
    assert [base.role, sft.role, earned.role] == ["base", "sft", "ppo"]
    assert (sft.kl.mean, sft.win_rate, base.gold.n) == (0.0, None, 8)
    assert earned.kl.mean != 0
    known = json.loads((played.root / "recipe.json").read_text())
    assert known["runs"] == played.runs
    assert [row["name"] for row in known["recipe"]["stages"]] == ["sft", "compare", "reward", "ppo"]


def test_a_finished_stack_is_not_played_again(straight) -> None:
    played, _ = straight
    heard: list[object] = []
    again = play(parse(CLASSIC), played.root, heldout=0, say=quiet, on_event=lambda run, event: heard.append(run))
    assert (again.runs, again.rows, heard) == (played.runs, [], [])


def press(when):
    """A listener that presses Ctrl-C once, when `when(run, event)` first holds."""
    pressed: list[int] = []

    def listen(*seen: object) -> None:
        if not pressed and when(*seen):
            pressed.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    return listen


def test_a_stack_stopped_in_every_way_ends_bit_for_bit_as_one_that_never_was(straight, base, tmp_path) -> None:
    recipe, calm = parse(CLASSIC), {"base": base, "heldout": 0, "say": quiet}
    with pytest.raises(KeyboardInterrupt):
        play(recipe, tmp_path, **calm, on_progress=press(lambda what, done, of: what == "comparing answers"))
    assert not (tmp_path / "compare.jsonl").exists(), "there as a whole or not at all"
    calm["base"] = launch.Setup(str(tiny.CHECKPOINT), world="tiny").load("cpu")  # as in another process
    stopped = play(recipe, tmp_path, **calm, on_event=press(
        lambda run, event: run == "reward" and isinstance(event, Updated) and event.step == 1))  # fmt: skip
    assert stopped.stopped == "reward"
    assert stopped.runs == {"sft": "sft", "reward": "reward"}
    assert 1 <= Run.open(tmp_path / "reward").status().step < 3

    def leave(run: str, event: object) -> None:
        if run == "ppo" and isinstance(event, Updated):
            raise KeyboardInterrupt  # as the second Ctrl-C does: without a checkpoint

    with pytest.raises(KeyboardInterrupt):
        play(recipe, tmp_path, **calm, on_event=leave)
    done = play(recipe, tmp_path, **calm)
    assert (done.stopped, done.runs) == ("", straight[0].runs)
    assert (tmp_path / "compare.jsonl").read_bytes() == (straight[0].root / "compare.jsonl").read_bytes()
    for stage in done.runs:
        assert weights(tmp_path, stage) == weights(straight[0].root, stage), stage


def test_the_modern_stack_with_a_verifier_and_no_reward_model(base, tmp_path) -> None:
    played = play(parse(MODERN), tmp_path, base=base, heldout=4, say=quiet)
    assert played.runs == {name: name for name in ("sft", "dpo", "kto", "grpo")}
    assert [row.role for row in played.rows] == ["base", "sft", "dpo", "kto", "grpo"]
    assert (played.judge, {row.proxy for row in played.rows}) == ("", {None}), "nobody scores"
    starts = {name: Run.open(tmp_path / name).manifest.parents for name in played.runs}
    assert starts["sft"] == {}
    assert [starts[name]["policy"]["run"] for name in ("dpo", "kto", "grpo")] == ["sft", "dpo", "kto"]
    assert isinstance(Run.open(tmp_path / "dpo").config(), PreferenceConfig)
    assert isinstance(Run.open(tmp_path / "kto").config(), KTOConfig)
    assert isinstance(Run.open(tmp_path / "grpo").config(), GroupConfig)
    assert launch.setup_of(Run.open(tmp_path / "grpo")).rewards == ("number", "0.1*length?most=40")
    row = json.loads((tmp_path / "grpo" / "inputs" / "data.jsonl").read_text().splitlines()[0])
    assert row["answer"].isdecimal(), "what the verifier reads"


def test_ratings_and_two_rewards_of_which_one_is_a_model(base, tmp_path) -> None:
    stages = [
        Stage("compare", {"init": "base", "n": 8, "data": "tiny:prompts?n=16"}),
        Stage("reward", {"batch": 8, "eval_every": 0, "eval_share": 0, "name": "taste"}),
        Stage("ppo", {"data": "tiny:prompts?n=8", "steps": 1, "batch": 4, "max_new_tokens": 8, "probe_every": 0,
                      "reward": ["0.5*taste", "length?most=40"]}),
    ]  # fmt: skip
    played = play(
        Recipe(stages, adapter={"rank": 2}, probes=["What is 5 plus 1?"]), tmp_path, base=base, heldout=0, say=quiet
    )
    assert played.runs == {"taste": "taste", "ppo": "ppo"}
    ppo = Run.open(tmp_path / "ppo")
    assert launch.setup_of(ppo).rewards == ("0.5*reward", "length?most=40")
    assert {part: p["run"] for part, p in ppo.manifest.parents.items()} == {"reward": "taste"}, "the raw base starts"


def test_a_recipe_that_changed_in_a_folder_where_it_began(base, tmp_path) -> None:
    first = parse(CLASSIC, "r.yaml")
    short = replace(first, stages=first.stages[:1])
    play(short, tmp_path, base=base, heldout=0, say=quiet)
    elsewhere = f"take that back, or choose another folder than {tmp_path}."

    def refused(recipe: Recipe) -> str:
        with pytest.raises(RecipeError) as caught:
            play(recipe, tmp_path, base=base, heldout=0, say=quiet)
        return str(caught.value)

    assert refused(edit(first, "sft.lr=1e-3")) == (
        f"--set sft.lr=1e-3: lr was 0.003 when stage sft began, and now it is 0.001; {elsewhere}"
    )
    assert refused(edit(first, "adapter.rank=2")).startswith("the recipe: adapter was {")
    other = replace(first, stages=(Stage("sft", {**first.stages[0].says, "name": "imitate"}), *first.stages[1:]))
    assert refused(other) == f"stage sft: stage 1 was sft when the stack began, and now it is imitate; {elsewhere}"
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "config.json").write_text("{}")
    assert refused(first) == (
        f"{tmp_path} holds a run reward that this recipe did not make; choose another folder than {tmp_path}."
    )
    assert play(short, tmp_path, base=base, heldout=0, say=quiet).stopped == "", "the refused left nothing behind"


def test_a_folder_where_something_else_is(base, tmp_path) -> None:
    recipe = parse(CLASSIC)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(RecipeError, match=r"recipe\.json cannot be read"):
        play(recipe, tmp_path, base=base, say=quiet)
    from filelock import FileLock

    with FileLock(tmp_path / ".recipe.lock"), pytest.raises(RunError, match="Another process plays a recipe in"):
        play(recipe, tmp_path, base=base, say=quiet)
    with pytest.raises(ConfigError, match="distinct prompts"):
        play(recipe, tmp_path, base=base, heldout=99999, say=quiet)


# --- the terminal ----------------------------------------------------------------------------------------------------


def lab(*arguments: object):
    return CliRunner().invoke(main, ["run", *map(str, arguments)], env={"COLUMNS": "160"})


def test_the_terminal_lists_checks_and_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listed = lab("--list")
    assert all(word in listed.output for word in ("classic", "modern", "sft, compare, dpo, grpo"))
    checked = lab("classic", "--only-check", "--set", "ppo.steps=7")
    assert checked.exit_code == 0, checked.output
    assert all(word in checked.output for word in ("tiny:demonstrations?n=2000", "4000 pairs", "≈ 60", " 7 "))
    assert not (tmp_path / "runs").exists()
    wrong = lab("classic", "--set", "ppo.kl=-1", "--set", "sft.lr=x")
    assert wrong.exit_code == 1
    assert wrong.output == ("Error: --set sft.lr=x: lr is 'x'; it must be a number.\n"
                            "--set ppo.kl=-1: kl is -1; it must lie in [0, ∞].\n")  # fmt: skip
    assert lab().output.startswith("Error: No recipe is named")


def test_the_terminal_plays_and_shows_the_table(straight, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(CLASSIC)
    shown = lab(tmp_path / "small.yaml", "--runs", straight[0].root, "--heldout", 8, "--device", "cpu", "--json")
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.output for word in ("KL to sft", "score of reward", "On 8 held-out prompts"))
    said = json.loads(shown.output.splitlines()[-1])
    assert [row["role"] for row in said["rows"]] == ["base", "sft", "ppo"]
    assert [row["gold"]["mean"] for row in said["rows"]] == [row.gold.mean for row in straight[0].rows]
    assert said["runs"] == straight[0].runs
