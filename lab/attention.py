"""Attention over a packed tree: a gathered, right-padded view through plain SDPA, with or without a key-value cache.

Registered with transformers under the name `lab_tree`. A name without a mask function makes transformers build no mask
at all; right padding needs none, because a causal row never looks to its right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "lab_tree"


@dataclass
class KVCache:
    """Keys and values of R rows being decoded, one pair of (R, H_kv, capacity, D) tensors a layer.

    `lengths` (R,) counts the tokens stored for each row; a decoding step writes there and attends to everything before
    and including it. Rows that ended are dropped with `keep`. `step` comes before a decoding step, `grown` after it.
    """

    capacity: int
    lengths: Tensor
    rows: Tensor
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    reach: int = 0  # longest row after the coming write: how much of the capacity a step must read
    places: dict[int, Tensor] = field(default_factory=dict)  # H_kv -> (R · H_kv,) where the coming tokens go
    masks: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    def keep(self, index: Tensor) -> None:
        """Keeps only the rows `index`, in that order."""
        self.lengths = self.lengths[index]
        self.reach = int(self.lengths.max())
        for store in (self.keys, self.values):
            for layer in store:
                store[layer] = store[layer].index_select(0, index)

    def fill(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Stores the prompts' keys and values (P, H_kv, T, D), repeated to the rows that continue each prompt."""
        for store, new in ((self.keys, keys), (self.values, values)):
            full = new.new_zeros(len(self.rows), new.shape[1], self.capacity, new.shape[3])
            full[:, :, : new.shape[2]] = new.index_select(0, self.rows)
            store[layer] = full

    def step(self) -> None:
        """Finds where every row's next token goes. A row that is full writes over its own last token: it has ended."""
        self.lengths = torch.clamp(self.lengths, max=self.capacity - 1)
        self.reach = min(self.reach + 1, self.capacity)
        self.places.clear()
        self.masks.clear()

    def grown(self) -> None:
        """Every row is one token longer."""
        self.lengths = self.lengths + 1

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores one new token a row, (R, H_kv, D) each, and gives back what the step attends to, (R, H_kv, T, D)."""
        heads = keys.shape[1]
        if heads not in self.places:
            row = torch.arange(len(self.lengths), device=self.lengths.device)[:, None]
            head = torch.arange(heads, device=self.lengths.device)
            self.places[heads] = ((row * heads + head) * self.capacity + self.lengths[:, None]).view(-1)
        for store, new in ((self.keys, keys), (self.values, values)):
            store[layer].view(-1, new.shape[2]).index_copy_(0, self.places[heads], new.flatten(0, 1))
        keys, values = (store[layer][:, :, : self.reach] for store in (self.keys, self.values))
        return keys, values

    def seen(self, window: int | None, like: Tensor) -> Tensor:
        """(R, 1, 1, T) 0 where the coming token looks, −∞ elsewhere: back to its row's start, or `window` tokens."""
        key = (window, like.dtype)
        if key not in self.masks:
            t = torch.arange(self.reach, device=like.device)
            hidden = t > self.lengths[:, None]
            if window is not None:
                hidden |= t <= self.lengths[:, None] - window
            self.masks[key] = like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None, None]
        return self.masks[key]


class _Gather(torch.autograd.Function):
    """x (N, …) read at the places of the flattened views.

    Only what reaches a real place comes back: the owner's gradient is a plain read, those of the rows that share the
    token are added, and padding gives none (nothing real looks at it).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, flat: Tensor, owner: Tensor, shared: Tensor | None) -> Tensor:
        ctx.save_for_backward(flat, owner, shared)
        return x.index_select(0, flat)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        flat, owner, shared = ctx.saved_tensors
        dx = grads[0].index_select(0, owner)
        if shared is not None and len(shared):
            dx.index_add_(0, flat[shared], grads[0].index_select(0, shared))
        return dx, None, None, None


class _Pick(torch.autograd.Function):
    """What the owners of the packed tokens found: out (places, …) -> (N, …). No place owns two tokens."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, owner: Tensor) -> Tensor:
        ctx.save_for_backward(owner)
        ctx.places = out.shape[0]
        return out.index_select(0, owner)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (owner,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.places, *grads[0].shape[1:]).index_copy_(0, owner, grads[0]), None


def tree_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                   scaling: float | None = None, dropout: float = 0.0, views: tuple[Tensor, ...] = (),
                   owner: Tensor | None = None, shared: Tensor | None = None, cache: KVCache | None = None,
                   sliding_window: int | None = None, softcap: float | None = None,
                   **_: object) -> tuple[Tensor, None]:  # fmt: skip
    """query (1, H, N, D), key and value (1, H_kv, N, D) -> (1, N, H, D). Dropout is never applied."""
    if softcap is not None:
        raise ValueError(
            "This model caps its attention scores, which the packed attention does not compute; "
            "use a model without attn_logit_softcapping."
        )
    layer = getattr(module, "layer_idx", 0)
    if cache is not None and layer in cache.keys:
        return _decode(layer, query, key, value, scaling, cache, sliding_window), None
    assert owner is not None
    flat = torch.cat([view.reshape(-1) for view in views])
    # The places that share a token answer for nobody, so no gradient comes back to their queries.
    q, k, v = (_Gather.apply(x.squeeze(0).transpose(0, 1), flat, owner, more)
               for x, more in ((query, None), (key, shared), (value, shared)))  # fmt: skip
    sizes = [view.numel() for view in views]
    outputs = []
    for view, *parts in zip(views, *(x.split(sizes) for x in (q, k, v)), strict=True):
        qr, kr, vr = (x.view(*view.shape, *x.shape[1:]).transpose(1, 2) for x in parts)  # (R, H, T, D)
        if cache is not None:
            cache.fill(layer, kr, vr)
        mask = _window(view.shape[1], sliding_window, query.device)
        out = F.scaled_dot_product_attention(
            qr, kr, vr, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=qr.shape[1] != kr.shape[1]
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return _Pick.apply(outputs[0] if len(outputs) == 1 else torch.cat(outputs), owner)[None], None


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """A causal band of the last `window` positions, or None where plain causal attention is the same."""
    if window is None or length <= window:
        return None
    t = torch.arange(length, device=device)
    return (t[:, None] >= t) & (t[:, None] - t < window)


def _decode(
    layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, cache: KVCache, window: int | None
) -> Tensor:
    """One new token for every row of the cache: the packed axis is the row axis. The window counts back from it."""
    keys, values = cache.write(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
    out = F.scaled_dot_product_attention(
        query[0].transpose(0, 1)[:, :, None],
        keys,
        values,
        attn_mask=cache.seen(window, query),
        scale=scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
    )
    return out[:, :, 0][None]


def register() -> None:
    """Makes `lab_tree` known to transformers; calling it again changes nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, tree_attention)
