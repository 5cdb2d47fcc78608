"""A run once more: the form that would make it, and, where it failed, why in plain words and what would mend it.

Only run directories are read, and no model code: the Studio asks this of every run it shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.config import CONFIGS, Adapter, ConfigError, settings
from lab.runs import Run, RunError, Status

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory|MemoryError", re.IGNORECASE)
NOT_A_NUMBER = re.compile(r"^The (loss|gradient of \S+) is (nan|inf|-inf)", re.IGNORECASE)
MISMATCH = re.compile(r"template|tokenizer|fingerprint|another base|other base", re.IGNORECASE)
DATA = re.compile(r"^(No row can be used|None of the \d+ rows|The column|All rows have the same|There is no file)")
DISK = re.compile(r"could not be (written|kept|made)|No space left")
SHOWN_ROWS, SHOWN_TEXT = 5, 300
"""Of a saved batch on a card."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """A button. `does`: resume (goes on as it is), branch (from a saved step, with `edits`), retry (a new run from the
    same inputs with `edits`), form (its settings go into the form, to be changed there)."""

    label: str
    does: str
    edits: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """What went wrong: a title, the cause, which rows (if any), and what would mend it, the best first."""

    title: str
    cause: str
    rows: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()


def form_of(run: Run) -> dict[str, Any]:
    """The form that would make this run again, from the same data and the same starts.

    Settings that are the method's own are left out. Raises RunError for a run of an unknown method, or without inputs.
    """
    method = run.manifest.method
    if method not in CONFIGS:
        raise RunError(f"{run.id} is a run of {method!r}, which this lab does not know.")
    setup, parents = _setup(run), run.manifest.parents
    own = {s.name: s.default for s in settings(CONFIGS[method])}
    given = {name: _text(v) for name, v in run.manifest.settings.items() if name in own and v != own[name]}
    plain = {s.name: s.default for s in settings(Adapter)}
    adapter = {k: _text(v) for k, v in (setup.get("adapter") or {}).items() if k in plain and v != plain[k]}
    part = method if method in ("sft", "reward", "process") else "policy"
    start = parents.get(part) or parents.get("init") or {}
    data = f"run:{run.id}" if (run.path / "inputs" / "data.jsonl").is_file() else ""
    return {"method": method, "settings": given, "adapter": adapter, "init": _where(start), "data": data,
            "rewards": [_reward(text, parents) for text in setup.get("rewards") or ()],
            "probes": list(setup.get("probes") or ()), "name": ""}  # fmt: skip


def changed(form: Mapping[str, Any], edits: Mapping[str, Any]) -> dict[str, Any]:
    """A form with some settings changed."""
    return {**form, "settings": {**form.get("settings", {}), **{k: _text(v) for k, v in edits.items()}}}


def edits_of(run: Run, texts: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed for settings of a run, as their own types; an empty one is left out.

    Raises ConfigError for a setting that does not exist, or text that cannot be read as one.
    """
    known = {s.name: s for s in settings(type(run.config()))}
    out: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in known:
            raise ConfigError(f"{name!r} is not a setting of {run.manifest.method}.")
        if not isinstance(text, str) or not text.strip():
            out |= {} if isinstance(text, str) or text is None else {name: text}
            continue
        kind, plain = known[name].kind, text.strip().replace("−", "-")
        try:
            out[name] = {"true": True, "false": False}[plain] if kind is bool else kind(plain)
        except (ValueError, KeyError):
            raise ConfigError(f"{name} is {text!r}; it must be a {kind.__name__}.") from None
    return out


def card(run: Run, status: Status, state: str) -> Card | None:
    """Why a failed or lost run stands still, and what would mend it; None for every other state."""
    saved = run.checkpoints()
    last = saved[-1] if saved else None
    go_on = Remedy("Resume" if last is None else f"Resume from step {last}", "resume")
    if state == "lost":
        return Card("The process that played it is gone", "It was killed, or the machine went down. "
                    + ("It begins again from its start." if last is None else f"Step {last} is saved."),
                    remedies=(go_on,))  # fmt: skip
    if state != "failed":
        return None
    found = _failure(run)
    said = str(found.get("sentence") or status.error or "Nothing is known about the error.")
    step = found.get("step") or status.step + 1
    values = {**run.manifest.settings, **{e.name: e.new for e in run.edits()}}
    form = Remedy("Put its settings into the form", "form")
    if OUT_OF_MEMORY.search(said):
        while_ = f" while {status.phase}" if status.phase else ""
        return Card(f"Out of memory at step {step}{while_}", said, remedies=(*_smaller(values, last), form))
    if NOT_A_NUMBER.search(said):
        return Card(f"Not a number at step {step}", said, _rows(found), (*_slower(values, last), form))
    if MISMATCH.search(said):
        return Card("It does not fit its base", said, _rows(found), (form,))
    if DATA.search(said):
        return Card("The data cannot be used", said, _rows(found), (form,))
    if DISK.search(said):
        return Card("The disk is full or refuses", said, remedies=(go_on,))
    return Card(f"Failed at step {step}", said, _rows(found), (go_on, form))


