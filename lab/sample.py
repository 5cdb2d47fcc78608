"""Prompts -> rollouts: one role, or several side by side in one pass with the same noise; streaming.

The packed axis is the row axis while decoding: one new token a row, every row at its own position, so nothing is padded
on the left. Each distinct prompt goes through the base once. Rows that ended are dropped.

Sampling is the Gumbel race, y_t = argmax_v (log p_v − log e_v) with e_v ~ Exp(1): the same e for every role, so that
two roles differ only where their distributions make them. The noise depends on the seed, the prompt's place and the
step alone: comparing one more role, or a policy with a later self, changes nobody else's tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lab.attention import KVCache
from lab.base import SharedBase
from lab.pack import Pack, Row, Slice
from lab.records import Prompt, Rollout

KEEP_SHARE = 0.85
"""Rows that ended are dropped once fewer than this share of the rows being decoded is still going."""


class SampleError(ValueError):
    """A prompt that cannot be continued, with the reason."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One decoding step: (row, token id, log-probability in nats, ended) for every row that is still going."""

    step: int
    tokens: tuple[tuple[int, int, float, bool], ...]


@dataclass
class _Decoding:
    """What the loop carries: which rows still go on, their cache, and the hidden state that predicts the next token."""

    base: SharedBase
    roles: Sequence[str]
    stops: Tensor
    temperature: float
    generator: torch.Generator
    noises: int
    alive: Tensor  # (R,) row numbers in the cache's order
    noise_of: Tensor  # (all rows,) which noise row each row uses
    role_of: list[str]
    cache: KVCache
    hidden: Tensor  # (R, H)
    done: set[int] = field(default_factory=set)


def stream(base: SharedBase, prompts: Sequence[Sequence[int]], roles: Sequence[str] = ("base",), *,
           temperature: float = 1.0, max_new_tokens: int = 64, seed: int | tuple[int, ...] = 0,
           per_prompt: int = 1) -> Iterator[Drawn]:
    """Yields each decoding step as it is drawn. Rows are numbered role by role, prompt by prompt, copy by copy.

    prompts     : token ids, at least one each
    temperature : divides the logits; 0 takes the most probable token
    seed        : of this call's own generator; the global random state is neither read nor changed
    per_prompt  : completions of each prompt

    Raises SampleError for an empty prompt or one that leaves no room in the model's window.
    """
    run = _prefill(base, [tuple(p) for p in prompts], roles, temperature, max_new_tokens, seed, per_prompt)
    for step in range(max_new_tokens):
        drawn = _draw(run, step)
        yield drawn
        if not _advance(run, drawn, last=step + 1 == max_new_tokens):
            return


def sample(base: SharedBase, prompts: Sequence[Prompt], roles: Sequence[str] = ("base",), *,
           temperature: float = 1.0, max_new_tokens: int = 64, seed: int | tuple[int, ...] = 0,
           per_prompt: int = 1) -> list[Rollout]:
    """Completions of every prompt by every role: role by role, prompt by prompt, copy by copy. Settings as `stream`."""
    encoded = [tuple(base.chat.encode_prompt(p)) for p in prompts]
    rows = len(roles) * len(prompts) * per_prompt
    ids: list[list[int]] = [[] for _ in range(rows)]
    logprobs: list[list[float]] = [[] for _ in range(rows)]
    ended = [False] * rows
    for drawn in stream(base, encoded, roles, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed,
                        per_prompt=per_prompt):
        for row, token, logprob, end in drawn.tokens:
            ids[row].append(token)
            logprobs[row].append(logprob)
            ended[row] = end
    out = []
    for row in range(rows):
        role, rest = divmod(row, len(prompts) * per_prompt)
        i = rest // per_prompt
        out.append(Rollout(roles[role], prompts[i], base.chat.decode(ids[row]), encoded[i], tuple(ids[row]),
                           ended[row], tuple(logprobs[row])))
    return out


def generator(device: torch.device, seed: int | tuple[int, ...]) -> torch.Generator:
    """A generator of its own for a seed or a tuple such as (run seed, step)."""
    parts = (seed,) if isinstance(seed, int) else seed
    mixed = 0
    for part in parts:
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % (1 << 63)
    return torch.Generator(device).manual_seed(mixed)


