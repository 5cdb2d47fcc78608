"""The run directory `runs/<id>/`: everything a run says, in plain files that survive a kill at any moment.

    config.json     method, settings, seed, parents, base, versions; written once, before the directory has its name
    events.jsonl    what happened, one event a line, append-only; a torn last line is ignored and then cut off
    status.json     how the run is now, replaced as a whole about once a second
    checkpoints/    step-000040/ …, each under its name only when it is complete on disk
    failure/        step-000041/, what an error left behind: its text and the batch
    replies/        step-000041.jsonl, the verdicts a step asked for; kept before the run goes on with them
    lock            held by the one process that may write here

Writers go through `Run`; the terminal, the notebook and the Studio read with `Run.read` or a `Follower`, by cursor.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from lab.config import CONFIGS, ConfigError, live_settings
from lab.disk import append_line, pretty, process_lives, publish, write_atomic
from lab.events import Edited, Event, Logged, Saved, from_json, to_json
from lab.follow import START, Cursor, Follower, Series
from lab.records import Comparison, Verdict, digest

__all__ = [
    "START",
    "Cursor",
    "DiskError",
    "Follower",
    "Manifest",
    "Run",
    "RunError",
    "RunInfo",
    "Series",
    "Status",
    "one_sentence",
    "resume_command",
    "runs",
]

LOST_AFTER_S = 10.0
LIVE_STATES = ("starting", "running", "paused")
PACKAGES = ("rlhf-lab", "torch", "transformers", "peft", "bitsandbytes")


class RunError(RuntimeError):
    """A run directory that cannot be used as asked: one sentence with the cause and what to do."""


class DiskError(RunError):
    """The disk refused a write (full, read-only). What was complete before is untouched."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a run is now. `wanted` is a request on its way ("pause", "stop"); `error` is a sentence.

    `state` is starting, running, paused, finished, stopped or failed. `done` of `of` units of `phase` belong to the
    step in work, `step` of `total` are complete. `eta_s` is in seconds, `heartbeat` in seconds since the epoch.
    """

    state: str = "starting"
    step: int = 0
    total: int = 0
    phase: str = ""
    done: int = 0
    of: int = 0
    wanted: str = ""
    eta_s: float | None = None
    heartbeat: float = 0.0
    pid: int = 0
    host: str = ""
    error: str = ""
    engine: str = ""

    def lost(self, now: float | None = None, after_s: float = LOST_AFTER_S) -> bool:
        """Whether the run says it is alive and its process is gone, or silent for longer than `after_s` seconds.

        A run that is still starting does not beat: while it is built, its process is busy with the model.
        """
        if self.state not in LIVE_STATES:
            return False
        silent = self.state != "starting" and (time.time() if now is None else now) - self.heartbeat > after_s
        return silent or (self.host == socket.gethostname() and not process_lives(self.pid))

    @property
    def shown(self) -> str:
        """The state as people should see it: "lost" for a run whose process is gone."""
        return "lost" if self.lost() else self.state


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run was started with (config.json). `created` is in seconds since the epoch.

    `parents` names where the weights came from, for example `{"policy": {"run": "sft-1", "role": "sft"}}`, and
    `{"branch": {"run": "ppo-1", "step": 40}}` for a branch. `base` is the identity of the base model.
    """

    method: str
    settings: dict[str, Any]
    seed: int = 0
    created: float = 0.0
    title: str = ""
    parents: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One line of a list of runs."""

    id: str
    path: Path
    manifest: Manifest
    status: Status


class Run:
    """One run directory. Reading needs nothing; whoever writes holds `lock()`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock: FileLock | None = None

    @property
    def id(self) -> str:
        """The directory's name."""
        return self.path.name

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """The run at `path`. Raises RunError when there is none."""
        run = cls(path)
        if not (run.path / "config.json").is_file():
            raise RunError(f"there is no run at {run.path}; `lab runs` lists the runs that exist.")
        return run

    @classmethod
    def create(
        cls,
        root: Path | str,
        method: str,
        config: Any,
        *,
        name: str = "",
        title: str = "",
        parents: Mapping[str, Any] | None = None,
        base: Mapping[str, Any] | None = None,
        prepare: Callable[[Path], None] | None = None,
    ) -> Run:
        """A new run directory under `root`, named `name` or `<method>-<n>`; `config` is a dataclass of settings.

        The directory appears complete or not at all; `prepare(folder)` may put more into it before it appears.
        Raises RunError when the name is taken or cannot be a directory's name.
        """
        root = Path(root)
        settings = asdict(config)
        manifest = Manifest(
            method,
            settings,
            int(settings.get("seed", 0)),
            time.time(),
            title,
            dict(parents or {}),
            dict(base or {}),
            _versions(),
        )

        def write(folder: Path) -> None:
            write_atomic(folder / "config.json", pretty(asdict(manifest)))
            write_atomic(folder / "events.jsonl", b"")
            write_atomic(
                folder / "status.json",
                pretty(asdict(Status(heartbeat=time.time(), pid=os.getpid(), host=socket.gethostname()))),
            )
            if prepare is not None:
                prepare(folder)

        if name and not re.fullmatch(r"[\w][\w.-]*", name):
            raise RunError(f"{name!r} cannot be the name of a run; use letters, digits, '-', '_' and '.'.")
        while True:
            path = root / (name or _next_id(root, method))
            try:
                publish(path, write)
                return cls(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise DiskError(f"{path} could not be made: {error.strerror or error}.") from error
                if name:
                    raise RunError(
                        f"{path} exists already; choose another name, or go on with `{resume_command(cls(path))}`."
                    ) from error

    @cached_property
    def manifest(self) -> Manifest:
        """What the run was started with."""
        row = _read_json(self.path / "config.json")
        return Manifest(**{f.name: row[f.name] for f in fields(Manifest) if f.name in row})

    def config(self) -> Any:
        """The settings as the config class of the run's method. Raises RunError for a method this lab does not know."""
        cls = CONFIGS.get(self.manifest.method)
        if cls is None:
            raise RunError(
                f"{self.id} was made by the method {self.manifest.method!r}, which this lab does not know; "
                "use the version that made it."
            )
        return cls(**{f.name: self.manifest.settings[f.name] for f in fields(cls) if f.name in self.manifest.settings})

    def lock(self) -> None:
        """Makes this process the one writer. Raises RunError while another one is; a killed process holds nothing."""
        lock = FileLock(self.path / "lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(
                f"{self.id} is in use by another process (pid {self.status().pid}); stop it there, or branch the run."
            ) from error
        self._lock = lock
        for rest in self.path.glob("*/.tmp-*"):
            shutil.rmtree(rest, ignore_errors=True)

    def unlock(self) -> None:
        """Lets others write."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def append(self, event: Event) -> None:
        """Adds one event to the log, as one write of one line.

        Raises RunError when the event holds a NaN or an infinity, DiskError when the disk refuses; the log then ends
        after the last complete line.
        """
        try:
            line = json.dumps(to_json(event), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except ValueError as error:
            raise RunError(f"{type(event).__name__} of step {event.step} holds a number that is not finite.") from error
        try:
            append_line(self.path / "events.jsonl", line)
        except OSError as error:
            raise DiskError(
                f"the log of {self.id} could not be written ({error.strerror or error}); free some space and play on."
            ) from error

    def read(self, cursor: Cursor | tuple[int, int] = START) -> tuple[list[Logged], Cursor]:
        """The complete lines after `cursor`, and the cursor for the next call. Unreadable lines are passed over."""
        offset, line = cursor
        try:
            with open(self.path / "events.jsonl", "rb") as log:
                log.seek(offset)
                data = log.read()
        except FileNotFoundError:
            return [], Cursor(offset, line)
        end = data.rfind(b"\n") + 1
        lines = data[:end].split(b"\n")[:-1]
        logged = [entry for i, text in enumerate(lines, line) if (entry := _logged(i, text)) is not None]
        return logged, Cursor(offset + end, line + len(lines))

    def edits(self) -> list[Edited]:
        """The edits that hold: all but those which a later start from an earlier step took back."""
        follower = Follower(self)
        follower.refresh()
        return follower.edits

    def status(self) -> Status:
        """How the run is, as its process last said; `Status.lost` tells whether that process is still there."""
        row = _read_json(self.path / "status.json")
        return Status(**{f.name: row[f.name] for f in fields(Status) if f.name in row})

    def write_status(self, status: Status) -> None:
        """Replaces the status as a whole. Raises OSError when the disk refuses."""
        write_atomic(self.path / "status.json", pretty(asdict(status)), durable=False)

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of `step` is or would be."""
        return self.path / "checkpoints" / f"step-{step:06d}"

    def checkpoints(self) -> list[int]:
        """The steps with a complete checkpoint, ascending."""
        found = (re.fullmatch(r"step-(\d+)", p.name) for p in (self.path / "checkpoints").glob("step-*"))
        return sorted(int(m[1]) for m in found if m)

    def latest_checkpoint(self) -> int | None:
        """The last step with a complete checkpoint, or None."""
        return max(self.checkpoints(), default=None)

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """The checkpoint of `step`: `write(folder)` fills an empty folder, which gets its name once all is on disk.

        A step is saved once; a second call returns what is there. Raises DiskError when the disk refuses: the earlier
        checkpoints are untouched and the space is given back. Any other error of `write` passes through.
        """
        final = self.checkpoint(step)
        if final.is_dir():
            return final
        try:
            publish(final, write)
        except (OSError, SafetensorError) as error:  # safetensors reports a full disk under a class of its own
            last = self.latest_checkpoint()
            kept = "" if last is None else f"the one of step {last} is untouched; "
            why = getattr(error, "strerror", None) or error
            raise DiskError(
                f"the checkpoint of step {step} could not be written ({why}); {kept}free some space and play on."
            ) from error
        return final

    def save_reply(self, step: int, comparisons: Sequence[Comparison], verdicts: Sequence[Verdict]) -> None:
        """Keeps the verdicts that a step asked for. Raises DiskError when the disk refuses."""
        rows = [{"comparison": c.id, "a": digest(c.a), **asdict(v)} for c, v in zip(comparisons, verdicts, strict=True)]
        path = self.path / "replies" / f"step-{step:06d}.jsonl"
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode())
        except OSError as error:
            raise DiskError(
                f"the verdicts of step {step} could not be kept ({error.strerror or error}); free some space and "
                "answer again."
            ) from error

    def reply(self, step: int, comparisons: Sequence[Comparison]) -> list[Verdict] | None:
        """The verdicts kept for these comparisons of a step, or None where there are none, or they were on others."""
        try:
            rows = [json.loads(line) for line in (self.path / "replies" / f"step-{step:06d}.jsonl").open("rb")]
        except FileNotFoundError:
            return None
        if [(r["comparison"], r["a"]) for r in rows] != [(c.id, digest(c.a)) for c in comparisons]:
            return None
        return [Verdict(r["p"], r["annotator"], r["why"]) for r in rows]

    def save_failure(self, step: int, error: BaseException) -> Path:
        """Leaves behind what went wrong: the traceback, and what the error carries as `evidence`.

        `evidence` maps names to tensors (kept as safetensors) or JSON-able values.
        """
        evidence = dict(getattr(error, "evidence", {}))
        tensors = {k: v.detach().cpu().contiguous() for k, v in evidence.items() if hasattr(v, "detach")}
        rest = {k: v for k, v in evidence.items() if k not in tensors}

        def write(folder: Path) -> None:
            text = "".join(traceback.format_exception(error))
            row = {"step": step, "sentence": one_sentence(error), "traceback": text, "evidence": rest}
            write_atomic(folder / "error.json", json.dumps(row, indent=1, ensure_ascii=False, default=repr).encode())
            if tensors:
                from safetensors.torch import save_file

                save_file(tensors, folder / "batch.safetensors")

        final = self.path / "failure" / f"step-{step:06d}"
        shutil.rmtree(final, ignore_errors=True)
        publish(final, write)
        return final

    def fork(self, step: int, config: Any, *, edits: Mapping[str, Any] | None = None, name: str = "") -> Run:
        """A new run that starts from the checkpoint of `step`, beside this one; `config` is this run's.

        `edits` change settings: live ones as an edit at `step`, the others in the new run's settings. Raises RunError
        when `step` is not saved, ConfigError when an edit is refused.
        """
        if step not in self.checkpoints():
            saved = ", ".join(map(str, self.checkpoints())) or "none"
            raise RunError(f"{self.id} has no checkpoint of step {step}; saved steps: {saved}.")
        edits = dict(edits or {})
        unknown = [n for n in edits if n not in {f.name for f in fields(config)}]
        if unknown:
            raise ConfigError(f"{unknown[0]} is not a setting of {self.manifest.method}.")
        replace(config, **edits)
        live = live_settings(type(config))
        made = [e for e in self.edits() if e.step <= step]
        now = {e.name: e.new for e in made}

        def prepare(folder: Path) -> None:
            if (self.path / "inputs").is_dir():  # what the run was made from: data, starting adapters
                shutil.copytree(self.path / "inputs", folder / "inputs")
            shutil.copytree(self.checkpoint(step), Run(folder).checkpoint(step))
            Run(folder).append(Saved(step, f"checkpoints/step-{step:06d}"))
            for edit in made:
                if edit.step == step:  # made after the checkpoint of that step
                    Run(folder).append(edit)
            for key, value in edits.items():
                if key in live:
                    Run(folder).append(Edited(step, key, now.get(key, getattr(config, key)), value))

        fixed = replace(config, **{k: v for k, v in edits.items() if k not in live})
        return Run.create(
            self.path.parent,
            self.manifest.method,
            fixed,
            name=name,
            base=self.manifest.base,
            title=f"branch of {self.id} at step {step}",
            prepare=prepare,
            parents={**self.manifest.parents, "branch": {"run": self.id, "step": step}},
        )


