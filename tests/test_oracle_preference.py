"""The preference objectives against TRL's own code, value and gradient, on the same log-probabilities.

TRL writes the losses of its `DPOTrainer` and `KTOTrainer` inside `_compute_loss`; it is called here with a stand-in for
the trainer and one for the model, which answers with given log-probabilities per token. CPO and ORPO have functions
of their own. Its BCO for ratings is no longer part of the package, and its DPO has no label smoothing (CPO has).

Where TRL means something else by a name, the test says so and converts: IPO (averages per token), γ of SimPO, the
likelihood inside CPO and ORPO, the coefficient of the α-divergence.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lab.objectives.pairs import Knobs, Pairs
from lab.objectives.preference import OBJECTIVES, preference_loss
from lab.objectives.unpaired import UNPAIRED, Ratings, kto_baseline

pytest.importorskip("trl")

B, T = 5, 7


class Text(NamedTuple):
    """Log-probabilities per token of B completions under the policy (with gradient) and the reference, 0 past the end.

    `mask`: (B, T + 1), the first column the prompt's only token.
    """

    logprobs: Tensor
    reference: Tensor
    mask: Tensor


def text(rows: int, seed: int, dtype: torch.dtype = torch.float64, length: int | None = None) -> Text:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, T + 1, (rows,), generator=generator) if length is None else torch.full((rows,), length)
    counted = torch.arange(T) < lengths[:, None]
    reference = -(torch.rand(rows, T, generator=generator, dtype=torch.float64) + 0.2)
    logprobs = reference + 0.5 * torch.randn(rows, T, generator=generator, dtype=torch.float64)
    logprobs, reference = (torch.where(counted, x, 0).to(dtype) for x in (logprobs, reference))
    mask = torch.cat([torch.zeros(rows, 1, dtype=torch.long), counted.long()], dim=1)
    return Text(logprobs.requires_grad_(), reference, mask)


def outputs(logprobs: Tensor) -> SimpleNamespace:
    """What TRL's fused head returns: the log-probabilities, and things it only reports."""
    nothing = torch.zeros_like(logprobs)
    return SimpleNamespace(log_probs=logprobs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())


def accelerator() -> SimpleNamespace:
    return SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)


