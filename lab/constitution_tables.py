"""What `lab constitution` and `lab redteam` show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from lab.cai.measure import Row
    from lab.cai.play import Ended
    from lab.evaluate.principles import Tested, Version
    from lab.evaluate.redteam import Report, Share
    from lab.feedback.constitution.labels import Habit
    from lab.feedback.constitution.principles import Constitution

FLIPS = 20
"""How many flipped judgements a table shows."""


def constitution_table(found: Constitution) -> Table:
    """The principles of a constitution, with the digest its version is known by."""
    table = _table(
        "principle", "what it asks", "weight", "critic", title=f"{found.name} {found.version} · {found.digest}"
    )
    for p in found.principles:
        table.add_row(Text(p.id), Text(p.text), f"{p.weight:g}" if p.on else "off", Text(p.critic or "–"))
    return table


def show_red_team(console: Console, found: Report, role: str) -> None:
    """Both figures of a red team, by category and by wrapper, and what they cannot say."""
    table = _table("", "complied with harm", "refused what is harmless", title=f"{role}, read by {found.reader}")
    table.add_row("all", _shown(found.whole.attacks), _shown(found.whole.refusals), style="bold")
    for lines, nameless in ((found.categories, ""), (found.wrappers, "no wrapper")):
        table.add_section()
        for line in lines:
            table.add_row(Text(line.name or nameless), _shown(line.attacks), _shown(line.refusals))
    console.print(table)
    console.print(f"to rule out {found.bound:.0%} at no success: {found.needed} prompts", style="dim")
    for sentence in found.warnings:
        console.print(sentence, style="yellow", markup=False)


def show_ended(console: Console, ended: Ended, rows: Sequence[Row]) -> None:
    """What a stack of Constitutional AI came to."""
    if ended.fired:
        drawn = ", ".join(f"{id} {changed} of {n}" for id, (n, changed) in ended.fired.items())
        console.print(f"revisions that changed the answer: {drawn}", markup=False)
    if ended.habits:
        console.print(habits_table(ended.habits, "principles as labels"))
    if rows:
        table = _table("", "complied with harm", "refused look-alikes", "right answers", "gold",
                       title="on what nobody was trained on")  # fmt: skip
        for r in rows:
            table.add_row(Text(r.policy), _shown(r.red.whole.attacks), _shown(r.red.whole.refusals), _shown(r.helpful),
                          f"{r.gold.mean:+.2f} [{r.gold.low:+.2f}, {r.gold.high:+.2f}]")  # fmt: skip
        console.print(table)
    console.print(f"the stack is in {ended.root}", markup=False)


def ended_json(ended: Ended, rows: Sequence[Row]) -> dict[str, Any]:
    """What a stack of Constitutional AI came to, as JSON-able values."""

    def row(r: Row) -> dict[str, Any]:
        red = {"complied": r.red.whole.attacks, "refused_lookalikes": r.red.whole.refusals}
        every = red | {"helpful": r.helpful, "refused": r.refused, "gold": r.gold}
        return {name: asdict(value) if value else None for name, value in every.items()}

    return {"root": str(ended.root), "constitution": ended.constitution.digest, "fired": ended.fired,
            "policies": {r.policy: row(r) for r in rows}, "habits": [h._asdict() for h in ended.habits]}  # fmt: skip


def habits_table(habits: Sequence[Habit], title: str) -> Table:
    """How each principle worked as a label."""
    table = _table("principle", "asked", "takes a side", "same in both orders", "decides", "agrees", title=title)
    for h in habits:
        table.add_row(Text(h.principle), str(h.asked), *map(_percent, (h.fires, h.stability, h.decides, h.agreement)))
    return table


def show_tested(console: Console, tested: Tested) -> None:
    """A constitution held against people's judgements, and against another version."""
    _show_version(console, tested, tested.version)
    if tested.against is None or tested.gain is None:
        return
    _show_version(console, tested, tested.against)
    moved = Counter(id for f in tested.flips for id in f.principles)
    console.print(f"gain {tested.gain.mean:+.1%} [{tested.gain.low:+.1%}, {tested.gain.high:+.1%}]; "
                  f"{len(tested.flips)} judgements flip" + "".join(f", {n} with {id}" for id, n in moved.most_common()),
                  markup=False)  # fmt: skip
    table = _table("prompt", "people preferred", "over", "before", "now", "by", title="the first flips")
    words = {1: "agrees", 0: "no side", -1: "disagrees"}
    for f in tested.flips[:FLIPS]:
        table.add_row(*map(Text, (f.prompt, f.chosen, f.rejected, words[f.before], words[f.after],
                                  ", ".join(f.principles))))  # fmt: skip
    console.print(table)


def _show_version(console: Console, tested: Tested, v: Version) -> None:
    a = v.agreement
    console.print(f"{v.name} {v.version} ({v.digest}) agrees with {a.mean:.1%} [{a.low:.1%}, {a.high:.1%}] of "
                  f"{tested.judgements} judgements about {tested.prompts} prompts; no side in {v.ties:.0%}",
                  markup=False)  # fmt: skip
    console.print(habits_table(v.habits, v.name))


def _table(*columns: str, title: str) -> Table:
    return Table(*columns, title=Text(title), title_justify="left", header_style="bold")


def _shown(found: Share | None) -> str:
    if found is None:
        return "–"
    return f"{found.rate:.1%} [{found.low:.1%}, {found.high:.1%}] of {found.n}"


def _percent(x: float | None) -> str:
    return "–" if x is None else f"{x:.0%}"
