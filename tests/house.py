"""What the house tests read: the tree, its imports, the README's parts. `make readme` draws the settings again."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- settings: drawn by `make readme` -->", "<!-- end of settings -->"


@cache
def tracked() -> tuple[Path, ...]:
    """Every file that is in git or would be added, relative to the root; without git, every file of the known rooms."""
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
                          check=False)  # fmt: skip
    if done.returncode == 0:
        return tuple(sorted(p for line in done.stdout.splitlines() if (ROOT / (p := Path(line))).is_file()))
    rooms = ("lab", "apps", "tests", "benchmarks", "notebooks", "docs", ".ci")
    inside = [p for room in rooms for p in (ROOT / room).rglob("*") if "__pycache__" not in p.parts]
    return tuple(sorted(p.relative_to(ROOT) for p in [*ROOT.glob("*"), *inside] if p.is_file()))


def python_files(*rooms: str) -> list[Path]:
    """The Python files of some rooms, relative to the root."""
    return [p for p in tracked() if p.suffix == ".py" and p.parts[0] in rooms]


def module_of(path: Path) -> str:
    """lab/train/ppo.py -> lab.train.ppo; lab/tiny/__init__.py -> lab.tiny."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file, every node with its `parent`."""
    root = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in ast.walk(root):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    return root


def above(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes around a node, from the inside out."""
    while (node := getattr(node, "parent", None)) is not None:  # type: ignore[assignment]
        yield node


class Import(NamedTuple):
    """One name brought in. `lazy`: inside a function. `typing`: only for type checkers."""

    target: str
    lazy: bool
    typing: bool
    line: int


def imports(path: Path) -> Iterator[Import]:
    """What a file imports; `from lab import base` counts as lab.base where that is a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; name the file in full"
            targets = [_file(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        around = list(above(node))
        lazy = any(isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in around)
        typing = any(isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test) for n in around)
        yield from (Import(target, lazy, typing, node.lineno) for target in targets)


def _file(module: str, name: str) -> str:
    """`from lab.train import ppo` means the file lab.train.ppo; `from lab.base import RAW` the file lab.base."""
    path = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file() else module


def tree_lines() -> dict[str, str]:
    """path -> its line, from the README's block that begins with `lab/`; folders end with a slash."""
    block = README.read_text(encoding="utf-8").split("```text\nlab/", 1)[1].split("```", 1)[0]
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in ("lab/" + block).splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, words = line.strip().partition(" ")
        folders[depth:] = [name]
        found["".join(folders)] = words.strip()
    return found


def settings_tables() -> str:
    """One table for each method, from its config class: setting, default, unit, meaning; • marks the live ones."""
    from lab.config import CONFIGS, Adapter, settings

    parts = []
    own = {f"`lab {name}`": cls for name, cls in CONFIGS.items() if cls.__module__.startswith("lab.")}
    for command, cls in (own | {"every method's new adapter": Adapter}).items():
        doc = (cls.__doc__ or "").strip()
        rows = [f"**{command}** · {doc}", "", "| setting | default | meaning |", "|---|---|---|"]
        for s in settings(cls):
            words = s.help + (f" [{s.unit}]" if s.unit else "") + (f" ({', '.join(s.choices)})" if s.choices else "")
            rows.append(f"| `{s.name}`{' •' if s.live else ''} | {_shown(s.default)} | {words.replace('|', '∣')} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _shown(value: object) -> str:
    if value is None:
        return "the method's own"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    """Writes the tables of settings between their two marks in the README."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    README.write_text(f"{before}{BEGIN}\n\n{settings_tables()}\n\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
