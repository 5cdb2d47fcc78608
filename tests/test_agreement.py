"""Agreement and habits of those who judge: published tables, arithmetic by hand, and what cannot be computed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lab.evaluate.agreement import (
    Estimate,
    Mark,
    bootstrap,
    cohen,
    fleiss,
    krippendorff,
    raw_agreement,
    share,
)
from lab.evaluate.bias import FIRST, length_share, position_share, self_consistency, taste, too_fast
from lab.evaluate.people import against, ceiling_of_repeats, compare_judges, noise_ceiling
from lab.feedback.judging import Judged, Opinion
from lab.records import Comparison, Verdict

FEW = {"draws": 20}
"""Where the interval is not looked at."""


def table(rows: list[list[int]], values: tuple = (1, -1)) -> list[Mark]:
    """Marks of x and y whose table of counts this is; every item is of a prompt of its own."""
    marks, i = [], 0
    for r, row in enumerate(rows):
        for c, count in enumerate(row):
            for _ in range(count):
                marks += [Mark(f"i{i}", f"p{i}", "x", values[r]), Mark(f"i{i}", f"p{i}", "y", values[c])]
                i += 1
    return marks


def coders(*rows: str) -> list[Mark]:
    """Marks from a table of coders by units, the values 1 to 5 as strengths −2 to 2, a dot where one is missing."""
    return [Mark(f"u{u}", f"p{u}", f"c{c}", int(v) - 3) for c, row in enumerate(rows)
            for u, v in enumerate(row.split()) if v != "."]  # fmt: skip


KRIPPENDORFF_2011 = coders("1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3",
                           ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .")  # fmt: skip


# --- agreement -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "kappa"),
    [
        ([[20, 5], [10, 15]], 0.4),  # A = .7, by chance .5 · .6 + .5 · .4 = .5
        ([[45, 15], [25, 15]], 0.1304),
        ([[25, 35], [5, 35]], 0.2593),
    ],
)
def test_cohens_kappa(rows, kappa):
    assert cohen(table(rows), "x", "y", **FEW).mean == pytest.approx(kappa, abs=5e-5)
    assert cohen(table(rows), "y", "x", **FEW).mean == pytest.approx(kappa, abs=5e-5)


def test_weighted_kappa_by_hand():
    """Ten items, margins 3, 2, 5. Linear: 4/10 against 92/100. Quadratic: 6/10 against 152/100."""
    marks = table([[2, 1, 0], [0, 1, 1], [1, 0, 4]], ("b", "tie", "a"))
    assert cohen(marks, "x", "y", "linear", **FEW).mean == pytest.approx(1 - 0.4 / 0.92)
    assert cohen(marks, "x", "y", "quadratic", **FEW).mean == pytest.approx(1 - 0.6 / 1.52)
    # A = .7, by chance (9 + 4 + 25) / 100
    assert cohen(marks, "x", "y", **FEW).mean == pytest.approx((0.7 - 0.38) / 0.62)


def test_the_distance_of_two_strengths_is_their_own():
    """−2, 1 and 2, nobody said −1 or 0: one step from 1 to 2, three from −2 to 1."""
    marks = table([[1, 1, 0], [0, 1, 1], [0, 0, 1]], (-2, 1, 2))
    # observed (3 + 1) / 5; by chance, rows 2, 2, 1 and columns 1, 2, 2: (2·2·3 + 2·2·4 + 2·1·3 + 2·2·1 + 1·1·4 + 1·2·1)
    assert cohen(marks, "x", "y", "linear", **FEW).mean == pytest.approx(1 - (4 / 5) / (44 / 25))


def test_fleiss_kappa():
    """Fourteen raters, ten subjects, five categories: κ = .210 (Fleiss' method as Wikipedia works it out)."""
    counts = ["0 0 0 0 14", "0 2 6 4 2", "0 0 3 5 6", "0 3 9 2 0", "2 2 8 1 1", "7 7 0 0 0", "3 2 6 3 0", "2 5 3 2 2",
              "6 5 2 1 0", "0 2 2 3 7"]  # fmt: skip
    marks = []
    for i, row in enumerate(counts):
        values = [c - 2 for c, n in enumerate(map(int, row.split())) for _ in range(n)]
        marks += [Mark(str(i), str(i), f"r{k}", v) for k, v in enumerate(values)]
    assert fleiss(marks, **FEW).mean == pytest.approx(0.210, abs=5e-4)


def test_krippendorffs_alpha():
    """Krippendorff 2011: four coders, twelve units, marks missing."""
    assert krippendorff(KRIPPENDORFF_2011, "nominal", **FEW).mean == pytest.approx(0.743, abs=5e-4)
    assert krippendorff(KRIPPENDORFF_2011, "ordinal", **FEW).mean == pytest.approx(0.815, abs=5e-4)
    assert krippendorff(KRIPPENDORFF_2011, **FEW).n == 11, "the last but one unit has two marks, the last one has one"


def test_raw_agreement_by_hand():
    """a, a, b: one pair of three; a, a: one of one; b alone: none. 2 of 4."""
    marks = [Mark("1", "p", w, v) for w, v in (("x", "a"), ("y", "a"), ("z", "b"))]
    marks += [Mark("2", "q", "x", "a"), Mark("2", "q", "y", "a"), Mark("3", "r", "x", "b")]
    found = raw_agreement(marks)
    assert (found.mean, found.n, found.prompts) == (0.5, 4, 2)
    assert (found.low, found.high) == pytest.approx((1 / 3, 1.0))


def test_a_repeat_is_no_second_annotator():
    marks = [Mark("1", "p", "x", "a"), Mark("1", "p", "x", "b"), Mark("1", "p", "y", "a")]
    assert raw_agreement(marks).mean == 1.0
    assert raw_agreement(marks[:2]).mean is None


def test_symmetry_takes_the_names_out():
    """The chosen one is always a, and the judge agrees in 8 of 10: κ is 0 by name, 2 · 0.8 − 1 by choice."""
    marks = table([[8, 2], [0, 0]])
    assert cohen(marks, "x", "y", **FEW).mean == pytest.approx(0.0)
    assert cohen(marks, "x", "y", symmetric=True, **FEW).mean == pytest.approx(0.6)
    # Fleiss: P = 0.8 and by chance ½; α: 1 − (n − 1) D_o / Σ n_c n_k with n = 40 values, 20 of each: 1 − 39 · 8 / 800
    assert fleiss(marks, symmetric=True, **FEW).mean == pytest.approx(0.6)
    assert krippendorff(marks, symmetric=True, **FEW).mean == pytest.approx(1 - 39 * 8 / (2 * 20 * 20))
    named = table([[3, 1], [2, 4]])
    turned = [Mark(m.item, m.prompt, m.annotator, -m.strength) if int(m.item[1:]) % 2 else m for m in named]
    for figure in (krippendorff, fleiss):
        assert figure(turned, symmetric=True, **FEW).mean == pytest.approx(figure(named, symmetric=True, **FEW).mean)


@pytest.mark.parametrize(
    ("marks", "why"),
    [
        ([], "no item was judged by two annotators"),
        ([Mark("1", "p", "x", "a"), Mark("2", "p", "x", "b")], "no item was judged by two annotators"),
        ([Mark("1", "p", "x", "a"), Mark("2", "p", "y", "b")], "no item was judged by two annotators"),
        (table([[5, 0], [0, 0]]), "every mark is 1: nothing to agree on"),
    ],
)
def test_what_cannot_be_computed_says_why(marks, why):
    for found in (krippendorff(marks), krippendorff(marks, "ordinal"), fleiss(marks)):
        assert (found.mean, found.low, found.why) == (None, None, why)
        assert str(found) == why
    found = cohen(marks, "x", "y")
    assert found.mean is None
    assert found.why in (why, "x and y judged no item in common")


def test_fleiss_wants_as_many_marks_everywhere():
    marks = [*table([[2, 1], [1, 2]]), Mark("i0", "p0", "z", "a")]
    assert fleiss(marks).why == ("Fleiss' κ wants the same number of marks for every item, here there are 2 to 3; "
                                 "Krippendorff's α does not")  # fmt: skip
    assert krippendorff(marks, **FEW).mean is not None


def test_a_mark_is_one_of_its_values():
    for value in (3, "c", "A", None, 0.5):
        with pytest.raises(ValueError, match="is no mark; give a, b, tie"):
            Mark("1", "p", "x", value)


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_bootstrap_draws_prompts():
    """Five hits of ten prompts: the quantiles of Bin(10, ½), P(X ≤ 1) = .011 and P(X ≤ 2) = .055, are 2 and 8. Every
    prompt four times over is the same; 40 prompts of their own would be 14 to 26 of 40."""
    x = np.array([1.0, 0.0] * 5)
    found = bootstrap(lambda at: x[at].mean(), range(10))
    assert found == Estimate(0.5, 0.2, 0.8, 10, 10)
    four = np.repeat(x, 4)
    again = bootstrap(lambda at: four[at].mean(), np.repeat(range(10), 4).tolist())
    assert (again.low, again.high, again.n, again.prompts) == (0.2, 0.8, 40, 10)
    assert bootstrap(lambda at: four[at].mean(), range(40)).low == pytest.approx(0.35, abs=0.026)


def test_an_interval_wants_two_prompts():
    found = bootstrap(lambda at: 1.0, ["p", "p"])
    assert (found.mean, found.low, found.why) == (1.0, None, "one prompt alone gives no interval")
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_a_figure_that_few_samples_have_gives_no_interval():
    """It exists only where unit 0 was drawn thrice or more of three: seldom."""
    found = bootstrap(lambda at: 1.0 if len(set(at)) == 3 else math.nan, range(3))
    assert found.why == "too few prompts differ for an interval"


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval(hits, n, low, high):
    """Newcombe 1998, table I."""
    found = share([True] * hits + [False] * (n - hits), range(n))
    assert (found.mean, found.low, found.high) == pytest.approx((hits / n, low, high), abs=5e-5)


def test_marks_of_one_prompt_count_together():
    """Twenty-nine prompts with the same mark three times each are as good as 29 marks."""
    one = share([True] + [False] * 28, range(29))
    three = share(([True] + [False] * 28) * 3, [*range(29)] * 3)
    assert (three.low, three.high) == pytest.approx((one.low, one.high))
    assert (three.n, three.prompts) == (87, 29)
    none = share([False] * 60, [*range(20)] * 3)
    assert none.high == pytest.approx(0.1611, abs=5e-5)


# --- habits ----------------------------------------------------------------------------------------------------------


def test_position_and_length_by_hand():
    marks = [Mark("1", "p", "x", "a", first="a"), Mark("2", "q", "x", "b", first="b"), Mark("3", "r", "x", -2, "a"),
             Mark("4", "s", "x", "tie"), Mark("5", "t", "x", 1, "a")]  # fmt: skip
    assert position_share(marks).mean == 3 / 4
    assert position_share(marks).n == 4
    lengths = {"1": (9.0, 2.0), "2": (9.0, 2.0), "3": (1.0, 2.0), "4": (1.0, 2.0), "5": (3.0, 3.0)}
    found = length_share(marks, lengths)
    assert (found.mean, found.n) == (2 / 3, 3)
    assert position_share([marks[3]]).why == "there is no choice, only ties"
    assert length_share(marks, {}).why == "there is no choice between answers of different length"


def test_repeats_by_hand():
    """x says the same of 1 turned round and not of 2; the repeat of 3 was not turned; y's mark is no repeat of x's."""
    marks = [Mark("1", "p", "x", "a", "a"), Mark("2", "q", "x", "a", "a"), Mark("3", "r", "x", "a", "a"),
             Mark("1", "p", "x", 2, "b"), Mark("2", "q", "x", "b", "b"), Mark("3", "r", "x", "a", "a"),
             Mark("1", "p", "y", "b", "b")]  # fmt: skip
    assert (self_consistency(marks).mean, self_consistency(marks).n) == (1 / 2, 2)
    assert (self_consistency(marks, flipped=False).mean, self_consistency(marks, flipped=False).n) == (2 / 3, 3)
    assert self_consistency(marks[:3]).why == "nobody was shown an item again the other way round"


def test_too_fast_by_hand():
    marks = [Mark(str(i), str(i), "x", "a", ms=ms) for i, ms in enumerate((200.0, 1499.0, 1500.0, 9000.0, None))]
    assert (too_fast(marks).mean, too_fast(marks).n) == (0.5, 4)
    assert too_fast(marks, 300.0).mean == 0.25
    assert too_fast(marks[4:]).why == "no vote was timed"


def choices(copies: int = 1) -> tuple[list[Mark], dict]:
    """Thirty items whose a is longer by 7, chosen in 20, in each place as often."""
    marks, features = [], {}
    for i in range(30):
        for _ in range(copies):
            marks.append(Mark(str(i), str(i), "x", "a" if i % 3 else "b", "a" if i % 2 else "b"))
        features[str(i)] = ({"length": 10.0, "praise": 1.0}, {"length": 3.0, "praise": 1.0})
    return marks, features


def test_weights_by_hand():
    """σ(w) = ⅔, so w = ln 2, and its error is 1 / √(30 · ⅔ · ⅓); the place is worth nothing, praise never differs."""
    found = taste(*choices()[:1], "x", choices()[1])
    length, first = found.weights
    assert (found.n, found.penalty, found.left_out, first.feature) == (30, 0.0, ("praise",), FIRST)
    assert (length.feature, length.spread) == ("length", 7.0)
    assert length.weight == pytest.approx(math.log(2), abs=1e-6)
    assert length.error == pytest.approx(1 / math.sqrt(30 * 2 / 9), abs=1e-6)
    assert first.weight == pytest.approx(0.0, abs=1e-6)
    assert length.high - length.weight == pytest.approx(1.959964 * length.error, abs=1e-6)


def test_the_same_choice_twice_is_no_more_information():
    """Clustered by prompt, 60 choices of 30 prompts have the error of 30, but for the correction 30/29 · 59/58."""
    marks, features = choices(copies=2)
    found = taste(marks, "x", features)
    assert found.weights[0].weight == pytest.approx(math.log(2), abs=1e-6)
    assert found.weights[0].error == pytest.approx(math.sqrt(30 / 29 * 59 / 58 / (30 * 2 / 9)), abs=1e-6)


def test_choices_that_could_be_separated_are_held_by_a_ridge():
    """All ten take the longer one: Σ (1 − σ(w)) = w, and the error is 1 / √(10 σ(w) (1 − σ(w)) + 1)."""
    marks = [Mark(str(i), str(i), "x", "a", "a" if i % 2 else "b") for i in range(10)]
    features = {str(i): ({"length": 2.0}, {"length": 1.0}) for i in range(10)}
    found = taste(marks, "x", features)
    length, first = found.weights
    assert found.penalty == 1.0
    p = 1 / (1 + math.exp(-length.weight))
    assert 10 * (1 - p) == pytest.approx(length.weight, abs=1e-5)
    assert length.error == pytest.approx(1 / math.sqrt(10 * p * (1 - p) + 1), abs=1e-5)
    assert first.weight == pytest.approx(0.0, abs=1e-5)


def test_weights_that_cannot_be_had():
    marks, features = choices()
    assert taste(marks[:2], "x", features).why == "2 choices are too few for 2 weights"
    assert taste(marks, "nobody", features).n == 0
    features["3"] = ({"length": 1.0}, {"length": 1.0, "praise": 1.0})
    with pytest.raises(ValueError, match="Every answer needs the same features"):
        taste(marks, "x", features)


# --- the ceiling, and judges beside people ---------------------------------------------------------------------------


def test_the_ceiling_by_hand():
    """.9 and .4 are known at best with .9 and .6; with a tenth of flips with .82 and .58; with half of them with ½."""
    assert noise_ceiling([0.9, 0.4]).mean == pytest.approx(0.75)
    assert noise_ceiling([0.9, 0.4], 0.1).mean == pytest.approx(0.70)
    assert noise_ceiling([0.9, 0.4], 0.5).mean == pytest.approx(0.5)
    assert noise_ceiling([]).why == "there is no preference"
    with pytest.raises(ValueError, match="are probabilities"):
        noise_ceiling([1.5])


def test_what_two_labels_say_about_the_ceiling():
    """All items at q = .8: two labels agree with .68, the ceiling is the upper end, .8. Two in five certain, the rest
    coin tosses: they agree with .7, which is also the ceiling, the lower end."""
    found = ceiling_of_repeats(Estimate(0.8**2 + 0.2**2, 0.5, 1.0))
    assert (found.low.mean, found.high.mean) == pytest.approx((0.68, 0.8))
    assert (found.high.low, found.high.high) == (0.5, 1.0)
    certain = [1.0] * 2 + [0.5] * 3
    assert noise_ceiling(certain).mean == pytest.approx(np.mean([q * q + (1 - q) ** 2 for q in certain]))
    coins = ceiling_of_repeats(Estimate(0.4, 0.3, 0.6))
    assert (coins.low.mean, coins.low.low, coins.low.high, coins.high.mean) == (0.5, 0.5, 0.6, 0.5)
    assert ceiling_of_repeats(Estimate(None, why="no")).high.why == "no"


def said(p: float | None, prompt: str = "x?") -> Judged:
    return Judged(Comparison(prompt, "good", "bad"), Verdict(p, "j"), Opinion(p), Opinion(p))


def test_a_judge_beside_people_by_hand():
    """Right, wrong, a tie (half right), no answer, and two that people leave open: 1.5 of 3."""
    judged = [said(p, f"{i}?") for i, p in enumerate((0.9, 0.2, 0.5, None, 1.0, 1.0))]
    found = against(judged, [1.0, 0.75, 1.0, 1.0, 0.5, None])
    assert (found.judge, found.unanswered) == ("j", 1)
    assert (found.agreement.mean, found.agreement.n) == (0.5, 3)
    # in both orders: the pairs (1, 1), (−1, 1), (0, 1), (1, 0) and their turns. A = 2/8, by chance
    # (3 · 3 + 2 · 2 + 3 · 3) / 64: the judge says 1, 0, −1 three, two and three times, and so do the people
    assert found.kappa.mean == pytest.approx((2 / 8 - 22 / 64) / (1 - 22 / 64))
    assert against([said(None)], [1.0]).agreement.why == "no comparison has both a verdict and a choice of people"
    with pytest.raises(ValueError, match="shorter"):
        against(judged, [1.0])


def test_judges_side_by_side():
    """On the four that both answer, one is right four times and the other twice."""
    one = [said(1.0, f"{i}?") for i in range(5)]
    two = [said(p, f"{i}?") for i, p in enumerate((1.0, 0.0, 1.0, 0.0, None))]
    first, second = compare_judges({"one": one, "two": two}, [1.0] * 5)
    assert (first.judge, first.agreement.mean, first.gap, first.unanswered) == ("one", 1.0, None, 0)
    assert (second.agreement.mean, second.gap.mean, second.gap.n, second.unanswered) == (0.5, -0.5, 4, 1)
    assert first.kappa.mean == pytest.approx(1.0)
    assert second.kappa.mean == pytest.approx(0.0)
    with pytest.raises(ValueError, match="two and one judged different comparisons"):
        compare_judges({"one": one, "two": two[1:]}, [1.0] * 5)
