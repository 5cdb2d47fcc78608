"""A reward model of another family, with a tokenizer and a chat template of its own.

It stands beside the base, not on it: a sequence classifier of transformers with one output. Texts cross over, never
tokens. The conversation is rendered with the model's own template, to the template's very end, and the head is read at
the last of those tokens. Which one that is follows from the length alone: transformers itself looks for the last token
that is not the pad token, and so reads before the end token where the two are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lab.chat import Chat
from lab.feedback.rewards import RewardError
from lab.objectives import at_last, length_mask
from lab.pack import Row, split
from lab.quantise import ModelError, pick_device
from lab.records import Message, Prompt, as_messages, prompt_text


class ForeignReward:
    """(prompts, completions) -> one reward each, in the foreign model's own unit.

    source : folder or Hub id of a causal model with a scalar `score` head, as
             `AutoModelForSequenceClassification.from_pretrained` opens it; read in bf16 on a GPU, fp32 on the CPU
    device : auto, cpu, cuda or cuda:n
    plain  : give it prompt and completion as plain text with the end token, without a template
    tokens : that go through the model at once, padding not counted

    Raises ModelError when it cannot be opened, has no trained head of one output, or has no chat template though
    `plain` is not asked for; ChatError when its template moves or hides the assistant's words.
    """

    def __init__(self, source: str | Path, device: str = "auto", plain: bool = False, tokens: int = 8192) -> None:
        self.source, self.plain, self.tokens = str(source), plain, tokens
        self.model = _load(source, pick_device(device))
        self.chat = Chat.load(source)
        if self.chat.template is None and not plain:
            raise ModelError(
                f"The reward model {source} has no chat template, so how it reads a conversation is not known: set the "
                "template it was trained with, or read plain text with plain=True."
            )
        self.tail = () if plain else _tail(self.chat)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One reward for each completion, in order. Raises RewardError for a text longer than the model's window."""
        rows = [self.encode(x, y) for x, y in zip(prompts, completions, strict=True)]
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for x, y, ids in zip(prompts, completions, rows, strict=True):
            if window and len(ids) > window:
                raise RewardError(f"The reward model {self.source} reads {window} tokens, but this text has {len(ids)} "
                                  f"(prompt: {prompt_text(x)!r}, completion: {y!r}); shorten it, or judge with a model "
                                  "of a longer window.")  # fmt: skip
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # rows of similar length pad each other least
        rewards = [0.0] * len(rows)
        for part in split([Row("", rows[i]) for i in order], self.tokens) if rows else []:
            for i, value in zip(part, self._read([rows[order[i]] for i in part]).tolist(), strict=True):
                rewards[order[i]] = value
        return rewards

    def encode(self, prompt: Prompt, completion: str) -> tuple[int, ...]:
        """The tokens this model reads: the whole conversation under its own template. Plain text is a user's turn."""
        told = prompt_text(prompt) if self.plain else as_messages(prompt)
        before, answer = self.chat.split(told, completion)
        return (*before, *answer, *self.tail)

    @torch.no_grad()
    def _read(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """(B,) the head at the last token of each row, in fp32. Padding stands on the right, where no row looks."""
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(self.model.device)
        lengths = torch.tensor([len(row) for row in rows], device=ids.device)
        mask = length_mask(lengths, ids.shape[1])
        hidden = self.model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
        head = self.model.score
        bias = None if head.bias is None else head.bias.float()
        return F.linear(at_last(hidden, lengths), head.weight.float(), bias)[:, 0]


def _load(source: str | Path, device: torch.device) -> Any:
    """The frozen classifier, refused unless its head has one output and was trained."""
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        outputs = AutoConfig.from_pretrained(source).num_labels
        if outputs != 1:
            raise ModelError(f"The model {source} has {outputs} outputs, a reward model has one; give a sequence "
                             "classifier with num_labels=1.")  # fmt: skip
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32 if device.type == "cpu" else torch.bfloat16, device_map={"": str(device)},
            output_loading_info=True)  # fmt: skip
    except OSError as error:
        raise ModelError(f"The reward model {source} could not be loaded: {str(error).splitlines()[0]}") from error
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise ModelError(f"The model {source} holds no {missing[0]}, which would be random numbers here; give a model "
                         "that was saved with its reward head.")  # fmt: skip
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise ModelError(
            f"{type(model).__name__} has no linear head called score on its last token, so it cannot be read here; the "
            "classifiers of the Llama, Qwen, Mistral, Gemma and Phi families have."
        )
    model.requires_grad_(False)
    return model.eval()


def _tail(chat: Chat) -> tuple[int, ...]:
    """The tokens a template writes after the end of the last answer (a line break, often)."""
    said = [Message("user", "a"), Message("assistant", "b")]
    rows = [{"role": m.role, "content": [{"type": "text", "text": m.content}] if chat.parts else m.content}
            for m in said]  # fmt: skip
    text = chat.tokenizer.apply_chat_template(rows, chat_template=chat.template, tokenize=False)
    _, found, tail = text.rpartition(chat.terminator)
    return tuple(chat.tokenizer.encode(tail, add_special_tokens=False)) if found and tail else ()
