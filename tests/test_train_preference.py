"""Preference optimisation and learning from thumbs: first losses, splits, the reference's memory, labels, resume."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lab.base import SharedBase
from lab.columns import DataError
from lab.config import Adapter, ConfigError, KTOConfig, PreferenceConfig
from lab.events import Checked, Evaluated, Probed, Updated
from lab.objectives.preference import OBJECTIVES
from lab.pack import Row
from lab.probes import Probes
from lab.records import Message, Preference, Rating
from lab.score import score
from lab.train import preference as D
from lab.train import unpaired as K

WORDS = ("the broken clock", "a small boat", "every question", "the green door", "two apples", "an honest answer",
         "a difficult problem", "the weather of the island")  # fmt: skip


def turn(text):
    return (Message("user", text),)


PAIRS = [Preference(turn(f"My neighbour {v} {w}."), "with great care.", "after seven years " * (1 + i % 3), row=i)
         for i, (v, w) in enumerate((v, w) for v in ("paints", "finds", "thanked") for w in WORDS)]  # fmt: skip
THUMBS = [Rating(p.prompt, y, liked, row=i) for i, (p, liked, y) in enumerate(
    (p, liked, p.chosen if liked else p.rejected) for p in PAIRS for liked in (True, False))]  # fmt: skip
SMALL = Adapter(rank=4, alpha=8)
DPO = PreferenceConfig(lr=1e-3, batch=6, eval_share=0.2, eval_every=2, probe_every=2, save_every=0, warmup=0.0)
KTO = KTOConfig(lr=1e-3, batch=6, eval_share=0.2, eval_every=4, probe_every=0, save_every=0, warmup=0.0, epochs=0.5)


def load(folder):
    base = SharedBase.load(folder, bits=4, device="cpu")
    base.add_role("policy", SMALL, seed=1)
    role = base.role("policy")
    role.weights.add_(torch.randn(role.weights.shape, generator=torch.Generator().manual_seed(2)) * 0.02)
    return base


@pytest.fixture
def base(qwen3_folder):
    return load(qwen3_folder)


def dpo_state(base, config=DPO, pairs=PAIRS):
    return D.start(base, pairs, config, probes=Probes((turn("Nobody describes two apples."),), 8))


def kto_state(base, config=KTO, ratings=THUMBS):
    return K.start(base, ratings, config)


def metrics(run):
    return [e.metrics for e in run if isinstance(e, Updated)]


# --- pairs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "first"), [
    ("dpo", math.log(2)), ("hinge", 1.0), ("ipo", 25.0), ("nca", 2 * math.log(2)), ("sppo", 500_000.0),
    ("0.5*dpo + 0.5*hinge", (math.log(2) + 1) / 2),
])  # fmt: skip
def test_the_first_loss_is_that_of_a_policy_that_is_its_reference(base, objective, first):
    """IPO: (1 / 2τ)² at τ = 0.1. SPPO: 2 · (1 / 2β)² at β = 0.001."""
    config = replace(DPO, objective=objective, beta=None, eval_every=0, probe_every=0, epochs=0.25)
    seen = list(D.preference(dpo_state(base, config), config))
    checks = [e for e in seen if isinstance(e, Checked)]
    assert metrics(seen)[0]["loss"] == pytest.approx(first, rel=1e-5)
    assert {c.name for c in checks} == {"first loss", "first log-ratio", "frozen roles", "gradient"}
    assert all(c.ok for c in checks), [c for c in checks if not c.ok]


def test_simpo_needs_no_reference_and_starts_where_the_arithmetic_says(base):
    """−log σ(β (l_c / T_c − l_r / T_r) − γ), row by row, from `score`."""
    config = replace(DPO, objective="simpo", beta=2.0, gamma=0.5, epochs=0.25)
    state = dpo_state(base, config)
    first = D._rows(state, config, 0)
    expected = []
    for i in first:
        pair = state.pairs[i]
        sides = [(r.prompt_ids, r.completion_ids) for r in (pair.chosen, pair.rejected)]
        sums = score(base, sides, {"policy": "logprobs"})["policy"].sum(1)
        z = 2 * float(sums[0] / len(sides[0][1]) - sums[1] / len(sides[1][1])) - 0.5
        expected.append(math.log1p(math.exp(-z)))
    seen = metrics(D.preference(state, config))
    assert seen[0]["loss"] == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert bool(state.memory[D.KNOWN].isnan().all()), "nobody asked the reference"


def test_training_prefers_the_chosen_and_reports_every_phase(base):
    config = replace(DPO, lr=5e-3, epochs=6)
    state = dpo_state(base, config)
    seen = list(D.preference(state, config))
    evaluations = [e for e in seen if isinstance(e, Evaluated)]
    assert evaluations[0].metrics["eval_accuracy"] == 0.5, "all rewards are 0 at the reference: every pair is a tie"
    assert evaluations[-1].metrics["eval_accuracy"] == 1.0
    assert evaluations[-1].metrics["eval_margin"] > 0.2
    assert [e.step for e in seen if isinstance(e, Probed)] == [0, *range(2, state.total, 2), state.total]
    assert all(s.kl is not None for s in seen[-1].samples)


@pytest.mark.parametrize("objective", ["dpo", "orpo", "aot"])
@pytest.mark.parametrize("tokens", [1, 90])
def test_an_update_does_not_depend_on_the_split_into_passes(qwen3_folder, objective, tokens):
    """AOT sorts over the whole batch, so a part of the batch alone would have another loss."""

    def played(tokens_per_pass):
        config = replace(DPO, objective=objective, beta=None, tokens_per_pass=tokens_per_pass)
        state = dpo_state(load(qwen3_folder), config)
        state.own()
        seen = [D.update(state, range(6), config)["loss"] for state.step in range(3)]
        return seen, state.role("policy").weights.clone()

    (losses, mine), (whole, theirs) = played(tokens), played(100_000)
    assert losses == pytest.approx(whole, rel=1e-5)
    assert float((mine - theirs).abs().max()) < 2e-5


def test_precomputed_and_live_references_are_bitwise_the_same(qwen3_folder):
    """Over two passes of the data: a pair is scored once, in the batch that first uses it."""
    seen = []
    for reference in ("live", "precomputed"):
        config = replace(DPO, reference=reference, epochs=2.3)
        state = dpo_state(load(qwen3_folder), config)
        seen.append((metrics(D.preference(state, config)), state.role("policy").digest(), state.memory[D.KNOWN]))
    assert seen[0][:2] == seen[1][:2]
    assert torch.equal(seen[0][2], seen[1][2])
    assert not bool(seen[0][2].isnan().any())


def test_the_reference_is_the_start_before_during_and_after(base):
    start = base.role("policy").weights.clone()
    state = dpo_state(base)
    pair = state.pairs[0]
    own = score(base, [(pair.chosen.prompt_ids, pair.chosen.completion_ids)], {"policy": "logprobs"})["policy"].sum()
    for _ in D.preference(state, DPO):
        pass
    assert torch.equal(base.role("reference").weights, start)
    assert float((base.role("policy").weights - start).abs().max()) > 1e-4
    assert float(state.memory[D.KNOWN][0, 0]) == pytest.approx(float(own), abs=1e-4)


def test_a_label_of_one_half_teaches_nothing_and_weights_leave_rows_out(base):
    """p L(c, r) + (1 − p) L(r, c) with p = ½ has no slope at the reference; a weight of 0 is a row left out."""
    half = dpo_state(base, DPO, [replace(p, label=0.5) for p in PAIRS])
    half.own()
    out = D.update(half, range(6), DPO)
    assert out["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert out["grad_norm"] < 1e-4
    base.drop("reference")
    state = dpo_state(base, DPO, [replace(p, weight=float(i % 2)) for i, p in enumerate(PAIRS)])
    state.own()
    counted = [i for i in range(6) if state.pairs[i].weight]
    first = D.update(state, range(6), replace(DPO, lr=0.0))
    second = D.update(state, counted, replace(DPO, lr=0.0))
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-4)


def test_every_objective_trains_in_one_packed_tree(base, monkeypatch):
    """Chosen and rejected share their prompt's tokens: N = prompt + both completions."""
    state = dpo_state(base, replace(DPO, batch=1))
    packs = []
    plain = base.pack
    monkeypatch.setattr(base, "pack", lambda rows: packs.append(plain(list(rows))) or packs[-1])
    D._read(state, "policy", [state.pairs[0]])
    pair = state.pairs[0]
    assert packs[0].n_tokens == len(pair.chosen.ids) + len(pair.rejected.completion_ids)
    assert Row("policy", pair.chosen.prompt_ids).prompt == pair.rejected.prompt_ids
    before = base.role("policy").weights.clone()
    for name in OBJECTIVES:
        config = replace(DPO, objective=name, beta=None)
        base.role("policy").weights.copy_(before)
        fresh = D.PreferenceState(base, state.roles, ("policy",), 1, memory={D.KNOWN: state.memory[D.KNOWN].clone()},
                                  pairs=state.pairs)  # fmt: skip
        fresh.own()
        assert D.update(fresh, range(4), config)["grad_norm"] > 0, name


