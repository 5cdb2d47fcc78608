"""What a room and each labeller see of themselves, from made votes whose figures a reader can redo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from label_stores import Clock

from lab.evaluate.oneself import BLOCK, oneself, own_votes
from lab.evaluate.record import Record
from lab.evaluate.room import agreement, bias, chosen, disputed, heat, majority, marks, models, typical_ms
from lab.feedback.labels.room import Room
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item, Rules, vote
from lab.records import Comparison, Verdict

RULES = Rules(overlap=50, explore=0.0, gold=0.0, repeats=0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "labels.sqlite", rules=RULES, clock=Clock()) as opened:
        yield opened


def items(n: int) -> list[Item]:
    """`n` pairs of prompts of their own: a has one word, b three; "m" said a and "n" said b."""
    return [Item(Comparison(f"prompt {i}", f"a{i}", f"b{i} and more"), source={"a": "m", "b": "n"}) for i in range(n)]


def say(store: Store, who: str, strengths: str, *, first: str = "a", ms: int = 4000) -> None:
    """A person says one strength of each item in turn: A a > = b B for 2 1 0 −1 −2, x for both bad, . for nothing."""
    store.person(who)
    for item, letter in zip(store.items(), strengths, strict=False):
        if letter != ".":
            value = {"A": 2, "a": 1, "=": 0, "b": -1, "B": -2, "x": 0}[letter]
            store.record(vote(item.id, who, "k", value, both_bad=letter == "x", first=first, ms=ms))


# --- the record ------------------------------------------------------------------------------------------------------


def test_a_record_keeps_up_and_an_old_moment_stays_as_it_was(store: Store) -> None:
    store.add(items(2))
    record = Record(store)
    before = record.moment()
    say(store, "mina", "a.")
    now = record.moment()
    assert (len(before.votes()), len(now.votes())) == (0, 1)
    assert record.moment() is now, "nothing is new"
    store.add(items(3))
    assert len(record.moment().items) == 3


def test_what_stood_at_a_moment_can_be_told_later(store: Store) -> None:
    store.add(items(2))
    record = Record(store)
    say(store, "mina", "ab")
    at = record.moment().newest
    store.undo("mina", "undo-0000")
    say(store, "tom", "a.")
    moment = record.moment()
    assert [v.annotator for v in moment.votes(moment.at(at))] == ["mina", "mina"]
    assert sorted(v.annotator for v in moment.votes()) == ["mina", "tom"]
    assert moment.judged(at, None) == {store.items()[0].id}


def test_withdrawn_pairs_and_programs_are_left_out(store: Store) -> None:
    store.add(items(2))
    say(store, "mina", "aa")
    store.verdicts("rm", "reward_model", [(i.comparison, Verdict(0.9)) for i in store.items()])
    store.withdraw(store.items()[0].id, "mina", "w")
    moment = Record(store).moment()
    assert len(moment.votes()) == 1
    assert len(moment.votes(made_by=("reward_model",))) == 1
    assert marks(store) == moment.marks(moment.votes())


# --- the room --------------------------------------------------------------------------------------------------------


def test_agreement_of_two_is_what_the_definition_gives(store: Store) -> None:
    """mina and tom agree on the side of 3 of 4 pairs; how strongly does not matter: raw agreement 3/4.

    α counts every pair in both orders: 8 units, 16 marks, 8 of each side. Two units differ, each by two ordered pairs
    of marks: D_o = 4/16; by chance D_e = 2 · 8 · 8 / (16 · 15); α = 1 − D_o / D_e.
    """
    store.add(items(4))
    say(store, "mina", "aaab")
    say(store, "tom", "Aabb")
    moment = Record(store).moment()
    found = agreement(moment.marks(moment.votes()))
    assert found.raw.mean == pytest.approx(0.75)
    assert found.alpha.mean == pytest.approx(1 - 0.25 / (128 / 240))


def test_an_undefined_alpha_says_so_in_words(store: Store) -> None:
    store.add(items(2))
    say(store, "mina", "a.")
    moment = Record(store).moment()
    assert agreement(moment.marks(moment.votes())).alpha.why == "no item was judged by two annotators"


def test_disputes_are_sorted_by_the_share_of_pairs_of_votes_that_differ(store: Store) -> None:
    """2:1 differs in 2 of 3 pairs of votes, 1:1 in 1 of 1, 3:0 in none."""
    store.add(items(3))
    say(store, "mina", "aaa")
    say(store, "tom", "bba")
    say(store, "ada", "a.a")
    first, second = (i.id for i in store.items()[:2])
    found = disputed(Record(store).moment().votes())
    assert [(d.item, d.a, d.b, d.split) for d in found] == [(second, 1, 1, 1.0), (first, 2, 1, pytest.approx(2 / 3))]


def test_both_bad_is_a_choice_of_its_own_in_a_dispute(store: Store) -> None:
    store.add(items(1))
    say(store, "mina", "x")
    say(store, "tom", "=")
    (found,) = disputed(Record(store).moment().votes())
    assert (found.both_bad, found.tie, found.split) == (1, 1, 1.0)


def test_who_agrees_with_whom(store: Store) -> None:
    store.add(items(4))
    say(store, "mina", "aab.")
    say(store, "tom", "Abbb")
    say(store, "ada", "...a")
    moment = Record(store).moment()
    found = heat(moment.marks(moment.votes()))
    assert found.names == ["ada", "mina", "tom"]
    assert found.share[1][2] == found.share[2][1] == pytest.approx(2 / 3)
    assert (found.share[0][1], found.n[0][1], found.share[0][2]) == (None, 0, 0.0)
    assert heat(moment.marks(moment.votes()), most=2).names == ["mina", "tom"]


def test_biases_of_the_room(store: Store) -> None:
    """b is always longer. mina takes b and it stood first (2 of 2), tom takes a, which stood second."""
    store.add([*items(2), Item(Comparison("gold", "right", "wrong"), answer="a")])
    say(store, "mina", "bba", first="b", ms=1000)
    say(store, "tom", "a.b", first="b")
    found = bias(Record(store).moment())
    assert (found.first.mean, found.longer.mean) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (found.right.mean, found.right.n) == (0.5, 2)
    assert (found.quick_votes, found.quick_people) == (2, 1)
    assert found.consistent.mean is None
    only = bias(Record(store).moment(), {store.items()[1].id})
    assert (only.first.mean, only.first.n) == (1.0, 1)


def test_how_often_a_models_answer_was_chosen(store: Store) -> None:
    """a (m) 2 times, b (n) once, one tie: m (2 + ½) / 4."""
    store.add([*items(4), Item(Comparison("same model", "x", "y"), source={"a": "m", "b": "m"}),
               Item(Comparison("no source", "x", "y"))])  # fmt: skip
    say(store, "mina", "aAb=ab")
    moment = Record(store).moment()
    found = chosen(moment, moment.votes())
    assert [(m.name, m.chosen.mean) for m in found] == [("m", pytest.approx(2.5 / 4)), ("n", pytest.approx(1.5 / 4))]
    assert models(store.items()[5]) is None


def test_majority_and_typical_time(store: Store) -> None:
    store.add(items(2))
    say(store, "mina", "a=", ms=1000)
    say(store, "tom", "bx", ms=3000)
    votes = Record(store).moment().votes()
    one, two = (i.id for i in store.items())
    assert majority(votes) == {one: 0.5, two: 0.5}
    assert majority(votes, without=("tom",)) == {one: 1.0, two: 0.5}
    assert typical_ms(votes) == 2000
    assert typical_ms([]) is None


# --- oneself ---------------------------------------------------------------------------------------------------------


def test_nothing_is_told_before_a_block_is_whole(store: Store) -> None:
    store.add(items(BLOCK + 5))
    say(store, "mina", "a" * (BLOCK - 1))
    assert oneself(Record(store).moment(), "mina") is None
    say(store, "tom", "b" * BLOCK)
    assert oneself(Record(store).moment(), "mina") is None


def test_what_one_learns_after_ten(store: Store) -> None:
    """mina takes a 6 times (first, and shorter), b 4 times; tom takes a always; the reward model b always."""
    store.add(items(BLOCK))
    say(store, "mina", "aaaaaabbbb", ms=1000)
    say(store, "tom", "a" * BLOCK)
    store.verdicts("rm@1", "reward_model", [(i.comparison, Verdict(0.2)) for i in store.items()])
    found = oneself(Record(store).moment(), "mina")
    assert found is not None
    assert [(c.hits, c.of) for c in (found.room, found.reward_model, found.longer, found.first)] == [
        (6, 10), (4, 10), (4, 10), (6, 10)]  # fmt: skip
    assert (found.blocks, found.ms, found.quick) == (1, 1000, 10)
    assert found.room.rate.low is not None
    assert found.room.rate.low < 0.6


def test_what_was_said_since_the_last_block_is_in_no_figure(store: Store) -> None:
    store.add(items(BLOCK + 3))
    say(store, "mina", "a" * BLOCK)
    before = oneself(Record(store).moment(), "mina")
    say(store, "mina", "." * BLOCK + "bbb", ms=1)
    assert oneself(Record(store).moment(), "mina") == before
    assert len(own_votes(Record(store).moment(), "mina")) == BLOCK + 3


def test_an_undone_vote_is_no_vote(store: Store) -> None:
    store.add(items(BLOCK))
    say(store, "mina", "a" * BLOCK)
    store.undo("mina", "undo-0000")
    assert oneself(Record(store).moment(), "mina") is None


def test_the_talk_can_be_told_from_what_was_blind(store: Store) -> None:
    store.add(items(3))
    say(store, "mina", "aaa")
    say(store, "tom", "bbb")
    room, record = Room(store), Record(store)
    room.turn("open", "host")
    room.turn("reveal", "host")
    room.turn("talk", "host", items=[i.id for i in store.items()])
    for item in store.items():
        room.revise("tom", item.id, "again-00", 1)
    now, moment = room.state().now, record.moment()
    assert now is not None
    blind, after = (agreement(moment.marks(moment.votes(moment.at(at)))).raw.mean for at in (now.revealed, None))
    assert (blind, after) == (0.0, 1.0)
