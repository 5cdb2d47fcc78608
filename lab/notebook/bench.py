"""A kernel as the engine: one base, the runs of a directory, and what a notebook does with them."""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lab.events import Sample
from lab.notebook import cards
from lab.notebook.live import LiveRun, front_end

if TYPE_CHECKING:
    from lab.config import Adapter
    from lab.evaluate.table import Row
    from lab.feedback.annotate import Comparisons
    from lab.notebook.sampler import Sampler
    from lab.records import Prompt
    from lab.runs import Run

T = TypeVar("T")

_OPEN: dict[Path, Workbench] = {}
"""The one workbench of each directory in this kernel."""


@dataclass(frozen=True)
class SideBySide:
    """Prompts answered by several roles with the same noise: `answers[role][i]` answers `prompts[i]`."""

    prompts: tuple[str, ...]
    answers: Mapping[str, tuple[Sample, ...]]

    def _repr_html_(self) -> str:
        return cards.side_by_side(self.prompts, self.answers)

    def __repr__(self) -> str:
        lines = []
        for i, prompt in enumerate(self.prompts):
            lines += [prompt, *(f"  {role:>8}: {said[i].completion}" for role, said in self.answers.items())]
        return "\n".join(lines)


@dataclass(frozen=True)
class Scoreboard:
    """Roles measured on held-out prompts, one line each, with 95 % intervals over the prompts."""

    rows: tuple[Row, ...]

    def __getitem__(self, role: str) -> Row:
        return next(row for row in self.rows if row.role == role)

    def _repr_html_(self) -> str:
        proxy = ("reward (proxy)",) if self.rows[0].proxy else ()
        head = ("", "true score", *proxy, "KL to SFT", "length", "ended", "win rate against SFT")
        body = []
        for r in self.rows:
            w, g = r.win_rate, r.gold
            win = "–" if w is None else f"{w.mean:.0%} [{w.low:.0%}, {w.high:.0%}]"
            gold = f"<b>{g.mean:+.2f}</b> [{g.low:+.2f}, {g.high:+.2f}]"
            score = (f"{r.proxy.mean:+.2f}",) if r.proxy else ()
            figures = (f"{r.kl.mean:.2f}", f"{r.length:.1f}", f"{r.ended:.0%}")
            body.append((f"<b>{escape(r.role)}</b>", gold, *score, *figures, win))
        return cards.table(head, body, f"On {self.rows[0].gold.n} prompts that no stage has seen")

    def __repr__(self) -> str:
        return "\n".join(f"{r.role:>6}  true score {r.gold.mean:+.2f} [{r.gold.low:+.2f}, {r.gold.high:+.2f}]  "
                         + (f"reward {r.proxy.mean:+.2f}  " if r.proxy else "") + f"KL {r.kl.mean:.2f}"
                         for r in self.rows)  # fmt: skip


