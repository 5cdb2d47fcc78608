"""The data of a stack of Constitutional AI: the tiny world's own, or files; and answers sampled from a role."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lab import tiny
from lab.base import SharedBase
from lab.cai.settings import CAIConfig, Sources
from lab.columns import DataError
from lab.data import read
from lab.feedback.annotate import compare
from lab.feedback.constitution.labels import JudgeOf, Labelled
from lab.feedback.judges.role import RoleJudge
from lab.feedback.judges.wording import ONE_LETTER
from lab.records import Comparison, Demonstration, Preference, Prompt, PromptRow, completion_text, prompt_text
from lab.sample import sample
from lab.tiny.constitution import critic_demonstrations, helpful_only
from lab.tiny.constitution import red_team as tiny_red_team
from lab.tiny.judges import wording as tiny_wording

HELPFUL = 2000
"""Demonstrations of the tiny world's helpful-only model."""
CRITIC = 2000
"""Demonstrations of its critic."""
PROMPTS = 1008
"""Its further prompts for comparisons and RL: two for each of its red team's."""
ROWS_AT_ONCE = 256

VERDICT = '''"""The critics' verdict as a reward: minus the share of the principles' weight that an answer breaks."""

from pathlib import Path

from lab.feedback.constitution.principles import read_constitution
from lab.tiny.constitution import verdict as verdict_of

verdict = verdict_of(read_constitution(Path(__file__).with_name("principles.yaml")))
'''
"""The program that direct RL earns its reward from; the principles stand beside it."""


def check(sources: Sources, config: CAIConfig, world: str, started: bool) -> Sources:
    """The sources as whole paths. Raises DataError for what a model outside the tiny world lacks, and for no file."""
    found = replace(sources, **{key: str(Path(text).expanduser().absolute()) if text else ""
                                for key, text in vars(sources).items()})  # fmt: skip
    for key, text in vars(found).items():
        if text and not Path(text).exists():
            raise DataError(f"There is no file {text} for --{key.replace('_', '-')}.")
    if world == "tiny":
        return found
    if not started:
        raise DataError("A model outside the tiny world needs --init, a run that helps with everything asked.")
    if not found.red_team:
        raise DataError("A model outside the tiny world needs --red-team, prompts that ask for harm.")
    if config.sl and config.mix and not found.helpful:
        raise DataError("Revisions are mixed with helpful demonstrations: give --helpful, or --mix 0.")
    if config.critic == "learned":
        raise DataError("Only the tiny world has demonstrations of a critic; let the model itself be one (self).")
    if config.labels == "people" and config.rl != "none":
        raise DataError("Only the tiny world has people to ask; give their preferences with --people.")
    return found


def helpful(seed: int) -> list[Demonstration]:
    """What the helpful-only model imitates."""
    return helpful_only(HELPFUL, seed)


def critic(seed: int) -> list[Demonstration]:
    """What the learned critic imitates."""
    return critic_demonstrations(CRITIC, seed)


def mixed(sources: Sources, world: str, n: int, seed: int) -> list[Demonstration]:
    """`n` helpful demonstrations without harm in them."""
    if not n:
        return []
    if sources.helpful:
        rows = read(sources.helpful, "sft").some()
        return [rows[i] for i in np.random.default_rng([seed, 31]).permutation(len(rows))[:n]]
    return helpful_only(n, seed + 1, harm=False) if world == "tiny" else []