def test_settings_that_cannot_work_are_refused_with_the_reason():
    for settings, words in (
        ({"objective": "ipox"}, "There is no objective 'ipox'; choose one of dpo, cdpo, "),
        ({"objective": "0.5*dpo + 0.2*nll"}, "sum to 0.7, not to 1; divided by their sum: 0.714286"),
        ({"beta": 0.0}, "beta is 0; it must be above 0"),
        ({"objective": "robust", "smoothing": 0.5}, "so it must be below 0.5"),
        ({"gamma": 0.5}, "gamma is given, but dpo does not read it"),
    ):
        with pytest.raises(ConfigError, match=words):
            PreferenceConfig(**settings)
    assert PreferenceConfig(objective="simpo").gamma == OBJECTIVES["simpo"].knobs.gamma
    with pytest.raises(ConfigError, match="a batch needs at least 2 rows"):
        KTOConfig(batch=1)


# --- thumbs --------------------------------------------------------------------------------------------------------


def test_kto_starts_at_one_half_with_a_zero_point_of_0(base):
    """1 − σ(0) = ½, times the weight that balances the kinds: 1 for as many of each."""
    seen = list(K.unpaired(kto_state(base), KTO))
    checks = {c.name: c for c in seen if isinstance(c, Checked)}
    assert all(c.ok for c in checks.values()), checks
    assert metrics(seen)[0]["loss"] == pytest.approx(0.5, abs=1e-5)
    assert metrics(seen)[0]["baseline"] == pytest.approx(0.0, abs=1e-5)


