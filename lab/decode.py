"""One decoding step in few operations, for plain decoders in float32 with every role's adapter merged into its weights.

A layer is x + o(attention(q, k, v)) and then x + down(act(gate) · up), each after a norm, as in Llama, Mistral, the
first Gemma, Qwen 2 and Qwen 3. A role's queries, keys and values come from one matrix, gate and up from another: four
products a layer, where the model's own code makes seven, each with two more for the adapter. Merging is
W + (alpha / rank) · B A; in float32 it moves a log-probability by about 1e-6 (in bfloat16 it would lose small updates:
nothing is merged there).

Whether a model is such a decoder is not taken from its name: `Decoder.of` looks at the parts of its layers, and the
first step on every base is computed both ways (`lab.sample`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab import quantise
from lab.attention import KVCache
from lab.pack import Slice

if TYPE_CHECKING:
    from lab.base import SharedBase

TOLERANCE = 1e-4
"""How far the hidden states may be from the model's own, relative to the largest."""

_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


class Product(NamedTuple):
    """Linear layers that read the same x, as one: role -> (out, in) weight, and the bias all roles share."""

    weights: dict[str, Tensor]
    bias: Tensor | None

    def __call__(self, x: Tensor, slices: Sequence[Slice]) -> Tensor:
        """x (R, in) -> (R, out), every slice by its role's weight."""
        if len(slices) == 1:
            return F.linear(x, self.weights[slices[0].role], self.bias)
        return torch.cat([F.linear(x[s.start : s.stop], self.weights[s.role], self.bias) for s in slices])


class Layer(NamedTuple):
    """One decoder layer: its products, how many query and key-value heads it has, and the module it was made from."""

    module: Any
    qkv: Product
    out: Product
    gate_up: Product
    down: Product
    heads: int
    kv_heads: int


class Decoder(NamedTuple):
    """A model's layers with the weights of some roles."""

    model: Any
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, base: SharedBase, roles: Sequence[str]) -> Decoder | None:
        """The decoder for these roles, or None where the model is of another kind or computes in another precision,
        or where the weights would take more than a sixth of the memory that is free.
        """
        model, roles = base.decoder, tuple(dict.fromkeys(roles))
        if base.device.type != "cpu" or base.model.dtype != torch.float32 or base.bits == 8 or not _plain(model):
            return None
        linears = [getattr(block, name) for layer in model.layers for block, names in
                   ((layer.self_attn, _ATTENTION), (layer.mlp, _MLP)) for name in names]  # fmt: skip
        need = 4 * sum(m.in_features * m.out_features for m in linears) * len(roles)
        return None if need > quantise.free_memory(base.device) / 6 else cls(model, tuple(
            _layer(layer, base.now.dense, roles) for layer in model.layers))  # fmt: skip

    def step(self, tokens: Tensor, cache: KVCache, slices: Sequence[Slice]) -> Tensor:
        """tokens (R,) at the positions `cache.lengths` -> their hidden states (R, H) after the final norm.

        `cache.step()` comes before, as for the model's own forward.
        """
        x = self.model.embed_tokens(tokens)
        cos, sin = (c[0, :, None] for c in self.model.rotary_emb(x[None], cache.lengths[None]))  # (R, 1, D)
        width = cos.shape[-1]
        # rotate_half(q) · sin is the halves of q in the other order, times sin with its first half negated.
        sin = torch.cat((-sin[..., : width // 2], sin[..., width // 2 :]), -1)
        for layer in self.layers:
            attn, h, kv = layer.module.self_attn, layer.heads, layer.kv_heads
            y = layer.qkv(layer.module.input_layernorm(x), slices).view(len(x), h + 2 * kv, width)
            qk, v = y[:, : h + kv], y[:, h + kv :]
            if hasattr(attn, "q_norm"):
                qk = torch.cat((attn.q_norm(qk[:, :h]), attn.k_norm(qk[:, h:])), 1)
            qk = torch.addcmul(qk * cos, qk.roll(width // 2, -1), sin)
            keys, values = cache.write(attn.layer_idx, qk[:, h:], v)
            mask = cache.seen(getattr(attn, "sliding_window", None), x)
            out = F.scaled_dot_product_attention(
                qk[:, :h, None], keys, values, attn_mask=mask, scale=attn.scaling, enable_gqa=h != kv
            )
            x = x + layer.out(out.flatten(1), slices)
            gate, up = layer.gate_up(layer.module.post_attention_layernorm(x), slices).chunk(2, -1)
            x = x + layer.down(layer.module.mlp.act_fn(gate) * up, slices)
        return self.model.norm(x)


def _plain(model: Any) -> bool:
    """Whether every layer has the parts of a plain decoder and no others, and positions turn whole heads."""
    layers = getattr(model, "layers", ())
    for layer in layers:
        if _parts(layer) != _LAYER or _parts(layer.mlp) - {"act_fn"} != {*_MLP}:
            return False
        if _parts(layer.self_attn) - {"q_norm", "k_norm"} != {*_ATTENTION}:
            return False
    try:
        cos, _ = model.rotary_emb(torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.long))
        return len(layers) > 0 and all(layer.self_attn.head_dim == cos.shape[-1] for layer in layers)
    except (AttributeError, TypeError, KeyError):  # positions of another kind
        return False


def _parts(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _layer(layer: Any, dense: dict[nn.Module, Tensor], roles: tuple[str, ...]) -> Layer:
    attn, mlp = layer.self_attn, layer.mlp
    groups = (attn.q_proj, attn.k_proj, attn.v_proj), (attn.o_proj,), (mlp.gate_proj, mlp.up_proj), (mlp.down_proj,)
    qkv, out, gate_up, down = (_product(linears, dense, roles) for linears in groups)
    heads, kv_heads = (m.out_features // attn.head_dim for m in (attn.q_proj, attn.k_proj))
    return Layer(layer, qkv, out, gate_up, down, heads, kv_heads)


def _product(linears: tuple[Any, ...], dense: dict[nn.Module, Tensor], roles: tuple[str, ...]) -> Product:
    weights = {role: torch.empty(sum(m.out_features for m in linears), linears[0].in_features) for role in roles}
    at = 0
    for m in linears:
        plain = getattr(m, "base_layer", m)
        weight = dense.get(m)
        if weight is None:
            weight = quantise.dequantise(plain) if quantise.is_nf4(plain) else plain.weight
        for role, whole in weights.items():
            part = whole[at : at + m.out_features]
            if role in getattr(m, "lora_A", ()):
                torch.addmm(weight, m.lora_B[role].weight, m.lora_A[role].weight, alpha=m.scaling[role], out=part)
            else:
                part.copy_(weight)
        at += m.out_features
    biases = [getattr(m, "base_layer", m).bias for m in linears]
    if all(bias is None for bias in biases):
        return Product(weights, None)
    sizes = [m.out_features for m in linears]
    return Product(weights, torch.cat([torch.zeros(n) if b is None else b for n, b in zip(sizes, biases, strict=True)]))
