"""Versions of constitutions on disk: `<root>/.constitutions/<name>/v1.yaml`, `v2.yaml`, …; none is ever overwritten.

A version appears whole or not at all: it is written under another name, waited for, and then given its own by a hard
link, which fails where the name is taken. Two who save at once get two versions.

    book = Versions("runs")
    book.save("mine", yaml_of(constitution))      # 1
    book.read("mine", 1)                          # the Constitution
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from lab.disk import sync
from lab.feedback.constitution.principles import Constitution, ConstitutionError, Principle, parse

FOLDER = ".constitutions"
SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
"""What a constitution can be called: small letters, digits and hyphens inside, up to 40 characters."""

LONGEST = 200_000
"""Characters of a version."""

DEFAULTS = {f.name: f.default for f in fields(Principle) if f.name in ("weight", "on", "critic")}
"""What need not be written."""


class Versions:
    """The constitutions under one root."""

    def __init__(self, root: Path | str) -> None:
        self.folder = Path(root) / FOLDER

    def all(self) -> dict[str, list[int]]:
        """Name → its versions, oldest first."""
        homes = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        found = {home.name: self.of(home.name) for home in homes if SLUG.fullmatch(home.name) and home.is_dir()}
        return {name: numbers for name, numbers in found.items() if numbers}

    def of(self, name: str) -> list[int]:
        """The versions of one constitution, oldest first; none where there is no such constitution."""
        home = self._home(name)
        names = [path.name for path in home.iterdir()] if home.is_dir() else []
        return sorted(int(m[1]) for n in names if (m := re.fullmatch(r"v([1-9]\d{0,5})\.yaml", n)))

    def text(self, name: str, version: int) -> str:
        """A version as it was written. Raises ConstitutionError where there is none."""
        path = self._home(name) / f"v{int(version)}.yaml"
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            there = ", ".join(f"v{n}" for n in self.of(name)) or "none yet"
            raise ConstitutionError(f"{name} has no version {int(version)}; there is {there}.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConstitutionError(f"v{int(version)} of {name} cannot be read: {error}.") from None

    def read(self, name: str, version: int) -> Constitution:
        """A version's principles, under its own name and number whatever the text says. Raises ConstitutionError."""
        return called(checked(self.text(name, version), f"{name} v{int(version)}"), name, version)

    def save(self, name: str, text: str) -> int:
        """Keeps a text as the next version, on the disk when this returns; its number.

        Raises ConstitutionError with all that is wrong with it, and writes nothing then.
        """
        home = self._home(name)
        checked(text, "this version")
        home.mkdir(parents=True, exist_ok=True)
        temporary = home / f".{uuid.uuid4().hex}.tmp"
        try:
            temporary.write_text(text, encoding="utf-8")
            sync(temporary)
            return self._publish(home, temporary, (self.of(name) or [0])[-1] + 1)
        finally:
            temporary.unlink(missing_ok=True)

    def _publish(self, home: Path, temporary: Path, number: int) -> int:
        while True:
            try:
                os.link(temporary, home / f"v{number}.yaml")
            except FileExistsError:
                number += 1
                continue
            sync(home)
            return number

    def _home(self, name: str) -> Path:
        if not SLUG.fullmatch(name):
            raise ConstitutionError(f"{name[:60]!r} is no name for a constitution; take small letters, digits and "
                                    "hyphens, such as our-room.")  # fmt: skip
        return self.folder / name


def checked(text: str, file: str) -> Constitution:
    """The constitution in a text that somebody typed. Raises ConstitutionError with its lines, however odd it is."""
    if len(text) > LONGEST:
        raise ConstitutionError(f"{file}: a constitution has up to {LONGEST:,} characters; this has {len(text):,}.")
    try:
        text.encode()
        return parse(text, file)
    except UnicodeEncodeError:
        raise ConstitutionError(f"{file}: it holds half of a character; type that place again.") from None
    except RecursionError:
        raise ConstitutionError(f"{file}: lists within lists, too deep to be principles.") from None


def called(found: Constitution, name: str, version: int) -> Constitution:
    """The same under a name and a number."""
    return Constitution(found.principles, name, str(version), found.about)


# --- as YAML ---------------------------------------------------------------------------------------------------------


def yaml_of(name: str, about: str, principles: list[dict[str, Any]]) -> str:
    """The text of a version; what has its default is left out, and so is what no principle has."""
    known = [f.name for f in fields(Principle)]
    rows = [{key: p[key] for key in known if key in p and (key not in DEFAULTS or p[key] != DEFAULTS[key])}
            for p in principles]  # fmt: skip
    head = {"name": name, **({"about": about} if about.strip() else {})}
    out = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=100) + "\nprinciples:\n"
    return out + "\n".join(_indented(row) for row in rows)


def _indented(row: dict[str, Any]) -> str:
    text = yaml.safe_dump([row], sort_keys=False, allow_unicode=True, width=100)
    return "".join(f"  {line}\n" for line in text.splitlines())


def places(text: str) -> list[int]:
    """The line on which each principle begins, from 1; none for a text that is no YAML."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return []
    keys = node.value if isinstance(node, yaml.MappingNode) else []
    lists = [v for k, v in keys if getattr(k, "value", "") == "principles" and isinstance(v, yaml.SequenceNode)]
    return [item.start_mark.line + 1 for item in lists[0].value] if lists else []


PARTS = ("text", "weight", "on", "critique", "revision", "critic")
"""What can change of a principle, in reading order."""


# --- what changed ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a principle: `same`, `changed`, `added` or `removed`, and before → after of each part that
    differs (the parts of an added one stand after nothing, those of a removed one before nothing)."""

    id: str
    what: str
    parts: tuple[tuple[str, str, str], ...] = ()


def changes(old: Constitution, new: Constitution) -> list[Change]:
    """What became of every principle: in the new order, then those that are gone."""
    before, after = {p.id: p for p in old.principles}, {p.id: p for p in new.principles}
    return [*(_change(before.get(id), p) for id, p in after.items()),
            *(_change(p, None) for id, p in before.items() if id not in after)]  # fmt: skip


def _change(old: Principle | None, new: Principle | None) -> Change:
    parts = tuple((key, a, b) for (key, a), (_, b) in zip(_words(old), _words(new), strict=True) if a != b)
    what = "added" if old is None else "removed" if new is None else "changed" if parts else "same"
    either = new or old
    return Change(either.id if either else "", what, parts)


def _words(p: Principle | None) -> Iterator[tuple[str, str]]:
    """The parts of a principle as words."""
    if p is None:
        yield from ((key, "") for key in PARTS)
        return
    said = {"weight": f"{p.weight:g}", "on": "on" if p.on else "off"}
    yield from ((key, said.get(key) or getattr(p, key)) for key in PARTS)
