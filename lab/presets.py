"""Settings to begin with: a few for every method, each a handful of values that differ from the method's own."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

from lab.config import CONFIGS, settings

DEMONSTRATION = "as in the demonstration"
QUICK: dict[str, dict[str, Any]] = {
    "sft": {"epochs": 0.1, "eval_every": 0, "probe_every": 5, "save_every": 0},
    "reward": {"epochs": 0.1, "eval_every": 10, "probe_every": 0, "save_every": 0},
    "process": {"epochs": 0.1, "eval_every": 10, "probe_every": 0, "save_every": 0},
    "dpo": {"epochs": 0.1, "eval_every": 10, "probe_every": 5, "save_every": 0},
    "kto": {"epochs": 0.1, "eval_every": 10, "probe_every": 5, "save_every": 0},
    "ppo": {"steps": 5, "batch": 16, "probe_every": 1, "save_every": 5},
    "grpo": {"steps": 5, "prompts": 4, "probe_every": 1, "save_every": 5},
    "online": {"steps": 5, "prompts": 8, "probe_every": 1, "save_every": 5},
    "raft": {"steps": 3, "prompts": 8, "probe_every": 1, "save_every": 3},
}
"""A few minutes at most: does it run, and does anything move?"""

OFTEN = {"eval_every": 10, "probe_every": 10, "save_every": 10, "warmup": 0.1}
RECIPE = {"dpo": "modern", "grpo": "modern"}
"""The methods whose demonstration is a shipped recipe."""


def presets(method: str, world: str = "") -> list[dict[str, Any]]:
    """Each with its `name`, in `words` what it is for, and the `settings` as a form takes them (text)."""
    shown = demonstrated(method) if world == "tiny" else {}
    found = [("quick look", "a few steps, to see that everything fits together", shown | QUICK.get(method, {}))]
    if shown:
        found.append((DEMONSTRATION, "what the tiny world's own demonstration and recipes use", shown))
    found.append(("careful", "half the learning rate, a longer warm-up, looked at and saved often",
                  careful(method, shown)))  # fmt: skip
    return [{"name": name, "words": words, "settings": {k: _text(v) for k, v in values.items()}}
            for name, words, values in found if values]  # fmt: skip


def careful(method: str, shown: dict[str, Any]) -> dict[str, Any]:
    """Half of every learning rate, and the often of what the method has."""
    known = {s.name: s for s in settings(CONFIGS[method])}
    rates = [name for name in known if name == "lr" or name.endswith("_lr")]
    halves = {name: float(shown.get(name, known[name].default)) / 2 for name in rates}
    return shown | halves | {name: value for name, value in OFTEN.items() if name in known}


@cache
def demonstrated(method: str) -> dict[str, Any]:
    """Where the demonstration, or the recipe that shows a method, differs from the method's own values."""
    from lab import demo

    config = {"sft": demo.SFT, "reward": demo.REWARD, "ppo": demo.PPO}.get(method)
    if config is not None:
        return {f.name: value for f in fields(config) if (value := getattr(config, f.name)) != f.default}
    if method not in RECIPE:
        return {}
    from lab.recipes import read_recipe, shipped

    known = {s.name for s in settings(CONFIGS[method])}
    stages = read_recipe(shipped()[RECIPE[method]]).stages
    stage = next(s for s in stages if s.method == method)
    return {name: value for name, value in stage.says.items() if name in known}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
