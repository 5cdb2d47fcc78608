"""The one answer a completion commits itself to: what stands after its last marker.

Markers: `\\boxed{…}`, `<answer>`, `####`, and `answer` followed by `is`, `:`, `=` or the end of its line. What came
before them is thinking, and earns nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MARKER = re.compile(
    r"\\(?:boxed|fbox)\s*(?P<box>\{) | <answer>(?P<tag>) | \#{4,} | \banswer\b[*_\s]*?(?: is\b | [:=] | $ )",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_BULLET = re.compile(r"^\s*[-*•]\s+")
_WORD = re.compile(r"\w")
_SENTENCE_END = re.compile(r"(?<=[^\s.])[.!?](?=[*_\"')\]]*(?:\s+[A-Z(\\]|\s*$))")


class Committed(NamedTuple):
    """The text of an answer, and whether a marker announced it (without one it is the whole completion)."""

    text: str
    marked: bool


def committed(prompt: str, completion: str) -> Committed:
    """What stands after the last marker: the braces of a box, the inside of `<answer>`, or the rest of the line.

    Where the rest of the line is empty, the next line that is not. A completion that begins with its prompt is read
    after it, so that no answer is taken from there.
    """
    text = without_prompt(prompt, completion)
    last = None
    for last in _MARKER.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    if last is None:
        return Committed(text, False)
    if last["box"]:
        return Committed(_braces(text, last.end()), True)
    rest = text[last.end() :]
    if last["tag"] is not None:
        return Committed(rest.partition("</answer>")[0].strip(), True)
    first, *others = rest.splitlines() or [""]
    lines = (line.strip(" \t:*_=`") for line in (first, *(_BULLET.sub("", line) for line in others)))
    return Committed(next(filter(_WORD.search, lines), ""), True)


def without_prompt(prompt: str, completion: str) -> str:
    """The completion without the prompt it may begin with, once or more."""
    text, echo = completion.strip(), prompt.strip()
    while echo and text.startswith(echo):
        text = text[len(echo) :].lstrip()
    return text


def sentences(text: str) -> list[str]:
    """Split at full stops before a capital letter: `3.5 km. It rains.` are two."""
    return [part for part in (p.strip() for p in _SENTENCE_END.split(text)) if part]


def _braces(text: str, start: int) -> str:
    """The text from `start` to the brace that closes the one before it; empty if none does."""
    depth = 1
    for i in range(start, len(text)):
        if text[i - 1] == "\\" and text[i - 2 : i] != "\\\\":
            continue
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start:i].strip()
    return ""
