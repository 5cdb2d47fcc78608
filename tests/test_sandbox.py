"""The sandbox against code that wants out: what it reads, writes, reaches and leaves behind, layer by layer."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from lab.feedback.verifiers import sandbox
from lab.feedback.verifiers.sandbox import Result, SandboxError, run_python

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")
KERNEL = ("namespaces", "landlock", "seccomp")
FILES = ("namespaces", "landlock", "audit hook")
NETWORK = ("namespaces", "landlock", "seccomp", "audit hook")
PROCESSES = ("seccomp", "audit hook")


def run(code: str, *tests: str, seconds: float = 10.0, **limits: int) -> Result:
    return run_python(textwrap.dedent(code), tests, seconds=seconds, **limits)


def run_behind(layer: str, code: str) -> Result:
    """Behind one layer alone, so that no other can help it."""
    if layer not in sandbox.layers():
        pytest.skip(f"no {layer} on this machine")
    return sandbox._run(textwrap.dedent(code), (), (layer,), 10.0, 256, 1, 65536)


# --- what works ------------------------------------------------------------------------------------------------------


def test_right_code_passes_and_its_output_is_kept():
    result = run("def add(a, b):\n    print('ü → 数')\n    return a + b", "assert add(1, 2) == 3")
    assert result == Result(True, (True,), "ü → 数\n", "", "")


def test_every_test_is_told_apart():
    result = run("def f(x): return x * x", "assert f(2) == 4", "assert f(3) == 6", "assert f(-1) == 1", "f(None)")
    assert result.passed == (True, False, True, False)
    assert not result.ok
    assert result.reason == "2 of 4 tests failed; the first is number 2: AssertionError."


def test_the_library_works_as_everywhere():
    code = """
        import asyncio, dataclasses, decimal, hashlib, json, random, re, sqlite3, tempfile, threading, typing
        from pathlib import Path
        @dataclasses.dataclass
        class Point:
            x: int
        async def later(): return 5
        def five():
            found = []
            thread = threading.Thread(target=lambda: found.append(asyncio.run(later())))
            thread.start(); thread.join()
            return found[0]
        Path("note").write_text("kept")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "inner").touch()
        names = sorted(path.name for path in Path(".").iterdir())
    """
    tests = ("assert Point(1) == Point(1)", "assert five() == 5", "from solution import five",
             "assert names == ['note']", "assert open('note').read() == 'kept'",
             "assert typing.get_type_hints(Point) == {'x': int}")  # fmt: skip
    assert run(code, *tests).passed == (True,) * 6


def test_a_program_part_does_not_run_and_there_is_no_input():
    assert run("if __name__ == '__main__':\n    raise ValueError").ok
    assert run("input()").reason == "The code raised EOFError: EOF when reading a line."


def test_runs_are_alike():
    """Sets of texts have one order, so that a lucky order is lucky every time."""
    code = "print(list({'a', 'b', 'c', 'd', 'e', 'f'}))"
    assert len({run(code).stdout for _ in range(3)}) == 1


def test_many_at_once():
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda i: run(f"print({i})", f"assert {i} % 2", seconds=10), range(8))
    assert [(r.stdout, r.ok) for r in results] == [(f"{i}\n", i % 2 == 1) for i in range(8)]


def test_a_test_that_is_not_python_is_refused():
    with pytest.raises(SyntaxError):
        run("x = 1", "assert x ==")


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)", "import signal\n"
                                  "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"])  # fmt: skip
def test_time(code: str):
    start = time.monotonic()
    result = run(code, "assert True", seconds=0.5)
    assert (result.ok, result.passed, result.reason) == (False, (False,), "It took longer than 0.5 s.")
    assert time.monotonic() - start < 10


def test_what_passed_before_the_time_was_up_counts():
    result = run("def f(x):\n    while x: pass", "f(0)", "f(1)", "f(0)", seconds=0.5)
    assert result.passed == (True, False, False)
    assert result.reason == "It took longer than 0.5 s."


def test_closing_every_pipe_does_not_hide_a_loop():
    result = run("import os\nfor fd in range(64):\n    try: os.close(fd)\n    except OSError: pass\nwhile True: pass",
                 seconds=0.5)  # fmt: skip
    assert result.reason == "It took longer than 0.5 s."


def test_memory():
    assert run("x = bytearray(10**9)").reason == "The code raised MemoryError."
    assert run("x = []\nwhile True: x.append(bytearray(10**7))").reason == "The code raised MemoryError."
    assert run("x = bytearray(10**8)").ok
    assert not run("x = bytearray(10**8)", memory_mb=64).ok


def test_deep_recursion_harms_nobody():
    assert not run("import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f() + 1\nf()", seconds=1).ok


def test_output_is_cut():
    result = run("print('x' * 10**7)", output_bytes=1000)
    assert result.ok
    assert result.stdout == "x" * 1000


def test_size_and_number_of_files():
    assert not run("open('big', 'wb').write(bytes(2 * 10**6))").ok
    assert run("open('big', 'wb').write(bytes(2 * 10**6))", file_mb=4).ok
    assert not run("held = [open(str(i), 'w') for i in range(100)]").ok


def test_all_files_together():
    if "namespaces" not in sandbox.layers():
        pytest.skip("only the namespaces have a file system of their own")
    assert not run("for i in range(40): open(str(i), 'wb').write(bytes(10**6))").ok


def test_nothing_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run("open('a', 'w').write('x')").ok
    assert not run("import os\nos.mkdir('b')\nwhile True: pass", seconds=0.5).ok
    assert list(tmp_path.iterdir()) == []


# --- faking success --------------------------------------------------------------------------------------------------

FAKES = {
    "sys.exit": "import sys; sys.exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "os._exit": "import os; os._exit(0)",
    "exit while tested": "import os\ndef f(): os._exit(0)",
    "SystemExit while tested": "def f(): raise SystemExit(0)",
    "printing": "print('ready\\ncode\\n0 \\nok passed 1.0')\ndef f(): print('0 ')",
    "every open file": "import os\ndef f():\n    for fd in range(3, 64):\n        try: os.write(fd, b'0 \\nok 0 \\n')\n"
                       "        except OSError: pass",
    "builtins.exec": "import builtins\nbuiltins.exec = lambda *a: None\nbuiltins.compile = lambda *a: None",
    "builtins module": "import builtins\nfor n in ('AssertionError', 'BaseException', 'Exception'):\n"
                       "    setattr(builtins, n, type('X', (BaseException,), {}))",
    "abs": "import builtins\nbuiltins.abs = lambda x: 0\ndef f(): return 5",
    "__builtins__": "__builtins__ = {'abs': lambda x: 0, '__build_class__': None}\ndef f(): return 5",
    "AssertionError": "class AssertionError(Exception): pass\ndef f(): return 5",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)",
    "the main module": "import sys\ndef f():\n    return sys.modules['__main__'].main and 1",
    "syntax": "def f(:",
    "empty": "",
}  # fmt: skip


@pytest.mark.parametrize("name", FAKES)
def test_success_cannot_be_faked_by(name: str):
    result = run(FAKES[name], "assert abs(f() - 1) == 0")
    assert (result.ok, result.passed) == (False, (False,)), result
    assert result.reason


@pytest.mark.parametrize("code", ["import sys; sys.settrace(print)", "import sys; sys.setprofile(print)",
                                  "import sys; sys._current_frames()", "import gc; gc.get_objects()",
                                  "import gc; gc.get_referrers(print)"])  # fmt: skip
def test_the_judge_cannot_be_watched(code: str):
    assert run(code).reason.startswith("The code raised PermissionError: the sandbox refuses ")


def test_leaving_tells_how():
    assert run("import os; os._exit(7)").reason == "It ended before it was done, with exit code 7."
    assert run("raise SystemExit(7)").reason == "The code raised SystemExit: 7."
    assert run("x = 1 / 0").reason == "The code raised ZeroDivisionError: division by zero."
    message = "class E(Exception):\n    def __str__(self): raise ValueError\nraise E"
    assert run(message).reason == "The code raised E: its message raises ValueError."


def test_tests_do_not_see_each_other():
    assert run("x = 1", "x = 2", "assert x == 1").ok
    patch = "import builtins; builtins.len = None"
    assert run("def size(x): return len(x)", patch, "assert len('') == 0", patch, "assert size('') == 0").ok


def test_what_no_sandbox_keeps_out():
    """Documented at the head of the file: code and tests share a process, so this passes."""
    assert run("class Yes:\n    def __eq__(self, other): return True\ndef f(): return Yes()", "assert f() == 3").ok


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (path := tmp_path / "secret").write_text("swordfish")
    return path


def readings(secret: Path) -> list[str]:
    """Plainly, and round corners: a link, `..`, bytes, an object that is a path, a folder's descriptor."""
    name, folder = str(secret), str(secret.parent)
    return [
        f"print(open({name!r}).read())",
        f"import os; print(os.read(os.open({name!r}, 0), 99).decode())",
        f"import os; os.symlink({name!r}, 'link'); print(open('link').read())",
        f"print(open('../' * 20 + {name[1:]!r}).read())",
        f"print(open({os.fsencode(name)!r}).read())",
        f"from pathlib import Path; print(Path({name!r}).read_text())",
        f"import os; fd = os.open({folder!r}, 0); print(os.read(os.open('secret', 0, dir_fd=fd), 99).decode())",
        f"import os; os.chdir({folder!r}); print(open('secret').read())",
    ]


