"""The rewards of a run as they are written down, "[weight*]what", and what each of them means in memory.

reward                     a part among the run's inputs: a reward model; reward-1, reward-2, … beside it: an ensemble
0.5*number                 a verifier of `lab.feedback.verifiers`, with options as in a web address: regex?pattern=^yes
path/to/file.py:function   a function of prompt, completion and row
model:folder-or-id         a classifier with a tokenizer of its own: texts are tokenised again
score:base, score:part     the base or another role as a judge: its expected score from 1 to 10, on [−1, 1]
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.feedback.rewards import Rewards, Term
from lab.runs import RunError

if TYPE_CHECKING:
    from lab.base import SharedBase

SCORE = "score:"
"""Before the role whose expected score is a reward."""


def parse(text: str) -> tuple[float, str]:
    """(weight, what) of "[weight*]what"."""
    found = re.fullmatch(r"\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)\s*\*\s*(.+)", text)
    weight, what = (float(found[1]), found[2]) if found else (1.0, text)
    if not what.strip():
        raise RunError(f"{text!r} names no reward; give a run, a verifier, path/to/file.py:function or model:folder.")
    return weight, what.strip()


def is_program(what: str) -> bool:
    """Whether a reward is a program of its own: a verifier, a function in a file, or a model of another family."""
    from lab.feedback.verifiers import VERIFIERS

    return ".py:" in what or what.startswith("model:") or what.partition("?")[0] in VERIFIERS


def rewards(
    texts: Sequence[str], parts: Mapping[str, str], combine: str = "mean", doubt: float = 0.1, device: str = "cpu",
    base: SharedBase | None = None,
) -> Rewards:  # fmt: skip
    """What a run's completions earn.

    parts : part among the run's inputs -> its role on the base
    base  : for `score:`, whose role is asked there
    """
    terms = []
    for text in texts:
        weight, what = parse(text)
        members = tuple(role for part, role in parts.items() if re.fullmatch(rf"{re.escape(what)}(-\d+)?", part))
        if members:
            terms.append(Term(what, weight, roles=members, combine=combine, doubt=doubt))
        elif what.startswith(SCORE):
            terms.append(Term(what, weight, many=_scorer(what.removeprefix(SCORE), parts, base)))
        elif what.startswith("model:"):
            from lab.feedback.foreign import ForeignReward

            judge = ForeignReward(what.removeprefix("model:"), device)
            terms.append(Term(Path(what).name, weight, many=lambda rollouts, judge=judge: judge(
                [r.prompt for r in rollouts], [r.completion for r in rollouts])))  # fmt: skip
        else:
            terms.append(Term(_short(what), weight, program=program(what)))
    return Rewards(tuple(terms))


def _scorer(part: str, parts: Mapping[str, str], base: SharedBase | None) -> Any:
    """The role that a `score:` names, as a reward."""
    from lab.feedback.judges.role import Scorer

    if base is None:
        raise RunError(f"{SCORE}{part} is asked on a base model, and none is loaded.")
    if part != "base" and part not in parts:
        raise RunError(f"There is no part {part!r} among the run's inputs; there are {', '.join(parts) or 'none'}.")
    return Scorer(base, parts.get(part, part))


def program(what: str) -> Any:
    """The verifier or the function that a text names."""
    if ".py:" in what:
        return function(what)
    from lab.feedback.verifiers import make

    return make(what)


def function(where: str) -> Any:
    """The function named by path/to/file.py:name."""
    path, _, name = where.rpartition(":")
    if not path or not Path(path).is_file():
        raise RunError(f"There is no reward function at {where!r}; give path/to/file.py:name.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise RunError(f"{path} has no function {name!r}.")
    return getattr(module, name)


def _short(what: str) -> str:
    return what.rpartition(":")[2] if ".py:" in what else what.partition("?")[0]
