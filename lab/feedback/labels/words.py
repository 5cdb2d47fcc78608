"""The words of the label store: items, what is said about them, and the rules by which they are handed out.

Two orders are kept apart. *Content order* is the order of the stored comparison: its a and its b, whoever sees it.
*Display order* is which of the two stood first on somebody's screen. Choices, strengths and probabilities are in
content order; `first` remembers the display.

    strength    +2 a much better   +1 a better   0 a tie, or both bad   −1 b better   −2 b much better
    p           the probability in [0, 1] that a is the better one; a person's choice is 1, 0 or ½
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lab.columns import PARSERS, Unusable
from lab.records import Comparison, Verdict, to_json

Choice = Literal["a", "b", "tie", "both_bad"]
Side = Literal["a", "b"]
Kind = Literal["vote", "skip", "undo", "remark", "withdraw", "restore", "uncertainty"]
By = Literal["person", "judge", "annotator", "reward_model", "constitution"]
Split = Literal["training", "evaluation"]

CHOICES: tuple[Choice, ...] = ("a", "b", "tie", "both_bad")
KINDS: tuple[Kind, ...] = ("vote", "skip", "undo", "remark", "withdraw", "restore", "uncertainty")
MAKERS: tuple[By, ...] = ("person", "judge", "annotator", "reward_model", "constitution")
SPLITS: tuple[Split, ...] = ("training", "evaluation")
LONGEST_NOTE, LONGEST_REASON, MOST_REASONS, LONGEST_NAME = 2000, 60, 12, 120
LONGEST_WAIT = 86_400_000
"""Milliseconds a vote can have taken: a day."""

LONGEST_TEXT, LONGEST_SOURCE = 200_000, 10_000
"""Characters of a pair with its prompt, and of what is said about where it comes from."""

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that are no text: control characters but tab and line ends, and halves of surrogate pairs."""


class LabelError(ValueError):
    """A label store that cannot be used, or data it does not take, with the cause and what to do."""


class RefusedError(LabelError):
    """A judgement that is not taken: the pair was withdrawn, has its votes, or was judged already."""


class LoginError(LabelError):
    """Somebody who cannot be let in: the name is taken, the PIN is wrong, or was wrong too often."""


@dataclass(frozen=True, slots=True)
class Item:
    """A comparison to be judged.

    answer      : of a gold pair, the side that is known to be better; gold pairs check who judges and are no data
    split       : evaluation items were drawn uniformly by prompt; a prompt is never in both. Empty: by the store
    uncertainty : how much reward models disagree about it, ≥ 0, any unit; None: nobody has asked them
    source      : who proposed it and where it comes from (run, step, round), JSON-able
    """

    comparison: Comparison
    answer: Choice | None = None
    split: Split | Literal[""] = ""
    uncertainty: float | None = None
    source: Mapping[str, Any] = field(default_factory=dict, hash=False)
    withdrawn: bool = False

    def __post_init__(self) -> None:
        problem = _wrong_pair(self)
        if problem:
            raise LabelError(problem)
        if self.answer is not None and self.answer not in CHOICES:
            raise LabelError(f"{self.answer!r} is no known answer; give one of {', '.join(CHOICES)}.")
        if self.split and self.split not in SPLITS:
            raise LabelError(f"{self.split!r} is no split; give one of {', '.join(SPLITS)}.")
        if self.uncertainty is not None and not 0 <= self.uncertainty < math.inf:
            raise LabelError(f"An uncertainty is a number from 0 on, not {self.uncertainty!r}.")

    @property
    def id(self) -> str:
        """16 hex digits of what is compared; the same in either order."""
        return self.comparison.id

    @property
    def gold(self) -> bool:
        """Whether its answer is known."""
        return self.answer is not None


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON-able value, the names of its members too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from (str(name), *_strings(part))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _strings(part)


def control_character(value: Any) -> str:
    """The first control character in a JSON-able value as a sentence shows it, or nothing."""
    found = next((m for text in _strings(value) if (m := CONTROL.search(text))), None)
    return "" if found is None else f"U+{ord(found[0]):04X}"


