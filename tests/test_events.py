"""Events: one JSON object each, back as they were, readable by an older and a newer lab."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import get_args

import pytest

from lab import events as ev
from lab.events import KINDS, Sample, from_json, to_json
from lab.records import Comparison, Message, Verdict

SAMPLE = Sample("p", "c", True, 1.5, -0.25, (("answer", 1.0), ("filler", -0.25)), 0.75, ("c", "<end>"), (-0.5, -0.1),
                (-1.0, -0.35))  # fmt: skip
EVERY = (
    ev.Started("ppo", 0, 60, "resumed from step 40"),
    ev.Progress(3, "sampling", 1, 64),
    ev.Updated(4, {"reward": 0.0, "kl": 1e-9}),
    ev.Probed(4, "policy", (SAMPLE, Sample("q", "", False))),
    ev.Evaluated(4, {"accuracy": 0.75}, {"margin": ev.Spread(-1.0, 2.5, (1, 0, 3))}),
    ev.Checked(4, "first ratio", True, 0.0, 1e-4, "the ratio is 1"),
    ev.Saved(4, "checkpoints/step-000004"),
    ev.Edited(4, "kl", 0.05, 0.1),
    ev.Skipped(0, "longer than 64 tokens", 2, ("data.jsonl, line 3",)),
    ev.Ask(
        5,
        (
            Comparison((Message("user", "x?"),), "a", (Message("assistant", "b"),), (True, False)),
            Comparison("plain?", "a", "b"),
        ),
    ),
    ev.Answered(5, 1, 1, ("alex",)),
    ev.Done(60, "finished", "all steps are done"),
)


def test_the_list_above_has_every_kind() -> None:
    assert {type(e) for e in EVERY} == set(get_args(ev.Event)) == set(KINDS.values())
    assert all(name == cls.__name__ for name, cls in KINDS.items())


@pytest.mark.parametrize("event", EVERY, ids=lambda e: type(e).__name__)
def test_events_come_back_from_json(event: ev.Event) -> None:
    row = json.loads(json.dumps(to_json(event, now=12.5), allow_nan=False))
    assert row["kind"] == type(event).__name__
    assert row["time"] == 12.5
    back = from_json(row)
    assert type(back) is type(event)
    if isinstance(event, ev.Skipped):  # JSON knows no tuples; only samples are made whole again
        back = dataclasses.replace(back, rows=tuple(back.rows))  # type: ignore[union-attr]
    assert back == event


def test_a_spread_counts_every_finite_value_once() -> None:
    found = ev.Spread.of([0.0, 0.1, 0.9, 1.0, 2.0, math.nan, math.inf], bins=4)
    assert found == ev.Spread(0.0, 2.0, (2, 1, 1, 1)), "bins [0, ½), [½, 1), [1, 1½), [1½, 2]"
    assert ev.Spread.of([3.0, 3.0]) == ev.Spread(2.5, 3.5, (2,))
    assert ev.Spread.of([2, 4, 4, 5]) == ev.Spread(1.5, 5.5, (1, 0, 2, 1)), "a bin a whole number"
    assert ev.Spread.of([0, 1, 9], bins=4) == ev.Spread(-0.5, 11.5, (2, 0, 0, 1)), "or for three of them"
    assert ev.Spread.of([]) is None
    assert ev.spreads(a=[1.0], b=[math.nan]) == {"a": ev.Spread(0.5, 1.5, (1,))}
    assert "spreads" not in to_json(ev.Updated(1, {})), "a log does not grow where nothing is counted"


def test_what_a_newer_lab_added_is_passed_over() -> None:
    row = to_json(ev.Probed(1, "policy", (SAMPLE,)), now=0.0) | {"colour": "blue"}
    row["samples"][0]["mood"] = "good"
    assert from_json(row) == ev.Probed(1, "policy", (SAMPLE,))


def test_what_an_older_lab_left_out_has_its_default() -> None:
    assert from_json({"kind": "Done", "step": 3, "outcome": "stopped"}) == ev.Done(3, "stopped", "")
    sample = {"prompt": "p", "completion": "c", "ended": True}
    assert from_json({"kind": "Probed", "step": 1, "role": "sft", "samples": [sample]}) == ev.Probed(
        1, "sft", (Sample("p", "c", True),)
    )


def test_a_kind_nobody_knows_is_an_error() -> None:
    with pytest.raises(KeyError, match="Danced"):
        from_json({"kind": "Danced", "step": 1})


def test_a_reward_of_zero_is_not_a_missing_one() -> None:
    event = ev.Probed(1, "policy", (Sample("p", "c", True, reward=0.0), Sample("p", "c", True)))
    back = from_json(json.loads(json.dumps(to_json(event))))
    assert [s.reward for s in back.samples] == [0.0, None]  # type: ignore[union-attr]


def test_events_are_frozen_and_small() -> None:
    for event in (*EVERY, SAMPLE, ev.Logged(0, 0.0, EVERY[0])):
        assert not hasattr(event, "__dict__")
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, dataclasses.fields(event)[0].name, 1)


def test_a_question_takes_one_verdict_for_each_comparison() -> None:
    ask = ev.Ask(1, (Comparison("x?", "a", "b"), Comparison("y?", "a", "b")))
    assert ask.reply.verdicts is None
    with pytest.raises(ValueError, match="There are 2 comparisons and 1 verdicts; give one each"):
        ask.answer([Verdict(1.0)])
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"A verdict of alex says p = .*; it must lie in \[0, 1\]"):
            ask.answer([Verdict(1.0), Verdict(p, "alex")])
    assert ask.reply.verdicts is None
    ask.answer([Verdict(0.25), Verdict(None)])
    assert ask.reply.verdicts == (Verdict(0.25), Verdict(None))
    assert ask == ev.Ask(1, ask.comparisons), "an answer is no part of the question"
    assert "reply" not in to_json(ask)
