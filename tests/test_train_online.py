"""Online preference learning: who is sampled, first losses by hand, verdicts and ties, splits, resume, known optima."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lab.base import SharedBase
from lab.config import Adapter, ConfigError
from lab.config.online import OnlineConfig
from lab.events import Ask, Checked, Probed, Updated
from lab.feedback.duels import comparisons, ruled
from lab.feedback.rewards import RewardError, Rewards
from lab.learner import NonFiniteError
from lab.objectives.preference import OBJECTIVES
from lab.pack import Row
from lab.probes import Probes
from lab.records import Comparison, Message, PromptRow, Verdict
from lab.sample import SampleError, sample, stream
from lab.score import score
from lab.tabular import TabularWorld, forecasts, total_variation
from lab.train import online as O

WORDS = ("the broken clock", "a small boat", "every question", "the green door", "two apples", "an honest answer")
PROMPTS = [PromptRow((Message("user", f"Somebody describes {w}."),), i, {"letter": "aeiou"[i % 5]})
           for i, w in enumerate(WORDS)]  # fmt: skip
SMALL = Adapter(rank=4, alpha=8)
DPO = OnlineConfig(steps=3, lr=1e-3, prompts=4, max_new_tokens=10, probe_every=2, save_every=0, missing_end=0.0)
XPO = replace(DPO, objective="xpo", beta=None, exploration=0.01)
NASH = replace(DPO, objective="nash_md", beta=None)


def letters(prompt, completion, row):
    """The share of a completion's characters that are the row's letter."""
    return completion.count(row["letter"]) / max(1, len(completion))


def shaken(role, seed, size=0.02):
    role.weights.add_(torch.randn(role.weights.shape, generator=torch.Generator().manual_seed(seed)) * size)


def load(folder):
    base = SharedBase.load(folder, bits=4, device="cpu")
    base.add_role("policy", SMALL, seed=1)
    shaken(base.role("policy"), 2)
    return base


@pytest.fixture
def base(qwen3_folder):
    return load(qwen3_folder)


def start(base, config=DPO, rewards=None):
    if "reference" in base.roles:
        base.drop("reference")
    return O.start(base, PROMPTS, config, rewards or Rewards.program(letters),
                   probes=Probes((PROMPTS[0].prompt,), 8))  # fmt: skip


def metrics(run):
    return [e.metrics for e in run if isinstance(e, Updated)]


def whole(base, role, rollouts, temperature=1.0):
    """log π of whole completions under a role."""
    pairs = [(r.prompt_ids, r.completion_ids) for r in rollouts]
    return score(base, pairs, {role: "logprobs"}, temperature)[role].sum(1)


# --- the mixture -----------------------------------------------------------------------------------------------------


def next_token(base, role, ids, temperature=1.0):
    """The exact distribution of the token after these."""
    packed = base.pack([Row(role, ids)])
    with torch.no_grad():
        return (base.logits(base.forward(packed)[packed.last[0]]) / temperature).softmax(-1).double()


@pytest.fixture
def two(base):
    """Two roles that differ."""
    base.fork("policy", "other")
    shaken(base.role("policy"), 3, 0.1)
    shaken(base.role("other"), 4, 0.1)
    return base


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_mixture_has_the_frequencies_of_the_normalised_geometric_mean(two, temperature):
    """p^0.7 q^0.3 / Z written out; every share of 4000 first tokens within five standard errors."""
    ids, n = (5, 6, 7), 4000
    p, q = (next_token(two, role, ids, temperature) for role in ("policy", "other"))
    mixed = p**0.7 * q**0.3
    mixed = mixed / mixed.sum()
    assert float((mixed - p).abs().sum()) > 0.05, "the roles differ"
    (drawn,) = stream(two, [ids] * n, ("policy", "other"), mixture=0.3, max_new_tokens=1, seed=9,
                      temperature=temperature)  # fmt: skip
    assert [row for row, *_ in drawn.tokens] == list(range(n))
    counts = torch.bincount(torch.tensor([token for _, token, _, _ in drawn.tokens]), minlength=640).double()
    error = (mixed * (1 - mixed) / n).sqrt() + 1 / n
    assert bool(((counts / n - mixed).abs() < 5 * error).all())
    for _, token, logprob, _ in drawn.tokens[:50]:
        assert logprob == pytest.approx(float(mixed[token].log()), abs=1e-4)


def test_every_token_of_a_mixture_is_drawn_from_it_wherever_rows_end(two):
    two.chat = replace(two.chat, stop_ids=frozenset(range(60)))
    texts = ["Who explains the weather of the island?", "No", "A small boat in the morning"]
    rollouts = sample(two, texts, ("policy", "other"), mixture=0.4, max_new_tokens=14, seed=3, per_prompt=2)
    assert {r.role for r in rollouts} == {"policy+other"}
    assert len(rollouts) == 6
    assert len({len(r.completion_ids) for r in rollouts}) > 1, "rows were dropped on the way"
    for r in rollouts:
        for t in range(len(r.completion_ids)):
            p, q = (next_token(two, role, r.prompt_ids + r.completion_ids[:t]) for role in ("policy", "other"))
            mixed = p**0.6 * q**0.4
            want = float((mixed[r.completion_ids[t]] / mixed.sum()).log())
            assert r.logprobs[t] == pytest.approx(want, abs=1e-4)


def test_a_mixture_at_its_ends_is_one_of_the_two(two):
    for share, role in ((0.0, "policy"), (1.0, "other")):
        mixed = sample(two, ["No", "A boat"], ("policy", "other"), mixture=share, max_new_tokens=8, seed=4)
        alone = sample(two, ["No", "A boat"], (role,), max_new_tokens=8, seed=4)
        assert [r.completion_ids for r in mixed] == [r.completion_ids for r in alone]


def test_a_mixture_of_one_role_or_with_too_great_a_share_is_refused(two):
    with pytest.raises(SampleError, match=r"A mixture is of two roles with a share in \[0, 1\], not of 1 with 0.5"):
        sample(two, ["No"], ("policy",), mixture=0.5)
    with pytest.raises(SampleError, match=r"not of 2 with 1\.5"):
        sample(two, ["No"], ("policy", "other"), mixture=1.5)


# --- the step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [DPO, XPO, NASH], ids=lambda c: c.objective)
def test_a_run_starts_at_its_reference_and_every_invariant_holds(base, config):
    seen = list(O.online(start(base, config), config))
    checks = {(c.step, c.name): c for c in seen if isinstance(c, Checked)}
    assert all(c.ok for c in checks.values()), [c for c in checks.values() if not c.ok]
    assert checks[1, "first KL"].value < 1e-4
    assert checks[3, "updates"].value == 3
    assert {name for step, name in checks if step == 1} == {"first KL", "first loss", "sampler gap", "frozen roles",
                                                           "updates"}  # fmt: skip
    assert [e.step for e in seen if isinstance(e, Probed)] == [0, 2, 3]
    assert metrics(seen)[1]["kl_max"] > 0, "the policy moved"
    assert {"reward", "kl", "entropy", "length", "ended", "ties", "used"} <= metrics(seen)[0].keys()


@pytest.mark.parametrize(("objective", "first"), [
    ("dpo", math.log(2)), ("ipo", 25.0), ("hinge", 1.0), ("0.5*dpo + 0.5*hinge", (math.log(2) + 1) / 2),
])  # fmt: skip
@pytest.mark.parametrize("judge", ["verdict", "probability"])
def test_the_first_loss_does_not_depend_on_the_verdicts(base, objective, first, judge):
    """All log-ratios are 0. IPO: (1 / 2τ)² at τ = 0.1."""
    config = replace(DPO, objective=objective, judge=judge, beta=None, steps=1)
    assert metrics(O.online(start(base, config), config))[0]["loss"] == pytest.approx(first, rel=1e-5)


def away(base, config, rewards=None):
    """A state whose policy has left its reference, and its first experience."""
    state = start(base, config, rewards)
    shaken(base.role("policy"), 7, 0.05)
    state.own()
    return state, O.experience(state, config)


def softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.parametrize("judge", ["verdict", "probability"])
def test_the_loss_of_online_dpo_by_hand(base, judge):
    """p log(1 + e^−z) + (1 − p) log(1 + e^z), z = β (a − b), with p from the rewards of the two completions."""
    config = replace(DPO, judge=judge, beta=0.5, temperature=0.8, prompts=6)
    state, duels = away(base, config)
    rows = {p.prompt: p.columns for p in PROMPTS}
    earned = [letters("", r.completion, rows[r.prompt]) for r in duels.rollouts]
    ratio = (whole(base, "policy", duels.rollouts, 0.8) - whole(base, "reference", duels.rollouts, 0.8)).tolist()
    want = []
    for i in range(0, 12, 2):
        gap = earned[i] - earned[i + 1]
        p = 1 / (1 + math.exp(-gap)) if judge == "probability" else 0.5 if gap == 0 else float(gap > 0)
        z = 0.5 * (ratio[i] - ratio[i + 1])
        want.append(p * softplus(-z) + (1 - p) * softplus(z))
    assert max(abs(r) for r in ratio) > 0.1
    found = O.update(state, config, duels)
    assert found["loss"] == pytest.approx(sum(want) / 6, abs=1e-4)
    assert found["kl"] == pytest.approx(sum(ratio) / 12, abs=1e-3)


def test_the_loss_of_xpo_by_hand(base):
    """The second completion is the reference's; the bonus is α times its log-probability under the policy."""
    config = replace(XPO, beta=0.5, exploration=0.02)
    state, duels = away(base, config)
    assert [r.role for r in duels.rollouts] == ["policy", "reference"] * 4
    own, ref = (whole(base, role, duels.rollouts) for role in ("policy", "reference"))
    z = 0.5 * ((own - ref)[::2] - (own - ref)[1::2])
    p = duels.preference.tolist()
    want = [q * softplus(-d) + (1 - q) * softplus(d) + 0.02 * o for d, q, o in zip(z.tolist(), p, own[1::2].tolist(),
                                                                                strict=True)]  # fmt: skip
    found = O.update(state, config, duels)
    assert found["loss"] == pytest.approx(sum(want) / 4, abs=1e-4)
    assert found["kl"] == pytest.approx(float((own - ref)[::2].mean()), abs=1e-3), "of the policy's own completions"


