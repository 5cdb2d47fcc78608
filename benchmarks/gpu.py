"""Everything worth measuring on a CUDA machine, in one command: python -m benchmarks.gpu [--minutes 9].

Random-weight Qwen3 models of 0.6 and 4 billion parameters in NF4, rank-16 adapters on all linear layers, rows of
log-normal length. Measured, each on its own, so that one failure leaves the rest standing:

    machine    bf16 matrix product (TF/s), copy (GB/s), launch cost of one small operation (µs)
    sft        updates: real tokens/s, peak bytes; NF4 and dense copy, with and without checkpointing, 2k and 8k a pass
    plain      the same rows through transformers + PEFT, padded: the loop TRL's trainers come down to
    reward     updates on pairs that share their prompts
    dpo, kto   the reference's scores and one update, on pairs and on single rows; peak of DPO over that of SFT
    grpo       scoring under a reference and one update on given groups of completions that share their prompts
    ppo        four-role scoring and one update of policy and value on given completions; peak over that of SFT
    rollout    tokens/s of 64 prompts with ragged ends, NF4 and dense; transformers generate on NF4 + PEFT beside it
    agreement  mean gap of log-probabilities between sampler and trainer, NF4 and dense

Only torch, transformers, peft, bitsandbytes and this library are needed. `--tiny --device cpu` proves the code path
anywhere in seconds; its numbers mean nothing.
"""

from __future__ import annotations

import datetime
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from benchmarks import models, phases
from benchmarks.models import CONFIGS, random_base, random_groups, random_model, random_pairs, random_rows
from lab.config import Adapter

ROOT = Path(__file__).resolve().parent.parent


class Clock:
    """Times phases on one device, and knows when to stop starting new ones."""

    def __init__(self, device: torch.device, minutes: float, repeats: int) -> None:
        self.device, self.repeats, self.end = device, repeats, time.monotonic() + 60 * minutes

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def over(self) -> bool:
        """Whether the time given is used up."""
        return time.monotonic() > self.end

    def measure(self, run: Callable[[], Any], tokens: int = 0) -> dict[str, float]:
        """Median seconds of `run` after one warm-up, tokens a second, and peak bytes in all and above the start."""
        run()
        self._settle()
        start = torch.cuda.memory_allocated() if self.cuda else 0
        seconds = []
        for _ in range(self.repeats):
            began = time.perf_counter()
            got = run()
            self._wait()
            seconds.append(time.perf_counter() - began)
            tokens = got if isinstance(got, int) else tokens
        out = {"median_s": median(seconds), "least_s": min(seconds), "greatest_s": max(seconds)}
        if tokens:
            out["tokens_per_s"] = tokens / out["median_s"]
        if self.cuda:
            peak = torch.cuda.max_memory_allocated()
            out |= {"peak_bytes": peak, "above_start_bytes": peak - start}
        return out

    def _settle(self) -> None:
        gc.collect()
        self._wait()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def machine(clock: Clock, size: int) -> dict[str, Any]:
    """What the device can do at best, and what it costs to ask it for something small."""
    device, dtype = clock.device, torch.bfloat16 if clock.cuda else torch.float32
    x, y = torch.randn(size, size, device=device, dtype=dtype), torch.randn(size, size, device=device, dtype=dtype)
    small = torch.randn(8, device=device)

    def launches() -> None:
        for _ in range(1000):
            small.add(1.0)

    product = clock.measure(lambda: x @ y)["median_s"]
    copied = clock.measure(lambda: x.clone())["median_s"]
    out: dict[str, Any] = {"torch": torch.__version__, "matmul_tflops": 2 * size**3 / product / 1e12,
                           "copy_gb_per_s": 2 * x.nbytes / copied / 1e9,
                           "launch_us": clock.measure(launches)["median_s"] * 1e3}  # fmt: skip
    if clock.cuda:
        free, total = torch.cuda.mem_get_info()
        out |= {"name": torch.cuda.get_device_name(), "capability": torch.cuda.get_device_capability(),
                "cuda": torch.version.cuda, "total_bytes": total, "free_bytes": free}  # fmt: skip
    return out


