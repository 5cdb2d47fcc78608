"""Pairs out of samples: by hand from made samples, RSO to its end in a world of exact numbers, and `lab pairs`."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from lab.cli import main
from lab.config import PreferenceConfig
from lab.data import read
from lab.evaluate.best_of_n import pool
from lab.events import Checked
from lab.feedback.pairing import Paired, PairingError, pairs
from lab.feedback.rewards import Rewards
from lab.records import Preference, Rollout
from lab.tabular import TabularWorld, total_variation
from lab.train import preference as P


def said(*words: str, prompt: str = "a?") -> list[Rollout]:
    """Samples of a prompt; a word with a dot at its end did not end."""
    return [Rollout("base", prompt, w.rstrip("."), (1,), (i,), not w.endswith(".")) for i, w in enumerate(words)]


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_extremes_by_hand():
    samples = said("w", "x", "y") + said("u", "v", "u", prompt="b?")
    made = pairs(samples, torch.tensor([[1.0, 3.0, 2.0], [0.0, 5.0, 4.0]]), "extremes", annotator="rm")
    assert made == Paired((Preference("a?", "x", "w", annotator="rm"), Preference("b?", "v", "u", annotator="rm")),
                          ((1, 0), (4, 3)))  # fmt: skip


def test_chance_by_hand():
    """Five samples make two pairs, the fifth is alone; equal words, equal rewards and a missing end are left out."""
    rewards = torch.tensor([[0.0, 1.0, 3.0, 2.0, 9.0], [1.0, 2.0, 3.0, 3.0, 0.0], [1.0, 2.0, 3.0, 2.0, 0.0]])
    samples = said("v", "w", "x", "y", "z") + said("v", "v", "x", "y", "z") + said("v.", "w", "x", "y.", "z")
    made = pairs(samples, rewards, "chance")
    assert [(p.chosen, p.rejected) for p in made.preferences] == [("w", "v"), ("x", "y")]
    assert made.places == ((1, 0), (2, 3))
    assert made[2:] == (1, 1, 2)


def test_labels_say_how_surely():
    """σ(1) = 0.7311, and a tie is a pair at ½."""
    rewards = torch.tensor([[0.0, 1.0, 3.0, 3.0]])
    made = pairs(said("v", "w", "x", "y"), rewards, "chance", labels="probability")
    assert [p.label for p in made.preferences] == pytest.approx([0.7310586, 0.5])
    assert made.tied == 0
    assert [p.label for p in pairs(said("v", "w", "x", "y"), rewards, "chance").preferences] == [1.0]


def test_rso_pairs_what_it_keeps():
    """β → 0 keeps the best four; every one of them is in one pair, by chance, and another seed pairs them otherwise."""
    samples, rewards = said(*"stuvwxyz"), torch.tensor([[0.0, 7.0, 1.0, 6.0, 2.0, 5.0, 3.0, 4.0]])
    seen = set()
    for seed in range(20):
        made = pairs(samples, rewards, "rso", keep=4, beta=1e-3, seed=seed)
        assert made == pairs(samples, rewards, "rso", keep=4, beta=1e-3, seed=seed)
        assert sorted(i for pair in made.places for i in pair) == [1, 3, 5, 7]
        assert all(rewards[0, a] > rewards[0, b] for a, b in made.places)
        seen.add(frozenset(made.places))
    assert len(seen) == 3, "four completions can be paired in three ways"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"keep": 3}, "keep is 3; rso pairs an even number of completions, from 2 to the 4 there are."),
        ({"keep": 0}, "keep is 0; rso pairs an even number"),
        ({"keep": 6}, "keep is 6; rso pairs an even number"),
        ({"keep": 2, "beta": 0.0}, "beta is 0; it must be above 0."),
        ({"rule": "worst"}, "There is no rule 'worst'; choose one of rso, extremes, chance."),
    ],
)
def test_bad_settings(settings, sentence):
    with pytest.raises(PairingError, match=sentence.replace(".", r"\.").replace("?", r"\?")):
        pairs(said(*"wxyz"), torch.zeros(1, 4), **settings)


def test_bad_samples():
    with pytest.raises(PairingError, match="There are 3 completions for 1 prompts with 4 each"):
        pairs(said(*"xyz"), torch.zeros(1, 4))
    with pytest.raises(PairingError, match="There are 1 completions for 1 prompts with 1 each; a pair needs two"):
        pairs(said("x"), torch.zeros(1, 1), "extremes")
    with pytest.raises(PairingError, match="A reward is not finite"):
        pairs(said("x", "y"), torch.tensor([[0.0, float("nan")]]), "extremes")


# --- the method ------------------------------------------------------------------------------------------------------


def test_rso_ends_at_the_optimum():
    """What RSO pairs is distributed as π*; DPO on those pairs, labelled as Bradley and Terry have it, ends there."""
    world = TabularWorld.of(["a?", "b?"], ["w", "x", "y", "z"], [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    rewards, beta = torch.tensor([[0.0, 0.5, -0.3, 0.8]] * 2, dtype=torch.float64), 0.5
    best = world.optimum(rewards, beta)
    judge = Rewards.program(world.program(rewards))
    found = pool(world.base, world.rows() * 40, "base", 128, judge, max_new_tokens=3)
    made = pairs(found.rollouts, found.proxy, "rso", keep=16, beta=beta, labels="probability")
    kept = torch.zeros_like(best)
    for p in made.preferences:
        for y in (p.chosen, p.rejected):
            kept[world.prompts.index(p.prompt), world.completions.index(y)] += 1
    # two draws of π* that differ: y is in such a pair with a probability in proportion to π*(y) (1 − π*(y))
    mixed = best * (1 - best)
    wanted = mixed / mixed.sum(1, keepdim=True)
    assert float(total_variation(kept / kept.sum(1, keepdim=True), wanted).max()) < 0.05
    world.base.add_role("policy", world.adapter)
    config = PreferenceConfig(objective="dpo", beta=beta, lr=0.05, epochs=40.0, batch=len(made.preferences),
                              eval_share=0.0, eval_every=0, probe_every=0, save_every=0,
                              tokens_per_pass=1 << 16)  # fmt: skip
    state = P.start(world.base, made.preferences, config)
    assert [e for e in P.preference(state, config) if isinstance(e, Checked) and not e.ok] == []
    assert float(total_variation(world.distribution("policy"), best).max()) < 0.03
    assert float(total_variation(world.distribution(), best).min()) > 0.15


# --- the command -----------------------------------------------------------------------------------------------------


SUMS = ("--model", "tiny", "--data", "tiny:prompts?family=sum", "--device", "cpu", "--max-new-tokens", "24")


@pytest.fixture
def ask(tmp_path):
    def run(*words: str):
        return CliRunner().invoke(main, ["pairs", *SUMS, "--limit", "6", "--runs", str(tmp_path / "runs"),
                                         "--out", str(tmp_path / "pairs.jsonl"), *words])  # fmt: skip

    return run


def test_pairs_from_the_terminal(ask, tmp_path):
    done = ask("--reward", "number", "--rule", "extremes", "--samples", "8", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.output.splitlines()[-1])
    made = read(tmp_path / "pairs.jsonl", "preference")
    assert not made.skipped
    assert len(made.records) == told["pairs"] == told["prompts"] > 0
    assert told["reward"][0] > told["reward"][1], "the chosen earned more"
    assert told["gold"][0] > told["gold"][1]
    assert 0.5 < told["agreement"] <= 1
    assert {p.annotator for p in made.records} == {"number"}
    again = ask("--reward", "number", "--rule", "extremes")
    assert again.exit_code == 1
    assert "is there already; give another name" in again.output


def test_pairs_that_say_nothing(ask, tmp_path):
    (tmp_path / "same.py").write_text("def same(prompt, completion, row):\n    return 1.0\n")
    done = ask("--reward", f"{tmp_path / 'same.py'}:same", "--samples", "4", "--missing-end", "0")
    assert done.exit_code == 1
    assert "There is no pair: " in done.output
    assert not (tmp_path / "pairs.jsonl").exists()
    for words, sentence in ((("--samples", "4", "--keep", "6"), "keep is 6; rso pairs an even number"),
                            (("--out", str(tmp_path / "no" / "where.jsonl")), "There is no folder"),
                            (("--limit", "-1"), "-1 is not in the range")):  # fmt: skip
        done = ask("--reward", "number", *words)
        assert done.exit_code != 0
        assert sentence in done.output, done.output


def test_best_of_n_from_the_terminal():
    words = ["bestof", *SUMS, "--limit", "4", "--samples", "4", "--reward", "number", "--json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    points = json.loads(done.output.splitlines()[-1])["points"]
    assert [p["n"] for p in points] == [1, 2, 4]
    assert points[0]["proxy"]["mean"] <= points[1]["proxy"]["mean"] <= points[2]["proxy"]["mean"]
