"""From the reviewed sources (`src/*.py`, jupytext's percent format) to the notebooks beside this file, without outputs.

    python -m notebooks.build            writes the notebooks
    python -m notebooks.build --check    says which of them differ from their sources, and fails if any does

The result depends on the source alone: cell ids are numbers, and the metadata names the language only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import jupytext

HERE = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def built(source: Path) -> str:
    """The text of the notebook that a source stands for."""
    notebook = jupytext.read(source, fmt="py:percent")
    cells = []
    for i, cell in enumerate(notebook.cells):
        kept = {"cell_type": cell.cell_type, "id": f"{source.stem}-{i:02d}", "metadata": {}}
        if tags := cell.metadata.get("tags"):
            kept["metadata"] = {"tags": list(tags)}
        if cell.cell_type == "code":
            kept |= {"execution_count": None, "outputs": []}
        cells.append(kept | {"source": cell.source.splitlines(keepends=True)})
    whole = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def pairs() -> list[tuple[Path, Path]]:
    """Every source with the notebook it makes."""
    return [(source, HERE / f"{source.stem}.ipynb") for source in sorted((HERE / "src").glob("*.py"))]


def stale() -> list[str]:
    """The notebooks that are not what their sources say, and those that have no source."""
    wanted = {notebook: source for source, notebook in pairs()}
    odd = [n for n, s in wanted.items() if not n.exists() or n.read_text(encoding="utf-8") != built(s)]
    return sorted(n.name for n in {*odd, *(set(HERE.glob("*.ipynb")) - wanted.keys())})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m notebooks.build", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a notebook is stale")
    if parser.parse_args().check:
        if names := stale():
            sys.exit(f"{', '.join(names)}: not what the source says; run `python -m notebooks.build`.")
        return
    for source, notebook in pairs():
        notebook.write_text(built(source), encoding="utf-8")
        print(notebook.relative_to(HERE.parent))


if __name__ == "__main__":
    main()
