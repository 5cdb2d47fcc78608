"""Who may come in from other machines: a workshop code that cannot be guessed by trying, and names this machine has."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import time
from collections import deque
from urllib.parse import urlsplit

from lab.feedback.labels.words import LoginError

SHORTEST_CODE = 6
MOST_WRONG_CODES = 30
"""Wrong workshop codes in a minute, from everybody together; then nobody comes in until the minute is over."""


class CodeGate:
    """A workshop's code (empty: none is asked for), and any number of others that open the same door."""

    def __init__(self, code: str, *others: str) -> None:
        self.codes = (code, *others)
        self._wrong: deque[float] = deque()

    def check(self, given: str) -> str:
        """The code that was given. Raises LoginError for a wrong one, and for any after too many wrong ones."""
        now = time.monotonic()
        while self._wrong and self._wrong[0] < now - 60:
            self._wrong.popleft()
        if len(self._wrong) >= MOST_WRONG_CODES:
            raise LoginError("There were too many wrong workshop codes; wait a minute, and try again.")
        right = [code for code in self.codes if secrets.compare_digest(given.encode(), code.encode())]
        if not right:
            self._wrong.append(now)
            raise LoginError("That is not the workshop's code; the host knows it.")
        return right[0]


def allowed_host(host: str, exposed: bool) -> bool:
    """Whether a Host header names this machine: loopback, and when exposed any bare address or the machine's own name.

    A page elsewhere that makes its own name point here (DNS rebinding) is refused by this.
    """
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
        return exposed or address.is_loopback
    except ValueError:
        own = socket.gethostname().lower()
        return exposed and name in (own, own.split(".")[0], own.split(".")[0] + ".local")
