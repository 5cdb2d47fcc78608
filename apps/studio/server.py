"""The Studio's server: it listens at once, shows the runs, and brings Gradio's page in when that has been read."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn

from apps.studio.door import Door, DoorError
from apps.studio.front import Front
from apps.studio.link import Client
from apps.studio.parts import Parts

SWITCH_S = 0.0005
"""How long a thread may keep the interpreter, in seconds: a vote does not wait 5 ms each time a figure is computed."""


class StudioError(RuntimeError):
    """The Studio cannot start: one sentence with the cause and what to do."""


class Studio:
    """A Studio over a root of runs, in a thread of this process.

    exposed   : whether other machines may come in; wants a `code` of six characters or more
    host_code : what hosts give instead (empty: a new one, `studio.door.host_code`)
    tls       : files of a certificate and its key; without them a network reads along
    """

    def __init__(self, root: Path | str, host: str = "127.0.0.1", port: int = 7860, *, client: Client | None = None,
                 labels: Path | str = "", exposed: bool = False, code: str = "", host_code: str = "",
                 tls: tuple[str, str] | None = None) -> None:  # fmt: skip
        refuse_taken_port(host, port)
        sys.setswitchinterval(SWITCH_S)
        self.parts = Parts.over(root, client, labels)
        try:
            self.door = Door(self.parts.labels, exposed=exposed, code=code, host_code=host_code)
        except DoorError as error:
            raise StudioError(str(error)) from error
        self.front = Front(self.door, Path(root), secure=tls is not None)
        cert, key = tls or (None, None)
        settings = uvicorn.Config(self.front, host=host, port=port, log_level="warning", access_log=False,
                                  lifespan="off", limit_concurrency=1000, timeout_graceful_shutdown=1,
                                  server_header=False, ssl_certfile=cert, ssl_keyfile=key)  # fmt: skip
        try:
            settings.load()
        except (OSError, ssl.SSLError) as error:
            raise StudioError(f"The certificate or its key cannot be used: {error}.") from error
        self._server = _Server(settings, self)
        self._thread = threading.Thread(target=self._server.run, name="studio", daemon=True)
        self.loaded = threading.Event()
        name = own_address() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.address = f"http{'s' if tls else ''}://{name}:{port}/"

    def start(self) -> Studio:
        """Serves from now on; back as soon as the port is open."""
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise StudioError("The Studio's server could not be started; the terminal says why.")
            time.sleep(0.01)
        return self

    def wait(self, timeout_s: float = 120.0) -> Studio:
        """Waits until the whole page can be loaded. Raises StudioError where it cannot be built."""
        if not self.loaded.wait(timeout_s) or self.front.failed:
            raise StudioError(self.front.failed or f"The page was not there after {timeout_s:g} seconds.")
        return self

    def block(self) -> None:
        """Waits until it is interrupted."""
        with suppress(KeyboardInterrupt):
            while self._thread.is_alive():
                self._thread.join(0.5)

    def close(self) -> None:
        """Ends the server; the runs go on."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(10)
        self.parts.labels.close()

    @asynccontextmanager
    async def page(self) -> AsyncIterator[None]:
        """While inside, Gradio's page is built, and served once it is there."""
        reading = asyncio.create_task(self._read())
        try:
            yield
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    async def _read(self) -> None:
        try:
            app: Any = await asyncio.to_thread(_application, self.parts)
            async with app.router.lifespan_context(app):
                self.front.app = app
                self.loaded.set()
                await asyncio.Event().wait()
        except Exception as error:  # the page says that it is not there, and the terminal why
            traceback.print_exception(error, file=sys.stderr)
            self.front.failed = f"The page could not be built ({type(error).__name__}); the terminal has the details."
            self.loaded.set()


class _Server(uvicorn.Server):
    """uvicorn, which builds the page in its own event loop once it listens."""

    def __init__(self, config: uvicorn.Config, studio: Studio) -> None:
        super().__init__(config)
        self.studio = studio

    async def main_loop(self) -> None:
        async with self.studio.page():
            await super().main_loop()


def _application(parts: Parts) -> Any:
    from apps.studio.app import application

    return application(parts)


def serve(root: Path | str, host: str = "127.0.0.1", port: int = 7860, client: Client | None = None,
          wait: bool = True, **more: Any) -> Studio:  # fmt: skip
    """Serves the Studio until it is interrupted; with `wait=False` back once the whole page is there.

    `more` goes to `Studio`. Raises StudioError, on a taken port for one.
    """
    studio = Studio(root, host, port, client=client, **more).start()
    if not wait:
        return studio.wait()
    print(f"Studio: {studio.address}  (runs in {root}; stop with Ctrl+C)", flush=True)
    if studio.door.exposed:
        print(f"Hosts come in with the code {studio.door.host_code}", flush=True)
    try:
        studio.block()
    finally:
        studio.close()
    return studio


def own_address() -> str:
    """The number under which the local network knows this machine, for phones that cannot look names up; its name where
    there is no network. Nothing is sent: a UDP socket only chooses the way it would take (to TEST-NET-1, RFC 5737)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect(("192.0.2.1", 9))
            return way.getsockname()[0]
        except OSError:
            return socket.gethostname()


def refuse_taken_port(host: str, port: int) -> None:
    """Raises StudioError, in one sentence, when nobody can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StudioError(
                    f"Port {port} is in use, perhaps by another Studio: open http://{host}:{port}, or "
                    f"choose another port with --port {port + 1}."
                ) from error
            raise StudioError(f"The Studio cannot listen on {host}:{port}: {error.strerror}.") from error