def test_the_zero_point_comes_from_other_rows_prompts(base):
    state = kto_state(base)
    batch = [*state.ratings[:5], state.ratings[0]]
    strangers = K.mismatched(batch)
    assert len(strangers) == 6
    by_prompt = {r.tokens.prompt_ids: {x.tokens.completion_ids for x in batch if x.tokens.prompt_ids ==
                                       r.tokens.prompt_ids} for r in batch}  # fmt: skip
    own = {(r.tokens.prompt_ids, r.tokens.completion_ids) for r in state.ratings}
    assert all(prompt in by_prompt for prompt, _ in strangers)
    assert K.mismatched([state.ratings[0]] * 3) == []
    # a policy that moved away: the zero point is the mean log-ratio of those rows, or 0
    base.role("policy").weights.mul_(1.5)
    want = {"policy": "logprobs", "reference": "logprobs"}
    known = score(base, strangers, want)
    mean = float((known["policy"].sum(1) - known["reference"].sum(1)).mean())
    assert float(K.zero_point(state, batch, KTO)) == pytest.approx(max(0.0, mean), abs=1e-5)
    assert own


def test_kto_learns_from_thumbs_alone(base):
    config = replace(KTO, lr=5e-3, epochs=4)
    seen = list(K.unpaired(kto_state(base, config), config))
    last = [e for e in seen if isinstance(e, Evaluated)][-1].metrics
    assert last["eval_accuracy"] > 0.7
    assert last["eval_reward_liked"] > last["eval_reward_disliked"] + 0.2


@pytest.mark.parametrize("objective", ["kto", "bco"])
def test_an_update_on_thumbs_does_not_depend_on_the_split(qwen3_folder, objective):
    def played(tokens):
        config = replace(KTO, objective=objective, beta=0.1, tokens_per_pass=tokens)
        state = kto_state(load(qwen3_folder), config)
        state.own()
        seen = [K.update(state, range(6), config)["loss"] for state.step in range(3)]
        return seen, state.role("policy").weights.clone()

    (losses, mine), (whole, theirs) = played(1), played(100_000)
    assert losses == pytest.approx(whole, rel=1e-5)
    assert float((mine - theirs).abs().max()) < 2e-5


def test_thumbs_of_one_kind_or_one_prompt_are_refused(base):
    with pytest.raises(DataError, match="No completion is disliked; ratings of one kind alone teach nothing"):
        kto_state(base, ratings=[r for r in THUMBS if r.liked])
    with pytest.raises(DataError, match="No completion is liked"):
        kto_state(base, ratings=[r for r in THUMBS if not r.liked])
    with pytest.raises(DataError, match="All rows have the same prompt"):
        kto_state(base, replace(KTO, eval_share=0.0), [replace(r, prompt=turn("One apple.")) for r in THUMBS])


def test_three_liked_for_each_disliked_are_balanced(base):
    """λ_D n_D / (λ_U n_U) ≤ 4/3 (KTO, eq. 8): 3 to 1 needs λ_U = 9/4."""
    kept = [r for i, r in enumerate(THUMBS) if r.liked or i % 6 == 1]
    state = kto_state(base, replace(KTO, eval_share=0.0), kept)
    assert (state.numbers["liked_weight"], state.numbers["disliked_weight"]) == (1.0, 2.25)


# --- exact resume --------------------------------------------------------------------------------------------------

STORIES = {
    "dpo": (D.preference, replace(DPO, epochs=2), dpo_state),
    "kto": (K.unpaired, replace(KTO, epochs=1.2), kto_state),
    "bco": (K.unpaired, replace(KTO, objective="bco", beta=0.1, epochs=1.2), kto_state),
}


@pytest.mark.parametrize("method", STORIES)
def test_resuming_equals_never_stopping_bit_for_bit(method, qwen3_folder, tmp_path):
    story, config, start = STORIES[method]
    straight = start(load(qwen3_folder), config)
    wanted = metrics(story(straight, config))
    stopped = start(load(qwen3_folder), config)
    for event in story(stopped, config):
        if isinstance(event, Updated) and event.step == 3:
            break
    stopped.save(tmp_path)
    resumed = start(load(qwen3_folder), config)
    resumed.load(tmp_path)
    assert metrics(story(resumed, config)) == wanted[3:]
    assert resumed.role("policy").digest() == straight.role("policy").digest()
    assert resumed.numbers == straight.numbers
