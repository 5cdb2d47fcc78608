"""Work that goes on behind the page: begun by the host, watched by all, stopped between two rows.

It belongs to the Studio's process and not to a tab, so closing the page harms nothing; what it has kept is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from apps.studio.components import sentence


class BusyError(RuntimeError):
    """Something else is going on."""


class Job:
    """One piece of work at a time. Its rows say how far it is: `done`, `of` and `sentence`; others are nobody's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._shown: dict[str, Any] = {"state": "idle", "title": "", "done": 0, "of": 0, "sentence": "", "number": 0}

    def begin(self, title: str, rows: Callable[[], Iterator[dict[str, Any]]]) -> dict[str, Any]:
        """Starts work in a thread of its own; what is shown of it. Raises BusyError while another goes on."""
        with self._lock:
            if self._shown["state"] == "running":
                raise BusyError(f"{self._shown['title']} is still going on; wait for its end, or stop it.")
            self._stop = threading.Event()
            self._shown = {"state": "running", "title": title, "done": 0, "of": 0, "sentence": "",
                           "number": self._shown["number"] + 1}  # fmt: skip
            threading.Thread(target=self._work, args=(rows, self._stop), name="lab-job", daemon=True).start()
            return dict(self._shown)

    def stop(self) -> dict[str, Any]:
        """Ends the work after its present row."""
        self._stop.set()
        return self.look()

    def look(self) -> dict[str, Any]:
        """What is shown: title, state (idle, running, done, stopped, failed), done, of, and the last sentence."""
        with self._lock:
            return dict(self._shown)

    def _work(self, rows: Callable[[], Iterator[dict[str, Any]]], stop: threading.Event) -> None:
        source: Iterator[dict[str, Any]] = iter(())
        try:
            source = rows()
            for row in source:
                self._tell(**{key: row[key] for key in ("done", "of", "sentence") if key in row})
                if stop.is_set():
                    break
            self._tell(state="stopped" if stop.is_set() else "done")
        except Exception as error:  # the panel shows the sentence in its place
            self._tell(state="failed", sentence=sentence(error))
        finally:
            getattr(source, "close", lambda: None)()

    def _tell(self, **news: Any) -> None:
        with self._lock:
            self._shown |= news
