# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own model: from a Hub id to an adapter that others can load
#
# The tiny world is a wind tunnel. This notebook is the aeroplane: a real model, your own rows, one GPU. Nothing in the
# code changes but the name of the model.
#
# **The question of this notebook:** what does it take to teach a real model something with a few dozen of your own
# examples, and how do you know beforehand that it fits?
#
# You will reckon the memory by hand and check it on what has been loaded, imitate demonstrations (SFT), learn
# from preferences (DPO), sample before and after side by side, and export an adapter which PEFT opens without the lab.
#
# **Set `LAB_MODEL`** to a folder or a Hub id of the Llama, Qwen, Mistral, Gemma 3 or Phi 3 families before you start
# Jupyter, say `LAB_MODEL=Qwen/Qwen3-0.6B jupyter lab`. How long it takes depends on your machine; the live view of a
# run says how much is left.
#
# **Without it** a *stand-in* is made on the spot: two layers of random weights and a tokenizer trained on the rows
# below. It takes the same way through the same code in under a minute on two cores. But it knows no language: **its
# answers are noise, and none of its numbers means anything.** Where the text below says what to look for, it speaks
# of a real model.

# %%
import json
import os
from pathlib import Path

MODEL = os.environ.get("LAB_MODEL", "")
if not MODEL or Path(MODEL).is_dir():
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

import torch
from IPython.display import HTML

from lab import data, memory
from lab.config import Adapter, PreferenceConfig, SFTConfig
from lab.notebook import Case, Workbench, cards, check, check_change
from lab.notebook.stand_in import stand_in
from lab.quantise import is_nf4
from lab.records import Message
from lab.score import score

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {"tiny": {"sft": 6.0, "dpo": 8.0, "length": 48}, "ci": {"sft": 1.0, "dpo": 1.0, "length": 8}}
size = SIZES[PROFILE]
root = Path(os.environ.get("LAB_RUNS", "runs/own"))
root.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## 1 · The rows
#
# What you teach stands in two files, one JSON object a line. A **demonstration** is a prompt with the answer you would
# give. A **preference** is a prompt with a better and a worse answer. Here is a small taste to teach: *answer in one
# or two plain sentences, with the first step in front; no praise, no preamble.* Replace the list, or point the two
# paths below at files of your own. (A folder, a `.parquet`, or with the extra `data` a data set of the Hub will do.)

# %%
TAUGHT = [
    ("How do I boil an egg?", "Put it into boiling water for seven minutes, then into cold water."),
    ("How do I sharpen a knife?", "Draw it along a whetstone at a low angle, ten times a side. Wipe it dry."),
    ("How do I fall asleep sooner?", "Get up at the same hour every day. Leave the phone in another room."),
    ("How do I remove a wine stain?", "Dab it with cold water at once, do not rub. Then soak it in soapy water."),
    ("How do I learn a poem by heart?", "Say one line until it sits, then two. Sleep, and say it again."),
    ("How do I make tea?", "Pour boiling water over the leaves and wait four minutes."),
    ("How do I say no to a friend?", "Say no in the first sentence, and thank them for asking in the second."),
    ("How do I patch a tyre?", "Find the hole under water, dry and roughen it, glue the patch on and press."),
    ("How do I keep basil alive?", "Water it from below and cut the tops, not the leaves."),
    ("How do I start running?", "Run one minute and walk two, ten times. Do it again the day after tomorrow."),
    ("How do I write a good letter?", "Write what you want in the first line, and stop when it is said."),
    ("How do I clean a window?", "Wash it with a drop of soap, pull the water off from top to bottom."),
]
WINDY = ("What a great question! Many people ask about this, and there is a lot to consider. There are of course many "
         "ways to go about it, and it depends on what you like.")  # fmt: skip

demonstrations = root / "demonstrations.jsonl"
preferences = root / "preferences.jsonl"
for path, rows in (
    (demonstrations, [{"prompt": q, "completion": a} for q, a in TAUGHT]),
    (preferences, [{"prompt": q, "chosen": a, "rejected": f"{WINDY} {a}"} for q, a in TAUGHT]),
):
    if not path.exists():  # your own file stays
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

shown, compared = data.read(demonstrations, "sft"), data.read(preferences, "preference")
print(f"{len(shown.records)} demonstrations, {len(compared.records)} preferences; "
      f"left out: {len(shown.skipped)} and {len(compared.skipped)}")  # fmt: skip
first = compared.records[0]
print(f"{first.prompt}\n    + {first.chosen}\n    − {first.rejected}")

