"""Runs as plotly figures, and in plain words what they show.

Everything here reads a `Follower`: what a run directory says, kept up to date by cursor. Figures share one template in
a light and a dark version, one colour per run that never changes while the run exists, and causal smoothing: the smooth
value at a step is made of that step and the ones before it, so a curve that grows never rewrites what was drawn.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lab.events import Spread
from lab.follow import Follower
from lab.metrics import GROUPS, Group

if TYPE_CHECKING:
    import plotly.graph_objects as go

XAxis = Literal["step", "sqrt_kl", "time"]
X_TITLES: dict[str, str] = {"step": "step", "sqrt_kl": "√KL to the reference (√nats)", "time": "minutes"}
LIMIT = 2000
"""Most points of one line; longer ones keep every 2nd, 4th, 8th … step."""

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["sendChartToCloud", "lasso2d", "select2d"],
    "responsive": True,
}
"""Plotly's display settings, wherever a figure is shown: no logo and no upload button."""

LIGHT = ("#0b62c4", "#c9540a", "#00806a", "#ad2388", "#8a6a00", "#5b4fcf", "#0e7f9e", "#b3261e")
DARK = ("#6cb2ff", "#ff9f63", "#45cfae", "#f183cb", "#e3c153", "#a99fff", "#5fcdea", "#ff8d83")
DASHES = ("solid", "dash", "dot", "dashdot")


def groups(followers: Iterable[Follower]) -> list[Group]:
    """The groups that have something to show, in reading order; metrics nobody knows follow, one each, by name."""
    seen = {name for f in followers for row in f.metrics.values() for name in row}
    known = {name for g in GROUPS for name in g.names}
    kept = [Group(g.title, tuple(n for n in g.names if n in seen), g.unit, g.hint, g.essential) for g in GROUPS]
    strangers = sorted(n for n in seen - known if not (n.endswith("_se") and n[:-3] in seen))
    return [g for g in kept if g.names] + [Group(n.replace("_", " "), (n,)) for n in strangers]


def colours(runs: Sequence[str], dark: bool = False) -> dict[str, str]:
    """One colour a run: the hash of its id picks, and a later run steps aside when the place is taken.

    Pass all runs of a root, oldest first: then a run keeps its colour whatever is shown beside it and whoever comes.
    """
    palette, taken, out = (DARK if dark else LIGHT), set[int](), dict[str, str]()
    for run in runs:
        place = int(hashlib.sha256(run.encode()).hexdigest(), 16) % len(palette)
        while place in taken and len(taken) < len(palette):
            place = (place + 1) % len(palette)
        taken.add(place)
        out[run] = palette[place]
    return out


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average without start-up bias: s_t = (1 − w) Σ_{i ≤ t} w^(t−i) x_i / (1 − w^(t+1)).

    0 ≤ `weight` < 1. Causal: appending a value changes no earlier one. A constant stays itself to the last bit.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"The smoothing weight is {weight:g}; it must lie in [0, 1).")
    out, s, power = [], 0.0, 1.0
    for x in values:
        power *= weight
        s += (x - s) * ((1 - weight) / (1 - power))  # the first factor is 1
        out.append(s if weight else x)
    return out


def stride(count: int, limit: int = LIMIT) -> int:
    """The smallest power of two that leaves at most `limit` of `count` points."""
    return 1 << max(0, math.ceil(math.log2(count / limit))) if count > limit else 1


def line(follower: Follower, name: str, x: XAxis = "step") -> tuple[list[int], list[float], list[float]]:
    """Steps, x and y of one metric; a step whose x is not known (no KL was measured there) is left out."""
    steps = [s for s in sorted(follower.metrics) if name in follower.metrics[s]]
    if x == "sqrt_kl":
        steps = [s for s in steps if "kl" in follower.metrics[s]]
    start = min(follower.times.values(), default=0.0)
    place: dict[XAxis, Callable[[int], float]] = {
        "step": float,
        "time": lambda s: (follower.times[s] - start) / 60,
        "sqrt_kl": lambda s: math.sqrt(max(follower.metrics[s]["kl"], 0.0)),
    }
    return steps, [place[x](s) for s in steps], [follower.metrics[s][name] for s in steps]


