"""A role that writes a judgement, and the verdict read out of what it wrote.

A verdict is `[[A]]`, `[[B]]` or `[[C]]` (a tie) anywhere, or a line that ends with `Verdict: A`. The last line that
holds one decides; where it holds several different ones (a judge that repeats its instructions), or where there is
none, there is no answer.

Source: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lab.base import RAW, SharedBase
from lab.feedback.judges.role import TOO_LONG
from lab.feedback.judges.wording import THINK_FIRST, Wording
from lab.feedback.judging import Opinion
from lab.records import Comparison
from lab.sample import sample

MARKER = re.compile(r"\[\[\s*(A|B|C|tie)\s*\]\]|\bverdict[*_]*:[\s*_]*[\[(\"']*(A|B|C|tie)\b(?=[^\w]*$)", re.IGNORECASE)
"""A verdict in one line."""

MEANS = {"a": 1.0, "b": 0.0, "c": 0.5, "tie": 0.5}
ROWS_AT_ONCE = 64
LONGEST_WORDS = 600
"""Characters of a judge's words that are kept with its opinion, the last ones."""


def verdict(text: str) -> float | None:
    """1 for the first, 0 for the second, ½ for a tie, None for no answer."""
    for line in reversed(text.splitlines()):
        found = {MEANS[(m[1] or m[2]).lower()] for m in MARKER.finditer(line)}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def opinion(text: str, tokens: tuple[int, int] = (0, 0)) -> Opinion:
    """What a judge's text says, with its words, of which control characters are left out."""
    p = verdict(text)
    words = plain(text)
    return Opinion(p, words if p is not None else f"no verdict in: {words}" if words else "it said nothing", tokens)


def plain(text: str, longest: int = LONGEST_WORDS) -> str:
    """Text on one line without control characters, the end of it where it is long."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text[-4 * longest :]).split())
    return words if len(words) <= longest else "…" + words[1 - longest :]


@dataclass(frozen=True)
class GenerativeJudge:
    """A role that writes its reasons and then its verdict; p is 1, 0 or ½.

    temperature    : 0 takes the most probable token
    max_new_tokens : a judgement that is longer is cut, mostly before its verdict: then there is no answer
    called         : its name among annotators; empty: the role's
    """

    base: SharedBase
    role: str = RAW
    wording: Wording = THINK_FIRST
    temperature: float = 0.0
    max_new_tokens: int = 256
    seed: int = 0
    called: str = ""

    @property
    def name(self) -> str:
        return self.called or f"generate:{self.role}"

    def ask(self, comparisons: Sequence[Comparison]) -> list[Opinion]:
        """What it says to every comparison. Raises RoleError for a role that does not exist."""
        chat = self.base.chat
        prompts = [self.wording.as_prompt(chat, self.wording.compare(c)) for c in comparisons]
        fits = [i for i, p in enumerate(prompts) if len(chat.encode_prompt(p)) < self.base.window]
        out = [Opinion(None, TOO_LONG)] * len(prompts)
        for at in range(0, len(fits), ROWS_AT_ONCE):
            part = fits[at : at + ROWS_AT_ONCE]
            said = sample(self.base, [prompts[i] for i in part], (self.role,), temperature=self.temperature,
                          max_new_tokens=self.max_new_tokens, seed=(self.seed, at))  # fmt: skip
            for i, r in zip(part, said, strict=True):
                out[i] = opinion(r.completion, (len(r.prompt_ids), len(r.completion_ids)))
        return out
