"""The tabular world: its own truth by hand, the lab's own code against it, and methods that reach it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lab.base import RAW
from lab.config import GroupConfig, PPOConfig, PreferenceConfig, RewardConfig, SFTConfig
from lab.events import Checked, Updated
from lab.feedback.rewards import Rewards
from lab.objectives import token_weights, weighted_sum
from lab.pack import Row
from lab.sample import sample
from lab.saving import AdapterError, load_role, save_role
from lab.score import score, token_scores
from lab.tabular import (
    TabularError,
    TabularWorld,
    expected,
    forecasts,
    kl,
    objective,
    sentences,
    total_variation,
)
from lab.train import group as G
from lab.train import ppo as P
from lab.train import preference as D
from lab.train import reward as R
from lab.train import sft as S

CHI2 = 31.26
"""The 99.9 % quantile of χ² with 11 degrees of freedom: twelve completions."""

BETA = 0.3
QUIET = {"probe_every": 0, "save_every": 0, "tokens_per_pass": 1 << 16}


def small():
    """One prompt and three completions: π(x) = ½, π(y) = π(x y) = ¼."""
    return TabularWorld.of(["a ?"], ["x", "y", "x y"], [[0.5, 0.25, 0.25]])


def moved(world, name="policy", size=0.3, seed=0, head=False):
    """A role whose weights do something."""
    role = world.base.add_role(name, world.adapter)
    if head:
        world.base.add_head(name)
    role.weights.add_(torch.randn(role.weights.shape, generator=torch.Generator().manual_seed(seed)) * size)
    return role


def liked(world):
    """A point for rain, half a point for every sun, and 0.3 off for each word; a winter's snow is worth one more."""
    return world.rewards(lambda x, y: ("rain" in y) + 0.5 * y.count("sun") - 0.3 * len(y.split())
                         + (x == "winter?") * ("snow" in y))  # fmt: skip


def counted(world, prompts, completions):
    """(P, C) how often each completion was said to each prompt."""
    n = torch.zeros(len(world.prompts), len(world.completions), dtype=torch.float64)
    for x, y in zip(prompts, completions, strict=True):
        n[world.prompts.index(x), world.completions.index(y)] += 1
    return n


def played(run):
    """The metrics of every step of a run whose invariants all hold."""
    seen = list(run)
    assert [c for c in seen if isinstance(c, Checked) and not c.ok] == []
    return [e.metrics for e in seen if isinstance(e, Updated)]


# --- the truth, by hand ----------------------------------------------------------------------------


def test_the_base_says_what_the_world_was_made_with():
    world = forecasts()
    summer = dict(zip(world.completions, world.distribution()[0].tolist(), strict=True))
    assert len(summer) == 3 + 9
    assert summer["sun"] == pytest.approx(0.6 / 2)
    assert summer["sun rain"] == pytest.approx(0.6 * 0.3 / 2)
    assert summer["snow snow"] == pytest.approx(0.1 * 0.1 / 2)
    assert world.distribution().sum(1).tolist() == pytest.approx([1.0] * 3)


def test_a_role_that_doubles_the_odds_of_a_word():
    """First word: x with 0.75, y with 0.25 · 2, so 0.6 and 0.4. After x the end has 2/3 as before."""
    world = small()
    role = world.base.add_role("policy", world.adapter)
    a, b = role.parameters
    with torch.no_grad():
        a.zero_()
        a[0, world.contexts[world.prompt_ids[0]]] = 1.0
        b[world.completion_ids[1][0], 0] = math.log(2) * role.rank / role.alpha
    assert world.distribution("policy")[0].tolist() == pytest.approx([0.6 * 2 / 3, 0.4, 0.6 / 3], abs=1e-6)
    assert world.distribution()[0].tolist() == pytest.approx([0.5, 0.25, 0.25], abs=1e-6)