def _wrong_pair(item: Item) -> str:
    """What is wrong with the texts of an item, or nothing. HTML is text like any other."""
    c = item.comparison
    texts = [to_json(c)[name] for name in ("prompt", "a", "b")]
    found = control_character([texts, item.source])
    if found:
        return f"The text holds the control character {found}; take it out."
    if sum(len(text) for value in texts for text in _strings(value)) > LONGEST_TEXT:
        return f"A pair has up to {LONGEST_TEXT} characters with its prompt; this one has more."
    try:
        PARSERS["preference"](dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)), 0)
        long = len(json.dumps(dict(item.source), allow_nan=False)) > LONGEST_SOURCE
    except Unusable as bad:
        reason, detail = bad.args
        return "Both completions are the same; there is nothing to compare." if c.a == c.b else f"{reason}: {detail}."
    except (TypeError, ValueError):
        return "The source of an item is a JSON object."
    return f"The source of an item has up to {LONGEST_SOURCE} characters of JSON." if long else ""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was said. Events are only ever added.

    key      : chosen by whoever sends it; the same (item, annotator, key) twice is one event
    at       : when the store took it, milliseconds since 1970 by the store's own clock
    first    : the side that stood first on the screen; empty where nobody looked at a screen
    repeat   : the annotator saw the pair a second time, the other way round: a check, no further vote
    reasons  : the chips that were chosen, `note` free words; a later remark replaces both
    ms       : time taken, in milliseconds
    value    : of an `uncertainty` event, the new uncertainty
    """

    kind: Kind
    item: str
    annotator: str
    key: str
    at: int = 0
    choice: Choice | None = None
    strength: int = 0
    p: float | None = None
    first: Side | Literal[""] = ""
    repeat: bool = False
    reasons: tuple[str, ...] = ()
    note: str = ""
    ms: int | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise LabelError(problem)

    def verdict(self) -> Verdict:
        """What a vote says about the comparison in content order; both bad prefers neither: ½."""
        return Verdict(self.p, self.annotator, self.note or ", ".join(self.reasons))


def _problem(e: Event) -> str:
    """What is wrong with an event, or nothing."""
    if e.kind not in KINDS:
        return f"{e.kind!r} is no kind of event; there are {', '.join(KINDS)}."
    if not e.item or not e.annotator or not e.key or max(map(len, (e.item, e.annotator, e.key))) > LONGEST_NAME:
        return f"An event names its item, its annotator and its key, of up to {LONGEST_NAME} characters each."
    if e.first not in ("a", "b", ""):
        return f"{e.first!r} is no side; the first on the screen is a or b."
    if len(e.note) > LONGEST_NOTE or len(e.reasons) > MOST_REASONS or any(len(r) > LONGEST_REASON for r in e.reasons):
        return (f"A note has up to {LONGEST_NOTE} characters, and there are up to {MOST_REASONS} reasons of up to "
                f"{LONGEST_REASON} characters.")  # fmt: skip
    found = control_character([e.note, e.reasons, e.annotator, e.key])
    if found:
        return f"The text holds the control character {found}; take it out."
    if e.ms is not None and not 0 <= e.ms <= LONGEST_WAIT:
        return f"{e.ms} ms is no time to judge a pair in; it is from 0 to a day."
    if e.kind == "uncertainty":
        good = e.value is not None and 0 <= e.value < math.inf
        return "" if good else f"An uncertainty is a number from 0 on, not {e.value!r}."
    if e.kind == "vote":
        return _wrong_vote(e)
    return "" if e.choice is None and e.p is None and e.strength == 0 else f"A {e.kind} carries no choice."


def _wrong_vote(e: Event) -> str:
    if e.choice not in CHOICES:
        return f"{e.choice!r} is no verdict; give one of {', '.join(CHOICES)}."
    if e.p is None or not 0 <= e.p <= 1:
        return f"A vote carries a probability from 0 to 1, not {e.p!r}."
    if e.strength not in (-2, -1, 0, 1, 2):
        return f"{e.strength!r} is no strength; give a whole number from −2 to 2."
    sign = (e.strength > 0) - (e.strength < 0)
    if sign != {"a": 1, "b": -1}.get(e.choice, 0) or sign != (e.p > 0.5) - (e.p < 0.5):
        return f"The choice {e.choice}, the strength {e.strength:+d} and the probability {e.p:g} contradict each other."
    return ""


def vote(item: str, annotator: str, key: str, strength: int, *, both_bad: bool = False, **more: Any) -> Event:
    """A person's vote, in content order. `more`: first, repeat, reasons, note, ms."""
    if both_bad and strength:
        raise LabelError("Both bad has no strength; give 0.")
    choice: Choice = "both_bad" if both_bad else "a" if strength > 0 else "b" if strength < 0 else "tie"
    p = 0.5 + ((strength > 0) - (strength < 0)) / 2
    return Event("vote", item, annotator, key, choice=choice, strength=strength, p=p, **more)


