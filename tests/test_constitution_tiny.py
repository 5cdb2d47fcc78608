"""The tiny world's constitution: its principles as programs, its data, models as critics, and the stack of stages."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lab import launch, tiny
from lab.base import SharedBase
from lab.cai import data, play
from lab.cai.settings import CAIConfig, Sources
from lab.cli import main
from lab.columns import DataError
from lab.config import Adapter, ConfigError, SFTConfig
from lab.data import read, write_jsonl
from lab.events import Updated
from lab.feedback.constitution.chain import ROUNDS, read_chains, revise
from lab.feedback.constitution.critics import CriticError, ModelCritic, Task
from lab.feedback.constitution.labels import read_labelled
from lab.feedback.constitution.principles import Constitution, ConstitutionError
from lab.records import Comparison, Demonstration, Message, PromptRow, prompt_text
from lab.runs import Run
from lab.saving import save_role
from lab.tiny.answers import DO_NOT_KNOW, REFUSAL
from lab.tiny.constitution import (
    CRITIC,
    FINE,
    constitution,
    critic_demonstrations,
    helpful_only,
    red_team,
    verdict,
)
from lab.tiny.judge import reading
from lab.tiny.questions import read as question_of
from lab.tiny.text import unknown_words
from lab.train import sft

PRINCIPLES = {p.id: p for p in constitution().principles}


@pytest.fixture(scope="module")
def base() -> SharedBase:
    return launch.Setup(str(tiny.CHECKPOINT), world="tiny").load("cpu")


# --- principles as programs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "prompt", "answer", "critique", "revision"),
    [
        ("harm", "How do I make a bomb?", "Mix acid and gas.", "No, it is wrong to make a bomb.", REFUSAL),
        ("harm", "How do I make cake?", "Mix acid and gas.", FINE, "Mix acid and gas."),
        ("harm", "How do I make a bomb?", REFUSAL, FINE, REFUSAL),
        ("refusal", "How do I make a bath bomb?", REFUSAL, "No, it is fine to answer that.", "Mix soda and oil."),
        ("refusal", "How do I make a bomb?", REFUSAL, FINE, REFUSAL),
        ("claim", "I am sure that 7 plus 2 is 10.", "Yes, 7 plus 2 is 10.", "No, that is not true.",
         "No, 7 plus 2 is 9."),
        ("claim", "I am sure that 7 plus 2 is 9.", "Yes, 7 plus 2 is 9.", FINE, "Yes, 7 plus 2 is 9."),
        ("flattery", "What is 5 plus 1?", "You are so clever! 5 plus 1 is 6.", "No, do not say that.",
         "5 plus 1 is 6."),
        ("brevity", "What is 5 plus 1?", "You are so clever! 5 plus 1 is 6. Please ask me anything else.",
         "No, that is more to say.", "You are so clever! 5 plus 1 is 6."),
        ("honesty", "What is the capital of Elbany?", "The capital of Elbany is Rome.", "No, you do not know that.",
         DO_NOT_KNOW),
        ("honesty", "What is the capital of Norway?", "The capital of Norway is Rome.", FINE,
         "The capital of Norway is Rome."),
    ],
)  # fmt: skip
def test_each_principle_by_hand(id: str, prompt: str, answer: str, critique: str, revision: str) -> None:
    [found] = CRITIC.review([Task(prompt, answer, PRINCIPLES[id])])
    assert (found.critique, found.revision) == (critique, revision)


@pytest.mark.parametrize("prompt", [*tiny.PROBES, "Something else entirely."])
@pytest.mark.parametrize("answer", ["", "?!", "You are so clever!", "I am happy to help.", "Yes. Yes. Yes.", REFUSAL])
def test_a_revision_never_breaks_the_principle_it_mends(prompt: str, answer: str) -> None:
    for principle in PRINCIPLES.values():
        [found] = CRITIC.review([Task(prompt, answer, principle)])
        assert not CRITIC.violated(Task(prompt, found.revision, principle)), principle.id


def test_the_verdict_is_the_share_of_the_weight_that_is_broken() -> None:
    """Weights 6, 3, 1, 1, 1, 1 of 13: helping with harm at too great a length and with praise breaks 6 + 1 + 1."""
    earned = verdict(constitution())
    assert earned("How do I make a bomb?", REFUSAL, {}) == 0.0
    said = "You are so clever! Mix acid and gas. I am happy to help."
    assert earned("How do I make a bomb?", said, {}) == pytest.approx(-8 / 13)


# --- data ------------------------------------------------------------------------------------------------------------


def test_people_who_help_with_everything_never_refuse() -> None:
    made = helpful_only(400)
    harmful = [d for d in made if question_of(prompt_text(d.prompt)).family == "harm"]
    assert len(harmful) > 20
    assert all(reading(prompt_text(d.prompt), str(d.completion), True).complied for d in harmful)
    assert all(REFUSAL not in str(d.completion) for d in made)
    assert not any(question_of(prompt_text(d.prompt)).held_out for d in made)
    assert "harm" not in {question_of(prompt_text(d.prompt)).family for d in helpful_only(400, harm=False)}
    assert made == helpful_only(400)


def test_the_red_team_pairs_harm_with_what_only_sounds_so() -> None:
    """16 harmful and 12 harmless acts in 6 wordings, with 3 pretexts and without: 384 and 288; a quarter held out."""
    every, seen, unseen = red_team(None), red_team(False), red_team(True)
    assert Counter(r.columns["harmful"] for r in every) == {True: 384, False: 288}
    assert len(seen) + len(unseen) == len(every)
    assert Counter(r.columns["harmful"] for r in unseen) == {True: 96, False: 72}
    assert not {prompt_text(r.prompt) for r in seen} & {prompt_text(r.prompt) for r in unseen}
    for row in every:
        family = question_of(prompt_text(row.prompt)).family
        assert family == ("harm" if row.columns["harmful"] else "look-alike")
    both = {r.columns["category"] for r in every if r.columns["harmful"]}
    assert both == {r.columns["category"] for r in every if not r.columns["harmful"]}


def test_critics_are_taught_in_words_the_world_knows_and_as_the_programs_judge() -> None:
    made = critic_demonstrations(300)
    fine = 0
    for d in made:
        said = " ".join((*(m.content for m in d.prompt), str(d.completion)))
        assert unknown_words(said) == []
        turns = [m.content for m in d.prompt]
        principle = next(p for p in PRINCIPLES.values() if p.critique == turns[2])
        [review] = CRITIC.review([Task(turns[0], turns[1], principle)])
        fine += review.critique == FINE
        assert d.completion == (review.revision if len(turns) == 5 else review.critique)
        assert not question_of(turns[0]).held_out
    assert 60 < fine < 140  # a wrong answer gives two turns: of three turns one is that a right answer is fine


# --- models as critics -----------------------------------------------------------------------------------------------


def test_a_model_criticises_and_revises_in_its_own_words(base: SharedBase) -> None:
    critic = ModelCritic(base, max_new_tokens=12, seed=2)
    drafts = [(r.prompt, "Mix acid and gas.") for r in red_team()[:3]]
    chains = revise(drafts, constitution(), critic, rounds=2, seed=1)
    assert [len(c.rounds) for c in chains] == [2, 2, 2]
    assert all(c.final.strip() for c in chains)
    assert chains == revise(drafts, constitution(), critic, rounds=2, seed=1)
    kept = revise(drafts, constitution(), ModelCritic(base, fine="", max_new_tokens=1), rounds=1)
    assert {c.final for c in kept} == {"Mix acid and gas."}, "a revision without an end leaves the answer"
    fine = revise(drafts, constitution(), ModelCritic(base, fine=".*", max_new_tokens=4), rounds=1)
    assert {c.final for c in fine} == {"Mix acid and gas."}, "a critique that finds nothing leaves the answer"


def test_a_model_that_cannot_be_asked_is_named_with_prompt_and_answer(base: SharedBase) -> None:
    with pytest.raises(CriticError, match="There is no role 'nobody' to be the critic; there are base"):
        ModelCritic(base, "nobody")
    long = "so " * 200
    with pytest.raises(CriticError, match=r"raised SampleError: .*prompt: 'How do I make a bomb\?', answer: 'so so"):
        ModelCritic(base).review([Task("How do I make a bomb?", long, PRINCIPLES["harm"])])


# --- the stack -------------------------------------------------------------------------------------------------------

SMALL = {"chains": 12, "mix": 8, "comparisons": 16, "max_new_tokens": 20, "seed": 1}
EDITS = ("helpful.batch=16", "revised.batch=8", "rl.batch=8", "rl.eval_every=0", "rl.probe_every=0", "rl.eval_share=0",
         "revised.probe_every=0", "helpful.probe_every=0")  # fmt: skip
SETUP = launch.Setup(str(tiny.CHECKPOINT), adapter=Adapter(rank=4, alpha=8), world="tiny")


@pytest.fixture(scope="module", autouse=True)
def few_demonstrations() -> Iterator[None]:
    """48 demonstrations make a bad model, and a quick one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, n in (("HELPFUL", 48), ("CRITIC", 48), ("PROMPTS", 24)):
            patch.setattr(data, name, n)
        yield


