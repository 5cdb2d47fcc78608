"""A session played in the terminal: one Ctrl-C stops safely, a second one leaves at once."""

from __future__ import annotations

import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lab.events import Done, Event
from lab.runs import RunError, resume_command
from lab.state import Listener

if TYPE_CHECKING:
    from lab.session import Session


def run_in_foreground(
    session: Session,
    on_event: Listener = lambda event: None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Done:
    """Plays a session to its end, calling `on_event` in this thread.

    The first Ctrl-C (or SIGTERM) stops at the next safe point with a checkpoint and says how to go on; the second one
    leaves at once. Raises the run's own error if it fails, and RunError when the disk refuses a checkpoint.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    presses: list[int] = []
    asked = False

    def pressed(number: int, _frame: object) -> None:
        presses.append(number)
        if len(presses) > 1:
            raise KeyboardInterrupt

    unsubscribe = session.subscribe(events.put)
    try:
        with _on_interrupt(pressed):
            session.play()
            while True:
                if presses and not asked:
                    asked = True
                    session.stop()
                    say("Stopping after this step, with a checkpoint; press Ctrl-C again to leave at once.")
                try:
                    event = events.get(timeout=0.1)
                except queue.Empty:
                    status = session.status
                    if status.state == "paused" and status.error:
                        session.abandon()
                        raise RunError(status.error) from None
                    continue
                on_event(event)
                if isinstance(event, Done):
                    break
    except KeyboardInterrupt:
        session.abandon()
        say(f"Left at once; go on with: {resume_command(session.run)}")
        raise
    finally:
        unsubscribe()
    if event.outcome == "stopped":
        say(f"{session.run.id} {event.sentence}")
    return session.wait()


@contextmanager
def _on_interrupt(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Sends Ctrl-C and SIGTERM to `handler` meanwhile; outside the main thread signals cannot be taken over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
