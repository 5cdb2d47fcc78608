"""Learning from single thumbs: a completion was liked or it was not, and needs no rival.

    r = log π(y|x) − log π_ref(y|x)
    KTO: L = λ (1 − σ(±β (r − z)))        z = max(0, mean log-ratio of completions under other rows' prompts)
    BCO: L = − log σ(±(β r − δ))          δ = running mean of the rewards β r

with + for liked and − for disliked completions; λ balances the two kinds. z and δ are constants of an update: they say
what an ordinary log-ratio is, and a completion counts by how far it is above or below.

z needs completions that do not belong to their prompts: each row's prompt is read with the completion of the next row
of the batch that has another prompt. The reference scores a row once; later passes over the data remember it.

When to use: With single judgements, thumbs from people who used the model, and no pairs. One kind of label alone
teaches nothing, and a batch must be large enough (8 and more) for its zero point.

Source: Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization"; Jung et al. 2024, "Binary
Classifier Optimization for Large Language Model Alignment".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lab.base import SharedBase
from lab.columns import DataError
from lab.config import KTOConfig
from lab.data import batch_at, split, updates_in
from lab.encode import TokenRating, encode_ratings
from lab.events import Checked, Evaluated, Event, Probed, Progress, Skipped, Started, Updated
from lab.learner import Learner, apply_gradients, finite, learning_rate
from lab.objectives.unpaired import UNPAIRED, Ratings, balance, bco_baseline, kto_baseline
from lab.pack import Row
from lab.pack import split as passes
from lab.probes import Probes, answer
from lab.records import Rating
from lab.score import score, token_scores

KNOWN = "reference"
"""In the state's memory: (n,) the reference's log-probability of every training row, NaN until it is scored."""


@dataclass
class UnpairedState(Learner):
    """State of a run on ratings. `numbers`: the balancing weights, and BCO's running mean."""

    ratings: Sequence[TokenRating] = ()
    heldout: Sequence[TokenRating] = ()
    skipped: Sequence[Skipped] = ()
    probes: Probes = field(default_factory=Probes)


def start(
    base: SharedBase,
    ratings: Sequence[Rating],
    config: KTOConfig,
    *,
    policy: str = "policy",
    prefix: str = "",
    probes: Probes | None = None,
) -> UnpairedState:
    """A state at step 0: the policy's role is on the base already, and a frozen copy of it becomes the reference.

    Raises DataError when only one kind of label is there, or, for KTO, only one prompt.
    """
    kept, heldout = split(ratings, config.eval_share, config.seed)
    longest = min(config.max_length, base.window)
    rows, unseen = (encode_ratings(base.chat, part, longest) for part in (kept, heldout))
    known = rows.some()
    liked = sum(r.liked for r in known)
    try:
        balanced = balance(liked, len(known) - liked)
    except ValueError as error:
        raise DataError(str(error)) from None
    if config.objective == "kto" and len({r.tokens.prompt_ids for r in known}) < 2:
        raise DataError("All rows have the same prompt; KTO's zero point needs completions of other prompts. Take "
                        "the objective bco, or data with more prompts.")  # fmt: skip
    names = {"policy": policy, "reference": f"{prefix}reference"}
    base.fork(policy, names["reference"], head=False)
    return UnpairedState(base, names, ("policy",), updates_in(len(known), config.batch, config.epochs),
                         numbers={"liked_weight": balanced[0], "disliked_weight": balanced[1], "baseline": 0.0},
                         memory={KNOWN: torch.full((len(known),), torch.nan)}, ratings=known,
                         heldout=unseen.records, skipped=[*rows.events(), *unseen.events()],
                         probes=probes or Probes())  # fmt: skip


