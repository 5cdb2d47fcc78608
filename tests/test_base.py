"""The shared base: roles as data, one pass for several roles, gradients, fork, freeze, save and load."""

from __future__ import annotations

import json

import pytest
import torch

from lab.base import RAW, RoleError, SharedBase
from lab.config import Adapter
from lab.pack import Row
from lab.quantise import ModelError, RMSNorm, fuse_norms, is_nf4
from lab.saving import AdapterError, load_role, save_role
from lab.score import score
from tests.models import FAMILIES, build_model

P, C, D = (5, 6, 7, 8), (9, 10, 11), (12, 13)


def shaken(base: SharedBase, name: str, seed: int, head: bool = False) -> None:
    """A role whose adapter does something: all its weights from N(0, 0.05²)."""
    role = base.add_role(name, Adapter(rank=8, alpha=16), seed=seed)
    if head:
        base.add_head(name, seed=seed)
    role.weights.copy_(torch.randn(role.weights.numel(), generator=torch.Generator().manual_seed(seed)) * 0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen3")
    build_model(path, family="qwen3")
    return path


@pytest.fixture
def base(folder):
    base = SharedBase.load(folder, bits=4, device="cpu", dense=False)
    shaken(base, "p", 1)
    shaken(base, "v", 2, head=True)
    return base


def test_every_adapted_layer_of_a_4_bit_base_is_nf4(base):
    layers = [layer for _, layer in base.layers("p")]
    assert len(layers) == 2 * 7  # two blocks of q, k, v, o, gate, up, down
    assert all(is_nf4(layer.base_layer) for layer in layers)
    assert not any(layer.base_layer.support_avx512bf16_for_cpu for layer in layers)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [4, 32])
def test_several_roles_in_one_pass_equal_one_pass_each(family, bits, tmp_path):
    build_model(tmp_path, family=family)
    base = SharedBase.load(tmp_path, bits=bits, device="cpu")
    shaken(base, "p", 1)
    shaken(base, "v", 2)
    rows = [Row("p", P, C), Row("v", P, C), Row("p", P, D), Row(RAW, P, C)]
    packed = base.pack(rows)
    together = base.forward(packed)[packed.last]
    for i, row in enumerate(rows):
        alone = base.pack([row])
        assert torch.allclose(together[i], base.forward(alone)[alone.last][0], atol=2e-5)
    assert float((together[0] - together[1]).detach().norm()) > 0.1  # the roles do differ


@pytest.mark.parametrize("bits", [4, 32])
def test_one_role_is_bitwise_what_peft_computes(bits, folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = SharedBase.load(folder, bits=bits, device="cpu", dense=False)
    shaken(base, "p", 1)
    save_role(base, "p", tmp_path / "p")
    quantisation = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                      bnb_4bit_compute_dtype=torch.float32) if bits == 4 else None  # fmt: skip
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=quantisation)
    for module in plain.modules():
        if is_nf4(module):
            module.support_avx512bf16_for_cpu = False
    theirs = PeftModel.from_pretrained(plain, tmp_path / "p")
    layers = {name: m for name, m in theirs.named_modules() if hasattr(m, "lora_A")}
    x = torch.randn(1, 6, 128, generator=torch.Generator().manual_seed(0))
    with base.now.of(base.pack([Row("p", (1,) * 6)]).slices), torch.no_grad():
        for name, mine in base.model.named_modules():
            if name in layers and mine.in_features == 128:
                assert torch.equal(mine(x), layers[name](x)), name


def gradients(base, rows, weigh):
    for role in base.roles.values():
        if role.grad is not None:
            role.grad.zero_()
    packed = base.pack(rows)
    weigh(base.forward(packed), packed).backward()
    return {name: role.grad.clone() for name, role in base.roles.items() if role.grad is not None}