def harms(secret: Path) -> list[str]:
    name, folder, new = str(secret), str(secret.parent), str(secret.parent / "new")
    return [
        f"open({new!r}, 'w').write('x')",
        f"open({name!r}, 'w')",
        f"open({name!r}, 'a').write('x')",
        f"import os; os.remove({name!r})",
        f"import os; os.rename({name!r}, {new!r})",
        f"import os; os.mkdir({new!r})",
        f"import os; os.truncate({name!r}, 0)",
        f"import shutil; shutil.rmtree({folder!r})",
    ]


def test_the_attacks_work_where_nothing_is_in_the_way(tmp_path: Path):
    """Without a layer, each of them reads or harms; what stops them below is the layer."""
    secret = tmp_path / "inner" / "secret"
    for code in [*readings(secret), *harms(secret)]:
        secret.parent.mkdir(exist_ok=True)
        secret.write_text("swordfish")
        result = sandbox._run(code, (), (), 10.0, 256, 1, 1000)
        kept = secret.is_file() and secret.read_text() == "swordfish" and [*secret.parent.iterdir()] == [secret]
        assert (result.stdout == "swordfish\n") is kept, (code, result)
        if not kept:
            shutil.rmtree(secret.parent, ignore_errors=True)


@pytest.mark.parametrize("layer", FILES)
def test_files_cannot_be_read(layer: str, secret: Path):
    system = ("/etc/passwd", "/proc/self/environ", sandbox.__file__)
    for code in [*readings(secret), *(f"print(open({path!r}).read())" for path in system)]:
        result = run_behind(layer, code)
        assert (result.ok, result.stdout) == (False, ""), code


