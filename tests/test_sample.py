"""Sampling: against transformers' generate, against scoring, and what the noise depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lab.base import RAW, SharedBase
from lab.config import Adapter
from lab.decode import Decoder
from lab.pack import Row
from lab.sample import SampleError, sample, stream
from lab.saving import save_role
from lab.score import score
from tests.models import FAMILIES, build_model
from tests.padded import plain_model

PROMPTS = ["Who explains the weather of the island?", "No", "A small boat in the morning", "Somebody paints"]


def trained_role(base, name, seed):
    """A role whose weights are all from N(0, 0.05²)."""
    role = base.add_role(name, Adapter(rank=8, alpha=16), seed=seed)
    role.weights.copy_(torch.randn(role.weights.numel(), generator=torch.Generator().manual_seed(seed)) * 0.05)


def with_stops(base, n):
    """The first n tokens of the vocabulary end a completion: random models then stop after V / n tokens on average."""
    base.chat = replace(base.chat, stop_ids=frozenset(range(n)))


@pytest.fixture
def base(qwen3_folder):
    base = SharedBase.load(qwen3_folder, bits=4, device="cpu")
    trained_role(base, "p", 1)
    trained_role(base, "q", 2)
    with_stops(base, 60)
    return base


def greedy_by_transformers(model, prompts, stops, n):
    """Completions of transformers' own generate on a left-padded batch, cut after the first stop token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=n, pad_token_id=0,
                         eos_token_id=sorted(stops))[:, width:].tolist()  # fmt: skip
    ends = [next((t + 1 for t, token in enumerate(row) if token in stops), len(row)) for row in out]
    return [tuple(row[:end]) for row, end in zip(out, ends, strict=True)]


@pytest.mark.parametrize(("family", "changes"), [
    ("llama", {}), ("qwen3", {}), ("gemma3", {}), ("gemma3", {"sliding_window": 7}), ("mistral", {"sliding_window": 7}),
])  # fmt: skip
def test_greedy_is_what_transformers_generates(family, changes, tmp_path):
    folder = build_model(tmp_path / "model", family, **changes)
    base = SharedBase.load(folder, bits=32, device="cpu")
    trained_role(base, "p", 1)
    with_stops(base, 20)
    rollouts = sample(base, PROMPTS, ("p",), temperature=0, max_new_tokens=24)
    model = plain_model(folder, adapter=save_role(base, "p", tmp_path / "p"))
    theirs = greedy_by_transformers(model, [r.prompt_ids for r in rollouts], base.chat.stop_ids, 24)
    assert [r.completion_ids for r in rollouts] == theirs
    if family != "gemma3":  # whose random weights repeat one token
        assert len({len(c) for c in theirs}) > 1  # some rows end before others


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_the_samplers_log_probabilities_are_those_of_scoring(base, temperature):
    rollouts = sample(base, PROMPTS, ("p", "q"), temperature=temperature, max_new_tokens=20, seed=3, per_prompt=2)
    assert len({len(r.completion_ids) for r in rollouts}) > 3
    for role in ("p", "q"):
        mine = [r for r in rollouts if r.role == role]
        scored = score(base, [(r.prompt_ids, r.completion_ids) for r in mine], {role: "logprobs"}, temperature)[role]
        for i, r in enumerate(mine):
            assert torch.allclose(torch.tensor(r.logprobs), scored[i, : len(r.logprobs)], rtol=0, atol=1e-5)


def test_sliding_windows_have_the_same_log_probabilities_in_sampling_and_scoring(tmp_path):
    base = SharedBase.load(build_model(tmp_path, "gemma3", sliding_window=6), bits=32, device="cpu")
    (r,) = sample(base, [PROMPTS[0]], temperature=0.9, max_new_tokens=20, seed=1)
    assert len(r.completion_ids) == 20
    scored = score(base, [(r.prompt_ids, r.completion_ids)], {RAW: "logprobs"}, 0.9)[RAW]
    assert torch.allclose(torch.tensor(r.logprobs), scored[0], rtol=0, atol=1e-5)


