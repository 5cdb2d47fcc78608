"""The model that stands in for a real one: the way through the lab works on it, and it is always the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.base import SharedBase
from lab.notebook.stand_in import SPECIAL, stand_in
from lab.records import Message

TEXTS = ("How do I boil an egg?", "Put it into boiling water.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in(tmp_path_factory.mktemp("model"), TEXTS)


def test_it_loads_in_four_bits_with_its_template(folder: Path) -> None:
    base = SharedBase.load(folder, bits=4, device="cpu")
    prompt = base.chat.encode_prompt((Message("user", "An egg?"),))
    said = "<|im_start|>user\nAn egg?<|im_end|>\n<|im_start|>assistant\n"
    assert base.chat.tokenizer.decode(prompt) == said
    _, answer = base.chat.split((Message("user", "An egg?"),), "Boil it.")
    assert answer[-1] == SPECIAL.index("<|im_end|>"), "the end is learnt"


def test_every_sign_comes_back(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("Ein Löffel, 雨, 🙂\n\tand 3.5 %", *TEXTS):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_seed_decides_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = stand_in(tmp_path / "again", TEXTS)
    other = stand_in(tmp_path / "other", TEXTS, seed=1)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random state stays"
    first, second, third = (load_file(f / "model.safetensors") for f in (folder, again, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(first[name], third[name])
