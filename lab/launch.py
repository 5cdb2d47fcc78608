"""From a run directory to a run in memory, and the other way round.

    inputs/setup.json      the model, the bits, the adapter, the world
    inputs/data.jsonl      the records it learns from, in the standard columns
    inputs/roles/<part>/   the adapters it starts from

A run directory is whole in itself: it needs neither the files nor the runs that it was made from.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.base import RAW, SharedBase
from lab.columns import Kind
from lab.config import Adapter
from lab.data import read, write_jsonl
from lab.probes import Gold, Probes
from lab.records import Message, Prompt
from lab.runs import Run, RunError
from lab.saving import load_role
from lab.state import Built
from lab.train import ppo as ppo_story
from lab.train import reward as reward_story
from lab.train import sft as sft_story

KINDS: dict[str, Kind] = {"sft": "sft", "reward": "preference", "ppo": "prompt"}
"""What each method learns from."""

PARTS = {"sft": "sft", "reward": "reward", "ppo": "policy"}
"""The part of each method that later runs and people take from it."""


@dataclass(frozen=True)
class Setup:
    """What a run was made from, besides its settings.

    model, bits, double_quant : as `SharedBase.load` takes them
    world    : "tiny" if the gold reward and the probe prompts are the tiny world's
    function : a reward program, as path/to/file.py:name; empty where a reward model judges
    probes   : user turns asked at intervals
    """

    model: str
    bits: int = 4
    double_quant: bool = False
    adapter: Adapter = field(default_factory=Adapter)
    world: str = ""
    function: str = ""
    probes: tuple[str, ...] = ()

    def load(self, device: str = "auto") -> SharedBase:
        """The base this run needs."""
        return SharedBase.load(self.model, self.bits, device, double_quant=self.double_quant)


def new_run(
    root: Path | str,
    method: str,
    config: Any,
    setup: Setup,
    records: Sequence[Any],
    starts: Mapping[str, Path] | None = None,
    *,
    name: str = "",
    title: str = "",
    parents: Mapping[str, Any] | None = None,
) -> Run:
    """A run directory with everything the run needs inside; nothing is played yet."""

    def prepare(folder: Path) -> None:
        inputs = folder / "inputs"
        inputs.mkdir()
        (inputs / "setup.json").write_text(json.dumps(asdict(setup), indent=1, ensure_ascii=False))
        write_jsonl(records, inputs / "data.jsonl")
        for part, source in (starts or {}).items():
            shutil.copytree(source, inputs / "roles" / part)

    return Run.create(
        root,
        method,
        config,
        name=name,
        title=title,
        parents=parents or {},
        base={"source": setup.model, "bits": setup.bits},
        prepare=prepare,
    )


def setup_of(run: Run) -> Setup:
    """What `new_run` wrote."""
    try:
        row = json.loads((run.path / "inputs" / "setup.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{run.id} has no readable inputs/setup.json ({error}); it was not made by the lab.") from error
    row |= {"adapter": Adapter(**row["adapter"]), "probes": tuple(row["probes"])}
    return Setup(**row)


def role_name(run_id: str, part: str = "") -> str:
    """What a run's part is called on a base: the run's own name for the part people take, else with the part added."""
    own = re.sub(r"[^\w-]", "_", run_id)
    return f"{own}-{part}" if part else own


def build(base: SharedBase, run: Run) -> Built:
    """The state of a run at step 0 on this base, its settings, and its method."""
    method = run.manifest.method
    if method not in KINDS:
        raise RunError(f"{run.id} is a run of {method!r}, which this lab does not know.")
    setup, config = setup_of(run), run.config()
    if setup.model != base.source or setup.bits != base.bits:
        raise RunError(
            f"{run.id} runs on {setup.model} in {setup.bits} bits; this process holds {base.source} in "
            f"{base.bits} bits. Start an engine for that model."
        )
    for name in [n for n in base.roles if n == role_name(run.id) or n.startswith(f"{role_name(run.id)}-")]:
        base.drop(name)
    for part, folder in starting_roles(run).items():
        load_role(base, folder, role_name(run.id, "" if part == PARTS[method] else part))
    records = read(run.path / "inputs" / "data.jsonl", KINDS[method]).records
    return STORIES[method](base, run, setup, config, records)


def starting_roles(run: Run) -> dict[str, Path]:
    """part -> folder of the adapter it starts from."""
    folder = run.path / "inputs" / "roles"
    return {p.name: p for p in sorted(folder.iterdir())} if folder.is_dir() else {}


def _sft(base: SharedBase, run: Run, setup: Setup, config: Any, records: Sequence[Any]) -> Built:
    state = sft_story.start(
        base, records, config, role=role_name(run.id), adapter=setup.adapter, probes=probes(setup, config)
    )
    return Built(state, config, sft_story.sft)


def _reward(base: SharedBase, run: Run, setup: Setup, config: Any, records: Sequence[Any]) -> Built:
    state = reward_story.start(base, records, config, role=role_name(run.id), adapter=setup.adapter, gold=truth(setup))
    return Built(state, config, reward_story.reward)


def _ppo(base: SharedBase, run: Run, setup: Setup, config: Any, records: Sequence[Any]) -> Built:
    own = role_name(run.id)
    if own not in base.roles:  # no adapter to start from: the raw base is the start and the reference
        base.add_role(own, setup.adapter, seed=config.seed)
    reward = role_name(run.id, "reward")
    state = ppo_story.start(base, records, config, policy=own, reward=reward if reward in base.roles else None,
                            function=reward_function(setup.function) if setup.function else None, prefix=f"{own}-",
                            probes=probes(setup, config))  # fmt: skip
    return Built(state, config, ppo_story.ppo)


STORIES: dict[str, Callable[[SharedBase, Run, Setup, Any, Sequence[Any]], Built]] = {
    "sft": _sft, "reward": _reward, "ppo": _ppo}  # fmt: skip


def probes(setup: Setup, config: Any) -> Probes:
    """The probe prompts of a run, each a user turn."""
    prompts: tuple[Prompt, ...] = tuple((Message("user", text),) for text in setup.probes)
    longest = getattr(config, "max_new_tokens", 0)
    if setup.world == "tiny":
        from lab import tiny

        longest = longest or tiny.MAX_NEW_TOKENS
    return Probes(prompts, longest or 64, getattr(config, "temperature", 1.0), truth(setup))


def truth(setup: Setup) -> Gold | None:
    """The gold reward of the world, where there is one."""
    if setup.world != "tiny":
        return None
    from lab import tiny

    return tiny.gold


def reward_function(where: str) -> Any:
    """The function named by path/to/file.py:name."""
    import importlib.util

    path, _, name = where.rpartition(":")
    if not path or not Path(path).is_file():
        raise RunError(f"There is no reward function at {where!r}; give path/to/file.py:name.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise RunError(f"{path} has no function {name!r}.")
    return getattr(module, name)


def find_role(root: Path | str, text: str) -> tuple[Path, dict[str, Any]]:
    """The adapter folder that `text` means, and where it came from.

    `text` is a run (its latest checkpoint), run@step, or a folder with an adapter. Raises RunError naming what exists.
    """
    folder = Path(text)
    if (folder / "adapter_config.json").is_file():
        return folder, {"folder": str(folder)}
    name, _, step = text.partition("@")
    path = Path(root) / name if (Path(root) / name / "config.json").is_file() else Path(name)
    if not (path / "config.json").is_file():
        raise RunError(f"There is no run and no adapter {text!r}; `lab runs` lists the runs that exist.")
    run = Run.open(path)
    saved = run.checkpoints()
    if not saved:
        raise RunError(f"{run.id} has no checkpoint yet; let it reach its first one.")
    if step and (not step.isdigit() or int(step) not in saved):
        raise RunError(f"{run.id} has no checkpoint of step {step}; saved steps: {', '.join(map(str, saved))}.")
    at = int(step) if step else saved[-1]
    part = PARTS[run.manifest.method]
    return run.checkpoint(at) / part, {"run": run.id, "step": at, "role": part}


def is_raw(text: str) -> bool:
    """Whether a role's name means the base itself."""
    return text == RAW
