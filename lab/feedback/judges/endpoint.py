"""A model behind an OpenAI-compatible endpoint as a judge: a hosted one, or vLLM, llama.cpp or Ollama on this machine.

Requests go out a few at a time through the openai client, which tries again after 408, 409, 429, 5xx, a timeout or a
lost connection, waits as long as the server says, and otherwise longer each time. What then still fails is an opinion
without an answer, with the reason; only what would fail for every request (a wrong key, an unknown model) stops.

The key is read from the environment when a judge asks, and kept nowhere: not in the judge, not in what it says. Should
a server repeat it in an error, it is struck out.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import threading
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from lab.feedback.judges.generative import opinion, plain
from lab.feedback.judges.wording import ONE_LETTER, THINK_FIRST, Wording
from lab.feedback.judging import JudgeError, Opinion
from lab.records import Comparison

TOP = 20
"""Most probable first tokens asked for where probabilities are read; the protocol's limit."""

REASON = 200
"""Characters of a server's words that are shown with an error."""


@dataclass(frozen=True)
class EndpointJudge:
    """A model behind an endpoint, asked in words.

    model, base_url : as the server calls it, and where it is: https://api.example.org/v1
    key_env     : environment variable that holds the key; empty for a server that wants none
    price       : of a million tokens read and a million written, in whatever currency
    timeout     : seconds for one try; retries: further tries
    at_once     : requests under way together
    logprobs    : read P(A) and P(B) off the first token instead of a verdict in words
    temperature : None leaves it to the server
    max_tokens  : of a judgement; None leaves it to the server
    body        : further fields of the request, such as {"reasoning_effort": "low"}

    Raises JudgeError for an address that is none or holds a password, and for settings that make no sense.
    """

    model: str
    base_url: str
    key_env: str = "OPENAI_API_KEY"
    wording: Wording | None = None
    price: tuple[float, float] = (0.0, 0.0)
    timeout: float = 60.0
    retries: int = 4
    at_once: int = 8
    logprobs: bool = False
    temperature: float | None = 0.0
    max_tokens: int | None = 512
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query:
            raise JudgeError("The address of the endpoint holds a name, a password or a query; give the address alone, "
                             "and the key in an environment variable.")  # fmt: skip
        if not re.fullmatch(r"https?://(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?(/\S*)?", self.base_url):
            raise JudgeError(f"{self.base_url!r} is no address of an endpoint; give one such as "
                             "http://localhost:8000/v1.")  # fmt: skip
        if not self.model:
            raise JudgeError("No model is named; an endpoint is written endpoint:model@http://localhost:8000/v1.")
        if self.at_once < 1 or self.retries < 0 or not self.timeout > 0 or min(self.price) < 0:
            raise JudgeError("At least one request at once, no fewer than 0 retries, a timeout above 0 and prices from "
                             "0 on make an endpoint's settings.")  # fmt: skip

    @property
    def name(self) -> str:
        return self.model

    def cost(self, tokens: tuple[int, int]) -> float:
        """What (read, written) tokens cost, in the currency of the price. Tries that failed are not in the count."""
        return (tokens[0] * self.price[0] + tokens[1] * self.price[1]) / 1e6

    def ask(self, comparisons: Sequence[Comparison]) -> list[Opinion]:
        """What the model says to every comparison, in order; from any thread, also beside a running event loop.

        Raises JudgeError without a key, and where the server refuses the key, the model or the address for good.
        """
        return _beside(self._ask(comparisons, self._key()))

    def _key(self) -> str:
        if not self.key_env:
            return ""
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise JudgeError(f"The environment variable {self.key_env} holds no key for {self.base_url}; set it there, "
                             "name another one, or name none for a server that wants no key.")  # fmt: skip
        return key

    async def _ask(self, comparisons: Sequence[Comparison], key: str) -> list[Opinion]:
        from openai import AsyncOpenAI

        gate = asyncio.Semaphore(self.at_once)
        async with AsyncOpenAI(api_key=key or "none", base_url=self.base_url, timeout=self.timeout,
                               max_retries=self.retries) as client:  # fmt: skip

            async def one(c: Comparison) -> Opinion:
                async with gate:
                    return await self._opinion(client, c, key)

            return list(await asyncio.gather(*map(one, comparisons)))

    async def _opinion(self, client: Any, c: Comparison, key: str) -> Opinion:
        import openai

        wording = self.wording or (ONE_LETTER if self.logprobs else THINK_FIRST)
        request: dict[str, Any] = {"messages": [{"role": "user", "content": wording.compare(c)}], "model": self.model}
        limit = 1 if self.logprobs else self.max_tokens
        known = {"temperature": self.temperature, "max_tokens": limit}
        request |= {name: value for name, value in known.items() if value is not None}
        if self.logprobs:
            request |= {"logprobs": True, "top_logprobs": TOP}
        try:
            # the client's own limit is for each silence of the server; one that drips would hold the judge for ever
            async with asyncio.timeout(self.timeout * (self.retries + 1) * 2 + 120 * self.retries):
                answer = await client.chat.completions.create(**request, extra_body=dict(self.body) or None)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise JudgeError(f"{self.base_url} refuses {self.model} ({error.status_code}: {_said(error, key)}); check "
                             "the address, the model's name and the key.") from None  # fmt: skip
        except openai.APIStatusError as error:
            return Opinion(None, f"the server answered {error.status_code}: {_said(error, key)}")
        except (openai.APITimeoutError, TimeoutError):
            return Opinion(None, f"no answer within {self.timeout:g} s")
        except openai.APIConnectionError:
            return Opinion(None, f"no connection to {self.base_url}")
        except (openai.APIError, ValueError, RecursionError) as error:  # a body that is no JSON, or not the protocol's
            return Opinion(None, f"the server's answer cannot be read: {_said(error, key)}")
        return self._read(answer, wording, key)

    def _read(self, answer: Any, wording: Wording, key: str) -> Opinion:
        """The opinion in a chat completion, whatever came instead of one."""
        usage = getattr(answer, "usage", None)
        tokens = (_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))
        choices = getattr(answer, "choices", None)
        if not isinstance(choices, list) or not choices:
            text = plain(_without(answer, key)[:REASON]) if isinstance(answer, str) else ""
            return Opinion(None, "the server's answer holds no choice" + (f": {text}" if text else ""), tokens)
        choice = choices[0]
        if self.logprobs:
            return _first_token(choice, wording.labels, tokens)
        text = getattr(getattr(choice, "message", None), "content", None)
        if not isinstance(text, str):
            return Opinion(None, "it said nothing", tokens)
        return opinion(_without(text, key), tokens)


