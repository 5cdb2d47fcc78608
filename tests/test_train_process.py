"""Process reward models: where a step ends, what is learnt there, and what is said about whole solutions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lab.base import SharedBase
from lab.chat import Chat
from lab.columns import DataError
from lab.config import Adapter, ConfigError
from lab.config.process import ProcessConfig
from lab.events import Checked, Evaluated, Probed, Skipped, Updated
from lab.records import Message, Steps
from lab.score import score
from lab.steps import encode_steps
from lab.train import process as P
from tests.models import build_tokenizer

WORDS = ("the broken clock", "a small boat", "every question", "the green door", "two apples", "an honest answer",
         "a difficult problem", "the weather of the island")  # fmt: skip
RIGHT, WRONG = "with great care.", "after seven years."
SMALL = Adapter(rank=4, alpha=8)
CONFIG = ProcessConfig(lr=1e-3, head_lr=1e-3, batch=4, epochs=1, eval_share=0.0, eval_every=0, probe_every=0,
                       save_every=0)  # fmt: skip


def turn(text):
    return (Message("user", text),)


def solution(i, labels):
    """A solution whose steps say themselves whether they are right."""
    steps = tuple(f"{WORDS[(i + k) % 8]} {RIGHT if y >= 0.5 else WRONG}" for k, y in enumerate(labels))
    return Steps(turn(f"My neighbour paints {WORDS[i]}."), steps, labels, i)


SOLUTIONS = [solution(i, ((1.0, 1.0), (1.0, 0.0, 0.0), (0.0,), (1.0, 1.0, 0.0, 1.0))[(i + 1) % 4]) for i in range(8)]
"""Wrong from the second step on, wrong at once, wrong in the third step, right; twice each."""


@pytest.fixture
def base(qwen3_folder):
    return SharedBase.load(qwen3_folder, bits=4, device="cpu")


def random_judge(base, seed=5):
    base.add_role("process", SMALL, seed=seed)
    base.add_head("process", seed=seed)
    role = base.role("process")
    role.weights.add_(torch.randn(role.weights.shape, generator=torch.Generator().manual_seed(seed)) * 0.05)
    return role


def logits_of(base, record, separator="\n"):
    """The head at the end of every beginning of the solution, each beginning alone in its pass."""
    (row,) = encode_steps(base.chat, [record], separator, 1000).records
    starts = [tuple(t for step in row.steps[: k + 1] for t in step) for k in range(len(row.steps))]
    return [float(score(base, [(row.prompt_ids, y)], {"process": "reward"})["process"][0]) for y in starts]


def nll(z, y):
    return y * math.log1p(math.exp(-z)) + (1 - y) * math.log1p(math.exp(z))


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", ["\n", "\n\n", " ки\n"])
def test_every_step_ends_with_the_separators_tokens(separator):
    chat = Chat.of(build_tokenizer())
    record = Steps(
        turn("My neighbour paints."), ("First: a boat", "Then two apples.\nBoth", "So 7"), (1.0, 0.5, 0.0), 3
    )
    (row,) = encode_steps(chat, [record], separator, 1000).records
    assert row.prompt_ids == tuple(chat.encode_prompt(record.prompt))
    texts = [chat.tokenizer.decode(step) for step in row.steps]
    assert texts == [step + separator for step in record.steps]
    end = chat.tokenizer.encode(separator, add_special_tokens=False)[-1]
    assert {step[-1] for step in row.steps} == {end}
    assert row.completion_ids == row.steps[0] + row.steps[1] + row.steps[2]
    assert row.after == (len(row.steps[1]) + len(row.steps[2]), len(row.steps[2]), 0)
    assert (row.labels, row.row) == ((1.0, 0.5, 0.0), 3)


def test_a_control_token_in_a_step_is_text():
    chat = Chat.of(build_tokenizer())
    record = Steps("One.", (f"It says {chat.terminator.strip()} here",), (1.0,))
    (row,) = encode_steps(chat, [record], "\n", 1000).records
    assert not set(row.completion_ids) & chat.stop_ids
    assert chat.tokenizer.decode(row.completion_ids) == record.steps[0] + "\n"


def test_solutions_that_cannot_be_read_are_named():
    chat = Chat.of(build_tokenizer())
    bad = [Steps("One.", (), (), 4), Steps("One.", ("a", " "), (1.0, 1.0), 5),
           Steps("One.", ("and nobody knows why " * 60,), (1.0,)),
           Steps((Message("assistant", "It."),), ("a",), (1.0,), 7)]  # fmt: skip
    rows = encode_steps(chat, bad, "\n", 50)
    assert rows.records == ()
    assert [(s.row, s.reason) for s in rows.skipped] == [
        (4, "empty step"), (5, "empty step"), (2, "longer than 50 tokens"),
        (7, "refused by the chat template")]  # fmt: skip


# --- training --------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_all_steps_read_where_they_end(base):
    """Solutions of three, one, four and two steps: each of the ten steps counts the same; soft labels too."""
    random_judge(base)
    records = [replace(s, labels=tuple(0.8 * y + 0.1 for y in s.labels)) for s in SOLUTIONS[:4]]
    state = P.start(base, records, CONFIG)
    state.own()
    each = [nll(z, y) for s in records for z, y in zip(logits_of(base, s), s.labels, strict=True)]
    hits = [(z >= 0) == (y >= 0.5) for s in records for z, y in zip(logits_of(base, s), s.labels, strict=True)]
    metrics = P.update(state, state.rows, CONFIG)
    assert len(each) == 10
    assert metrics["loss"] == pytest.approx(sum(each) / 10, abs=1e-5)
    assert metrics["accuracy"] == pytest.approx(sum(hits) / 10, abs=1e-6)


def test_the_last_step_alone_makes_an_outcome_reward_model(base):
    random_judge(base)
    state = P.start(base, SOLUTIONS[:4], CONFIG)
    state.own()
    each = [nll(logits_of(base, s)[-1], s.labels[-1]) for s in SOLUTIONS[:4]]
    metrics = P.update(state, state.rows, replace(CONFIG, last_only=True))
    assert metrics["loss"] == pytest.approx(sum(each) / 4, abs=1e-5)


def test_what_comes_after_a_step_does_not_change_its_reading(base):
    random_judge(base)
    (one, *_), (other, *_) = (
        P.score_steps(base, "process", turn("My neighbour paints."), steps).tolist()
        for steps in (("a small boat", RIGHT, WRONG), ("a small boat", WRONG))
    )
    assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("last_only", [False, True])
def test_an_update_does_not_depend_on_the_split_into_passes(qwen3_folder, last_only):
    def weights(tokens):
        base = SharedBase.load(qwen3_folder, bits=4, device="cpu")
        random_judge(base)
        config = replace(CONFIG, tokens_per_pass=tokens, last_only=last_only)
        state = P.start(base, SOLUTIONS, config)
        state.own()
        P.update(state, state.rows, config)
        return state.role("process").weights.clone()

    gaps = (weights(1) - weights(100_000)).abs()
    assert float((gaps > 1e-5).float().mean()) < 0.01  # Adam steps either way where a gradient is nothing but rounding


@pytest.mark.parametrize("last_only", [False, True])
def test_the_first_loss_is_ln_2_and_wrong_steps_are_found(base, last_only):
    """A right and a wrong step differ in their words; after half of the prompts, those of the others are told apart."""
    config = replace(CONFIG, epochs=20, lr=3e-3, head_lr=3e-3, eval_share=0.5, last_only=last_only)
    state = P.start(base, SOLUTIONS, config, adapter=SMALL)
    seen = list(P.process(state, config))
    losses = [e.metrics["loss"] for e in seen if isinstance(e, Updated)]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert all(c.ok for c in seen if isinstance(c, Checked))
    before, *_, after = [e.metrics for e in seen if isinstance(e, Evaluated)]
    assert before["step_auroc"] == 0.5
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    if not last_only:
        assert after["step_auroc"] == after["solution_auroc"] == after["first_error"] == 1.0
    *_, probed = [e for e in seen if isinstance(e, Probed)]
    first = probed.samples[0]
    assert first.completion == "\n".join(state.texts[0].steps)
    assert first.reward == pytest.approx(min(p for _, p in first.reasons))
    assert tuple(words for words, _ in first.reasons) == state.texts[0].steps


def test_held_out_figures_by_hand(base, monkeypatch):
    """Log-odds 2, −1 | 1 | −3, 4 of steps right, wrong | wrong | wrong, right. Right ones: 2, 4; wrong: −1, 1, −3. All
    six pairs are in order but none is tied: 1. First errors: found at 1; missed (none seen); found at 0: 2 of 3."""
    state = P.start(base, SOLUTIONS[:3], CONFIG, adapter=SMALL)
    heldout = [replace(row, labels=y, steps=row.steps[:1] * len(y))
               for row, y in zip(state.rows, ((1.0, 0.0), (0.0,), (0.25, 0.5)), strict=True)]  # fmt: skip
    state.heldout = heldout
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    logits = torch.tensor([[2.0, -1.0], [1.0, 0.0], [-3.0, 4.0]])
    monkeypatch.setattr(P, "judge", lambda *_: P.Judged(logits, mask))
    figures = P.evaluate(state, CONFIG)
    assert figures["step_auroc"] == 1.0
    assert figures["first_error"] == pytest.approx(2 / 3)
    loss = nll(2, 1) + nll(-1, 0) + nll(1, 0) + nll(-3, 0.25) + nll(4, 0.5)
    assert figures["eval_loss"] == pytest.approx(loss / 5, abs=1e-6)
    last = P.evaluate(state, replace(CONFIG, last_only=True))["eval_loss"]
    assert last == pytest.approx((nll(-1, 0) + nll(1, 0) + nll(4, 0.5)) / 3, abs=1e-6)
    assert "solution_auroc" not in figures  # no solution is right in all its steps


def test_auroc_by_hand():
    """Right ones 3 and 1, wrong ones 2 and 1: pairs (3, 2) (3, 1) won, (1, 2) lost, (1, 1) tied: 2½ of 4."""
    assert P.auroc(torch.tensor([3.0, 2, 1, 1]), torch.tensor([True, False, True, False])) == 0.625
    assert P.auroc(torch.tensor([3.0, 2]), torch.tensor([True, True])) is None


# --- scoring ---------------------------------------------------------------------------------------------------------


def test_scoring_steps_is_the_sigmoid_of_the_head_where_they_end(base):
    random_judge(base)
    record = SOLUTIONS[3]
    for separator in ("\n", ";"):
        wanted = [1 / (1 + math.exp(-z)) for z in logits_of(base, record, separator)]
        mine = P.score_steps(base, "process", record.prompt, record.steps, separator)
        assert mine.tolist() == pytest.approx(wanted, abs=1e-5)


def test_many_solutions_are_read_as_one(base):
    random_judge(base)
    rows = encode_steps(base.chat, SOLUTIONS[:4], "\n", 1000).records
    for tokens in (1, 100_000):
        logits, mask = P.judge(base, "process", rows, tokens)
        assert mask.tolist() == [[k < len(s.labels) for k in range(4)] for s in SOLUTIONS[:4]]
        for own, record in zip(logits.tolist(), SOLUTIONS, strict=False):
            n = len(record.labels)
            assert own[:n] == pytest.approx(logits_of(base, record), abs=1e-5)
            assert own[n:] == [0.0] * (4 - n)


def test_nothing_to_score_is_refused(base):
    random_judge(base)
    with pytest.raises(DataError, match="there is no step"):
        P.score_steps(base, "process", "One.", ())


def test_an_empty_separator_is_refused():
    with pytest.raises(ConfigError, match="separator is empty"):
        ProcessConfig(separator="")


def test_left_out_solutions_are_reported(base):
    long = replace(SOLUTIONS[0], steps=("and nobody knows why " * 60, "a"), row=77)
    state = P.start(base, [*SOLUTIONS, long], replace(CONFIG, max_length=100), adapter=SMALL)
    (skip,) = [e for e in P.process(state, CONFIG) if isinstance(e, Skipped)]
    assert "row 77" in skip.rows[0]


def test_resuming_equals_never_stopping_bit_for_bit(qwen3_folder, tmp_path):
    config = replace(CONFIG, epochs=2, eval_share=0.5)

    def fresh():
        return P.start(SharedBase.load(qwen3_folder, bits=4, device="cpu"), SOLUTIONS, config, adapter=SMALL)

    straight, stopped, resumed = fresh(), fresh(), fresh()
    wanted = [e.metrics for e in P.process(straight, config) if isinstance(e, Updated)]
    for event in P.process(stopped, config):
        if isinstance(event, Updated):
            break
    stopped.save(tmp_path)
    resumed.load(tmp_path)
    assert [e.metrics for e in P.process(resumed, config) if isinstance(e, Updated)] == wanted[1:]
    assert len(wanted) > 1
    assert resumed.role("process").digest() == straight.role("process").digest()