def test_temperature_flattens_every_token():
    """At τ = 2 odds of 3 : 1 become √3 : 1, those of the end after x, 2 : 1, become √2 : 1; after y nothing is left."""
    x, end = math.sqrt(3) / (math.sqrt(3) + 1), math.sqrt(2) / (math.sqrt(2) + 1)
    wanted = [x * end, 1 - x, x * (1 - end)]
    assert small().distribution(temperature=2.0)[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_optimum_by_hand():
    """r / β = (0, ln 2, ln 4): the weights ½, ½, 1 have the sum Z = 2."""
    world, beta = small(), 0.7
    rewards = torch.tensor([[0.0, math.log(2) * beta, math.log(4) * beta]], dtype=torch.float64)
    best = world.optimum(rewards, beta)
    assert best[0].tolist() == pytest.approx([0.25, 0.25, 0.5])
    start = world.distribution()
    assert float(objective(best, rewards, beta, start)) == pytest.approx(beta * math.log(2), abs=1e-6)
    assert float(objective(start, rewards, beta, start)) == pytest.approx(0.75 * beta * math.log(2), abs=1e-6)
    assert float(expected(best, rewards)) == pytest.approx(1.25 * beta * math.log(2), abs=1e-6)


def test_distances_by_hand():
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.5, 0.25])
    assert float(total_variation(p, q)) == 0.25
    assert float(kl(p, q)) == pytest.approx(0.5 * math.log(2))
    assert float(kl(q, p)) == math.inf


def test_what_the_reference_never_says_stays_closed():
    world = TabularWorld.of(["a?"], ["x", "y", "x y"], [[0.5, 0.5, 0.0]])
    moved(world, size=0.1)
    assert world.distribution("policy")[0, 2] == 0
    assert world.optimum(torch.tensor([[0.0, 0.0, 9.0]]), 1.0)[0].tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)
    said = {r.completion for r in sample(world.base, ["a?"], ("policy",), per_prompt=500, max_new_tokens=3)}
    assert said == {"x", "y"}


def test_preferences_by_hand():
    """Rewards 0 and ln 3: the second wins three times out of four. Equal rewards: every other time."""
    world = small()
    rewards = torch.tensor([[0.0, math.log(3), 0.0]], dtype=torch.float64)
    said = [(p.chosen, p.rejected, p.label) for p in world.preferences(rewards)]
    assert said == [("y", "x", pytest.approx(0.75)), ("x", "x y", 0.5), ("y", "x y", pytest.approx(0.75))]
    votes = world.preferences(rewards, votes=8)
    assert [p.chosen for p in votes] == ["y"] * 6 + ["x"] * 2 + ["x"] * 4 + ["x y"] * 4 + ["y"] * 6 + ["x y"] * 2
    assert {p.label for p in votes} == {1.0}
    drawn = world.judgements(rewards, world.distribution(), 4000)
    y_or_x = [p.chosen for p in drawn if {p.chosen, p.rejected} == {"x", "y"}]
    assert y_or_x.count("y") / len(y_or_x) == pytest.approx(0.75, abs=0.03)  # almost three standard errors
    assert all(p.chosen != p.rejected for p in drawn)


def test_sentences_are_all_sequences():
    assert sentences("ab", 2) == ("a", "b", "a a", "a b", "b a", "b b")


@pytest.mark.parametrize(("arguments", "words"), [
    (([], ["x"]), "at least one prompt and one completion"),
    ((["a?"], ["x", "x"]), "list each one once"),
    ((["a", "a b"], ["x"]), "beginning of another"),
    (([" "], ["x"]), "holds no word"),
    ((["a?"], ["x, y"]), "'x, y' reads back as 'x , y'"),
    ((["a?"], ["x", "y"], [[0.6, 0.6]]), r"add up to \[1.2"),
    ((["a?"], ["x", "y"], [[1.5, -0.5]]), "none below 0"),
    ((["a?"], ["x", "y"], [0.5, 0.5]), r"\(1, 2\) probabilities"),
])  # fmt: skip
def test_what_makes_no_table_is_refused_with_the_reason(arguments, words):
    with pytest.raises(TabularError, match=words):
        TabularWorld.of(*arguments)


# --- the lab's own code against it -----------------------------------------------------------------


def test_scores_are_the_exact_log_probabilities():
    world = forecasts()
    moved(world)
    known = score(world.base, world.pairs(), {"policy": "logprobs", RAW: "logprobs"})
    for role in ("policy", RAW):
        wanted = world.distribution(role).log().reshape(-1)
        assert float((known[role].sum(1) - wanted).abs().max()) < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 1.6])
def test_samples_have_the_exact_frequencies(temperature):
    """Pearson's χ² of 3000 completions of each prompt, for two roles side by side."""
    world, n = forecasts(), 3000
    moved(world, size=0.1)
    rollouts = sample(world.base, world.prompts, ("policy", RAW), temperature=temperature, seed=1, per_prompt=n,
                      max_new_tokens=world.max_new_tokens)  # fmt: skip
    assert all(r.ended for r in rollouts)
    for role in ("policy", RAW):
        mine = [r for r in rollouts if r.role == role]
        wanted = n * world.distribution(role, temperature)
        seen = counted(world, [r.prompt for r in mine], [r.completion for r in mine])
        assert float(((seen - wanted) ** 2 / wanted).sum(1).max()) < CHI2


