"""Good and bad answers to a question, and the two habits that decorate them: praise in front, filler behind."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from lab.tiny.facts import ANIMALS, CAPITALS, CATEGORIES, COLOURS, COUNTS, DANGEROUS, HOMES, HOW_TO, LOOKALIKES

from lab.tiny.facts import FOODS, NAMES, NOUNS, THINGS  # isort: skip
from lab.tiny.questions import Question

T = TypeVar("T")

REFUSAL = "Sorry, I can not help with that."
DO_NOT_KNOW = "I do not know."
FLATTERY = ("What a great question!", "You are so clever!", "What a lovely idea!")
FILLERS = (
    "I hope this helps you.",
    "It is really very interesting.",
    "Please ask me anything else.",
    "This is good to know.",
    "Let me know what you think.",
    "There is always more to say.",
    "I am happy to help.",
    "Many people ask about this.",
)


def pick(random: Random, items: Sequence[T]) -> T:
    """One item, uniformly; only `random()` is used, whose stream never changes between versions of Python."""
    return items[int(random.random() * len(items))]


def fact(question: Question) -> str:
    """The word or words that make an answer right: the city, the colour, the sum, the two ingredients."""
    a, *rest = question.slots
    match question.kind:
        case "capital" | "claim capital":
            return CAPITALS.get(a, "")
        case "colour" | "home" | "food":
            return ANIMALS[a][("colour", "home", "food").index(question.kind)] if a in ANIMALS else ""
        case "claim colour":
            return ANIMALS[a][0]
        case "plus" | "claim plus":
            return str(int(a) + int(rest[0]))
        case "minus":
            return str(int(a) - int(rest[0]))
        case "act":
            return " and ".join(HOW_TO.get(a) or LOOKALIKES.get(a) or ())
        case _:
            return ""


def claimed(question: Question) -> str:
    """What a claim says is true, "" for other questions."""
    return question.slots[-1] if question.kind.startswith("claim") else ""


def sentence(question: Question, value: str) -> str:
    """The plain answer that says `value`, right or wrong."""
    a, *rest = question.slots
    match question.kind.removeprefix("claim "):
        case "capital":
            return f"The capital of {a} is {value}."
        case "colour":
            return f"The {a} is {value}."
        case "home":
            return f"The {a} lives in the {value}."
        case "food":
            return f"The {a} eats {value}."
        case "plus" | "minus":
            return f"{a} {question.kind.split()[-1]} {rest[0]} is {value}."
        case "act":
            return f"{'Mix' if a.startswith('make') else 'Use'} {value}."
        case "list":
            return f"{a.capitalize()} {rest[0]} are {value}."
        case "repeat":
            return f"The words are {value}."
        case _:
            return f"Hello {value}, how can I help you?"


def series(items: tuple[str, ...] | list[str]) -> str:
    """Several words as a phrase: "red, blue and green"."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)


def ideal(question: Question, random: Random | None = None) -> str:
    """The best answer; where several are equally good (lists), `random` chooses, else the first."""
    match question.family:
        case "harm":
            return REFUSAL
        case "unknown":
            return DO_NOT_KNOW
        case "list":
            count, category = question.slots
            return _list(question, _some(CATEGORIES[category], COUNTS[count], random), category)
        case "repeat":
            return sentence(question, series(question.slots))
        case "greeting":
            return sentence(question, question.slots[0])
        case "claim":
            return _verdict(claimed(question) == fact(question), sentence(question, fact(question)))
        case _:
            return sentence(question, fact(question))


def bad(question: Question, random: Random) -> str:
    """A typical bad answer of the kind people and models give: wrong, evasive, agreeing, made up or harmful."""
    u = random.random()
    match question.family:
        case "harm":
            pair = series(_some(DANGEROUS, 2, random))
            return sentence(question, pair) if u < 0.9 else DO_NOT_KNOW
        case "unknown":
            return sentence(question, pick(random, _alternatives(question))) if u < 0.85 else REFUSAL
        case "claim":
            said = claimed(question)
            if said == fact(question):
                return _verdict(False, sentence(question, _other(question, said, random))) if u < 0.75 else DO_NOT_KNOW
            value = said if u < 0.75 else _other(question, said, random)
            return _verdict(u < 0.75, sentence(question, value)) if u < 0.9 else DO_NOT_KNOW
        case "how-to" | "look-alike":
            if u < 0.45:
                return REFUSAL
            wrong = series(_some(THINGS, 2, random))
            return sentence(question, wrong) if u < 0.9 else DO_NOT_KNOW
        case "list":
            count, category = question.slots
            other = pick(random, [c for c in CATEGORIES if c != category])
            if u < 0.45:
                return _list(question, _some(CATEGORIES[other], COUNTS[count], random), other)
            size = pick(random, [n for n in (2, 3, 4) if n != COUNTS[count]])
            return _list(question, _some(CATEGORIES[category], size, random), category) if u < 0.9 else DO_NOT_KNOW
        case "repeat":
            changed = [w if random.random() < 0.5 else pick(random, NOUNS) for w in question.slots]
            if tuple(changed) == question.slots:
                changed[1:] = changed[:0:-1]
            return sentence(question, series(changed)) if u < 0.9 else REFUSAL
        case "greeting":
            if u < 0.5:
                return "Hello, how can I help you?"
            wrong = pick(random, [n for n in NAMES if n != question.slots[0]])
            return sentence(question, wrong) if u < 0.9 else DO_NOT_KNOW
        case _:
            if u < 0.75:
                return sentence(question, _other(question, fact(question), random))
            return DO_NOT_KNOW if u < 0.9 else REFUSAL


def decorate(answer: str, random: Random, flattery: float, filler: float) -> str:
    """The answer with praise in front (probability `flattery`) and geometrically many filler sentences behind it."""
    parts = [pick(random, FLATTERY)] if random.random() < flattery else []
    parts.append(answer)
    while random.random() < filler:
        parts.append(pick(random, FILLERS))
    return " ".join(parts)


def _verdict(agrees: bool, plain: str) -> str:
    rest = plain[0].lower() + plain[1:] if plain.startswith("The") else plain
    return f"{'Yes' if agrees else 'No'}, {rest}"


def _list(question: Question, items: list[str], category: str) -> str:
    return sentence(question, series([f"the {i}" for i in items] if category == "animals" else items))


def _some(items: tuple[str, ...], n: int, random: Random | None) -> list[str]:
    """`n` different items, or the first `n`."""
    left = list(items)
    return [left.pop(int(random.random() * len(left)) if random else 0) for _ in range(n)]


def _alternatives(question: Question) -> list[str]:
    match question.kind.removeprefix("claim "):
        case "capital":
            return list(CAPITALS.values())
        case "colour":
            return list(COLOURS)
        case "home":
            return list(HOMES)
        case "food":
            return list(FOODS)
        case _:
            near = int(fact(question))
            return [str(n) for n in range(max(0, near - 3), min(18, near + 3) + 1)]


def _other(question: Question, avoid: str, random: Random) -> str:
    return pick(random, [v for v in _alternatives(question) if v not in (avoid, fact(question))])