def test_the_loss_of_nash_md_by_hand(base):
    """−(p − ½ − β log π/π_ref) log π, of the policy's completions alone."""
    config = replace(NASH, beta=0.3, judge="probability", prompts=6)
    state, duels = away(base, config)
    assert [r.role for r in duels.rollouts] == ["policy", "policy+reference"] * 6
    own, ref = (whole(base, role, duels.rollouts)[::2] for role in ("policy", "reference"))
    gap = duels.earned.total[::2] - duels.earned.total[1::2]
    p = 1 / (1 + torch.exp(-gap))
    want = float((-(p - 0.5 - 0.3 * (own - ref)) * own).mean())
    found = O.update(state, config, duels)
    assert found["loss"] == pytest.approx(want, abs=1e-4)
    assert O.describe(state, config, duels)["win_rate"] == pytest.approx(float(p.mean()), abs=1e-6)


def test_roles_that_are_equal_do_not_say_the_same(base):
    """At the start the opponent is the policy in all but name: with the same noise every pair would be a tie."""
    for config in (XPO, NASH):
        rollouts = O.duel(start(base, config), config)
        assert all(a.completion_ids != b.completion_ids for a, b in zip(rollouts[::2], rollouts[1::2], strict=True))


def test_ties_count_half_or_not_at_all(base):
    """Only prompts with an apple or a clock have a better completion."""

    def some(prompt, completion, row):
        return letters(prompt, completion, row) if "clock" in prompt or "apples" in prompt else 1.0

    half = replace(DPO, prompts=6)
    state, duels = away(base, half, Rewards.program(some))
    flat = torch.tensor([not ("clock" in r.prompt[0].content or "apples" in r.prompt[0].content)
                         for r in duels.rollouts[::2]])  # fmt: skip
    assert bool(duels.tied[flat].all())
    assert bool(duels.counted.all())
    assert duels.preference[flat].tolist() == [0.5] * 4
    drop = replace(half, ties="drop")
    duels = O.experience(state, drop)
    assert torch.equal(duels.counted, ~duels.tied)
    kept = torch.nonzero(duels.counted)[:, 0]
    each = O._read(state, drop, duels, torch.arange(6)).logprobs.sum(1).view(6, 2).detach()
    ratio = each - duels.reference.sum(1).view(6, 2)
    z = 0.1 * (ratio[:, 0] - ratio[:, 1]) * (2 * duels.preference - 1)
    want = sum(softplus(-float(z[i])) for i in kept) / len(kept)
    assert O.update(state, drop, duels)["loss"] == pytest.approx(want, abs=1e-5)
    assert O.describe(state, drop, duels)["used"] == pytest.approx(len(kept) / 6)


