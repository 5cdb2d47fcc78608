"""Reward models: margins, soft labels and weights; all pairs of a prompt; whole orders; ensembles."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lab.base import SharedBase
from lab.columns import DataError
from lab.config import Adapter, RewardConfig
from lab.events import Checked, Evaluated, Skipped, Updated
from lab.records import Message, Preference, Ranking
from lab.score import score
from lab.train import reward as R

WORDS = ("the broken clock", "a small boat", "every question", "the green door", "two apples", "an honest answer",
         "a difficult problem", "the weather of the island")  # fmt: skip
ENDS = ("with great care.", "after seven years.", "if you ask politely?", "and nobody knows why.")
SMALL = Adapter(rank=4, alpha=8)
CONFIG = RewardConfig(lr=1e-3, head_lr=1e-3, batch=4, epochs=1, eval_share=0.0, eval_every=0, probe_every=0,
                      save_every=0, centring=0.0)  # fmt: skip


def turn(text):
    return (Message("user", text),)


PROMPTS = [turn(f"My neighbour paints {w}.") for w in WORDS]
RANKED = [Ranking(x, ENDS[: 3 + i % 2], (1, 2, 3, 4)[: 3 + i % 2], row=i) for i, x in enumerate(PROMPTS)]
PAIRS = [Preference(x, ENDS[i % 3], ENDS[i % 3 + 1], row=i) for i, x in enumerate(PROMPTS)]


@pytest.fixture
def base(qwen3_folder):
    return SharedBase.load(qwen3_folder, bits=4, device="cpu")


def random_reward(base, name="reward", seed=5):
    """A reward role with weights that do something: the rewards of completions differ by about one."""
    base.add_role(name, SMALL, seed=seed)
    base.add_head(name, seed=seed)
    role = base.role(name)
    role.weights.add_(torch.randn(role.weights.shape, generator=torch.Generator().manual_seed(seed)) * 0.05)
    return role


def rewards_of(base, prompt, completions, role="reward"):
    """What the role says about these completions, each read alone."""
    rows = [tuple(map(tuple, base.chat.split(prompt, y))) for y in completions]
    return [float(score(base, [row], {role: "reward"})[role][0]) for row in rows]


def first_loss(base, records, config):
    """The loss of one update on all the records, and the state after it."""
    state = R.start(base, records, replace(config, batch=100))
    state.own()
    return R.update(state, R.draw(state, replace(config, batch=100)), config)["loss"], state


def pair(lead):
    return math.log1p(math.exp(-lead))


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_margin_label_weight_smoothing_and_centring_by_hand(base):
    """q = 0.9 p + 0.1 (1 − p); L = q log(1 + e^−z) + (1 − q) log(1 + e^z) + c (r_c + r_r)²; Σ w L / Σ w."""
    random_reward(base)
    more = [(0.5, 1.0, 1.0), (0.0, 0.75, 3.0), (0.25, 0.25, 0.5), (0.0, 1.0, 0.0)]
    records = [replace(p, margin=m, label=y, weight=w) for p, (m, y, w) in zip(PAIRS, more, strict=False)]
    total = 0.0
    for record in records:
        c, r = rewards_of(base, record.prompt, (record.chosen, record.rejected))
        z, q = c - r - record.margin, 0.9 * record.label + 0.1 * (1 - record.label)
        total += record.weight * (q * pair(z) + (1 - q) * pair(-z) + 0.05 * (c + r) ** 2)
    loss, _ = first_loss(base, records, replace(CONFIG, smoothing=0.1, centring=0.05))
    assert loss == pytest.approx(total / 4.5, abs=1e-5)


def test_a_pair_without_weight_teaches_nothing(qwen3_folder):
    def weights(records):
        base = SharedBase.load(qwen3_folder, bits=4, device="cpu")
        random_reward(base)
        _, state = first_loss(base, records, CONFIG)
        return state.role("reward").weights.clone()

    ignored = replace(PAIRS[3], weight=0.0)
    assert torch.allclose(weights([*PAIRS[:3], ignored]), weights(PAIRS[:3]), rtol=0, atol=2e-6)
    assert not torch.allclose(weights(PAIRS[:4]), weights(PAIRS[:3]), rtol=0, atol=1e-4)


def test_held_out_accuracy_goes_with_the_label(base):
    """Chosen is ahead by 1, 1, 1 and behind by 1. Labels 1 (right), ¼ (wrong), ½ (says nothing), 0 (right): 2 of 3."""
    figures = R._figures(torch.tensor([1.0, 1, 1, 0]), torch.tensor([0.0, 0, 0, 1]), torch.tensor([1, 0.25, 0.5, 0]))
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["margin"] == pytest.approx(1 / 3)
    assert figures["reward_mean"] == pytest.approx(0.5)
    assert figures["reward_std"] == pytest.approx(0.5)
    assert "accuracy" not in R._figures(torch.ones(1), torch.zeros(1), torch.tensor([0.5]))


# --- all pairs of a prompt -------------------------------------------------------------------------------------------


def test_a_prompt_is_one_element_however_many_pairs_it_has(base):
    """One prompt with the six pairs of four completions, one with a single pair: half the loss each."""
    random_reward(base)
    a, b, c, d = rewards_of(base, PROMPTS[0], ENDS)
    x, y = rewards_of(base, PROMPTS[1], ENDS[:2])
    six = (pair(a - b) + pair(a - c) + pair(a - d) + pair(b - c) + pair(b - d) + pair(c - d)) / 6
    records = [Ranking(PROMPTS[0], ENDS, (1, 2, 3, 4)), Preference(PROMPTS[1], *ENDS[:2])]
    loss, state = first_loss(base, records, replace(CONFIG, objective="kwise"))
    assert [len(e) for e in state.elements] == [6, 1]
    assert loss == pytest.approx((six + pair(x - y)) / 2, abs=1e-5)


def test_an_element_weighs_as_much_as_its_mean_pair(base):
    """Two pairs of one prompt with the weights 1 and 3, one of another with 2: (L₁ + 3 L₂) / 2 + 2 L₃, over 4."""
    random_reward(base)
    a, b, c = rewards_of(base, PROMPTS[0], ENDS[:3])
    x, y = rewards_of(base, PROMPTS[1], ENDS[:2])
    records = [Preference(PROMPTS[0], ENDS[0], ENDS[1], weight=1.0), Preference(PROMPTS[1], *ENDS[:2], weight=2.0),
               Preference(PROMPTS[0], ENDS[2], ENDS[0], weight=3.0)]  # fmt: skip
    loss, _ = first_loss(base, records, replace(CONFIG, objective="kwise"))
    assert loss == pytest.approx(((pair(a - b) + 3 * pair(c - a)) / 2 + 2 * pair(x - y)) / 4, abs=1e-5)


def test_a_completion_of_many_pairs_is_read_once(base, monkeypatch):
    seen = []
    plain = base.pack
    monkeypatch.setattr(type(base), "pack", lambda self, rows: seen.append(list(rows)) or plain(seen[-1]))
    first_loss(base, [Ranking(PROMPTS[0], ENDS, (1, 2, 3, 4))], replace(CONFIG, objective="kwise"))
    assert [len(rows) for rows in seen] == [4]


def test_a_prompt_is_seen_once_a_pass(base):
    state = R.start(base, RANKED, replace(CONFIG, objective="kwise", batch=3), adapter=SMALL)
    assert state.total == 3  # eight prompts, three at a time
    seen = []
    for state.step in range(3):
        seen += [e.pairs[0].chosen.prompt_ids for e in R.draw(state, replace(CONFIG, batch=3))]
    assert len(seen) == len(set(seen)) == 8


# --- orders ----------------------------------------------------------------------------------------------------------


def test_an_order_by_hand(base):
    """Σ_k (ln Σ_{j ≥ k} e^r_j − r_k) + c (2 r̄)²; the mean of an order of three and one of two (a preference)."""
    random_reward(base)
    a, b, c = rewards_of(base, PROMPTS[0], (ENDS[2], ENDS[0], ENDS[1]))
    x, y = rewards_of(base, PROMPTS[1], ENDS[:2])
    three = math.log(math.exp(a) + math.exp(b) + math.exp(c)) - a + math.log(math.exp(b) + math.exp(c)) - b
    centring = 0.05 * ((2 * (a + b + c) / 3) ** 2 + (x + y) ** 2)
    records = [Ranking(PROMPTS[0], ENDS[:3], (2, 3, 1)), Preference(PROMPTS[1], *ENDS[:2])]
    loss, _ = first_loss(base, records, replace(CONFIG, objective="plackett_luce", centring=0.05))
    assert loss == pytest.approx((three + pair(x - y) + centring) / 2, abs=1e-5)


def test_an_order_knows_no_margin(base):
    with pytest.raises(DataError, match="choose the objective bradley_terry or kwise"):
        R.start(base, [replace(PAIRS[0], margin=0.5)], replace(CONFIG, objective="plackett_luce"))


@pytest.mark.parametrize(
    ("objective", "records", "wanted"),
    [
        ("bradley_terry", PAIRS, math.log(2)),
        ("bradley_terry", [replace(p, label=0.7) for p in PAIRS], math.log(2)),
        ("bradley_terry", [replace(p, margin=1.0) for p in PAIRS], math.log(1 + math.e)),
        ("kwise", RANKED, math.log(2)),
        ("plackett_luce", RANKED, (math.log(6) + math.log(24)) / 2),  # as many orders of three as of four
    ],
)
def test_the_first_loss_is_that_of_equal_rewards(base, objective, records, wanted):
    config = replace(CONFIG, objective=objective, batch=8)
    seen = list(R.reward(R.start(base, records, config, adapter=SMALL), config))
    (loss,) = [e.metrics["loss"] for e in seen if isinstance(e, Updated)]
    (check,) = [e for e in seen if isinstance(e, Checked)]
    assert loss == pytest.approx(wanted, abs=1e-6)
    assert check.ok


@pytest.mark.parametrize("objective", ["kwise", "plackett_luce"])
def test_a_ranking_is_learnt(base, objective):
    """Four endings in the same order after every prompt, told apart after half of the prompts."""
    config = replace(CONFIG, objective=objective, lr=3e-3, head_lr=3e-3, epochs=12, batch=2, eval_share=0.5)
    state = R.start(base, [Ranking(x, ENDS, (1, 2, 3, 4)) for x in PROMPTS], config, adapter=SMALL)
    seen = list(R.reward(state, config))
    assert state.heldout
    assert [e.metrics["eval_accuracy"] for e in seen if isinstance(e, Evaluated)][-1] == 1.0
    order = rewards_of(base, state.texts[0].prompt, ENDS)
    assert order == sorted(order, reverse=True)


@pytest.mark.parametrize("objective", ["bradley_terry", "kwise", "plackett_luce"])
def test_an_update_does_not_depend_on_the_split_into_passes(qwen3_folder, objective):
    def weights(tokens):
        base = SharedBase.load(qwen3_folder, bits=4, device="cpu")
        random_reward(base)
        _, state = first_loss(base, RANKED[:4], replace(CONFIG, objective=objective, members=2, tokens_per_pass=tokens))
        return torch.cat([state.role(member).weights for member in state.trained])

    gaps = (weights(1) - weights(100_000)).abs()
    assert float((gaps > 1e-5).float().mean()) < 0.01  # Adam steps either way where a gradient is nothing but rounding


def test_what_cannot_be_used_is_named(base):
    tied = Ranking(PROMPTS[0], ENDS[:3], (1, 1, 2), row=41)
    equal = Ranking(PROMPTS[1], ENDS[:2], (3, 3), row=42)
    long = Preference(PROMPTS[2], "and nobody knows why " * 60, ENDS[0], row=43)
    config = replace(CONFIG, objective="plackett_luce", max_length=80)
    state = R.start(base, [*PAIRS, tied, equal, long], config, adapter=SMALL)
    skips = {e.reason: e.rows for e in R.reward(state, config) if isinstance(e, Skipped)}
    assert set(skips) == {"no strict order", "no completion is better than another", "longer than 80 tokens"}
    assert ["row 41" in skips["no strict order"][0], "row 42" in skips["no completion is better than another"][0],
            "row 43" in skips["longer than 80 tokens"][0]] == [True] * 3  # fmt: skip


def test_held_out_pairs_keep_their_texts_when_some_are_too_long(base):
    """Every ranking gives a pair with a completion that is too long; the pairs of one row share its number."""
    long = "and nobody knows why " * 60
    ranked = [Ranking(x, (*ENDS[:2], long), (1, 2, 3), row=i) for i, x in enumerate(PROMPTS)]
    state = R.start(base, ranked, replace(CONFIG, eval_share=0.5, max_length=80), adapter=SMALL)
    assert 0 < len(state.heldout) < 8
    for tokens, text in zip(state.heldout, state.texts, strict=True):
        x, y = base.chat.split(text.prompt, text.chosen)
        assert (tokens.chosen.prompt_ids, tokens.chosen.completion_ids) == (tuple(x), tuple(y))
        assert (text.chosen, text.rejected) == ENDS[:2]


# --- ensembles -------------------------------------------------------------------------------------------------------


def test_a_member_learns_what_it_would_learn_alone(qwen3_folder):
    """The second of two members, against a run of its own with its seed. Its rows pass the base with the other's."""
    config = replace(CONFIG, seed=3, epochs=2, standardise=False, centring=0.01)
    config = replace(config, bootstrap=False)
    together = R.start(SharedBase.load(qwen3_folder, bits=4, device="cpu"), PAIRS, replace(config, members=2),
                       role="judge", adapter=SMALL)  # fmt: skip
    assert together.roles == {"reward": "judge", "reward-1": "judge-1"}
    metrics = [e.metrics for e in R.reward(together, replace(config, members=2)) if isinstance(e, Updated)]
    losses = []
    for member, seed in (("reward", 3), ("reward-1", 1003)):
        own = replace(config, seed=seed)
        alone = R.start(SharedBase.load(qwen3_folder, bits=4, device="cpu"), PAIRS, own, adapter=SMALL)
        losses.append([e.metrics["loss"] for e in R.reward(alone, own) if isinstance(e, Updated)])
        gaps = (together.role(member).weights - alone.role("reward").weights).abs()
        assert float((gaps > 1e-5).float().mean()) < 0.01
    assert float((together.role("reward").weights - together.role("reward-1").weights).abs().max()) > 1e-2
    assert [m["loss"] for m in metrics] == pytest.approx([(a + b) / 2 for a, b in zip(*losses, strict=True)], abs=1e-5)