def unpaired(state: UnpairedState, config: KTOConfig) -> Iterator[Event]:
    """Trains `policy` until `state.total` updates are done; goes on from `state.step`."""
    yield Started("kto", state.step, state.total)
    if state.step == 0:
        yield from state.skipped
        yield Probed(0, "policy", answer(state.base, state.probes, state.roles["policy"], state.roles["reference"]))
        yield Evaluated(0, evaluate(state, config))
    while state.step < state.total:
        now = replace(config, **state.live)
        yield Progress(state.step, "updating", 0, 1)
        state.own()  # after the last yield: another run may have had the turn
        frozen = state.frozen() if state.step == 0 else None
        rows = batch_at(state.step, len(state.ratings), now.batch, now.seed, now.epochs)
        metrics = update(state, rows, now)
        state.step += 1
        yield Updated(state.step, metrics)
        yield from checks(state, metrics, frozen)
        last = state.step == state.total
        if last or (now.eval_every and state.step % now.eval_every == 0):
            yield Evaluated(state.step, evaluate(state, now))
        if last or (now.probe_every and state.step % now.probe_every == 0):
            yield Probed(state.step, "policy", answer(state.base, state.probes, state.roles["policy"],
                                                      state.roles["reference"]))  # fmt: skip


def update(state: UnpairedState, rows: Sequence[int], config: KTOConfig) -> dict[str, float]:
    """One optimizer update on these rows, in as many passes as `tokens_per_pass` asks for; the result is the same."""
    batch = [state.ratings[i] for i in rows]
    remember(state, config, rows)
    reference = state.memory[KNOWN][list(rows)].to(state.base.device)
    baseline = zero_point(state, batch, config)
    beta = float(config.beta or 0)
    sums, lost = [], []
    for part in _parts(batch, config.tokens_per_pass):
        mine = [batch[i] for i in part]
        logprobs = _read(state, "policy", mine)
        losses = _losses(state, mine, logprobs, reference[part], baseline, config)
        value = losses.sum() / len(batch)
        finite(value, state, {"rows": [r.row for r in mine], "logprobs": logprobs.detach().tolist()}).backward()
        sums.append(logprobs.detach())
        lost.append(losses.detach())
    if not UNPAIRED[config.objective].mismatched:
        ratings = Ratings(torch.cat(sums), reference, _liked(batch, reference))
        state.numbers["baseline"] = bco_baseline(state.numbers["baseline"], ratings, beta)
    rate = learning_rate(state.step, state.total, config.lr, config.warmup, config.schedule)
    norm = apply_gradients(state, "policy", rate, rate, config.max_grad_norm, 1e-8, config.weight_decay)
    out = {"loss": float(torch.cat(lost).mean()), "lr": rate, "grad_norm": norm, "baseline": float(baseline)}
    return out | figures(batch, torch.cat(sums), reference, config)


def zero_point(state: UnpairedState, batch: Sequence[TokenRating], config: KTOConfig) -> Tensor:
    """KTO's z for this batch (nats), or BCO's δ as it stands (reward units): a constant."""
    if not UNPAIRED[config.objective].mismatched:
        return torch.tensor(state.numbers["baseline"], device=state.base.device)
    strangers = mismatched(batch)
    if not strangers:
        return torch.zeros((), device=state.base.device)
    want = {state.roles["policy"]: "logprobs", state.roles["reference"]: "logprobs"}
    known = score(state.base, strangers, want, tokens_per_pass=config.tokens_per_pass)
    return kto_baseline(known[state.roles["policy"]].sum(1), known[state.roles["reference"]].sum(1))


