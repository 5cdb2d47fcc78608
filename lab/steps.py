"""Solutions in steps as token rows: every step is tokenised with the separator that ends it, so that a step's last
token is the separator's, in training and in reading alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab.chat import Chat
from lab.columns import Rows, Skip
from lab.records import Steps
from lab.template import ChatError


@dataclass(frozen=True, slots=True)
class TokenSteps:
    """A solution of S steps: `prompt_ids`, then the tokens of each step, which end with those of the separator.

    `labels` (S) are probabilities that a step is right.
    """

    prompt_ids: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    labels: tuple[float, ...]
    row: int = -1

    @property
    def completion_ids(self) -> tuple[int, ...]:
        """The tokens of all steps."""
        return tuple(token for step in self.steps for token in step)

    @property
    def after(self) -> tuple[int, ...]:
        """(S) how many tokens come after each step; 0 for the last."""
        lengths = [len(step) for step in self.steps]
        return tuple(sum(lengths[k + 1 :]) for k in range(len(lengths)))


def encode_steps(chat: Chat, records: Sequence[Steps], separator: str, max_length: int) -> Rows[TokenSteps]:
    """Token rows of at most `max_length` tokens, prompt and steps together; longer ones are left out, never cut.

    There is no end token: a solution that goes on is read as one that does not. A control token somebody wrote into a
    step stays ordinary text.
    """
    rows: list[TokenSteps] = []
    skipped: list[Skip] = []
    for i, record in enumerate(records):
        row = record.row if record.row >= 0 else i
        try:
            prompt = tuple(chat.encode_prompt(record.prompt))
        except ChatError as error:
            skipped.append(Skip("refused by the chat template", row, str(error)))
            continue
        steps = tuple(_plain(chat, step + separator) for step in record.steps)
        length = len(prompt) + sum(map(len, steps))
        empty = [k for k, step in enumerate(record.steps) if not step.strip()]
        if not steps or empty:
            skipped.append(Skip("empty step", row, f"step {empty[0]} has no text" if empty else "there is no step"))
        elif length > max_length:
            skipped.append(Skip(f"longer than {max_length} tokens", row, f"{length} tokens"))
        else:
            rows.append(TokenSteps(prompt, steps, record.labels, record.row))
    return Rows(tuple(rows), tuple(skipped))


def _plain(chat: Chat, text: str) -> tuple[int, ...]:
    return tuple(chat.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
