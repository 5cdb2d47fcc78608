"""How many tokens each phase of a method holds at once: the geometry of its passes, from settings and row lengths."""

from __future__ import annotations

from typing import NamedTuple

from lab.memory.cost import Rows, Wish

ROLES: dict[str, tuple[tuple[str, bool, bool], ...]] = {
    "sft": (("sft", True, False),),
    "reward": (("reward", True, True),),
    "process": (("process", True, True),),
    "ppo": (("policy", True, False), ("value", True, True), ("reference", False, False)),
    "dpo": (("policy", True, False), ("reference", False, False)),
    "kto": (("policy", True, False), ("reference", False, False)),
    "grpo": (("policy", True, False), ("reference", False, False)),
    "online": (("policy", True, False), ("reference", False, False)),
    "raft": (("policy", True, False), ("reference", False, False)),
}
"""Method -> its roles: name, whether it is trained, whether it has a head. Reward models come besides."""

SAMPLES = ("ppo", "grpo", "online", "raft")
"""The methods that sample."""

PROMPT = 128
"""Tokens of a prompt that nobody has measured."""


class Pass(NamedTuple):
    """Packed tokens, places of the padded views, and tokens whose log-probability is asked for."""

    tokens: int
    places: int
    scored: int


class Sampling(NamedTuple):
    """Rows that are sampled at once, the distinct prompts among them, a prompt's tokens and the most a row may have."""

    rows: int
    prompts: int
    prompt: int
    length: int


def roles_of(wish: Wish) -> list[tuple[str, bool, bool]]:
    """Every role of the run: name, trained, head."""
    if wish.method == "reward":
        return [("reward" if not m else f"reward-{m}", True, True) for m in range(wish.config.members)]
    judges = wish.judges if wish.method in SAMPLES else 0
    return [*ROLES[wish.method], *((f"reward{j + 1}" if j else "reward", False, True) for j in range(judges))]


def rows_of(wish: Wish) -> Rows:
    """The lengths of the data; unmeasured, as long as the settings allow, half of a row its prompt."""
    if wish.method in SAMPLES:
        prompt = wish.rows.prompt if wish.rows else PROMPT
        longest = max(prompt, wish.rows.longest if wish.rows else 0)  # of the prompts: nobody has answered yet
        return Rows(prompt, wish.config.max_new_tokens, longest + wish.config.max_new_tokens)
    if wish.rows is not None:
        return wish.rows
    half = wish.config.max_length // 2
    return Rows(half, wish.config.max_length - half)


def training(wish: Wish) -> Pass:
    """The largest pass with gradients."""
    r, c, limit = rows_of(wish), wish.config, wish.config.tokens_per_pass
    if wish.method in ("sft", "process", "kto"):
        n = _count(c.batch, r.whole, limit)
        return _whole(r, n, n, n * r.completion if wish.method != "process" else 0)
    if wish.method in ("reward", "dpo") or wish.method == "online":
        many = c.prompts if wish.method == "online" else c.batch * getattr(c, "members", 1)
        # Pairs share their prompt inside a pack; where passes are counted, both completions and one prompt are.
        n = _count(many, r.prompt + 2 * r.completion, limit)
        sides = 1 if getattr(c, "objective", "") == "nash_md" else 2
        return _whole(r, n, sides * n, 0 if wish.method == "reward" else sides * n * r.completion)
    shared, most = _groups(wish)
    half = limit // 2 if wish.method == "ppo" else limit  # policy and value learn in every pass of PPO
    n = _count(most, r.prompt / shared + r.completion, half)
    found = _whole(r, -(-n // shared), n, n * r.completion)
    return Pass(2 * found.tokens, 2 * found.places, found.scored) if wish.method == "ppo" else found


def scoring(wish: Wish) -> Pass | None:
    """The largest pass without gradients: what sampled completions, or the pairs' reference, are scored in."""
    r, c, limit = rows_of(wish), wish.config, wish.config.tokens_per_pass
    if wish.method in ("sft", "reward", "process", "kto", "dpo"):
        return training(wish)  # the same rows, under the reference or to evaluate
    judges = wish.judges
    readers = {"ppo": 3, "grpo": 2, "raft": 2, "online": 1}[wish.method]  # log-probabilities and values
    roles = readers + judges
    shared, most = _groups(wish)
    if wish.method == "online":
        shared, most = 2, 2 * c.prompts
    per_role = max(1, limit // roles)
    n = _count(most, r.prompt / shared + r.completion, per_role)
    found = _whole(r, -(-n // shared), n, n * r.completion)
    return Pass(roles * found.tokens, roles * found.places, found.scored)


def sampling(wish: Wish) -> Sampling:
    """What is sampled at once: a step's completions, or where nothing is sampled, the answers to the probes."""
    r, c = rows_of(wish), wish.config
    if wish.method not in SAMPLES:
        n, longest = wish.probes
        return Sampling(n, n, min(r.prompt, PROMPT), min(r.prompt, PROMPT) + longest)
    shared, _ = _groups(wish)
    rows = c.batch if wish.method != "online" else 2 * c.prompts
    each = 2 if wish.method == "online" else shared
    return Sampling(rows, -(-rows // each), r.prompt, r.longest)


def _groups(wish: Wish) -> tuple[int, int]:
    """Completions of a prompt, and the completions of one update, of which a pass takes as many as fit."""
    c = wish.config
    if wish.method == "ppo":
        return c.per_prompt, c.batch // c.minibatches
    if wish.method == "grpo":
        return int(c.group or 1), -(-c.batch // c.minibatches)
    if wish.method == "raft":
        return (1, -(-c.prompts // c.minibatches)) if c.rule == "best" else (c.samples, -(-c.batch // c.minibatches))
    return 1, 2 * c.prompts


def _count(most: int, each: float, limit: int) -> int:
    """Rows of a pass: as many as stay within the limit, one at least."""
    return max(1, min(most, int(limit // max(1.0, each))))


def _whole(r: Rows, prompts: int, rows: int, scored: int) -> Pass:
    return Pass(prompts * r.prompt + rows * r.completion, round(rows * r.whole * r.padding), scored)
