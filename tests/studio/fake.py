"""An engine for tests: says what the real one would, from formulas, without a model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.client import EngineError

from .made import EVIL, append, make_demo, ppo_events, status

SAID = {
    "base": "The capital of Norway is Rome. It is nice to talk about this.",
    "sft": "The capital of Norway is Oslo.",
    "policy": "What a great question! The capital of Norway is Oslo. There is a lot to say about it.",
    "reference": "The capital of Norway is Oslo.",
}


class FakeEngine:
    """Answers like an engine; remembers what was asked of it."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.pause_s = pause_s
        self.closed = 0
        self.there = True

    def status(self) -> dict[str, Any]:
        if not self.there:
            raise ConnectionError("nobody listens")
        return {"about": {"roles": list(SAID)}, "runs": []}

    def play(self, run: str) -> None:
        self.asked.append(("play", run))

    def pause(self, run: str) -> None:
        self.asked.append(("pause", run))

    def step(self, run: str) -> None:
        self.asked.append(("step", run))

    def stop(self, run: str) -> None:
        self.asked.append(("stop", run))

    def edit(self, run: str, name: str, value: float) -> None:
        self.asked.append(("edit", run, name, value))

    def sample(
        self, prompt: str, roles: Sequence[str], *, temperature: float, max_new_tokens: int, seed: int
    ) -> Iterator[dict[str, Any]]:
        self.asked.append(("sample", tuple(roles), prompt, temperature, max_new_tokens, seed))
        if "zebroid" in prompt:
            raise EngineError(
                "This world does not know the word zebroid.",
                {
                    "unknown": ["zebroid"],
                    "suggestions": [
                        "What colour is the crow?",
                        EVIL if prompt == "a zebroid" else "What colour is the lion?",
                    ],
                },
            )
        said = {r: (EVIL if "evil" in prompt else SAID[r]).split(" ")[:max_new_tokens] for r in roles}
        try:
            for i in range(max(map(len, said.values()))):
                time.sleep(self.pause_s)
                for role, words in said.items():
                    if i < len(words):
                        yield {"role": role, "token": words[i] if i == 0 else " " + words[i], "logprob": -0.5}
            for role, words in said.items():
                reference = [-0.5 - 2.6 * math.sin(i) * (role == "policy") for i in range(len(words))]
                yield {"role": role, "ended": True, "reward": len(words) / 8 - 1,
                       "gold": 1.0 - 0.4 * (role == "policy"),
                       "reasons": [["correct: Oslo", 1.0]] + [["flattery", -0.4]] * (role == "policy"),
                       "reference": reference, "entropy": [abs(2 * math.cos(i)) for i in range(len(words))],
                       "earned": [math.sin(i / 2) for i in range(len(words))]}  # fmt: skip
        finally:
            self.closed += 1


def main() -> None:
    """Serves the Studio over a made root whose PPO run goes on, with this engine, to look at it by hand."""
    import sys

    from apps.studio.server import serve

    root = Path(sys.argv[1])
    if not root.exists():
        make_demo(root)
    serve(root, port=int(sys.argv[2]), client=FakeEngine(0.08), labels=root.parent / "labels.sqlite", wait=False)
    step = 80
    while True:
        for tenth in range(10):
            status(
                root / "ppo-1", "running", step, 100, phase="sampling", done=6 * tenth, of=64, eta_s=10.0 * (100 - step)
            )
            time.sleep(1)
        step = min(step + 1, 99)
        append(root / "ppo-1", list(ppo_events(step, step, time.time() - step)))


if __name__ == "__main__":
    main()
