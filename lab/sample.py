"""Prompts -> rollouts: one role, or several side by side in one pass with the same noise; streaming.

The packed axis is the row axis while decoding: one new token a row, every row at its own position, so nothing is padded
on the left. Each distinct prompt goes through the base once. Rows that ended are dropped.

Sampling is the Gumbel race, y_t = argmax_v (log p_v − log e_v) with e_v ~ Exp(1): the same e for every role, so that
two roles differ only where their distributions make them. The noise depends on the seed, the prompt's place and the
step alone: comparing one more role, or a policy with a later self, changes nobody else's tokens.

Two roles can also speak with one voice: each token comes from the geometric mixture of their two distributions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lab.attention import KVCache
from lab.base import SharedBase
from lab.decode import TOLERANCE, Decoder
from lab.objectives.online import geometric_mixture
from lab.pack import Pack, Row, Slice
from lab.records import Prompt, Rollout

KEEP_SHARE = 0.85
"""Rows that ended are dropped once fewer than this share of the rows being decoded is still going."""


class SampleError(ValueError):
    """A prompt that cannot be continued, or roles that cannot be mixed, with the reason."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One decoding step: (row, token id, log-probability in nats, ended) for every row that is still going."""

    step: int
    tokens: tuple[tuple[int, int, float, bool], ...]


@dataclass
class _Decoding:
    """What the loop carries: which rows still go on, their cache, and the hidden state that predicts the next token.

    `order` holds the numbers of the rows in the cache's order (those that ended stay until they are dropped), `going`
    the numbers of those that have not ended, and `room` how many tokens each row may still take. In a mixture the rows
    of the second role are the twins of the first one's: they take the same tokens and end together.
    """

    base: SharedBase
    stops: frozenset[int]
    temperature: float
    generator: torch.Generator
    noises: int
    role_of: list[str]
    room: list[int]
    cache: KVCache
    hidden: Tensor  # (R, H)
    order: list[int]
    noise_rows: Tensor  # (R,) which noise each row of the cache uses
    slices: tuple[Slice, ...]
    decoder: Decoder | None  # None: the model's own forward
    mixture: float | None  # the second role's share
    going: set[int] = field(default_factory=set)


def stream(
    base: SharedBase,
    prompts: Sequence[Sequence[int]],
    roles: Sequence[str] = ("base",),
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    seed: int | tuple[int, ...] = 0,
    per_prompt: int = 1,
    mixture: float | None = None,
) -> Iterator[Drawn]:
    """Yields each decoding step as it is drawn. Rows are numbered role by role, prompt by prompt, copy by copy.

    A row goes on to its stop token, to `max_new_tokens`, or until the model's window is full, whichever comes first.

    prompts     : token ids, at least one each
    temperature : divides the logits; 0 takes the most probable token
    seed        : of this call's own generator; the global random state is neither read nor changed
    per_prompt  : completions of each prompt
    mixture     : α in [0, 1]; the two `roles` are mixed, p₁^(1 − α) p₂^α / Z with p_i ∝ exp(z_i / τ), token by token;
                  the rows are those of one role, and their log-probabilities the mixture's

    Raises SampleError for an empty prompt, one that leaves no room in the model's window, and a mixture of anything but
    two roles.
    """
    run = _prefill(base, [tuple(p) for p in prompts], roles, temperature, max_new_tokens, seed, per_prompt, mixture)
    for step in range(max_new_tokens):
        drawn, fed = _draw(run, step)
        yield drawn
        if not run.going:
            return
        _advance(run, fed)


def sample(
    base: SharedBase,
    prompts: Sequence[Prompt],
    roles: Sequence[str] = ("base",),
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    seed: int | tuple[int, ...] = 0,
    per_prompt: int = 1,
    mixture: float | None = None,
) -> list[Rollout]:
    """Completions of every prompt by every role: role by role, prompt by prompt, copy by copy. Settings as `stream`.

    Those of a mixture have the name "first+second" for a role.
    """
    encoded = [tuple(base.chat.encode_prompt(p)) for p in prompts]
    speakers = tuple(roles) if mixture is None else ("+".join(roles),)
    rows = len(speakers) * len(prompts) * per_prompt
    ids: list[list[int]] = [[] for _ in range(rows)]
    logprobs: list[list[float]] = [[] for _ in range(rows)]
    ended = [False] * rows
    for drawn in stream(base, encoded, roles, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed,
                        per_prompt=per_prompt, mixture=mixture):  # fmt: skip
        for row, token, logprob, end in drawn.tokens:
            ids[row].append(token)
            logprobs[row].append(logprob)
            ended[row] = end
    out = []
    for row in range(rows):
        role, rest = divmod(row, len(prompts) * per_prompt)
        i = rest // per_prompt
        out.append(
            Rollout(
                speakers[role],
                prompts[i],
                base.chat.decode(ids[row]),
                encoded[i],
                tuple(ids[row]),
                ended[row],
                tuple(logprobs[row]),
            )
        )
    return out


def generator(device: torch.device, seed: int | tuple[int, ...]) -> torch.Generator:
    """A generator of its own for a seed or a tuple such as (run seed, step)."""
    parts = (seed,) if isinstance(seed, int) else seed
    mixed = 0
    for part in parts:
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % (1 << 63)
    return torch.Generator(device).manual_seed(mixed)


