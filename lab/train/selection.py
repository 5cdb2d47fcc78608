"""Rejection sampling: sample many completions of every prompt, keep the good ones, imitate them, and again.

    y_1 … y_n ~ π(· | x)          keep           L = − Σ_t log π(y_t) / tokens, over all that is kept of an update

    best (RAFT)     the one of the highest reward: π moves to its own best-of-n, ln n − (n − 1) / n nats away at most
    rejection       y_i with probability exp((r_i − max_j r_j) / β): π moves to π exp(r / β) / Z, nearly

No ratio and no reference is in the loss: it is fine-tuning on what was selected, and each round selects from the policy
of the round before. Rounds add up: after k of them `rejection` has aimed at π_ref exp(k r / β) / Z. The reference is
there to measure how far that is.

Rejection is how RSO draws its samples. RSO itself does not imitate them: the reward ranks them, and an objective for
pairs learns from that. `lab pairs --rule rso` makes such pairs, and `lab dpo` learns from them.

When to use: As the simplest way to learn from a reward: no ratio, no reference in the loss, nothing but fine-tuning on
what was best. It learns from the winners alone, so it needs many samples a prompt, and rounds add up without a brake.

Source: Dong et al. 2023, "RAFT: Reward rAnked FineTuning"; Liu et al. 2024, "Statistical Rejection Sampling Improves
Preference Optimization".
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from lab.base import SharedBase
from lab.config.selection import SelectionConfig
from lab.data import batch_at
from lab.encode import TokenPrompt, encode_prompts
from lab.events import Checked, Event, Probed, Progress, Skipped, Started, Updated
from lab.feedback.groups import ScoredGroups, sample_groups
from lab.feedback.rewards import Rewards
from lab.learner import Learner, apply_gradients, finite, learning_rate
from lab.objectives import k1, kept_rows, length_mask, masked_mean, missing_end, nll, token_weights, weighted_sum
from lab.objectives.group import flat_groups
from lab.objectives.selection import best_of, rso_accept
from lab.pack import Row
from lab.pack import split as passes
from lab.probes import Probes, answer
from lab.records import PromptRow, prompt_text
from lab.sample import generator
from lab.score import token_scores


@dataclass
class SelectionState(Learner):
    """State of a run of rejection sampling."""

    prompts: Sequence[TokenPrompt] = ()
    skipped: Sequence[Skipped] = ()
    probes: Probes = field(default_factory=Probes)
    rewards: Rewards | None = None


@dataclass(frozen=True)
class Selected:
    """One round's experience: B completions as `ScoredGroups` describes them, and which of them are kept.

    scores (B,)  : the rewards, less what a missing end costs
    kept (K,)    : numbers of the kept completions, in order
    learnt (K,)  : bool, those of them that count in the loss
    mask (B, T)  : tokens that count
    """

    found: ScoredGroups
    scores: Tensor
    kept: Tensor
    learnt: Tensor
    mask: Tensor


def start(
    base: SharedBase,
    prompts: Sequence[PromptRow],
    config: SelectionConfig,
    rewards: Rewards,
    *,
    policy: str = "policy",
    prefix: str = "",
    probes: Probes | None = None,
) -> SelectionState:
    """A state at step 0: the policy's role is on the base already, and a frozen copy of it becomes the reference."""
    encoded = encode_prompts(base.chat, prompts, base.window - config.max_new_tokens)
    names = {"policy": policy, "reference": f"{prefix}reference"}
    base.fork(policy, names["reference"], head=False)
    names |= {f"reward-{i}" if i else "reward": role for i, role in enumerate(rewards.roles)}
    return SelectionState(base, names, ("policy",), config.steps, numbers={"updates": 0.0}, prompts=encoded.some(),
                          skipped=encoded.events(), probes=probes or Probes(), rewards=rewards)  # fmt: skip


