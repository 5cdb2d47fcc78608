"""What panels are built over: the runs, the engine, the labels."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.studio.link import Client, Link
from apps.studio.shelf import Shelf
from lab.disk import pretty, write_atomic

if TYPE_CHECKING:
    from lab.feedback.labels.store import Store

LABELS = "labels.sqlite"
"""The label store where nobody names another: the same as for `lab label`."""


class Labels:
    """The label store of the page, opened when it is first asked for, and made where there is none."""

    def __init__(self, where: Path | str) -> None:
        self.where = str(where)
        self._lock = threading.Lock()
        self._store: Store | None = None

    def store(self) -> Store:
        """The store. Raises LabelError where none can be opened."""
        with self._lock:
            if self._store is None:
                from lab.feedback.labels.store import Store

                self._store = Store.open(self.where)
            return self._store

    def add(self, prompt: str, answers: tuple[str, str], ended: tuple[bool, bool], source: dict[str, Any]) -> str:
        """Puts a pair into the queue, and says so. `source` has `a` and `b`, the role behind each answer.

        Raises LabelError for a pair that cannot be judged: equal answers, a control character, a text without end.
        """
        from lab.feedback.labels.words import Item
        from lab.records import Comparison

        new = self.store().add([Item(Comparison(prompt, *answers, ended), source=source)])
        return "The pair is in the label queue." if new else "This pair is in the label queue already."

    def close(self) -> None:
        """Lets go of the file or the database."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None


class Pins:
    """Prompts that people found telling: the probes of the runs that are made next. A JSON list under the root."""

    MOST, LONGEST = 24, 2000

    def __init__(self, root: Path) -> None:
        self.path = root / ".pins.json"
        self._lock = threading.Lock()

    def read(self) -> list[str]:
        """The pinned prompts, oldest first; none where the file is missing or is no list of texts."""
        try:
            found = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return []
        return [p for p in found if isinstance(p, str) and p.strip()] if isinstance(found, list) else []

    def turn(self, prompt: str) -> bool:
        """Pins a prompt, or takes its pin away; whether it is pinned now. Raises PinError for one too many, or none."""
        prompt = prompt.strip()
        if not prompt or len(prompt) > self.LONGEST:
            raise PinError(f"A probe prompt has 1 to {self.LONGEST} characters.")
        with self._lock:
            pins = self.read()
            if prompt not in pins and len(pins) >= self.MOST:
                raise PinError(f"{self.MOST} prompts are pinned already; take one away first.")
            kept = [p for p in pins if p != prompt]
            pinned = len(kept) == len(pins)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, pretty([*kept, prompt] if pinned else kept))
            return pinned


class PinError(ValueError):
    """A prompt that cannot be pinned, with the reason."""


@dataclass(frozen=True)
class Parts:
    """The runs under one root, the engine that serves them, the labels of the room, and the pinned prompts."""

    shelf: Shelf
    link: Link
    labels: Labels
    pins: Pins

    @classmethod
    def over(cls, root: Path | str, client: Client | None = None, labels: Path | str = "") -> Parts:
        """The parts over a root. `client` stands for the engine (None: the one that serves `root`, if any)."""
        return cls(Shelf(root), Link(root, client), Labels(labels or LABELS), Pins(Path(root)))
