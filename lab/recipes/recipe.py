"""A recipe: a stack of stages, in one YAML file or a Python list, that remembers where every word stands.

    name: classic
    model: tiny                # tiny, a folder, or a Hub id
    adapter: {rank: 16, alpha: 32}
    stages:
      - sft: {data: "tiny:demonstrations?n=2000", lr: 3e-3}
      - reward: {data: pairs.jsonl}
      - ppo: {data: "tiny:prompts", kl: 0.25}

Here is what a recipe looks like. What its words mean is in `lab.recipes.plan`; `lab.recipes.stack` plays it.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from lab.config import Adapter, ConfigError

SHIPPED = Path(__file__).parent
"""The recipes that come with the lab."""


class RecipeError(ConfigError):
    """A recipe that cannot be played: one sentence a line for each thing that is wrong, with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Stage:
    """One stage as it is written.

    says   : the method's settings, and data, init, reward, name
    places : key -> where it stands ("classic.yaml, line 7"); "" is the stage itself
    """

    method: str
    says: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def place(self, key: str = "") -> str:
        """Where a word of this stage stands."""
        return self.places.get(key) or self.places.get("", f"stage {self.method}")


@dataclass(frozen=True)
class Recipe:
    """Stages, and what all of them stand on.

    model, bits, double_quant : as `SharedBase.load` takes them; the model `tiny` is the tiny world's
    adapter : of every new role
    seed    : of every stage that names none
    probes  : user turns asked at intervals; empty: the world's own, or the first prompts of the data
    about   : one line for people
    folder  : where relative paths begin
    """

    stages: Sequence[Stage]
    name: str = "recipe"
    about: str = ""
    model: str = "tiny"
    bits: int = 4
    double_quant: bool = False
    adapter: Adapter | Mapping[str, Any] = field(default_factory=Adapter)
    seed: int = 0
    probes: Sequence[str] = ()
    folder: Path = Path()
    places: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def place(self, key: str = "") -> str:
        """Where a word beside the stages stands."""
        return self.places.get(key) or self.places.get("", "the recipe")


KEYS = tuple(f.name for f in fields(Recipe) if f.name not in ("folder", "places"))
"""What may stand at the margin of a recipe."""


