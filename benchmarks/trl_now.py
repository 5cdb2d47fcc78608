"""TRL's present release and transformers' generate as contenders.

    python -m benchmarks.trl_now <work> sft|reward|rollout

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
from benchmarks.work import read_facts, read_rows


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


class Turns(TrainerCallback):
    """Hands over the turn after every step, and notes the gradients before the first one."""

    def __init__(self, turn: Turn, model: Any, target: Path, role: str) -> None:
        self.turn, self.model, self.target, self.role = turn, model, target, role

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.turn.ready()
        self.turn.wait()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            np.savez(self.target, **gradients(self.model, self.role))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.turn.done()
        self.turn.wait()


def settings(facts: dict[str, Any], work: Path, rate: float) -> dict[str, Any]:
    """Arguments of both trainers: as little around the step as they allow."""
    return {"output_dir": str(work / "trl"), "use_cpu": True, "per_device_train_batch_size": facts["batch"],
            "max_steps": facts["steps"], "learning_rate": rate, "lr_scheduler_type": "cosine", "warmup_steps": 0,
            "logging_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "bf16": False,
            "gradient_checkpointing": False, "max_grad_norm": 1.0, "weight_decay": 0.0, "max_length": 1024,
            "train_sampling_strategy": "sequential", "dataloader_pin_memory": False, "seed": 0}  # fmt: skip


def note_first_loss(trainer: Any, work: Path, name: str) -> None:
    """Writes the first loss TRL computes to <work>/<name>.txt."""
    compute = trainer.compute_loss

    def compute_loss(*args: Any, **options: Any) -> Any:
        result = compute(*args, **options)
        loss = result[0] if isinstance(result, tuple) else result
        (work / f"{name}.txt").write_text(str(float(loss.detach())))
        trainer.compute_loss = compute
        return result

    trainer.compute_loss = compute_loss


def sft(work: Path, turn: Turn) -> None:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    facts, rows = read_facts(work), read_rows(work)["sft"]
    model = PeftModel.from_pretrained(
        quantised(AutoModelForCausalLM, facts["model"]), work / "adapter", is_trainable=True
    )
    data = Dataset.from_list([{"input_ids": p + c, "labels": [-100] * len(p) + c} for p, c in rows])
    trainer = SFTTrainer(model, SFTConfig(**settings(facts, work, 2e-4)), train_dataset=data,
                         processing_class=AutoTokenizer.from_pretrained(facts["model"]))  # fmt: skip
    _float32(trainer.model)
    trainer.add_callback(Turns(turn, trainer.model, work / "sft-theirs.npz", "sft"))
    note_first_loss(trainer, work, "sft-theirs")
    trainer.train()


def reward(work: Path, turn: Turn) -> None:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    facts, rows = read_facts(work), read_rows(work)["pairs"]
    model = with_adapter(quantised(AutoModelForSequenceClassification, facts["model"], num_labels=1), work, "adapter")
    data = Dataset.from_list([{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in rows])
    config = RewardConfig(center_rewards_coefficient=0.01, **settings(facts, work, 1e-4))
    trainer = RewardTrainer(model, config, train_dataset=data,
                            processing_class=AutoTokenizer.from_pretrained(facts["model"]))  # fmt: skip
    _float32(trainer.model)
    trainer.add_callback(Turns(turn, trainer.model, work / "reward-theirs.npz", "reward"))
    note_first_loss(trainer, work, "reward-theirs")
    trainer.train()


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


def _float32(model: Any) -> None:
    for p in model.parameters():
        if p.requires_grad:
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
    {"sft": sft, "reward": reward, "rollout": rollout}[what](work, turn)


if __name__ == "__main__":
    main()