def test_pairs_that_do_not_count_are_not_sorted_among_those_that_do(base):
    """AOT at β = ½: margins of the policy against those of the reference, each of the same rank, of counted pairs.

    The policy's margins are made up, in another order than the reference's.
    """
    config = replace(DPO, objective="aot", beta=0.5, prompts=6)
    duels = O.experience(start(base, config), config)
    duels = replace(duels, counted=torch.tensor([True, False, True, True, False, True]),
                    preference=torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))  # fmt: skip
    sums = torch.tensor([[3.0, 0.0], [-9.0, 0.0], [-1.0, 0.0], [2.0, 0.0], [5.0, 0.0], [0.5, 0.0]])
    sign = [1, 1, 1, -1, -1, -1]
    ref = duels.reference.sum(1).view(6, 2).double().tolist()
    u = [sign[i] * float(sums[i, 0]) for i in (0, 2, 3, 5)]
    v = sorted(sign[i] * (ref[i][0] - ref[i][1]) for i in (0, 2, 3, 5))
    want = [softplus(-0.5 * (x - v[sorted(u).index(x)])) for x in u]
    found = O.losses(config, duels, torch.arange(6), sums)
    assert found[duels.counted].tolist() == pytest.approx(want, abs=1e-4)
    assert found[~duels.counted].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("objective", ["dpo", "aot", "xpo"])
