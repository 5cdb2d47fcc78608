"""TRL's present release and transformers' generate as contenders.

    python -m benchmarks.trl_now <work> sft|reward|dpo[-precomputed]|kto|rollout

The trainers run their own `train()`, from fetching the rows to the optimizer's step; a callback hands over the turn.
Their adapters are kept in float32, as ours are, though TRL stores those of a quantised model in bfloat16: bfloat16 is
slower on processors without instructions for it, and the reward trainer cannot train on the CPU that way at all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from benchmarks.turns import Turn
from benchmarks.work import RATES, read_facts, read_rows


def quantised(model_class: Any, path: str, **options: Any) -> Any:
    """A frozen NF4 model, with bitsandbytes' repacking of weights off: it gives wrong gradients on some processors."""
    from transformers import BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32,
                             llm_int8_skip_modules=["lm_head", "score"])  # fmt: skip
    model = model_class.from_pretrained(path, dtype=torch.float32, quantization_config=nf4, **options)
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    return model


def gradients(model: Any, role: str) -> dict[str, np.ndarray]:
    """The gradients of PEFT's adapter, under the names `benchmarks.ours` uses."""
    found = {}
    for path, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            for letter, part in (("A", module.lora_A), ("B", module.lora_B)):
                found[f"{role}.{path.split('layers.')[1]}.{letter}"] = (
                    part["default"].weight.grad.detach().clone().numpy()
                )
    return found


def note_gradients(trainer: Any, target: Path, role: str) -> None:
    """Writes the gradients of the first step, as they are before they are clipped."""
    clip = trainer.accelerator.clip_grad_norm_

    def noting(*args: Any, **options: Any) -> Any:
        trainer.accelerator.clip_grad_norm_ = clip
        np.savez(target, **gradients(trainer.accelerator.unwrap_model(trainer.model), role))
        return clip(*args, **options)

    trainer.accelerator.clip_grad_norm_ = noting


def note_losses(trainer: Any) -> list[float]:
    """The losses TRL computes, as they come."""
    compute, losses = trainer.compute_loss, []

    def noting(*args: Any, **options: Any) -> Any:
        result = compute(*args, **options)
        losses.append(float((result[0] if isinstance(result, tuple) else result).detach()))
        return result

    trainer.compute_loss = noting
    return losses


class Turns(TrainerCallback):
    """Hands over the turn after every step, with its loss."""

    def __init__(self, turn: Turn, losses: list[float]) -> None:
        self.turn, self.losses = turn, losses

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.turn.ready()
        self.turn.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.turn.done(loss=self.losses[-1])
        self.turn.wait()


def settings(facts: dict[str, Any], work: Path, name: str) -> dict[str, Any]:
    """Arguments of all trainers: as little around the step as they allow."""
    return {"output_dir": str(work / "trl"), "use_cpu": True, "per_device_train_batch_size": facts["batch"],
            "max_steps": facts["steps"], "learning_rate": RATES[name], "lr_scheduler_type": "cosine",
            "warmup_steps": 0, "logging_strategy": "no", "save_strategy": "no", "report_to": "none",
            "disable_tqdm": True, "bf16": False, "gradient_checkpointing": False, "max_grad_norm": 1.0,
            "weight_decay": 0.0, "train_sampling_strategy": "sequential", "dataloader_pin_memory": False,
            "seed": 0}  # fmt: skip


def policy_model(work: Path) -> Any:
    """The frozen NF4 model with the work's adapter, in training; TRL makes a frozen copy of it where it needs one."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    frozen = quantised(AutoModelForCausalLM, read_facts(work)["model"])
    return PeftModel.from_pretrained(frozen, work / "adapter", is_trainable=True)


def tokenizer(work: Path) -> Any:
    """The model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(read_facts(work)["model"])


