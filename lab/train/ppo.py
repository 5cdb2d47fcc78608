"""Proximal policy optimisation from a reward model: sample, score, credit, update.

    r_t = −β (log π_old(y_t) − log π_ref(y_t)) + [t = last] · s        reward per token, s the completion's score
    A_t, R_t from generalised advantage estimation; A whitened over all tokens of the step
    L = mean_t max(−A ρ, −A clip(ρ, 1 − ε, 1 + ε)) + c_v · mean_t ½ max((V − R)², (clip(V, V_old ± ε_v) − R)²)

Four roles live on one base. The policy and the value are trained, each with its own adapter; the reference is a frozen
copy of the policy's start, the reward a frozen reward model (or an ensemble, or programs). They score a completion in
one pass, and policy and value learn in one pass with one backward.

Old log-probabilities come from the training forward, never from the sampler. Each step samples with a generator seeded
by (run seed, step), so that looking at a run does not change it.

When to use: With a reward model (or any reward) and the wish to see every part of the classic pipeline, or when the
credit of single tokens matters. Of all methods it has the most to set and to watch, and a reward that is not the true
one is exploited if the KL weight is small.

Source: Ziegler et al. 2019; Ouyang et al. 2022 (InstructGPT); details after Huang et al. 2024, "The N+
Implementation Details of RLHF with PPO".
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from lab.base import SharedBase
from lab.config import PPOConfig
from lab.data import batch_at
from lab.encode import TokenPrompt, encode_prompts
from lab.events import Checked, Event, Probed, Progress, Skipped, Spread, Started, Updated, spreads
from lab.feedback.rewards import Earned, Rewards
from lab.learner import Learner, apply_gradients, finite, learning_rate
from lab.objectives import (
    adapt,
    approx_kl,
    explained_variance,
    gae,
    k1,
    k3,
    kept_rows,
    length_mask,
    masked_mean,
    missing_end,
    ppo_policy,
    ppo_value,
    reward_to_tokens,
    token_weights,
    weighted_sum,
    whiten,
)
from lab.pack import Row
from lab.pack import split as passes
from lab.probes import Probes, answer
from lab.records import PromptRow, Rollout, prompt_text
from lab.sample import sample
from lab.score import score, token_scores, token_values


@dataclass
class PPOState(Learner):
    """State of a PPO run."""

    prompts: Sequence[TokenPrompt] = ()
    skipped: Sequence[Skipped] = ()
    probes: Probes = field(default_factory=Probes)
    rewards: Rewards | None = None


@dataclass(frozen=True)
class Batch:
    """One step's experience. B completions of up to T tokens; (B, T) tensors are right-padded with 0.

    old, reference : log-probabilities in nats · values : V_old in reward units · scores : (B,) the reward, penalised
    advantages     : whitened · returns : R in reward units · weights : what each token counts (see `token_weights`)
    """

    rollouts: list[Rollout]
    earned: Earned
    old: Tensor
    reference: Tensor
    values: Tensor
    scores: Tensor
    advantages: Tensor
    returns: Tensor
    mask: Tensor
    kept: Tensor
    lengths: Tensor


def start(
    base: SharedBase,
    prompts: Sequence[PromptRow],
    config: PPOConfig,
    rewards: Rewards,
    *,
    policy: str = "policy",
    prefix: str = "",
    probes: Probes | None = None,
) -> PPOState:
    """A state at step 0: the policy's role is on the base already and becomes its own frozen reference.

    The value starts as a copy of the (first) reward model, whose head reads the same numbers, or, where every reward is
    a program, as a copy of the policy with a zero head.
    """
    room = base.window - config.max_new_tokens
    encoded = encode_prompts(base.chat, prompts, room)
    names = {"policy": policy, "value": f"{prefix}value", "reference": f"{prefix}reference"}
    base.fork(policy, names["reference"], head=False)
    base.fork(rewards.roles[0] if rewards.roles else policy, names["value"])
    if not base.role(names["value"]).head:
        base.add_head(names["value"])
    names |= {f"reward-{i}" if i else "reward": role for i, role in enumerate(rewards.roles)}
    return PPOState(base, names, ("policy", "value"), config.steps, numbers={"beta": config.kl, "updates": 0.0},
                    prompts=encoded.some(), skipped=encoded.events(), probes=probes or Probes(),
                    rewards=rewards)  # fmt: skip


def ppo(state: PPOState, config: PPOConfig) -> Iterator[Event]:
    """Trains `policy` and `value` until `state.total` steps are done; goes on from `state.step`."""
    yield Started("ppo", state.step, state.total)
    if state.step == 0:
        yield from state.skipped
        yield _probed(state)
    while state.step < state.total:
        now = replace(config, **state.live)
        if not now.kl_target:
            state.numbers["beta"] = now.kl
        began = time.perf_counter()
        yield Progress(state.step, "sampling", 0, now.batch)
        rollouts = rollout(state, now)
        yield Progress(state.step, "scoring", 0, now.batch)
        batch = experience(state, now, rollouts)
        frozen = state.frozen() if state.step == 0 else None
        yield Progress(state.step, "updating", 0, now.epochs * now.minibatches)
        state.own()  # after the last yield before learning: another run may have had the turn
        metrics = learn(state, now, batch) | describe(state, now, batch)
        if now.kl_target:
            state.numbers["beta"] = adapt(state.numbers["beta"], metrics["kl"], now.kl_target, now.kl_horizon,
                                          now.batch)  # fmt: skip
        state.step += 1
        metrics["step_s"] = time.perf_counter() - began
        yield Updated(state.step, metrics, spread(batch))
        yield from checks(state, now, metrics, frozen)
        if state.step == state.total or (now.probe_every and state.step % now.probe_every == 0):
            yield _probed(state)


def asked(state: PPOState, config: PPOConfig) -> list[TokenPrompt]:
    """The prompts of the step."""
    n = config.batch // config.per_prompt
    return [state.prompts[i] for i in batch_at(state.step, len(state.prompts), n, config.seed)]


def rollout(state: PPOState, config: PPOConfig) -> list[Rollout]:
    """Samples `per_prompt` completions of each of the step's prompts from the policy as it is now."""
    return sample(
        state.base,
        [p.prompt for p in asked(state, config)],
        (state.roles["policy"],),
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        seed=(config.seed, state.step),
        per_prompt=config.per_prompt,
    )


