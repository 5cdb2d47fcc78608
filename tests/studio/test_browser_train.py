"""The Train panel as people meet it: a real Chromium, real run directories, an engine that plays nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import launch
from lab.config import GroupConfig, PreferenceConfig
from lab.feedback.labels.room import Room
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Event, Item
from lab.learner import NonFiniteError
from lab.queueing import Entry, Queue
from lab.records import Comparison
from lab.runs import Run

from .fake_training import FakeTraining, keep, learnt_from_pairs
from .made import EVIL, make_reward, make_sft, status

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
    panel.get_by_role("button", name="Start", exact=True).click()
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
    panel.get_by_role("button", name="Start", exact=True).click()
    expect(panel.get_by_text("mine plays.", exact=True)).to_be_visible()
    run = Run.open(root / "mine")
    assert run.config() == PreferenceConfig(objective="ipo", beta=0.2)
    assert run.manifest.parents == {"policy": {"run": "sft-1", "step": 20, "role": "sft"}}
    assert launch.setup_of(run).adapter.rank == 4
    assert engine.asked[-1] == ("play", "mine")
    expect(panel.get_by_text("mine plays, step 0 of 100. One run learns at a time")).to_be_visible()
    expect(panel.get_by_role("button", name="Start after mine")).to_be_enabled()
    panel.get_by_label("Start", exact=True).get_by_role("link", name="See its curves").first.click()
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
    panel.get_by_role("button", name="Start", exact=True).click()
    expect(panel.get_by_text("grpo-1 plays.", exact=True)).to_be_visible()
    setup = launch.setup_of(Run.open(root / "grpo-1"))
    assert setup.rewards == ("0.5*reward", "length?most=8")
    assert Run.open(root / "grpo-1").config() == GroupConfig(steps=2)
    assert made(engine)[0]["init"] == "sft-1"


def test_what_the_engine_refuses_is_said_with_its_place(visit: Visit, engine: FakeTraining) -> None:
    panel = form_of(visit("?tab=train"), "dpo")
    panel.get_by_label("Where the data are").get_by_role("button", name="file").click()
    expect(panel.get_by_text("one row has prompt + chosen + rejected")).to_be_visible()
    panel.get_by_role("button", name="Start", exact=True).click()
    expect(panel.get_by_role("alert")).to_contain_text("There are no data")
    expect(panel.get_by_label("Learns from", exact=True)).to_be_focused()
    panel.get_by_label("Learns from", exact=True).fill("nothing.jsonl")
    panel.get_by_role("button", name="Start", exact=True).click()
    expect(panel.get_by_role("alert")).to_have_text(re.compile("There is no file or folder nothing.jsonl."))
    panel.get_by_label("Where the data are").get_by_role("button", name="of a run").click()
    engine.refuses_to_play = "There is no memory left."
    panel.get_by_role("button", name="Start", exact=True).click()
    expect(panel.get_by_role("alert")).to_contain_text("dpo-1 is made, but does not play: There is no memory left.")
    expect(panel.get_by_role("alert").get_by_role("link", name="See its curves")).to_be_visible()


def test_no_engine_then_one_then_none(visit: Visit, engine: FakeTraining) -> None:
    engine.there = False
    page = visit("?tab=train")
    panel = page.get_by_label("Train a model")
    expect(panel.get_by_role("heading", name="Nothing can be trained yet")).to_be_visible()
    expect(panel.get_by_text("start one with: lab engine")).to_be_visible()
    engine.there = True
    expect(panel.get_by_role("button", name="Start", exact=True)).to_be_enabled()
    form_of(page, "sft").get_by_label("lr", exact=True).fill("1e-3")
    engine.there = False
    expect(panel.get_by_role("button", name="Start", exact=True)).to_be_disabled()
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
    expect(panel.get_by_role("button", name="Start", exact=True)).to_be_focused()
    page.keyboard.press("Space")
    expect(panel.get_by_text("dpo-1 plays.", exact=True)).to_be_visible()
    assert made(engine)[0]["settings"] == {"objective": "hinge"}


def test_the_verdict_on_memory_before_the_start_and_the_change_that_mends_it(
    visit: Visit, engine: FakeTraining
) -> None:
    engine.free = 6 * 10**9
    page = visit("?tab=train&method=dpo")
    panel = page.get_by_label("Train a model")
    needs = panel.get_by_label("What it needs")
    expect(needs.get_by_role("alert")).to_contain_text("It does not fit:")
    expect(needs.get_by_role("img")).to_have_attribute("aria-label", re.compile("at the worst moment, while training"))
    expect(needs.get_by_label("What takes the memory")).to_contain_text("kept for the backward pass")
    expect(needs).to_contain_text("About 10 min · 100 steps From sft-1.")
    needs.get_by_role("button", name=re.compile("^Set tokens per pass")).click()
    expect(needs.get_by_role("status")).to_contain_text("It fits:")
    tokens = panel.get_by_label("tokens per pass", exact=True)
    expect(tokens).to_have_value(re.compile(r"^\d+$"))
    page.reload()
    expect(tokens).to_have_value(re.compile(r"^\d+$"))
    engine.free = 40 * 10**9
    form_of(page, "reward")
    expect(needs.get_by_role("status")).to_contain_text("to spare")


def test_presets_and_the_settings_of_a_run(visit: Visit, engine: FakeTraining, root: Path) -> None:
    page = visit("?tab=train&method=sft")
    panel = page.get_by_label("Train a model")
    presets = panel.get_by_role("group", name="Presets")
    presets.get_by_role("button", name="as in the demonstration").click()
    expect(panel.get_by_label("lr", exact=True)).to_have_value("0.003")
    expect(presets.get_by_role("button", name="as in the demonstration")).to_have_attribute("aria-pressed", "true")
    presets.get_by_role("button", name="as in the demonstration").click()
    expect(panel.get_by_label("lr", exact=True)).to_have_value("")
    panel.get_by_label("lr", exact=True).fill("0.5")
    panel.get_by_label("Settings of a run").select_option("sft-1")
    expect(panel.get_by_text("The settings of sft-1 stand in the form.")).to_be_visible()
    expect(panel.get_by_label("lr", exact=True)).to_have_value("")


def test_a_queue_that_can_be_put_in_order(visit: Visit, engine: FakeTraining, root: Path) -> None:
    engine.playing = {"sft-1": (12, 60)}
    page = visit("?tab=train&method=dpo")
    panel = page.get_by_label("Train a model")
    panel.get_by_label("Name of the run").fill("first")
    panel.get_by_role("button", name="Start after sft-1").click()
    expect(panel.get_by_text("It waits in the queue, at place 1.")).to_be_visible()
    panel.get_by_label("Name of the run").fill("second")
    panel.get_by_role("button", name="Start after sft-1").click()
    waiting = panel.get_by_role("list", name="Queue").get_by_role("listitem")
    expect(waiting).to_have_count(2)
    panel.get_by_role("button", name="Move second up").click()
    expect(waiting.first).to_contain_text("second")
    page.reload()
    expect(waiting.first).to_contain_text("second")
    panel.get_by_role("button", name="Take second out of the queue").click()
    expect(waiting).to_have_count(1)
    Queue(root).hold("first could not begin: there are no data.")
    panel.get_by_role("button", name="Go on").click()
    expect(panel.get_by_text("could not begin")).to_be_hidden()
    assert made(engine) == []


def test_a_failure_is_a_card_with_a_button_that_mends_it(visit: Visit, engine: FakeTraining, root: Path) -> None:
    error = NonFiniteError(f"The loss is nan at step 60, so the run stopped. {EVIL}", {"rows": [3, 17]})
    Run(root / "sft-1").save_failure(61, error)
    status(root / "sft-1", "failed", 60, 80, error=str(error))
    page = visit("?tab=train&run=sft-1")
    panel = page.get_by_label("Train a model")
    card = panel.get_by_label("What went wrong in sft-1")
    expect(card).to_contain_text("Not a number at step 61")
    card.get_by_text("The rows it stumbled over").click()
    expect(card.get_by_text("rows 3, 17 of its data")).to_be_visible()
    card.get_by_role("button", name="Branch from step 60 with lr 4e-05").click()
    expect(panel.get_by_text("sft-2 begins as sft-1 did.")).to_be_visible()
    assert ("branch", "sft-1", 60, {"lr": 4e-05}, "") in engine.asked
    assert Run(root / "sft-2").checkpoints() == [60]


def test_a_run_is_steered_edited_and_branched(visit: Visit, engine: FakeTraining, root: Path) -> None:
    engine.playing = {"sft-1": (41, 60)}
    status(root / "sft-1", "running", 41, 60, phase="updating", done=1, of=4, eta_s=30.0)
    page = visit("?tab=train")
    panel = page.get_by_label("Train a model")
    run = panel.get_by_role("article", name=re.compile("^sft-1"))
    expect(run).to_contain_text("plays · step 41 of 60 · updating 1/4 · 30 s left")
    expect(run.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "68")
    run.get_by_role("button", name="Pause sft-1").click()
    expect(panel.get_by_text("sft-1 pauses after this step.")).to_be_visible()
    run.get_by_role("button", name="Live settings of sft-1").click()
    run.get_by_label("lr", exact=True).fill("0.001")
    run.get_by_role("button", name="Set lr of sft-1").click()
    expect(panel.get_by_text("lr of sft-1 is 0.001 from the next step on.")).to_be_visible()
    run.get_by_role("button", name="Branch from sft-1").click()
    run.get_by_label("From", exact=True).select_option("20")
    run.get_by_label("batch", exact=True).fill("8")
    run.get_by_role("button", name="Branch and play").click()
    expect(panel.get_by_text("sft-2 begins as sft-1 did. It waits for sft-1.")).to_be_visible()
    assert [a for a in engine.asked if a[0] in ("pause", "edit", "branch")] == [
        ("pause", "sft-1"), ("edit", "sft-1", "lr", 0.001), ("branch", "sft-1", 20, {"batch": 8}, "")]  # fmt: skip


def test_data_by_round_of_the_labels_and_pinned_probes(visit: Visit, engine: FakeTraining, root: Path) -> None:
    with Store.open(root.parent / "labels.sqlite") as store:
        items = [Item(Comparison(f"What is {n} plus 1?", f"{n + 1}.", "9."), split="training") for n in (1, 2)]
        store.add(items)
        name = store.login("mina", "2718")
        for item in items:
            Room(store).turn("open", "host", title="a round")
            store.record(Event("vote", item.id, name, item.id, choice="a", strength=1, p=1.0))
            Room(store).turn("close", "host")
    (root / ".pins.json").write_text('["Name two animals."]')
    page = visit("?tab=train&method=reward")
    panel = page.get_by_label("Train a model")
    expect(panel.get_by_role("button", name="1 pinned prompt")).to_have_attribute("aria-pressed", "true")
    panel.get_by_label("Where the data are").get_by_role("button", name="labels").click()
    panel.get_by_label("Learns from", exact=True).select_option("2")
    panel.get_by_role("button", name="Start", exact=True).click()
    expect(panel.get_by_text("reward-2 plays.", exact=True)).to_be_visible()
    assert made(engine)[0]["data"] == f"labels:{root.parent / 'labels.sqlite'}?round=2"
    run = Run.open(root / "reward-2")
    assert "What is 2 plus 1?" in (run.path / "inputs" / "data.jsonl").read_text()
    assert launch.setup_of(run).probes == ("Name two animals.",)


def test_who_is_no_host_looks_and_is_told_why(
    visit: Visit, engine: FakeTraining, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the handlers refuse is another test's; here nothing is offered that would be refused."""
    Queue(root).add(Entry("a", {"method": "dpo", "name": "later"}))
    from apps.studio.people import Person

    monkeypatch.setattr("apps.studio.door.ME", Person("ann"))
    page = visit("?tab=train&method=dpo")
    panel = page.get_by_label("Train a model")
    expect(panel.get_by_text("Only the host steers runs; you can look at all of them.")).to_be_visible()
    expect(panel.get_by_text("Only the host starts runs; you can look at everything.")).to_be_visible()
    expect(panel.get_by_role("button", name="Start", exact=True)).to_be_disabled()
    expect(panel.get_by_role("list", name="Queue")).to_contain_text("later")
    expect(panel.get_by_role("button", name=re.compile("later|sft-1|reward-1"))).to_have_count(0)


def test_the_way_to_start_stays_in_view(visit: Visit) -> None:
    page = visit("?tab=train")
    panel = form_of(page, "ppo")
    panel.get_by_text("All settings").click()
    panel.get_by_label("save every", exact=True).scroll_into_view_if_needed()
    expect(panel.get_by_role("button", name="Start", exact=True)).to_be_in_viewport()


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
    panel.get_by_role("button", name="Start", exact=True).click()
    expect(panel.get_by_text("Some settings cannot be")).to_be_visible()
    assert page.locator(".lab img, .lab script").count() == 0
