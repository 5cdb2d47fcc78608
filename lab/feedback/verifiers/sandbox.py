"""Runs Python code nobody has read: in a process of its own, with limits, behind every lock this machine has.

Each run is a fresh interpreter in an empty folder, with an empty environment, no input, a limit on time, memory, file
size and output, and nothing left behind: the process and all it started are killed, the folder is removed. Around it
stand as many layers as the kernel offers without root:

    namespaces   no network, no other process in sight, no file but Python's own library
    landlock     no file can be opened but Python's own library and the empty folder
    seccomp      no new process, no socket, no signal to others
    audit hook   Python itself refuses files, processes, sockets and ctypes; always there, and the weakest of them

`strength()` says in words which of them hold here.

What no sandbox does: code and tests share one process, so code that sets out to deceive its tests can. An object whose
`__eq__` is always true passes `assert f(1) == 2`; code that patches a module a test relies on bends that test; code
that walks the stack to the harness can forge its report. Leaving early, printing, replacing builtins, tracing and
writing to every open file do not help it. Read completions with surprising rewards.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

KERNEL_LAYERS = ("namespaces", "landlock", "seccomp")
"""What the kernel may offer."""
HOOK = "audit hook"
START_SECONDS = 30.0
"""How long a process may take until its locks hold; foreign code has not begun then."""
REPORT_BYTES = 1 << 20
ROOT = Path(__file__).resolve().parents[3]
START = "import sys; sys.path.append(sys.argv[1]); from lab.feedback.cell.inside import main; main()"


class SandboxError(RuntimeError):
    """The sandbox itself does not work on this machine; nothing was run."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a run.

    ok     : the code ran to its end, and every test passed
    passed : for every test, whether it passed; a test that was not reached has not
    reason : why it is not ok, as a sentence; empty if it is
    stdout, stderr : what was printed, cut at `output_bytes`
    """

    ok: bool
    passed: tuple[bool, ...]
    stdout: str
    stderr: str
    reason: str


def run_python(
    code: str,
    tests: Sequence[str] = (),
    *,
    seconds: float = 5.0,
    memory_mb: int = 256,
    file_mb: int = 1,
    output_bytes: int = 65536,
) -> Result:
    """Runs code, then each test in a copy of the names it defined, and tells how it went.

    The code is a module named `solution`, so a part under `if __name__ == "__main__":` does not run. A test passes when
    it ends without an exception. Code and tests have Python's standard library and nothing else.

    Args:
        code: Python source.
        tests: Python sources, usually one `assert` each.
        seconds: time on the clock for code and tests together; starting the process is not counted.
        memory_mb: megabytes of address space, Python's own 20 or so included.
        file_mb: megabytes of the largest file that can be written.
        output_bytes: how much of each output is kept; the rest is thrown away.

    Raises:
        SandboxError: the process could not be started or locked up.
        SyntaxError: a test is not Python.
    """
    for i, test in enumerate(tests):
        compile(test, f"<test {i}>", "exec", dont_inherit=True)
    return _run(code, tests, layers(), seconds, memory_mb, file_mb, output_bytes)


@cache
def layers() -> tuple[str, ...]:
    """The layers that hold on this machine, those of the kernel found out by trying each."""
    if os.name != "posix":
        raise SandboxError("Running code in the sandbox needs Linux or macOS.")
    return (*(name for name in KERNEL_LAYERS if sys.platform == "linux" and _holds(name)), HOOK)


def strength() -> str:
    """Which layers hold on this machine, as a sentence people can decide by."""
    found = layers()
    missing = [name for name in KERNEL_LAYERS if name not in found]
    words = f"The sandbox here: a process of its own with limits, {', '.join(found)}"
    words += f"; not available: {', '.join(missing)}." if missing else "."
    files, network = bool({"namespaces", "landlock"} & {*found}), bool({"namespaces", "seccomp"} & {*found})
    if files and network:
        return f"{words} The kernel keeps code from the network and from the files of this machine."
    open_ = " and ".join(w for w, kept in (("the files", files), ("the network", network)) if not kept)
    return f"{words} Only Python's audit hook keeps code from {open_}: run nothing here that may be hostile."


def _holds(layer: str) -> bool:
    try:
        return _run("", (), (layer,), START_SECONDS, 256, 1, 1024).ok
    except SandboxError:
        return False


# --- one run ---------------------------------------------------------------------------------------------------------


def _run(
    code: str, tests: Sequence[str], using: Sequence[str], seconds: float, memory_mb: int, file_mb: int, kept: int
) -> Result:
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder, tempfile.TemporaryFile() as stdin:
        box = os.path.realpath(folder)
        reading, writing = os.pipe()
        job = {"box": box, "readable": readable(), "layers": list(using), "cpu_seconds": math.ceil(seconds) + 1,
               "memory": memory_mb << 20, "file_size": file_mb << 20, "code": code, "tests": list(tests),
               "nonce": nonce, "report": writing}  # fmt: skip
        stdin.write(json.dumps(job).encode())
        stdin.seek(0)
        with open(reading, "rb", buffering=0) as report:
            try:
                process = _start(stdin, writing, box)
            finally:
                os.close(writing)
            seen = _Watch(process, report, nonce, kept)
            try:
                seen.until_it_ends(seconds)
            finally:
                _kill(process)
    return seen.result(seconds, len(tests))


def _start(stdin: IO[bytes], report: int, box: str) -> subprocess.Popen[bytes]:
    """A bare interpreter: no site packages, no user folder, no environment, one order of sets for every run."""
    environment = {"PYTHONHASHSEED": "0"} | {k: os.environ[k] for k in ("LD_LIBRARY_PATH",) if k in os.environ}
    command = [sys.executable, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", START, str(ROOT)]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=box,
                            env=environment, pass_fds=(report,), start_new_session=True)  # fmt: skip


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its group, and takes its exit code."""
    for kill in (os.killpg, os.kill):
        try:
            kill(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended. It keeps its number until `_kill`, so that no other group can be killed for it."""
    if hasattr(os, "waitid"):
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return process.poll() is not None


@cache
def readable() -> list[str]:
    """What code may read: the folders of Python's library, of the libraries it is linked with, and the null device."""
    wanted = [os.path.dirname(os.__file__), f"{sys.base_prefix}/lib", "/lib", "/lib64", "/usr/lib", "/usr/lib64",
              "/usr/local/lib", *os.environ.get("LD_LIBRARY_PATH", "").split(":")]  # fmt: skip
    found: list[str] = []
    for path in sorted({os.path.normpath(p) for p in wanted if os.path.isabs(p)}, key=len):
        if os.path.isdir(path) and not any(f"{path}/".startswith(f"{outer}/") for outer in found):
            found.append(path)
    return [*found, os.devnull]


class _Watch:
    """Reads what a process says on its three pipes until it ends, or its time is up."""

    def __init__(self, process: subprocess.Popen[bytes], report: IO[bytes], nonce: str, kept: int) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.nonce = nonce
        self.pipes = {"stdout": process.stdout, "stderr": process.stderr, "report": report}
        self.kept = {"stdout": kept, "stderr": kept, "report": REPORT_BYTES}
        self.said = {name: bytearray() for name in self.pipes}
        self.late = False

    def until_it_ends(self, seconds: float) -> None:
        """The clock starts again, with `seconds`, when the locks hold."""
        deadline, begun = time.monotonic() + START_SECONDS, False
        with selectors.DefaultSelector() as ready:
            for name, pipe in self.pipes.items():
                ready.register(pipe, selectors.EVENT_READ, name)
            while ready.get_map() and not self.late:
                found = ready.select(max(0.0, min(0.1, deadline - time.monotonic())))
                for key, _ in found:
                    if not self._read(key.fd, key.data):
                        ready.unregister(key.fileobj)
                if not begun and self._begun():
                    deadline, begun = time.monotonic() + seconds, True
                self.late = time.monotonic() > deadline
                if not found and _ended(self.process):
                    return  # what it started still holds a pipe
        while not self.late and not _ended(self.process):
            time.sleep(0.001)
            self.late = time.monotonic() > deadline

    def _read(self, fd: int, name: str) -> bool:
        data = os.read(fd, 65536)
        self.said[name] += data[: self.kept[name] - len(self.said[name])]
        return bool(data)

    def _begun(self) -> bool:
        return f"{self.nonce} ready ".encode() in self.said["report"]

    def result(self, seconds: float, tests: int) -> Result:
        """What the report says; whatever it does not say has failed."""
        out, err, report = (self.said[name].decode(errors="replace") for name in ("stdout", "stderr", "report"))
        errors: dict[str, str] = {}
        for line in report.split("\n"):
            mark, _, rest = line.partition(" ")
            if mark == self.nonce:
                what, _, error = rest.partition(" ")
                errors.setdefault(what, error)
        if "ready" not in errors:
            why = errors.get("refused") or err.strip()[-300:] or f"it took longer than {START_SECONDS:g} s to start"
            raise SandboxError(f"The sandbox does not work on this machine: {why}")
        passed = tuple(errors.get(str(i)) == "" for i in range(tests))
        ok = errors.get("code") == "" and all(passed)
        return Result(ok, passed, out, err, "" if ok else self._reason(errors, passed, seconds))

    def _reason(self, errors: dict[str, str], passed: tuple[bool, ...], seconds: float) -> str:
        if errors.get("code"):
            return f"The code raised {errors['code']}."
        if "code" not in errors or any(str(i) not in errors for i in range(len(passed))):
            return (
                f"It took longer than {seconds:g} s." if self.late else f"It ended before it was done, {self._end()}."
            )
        first = passed.index(False)
        failed = f"{passed.count(False)} of {len(passed)} tests failed"
        return f"{failed}; the first is number {first + 1}: {errors[str(first)]}."

    def _end(self) -> str:
        code = self.process.returncode
        number = -code if code < 0 else code - 128
        names = {s.value: s.name for s in signal.Signals}
        return f"killed by {names[number]}" if number in names else f"with exit code {code}"
