"""TRL's GRPOTrainer as a contender: python -m benchmarks.trl_group <work> grpo

It samples with transformers' generate and earns the same cheap reward. Its settings are TRL's own, but for a KL weight
of 0.04, so that both sides score with a reference; the groups, prompts and lengths are ours.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from benchmarks.trl_now import float32, note_gradients, note_losses, policy_model, settings, tokenizer
from benchmarks.turns import Turn
from benchmarks.work import GROUP, GROUPS, earn, given_groups, read_facts, read_rows


class Turns(TrainerCallback):
    """The first step is the check: its completions are given. Then turns."""

    def __init__(self, turn: Turn, trainer: Any, losses: list[float]) -> None:
        self.turn, self.losses, self.sampled = turn, losses, trainer._metrics["train"]
        self.restore = give(trainer)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self.restore is None:
            self.turn.done(length=self.sampled["completions/mean_length"][-1],
                           width=int(self.sampled["completions/max_length"][-1]))  # fmt: skip
        else:
            self.restore()
            self.restore = None
            self.turn.ready(loss=self.losses[0])
        self.turn.wait()


def give(trainer: Any) -> Any:
    """Puts the check's completions in place of sampled ones, until the function given back is called."""
    sample = trainer._generate_single_turn
    trainer._generate_single_turn = lambda *_: (given_groups(), None)

    def restore() -> None:
        trainer._generate_single_turn = sample

    return restore


def reward(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """The work's reward of every completion."""
    return [earn(completion[-1]["content"]) for completion in completions]


def main() -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    work, turn = Path(sys.argv[1]), Turn()
    facts, rows = read_facts(work), read_rows(work)
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": q}]} for q in rows["questions"]])
    given = settings(facts, work, "grpo") | {"per_device_train_batch_size": GROUPS * GROUP,
                                             "lr_scheduler_type": "constant"}  # fmt: skip
    config = GRPOConfig(num_generations=GROUP, max_completion_length=facts["max_new_tokens"], beta=0.04,
                        shuffle_dataset=False, **given)  # fmt: skip
    trainer = GRPOTrainer(policy_model(work), reward, config, data, processing_class=tokenizer(work))
    float32(trainer.model)
    note_gradients(trainer, work / "grpo-theirs.npz", "policy")
    trainer.add_callback(Turns(turn, trainer, note_losses(trainer)))
    trainer.train()


if __name__ == "__main__":
    main()
