"""A model that stands in for a real one, where there is none: a Qwen3 of two layers with random weights.

It has everything the way from a model to an adapter needs (a chat template, a tokenizer, layers that can be put into 4
bits) and knows nothing: what it says is noise, and so is every figure about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, as Qwen writes it."""
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>")
VOCAB = 512
"""Tokens: the 256 bytes, the special ones, and pieces of the words it was shown."""


def stand_in(folder: Path | str, texts: Iterable[str] = (), seed: int = 0) -> Path:
    """Writes model and tokenizer into `folder`, as transformers saves them, and gives it back; offline.

    texts : what the tokenizer's pieces are taken from

    The weights depend on the seed alone; the caller's random state stays as it is.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # as `quantise.load` does

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    pad, _, end = SPECIAL
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=pad, eos_token=end,
                                        additional_special_tokens=[SPECIAL[1]])  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    end_id, pad_id = map(SPECIAL.index, (end, pad))  # special tokens come first
    config = Qwen3Config(vocab_size=VOCAB, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=2048,
                         tie_word_embeddings=True, initializer_range=0.1, bos_token_id=None,
                         eos_token_id=end_id, pad_token_id=pad_id)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
