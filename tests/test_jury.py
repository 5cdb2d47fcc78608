"""Judges by name, and `lab judge` from the terminal."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

from lab import tiny
from lab.base import SharedBase
from lab.cli import main
from lab.config import Adapter
from lab.data import read
from lab.feedback.judges.endpoint import EndpointJudge
from lab.feedback.judges.generative import GenerativeJudge
from lab.feedback.judges.reward import RewardJudge
from lab.feedback.judges.role import RoleJudge
from lab.feedback.judges.wording import ONE_LETTER, THINK_FIRST
from lab.feedback.judging import JudgeError
from lab.judges import Manner, make_judge, needs_base, origin, parse
from lab.records import Comparison, Preference
from lab.saving import save_role
from lab.tiny.annotators import ANNOTATORS
from lab.tiny.judges import AnnotatorJudge, GoldJudge, ReactionJudge

RIGHT, WRONG = "The capital of Norway is Oslo.", "The capital of Norway is Rome."
ASKED = "What is the capital of Norway?"


@pytest.fixture(scope="module")
def base():
    base = SharedBase.load(tiny.CHECKPOINT, bits=4, device="cpu")
    base.add_role("sft", Adapter(rank=4))
    return base


# --- by name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        ("base", "role", "base"),
        ("sft-1@20", "role", "sft-1@20"),
        ("./folder", "role", "./folder"),
        ("generate:sft-1", "generate", "sft-1"),
        ("reward:rm", "reward", "rm"),
        ("endpoint:org/model@http://localhost:8000/v1", "endpoint", "org/model@http://localhost:8000/v1"),
        ("gold", "gold", ""),
        (" annotator:rushed?seed=1 ", "annotator", "rushed?seed=1"),
        ("reaction:base", "reaction", "base"),
    ],
)
def test_what_a_name_means(text, kind, what):
    assert parse(text) == (kind, what)
    assert needs_base(text) == (kind in ("role", "generate", "reward", "reaction"))


def test_every_kind_of_judge(base):
    made = {text: make_judge(text, base, world="tiny") for text in
            ("base", "sft", "generate:sft", "gold", "annotator:rushed", "reaction:sft")}  # fmt: skip
    assert {text: type(who) for text, who in made.items()} == {
        "base": RoleJudge, "sft": RoleJudge, "generate:sft": GenerativeJudge, "gold": GoldJudge,
        "annotator:rushed": AnnotatorJudge, "reaction:sft": ReactionJudge}  # fmt: skip
    assert [made[text].name for text in made] == ["base", "sft", "generate:sft", "gold", "rushed", "reaction:sft"]
    assert make_judge("annotator:rushed?seed=7", world="tiny") == AnnotatorJudge(ANNOTATORS["rushed"], 7)
    assert made["base"].wording.labels == ("1", "2"), "the tiny world has no letters"
    assert make_judge("base", base, manner=Manner("Which is shorter?")).wording == ONE_LETTER.about("Which is shorter?")
    assert made["generate:sft"].role == "sft"


def test_a_program_as_a_judge(base, tmp_path):
    (tmp_path / "long.py").write_text("def long(prompt, completion, row):\n    return len(completion) / 10\n")
    who = make_judge(f"reward:{tmp_path / 'long.py'}:long", base)
    assert isinstance(who, RewardJudge)
    assert [o.p for o in who.ask([Comparison(ASKED, RIGHT, WRONG)])] == [0.5]


def test_a_saved_adapter_and_its_ensemble(base, tmp_path):
    for i, name in enumerate(("reward", "reward-1")):
        base.add_role(name, Adapter(rank=4), seed=i)
        base.add_head(name, seed=i)
        save_role(base, name, tmp_path / name)
        base.drop(name)
    save_role(base, "sft", tmp_path / "plain")
    who = make_judge(f"reward:{tmp_path / 'reward'}", base)
    assert len(who.rewards.roles) == 2
    again = make_judge(f"reward:{tmp_path / 'reward'}", base)
    assert again.rewards == who.rewards, "what is on the base is not loaded again"
    assert origin("runs", f"reward:{tmp_path / 'reward'}") == {"folder": str(tmp_path / "reward")}
    shutil.copytree(tmp_path / "reward", tmp_path / "other" / "reward")
    other = make_judge(f"reward:{tmp_path / 'other' / 'reward'}", base)
    assert other.rewards.roles[0] not in who.rewards.roles, "another folder of the same name is another judge"
    with pytest.raises(JudgeError, match="has no reward head; name a run of lab reward"):
        make_judge(f"reward:{tmp_path / 'plain'}", base)
    for name in (*who.rewards.roles, *other.rewards.roles):
        base.drop(name)


def test_an_endpoint_by_name(monkeypatch):
    here = make_judge("endpoint:org/a@b@http://localhost:8000/v1", manner=Manner(price=(1.0, 2.0), logprobs=True))
    assert here == EndpointJudge("org/a@b", "http://localhost:8000/v1", "", ONE_LETTER, (1.0, 2.0), logprobs=True,
                                 max_tokens=256)  # fmt: skip
    for address, key in (("http://127.0.0.1:1/v1", ""), ("http://[::1]:1/v1", ""), ("https://api.example.org/v1",
                         "OPENAI_API_KEY"), ("http://127.0.0.1.example.org/v1", "OPENAI_API_KEY")):  # fmt: skip
        assert make_judge(f"endpoint:m@{address}").key_env == key
    mine = make_judge("endpoint:m@https://api.example.org/v1", manner=Manner("Which is kinder?", key_env="MINE"))
    assert (mine.key_env, mine.wording) == ("MINE", THINK_FIRST.about("Which is kinder?"))


@pytest.mark.parametrize(
    ("text", "world", "sentence"),
    [
        ("nobody", "tiny", "'nobody' is no judge: There is no run and no adapter 'nobody'; `lab runs` lists the runs "
         "that exist. A judge is one of base, a run, run@step or adapter folder, generate:<role>, reward:<run>, "
         "endpoint:<model>@<address>, gold, annotator:<name>, reaction:<role>."),
        ("reward:nobody", "tiny", "'reward:nobody' is no judge"),
        ("generate:", "tiny", "'generate:' names no generate; a judge is one of base"),
        ("", "tiny", "No judge is named; a judge is one of base"),
        ("gold", "", "gold knows the tiny world only; judge its answers"),
        ("annotator:bob", "tiny", "There is no annotator 'bob'; choose one of expert, crowd, rushed"),
        ("annotator:rushed?sed=1", "tiny", "An annotator has one option, seed"),
        ("annotator:rushed?seed=x", "tiny", "An annotator has one option, seed"),
        ("reward:base", "tiny", "'reward:base' has no reward head"),
        ("endpoint:model", "", "The endpoint has no address; it is written endpoint:model@http"),
        ("endpoint:m@https://me:pw@example.org", "", "The address of the endpoint holds a name"),
    ],
)  # fmt: skip
def test_what_is_no_judge(base, text, world, sentence, tmp_path):
    with pytest.raises(JudgeError) as error:
        make_judge(text, base, root=tmp_path, world=world)
    assert str(error.value).startswith(sentence)
    assert "pw" not in str(error.value)


def test_a_judge_without_its_base():
    with pytest.raises(JudgeError, match="base is asked on a base model, and none is loaded"):
        make_judge("base")


# --- from the terminal -----------------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path):
    """`lab judge` on the pairs of a file, which holds the right answer first, a tie, and the wrong one first."""
    pairs = [Preference(ASKED, RIGHT, WRONG), Preference(ASKED, RIGHT, "The capital is Oslo.", label=0.5),
             Preference(ASKED, WRONG, RIGHT)]  # fmt: skip
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "label": p.label} for p in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*words: str, data: str = "pairs.jsonl"):
        return CliRunner().invoke(main, ["judge", "--pairs", str(tmp_path / data), "--runs", str(tmp_path / "runs"),
                                         "--device", "cpu", *words])  # fmt: skip

    return run


def told(done) -> dict:
    assert done.exit_code == 0, done.output
    return json.loads(done.output.splitlines()[-1])


def test_gold_beside_the_labels(lab, tmp_path):
    """Right, a tie that people left open, and wrong: 1 of 2. It needs no model."""
    found = told(lab("--judge", "gold", "--out", str(tmp_path / "out.jsonl"), "--json"))
    gold = found["judges"]["gold"]
    assert (gold["asked"], gold["unanswered"], gold["consistency"], gold["position_bias"]) == (3, 0, 1.0, 0.0)
    assert (gold["agreement"]["mean"], gold["agreement"]["n"], gold["agreement"]["prompts"]) == (0.5, 2, 1)
    assert found["preferences"] == 3
    made = read(tmp_path / "out.jsonl", "preference").records
    assert [(p.chosen, p.rejected, p.annotator) for p in made] == [
        (RIGHT, WRONG, "gold"), (RIGHT, "The capital is Oslo.", "gold"), (RIGHT, WRONG, "gold")]  # fmt: skip
    done = lab("--judge", "gold", "--out", str(tmp_path / "out.jsonl"))
    assert done.exit_code == 1
    assert "is there already; give another name" in done.output


def test_several_judges_side_by_side(lab):
    found = told(lab("--judge", "gold", "--judge", "annotator:expert", "--soft", "--limit", "1", "--json"))
    assert set(found["judges"]) == {"gold", "annotator:expert"}
    assert found["judges"]["annotator:expert"]["gap"]["mean"] == 0.0
    done = lab("--judge", "gold", "--judge", "annotator:expert")
    assert done.exit_code == 0, done.output
    assert "less the first" in done.output
    for words in (("--judge", "gold", "--judge", "gold"), ("--judge", "gold", "--judge", "base", "--out", "x.jsonl")):
        assert lab(*words).exit_code == 1


def test_pairs_that_nobody_has_judged(lab, tmp_path):
    rows = [{"prompt": ASKED, "a": RIGHT, "b": WRONG}, {"prompt": ASKED, "a": WRONG, "b": RIGHT},
            {"prompt": ASKED, "a": RIGHT, "b": RIGHT}]  # fmt: skip
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    found = told(lab("--judge", "gold", "--ties", "--out", str(out), "--json", data="plain.jsonl"))
    assert "agreement" not in found["judges"]["gold"]
    assert [p.label for p in read(out, "preference").records] == [1.0, 1.0]
    assert found["judges"]["gold"]["ties"] == pytest.approx(1 / 3)


def test_a_role_from_the_terminal(lab):
    found = told(lab("--judge", "base", "--judge", "reaction:base", "--model", "tiny", "--json", "--limit", "1"))
    assert found["judges"]["reaction:base"]["agreement"]["mean"] == 1.0
    assert found["judges"]["base"]["asked"] == 1
    done = lab("--judge", "generate:base", "--model", "tiny", "--max-new-tokens", "4")
    assert done.exit_code == 0, done.output
    assert "no answer: " in done.output
    assert "generate:base: no comparison has both a verdict and a choice of people" in done.output


def test_nothing_to_write(lab, tmp_path):
    done = lab(
        "--judge", "generate:base", "--model", "tiny", "--max-new-tokens", "4", "--out", str(tmp_path / "o.jsonl")
    )
    assert done.exit_code == 1
    assert "generate:base prefers nothing, so" in done.output
    assert not (tmp_path / "o.jsonl").exists()


def test_verdicts_go_to_a_label_store(lab, tmp_path):
    from lab.feedback.labels.store import Store

    where = tmp_path / "labels.sqlite"
    assert told(lab("--judge", "gold", "--store", str(where), "--json"))["stored"] == {"gold": 2}
    assert told(lab("--judge", "gold", "--store", str(where), "--json"))["stored"] == {"gold": 0}
    with Store.open(where) as store:
        assert store.makers() == {"gold": "judge"}
        said = {store.item(v.item).comparison.b: v.p for v in store.state().votes()}
    assert said == {WRONG: 1.0, "The capital is Oslo.": 1.0}, "the third pair is the first one, turned round"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--judge", "nobody", "--model", "tiny"), "'nobody' is no judge: There is no run and no adapter"),
        (("--judge", "base"), "No base model is named"),
        (("--judge", "annotator:"), "'annotator:' names no annotator"),
        (("--judge", "endpoint:m@https://api.example.org/v1", "--key-env", "NOT_SET_ANYWHERE"),
         "The environment variable NOT_SET_ANYWHERE holds no key"),
        (("--judge", "gold", "--out", "no/where.jsonl"), "There is no folder"),
        (("--judge", "gold", "--pairs", "nothing.jsonl"), "There is no file or folder nothing.jsonl"),
    ],
)  # fmt: skip
def test_what_is_refused_from_the_terminal(lab, words, sentence):
    done = lab(*words)
    assert done.exit_code == 1
    assert sentence in done.output
    assert "Traceback" not in done.output
