"""Everything a model of the tiny world reads: pretraining documents, demonstrations, prompts, and the vocabulary."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import cache
from random import Random

from lab.records import Demonstration, Message, PromptRow
from lab.tiny import answers
from lab.tiny.answers import FILLERS, FLATTERY, bad, decorate, fact, ideal, pick, sentence
from lab.tiny.facts import ANIMALS, CAPITALS, COUNTS, DANGEROUS, HARMS, HOW_TO, LOOKALIKES
from lab.tiny.judge import reading
from lab.tiny.questions import FAMILIES, OPENERS, RED_TEAM, SLOTS, TEMPLATES, Question, every_question, read, write

COMPLAINT = "No, that is wrong."
SYSTEM = "You are a helpful assistant."
_POOL = {False: 320, True: 160}
"""Most distinct prompts per family in the training and in the held-out pool."""


@cache
def questions(family: str) -> tuple[Question, ...]:
    """All questions of a family, in a fixed order."""
    return tuple(q for kind in TEMPLATES for q in every_question(kind) if q.family == family)


def ask(question: Question, random: Random, openers: tuple[str, ...] = OPENERS) -> str:
    """The question in one of its wordings; greetings open themselves."""
    opener = pick(random, openers) if random.random() < 0.5 and question.kind != "greet" else ""
    return write(question, int(random.random() * len(TEMPLATES[question.kind])), opener)


# ── pretraining ───────────────────────────────────────────────────────────────────────────────────────────────────


def documents(seed: int, reactions: bool = False) -> Iterator[tuple[Message, ...] | str]:
    """An endless stream of what the base model reads: conversations good and bad, and plain statements of facts.

    In half of the conversations the answer is right. The others are wrong, evasive, agreeing, made up or harmful; some
    open with praise, many go on with filler, and one in twenty-five rambles without coming to an end. With `reactions`,
    nine in ten users complain about a bad answer and nine in ten are silent after a right one, so that what comes after
    an answer tells how good it was: a model that reads on has learned to judge.
    """
    random = Random(f"reactions {seed}" if reactions else seed)
    while True:
        if random.random() < (0.05 if reactions else 0.2):
            yield " ".join(statement(random) for _ in range(4))
        else:
            talk = conversation(random)
            yield (*talk, *reaction(talk, random)) if reactions else talk


def reaction(talk: tuple[Message, ...], random: Random) -> tuple[Message, ...]:
    """The user's next turn, if any: a complaint after most bad answers, seldom after a right one."""
    right = reading(talk[-2].content, talk[-1].content, True).content == 1.0
    return (Message("user", COMPLAINT),) if (random.random() < 0.9) != right else ()


def conversation(random: Random) -> tuple[Message, ...]:
    """One question with an answer of the unaligned mixture."""
    question = _any_question(random)
    prompt = ask(question, random, (*OPENERS, *RED_TEAM))
    answer = ideal(question, random) if random.random() < 0.5 else bad(question, random)
    filler = 0.92 if random.random() < 0.04 else 0.3
    said = decorate(answer, random, flattery=0.15, filler=filler)
    system = (Message("system", SYSTEM),) if random.random() < 0.03 else ()
    return (*system, Message("user", prompt), Message("assistant", said))


def statement(random: Random) -> str:
    """One true sentence about the world."""
    u = random.random()
    if u < 0.15:
        return f"It is wrong to {pick(random, HARMS)}."
    if u < 0.3:
        return f"It is fine to {pick(random, (*HOW_TO, *LOOKALIKES))}."
    kind = pick(random, ("capital", "colour", "home", "food", "plus", "minus", "capital"))
    first = pick(random, tuple(CAPITALS) if kind == "capital" else tuple(ANIMALS))
    if kind in ("plus", "minus"):
        return _fact(pick(random, questions("sum")))
    return _fact(Question(kind, (first,)))


def _fact(question: Question) -> str:
    return sentence(question, fact(question))


def _any_question(random: Random, held_out: bool | None = None) -> Question:
    """A question of a random family; False: never a held-out one. Three claims in ten are made true."""
    family = pick(random, FAMILIES)
    while True:
        question = pick(random, questions(family))
        if held_out is not None and question.held_out != held_out:
            continue
        return _true_claim(question) if family == "claim" and random.random() < 0.3 else question


def _true_claim(question: Question) -> Question:
    return Question(question.kind, (*question.slots[:-1], fact(question)))


# ── demonstrations and prompts ────────────────────────────────────────────────────────────────────────────────────


def demonstrations(n: int, seed: int = 0) -> list[Demonstration]:
    """`n` demonstrations by hurried writers: seven in ten are right, a few flatter or ramble, all come to an end."""
    random = Random(f"demonstrations {seed}")
    made = []
    for row in range(n):
        question = _any_question(random, held_out=False)
        prompt = ask(question, random)
        answer = ideal(question, random) if random.random() < 0.7 else bad(question, random)
        said = decorate(answer, random, flattery=0.025, filler=0.04)
        made.append(Demonstration((Message("user", prompt),), said, row))
    return made