def selection(state: SelectionState, config: SelectionConfig) -> Iterator[Event]:
    """Trains `policy` until `state.total` rounds are done; goes on from `state.step`."""
    yield Started("raft", state.step, state.total)
    if state.step == 0:
        yield from state.skipped
        yield _probed(state)
    while state.step < state.total:
        now = replace(config, **state.live)
        began = time.perf_counter()
        yield Progress(state.step, "sampling", 0, now.batch)
        chosen = experience(state, now)
        frozen = state.frozen() if state.step == 0 else None
        yield Progress(state.step, "updating", 0, now.epochs * now.minibatches)
        state.own()  # after the last yield before learning: another run may have had the turn
        metrics = learn(state, now, chosen) | describe(state, now, chosen)
        state.step += 1
        metrics["step_s"] = time.perf_counter() - began
        yield Updated(state.step, metrics)
        yield from checks(state, now, metrics, frozen)
        if state.step == state.total or (now.probe_every and state.step % now.probe_every == 0):
            yield _probed(state)


def experience(state: SelectionState, config: SelectionConfig) -> Selected:
    """Samples the round's completions, rewards them, and keeps the good ones."""
    assert state.rewards is not None
    places = batch_at(state.step, len(state.prompts), config.prompts, config.seed)
    found = sample_groups(state.base, [state.prompts[i] for i in places], state.rewards, policy=state.roles["policy"],
                          reference=state.roles["reference"], size=config.samples, temperature=config.temperature,
                          max_new_tokens=config.max_new_tokens, seed=(config.seed, state.step, 0),
                          tokens_per_pass=config.tokens_per_pass, score_policy=True)  # fmt: skip
    scores = missing_end(found.earned.total.to(found.ended.device), found.ended, config.missing_end)
    kept = keep(config, scores.view(-1, config.samples), (config.seed, state.step, 1))
    learnt = kept_rows(found.ended[kept], config.truncated)
    return Selected(found, scores, kept, learnt, length_mask(found.lengths, found.reference.shape[1]))


def keep(config: SelectionConfig, scores: Tensor, seed: tuple[int, ...]) -> Tensor:
    """(K,) numbers of the completions that are kept, of scores (P, n); the best of every prompt is among them."""
    P, n = scores.shape
    if config.rule == "best":
        return torch.arange(P, device=scores.device) * n + best_of(scores)
    uniform = torch.rand(P, n, generator=generator(torch.device("cpu"), seed)).to(scores.device)
    return torch.nonzero(rso_accept(scores, float(config.beta or 0), uniform).view(-1))[:, 0]


def learn(state: SelectionState, config: SelectionConfig, chosen: Selected) -> dict[str, float]:
    """`epochs` passes over what was kept, each in `minibatches` optimizer updates."""
    noise = np.random.default_rng([config.seed, state.step, 2])
    n = len(chosen.kept)
    seen: list[dict[str, float]] = []
    for _ in range(config.epochs):
        order = noise.permutation(n) if config.minibatches > 1 else np.arange(n)
        for rows in np.array_split(order, config.minibatches):
            seen.append(update(state, config, chosen, torch.from_numpy(rows).to(chosen.kept.device)))
    return {key: float(np.mean([m[key] for m in seen])) for key in seen[0]} | {"first_loss": seen[0]["loss"]}


def update(state: SelectionState, config: SelectionConfig, chosen: Selected, rows: Tensor) -> dict[str, float]:
    """One optimizer update on these of the kept completions, in as many passes as `tokens_per_pass` asks for."""
    at = chosen.kept[rows]
    weights = token_weights(chosen.mask[at], "token_mean", chosen.learnt[rows])
    rollouts = [chosen.found.rollouts[i] for i in at.tolist()]
    packable = [Row(state.roles["policy"], r.prompt_ids, r.completion_ids) for r in rollouts]
    totals = {"loss": 0.0, "entropy": 0.0}
    for part in passes(packable, config.tokens_per_pass):
        packed = state.base.pack([packable[i] for i in part])
        read = token_scores(state.base, state.base.forward(packed), packed, temperature=config.temperature)
        counted = weights[part, : read.logprobs.shape[1]]
        loss = weighted_sum(nll(read.logprobs, counted != 0), counted)
        evidence = {"prompts": [prompt_text(rollouts[i].prompt) for i in part],
                    "completions": [rollouts[i].completion for i in part]}  # fmt: skip
        finite(loss, state, evidence).backward()
        totals["loss"] += float(loss.detach())
        totals["entropy"] += float(weighted_sum(read.entropy, counted))
    rate = learning_rate(state.step, state.total, config.lr, config.warmup, config.schedule)
    norm = apply_gradients(state, "policy", rate, rate, config.max_grad_norm, 1e-8, config.weight_decay)
    state.numbers["updates"] += 1
    return totals | {"lr": rate, "grad_norm": norm}


