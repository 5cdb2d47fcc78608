"""Learn, try and study how language models are trained from what people prefer.

The words, as the whole project uses them:

    prompt          what the model is asked: plain text, or the turns of a conversation
    completion      what the assistant says next, its end token included where it ended
    demonstration   a prompt with a completion worth imitating
    comparison      two completions of one prompt, side by side, for somebody to judge
    verdict         what was said about a comparison: the one, the other, or a tie
    preference      a comparison with its verdict: a chosen and a rejected completion
    rating          one completion that somebody liked, or did not
    annotator       whoever gives verdicts: a person, a model, or one of the tiny world's simulated people
    probe           a fixed prompt, answered at intervals with the same noise, to watch a policy change

    base            the one frozen model that everything shares, in NF4 when loaded with 4 bits
    adapter         two low-rank matrices beside each linear layer (LoRA): what is trained instead of the base
    role            a named adapter of the base, with what it is for: sft, policy, reference, reward, value
    head            a linear layer that reads one number from the last hidden state; a reward or value role has one
    pack            rows that share prompts as one row of distinct tokens, cut into slices of one role each

    policy          the role in training that samples completions
    reference       a frozen copy of the policy's start; the KL penalty keeps the policy near it
    rollout         a completion sampled for learning, with its tokens and the sampler's log-probabilities
    reward          the score of a completion, in reward units: from a reward model or a program
    proxy           a reward that stands in for what is really wanted and can be over-optimised: the reward model's
    gold            the true score, which only a made world knows; nothing is ever trained on it
    verifier        a program that checks an answer and gives it a reward
    group           several completions of one prompt, compared with each other instead of with a value
    value           the reward still expected at a token
    advantage       how much better a token did than its value said
    KL              divergence of the policy from the reference, in nats, summed over a completion
    ratio           probability of a token under the policy over that under the policy that sampled it

    step            one round of a method; for PPO: sample, score, credit, update
    update          one change of the weights by an optimizer
    run             one training from start to end; its directory keeps all it says
    checkpoint      everything a run needs to go on from a step, bit for bit
    engine          the process that owns the base and plays the runs

Shapes: B rows, T tokens, G members of a group, P prompts, V vocabulary, H hidden, N tokens of a pack.

`import lab` loads none of the libraries behind these names; each is imported when it is first used. Where a name is
also a file's (`sample`, `score`, `runs`), `lab.sample` is the function; the file's other names come from
`from lab.sample import …`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.base import SharedBase
    from lab.config import Adapter, GroupConfig, KTOConfig, PPOConfig, PreferenceConfig, RewardConfig, SFTConfig
    from lab.data import read
    from lab.feedback.rewards import Rewards
    from lab.notebook import LiveRun, Workbench, watch
    from lab.pack import Row
    from lab.runs import Run, runs
    from lab.sample import sample
    from lab.score import score
    from lab.session import Session

_HOME = {
    "Adapter": "config",
    "GroupConfig": "config",
    "KTOConfig": "config",
    "LiveRun": "notebook",
    "PPOConfig": "config",
    "PreferenceConfig": "config",
    "RewardConfig": "config",
    "Rewards": "feedback.rewards",
    "Row": "pack",
    "Run": "runs",
    "SFTConfig": "config",
    "Session": "session",
    "SharedBase": "base",
    "Workbench": "notebook",
    "read": "data",
    "runs": "runs",
    "sample": "sample",
    "score": "score",
    "watch": "notebook",
}
"""Public name -> the file it is from."""

__all__ = [
    "Adapter",
    "GroupConfig",
    "KTOConfig",
    "LiveRun",
    "PPOConfig",
    "PreferenceConfig",
    "RewardConfig",
    "Rewards",
    "Row",
    "Run",
    "SFTConfig",
    "Session",
    "SharedBase",
    "Workbench",
    "read",
    "runs",
    "sample",
    "score",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Python binds each file to the package when it is imported; a public name stays the function all the same."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
