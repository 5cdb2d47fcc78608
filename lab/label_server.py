"""The labelling server: one page and a small JSON channel over a label store, for a room of people with any browser.

    GET  /           the page; it asks nothing of any other machine
    POST /login      {name, pin, code}                         GET /me      who I am, how far we are
    GET  /next       the next pair, blind: no model, no score  POST /skip   {item, key}
    POST /vote       {item, key, strength, both_bad, reasons, note, ms}     POST /undo {key}     POST /logout

An answer to a vote is sent after the vote is on the disk. `strength` is in display order: above 0, what stood first is
better.

Who may ask: whoever holds a session, a random token in a cookie that scripts cannot read and other sites cannot send. A
POST from another origin is refused, and so is a request that calls this machine by a name it does not have. Bodies are
bounded and checked. What is asked of the store happens in a few threads of its own; no address of anybody is kept.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lab.feedback.labels.gate import SHORTEST_CODE, CodeGate, allowed_host
from lab.feedback.labels.shapes import Shape, flag, misfit, one_of, several, text, whole
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import LONGEST_NOTE, LONGEST_WAIT, LabelError, LoginError, RefusedError, Showing
from lab.records import Message, as_messages

PAGE = Path(__file__).with_name("label_page.html")
COOKIE = "label_session"
MOST_BYTES = 16_384
"""Of the body of a request."""

THREADS = 4
KNOWN_S = 60.0
"""How long the holder of a token is remembered without asking the store, in seconds."""

REASONS = ("correct", "helpful", "safe", "concise", "style")
"""The chips of the page."""

SHOWN = {"item": text(120), "key": text(120)}
SAID = {"reasons": several(one_of(*REASONS), len(REASONS)), "note": text(LONGEST_NOTE), "ms": whole(0, LONGEST_WAIT)}
FORMS: dict[str, tuple[dict[str, Shape], tuple[str, ...]]] = {
    "login": ({"name": text(120), "pin": text(120), "code": text(120)}, ("name", "pin")),
    "vote": (SHOWN | SAID | {"strength": whole(-2, 2), "both_bad": flag}, ("item", "key", "strength")),
    "skip": (SHOWN | SAID, ("item", "key")),
    "undo": ({"key": text(120, 8)}, ("key",)),
    "logout": ({}, ()),
}
"""What a POST may say, and what it must."""


class _HTTPError(Exception):
    """A request that is answered with a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def _turns(value: Any) -> list[dict[str, str]]:
    turns = as_messages(value) if isinstance(value, str) else value
    return [{"role": m.role if isinstance(m, Message) else "", "text": m.content} for m in turns]


def _completion(value: Any) -> list[dict[str, str]]:
    return [{"role": "assistant", "text": value}] if isinstance(value, str) else _turns(value)


def shown(showing: Showing | None) -> dict[str, Any] | None:
    """A showing as the page gets it: nothing in it says which model, or whether it is a check."""
    if showing is None:
        return None
    c = showing.shown
    return {"item": showing.item.id, "key": showing.key, "prompt": _turns(c.prompt), "first": _completion(c.a),
            "second": _completion(c.b), "cut": [not ended for ended in c.ended]}  # fmt: skip


