"""What a request meets before the page does, by raw HTTP: a stranger, another site, somebody who is no host."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("gradio")

from apps.studio.door import HOST, SESSION, Door, DoorError
from apps.studio.parts import Labels
from apps.studio.people import ME, HostOnlyError, NobodyError, Person, acting, asking
from apps.studio.server import Studio, own_address
from lab.feedback.labels.gate import allowed_host

from .fake import FakeEngine
from .made import make_demo

CODE, HOST_CODE = "oslo-2026", "not-for-everybody"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A Studio for a room, over a finished and a running run."""
    folder = tmp_path_factory.mktemp("room")
    make_demo(folder / "runs")
    made = Studio(folder / "runs", port=free_port(), client=FakeEngine(), labels=folder / "labels.sqlite", exposed=True,
                  code=CODE, host_code=HOST_CODE).start().wait()  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def here(studio: Studio) -> str:
    return studio.address.rstrip("/")


@contextmanager
def client(here: str, name: str = "", code: str = CODE) -> Iterator[httpx.Client]:
    """A browser without scripts; with a name, one that has logged in."""
    with httpx.Client(base_url=here, trust_env=False, timeout=60, headers={"origin": here}) as made:
        if name:
            answer = made.post("/login", json={"name": name, "pin": "2718", "code": code})
            assert answer.status_code == 200, answer.text
        yield made


def call(who: httpx.Client, panel: str, function: str, ask: Any = None, **headers: str) -> httpx.Response:
    """Asks a function of a panel as its script does."""
    config = who.get("/config").json()
    ids = [c["id"] for c in config["components"] if f'data-panel="{panel}"' in str(c["props"].get("html_template", ""))]
    body = {"component_id": ids[0], "fn_name": function, "data": ask or {}, "session_hash": "abc"}
    return who.post("/gradio_api/component_server", json=body, headers=headers)


ENDPOINTS = [("GET", "/config"), ("GET", "/gradio_api/info"), ("GET", "/gradio_api/queue/data?session_hash=x"),
             ("GET", "/gradio_api/heartbeat/x"), ("GET", "/studio-assets/common.js"), ("GET", "/ready"),
             ("GET", "/assets/index.js"), ("GET", "/theme.css"), ("GET", "/nothing"),
             ("GET", "/gradio_api/file=/etc/passwd"),
             ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/component_server"),
             ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/call/generate"),
             ("POST", "/gradio_api/run/generate"), ("POST", "/run/predict")]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_a_stranger_is_refused_everywhere(here: str, method: str, path: str) -> None:
    with client(here) as stranger:
        answer = stranger.request(method, path, **({"json": {}} if method == "POST" else {}))
    assert answer.status_code == 401, answer.text
    assert "Log in first" in answer.json()["error"]


def test_a_stranger_sees_the_login_and_nothing_of_the_room(here: str) -> None:
    with client(here) as stranger:
        answer = stranger.get("/")
    assert answer.status_code == 200
    assert "Workshop code" in answer.text
    assert "ppo-1" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert answer.headers["x-frame-options"] == "DENY"


def test_cookies_are_for_this_site_and_for_no_script(here: str) -> None:
    with client(here) as person:
        answer = person.post("/login", json={"name": "cookie", "pin": "2718", "code": CODE})
    (session,) = [v for v in answer.headers.get_list("set-cookie") if v.startswith(SESSION)]
    assert "HttpOnly" in session
    assert "SameSite=strict" in session


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"},
                                     {"sec-fetch-site": "same-site"}, {"origin": "null"}])  # fmt: skip
def test_another_sites_page_is_refused(here: str, headers: dict[str, str]) -> None:
    with client(here, "victim") as person:
        answer = call(person, "header", "me", **headers)
    assert answer.status_code == 403
    assert "another site" in answer.json()["error"]


