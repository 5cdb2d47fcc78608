"""The Train panel as people meet it: a real Chromium, real run directories, an engine that plays nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import launch
from lab.config import GroupConfig, PreferenceConfig
from lab.runs import Run

from .fake_training import FakeTraining, keep, learnt_from_pairs
from .made import EVIL, make_reward, make_sft

pytest.importorskip("gradio")
expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser

Visit = Callable[..., Any]


@pytest.fixture
def engine(root: Path) -> FakeTraining:
    """An engine over sft-1, with checkpoints, and reward-1, which learnt from eight pairs."""
    keep(make_sft(root), "sft", 20, 40, 60)
    reward = make_reward(root)
    keep(reward, "reward", 50)
    learnt_from_pairs(reward)
    return FakeTraining(root)


def form_of(page: Any, method: str) -> Any:
    """The panel, once a method's form stands there with the values of its empty fields."""
    panel = page.get_by_label("Train a model")
    panel.get_by_role("group", name="Method").get_by_role("button", name=re.compile(f"^{method} ")).click()
    expect(panel.get_by_label("lr", exact=True)).to_be_visible()
    return panel


def made(engine: FakeTraining) -> list[dict[str, Any]]:
    return [a[1] for a in engine.asked if a[0] == "make"]


def test_a_method_and_an_objective_with_their_pages_and_numbers(visit: Visit) -> None:
    page = visit("?tab=train")
    panel = form_of(page, "dpo")
    about, objectives = panel.get_by_label("About the method"), panel.get_by_role("group", name="Objective")
    expect(objectives.get_by_role("button", name="dpo", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(panel.get_by_label("beta", exact=True)).to_have_attribute("placeholder", "0.1")
    objectives.get_by_role("button", name="simpo").click()
    expect(objectives.get_by_role("button", name="simpo")).to_be_focused()
    expect(about.get_by_role("heading", name="Simple preference optimisation")).to_be_visible()
    expect(about.get_by_label("Equation of simpo")).to_contain_text("σ")
    expect(about).to_contain_text("Its trap is that nothing holds the policy")
    expect(about.get_by_label("Its own numbers")).to_have_text("beta2gamma1")
    expect(panel.get_by_label("beta", exact=True)).to_have_attribute("placeholder", "2")
    panel.get_by_text("All settings").click()
    expect(panel.get_by_label("gamma", exact=True)).to_have_attribute("placeholder", "1")
    expect(panel.get_by_label("smoothing", exact=True)).to_have_attribute("placeholder", "not read by simpo")
    panel.get_by_label("or a mixture").fill("0.8*dpo + 0.2*nll")
    expect(about.get_by_role("article")).to_have_count(2)
    expect(panel.get_by_label("beta", exact=True)).to_have_attribute("placeholder", "each part's own")
    form_of(page, "grpo")
    expect(panel.get_by_label("or a mixture")).to_have_count(0)
    panel.get_by_role("group", name="Variant").get_by_role("button", name="dapo").click()
    expect(panel.get_by_label("group", exact=True)).to_have_attribute("placeholder", "16")
    assert "tab=train&method=grpo" in page.url


def test_what_is_wrong_stands_at_its_field(visit: Visit, engine: FakeTraining) -> None:
    panel = form_of(visit("?tab=train"), "grpo")
    lr, error = panel.get_by_label("lr", exact=True), panel.get_by_text("lr is -1; it must lie in [0, ∞].")
    lr.fill("-1")
    expect(error).to_be_visible()
    expect(lr).to_have_attribute("aria-invalid", "true")
    assert lr.get_attribute("aria-errormessage") == error.get_attribute("id")
    panel.get_by_label("group", exact=True).fill("many")
    expect(panel.get_by_text("group is 'many'; it must be a whole number.")).to_be_visible()
    panel.get_by_role("button", name="Start").click()
    expect(panel.get_by_role("alert")).to_contain_text("Some settings cannot be")
    expect(lr).to_be_focused()
    assert made(engine) == []
    lr.fill("1e-4")
    expect(error).to_be_hidden()
    expect(lr).not_to_have_attribute("aria-invalid", "true")


def test_a_wrong_setting_opens_the_fold_that_hides_it(visit: Visit) -> None:
    page = visit("?tab=train")
    panel = form_of(page, "dpo")
    panel.get_by_text("All settings").click()
    panel.get_by_label("gamma", exact=True).fill("0.5")
    expect(panel.get_by_text("gamma is given, but dpo does not read it; what it reads: beta.")).to_be_visible()
    page.reload()
    expect(panel.get_by_text("gamma is given, but dpo does not read it; what it reads: beta.")).to_be_visible()
    expect(panel.get_by_text("1 changed")).to_be_visible()
    form_of(page, "grpo").get_by_label("prompts", exact=True).fill("4")
    panel.get_by_label("group", exact=True).fill("4")
    panel.get_by_text("All settings").click()
    panel.get_by_label("minibatches", exact=True).fill("3")
    expect(panel.get_by_role("alert")).to_have_text(re.compile("prompts × group .16. must be a multiple"))


def test_start_makes_the_run_and_leads_to_its_curves(visit: Visit, root: Path, engine: FakeTraining) -> None:
    page = visit("?tab=train&method=dpo")
    panel = page.get_by_label("Train a model")
    expect(panel.get_by_label("Starts from", exact=True)).to_have_value("sft-1")
    panel.get_by_label("Step to start from").select_option("20")
    expect(panel.get_by_label("Learns from", exact=True)).to_have_value("reward-1")
    panel.get_by_role("button", name="ipo", exact=True).click()
    panel.get_by_label("beta", exact=True).fill("0.2")
    panel.get_by_text("All settings").click()
    panel.get_by_label("rank", exact=True).fill("4")
    panel.get_by_label("Name of the run").fill("mine")
    panel.get_by_text("The same in a terminal").click()
    expect(panel.get_by_label("Command")).to_have_text(
        f"lab dpo --init sft-1@20 --data run:reward-1 --objective ipo --beta 0.2 --rank 4 --out mine --runs {root}"
    )
    panel.get_by_role("button", name="Start").click()
    expect(panel.get_by_text("mine plays.", exact=True)).to_be_visible()
    run = Run.open(root / "mine")
    assert run.config() == PreferenceConfig(objective="ipo", beta=0.2)
    assert run.manifest.parents == {"policy": {"run": "sft-1", "step": 20, "role": "sft"}}
    assert launch.setup_of(run).adapter.rank == 4
    assert engine.asked[-1] == ("play", "mine")
    expect(panel.get_by_text("mine plays, step 0 of 100. One run learns at a time")).to_be_visible()
    expect(panel.get_by_role("button", name="Start")).to_be_disabled()
    panel.get_by_role("link", name="See its curves").first.click()
    expect(page.get_by_role("heading", name="mine")).to_be_visible()
    assert "tab=curves&run=mine" in page.url


def test_rewards_with_weights_and_options(visit: Visit, root: Path, engine: FakeTraining) -> None:
    page = visit("?tab=train&method=grpo")
    panel = page.get_by_label("Train a model")
    expect(panel.get_by_label("Reward 1", exact=True)).to_have_value("reward-1")
    panel.get_by_label("Weight of reward 1").fill("0.5")
    panel.get_by_role("button", name="Add a reward").click()
    panel.get_by_label("Reward 2", exact=True).select_option("length")
    expect(panel.get_by_text("least is None and most is None")).to_be_visible()
    panel.get_by_label("most", exact=True).fill("8")
    expect(panel.get_by_text("least is None and most is None")).to_be_hidden()
    panel.get_by_role("button", name="Add a reward").click()
    panel.get_by_role("button", name="Remove reward 3").click()
    panel.get_by_label("Learns from", exact=True).fill("tiny:prompts?family=sum&n=20")
    panel.get_by_label("steps", exact=True).fill("2")
    page.reload()
    expect(panel.get_by_label("Learns from", exact=True)).to_have_value("tiny:prompts?family=sum&n=20")
    expect(panel.get_by_label("most", exact=True)).to_have_value("8")
    panel.get_by_role("button", name="Start").click()
    expect(panel.get_by_text("grpo-1 plays.", exact=True)).to_be_visible()
    setup = launch.setup_of(Run.open(root / "grpo-1"))
    assert setup.rewards == ("0.5*reward", "length?most=8")
    assert Run.open(root / "grpo-1").config() == GroupConfig(steps=2)
    assert made(engine)[0]["init"] == "sft-1"


def test_what_the_engine_refuses_is_said_with_its_place(visit: Visit, engine: FakeTraining) -> None:
    panel = form_of(visit("?tab=train"), "dpo")
    panel.get_by_label("Where the data are").get_by_role("button", name="file").click()
    expect(panel.get_by_text("one row has prompt + chosen + rejected")).to_be_visible()
    panel.get_by_role("button", name="Start").click()
    expect(panel.get_by_role("alert")).to_contain_text("There are no data")
    expect(panel.get_by_label("Learns from", exact=True)).to_be_focused()
    panel.get_by_label("Learns from", exact=True).fill("nothing.jsonl")
    panel.get_by_role("button", name="Start").click()
    expect(panel.get_by_role("alert")).to_have_text(re.compile("There is no file or folder nothing.jsonl."))
    panel.get_by_label("Where the data are").get_by_role("button", name="of a run").click()
    engine.refuses_to_play = "There is no memory left."
    panel.get_by_role("button", name="Start").click()
    expect(panel.get_by_role("alert")).to_contain_text("dpo-1 is made, but does not play: There is no memory left.")
    expect(panel.get_by_role("alert").get_by_role("link", name="See its curves")).to_be_visible()


def test_no_engine_then_one_then_none(visit: Visit, engine: FakeTraining) -> None:
    engine.there = False
    page = visit("?tab=train")
    panel = page.get_by_label("Train a model")
    expect(panel.get_by_role("heading", name="Nothing can be trained yet")).to_be_visible()
    expect(panel.get_by_text("start one with: lab engine")).to_be_visible()
    engine.there = True
    expect(panel.get_by_role("button", name="Start")).to_be_enabled()
    form_of(page, "sft").get_by_label("lr", exact=True).fill("1e-3")
    engine.there = False
    expect(panel.get_by_role("button", name="Start")).to_be_disabled()
    expect(panel.get_by_label("Start", exact=True).get_by_text("start one with: lab engine")).to_be_visible()
    expect(panel.get_by_label("lr", exact=True)).to_have_value("1e-3")


def test_by_keyboard_on_a_phone_and_in_the_dark(visit: Visit, engine: FakeTraining) -> None:
    page = visit("?tab=train", width=400, height=850, color_scheme="dark")
    panel = form_of(page, "dpo")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.lab .method')).backgroundColor") == "rgb(26, 29, 38)"
    )
    assert panel.get_by_label("lr", exact=True).bounding_box()["width"] > 250
    panel.get_by_text("All settings").click()
    nameless = """() => [...document.querySelectorAll('.lab :is(button, input, select, textarea, [role=group])')]
        .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length)))
        .map(e => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    panel.get_by_role("button", name="hinge").focus()
    page.keyboard.press("Enter")
    expect(panel.get_by_role("button", name="hinge")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    panel.get_by_label("Name of the run").focus()
    page.keyboard.press("Tab")
    expect(panel.get_by_role("button", name="Start")).to_be_focused()
    page.keyboard.press("Space")
    expect(panel.get_by_text("dpo-1 plays.", exact=True)).to_be_visible()
    assert made(engine)[0]["settings"] == {"objective": "hinge"}


def test_the_way_to_start_stays_in_view(visit: Visit) -> None:
    page = visit("?tab=train")
    panel = form_of(page, "ppo")
    panel.get_by_text("All settings").click()
    panel.get_by_label("save every", exact=True).scroll_into_view_if_needed()
    expect(panel.get_by_role("button", name="Start")).to_be_in_viewport()


def test_nothing_that_is_told_runs(visit: Visit, engine: FakeTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hostile pages, settings and refusals; the fixture looks for what ran."""
    offers = engine.offers()
    page_ = offers["methods"]["dpo"]["choices"][0]
    page_ |= {"title": EVIL, "equation": EVIL, "when": f"`{EVIL}` {EVIL}", "source": EVIL, "numbers": [[EVIL, EVIL]]}
    offers["methods"]["dpo"]["settings"][0] |= {"help": EVIL, "unit": EVIL}
    monkeypatch.setattr(engine, "offers", lambda: offers)
    monkeypatch.setattr(engine, "check", lambda _: {"errors": {"": EVIL, "lr": EVIL}, "own": {"beta": EVIL}})
    page = visit("?tab=train")
    panel = form_of(page, "dpo")
    expect(panel.get_by_role("alert").first).to_contain_text("<img src=x onerror=")
    expect(panel.get_by_label("About the method")).to_contain_text("<script>window.__xss=2</script>")
    panel.get_by_label("Name of the run").fill(EVIL)
    panel.get_by_role("button", name="Start").click()
    expect(panel.get_by_text("Some settings cannot be")).to_be_visible()
    assert page.locator(".lab img, .lab script").count() == 0
