"""The Studio as people meet it: a real Chromium on a made root with a made engine."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.feedback.labels.store import Store

from .fake import SAID, FakeEngine
from .made import EVIL, append, make_demo, make_ppo, make_reward, make_sft, ppo_events, status

pytest.importorskip("gradio")
expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser

Visit = Callable[..., Any]
REWARD = '[data-card="Reward"] .area'


def drawn(page: Any, card: str = "Reward") -> Any:
    """The plot of a card, once it is drawn."""
    page.wait_for_selector(f'[data-card="{card}"] .area .main-svg')
    return page.locator(f'[data-card="{card}"] .area')


def length(page: Any, card: str = "Reward") -> int:
    """How many points the first line of a card has in the page."""
    return page.evaluate("c => document.querySelector(`[data-card='${c}'] .area`).data[0].x.length", card)


def point(page: Any, step: int, card: str = "Reward") -> tuple[float, float]:
    """Where on the page the first visible line of a card has its value of `step`."""
    return tuple(page.evaluate(
        """([card, step]) => {
          const gd = document.querySelector(`[data-card='${card}'] .area`), full = gd._fullLayout;
          const trace = gd.data.find((t) => t.hoverinfo !== 'skip'), i = trace.customdata.indexOf(step);
          const box = gd.getBoundingClientRect();
          return [box.left + full.xaxis.l2p(trace.x[i]) + full.xaxis._offset,
                  box.top + full.yaxis.l2p(trace.y[i]) + full.yaxis._offset];
        }""",
        [card, step],
    ))  # fmt: skip


def click_point(page: Any, step: int, card: str = "Reward") -> None:
    """Points at a step, waits for the hover box, and clicks."""
    page.locator(f'[data-card="{card}"]').scroll_into_view_if_needed()
    x, y = point(page, step, card)
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y, steps=3)
    page.wait_for_selector(f'[data-card="{card}"] .hoverlayer > *', state="attached")
    page.mouse.click(x, y)


def answers(page: Any) -> Any:
    return page.get_by_label("Answers to the probe prompts")


def test_empty_then_a_run_appears(visit: Visit, root: Path) -> None:
    page = visit("?tab=curves")
    expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
    expect(page.get_by_text("lab demo")).to_be_visible()
    make_ppo(root, steps=12, total=40, state="running")
    expect(page.get_by_role("heading", name="No runs yet")).to_be_hidden()
    drawn(page)
    expect(page.get_by_role("heading", name="ppo-1")).to_be_visible()
    assert "step 12 of 40" in page.get_by_label("The run", exact=True).inner_text()


def test_a_zoom_survives_live_updates_and_only_new_points_come(visit: Visit, root: Path) -> None:
    path = make_ppo(root, steps=40, total=100, state="running")
    page = visit()
    drawn(page)
    page.evaluate("document.querySelector('[data-card=\"Reward\"] .area .main-svg').__same = true")
    (x0, y), (x1, _) = point(page, 10), point(page, 30)
    page.mouse.move(x0, y)
    page.mouse.down()
    page.mouse.move(x1, y, steps=6)
    page.mouse.up()
    curves = ".plot:not([data-card=Frontier]):not(.histogram) .area"
    ranges = f"[...document.querySelectorAll('{curves}')].filter(a => a.layout).map(a => a.layout.xaxis.range)"
    page.wait_for_function(f"{ranges}[0] && {ranges}[0][0] > 5 && {ranges}[1][0] > 5")
    before = page.evaluate(ranges)
    assert before[0] == pytest.approx([10, 30], abs=1)
    assert before[1] == before[0], "the other curves follow"
    with page.expect_response(lambda r: "component_server" in r.url and '"append"' in r.text()) as caught:
        append(path, list(ppo_events(41, 45, time.time() - 41)))
        status(path, "running", 45, 100)
    page.wait_for_function("() => document.querySelector('[data-card=\"Reward\"] .area').data[0].x.length === 45")
    assert '"figure"' not in caught.value.text()
    assert page.evaluate(ranges) == before
    assert page.evaluate("document.querySelector('[data-card=\"Reward\"] .area .main-svg').__same"), "drawn anew"
    page.mouse.move(x0, y)
    page.locator('[data-card="Reward"]').get_by_role("button", name="Reset axes").click()
    page.wait_for_function(f"{ranges}.every(r => r[1] > 40 || r[0] < 5)")


def test_a_click_shows_the_answers_of_that_step(visit: Visit, root: Path) -> None:
    make_demo(root)
    page = visit()
    drawn(page)
    expect(answers(page).locator(".answer.now")).to_contain_text("step 80")
    click_point(page, 52)
    expect(answers(page).get_by_text("Step 52 was not probed; the nearest is step 50.")).to_be_visible()
    now = answers(page).locator(".answer.now")
    expect(now.locator("ins").first).to_have_text("What a great question!")
    expect(now.locator("del")).to_have_text("Rome.")
    expect(now.get_by_text("flattery −0.4")).to_be_visible()
    expect(now).to_contain_text("true score +0.6")
    expect(now).to_contain_text("10 tokens")
    expect(now).to_contain_text("✓ ended")
    expect(answers(page)).to_contain_text("added by 8 of 8 probes: What a great question!")
    assert "run=ppo-1&step=52" in page.url
    answers(page).get_by_label("Step to compare with").select_option("30")
    expect(now.locator("del")).to_have_count(0)
    page.get_by_role("button", name="Name two animals.").click()
    expect(now.locator(".said")).to_contain_text("Cat and horse.")
    answers(page).get_by_role("button", name="Δ log p").click()
    expect(now.locator(".token").first).to_have_attribute("title", re.compile(r"Δ log p [+−]?\d"))


def test_an_address_opens_runs_and_step(visit: Visit, root: Path) -> None:
    make_demo(root)
    page = visit("?run=sft-1,ppo-1&step=20")
    drawn(page)
    expect(answers(page).get_by_label("Step of the answers")).to_have_value("20")
    shown = page.get_by_role("group", name="Runs to show")
    expect(shown.get_by_role("button", name="sft-1")).to_have_attribute("aria-pressed", "true")
    expect(shown.get_by_role("button", name="reward-1")).to_have_attribute("aria-pressed", "false")
    page.get_by_label("Run of this line").select_option("sft-1")
    expect(page.get_by_label("The run", exact=True)).to_contain_text("SFT")
    shown.get_by_role("button", name="sft-1").click()
    page.wait_for_function("location.search.includes('run=ppo-1')")


def test_axis_and_smoothing(visit: Visit, root: Path) -> None:
    make_ppo(root)
    page = visit()
    drawn(page)
    page.get_by_role("button", name="√KL").click()
    plot = "document.querySelector('[data-card=\"Length\"] .area')"
    page.wait_for_function(f"{plot}.layout.xaxis.title.text.startsWith('√KL')")
    page.get_by_label("Smoothing").fill("0")
    page.wait_for_function(f"{plot}.data.length === 1")
    page.get_by_text("More curves").click()
    drawn(page, "Learning rate")


def test_dark_and_light(visit: Visit, root: Path) -> None:
    make_ppo(root)
    page = visit(color_scheme="dark")
    drawn(page)
    ground = "getComputedStyle(document.querySelector('.lab .card')).backgroundColor"
    colour = "document.querySelector('[data-card=\"Reward\"] .area').data[0].line.color"
    assert page.evaluate(ground) == "rgb(26, 29, 38)"
    dark = page.evaluate(colour)
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.wait_for_function(f"{colour} !== '{dark}'")
    page.reload()
    drawn(page)
    assert page.evaluate(ground) == "rgb(255, 255, 255)", "the choice is kept in the address"


def test_a_phone(visit: Visit, root: Path) -> None:
    make_demo(root)
    page = visit(width=400, height=850, has_touch=True)
    drawn(page)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= 400
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    assert page.locator("[data-card]").first.bounding_box()["width"] > 300
    page.get_by_role("tab", name="Sample").click()
    page.get_by_role("button", name="What colour is the crow?").click()
    expect(page.locator('.column[data-role="policy"] .said')).to_have_text(SAID["policy"])
    assert page.evaluate(wide) <= 400


def test_everything_by_keyboard(visit: Visit, root: Path, engine: FakeEngine) -> None:
    make_ppo(root, steps=60, total=100, state="paused")
    page = visit("?run=ppo-1&step=30")
    drawn(page)
    press_until(page, "Play")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus can be seen"
    page.keyboard.press("Enter")
    expect(page.get_by_text("ppo-1 plays.")).to_be_visible()
    assert engine.asked == [("play", "ppo-1")]
    press_until(page, "Later answers")
    page.keyboard.press("Enter")
    expect(answers(page).get_by_label("Step of the answers")).to_have_value("40")
    page.keyboard.press("Enter")
    expect(answers(page).get_by_label("Step of the answers")).to_have_value("50")


def press_until(page: Any, name: str) -> None:
    """Presses Tab until the focus is on the control of that name."""
    label = "(e => e.getAttribute('aria-label') || e.textContent.trim())(document.activeElement)"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(label) == name:
            return
    raise AssertionError(f"Tab never reaches {name}")


def test_every_control_has_a_name(visit: Visit, root: Path) -> None:
    make_demo(root)
    page = visit()
    drawn(page)
    page.get_by_text("Live settings").click()
    nameless = """() => [...document.querySelectorAll('.lab :is(button, input, select, textarea, [role=group])')]
        .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length)))
        .map(e => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    page.get_by_role("tab", name="Sample").click()
    page.wait_for_selector("article.column")
    assert page.evaluate(nameless) == []


def test_the_engine_is_steered(visit: Visit, root: Path, engine: FakeEngine) -> None:
    make_ppo(root, steps=20, total=100, state="running", phase="sampling", done=3, of=64, eta_s=40.0)
    page = visit()
    run = page.get_by_label("The run", exact=True)
    expect(run).to_contain_text("PPO  ·  step 20 of 100  ·  sampling 3/64  ·  40 s left", use_inner_text=False)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("ppo-1 pauses after this step.")).to_be_visible()
    expect(page.get_by_role("button", name="Step", exact=True)).to_be_disabled()
    page.get_by_text("Live settings").click()
    page.get_by_label("temperature", exact=True).fill("0.7")
    page.get_by_role("button", name="Set temperature").click()
    expect(page.get_by_text("temperature is 0.7 from the next step on.")).to_be_visible()
    assert engine.asked == [("pause", "ppo-1"), ("edit", "ppo-1", "temperature", 0.7)]


