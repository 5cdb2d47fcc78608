"""A linear Bradley-Terry head on kept features: closed forms, what it must not see, and what is shown of it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.evaluate.features import Features, Text
from lab.evaluate.head import Choices, Head, HeadError, agrees, fit, lead, policies, unseen


def choices(x: list[list[float]], p: list[float], weight: list[float] | None = None,
            prompts: list[str] | None = None) -> Choices:  # fmt: skip
    return Choices(np.array(x, dtype=float), np.array(p), np.array(weight or [1.0] * len(p)),
                   tuple(prompts or [f"p{i}" for i in range(len(p))]))  # fmt: skip


# --- the fit ---------------------------------------------------------------------------------------------------------


def test_one_feature_has_a_closed_form() -> None:
    """All differences are 1, so s = 1, d = w, and the gradient n (σ(w) − p) + λ w is 0. With w = 1, λ = 1 and n = 100:
    p = σ(1) + 1/100 = 0.7310586 + 0.01."""
    head = fit(choices([[1.0]] * 100, [1 / (1 + math.exp(-1)) + 0.01] * 100))
    assert head.weights[0] == pytest.approx(1.0, abs=1e-4)
    assert head.n == 100


def test_a_weight_counts_as_that_many_votes() -> None:
    alone = fit(choices([[1.0], [1.0]], [1.0, 0.0], [3.0, 1.0]))
    spread = fit(choices([[1.0]] * 4, [1.0, 1.0, 1.0, 0.0]))
    assert alone.weights == pytest.approx(spread.weights, abs=1e-5)


def test_a_tie_says_that_two_answers_are_alike() -> None:
    """A tie is half a vote each way: without other votes nothing pulls, and the weights are 0."""
    assert fit(choices([[1.0, 2.0], [3.0, -1.0]], [0.5, 0.5])).weights == pytest.approx([0.0, 0.0], abs=1e-6)


def test_exchanging_a_and_b_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    x, p = rng.normal(size=(30, 4)), (rng.random(30) < 0.5).astype(float)
    prompts = tuple(map(str, range(30)))
    one = fit(Choices(x, p, np.ones(30), prompts))
    other = fit(Choices(-x, 1 - p, np.ones(30), prompts))
    assert one.weights == pytest.approx(other.weights, abs=1e-5)


def test_the_unit_of_the_features_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    x, p = rng.normal(size=(30, 4)), (rng.random(30) < 0.5).astype(float)
    prompts = tuple(map(str, range(30)))
    one, other = (fit(Choices(k * x, p, np.ones(30), prompts)) for k in (1.0, 1000.0))
    assert one.score(x) == pytest.approx(other.score(1000 * x), abs=1e-4)


def test_answers_that_do_not_differ_are_refused_with_a_sentence() -> None:
    with pytest.raises(HeadError, match="no two answers that differ"):
        fit(choices([[0.0, 0.0]], [1.0]))


# --- what it has not seen --------------------------------------------------------------------------------------------


def test_no_pair_is_judged_by_a_head_that_saw_its_prompt() -> None:
    """Every prompt has a feature of its own: a head that has not seen the prompt knows nothing about it, d = 0."""
    x = np.repeat(np.eye(6), 2, axis=0)
    prompts = [f"p{i // 2}" for i in range(12)]
    d = unseen(choices(x.tolist(), [1.0] * 12, prompts=prompts), folds=3)
    assert d == pytest.approx(np.zeros(12), abs=1e-9)
    assert (fit(choices(x.tolist(), [1.0] * 12, prompts=prompts)).score(x) > 0.1).all()


def test_a_shared_feature_is_learnt_from_the_other_prompts() -> None:
    x = [[1.0], [-1.0]] * 10
    d = unseen(choices(x, [1.0, 0.0] * 10))
    assert ((d > 0) == (np.array(x)[:, 0] > 0)).all()


def test_a_single_prompt_leaves_nothing_unseen() -> None:
    assert np.isnan(unseen(choices([[1.0], [2.0]], [1.0, 0.0], prompts=["p", "p"]))).all()


def test_agreement_leaves_ties_and_the_unknown_out() -> None:
    found = agrees([1.0, -1.0, 2.0, math.nan, 3.0], [1.0, 1.0, 0.5, 1.0, 0.7], list("abcde"))
    assert (found.mean, found.n) == (pytest.approx(2 / 3), 3)
    assert agrees([math.nan], [1.0], ["a"]).why == "there is no choice it could be held against"


# --- which policy it would ship --------------------------------------------------------------------------------------


def test_policies_by_their_mean_reward_on_the_prompts_all_have_answered() -> None:
    """r(x) = 2 x: means 2·(1+2)/2 = 3 and 2·(3+4)/2 = 7 on prompts p and q; the middle is 5. r is sft's alone."""
    head = Head(np.array([2.0]), 1)
    answers = {"sft": {"p": np.array([1.0]), "q": np.array([2.0]), "r": np.array([99.0])},
               "ppo": {"p": np.array([3.0]), "q": np.array([4.0])}}  # fmt: skip
    gold = {"sft": {"p": 1.0, "q": 0.0}, "ppo": {"p": 0.5}}
    first, second = policies(head, answers, gold)
    assert (first.name, first.reward.mean, first.gold) == ("ppo", pytest.approx(2.0), None)
    assert (second.name, second.reward.mean) == ("sft", pytest.approx(-2.0))
    assert second.gold is not None
    assert second.gold.mean == pytest.approx(0.5)
    gap = lead(head, answers["ppo"], answers["sft"])
    assert (gap.mean, gap.low, gap.high) == (pytest.approx(4.0), pytest.approx(4.0), pytest.approx(4.0))
    assert policies(head, {}, {}) == ()


