"""What goes in and out of a label store: every kind of bad line, round trips, soft labels by hand, the commands."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from label_stores import some_items

from lab.cli import main
from lab.data import read
from lab.feedback.labels import exporting
from lab.feedback.labels.importing import import_file
from lab.feedback.labels.store import Store
from lab.feedback.labels.summary import summary
from lab.feedback.labels.words import Event, Item, LabelError, RefusedError, Rules, vote
from lab.records import Comparison, Message, Preference, Rating, Verdict

PLAIN = Rules(overlap=5, explore=0.0, gold=0.0, repeats=0.0)
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def store(tmp_path: Path) -> Iterable[Store]:
    with Store.open(tmp_path / "labels.sqlite", rules=PLAIN) as found:
        yield found


def lines(path: Path, rows: Iterable[Any]) -> Path:
    """Writes rows as JSON lines; a string or bytes is a line as it stands."""
    raw = [r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in rows]
    path.write_bytes(b"".join(r + b"\n" for r in raw))
    return path


def voted(store: Store, item: Item, *strengths: int, both_bad: int = 0, prefix: str = "person") -> None:
    """One person for each strength, and more who say that both are bad."""
    for n, strength in enumerate([*strengths, *[None] * both_bad]):
        name = store.person(f"{prefix} {n}")
        store.record(vote(item.id, name, f"{item.id}{n}", strength or 0, both_bad=strength is None))


# --- soft labels -----------------------------------------------------------------------------------------------------


def test_shares_margins_and_weights_by_hand(store: Store) -> None:
    pairs = some_items(5)
    store.add(pairs)
    voted(store, pairs[0], 2, 1, -1, 1)  # share 3/4, strength 3/4
    voted(store, pairs[1], -2, -2, both_bad=1)  # share of b 1, strength 2, one vote names no side
    voted(store, pairs[2], 1, 1, -2)  # share 2/3, strength 0: the margin does not go below 0
    voted(store, pairs[3], 1, 0, -1)  # one half
    voted(store, pairs[4], both_bad=2)
    found = exporting.preferences(exporting.tallies(store), unit=0.5)
    c = [i.comparison for i in pairs]
    who = " + ".join(f"person {i}" for i in range(4))
    assert found == [
        Preference(c[0].prompt, c[0].a, c[0].b, 0.375, who, label=0.75, weight=4.0),
        Preference(c[1].prompt, c[1].b, c[1].a, 1.0, "person 0 + person 1", label=1.0, weight=2.0),
        Preference(c[2].prompt, c[2].a, c[2].b, 0.0, "person 0 + person 1 + person 2", label=pytest.approx(2 / 3),
                   weight=3.0),
    ]  # fmt: skip
    with_ties = exporting.preferences(exporting.tallies(store), ties=True)
    assert [(p.label, p.weight, p.margin) for p in with_ties][3:] == [(0.5, 3.0, 0.0)]


def test_thumbs_by_hand(store: Store) -> None:
    pairs = some_items(4)
    store.add(pairs)
    voted(store, pairs[0], -1)
    voted(store, pairs[1], 1, both_bad=2)
    voted(store, pairs[2], 0)
    voted(store, pairs[3], 1, both_bad=1)
    found = exporting.ratings(exporting.tallies(store))
    c = [i.comparison for i in pairs]
    assert [(r.completion, r.liked) for r in found] == [
        (c[0].a, False), (c[0].b, True), (c[1].a, False), (c[1].b, False), (c[3].a, True), (c[3].b, False)]  # fmt: skip


def test_what_is_exported_is_what_the_methods_read(store: Store, tmp_path: Path) -> None:
    chat = Item(Comparison((Message("system", "be brief"), Message("user", EVIL)), "x", (Message("assistant", "y"),)))
    pairs = [*some_items(2), chat]
    store.add(pairs)
    for item in pairs:
        voted(store, item, 1, 1, -1)
    tallies = exporting.tallies(store)
    made = exporting.preferences(tallies)
    path = exporting.write_preferences(made, tmp_path / "pairs.jsonl")
    assert set(json.loads(path.read_text().splitlines()[0])) == {
        "prompt", "chosen", "rejected", "margin", "annotator", "label", "weight"}  # fmt: skip
    assert [p.label for p in read(path, "preference").records] == [pytest.approx(2 / 3)] * 3
    assert [(p.prompt, p.chosen, p.rejected) for p in read(path, "preference").records] == [
        (p.prompt, p.chosen, p.rejected) for p in made]  # fmt: skip
    thumbs = exporting.write_ratings(exporting.ratings(tallies), tmp_path / "thumbs.jsonl")
    assert set(json.loads(thumbs.read_text().splitlines()[0])) == {"prompt", "completion", "label", "annotator"}
    records = read(thumbs, "rating").records
    assert isinstance(records[0], Rating)
    assert [r.liked for r in records] == [True, False] * 3


def test_evaluation_gold_repeats_and_programs_stay_out_of_the_data(store: Store) -> None:
    training, evaluation, gold = some_items(3)
    store.add([Item(training.comparison, split="training"), Item(evaluation.comparison, split="evaluation"),
               Item(gold.comparison, answer="a")])  # fmt: skip
    for item in (training, evaluation, gold):
        voted(store, item, 1)
    store.record(vote(training.id, "person 0", "again", -1, repeat=True))
    store.verdicts("rm", "reward_model", [(training.comparison, Verdict(0.2))])
    assert [(t.item.id, t.share) for t in exporting.tallies(store)] == [(training.id, 1.0)]
    assert [t.item.id for t in exporting.tallies(store, part="evaluation")] == [evaluation.id]
    assert [t.item.id for t in exporting.tallies(store, part="all")] == [training.id, evaluation.id]
    assert [t.share for t in exporting.tallies(store, made_by=("reward_model",))] == [0.2]
    assert exporting.tallies(store, annotator="person 1") == []


# --- round trips -----------------------------------------------------------------------------------------------------


def filled(store: Store) -> None:
    """A store in which everything has happened."""
    chat = Comparison(
        (Message("user", "“quotes”\n\t" + EVIL),), (Message("assistant", "x"), Message("user", "y")), "z", (True, False)
    )
    pairs = [*some_items(3), Item(chat, uncertainty=0.1 + 0.2, source={"run": "ppo-1", "step": 40, "ü": [1.5, None]})]
    store.add([*pairs, Item(Comparison("gold", "x", "y"), answer="tie")])
    for name in ("mina", "Ünal 🙂"):
        store.person(name)
        for _ in range(3):
            showing = store.assign(name)
            assert showing is not None
            store.record(showing.vote(-2, note="ä\n", reasons=("safe", "style"), ms=2345))
    store.undo("mina", "u")
    store.record(Event("remark", store.state().votes()[0].item, "mina", "r", note="well"))
    store.record(vote(pairs[3].id, "Ünal 🙂", "flip", 0, both_bad=True, repeat=True, first="b"))
    store.verdicts("rm", "reward_model", [(c.comparison.swap(), Verdict(1 / 3)) for c in pairs])
    store.rate({pairs[0].id: 0.7}, "rm", "round 2")
    store.withdraw(pairs[1].id, "host", "w", note="a name")


def test_a_round_trip_loses_nothing(store: Store, tmp_path: Path) -> None:
    filled(store)
    told = exporting.export_events(store, tmp_path / "one.jsonl")
    assert told == {"item": 5, "annotator": 4, "event": len(store.events())}
    with Store.open(tmp_path / "other.sqlite") as other:
        found = import_file(other, tmp_path / "one.jsonl")
        assert (found.items, found.events, found.known) == (5, told["event"], 0)
        exporting.export_events(other, tmp_path / "two.jsonl")
        assert other.events() == store.events()
        assert other.items() == store.items()
        assert other.state() == store.state()
        assert summary(other) == summary(store)
        again = import_file(other, tmp_path / "one.jsonl")
        assert (again.items, again.events, again.known) == (0, 0, 5 + told["event"])
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


@pytest.mark.postgres
def test_a_round_trip_over_another_kind_of_database(label_place: str, tmp_path: Path) -> None:
    with Store.open(tmp_path / "here.sqlite", rules=PLAIN) as here:
        filled(here)
        exporting.export_events(here, tmp_path / "one.jsonl")
    with Store.open(label_place if "://" in label_place else tmp_path / "there.sqlite") as there:
        import_file(there, tmp_path / "one.jsonl")
        exporting.export_events(there, tmp_path / "two.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_an_import_turns_votes_where_the_pair_stands_the_other_way_round(store: Store, tmp_path: Path) -> None:
    (item,) = some_items(1)
    store.add([item])
    voted(store, item, 2)
    exporting.export_events(store, tmp_path / "out.jsonl")
    with Store.open(tmp_path / "other.sqlite") as other:
        other.add([Item(item.comparison.swap())])
        import_file(other, tmp_path / "out.jsonl")
        (event,) = other.events()
    assert (event.choice, event.strength, event.p) == ("b", -2, 0.0)


def test_an_export_holds_no_pin(store: Store, tmp_path: Path) -> None:
    store.login("mina", "27182818")
    exporting.export_events(store, tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1]) == {
        "what": "annotator", "name": "mina", "made_by": "person"}  # fmt: skip


# --- bad lines -------------------------------------------------------------------------------------------------------

ROW = {"prompt": "p", "completion_a": "x", "completion_b": "y", "verdict": "a", "annotator": "mina"}
OTHER = ROW | {"prompt": "q"}

BAD = [
    ({k: v for k, v in ROW.items() if k != "completion_b"}, "column completion_b is missing"),
    ({k: v for k, v in ROW.items() if k != "verdict"}, "column verdict is missing"),
    ({k: v for k, v in ROW.items() if k != "annotator"}, "column annotator is missing"),
    (ROW | {"verdict": "left"}, "'left' is no verdict; give one of a, b, tie, both_bad"),
    (ROW | {"strength": -1}, "strength -1 does not fit the verdict a"),
    (ROW | {"strength": 5}, "strength 5 does not fit"),
    (ROW | {"strength": "much"}, "strength is 'much', not a whole number"),
    (ROW | {"reasons": "safe"}, "reasons is 'safe', not a list"),
    (ROW | {"ms": -5}, "no time"),
    (ROW | {"made_by": "ghost"}, "made_by is 'ghost', not one of"),
    (ROW | {"completion_a": 7}, "not text"),
    (ROW | {"completion_a": "y"}, "same"),
    (ROW | {"prompt": "  "}, "empty prompt"),
    (ROW | {"completion_b": "a\x00b"}, "control character U\\+0000"),
    (ROW | {"note": "\x1b[31mred"}, "control character U\\+001B"),
    (ROW | {"completion_b": "\ud800"}, "control character U\\+D800"),
    (ROW | {"answer": "c"}, "answer is 'c', not one of"),
    (ROW | {"verdict": None, "p": 1.5}, "probability"),
    ("{not json", "not JSON"),
    ('{"p": NaN}', "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[1]", "a line is an object"),
    (b'{"prompt": "\xff"}', "not UTF-8|not JSON"),
    (ROW | {"completion_b": "z" * 1_000_000}, "more than 1000000 bytes"),
    (OTHER, "a vote of this annotator on this pair stands on line 1 already"),
    (OTHER | {"completion_a": "y", "completion_b": "x"}, "stands on line 1 already"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "cause"), BAD)
def test_a_bad_line_is_named_and_nothing_is_imported(store: Store, tmp_path: Path, row: Any, cause: str) -> None:
    path = lines(tmp_path / "in.jsonl", [OTHER, row])
    with pytest.raises(LabelError, match=rf"line 2: .*({cause}).*Nothing was imported"):
        import_file(store, path)
    assert (store.items(), store.events()) == ([], [])
    found = import_file(store, path, leave_out=True)
    assert (found.items, found.events, [f.line for f in found.left_out]) == (1, 1, [2])


EXPORTED = [
    ({"what": "item", "prompt": "p", "a": "x"}, "column b is missing"),
    ({"what": "item", "prompt": "p", "a": "x", "b": "y", "split": "test"}, "split is 'test', not one of"),
    (
        {"what": "event", "kind": "vote", "item": "i", "annotator": "m", "key": "k", "at": 1, "choice": "c"},
        "no verdict",
    ),
    ({"what": "event", "kind": "like", "item": "i", "annotator": "m", "key": "k", "at": 1}, "kind of event"),
    ({"what": "event", "kind": "skip", "item": "i", "annotator": "m", "key": "k", "at": 1, "ip": "x"}, "no column ip"),
    ({"what": "event", "kind": "skip", "item": "none", "annotator": "mina", "key": "k", "at": 1}, "no pair none"),
    ({"what": "event", "kind": "skip", "item": "i", "annotator": "mina", "key": "k"}, "column at is missing"),
    ({"what": "person"}, "neither an item"),
    ({"what": "annotator", "name": "MINA", "made_by": "person"}, "this annotator stands on line 2 already"),
    ({"what": "item", "prompt": "p", "a": "y", "b": "x"}, "this pair stands on line 3 already"),
]


@pytest.mark.parametrize(("row", "cause"), EXPORTED)
def test_a_bad_line_of_an_export_is_named(store: Store, tmp_path: Path, row: Any, cause: str) -> None:
    head = [{"format": "rlhf-lab labels", "version": 1}, {"what": "annotator", "name": "mina", "made_by": "person"},
            {"what": "item", "prompt": "p", "a": "x", "b": "y"}]  # fmt: skip
    with pytest.raises(LabelError, match=rf"line 4: .*{cause}"):
        import_file(store, lines(tmp_path / "in.jsonl", [*head, row]))
    assert store.items() == []


def test_an_export_of_a_newer_version_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="newer rlhf-lab"):
        import_file(store, lines(tmp_path / "in.jsonl", [{"format": "rlhf-lab labels", "version": 2}]))
    with pytest.raises(LabelError, match="cannot be read"):
        import_file(store, tmp_path / "none.jsonl")


def test_a_hundred_megabytes_in_a_line_are_passed_over_and_not_held(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    with path.open("wb") as file:
        file.write(json.dumps(OTHER).encode() + b'\n{"prompt": "')
        for _ in range(100):
            file.write(b"z" * 1_000_000)
        file.write(b'"}\n' + json.dumps(ROW).encode() + b"\n")
    tracemalloc.start()
    found = import_file(store, path, leave_out=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(f.line, f.reason) for f in found.left_out] == [(2, "the line has more than 1000000 bytes")]
    assert found.items == 2
    assert peak < 20_000_000


def test_html_is_text_from_end_to_end(store: Store, tmp_path: Path) -> None:
    import_file(store, lines(tmp_path / "in.jsonl", [ROW | {"completion_a": EVIL, "note": EVIL}]))
    exporting.export_events(store, tmp_path / "out.jsonl")
    assert store.items()[0].comparison.a == EVIL
    assert (tmp_path / "out.jsonl").read_text().count(EVIL) == 2


def test_a_second_vote_through_an_import_is_refused_too(store: Store, tmp_path: Path) -> None:
    import_file(store, lines(tmp_path / "in.jsonl", [ROW]))
    assert import_file(store, tmp_path / "in.jsonl").known == 2
    with pytest.raises(LabelError, match=r"line 1: You have answered this pair already"):
        import_file(store, lines(tmp_path / "in.jsonl", [ROW | {"verdict": "b"}]))
    assert len(store.events()) == 1


def test_preferences_do_not_all_stand_at_a(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(60)]
    import_file(store, lines(tmp_path / "in.jsonl", rows), annotator="gold", made_by="annotator")
    at_a = sum(i.comparison.a == "good" for i in store.items())
    assert 15 < at_a < 45, "a coin for each pair"
    tallies = exporting.tallies(store, made_by=("annotator",))
    assert [p.chosen for p in exporting.preferences(tallies)] == ["good"] * 60


def test_pairs_out_of_preferences_do_not_tell_the_verdict(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad", "answer": "a"} for i in range(60)]
    import_file(store, lines(tmp_path / "in.jsonl", rows), votes=False)
    assert 15 < sum(i.comparison.a == "good" for i in store.items()) < 45
    assert all((i.answer == "a") == (i.comparison.a == "good") for i in store.items())
    assert store.events() == []


# --- figures and commands --------------------------------------------------------------------------------------------


def test_the_figures_by_hand(store: Store) -> None:
    pairs = some_items(3)
    store.add([*(Item(p.comparison, split="training") for p in pairs), Item(Comparison("g", "x", "y"), answer="b")])
    store.person("mina")
    gold = store.items()[-1].id
    store.record(vote(pairs[0].id, "mina", "1", 2, first="a", ms=1000))
    store.record(vote(pairs[1].id, "mina", "2", -1, first="a", ms=3000))
    store.record(vote(pairs[0].id, "mina", "3", 1, first="b", repeat=True, ms=5000))
    store.record(vote(gold, "mina", "4", 1, first="b", ms=8000))
    store.record(Event("skip", pairs[2].id, "mina", "5"))
    store.undo("mina", "6")
    found = summary(store)
    (mina,) = found.annotators
    assert (found.items, found.gold, found.training, found.votes, found.events) == (4, 1, 3, 2, 6)
    assert (found.overlap, found.choices) == ({0: 1, 1: 2}, {"a": 1, "b": 1})
    assert (mina.votes, mina.skips, mina.undone, mina.again, mina.kept) == (3, 0, 1, 1, 1)
    assert (mina.gold, mina.right, mina.sided, mina.first, mina.quick, mina.median_ms) == (1, 0, 3, 1, 1, 3000)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["label", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_commands_from_pairs_to_preferences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = [
        {k: v for k, v in ROW.items() if k not in ("verdict", "annotator")} | {"prompt": f"p{i}"} for i in range(3)
    ]
    lines(Path("pairs.jsonl"), pairs)
    assert "3 new pairs in labels.sqlite" in run("add", "pairs.jsonl")
    assert "0 new pairs in labels.sqlite; 3 were there already" in run("add", "pairs.jsonl")
    said = [("mina", "aba"), ("tom", "abb")]
    votes = [
        ROW | {"prompt": f"p{i}", "annotator": who, "verdict": v} for who, marks in said for i, v in enumerate(marks)
    ]
    assert "0 new pairs and 6 new events" in run("import", str(lines(Path("votes.jsonl"), votes)))
    found = json.loads(run("stats", "--json"))
    assert (found["items"], found["votes"], found["overlap"]) == (3, 6, {"2": 3})
    assert found["agreement"]["raw agreement"]["mean"] == pytest.approx(2 / 3)
    assert {p["name"]: p["votes"] for p in found["annotators"]} == {"mina": 3, "tom": 3}
    table = run("stats")
    assert all(word in table for word in ("mina", "tom", "raw agreement: 0.667", "Krippendorff"))
    assert "2 rows from 3 judged pairs" in run("export", "out.jsonl", "--split", "all")
    assert [json.loads(x)["label"] for x in Path("out.jsonl").read_text().splitlines()] == [1.0, 1.0]
    assert "3 pairs, 2 annotators and 6 events" in run("export", "events.jsonl", "--format", "events")
    assert "3 new pairs and 6 new events" in run("import", "events.jsonl", "--store", "other.sqlite")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["stats"], "There is no label store labels.sqlite; `lab label add` and `lab label import` make one."),
        (["export", "out.jsonl"], "There is no label store"),
        (["add"], "Give files, or --roles together with --data."),
        (["add", "x.jsonl", "--roles", "base"], "Give files, or --roles"),
        (["import", "none.jsonl"], "none.jsonl cannot be read"),
        (["serve", "--expose"], "only with a workshop code of 6 characters"),
        (["serve", "--expose", "--code", "12345"], "only with a workshop code of 6 characters"),
        (["serve", "--host", "0.0.0.0"], "say so with --expose"),
    ],
)
def test_the_commands_say_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str],
                                        sentence: str) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["label", *arguments])
    assert done.exit_code != 0
    assert sentence in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_lines_that_are_left_out_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines(Path("in.jsonl"), [ROW, ROW | {"verdict": "left"}])
    done = CliRunner().invoke(main, ["label", "import", "in.jsonl", "--leave-out"])
    assert done.exit_code == 0
    assert "left out: in.jsonl, line 2: 'left' is no verdict" in done.output


@pytest.mark.slow
def test_pairs_from_the_samples_of_a_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = run("add", "--roles", "base", "--data", "tiny:heldout", "--limit", "4", "--model", "tiny", "--bits", "32",
               "--max-new-tokens", "12", "--device", "cpu")  # fmt: skip
    assert "new pairs in labels.sqlite" in told
    with Store.open("labels.sqlite", create=False) as store:
        found = store.items()
    assert 1 <= len(found) <= 4
    assert all(i.source["a"] == i.source["b"] == "base" and i.comparison.a != i.comparison.b for i in found)


def test_a_refusal_is_an_error_of_labels() -> None:
    assert issubclass(RefusedError, LabelError)
