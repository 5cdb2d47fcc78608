"""Process reward model: a scalar head at the end of every step of a solution, trained on which steps are right.

    z_s = head(h at the last token of step s's separator)        log-odds that the step is right
    L = mean over the steps of the update of −y log σ(z) − (1 − y) log σ(−z)

The label stands at the very token the head reads; nothing is shifted. y is 0 or 1 where somebody judged the step, or
the share of continuations from there that reach the right answer. A step is read with what comes before it and nothing
that comes after. With `last_only` the last step alone is learnt, which makes an outcome reward model of it. With a zero
head the first loss is ln 2 whatever the labels.

When to use: With solutions in steps of which somebody, or the share of continuations that end well, says which are
right: it finds the first mistake, and chooses among many solutions better than their last line alone. As a reward in
training it is exploited sooner than a verifier of the answer.

Source: Lightman et al. 2023, "Let's Verify Step by Step"; soft labels: Wang et al. 2024, "Math-Shepherd".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lab.base import SharedBase
from lab.config import Adapter
from lab.config.process import ProcessConfig
from lab.data import batch_at, split, updates_in
from lab.events import Checked, Evaluated, Event, Probed, Progress, Sample, Skipped, Started, Updated
from lab.learner import Learner, apply_gradients, finite, learning_rate
from lab.objectives import length_mask, token_weights, weighted_sum
from lab.objectives.process import aggregate, first_error, step_nll
from lab.pack import Row
from lab.pack import split as passes
from lab.records import Prompt, Steps, prompt_text
from lab.steps import TokenSteps, encode_steps

PROBE_SOLUTIONS = 6
"""Held-out solutions whose steps are shown at intervals."""


@dataclass
class ProcessState(Learner):
    """State of a run of process reward modelling: solutions to learn from, and held-out ones with their texts."""

    rows: Sequence[TokenSteps] = ()
    heldout: Sequence[TokenSteps] = ()
    texts: Sequence[Steps] = ()
    skipped: Sequence[Skipped] = ()


class Judged(NamedTuple):
    """logits: (B, S) log-odds that each step is right, 0 where the mask is False. mask: (B, S) bool, True where there
    is a step."""

    logits: Tensor
    mask: Tensor


def start(
    base: SharedBase,
    solutions: Sequence[Steps],
    config: ProcessConfig,
    *,
    role: str = "process",
    adapter: Adapter | None = None,
) -> ProcessState:
    """A state at step 0. A role already on the base (a copy of the SFT adapter, say) is trained further, with a new
    zero head unless it has one."""
    kept, unseen = split(solutions, config.eval_share, config.seed)
    longest = min(config.max_length, base.window)
    rows = encode_steps(base.chat, kept, config.separator, longest)
    heldout = [encode_steps(base.chat, [s], config.separator, longest) for s in unseen]  # each stays with its text
    if role not in base.roles:
        base.add_role(role, adapter, seed=config.seed)
    if not base.role(role).head:
        base.add_head(role)
    return ProcessState(base, {"process": role}, ("process",), updates_in(len(rows.some()), config.batch,
                        config.epochs), rows=rows.some(), heldout=[r for part in heldout for r in part.records],
                        texts=[s for s, part in zip(unseen, heldout, strict=True) if part.records],
                        skipped=[e for part in (rows, *heldout) for e in part.events()])  # fmt: skip


def process(state: ProcessState, config: ProcessConfig) -> Iterator[Event]:
    """Trains the role `process` until `state.total` updates are done; goes on from `state.step`."""
    yield Started("process", state.step, state.total)
    if state.step == 0:
        yield from state.skipped
        yield Evaluated(0, evaluate(state, config))
    while state.step < state.total:
        now = replace(config, **state.live)
        yield Progress(state.step, "updating", 0, 1)
        state.own()  # after the last yield: another run may have had the turn
        first = state.step == 0 and not bool(state.role("process").head_weight.detach().any())
        batch = [state.rows[i] for i in batch_at(state.step, len(state.rows), now.batch, now.seed, now.epochs)]
        metrics = update(state, batch, now)
        state.step += 1
        last = state.step == state.total
        yield Updated(state.step, metrics)
        if last or (now.eval_every and state.step % now.eval_every == 0):
            yield Evaluated(state.step, evaluate(state, now))
        if first:
            gap = abs(metrics["loss"] - math.log(2))
            yield Checked(state.step, "first loss", gap < 1e-5, gap, 1e-5,
                          "with a zero head the first loss is ln 2")  # fmt: skip
        if last or (now.probe_every and state.step % now.probe_every == 0):
            yield Probed(state.step, "process", probe(state, now))


def update(state: ProcessState, batch: Sequence[TokenSteps], config: ProcessConfig) -> dict[str, float]:
    """One optimizer update on a batch of solutions, in as many passes as `tokens_per_pass` asks for."""
    device = state.base.device
    mask, labels = _mask(batch, device), _labels(batch, device)
    weights = token_weights(_learnt(mask, config.last_only), "token_mean")  # of the whole update
    loss, right = 0.0, 0.0
    for part in passes(_rows(state.roles["process"], batch), config.tokens_per_pass):
        logits = _read(state.base, state.roles["process"], [batch[i] for i in part])
        cut = (part, slice(0, logits.shape[1]))
        value = weighted_sum(step_nll(logits, labels[cut], mask[cut]), weights[cut])
        finite(value, state, {"rows": [batch[i].row for i in part]}).backward()
        loss += float(value.detach())
        right += float(weighted_sum(((logits >= 0) == (labels[cut] >= 0.5)).float(), weights[cut]))
    lr, head_lr = (
        learning_rate(state.step, state.total, peak, config.warmup, config.schedule)
        for peak in (config.lr, config.head_lr)
    )
    norm = apply_gradients(state, "process", lr, head_lr, config.max_grad_norm, 1e-8, config.weight_decay)
    return {"loss": loss, "accuracy": right, "lr": lr, "grad_norm": norm}


@torch.no_grad()
def evaluate(state: ProcessState, config: ProcessConfig) -> dict[str, float]:
    """Held-out figures; a step is right where its label is at least ½, a solution where all its steps are.

    eval_loss          : nats a step
    step_auroc         : how often a right step gets more than a wrong one (a tie counts half)
    first_error        : share of the solutions whose first wrong step, or that there is none, is found
    solution_auroc     : as step_auroc, for solutions by the aggregate of their steps
    """
    if not state.heldout:
        return {}
    logits, mask = judge(state.base, state.roles["process"], state.heldout, config.tokens_per_pass)
    labels = _labels(state.heldout, logits.device)
    right, whole = labels >= 0.5, aggregate(logits.sigmoid(), config.aggregate, mask)
    weights = token_weights(_learnt(mask, config.last_only), "token_mean")
    found = first_error(logits >= 0, mask) == first_error(right, mask)
    out = {"eval_loss": float(weighted_sum(step_nll(logits, labels, mask), weights)),
           "first_error": float(found.float().mean())}  # fmt: skip
    figures = {"step_auroc": auroc(logits[mask], right[mask]), "solution_auroc": auroc(whole, (right | ~mask).all(1))}
    return out | {name: value for name, value in figures.items() if value is not None}


def auroc(scores: Tensor, right: Tensor) -> float | None:
    """P(a right one scores more than a wrong one) + ½ P(they tie), over all pairs; None where one kind is missing.

    Args:
        scores: (N,).
        right: (N,) bool.
    """
    from scipy.stats import mannwhitneyu

    yes, no = (scores[chosen].double().cpu().numpy() for chosen in (right, ~right))
    if not len(yes) or not len(no):
        return None
    return float(mannwhitneyu(yes, no).statistic) / (len(yes) * len(no))


def score_steps(base: SharedBase, role: str, prompt: Prompt, steps: Sequence[str], separator: str = "\n") -> Tensor:
    """(S,) the probability that each step is right, given those before it. The separator is the one of the training.

    One number for the whole solution comes from `lab.objectives.process.aggregate`.

    Raises:
        DataError: no step, an empty one, or more tokens than the model's window.
    """
    rows = encode_steps(base.chat, [Steps(prompt, tuple(steps), (0.0,) * len(steps))], separator, base.window)
    return judge(base, role, rows.some()).logits[0].sigmoid()


@torch.no_grad()
def judge(base: SharedBase, role: str, solutions: Sequence[TokenSteps], tokens_per_pass: int = 8192) -> Judged:
    """All steps of many solutions, in as many passes as `tokens_per_pass` asks for."""
    mask = _mask(solutions, base.device)
    out = torch.zeros(mask.shape, device=base.device)
    for part in passes(_rows(role, solutions), tokens_per_pass):
        logits = _read(base, role, [solutions[i] for i in part])
        out[part, : logits.shape[1]] = logits
    return Judged(torch.where(mask, out, 0.0), mask)


def probe(state: ProcessState, config: ProcessConfig) -> tuple[Sample, ...]:
    """The first held-out solutions: each step's probability among the reasons, their aggregate as the reward."""
    if not state.heldout:
        return ()
    shown, texts = state.heldout[:PROBE_SOLUTIONS], state.texts[:PROBE_SOLUTIONS]
    logits, mask = judge(state.base, state.roles["process"], shown, config.tokens_per_pass)
    rewards = aggregate(logits.sigmoid(), config.aggregate, mask)
    return tuple(
        Sample(prompt_text(text.prompt), config.separator.join(text.steps), True, reward=float(reward),
               reasons=tuple(zip(text.steps, own.sigmoid().tolist(), strict=False)))  # own is padded
        for text, reward, own in zip(texts, rewards, logits, strict=True)
    )  # fmt: skip


