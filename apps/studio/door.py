"""Who may come in, and as what.

On a laptop nobody logs in: whoever reaches 127.0.0.1 is the host. Exposed, everybody brings a nickname, a PIN of their
own and the workshop's code; who brings the host's code instead is a host. The label store knows names and PINs (as
scrypt hashes) and keeps sessions; a session is a random token in a cookie that scripts cannot read and other sites
cannot send. That somebody is a host is a second cookie, an HMAC of the token under the host's code.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass

from apps.studio.parts import Labels
from apps.studio.people import ME, Person
from lab.feedback.labels.gate import SHORTEST_CODE, CodeGate

SESSION, HOST = "studio_session", "studio_host"
KNOWN_S = 60.0
"""How long the holder of a token is remembered without asking the store, in seconds."""


class DoorError(ValueError):
    """A door that would not keep anybody out."""


@dataclass(frozen=True)
class Entry:
    """Somebody who came in: the cookies to give."""

    person: Person
    token: str
    seal: str


class Door:
    """Lets people in. `code` opens it for attendees, `host_code` for hosts; without exposure everybody is `ME`."""

    def __init__(self, labels: Labels, *, exposed: bool = False, code: str = "", host_code: str = "") -> None:
        if exposed and len(code) < SHORTEST_CODE:
            raise DoorError(f"Other machines may come in only with a workshop code of {SHORTEST_CODE} characters or "
                            "more; give one with --code.")  # fmt: skip
        if host_code and (len(host_code) < SHORTEST_CODE or host_code == code):
            raise DoorError(f"The host's code has {SHORTEST_CODE} characters or more and is not the workshop's; give "
                            "another one with --host-code.")  # fmt: skip
        self.labels, self.exposed = labels, exposed
        self.host_code = host_code or secrets.token_hex(6)
        self.gate = CodeGate(code, self.host_code)
        self._known: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def enter(self, name: str, pin: str, code: str) -> Entry:
        """Somebody who logs in. Raises LoginError for a wrong code, a wrong PIN, or too many tries."""
        given, store = self.gate.check(code.strip()), self.labels.store()
        person = Person(store.login(name, pin), given == self.host_code)
        token = store.start_session(person.name)
        return Entry(person, token, self._seal(token) if person.host else "")

    def who(self, token: str, seal: str) -> Person | None:
        """Who holds a token; None where nobody does. Asks the store at most once a minute for each."""
        if not self.exposed:
            return ME
        now = time.monotonic()
        with self._lock:
            name, until = self._known.get(token, ("", 0.0))
        if until < now:
            name = (self.labels.store().whose(token) if token else None) or ""
            with self._lock:
                self._known = {t: known for t, known in self._known.items() if known[1] >= now}
                if name:
                    self._known[token] = name, now + KNOWN_S
        if not name:
            return None
        return Person(name, bool(seal) and hmac.compare_digest(seal, self._seal(token)))

    def remembers(self, token: str) -> bool:
        """Whether `who` answers about this token without asking the store."""
        return not self.exposed or not token or self._known.get(token, ("", 0.0))[1] >= time.monotonic()

    def leave(self, token: str) -> None:
        """The token stands for nobody from now on."""
        with self._lock:
            self._known.pop(token, None)
        if self.exposed:
            self.labels.store().end_session(token)

    def _seal(self, token: str) -> str:
        return hmac.new(self.host_code.encode(), token.encode(), hashlib.sha256).hexdigest()
