"""What leaves a store: raw events, preferences as TRL and this lab read them, thumbs for KTO.

Over the n votes on a pair that name a side or a tie (both bad names none), p_i and strength s_i in content order:

    share  = Σ p_i / n           margin = unit · Σ s_i / n, towards the chosen side, at least 0

The chosen one is the side with a share above ½. It is a *soft label*: `label` is the chosen one's share, `weight` is n.
Gold pairs, flipped repeats and withdrawn pairs are no data; what was drawn for evaluation stays out unless asked for.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal

import sqlalchemy as sa

from lab.data import write_jsonl
from lab.feedback.labels.rows import dumps, every, item_of
from lab.feedback.labels.schema import annotators, items
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import By, Event, Item
from lab.records import Preference, Rating, to_json

FORMAT, EXPORT_VERSION = "rlhf-lab labels", 1
"""The first line of an export of raw events says both."""

Part = Literal["training", "evaluation", "all"]
PEOPLE: tuple[By, ...] = ("person",)


def export_events(store: Store, path: str | Path) -> Counter[str]:
    """Writes everything a store holds as JSON lines: what it is, items, annotators (no PIN), events; how many of each.

    Read into an empty store and exported again it gives the same bytes. The file appears whole or not at all.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        written = _write(store, file)
    os.replace(part, path)
    return written


def events_text(store: Store) -> str:
    """The same lines as one text."""
    file = io.StringIO()
    _write(store, file)
    return file.getvalue()


def _write(store: Store, file: IO[str]) -> Counter[str]:
    written: Counter[str] = Counter()

    def line(what: str, row: dict[str, Any]) -> None:
        file.write(dumps({"what": what, **row}) + "\n")
        written[what] += 1

    file.write(dumps({"format": FORMAT, "version": EXPORT_VERSION}) + "\n")
    with store.database.read() as connection:
        for row in connection.execute(sa.select(items).order_by(items.c.seq)):
            line("item", item_line(row))
        for row in connection.execute(sa.select(annotators).order_by(annotators.c.seq)):
            line("annotator", {"name": row.name, "made_by": row.made_by})
        for event in every(connection):
            line("event", event_line(event))
    return written


def item_line(row: Any) -> dict[str, Any]:
    """An item as a line of the export, as it was when it was added."""
    item = item_of(row)
    c = item.comparison
    line = {"prompt": to_json(c.prompt), "a": to_json(c.a), "b": to_json(c.b), "ended": list(c.ended),
            "split": item.split, "answer": item.answer, "uncertainty": row.uncertainty,
            "source": dict(item.source)}  # fmt: skip
    return json.loads(dumps({name: value for name, value in line.items() if value not in (None, {}, [True, True])}))


def event_line(event: Event) -> dict[str, Any]:
    """An event as a line of the export, without what is as always."""
    usual = {f.name: f.default for f in fields(Event) if f.default is not MISSING}
    return {f.name: value for f in fields(Event) if (value := getattr(event, f.name)) != usual.get(f.name, MISSING)}


@dataclass(frozen=True)
class Tally:
    """The votes on one item that count, in content order."""

    item: Item
    votes: tuple[Event, ...]

    @property
    def naming(self) -> tuple[Event, ...]:
        """The votes that name a side or a tie."""
        return tuple(v for v in self.votes if v.choice != "both_bad")

    @property
    def share(self) -> float | None:
        """Share of side a, in [0, 1]; None where nobody named a side or a tie."""
        n = len(self.naming)
        return sum(v.p or 0.0 for v in self.naming) / n if n else None

    @property
    def strength(self) -> float:
        """Mean strength of the votes that name a side or a tie, in [−2, 2]."""
        n = len(self.naming)
        return sum(v.strength for v in self.naming) / n if n else 0.0


def tallies(store: Store, *, part: Part = "training", made_by: Sequence[By] = PEOPLE,
            annotator: str = "") -> list[Tally]:  # fmt: skip
    """The items that count, each with its votes by these kinds of annotators (or by one of them), if there are any."""
    makers = store.makers()
    by_item: dict[str, list[Event]] = {}
    for vote in store.state().votes():
        if makers[vote.annotator] in made_by and annotator in ("", vote.annotator):
            by_item.setdefault(vote.item, []).append(vote)
    return [Tally(item, tuple(by_item[item.id])) for item in store.items()
            if item.id in by_item and not item.gold and part in ("all", item.split)]  # fmt: skip


def preferences(found: Sequence[Tally], *, ties: bool = False, unit: float = 0.5) -> list[Preference]:
    """Pairs to learn from: one for each item whose votes prefer a side, and with `ties` those at ½ too.

    unit : reward that one step of strength asks for; much better is two steps. 0: no margin
    """
    out = []
    for tally in found:
        share, c = tally.share, tally.item.comparison
        if share is None or (share == 0.5 and not ties):
            continue
        sign = 1 if share >= 0.5 else -1
        chosen, rejected = (c.a, c.b) if sign > 0 else (c.b, c.a)
        names = " + ".join(sorted({v.annotator for v in tally.naming}))
        out.append(Preference(c.prompt, chosen, rejected, max(0.0, unit * sign * tally.strength), names,
                              label=max(share, 1 - share), weight=float(len(tally.naming))))  # fmt: skip
    return out


def ratings(found: Sequence[Tally]) -> list[Rating]:
    """Thumbs: up for the preferred and down for the other side of a pair, two down where most say both are bad."""
    out = []
    for tally in found:
        share, c = tally.share, tally.item.comparison
        bad = 2 * (len(tally.votes) - len(tally.naming)) > len(tally.votes)
        if not bad and share in (None, 0.5):
            continue
        liked = (False, False) if bad else ((share or 0) > 0.5, (share or 0) < 0.5)
        names = " + ".join(sorted({v.annotator for v in tally.votes}))
        out += [Rating(c.prompt, y, up, names) for y, up in zip((c.a, c.b), liked, strict=True)]
    return out


def write_preferences(pairs: Sequence[Preference], path: str | Path) -> Path:
    """TRL's columns prompt, chosen, rejected, margin, and label, weight and annotator, as JSON lines."""
    return write_jsonl(pairs, path)


def write_ratings(thumbs: Sequence[Rating], path: str | Path) -> Path:
    """KTO's columns prompt, completion, label (true: liked), and annotator, as JSON lines."""
    rows = map(to_json, thumbs)
    return write_jsonl([{"prompt": r["prompt"], "completion": r["completion"], "label": r["liked"],
                         "annotator": r["annotator"]} for r in rows], path)  # fmt: skip
