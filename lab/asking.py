"""Who answers a run that asks: a judge, at once, or people, through a label store.

    attend(session, by_judge(who))              the judge is asked about every pair in both orders
    attend(session, by_people(store, run.id))   the pairs go into the store as items; when they have their votes, p is
                                                the share of the votes

    answerer("annotator:crowd", base, …)         either, as it is written down

What the store keeps for evaluation is not learnt from: those pairs are left open, and their votes stay in the store. An
item knows the run and the step it comes from, the run's log knows who answered, and its checkpoints hold the policy of
every step that was saved: a round can be followed in either direction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lab.events import Ask
from lab.feedback.judging import Judge, judge
from lab.records import Comparison, Verdict
from lab.runs import RunError

if TYPE_CHECKING:
    from lab.base import SharedBase
    from lab.feedback.labels.store import Store
    from lab.session import Session

EVERY_S = 1.0
"""Seconds between two looks into a store."""


@dataclass(frozen=True)
class Answerer:
    """Somebody who can be asked. `answer` gives None while there is no answer yet.

    model : whether answering touches the model, and so belongs into the worker thread
    """

    answer: Callable[[Ask], Sequence[Verdict] | None]
    model: bool = False


def by_judge(who: Judge, *, soft: bool = False, model: bool = True) -> Answerer:
    """A judge, asked in both orders; `soft` keeps how sure it is, `model` says whether it is asked on the base."""
    return Answerer(lambda ask: [j.verdict for j in judge(who, ask.comparisons, soft=soft)], model)


def by_people(store: Store, run: str) -> Answerer:
    """Whoever votes in a label store, once each pair has as many votes as the store's rules say, or was withdrawn.

    A pair the store does not take (a control character, a text without end) is left open, and says why.
    """
    put: dict[int, dict[str, str]] = {}

    def answer(ask: Ask) -> list[Verdict] | None:
        if ask.step not in put:
            put[ask.step] = _added(store, run, ask)
        return _votes(store, ask.comparisons, put[ask.step])

    return Answerer(answer)


LABELS = "labels:"
"""`labels:FILE-or-URL` is a label store; anything else is a judge."""


def checked(text: str, root: Path | str, world: str) -> str:
    """The text with whole paths. Raises JudgeError where there is no such judge, LabelError where no store opens."""
    from lab.feedback.labels.store import Store
    from lab.judges import make_judge, needs_base, origin

    if not text.startswith(LABELS):
        origin(root, text)
        if not needs_base(text):
            make_judge(text, root=root, world=world)
        return text
    where = text.removeprefix(LABELS)
    Store.open(where).close()
    return text if "://" in where else f"{LABELS}{Path(where).absolute()}"


def answerer(text: str, base: SharedBase, *, root: Path | str, world: str, run: str) -> Answerer:
    """Who a text means; a judge's adapter is loaded when it is asked for the first time."""
    from lab.feedback.labels.store import Store
    from lab.judges import make_judge, needs_base

    if text.startswith(LABELS):
        return by_people(Store.open(text.removeprefix(LABELS)), run)
    made: list[Answerer] = []

    def answer(ask: Ask) -> Sequence[Verdict] | None:
        if not made:
            made.append(by_judge(make_judge(text, base, root=root, world=world)))
        return made[0].answer(ask)

    return Answerer(answer, model=needs_base(text))


def _added(store: Store, run: str, ask: Ask) -> dict[str, str]:
    """Adds the pairs to the store; the ids of those it does not take, with the reason."""
    from lab.feedback.labels.words import Item, LabelError

    refused = {}
    for c in ask.comparisons:
        try:
            store.add([Item(c, source={"run": run, "step": ask.step})])
        except LabelError as error:
            refused[c.id] = str(error)
    return refused


def _votes(store: Store, comparisons: Sequence[Comparison], refused: dict[str, str]) -> list[Verdict] | None:
    """What the votes say of each comparison, in its own order; None while some are still to come."""
    import sqlalchemy as sa

    from lab.feedback.labels.exporting import tallies
    from lab.feedback.labels.schema import items

    ids = [c.id for c in comparisons if c.id not in refused]
    with store.database.read() as connection:
        where = items.c.id.in_(ids)
        rows = {row.id: row for row in connection.execute(
            sa.select(items.c.id, items.c.votes, items.c.withdrawn, items.c.split).where(where))}  # fmt: skip
    learnt = {i for i, row in rows.items() if row.split == "training" and not row.withdrawn}
    if any(rows[i].votes < store.rules.overlap for i in learnt):
        return None
    found = {t.item.id: t for t in tallies(store)}
    out = []
    for c in comparisons:
        tally = found.get(c.id) if c.id in learnt else None
        if tally is None or tally.share is None:
            out.append(Verdict(None, why=refused.get(c.id, "") or ("" if c.id in learnt else "kept for evaluation")))
        else:
            p = tally.share if tally.item.comparison.a == c.a else 1 - tally.share
            out.append(Verdict(p, " + ".join(sorted({v.annotator for v in tally.naming}))))
    return out


def attend(session: Session, who: Answerer, every_s: float = EVERY_S) -> threading.Thread:
    """Answers what the session asks, from a thread of its own, until it ends.

    Somebody who raises ends the run as failed, with what they said.
    """
    news = threading.Event()
    session.subscribe(lambda event: news.set())

    def watch() -> None:
        while session.done is None:
            ask = session.asking
            if ask is not None:
                try:
                    said = session.worker.submit(partial(who.answer, ask)).result() if who.model else who.answer(ask)
                except Exception as error:  # a thread of its own: whoever waits for the run must hear of it
                    session.fail(error)
                    return
                if said is not None:
                    with suppress(RunError):  # somebody else was quicker, or the run has ended
                        session.answer(said)
            news.wait(every_s if ask is not None else None)
            news.clear()

    thread = threading.Thread(target=watch, name=f"lab-answers-{session.run.id}", daemon=True)
    thread.start()
    return thread
