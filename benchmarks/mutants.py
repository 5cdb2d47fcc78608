"""Do the tests of the arithmetic notice when the arithmetic changes?

Runs mutmut (settings: `[tool.mutmut]` in pyproject.toml) on `lab/objectives`: every operator, number, name of an
argument and sentence is changed once, and `tests/objectives` must fail each time. A survivor that is not listed with
its reason in `equivalent_mutants.toml` is an error, and so is a listed one that dies.

    python benchmarks/mutants.py            # from scratch, two at a time
    python benchmarks/mutants.py --resume   # only what has changed or was not reached
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LISTED = Path(__file__).with_name("equivalent_mutants.toml")
DEAD = {"killed", "timeout"}


class Mutant(NamedTuple):
    """One change: the function it is in, the line before and the line after (stripped)."""

    function: str
    was: str
    became: str


def mutmut(*arguments: str) -> str:
    """What a mutmut command prints, run with one thread and without pytest's plugins (each mutant starts pytest)."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"mutmut {' '.join(arguments)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def outcomes() -> dict[str, str]:
    """The name of every mutant, and what became of it."""
    lines = mutmut("results", "--all", "true").splitlines()
    return dict(line.strip().split(": ", 1) for line in lines if "__mutmut_" in line)


def describe(name: str) -> Mutant:
    """The change a mutant makes, from its diff."""
    lines = [line for line in mutmut("show", name).splitlines() if re.match(r"[-+](?![-+]{2} )", line)]
    was, became = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return Mutant(re.sub(r"\.x_(.*)__mutmut_\d+$", r".\1", name), was, became)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resume", action="store_true", help="keep the results of the last run")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    arguments = parser.parse_args()
    if not arguments.resume:
        shutil.rmtree(ROOT / "mutants", ignore_errors=True)
    start = time.monotonic()
    run = ("run", "--max-children", str(arguments.workers))
    mutmut(*run)
    results = outcomes()
    if arguments.resume and (survivors := [name for name, outcome in results.items() if outcome not in DEAD]):
        mutmut(*run, *survivors)  # a new test may have caught what mutmut remembers as alive
        results = outcomes()
    alive = {describe(name): name for name, outcome in results.items() if outcome not in DEAD}
    rows = tomllib.loads(LISTED.read_text(encoding="utf-8")).get("mutant", [])
    listed = {Mutant(row["function"], row["was"], row["became"]): row["reason"] for row in rows}
    unlisted, stale = [m for m in alive if m not in listed], [m for m in listed if m not in alive]
    counts = ", ".join(f"{n} {outcome}" for outcome, n in Counter(results.values()).most_common())
    print(f"{len(results)} mutants in {time.monotonic() - start:.0f} s: {counts}; {len(listed)} listed as equivalent.")
    for mutant in unlisted:
        print(f"\nalive: {alive[mutant]} ({results[alive[mutant]]})\n  - {mutant.was}\n  + {mutant.became}")
    for mutant in stale:
        print(f"\nlisted, but not alive: {mutant.function}\n  - {mutant.was}\n  + {mutant.became}")
    return 1 if unlisted or stale or not results else 0


if __name__ == "__main__":
    sys.exit(main())
