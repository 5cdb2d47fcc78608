"""What a terminal shows: a run while it plays, lists of runs, curves, answers side by side."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lab import events as ev
from lab import reading
from lab.catalogue import Page
from lab.follow import Follower
from lab.metrics import HEADLINES
from lab.runs import Run, RunInfo

if TYPE_CHECKING:
    from lab.evaluate.best_of_n import Curve
    from lab.evaluate.table import Figure

STATE_STYLE = {"running": "green", "finished": "blue", "paused": "yellow", "failed": "red", "lost": "red"}


class View:
    """Progress bars of runs and of other long work, with time left and the latest figures; use it as a context."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("[bold]{task.description:<28}"), BarColumn(24), MofNCompleteColumn(),
            TimeRemainingColumn(compact=True), TextColumn("[dim]{task.fields[figures]}"),
            console=console, disable=quiet, refresh_per_second=4)  # fmt: skip
        self.tasks: dict[str, Any] = {}
        self.methods: dict[str, str] = {}
        self.seen: dict[str, dict[str, float]] = {}
        self.failed: list[ev.Checked] = []
        self.held = 0

    def __enter__(self) -> View:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def work(self, what: str, done: int, of: int) -> None:
        """Progress of something that is not a run."""
        task = self._task(what, of)
        self.progress.update(task, completed=done, total=of)

    def event(self, run: str, event: ev.Event) -> None:
        """Takes one event of a run."""
        if isinstance(event, ev.Started):
            self.methods[run] = event.method
            self.progress.update(self._task(run, event.total), completed=event.step, total=event.total)
        elif isinstance(event, (ev.Updated, ev.Evaluated)):
            self.seen.setdefault(run, {}).update(event.metrics)
            step = event.step if isinstance(event, ev.Updated) else None
            self.progress.update(self._task(run, 0), figures=self._figures(run), completed=step)
        elif isinstance(event, ev.Checked):
            self._checked(event)
        elif isinstance(event, ev.Skipped):
            rows = f" ({'; '.join(event.rows[:2])}{', …' if event.count > 2 else ''})" if event.rows else ""
            self.progress.console.print(Text(f"left out {event.count}: {event.reason}{rows}", style="yellow"))
        elif isinstance(event, ev.Done) and event.outcome != "finished":
            self.progress.console.print(Text(f"{run} {event.outcome}: {event.sentence}", style="red"))

    def invariants(self) -> Text:
        """One line: how many checks held, and those that did not."""
        total = self.held + len(self.failed)
        if not total:
            return Text("")
        if not self.failed:
            return Text(f"✓ {total} checks of the runs' invariants, all held", style="green")
        names = ", ".join(sorted({c.name for c in self.failed}))
        return Text(f"✗ {len(self.failed)} of {total} checks of the runs' invariants failed: {names}", style="red")

    def _checked(self, event: ev.Checked) -> None:
        if event.ok:
            self.held += 1
            return
        self.failed.append(event)
        self.progress.console.print(Text(f"✗ step {event.step}, {event.name}: {event.sentence}; seen {event.value:.3g},"
                                         f" limit {event.limit:.3g}", style="red"))  # fmt: skip

    def _task(self, name: str, total: int) -> Any:
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total or None, figures="")
        return self.tasks[name]

    def _figures(self, run: str) -> str:
        seen = self.seen[run]
        return "  ".join(f"{n} {seen[n]:.3g}" for n in HEADLINES.get(self.methods.get(run, ""), ()) if n in seen)


def runs_table(found: Iterable[RunInfo]) -> Table:
    """One line a run."""
    table = Table("run", "method", "state", "step", "age", "title", box=None, header_style="bold")
    for info in found:
        shown = info.status.shown
        age = (time.time() - info.manifest.created) / 60
        table.add_row(
            Text(info.id),
            info.manifest.method,
            Text(shown, style=STATE_STYLE.get(shown, "")),
            f"{info.status.step}/{info.status.total}",
            f"{age:.0f} min",
            Text(info.manifest.title),
        )
    return table


def run_report(run: Run, width: int = 100) -> Group:
    """A run's state, settings, invariants, health, curves and latest answers."""
    follower = Follower(run)
    follower.refresh()
    status = run.status()
    head = Text.assemble(
        (run.id, "bold"),
        f"  {run.manifest.method}  {run.manifest.title}  ",
        (status.shown, STATE_STYLE.get(status.shown, "")),
        f"  step {status.step}/{status.total}",
    )
    parts: list[RenderableType] = [head]
    if status.error:
        parts.append(Text(status.error, style="red"))
    settings = ", ".join(f"{k} {v}" for k, v in run.manifest.settings.items())
    parts.append(Text(settings, style="dim"))
    for check in follower.checks.values():
        mark, style = ("✓", "green") if check.ok else ("✗", "red")
        parts.append(Text(f"{mark} {check.name}: {check.sentence} ({check.value:.3g}, limit {check.limit:.3g})", style))
    parts += [Text(f"⚑ {note.text}", "yellow") for note in reading.health(follower) if note.level != "good"]
    parts += [Text.from_ansi(drawing) for drawing in curves(follower, width)]
    if follower.probes:
        step = max(follower.probes)
        parts.append(answers(f"step {step}", follower.probes[step]))
    return Group(*parts)


