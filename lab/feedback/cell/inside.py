"""Runs foreign Python code: locks this process up first, then runs code and tests, and reports through a pipe.

The job is JSON on the standard input: box, readable, layers, cpu_seconds, memory, file_size, code, tests, nonce and
report, the number of the pipe.
Every line of the report begins with the nonce, which the code is not told:

    <nonce> ready                   the locks hold and the code begins
    <nonce> refused <why>           a lock does not hold; nothing runs
    <nonce> code | <test> <error>   the code, or a test by its number, came to its end; the error is empty if it passed

A process that ends itself, or is killed, leaves lines out, and what is not reported has failed.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from lab.feedback.cell import kernel

OPEN_FILES = 64

FAMILIES = ("ctypes.", "fcntl.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.system",
            "os.kill", "os.chroot", "pty.", "resource.", "signal.pthread_kill", "socket.", "subprocess.",
            "syslog.", "gc.get_", "sys._current_", "sys.setprofile", "sys.settrace", "sys.monitoring.",
            "sys.addaudithook", "os.chdir", "os.fchdir", "os.link", "os.symlink", "os.chown", "os.setxattr",
            "os.removexattr")  # fmt: skip
"""Beginnings of audit events that are refused. Those of gc and sys would let code read or bend its judge."""
PATHS = ("os.listdir", "os.scandir", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.utime",
         "os.truncate", "sqlite3.connect")  # fmt: skip
"""Events whose first arguments are paths."""
MODULES = frozenset({"ctypes", "_ctypes", "_posixsubprocess", "_testcapi", "_testinternalcapi", "_xxsubinterpreters"})
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """Reads the job and carries it out; never returns."""
    with open(0, "rb", closefd=False) as file:
        job = json.loads(file.read())
    say, nonce = os.write, job["nonce"]

    def report(what: str, error: str = "") -> None:
        say(job["report"], f"{nonce} {what} {error}\n".encode(errors="replace"))

    try:
        _lock(job)
    except (OSError, ValueError) as error:
        report("refused", _one_line(error))
        os._exit(1)
    report("ready")
    _run(job["code"], job["tests"], report)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(0)


# --- the locks -------------------------------------------------------------------------------------------------------


def _lock(job: dict[str, Any]) -> None:
    """Every lock of the job, from the outer to the inner one; the last makes Python itself refuse."""
    box, readable, layers = job["box"], job["readable"], job["layers"]
    null = os.open(kernel.NULL, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if sys.platform == "linux":
        kernel.die_with_parent()
        if "namespaces" in layers:
            kernel.namespaces(box, readable)
            box = "/box"
            os.mkdir(box)
        os.chdir(box)
        if "landlock" in layers:
            kernel.landlock(box, readable)
        kernel.drop_privileges()
        if "seccomp" in layers:
            kernel.seccomp()
    os.chdir(box)
    _limit(job, processes="seccomp" in layers)
    barred = MODULES - {"_posixsubprocess"} if "seccomp" in layers else MODULES
    guard = _guard(os.getcwd() + "/", tuple(readable), barred)
    _forget()
    if "audit hook" in layers:
        sys.addaudithook(guard)


def _limit(job: dict[str, Any], processes: bool) -> None:
    """Limits that a process cannot raise again. `processes`: something else keeps it from starting any."""
    limits = {"AS": job["memory"], "CPU": job["cpu_seconds"], "FSIZE": job["file_size"], "NOFILE": OPEN_FILES,
              "CORE": 0, "MSGQUEUE": 0} | ({} if processes else {"NPROC": 0})  # fmt: skip
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None and not (name == "AS" and sys.platform == "darwin"):  # macOS does not know this limit
            highest = resource.getrlimit(kind)[1]
            value = value if highest == resource.RLIM_INFINITY else min(value, highest)
            resource.setrlimit(kind, (value, value))


def _forget() -> None:
    """Takes the way to C, and this project, out of the reach of `import`, `sys.modules` and `__main__`."""
    root = os.path.dirname(__file__).removesuffix("/lab/feedback/cell")
    sys.path[:] = [entry for entry in sys.path if entry != root]
    for name in [n for n in sys.modules if n.split(".")[0] in ("lab", "ctypes", "_ctypes", "resource")]:
        del sys.modules[name]
    kernel.__dict__.clear()
    sys.modules["__main__"].__dict__.clear()
    os.environ.clear()
    sys.argv[:] = [""]


def _guard(box: str, readable: Sequence[str], barred: frozenset[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that refuses files outside the box, processes, sockets, C and tracing.

    It holds no name that the code could replace. Python's own documentation calls audit hooks no sandbox: this is the
    second lock behind the kernel's, and the first only where the kernel has none.
    """
    families, paths, writes, null = FAMILIES, frozenset(PATHS), WRITES, kernel.NULL
    folders = tuple(path + "/" for path in readable)
    starts, split, kind, refusal = str.startswith, str.split, type, PermissionError
    text, octets, number, nothing, decode = str, bytes, int, type(None), os.fsdecode

    def inside(path: Any, writing: bool) -> bool:
        if kind(path) in (number, nothing):
            return True
        if kind(path) is octets:
            path = decode(path)
        if kind(path) is not text or ".." in split(path, "/"):
            return False
        if not starts(path, "/") or starts(path + "/", box) or path == null:
            return True
        return not writing and starts(path + "/", folders)

    def guard(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            fine = inside(args[0], bool(args[2] & writes))
        elif event == "import":
            fine = split(args[0], ".")[-1] not in barred and (args[1] is None or starts(args[1], folders))
        elif event == "socket.__new__":
            fine = args[1] == 1  # AF_UNIX: a pair of ends within the process, as asyncio makes
        elif event in paths:
            reading = event in ("os.listdir", "os.scandir")
            fine = inside(args[0], not reading) and (event != "os.rename" or inside(args[1], True))
        else:
            fine = not starts(event, families)
        if not fine:
            what = args[0] if args and kind(args[0]) is text else ""
            raise refusal(f"the sandbox refuses {event} {what}")

    return guard


# --- the code --------------------------------------------------------------------------------------------------------


def _run(code: str, tests: Sequence[str], report: Callable[[str, str], None]) -> None:
    """The code as a module named `solution`, then each test in a copy of its names, with Python's own builtins.

    The names used here after the code has run are bound before it, so that replacing them replaces nothing.
    """
    module = types.ModuleType("solution")
    names = module.__dict__
    sys.modules["solution"] = module
    run, line, any_error = exec, _one_line, BaseException
    own, restore = dict(builtins.__dict__), builtins.__dict__.update
    checks = [(str(i), compile(test, f"<test {i}>", "exec")) for i, test in enumerate(tests)]
    try:
        run(compile(code, "<solution>", "exec"), names)
    except any_error as error:
        report("code", line(error))
        return
    restore(own)
    report("code", "")
    for i, check in checks:
        restore(own)
        try:
            run(check, {**names, "__builtins__": own})
        except any_error as error:
            report(i, line(error))
        else:
            report(i, "")


def _one_line(error: BaseException) -> str:
    """`ValueError: what it says`, without line breaks; never empty."""
    name = type(error).__name__
    try:
        said = " ".join(str(error).split())[:300]
    except BaseException as worse:
        said = f"its message raises {type(worse).__name__}"
    return f"{name}: {said}" if said else name