def test_a_step_of_ties_alone_teaches_nothing(base, objective):
    config = replace(DPO, objective=objective, beta=None, ties="drop", steps=1)
    state = start(base, config, Rewards.program(lambda prompt, completion, row: 1.0))
    before = base.role("policy").digest()
    seen = list(O.online(state, config))
    assert metrics(seen)[0]["loss"] == 0.0
    assert metrics(seen)[0]["ties"] == 1.0
    assert base.role("policy").digest() == before
    assert all(c.ok for c in seen if isinstance(c, Checked))


def test_a_missing_end_costs_and_may_be_masked(base):
    base.chat = replace(base.chat, stop_ids=frozenset(range(60)))
    config = replace(DPO, missing_end=2.0, prompts=6, truncated="mask")
    duels = O.experience(start(base, config), config)
    ended = torch.tensor([r.ended for r in duels.rollouts])
    assert 0 < int(ended.sum()) < 12
    assert torch.allclose(duels.scores.view(-1), duels.earned.total - 2 * (~ended).float())
    assert duels.counted.tolist() == ended.view(6, 2).all(1).tolist()


def test_a_reward_model_judges_in_the_pass_of_the_reference(base, monkeypatch):
    base.add_role("judge", SMALL, seed=5)
    base.add_head("judge", seed=5)
    state = start(base, rewards=Rewards.role("judge"))
    packs = []
    plain = base.pack
    monkeypatch.setattr(base, "pack", lambda rows, **k: packs.append(rows := list(rows)) or plain(rows, **k))
    duels = O.experience(state, DPO)
    assert {row.role for row in packs[-1]} == {"reference", "judge"}
    assert len(packs[-1]) == 2 * 8
    known = score(base, [(r.prompt_ids, r.completion_ids) for r in duels.rollouts], {"judge": "reward"})["judge"]
    assert torch.equal(duels.preference > 0.5, known[::2] > known[1::2])


