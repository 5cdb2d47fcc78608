"""Scoring: packed trees against transformers and PEFT on padded rows, and the chunked log-probabilities."""

from __future__ import annotations

import math
from importlib import import_module

import pytest
import torch

from lab.base import RAW, SharedBase
from lab.config import Adapter
from lab.pack import Row, split
from lab.saving import save_role
from lab.score import score, token_scores, token_values
from tests.models import build_model
from tests.padded import adapter_gradients, padded_logprobs, plain_model

scoring = import_module("lab.score")  # the file; `lab.score` is its function

X, Y = (5, 6, 7, 8), (9, 10, 11)
PAIRS = [(X, (12, 13, 14)), (Y, (20,)), (X, (12, 15)), (Y, (30, 31, 32, 33, 34, 35, 36, 37)), (X, (12, 13, 14)),
         ((40,), tuple(range(50, 90)))]  # fmt: skip
"""Two prompts shared by several rows, one row twice, ragged lengths, one row much longer than the others."""


def trained_role(base, name="p", seed=1, head=False):
    """A role whose weights are all from N(0, 0.05²)."""
    role = base.add_role(name, Adapter(rank=8, alpha=16), seed=seed)
    if head:
        base.add_head(name, seed=seed)
    role.weights.copy_(torch.randn(role.weights.numel(), generator=torch.Generator().manual_seed(seed)) * 0.05)
    return role


@pytest.fixture(scope="module")
def base(qwen3_folder):
    base = SharedBase.load(qwen3_folder, bits=32, device="cpu")
    trained_role(base, "p", 1)
    trained_role(base, "v", 2, head=True)
    return base


