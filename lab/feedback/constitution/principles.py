"""The words of a constitution, read from YAML with the line of everything that is wrong.

name: mine
version: 1
principles:
  - id: harm
    text: Do not help anybody to hurt people.        # for people, and for judges of two answers
    weight: 3                                        # how often it is drawn, beside the others (default: 1)
    critique: Is there anything harmful in it?       # what a model is asked about its answer
    revision: Write it again without the harm.       # what it is asked to do then
    on: true                                         # false leaves it out (default: true)
    critic: harm                                     # the program that checks it, where there is one
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lab.records import digest

PRESETS = Path(__file__).parent / "presets"
"""The constitutions that come with the lab."""


class ConstitutionError(ValueError):
    """A constitution that cannot be used: one sentence a line for each thing that is wrong, with its place."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Principle:
    """One principle.

    text     : what is asked of an answer, for people and for judges of two answers
    weight   : ≥ 0; it is drawn with probability weight / Σ weights
    critique : what a model is asked about an answer
    revision : what it is asked to do then
    on       : whether it counts
    critic   : the name of the program that checks it; empty where only a model can
    """

    id: str
    text: str
    critique: str
    revision: str
    weight: float = 1.0
    on: bool = True
    critic: str = ""


@dataclass(frozen=True)
class Constitution:
    """Principles in order. Raises ConstitutionError for two of one id, a weight that is no number ≥ 0, or none on."""

    principles: tuple[Principle, ...]
    name: str = "constitution"
    version: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        twice = [id for id, n in Counter(p.id for p in self.principles).items() if n > 1]
        odd = [p.id for p in self.principles if not (math.isfinite(p.weight) and p.weight >= 0)]
        if twice:
            raise ConstitutionError(f"{self.name}: the id {twice[0]} stands twice; give each principle its own.")
        if odd:
            raise ConstitutionError(f"{self.name}: the weight of {odd[0]} must be a finite number from 0 on.")
        if not self.active:
            raise ConstitutionError(f"{self.name}: no principle is on with a weight above 0; switch one on.")

    @property
    def active(self) -> tuple[Principle, ...]:
        """The principles that are on and have a weight above 0."""
        return tuple(p for p in self.principles if p.on and p.weight > 0)

    @property
    def digest(self) -> str:
        """16 hex digits of the principles as they stand: what a version is known by, whatever it is called."""
        return digest([asdict(p) for p in self.principles])

    def without(self, id: str) -> Constitution:
        """The same with one principle switched off. Raises ConstitutionError when it was the last."""
        return replace(self, principles=tuple(replace(p, on=p.on and p.id != id) for p in self.principles))

    def draw(self, n: int, *seed: int) -> tuple[Principle, ...]:
        """`n` principles that are on, drawn one after the other by weight from those not drawn yet; when all have
        been, it begins again. The same seed draws the same."""
        rng = np.random.default_rng(list(seed))
        drawn: list[Principle] = []
        left: list[Principle] = []
        while len(drawn) < n:
            left = left or list(self.active)
            edges = np.cumsum([p.weight for p in left])
            at = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
            drawn.append(left.pop(min(at, len(left) - 1)))
        return tuple(drawn)


def shipped() -> dict[str, Path]:
    """Name → file of the constitutions that come with the lab."""
    return {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}


def read_constitution(source: str | Path, presets: Mapping[str, Path] | None = None) -> Constitution:
    """The constitution in a file, or a known one by its name (default: those of `shipped`).

    Raises ConstitutionError with everything that is wrong, one sentence a line, each with its file and line.
    """
    known = shipped() if presets is None else presets
    path = Path(source).expanduser()
    if not path.is_file():
        if str(source) not in known:
            raise ConstitutionError(f"There is no constitution {str(source)!r}: neither a file nor one of "
                                    f"{', '.join(known)}.")  # fmt: skip
        path = known[str(source)]
    try:
        return parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ConstitutionError(f"{path} cannot be read: {error}.") from None


def parse(text: str, file: str = "principles.yaml") -> Constitution:
    """The constitution in a text; `file` is what its places are called. Raises ConstitutionError as above."""
    return _Reader(file).read(text)


KEYS = ("name", "version", "about", "principles")
"""What may stand at the margin."""
OF_A_PRINCIPLE = tuple(f.name for f in fields(Principle))
NEEDED = ("id", "text", "critique", "revision")
"""What every principle has, as text with words in it."""


