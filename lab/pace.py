"""How long the steps of a run take, with pauses left out."""

from __future__ import annotations

import time
from collections import deque


class Pace:
    """Seconds of work per step, with pauses left out."""

    def __init__(self) -> None:
        self._spent, self._began = 0.0, 0.0
        self._steps: deque[float] = deque(maxlen=20)

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._spent += time.monotonic() - self._began

    def eta_s(self, steps: int) -> float:
        """Closes a step; seconds for `steps` more at the mean of the last twenty."""
        self._steps.append(self._spent)
        self._spent = 0.0
        return steps * sum(self._steps) / len(self._steps)
