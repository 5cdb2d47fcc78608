"""Group-relative policy optimisation and its family: sample groups, reward, compare within the group, update.

    A_i = how much better completion i of a prompt did than the other completions of that prompt
    L   = Σ_t w_t c_t surrogate(π_t / π_old,t, A_i) + β Σ_t w_t KL_t          w from the reduction, c the correction

No critic: the group is the baseline. The variants (GRPO, Dr. GRPO, DAPO, GSPO, CISPO, RLOO, REINFORCE++, …) differ in
how a reward becomes an advantage, in the level of the ratio, in what the loss is averaged over and in where the KL
stands; `lab/objectives/variants.py` has them, each with its equation, its source and when to use it.

The members of a group share their prompt's tokens in every pass. Old log-probabilities come from the training forward,
never from the sampler; with one update a step they are those of the update itself. Dynamic sampling asks further
prompts in place of those whose completions all earn the same.

When to use: With rewards that can be computed for every sample, above all ones that can be checked, and without the
memory or the will for a critic. A prompt whose completions all earn the same teaches nothing; KL weights are not PPO's,
because advantages are divided by the spread of a group.

Source: Shao et al. 2024, "DeepSeekMath" (GRPO); the variants as cited with each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from lab.base import SharedBase
from lab.config import GroupConfig
from lab.data import batch_at
from lab.encode import TokenPrompt, encode_prompts
from lab.events import Checked, Event, Probed, Progress, Skipped, Started, Updated, spreads
from lab.feedback.groups import ScoredGroups, joined, sample_groups
from lab.feedback.rewards import Rewards
from lab.learner import Learner, apply_gradients, finite, learning_rate
from lab.objectives import (
    ESTIMATORS,
    approx_kl,
    k1,
    k3_corrected,
    kept_rows,
    length_mask,
    masked_mean,
    missing_end,
    reward_to_tokens,
    token_weights,
    weighted_sum,
    whiten,
)
from lab.objectives.group import ADVANTAGES, flat_groups, gdpo, overlong, returns_to_go
from lab.objectives.surrogate import SURROGATES, correction
from lab.pack import Row
from lab.pack import split as passes
from lab.probes import Probes, answer
from lab.records import PromptRow, prompt_text
from lab.score import token_scores


@dataclass
class GroupState(Learner):
    """State of a run of the group family. `numbers["drawn"]` counts the prompts taken from the data so far."""

    prompts: Sequence[TokenPrompt] = ()
    skipped: Sequence[Skipped] = ()
    probes: Probes = field(default_factory=Probes)
    rewards: Rewards | None = None


@dataclass(frozen=True)
class Groups:
    """One step's experience: the completions as `ScoredGroups` describes them, B in all, and their credit.

    scores (B,)  : the rewards after clip, missing end and length
    old (B, T)   : the policy's log-probabilities in nats, or None where the update's own serve
    advantages, mask : (B, T) · kept : (B,) completions that take part in the loss
    drawn, flat, rounds : prompts taken from the data, share of groups of equal rewards, rounds of sampling
    """

    found: ScoredGroups
    scores: Tensor
    old: Tensor | None
    advantages: Tensor
    mask: Tensor
    kept: Tensor
    drawn: int
    flat: float
    rounds: int


def start(
    base: SharedBase,
    prompts: Sequence[PromptRow],
    config: GroupConfig,
    rewards: Rewards,
    *,
    policy: str = "policy",
    prefix: str = "",
    probes: Probes | None = None,
) -> GroupState:
    """A state at step 0: the policy's role is on the base already, and a frozen copy of it becomes the reference."""
    encoded = encode_prompts(base.chat, prompts, base.window - config.max_new_tokens)
    names = {"policy": policy, "reference": f"{prefix}reference"}
    base.fork(policy, names["reference"], head=False)
    names |= {f"reward-{i}" if i else "reward": role for i, role in enumerate(rewards.roles)}
    return GroupState(base, names, ("policy",), config.steps, numbers={"updates": 0.0, "drawn": 0.0},
                      prompts=encoded.some(), skipped=encoded.events(), probes=probes or Probes(),
                      rewards=rewards)  # fmt: skip