def describe(state: SelectionState, config: SelectionConfig, chosen: Selected) -> dict[str, float]:
    """Figures of the round's completions, as they were sampled, and of those kept.

    KL to the reference (k1, summed per completion) and the gap between sampler and trainer are those of all samples.
    """
    found, kept = chosen.found, chosen.kept.cpu()
    assert found.policy is not None
    total, lengths = found.earned.total, found.lengths.float().cpu()
    kl = k1(found.policy, found.reference, chosen.mask).sum(1)
    gap = masked_mean((found.sampled.exp() - found.policy.exp()).abs(), chosen.mask)
    out = {"reward": float(total.mean()), "reward_se": _se(total), "reward_kept": float(total[kept].mean()),
           "score": float(chosen.scores.mean()), "score_kept": float(chosen.scores[chosen.kept].mean()),
           "accepted": len(kept) / len(total), "learnt": float(chosen.learnt.float().mean()),
           "flat_groups": float(flat_groups(chosen.scores.view(-1, config.samples)).float().mean()),
           "kl": float(kl.mean()), "kl_se": _se(kl), "kl_max": float(kl.abs().max()), "sampler_gap": float(gap),
           "length": float(lengths.mean()), "length_kept": float(lengths[kept].mean()),
           "ended": float(found.ended.float().mean()), "ended_kept": float(found.ended.cpu()[kept].float().mean()),
           "updates": state.numbers["updates"]} | found.earned.figures()  # fmt: skip
    if state.probes.gold is not None:
        gold = torch.tensor([state.probes.gold(prompt_text(r.prompt), r.completion, r.ended).score
                             for r in found.rollouts])  # fmt: skip
        out |= {"gold": float(gold.mean()), "gold_se": _se(gold), "gold_kept": float(gold[kept].mean())}
    return out


def checks(
    state: SelectionState, config: SelectionConfig, metrics: dict[str, float], frozen: dict[str, str] | None
) -> Iterator[Checked]:
    """The invariants, looked at in every round; those about the start only in the first."""
    step = state.step
    if step == 1:
        gap = metrics["kl_max"]
        yield Checked(step, "first KL", gap <= 1e-4, gap, 1e-4, "the run starts at its reference: KL is 0")
    gap = metrics["sampler_gap"]
    yield Checked(step, "sampler gap", gap <= 0.01, gap, 0.01, "sampler and trainer agree on probabilities")
    if config.rule == "best":
        gap = metrics["score_kept"] - metrics["score"]
        yield Checked(step, "kept score", gap >= -1e-6, gap, 0.0, "the best score no less than the mean of all")
    if frozen is not None:
        moved = [name for name, digest in state.frozen().items() if digest != frozen[name]]
        yield Checked(step, "frozen roles", not moved, len(moved), 0, "no frozen role changed by a bit")
        norm = metrics["grad_norm"]
        yield Checked(step, "gradient", norm > 0 or not metrics["learnt"], norm, 0.0, "the policy gets a gradient")
    want = step * config.epochs * config.minibatches
    yield Checked(step, "updates", state.numbers["updates"] == want, state.numbers["updates"], want,
                  "optimizer updates = rounds × passes × minibatches")  # fmt: skip


def _probed(state: SelectionState) -> Probed:
    return Probed(state.step, "policy", answer(state.base, state.probes, state.roles["policy"],
                                               state.roles["reference"], state.roles.get("reward")))  # fmt: skip


def _se(x: Tensor) -> float:
    """Standard error of the mean; 0 for fewer than two values."""
    return float(x.float().std() / len(x) ** 0.5) if len(x) > 1 else 0.0
