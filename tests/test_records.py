"""Records: plain frozen values that read well, hash, and keep one identity."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lab.records import (
    Demonstration,
    Message,
    Preference,
    PromptRow,
    Rollout,
    as_messages,
    completion_text,
    digest,
    prompt_text,
    to_json,
)

USER = Message("user", "Hi.")
ASSISTANT = Message("assistant", "Hello.")
EVERY = (
    USER,
    Demonstration("Hi.", "Hello."),
    Preference((USER,), "Hello.", (ASSISTANT,), margin=0.5, annotator="expert", row=3),
    PromptRow("Hi."),
    Rollout("policy", "Hi.", "Hello.", (5, 6), (7, 1), True, (-0.5, -0.1)),
)


def test_a_plain_prompt_is_one_user_turn() -> None:
    assert as_messages("Hi.") == (USER,)
    assert as_messages((USER, ASSISTANT)) == (USER, ASSISTANT)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Hi.", "Hi."),
        ((USER,), "Hi."),
        ((Message("system", "Be brief."), USER), "system: Be brief.\nuser: Hi."),
        ((ASSISTANT,), "assistant: Hello."),
        ((), ""),
    ],
)
def test_prompts_read_as_people_would_write_them(prompt: object, text: str) -> None:
    assert prompt_text(prompt) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("Hello.", "Hello."),
        ((ASSISTANT,), "Hello."),
        ((ASSISTANT, USER, ASSISTANT), "assistant: Hello.\nuser: Hi.\nassistant: Hello."),
    ],
)
def test_completions_read_as_people_would_write_them(completion: object, text: str) -> None:
    assert completion_text(completion) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("record", EVERY, ids=lambda r: type(r).__name__)
def test_records_are_values(record: object) -> None:
    twin = dataclasses.replace(record)  # type: ignore[type-var]
    assert twin == record
    assert hash(twin) == hash(record)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, "other")  # type: ignore[arg-type]


def test_records_as_json() -> None:
    assert json.loads(json.dumps(to_json(Preference((USER,), "a", (ASSISTANT,), 0.5, "expert", 3)))) == {
        "prompt": [{"role": "user", "content": "Hi."}],
        "chosen": "a",
        "rejected": [{"role": "assistant", "content": "Hello."}],
        "margin": 0.5,
        "annotator": "expert",
        "row": 3,
        "label": 1.0,
        "weight": 1.0,
    }
    assert to_json("text") == "text"
    assert to_json(Message) is Message, "a class is no record"


@pytest.mark.parametrize(
    ("value", "first_of_sha256"),
    [
        # each is the beginning of what sha256sum says of the JSON: printf '%s' '{"a": "é", "b": 1}' | sha256sum
        ("a", "ac8d8342bbb2362d"),
        ({"b": 1, "a": "é"}, "799d49d45db67c58"),
        (Message("user", "Hi."), "648d6c7e2388872b"),
    ],
)
def test_digest_is_of_the_sorted_json_in_utf8(value: object, first_of_sha256: str) -> None:
    assert digest(value) == first_of_sha256


def test_digest_tells_records_apart() -> None:
    assert digest((USER,)) == digest([{"content": "Hi.", "role": "user"}]), "the same JSON, the same identity"
    assert len({digest(r) for r in EVERY}) == len(EVERY)
