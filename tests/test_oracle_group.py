"""The critic-free methods against TRL's own code, on the same inputs: advantages, losses and their gradients.

TRL keeps this arithmetic inside its trainers. `GRPOTrainer` and `RLOOTrainer` are never built: their unbound methods
are called with a stand-in for the trainer, whose log-probabilities are the tensors of the test.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lab.objectives.group import ADVANTAGES, gdpo, overlong
from lab.objectives.kl import k1, k3, k3_corrected
from lab.objectives.surrogate import SURROGATES, correction
from lab.objectives.tokens import length_mask, token_weights, weighted_sum
from lab.objectives.variants import VARIANTS

pytest.importorskip("trl")

B, T, G, LONGEST = 8, 6, 4, 9
LENGTHS = torch.tensor([6, 1, 3, 5, 2, 6, 4, 4])
MASK = length_mask(LENGTHS, T)
GENERATOR = torch.Generator().manual_seed(11)
OLD = -2 * torch.rand(B, T, generator=GENERATOR) - 0.1
NEW = OLD + 0.4 * torch.randn(B, T, generator=GENERATOR)
REFERENCE = OLD + 0.3 * torch.randn(B, T, generator=GENERATOR)
SAMPLER = OLD + 0.3 * torch.randn(B, T, generator=GENERATOR)
ROWS = torch.randn(B, generator=GENERATOR)  # an advantage per completion
REWARDS = torch.randn(B, 2, generator=GENERATOR)
TOKENS = [torch.randint(1, 50, (int(n),), generator=GENERATOR).tolist() for n in LENGTHS]


def stand_in(logprobs: list[Tensor], **changes: object) -> SimpleNamespace:
    """What TRL's methods read of a trainer; each call for log-probabilities answers with the next of `logprobs`."""
    answers = iter(logprobs)
    args = SimpleNamespace(
        use_bias_correction_kl=True, delta=None, sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
        steps_per_generation=1, gradient_accumulation_steps=1, per_device_train_batch_size=B,
        gradient_checkpointing_kwargs=None,
    )  # fmt: skip
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, process_index=0, gather=lambda x: x, reduce=lambda x, reduction: x
    )
    bookkeeping = SimpleNamespace(
        accelerator=accelerator, model=SimpleNamespace(training=True, is_gradient_checkpointing=False),
        _tokenizer=SimpleNamespace(pad_token_id=0), pad_to_multiple_of=None, environment_factories=None, tools=None,
        environments=None, log_multimodal=False, aux_loss_enabled=False, _metrics={"train": defaultdict(list)},
        _logs=defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list)), _pending_extra_logs={},
        _pending_metrics={}, reward_func_names=["a", "b"], reward_funcs=[None, None], ref_model=object(),
    )  # fmt: skip
    self = SimpleNamespace(
        **vars(bookkeeping), args=args,
        _get_per_token_logps_and_entropies=lambda *_, **__: (next(answers), torch.zeros(B, T), None),
        loss_type="grpo", importance_sampling_level="token", epsilon_low=0.2, epsilon_high=0.2, beta=0.0,
        top_entropy_quantile=1.0, _entropy_bonus_enabled=False, off_policy_mask_threshold=None,
        use_vllm=False, vllm_importance_sampling_correction=True, mask_truncated_completions=False,
        num_iterations=1, current_gradient_accumulation_steps=1, max_completion_length=LONGEST, num_generations=G,
        reward_weights=torch.ones(2), multi_objective_aggregation="sum_then_normalize", scale_rewards="group",
        reward_clip_range=None, normalize_advantages=False,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(args if hasattr(args, name) else self, name, value)
    return self


def trl_loss(logprobs: Tensor, **changes: object) -> Tensor:
    """The loss of TRL's GRPO, with the tensors of this file."""
    from trl import GRPOTrainer

    inputs = {
        "prompt_ids": torch.ones(B, 1, dtype=torch.long), "prompt_mask": torch.ones(B, 1, dtype=torch.long),
        "completion_ids": torch.ones(B, T, dtype=torch.long), "completion_mask": MASK.long(), "advantages": ROWS,
        "old_per_token_logps": OLD, "ref_per_token_logps": REFERENCE, "num_items_in_batch": MASK.sum(),
        "importance_sampling_ratio": changes.pop("weights", None),
    }  # fmt: skip
    return GRPOTrainer._compute_loss(stand_in([logprobs], **changes), None, inputs)


def lab_loss(logprobs: Tensor, surrogate: str, reduction: str, low: float, high: float, **more: Tensor) -> Tensor:
    """The same of the lab: surrogate, times the correction if given, plus the KL term if given."""
    loss = SURROGATES[surrogate](logprobs, OLD, ROWS[:, None].expand(B, T), low, high, MASK).loss
    loss = loss * more.get("weights", torch.tensor(1.0)) + more.get("kl", torch.tensor(0.0))
    return weighted_sum(loss, token_weights(MASK, reduction, longest=LONGEST))


def same(theirs, ours) -> None:
    """Equal value and equal gradient of two functions of the log-probabilities."""
    results = []
    for function in (theirs, ours):
        x = NEW.clone().requires_grad_()
        loss = function(x)
        loss.backward()
        results.append((loss.detach(), x.grad))
    (value, gradient), (our_value, our_gradient) = results
    assert gradient.abs().max() > 1e-3
    assert_close(our_value, value, rtol=1e-5, atol=1e-6)
    assert_close(our_gradient, gradient, rtol=1e-5, atol=1e-6)


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dr_grpo", {"loss_type": "dr_grpo"}),
        ("dapo", {"loss_type": "dapo"}),
        ("gspo", {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
        ("cispo", {"loss_type": "cispo", "epsilon_high": 5.0}),  # TRL's is the cap, the lab's cap is 1 + high
        ("lite_ppo", {"loss_type": "dapo"}),
        ("reinforce_pp", {"loss_type": "dapo"}),
    ],
)
def test_variants_equal_trl(name, settings):
    v = VARIANTS[name]
    settings = {"epsilon_low": v.clip_low, "epsilon_high": v.clip_high} | settings
    same(
        lambda x: trl_loss(x, **settings),
        lambda x: lab_loss(x, v.surrogate, v.reduction, v.clip_low, v.clip_high),
    )


@pytest.mark.parametrize("corrected", [False, True])
def test_grpo_equals_trl_with_its_kl(corrected):
    beta = VARIANTS["grpo"].kl_in_loss

    def ours(x: Tensor) -> Tensor:
        kl = k3_corrected(x, REFERENCE, MASK, OLD) if corrected else k3(x, REFERENCE, MASK)
        return lab_loss(x, "token", "sequence_mean", 0.2, 0.2, kl=beta * kl)

    same(lambda x: trl_loss(x, beta=beta, use_bias_correction_kl=corrected), ours)


@pytest.mark.parametrize(
    ("surrogate", "settings"),
    [
        ("two_sided", {"delta": 3.0}),
        ("sapo", {"loss_type": "sapo"}),
        ("sequence_mean", {"importance_sampling_level": "sequence", "epsilon_low": 0.1, "epsilon_high": 0.3}),
        ("cispo", {"loss_type": "cispo", "epsilon_high": 1.3}),
    ],
)
def test_surrogates_equal_trl(surrogate, settings):
    low, high = settings.get("epsilon_low", 0.2), settings.get("epsilon_high", 0.2)
    high = high - 1 if surrogate == "cispo" else high
    reduction = "token_mean" if surrogate == "cispo" else "sequence_mean"
    same(lambda x: trl_loss(x, **settings), lambda x: lab_loss(x, surrogate, reduction, low, high))


def test_two_sided_equals_trl_where_delta_acts():
    """Ratios up to e^2 on worse tokens: TRL caps the ratio, the lab the loss."""
    far = torch.where(ROWS[:, None] < 0, torch.tensor(2.0), torch.tensor(0.0))
    plain, capped = (trl_loss(OLD + far, delta=d) for d in (None, 3.0))
    assert plain > capped + 0.1
    assert_close(lab_loss(OLD + far, "two_sided", "sequence_mean", 0.2, 0.2), capped, rtol=1e-5, atol=1e-6)


def test_rloo_equals_trl():
    from trl import RLOOTrainer

    v = VARIANTS["rloo"]
    inputs = {
        "prompt_ids": torch.ones(B, 1, dtype=torch.long), "prompt_mask": torch.ones(B, 1, dtype=torch.long),
        "completion_ids": torch.ones(B, T, dtype=torch.long), "completion_mask": MASK.long(), "advantages": ROWS,
        "old_logps": (OLD * MASK).sum(1),
    }  # fmt: skip
    same(
        lambda x: RLOOTrainer._compute_loss(stand_in([x]), None, inputs),
        lambda x: lab_loss(x, v.surrogate, v.reduction, v.clip_low, v.clip_high),
    )


# --- advantages and the sampler's correction -------------------------------------------------------------------------


def trl_rollout(trainer: str, **changes: object) -> dict[str, Tensor]:
    """What TRL makes of the completions of this file: advantages, and weights for the sampler's log-probabilities."""
    import trl

    sampled = [row[:n].tolist() for row, n in zip(SAMPLER, LENGTHS.tolist(), strict=True)]
    texts = [[1]] * B, TOKENS, [""] * B
    generated = texts if trainer == "RLOOTrainer" else (texts[0], TOKENS, None, texts[2], sampled, {}, None, None)
    self = stand_in([OLD, REFERENCE], **changes)
    self._generate = lambda prompts: generated
    self._calculate_rewards = lambda *_: REWARDS.clone()
    return getattr(trl, trainer)._generate_and_score_completions(self, [{"prompt": "x"}] * B)


@pytest.mark.parametrize(("scale", "name"), [("group", "group_std"), ("none", "group_mean"), ("batch", "batch_std")])
def test_group_advantages_equal_trl(scale, name):
    theirs = trl_rollout("GRPOTrainer", scale_rewards=scale)["advantages"]
    assert_close(ADVANTAGES[name](REWARDS.sum(1).view(-1, G)).flatten(), theirs, rtol=1e-5, atol=1e-6)


def test_gdpo_equals_trl():
    weights = torch.tensor([2.0, 0.5])
    theirs = trl_rollout("GRPOTrainer", multi_objective_aggregation="normalize_then_sum", reward_weights=weights)
    assert_close(gdpo(REWARDS.view(-1, G, 2), weights).flatten(), theirs["advantages"], rtol=1e-5, atol=1e-6)


def test_leave_one_out_equals_trl_with_the_kl_in_the_reward():
    theirs = trl_rollout("RLOOTrainer", beta=0.05)["advantages"]
    rewards = REWARDS.sum(1) - 0.05 * k1(OLD, REFERENCE, MASK).sum(1)
    assert_close(ADVANTAGES["leave_one_out"](rewards.view(-1, G)).flatten(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_correction_equals_trl(how, level):
    """The weights themselves, and the loss with them: they multiply the surrogate and leave the KL alone."""
    low, high = 0.8, 1.5
    theirs = trl_rollout(
        "GRPOTrainer",
        use_vllm=True,
        vllm_importance_sampling_mode=f"{level}_{how}",
        vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
    )["importance_sampling_ratio"]
    weights = correction(OLD, SAMPLER, MASK, how, level, low, high)
    assert_close(weights, torch.where(MASK, theirs.expand(B, T), 0), rtol=1e-5, atol=1e-6)
    kinds = {x for x in weights[MASK].tolist() if x in (0, 1.5) or x == pytest.approx(low)}
    assert kinds, "no weight left the range"

    def ours(x: Tensor) -> Tensor:
        return lab_loss(
            x, "token", "sequence_mean", 0.2, 0.2, weights=weights, kl=0.1 * k3_corrected(x, REFERENCE, MASK, OLD)
        )

    same(lambda x: trl_loss(x, beta=0.1, use_vllm=True, weights=theirs), ours)


def test_overlong_equals_trl():
    from trl.rewards import get_soft_overlong_punishment

    lengths = [0, 1, 79, 80, 81, 99, 100, 101, 300]
    theirs = get_soft_overlong_punishment(100, 20)([[1] * n for n in lengths])
    assert_close(overlong(torch.tensor(lengths), 100, 20), torch.tensor(theirs))
