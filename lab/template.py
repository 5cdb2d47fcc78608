"""What a chat template writes around people's words: pure text, without tokens.

`lab.chat` renders a conversation with its words and with markers in their place; the functions here read the two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from lab.records import Completion, Message, as_messages

DAY = {"%Y-%m-%d": "2024-07-26", "%d %b %Y": "26 Jul 2024", "%B %d, %Y": "July 26, 2024", "%Y": "2024"}
"""What templates that print today's date get: a run continued tomorrow must see the same tokens."""

RESERVED = re.compile(r"pad|<unused\d|reserved|<unk>|\[UNK\]", re.IGNORECASE)
"""Names of special tokens that never occur in text, in which case one of them can serve as the pad token."""


class ChatError(ValueError):
    """A tokenizer, a template or a row that cannot become tokens, with the cause and what to do."""


def show(prompt: str | Sequence[Message], completion: Completion = ()) -> str:
    """The row at fault, for an error message: one line, at most 400 characters."""
    before = as_messages(prompt) if isinstance(prompt, str) else prompt
    turns = (*before, *((Message("assistant", completion),) if isinstance(completion, str) else completion))
    text = json.dumps([{"role": m.role, "content": m.content} for m in turns], ensure_ascii=False)
    return "The row: " + (text if len(text) <= 400 else text[:300] + " … " + text[-97:])


def fixed_template(tokenizer: Any) -> str | None:
    """The default chat template with a fixed day in the place of today's, or None."""
    if not tokenizer.chat_template:
        return None
    day = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
    return day.sub(lambda m: repr(DAY.get(m[2], "2024-07-26")), tokenizer.get_chat_template())


def pad_token(tokenizer: Any, eos: int) -> tuple[int, str]:
    """A token for padding and, if the tokenizer names none, a note about which."""
    if tokenizer.pad_token_id is not None:
        shared = tokenizer.pad_token_id == eos
        return tokenizer.pad_token_id, "the pad token is the end token; masks come from lengths" if shared else ""
    taken = {eos, tokenizer.bos_token_id}
    for i, token in sorted(tokenizer.added_tokens_decoder.items()):
        if token.special and i not in taken and RESERVED.search(token.content):
            return i, f"no pad token: the unused {token.content} is used"
    return eos, "no pad token: the end token is used; masks come from lengths"


def opening(tokenizer: Any) -> tuple[int, ...]:
    """The tokens (BOS, or nothing) that the tokenizer itself puts before plain text."""
    word = tokenizer.encode("a", add_special_tokens=False)
    full = tokenizer.encode("a", add_special_tokens=True)
    at = next((i for i in range(len(full)) if full[i : i + len(word)] == word), 0)
    return tuple(full[:at])


def control_run(tail: str, controls: Sequence[str], stops: Collection[str]) -> str:
    """The control tokens that `tail` begins with (after white space), up to the first one known to end a turn; else ''.

    `controls` come longest first, so that a token is found before another that it begins with.
    """
    space = tail[: len(tail) - len(tail.lstrip())]
    at = len(space)
    while token := next((c for c in controls if tail.startswith(c, at)), None):
        at += len(token)
        if token in stops:
            break
    return tail[:at] if at > len(space) else ""


def walk(text: str, segments: Sequence[str], words: Sequence[str]) -> list[tuple[int, int]] | None:
    """Where the words stand in the rendered text, in characters; None if it is not segment, word, segment, …

    Templates often trim the words, so each may stand there without its outer white space.
    """
    if not text.startswith(segments[0]):
        return None
    at, spans = len(segments[0]), []
    for word, tail in zip(words, segments[1:], strict=True):
        forms = (word, word.strip(), word.rstrip(), word.lstrip(), word.strip("\n"), word.lstrip("\n"))
        form = next((f for f in forms if text.startswith(f + tail, at)), None)
        if form is None:
            return None
        spans.append((at, at + len(form)))
        at += len(form) + len(tail)
    return spans if at == len(text) else None


def answer_start(words: str) -> int:
    """Characters before the answer proper: the reasoning block with the white space after it."""
    at = words.rfind("</think>")
    rest = words[at + len("</think>") :] if at >= 0 else words
    return len(words) - len(rest.lstrip()) if at >= 0 else 0


def unused(messages: Sequence[Message]) -> str:
    """A private-use character that occurs in none of the messages."""
    text = "".join(m.content for m in messages)
    return next(chr(c) for c in range(0xE000, 0xF8FF) if chr(c) not in text)