@pytest.mark.parametrize("every", [0, 1])
def test_policy_and_value_in_one_backward_equal_two_separate_passes(base, every):
    base.train("p", "v")
    base.checkpoint(every)

    def policy(hidden, packed):
        return hidden[packed.last[0]].square().sum()

    def value(hidden, packed):
        return base.role("v").read(hidden[packed.last[-1]]).square()

    a, b = Row("p", P, C), Row("v", P, C)
    joint = gradients(base, [a, b], lambda h, p: policy(h, p) + value(h, p))
    apart = gradients(base, [a], policy)["p"], gradients(base, [b], value)["v"]
    for mine, theirs in zip((joint["p"], joint["v"]), apart, strict=True):
        assert float(theirs.norm()) > 1e-3
        assert float((mine - theirs).norm() / theirs.norm()) < 5e-6


def test_checkpointing_changes_no_gradient_bit(base):
    base.train("p")
    rows = [Row("p", P, C), Row("p", P, D), Row(RAW, P, C)]
    grads = []
    for every in (0, 1, 2):
        base.checkpoint(every)
        grads.append(gradients(base, rows, lambda h, p: h[p.last].square().sum())["p"])
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_gradients_are_the_same_after_an_eval_forward_and_after_state_dict(base):
    """bitsandbytes repacks NF4 weights in place on some CPUs, after which gradients are wrong without an error."""
    base.train("p")
    rows = [Row("p", P, C)]

    def loss(hidden, packed):
        return hidden[packed.last].square().sum()

    before = gradients(base, rows, loss)["p"]
    base.model.eval()
    with torch.no_grad():
        base.forward(base.pack(rows))
    after_eval = gradients(base, rows, loss)["p"]
    base.model.state_dict()
    after_state = gradients(base, rows, loss)["p"]
    assert torch.equal(before, after_eval)
    assert torch.equal(before, after_state)


def test_dense_copy_gives_the_same_numbers(base):
    rows = [Row("p", P, C), Row("v", P, D)]
    packed = base.pack(rows)
    with torch.no_grad():
        packed_nf4 = base.forward(packed)
        assert base.keep_dense(True)
        dense = base.forward(packed)
    assert torch.allclose(packed_nf4, dense, atol=1e-6)
    assert len(base.now.dense) == 14


def test_only_trained_roles_carry_gradients_and_adding_a_role_changes_nobody(base):
    base.train("p")
    shaken(base, "late", 3)
    wanted = {id(p) for p in base.role("p").parameters}
    assert {id(p) for p in base.model.parameters() if p.requires_grad} == wanted
    base.train("v")
    assert base.role("p").grad is None
    assert all(not p.requires_grad and p.grad is None for p in base.role("p").parameters)
    base.freeze()
    assert not any(p.requires_grad for role in base.roles.values() for p in role.parameters)


def test_a_trained_role_gets_its_gradients_in_its_flat_buffer(base):
    base.train("v")
    gradients(base, [Row("v", P, C)], lambda h, p: base.role("v").read(h[p.last]).sum())
    role = base.role("v")
    assert torch.equal(torch.cat([p.grad.reshape(-1) for p in role.parameters]), role.grad)
    assert all(float(p.grad.norm()) > 0 for p in role.parameters)


def test_fork_is_a_copy_and_folds_the_standardisation_into_the_head(base):
    role = base.role("v")
    role.mean, role.spread = 0.7, 2.5
    copy = base.fork("v", "critic")
    assert (copy.mean, copy.spread) == (0.0, 1.0)
    pairs = [(P, C), (P, D)]
    read = score(base, pairs, {"v": "reward", "critic": "reward"})
    assert torch.allclose(read["v"], read["critic"], atol=1e-6)
    copy.weights.zero_()
    assert float(role.weights.abs().sum()) > 0


def test_a_new_role_is_the_base_until_it_is_trained(base):
    base.add_role("fresh")
    out = score(base, [(P, C)], {"fresh": "logprobs", RAW: "logprobs"})
    assert torch.equal(out["fresh"], out[RAW])


def test_saved_and_loaded_roles_score_the_same_bit_for_bit(base, folder, tmp_path):
    base.role("v").mean, base.role("v").spread = 0.3, 1.7
    for name in ("p", "v"):
        save_role(base, name, tmp_path / name)
    again = SharedBase.load(folder, bits=4, device="cpu", dense=False)
    for name in ("p", "v"):
        load_role(again, tmp_path / name, name)
        assert again.role(name).digest() == base.role(name).digest()
    want = {"p": "logprobs", "v": "reward"}
    mine, theirs = (score(b, [(P, C)], want) for b in (base, again))
    assert all(torch.equal(mine[k], theirs[k]) for k in want)


