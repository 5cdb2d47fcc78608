"""Reward model: a scalar head on the last token, trained on preferences or rankings.

    bradley_terry : L = −log σ(r_c − r_r − margin) + c (r_c + r_r)²        an element is a pair
    kwise         : the mean of that over all pairs of a prompt            an element is a prompt
    plackett_luce : L = −Σ_k log (exp r_k / Σ_{j ≥ k} exp r_j) + c (2 r̄)²   an element is a ranking, best first
    update        : Σ w L / Σ w over the elements of the whole update

r is the head's reading of the hidden state of the last real token (the end token). The completions of a prompt share
its tokens, and a completion that stands in several pairs of an update is read once. With a zero head the first loss is
ln 2 a pair and ln K! an order. When training is done, mean and spread of the rewards on held-out completions are stored
with the role, so that one unit of reward is one standard deviation.

An ensemble is several roles that learn side by side in the same passes, each from its own random matrices and on a
bootstrap draw of the data (as many elements, with replacement); all are standardised on the same held-out completions.

When to use: With comparisons, when completions that nobody has compared must be scored: for PPO and the group
family, for best-of-n, and to look at what the annotators reward. It is only as good as its pairs, most of all the
number of different prompts among them, and it can be exploited.

Source: Bradley and Terry 1952; Ouyang et al. 2022 (InstructGPT), equation 1; Plackett 1975; centring: Eisenstein et al.
2023; ensembles: Coste et al. 2024.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lab.base import SharedBase
from lab.config import Adapter, RewardConfig
from lab.data import batch_at, resampled, split, updates_in
from lab.encode import TokenPair, TokenRow, encode_preferences
from lab.events import Checked, Evaluated, Event, Probed, Progress, Sample, Skipped, Started, Updated, spreads
from lab.learner import Learner, apply_gradients, finite, learning_rate
from lab.objectives import accuracy, bradley_terry, length_mask, weighted_sum
from lab.objectives.ranking import plackett_luce
from lab.pack import Row
from lab.probes import Gold
from lab.rankings import Group, comparisons, groups, in_order
from lab.records import Preference, Ranking, completion_text, prompt_text
from lab.score import final_rewards

PROBE_PAIRS = 6
"""Held-out pairs whose rewards are shown at intervals."""

APART = 1000
"""How far the seeds of two members of an ensemble lie apart."""


@dataclass
class RewardState(Learner):
    """State of a run of reward modelling: elements to learn from, and held-out pairs with their texts."""

    elements: Sequence[Group] = ()
    heldout: Sequence[TokenPair] = ()
    texts: Sequence[Preference] = ()
    skipped: Sequence[Skipped] = ()
    gold: Gold | None = None


class Element(NamedTuple):
    """One element of an update: who learns it, its pairs, and each pair's share of the learner's loss."""

    member: str
    pairs: Group
    shares: tuple[float, ...]


class Readings(NamedTuple):
    """rewards: (R,), one for every distinct completion of a pass. place: where the reading of each stands."""

    rewards: Tensor
    place: dict[Row, int]

    def of(self, member: str, sides: Iterable[TokenRow]) -> Tensor:
        """(B,) places of these completions, as `member` reads them."""
        return torch.tensor([self.place[_key(member, side)] for side in sides], device=self.rewards.device)

    def pairs(self, part: Sequence[Element]) -> tuple[Tensor, Tensor]:
        """Rewards (B,) of the chosen and of the rejected completions of all pairs, in order."""
        chosen = torch.cat([self.of(e.member, [p.chosen for p in e.pairs]) for e in part])
        rejected = torch.cat([self.of(e.member, [p.rejected for p in e.pairs]) for e in part])
        return self.rewards[chosen], self.rewards[rejected]


def start(
    base: SharedBase,
    records: Sequence[Preference | Ranking],
    config: RewardConfig,
    *,
    role: str = "reward",
    adapter: Adapter | None = None,
    gold: Gold | None = None,
) -> RewardState:
    """A state at step 0. A role already on the base (a copy of the SFT adapter, say) is trained further, with a new
    zero head unless it has one. The further members of an ensemble are called role-1, role-2, …"""
    pairs = comparisons(records)
    kept, unseen = split(pairs.records, config.eval_share, config.seed)
    longest = min(config.max_length, base.window)
    rows = encode_preferences(base.chat, kept, longest)
    elements = groups(rows.some(), config.objective)
    heldout = [encode_preferences(base.chat, [p], longest) for p in unseen]  # one by one, to keep each with its text
    skipped = [e for part in (pairs, rows, elements, *heldout) for e in part.events()]
    members = _members(base, role, config, adapter)
    return RewardState(base, members, tuple(members), updates_in(len(elements.some()), config.batch, config.epochs),
                       elements=elements.some(), heldout=[p for part in heldout for p in part.records],
                       texts=[p for p, part in zip(unseen, heldout, strict=True) if part.records],
                       skipped=skipped, gold=gold)  # fmt: skip


def reward(state: RewardState, config: RewardConfig) -> Iterator[Event]:
    """Trains the reward model, or every member of the ensemble, until `state.total` updates are done; goes on from
    `state.step`."""
    yield Started("reward", state.step, state.total)
    if state.step == 0:
        yield from state.skipped
        yield evaluate(state, config)
    while state.step < state.total:
        now = replace(config, **state.live)
        yield Progress(state.step, "updating", 0, 1)
        state.own()  # after the last yield: another run may have had the turn
        batch = draw(state, now)
        untrained = _untrained(state, batch, now) if state.step == 0 else None
        metrics = update(state, batch, now)
        state.step += 1
        last = state.step == state.total
        seen = None
        if last or (now.eval_every and state.step % now.eval_every == 0):
            seen = evaluate(state, now)
        if last and now.standardise:
            _standardise(state, now)
        yield Updated(state.step, metrics)
        if seen is not None and seen.metrics:
            yield seen
        if untrained is not None:
            gap = abs(metrics["loss"] - untrained)
            yield Checked(state.step, "first loss", gap < 1e-5, gap, 1e-5, "with a zero head the first loss is that "
                          "of equal rewards: ln 2 a pair, ln K! an order")  # fmt: skip
        if last or (now.probe_every and state.step % now.probe_every == 0):
            yield Probed(state.step, "reward", probe(state, now))


def draw(state: RewardState, config: RewardConfig) -> list[Element]:
    """The elements of this update, member by member; each goes through a draw of its own, in its own order."""
    out, n = [], len(state.elements)
    for m, member in enumerate(state.trained):
        seed = config.seed + APART * m
        rows = batch_at(state.step, n, config.batch, seed, config.epochs)
        if config.bootstrap and config.members > 1:
            rows = tuple(resampled(n, seed)[list(rows)])
        out += shared(member, [state.elements[i] for i in rows])
    return out


def shared(member: str, batch: Sequence[Group]) -> list[Element]:
    """The elements of one member's update with their shares, w / (n Σ w̄): the n pairs of an element count as one of
    their mean weight w̄, and all shares add up to 1."""
    total = sum(p.weight / len(group) for group in batch for p in group) or 1.0
    return [Element(member, group, tuple(p.weight / len(group) / total for p in group)) for group in batch]


def update(state: RewardState, batch: Sequence[Element], config: RewardConfig) -> dict[str, float]:
    """One optimizer update of every member, in as many passes as `tokens_per_pass` asks for."""
    loss, seen = 0.0, []
    for part in _passes(batch, config.tokens_per_pass):
        readings = _read(state, part)
        value = weighted_sum(*_losses(part, readings, config))
        finite(value, state, {"rows": [p.row for e in part for p in e.pairs]}).backward()
        loss += float(value.detach()) / len(state.trained)
        seen.append(torch.stack(readings.pairs(part)).detach())
    lr, head_lr = (
        learning_rate(state.step, state.total, peak, config.warmup, config.schedule)
        for peak in (config.lr, config.head_lr)
    )
    norms = [apply_gradients(state, member, lr, head_lr, config.max_grad_norm, 1e-8, config.weight_decay)
             for member in state.trained]  # fmt: skip
    chosen, rejected = torch.cat(seen, dim=1)
    labels = _column([p.label for e in batch for p in e.pairs], chosen)
    return {"loss": loss, "lr": lr, "grad_norm": max(norms)} | _figures(chosen, rejected, labels)


def _losses(part: Sequence[Element], readings: Readings, config: RewardConfig) -> tuple[Tensor, Tensor]:
    """The losses of these elements with their shares in the update: one for each pair, or one for each order."""
    if config.objective == "plackett_luce":
        orders = [readings.of(e.member, in_order(e.pairs)) for e in part]
        places = pad_sequence(orders, batch_first=True)
        lengths = torch.tensor([len(order) for order in orders], device=places.device)
        losses = plackett_luce(readings.rewards[places], length_mask(lengths, places.shape[1]), config.centring)
        return losses, _column([sum(e.shares) for e in part], losses)
    chosen, rejected = readings.pairs(part)
    pairs = [p for e in part for p in e.pairs]
    margin, labels = (_column([getattr(p, name) for p in pairs], chosen) for name in ("margin", "label"))
    losses = bradley_terry(chosen, rejected, margin, labels, config.smoothing, config.centring)
    return losses, _column([share for e in part for share in e.shares], losses)


@torch.no_grad()
def evaluate(state: RewardState, config: RewardConfig) -> Evaluated:
    """Held-out figures, averaged over the members: the loss of single pairs, accuracy on labels (a tie is half right)
    and, where the truth is known, on pairs it tells apart; how the margins lie. Of an ensemble also the accuracy of its
    mean, and how far its members lie apart."""
    if not state.heldout:
        return Evaluated(state.step, {})
    c, r = heldout_rewards(state, config)
    labels = _column([p.label for p in state.heldout], c)
    out = {f"eval_{k}": v for k, v in _figures(c, r, labels).items()}
    out["eval_loss"] = float(bradley_terry(c, r, labels=labels.expand_as(c), centring=config.centring).mean())
    truth = gold_signs(state)
    known = truth != 0
    if bool(known.any()):
        lead = ((c - r) * truth)[:, known]
        out["gold_accuracy"] = float(accuracy(lead, torch.zeros_like(lead)).mean())
    if len(c) > 1:
        together = _figures(c.mean(0), r.mean(0), labels)
        out |= {"ensemble_accuracy": together["accuracy"]} if "accuracy" in together else {}
        out["disagreement"] = float(torch.cat([c, r], dim=1).std(0, correction=0).mean())
    return Evaluated(state.step, out, spreads(margin=((c - r).mean(0) * (labels - 0.5).sign()).tolist()))


@torch.no_grad()
def heldout_rewards(state: RewardState, config: RewardConfig) -> tuple[Tensor, Tensor]:
    """(M, B) rewards of the held-out chosen and rejected completions, a row for each member."""
    everything = [e for member in state.trained for e in shared(member, [(pair,) for pair in state.heldout])]
    parts = [torch.stack(_read(state, part).pairs(part)) for part in _passes(everything, config.tokens_per_pass)]
    chosen, rejected = torch.cat(parts, dim=1).view(2, len(state.trained), -1)
    return chosen, rejected


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
    """The rewards of the first held-out pairs, chosen before rejected; of an ensemble, the mean of its members."""
    if not state.heldout:
        return ()
    shown = replace(state, heldout=state.heldout[:PROBE_PAIRS], texts=state.texts[:PROBE_PAIRS])
    c, r = (rewards.mean(0) for rewards in heldout_rewards(shown, config))
    out = []
    for i, text in enumerate(shown.texts):
        for reading, words in ((c[i], text.chosen), (r[i], text.rejected)):
            x, y = prompt_text(text.prompt), completion_text(words)
            judged = state.gold(x, y, True) if state.gold else None
            out.append(Sample(x, y, True, reward=float(reading), gold=judged.score if judged else None,
                              reasons=tuple(judged.reasons) if judged else ()))  # fmt: skip
    return tuple(out)


def _standardise(state: RewardState, config: RewardConfig) -> None:
    """Stores what one unit of each member's reward is: the spread over held-out completions (of the first elements, the
    same for all members, where nothing is held out)."""
    first = [pair for group in state.elements[: config.batch] for pair in group]
    rewards = torch.cat(heldout_rewards(replace(state, heldout=state.heldout or first), config), dim=1).double()
    for member, own in zip(state.trained, rewards, strict=True):
        role = state.role(member)
        raw = own * role.spread + role.mean
        spread = float(raw.std(correction=0))
        role.mean, role.spread = float(raw.mean()), spread if spread > 1e-6 else 1.0


def _members(base: SharedBase, role: str, config: RewardConfig, adapter: Adapter | None) -> dict[str, str]:
    """The roles that learn, by their names in the story. New ones get different random matrices; where the first is on
    the base already, the others start as its copies."""
    new = role not in base.roles
    names = {f"reward-{m}" if m else "reward": f"{role}-{m}" if m else role for m in range(config.members)}
    for m, name in enumerate(names.values()):
        if name not in base.roles and new:
            base.add_role(name, adapter, seed=config.seed + APART * m)
        elif name not in base.roles:
            base.fork(role, name)
        if not base.role(name).head:
            base.add_head(name)
    return names


def _untrained(state: RewardState, batch: Sequence[Element], config: RewardConfig) -> float | None:
    """The loss of a reward model that says 0 about everything, as one with a zero head does; None if a head is not."""
    if any(bool(state.role(member).head_weight.detach().any()) for member in state.trained):
        return None
    place = {key: i for i, key in enumerate(_keys(batch))}
    readings = Readings(torch.zeros(len(place), device=state.base.device), place)
    return float(weighted_sum(*_losses(batch, readings, config))) / len(state.trained)


def _read(state: RewardState, part: Sequence[Element]) -> Readings:
    """Every distinct completion of these elements, read by its member at its last token, from one packed tree."""
    keys = _keys(part)
    packed = state.base.pack([replace(key, role=state.roles[key.role]) for key in keys])
    hidden, rewards = state.base.forward(packed), []
    for member, own in groupby(enumerate(keys), key=lambda item: item[1].role):
        places = [i for i, _ in own]
        rewards.append(final_rewards(state.base, state.roles[member], hidden, packed, places[0], places[-1] + 1))
    return Readings(torch.cat(rewards), {key: i for i, key in enumerate(keys)})


def _keys(part: Sequence[Element]) -> list[Row]:
    """The distinct completions of these elements under the story's names of their members."""
    return list(dict.fromkeys(_key(e.member, side) for e in part for p in e.pairs for side in (p.chosen, p.rejected)))


def _key(member: str, side: TokenRow) -> Row:
    return Row(member, side.prompt_ids, side.completion_ids)


def _passes(batch: Sequence[Element], tokens: int) -> Iterator[Sequence[Element]]:
    """The elements in order, in parts of at most `tokens` packed tokens (one element at least)."""
    part: list[Element] = []
    used = 0
    for element in batch:
        keys = _keys([element])
        need = len(keys[0].prompt) + sum(len(key.completion) for key in keys)
        if part and used + need > tokens:
            yield part
            part, used = [], 0
        part.append(element)
        used += need
    if part:
        yield part


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)


def _figures(chosen: Tensor, rejected: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy and lead (the margin) over the pairs whose label takes a side, towards the likelier one; mean and spread
    of all rewards. chosen, rejected: (B,) or (M, B); labels: (B,)."""
    side = (labels - 0.5).sign()
    lead = ((chosen - rejected) * side)[..., side != 0]
    both = torch.cat([chosen, rejected])
    out = {"reward_mean": float(both.mean()), "reward_std": float(both.std(correction=0))}
    if lead.numel():
        out |= {"accuracy": float(accuracy(lead, torch.zeros_like(lead)).mean()), "margin": float(lead.mean())}
    return out
