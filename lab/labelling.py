"""`lab label …`: pairs into a label store, judgements out of it, figures of it, and the page on which people judge."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab.commands import ground, load, root_option

if TYPE_CHECKING:
    from lab.feedback.labels.store import Store
    from lab.feedback.labels.summary import Summary
    from lab.records import Rollout

PORT = 7870
MAKERS = ("person", "judge", "annotator", "reward_model", "constitution")
"""Who can have judged; as `lab.feedback.labels.words` has them, which is imported when it is needed."""

CAPTION = ("kept: the same choice when the pair came back the other way round · gold: known answers met · "
           "first: chose what stood first · quick: in less than 1.5 s")  # fmt: skip
"""Under the table of annotators."""

store_option = click.option(
    "--store", "where", default="labels.sqlite", show_default=True, metavar="FILE|URL",
    help="the label store: a SQLite file, or a URL such as postgresql+psycopg://host/name",
)  # fmt: skip
"""Where the labels are."""


def _open(where: str, *, create: bool = False, **more: Any) -> Store:
    from lab.feedback.labels.store import Store

    return Store.open(where, create=create, **more)


@click.group()
def label() -> None:
    """Preference labels: pairs to judge, the page on which people judge them, and what they said."""


# --- in --------------------------------------------------------------------------------------------------------------


@label.command()
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--roles", default="", help="instead of files: a run, run@step, base, or several separated by commas, "
              "whose answers are compared; one role gives two samples a prompt")  # fmt: skip
@click.option("--data", default="", help="prompts for the roles: a column `prompt` or `messages`; tiny:heldout in the "
              "tiny world")  # fmt: skip
@click.option("--limit", default=100, type=click.IntRange(min=0), show_default=True, help="prompts; 0: all")
@click.option("--max-new-tokens", default=64, show_default=True, help="longest completion [tokens]")
@click.option("--temperature", default=1.0, show_default=True, help="sampling temperature")
@click.option("--seed", default=0, show_default=True, help="of the samples")
@click.option("--model", default="", help="folder or Hub id of the base model, or tiny (with a run: that run's)")
@click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="4", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@click.option("--leave-out", is_flag=True, help="leave lines that cannot be used out, instead of adding nothing")
@store_option
@root_option
def add(files: tuple[Path, ...], leave_out: bool, where: str, **given: Any) -> None:
    """Adds pairs to be judged: from FILES of comparisons (prompt, completion_a, completion_b; with `answer`: gold
    pairs) or of preferences (chosen, rejected; the verdict is not told), or from the samples of roles."""
    from lab.feedback.labels.importing import import_file

    if bool(files) == bool(given["roles"]) or bool(given["roles"]) != bool(given["data"]):
        raise click.UsageError("Give files, or --roles together with --data.")
    new = known = 0
    with _open(where, create=True) as store:
        for file in files:
            found = import_file(store, file, votes=False, leave_out=leave_out, source={"file": file.name})
            _name_left_out(file, found.left_out)
            new, known = new + found.items, known + found.known
        if given["roles"]:
            from lab.feedback.labels.words import Item, LabelError

            made, unfit = [], 0
            for pair, source in _sampled(given):
                try:
                    made.append(Item(pair, source=source))
                except LabelError:
                    unfit += 1
            new = store.add(made)
            known = len(made) - new
            if unfit:
                click.echo(f"{unfit} pairs of equal, empty or unreadable answers were left out", err=True)
    click.echo(f"{new} new pairs in {where}" + (f"; {known} were there already" if known else ""))


def _sampled(given: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Comparisons of the roles' answers to the same prompts, each with where it comes from."""
    from rich.console import Console

    from lab import launch, making
    from lab.desk import Desk
    from lab.runs import Run
    from lab.sample import sample
    from lab.worker import default_worker

    names = tuple(dict.fromkeys(r.strip() for r in given["roles"].split(",") if r.strip()))
    runs = [
        Run(path)
        for n in names
        if (path := Path(given["root"]) / n.partition("@")[0]).joinpath("config.json").is_file()
    ]
    setup = launch.setup_of(runs[0]) if runs and not given["model"] else ground(given)
    rows = making.rows_of(given["root"], given["data"], "prompt", given["seed"], setup.world).some()
    prompts = [row.prompt for row in rows[: given["limit"] or None]]
    desk = Desk(given["root"], load(setup, given["device"]), setup.world)

    def answers() -> list[Rollout]:
        return sample(desk.base, prompts, [desk.role(n) for n in names], temperature=given["temperature"],
                      max_new_tokens=given["max_new_tokens"], seed=given["seed"],
                      per_prompt=2 if len(names) == 1 else 1)  # fmt: skip

    with Console(stderr=True).status("sampling"):
        found = default_worker().submit(answers).result()
    if len(names) == 1:
        return [_pair(a, b, names * 2, given) for a, b in zip(found[::2], found[1::2], strict=True)]
    by_role = [found[i * len(prompts) : (i + 1) * len(prompts)] for i in range(len(names))]
    sides = itertools.combinations(zip(names, by_role, strict=True), 2)
    return [_pair(a, b, (m, n), given) for (m, left), (n, right) in sides for a, b in zip(left, right, strict=True)]


