"""The front of the Studio: what every request meets before Gradio does.

It listens at once and shows the runs while Gradio is still being read from the disk; it lets people in; and it lets
through only the few requests that the page makes of Gradio. Uploads, files by path, proxies and named endpoints are
not among them: there is nothing to traverse and nothing to fetch through.

    GET  /            the page, the login, or the waiting page   GET /studio-assets/…   scripts, styles, plotly
    GET  /ready       whether the page can be loaded             POST /login {name, pin, code}      POST /logout
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from apps.studio.door import HOST, SESSION, Door
from apps.studio.people import Person, acting
from apps.studio.waiting import login_page, waiting_page
from lab.feedback.labels.gate import allowed_host
from lab.feedback.labels.shapes import misfit, text
from lab.feedback.labels.words import LabelError, LoginError

ASSETS = Path(__file__).parent / "assets"
MOUNT = "studio-assets"
"""Where the page finds its scripts, relative to its own address."""

MOST_BYTES = 1 << 20
"""Of the body of a request: a prompt, a form, a pair of long answers."""

LOGIN = ({"name": text(120), "pin": text(120), "code": text(120)}, ("name", "pin"))

GRADIO = re.compile(r"/|/config/?|/theme\.css|/(assets|static|svelte)/.*|/favicon\.ico|/manifest\.json|/robots\.txt|"
                    r"/gradio_api/(theme\.css|app_id/?|info/?|startup-events|heartbeat/\w+|queue/data)")  # fmt: skip
"""What the page asks of Gradio by GET."""

ASKED = re.compile(r"/gradio_api/(queue/join|component_server|cancel|reset)/?")
"""And by POST."""

POLICY = ("default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
          "form-action 'self'; frame-ancestors 'none'")  # fmt: skip
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
           "x-frame-options": "DENY", "cross-origin-resource-policy": "same-origin"}  # fmt: skip
"""With these a browser asks no other machine for anything, whatever is in the page."""

App = Callable[[Any, Any, Any], Awaitable[None]]


class RefusalError(Exception):
    """A request that is answered with a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Front:
    """An ASGI application around Gradio's, which comes in later as `app`."""

    def __init__(self, door: Door, root: Path, secure: bool = False) -> None:
        self.door, self.root, self.secure = door, root, secure
        self.app: App | None = None
        self.failed = ""
        self._logins = ThreadPoolExecutor(1, thread_name_prefix="logins")  # hashing is slow on purpose

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        request, send, person = Request(scope, receive), _with_headers(send), None
        try:
            self._same_origin(request)
            person = await self._who(request)
            answer = await self._own(request, person)
            if answer is None and person is None:
                raise RefusalError(401, "Log in first: a nickname, a PIN of your own, and the workshop's code.")
            if answer is None:
                receive = await self._gradio(request)
        except (RefusalError, LabelError) as error:
            answer = JSONResponse({"error": str(error)}, status_code=_status(error))
        if answer is not None:
            await answer(scope, receive, send)
            return
        assert self.app is not None
        assert person is not None
        with acting(person):
            await self.app(scope, receive, send)

    # ── every request ────────────────────────────────────────────────────────────────────────────────────────────────

    def _same_origin(self, request: Request) -> None:
        """Raises for a name this machine does not have, and for what another site's page asks."""
        host = request.headers.get("host", "")
        if not allowed_host(host, self.door.exposed):
            raise RefusalError(421, "This Studio is not called that; use the address it was started with.")
        site, origin = request.headers.get("sec-fetch-site", "same-origin"), request.headers.get("origin")
        if request.method == "GET":
            if site in ("cross-site", "same-site") and request.headers.get("sec-fetch-mode") != "navigate":
                raise RefusalError(403, "Another site's page asks for this; open the Studio itself.")
            return
        if request.method not in ("POST", "HEAD"):
            raise RefusalError(405, "The Studio knows GET and POST.")
        if (origin is not None and urlsplit(origin).netloc != host) or site not in ("same-origin", "none"):
            raise RefusalError(403, "This came from another site's page; use the Studio itself.")
        if request.method == "POST" and request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise RefusalError(415, "A request is JSON.")

    async def _who(self, request: Request) -> Person | None:
        token, seal = request.cookies.get(SESSION, ""), request.cookies.get(HOST, "")
        if self.door.remembers(token):
            return self.door.who(token, seal)
        return await asyncio.to_thread(self.door.who, token, seal)

    async def _own(self, request: Request, person: Person | None) -> Response | None:
        """The answer of the front itself; None: the request is Gradio's."""
        path, method = request.url.path, request.method
        if method == "POST" and path == "/login":
            return await self._login(request)
        if method == "POST" and path == "/logout":
            await asyncio.to_thread(self.door.leave, request.cookies.get(SESSION, ""))
            return _cookies(JSONResponse({}), "", "", self.secure)
        if method == "GET" and path.startswith(f"/{MOUNT}/") and person is not None:
            return _asset(path.rsplit("/", 1)[-1])
        if path == "/ready" and person is not None:
            return JSONResponse({"ready": self.app is not None, "failed": self.failed})
        if path == "/" and person is None:
            return HTMLResponse(login_page(), headers={"cache-control": "no-store"})
        if path == "/" and person is not None and not person.host and not request.url.query:
            return RedirectResponse("?tab=guide", 303)  # an attendee begins with the rules
        if path == "/" and self.app is None:
            return HTMLResponse(await asyncio.to_thread(waiting_page, self.root), headers={"cache-control": "no-store"})
        return None

    async def _gradio(self, request: Request) -> Any:
        """What Gradio will read the request's body from. Raises for what the page never asks."""
        known = ASKED if request.method == "POST" else GRADIO
        if not known.fullmatch(request.url.path):
            raise RefusalError(404, "There is nothing here; the Studio begins at /.")
        if self.app is None:
            raise RefusalError(503, "The Studio is still starting; in a few seconds it is there.")
        return request.receive if request.method != "POST" else _again(await _body(request), request.receive)

    async def _login(self, request: Request) -> Response:
        try:
            row = json.loads(await _body(request))
        except (ValueError, RecursionError):
            raise RefusalError(400, "The request is not JSON.") from None
        wrong = misfit(row, *LOGIN, closed=True) if isinstance(row, dict) else "it is no object"
        if wrong:
            raise RefusalError(400, f"The request does not fit: {wrong}.")
        loop = asyncio.get_running_loop()
        given = (row["name"], row["pin"], row.get("code", ""))
        entry = await loop.run_in_executor(self._logins, lambda: self.door.enter(*given))
        answer = JSONResponse({"name": entry.person.name, "host": entry.person.host})
        return _cookies(answer, entry.token, entry.seal, self.secure)


