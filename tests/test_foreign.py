"""Reward models of other families: their own tokens, their own last token, whatever the batch and the pad token."""

from __future__ import annotations

import pytest
import torch

from lab.chat import Chat
from lab.feedback.foreign import ForeignReward
from lab.feedback.rewards import RewardError
from lab.quantise import ModelError
from lab.records import Message
from tests.models import CHATML, build_config, build_model, build_tokenizer, trl_templates

LLAMA3 = trl_templates()["llama3"]
PROMPTS = [(Message("user", "My neighbour paints a small boat."),),
           (Message("system", "Be honest."), Message("user", "And two apples?")),
           (Message("user", "It?"), Message("assistant", "The green door."), Message("user", "Every question.")),
           "Somebody describes the weather."]  # fmt: skip
ANSWERS = ["with great care.", "after seven years, if you ask politely?", "Yes.", "and nobody knows why. " * 5]


def build_judge(folder, family="llama", template=LLAMA3, pad_is_eos=False, labels=1):
    """A sequence classifier with random weights, and its tokenizer, as a folder."""
    from transformers import AutoModelForSequenceClassification

    tokenizer = build_tokenizer(template, pad_is_eos, eos="<|eot_id|>" if template == LLAMA3 else None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = build_config(family, tokenizer, num_labels=labels)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def theirs(folder, prompts, answers):
    """transformers alone, one text at a time: the template of the whole conversation, the head at its last token."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    out = []
    for prompt, answer in zip(prompts, answers, strict=True):
        turns = [{"role": m.role, "content": m.content} for m in
                 ((Message("user", prompt),) if isinstance(prompt, str) else prompt)]  # fmt: skip
        ids = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], return_dict=False)
        with torch.no_grad():
            hidden = model.model(torch.tensor([ids])).last_hidden_state[0, -1]
            out.append(float(hidden @ model.score.weight[0]))
    return out


@pytest.mark.parametrize(("family", "template"), [("llama", LLAMA3), ("qwen3", CHATML)])
@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_rewards_are_the_models_own_whatever_the_batch(family, template, pad_is_eos, tmp_path):
    folder = build_judge(tmp_path, family, template, pad_is_eos)
    wanted = theirs(folder, PROMPTS, ANSWERS)
    assert max(wanted) - min(wanted) > 0.1
    judge = ForeignReward(folder, "cpu")
    assert (judge.chat.pad_id == judge.chat.eos_id) == pad_is_eos
    assert judge(PROMPTS, ANSWERS) == pytest.approx(wanted, abs=1e-5)
    assert judge(PROMPTS[::-1], ANSWERS[::-1]) == pytest.approx(wanted[::-1], abs=1e-5)
    for x, y, reward in zip(PROMPTS, ANSWERS, wanted, strict=True):
        assert judge([x], [y]) == pytest.approx([reward], abs=1e-5)
    assert ForeignReward(folder, "cpu", tokens=1)(PROMPTS, ANSWERS) == pytest.approx(wanted, abs=1e-5)
    assert judge([], []) == []


def test_the_end_token_is_read_though_it_is_the_pad_token(tmp_path):
    """transformers' own pooling stops before it: there a text with its end token scores as one without."""
    judge = ForeignReward(build_judge(tmp_path, template=None, pad_is_eos=True), "cpu", plain=True)
    ids = torch.tensor([judge.encode("It?", ANSWERS[0])])
    assert ids[0, -1] == judge.chat.eos_id == judge.model.config.pad_token_id
    with torch.no_grad():
        whole, cut = (float(judge.model(x).logits) for x in (ids, ids[:, :-1]))
    assert whole == cut
    assert abs(judge(["It?"], [ANSWERS[0]])[0] - cut) > 1e-3


@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "qwen3", "gemma", "chatml"])
def test_tokens_are_those_of_the_whole_conversation_under_the_template(name, tmp_path):
    template = {**trl_templates(), "chatml": CHATML}[name]
    judge = ForeignReward(build_judge(tmp_path, template=template), "cpu")
    prompt = PROMPTS[2]
    turns = [{"role": m.role, "content": m.content} for m in (*prompt, Message("assistant", ANSWERS[0]))]
    wanted = judge.chat.tokenizer.apply_chat_template(turns, return_dict=False)
    assert judge.encode(prompt, ANSWERS[0]) == tuple(wanted)


def test_text_is_tokenised_again(tmp_path, qwen3_folder):
    """The same words are other tokens to the base's tokenizer than to the judge's."""
    judge = ForeignReward(build_judge(tmp_path), "cpu")
    ids = Chat.load(qwen3_folder).split(PROMPTS[0], ANSWERS[0])
    assert (*ids[0], *ids[1]) != judge.encode(PROMPTS[0], ANSWERS[0])


def test_a_control_token_in_an_answer_does_not_end_it(tmp_path):
    judge = ForeignReward(build_judge(tmp_path), "cpu")
    ids = judge.encode(PROMPTS[0], f"Bad.{judge.chat.terminator} So good!")
    assert sum(i in judge.chat.stop_ids for i in ids) == 2  # the user's turn and the assistant's


def test_plain_text_has_no_template(tmp_path):
    judge = ForeignReward(build_judge(tmp_path), "cpu", plain=True)
    tokenizer = judge.chat.tokenizer
    wanted = (*tokenizer.encode("It?" + ANSWERS[0]), tokenizer.eos_token_id)
    assert wanted[0] == tokenizer.bos_token_id
    assert judge.encode("It?", ANSWERS[0]) == judge.encode((Message("user", "It?"),), ANSWERS[0]) == wanted


def test_what_is_no_reward_model_is_refused(tmp_path):
    two = build_judge(tmp_path / "two", labels=2)
    with pytest.raises(ModelError, match="has 2 outputs, a reward model has one"):
        ForeignReward(two, "cpu")
    headless = build_model(tmp_path / "headless", "llama", LLAMA3, num_labels=1)
    with pytest.raises(ModelError, match=r"holds no score\.weight, which would be random numbers"):
        ForeignReward(headless, "cpu")
    bare = build_judge(tmp_path / "bare", template=None)
    with pytest.raises(ModelError, match="has no chat template"):
        ForeignReward(bare, "cpu")
    with pytest.raises(ModelError, match="could not be loaded"):
        ForeignReward(tmp_path / "nothing", "cpu")


def test_a_head_of_another_kind_is_refused(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForSequenceClassification(BertConfig(**size, num_labels=1)).save_pretrained(tmp_path)
    build_tokenizer(LLAMA3).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="BertForSequenceClassification has no linear head called score"):
        ForeignReward(tmp_path, "cpu")


def test_a_text_beyond_the_window_is_refused_with_the_row(tmp_path):
    judge = ForeignReward(build_judge(tmp_path), "cpu")
    with pytest.raises(RewardError, match=r"reads 2048 tokens, but this text has \d+ .*small boat"):
        judge(PROMPTS[:1], ["and nobody knows why. " * 600])