def group(state: GroupState, config: GroupConfig) -> Iterator[Event]:
    """Trains `policy` until `state.total` steps are done; goes on from `state.step`."""
    yield Started("grpo", state.step, state.total)
    if state.step == 0:
        yield from state.skipped
        yield _probed(state)
    while state.step < state.total:
        now = replace(config, **state.live)
        began = time.perf_counter()
        yield Progress(state.step, "sampling", 0, now.batch)
        batch = experience(state, now)
        frozen = state.frozen() if state.step == 0 else None
        yield Progress(state.step, "updating", 0, now.epochs * now.minibatches)
        state.own()  # after the last yield before learning: another run may have had the turn
        metrics = learn(state, now, batch) | describe(state, batch)
        state.numbers["drawn"] += batch.drawn
        state.step += 1
        metrics["step_s"] = time.perf_counter() - began
        found = batch.found
        yield Updated(state.step, metrics, spreads(reward=found.earned.total.tolist(), length=found.lengths.tolist(),
                                                   advantage=batch.advantages[batch.mask].tolist()))  # fmt: skip
        yield from checks(state, now, batch, metrics, frozen)
        if state.step == state.total or (now.probe_every and state.step % now.probe_every == 0):
            yield _probed(state)


def experience(state: GroupState, config: GroupConfig) -> Groups:
    """Samples groups, rewards them and gives every completion its advantage.

    With dynamic sampling, groups of equal rewards are left out and as many further prompts are asked, up to
    `resamples` rounds; if no group differs at all, those of the last round stay and teach nothing.
    """
    assert state.rewards is not None
    assert config.group is not None
    used: list[ScoredGroups] = []
    missing, drawn, flats, round_ = config.prompts, 0, 0, 0
    most = config.resamples if config.dynamic_sampling else 1
    while missing and round_ < most:
        place = int(state.numbers["drawn"]) + drawn
        prompts = [state.prompts[batch_at(place + i, len(state.prompts), 1, config.seed)[0]] for i in range(missing)]
        found = sample_groups(state.base, prompts, state.rewards, policy=state.roles["policy"], size=config.group,
                              reference=state.roles["reference"], temperature=config.temperature,
                              max_new_tokens=config.max_new_tokens, seed=(config.seed, state.step, round_),
                              tokens_per_pass=config.tokens_per_pass, score_policy=needs_old(config))  # fmt: skip
        flat = flat_groups(scored(config, found).view(-1, config.group))
        drawn, flats, round_ = drawn + missing, flats + int(flat.sum()), round_ + 1
        if not config.dynamic_sampling or (not used and bool(flat.all()) and round_ == most):
            flat = torch.zeros_like(flat)
        if not bool(flat.all()):
            used.append(found.only(~flat))
        missing -= int((~flat).sum())
    return _credited(state, config, joined(used), drawn, flats / drawn, round_)


def scored(config: GroupConfig, found: ScoredGroups) -> Tensor:
    """(B,) the rewards clipped, less what a missing end costs, less what too great a length costs."""
    total = found.earned.total.to(found.ended.device)
    clipped = total.clamp(-config.reward_clip, config.reward_clip) if config.reward_clip else total
    scores = missing_end(clipped, found.ended, config.missing_end)
    if not config.overlong:
        return scores
    buffer = max(1, round(config.overlong * config.max_new_tokens))
    return scores + overlong(found.lengths, config.max_new_tokens, buffer)


def needs_old(config: GroupConfig) -> bool:
    """Whether the policy is scored before the update: with one update a step, its own log-probabilities are the old."""
    return config.epochs * config.minibatches > 1 or bool(config.kl_in_reward)


def _credited(
    state: GroupState, config: GroupConfig, found: ScoredGroups, drawn: int, flat: float, rounds: int
) -> Groups:
    """Every completion's advantage, on its tokens."""
    mask = length_mask(found.lengths, found.reference.shape[1])
    kept = kept_rows(found.ended, str(config.truncated))
    scores = scored(config, found)
    advantages = _advantages(state, config, found, scores, mask, kept)
    return Groups(found, scores, found.policy, advantages, mask, kept, drawn, flat, rounds)


