"""What panels are built over: the runs, the engine, the labels."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apps.studio.link import Client, Link
from apps.studio.shelf import Shelf

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

    def close(self) -> None:
        """Lets go of the file or the database."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None


@dataclass(frozen=True)
class Parts:
    """The runs under one root, the engine that serves them, and the labels of the room."""

    shelf: Shelf
    link: Link
    labels: Labels

    @classmethod
    def over(cls, root: Path | str, client: Client | None = None, labels: Path | str = "") -> Parts:
        """The parts over a root. `client` stands for the engine (None: the one that serves `root`, if any)."""
        return cls(Shelf(root), Link(root, client), Labels(labels or LABELS))
