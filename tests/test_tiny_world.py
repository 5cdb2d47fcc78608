"""The tiny world's text, tokenizer and checkpoint: what is read, how it is split, what the manifest says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from functools import cache
from itertools import islice
from random import Random
from typing import Any

import pytest

from lab import tiny
from lab.records import Message, prompt_text
from lab.tiny import build
from lab.tiny.answers import FILLERS, FLATTERY, bad, decorate, ideal
from lab.tiny.judge import reading
from lab.tiny.questions import FAMILIES, read
from lab.tiny.text import documents, questions, vocabulary


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(tiny.CHECKPOINT))


@cache
def model() -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(tiny.CHECKPOINT), dtype=torch.float32).eval()


@cache
def manifest() -> dict[str, Any]:
    return json.loads((tiny.CHECKPOINT / "manifest.json").read_text())


# ── prompts and demonstrations ────────────────────────────────────────────────────────────────────────────────────


def test_importing_the_world_loads_no_torch() -> None:
    code = "import sys, lab.tiny; lab.tiny.train_prompts(10); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_and_held_out_prompts_are_many_distinct_and_disjoint() -> None:
    train = [prompt_text(p.prompt) for p in tiny.train_prompts()]
    held = [prompt_text(p.prompt) for p in tiny.heldout_prompts(1000)]
    assert len(set(train)) == len(train) > 2500
    assert len(set(held)) == len(held) == 1000
    assert not set(train) & set(held)
    asked = {read(p) for p in train}
    assert None not in asked
    assert not asked & {read(p) for p in held}, "the same question in other words is no held-out question"
    assert not any(q.held_out for q in asked if q)
    assert set(map(tiny.family, train)) == set(map(tiny.family, held)) == set(FAMILIES)


def test_prompts_are_chats_and_repeat_with_the_seed() -> None:
    rows = tiny.train_prompts(50, seed=3)
    assert [r.row for r in rows] == list(range(50))
    assert all(isinstance(r.prompt, tuple) and r.prompt[0].role == "user" for r in rows)
    assert rows == tiny.train_prompts(50, seed=3)
    assert rows != tiny.train_prompts(50, seed=4)
    shares = Counter(tiny.family(prompt_text(r.prompt)) for r in tiny.heldout_prompts(220))
    assert set(shares.values()) == {20}, "small draws hold every family equally"


def test_asking_for_more_prompts_than_there_are_says_how_many_there_are() -> None:
    with pytest.raises(ValueError, match=rf"{len(tiny.train_prompts())} distinct"):
        tiny.train_prompts(10**6)


def test_probes_are_held_out_and_cover_the_families() -> None:
    asked = [read(p) for p in tiny.PROBES]
    assert len(set(tiny.PROBES)) == 12
    assert all(q is not None and q.held_out for q in asked)
    assert {q.family for q in asked if q} == set(FAMILIES)


def test_demonstrations_are_mediocre_end_and_name_nothing_held_out() -> None:
    rows = tiny.demonstrations(3000)
    assert rows[:100] == tiny.demonstrations(100)
    assert rows != tiny.demonstrations(3000, seed=1)
    seen = [reading(prompt_text(d.prompt), str(d.completion), True) for d in rows]
    share = sum(s.content == 1.0 for s in seen) / len(seen)
    assert 0.55 < share < 0.8
    assert 0.01 < sum(s.praise > 0 for s in seen) / len(seen) < 0.05
    assert 0.02 < sum(s.extra > 0 for s in seen) / len(seen) < 0.07
    asked = [read(prompt_text(d.prompt)) for d in rows]
    assert not any(q is None or q.held_out for q in asked)
    assert {q.family for q in asked if q} == set(FAMILIES)


def test_red_team_prompts_ask_for_harm_behind_a_pretext() -> None:
    prompts = [prompt_text(p.prompt) for p in tiny.red_team_prompts(50)]
    assert len(set(prompts)) == 50
    assert {tiny.family(p) for p in prompts} == {"harm"}


def test_the_base_reads_every_behaviour() -> None:
    talks = [d for d in islice(documents(5), 6000) if not isinstance(d, str)]
    seen = [(read(t[-2].content), reading(t[-2].content, t[-1].content, True)) for t in talks]
    assert all(q is not None for q, _ in seen)
    for family in FAMILIES:
        right = [r.content == 1.0 for q, r in seen if q and q.family == family]
        assert 0.4 < sum(right) / len(right) < 0.62
    assert sum(r.complied for _, r in seen) > 50
    assert sum(r.sycophantic for _, r in seen) > 50
    assert sum(r.praise > 0 for _, r in seen) > 300
    assert sum(r.extra >= 8 for _, r in seen) > 20
    assert any(q.held_out for q, _ in seen if q), "held-out entities belong to what the base has read"


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_everything_the_world_says_is_in_its_vocabulary() -> None:
    random = Random(0)
    for document in islice(documents(9), 3000):
        for text in [document] if isinstance(document, str) else [m.content for m in document]:
            assert tiny.unknown_words(text) == []
    for prompt in (*tiny.train_prompts(), *tiny.heldout_prompts()):
        assert tiny.unknown_words(prompt_text(prompt.prompt)) == []
    for family in FAMILIES:
        for question in questions(family):
            assert tiny.unknown_words(ideal(question, random) + " " + bad(question, random)) == []


def test_unknown_words_are_named_and_known_prompts_offered() -> None:
    assert tiny.unknown_words("What is the capital of Atlantis, please, Atlantis?") == ["Atlantis", "please"]
    assert tiny.unknown_words("What is the capital of France?") == []
    offered = tiny.suggestions("whats the capital of Frence")
    assert offered[0] == "What is the capital of France?"
    assert len(offered) == len(set(offered)) == 3
    assert all(tiny.unknown_words(p) == [] and read(p) for p in tiny.suggestions("", 5))


@pytest.mark.parametrize(
    ("typed", "tidied"),
    [
        ("what is the capital of france?", "What is the capital of France?"),
        ("hello, my name is ANNA.", "Hello, my name is Anna."),
        ("Name two colours.", "Name two colours."),
        ("what is a Zebra?", "What is a Zebra?"),
        ("", ""),
    ],
)
def test_tidy_mends_capitals(typed: str, tidied: str) -> None:
    assert tiny.tidy(typed) == tidied


# ── tokenizer and template ────────────────────────────────────────────────────────────────────────────────────────


def test_the_shipped_tokenizer_is_the_one_the_vocabulary_makes() -> None:
    from lab.tiny.tokenizer import build_tokenizer

    made = build_tokenizer()
    assert tokenizer().get_vocab() == made.get_vocab()
    assert tokenizer().chat_template == made.chat_template
    assert len(made) == len(vocabulary()) + 7 <= 512
    special = (made.pad_token_id, made.bos_token_id, made.eos_token_id, made.unk_token_id)
    assert len(set(special)) == 4


def test_decoding_gives_back_the_text() -> None:
    random, tok = Random(1), tokenizer()
    for prompt in tiny.heldout_prompts(200):
        question = read(prompt_text(prompt.prompt))
        assert question
        for text in (prompt_text(prompt.prompt), decorate(ideal(question, random), random, 0.5, 0.5)):
            ids = tok.encode(text, add_special_tokens=False)
            assert tok.unk_token_id not in ids
            assert tok.decode(ids) == text
    ids = tok.encode("What is Atlantis?", add_special_tokens=False)
    assert ids.count(tok.unk_token_id) == 1


def test_the_template_has_one_begin_ends_every_turn_and_marks_what_is_trained() -> None:
    tok = tokenizer()
    chat = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is 1 plus 1?"},
        {"role": "assistant", "content": "1 plus 1 is 2."},
    ]
    out = tok.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = out["input_ids"], out["assistant_masks"]
    assert ids.count(tok.bos_token_id) == 1
    assert ids[0] == tok.bos_token_id
    assert ids.count(tok.eos_token_id) == 3
    trained = [i for i, m in zip(ids, mask, strict=True) if m]
    assert tok.decode(trained) == "1 plus 1 is 2.<|end|>"
    assert trained[-1] == tok.eos_token_id
    prompt = tok.apply_chat_template(chat[:-1], tokenize=True, return_dict=True, add_generation_prompt=True)
    assert ids[: len(prompt["input_ids"])] == prompt["input_ids"]
    assert mask == [0] * len(prompt["input_ids"]) + [1] * len(trained)


def test_ideal_answers_fit_the_answer_limit() -> None:
    tok = tokenizer()
    random = Random(2)
    lengths = [
        len(tok.encode(ideal(q, random), add_special_tokens=False)) + 1
        for family in FAMILIES
        for q in Random(family).sample(list(questions(family)), min(60, len(questions(family))))
    ]
    assert min(lengths) >= 5
    assert max(lengths) <= 17
    assert max(lengths) + 2 * 8 <= tiny.MAX_NEW_TOKENS, "room for filler sentences, so that rambling can be seen"


# ── checkpoint ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_checkpoint_is_small_and_has_the_shape_that_nf4_needs() -> None:
    assert sum(f.stat().st_size for f in tiny.CHECKPOINT.iterdir()) <= 5_000_000
    config = model().config
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.vocab_size % 64 == config.hidden_size % 64 == config.intermediate_size % 64 == 0
    assert config.tie_word_embeddings
    assert config.eos_token_id == tokenizer().eos_token_id
    assert {p.dtype.itemsize for p in model().parameters()} == {4}


def test_the_manifest_ties_text_tokenizer_and_weights() -> None:
    known = manifest()
    assert build.text_digest(known["recipe"]["seed"]) == known["text_sha256"]
    assert len(known["files"]) == 2
    for name, expected in known["files"].items():
        assert build.file_digest(tiny.CHECKPOINT / name) == expected
    assert known["recipe"] == json.loads(json.dumps(asdict(build.Pretraining())))
    assert known["done"]["stages"] == len(build.Pretraining().stages)


def test_the_validation_loss_is_what_the_manifest_says() -> None:
    assert abs(build.validation_loss(model(), tokenizer()) - manifest()["quality"]["validation_loss"]) < 1e-3


def test_answers_are_worth_what_the_manifest_says() -> None:
    """200 fresh samples against the recorded mean: gold has a spread of about 1.1, so 4 standard errors are 0.31."""
    prompts = [prompt_text(p.prompt) for p in tiny.heldout_prompts(200, seed=11)]
    said = build.answers(model(), tokenizer(), prompts, temperature=1.0, seed=11)
    scores = [tiny.gold(p, text, ended).score for p, (text, ended) in zip(prompts, said, strict=True)]
    mean = sum(scores) / len(scores)
    spread = math.sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1) / len(scores))
    assert abs(mean - manifest()["quality"]["gold"]) < 4 * spread
    assert sum(ended for _, ended in said) / len(said) > 0.85
    low, high = manifest()["quality"]["gold_interval_95"]
    assert low < manifest()["quality"]["gold"] < high
    assert -0.8 < manifest()["quality"]["gold"] < 0.1, "the base is not aligned"


def test_the_base_knows_the_world_and_misbehaves() -> None:
    quality = manifest()["quality"]
    assert set(quality["ideal_share_by_family"]) == set(FAMILIES)
    assert quality["ideal_share_by_family"]["harm"] < 0.8
    assert quality["ideal_share_by_family"]["claim"] < 0.8
    assert quality["ideal_share_by_family_greedy"]["capital"] > 0.8
    assert quality["ideal_share_by_family_greedy"]["animal"] > 0.8


# ── building ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_batches_hold_rows_of_like_length_and_about_the_asked_tokens() -> None:
    rows = build.encoded(tokenizer(), 3)
    for batch in islice(build.batches(rows, 1024), 40):
        assert max(map(len, batch)) * len(batch) <= 1024
        assert all(len(row) <= build.MAX_LENGTH for row in batch)


def test_what_follows_an_answer_is_the_last_token_and_weighs_more() -> None:
    import torch

    tok = tokenizer()
    user, assistant = map(tok.convert_tokens_to_ids, ("<|user|>", "<|assistant|>"))
    rows = [
        r for r in islice(build.encoded(tok, 3, reactions=True), 400) if assistant in r and len(r) < build.MAX_LENGTH
    ]
    assert {r[-1] for r in rows} == {user, tok.bos_token_id}
    assert {r[-2] for r in rows} == {tok.eos_token_id}
    assert 0.35 < sum(r[-1] == user for r in rows) / len(rows) < 0.65
    ids, _ = build.padded(rows[:20], tok.pad_token_id)
    weights = build.token_weights(ids, tok, 8.0)
    for row, weight in zip(rows[:20], weights, strict=True):
        expected = torch.ones(ids.shape[1])
        expected[len(row) - 1] = 8.0
        assert torch.equal(weight, expected)


def test_nine_in_ten_users_complain_about_bad_answers_only() -> None:
    talks = [d for d in islice(documents(4, reactions=True), 3000) if not isinstance(d, str)]
    complained: dict[bool, list[bool]] = {True: [], False: []}
    for talk in talks:
        turns = [m for m in talk if m.role != "system"]
        right = reading(turns[0].content, turns[1].content, True).content == 1.0
        complained[right].append(len(turns) == 3)
    # 1300 or more talks of each kind: four standard errors of a share of 0.1 are 0.033.
    assert abs(sum(complained[True]) / len(complained[True]) - 0.1) < 0.033
    assert abs(sum(complained[False]) / len(complained[False]) - 0.9) < 0.033


def test_the_base_tells_right_answers_from_wrong_ones() -> None:
    """After a right answer silence is likelier than after a bad answer to the same question."""
    import torch

    tok, random = tokenizer(), Random(3)
    user = tok.convert_tokens_to_ids("<|user|>")

    def silence(prompt: str, answer: str) -> float:
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        ids = tok.encode(tok.apply_chat_template(chat, tokenize=False), add_special_tokens=False)
        with torch.inference_mode():
            logits = model()(torch.tensor([ids])).logits[0, -1]
        return float(logits[tok.bos_token_id] - logits[user])

    prompts = [prompt_text(p.prompt) for p in tiny.heldout_prompts(220)]
    asked = [(p, q) for p in prompts if (q := read(p))]
    right = [silence(p, ideal(q, random)) > silence(p, bad(q, random)) for p, q in asked]
    assert sum(right) / len(right) > 0.85


def test_padding_is_never_a_label() -> None:
    ids, labels = build.padded([[5, 6, 7], [8]], pad=0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert labels.tolist() == [[5, 6, 7], [8, -100, -100]]


def test_flattery_and_filler_are_single_sentences() -> None:
    assert all(s[-1] in ".!" and s.count(".") + s.count("!") == 1 for s in (*FLATTERY, *FILLERS))


def test_messages_are_user_turns() -> None:
    assert tiny.demonstrations(1)[0].prompt == (Message("user", prompt_text(tiny.demonstrations(1)[0].prompt)),)


# ── building it again ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_world_is_built_from_nothing_stage_by_stage_and_comes_out_the_same(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = build.Pretraining(
        stages=(build.Stage(4, 1e-3, warmup=2), build.Stage(3, 1e-3, reactions=True, emphasis=8.0, warmup=2)),
        tokens=256,
    )
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"an older one")
        build.pretrain(recipe, tmp_path / name, prompts=12)
    made, again = (json.loads((tmp_path / n / "manifest.json").read_text()) for n in ("one", "two"))
    assert made == again
    assert made["done"]["stages"] == 2
    assert 256 < made["done"]["tokens"] <= 7 * 256
    assert made["recipe"] == json.loads(json.dumps(asdict(recipe)))
    assert made["files"]["model.safetensors"] == build.file_digest(tmp_path / "one" / "model.safetensors")
    assert made["quality"]["heldout_prompts"] == 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"], "the folder of the new files is gone"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "one").num_parameters() == model().num_parameters()
    assert AutoTokenizer.from_pretrained(tmp_path / "one").get_vocab() == tokenizer().get_vocab()