def _advantages(
    state: GroupState, config: GroupConfig, found: ScoredGroups, scores: Tensor, mask: Tensor, kept: Tensor
) -> Tensor:
    """(B, T): the advantage of each completion on all its tokens, or, whitened per token, of what is still to come.

    A KL in the reward counts for whole completions, r − β Σ_t k1_t, where whole completions are compared, and token
    by token where tokens are.
    """
    G, beta = int(config.group or 1), float(config.kl_in_reward or 0)
    kl = k1(found.policy, found.reference, mask) if found.policy is not None else torch.zeros_like(found.reference)
    if config.whiten_tokens:
        centred = ADVANTAGES[str(config.advantage)](scores.view(-1, G)).view(-1)
        tokens = returns_to_go(reward_to_tokens(centred, kl, found.lengths, beta), found.lengths, 1.0)
        return whiten(tokens, mask & kept[:, None])
    if config.advantage == "gdpo":
        assert state.rewards is not None
        parts = torch.stack(list(found.earned.parts.values()), 1).nan_to_num(0.0).to(scores)
        weights = parts.new_tensor([t.weight for t in state.rewards.terms])
        each = gdpo(parts.view(-1, G, parts.shape[1]), weights).view(-1)
    else:
        each = ADVANTAGES[str(config.advantage)]((scores - beta * kl.sum(1)).view(-1, G)).view(-1)
    return torch.where(mask, each[:, None], 0.0)


def learn(state: GroupState, config: GroupConfig, batch: Groups) -> dict[str, float]:
    """`epochs` passes over the step's completions, each in `minibatches` optimizer updates."""
    noise = np.random.default_rng([config.seed, state.step, 1])
    n = len(batch.found.rollouts)
    seen: list[dict[str, float]] = []
    for _ in range(config.epochs):
        order = noise.permutation(n) if config.minibatches > 1 else np.arange(n)
        for rows in np.array_split(order, config.minibatches):
            seen.append(_update(state, config, batch, torch.from_numpy(rows)))
    first = ("ratio_gap", "sampler_gap", "kl", "kl_se", "kl_max")
    out = {key: float(np.mean([m[key] for m in seen])) for key in seen[0] if key not in first}
    if config.minibatches > 1:  # the first update saw only some of the completions
        assert batch.old is not None
        return out | _distances(batch, batch.old) | {"ratio_gap": seen[0]["ratio_gap"]}
    return out | {key: seen[0][key] for key in first}


def _update(state: GroupState, config: GroupConfig, batch: Groups, rows: Tensor) -> dict[str, float]:
    """One optimizer update on these rows, in as many passes as `tokens_per_pass` asks for."""
    weights = token_weights(batch.mask[rows], str(config.reduction), batch.kept[rows], config.max_new_tokens)
    chosen = [batch.found.rollouts[i] for i in rows.tolist()]
    totals: dict[str, Tensor] = {}
    now = torch.zeros_like(batch.found.reference[rows])
    for part in passes([Row("", r.prompt_ids, r.completion_ids) for r in chosen], config.tokens_per_pass):
        figures, logprobs = _pass(state, config, batch, rows[part], weights[part])
        now[part, : logprobs.shape[1]] = logprobs.detach()
        evidence = {"completions": [chosen[i].completion for i in part], "prompts": [prompt_text(chosen[i].prompt)
                    for i in part], "advantages": batch.advantages[rows[part]]}  # fmt: skip
        finite(figures["loss"], state, evidence).backward()
        for key, value in figures.items():
            combine = torch.maximum if key == "ratio_gap" else torch.add
            totals[key] = combine(totals[key], value.detach()) if key in totals else value.detach()
    rate = learning_rate(state.step, state.total, config.lr, config.warmup, config.schedule)
    norm = apply_gradients(state, "policy", rate, rate, config.max_grad_norm, config.adam_eps)
    state.numbers["updates"] += 1
    distances = _distances(batch, now) if len(rows) == len(batch.found.rollouts) else {}
    return {key: float(value) for key, value in totals.items()} | {"grad_norm": norm, "lr": rate} | distances