class Workbench:
    """One base in this kernel, and the runs under `root`, which the Studio and the terminal can watch too.

    `model` is a folder or Hub id (None: the tiny world's base). A second workbench on the same directory takes the
    place of the first. All that touches the model happens in one worker thread.
    """

    def __init__(
        self,
        root: Path | str,
        model: str | Path | None = None,
        *,
        bits: int = 4,
        device: str = "auto",
        adapter: Adapter | None = None,
    ) -> None:
        from lab import tiny
        from lab.base import SharedBase
        from lab.client import EngineClient
        from lab.config import Adapter
        from lab.desk import Desk
        from lab.engine import Engine
        from lab.machine import limit_threads
        from lab.worker import default_worker

        self.root = Path(root).absolute()
        if (former := _OPEN.get(self.root)) is not None:
            former.close()
        limit_threads()
        # PEFT asks transformers by a name that is about to go, once for every role.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        source = tiny.CHECKPOINT if model is None else model
        self.world = "tiny" if Path(source) == tiny.CHECKPOINT else ""
        worker = default_worker()
        self.base = worker.submit(lambda: SharedBase.load(source, bits, device)).result()
        self.adapter = adapter or Adapter()
        self.desk = Desk(self.root, self.base, self.world)
        self.engine = Engine(self.root, self.desk.handlers(), worker=worker).start()
        self.client = EngineClient(self.root)
        _OPEN[self.root] = self
        atexit.register(self.close)

    def new(
        self,
        method: str,
        config: Any,
        records: Sequence[Any],
        starts: Mapping[str, Run | str] | None = None,
        *,
        name: str = "",
        title: str = "",
        probes: Sequence[str] | None = None,
        rewards: Sequence[str] = (),
    ) -> Run:
        """A new run; nothing is played yet.

        `starts` names what each part begins as, a run (its last checkpoint) or "run@step": {"policy": sft,
        "reward": judge} for PPO. `probes` are asked at intervals (None: the tiny world's own twelve). `rewards` are
        what a completion earns where no reward model says it: verifiers ("number"), or "path/to/file.py:function".
        """
        from lab import launch, tiny

        asked = tuple(probes) if probes is not None else tiny.PROBES if self.world == "tiny" else ()
        setup = launch.Setup(self.base.source, self.base.bits, adapter=self.adapter, world=self.world, probes=asked,
                             rewards=tuple(rewards))  # fmt: skip
        found = {part: launch.find_role(self.root, self._name(start)) for part, start in (starts or {}).items()}
        return launch.new_run(self.root, method, config, setup, records,
                              {part: folder for part, (folder, _) in found.items()}, name=name, title=title,
                              parents={part: where for part, (_, where) in found.items()})  # fmt: skip

    def play(self, run: Run | str, steps: int | None = None) -> LiveRun:
        """Opens a run, plays it (`steps`: that many, then it pauses) and gives back its live view.

        One run plays at a time: another one that is open here is stopped at its next safe point, with a checkpoint.
        """
        run_id = self._name(run)
        for other in tuple(self.engine.sessions.values()):
            if other.run.id != run_id:
                other.close()
        session = self.engine.open(run_id)
        live = LiveRun(session.run, session, self.client)
        return live.play() if steps is None else live.step(steps)

    def watch(self, run: Run | str) -> LiveRun:
        """The live view of a run, whatever it is doing."""
        run_id = self._name(run)
        return LiveRun(self.root / run_id, self.engine.sessions.get(run_id), self.client)

    def ask(
        self,
        prompts: str | Sequence[str],
        roles: Mapping[str, Run | str],
        *,
        temperature: float = 1.0,
        seed: int = 0,
        max_new_tokens: int = 0,
    ) -> SideBySide:
        """Answers of several roles ("base", a run, "run@step") with the same noise: what differs, the policy did.

        `roles` maps the shown name to the role. Raises PromptError for words the tiny world does not know.
        """
        asked = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        return self.engine.worker.submit(lambda: self._ask(asked, roles, temperature, seed, max_new_tokens)).result()

    def sampler(
        self,
        roles: Mapping[str, Run | str],
        prompt: str = "",
        *,
        temperature: float = 1.0,
        length: int = 32,
        seed: int = 0,
    ) -> Sampler:
        """A prompt box and a column a role, up to four at once, with the same noise for all.

        `roles` maps the shown name to the role ("base", a run, "run@step"). Works while a run plays.
        """
        from lab.notebook.sampler import Sampler

        named = {shown: self._name(role) for shown, role in roles.items()}
        return Sampler(self.client, named, prompt, temperature=temperature, length=length, seed=seed)

    def compare(
        self, run: Run | str, annotator: str, prompts: Sequence[Prompt], n: int, *, per_prompt: int = 2, seed: int = 0
    ) -> Comparisons:
        """`n` pairs of a role's own answers, judged by one of the tiny world's simulated annotators."""
        from lab import tiny
        from lab.feedback.annotate import compare

        return self.engine.worker.submit(lambda: compare(
            self.base, self.desk.role(self._name(run)), prompts, tiny.ANNOTATORS[annotator], n,
            max_new_tokens=tiny.MAX_NEW_TOKENS, seed=seed, per_prompt=per_prompt)).result()  # fmt: skip

    def measure(
        self,
        roles: Mapping[str, Run | str],
        *,
        reward: Run | str | None = None,
        reference: str = "SFT",
        n: int = 300,
        seed: int = 1,
    ) -> Scoreboard:
        """The roles on `n` held-out prompts of the tiny world; KL and wins are against `reference`, a shown name.

        `reward` is the reward model that scores the answers too, where there is one.
        """
        from lab import tiny
        from lab.evaluate.table import compare_roles

        prompts = [p.prompt for p in tiny.heldout_prompts(n)]

        def call() -> list[Row]:
            names = {shown: self.desk.role(self._name(role)) for shown, role in roles.items()}
            judge = None if reward is None else self.desk.role(self._name(reward))
            return compare_roles(self.base, prompts, names, tiny.gold, reward=judge, reference=names[reference],
                                 against=reference, max_new_tokens=tiny.MAX_NEW_TOKENS, seed=seed)  # fmt: skip

        return Scoreboard(tuple(self.call(call)))

    def role(self, run: Run | str) -> str:
        """The role on `base` that a run has trained, loaded if it is not there; for functions that take a base."""
        return self.call(lambda: self.desk.role(self._name(run)))

    def call(self, work: Callable[[], T]) -> T:
        """What `work` gives back, done in the worker thread: whatever touches `base` belongs there."""
        return self.engine.worker.submit(work).result()

    def close(self) -> None:
        """Stops the runs with checkpoints and lets go of the model."""
        if _OPEN.get(self.root) is self:
            del _OPEN[self.root]
            atexit.unregister(self.close)
            self.engine.close()

    def _repr_html_(self) -> str:
        return about(self)

    def __repr__(self) -> str:
        return f"Workbench({self.root.name}, {Path(self.base.source).name}, {self.base.bits} bits, {self.base.device})"

    def _ask(
        self, asked: tuple[str, ...], roles: Mapping[str, Run | str], temperature: float, seed: int, longest: int
    ) -> SideBySide:
        from lab import launch, tiny
        from lab.desk import PromptError
        from lab.probes import describe
        from lab.records import Message
        from lab.sample import sample

        if self.world == "tiny":
            longest = longest or tiny.MAX_NEW_TOKENS
            for text in asked:
                if unknown := tiny.unknown_words(text):
                    raise PromptError(unknown, tiny.suggestions(text))
        names = {shown: self.desk.role(self._name(role)) for shown, role in roles.items()}
        plain = self.base.chat.template is None
        prompts = [text if plain else (Message("user", text),) for text in asked]
        rollouts = sample(self.base, prompts, tuple(names.values()), temperature=temperature,
                          max_new_tokens=longest or 64, seed=seed)  # fmt: skip
        gold = launch.truth(launch.Setup(self.base.source, world=self.world))
        known = describe(self.base, rollouts, gold, reward=self.desk.reward(), temperature=temperature)
        n = len(asked)
        return SideBySide(asked, {shown: known[i * n : (i + 1) * n] for i, shown in enumerate(names)})

    @staticmethod
    def _name(run: Run | str) -> str:
        return run if isinstance(run, str) else run.id


def about(bench: Workbench) -> str:
    """Version, device, memory, threads and where the runs are, as one line of HTML."""
    from importlib.metadata import version

    import torch

    device = bench.base.device
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        where = f"{torch.cuda.get_device_name(device)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    else:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
        where = f"CPU with {torch.get_num_threads()} threads, {pages / 2**30:.0f} GiB of memory"
    weights = sum(p.numel() for p in bench.base.model.parameters())
    model = "the tiny world’s base" if bench.world == "tiny" else bench.base.source
    mode = "live widgets" if front_end() else "text, without widgets"
    return (
        f'<div style="color:{cards.INK};border-left:3px solid {cards.ACCENT};padding:4px 12px;line-height:1.6">'
        f"<b>rlhf-lab {escape(version('rlhf-lab'))}</b> · torch {escape(torch.__version__)} · {escape(where)} · {mode}"
        f"<br>{escape(model)}, {weights / 1e6:.1f} million stored numbers, {bench.base.bits} bits<br>"
        f'<span style="color:{cards.FAINT}">see the same runs in the Studio: '
        f"<code>lab studio --runs {escape(os.path.relpath(bench.root))}</code></span></div>"
    )
