"""The one thread of a process that touches the model: short calls go before the next turn of a run."""

from __future__ import annotations

import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any


class Worker:
    """A daemon thread with two queues: calls (look at the model) and turns (one step of one run each).

    The model is loaded in it too: a second thread that computes brings a second pool of OpenMP threads, and with more
    of them than cores each waits for its turn by sleeping (a PPO step of the tiny world takes 1.3 times as long).

    A turn serves the waiting calls whenever it is between two events, so a call waits for an event and never for a
    step. Several runs take turns step by step.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._turns: deque[Callable[[], None]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="lab-worker", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[[], Any]) -> Future[Any]:
        """Calls `fn` in the thread between two events of whatever runs; random state and gradient mode are put back."""
        future: Future[Any] = Future()
        if threading.current_thread() is self._thread:
            _answer(future, fn)
            return future
        with self._changed:
            if self._closed:
                raise RuntimeError("the worker is closed; make a new session or start the engine again.")
            self._calls.append((future, fn))
            self._changed.notify()
        return future

    def turn(self, fn: Callable[[], None]) -> None:
        """Queues one turn of a run; `fn` must not raise."""
        with self._changed:
            self._turns.append(fn)
            self._changed.notify()

    def serve(self) -> None:
        """Answers the waiting calls; a turn does so between two events."""
        while True:
            with self._changed:
                if not self._calls:
                    return
                future, fn = self._calls.popleft()
            _answer(future, fn)

    def close(self, wait_s: float | None = None) -> bool:
        """Ends the thread after the waiting calls, and waits for that (at most `wait_s` seconds); turns never start.

        Gives back whether it has ended.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._turns or self._closed)
                if self._closed and not self._calls:
                    return
            self.serve()
            with self._changed:
                turn = self._turns.popleft() if self._turns and not self._closed else None
            if turn is not None:
                turn()
            turn = None  # while it waits, the thread holds on to no run


@cache
def default_worker() -> Worker:
    """The process's one worker thread, made at first use."""
    return Worker()


def _answer(future: Future[Any], fn: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        with random_state_kept():
            result = fn()
    except BaseException as error:  # the caller gets it, whatever it is; the thread must live on
        future.set_exception(error)
    else:
        future.set_result(result)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Puts the global random generators (Python, NumPy, torch on CPU and GPUs) and torch's gradient mode back.

    Only libraries that are loaded already are looked at.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    after = ExitStack()
    after.callback(random.setstate, random.getstate())
    if numpy is not None and hasattr(numpy, "random"):
        after.callback(numpy.random.set_state, numpy.random.get_state())
    if torch is not None and hasattr(torch, "get_rng_state"):
        after.callback(torch.set_rng_state, torch.get_rng_state())
        after.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        if torch.cuda.is_initialized():
            after.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
    try:
        yield
    finally:
        after.close()