def curves(follower: Follower, width: int = 100, height: int = 12) -> list[str]:
    """The run's curves as terminal drawings."""
    import plotext

    drawings = []
    for name, series in follower.columns(HEADLINES.get(follower.method, ())).items():
        if len(series.steps) > 1:
            plotext.clear_figure()
            plotext.theme("clear")
            plotext.plot_size(min(width, 110), height)
            plotext.plot(series.steps, series.values, marker="braille")
            plotext.title(f"{name}: {series.values[-1]:.4g}")
            drawings.append(plotext.build())
    return drawings


def answers(title: str, samples: Sequence[ev.Sample]) -> Table:
    """Probe prompts with their answers and scores."""
    table = Table("prompt", "answer", "reward", "gold", title=title, title_justify="left", header_style="bold")
    for s in samples:
        table.add_row(Text(s.prompt), Text(s.completion + ("" if s.ended else " …")), number(s.reward), number(s.gold))
    return table


def columns(answered: Mapping[str, Mapping[str, Any]]) -> Table:
    """Answers of several roles side by side, as `lab sample` streams them."""
    table = Table(expand=True, header_style="bold")
    for name in answered:
        table.add_column(Text(name))
    table.add_row(*[Text(str(row.get("text", ""))) for row in answered.values()])
    figures = [" · ".join(f"{label} {number(row.get(key))}" for key, label in
                          (("reward", "reward"), ("gold", "gold"), ("kl", "KL")) if row.get(key) is not None)
               for row in answered.values()]  # fmt: skip
    if any(figures):
        table.add_row(*[Text(f, style="dim") for f in figures])
    return table


def demo_table(rows: Sequence[Any]) -> Table:
    """The table at the end of the demonstration."""
    table = Table("", "gold reward (95 %)", "proxy reward", "KL to SFT", "length", "ended", "win rate against SFT",
                  header_style="bold", title="On held-out prompts", title_justify="left")  # fmt: skip
    for row in rows:
        win = (
            "–"
            if row.win_rate is None
            else f"{row.win_rate.mean:.0%} [{row.win_rate.low:.0%}, {row.win_rate.high:.0%}]"
        )
        table.add_row(
            Text(row.role, style="bold"),
            f"{row.gold.mean:+.2f} [{row.gold.low:+.2f}, {row.gold.high:+.2f}]",
            number(row.proxy and row.proxy.mean),
            f"{row.kl.mean:.2f}",
            f"{row.length:.1f}",
            f"{row.ended:.1%}",
            win,
        )
    return table


def demo_answers(samples: Sequence[Mapping[str, Any]]) -> Group:
    """Three prompts, each answered by every role."""
    panels = []
    for sample in samples:
        grid = Table(box=None, expand=True, header_style="dim")
        for name in sample["answers"]:
            grid.add_column(Text(name))
        grid.add_row(*[Text(a["text"]) for a in sample["answers"].values()])
        grid.add_row(*[Text(f"gold {a['gold']:+.2f} · reward {a['reward']:+.2f}", style="dim")
                       for a in sample["answers"].values()])  # fmt: skip
        panels.append(Panel(grid, title=Text(sample["prompt"]), title_align="left"))
    return Group(*panels)


def number(x: float | None) -> str:
    """A score with its sign, or a dash where there is none."""
    return "–" if x is None else f"{x:+.2f}"


def methods_table(pages: Sequence[Page]) -> Table:
    """Every method with its objectives or variants below it, one line each."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    table.add_column("")
    table.add_column("what it is", overflow="fold")
    for page in pages:
        name = f"  {page.flag}" if page.flag else f"[bold]lab {page.name}[/bold]"
        table.add_row(name, Text(page.title if page.title != page.name else page.equation))
    table.caption = "`lab methods NAME` says when to use it, with its equation and its source"
    return table


def method_page(page: Page) -> Panel:
    """One page: equation, when to use it, its numbers, its source."""
    parts: list[Any] = [Text(page.equation, style="cyan"), Text(), Text(page.when)]
    if page.numbers:
        parts += [Text(), Text(" · ".join(f"{name} {value}" for name, value in page.numbers), style="dim")]
    parts += [Text(), Text(page.source, style="italic dim")]
    command = f"lab {page.method} {page.flag}".strip()
    return Panel(Group(*parts), title=f"[bold]{page.title}[/bold]", subtitle=command, title_align="left",
                 subtitle_align="right", padding=(1, 2))  # fmt: skip


def best_of_n_table(curve: Curve) -> Table:
    """What best-of-n is worth, a line for each n; the peak of the true score is marked."""
    table = Table("n", "reward (95 %)", "true score (95 %)", "KL ≤", "KL with ties", header_style="bold",
                  title=f"best of n, from {curve.samples} samples of each of {curve.prompts} prompts",
                  title_justify="left")  # fmt: skip
    peak = curve.peak
    for p in curve.points:
        gold = "–" if p.gold is None else _interval(p.gold)
        mark = " ◀" if peak is not None and p.n == peak.n and p.n != curve.points[-1].n else ""
        table.add_row(str(p.n), _interval(p.proxy), gold + mark, f"{p.kl_bound:.2f}", f"{p.kl.mean:.2f}")
    table.caption = "KL in nats from the sampled policy: ln n − (n − 1) / n, and exactly over the samples"
    return table


def _interval(f: Figure) -> str:
    return f"{f.mean:+.2f} [{f.low:+.2f}, {f.high:+.2f}]"