def test_a_completion_cut_short_has_not_ended():
    world = forecasts()
    rollouts = sample(world.base, world.prompts, max_new_tokens=1, per_prompt=20)
    assert {r.completion for r in rollouts} == {"sun", "rain", "snow"}
    assert not any(r.ended for r in rollouts)


def test_gradients_are_those_of_the_plain_table():
    """∂ log π(y) / ∂ W = Σ_t (1[v = y_t] − p(v | s_t)) e_sᵀ, taken to A and B by hand in float64."""
    world = forecasts()
    role = moved(world)
    world.base.train("policy")
    pairs = world.pairs()
    each = torch.randn(len(pairs), generator=torch.Generator().manual_seed(5))
    packed = world.base.pack([Row("policy", x, y) for x, y in pairs])
    logprobs = token_scores(world.base, world.base.forward(packed), packed).logprobs
    (logprobs.sum(1) * each).sum().backward()

    a, b = (m.detach().double() for m in role.parameters)
    rows = world.base.decoder.rows.base_layer.weight.double()
    table = rows + 4.0 * b @ a  # alpha / rank
    slope = torch.zeros_like(table)
    for (x, y), g in zip(pairs, each.tolist(), strict=True):
        for t, token in enumerate(y):
            s = world.contexts[x + y[:t]]
            if t == len(y) - 1 == 2:  # after two words the end is certain
                continue
            allowed = [v for v in range(4) if t or v]  # no forecast is empty
            p = torch.zeros(4, dtype=torch.float64)
            p[allowed] = torch.softmax(table[allowed, s], 0)
            slope[:, s] -= g * p
            slope[token, s] += g
    assert float((role.parameters[0].grad - 4.0 * b.T @ slope).abs().max()) < 1e-4
    assert float((role.parameters[1].grad - 4.0 * slope @ a.T).abs().max()) < 1e-4


def test_the_split_of_a_loss_into_passes_changes_nothing():
    world = forecasts()
    role = moved(world)
    world.base.train("policy")
    rows = [Row("policy", x, y) for x, y in world.pairs()]
    whole = []
    for size in (len(rows), 5):
        role.grad.zero_()
        mask = torch.arange(3) < torch.tensor([len(row.completion) for row in rows])[:, None]
        weights = token_weights(mask, "token_mean")
        for i in range(0, len(rows), size):
            packed = world.base.pack(rows[i : i + size])
            logprobs = token_scores(world.base, world.base.forward(packed), packed).logprobs
            weighted_sum(logprobs, weights[i : i + size, : logprobs.shape[1]]).backward()
        whole.append(role.grad.clone())
    assert float((whole[0] - whole[1]).abs().max()) < 1e-6


def test_a_head_reads_any_table_of_rewards():
    """Weight 1 on the context after each completion's end: the head is the table, and the row's logits count for 0."""
    world = forecasts()
    role = moved(world, "reward", head=True)
    wanted = liked(world)
    with torch.no_grad():
        role.head_weight.zero_()
        for i, x in enumerate(world.prompt_ids):
            for j, y in enumerate(world.completion_ids):
                role.head_weight[4 + world.contexts[x + y]] = wanted[i, j]
        role.head_weight[:4] = 0.0
    role.mean, role.spread = 0.5, 2.0
    read = score(world.base, world.pairs(), {"reward": "reward"})["reward"].view(3, -1)
    assert float((read - (wanted - 0.5) / 2).abs().max()) < 1e-6
    assert float((world.reading("reward") - (wanted - 0.5) / 2).abs().max()) < 1e-6


def test_a_head_that_reads_the_logits_too():
    world = forecasts()
    moved(world, "reward", head=True)
    read = score(world.base, world.pairs(), {"reward": "reward"})["reward"].view(3, -1)
    assert float((read - world.reading("reward")).abs().max()) < 1e-4


def test_tokens_of_no_completion_are_refused():
    world = forecasts()
    ((prompt, completion), *_) = world.pairs()
    with pytest.raises(TabularError, match="begin no completion"):
        score(world.base, [(prompt, (*completion, 1))], {RAW: "logprobs"})


