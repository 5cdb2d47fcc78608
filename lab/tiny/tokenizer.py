"""The tokenizer of the tiny world: one token per word or sign, and a chat template that marks what is trained.

A word carries the space before it ("▁Paris"), so that decoding gives back exactly the text that was encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.tiny.text import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, UNK, END = "<|pad|>", "<|begin|>", "<|unknown|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}"
    "{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
    "{%- elif message['role'] in ['system', 'user'] -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + eos_token -}}"
    "{%- else -%}"
    "{{- raise_exception('The tiny world knows system, user and assistant turns, not ' + message['role'] + '.') -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""One begin token; every turn ends with the end token, which is the tokenizer's `eos_token`."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, a pure function of the vocabulary; unknown words become `<|unknown|>`."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    entries = [PAD, BOS, END, UNK, *ROLES, *(f"▁{w}" if w.isalnum() else w for w in vocabulary())]
    core = Tokenizer(WordLevel({token: i for i, token in enumerate(entries)}, unk_token=UNK))
    core.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Prepend(" "),
         normalizers.Replace(" ", "▁")]
    )  # fmt: skip
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[\p{L}\p{N}]+|[^\p{L}\p{N}▁]|▁"), "isolated")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        unk_token=UNK,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
        padding_side="right",
    )
