"""`lab.data`: the standard columns from every kind of source, what is left out and why, and the order of a run."""

from __future__ import annotations

import json
import string
from datetime import date
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import CHATML, build_tokenizer

from lab.chat import Chat
from lab.columns import DataError, Rows, Skip
from lab.data import batch_at, order, read, split, updates_in, write_jsonl
from lab.encode import encode_demonstrations, encode_preferences, encode_prompts
from lab.records import Demonstration, Message, Preference, PromptRow, Ranking, Rating, Steps

ASK = {"role": "user", "content": "What is 2 + 2?"}
FOUR = {"role": "assistant", "content": "Four."}
FIVE = {"role": "assistant", "content": "Five."}
USER = Message("user", "What is 2 + 2?")
PLAIN = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
DEMONSTRATIONS = (Demonstration("a", "b", 0), Demonstration("c", "d", 1))


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(r + "\n" if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return path


# Sources


def test_every_source_gives_the_same_records(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps(PLAIN))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PLAIN), tmp_path / "rows.parquet")
    folder = tmp_path / "folder"
    folder.mkdir()
    lines(folder / "1.jsonl", PLAIN[0])
    (folder / "2.json").write_text(json.dumps(PLAIN[1:]))
    (folder / "readme.md").write_text("not data")
    sources = [PLAIN, DEMONSTRATIONS, lines(tmp_path / "rows.jsonl", *PLAIN), tmp_path / "rows.json",
               str(tmp_path / "rows.parquet"), folder]  # fmt: skip
    for source in sources:
        assert read(source, "sft") == Rows(DEMONSTRATIONS)


def test_datasets_in_memory_and_saved_to_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(PLAIN)
    table.save_to_disk(str(tmp_path / "one"))
    both = datasets.DatasetDict({"train": table, "test": table.select([1])})
    both.save_to_disk(str(tmp_path / "both"))
    for source in (table, both, tmp_path / "one", tmp_path / "both"):
        assert read(source, "sft").records == DEMONSTRATIONS
    assert read(tmp_path / "both", "sft", split="test").records == (Demonstration("c", "d", 0),)


def test_the_hub_is_asked_for_a_name_that_is_no_file(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or PLAIN)
    assert read("someone/something", "sft", split="test").records == DEMONSTRATIONS
    assert asked == [("someone/something", "test")]

    def offline(name, split):
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        DataError, match=r"'someone/something' is no file here.*Couldn't reach the Hub\).*check the name"
    ):
        read("someone/something", "sft")


def test_without_the_package_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'rlhf-lab\[data\]'"):
        read("someone/something", "sft")


def test_empty_lines_and_a_byte_order_mark_do_no_harm(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "completion": "b"}\r\n\r\n{"prompt": "c", "completion": "d"}')
    assert read(path, "sft").records == DEMONSTRATIONS


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.json", "{'a': 1}", r"rows\.json is not JSON .*one object per line needs the name \.jsonl"),
        ("rows.json", '{"a": 1}', r"rows\.json holds \{'a': 1\}; it must hold a list"),
        ("rows.parquet", "no", r"rows\.parquet is not a Parquet file"),
        ("rows.csv", "a,b", r"rows\.csv has an unknown ending; the known ones are \.jsonl, \.json, \.parquet"),
        ("rows.jsonl", "", "has no rows"),
        ("rows.jsonl", "\n\n", "has no rows"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=sentence):
        read(tmp_path / name, "sft")


def test_sources_that_are_not_there(tmp_path):
    for missing in (tmp_path / "no.jsonl", "no.jsonl", "./no", str(tmp_path / "no")):
        with pytest.raises(DataError, match="There is no file or folder"):
            read(missing, "sft")
    with pytest.raises(DataError, match=r"holds no \.jsonl, \.json, \.parquet file"):
        read(tmp_path, "sft")
    with pytest.raises(DataError, match=r"The list has no rows|\[\] has no rows"):
        read([], "sft")
    with pytest.raises(DataError, match="cannot be read from 7"):
        read(7, "sft")
    with pytest.raises(DataError, match="no kind of data called 'dpo'; choose one of sft, preference, rating, "):
        read(PLAIN, "dpo")  # type: ignore[arg-type]


# Columns


