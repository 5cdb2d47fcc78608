"""Judging pairs as people do: a real Chromium, keys, thumbs, a network that goes away, and text that means harm."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.feedback.labels.store import Store

from .fake_labels import HOSTILE, ReadingEngine, free_rules, judge, pairs
from .made import EVIL, make_ppo, make_sft

pytest.importorskip("gradio")
expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser

Visit = Callable[..., Any]
BODY = "[data-panel=label] .reply.a .body"


@pytest.fixture
def engine() -> ReadingEngine:
    return ReadingEngine()


@pytest.fixture
def store(root: Path) -> Any:
    """The store the Studio of this test opens."""
    with Store.open(root.parent / "labels.sqlite", rules=free_rules()) as opened:
        yield opened


def panel(page: Any) -> Any:
    return page.locator("[data-panel=label]")


def ready(page: Any) -> None:
    """A pair is there, and has been for as long as a key is passed over after a new one."""
    page.wait_for_selector(f"{BODY} .text")
    page.wait_for_timeout(450)


def press(page: Any, key: str) -> None:
    """Presses a key on the pair that is shown, and waits for another pair or a card."""
    ready(page)
    before = page.locator("[data-panel=label] .versus").inner_text()
    page.keyboard.press(key)
    page.wait_for_function(
        """before => { const v = document.querySelector('[data-panel=label] .versus');
        return v.offsetParent === null || v.innerText !== before; }""",
        arg=before,
    )


def test_a_block_of_ten_by_keys_and_the_card_about_oneself(visit: Visit, store: Store, root: Path) -> None:
    make_sft(root)
    make_ppo(root, steps=90)
    store.add(pairs(30))
    judge(store, "tom", 20)
    page = visit("?tab=label")
    expect(panel(page).get_by_role("heading", name="Which answer is better?")).to_be_visible()
    for n in range(10):
        expect(panel(page).locator(".oneself")).to_have_count(0)
        press(page, str(1 + n % 5))
    card = panel(page).get_by_role("region", name="About your votes")
    expect(card).to_contain_text("Your first ten")
    expect(card).to_contain_text("picked the longer one")
    expect(card).to_contain_text(re.compile(r"you agreed with most of the others \d of \d"))
    mine = [e for e in store.events() if e.annotator == "me"]
    shown_first = [e.strength if e.first == "a" else -e.strength for e in mine]
    assert shown_first == [2, 1, 0, -1, -2] * 2
    assert all(e.ms is not None and e.ms >= 400 for e in mine)
    page.get_by_role("button", name="Train my reward model").click()
    expect(panel(page)).to_contain_text("It would ship")
    expect(panel(page).locator(".shipped tbody tr").first).to_contain_text("right on votes it has not seen")
    page.keyboard.press("Enter")
    expect(panel(page).locator(BODY.split(" ", 1)[1])).to_be_visible()
    panel(page).get_by_text("About your votes so far").click()
    expect(panel(page).get_by_role("region", name="About your votes")).to_contain_text("picked A")


def test_two_quick_presses_are_one_vote_and_a_held_key_is_one(visit: Visit, store: Store) -> None:
    store.add(pairs(9))
    page = visit("?tab=label")
    ready(page)
    page.evaluate("""() => { for (let i = 0; i < 5; i++)
        document.dispatchEvent(new KeyboardEvent('keydown', { code: 'Digit1', key: '1', repeat: i > 2 })); }""")
    expect(panel(page).get_by_text(re.compile(r"saved ✓"))).to_be_visible()
    assert len(store.events()) == 1


def test_a_key_right_after_a_new_pair_is_passed_over(visit: Visit, store: Store) -> None:
    store.add(pairs(9))
    page = visit("?tab=label")
    press(page, "2")
    page.keyboard.press("2")  # within the 400 ms in which nobody has read anything
    page.wait_for_timeout(600)
    assert len(store.events()) == 1


def test_typing_a_note_casts_no_vote_and_goes_with_the_vote(visit: Visit, store: Store) -> None:
    store.add(pairs(9))
    page = visit("?tab=label")
    ready(page)
    note = panel(page).get_by_label("A note, optional")
    note.fill("")
    note.press_sequentially("12 both bad?")
    assert store.events() == []
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Shift+Digit1")
    page.keyboard.press("Shift+Digit4")
    expect(panel(page).get_by_role("button", name=re.compile("^correct"))).to_have_attribute("aria-pressed", "true")
    press(page, "4")
    (said,) = store.events()
    assert (said.note, said.reasons) == ("12 both bad?", ("correct", "concise"))
    expect(note).to_have_value("")


def test_both_bad_skip_and_undo(visit: Visit, store: Store) -> None:
    store.add(pairs(9))
    page = visit("?tab=label")
    press(page, "b")
    second = panel(page).locator(".versus").inner_text()
    press(page, "s")
    press(page, "u")
    assert panel(page).locator(".versus").inner_text() == second
    press(page, "u")
    ready(page)
    assert [e.kind for e in store.events()] == ["vote", "skip", "undo", "undo"]
    assert store.events()[0].choice == "both_bad"
    expect(panel(page)).to_contain_text("you 0")


def test_a_vote_survives_a_network_that_goes_away(visit: Visit, store: Store) -> None:
    store.add(pairs(9))
    page = visit("?tab=label")
    ready(page)
    page.context.set_offline(True)
    page.keyboard.press("1")
    expect(panel(page).get_by_text("Waiting for the network; nothing is lost.")).to_be_visible()
    assert store.events() == []
    page.wait_for_timeout(1500)
    page.context.set_offline(False)
    expect(panel(page).get_by_text(re.compile("saved ✓"))).to_be_visible()
    assert len(store.events()) == 1
    visit.complaints[:] = [c for c in visit.complaints if "ERR_INTERNET_DISCONNECTED" not in c]  # type: ignore[attr-defined]


def test_a_vote_under_way_survives_a_reload(visit: Visit, store: Store) -> None:
    store.add(pairs(9))
    page = visit("?tab=label")
    ready(page)
    page.route(re.compile("component_server"), lambda route: route.abort())
    page.keyboard.press("1")
    expect(panel(page).get_by_text("Waiting for the network; nothing is lost.")).to_be_visible()
    page.unroute(re.compile("component_server"))
    page.reload()
    page.wait_for_selector(f"{BODY} .text")
    expect(panel(page)).to_contain_text("you 1")
    assert len(store.events()) == 1
    visit.complaints[:] = [c for c in visit.complaints if "ERR_FAILED" not in c]  # type: ignore[attr-defined]


def test_a_pair_withdrawn_meanwhile_is_a_sentence_and_the_next_one(visit: Visit, store: Store) -> None:
    store.add(pairs(9))
    page = visit("?tab=label")
    ready(page)
    text = panel(page).locator(BODY.split(" ", 1)[1]).inner_text()
    item = next(i for i in store.items() if text in (i.comparison.a, i.comparison.b))
    store.person("ada")
    store.withdraw(item.id, "ada", "w")
    press(page, "1")
    expect(panel(page).get_by_text(re.compile("This pair was withdrawn"))).to_be_visible()
    assert [e.kind for e in store.events()] == ["withdraw"]


def test_hostile_text_is_text(visit: Visit, store: Store) -> None:
    store.add(pairs(0, hostile=True))
    page = visit("?tab=label")
    seen: set[str] = set()
    for _ in HOSTILE:
        ready(page)
        for side in "ab":
            seen.add(panel(page).locator(f".reply.{side} .text").evaluate("n => n.textContent"))
        assert page.locator("[data-panel=label] img, [data-panel=label] script").count() == 0
        page.keyboard.press("3")
        page.wait_for_timeout(500)
    assert set(HOSTILE) <= seen
    assert f"0 {EVIL}" in seen


def test_nothing_to_judge_says_what_to_do(visit: Visit, store: Store) -> None:
    page = visit("?tab=label")
    expect(panel(page).get_by_role("heading", name="No pairs yet")).to_be_visible()
    expect(panel(page).get_by_text("lab label add comparisons.jsonl")).to_be_visible()
    store.add(pairs(2))
    page.wait_for_selector(f"{BODY} .text")


def test_on_a_phone_the_answers_stack_and_thumbs_reach_every_choice(visit: Visit, store: Store) -> None:
    store.add(pairs(9))
    page = visit("?tab=label", width=400, height=860, has_touch=True)
    ready(page)
    a, b = (panel(page).locator(f".reply.{side}").bounding_box() for side in "ab")
    assert b["y"] >= a["y"] + a["height"]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for name in ("A much better", "A better", "Tie", "B better", "B much better"):
        box = panel(page).get_by_role("button", name=name, exact=True).bounding_box()
        assert box["width"] >= 44
        assert box["height"] >= 44
    panel(page).get_by_role("button", name="B better", exact=True).tap()
    expect(panel(page)).to_contain_text("you 1")


def test_the_keyboard_alone_reaches_everything_and_everything_has_a_name(visit: Visit, store: Store) -> None:
    store.add(pairs(9))
    page = visit("?tab=label")
    ready(page)
    unnamed = panel(page).locator("button, input").evaluate_all(
        "nodes => nodes.filter(n => !(n.getAttribute('aria-label') || n.textContent.trim())).length")  # fmt: skip
    assert unnamed == 0
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("A is much better")
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    assert store.events() == []
