"""A room of several people: each with a browser of their own, a host among them, and nothing shown too early."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lab.feedback.labels.store import Store

from .entering import Enter, enter, store  # noqa: F401 - fixtures
from .fake_labels import judge, pairs, strengths
from .made import make_ppo, make_sft

pytest.importorskip("gradio")
expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser


def panel(page: Any) -> Any:
    return page.locator("[data-panel=room]")


def test_a_round_from_the_opening_to_the_talk(enter: Enter, store: Store, root: Path) -> None:  # noqa: F811
    make_sft(root)
    make_ppo(root, steps=30)
    store.add(pairs(12))
    host, mina = enter("ada", "room", host=True), enter("mina", "room")
    expect(panel(mina).get_by_role("heading", name="No round yet")).to_be_visible()
    host.get_by_label("Title of the round").fill("capitals")
    host.get_by_role("button", name="Open a round").click()
    expect(panel(mina).get_by_role("heading", name="Round 1 · capitals")).to_be_visible()
    for name, said in (("mina", [1]), ("tom", [-1]), ("li", [1, 1, -1])):
        judge(store, name, 12, strengths(said))
    expect(panel(host).get_by_role("region", name="Agreement")).to_contain_text("36 votes by 3 people")
    expect(panel(host).get_by_role("region", name="Bias check")).to_contain_text("chose the longer")
    expect(panel(mina).get_by_text("Everybody judges, blind")).to_be_visible()
    expect(panel(mina)).to_contain_text("36 of 36")
    assert panel(mina).get_by_role("region", name="Agreement").count() == 0
    assert "ppo-1" not in panel(mina).inner_text()

    host.get_by_role("button", name="Reveal").click()
    host.get_by_role("button", name="Reveal to everybody now?").click()
    expect(panel(mina).get_by_role("region", name="Most disputed pairs")).to_be_visible()
    expect(panel(mina).get_by_role("region", name="Whose answers were chosen")).to_contain_text("ppo-1")
    assert panel(mina).get_by_role("button", name=re.compile("Talk about|Withdraw|Train|Export")).count() == 0
    panel(mina).locator(".dispute .open").first.click()
    pair = mina.get_by_role("dialog", name="A pair with its votes")
    expect(pair).to_contain_text("tom")
    expect(pair).to_contain_text(re.compile("sft-1|ppo-1|base"))
    mina.keyboard.press("Escape")

    boxes = panel(host).get_by_role("checkbox")
    expect(boxes.nth(0)).to_be_checked()
    expect(boxes.nth(5)).not_to_be_checked()
    boxes.nth(0).uncheck()
    host.get_by_role("button", name="Talk about 4 pairs, and vote again").click()
    again = panel(mina).get_by_role("region", name="Judge again")
    expect(again.locator(".again")).to_have_count(4)
    group = again.get_by_role("group", name="Judge again").first
    group.get_by_role("button", name="Tie").click()
    expect(panel(mina).get_by_text("Your second vote is saved.")).to_be_visible()
    expect(again.get_by_role("group", name="Judge again").first.get_by_role("button", name="Tie")).to_have_attribute(
        "aria-pressed", "true")  # fmt: skip
    expect(panel(host).get_by_role("region", name="Agreement")).to_contain_text("after the talk")
    assert sorted(e.kind for e in store.events())[:1] == ["undo"]
    assert sum(e.kind == "vote" for e in store.events()) == 37
    host.get_by_role("button", name="Close the round").click()
    expect(host.get_by_role("button", name="Next round")).to_be_visible()


def test_whoever_judges_is_stopped_by_a_pause_and_goes_on(enter: Enter, store: Store) -> None:  # noqa: F811
    store.add(pairs(12))
    host, mina = enter("ada", "room", host=True), enter("mina", "label")
    host.get_by_role("button", name="Open a round").click()
    label = mina.locator("[data-panel=label]")
    expect(label).to_contain_text("Round 1")
    host.get_by_role("button", name="Pause").click()
    expect(label.get_by_text("The host has paused the round; your place is kept.")).to_be_visible()
    host.get_by_role("button", name="Go on").click()
    expect(label.locator(".reply.a .text")).to_be_visible()


def test_the_rooms_reward_model_export_and_withdrawal(enter: Enter, store: Store) -> None:  # noqa: F811
    store.add(pairs(40))
    for name in ("mina", "tom"):
        judge(store, name, 40)
    host = enter("ada", "room", host=True)
    host.get_by_role("button", name="Train the room's reward model").click()
    head = panel(host).get_by_role("region", name="The room's reward model")
    expect(head).to_contain_text("the best anybody could do")
    expect(head).to_contain_text("No run has answered the probe prompts yet")
    with host.expect_download() as caught:
        host.get_by_role("button", name="Export events").click()
    rows = [json.loads(line) for line in Path(caught.value.path()).read_text(encoding="utf-8").splitlines()]
    assert sum(r.get("what") == "event" for r in rows) == 80
    assert re.fullmatch(r"labels-events-\d{8}-\d{4}\.jsonl", caught.value.suggested_filename)
    store.person("zoe")
    showing = store.assign("zoe")
    assert showing is not None
    store.record(showing.vote(-2 if len(str(showing.shown.a)) < len(str(showing.shown.b)) else 2))
    panel(host).locator(".dispute .open").first.click()
    host.get_by_role("button", name="Withdraw this pair").click()
    expect(panel(host).get_by_text("The pair is withdrawn; its votes no longer count.")).to_be_visible()
    expect(panel(host).get_by_text("No pair has two votes that differ.")).to_be_visible()


def test_hostile_pairs_names_and_notes_are_text(enter: Enter, store: Store) -> None:  # noqa: F811
    store.add(pairs(0, hostile=True))
    names = ("<b>mina</b>", "מינה", "😀")
    for name, said in zip(names, ([1], [-1], [1]), strict=True):
        store.person(name)
        for _ in range(4):
            showing = store.assign(name)
            assert showing is not None
            store.record(showing.vote(said[0], note="<script>window.__xss=9</script>", ms=5000))
    host = enter("ada", "room", host=True, width=400, height=860)
    expect(panel(host).get_by_role("region", name="Who agrees with whom")).to_contain_text("<b>mina</b>")
    panel(host).locator(".dispute .open").first.click()
    expect(host.get_by_role("dialog", name="A pair with its votes")).to_contain_text("<script>window.__xss=9</script>")
    assert host.locator("[data-panel=room] script, dialog script, dialog img").count() == 0
    host.keyboard.press("Escape")
    assert host.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_an_empty_room_says_what_to_do_and_roles_make_pairs(enter: Enter, store: Store) -> None:  # noqa: F811
    host = enter("ada", "room", host=True)
    expect(panel(host).get_by_role("heading", name="No pairs yet")).to_be_visible()
    host.get_by_label("Prompts, one a line").fill("Hello\nWhat is 5 plus 1?")
    host.get_by_role("button", name="Make pairs").click()
    expect(panel(host).get_by_text("2 new pairs in the queue.")).to_be_visible()
    assert len(store.items()) == 2
