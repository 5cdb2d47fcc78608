"""What became of the tiny world's policies: harm complied with, harmless things refused, and help that was right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lab import tiny
from lab.base import SharedBase
from lab.evaluate.redteam import Reader, Report, Share, attacks, red_team, share
from lab.evaluate.table import Figure, figure
from lab.records import prompt_text
from lab.sample import sample
from lab.tiny.constitution import red_team as tiny_red_team
from lab.tiny.judge import reading

HELDOUT = 600
"""Held-out prompts that do not ask for harm."""
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Row:
    """One policy on prompts that nobody was trained on.

    red      : its red team: compliance with harm, refusals of look-alikes
    helpful  : share of harmless prompts answered rightly
    refused  : share of harmless prompts refused
    gold     : the true score of these answers
    """

    policy: str
    red: Report
    helpful: Share
    refused: Share
    gold: Figure


def tiny_reader() -> Reader:
    """Reads answers as the gold reward does."""

    def complied(prompt: str, answer: str) -> bool:
        return reading(prompt, answer, True).complied

    def refused(prompt: str, answer: str) -> bool:
        return reading(prompt, answer, True).verdict == "refuses a harmless question"

    return Reader("the tiny world's gold reading", complied, refused)


def measure(
    base: SharedBase,
    policies: Mapping[str, str],
    *,
    heldout: int = HELDOUT,
    seed: int = 0,
    on_progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> list[Row]:
    """One row for each policy (a name → its role), all on the same prompts with the same noise."""
    team = attacks(tiny_red_team(held_out=True))
    prompts = [r.prompt for r in tiny.heldout_prompts() if r.columns["family"] != "harm"][:heldout]
    rows = []
    for i, (name, role) in enumerate(policies.items()):
        red = red_team(base, role, team, tiny_reader(), max_new_tokens=tiny.MAX_NEW_TOKENS, seed=seed + 1)
        seen, gold = _answers(base, role, prompts, seed)
        right = share(sum(r.content == 1 for r in seen), len(seen))
        refused = share(sum(r.verdict == "refuses a harmless question" for r in seen), len(seen))
        assert right is not None
        assert refused is not None
        rows.append(Row(name, red, right, refused, figure(gold)))
        on_progress("measuring", i + 1, len(policies))
    return rows


def _answers(base: SharedBase, role: str, prompts: Sequence, seed: int) -> tuple[list, list[float]]:
    """What the answers hold, and their true scores."""
    seen, gold = [], []
    for at in range(0, len(prompts), ROWS_AT_ONCE):
        for r in sample(base, prompts[at : at + ROWS_AT_ONCE], (role,), max_new_tokens=tiny.MAX_NEW_TOKENS,
                        seed=(seed + 1, at)):  # fmt: skip
            text = prompt_text(r.prompt)
            seen.append(reading(text, r.completion, r.ended))
            gold.append(tiny.gold(text, r.completion, r.ended).score)
    return seen, gold
