"""The way from the Studio to the engine, the process that owns the model. The Studio itself never loads one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


def how_to_start(root: Path | str) -> str:
    """What to do where no engine answers."""
    where = "" if str(root) == "runs" else f" --runs {root}"
    return f"No engine serves these runs, so nothing can be played or sampled; start one with: lab engine{where}"


class Client(Protocol):
    """What the Studio asks of an engine; `lab.client.EngineClient` offers it."""

    def status(self) -> dict[str, Any]: ...
    def offers(self) -> dict[str, Any]: ...
    def check(self, form: Mapping[str, Any]) -> dict[str, Any]: ...
    def make(self, form: Mapping[str, Any]) -> dict[str, Any]: ...
    def play(self, run: str) -> Any: ...
    def pause(self, run: str) -> Any: ...
    def step(self, run: str) -> Any: ...
    def stop(self, run: str) -> Any: ...
    def edit(self, run: str, name: str, value: Any) -> Any: ...
    def branch(
        self, run: str, step: int | None = None, *, edits: Mapping[str, Any] | None = None, name: str = ""
    ) -> str: ...
    def sample(
        self, prompt: str, roles: Sequence[str], *, temperature: float, max_new_tokens: int, seed: int
    ) -> Iterator[dict[str, Any]]: ...
    def task(self, name: str, row: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]: ...


class Link:
    """An engine that may or may not be there. What it last said is kept for a second, for all who look."""

    def __init__(self, root: Path | str, client: Client | None = None) -> None:
        if client is None:
            from lab.client import EngineClient

            client = EngineClient(root)
        self.client: Client = client
        self.advice = how_to_start(root)
        self._lock = threading.Lock()
        self._heard: tuple[float, dict[str, Any], str] = (-10.0, {}, self.advice)

    def status(self) -> dict[str, Any]:
        """What the engine says about itself; empty when there is none."""
        return self._hear()[0]

    def reason(self) -> str:
        """Why nothing can be asked of an engine now; empty when it can."""
        return self._hear()[1]

    def about(self, name: str) -> list[str]:
        """A list of names the engine tells about itself: its `roles`, or `examples` of prompts."""
        status = self.status()
        return [str(v) for v in status.get("about", {}).get(name, ())]

    def playing(self) -> list[str]:
        """The ids of the runs that play in the engine now."""
        return [str(r["id"]) for r in self.status().get("runs", ()) if r.get("open") and r.get("shown") == "running"]

    def act(self, run: str, action: str) -> None:
        """play, pause, step or stop. Raises what the engine says when it refuses."""
        getattr(self.client, action)(run)

    def edit(self, run: str, name: str, value: Any) -> None:
        """Changes a live setting. Raises what the engine says when it refuses."""
        self.client.edit(run, name, value)

    def _hear(self) -> tuple[dict[str, Any], str]:
        with self._lock:
            at, status, reason = self._heard
            if time.monotonic() - at > 1.0:
                try:
                    status, reason = self.client.status(), ""
                except Exception:  # whatever keeps the engine from answering, people can do the same about it
                    status, reason = {}, self.advice
                self._heard = (time.monotonic(), status, reason)
            return status, reason