def test_conversations_and_messages_are_demonstrations():
    rows = [
        {"prompt": [ASK], "completion": [FOUR]},
        {"prompt": [ASK], "completion": FOUR},
        {"messages": [ASK, FOUR, ASK, FIVE], "extra": 1},
        {"prompt": [ASK], "completion": "Four."},
    ]
    four, five = Message("assistant", "Four."), Message("assistant", "Five.")
    assert read(rows, "sft").records == (
        Demonstration((USER,), (four,), 0),
        Demonstration((USER,), (four,), 1),
        Demonstration((USER,), (four, USER, five), 2),
        Demonstration((USER,), "Four.", 3),
    )


def test_preferences_with_and_without_a_prompt_column():
    four, five = Message("assistant", "Four."), Message("assistant", "Five.")
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": [ASK], "chosen": [FOUR], "rejected": [FIVE], "margin": None, "annotator": "Ada"},
        {"chosen": [ASK, FOUR], "rejected": [ASK, FIVE]},
        {"chosen": [ASK, FIVE, ASK, FOUR], "rejected": [ASK, FIVE, ASK, FIVE]},
        {"chosen": [ASK, FOUR, ASK], "rejected": [ASK, FIVE, ASK, FOUR]},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant: Go."},
    ]
    assert read(rows, "preference").records == (
        Preference("a", "b", "c", 0.0, "", 0),
        Preference((USER,), (four,), (five,), 0.0, "Ada", 1),
        Preference((USER,), (four,), (five,), 0.0, "", 2),
        Preference((USER, five, USER), (four,), (five,), 0.0, "", 3),
        Preference((USER,), (four, USER), (five, USER, four), 0.0, "", 4),
        Preference("\n\nHuman: Hi\n\nAssistant:", " Hello.", " Go.", 0.0, "", 5),
    )


def test_numbers_beside_a_preference():
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    rows = [pair | {"margin": 2, "label": 0.75, "weight": 0}, pair | {"margin": 0.5, "label": 1, "weight": 3}]
    assert read(rows, "preference").records == (
        Preference("a", "b", "c", 2.0, "", 0, 0.75, 0.0),
        Preference("a", "b", "c", 0.5, "", 1, 1.0, 3.0),
    )
    for name in ("margin", "label", "weight"):
        with pytest.raises(
            DataError, match=f"The column {name} has a value in 1 of 2 rows; give it in every row or in"
        ):
            read([pair | {name: 1}, pair], "preference")


def test_ratings_from_thumbs_and_from_preferences():
    rows = [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "c", "liked": 0}]
    assert read(rows, "rating").records == (Rating("a", "b", True, "", 0), Rating("a", "c", False, "", 1))
    pairs = read([{"prompt": "a", "chosen": "b", "rejected": "c", "annotator": "Ada"}], "rating").records
    assert pairs == (Rating("a", "b", True, "Ada", 0), Rating("a", "c", False, "Ada", 0))
    with pytest.raises(DataError, match="label is neither true nor false"):
        read([rows[0] | {"label": 0.5}], "rating")


def test_rankings_and_steps():
    ranked = {"prompt": "a", "completions": ["b", "c", "d"], "ranks": [2, 1, 2]}
    assert read([ranked], "ranking").records == (Ranking("a", ("b", "c", "d"), (2, 1, 2), "", 0),)
    for wrong, why in (({"ranks": [1, 2]}, "not one rank"), ({"ranks": [1, 1, 1]}, "nothing is ranked"),
                       ({"ranks": [1, 2, 2.5]}, "not whole numbers")):  # fmt: skip
        with pytest.raises(DataError, match=why):
            read([ranked | wrong], "ranking")
    steps = {"prompt": "a", "completions": ["b", "c"], "labels": [True, 0.25]}
    assert read([steps], "steps").records == (Steps("a", ("b", "c"), (1.0, 0.25), 0),)
    for wrong, why in (({"labels": [1]}, "not one label"), ({"labels": [1, 2]}, r"labels is no number in \[0, 1\]")):
        with pytest.raises(DataError, match=why):
            read([steps | wrong], "steps")


def test_a_prompt_keeps_its_other_columns(tmp_path):
    rows = [{"prompt": "2 + 2?", "answer": 4, "choices": ["3", "4"], "when": date(2026, 1, 1)}]
    kept = read(rows, "prompt").records
    assert kept[0].columns == {"answer": 4, "choices": ["3", "4"]}
    assert read(write_jsonl(kept, tmp_path / "rows.jsonl"), "prompt").records == kept


def test_prompts_alone_and_from_messages():
    rows = [
        {"prompt": "a", "answer": "42"},
        {"prompt": [ASK]},
        {"messages": [ASK, FOUR]},
        {"messages": [ASK, FOUR, ASK]},
    ]
    assert [r.prompt for r in read(rows, "prompt").records] == [
        "a",
        (USER,),
        (USER,),
        (USER, Message("assistant", "Four."), USER),
    ]