def test_greedy_takes_the_most_probable_token_and_reports_its_probability_at_temperature_one(base):
    (r,) = sample(base, PROMPTS[:1], ("p",), temperature=0, max_new_tokens=5)
    packed = base.pack([Row("p", r.prompt_ids, r.completion_ids)])
    logp = base.logits(base.forward(packed)[packed.sources]).log_softmax(-1)
    assert logp.argmax(-1).tolist() == list(r.completion_ids)
    assert torch.allclose(logp.amax(-1), torch.tensor(r.logprobs), rtol=0, atol=1e-5)


# ── the noise ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_roles_that_are_equal_draw_the_same_tokens(base):
    base.fork("p", "twin")
    rollouts = sample(base, PROMPTS, ("p", "twin"), seed=5, max_new_tokens=16, per_prompt=2)
    p, twin = ([r.completion_ids for r in rollouts if r.role == role] for role in ("p", "twin"))
    assert p == twin
    assert len(set(p)) == len(p)  # the rows themselves have different noise


def test_one_more_role_changes_nobodys_tokens(base):
    together = sample(base, PROMPTS, ("p", RAW, "q"), seed=5, max_new_tokens=16)
    for role in ("p", RAW, "q"):
        alone = sample(base, PROMPTS, (role,), seed=5, max_new_tokens=16)
        mine = [r for r in together if r.role == role]
        assert [r.completion_ids for r in mine] == [r.completion_ids for r in alone]
        for a, b in zip(mine, alone, strict=True):
            assert torch.allclose(torch.tensor(a.logprobs), torch.tensor(b.logprobs), rtol=0, atol=1e-5)


def test_frequencies_are_the_probabilities(base):
    """4000 first tokens at T = 1: each share within five standard errors of its probability."""
    n = 4000
    (drawn,) = stream(base, [(5, 6, 7)] * n, ("p",), max_new_tokens=1, seed=9)
    counts = torch.bincount(torch.tensor([token for _, token, _, _ in drawn.tokens]), minlength=640)
    packed = base.pack([Row("p", (5, 6, 7))])
    with torch.no_grad():
        probabilities = base.logits(base.forward(packed)[packed.last[0]]).softmax(-1)
    error = (probabilities * (1 - probabilities) / n).sqrt() + 1 / n
    assert bool(((counts / n - probabilities).abs() < 5 * error).all())


def test_the_seed_decides_and_the_global_random_state_is_left_alone(base):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = sample(base, PROMPTS, ("p",), seed=(3, 1), max_new_tokens=12)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert sample(base, PROMPTS, ("p",), seed=(3, 1), max_new_tokens=12) == first
    assert sample(base, PROMPTS, ("p",), seed=(3, 2), max_new_tokens=12) != first
    assert sample(base, PROMPTS, ("p",), seed=(1, 3), max_new_tokens=12) != first


# ── rows, ends, streaming ────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_come_role_by_role_prompt_by_prompt_copy_by_copy(base):
    rollouts = sample(base, PROMPTS[:2], ("q", "p"), max_new_tokens=3, per_prompt=3)
    assert [r.role for r in rollouts] == ["q"] * 6 + ["p"] * 6
    assert [r.prompt for r in rollouts] == ([PROMPTS[0]] * 3 + [PROMPTS[1]] * 3) * 2
    for r in rollouts:
        assert r.prompt_ids == tuple(base.chat.encode_prompt(r.prompt))


def test_streaming_is_sampling_step_by_step(base):
    settings = {"temperature": 0.9, "max_new_tokens": 14, "seed": 4, "per_prompt": 2}
    rollouts = sample(base, PROMPTS, ("p", "q"), **settings)
    rows = [[] for _ in rollouts]
    prompts = [tuple(base.chat.encode_prompt(p)) for p in PROMPTS]
    for step, drawn in enumerate(stream(base, prompts, ("p", "q"), **settings)):
        assert drawn.step == step
        for row, token, logprob, ended in drawn.tokens:
            assert len(rows[row]) == step  # a row that ended is never heard of again
            rows[row].append((token, logprob, ended))
    for row, r in zip(rows, rollouts, strict=True):
        assert tuple(token for token, _, _ in row) == r.completion_ids
        assert tuple(logprob for _, logprob, _ in row) == r.logprobs
        assert row[-1][2] == r.ended


