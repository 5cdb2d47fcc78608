"""Supervised fine-tuning: imitate demonstrations.

    L = − Σ m_t log π(y_t | x, y_<t) / Σ m_t        over all counted tokens of the whole update

m is True on the assistant's words and the end token after them, never on the prompt. Rows are packed without padding.

When to use: First, always: it teaches the form of an answer, and every other method starts from what it can say. It
learns the demonstrations as they are, mistakes included, and nothing about what would have been worse.

Source: Ouyang et al. 2022 (InstructGPT), section 3.5; with low-rank adapters on a 4-bit base: Dettmers et al. 2023.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from lab.base import SharedBase
from lab.config import Adapter, SFTConfig
from lab.data import batch_at, split, updates_in
from lab.encode import TokenRow, encode_demonstrations
from lab.events import Checked, Evaluated, Event, Probed, Progress, Skipped, Started, Updated
from lab.learner import Learner, apply_gradients, finite, learning_rate
from lab.objectives import nll, token_weights, weighted_sum
from lab.pack import Row
from lab.pack import split as passes
from lab.probes import Probes, answer
from lab.records import Demonstration
from lab.score import token_scores


@dataclass
class SFTState(Learner):
    """State of a run of supervised fine-tuning: the rows it learns from and those it is measured on."""

    rows: Sequence[TokenRow] = ()
    heldout: Sequence[TokenRow] = ()
    skipped: Sequence[Skipped] = ()
    probes: Probes = field(default_factory=Probes)


def start(
    base: SharedBase,
    demonstrations: Sequence[Demonstration],
    config: SFTConfig,
    *,
    role: str = "sft",
    adapter: Adapter | None = None,
    probes: Probes | None = None,
) -> SFTState:
    """A state at step 0. A role that is already on the base is trained further; a new one starts as the base."""
    kept, heldout = split(demonstrations, config.eval_share, config.seed)
    longest = min(config.max_length, base.window)
    rows, unseen = (encode_demonstrations(base.chat, part, longest) for part in (kept, heldout))
    if role not in base.roles:
        base.add_role(role, adapter, seed=config.seed)
    return SFTState(base, {"sft": role}, ("sft",), updates_in(len(rows.some()), config.batch, config.epochs),
                    rows=rows.some(), heldout=unseen.records, skipped=[*rows.events(), *unseen.events()],
                    probes=probes or Probes())  # fmt: skip


def sft(state: SFTState, config: SFTConfig) -> Iterator[Event]:
    """Trains the role `sft` until `state.total` updates are done; goes on from `state.step`."""
    yield Started("sft", state.step, state.total)
    if state.step == 0:
        yield from state.skipped
        yield Probed(0, "sft", answer(state.base, state.probes, state.roles["sft"]))
        yield Evaluated(0, evaluate(state, config))
    while state.step < state.total:
        now = replace(config, **state.live)
        yield Progress(state.step, "updating", 0, 1)
        state.own()  # after the last yield: another run may have had the turn
        began = time.perf_counter()
        batch = [state.rows[i] for i in batch_at(state.step, len(state.rows), now.batch, now.seed, now.epochs)]
        metrics = update(state, batch, now)
        state.step += 1
        metrics["tokens_per_s"] = sum(len(r.prompt_ids) + len(r.completion_ids) for r in batch) / (
            time.perf_counter() - began
        )
        yield Updated(state.step, metrics)
        last = state.step == state.total
        if last or (now.eval_every and state.step % now.eval_every == 0):
            yield Evaluated(state.step, evaluate(state, now))
        if last or (now.probe_every and state.step % now.probe_every == 0):
            yield Probed(state.step, "sft", answer(state.base, state.probes, state.roles["sft"]))
        if state.step == 1:
            yield _gradients_reach_the_role(state, metrics)


def update(state: SFTState, batch: Sequence[TokenRow], config: SFTConfig) -> dict[str, float]:
    """One optimizer update on a batch, in as many passes as `tokens_per_pass` asks for; the result is the same."""
    weights = _weights(batch)
    loss, hits = 0.0, 0.0
    rows = [Row(state.roles["sft"], r.prompt_ids, r.completion_ids) for r in batch]
    for part in passes(rows, config.tokens_per_pass):
        value, right = _pass(state, [rows[i] for i in part], weights[part])
        finite(
            value,
            state,
            {"rows": [batch[i].row for i in part], "completions": [list(batch[i].completion_ids) for i in part]},
        )
        value.backward()
        loss, hits = loss + float(value.detach()), hits + right
    rate = learning_rate(state.step, state.total, config.lr, config.warmup, config.schedule)
    norm = apply_gradients(state, "sft", rate, rate, config.max_grad_norm, 1e-8, config.weight_decay)
    return {"loss": loss, "token_accuracy": hits, "lr": rate, "grad_norm": norm}


@torch.no_grad()
def evaluate(state: SFTState, config: SFTConfig) -> dict[str, float]:
    """Loss (nats a token) and the share of tokens the model puts first, on the held-out rows."""
    if not state.heldout:
        return {}
    weights = _weights(state.heldout)
    rows = [Row(state.roles["sft"], r.prompt_ids, r.completion_ids) for r in state.heldout]
    parts = [_pass(state, [rows[i] for i in part], weights[part]) for part in passes(rows, config.tokens_per_pass)]
    return {"eval_loss": sum(float(v) for v, _ in parts), "eval_token_accuracy": sum(h for _, h in parts)}


def _weights(batch: Sequence[TokenRow]) -> torch.Tensor:
    """(B, T) what each completion token counts in the update: 1 / Σ m where trained, else 0."""
    mask = torch.zeros(len(batch), max(len(r.completion_ids) for r in batch), dtype=torch.bool)
    for i, row in enumerate(batch):
        mask[i, : len(row.mask)] = torch.tensor(row.mask, dtype=torch.bool)
    return token_weights(mask, "token_mean")


def _pass(state: SFTState, rows: list[Row], weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """This pass's part of the update's loss, and of its token accuracy."""
    packed = state.base.pack(rows)
    scores = token_scores(state.base, state.base.forward(packed), packed)
    weights = weights[:, : scores.logprobs.shape[1]].to(scores.logprobs.device)
    first = scores.first.to(weights.dtype)
    return weighted_sum(nll(scores.logprobs, weights != 0), weights), float((first * weights).sum())


def _gradients_reach_the_role(state: SFTState, metrics: dict[str, float]) -> Checked:
    norm = metrics["grad_norm"]
    return Checked(state.step, "gradient", norm > 0, norm, 0.0, "the role in training gets a gradient")
