"""Online preference learning: two completions of every prompt are sampled now, one is preferred, the policy learns.

    y, y' sampled      p = P(y ≻ y'), from the rewards of both      one update of

    dpo, …     p L(y, y') + (1 − p) L(y', y)                        y and y' of the policy; any objective for pairs
    xpo        the same with DPO's L, + α log π(y')                 y' of the reference: a bonus for leaving it
    nash_md    −(p − ½ − β log π(y) / π_ref(y)) log π(y)            y' of the mixture π^(1 − α) π_ref^α: an opponent

Any reward can judge: a reward model, an ensemble, a verifier, a program. Its verdict is that the higher reward wins
(p is 1, or ½ in a tie), or, as Bradley and Terry have it, p = σ(r(y) − r(y')). With the latter the pair objectives end
where E[r] − β KL does; with verdicts DPO has no end, since no finite margin makes a pair certain.

With `judge` = asked the run says `Ask` with its pairs and waits for whoever answers: people, a judge, a program.
A pair left open is left out, and nobody is asked about two completions that say the same.

One update a step, unless `epochs` asks for more passes over pairs that were dear; in the first one its own
log-probabilities are those the policy's completions were sampled with. Reference and rewards score in one pass, both
completions share their prompt's tokens, and never their noise: equal roles would say the same.

When to use: With a judge at hand that compares fresh answers, where pairs collected once have gone stale: what the
policy begins to say is judged as it says it. The judge is asked at every step, so it must be cheap, and it is exploited
like any reward.

Source: Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback"; Xie et al. 2024, "Exploratory
Preference Optimization"; Munos et al. 2023, "Nash Learning from Human Feedback".
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lab.base import SharedBase
from lab.config.online import ALONE, OnlineConfig
from lab.data import batch_at
from lab.encode import TokenPrompt, encode_prompts
from lab.events import Ask, Checked, Event, Probed, Progress, Skipped, Started, Updated
from lab.feedback.duels import Duels, comparisons, judged, ruled, whole
from lab.feedback.rewards import RewardError, Rewards
from lab.learner import Learner, apply_gradients, finite, learning_rate
from lab.objectives import accuracy, k1, length_mask, masked_mean, missing_end, weighted_sum
from lab.objectives.online import nash_md, xpo
from lab.objectives.preference import OBJECTIVES, Pairs, preference_loss, start_loss
from lab.pack import Row
from lab.pack import split as passes
from lab.probes import Probes, answer
from lab.records import PromptRow, Rollout, prompt_text
from lab.sample import sample
from lab.score import TokenScores, score, token_scores


@dataclass
class OnlineState(Learner):
    """State of a run of online preference learning."""

    prompts: Sequence[TokenPrompt] = ()
    skipped: Sequence[Skipped] = ()
    probes: Probes = field(default_factory=Probes)
    rewards: Rewards | None = None


def start(
    base: SharedBase,
    prompts: Sequence[PromptRow],
    config: OnlineConfig,
    rewards: Rewards | None,
    *,
    policy: str = "policy",
    prefix: str = "",
    probes: Probes | None = None,
) -> OnlineState:
    """A state at step 0: the policy's role is on the base already, and a frozen copy of it becomes the reference.

    rewards : who judges; may be None where the run asks (`judge` = asked)
    """
    if rewards is None and config.judge != "asked":
        raise RewardError("Nothing says what a completion earns; give rewards, or judge=asked.")
    encoded = encode_prompts(base.chat, prompts, base.window - config.max_new_tokens)
    names = {"policy": policy, "reference": f"{prefix}reference"}
    base.fork(policy, names["reference"], head=False)
    names |= {f"reward-{i}" if i else "reward": role for i, role in enumerate(rewards.roles if rewards else ())}
    return OnlineState(base, names, ("policy",), config.steps, numbers={"updates": 0.0}, prompts=encoded.some(),
                       skipped=encoded.events(), probes=probes or Probes(), rewards=rewards)  # fmt: skip


def online(state: OnlineState, config: OnlineConfig) -> Iterator[Event]:
    """Trains `policy` until `state.total` steps are done; goes on from `state.step`."""
    yield Started("online", state.step, state.total)
    if state.step == 0:
        yield from state.skipped
        yield _probed(state)
    while state.step < state.total:
        now = replace(config, **state.live)
        began = time.perf_counter()
        yield Progress(state.step, "sampling", 0, now.batch)
        duels = experience(state, now)
        if now.judge == "asked":
            ask = Ask(state.step + 1, comparisons(duels))
            while ask.reply.verdicts is None:
                yield ask
            duels = ruled(duels, ask.reply.verdicts, now.ties, now.truncated)
        frozen = state.frozen() if state.step == 0 else None
        yield Progress(state.step, "updating", 0, now.epochs)
        state.own()  # after the last yield before learning: another run may have had the turn
        metrics = learn(state, now, duels) | describe(state, now, duels)
        state.step += 1
        metrics["step_s"] = time.perf_counter() - began
        yield Updated(state.step, metrics)
        yield from checks(state, now, duels, metrics, frozen)
        if state.step == state.total or (now.probe_every and state.step % now.probe_every == 0):
            yield _probed(state)


def asked(state: OnlineState, config: OnlineConfig) -> list[TokenPrompt]:
    """The prompts of the step."""
    return [state.prompts[i] for i in batch_at(state.step, len(state.prompts), config.prompts, config.seed)]


def duel(state: OnlineState, config: OnlineConfig) -> list[Rollout]:
    """Two completions of each of the step's prompts: one of the policy, one of whom the objective sets against it."""
    policy, reference = state.roles["policy"], state.roles["reference"]
    prompts = [p.prompt for p in asked(state, config)]

    def said(roles: tuple[str, ...], place: int, per_prompt: int = 1) -> list[Rollout]:
        return sample(state.base, prompts, roles, temperature=config.temperature, seed=(config.seed, state.step, place),
                      max_new_tokens=config.max_new_tokens, per_prompt=per_prompt,
                      mixture=config.mixture if len(roles) == 2 else None)  # fmt: skip

    if config.objective not in ALONE:
        return said((policy,), 0, per_prompt=2)
    other = (reference,) if config.objective == "xpo" else (policy, reference)
    return [r for pair in zip(said((policy,), 0), said(other, 1), strict=True) for r in pair]


