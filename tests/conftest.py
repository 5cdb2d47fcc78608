"""Fixtures every test may use: one tiny model folder per family, made once per test session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from label_stores import label_place, postgres_server  # noqa: F401 - fixtures
from models import build_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One torch thread: two on two busy cores are several times slower than one."""
    import torch

    torch.set_num_threads(1)


def _folder(family: str):
    @pytest.fixture(scope="session", name=f"{family}_folder")
    def make(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return build_model(tmp_path_factory.mktemp(family), family)

    return make


qwen3_folder = _folder("qwen3")
llama_folder = _folder("llama")
qwen2_folder = _folder("qwen2")
gemma_folder = _folder("gemma")
gemma3_folder = _folder("gemma3")
phi3_folder = _folder("phi3")
mistral_folder = _folder("mistral")
