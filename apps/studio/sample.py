"""The *Sample* panel: one prompt answered by up to four roles at once, with the same noise, as it is being said."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from apps.studio.components import host_ask, open_ask, panel, person_ask, sentence
from apps.studio.link import Link
from apps.studio.parts import Parts
from apps.studio.people import Person
from lab import reading
from lab.runs import Run

MOST_ROLES = 4
PACE_S = 0.05
"""Least time between two pictures of the stream."""


@dataclass
class Column:
    """What one role has said so far."""

    role: str
    text: str = ""
    tokens: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    earned: list[float] = field(default_factory=list)
    ended: bool | None = None
    reward: float | None = None
    gold: float | None = None
    reasons: tuple[tuple[str, float], ...] = ()
    kl: float | None = None

    def take(self, chunk: Mapping[str, Any]) -> None:
        """Adds a chunk: `token` with its `logprob` while the role speaks, the scores once it is done."""
        if chunk.get("token") is not None:
            self.tokens.append(str(chunk["token"]))
        if chunk.get("logprob") is not None:
            self.logprobs.append(float(chunk["logprob"]))
        self.text = str(chunk.get("text") or "".join(self.tokens))
        for name in ("ended", "reward", "gold", "kl"):
            if chunk.get(name) is not None:
                setattr(self, name, chunk[name])
        for name in ("tokens", "logprobs", "reference", "entropy", "earned"):
            if chunk.get(name):
                setattr(self, name, list(chunk[name]))
        if chunk.get("reasons"):
            self.reasons = tuple((str(n), float(v)) for n, v in chunk["reasons"])

    def drawn(self, first: Column) -> dict[str, Any]:
        """The column as the page shows it, compared with the first one word by word."""
        deltas = [p - q for p, q in zip(self.logprobs, self.reference, strict=False)]
        return {
            "role": self.role,
            "text": self.text,
            "tokens": self.tokens,
            "deltas": deltas,
            "entropy": self.entropy,
            "earned": self.earned,
            "diff": reading.word_diff(first.text, self.text),
            "split": reading.first_split(first.text, self.text),
            "ended": self.ended,
            "reward": self.reward,
            "gold": self.gold,
            "reasons": self.reasons,
            "kl": self.kl,
            "length": len(self.tokens),
            "unit": "tokens",
        }


class Sampler:
    """What the page may ask."""

    def __init__(self, parts: Parts, examples: tuple[str, ...]) -> None:
        self.parts, self.link = parts, parts.link
        self.examples = examples

    def roles(self, _ask: dict[str, Any]) -> dict[str, Any]:
        """The roles the engine can sample with their saved steps, those to show first, and prompts to begin with."""
        known = self.link.about("roles")
        with self.parts.shelf.lock:
            steps = {info.id: Run(info.path).checkpoints() for info in self.parts.shelf.known(known, 64)}
        return {
            "roles": known,
            "steps": {run: found for run, found in steps.items() if found},
            "preferred": known[:1] + known[1:][-(MOST_ROLES - 1) :],
            "reason": self.link.reason() or ("" if known else "The engine has no role to sample from yet."),
            "examples": (self.link.about("examples") or list(self.examples))[:8],
            "pins": self.parts.pins.read(),
        }

    def send(self, ask: dict[str, Any], person: Person) -> dict[str, Any]:
        """Puts two answers to one prompt into the label queue; who judges them does not see whose they are."""
        sides = [dict(ask.get(side) or {}) for side in ("a", "b")]
        said = [str(side.get("text") or "") for side in sides]
        source = {"by": "sample", "who": person.name, "a": str(sides[0].get("role"))[:120],
                  "b": str(sides[1].get("role"))[:120], "temperature": _number(ask.get("temperature"), 1.0),
                  "seed": int(_number(ask.get("seed"), 0))}  # fmt: skip
        ended = (sides[0].get("ended") is not False, sides[1].get("ended") is not False)
        return {"sentence": self.parts.labels.add(str(ask.get("prompt") or ""), (said[0], said[1]), ended, source)}

    def pin(self, ask: dict[str, Any]) -> dict[str, Any]:
        """Pins the prompt as a probe of the runs that are made from now on, or takes its pin away."""
        pinned = self.parts.pins.turn(str(ask.get("prompt") or ""))
        words = "is a probe of every run that is made here from now on" if pinned else "is no probe any more"
        return {"sentence": f"The prompt {words}.", "pins": self.parts.pins.read()}

    def generate(self, ask: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The columns while the roles speak; the last one says `done`, or `error` with one sentence.

        A prompt with words the world does not know gives `error` with those words and prompts that work.
        """
        yield from stream(self.link, ask)


def stream(link: Link, ask: Mapping[str, Any], pace: float = PACE_S) -> Iterator[dict[str, Any]]:
    """Pictures of the stream that the engine sends for `ask`, `pace` seconds apart at least; never raises."""
    try:
        wish = checked(ask, link.about("roles"))
        columns = {role: Column(role) for role in wish["roles"]}
        first, last = next(iter(columns.values())), 0.0
        for chunk in link.client.sample(**wish):
            if chunk.get("role") in columns:
                columns[chunk["role"]].take(chunk)
            if time.monotonic() - last >= pace:
                last = time.monotonic()
                yield {"state": "busy", "columns": [c.drawn(first) for c in columns.values()]}
        yield {"state": "done", "columns": [c.drawn(first) for c in columns.values()]}
    except Exception as error:
        payload = getattr(error, "payload", None) or {}
        yield {
            "state": "error",
            "columns": [],
            "error": sentence(error),
            "unknown": list(payload.get("unknown", ())),
            "suggestions": list(payload.get("suggestions", ())),
        }


def checked(ask: Mapping[str, Any], known: Any) -> dict[str, Any]:
    """The wish as the engine takes it: known roles (or role@step), four at most, and numbers within their ranges."""
    roles = [str(r) for r in ask.get("roles") or () if str(r).partition("@")[0] in set(known)][:MOST_ROLES]
    prompt = str(ask.get("prompt") or "").strip()
    if not roles:
        raise AskError("None of these roles is there any more; choose others.")
    if not prompt:
        raise AskError("The prompt is empty; type one.")
    return {
        "roles": roles,
        "prompt": prompt[:4000],
        "temperature": min(max(float(ask.get("temperature") or 1.0), 0.01), 5.0),
        "max_new_tokens": min(max(int(ask.get("length") or 32), 1), 512),
        "seed": int(ask.get("seed") or 0) % 2**31,
    }


def _number(value: Any, otherwise: float) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**31
    return float(value) if good else otherwise


class AskError(ValueError):
    """A wish that cannot be granted, with the reason."""


def examples() -> tuple[str, ...]:
    """Prompts to begin with: a few of the tiny world's."""
    from lab.tiny import PROBES

    return PROBES[:6]


def build(parts: Parts) -> gr.HTML:
    """The panel as a component; call it inside a tab."""
    sampler = Sampler(parts, examples())

    def generate(ask: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        yield from sampler.generate(ask or {})

    desk = panel("sample", "Sample from the models", [open_ask(sampler.roles), person_ask(sampler.send),
                                                        host_ask(sampler.pin)], value={})  # fmt: skip
    running = desk.generate(
        generate,
        desk,
        desk,
        api_name="generate",
        concurrency_id="model",
        concurrency_limit=1,
        show_progress="hidden",
        trigger_mode="multiple",
    )
    desk.halt(None, cancels=[running])
    return desk