def red_team(sources: Sources, world: str, n: int, seed: int) -> list[PromptRow]:
    """`n` prompts of the red team, over and over in another order until there are enough."""
    rows = _team(sources, world)
    orders = (np.random.default_rng([seed, 32, k]).permutation(len(rows)) for k in range(-(-n // len(rows))))
    return [rows[i] for order in orders for i in order][:n]


def _team(sources: Sources, world: str) -> Sequence[PromptRow]:
    return tiny_red_team() if world == "tiny" and not sources.red_team else read(sources.red_team, "prompt").some()


def rl_prompts(sources: Sources, world: str, seed: int) -> list[PromptRow]:
    """The red team's prompts and the further ones, each once."""
    further: Sequence[PromptRow] = ()
    if sources.prompts:
        further = read(sources.prompts, "prompt").some()
    elif world == "tiny":
        further = tiny.train_prompts(PROMPTS, seed)
    every = [*_team(sources, world), *further]
    shared = set.intersection(*(set(row.columns) for row in every))  # columns that only some have could not be read
    return [replace(row, columns={k: v for k, v in row.columns.items() if k in shared}) for row in every]


def compared_prompts(path: Path) -> list[Prompt]:
    """The prompts whose answers are compared."""
    return [row.prompt for row in read(path, "prompt").some()]


def drafts(
    base: SharedBase,
    role: str,
    rows: Sequence[PromptRow],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> list[tuple[Prompt, str]]:
    """One answer to every prompt; those that came to no end, or to no words, are left out."""
    out = []
    for at in range(0, len(rows), ROWS_AT_ONCE):
        part = [row.prompt for row in rows[at : at + ROWS_AT_ONCE]]
        out += [(r.prompt, r.completion) for r in sample(base, part, (role,), temperature=temperature,
                max_new_tokens=max_new_tokens, seed=(seed, 33, at)) if r.ended and r.completion.strip()]  # fmt: skip
        on_progress(min(at + ROWS_AT_ONCE, len(rows)), len(rows))
    if not out:
        raise DataError(f"None of {len(rows)} answers came to an end; give --max-new-tokens more than "
                        f"{max_new_tokens}.")  # fmt: skip
    return out


class _AsSampled:
    """Judges nothing: two answers stay in the order in which they were sampled."""

    name = ""

    def prefer(self, prompt: str, a: tuple[str, bool], b: tuple[str, bool], rng: np.random.Generator) -> str:
        return "a"


def pairs(
    base: SharedBase,
    role: str,
    prompts: Sequence[Prompt],
    n: int,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> list[Comparison]:
    """Up to `n` pairs of two different answers that came to an end, not judged yet. Raises DataError for none."""
    found = compare(base, role, prompts, _AsSampled(), n, max_new_tokens=max_new_tokens,  # type: ignore[arg-type]
                    temperature=temperature, seed=seed, on_progress=on_progress).preferences  # fmt: skip
    if not found:
        raise DataError(f"No two different answers that ended were found for {len(prompts)} prompts; raise the "
                        "temperature, or the longest answer.")  # fmt: skip
    return [Comparison(p.prompt, p.chosen, p.rejected) for p in found]


def annotator(config: CAIConfig, world: str) -> Callable[[Comparison], Preference] | None:
    """Who decides where the constitution sees no difference: a simulated person, the same vote whenever asked."""
    if world != "tiny" or config.annotator == "none":
        return None
    who = tiny.ANNOTATORS[config.annotator]

    def prefers(c: Comparison) -> Preference:
        a, b = completion_text(c.a), completion_text(c.b)
        rng = np.random.default_rng([config.seed, int(c.id, 16)])
        first = who.prefer(prompt_text(c.prompt), (a, c.ended[0]), (b, c.ended[1]), rng) == "a"
        chosen, rejected = (c.a, c.b) if first else (c.b, c.a)
        return Preference(c.prompt, chosen, rejected, annotator=who.name)

    return prefers


def role_judge(base: SharedBase, role: str, world: str) -> JudgeOf:
    """Principle → a role that is asked which of two answers keeps better to it, by the probability of its next word.

    The tiny world's model is asked in words it knows: the principle's request for a critique, and 1 or 2.
    """
    if world == "tiny":
        short = tiny_wording()
        return lambda p: RoleJudge(base, role, short.about(f"{p.critique} {short.question}"))
    return lambda p: RoleJudge(base, role, ONE_LETTER.about(f"Which answer keeps better to this: {p.text}"))


def people(sources: Sources) -> Sequence[Preference]:
    """What people said about helpfulness."""
    return [p for p in read(sources.people, "preference").some() if isinstance(p, Preference)] if sources.people else []


def truth(labelled: Sequence[Labelled]) -> list[float]:
    """The tiny world's own verdict on each comparison: 1, 0 or ½."""
    out = []
    for c in (x.comparison for x in labelled):
        a, b = (tiny.gold(prompt_text(c.prompt), completion_text(y), e).score
                for y, e in zip((c.a, c.b), c.ended, strict=True))  # fmt: skip
        out.append(0.5 if a == b else float(a > b))
    return out
