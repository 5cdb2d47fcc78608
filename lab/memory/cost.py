"""Bytes of single things: weights, adapters, activations, logits, keys and values. Arithmetic only, no torch.

s is the size of a number while computing: 2 bytes (bf16) on a GPU, 4 on a CPU or with 32 bits. N packed tokens, P
places of the padded views that attention reads (rows that share a prompt read its tokens again), M tokens scored.

Saved for the backward pass by one layer, in numbers of s bytes unless said otherwise (the forward of `lab.lowrank` and
`lab.attention` over a decoder of transformers):

    N: the inputs of the norms H each (in fp32), two of their outputs 2·H, the out-projection's input h·d, gate, up,
       act(gate) and their product 4·F, x Aᵀ of every adapted layer rank each
    P: queries h·d, keys and values 2·kv·d, attention's output h·d, logsumexp 4 bytes a head, places 8 bytes
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lab.config import Adapter
from lab.memory.shape import Shape

BLOCK = 64
"""Weights that share a scale in NF4."""

NESTED = 256
"""Scales that share a scale where they are quantised too."""

CHUNK_LOGITS = 1 << 24
"""Logits that exist at once (`lab.score`)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How long the data are, in tokens: a typical prompt and completion, and the longest row of both."""

    prompt: int
    completion: int
    longest: int = 0

    @property
    def whole(self) -> int:
        """A typical row."""
        return self.prompt + self.completion

    @property
    def padding(self) -> float:
        """Places of the padded views for each token of a row: three views at most, each cut where that saves a
        quarter, so never more than 4/3 of what is real."""
        return min(4 / 3, max(1.0, self.longest / max(1, self.whole)))


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it runs. `free`: bytes free before anything is loaded; `runtime`: what torch itself takes of them."""

    device: str = "cpu"
    free: int = 0
    runtime: int = 0


@dataclass(frozen=True)
class Wish:
    """A run, as far as memory is concerned.

    rows   : how long the data are; None: as long as the settings allow
    judges : reward models among the rewards
    probes : prompts answered at intervals, and the longest of their answers
    dense  : whether NF4 weights are kept dequantised too; None: where they fit in a third of what is free
    checkpoint_every : every n-th layer is computed again in the backward pass (0: none; `SharedBase.checkpoint`)
    """

    method: str
    config: Any
    adapter: Adapter = field(default_factory=Adapter)
    bits: int = 4
    double_quant: bool = False
    machine: Machine = field(default_factory=Machine)
    rows: Rows | None = None
    judges: int = 1
    probes: tuple[int, int] = (6, 64)
    dense: bool | None = None
    checkpoint_every: int = 0

    @property
    def size(self) -> int:
        """Bytes of a number while computing."""
        return 4 if self.machine.device == "cpu" or self.bits == 32 else 2


