"""A judge behind an endpoint, against a real server on this machine that misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from lab.cli import main
from lab.feedback.judges.endpoint import EndpointJudge
from lab.feedback.judging import JudgeError, Opinion, habits, judge
from lab.records import Comparison

KEY = "sk-very-secret-0123456789"
Answer = tuple[int, dict[str, str], bytes]
PAIR = Comparison("Why is the sky blue?", "Rayleigh scattering.", "Because.")


def said(content: Any, **more: Any) -> Answer:
    """A chat completion with this content."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}} | more
    return reply({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
                  "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}})  # fmt: skip


def reply(body: Any, status: int = 200, kind: str = "application/json", **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return status, {"Content-Type": kind} | headers, raw


class Server:
    """Answers request number n with `script(n, body)`; None is no answer at all. Remembers what came."""

    def __init__(self) -> None:
        self.script: Callable[[int, Any], Answer | None] = lambda n, body: said("[[A]]")
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.now = self.most = 0
        self.stop = threading.Event()
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    n = len(outer.bodies)
                    outer.bodies.append(body)
                    outer.headers.append({k.lower(): v for k, v in self.headers.items()})
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                answer = outer.script(n, body)
                with lock:
                    outer.now -= 1
                if answer is None:
                    outer.stop.wait(20)
                    return
                status, headers, raw = answer
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(raw))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self) -> None:
        self.stop.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    made = Server()
    yield made
    made.close()


def asked(server: Server, *scripted: Answer | None, **settings: Any) -> Opinion:
    """One opinion, where the requests are answered in this order, the last answer again and again."""
    before = len(server.bodies)
    server.script = lambda n, body: scripted[min(n - before, len(scripted) - 1)]
    given = {"key_env": "JUDGE_KEY", "timeout": 5.0, "retries": 0} | settings
    (found,) = EndpointJudge("m", server.url, **given).ask([PAIR])
    return found


# --- what goes right -------------------------------------------------------------------------------------------------


def test_what_is_asked_and_what_it_costs(server):
    judge_ = EndpointJudge("some/model", server.url, "JUDGE_KEY", price=(3.0, 15.0), body={"reasoning_effort": "low"})
    server.script = lambda n, body: said("The first one says why.\n[[A]]")
    (found,) = judge_.ask([PAIR])
    assert found == Opinion(1.0, "The first one says why. [[A]]", (100, 7))
    (body,) = server.bodies
    assert {k: v for k, v in body.items() if k != "messages"} == {
        "model": "some/model", "temperature": 0.0, "max_tokens": 512, "reasoning_effort": "low"}  # fmt: skip
    (message,) = body["messages"]
    assert message["role"] == "user"
    assert message["content"].index(PAIR.prompt) < message["content"].index(PAIR.a) < message["content"].index(PAIR.b)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    # 2 million read at 3 and 1 million written at 15
    assert judge_.cost((2_000_000, 1_000_000)) == 21.0


def test_opinions_keep_the_order_and_no_more_are_under_way_than_asked_for(server):
    pairs = [Comparison(f"{i}?", f"{i} yes", f"{i} no") for i in range(24)]

    def answer(n, body):
        i = int(body["messages"][0]["content"].split("<prompt>\n")[1].split("?")[0])
        time.sleep(0.02 * (i % 3))
        return said(f"[[{'ABC'[i % 3]}]]")

    server.script = answer
    found = EndpointJudge("m", server.url, "JUDGE_KEY", at_once=3).ask(pairs)
    assert [o.p for o in found] == [1.0, 0.0, 0.5] * 8
    assert 1 < server.most <= 3


def test_a_judge_of_places_is_found_out(server):
    """It says A whatever stands there: in both orders together that is a tie, with all the bias there can be."""
    pairs = [Comparison("x?", f"a{i}", f"b{i}") for i in range(4)]
    found = habits(judge(EndpointJudge("m", server.url, "JUDGE_KEY"), pairs))
    assert (found.position_bias, found.consistency, found.ties, found.tokens) == (0.5, 0.0, 1.0, (800, 56))


def test_log_probabilities_of_the_first_token(server):
    """P(A) = .6 + .1 in two spellings, P(B) = .2: .7 / .9; other words count for neither."""
    tops = [("A", 0.6), (" a", 0.1), ("B", 0.2), ("Both", 0.05), ("", 0.01)]
    logs = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in tops]
    found = asked(server, said("A", logprobs={"content": [logs[0] | {"top_logprobs": logs}]}), logprobs=True)
    assert found.p == pytest.approx(0.7 / 0.9)
    body = server.bodies[0]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)
    other = [{"token": "Hm", "logprob": 0.0, "bytes": None}]
    none = asked(server, said("Hm", logprobs={"content": [other[0] | {"top_logprobs": other}]}), logprobs=True)
    assert none == Opinion(None, "none of the 20 most probable first tokens is A or B", (100, 7))
    assert asked(server, said("A"), logprobs=True).why == ("the server gives no log-probabilities; ask for a verdict "
                                                           "in words")  # fmt: skip