def _beside(work: Coroutine[Any, Any, list[Opinion]]) -> list[Opinion]:
    """Awaits in an event loop of its own: a notebook has one in this thread already.

    Where it fails, or whoever waits is interrupted, nothing that is under way goes on.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="lab-judge", daemon=True)
    thread.start()
    try:
        return asyncio.run_coroutine_threadsafe(work, loop).result()
    finally:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_stop_all(), loop).result(5.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5.0)
        if not thread.is_alive():
            loop.close()


async def _stop_all() -> None:
    """Cancels what the loop still does, and waits for the end of it."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _first_token(choice: Any, labels: Sequence[str], tokens: tuple[int, int]) -> Opinion:
    """P(A) / (P(A) + P(B)) over the most probable first tokens, in any spelling and case of the two labels."""
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if not isinstance(content, list) or not content:
        return Opinion(None, "the server gives no log-probabilities; ask for a verdict in words", tokens)
    mass = [0.0, 0.0]
    for t in getattr(content[0], "top_logprobs", None) or ():
        word, value = getattr(t, "token", None), getattr(t, "logprob", None)
        if isinstance(word, str) and isinstance(value, (int, float)) and value <= 0:
            for i, label in enumerate(labels[:2]):
                mass[i] += math.exp(value) * (word.strip(" \n\t*([\"'").casefold() == label.casefold())
    if not sum(mass):
        return Opinion(None, f"none of the {TOP} most probable first tokens is {' or '.join(labels[:2])}", tokens)
    return Opinion(mass[0] / sum(mass), "", tokens)


def _count(usage: Any, name: str) -> int:
    """Tokens the server says it counted, 0 where it does not say."""
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and value > 0 else 0


def _said(error: Exception, key: str) -> str:
    """The first words of an error, for people, without the key."""
    body = getattr(error, "body", None)
    text = body.get("message") if isinstance(body, dict) else None
    text = plain(_without(str(text or getattr(error, "message", None) or error), key)[: 4 * REASON])
    return text if len(text) <= REASON else text[:REASON] + "…"


def _without(text: str, key: str) -> str:
    return text.replace(key, "•••") if key else text