def test_a_form_of_another_site_cannot_post(here: str) -> None:
    with client(here, "victim") as person:
        answer = person.post("/gradio_api/component_server", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415


@pytest.mark.parametrize("path", ["/", "/config", "/ready"])
def test_a_name_this_machine_does_not_have_is_refused(here: str, path: str) -> None:
    with client(here, "victim") as person:
        answer = person.get(path, headers={"host": "evil.example"})
    assert answer.status_code == 421


@pytest.mark.parametrize("path", [
    "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../labels.sqlite", "/gradio_api/file=http://127.0.0.1:22/",
    "/gradio_api/proxy=http://169.254.169.254/latest", "/gradio_api/file/etc/passwd", "/monitoring", "/gradio_api/runs",
    "/gradio_api/stream/a/b/1/playlist.m3u8", "/studio-assets/..%2f..%2fapp.py", "/studio-assets/login.html",
    "/gradio_api/openapi.json", "/gradio_api/deep_link", "/custom_component/1/client/x/y",
])  # fmt: skip
def test_no_file_and_no_other_machine_can_be_asked_for(here: str, path: str) -> None:
    with client(here, "mina", HOST_CODE) as host:
        answer = host.get(path)
    assert answer.status_code == 404, answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/call/generate", "/gradio_api/run/generate",
                                  "/gradio_api/api/generate", "/gradio_api/vibe-edit",
                                  "/gradio_api/process_recording"])  # fmt: skip
def test_what_the_page_never_posts_is_not_there(here: str, path: str) -> None:
    with client(here, "mina", HOST_CODE) as host:
        assert host.post(path, json={"data": []}).status_code == 404
        assert host.put("/config").status_code == 405


def test_a_body_without_end_is_refused(here: str) -> None:
    with client(here, "mina", HOST_CODE) as host:
        answer = host.post("/gradio_api/component_server", json={"data": "x" * (1 << 20)})
    assert answer.status_code == 413


def test_who_is_asked_and_who_is_a_host(here: str) -> None:
    with client(here, "ana") as attendee, client(here, "mina", HOST_CODE) as host:
        assert call(attendee, "header", "me").json() == {"name": "ana", "host": False, "alone": False}
        assert call(host, "header", "me").json() == {"name": "mina", "host": True, "alone": False}
        attendee.cookies.set(HOST, "0" * 64)
        assert call(attendee, "header", "me").json()["host"] is False
        stolen = host.cookies[HOST]
        attendee.cookies.delete(HOST)
        attendee.cookies.set(HOST, stolen)
        assert call(attendee, "header", "me").json()["host"] is False, "the seal belongs to one session"


FOR_ALL = {
    "header": {"engine", "me"}, "guide": {"place", "step", "answer", "predict"}, "sample": {"roles", "send"},
    "label": {"place", "look", "vote", "skip", "undo", "about", "train", "trained"},
    "train": {"look", "check", "again"}, "curves": {"poll", "answers", "spreads", "send"},
    "constitution": {"look", "weigh", "open"}, "arena": {"look"}, "room": {"poll", "pair", "revote"},
}  # fmt: skip
"""Panel -> what an attendee may ask of it; everything else that the page offers is for the host alone."""


def offered(who: httpx.Client) -> dict[str, set[str]]:
    """Panel -> the functions that the page has."""
    found = {}
    for component in who.get("/config").json()["components"]:
        name = re.search(r'data-panel="(\w+)"', str(component["props"].get("html_template", "")))
        if name:
            found[name[1]] = set(component["props"]["server_fns"])
    return found


def test_every_function_that_is_not_for_all_is_refused_to_all_but_the_host(studio: Studio, here: str) -> None:
    engine: Any = studio.parts.link.client
    before = list(engine.asked)
    given = {"run": "ppo-1", "action": "stop", "name": "kl", "value": 0, "method": "sft", "prompt": "Why?"}
    with client(here, "ana") as attendee:
        found = offered(attendee)
        assert {panel: names & FOR_ALL[panel] for panel, names in found.items()} == FOR_ALL
        private = [(panel, name) for panel, names in found.items() for name in sorted(names - FOR_ALL[panel])]
        assert len(private) > 20
        for panel, name in private:
            for ask in ({}, given, {"kind": "reveal"}, {"steps": ["rules"]}, {"item": "x"}):
                told = call(attendee, panel, name, ask).json()
                assert set(told) == {"error"}, (panel, name, told)
            assert call(attendee, panel, name, ASKED_AS.get((panel, name), {})).json() == {
                "error": str(HostOnlyError())}, (panel, name)  # fmt: skip
    assert engine.asked == before, "the engine was not even asked"
    assert studio.parts.labels.store().items() == []


ASKED_AS: dict[tuple[str, str], dict[str, Any]] = {
    ("guide", "skip"): {"steps": ["rules"]}, ("room", "turn"): {"kind": "open"}, ("room", "withdraw"): {"item": "x"},
}  # fmt: skip
"""What a request looks like whose form is read before it is known who asks."""


