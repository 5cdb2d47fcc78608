"""Memory of DPO, and of PPO's four roles, over that of SFT, with the same packed tokens a pass:

    python -m benchmarks.memory

Each runs in a fresh process on the same random model in NF4. What counts is the peak above the loaded base: adapters,
gradients, moments, activations, logits, for DPO the reference's scoring, and for PPO the cache of its rollout too. On
the CPU the peak is that of the resident set (VmHWM of Linux, reset after loading); on a GPU
`torch.cuda.max_memory_allocated`. Exit code 1 above a gate.
"""

from __future__ import annotations

import datetime
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.turns import ROOT

if TYPE_CHECKING:
    from lab.encode import TokenPair, TokenRow

GATES = {"dpo": 1.2, "ppo": 1.15}


def resident(field: str) -> int:
    """Bytes of this process: VmRSS (now) or VmHWM (the peak since the last reset)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "this measurement needs Linux"
    return int(found.group(1)) * 1024


def reset_peak() -> int:
    """Gives freed memory back to the system, sets the peak to what is resident now, and gives that back."""
    import ctypes

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def measure(what: str, model: str, tokens: int, device: str) -> dict[str, Any]:
    """In this process: loads the base, runs one stage twice (the second time the moments exist), reads the peak."""
    import torch

    from benchmarks.models import CONFIGS, random_base
    from benchmarks.phases import ppo_phase, preference_phase, rollout_phase, sft_phase
    from lab.encode import TokenRow

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    where = torch.device(device)
    base = random_base(model, where)
    vocabulary = CONFIGS[model]["vocab_size"]
    prompt, completion = 32, 96 if what == "dpo" else 32
    count = 2 * tokens // (prompt + completion)  # two passes for SFT and DPO; PPO's two learning roles need four
    rows = [TokenRow(tuple(3 + (i * j) % (vocabulary - 3) for j in range(1, prompt + 1)),
                     tuple(3 + (i + 7 * j) % (vocabulary - 3) for j in range(completion)), (True,) * completion, i)
            for i in range(1, count + 1)]  # fmt: skip
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if where.type == "cuda" else reset_peak()
    if what in ("sft", "dpo"):
        phase = sft_phase(base, rows, tokens) if what == "sft" else preference_phase(base, halves(rows), tokens)
        phase.run()
        phase.run()
    else:
        phase = ppo_phase(base, rows[: count // 2], tokens, epochs=2)
        rollout_phase(base, [r.prompt_ids for r in rows[: count // 2]], "policy", completion)()
        phase.run()
    peak = torch.cuda.max_memory_allocated() if where.type == "cuda" else resident("VmHWM")
    return {"what": what, "base_bytes": before, "peak_bytes": peak, "above_base_bytes": peak - before}


def halves(rows: Sequence[TokenRow]) -> list[TokenPair]:
    """A pair from every row: the first half of its completion against the second, as many packed tokens as the row."""
    from lab.encode import TokenPair, TokenRow

    half = len(rows[0].completion_ids) // 2
    return [TokenPair(*(TokenRow(r.prompt_ids, r.completion_ids[part], r.mask[part])
                        for part in (slice(half), slice(half, None)))) for r in rows]  # fmt: skip


def compare(model: str, tokens: int, device: str, threads: int = 1) -> dict[str, Any]:
    """Every stage in a fresh process, and what each takes over SFT."""
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore")
    found = {}
    for what in ("sft", *GATES):
        command = [sys.executable, "-m", "benchmarks.memory", "--only", what, "--model", model, "--tokens", str(tokens),
                   "--device", device]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Measuring {what} failed: {done.stderr.strip().splitlines()[-1]}")
        found[what] = json.loads(done.stdout.strip().splitlines()[-1])
    ratios = {what: found[what]["above_base_bytes"] / found["sft"]["above_base_bytes"] for what in GATES}
    return {"model": model, "tokens_per_pass": tokens, "device": device, **found, "ratios": ratios, "gates": GATES,
            "passes": {what: ratios[what] <= GATES[what] for what in GATES}}  # fmt: skip


@click.command()
@click.option("--model", default="60m", show_default=True, help="a random model of benchmarks.models")
@click.option("--tokens", default=2048, show_default=True, help="packed tokens a pass")
@click.option("--device", default="cpu", show_default=True)
@click.option("--only", type=click.Choice(["sft", *GATES]), help="measure one stage in this process")
@click.option(
    "--target", type=click.Path(path_type=Path), help="where the JSON goes [benchmarks/results/<date>-memory-cpu.json]"
)
def main(model: str, tokens: int, device: str, only: str | None, target: Path | None) -> None:
    """Compares the peak memory of DPO and of PPO with that of SFT."""
    if only:
        print(json.dumps(measure(only, model, tokens, device)))
        return
    result = compare(model, tokens, device)
    target = target or ROOT / "benchmarks" / "results" / f"{datetime.date.today().isoformat()}-memory-{device}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1))
    for what in ("sft", *GATES):
        print(f"{what}: {result[what]['above_base_bytes'] / 2**20:.0f} MiB above a base of "
              f"{result[what]['base_bytes'] / 2**20:.0f} MiB")  # fmt: skip
    for what, gate in GATES.items():
        said = "pass" if result["passes"][what] else "fail"
        print(f"{what.upper()} / SFT {result['ratios'][what]:.3f}, gate {gate}: {said}")
    sys.exit(0 if all(result["passes"].values()) else 1)


if __name__ == "__main__":
    main()
