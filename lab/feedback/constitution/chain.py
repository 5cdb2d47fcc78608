"""Draft → critique → revision, up to four times, every step of it kept.

    y_0 ~ helpful-only model        z_i ~ principles, by weight        (c_i, y_i) = critic(x, y_{i−1}, z_i)

The last revision is what a model learns by SFT. A principle comes once in a chain until all have been drawn, so that
four rounds are four looks at an answer.

Source: Bai et al. 2022, "Constitutional AI", section 3.1 (principles drawn at every revision; four revisions).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from lab.columns import DataError
from lab.feedback.constitution.critics import Critic, CriticError, Task
from lab.feedback.constitution.principles import Constitution
from lab.records import Demonstration, Message, Prompt

T = TypeVar("T")

ROUNDS = 4
"""Most revisions of one answer."""
ANSWERS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Round:
    """One critique and what became of the answer. `principle` is its id."""

    principle: str
    critique: str
    revision: str


@dataclass(frozen=True, slots=True)
class Chain:
    """An answer and everything that was said about it."""

    prompt: Prompt
    draft: str
    rounds: tuple[Round, ...] = ()

    @property
    def final(self) -> str:
        """The last revision, or the draft."""
        return self.rounds[-1].revision if self.rounds else self.draft

    @property
    def changes(self) -> tuple[str, ...]:
        """The ids of the principles whose round changed the answer."""
        before = (self.draft, *(r.revision for r in self.rounds))
        return tuple(r.principle for r, old in zip(self.rounds, before, strict=False) if r.revision != old)


def revise(
    drafts: Sequence[tuple[Prompt, str]],
    constitution: Constitution,
    critic: Critic,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Chain]:
    """One chain for each (prompt, answer), in order. Which principles a chain draws depends on (seed, its place).

    Raises CriticError when the critic raises, or gives another number of reviews than it was given tasks; DataError for
    no draft, or rounds outside [1, 4].
    """
    if not drafts or not 1 <= rounds <= ROUNDS:
        raise DataError(f"There are {len(drafts)} answers and {rounds} rounds; give an answer at least, and 1 to "
                        f"{ROUNDS} rounds.")  # fmt: skip
    chains: list[Chain] = []
    for at in range(0, len(drafts), ANSWERS_AT_ONCE):
        part = [Chain(prompt, answer) for prompt, answer in drafts[at : at + ANSWERS_AT_ONCE]]
        drawn = [constitution.draw(rounds, seed, at + i) for i in range(len(part))]
        for r in range(rounds):
            tasks = [Task(c.prompt, c.final, d[r]) for c, d in zip(part, drawn, strict=True)]
            reviews = critic.review(tasks)
            if len(reviews) != len(tasks):
                raise CriticError(f"The critic {critic.name} gave {len(reviews)} reviews of {len(tasks)} answers; it "
                                  "must give one for each, in order.")  # fmt: skip
            part = [replace(c, rounds=(*c.rounds, Round(t.principle.id, v.critique, v.revision)))
                    for c, t, v in zip(part, tasks, reviews, strict=True)]  # fmt: skip
        chains += part
        on_progress(len(chains), len(drafts))
    return chains


def demonstrations(chains: Sequence[Chain]) -> list[Demonstration]:
    """The last revisions, to be imitated; chains that end in no words are left out."""
    return [Demonstration(c.prompt, c.final, i) for i, c in enumerate(chains) if c.final.strip()]


def fired(chains: Sequence[Chain]) -> dict[str, tuple[int, int]]:
    """Principle → (how many rounds drew it, how many of those changed the answer)."""
    drawn = Counter(r.principle for c in chains for r in c.rounds)
    changed = Counter(id for c in chains for id in c.changes)
    return {id: (n, changed[id]) for id, n in sorted(drawn.items())}


def read_chains(path: Path | str) -> list[Chain]:
    """Chains as `lab.data.write_jsonl` wrote them. Raises DataError with the line of one that cannot be read."""
    return read_lines(path, _chain, "chain of revisions")


def read_lines(path: Path | str, make: Callable[[dict[str, Any]], T], what: str) -> list[T]:
    """One record a line. Raises DataError with the line that holds none, or for a file that cannot be read."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    out: list[T] = []
    for number, line in enumerate(lines, 1):
        try:
            out += [make(json.loads(line))] if line.strip() else []
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{Path(path).name}, line {number}: this is no {what} ({error!r}).") from None
    return out


def _chain(value: dict[str, Any]) -> Chain:
    prompt = value["prompt"]
    prompt = prompt if isinstance(prompt, str) else tuple(Message(m["role"], m["content"]) for m in prompt)
    return Chain(prompt, value["draft"], tuple(Round(**r) for r in value["rounds"]))
