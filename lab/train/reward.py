"""Reward model: a scalar head on the last token, trained on preferences.

    L = − log σ(r_c − r_r − margin) + c (r_c + r_r)²        mean over the pairs of the update

r is the head's reading of the hidden state of the last real token (the end token). Chosen and rejected share their
prompt's tokens. With a zero head the first loss is ln 2 exactly. When training is done, mean and spread of the rewards
on held-out completions are stored with the role, so that one unit of reward is one standard deviation.

Source: Bradley and Terry 1952; Ouyang et al. 2022 (InstructGPT), equation 1; centring: Eisenstein et al. 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lab.base import SharedBase
from lab.config import Adapter, RewardConfig
from lab.data import TokenPair, batch_at, encode_preferences, split, updates_in
from lab.events import Checked, Evaluated, Event, Probed, Progress, Sample, Skipped, Started, Updated
from lab.learner import Learner, apply_gradients, finite, learning_rate
from lab.objectives import accuracy, bradley_terry
from lab.pack import Row
from lab.probes import Gold
from lab.records import Preference, completion_text, prompt_text
from lab.score import final_rewards

PROBE_PAIRS = 6
"""Held-out pairs whose rewards are shown at intervals."""


@dataclass
class RewardState(Learner):
    """State of a run of reward modelling: token pairs to learn from, and held-out pairs with their texts."""

    pairs: Sequence[TokenPair] = ()
    heldout: Sequence[TokenPair] = ()
    texts: Sequence[Preference] = ()
    skipped: Sequence[Skipped] = ()
    gold: Gold | None = None


def start(
    base: SharedBase,
    preferences: Sequence[Preference],
    config: RewardConfig,
    *,
    role: str = "reward",
    adapter: Adapter | None = None,
    gold: Gold | None = None,
) -> RewardState:
    """A state at step 0. A role already on the base (a copy of the SFT adapter, say) is trained further, with a new
    zero head unless it has one."""
    kept, heldout = split(preferences, config.eval_share, config.seed)
    longest = min(config.max_length, base.window)
    numbered = {p.row: p for p in (q if q.row >= 0 else replace(q, row=i) for i, q in enumerate(heldout))}
    rows, unseen = (encode_preferences(base.chat, part, longest) for part in (kept, list(numbered.values())))
    if role not in base.roles:
        base.add_role(role, adapter, seed=config.seed)
    if not base.role(role).head:
        base.add_head(role)
    return RewardState(base, {"reward": role}, ("reward",), updates_in(len(rows.some()), config.batch, config.epochs),
                       pairs=rows.some(), heldout=unseen.records, texts=[numbered[r.row] for r in unseen.records],
                       skipped=[*rows.events(), *unseen.events()], gold=gold)  # fmt: skip


def reward(state: RewardState, config: RewardConfig) -> Iterator[Event]:
    """Trains the role `reward` until `state.total` updates are done; goes on from `state.step`."""
    yield Started("reward", state.step, state.total)
    if state.step == 0:
        yield from state.skipped
        yield Evaluated(0, evaluate(state, config))
    while state.step < state.total:
        now = replace(config, **state.live)
        yield Progress(state.step, "updating", 0, 1)
        state.own()  # after the last yield: another run may have had the turn
        first = state.step == 0 and not bool(state.role("reward").head_weight.detach().any())
        batch = [state.pairs[i] for i in batch_at(state.step, len(state.pairs), now.batch, now.seed, now.epochs)]
        metrics = update(state, batch, now)
        state.step += 1
        last = state.step == state.total
        evaluation = {}
        if last or (now.eval_every and state.step % now.eval_every == 0):
            evaluation = evaluate(state, now)
        if last and now.standardise:
            _standardise(state, now)
        yield Updated(state.step, metrics)
        if evaluation:
            yield Evaluated(state.step, evaluation)
        if first:
            gap = abs(metrics["loss"] - math.log(2))
            yield Checked(state.step, "first loss", gap < 1e-5, gap, 1e-5,
                          "with a zero head the first loss is ln 2")  # fmt: skip
        if last or (now.probe_every and state.step % now.probe_every == 0):
            yield Probed(state.step, "reward", probe(state, now))


def update(state: RewardState, batch: Sequence[TokenPair], config: RewardConfig) -> dict[str, float]:
    """One optimizer update on a batch of pairs, in as many passes as `tokens_per_pass` asks for."""
    loss, chosen, rejected = 0.0, [], []
    for part in _passes(batch, config.tokens_per_pass):
        c, r = _read(state, part)
        margins = torch.tensor([p.margin for p in part], device=c.device)
        value = bradley_terry(c, r, margins, centring=config.centring).sum() / len(batch)
        finite(value, state, {"rows": [p.row for p in part]}).backward()
        loss += float(value.detach())
        chosen.append(c.detach())
        rejected.append(r.detach())
    lr, head_lr = (
        learning_rate(state.step, state.total, peak, config.warmup, config.schedule)
        for peak in (config.lr, config.head_lr)
    )
    norm = apply_gradients(state, "reward", lr, head_lr, config.max_grad_norm, 1e-8, config.weight_decay)
    return {"loss": loss, "lr": lr, "grad_norm": norm} | _figures(torch.cat(chosen), torch.cat(rejected))


@torch.no_grad()
def evaluate(state: RewardState, config: RewardConfig) -> dict[str, float]:
    """Accuracy on held-out labels (a tie is half right) and, where the truth is known, on pairs it tells apart."""
    if not state.heldout:
        return {}
    c, r = heldout_rewards(state, config)
    out = {f"eval_{k}": v for k, v in _figures(c, r).items()}
    out["eval_loss"] = float(bradley_terry(c, r, centring=config.centring).mean())
    truth = gold_signs(state)
    known = truth != 0
    if bool(known.any()):
        flip = truth[known] < 0
        better, worse = torch.where(flip, r[known], c[known]), torch.where(flip, c[known], r[known])
        out["gold_accuracy"] = float(accuracy(better, worse).mean())
    return out


@torch.no_grad()
def heldout_rewards(state: RewardState, config: RewardConfig) -> tuple[Tensor, Tensor]:
    """Rewards of the held-out chosen and rejected completions, (B,) each."""
    parts = [_read(state, part) for part in _passes(state.heldout, config.tokens_per_pass)]
    return torch.cat([c for c, _ in parts]), torch.cat([r for _, r in parts])


def gold_signs(state: RewardState) -> Tensor:
    """(B,) +1 where the truth agrees with the held-out label, −1 where it disagrees, 0 where equal or not known."""
    signs = torch.zeros(len(state.heldout))
    if state.gold is not None:
        for i, p in enumerate(state.texts):
            x = prompt_text(p.prompt)
            c, r = (state.gold(x, completion_text(y), True).score for y in (p.chosen, p.rejected))
            signs[i] = (c > r) - (c < r)
    return signs.to(state.base.device)


def probe(state: RewardState, config: RewardConfig) -> tuple[Sample, ...]:
    """The rewards of the first held-out pairs, chosen before rejected."""
    if not state.heldout:
        return ()
    shown = replace_heldout(state, PROBE_PAIRS)
    c, r = heldout_rewards(shown, config)
    out = []
    for i, text in enumerate(shown.texts):
        for reading, words in ((c[i], text.chosen), (r[i], text.rejected)):
            x, y = prompt_text(text.prompt), completion_text(words)
            judged = state.gold(x, y, True) if state.gold else None
            out.append(Sample(x, y, True, reward=float(reading), gold=judged.score if judged else None,
                              reasons=tuple(judged.reasons) if judged else ()))  # fmt: skip
    return tuple(out)


def replace_heldout(state: RewardState, n: int) -> RewardState:
    """The same state, seen through its first n held-out pairs."""
    return replace(state, heldout=state.heldout[:n], texts=state.texts[:n])


def _standardise(state: RewardState, config: RewardConfig) -> None:
    """Stores what one unit of this reward is: the spread over held-out completions (of the last batch if none)."""
    role = state.role("reward")
    source = state if state.heldout else replace(state, heldout=state.pairs[: config.batch])
    rewards = torch.cat(heldout_rewards(source, config)).double() * role.spread + role.mean
    spread = float(rewards.std(correction=0))
    role.mean, role.spread = float(rewards.mean()), spread if spread > 1e-6 else 1.0


def _read(state: RewardState, part: Sequence[TokenPair]) -> tuple[Tensor, Tensor]:
    """Rewards (B,) of the chosen and the rejected completions of these pairs, from one packed tree."""
    name = state.roles["reward"]
    sides = [Row(name, r.prompt_ids, r.completion_ids) for p in part for r in (p.chosen, p.rejected)]
    packed = state.base.pack(sides)
    rewards = final_rewards(state.base, name, state.base.forward(packed), packed)
    return rewards[0::2], rewards[1::2]


def _passes(pairs: Sequence[TokenPair], tokens: int) -> Iterator[Sequence[TokenPair]]:
    """The pairs in order, in parts of at most `tokens` packed tokens (one pair at least)."""
    part: list[TokenPair] = []
    used = 0
    for pair in pairs:
        need = len(pair.chosen.ids) + len(pair.rejected.completion_ids)
        if part and used + need > tokens:
            yield part
            part, used = [], 0
        part.append(pair)
        used += need
    if part:
        yield part


def _figures(chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    both = torch.cat([chosen, rejected])
    return {
        "accuracy": float(accuracy(chosen, rejected).mean()),
        "margin": float((chosen - rejected).mean()),
        "reward_mean": float(both.mean()),
        "reward_std": float(both.std(correction=0)),
    }
