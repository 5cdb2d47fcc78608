"""Recipes: a stack of stages in one YAML file or a Python list, each a run under one folder.

play([Stage("sft", {"data": "tiny:demonstrations?n=160", "lr": 3e-3}),
      Stage("compare", {"n": 200}),
      Stage("dpo", {"beta": 0.5})], "runs/mine")
"""

from lab.recipes.plan import Plan
from lab.recipes.planner import plan_of
from lab.recipes.recipe import Recipe, RecipeError, Stage, read_recipe, shipped
from lab.recipes.stack import Played, play

__all__ = ["Plan", "Played", "Recipe", "RecipeError", "Stage", "plan_of", "play", "read_recipe", "shipped"]