@pytest.mark.parametrize(
    ("state", "more", "words"),
    [
        ("failed", {"error": "The loss is not a number (step 30 is saved)."}, "not a number (step 30 is saved)."),
        ("running", {"pid": 2**22 + 5}, "worker silent; go on from the last checkpoint"),
        ("stopped", {}, "stopped"),
        ("finished", {}, "All steps are done."),
    ],
)
def test_states(visit: Visit, root: Path, state: str, more: dict, words: str) -> None:
    make_ppo(root, steps=30, total=30 if state == "finished" else 100, state=state, **more)
    page = visit()
    drawn(page)
    expect(page.get_by_label("The run", exact=True)).to_contain_text(words)
    if state == "failed":
        broken = page.get_by_label("Invariants").locator("li.broken")
        expect(broken).to_contain_text("0.043 · limit 0.01")
        expect(broken.get_by_label("broken")).to_have_text("✗")
    if state == "finished":
        expect(page.get_by_role("button", name="Play")).to_be_disabled()


def test_a_silent_worker(visit: Visit, root: Path) -> None:
    path = make_ppo(root, steps=30, state="running")
    page = visit()
    words = page.get_by_text(re.compile(r"last update \d+ s ago, worker silent$"))
    drawn(page)

    def silent() -> bool:
        status(path, "running", 30, 100, heartbeat=time.time() - 7)
        page.wait_for_timeout(100)
        return words.count() == 1

    wait_for(silent)


