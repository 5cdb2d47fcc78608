"""Features of answers, kept: what an engine has read once is not asked for again.

They are kept in memory and, where the labels live in a file, beside it (`labels.sqlite.features.npz`), without pickle.
Features of another base or another role than those that are kept take their place.
"""

from __future__ import annotations

import base64
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lab.records import Completion, Prompt, digest, to_json

Ask = Callable[[list[list[Any]]], Iterator[dict[str, Any]]]
"""Texts [prompt, completion, ended] -> the rows of the engine's task `features`."""


class Text(NamedTuple):
    """An answer to a prompt. `ended`: it came to an end of its own."""

    prompt: Prompt
    completion: Completion
    ended: bool = True

    @property
    def key(self) -> str:
        """16 hex digits of the three."""
        return digest({"prompt": self.prompt, "completion": self.completion, "ended": self.ended})


class Features:
    """The features of answers, asked for once. Safe to use from several threads: one asks, the others wait."""

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.source = path, ""
        self._known: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()
        if path is not None and path.is_file():
            self._load(path)

    def get(
        self, texts: Sequence[Text], ask: Ask, tell: Callable[[int, int], None] = lambda done, of: None
    ) -> dict[str, np.ndarray]:
        """Key -> (F,) features of the texts that could be read; `tell` hears how many of those that were missing are
        there. What the engine raises passes through."""
        with self._lock:
            wanted = {t.key: t for t in texts}
            missing = [t for key, t in wanted.items() if key not in self._known]
            if missing and not self._fetch(missing, ask, tell):
                self._fetch(list(wanted.values()), ask, tell)
            return {key: self._known[key] for key in wanted if key in self._known}

    def _fetch(self, texts: list[Text], ask: Ask, tell: Callable[[int, int], None]) -> bool:
        """Asks for texts. False: they are of another source than what is kept, which is forgotten; ask for all."""
        width, new = 0, {}
        for row in ask([[_plain(t.prompt), _plain(t.completion), t.ended] for t in texts]):
            if "source" in row:
                width, fresh = int(row["width"]), str(row["source"])
                if fresh != self.source:
                    known, self.source, self._known = bool(self._known), fresh, {}
                    if known:
                        return False
            elif "data" in row:
                found = np.frombuffer(base64.b64decode(row["data"]), dtype="<f4").reshape(len(row["at"]), width)
                new |= {texts[i].key: found[k] for k, i in enumerate(row["at"])}
                tell(int(row["done"]), int(row["of"]))
        self._known = self._known | new
        if new and self.path is not None:
            self._save(self.path)
        return True

    def _save(self, path: Path) -> None:
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            np.savez(file, source=np.array(self.source), keys=np.array(list(self._known)),
                     values=np.stack(list(self._known.values())))  # fmt: skip
        part.replace(path)

    def _load(self, path: Path) -> None:
        """Takes what is kept; a file that is damaged is as none, and is written anew."""
        try:
            with np.load(path, allow_pickle=False) as kept:
                keys, values = kept["keys"].tolist(), np.asarray(kept["values"], dtype=np.float32)
                self.source = str(kept["source"])
            self._known = dict(zip(keys, values, strict=True))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            self.source, self._known = "", {}


def _plain(text: Prompt | Completion) -> Any:
    return text if isinstance(text, str) else [to_json(m) for m in text]
