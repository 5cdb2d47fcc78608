"""Settings: every one is explained and bounded, and what cannot work is refused with a sentence that helps."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, fields

import pytest

from lab.config import (
    CONFIGS,
    Adapter,
    ConfigError,
    GroupConfig,
    PPOConfig,
    RewardConfig,
    Setting,
    SFTConfig,
    check,
    live_settings,
    setting,
    settings,
)

CLASSES = (Adapter, *(cls for cls in CONFIGS.values() if cls.__module__.startswith("lab.")))  # no test's own
CONFLICTS = {
    ("beta", 0),
    ("group", 1),
    ("divergence", 0),
    ("divergence", 1),
    ("sharpness", 1e-6),
    ("batch", 1),
    ("samples", 1),
}
"""On the edge of their range, but refused for a reason of the method; tested with the method."""
EVERY = [pytest.param(cls, s, id=f"{cls.__name__}.{s.name}") for cls in CLASSES for s in settings(cls)]


@pytest.mark.parametrize(("cls", "s"), EVERY)
def test_every_setting_is_explained_and_bounded(cls: type, s: Setting) -> None:
    assert len(s.help) >= 8
    assert not s.help.endswith("."), "the unit and the range follow it on one line"
    assert s.optional if s.default is None else isinstance(s.default, (int, float) if s.kind is float else s.kind)
    if s.kind is str and s.choices:
        assert s.optional or s.default in s.choices
    if s.kind in (int, float) and s.name != "seed":
        assert s.low is not None


@pytest.mark.parametrize(("cls", "s"), EVERY)
def test_the_edges_of_every_range(cls: type, s: Setting) -> None:
    """On the edge is allowed, a step beyond is not, and the sentence names the setting, the value and the range."""
    step = 1 if s.kind is int else 1e-6
    for edge, beyond in ((s.low, -step), (s.high, step)):
        if edge is not None and not (s.optional or (s.name, edge) in CONFLICTS):
            assert getattr(cls(**{s.name: s.kind(edge)}), s.name) == edge
        if edge is not None:
            with pytest.raises(ConfigError, match=rf"^{s.name} is .*; it must lie in \[.*\]\.$"):
                cls(**{s.name: s.kind(edge) + beyond})


@pytest.mark.parametrize(("cls", "s"), EVERY)
def test_a_value_of_another_type_is_refused(cls: type, s: Setting) -> None:
    word = "" if s.name == "separator" else "no such word"
    wrong = {int: (1.5, "3", True, None), float: ("1e-4", True, None, math.nan, math.inf, -math.inf),
             bool: (1, "true", None), str: (3, word, None)}[s.kind]  # fmt: skip
    for value in [w for w in wrong if not (w is None and s.optional)]:
        with pytest.raises(ConfigError, match=f"^{s.name} is |^There is no {s.name} "):
            cls(**{s.name: value})


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PPOConfig(clip=-0.1), "clip is -0.1; it must lie in [0, ∞]."),
        (lambda: PPOConfig(gamma=1.5), "gamma is 1.5; it must lie in [0, 1]."),
        (lambda: SFTConfig(eval_share=0.6), "eval_share is 0.6; it must lie in [0, 0.5]."),
        (lambda: SFTConfig(lr=math.nan), "lr is nan; it must be a finite number."),
        (lambda: SFTConfig(batch=2.5), "batch is 2.5; it must be a whole number."),  # type: ignore[arg-type]
        (lambda: RewardConfig(standardise="yes"), "standardise is 'yes'; it must be True or False."),  # type: ignore[arg-type]
        (lambda: Adapter(targets="heads"), "targets is 'heads'; choose one of all-linear, attention, mlp."),
        (lambda: SFTConfig(schedule="sine"), "schedule is 'sine'; choose one of constant, linear, cosine."),
        (
            lambda: PPOConfig(batch=10, per_prompt=4),
            "batch (10) must be a multiple of per_prompt (4), so that every prompt of a step has the same number of "
            "completions.",
        ),
        (
            lambda: RewardConfig(objective="plackett_luce", smoothing=0.1),
            "smoothing is given, but the likelihood of an order knows no flipped labels; choose the objective "
            "bradley_terry or kwise.",
        ),
        (lambda: PPOConfig(batch=10, minibatches=4), "batch (10) must be a multiple of minibatches (4)."),
    ],
)
def test_the_sentences(make: object, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value) == sentence


def test_a_whole_number_is_a_number() -> None:
    assert SFTConfig(epochs=2).epochs == 2


def test_configs_are_values() -> None:
    for cls in CLASSES:
        assert cls() == cls()
        assert hash(cls()) == hash(cls())
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(cls(), fields(cls)[0].name, 1)


def test_live_settings_are_those_marked() -> None:
    assert set(live_settings(SFTConfig)) == {"lr", "max_grad_norm"}
    assert set(live_settings(RewardConfig)) == {"lr", "head_lr", "max_grad_norm"}
    assert set(live_settings(PPOConfig)) == {"lr", "value_lr", "value_head_lr", "kl", "clip", "temperature",
                                             "missing_end", "max_grad_norm"}  # fmt: skip


def test_an_empty_setting_becomes_the_variants_own_and_a_given_one_stays() -> None:
    """DAPO (Yu et al. 2025): clip 0.2 and 0.28, token mean, dynamic sampling, no KL."""
    dapo = GroupConfig(variant="dapo", clip_high=0.3)
    assert (dapo.clip_low, dapo.clip_high, dapo.reduction, dapo.dynamic_sampling) == (0.2, 0.3, "token_mean", True)
    assert (dapo.kl_in_loss, dapo.kl_in_reward, dapo.batch) == (0.0, 0.0, dapo.prompts * dapo.group)
    assert dataclasses.replace(dapo, lr=1.0).clip_high == 0.3
    assert GroupConfig(advantage="gdpo").advantage == "gdpo"


def test_no_two_flags_of_a_method_have_the_same_name() -> None:
    for cls in CONFIGS.values():
        assert not {s.name for s in settings(cls)} & {s.name for s in settings(Adapter)}


def test_what_a_form_needs_to_know_of_a_field() -> None:
    @dataclass(frozen=True)
    class Oven:
        heat: float = setting(180.0, "how hot it is", unit="°C", live=True, low=0, high=250)
        mode: str = setting("fan", "how the heat moves", choices=("fan", "grill"))

        def __post_init__(self) -> None:
            check(self)

    heat, mode = settings(Oven)
    assert heat == Setting("heat", float, 180.0, "how hot it is", "°C", True, 0, 250, ())
    assert mode == Setting("mode", str, "fan", "how the heat moves", "", False, None, None, ("fan", "grill"))
    with pytest.raises(ConfigError, match=r"^heat is 251; it must lie in \[0, 250\]\.$"):
        Oven(heat=251)