def traces(follower: Follower, group: Group, colour: str, smoothing: float = 0.0, x: XAxis = "step") -> list[dict]:
    """The lines of one run in one group: the smooth line, and the raw one faint behind it where there is smoothing.

    `customdata` holds the step of every point; `uid` names the line, so that a browser can append to it.
    """
    run, out = follower.run, []
    for i, name in enumerate(group.names):
        steps, xs, ys = line(follower, name, x)
        if not ys:
            continue
        sparse = len(steps) < 2 or steps[1] - steps[0] > 1
        every, weight = stride(len(ys)), 0.0 if sparse else smoothing
        pen = {"color": colour, "dash": DASHES[i % len(DASHES)]}
        base = {"type": "scatter", "x": xs[::every], "customdata": steps[::every], "legendgroup": run}
        if weight:
            out.append(
                {
                    **base,
                    "y": ys[::every],
                    "mode": "lines",
                    "line": {**pen, "width": 1, "dash": "solid"},
                    "opacity": 0.28,
                    "hoverinfo": "skip",
                    "showlegend": False,
                    "uid": uid(run, name, "raw"),
                }
            )
        out.append(
            {
                **base,
                "y": smooth(ys, weight)[::every],
                "name": f"{run} {name}",
                "showlegend": False,
                "mode": "lines+markers" if sparse else "lines",
                "text": [_error(follower.metrics[s], name) for s in steps[::every]],
                "marker": {"size": 6},
                "line": {**pen, "width": 2.2},
                "uid": uid(run, name),
                "hovertemplate": f"%{{y:.4~g}}%{{text}}<extra>{plain(run)} {plain(name)}</extra>",
            }
        )
    return out


def uid(*parts: str) -> str:
    """The name of a line: its parts joined by two underscores, other signs than letters and digits as their number.

    plotly.js uses it inside a CSS selector, and fails on a colon or a dot.
    """
    return "__".join(re.sub(r"[^\w-]", lambda m: f"_{ord(m[0]):x}_", part) for part in parts)


def _error(row: Mapping[str, float], name: str) -> str:
    """The standard error of a metric as text, empty where none is known."""
    return f" ± {row[name + '_se']:.2g}" if name + "_se" in row else ""


def look(dark: bool = False) -> dict[str, Any]:
    """The layout every figure shares: quiet grid, small margins, no background of its own."""
    ink, grid = ("#b9bec9", "rgba(255,255,255,.09)") if dark else ("#5a6070", "rgba(20,25,40,.09)")
    axis = {
        "gridcolor": grid,
        "zerolinecolor": grid,
        "linecolor": grid,
        "automargin": True,
        "nticks": 6,
        "spikecolor": ink,
        "spikethickness": -1,
        "spikedash": "dot",
    }
    hover = {
        "bgcolor": "#23262f" if dark else "#ffffff",
        "bordercolor": grid,
        "font": {"color": "#eceef3" if dark else "#1d2029", "size": 13},
    }
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": list(DARK if dark else LIGHT),
        "font": {"family": "IBM Plex Sans, system-ui, sans-serif", "size": 12, "color": ink},
        "margin": {"l": 8, "r": 10, "t": 8, "b": 8},
        "xaxis": axis,
        "yaxis": dict(axis),
        "hovermode": "x unified",
        "hoverlabel": hover,
        "showlegend": False,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": ink},
    }


