"""Speed against the peers on the CPU: python -m benchmarks.run [--only sft --only ppo] [--blocks 5] [--threads 2].

For every row both contenders do the same work, and it is checked: the same loss to 1e-3 and the same gradient to a
cosine of 0.999 (rollouts: the same greedy tokens); where both get the same rows, the losses of all steps agree to 1e-3,
and the lengths of gradients too; where both sample, the mean length of their completions agrees to a fifth. They take
turns, A B A B, one step each. The ratio is the median over turns; its range is over the medians of blocks of turns. A
ratio under its gate makes the exit code 1.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.turns import ROOT, Contender
from benchmarks.work import BATCH, write_work

OLD = ROOT / ".venv-trl029"
OLD_PACKAGES = ("torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "bitsandbytes==0.50.2", "trl==0.29.1",
                "accelerate", "datasets", "safetensors")  # fmt: skip
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Race:
    """One row of the table: what is measured, who it is measured against, and what it must reach."""

    name: str
    what: str
    peer: str
    module: str
    gate: float
    target: float
    old: bool = False


RACES = (
    Race("sft", "SFT update, 32 rows", "TRL 1.16 SFTTrainer", "benchmarks.trl_now", 1.3, 1.6),
    Race("reward", "reward-model update, 32 pairs", "TRL 1.16 RewardTrainer", "benchmarks.trl_now", 1.6, 1.9),
    Race("dpo", "DPO update, 32 pairs", "TRL 1.16 DPOTrainer", "benchmarks.trl_now", 2.0, 2.4),
    Race("dpo-precomputed", "the same, reference precomputed", "TRL 1.16 DPOTrainer", "benchmarks.trl_now", 1.4, 1.8),
    Race("kto", "KTO update, 32 rows", "TRL 1.16 KTOTrainer", "benchmarks.trl_now", 1.6, 2.0),
    Race("grpo", "GRPO step, 8 groups of 8, ragged ends", "TRL 1.16 GRPOTrainer", "benchmarks.trl_group", 2.4, 3.0),
    Race("ppo", "PPO step, ragged ends, one pass", "TRL 0.29.1 PPOTrainer", "benchmarks.trl_ppo", 2.0, 3.0, True),
    Race("ppo-4", "PPO step, ragged ends, four passes", "TRL 0.29.1 PPOTrainer", "benchmarks.trl_ppo", 1.6, 2.2, True),
    Race("ppo-fixed", "PPO step, all of 32 tokens", "TRL 0.29.1 PPOTrainer", "benchmarks.trl_ppo", 2.0, 3.0, True),
    Race("ppo-4-fixed", "the same, four passes", "TRL 0.29.1 PPOTrainer", "benchmarks.trl_ppo", 1.6, 2.2, True),
    Race("rollout", "rollout of 64 prompts, ragged ends", "transformers generate, NF4 + PEFT", "benchmarks.trl_now",
         2.6, 3.5),
)  # fmt: skip


@dataclass
class Outcome:
    """What was measured: seconds (per token for rollouts) of every step, and the agreement of the work."""

    name: str
    agreement: dict[str, float]
    ours_s: list[float] = field(default_factory=list)
    theirs_s: list[float] = field(default_factory=list)
    ours_cpu_s: list[float] = field(default_factory=list)
    theirs_cpu_s: list[float] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)  # ours and theirs, of every step on the same rows
    lengths: list[tuple[float, float]] = field(default_factory=list)  # mean tokens of sampled completions, both sides
    theirs_width: list[int] = field(default_factory=list)  # tokens their completions were sampled and padded to
    block: int = 4

    @property
    def same_work(self) -> bool:
        """Whether both did the same: losses to 1e-3, gradients to a cosine of 0.999, tokens without exception.

        Of sampled completions, whose noise differs, the mean length must agree to a fifth.
        """
        gaps = [v for k, v in self.agreement.items() if k.endswith("gap")]
        cosines = [v for k, v in self.agreement.items() if "cosine" in k or k == "same tokens"]
        mine, other = (sum(side) for side in zip(*self.lengths, strict=True)) if self.lengths else (1.0, 1.0)
        return all(g < 1e-3 for g in gaps) and all(c > 0.999 for c in cosines) and abs(mine / other - 1) < 0.2

    @property
    def ratio(self) -> float:
        """How many times faster this library is by the clock: the median over turns, whose two steps are neighbours."""
        return median(self._ratios())

    @property
    def cpu_ratio(self) -> float:
        """The same in processor time, which a busy machine disturbs less."""
        return median(t / o for t, o in zip(self.theirs_cpu_s, self.ours_cpu_s, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        """Least and greatest median among the blocks of turns."""
        ratios = self._ratios()
        blocks = [median(ratios[i : i + self.block]) for i in range(0, len(ratios), self.block)]
        return min(blocks), max(blocks)

    def _ratios(self) -> list[float]:
        return [t / o for t, o in zip(self.theirs_s, self.ours_s, strict=True)]


def run_race(race: Race, work: Path, blocks: int, block: int, warm: int, threads: int) -> Outcome:
    """Starts both contenders, checks that their work agrees, and lets them take turns."""
    python = OLD / "bin" / "python" if race.old else Path(sys.executable)
    ours = Contender(sys.executable, "benchmarks.ours", work, race.name, threads=threads)
    theirs = Contender(python, race.module, work, race.name, threads=threads)
    try:
        facts, others = ours.start(), theirs.start()
        outcome = Outcome(race.name, {}, block=block)
        for _ in range(warm):
            compare(outcome, ours.step(), theirs.step())
        for turn in range(blocks * block):
            pair = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
            answers = {id(c): c.step() for c in pair}
            for contender, wall, cpu in ((ours, outcome.ours_s, outcome.ours_cpu_s),
                                         (theirs, outcome.theirs_s, outcome.theirs_cpu_s)):  # fmt: skip
                answer = answers[id(contender)]
                wall.append(answer["wall_s"] / answer.get("tokens", 1))
                cpu.append(answer["cpu_s"] / answer.get("tokens", 1))
            compare(outcome, answers[id(ours)], answers[id(theirs)])
        outcome.agreement = agree(race, work, facts, others, outcome.losses)
        return outcome
    finally:
        ours.stop()
        theirs.stop()


def compare(outcome: Outcome, mine: dict[str, Any], other: dict[str, Any]) -> None:
    """Notes what both sides say of a step."""
    for name, pairs in (("loss", outcome.losses), ("length", outcome.lengths)):
        pairs += [(mine[name], other[name])] if name in mine and name in other else []
    outcome.theirs_width += [other["width"]] if "width" in other else []


def agree(
    race: Race, work: Path, facts: dict[str, Any], others: dict[str, Any], losses: list[tuple[float, float]]
) -> dict[str, float]:
    """How far the two sides' losses and first gradients (or greedy tokens) are apart."""
    if race.name == "rollout":
        same = sum(a == b for a, b in zip(facts["greedy"], others["greedy"], strict=True)) / len(facts["greedy"])
        return {"same tokens": same}
    if race.old:
        gaps = {f"{k} gap": abs(facts[k] - others[k]) for k in ("policy_loss", "value_loss")}
        return gaps | {f"{role} gradient cosine": gradients(work, "ppo", role)[0] for role in ("policy", "value")}
    theirs = others["loss"] if "loss" in others else losses[0][1]
    cosine, length = gradients(work, race.name)
    found = {"loss": facts["loss"], "loss gap": abs(facts["loss"] - theirs), "gradient cosine": cosine,
             "gradient length gap": abs(length - 1)}  # fmt: skip
    if losses:
        found |= {"last loss": losses[-1][0], "later loss gap": max(abs(a - b) for a, b in losses)}
    return found


