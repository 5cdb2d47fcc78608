"""Data to learn from out of a label store, by name: what is among them, what stays out, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from lab import making
from lab.cli import main
from lab.columns import DataError
from lab.feedback.labels.learning import records, rounds
from lab.feedback.labels.room import Room
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Event, Item
from lab.records import Comparison, Preference, PromptRow, Rating
from lab.runs import Run


def item(n: int, split: str = "training", **source: object) -> Item:
    return Item(
        Comparison(f"What is {n} plus 1?", f"{n} plus 1 is {n + 1}.", f"{n} plus 1 is 9."), split=split, source=source
    )  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two pairs judged in round 1, one in round 2, a tie, and one kept for evaluation; a wins everywhere, by mina."""
    path = tmp_path / "labels.sqlite"
    with Store.open(path) as opened:
        items = [item(1), item(2, a="sft-1@20", b="base"), item(3), item(4), item(5, "evaluation")]
        opened.add(items)
        name = opened.login("mina", "2718")
        room = Room(opened)
        for i in items:
            if i in (items[0], items[2]):
                room.turn("open", "host", title="a round")
            tie = i == items[3]
            opened.record(Event("vote", i.id, name, f"k{i.id}", choice="tie" if tie else "a", strength=0 if tie else 1,
                                p=0.5 if tie else 1.0))  # fmt: skip
            if i in (items[1], items[4]):
                room.turn("close", "host")
    return path


def prompts(text: str) -> list[str]:
    return [r.prompt for r in records(text, "preference").records]


def test_votes_are_pairs_thumbs_or_prompts(store: Path) -> None:
    found = records(str(store), "preference").records
    assert [(p.chosen, p.rejected) for p in found] == [
        (f"{n} plus 1 is {n + 1}.", f"{n} plus 1 is 9.") for n in (1, 2, 3)
    ]
    assert found[0] == Preference("What is 1 plus 1?", "1 plus 1 is 2.", "1 plus 1 is 9.", 0.5, "mina")
    thumbs = records(str(store), "rating").records
    assert thumbs[:2] == (
        Rating("What is 1 plus 1?", "1 plus 1 is 2.", True, "mina"),
        Rating("What is 1 plus 1?", "1 plus 1 is 9.", False, "mina"),
    )
    assert len(thumbs) == 6
    asked = records(str(store), "prompt").records
    assert asked[0] == PromptRow("What is 1 plus 1?", row=0)
    assert len(asked) == 4, "a tie has a prompt too"


def test_evaluation_pairs_are_never_among_them_and_ties_only_when_asked(store: Path) -> None:
    assert prompts(str(store)) == ["What is 1 plus 1?", "What is 2 plus 1?", "What is 3 plus 1?"]
    assert prompts(f"{store}?ties=1") == [
        "What is 1 plus 1?",
        "What is 2 plus 1?",
        "What is 3 plus 1?",
        "What is 4 plus 1?",
    ]


def test_a_round_a_run_and_an_annotator_can_be_named(store: Path) -> None:
    assert prompts(f"{store}?round=2") == ["What is 3 plus 1?"]
    assert prompts(f"{store}?run=sft-1") == ["What is 2 plus 1?"]
    assert prompts(f"{store}?by=mina&round=1") == ["What is 1 plus 1?", "What is 2 plus 1?"]
    with Store.open(store, create=False) as opened:
        assert rounds(opened) == {"": 3, "1": 2, "2": 1}


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("{store}?tea=1", "preference", "has no option 'tea'"),
        ("{store}?made_by=cat", "preference", "made_by is 'cat'"),
        ("{store}", "sft", "not 'sft'"),
        ("{store}?by=nobody", "preference", "nobody has judged a training pair"),
        ("nothing.sqlite", "preference", "There is no label store nothing.sqlite"),
        ("", "preference", "There is no label store without a name"),
    ],
)
def test_what_cannot_be_says_so(store: Path, text: str, kind: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        records(text.format(store=store), kind)  # type: ignore[arg-type]


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_text("no database")
    with pytest.raises(DataError):
        records(str(tmp_path / "a.sqlite"), "preference")


def test_a_reward_model_learns_from_labels_in_the_terminal(store: Path, tmp_path: Path) -> None:
    """One update on the room's pairs, with the real command."""
    assert len(making.rows_of(tmp_path, f"labels:{store}", "preference", 0, "").records) == 3
    asked = ["reward", "--model", "tiny", "--data", f"labels:{store}", "--runs", str(tmp_path / "runs"), "--rank", "2",
             "--eval-share", "0", "--probe-every", "0", "--device", "cpu"]  # fmt: skip
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    run = Run.open(tmp_path / "runs" / "reward-1")
    assert run.status().state == "finished"
    assert len((run.path / "inputs" / "data.jsonl").read_text().splitlines()) == 3
