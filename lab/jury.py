"""`lab judge`: pairs of answers judged in both orders, how the judge judges, and how far it agrees with the file.

Several judges are put side by side. Where the pairs have labels (a chosen and a rejected one), those are the people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab.commands import ground, load, root_option

if TYPE_CHECKING:
    from lab.evaluate.agreement import Estimate
    from lab.evaluate.people import Standing
    from lab.feedback.judging import Habits, Judge, Judged
    from lab.judges import Manner
    from lab.records import Comparison


@click.command("judge")
@click.option("--judge", "judges", multiple=True, required=True, metavar="WHO",
              help="base, a run, run@step or adapter folder; generate:ROLE; reward:RUN; endpoint:MODEL@ADDRESS; in the "
              "tiny world also gold, annotator:NAME, reaction:ROLE; may be repeated")  # fmt: skip
@click.option("--pairs", "data", required=True, help="prompt, chosen, rejected (their labels are compared), or prompt, "
              "a, b; run:NAME is what a run learned from")  # fmt: skip
@click.option("--model", default="", help="folder or Hub id of the base model, or tiny (default: that of the judge's "
              "run)")  # fmt: skip
@click.option("--out", default=None, type=click.Path(dir_okay=False, path_type=Path),
              help="where the preferences go: .jsonl")  # fmt: skip
@click.option("--store", default="", help="a label store that the verdicts go to as well: labels.sqlite, or an address")
@click.option("--soft", is_flag=True, help="keep how sure the judge is, instead of a choice or a tie")
@click.option("--ties", is_flag=True, help="keep ties as preferences at ½")
@click.option("--question", default="", help="what is asked about the two answers, for instance a principle")
@click.option("--limit", default=0, type=click.IntRange(min=0), show_default=True, help="pairs, the first; 0: all")
@click.option("--temperature", default=0.0, show_default=True, help="of a judge that writes; 0: the most probable")
@click.option("--max-new-tokens", default=256, type=click.IntRange(min=1), show_default=True,
              help="longest judgement [tokens]")  # fmt: skip
@click.option("--key-env", default=None, help="environment variable with an endpoint's key; empty: it wants none "
              "(default: OPENAI_API_KEY, none on this machine)")  # fmt: skip
@click.option("--price", nargs=2, default=(0.0, 0.0), show_default=True, metavar="READ WRITTEN",
              help="an endpoint's price [per million tokens read and written]")  # fmt: skip
@click.option("--timeout", default=60.0, show_default=True, help="for one try of an endpoint [s]")
@click.option("--retries", default=4, type=click.IntRange(min=0), show_default=True, help="further tries")
@click.option("--at-once", default=8, type=click.IntRange(min=1), show_default=True, help="requests under way together")
@click.option("--logprobs", is_flag=True, help="read an endpoint's probabilities of A and B instead of its words")
@click.option("--seed", default=0, show_default=True, help="of what is written, and of the intervals")
@click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="4", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:n")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object instead")
@root_option
def judge_pairs(**given: Any) -> None:
    """Verdicts on pairs of answers by a model, a reward or an endpoint, in both orders."""
    from rich.console import Console

    from lab.data import write_jsonl
    from lab.feedback import judging
    from lab.judges import Manner
    from lab.worker import default_worker

    _check(given)
    manner = Manner(**{k: given[k] for k in ("question", "temperature", "max_new_tokens", "seed", "key_env", "price",
                                             "timeout", "retries", "at_once", "logprobs")})  # fmt: skip
    base, world = _stage(given)
    pairs, labels = _pairs(given, world)
    console = Console(stderr=True)
    found: dict[str, Sequence[Judged]] = {}
    costs: dict[str, float] = {}
    for text in given["judges"]:
        with console.status(f"asking {text}"):
            who, found[text] = default_worker().submit(
                lambda text=text: _judged(text, base, given, world, manner, pairs)).result()  # fmt: skip
        costs[text] = _cost(who, judging.habits(found[text]))
    made = judging.preferences(found[given["judges"][0]], ties=given["ties"])
    if given["out"] and made:
        write_jsonl(made, given["out"])
    stored = {text: _stored(text, judged, given) for text, judged in found.items()} if given["store"] else {}
    habits = {text: judging.habits(judged) for text, judged in found.items()}
    standings = _standings(found, labels, given["seed"])
    if given["as_json"]:
        told = _json(habits, standings, costs, found, len(made)) | ({"stored": stored} if stored else {})
        click.echo(json.dumps(told, ensure_ascii=False))
    else:
        console = Console()
        console.print(habits_table(habits, costs))
        if standings:
            console.print(standings_table(standings))
        for sentence in _notes(given, found, made, standings, stored):
            console.print(sentence, markup=False)
    if given["out"] and not made:
        raise judging.JudgeError(f"{given['judges'][0]} prefers nothing, so {given['out']} is not written.")


def _check(given: Mapping[str, Any]) -> None:
    """Refuses what cannot be done before anything is loaded or paid for."""
    from lab.judges import parse

    if len(set(given["judges"])) < len(given["judges"]):
        raise click.ClickException("A judge is named twice; name each once.")
    for text in given["judges"]:
        parse(text)
    out = given["out"]
    if out and len(given["judges"]) > 1:
        raise click.ClickException("--out takes the preferences of one judge; name one.")
    if out and out.exists():
        raise click.ClickException(f"{out} is there already; give another name.")
    if out and not out.absolute().parent.is_dir():
        raise click.ClickException(f"There is no folder {out.absolute().parent}.")
    if given["store"]:
        from lab.feedback.labels.store import Store

        Store.open(given["store"]).close()


def _stage(given: dict[str, Any]) -> tuple[Any, str]:
    """(the base, or None where no judge is asked on one; the name of the world)."""
    from lab import launch
    from lab.config import ConfigError
    from lab.judges import needs_base, origin
    from lab.runs import Run

    setup = ground(given)
    for text in given["judges"]:
        where = origin(given["root"], text)
        if setup is None and where and "run" in where:
            setup = launch.setup_of(Run.open(Path(given["root"]) / where["run"]))
    if any(needs_base(text) for text in given["judges"]):
        if setup is None:
            raise ConfigError("No base model is named: give --model a folder or Hub id, or a judge that is a run.")
        return load(setup, given["device"]), setup.world
    known = [text for text in given["judges"] if text == "gold" or text.startswith("annotator:")]
    return None, setup.world if setup else "tiny" if known else ""


def _pairs(given: Mapping[str, Any], world: str) -> tuple[list[Comparison], list[float | None]]:
    """The comparisons, and for each the share of people who prefer its first; None where the file does not say."""
    from lab.columns import DataError
    from lab.data import read
    from lab.making import rows_of
    from lab.records import Comparison

    limit = given["limit"] or None
    try:
        rows = rows_of(given["root"], given["data"], "preference", given["seed"], world).some()[:limit]
        return [Comparison(p.prompt, p.chosen, p.rejected) for p in rows], [p.label for p in rows]
    except DataError as error:
        if not Path(given["data"]).is_file():
            raise
        try:
            plain = read(given["data"], "prompt").some()[:limit]
        except DataError:
            raise error from None
        if not all(isinstance(row.columns.get(side), str) for row in plain for side in ("a", "b")):
            raise
        return [Comparison(row.prompt, row.columns["a"], row.columns["b"]) for row in plain], [None] * len(plain)


def _judged(
    text: str, base: Any, given: Mapping[str, Any], world: str, manner: Manner, pairs: Sequence[Comparison]
) -> tuple[Judge, list[Judged]]:
    from lab.feedback.judging import judge
    from lab.judges import make_judge

    who = make_judge(text, base, root=given["root"], world=world, manner=manner)
    return who, judge(who, pairs, soft=given["soft"])


def _stored(text: str, judged: Sequence[Judged], given: Mapping[str, Any]) -> int:
    """Adds the pairs and the verdicts to the label store; how many votes were new.

    A judge votes once on a pair; with another question it is another judge. Pairs that a store does not take, such as
    two equal texts, are left out.
    """
    from lab.feedback.labels.store import Store
    from lab.feedback.labels.words import LONGEST_NAME, Item, LabelError
    from lab.judges import MADE_BY, parse

    made_by = MADE_BY.get(parse(text)[0], "judge")
    items, said = [], []
    for j in judged:
        try:
            items.append(Item(j.comparison, source={"data": Path(given["data"]).name}))
            said.append((j.comparison, j.verdict))
        except LabelError:
            continue
    with Store.open(given["store"]) as store:
        store.add(items)
        name = f"{text} · {given['question']}" if given["question"] else text
        return store.verdicts(name[:LONGEST_NAME], made_by, said)


def _cost(who: Judge, habits: Habits) -> float:
    from lab.feedback.judges.endpoint import EndpointJudge

    return who.cost(habits.tokens) if isinstance(who, EndpointJudge) else 0.0


def _standings(
    found: Mapping[str, Sequence[Judged]], labels: Sequence[float | None], seed: int
) -> tuple[Standing, ...]:
    from lab.evaluate.people import compare_judges

    return compare_judges(found, labels, seed=seed) if any(x is not None for x in labels) else ()


# --- what is shown ---------------------------------------------------------------------------------------------------


def habits_table(habits: Mapping[str, Habits], costs: Mapping[str, float]) -> Any:
    """How each judge judged, a line for each; what it read and wrote where that is known."""
    from rich.table import Table

    table = Table("judge", "asked", "no answer", "bias", "consistent", "ties", header_style="bold",
                  title="in both orders", title_justify="left")  # fmt: skip
    spent = any(any(h.tokens) for h in habits.values())
    for name in ("tokens read, written", *(("cost",) if any(costs.values()) else ())) if spent else ():
        table.add_column(name)
    for name, h in habits.items():
        bias = "–" if h.position_bias is None else f"{round(h.position_bias, 3) + 0.0:+.3f}"
        more = [f"{h.tokens[0]:,}, {h.tokens[1]:,}"] if spent else []
        more += [f"{costs[name]:.4g}"] if any(costs.values()) else []
        table.add_row(name, str(h.asked), str(h.unanswered), bias, _percent(h.consistency), _percent(h.ties), *more)
    table.caption = "bias: above 0 for what stands first; consistent: both orders name the same answer"
    return table


def standings_table(standings: Sequence[Standing]) -> Any:
    """How far each judge agrees with the labels of the file, a line for each."""
    from rich.table import Table

    table = Table(header_style="bold", title="beside the labels of the file (95 %)", title_justify="left")
    table.add_column("judge", overflow="fold", min_width=12)
    for name in ("agrees", "κ", "choices", *(("less the first",) if len(standings) > 1 else ())):
        table.add_column(name, no_wrap=True)
    for s in standings:
        gap = [_interval(s.gap)] if len(standings) > 1 else []
        table.add_row(s.judge, _interval(s.agreement), _interval(s.kappa), str(s.agreement.n), *gap)
    table.caption = "a tie is half right; κ: Cohen's, every pair in both orders; intervals draw whole prompts"
    return table


def _interval(e: Estimate | None) -> str:
    if e is None or e.mean is None:
        return "–"
    return f"{e.mean:.2f}" if e.low is None else f"{e.mean:.2f} [{e.low:.2f}, {e.high:.2f}]"


def _percent(x: float | None) -> str:
    return "–" if x is None else f"{x:.1%}"


def _notes(
    given: Mapping[str, Any], found: Mapping[str, Sequence[Judged]], made: Sequence[Any],
    standings: Sequence[Standing], stored: Mapping[str, int],
) -> list[str]:  # fmt: skip
    """What was written, what got no answer, and why a judge has no figure."""
    out = [f"{len(made)} preferences in {given['out']}"] if given["out"] and made else []
    out += [f"{n} new votes of {who} in {given['store']}" for who, n in stored.items()]
    why = _reasons(found)
    out += [f"no answer: {why}"] if why else []
    return out + [f"{s.judge}: {s.agreement.why}" for s in standings if s.agreement.mean is None]


def _reasons(found: Mapping[str, Sequence[Judged]]) -> str:
    """Why there was no answer, the commonest reasons first."""
    from collections import Counter

    told = Counter(o.why for judged in found.values() for j in judged for o in (j.ab, j.ba) if o.p is None)
    return "; ".join(f"{n} × {why}" for why, n in told.most_common(3))


def _json(
    habits: Mapping[str, Habits], standings: Sequence[Standing], costs: Mapping[str, float],
    found: Mapping[str, Sequence[Judged]], made: int,
) -> dict[str, Any]:  # fmt: skip
    beside = {s.judge: {k: v for k, v in asdict(s).items() if k not in ("judge", "unanswered")} for s in standings}
    rows = {name: h._asdict() | {"cost": costs[name]} | beside.get(name, {}) for name, h in habits.items()}
    return {"judges": rows, "preferences": made, "no_answer": _reasons(found)}
