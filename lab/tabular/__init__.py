"""A world so small that all of it can be listed: the model is a table, and what a method must reach is known exactly.

    world = forecasts()
    rewards = world.rewards(lambda prompt, completion: float("rain" in completion))                     # (P, C)
    world.base.add_role("policy", world.adapter)
    state = ppo.start(world.base, world.rows(), config, Rewards.program(world.program(rewards)))
    …                                                                                       # any story of lab.train
    total_variation(world.distribution("policy"), world.optimum(rewards, config.kl))        # (P,), 0 when it is there

Nothing around the table is made for the occasion: `world.base` is a `SharedBase` with PEFT's adapters, and its roles
are sampled, scored, trained, forked and saved by the code that serves language models of any size. A reward and a KL
penalty of weight β have one best policy, which every method that maximises E[r] − β KL(π ‖ π_ref) must reach:

    π*(y | x) = π_ref(y | x) exp(r(x, y) / β) / Z(x)

- `model`    the table as a model, with its tokenizer
- `world`    what can be said, and what is true: distributions, optimum, distances; data with a known truth
"""

from lab.tabular.model import CLOSED, Table, TabularError
from lab.tabular.world import TabularWorld, expected, forecasts, kl, objective, sentences, total_variation

__all__ = [
    "CLOSED",
    "Table",
    "TabularError",
    "TabularWorld",
    "expected",
    "forecasts",
    "kl",
    "objective",
    "sentences",
    "total_variation",
]
