"""From what a person asks for to a run on disk: the one way of the terminal's commands and of the Studio's form.

    prepare(root, order, ground)  reads the data, finds the adapters, makes the reward programs; writes nothing
    Ready.make(root)              the run directory, with everything the run needs inside; nothing is played yet

What is refused is refused by `prepare`, so that no half-made run is left behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab import asking, earning, launch
from lab.columns import DataError, Kind, Rows
from lab.config import Adapter, ConfigError
from lab.data import read
from lab.feedback.verifiers import VERIFIERS, VerifierError
from lab.launch import Setup
from lab.records import prompt_text
from lab.runs import Run, RunError
from lab.tiny.sources import PREFIX, records

OF_A_RUN = "run:"
"""`run:sft-1` stands for the data that run learnt from."""

LABELS = "labels:"
"""`labels:labels.sqlite` stands for what people said in that label store (`lab.feedback.labels.learning`)."""

PROBES = 6
"""How many prompts of the data are asked at intervals where nobody names others."""

Found = Mapping[str, tuple[Path, dict[str, Any]]]
"""Part -> the folder of its adapter, and where it came from."""


@dataclass(frozen=True)
class Order:
    """A run as it is asked for.

    config  : the method's settings
    data    : a file, a folder, a Hub id, `run:name` (what that run learnt from), `labels:FILE-or-URL` (what people said
              of pairs), or `tiny:…` in the tiny world
    init    : a run, run@step or adapter folder to start from; empty: the base
    rewards : what a completion earns, each as [weight*]what: a run, run@step or adapter folder, a verifier,
              path/to/file.py:function, or model:folder-or-id
    name    : of the run; empty: method and number
    probes  : user turns asked at intervals; empty: those of the run it starts from, or the first prompts of the data
    asks    : who answers where the run asks, as `lab.asking.answerer` takes it; empty: whoever does
    """

    method: str
    config: Any
    data: str
    adapter: Adapter = field(default_factory=Adapter)
    init: str = ""
    rewards: tuple[str, ...] = ()
    name: str = ""
    probes: tuple[str, ...] = ()
    asks: str = ""


@dataclass(frozen=True)
class Ready:
    """An order of which everything was read and found."""

    order: Order
    setup: Setup
    rows: Rows[Any]
    found: Found

    def make(self, root: Path | str) -> Run:
        """The run's directory. Raises RunError when its name is taken."""
        order = self.order
        return launch.new_run(root, order.method, order.config, self.setup, self.rows.some(),
                              {part: folder for part, (folder, _) in self.found.items()}, name=order.name,
                              parents={part: where for part, (_, where) in self.found.items()})  # fmt: skip

    def left_out(self) -> list[str]:
        """A sentence for each reason for which rows of the data are not used."""
        return [f"left out {e.count}: {e.reason} ({'; '.join(e.rows)})" for e in self.rows.events()]


def prepare(root: Path | str, order: Order, ground: Setup | None = None) -> Ready:
    """Everything a run is made from, or the first thing that is missing; nothing is written.

    ground : the model and the world to stand on; None: those of the runs it starts from

    Raises ConfigError, DataError, RunError or VerifierError with the cause; its `payload["at"]` says what it is about:
    data, init, rewards or asks.
    """
    with _about("init"):
        found: dict[str, Any] = {}
        if order.init:
            found[launch.PARTS[order.method]] = launch.find_role(root, order.init)
    with _about("rewards"):
        if launch.earns(order.method, order.config) and not order.rewards:
            raise ConfigError("Nothing says what a completion earns; give a reward model, a verifier or a program.")
        earned, judges = judged(order.rewards)
        for part, text in judges.items():
            found[part] = launch.find_role(root, text)
            found |= launch.members(part, found[part])
    setup = _ground(root, [where for _, where in found.values()], ground)
    with _about("data"):
        rows = rows_of(root, order.data, launch.kind_of(order.method, order.config), order.config.seed, setup.world)
        some = rows.some()
    with _about("rewards"):
        _columns(earned, some)
    with _about("asks"):
        asks = _asked(root, order, setup.world)
    probes = order.probes or setup.probes or tuple(dict.fromkeys(prompt_text(r.prompt) for r in some[:200]))[:PROBES]
    setup = replace(setup, adapter=order.adapter, rewards=earned, probes=probes, asks=asks)
    return Ready(order, setup, rows, found)


