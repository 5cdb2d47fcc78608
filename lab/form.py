"""A run as a form asks for it: what there is to choose from, what is wrong with what was typed, and the order it means.

A form is a JSON object. All its values are what people typed; a setting that is left out or empty keeps its own value.

    {"method": "grpo", "settings": {"variant": "dapo", "lr": "1e-4"}, "adapter": {"rank": "8"}, "init": "sft-1@40",
     "data": "tiny:prompts?family=sum", "rewards": [{"what": "length", "weight": "0.5", "options": {"most": "8"}}],
     "name": "", "probes": []}

Nothing of it leads to code or to folders: rewards are runs and verifiers, starts are runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from lab import earning, launch
from lab.catalogue import pages
from lab.columns import EXPECTED
from lab.config import CONFIGS, Adapter, ConfigError, Setting, settings
from lab.feedback.verifiers import VERIFIERS, VerifierError
from lab.making import Order
from lab.presets import presets
from lab.runs import RunError
from lab.tiny.sources import DEMONSTRATIONS, SOURCES

ESSENTIAL = ("rule", "lr", "steps", "epochs", "batch", "prompts", "group", "samples", "beta", "kl", "kl_in_reward",
             "kl_in_loss", "max_new_tokens")  # fmt: skip
"""The settings people look for first, in this order."""

GROUPS: dict[str, str] = {
    "length and batches": "steps epochs batch prompts group samples per_prompt minibatches max_length tokens_per_pass "
                          "seed",
    "optimizer": r"(\w+_)?lr warmup schedule max_grad_norm weight_decay adam_eps",
    "sampling": "temperature max_new_tokens truncated dynamic_sampling resamples",
    "reward": "missing_end overlong reward_clip whiten_rewards ensemble doubt standardise judge ties",
    "watching and saving": "eval_share eval_every probe_every save_every",
}  # fmt: skip
"""Heading -> its settings, as regular expressions; a setting of no heading belongs to the method's own objective."""

OWN = "objective"
"""The heading of all others."""

ALSO: dict[str, tuple[str, ...]] = {
    "rating": ("preference",),
    "prompt": ("sft", "preference", "rating", "ranking", "steps"),
}
"""Kind of data -> other kinds that hold it too: pairs can be taken apart, and all rows have a prompt."""

RUN = r"[\w][\w.-]*(@\d+)?"
"""A run, or run@step."""


def offers(world: str = "") -> dict[str, Any]:
    """Everything there is to choose from: methods with their pages and settings, verifiers, data of the world."""
    methods: dict[str, dict[str, Any]] = {}
    for page in pages():
        if page.method not in launch.KINDS:
            continue
        if not page.flag:
            kind = launch.KINDS[page.method]
            methods[page.method] = {"page": asdict(page), "kind": kind, "part": launch.PARTS[page.method], "pick": "",
                                    "mixes": False, "feeds": [kind, *ALSO.get(kind, ())], "columns": EXPECTED[kind],
                                    "earns": kind == "prompt", "settings": list(_fields(CONFIGS[page.method])),
                                    "choices": []}  # fmt: skip
        else:
            method = methods[page.method]
            method["pick"] = page.flag.split()[0].removeprefix("--").replace("-", "_")
            method["mixes"] = any(s["name"] == method["pick"] and "mixture" in s["help"] for s in method["settings"])
            method["choices"].append(asdict(page))
    return {
        "methods": methods,
        "adapter": list(_fields(Adapter)),
        "verifiers": [
            {"name": name, "help": entry.help, "needs": list(entry.needs),
             "options": [{"name": o.name, "type": o.type, "default": o.default, "help": o.help} for o in entry.options]}
            for name, entry in VERIFIERS.items()
        ],
        "sources": [{"text": f"tiny:{name}?n={DEMONSTRATIONS}" if name == "demonstrations" else f"tiny:{name}",
                     "kind": kind, "options": list(options)}
                    for name, (kind, options) in SOURCES.items() if world == "tiny"],
        "presets": {method: presets(method, world) for method in methods},
    }  # fmt: skip


def _fields(cls: type) -> Iterator[dict[str, Any]]:
    """The settings of a config as a form draws them, the essential ones first."""
    every = list(settings(cls))
    essential = [n for n in ESSENTIAL if n in {s.name for s in every}]
    essential = [n for n in essential if n != "epochs" or "steps" not in essential]
    for s in sorted(every, key=lambda s: essential.index(s.name) if s.name in essential else len(essential)):
        yield asdict(s) | {"kind": s.kind.__name__, "group": _group(s.name), "essential": s.name in essential}


def _group(name: str) -> str:
    return next((g for g, names in GROUPS.items() if any(re.fullmatch(n, name) for n in names.split())), OWN)