def experience(state: OnlineState, config: OnlineConfig) -> Duels:
    """Samples the pairs, scores them under reference and rewards in one pass, and has one of each pair preferred."""
    rollouts = duel(state, config)
    roles = state.rewards.roles if state.rewards else ()
    want = {state.roles["reference"]: "logprobs"} | dict.fromkeys(roles, "reward")
    pairs = [(r.prompt_ids, r.completion_ids) for r in rollouts]
    known = score(state.base, pairs, want, config.temperature, config.tokens_per_pass)
    reference = known[state.roles["reference"]]
    columns = [p.columns for p in asked(state, config) for _ in range(2)]
    earned = state.rewards.earn(rollouts, columns, known) if state.rewards else None
    ended = torch.tensor([r.ended for r in rollouts], device=reference.device)
    lengths = torch.tensor([len(r.completion_ids) for r in rollouts], device=reference.device)
    sampled = pad_sequence([torch.tensor(r.logprobs) for r in rollouts], batch_first=True).to(reference)
    total = torch.zeros(len(rollouts)) if earned is None else earned.total
    scores = missing_end(total.to(reference), ended, config.missing_end).view(-1, 2)
    same = torch.tensor([a == b for a, b in zip(pairs[::2], pairs[1::2], strict=True)], device=reference.device)
    gap = torch.where(same, 0.0, scores[:, 0] - scores[:, 1])  # the same words are a tie, whatever rounding says
    tied = gap == 0
    counted = (~tied | (config.ties == "half")) & whole(config.truncated, rollouts).to(reference.device)
    mine = torch.tensor([r.role == state.roles["policy"] for r in rollouts], device=reference.device)
    return Duels(rollouts, earned, scores, judged(gap, config.judge), tied, counted, same, mine, sampled, reference,
                 length_mask(lengths, reference.shape[1]))  # fmt: skip


