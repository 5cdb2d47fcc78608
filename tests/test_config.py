"""Settings: every one is explained and bounded, and what cannot work is refused with a sentence that helps."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, fields

import pytest

from lab.config import (
    Adapter,
    ConfigError,
    PPOConfig,
    RewardConfig,
    Setting,
    SFTConfig,
    check,
    live_settings,
    setting,
    settings,
)

CLASSES = (Adapter, SFTConfig, RewardConfig, PPOConfig)
EVERY = [pytest.param(cls, s, id=f"{cls.__name__}.{s.name}") for cls in CLASSES for s in settings(cls)]


@pytest.mark.parametrize(("cls", "s"), EVERY)
def test_every_setting_is_explained_and_bounded(cls: type, s: Setting) -> None:
    assert len(s.help) >= 8
    assert not s.help.endswith("."), "the unit and the range follow it on one line"
    assert isinstance(s.default, (int, float) if s.kind is float else s.kind)
    if s.kind is str:
        assert s.default in s.choices
    if s.kind in (int, float) and s.name != "seed":
        assert s.low is not None


@pytest.mark.parametrize(("cls", "s"), EVERY)
def test_the_edges_of_every_range(cls: type, s: Setting) -> None:
    """On the edge is allowed, a step beyond is not, and the sentence names the setting, the value and the range."""
    step = 1 if s.kind is int else 1e-6
    for edge, beyond in ((s.low, -step), (s.high, step)):
        if edge is not None:
            assert getattr(cls(**{s.name: s.kind(edge)}), s.name) == edge
            with pytest.raises(ConfigError, match=rf"^{s.name} is .*; it must lie in \[.*\]\.$"):
                cls(**{s.name: s.kind(edge) + beyond})


@pytest.mark.parametrize(("cls", "s"), EVERY)
def test_a_value_of_another_type_is_refused(cls: type, s: Setting) -> None:
    wrong = {int: (1.5, "3", True, None), float: ("1e-4", True, None, math.nan, math.inf, -math.inf),
             bool: (1, "true", None), str: (3, "", None)}[s.kind]  # fmt: skip
    for value in wrong:
        with pytest.raises(ConfigError, match=f"^{s.name} is "):
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
