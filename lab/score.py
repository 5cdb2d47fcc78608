"""Log-probabilities, values and rewards of given tokens under given roles, several roles in one pass.

No (B, T, V) tensor is ever made: hidden states go through the language-model head in chunks, with float32 sums, and
the backward pass recomputes each chunk (or keeps it, where it is small).

Hidden states are picked with `index_select`: the gradients of a token that several rows continue from are then added
up in the same order every time. Indexing by a tensor adds them in parallel, in any order, and a run would not resume
bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.base import SharedBase
from lab.pack import Pack, Row, split

CHUNK_LOGITS = 1 << 24
"""Logits that exist at once (64 MiB in float32)."""

KEPT_LOGITS = 1 << 22
"""Up to this many (16 MiB in float32), the probabilities are kept for the backward pass instead of computed again."""

Tokens = tuple[int, ...]


class TokenScores(NamedTuple):
    """logprobs (B, T) and entropy (B, T) of the distribution each token is from, in nats; first (B, T) 1.0 where the
    token is the most probable one."""

    logprobs: Tensor
    entropy: Tensor
    first: Tensor


class _ChunkedLogprobs(torch.autograd.Function):
    """log softmax(z / τ)[target], the entropy of softmax(z / τ) and whether the target leads; z = h Wᵀ. Only the
    log-probability has a gradient: ∂l / ∂z = (1[v = target] − p_v) / τ."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, base: SharedBase, targets: Tensor, temperature: float
    ) -> tuple[Any, Any, Any]:
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        entropy, first = torch.empty_like(logprobs), torch.empty_like(logprobs)
        kept = None
        for part in _chunks(len(targets), base.head_weight.shape[0]):
            logp = _log_softmax(base, hidden[part], temperature)
            logprobs[part] = logp.gather(1, targets[part, None])[:, 0]
            first[part] = (logprobs[part] >= logp.amax(-1)).float()
            kept = logp.exp()
            entropy[part] = -torch.linalg.vecdot(kept, logp)
        whole = kept if kept is not None and kept.numel() <= KEPT_LOGITS and len(kept) == len(targets) else None
        ctx.save_for_backward(hidden, targets, whole)
        ctx.base, ctx.temperature = base, temperature
        ctx.mark_non_differentiable(entropy, first)
        return logprobs, entropy, first

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        hidden, targets, whole = ctx.saved_tensors
        base, out = ctx.base, torch.empty_like(hidden)
        for part in _chunks(len(targets), base.head_weight.shape[0]):
            if base.soft_cap is None:
                p = _log_softmax(base, hidden[part], ctx.temperature).exp_() if whole is None else whole
                dz = p * (-grads[0][part, None] / ctx.temperature)
                dz.scatter_add_(1, targets[part, None], grads[0][part, None] / ctx.temperature)
                out[part] = dz.to(hidden.dtype) @ base.head_weight
                continue
            with torch.enable_grad():
                h = hidden[part].detach().requires_grad_()
                picked = _log_softmax(base, h, ctx.temperature).gather(1, targets[part, None])[:, 0]
            (out[part],) = torch.autograd.grad(picked, h, grads[0][part])
        return out, None, None, None


def _log_softmax(base: SharedBase, hidden: Tensor, temperature: float) -> Tensor:
    logits = base.logits(hidden)
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def _chunks(m: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    return [slice(i, min(i + size, m)) for i in range(0, m, size)]


def token_scores(
    base: SharedBase, hidden: Tensor, packed: Pack, start: int = 0, stop: int | None = None, temperature: float = 1.0
) -> TokenScores:
    """Log-probabilities and entropies of the completion tokens of the caller's rows start:stop, as (B, T) grids.

    l_t = log softmax(z_t / τ)[y_t]. `hidden` (N, H) comes from `base.forward(packed)`; padding is 0. Gradients flow
    through the log-probabilities.
    """
    sources, targets, rows, columns = packed.only(start, len(packed.lengths) if stop is None else stop)
    columns_of = _ChunkedLogprobs.apply(hidden.index_select(0, sources), base, targets, temperature)
    shape = _shape(packed, start, stop)
    return TokenScores(*(x.new_zeros(shape).index_put((rows, columns), x) for x in columns_of))


def token_values(
    base: SharedBase, role: str, hidden: Tensor, packed: Pack, start: int = 0, stop: int | None = None
) -> Tensor:
    """(B, T) values: the head of `role` at the state before each completion token. Padding is 0."""
    sources, _, rows, columns = packed.only(start, len(packed.lengths) if stop is None else stop)
    values = base.role(role).read(hidden.index_select(0, sources))
    return values.new_zeros(_shape(packed, start, stop)).index_put((rows, columns), values)


def final_rewards(
    base: SharedBase, role: str, hidden: Tensor, packed: Pack, start: int = 0, stop: int | None = None
) -> Tensor:
    """(B,) rewards: the head of `role` at the last real token of each row."""
    return base.role(role).read(hidden.index_select(0, packed.last[start:stop]))


def _shape(packed: Pack, start: int, stop: int | None) -> tuple[int, int]:
    lengths = packed.lengths[start:stop]
    return len(lengths), int(lengths.max()) if len(lengths) else 0


@torch.no_grad()
def score(
    base: SharedBase,
    pairs: Sequence[tuple[Tokens, Tokens]],
    want: Mapping[str, str],
    temperature: float = 1.0,
    tokens_per_pass: int = 8192,
) -> dict[str, Tensor]:
    """Scores the same (prompt, completion) tokens under several roles; all roles of a part share one pass.

    want : role -> "logprobs" (B, T), "values" (B, T) or "reward" (B,); "base" may be asked for log-probabilities
    Gives back one tensor a role, in the order of `pairs`; padding is 0.
    """
    width = max((len(c) for _, c in pairs), default=0)
    shapes = {role: (len(pairs),) if kind == "reward" else (len(pairs), width) for role, kind in want.items()}
    out = {role: torch.zeros(shape, device=base.device) for role, shape in shapes.items()}
    per_role = max(1, tokens_per_pass // max(1, len(want)))
    for part in split([Row("", p, c) for p, c in pairs], per_role):
        packed = base.pack([Row(role, *pairs[b]) for role in want for b in part])
        hidden = base.forward(packed)
        for i, (role, kind) in enumerate(want.items()):
            span = (i * len(part), (i + 1) * len(part))
            values = _read(base, role, kind, hidden, packed, span, temperature)
            if kind == "reward":
                out[role][part] = values
            else:
                out[role][part, : values.shape[1]] = values
    return out


def _read(
    base: SharedBase, role: str, kind: str, hidden: Tensor, packed: Pack, span: tuple[int, int], temperature: float
) -> Tensor:
    if kind == "logprobs":
        return token_scores(base, hidden, packed, *span, temperature=temperature).logprobs
    if kind == "values":
        return token_values(base, role, hidden, packed, *span)
    if kind == "reward":
        return final_rewards(base, role, hidden, packed, *span)
    raise ValueError(f"{kind!r} cannot be scored; ask for logprobs, values or reward.")