def test_an_attendee_begins_with_the_guide_and_a_host_where_there_is_something(here: str) -> None:
    with client(here, "ana") as attendee, client(here, "mina", HOST_CODE) as host:
        assert attendee.get("/").headers["location"] == "?tab=guide"
        assert attendee.get("/?tab=label").status_code == 200
        assert host.get("/").status_code == 200


def test_whoever_leaves_is_out(here: str) -> None:
    with client(here, "leaver") as person:
        assert person.get("/config").status_code == 200
        token = person.cookies[SESSION]
        assert person.post("/logout", json={}).status_code == 200
        person.cookies.set(SESSION, token)
        assert person.get("/config").status_code == 401


def test_codes_and_pins_cannot_be_tried_without_end(here: str, studio: Studio) -> None:
    with client(here, "target") as person:
        for _ in range(5):
            assert person.post("/login", json={"name": "target", "pin": "0000", "code": CODE}).status_code == 403
        locked = person.post("/login", json={"name": "target", "pin": "2718", "code": CODE})
        assert locked.status_code == 403
        assert "Too many wrong PINs" in locked.json()["error"]
        codes = [
            person.post("/login", json={"name": "x", "pin": "0000", "code": f"guess{i}"}).json()["error"]
            for i in range(31)
        ]
        studio.door.gate._wrong.clear()
    assert codes[0].startswith("That is not the workshop's code")
    assert codes[-1].startswith("There were too many wrong workshop codes")


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"name": 1, "pin": "2718"}', b"[" * 50_000,
                                  b'{"name": "a", "pin": "2718", "more": 1}'])  # fmt: skip
def test_a_login_that_is_none(here: str, body: bytes) -> None:
    with client(here) as stranger:
        answer = stranger.post("/login", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert json.loads(answer.text)["error"].startswith("The request")


def test_on_a_laptop_nobody_logs_in_and_no_other_name_is_known(tmp_path: Path) -> None:
    door = Door(Labels(tmp_path / "labels.sqlite"))
    assert door.who("", "") is ME
    assert not (tmp_path / "labels.sqlite").exists(), "no store is made for looking at runs"
    with pytest.raises(DoorError, match="workshop code of 6"):
        Door(Labels(tmp_path / "labels.sqlite"), exposed=True, code="short")
    with pytest.raises(DoorError, match="is not the workshop's"):
        Door(Labels(tmp_path / "labels.sqlite"), exposed=True, code=CODE, host_code=CODE)


def test_a_hosts_seal_survives_a_restart_with_the_same_code(tmp_path: Path) -> None:
    labels = Labels(tmp_path / "labels.sqlite")
    entry = Door(labels, exposed=True, code=CODE, host_code=HOST_CODE).enter("mina", "2718", HOST_CODE)
    again = Door(labels, exposed=True, code=CODE, host_code=HOST_CODE)
    assert again.who(entry.token, entry.seal) == Person("mina", host=True)
    other = Door(labels, exposed=True, code=CODE, host_code="another-code")
    assert other.who(entry.token, entry.seal) == Person("mina", host=False)
    labels.close()


def test_the_address_for_a_room_is_one_that_the_door_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allowed_host(f"{own_address()}:7860", exposed=True)

    def nowhere(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", nowhere)
    assert own_address() == socket.gethostname()
    assert allowed_host(own_address(), exposed=True)


def test_nobody_is_let_in_by_accident() -> None:
    with pytest.raises(NobodyError):
        asking()
    with acting(Person("ana")):
        assert asking() == Person("ana")
    with pytest.raises(NobodyError):
        asking()


def test_the_first_page_is_there_before_gradio_is(tmp_path: Path) -> None:
    """It is served while the page is still being built, with the runs as they stand, whose names are text."""
    make_demo(tmp_path / "runs")
    (tmp_path / "runs" / "sft-1").rename(tmp_path / "runs" / "<b>sft")
    studio = Studio(tmp_path / "runs", port=free_port(), client=FakeEngine(), labels=tmp_path / "l.sqlite").start()
    try:
        with httpx.Client(base_url=studio.address, trust_env=False, timeout=60) as me:
            first = me.get("/").text
            ready = me.get("/ready").json()
            assert (ready["ready"], studio.loaded.is_set()) == (False, False)
            assert "ppo-1" in first
            assert "&lt;b&gt;sft" in first
            assert "<b>sft" not in first
            assert me.get("/config").status_code == 503
            studio.wait()
            assert me.get("/ready").json() == {"ready": True, "failed": ""}
            assert "window.gradio_config" in me.get("/").text
    finally:
        studio.close()