# --- kept features ---------------------------------------------------------------------------------------------------


class Eyes:
    """Reads texts as (length, 1), two at a time, and counts."""

    def __init__(self, source: str = "base") -> None:
        self.source, self.read = source, 0

    def __call__(self, texts: list[list[Any]]) -> Iterator[dict[str, Any]]:
        yield {"source": self.source, "role": "base", "width": 2}
        self.read += len(texts)
        for at in range(0, len(texts), 2):
            some = [i for i in range(at, min(at + 2, len(texts))) if texts[i][1] != "unreadable"]
            data = np.array([[len(texts[i][1]), 1.0] for i in some], dtype="<f4")
            yield {"at": some, "data": base64.b64encode(data.tobytes()).decode(), "done": at + 2, "of": len(texts)}


TEXTS = [Text("p", "a" * n) for n in (1, 2, 3)]


def test_what_was_read_is_not_asked_for_again(tmp_path: Path) -> None:
    eyes, heard = Eyes(), []
    kept = Features(tmp_path / "f.npz")
    found = kept.get(TEXTS, eyes, lambda done, of: heard.append((done, of)))
    assert [found[t.key].tolist() for t in TEXTS] == [[1, 1], [2, 1], [3, 1]]
    assert heard == [(2, 3), (4, 3)]
    more = [*TEXTS, Text("p", "a", ended=False)]
    assert len(kept.get(more, eyes)) == 4
    assert eyes.read == 4
    again = Features(tmp_path / "f.npz")
    assert len(again.get(more, eyes)) == 4
    assert eyes.read == 4, "from the file"


def test_another_base_sees_everything_anew(tmp_path: Path) -> None:
    kept = Features(tmp_path / "f.npz")
    kept.get(TEXTS, Eyes())
    other = Eyes("another base")
    found = kept.get([*TEXTS, Text("q", "long one")], other)
    assert len(found) == 4
    assert other.read == 4, "the first asking stopped when it heard of another base"
    assert kept.source == "another base"


def test_texts_that_cannot_be_read_are_left_out() -> None:
    assert list(Features().get([Text("p", "unreadable"), TEXTS[0]], Eyes())) == [TEXTS[0].key]


def test_a_damaged_file_is_written_anew_and_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    path.write_bytes(b"PK\x03\x04 no archive")
    eyes = Eyes()
    assert len(Features(path).get(TEXTS, eyes)) == 3
    with np.load(path, allow_pickle=False) as kept:
        assert sorted(kept) == ["keys", "source", "values"]
    np.savez(path, source=np.array("base"), keys=np.array([{"a": 1}], dtype=object), values=np.zeros((1, 2)))
    assert len(Features(path).get(TEXTS, eyes)) == 3
    assert eyes.read == 6