def test_wrong_columns_are_named_with_those_expected():
    with pytest.raises(
        DataError, match=r"columns are answer, question, but 'sft' data need prompt \+ completion or messa"
    ):
        read([{"question": "a", "answer": "b"}], "sft")
    with pytest.raises(DataError, match=r"need prompt \+ chosen \+ rejected or chosen \+ rejected"):
        read(PLAIN, "preference")


GOOD = {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    ("kind", "bad", "reason"),
    [
        ("sft", "{not json", "not JSON"),
        ("sft", '"text"', "not an object"),
        ("sft", "null", "not an object"),
        ("sft", {"prompt": "a"}, "missing column"),
        ("sft", {"prompt": None, "completion": "b"}, "not text"),
        ("sft", {"prompt": "a", "completion": None}, "not text"),
        ("sft", {"prompt": "a", "completion": 7}, "not text"),
        ("sft", {"prompt": "a", "completion": ""}, "empty completion"),
        ("sft", {"prompt": "a", "completion": " \n"}, "empty completion"),
        ("sft", {"prompt": "", "completion": "b"}, "empty prompt"),
        ("sft", {"prompt": [], "completion": "b"}, "empty prompt"),
        ("sft", {"prompt": "a", "completion": "\ud800"}, "not text"),
        ("sft", {"messages": [ASK]}, "no assistant turn"),
        ("sft", {"messages": "a"}, "not text"),
        ("sft", {"messages": ["a"]}, "not a turn"),
        ("sft", {"messages": [{"role": "user"}]}, "not a turn"),
        ("sft", {"messages": [{"role": "human", "content": "a"}, FOUR]}, "unknown role"),
        ("sft", {"messages": [ASK, {"role": "assistant", "content": None}]}, "not text"),
        ("sft", {"messages": [ASK, {"role": "assistant", "content": ""}]}, "empty completion"),
        ("sft", {"prompt": [ASK, FOUR], "completion": [FOUR]}, "prompt ends with an answer"),
        ("sft", {"prompt": [ASK], "completion": [ASK]}, "no assistant turn"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen equals rejected"),
        ("preference", {"chosen": [ASK, FOUR], "rejected": [ASK, FOUR]}, "chosen equals rejected"),
        ("preference", {"chosen": "b", "rejected": "c"}, "no shared prompt"),
        ("preference", {"chosen": [FOUR], "rejected": [FIVE]}, "no shared prompt"),
        ("preference", {"prompt": "a", "chosen": "b"}, "missing column"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": None}, "missing column"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": ""}, "empty completion"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}, "margin is no number ≥ 0"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1}, "margin is no number ≥ 0"),
        (
            "preference",
            {"prompt": "a", "chosen": "b", "rejected": "c", "margin": float("nan")},
            "margin is no number ≥ 0",
        ),
        ("prompt", {"prompt": 3}, "not text"),
        ("prompt", {"messages": [FOUR]}, "empty prompt"),
    ],
)
def test_a_bad_row_is_left_out_and_reported(tmp_path, kind, bad, reason):
    good = {**GOOD, "chosen": "x", "rejected": "y"}
    path = lines(tmp_path / "rows.jsonl", good, bad, good)
    rows = read(path, kind)
    assert [r.row for r in rows.records] == [0, 2]
    assert rows.counts == {reason: 1}
    assert rows.skipped[0].row == 1
    assert rows.skipped[0].detail.startswith("rows.jsonl, line 2: ")
    assert rows.report() == f"2 of 3 rows are used; left out: 1 {reason} (row 1)."
    with pytest.raises(DataError, match=r"^rows\.jsonl, line 2: .*Repair the row"):
        read(path, kind, strict=True)
    with pytest.raises(DataError):
        read(lines(tmp_path / "only.jsonl", bad), kind)


def test_when_nothing_is_left_the_reasons_are_told(tmp_path):
    path = lines(tmp_path / "rows.jsonl", "{", {"prompt": "a", "completion": ""}, "}")
    with pytest.raises(DataError, match=r"None of the 3 rows.*2 not JSON \(rows 0, 2\), 1 empty completion \(row 1\)"):
        read(path, "sft")


