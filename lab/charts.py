"""Measurements as plotly figures, as JSON (`data`, `layout`) like those of runs in `lab.figures`, in the same look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from lab.figures import DARK, DASHES, LIGHT, look

if TYPE_CHECKING:
    from lab.evaluate.best_of_n import Curve
    from lab.evaluate.table import Figure

BestOfNAxis = Literal["n", "sqrt_kl"]


def best_of_n_curve(curve: Curve, x: BestOfNAxis = "sqrt_kl", dark: bool = False) -> dict[str, Any]:
    """What best-of-n is worth: the proxy (solid) and the true score (dashed) with their 95 % intervals.

    Over √KL, with KL = ln n − (n − 1) / n nats, as in Gao et al. 2023, figure 1; or over n, on a logarithmic axis. The
    peak of the true score is marked with its n, unless it lies at the right end.
    """
    xs = [math.sqrt(p.kl_bound) if x == "sqrt_kl" else float(p.n) for p in curve.points]
    ns = [p.n for p in curve.points]
    known = [(at, p.n, p.gold) for at, p in zip(xs, curve.points, strict=True) if p.gold is not None]
    paint = DARK if dark else LIGHT
    lines = _line("reward", xs, ns, [p.proxy for p in curve.points], paint[0], DASHES[0])
    if known:
        lines += _line("true score", [k[0] for k in known], [k[1] for k in known], [k[2] for k in known], paint[1],
                       DASHES[1])  # fmt: skip
    layout = look(dark)
    title = "√(ln n − (n − 1) / n), √nats" if x == "sqrt_kl" else "samples n"
    axis = {**layout["xaxis"], "title": {"text": title, "font": {"size": 12}, "standoff": 6}}
    if x == "n":
        axis |= {"type": "log", "tickvals": ns}
    layout |= {"height": 300, "uirevision": f"best-of-n:{x}", "xaxis": axis, "hovermode": "closest", "showlegend": True}
    peak = curve.peak
    if peak is not None and peak.gold is not None and peak.n != max(ns):
        at = xs[ns.index(peak.n)]
        note = {"x": math.log10(at) if x == "n" else at, "y": peak.gold.mean, "text": f"n = {peak.n}", "ay": -28}
        layout["annotations"] = [note | {"ax": 0, "showarrow": True, "arrowhead": 0}]
    return {"data": lines, "layout": layout}


def _line(
    name: str, xs: Sequence[float], ns: Sequence[int], figures: Sequence[Figure], colour: str, dash: str
) -> list[dict[str, Any]]:
    """A line of means, and behind it the band of their intervals."""
    shared = {"type": "scatter", "mode": "lines", "legendgroup": name}
    band = {"x": [*xs, *reversed(xs)], "y": [*(f.high for f in figures), *(f.low for f in reversed(figures))],
            "fill": "toself", "fillcolor": colour, "opacity": 0.14, "line": {"width": 0}, "hoverinfo": "skip",
            "showlegend": False}  # fmt: skip
    means = {"x": list(xs), "y": [f.mean for f in figures], "customdata": list(ns), "name": name,
             "mode": "lines+markers", "line": {"color": colour, "width": 2.2, "dash": dash}, "marker": {"size": 6},
             "hovertemplate": f"n = %{{customdata}}: %{{y:.3~g}}<extra>{name}</extra>"}  # fmt: skip
    return [shared | band, shared | means]
