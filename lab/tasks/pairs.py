"""Pairs for people to judge, from roles that answer the same prompts; what the newest reward model says of pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lab import launch
from lab.chat import ChatError
from lab.feedback.labels.rows import as_text
from lab.records import Prompt, Rollout, to_json
from lab.runs import RunError, runs
from lab.sample import sample
from lab.score import score
from lab.tasks.features import encoded

if TYPE_CHECKING:
    from lab.desk import Desk

PROMPTS_AT_ONCE, PAIRS_AT_ONCE = 8, 16
MOST_PROMPTS, MOST_ROLES, MOST_TOKENS = 200, 4, 512


def pairs(desk: Desk, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Answers to the same prompts side by side: every two of the roles, or two answers of the only one.

    row : {"prompts", "roles" (as people name them), "temperature", "max_new_tokens", "seed"}

    {"pairs": [{prompt, a, b, ended, source}], "equal", "done", "of"}, some prompts at a time. Equal and empty answers
    are left out and counted: with the same noise, roles that are alike often say the same. Raises RunError for an empty
    list, PromptError for words the world does not know.
    """
    roles = list(dict.fromkeys(str(r) for r in row.get("roles") or ()))[:MOST_ROLES]
    texts = [str(p).strip() for p in row.get("prompts") or () if str(p).strip()][:MOST_PROMPTS]
    if not roles or not texts:
        raise RunError("Pairs are made of at least one role and one prompt.")
    asked = [desk.checked(p) for p in texts]
    names = {text: desk.role(text) for text in roles}
    how = {"temperature": float(row.get("temperature") or 1.0), "seed": int(row.get("seed") or 0)}
    most = min(max(int(row.get("max_new_tokens") or 64), 1), MOST_TOKENS)
    for at in range(0, len(asked), PROMPTS_AT_ONCE):
        part = asked[at : at + PROMPTS_AT_ONCE]
        said = sample(desk.base, part, list(names.values()), temperature=how["temperature"], max_new_tokens=most,
                      seed=(how["seed"], at), per_prompt=2 if len(roles) == 1 else 1)  # fmt: skip
        made = list(_met(part, roles, said, how))
        found = [m for m in made if m["a"] != m["b"] and m["a"] and m["b"]]
        yield {"pairs": found, "equal": len(made) - len(found), "done": at + len(part), "of": len(asked)}


def _met(
    prompts: Sequence[Prompt], roles: Sequence[str], said: Sequence[Rollout], how: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Every two answers to the same prompt, with who said them."""
    copies = len(said) // (len(roles) * len(prompts))
    for i, prompt in enumerate(prompts):
        mine = [
            (role, said[(r * len(prompts) + i) * copies + k]) for r, role in enumerate(roles) for k in range(copies)
        ]
        for (one, a), (other, b) in itertools.combinations(mine, 2):
            shown = prompt if isinstance(prompt, str) else [to_json(m) for m in prompt]
            yield {"prompt": shown, "a": a.completion, "b": b.completion, "ended": [a.ended, b.ended],
                   "source": {"by": "room", "a": one, "b": other, **how}}  # fmt: skip


def rewards(desk: Desk, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the newest finished reward model gives both answers of pairs; nothing where there is none.

    row : {"pairs": [[prompt, a, b, ended of a, ended of b], …]}

    First {"model": run@step}; then {"at": [numbers of pairs], "rewards": [[r(a), r(b)], …]}. A pair that cannot be read
    is left out.
    """
    role = desk.reward()
    if role is None:
        return
    run = next(i for i in reversed(runs(desk.root)) if launch.role_name(i.id) == role)
    yield {"model": f"{run.id}@{run.status.step}"}
    asked = [p for p in row.get("pairs") or () if isinstance(p, list) and len(p) == 5]
    for start in range(0, len(asked), PAIRS_AT_ONCE):
        places, tokens = [], []
        for i, (prompt, a, b, ended_a, ended_b) in enumerate(asked[start : start + PAIRS_AT_ONCE], start):
            try:
                both = [encoded(desk.base, role, as_text(prompt), as_text(y), bool(ended))
                        for y, ended in ((a, ended_a), (b, ended_b))]  # fmt: skip
            except ChatError:
                continue
            places.append(i)
            tokens += [(r.prompt, r.completion) for r in both]
        if places:
            known = score(desk.base, tokens, {role: "reward"})[role].cpu().view(-1, 2).tolist()
            yield {"at": places, "rewards": known}
