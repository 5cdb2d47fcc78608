"""What a model is made of, from its config alone: it is built on torch's `meta` device, where nothing has bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "query_key_value", "dense")
"""Names of the linear layers of attention, as adapters with targets=attention take them."""


class ShapeError(ValueError):
    """A model whose config cannot be had, with the reason and what to do."""


@dataclass(frozen=True, slots=True)
class Linear:
    """`count` linear layers of one name and size; `inputs` and `outputs` in numbers, `bias` whether they have one."""

    name: str
    inputs: int
    outputs: int
    bias: bool
    count: int

    @property
    def weights(self) -> int:
        """Numbers in all their matrices, biases left out."""
        return self.inputs * self.outputs * self.count

    def adapters(self, rank: int) -> int:
        """Numbers of an adapter on all of them: A is rank × inputs, B is outputs × rank."""
        return rank * (self.inputs + self.outputs) * self.count


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that memory depends on.

    linears  : the linear layers that are quantised and may carry adapters: all but the language-model head
    embedded : numbers in the embeddings · head : numbers in the head, 0 where it is the embeddings themselves
    other    : numbers in everything else, norms above all
    feedforward : width between the two halves of an MLP
    norms       : norms of the whole hidden state in a layer: 2, or 4 where the halves' outputs are normed too
    head_norms  : whether queries and keys are normed on their own
    """

    source: str
    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feedforward: int
    vocabulary: int
    window: int
    linears: tuple[Linear, ...]
    embedded: int
    head: int
    other: int
    norms: int = 2
    head_norms: bool = False

    @property
    def parameters(self) -> int:
        """Numbers in all."""
        return sum(x.weights + x.outputs * x.count * x.bias for x in self.linears) + self.embedded + self.head + \
            self.other  # fmt: skip

    def targets(self, targets: str) -> tuple[Linear, ...]:
        """The linear layers that carry adapters: all-linear, attention or mlp."""
        if targets == "all-linear":
            return self.linears
        return tuple(x for x in self.linears if (x.name in ATTENTION) == (targets == "attention"))

    def adapter(self, rank: int, targets: str = "all-linear") -> int:
        """Numbers in one role's adapter, its head left out."""
        return sum(x.adapters(rank) for x in self.targets(targets))


def shape_of(source: str | Path, config: Any = None) -> Shape:
    """The shape of a causal language model of transformers: a folder with config.json, or a Hub id.

    config : a config of transformers in place of the source's own

    Raises ShapeError where there is none, or transformers knows no such model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(source)
    if config is None and not (folder / "config.json").is_file() and str(source).startswith((".", "/", "~")):
        raise ShapeError(f"There is no config.json in {source}; give a model's folder or its Hub id.")
    try:
        config = config or AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ShapeError(f"The config of {source} could not be had: {first}") from error
    return _read(str(source), model)


def _read(source: str, model: Any) -> Shape:
    from torch import nn

    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    linears: Counter[tuple[str, int, int, bool]] = Counter()
    for name, m in model.named_modules():
        if isinstance(m, nn.Linear) and m is not head:
            linears[name.rpartition(".")[2], m.in_features, m.out_features, m.bias is not None] += 1
    found = tuple(Linear(*key, count) for key, count in linears.items())
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    untied = 0 if head.weight is embeddings.weight else head.weight.numel()
    embedded = embeddings.weight.numel()
    known = sum(x.weights + x.outputs * x.count * x.bias for x in found) + embedded + untied
    return Shape(
        source, str(config.model_type), int(config.num_hidden_layers), int(config.hidden_size), heads,
        int(getattr(config, "num_key_value_heads", None) or heads),
        int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size), int(head.weight.shape[0]),
        int(getattr(config, "max_position_embeddings", 1 << 30)), found, embedded, untied,
        sum(p.numel() for p in model.parameters()) - known, max(1, round(_norms(model) / config.num_hidden_layers)),
        any(name.endswith(("q_norm", "k_norm")) for name, _ in model.named_modules()),
    )  # fmt: skip


def _norms(model: Any) -> int:
    """How many norms of the whole hidden state there are, but for the last one."""
    hidden = model.config.get_text_config().hidden_size
    norms = [getattr(m, "weight", None) for name, m in model.named_modules() if "norm" in name.rpartition(".")[2]]
    return sum(weight is not None and weight.shape == (hidden,) for weight in norms) - 1
