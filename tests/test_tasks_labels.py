"""The engine's tasks for the panels about labels, on the real tiny base: features, pairs, and a reward model's word."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab import tiny
from lab.base import RAW, SharedBase
from lab.desk import Desk, PromptError
from lab.runs import RunError
from lab.score import score
from lab.tasks import find
from lab.tasks.features import encoded


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    root: Path = tmp_path_factory.mktemp("runs")
    return Desk(root, SharedBase.load(tiny.CHECKPOINT), world="tiny")


def features(desk: Desk, texts: list[list[Any]]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """(n, F) features, and the rows."""
    rows = list(find("features")(desk, {"texts": texts}))
    width = rows[0]["width"]
    out = np.full((len(texts), width), np.nan, dtype=np.float32)
    for row in rows:
        if "at" in row:
            out[row["at"]] = np.frombuffer(base64.b64decode(row["data"]), "<f4").reshape(-1, width)
    return out, rows


TEXTS = [[prompt, answer, True] for prompt in tiny.PROBES for answer in ("I do not know.", "The capital is Oslo.")]


def test_features_are_the_last_state_and_the_mean_of_the_answers_states(desk: Desk) -> None:
    found, rows = features(desk, TEXTS[:2])
    row = encoded(desk.base, RAW, *TEXTS[0])
    with torch.no_grad():
        packed = desk.base.pack([row])
        hidden = desk.base.forward(packed)
    n, size = len(row.completion), desk.base.hidden_size
    assert found.shape == (2, 2 * size)
    assert found[0, :size] == pytest.approx(hidden[-1].numpy(), abs=1e-5)
    # a state predicts the token after it: those before each token of the answer are its own
    assert found[0, size:] == pytest.approx(hidden[-1 - n : -1].mean(0).numpy(), abs=1e-5)
    assert rows[0]["role"] == RAW
    assert desk.base.fingerprint in rows[0]["source"]


def test_many_texts_come_in_parts_and_in_their_places(desk: Desk) -> None:
    many = TEXTS * 3
    found, rows = features(desk, many)
    assert sum("at" in r for r in rows) > 1, "a run goes on between two rows"
    assert [r["done"] for r in rows if "at" in r][-1] == len(many)
    assert found[: len(TEXTS)] == pytest.approx(found[len(TEXTS) : 2 * len(TEXTS)], abs=1e-4)
    alone, _ = features(desk, many[5:6])
    assert found[5] == pytest.approx(alone[0], abs=1e-4)


def test_an_answer_that_was_cut_off_has_no_end(desk: Desk) -> None:
    whole, cut = (encoded(desk.base, RAW, "Hello", "I do not know.", ended) for ended in (True, False))
    assert cut.completion == whole.completion[:-1]


def test_a_long_prompt_loses_its_beginning_and_a_long_answer_is_left_out(desk: Desk) -> None:
    window = desk.base.window
    row = encoded(desk.base, RAW, "Hello. " * window, "I do not know.", True)
    assert len(row.prompt) + len(row.completion) == window
    found, rows = features(desk, [["Hello", "I do not know. " * window, True], TEXTS[0]])
    ((number, reason),) = rows[1]["left_out"]
    assert (number, "window" in reason) == (0, True)
    assert np.isnan(found[0]).all()
    assert not np.isnan(found[1]).any()


def test_words_the_world_does_not_know_are_read_all_the_same(desk: Desk) -> None:
    found, _ = features(desk, [["Zebroid?", "<img src=x onerror=1> 😀 שלום", True]])
    assert np.isfinite(found).all()


def test_what_is_no_list_of_texts_is_refused(desk: Desk) -> None:
    with pytest.raises(RunError, match="list of texts"):
        list(find("features")(desk, {"texts": [["only a prompt"]]}))


def test_reading_leaves_the_random_state_alone(desk: Desk) -> None:
    before = torch.random.get_rng_state()
    features(desk, TEXTS[:4])
    assert torch.equal(before, torch.random.get_rng_state())


def test_one_role_meets_itself_and_equal_answers_are_left_out(desk: Desk) -> None:
    asked = {"roles": ["base"], "prompts": list(tiny.PROBES), "max_new_tokens": 24, "seed": 3}
    rows = list(find("pairs")(desk, asked))
    assert [r["done"] for r in rows] == [8, 12]
    made = [p for r in rows for p in r["pairs"]]
    assert len(made) + sum(r["equal"] for r in rows) == 12
    assert made
    assert all(p["a"] != p["b"] and p["source"]["a"] == p["source"]["b"] == "base" for p in made)
    assert made == [p for r in find("pairs")(desk, asked) for p in r["pairs"]], "the same seed says the same"


def test_pairs_want_somebody_who_answers_something_they_know(desk: Desk) -> None:
    with pytest.raises(RunError, match="at least one role and one prompt"):
        list(find("pairs")(desk, {"roles": [], "prompts": ["Hello"]}))
    with pytest.raises(PromptError, match="zebroid"):
        list(find("pairs")(desk, {"roles": ["base"], "prompts": ["What is a zebroid?"]}))


def test_a_directory_without_a_reward_model_says_nothing(desk: Desk) -> None:
    assert list(find("rewards")(desk, {"pairs": [["p", "a", "b", True, True]]})) == []


def test_the_newest_reward_model_gives_both_answers_its_reward(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A head with weights of its own on a role of the base: the task says what `score` says of the same tokens."""
    from lab.config import RewardConfig
    from lab.runs import Run

    run = Run.create(tmp_path, "reward", RewardConfig(), name="rm")
    role = run.id.replace(".", "_")
    desk.base.add_role(role)
    desk.base.add_head(role, seed=1)
    monkeypatch.setattr(desk, "reward", lambda: role)
    monkeypatch.setattr(desk, "root", tmp_path)
    pair = [tiny.PROBES[0], "I do not know.", "The capital of Norway is Oslo.", True, True]
    head, body = find("rewards")(desk, {"pairs": [pair, ["", "", "", True]]})
    assert head["model"].startswith(f"{run.id}@")
    assert body["at"] == [0]
    rows = [encoded(desk.base, role, pair[0], y, True) for y in pair[1:3]]
    wanted = score(desk.base, [(r.prompt, r.completion) for r in rows], {role: "reward"})[role]
    assert body["rewards"][0] == pytest.approx(wanted.tolist(), abs=1e-5)
