"""An engine over the toy trainer, with a sampler that spells a word; importable by an engine process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from session_toy import build

from lab.engine import Handlers, SampleRequest, ScoreRequest
from lab.runs import RunError

CLOSED: list[str] = []
"""Prompts whose sampler was closed, in order."""
THREADS: set[str] = set()


class StrangeWordError(ValueError):
    """A word the sampler does not know, with what it would know."""

    payload = {"unknown": ["zebroid"]}  # noqa: RUF012

    def __str__(self) -> str:
        return "the sampler met a word it does not know"


def sample(asked: SampleRequest) -> Iterator[dict[str, Any]]:
    THREADS.add(threading.current_thread().name)
    text = asked.prompt if isinstance(asked.prompt, str) else asked.prompt[-1].content
    try:
        for n in range(asked.max_new_tokens):
            if n == asked.options.get("fail_at"):
                raise StrangeWordError
            yield {"role": asked.roles[0], "text": text[: n + 1], "ids": list(range(n + 1))}
            time.sleep(float(asked.options.get("sleep_s", 0.0)))
    finally:
        CLOSED.append(text)


def score(asked: ScoreRequest) -> dict[str, Any]:
    THREADS.add(threading.current_thread().name)
    return {role: [len(c) for c in asked.completions] for role in asked.roles}


def task(name: str, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Counts to `to`; "fall" raises in the middle. Each row names the thread and the steps a run has made by then."""
    if name not in ("count", "fall"):
        raise RunError(f"there is no task {name!r}.")
    try:
        for n in range(int(row.get("to", 3))):
            THREADS.add(threading.current_thread().name)
            if name == "fall" and n == 1:
                raise StrangeWordError
            yield {"n": n}
    finally:
        CLOSED.append(f"task {name}")


def handlers() -> Handlers:
    return Handlers(build, sample, score, about=lambda: {"base": "toy"}, task=task)
