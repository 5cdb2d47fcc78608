"""Who applies a principle to an answer: a program that knows, or a model that is asked.

A critic gets tasks (prompt, answer, principle) and gives each a review: what is wrong with the answer, and a better
one. A model is asked in its own chat template, which the answer is a turn of:

    user: prompt   assistant: answer   user: the principle's `critique`   assistant: …
                                       user: the principle's `revision`   assistant: …

Source: Bai et al. 2022, "Constitutional AI", section 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from lab.feedback.constitution.principles import Constitution, ConstitutionError, Principle
from lab.records import Message, Prompt, as_messages, prompt_text

if TYPE_CHECKING:
    from lab.base import SharedBase

T = TypeVar("T")

ROWS_AT_ONCE = 128
"""Critiques or revisions sampled together."""


class CriticError(RuntimeError):
    """A critic that raised, or gave back something other than one review for each task."""


@dataclass(frozen=True, slots=True)
class Task:
    """An answer to be held against a principle."""

    prompt: Prompt
    answer: str
    principle: Principle


@dataclass(frozen=True, slots=True)
class Review:
    """What a critic said of a task. A revision equal to the answer leaves it as it is."""

    critique: str
    revision: str


class Critic(Protocol):
    """Anything that can review answers, many at a time."""

    @property
    def name(self) -> str: ...
    def review(self, tasks: Sequence[Task]) -> Sequence[Review]: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """A principle as a program; every function takes prompt and answer as text.

    violated : whether the answer breaks the principle
    revise   : an answer that does not
    says     : what is wrong with an answer that breaks it
    """

    violated: Callable[[str, str], bool]
    revise: Callable[[str, str], str]
    says: Callable[[str, str], str]


@dataclass(frozen=True)
class Rules:
    """A critic made of programs: principles' `critic` → rule. It changes only answers that break the principle."""

    rules: Mapping[str, Rule]
    fine: str = "That is fine."
    name: str = "rules"

    def of(self, principle: Principle) -> Rule:
        """The rule of a principle. Raises ConstitutionError where there is none."""
        if principle.critic not in self.rules:
            named = f"its critic {principle.critic!r} is not known" if principle.critic else "it names no critic"
            raise ConstitutionError(f"No program can check the principle {principle.id}: {named}; there are "
                                    f"{', '.join(self.rules)}. Name one of them, or let a model be the "
                                    "critic.")  # fmt: skip
        return self.rules[principle.critic]

    def check(self, constitution: Constitution) -> None:
        """Refuses a constitution with a principle that no program can check. Raises ConstitutionError."""
        for principle in constitution.active:
            self.of(principle)

    def violated(self, task: Task) -> bool:
        """Whether an answer breaks a principle. Raises CriticError with prompt and answer where the program does."""
        rule, prompt = self.of(task.principle), prompt_text(task.prompt)
        return bool(asked(task, lambda: rule.violated(prompt, task.answer)))

    def review(self, tasks: Sequence[Task]) -> list[Review]:
        """One review a task. Raises CriticError with prompt and answer where a program raises."""
        return [self._review(task) for task in tasks]

    def _review(self, task: Task) -> Review:
        if not self.violated(task):
            return Review(self.fine, task.answer)
        rule, prompt = self.of(task.principle), prompt_text(task.prompt)
        said = asked(task, lambda: (rule.says(prompt, task.answer), rule.revise(prompt, task.answer)))
        return Review(*said)


@dataclass(frozen=True)
class ModelCritic:
    """A role of the base that writes critique and revision itself.

    role : `base` for the raw model, or any role
    fine : a regular expression; a critique that begins so leaves the answer as it is, and no revision is asked for
           (empty: every answer is revised, as in the paper)

    An empty revision, or one that does not come to an end, leaves the answer as it is.
    """

    base: SharedBase
    role: str = "base"
    fine: str = ""
    max_new_tokens: int = 128
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        from lab.base import RAW

        if self.role != RAW and self.role not in self.base.roles:
            known = ", ".join((RAW, *self.base.roles))
            raise CriticError(f"There is no role {self.role!r} to be the critic; there are {known}.")

    @property
    def name(self) -> str:
        """Who reviews."""
        return f"model {self.role}"

    def review(self, tasks: Sequence[Task]) -> list[Review]:
        """One review a task. Raises CriticError with prompt and answer where the model cannot be asked."""
        out: list[Review] = []
        for at in range(0, len(tasks), ROWS_AT_ONCE):
            out += self._some(tasks[at : at + ROWS_AT_ONCE], at)
        return out

    def _some(self, tasks: Sequence[Task], at: int) -> list[Review]:
        talks = [talk(t) for t in tasks]
        critiques = [text for text, _ in self._say(tasks, talks, at, 0)]
        wrong = [i for i, c in enumerate(critiques) if not (self.fine and re.match(self.fine, c))]
        more = [(*talks[i], Message("assistant", critiques[i]), Message("user", tasks[i].principle.revision))
                for i in wrong]  # fmt: skip
        said = dict(zip(wrong, self._say([tasks[i] for i in wrong], more, at, 1), strict=True))
        revised = [text if ended and text.strip() else t.answer
                   for t, (text, ended) in zip(tasks, (said.get(i, ("", False)) for i in range(len(tasks))),
                                               strict=True)]  # fmt: skip
        return [Review(c, r) for c, r in zip(critiques, revised, strict=True)]

    def _say(
        self, tasks: Sequence[Task], talks: Sequence[tuple[Message, ...]], at: int, turn: int
    ) -> list[tuple[str, bool]]:
        """(text, whether it came to an end) for each conversation."""
        if not talks:
            return []
        from lab.sample import sample

        rollouts = asked(tasks[0], lambda: sample(
            self.base, talks, (self.role,), temperature=self.temperature, max_new_tokens=self.max_new_tokens,
            seed=(self.seed, at, turn)))  # fmt: skip
        return [(r.completion, r.ended) for r in rollouts]


def talk(task: Task) -> tuple[Message, ...]:
    """The conversation up to the question about the answer."""
    return (*as_messages(task.prompt), Message("assistant", task.answer), Message("user", task.principle.critique))


def asked(task: Task, fn: Callable[[], T]) -> T:
    """`fn()`; what it raises becomes a CriticError with prompt and answer."""
    try:
        return fn()
    except Exception as error:
        raise CriticError(f"The critic of {task.principle.id} raised {type(error).__name__}: {error} (prompt: "
                          f"{prompt_text(task.prompt)!r}, answer: {task.answer!r}).") from error  # fmt: skip
