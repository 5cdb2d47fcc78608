"""What a stack of Constitutional AI was begun with, and what is refused before it begins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.config import CONFIGS, ConfigError, settings
from lab.disk import pretty, write_atomic
from lab.feedback.constitution.principles import Constitution, ConstitutionError, read_constitution
from lab.recipes.recipe import Recipe, closest, edit
from lab.tiny.constitution import shipped

STATE = "constitution.json"
"""The settings a stack was begun with."""


def remember(folder: Path, began: dict[str, Any]) -> None:
    """Writes down what the stack was begun with, or refuses what differs from it. Raises ConfigError."""
    path = folder / STATE
    if not path.exists():
        write_atomic(path, pretty(began))
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        flat = [(k, before[k], v) for k, v in began.items() if k != "config"]
        flat += [(k, before["config"].get(k), v) for k, v in began["config"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read ({error!r}); choose another folder.") from None
    for key, old, new in flat:
        if old != new:
            raise ConfigError(f"{key} was {json.dumps(old)} when the stack in {folder} began, and now it is "
                              f"{json.dumps(new)}; take that back, or choose another folder.")  # fmt: skip


def keep(constitution: Constitution, source: str, path: Path) -> None:
    """A copy of the principles beside what they make."""
    found = Path(source).expanduser()
    text = (found if found.is_file() else shipped()[source]).read_text(encoding="utf-8")
    write_atomic(path, text.encode())
    if read_constitution(path).digest != constitution.digest:
        raise ConstitutionError(f"{source} changed while it was read; begin again.")


def edited(recipe: Recipe, edits: Sequence[str], known: Sequence[str]) -> Recipe:
    """The recipe with the edits of the stages it has."""
    have = [str(s.says["name"]) for s in recipe.stages]
    for text in edits:
        owner = text.partition("=")[0].rpartition(".")[0].strip()
        if owner not in known:
            raise ConfigError(f"--set {text}: there is no stage {owner!r}{closest(owner, known)}; there are "
                              f"{', '.join(known)}.")  # fmt: skip
        if owner in have:
            recipe = edit(recipe, text)
    return recipe


def check(recipe: Recipe) -> None:
    """Refuses settings that a stage does not have or that cannot work, before anything is played."""
    for stage in recipe.stages:
        method = CONFIGS[stage.method]
        known = {s.name for s in settings(method)}
        values = {k: v for k, v in stage.says.items() if k not in ("data", "init", "reward", "name")}
        for odd in (k for k in values if k not in known):
            raise ConfigError(f"{stage.place(odd)}: {stage.method} has no setting {odd!r}{closest(odd, known)}.")
        try:
            method(**values)
        except ConfigError as error:
            raise ConfigError(f"{stage.place()}: {error}") from None