def test_a_reason_names_the_first_five_rows():
    rows = Rows(("x",), tuple(Skip("not text", i, "d") for i in range(7)))
    assert rows.report() == "1 of 8 rows are used; left out: 7 not text (rows 0, 1, 2, 3, 4, …)."
    (event,) = rows.events(step=3)
    assert (event.step, event.reason, event.count) == (3, "not text", 7)
    assert event.rows == ("row 0: d", "row 1: d", "row 2: d")
    assert rows.some() == ("x",)
    with pytest.raises(DataError, match=r"No row can be used: 1 not text \(row 4\)\. The first: d"):
        Rows((), (Skip("not text", 4, "d"),)).some()


# Writing

text = st.text(min_size=1).filter(str.strip)
turn = st.builds(Message, st.sampled_from(["user", "system", "tool"]), st.text())
answers = st.lists(st.builds(Message, st.just("assistant"), text), min_size=1, max_size=2).map(tuple)
prompts = text | st.lists(turn, min_size=1, max_size=3).map(tuple)
demonstrations = st.builds(Demonstration, prompts, text | answers)
preferences = st.builds(
    Preference, prompts, text, answers, st.floats(0, 100), st.text(string.ascii_letters, max_size=5)
)


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(["sft", "preference"]), data=st.data())
def test_what_is_written_is_read_again(tmp_path_factory, kind, data):
    one = demonstrations if kind == "sft" else preferences
    records = data.draw(st.lists(one, min_size=1, max_size=5))
    path = write_jsonl(records, tmp_path_factory.mktemp("jsonl") / "rows.jsonl")
    rows = read(path, kind)
    assert not rows.skipped
    values = ("prompt", "completion") if kind == "sft" else ("prompt", "chosen", "rejected", "margin", "annotator")
    assert [[getattr(r, v) for v in values] for r in rows.records] == [[getattr(r, v) for v in values] for r in records]
    assert [r.row for r in rows.records] == list(range(len(records)))
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_a_line_a_record(tmp_path):
    path = write_jsonl([Demonstration("a\nb", "☃", 9), PromptRow((USER,))], tmp_path / "rows.jsonl")
    assert path.read_text(encoding="utf-8").splitlines() == [
        '{"prompt": "a\\nb", "completion": "☃"}',
        '{"prompt": [{"role": "user", "content": "What is 2 + 2?"}]}',
    ]


# Splitting

names = st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=4), min_size=1, max_size=40)


@given(names, names, st.floats(0, 1), st.integers(0, 5), st.randoms())
def test_a_prompt_stays_on_its_side(old, new, share, seed, random):
    records = [Demonstration(p, str(i), i) for i, p in enumerate(old)]
    train, heldout = split(records, share, seed)
    assert sorted((*train, *heldout), key=lambda r: r.row) == records
    assert not {r.prompt for r in train} & {r.prompt for r in heldout}
    more = records + [Demonstration(p, "new", -1) for p in new]
    random.shuffle(more)
    again = split(more, share, seed)
    assert set(train) <= set(again.train)
    assert set(heldout) <= set(again.heldout)


def test_the_share_is_met_on_average_and_the_seed_matters():
    records = [PromptRow(f"question {i}") for i in range(4000)]
    sides = [split(records, 0.1, seed).heldout for seed in range(3)]
    for side in sides:  # 4000 · 0.1 = 400, standard deviation √(4000 · 0.1 · 0.9) = 19
        assert abs(len(side) - 400) < 4 * 19
    assert len(set(sides)) == 3
    assert split(records, 0.0).heldout == ()
    assert split(records, 1.0).train == ()


def test_plain_and_conversational_are_the_same_prompt():
    records = [r for i in range(50) for r in (PromptRow(f"q{i}"), PromptRow((Message("user", f"q{i}"),)))]
    heldout = split(records, 0.5).heldout
    assert len(heldout) % 2 == 0
    assert 0 < len(heldout) < 100


# Tokens


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat.of(build_tokenizer(CHATML))


def test_demonstrations_as_tokens(chat):
    turns = (Message("assistant", "Four."), USER, Message("assistant", "Four."))
    rows = encode_demonstrations(
        chat, [Demonstration((USER,), turns, 7), Demonstration("The boat", " is old.", 8)], 200
    )
    long, plain = rows.records
    assert (long.row, plain.row) == (7, 8)
    assert list(long.prompt_ids) == chat.encode_prompt((USER,))
    assert len(long.mask) == len(long.completion_ids)
    assert long.mask[0]
    assert long.mask[-1]
    answer = chat.split((USER,), "Four.")[1]
    assert sum(long.mask) == 2 * len(answer)
    assert [i for i, m in zip(long.completion_ids, long.mask, strict=True) if m] == answer * 2
    assert all(plain.mask)
    assert chat.tokenizer.decode(plain.ids) == "<|bos|>The boat is old.<|im_end|>"