def _pass(
    state: GroupState, config: GroupConfig, batch: Groups, rows: Tensor, weights: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """This pass's part of the update's loss and figures, and the policy's log-probabilities."""
    rollouts = [batch.found.rollouts[i] for i in rows.tolist()]
    packed = state.base.pack([Row(state.roles["policy"], r.prompt_ids, r.completion_ids) for r in rollouts])
    logprobs, entropy, _ = token_scores(state.base, state.base.forward(packed), packed, temperature=config.temperature)
    width = logprobs.shape[1]
    mask, weights = batch.mask[rows, :width], weights[:, :width]
    old = logprobs.detach() if batch.old is None else batch.old[rows, :width]
    reference, sampled = batch.found.reference[rows, :width], batch.found.sampled[rows, :width]
    assert config.clip_low is not None
    assert config.clip_high is not None
    policy = SURROGATES[str(config.surrogate)](logprobs, old, batch.advantages[rows, :width], config.clip_low,
                                               config.clip_high, mask)  # fmt: skip
    corrected = correction(old, sampled, mask, config.correction, config.correction_level, config.correction_low,
                           config.correction_high)  # fmt: skip
    loss = weighted_sum(policy.loss * corrected, weights)
    out = {"policy_loss": loss, "clip_fraction": _share(policy.clipped, mask, batch.mask),
           "approx_kl": _share(approx_kl(logprobs.detach(), old, mask), mask, batch.mask),
           "entropy": _share(entropy, mask, batch.mask), "correction": _share(corrected, mask, batch.mask),
           "ratio_gap": (torch.where(mask, (logprobs.detach() - old).exp(), 1.0) - 1).abs().max()}  # fmt: skip
    if config.kl_in_loss:
        kl = _kl(str(config.kl_estimator), logprobs, reference, mask, old)
        out["kl_loss"] = weighted_sum(kl, weights)
        loss = loss + config.kl_in_loss * out["kl_loss"]
    return {"loss": loss} | out, logprobs


def _kl(name: str, logprobs: Tensor, reference: Tensor, mask: Tensor, old: Tensor) -> Tensor:
    if name == "k3_corrected":
        return k3_corrected(logprobs, reference, mask, old)
    return ESTIMATORS[name](logprobs, reference, mask)


def _share(x: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """This part's share of the mean of x over all counted tokens of the step."""
    return torch.where(mask, x.float(), 0.0).sum() / whole.sum().clamp(min=1)


def _distances(batch: Groups, policy: Tensor) -> dict[str, float]:
    """KL to the reference (k1, summed per completion), and the gap between sampler and trainer in probability."""
    kl = k1(policy, batch.found.reference, batch.mask).sum(1)
    gap = masked_mean((batch.found.sampled.exp() - policy.exp()).abs(), batch.mask)
    return {"kl": float(kl.mean()), "kl_se": _se(kl), "kl_max": float(kl.abs().max()), "sampler_gap": float(gap)}


def describe(state: GroupState, batch: Groups) -> dict[str, float]:
    """Figures of the step's completions: rewards, groups that teach nothing, lengths, ends."""
    n = len(batch.found.rollouts)
    out = {"reward": float(batch.found.earned.total.mean()), "reward_se": _se(batch.found.earned.total),
           "score": float(batch.scores.mean()), "flat_groups": batch.flat, "rounds": float(batch.rounds),
           "length": float(batch.found.lengths.float().mean()), "ended": sum(r.ended for r in batch.found.rollouts) / n,
           "updates": state.numbers["updates"]} | batch.found.earned.figures()  # fmt: skip
    if state.probes.gold is not None:
        gold = torch.tensor([state.probes.gold(prompt_text(r.prompt), r.completion, r.ended).score
                             for r in batch.found.rollouts])  # fmt: skip
        out |= {"gold": float(gold.mean()), "gold_se": _se(gold)}
    return out


def checks(
    state: GroupState, config: GroupConfig, batch: Groups, metrics: dict[str, float], frozen: dict[str, str] | None
) -> Iterator[Checked]:
    """The invariants, looked at in every step; those about the start only in the first."""
    step = state.step
    limit = 1e-4 if state.base.device.type == "cpu" else 2e-2
    if batch.old is not None and (config.minibatches == 1 or step == 1):
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
    want = step * config.epochs * config.minibatches
    yield Checked(step, "updates", state.numbers["updates"] == want, state.numbers["updates"], want,
                  "optimizer updates = steps × passes × minibatches")  # fmt: skip


def _probed(state: GroupState) -> Probed:
    return Probed(state.step, "policy", answer(state.base, state.probes, state.roles["policy"],
                                               state.roles["reference"], state.roles.get("reward")))  # fmt: skip


def _se(x: Tensor) -> float:
    """Standard error of the mean; 0 for fewer than two values."""
    return float(x.float().std() / len(x) ** 0.5) if len(x) > 1 else 0.0
