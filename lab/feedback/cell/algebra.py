"""Compares formulas with math-verify, line by line, locked up after its libraries are loaded.

In: a JSON list of two texts, the row's and the completion's, and a number of seconds. Out: `equal`, `different` or
`no gold`; at first `ready`. A comparison that takes more processor time than that ends the process.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys

from lab.feedback.cell import kernel

MEMORY = 2 << 30
"""Bytes of address space; more is an error, and the formula is different."""


def main() -> None:
    """Loads, locks, and answers until the input ends."""
    job = json.loads(sys.argv[2])
    logging.disable(logging.CRITICAL)
    equal("1", "1")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if "landlock" in job["locks"]:
        kernel.landlock(None, job["readable"])
    if "seccomp" in job["locks"]:
        kernel.seccomp()
    print("ready", flush=True)
    for line in sys.stdin:
        gold, said, seconds = json.loads(line)
        signal.setitimer(
            signal.ITIMER_PROF, seconds
        )  # the kernel ends the process; Python may be deep in one operation
        try:
            verdict = equal(gold, said)
        except (MemoryError, RecursionError):
            verdict = "different"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(verdict, flush=True)


def equal(gold: str, said: str) -> str:
    """`equal`, `different`, or `no gold` if the row's text is no formula.

    Only LaTeX is read: math-verify's other reader goes through Python's `eval`.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    def read(text: str) -> list:
        return parse(f"\\boxed{{{text}}}", [LatexExtractionConfig(boxed_match_priority=0)], fallback_mode="no_fallback",
                     parsing_timeout=None)  # type: ignore[arg-type] # fmt: skip

    right = read(gold)
    if not right:
        return "no gold"
    return "equal" if verify(right, read(said), timeout_seconds=None) else "different"