class LabelServer:
    """The channel over a store. `code` is the workshop's, empty for none; `exposed`: other machines may come in."""

    def __init__(self, store: Store, *, code: str = "", exposed: bool = False) -> None:
        if exposed and len(code) < SHORTEST_CODE:
            raise LabelError(f"Other machines may come in only with a workshop code of {SHORTEST_CODE} characters or "
                             "more; give one with --code.")  # fmt: skip
        self.store, self.gate, self.exposed = store, CodeGate(code), exposed
        self._known: dict[str, tuple[str, float]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="labels")
        self._logins = ThreadPoolExecutor(1, thread_name_prefix="logins")  # hashing is slow on purpose; votes go on
        self._page = PAGE.read_text(encoding="utf-8")
        self._headers = _headers(self._page)

    def app(self) -> Starlette:
        """The web application."""
        post = {"login": self._login, "vote": self._vote, "skip": self._skip, "undo": self._undo,
                "logout": self._logout}  # fmt: skip
        get = {"next": self._next, "me": self._me}
        routes = [Route("/", self._guarded("", self._home), methods=["GET"])]
        routes += [Route(f"/{name}", self._guarded(name, fn), methods=["POST"]) for name, fn in post.items()]
        routes += [Route(f"/{name}", self._guarded("", fn), methods=["GET"]) for name, fn in get.items()]
        return Starlette(routes=routes)

    def serve(self, host: str, port: int, ready: Callable[[str], None]) -> None:
        """Serves until it is interrupted; `ready` is told the address."""
        with _listen(host, port) as listener:
            name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
            ready(f"http://{name}:{listener.getsockname()[1]}/")
            settings = uvicorn.Config(self.app(), log_level="warning", access_log=False, lifespan="off",
                                      limit_concurrency=1000, timeout_graceful_shutdown=2)  # fmt: skip
            with suppress(KeyboardInterrupt):  # the way to stop it
                uvicorn.Server(settings).run(sockets=[listener])

    # ── every request ────────────────────────────────────────────────────────────────────────────────────────────────

    def _guarded(self, form: str, answer: Callable[[Request, dict[str, Any]], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            try:
                self._same_origin(request)
                row = _checked(form, await _body(request)) if request.method == "POST" else {}
                response = await answer(request, row)
            except (_HTTPError, LabelError) as error:
                response = JSONResponse({"error": str(error)}, status_code=_status(error))
            response.headers.update(self._headers)
            return response

        return endpoint

    def _same_origin(self, request: Request) -> None:
        host = request.headers.get("host", "")
        if not allowed_host(host, self.exposed):
            raise _HTTPError(421, "This server is not called that; use the address it was started with.")
        if request.method == "GET":
            return
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
        if (origin is not None and urlsplit(origin).netloc != host) or site not in ("same-origin", "none"):
            raise _HTTPError(403, "This came from another site's page; judge pairs on the labelling page itself.")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise _HTTPError(415, "A request is JSON.")

    async def _ask(self, fn: Callable[..., Any], *arguments: Any, threads: ThreadPoolExecutor | None = None,
                   **more: Any) -> Any:  # fmt: skip
        """Calls the store in one of its threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads or self._threads, lambda: fn(*arguments, **more))

    async def _who(self, request: Request) -> str:
        token = request.cookies.get(COOKIE, "")
        name, until = self._known.get(token, ("", 0.0))
        if until < time.monotonic():
            name = (await self._ask(self.store.whose, token) if token else None) or ""
            self._known = {t: known for t, known in self._known.items() if known[1] >= time.monotonic()}
            if name:
                self._known[token] = name, time.monotonic() + KNOWN_S
        if not name:
            raise _HTTPError(401, "Log in first: a nickname, a PIN of your own, and the workshop's code.")
        return name

    # ── what can be asked ────────────────────────────────────────────────────────────────────────────────────────────

    async def _home(self, _request: Request, _row: dict[str, Any]) -> Response:
        return HTMLResponse(self._page)

    async def _login(self, _request: Request, row: dict[str, Any]) -> Response:
        self.gate.check(row.get("code", "").strip())
        name = await self._ask(self.store.login, row["name"], row["pin"], threads=self._logins)
        response = JSONResponse(await self._told(name))
        response.set_cookie(COOKIE, await self._ask(self.store.start_session, name), httponly=True, samesite="strict",
                            max_age=14 * 86_400)  # fmt: skip
        return response

    async def _logout(self, request: Request, _row: dict[str, Any]) -> Response:
        token = request.cookies.get(COOKIE, "")
        self._known.pop(token, None)
        await self._ask(self.store.end_session, token)
        response = JSONResponse({})
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    async def _told(self, name: str) -> dict[str, Any]:
        return {"name": name, "reasons": REASONS, **await self._ask(self.store.progress, name)}

    async def _me(self, request: Request, _row: dict[str, Any]) -> Response:
        return JSONResponse(await self._told(await self._who(request)))

    async def _next(self, request: Request, _row: dict[str, Any]) -> Response:
        name = await self._who(request)
        return JSONResponse({"next": shown(await self._ask(self.store.assign, name))})

    async def _vote(self, request: Request, row: dict[str, Any]) -> Response:
        return await self._answer(request, row)

    async def _skip(self, request: Request, row: dict[str, Any]) -> Response:
        return await self._answer(request, row)

    async def _answer(self, request: Request, row: dict[str, Any]) -> Response:
        """Records a vote or a skip, and only then answers, with the next pair."""
        name = await self._who(request)
        said: dict[str, Any] = {
            part: tuple(row[part]) if part == "reasons" else row[part] for part in SAID if part in row
        }
        found = await self._ask(self.store.respond, name, row["item"], row["key"], row.get("strength"),
                                both_bad=row.get("both_bad", False), **said)  # fmt: skip
        body = {"saved": not found.refused, "new": found.recorded is not None and found.recorded.new,
                "next": shown(found.showing)} | ({"error": found.refused} if found.refused else {})  # fmt: skip
        return JSONResponse(body, status_code=409 if found.refused else 200)

    async def _undo(self, request: Request, row: dict[str, Any]) -> Response:
        name = await self._who(request)
        undone = await self._ask(self.store.undo, name, row["key"])
        following = undone.showing or await self._ask(self.store.assign, name)
        return JSONResponse({"next": shown(following)})


def _status(error: Exception) -> int:
    if isinstance(error, _HTTPError):
        return error.status
    return 403 if isinstance(error, LoginError) else 409 if isinstance(error, RefusedError) else 400


async def _body(request: Request) -> bytes:
    """The body of a request. Raises for one over the limit, without reading on."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise _HTTPError(413, f"A request has up to {MOST_BYTES} bytes.")
    return body


def _checked(form: str, body: bytes) -> dict[str, Any]:
    """The object in a body, checked against its form."""
    try:
        row = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise _HTTPError(400, "The request is not JSON.") from None
    wrong = misfit(row, *FORMS[form], closed=True) if isinstance(row, dict) else "it is no object"
    if wrong:
        raise _HTTPError(400, f"The request does not fit: {wrong}.")
    return row


def _headers(page: str) -> dict[str, str]:
    """What every answer carries: the page runs its own script and style, known by their hashes, and nothing else."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(x.encode()).digest()).decode()}'" for x in found)

    policy = (f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
              "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")  # fmt: skip
    return {"content-security-policy": policy, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
            "cache-control": "no-store", "cross-origin-resource-policy": "same-origin"}  # fmt: skip


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise LabelError(f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port, or 0 for any "
                         "that is free.") from error  # fmt: skip
    return listener
