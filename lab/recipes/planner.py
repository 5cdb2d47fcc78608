"""Reads a recipe's meaning out of its words, or says everything that is wrong with it before anything runs.

Local data are opened, reward programs are made, and a stage may only ask for what an earlier one gives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lab import earning, launch, tiny
from lab.base import RAW
from lab.columns import DataError, Kind
from lab.config import CONFIGS, Adapter, ConfigError, settings
from lab.feedback.verifiers import VERIFIERS, VerifierError
from lab.making import rows_of
from lab.recipes.plan import COMPARE, CompareConfig, Ground, Plan, Planned, trains_policy, trains_reward
from lab.recipes.recipe import Recipe, RecipeError, Stage, closest, names
from lab.runs import RunError
from lab.tiny.sources import PREFIX

RESERVED = (RAW, "adapter")
"""Names no stage may have: the raw base, and what `--set adapter.rank=4` means."""


def plan_of(recipe: Recipe | Sequence[Stage]) -> Plan:
    """What a recipe means. Raises RecipeError with everything that is wrong, one line each, each with its place."""
    return _Planner(recipe if isinstance(recipe, Recipe) else Recipe(tuple(recipe))).plan()


class _Planner:
    """One pass over a recipe that gathers what is wrong; `done` are the stages understood so far."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.problems: list[str] = []
        self.done: list[Planned] = []
        self.names = names(recipe.stages)
        self.called: list[str] = []
        self.doubtful = False  # a stage was not understood, so what is missing after it may be its doing

    def plan(self) -> Plan:
        recipe = self.recipe
        says = {s.name: getattr(recipe, s.name) for s in settings(Ground)}
        ground = self.made(Ground, says, recipe, "a recipe") or Ground()
        given = recipe.adapter if isinstance(recipe.adapter, Mapping) else asdict(recipe.adapter)
        adapter = self.made(Adapter, given, recipe, "an adapter", prefix="adapter.") or Adapter()
        self.ground = ground
        self.world = "tiny" if ground.model in ("tiny", str(tiny.CHECKPOINT)) else ""
        probes = recipe.probes
        if isinstance(probes, str) or not all(isinstance(p, str) for p in probes or ()):
            self.wrong(recipe.place("probes"), "probes is a list of prompts.")
            probes = ()
        probes = tuple(probes or (tiny.PROBES if self.world else ()))
        setup = launch.Setup(self.model(), ground.bits, ground.double_quant, adapter, self.world, probes=probes)
        if not recipe.stages:
            self.wrong(recipe.place(), "a recipe needs stages; give a list of them.")
        for name, stage in zip(self.names, recipe.stages, strict=True):
            planned = self.stage(name, stage)
            self.doubtful |= planned is None
            self.done += [planned] if planned else []
        if self.problems:
            raise RecipeError(self.problems)
        return Plan(ground, setup, tuple(self.done))

    # --- one stage -----------------------------------------------------------------------------------------------

    def stage(self, name: str, stage: Stage) -> Planned | None:
        method, before = stage.method, len(self.problems)
        if method != COMPARE and (method not in CONFIGS or method not in launch.KINDS):
            known = [COMPARE, *(m for m in CONFIGS if m in launch.KINDS)]
            self.wrong(stage.place(), f"there is no method {method!r}{closest(method, known)}; there are "
                                      f"{', '.join(known)}.")  # fmt: skip
            return None
        self.name(name, stage)
        cls = CompareConfig if method == COMPARE else CONFIGS[method]
        earns = method != COMPARE and launch.KINDS[method] == "prompt"
        beside = ("data", "init", "name", *(("reward", "rewards") if earns else ()))
        says = {key: value for key, value in stage.says.items() if key not in beside}
        says.setdefault("seed", self.ground.seed)
        config = self.made(cls, says, stage, method, beside=beside)
        if config is None:
            return None
        if earns and not launch.earns(method, config):
            self.wrong(stage.place("judge"), "a stage of a recipe has nobody to ask; give it rewards.")
        planned = Planned(name, method, config, stage, self.start(stage))
        if method == COMPARE and not self.world:
            self.wrong(stage.place(), "the annotators judge answers of the tiny world alone; give the pairs as data.")
        data, found = self.data(planned)
        rewards = self.rewards(stage, found) if earns else ()
        rows = self.compared(data, planned.kind) if found is None else len(found)
        return replace(planned, data=data, rewards=rewards, rows=rows) if len(self.problems) == before else None

    def name(self, name: str, stage: Stage) -> None:
        own = stage.says.get("name")
        if own is not None and (not isinstance(own, str) or not re.fullmatch(r"\w[\w.-]*", own) or own in RESERVED):
            self.wrong(stage.place("name"), f"{own!r} cannot be a stage's name; use letters, digits, '-', '_' and '.', "
                                            f"and not {' or '.join(RESERVED)}.")  # fmt: skip
        if launch.role_name(name) in self.called:
            self.wrong(stage.place("name"), f"an earlier stage is called {name} too; name them apart.")
        self.called.append(launch.role_name(name))

    def start(self, stage: Stage) -> str:
        """Whose adapter a stage starts from."""
        policies = [p.name for p in self.done if trains_policy(p.method)]
        init = stage.says.get("init")
        if init is None:
            if stage.method == COMPARE and not policies and not self.doubtful:
                self.wrong(stage.place(), "no stage before this one trains a policy whose answers could be compared; "
                                          f"put it after one, or say init: {RAW} for the raw base.")  # fmt: skip
            return policies[-1] if policies else RAW
        if init == RAW or init in policies:
            return str(init)
        if init in self.names:
            if not self.doubtful:
                other = self.recipe.stages[self.names.index(init)]
                why = "trains no policy" if not trains_policy(other.method) else "comes no earlier"
                self.wrong(stage.place("init"), f"init is {init}, a stage that {why}; policies so far: "
                                                f"{', '.join(policies) or 'none'}.")  # fmt: skip
            return RAW
        folder = self.path(str(init))
        if not (folder / "adapter_config.json").is_file():
            self.wrong(stage.place("init"), f"init is {init!r}, which is neither an earlier stage nor a folder with an "
                                            f"adapter; policies so far: {', '.join(policies) or 'none'}.")  # fmt: skip
        return str(folder)

    def data(self, planned: Planned) -> tuple[str, Sequence[Any] | None]:
        """What a stage reads, and the records where they can be read now."""
        stage, data = planned.stage, planned.stage.says.get("data")
        compared = [p.name for p in self.done if p.method == COMPARE]
        fits = planned.kind in ("preference", "rating")
        if data is None:
            if fits and compared:
                return compared[-1], None
            if not self.doubtful:
                more = ", or a compare stage before it" if fits else ""
                self.wrong(stage.place(), f"{planned.method} has no data; give a path, a Hub id or a source of the "
                                          f"tiny world{more}.")  # fmt: skip
            return "", None
        place = stage.place("data")
        if not isinstance(data, str):
            self.wrong(place, f"data is {data!r}; it must be text.")
        elif data in compared:
            if not fits:
                self.wrong(place, f"{data} gives pairs, but {planned.method} learns from {planned.kind!r} data.")
        elif data not in self.names or self.path(data).exists():
            return self.opened(data, planned)
        elif not self.doubtful:
            self.wrong(place, f"data is {data}, which is no compare stage before this one.")
        return str(data), None

    def opened(self, data: str, planned: Planned) -> tuple[str, Sequence[Any] | None]:
        """A path with its records, or the id of a data set on the Hub, which is opened only when the stage begins."""
        path = self.path(data)
        where = str(path) if path.exists() else data
        if not (path.exists() or path.suffix or data.startswith((PREFIX, ".", "/", "~"))):
            return where, None
        try:
            return where, rows_of("", where, planned.kind, planned.config.seed, self.world).records
        except DataError as error:
            self.wrong(planned.stage.place("data"), str(error))
            return where, None

    def compared(self, data: str, kind: Kind) -> int | None:
        """How many records a compare stage gives; a pair is two ratings."""
        pairs = next((p.config.n for p in self.done if p.name == data and p.method == COMPARE), None)
        return 2 * pairs if pairs and kind == "rating" else pairs

    # --- rewards -------------------------------------------------------------------------------------------------

    def rewards(self, stage: Stage, rows: Sequence[Any] | None) -> tuple[str, ...]:
        key = "rewards" if "rewards" in stage.says else "reward"
        given = stage.says.get(key)
        models = [p.name for p in self.done if trains_reward(p.method)]
        if given is None:
            if not models and not self.doubtful:
                self.wrong(stage.place(), f"{stage.method} has no reward; name a verifier ({', '.join(VERIFIERS)}), "
                                          "file.py:function, or put a reward stage before it.")  # fmt: skip
            return tuple(models[-1:])
        if "reward" in stage.says and "rewards" in stage.says:
            self.wrong(stage.place("reward"), "reward and rewards are the same; give one of them.")
        texts = given if isinstance(given, (list, tuple)) else [given]
        found = [self.reward(str(text), stage.place(key), models, rows) for text in texts]
        for what in {w for _, w in found if [w for _, w in found].count(w) > 1}:
            self.wrong(stage.place(key), f"the reward {what} stands twice; give it once, with a weight.")
        return tuple(what if weight == 1 else f"{weight:g}*{what}" for weight, what in found)

    def reward(
        self, text: str, place: str, models: Sequence[str], rows: Sequence[Any] | None
    ) -> tuple[float, str]:  # fmt: skip
        """(weight, what) of one reward; a path is made absolute."""
        try:
            weight, what = earning.parse(text)
            if what in models:
                return weight, what
            if what in self.names:
                if not self.doubtful:
                    self.wrong(place, f"{what} is no reward stage before this one; there are "
                                      f"{', '.join(models) or 'none'}.")  # fmt: skip
                return weight, what
            if ".py:" in what:
                what = str(self.path(what))
            if not earning.is_program(what):
                known = [*models, *VERIFIERS]
                self.wrong(place, f"there is no reward {what!r}{closest(what, known)}; it is an earlier reward stage "
                                  f"({', '.join(models) or 'none yet'}), a verifier ({', '.join(VERIFIERS)}), "
                                  "file.py:function or model:folder.")  # fmt: skip
            elif not what.startswith("model:"):
                earning.program(what)
                self.columns(what, place, rows or ())
        except (RunError, VerifierError) as error:
            self.wrong(place, str(error))
            return 1.0, text
        return weight, what

    def columns(self, what: str, place: str, rows: Sequence[Any]) -> None:
        """Refuses data without the columns that a verifier reads."""
        name, _, options = what.partition("?")
        for column in VERIFIERS[name].needs if name in VERIFIERS else ():
            lacking = sum(column not in row.columns for row in rows)
            if lacking and f"{column}=" not in options:
                self.wrong(place, f"{name} reads the column {column}, which {lacking} of {len(rows)} prompts lack.")

    # --- words ---------------------------------------------------------------------------------------------------

    def made(
        self,
        cls: type,
        says: Mapping[str, Any],
        source: Stage | Recipe,
        what: str,
        prefix: str = "",
        beside: Sequence[str] = (),
    ) -> Any:
        """The config out of what is said, or None after saying what is wrong."""
        known = {s.name: s for s in settings(cls)}
        odd = [key for key in says if key not in known]
        for key in odd:
            listed = (*beside, *known)
            self.wrong(source.place(prefix + key), f"{what} has no setting {key!r}{closest(key, listed)}; it has "
                                                   f"{', '.join(listed)}.")  # fmt: skip
        values = {key: _fitting(known[key].kind, value) for key, value in says.items() if key in known}
        try:
            made = cls(**values)
        except ConfigError as error:
            key = next((k for k in values if re.match(rf"{k}\b", str(error))), "")
            self.wrong(source.place(prefix + key) if key else source.place(), str(error))
            return None
        return None if odd else made

    def model(self) -> str:
        """The model as `SharedBase.load` takes it."""
        text = self.ground.model
        if text == "tiny":
            return str(tiny.CHECKPOINT)
        path = self.path(text)
        if path.exists():
            return str(path)
        if text.startswith((".", "/", "~")):
            self.wrong(self.recipe.place("model"), f"There is no folder {text}; give tiny, a folder or a Hub id.")
        return text

    def path(self, text: str) -> Path:
        """A path that begins where the recipe stands, or else where the reader does."""
        beside = (self.recipe.folder / Path(text).expanduser()).absolute()
        there = Path(str(beside).partition(".py:")[0] + ".py") if ".py:" in text else beside
        return beside if there.exists() else Path(text).expanduser().absolute()

    def wrong(self, place: str, sentence: str) -> None:
        self.problems.append(f"{place}: {sentence}")


def _fitting(kind: type, value: Any) -> Any:
    """3 where a fraction is wanted is 3.0, and 1e2 where a whole number is wanted is 100."""
    if isinstance(value, int) and not isinstance(value, bool) and kind is float:
        return float(value)
    return int(value) if isinstance(value, float) and kind is int and value.is_integer() else value