def learn(state: OnlineState, config: OnlineConfig, duels: Duels) -> dict[str, float]:
    """`epochs` updates on the step's pairs: the figures of the first, and where there are more the loss of the last."""
    seen = [update(state, config, duels) for _ in range(config.epochs)]
    return seen[0] | ({"last_loss": seen[-1]["loss"]} if len(seen) > 1 else {})


def update(state: OnlineState, config: OnlineConfig, duels: Duels) -> dict[str, float]:
    """One optimizer update on the step's pairs, in as many passes as `tokens_per_pass` asks for; all give the same."""
    weights = duels.counted / duels.counted.sum().clamp(min=1)
    parts = [torch.tensor(part, device=weights.device) for part in _parts(config, duels)]
    coupled = len(parts) > 1 and any(name in OBJECTIVES and OBJECTIVES[name].coupled for name, _ in config.terms())
    ahead = _ahead(state, config, duels, parts, weights) if coupled else None
    now, entropy, lost = torch.zeros_like(duels.reference), torch.zeros_like(duels.reference), []
    for part in parts:
        read = _read(state, config, duels, part)
        sums = read.logprobs.sum(1).view(len(part), -1)
        if ahead is None:
            each = losses(config, duels, part, sums)
            value = weighted_sum(each, weights[part])
        else:
            each, value = ahead.losses[part], (sums * ahead.slopes[part]).sum()
        rows = _rows(config, part)
        chosen = [duels.rollouts[i] for i in rows.tolist()]
        evidence = {"prompts": [prompt_text(r.prompt) for r in chosen], "completions": [r.completion for r in chosen],
                    "scores": duels.scores[part], "preference": duels.preference[part]}  # fmt: skip
        finite(value, state, evidence).backward()
        width = read.logprobs.shape[1]
        now[rows, :width], entropy[rows, :width] = read.logprobs.detach(), read.entropy
        lost.append(each.detach())
    rate = learning_rate(state.step, state.total, config.lr, config.warmup, config.schedule)
    norm = apply_gradients(state, "policy", rate, rate, config.max_grad_norm, config.adam_eps)
    state.numbers["updates"] += 1
    out = {"loss": float(weighted_sum(torch.cat(lost), weights)), "lr": rate, "grad_norm": norm}
    return out | _distances(duels, now, entropy) | figures(config, duels, now)


def losses(config: OnlineConfig, duels: Duels, part: Tensor, sums: Tensor) -> Tensor:
    """(p,) losses of these p pairs, 0 for those that do not count; sums (p, 1 or 2) are log π of their completions."""
    kept = torch.nonzero(duels.counted[part])[:, 0]
    at, own = part[kept], sums[kept]
    p, reference = duels.preference[at], duels.reference.sum(1).view(-1, 2)[at]
    beta, alpha = float(config.beta or 0), float(config.exploration or 0)
    if config.objective == "nash_md":
        each = nash_md(own[:, 0], reference[:, 0], p, beta)
    elif config.objective == "xpo":
        (y, other), (y_ref, other_ref) = own.unbind(1), reference.unbind(1)
        won, lost = (xpo(y, other, y_ref, other_ref, verdict, beta, alpha) for verdict in (p >= 0, p < 0))
        each = p * won + (1 - p) * lost
    else:
        each = _pair_losses(config, own, reference, duels.mask.sum(1).view(-1, 2)[at], p)
    return sums.new_zeros(len(part)).index_put((kept,), each)


