"""Memory of PPO's four roles over that of SFT, with the same packed tokens a pass: python -m benchmarks.memory.

Each runs in a fresh process on the same random model in NF4. What counts is the peak above the loaded base: adapters,
gradients, moments, activations, logits, and for PPO the cache of its rollout too. On the CPU the peak is that of the
resident set (VmHWM of Linux, reset after loading); on a GPU `torch.cuda.max_memory_allocated`. Exit code 1 above the
gate.
"""

from __future__ import annotations

import datetime
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks.turns import ROOT

GATE = 1.15


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
    from benchmarks.phases import ppo_phase, rollout_phase, sft_phase
    from lab.encode import TokenRow

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    where = torch.device(device)
    base = random_base(model, where)
    vocabulary = CONFIGS[model]["vocab_size"]
    length = 64
    count = 2 * tokens // length  # two passes for SFT; PPO's two learning roles need four
    rows = [TokenRow(tuple(3 + (i * j) % (vocabulary - 3) for j in range(1, length // 2 + 1)),
                     tuple(3 + (i + 7 * j) % (vocabulary - 3) for j in range(length // 2)), (True,) * (length // 2), i)
            for i in range(1, count + 1)]  # fmt: skip
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if where.type == "cuda" else reset_peak()
    if what == "sft":
        phase = sft_phase(base, rows, tokens)
        phase.run()
        phase.run()
    else:
        phase = ppo_phase(base, rows[: count // 2], tokens, epochs=2)
        rollout_phase(base, [r.prompt_ids for r in rows[: count // 2]], "policy", length // 2)()
        phase.run()
    peak = torch.cuda.max_memory_allocated() if where.type == "cuda" else resident("VmHWM")
    return {"what": what, "base_bytes": before, "peak_bytes": peak, "above_base_bytes": peak - before}


def compare(model: str, tokens: int, device: str, threads: int = 1) -> dict[str, Any]:
    """Both stages in fresh processes, and their ratio."""
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore")
    found = {}
    for what in ("sft", "ppo"):
        command = [sys.executable, "-m", "benchmarks.memory", "--only", what, "--model", model, "--tokens", str(tokens),
                   "--device", device]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Measuring {what} failed: {done.stderr.strip().splitlines()[-1]}")
        found[what] = json.loads(done.stdout.strip().splitlines()[-1])
    ratio = found["ppo"]["above_base_bytes"] / found["sft"]["above_base_bytes"]
    return {"model": model, "tokens_per_pass": tokens, "device": device, **found, "ratio": ratio, "gate": GATE,
            "passes": ratio < GATE}  # fmt: skip


@click.command()
@click.option("--model", default="60m", show_default=True, help="a random model of benchmarks.models")
@click.option("--tokens", default=2048, show_default=True, help="packed tokens a pass")
@click.option("--device", default="cpu", show_default=True)
@click.option("--only", type=click.Choice(["sft", "ppo"]), help="measure one stage in this process")
def main(model: str, tokens: int, device: str, only: str | None) -> None:
    """Compares the peak memory of PPO with that of SFT."""
    if only:
        print(json.dumps(measure(only, model, tokens, device)))
        return
    result = compare(model, tokens, device)
    target = ROOT / "benchmarks" / "results" / f"{datetime.date.today().isoformat()}-memory-{device}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1))
    for what in ("sft", "ppo"):
        print(f"{what}: {result[what]['above_base_bytes'] / 2**20:.0f} MiB above a base of "
              f"{result[what]['base_bytes'] / 2**20:.0f} MiB")  # fmt: skip
    print(f"PPO / SFT {result['ratio']:.3f}, gate {GATE}: {'pass' if result['passes'] else 'fail'}")
    sys.exit(0 if result["passes"] else 1)


if __name__ == "__main__":
    main()