def test_both_completions_share_their_prompts_tokens(base, monkeypatch):
    state, duels = away(base, DPO)
    packs = []
    plain = base.pack
    monkeypatch.setattr(base, "pack", lambda rows: packs.append(plain(list(rows))) or packs[-1])
    O._read(state, DPO, duels, torch.arange(4))
    pairs = [duels.rollouts[i : i + 2] for i in range(0, 8, 2)]
    assert packs[0].n_tokens == sum(len(a.prompt_ids + a.completion_ids + b.completion_ids) for a, b in pairs)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_for_pairs_plays(base, objective):
    config = replace(DPO, objective=objective, beta=None, steps=2, probe_every=0)
    seen = list(O.online(start(base, config), config))
    assert [c for c in seen if isinstance(c, Checked) and not c.ok] == []
    assert metrics(seen)[0]["grad_norm"] > 0
    assert metrics(seen)[1]["kl_max"] > 0, "the policy moved"


@pytest.mark.parametrize("config", [
    DPO, XPO, NASH, replace(DPO, objective="aot", beta=None, ties="drop"), replace(DPO, judge="probability"),
], ids=["dpo", "xpo", "nash_md", "aot", "probability"])  # fmt: skip
@pytest.mark.parametrize("tokens", [1, 90])
def test_an_update_does_not_depend_on_the_split_into_passes(base, config, tokens):
    """AOT sorts over the whole step, so a part of its pairs alone would have another loss."""
    config = replace(config, prompts=6)
    state, duels = away(base, config)
    before = base.role("policy").weights.clone()

    def learnt(tokens_per_pass):
        base.role("policy").weights.copy_(before)
        fresh = O.OnlineState(base, state.roles, ("policy",), 1, numbers={"updates": 0.0})
        fresh.own()
        found = O.update(fresh, replace(config, lr=0.0, tokens_per_pass=tokens_per_pass, max_grad_norm=0.0), duels)
        moments = fresh.optimizers["policy"].state.values()
        return found, next(iter(moments))["exp_avg"].clone()

    (mine, slope), (all_at_once, wanted) = learnt(tokens), learnt(100_000)
    assert mine["loss"] == pytest.approx(all_at_once["loss"], rel=1e-5)
    assert mine["grad_norm"] == pytest.approx(all_at_once["grad_norm"], rel=1e-4)
    assert float((slope - wanted).abs().max()) < 1e-5 * float(wanted.abs().max()) + 1e-9


