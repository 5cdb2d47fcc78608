"""Data: from files, tables and the Hub to records, and the order a run sees them in.

The standard columns are listed in `lab.columns`. A row that cannot be used is never cut or repaired in silence: it is
left out, and reported with its number and the reason.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lab.columns import ALL_OR_NONE, EXPECTED, PARSERS, DataError, Kind, Record, Rows, Skip, Unusable, reasons, short
from lab.records import (
    Demonstration,
    Preference,
    Prompt,
    PromptRow,
    Ranking,
    Rating,
    Steps,
    as_messages,
    digest,
    to_json,
)

T = TypeVar("T")
R = TypeVar("R", Demonstration, Preference, Rating, Ranking, Steps, PromptRow)

FILES = (".jsonl", ".json", ".parquet")


def read(source: Any, kind: Kind, *, strict: bool = False, split: str = "train") -> Rows[Any]:
    """Records of one kind (`Demonstration`, `Preference` or `PromptRow`) from wherever the data are.

    `source` is a .jsonl, .json or .parquet file, a folder of those, a folder written by `datasets`' `save_to_disk`,
    a `datasets.Dataset`, a list of dictionaries or records, or the id of a data set on the Hugging Face Hub, of which
    `split` is taken. `strict=True` raises at the first row that would be left out. Raises `DataError` when the
    source cannot be opened, has no rows, has none of the expected columns, or no row of it can be used.
    """
    if kind not in EXPECTED:
        raise DataError(f"There is no kind of data called {kind!r}; choose one of {', '.join(EXPECTED)}.")
    records: list[Record] = []
    skipped: list[Skip] = []
    columns: Counter[str] = Counter()
    given: Counter[str] = Counter()
    used = 0
    for row, (place, value) in enumerate(_raw(source, split)):
        try:
            if isinstance(value, Unusable):
                raise value
            if not isinstance(value, dict):
                raise Unusable("not an object", f"a row is an object with columns, this one is {short(value)}")
            columns.update(map(str, value))
            made = PARSERS[kind](value, row)
            if isinstance(made, list):
                records.extend(made)
            else:
                records.append(made)
            given.update(name for name in ALL_OR_NONE.get(kind, ()) if value.get(name) is not None)
            used += 1
        except Unusable as bad:
            reason, detail = bad.args
            if strict:
                raise DataError(f"{place}: {reason}: {detail}. Repair the row, or read with strict=False.") from None
            skipped.append(Skip(reason, row, f"{place}: {detail}"))
    if not records and not skipped:
        raise DataError(f"{short(source)} has no rows; give at least one.")
    for name, n in given.items():
        if n < used:
            raise DataError(f"The column {name} has a value in {n} of {used} rows; give it in every row or in none.")
    if not records and columns and not any(set(names) <= set(columns) for names in EXPECTED[kind]):
        expected = " or ".join(" + ".join(names) for names in EXPECTED[kind])
        raise DataError(f"The columns are {', '.join(sorted(columns))}, but {kind!r} data need {expected}; "
                        "rename the columns.")  # fmt: skip
    if not records:
        raise DataError(f"None of the {len(skipped)} rows can be used: {reasons(skipped)}. "
                        f"The first: {skipped[0].detail}.")  # fmt: skip
    return Rows(tuple(records), tuple(skipped))


def _raw(source: Any, split: str) -> Iterator[tuple[str, Any]]:
    """Rows with the place to look for them ("data.jsonl, line 3"); an `Unusable` stands for one that does not parse."""
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.is_file():
            yield from _file(path)
        elif path.is_dir():
            yield from _folder(path, split)
        elif isinstance(source, Path) or path.suffix in FILES or path.is_absolute() or source.startswith((".", "~")):
            raise DataError(f"There is no file or folder {str(source)!r}; check the path.")
        else:
            yield from _table(_hub(source, split), source)
    elif isinstance(source, dict) and split in source:  # a datasets.DatasetDict
        yield from _table(source[split], split)
    elif isinstance(source, Iterable) and not isinstance(source, dict):
        yield from _table(source, "the list")
    else:
        raise DataError(f"Data cannot be read from {short(source)}; give a path, a data set or a list of rows.")


def _table(rows: Iterable[Any], name: str) -> Iterator[tuple[str, Any]]:
    for i, value in enumerate(rows):
        yield f"{name}, row {i}", to_json(value) if is_dataclass(value) else value


def _file(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".jsonl":
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path.name}, line {number}", _json_line(line)
    elif path.suffix == ".json":
        try:
            value = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path.name} is not JSON ({error}); one object per line needs the name .jsonl.") from error
        if not isinstance(value, list):
            raise DataError(f"{path.name} holds {short(value)}; it must hold a list of objects.")
        yield from _table(value, path.name)
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            yield from _table(pyarrow.parquet.read_table(path).to_pylist(), path.name)
        except pyarrow.ArrowException as error:
            raise DataError(f"{path.name} is not a Parquet file ({error}); write it again.") from error
    else:
        raise DataError(f"{path.name} has an unknown ending; the known ones are {', '.join(FILES)}.")


def _json_line(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        return Unusable("not JSON", str(error))


def _folder(path: Path, split: str) -> Iterator[tuple[str, Any]]:
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        saved = _datasets().load_from_disk(str(path))
        yield from _raw(saved, split)
        return
    files = sorted(p for p in path.iterdir() if p.suffix in FILES)
    if not files:
        raise DataError(f"The folder {str(path)!r} holds no {', '.join(FILES)} file; put the data there.")
    for file in files:
        yield from _file(file)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError("Reading this needs the package datasets: pip install 'rlhf-lab[data]'.") from error
    return datasets


def _hub(name: str, split: str) -> Any:
    try:
        return _datasets().load_dataset(name, split=split)
    except (OSError, ValueError) as error:
        raise DataError(f"{name!r} is no file here, and the Hub gave no data set of that name with a split {split!r} "
                        f"({_first_line(error)}); check the name and the network.") from error  # fmt: skip


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def write_jsonl(records: Iterable[Any], path: str | Path) -> Path:
    """Writes records, one object per line, so that `read` gives them back; `row` is where they stand in the file.

    The file appears whole or not at all.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        for record in records:
            value = {k: v for k, v in to_json(record).items() if k not in ("row", "columns")}
            value |= getattr(record, "columns", {})
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
    os.replace(part, path)
    return path