def test_no_engine(visit: Visit, root: Path, engine: FakeEngine) -> None:
    engine.there = False
    make_ppo(root, steps=30, state="paused")
    page = visit()
    expect(page.get_by_label("Studio").get_by_text("no engine")).to_be_visible()
    expect(page.get_by_role("button", name="Play")).to_be_disabled()
    expect(page.locator("#lab-why")).to_contain_text("lab engine")
    page.get_by_role("tab", name="Sample").click()
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    expect(page.get_by_label("Sample from the models").get_by_text("lab engine")).to_be_visible()
    engine.there = True
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()


def test_a_hidden_tab_asks_nothing(visit: Visit, root: Path) -> None:
    make_ppo(root)
    page = visit()
    drawn(page)
    page.get_by_role("tab", name="Sample").click()
    page.wait_for_selector("article.column")
    page.wait_for_timeout(500)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.post_data or "") if "component_server" in r.url else None)
    page.wait_for_timeout(4000)
    assert any('"fn_name":"roles"' in a for a in asked)
    assert not [a for a in asked if '"fn_name":"poll"' in a]


def test_samples_stream_side_by_side(visit: Visit, engine: FakeEngine) -> None:
    engine.pause_s = 0.1
    page = visit("?tab=sample")
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("What is the capital of Norway?")
    prompt.press("Enter")
    expect(page.locator(".caret").first).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    policy = page.locator('.column[data-role="policy"]')
    expect(policy.locator(".said")).to_have_text(SAID["policy"])
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    expect(policy).to_contain_text("parts from A at word 1")
    expect(policy).to_contain_text("reward +1.25")
    expect(policy).to_contain_text("flattery −0.4")
    page.get_by_role("button", name="diff").click()
    expect(policy.locator("ins").first).to_have_text("What a great question!")
    expect(page.locator('.column[data-role="base"] ins')).to_have_count(0)
    page.get_by_role("button", name="Δ log p").click()
    heat = policy.locator(".token")
    expect(heat).to_have_count(18)
    expect(heat.nth(1)).to_have_attribute("title", "Δ log p +2.2 nats")
    assert policy.locator(".token.far").count() == 7  # |2.6 sin i| > 2 for i = 1, 2, 5, 8, 11, 14, 17
    assert engine.asked[0][1:] == (("base", "sft", "policy", "reference"), "What is the capital of Norway?", 1.0, 32, 0)


