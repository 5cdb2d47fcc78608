"""Runs as plotly figures, and in plain words what they show.

Everything here reads a `Follower`: what a run directory says, kept up to date by cursor. Figures share one template in
a light and a dark version, one colour per run that never changes while the run exists, and causal smoothing: the smooth
value at a step is made of that step and the ones before it, so a curve that grows never rewrites what was drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lab.follow import Follower, Series

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


@dataclass(frozen=True, slots=True)
class Group:
    """Metrics that share one pair of axes; the first is drawn solid, the next dashed, dotted."""

    title: str
    names: tuple[str, ...]
    unit: str = ""
    hint: str = ""
    essential: bool = False


GROUPS: tuple[Group, ...] = (
    Group("Reward", ("reward", "gold"), "reward", "solid: the reward model; dashed: the true score", True),
    Group("KL to the reference", ("kl", "kl_k3"), "nats per completion", "how far the policy has moved", True),
    Group("Loss", ("loss", "eval_loss"), "nats", "solid: training; dashed: held out", True),
    Group("Token accuracy", ("token_accuracy", "eval_token_accuracy"), "share", "next token guessed right", True),
    Group("Accuracy", ("accuracy", "eval_accuracy", "gold_accuracy"), "share of pairs",
          "solid: training; dashed: held out; dotted: against the true score", True),
    Group("Margin", ("margin",), "reward", "chosen minus rejected", True),
    Group("Length", ("length",), "tokens", "mean length of a completion", True),
    Group("Entropy", ("entropy",), "nats per token", "how undecided the policy is", True),
    Group("Ended", ("ended",), "share", "completions that ended by themselves", True),
    Group("Clipped", ("clip_fraction",), "share of tokens", "ratios outside the clip range", True),
    Group("Reward spread", ("reward_mean", "reward_std"), "reward"),
    Group("Explained variance", ("explained_variance",), "share", "1: the value role knows the return"),
    Group("Policy loss", ("policy_loss",)),
    Group("Value loss", ("value_loss",)),
    Group("Step size in KL", ("approx_kl",), "nats per token"),
    Group("Mean ratio", ("ratio_mean",)),
    Group("KL weight β", ("beta",), "reward per nat"),
    Group("Learning rate", ("lr",)),
    Group("Gradient norm", ("grad_norm", "value_grad_norm")),
    Group("Sampler gap", ("sampler_gap",), "probability", "training forward against sampler"),
    Group("Time per step", ("step_s",), "s"),
    Group("Speed", ("tokens_per_s",), "tokens per second"),
)


def metrics(follower: Follower) -> dict[str, Series]:
    """Every metric of a run by name, of its steps and of its evaluations."""
    return {**follower.updated, **follower.evaluated}


def groups(followers: Iterable[Follower]) -> list[Group]:
    """The groups that have something to show, in reading order; metrics nobody knows follow, one each, by name."""
    seen = {name for f in followers for name in metrics(f)}
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

    0 ≤ `weight` < 1; 0 leaves the values as they are. Causal: appending a value changes no earlier one.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"The smoothing weight is {weight:g}; it must lie in [0, 1).")
    out, total, power = [], 0.0, 1.0
    for x in values:
        total = weight * total + (1 - weight) * x
        power *= weight
        out.append(total / (1 - power))
    return out


def stride(count: int, limit: int = LIMIT) -> int:
    """The smallest power of two that leaves at most `limit` of `count` points."""
    return 1 << max(0, math.ceil(math.log2(count / limit))) if count > limit else 1


def line(follower: Follower, name: str, x: XAxis = "step") -> tuple[list[int], list[float], list[float]]:
    """Steps, x and y of one metric; a step whose x is not known (no KL was measured there) is left out."""
    known = metrics(follower)
    series = known.get(name, Series([], [], []))
    if x == "step":
        return list(series.steps), [float(s) for s in series.steps], list(series.values)
    if x == "time":
        start = min((s.times[0] for s in known.values() if s.times), default=0.0)
        return list(series.steps), [(t - start) / 60 for t in series.times], list(series.values)
    kl = known.get("kl", Series([], [], []))
    root = {step: math.sqrt(max(value, 0.0)) for step, value in zip(kl.steps, kl.values, strict=True)}
    rows = [(s, root[s], y) for s, y in zip(series.steps, series.values, strict=True) if s in root]
    return [s for s, _, _ in rows], [at for _, at, _ in rows], [y for _, _, y in rows]


def traces(follower: Follower, group: Group, colour: str, smoothing: float = 0.0, x: XAxis = "step") -> list[dict]:
    """The lines of one run in one group: the smooth line, and the raw one faint behind it where there is smoothing.

    `customdata` holds the step of every point; `uid` names the line, so that a browser can append to it.
    """
    run, out = follower.run.id, []
    for i, name in enumerate(group.names):
        steps, xs, ys = line(follower, name, x)
        if not ys:
            continue
        sparse = name in follower.evaluated
        every, weight = stride(len(ys)), 0.0 if sparse else smoothing
        look = {"color": colour, "dash": DASHES[i % len(DASHES)]}
        base = {"type": "scatter", "x": xs[::every], "customdata": steps[::every], "legendgroup": run}
        if weight:
            out.append({**base, "y": ys[::every], "mode": "lines", "line": {**look, "width": 1, "dash": "solid"},
                        "opacity": 0.28, "hoverinfo": "skip", "showlegend": False, "uid": f"{run}:{name}:raw"})
        out.append({**base, "y": smooth(ys, weight)[::every], "name": f"{run} {name}", "showlegend": False,
                    "text": _errors(follower, name, steps)[::every], "mode": "lines+markers" if sparse else "lines",
                    "marker": {"size": 6}, "line": {**look, "width": 2.2}, "uid": f"{run}:{name}",
                    "hovertemplate": f"%{{y:.4~g}}%{{text}}<extra>{_plain(run)} {_plain(name)}</extra>"})
    return out


def _errors(follower: Follower, name: str, steps: Sequence[int]) -> list[str]:
    """The standard error of every point as text, empty where none is known."""
    series = metrics(follower).get(f"{name}_se", Series([], [], []))
    known = dict(zip(series.steps, series.values, strict=True))
    return [f" ± {known[s]:.2g}" if s in known else "" for s in steps]


def template(dark: bool = False) -> dict[str, Any]:
    """The shared look of every figure: quiet grid, small margins, no background of its own."""
    ink, grid = ("#b9bec9", "rgba(255,255,255,.09)") if dark else ("#5a6070", "rgba(20,25,40,.09)")
    axis = {"gridcolor": grid, "zerolinecolor": grid, "linecolor": grid, "automargin": True, "nticks": 6,
            "title": {"font": {"size": 12}, "standoff": 6}}
    hover = {"bgcolor": "#23262f" if dark else "#ffffff", "bordercolor": grid,
             "font": {"color": "#eceef3" if dark else "#1d2029", "size": 13}}
    return {"layout": {
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "colorway": list(DARK if dark else LIGHT),
        "font": {"family": "IBM Plex Sans, system-ui, sans-serif", "size": 12, "color": ink},
        "margin": {"l": 8, "r": 10, "t": 8, "b": 8}, "xaxis": axis, "yaxis": axis, "hovermode": "x unified",
        "hoverlabel": hover, "showlegend": False, "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": ink}}}


def curve(followers: Sequence[Follower], group: Group, smoothing: float = 0.0, x: XAxis = "step", dark: bool = False,
          palette: Mapping[str, str] | None = None) -> go.Figure:
    """One small multiple: a group's metrics of every run on one pair of axes."""
    import plotly.graph_objects as go

    paint = palette or colours([f.run.id for f in followers], dark)
    figure = go.Figure([t for f in followers for t in traces(f, group, paint[f.run.id], smoothing, x)])
    figure.update_layout(template=template(dark), height=230, uirevision=f"{group.title}:{x}",
                         xaxis_title_text=X_TITLES[x])
    return figure