def curve(
    followers: Sequence[Follower],
    group: Group,
    smoothing: float = 0.0,
    x: XAxis = "step",
    dark: bool = False,
    palette: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One small multiple as JSON (`data`, `layout`): a group's metrics of every run on one pair of axes.

    `go.Figure(curve(…))` is the figure. A page that redraws many of them every second is spared plotly's validation,
    which takes a hundred times longer than all else here.
    """
    paint = palette or colours([f.run for f in followers], dark)
    lines = [t for f in followers for t in traces(f, group, paint[f.run], smoothing, x)]
    return {"data": lines, "layout": _titled(look(dark), X_TITLES[x], f"{group.title}:{x}")}


def _titled(layout: dict[str, Any], x_title: str, revision: str) -> dict[str, Any]:
    """The layout of one small multiple; a zoom survives new data as long as `revision` stays."""
    axis = {
        **layout["xaxis"],
        "title": {"text": x_title, "font": {"size": 12}, "standoff": 6},
        "unifiedhovertitle": {"text": f"{x_title.split(' ')[0]} %{{x:.4~g}}"},
    }
    return {**layout, "height": 230, "uirevision": revision, "xaxis": axis}


def curves(
    followers: Sequence[Follower],
    names: Sequence[str] | None = None,
    smoothing: float = 0.0,
    x: XAxis = "step",
    dark: bool = False,
    columns: int = 3,
    palette: Mapping[str, str] | None = None,
) -> go.Figure:
    """Small multiples of the groups that hold one of `names` (the essential ones if None), x axes linked."""
    from plotly.subplots import make_subplots

    chosen = [g for g in groups(followers) if (g.essential if names is None else set(names) & set(g.names))]
    columns = max(1, min(columns, len(chosen)))
    rows = max(1, math.ceil(len(chosen) / columns))
    paint = palette or colours([f.run for f in followers], dark)
    titles = [f"{plain(g.title)} <span style='font-size:11px'>{plain(g.unit)}</span>" for g in chosen]
    figure = make_subplots(
        rows, columns, subplot_titles=titles or None, horizontal_spacing=0.07, vertical_spacing=min(0.12, 0.5 / rows)
    )
    for i, group in enumerate(chosen):
        for follower in followers:
            lines = traces(follower, group, paint[follower.run], smoothing, x)
            figure.add_traces(lines, rows=i // columns + 1, cols=i % columns + 1)
    for run in (f.run for f in followers):
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="lines",
            name=plain(run),
            legendgroup=run,
            showlegend=True,
            line={"color": paint[run], "width": 3},
            row=1,
            col=1,
        )
    shared = look(dark)
    figure.update_xaxes(shared.pop("xaxis"), matches="x")
    figure.update_yaxes(shared.pop("yaxis"))
    figure.update_layout(
        shared
        | {
            "height": 70 + 220 * rows,
            "uirevision": x,
            "showlegend": True,
            "hovermode": "x",
            "margin": {"l": 8, "r": 10, "t": 60, "b": 8},
        }
    )
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"})
    return figure


def frontier(
    followers: Sequence[Follower], smoothing: float = 0.8, dark: bool = False, palette: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Reward against √KL, as JSON like `curve`: the proxy (solid) and the true score (dashed) on the same axes.

    Where the lines part, the policy exploits the reward model: Goodhart's law as a picture (Gao et al. 2023, figure 1).
    Runs without `kl` are left out.
    """
    paint = palette or colours([f.run for f in followers], dark)
    lines = []
    for follower in followers:
        run = follower.run
        for i, name in enumerate(("reward", "gold")):
            steps, xs, ys = line(follower, name, "sqrt_kl")
            every = stride(len(ys))
            if ys:
                lines.append(
                    {
                        "type": "scatter",
                        "mode": "lines",
                        "name": f"{run} {name}",
                        "legendgroup": run,
                        "x": smooth(xs, smoothing)[::every],
                        "y": smooth(ys, smoothing)[::every],
                        "showlegend": False,
                        "customdata": steps[::every],
                        "uid": uid(run, name, "frontier"),
                        "line": {"color": paint[run], "width": 2.2, "dash": DASHES[i]},
                        "hovertemplate": f"step %{{customdata}}: %{{y:.3~g}}<extra>{plain(run)} {name}</extra>",
                    }
                )
    return {"data": lines, "layout": _titled(look(dark), X_TITLES["sqrt_kl"], "frontier") | {"hovermode": "closest"}}


SPREADS: dict[str, tuple[str, str]] = {
    "reward": ("Reward", "of the step's completions"),
    "length": ("Length", "of the step's completions, tokens"),
    "token_kl": ("Token KL", "log π − log π_ref of every token, nats"),
    "advantage": ("Advantage", "of every token"),
    "margin": ("Margin", "reward of the chosen minus the rejected, held out"),
}
"""name -> title and what is counted."""


def histogram(
    now: Spread, then: Spread | None, colour: str, labels: tuple[str, str], dark: bool = False
) -> dict[str, Any]:
    """A spread as bars, and another one behind it as a grey outline; each as shares of its own total."""
    layers = [(then, labels[1], {"color": "rgba(0,0,0,0)", "line": {"color": "#8a90a0", "width": 1.5}})] if then else []
    layers.append((now, labels[0], {"color": colour, "opacity": 0.78, "line": {"width": 0}}))
    data = []
    for spread, label, marker in layers:
        width, total = (spread.high - spread.low) / len(spread.counts), sum(spread.counts)
        hover = f"%{{x:.3~g}}: %{{y:.1%}} (%{{customdata}})<extra>{plain(label)}</extra>"
        data.append({"type": "bar", "name": label, "marker": marker, "width": [width] * len(spread.counts),
                     "x": [spread.low + width * (i + 0.5) for i in range(len(spread.counts))],
                     "y": [n / total for n in spread.counts], "customdata": list(spread.counts),
                     "hovertemplate": hover})  # fmt: skip
    layout = look(dark)
    axis = {**layout["yaxis"], "tickformat": ".0%", "rangemode": "tozero"}
    return {"data": data, "layout": {**layout, "barmode": "overlay", "bargap": 0, "height": 200, "hovermode": "closest",
                                     "yaxis": axis}}  # fmt: skip


def plain(text: str) -> str:
    """Text that plotly will not read as markup or as a template."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("%{", "% {")