def _pair_losses(config: OnlineConfig, sums: Tensor, reference: Tensor, lengths: Tensor, p: Tensor) -> Tensor:
    """(p,) losses of a pair objective: the better completion is the chosen one, with the probability that it is."""
    order = torch.stack([p < 0.5, p >= 0.5], 1).long()  # columns of the chosen and of the rejected
    sides = [side for x in (sums, reference, lengths) for side in x.gather(1, order).unbind(1)]
    label = torch.maximum(p, 1 - p)
    terms, knobs = config.terms(), config.knobs()
    right = preference_loss(Pairs(*sides), terms, knobs)
    if bool((label == 1).all()):
        return right
    wrong = preference_loss(Pairs(*(sides[i] for i in (1, 0, 3, 2, 5, 4))), terms, knobs)
    return label * right + (1 - label) * wrong


class _Ahead(NamedTuple):
    """losses (P,) of a whole update; slopes (P, 2): derivatives of their weighted sum by every log-probability."""

    losses: Tensor
    slopes: Tensor


def _ahead(state: OnlineState, config: OnlineConfig, duels: Duels, parts: Sequence[Tensor], weights: Tensor) -> _Ahead:
    """The losses of pairs that look at each other, and what each log-probability contributes, before any backward."""
    with torch.no_grad():
        sums = torch.cat([_read(state, config, duels, part).logprobs.sum(1).view(-1, 2) for part in parts])
    sums.requires_grad_()
    each = losses(config, duels, torch.cat(list(parts)), sums)  # the parts follow each other: 0, 1, 2, …
    (slopes,) = torch.autograd.grad(weighted_sum(each, weights), sums)
    return _Ahead(each.detach(), slopes)


def _rows(config: OnlineConfig, part: Tensor) -> Tensor:
    """The completions of these pairs whose log-probability under the policy the objective looks at."""
    return 2 * part if config.objective == "nash_md" else torch.stack([2 * part, 2 * part + 1], 1).view(-1)


def _parts(config: OnlineConfig, duels: Duels) -> list[list[int]]:
    """Numbers of pairs, in order, in parts of at most `tokens_per_pass` packed tokens (one pair at least)."""
    both = zip(duels.rollouts[::2], duels.rollouts[1::2], strict=True)
    return passes([Row("", a.prompt_ids, a.completion_ids + b.completion_ids) for a, b in both], config.tokens_per_pass)


def _read(state: OnlineState, config: OnlineConfig, duels: Duels, part: Tensor) -> TokenScores:
    """The policy on these pairs, from one packed tree."""
    rollouts = [duels.rollouts[i] for i in _rows(config, part).tolist()]
    packed = state.base.pack([Row(state.roles["policy"], r.prompt_ids, r.completion_ids) for r in rollouts])
    return token_scores(state.base, state.base.forward(packed), packed, temperature=config.temperature)


def _distances(duels: Duels, now: Tensor, entropy: Tensor) -> dict[str, float]:
    """Of the policy's own completions: KL to the reference (k1, summed per completion), entropy per token, and the gap
    between sampler and trainer in probability."""
    mine, mask = duels.mine, duels.mask[duels.mine]
    kl = k1(now[mine], duels.reference[mine], mask).sum(1)
    gap = masked_mean((duels.sampled[mine].exp() - now[mine].exp()).abs(), mask)
    return {"kl": float(kl.mean()), "kl_se": _se(kl), "kl_max": float(kl.abs().max()),
            "entropy": float(masked_mean(entropy[mine], mask)), "sampler_gap": float(gap)}  # fmt: skip


def figures(config: OnlineConfig, duels: Duels, now: Tensor) -> dict[str, float]:
    """How the policy's own reward β log π / π_ref ranks the pairs of which one is better; nothing for Nash-MD."""
    decided = duels.preference != 0.5
    if config.objective == "nash_md" or not bool(decided.any()):
        return {}
    rewards = (1.0 if config.beta is None else config.beta) * (now - duels.reference).sum(1).view(-1, 2)[decided]
    better = duels.preference[decided] > 0.5
    chosen, rejected = (torch.where(first, *rewards.unbind(1)) for first in (better, ~better))
    return {"margin": float((chosen - rejected).mean()), "accuracy": float(accuracy(chosen, rejected).mean())}