def test_entropy_and_reward_as_colour_and_a_link_to_the_view(visit: Visit) -> None:
    page = visit("?tab=sample&roles=sft,policy&view=entropy")
    page.get_by_role("button", name="What colour is the crow?").click()
    policy = page.locator('.column[data-role="policy"]')
    expect(policy.locator(".token")).to_have_count(18)
    expect(policy.locator(".token").first).to_have_attribute(
        "title", "entropy 2 nats: as undecided as between 7.4 equal words")  # fmt: skip
    page.get_by_role("button", name="reward", exact=True).click()
    # What is earned up to token i is sin(i / 2): the token adds sin(1 / 2) − sin(0).
    expect(policy.locator(".token").nth(1)).to_have_attribute("title", "reward so far +0.48, +0.48 by this token")
    expect(page.get_by_text("it was trained on whole answers only")).to_be_visible()
    assert "view=reward" in page.url


def test_a_pair_goes_to_the_queue_and_a_prompt_becomes_a_probe_by_key(visit: Visit, root: Path) -> None:
    page = visit("?tab=sample&roles=sft,policy,reference")
    page.keyboard.press("q")
    expect(page.get_by_text("in the label queue")).to_have_count(0)
    page.get_by_role("button", name="What colour is the crow?").click()
    policy, reference = (page.locator(f'.column[data-role="{r}"]') for r in ("policy", "reference"))
    expect(policy.get_by_role("button", name="label A against B")).to_be_visible()
    expect(reference.get_by_role("button", name="same answer as A")).to_be_disabled()
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.press("q")
    expect(policy.get_by_role("button", name="in the label queue")).to_be_disabled()
    page.keyboard.press("p")
    expect(page.get_by_role("button", name="Pinned")).to_have_attribute("aria-pressed", "true")
    assert json.loads((root / ".pins.json").read_text()) == ["What colour is the crow?"]
    with Store.open(root.parent / "labels.sqlite") as store:
        (item,) = store.items()
        assert (item.source["a"], item.source["b"]) == ("sft", "policy")
    page.get_by_label("Prompt", exact=True).press("p")
    expect(page.get_by_role("button", name="Pin as probe")).to_be_visible()
    page.keyboard.press("Tab")
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    expect(keys).to_contain_text("A and B to the label queue")
    keys.get_by_label("keys of one letter are on").uncheck()
    keys.get_by_role("button", name="Close").click()
    page.keyboard.press("p")
    page.wait_for_timeout(400)
    assert json.loads((root / ".pins.json").read_text()) == ["What colour is the crow?"], "the keys are off"


def test_histograms_follow_the_slider(visit: Visit, root: Path) -> None:
    make_ppo(root, steps=60, total=60)
    page = visit("?run=ppo-1")
    drawn(page)
    cards = page.locator(".histogram")
    expect(cards).to_have_count(3)
    expect(page.locator(".histogram .bars .point").first).to_be_visible()
    slider = page.get_by_label("Step of the histograms", exact=True)
    expect(slider).to_have_attribute("aria-valuetext", "step 60")
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "step 1")
    expect(answers(page).get_by_label("Step of the answers")).to_have_value("0")


