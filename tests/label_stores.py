"""Where label stores can live in tests: a SQLite file, and a real PostgreSQL server that is started for the purpose."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.feedback.labels.words import Item
from lab.records import Comparison

MISSING = (
    "PostgreSQL's server is not installed: apt-get install postgresql (Debian, Ubuntu), or leave its tests out with "
    "-m 'not postgres'."
)


def binary(name: str) -> str:
    """A program of PostgreSQL's server: on the path, or where Debian keeps it. Fails the test where there is none."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))[::-1]), None)
    if found is None:
        pytest.fail(MISSING, pytrace=False)
    return found


def somebody() -> pwd.struct_passwd:
    """An unprivileged user where we are root, because the server refuses to run as root; else ourselves."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    names = {p.pw_name for p in pwd.getpwall()}
    return pwd.getpwnam("postgres" if "postgres" in names else "nobody")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The socket folder of a fresh server, which listens nowhere else; its superuser is `lab`."""
    initdb, postgres = binary("initdb"), binary("postgres")
    user = somebody()
    # not pytest's own folder, which nobody else may enter
    home = Path(tempfile.mkdtemp(prefix="pg"))
    as_user: dict[str, Any] = {"cwd": home}
    if os.getuid() == 0:
        os.chown(home, user.pw_uid, user.pw_gid)
        as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    server = None
    try:
        how = ["-D", "data", "-U", "lab", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run([initdb, *how],
                              capture_output=True, text=True, check=False, **as_user)  # fmt: skip
        assert made.returncode == 0, made.stderr
        log = (home / "log").open("wb")
        quiet = ["-D", "data", "-k", str(home), "-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen([postgres, *quiet],
                                  stdout=log, stderr=log, **as_user)  # fmt: skip
        wait_for(str(home), server)
        yield str(home)
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # waits for nobody and tidies nothing up
            server.wait()
        shutil.rmtree(home, ignore_errors=True)


def wait_for(home: str, server: subprocess.Popen) -> None:
    """Until the server answers."""
    import psycopg

    while True:
        assert server.poll() is None, (Path(home) / "log").read_text()
        try:
            psycopg.connect(host=home, user="lab", dbname="postgres").close()
        except psycopg.OperationalError:
            continue
        return


NUMBER = itertools.count()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def label_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new label store goes: a file, and in a second run of the test a schema of its own on the server."""
    if request.param == "sqlite":
        return str(tmp_path / "labels.sqlite")
    import psycopg

    home, name = request.getfixturevalue("postgres_server"), f"labels{next(NUMBER)}"
    with psycopg.connect(host=home, user="lab", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"postgresql+psycopg://lab@/postgres?host={home}&options=-csearch_path%3D{name}"


def some_items(n: int, *, per_prompt: int = 1, **more: Any) -> list[Item]:
    """`n` pairs, `per_prompt` of each prompt."""
    return [Item(Comparison(f"prompt {i // per_prompt}", f"answer {i} a", f"answer {i} b"), **more) for i in range(n)]


class Clock:
    """A clock that stands still until it is moved; milliseconds."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        """Moves it."""
        self.now += round(1000 * seconds)