def experience(state: PPOState, config: PPOConfig, rollouts: list[Rollout]) -> Batch:
    """Scores the rollouts under all roles in one pass, and gives every token its credit."""
    assert state.rewards is not None
    pairs = [(r.prompt_ids, r.completion_ids) for r in rollouts]
    want = {state.roles["policy"]: "logprobs", state.roles["reference"]: "logprobs", state.roles["value"]: "values"}
    want |= dict.fromkeys(state.rewards.roles, "reward")
    known = score(state.base, pairs, want, config.temperature, config.tokens_per_pass)
    old, reference, values = (known[state.roles[name]] for name in ("policy", "reference", "value"))
    device = old.device
    rows = asked(state, config) if state.rewards.reads_rows else []
    earned = state.rewards.earn(rollouts, [p.columns for p in rows for _ in range(config.per_prompt)], known)
    proxy = earned.total.to(device)
    lengths = torch.tensor([len(r.completion_ids) for r in rollouts], device=device)
    ended = torch.tensor([r.ended for r in rollouts], device=device)
    mask = length_mask(lengths, old.shape[1])
    clipped = proxy.clamp(-config.reward_clip, config.reward_clip) if config.reward_clip else proxy
    scores = missing_end(clipped, ended, config.missing_end)
    rewards = reward_to_tokens(scores, k1(old, reference, mask), lengths, state.numbers["beta"])
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    credit = gae(rewards, values, lengths, config.gamma, config.lam)
    kept = kept_rows(ended, config.truncated)
    advantages = whiten(credit.advantages, mask & kept[:, None])
    return Batch(rollouts, earned, old, reference, values, scores, advantages, credit.returns, mask, kept, lengths)