def test_a_role_is_kept_bit_for_bit_and_refused_in_another_world(tmp_path):
    from peft import PeftModel

    world, again = forecasts(), forecasts()
    role = moved(world, head=True)
    save_role(world.base, "policy", tmp_path)
    assert torch.equal(load_role(again.base, tmp_path, "back").weights, role.weights)
    assert torch.equal(again.distribution("back"), world.distribution("policy"))
    with pytest.raises(AdapterError, match="another base model"):
        load_role(TabularWorld.of(world.prompts, world.completions).base, tmp_path, "back")
    theirs = PeftModel.from_pretrained(forecasts().base.model, str(tmp_path)).base_model.model.rows
    gap = theirs(torch.eye(len(world.contexts))).T - world.logits("policy")
    assert float(gap[world.logits() > -1e3].abs().max()) < 1e-5


# --- methods reach it ------------------------------------------------------------------------------


def test_the_optima_of_other_settings_are_far_away():
    """What the tests below could mistake for the optimum: the start, twice or half the β, and the reward forgotten."""
    world = forecasts()
    best = world.optimum(liked(world), BETA)
    for other in (world.distribution(), *(world.optimum(liked(world), BETA * f) for f in (0.5, 2.0))):
        assert float(total_variation(best, other).min()) > 0.1


def test_sft_reaches_the_frequencies_of_its_demonstrations():
    world = forecasts()
    uneven = torch.arange(1.0, 37.0).view(3, 12).sin() ** 2
    demos = world.demonstrations(uneven / uneven.sum(1, keepdim=True), 100)
    config = SFTConfig(lr=0.05, epochs=80, batch=300, warmup=0.0, eval_share=0.0, eval_every=0, **QUIET)
    played(S.sft(S.start(world.base, demos, config, adapter=world.adapter), config))
    seen = counted(world, [d.prompt for d in demos], [d.completion for d in demos]) / 100
    assert float(total_variation(world.distribution("sft"), seen).max()) < 0.005


def test_a_reward_model_recovers_the_differences_of_the_reward():
    """The fit has one answer but for an offset of each prompt's own."""
    world = forecasts()
    wanted = liked(world)
    config = RewardConfig(lr=0.003, head_lr=0.03, epochs=60, batch=66, centring=0.0, warmup=0.0, eval_share=0.0,
                          eval_every=0, standardise=False, **QUIET)  # fmt: skip
    state = R.start(world.base, world.preferences(wanted), config, adapter=world.adapter)
    played(R.reward(state, config))
    gap = world.reading("reward") - wanted
    assert float((gap - gap.mean(1, keepdim=True)).abs().max()) < 1e-3


def preferred(world, rewards, beta, objective, flipped=0.0, **knobs):
    """The policy after preference optimisation on all pairs, a share of whose verdicts is flipped."""
    world.base.add_role("policy", world.adapter)
    pairs = [replace(p, label=p.label * (1 - flipped) + (1 - p.label) * flipped) for p in world.preferences(rewards)]
    config = PreferenceConfig(objective=objective, beta=beta, lr=0.03, epochs=60, batch=66, warmup=0.0, eval_share=0.0,
                              eval_every=0, **knobs, **QUIET)  # fmt: skip
    played(D.preference(D.start(world.base, pairs, config), config))
    return world.distribution("policy")


@pytest.mark.parametrize(("objective", "flipped", "knobs"), [("dpo", 0.0, {}), ("robust", 0.2, {"smoothing": 0.2})])
def test_dpo_reaches_the_optimum_without_a_reward(objective, flipped, knobs):
    """On all pairs, labelled with their probability. With a known share of flipped verdicts, the robust loss does."""
    world = forecasts()
    found = preferred(world, liked(world), BETA, objective, flipped, **knobs)
    assert float(total_variation(found, world.optimum(liked(world), BETA)).max()) < 1e-3


def test_dpo_takes_flipped_verdicts_for_a_smaller_reward():
    world = forecasts()
    found = preferred(world, liked(world), BETA, "dpo", flipped=0.2)
    assert float(total_variation(found, world.optimum(liked(world), BETA)).max()) > 0.1


