"""The Constitution panel in a real browser: editing, the test that follows, versions, the chain, and the round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from apps.studio.people import Person
from lab.feedback.constitution.versions import Versions, yaml_of
from lab.feedback.labels.learning import records
from lab.feedback.labels.store import Store

from .conftest import CHROMIUM
from .made import EVIL
from .made_contests import fill
from .test_constitution_panel import Revising

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

Visit = Callable[..., Any]


@pytest.fixture
def engine() -> Revising:
    return Revising(0.02)


@pytest.fixture
def store(root: Path, address: str) -> Store:
    """The store that the Studio has open, opened a second time, with people's votes in it."""
    found = Store.open(root.parent / "labels.sqlite")
    fill(found)
    return found


def panel(page: Any) -> Any:
    return page.locator("section[data-panel=constitution]")


def test_a_change_is_tested_as_it_is_typed_and_kept_as_a_version(visit: Visit, store: Store, root: Path) -> None:
    """Switch brevity off: 14 judgements flip. Save twice: two versions, the second beside the first."""
    from playwright.sync_api import expect

    page = visit("?tab=constitution")
    desk = panel(page)
    expect(desk.get_by_role("img", name="tiny (preset): 88 %")).to_be_visible()
    desk.get_by_label("brevity is on").uncheck()
    expect(desk.get_by_text("14 judgements flip. Gain −29.2 points")).to_be_visible()
    expect(desk.get_by_role("img", name="this draft: 58 %")).to_be_visible()
    expect(
        desk.get_by_role("region", name="What changed").or_(desk.locator("[aria-label='What changed']"))
    ).to_contain_text("brevity")
    expect(desk.get_by_text("not saved")).to_be_visible()
    save = desk.get_by_role("button", name="Save as a new version")
    save.click()
    expect(desk.get_by_text("is no name for a constitution")).to_be_visible()
    desk.get_by_label("Name", exact=True).fill("our-room")
    save.click()
    expect(desk.get_by_text("Saved as our-room v1.")).to_be_visible()
    desk.get_by_label("What is asked of harm").fill("Do nobody any harm.")
    save.click()
    expect(desk.get_by_text("Saved as our-room v2.")).to_be_visible()
    assert Versions(root).all() == {"our-room": [1, 2]}
    expect(desk.get_by_role("combobox", name="Beside")).to_have_value("our-room v1")
    changed = desk.locator("[aria-label='What changed']")
    expect(changed.locator("ins").first).to_have_text("nobody any harm.")
    page.reload()
    expect(desk.get_by_role("combobox", name="Constitution", exact=True)).to_have_value("our-room v2")
    expect(desk.get_by_label("What is asked of harm")).to_have_value("Do nobody any harm.")


def test_what_is_broken_is_marked_where_it_is(visit: Visit, store: Store) -> None:
    from playwright.sync_api import expect

    page = visit("?tab=constitution")
    desk = panel(page)
    desk.get_by_label("What is asked of claim").fill("")
    expect(desk.locator(".principle.broken")).to_have_count(1)
    expect(desk.locator(".principle.broken .wrong")).to_have_text("text is empty; it must be text.")
    desk.get_by_role("button", name="YAML").click()
    note = desk.get_by_text("text is empty; it must be text.")
    expect(note).to_contain_text("Line ")
    desk.get_by_role("button", name="Show line").click()
    area = desk.get_by_label("The constitution as YAML")
    assert area.evaluate("e => e.value.slice(e.selectionStart, e.selectionEnd).trim()") == "text: ''"
    desk.get_by_role("button", name="form", exact=True).click()
    expect(desk.get_by_text("mend what is marked, then the form can show it")).to_be_visible()
    area.fill(area.input_value().replace("text: ''", "text: Say what is true."))
    desk.get_by_role("button", name="form", exact=True).click()
    expect(desk.get_by_label("What is asked of claim")).to_have_value("Say what is true.")
    expect(desk.locator(".principle.broken")).to_have_count(0)


def test_principles_are_added_moved_and_removed_by_keyboard(visit: Visit, store: Store) -> None:
    from playwright.sync_api import expect

    page = visit("?tab=constitution")
    desk = panel(page)
    desk.get_by_role("button", name="Add a principle").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("Be kind.")
    card = desk.locator(".principle").last
    card.get_by_text("A model is asked about its answer").locator("..").locator("textarea").fill("Is it kind?")
    card.get_by_text("and then").locator("..").locator("textarea").fill("Make it kind.")
    expect(desk.get_by_text("No program can check the principle principle-7")).to_be_visible()
    card.get_by_role("button", name="Move principle-7 up").focus()
    page.keyboard.press("Enter")
    expect(desk.locator(".principle").nth(5)).to_have_attribute("data-id", "principle-7")
    desk.locator(".principle").nth(5).locator("summary").click()
    desk.get_by_role("button", name="Remove principle-7").click()
    expect(desk.locator(".principle")).to_have_count(6)
    expect(desk.get_by_text("not saved")).to_have_count(0)


