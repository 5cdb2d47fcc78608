"""Pretrains the base checkpoint of the tiny world: `python -m lab.tiny.build`, about 35 minutes on one core.

A Llama of 0.92 million parameters reads the documents of `lab.tiny.text` once, by next-token cross-entropy on every
token: first facts and conversations, then conversations with what users said to the answers. What ships is the fp32
checkpoint, the tokenizer and a manifest that ties them to the text.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab.records import prompt_text, to_json
from lab.tiny import CHECKPOINT, MAX_NEW_TOKENS, heldout_prompts
from lab.tiny.judge import family, gold
from lab.tiny.text import COMPLAINT, documents
from lab.tiny.tokenizer import BOS, END, PAD

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MAX_LENGTH = 96
"""Tokens of a document that are read; the few longer ones ramble and are cut."""
VALIDATION_SEED = 1
"""Seed of the validation documents; pretraining reads the stream of another seed."""


@dataclass(frozen=True, slots=True)
class Stage:
    """`steps` updates with learning rate `lr` (warm-up, then half a cosine), with or without users' reactions.

    With `reactions`, the token after an answer (complaint or silence) counts `emphasis` times in the loss.
    """

    steps: int
    lr: float
    reactions: bool = False
    emphasis: float = 1.0
    warmup: int = 150


@dataclass(frozen=True, slots=True)
class Pretraining:
    """The recipe: its stages, about `tokens` tokens per update, and the seed of weights and text."""

    stages: tuple[Stage, ...] = (Stage(5200, 2.5e-3), Stage(1800, 2e-3, reactions=True, emphasis=8.0))
    tokens: int = 2048
    seed: int = 0


def model_config(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Llama: hidden 128, 4 layers, 4 heads; every width a multiple of 64, as NF4's blocks need."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=64 * math.ceil(len(tokenizer) / 64),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=_id(tokenizer, BOS),
        eos_token_id=_id(tokenizer, END),
        pad_token_id=_id(tokenizer, PAD),
    )


def encoded(tokenizer: PreTrainedTokenizerFast, seed: int, reactions: bool = False) -> Iterator[list[int]]:
    """The documents as tokens: conversations through the chat template, statements between begin and end.

    With `reactions`, a conversation is read up to the token that shows who speaks next: the user, or the begin token of
    another document where the user is silent. The complaint's words are left out: they are always the same, and rows of
    two lengths would fall into batches of one outcome each.
    """
    complaint = len(tokenizer.encode(COMPLAINT + END, add_special_tokens=False))
    for document in documents(seed, reactions):
        if isinstance(document, str):
            text = f"{tokenizer.bos_token}{document}{tokenizer.eos_token}"
        else:
            text = str(tokenizer.apply_chat_template([asdict(m) for m in document], tokenize=False))
        ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
        if reactions and not isinstance(document, str):
            silent = document[-1].role == "assistant"
            ids = [*ids, _id(tokenizer, BOS)] if silent else ids[:-complaint]
        yield ids[:MAX_LENGTH]


def batches(rows: Iterator[list[int]], tokens: int) -> Iterator[list[list[int]]]:
    """Batches of rows of similar length, about `tokens` tokens each: sorted within windows of sixteen batches."""
    while True:
        window: list[list[int]] = []
        while sum(map(len, window)) < 16 * tokens:
            window.extend(islice(rows, 512))
        window.sort(key=len)
        cut: list[list[list[int]]] = [[]]
        for row in window:
            if (len(cut[-1]) + 1) * len(row) > tokens:
                cut.append([])
            cut[-1].append(row)
        # Short and long batches alternate, so that no stretch of updates sees one length only.
        yield from (cut[i] for offset in range(7) for i in range(offset, len(cut), 7))


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    return tokenizer.get_vocab()[token]


def padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded tokens (B, T) and labels (B, T), −100 on padding."""
    import torch

    length = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (length - len(row)) for row in rows])
    return ids, labels


def pretrain(recipe: Pretraining, folder: Path, prompts: int = 1000) -> None:
    """Trains from scratch and writes the checkpoint to `folder` after every stage.

    `prompts` held-out prompts measure its quality.
    """
    import torch
    from transformers import LlamaForCausalLM

    from lab.tiny.tokenizer import build_tokenizer

    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer()
    model = LlamaForCausalLM(model_config(tokenizer))
    seen = 0
    for done, stage in enumerate(recipe.stages, 1):
        seen += learn(model, tokenizer, stage, recipe.tokens, recipe.seed)
        write(model, tokenizer, folder, recipe, {"stages": done, "tokens": seen}, prompts)


