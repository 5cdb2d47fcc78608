"""Files that are whole or absent: atomic replacement, folders that appear complete, a log without torn lines.

Nothing here knows what a run is; `lab.runs` and `lab.engine` write through it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


def process_lives(pid: int) -> bool:
    """Whether a process with this number exists on this machine."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_atomic(path: Path, data: bytes, *, durable: bool = True, mode: int = 0o644) -> None:
    """Replaces a file as a whole: readers see the old bytes or the new ones. `durable` waits for the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish(final: Path, write: Callable[[Path], None]) -> None:
    """Makes a folder that is complete on disk before it has its name; on any error nothing is left."""
    temporary = final.with_name(f".tmp-{final.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
        os.rename(temporary, final)
        sync(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def cut_torn_line(fd: int) -> int:
    """Cuts off what a killed writer left after the last newline; returns the size of the file, in bytes."""
    size = end = os.lseek(fd, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)
    return end


def append_line(path: Path, line: bytes) -> None:
    """Adds one line (with its newline) in one write. Raises OSError; the file then ends after its last whole line."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = cut_torn_line(fd)
        if os.write(fd, line) < len(line):
            os.ftruncate(fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def sync(path: Path) -> None:
    """Waits until a file or a folder is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def pretty(value: Any) -> bytes:
    """JSON for files that people open too."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