@pytest.mark.parametrize("layer", FILES)
def test_files_cannot_be_made_changed_or_removed(layer: str, secret: Path):
    for code in harms(secret):
        assert not run_behind(layer, code).ok, code
        assert secret.read_text() == "swordfish"
        assert [path.name for path in secret.parent.iterdir()] == ["secret"]


def test_the_library_cannot_be_changed():
    code = "import os; open(os.path.join(os.path.dirname(os.__file__), 'planted.py'), 'w').write('x = 1')"
    for layer in (x for x in FILES if x in sandbox.layers()):
        assert not run_behind(layer, code).ok
        assert not Path(os.__file__).with_name("planted.py").exists()


def test_other_files_are_not_even_seen():
    if "namespaces" not in sandbox.layers():
        pytest.skip("only the namespaces hide names")
    result = run_behind("namespaces", "import os; print(*sorted(os.listdir('/')))")
    assert {*result.stdout.split()} <= {"box", "dev", "lib", "lib64", "usr", *sys.base_prefix.split("/")}


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_TOKEN", "swordfish")
    assert run("import os, sys; print(dict(os.environ), sys.argv)").stdout == "{} ['']\n"


# --- network and processes -------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[tuple[int, Callable[[], int]]]:
    """A port somebody listens on, and how many have called."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        calls, done = [], threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    calls.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], lambda: len(calls)
        done.set()
        thread.join()


def calling(port: int) -> str:
    return f"import socket; socket.create_connection(('127.0.0.1', {port}), 0.5); print('through')"


def test_the_listener_hears_where_nothing_is_in_the_way(listener: tuple[int, Callable[[], int]]):
    port, calls = listener
    assert sandbox._run(calling(port), (), (), 10.0, 256, 1, 1000).stdout == "through\n"
    time.sleep(0.2)
    assert calls() == 1


@pytest.mark.parametrize("layer", NETWORK)
def test_the_network_is_out_of_reach(layer: str, listener: tuple[int, Callable[[], int]]):
    port, calls = listener
    result = run_behind(layer, calling(port))
    time.sleep(0.1)
    assert (result.ok, result.stdout, calls()) == (False, "", 0)


@pytest.mark.parametrize("layer", ["namespaces", "seccomp", "audit hook"])
def test_no_datagram_leaves(layer: str):
    code = "import socket; print(socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9)))"
    assert sandbox._run(code, (), (), 10.0, 256, 1, 1000).stdout == "1\n"
    result = run_behind(layer, code)
    assert (result.ok, result.stdout) == (False, "")


def test_a_fork_bomb():
    assert run("import os\nwhile True: os.fork()").reason.startswith("The code raised PermissionError")


@pytest.mark.parametrize("layer", PROCESSES)
@pytest.mark.parametrize("code", [
    "import os\nif os.fork() == 0: os._exit(0)",
    "import os; os.execv('/bin/sh', ['sh', '-c', 'true'])",
    "import os; raise SystemExit(os.system('true'))",
    "import subprocess; subprocess.run(['true'])",
    "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "import os; os.kill(os.getppid(), 0)",
])  # fmt: skip
def test_no_process_can_be_started_or_reached(layer: str, code: str):
    result = run_behind(layer, code)
    assert not result.ok
    assert "PermissionError" in result.reason or "SystemExit: " in result.reason


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does this")
def test_nothing_is_left_of_root():
    status = sandbox._run("print(open('/proc/self/status').read())", (), (), 10.0, 256, 1, 10_000).stdout
    said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert [int(said[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [0, 0, 0, 0]
    assert said["NoNewPrivs"] == "1"


def test_c_is_out_of_reach():
    for code in ("import ctypes", "import _ctypes", "import importlib; importlib.import_module('ctypes')",
                 "import sys; sys.modules['__main__'].main.__globals__['kernel']", "import lab",
                 "import importlib.util as u, importlib.machinery as m; s = u.find_spec('_ctypes')\n"
                 "m.ExtensionFileLoader('a._ctypes', s.origin).create_module(u.spec_from_file_location('a._ctypes', "
                 "s.origin))"):  # fmt: skip
        assert not run(code).ok, code


def survivors(mark: str) -> list[psutil.Process]:
    """Processes of this test: a fork inherits the command line, and the mark in it."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(mark in part for part in process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def busy(process: psutil.Process) -> bool:
    """Whether it has come to the loop; starting takes less processor time than that."""
    try:
        return process.cpu_times().user > 0.3
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    word = uuid.uuid4().hex
    monkeypatch.setattr(sandbox, "START", f"{sandbox.START}  # {word}")
    return word


