"""Token rows: records as a model reads them. A row that is too long is left out and reported, never cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lab.chat import Chat, ChatError
from lab.columns import Rows, Skip, Unusable
from lab.records import Completion, Demonstration, Preference, Prompt, PromptRow, Rating

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A demonstration: `prompt_ids` (not trained), then `completion_ids` (T) of which `mask` (T) are trained.

    A completion of one turn is trained whole; of several turns, the user's are False. `row` is the source's.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    mask: tuple[bool, ...]
    row: int = -1

    @property
    def ids(self) -> tuple[int, ...]:
        """The whole row."""
        return self.prompt_ids + self.completion_ids


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A preference: two rows with the same `prompt_ids`, each trained whole and ending with the terminator."""

    chosen: TokenRow
    rejected: TokenRow
    margin: float = 0.0
    row: int = -1
    label: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TokenRating:
    """A completion that was liked or not, ending with the terminator."""

    tokens: TokenRow
    liked: bool
    row: int = -1


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt to sample from, as it was said and as tokens; `columns` as in `PromptRow`."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    row: int = -1
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)


def encode_demonstrations(chat: Chat, records: Sequence[Demonstration], max_length: int) -> Rows[TokenRow]:
    """Token rows of at most `max_length` tokens, prompt and completion together; longer ones are left out, never cut.

    Whoever needs at least one row asks with `Rows.some()`.
    """

    def encode(record: Demonstration) -> TokenRow:
        row = chat.encode(record.prompt, record.completion)
        _check_length(len(row.ids), max_length)
        start = row.start
        return TokenRow(row.ids[:start], row.ids[start:], row.mask[start:], record.row)

    return _encode(encode, records)


def encode_preferences(chat: Chat, records: Sequence[Preference], max_length: int) -> Rows[TokenPair]:
    """Token pairs of which both sides, with the prompt, have at most `max_length` tokens; see `encode_demonstrations`.

    A pair whose sides become the same tokens (the template trims them, say) is left out.
    """

    def encode(record: Preference) -> TokenPair:
        chosen, rejected = (_single(chat, record, side) for side in (record.chosen, record.rejected))
        _check_length(max(len(chosen.ids), len(rejected.ids)), max_length)
        if chosen == rejected:
            raise Unusable("chosen equals rejected", "both sides become the same tokens")
        return TokenPair(chosen, rejected, record.margin, record.row, record.label, record.weight)

    return _encode(encode, records)


def encode_ratings(chat: Chat, records: Sequence[Rating], max_length: int) -> Rows[TokenRating]:
    """Rated completions of at most `max_length` tokens with their prompts; see `encode_demonstrations`."""

    def encode(record: Rating) -> TokenRating:
        row = _single(chat, record, record.completion)
        _check_length(len(row.ids), max_length)
        return TokenRating(row, record.liked, record.row)

    return _encode(encode, records)


def encode_prompts(chat: Chat, records: Sequence[PromptRow], max_length: int) -> Rows[TokenPrompt]:
    """Prompts of at most `max_length` tokens, ready to sample from; see `encode_demonstrations`."""

    def encode(record: PromptRow) -> TokenPrompt:
        ids = tuple(chat.encode_prompt(record.prompt))
        _check_length(len(ids), max_length)
        return TokenPrompt(record.prompt, ids, record.row, record.columns)

    return _encode(encode, records)


def _single(chat: Chat, record: Preference | Rating, side: Completion) -> TokenRow:
    prompt, completion = chat.split(record.prompt, side)
    return TokenRow(tuple(prompt), tuple(completion), (True,) * len(completion), record.row)


def _check_length(tokens: int, limit: int) -> None:
    if tokens > limit:
        raise Unusable(f"longer than {limit} tokens", f"{tokens} tokens")


def _encode(encode: Callable[[Any], T], records: Sequence[Any]) -> Rows[T]:
    rows: list[T] = []
    skipped: list[Skip] = []
    for i, record in enumerate(records):
        row = record.row if record.row >= 0 else i
        try:
            rows.append(encode(record))
        except Unusable as bad:
            skipped.append(Skip(bad.args[0], row, bad.args[1]))
        except ChatError as error:
            skipped.append(Skip("refused by the chat template", row, str(error)))
    return Rows(tuple(rows), tuple(skipped))