@torch.no_grad()
def _prefill(base: SharedBase, prompts: list[tuple[int, ...]], roles: Sequence[str], temperature: float,
             max_new_tokens: int, seed: int | tuple[int, ...], per_prompt: int) -> _Decoding:
    longest = max((len(p) for p in prompts), default=0)
    if not prompts or min(len(p) for p in prompts) == 0:
        raise SampleError("There is no prompt to continue; give at least one with at least one token.")
    if longest + 1 > base.window:
        raise SampleError(f"A prompt has {longest} tokens and the model's window is {base.window}; shorten it.")
    distinct = {p: i for i, p in enumerate(dict.fromkeys(prompts))}
    packed = base.pack([Row(role, p) for role in roles for p in distinct], buckets=1)
    copies = torch.tensor([distinct[p] for p in prompts for _ in range(per_prompt)], device=base.device)
    index = torch.cat([copies + r * len(distinct) for r in range(len(roles))])
    lengths = torch.tensor([len(p) for p in distinct], device=base.device).repeat(len(roles))[index]
    cache = KVCache(min(longest + max_new_tokens, base.window), lengths, index, reach=longest)
    hidden = base.forward(packed, cache)[packed.last[index]]
    rows = len(index)
    return _Decoding(base, roles, torch.tensor(sorted(base.chat.stop_ids), device=base.device), temperature,
                     generator(base.device, seed), len(copies), torch.arange(rows, device=base.device),
                     torch.arange(rows, device=base.device) % len(copies),
                     [role for role in roles for _ in range(len(copies))], cache, hidden)


@torch.no_grad()
def _draw(run: _Decoding, step: int) -> Drawn:
    logits = run.base.logits(run.hidden)
    logp = torch.log_softmax(logits / (run.temperature or 1.0), dim=-1)
    if run.temperature:
        noise = torch.empty(run.noises, logp.shape[1], device=logp.device).exponential_(generator=run.generator)
        tokens = (logp - noise.log_()[run.noise_of[run.alive]]).argmax(-1)
    else:
        tokens = logp.argmax(-1)
    picked = logp.gather(1, tokens[:, None])[:, 0]
    ended = torch.isin(tokens, run.stops)
    columns = zip(run.alive.tolist(), tokens.tolist(), picked.tolist(), ended.tolist(), strict=True)
    return Drawn(step, tuple(c for c in columns if c[0] not in run.done))


@torch.no_grad()
def _advance(run: _Decoding, drawn: Drawn, last: bool) -> bool:
    """Feeds the drawn tokens back; False when every row has ended or the window is full."""
    run.done.update(row for row, _, _, ended in drawn.tokens if ended)
    if last or len(run.done) == len(run.noise_of) or run.cache.reach >= run.cache.capacity:
        return False
    rows = run.alive.tolist()
    token_of = {row: token for row, token, _, _ in drawn.tokens}
    going = [i for i, row in enumerate(rows) if row not in run.done]
    if len(going) < KEEP_SHARE * len(rows):
        index = torch.tensor(going, device=run.alive.device)
        run.alive = run.alive[index]
        run.cache.keep(index)
        rows = [rows[i] for i in going]
    packed = _one_token_each(run, [token_of.get(row, 0) for row in rows], rows)
    run.cache.reach = min(run.cache.reach + 1, run.cache.capacity)
    run.hidden = run.base.forward(packed, run.cache)
    run.cache.lengths = torch.clamp(run.cache.lengths + 1, max=run.cache.capacity - 1)
    return True


def _one_token_each(run: _Decoding, tokens: list[int], rows: list[int]) -> Pack:
    """A pack whose packed axis is the rows being decoded, role after role."""
    slices: list[Slice] = []
    for i, row in enumerate(rows):
        role = run.role_of[row]
        if slices and slices[-1].role == role:
            slices[-1] = Slice(role, slices[-1].start, i + 1)
        else:
            slices.append(Slice(role, i, i + 1))
    ids = torch.tensor(tokens, device=run.alive.device)[None]
    nothing = ids.new_zeros(0)
    return Pack(ids, run.cache.lengths[None], tuple(slices), (), *[nothing] * 8)