def test_settings_that_cannot_work_are_refused_with_the_reason():
    for settings, words in (
        ({"objective": "dpoo"}, "There is no objective 'dpoo'; choose one of xpo, nash_md, dpo, "),
        ({"objective": "0.5*dpo + 0.5*xpo"}, "xpo samples in its own way and stands in no mixture"),
        ({"objective": "0.5*dpo + 0.2*nll"}, "sum to 0.7, not to 1"),
        ({"beta": 0.0}, "beta is 0; it must be above 0"),
        ({"objective": "xpo", "beta": 0.0}, "beta is 0; it must be above 0, or nothing is learnt"),
        ({"objective": "xpo", "exploration": -0.1}, "exploration is -0.1; it must lie in"),
        ({"exploration": 0.1}, "exploration is given, but dpo does not read it; xpo does"),
        ({"mixture": 0.1}, "mixture is given, but dpo does not read it; nash_md does"),
        ({"objective": "nash_md", "mixture": 1.5}, r"mixture is 1.5; it must lie in \[0, 1\]"),
        ({"objective": "nash_md", "ties": "drop"}, "Nash-MD takes the KL of every completion it samples"),
        ({"objective": "nash_md", "gamma": 0.5}, "gamma is given, but nash_md does not read it"),
        ({"gamma": 0.5}, "gamma is given, but dpo does not read it"),
        ({"prompts": 0}, "prompts is 0; it must lie in"),
        ({"judge": "me"}, "judge is 'me'; choose one of verdict, probability"),
    ):
        with pytest.raises(ConfigError, match=words):
            OnlineConfig(**settings)
    assert OnlineConfig(objective="xpo").exploration == 1e-5
    assert OnlineConfig(objective="nash_md").mixture == 0.5
    assert OnlineConfig(objective="ipo").beta == OBJECTIVES["ipo"].knobs.beta


def test_bad_rewards_stop_with_the_prompt_and_nan_before_a_weight_changes(base):
    with pytest.raises(RewardError, match=r"The reward program raised KeyError: 'number' \(prompt: 'Somebody desc"):
        list(O.online(start(base, rewards=Rewards.program(lambda p, c, row: row["number"])), DPO))
    state = start(base)
    state.role("reference").weights[:4] = float("nan")
    before = base.role("policy").digest()
    with pytest.raises(NonFiniteError, match="so the run stopped") as caught:
        list(O.online(state, DPO))
    assert len(caught.value.evidence["completions"]) == 8
    assert base.role("policy").digest() == before


@pytest.mark.parametrize("config", [DPO, XPO, NASH, replace(DPO, judge="probability", ties="drop", warmup=0.5)],
                         ids=["dpo", "xpo", "nash_md", "soft"])  # fmt: skip
def test_resuming_equals_never_stopping_bit_for_bit(config, qwen3_folder, tmp_path):
    config = replace(config, steps=4, probe_every=0)
    straight = start(load(qwen3_folder), config)
    wanted = metrics(O.online(straight, config))
    stopped = start(load(qwen3_folder), config)
    for event in O.online(stopped, config):
        if isinstance(event, Updated) and event.step == 2:
            break
    stopped.save(tmp_path)
    resumed = start(load(qwen3_folder), config)
    resumed.load(tmp_path)
    again = metrics(O.online(resumed, config))
    assert resumed.role("policy").digest() == straight.role("policy").digest()
    for mine, theirs in zip(again, wanted[2:], strict=True):
        assert {k: v for k, v in mine.items() if k != "step_s"} == {k: v for k, v in theirs.items() if k != "step_s"}


# --- in a world where the answer is known ----------------------------------------------------------------------------

BETA = 0.3


def liked(world):
    """A point for rain, half a point for every sun, and 0.3 off for each word; a winter's snow is worth one more."""
    return world.rewards(lambda x, y: ("rain" in y) + 0.5 * y.count("sun") - 0.3 * len(y.split())
                         + (x == "winter?") * ("snow" in y))  # fmt: skip


def played(world, rewards, **settings):
    """The policy after a run whose invariants all hold."""
    world.base.add_role("policy", world.adapter)
    config = OnlineConfig(**{"lr": 0.04, "prompts": 96, "max_new_tokens": 3, "schedule": "linear", "missing_end": 0.0,
                             "judge": "probability", "probe_every": 0, "save_every": 0,
                             "tokens_per_pass": 1 << 16} | settings)  # fmt: skip
    seen = list(O.online(O.start(world.base, world.rows(), config, Rewards.program(world.program(rewards))), config))
    assert [c for c in seen if isinstance(c, Checked) and not c.ok] == []
    return world.distribution("policy")