@torch.no_grad()
def _prefill(
    base: SharedBase,
    prompts: list[tuple[int, ...]],
    roles: Sequence[str],
    temperature: float,
    max_new_tokens: int,
    seed: int | tuple[int, ...],
    per_prompt: int,
    mixture: float | None,
) -> _Decoding:
    if mixture is not None and (len(roles) != 2 or not 0 <= mixture <= 1):
        raise SampleError(f"A mixture is of two roles with a share in [0, 1], not of {len(roles)} with {mixture:g}.")
    longest = max((len(p) for p in prompts), default=0)
    if not prompts or min(len(p) for p in prompts) == 0:
        raise SampleError("There is no prompt to continue; give at least one with at least one token.")
    if longest + 1 > base.window:
        raise SampleError(f"A prompt has {longest} tokens and the model's window is {base.window}; shorten it.")
    distinct = {p: i for i, p in enumerate(dict.fromkeys(prompts))}
    packed = base.pack([Row(role, p) for role in roles for p in distinct], buckets=1)
    copies = [p for p in prompts for _ in range(per_prompt)]
    index = torch.tensor([distinct[p] + r * len(distinct) for r in range(len(roles)) for p in copies])
    lengths = torch.tensor([len(p) for p in copies] * len(roles))
    index, lengths = index.to(base.device), lengths.to(base.device)
    decoder = None if base.lean is False else Decoder.of(base, roles)
    cache = KVCache(min(longest + max_new_tokens, base.window), lengths, index, reach=longest)
    hidden = base.forward(packed, cache)[packed.last[index]]
    rows = len(index)
    role_of = [role for role in roles for _ in copies]
    room = [min(max_new_tokens, base.window - len(p)) for p in copies] * len(roles)
    return _Decoding(base, base.chat.stop_ids, temperature, generator(base.device, seed), len(copies), role_of, room,
                     cache, hidden, list(range(rows)), torch.arange(rows, device=base.device) % len(copies),
                     _slices(role_of), decoder, mixture, set(range(rows)))  # fmt: skip


@torch.no_grad()
def _draw(run: _Decoding, step: int) -> tuple[Drawn, Tensor]:
    """The next token of every row, and the (R,) ids as they are fed back."""
    logits = run.base.logits(run.hidden)
    scaled = logits / run.temperature if run.temperature not in (0, 1) else logits
    if run.mixture is None:
        logp = torch.log_softmax(scaled, dim=-1)
    else:  # twins stand at the same place of the two halves and have the same noise
        first, second = scaled.chunk(2)
        logp = geometric_mixture(first, second, run.mixture).repeat(2, 1)
    if run.temperature:
        # log e = log(−log u): an order of magnitude faster than `exponential_` on a CPU. u = 0 gives ∞: never chosen.
        noise = torch.rand(run.noises, logp.shape[1], device=logp.device, generator=run.generator).log_().neg_().log_()
        whole = len(run.order) == len(run.role_of) == run.noises  # one role and nobody left out: the rows' own order
        tokens = (logp - (noise if whole else noise[run.noise_rows])).argmax(-1)
    else:
        tokens = logp.argmax(-1)
    picked = logp.gather(1, tokens[:, None])[:, 0]
    out = []
    for row, token, logprob in zip(run.order, tokens.tolist(), picked.tolist(), strict=True):
        if row in run.going:
            ended = token in run.stops
            if run.mixture is None or row < run.noises:
                out.append((row, token, logprob, ended))
            if ended or step + 1 == run.room[row]:
                run.going.discard(row)
    return Drawn(step, tuple(out)), tokens


@torch.no_grad()
def _advance(run: _Decoding, tokens: Tensor) -> None:
    """Feeds the drawn tokens back, leaving out rows that ended once there are enough of them."""
    if len(run.going) < KEEP_SHARE * len(run.order):
        kept = [i for i, row in enumerate(run.order) if row in run.going]
        index = torch.tensor(kept, device=tokens.device)
        run.order = [run.order[i] for i in kept]
        run.noise_rows, tokens = run.noise_rows[index], tokens[index]
        run.slices = _slices([run.role_of[row] for row in run.order])
        run.cache.keep(index)
    run.cache.step()
    run.hidden = _hidden(run, tokens)
    run.cache.grown()


def _hidden(run: _Decoding, tokens: Tensor) -> Tensor:
    """The hidden states (R, H) of the tokens. The first step on a base is computed both ways, and compared."""
    if run.decoder is None:
        return _plainly(run, tokens)
    if run.base.lean is None:
        theirs = _plainly(run, tokens)
        mine = run.decoder.step(tokens, run.cache, run.slices)
        run.base.lean = float((mine - theirs).abs().max()) <= TOLERANCE * max(1.0, float(theirs.abs().max()))
        if not run.base.lean:
            run.decoder = None
            return _plainly(run, tokens)  # once more: the cache must hold its own keys and values
        return mine
    return run.decoder.step(tokens, run.cache, run.slices)


def _plainly(run: _Decoding, tokens: Tensor) -> Tensor:
    """The same by the model's own forward."""
    nothing = tokens.new_zeros(0)
    packed = Pack(tokens[None], run.cache.lengths[None], run.slices, (), *[nothing] * 8)
    return run.base.forward(packed, run.cache)


def _slices(roles: Sequence[str]) -> tuple[Slice, ...]:
    """The role slices of a packed axis that holds one token of each row."""
    slices: list[Slice] = []
    for i, role in enumerate(roles):
        if slices and slices[-1].role == role:
            slices[-1] = Slice(role, slices[-1].start, i + 1)
        else:
            slices.append(Slice(role, i, i + 1))
    return tuple(slices)