FORK = """
    import os, time
    if os.fork() == 0:
        {}
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
"""


def test_grandchildren_do_not_outlive_the_group(mark: str):
    """With no layer at all: whoever stays in the group is killed with it."""
    if os.geteuid() != 0:
        pytest.skip("others cannot fork at all here")
    result = sandbox._run(textwrap.dedent(FORK.format("pass")), (), (), 5.0, 256, 1, 1000)
    assert result.ok, result
    assert survivors(mark) == []


def test_grandchildren_cannot_leave_the_namespace(mark: str):
    """A session of one's own escapes the group, not the namespace: its first process takes all others with it."""
    if os.geteuid() != 0 or "namespaces" not in sandbox.layers():
        pytest.skip("needs the namespaces, and a user who can fork in them")
    result = run_behind("namespaces", FORK.format("os.setsid()"))
    assert result.ok, result
    until = time.monotonic() + 2
    while survivors(mark) and time.monotonic() < until:
        time.sleep(0.02)
    assert survivors(mark) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does this")
def test_the_code_dies_with_whoever_runs_it(mark: str):
    program = (f"from lab.feedback.verifiers import sandbox\nsandbox.START = {sandbox.START!r}\nsandbox.layers()\n"
               "sandbox.run_python('while True: pass', seconds=60)")  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", program], cwd=sandbox.ROOT) as runner:
        until = time.monotonic() + 20
        while not any(busy(p) for p in survivors(mark)) and time.monotonic() < until:
            time.sleep(0.05)
        assert any(busy(p) for p in survivors(mark))
        runner.send_signal(signal.SIGKILL)
    until = time.monotonic() + 5
    while survivors(mark) and time.monotonic() < until:
        time.sleep(0.02)
    assert survivors(mark) == []


