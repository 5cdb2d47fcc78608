"""Constitutions: the words and what can be wrong with them, critics, chains of revisions, and labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab.cli import main
from lab.columns import DataError
from lab.data import write_jsonl
from lab.feedback.constitution.chain import Chain, Round, demonstrations, fired, read_chains, revise
from lab.feedback.constitution.critics import CriticError, Review, Rule, Rules, Task
from lab.feedback.constitution.labels import (
    Habit,
    Labelled,
    RuleJudge,
    Said,
    label,
    preferences,
    read_labelled,
    report,
)
from lab.feedback.constitution.principles import (
    Constitution,
    ConstitutionError,
    Principle,
    parse,
    read_constitution,
    shipped,
)
from lab.feedback.judging import Opinion
from lab.records import Comparison, Demonstration, Message, Preference

GOOD = """
name: small
version: 2
principles:
  - id: short
    text: Be short.
    critique: Is it long?
    revision: Make it shorter.
    weight: 3
    critic: short
  - id: kind
    text: Be kind.
    critique: Is it rude?
    revision: Make it kinder.
    on: false
"""


def principle(id: str, weight: float = 1.0, on: bool = True) -> Principle:
    return Principle(id, f"{id}.", "What is wrong?", "Mend it.", weight, on, id)


def removes(letter: str) -> Rule:
    """A principle that an answer breaks by holding a letter."""
    return Rule(lambda x, y: letter in y, lambda x, y: y.replace(letter, ""), lambda x, y: f"it has {letter}")


RULES = Rules({letter: removes(letter) for letter in "abc"})
ABC = Constitution(tuple(map(principle, "abc")), "abc")


# --- words -----------------------------------------------------------------------------------------------------------


def test_a_constitution_is_read_with_its_defaults() -> None:
    found = parse(GOOD)
    assert (found.name, found.version) == ("small", "2")
    assert found.principles == (
        Principle("short", "Be short.", "Is it long?", "Make it shorter.", 3.0, True, "short"),
        Principle("kind", "Be kind.", "Is it rude?", "Make it kinder.", 1.0, False, ""),
    )
    assert [p.id for p in found.active] == ["short"]


ITEM = "  - id: a\n    text: t\n    critique: c\n    revision: r\n"


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("principles:\n" + ITEM + ITEM, ["p.yaml, line 6: the id a stands twice, first on line 2"]),
        ("principles:\n" + ITEM.replace("text: t", "text: ' '"), ["p.yaml, line 3: text is empty"]),
        ("principles:\n" + ITEM + "    tone: x\n", ["p.yaml, line 6: a principle has no 'tone'"]),
        ("principles:\n" + ITEM + "    weight: -1\n", ["p.yaml, line 6: weight is '-1'"]),
        ("principles:\n" + ITEM + "    weight: .nan\n", ["p.yaml, line 6: weight is '.nan'"]),
        ("principles:\n" + ITEM + "    weight: true\n", ["p.yaml, line 6: weight is 'true'"]),
        ("principles:\n" + ITEM + "    on: maybe\n", ["p.yaml, line 6: on is 'maybe'"]),
        ("principles:\n" + ITEM + "    text: again\n", ["p.yaml, line 6: text stands twice"]),
        ("principles:\n" + ITEM + "    on: false\n", ["p.yaml, line 2: no principle is on"]),
        ("principles:\n" + ITEM + "    weight: 0\n", ["p.yaml, line 2: no principle is on"]),
        ("principles:\n" + ITEM.replace("    text: t\n", ""), ["p.yaml, line 2: a has no text"]),
        ("principles: short\n", ["p.yaml, line 1: principles must be a list"]),
        ("name: x\nprinciples: []\n", ["p.yaml, line 2: principles must be a list"]),
        ("principles:\n  - short\n", ["p.yaml, line 2: a principle has keys"]),
        ("name: x\n", ["p.yaml, line 1: a constitution needs principles"]),
        ("tone: x\nprinciples:\n" + ITEM, ["p.yaml, line 1: a constitution has no 'tone'"]),
        ("name: [x]\nprinciples:\n" + ITEM, ["p.yaml, line 1: name must be text"]),
        ("- a\n", ["p.yaml, line 1: a constitution has keys"]),
        ("", ["p.yaml, line 1: a constitution has keys"]),
        ("name: x\nprinciples: [\n", ["p.yaml, line 3: this is no YAML"]),
        (
            "tone: x\nprinciples:\n" + ITEM + "    weight: -1\n",
            ["p.yaml, line 1: a constitution has no 'tone'", "p.yaml, line 7: weight is '-1'"],
        ),
    ],
)
def test_what_is_wrong_with_a_constitution_is_said_with_its_line(text: str, sentences: list[str]) -> None:
    with pytest.raises(ConstitutionError) as wrong:
        parse(text, "p.yaml")
    assert len(wrong.value.problems) == len(sentences)
    for problem, sentence in zip(wrong.value.problems, sentences, strict=True):
        assert problem.startswith(sentence)
        assert "\n" not in problem
        assert problem.endswith(".")


def test_a_constitution_made_in_python_is_held_to_the_same() -> None:
    for principles, sentence in (
        ((principle("a"), principle("a")), "the id a stands twice"),
        ((principle("a", -1.0),), "the weight of a must be"),
        ((principle("a", on=False),), "no principle is on"),
        ((), "no principle is on"),
    ):
        with pytest.raises(ConstitutionError, match=sentence):
            Constitution(principles)


def test_the_digest_is_that_of_the_principles_alone() -> None:
    found = parse(GOOD)
    assert found.digest == parse(GOOD.replace("name: small", "name: other").replace("version: 2", "version: 3")).digest
    assert found.digest == parse(GOOD.replace("text: Be short.", 'text:   "Be   short."')).digest
    for old, new in (("Be short.", "Be brief."), ("weight: 3", "weight: 4"), ("on: false", "on: true"),
                     ("Is it long?", "Is it too long?")):  # fmt: skip
        assert found.digest != parse(GOOD.replace(old, new)).digest


def test_shipped_constitutions_can_be_read_and_unknown_names_are_refused() -> None:
    assert "general" in shipped()
    general = read_constitution("general")
    assert len(general.active) >= 10
    assert all(p.critique.endswith("?") or "." in p.critique for p in general.principles)
    with pytest.raises(
        ConstitutionError, match=r"There is no constitution 'generous': neither a file nor one of general"
    ):
        read_constitution("generous")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConstitutionError, match="cannot be read"):
        read_constitution(tmp_path / "p.yaml")


def test_principles_are_drawn_by_weight_and_once_until_all_were() -> None:
    """Weights 3 and 1: the first is a in 3 of 4 draws; 2000 draws lie within four standard errors (0.039) of that."""
    two = Constitution((principle("a", 3.0), principle("b", 1.0), principle("off", 9.0, on=False)))
    first = [two.draw(1, 0, i)[0].id for i in range(2000)]
    assert abs(first.count("a") / 2000 - 0.75) < 0.039
    assert set(first) == {"a", "b"}
    for i in range(20):
        drawn = [p.id for p in two.draw(5, 7, i)]
        assert sorted(drawn[:2]) == sorted(drawn[2:4]) == ["a", "b"]
    assert two.draw(3, 1, 2) == two.draw(3, 1, 2)
    assert len({tuple(p.id for p in ABC.draw(3, seed)) for seed in range(40)}) == 6


# --- critics and chains ----------------------------------------------------------------------------------------------


def test_a_chain_by_hand() -> None:
    """Three rounds of three principles take a, b and c out of any answer, in whatever order they are drawn."""
    [chain] = revise([("x?", "abcd")], ABC, RULES, rounds=3, seed=1)
    assert chain.draft == "abcd"
    assert sorted(r.principle for r in chain.rounds) == ["a", "b", "c"]
    answer = "abcd"
    for r in chain.rounds:
        answer = answer.replace(r.principle, "")
        assert (r.critique, r.revision) == (f"it has {r.principle}", answer)
    assert chain.final == "d"
    assert len(chain.changes) == 3
    [kept] = revise([("x?", "d")], ABC, RULES, rounds=3, seed=1)
    assert {(r.critique, r.revision) for r in kept.rounds} == {("That is fine.", "d")}
    assert kept.changes == ()


def test_a_chain_depends_on_its_place_and_not_on_what_is_revised_beside_it() -> None:
    drafts = [(f"{i}?", "abc") for i in range(6)]
    assert revise(drafts, ABC, RULES, rounds=2)[:3] == revise(drafts[:3], ABC, RULES, rounds=2)


def test_chains_go_to_a_file_and_come_back(tmp_path: Path) -> None:
    chains = revise([("x?", "abc"), ((Message("user", "y?"),), "a\u2028b")], ABC, RULES, rounds=2)
    assert read_chains(write_jsonl(chains, tmp_path / "chains.jsonl")) == chains
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x", "draft": "y", "rounds": []}\n\n{"prompt": "x"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 3: this is no chain of revisions"):
        read_chains(tmp_path / "bad.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_chains(tmp_path / "none.jsonl")


def test_final_revisions_become_demonstrations_and_rounds_are_counted() -> None:
    chains = [
        Chain("x?", "ab", (Round("a", "", "b"), Round("b", "", "b"))),
        Chain("y?", "a", (Round("a", "", ""), Round("b", "", ""))),
    ]
    assert demonstrations(chains) == [Demonstration("x?", "b", 0)]
    assert fired(chains) == {"a": (2, 2), "b": (2, 0)}


@dataclass
class Few:
    """A critic that gives one review whatever it is asked."""

    name: str = "few"
    seen: list[Task] = field(default_factory=list)

    def review(self, tasks: Sequence[Task]) -> Sequence[Review]:
        return [Review("", "z")]


def test_critics_that_fail_stop_the_chain_with_prompt_and_answer() -> None:
    def fails(prompt: str, answer: str) -> bool:
        raise KeyError("gone")

    broken = Rules({letter: Rule(fails, lambda x, y: y, lambda x, y: "") for letter in "abc"})
    with pytest.raises(CriticError, match=r"raised KeyError: 'gone' \(prompt: 'x\?', answer: 'abc'\)"):
        revise([("x?", "abc")], ABC, broken)
    with pytest.raises(CriticError, match="few gave 1 reviews of 2 answers"):
        revise([("x?", "a"), ("y?", "b")], ABC, Few())
    with pytest.raises(ConstitutionError, match="No program can check the principle d: its critic 'd' is not known"):
        RULES.check(Constitution((principle("d"),)))
    for rounds in (0, 5):
        with pytest.raises(DataError, match=f"{rounds} rounds"):
            revise([("x?", "a")], ABC, RULES, rounds=rounds)
    with pytest.raises(DataError, match="0 answers"):
        revise([], ABC, RULES)


# --- labels ----------------------------------------------------------------------------------------------------------


def test_the_answer_that_breaks_fewer_principles_is_the_better_one() -> None:
    """ab breaks two of three, c one: p is ⅓·0 + ⅓·0 + ⅓·1 = ⅓ softly, and 0 as a choice."""
    pair = [Comparison("x?", "ab", "c")]
    [soft] = label(pair, ABC, lambda p: RuleJudge(RULES, p), draw=3, soft=True)
    [hard] = label(pair, ABC, lambda p: RuleJudge(RULES, p), draw=3)
    [clamped] = label(pair, ABC, lambda p: RuleJudge(RULES, p), draw=3, chain_of_thought=True)
    assert soft.p == pytest.approx(1 / 3)
    assert {s.principle: s.p for s in soft.said} == {"a": 0.0, "b": 0.0, "c": 1.0}
    assert (hard.p, clamped.p) == (0.0, 0.4)
    [tie] = label([Comparison("x?", "a", "c")], ABC, lambda p: RuleJudge(RULES, p), draw=3)
    assert tie.p == 0.5


def test_weights_count_where_all_principles_judge() -> None:
    """Weights 1, 2, 5: ab breaks 3, c breaks 5, so ab is the better one with p = 5 / 8."""
    heavy = Constitution((principle("a", 1.0), principle("b", 2.0), principle("c", 5.0)))
    [found] = label([Comparison("x?", "ab", "c")], heavy, lambda p: RuleJudge(RULES, p), draw=0, soft=True)
    assert found.p == pytest.approx(5 / 8)


def test_slips_are_as_many_as_asked_for_and_belong_to_an_order() -> None:
    """2000 looks with slips of 0.1: the share lies within four standard errors (0.027) of that."""
    pairs = [Comparison(f"{i}?", "a", "z") for i in range(2000)]
    judge = RuleJudge(RULES, principle("a"), slips=0.1, seed=3)
    first, second = judge.ask(pairs), judge.ask([c.swap() for c in pairs])
    assert abs(sum(o.p == 1.0 for o in first) / 2000 - 0.1) < 0.027
    assert abs(sum(o.p == 0.0 for o in second) / 2000 - 0.1) < 0.027
    both = sum(x.p == 1.0 and y.p == 0.0 for x, y in zip(first, second, strict=True))
    assert both / 2000 < 0.03  # 0.01 expected: a slip in one order says nothing about the other
    assert first == judge.ask(pairs)
    assert {o.p for o in judge.ask([Comparison("x?", "b", "z")])} == {0.5}


@dataclass
class Says:
    """A judge by a table: (first, second) → p."""

    table: dict[tuple[str, str], float | None]
    name: str = "table"

    def ask(self, comparisons: Sequence[Comparison]) -> Sequence[Opinion]:
        return [Opinion(self.table[str(c.a), str(c.b)]) for c in comparisons]


def test_both_orders_are_asked_and_a_principle_without_an_answer_is_left_out() -> None:
    """a: (0.9 + 1 − 0.3) / 2 = 0.8; b has no answer in one order; so p = 0.8, and None where nobody answers."""
    tables = {"a": {("u", "v"): 0.9, ("v", "u"): 0.3}, "b": {("u", "v"): 0.2, ("v", "u"): None}}
    two = Constitution((principle("a"), principle("b")))
    [found] = label([Comparison("x?", "u", "v")], two, lambda p: Says(tables[p.id]), draw=2, soft=True)
    assert found.p == pytest.approx(0.8)
    assert {s.principle: (s.ab, s.ba) for s in found.said} == {"a": (0.9, 0.3), "b": (0.2, None)}
    only = Constitution((principle("b"),))
    [none] = label([Comparison("x?", "u", "v")], only, lambda p: Says(tables[p.id]))
    assert none.p is None
    assert none.preference() is None


def test_labels_become_preferences_and_ties_are_decided_by_people() -> None:
    c = Comparison("x?", "u", "v")
    for p, chosen, rejected, sure in ((0.8, "u", "v", 0.8), (0.0, "v", "u", 1.0)):
        made = Labelled(c, (), p, "ai").preference()
        assert made == Preference("x?", chosen, rejected, annotator="ai", label=sure)
    people = Preference("x?", "v", "u", annotator="somebody")
    ties = [Labelled(c, (), 0.5, "ai"), Labelled(c, (), None, "ai"), Labelled(c, (), 1.0, "ai")]
    assert [p.annotator for p in preferences(ties, lambda _: people)] == ["somebody", "somebody", "ai"]
    assert [p.annotator for p in preferences(ties)] == ["ai"]


def test_how_each_principle_worked_by_hand() -> None:
    """a: drawn 3 times, takes a side in 2, in both orders the same in 1 of these, alone decides 1, is right in 1 of 2.
    b: drawn twice, takes a side once, rightly, and decides nothing: where it takes a side, a takes it too."""
    c = Comparison("x?", "u", "v")
    labelled = [
        Labelled(c, (Said("a", 1.0, 0.0), Said("b", 1.0, 0.0)), 1.0),
        Labelled(c, (Said("a", 1.0, 0.6), Said("b", 0.5, 0.5)), 1.0),
        Labelled(c, (Said("a", 0.5, 0.5),), 0.5),
    ]
    two = Constitution((principle("a"), principle("b")))
    assert report(labelled, two, [1.0, 0.0, 1.0]) == [
        Habit("a", 3, 2 / 3, 0.5, 1 / 3, 0.5),
        Habit("b", 2, 0.5, 1.0, 0.0, 1.0),
    ]
    assert report(labelled[2:], two)[1] == Habit("b", 0, None, None, None, None)


def test_labels_go_to_a_file_and_come_back(tmp_path: Path) -> None:
    made = [
        Labelled(Comparison((Message("user", "x?"),), "u", "v", (True, False)), (Said("a", 1.0, None),), None, "ai"),
        Labelled(Comparison("x?", "u", "v"), (Said("a", 1.0, 0.0),), 1.0, "ai"),
    ]
    assert read_labelled(write_jsonl(made, tmp_path / "c.jsonl")) == made
    (tmp_path / "bad.jsonl").write_text('{"comparison": {"prompt": "x"}}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 1: this is no labelled comparison"):
        read_labelled(tmp_path / "bad.jsonl")


# --- the command -----------------------------------------------------------------------------------------------------


def test_lab_constitution_show(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(GOOD)
    done = CliRunner().invoke(main, ["constitution", "show", str(tmp_path / "p.yaml"), "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert shown["digest"] == parse(GOOD).digest
    assert [p["id"] for p in shown["principles"]] == ["short", "kind"]
    assert "Be short." in CliRunner().invoke(main, ["constitution", "show", str(tmp_path / "p.yaml")]).output
    (tmp_path / "p.yaml").write_text(GOOD.replace("weight: 3", "weight: -3"))
    done = CliRunner().invoke(main, ["constitution", "show", str(tmp_path / "p.yaml")])
    assert done.exit_code == 1
    assert done.output == "Error: p.yaml, line 9: weight is '-3'; it must be a finite number from 0 on.\n"
