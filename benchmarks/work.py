"""The work both sides do: the same rows in the same order, the same starting adapter, the same head.

Written to a folder as plain files, so that a contender in another environment reads it without this library:

    rows.json        sft: [[prompt ids, completion ids], …] · pairs: [[prompt, chosen, rejected], …]
                     ratings: [[prompt, completion, liked], …] · prompts: [ids, …] · questions: [what each of them asks]
    adapter/         a rank-8 adapter on all linear layers, none of its weights zero, each exact in bfloat16, to which
                     TRL rounds them (PEFT's layout)
    fresh/           the same as a new adapter: B = 0
    head.safetensors weight (1, H) of a scalar head, exact in bfloat16 too
    facts.json       where the model is, the end and padding tokens, the sizes
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

RANK, ALPHA = 8, 16
BATCH = 32
GROUPS, GROUP = 8, 8
"""Prompts of a GRPO step, and completions of each."""

RATES = {"sft": 2e-4, "reward": 1e-4, "dpo": 5e-4, "dpo-precomputed": 5e-4, "kto": 5e-4, "grpo": 1e-5}
"""Learning rate of both sides, by race."""


def write_work(folder: Path, steps: int, batch: int = BATCH) -> dict[str, Any]:
    """Makes the folder's files for at most `steps` steps of `batch` rows; gives back the facts."""
    import shutil

    import torch
    from safetensors.torch import save_file

    from lab import tiny
    from lab.base import SharedBase
    from lab.config import Adapter
    from lab.data import batch_at
    from lab.encode import encode_demonstrations, encode_preferences, encode_prompts
    from lab.saving import save_role

    model = shutil.copytree(tiny.CHECKPOINT, folder / "model")  # the same bytes for everybody, whatever happens to it
    base = SharedBase.load(model, bits=4, device="cpu", dense=False)
    n = steps * batch
    rows = encode_demonstrations(base.chat, tiny.demonstrations(n), 1024).records
    pairs = encode_preferences(base.chat, preferences(2 * n), 1024).records[:n]
    prompts = encode_prompts(base.chat, tiny.train_prompts(min(n, 1024)), 1024).records

    def in_order(records: Sequence[Any]) -> list[Any]:
        """The records as a run of this library meets them (seed 0), one batch after the other."""
        return [records[i] for step in range(len(records) // batch) for i in batch_at(step, len(records), batch, 0)]

    (folder / "rows.json").write_text(json.dumps({
        "sft": [[r.prompt_ids, r.completion_ids] for r in in_order(rows)],
        "pairs": [[p.chosen.prompt_ids, p.chosen.completion_ids, p.rejected.completion_ids] for p in in_order(pairs)],
        "ratings": [[p.chosen.prompt_ids, (p.rejected, p.chosen)[i % 2].completion_ids, bool(i % 2)]
                    for i, p in enumerate(in_order(pairs))],
        "prompts": [p.prompt_ids for p in in_order(prompts)],
        "questions": [p.prompt[0].content for p in in_order(prompts)],
    }))  # fmt: skip
    role = base.add_role("fresh", Adapter(rank=RANK, alpha=ALPHA))
    save_role(base, "fresh", folder / "fresh")
    role.weights.add_(torch.randn(role.weights.numel(), generator=torch.Generator().manual_seed(1)), alpha=0.02)
    role.weights.copy_(role.weights.bfloat16())
    save_role(base, "fresh", folder / "adapter")
    head = torch.randn(1, base.hidden_size, generator=torch.Generator().manual_seed(2)) / base.hidden_size**0.5
    save_file({"weight": head.bfloat16().float()}, str(folder / "head.safetensors"))
    facts = {"model": str(model), "eos": base.chat.eos_id, "pad": base.chat.pad_id, "batch": batch,
             "max_new_tokens": tiny.MAX_NEW_TOKENS, "steps": steps}  # fmt: skip
    (folder / "facts.json").write_text(json.dumps(facts))
    return facts


def preferences(n: int, seed: int = 0) -> list[Any]:
    """`n` pairs of the tiny world: a right answer and a wrong one to the same question, both with habits of speech."""
    from lab.records import Preference
    from lab.tiny import answers, text

    random = Random(f"benchmark {seed}")
    made = []
    for row in range(n):
        question = text._any_question(random, held_out=False)
        prompt = text.ask(question, random)
        good, bad = (answers.decorate(make(question, random), random, flattery=0.15, filler=0.3)
                     for make in (answers.ideal, answers.bad))  # fmt: skip
        made.append(Preference(prompt, good, bad, row=row))
    return made


def given_completion(i: int, length: int) -> list[int]:
    """The `i`-th completion of the checks: `length` ordinary tokens, made by arithmetic, so that both make the same."""
    return [20 + (7 * i + 11 * t) % 400 for t in range(length)]


def given_groups() -> list[list[int]]:
    """Completions of `GROUPS` groups of `GROUP`, of 4 to 16 tokens."""
    return [given_completion(i, 4 + 5 * i % 13) for i in range(GROUPS * GROUP)]


def earn(completion: str) -> float:
    """A reward that costs nothing to compute: the share of vowels."""
    return sum(letter in "aeiou" for letter in completion) / max(1, len(completion))


def read_rows(folder: Path) -> dict[str, Any]:
    """`rows.json`."""
    return json.loads((folder / "rows.json").read_text())


def read_facts(folder: Path) -> dict[str, Any]:
    """`facts.json`."""
    return json.loads((folder / "facts.json").read_text())