# --- what holds here -------------------------------------------------------------------------------------------------


@pytest.fixture
def offers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def pretend(*names: str) -> None:
        monkeypatch.setattr(sandbox, "layers", lambda: (*names, "audit hook"))

    return pretend


def test_strength_is_honest(offers: Callable[..., None]):
    words = "The sandbox here: a process of its own with limits, "
    kept = " The kernel keeps code from the network and from the files of this machine."
    offers(*KERNEL)
    assert sandbox.strength() == f"{words}namespaces, landlock, seccomp, audit hook.{kept}"
    offers("landlock", "seccomp")
    assert sandbox.strength() == f"{words}landlock, seccomp, audit hook; not available: namespaces.{kept}"
    offers("seccomp")
    assert sandbox.strength().endswith(
        "Only Python's audit hook keeps code from the files: run nothing here that may be hostile."
    )
    offers()
    assert sandbox.strength().endswith(
        "Only Python's audit hook keeps code from the files and the network: run nothing here that may be hostile."
    )


def test_a_layer_that_does_not_hold_stops_the_run(monkeypatch: pytest.MonkeyPatch):
    """Nothing runs behind less than was found at the start."""
    monkeypatch.setattr(sandbox, "readable", lambda: ["/does/not/exist"])
    for layer in (x for x in ("namespaces", "landlock") if x in sandbox.layers()):
        with pytest.raises(SandboxError, match=r"\AThe sandbox does not work on this machine: "):
            sandbox._run("print('ran')", (), (layer,), 1.0, 256, 1, 1000)


def test_a_start_that_fails_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox, "START", "raise RuntimeError('no start')")
    with pytest.raises(SandboxError, match="no start"):
        sandbox._run("", (), (), 1.0, 256, 1, 1000)
