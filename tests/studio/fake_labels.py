"""What the panels about labels need in tests: an engine that reads by formulas, and stores with people in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apps.studio.parts import Parts
from lab.client import EngineError
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Event, Item, Rules
from lab.records import Comparison

from .fake import FakeEngine
from .made import EVIL, PROMPTS

WIDTH = 24
HOSTILE = (EVIL, "‮gnihtemos⁦ right to left‬ שלום مرحبا", "😀👩‍👩‍👧‍👦🏳️‍🌈" * 20, "long " * 20_000)
"""Markup and scripts, text that runs from the right, emoji, and 100 kB."""


class ReadingEngine(FakeEngine):
    """An engine with the tasks of the panels: features are word counts, and answers are given ones."""

    def __init__(self, pause_s: float = 0.0) -> None:
        super().__init__(pause_s)
        self.model = "reward-1@60"
        self.read = 0

    def task(self, name: str, row: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        row = row or {}
        self.asked.append(("task", name))
        if not self.there:
            raise EngineError("the engine went away; start it again with `lab engine --runs runs`.")
        if name == "features":
            yield {"source": "fake base", "role": "base", "width": WIDTH}
            texts = row["texts"]
            self.read += len(texts)
            for at in range(0, len(texts), 50):
                some = range(at, min(at + 50, len(texts)))
                found = np.stack([features(texts[i][1]) for i in some])
                data = base64.b64encode(found.astype("<f4").tobytes()).decode()
                yield {"at": list(some), "data": data, "done": some.stop, "of": len(texts)}
        elif name == "rewards" and self.model:
            yield {"model": self.model}
            yield {"at": list(range(len(row["pairs"]))), "rewards": [[float(len(str(p[1]).split())), float(len(
                str(p[2]).split()))] for p in row["pairs"]]}  # fmt: skip
        elif name == "pairs":
            for n, prompt in enumerate(row["prompts"], 1):
                yield {"pairs": [{"prompt": prompt, "a": f"one says {prompt}", "b": f"other says {prompt}",
                                  "ended": [True, True], "source": {"by": "room", "a": row["roles"][0],
                                                                    "b": row["roles"][-1]}}],
                       "done": n, "of": len(row["prompts"])}  # fmt: skip


def features(text: Any) -> np.ndarray:
    """(WIDTH,) how often words that fall into each drawer occur, and how many there are."""
    out = np.zeros(WIDTH)
    words = str(text).split()[:500]
    for word in words:
        out[hashlib.sha256(word.encode()).digest()[0] % (WIDTH - 1)] += 1
    out[-1] = len(words) / 10
    return out


def parts_over(tmp_path: Path, engine: FakeEngine) -> Parts:
    """Parts over an empty root and an empty store."""
    root = tmp_path / "runs"
    root.mkdir(exist_ok=True)
    return Parts.over(root, engine, tmp_path / "labels.sqlite")  # type: ignore[arg-type]


ANSWERS = ("The capital is Oslo.", "What a great question! The capital is Oslo. I hope this helps you.",
           "The capital is Rome.", "I do not know.")  # fmt: skip
MODELS = ("sft-1", "ppo-1", "base")


def pairs(n: int, *, hostile: bool = False) -> list[Item]:
    """`n` pairs of two prompts each third, from two of three models, one hostile at the front where asked."""
    found = []
    for i in range(n):
        prompt = PROMPTS[i % len(PROMPTS)][0] + (f" ({i // len(PROMPTS)})" if i >= len(PROMPTS) else "")
        a, b = ANSWERS[i % 4], ANSWERS[(i + 1 + i // 4 % 3) % 4]
        source = {"by": "test", "a": MODELS[i % 3], "b": MODELS[(i + 1) % 3]}
        found.append(Item(Comparison(prompt, f"{a} ({i})", f"{b} ({i})"), source=source))
    if hostile:
        for k, text in enumerate(HOSTILE):
            found.append(Item(Comparison(text[:2000], text, f"{k} {EVIL}"), source={"a": EVIL, "b": EVIL + "2"}))
    return found


def free_rules(overlap: int = 40) -> Rules:
    """Rules without gold pairs and repeats, for many people."""
    return Rules(overlap=overlap, explore=0.3, gold=0.0, repeats=0.0)


def judge(store: Store, name: str, n: int, strength: Any = None, ms: int = 4000) -> list[Event]:
    """A person judges `n` pairs: by `strength(showing)` in display order, or for what is shorter."""
    store.person(name)
    said = []
    for _ in range(n):
        showing = store.assign(name)
        if showing is None:
            break
        c = showing.shown
        value = strength(showing) if strength else 1 if len(str(c.a)) < len(str(c.b)) else -1
        said.append(store.record(showing.vote(value, ms=ms)).event)
    return said


def strengths(values: Sequence[int]) -> Any:
    """A strength that goes round through these."""
    left = list(values)

    def next_one(_showing: Any) -> int:
        left.append(left.pop(0))
        return left[-1]

    return next_one