def test_peft_opens_what_was_saved_here_and_the_lab_what_peft_saved(base, folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    save_role(base, "p", tmp_path / "mine")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "mine")
    weights = [m.lora_A["default"].weight for m in model.modules() if hasattr(m, "lora_A")]
    assert torch.equal(weights[0], base.layers("p")[0][1].lora_A["p"].weight)
    model.save_pretrained(tmp_path / "theirs")
    load_role(base, tmp_path / "theirs", "back")
    assert base.role("back").digest() == base.role("p").digest()


def test_an_adapter_of_another_base_template_or_shape_is_refused(base, tmp_path):
    save_role(base, "p", tmp_path / "p")
    card = json.loads((tmp_path / "p" / "lab.json").read_text())
    for key, words in (("base", "another base model"), ("template", "another tokenizer or chat template")):
        (tmp_path / "p" / "lab.json").write_text(json.dumps(card | {key: "0" * 16}))
        with pytest.raises(AdapterError, match=words):
            load_role(base, tmp_path / "p", "x")
    build_model(tmp_path / "llama", family="phi3")
    other = SharedBase.load(tmp_path / "llama", bits=4, device="cpu")
    (tmp_path / "p" / "lab.json").unlink()
    with pytest.raises(AdapterError, match=r"made for another model|does not fit"):
        load_role(other, tmp_path / "p", "x")
    assert "x" not in other.roles
    with pytest.raises(AdapterError, match="missing"):
        load_role(base, tmp_path / "nowhere", "x")


def test_role_names_are_checked(base):
    with pytest.raises(RoleError, match="There is no role 'c' on this base; there are: base, p, v"):
        base.pack([Row("c", P)])
    with pytest.raises(RoleError, match="already exists"):
        base.add_role("p")
    with pytest.raises(RoleError, match="already exists"):
        base.add_role(RAW)
    base.drop("p")
    with pytest.raises(RoleError, match="no role 'p'"):
        base.train("p")


def test_models_that_cannot_be_loaded_say_why(tmp_path):
    with pytest.raises(ModelError, match="There is no folder"):
        SharedBase.load(tmp_path / "nothing")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="torch sees none"):
            SharedBase.load(tmp_path, device="cuda")


def test_the_identity_of_a_checkpoint_does_not_depend_on_the_bits(folder):
    prints = {SharedBase.load(folder, bits=bits, device="cpu").fingerprint for bits in (4, 8, 32)}
    assert len(prints) == 1


def test_adapters_keep_fp32_masters_and_one_small_step_moves_every_tensor(base):
    role = base.role("p")
    assert role.weights.dtype == torch.float32
    base.train("p")
    before = [p.detach().clone() for p in role.parameters]
    gradients(base, [Row("p", P, C)], lambda h, p: h[p.last].square().sum())
    master = torch.nn.Parameter(role.weights)
    master.grad = role.grad
    torch.optim.AdamW([master], lr=1e-6, weight_decay=0.0).step()
    assert all(float((p - q).abs().max()) > 5e-7 for p, q in zip(role.parameters, before, strict=True))


# ── norms ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_fused_norm_has_torchs_values_and_the_right_gradient():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(8, dtype=torch.float64, generator=generator)
    assert torch.equal(RMSNorm.apply(x, weight, 1e-3), torch.nn.functional.rms_norm(x, (8,), weight, 1e-3))
    assert torch.autograd.gradcheck(lambda x: RMSNorm.apply(x, weight, 1e-3), (x,))


@pytest.mark.parametrize(("family", "fused"), [("llama", 5), ("qwen3", 9), ("gemma", 0), ("gemma3", 0)])
def test_norms_of_another_form_keep_their_own(family, fused, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(build_model(tmp_path / family, family), dtype=torch.float32)
    ids = torch.arange(3, 15)[None]
    before = model(ids).logits
    assert fuse_norms(model.requires_grad_(False)) == fused
    assert torch.allclose(model(ids).logits, before, atol=1e-5)