def test_a_larger_text_stays_after_a_reload(visit: Visit) -> None:
    page = visit("?tab=sample")
    page.get_by_role("button", name="Larger text").click()
    page.get_by_role("button", name="Larger text").click()
    page.reload()
    page.wait_for_selector("section[data-panel=header] .pill")
    assert page.evaluate("document.documentElement.style.fontSize") == "130%"


def test_a_tab_is_kept_in_the_address(visit: Visit) -> None:
    page = visit("?tab=sample")
    page.get_by_role("tab", name="Curves").click()
    page.wait_for_url("**tab=curves**")
    page.reload()
    expect(page.get_by_role("tab", name="Curves")).to_have_attribute("aria-selected", "true")


def test_stop_and_closing_the_tab_end_the_sampling(visit: Visit, engine: FakeEngine) -> None:
    engine.pause_s = 0.3
    page = visit("?tab=sample")
    page.get_by_role("button", name="What colour is the crow?").click()
    expect(page.locator('.column[data-role="sft"] .said')).to_contain_text("The capital")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped; this is what had been said.")).to_be_visible()
    wait_for(lambda: engine.closed == 1)
    said = page.locator('.column[data-role="sft"] .said').inner_text()
    page.get_by_role("button", name="What colour is the crow?").click()
    expect(page.locator('.column[data-role="base"] .said')).to_contain_text("The capital")
    page.close()
    wait_for(lambda: engine.closed == 2)
    assert said != SAID["sft"]


def wait_for(what: Callable[[], bool]) -> None:
    """Waits up to ninety seconds for something that will come by itself."""
    for _ in range(900):
        if what():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")


def test_roles_and_unknown_words(visit: Visit, engine: FakeEngine) -> None:
    page = visit("?tab=sample&roles=sft,policy")
    expect(page.locator("article.column")).to_have_count(2)
    page.get_by_role("group", name="Who answers").get_by_role("button", name="base").click()
    expect(page.locator("article.column").first).to_have_attribute("data-role", "base")
    page.get_by_label("Prompt", exact=True).fill("What colour is the zebroid?")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("does not know the word zebroid")
    page.get_by_role("alert").get_by_role("button", name="What colour is the crow?").click()
    expect(page.locator('.column[data-role="sft"] .said')).to_have_text(SAID["sft"])
    expect(page.get_by_role("alert")).to_have_count(0)


def test_nothing_a_model_says_runs(visit: Visit, root: Path, engine: FakeEngine) -> None:
    """Every panel with hostile prompts, answers, tokens, reasons, errors; the fixture looks for what ran."""
    make_ppo(root, steps=60, total=60, state="failed", evil=True, error=EVIL)
    make_reward(root)
    make_sft(root)
    page = visit("?run=ppo-1")
    drawn(page)
    now = answers(page).locator(".answer.now")
    expect(now.locator(".said")).to_contain_text("<img src=x onerror=")
    expect(page.get_by_label("The run", exact=True)).to_contain_text("<script>window.__xss=2</script>")
    answers(page).get_by_role("button", name="Δ log p").click()
    expect(now.locator(".said")).to_contain_text("<img src=x onerror=")
    assert page.locator(".lab img, .lab script").count() == 0
    page.get_by_role("tab", name="Sample").click()
    page.get_by_label("Prompt", exact=True).fill("evil")
    page.get_by_role("button", name="Generate").click()
    said = page.locator('.column[data-role="sft"] .said')
    expect(said).to_contain_text("%{y}")
    for view in ("diff", "Δ log p", "entropy", "reward", "text"):
        page.get_by_label("Sample from the models").get_by_role("button", name=view).click()
        expect(said).to_contain_text("<img src=x onerror=")
    page.get_by_label("Prompt", exact=True).fill("a zebroid")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("<img src=x")
    assert page.locator(".lab img, .lab script").count() == 0
    page.wait_for_timeout(300)


def test_raw_files_of_runs_are_not_served(visit: Visit, root: Path, address: str) -> None:
    make_ppo(root)
    page = visit()
    for path in (root / "ppo-1" / "events.jsonl", root / "ppo-1" / "config.json", Path("/etc/passwd")):
        assert page.request.get(f"{address}gradio_api/file={path}").status in (403, 404)
    assert page.request.get(f"{address}studio-assets/../app.py").status == 404