def test_a_draft_that_was_left_can_be_had_back(visit: Visit, store: Store) -> None:
    from playwright.sync_api import expect

    page = visit("?tab=constitution")
    desk = panel(page)
    desk.get_by_label("What is asked of harm").fill("Half a thought.")
    page.reload()
    expect(desk.get_by_text("A draft made from tiny (preset) was not saved.")).to_be_visible()
    desk.get_by_role("button", name="Bring it back").click()
    expect(desk.get_by_label("What is asked of harm")).to_have_value("Half a thought.")
    expect(desk.get_by_text("not saved", exact=True)).to_be_visible()


def test_the_chain_and_the_round(visit: Visit, store: Store, root: Path) -> None:
    from playwright.sync_api import expect

    Versions(root).save("mine", yaml_of("mine", "", [
        {"id": "short", "text": "Be brief.", "critique": "?", "revision": "!", "critic": "brevity"}]))  # fmt: skip
    page = visit("?tab=constitution&constitution=mine&version=1")
    desk = panel(page)
    desk.get_by_label("Prompt of the chain").fill("What is a question?")
    page.keyboard.press("Enter")
    steps = desk.locator(".chain > li")
    expect(steps).to_have_count(3)
    expect(steps.nth(0)).to_contain_text("What a question! It is good.")
    expect(steps.nth(1).locator("del")).to_have_text("What a question!")
    expect(steps.nth(2)).to_contain_text("−0.5→+1")
    desk.get_by_role("button", name="Let it vote").click()
    expect(desk.get_by_text("constitution:mine-v1 votes: done · 24 votes kept")).to_be_visible()
    address = desk.get_by_role("link", name="Train on them").get_attribute("href")
    asked = dict(parse_qsl(address.removeprefix("?")))
    where, _, options = asked["data"].removeprefix("labels:").partition("?")
    assert (asked["tab"], where) == ("train", str(root.parent / "labels.sqlite"))
    assert parse_qsl(options) == [("by", "constitution:mine-v1"), ("made_by", "constitution")]
    assert len(records(asked["data"].removeprefix("labels:"), "preference").some()) > 0
    assert store.makers()["constitution:mine-v1"] == "constitution"


def test_hostile_principles_prompts_and_revisions_are_text(visit: Visit, store: Store, root: Path) -> None:
    from playwright.sync_api import expect

    Versions(root).save("evil", yaml_of("evil", EVIL, [
        {"id": f"{EVIL[:20]} {i}", "text": f"{EVIL} {i}", "critique": EVIL, "revision": EVIL, "critic": "brevity"}
        for i in range(2)]))  # fmt: skip
    Versions(root).save("evil", yaml_of("evil", EVIL, [
        {"id": EVIL, "text": f"{EVIL} other", "critique": EVIL, "revision": EVIL, "critic": "brevity"}]))  # fmt: skip
    page = visit("?tab=constitution&constitution=evil&version=2")
    desk = panel(page)
    expect(desk.locator(".principle b").first).to_contain_text(EVIL)
    expect(desk.locator("[aria-label='What changed'] b").first).to_have_text(EVIL)
    desk.get_by_label("Prompt of the chain").fill(f"evil {EVIL}")
    page.keyboard.press("Enter")
    expect(desk.locator(".chain .said").first).to_have_text(EVIL)
    expect(desk.locator(".chain .reasons")).to_contain_text(EVIL)
    assert desk.locator("img, script").count() == 0


def test_on_a_phone_nothing_is_cut_off(visit: Visit, store: Store) -> None:
    from playwright.sync_api import expect

    page = visit("?tab=constitution", width=400, height=800)
    expect(panel(page).get_by_role("img", name="tiny (preset): 88 %")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_others_read(visit: Visit, store: Store, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field is there and none can be changed; the reason is said; nothing of the votes before the reveal."""
    from playwright.sync_api import expect

    monkeypatch.setattr("apps.studio.door.ME", Person("mina"))
    Versions(root).save("mine", yaml_of("mine", "", [
        {"id": "short", "text": "Be brief.", "critique": "?", "revision": "!", "critic": "brevity"}]))  # fmt: skip
    desk = panel(visit("?tab=constitution"))
    expect(desk.get_by_text("the host writes them and lets them vote")).to_be_visible()
    expect(desk.get_by_label("What is asked of short")).to_be_disabled()
    expect(desk.get_by_text("is shown after the reveal")).to_be_visible()
    for name in ("Save as a new version", "Add a principle", "Write and revise", "Let it vote"):
        expect(desk.get_by_role("button", name=name)).to_be_hidden()
    desk.get_by_role("combobox", name="Constitution", exact=True).select_option("general")
    expect(desk.locator(".principle")).to_have_count(11)
    desk.get_by_role("button", name="YAML").click()
    expect(desk.get_by_label("The constitution as YAML")).to_have_attribute("readonly", "")