def _read(base: SharedBase, role: str, solutions: Sequence[TokenSteps]) -> Tensor:
    """(B, S) logits: the head at the last token of every step, from one packed tree. Padding reads the last step."""
    packed = base.pack(_rows(role, solutions))
    after = pad_sequence([torch.tensor(s.after) for s in solutions], batch_first=True).to(base.device)
    places = packed.last[:, None] - after  # a row's steps stand in one piece
    return base.role(role).read(base.forward(packed).index_select(0, places.view(-1))).view(places.shape)


def _rows(role: str, solutions: Sequence[TokenSteps]) -> list[Row]:
    return [Row(role, s.prompt_ids, s.completion_ids) for s in solutions]


def _mask(solutions: Sequence[TokenSteps], device: torch.device) -> Tensor:
    lengths = torch.tensor([len(s.steps) for s in solutions], device=device)
    return length_mask(lengths, int(lengths.max()))


def _labels(solutions: Sequence[TokenSteps], device: torch.device) -> Tensor:
    return pad_sequence([torch.tensor(s.labels, dtype=torch.float32) for s in solutions], batch_first=True).to(device)


def _learnt(mask: Tensor, last_only: bool) -> Tensor:
    """The steps that are learnt: all, or the last of each solution."""
    return mask & (mask.cumsum(1) == mask.sum(1, keepdim=True)) if last_only else mask
