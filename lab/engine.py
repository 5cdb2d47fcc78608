"""The engine: one process that owns the base and the runs, with a local HTTP channel for the Studio and the terminal.

    GET  /status
    POST /runs {method, settings, name, title, parents}   POST /runs/{id}/play|pause|step|stop|edit|branch
    POST /sample (an NDJSON stream)                       POST /score        POST /shutdown
    POST /task/{name} (an NDJSON stream: `lab.tasks`)
    GET  /offers                                          POST /check        POST /make (a form: `lab.form`)

It listens on 127.0.0.1 alone and wants the token which it writes, readable by its owner only, to `<runs>/.engine.json`.
What the methods and roles are is not its business: the caller hands in `Handlers`. Those that need the model are called
in the one worker thread.

    python -m lab.engine runs --handlers package.module:function
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from filelock import FileLock, Timeout
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lab.client import EngineClient, EngineError, engine_file, find_engine, start_detached
from lab.config import CONFIGS, ConfigError
from lab.disk import pretty, write_atomic
from lab.events import Done
from lab.records import Message, Prompt, Verdict
from lab.runs import Run, RunError, runs
from lab.session import Build, Session, resume
from lab.streams import apart, at_once, said
from lab.worker import Worker

__all__ = [
    "Engine",
    "EngineClient",
    "EngineError",
    "Handlers",
    "SampleRequest",
    "ScoreRequest",
    "find_engine",
    "serve",
    "start_detached",
]


NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """What to sample: one prompt under each of `roles`, with the same noise; `temperature` 0 is the likeliest token."""

    prompt: Prompt
    roles: tuple[str, ...]
    temperature: float = 1.0
    max_new_tokens: int = 64
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.prompt or not self.roles:
            raise ConfigError("sampling needs a prompt and at least one role.")
        if not 0 <= self.temperature < float("inf") or self.max_new_tokens < 1:
            raise ConfigError("temperature must be 0 or more, and max_new_tokens 1 or more.")


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """What to score: completions of one prompt under each of `roles`."""

    prompt: Prompt
    completions: tuple[str, ...]
    roles: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


def _nothing(_: Any) -> None:
    return None


def _no_form(_: Any) -> dict[str, Any]:
    raise RunError("this engine makes no runs from a form; make them where it was started.")


def _no_task(name: str, _: dict[str, Any]) -> Iterator[dict[str, Any]]:
    raise RunError(f"this engine has no task {name!r}; it may be another version of the lab.")


@dataclass(frozen=True)
class Handlers:
    """What an engine can do; `build`, `sample`, `score`, `release` and `task` are called in the worker thread.

    `build(run)` makes the state of a run at step 0. `sample` yields JSON-able rows as the answer grows; it is closed
    when nobody listens any more. `score` returns a JSON-able row. `release(state)` frees what an ended run held.
    `about()` tells clients what there is (roles, example prompts), `offers()` what runs can be made, `check(form)` what
    is wrong with a form, and `make(form)` makes its run; they must not touch the model. `attend(session)` is told of
    every session, so that somebody answers what it asks. `task(name, row)` yields JSON-able rows; between two of them a
    run goes on, so that a long task and a run share the model. An error may carry a JSON-able `payload`, which reaches
    the client with the sentence. `opened(engine)` is called once the channel is open.
    """

    build: Build
    sample: Callable[[SampleRequest], Iterator[dict[str, Any]]]
    score: Callable[[ScoreRequest], dict[str, Any]]
    release: Callable[[Any], None] = _nothing
    about: Callable[[], dict[str, Any]] = dict
    offers: Callable[[], dict[str, Any]] = dict
    check: Callable[[dict[str, Any]], dict[str, Any]] = _no_form
    make: Callable[[dict[str, Any]], dict[str, Any]] = _no_form
    attend: Callable[[Session], None] = _nothing
    task: Callable[[str, dict[str, Any]], Iterator[dict[str, Any]]] = _no_task
    opened: Callable[[Any], object] = _nothing


class Engine:
    """The runs under one directory, one worker thread, and the channel. One engine at a time serves a directory.

    A `worker` that is handed in (its thread has loaded the model) outlives the engine.
    """

    def __init__(self, root: Path | str, handlers: Handlers, *, port: int = 0, worker: Worker | None = None) -> None:
        self.root, self.handlers = Path(root), handlers
        self.root.mkdir(parents=True, exist_ok=True)
        self.worker, self._own_worker = worker or Worker(), worker is None
        self.token = secrets.token_urlsafe(24)
        self.sessions: dict[str, Session] = {}
        self.over = threading.Event()
        self._opening = threading.Lock()
        self._began = time.time()
        self._lock = FileLock(self.root / ".engine.lock", thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise EngineError(
                f"another engine serves {self.root} already; use that one, or stop it with "
                f"`lab engine --stop --runs {self.root}`."
            ) from error
        try:
            self._socket = _listen(port)
        except BaseException:
            self._lock.release()
            raise
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        settings = uvicorn.Config(self._app(), log_level="warning", lifespan="off", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="lab-engine-http", daemon=True
        )

    def start(self) -> Engine:
        """Serves from now on; returns itself when the channel is open."""
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise EngineError("the engine's channel could not be opened; its log says why.")
            time.sleep(0.01)
        row = {
            "address": self.address,
            "token": self.token,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self._began,
        }
        write_atomic(engine_file(self.root), pretty(row), mode=0o600)
        self.handlers.opened(self)
        return self

    def close(self, *, at_once: bool = False) -> None:
        """Stops every run at its next safe point with a checkpoint (`at_once`: without), then the channel."""
        live = [s for s in tuple(self.sessions.values()) if s.done is None]
        for session in live:
            session.abandon() if at_once else session.stop()
        for session in live:
            session.close()
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(5)
        with suppress(OSError, ValueError):
            if json.loads(engine_file(self.root).read_text())["token"] == self.token:
                engine_file(self.root).unlink()
        self._socket.close()
        if self._own_worker and not at_once:
            self.worker.close(wait_s=2.0)
        self._lock.release()
        self.over.set()

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ runs

    def session(self, run_id: str) -> Session:
        """The live session of a run. Raises RunError when the run is not open here."""
        session = self.sessions.get(run_id)
        if session is None or session.done is not None:
            raise RunError(f"{self._run(run_id).id} is not open in this engine; play it first.")
        return session

    def open(self, run_id: str) -> Session:
        """The live session of a run; one that is not open yet is built and goes on from its latest checkpoint."""
        with self._opening:
            with suppress(RunError):
                return self.session(run_id)
            run = self._run(run_id)
            if run.status().state == "finished":
                raise RunError(f"{run_id} has finished; branch it to go on from one of its steps.")
            return self.adopt(resume(run, self.handlers.build, worker=self.worker, engine=self.address))

    def adopt(self, session: Session) -> Session:
        """Puts a session that was made elsewhere in this process (a notebook) under the channel's control."""
        self.sessions[session.run.id] = session
        session.subscribe(lambda event: self._ended(session) if isinstance(event, Done) else None)
        self.handlers.attend(session)
        return session

    def create(self, row: dict[str, Any]) -> Run:
        """A new run directory from a request; nothing is played yet."""
        method = str(row.get("method", ""))
        if method not in CONFIGS:
            raise RunError(f"{method!r} is not a method; choose one of {', '.join(CONFIGS)}.")
        try:
            config = CONFIGS[method](**dict(row.get("settings") or {}))
        except TypeError as error:
            raise ConfigError(f"the settings of {method} do not fit: {error}.") from error
        return Run.create(
            self.root,
            method,
            config,
            name=str(row.get("name") or ""),
            title=str(row.get("title") or ""),
            parents=dict(row.get("parents") or {}),
            base=dict(row.get("base") or {}),
        )

    def _run(self, run_id: str) -> Run:
        if Path(run_id).name != run_id:
            raise RunError(f"{run_id!r} is not the id of a run.")
        return Run.open(self.root / run_id)

    def _ended(self, session: Session) -> None:
        if self.sessions.get(session.run.id) is session:
            del self.sessions[session.run.id]
        self.worker.submit(lambda: self.handlers.release(session.state))

    # ------------------------------------------------------------------ the channel

    def _app(self) -> Starlette:
        post = {
            "/runs": self._create,
            "/runs/{id}/{verb}": self._verb,
            "/score": self._score,
            "/check": lambda _, row: self.handlers.check(row),
            "/make": lambda _, row: self.handlers.make(row),
            "/shutdown": self._shutdown,
        }
        routes = [Route(path, self._guarded(fn), methods=["POST"]) for path, fn in post.items()]
        routes.append(Route("/status", self._guarded(self._status), methods=["GET"]))
        routes.append(Route("/offers", self._guarded(lambda _, row: self.handlers.offers()), methods=["GET"]))
        routes.append(Route("/sample", self._sample, methods=["POST"]))
        routes.append(Route("/task/{name}", self._task, methods=["POST"]))
        return Starlette(routes=routes)

    def _allowed(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").encode()
        return secrets.compare_digest(given, f"Bearer {self.token}".encode())

    def _guarded(self, fn: Callable[[Request, dict[str, Any]], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            if not self._allowed(request):
                return _stranger()
            try:
                row = await request.json() if request.method == "POST" and await request.body() else {}
                return JSONResponse(await run_in_threadpool(fn, request, row))
            except Exception as error:  # one request must not harm the runs; whoever asked gets the sentence
                return JSONResponse(said(error), status_code=_code(error))

        return endpoint

    def _status(self, _request: Request, _row: dict[str, Any]) -> dict[str, Any]:
        listed = [
            {
                "id": i.id,
                "method": i.manifest.method,
                "title": i.manifest.title,
                "open": i.id in self.sessions,
                "shown": i.status.shown,
                **asdict(i.status),
            }
            for i in runs(self.root)
        ]
        return {
            "pid": os.getpid(),
            "started": self._began,
            "root": str(self.root),
            "about": self.handlers.about(),
            "runs": listed,
        }

    def _create(self, _request: Request, row: dict[str, Any]) -> dict[str, Any]:
        return {"id": self.create(row).id}

    def _verb(self, request: Request, row: dict[str, Any]) -> dict[str, Any]:
        run_id, verb = request.path_params["id"], request.path_params["verb"]
        if verb == "branch":
            return {"id": self._branch(run_id, row).id}
        opens = verb in ("play", "step")
        if verb not in ("play", "pause", "step", "stop", "edit", "answer"):
            raise RunError(f"a run cannot {verb!r}; it can play, pause, step, stop, edit, answer and branch.")
        session = self.open(run_id) if opens else self.session(run_id)
        match verb:
            case "step":
                session.step(int(row.get("n", 1)))
            case "answer":
                session.answer([Verdict(v.get("p"), str(v.get("annotator", "")), str(v.get("why", "")))
                                for v in row.get("verdicts", ())])  # fmt: skip
            case "edit":
                session.edit(str(row.get("name", "")), row.get("value"))
            case _:
                getattr(session, verb)()
        return {"id": run_id, "status": asdict(session.status)}

    def _branch(self, run_id: str, row: dict[str, Any]) -> Run:
        step, edits, name = row.get("step"), dict(row.get("edits") or {}), str(row.get("name") or "")
        session = self.sessions.get(run_id)
        if session is not None:
            return session.branch(step, edits=edits, name=name)
        run = self._run(run_id)
        last = run.latest_checkpoint() if step is None else int(step)
        if last is None:
            raise RunError(f"{run_id} has no checkpoint to branch from.")
        return run.fork(last, run.config(), edits=edits, name=name)

    def _score(self, _request: Request, row: dict[str, Any]) -> dict[str, Any]:
        asked = ScoreRequest(
            _prompt(row), tuple(row.get("completions", ())), tuple(row.get("roles", ())), dict(row.get("options") or {})
        )
        return self.worker.submit(lambda: self.handlers.score(asked)).result()

    def _shutdown(self, _request: Request, _row: dict[str, Any]) -> dict[str, Any]:
        threading.Thread(target=self.close, name="lab-engine-close").start()
        return {"sentence": "the engine stops its runs at their next safe points, with checkpoints, and ends"}

    async def _sample(self, request: Request) -> Response:
        if not self._allowed(request):
            return _stranger()
        try:
            row = await request.json()
            asked = SampleRequest(
                _prompt(row),
                tuple(row.get("roles", ())),
                float(row.get("temperature", 1.0)),
                int(row.get("max_new_tokens", 64)),
                int(row.get("seed", 0)),
                dict(row.get("options") or {}),
            )
        except (TypeError, ValueError) as error:
            return JSONResponse(said(error), status_code=400)
        return StreamingResponse(at_once(self.worker, lambda: self.handlers.sample(asked)), media_type=NDJSON)

    async def _task(self, request: Request) -> Response:
        if not self._allowed(request):
            return _stranger()
        try:
            row = dict(await request.json())
        except (TypeError, ValueError) as error:
            return JSONResponse(said(error), status_code=400)
        name = request.path_params["name"]
        return StreamingResponse(apart(self.worker, lambda: self.handlers.task(name, row)), media_type=NDJSON)


def serve(
    root: Path | str,
    handlers: Handlers,
    *,
    port: int = 0,
    worker: Worker | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Runs an engine in this process until it is shut down.

    The first Ctrl-C or SIGTERM stops the runs safely; the second one leaves at once.
    """
    engine = Engine(root, handlers, port=port, worker=worker).start()
    say(f"Serving {root} at {engine.address} (pid {os.getpid()}); stop with Ctrl-C.")
    presses: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: presses.append(n))
    closing = None
    while not engine.over.wait(0.2):
        if presses and closing is None:
            say("Stopping the runs at their next safe points; press Ctrl-C again to leave at once.")
            closing = threading.Thread(target=engine.close, daemon=True)
            closing.start()
        if len(presses) > 1:
            engine.close(at_once=True)
            os._exit(130)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise EngineError(
            f"port {port} cannot be used ({error.strerror}); choose another one, or leave it out "
            "to take any that is free."
        ) from error
    return listener


def _prompt(row: dict[str, Any]) -> Prompt:
    prompt = row.get("prompt", "")
    if isinstance(prompt, str):
        return prompt
    return tuple(Message(m["role"], str(m["content"])) for m in prompt)


def _code(error: Exception) -> int:
    if isinstance(error, (ConfigError, ValueError, KeyError)):
        return 400
    return 409 if isinstance(error, (RunError, EngineError)) else 500


def _stranger() -> Response:
    return JSONResponse({"error": "this engine belongs to somebody else; its token is needed."}, status_code=401)


def main() -> None:
    """The engine as a process: `python -m lab.engine ROOT --handlers MODULE:FUNCTION [--port N]`."""
    import argparse
    from importlib import import_module

    parser = argparse.ArgumentParser(prog="python -m lab.engine", description="Serve the runs of a directory.")
    parser.add_argument("root")
    parser.add_argument(
        "--handlers", required=True, metavar="MODULE:FUNCTION", help="the function that makes the engine's handlers"
    )
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    given = parser.parse_args()
    module, _, function = given.handlers.partition(":")
    try:
        serve(given.root, getattr(import_module(module), function)(), port=given.port)
    except EngineError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
