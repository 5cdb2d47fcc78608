"""Whose taste is learnt, and what noise costs: python -m benchmarks.annotators

In the tiny world, for every seed. An SFT model that praises and rambles now and then answers every prompt twice. The
same pairs of answers are judged by several simulated people; each gets a reward model and a policy trained on it by
PPO. Then held-out prompts: what the policy says, and what it is worth. For the noise, one person's slips are raised:
the reward model's accuracy on unseen noisy labels beside the highest that anybody could reach.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import click
import numpy as np

SLIPS = (0.0, 0.1, 0.25, 0.4)


def talkative(n: int, seed: int, praise: float, filler: float) -> list[Any]:
    """Demonstrations of which some open with praise and some go on with filler."""
    from lab import tiny
    from lab.records import Demonstration
    from lab.tiny.answers import decorate

    random = Random(seed)
    return [Demonstration(d.prompt, decorate(str(d.completion), random, flattery=praise, filler=filler), d.row)
            for d in tiny.demonstrations(n, seed=seed)]  # fmt: skip


def voted(pairs: Sequence[Any], annotator: Any, seed: int) -> list[Any]:
    """The same pairs of answers with this annotator's votes."""
    from lab.records import prompt_text

    rng = np.random.default_rng([seed, 5])
    out = []
    for p in pairs:
        keep = annotator.prefer(prompt_text(p.prompt), (p.chosen, True), (p.rejected, True), rng) == "a"
        out.append(replace(p, annotator=annotator.name) if keep else
                   replace(p, chosen=p.rejected, rejected=p.chosen, annotator=annotator.name))  # fmt: skip
    return out


class Bench:
    """One seed: the SFT model, and pairs of its answers about seen and held-out things."""

    def __init__(self, seed: int, pairs: int, unseen: int, threads: int, family: str, praise: float,
                 filler: float) -> None:  # fmt: skip
        import torch

        from lab import tiny
        from lab.base import SharedBase
        from lab.demo import Plan
        from lab.feedback.annotate import compare
        from lab.train import sft

        torch.set_num_threads(threads)
        self.seed, self.plan = seed, Plan().seeded(seed)
        self.base = SharedBase.load(tiny.CHECKPOINT, bits=4, device="cpu")
        config = replace(self.plan.sft, probe_every=0, eval_every=0)
        shown = talkative(2000, seed, praise, filler)
        for _ in sft.sft(sft.start(self.base, shown, config, role="sft", adapter=self.plan.adapter), config):
            pass
        self.base.freeze()

        def answers(prompts: Sequence[Any], n: int, seed: int) -> list[Any]:
            return compare(self.base, "sft", [p.prompt for p in prompts], tiny.ANNOTATORS["expert"], n,
                           max_new_tokens=tiny.MAX_NEW_TOKENS, seed=seed).preferences  # fmt: skip

        def some(prompts: Sequence[Any]) -> list[Any]:
            return [p for p in prompts if family in ("", p.columns["family"])]

        self.prompts, self.heldout = some(tiny.train_prompts(seed=seed)), some(tiny.heldout_prompts())
        self.pairs = answers(self.prompts, pairs, seed)
        self.unseen = answers(self.heldout, unseen, seed + 1)

    def reward(self, pairs: Sequence[Any], name: str) -> None:
        """A reward model of this name on the base."""
        from lab.train import reward

        config = replace(self.plan.reward, eval_every=0)
        self.base.fork("sft", name)
        for _ in reward.reward(reward.start(self.base, pairs, config, role=name), config):
            pass
        self.base.freeze()

    def accuracy(self, name: str, pairs: Sequence[Any]) -> np.ndarray:
        """(n,) 1 where the reward model prefers the chosen one, ½ for a tie."""
        from lab.score import score

        chat = self.base.chat
        texts = [tuple(map(tuple, chat.split(p.prompt, y))) for p in pairs for y in (p.chosen, p.rejected)]
        r = score(self.base, texts, {name: "reward"})[name].view(-1, 2)
        return (((r[:, 0] - r[:, 1]).sign() + 1) / 2).numpy()

    def policy(self, name: str, steps: int, kl: float) -> None:
        """`name`-policy, trained by PPO on the reward model `name`."""
        from lab.feedback.rewards import Rewards
        from lab.train import ppo

        config = replace(self.plan.ppo, steps=steps, kl=kl, probe_every=0)
        self.base.fork("sft", f"{name}-policy")
        state = ppo.start(self.base, self.prompts, config, Rewards.role(name),
                          policy=f"{name}-policy", prefix=f"{name}-")  # fmt: skip
        for _ in ppo.ppo(state, config):
            pass
        for role in (f"{name}-reference", f"{name}-value"):
            if role in self.base.roles:
                self.base.drop(role)
        self.base.freeze()

    def habits(self, role: str, prompts: int) -> dict[str, Any]:
        """What a role says to held-out prompts: worth, sentences too many, praise, agreement with false claims."""
        from lab import tiny
        from lab.evaluate.table import figure
        from lab.records import prompt_text
        from lab.sample import sample
        from lab.tiny.judge import family, reading

        asked = [p.prompt for p in self.heldout[:prompts]]
        said = []
        for at in range(0, len(asked), 256):
            said += sample(self.base, asked[at : at + 256], (role,), max_new_tokens=tiny.MAX_NEW_TOKENS,
                           seed=(self.seed, 9, at))  # fmt: skip
        seen = [reading(prompt_text(r.prompt), r.completion, r.ended) for r in said]
        claims = [s.sycophantic for s, r in zip(seen, said, strict=True) if family(prompt_text(r.prompt)) == "claim"]
        columns = {"gold": [tiny.gold(prompt_text(r.prompt), r.completion, r.ended).score for r in said],
                   "extra sentences": [s.extra for s in seen], "praise": [s.praise > 0 for s in seen],
                   "agrees with a false claim": claims, "ended": [s.ended for s in seen]}  # fmt: skip
        return {name: figure(np.array(values, dtype=float)) for name, values in columns.items()}