def _cookies(answer: Response, token: str, seal: str, secure: bool) -> Response:
    for name, value in ((SESSION, token), (HOST, seal)):
        if value:
            answer.set_cookie(name, value, httponly=True, samesite="strict", secure=secure, max_age=14 * 86_400)
        else:
            answer.delete_cookie(name, httponly=True, samesite="strict", secure=secure)
    return answer


def _asset(name: str) -> Response:
    path = plotly_script() if name == "plotly.min.js" else ASSETS / name
    if not re.fullmatch(r"[\w.]+\.(js|css)", name) or not path.is_file():
        raise RefusalError(404, "There is nothing here; the Studio begins at /.")
    kind = "text/css" if name.endswith(".css") else "text/javascript"
    return FileResponse(path, media_type=kind, headers={"cache-control": "private, max-age=31536000"})


def plotly_script() -> Path:
    """The plotly.js that comes with the installed plotly package (which is found without being imported)."""
    from importlib.util import find_spec

    found = find_spec("plotly")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "package_data" / "plotly.min.js"


async def _body(request: Request) -> bytes:
    """The body of a request. Raises for one over the limit, without reading on."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise RefusalError(413, f"A request has up to {MOST_BYTES} bytes.")
    return bytes(body)


def _again(body: bytes, receive: Any) -> Any:
    """A `receive` that gives a body which was read, and then what comes after it."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Any:
        return left.pop() if left else await receive()

    return give


def _with_headers(send: Any) -> Any:
    """A `send` that adds the headers every answer carries."""
    added = [(k.encode(), v.encode()) for k, v in HEADERS.items()]

    async def give(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            names = {name for name, _ in added}
            kept = [(k, v) for k, v in message.get("headers", ()) if k.lower() not in names]
            message = message | {"headers": [*kept, *added]}
        await send(message)

    return give


def _status(error: Exception) -> int:
    return error.status if isinstance(error, RefusalError) else 403 if isinstance(error, LoginError) else 400