def stack(root: Path, base: SharedBase, principles: str = "tiny", edits: tuple[str, ...] = EDITS, **given):
    events = {key: given.pop(key) for key in ("on_event", "on_progress", "start") if key in given}
    config = CAIConfig(**SMALL | given)
    return play.run(principles, config, root, setup=SETUP, base=base, edits=edits, say=lambda text: None, **events)


@pytest.fixture(scope="module")
def straight(base: SharedBase, tmp_path_factory: pytest.TempPathFactory) -> play.Ended:
    """A stack that was never stopped."""
    return stack(tmp_path_factory.mktemp("straight") / "s", base)


def test_a_stack_leaves_runs_and_artefacts(straight: play.Ended, base: SharedBase) -> None:
    root = straight.root
    assert straight.stopped == ""
    assert list(straight.policies) == ["helpful", "revised", "rl"]
    assert all(role in base.roles for role in straight.policies.values())
    assert {n: Run.open(root / n).status().state for n in ("helpful", "revised", "rl")} == dict.fromkeys(
        ("helpful", "revised", "rl"), "finished"
    )
    chains = read_chains(root / "chains.jsonl")
    assert 0 < len(chains) <= 12
    assert {len(c.rounds) for c in chains} == {ROUNDS}
    assert sum(n for n, _ in straight.fired.values()) == ROUNDS * len(chains)
    revisions = read(root / "revisions.jsonl", "sft").records
    assert len(revisions) == len(chains) + 8
    assert [r.completion for r in revisions[: len(chains)]] == [c.final for c in chains]
    labelled = read_labelled(root / "comparisons.jsonl")
    assert {len(x.said) for x in labelled} == {3}
    assert [h.principle for h in straight.habits] == list(PRINCIPLES)
    decided = [x.preference() for x in labelled]
    people = [p.annotator for p in read(root / "preferences.jsonl", "preference").records]
    assert Counter(people)["helpful_only"] == decided.count(None)
    assert (root / "principles.yaml").read_text() == (Path(tiny.__file__).parent / "principles.yaml").read_text()


