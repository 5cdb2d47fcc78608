"""The recipes: each with its paper's numbers, built of parts that exist, and contradictions refused."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, astuple, replace

import pytest

from lab.objectives.variants import VARIANTS

NUMBERS = {
    # advantage, surrogate, reduction, low, high, group
    "grpo": ("group_std", "token", "sequence_mean", 0.2, 0.2, 16),
    "dr_grpo": ("group_mean", "token", "constant", 0.2, 0.2, 8),
    "dapo": ("group_std", "token", "token_mean", 0.2, 0.28, 16),
    "gspo": ("group_std", "sequence_mean", "sequence_mean", 3e-4, 4e-4, 8),
    "cispo": ("group_std", "cispo", "token_mean", 1.0, 4.0, 8),
    "rloo": ("leave_one_out", "sequence_sum", "sequence_mean", 0.2, 0.2, 4),
    "reinforce_pp": ("none", "token", "token_mean", 0.2, 0.2, 1),
    "reinforce_pp_baseline": ("group_mean", "token", "token_mean", 0.2, 0.2, 8),
    "lite_ppo": ("batch_std", "token", "token_mean", 0.2, 0.2, 8),
}
KL = {  # in the reward, in the loss, estimator; the others have none
    "grpo": (0, 0.04, "k3"),
    "rloo": (0.05, 0, "k3_corrected"),
    "reinforce_pp": (0.01, 0, "k3_corrected"),
    "reinforce_pp_baseline": (0, 0.01, "k2"),
}


def test_there_are_these_variants():
    assert list(VARIANTS) == list(NUMBERS)


@pytest.mark.parametrize("name", list(NUMBERS))
def test_numbers(name):
    v = VARIANTS[name]
    assert astuple(v)[:6] == NUMBERS[name]
    assert (v.kl_in_reward, v.kl_in_loss, v.kl_estimator) == KL.get(name, (0, 0, "k3_corrected"))
    assert v.whiten_tokens == name.startswith("reinforce_pp")
    assert (v.dynamic_sampling, v.overlong, v.truncated) == (
        (True, 0.2, "mask") if name == "dapo" else (False, 0, "keep")
    )


@pytest.mark.parametrize("name", list(NUMBERS))
def test_every_variant_says_when_and_whose(name):
    """Two sentences, the second one its trap; a formula in one line; a paper with its year."""
    v = VARIANTS[name]
    assert v.when.count(". ") == 1
    assert v.when.endswith(".")
    assert "A = " in v.equation or "s = " in v.equation
    assert "\n" not in v.equation
    assert "20" in v.source


def test_neighbours_are_made_by_replacing():
    assert replace(VARIANTS["grpo"], kl_in_loss=0).kl_in_loss == 0
    assert replace(VARIANTS["reinforce_pp"], group=1).group == 1
    assert replace(VARIANTS["grpo"], group=2).group == 2
    assert replace(VARIANTS["grpo"], kl_in_loss=0, kl_estimator="k1").kl_estimator == "k1"
    with pytest.raises(FrozenInstanceError):
        VARIANTS["grpo"].group = 2  # type: ignore[misc]


ADVANTAGES = "group_std, group_mean, leave_one_out, batch_std, none"
SURROGATES = "token, two_sided, sequence_mean, sequence_sum, cispo, reinforce, sapo"


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("grpo", {"advantage": "best"}, f"advantage is 'best'; choose one of {ADVANTAGES}."),
        ("grpo", {"surrogate": "ppo"}, f"surrogate is 'ppo'; choose one of {SURROGATES}."),
        (
            "grpo",
            {"reduction": "mean"},
            "reduction is 'mean'; choose one of token_mean, sequence_mean, sequence_sum, constant.",
        ),
        ("grpo", {"kl_estimator": "k4"}, "kl_estimator is 'k4'; choose one of k1, k2, k3, k3_corrected."),
        ("grpo", {"truncated": "drop"}, "truncated is 'drop'; choose one of keep, mask."),
        (
            "lite_ppo",
            {"group": 1},
            'A group of 1 has no baseline; sample at least 2 completions per prompt, or take the advantage "none".',
        ),
        (
            "grpo",
            {"kl_estimator": "k1"},
            "k1 in the loss has no expected gradient; take k2 or k3_corrected, or put it in the reward.",
        ),
        (
            "gspo",
            {"reduction": "token_mean"},
            "The surrogate sequence_mean has one loss per completion and carries it at every token; only the reduction "
            "sequence_mean counts it once.",
        ),
        (
            "rloo",
            {"whiten_tokens": True},
            "The surrogate sequence_sum has one advantage per completion; whitening per token is for the token "
            "surrogates.",
        ),
    ],
)
def test_contradictions_are_refused(name, changes, sentence, refuses):
    with refuses(sentence):
        replace(VARIANTS[name], **changes)