def test_a_completion_ends_with_its_first_stop_token_or_is_cut(base):
    rollouts = sample(base, PROMPTS, ("p",), seed=2, max_new_tokens=12, per_prompt=8)
    assert {r.ended for r in rollouts} == {True, False}
    for r in rollouts:
        assert not any(token in base.chat.stop_ids for token in r.completion_ids[:-1])
        assert r.ended == (r.completion_ids[-1] in base.chat.stop_ids)
        assert len(r.completion_ids) == 12 or r.ended
        assert len(r.logprobs) == len(r.completion_ids)
        assert r.completion == base.chat.decode(r.completion_ids)


def test_a_generator_left_early_leaves_gradients_as_they_were(base):
    base.train("p")
    steps = stream(base, [(5, 6, 7)], ("p",), max_new_tokens=8)
    next(steps)
    assert torch.is_grad_enabled()
    packed = base.pack([Row("p", (5, 6))])
    assert base.forward(packed).requires_grad


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_window_cuts_a_completion_and_refuses_a_prompt_without_room(tmp_path, temperature):
    base = SharedBase.load(build_model(tmp_path, "llama", max_position_embeddings=16), bits=32, device="cpu")
    base.chat = replace(base.chat, stop_ids=frozenset())
    with pytest.raises(SampleError, match=r"16 tokens and the model's window is 16"):
        next(stream(base, [(5,) * 16]))
    with pytest.raises(SampleError, match="no prompt"):
        next(stream(base, []))
    with pytest.raises(SampleError, match="no prompt"):
        next(stream(base, [(5,), ()]))
    whole = list(stream(base, [(5,) * 10, (6,) * 4], max_new_tokens=50, temperature=temperature))
    lengths = [sum(row == r for drawn in whole for row, *_ in drawn.tokens) for r in (0, 1)]
    assert lengths == [6, 12]


# ── the lean step ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lean_step_is_used_where_it_is_the_models_own(family, tmp_path):
    base = SharedBase.load(build_model(tmp_path / family, family), bits=4, device="cpu")
    for name in ("p", "q"):
        trained_role(base, name, len(name))
    rollouts = sample(base, PROMPTS, ("p", "base", "q"), max_new_tokens=8, seed=1)
    assert (base.lean is True) == (family not in ("gemma3", "phi3"))
    base.lean = False
    for mine, theirs in zip(rollouts, sample(base, PROMPTS, ("p", "base", "q"), max_new_tokens=8, seed=1), strict=True):
        assert mine.completion_ids == theirs.completion_ids
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_the_lean_step_needs_weights_as_matrices(bits, qwen3_folder):
    base = SharedBase.load(qwen3_folder, bits=bits, device="cpu")
    trained_role(base, "p", 1)
    sample(base, PROMPTS, ("p",), max_new_tokens=4, seed=1)
    assert base.lean is (None if bits == 8 else True)


def test_an_adapter_on_some_layers_only(qwen3_folder):
    base = SharedBase.load(qwen3_folder, bits=4, device="cpu", dense=False)
    base.add_role("p", Adapter(rank=4, targets="attention"))
    base.role("p").weights.normal_(0, 0.3)
    lean = sample(base, PROMPTS, ("p",), max_new_tokens=8, seed=1)
    assert base.lean
    base.lean = False
    assert [r.completion_ids for r in lean] == [r.completion_ids for r in sample(base, PROMPTS, ("p",),
                                                                                max_new_tokens=8, seed=1)]  # fmt: skip


def test_a_step_that_differs_is_refused(qwen3_folder, monkeypatch):
    base = SharedBase.load(qwen3_folder, bits=4, device="cpu")
    base.lean = False
    right = sample(base, PROMPTS, max_new_tokens=8, seed=1)
    step = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda *given: step(*given) + 1e-2)
    base.lean = None
    assert sample(base, PROMPTS, max_new_tokens=8, seed=1) == right
    assert base.lean is False
