"""What there is to choose from, with what to know before choosing: when to use it, its equation, its source.

Nothing is written twice: an objective's page is its docstring, a variant's its entry in `VARIANTS`, a method's the
docstring of its story.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

from lab.config import CONFIGS

STORIES = {"sft": "sft", "reward": "reward", "process": "process", "ppo": "ppo", "dpo": "preference", "kto": "unpaired",
           "grpo": "group", "online": "online", "raft": "selection"}  # fmt: skip
"""Method -> its file in `lab/train`."""


_OF_A_VARIANT = ("group", "advantage", "surrogate", "reduction", "clip_low", "clip_high", "kl_in_reward",
                 "kl_in_loss")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """One thing to choose.

    method   : whose setting it is; `flag` is that setting's flag with the choice, empty for a method itself
    title    : its name in full · equation : lines as they are to be shown · when : when to use it, and its trap
    source   : the paper · numbers : the settings it reads, with its own values
    """

    method: str
    name: str
    flag: str
    title: str
    equation: str
    when: str
    source: str
    numbers: tuple[tuple[str, str], ...] = ()


def pages() -> Iterator[Page]:
    """Every method, each followed by its objectives or variants."""
    for method in CONFIGS:
        if method in STORIES:
            yield method_page(method)
            yield from choices(method)


def method_page(method: str) -> Page:
    """A method's page, from the docstring of its story."""
    story = import_module(f"lab.train.{STORIES[method]}")
    first, equation, words, source = _sections(inspect.getdoc(story) or "")
    return Page(method, method, "", first, equation, _when(words), source)


def choices(method: str) -> Iterator[Page]:
    """The objectives or variants of a method, if it has any."""
    if method == "dpo":
        from lab.objectives.preference import OBJECTIVES

        for name, entry in OBJECTIVES.items():
            reads = [(knob, f"{getattr(entry.knobs, knob):g}") for knob in ("beta", *entry.reads)]
            yield _objective(method, name, entry.loss, reads if name != "nll" else [])
    elif method == "kto":
        from lab.objectives.unpaired import UNPAIRED

        for name, rated in UNPAIRED.items():
            yield _objective(method, name, rated.loss, [("beta", f"{rated.beta:g}")])
    elif method == "online":
        from lab.objectives.online import nash_md, xpo

        yield _objective(method, "xpo", xpo, [("beta", "0.1"), ("exploration", "1e-05")])
        yield _objective(method, "nash_md", nash_md, [("beta", "0.1"), ("mixture", "0.5")])
    elif method == "grpo":
        from lab.objectives.variants import VARIANTS

        for name, v in VARIANTS.items():
            shown = {k: getattr(v, k) for k in _OF_A_VARIANT}
            numbers = tuple((k, f"{x:g}" if isinstance(x, float) else str(x)) for k, x in shown.items())
            yield Page(method, name, f"--variant {name}", name, v.equation, v.when, v.source, numbers)


def _objective(method: str, name: str, loss: Callable, numbers: list[tuple[str, str]]) -> Page:
    title, equation, words, source = _sections(inspect.getdoc(loss) or "")
    return Page(method, name, f"--objective {name}", title, equation, _when(words), source, tuple(numbers))


def _when(words: str) -> str:
    """The paragraph that begins with "When to use:"."""
    found = re.search(r"When to use: (.*?)(?:\n\n|$)", words, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _sections(doc: str) -> tuple[str, str, str, str]:
    """(first line, indented equation, the paragraphs, source) of a docstring of this project."""
    body, _, rest = doc.partition("\nSource:")
    source = " ".join(re.split(r"\n\n|\n\w+:\n", rest)[0].split())
    body = re.split(r"\n(?:Args|Returns|Raises|Arguments)\b", body)[0]
    blocks = [b for b in body.split("\n\n") if b.strip()]
    indented = [all(x.startswith("    ") for x in b.splitlines()) for b in blocks[1:]]
    equations = [textwrap.dedent(b).strip("\n") for b, code in zip(blocks[1:], indented, strict=True) if code]
    words = [b for b, code in zip(blocks[1:], indented, strict=True) if not code]
    return " ".join(blocks[0].split()).rstrip("."), "\n".join(equations), "\n\n".join(words), source
