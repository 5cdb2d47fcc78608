"""Rows that the worker thread computes, as the lines of an answer (NDJSON) that can be broken off."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from lab.runs import one_sentence
from lab.worker import Worker

Rows = Iterator[dict[str, Any]]


async def at_once(worker: Worker, make: Callable[[], Rows]) -> AsyncIterator[bytes]:
    """The rows as lines, computed in one call: a run waits for the last. Closing the stream ends it at its next row."""
    loop, rows, gone = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None](), threading.Event()

    def put(row: dict[str, Any] | None) -> None:
        with suppress(RuntimeError):  # the channel is closed: nobody is left to read it
            loop.call_soon_threadsafe(rows.put_nowait, row)

    def pump() -> None:
        source = make() if not gone.is_set() else iter(())
        try:
            for row in source:
                if gone.is_set():
                    return
                put(row)
        except Exception as error:  # the stream is under way: the last line says what happened
            put(said(error))
        finally:
            getattr(source, "close", lambda: None)()
            put(None)

    future = worker.submit(pump)
    try:
        while (row := await rows.get()) is not None:
            yield line(row)
    finally:
        gone.set()
        future.cancel()


async def apart(worker: Worker, make: Callable[[], Rows]) -> AsyncIterator[bytes]:
    """The rows as lines, each computed in a call of its own: a run that plays goes on between two."""
    source: Rows = iter(())
    try:
        source = await asyncio.wrap_future(worker.submit(make))
        while (row := await asyncio.wrap_future(worker.submit(lambda: next(source, None)))) is not None:
            yield line(row)
    except Exception as error:  # the stream is under way: the last line says what happened
        yield line(said(error))
    finally:
        with suppress(RuntimeError):  # a worker that is closed computes no more
            worker.submit(getattr(source, "close", lambda: None))


def line(row: dict[str, Any]) -> bytes:
    """One row as a line of the answer."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def said(error: Exception) -> dict[str, Any]:
    """What whoever asked is told about an error, with what it carries besides."""
    return {"error": one_sentence(error), "payload": getattr(error, "payload", {})}
