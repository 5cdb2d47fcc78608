"""Chains, duels and judges on the engine's base: the tiny world's, in one process without a channel."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lab import launch, tiny
from lab.columns import DataError
from lab.config import Adapter
from lab.desk import Desk
from lab.evaluate.principles import check
from lab.feedback.constitution.critics import ModelCritic, Task
from lab.feedback.constitution.labels import RuleJudge
from lab.feedback.constitution.opinions import Opinions
from lab.feedback.constitution.principles import Principle
from lab.feedback.judging import JudgeError, judge
from lab.judges import make_judge
from lab.records import Comparison, Message, Preference, comparison, to_json
from lab.runs import RunError
from lab.tasks import find
from lab.tasks.judging import page_judge
from lab.tiny.constitution import CRITIC, PRINCIPLES, constitution

TEXT = PRINCIPLES.read_text()
CROW = Comparison("What colour is the crow?", "The crow is black.", "The crow is white.")
DRUGS = Comparison("How do I make drugs?", "Sorry, I can not help with that.", "Mix powder and guns.")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("runs"), launch.Setup(str(tiny.CHECKPOINT)).load("cpu"), "tiny")


def rows(desk: Desk, task: str, **row: Any) -> list[dict[str, Any]]:
    return list(find(task)(desk, row))


# --- chains ----------------------------------------------------------------------------------------------------------


def test_a_chain_by_programs_mends_what_is_broken(desk: Desk) -> None:
    """The draft helps with harm; whichever round draws that principle ends in a refusal, worth 1 to the gold."""
    said = rows(desk, "chain", principles=TEXT, prompt="how do i make drugs?", rounds=4, draft=DRUGS.b)
    rounds = [r for r in said if r["stage"] == "round"]
    assert said[0] == {"stage": "draft", "text": DRUGS.b, "done": True, "ended": True}
    assert [r["principle"] for r in rounds] == [p.id for p in constitution().draw(4, 0, 0)]
    changed = [r for r in rounds if r["changed"]]
    assert [r["principle"] for r in changed] == ["harm"]
    assert changed[0]["critique"] == "No, it is wrong to make drugs."
    end = said[-1]
    assert (end["draft"], end["final"]) == (DRUGS.b, DRUGS.a)
    assert [w["score"] for w in end["worth"]] == [-2.0, 1.0]


def test_a_role_drafts_and_its_text_grows(desk: Desk) -> None:
    said = rows(desk, "chain", principles=TEXT, prompt="What colour is the crow?", rounds=1, seed=5)
    growing = [r["text"] for r in said if r["stage"] == "draft"]
    assert len(growing) > 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(growing))
    assert growing[-1] == growing[-2]
    assert rows(desk, "chain", principles=TEXT, prompt="What colour is the crow?", rounds=1, seed=5) == said


def test_a_role_criticises_and_revises_as_the_critic_of_the_library_does(desk: Desk) -> None:
    """At temperature 0 both say the same, whatever the noise."""
    said = rows(desk, "chain", principles=TEXT, prompt="How do I make drugs?", critic="base", rounds=1, draft=DRUGS.b,
                temperature=0.0, max_new_tokens=24)  # fmt: skip
    principle = constitution().draw(1, 0, 0)[0]
    task = Task((Message("user", "How do I make drugs?"),), DRUGS.b, principle)
    review = ModelCritic(desk.base, fine="Yes", max_new_tokens=24, temperature=0.0).review([task])[0]
    (found,) = [r for r in said if r["stage"] == "round"]
    assert (found["critique"], found["revision"]) == (review.critique, review.revision)
    assert {r["stage"] for r in said} == {"draft", "critique", "revision", "round", "end"}


def test_a_critic_that_finds_an_answer_fine_leaves_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The critic says yes: no revision is asked for, and the answer stays."""
    asked = []

    def say(self: Any, role: str, prompt: Any, about: Mapping[str, Any], turn: int = 0) -> Iterator[dict[str, Any]]:
        asked.append(about["stage"])
        yield {**about, "text": "Yes, it is."}
        return "Yes, it is.", True

    monkeypatch.setattr("lab.tasks.constitution._Pen.say", say)
    said = rows(desk, "chain", principles=TEXT, prompt="How do I make drugs?", critic="base", rounds=2, draft=DRUGS.b)
    assert asked == ["critique", "critique"]
    assert [r["changed"] for r in said if r["stage"] == "round"] == [False, False]
    assert said[-1]["final"] == DRUGS.b


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        ({"rounds": 5}, DataError, "1 to 4 rounds"),
        ({"role": "nobody"}, RunError, "There is no role 'nobody'"),
        ({"role": "../../etc"}, RunError, "There is no role"),
        ({"critic": "nobody"}, RunError, "There is no role 'nobody'"),
        ({"principles": "principles: []"}, ValueError, "principles must be a list"),
        ({"prompt": "Quicksilver zebroid?"}, ValueError, "does not know “Quicksilver”, “zebroid”"),
    ],
)
def test_a_chain_says_what_is_wrong(desk: Desk, row: Mapping[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        rows(desk, "chain", **{"principles": TEXT, "prompt": "What colour is the crow?", **row})


# --- opinions --------------------------------------------------------------------------------------------------------


def test_opinions_are_the_role_judge_s_in_both_orders(desk: Desk) -> None:
    from lab.cai.data import role_judge

    principles, pairs = constitution().principles[:2], [CROW, DRUGS, CROW.swap(), DRUGS, CROW]
    said = rows(desk, "opinions", judge="base", principles=[asdict(p) for p in principles],
                pairs=[to_json(c) for c in pairs])  # fmt: skip
    assert [(r["done"], r["of"]) for r in said] == [(0, 10), (4, 10), (5, 10), (9, 10), (10, 10)]
    judge_of = role_judge(desk.base, "base", "tiny")
    for place, principle in enumerate(principles):
        mine = [r for r in said if r.get("principle") == place]
        for key, shown in (("ab", pairs), ("ba", [c.swap() for c in pairs])):
            expected = [o.p for o in judge_of(principle).ask(shown)]
            assert [p for r in mine for p in r[key]] == pytest.approx(expected, abs=1e-5)


def test_kept_opinions_judge_as_their_judge_did() -> None:
    """What the programs said, kept and asked again, makes the same test; only new words are missing."""
    known, principles, pairs = Opinions(), constitution().principles, [CROW, DRUGS]
    for p in principles:
        assert known.missing(p, pairs) == pairs
        who = RuleJudge(CRITIC, p)
        for c in pairs:
            known.keep(p, c, who.ask([c])[0].p, who.ask([c.swap()])[0].p)
        assert known.missing(p, [c.swap() for c in pairs]) == []
    judged = [Preference(c.prompt, c.a, c.b) for c in pairs]
    by_programs = check(judged, constitution(), lambda p: RuleJudge(CRITIC, p))
    assert check(judged, constitution(), known.judge_of) == by_programs
    other = Principle("harm", "Other words.", principles[0].critique, "")
    assert known.missing(other, pairs) == pairs
    assert known.judge_of(other).ask(pairs)[0].p is None
    heavier = Principle("other", principles[0].text, principles[0].critique, "another revision", 9.0)
    assert known.missing(heavier, pairs) == []


def test_unstable_counts_verdicts_that_turn_with_the_order() -> None:
    """One principle; .9 whichever stands first is unstable, .9 and .1 is stable, ½ takes no side: 1 of 2."""
    known, principle = Opinions(), constitution().principles[0]
    pairs = [CROW, DRUGS, Comparison("What is 5 plus 1?", "6.", "7.")]
    for c, ab, ba in zip(pairs, (0.9, 0.9, 0.5), (0.9, 0.1, 0.5), strict=True):
        known.keep(principle, c, ab, ba)
    one = constitution()
    for p in one.principles[1:]:
        one = one.without(p.id)
    tested = check([Preference(c.prompt, c.a, c.b) for c in pairs], one, known.judge_of)
    assert tested.version.unstable == 0.5
    assert check([Preference(c.prompt, c.a, c.b) for c in pairs], one, Opinions().judge_of).version.unstable is None


# --- duels -----------------------------------------------------------------------------------------------------------


def test_a_duel_pairs_every_two_roles_and_leaves_equal_answers_out(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three names of one base share the noise, so they say the same: nothing is left but what is alike."""
    monkeypatch.setattr(desk, "role", lambda text: "base")
    monkeypatch.setattr(desk, "about", lambda: {"roles": ["base", "x", "y"]})
    said = rows(desk, "duel", roles=["base", "x", "y"], n=9, max_new_tokens=6)
    parts = [r for r in said if "pairs" in r]
    assert [(r["done"], r["of"], len(r["pairs"]), r["alike"]) for r in parts] == [(8, 9, 0, 24), (9, 9, 0, 3)]
    assert len(said) > len(parts), "a row for each token, so that a run goes on in between"


def test_the_pairs_of_a_duel_know_their_roles(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.base.add_role("louder", Adapter(rank=2, alpha=4)).weights.data.add_(0.2)
    monkeypatch.setattr(desk, "role", lambda text: text)
    monkeypatch.setattr(desk, "about", lambda: {"roles": ["base", "louder"]})
    asked = {"roles": ["base", "louder"], "prompts": ["What colour is the crow?", " what is 5 plus 1? "], "seed": 3}
    said = rows(desk, "duel", **asked)
    pairs = [p for r in said for p in r.get("pairs", ())]
    assert len(pairs) + sum(r.get("alike", 0) for r in said) == 2
    assert pairs, "a shifted role says something else"
    for pair in pairs:
        assert pair["source"] == {"a": "base", "b": "louder", "by": "duel", "temperature": 1.0, "seed": 3}
        assert comparison(pair["comparison"]).a != comparison(pair["comparison"]).b
    assert rows(desk, "duel", **asked) == said, "the same seed says the same"


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        ({"roles": ["base"]}, RunError, "between two to 4 different roles"),
        ({"roles": ["base", "base"]}, RunError, "between two to 4 different roles; 1 are named"),
        ({"roles": ["base", "../x"]}, RunError, "There is no role '../x'"),
    ],
)
def test_a_duel_says_what_it_lacks(desk: Desk, row: Mapping[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        rows(desk, "duel", **row)


@pytest.mark.parametrize("data", ["/etc/passwd", "evil.jsonl", "run:../../x", "tiny:demonstrations"])
def test_a_duel_reads_no_file(desk: Desk, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "about", lambda: {"roles": ["base", "x"]})
    monkeypatch.setattr(desk, "role", lambda text: "base")
    with pytest.raises(DataError, match="A duel needs prompts"):
        rows(desk, "duel", roles=["base", "x"], data=data)


# --- judges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["gold", "annotator:expert", "reaction:base", "base"])
def test_verdicts_are_those_of_the_judge(desk: Desk, text: str) -> None:
    pairs = [CROW, DRUGS.swap()] * 5
    said = rows(desk, "judge", judge=text, pairs=[to_json(c) for c in pairs])
    assert (said[0]["of"], [(r["at"], r["done"]) for r in said[1:]]) == (10, [(0, 8), (8, 10)])
    expected = judge(make_judge(text, desk.base, world="tiny"), pairs)
    assert [p for r in said[1:] for p, _ in r["verdicts"]] == [j.verdict.p for j in expected]
    assert sum(r["flipped"] for r in said[1:]) == sum(j.flipped for j in expected)
    assert said[0]["made_by"] == ("annotator" if text.startswith("annotator") else "judge")


def test_gold_knows_which_is_better(desk: Desk) -> None:
    said = rows(desk, "judge", judge="gold", pairs=[to_json(c) for c in (CROW, DRUGS.swap(), CROW.swap())])
    assert [p for p, _ in said[1]["verdicts"]] == [1.0, 0.0, 0.0]
    assert Counter(why.split(" ")[0] for _, why in said[1]["verdicts"]) == {"+1.00": 1, "-2.00": 1, "-1.00": 1}


@pytest.mark.parametrize("text", ["gold", "base", "sft-1", "sft-1@40", "generate:ppo-2", "reward:rm-1", "reaction:base",
                                  "annotator:crowd", "annotator:crowd?seed=3", "reward:length"])  # fmt: skip
def test_what_the_page_may_name(text: str) -> None:
    assert page_judge(text) == text


@pytest.mark.parametrize("text", ["endpoint:gpt@http://localhost:1", "reward:evil.py:f", "../x", "/etc/passwd", "a/b",
                                  "reward:model:../x", "generate:../x", "annotator:x?evil=1",
                                  "reward:a?b=c"])  # fmt: skip
def test_what_the_page_may_not_name(desk: Desk, text: str) -> None:
    with pytest.raises(JudgeError, match="cannot be asked from the page"):
        rows(desk, "judge", judge=text, pairs=[to_json(CROW)])


def test_a_judge_that_is_not_there_says_so(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="'nobody-1' is no judge"):
        rows(desk, "judge", judge="nobody-1", pairs=[to_json(CROW)])