def weight_bytes(shape: Shape, wish: Wish) -> dict[str, int]:
    """The frozen base: its linear layers in 4, 8, 16 or 32 bits with their scales, the rest in the computing type."""
    s, linear = wish.size, sum(x.weights for x in shape.linears)
    biases = sum(x.outputs * x.count for x in shape.linears if x.bias)
    rest = {"embeddings": s * shape.embedded, "head": s * shape.head, "norms": s * (shape.other + biases)}
    if wish.bits == 4:
        return {"linear layers": linear // 2, "scales": _scales(shape, wish.double_quant)} | rest
    if wish.bits == 8:
        return {"linear layers": linear, "scales": 4 * sum(x.outputs * x.count for x in shape.linears)} | rest
    return {"linear layers": s * linear} | rest


def _scales(shape: Shape, double_quant: bool) -> int:
    """NF4: an fp32 scale for 64 weights and 16 fp32 values a layer; quantised again: one byte, and for 256 scales one
    fp32 more, with 256 fp32 values and an offset a layer."""
    total = 0
    for x in shape.linears:
        blocks = -(-x.inputs * x.outputs // BLOCK)
        own = blocks + 4 * -(-blocks // NESTED) + 4 * 256 + 4 if double_quant else 4 * blocks
        total += x.count * (own + 4 * 16)
    return total


def dense_bytes(shape: Shape, wish: Wish, weights: int) -> int:
    """The dequantised copy of the adapted NF4 layers; 0 where it is not kept."""
    if wish.bits != 4 or wish.dense is False:
        return 0
    every = wish.size * sum(x.weights for x in shape.linears)
    if wish.dense is None and not every < (wish.machine.free - wish.machine.runtime - weights) / 3:
        return 0
    return wish.size * sum(x.weights for x in shape.targets(wish.adapter.targets))


def role_bytes(shape: Shape, adapter: Adapter, *, head: bool, trained: bool) -> dict[str, int]:
    """One role in fp32: its adapter (and head of H + 1 numbers), and where it is trained its gradients and AdamW's two
    moments."""
    numbers = shape.adapter(adapter.rank, adapter.targets) + (shape.hidden + 1) * head
    return {"weights": 4 * numbers} | ({"gradients": 4 * numbers, "moments": 8 * numbers} if trained else {})


def saved_bytes(shape: Shape, wish: Wish, tokens: int, places: int) -> int:
    """What one layer keeps for the backward pass."""
    s, d = wish.size, shape.head_dim
    normed = (shape.heads + shape.kv_heads) * d * shape.head_norms
    norms = 4 * (shape.norms * shape.hidden + normed)  # in bf16 the norm computes, and keeps, fp32
    inner = s * wish.adapter.rank * sum(x.count for x in shape.targets(wish.adapter.targets)) // max(1, shape.layers)
    each = norms + s * (2 * shape.hidden + shape.heads * d + 4 * shape.feedforward) + inner
    attention = s * (2 * shape.heads + 2 * shape.kv_heads) * d + 4 * shape.heads + 8
    return tokens * each + places * attention


def passing_bytes(shape: Shape, wish: Wish, tokens: int, places: int, *, gradients: bool) -> int:
    """What a pass needs for the moment, besides what it keeps: without gradients the widest half of a layer, with them
    the layer whose gradients are under way. A matrix of NF4 is unpacked where no dequantised copy is kept."""
    s, h, d, f = wish.size, shape.hidden, shape.head_dim, shape.feedforward
    fused = any(x.name == "gate_up_proj" for x in shape.linears)
    unpacked = s * max(x.inputs * x.outputs for x in shape.linears) if wish.bits == 4 and wish.dense is False else 0
    turns = 2 * d * s * tokens  # cosines and sines of the positions
    if gradients:
        return turns + tokens * s * max(h + 2 * f, 5 * h) + unpacked
    mlp = tokens * s * (4 * h + (3 + fused) * f)
    attention = s * (tokens * (3 * h + (2 * shape.heads + 2 * shape.kv_heads) * d)
                     + places * (2 * shape.heads + 2 * shape.kv_heads) * d)  # fmt: skip
    return turns + max(mlp, attention) + unpacked


def logits_bytes(shape: Shape, wish: Wish, tokens: int, scored: int, *, gradients: bool) -> int:
    """Scoring `scored` of `tokens` hidden states: those states (their gradients too), and the fp32 logits that exist at
    once: a chunk's logits, log-probabilities and probabilities, and where there are several chunks one of the last."""
    if not scored:
        return 0
    most = max(1, CHUNK_LOGITS // shape.vocabulary)
    chunk = 4 * min(scored, most) * shape.vocabulary
    several = scored > most
    states = wish.size * shape.hidden * (tokens + scored * (1 + (several and gradients)))
    return states + gradients * 2 * shape.head_dim * wish.size * tokens + (4 if several else 3) * chunk


def cache_bytes(shape: Shape, wish: Wish, rows: int, length: int) -> int:
    """Keys and values of `rows` rows of up to `length` tokens: 2 · layers · kv heads · head size · s each."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * wish.size * rows * min(length, shape.window)


def drawing_bytes(shape: Shape, wish: Wish, rows: int) -> int:
    """One decoding step: logits, log-probabilities, noise and their difference in fp32, and a layer's own numbers."""
    return rows * (4 * 4 * shape.vocabulary + wish.size * (4 * shape.hidden + 3 * shape.feedforward))


def merged_bytes(shape: Shape, wish: Wish, roles: int) -> int:
    """The sampler's own fp32 matrices with the adapters merged in (`lab.decode`): on a CPU, where they take less than a
    sixth of what is free."""
    if wish.machine.device != "cpu" or wish.bits == 8:
        return 0
    parts = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    if shape.norms != 2 or {x.name for x in shape.linears} != parts:  # decoders of another form keep their own forward
        return 0
    every = 4 * sum(x.weights for x in shape.linears) * roles
    return every if every <= (wish.machine.free - wish.machine.runtime) / 6 else 0