def trl_dpo(both: Text, loss_type: str, beta: float, smoothing: float = 0.0, **more: float | str) -> Tensor:
    """TRL's mean loss; the first half of the rows is chosen, the second rejected."""
    from trl import DPOTrainer

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False), accelerator=accelerator(), _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0, aux_loss_enabled=False, use_weighting=False, ld_alpha=None, precompute_ref_logps=True,
        loss_types=[loss_type], loss_weights=[1.0], beta=beta, label_smoothing=smoothing,
        f_divergence_type=more.get("divergence", "reverse_kl"), f_alpha_divergence_coef=more.get("coefficient"),
        args=SimpleNamespace(discopop_tau=more.get("temperature")),
    )  # fmt: skip
    reference = both.reference.sum(1)
    inputs = {"input_ids": torch.zeros_like(both.mask), "attention_mask": torch.ones_like(both.mask),
              "completion_mask": both.mask, "ref_chosen_logps": reference[: len(reference) // 2],
              "ref_rejected_logps": reference[len(reference) // 2 :]}  # fmt: skip
    return DPOTrainer._compute_loss(trainer, lambda **_: outputs(both.logprobs), inputs, return_outputs=False)


def pairs_of(both: Text) -> Pairs:
    sums = (*both.logprobs.sum(1).chunk(2), *both.reference.sum(1).chunk(2), *both.mask.sum(1).chunk(2))
    return Pairs(*sums)


def same(ours: Tensor, theirs: Tensor, leaf: Tensor, rtol: float = 1e-9) -> None:
    """The same scalar, and the same gradient at the log-probability of every token."""
    gradients = [torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in (ours, theirs)]
    assert gradients[1].abs().max() > 0
    assert_close(ours, theirs, rtol=rtol, atol=rtol)
    assert_close(*gradients, rtol=rtol, atol=rtol)


# ours, TRL's name, knobs, what else TRL is told
SAME = [
    ("dpo", "sigmoid", Knobs(0.3), {}),
    ("robust", "robust", Knobs(0.3, smoothing=0.2), {}),
    ("ipo_mean", "ipo", Knobs(0.3), {}),
    ("hinge", "hinge", Knobs(0.3), {}),
    ("dpo_norm", "sigmoid_norm", Knobs(5.0), {}),
    ("nca", "nca_pair", Knobs(0.3), {}),
    ("bco_pair", "bco_pair", Knobs(0.3), {}),
    ("sppo", "sppo_hard", Knobs(0.3), {}),
    ("apo_zero", "apo_zero", Knobs(0.3), {}),
    ("apo_down", "apo_down", Knobs(0.3), {}),
    ("aot", "aot", Knobs(0.3), {}),
    ("discopop", "discopop", Knobs(0.3, sharpness=0.2), {"temperature": 0.2}),
    ("fdpo_forward_kl", "sigmoid", Knobs(0.3), {"divergence": "forward_kl"}),
    ("fdpo_js", "sigmoid", Knobs(0.3), {"divergence": "js_divergence"}),
]


@pytest.mark.parametrize(("name", "loss_type", "knobs", "more"), SAME, ids=[row[0] for row in SAME])
@pytest.mark.parametrize("seed", [1, 2])
def test_dpo_trainer(name, loss_type, knobs, more, seed):
    both = text(2 * B, seed)
    ours = OBJECTIVES[name].loss(pairs_of(both), knobs).mean()
    same(ours, trl_dpo(both, loss_type, knobs.beta, knobs.smoothing, **more), both.logprobs)


def test_exo_up_to_its_single_precision_epsilon():
    """TRL takes the logarithms of ε as float32."""
    both = text(2 * B, 1)
    ours = OBJECTIVES["exo"].loss(pairs_of(both), Knobs(0.3, smoothing=0.1)).mean()
    same(ours, trl_dpo(both, "exo_pair", 0.3, 0.1), both.logprobs, rtol=1e-6)


def test_alpha_divergence_with_one_minus_alpha():
    """TRL's coefficient c has f'(u) = (u^(c − 1) − 1) / (c − 1): c = 1 − α. It knows no float64."""
    both = text(2 * B, 1, torch.float32)
    ours = OBJECTIVES["fdpo_alpha"].loss(pairs_of(both), Knobs(0.3, divergence=0.3)).mean()
    theirs = trl_dpo(both, "sigmoid", 0.3, divergence="alpha_divergence", coefficient=0.7)
    same(ours, theirs, both.logprobs, rtol=1e-5)


def test_ipo_on_sums_is_trls_on_averages_with_another_target():
    """For lengths all T: (d / T − 1 / (2τ))² = (d − T / (2τ))² / T², so that τ here is τ / T there."""
    both = text(2 * B, 1, length=T)
    ours = OBJECTIVES["ipo"].loss(pairs_of(both), Knobs(0.3 / T)).mean() / T**2
    same(ours, trl_dpo(both, "ipo", 0.3), both.logprobs)


def test_the_likelihood_is_a_mean_over_tokens_there_and_over_completions_here():
    """The same on chosen completions of one length."""
    both = text(2 * B, 1, length=T)
    ours = preference_loss(pairs_of(both), [("nll", 1.0)], {"nll": Knobs(0.1)}).mean()
    same(ours, trl_dpo(both, "sft", 0.1), both.logprobs)


# --- CPO, SimPO, ORPO ------------------------------------------------------------------------------------------------


def trl_cpo(pairs: Pairs, loss_type: str, beta: float, smoothing: float = 0.0, gamma: float = 0.0) -> Tensor:
    from trl.experimental.cpo import CPOTrainer

    trainer = SimpleNamespace(accelerator=accelerator(), alpha=0.0, beta=beta, label_smoothing=smoothing,
                              loss_type=loss_type, simpo_gamma=gamma)  # fmt: skip
    average = loss_type == "simpo"
    chosen = pairs.chosen / pairs.chosen_length if average else pairs.chosen
    rejected = pairs.rejected / pairs.rejected_length if average else pairs.rejected
    return CPOTrainer.cpo_loss(trainer, chosen, rejected)[0].mean()


@pytest.mark.parametrize("gamma", [0.0, 0.8])
def test_simpo_with_gamma_taken_off_after_beta(gamma):
    """TRL's `simpo_gamma` is the paper's γ as well: it divides by β first and multiplies afterwards."""
    both = text(2 * B, 3)
    ours = OBJECTIVES["simpo"].loss(pairs_of(both), Knobs(2.0, gamma=gamma)).mean()
    same(ours, trl_cpo(pairs_of(both), "simpo", 2.0, gamma=gamma), both.logprobs)


def test_cdpo_is_cpo_with_smoothing_once_the_reference_is_0():
    both = text(2 * B, 3)
    both = both._replace(reference=torch.zeros_like(both.reference))
    ours = OBJECTIVES["cdpo"].loss(pairs_of(both), Knobs(0.3, smoothing=0.2)).mean()
    same(ours, trl_cpo(pairs_of(both), "sigmoid", 0.3, smoothing=0.2), both.logprobs)


class Told(NamedTuple):
    """A padded batch as TRL's CPO and ORPO take it, and the logits a model is to answer with."""

    batch: dict[str, Tensor]
    logits: Tensor
    pairs: Pairs


def told(seed: int, length: int = T, vocabulary: int = 11) -> Told:
    """One token of prompt, which nothing predicts, then `length` tokens of completion."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocabulary, (2 * B, length + 1), generator=generator)
    logits = 2 * torch.randn(2 * B, length + 1, vocabulary, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    labels = tokens.clone()
    labels[:, 0] = -100
    batch = {}
    for half, rows in (("chosen", slice(0, B)), ("rejected", slice(B, None))):
        batch |= {f"{half}_input_ids": tokens[rows], f"{half}_labels": labels[rows],
                  f"{half}_attention_mask": torch.ones_like(tokens[rows])}  # fmt: skip
    sums = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1).sum(1)
    nothing, ends = torch.zeros(B, dtype=torch.float64), torch.full((B,), length)
    return Told(batch, logits, Pairs(*sums.chunk(2), nothing, nothing, ends, ends))


def trl_whole(trainer_class: type, given: Told, **settings: object) -> Tensor:
    """The loss of a batch from TRL's `get_batch_loss_metrics`, with a model that answers with given logits."""
    trainer = SimpleNamespace(accelerator=accelerator(), aux_loss_enabled=False, is_encoder_decoder=False, **settings)
    for name in ("concatenated_forward", "cpo_loss", "odds_ratio_loss"):
        if hasattr(trainer_class, name):
            setattr(trainer, name, getattr(trainer_class, name).__get__(trainer))
    for name in ("get_batch_logps", "concatenated_inputs"):
        setattr(trainer, name, getattr(trainer_class, name))
    model = lambda *_, **__: SimpleNamespace(logits=given.logits)  # noqa: E731
    return trainer_class.get_batch_loss_metrics(trainer, model, given.batch)[0]


def test_cpo_with_the_likelihood_as_a_sum():
    """TRL averages the likelihood over the chosen tokens of the batch: at length T, its weight w is w / T here."""
    from trl.experimental.cpo import CPOTrainer

    given = told(5)
    theirs = trl_whole(CPOTrainer, given, loss_type="sigmoid", cpo_alpha=0.7, alpha=0.0, beta=0.3, label_smoothing=0.0,
                       pad_token_id=0)  # fmt: skip
    ours = OBJECTIVES["cpo"].loss(given.pairs, Knobs(0.3, nll=0.7 / T)).mean()
    same(ours, theirs, given.logits)


def test_orpo_where_the_prompt_has_nothing_to_predict():
    """TRL's likelihood covers the prompt too; here it has one token, so both mean the same. Its odds are float32."""
    from trl.experimental.orpo import ORPOTrainer

    given = told(6)
    theirs = trl_whole(ORPOTrainer, given, beta=0.4, padding_value=0)
    ours = OBJECTIVES["orpo"].loss(given.pairs, Knobs(0.4)).mean()
    same(ours, theirs, given.logits, rtol=1e-6)


# --- KTO -------------------------------------------------------------------------------------------------------------


def trl_kto(rated: Text, mismatched: Text, liked: Tensor, beta: float, weights: tuple[float, float]) -> Tensor:
    from trl import KTOTrainer

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False), accelerator=accelerator(), _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0, aux_loss_enabled=False, precompute_ref_logps=True, calculate_KL=True, loss_type="kto",
        beta=beta, desirable_weight=weights[0], undesirable_weight=weights[1],
        _compute_kl_logps=lambda model, batch: mismatched.logprobs.sum(1),
    )  # fmt: skip
    inputs = {"input_ids": torch.zeros_like(rated.mask), "attention_mask": torch.ones_like(rated.mask),
              "completion_mask": rated.mask, "label": liked, "ref_logps": rated.reference.sum(1),
              "ref_KL_logps": mismatched.reference.sum(1)}  # fmt: skip
    return KTOTrainer._compute_loss(trainer, lambda **_: outputs(rated.logprobs), inputs, return_outputs=False)


@pytest.mark.parametrize("towards", [1.0, -1.0])
def test_kto_with_a_baseline_above_and_below_0(towards):
    rated, mismatched, liked = text(6, 7), text(6, 8), torch.tensor([True, False, False, True, True, False])
    shift = towards * torch.where(mismatched.mask[:, 1:].bool(), 1.0, 0.0)
    mismatched = mismatched._replace(logprobs=mismatched.reference + shift)
    z0 = kto_baseline(mismatched.logprobs.sum(1), mismatched.reference.sum(1))
    assert (z0.item() > 0) == (towards > 0)
    ratings = Ratings(rated.logprobs.sum(1), rated.reference.sum(1), liked)
    ours = UNPAIRED["kto"].loss(ratings, 0.3, z0, 1.3, 0.6).mean()
    same(ours, trl_kto(rated, mismatched, liked, 0.3, (1.3, 0.6)), rated.logprobs)


def test_every_loss_of_trls_dpo_is_compared_or_named():
    """A name TRL adds later shows up here: `aot_unpaired` needs no pairs, and the lab leaves it out."""
    from trl import DPOTrainer

    theirs = set(re.findall(r'loss_type == "(\w+)"', inspect.getsource(DPOTrainer._compute_loss)))
    compared = {row[1] for row in SAME} | {"exo_pair", "sft"}
    assert theirs - compared == {"aot_unpaired"}
    assert compared - theirs == set()
