"""Direct preference optimisation and its family: the policy learns from pairs, without a reward model.

    a = log π(y_c) − log π_ref(y_c)        b = log π(y_r) − log π_ref(y_r)
    L = mean over pairs of objective(a, b)          DPO: − log σ(β (a − b))

The objectives, each with its equation and when to use it, are in `lab/objectives/preference.py`; a mixture of them is
their weighted sum. β a is the reward that the policy itself stands for. Chosen and rejected share a prompt's tokens.

The reference is a frozen copy of the policy's start. It scores a pair once, when the pair is first used or ahead of
all updates, in the same batches: the numbers are bitwise the same, and are kept for later passes over the data.

An objective that looks at its whole batch (AOT) stays exact when the batch needs several passes through the base: the
losses' gradients are taken on all log-probabilities first, and then sent through the base part by part.

When to use: With pairs and without the patience for a reward model and sampling. It learns only from the pairs there
are: answers the policy begins to give after they were collected are judged by nobody, so watch the KL and the policy's
own answers, not the accuracy.

Source: Rafailov et al. 2023, "Direct Preference Optimization"; the family as cited with each objective.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lab.base import SharedBase
from lab.config import PreferenceConfig
from lab.data import batch_at, split, updates_in
from lab.encode import TokenPair, encode_preferences
from lab.events import Checked, Evaluated, Event, Probed, Progress, Sample, Skipped, Started, Updated, spreads
from lab.learner import Learner, apply_gradients, finite, learning_rate
from lab.objectives import accuracy, weighted_sum
from lab.objectives.preference import OBJECTIVES, Pairs, preference_loss, start_loss
from lab.pack import Row
from lab.pack import split as passes
from lab.probes import Probes, answer
from lab.rankings import comparisons
from lab.records import Preference, Ranking
from lab.score import token_scores

KNOWN = "reference"
"""In the state's memory: (n, 2) the reference's log-probabilities of every training pair, NaN until it is scored."""


@dataclass
class PreferenceState(Learner):
    """State of a run of preference optimisation: token pairs to learn from, and held-out ones."""

    pairs: Sequence[TokenPair] = ()
    heldout: Sequence[TokenPair] = ()
    skipped: Sequence[Skipped] = ()
    probes: Probes = field(default_factory=Probes)


def start(
    base: SharedBase,
    preferences: Sequence[Preference | Ranking],
    config: PreferenceConfig,
    *,
    policy: str = "policy",
    prefix: str = "",
    probes: Probes | None = None,
) -> PreferenceState:
    """A state at step 0: the policy's role is on the base already, and a frozen copy of it becomes the reference.

    A ranking counts as the pairs of its completions whose ranks differ.
    """
    given = comparisons(preferences)
    kept, heldout = split(given.records, config.eval_share, config.seed)
    longest = min(config.max_length, base.window)
    rows, unseen = (encode_preferences(base.chat, part, longest) for part in (kept, heldout))
    names = {"policy": policy, "reference": f"{prefix}reference"}
    base.fork(policy, names["reference"], head=False)
    pairs = rows.some()
    return PreferenceState(base, names, ("policy",), updates_in(len(pairs), config.batch, config.epochs),
                           memory={KNOWN: torch.full((len(pairs), 2), torch.nan)}, pairs=pairs,
                           heldout=unseen.records, skipped=[e for part in (given, rows, unseen) for e in part.events()],
                           probes=probes or Probes())  # fmt: skip


def preference(state: PreferenceState, config: PreferenceConfig) -> Iterator[Event]:
    """Trains `policy` until `state.total` updates are done; goes on from `state.step`."""
    yield Started("dpo", state.step, state.total)
    if state.step == 0:
        yield from state.skipped
        yield from _looked_at(state, config)
    if config.reference == "precomputed" and needs_reference(config):
        for step in range(state.step, state.total):
            remember(state, config, _rows(state, config, step))
            yield Progress(state.step, "scoring", step + 1, state.total)
    while state.step < state.total:
        now = replace(config, **state.live)
        yield Progress(state.step, "updating", 0, 1)
        state.own()  # after the last yield: another run may have had the turn
        frozen = state.frozen() if state.step == 0 else None
        metrics = update(state, _rows(state, now, state.step), now)
        state.step += 1
        yield Updated(state.step, metrics)
        yield from checks(state, now, metrics, frozen)
        last = state.step == state.total
        if last or (now.eval_every and state.step % now.eval_every == 0):
            yield evaluate(state, now)
        if last or (now.probe_every and state.step % now.probe_every == 0):
            yield Probed(state.step, "policy", probe(state))


def update(state: PreferenceState, rows: Sequence[int], config: PreferenceConfig) -> dict[str, float]:
    """One optimizer update on these pairs, in as many passes as `tokens_per_pass` asks for; the result is the same."""
    if needs_reference(config):
        remember(state, config, rows)
    batch = [state.pairs[i] for i in rows]
    reference = state.memory[KNOWN][list(rows)].nan_to_num(0.0).to(state.base.device)
    weights = _weights(batch).to(state.base.device)
    parts = list(_parts(batch, config.tokens_per_pass))
    coupled = len(parts) > 1 and any(OBJECTIVES[name].coupled for name, _ in config.terms())
    ahead = _ahead(state, batch, parts, reference, weights, config) if coupled else None
    seen, lost = [], []
    for part in parts:
        mine = [batch[i] for i in part]
        sums = _read(state, "policy", mine)
        if ahead is None:
            each = _losses(mine, sums, reference[part], config)
            value = weighted_sum(each, weights[part])
        else:
            each, value = ahead.losses[part], (sums * ahead.slopes[part]).sum()
        finite(value, state, {"rows": [p.row for p in mine], "logprobs": sums.detach().tolist()}).backward()
        seen.append(sums.detach())
        lost.append(each.detach())
    rate = learning_rate(state.step, state.total, config.lr, config.warmup, config.schedule)
    norm = apply_gradients(state, "policy", rate, rate, config.max_grad_norm, 1e-8, config.weight_decay)
    loss = float(weighted_sum(torch.cat(lost), weights))
    return {"loss": loss, "lr": rate, "grad_norm": norm} | figures(torch.cat(seen), reference, config)


class _Ahead(NamedTuple):
    """losses (B,) of a whole update; slopes (B, 2): derivatives of their weighted sum by every log-probability."""

    losses: Tensor
    slopes: Tensor


def _ahead(
    state: PreferenceState, batch: Sequence[TokenPair], parts: Sequence[list[int]], reference: Tensor, weights: Tensor,
    config: PreferenceConfig,
) -> _Ahead:  # fmt: skip
    """The losses of pairs that look at each other, and what each log-probability contributes, before any backward."""
    with torch.no_grad():
        sums = torch.cat([_read(state, "policy", [batch[i] for i in part]) for part in parts])
    sums.requires_grad_()
    losses = _losses(batch, sums, reference, config)
    (slopes,) = torch.autograd.grad(weighted_sum(losses, weights), sums)
    return _Ahead(losses.detach(), slopes)


def remember(state: PreferenceState, config: PreferenceConfig, rows: Sequence[int]) -> None:
    """Has the reference score those of these pairs that it has not seen yet."""
    known = state.memory[KNOWN]
    new = [i for i in dict.fromkeys(rows) if bool(known[i].isnan().any())]
    batch = [state.pairs[i] for i in new]
    for part in _parts(batch, config.tokens_per_pass):
        with torch.no_grad():
            known[[new[i] for i in part]] = _read(state, "reference", [batch[i] for i in part]).cpu()


def needs_reference(config: PreferenceConfig) -> bool:
    """Whether any part of the objective compares the policy with the reference."""
    return any(OBJECTIVES[name].reference for name, _ in config.terms())


@torch.no_grad()
def evaluate(state: PreferenceState, config: PreferenceConfig) -> Evaluated:
    """Loss, accuracy (a tie is half right), margin and log-ratios on the held-out pairs, and how the margins lie."""
    if not state.heldout:
        return Evaluated(state.step, {})
    sums, reference = (
        torch.cat([_read(state, role, [state.heldout[i] for i in part])
                   for part in _parts(state.heldout, config.tokens_per_pass)])
        for role in ("policy", "reference")
    )  # fmt: skip
    losses = _losses(state.heldout, sums, reference, config)
    out = figures(sums, reference, config) | {"loss": float(weighted_sum(losses, _weights(state.heldout).to(losses)))}
    leads = (sums - reference) @ sums.new_tensor([1.0, -1.0]) * (1.0 if config.beta is None else config.beta)
    return Evaluated(state.step, {f"eval_{key}": value for key, value in out.items()}, spreads(margin=leads.tolist()))


def figures(sums: Tensor, reference: Tensor, config: PreferenceConfig) -> dict[str, float]:
    """What to watch: the rewards β a and β b that the policy stands for, and log π of the chosen completion itself.

    log π(y_c) falls in healthy runs too; a fall of more than about 20 nats is likelihood displacement.
    """
    assert config.beta is not None or len(config.terms()) > 1
    beta = 1.0 if config.beta is None else config.beta
    rewards = beta * (sums - reference)
    return {
        "reward_chosen": float(rewards[:, 0].mean()),
        "reward_rejected": float(rewards[:, 1].mean()),
        "margin": float((rewards[:, 0] - rewards[:, 1]).mean()),
        "accuracy": float(accuracy(rewards[:, 0], rewards[:, 1]).mean()),
        "logprob_chosen": float(sums[:, 0].mean()),
        "logprob_rejected": float(sums[:, 1].mean()),
    }


def checks(
    state: PreferenceState, config: PreferenceConfig, metrics: dict[str, float], frozen: dict[str, str] | None
) -> Iterator[Checked]:
    """The invariants of the start, looked at after the first update."""
    if frozen is None:
        return
    want = start_loss(config.terms(), config.knobs())
    if want is not None:
        gap, limit = abs(metrics["loss"] - want), 1e-4 * max(1.0, abs(want))
        yield Checked(1, "first loss", gap <= limit, gap, limit,
                      f"where the policy is its reference, the loss is {want:.6g}")  # fmt: skip
    if needs_reference(config):
        gap = max(abs(metrics["reward_chosen"]), abs(metrics["reward_rejected"]))
        yield Checked(1, "first log-ratio", gap <= 1e-4, gap, 1e-4, "the run starts at its reference")
    moved = [name for name, digest in state.frozen().items() if digest != frozen[name]]
    yield Checked(1, "frozen roles", not moved, len(moved), 0, "no frozen role changed by a bit")
    norm = metrics["grad_norm"]
    yield Checked(1, "gradient", norm > 0, norm, 0.0, "the policy gets a gradient")


def probe(state: PreferenceState) -> tuple[Sample, ...]:
    """The probe prompts answered by the policy, with the KL of its own answers to the reference."""
    return answer(state.base, state.probes, state.roles["policy"], state.roles["reference"])


def _looked_at(state: PreferenceState, config: PreferenceConfig) -> Iterator[Event]:
    yield Probed(0, "policy", probe(state))
    yield evaluate(state, config)


def _rows(state: PreferenceState, config: PreferenceConfig, step: int) -> tuple[int, ...]:
    return batch_at(step, len(state.pairs), config.batch, config.seed, config.epochs)


def _weights(batch: Sequence[TokenPair]) -> Tensor:
    """(B,) what each pair counts in the update; they sum to 1."""
    weights = torch.tensor([p.weight for p in batch])
    return weights / weights.sum().clamp(min=1e-12)


def _losses(batch: Sequence[TokenPair], sums: Tensor, reference: Tensor, config: PreferenceConfig) -> Tensor:
    """(B,) losses. A pair that is right with probability p is p times the pair and 1 − p times its opposite."""
    lengths = torch.tensor([[len(r.completion_ids) for r in (p.chosen, p.rejected)] for p in batch], device=sums.device)
    labels = torch.tensor([p.label for p in batch], device=sums.device)
    sides = (*sums.unbind(1), *reference.unbind(1), *lengths.unbind(1))
    terms, knobs = config.terms(), config.knobs()
    losses = preference_loss(Pairs(*sides), terms, knobs)
    if bool((labels == 1).all()):
        return losses
    opposite = preference_loss(Pairs(*(sides[i] for i in (1, 0, 3, 2, 5, 4))), terms, knobs)
    return labels * losses + (1 - labels) * opposite


def _read(state: PreferenceState, part: str, batch: Sequence[TokenPair]) -> Tensor:
    """(B, 2) log-probabilities in nats of the chosen and the rejected completions, from one packed tree."""
    packed = state.base.pack([Row(state.roles[part], r.prompt_ids, r.completion_ids)
                              for p in batch for r in (p.chosen, p.rejected)])  # fmt: skip
    return token_scores(state.base, state.base.forward(packed), packed).logprobs.sum(1).view(-1, 2)


def _parts(batch: Sequence[TokenPair], tokens: int) -> Iterator[list[int]]:
    """Numbers of pairs, in parts of at most `tokens` packed tokens (one pair at least)."""
    if batch:
        rows = [Row("", p.chosen.prompt_ids, p.chosen.completion_ids + p.rejected.completion_ids) for p in batch]
        yield from passes(rows, tokens)