def gradients(work: Path, name: str, role: str = "") -> tuple[float, float]:
    """Of both sides' gradients of a role's adapter: the cosine of their angle, and our length over theirs."""
    import numpy as np

    ours, theirs = (np.load(work / f"{name}-{side}.npz") for side in ("ours", "theirs"))
    keys = sorted(k for k in ours.files if k.startswith(role))
    assert keys
    assert keys == sorted(k for k in theirs.files if k.startswith(role))
    a, b = (np.concatenate([side[k].reshape(-1) for k in keys]).astype(np.float64) for side in (ours, theirs))
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    return float(a @ b) / (lengths[0] * lengths[1]), lengths[0] / lengths[1]


def old_environment() -> None:
    """Makes the environment for TRL 0.29.1 beside this one, once: its PPOTrainer is not in later releases."""
    python = OLD / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(OLD)], check=True)
    if subprocess.run([str(python), "-c", "import trl, torch, bitsandbytes"], capture_output=True).returncode:
        command = [str(python), "-m", "pip", "install", "--quiet", *OLD_PACKAGES]
        subprocess.run([*command, "--constraint", str(ROOT / "constraints.txt")], check=True)


def machine(threads: int) -> dict[str, Any]:
    """The machine and its load, for the record."""
    from importlib.metadata import version

    return {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": threads,
            "load_average": os.getloadavg(), "python": platform.python_version(),
            "versions": {p: version(p) for p in ("torch", "transformers", "peft", "bitsandbytes", "trl")}}  # fmt: skip