def shipped() -> dict[str, Path]:
    """Name -> file of the recipes that come with the lab."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def read_recipe(source: str | Path) -> Recipe:
    """The recipe in a file, or a shipped one by its name. Raises RecipeError."""
    path = Path(source).expanduser()
    if not path.is_file():
        if str(source) not in shipped():
            known = ", ".join(shipped())
            raise RecipeError([f"There is no recipe {str(source)!r}: neither a file nor one of {known}."])
        path = shipped()[str(source)]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"{path} cannot be read: {error}."]) from None
    return parse(text, path.name, path.absolute().parent)


def parse(text: str, file: str = "recipe.yaml", folder: Path = Path()) -> Recipe:
    """The recipe in a text; `file` is what its places are called. Raises RecipeError with everything that is wrong."""
    reader = _Reader(file)
    recipe = reader.recipe(text)
    if reader.problems or recipe is None:
        raise RecipeError(reader.problems)
    return replace(recipe, folder=folder)


def names(stages: Iterable[Stage]) -> list[str]:
    """What each stage is called: its own name, else its method, else method-2, method-3, …"""
    found: list[str] = []
    for stage in stages:
        numbered = (f"{stage.method}-{i}" if i > 1 else stage.method for i in itertools.count(1))
        found.append(str(stage.says.get("name") or next(n for n in numbered if n not in found)))
    return found


def edit(recipe: Recipe, text: str) -> Recipe:
    """The recipe with one word changed: `stage.setting=value`, `adapter.rank=4` or `seed=3`. Raises RecipeError."""
    path, equals, value = text.partition("=")
    owner, _, key = path.strip().replace("-", "_").rpartition(".")
    owner = path.strip()[: len(owner)]  # names of stages keep their dashes
    place, called = f"--set {text}", names(recipe.stages)
    if not equals or not key:
        raise RecipeError([f"{place}: an edit is stage.setting=value, or setting=value for the whole recipe."])
    new = _plain_text(value)
    if owner == "adapter":
        adapter = {f.name: getattr(recipe.adapter, f.name) for f in fields(Adapter)} if isinstance(
            recipe.adapter, Adapter) else recipe.adapter  # fmt: skip
        return replace(recipe, adapter={**adapter, key: new}, places={**recipe.places, f"adapter.{key}": place})
    if not owner:
        if key not in KEYS or key in ("stages", "adapter", "probes"):
            known = ", ".join(k for k in KEYS if k not in ("stages", "adapter", "probes"))
            raise RecipeError([f"{place}: {key!r} cannot be set for a whole recipe; {known} can."])
        return replace(recipe, **{key: new}, places={**recipe.places, key: place})
    if owner not in called:
        raise RecipeError([f"{place}: there is no stage {owner!r}{closest(owner, called)}; there are "
                           f"{', '.join(called)}."])  # fmt: skip
    at = called.index(owner)
    old = recipe.stages[at]
    stage = replace(old, says={**old.says, key: new}, places={**old.places, key: place})
    return replace(recipe, stages=(*recipe.stages[:at], stage, *recipe.stages[at + 1 :]))


def closest(word: str, known: Iterable[str]) -> str:
    """A question in brackets after a word that looks like a known one, else nothing."""
    near = difflib.get_close_matches(str(word), list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


# --- YAML ------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of its version 1.2: `3e-3` is a number, and `no` and `12:30` are words."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own name, filled below


_TAG = "tag:yaml.org,2002:"
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_pattern})$"), list(_first))

_READ = {_TAG + "null": lambda text: None, _TAG + "bool": lambda text: text.lower() == "true", _TAG + "int": int,
         _TAG + "float": float}  # fmt: skip


def _plain_text(text: str) -> Any:
    """One value as YAML reads it; what is no YAML stands for itself."""
    try:
        node = yaml.compose(text, _Loader)
    except yaml.YAMLError:
        return text
    if isinstance(node, yaml.SequenceNode):
        return [_scalar(item) for item in node.value if isinstance(item, yaml.ScalarNode)]
    return _scalar(node) if isinstance(node, yaml.ScalarNode) else text or None


def _scalar(node: yaml.ScalarNode) -> Any:
    return _READ.get(node.tag, str)(node.value)


class _Reader:
    """One pass over a file's nodes that gathers what is wrong."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[str] = []

    def recipe(self, text: str) -> Recipe | None:
        try:
            node = yaml.compose(text, _Loader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            asks = str(error.problem).endswith("got '?'")
            why = f"{error.problem}{' (a text with a question mark stands in quotes there)' if asks else ''}"
            self.problems.append(f"{self.file}, line {line}: this is no YAML: {why}.")
            return None
        except yaml.YAMLError as error:
            self.problems.append(f"{self.file}: this is no YAML: {str(error).splitlines()[0]}.")
            return None
        if not isinstance(node, yaml.MappingNode):
            self.problems.append(f"{self.file}: a recipe has keys ({', '.join(KEYS)}); this is none.")
            return None
        says: dict[str, Any] = {"name": Path(self.file).stem}
        places = {"": self.file}
        stages: tuple[Stage, ...] = ()
        for key, (at, value) in self.pairs(node).items():
            places[key] = at
            if key not in KEYS:
                self.problems.append(f"{at}: a recipe has no {key!r}{closest(key, KEYS)}; it has {', '.join(KEYS)}.")
            elif key == "stages":
                stages = self.stages(at, value)
            elif key == "adapter" and isinstance(value, yaml.MappingNode):
                own = self.pairs(value)
                says[key] = {k: self.value(f"adapter.{k}", v) for k, (_, v) in own.items()}
                places |= {f"adapter.{k}": where for k, (where, _) in own.items()}
            else:
                says[key] = self.value(key, value)
        if "stages" not in places:
            self.problems.append(f"{self.file}: a recipe needs stages; give a list of them.")
        return Recipe(stages, **says, places=places)

    def stages(self, at: str, node: yaml.Node) -> tuple[Stage, ...]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            self.problems.append(f"{at}: stages is a list with one “- method: {{…}}” for each stage.")
            return ()
        found = [self.stage(item) for item in node.value]
        return tuple(stage for stage in found if stage is not None)

    def stage(self, node: yaml.Node) -> Stage | None:
        at = self.place(node)
        if isinstance(node, yaml.ScalarNode):
            return Stage(node.value, {}, {"": at})
        if not isinstance(node, yaml.MappingNode):
            self.problems.append(f"{at}: a stage is “method: {{…}}”.")
            return None
        pairs = self.pairs(node)
        if len(pairs) != 1:
            first = next(iter(pairs), "")
            self.problems.append(
                f"{at}: a stage has one method, this one has {' and '.join(pairs) or 'none'}; what belongs to "
                f"{first or 'a method'} stands inside it, and another method begins a stage of its own."
            )
            return None
        [(method, (_, inside))] = pairs.items()
        if isinstance(inside, yaml.ScalarNode) and _scalar(inside) is None:
            return Stage(method, {}, {"": at})
        if not isinstance(inside, yaml.MappingNode):
            self.problems.append(f"{at}: {method} has settings, “{method}: {{lr: 1e-3, …}}”, and no value of its own.")
            return None
        own = self.pairs(inside)
        places = {"": at} | {key: where for key, (where, _) in own.items()}
        return Stage(method, {key: self.value(key, value) for key, (_, value) in own.items()}, places)

    def pairs(self, node: yaml.MappingNode) -> dict[str, tuple[str, yaml.Node]]:
        """key -> (its place, its value); a key that stands twice is wrong."""
        found: dict[str, tuple[str, yaml.Node]] = {}
        for key, value in node.value:
            at = self.place(key)
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(f"{at}: a key is a word.")
            elif key.value in found:
                self.problems.append(f"{at}: {key.value} stands twice, first on {found[key.value][0].split(', ')[-1]}.")
            else:
                found[key.value] = (at, value)
        return found

    def value(self, key: str, node: yaml.Node) -> Any:
        """A text, a number, true, false or null, or a list of those."""
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
            return [_scalar(item) for item in node.value]
        self.problems.append(f"{self.place(node)}: {key} is one value or a list of values.")
        return None

    def place(self, node: yaml.Node) -> str:
        return f"{self.file}, line {node.start_mark.line + 1}"
