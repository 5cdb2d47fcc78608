"""What fits: the peak memory of a run, by role and phase, predicted from a model's config before anything is loaded.

shape = shape_of("Qwen/Qwen3-4B")                       what the model is made of; no weights are read
plan  = predict(shape, Wish("ppo", PPOConfig(), bits=4, device="cuda"))
plan.total, plan.peak.name                              bytes, and the phase that needs them
fits(plan, free)                                        and `changes(shape, wish, free)`: what would make it fit
"""

from lab.memory.change import Change, changes
from lab.memory.cost import Machine, Rows, Wish
from lab.memory.plan import Part, Phase, Plan, fits, predict, pretty
from lab.memory.shape import Linear, Shape, ShapeError, shape_of

__all__ = [
    "Change",
    "Linear",
    "Machine",
    "Part",
    "Phase",
    "Plan",
    "Rows",
    "Shape",
    "ShapeError",
    "Wish",
    "changes",
    "fits",
    "predict",
    "pretty",
    "shape_of",
]
