"""The leaderboard of policies: closed forms of Bradley-Terry, who can be compared, and what a store's votes become."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lab.arena_figures import leaderboard
from lab.evaluate.arena import (
    Result,
    as_json,
    bradley_terry,
    contestants,
    results,
    votes_needed,
)
from lab.evaluate.contests import disputed, worth
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item, vote
from lab.records import Comparison, Verdict

Z95, Z80 = 1.9599639845400545, 0.8416212335729143

BASEBALL = {
    "Milwaukee": (0, 7, 9, 7, 7, 9, 11),
    "Detroit": (6, 0, 7, 5, 11, 9, 9),
    "Toronto": (4, 6, 0, 7, 7, 8, 12),
    "New York": (6, 8, 6, 0, 6, 7, 10),
    "Boston": (6, 2, 6, 7, 0, 7, 12),
    "Cleveland": (4, 4, 5, 6, 6, 0, 6),
    "Baltimore": (2, 4, 1, 3, 1, 7, 0),
}
"""Wins of the row against the column: American League 1987 (Agresti, Categorical Data Analysis, table 10.10)."""
PRINTED = (1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0.0)


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def duel(one: str, other: str, wins: int, losses: int, ties: int = 0, about: str = "") -> list[Result]:
    """Votes, each on a prompt of its own."""
    ends = [1.0] * wins + [0.0] * losses + [0.5] * ties
    return [Result(one, other, score, f"{about}{one}{other}{i}") for i, score in enumerate(ends)]


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wins", "losses", "ties"), [(34, 18, 0), (3, 1, 0), (2, 4, 6), (1, 1, 0)])
def test_two_policies_are_log_odds_apart(wins: int, losses: int, ties: int) -> None:
    """θ_x − θ_y = log (w + t/2) / (l + t/2), strengths are ± half of it, and the win rate is the share."""
    board = bradley_terry(duel("x", "y", wins, losses, ties))
    gap = math.log((wins + ties / 2) / (losses + ties / 2))
    strengths = {s.policy: s.strength.mean for s in board.standings}
    rates = {s.policy: s.win_rate.mean for s in board.standings}
    assert board.gap("x", "y").mean == pytest.approx(gap, abs=1e-9)
    assert strengths == pytest.approx({"x": gap / 2, "y": -gap / 2}, abs=1e-9)
    assert rates["x"] == pytest.approx((wins + ties / 2) / (wins + losses + ties), abs=1e-9)
    assert (board.supposed, board.notes()) == ((), ())


def test_the_error_of_two_policies_is_that_of_log_odds() -> None:
    """√(1/34 + 1/18); by prompts of one vote each, √(n / (n − 1)) of that: here the larger one."""
    gap = bradley_terry(duel("x", "y", 34, 18)).gap("x", "y")
    assert (gap.high or 0) - (gap.low or 0) == pytest.approx(2 * Z95 * math.sqrt((1 / 34 + 1 / 18) * 52 / 51), abs=1e-9)


def test_many_votes_on_few_prompts_are_less_sure() -> None:
    """Each of 12 prompts judged by ten people who all agree: ten times the variance of one vote each, √10 the width."""
    alone = bradley_terry(duel("x", "y", 8, 4)).gap("x", "y")
    ten = bradley_terry(duel("x", "y", 8, 4) * 10).gap("x", "y")
    naive = 2 * Z95 * math.sqrt(1 / 80 + 1 / 40)
    assert ten.mean == pytest.approx(alone.mean, abs=1e-9)
    width = (ten.high or 0) - (ten.low or 0)
    # statsmodels' correction G / (G − 1) · (n − 1) / (n − k) on √(1/8 + 1/4)
    assert width == pytest.approx(2 * Z95 * math.sqrt((1 / 8 + 1 / 4) * 12 / 11 * 119 / 119), rel=1e-6)
    assert width > 3 * naive
    assert (ten.n, ten.prompts) == (120, 12)


def test_a_season_of_baseball_is_as_it_is_printed() -> None:
    teams = list(BASEBALL)
    played = [r for one, wins in BASEBALL.items() for other, n in zip(teams, wins, strict=True)
              for r in duel(one, other, n, 0)]  # fmt: skip
    board = bradley_terry(played)
    above = [board.gap(team, "Baltimore").mean for team in teams[:-1]]
    assert above == pytest.approx(PRINTED[:-1], abs=5e-4)
    assert [s.policy for s in board.standings] == teams
    assert sum(s.strength.mean or 0.0 for s in board.standings) == pytest.approx(0, abs=1e-9)
    assert sum(m.votes for m in board.meetings) == board.votes == 21 * 13


def test_a_ring_of_equals_is_level() -> None:
    """Each beats the next as often as it loses to the one before: nobody is stronger, everybody's rate is a half."""
    ring = duel("x", "y", 3, 1) + duel("y", "z", 3, 1) + duel("z", "x", 3, 1)
    board = bradley_terry(ring)
    assert [s.strength.mean for s in board.standings] == pytest.approx([0, 0, 0], abs=1e-9)
    assert [s.win_rate.mean for s in board.standings] == pytest.approx([0.5] * 3, abs=1e-9)
    assert {s.rank for s in board.standings} == {1}
    assert votes_needed(board, "x", "y") is None


