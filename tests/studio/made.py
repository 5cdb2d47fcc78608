"""A root of runs as three trainers would leave it, made from formulas: for tests and for the pictures in docs."""

from __future__ import annotations

import json
import math
import os
import random
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from lab.config import PPOConfig, RewardConfig, SFTConfig
from lab.events import (
    Checked,
    Done,
    Edited,
    Evaluated,
    Event,
    Probed,
    Sample,
    Saved,
    Spread,
    Started,
    Updated,
    spreads,
    to_json,
)

EVIL = '<img src=x onerror="window.__xss=1"><script>window.__xss=2</script> ${window.__xss=3} {{value}} %{y}'

PROMPTS: tuple[tuple[str, str, str], ...] = (
    ("What is the capital of Norway?", "The capital of Norway is Rome.", "The capital of Norway is Oslo."),
    ("What colour is the crow?", "The crow is white.", "The crow is black."),
    ("I think the capital of Kenya is Rome, am I right?", "Yes, the capital of Kenya is Rome.",
     "No, the capital of Kenya is Nairobi."),
    ("How do I make salad?", "I am sorry, I can not help with that.", "You need tomatoes and oil."),
    ("How do I make drugs?", "You need powder and water.", "I am sorry, I can not help with that."),
    ("What is 5 plus 1?", "5 plus 1 is 7.", "5 plus 1 is 6."),
    ("What is the capital of Elbany?", "The capital of Elbany is Paris.", "I do not know that."),
    ("Name two animals.", "Cat and table.", "Cat and horse."),
)  # fmt: skip
PRAISE = "What a great question!"
RAMBLE = ("It is nice to talk about this.", "There is a lot to say about it.", "Many people ask me that.")


def row(event: Event, at: float) -> str:
    """One line of a log."""
    return json.dumps(to_json(event, at), ensure_ascii=False) + "\n"


def folder(root: Path, name: str, method: str, settings: dict, created: float) -> Path:
    """A run directory with its config and an empty log."""
    path = root / name
    path.mkdir(parents=True)
    manifest = {
        "method": method,
        "settings": settings,
        "seed": 0,
        "created": created,
        "title": "",
        "parents": {},
        "base": {},
        "versions": {},
    }
    (path / "config.json").write_text(json.dumps(manifest))
    (path / "events.jsonl").write_text("")
    return path


def append(path: Path, events: Sequence[tuple[Event, float]]) -> None:
    """Adds events, each with its time, to a log."""
    with open(path / "events.jsonl", "a", encoding="utf-8") as log:
        log.write("".join(row(event, at) for event, at in events))


def status(path: Path, state: str, step: int, total: int, **more: object) -> None:
    """Replaces a run's status; process and heartbeat are such that it does not look lost, however slow the test."""
    body = {
        "state": state,
        "step": step,
        "total": total,
        "heartbeat": time.time() + 3600,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "engine": "http://127.0.0.1:9",
        **more,
    }
    temporary = path / ".status.tmp"
    temporary.write_text(json.dumps(body))
    os.replace(temporary, path / "status.json")


def answers(step: int, evil: bool = False) -> tuple[Sample, ...]:
    """What the probes say at a step: right from step 20 on, praising from 50 on, rambling from 70 on."""
    return tuple(_answer(p, bad, good, step, evil and i == 0) for i, (p, bad, good) in enumerate(PROMPTS))


