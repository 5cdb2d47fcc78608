"""The guide as people go through it: by keys, interrupted, on another device, and what the host skips."""

from __future__ import annotations

import pytest

from lab.feedback.labels.store import Store

from .entering import Enter, enter, store  # noqa: F401 - fixtures
from .fake_labels import pairs

pytest.importorskip("gradio")
expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser


def test_the_guide_resumes_where_somebody_was(enter: Enter, store: Store) -> None:  # noqa: F811
    store.add(pairs(12))
    mina = enter("mina", "guide")
    guide = mina.locator("[data-panel=guide]")
    expect(guide.get_by_role("heading", name="The rules, in a minute")).to_be_visible()
    mina.keyboard.press("Enter")
    for n in range(2):
        expect(guide.get_by_role("heading", name=f"Practice {n + 1} of 5")).to_be_visible()
        assert "flattery" not in guide.inner_text()
        mina.wait_for_timeout(450)
        mina.keyboard.press("5")
        expect(guide.locator(".verdict")).to_be_visible()
        mina.keyboard.press("Enter")
    expect(guide.get_by_role("heading", name="Practice 3 of 5")).to_be_visible()
    mina.reload()
    expect(guide.get_by_role("heading", name="Practice 3 of 5")).to_be_visible()
    phone = enter("mina", "guide", width=400, height=860).locator("[data-panel=guide]")
    expect(phone.get_by_role("heading", name="Practice 3 of 5")).to_be_visible()


def test_a_practice_answer_shows_its_points_and_a_prediction_is_kept(enter: Enter, store: Store) -> None:  # noqa: F811
    store.add(pairs(12))
    host = enter("ada", "guide", host=True)
    guide = host.locator("[data-panel=guide]")
    guide.get_by_role("button", name="Step 2: Practice").click()
    guide.get_by_role("button", name="A much better").click()
    expect(guide.locator(".verdict")).to_contain_text("✗ B is better.")
    expect(guide.get_by_role("list", name="Why answer A gets its true score")).to_contain_text("flattery −0.4")
    guide.get_by_role("button", name="Step 5: Predict").click()
    guide.get_by_role("button", name="ppo-1").click()
    guide.get_by_role("slider").fill("62")
    guide.get_by_role("button", name="Predict ↵").click()
    expect(guide.get_by_text("Your prediction is kept until the reveal.")).to_be_visible()
    guide.get_by_text("For the host: steps that nobody needs to take").click()
    guide.get_by_role("group", name="Steps to skip for all").get_by_role("button", name="Practice").click()
    mina = enter("mina", "guide").locator("[data-panel=guide]")
    expect(mina.get_by_role("button", name="Step 2: Practice, skipped by the host")).to_be_visible()
    assert mina.get_by_text("For the host").count() == 0
