"""Every objective for pairs at one point by hand, its value at the reference, and what all of them have in common."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch.testing import assert_close

from lab.objectives.pairs import Knobs, Pairs
from lab.objectives.preference import OBJECTIVES, knobs_for

L3, L2 = math.log(3), math.log(2)
ALL = sorted(OBJECTIVES)
WITH_REFERENCE = sorted(set(ALL) - {"simpo", "cpo", "orpo", "nll"})


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def lengths(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


def random_pairs(rows: int = 4, seed: int = 1, dtype: torch.dtype = torch.float64) -> Pairs:
    """Averages between −1.5 and −0.5 nats per token, lengths from 1 to 4, references up to 1 nat away."""
    generator = torch.Generator().manual_seed(seed)
    chosen_length, rejected_length = torch.randint(1, 5, (2, rows), generator=generator)
    noise = torch.rand(4, rows, generator=generator, dtype=torch.float64).to(dtype)
    chosen, rejected = -(noise[0] + 0.5) * chosen_length, -(noise[1] + 0.5) * rejected_length
    reference = chosen + 2 * noise[2] - 1, rejected + 2 * noise[3] - 1
    return Pairs(chosen.requires_grad_(), rejected.requires_grad_(), *reference, chosen_length, rejected_length)


def detached(pairs: Pairs) -> Pairs:
    return Pairs(*(x.detach() for x in pairs))


# At a = 4 ln 3, b = 2 ln 3, |y_c| = 2, |y_r| = 4:  σ(ln 3) = 3/4, σ(2 ln 3) = 9/10.
# name: knobs, loss, dL/da, dL/db
BY_HAND = {
    "dpo": (Knobs(0.5), math.log(4 / 3), -1 / 8, 1 / 8),
    "cdpo": (Knobs(0.5, smoothing=0.1), 0.9 * math.log(4 / 3) + 0.1 * math.log(4), -0.075, 0.075),
    "robust": (Knobs(0.5, smoothing=0.1), (0.9 * math.log(4 / 3) - 0.1 * math.log(4)) / 0.8, -0.1875, 0.1875),
    "ipo": (Knobs(0.25), (2 * L3 - 2) ** 2, 4 * L3 - 4, 4 - 4 * L3),
    "ipo_mean": (Knobs(0.25), (1.5 * L3 - 2) ** 2, 1.5 * L3 - 2, 1 - 0.75 * L3),
    "hinge": (Knobs(0.25), 1 - L3 / 2, -0.25, 0.25),
    "dpo_norm": (Knobs(2 / 3), math.log(4 / 3), -1 / 12, 1 / 24),
    "exo": (
        Knobs(0.5, smoothing=0.1),
        0.75 * math.log(0.75 / 0.9) + 0.25 * math.log(0.25 / 0.1),
        -3 / 32 * L3,
        3 / 32 * L3,
    ),
    "aot": (Knobs(0.5), math.log(4 / 3), -1 / 8, 1 / 8),
    "discopop": (
        Knobs(0.5, sharpness=0.5),
        0.1 * math.log(4 / 3) + 0.9 / 3,
        (-0.325 + 0.18 * (1 / 3 - math.log(4 / 3))) / 2,
        (0.325 - 0.18 * (1 / 3 - math.log(4 / 3))) / 2,
    ),
    "fdpo_forward_kl": (Knobs(81 / 8 * L3), math.log(4 / 3), -L3 / 32, 9 * L3 / 32),
    "fdpo_js": (Knobs(2.0), math.log(3706 / 2025), -1681 / 3706 / 41, 1681 / 3706 / 5),
    "fdpo_alpha": (Knobs(9 / 4 * L3, divergence=0.5), math.log(4 / 3), -L3 / 16, 3 * L3 / 16),
    "nca": (Knobs(0.5), -math.log(0.9) - 0.5 * math.log(0.1) - 0.5 * math.log(0.25), 0.175, 0.1875),
    "bco_pair": (Knobs(0.5), -math.log(0.9) - math.log(0.25), -0.05, 0.375),
    "sppo": (Knobs(0.25), (4 * L3 - 2) ** 2 + (2 * L3 + 2) ** 2, 8 * L3 - 4, 4 * L3 + 4),
    "apo_zero": (Knobs(0.5), 0.1 + 0.75, -0.045, 0.09375),
    "apo_down": (Knobs(0.5), 0.9 + 0.25, -0.04875, 0.09375),
}

# At log π(y_c) = −2 ln 2 over 2 tokens (½ each), log π(y_r) = −8 ln 2 over 4 tokens (¼ each).
FREE_BY_HAND = {
    "simpo": (Knobs(2.0, gamma=math.log(4 / 3)), math.log(4 / 3), -1 / 4, 1 / 8),
    "cpo": (Knobs(L3 / L2 / 6, nll=0.25), math.log(4 / 3) + L2 / 2, -L3 / L2 / 24 - 0.25, L3 / L2 / 24),
    "orpo": (Knobs(0.5), L2 + 0.5 * math.log(4 / 3), -0.625, 1 / 24),
    "nll": (Knobs(0.5), L2, -0.5, 0.0),
}


def test_every_objective_has_its_point_by_hand():
    assert sorted(BY_HAND) == WITH_REFERENCE
    assert sorted(BY_HAND | FREE_BY_HAND) == ALL


@pytest.mark.parametrize("name", ALL)
def test_value_and_gradient_by_hand(name):
    knobs, loss, slope_chosen, slope_rejected = (BY_HAND | FREE_BY_HAND)[name]
    if name in BY_HAND:
        chosen, rejected, reference = t(4 * L3 - 5), t(2 * L3 - 3), (t(-5), t(-3))
    else:
        chosen, rejected, reference = t(-2 * L2), t(-8 * L2), (t(-17), t(-19))
    chosen.requires_grad_(), rejected.requires_grad_()
    got = OBJECTIVES[name].loss(Pairs(chosen, rejected, *reference, lengths(2), lengths(4)), knobs)
    got.sum().backward()
    assert_close(got.detach(), t(loss))
    assert_close(chosen.grad, t(slope_chosen))
    assert_close(t(0) if rejected.grad is None else rejected.grad, t(slope_rejected))


# name: defaults of the paper, knobs read besides beta, loss where the policy is the reference
TABLE = {
    "dpo": (Knobs(0.1), (), L2),
    "cdpo": (Knobs(0.1, smoothing=0.1), ("smoothing",), L2),
    "robust": (Knobs(0.01, smoothing=0.1), ("smoothing",), L2),
    "ipo": (Knobs(0.1), (), 25.0),
    "ipo_mean": (Knobs(0.1), (), 25.0),
    "hinge": (Knobs(0.1), (), 1.0),
    "dpo_norm": (Knobs(5.0), (), L2),
    "exo": (
        Knobs(0.1, smoothing=0.001),
        ("smoothing",),
        0.5 * math.log(0.5 / 0.999) + 0.5 * math.log(0.5 / 0.001),
    ),
    "nca": (Knobs(0.01), (), 2 * L2),
    "bco_pair": (Knobs(0.01), (), 2 * L2),
    "sppo": (Knobs(0.001), (), 500_000.0),
    "apo_zero": (Knobs(0.1), (), 1.0),
    "apo_down": (Knobs(0.1), (), 1.0),
    "aot": (Knobs(0.01), (), L2),
    "discopop": (Knobs(0.05, sharpness=0.05), ("sharpness",), 0.5 * L2 + 0.5),
    "fdpo_forward_kl": (Knobs(0.1), (), L2),
    "fdpo_js": (Knobs(0.1), (), L2),
    "fdpo_alpha": (Knobs(0.1, divergence=0.5), ("divergence",), L2),
    "simpo": (Knobs(2.0, gamma=1.0), ("gamma",), None),
    "cpo": (Knobs(0.1, nll=1.0), ("nll",), None),
    "orpo": (Knobs(0.1), (), None),
    "nll": (Knobs(0.1), (), None),
}


def test_the_table_of_objectives():
    assert {name: (o.knobs, o.reads) for name, o in OBJECTIVES.items()} == {n: row[:2] for n, row in TABLE.items()}
    assert [name for name, o in OBJECTIVES.items() if not o.reference] == ["simpo", "cpo", "orpo", "nll"]
    assert [name for name, o in OBJECTIVES.items() if o.coupled] == ["aot"]
    assert [name for name, o in OBJECTIVES.items() if o.start is None] == ["simpo", "cpo", "orpo", "nll"]


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_the_loss_at_the_reference_is_the_start(name):
    knobs, _, start = TABLE[name]
    pairs = detached(random_pairs())
    pairs = pairs._replace(chosen_reference=pairs.chosen, rejected_reference=pairs.rejected)
    assert OBJECTIVES[name].start(knobs) == pytest.approx(start, rel=1e-12)
    assert_close(OBJECTIVES[name].loss(pairs, knobs), t(start, start, start, start))


@pytest.mark.parametrize(
    ("name", "given", "start"),
    [
        ("ipo", {"beta": 0.5}, 1.0),
        ("ipo_mean", {"beta": 0.25}, 4.0),
        ("sppo", {"beta": 0.5}, 2.0),
        ("exo", {"smoothing": 0.2}, math.log(0.5 / 0.4)),
        ("cdpo", {"smoothing": 0.3}, L2),
    ],
)
def test_starts_follow_the_knobs(name, given, start):
    """ε = 0.2: KL(½ ‖ 0.8) = ½ ln(½ / 0.8) + ½ ln(½ / 0.2) = ln(½ / 0.4)."""
    assert OBJECTIVES[name].start(knobs_for(name, **given)) == pytest.approx(start, rel=1e-12)


# --- what all have in common -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_gradcheck(name):
    pairs, objective = random_pairs(), OBJECTIVES[name]
    assert torch.autograd.gradcheck(
        lambda c, r: objective.loss(pairs._replace(chosen=c, rejected=r), objective.knobs),
        (pairs.chosen, pairs.rejected),
    )


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_what_policy_and_reference_share_changes_nothing(name):
    """The same number added to both log-probabilities of a completion, however much of it."""
    pairs, objective = detached(random_pairs()), OBJECTIVES[name]
    moved = Pairs(pairs.chosen - 9, pairs.rejected + 4, pairs.chosen_reference - 9, pairs.rejected_reference + 4,
                  pairs.chosen_length, pairs.rejected_length)  # fmt: skip
    if name == "aot":  # it compares margins of different pairs, so what is added must be the same for both completions
        moved = moved._replace(rejected=pairs.rejected - 9, rejected_reference=pairs.rejected_reference - 9)
    assert_close(objective.loss(moved, objective.knobs), objective.loss(pairs, objective.knobs))


@pytest.mark.parametrize("name", ["simpo", "cpo", "orpo", "nll"])
def test_no_reference_is_read_where_none_is_needed(name):
    pairs, objective = detached(random_pairs()), OBJECTIVES[name]
    zeros = torch.zeros(4, dtype=torch.float64)
    without = pairs._replace(chosen_reference=zeros, rejected_reference=zeros)
    assert objective.loss(without, objective.knobs).tolist() == objective.loss(pairs, objective.knobs).tolist()


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_the_reference_is_constant(name):
    pairs = random_pairs()
    reference = pairs.chosen_reference.detach().requires_grad_(), pairs.rejected_reference.detach().requires_grad_()
    pairs = pairs._replace(chosen_reference=reference[0], rejected_reference=reference[1])
    OBJECTIVES[name].loss(pairs, OBJECTIVES[name].knobs).sum().backward()
    assert [x.grad for x in reference] == [None, None]
    assert pairs.chosen.grad.abs().min() > 0


@pytest.mark.parametrize("name", ALL)
def test_rows_are_alone_unless_coupled(name):
    pairs, objective = detached(random_pairs(8, seed=3)), OBJECTIVES[name]
    whole = objective.loss(pairs, objective.knobs)
    alone = torch.cat([objective.loss(Pairs(*(x[i : i + 1] for x in pairs)), objective.knobs) for i in range(8)])
    assert whole.shape == (8,)
    if objective.coupled:
        assert (whole - alone).abs().max() > 1e-4
    else:
        assert_close(whole, alone)


# name: loss of a pair of empty completions with the default knobs, where it is not the start
EMPTY = {"simpo": math.log(1 + math.e), "cpo": L2, "orpo": 0.1 * L2, "nll": 0.0}


@pytest.mark.parametrize("name", ALL)
def test_empty_completions(name):
    """Sums of no token are 0 and so are their averages: the loss of the start, and a gradient that is a number."""
    start = EMPTY[name] if name in EMPTY else TABLE[name][2]
    chosen, rejected = t(0).requires_grad_(), t(0).requires_grad_()
    loss = OBJECTIVES[name].loss(Pairs(chosen, rejected, t(0), t(0), lengths(0), lengths(0)), TABLE[name][0])
    loss.sum().backward()
    assert_close(loss.detach(), t(start))
    assert chosen.grad.isfinite().all()
    assert rejected.grad is None or rejected.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "beta", "loss"), [("ipo_mean", 0.5, 4.0), ("dpo_norm", L3 / 3, math.log(4 / 3)), ("nll", 1.0, -2.0)]
)
@pytest.mark.parametrize("length", [0, 1])
def test_an_empty_completion_counts_as_one_token(name, beta, loss, length):
    """Averages divide by max(length, 1): a = 2 and b = −1 stay what they are. IPO with τ = ½: (3 − 1)²."""
    pairs = Pairs(t(2), t(-1), t(0), t(0), lengths(length), lengths(length))
    assert_close(OBJECTIVES[name].loss(pairs, Knobs(beta)), t(loss))


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_widened_before_anything_is_taken_off(name):
    """a = −299, b = 258.5 and the margins −298.5 and 259 do not exist in bfloat16, which counts by twos here."""
    numbers = (-300.0, -1.5, -1.0, -260.0)
    objective, ends = OBJECTIVES[name], (lengths(2), lengths(3))
    half = objective.loss(Pairs(*(torch.tensor([x], dtype=torch.bfloat16) for x in numbers), *ends), objective.knobs)
    assert half.dtype is torch.float32
    assert_close(half.double(), objective.loss(Pairs(*map(t, numbers), *ends), objective.knobs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("field", Pairs._fields[1:])
def test_different_shapes_are_refused(name, field, refuses):
    pairs = detached(random_pairs(2))
    pairs = pairs._replace(**{field: getattr(pairs, field)[:1]})
    with refuses(f"{field} has shape (1,) but chosen has (2,); give both the same shape."):
        OBJECTIVES[name].loss(pairs, OBJECTIVES[name].knobs)


@pytest.mark.parametrize("name", ALL)
def test_every_docstring_teaches(name):
    """Name in full, equation, limits, when to use it (two sentences, the second names its trap), and the source."""
    doc = re.sub(r"\n {4}", "\n", OBJECTIVES[name].loss.__doc__ or "")
    paragraphs = doc.split("\n\n")
    assert re.match(r"[A-Z]|f-DPO", paragraphs[0])
    assert re.search(r"^    L = ", doc, re.MULTILINE)
    assert any(p.startswith("Limits: ") for p in paragraphs)
    (when,) = [p for p in paragraphs if p.startswith("When to use: ")]
    assert len(re.findall(r"\.(?=\s|$)", when)) == 2
    assert re.search(r"\.\s(Its\strap\sis)\s", when)
    assert any(p.startswith("Source:") for p in paragraphs)
