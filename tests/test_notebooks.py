"""The notebooks are what their sources say, hold no outputs, and run from top to bottom."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

from notebooks import build

NOTEBOOKS = sorted(build.HERE.glob("*.ipynb"))


def test_every_notebook_is_what_its_source_says() -> None:
    assert NOTEBOOKS != []
    assert build.stale() == [], "run `python -m notebooks.build`"


def test_a_changed_notebook_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "one.py").write_text('# %% [markdown]\n# # Title\n\n# %% tags=["exercise"]\n1 + 1\n')
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert build.stale() == ["one.ipynb"]
    text = build.built(tmp_path / "src" / "one.py")
    (tmp_path / "one.ipynb").write_text(text)
    (tmp_path / "stray.ipynb").write_text("{}")
    assert build.stale() == ["stray.ipynb"]
    cells = json.loads(text)["cells"]
    assert [(c["id"], c["cell_type"], c["metadata"]) for c in cells] == [
        ("one-00", "markdown", {}), ("one-01", "code", {"tags": ["exercise"]})]  # fmt: skip
    assert [c["source"] for c in cells] == [["# Title"], ["1 + 1"]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_outputs_and_no_widget_state_in_the_tree(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"] == build.METADATA
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(code) > 3
    assert [c for c in code if c["outputs"] or c["execution_count"]] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("LAB_PROFILE", "ci")
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", store_widget_state=False,
                            resources={"metadata": {"path": str(tmp_path)}})  # fmt: skip
    client.execute()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    assert "widgets" not in notebook.metadata
    found = (tmp_path / "runs").rglob("status.json")  # those of a stack stand one floor deeper
    states = {str(p.parent): json.loads(p.read_text())["state"] for p in found}
    assert states != {}
    assert set(states.values()) == {"finished"}


def test_a_live_view_works_in_a_kernel_with_widgets(tmp_path: Path) -> None:
    """In a real kernel: the figure grows in the background while other cells run, and the view is a widget."""
    import nbformat
    from nbclient import NotebookClient

    cells = [
        "import sys, time; sys.path.insert(0, {tests!r})\n"
        "from session_toy import ToyConfig, ToyState, toy\n"
        "from lab.notebook import watch\n"
        "from lab.runs import Run\n"
        "from lab.session import Session\n"
        "config = ToyConfig(steps=20, torch=False)\n"
        "live = watch(Session(Run.create({root!r}, 'toy', config), ToyState(config), config, toy))\n"
        "live.step(5)",
        "def grown(n):\n"
        "    end = time.monotonic() + 60\n"
        "    while len(live.panel.chart.lines.get('toy-1__w', (0, []))[1]) != n:\n"
        "        assert time.monotonic() < end; time.sleep(0.05)\n"
        "grown(5); live.step(5); grown(10); live.play(); grown(20)",
        "live.close(); assert live.panel is None",
    ]
    root = Path(__file__).parent
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c.format(tests=str(root), root=str(tmp_path))) for c in cells]
    )
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", store_widget_state=False,
                            resources={"metadata": {"path": str(root.parent)}})  # fmt: skip
    client.execute()
    (shown,) = [o for o in notebook.cells[0].outputs if o.output_type == "display_data"]
    assert "application/vnd.jupyter.widget-view+json" in shown.data