def mismatched(batch: Sequence[TokenRating]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each row's prompt with the completion of the next row, round the batch, that has another prompt.

    Rows of which the batch holds no other prompt are left out.
    """
    out = []
    for i, row in enumerate(batch):
        for other in (*batch[i + 1 :], *batch[:i]):
            if other.tokens.prompt_ids != row.tokens.prompt_ids:
                out.append((row.tokens.prompt_ids, other.tokens.completion_ids))
                break
    return out


def remember(state: UnpairedState, config: KTOConfig, rows: Sequence[int]) -> None:
    """Has the reference score those of these rows that it has not seen yet."""
    known = state.memory[KNOWN]
    new = [i for i in dict.fromkeys(rows) if bool(known[i].isnan())]
    batch = [state.ratings[i] for i in new]
    for part in _parts(batch, config.tokens_per_pass):
        with torch.no_grad():
            known[[new[i] for i in part]] = _read(state, "reference", [batch[i] for i in part]).cpu()


@torch.no_grad()
def evaluate(state: UnpairedState, config: KTOConfig) -> dict[str, float]:
    """Loss and rewards on the held-out rows, and the share whose reward is on its label's side of the zero point."""
    if not state.heldout:
        return {}
    logprobs, reference = (
        torch.cat([_read(state, role, [state.heldout[i] for i in part])
                   for part in _parts(state.heldout, config.tokens_per_pass)])
        for role in ("policy", "reference")
    )  # fmt: skip
    baseline = zero_point(state, state.heldout, config)
    losses = _losses(state, state.heldout, logprobs, reference, baseline, config)
    out = figures(state.heldout, logprobs, reference, config)
    liked = _liked(state.heldout, logprobs)
    zero = baseline if UNPAIRED[config.objective].mismatched else baseline / float(config.beta or 0)
    out |= {"loss": float(losses.mean()), "accuracy": float(((logprobs - reference > zero) == liked).float().mean())}
    return {f"eval_{key}": value for key, value in out.items()}


def figures(batch: Sequence[TokenRating], logprobs: Tensor, reference: Tensor, config: KTOConfig) -> dict[str, float]:
    """The mean rewards β r of liked and of disliked completions, where there are any, and their distance."""
    liked = _liked(batch, logprobs)
    rewards = float(config.beta or 0) * (logprobs - reference)
    out = {"reward_liked": rewards[liked], "reward_disliked": rewards[~liked], "logprob_liked": logprobs[liked]}
    means = {name: float(x.mean()) for name, x in out.items() if len(x)}
    if "reward_liked" in means and "reward_disliked" in means:
        means["margin"] = means["reward_liked"] - means["reward_disliked"]
    return means


def checks(state: UnpairedState, metrics: dict[str, float], frozen: dict[str, str] | None) -> Iterator[Checked]:
    """The invariants of the start, looked at after the first update."""
    if frozen is None:
        return
    gap = max(abs(metrics.get(name, 0.0)) for name in ("reward_liked", "reward_disliked", "baseline"))
    yield Checked(1, "first log-ratio", gap <= 1e-4, gap, 1e-4, "the run starts at its reference: log-ratios and zero "
                  "point are 0")  # fmt: skip
    moved = [name for name, digest in state.frozen().items() if digest != frozen[name]]
    yield Checked(1, "frozen roles", not moved, len(moved), 0, "no frozen role changed by a bit")
    norm = metrics["grad_norm"]
    yield Checked(1, "gradient", norm > 0, norm, 0.0, "the policy gets a gradient")


def _losses(
    state: UnpairedState, batch: Sequence[TokenRating], logprobs: Tensor, reference: Tensor, baseline: Tensor,
    config: KTOConfig,
) -> Tensor:  # fmt: skip
    """(B,) losses, weighted by kind."""
    up, down = (
        state.numbers[name] if getattr(config, name) is None else getattr(config, name)
        for name in ("liked_weight", "disliked_weight")
    )
    ratings = Ratings(logprobs, reference, _liked(batch, logprobs))
    return UNPAIRED[config.objective].loss(ratings, float(config.beta or 0), baseline, up, down)


def _liked(batch: Sequence[TokenRating], like: Tensor) -> Tensor:
    """(B,) bool, on the device of another tensor."""
    return torch.tensor([r.liked for r in batch], device=like.device)


def _read(state: UnpairedState, part: str, batch: Sequence[TokenRating]) -> Tensor:
    """(B,) log-probabilities of the completions in nats, from one packed tree."""
    packed = state.base.pack([Row(state.roles[part], r.tokens.prompt_ids, r.tokens.completion_ids) for r in batch])
    return token_scores(state.base, state.base.forward(packed), packed).logprobs.sum(1)


def _parts(batch: Sequence[TokenRating], tokens: int) -> Iterator[list[int]]:
    """Numbers of rows, in parts of at most `tokens` packed tokens."""
    if batch:
        yield from passes([Row("", r.tokens.prompt_ids, r.tokens.completion_ids) for r in batch], tokens)
