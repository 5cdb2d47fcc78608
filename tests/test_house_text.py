"""What the README, the packaging and the prose promise, held to the tree."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from tests.house import BEGIN, END, README, ROOT, imports, python_files, settings_tables, tracked, tree_lines

TEXT = README.read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# --- README ----------------------------------------------------------------------------------------------------------


def test_the_tables_of_settings_are_up_to_date() -> None:
    drawn = TEXT.split(BEGIN, 1)[1].split(END, 1)[0].strip()
    assert drawn == settings_tables(), "make readme draws them again"


def test_every_file_has_its_line_in_the_tree_and_every_line_its_file() -> None:
    """An `__init__.py` of a room has none (its folder has), and the checkpoint's files stand under one line."""
    lines = tree_lines()
    files = {str(p) for p in tracked() if p.parts[0] in ("lab", "apps") and "checkpoint" not in p.parts
             and (p.name != "__init__.py" or p.parent == Path("lab"))}  # fmt: skip
    folders = {f"{parent}/" for f in files for parent in Path(f).parents if str(parent) != "."}
    listed = {line for line in lines if line.startswith(("lab/", "apps/"))} - {"lab/tiny/checkpoint/"}
    assert sorted(files - listed) == [], "these files want a line in the README's tree"
    assert sorted(listed - files - folders) == [], "these lines have no file"
    assert sorted(folders - listed) == [], "these folders want a line"
    assert all((ROOT / line).exists() for line in lines)
    assert [line for line, words in lines.items() if not words and line not in ("lab/", "apps/")] == []


def test_links_lead_somewhere() -> None:
    """Relative links of every document, pictures too."""
    dead = []
    for name in (p for p in tracked() if p.suffix == ".md"):
        for target in re.findall(r"\]\(([^)#\s]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:", "mailto:")) and not (ROOT / name.parent / target).exists():
                dead.append(f"{name}: {target}")
    assert dead == []


def commands(text: str) -> list[str]:
    """The `lab …` lines of the fenced shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line.split("#")[0].strip() for b in blocks for line in b.splitlines() if line.startswith("lab ")]


@pytest.mark.parametrize("line", commands(TEXT))
def test_the_commands_of_the_readme_are_commands(line: str) -> None:
    """Parsed as the terminal would, without being carried out."""
    from lab.cli import main

    name, *arguments = shlex.split(line)[1:]
    command = main.commands[name]
    context = command.make_context(name, arguments)
    assert context.params or not command.params


def test_there_are_commands_to_look_at() -> None:
    assert len(commands(TEXT)) >= 8


def test_the_make_targets_of_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"`make ([a-z]+)", (ROOT / name).read_text()))
        assert named <= targets, name
    phony = set(re.search(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    assert targets <= phony
    shown = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True,
                           check=True).stdout  # fmt: skip
    assert all(f"make {t} " in shown for t in targets)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("Updated(") for line in lines) == 5, "about 95 % of 160 rows, 32 at a time"
    assert [line.split(" | ")[0] for line in lines[-6:]] == ["base"] * 3 + ["sft"] * 3


# --- prose -----------------------------------------------------------------------------------------------------------

FORBIDDEN = (
    r"\b(TODO|FIXME|XXX|HACK)\b",
    r"(?<![\w.])/(work|tmp|root|home)/",  # paths of one machine
    r"(py" + r"pi\.org|files\.python" + r"hosted|registry\.np" + r"mjs)",
    r"\b[iI]ssues? #?\d+|\b(PR|pull request) #?\d+|\w+#\d{2,}\b",
)
BINARY = {".safetensors", ".png", ".ico", ".woff2"}
MADE = {"constraints.txt", "LICENSE", "tests/test_house_text.py", "lab/tiny/checkpoint/tokenizer.json"}


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_words_that_have_no_place_here(pattern: str) -> None:
    found = []
    for path in tracked():
        if path.suffix in BINARY or str(path) in MADE:
            continue
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{path}:{number}: {line.strip()[:80]}")
    assert found == []


AMERICAN = r"\b(colors?|center(ed|ing)?|behavior|(normal|standard|quant)ize[ds]?|label(ed|ing)|favorite)\b"


def test_prose_is_british() -> None:
    """Words in prose; names of code, of other libraries and of CSS stay as they are."""
    found = []
    for path in tracked():
        if path.suffix == ".md":
            prose = re.sub(r"`[^`]*`|```.*?```", "", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)
            found += [f"{path}: {m[0]}" for m in re.finditer(AMERICAN, prose)]
    assert found == []


# --- packaging -------------------------------------------------------------------------------------------------------


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\s\[<>=!~;]", r)[0].lower().replace("_", "-") for r in requirements}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    """The libraries of lab/ and apps/ against `dependencies` and the extras people install."""
    where = metadata.packages_distributions()
    used = {i.target.split(".")[0] for p in python_files("lab", "apps") for i in imports(p)}
    used -= {*sys.stdlib_module_names, "lab", "apps"}
    distributions = {where[name][0].lower().replace("_", "-") for name in used}
    extras = PROJECT["optional-dependencies"]
    declared = names([*PROJECT["dependencies"], *extras["studio"], *extras["notebook"], *extras["data"]])
    # they come with these, at the version these need
    brought = {"tokenizers": "transformers", "ipython": "ipywidgets", "fastapi": "gradio", "anyio": "gradio"}
    assert {d for d in distributions if brought.get(d, d) not in declared} == set()
    programs = {"jupyterlab", "anywidget"}  # used from outside, and by plotly's widgets
    assert declared - distributions - programs == set()


def constraints() -> dict[str, str]:
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    assert [x for x in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9A-Za-z.!]+", x)] == [], "plain pins alone"
    return {n.lower().replace("_", "-"): v for n, v in (line.split("==") for line in lines)}


def test_every_requirement_is_pinned_inside_its_range() -> None:
    from packaging.requirements import Requirement

    pins = constraints()
    for text in [*PROJECT["dependencies"], *(r for e in PROJECT["optional-dependencies"].values() for r in e)]:
        wanted = Requirement(text)
        if wanted.name == "rlhf-lab":
            continue
        pin = pins.get(wanted.name.lower().replace("_", "-"))
        assert pin is not None, f"{wanted.name} has no line in constraints.txt"
        assert wanted.specifier.contains(pin), f"{wanted.name} is pinned to {pin}, outside {wanted.specifier}"


def test_environment_yml_is_pyproject_and_the_constraints() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    python, pip, pips = environment["dependencies"]
    assert python == "python" + PROJECT["requires-python"]
    assert pip == "pip"
    constraint, editable = pips["pip"]
    assert constraint == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[(.*)\]", editable)[1].split(",")  # type: ignore[index]
    assert set(extras) == set(PROJECT["optional-dependencies"]) - {"dev"}


def test_ci_is_a_script_that_runs_check_and_test() -> None:
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    assert text.index("\nmake check\n") < text.index("\nmake test ")


def test_the_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert len(text.splitlines()) > 200
    assert PROJECT["license"] == "Apache-2.0"


def test_the_data_files_of_the_package_are_named() -> None:
    """What is no Python in lab/ and apps/ is listed in `package-data`, so that an installed lab has it too."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    covered = {p.relative_to(ROOT) for package, patterns in listed.items() for pattern in patterns
               for p in ROOT.joinpath(*package.split(".")).glob(pattern)}  # fmt: skip
    data = {p for p in tracked() if p.parts[0] in ("lab", "apps") and p.suffix != ".py"}
    assert data - covered == set()


def test_the_version_has_its_entry_in_the_changelog() -> None:
    assert f"\n## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()
