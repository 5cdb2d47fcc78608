"""Real architectures with tiny random weights, and a tokenizer trained on the spot: no network, no downloads.

`build_model(folder, family="qwen3")` writes a folder that `AutoModelForCausalLM.from_pretrained` and
`AutoTokenizer.from_pretrained` open, in well under a second. Sizes are the smallest that keep what matters: grouped
query attention, a head size that is not hidden / heads, every linear layer a multiple of NF4's block of 64.
"""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path
from typing import Any

VOCAB = 640
"""Rows of the embedding (tokens). The tokenizer has fewer, as in most released models."""

TOKENS = 600
"""Tokens the tokenizer is trained to, special ones included (a template with many of its own goes beyond)."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

FAMILIES = ("qwen3", "llama", "qwen2", "gemma", "gemma3", "phi3", "mistral")
TIED = ("qwen3", "gemma", "gemma3")
"""Families built with input and output embeddings tied; the others have them apart."""

SHAPE = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 2048, "vocab_size": VOCAB,
         "initializer_range": 0.1}  # fmt: skip

SPECIAL = re.compile(
    r"<[|｜][^<>{}'\" ]*?[|｜]>"
    r"|</?s>|<start_of_turn>|<end_of_turn>|<turn\|>|<end_of_utterance>|<channel\|>|<tool_call\|>|<tool_response\|>"
)
"""What a template's text shows to be a special token of its own tokenizer."""


def english() -> list[str]:
    """Six hundred plain sentences, always the same, to train a tokenizer on."""
    people = ("The old teacher", "A young doctor", "My neighbour", "The quiet student", "Our captain", "Every farmer",
              "Somebody", "The friendly librarian", "No engineer", "Your grandmother")  # fmt: skip
    verbs = ("explains", "carries", "repairs", "forgets", "remembers", "paints", "finds", "describes", "borrows",
             "questions", "understands", "promised", "thanked", "is writing about",
             "would like to measure")  # fmt: skip
    things = ("the broken clock", "a small boat", "every question", "the green door", "an honest answer", "two apples",
              "the weather of the island", "a difficult problem", "their favourite music", "what we learned",
              "this sentence", "the number of visitors", "a recipe for bread")  # fmt: skip
    ends = ("in the morning.", "with great care.", "because it matters!", "after seven years.", "if you ask politely?",
            "and nobody knows why.", "before the train leaves.")  # fmt: skip
    size = 600  # 10, 15, 13 and 7 share few factors, so that walking through all four at once mixes them well
    walk = zip(*(itertools.islice(itertools.cycle(w), size) for w in (people, verbs, things, ends)), strict=True)
    return [" ".join(words) for words in walk]


@functools.cache
def trained_bpe(specials: tuple[str, ...]) -> str:
    """A byte-level BPE over `english()`, as the JSON of a `tokenizers.Tokenizer`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=list(specials), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    bpe.train_from_iterator(english(), trainer)
    return bpe.to_str()


def build_tokenizer(template: str | None = CHATML, pad_is_eos: bool = False, bos: bool = True,
                    eos: str | None = None, pad: bool = True) -> Any:  # fmt: skip
    """A tokenizer with the special tokens that `template` writes.

    `bos=True`: plain text begins with `<|bos|>`, as Llama's does; False: there is no BOS token, as in Qwen.
    `eos` defaults to `<|im_end|>` where the template writes it, else `<|eos|>`. `pad_is_eos`: the pad token is the
    EOS token. `pad=False`: there is no pad token.
    """
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    found = sorted(set(SPECIAL.findall(template or "")))
    eos = eos or ("<|im_end|>" if "<|im_end|>" in found else "<|eos|>")
    specials = tuple(dict.fromkeys(["<|pad|>", "<|eos|>", "<|bos|>", eos, *found]))
    bpe = Tokenizer.from_str(trained_bpe(specials))
    if bos:
        bpe.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", bpe.token_to_id("<|bos|>"))]
        )
    named = {"eos_token": eos, "additional_special_tokens": [s for s in specials if s != eos]}
    if bos:
        named["bos_token"] = "<|bos|>"
    if pad:
        named["pad_token"] = eos if pad_is_eos else "<|pad|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **named)
    tokenizer.chat_template = template
    return tokenizer


def build_config(family: str, tokenizer: Any, **changes: Any) -> Any:
    """The configuration class of `family` at the tiny size; `changes` override single fields."""
    import transformers

    name = {"qwen3": "Qwen3Config", "llama": "LlamaConfig", "qwen2": "Qwen2Config", "gemma": "GemmaConfig",
            "gemma3": "Gemma3TextConfig", "phi3": "Phi3Config", "mistral": "MistralConfig"}[family]  # fmt: skip
    fields = dict(SHAPE, tie_word_embeddings=family in TIED, bos_token_id=tokenizer.bos_token_id,
                  eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    if family not in ("qwen2", "phi3"):  # these two derive it: hidden / heads = 32
        fields["head_dim"] = 64
    if family == "gemma3":
        fields |= {"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"]}
    if family == "mistral":
        fields["sliding_window"] = None
    return getattr(transformers, name)(**fields | changes)


def build_model(folder: str | Path, family: str = "qwen3", template: str | None = CHATML, pad_is_eos: bool = False,
                bos: bool = True, seed: int = 0, eos: str | None = None, **changes: Any) -> Path:  # fmt: skip
    """Writes model, tokenizer and generation settings of `family` into `folder` and returns it.

    The weights are random (float32, set by `seed` alone, the caller's random state is untouched).
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder = Path(folder)
    tokenizer = build_tokenizer(template, pad_is_eos, bos, eos)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(build_config(family, tokenizer, **changes), dtype=torch.float32)
        with torch.no_grad():  # norms and biases start at a constant; move them, so that leaving one out shows
            for weight in model.parameters():
                if weight.dim() == 1:
                    weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trl_templates() -> dict[str, str]:
    """The chat templates of released model families that TRL carries, by name: {"qwen2_5": "{%- if …", …}."""
    import importlib.util

    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "chat_templates"
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.jinja"))}