def test_every_member_is_standardised_on_the_same_completions(base):
    config = replace(CONFIG, members=3, epochs=3, eval_share=0.5)
    state = R.start(base, PAIRS, config, adapter=SMALL)
    for _ in R.reward(state, config):
        pass
    rewards = torch.cat(R.heldout_rewards(state, config), dim=1)
    assert rewards.shape == (3, 2 * len(state.heldout))
    assert rewards.mean(1).tolist() == pytest.approx([0] * 3, abs=1e-4)
    assert rewards.std(1, correction=0).tolist() == pytest.approx([1] * 3, abs=1e-4)
    for own, member in zip(rewards.tolist(), ("reward", "reward-1", "reward-2"), strict=True):
        alone = [rewards_of(base, p.prompt, (p.chosen, p.rejected), member) for p in state.texts]
        assert own == pytest.approx([c for c, _ in alone] + [r for _, r in alone], abs=1e-4)


def test_figures_of_an_ensemble(base):
    """Accuracy is the members' mean; the ensemble's is that of their mean reward; disagreement is their spread."""
    config = replace(CONFIG, members=2, eval_share=0.5)
    for name, seed in (("reward", 5), ("reward-1", 6)):
        random_reward(base, name, seed)
    state = R.start(base, PAIRS, config)
    figures = R.evaluate(state, config).metrics
    read = [[rewards_of(base, p.prompt, (p.chosen, p.rejected), member) for p in state.texts]
            for member in ("reward", "reward-1")]  # fmt: skip
    right = [[c > r for c, r in own] for own in read]
    n = len(state.texts)
    assert figures["eval_accuracy"] == pytest.approx(sum(map(sum, right)) / (2 * n))
    means = [(a + b, c + d) for (a, c), (b, d) in zip(*read, strict=True)]
    assert figures["ensemble_accuracy"] == pytest.approx(sum(c > r for c, r in means) / n)
    gaps = [abs(x - y) / 2 for one, other in zip(*read, strict=True) for x, y in zip(one, other, strict=True)]
    assert figures["disagreement"] == pytest.approx(sum(gaps) / (2 * n), abs=1e-4)
    assert figures["eval_loss"] == pytest.approx(sum(pair(c - r) for own in read for c, r in own) / (2 * n), abs=1e-4)