def check(form: Mapping[str, Any]) -> dict[str, Any]:
    """What is wrong, by field, and the values of the settings that are left to the method.

    errors : setting, adapter.setting or reward.number -> sentence; "" for what concerns several fields
    own    : setting -> the value it has where nobody gives one, such as a variant's group size
    """
    config, errors = _tried(_config_class(form), form.get("settings") or {})
    _, more = _tried(Adapter, form.get("adapter") or {})
    errors |= {f"adapter.{name}" if name else "": sentence for name, sentence in more.items()}
    for i, row in enumerate(form.get("rewards") or ()):
        try:
            what = earning.parse(reward(row))[1]
            if earning.is_program(what):
                earning.program(what)
        except (ConfigError, VerifierError, RunError) as error:
            errors[f"reward.{i}"] = str(error)
    optional = [s.name for s in settings(type(config)) if s.optional] if config is not None else []
    return {"errors": errors, "own": {name: getattr(config, name) for name in optional}}


def configs(form: Mapping[str, Any]) -> tuple[Any, Adapter]:
    """The settings that a form means, and its adapter. Raises ConfigError with the first thing that is wrong."""
    cls = _config_class(form)
    return cls(**typed(cls, form.get("settings") or {})), Adapter(**typed(Adapter, form.get("adapter") or {}))


def is_judge(what: str) -> bool:
    """Whether a line of a form's rewards names a reward model, and no verifier."""
    return what not in VERIFIERS and bool(re.fullmatch(RUN, what))


def order(form: Mapping[str, Any]) -> Order:
    """The order that a form means. Raises ConfigError with the first thing that is wrong."""
    cls, init = _config_class(form), str(form.get("init") or "").strip()
    if init and not re.fullmatch(RUN, init):
        raise ConfigError(f"{init!r} is not a run; choose one from the list.")
    if not str(form.get("data") or "").strip():
        raise _at("data", ConfigError("There are no data; choose a run's, the world's own, or give a path."))
    method, config = str(form["method"]), cls(**typed(cls, form.get("settings") or {}))
    rewards = tuple(reward(row) for row in form.get("rewards") or ()) if launch.KINDS[method] == "prompt" else ()
    if launch.earns(method, config) and not rewards:
        raise _at("rewards", ConfigError("Nothing says what a completion earns; add a reward model or a verifier."))
    return Order(method, config, str(form["data"]).strip(), Adapter(**typed(Adapter, form.get("adapter") or {})), init,
                 rewards, str(form.get("name") or "").strip(), _probes(form))  # fmt: skip


def _probes(form: Mapping[str, Any]) -> tuple[str, ...]:
    """The prompts that are asked at intervals: texts, each once; anything else is passed over."""
    given = form.get("probes")
    texts = [p.strip() for p in given if isinstance(p, str)] if isinstance(given, (list, tuple)) else []
    return tuple(dict.fromkeys(p for p in texts if p))


def reward(row: Mapping[str, Any]) -> str:
    """[weight*]what of one line of a form's rewards."""
    what, weight = str(row.get("what") or ""), str(row.get("weight") or "1").strip()
    if not re.fullmatch(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", weight, re.IGNORECASE):
        raise ConfigError(f"The weight is {weight!r}; it must be a number.")
    if what not in VERIFIERS and not re.fullmatch(RUN, what):
        raise ConfigError(f"{what!r} is neither a run nor a verifier; choose one from the list.")
    given = {k: str(v) for k, v in (row.get("options") or {}).items() if str(v).strip()} if what in VERIFIERS else {}
    query = "&".join(f"{k}={v.replace('%', '%25').replace('&', '%26')}" for k, v in given.items())
    return f"{weight}*{what}{'?' + query if query else ''}"


def typed(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config that a form gives. What cannot be read stays text, and the config says what it must be."""
    known = {s.name: s for s in settings(cls)}
    odd = [name for name in given if name not in known]
    if odd:
        raise ConfigError(f"There is no setting {odd[0]!r}; there are {', '.join(known)}.")
    return {name: _value(known[name], text) for name, text in given.items() if text not in ("", None)}


def _value(s: Setting, text: Any) -> Any:
    if not isinstance(text, str):
        return text
    if s.kind is bool:
        return {"true": True, "false": False}.get(text, text)
    try:
        return s.kind(text.strip().replace("−", "-"))
    except ValueError:
        return text


def _tried(cls: type, given: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """The config without the fields that are wrong (None: they do not fit together), and what is wrong with each."""
    errors: dict[str, str] = {}
    values = typed(cls, given)
    while True:
        try:
            return cls(**values), errors
        except ConfigError as error:
            found = re.match(r"(\w+) is ", str(error))
            name = found[1] if found and found[1] in values else ""
            if name or not errors:  # without a wrong field, the others may be at odds with its default
                errors[name] = str(error)
            if not name:
                return None, errors
            del values[name]


def _config_class(form: Mapping[str, Any]) -> type:
    method = str(form.get("method") or "")
    if method not in CONFIGS or method not in launch.KINDS:
        raise ConfigError(f"{method!r} is not a method; choose one of {', '.join(launch.KINDS)}.")
    return CONFIGS[method]


def _at(part: str, error: ConfigError) -> ConfigError:
    """An error that says what it is about, for whoever shows it."""
    vars(error)["payload"] = {"at": part}
    return error