def machine_vote(item: str, annotator: str, key: str, verdict: Verdict) -> Event:
    """What a judge, a reward model or a constitution says, as softly as it says it; no answer is a skip."""
    note = verdict.why[:LONGEST_NOTE]
    if verdict.p is None:
        return Event("skip", item, annotator, key, note=note)
    sign = (verdict.p > 0.5) - (verdict.p < 0.5)
    choice: Choice = "a" if sign > 0 else "b" if sign < 0 else "tie"
    return Event("vote", item, annotator, key, choice=choice, strength=sign, p=verdict.p, note=note)


def turn(item: Item) -> Item:
    """The item with a and b exchanged, and so its answer."""
    other: dict[str, Any] = {"a": "b", "b": "a"}
    return replace(item, comparison=item.comparison.swap(), answer=other.get(item.answer or "", item.answer))


def swap(event: Event) -> Event:
    """The event as it reads when a and b change their names."""
    other: dict[str, Any] = {"a": "b", "b": "a"}
    p = None if event.p is None else 1 - event.p
    choice = other.get(event.choice or "", event.choice)
    return replace(event, choice=choice, strength=-event.strength, p=p, first=other.get(event.first, ""))


@dataclass(frozen=True, slots=True)
class Rules:
    """How items are handed out.

    overlap     : votes wanted of every pair; an item never has more live and leased votes than that
    explore     : share of the showings drawn uniformly at random from the evaluation items; the rest goes to the most
                  uncertain training items. Also the share of prompts that make up the evaluation split
    gold        : share of the showings that are gold pairs, of which everybody sees each once
    repeats     : share of the showings that are pairs the annotator has judged, the other way round
    gap         : showings between a pair and its repeat, at least
    lease_s     : seconds until a pair that was shown and not judged goes to somebody else
    seed        : of every draw
    """

    overlap: int = 3
    explore: float = 0.2
    gold: float = 0.1
    repeats: float = 0.05
    gap: int = 5
    lease_s: float = 300.0
    seed: int = 0

    def __post_init__(self) -> None:
        shares = (self.explore, self.gold, self.repeats)
        if not all(0 <= s <= 1 for s in shares) or self.gold + self.repeats >= 1:
            raise LabelError("explore, gold and repeats are shares from 0 to 1, and gold with repeats leaves room.")
        if self.overlap < 1 or self.gap < 1 or not 0 < self.lease_s < 1e9:
            raise LabelError("overlap and gap are at least 1, and a lease lasts longer than 0 seconds.")


@dataclass(frozen=True, slots=True)
class Showing:
    """An item as one annotator is to see it. The vote on it carries `key`, so that it counts once."""

    item: Item
    annotator: str
    first: Side
    repeat: bool
    key: str
    expires: int

    @property
    def shown(self) -> Comparison:
        """The comparison in display order."""
        return self.item.comparison if self.first == "a" else self.item.comparison.swap()

    def vote(self, strength: int, *, both_bad: bool = False, **more: Any) -> Event:
        """The vote of somebody who saw it: `strength` above 0 says that what stood first is better."""
        content = strength if self.first == "a" else -strength
        return vote(self.item.id, self.annotator, self.key, content, both_bad=both_bad, first=self.first,
                    repeat=self.repeat, **more)  # fmt: skip

    def skip(self, **more: Any) -> Event:
        """The skip of somebody who saw it."""
        return Event("skip", self.item.id, self.annotator, self.key, first=self.first, repeat=self.repeat, **more)
