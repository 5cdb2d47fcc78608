"""Every method, objective and variant says when to use it, what its equation is, where it comes from."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lab.catalogue import STORIES, Page, pages
from lab.cli import main
from lab.config import CONFIGS
from lab.objectives.preference import OBJECTIVES
from lab.objectives.unpaired import UNPAIRED
from lab.objectives.variants import VARIANTS

EVERY = list(pages())


@pytest.mark.parametrize("page", EVERY, ids=[f"{p.method}.{p.name}" for p in EVERY])
def test_every_page_is_whole(page: Page) -> None:
    assert page.title
    assert not page.title.endswith(".")
    assert page.equation
    assert len(page.when) > 80, "two sentences at least: when to use it, and its trap"
    assert page.when.endswith(".")
    assert any(c.isdigit() for c in page.source), "a paper with its year"


def test_there_is_a_page_for_everything_there_is_to_choose() -> None:
    found = {(p.method, p.name) for p in EVERY}
    assert {(m, m) for m in STORIES} <= found
    assert {m for m, cls in CONFIGS.items() if cls.__module__.startswith("lab.")} == set(STORIES)
    assert {("dpo", n) for n in OBJECTIVES} | {("kto", n) for n in UNPAIRED} | {("grpo", n) for n in VARIANTS} <= found


def test_a_page_carries_the_equation_and_the_numbers_of_its_objective() -> None:
    ipo = next(p for p in EVERY if p.name == "ipo")
    assert ipo.equation == "L = (d − 1 / (2β))²"
    assert ipo.numbers == (("beta", "0.1"),)
    assert ipo.flag == "--objective ipo"
    assert "Azar et al. 2023" in ipo.source


def test_the_terminal_shows_them_and_refuses_what_is_not_there() -> None:
    shown = CliRunner().invoke(main, ["methods"]).output
    assert "--objective simpo" in shown
    assert "lab grpo" in shown
    page = CliRunner().invoke(main, ["methods", "dapo"]).output
    assert "Long chains of thought" in page
    assert "clip_high 0.28" in page
    refused = CliRunner().invoke(main, ["methods", "dpoo"])
    assert refused.exit_code == 1
    assert "There is no method 'dpoo'; there are sft, reward, " in refused.output


def test_the_worked_example_of_contributing_is_right() -> None:
    """The function as printed, at the printed point: d = 2 ln 3 and β = ¼, loss (1 − ½ ln 3)², slope ½ (½ ln 3 − 1)."""
    from lab.objectives import margins

    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = next(c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def hinge2" in c)
    names = dict(vars(margins))
    exec(textwrap.dedent(code.replace("\n   ", "\n").removeprefix("   ")), names)
    L3, one = math.log(3), torch.ones(1, dtype=torch.float64)
    chosen = (4 * L3 * one).requires_grad_()
    loss = names["hinge2"](margins.Pairs(chosen, 2 * L3 * one, 0 * one, 0 * one, one, one), margins.Knobs(0.25))
    loss.sum().backward()
    assert loss.item() == pytest.approx((1 - L3 / 2) ** 2, abs=1e-12)
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(L3 / 4 - 0.5, abs=1e-12)
    assert '"hinge2": (Knobs(0.25), (1 - L3 / 2) ** 2, L3 / 4 - 0.5, 0.5 - L3 / 4)' in text
