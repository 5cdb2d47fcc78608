"""TRL 0.29.1's PPOTrainer, the last release that had one, as a contender:

    python -m benchmarks.trl_ppo <work> ppo[-4][-fixed]

Runs in an environment of its own. Policy, value and reward are NF4 models with rank-8 adapters on all linear layers, as
ours are; the reference is the policy with its adapter off, TRL's cheapest way.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from benchmarks.trl_now import gradients, quantised, with_adapter
from benchmarks.turns import Turn
from benchmarks.work import given_completion, read_facts, read_rows


class Turns(TrainerCallback):
    """The first step is the check: its completions are given, both sides' gradients are noted. Then turns."""

    def __init__(self, turn: Turn, restore: Any, losses: dict[str, float]) -> None:
        self.turn, self.restore, self.losses, self.first = turn, restore, losses, True
        self.sampled: list[dict[str, float]] = []  # of every generation: its width, and mean tokens up to the end

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self.first:
            self.restore()
            self.first = False
            self.turn.ready(**self.losses)
        else:
            self.turn.done(**self.sampled[-1])
        self.turn.wait()


def trainer_for(work: Path, facts: dict[str, Any], epochs: int, ragged: bool) -> Any:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(facts["model"], padding_side="left")
    policy = PeftModel.from_pretrained(
        quantised(AutoModelForCausalLM, facts["model"]), work / "fresh", is_trainable=True
    )
    value, reward = (with_adapter(quantised(AutoModelForSequenceClassification, facts["model"], num_labels=1), work,
                                  "adapter") for _ in range(2))  # fmt: skip
    reward.requires_grad_(False)
    data = Dataset.from_list([{"input_ids": p} for p in read_rows(work)["prompts"]])
    config = PPOConfig(
        output_dir=str(work / "trl029"), use_cpu=True, bf16=False, per_device_train_batch_size=facts["batch"],
        gradient_accumulation_steps=1, num_mini_batches=1, num_ppo_epochs=epochs,
        total_episodes=10_000 * facts["batch"], stop_token="eos" if ragged else None,
        response_length=facts["max_new_tokens"], missing_eos_penalty=1.0 if ragged else None, temperature=1.0,
        kl_coef=0.05, learning_rate=1e-5, lr_scheduler_type="constant", num_sample_generations=0,
        gradient_checkpointing=False,
        report_to="none", logging_strategy="no", save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        seed=0,
    )  # fmt: skip
    trainer = PPOTrainer(args=config, processing_class=tokenizer, model=policy, ref_model=None, reward_model=reward,
                         value_model=value, train_dataset=data, eval_dataset=data)  # fmt: skip
    loader = torch.utils.data.DataLoader(data, batch_size=facts["batch"], shuffle=False, drop_last=True,
                                         collate_fn=trainer.data_collator)  # fmt: skip
    trainer.dataloader = trainer.accelerator.prepare(loader)
    return trainer


def check_step(trainer: Any, work: Path) -> tuple[Any, dict[str, float]]:
    """Makes the coming step the check: given completions, no penalty, gradients and losses noted before the update."""
    import trl.experimental.ppo.ppo_trainer as module

    generation, step, log = module.batch_generation, trainer.optimizer.step, trainer.log
    losses: dict[str, float] = {}

    def given(model: Any, queries: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [given_completion(i, 8) for i in range(len(queries))]
        whole = torch.cat([queries, torch.tensor(rows)], 1)
        mask = whole != trainer.processing_class.pad_token_id
        positions = mask.cumsum(1) - mask.long()
        with torch.no_grad():
            logits = model(input_ids=whole, attention_mask=mask, position_ids=positions).logits
        return whole, logits[:, queries.shape[1] - 1 : -1]

    def noting(*args: Any, **options: Any) -> Any:
        if not (work / "ppo-theirs.npz").exists():
            wrapper = trainer.accelerator.unwrap_model(trainer.model)
            np.savez(
                work / "ppo-theirs.npz",
                **gradients(wrapper.policy, "policy"),
                **gradients(wrapper.value_model, "value"),
            )
            for group in trainer.optimizer.param_groups:
                group["lr"] = 0.0
        return step(*args, **options)

    def logged(metrics: dict[str, Any], *args: Any, **options: Any) -> Any:
        losses["policy_loss"], losses["value_loss"] = metrics["loss/policy_avg"], metrics["loss/value_avg"]
        return log(metrics, *args, **options)

    penalty, stop = trainer.args.missing_eos_penalty, trainer.stop_token_id
    rates = [group["lr"] for group in trainer.optimizer.param_groups]

    def restore() -> None:
        module.batch_generation, trainer.optimizer.step, trainer.log = generation, step, log
        trainer.args.missing_eos_penalty, trainer.stop_token_id = penalty, stop
        for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    module.batch_generation, trainer.optimizer.step, trainer.log = given, noting, logged
    trainer.args.missing_eos_penalty = trainer.stop_token_id = None
    (work / "ppo-theirs.npz").unlink(missing_ok=True)
    return restore, losses


def note_lengths(sampled: list[dict[str, float]], stop: int | None) -> None:
    """Notes of every generation, also those of the check, its width and how many tokens its rows have on average."""
    import trl.experimental.ppo.ppo_trainer as module

    generate = module.generate

    def noting(model: Any, queries: torch.Tensor, *args: Any) -> Any:
        whole, logits = generate(model, queries, *args)
        new = whole[:, queries.shape[1] :]
        ends = new == (-1 if stop is None else stop)
        lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, new.shape[1])
        sampled.append({"width": new.shape[1], "length": float(lengths.float().mean())})
        return whole, logits

    module.generate = noting


def main() -> None:
    work, what = Path(sys.argv[1]), sys.argv[2]
    turn, facts, ragged = Turn(), read_facts(work), not what.endswith("fixed")
    trainer = trainer_for(work, facts, 4 if "-4" in what else 1, ragged)
    turns = Turns(turn, *check_step(trainer, work))
    trainer.add_callback(turns)
    note_lengths(turns.sampled, facts["eos"] if ragged else None)
    trainer.train()


if __name__ == "__main__":
    main()