def test_it_answers_beside_a_running_event_loop(server):
    """A notebook's cell runs in one."""

    async def cell() -> list[Opinion]:
        return EndpointJudge("m", server.url, "JUDGE_KEY").ask([PAIR])

    assert asyncio.run(cell())[0].p == 1.0


def test_the_command_asks_counts_and_compares(server, tmp_path):
    """Two pairs in both orders at 100 tokens read and 7 written each: 400 at 5000 and 28 at 10000 a million."""
    rows = [
        {"prompt": "x?", "chosen": "good one", "rejected": "bad"},
        {"prompt": "y?", "chosen": "bad", "rejected": "good"},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server.script = lambda n, body: said("[[A]]" if "<answer A>\ngood" in body["messages"][0]["content"] else "[[B]]")
    done = CliRunner().invoke(main, ["judge", "--pairs", str(tmp_path / "pairs.jsonl"), "--judge",
                                     f"endpoint:m@{server.url}", "--price", "5000", "10000", "--json"])  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.output.splitlines()[-1])["judges"][f"endpoint:m@{server.url}"]
    assert (found["tokens"], found["cost"]) == ([400, 28], pytest.approx(2.28))
    assert (found["consistency"], found["agreement"]["mean"]) == (1.0, 0.5)
    assert KEY not in server.headers[0]["authorization"], "a server of this machine wants no key"


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_it_tries_again(server):
    busy = reply({"error": {"message": "slow down"}}, 429, **{"Retry-After": "0.05"})
    broken = reply({"error": {"message": "oh"}}, 500, **{"retry-after-ms": "20"})
    assert asked(server, busy, broken, said("[[B]]"), retries=2).p == 0.0
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (reply({"error": {"message": "slow down"}}, 429), "the server answered 429: slow down"),
        (reply({"error": {"message": "oh"}}, 500), "the server answered 500: oh"),
        (reply("<html>Bad gateway</html>", 502, "text/html"), "the server answered 502: "),
        (reply({"error": {"message": "too long"}}, 400), "the server answered 400: too long"),
        (reply("<html><body>Sign in</body></html>", 200, "text/html"), "the server's answer holds no choice: <html>"),
        (reply("{not json"), "the server's answer cannot be read: "),
        (reply(b"\xff\xfe\x00"), "the server's answer cannot be read: "),
        (reply("[" * 200_000), "the server's answer cannot be read: "),
        (reply(""), "the server's answer cannot be read: "),
        (reply("null"), "the server's answer holds no choice"),
        (reply([1, 2]), "the server's answer holds no choice"),
        (reply({"choices": []}), "the server's answer holds no choice"),
        (reply({"choices": None}), "the server's answer holds no choice"),
        (reply({"choices": [None]}), "it said nothing"),
        (reply({"choices": [{"message": None}]}), "it said nothing"),
        (said(None), "it said nothing"),
        (said({"text": "[[A]]"}), "it said nothing"),
        (said(""), "it said nothing"),
        (said("I can not choose."), "no verdict in: I can not choose."),
    ],
)
def test_nonsense_is_no_answer_with_the_reason(server, answer, why):
    found = asked(server, answer)
    assert found.p is None
    assert found.why.startswith(why), found.why
    assert len(found.why) < 700