def measure(
    seed: int, who: Sequence[str], pairs: int, unseen: int, steps: int, kl: float, prompts: int, threads: int,
    family: str, noise: bool, praise: float, filler: float,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One row for the SFT model, one for each annotator's policy, one for each rate of slips."""
    from lab import tiny
    from lab.evaluate.people import noise_ceiling
    from lab.records import prompt_text

    bench = Bench(seed, pairs, unseen, threads, family, praise, filler)
    yield {"seed": seed, "policy": "sft"} | _plain(bench.habits("sft", prompts))
    for name in who:
        bench.reward(voted(bench.pairs, tiny.ANNOTATORS[name], seed), name)
        bench.policy(name, steps, kl)
        yield {"seed": seed, "policy": name} | _plain(bench.habits(f"{name}-policy", prompts))
        bench.base.drop(name)
    expert = replace(tiny.ANNOTATORS["expert"], slips=0.0)
    true = [expert.preference(prompt_text(p.prompt), (p.chosen, True), (p.rejected, True)) for p in bench.unseen]
    for slips in SLIPS if noise else ():
        noisy = replace(expert, slips=slips)
        bench.reward(voted(bench.pairs, noisy, seed), "noisy")
        right = bench.accuracy("noisy", voted(bench.unseen, noisy, seed + 1))
        truth = bench.accuracy("noisy", voted(bench.unseen, replace(expert, indecision=1e-6), seed + 1))
        ceiling = noise_ceiling(true, slips, [prompt_text(p.prompt) for p in bench.unseen])
        yield {"seed": seed, "slips": slips, "accuracy": float(right.mean()),
               "se": float(right.std() / len(right) ** 0.5), "ceiling": ceiling.mean,
               "without noise": float(truth.mean())}  # fmt: skip
        bench.base.drop("noisy")


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: [round(f.mean, 3), round(f.high - f.mean, 3)] for name, f in figures.items()}


@click.command()
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
@click.option("--annotator", "who", multiple=True, default=("expert", "rushed", "agreeable"), show_default=True)
@click.option("--pairs", default=3000, show_default=True, help="judged pairs to learn from")
@click.option("--unseen", default=1500, show_default=True, help="pairs about held-out things, to measure on")
@click.option("--steps", default=40, show_default=True, help="steps of PPO")
@click.option("--kl", default=0.1, show_default=True, help="its weight of the KL")
@click.option("--prompts", default=600, show_default=True, help="held-out prompts")
@click.option("--family", default="", help="prompts of this family alone, such as claim (default: all)")
@click.option("--praise", default=0.15, show_default=True, help="share of the demonstrations that open with praise")
@click.option("--filler", default=0.25, show_default=True, help="chance of a (further) sentence too many")
@click.option("--noise/--no-noise", default=True, show_default=True, help="accuracy under slips as well")
@click.option("--threads", default=2, show_default=True)
@click.option("--target", type=click.Path(dir_okay=False, path_type=Path), help="where the JSON goes as well")
def main(seeds: Sequence[int], target: Path | None, **given: Any) -> None:
    """Reward models and policies of several annotators, and accuracy under noise; one JSON object a line."""
    rows = []
    for seed in seeds:
        for row in measure(seed, **given):
            click.echo(json.dumps(row))
            rows.append(row)
    if target:
        target.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
