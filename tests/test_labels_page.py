"""The labelling page in a real Chromium: text stays text, keys are guarded, nothing comes from elsewhere."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from label_stores import some_items

from lab import label_server
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item, Rules
from lab.label_server import LabelServer
from lab.records import Comparison, Message

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>"
CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "labels.sqlite", rules=Rules(overlap=1, explore=0, gold=0, repeats=0)) as found:
        chat = (Message("system", "be brief"), Message("user", EVIL))
        found.add([Item(Comparison(chat, EVIL + "a", EVIL + "b"), uncertainty=1.0), *some_items(4)])
        yield found


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    import uvicorn

    listener = label_server._listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(LabelServer(store).app(), log_level="warning", lifespan="off",
                                           timeout_graceful_shutdown=1))  # fmt: skip
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """The page, logged in, the first pair on it; `asked` are the hosts it asked, `errors` what it complained of."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.set_default_timeout(60_000)
        page.add_init_script("window.now = 0; performance.now = () => window.now")  # a clock that the tests move
        page.asked, page.errors = set(), []
        page.on("request", lambda r: page.asked.add(r.url.split("/")[2]))
        page.on("pageerror", lambda e: page.errors.append(str(e)))
        page.goto(address)
        page.get_by_label("Nickname").fill("mina")
        page.get_by_label("PIN").fill("2718")
        page.get_by_role("button", name="Start").click()
        page.wait_for_selector("#pair:not([hidden])")
        yield page
        browser.close()


def votes(store: Store) -> list[tuple[str, int]]:
    return [(e.choice or "", e.strength) for e in store.state().votes()]


def after_guard(page: Any) -> None:
    """The pair has been there for half a second."""
    page.evaluate("window.now += 500")


def test_what_a_model_said_is_text(page: Any, address: str) -> None:
    texts = page.locator("#pair .text").all_inner_texts()
    assert sorted(texts) == sorted(["be brief", EVIL, EVIL + "a", EVIL + "b"])
    assert page.locator("#pair img, #pair script").count() == 0
    assert page.title() == "Which answer is better?"
    assert page.asked == {address.split("/")[2]}
    assert page.errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 400, "nothing to push sideways on a phone"


def test_keys_vote_once_and_undo_takes_back(page: Any, store: Store) -> None:
    page.evaluate("window.now += 300")
    page.keyboard.press("3")  # the first 400 ms of a pair are for reading
    page.evaluate("window.now += 200")
    page.keyboard.press("1")
    page.keyboard.press("5")
    page.wait_for_selector("#said:has-text('saved')")
    (first,) = votes(store)
    assert abs(first[1]) == 2, "neither the early 3 nor the 5 after it"
    after_guard(page)
    page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: '3', repeat: true}))")
    page.get_by_label("A note, optional").fill("12345")
    page.get_by_label("A note, optional").press("b")
    assert len(votes(store)) == 1, "a held key and a typed one are no votes"
    page.get_by_role("button", name="concise").click()
    page.get_by_role("button", name="Tie").click()
    page.wait_for_selector("#mine:has-text('2 votes')")
    tie = store.state().votes()[1]
    assert (tie.choice, tie.reasons, tie.note) == ("tie", ("concise",), "12345b")
    for left in ("1 vote", "0 votes"):
        page.wait_for_selector("#undo:enabled")
        after_guard(page)
        page.keyboard.press("u")
        page.wait_for_selector(f"#mine:has-text('{left}')")
    assert votes(store) == []


def test_the_end_of_the_pairs_is_said_and_undo_works_there(page: Any, store: Store) -> None:
    for key in "b4s23":
        page.wait_for_selector("#undo:enabled")
        after_guard(page)
        shown = page.locator("#first").inner_text()
        page.keyboard.press(key)
        page.wait_for_selector(f"#empty:not([hidden]), #pair:not([hidden]) #first:not(:has-text({json.dumps(shown)}))")
    page.wait_for_selector("#empty:not([hidden])")
    assert sorted(e.kind for e in store.events()) == ["skip", "vote", "vote", "vote", "vote"]
    assert ("both_bad", 0) in votes(store)
    page.wait_for_selector("#undo:enabled", state="attached")
    after_guard(page)
    page.get_by_role("button", name="Undo my last answer").click()
    page.wait_for_selector("#pair:not([hidden])")