@pytest.mark.parametrize("settings", [
    {"steps": 80}, {"objective": "xpo", "exploration": 0.0, "steps": 80},
], ids=["dpo", "xpo"])  # fmt: skip
def test_online_dpo_reaches_the_optimum(settings):
    """With p = σ(r − r') every pair's loss is least where β (a − b) = r − r': at π*, whoever sampled the pair."""
    world = forecasts()
    found = played(world, liked(world), beta=BETA, **settings)
    assert float(total_variation(found, world.optimum(liked(world), BETA)).max()) < 0.03


def test_the_bonus_of_xpo_takes_from_what_the_reference_says():
    """Rewards that are all the same: DPO stays, and α lowers the reference's favourites."""
    world = TabularWorld.of(["a?"], ["x", "y", "z"], [[0.6, 0.3, 0.1]])
    found = played(world, world.rewards(lambda x, y: 0.0), objective="xpo", exploration=0.05, beta=BETA, steps=40)
    assert float(found[0, 0]) < 0.59
    assert float(found[0, 2]) > 0.105


def nash(reference, preference, beta, mixture):
    """The fixed point π ∝ π_ref exp(P(· ≻ μ) / β) with μ ∝ π^(1 − α) π_ref^α, by walking towards it."""
    policy = reference
    for _ in range(2000):
        opponent = policy ** (1 - mixture) * reference**mixture
        aim = reference * torch.exp(preference @ (opponent / opponent.sum()) / beta)
        policy = 0.95 * policy + 0.05 * aim / aim.sum()
    return policy


def test_the_fixed_point_by_hand():
    """Against the reference alone: P(x) = ½ · 0.6, P(y) = 0.6 + ½ · 0.3, P(z) = 0.6 + 0.3 + ½ · 0.1; β = 1/5."""
    weights = [0.6 * math.exp(5 * 0.3), 0.3 * math.exp(5 * 0.75), 0.1 * math.exp(5 * 0.95)]
    assert nash(SAID, BETTER, 0.2, 1.0).tolist() == pytest.approx([w / sum(weights) for w in weights], abs=1e-6)


SAID = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
BETTER = torch.tensor([[0.5, 0.0, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 0.5]], dtype=torch.float64)
"""P(row ≻ column) where the third is better than the second, and that than the first."""


@pytest.mark.parametrize("mixture", [0.5, 1.0])
def test_nash_md_reaches_its_fixed_point(mixture):
    """One word each, so that the mixture by tokens is the mixture by completions.

    With y' held as it is, the gradient is that of Σ_y π(y) P(y ≻ μ) − β KL(π ‖ π_ref).
    """
    world = TabularWorld.of(["a?"], ["x", "y", "z"], [SAID.tolist()])
    rewards = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    found = played(world, rewards, objective="nash_md", mixture=mixture, beta=0.2, judge="verdict", steps=100,
                   prompts=128, lr=0.03)  # fmt: skip
    assert float(total_variation(found[0], nash(SAID, BETTER, 0.2, mixture))) < 0.03
    apart = total_variation(nash(SAID, BETTER, 0.2, 0.5), nash(SAID, BETTER, 0.2, 1.0))
    assert float(apart) > 0.1


# --- asking ----------------------------------------------------------------------------------------------------------


ASKED = replace(DPO, judge="asked")


def answered(state, config, verdict):
    """The events of a run whose questions are answered by `verdict(comparison)`."""
    events = []
    for event in O.online(state, config):
        if isinstance(event, Ask):
            event.answer([verdict(c) for c in event.comparisons])
        events.append(event)
    return events


