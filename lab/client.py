"""The way to an engine: find the one that serves a directory, start one, and ask it things. Imports no model code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from lab.disk import process_lives
from lab.records import Prompt, Verdict, to_json


class EngineError(RuntimeError):
    """An engine that is not there, or does not do what it was asked: one sentence with the cause and what to do.

    `payload` holds what the engine knows besides, such as words that a prompt must not have.
    """

    def __init__(self, sentence: str, payload: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.payload = dict(payload or {})


@dataclass(frozen=True, slots=True)
class Found:
    """Where an engine listens, and the token it wants."""

    address: str
    token: str
    pid: int


def engine_file(root: Path | str) -> Path:
    """Where the engine of a directory of runs leaves its address and token."""
    return Path(root) / ".engine.json"


def find_engine(root: Path | str) -> Found | None:
    """The engine that serves `root`, or None: no file, or the file of a process that is gone."""
    try:
        row = json.loads(engine_file(root).read_bytes())
        found = Found(row["address"], row["token"], int(row["pid"]))
    except (OSError, ValueError, KeyError):
        return None
    return found if row.get("host") != socket.gethostname() or process_lives(found.pid) else None


class EngineClient:
    """Asks the engine of one directory of runs. Every refusal is an EngineError with the engine's sentence.

    The engine is looked up at each request, so a client outlives the engines it talks to.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def status(self) -> dict[str, Any]:
        """The engine (pid, root, about) and its runs, each with its status, `open` and `shown`."""
        return self._ask("GET", "/status")

    def create(
        self,
        method: str,
        settings: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        title: str = "",
        parents: Mapping[str, Any] | None = None,
    ) -> str:
        """A new run; returns its id. Play it to begin."""
        row = {
            "method": method,
            "settings": dict(settings or {}),
            "name": name,
            "title": title,
            "parents": dict(parents or {}),
        }
        return self._ask("POST", "/runs", row)["id"]

    def offers(self) -> dict[str, Any]:
        """What runs can be made here: methods with their pages and settings, verifiers, data (see `lab.form`)."""
        return self._ask("GET", "/offers")

    def check(self, form: Mapping[str, Any]) -> dict[str, Any]:
        """What is wrong with a form, by field, and the values its empty fields will have."""
        return self._ask("POST", "/check", dict(form))

    def make(self, form: Mapping[str, Any]) -> dict[str, Any]:
        """The run that a form asks for: its `id`, and in `left_out` what its data could not give. Play it to begin."""
        return self._ask("POST", "/make", dict(form), read_s=None)

    def play(self, run: str) -> dict[str, Any]:
        """Plays a run; one that is not open in the engine is resumed from its latest checkpoint."""
        return self._verb(run, "play")

    def pause(self, run: str) -> dict[str, Any]:
        """Pauses a run before its next step."""
        return self._verb(run, "pause")

    def step(self, run: str, n: int = 1) -> dict[str, Any]:
        """Plays `n` steps, then pauses."""
        return self._verb(run, "step", {"n": n})

    def stop(self, run: str) -> dict[str, Any]:
        """Ends a run at its next safe point, with a checkpoint."""
        return self._verb(run, "stop")

    def edit(self, run: str, name: str, value: Any) -> dict[str, Any]:
        """Changes a live setting from the next step on; the run's log says when it holds."""
        return self._verb(run, "edit", {"name": name, "value": value})

    def answer(self, run: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """Answers what the run asks, one verdict for each comparison of its `Ask`."""
        return self._verb(run, "answer", {"verdicts": [asdict(v) for v in verdicts]})

    def branch(
        self, run: str, step: int | None = None, *, edits: Mapping[str, Any] | None = None, name: str = ""
    ) -> str:
        """A new run from a saved step of another; returns its id. Play it to begin."""
        return self._verb(run, "branch", {"step": step, "edits": dict(edits or {}), "name": name})["id"]

    def sample(
        self,
        prompt: Prompt,
        roles: Iterable[str],
        *,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The rows of an answer as it grows. Closing the iterator ends the sampling."""
        row = {
            "prompt": _plain(prompt),
            "roles": list(roles),
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "options": dict(options or {}),
        }
        yield from self._lines("/sample", row)

    def task(self, name: str, row: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """The rows of one of the engine's tasks (see `lab.tasks`). Closing the iterator ends the task."""
        yield from self._lines(f"/task/{name}", dict(row or {}))

    def _lines(self, path: str, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        sent = self._send("POST", path, row, None)
        try:
            for line in sent.response.iter_lines():
                answer = json.loads(line)
                if "error" in answer and "role" not in answer:
                    raise EngineError(answer["error"], answer.get("payload"))
                yield answer
        except httpx.TransportError as error:
            raise self._gone(sent.engine, error) from error
        finally:
            sent.close()

    def score(
        self,
        prompt: Prompt,
        completions: Sequence[str],
        roles: Iterable[str],
        *,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What the engine's scoring says of completions of one prompt."""
        row = {
            "prompt": _plain(prompt),
            "completions": list(completions),
            "roles": list(roles),
            "options": dict(options or {}),
        }
        return self._ask("POST", "/score", row, read_s=None)

    def shutdown(self) -> dict[str, Any]:
        """Stops the engine's runs at their next safe points, with checkpoints, and then the engine."""
        return self._ask("POST", "/shutdown")

    def _verb(self, run: str, verb: str, row: dict[str, Any] | None = None) -> dict[str, Any]:
        # Opening a run builds its state, which may take minutes for a large model.
        slow = verb in ("play", "step", "branch")
        return self._ask("POST", f"/runs/{run}/{verb}", row, read_s=None if slow else 30.0)

    def _ask(
        self, method: str, path: str, row: dict[str, Any] | None = None, read_s: float | None = 30.0
    ) -> dict[str, Any]:
        sent = self._send(method, path, row, read_s)
        try:
            return json.loads(sent.response.read())
        except httpx.TransportError as error:
            raise self._gone(sent.engine, error) from error
        finally:
            sent.close()

    def _send(self, method: str, path: str, row: dict[str, Any] | None, read_s: float | None) -> _Sent:
        engine = find_engine(self.root)
        if engine is None:
            raise EngineError(f"no engine is running here; start one with `lab engine --runs {self.root}`.")
        # Proxy settings of the environment are for the network, not for this machine.
        client = httpx.Client(
            base_url=engine.address,
            trust_env=False,
            timeout=httpx.Timeout(5.0, read=read_s),
            headers={"Authorization": f"Bearer {engine.token}"},
        )
        try:
            response = client.send(client.build_request(method, path, json=row), stream=True)
            if response.status_code != 200:
                raise _refusal(response)
        except httpx.TransportError as error:
            client.close()
            raise self._gone(engine, error) from error
        except BaseException:
            client.close()
            raise
        return _Sent(engine, client, response)

    def _gone(self, engine: Found, error: httpx.TransportError) -> EngineError:
        if isinstance(error, httpx.ReadTimeout):
            return EngineError(
                f"the engine (pid {engine.pid}) is there but does not answer; wait, or see {log_file(self.root)}."
            )
        if process_lives(engine.pid):
            return EngineError(
                f"no engine answers at {engine.address} ({error}); start one with `lab engine --runs {self.root}`."
            )
        return EngineError(f"the engine went away; start it again with `lab engine --runs {self.root}`.")


@dataclass(frozen=True)
class _Sent:
    """A request under way."""

    engine: Found
    client: httpx.Client
    response: httpx.Response

    def close(self) -> None:
        self.response.close()
        self.client.close()


def log_file(root: Path | str) -> Path:
    """Where a detached engine writes what it says."""
    return Path(root) / ".engine.log"


def start_detached(root: Path | str, command: Sequence[str], *, timeout_s: float = 120.0) -> EngineClient:
    """Starts an engine as a process of its own, which outlives this one, and waits until it answers.

    `command` is the engine's command line, such as `engine_command(root, "package.module:function")`. An engine that is
    there already is used. Raises EngineError with its last words if it ends first.
    """
    client = EngineClient(root)
    if find_engine(root) is not None:
        try:
            client.status()
            return client
        except EngineError:
            pass  # the file of an engine that is gone, whose number another process has now
    Path(root).mkdir(parents=True, exist_ok=True)
    with open(log_file(root), "ab") as log:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = find_engine(root)
        if found is not None and found.pid == process.pid:
            client.status()
            return client
        if process.poll() is not None:
            lines = log_file(root).read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise EngineError(f"the engine ended before it answered: {lines[-1]} (see {log_file(root)})")
        time.sleep(0.05)
    raise EngineError(f"the engine did not answer within {timeout_s:g} seconds; see {log_file(root)}.")


def engine_command(root: Path | str, handlers: str, *, port: int = 0) -> list[str]:
    """The command line of an engine; `handlers` is `package.module:function`."""
    return [sys.executable, "-m", "lab.engine", str(root), "--handlers", handlers, "--port", str(port)]


def _plain(prompt: Prompt) -> Any:
    return prompt if isinstance(prompt, str) else [to_json(m) for m in prompt]


def _refusal(response: httpx.Response) -> EngineError:
    try:
        row = json.loads(response.read())
        return EngineError(str(row["error"]), row.get("payload"))
    except (ValueError, KeyError, TypeError):
        return EngineError(
            f"the engine does not know this request ({response.status_code} "
            f"{response.request.url.path}); it may be another version of the lab."
        )
