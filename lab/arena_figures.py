"""The leaderboard of the arena as a plotly figure, as JSON (`data`, `layout`) in the look of `lab.figures`."""

from __future__ import annotations

from typing import Any

from lab.evaluate.arena import Leaderboard
from lab.figures import DARK, LIGHT, look, plain

LONGEST = 20
"""Characters of a policy's name beside the axis."""


def leaderboard(board: Leaderboard, dark: bool = False) -> dict[str, Any]:
    """A line for each policy, the strongest on top: its strength in nats and the 95 % interval. Groups that cannot be
    compared have colours of their own, and a line between them."""
    paint = DARK if dark else LIGHT
    places = {s.policy: len(board.standings) - 1 - i for i, s in enumerate(board.standings)}
    lines = []
    for number in range(len(board.groups)):
        rows = [s for s in board.standings if s.group == number]
        means = [s.strength.mean or 0.0 for s in rows]
        error = {
            "type": "data", "symmetric": False, "thickness": 2.4, "width": 7,
            "array": [(s.strength.high or 0.0) - m for s, m in zip(rows, means, strict=True)],
            "arrayminus": [m - (s.strength.low or 0.0) for s, m in zip(rows, means, strict=True)],
        }  # fmt: skip
        lines.append({
            "type": "scatter", "mode": "markers", "x": means, "y": [places[s.policy] for s in rows], "error_x": error,
            "marker": {"color": paint[number % len(paint)], "size": 11}, "showlegend": False, "uid": f"group_{number}",
            "customdata": [[plain(s.policy), s.strength.low, s.strength.high] for s in rows],
            "hovertemplate": "%{customdata[0]}: %{x:+.2f} [%{customdata[1]:+.2f}, %{customdata[2]:+.2f}]"
                             "<extra></extra>",
        })  # fmt: skip
    layout = look(dark)
    names = {"tickvals": list(places.values()), "ticktext": [plain(_short(p)) for p in places], "showgrid": False,
             "range": [-0.6, len(places) - 0.4], "fixedrange": True, "zeroline": False,
             "tickfont": {"size": 13}}  # fmt: skip
    strength = {"title": {"text": "strength, nats", "font": {"size": 12}, "standoff": 6},
                "zeroline": True, "zerolinewidth": 1.5}  # fmt: skip
    between = [len(places) - 0.5 - sum(len(g) for g in board.groups[:k]) for k in range(1, len(board.groups))]
    shapes = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y,
               "line": {"width": 1, "dash": "dot", "color": layout["font"]["color"]}} for y in between]  # fmt: skip
    return {"data": lines, "layout": layout | {
        "xaxis": {**layout["xaxis"], **strength}, "yaxis": {**layout["yaxis"], **names}, "hovermode": "closest",
        "height": 80 + 46 * len(places), "shapes": shapes, "uirevision": "leaderboard"}}  # fmt: skip


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