def test_huge_answers_and_control_characters(server):
    told = "\x1b[31mred\x07\x00 " + "word " * 400_000 + "\n\u202e[[A]]\x1b[0m"
    found = asked(server, said(told))
    assert found.p == 1.0
    assert len(found.why) <= 600
    assert found.why.isprintable()
    assert found.why.endswith("[[A]] [0m")


def test_no_answer_in_time_and_no_server(server):
    assert asked(server, None, timeout=0.2) == Opinion(None, "no answer within 0.2 s")
    assert asked(server, None, said("[[A]]"), timeout=0.2, retries=1).p == 1.0
    assert len(server.bodies) == 3
    server.close()
    assert asked(server, said("[[A]]")) == Opinion(None, f"no connection to {server.url}")


def test_those_that_fail_are_counted_beside_those_that_answer(server):
    server.script = lambda n, body: said("[[A]]") if "good" in body["messages"][0]["content"] else reply({}, 500)
    pairs = [Comparison("x?", "good", "y"), Comparison("x?", "bad", "z")]
    found = habits(judge(EndpointJudge("m", server.url, "JUDGE_KEY", retries=0), pairs))
    assert (found.asked, found.unanswered) == (2, 1)


# --- the key ---------------------------------------------------------------------------------------------------------


def test_without_a_key_there_is_one_sentence(server, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(JudgeError, match=r"^The environment variable JUDGE_KEY holds no key for http://127.0.0.1"):
        EndpointJudge("m", server.url, "JUDGE_KEY").ask([PAIR])
    assert server.bodies == []
    assert EndpointJudge("m", server.url, "").ask([PAIR])[0].p == 1.0
    assert KEY not in server.headers[0]["authorization"]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_would_fail_every_time_stops(server, status):
    server.script = lambda n, body: reply({"error": {"message": f"no: {KEY}"}}, status)
    with pytest.raises(JudgeError) as error:
        EndpointJudge("m", server.url, "JUDGE_KEY", at_once=2).ask([PAIR] * 40)
    assert str(error.value) == (f"{server.url} refuses m ({status}: no: •••); check the address, the model's name and "
                                "the key.")  # fmt: skip
    assert len(server.bodies) < 40


def test_the_key_is_in_nothing_that_can_be_seen(server, caplog):
    caplog.set_level(logging.DEBUG)
    echoes = [said(f"{KEY} [[A]]"), said(f"hm {KEY}"), said("x" * 500 + KEY + "y" * 595),
              reply({"error": {"message": f"bad key {KEY}"}}, 500), reply(f"<p>{KEY}</p>", 200, "text/html"),
              reply(f"<p>{'x' * 185}{KEY}</p>", 200, "text/html"), reply(f"<p>{KEY}</p>", 400, "text/html"),
              reply({"error": {"message": "z" * 790 + KEY}}, 400), reply(f"{{{KEY}")]  # fmt: skip
    who = EndpointJudge("m", server.url, "JUDGE_KEY", retries=0)
    seen = [repr(who), str(vars(who))]
    for echo in echoes:
        seen.append(repr(asked(server, echo)))
    seen.append(caplog.text)
    for text in seen:
        assert KEY[:8] not in text
    assert any("•••" in text for text in seen)


@pytest.mark.parametrize(
    ("model", "url", "sentence"),
    [
        ("m", "https://me:secret@example.org/v1", "holds a name, a password or a query"),
        ("m", "https://example.org/v1?key=secret", "holds a name, a password or a query"),
        ("m", "example.org/v1", "is no address of an endpoint"),
        ("m", "https://exam ple.org", "is no address of an endpoint"),
        ("m", "file:///etc/passwd", "is no address of an endpoint"),
        ("", "https://example.org/v1", "No model is named"),
    ],
)
def test_addresses(model, url, sentence):
    with pytest.raises(JudgeError, match=sentence) as error:
        EndpointJudge(model, url)
    assert "secret" not in str(error.value)


def test_settings_that_make_no_sense():
    for wrong in ({"at_once": 0}, {"retries": -1}, {"timeout": 0.0}, {"price": (-1.0, 0.0)}):
        with pytest.raises(JudgeError, match="make an endpoint's settings"):
            EndpointJudge("m", "https://example.org/v1", **wrong)