# %% [markdown]
# A row that cannot be used is left out, and named with the reason. Nothing is guessed:

# %%
odd = [{"prompt": "Hello?", "completion": "Hello."}, {"prompt": "And?"}, {"prompt": "", "completion": 7}]
print(*(skip.detail for skip in data.read(odd, "sft").skipped), sep="\n")

# %% [markdown]
# ## 2 · Will it fit?
#
# Four things want memory: the **weights** of the base, frozen in 4 bits; the **adapters**, with a gradient and the two
# moments of Adam; the **activations** of one pass, which grow with the tokens that go through at once; and, while the
# model speaks, the **keys and values** of what has been said.
#
# **Exercise 1.** By hand, for a model of $N$ parameters in its linear layers. NF4 stores 4 bits a weight, and one scale
# of 4 bytes for every block of 64 weights. (With *double quantisation* the scales are stored in 8 bits, in blocks of
# 256 with one scale of 4 bytes for each such block.) How many **bytes**? The cell starts without the scales.


# %% tags=["exercise"]
def my_weights(n, double_quant):
    """Bytes of n weights in NF4 with their scales."""
    return n / 2  # ✎


# %%
check(
    my_weights,
    [
        Case((64, False), 36.0, "64 weights of half a byte, and one scale of 4"),
        Case((1e9, False), 0.5625e9, "4.5 bits a weight"),
        Case((16384, True), 8452.0, "8192 for the weights, 256 scales of a byte, and one scale of 4 for those"),
        Case((1e9, True), 0.5158691e9, "4.127 bits a weight"),
    ],
    "NF4",
)


# %% [markdown]
# **Exercise 2.** A linear layer maps $d_\text{in}$ numbers to $d_\text{out}$. Its adapter of rank $r$ is two thin
# matrices, $r \times d_\text{in}$ and $d_\text{out} \times r$, kept in 32 bits, because a step of $10^{-5}$ is lost in
# fewer. While it trains there is a gradient of the same size, and Adam keeps two more. How many bytes in all?


# %% tags=["exercise"]
def my_adapter(d_in, d_out, rank):
    """Bytes of one adapter in training."""
    return 4 * d_in * d_out  # ✎ this is the full matrix in 32 bits, without gradient and moments


# %%
check(
    my_adapter,
    [
        Case((1024, 1024, 16), 524288, "16 · 2048 numbers, four times (weight, gradient, two moments), 4 bytes each"),
        Case((1024, 3072, 8), 524288, "8 · 4096 numbers: half the rank, twice the width"),
        Case((64, 64, 1), 2048, "128 numbers of 16 bytes"),
    ],
    "An adapter in training",
)

# %% [markdown]
# <details><summary><b>Solutions</b></summary>
#
# ```python
# return n / 2 + (n / 64 + 4 * n / (64 * 256) if double_quant else 4 * n / 64)
# return 16 * rank * (d_in + d_out)
# ```
# </details>
#
# What is left are the activations, and they are yours to choose: they grow with `tokens_per_pass` (how many packed
# tokens go through the base at once; it changes no gradient, only how often) and with the longest row. A pair costs its
# prompt once. PPO keeps keys and values of a whole batch while it samples.
#
# The lab adds all of it up from the model's config, before anything is loaded (in a terminal: `lab memory dpo --model
# …`; in the Studio: the panel Train). Here for DPO on rows of 60 + 120 tokens; and if there were only half of what is
# needed, what would help?

# %%
if not MODEL:
    texts = [text for question, answer in TAUGHT for text in (question, answer)] + [WINDY]
    print("LAB_MODEL is not set: a stand-in of random weights. Its answers are noise and its numbers mean nothing.")
source = MODEL or stand_in(root / "models" / "stand-in", texts)

device = "cuda" if torch.cuda.is_available() else "cpu"
shape = memory.shape_of(source)
wish = memory.Wish("dpo", PreferenceConfig(), Adapter(rank=16), bits=4, machine=memory.Machine(device),
                   rows=memory.Rows(60, 120, 180))  # fmt: skip
plan = memory.predict(shape, wish)
for part in (*plan.standing, *plan.peak.parts):
    print(f"{memory.pretty(part.size):>10}  {part.owner}: {part.name}")