def test_long_rows_are_left_out_and_never_cut(chat):
    records = [Demonstration("a", "b", 0), Demonstration("a", "b" * 30, 4)]
    tokens = [len(chat.encode(r.prompt, r.completion).ids) for r in records]
    rows = encode_demonstrations(chat, records, tokens[0])
    assert [r.row for r in rows.records] == [0]
    assert rows.skipped == (Skip(f"longer than {tokens[0]} tokens", 4, f"{tokens[1]} tokens"),)
    assert len(encode_demonstrations(chat, records, tokens[1]).records) == 2
    assert encode_demonstrations(chat, records, tokens[0] - 1).records == ()


def test_a_row_the_template_refuses_is_left_out(chat):
    records = [Demonstration((USER,), (USER,)), Demonstration((USER,), "Four.")]
    rows = encode_demonstrations(chat, records, 100)
    assert len(rows.records) == 1
    assert rows.counts == {"refused by the chat template": 1}
    assert rows.skipped[0].row == 0
    assert "What is 2 + 2?" in rows.skipped[0].detail


def test_preferences_as_tokens():
    trims = CHATML.replace("message['content']", "(message['content'] | trim)")
    chat = Chat.of(build_tokenizer(trims))
    pairs = [Preference((USER,), "Four.", "Five.", 1.5, "", 3), Preference((USER,), "Four.", " Four. ", 0.0, "", 4)]
    rows = encode_preferences(chat, pairs, 100)
    (pair,) = rows.records
    assert (pair.margin, pair.row) == (1.5, 3)
    assert pair.chosen.prompt_ids == pair.rejected.prompt_ids == tuple(chat.encode_prompt((USER,)))
    assert chat.decode(pair.chosen.completion_ids) == "Four."
    assert chat.decode(pair.rejected.completion_ids) == "Five."
    assert pair.chosen.completion_ids[-1] == pair.rejected.completion_ids[-1] == chat.eos_id
    assert rows.counts == {"chosen equals rejected": 1}
    longest = max(len(pair.chosen.ids), len(pair.rejected.ids))
    assert len(encode_preferences(chat, pairs[:1], longest).records) == 1
    assert encode_preferences(chat, pairs[:1], longest - 1).counts == {f"longer than {longest - 1} tokens": 1}


def test_prompts_as_tokens(chat):
    rows = encode_prompts(chat, [PromptRow((USER,), 5), PromptRow("word " * 40, 6)], 30)
    (prompt,) = rows.records
    assert (prompt.prompt, prompt.row) == ((USER,), 5)
    assert list(prompt.prompt_ids) == chat.encode_prompt((USER,))
    assert rows.skipped[0].row == 6


# Order


def test_an_order_is_a_permutation_of_its_seed_and_epoch():
    orders = {tuple(order(10, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(o) == list(range(10)) for o in orders)
    assert tuple(order(10, 1, 2)) == tuple(order(10, 1, 2))
    with pytest.raises(ValueError, match="read-only"):
        order(10, 0, 0)[0] = 1


@given(n=st.integers(1, 30), batch=st.integers(1, 40), seed=st.integers(0, 3), passes=st.integers(1, 4))
def test_no_row_is_skipped_or_replayed_at_the_end_of_a_pass(n, batch, seed, passes):
    steps = updates_in(n, batch, passes)
    stream = [row for step in range(steps) for row in batch_at(step, n, batch, seed, passes)]
    assert len(stream) == n * passes
    for epoch in range(passes):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert all(len(batch_at(step, n, batch, seed)) == batch for step in range(steps))
    assert batch_at(steps, n, batch, seed, passes) == ()


def test_a_batch_needs_no_state():
    forward = [batch_at(step, 7, 3, 0) for step in range(20)]
    backward = [batch_at(step, 7, 3, 0) for step in reversed(range(20))]
    assert forward == backward[::-1]


def test_the_last_batch_may_be_smaller():
    assert [len(batch_at(step, 10, 4, 0, 1.5)) for step in range(5)] == [4, 4, 4, 3, 0]  # 15 rows
    assert updates_in(10, 4, 1.5) == 4
    assert updates_in(10, 4, 0) == 0
    with pytest.raises(ValueError, match="at least 1"):
        batch_at(0, 0, 4, 0)
