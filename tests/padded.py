"""The plain way, to compare with: transformers' own model with PEFT's own adapter, rows padded to a rectangle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.quantise import is_nf4

Pair = tuple[tuple[int, ...], tuple[int, ...]]


def plain_model(folder: Path, bits: int = 32, adapter: Path | None = None) -> Any:
    """The model of a folder as transformers loads it, with an adapter saved in PEFT's layout if one is given."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                 quantization_config=nf4 if bits == 4 else None)  # fmt: skip
    for module in model.modules():
        if is_nf4(module):
            module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    return model.eval()


def padded(pairs: Sequence[Pair], pad: int) -> tuple[Tensor, Tensor]:
    """(B, L) token ids, right-padded with `pad`, and the (B, L) attention mask, from the lengths."""
    rows = [p + c for p, c in pairs]
    width = max(map(len, rows))
    ids = torch.tensor([row + (pad,) * (width - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


def padded_logprobs(model: Any, pairs: Sequence[Pair], pad: int, temperature: float = 1.0) -> Tensor:
    """(B, T) log-probabilities (nats) of the completion tokens, T the longest completion; 0 after a row's end."""
    ids, mask = padded(pairs, pad)
    logits = model(input_ids=ids, attention_mask=mask).logits
    grid = logits.new_zeros(len(pairs), max(len(c) for _, c in pairs))
    for b, (prompt, completion) in enumerate(pairs):
        for t, token in enumerate(completion):
            row = logits[b, len(prompt) - 1 + t] / temperature
            grid[b, t] = row[token] - row.logsumexp(0)
    return grid


def adapter_gradients(model: Any) -> Tensor:
    """The gradients of PEFT's adapter in the order of the lab's flat buffer: layer by layer, A before B."""
    parts = []
    for module in model.modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            parts += [module.lora_A["default"].weight.grad, module.lora_B["default"].weight.grad]
    return torch.cat([p.reshape(-1) for p in parts])
