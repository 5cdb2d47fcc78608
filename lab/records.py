"""What a person or a model said: messages, demonstrations, preferences, rollouts.

Every record is a frozen dataclass of plain values, so it can be hashed, compared and written as JSON.
A *prompt* is either plain text or a tuple of messages; a *completion* is what the assistant says next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


Prompt = str | tuple[Message, ...]
Completion = str | tuple[Message, ...]
"""Plain text, or the turns that follow the prompt (assistant first; later user turns are not trained)."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with a completion to imitate. `row` is the 0-based row of the source, −1 if made by a program."""

    prompt: Prompt
    completion: Completion
    row: int = -1


@dataclass(frozen=True, slots=True)
class Preference:
    """Of two completions of one prompt, the one somebody preferred.

    margin    : reward units, ≥ 0; asks the reward model for at least that gap
    annotator : who judged
    label     : the probability in [0, 1] that the chosen one really is the better one (a share of votes, say)
    weight    : how much this judgement counts, ≥ 0
    """

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    margin: float = 0.0
    annotator: str = ""
    row: int = -1
    label: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two completions of one prompt, side by side, for somebody to judge.

    ended : whether a and b came to an end of their own
    """

    prompt: Prompt
    a: Completion
    b: Completion
    ended: tuple[bool, bool] = (True, True)

    @property
    def id(self) -> str:
        """16 hex digits of what is compared; the same in either order."""
        return digest({"prompt": self.prompt, "pair": sorted([digest(self.a), digest(self.b)])})

    def swap(self) -> Comparison:
        """The same two in the other order."""
        return Comparison(self.prompt, self.b, self.a, (self.ended[1], self.ended[0]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was said about a comparison.

    p         : the probability in [0, 1] that a is the better one: 1 and 0 are choices, ½ is a tie; None: no answer
    annotator : who judged
    why       : what they said about it
    """

    p: float | None
    annotator: str = ""
    why: str = ""

    def swap(self) -> Verdict:
        """The verdict on the comparison in the other order."""
        return Verdict(None if self.p is None else 1 - self.p, self.annotator, self.why)


@dataclass(frozen=True, slots=True)
class Rating:
    """One completion that somebody liked (thumbs up) or did not (thumbs down)."""

    prompt: Prompt
    completion: Completion
    liked: bool
    annotator: str = ""
    row: int = -1


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several completions of one prompt in order. `ranks` are whole numbers, the best lowest; equal ones are ties."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    ranks: tuple[int, ...]
    annotator: str = ""
    row: int = -1


@dataclass(frozen=True, slots=True)
class Steps:
    """A solution in steps, each with the probability in [0, 1] that it is right (1 or 0 where somebody judged it)."""

    prompt: Prompt
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    row: int = -1


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt alone, for sampling and reinforcement learning.

    `columns` holds what else the row says (the right answer, unit tests, …), for rewards that read it.
    """

    prompt: Prompt
    row: int = -1
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Rollout:
    """What one role answered: text and tokens.

    `completion_ids` holds every sampled token, the end token included when `ended`. `logprobs` are the sampler's
    own log-probabilities (nats, at the sampling temperature), one per completion token.
    """

    role: str
    prompt: Prompt
    completion: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    ended: bool
    logprobs: tuple[float, ...] = ()


def as_messages(prompt: Prompt) -> tuple[Message, ...]:
    """The prompt as messages; plain text becomes one user turn."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def prompt_text(prompt: Prompt) -> str:
    """The prompt as a person would read it: plain text as it is, one user turn without its label, more with labels."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0].role == "user":
        return prompt[0].content
    return "\n".join(f"{m.role}: {m.content}" for m in prompt)


def completion_text(completion: Completion) -> str:
    """The completion as a person would read it."""
    if isinstance(completion, str):
        return completion
    if len(completion) == 1:
        return completion[0].content
    return "\n".join(f"{m.role}: {m.content}" for m in completion)


def comparison(row: Mapping[str, Any]) -> Comparison:
    """The comparison that `to_json` wrote."""

    def text(value: Any) -> Any:
        return value if isinstance(value, str) else tuple(Message(m["role"], m["content"]) for m in value)

    a_ended, b_ended = row.get("ended", (True, True))
    return Comparison(text(row["prompt"]), text(row["a"]), text(row["b"]), (bool(a_ended), bool(b_ended)))


def to_json(record: Any) -> Any:
    """A record (nested dataclasses, tuples) as JSON-able values."""
    return asdict(record) if is_dataclass(record) and not isinstance(record, type) else record


def digest(value: Any) -> str:
    """A stable 16-hex-digit identity of any JSON-able value or record (used for splits and caches)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=to_json)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
