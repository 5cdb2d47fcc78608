"""What a stack has on disk: the recipe that began there, and which of its stages have begun and finished.

<root>/recipe.json       the recipe as it was understood, its digest, and stage -> run
<root>/<stage>/          the run of a stage
<root>/<stage>.jsonl     what a compare stage gave; there as a whole or not at all
"""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from lab.disk import pretty, write_atomic
from lab.recipes.plan import COMPARE, Plan, Planned
from lab.recipes.recipe import RecipeError
from lab.records import digest
from lab.runs import Run

STATE = "recipe.json"


class Book:
    """The folder of a stack, read against a plan."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root, self.plan = root, plan

    def run(self, stage: Planned) -> Run:
        """The run of a stage, which may not have begun."""
        return Run(self.root / stage.name)

    def pairs(self, name: str) -> Path:
        """Where the pairs of a compare stage are or would be."""
        return self.root / f"{name}.jsonl"

    def begun(self, name: str) -> bool:
        """Whether a stage has left anything here."""
        return (self.root / name / "config.json").is_file() or self.pairs(name).is_file()

    def finished(self, stage: Planned) -> bool:
        """Whether nothing is left to do for a stage."""
        if stage.method == COMPARE:
            return self.pairs(stage.name).is_file()
        return self.begun(stage.name) and self.run(stage).status().state == "finished"

    def runs(self) -> dict[str, str]:
        """stage -> run, of the stages that have begun."""
        return {s.name: s.name for s in self.plan.stages if s.method != COMPARE and self.begun(s.name)}

    def write(self) -> None:
        """Writes the plan down, with what has begun."""
        recipe = {"base": self.plan.base(), "stages": [stage.row() for stage in self.plan.stages]}
        known = {"name": self.plan.ground.name, "digest": digest(recipe), "runs": self.runs(), "recipe": recipe}
        write_atomic(self.root / STATE, pretty(known))

    def check(self) -> None:
        """Refuses a folder of other runs, and a recipe that has changed in what has begun. Raises RecipeError."""
        elsewhere = f"choose another folder than {self.root}"
        old = self._recipe(elsewhere)
        mine = {row["name"] for row in old["stages"]}
        taken = [s.name for s in self.plan.stages if self.begun(s.name) and s.name not in mine]
        if taken:
            raise RecipeError([f"{self.root} holds a run {taken[0]} that this recipe did not make; {elsewhere}."])
        begun = [row for row in old["stages"] if self.begun(row["name"])]
        change = _first_change(old["base"], begun, self.plan) if begun else None
        if change:
            raise RecipeError([f"{change.place}: {change.what} was {change.before} when {change.whose} began, and now "
                               f"it is {change.now}; take that back, or {elsewhere}."])  # fmt: skip

    def _recipe(self, elsewhere: str) -> dict[str, Any]:
        try:
            return json.loads((self.root / STATE).read_text(encoding="utf-8"))["recipe"]
        except FileNotFoundError:
            return {"base": {}, "stages": []}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecipeError([f"{self.root / STATE} cannot be read ({error}); {elsewhere}."]) from None


class Change(NamedTuple):
    """One difference between a recipe and what began."""

    place: str
    what: str
    before: str
    whose: str
    now: str


def _first_change(base: dict[str, Any], begun: list[dict[str, Any]], plan: Plan) -> Change | None:
    """The first difference from the stages that have begun, which are the first of a stack."""
    for key, value in plan.base().items():
        if base.get(key) != value:
            return Change("the recipe", key, json.dumps(base.get(key)), "the stack", json.dumps(value))
    for number, (old, stage) in enumerate(zip_longest(begun, plan.stages[: len(begun)]), 1):
        if stage is None or old["name"] != stage.name:
            now, place = (stage.name, stage.stage.place()) if stage else ("none", "the recipe")
            return Change(place, f"stage {number}", old["name"], "the stack", now)
        new = stage.row()
        for key in old | new:
            if old.get(key) != new.get(key):
                return Change(stage.stage.place(key), key, json.dumps(old.get(key)), f"stage {stage.name}",
                              json.dumps(new.get(key)))  # fmt: skip
    return None
