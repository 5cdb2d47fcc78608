"""How unsure reward models are about a pair: by hand, from roles on a base, and from the terminal into a store."""

from __future__ import annotations

import json
import math

import pytest
import torch
from click.testing import CliRunner
from models import build_model

from lab.cli import main
from lab.feedback.labels.store import Store
from lab.feedback.uncertainty import read, uncertainty
from lab.records import Comparison


def test_members_disagree_by_hand():
    """Leads 1 and 3: mean 2, deviation 1. Leads 2 and 2: 0. Leads −1, 1: 1, though they agree on how large it is."""
    readings = torch.tensor([[[2.0, 1.0], [5.0, 3.0], [0.0, 1.0]], [[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]]])
    assert uncertainty(readings).tolist() == pytest.approx([1.0, 0.0, 1.0])
    shifted = readings + torch.tensor([10.0, -3.0])[:, None, None]
    assert uncertainty(shifted).tolist() == pytest.approx([1.0, 0.0, 1.0]), "only leads mean something"


def test_one_model_is_least_sure_at_even_odds():
    """σ(0) = ½: 1. σ(ln 3) = ¾: 1 − ½ = ½, whichever of the two leads. σ(40): 0."""
    readings = torch.tensor([[[0.7, 0.7], [math.log(3), 0.0], [0.0, math.log(3)], [40.0, 0.0]]])
    assert uncertainty(readings).tolist() == pytest.approx([1.0, 0.5, 0.5, 0.0], abs=1e-6)


@pytest.mark.parametrize("shape", [(3, 2), (0, 3, 2), (2, 3, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"give \(M, n, 2\), a and b of each pair by member"):
        uncertainty(torch.zeros(shape))


def test_the_least_sure_pairs_are_shown_first(tmp_path, monkeypatch):
    """Three members judge the pairs of a store; who comes next gets them in the order of their disagreement."""
    monkeypatch.chdir(tmp_path)
    build_model(tmp_path / "model", "llama")
    pairs = [{"prompt": f"Who repairs clock {i}?", "chosen": "A young doctor.", "rejected": f"Nobody {'at all ' * i}"}
             for i in range(12)]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))

    def lab(*words):
        return CliRunner().invoke(main, [str(w) for w in words])

    done = lab("reward", "--model", "model", "--data", "pairs.jsonl", "--members", 3, "--batch", 4, "--rank", 4,
               "--head-lr", "1e-2", "--device", "cpu", "--out", "rms")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "There is no label store" in lab("label", "rate", "--reward", "rms", "--device", "cpu").output
    assert lab("label", "add", "pairs.jsonl").exit_code == 0
    done = lab("label", "rate", "--reward", "rms", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "12 of 12 pairs rated by 3 members" in done.output
    assert "0 of 12 pairs rated" in lab("label", "rate", "--reward", "rms", "--device", "cpu").output, "once a step"
    with Store.open("labels.sqlite") as store:
        known = {i.id: i.uncertainty for i in store.items()}
        assert len(set(known.values())) > 6
        store.rule(store.rules.__class__(overlap=1, gold=0.0, repeats=0.0, explore=0.0))
        store.person("mina")
        seen = []
        training = [i.id for i in store.items() if i.split == "training"]
        while (showing := store.assign("mina")) is not None:
            seen.append(showing.item.id)
            store.record(showing.vote(1))
        first = seen[: len(training)]
        assert [known[i] for i in first] == sorted((known[i] for i in training), reverse=True)
    assert "no run and no adapter" in lab("label", "rate", "--reward", "nobody", "--device", "cpu").output


def test_readings_are_those_of_the_roles(qwen3_folder):
    from lab.base import SharedBase
    from lab.config import Adapter
    from lab.score import score

    base = SharedBase.load(qwen3_folder, bits=4, device="cpu")
    for i in range(2):
        base.add_role(f"r{i}", Adapter(rank=4, alpha=8), seed=i)
        base.add_head(f"r{i}", seed=5 + i)
        noise = torch.randn(base.role(f"r{i}").weights.shape, generator=torch.Generator().manual_seed(i))
        base.role(f"r{i}").weights.add_(noise * 0.05)
    pairs = [Comparison("Who?", "Me.", "You and me."), Comparison("Why?", "Because of it.", "No.")]
    found = read(base, ["r0", "r1"], pairs)
    assert found.shape == (2, 2, 2)
    one = score(base, [tuple(map(tuple, base.chat.split("Why?", "No.")))], {"r1": "reward"})["r1"]
    assert float(found[1, 1, 1]) == pytest.approx(float(one), abs=1e-4)
    assert len(set(found.flatten().tolist())) == 8