def tokenised(trainer: Any) -> Any:
    """A trainer for rows that are tokens already, in the columns its collator reads: nothing is left to prepare."""

    class Tokenised(trainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    return Tokenised


def run(trainer: Any, work: Path, turn: Turn, name: str, role: str) -> None:
    """Trains, a step a turn."""
    float32(trainer.model)
    note_gradients(trainer, work / f"{name}-theirs.npz", role)
    trainer.add_callback(Turns(turn, note_losses(trainer)))
    trainer.train()


def sft(work: Path, turn: Turn) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    facts, rows = read_facts(work), read_rows(work)["sft"]
    data = Dataset.from_list([{"input_ids": p + c, "labels": [-100] * len(p) + c} for p, c in rows])
    trainer = SFTTrainer(policy_model(work), SFTConfig(max_length=1024, **settings(facts, work, "sft")),
                         train_dataset=data, processing_class=tokenizer(work))  # fmt: skip
    run(trainer, work, turn, "sft", "sft")


def reward(work: Path, turn: Turn) -> None:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    facts, rows = read_facts(work), read_rows(work)["pairs"]
    model = with_adapter(quantised(AutoModelForSequenceClassification, facts["model"], num_labels=1), work, "adapter")
    data = Dataset.from_list([{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in rows])
    config = RewardConfig(center_rewards_coefficient=0.01, max_length=1024, **settings(facts, work, "reward"))
    trainer = RewardTrainer(model, config, train_dataset=data, processing_class=tokenizer(work))
    run(trainer, work, turn, "reward", "reward")


def dpo(work: Path, turn: Turn, precomputed: bool = False) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    name = "dpo-precomputed" if precomputed else "dpo"
    facts, rows = read_facts(work), read_rows(work)["pairs"]
    data = Dataset.from_list([{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in rows])
    config = DPOConfig(beta=0.1, max_length=1024, precompute_ref_log_probs=precomputed, **settings(facts, work, name))
    trainer = tokenised(DPOTrainer)(policy_model(work), args=config, train_dataset=data,
                                    processing_class=tokenizer(work))  # fmt: skip
    run(trainer, work, turn, name, "policy")


def kto(work: Path, turn: Turn) -> None:
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    facts, rows = read_facts(work), read_rows(work)["ratings"]
    config = KTOConfig(beta=0.1, max_length=1024, **settings(facts, work, "kto"))
    trainer = tokenised(KTOTrainer)(policy_model(work), args=config, train_dataset=Dataset.from_list(
        mismatched(rows, facts["batch"])), processing_class=tokenizer(work))  # fmt: skip
    run(trainer, work, turn, "kto", "policy")


def mismatched(rows: list[Any], batch: int) -> list[dict[str, Any]]:
    """The ratings as TRL's collator wants them, each with the completion of the row before it in its batch.

    That is TRL's own rotation. Ours takes the row after it, so every batch is turned round here: then both read the
    same completions under the same prompts, and the zero points agree too.
    """
    made = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch][::-1]
        made += [{"prompt_ids": p, "completion_ids": c, "KL_completion_ids": part[i - 1][1], "label": liked}
                 for i, (p, c, liked) in enumerate(part)]  # fmt: skip
    return made


def with_adapter(model: Any, work: Path, source: str) -> Any:
    """A sequence classifier with the work's adapter, injected in place, and its head, both trained."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    state = load_file(str(work / source / "adapter_model.safetensors"))
    config = LoraConfig.from_pretrained(work / source)
    config.inference_mode, config.task_type = False, None
    model = inject_adapter_in_model(config, model)
    loaded = set_peft_model_state_dict(model, {k.removeprefix("base_model.model."): v for k, v in state.items()})
    assert not loaded.unexpected_keys
    model.score.weight.data = load_file(str(work / "head.safetensors"))["weight"]
    model.score.weight.requires_grad_(True)
    model.config.pad_token_id = read_facts(work)["pad"]
    model._hf_peft_config_loaded = True  # what transformers' own add_adapter notes: there is something to train
    return model


def float32(model: Any) -> None:
    """Puts what TRL stores in bfloat16 back to float32."""
    for p in model.parameters():
        if p.dtype == torch.bfloat16:
            p.data = p.data.float()


def rollout(work: Path, turn: Turn) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    facts, prompts = read_facts(work), read_rows(work)["prompts"][:64]
    model = PeftModel.from_pretrained(quantised(AutoModelForCausalLM, facts["model"]), work / "adapter").eval()
    width = max(map(len, prompts))
    ids = torch.tensor([[facts["pad"]] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])

    def run(**options: Any) -> list[list[int]]:
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=facts["max_new_tokens"], **options)
        rows = out[:, width:].tolist()
        return [row[: row.index(facts["eos"]) + 1] if facts["eos"] in row else row for row in rows]

    turn.ready(greedy=run(do_sample=False))
    torch.manual_seed(0)
    while True:
        turn.wait()
        rows = run(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        turn.done(tokens=sum(map(len, rows)), longest=max(map(len, rows)))


def main() -> None:
    work, what = Path(sys.argv[1]), sys.argv[2]
    turn = Turn()
    contenders = {"sft": sft, "reward": reward, "dpo": dpo, "dpo-precomputed": lambda w, t: dpo(w, t, True),
                  "kto": kto, "rollout": rollout}  # fmt: skip
    contenders[what](work, turn)


if __name__ == "__main__":
    main()
