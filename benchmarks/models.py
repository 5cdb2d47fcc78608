"""Real architectures with random weights, made in memory: no download, no disk, the same numbers for a seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from lab import attention, quantise, tiny
from lab.base import SharedBase
from lab.chat import Chat
from lab.encode import TokenPair, TokenRow
from lab.lowrank import Now

QWEN = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151936, "max_position_embeddings": 32768,
        "tie_word_embeddings": True, "rope_theta": 1_000_000.0}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {"family": "Qwen3", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512,
             "max_position_embeddings": 4096, "tie_word_embeddings": True},
    "60m": {"family": "Llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 16,
            "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 8192, "max_position_embeddings": 4096,
            "tie_word_embeddings": True},
    "0.6b": {"family": "Qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
             "num_attention_heads": 16} | QWEN,
    "4b": {"family": "Qwen3", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
           "num_attention_heads": 32} | QWEN,
}  # fmt: skip


def random_model(name: str, device: torch.device, nf4: bool = True) -> Any:
    """A frozen causal model of transformers; its linear layers (the head apart) are NF4 if asked for."""
    import transformers

    fields = dict(CONFIGS[name])
    family = fields.pop("family")
    config = getattr(transformers, f"{family}Config")(**fields)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.requires_grad_(False).eval()
    if nf4:
        _to_nf4(model, dtype)
    return model


def _to_nf4(model: Any, dtype: torch.dtype) -> None:
    import bitsandbytes as bnb

    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not head:
                quantised = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False, compute_dtype=dtype,
                                              quant_type="nf4", device="meta")  # fmt: skip
                quantised.weight = bnb.nn.Params4bit(
                    child.weight.data,
                    requires_grad=False,
                    quant_type="nf4",
                    compress_statistics=False,
                    module=quantised,
                ).to(child.weight.device)
                quantised.support_avx512bf16_for_cpu = False
                setattr(module, name, quantised)
                child.weight = None


def random_base(name: str, device: torch.device, dense: bool = False, stops: int = 0) -> SharedBase:
    """A shared base around a random NF4 model, with the tiny world's tokenizer.

    `stops` tokens of the vocabulary end a completion: near-uniform logits then stop after about V / stops tokens.
    """
    attention.register()
    model = random_model(name, device)
    chat = Chat.load(tiny.CHECKPOINT)
    ids = np.random.default_rng(0).choice(CONFIGS[name]["vocab_size"], stops, replace=False) if stops else []
    base = SharedBase(model, replace(chat, stop_ids=frozenset(int(i) for i in ids)), f"random {name}", 4,
                      quantise.fingerprint(model), {}, Now())  # fmt: skip
    quantise.fuse_norms(model)
    base._probe()
    if dense:
        base.keep_dense(True)
    return base


def random_rows(n: int, vocabulary: int, prompt: int, completion: int, longest: int, seed: int = 0) -> list[TokenRow]:
    """`n` rows with log-normal lengths of these medians (σ = 0.6), of at most `longest` tokens."""
    rng = np.random.default_rng(seed)

    def ids(median: int, most: int) -> tuple[int, ...]:
        length = int(np.clip(round(median * np.exp(0.6 * rng.standard_normal())), 2, most))
        return tuple(int(i) for i in rng.integers(3, vocabulary, length))

    rows = [(ids(prompt, longest // 2), ids(completion, longest // 2)) for _ in range(n)]
    return [TokenRow(p, c, (True,) * len(c), i) for i, (p, c) in enumerate(rows)]


def random_groups(n: int, vocabulary: int, prompt: int, completion: int, longest: int, group: int) -> list[TokenRow]:
    """`n` rows in which each prompt has `group` completions, one after the other."""
    rows = random_rows(n, vocabulary, prompt, completion, longest, 3)
    return [TokenRow(rows[i - i % group].prompt_ids, r.completion_ids, r.mask, i) for i, r in enumerate(rows)]


def random_pairs(n: int, vocabulary: int, prompt: int, completion: int, longest: int) -> list[TokenPair]:
    """`n` pairs; both sides share their prompt."""
    chosen = random_rows(n, vocabulary, prompt, completion, longest, 1)
    other = random_rows(n, vocabulary, prompt, completion, longest, 2)
    return [TokenPair(c, TokenRow(c.prompt_ids, r.completion_ids, r.mask), row=i)
            for i, (c, r) in enumerate(zip(chosen, other, strict=True))]  # fmt: skip