def _smaller(values: Mapping[str, Any], last: int | None) -> tuple[Remedy, ...]:
    """Half of what goes through the base at once: the same learning; and of what is sampled at once: another."""
    out = []
    for name, least, words in (("tokens_per_pass", 64, "tokens a pass"), ("max_new_tokens", 16, "tokens an answer"),
                               ("prompts", 2, "prompts"), ("batch", 2, "rows")):  # fmt: skip
        value = values.get(name)
        if not isinstance(value, int) or value < 2 * least or (name == "batch" and "per_prompt" not in values):
            continue
        half = value // 2
        if name == "batch" and (half % values["per_prompt"] or half % values.get("minibatches", 1)):
            continue
        label = f"Retry with {half} {words}"
        # Settings that are not live are those of a new run: from the last checkpoint where there is one.
        out.append(Remedy(label, "retry", {name: half}) if last is None else
                   Remedy(label, "branch", {name: half}, last))  # fmt: skip
    return tuple(out[:3])


def _slower(values: Mapping[str, Any], last: int | None) -> tuple[Remedy, ...]:
    """A learning rate of a fifth, from the last step that was saved."""
    rates = {n: float(f"{v / 5:.3g}") for n, v in values.items()
             if (n == "lr" or n.endswith("_lr")) and isinstance(v, (int, float)) and v > 0}  # fmt: skip
    if not rates:
        return ()
    label = f"lr {rates.get('lr', next(iter(rates.values()))):g}"
    if last is None:
        return (Remedy(f"Begin again with {label}", "retry", rates),)
    return (Remedy(f"Branch from step {last} with {label}", "branch", rates, last),)


def _failure(run: Run) -> dict[str, Any]:
    """What the last error left behind; nothing where nothing can be read."""
    for folder in sorted((run.path / "failure").glob("step-*"), reverse=True):
        try:
            row = json.loads((folder / "error.json").read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(row, dict):
            return row
    return {}


def _rows(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The rows of the saved batch in words: their numbers, or their prompts with what was said."""
    kept = found.get("evidence")
    if not isinstance(kept, dict):
        return ()
    texts = [str(t) for t in kept.get("prompts") or ()][:SHOWN_ROWS]
    said = [str(t) for t in kept.get("completions") or ()][:SHOWN_ROWS]
    if texts:
        return tuple(f"{p} → {c}"[:SHOWN_TEXT] for p, c in zip(texts, said or [""] * len(texts), strict=False))
    numbers = [str(n) for n in kept.get("rows") or ()]
    if not numbers:
        return ()
    more = f" and {len(numbers) - 20} more" if len(numbers) > 20 else ""
    return (f"rows {', '.join(numbers[:20])}{more} of its data (counted from 0)",)


def _setup(run: Run) -> dict[str, Any]:
    try:
        row = json.loads((run.path / "inputs" / "setup.json").read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{run.id} has no readable inputs/setup.json; it was not made by the lab.") from error
    return row if isinstance(row, dict) else {}


def _reward(text: str, parents: Mapping[str, Any]) -> dict[str, Any]:
    """One line of a form's rewards from [weight*]what."""
    weight, star, what = text.partition("*")
    if not star or not re.fullmatch(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", weight, re.IGNORECASE):
        weight, what = "", text
    if what in parents:
        return {"what": _where(parents[what]), "weight": weight, "options": {}}
    from urllib.parse import parse_qsl

    name, _, query = what.partition("?")
    return {"what": name, "weight": weight, "options": dict(parse_qsl(query, keep_blank_values=True))}


def _where(parent: Mapping[str, Any]) -> str:
    run, step = parent.get("run", ""), parent.get("step")
    return f"{run}@{step}" if run and step is not None else str(run)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
