"""SharedBase: one frozen base model, named low-rank roles, heads, and the forward over role slices.

    base = SharedBase.load("path/or/hub-id", bits=4)
    base.add_role("sft", Adapter(rank=16))
    base.fork("sft", "policy"); base.fork("sft", "reference")
    base.train("policy")
    hidden = base.forward(pack([Row("policy", p, c), Row("reference", p, c)]))     # one pass, both roles

A role is data: the slices of the pack say which adapter a token goes through. There is no active adapter.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from lab import attention, quantise
from lab.chat import Chat
from lab.config import Adapter
from lab.lowrank import Now, role_linear
from lab.pack import Pack, Row, pack
from lab.roles import Role, flatten

RAW = "base"
"""The role without an adapter: the base itself."""


class RoleError(ValueError):
    """A role that does not exist, already exists, or is frozen where it must be trained."""


@dataclass
class SharedBase:
    """One frozen base and its roles. Made by `SharedBase.load`; only one thread at a time may use it."""

    model: Any
    chat: Chat
    source: str
    bits: int
    fingerprint: str
    roles: dict[str, Role]
    now: Now
    checkpointing: int = 0
    lean: bool | None = None
    """Whether `lab.decode` gives this model's hidden states; None until the first decoding step has been compared."""

    # --- loading -----------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        source: str | Path,
        bits: int = 4,
        device: str = "auto",
        dense: bool | None = None,
        double_quant: bool = False,
    ) -> SharedBase:
        """Loads a causal language model of transformers from a folder or the Hub and freezes it.

        bits         : 4 (NF4 of bitsandbytes), 8 (LLM.int8), 16 (bf16; fp32 on the CPU) or 32
        device       : auto, cpu, cuda or cuda:n
        dense        : with 4 bits, also keep the dequantised values, so that no pass unpacks them again: the same
                       numbers, faster, 2 (GPU) or 4 (CPU) bytes a weight. None: if they fit in a third of what is free
        double_quant : quantise the scales too (saves 0.4 bit a weight, costs two more launches a layer)

        Raises ModelError with one sentence if the model cannot be loaded or is of a kind the packed forward is not
        exact for: a probe compares it with the model's own forward.
        """
        attention.register()
        model, tokenizer = quantise.load(source, bits, quantise.pick_device(device), double_quant)
        chat = Chat.of(tokenizer, quantise.stop_ids(model))
        base = cls(model, chat, str(source), bits, quantise.fingerprint(model), {}, Now())
        quantise.fuse_norms(model)
        base._probe()
        if bits == 4 and dense is not False:
            base.keep_dense(dense)
        return base

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def hidden_size(self) -> int:
        return self.model.get_input_embeddings().weight.shape[1]

    @property
    def window(self) -> int:
        """The longest row the model was made for, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 30))

    @property
    def head_weight(self) -> Tensor:
        """(V, H) weight of the language-model head."""
        return self.model.get_output_embeddings().weight

    def keep_dense(self, on: bool | None = True) -> bool:
        """Keeps (or drops) the dequantised weights of the adapted layers beside NF4; None decides by free memory.

        Takes effect for layers that carry adapters, now and later. Gives back whether they are kept.
        """
        self._dense = quantise.dense_fits(self.model) if on is None else on
        self.now.dense.clear()
        if self._dense:
            self._fill_dense()
        return self._dense

    _dense = False

    def _fill_dense(self) -> None:
        for _, layer in self.layers():
            if layer not in self.now.dense and quantise.is_nf4(layer.base_layer):
                self.now.dense[layer] = quantise.dequantise(layer.base_layer)

    # --- roles -------------------------------------------------------------------------------------------------------

    def add_role(self, name: str, adapter: Adapter | None = None, seed: int = 0) -> Role:
        """A new role whose adapter changes nothing yet (B = 0, A random from `seed`)."""
        self._free(name)
        adapter = adapter or Adapter()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._inject(name, adapter)
        parameters = [
            p for _, layer in self.layers(name) for p in (layer.lora_A[name].weight, layer.lora_B[name].weight)
        ]
        weights = flatten(parameters, self.device)
        self.roles[name] = Role(
            name, parameters, weights, weights.numel(), adapter.rank, adapter.alpha, adapter.targets
        )
        for role in self.roles.values():
            role.pin()
        if self._dense:
            self._fill_dense()
        return self.roles[name]

    def add_head(self, name: str, seed: int | None = None) -> None:
        """Gives a role a scalar head: zero, or weights from N(0, 1/(H+1)) when a seed is given."""
        role = self.role(name)
        if role.head:
            raise RoleError(f"The role {name!r} already has a head.")
        head = torch.zeros(self.hidden_size + 1)
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            head[:-1] = torch.randn(self.hidden_size, generator=generator) / math.sqrt(self.hidden_size + 1)
        role.parameters.append(nn.Parameter(head.to(self.device), requires_grad=role.trained))
        role.weights = flatten(role.parameters, self.device)
        role.head = True
        role.train(role.trained)

    def fork(self, source: str, name: str, head: bool = True) -> Role:
        """A new frozen role with the same weights (and the same head, unless `head=False`).

        The standardisation of a reward head is folded into the copy's weights, so that it reads the same numbers.
        """
        old = self.role(source)
        new = self.add_role(name, Adapter(old.rank, old.alpha, old.targets))
        new.origin = source
        if old.head and head:
            self.add_head(name)
        new.weights[: new.n_adapter].copy_(old.weights[: old.n_adapter])
        if new.head:
            w = old.weights[old.n_adapter :].clone()
            w[-1] -= old.mean
            new.weights[new.n_adapter :].copy_(w / old.spread)
        return new

    def drop(self, name: str) -> None:
        """Forgets a role and frees its memory."""
        self.role(name)
        self.model.delete_adapter(name)
        del self.roles[name]
        for role in self.roles.values():
            role.pin()

    def role(self, name: str) -> Role:
        """The role of this name; RoleError names those that exist."""
        if name not in self.roles:
            known = ", ".join([RAW, *self.roles])
            raise RoleError(f"There is no role {name!r} on this base; there are: {known}.")
        return self.roles[name]

    def train(self, *names: str) -> None:
        """Makes exactly these roles trainable and freezes all others."""
        for name in names:
            self.role(name)
        for role in self.roles.values():
            if role.trained != (role.name in names):
                role.train(role.name in names)

    def freeze(self, *names: str) -> None:
        """Freezes these roles (all, if none is named)."""
        self.train(*(n for n, r in self.roles.items() if r.trained and names and n not in names))

    # --- the forward -------------------------------------------------------------------------------------------------

    def pack(self, rows: Iterable[Row], **options: Any) -> Pack:
        """`lab.pack.pack` on the base's device, with every role checked."""
        rows = list(rows)
        for name in {row.role for row in rows} - {RAW}:
            self.role(name)
        return pack(rows, self.device, **options)

    def forward(self, packed: Pack, cache: attention.KVCache | None = None) -> Tensor:
        """The last hidden states (N, H) of a packed tree, after the final norm, each slice under its role.

        Gradients flow to the trained roles among the slices. No autocast, no dropout, no mask.
        """
        with self.now.of(packed.slices):
            out = self.decoder(
                input_ids=packed.input_ids,
                position_ids=packed.positions,
                use_cache=False,
                views=packed.views,
                owner=packed.owner,
                shared=packed.shared,
                cache=cache,
            )
        return out.last_hidden_state[0]

    @property
    def decoder(self) -> Any:
        """The model without its language-model head."""
        return self._causal.get_decoder()

    @property
    def _causal(self) -> Any:
        return self.model.base_model.model if hasattr(self.model, "peft_config") else self.model

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, H) -> (…, V) in fp32: the language-model head, with the model's own final soft cap where it has one."""
        z = F.linear(hidden, self.head_weight).float()
        cap = self.soft_cap
        return z if cap is None else torch.tanh(z / cap) * cap

    @property
    def soft_cap(self) -> float | None:
        """What the model's final logits are bent to stay below, z ↦ cap · tanh(z / cap), or None."""
        return getattr(self.model.config, "final_logit_softcapping", None)

    def checkpoint(self, every: int) -> None:
        """Recomputes every n-th layer in the backward pass instead of keeping its activations (0: none)."""
        self.checkpointing = every
        model = self._causal
        model.train(every > 0)
        if every:
            model._set_gradient_checkpointing(True, self._checkpointed, every_n_layers=every)
        else:
            model._set_gradient_checkpointing(False)

    def _checkpointed(self, function: Callable, *args: Any) -> Any:
        if not torch.is_grad_enabled():
            return function(*args)
        return torch.utils.checkpoint.checkpoint(
            function, *args, use_reentrant=False, context_fn=self.now.remember, preserve_rng_state=False
        )

    # --- inside ------------------------------------------------------------------------------------------------------

    def _free(self, name: str) -> None:
        if name == RAW or name in self.roles:
            raise RoleError(f"The role {name!r} already exists; choose another name or drop it first.")
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name) or name in "lora_":
            raise RoleError(f"{name!r} cannot name a role; use letters, digits, hyphens and underscores.")

    def _inject(self, name: str, adapter: Adapter) -> None:
        from peft import LoraConfig, get_peft_model

        targets = quantise.target_modules(self._causal, adapter.targets)
        config = LoraConfig(
            r=adapter.rank, lora_alpha=adapter.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
        )
        with warnings.catch_warnings():  # PEFT asks transformers for things by their former names
            warnings.simplefilter("ignore", FutureWarning)
            if hasattr(self.model, "peft_config"):
                self.model.add_adapter(name, config)
            else:
                self.model = get_peft_model(self.model, config, adapter_name=name, autocast_adapter_dtype=False)
        for _, layer in self.layers(name):
            layer.forward = _bind(layer, self.now)

    def layers(self, role: str | None = None) -> list[tuple[str, Any]]:
        """The adapted linear layers, of one role or of any, with their paths in PEFT's model."""
        from peft.tuners.lora import LoraLayer

        return [
            (path, m)
            for path, m in self.model.named_modules()
            if isinstance(m, LoraLayer) and (role is None or role in m.lora_A)
        ]

    @torch.no_grad()
    def _probe(self) -> None:
        """Switches to the packed attention, which must give the model's own logits, or the model is refused."""
        ids = tuple(i % self.head_weight.shape[0] for i in range(3, 15))
        theirs = self.model(torch.tensor([ids], device=self.device), use_cache=False).logits[0].float()
        self.model.set_attn_implementation(attention.NAME)
        rows = [Row(RAW, ids[:5], ids[5:]), Row(RAW, ids[:5], ids[7:10])]  # the second shares the first one's prompt
        mine = self.logits(self.forward(self.pack(rows))[: len(ids)])
        worst = float((mine - theirs).abs().max())
        limit = 1e-4 if self.model.dtype == torch.float32 and self.bits != 8 else 0.1
        if not worst <= limit * max(1.0, float(theirs.abs().max())):
            raise quantise.ModelError(
                f"The packed forward differs from {type(self.model).__name__}'s own by {worst:.2g} in its logits, so "
                "this architecture is not supported; the Llama, Qwen, Mistral, Gemma 3 and Phi 3 families are."
            )


def _bind(layer: Any, now: Now) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        return role_linear(layer, now, x)

    return forward