def learn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, stage: Stage, tokens: int, seed: int) -> int:
    """One stage of next-token prediction with a fresh AdamW; returns the tokens read."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, stage))
    source = batches(encoded(tokenizer, seed, stage.reactions), tokens)
    seen, began = 0, time.time()
    for step in range(1, stage.steps + 1):
        ids, labels = padded(next(source), _id(tokenizer, PAD))
        # Rows are padded on the right and attention is causal: no real token ever sees padding.
        logits = model(input_ids=ids).logits[:, :-1]
        targets, weights = labels[:, 1:], token_weights(ids, tokenizer, stage.emphasis)[:, 1:]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=-100)
        loss = (losses * weights).sum() / (weights * (targets >= 0)).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen += int((labels >= 0).sum())
        if step % 100 == 0:
            click.echo(f"{step:5d} loss {loss.item():.3f}  {seen / 1e6:.1f}M tokens  {time.time() - began:.0f} s")
    return seen


def token_weights(ids: torch.Tensor, tokenizer: PreTrainedTokenizerFast, emphasis: float) -> torch.Tensor:
    """(B, T) weights of tokens (B, T): `emphasis` on the token that follows the end of an answer, 1 elsewhere."""
    import torch

    answering = ids.eq(_id(tokenizer, "<|assistant|>")).cumsum(1) > 0
    ends = answering & ids.eq(_id(tokenizer, END))
    first = ends & (ends.cumsum(1) == 1)
    weights = torch.ones(ids.shape)
    weights[:, 1:][first[:, :-1]] = emphasis
    return weights


def _rate(step: int, stage: Stage) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    done = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    recipe: Pretraining,
    done: dict[str, int],
    prompts: int,
) -> None:
    """Writes weights, tokenizer and manifest to a new folder, then puts each file in the place of the old one."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    manifest = {
        "recipe": asdict(recipe),
        "done": done,
        "text_sha256": text_digest(recipe.seed),
        "files": {name: file_digest(fresh / name) for name in ("model.safetensors", "tokenizer.json")},
        "quality": quality(model, tokenizer, prompts),
    }
    (fresh / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(fresh.iterdir()):
        os.replace(file, folder / file.name)
    fresh.rmdir()


def text_digest(seed: int, count: int = 2000) -> str:
    """SHA-256 of the first `count` documents of a seed, without and with reactions."""
    read = [d for reactions in (False, True) for d in islice(documents(seed, reactions), count)]
    sample = [d if isinstance(d, str) else [to_json(m) for m in d] for d in read]
    return hashlib.sha256(json.dumps(sample).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ── quality ───────────────────────────────────────────────────────────────────────────────────────────────────────


def quality(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: int) -> dict[str, Any]:
    """Validation loss (nats per token), and what answers to held-out prompts are worth, sampled and greedy."""
    rows = [prompt_text(r.prompt) for r in heldout_prompts(prompts)]
    said = answers(model, tokenizer, rows, temperature=1.0, seed=0)
    greedy = answers(model, tokenizer, rows, temperature=0.0)
    scores = [gold(p, c, e).score for p, (c, e) in zip(rows, said, strict=True)]
    return {
        "validation_loss": round(validation_loss(model, tokenizer), 4),
        "heldout_prompts": prompts,
        "gold": round(sum(scores) / len(scores), 4),
        "gold_interval_95": _interval(scores),
        "ended": round(sum(e for _, e in said) / len(said), 4),
        "ideal_share_by_family": _ideal_share(rows, said),
        "ideal_share_by_family_greedy": _ideal_share(rows, greedy),
    }


def validation_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, count: int = 512) -> float:
    """Mean cross-entropy (nats per token) on documents of the validation seed."""
    import torch

    ids, labels = padded(list(islice(encoded(tokenizer, VALIDATION_SEED), count)), _id(tokenizer, PAD))
    with torch.inference_mode():
        return float(model(input_ids=ids, labels=labels).loss)


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str], temperature: float, seed: int = 0
) -> list[tuple[str, bool]]:
    """One answer per prompt as (text, ended), through the generation of transformers."""
    import torch

    generate: Any = model.generate
    said: list[tuple[str, bool]] = []
    for start in range(0, len(prompts), 250):
        chats = [[{"role": "user", "content": p}] for p in prompts[start : start + 250]]
        texts = [str(tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True)) for c in chats]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed + start)
            out = generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=temperature > 0,
                **({"temperature": temperature, "top_k": 0} if temperature > 0 else {}),
            )
        tokens = out[:, batch["input_ids"].shape[1] :].tolist()
        said += [(str(tokenizer.decode(t, skip_special_tokens=True)), _id(tokenizer, END) in t) for t in tokens]
    return said


def _ideal_share(prompts: list[str], said: list[tuple[str, bool]]) -> dict[str, float]:
    """Family → share of answers whose content is faultless, whatever their decoration."""
    from lab.tiny.judge import reading

    by_family: dict[str, list[bool]] = defaultdict(list)
    for prompt, (text, ended) in zip(prompts, said, strict=True):
        by_family[family(prompt)].append(reading(prompt, text, ended).content == 1.0)
    return {name: round(sum(right) / len(right), 4) for name, right in sorted(by_family.items())}


def _interval(scores: list[float]) -> list[float]:
    """Normal 95 % interval of the mean."""
    mean = sum(scores) / len(scores)
    spread = math.sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1) / len(scores))
    return [round(mean - 1.96 * spread, 4), round(mean + 1.96 * spread, 4)]


@click.command()
@click.option("--folder", default=CHECKPOINT, type=Path, help="where the checkpoint goes (default: into the package)")
def main(folder: Path) -> None:
    """Pretrain the base model of the tiny world."""
    pretrain(Pretraining(), folder)


if __name__ == "__main__":
    main()
