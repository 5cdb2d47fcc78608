"""The settings of a stack of Constitutional AI, and where its data come from."""

from __future__ import annotations

from dataclasses import dataclass

from lab import tiny
from lab.config import ConfigError, check, setting


@dataclass(frozen=True)
class CAIConfig:
    """Constitutional AI: revisions by a critic, then learning from labels by the constitution."""

    critic: str = setting("rules", "who criticises and revises: programs, a critic that learned from them, the helpful "
                          "model itself, or the raw base", choices=("rules", "learned", "self", "base"))  # fmt: skip
    fine: str = setting("", "regular expression: a critique that begins so leaves the answer as it is (models only)")
    chains: int = setting(1024, "answers to be revised", unit="answers", low=1)
    rounds: int = setting(4, "critiques and revisions of each answer", unit="rounds", low=1, high=4)
    mix: int = setting(1024, "helpful demonstrations that are mixed with the revisions", unit="rows", low=0)
    sl: bool = setting(True, "learn from revisions before the labels; without it refusals may never be sampled")
    labels: str = setting("rules", "who compares two answers: programs, the helpful model or the base by the "
                          "probability of A and B, or people (the tiny world's annotator)",
                          choices=("rules", "self", "base", "people"))  # fmt: skip
    comparisons: int = setting(3000, "pairs of answers to be labelled", unit="pairs", low=1)
    draw: int = setting(3, "principles drawn for a comparison", unit="principles", low=1)
    slips: float = setting(0.1, "share of the looks in which a program names the other answer", low=0, high=0.5)
    soft: bool = setting(False, "labels are probabilities; otherwise choices")
    thinks: bool = setting(False, "the judge thinks before it answers: labels are clamped to [0.4, 0.6]")
    annotator: str = setting("helpful_only", "who decides in the tiny world where the constitution sees no "
                             "difference (none: such pairs are left out), or everywhere with labels = people",
                             choices=("none", *tiny.ANNOTATORS))  # fmt: skip
    rl: str = setting("dpo", "what learns from the labels: PPO from a reward model, DPO, PPO from the critics' verdict "
                      "itself, or nothing", choices=("ppo", "dpo", "direct", "none"))  # fmt: skip
    max_new_tokens: int = setting(tiny.MAX_NEW_TOKENS, "longest answer, critique and revision", unit="tokens", low=1)
    temperature: float = setting(1.0, "sampling temperature of answers", low=1e-3)
    seed: int = setting(0, "seed of everything", low=0)

    def __post_init__(self) -> None:
        check(self)
        if self.labels == "people" and self.annotator == "none":
            raise ConfigError("labels is people, but annotator is none; name one of the tiny world's annotators.")
        if not self.sl and self.rl == "none":
            raise ConfigError("Without revisions (sl) and without rl there is nothing to learn; switch one on.")


@dataclass(frozen=True)
class Sources:
    """Where the data come from; the tiny world has all of its own.

    red_team : prompts to be revised and compared
    helpful  : demonstrations mixed with the revisions
    prompts  : further prompts to be compared and for RL
    people   : people's preferences about helpfulness, mixed with the labels
    """

    red_team: str = ""
    helpful: str = ""
    prompts: str = ""
    people: str = ""