def wins(comparison):
    """The reward's verdict, as somebody else would give it."""
    place = next(p for p in PROMPTS if p.prompt == comparison.prompt)
    a, b = (letters("", text, place.columns) for text in (comparison.a, comparison.b))
    return Verdict(0.5 if a == b else float(a > b), "somebody")


def test_asking_somebody_who_says_what_the_reward_says_is_the_same_run(qwen3_folder):
    """Bit for bit, but for the figures about rewards, which nobody knows when there are none."""
    judged = start(load(qwen3_folder), DPO)
    seen = metrics(O.online(judged, DPO))
    asked = O.start(load(qwen3_folder), PROMPTS, ASKED, None, probes=Probes((PROMPTS[0].prompt,), 8))
    events = answered(asked, ASKED, wins)
    assert torch.equal(judged.base.role("policy").weights, asked.base.role("policy").weights)
    for one, other in zip(seen, (e.metrics for e in events if isinstance(e, Updated)), strict=True):
        assert {k: v for k, v in one.items() if not k.startswith(("reward", "score", "step_s"))} == {
            k: v for k, v in other.items() if k != "step_s"}  # fmt: skip
    assert [e.ok for e in events if isinstance(e, Checked)] == [True] * len(
        [e for e in events if isinstance(e, Checked)]
    )
    assert [e.step for e in events if isinstance(e, Ask)] == [1, 2, 3]
    assert all(len(e.comparisons) == 4 for e in events if isinstance(e, Ask))


def test_pairs_left_open_and_pairs_of_the_same_words(base):
    """Four pairs: sure, unsure, left open, and (not asked about) two completions that say the same."""
    state = O.start(base, PROMPTS, ASKED, None)
    duels = O.experience(state, ASKED)
    duels = replace(duels, same=torch.tensor([False, False, False, True]))
    assert len(comparisons(duels)) == 3
    assert comparisons(duels)[0] == Comparison(
        duels.rollouts[0].prompt, duels.rollouts[0].completion, duels.rollouts[1].completion,
        (duels.rollouts[0].ended, duels.rollouts[1].ended))  # fmt: skip
    said = [Verdict(1.0), Verdict(0.3), Verdict(None)]
    seen = ruled(duels, said, "half", "keep")
    assert seen.preference.tolist() == pytest.approx([1.0, 0.3, 0.5, 0.5])
    assert seen.counted.tolist() == [True, True, False, True]
    assert seen.tied.tolist() == [False, False, False, True]
    dropped = ruled(duels, said, "drop", "keep")
    assert dropped.counted.tolist() == [True, True, False, False]
    nobody = ruled(duels, [Verdict(None)] * 3, "half", "keep")
    assert nobody.counted.tolist() == [False, False, False, True]
    before = base.role("policy").weights.clone()
    state.own()
    assert O.update(state, ASKED, ruled(duels, [Verdict(None)] * 3, "drop", "keep"))["loss"] == 0.0
    assert torch.equal(base.role("policy").weights, before), "nobody said anything, so nothing is learnt"


def test_more_passes_over_dear_pairs(base):
    """Three passes over the same pairs: three updates, the first as if alone, and the loss falls."""
    config = replace(ASKED, steps=1, epochs=3, lr=3e-3)
    state = O.start(base, PROMPTS, config, None)
    events = answered(state, config, wins)
    (seen,) = [e.metrics for e in events if isinstance(e, Updated)]
    assert seen["updates"] == 3
    assert seen["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert seen["last_loss"] < seen["loss"] - 1e-3
    assert all(e.ok for e in events if isinstance(e, Checked))


def test_who_must_judge(base):
    with pytest.raises(RewardError, match="Nothing says what a completion earns; give rewards, or judge=asked"):
        O.start(base, PROMPTS, DPO, None)
    with pytest.raises(ConfigError, match="epochs is 2; nash_md learns from what the policy says now"):
        replace(NASH, epochs=2)