def runs(root: Path | str) -> list[RunInfo]:
    """Every run under `root`, oldest first: two small files are read for each. Other directories are passed over."""
    found = []
    for path in Path(root).glob("[!.]*/config.json"):
        run = Run(path.parent)
        try:
            found.append(RunInfo(run.id, run.path, run.manifest, run.status()))
        except RunError as error:
            found.append(RunInfo(run.id, run.path, Manifest("", {}), Status("failed", error=str(error))))
    return sorted(found, key=lambda info: (info.manifest.created, info.id))


def resume_command(run: Run) -> str:
    """The one command that goes on with a run."""
    return f"lab resume {run.path}"


def one_sentence(error: BaseException) -> str:
    """The first line of an error as a sentence, with its class unless the lab itself wrote it."""
    first = str(error).strip().splitlines()[:1]
    text = first[0] if first else "no further word"
    return text if type(error).__module__.startswith("lab.") else f"{type(error).__name__}: {text}"


def _logged(index: int, line: bytes) -> Logged | None:
    try:
        row = json.loads(line)
        return Logged(index, float(row["time"]), from_json(row))
    except (ValueError, KeyError, TypeError):
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); the run was copied in part or damaged.") from error


def _next_id(root: Path, method: str) -> str:
    numbered = (re.fullmatch(r"(.+)-(\d+)", p.name) for p in root.glob(f"{method}-*"))
    return f"{method}-{max((int(m[2]) for m in numbered if m and m[1] == method), default=0) + 1}"


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