def test_strengths_add_up_along_a_chain() -> None:
    """x–y and y–z alone: θ_x − θ_z is the sum of the two log odds, and its variance the sum of theirs."""
    board = bradley_terry(duel("x", "y", 6, 2) + duel("y", "z", 5, 4))
    assert board.gap("x", "z").mean == pytest.approx(math.log(6 / 2) + math.log(5 / 4), abs=1e-9)
    gap = board.gap("x", "z")
    at_least = 2 * Z95 * math.sqrt(1 / 6 + 1 / 2 + 1 / 5 + 1 / 4)
    assert (gap.high or 0) - (gap.low or 0) == pytest.approx(at_least * math.sqrt(17 / 16 * 16 / 15), rel=1e-6)
    expected = (1 / (1 + math.exp(-math.log(3))) + 1 / (1 + math.exp(-math.log(3) - math.log(5 / 4)))) / 2
    assert board.standings[0].win_rate.mean == pytest.approx(expected, abs=1e-9)


def test_who_is_called_one_or_other_changes_nothing() -> None:
    played = duel("x", "y", 5, 2, 3) + duel("y", "z", 4, 4) + duel("x", "z", 1, 2)
    turned = [Result(r.other, r.one, 1 - r.score, r.prompt) for r in played]
    assert as_json(bradley_terry(turned))["meetings"] == as_json(bradley_terry(played))["meetings"]
    for s, t in zip(bradley_terry(played).standings, bradley_terry(turned).standings, strict=True):
        assert (s.policy, s.rank) == (t.policy, t.rank)
        assert s.strength.mean == pytest.approx(t.strength.mean, abs=1e-9)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 200 made tournaments with known strengths, 95 % intervals of a gap hold it in 190; 3 standard errors less are
    181."""
    theta, rng, held = {"x": 0.6, "y": 0.0, "z": -0.6}, np.random.default_rng(7), 0
    for _ in range(200):
        played = []
        for i in range(60):
            for one, other in (("x", "y"), ("y", "z"), ("x", "z")):
                p = 1 / (1 + math.exp(theta[other] - theta[one]))
                played.append(Result(one, other, float(rng.random() < p), f"{i}"))
        gap = bradley_terry(played).gap("x", "z")
        held += (gap.low or 0) <= 1.2 <= (gap.high or 0)
    assert held >= 181


# --- who can be compared ---------------------------------------------------------------------------------------------


def test_groups_that_no_vote_joins_have_rankings_of_their_own() -> None:
    board = bradley_terry(duel("x", "y", 3, 1) + duel("u", "v", 1, 2) + duel("y", "w", 2, 2))
    assert board.groups == (("w", "x", "y"), ("u", "v"))
    assert [(s.policy, s.group) for s in board.standings] == [("x", 0), ("w", 0), ("y", 0), ("v", 1), ("u", 1)]
    gap = board.gap("x", "u")
    assert (gap.mean, gap.why) == (None, "no chain of votes joins x and u")
    assert votes_needed(board, "x", "u") is None
    assert board.notes() == ("No vote joins these groups, so each has a ranking of its own: w, x and y; u and v. Let "
                             "one of each meet.",)  # fmt: skip


def test_who_won_everything_is_finite_by_a_tie() -> None:
    """10 : 0 counts as 10½ : ½: log 21 apart, with the error √(1 / 10.5 + 1 / 0.5)."""
    board = bradley_terry(duel("x", "y", 10, 0))
    gap = board.gap("x", "y")
    assert gap.mean == pytest.approx(math.log(21), abs=1e-9)
    assert (gap.high or 0) - (gap.low or 0) == pytest.approx(2 * Z95 * math.sqrt(1 / 10.5 + 1 / 0.5), rel=1e-6)
    assert board.supposed == (0,)
    assert [m.votes for m in board.meetings] == [10], "the tie is no vote"
    assert board.notes()[0].startswith("x won every vote and y won none, and votes like these alone would put")


def test_one_half_of_a_group_that_never_loses_to_the_other_is_finite_too() -> None:
    """x and y share wins, and beat u and v, who share theirs: no maximum, though nobody won everything."""
    played = duel("x", "y", 1, 1) + duel("u", "v", 1, 1) + duel("x", "u", 3, 0) + duel("y", "v", 3, 0)
    board = bradley_terry(played)
    assert board.supposed == (0,)
    assert board.gap("x", "u").mean == pytest.approx(math.log(3.5 / 0.5), abs=1e-6), "by symmetry each pair is its own"
    assert "Some of u, v, x and y never lost to the rest" in board.notes()[0]


def test_one_vote_alone_is_a_leaderboard() -> None:
    board = bradley_terry([Result("x", "y", 1.0, "p")])
    assert board.gap("x", "y").mean == pytest.approx(math.log(3), abs=1e-9)
    assert [s.rank for s in board.standings] == [1, 1]


def test_no_votes_are_an_empty_leaderboard() -> None:
    board = bradley_terry([])
    assert (board.standings, board.groups, board.notes(), board.votes) == ((), (), (), 0)


@pytest.mark.parametrize("odd", [Result("x", "y", 0.7, "p"), Result("x", "x", 1.0, "p")])
def test_what_is_no_result_is_refused(odd: Result) -> None:
    with pytest.raises(ValueError, match="is no result"):
        bradley_terry([odd])


# --- how many more ---------------------------------------------------------------------------------------------------


def test_votes_needed_is_the_arithmetic_of_its_docstring() -> None:
    """12 : 8. d = log 1.5, e² = (1/12 + 1/8) · 20/19, p (1 − p) = .24."""
    board = bradley_terry(duel("x", "y", 12, 8))
    d, e2 = math.log(1.5), (1 / 12 + 1 / 8) * 20 / 19
    expected = math.ceil((((Z95 + Z80) / d) ** 2 - 1 / e2) / 0.24)
    assert votes_needed(board, "x", "y") == votes_needed(board, "y", "x") == expected == 180
    assert votes_needed(bradley_terry(duel("x", "y", 120, 40)), "x", "y") == 0


def test_a_rank_counts_who_is_surely_better() -> None:
    board = bradley_terry(duel("x", "y", 90, 30) + duel("y", "z", 31, 30) + duel("x", "z", 90, 30))
    assert {s.policy: s.rank for s in board.standings} == {"x": 1, "y": 2, "z": 2}


# --- from the store --------------------------------------------------------------------------------------------------


def pair(prompt: str, a: str, b: str, one: str = "sft", other: str = "ppo", **more: object) -> Item:
    return Item(Comparison(prompt, a, b), source={"a": one, "b": other, "by": "test"}, **more)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "labels.sqlite") as found:
        yield found


def test_only_pairs_of_two_known_policies_are_a_contest() -> None:
    assert contestants(pair("p", "x", "y")) == ("sft", "ppo")
    assert contestants(pair("p", "x", "y", "sft", "sft")) is None
    assert contestants(pair("p", "x", "y", answer="a")) is None
    assert contestants(Item(Comparison("p", "x", "y"), source={"run": "online-1", "step": 3})) is None
    assert contestants(Item(Comparison("p", "x", "y"), source={"a": ["sft"], "b": 3})) is None


def test_votes_of_a_store_become_results(store: Store) -> None:
    """Choices count, ties and both bad are a half; repeats, skips, withdrawn pairs and other sources do not count."""
    kept = [pair(f"p{i}", "x", f"y{i}") for i in range(4)]
    gone, own = pair("q", "x", "y"), Item(Comparison("r", "x", "y"), source={"file": "mine"})
    store.add([*kept, gone, own])
    mina, alex = store.person("mina"), store.person("alex")
    for i, (strength, bad) in enumerate([(2, False), (-1, False), (0, False), (0, True)]):
        store.record(vote(kept[i].id, mina, "k", strength, both_bad=bad))
    store.record(vote(kept[0].id, alex, "k", -2))
    store.record(vote(kept[0].id, mina, "again", -1, repeat=True))
    store.record(vote(gone.id, mina, "k", 1))
    store.record(vote(own.id, mina, "k", 1))
    store.withdraw(gone.id, mina, "w")
    store.verdicts(
        "reward:rm", "reward_model", [(kept[1].comparison, Verdict(0.51)), (kept[2].comparison, Verdict(None))]
    )
    items, votes = store.items(), store.state().votes()
    people = results(items, votes, {"mina", "alex"})
    assert [(r.one, r.other, r.score) for r in people] == [("sft", "ppo", s) for s in (1.0, 0.0, 0.5, 0.5, 0.0)]
    assert people[0].prompt == people[4].prompt != people[1].prompt
    assert [r.score for r in results(items, votes, {"reward:rm"})] == [1.0]
    assert len(results(items, votes)) == 6
    assert [m.votes for m in bradley_terry(people).meetings] == [5]


def test_the_disputed_come_first_and_the_sides_are_named(store: Store) -> None:
    """1 : 1, then 2 : 1, then 1 : 0; the pair that was stored as (ppo, sft) is turned."""
    split, near, sure = pair("p", "x", "y"), pair("q", "left", "right", "ppo", "sft"), pair("r", "x", "y")
    other = pair("s", "x", "y", "sft", "dpo")
    store.add([sure, near, split, other, pair("t", "x", "y")])
    names = [store.person(n) for n in ("mina", "alex", "sam")]
    for item, strengths in ((split, (1, -1)), (near, (1, 1, -1)), (sure, (1,)), (other, (1, -1))):
        for name, strength in zip(names, strengths, strict=False):
            store.record(vote(item.id, name, "k", strength))
    found = disputed(store.items(), store.state().votes(), "sft", "ppo")
    assert [(d.prompt, d.one, d.other, d.wins, d.losses) for d in found] == [
        ("p", "x", "y", 1, 1), ("q", "right", "left", 1, 2), ("r", "x", "y", 1, 0)]  # fmt: skip
    assert disputed(store.items(), store.state().votes(), "sft", "ppo", annotators={"sam"})[0].prompt == "q"


def test_worth_counts_each_answer_of_a_policy_once() -> None:
    """sft says x (worth 1) twice to the same prompt and z (3) to another: 2; ppo says y, worth 1, three times over."""
    items = [
        pair("p", "x", "y"),
        pair("p", "x", "yyy", "sft", "dpo"),
        pair("q", "zzz", "y"),
        pair("p", "v", "w", answer="a"),
    ]
    found = worth(items, lambda prompt, text, ended: float(len(text)))
    assert {name: e.mean for name, e in found.items()} == {"sft": 2.0, "ppo": 1.0, "dpo": 3.0}
    assert (found["sft"].n, found["sft"].prompts) == (2, 2)


# --- the figure ------------------------------------------------------------------------------------------------------


def test_the_figure_has_a_line_for_each_policy_and_one_between_groups() -> None:
    """x over y (3 : 1, so ± log 3 / 2), and u with v apart from them: four places from the top down."""
    board = bradley_terry([*duel("x", "y", 3, 1), *duel("u", "v", 1, 1)])
    figure = leaderboard(board)
    axis = figure["layout"]["yaxis"]
    places = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
    assert places == {"u": 3, "v": 2, "x": 1, "y": 0}
    first, second = figure["data"]
    assert (first["y"], second["y"]) == ([3, 2], [1, 0])
    assert second["x"] == pytest.approx([math.log(3) / 2, -math.log(3) / 2])
    assert first["marker"]["color"] != second["marker"]["color"]
    right = next(s.strength for s in board.standings if s.policy == "x")
    assert second["error_x"]["array"][0] == pytest.approx((right.high or 0) - math.log(3) / 2)
    assert [shape["y0"] for shape in figure["layout"]["shapes"]] == [1.5]
    dark = leaderboard(board, dark=True)
    assert dark["data"][0]["marker"]["color"] != first["marker"]["color"]
    assert dark["layout"]["font"]["color"] != figure["layout"]["font"]["color"]


def test_long_and_hostile_names_stay_text() -> None:
    figure = leaderboard(bradley_terry(duel("<b>%{x}", "y" * 60, 1, 1)))
    assert figure["layout"]["yaxis"]["ticktext"] == ["&lt;b>% {x}", "y" * 19 + "…"]