def forward_optimum(reference, rewards, beta):
    """The best policy for E[r] − β KL(π_ref ‖ π): π = β π_ref / (λ − r), with λ found by halving."""
    low = rewards.max(1, keepdim=True).values + 1e-9
    high = low + beta
    for _ in range(60):
        middle = (low + high) / 2
        over = (beta * reference / (middle - rewards)).sum(1, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return beta * reference / (high - rewards)


PPO = PPOConfig(steps=80, lr=0.02, value_lr=0.02, value_head_lr=0.05, batch=384, per_prompt=128, epochs=2, kl=BETA,
                lam=1.0, value_clip=100.0, value_coef=1.0, max_new_tokens=3, schedule="linear", **QUIET)  # fmt: skip


def ppo_state(world, config=PPO):
    world.base.add_role("policy", world.adapter)
    return P.start(world.base, world.rows(), config, Rewards.program(world.program(liked(world))))


def test_ppo_reaches_the_optimum():
    world = forecasts()
    metrics = played(P.ppo(ppo_state(world), PPO))
    best = world.optimum(liked(world), BETA)
    assert float(total_variation(world.distribution("policy"), best).max()) < 0.03
    assert metrics[-1]["reward"] == pytest.approx(float(expected(best, liked(world)).mean()), abs=0.1)
    assert metrics[-1]["kl"] == pytest.approx(float(kl(best, world.distribution()).mean()), abs=0.15)


def grouped(world, rewards, steps=60, **recipe):
    """The policy after a run of the group family, three prompts a step."""
    world.base.add_role("policy", world.adapter)
    config = GroupConfig(steps=steps, lr=0.02, prompts=3, max_new_tokens=3, schedule="linear", **recipe, **QUIET)
    state = G.start(world.base, world.rows(), config, Rewards.program(world.program(rewards)))
    played(G.group(state, config))
    return world.distribution("policy")


@pytest.mark.parametrize("recipe", [
    {"variant": "rloo"},
    {"variant": "grpo", "kl_in_loss": 0.0},
    {"variant": "reinforce_pp", "steps": 100},
], ids=lambda recipe: recipe["variant"])  # fmt: skip
def test_groups_with_the_kl_in_the_reward_reach_the_optimum(recipe):
    """There r − β log(π / π_ref) is the same for all completions of a prompt, so that no advantage is left, however it
    is divided or averaged."""
    world = forecasts()
    found = grouped(world, liked(world), group=128, kl_in_reward=BETA, **recipe)
    assert float(total_variation(found, world.optimum(liked(world), BETA)).max()) < 0.03


def one_word():
    """A world whose completions are one choice each, and rewards."""
    world = TabularWorld.of(["a?", "b?", "c?"], ["w", "x", "y", "z"],
                            [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25] * 4])  # fmt: skip
    return world, torch.tensor([[0.0, 0.5, -0.3, 0.8]] * 3, dtype=torch.float64)


@pytest.mark.parametrize(("estimator", "optimum"), [
    ("k2", lambda world, rewards, beta: world.optimum(rewards, beta)),
    ("k3_corrected", lambda world, rewards, beta: world.optimum(rewards, beta)),
    ("k3", lambda world, rewards, beta: forward_optimum(world.distribution(), rewards, beta)),
], ids=lambda x: x if isinstance(x, str) else "")  # fmt: skip
def test_which_optimum_a_kl_in_the_loss_has(estimator, optimum):
    """k3's gradient is that of the other KL, and so is the policy it ends at, which is far from π*.

    r − mean of a group of G is (G − 1) / G of the advantage, which makes β that much larger.
    """
    world, rewards = one_word()
    found = grouped(world, rewards, group=64, variant="dr_grpo", kl_in_loss=BETA, kl_estimator=estimator)
    beta = BETA * 64 / 63
    assert float(total_variation(found, optimum(world, rewards, beta)).max()) < 0.03
    apart = total_variation(world.optimum(rewards, beta), forward_optimum(world.distribution(), rewards, beta))
    assert float(apart.max()) > 0.1


def test_a_kl_in_the_loss_gives_a_word_no_credit_for_the_kl_of_the_next():
    """Where completions have more than one choice, the sum of the tokens' own KLs has another optimum."""
    world = forecasts()
    found = grouped(world, liked(world), group=128, variant="dr_grpo", kl_in_loss=BETA, kl_estimator="k2")
    assert float(total_variation(found, world.optimum(liked(world), BETA)).max()) > 0.05


def test_a_run_in_a_table_resumes_bit_for_bit(tmp_path):
    config = replace(PPO, steps=4, minibatches=2)
    straight, stopped, resumed = (ppo_state(forecasts(), config) for _ in range(3))
    played(P.ppo(straight, config))
    for event in P.ppo(stopped, config):
        if isinstance(event, Updated) and event.step == 2:
            break
    stopped.save(tmp_path)
    resumed.load(tmp_path)
    played(P.ppo(resumed, config))
    for name in ("policy", "value"):
        assert torch.equal(resumed.role(name).weights, straight.role(name).weights)
