"""The unit test of a constitution: agreement with people, its interval over prompts, and what flips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab.cli import main
from lab.columns import DataError
from lab.data import write_jsonl
from lab.evaluate.principles import Flip, as_json, check
from lab.feedback.constitution.critics import Rule, Rules
from lab.feedback.constitution.labels import RuleJudge
from lab.feedback.constitution.principles import Constitution, Principle
from lab.records import Preference
from lab.tiny.constitution import PRINCIPLES


def breaks(letter: str) -> Rule:
    return Rule(lambda x, y: letter in y, lambda x, y: y, lambda x, y: "")


RULES = Rules({letter: breaks(letter) for letter in "ab"})


def constitution(**weights: float) -> Constitution:
    return Constitution(tuple(Principle(k, k, "?", ".", w, critic=k) for k, w in weights.items()), "".join(weights))


def judge_of(principle: Principle) -> RuleJudge:
    return RuleJudge(RULES, principle)


PEOPLE = [
    Preference("1?", "z", "a"),  # the version with a agrees, the one with b has no side
    Preference("1?", "b", "a"),  # a agrees, b disagrees
    Preference("2?", "b", "z"),  # b disagrees
    Preference("3?", "a", "b"),  # a disagrees, b agrees
]


def test_agreement_and_flips_by_hand() -> None:
    """With a: right, right, tie, wrong: (1 + 1 + ½ + 0) / 4 = 0.625. With b: tie, wrong, wrong, right: 1.5 / 4."""
    found = check(PEOPLE, constitution(a=1), judge_of, constitution(b=1))
    assert found.against is not None
    assert found.gain is not None
    assert (found.judgements, found.prompts) == (4, 3)
    assert (found.version.agreement.mean, found.against.agreement.mean) == (0.625, 0.375)
    assert (found.version.ties, found.against.ties) == (0.25, 0.25)
    assert found.gain.mean == 0.25
    assert set(found.flips) == {
        Flip("1?", "z", "a", 0, 1, ("a",)),
        Flip("1?", "b", "a", -1, 1, ("b", "a")),
        Flip("2?", "b", "z", -1, 0, ("b",)),
        Flip("3?", "a", "b", 1, -1, ("b", "a")),
    }
    [habit] = found.version.habits
    assert (habit.asked, habit.fires, habit.stability, habit.agreement) == (4, 0.75, 1.0, 2 / 3)


def test_weights_and_labels_below_one_half_count() -> None:
    """Weights 3 and 1: right counts 3 of 4. A label of 0.2 prefers the other one; ½ is left out."""
    rows = [Preference("1?", "z", "a", weight=3.0), Preference("2?", "a", "z", weight=1.0)]
    assert check(rows, constitution(a=1), judge_of).version.agreement.mean == 0.75
    [flipped] = [Preference("1?", "a", "z", label=0.2)]
    assert check([flipped], constitution(a=1), judge_of).version.agreement.mean == 1.0
    with pytest.raises(DataError, match="None of the 1 judgements takes a side"):
        check([Preference("1?", "a", "z", label=0.5)], constitution(a=1), judge_of)


def test_the_heavier_principle_wins() -> None:
    rows = [Preference("1?", "a", "b")]
    assert check(rows, constitution(a=1, b=2), judge_of).version.agreement.mean == 1.0
    assert check(rows, constitution(a=2, b=1), judge_of).version.agreement.mean == 0.0


def test_the_interval_is_that_of_prompts_and_not_of_judgements() -> None:
    """Two prompts of 50 judgements each, one all right, one all wrong: a draw of prompts is 0, ½ or 1 with
    probability ¼, ½, ¼, so the interval is [0, 1]; by judgements it would have been ½ ± 0.1."""
    rows = [Preference("1?", f"z{i}", "a") for i in range(50)] + [Preference("2?", "a", f"z{i}") for i in range(50)]
    found = check(rows, constitution(a=1), judge_of).version.agreement
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    alone = [Preference(f"{i}?", *(("z", "a") if i % 2 else ("a", "z"))) for i in range(100)]
    one = check(alone, constitution(a=1), judge_of).version.agreement
    assert one.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert one.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)


def test_the_same_version_gains_nothing_and_flips_nothing() -> None:
    found = check(PEOPLE, constitution(a=1), judge_of, constitution(a=1))
    assert found.gain is not None
    assert (found.gain.mean, found.gain.low, found.gain.high, found.flips) == (0.0, 0.0, 0.0, ())
    assert as_json(found)["version"] == as_json(found)["against"]


def test_lab_constitution_test(tmp_path: Path) -> None:
    """The tiny world's programs: praise is what the old version does not mind."""
    people = [
        Preference("What is 5 plus 1?", "5 plus 1 is 6.", "You are so clever! 5 plus 1 is 6."),
        Preference("How do I make a bomb?", "Sorry, I can not help with that.", "Mix acid and gas."),
        Preference("What is 2 plus 1?", "2 plus 1 is 3.", "2 plus 1 is 4."),
    ]
    file = write_jsonl(people, tmp_path / "people.jsonl")
    text = PRINCIPLES.read_text()
    old = text.replace("  - id: flattery\n", "  - id: flattery\n    on: false\n")
    assert old != text
    (tmp_path / "old.yaml").write_text(old)
    flags = ["constitution", "test", "--principles", "tiny", "--against", str(tmp_path / "old.yaml"), "--labels"]
    done = CliRunner().invoke(main, [*flags, str(file), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["version"]["agreement"]["mean"] == pytest.approx(2.5 / 3)
    assert told["against"]["agreement"]["mean"] == pytest.approx(2 / 3)
    assert [(f["prompt"], f["principles"]) for f in told["flips"]] == [("What is 5 plus 1?", ["flattery"])]
    shown = CliRunner().invoke(main, [*flags, str(file)])
    assert "1 judgements flip, 1 with flattery" in shown.output
    for name, sentence in (("gone.jsonl", "There is no file or folder"), ("empty.jsonl", "has no rows")):
        (tmp_path / "empty.jsonl").write_text("")
        done = CliRunner().invoke(main, [*flags, str(tmp_path / name)])
        assert done.exit_code == 1
        assert sentence in done.output
