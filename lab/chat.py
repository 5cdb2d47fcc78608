"""Messages to tokens and masks, and back: the one place that knows a model's chat template.

A *row* is `header · words · terminator` for every assistant turn: the header is what the template writes before the
assistant's words (role marks, an empty reasoning block), the terminator what it writes after them (`<|im_end|>`,
`<|eot_id|>`, …). Words and terminator are trained, nothing else is. The prompt of a rollout is the row up to the first
word, so training and sampling see the same tokens by construction.

Spans come from the template itself: the conversation is rendered twice, once as it is and once with a marker in the
place of every trained turn. Where the two renderings agree around the markers, the words are what stands in their
place. That holds for templates with and without `{% generation %}`, and for those that rewrite earlier turns.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab.records import Completion, Message, Prompt, as_messages
from lab.template import ChatError, answer_start, control_run, fixed_template, opening, pad_token, show, unused, walk

MASK_RULE = 1
"""Part of every fingerprint: raised when the same text would get other tokens or another mask than before."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row: `ids` (T) and `mask` (T), True on the tokens that are trained (words and terminators)."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]

    @property
    def start(self) -> int:
        """Tokens before the first trained one: the length of the prompt."""
        return self.mask.index(True)


@dataclass(frozen=True, eq=False)
class Chat:
    """A tokenizer with what was found out about its chat template. Made by `Chat.of` or `Chat.load`.

    `stop_ids` end a turn, in sampling and for the missing-end penalty. `terminator` is the text that ends an
    assistant's turn (empty without a template), `writes_end` whether the template itself writes it, and `lead` the
    spaces it writes before the words (`[/INST] It`), which a model samples as part of the first word. `pad_id` may
    equal `eos_id`: no mask is ever made from ids.
    With `thinking=False` the assistant answers at once: the template's empty reasoning block, if it has one, belongs
    to the header. With `thinking=True` the header is the template's generation prompt and reasoning is trained.
    `notes` are sentences for people: what is unusual about this tokenizer.
    """

    tokenizer: Any
    template: str | None
    fingerprint: str
    eos_id: int
    pad_id: int
    bos_id: int | None
    stop_ids: frozenset[int]
    terminator: str = ""
    writes_end: bool = True
    lead: str = ""
    thinking: bool = False
    notes: tuple[str, ...] = ()
    opening: tuple[int, ...] = ()
    parts: bool = False
    controls: tuple[str, ...] = field(default=(), repr=False)

    @staticmethod
    def load(source: str | Path, thinking: bool = False) -> Chat:
        """The chat of a model folder or Hub id, with every stop token its generation settings name."""
        from transformers import AutoTokenizer, GenerationConfig

        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ChatError(f"No tokenizer could be opened at {str(source)!r} ({error}); give a folder or Hub id "
                            "that holds one.") from error  # fmt: skip
        try:
            eos = GenerationConfig.from_pretrained(source).eos_token_id
        except OSError:  # optional: many folders have no generation settings
            eos = None
        return Chat.of(tokenizer, eos if isinstance(eos, list) else [] if eos is None else [eos], thinking)

    @staticmethod
    def of(tokenizer: Any, eos_ids: Iterable[int] = (), thinking: bool = False) -> Chat:
        """Looks at a tokenizer and its template, tries both on synthetic conversations, and returns the chat.

        `eos_ids` are further stop tokens, as a model's generation settings list them. Raises `ChatError` when there
        is no end token, or when the template hides, moves or cuts the assistant's words.
        """
        stops = [i for i in (tokenizer.eos_token_id, *eos_ids) if i is not None]
        if not stops:
            raise ChatError("The tokenizer has no end token, so no answer could ever end: set tokenizer.eos_token, "
                            "or pass the model's eos_ids.")  # fmt: skip
        template = fixed_template(tokenizer)
        pad, pad_note = pad_token(tokenizer, stops[0])
        added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        named = {*added, *tokenizer.all_special_tokens, *map(tokenizer.convert_ids_to_tokens, stops)}
        controls = sorted((c for c in named if c.strip()), key=lambda c: (-len(c), c))
        chat = Chat(
            tokenizer, template, "", stops[0], pad, tokenizer.bos_token_id, frozenset(stops), thinking=thinking,
            opening=opening(tokenizer), controls=tuple(controls), notes=(pad_note,) if pad_note else (),
        )  # fmt: skip
        if template is None:
            chat = replace(chat, notes=(*chat.notes, "no chat template: plain text only"))
        else:
            chat = _with_terminator(chat)
        chat = replace(chat, fingerprint=_fingerprint(chat))
        return replace(chat, notes=(*chat.notes, *probe(chat)))

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """The tokens a completion follows: plain text (with the tokenizer's BOS, once), or the rendered turns."""
        if isinstance(prompt, str):
            return self._plain(prompt)
        if prompt and prompt[-1].role == "assistant":
            raise ChatError(f"The prompt already ends with an assistant turn; drop that turn. {show(prompt)}")
        safe, mark = self._escape(prompt)
        if self.thinking:
            header = self._render(safe, generation=True)
        else:
            header = self._segments(safe, (Message("assistant", ""),))[0].removesuffix(self.lead)
        return self._tokens([header], mark)[0]

    def encode(self, prompt: Prompt, completion: Completion) -> Encoded:
        """Tokens and mask of a prompt with its completion, of one turn or many; the row ends with a terminator.

        Every assistant turn of the completion is trained, no turn of the prompt is. Raises `ChatError`, which shows
        the row, when the template does not write the assistant's words as they are.
        """
        if isinstance(prompt, str) and isinstance(completion, str):
            ids, words = self._plain(prompt), self._tokens([prompt, completion], "")[1]
            while words and words[-1] in self.stop_ids:  # an end token written in the text is not doubled
                words.pop()
            words.append(self.eos_id)
            return Encoded((*ids, *words), (False,) * len(ids) + (True,) * len(words))
        turns = (Message("assistant", completion),) if isinstance(completion, str) else completion
        while turns and turns[-1].role != "assistant":  # nothing after the last answer is trained
            turns = turns[:-1]
        if not turns:
            raise ChatError(f"The completion has no assistant turn. {show(prompt, completion)}")
        texts, trained, mark = self._pieces(as_messages(prompt), turns)
        pieces = self._tokens(texts, mark)
        ids = tuple(i for piece in pieces for i in piece)
        return Encoded(ids, tuple(t for piece, t in zip(pieces, trained, strict=True) for _ in piece))

    def split(self, prompt: Prompt, completion: Completion) -> tuple[list[int], list[int]]:
        """`(prompt_ids, completion_ids)` of a completion of one turn, as a rollout of the same text would have them.

        `prompt_ids == encode_prompt(prompt)`, because both are the tokens of the same rendered text and no token
        crosses its end; `completion_ids` end with the terminator.
        """
        if not isinstance(completion, str) and [m.role for m in completion] != ["assistant"]:
            raise ChatError(f"A pair or a rollout has one assistant turn as its completion. {show(prompt, completion)}")
        row = self.encode(prompt, completion)
        return list(row.ids[: row.start]), list(row.ids[row.start :])

    def decode(self, completion_ids: Sequence[int]) -> str:
        """The text of a completion, up to its first stop token, without the terminator."""
        ids = list(completion_ids)
        cut = next((i for i, token in enumerate(ids) if token in self.stop_ids), None)
        text = self.tokenizer.decode(ids[:cut], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        rest = "" if cut is None else self.tokenizer.decode([ids[cut]])
        if self.terminator != rest and rest and self.terminator.endswith(rest):  # a terminator of several tokens
            text = text.removesuffix(self.terminator.removesuffix(rest))
        return text.removeprefix(self.lead)

    def _plain(self, text: str) -> list[int]:
        ids, first = self._ids(text), list(self.opening)
        return ids if first and ids[: len(first)] == first else first + ids

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _tokens(self, texts: Sequence[str], mark: str) -> list[list[int]]:
        """The tokens of consecutive texts, no token crossing from one into the next.

        The texts are tokenised as a whole where that respects the borders, else one by one, as a sampler would go on
        from a border. `mark` breaks up control tokens that stand in somebody's words, and is left out.
        """
        flat = [(owner, part) for owner, text in enumerate(texts) for part in (text.split(mark) if mark else [text])]
        whole, borders, text = self._ids("".join(part for _, part in flat)), [0], ""
        for _, part in flat[:-1]:
            text += part
            head = self._ids(text)
            borders.append(len(head) if whole[: len(head)] == head else -1)
        borders.append(len(whole))
        out: list[list[int]] = [[] for _ in texts]
        before: list[int] = []
        for i, (owner, part) in enumerate(flat):
            ids = whole[borders[i] : borders[i + 1]] if min(borders) >= 0 else self._after(before, part)
            out[owner] += ids
            before = ids or before
        return out

    def _after(self, before: list[int], text: str) -> list[int]:
        """The tokens of a text that follows others. Some tokenizers put a space before a text that stands alone."""
        if not before:
            return self._ids(text)
        newline = self._ids("\n")
        context, alone, led = before[-1:], self._ids(text), self._ids("\n" + text)
        head = self.tokenizer.decode(context)
        tries = [alone, led[len(newline) :]] if led[: len(newline)] == newline else [alone]
        return next((ids for ids in tries if self.tokenizer.decode(context + ids) == head + text), alone)

    def _escape(self, messages: Sequence[Message]) -> tuple[tuple[Message, ...], str]:
        """The messages with a mark inside every control token somebody wrote, so that it stays ordinary text."""
        pattern = re.compile("|".join(re.escape(c) for c in self.controls if len(c) > 1))
        if not any(pattern.search(m.content) for m in messages):
            return tuple(messages), ""
        mark = unused(messages)
        return tuple(replace(m, content=pattern.sub(lambda c: c[0][0] + mark + c[0][1:], m.content))
                     for m in messages), mark  # fmt: skip

    def _render(self, messages: Sequence[Message], generation: bool = False) -> str:
        import jinja2

        if self.template is None:
            raise ChatError("The tokenizer has no chat template, so it takes plain text only: give prompts and "
                            "completions as strings, or set tokenizer.chat_template.")  # fmt: skip
        rows = [{"role": m.role, "content": [{"type": "text", "text": m.content}] if self.parts else m.content}
                for m in messages]  # fmt: skip
        try:
            return self.tokenizer.apply_chat_template(
                rows, chat_template=self.template, tokenize=False, add_generation_prompt=generation,
                enable_thinking=self.thinking)  # fmt: skip
        except (jinja2.TemplateError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ChatError(f"The chat template refuses this conversation ({error}). {show(messages)}") from error

    def _segments(self, before: Sequence[Message], turns: Sequence[Message], keep: bool = False) -> list[str]:
        """What the template writes around the assistant's words: one text more than there are assistant turns.

        `keep=True` leaves a reasoning block in place and marks the answer after it only.
        """
        holder = unused((*before, *turns))
        count, marked = 0, []
        for turn in turns:
            if turn.role == "assistant":
                kept = turn.content[: answer_start(turn.content)] if keep else ""
                turn, count = replace(turn, content=f"{kept}{holder}{count}{holder}"), count + 1
            marked.append(turn)
        found = re.split(f"{holder}(\\d+){holder}", self._render((*before, *marked)))
        if found[1::2] != [str(i) for i in range(count)]:
            raise ChatError("The chat template does not write every assistant turn once and in order, so it cannot be "
                            f"trained on. {show((*before, *turns))}")  # fmt: skip
        return found[0::2]

    def _pieces(self, prompt: Sequence[Message], turns: Sequence[Message]) -> tuple[list[str], list[bool], str]:
        """The row as consecutive texts, each with whether it is trained, and the mark that breaks control tokens."""
        messages, mark = self._escape((*prompt, *turns))
        before, turns = messages[: len(prompt)], messages[len(prompt) :]
        text, words = self._render(messages), [m.content for m in turns if m.role == "assistant"]
        segments = self._segments(before, turns)
        if len(words) == 1 and not words[0].strip():  # some templates leave more out than the words of a blank answer
            text, words = "".join(segments), [""]
        spans = walk(text, segments, words)
        if spans is None and self.thinking:
            segments = self._segments(before, turns, keep=True)
            spans = walk(text, segments, [w[answer_start(w) :] for w in words])
        if spans is None:
            why = ("a reasoning block needs a chat made with thinking=True" if "</think>" in "".join(words) else
                   "its words are moved or rewritten")  # fmt: skip
            raise ChatError(f"The chat template does not write this answer as it is: {why}. {show((*prompt, *turns))}")
        places = [len(prompt) + i for i, m in enumerate(turns) if m.role == "assistant"]
        texts, trained, at = [], [], 0
        for place, (start, end), tail in zip(places, spans, segments[1:], strict=True):
            last = place == places[-1]
            start -= len(self.lead) if text.endswith(self.lead, at, start) else 0
            if self.thinking:
                opened = self._render(messages[:place], generation=True)
                if text.startswith(opened) and at <= len(opened) <= start:
                    start = len(opened)
                elif last:
                    raise ChatError(f"The chat template opens an answer as {opened[-60:]!r} but does not write this "
                                    "one that way; give its reasoning, or load the chat with thinking=False. "
                                    + show(messages))  # fmt: skip
            stop = self._ending(tail, last)
            texts += [text[at:start], text[start:end] + stop]
            trained += [False, True]
            at = end + len(stop)
        return texts, trained, mark

    def _ending(self, tail: str, last: bool) -> str:
        """The terminator at the head of what the template writes after an answer."""
        if last or tail.startswith(self.terminator):
            return self.terminator
        found = re.match(rf"\s*({'|'.join(map(re.escape, self.controls))})", tail)
        ends = found and (self.writes_end or self.tokenizer.convert_tokens_to_ids(found[1]) in self.stop_ids)
        return found[0] if found and ends else ""


def probe(chat: Chat) -> tuple[str, ...]:
    """Tries a chat on synthetic conversations and returns what people should know; raises `ChatError` if it is unfit.

    Checked: the trained text is the assistant's words with the terminator; the prompt's tokens begin the row; the
    row ends with a stop token and holds no other; BOS is not doubled.
    """
    notes = []
    cases: list[tuple[Prompt, str]] = [("The sky is", " blue."), ("1 + 1 =", "2")]
    if chat.template is not None:
        ask = Message("user", "What is 2 + 2?")
        why = "<think>\nI add them.\n</think>\n\n" if chat.thinking else ""
        cases += [((ask,), why + w) for w in ("It is four.", "4", f"{'' if why else ' '}Two lines.\n\n- the second\n")]
        cases += [((ask, Message("assistant", "Four."), Message("user", "And 3 + 3?")), why + "Six.")]
        if _accepts(chat, (Message("system", "Be brief."), ask)):
            cases += [((Message("system", "Be brief."), ask), why + "Four.")]
        else:
            notes.append("the template has no system role")
    for prompt, words in cases:
        ids, answer = chat.split(prompt, words)
        text = chat.tokenizer.decode(answer, clean_up_tokenization_spaces=False)
        end = chat.terminator if not isinstance(prompt, str) else chat.tokenizer.decode([chat.eos_id])
        where = f"{show(prompt, words)} It became {text!r}."
        said = words[answer_start(words) :].strip()
        if chat.tokenizer.unk_token_id in answer:  # a tokenizer of few words: only the end can be compared
            said = ""
        if not text.endswith(end) or not text.removesuffix(end).strip().endswith(said):
            raise ChatError(f"The trained text is not the assistant's words with the terminator {end!r}. {where}")
        if text.count("</think>") > 1:
            raise ChatError(f"The template writes reasoning twice; load the chat with thinking=False. {where}")
        if answer[-1] not in chat.stop_ids or sum(i in chat.stop_ids for i in answer) != 1:
            raise ChatError(f"The row does not end with exactly one stop token. {where}")
        if ids != chat.encode_prompt(prompt):
            raise ChatError(f"The prompt's tokens are not the beginning of the row. {where}")
        if chat.bos_id is not None and ids[:2] == [chat.bos_id] * 2:
            raise ChatError(f"The row begins with BOS twice; take it out of the template or the tokenizer. {where}")
    return tuple(notes)


def _accepts(chat: Chat, prompt: Prompt) -> bool:
    try:
        return _readable(chat, "Be brief.") in chat.tokenizer.decode(chat.encode_prompt(prompt))
    except ChatError:
        return False


def _readable(chat: Chat, words: str) -> str:
    """The words as this tokenizer can say them: one with few words of its own gives the others as unknown."""
    ids = chat.tokenizer(words.strip(), add_special_tokens=False)["input_ids"]
    return chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()


def _with_terminator(chat: Chat) -> Chat:
    """The chat with the terminator its template writes after an answer; the end token where it writes none."""
    ask, answer = Message("user", "What is 2 + 2?"), Message("assistant", "")
    try:
        header, tail = chat._segments((ask,), (answer,))
    except ChatError:  # templates for pictures take content as a list of parts
        chat = replace(chat, parts=True)
        header, tail = chat._segments((ask,), (answer,))
    opened = chat._render((ask,), generation=True)
    stops = {chat.tokenizer.convert_ids_to_tokens(i) for i in chat.stop_ids}
    space = header[len(opened) :] if header.startswith(opened) else ""
    written = control_run(tail, chat.controls, stops)
    text = written or chat.tokenizer.convert_ids_to_tokens(chat.eos_id)
    note = () if written else ("the template writes no end of turn: the end token is put after the last answer",)
    last = chat._ids(text)[-1]
    return replace(chat, terminator=text, writes_end=bool(written), lead="" if space.strip(" ") else space,
                   stop_ids=chat.stop_ids | {last}, notes=(*chat.notes, *note))  # fmt: skip


def _fingerprint(chat: Chat) -> str:
    """16 hex digits of everything that decides tokens and masks: template, tokenizer, stop tokens, mask rule."""
    backend = getattr(chat.tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend is not None else dict(sorted(chat.tokenizer.get_vocab().items()))
    for passing in ("truncation", "padding"):  # set by whoever called the tokenizer last
        state.pop(passing, None)
    parts = [MASK_RULE, chat.template, chat.thinking, sorted(chat.stop_ids), list(chat.opening),
             chat.terminator, chat.lead, state]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
