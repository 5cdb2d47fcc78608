"""What would make a run fit: one setting changed at a time, the cheapest first, with what each saves and costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lab.config import ConfigError
from lab.memory.cost import Wish
from lab.memory.plan import predict
from lab.memory.shape import Shape


@dataclass(frozen=True, slots=True)
class Change:
    """Settings to change and what that does. `where`: settings, adapter, or base for how the base is loaded.

    saves : bytes at the worst moment · fits : whether that is enough · costs : in words · exact : whether the run
    learns the same, but for rounding
    """

    where: str
    values: tuple[tuple[str, Any], ...]
    saves: int
    fits: bool
    costs: str
    exact: bool


def changes(shape: Shape, wish: Wish, free: int) -> list[Change]:
    """The changes that help, the cheapest first: those that suffice before those that do not.

    The order of cost: what learns the same (smaller passes), the same together with what samples less at once, then the
    latter alone, shorter answers, smaller adapters, fewer bits. Empty where the run fits as it is.
    """
    now = predict(shape, wish).total
    if now <= free:
        return []
    found = []
    for steps in (_passes(wish), _both(shape, wish, free), _at_once(wish), _shorter(wish), _rank(wish), _bits(wish)):
        best: Change | None = None
        for where, values, changed, costs, exact in steps:
            total = predict(shape, changed).total
            if total >= now:
                continue
            best = Change(where, values, now - total, total <= free, costs, exact)
            if best.fits:
                break
        if best is not None:
            found.append(best)
    return sorted(found, key=lambda c: not c.fits)


Step = tuple[str, tuple[tuple[str, Any], ...], Wish, str, bool]


def _passes(wish: Wish) -> Iterator[Step]:
    tokens, slower = wish.config.tokens_per_pass, "a little"
    while tokens > 64:
        tokens //= 2
        gpu = tokens < 4096 and wish.machine.device != "cpu"  # launching costs as much as computing (below 4k tokens)
        slower = "up to twice the time an update" if gpu else "hardly any time"
        yield _setting(wish, {"tokens_per_pass": tokens}, f"the same learning in smaller passes, {slower}", True)


def _both(shape: Shape, wish: Wish, free: int) -> Iterator[Step]:
    """Passes just small enough for learning and scoring, and then fewer completions sampled at once."""
    for where, values, smaller, costs, _ in _passes(wish):
        plan = predict(shape, smaller)
        standing = plan.total - plan.peak.size
        if max((p.size for p in plan.phases if p.name != "sampling"), default=0) + standing > free:
            continue
        if plan.total > free:
            yield from ((where, (*values, *more), both, f"{costs}; {words}", False)
                        for _, more, both, words, _ in _at_once(smaller))  # fmt: skip
        return


def _at_once(wish: Wish) -> Iterator[Step]:
    c = wish.config
    name = next((n for n in ("prompts", "batch") if n in vars(c)), None)
    if name is None or wish.method not in ("ppo", "grpo", "online", "raft"):
        return
    value = getattr(c, name)
    while value > 1:
        value //= 2
        given: dict[str, Any] = {name: value}
        try:
            replace(c, **given)
        except ConfigError:
            continue
        yield _setting(wish, given, "fewer completions a step: quicker steps, noisier ones", False)


def _shorter(wish: Wish) -> Iterator[Step]:
    value = getattr(wish.config, "max_new_tokens", 0)
    while value > 16:
        value //= 2
        yield _setting(wish, {"max_new_tokens": value}, "shorter answers: longer ones are cut off", False)
    value = getattr(wish.config, "max_length", 0)
    while value > 64:
        value //= 2
        yield _setting(wish, {"max_length": value}, "rows that are longer are left out, and counted", False)


def _rank(wish: Wish) -> Iterator[Step]:
    rank = wish.adapter.rank
    while rank > 4:
        rank //= 2
        changed = replace(wish, adapter=replace(wish.adapter, rank=rank))
        yield "adapter", (("rank", rank),), changed, "a smaller adapter can say less", False


def _bits(wish: Wish) -> Iterator[Step]:
    for bits in (b for b in (8, 4) if b < wish.bits):
        words = "another engine: its weights in 8 bits" if bits == 8 else "another engine: its weights in NF4"
        yield "base", (("bits", bits),), replace(wish, bits=bits), words, False


def _setting(wish: Wish, given: dict[str, Any], costs: str, exact: bool) -> Step:
    rows = wish.rows
    if rows is not None and "max_length" in given and rows.longest > given["max_length"]:
        part = min(1.0, given["max_length"] / max(1, rows.whole))
        rows = replace(rows, prompt=int(rows.prompt * part), completion=int(rows.completion * part),
                       longest=given["max_length"])  # fmt: skip
    changed = replace(wish, config=replace(wish.config, **given), rows=rows)
    return "settings", tuple(given.items()), changed, costs, exact