def training(clock: Clock, name: str, shape: dict[str, int]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The measurements of training on one model, by name."""
    vocabulary = CONFIGS[name]["vocab_size"]
    rows = random_rows(shape["rows"], vocabulary, shape["prompt"], shape["completion"], shape["longest"])
    pairs = random_pairs(shape["rows"] // 2, vocabulary, shape["prompt"], shape["completion"], shape["longest"])
    groups = random_groups(shape["rows"], vocabulary, shape["prompt"], shape["completion"], shape["longest"],
                           shape["group"])  # fmt: skip
    held: dict[str, Any] = {}

    def base(dense: bool, every: int = 0) -> Any:
        if "base" not in held:
            held["base"] = random_base(name, clock.device)
            held["static"] = torch.cuda.memory_allocated() if clock.cuda else 0
        held["base"].keep_dense(dense)
        held["base"].checkpoint(every)
        return held["base"]

    def phase(make: Callable[..., phases.Phase], data: Any, tokens: int, dense: bool = False,
              every: int = 0) -> dict[str, Any]:  # fmt: skip
        work = make(base(dense, every), data, tokens)
        return clock.measure(work.run, work.tokens) | {"static_bytes": held["static"], "real_tokens": work.tokens}

    few, many = shape["pass"] // 4, shape["pass"]
    for what, data, make in (("sft", rows, phases.sft_phase), ("reward", pairs, phases.reward_phase),
                             ("ppo", rows, phases.ppo_phase), ("dpo", pairs, phases.preference_phase),
                             ("kto", rows, phases.unpaired_phase), ("grpo", groups, phases.group_phase)):  # fmt: skip
        yield f"{what} nf4 {many} tokens a pass", lambda m=make, d=data: phase(m, d, many)
        yield f"{what} dense {many} tokens a pass", lambda m=make, d=data: phase(m, d, many, dense=True)
    yield f"sft nf4 {many} tokens a pass, checkpointing", lambda: phase(phases.sft_phase, rows, many, every=1)
    yield f"ppo nf4 {many} tokens a pass, checkpointing", lambda: phase(phases.ppo_phase, rows, many, every=1)
    yield f"sft nf4 {few} tokens a pass", lambda: phase(phases.sft_phase, rows, few)
    yield f"ppo nf4 {few} tokens a pass", lambda: phase(phases.ppo_phase, rows, few)
    yield from sampling(clock, base, rows, shape, vocabulary)


def sampling(clock: Clock, base: Callable[[bool], Any], rows: Any, shape: dict[str, int],
             vocabulary: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:  # fmt: skip
    """Rollouts with ragged ends, and how far sampler and trainer are apart."""
    from dataclasses import replace

    prompts = [r.prompt_ids for r in (rows * 64)[: shape["samples"]]]
    stops = frozenset(range(0, vocabulary, max(1, shape["new"] // 2)))

    def ready(dense: bool) -> Any:
        found = base(dense)
        found.chat = replace(found.chat, stop_ids=stops)
        if "policy" not in found.roles:
            found.add_role("policy", Adapter(rank=16, alpha=32))
        return found

    for kind, dense in (("nf4", False), ("dense", True)):
        yield f"rollout {kind}", lambda d=dense: clock.measure(
            phases.rollout_phase(ready(d), prompts, "policy", shape["new"]))  # fmt: skip
        yield f"agreement {kind}", lambda d=dense: agreement(ready(d), prompts, shape["new"])


def agreement(base: Any, prompts: Any, new: int) -> dict[str, Any]:
    """Mean and greatest gap between the sampler's log-probabilities (nats) and those of scoring."""
    from lab.sample import stream
    from lab.score import score

    rows: list[list[tuple[int, float]]] = [[] for _ in prompts]
    for drawn in stream(base, prompts, ("policy",), max_new_tokens=new, seed=1):
        for row, token, logprob, _ in drawn.tokens:
            rows[row].append((token, logprob))
    pairs = [(p, tuple(t for t, _ in r)) for p, r in zip(prompts, rows, strict=True)]
    scored = score(base, pairs, {"policy": "logprobs"})["policy"].cpu()
    gaps = torch.cat([(scored[i, : len(r)] - torch.tensor([x for _, x in r])).abs() for i, r in enumerate(rows)])
    return {"mean_gap_nats": float(gaps.mean()), "greatest_gap_nats": float(gaps.max()), "tokens": len(gaps)}


def plain(clock: Clock, name: str, shape: dict[str, int]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """transformers + PEFT on the same NF4 values: padded SFT updates, and generate."""
    vocabulary = CONFIGS[name]["vocab_size"]
    rows = random_rows(shape["rows"], vocabulary, shape["prompt"], shape["completion"], shape["longest"])
    held: dict[str, Any] = {}

    def model() -> Any:
        from peft import LoraConfig, get_peft_model

        if "model" not in held:
            config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
            held["model"] = get_peft_model(random_model(name, clock.device), config)
            held["optimizer"] = torch.optim.AdamW(
                [p for p in held["model"].parameters() if p.requires_grad], fused=True
            )
        return held["model"]

    def padded(batch: Any, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, batch))
        pads = [(0,) * (width - len(ids)) for ids in batch]
        ids = torch.tensor([p + i if left else i + p for p, i in zip(pads, batch, strict=True)], device=clock.device)
        marks = [((0,) * len(p), (1,) * len(i)) for p, i in zip(pads, batch, strict=True)]
        return ids, torch.tensor([p + i if left else i + p for p, i in marks], device=clock.device)

    def update() -> None:
        net = model().train()
        scored = sum(len(r.completion_ids) for r in rows)
        per = max(1, shape["pass"] // max(phases.size(r) for r in rows))
        for i in range(0, len(rows), per):
            part = rows[i : i + per]
            ids, mask = padded([r.prompt_ids + r.completion_ids for r in part])
            places = [(b, len(r.prompt_ids) - 1 + t, token) for b, r in enumerate(part)
                      for t, token in enumerate(r.completion_ids)]  # fmt: skip
            b, t, targets = (torch.tensor(x, device=clock.device) for x in zip(*places, strict=True))
            causal = net.base_model.model
            hidden = causal.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            logits = causal.lm_head(hidden[b, t]).float()
            (torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / scored).backward()
        held["optimizer"].step()
        held["optimizer"].zero_grad()

    def generate() -> int:
        net = model().eval()
        prompts = [r.prompt_ids for r in (rows * 64)[: shape["samples"]]]
        ids, mask = padded(prompts, left=True)
        stops = list(range(0, vocabulary, max(1, shape["new"] // 2)))
        with torch.no_grad():
            out = net.generate(input_ids=ids, attention_mask=mask, max_new_tokens=shape["new"], do_sample=True, top_k=0,
                               top_p=1.0, eos_token_id=stops, pad_token_id=0)[:, ids.shape[1] :].tolist()  # fmt: skip
        ends = set(stops)
        return sum(next((t + 1 for t, token in enumerate(row) if token in ends), len(row)) for row in out)

    yield "plain sft nf4, padded", lambda: clock.measure(update, sum(map(phases.size, rows)))
    yield "plain rollout nf4, transformers generate", lambda: clock.measure(generate)


def ratios(rows: dict[str, dict[str, Any]], tokens: int) -> dict[str, float]:
    """The comparisons the numbers are for; those whose parts are missing are left out."""

    def of(a: str, b: str, key: str) -> float | None:
        x, y = rows.get(a, {}).get(key), rows.get(b, {}).get(key)
        return None if x is None or not y else x / y

    def over_sft(what: str, key: str) -> float | None:
        return of(f"{what} nf4 {tokens} tokens a pass", f"sft nf4 {tokens} tokens a pass", key)

    found = {
        "sft over plain, tokens/s": of(f"sft nf4 {tokens} tokens a pass", "plain sft nf4, padded", "tokens_per_s"),
        "dense over nf4, sft tokens/s": of(f"sft dense {tokens} tokens a pass", f"sft nf4 {tokens} tokens a pass",
                                           "tokens_per_s"),
        "rollout dense over nf4, tokens/s": of("rollout dense", "rollout nf4", "tokens_per_s"),
        "rollout dense over generate, tokens/s": of("rollout dense", "plain rollout nf4, transformers generate",
                                                    "tokens_per_s"),
    }  # fmt: skip
    for what in ("ppo", "dpo", "kto", "grpo"):
        speed = over_sft(what, "tokens_per_s")
        found[f"sft over {what}, tokens/s"] = 1 / speed if speed else None
    found |= {f"{what} over sft, peak memory": over_sft(what, "peak_bytes") for what in ("ppo", "dpo")}
    return {k: v for k, v in found.items() if v is not None}


def attempt(name: str, run: Callable[[], dict[str, Any]], clock: Clock) -> dict[str, Any]:
    """One measurement; whatever goes wrong becomes a sentence in its place."""
    if clock.over():
        return {"skipped": "the time given was used up"}
    try:
        return run()
    except Exception as error:  # this machine is rare: the other measurements must not be lost with this one
        print(traceback.format_exc(limit=4), file=sys.stderr)
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


FULL = {"rows": 64, "prompt": 200, "completion": 250, "longest": 2048, "pass": 8192, "samples": 64, "new": 128,
        "group": 8}  # fmt: skip
TINY = {"rows": 4, "prompt": 6, "completion": 8, "longest": 32, "pass": 64, "samples": 4, "new": 4, "group": 2}


@click.command()
@click.option("--tiny", is_flag=True, help="a very small model and few rows: proves the code path, measures nothing")
@click.option("--device", default="cuda", show_default=True)
@click.option("--minutes", default=9.0, show_default=True, help="no measurement is started after this long")
@click.option(
    "--models",
    "names",
    multiple=True,
    default=("0.6b", "4b"),
    show_default=True,
    type=click.Choice(sorted(models.CONFIGS)),
)
@click.option(
    "--target", type=click.Path(path_type=Path), help="where the JSON goes [benchmarks/results/<date>-gpu.json]"
)
def main(tiny: bool, device: str, minutes: float, names: tuple[str, ...], target: Path | None) -> None:
    """Measures this library on a GPU."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise click.ClickException(
            "torch sees no GPU here, so there is nothing to measure; run this on a CUDA machine, "
            "or use --tiny --device cpu to prove that the code runs."
        )
    clock = Clock(torch.device(device), minutes, 1 if tiny else 3)
    shape, names = (TINY, ("tiny",)) if tiny else (FULL, names)
    result: dict[str, Any] = {"date": datetime.datetime.now().isoformat(timespec="seconds"), "device": device,
                              "shape": shape, "models": {}}  # fmt: skip
    result["machine"] = attempt("machine", lambda: machine(clock, 64 if tiny else 8192), clock)
    print("machine", json.dumps(result["machine"], default=str))
    for name in names:
        rows: dict[str, dict[str, Any]] = {}
        result["models"][name] = {"rows": rows}
        for section in (training, plain):
            steps = section(clock, name, shape)
            for what, run in steps:
                rows[what] = attempt(what, run, clock)
                print(f"{name:5} {what:45} " + ", ".join(f"{k} {_short(v)}" for k, v in rows[what].items()), flush=True)
            del steps
            gc.collect()
        result["models"][name]["ratios"] = ratios(rows, shape["pass"])
        for what, value in result["models"][name]["ratios"].items():
            print(f"{name:5} {what}: {value:.3f}")
        target = target or ROOT / "benchmarks" / "results" / f"{datetime.date.today().isoformat()}-gpu.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(
            json.dumps(result, indent=1, default=str)
        )  # after every model: half a result is worth keeping
    print(f"written to {target}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
