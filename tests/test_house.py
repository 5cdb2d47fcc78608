"""The laws of the house that can be read from the code: floors, generators, errors, lightness, size."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.house import ROOT, above, imports, module_of, python_files, tree

FLOORS = (
    # 0: what was said, what happened, the settings, the arithmetic; files, threads and ports of the machine
    ("lab.records", "lab.events", "lab.config", "lab.objectives", "lab.disk", "lab.worker", "lab.machine",
     "lab.pace"),
    # 1: text and tokens, the base and its roles; a base that is a table
    ("lab.template", "lab.chat", "lab.columns", "lab.data", "lab.encode", "lab.rankings", "lab.steps",
     "lab.pack", "lab.attention", "lab.lowrank", "lab.roles", "lab.quantise", "lab.base", "lab.saving",
     "lab.tabular", "lab.memory"),
    # 2: what is asked of roles, who judges, what a run carries
    ("lab.decode", "lab.sample", "lab.score", "lab.probes", "lab.feedback", "lab.learner", "lab.state"),
    # 3: the stories
    ("lab.train",),
    # 4: runs on disk and in memory, the engine, measuring, the tiny world
    ("lab.evaluate", "lab.tiny", "lab.follow", "lab.runs", "lab.foreground", "lab.session", "lab.client",
     "lab.streams", "lab.engine", "lab.asking", "lab.earning", "lab.judges", "lab.launch", "lab.making",
     "lab.catalogue", "lab.form", "lab.queueing", "lab.presets", "lab.timing", "lab.again", "lab.tasks", "lab.desk",
     "lab.demo", "lab.recipes", "lab.cai"),
    # 5: the faces
    ("lab.reading", "lab.metrics", "lab.figures", "lab.charts", "lab.arena_figures", "lab.drafting", "lab.terminal",
     "lab.showcase",
     "lab.notebook", "lab.commands", "lab.fitting", "lab.measuring", "lab.jury", "lab.playbill",
     "lab.constitution_commands", "lab.constitution_tables", "lab.labelling", "lab.label_server",
     "lab.cli", "lab.__main__"),
    # 6: the Studio, a skin over the faces
    ("apps",),
)  # fmt: skip
"""Imports go down or stay on their floor; a name brought in for type checkers alone is no import."""

ALLOWED_UP = {("lab.cli", "apps.studio.__main__")}
"""`lab studio` serves the page."""

LAB = [p for p in python_files("lab") if p != Path("lab/__init__.py")]
HOUSE = LAB + python_files("apps")


def floor(module: str) -> int:
    """The floor of a module, by its longest listed beginning."""
    for level, names in enumerate(FLOORS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return level
    raise AssertionError(f"{module} stands on no floor; give it one in FLOORS")


def at(path: Path, node: ast.AST | int) -> str:
    return f"{path}:{node if isinstance(node, int) else getattr(node, 'lineno', 0)}"


def own(target: str) -> bool:
    return target.split(".")[0] in ("lab", "apps")


# --- floors ----------------------------------------------------------------------------------------------------------


def test_every_file_stands_on_a_floor_and_every_floor_has_its_files() -> None:
    modules = {module_of(p) for p in HOUSE}
    for module in modules - {"lab"}:
        floor(module)
    gone = [n for names in FLOORS for n in names if not any(m == n or m.startswith(n + ".") for m in modules)]
    assert gone == []


def test_imports_go_down() -> None:
    up = [f"{at(path, i.line)} imports {i.target}" for path in HOUSE for i in imports(path)
          if own(i.target) and not i.typing and floor(i.target) > floor(module_of(path))
          and (module_of(path), i.target) not in ALLOWED_UP]  # fmt: skip
    assert up == []


def test_no_story_imports_another() -> None:
    stories = [p for p in LAB if p.parts[:2] == ("lab", "train")]
    assert len(stories) >= 4
    sideways = [f"{at(path, i.line)} imports {i.target}" for path in stories for i in imports(path)
                if i.target.startswith("lab.train")]  # fmt: skip
    assert sideways == []


SHARED_BY_PANELS = {"app", "book", "components", "door", "front", "header", "heads", "jobs", "link", "parts", "people",
                    "runlist", "server", "shelf", "waiting", "__init__", "__main__"}  # fmt: skip


def test_no_panel_imports_another() -> None:
    panels = {p.stem for p in python_files("apps")} - SHARED_BY_PANELS
    sideways = [f"{at(path, i.line)} imports {i.target}" for path in python_files("apps") if path.stem in panels
                for i in imports(path) if i.target in {f"apps.studio.{p}" for p in panels}]  # fmt: skip
    assert sideways == []


def test_nothing_inside_uses_the_public_names() -> None:
    """`from lab import X` is for users; inside, a name comes from its own file."""
    facade = [at(path, i.line) for path in HOUSE for i in imports(path) if i.target == "lab"]
    assert facade == []


def test_no_import_goes_round_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in HOUSE:
        graph[module_of(path)] = {i.target for i in imports(path) if own(i.target) and not (i.lazy or i.typing)}
    TopologicalSorter(graph).prepare()


def test_the_process_that_serves_the_page_never_owns_the_model() -> None:
    """Everything of the lab that the page imports, at once or in a function, does without the libraries of models."""
    every = [i for path in python_files("apps") for i in imports(path) if not i.typing]
    used = {i.target for i in every if i.target.startswith("lab.")}
    assert len(used) > 5
    owners = {"torch", "transformers", "peft", "bitsandbytes"}
    assert loaded_after("\n".join(f"import {target}" for target in sorted(used))) & owners == set()


# --- lightness -------------------------------------------------------------------------------------------------------

LIGHT = ("lab", "lab.records", "lab.events", "lab.config", "lab.columns", "lab.data", "lab.runs", "lab.follow",
         "lab.session", "lab.engine", "lab.client", "lab.reading", "lab.catalogue", "lab.metrics", "lab.figures",
         "lab.terminal", "lab.showcase", "lab.cli", "lab.tiny", "lab.notebook", "apps.studio.link",
         "apps.studio.shelf")  # fmt: skip
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "gradio", "pandas")


def loaded_after(code: str) -> set[str]:
    """The top-level packages a fresh interpreter has loaded after running some code."""
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print(*sorted(sys.modules))"], cwd=ROOT,
                          capture_output=True, text=True, check=True)  # fmt: skip
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_import_lab_loads_next_to_nothing() -> None:
    loaded = loaded_after("import lab; dir(lab)")
    assert loaded & {*HEAVY, "numpy", "click", "rich", "plotly", "starlette", "safetensors", "filelock"} == set()


def test_the_light_files_load_no_heavy_library() -> None:
    """One interpreter for all; a failure names the library and the first file that loads it."""
    watch = "; ".join(f"import {name}; seen({name!r})" for name in LIGHT)
    code = ("import sys\ndef seen(name):\n"
            f"    found = [h for h in {HEAVY!r} if h in sys.modules]\n"
            f"    assert not found, name + ' loads ' + ', '.join(found)\n{watch}")  # fmt: skip
    loaded_after(code)


def test_public_names_are_what_their_files_say_in_any_order() -> None:
    code = ("import lab.sample, lab.runs, lab.score, importlib, lab\n"
            "for name in lab.__all__:\n"
            "    home = importlib.import_module(f'lab.{lab._HOME[name]}')\n"
            "    assert getattr(lab, name) is getattr(home, name), name\n"
            "    assert callable(getattr(lab, name)), name\n"
            "assert sorted(lab._HOME) == lab.__all__ == sorted(lab.__all__)\n"
            "assert set(lab.__all__) <= set(dir(lab))\n"
            "try: lab.nothing\n"
            "except AttributeError as error: assert str(error) == \"module 'lab' has no attribute 'nothing'\"\n"
            "else: raise AssertionError\n")  # fmt: skip
    loaded_after(code)


# --- laws ------------------------------------------------------------------------------------------------------------


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (n for n in ast.walk(tree(path)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


def held_while_yielding(path: Path) -> list[str]:
    """`yield` inside a `with`: whoever iterates would run inside it too, between two `next`, perhaps for good.

    A function that is itself a context manager may; so may a `with` that only opens a file.
    """
    found = []
    for node in ast.walk(tree(path)):
        if not isinstance(node, (ast.Yield, ast.YieldFrom)):
            continue
        for outer in above(node):
            if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if any("contextmanager" in ast.unparse(d) for d in outer.decorator_list):
                    found = [f for f in found if f != at(path, node)]
                break
            if isinstance(outer, (ast.With, ast.AsyncWith)):
                opened = all(re.match(r"(.+\.)?open\(", ast.unparse(i.context_expr)) for i in outer.items)
                if not opened:
                    found.append(at(path, node))
    return found


def test_nothing_yields_inside_a_with() -> None:
    assert [place for path in HOUSE for place in held_while_yielding(path)] == []


def test_the_test_above_sees_a_yield_inside_a_with(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    with no_grad():\n        for x in y:\n            yield x\n"
                                   "@contextmanager\ndef g():\n    with lock:\n        yield\n"
                                   "def h():\n    with p.open() as file:\n        yield from file\n")  # fmt: skip
    assert held_while_yielding(tmp_path / "a.py") == [f"{tmp_path / 'a.py'}:4"]


PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def test_nothing_is_pickled() -> None:
    found = []
    for path in [*HOUSE, *python_files("benchmarks")]:
        found += [at(path, i.line) for i in imports(path) if i.target.split(".")[0] in PICKLERS]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.save"):
                found.append(at(path, node))
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                found.append(at(path, node.value))
    assert found == []


CATCHES_ALL = {
    ("lab/session.py", "_turn"): "the run ends with its error; the one thread that touches the model must live on",
    ("lab/session.py", "_apply_edits"): "whoever asked for the edit gets the error through its future",
    ("lab/session.py", "_tell"): "whoever watches a run must not be able to end it",
    ("lab/feedback/cell/inside.py", "_one_line"): "foreign code may make errors whose text raises one itself",
    ("lab/worker.py", "_answer"): "whoever asked for the call gets the error through its future",
    ("lab/queueing.py", "_begin"): "the entry says why it could not begin; the thread must live on for the others",
    ("lab/asking.py", "watch"): "a thread of its own: the run it answers ends with the error",
    ("lab/engine.py", "endpoint"): "one request must not harm the runs; whoever asked gets the sentence",
    ("lab/streams.py", "pump"): "the stream is under way: its last line says what happened",
    ("lab/streams.py", "apart"): "the stream is under way: its last line says what happened",
    ("apps/studio/server.py", "_read"): "the waiting page says that it cannot be built, the terminal why",
    ("apps/studio/link.py", "_hear"): "whatever keeps the engine from answering, people can do the same about it",
    ("apps/studio/book.py", "_run"): "a thread of its own: whoever asks for the figures gets the error",
    ("apps/studio/heads.py", "_work"): "a thread of its own: the panel shows the sentence in its place",
    ("apps/studio/jobs.py", "_work"): "a thread of its own: everybody who watches the work gets the sentence",
    ("apps/studio/components.py", "call"): "a panel shows the sentence in its place, and the page goes on",
    ("apps/studio/sample.py", "stream"): "the panel shows the sentence after what was answered, and the page goes on",
}
"""Who may catch every error without raising one itself, and why."""


def test_only_the_listed_catch_every_error() -> None:
    found = set()
    for path in HOUSE:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            names = {"Exception", "BaseException"} & set(re.findall(r"\w+", ast.unparse(node.type) if node.type else
                                                                    "BaseException"))  # fmt: skip
            raises = any(isinstance(n, ast.Raise) for n in ast.walk(node))
            if names and not raises:
                function = next((n.name for n in above(node) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))),
                                "")  # fmt: skip
                found.add((str(path), function))
    assert found - CATCHES_ALL.keys() == set(), "list them with their reason, or name the errors"
    assert CATCHES_ALL.keys() - found == set(), "they no longer do; take them off the list"


def test_errors_are_named_errors() -> None:
    """No bare Exception is raised: people and programs tell errors apart by their class."""
    bare = [
        at(path, node)
        for path in HOUSE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Raise) and node.exc and re.match(r"(Base)?Exception\b", ast.unparse(node.exc))
    ]
    assert bare == []


# --- rooms -----------------------------------------------------------------------------------------------------------

LONG_FILES = {
    "lab/session.py": "one class: the wishes of any thread and the one thread that plays",
    "lab/engine.py": "one class: the engine and its channel",
    "lab/cli.py": "one command after the other",
    "lab/runs.py": "one class: the run directory",
    "lab/chat.py": "one class: messages to tokens and back, for every template",
}
"""Files over 350 lines, and why each is one story; none may pass 500."""

LONG_FUNCTIONS = 75
"""Lines of a function, its docstring not counted."""


def test_rooms_are_small() -> None:
    size = {str(p): len((ROOT / p).read_text(encoding="utf-8").splitlines()) for p in HOUSE}
    assert {p: n for p, n in size.items() if n > 350 and p not in LONG_FILES} == {}
    assert {p: n for p, n in size.items() if n > 500} == {}


def test_functions_are_short() -> None:
    long = {}
    for path in HOUSE:
        for node in functions(path):
            first = node.body[0]
            told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            doc = (first.end_lineno or 0) - first.lineno + 1 if told else 0
            lines = (node.end_lineno or 0) - node.lineno + 1 - doc
            if lines > LONG_FUNCTIONS:
                long[f"{at(path, node)} {node.name}"] = lines
    assert long == {}


def undocumented(path: Path) -> Iterator[str]:
    """Public files, classes, functions and methods without a docstring.

    Left out: what overrides a documented method, a property whose name and type say it all, and protocols' stubs.
    """
    if not ast.get_docstring(tree(path)) and path.name != "__init__.py":
        yield at(path, 1)
    for node in ast.walk(tree(path)):
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or ast.get_docstring(node):
            continue
        around = [node, *(n for n in above(node) if not isinstance(n, ast.Module))]
        private = any(getattr(n, "name", "").startswith("_") for n in around)
        nested = any(isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in around[1:])
        if private or nested:
            continue
        if not isinstance(node, ast.ClassDef):
            stub = len(node.body) == 1 and ast.unparse(node.body[0]) == "..."
            plain = "property" in [ast.unparse(d) for d in node.decorator_list] and len(node.body) == 1
            inherits = isinstance(node.parent, ast.ClassDef) and node.parent.bases  # type: ignore[attr-defined]
            if stub or plain or inherits:
                continue
        yield f"{at(path, node)} {node.name}"


@pytest.mark.parametrize("room", ["lab", "apps"])
def test_everything_public_is_documented(room: str) -> None:
    assert [place for path in python_files(room) for place in undocumented(path)] == []


def test_everything_public_is_typed() -> None:
    found = []
    for path in LAB:
        for node in functions(path):
            if node.name.startswith("_") or any(isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
                                                for n in above(node)):  # fmt: skip
                continue
            arguments = [a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                         if a.arg not in ("self", "cls")]  # fmt: skip
            if node.returns is None or any(a.annotation is None for a in arguments):
                found.append(f"{at(path, node)} {node.name}")
    assert found == []