# ── against padded rows ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bits", [4, 32])
@pytest.mark.parametrize("pad_is_eos", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_log_probabilities_and_gradients_equal_those_of_padded_rows(bits, pad_is_eos, dense, tmp_path):
    folder = build_model(tmp_path / "model", "qwen3", pad_is_eos=pad_is_eos)
    base = SharedBase.load(folder, bits=bits, device="cpu", dense=dense)
    role = trained_role(base)
    base.train("p")
    model = plain_model(folder, bits, save_role(base, "p", tmp_path / "p"))
    end = base.chat.eos_id
    assert (base.chat.pad_id == end) == pad_is_eos
    pairs = [(x, (*c, end)) for x, c in PAIRS]
    theirs = padded_logprobs(model, pairs, base.chat.pad_id)
    packed = base.pack([Row("p", *pair) for pair in pairs])
    assert len(packed.views) > 1  # several buckets
    mine = token_scores(base, base.forward(packed), packed).logprobs
    assert mine.shape == theirs.shape
    assert torch.allclose(mine, theirs, rtol=0, atol=1e-5)
    weights = torch.linspace(-1, 2, mine.numel()).view_as(mine)
    (mine * weights).sum().backward()
    (theirs * weights).sum().backward()
    wanted = adapter_gradients(model)
    assert role.grad is not None
    assert float(wanted.norm()) > 0.1
    assert float((role.grad - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral"])
def test_sliding_windows_shorter_than_a_row_equal_transformers(family, tmp_path):
    folder = build_model(tmp_path, family, sliding_window=6)
    base = SharedBase.load(folder, bits=32, device="cpu")
    theirs = padded_logprobs(plain_model(folder), PAIRS, 0)
    assert torch.allclose(score(base, PAIRS, {RAW: "logprobs"})[RAW], theirs.detach(), rtol=0, atol=1e-5)


def test_micro_batches_change_neither_the_loss_nor_its_gradient(base):
    role = base.role("p")
    base.train("p")
    rows = [Row("p", *pair) for pair in PAIRS]
    grads, losses = [], []
    for tokens in (10_000, 20, 1):
        role.grad.zero_()
        parts = split(rows, tokens)
        losses.append(0.0)
        for part in parts:
            packed = base.pack([rows[b] for b in part])
            loss = token_scores(base, base.forward(packed), packed).logprobs.square().sum()
            loss.backward()
            losses[-1] += float(loss.detach())
        grads.append(role.grad.clone())
    assert len(parts) == len(rows)
    for loss, grad in zip(losses[1:], grads[1:], strict=True):
        assert math.isclose(loss, losses[0], rel_tol=1e-5)
        assert float((grad - grads[0]).norm() / grads[0].norm()) < 1e-5


# ── score ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_come_back_in_the_callers_order_whatever_the_passes(base):
    want = {"p": "logprobs", "v": "values", RAW: "logprobs"}
    whole = score(base, PAIRS, want)
    order = [3, 0, 5, 1, 4, 2]
    for tokens in (100_000, 60, 1):
        again = score(base, [PAIRS[b] for b in order], want, tokens_per_pass=tokens)
        for role in want:
            assert torch.allclose(again[role], whole[role][order], rtol=0, atol=1e-5)


def test_a_row_alone_scores_as_it_does_among_others(base):
    want = {"p": "logprobs", "v": "reward"}
    whole = score(base, PAIRS, want)
    for b, pair in enumerate(PAIRS):
        alone = score(base, [pair], want)
        n = len(pair[1])
        assert torch.allclose(alone["p"], whole["p"][b : b + 1, :n], rtol=0, atol=1e-5)
        assert torch.allclose(alone["v"], whole["v"][b : b + 1], rtol=0, atol=1e-5)
        assert bool((whole["p"][b, n:] == 0).all())


def test_an_empty_completion_has_no_log_probability_and_a_reward_at_the_prompts_end(base):
    out = score(base, [(X, ()), (X, (12,))], {"p": "logprobs", "v": "reward"})
    assert out["p"].shape == (2, 1)
    assert out["p"][0, 0] == 0
    assert out["p"][1, 0] < 0
    assert torch.allclose(out["v"][0], score(base, [(X[:3], (X[3],))], {"v": "reward"})["v"][0], rtol=0, atol=1e-5)
    assert score(base, [(X, ())], {"p": "logprobs"})["p"].shape == (1, 0)


def test_a_value_is_the_head_at_the_state_before_its_token_and_a_reward_the_head_at_the_last(base):
    x, c = PAIRS[0]
    values = score(base, [(x, c)], {"v": "values"})["v"][0]
    rewards = [score(base, [(x, c[:n])], {"v": "reward"})["v"][0] for n in range(len(c) + 1)]
    assert torch.allclose(values, torch.stack(rewards[:-1]), rtol=0, atol=1e-5)
    assert abs(float(values[-1] - rewards[-1])) > 1e-3


def test_temperature_divides_the_logits(base, qwen3_folder):
    theirs = padded_logprobs(plain_model(qwen3_folder), PAIRS, 0, temperature=0.7)
    mine = score(base, PAIRS, {RAW: "logprobs"}, temperature=0.7)[RAW]
    assert torch.allclose(mine, theirs.detach(), rtol=0, atol=1e-5)
    assert float((mine - score(base, PAIRS, {RAW: "logprobs"})[RAW]).abs().max()) > 0.1


def test_a_reading_that_does_not_exist_is_refused(base):
    with pytest.raises(ValueError, match="cannot be scored"):
        score(base, PAIRS, {"p": "entropy"})


# ── chunked log-probabilities ────────────────────────────────────────────────────────────────────────────────────────


class Head:
    """The part of a base that the chunked log-probabilities use: z = h Wᵀ with V = 7 and H = 5."""

    def __init__(self, cap=None):
        self.head_weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))
        self.soft_cap = cap

    def logits(self, hidden):
        z = hidden @ self.head_weight.t()
        return z if self.soft_cap is None else torch.tanh(z / self.soft_cap) * self.soft_cap


@pytest.mark.parametrize("limit", [1 << 24, 7 * 4, 1])  # all at once, four tokens at a time, one
@pytest.mark.parametrize("kept", [0, 1 << 22])  # probabilities computed again in the backward pass, or kept
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("cap", [None, 1.5])
def test_chunks_equal_the_whole_log_softmax_and_its_gradient(limit, kept, temperature, cap, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK_LOGITS", limit)
    monkeypatch.setattr(scoring, "KEPT_LOGITS", kept)
    head = Head(cap)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 5, generator=generator).requires_grad_()
    targets = torch.randint(7, (10,), generator=generator)
    weights = torch.linspace(-1, 1, 10)
    logprobs, entropy, first = scoring._ChunkedLogprobs.apply(hidden, head, targets, temperature)
    (logprobs * weights).sum().backward()
    mine, hidden.grad = hidden.grad, None

    full = torch.log_softmax(head.logits(hidden) / temperature, dim=-1)
    picked = full[torch.arange(10), targets]
    (picked * weights).sum().backward()
    assert torch.allclose(logprobs, picked, rtol=0, atol=1e-6)
    assert torch.allclose(mine, hidden.grad, rtol=0, atol=1e-6)
    p = full.detach().exp()
    assert torch.allclose(entropy, -(p * p.log()).sum(-1), rtol=0, atol=1e-6)
    assert torch.equal(first, (full.argmax(-1) == targets).float())
    assert 0 < float(first.sum()) < 10
    assert not entropy.requires_grad
    assert not first.requires_grad


@pytest.mark.parametrize("limit", [1 << 24, 7])
def test_the_gradient_is_the_slope_of_the_log_probability(limit, monkeypatch):
    """Central differences: (l(h + ε e_k) − l(h − ε e_k)) / 2ε in every direction k."""
    monkeypatch.setattr(scoring, "CHUNK_LOGITS", limit)
    head, targets = Head(), torch.tensor([2, 6, 0])
    hidden = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def value(h):
        return scoring._ChunkedLogprobs.apply(h, head, targets, 0.7)[0].sum()

    value(hidden).backward()
    step = 1e-2
    for k in range(15):
        nudge = torch.zeros(15)
        nudge[k] = step
        with torch.no_grad():
            slope = (value(hidden + nudge.view(3, 5)) - value(hidden - nudge.view(3, 5))) / (2 * step)
        assert abs(float(slope - hidden.grad.view(-1)[k])) < 1e-3


def test_equal_logits_have_the_entropy_of_an_even_choice(base):
    """With W = 0 every token has probability 1 / V, whatever the temperature: l = −ln V and entropy ln V."""
    head = Head()
    head.head_weight.zero_()
    logprobs, entropy, first = scoring._ChunkedLogprobs.apply(torch.ones(2, 5), head, torch.tensor([0, 4]), 0.7)
    assert torch.allclose(logprobs, torch.tensor(-math.log(7)), rtol=0, atol=1e-6)
    assert torch.allclose(entropy, torch.tensor(math.log(7)), rtol=0, atol=1e-6)
    assert first.tolist() == [1.0, 1.0]  # all lead


def test_scores_of_some_rows_are_those_rows_of_all_scores(base):
    packed = base.pack([Row("p", *pair) for pair in PAIRS])
    with torch.no_grad():
        hidden = base.forward(packed)
        whole, part = token_scores(base, hidden, packed), token_scores(base, hidden, packed, 1, 4)
    for all_rows, some in zip(whole, part, strict=True):
        assert torch.allclose(some, all_rows[1:4, :8], rtol=0, atol=1e-5)
        assert bool((some[0, 1:] == 0).all())


def test_no_gradient_reaches_anybody_when_nothing_is_scored(base):
    base.train("p")
    base.role("p").grad.zero_()
    packed = base.pack([Row("p", X)])
    token_scores(base, base.forward(packed), packed).logprobs.sum().backward()
    assert float(base.role("p").grad.abs().max()) == 0.0


def test_gradients_of_shared_tokens_are_the_same_bits_every_time(qwen3_folder):
    """Many rows continue one prompt, more numbers than torch adds up serially: order must not depend on the threads."""
    base = SharedBase.load(qwen3_folder, bits=32, device="cpu")
    base.add_role("x", Adapter(rank=4, alpha=8), seed=1)
    base.add_head("x", seed=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rows = [Row("x", (5, 6, 7), tuple(8 + (3 * i + t) % 40 for t in range(3))) for i in range(400)]
        packed = base.pack(rows)
        hidden = torch.randn(packed.n_tokens, base.hidden_size, generator=torch.Generator().manual_seed(0))
        assert len(packed.sources) * base.hidden_size > 2**15
        weights = torch.rand(400, 3, generator=torch.Generator().manual_seed(1))
        seen = set()
        for _ in range(20):
            h = hidden.clone().requires_grad_()
            read = token_scores(base, h, packed).logprobs + token_values(base, "x", h, packed)
            (read * weights).sum().backward()
            seen.add(h.grad.numpy().tobytes())
        assert len(seen) == 1
    finally:
        torch.set_num_threads(threads)