def describe(state: OnlineState, config: OnlineConfig, duels: Duels) -> dict[str, float]:
    """Figures of the policy's own completions, and of the verdicts."""
    mine = duels.mine.cpu()
    own = [r for r, m in zip(duels.rollouts, mine.tolist(), strict=True) if m]
    out = {"ties": float(duels.tied.float().mean()), "used": float(duels.counted.float().mean()),
           "length": sum(len(r.completion_ids) for r in own) / len(own), "ended": sum(r.ended for r in own) / len(own),
           "updates": state.numbers["updates"]}  # fmt: skip
    if duels.earned is not None:
        reward = duels.earned.total[mine]
        out |= {"reward": float(reward.mean()), "reward_se": _se(reward),
                "score": float(duels.scores.view(-1)[duels.mine].mean())} | duels.earned.figures()  # fmt: skip
    if config.objective in ALONE:
        out |= {"win_rate": float(duels.preference.mean())}
        if duels.earned is not None:
            out |= {"reward_other": float(duels.earned.total[~mine].mean())}
    if state.probes.gold is not None:
        gold = torch.tensor([state.probes.gold(prompt_text(r.prompt), r.completion, r.ended).score for r in own])
        out |= {"gold": float(gold.mean()), "gold_se": _se(gold)}
    return out


def first_loss(config: OnlineConfig, duels: Duels) -> float | None:
    """The loss of these pairs while the policy is its reference; None where the objective has no reference."""
    if config.objective not in ALONE:
        return start_loss(config.terms(), config.knobs())
    own, other = duels.reference.sum(1).view(-1, 2)[duels.counted].unbind(1)
    if config.objective == "xpo":
        return math.log(2) + float(config.exploration or 0) * float(other.mean())
    return -float(((duels.preference[duels.counted] - 0.5) * own).mean())


def checks(
    state: OnlineState, config: OnlineConfig, duels: Duels, metrics: dict[str, float], frozen: dict[str, str] | None
) -> Iterator[Checked]:
    """The invariants, looked at in every step; those about the start only in the first."""
    step = state.step
    if step == 1:
        gap = metrics["kl_max"]
        yield Checked(step, "first KL", gap <= 1e-4, gap, 1e-4, "the run starts at its reference: KL is 0")
        want = first_loss(config, duels) if bool(duels.counted.any()) else None
        if want is not None:
            gap, limit = abs(metrics["loss"] - want), 1e-4 * max(1.0, abs(want))
            yield Checked(step, "first loss", gap <= limit, gap, limit,
                          f"where the policy is its reference, the loss is {want:.6g}")  # fmt: skip
    gap = metrics["sampler_gap"]
    yield Checked(step, "sampler gap", gap <= 0.01, gap, 0.01, "sampler and trainer agree on probabilities")
    if frozen is not None:
        moved = [name for name, digest in state.frozen().items() if digest != frozen[name]]
        yield Checked(step, "frozen roles", not moved, len(moved), 0, "no frozen role changed by a bit")
    want = step * config.epochs
    yield Checked(step, "updates", state.numbers["updates"] == want, state.numbers["updates"], want,
                  "optimizer updates = steps × passes")  # fmt: skip


def _probed(state: OnlineState) -> Probed:
    return Probed(state.step, "policy", answer(state.base, state.probes, state.roles["policy"],
                                               state.roles["reference"], state.roles.get("reward")))  # fmt: skip


def _se(x: Tensor) -> float:
    """Standard error of the mean; 0 for fewer than two values."""
    return float(x.float().std() / len(x) ** 0.5) if len(x) > 1 else 0.0