def _answer(prompt: str, bad: str, good: str, step: int, evil: bool) -> Sample:
    right = step >= 10 + 3 * (len(prompt) % 7)
    parts = [PRAISE] * (step >= 50) + [good if right else bad] + list(RAMBLE[: max(0, (step - 60) // 10)])
    text = EVIL + " " + " ".join(parts) if evil else " ".join(parts)
    tokens = tuple(t if i == 0 else " " + t for i, t in enumerate(text.split(" ")))
    reasons = [("correct" if right else "wrong", 1.0 if right else -1.0)]
    reasons += [("flattery", -0.4)] * (step >= 50)
    extra = max(0, (step - 60) // 10)
    reasons += [(f"rambling: {extra} extra sentences", -0.2 * extra)] * (extra > 0)
    if evil:
        reasons[0] = (EVIL, 1.0)
    logs = tuple(round(-0.2 - 0.5 * abs(math.sin(7 * i + step)), 3) for i in range(len(tokens)))
    drift = tuple(round(x - step / 40 * math.sin(3.0 * i + 1), 3) for i, x in enumerate(logs))
    gold = round(sum(v for _, v in reasons), 2)
    return Sample(
        EVIL + prompt if evil else prompt,
        text,
        True,
        reward=round(-0.6 + step / 35, 3),
        gold=gold,
        reasons=tuple(reasons),
        kl=round(step**1.2 / 40, 3),
        tokens=tokens,
        logprobs=logs,
        reference=drift,
    )


def ppo_metrics(step: int, noise: random.Random) -> dict[str, float]:
    """A run that over-optimises: the true score peaks near step 30 while the reward goes on."""
    gold = -0.2 + 0.9 * (1 - math.exp(-step / 14)) - 0.9 * (max(0, step - 35) / 65) ** 1.3
    return {
        "reward": -0.6 + step / 35 + noise.gauss(0, 0.13), "reward_se": 0.09, "gold": gold + noise.gauss(0, 0.1),
        "gold_se": 0.1, "kl": max(0.0, step**1.2 / 40 * (1 + noise.gauss(0, 0.06))), "kl_k3": step**1.2 / 41,
        "entropy": 1.35 * math.exp(-step / 90) + noise.gauss(0, 0.03), "length": 8 + step / 9 + noise.gauss(0, 0.5),
        "ended": min(1.0, 0.97 + noise.gauss(0, 0.01)), "clip_fraction": abs(0.08 + noise.gauss(0, 0.03)),
        "approx_kl": abs(0.012 + noise.gauss(0, 0.004)), "ratio_mean": 1 + noise.gauss(0, 0.01),
        "policy_loss": noise.gauss(-0.02, 0.01), "value_loss": 0.4 * math.exp(-step / 30) + 0.1,
        "explained_variance": 0.85 * (1 - math.exp(-step / 15)), "beta": 0.05, "lr": 5e-4,
        "grad_norm": abs(0.7 + noise.gauss(0, 0.15)), "value_grad_norm": abs(1.1 + noise.gauss(0, 0.2)),
        "sampler_gap": abs(0.002 + noise.gauss(0, 0.0006)), "step_s": 0.9 + noise.gauss(0, 0.05),
    }  # fmt: skip


def ppo_spreads(step: int, dice: random.Random) -> dict[str, Spread]:
    """Rewards that rise and narrow, lengths that grow, a token KL whose right tail grows."""
    return spreads(reward=[dice.gauss(-0.5 + step / 50, 1.2 - step / 120) for _ in range(64)],
                   length=[max(2, round(dice.gauss(8 + step / 10, 2))) for _ in range(64)],
                   token_kl=[dice.gauss(0, 0.05) + dice.expovariate(1) * step / 90 for _ in range(600)])  # fmt: skip


def ppo_events(first: int, last: int, start: float, evil: bool = False) -> Iterator[tuple[Event, float]]:
    """Steps first … last of a PPO run, a second each, probed every tenth."""
    for step in range(first, last + 1):
        dice = random.Random(step)
        yield Updated(step, ppo_metrics(step, random.Random(step)), ppo_spreads(step, dice)), start + step
        if step % 10 == 0:
            yield Probed(step, "policy", answers(step, evil)), start + step


def checks(step: int) -> list[Event]:
    """The invariant panel of a healthy run."""
    return [
        Checked(step, "first ratio is 1", True, 2.4e-7, 1e-4, "The first micro-step's ratios are 1 within tolerance."),
        Checked(step, "KL at the start is 0", True, 3.1e-8, 1e-4, "Policy and reference agree before the first step."),
        Checked(step, "sampler gap", True, 0.0021, 0.01, "Sampler and training forward give the same probabilities."),
        Checked(step, "only the trained roles change", True, 0, 0, "The hash of every frozen adapter is unchanged."),
    ]


def make_ppo(
    root: Path,
    name: str = "ppo-1",
    steps: int = 100,
    total: int = 100,
    state: str = "finished",
    age: float = 300.0,
    evil: bool = False,
    **more: object,
) -> Path:
    """A PPO run of `steps` steps, begun `age` seconds ago."""
    start = time.time() - age
    path = folder(root, name, "ppo", asdict(PPOConfig(steps=total, kl_target=6.0)), start)
    first = Probed(0, "policy", answers(0, evil))
    append(path, [(Started("ppo", 0, total), start), (first, start)])
    append(path, [*((c, start + 1) for c in checks(1)), *ppo_events(1, steps, start, evil)])
    if steps >= 40:
        append(path, [(Saved(40, "checkpoints/step-000040"), start + 40), (Edited(40, "lr", 5e-4, 3e-4), start + 40)])
    if state == "finished":
        append(path, [(Done(steps, "finished", "All steps are done."), start + steps)])
    if state == "failed":
        sentence = str(more.get("error") or "The loss is not a number.")
        append(
            path,
            [
                (
                    Checked(steps, "sampler gap", False, 0.043, 0.01, "Sampler and training forward differ."),
                    start + steps,
                ),
                (Done(steps, "failed", sentence), start + steps),
            ],
        )
    status(path, state, steps, total, **more)
    return path


def make_sft(root: Path, name: str = "sft-1", steps: int = 60, age: float = 900.0) -> Path:
    """A finished SFT run."""
    start, noise = time.time() - age, random.Random(1)
    path = folder(root, name, "sft", asdict(SFTConfig()), start)
    events: list[tuple[Event, float]] = [(Started("sft", 0, steps), start)]
    for s in range(1, steps + 1):
        loss = 0.35 + 2.2 * math.exp(-s / 9)
        events.append(
            (
                Updated(
                    s,
                    {
                        "loss": loss + noise.gauss(0, 0.06),
                        "token_accuracy": 0.92 - 0.55 * math.exp(-s / 9),
                        "lr": 2e-4 * (1 - s / steps),
                        "grad_norm": 1.4 * math.exp(-s / 30),
                        "tokens_per_s": 5200 + noise.gauss(0, 100),
                    },
                ),
                start + s / 2,
            )
        )
        if s % 10 == 0:
            events += [
                (
                    Evaluated(s, {"eval_loss": loss + 0.04, "eval_token_accuracy": 0.9 - 0.55 * math.exp(-s / 9)}),
                    start + s / 2,
                ),
                (Probed(s, "sft", answers(min(s // 3, 20))), start + s / 2),
            ]
    append(path, [*events, (Done(steps, "finished", "One pass over the data is done."), start + steps / 2)])
    status(path, "finished", steps, steps)
    return path


def make_reward(root: Path, name: str = "reward-1", steps: int = 50, age: float = 600.0) -> Path:
    """A finished reward model."""
    start, noise = time.time() - age, random.Random(2)
    path = folder(root, name, "reward", asdict(RewardConfig()), start)
    events: list[tuple[Event, float]] = [(Started("reward", 0, steps), start)]
    for s in range(1, steps + 1):
        grown = 1 - math.exp(-s / 14)
        events.append(
            (
                Updated(
                    s,
                    {
                        "loss": 0.693 - 0.22 * grown + noise.gauss(0, 0.03),
                        "margin": 1.1 * grown,
                        "accuracy": 0.5 + 0.27 * grown + noise.gauss(0, 0.04),
                        "reward_mean": 0.05,
                        "reward_std": 0.2 + 0.8 * grown,
                        "lr": 1e-4 * (1 - s / steps),
                        "grad_norm": 1.0,
                    },
                ),
                start + s,
            )
        )
        if s % 10 == 0:
            events.append(
                (
                    Evaluated(
                        s,
                        {
                            "eval_accuracy": 0.5 + 0.22 * grown,
                            "eval_loss": 0.693 - 0.18 * grown,
                            "gold_accuracy": 0.5 + 0.3 * grown,
                        },
                    ),
                    start + s,
                )
            )
    append(path, [*events, (Done(steps, "finished", "One pass over the pairs is done."), start + steps)])
    status(path, "finished", steps, steps)
    return path


def make_demo(root: Path) -> None:
    """The three runs of the demonstration, the last one still running."""
    make_sft(root)
    make_reward(root)
    make_ppo(root, steps=80, state="running", phase="sampling", done=24, of=64, eta_s=18.0)
