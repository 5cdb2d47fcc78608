"""A verifier of mathematics: is one expression equal to another?

The comparison is math-verify's, in a process of its own that outlives the call and cannot write or start anything.
Algebra can take for ever on a short text; the kernel ends the process then, whatever thread asked, where math-verify's
own clock needs the main thread. What is measured is processor time, so that a busy machine changes no reward.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import re
import selectors
import subprocess
import sys
import threading
from importlib.util import find_spec
from typing import Annotated

from lab.feedback.verifiers import sandbox
from lab.feedback.verifiers.committed import committed, sentences
from lab.feedback.verifiers.contract import Row, Verifier, VerifierError, column, shown

LONGEST = 500
"""Characters of an answer; a longer one is wrong unread."""
START_SECONDS = 120.0
"""How long the process may take to load its libraries."""
PATIENCE = 10.0
"""How many times its processor time a comparison may take on the clock, plus as many seconds."""
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from lab.feedback.cell.algebra import main; main()"


def maths(
    *, seconds: Annotated[float, "processor time for one comparison; what takes longer is wrong"] = 5.0
) -> Verifier:
    """1 if the answer equals the expression in row["answer"] as algebra, else 0.

    `\\frac{1}{2}` equals `0.5`, `x = 5` equals `5`, `(x+1)^2` equals `x^2+2x+1`; a set equals a set, a matrix a matrix.
    Decimals are equal to six places. The answer is the box, or the first sentence after the last marker, or the only
    formula between dollars there; it is read as LaTeX. Several formulas earn nothing, and so does an empty answer.

    Raises:
        VerifierError: no time; the package math-verify is not installed; the row has no answer, or one that is not
            mathematics.
    """
    if not 0 < seconds < math.inf:
        raise VerifierError(f"seconds is {seconds:g}; a comparison needs more than 0 s.")
    if find_spec("math_verify") is None:
        raise VerifierError("`maths` needs the package math-verify; install it with pip.")

    def verify(prompt: str, completion: str, row: Row) -> float | None:
        gold = column(row, "answer")
        if gold is None:
            return None
        right = formula("", str(gold)) or str(gold)
        said = formula(prompt, completion)
        if not said or len(said) > LONGEST:
            return 0.0
        verdict = _ALGEBRA.equal(right, said, seconds)
        if verdict == "no gold":
            raise VerifierError(
                f"The row's answer is {shown(gold)}, which cannot be read as mathematics; repair the row."
            )
        return float(verdict == "equal")

    return verify


def formula(prompt: str, completion: str) -> str:
    """The one formula a completion commits itself to; empty if there is none, or more than one."""
    answer = committed(prompt, completion)
    lines = [answer.text] if answer.marked else [x for x in answer.text.splitlines() if re.search(r"\w", x)]
    text = re.sub(r"(?<=[\w)])\*\*(?=[\w({-])", "^", lines[-1] if lines else "").replace("**", "").strip()
    between = re.findall(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", text)
    if between:
        return "".join(between[0]).strip() if len(between) == 1 else ""
    return next(iter(sentences(text)), "").strip()


class _Algebra:
    """The process, started when first asked; one question at a time, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, gold: str, said: str, seconds: float) -> str:
        """`equal`, `different`, `no gold`, or `late`: then the process was ended, and the next question starts one."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([gold, said, seconds]).encode() + b"\n")
                process.stdin.flush()
                answer = _line(process, PATIENCE * (1 + seconds))
            except BrokenPipeError:
                answer = ""
            if not answer:
                self._end()
            return answer or "late"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            locks = [name for name in sandbox.layers() if name in ("landlock", "seccomp")]
            job = {
                "locks": locks,
                "readable": [*sandbox.readable(), *(p for p in map(os.path.abspath, sys.path) if os.path.isdir(p))],
            }
            command = [sys.executable, "-B", "-c", START, json.dumps(sys.path), json.dumps(job)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             stderr=subprocess.DEVNULL, env={"PYTHONHASHSEED": "0"})  # fmt: skip
            if _line(self._process, START_SECONDS) != "ready":
                self._end()
                raise VerifierError("`maths` cannot start its process; try `import math_verify` in Python.")
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _line(process: subprocess.Popen[bytes], seconds: float) -> str:
    """The next line of a process; empty if it does not come in time, or at all."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline().decode().strip() if ready.select(seconds) else ""


_ALGEBRA = _Algebra()
atexit.register(_ALGEBRA._end)