def test_each_member_learns_from_a_draw_with_replacement_of_its_own(base):
    """Over one pass: as many elements as there are, some twice, about 1 − 1/e of them at all; no two members alike."""
    config = replace(CONFIG, members=2, eval_share=0.0)
    state = R.start(base, PAIRS, config)
    seen = {"reward": [], "reward-1": []}
    total = state.total
    for state.step in range(total):
        for element in R.draw(state, config):
            seen[element.member] += [p.row for p in element.pairs]
    n = len(state.elements)
    assert [len(rows) for rows in seen.values()] == [n, n]
    assert sorted(seen["reward"]) != sorted(seen["reward-1"])
    assert all(0.4 * n < len(set(rows)) < 0.9 * n for rows in seen.values())
    plain = replace(config, bootstrap=False)
    for state.step in range(total):
        assert len({p.row for e in R.draw(state, plain) if e.member == "reward" for p in e.pairs}) == len(
            [e for e in R.draw(state, plain) if e.member == "reward"])  # fmt: skip


def test_members_of_a_role_on_the_base_start_as_its_copies(base):
    random_reward(base, "judge")
    state = R.start(base, PAIRS, replace(CONFIG, members=2), role="judge")
    assert torch.equal(base.role("judge-1").weights, base.role("judge").weights)
    state.own()
    assert [name for name, role in base.roles.items() if role.trained] == ["judge", "judge-1"]


def test_an_ensemble_resumes_bit_for_bit(qwen3_folder, tmp_path):
    config = replace(CONFIG, members=2, objective="kwise", epochs=2, eval_share=0.2)

    def fresh():
        return R.start(SharedBase.load(qwen3_folder, bits=4, device="cpu"), RANKED, config, adapter=SMALL)

    straight, stopped, resumed = fresh(), fresh(), fresh()
    wanted = [e.metrics for e in R.reward(straight, config) if isinstance(e, Updated)]
    for event in R.reward(stopped, config):
        if isinstance(event, Updated):
            break
    stopped.save(tmp_path)
    resumed.load(tmp_path)
    again = [e.metrics for e in R.reward(resumed, config) if isinstance(e, Updated)]
    assert again == wanted[1:]
    for member in ("reward", "reward-1"):
        mine, theirs = resumed.role(member), straight.role(member)
        assert (mine.digest(), mine.mean, mine.spread) == (theirs.digest(), theirs.mean, theirs.spread)
