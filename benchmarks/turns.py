"""One contender in its own process, which does one step each time it is told to.

The contender's side: `Turn` reads a line from standard input for every step and answers with one line of JSON; what
libraries print goes to standard error. The other side: `Contender` starts the process and asks for steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Turn:
    """The contender's side. Between `wait` and `done` lies one step."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._wall = self._cpu = 0.0

    def ready(self, **facts: Any) -> None:
        """Everything is loaded; the first step can be asked for."""
        self._say(facts)

    def wait(self) -> None:
        """Returns when a step is asked for; ends the process when no more will be."""
        if sys.stdin.readline().strip() != "go":
            self._out.flush()
            os._exit(0)  # trainers hold threads and files that take seconds to put away
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def done(self, **facts: Any) -> None:
        """The step is over."""
        self._say(facts | {"wall_s": time.perf_counter() - self._wall, "cpu_s": time.process_time() - self._cpu})

    def _say(self, facts: dict[str, Any]) -> None:
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()


class ContenderError(RuntimeError):
    """A contender whose process ended before its work was done."""


class Contender:
    """A contender seen from outside: `python -m <module> <folder of the work> <arguments>`."""

    def __init__(self, python: str | Path, module: str, work: Path, *arguments: str, threads: int = 1) -> None:
        env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1",
                   TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error", PYTHONWARNINGS="ignore",
                   TRL_EXPERIMENTAL_SILENCE="1", CUDA_VISIBLE_DEVICES="")  # fmt: skip
        self.log = work / f"{module.rpartition('.')[2]}-{'-'.join(arguments)}.log"
        self._errors = self.log.open("w")
        self._process = subprocess.Popen(
            [str(python), "-m", module, str(work), *arguments],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.facts: dict[str, Any] = {}

    def start(self) -> dict[str, Any]:
        """Waits until the contender is ready; gives back what it says about itself."""
        self.facts = self._answer()
        return self.facts

    def step(self) -> dict[str, Any]:
        """One step; what it reports, with its wall-clock and processor seconds."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            tail = "\n".join(self.log.read_text().splitlines()[-12:])
            raise ContenderError(
                f"{self.log.stem} ended with code {self._process.returncode}. The end of its log:\n{tail}"
            )
        return json.loads(line)
