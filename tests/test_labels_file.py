"""The label store's file and server: what can be wrong with them, each in one sentence, and what keeps votes safe."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from label_stores import MISSING, binary, some_items

from lab.feedback.labels.schema import VERSION
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import LabelError, vote


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store with one pair and one person."""
    path = tmp_path / "labels.sqlite"
    with Store.open(path) as store:
        store.add(some_items(1))
        store.person("mina")
    return path


def one_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and "Traceback" not in text and "sqlalche.me" not in text


def test_a_commit_waits_for_the_disk_and_readers_wait_for_nobody(file: Path) -> None:
    with Store.open(file) as store, store.database.read() as connection:
        said = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys")}  # fmt: skip
        assert said == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        before = connection.exec_driver_sql("SELECT count(*) FROM events").scalar()
        store.record(vote(some_items(1)[0].id, "mina", "k", 1))
        assert connection.exec_driver_sql("SELECT count(*) FROM events").scalar() == before, "as it was at one moment"


def test_a_store_of_a_newer_version_is_refused(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE about SET value = ? WHERE name = 'version'", (str(VERSION + 1),))
    with pytest.raises(LabelError, match=f"newer rlhf-lab.*{VERSION + 1}.*update rlhf-lab") as error:
        Store.open(file)
    assert one_sentence(str(error.value))


def test_a_locked_store_says_so(file: Path) -> None:
    with Store.open(file, wait_s=0.05) as store:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LabelError, match="in use by another program") as error:
            store.record(vote(some_items(1)[0].id, "mina", "k", 1))
        assert one_sentence(str(error.value))
        assert len(store.items()) == 1, "reading goes on"
        other.execute("ROLLBACK")
        other.close()
        assert store.record(vote(some_items(1)[0].id, "mina", "k", 1)).new


def test_a_store_that_can_only_be_read_is_read(file: Path) -> None:
    with Store.open(f"sqlite:///file:{file}?mode=ro&uri=true", create=False) as store:
        assert len(store.items()) == 1
        with pytest.raises(LabelError, match="can only be read") as error:
            store.person("tom")
        assert one_sentence(str(error.value))


def test_other_files_are_not_taken_for_a_store(tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, but some hundred bytes of prose. " * 20)
    with pytest.raises(LabelError, match="not a SQLite file") as error:
        Store.open(text)
    assert one_sentence(str(error.value))
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(LabelError, match="something else"):
        Store.open(other)


def test_places_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="its folder exists") as error:
        Store.open(tmp_path / "nowhere" / "labels.sqlite")
    assert one_sentence(str(error.value))
    with pytest.raises(LabelError, match="There is no label store"):
        Store.open(tmp_path / "labels.sqlite", create=False)
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(LabelError, match="no label store yet"):
        Store.open(tmp_path / "empty.sqlite", create=False)


@pytest.mark.parametrize(
    "url", ["nosuch://lab:secret@host/labels", "postgresql+psycopg://lab:secret@127.0.0.1:1/labels"]
)
def test_servers_that_cannot_be_used_are_named_without_the_password(url: str) -> None:
    with pytest.raises(LabelError) as error:
        Store.open(url)
    assert one_sentence(str(error.value))
    assert "secret" not in str(error.value)


def test_a_damaged_file_says_what_to_do(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    file.write_bytes(data)
    with pytest.raises(LabelError, match=r"damaged|does not answer") as error, Store.open(file) as store:
        store.items()
    assert one_sentence(str(error.value))


def test_a_copy_of_the_file_is_the_store(file: Path, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path / "copy.sqlite")
    with Store.open(tmp_path / "copy.sqlite", create=False) as store:
        assert [i.id for i in store.items()] == [i.id for i in some_items(1)]


@pytest.mark.postgres
def test_the_server_is_a_real_one(postgres_server: str) -> None:
    said = subprocess.run([binary("postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("postgres (PostgreSQL)")
    assert (Path(postgres_server) / "data" / "PG_VERSION").is_file()


def test_without_a_server_the_tests_fail_and_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    with pytest.raises(pytest.fail.Exception, match="apt-get install postgresql") as failed:
        binary("postgres")
    assert str(failed.value) == MISSING