class Split(NamedTuple):
    """Records to train on and records held out; no prompt is on both sides."""

    train: tuple[Any, ...]
    heldout: tuple[Any, ...]


def split(records: Sequence[R], share: float, seed: int = 0) -> Split:
    """Holds out about `share` of the *prompts*, each with all its records.

    Where a prompt goes depends on its text and the seed alone: reordering rows or adding new ones moves no old one.
    The share is met on average, so among a handful of prompts none may be held out.
    """
    sides: tuple[list[R], list[R]] = ([], [])
    for record in records:
        sides[_uniform(record.prompt, seed) < share].append(record)
    return Split(*map(tuple, sides))


def _uniform(prompt: Prompt, seed: int) -> float:
    """A number in [0, 1) that a prompt keeps, plain or as a user's turn alike."""
    name = hashlib.sha256(f"{seed} {digest(as_messages(prompt))}".encode()).digest()
    return int.from_bytes(name[:8], "big") / 2**64


# ── The order of a run ───────────────────────────────────────────────────────────────────────────────────────────────


@functools.lru_cache(maxsize=8)
def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `n` rows in one pass, a permutation (n) that depends on (seed, epoch) alone. Read-only."""
    permutation = np.random.default_rng([seed, epoch]).permutation(n)
    permutation.flags.writeable = False
    return permutation


def batch_at(step: int, n: int, batch: int, seed: int, epochs: float = math.inf) -> tuple[int, ...]:
    """The rows of update number `step` (from 0), found from the number alone, so that a run resumes without a state.

    The passes `order(n, seed, 0), order(n, seed, 1), …` follow each other without a gap, and a batch that reaches the
    end of one goes on with the next: every batch is full, no row is skipped and none comes twice in a pass. With
    `epochs` the stream ends after round(n · epochs) rows: the last batch may be smaller, later ones are empty.
    """
    if n < 1 or batch < 1 or step < 0:
        raise ValueError(f"n and batch must be at least 1 and step at least 0, not {n}, {batch} and {step}.")
    end = (step + 1) * batch if math.isinf(epochs) else min((step + 1) * batch, round(n * epochs))
    return tuple(int(order(n, seed, at // n)[at % n]) for at in range(step * batch, end))


@functools.lru_cache(maxsize=32)
def resampled(n: int, seed: int) -> np.ndarray:
    """`n` row numbers drawn with replacement, a bootstrap sample (n) that depends on the seed alone. Read-only."""
    drawn = np.random.default_rng([seed, n]).integers(n, size=n)
    drawn.flags.writeable = False
    return drawn


def updates_in(n: int, batch: int, epochs: float) -> int:
    """How many updates `batch_at` gives before it is empty: ceil(round(n · epochs) / batch)."""
    return -(-round(n * epochs) // batch)
