"""Verifiers that compare one answer with the row's: a number, a choice, a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any

from lab.feedback.verifiers.committed import committed, sentences, without_prompt
from lab.feedback.verifiers.contract import Row, Verifier, VerifierError, column, shown
from lab.feedback.verifiers.numerals import Number, numbers, plain

_LISTED = re.compile(r"[\s,;/|&*+\-]*(?:and|or|to|then)?[\s,;]*", re.IGNORECASE)
"""What stands between two numbers of a list."""


_ENGLISH = re.compile(r"(?<![\w'’(])[AI](?=\s+(?!(?:or|and|but|nor|is|was|because)\b)[a-z])")
"""`A cat`, `I think`: words, not letters of options."""


def number(
    *, tolerance: Annotated[float, "how far the answer may be off, in the answer's unit (0: exactly equal)"] = 0.0
) -> Verifier:
    """1 if the answer is the number in row["answer"], else 0.

        r = 1 if |x − a| ≤ tolerance else 0, in exact rational arithmetic

    `3/4`, `0.75`, `\\frac{3}{4}` and `¾` are the same number; units and currencies are left aside, and so is a percent
    sign on one side only: `50 %` is 50 as well as ½. The answer x is the one number in the first sentence after the
    last marker (`\\boxed`, `####`, `answer is`, `Answer:`, `<answer>`; there, what follows the last `=`). Two numbers
    there earn nothing. Without a marker it is the last number of the last line that holds one, unless it ends a list.

    Raises:
        VerifierError: a negative tolerance; the row has no answer, or one that is no number.
    """
    if not 0 <= tolerance < float("inf"):
        raise VerifierError(f"tolerance is {tolerance:g}; it must be a number of at least 0.")
    most = Fraction(str(tolerance))

    def verify(prompt: str, completion: str, row: Row) -> float | None:
        gold = column(row, "answer")
        if gold is None:
            return None
        right = _gold_number(gold)
        said = read_number(prompt, completion)
        if said is None:
            return 0.0
        hundredth = said.percent != right.percent
        values = {said.value, said.value / 100} if hundredth and said.percent else {said.value}
        golds = {right.value, right.value / 100} if hundredth and right.percent else {right.value}
        return float(any(abs(x - a) <= most for x in values for a in golds))

    return verify


def read_number(prompt: str, completion: str) -> Number | None:
    """The number a completion commits itself to; None if there is none, or more than one."""
    answer = committed(prompt, completion)
    if answer.marked:
        return _only(plain(answer.text))
    line = next(filter(re.compile("[0-9]").search, map(plain, reversed(answer.text.splitlines()))), "")
    if "=" in line:
        return _only(line)
    found = numbers(line)
    return None if not found or _ends_a_list(line, found) else found[-1]


def _only(text: str) -> Number | None:
    """The one number of the first sentence with one, of what follows the last equals sign."""
    for sentence in sentences(text.rpartition("=")[2]):
        found = numbers(sentence)
        if found is None or len(found) > 1:
            return None
        if found:
            return found[0]
    return None


def _ends_a_list(text: str, found: Sequence[Number]) -> bool:
    return len(found) > 1 and _LISTED.fullmatch(text[found[-2].end : found[-1].start]) is not None


def _gold_number(gold: Any) -> Number:
    if not isinstance(gold, bool) and isinstance(gold, (int, float, str)):
        read = read_number("", str(gold))
        if read is not None:
            return read
    raise VerifierError(
        f"The row's answer is {shown(gold)}, which is no single number; repair the row or take `maths`."
    )


def choice(
    *, first: Annotated[int, "the number of the first option, where the row's answer is a number"] = 0
) -> Verifier:
    """1 if the chosen letter is the row's, else 0.

    row["answer"] is a letter, an option's number, or an option's text; row["choices"], a list of the options' texts (or
    such a list under "text"), is optional. Read is the first sentence after the last marker, or else the whole
    completion: `B`, `(B)`, `B.`, `the answer is B`, or the text of an option. Two different options earn nothing.
    Letters go as far as there are choices, to H without them.

    Raises:
        VerifierError: the row has no answer, or one that is none of the options; its choices are no list.
    """

    def verify(prompt: str, completion: str, row: Row) -> float | None:
        gold = column(row, "answer")
        if gold is None:
            return None
        texts = _texts(row.get("choices"))
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(texts) or 8]
        right = _gold_letter(gold, texts, letters, first)
        answer = committed(prompt, completion)
        text = next(iter(sentences(answer.text)), "") if answer.marked else answer.text
        return float(_letters(text, texts, letters) == {right})

    return verify


def _texts(choices: Any) -> list[str]:
    """The texts of the options; none where the row has no choices."""
    said = choices.get("text") if isinstance(choices, dict) else choices
    if not isinstance(said, list) and choices is not None:
        raise VerifierError(f"The row's choices are {shown(choices)}; give a list of the options' texts.")
    return [str(text) for text in said or ()]


def _letters(text: str, texts: Sequence[str], letters: str) -> set[str]:
    """Every option a text names, by letter or by its own words.

    Small letters count in brackets or alone. `A` and `I` before a small word are English while another option is named.
    """
    text = re.sub(r"\\(?:text\w*|math\w+)\s*\{([^{}]*)\}|\*\*|__|[$`]", r"\1", text).strip()
    for i in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        if len(words := texts[i].strip()) > 1:
            text = re.sub(rf"(?<!\w){re.escape(words)}(?!\w)", f" ({letters[i]}) ", text, flags=re.IGNORECASE)
    if re.fullmatch(rf"[{letters.lower()}][.):]?", text):
        return {text[0].upper()}
    bracketed = re.findall(rf"(?<![\w])\(?([{letters}{letters.lower()}])\)", text)
    bare = re.findall(rf"(?<![\w'’])([{letters}])(?![\w'’])", _ENGLISH.sub("", text))
    return {letter.upper() for letter in (*bracketed, *bare)} or ({"A"} if _ENGLISH.search(text) else set())


def _gold_letter(gold: Any, texts: Sequence[str], letters: str, first: int) -> str:
    if isinstance(gold, str) and (match := re.fullmatch(r"\(?([A-Za-z])[.):]?", gold.strip())):
        if match[1].upper() in letters:
            return match[1].upper()
    elif isinstance(gold, str) and gold in texts:
        return letters[texts.index(gold)]
    elif (
        type(gold) in (int, str) and re.fullmatch(r"[0-9]{1,2}", str(gold)) and int(gold) - first in range(len(letters))
    ):
        return letters[int(gold) - first]
    raise VerifierError(
        f"The row's answer is {shown(gold)}, which is none of its {len(letters)} options {letters[0]}–{letters[-1]}; "
        f"give a letter, a number from {first} on, or an option's text."
    )


def equals() -> Verifier:
    """1 if the completion is row["answer"], spaces around it and upper or lower case left aside; else 0.

    Raises:
        VerifierError: the row has no answer, or an empty one.
    """

    def verify(prompt: str, completion: str, row: Row) -> float | None:
        gold = column(row, "answer")
        if gold is None:
            return None
        if not str(gold).strip():
            raise VerifierError("The row's answer is empty, which an empty completion would equal.")
        return float(without_prompt(prompt, completion).strip().casefold() == str(gold).strip().casefold())

    return verify
