"""What the Guide panel answers, without a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

from apps.studio.book import Book
from apps.studio.guide import FILE, STEPS, Guide, tiny_practice
from apps.studio.parts import Parts
from apps.studio.people import HostOnlyError, Person
from lab.tiny import gold

from .fake_labels import HOSTILE, ReadingEngine, free_rules, judge, pairs, parts_over
from .made import make_ppo

MINA, TOM, HOST = Person("mina"), Person("tom"), Person("ada", host=True)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    found = parts_over(tmp_path, ReadingEngine())
    found.labels.store().rule(free_rules())
    yield found
    found.labels.close()


@pytest.fixture
def desk(parts: Parts) -> Guide:
    return Guide(Book(parts.labels), parts.shelf)


def steps(at: dict[str, Any]) -> dict[str, bool]:
    return {s["name"]: s["done"] for s in at["steps"]}


def test_the_whole_guide_from_the_first_step_to_the_last(desk: Guide, parts: Parts) -> None:
    parts.labels.store().add(pairs(30))
    assert desk.place({}, MINA)["now"] == "rules"
    desk.step({"step": "rules"}, MINA)
    for n in range(5):
        at = desk.place({}, MINA)
        assert (at["now"], at["practice"]["n"]) == ("practice", n)
        desk.answer({"n": n, "strength": 1, "ms": 4000}, MINA)
    assert desk.place({}, MINA)["now"] == "label"
    judge(parts.labels.store(), "mina", 10)
    assert desk.place({}, MINA)["now"] == "biases"
    desk.step({"step": "biases"}, MINA)
    at = desk.place({}, MINA)
    assert (at["now"], at["policies"]) == ("predict", ["base", "ppo-1", "sft-1"])
    desk.predict({"winner": "ppo-1", "agreement": 0.7}, MINA)
    at = desk.place({}, MINA)
    assert at["now"] == "done"
    assert all(steps(at).values())
    assert at["prediction"] == {"winner": "ppo-1", "agreement": 0.7}


def test_progress_is_kept_by_name_beyond_this_process(desk: Guide, parts: Parts) -> None:
    desk.step({"step": "rules"}, MINA)
    desk.answer({"n": 0, "strength": -1, "ms": 1}, MINA)
    other = Guide(Book(parts.labels), parts.shelf)
    assert other.place({}, MINA)["practice"]["n"] == 1
    assert other.place({}, TOM)["now"] == "rules"


def test_the_practice_pairs_are_right_by_the_true_score() -> None:
    found = tiny_practice()
    assert len(found) == 5
    assert [p.answer for p in found] == ["b", "a", "b", "a", "b"]
    for p in found:
        a, b = gold(p.prompt, p.a, True), gold(p.prompt, p.b, True)
        assert p.answer == ("a" if a.score > b.score else "b")
        assert p.points == (a.reasons, b.reasons)
        assert {a.score, b.score} & {1.0}, "one of the two is the best there is"
        assert "no rule for this prompt" not in str(p.points)


def test_no_answer_is_sent_before_the_choice(desk: Guide) -> None:
    desk.step({"step": "rules"}, MINA)
    sent = json.dumps(desk.place({}, MINA))
    assert tiny_practice()[0].why not in sent
    assert "flattery" not in sent
    assert set(desk.place({}, MINA)["practice"]) == {"n", "of", "right", "prompt", "a", "b"}


@pytest.mark.parametrize(("strength", "right"), [(2, False), (1, False), (0, False), (-1, True), (-2, True)])
def test_an_answer_is_explained_by_its_points(desk: Guide, strength: int, right: bool) -> None:
    told = desk.answer({"n": 0, "strength": strength}, MINA)
    assert (told["right"], told["answer"]) == (right, "b")
    assert ["flattery", -0.4] in told["points"][0]
    assert told["others"] == [int(right), 1]


def test_a_second_try_is_answered_and_not_written_down(desk: Guide) -> None:
    desk.answer({"n": 0, "strength": 2}, MINA)
    assert desk.answer({"n": 0, "strength": -2}, MINA)["right"] is True
    assert desk.place({}, MINA)["practice"]["right"] == 0
    assert desk.answer({"n": 0, "strength": -1}, TOM)["others"] == [1, 2]


def test_the_host_skips_steps_for_all(desk: Guide) -> None:
    with pytest.raises(HostOnlyError):
        desk.skip({"steps": ["rules"]}, MINA)
    desk.skip({"steps": ["rules", "practice"]}, HOST)
    at = desk.place({}, MINA)
    assert at["now"] == "label"
    assert [s["name"] for s in at["steps"] if s["skipped"]] == ["rules", "practice"]
    desk.skip({"steps": list(STEPS)}, HOST)
    assert desk.place({}, MINA)["now"] == "done"
    desk.skip({"steps": []}, HOST)
    assert desk.place({}, MINA)["now"] == "rules"


def test_a_prediction_is_taken_until_the_reveal_and_the_last_one_counts(desk: Guide) -> None:
    desk.predict({"winner": "sft-1", "agreement": 0.5}, MINA)
    desk.predict({"winner": "ppo-1", "agreement": 3}, MINA)
    assert desk.place({}, MINA)["prediction"] == {"winner": "ppo-1", "agreement": 1.0}
    desk.book.room.turn("open", "ada")
    desk.book.room.turn("reveal", "ada")
    desk.book.state(now=True)
    assert desk.place({}, MINA)["blind"] is False
    with pytest.raises(ValueError, match="has been revealed"):
        desk.predict({"winner": "sft-1", "agreement": 0.5}, MINA)


def test_without_pairs_the_runs_are_what_can_win(desk: Guide, parts: Parts) -> None:
    assert desk.place({}, MINA)["policies"] == []
    make_ppo(parts.shelf.root, steps=5)
    assert Guide(Book(parts.labels), type(parts.shelf)(parts.shelf.root)).place({}, MINA)["policies"] == ["ppo-1"]


def test_a_hosts_own_practice_takes_the_place_of_the_usual_one(desk: Guide, parts: Parts) -> None:
    rows = [{"prompt": t[:500], "a": "one", "b": t, "answer": "tie", "why": "so"} for t in HOSTILE[:2]]
    (parts.shelf.root / FILE).write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    at = desk.place({}, MINA)
    assert (at["practice"]["of"], at["practice"]["b"]) == (2, HOSTILE[0])
    told = desk.answer({"n": 0, "strength": 0}, MINA)
    assert (told["right"], told["why"], told["points"]) == (True, "so", [[], []])
    with pytest.raises(ValueError, match="no such practice pair"):
        desk.answer({"n": 2, "strength": 0}, MINA)


@pytest.mark.parametrize(("line", "sentence"), [
    ("{", "line 2: prompt is missing"), ("[]", "line 2: it is no JSON object"),
    ('{"prompt": "p", "a": "a", "b": "b", "answer": "c"}', "line 2: answer is"),
])  # fmt: skip
def test_a_practice_file_that_is_wrong_names_its_line(desk: Guide, parts: Parts, line: str, sentence: str) -> None:
    good = '{"prompt": "p", "a": "a", "b": "b", "answer": "a"}'
    (parts.shelf.root / FILE).write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        desk.place({}, MINA)


@pytest.mark.parametrize(("name", "ask"), [
    ("step", {"step": "practice"}), ("answer", {"n": 0}), ("answer", {"n": -1, "strength": 0}),
    ("predict", {"winner": "", "agreement": 0.5}), ("predict", {"winner": "x", "agreement": "much"}),
    ("step", {"step": "rules", "who": "tom"}),
])  # fmt: skip
def test_what_does_not_fit_is_refused(desk: Guide, name: str, ask: dict) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        getattr(desk, name)(ask, MINA)
