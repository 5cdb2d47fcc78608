"""A verifier that runs what a completion programmes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from lab.feedback.verifiers.contract import Row, Verifier, VerifierError, column, shown
from lab.feedback.verifiers.sandbox import run_python
from lab.feedback.verifiers.shape import FENCE


def python(
    *,
    all: Annotated[bool, "true: every test must pass, else 0"] = False,
    seconds: Annotated[float, "time for the code and all its tests, on the clock"] = 5.0,
    memory_mb: Annotated[int, "memory for the code, in megabytes"] = 256,
) -> Verifier:
    """The share of the row's tests that pass: r = passed / tests.

    The code is the last fenced block of the completion, or all of it where there is none. row["tests"] is a string of
    asserts, which count as one test, or a list of such strings. Both run in `lab.feedback.verifiers.sandbox`, whose
    head says what it keeps out and what it cannot; `sandbox.strength()` tells how far it holds on this machine.

    Raises:
        VerifierError: limits that leave nothing; the row has no tests, or tests that are not Python.
        SandboxError: the sandbox does not work on this machine.
    """
    if not 0 < seconds < math.inf or memory_mb < 32:
        raise VerifierError(
            f"seconds is {seconds:g} and memory_mb is {memory_mb}; give more than 0 s, and 32 MB or more."
        )

    def verify(prompt: str, completion: str, row: Row) -> float | None:
        said = column(row, "tests")
        if said is None:
            return None
        tests = _tests(said)
        passed = run_python(code_of(completion), tests, seconds=seconds, memory_mb=memory_mb).passed
        share = sum(passed) / len(passed)
        return float(share == 1) if all else share

    return verify


def code_of(completion: str) -> str:
    """The inside of the last fenced block, or the whole completion where there is none."""
    blocks = FENCE.findall(completion)
    return blocks[-1] if blocks else completion


def _tests(said: Any) -> Sequence[str]:
    tests = [said] if isinstance(said, str) else said
    if not isinstance(tests, list) or not tests or not _all_text(tests):
        raise VerifierError(f"The row's tests are {shown(said)}; give asserts as one text, or a list of texts.")
    for test in tests:
        try:
            compile(test, "<test>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise VerifierError(f"The row's test {shown(test)} is not Python: {error}.") from None
    return tests


def _all_text(tests: Sequence[Any]) -> bool:
    return all(isinstance(test, str) and test.strip() for test in tests)
