"""From a run directory to a run in memory, and the other way round.

    inputs/setup.json      the model, the bits, the adapter, the world
    inputs/data.jsonl      the records it learns from, in the standard columns
    inputs/roles/<part>/   the adapters it starts from

A run directory is whole in itself: it needs neither the files nor the runs that it was made from.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab import earning
from lab.base import RAW, SharedBase
from lab.columns import Kind
from lab.config import Adapter
from lab.data import read, write_jsonl
from lab.feedback.rewards import Rewards
from lab.probes import Gold, Probes
from lab.records import Message, Prompt
from lab.runs import Run, RunError
from lab.saving import load_role
from lab.state import Built
from lab.train import group as group_story
from lab.train import online as online_story
from lab.train import ppo as ppo_story
from lab.train import preference as preference_story
from lab.train import process as process_story
from lab.train import reward as reward_story
from lab.train import selection as selection_story
from lab.train import sft as sft_story
from lab.train import unpaired as unpaired_story

KINDS: dict[str, Kind] = {
    "sft": "sft",
    "reward": "preference",
    "process": "steps",
    "ppo": "prompt",
    "dpo": "preference",
    "kto": "rating",
    "grpo": "prompt",
    "online": "prompt",
    "raft": "prompt",
}
"""What each method learns from."""

PARTS = {
    "sft": "sft",
    "reward": "reward",
    "process": "process",
    "ppo": "policy",
    "dpo": "policy",
    "kto": "policy",
    "grpo": "policy",
    "online": "policy",
    "raft": "policy",
}
"""The part of each method that later runs and people take from it."""


@dataclass(frozen=True)
class Setup:
    """What a run was made from, besides its settings.

    model, bits, double_quant : as `SharedBase.load` takes them
    world    : "tiny" if the gold reward and the probe prompts are the tiny world's
    rewards  : what a completion earns, each as [weight*]what: a part among the inputs (a reward model), a verifier
               such as number, path/to/file.py:function, or model:folder-or-id (a classifier of another family)
    probes   : user turns asked at intervals
    asks     : who answers where the run asks: a judge as `lab.judges` has it, or labels:FILE-or-URL of a label store
    """

    model: str
    bits: int = 4
    double_quant: bool = False
    adapter: Adapter = field(default_factory=Adapter)
    world: str = ""
    rewards: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    asks: str = ""

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
    before = row.pop("function", "")
    row.setdefault("rewards", [before] if before else [])
    row |= {"adapter": Adapter(**row["adapter"]), "probes": tuple(row["probes"]), "rewards": tuple(row["rewards"])}
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


def _process(base: SharedBase, run: Run, setup: Setup, config: Any, records: Sequence[Any]) -> Built:
    state = process_story.start(base, records, config, role=role_name(run.id), adapter=setup.adapter)
    return Built(state, config, process_story.process)


def _policy(base: SharedBase, run: Run, setup: Setup, config: Any) -> str:
    """The role a run trains; with no adapter to start from, the raw base is the start and the reference."""
    own = role_name(run.id)
    if own not in base.roles:
        base.add_role(own, setup.adapter, seed=config.seed)
    return own


def _ppo(base: SharedBase, run: Run, setup: Setup, config: Any, records: Sequence[Any]) -> Built:
    own = _policy(base, run, setup, config)
    state = ppo_story.start(base, records, config, rewards_of(base, run, setup, config), policy=own, prefix=f"{own}-",
                            probes=probes(setup, config))  # fmt: skip
    return Built(state, config, ppo_story.ppo)


def _dpo(base: SharedBase, run: Run, setup: Setup, config: Any, records: Sequence[Any]) -> Built:
    own = _policy(base, run, setup, config)
    state = preference_story.start(base, records, config, policy=own, prefix=f"{own}-", probes=probes(setup, config))
    return Built(state, config, preference_story.preference)


def _kto(base: SharedBase, run: Run, setup: Setup, config: Any, records: Sequence[Any]) -> Built:
    own = _policy(base, run, setup, config)
    state = unpaired_story.start(base, records, config, policy=own, prefix=f"{own}-", probes=probes(setup, config))
    return Built(state, config, unpaired_story.unpaired)


def _grpo(base: SharedBase, run: Run, setup: Setup, config: Any, records: Sequence[Any]) -> Built:
    own = _policy(base, run, setup, config)
    state = group_story.start(base, records, config, rewards_of(base, run, setup, config), policy=own, prefix=f"{own}-",
                              probes=probes(setup, config))  # fmt: skip
    return Built(state, config, group_story.group)


def _online(base: SharedBase, run: Run, setup: Setup, config: Any, records: Sequence[Any]) -> Built:
    own = _policy(base, run, setup, config)
    rewards = rewards_of(base, run, setup, config) if setup.rewards or earns("online", config) else None
    state = online_story.start(base, records, config, rewards, policy=own,
                               prefix=f"{own}-", probes=probes(setup, config))  # fmt: skip
    return Built(state, config, online_story.online)


def _raft(base: SharedBase, run: Run, setup: Setup, config: Any, records: Sequence[Any]) -> Built:
    own = _policy(base, run, setup, config)
    state = selection_story.start(base, records, config, rewards_of(base, run, setup, config), policy=own,
                                  prefix=f"{own}-", probes=probes(setup, config))  # fmt: skip
    return Built(state, config, selection_story.selection)


STORIES: dict[str, Callable[[SharedBase, Run, Setup, Any, Sequence[Any]], Built]] = {
    "sft": _sft,
    "reward": _reward,
    "process": _process,
    "ppo": _ppo,
    "dpo": _dpo,
    "kto": _kto,
    "grpo": _grpo,
    "online": _online,
    "raft": _raft,
}


def rewards_of(base: SharedBase, run: Run, setup: Setup, config: Any) -> Rewards:
    """What the completions of this run earn; its reward models are on the base already."""
    parts = {part: role_name(run.id, part) for part in starting_roles(run) if part != PARTS[run.manifest.method]}
    return earning.rewards(setup.rewards or ("reward",), parts, config.ensemble, config.doubt, str(base.device), base)


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


def members(part: str, found: tuple[Path, dict[str, Any]]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The other members of an ensemble whose first one was found: they stand beside it, numbered from 1."""
    folder, where = found
    out = {}
    for i in itertools.count(1):
        other = folder.with_name(f"{folder.name}-{i}")
        if not (other / "adapter_config.json").is_file():
            return out
        out[f"{part}-{i}"] = (other, where | {"member": i})
    raise AssertionError("unreachable")


def earns(method: str, config: Any = None) -> bool:
    """Whether a method needs something that says what a completion earns; a run that asks for verdicts does not."""
    return KINDS[method] == "prompt" and getattr(config, "judge", "") != "asked"


def kind_of(method: str, config: Any) -> Kind:
    """What a method learns from with these settings."""
    return KINDS[method]


def is_raw(text: str) -> bool:
    """Whether a role's name means the base itself."""
    return text == RAW