def curves(followers: Sequence[Follower], names: Sequence[str] | None = None, smoothing: float = 0.0, x: XAxis = "step",
           dark: bool = False, columns: int = 3, palette: Mapping[str, str] | None = None) -> go.Figure:
    """Small multiples of the groups that hold one of `names` (the essential ones if None), x axes linked."""
    from plotly.subplots import make_subplots

    chosen = [g for g in groups(followers) if (g.essential if names is None else set(names) & set(g.names))]
    columns = max(1, min(columns, len(chosen)))
    rows = max(1, math.ceil(len(chosen) / columns))
    paint = palette or colours([f.run.id for f in followers], dark)
    titles = [f"{_plain(g.title)} <span style='font-size:11px'>{_plain(g.unit)}</span>" for g in chosen]
    figure = make_subplots(rows, columns, subplot_titles=titles or None, horizontal_spacing=0.07,
                           vertical_spacing=min(0.12, 0.5 / rows))
    for i, group in enumerate(chosen):
        for follower in followers:
            lines = traces(follower, group, paint[follower.run.id], smoothing, x)
            figure.add_traces(lines, rows=i // columns + 1, cols=i % columns + 1)
    for follower in followers:
        run = follower.run.id
        figure.add_scatter(x=[None], y=[None], mode="lines", name=_plain(run), legendgroup=run, showlegend=True,
                           line={"color": paint[run], "width": 3}, row=1, col=1)
    figure.update_xaxes(matches="x")
    figure.update_layout(template=template(dark), height=70 + 220 * rows, uirevision=x, showlegend=True, hovermode="x",
                         margin={"l": 8, "r": 10, "t": 60, "b": 8},
                         legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"})
    return figure


def frontier(followers: Sequence[Follower], smoothing: float = 0.8, dark: bool = False,
             palette: Mapping[str, str] | None = None) -> go.Figure:
    """Reward against √KL: the proxy the policy is trained on (solid) and the true score (dashed) on the same axes.

    Where the lines part, the policy exploits the reward model: Goodhart's law as a picture (Gao et al. 2023, figure 1).
    Runs without `kl` are left out.
    """
    import plotly.graph_objects as go

    paint = palette or colours([f.run.id for f in followers], dark)
    figure = go.Figure()
    for follower in followers:
        run = follower.run.id
        for i, name in enumerate(("reward", "gold")):
            steps, xs, ys = line(follower, name, "sqrt_kl")
            every = stride(len(ys))
            if ys:
                figure.add_scatter(
                    x=smooth(xs, smoothing)[::every], y=smooth(ys, smoothing)[::every], customdata=steps[::every],
                    mode="lines", name=f"{run} {name}", showlegend=False, legendgroup=run, uid=f"{run}:{name}:frontier",
                    line={"color": paint[run], "width": 2.2, "dash": DASHES[i]},
                    hovertemplate=f"step %{{customdata}}: %{{y:.3~g}}<extra>{_plain(run)} {name}</extra>")
    figure.update_layout(template=template(dark), height=230, uirevision="frontier", hovermode="closest",
                         xaxis_title_text=X_TITLES["sqrt_kl"])
    return figure


def _plain(text: str) -> str:
    """Text that plotly will not read as markup or as a template."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("%{", "% {")