def table(outcomes: list[Outcome]) -> None:
    """Prints the results."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(
        "measure", "against", "ours", "theirs", "ratio", "blocks", "cpu ratio", "gate", "target", "same work", ""
    )
    for o in outcomes:
        race = next(r for r in RACES if r.name == o.name)
        unit, scale = (" ms", 1e3) if o.name != "rollout" else (" µs/token", 1e6)
        low, high = o.spread
        grid.add_row(race.what, race.peer, *(f"{median(s) * scale:.0f}{unit}" for s in (o.ours_s, o.theirs_s)),
                     f"[bold]{o.ratio:.2f}[/]", f"{low:.2f}–{high:.2f}", f"{o.cpu_ratio:.2f}", f"{race.gate:.1f}",
                     f"{race.target:.1f}", "yes" if o.same_work else "[red]no[/]",
                     "[green]pass[/]" if passes(o) else "[red]fail[/]")  # fmt: skip
    Console(width=170).print(grid)
    for o in outcomes:
        print(f"{o.name}: " + ", ".join(f"{k} {v:.6g}" for k, v in (o.agreement | sampled(o)).items()))


def sampled(outcome: Outcome) -> dict[str, float]:
    """Mean tokens of the completions each side sampled, and how wide theirs were padded, where both sample."""
    if not outcome.lengths:
        return {}
    mine, other = (sum(side) / len(side) for side in zip(*outcome.lengths, strict=True))
    return {"our length": mine, "their length": other, "their width": sum(outcome.theirs_width) / len(outcome.lengths)}


def passes(outcome: Outcome) -> bool:
    """At or above the gate, with the same work done."""
    return outcome.same_work and outcome.ratio >= next(r for r in RACES if r.name == outcome.name).gate


@click.command()
@click.option("--only", multiple=True, type=click.Choice([r.name for r in RACES]), help="measure these rows only")
@click.option("--blocks", default=5, show_default=True, help="blocks of turns, whose ratios give the range")
@click.option("--block", default=4, show_default=True, help="turns in a block")
@click.option("--warm", default=3, show_default=True, type=click.IntRange(1), help="steps of each before timing")
@click.option(
    "--threads", default=min(2, os.cpu_count() or 1), show_default=True, help="torch threads of each contender"
)
@click.option(
    "--target", type=click.Path(path_type=Path), help="where the JSON goes [benchmarks/results/<date>-cpu.json]"
)
def main(only: tuple[str, ...], blocks: int, block: int, warm: int, threads: int, target: Path | None) -> None:
    """Measures this library against TRL and transformers."""
    races = [r for r in RACES if not only or r.name in only]
    if any(r.old for r in races):
        old_environment()
    began, outcomes = machine(threads), []
    with tempfile.TemporaryDirectory() as folder:
        write_work(Path(folder), steps=warm + blocks * block + 2, batch=BATCH)
        for race in races:
            print(f"{race.name}: {race.peer} …", flush=True)
            outcomes.append(run_race(race, Path(folder), blocks, block, warm, threads))
    table(outcomes)
    target = target or RESULTS / f"{datetime.date.today().isoformat()}-cpu.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(o) | {"ratio": o.ratio, "cpu_ratio": o.cpu_ratio, "spread": o.spread, "same_work": o.same_work,
                         "passes": passes(o)} for o in outcomes]  # fmt: skip
    target.write_text(json.dumps({"began": began, "ended": machine(threads), "rows": rows}, indent=1))
    print(f"written to {target}; load {began['load_average'][0]:.1f} → {os.getloadavg()[0]:.1f}")
    sys.exit(0 if all(passes(o) for o in outcomes) else 1)


if __name__ == "__main__":
    main()
