"""The labelling server: who may ask, what is refused, forty people at once over real HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from label_stores import some_items
from starlette.testclient import TestClient

from lab import label_server
from lab.feedback.labels import gate
from lab.feedback.labels.store import Store
from lab.feedback.labels.words import Item, LabelError, Rules
from lab.label_server import PAGE, LabelServer, allowed_host
from lab.records import Comparison

EVIL = "<img src=x onerror=alert(1)>"
HERE = "http://127.0.0.1:7870"
PLAIN = Rules(overlap=2, explore=0.0, gold=0.0, repeats=0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "labels.sqlite", rules=PLAIN) as found:
        found.add(some_items(20))
        yield found


@pytest.fixture
def server(store: Store) -> LabelServer:
    return LabelServer(store, code="sesame")


@pytest.fixture
def client(server: LabelServer) -> TestClient:
    return TestClient(server.app(), base_url=HERE)


def login(client: TestClient, name: str = "mina", pin: str = "2718", code: str = "sesame") -> Any:
    return client.post("/login", json={"name": name, "pin": pin, "code": code})


def shown(client: TestClient) -> dict[str, Any]:
    return client.get("/next").json()["next"]


# --- one person ------------------------------------------------------------------------------------------------------


def test_the_whole_round(client: TestClient, store: Store) -> None:
    assert login(client).json() == {
        "name": "mina",
        "reasons": list(label_server.REASONS),
        "mine": 0,
        "room": 0,
        "wanted": 40,
    }
    pair = shown(client)
    assert set(pair) == {"item", "key", "prompt", "first", "second", "cut"}, (
        "nothing that gives a model or a check away"
    )
    body = {"item": pair["item"], "key": pair["key"], "strength": 2, "ms": 4321, "reasons": ["safe"], "note": EVIL}
    answer = client.post("/vote", json=body)
    assert (answer.status_code, answer.json()["saved"], answer.json()["new"]) == (200, True, True)
    (event,) = store.events()
    stored = store.item(pair["item"]).comparison
    better = stored.a if event.choice == "a" else stored.b
    assert [{"role": "assistant", "text": better}] == pair["first"], "above 0, what stood first is better"
    assert (abs(event.strength), event.ms, event.reasons, event.note) == (2, 4321, ("safe",), EVIL)
    following = answer.json()["next"]
    assert following["item"] != pair["item"]
    assert shown(client) == following
    assert client.post("/skip", json={"item": following["item"], "key": following["key"]}).json()["saved"]
    assert client.get("/me").json()["mine"] == 1
    assert client.post("/undo", json={"key": "u" * 8}).json()["next"]["item"] == following["item"]
    assert client.post("/undo", json={"key": "v" * 8}).json()["next"]["item"] == pair["item"]
    assert client.post("/undo", json={"key": "w" * 8}).status_code == 409
    assert client.get("/me").json()["mine"] == 0


def test_two_quick_presses_are_one_vote(client: TestClient, store: Store) -> None:
    login(client)
    pair = shown(client)
    answers = [client.post("/vote", json={"item": pair["item"], "key": pair["key"], "strength": s}) for s in (1, -2)]
    assert [a.json()["new"] for a in answers] == [True, False]
    assert answers[0].json()["next"] == answers[1].json()["next"]
    assert len(store.events()) == 1


def test_a_withdrawn_pair_is_refused_kindly_and_another_one_comes(client: TestClient, store: Store) -> None:
    login(client)
    pair = shown(client)
    store.withdraw(pair["item"], "host", "w")
    answer = client.post("/vote", json={"item": pair["item"], "key": pair["key"], "strength": 1})
    assert answer.status_code == 409
    assert "Thank you" in answer.json()["error"]
    assert answer.json()["next"]["item"] != pair["item"]


def test_a_key_that_was_never_given_is_no_vote(client: TestClient, store: Store) -> None:
    login(client)
    pair = shown(client)
    for item, key in ((pair["item"], "made up"), ("0" * 16, pair["key"])):
        answer = client.post("/vote", json={"item": item, "key": key, "strength": 1})
        assert answer.status_code == 409
        assert "not yours any more" in answer.json()["error"]
    assert store.events() == []


def test_nothing_left_is_said_with_null(client: TestClient, store: Store) -> None:
    login(client)
    for item in store.items():
        store.withdraw(item.id, "host", "w")
    assert client.get("/next").json() == {"next": None}


# --- who may ask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "body"), [
    ("GET", "/next", None), ("GET", "/me", None), ("POST", "/vote", {"item": "i", "key": "k", "strength": 1}),
    ("POST", "/skip", {"item": "i", "key": "k"}), ("POST", "/undo", {"key": "k" * 8})])  # fmt: skip
def test_without_a_session_nothing_is_said(client: TestClient, method: str, path: str, body: Any) -> None:
    for headers in ({}, {"cookie": "label_session=made-up"}):
        answer = client.request(method, path, json=body, headers=headers)
        assert answer.status_code == 401
        assert set(answer.json()) == {"error"}


def test_the_cookie_cannot_be_read_by_scripts_or_sent_by_other_sites(client: TestClient) -> None:
    words = login(client).headers["set-cookie"].lower()
    assert "httponly" in words
    assert "samesite=strict" in words
    assert client.post("/logout", json={}).status_code == 200
    assert client.get("/me").status_code == 401


def test_the_code_the_name_and_the_pin_are_asked_for(client: TestClient) -> None:
    assert "workshop's code" in login(client, code="wrong").json()["error"]
    assert login(client).status_code == 200
    taken = login(client, pin="3141")
    assert (taken.status_code, "taken" in taken.json()["error"]) == (403, True)
    for _ in range(4):
        login(client, pin="3141")
    assert "Too many wrong PINs" in login(client).json()["error"]
    assert login(client, name="tom").status_code == 200


def test_codes_cannot_be_guessed_for_long(client: TestClient, server: LabelServer) -> None:
    for _ in range(gate.MOST_WRONG_CODES):
        assert "not the workshop's code" in login(client, code="wrong").json()["error"]
    assert "wait a minute" in login(client).json()["error"], "even the right one: nobody learns it by trying"
    server.gate._wrong.clear()
    assert login(client).status_code == 200


@pytest.mark.parametrize("headers", [
    {"origin": "http://evil.example"}, {"origin": "http://127.0.0.1:9999"}, {"origin": "null"},
    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}])  # fmt: skip
def test_posts_of_other_sites_are_refused(client: TestClient, store: Store, headers: dict[str, str]) -> None:
    login(client)
    pair = shown(client)
    body = {"item": pair["item"], "key": pair["key"], "strength": 1}
    assert client.post("/vote", json=body, headers=headers).status_code == 403
    assert store.events() == []
    own = {"origin": HERE, "sec-fetch-site": "same-origin"}
    assert client.post("/vote", json=body, headers=own).status_code == 200


def test_a_form_of_another_site_is_no_json(client: TestClient) -> None:
    login(client)
    answer = client.post("/undo", content=b'{"key": "12345678"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 415


def test_a_name_that_points_here_is_not_enough(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/", headers={"host": "localhost:7870"}).status_code == 200


@pytest.mark.parametrize(("host", "exposed", "allowed"), [
    ("127.0.0.1:7870", False, True), ("localhost", False, True), ("[::1]:7870", False, True),
    ("10.0.0.7:7870", False, False), ("10.0.0.7:7870", True, True), ("evil.example", True, False),
    ("evil.example", False, False), ("", False, False), ("", True, False)])  # fmt: skip
def test_which_names_are_ours(host: str, exposed: bool, allowed: bool) -> None:
    assert allowed_host(host, exposed) == allowed


def test_other_machines_need_a_code(store: Store) -> None:
    for code in ("", "12345"):
        with pytest.raises(LabelError, match="code of 6 characters"):
            LabelServer(store, code=code, exposed=True)


# --- what they may say -----------------------------------------------------------------------------------------------

VOTE = {"item": "i", "key": "k", "strength": 1}


@pytest.mark.parametrize(("path", "body", "status"), [
    ("/vote", VOTE | {"strength": 3}, 400), ("/vote", VOTE | {"strength": "1"}, 400),
    ("/vote", VOTE | {"strength": True}, 400), ("/vote", VOTE | {"ms": -1}, 400), ("/vote", VOTE | {"ms": 1e9}, 400),
    ("/vote", VOTE | {"reasons": ["other"]}, 400), ("/vote", VOTE | {"note": "x" * 2001}, 400),
    ("/vote", VOTE | {"annotator": "tom"}, 400), ("/vote", {"item": "i"}, 400), ("/vote", [1], 400),
    ("/vote", VOTE | {"note": "x" * 20_000}, 413), ("/undo", {"key": "short"}, 400), ("/login", {"name": "mina"}, 400),
    ("/login", {"name": "mina", "pin": 2718}, 400), ("/logout", {"x": 1}, 400), ("/nothing", {}, 404)])  # fmt: skip
def test_bodies_that_do_not_fit(client: TestClient, store: Store, path: str, body: Any, status: int) -> None:
    login(client)
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert store.events() == []


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 10_000, b'{"key": NaN}'])
def test_bodies_that_are_no_json(client: TestClient, content: bytes) -> None:
    login(client)
    answer = client.post("/undo", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_control_characters_in_a_note_are_refused(client: TestClient) -> None:
    login(client)
    pair = shown(client)
    answer = client.post("/vote", json={"item": pair["item"], "key": pair["key"], "strength": 1, "note": "\x1b[2J"})
    assert (answer.status_code, "U+001B" in answer.json()["error"]) == (400, True)


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_asks_nothing_of_other_machines_and_writes_only_text() -> None:
    page = PAGE.read_text()
    assert re.findall(r"https?://|//[a-z]+\.|@import|url\(", page) == []
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(script) == 1
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "srcdoc",
        "DOMParser",
    ):
        assert way not in script[0]
    assert re.findall(r"\son\w+=", page.replace(script[0], "")) == []
    assert "<style" in page
    assert "style=" not in page.replace(script[0], "")


def test_the_page_may_run_its_own_script_and_no_other(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"


def test_what_a_model_said_goes_out_as_json_text(client: TestClient, store: Store) -> None:
    store.add([Item(Comparison(EVIL, EVIL + "a", EVIL + "b", (True, False)), uncertainty=9.0, split="training")])
    login(client)
    answer = client.get("/next")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    pair = answer.json()["next"]
    assert pair["prompt"] == [{"role": "user", "text": EVIL}]
    assert {pair["first"][0]["text"], pair["second"][0]["text"]} == {EVIL + "a", EVIL + "b"}
    assert sorted(pair["cut"]) == [False, True]


# --- forty people ----------------------------------------------------------------------------------------------------


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    """A server on a free port of this machine, over real HTTP."""
    import uvicorn

    listener = label_server._listen("127.0.0.1", 0)
    settings = uvicorn.Config(LabelServer(store).app(), log_level="warning", access_log=False, lifespan="off",
                              timeout_graceful_shutdown=1)  # fmt: skip
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


async def judge(address: str, name: str, acknowledged: list[tuple[str, str]]) -> None:
    """One person, three votes, about one a second; every other one is sent twice."""
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        assert (await client.post("/login", json={"name": name, "pin": "2718"})).status_code == 200
        pair = (await client.get("/next")).json()["next"]
        for number in range(3):
            body = {"item": pair["item"], "key": pair["key"], "strength": 1}
            twice = [client.post("/vote", json=body) for _ in range(1 + number % 2)]
            answers = await asyncio.gather(*twice)
            assert {a.status_code for a in answers} == {200}, answers[0].text
            assert sum(a.json()["new"] for a in answers) == 1
            acknowledged.append((name, pair["item"]))
            pair = answers[-1].json()["next"]
            await asyncio.sleep(1)


def test_forty_people_lose_no_vote_and_double_none(address: str, store: Store) -> None:
    store.rule(Rules(overlap=3, explore=0.2, gold=0.0, repeats=0.0))
    store.add(some_items(200)[20:])
    acknowledged: list[tuple[str, str]] = []

    async def room() -> None:
        await asyncio.gather(*(judge(address, f"person {i}", acknowledged) for i in range(40)))

    asyncio.run(room())
    votes = store.state().votes()
    assert len(acknowledged) == 120
    assert Counter((v.annotator, v.item) for v in votes) == Counter(acknowledged)
    assert max(Counter(v.item for v in votes).values()) <= 3
    assert len(store.events()) == len(acknowledged)


@pytest.mark.slow
def test_the_benchmark_of_the_room_says_what_it_found() -> None:
    from benchmarks.labellers import measure

    found = measure(seconds=2, people=4)
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert 4 <= found["votes"] <= 8
    assert found["most_votes_of_a_pair"] <= 3
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["max_ms"]


def test_no_address_is_kept(address: str, store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    httpx.post(address + "/login", json={"name": "mina", "pin": "2718"})
    httpx.get(address + "/next")
    with store.database.read() as connection:
        rows = [tuple(row) for table in ("annotators", "sessions", "events", "leases", "about")
                for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]  # fmt: skip
    assert "127.0.0.1" not in json.dumps(rows, default=repr)
    assert "127.0.0.1" not in "".join(capfd.readouterr())