def _pair(a: Rollout, b: Rollout, names: tuple[str, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from lab.records import Comparison

    source = {
        "by": "lab label add",
        "a": names[0],
        "b": names[1],
        "temperature": given["temperature"],
        "seed": given["seed"],
    }
    return Comparison(a.prompt, a.completion, b.completion, (a.ended, b.ended)), source


@label.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--annotator", default="", help="who judged, where the lines do not say")
@click.option("--by", "made_by", type=click.Choice(MAKERS), default="person", show_default=True, help="what they are")
@click.option("--leave-out", is_flag=True, help="leave lines that cannot be used out, instead of importing nothing")
@store_option
def import_(file: Path, annotator: str, made_by: Any, leave_out: bool, where: str) -> None:
    """Brings judgements in: an export of events; comparisons with a `verdict` (a, b, tie, both_bad) and perhaps a
    `strength`; or preferences (chosen, rejected). All of it or nothing; the lines that are wrong are named."""
    from lab.feedback.labels.importing import import_file

    with _open(where, create=True) as store:
        found = import_file(store, file, annotator=annotator, made_by=made_by, leave_out=leave_out,
                            source={"file": file.name})  # fmt: skip
    _name_left_out(file, found.left_out)
    known = f"; {found.known} were there already" if found.known else ""
    click.echo(f"{found.items} new pairs and {found.events} new events in {where}{known}")


def _name_left_out(file: Path, faults: tuple[Any, ...]) -> None:
    for fault in faults[:10]:
        click.echo(f"left out: {file}, line {fault.line}: {fault.reason}", err=True)
    if len(faults) > 10:
        click.echo(f"left out: {len(faults) - 10} more lines", err=True)


@label.command()
@click.option("--reward", required=True, metavar="RUN", help="a run of lab reward, run@step or adapter folder; an "
              "ensemble says where its members disagree")  # fmt: skip
@click.option("--model", default="", help="folder or Hub id of the base model, or tiny (default: the run's)")
@click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="4", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@store_option
@root_option
def rate(reward: str, where: str, **given: Any) -> None:
    """Says how unsure a reward model is about every pair that still wants votes: the least sure are shown first."""
    from lab import launch, making
    from lab.feedback.uncertainty import read, uncertainty
    from lab.saving import load_role
    from lab.worker import default_worker

    with _open(where) as store:
        pairs = [i.comparison for i in store.items() if not i.withdrawn and not i.gold]
        if not pairs:
            raise click.ClickException(f"There is no pair in {where}; `lab label add` puts some in.")
        found = {"reward": launch.find_role(given["root"], reward)}
        found |= launch.members("reward", found["reward"])
        setup = making.ground_of(given["root"], found["reward"][1], ground(given))
        base = load(setup, given["device"])

        def known() -> list[float]:
            for part, (folder, _) in found.items():
                load_role(base, folder, part)
            if any(not base.role(part).head for part in found):
                raise click.ClickException(f"{reward} has no reward head; name a run of lab reward.")
            return uncertainty(read(base, list(found), pairs)).tolist()

        values = default_worker().submit(known).result()
        at = found["reward"][1]
        key = f"{at['run']}@{at['step']}" if "run" in at else reward
        new = store.rate({c.id: u for c, u in zip(pairs, values, strict=True)}, reward, key)
    how = f"{len(found)} members" if len(found) > 1 else "one model"
    click.echo(f"{new} of {len(pairs)} pairs rated by {how}, {min(values):.2f} to {max(values):.2f}; the least sure "
               "come first from now on")  # fmt: skip


# --- out -------------------------------------------------------------------------------------------------------------


@label.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--format", "kind", type=click.Choice(["preferences", "ratings", "events"]), default="preferences",
              show_default=True, help="pairs for `lab reward` and `lab dpo`, thumbs for `lab kto`, or everything that "
              "was said, to be imported elsewhere")  # fmt: skip
@click.option("--split", type=click.Choice(["training", "evaluation", "all"]), default="training", show_default=True)
@click.option("--by", "makers", type=click.Choice(MAKERS), multiple=True, default=("person",), show_default=True,
              help="whose votes; may be repeated")  # fmt: skip
@click.option("--annotator", default="", help="the votes of this one alone")
@click.option("--ties", is_flag=True, help="pairs at one half too")
@click.option("--margin", default=0.5, type=click.FloatRange(min=0), show_default=True, help="gap asked for by one "
              "step of strength, much better being two [reward]; 0: none")  # fmt: skip
@store_option
def export(out: Path, kind: str, split: Any, makers: tuple[Any, ...], annotator: str, ties: bool, margin: float,
           where: str) -> None:  # fmt: skip
    """Writes OUT, JSON lines: a row for every judged pair, its share of the votes as a soft label; or every event."""
    from lab.feedback.labels import exporting

    if out.exists():
        raise click.ClickException(f"{out} is there already; give another name.")
    if not out.absolute().parent.is_dir():
        raise click.ClickException(f"There is no folder {out.absolute().parent}.")
    with _open(where) as store:
        if kind == "events":
            told = exporting.export_events(store, out)
            click.echo(f"{told['item']} pairs, {told['annotator']} annotators and {told['event']} events in {out}")
            return
        found = exporting.tallies(store, part=split, made_by=makers, annotator=annotator)
    rows: Any = exporting.ratings(found) if kind == "ratings" else exporting.preferences(found, ties=ties, unit=margin)
    if not rows:
        raise click.ClickException(f"No pair of the {split} split in {where} has votes that prefer a side yet.")
    (exporting.write_ratings if kind == "ratings" else exporting.write_preferences)(rows, out)
    click.echo(f"{len(rows)} rows from {len(found)} judged pairs in {out}")


@label.command()
@click.option("--json", "as_json", is_flag=True, help="print one JSON object instead")
@store_option
def stats(as_json: bool, where: str) -> None:
    """What a store holds: pairs, votes, how many votes a pair has, what every annotator did, and how far they agree."""
    from rich.console import Console

    from lab.feedback.labels.summary import summary

    with _open(where) as store:
        found, agreement = summary(store), _agreement(store)
    if as_json:
        figures = {name: {"mean": e.mean, "low": e.low, "high": e.high, "n": e.n, "why": e.why} for name, e in
                   agreement.items()}  # fmt: skip
        click.echo(json.dumps(asdict(found) | {"agreement": figures}, ensure_ascii=False))
    else:
        _show(Console(), found, agreement)


def _agreement(store: Store) -> dict[str, Any]:
    """How far people agree, by figure."""
    from lab.evaluate.agreement import krippendorff, raw_agreement
    from lab.evaluate.room import marks as said

    marks = said(store)
    sides: list[Any] = [replace(m, value="a" if m.strength > 0 else "b" if m.strength < 0 else "tie") for m in marks]
    return {"raw agreement": raw_agreement(sides), "Krippendorff's α, sides": krippendorff(sides, symmetric=True),
            "Krippendorff's α, strengths": krippendorff(marks, "ordinal", symmetric=True)}  # fmt: skip


def _show(console: Any, found: Summary, agreement: dict[str, Any]) -> None:
    from rich.table import Table

    spread = ", ".join(f"{n} with {votes} vote{'' if votes == 1 else 's'}" for votes, n in found.overlap.items())
    console.print(f"{found.items} pairs: {found.training} for training, {found.evaluation} for evaluation, "
                  f"{found.gold} gold, {found.withdrawn} withdrawn")  # fmt: skip
    console.print(f"{found.votes} votes stand, out of {found.events} events; {spread or 'nothing to judge'}")
    words = "annotator is votes skips undone kept gold first quick median".split()
    table = Table(*words, box=None, pad_edge=False, header_style="bold", caption_justify="left", caption=CAPTION)
    for p in found.annotators:
        share = [f"{part} of {whole}" if whole else "–" for part, whole in
                 ((p.kept, p.again), (p.right, p.gold), (p.first, p.sided), (p.quick, p.votes))]  # fmt: skip
        took = "–" if p.median_ms is None else f"{p.median_ms / 1000:.1f} s"
        table.add_row(p.name, p.made_by.replace("_", " "), str(p.votes), str(p.skips), str(p.undone), *share, took)
    if found.annotators:
        console.print(table)
    for name, estimate in agreement.items():
        console.print(f"{name}: {estimate}")


# --- the page --------------------------------------------------------------------------------------------------------


@label.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="the address to listen on")
@click.option("--port", default=PORT, show_default=True, help="of the page; 0 takes a free one")
@click.option("--expose", is_flag=True, help="let other machines in (listens on every address); wants --code")
@click.option("--code", default="", help="what people type to come in, six characters or more")
@click.option("--overlap", type=click.IntRange(min=1), default=None, help="votes wanted of every pair")
@click.option("--gold", type=click.FloatRange(0, 0.5), default=None, help="share of the showings that are gold pairs")
@click.option(
    "--repeats", type=click.FloatRange(0, 0.4), default=None, help="share of the showings that are flipped repeats"
)
@click.option(
    "--lease", "lease_s", type=click.FloatRange(min=1), default=None, help="how long a pair waits for its vote [s]"
)
@store_option
def serve(host: str, port: int, expose: bool, code: str, where: str, **changed: Any) -> None:
    """The page on which people judge: one after the other, blind, by key or by thumb. Rules that are given are kept."""
    import ipaddress

    from lab.label_server import LabelServer

    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not expose:
        raise click.UsageError(f"{host} is open to other machines; say so with --expose, which wants a --code.")
    with _open(where, create=True) as store:
        rules = replace(store.rules, **{name: value for name, value in changed.items() if value is not None})
        server = LabelServer(store, code=code, exposed=expose)
        if rules != store.rules:
            store.rule(rules)
        if not store.progress()["wanted"]:
            click.echo(
                f"There are no pairs in {where} yet; `lab label add` brings some, also while this runs.", err=True
            )
        server.serve("0.0.0.0" if expose and loopback else host, port,
                     lambda address: click.echo(f"Labelling at {address}; stop with Ctrl-C."))  # fmt: skip
