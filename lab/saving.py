"""Roles on disk: PEFT's own layout for the adapter, the head beside it, and a card that says what they belong to.

    adapter_config.json, adapter_model.safetensors     open with PeftModel.from_pretrained(model, folder)
    head.safetensors                                   weight (H,) and bias (1,), fp32, if the role has a head
    lab.json                                           identity of base, tokenizer and template; standardisation

Nothing is ever pickled or unpickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from lab.base import SharedBase
from lab.config import Adapter
from lab.roles import Role

CARD = "lab.json"


class AdapterError(ValueError):
    """An adapter folder that does not belong to this base, or is not whole."""


def save_role(base: SharedBase, name: str, folder: str | Path) -> Path:
    """Writes a role; the folder is made if needed. The files are PEFT's own, plus the head and the card."""
    from safetensors.torch import save_file

    role = base.role(name)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.contiguous().cpu() for key, value in _adapter_state(base, name).items()}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    config = base.model.peft_config[name]
    (folder / "adapter_config.json").write_text(json.dumps(_plain(config.to_dict()), indent=2, sort_keys=True))
    if role.head:
        w = role.head_weight.detach().cpu()
        save_file({"weight": w[:-1].contiguous(), "bias": w[-1:].contiguous()}, str(folder / "head.safetensors"))
    (folder / CARD).write_text(json.dumps(_card(base, role), indent=2))
    return folder


def load_role(base: SharedBase, folder: str | Path, name: str) -> Role:
    """Adds the role saved in a folder to the base under `name`, bit for bit.

    Also opens adapters that PEFT saved (no card: only the shapes can be checked). Raises AdapterError for an adapter of
    another base, tokenizer or chat template, one with features the lab does not compute, or missing files.
    """
    folder = Path(folder)
    config = _read(folder, "adapter_config.json")
    card = _read(folder, CARD) if (folder / CARD).exists() else {}
    _check(base, folder, config, card)
    role = base.add_role(name, _adapter(config, card))
    try:
        if (folder / "head.safetensors").exists():
            base.add_head(name)
        read_weights(base, folder, role)
    except BaseException:
        base.drop(name)
        raise
    role.origin = str(card.get("origin", folder))
    return role


def read_weights(base: SharedBase, folder: Path, role: Role) -> None:
    """Copies saved tensors into an existing role's own, which stay views of its flat buffer."""
    from safetensors.torch import load_file

    own = _adapter_state(base, role.name)
    state = load_file(str(folder / "adapter_model.safetensors"))
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())[0]
        raise AdapterError(
            f"The adapter in {folder} has other layers than this base ({odd} is on one side only); it "
            "was made for another model."
        )
    for key, value in state.items():
        if own[key].shape != value.shape:
            raise AdapterError(
                f"The adapter in {folder} does not fit this base: {key} is {tuple(value.shape)}, here "
                f"it must be {tuple(own[key].shape)}."
            )
        own[key].copy_(value)
    if role.head:
        head = load_file(str(folder / "head.safetensors"))
        role.weights[role.n_adapter :].copy_(torch.cat([head["weight"].reshape(-1), head["bias"].reshape(-1)]))
    card = _read(folder, CARD) if (folder / CARD).exists() else {}
    role.mean, role.spread = float(card.get("mean", 0.0)), float(card.get("spread", 1.0))


def _adapter_state(base: SharedBase, name: str) -> dict[str, torch.Tensor]:
    """The adapter's tensors under PEFT's names: the layer's path, without the adapter's name."""
    return {
        f"{path}.lora_{x}.weight": getattr(layer, f"lora_{x}")[name].weight.data
        for path, layer in base.layers(name)
        for x in "AB"
    }


def _adapter(config: dict[str, Any], card: dict[str, Any]) -> Adapter:
    targets = card.get("targets")
    if targets is None:  # saved by PEFT: recognise the lab's three choices by the layers named
        names = set(config["target_modules"]) if isinstance(config["target_modules"], list) else {"all-linear"}
        attention = {n for n in names if n in ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")}
        targets = "attention" if names == attention else "mlp" if not attention and names != {"all-linear"} else \
            "all-linear"  # fmt: skip
    return Adapter(int(config["r"]), int(config["lora_alpha"]), targets)


def _check(base: SharedBase, folder: Path, config: dict[str, Any], card: dict[str, Any]) -> None:
    if str(config.get("peft_type", "")).upper().rpartition(".")[2] != "LORA":
        raise AdapterError(f"{folder} holds a {config.get('peft_type')} adapter; only LoRA can be a role here.")
    for feature in ("use_dora", "use_rslora", "lora_bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern",
                    "modules_to_save", "layers_to_transform"):  # fmt: skip
        if config.get(feature):
            raise AdapterError(
                f"The adapter in {folder} uses {feature}, which the lab does not compute; save it again as plain LoRA."
            )
    for what, own in (("base", base.fingerprint), ("template", base.chat.fingerprint)):
        if card and card[what] != own:
            other = "another base model" if what == "base" else "another tokenizer or chat template"
            raise AdapterError(
                f"The adapter in {folder} was trained on {other} ({card['source']}, {card[what]}; here "
                f"{base.source}, {own}); load that one, or train a new adapter."
            )


def _card(base: SharedBase, role: Role) -> dict[str, Any]:
    return {
        "role": role.name,
        "origin": role.origin,
        "targets": role.targets,
        "head": role.head,
        "mean": role.mean,
        "spread": role.spread,
        "source": base.source,
        "bits": base.bits,
        "base": base.fingerprint,
        "template": base.chat.fingerprint,
    }


def _read(folder: Path, file: str) -> dict[str, Any]:
    try:
        return json.loads((folder / file).read_text())
    except FileNotFoundError:
        raise AdapterError(f"There is no adapter in {folder}: {file} is missing.") from None
    except json.JSONDecodeError as error:
        raise AdapterError(f"{folder / file} is not whole ({error}); copy the adapter again.") from None


def _plain(value: Any) -> Any:
    """JSON-able copy of PEFT's configuration: sets sorted, enumerations by value."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(v) for v in value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return getattr(value, "value", value)
    return getattr(value, "value", str(value))
