"""The Arena panel in a real browser: what is seen, chosen and started there, and that nothing hostile runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.studio.people import Person
from lab.feedback.labels.room import Room
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item, Rules, vote
from lab.records import Comparison

from .conftest import CHROMIUM
from .made import EVIL
from .made_contests import Contests, fill

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

Visit = Callable[..., Any]


@pytest.fixture
def engine() -> Contests:
    return Contests(0.02)


@pytest.fixture
def store(root: Path, address: str) -> Store:
    """The store that the Studio has open, opened a second time."""
    return Store.open(root.parent / "labels.sqlite")


def panel(page: Any) -> Any:
    return page.locator("section[data-panel=arena]")


def test_from_nothing_to_a_leaderboard(visit: Visit, store: Store) -> None:
    """The empty panel says how policies meet; a duel is chosen and started; a judge votes; the table is there."""
    from playwright.sync_api import expect

    page = visit("?tab=arena")
    arena = panel(page)
    expect(arena.get_by_role("heading", name="No policies have met yet")).to_be_visible()
    expect(arena.get_by_text("lab label add --roles sft-1,ppo-1")).to_be_visible()
    begin = arena.get_by_role("button", name="Start the duel")
    expect(begin).to_be_disabled()
    for role in ("sft", "policy"):
        arena.get_by_role("group", name="Roles of the duel (two to four)").get_by_role("button", name=role).click()
    arena.get_by_label("Prompts", exact=True).fill("What is 5 plus 1?\nName two animals.\nHow do I make salad?")
    begin.click()
    expect(arena.get_by_text("The duel of sft, policy: done. 3 new pairs in the queue.")).to_be_visible()
    expect(arena.get_by_role("heading", name="3 pairs wait for votes")).to_be_visible()
    arena.get_by_label("or another, as lab judge takes it").fill("gold")
    arena.get_by_role("button", name="Let it vote").click()
    expect(arena.get_by_text("gold votes: done. 3 verdicts kept")).to_be_visible()
    rows = arena.get_by_role("region", name="The leaderboard as a table").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("sft")
    expect(arena.get_by_text("sft won every vote and policy won none")).to_be_visible()
    expect(arena.locator(".js-plotly-plot .errorbar")).to_have_count(2)


def test_one_looks_closer(visit: Visit, store: Store) -> None:
    """A cell of the matrix chooses the disputed pair; the address keeps what was chosen."""
    from playwright.sync_api import expect

    fill(store)
    page = visit("?tab=arena")
    arena = panel(page)
    expect(arena.get_by_text("120 votes · 24 pairs · 0 without one")).to_be_visible()
    table = arena.get_by_role("region", name="The leaderboard as a table")
    expect(table.locator("tbody tr").first).to_contain_text("policy")
    expect(table.locator("tbody tr").first).to_contain_text("70 %")
    cell = arena.get_by_role("button", name="base against sft: 30 % of 40 votes; show the disputed pairs")
    cell.focus()
    page.keyboard.press("Enter")
    expect(arena.get_by_role("combobox", name="One policy")).to_have_value("base")
    expect(arena.locator(".met").first.locator(".answer").first).to_contain_text("base")
    assert "one=base&other=sft" in page.url
    arena.get_by_role("combobox", name="One policy").select_option("sft")
    expect(arena.get_by_role("combobox", name="The other policy")).to_have_value("base")
    page.reload()
    expect(arena.get_by_role("combobox", name="The other policy")).to_have_value("base")
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) == 0


def test_on_a_phone_nothing_is_cut_off(visit: Visit, store: Store) -> None:
    from playwright.sync_api import expect

    fill(store)
    page = visit("?tab=arena", width=400, height=800)
    expect(panel(page).locator(".js-plotly-plot .errorbar").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_hostile_names_prompts_and_answers_are_text(visit: Visit, store: Store) -> None:
    from playwright.sync_api import expect

    store.rule(Rules(overlap=1))
    item = Item(Comparison(EVIL, f"{EVIL} a", f"{EVIL} b"), source={"a": EVIL, "b": f"{EVIL} other"})
    store.add([item])
    store.record(vote(item.id, store.person("mina"), "k", 1))
    page = visit("?tab=arena")
    arena = panel(page)
    expect(arena.locator(".met .said").first).to_have_text(f"{EVIL} a")
    expect(arena.locator(".standings tbody th").first).to_have_text(EVIL)
    expect(arena.locator(".met b").first).to_have_text(EVIL)
    expect(arena.locator(".js-plotly-plot .errorbar").first).to_be_visible()
    assert arena.locator("img, script, .js-plotly-plot a").count() == 0


def test_others_see_it_after_the_reveal(visit: Visit, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing before it, not even the host's tools; everything but those afterwards."""
    from playwright.sync_api import expect

    monkeypatch.setattr("apps.studio.door.ME", Person("mina"))
    fill(store)
    room = Room(store)
    room.turn("open", "host")
    arena = panel(visit("?tab=arena"))
    expect(arena.get_by_role("heading", name="Not yet")).to_be_visible()
    assert arena.get_by_text("policy").count() == 0
    room.turn("reveal", "host")
    expect(arena.get_by_text("120 votes")).to_be_visible()
    expect(arena.get_by_role("button", name="Start the duel")).to_be_hidden()