def learn(state: PPOState, config: PPOConfig, batch: Batch) -> dict[str, float]:
    """`epochs` passes over the step's completions, each in `minibatches` optimizer updates of policy and value."""
    noise = np.random.default_rng([config.seed, state.step, 1])
    seen: list[dict[str, float]] = []
    for _ in range(config.epochs):
        order = noise.permutation(len(batch.rollouts)) if config.minibatches > 1 else np.arange(len(batch.rollouts))
        for rows in np.split(order, config.minibatches):
            seen.append(_update(state, config, batch, torch.from_numpy(rows)))
    out = {key: float(np.mean([m[key] for m in seen])) for key in seen[0] if key != "ratio_gap"}
    return out | {"ratio_gap": seen[0]["ratio_gap"], "updates": state.numbers["updates"]}


def _update(state: PPOState, config: PPOConfig, batch: Batch, rows: Tensor) -> dict[str, float]:
    """One optimizer update of each trained role on these rows, in as many passes as `tokens_per_pass` asks for."""
    weights = token_weights(batch.mask[rows], "token_mean", batch.kept[rows])
    totals: dict[str, Tensor] = {}
    chosen = [batch.rollouts[i] for i in rows.tolist()]
    alone = [Row("", r.prompt_ids, r.completion_ids) for r in chosen]
    for part in passes(alone, max(1, config.tokens_per_pass // 2)):  # two roles learn in every pass
        losses = _pass(state, config, batch, rows[part], weights[part])
        loss = losses["policy_loss"] + config.value_coef * losses["value_loss"]
        evidence = {"completions": [chosen[i].completion for i in part], "prompts": [prompt_text(chosen[i].prompt)
                    for i in part], "advantages": batch.advantages[rows[part]]}  # fmt: skip
        finite(loss, state, evidence).backward()
        for key, value in losses.items():
            combine = torch.maximum if key == "ratio_gap" else torch.add
            totals[key] = combine(totals[key], value.detach()) if key in totals else value.detach()
    peaks = (config.lr, config.value_lr, config.value_head_lr)
    lr, value_lr, head_lr = (learning_rate(state.step, state.total, p, config.warmup, config.schedule) for p in peaks)
    norms = {"grad_norm": apply_gradients(state, "policy", lr, lr, config.max_grad_norm, config.adam_eps),
             "value_grad_norm": apply_gradients(state, "value", value_lr, head_lr, config.max_grad_norm,
                                                config.adam_eps)}  # fmt: skip
    state.numbers["updates"] += 1
    return {key: float(value) for key, value in totals.items()} | norms | {"lr": lr}


def _pass(state: PPOState, config: PPOConfig, batch: Batch, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Policy and value as two slices of one packed pass; every figure is this pass's part of the update's."""
    rollouts = [batch.rollouts[i] for i in rows.tolist()]
    n = len(rollouts)
    packed = state.base.pack([Row(state.roles[role], r.prompt_ids, r.completion_ids)
                              for role in ("policy", "value") for r in rollouts])  # fmt: skip
    hidden = state.base.forward(packed)
    logprobs, entropy, _ = token_scores(state.base, hidden, packed, 0, n, config.temperature)
    values = token_values(state.base, state.roles["value"], hidden, packed, n, 2 * n)
    width = logprobs.shape[1]
    mask, weights = batch.mask[rows, :width], weights[:, :width]
    old, advantages = batch.old[rows, :width], batch.advantages[rows, :width]
    policy = ppo_policy(logprobs, old, advantages, config.clip, mask=mask)
    value = ppo_value(values, batch.values[rows, :width], batch.returns[rows, :width], config.value_clip, mask)
    ratio = torch.where(mask, (logprobs - old).detach().exp(), 1.0)
    return {"policy_loss": weighted_sum(policy.loss, weights), "value_loss": weighted_sum(value.loss, weights),
            "clip_fraction": weighted_sum(policy.clipped.float(), weights), "ratio_mean": weighted_sum(ratio, weights),
            "approx_kl": weighted_sum(approx_kl(logprobs.detach(), old, mask), weights),
            "entropy": weighted_sum(entropy, weights), "ratio_gap": (ratio - 1).abs().max()}  # fmt: skip


@torch.no_grad()
def describe(state: PPOState, config: PPOConfig, batch: Batch) -> dict[str, float]:
    """Figures of the step's completions: rewards, KL to the reference (summed per completion), lengths, ends."""
    mask, n = batch.mask, len(batch.rollouts)
    kl = k1(batch.old, batch.reference, mask).sum(1)
    proxy = batch.earned.total
    out = {"reward": float(proxy.mean()), "reward_se": _se(proxy), "score": float(batch.scores.mean()),
           "kl": float(kl.mean()), "kl_se": _se(kl),
           "kl_k3": float(k3(batch.old, batch.reference, mask).sum(1).mean()),
           "length": float(batch.lengths.float().mean()), "ended": sum(r.ended for r in batch.rollouts) / n,
           "beta": state.numbers["beta"],
           "explained_variance": float(explained_variance(batch.values, batch.returns, mask)),
           "sampler_gap": _sampler_gap(batch), "kl_max": float(kl.abs().max())} | batch.earned.figures()  # fmt: skip
    if state.probes.gold is not None:
        gold = torch.tensor([state.probes.gold(prompt_text(r.prompt), r.completion, r.ended).score
                             for r in batch.rollouts])  # fmt: skip
        out |= {"gold": float(gold.mean()), "gold_se": _se(gold)}
    return out


def spread(batch: Batch) -> dict[str, Spread]:
    """How the step's rewards and lengths lie over its completions, and log π − log π_ref over its tokens [nats]."""
    return spreads(reward=batch.earned.total.tolist(), length=batch.lengths.tolist(),
                   token_kl=k1(batch.old, batch.reference, batch.mask)[batch.mask].tolist())  # fmt: skip


def checks(
    state: PPOState, config: PPOConfig, metrics: dict[str, float], frozen: dict[str, str] | None
) -> Iterator[Checked]:
    """The invariants of PPO, looked at in every step; those about the start only in the first."""
    step = state.step
    limit = 1e-4 if state.base.device.type == "cpu" else 2e-2
    if config.minibatches == 1 or step == 1:
        gap = metrics["ratio_gap"]
        yield Checked(step, "first ratio", gap <= limit, gap, limit, "before the first update of a step the ratio "
                      "to the old policy is 1")  # fmt: skip
    if step == 1:
        yield Checked(step, "first KL", metrics["kl_max"] <= 1e-4, metrics["kl_max"], 1e-4,
                      "the run starts at its reference: KL is 0")  # fmt: skip
    gap = metrics["sampler_gap"]
    yield Checked(step, "sampler gap", gap <= 0.01, gap, 0.01, "sampler and trainer agree on probabilities")
    if frozen is not None:
        moved = [name for name, digest in state.frozen().items() if digest != frozen[name]]
        yield Checked(step, "frozen roles", not moved, len(moved), 0, "no frozen role changed by a bit")
        least = min(metrics["grad_norm"], metrics["value_grad_norm"])
        yield Checked(step, "gradients", least > 0, least, 0, "policy and value both get a gradient")
    want = step * config.epochs * config.minibatches
    yield Checked(step, "updates", state.numbers["updates"] == want, state.numbers["updates"], want,
                  "optimizer updates = steps × passes × minibatches")  # fmt: skip


def _sampler_gap(batch: Batch) -> float:
    """Mean absolute difference of the tokens' probabilities between sampler and training forward."""
    sampled = torch.zeros_like(batch.old)
    for i, r in enumerate(batch.rollouts):
        sampled[i, : len(r.logprobs)] = torch.tensor(r.logprobs)
    return float(masked_mean((sampled.exp() - batch.old.exp()).abs(), batch.mask))


def _probed(state: PPOState) -> Probed:
    return Probed(state.step, "policy", answer(state.base, state.probes, state.roles["policy"],
                                               state.roles["reference"], state.roles.get("reward")))  # fmt: skip


def _se(x: Tensor) -> float:
    """Standard error of the mean; 0 for fewer than two values."""
    return float(x.float().std() / len(x) ** 0.5) if len(x) > 1 else 0.0