class _Reader:
    """One pass over a file's nodes that gathers what is wrong."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[str] = []
        self.seen: dict[str, int] = {}

    def read(self, text: str) -> Constitution:
        says: dict[str, Any] = {}
        node = self.compose(text)
        if isinstance(node, yaml.MappingNode):
            says = self.document(node)
        elif not self.problems:
            self.problems.append(f"{self.file}, line 1: a constitution has keys ({', '.join(KEYS)}); this has none.")
        if self.problems:
            raise ConstitutionError(*self.problems)
        return Constitution(**says)

    def compose(self, text: str) -> yaml.Node | None:
        try:
            return yaml.compose(text, yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            self.problems.append(f"{self.file}, line {line}: this is no YAML: {error.problem}.")
        except yaml.YAMLError as error:
            self.problems.append(f"{self.file}, line 1: this is no YAML: {str(error).splitlines()[0]}.")
        return None

    def document(self, node: yaml.MappingNode) -> dict[str, Any]:
        says: dict[str, Any] = {"name": Path(self.file).stem}
        for key, value in self.pairs(node, KEYS, "a constitution"):
            if key == "principles":
                says[key] = self.principles(value)
            elif isinstance(value, yaml.ScalarNode) and value.value.strip():
                says[key] = value.value.strip()
            else:
                self.wrong(value, f"{key} must be text.")
        if "principles" not in says:
            self.problems.append(f"{self.file}, line 1: a constitution needs principles; give a list of them.")
        return says

    def principles(self, node: yaml.Node) -> tuple[Principle, ...]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            self.wrong(node, "principles must be a list with one “- id: …” for each principle.")
            return ()
        before = len(self.problems)
        found = [p for item in node.value if (p := self.principle(item)) is not None]
        if len(self.problems) == before and not any(p.on and p.weight > 0 for p in found):
            self.wrong(node, "no principle is on with a weight above 0; switch one on.")
        return tuple(found)

    def principle(self, node: yaml.Node) -> Principle | None:
        if not isinstance(node, yaml.MappingNode):
            self.wrong(node, f"a principle has keys ({', '.join(OF_A_PRINCIPLE)}); this one has none.")
            return None
        before, says = len(self.problems), {}
        for key, value in self.pairs(node, OF_A_PRINCIPLE, "a principle"):
            says[key] = self.value(key, value)
        for key in NEEDED:
            if key not in says:
                self.wrong(node, f"{says.get('id') or 'a principle'} has no {key}; every principle has one.")
        id = says.get("id")
        if id in self.seen:
            self.wrong(node, f"the id {id} stands twice, first on line {self.seen[id]}; give each principle its own.")
        elif id:
            self.seen[id] = node.start_mark.line + 1
        return Principle(**says) if len(self.problems) == before else None

    def value(self, key: str, node: yaml.Node) -> Any:
        """What one key of a principle says, checked."""
        said = yaml.safe_load(yaml.serialize(node)) if isinstance(node, yaml.ScalarNode) else None
        if key == "weight":
            if isinstance(said, (int, float)) and not isinstance(said, bool) and math.isfinite(said) and said >= 0:
                return float(said)
            self.wrong(node, f"weight is {_shown(node)}; it must be a finite number from 0 on.")
            return 0.0
        if key == "on":
            if not isinstance(said, bool):
                self.wrong(node, f"on is {_shown(node)}; it must be true or false.")
            return said
        if not isinstance(node, yaml.ScalarNode) or (not node.value.strip() and key in NEEDED):
            self.wrong(node, f"{key} is {'empty' if isinstance(node, yaml.ScalarNode) else _shown(node)}; it must be "
                             "text.")  # fmt: skip
        return " ".join(node.value.split()) if isinstance(node, yaml.ScalarNode) else ""

    def pairs(self, node: yaml.MappingNode, known: Sequence[str], what: str) -> list[tuple[str, yaml.Node]]:
        """The known keys with their values; another one, or one that stands twice, is wrong."""
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            if name not in known:
                self.wrong(key, f"{what} has no {name!r}; it has {', '.join(known)}.")
            elif name in found:
                self.wrong(key, f"{name} stands twice in {what}.")
            else:
                found[name] = value
        return list(found.items())

    def wrong(self, node: yaml.Node, sentence: str) -> None:
        self.problems.append(f"{self.file}, line {node.start_mark.line + 1}: {sentence}")


def _shown(node: yaml.Node) -> str:
    kinds = {yaml.SequenceNode: "a list", yaml.MappingNode: "several keys"}
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else kinds.get(type(node), "something else")
