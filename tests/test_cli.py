"""The terminal: help for everything, flags that are the settings, and one sentence for what cannot work."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from lab import tiny
from lab.cli import main
from lab.config import CONFIGS, Adapter, PPOConfig, settings
from lab.runs import Run, Status

METHODS = {name: cls for name, cls in CONFIGS.items() if name in main.commands}
NOT_SETTINGS = {"asks", "help", "model", "data", "init", "rewards", "out", "root", "bits", "double_quant", "device",
                "probes"}  # fmt: skip
DEMONSTRATIONS = [{"prompt": f"What is 5 plus {i}?", "completion": f"{5 + i}."} for i in range(4)]
PREFERENCES = [{"prompt": "Hello?", "chosen": "Hello.", "rejected": "No."}]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, so that `runs` is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lab(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refusal(result: Result, code: int = 1) -> str:
    """The one sentence a command ends with: no traceback, nothing left to guess."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    said = result.output.split("Error: ", 1)[1].strip()
    assert "\n" not in said or code == 2, said
    return said


def rows(path: Path, values: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(v) + "\n" for v in values))
    return path


# --- help ------------------------------------------------------------------------------------------------------------


def test_lab_help_names_every_command() -> None:
    result = lab("--help")
    assert result.exit_code == 0
    for name, command in main.commands.items():
        assert re.search(rf"^  {name}\b", result.output, re.MULTILINE), name
        assert command.get_short_help_str(200)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_explains_itself_and_its_flags(name: str) -> None:
    result = lab(name, "--help")
    assert result.exit_code == 0, result.output
    assert lab(name, "-h").output == result.output
    for parameter in main.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in result.output
            assert parameter.help or parameter.name == "bits", f"--{parameter.name} says nothing about itself"


def test_python_m_lab_is_lab() -> None:
    done = subprocess.run([sys.executable, "-m", "lab", "--version"], capture_output=True, text=True, check=True)
    assert metadata.version("rlhf-lab") in done.stdout


# --- flags are settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_the_flags_of_a_method_are_its_settings(name: str) -> None:
    known = {s.name: s for cls in (Adapter, METHODS[name]) for s in settings(cls)}
    options = {p.name: p for p in main.commands[name].params if p.name not in NOT_SETTINGS}
    assert set(options) == set(known)
    for key, s in known.items():
        option = options[key]
        assert isinstance(option, click.Option)
        assert option.opts == [f"--{key.replace('_', '-')}"]
        assert option.default == s.default
        assert (option.help or "").startswith(s.help)
        assert s.unit in (option.help or "")
        if s.choices:
            assert isinstance(option.type, click.Choice)
            assert tuple(option.type.choices) == s.choices


def test_settings_do_not_hide_each_other() -> None:
    for cls in METHODS.values():
        assert not {s.name for s in settings(cls)} & ({s.name for s in settings(Adapter)} | NOT_SETTINGS)


# --- what cannot work ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["sft"], "Missing option '--data'"),
        (["ppo", "--data", "p.jsonl"], "Missing option '--reward'"),
        (["sft", "--data", "d.jsonl", "--lr", "fast"], "'fast' is not a valid float"),
        (["sft", "--data", "d.jsonl", "--batch", "2.5"], "'2.5' is not a valid integer"),
        (["sft", "--data", "d.jsonl", "--schedule", "sine"], "is not one of 'constant', 'linear', 'cosine'"),
        (["sft", "--data", "d.jsonl", "--bits", "5"], "is not one of '4', '8', '16', '32'"),
        (["show"], "Missing argument 'RUN'"),
        (["sft", "--data", "d.jsonl", "--learning-rate", "1"], "No such option"),
    ],
)
def test_a_command_that_is_not_one(arguments: list[str], part: str) -> None:
    assert part in refusal(lab(*arguments), code=2)


def good(here: Path) -> list[object]:
    return ["--data", rows(here / "good.jsonl", DEMONSTRATIONS)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lr", "-1"], "lr is -1; it must lie in [0, ∞]."),
        (["--lr", "nan"], "lr is nan; it must be a finite number."),
        (["--eval-share", "0.9"], "eval_share is 0.9; it must lie in [0, 0.5]."),
        (["--rank", "0"], "rank is 0; it must lie in [1, 512]."),
    ],
)
def test_a_setting_that_cannot_work(here: Path, arguments: list[str], sentence: str) -> None:
    assert refusal(lab("sft", "--model", tiny.CHECKPOINT, *good(here), *arguments)) == sentence
    assert not (here / "runs").exists()


def test_settings_that_contradict_each_other() -> None:
    said = refusal(lab("ppo", "--data", "p.jsonl", "--reward", "r", "--batch", 10, "--minibatches", 4))
    assert said == "batch (10) must be a multiple of minibatches (4)."


def test_data_that_is_not_there(here: Path) -> None:
    assert refusal(lab("sft", "--model", tiny.CHECKPOINT, "--data", "missing.jsonl")) == (
        "There is no file or folder missing.jsonl."
    )