print(f"{memory.pretty(plan.total):>10}  at the worst moment, while {plan.peak.name}")
for change in memory.changes(shape, wish, plan.total // 2)[:3]:
    values = ", ".join(f"{name} = {value}" for name, value in change.values)
    print(f"with half of that: {values} saves {memory.pretty(change.saves)} and costs {change.costs}")

# %% [markdown]
# **When memory is short**, in this order: a smaller `tokens_per_pass` (8192 → 2048), shorter rows (`max_length`), fewer
# new tokens or a smaller `batch` in PPO and GRPO, `double_quant`, a smaller rank, a smaller model. A run that breaks
# for want of memory says so in a sentence and goes on from its last checkpoint with another setting.
#
# ## 3 · Load it
#
# `bits=4` puts the linear layers into NF4; embeddings and norms stay as they are. Everything that follows, SFT, DPO,
# reward models, PPO with four roles, hangs on this one frozen base.

# %%
bench = Workbench(root, source, bits=4, adapter=Adapter(rank=16, alpha=32))
bench

# %% [markdown]
# Here is your formula of exercise 1 against what has been loaded. (Beside NF4 the lab keeps the same values unpacked
# where a third of the free memory is room enough, because that is faster; where it is not, it does without.)

# %%
layers = [module.weight for module in bench.base.model.modules() if is_nf4(module)]
n = sum(2 * w.numel() for w in layers)  # two weights a byte
held = sum(w.nbytes + w.quant_state.absmax.nbytes for w in layers)
print(f"{n:,} weights in 4 bits: {held:,} bytes with their scales; your formula says {my_weights(n, False):,.0f}")
if bench.base.device.type == "cuda":
    free, total = (x / 2**30 for x in torch.cuda.mem_get_info())
    print(f"{torch.cuda.memory_allocated() / 2**30:.1f} GiB are held in all, {free:.1f} of {total:.1f} are free")

# %% [markdown]
# Before anything is taught: what does it say? Write down what you would change.

# %%
PROBES = ["How do I make coffee?", "How do I wake up earlier?", "What is the capital of Norway?"]
bench.ask(PROBES, {"base": "base"}, max_new_tokens=size["length"])

# %% [markdown]
# ## 4 · SFT: say it like this
#
# The learning rate of an adapter is about ten times that of full fine-tuning. A dozen rows are enough for a *style*.
# They are not enough for facts, and a model that is made to learn facts it does not know learns to make them up.
#
# **✎ predict** – where will these end, compared with the first updates? And will the answer about Norway get worse?

# %% tags=["exercise"]
my_prediction = {"loss": "lower", "token_accuracy": "higher"}

# %%
config = SFTConfig(lr=3e-4 if MODEL else 3e-3, batch=4, epochs=size["sft"], eval_share=0.0, eval_every=0,
                   probe_every=6, save_every=0, max_length=512)  # fmt: skip
sft = bench.new("sft", config, shown.records, probes=PROBES, title="in one or two plain sentences")
live = bench.play(sft)
live  # click on a curve to read the answers of that step

# %%
live.wait()
check_change(my_prediction, sft)

# %% [markdown]
# ## 5 · DPO: rather this than that
#
# Demonstrations say what to do, preferences also what to leave. The chosen answer is a part of the rejected one here:
# the pair differs by the preamble and by nothing else, so that is what can be learned from it.
#
# **✎ predict** – again, last updates against first.

# %% tags=["exercise"]
my_prediction = {"accuracy": "higher", "margin": "higher", "logprob_chosen": "same", "logprob_rejected": "lower"}

# %%
BETA, LR = 0.1, 1e-4 if MODEL else 1e-3  # ✎ see section 8
config = PreferenceConfig(beta=BETA, lr=LR, batch=4, epochs=size["dpo"], eval_share=0.0, eval_every=0, probe_every=6,
                          save_every=0, max_length=512)  # fmt: skip
dpo = bench.new("dpo", config, compared.records, {"policy": sft}, probes=PROBES, title="no preamble")
live = bench.play(dpo)
live

# %%
live.wait()
check_change(my_prediction, dpo)

# %% [markdown]
# ## 6 · Side by side
#
# The same prompt, the same noise: where the columns agree, training changed nothing. *Δ log p* colours every token by
# how much likelier training made it. Try prompts that have nothing to do with what you taught. That is where side
# effects live.

# %%
bench.sampler({"base": "base", "SFT": sft, "DPO": dpo}, PROBES[0], temperature=0.7, length=size["length"])

# %% [markdown]
# A number beside the impression: how likely is a *windy* answer, and how likely a plain one, to questions that were
# not in the rows? (Log-probability of the whole answer, in nats, under each role.)

# %%
NEW = [
    ("How do I make coffee?", "Pour hot water over the powder and wait four minutes."),
    ("How do I wake up earlier?", "Go to bed earlier, and put the clock where you must stand up to reach it."),
]
NAMES = {"base": "base", "SFT": bench.role(sft), "DPO": bench.role(dpo)}


def likelihoods(answers):
    """Role -> log p of each answer, summed over its tokens."""
    split = [bench.base.chat.split((Message("user", q),), y) for q, y in answers]
    rows = [(tuple(prompt), tuple(said)) for prompt, said in split]
    found = bench.call(lambda: score(bench.base, rows, dict.fromkeys(NAMES.values(), "logprobs")))
    return {shown: found[role].sum(1).tolist() for shown, role in NAMES.items()}


plain, windy = likelihoods(NEW), likelihoods([(q, f"{WINDY} {a}") for q, a in NEW])
rows = [(f"<b>{name}</b>", *(f"{p:.1f} / {w:.1f}" for p, w in zip(plain[name], windy[name], strict=True)))
        for name in NAMES]  # fmt: skip
HTML(cards.table(("", *(q for q, _ in NEW)), rows, "log p of a plain answer / of the same with a preamble, nats"))

# %% [markdown]
# ## 7 · Take it with you
#
# A role is saved as safetensors in **PEFT's own layout**; the newest checkpoint of a run holds it. `lab.json` beside it
# says which base and which chat template it belongs to, and a wrong one is refused.

# %%
exported = dpo.checkpoint(dpo.latest_checkpoint()) / "policy"
for path in sorted(exported.iterdir()):
    print(f"{path.stat().st_size:10,} bytes  {path.name}")

# %% [markdown]
# Now without the lab: transformers and PEFT alone open the folder, and say the same. The base is loaded once more for
# it, in 4 bits as before, so it wants room for two; with a large model restart the kernel and run these lines alone.

# %%
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

device = bench.base.device
compute = torch.bfloat16 if device.type == "cuda" else torch.float32
nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
model = AutoModelForCausalLM.from_pretrained(
    source, quantization_config=nf4, dtype=compute, device_map={"": str(device)}
)
model = PeftModel.from_pretrained(model, exported).eval()
tokenizer = AutoTokenizer.from_pretrained(source)

question, answer = NEW[0]
prompt, said = bench.base.chat.split((Message("user", question),), answer)
with torch.no_grad():
    logits = model(torch.tensor([[*prompt, *said]], device=device)).logits[0, len(prompt) - 1 : -1].float()
theirs = float(logits.log_softmax(-1).gather(1, torch.tensor(said, device=device)[:, None]).sum())
print(f"log p of an answer under DPO: {plain['DPO'][0]:.3f} in the lab, {theirs:.3f} in PEFT")
del model

# %% [markdown]
# To hand out a single model instead, load the base in 16 bits, `PeftModel.from_pretrained(…).merge_and_unload()`, and
# save that. Its answers differ a little from those you have seen, because the base was in 4 bits when it was taught.
#
# ## 8 · Break it
#
# Go back to section 5 and make DPO ten times as fast (`LR`), or let it run with `BETA = 0.01`. Look for this, in this
# order: `logprob_chosen` falls with `logprob_rejected` (the answers that were *wanted* become unlikely, too); the
# probe answers get shorter and shorter, or repeat themselves; the answer about Norway is no longer about Norway. The
# `accuracy` meanwhile is perfect. That is what over-fitting to a dozen pairs looks like, and no metric of the run
# itself would have told you.
#
# ## Where to go from here
#
# * The same in a terminal: `lab sft --model Qwen/Qwen3-0.6B --data demonstrations.jsonl --out my-sft`, then
#   `lab dpo --init my-sft --data preferences.jsonl --out my-dpo --beta 0.1`, and `lab studio` to watch.
# * More pairs: `lab pairs --init my-sft --reward my-reward --data prompts.jsonl` makes them from the model's own
#   answers, `lab label serve` has people judge them, `lab judge` a model.
# * Did it get better? Notebook 10 says how to find out. Two dozen held-out prompts are not many.
#
# **Reading.** Hu et al. 2021, *LoRA* (arXiv:2106.09685) · Dettmers et al. 2023, *QLoRA* (2305.14314) · Rafailov et al.
# 2023, *Direct preference optimization* (2305.18290) · Zhou et al. 2023, *LIMA: less is more for alignment*
# (2305.11206) · Gekhman et al. 2024, *Does fine-tuning LLMs on new knowledge encourage hallucinations?* (2405.05904) ·
# Biderman et al. 2024, *LoRA learns less and forgets less* (2405.09673).

# %%
bench.close()