def judged(texts: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The rewards as a run's setup writes them down, and part -> run or folder of each reward model among them.

    Reward programs are made here once, so that one that cannot work is refused before a model is loaded.
    """
    written: list[str] = []
    judges: dict[str, str] = {}
    for text in texts:
        weight, what = earning.parse(text)
        if ".py:" in what:
            what = str(Path(what).absolute())
        if what.startswith(earning.SCORE):
            who = what.removeprefix(earning.SCORE)
            if who != "base":
                part = f"scorer{sum(name.startswith('scorer') for name in judges) or ''}"
                judges[part], what = who, f"{earning.SCORE}{part}"
        elif earning.is_program(what):
            if not what.startswith("model:"):
                earning.program(what)
        else:
            models = sum(name.startswith("reward") for name in judges)
            part = f"reward{models + 1}" if models else "reward"
            judges[part], what = what, part
        written.append(f"{weight:g}*{what}" if weight != 1 else what)
    return tuple(written), judges


def _asked(root: Path | str, order: Order, world: str) -> str:
    """Who answers, with whole paths. Raises ConfigError where nobody is asked, and what a judge that is none raises."""
    if not order.asks:
        return ""
    if getattr(order.config, "judge", "") != "asked":
        raise ConfigError(f"{order.asks} would answer, but the run does not ask; give --judge asked.")
    return asking.checked(order.asks, root, world)


def rows_of(root: Path | str, text: str, kind: Kind, seed: int, world: str) -> Rows[Any]:
    """The records that a name of data stands for. Raises DataError, and RunError for the data of an unknown run."""
    if text.startswith(PREFIX):
        if world != "tiny":
            raise DataError(f"{text} is data of the tiny world, and this model does not come from there; give a file.")
        return Rows(tuple(records(text, kind, seed)))
    if text.startswith(LABELS):
        from lab.feedback.labels.learning import records as labelled

        return labelled(text.removeprefix(LABELS), kind)
    if text.startswith(OF_A_RUN):
        run = Run.open(Path(root) / text.removeprefix(OF_A_RUN))
        return read(run.path / "inputs" / "data.jsonl", kind)
    path = Path(text).expanduser()
    if not path.exists() and (path.suffix or text.startswith((".", "/", "~"))):
        raise DataError(f"There is no file or folder {text}.")
    return read(text, kind)


def _ground(root: Path | str, parents: Sequence[Mapping[str, Any]], ground: Setup | None) -> Setup:
    """The model and the world, those given before those of the first run among the parents, and that run's probes."""
    runs = [Run.open(Path(root) / where["run"]) for where in parents if "run" in where]
    inherited = launch.setup_of(runs[0]) if runs else None
    if ground is not None:
        return replace(ground, probes=inherited.probes if inherited else ground.probes)
    if inherited is None:
        raise ConfigError("No base model is named: give --model a folder or Hub id, or --init a run that has one.")
    return inherited


def ground_of(root: Path | str, where: Mapping[str, Any], ground: Setup | None) -> Setup:
    """The model that an adapter which was found there stands on: the one given, or else its run's."""
    return _ground(root, [where], ground)


def _columns(rewards: Sequence[str], rows: Sequence[Any]) -> None:
    """Refuses prompts without the columns that a verifier reads."""
    for text in rewards:
        name, _, options = earning.parse(text)[1].partition("?")
        for column in VERIFIERS[name].needs if name in VERIFIERS else ():
            lacking = sum(column not in row.columns for row in rows)
            if lacking and f"{column}=" not in options:
                raise ConfigError(
                    f"{name} reads the column {column}, which {lacking} of {len(rows)} prompts lack; give it as a "
                    "column of the data."
                )


@contextmanager
def _about(part: str) -> Iterator[None]:
    """Says of an error what it is about, for whoever shows it."""
    try:
        yield
    except (ConfigError, DataError, RunError, VerifierError) as error:
        vars(error).setdefault("payload", {"at": part})
        raise