def test_data_of_another_kind(here: Path) -> None:
    path = rows(here / "pairs.jsonl", PREFERENCES)
    said = refusal(lab("sft", "--model", tiny.CHECKPOINT, "--data", path))
    assert "chosen, prompt, rejected" in said
    assert "prompt + completion or messages" in said


def test_no_model_is_named(here: Path) -> None:
    assert refusal(lab("sft", *good(here))) == (
        "No base model is named: give --model a folder or Hub id, or --init a run that has one."
    )


def test_a_model_that_is_not_there(here: Path) -> None:
    said = refusal(lab("sft", "--model", "./nothing", *good(here)))
    assert said.startswith("There is no folder ./nothing; ")
    assert not (here / "runs").exists(), "nothing is left behind"


def test_a_start_that_is_not_there(here: Path) -> None:
    assert refusal(lab("reward", "--init", "sft-9", "--data", rows(here / "p.jsonl", PREFERENCES))) == (
        "There is no run and no adapter 'sft-9'; `lab runs` lists the runs that exist."
    )


@pytest.mark.parametrize(("program", "part"), [("none.py:f", "There is no reward function at"),
                                               ("mine.py:g", "has no function 'g'")])  # fmt: skip
def test_a_reward_program_that_is_not_there(here: Path, program: str, part: str) -> None:
    (here / "mine.py").write_text("def f(prompt, completion, row):\n    return 0.0\n")
    said = refusal(lab("ppo", "--model", tiny.CHECKPOINT, "--reward", program, *good(here)))
    assert part in said
    assert not (here / "runs").exists()


@pytest.mark.parametrize("arguments", [["show", "ppo-9"], ["resume", "ppo-9"], ["branch", "ppo-9"]])
def test_a_run_that_is_not_there(arguments: list[str]) -> None:
    assert refusal(lab(*arguments)) == "there is no run at ppo-9; `lab runs` lists the runs that exist."


def test_nothing_says_what_to_sample_from() -> None:
    assert refusal(lab("sample", "Hello?")) == (
        "Nothing says which model to load: name a run among --roles, or give --model."
    )


def test_no_engine_to_stop() -> None:
    assert "no engine is running here" in refusal(lab("engine", "--stop"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--annotator", "nobody"], "There is no annotator 'nobody'; choose one of "),
        (["--steps", "-1"], "steps is -1; it must lie in [0, ∞]."),
        (["--kl", "-1"], "kl is -1; it must lie in [0, ∞]."),
    ],
)
def test_a_demonstration_that_cannot_be(arguments: list[str], part: str) -> None:
    assert part in refusal(lab("demo", "--no-studio", *arguments))


@pytest.fixture
def run(here: Path) -> Run:
    """A PPO run with a checkpoint of step 4 that says it was stopped there."""
    run = Run.create(here / "runs", "ppo", PPOConfig(steps=9))
    run.save(4, lambda folder: None)
    run.write_status(Status("stopped", 4, 9))
    return run


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        ("colour=1", "'colour' is not a setting of ppo; it has steps, lr, "),
        ("kl=much", "'much' is no value for kl, which is a float."),
        ("kl=-1", "kl is -1; it must lie in [0, ∞]."),
        ("truncated=cut", "truncated is 'cut'; choose one of keep, mask."),
    ],
)
def test_a_branch_with_a_setting_that_cannot_work(run: Run, edit: str, part: str) -> None:
    assert part in refusal(lab("branch", run.id, "--set", edit))
    assert [p.name for p in run.path.parent.iterdir()] == [run.id]


def test_a_branch_from_a_step_that_is_not_saved(run: Run) -> None:
    assert refusal(lab("branch", run.id, "--step", 3)) == "ppo-1 has no checkpoint of step 3; saved steps: 4."


def test_resuming_what_has_finished(run: Run) -> None:
    run.write_status(Status("finished", 9, 9))
    assert refusal(lab("resume", run.id)) == (
        "ppo-1 has finished; `lab branch ppo-1 --step N` goes on from one of its steps."
    )


def test_a_demonstration_into_a_folder_that_holds_runs(run: Run) -> None:
    assert refusal(lab("demo", "--no-studio", "--runs", "runs")) == (
        "runs already holds runs; give --runs an empty folder."
    )


# --- looking ---------------------------------------------------------------------------------------------------------


def test_lists_of_runs(here: Path, run: Run) -> None:
    assert lab("runs", "--runs", "elsewhere").output == (
        "There are no runs in elsewhere yet; `lab demo` makes three.\n"
    )
    result = lab("runs")
    assert result.exit_code == 0
    assert all(word in result.output for word in (run.id, "stopped"))


@pytest.mark.parametrize("name", [lambda run: run.id, lambda run: run.path], ids=["name", "path"])
def test_a_run_by_its_name_or_its_folder(run: Run, name: Callable[[Run], object]) -> None:
    result = lab("show", name(run))
    assert result.exit_code == 0, result.output
    assert "stopped" in result.output


def test_a_port_that_is_taken() -> None:
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refusal(lab("studio", "--no-engine", "--port", port))
    assert said.startswith(f"Port {port} is in use")
    assert f"--port {port + 1}" in said
