"""The same numbers from TRL, where it has a function that can be called.

TRL writes most of its arithmetic inside its trainers. What can be reached: its log-probabilities of tokens, and the
reward trainer's `compute_loss`, called here with a stand-in for the trainer. Its PPO, its whitening and its adaptive
KL are no longer part of the package.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from lab.objectives import bradley_terry, token_logprobs

trl_utils = pytest.importorskip("trl.trainer.utils")


def test_token_logprobs_equal_trl():
    generator = torch.Generator().manual_seed(5)
    logits = 4 * torch.randn(3, 7, 50, generator=generator)
    targets = torch.randint(50, (3, 7), generator=generator)
    for temperature in (1.0, 0.7):
        theirs = trl_utils.selective_log_softmax(logits, targets, temperature)
        assert_close(token_logprobs(logits, targets, temperature), theirs, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("centring", [None, 0.01])
@pytest.mark.parametrize("with_margin", [False, True])
def test_reward_loss_equals_trl(centring, with_margin):
    from trl import RewardTrainer

    generator = torch.Generator().manual_seed(6)
    scores = torch.randn(8, 1, generator=generator)
    margin = torch.rand(4, generator=generator) if with_margin else None
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=centring),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs = {} if margin is None else {"margin": margin}
    theirs = RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=scores), inputs)
    ours = bradley_terry(scores[:4, 0], scores[4:, 0], margin, centring=centring or 0.0)
    assert_close(ours.mean(), theirs, rtol=1e-6, atol=1e-6)
