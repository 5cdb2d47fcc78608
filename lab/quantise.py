"""Loading a model of transformers onto one device: NF4, 8 bits, 16 bits or as it is, and what makes that right."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "query_key_value", "dense")
BITS = (4, 8, 16, 32)


class ModelError(ValueError):
    """A model that cannot be loaded or used, with the reason and what to do."""


def pick_device(name: str) -> torch.device:
    """auto -> the first GPU if there is one, else the CPU. Asking for a GPU that is not there is an error."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "A GPU was asked for (--device cuda) but torch sees none; check the driver, install the CUDA "
            "build of torch, or use --device cpu."
        )
    return device


def load(source: str | Path, bits: int, device: torch.device, double_quant: bool) -> tuple[Any, Any]:
    """The frozen model and its tokenizer. The compute type is bf16 on a GPU and fp32 on the CPU."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if bits not in BITS:
        raise ModelError(f"bits is {bits}; choose one of 4 (NF4), 8, 16 or 32.")
    folder = Path(source)
    if not folder.exists() and (str(source).startswith((".", "/", "~")) or os.sep in str(source)[:2]):
        raise ModelError(
            f"There is no folder {source}; give a folder with config.json or a Hub id such as Qwen/Qwen3-0.6B."
        )
    compute = torch.float32 if device.type == "cpu" or bits == 32 else torch.bfloat16
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=compute, device_map={"": str(device)},
            quantization_config=_quantisation(bits, compute, double_quant))  # fmt: skip
    except (OSError, ValueError) as error:
        raise ModelError(f"The model {source} could not be loaded: {str(error).splitlines()[0]}") from error
    model.requires_grad_(False)
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # a mask that differs between two forwards would put the ratio off at the first step
        if is_nf4(module):
            # Repacking in eval mode gives wrong gradients ever after.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return model, tokenizer


def _quantisation(bits: int, compute: torch.dtype, double_quant: bool) -> Any:
    if bits >= 16:
        return None
    from transformers import BitsAndBytesConfig

    if bits == 8:
        # The outlier columns of LLM.int8 are those of the whole batch: a row's numbers would depend on its neighbours.
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_use_double_quant=double_quant,
    )


def stop_ids(model: Any) -> tuple[int, ...]:
    """The end tokens the model's generation settings name."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return tuple(ids) if isinstance(ids, (list, tuple)) else () if ids is None else (int(ids),)


def is_nf4(module: nn.Module) -> bool:
    """Whether this is a 4-bit linear layer of bitsandbytes (known by its weight, without importing the library)."""
    return type(module).__name__ == "Linear4bit"


def dequantise(layer: Any) -> Tensor:
    """The (out, in) values an NF4 layer stands for, in its compute type: what its forward multiplies with."""
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.weight
    return dequantize_4bit(weight.data, weight.quant_state).to(layer.compute_dtype)


def dense_fits(model: Any) -> bool:
    """Whether a dense copy of the quantised layers takes less than a third of the memory that is free now."""
    layers = [m for m in model.modules() if is_nf4(m)]
    need = sum(m.in_features * m.out_features * m.compute_dtype.itemsize for m in layers)
    return bool(layers) and need < free_memory(model.device) / 3


def free_memory(device: torch.device) -> int:
    """Free bytes on the device (of the machine, for the CPU; 0 where the system does not say)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def target_modules(model: Any, targets: str) -> list[str]:
    """Names (last part) of the linear layers that get adapters; never the language-model head."""
    head = model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, m in model.named_modules()
        if m is not head
        and (isinstance(m, nn.Linear) or hasattr(m, "base_layer"))
        and not {"base_layer", "lora_A", "lora_B"} & set(name.split("."))
    }
    if targets == "attention":
        names &= set(ATTENTION)
    elif targets == "mlp":
        names -= set(ATTENTION)
    if not names:
        raise ModelError(f"{type(model).__name__} has no linear layers for targets={targets!r}; use all-linear.")
    return sorted(names)


@torch.no_grad()
def fuse_norms(model: Any) -> int:
    """Lets every RMS norm that computes x / rms(x) · weight use torch's fused one; gives back how many.

    Each is tried on random numbers first: norms of another form (Gemma's 1 + weight) keep their own forward.
    """
    fused = 0
    for module in model.modules():
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        weight = getattr(module, "weight", None)
        if not type(module).__name__.endswith("RMSNorm") or eps is None or weight is None or weight.ndim != 1:
            continue
        x = torch.linspace(-2, 3, 3 * weight.numel(), device=weight.device, dtype=weight.dtype).view(3, -1)
        if weight.dtype == torch.float32 and torch.allclose(
            module(x), F.rms_norm(x, weight.shape, weight, eps), rtol=1e-6, atol=1e-6
        ):
            module.forward = _fused_norm(weight, eps)
            fused += 1
    return fused


def _fused_norm(weight: Tensor, eps: float) -> Any:
    def forward(x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_grad_enabled() and x.requires_grad:
            return RMSNorm.apply(x, weight, eps)
        return F.rms_norm(x, weight.shape, weight, eps)

    return forward


class RMSNorm(torch.autograd.Function):
    """RMS norm with a backward of its own, on a CPU a quarter of the work of the one that autograd puts together:

        y = n · w, n = x r, r = (mean x² + ε)^−½      ∂x = r (∂y · w − n · mean(∂y · w · n))

    The weight is frozen and gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, weight = ctx.saved_tensors
        r = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(ctx.eps).rsqrt_().unsqueeze(-1)
        n, dn = x * r, grads[0] * weight
        along = torch.linalg.vecdot(dn, n).div_(-x.shape[-1]).unsqueeze(-1)
        return torch.addcmul(dn, n, along).mul_(r), None, None


def fingerprint(model: Any) -> str:
    """Identity of the checkpoint: its shape and a sample of the weights that no quantisation touches.

    The sample is rounded to bf16 first, so that the same checkpoint has one identity at any precision.
    """
    digest = hashlib.sha256()
    config = model.config
    digest.update(repr((config.model_type, config.hidden_size, config.num_hidden_layers, config.vocab_size)).encode())
    for name, p in model.named_parameters():
        if "norm" in name or "embed" in name:
            flat = p.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 4096)].to(torch.bfloat16).float()
            digest.update(name.encode() + sample.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
