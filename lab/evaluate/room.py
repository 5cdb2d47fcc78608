"""What the people of a label store said, as marks for the figures of agreement and bias."""

from __future__ import annotations

from collections.abc import Sequence

from lab.evaluate.agreement import Mark
from lab.feedback.labels.rows import prompt_id
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import By
from lab.records import completion_text


def marks(store: Store, *, made_by: Sequence[By] = ("person",), gold: bool = False) -> list[Mark]:
    """Every vote that stands, as a strength in content order; both bad is 0. Withdrawn pairs are left out.

    made_by : whose votes
    gold    : take the pairs with a known answer too

    Repeats are among them: figures of agreement take an annotator's first mark of an item, `self_consistency` both.
    """
    found = {i.id: i for i in store.items() if not i.withdrawn and (gold or not i.gold)}
    makers = store.makers()
    votes = [v for v in store.state().votes(repeats=True) if v.item in found and makers[v.annotator] in made_by]
    return [Mark(v.item, prompt_id(found[v.item]), v.annotator, v.strength, v.first, v.ms) for v in votes]


def lengths(store: Store) -> dict[str, tuple[float, float]]:
    """Item -> words of a and of b."""

    def words(item: object) -> float:
        return float(len(completion_text(item).split()))  # type: ignore[arg-type]

    return {i.id: (words(i.comparison.a), words(i.comparison.b)) for i in store.items()}
