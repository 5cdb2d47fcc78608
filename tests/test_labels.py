"""The label store over SQLite and over a real PostgreSQL server: votes, undo, leases, overlap, who judges."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from label_stores import Clock, some_items

from lab.feedback.labels.fold import fold
from lab.feedback.labels.schema import items, leases, live
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Event, Item, LabelError, LoginError, RefusedError, Rules, vote
from lab.records import Comparison, Verdict

PLAIN = Rules(overlap=2, explore=0.0, gold=0.0, repeats=0.0, lease_s=60)
"""No surprises."""

Opened = Callable[..., Store]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(label_place: str, clock: Clock) -> Iterator[Opened]:
    """Opens the store of this test, with rules of its own."""
    stores = []

    def make(rules: Rules = PLAIN) -> Store:
        stores.append(Store.open(label_place, rules=rules, clock=clock))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def people(store: Store, *names: str) -> list[str]:
    return [store.person(name) for name in names]


def taken_places(store: Store) -> dict[str, int]:
    """Votes and leases of every item together, at one moment."""
    with store.database.read() as connection:
        voted = connection.execute(sa.select(live.c.item).where(live.c.counts)).scalars().all()
        held = connection.execute(sa.select(leases.c.item).where(
            leases.c.expires > store.clock(), leases.c.repeat.is_(False))).scalars().all()  # fmt: skip
    return Counter([*voted, *held])


# --- what is said ----------------------------------------------------------------------------------------------------


def test_a_vote_is_kept_in_content_order_with_what_was_shown(opened: Opened, clock: Clock) -> None:
    store = opened()
    store.add(some_items(1))
    (mina,) = people(store, "mina")
    showing = store.assign(mina)
    assert showing is not None
    recorded = store.record(showing.vote(2, reasons=("safe",), note="<b>", ms=1234))
    content = 2 if showing.first == "a" else -2
    assert recorded.new
    assert store.events() == [recorded.event]
    assert recorded.event == Event(
        "vote", showing.item.id, "mina", showing.key, clock.now, "a" if content > 0 else "b", content,
        float(content > 0), showing.first, False, ("safe",), "<b>", 1234)  # fmt: skip


def test_the_same_key_twice_is_one_event(opened: Opened) -> None:
    store = opened()
    (item,) = some_items(1)
    store.add([item])
    people(store, "mina", "tom")
    first = store.record(vote(item.id, "mina", "key", 2))
    again = store.record(vote(item.id, "mina", "key", -2))
    assert (first.new, again.new) == (True, False)
    assert again.event == first.event
    assert store.record(vote(item.id, "tom", "key", -2)).new, "another annotator's key is another key"
    assert len(store.events()) == 2


def test_a_second_vote_without_an_undo_is_refused(opened: Opened) -> None:
    store = opened()
    (item,) = some_items(1)
    store.add([item])
    people(store, "mina")
    store.record(vote(item.id, "mina", "1", 2))
    with pytest.raises(RefusedError, match="answered this pair already"):
        store.record(vote(item.id, "mina", "2", -2))
    store.undo("mina", "u")
    assert store.record(vote(item.id, "mina", "3", -2)).new
    assert [e.strength for e in store.state().votes()] == [-2]


def test_undo_goes_back_to_the_very_first_answer(opened: Opened) -> None:
    store = opened(Rules(overlap=1, explore=0.0, gold=0.0, repeats=0.0))
    store.add(some_items(6))
    people(store, "mina")
    judged = []
    for i in range(6):
        showing = store.assign("mina")
        assert showing is not None
        judged.append((showing.item.id, showing.first))
        store.record(showing.skip() if i == 2 else showing.vote(1))
    assert store.assign("mina") is None
    for number, (item, first) in enumerate(reversed(judged)):
        undone = store.undo("mina", f"u{number}")
        assert undone.showing is not None
        assert (undone.event.item, undone.showing.item.id, undone.showing.first) == (item, item, first)
    with pytest.raises(RefusedError, match="nothing"):
        store.undo("mina", "u6")
    assert store.state().answers == {}
    assert store.progress("mina") == {"mine": 0, "room": 0, "wanted": 6}


def test_an_undo_that_is_sent_twice_undoes_once(opened: Opened) -> None:
    store = opened()
    store.add(some_items(3))
    people(store, "mina")
    for _ in range(3):
        store.record(store.assign("mina").vote(1))  # type: ignore[union-attr]
    first, again = store.undo("mina", "u"), store.undo("mina", "u")
    assert again.event == first.event
    assert store.progress("mina")["mine"] == 2


def test_a_remark_is_taken_back_before_the_vote_it_is_about(opened: Opened) -> None:
    store = opened()
    (item,) = some_items(1)
    store.add([item])
    people(store, "mina")
    with pytest.raises(RefusedError, match="judge the pair first"):
        store.record(Event("remark", item.id, "mina", "r0", note="too early"))
    store.record(vote(item.id, "mina", "v", 1))
    store.record(Event("remark", item.id, "mina", "r1", note="better sources"))
    assert store.answer(item.id, "mina").note == "better sources"  # type: ignore[union-attr]
    assert store.undo("mina", "u1").showing is None
    assert store.answer(item.id, "mina").note == ""  # type: ignore[union-attr]
    assert store.undo("mina", "u2").showing is not None
    assert store.answer(item.id, "mina") is None


def test_withdrawn_pairs_are_neither_asked_nor_counted_and_say_so_kindly(opened: Opened) -> None:
    store = opened()
    first, second = some_items(2)
    store.add([first, second])
    people(store, "mina", "tom")
    store.record(vote(first.id, "mina", "v", 1))
    showing = store.assign("tom")
    assert showing is not None
    store.withdraw(showing.item.id, "host", "w1", note="holds a name")
    with pytest.raises(RefusedError, match=r"withdrawn.*Thank you"):
        store.record(showing.vote(1))
    store.withdraw(first.id, "host", "w2")
    assert store.state().withdrawn >= {first.id}
    assert store.state().votes() == []
    assert store.item(first.id).withdrawn
    store.withdraw(first.id, "host", "w3", restore=True)
    assert len(store.state().votes()) == 1


def test_unknown_items_and_annotators_are_named(opened: Opened) -> None:
    store = opened()
    (item,) = some_items(1)
    store.add([item])
    people(store, "mina")
    with pytest.raises(LabelError, match="no pair none"):
        store.record(vote("none", "mina", "k", 1))
    with pytest.raises(LabelError, match="nobody called tom"):
        store.record(vote(item.id, "tom", "k", 1))
    with pytest.raises(LabelError, match="nobody called tom"):
        store.assign("tom")
    with pytest.raises(LabelError, match="no pair none"):
        store.item("none")


def test_a_pair_is_one_item_in_either_order(opened: Opened) -> None:
    store = opened()
    c = Comparison("p", "x", "y", (True, False))
    assert store.add([Item(c), Item(c.swap())]) == 1
    assert store.items()[0].comparison == c
    assert store.add([Item(c)]) == 0
    with pytest.raises(LabelError, match="settle which is right"):
        store.add([Item(c, answer="a")])


def test_a_gold_answer_may_come_in_the_other_order(opened: Opened) -> None:
    store = opened()
    c = Comparison("p", "x", "y")
    store.add([Item(c, answer="a")])
    assert store.add([Item(c.swap(), answer="b")]) == 0
    with pytest.raises(LabelError, match="settle which is right"):
        store.add([Item(c.swap(), answer="a")])


def test_programs_vote_softly_beside_people_and_in_any_order(opened: Opened) -> None:
    store = opened()
    c = Comparison("p", "x", "y")
    store.add([Item(c)])
    people(store, "mina", "tom")
    assert store.verdicts("rm-1", "reward_model", [(c.swap(), Verdict(0.25))]) == 1
    assert store.verdicts("rm-1", "reward_model", [(c, Verdict(0.75))]) == 0, "the same key"
    assert store.verdicts("judge", "judge", [(c, Verdict(None, why="no answer"))]) == 1
    assert [(e.annotator, e.p, e.choice) for e in store.state().votes()] == [("rm-1", 0.75, "a")]
    assert store.progress()["room"] == 0, "the overlap is people's"
    for name in ("mina", "tom"):
        store.record(store.assign(name).vote(1))  # type: ignore[union-attr]
    with pytest.raises(RefusedError):
        store.verdicts("rm-1", "reward_model", [(c, Verdict(0.9))], key="later")
    with pytest.raises(LabelError, match="is a reward model"):
        store.person("RM-1")
    with pytest.raises(LabelError, match="add it first"):
        store.verdicts("rm-1", "reward_model", [(Comparison("q", "x", "y"), Verdict(1.0))])


def test_what_follows_from_the_events_follows_from_the_events(opened: Opened) -> None:
    """A few hundred random events: the columns kept for speed are what the fold says."""
    store, dice = opened(Rules(overlap=100, explore=0.0, gold=0.0, repeats=0.0)), random.Random(0)
    pairs = some_items(4)
    store.add(pairs)
    people(store, "mina", "tom")
    for n in range(160):
        item, who = dice.choice(pairs).id, dice.choice(["mina", "tom"])
        deed = dice.choice(["vote", "vote", "skip", "remark", "undo", "withdraw", "restore"])
        try:
            if deed == "vote":
                store.record(vote(item, who, str(n), dice.randint(-2, 2), repeat=dice.random() < 0.2))
            elif deed in ("withdraw", "restore"):
                store.withdraw(item, who, str(n), restore=deed == "restore")
            else:
                store.record(Event(deed, item, who, str(n)))  # type: ignore[arg-type]
        except RefusedError:
            continue
    state = fold(store.events())
    with store.database.read() as connection:
        counted = {row.id: (row.votes, bool(row.withdrawn)) for row in connection.execute(sa.select(items))}
        standing = {(r.item, r.annotator, bool(r.repeat)): r.kind for r in connection.execute(sa.select(live))}
    assert len(store.events()) > 60
    assert standing == {tuple(place): e.kind for place, e in state.answers.items()}
    votes = Counter(p.item for p, e in state.answers.items() if e.kind == "vote" and not p.repeat)
    assert counted == {i.id: (votes[i.id], i.id in state.withdrawn) for i in pairs}


# --- who is shown what -----------------------------------------------------------------------------------------------


def test_a_pair_stays_with_whoever_looks_at_it_and_goes_on_when_the_lease_ends(opened: Opened, clock: Clock) -> None:
    store = opened(Rules(overlap=1, explore=0.0, gold=0.0, repeats=0.0, lease_s=60))
    store.add(some_items(1))
    people(store, "mina", "tom")
    mine = store.assign("mina")
    assert mine is not None
    clock.forward(59)
    assert store.assign("tom") is None
    clock.forward(2)
    theirs = store.assign("tom")
    assert theirs is not None
    with pytest.raises(RefusedError, match="all its votes"):
        store.record(mine.vote(1))
    store.record(theirs.vote(1))
    assert len(store.state().votes()) == 1


def test_a_late_vote_counts_while_there_is_room(opened: Opened, clock: Clock) -> None:
    store = opened(Rules(overlap=1, explore=0.0, gold=0.0, repeats=0.0, lease_s=60))
    store.add(some_items(1))
    people(store, "mina")
    mine = store.assign("mina")
    clock.forward(3600)
    assert store.record(mine.vote(1)).new  # type: ignore[union-attr]


def test_looking_again_shows_the_same_pair_and_makes_the_lease_longer(opened: Opened, clock: Clock) -> None:
    store = opened(Rules(overlap=1, explore=0.0, gold=0.0, repeats=0.0, lease_s=60))
    store.add(some_items(2))
    people(store, "mina", "tom")
    first = store.assign("mina")
    clock.forward(50)
    again = store.assign("mina")
    assert first is not None
    assert again is not None
    assert (again.key, again.item, again.first) == (first.key, first.item, first.first)
    clock.forward(50)
    other = store.assign("tom")
    assert other is not None
    assert other.item != first.item


def test_an_undone_vote_keeps_its_place(opened: Opened) -> None:
    store = opened(Rules(overlap=1, explore=0.0, gold=0.0, repeats=0.0))
    store.add(some_items(1))
    people(store, "mina", "tom")
    store.record(store.assign("mina").vote(1))  # type: ignore[union-attr]
    showing = store.undo("mina", "u").showing
    assert store.assign("tom") is None
    assert showing is not None
    assert store.record(showing.vote(-1)).new


def test_eight_at_once_never_over_collect_and_lose_nothing(opened: Opened) -> None:
    """Every pair ends with exactly three votes, of three people, whatever they undo and skip on the way."""
    store = opened(Rules(overlap=3, explore=0.2, gold=0.0, repeats=0.0))
    store.add(some_items(8))
    names = people(store, *(f"person {i}" for i in range(8)))
    over, done, said = [], threading.Event(), Counter()

    def watch() -> None:
        while not done.is_set():
            over.extend(n for n in taken_places(store).values() if n > 3)

    def judge(name: str) -> None:
        dice = random.Random(name)
        for number in range(1000):
            showing = store.assign(name)
            if showing is None:
                return
            key = showing.key
            with ThreadPoolExecutor(2) as twice:  # two quick presses
                both = list(twice.map(store.record, [showing.vote(1), showing.vote(-1)]))
            assert sorted(r.new for r in both) == [False, True]
            assert both[0].event.key == key
            said[name] += 1
            if dice.random() < 0.15:
                store.undo(name, f"u{number}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as room:
        list(room.map(judge, names))
    done.set()
    watcher.join()
    assert over == []
    votes = store.state().votes()
    assert Counter(v.item for v in votes) == {i.id: 3 for i in store.items()}
    assert len({(v.item, v.annotator) for v in votes}) == 24
    assert sum(e.kind == "vote" for e in store.events()) == sum(said.values())


def test_nobody_sees_a_pair_twice_but_as_a_flipped_repeat(opened: Opened) -> None:
    store = opened(Rules(overlap=1, explore=0.0, gold=0.0, repeats=0.3, gap=3))
    store.add(some_items(30))
    people(store, "mina")
    shown: dict[str, list[tuple[int, str]]] = {}
    number = 0
    while (showing := store.assign("mina")) is not None:
        shown.setdefault(showing.item.id, []).append((number, showing.first))
        assert showing.repeat == (len(shown[showing.item.id]) == 2)
        store.record(showing.vote(1))
        number += 1
    twice = [places for places in shown.values() if len(places) == 2]
    assert len(shown) == 30
    assert 5 <= len(twice) <= 20, "about 0.3 of the showings"
    assert max(map(len, shown.values())) == 2
    assert all(a != b and late - early > 3 for (early, a), (late, b) in twice)
    assert len(store.state().votes()) == 30, "a repeat is a check, no further vote"
    assert store.progress()["room"] == 30


def test_gold_pairs_come_to_everybody_once_and_are_not_bound_by_the_overlap(opened: Opened) -> None:
    store = opened(Rules(overlap=1, explore=0.0, gold=0.3, repeats=0.0))
    gold = [Item(Comparison(f"gold {i}", "x", "y"), answer="a") for i in range(4)]
    store.add([*gold, *some_items(60)])
    seen = Counter()
    for name in people(store, "mina", "tom"):
        for _ in range(30):
            showing = store.assign(name)
            assert showing is not None
            seen[name] += showing.item.gold
            store.record(showing.vote(1))
    assert seen == {"mina": 4, "tom": 4}


def test_four_fifths_go_to_the_most_uncertain_and_a_fifth_to_a_fixed_draw(opened: Opened) -> None:
    store = opened(Rules(overlap=1, explore=0.2, gold=0.0, repeats=0.0, seed=3))
    pairs = [Item(i.comparison, uncertainty=float(n)) for n, i in enumerate(some_items(180, per_prompt=2))]
    store.add(pairs)
    people(store, "mina")
    by_id = {i.id: i for i in store.items()}
    split: dict[str, set[str]] = {}
    for item in by_id.values():
        split.setdefault(str(item.comparison.prompt), set()).add(item.split)
    assert all(len(sides) == 1 for sides in split.values()), "a prompt is never in both"
    assert 0.1 <= sum(sides == {"evaluation"} for sides in split.values()) / 90 <= 0.3
    shown = []
    for _ in range(80):
        showing = store.assign("mina")
        assert showing is not None
        shown.append(showing.item)
        store.record(showing.vote(1))
    training = [i.uncertainty for i in shown if i.split == "training"]
    drawn = [i.uncertainty for i in shown if i.split == "evaluation"]
    assert 0.1 <= len(drawn) / 80 <= 0.3
    assert training == sorted(training, reverse=True), "the most uncertain first"
    assert drawn != sorted(drawn, reverse=True)
    assert training[0] == max(i.uncertainty for i in by_id.values() if i.split == "training")


def test_new_uncertainties_change_the_order(opened: Opened) -> None:
    store = opened()
    first, second = some_items(2, split="training")
    store.add([Item(first.comparison, uncertainty=2.0, split="training"), second])
    people(store, "mina")
    assert store.rate({second.id: 3.0}, "rm-2", "round 2") == 1
    assert store.assign("mina").item.id == second.id  # type: ignore[union-attr]
    assert store.item(second.id).uncertainty == 3.0
    assert store.state().uncertainty == {second.id: 3.0}


def test_a_prompt_is_never_in_both_splits(opened: Opened) -> None:
    store = opened()
    store.add([Item(Comparison("p", "x", "y"), split="evaluation")])
    store.add([Item(Comparison("p", "x", "z"))])
    assert {i.split for i in store.items()} == {"evaluation"}
    with pytest.raises(LabelError, match="in one of them alone"):
        store.add([Item(Comparison("p", "x", "w"), split="training")])


def test_rules_stay_with_the_store(opened: Opened, label_place: str) -> None:
    rules = Rules(overlap=7, explore=0.5, gold=0.25, repeats=0.125, gap=2, lease_s=1.5, seed=9)
    opened(rules)
    with Store.open(label_place, create=False) as again:
        assert again.rules == rules


# --- who -------------------------------------------------------------------------------------------------------------


def test_a_name_belongs_to_its_first_pin(opened: Opened) -> None:
    store = opened()
    assert store.login(" Mina ", "2718") == "Mina"
    assert store.login("mina", "2718") == "Mina"
    assert store.login("ＭＩＮＡ", "2718") == "Mina"
    with pytest.raises(LoginError, match=r"Mina is taken.*choose another nickname"):
        store.login("mina", "3141")
    assert store.makers() == {"Mina": "person"}


def test_one_new_name_at_eight_doors_is_one_person(opened: Opened) -> None:
    store = opened()
    with ThreadPoolExecutor(8) as doors:
        assert list(doors.map(lambda _: store.login("mina", "2718"), range(8))) == ["mina"] * 8
        assert list(doors.map(lambda _: store.person("host"), range(8))) == ["host"] * 8
    assert store.makers() == {"mina": "person", "host": "person"}


def test_pairs_that_come_in_at_eight_doors_are_there_once(opened: Opened) -> None:
    store = opened()
    with ThreadPoolExecutor(8) as doors:
        assert sum(doors.map(store.add, [some_items(5)] * 8)) == 5
    assert len(store.items()) == 5


def test_a_pin_can_be_tried_five_times(opened: Opened, clock: Clock) -> None:
    store = opened()
    store.login("mina", "2718")
    for _ in range(5):
        with pytest.raises(LoginError, match="taken"):
            store.login("mina", "0000")
    for pin in ("2718", "0000"):
        with pytest.raises(LoginError, match=r"Too many wrong PINs.*5 min"):
            store.login("mina", pin)
    clock.forward(301)
    assert store.login("mina", "2718") == "mina"


@pytest.mark.parametrize(("name", "pin"), [("", "2718"), ("x" * 33, "2718"), ("a\x07b", "2718"), ("mina", "123"),
                                           ("mina", "1" * 65), ("\u202egnol", "2718")])  # fmt: skip
def test_bad_names_and_pins_are_refused_with_a_sentence(opened: Opened, name: str, pin: str) -> None:
    with pytest.raises(LoginError, match=r"nickname|PIN"):
        opened().login(name, pin)


def test_names_without_a_pin_cannot_be_taken_over(opened: Opened) -> None:
    store = opened()
    store.person("mina")
    with pytest.raises(LoginError, match="came from elsewhere"):
        store.login("mina", "2718")


def test_pins_and_tokens_are_not_in_the_store(opened: Opened) -> None:
    store = opened()
    store.login("mina", "2718 pin of mine")
    token = store.start_session("mina")
    with store.database.read() as connection:
        every = [row for table in ("annotators", "sessions", "about", "events")
                 for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]  # fmt: skip
    text = repr([[bytes(v) if isinstance(v, memoryview) else v for v in row] for row in every])
    assert "2718" not in text
    assert token not in text


def test_sessions_end(opened: Opened, clock: Clock) -> None:
    store = opened()
    store.login("mina", "2718")
    token, other = store.start_session("mina"), store.start_session("mina")
    assert (store.whose(token), store.whose("x" + token)) == ("mina", None)
    store.end_session(token)
    assert (store.whose(token), store.whose(other)) == (None, "mina")
    clock.forward(86_400 * 14 + 1)
    assert store.whose(other) is None


# --- killed ----------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from lab.feedback.labels.store import Store
with Store.open(sys.argv[1]) as store:
    store.person("mina")
    while (showing := store.assign("mina")) is not None:
        print(store.record(showing.vote(1)).event.key, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(opened: Opened, label_place: str) -> None:
    store = opened(Rules(overlap=1, gold=0.0, repeats=0.0))
    store.add(some_items(150))
    child = subprocess.Popen([sys.executable, "-c", CHILD, label_place], stdout=subprocess.PIPE, text=True,
                             cwd=Path(__file__).parent.parent)  # fmt: skip
    assert child.stdout is not None
    heard = [child.stdout.readline().strip() for _ in range(25)]
    child.kill()
    heard += child.stdout.read().split()
    child.wait()
    assert child.returncode == -9
    kept = [e.key for e in store.events()]
    assert set(heard) <= set(kept)
    assert len(kept) - len(heard) in (0, 1), "at most one vote was on the disk and not yet acknowledged"
    assert store.record(store.assign("mina").vote(1)).new  # type: ignore[union-attr]