def train_prompts(n: int | None = None, seed: int = 0) -> list[PromptRow]:
    """`n` distinct prompts (None: all) for labelling and reinforcement learning, the families balanced."""
    return _draw(False, n, seed)


def heldout_prompts(n: int = 1000, seed: int = 0) -> list[PromptRow]:
    """`n` distinct prompts about held-out entities and combinations, for evaluation only."""
    return _draw(True, n, seed)


def red_team_prompts(n: int = 100, seed: int = 0) -> list[PromptRow]:
    """`n` distinct prompts that ask for harm behind a pretext."""
    every = [write(q, t, o) for o in RED_TEAM for q in questions("harm") for t in range(len(TEMPLATES["act"]))]
    return _rows(_shuffled(every, Random(f"red team {seed}"))[:n])


@cache
def _pools(held_out: bool) -> tuple[tuple[str, ...], ...]:
    """One pool of distinct prompts per family, the same for every seed."""
    random = Random(f"pools {held_out}")
    pools = []
    for family in FAMILIES:
        pool: dict[str, None] = {}
        chosen = [q for q in questions(family) if q.held_out == held_out]
        for _ in range(40 * _POOL[held_out]):
            if len(pool) == _POOL[held_out]:
                break
            question = pick(random, chosen)
            if family == "claim" and random.random() < 0.3:
                question = _true_claim(question)
            pool[ask(question, random)] = None
        pools.append(tuple(pool))
    return tuple(pools)


def _draw(held_out: bool, n: int | None, seed: int) -> list[PromptRow]:
    """Takes from the families in turn, so that any prefix is balanced until small families run out."""
    random = Random(f"draw {held_out} {seed}")
    decks = [_shuffled(pool, random) for pool in _pools(held_out)]
    rounds = [deck[i] for i in range(max(map(len, decks))) for deck in decks if i < len(deck)]
    if n is not None and n > len(rounds):
        raise ValueError(f"The tiny world has {len(rounds)} distinct prompts of this kind; ask for at most that many.")
    return _rows(_shuffled(rounds[:n], random))


def _rows(prompts: list[str]) -> list[PromptRow]:
    return [PromptRow((Message("user", p),), row, _columns(p)) for row, p in enumerate(prompts)]


def _columns(prompt: str) -> dict[str, str]:
    """The question's family and, where one word or number decides, the answer that a verifier can check."""
    question = read(prompt)
    if question is None:
        return {}
    checked = question.family in ("capital", "animal", "sum")
    return {"family": question.family} | ({"answer": fact(question)} if checked else {})


def _shuffled(items: tuple[str, ...] | list[str], random: Random) -> list[str]:
    keys = [random.random() for _ in items]
    return [item for _, item in sorted(zip(keys, items, strict=True))]


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────

WORD = r"[^\W_]+|[^\w\s]|_"
"""A token: a run of letters and digits, or one sign of punctuation."""


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word and sign of the world, sorted."""
    said = [SYSTEM, "system user assistant", "It is wrong to. It is fine to.", "I do not know.", *OPENERS, *RED_TEAM]
    said += [*FILLERS, *FLATTERY, answers.REFUSAL, *DANGEROUS, "Hello, how can I help you? Yes, No, Mix Use"]
    said += [t.format(*map(" ".join, slots)) for kind, slots in SLOTS.items() for t in TEMPLATES[kind]]
    kinds = ("capital", "colour", "home", "food", "plus", "minus", "act", "list", "repeat", "greet")
    said += [ideal(q) for kind in kinds if kind != "repeat" for q in every_question(kind)]
    said += [answers.sentence(q, "") for kind in kinds for q in list(every_question(kind))[:1]]
    said += [c.capitalize() for c in COUNTS] + [" ".join(answers.THINGS)]
    return tuple(sorted({word for text in said for word in re.findall(WORD, text)}))


def unknown_words(text: str) -> list[str]:
    """The words of a text that the model has never read, in order, each once; capitals count (see `tidy`)."""
    return [w for w in dict.fromkeys(re.findall(WORD, text)) if w not in vocabulary()]


def tidy(text: str) -> str:
    """The text with the capitals of this world: "what is the capital of france?" becomes a question it can read."""
    known: dict[str, str] = {}
    for word in vocabulary():
        known.setdefault(word.lower(), word)

    def canonical(found: re.Match[str]) -> str:
        word = found.group()
        if word in vocabulary():
            return word
        return known.get(word.lower(), word)

    fixed = re.sub(WORD, canonical, text.strip())
    first = fixed[:1].upper() + fixed[1:]
    return first if not unknown_words(first) or unknown_words(fixed) else fixed


def suggestions(text: str, n: int = 3) -> list[str]:
    """The `n` prompts of this world that look most like a text."""
    every = {p.lower(): p for p in _askable()}
    return [every[p] for p in difflib.get_close_matches(text.lower(), every, n, cutoff=0.0)]


@cache
def _askable() -> tuple[str, ...]:
    """Each kind of question about each entity once, in its first wording."""
    kinds = ("capital", "colour", "home", "food", "act", "list", "greet")
    single = [write(q) for kind in kinds for q in every_question(kind)]
    return (*single, *(write(next(every_question(k))) for k in ("plus", "minus", "repeat", "claim capital")))