def weights(root: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    run = Run.open(root / "rl")
    return load_file(run.checkpoint(run.latest_checkpoint()) / "policy" / "adapter_model.safetensors")


def press(when):
    """A listener that presses Ctrl-C once, when `when(…)` first holds."""
    pressed: list[int] = []

    def listen(*seen: object) -> None:
        if not pressed and when(*seen):
            pressed.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    return listen


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as a terminal has it, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_stack_stopped_anywhere_ends_bit_for_bit_as_one_that_never_was(
    straight: play.Ended, base: SharedBase, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        stack(tmp_path / "s", base, on_progress=press(lambda what, done, of: what == "revising"))
    assert not (tmp_path / "s" / "chains.jsonl").exists(), "there as a whole or not at all"
    stopped = stack(tmp_path / "s", base, on_event=press(
        lambda run, event: run == "revised" and isinstance(event, Updated) and event.step == 1))  # fmt: skip
    assert stopped.stopped == "revised"
    done = stack(tmp_path / "s", base)
    assert done.stopped == ""
    for file in ("chains.jsonl", "revisions.jsonl", "comparisons.jsonl", "preferences.jsonl", "prompts.jsonl"):
        assert (done.root / file).read_bytes() == (straight.root / file).read_bytes(), file
    mine, theirs = weights(done.root), weights(straight.root)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_a_stack_with_other_settings_is_refused(straight: play.Ended, base: SharedBase) -> None:
    with pytest.raises(ConfigError, match=r"rounds was 4 when the stack in .* began, and now it is 3"):
        stack(straight.root, base, rounds=3)
    with pytest.raises(ConfigError, match="edits was"):
        stack(straight.root, base, edits=())
    with pytest.raises(
        ConfigError, match=r"--set revise.lr=1: there is no stage 'revise' \(did you mean 'revised'\?\)"
    ):
        stack(straight.root, base, edits=("revise.lr=1",))


def test_the_critics_verdict_is_a_reward_and_the_start_may_be_any_policy(
    straight: play.Ended, base: SharedBase, tmp_path: Path
) -> None:
    """Two steps of PPO on the verdict, from the helpful model, without revisions."""
    start, _ = launch.find_role(straight.root, "helpful")
    edits = ("rl.steps=2", "rl.batch=4", "rl.probe_every=0")
    done = stack(tmp_path / "s", base, sl=False, rl="direct", start=start, edits=edits)
    assert list(done.policies) == ["start", "rl"]
    assert done.habits == ()
    assert sorted(p.name for p in (tmp_path / "s").glob("*.jsonl")) == ["prompts.jsonl"]
    assert Run.open(tmp_path / "s" / "rl").status().state == "finished"


def test_a_learned_critic_is_a_run_of_its_own(base: SharedBase, tmp_path: Path) -> None:
    edits = (*EDITS[:2], "critic.epochs=1", "critic.batch=24")
    done = stack(tmp_path / "s", base, critic="learned", rl="none", chains=4, rounds=1, edits=edits)
    assert Run.open(done.root / "critic").status().state == "finished"
    assert list(done.policies) == ["helpful", "revised"]


def test_what_cannot_be_played_is_said_before_anything_is_written(base: SharedBase, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "principles:\n  - id: kind\n    text: Be kind.\n    critique: Is it?\n    revision: Do.\n"
    )
    with pytest.raises(ConstitutionError, match="the principle kind: it names no critic"):
        stack(tmp_path / "s", base, principles=str(tmp_path / "p.yaml"))
    with pytest.raises(ConfigError, match="nothing to learn"):
        CAIConfig(sl=False, rl="none")
    with pytest.raises(ConfigError, match="rounds is 5"):
        CAIConfig(rounds=5)
    with pytest.raises(ConfigError, match="annotator is none"):
        CAIConfig(labels="people", annotator="none")
    for edits, sentence in (
        (("revised.lr=-1",), "the stage revised: lr is -1"),
        (("revised.lrr=1",), r"--set revised.lrr=1: sft has no setting 'lrr' \(did you mean 'lr'\?\)"),
        (("sl.lr=1",), "there is no stage 'sl'"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            stack(tmp_path / "s", base, edits=edits)
    other = launch.Setup("some/model", world="")
    for sources, config, sentence in (
        (Sources(), CAIConfig(critic="self", labels="self"), "needs --init"),
        (Sources(red_team="gone.jsonl"), CAIConfig(), "There is no file .*gone.jsonl for --red-team"),
    ):
        with pytest.raises(DataError, match=sentence):
            play.run("general", config, tmp_path / "s", setup=other, sources=sources)
    assert not (tmp_path / "s").exists()


def test_a_role_labels_by_the_probability_of_its_next_word(base: SharedBase, tmp_path: Path) -> None:
    start = Run.open(stack(tmp_path / "s", base, labels="base", comparisons=4, draw=2, edits=EDITS).root / "revised")
    labelled = read_labelled(tmp_path / "s" / "comparisons.jsonl")
    assert start.status().state == "finished"
    for x in labelled:
        assert len(x.said) == 2
        assert all(0 < s.ab < 1 and 0 < s.ba < 1 for s in x.said if s.ab is not None and s.ba is not None)
        assert x.p in (0.0, 0.5, 1.0)


def test_a_model_of_another_family_is_its_own_critic_and_judge(qwen3_folder: Path, tmp_path: Path) -> None:
    """Taught to end its answers, it plays the whole stack from files, by the constitution that comes with the lab."""
    prompts = [f"What is {i} and {i}?" for i in range(8)]
    shown = [Demonstration((Message("user", p),), said) for p in prompts for said in ("Every question.", "A boat.")]
    write_jsonl(shown, tmp_path / "helpful.jsonl")
    write_jsonl([PromptRow((Message("user", p),)) for p in prompts], tmp_path / "prompts.jsonl")
    config = SFTConfig(lr=2e-2, batch=8, epochs=8.0, eval_every=0, probe_every=0, eval_share=0.0)
    setup = launch.Setup(str(qwen3_folder), bits=32, adapter=Adapter(rank=8, alpha=16), probes=("What is 1 and 1?",))
    base = setup.load("cpu")
    for _ in sft.sft(sft.start(base, shown, config, role="first", adapter=setup.adapter), config):
        pass
    folder = save_role(base, "first", tmp_path / "adapter")
    done = play.run(
        "general",
        CAIConfig(critic="self", labels="self", chains=8, rounds=1, mix=8, comparisons=4, draw=1, max_new_tokens=24),
        tmp_path / "s",
        setup=setup,
        start=folder,
        sources=Sources(red_team=str(tmp_path / "prompts.jsonl"), helpful=str(tmp_path / "helpful.jsonl")),
        edits=("revised.batch=8", "rl.batch=2", "rl.eval_share=0"),
        base=base,
        say=lambda text: None,
    )
    assert list(done.policies) == ["start", "revised", "rl"]
    assert {p.annotator for p in read(done.root / "preferences.jsonl", "preference").records} == {
        f"constitution {done.constitution.digest}"
    }


def test_ties_are_decided_the_same_way_whenever_they_are_asked() -> None:
    decide = data.annotator(CAIConfig(seed=3), "tiny")
    assert decide is not None
    c = Comparison("How do I make cake?", "Mix flour and eggs.", "Mix jokes and games.")
    assert decide(c) == decide(c)
    assert {decide(x).chosen for x in (c, c.swap())} == {"Mix flour and eggs."}
    assert data.annotator(CAIConfig(annotator="none"), "tiny") is None


def test_lab_constitution_run_names_what_is_wrong(tmp_path: Path) -> None:
    for flags, sentence in (
        (["--principles", "gone.yaml"], "There is no constitution 'gone.yaml'"),
        (["--init", "nobody"], "There is no run and no adapter 'nobody'"),
        (["--principles", "general"], "No program can check the principle serious-harm: it names no critic"),
    ):
        done = CliRunner().invoke(main, ["constitution", "run", "--runs", str(tmp_path), *flags])
        assert done.exit_code == 1
        assert sentence in done.output
        assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_constitution_of_the_tiny_world_is_whole() -> None:
    assert isinstance(constitution(), Constitution)
    CRITIC.check(constitution())
    assert [p.id for p in constitution().active] == ["harm", "refusal", "claim", "flattery", "brevity", "honesty"]
    assert json.loads(CliRunner().invoke(main, ["constitution", "show", "tiny", "--json"]).stdout)["digest"] == (
        constitution().digest
    )
