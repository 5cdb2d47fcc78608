"""What an engine can be asked beside playing and sampling: work on the model that the Studio wants done.

A task is a generator function `task(desk, row) -> rows`, all of it JSON-able. The engine computes one row after the
other and lets a run go on in between, so a task yields often: after some tens of milliseconds of work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lab.runs import RunError

if TYPE_CHECKING:
    from lab.desk import Desk

Task = Callable[["Desk", Mapping[str, Any]], Iterator[dict[str, Any]]]

TASKS: dict[str, str] = {
    "features": "lab.tasks.features:features",
    "pairs": "lab.tasks.pairs:pairs",
    "rewards": "lab.tasks.pairs:rewards",
    "duel": "lab.tasks.judging:duel",
    "estimate": "lab.tasks.estimate:estimate",
    "judge": "lab.tasks.judging:verdicts",
    "chain": "lab.tasks.constitution:chain",
    "opinions": "lab.tasks.constitution:opinions",
}
"""name -> module:function; a module is read when its task is asked for."""


def find(name: str) -> Task:
    """The task of a name. Raises RunError where there is none."""
    if name not in TASKS:
        raise RunError(f"There is no task {name!r}; there are {', '.join(TASKS)}.")
    module, _, function = TASKS[name].partition(":")
    return getattr(import_module(module), function)
