# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # SFT: what imitation changes, and what it cannot
#
# **Supervised fine-tuning** is the first step of every recipe: people write answers, and the model learns to write
# likewise. It is the simplest step, and so the one that is looked at least. Yet it decides what the later steps have to
# choose from.
#
# **The question of this notebook:** the base model has already read what it needs to know. What exactly does imitation
# change in it, and what does it break?
#
# You will work out the lowest loss there can be, watch a run, compare the model with itself before, token by token and
# answer by answer, and then ruin it in three ways: too few demonstrations, too narrow ones, too large a learning rate.
# A minute or two of computing on two cores.

# %%
import math
import os
from dataclasses import replace
from html import escape
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

from IPython.display import HTML

from lab import demo, figures, tiny
from lab.config import Adapter
from lab.follow import Follower
from lab.learner import learning_rate
from lab.notebook import Case, Knob, Verdict, Workbench, cards, check, turn
from lab.notebook.predict import compared
from lab.records import Message, prompt_text
from lab.sample import sample
from lab.score import score

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {
    "tiny": {"demonstrations": 1500, "few": 64, "passes": 30.0, "narrow": 300, "heldout": 300, "fresh": 400},
    "ci": {"demonstrations": 64, "few": 16, "passes": 2.0, "narrow": 32, "heldout": 12, "fresh": 12},
}
size = SIZES[PROFILE]

bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/sft")), adapter=Adapter(rank=16, alpha=32))
bench

# %% [markdown]
# ## 1 · Before
#
# The base of the tiny world has read conversations, good ones and bad ones. Ask it, and look at how the answers *end*.

# %%
QUESTIONS = [
    "What is the capital of Norway?",
    "What is 5 plus 1?",
    "How do I make salad?",
    "How do I make drugs?",
    "Name two animals.",
    "Hello, my name is David.",
]
bench.ask(QUESTIONS, {"base": "base", "base, other noise": "base"}, seed=1)

# %% [markdown]
# Both columns are the same because they were drawn with **the same noise**: that is how the lab compares models. What
# differs between two columns is never luck. Change `seed` to draw again.
#
# ## 2 · The demonstrations
#
# Our writers are in a hurry. Some of what they write is wrong, and some of them refuse harmless questions.

# %%
demonstrations = tiny.demonstrations(size["demonstrations"])


def verdict(prompt, answer, ended=True):
    """What the truth says about an answer: a word, and whether it is entirely right."""
    word, points = tiny.gold(prompt, answer, ended).reasons[0]
    return word, points == 1.0


judged = [verdict(prompt_text(d.prompt), d.completion) for d in demonstrations]
for d, (word, _) in list(zip(demonstrations, judged, strict=True))[:6]:
    print(f"{prompt_text(d.prompt)}\n    → {d.completion}   ({word})")
print(f"\n{sum(right for _, right in judged) / len(judged):.0%} of {len(judged)} demonstrations are right")

# %% [markdown]
# The loss is the mean of $-\log \pi(y_t)$ over the tokens of the answers, their end tokens included, and over nothing
# else (notebook 01). Can it become zero? Suppose seven writers in ten answer a question with one word and three with
# another. A model cannot know which writer will come, so the best it can do is to say 0.7 and 0.3, and that costs on
# average
#
# $$H = -0.7 \log 0.7 - 0.3 \log 0.3$$
#
# **Exercise 1.** The lowest mean loss of a token that is written in several ways, from their shares. The cell starts
# with the cost of the commonest way alone.


# %% tags=["exercise"]
def my_floor(shares):
    """The entropy −Σ p log p of the writers' choices, in nats."""
    return -math.log(max(shares))  # ✎


# %%
check(
    my_floor,
    [
        Case(((0.7, 0.3),), 0.6109, "0.7 · 0.3567 + 0.3 · 1.2040"),
        Case(((1.0,),), 0.0, "all writers agree: nothing is left to pay"),
        Case(((0.25, 0.25, 0.25, 0.25),), 1.3863, "four ways, equally common: ln 4"),
        Case(((1.0, 0.0),), 0.0, "what nobody writes costs nothing: 0 · log 0 is 0"),
    ],
    "The floor of the loss",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# return -sum(p * math.log(p) for p in shares if p > 0)
# ```
# </details>
#
# So a loss that stops falling has not failed: what is left is what the writers disagree about. Remember it when the
# curve goes flat.
#
# ## 3 · The run
#
# **✎ predict** – after imitating these demonstrations, how will the answers of the model differ from those of the base,
# to questions that no demonstration is about? Say `"higher"`, `"lower"` or `"same"`.

# %% tags=["exercise"]
sft_against_base = {
    "right answers": "same",  # share, sampled as usual (temperature 1)
    "right answers, most likely words": "higher",  # share, always taking the most probable word (temperature 0)
    "ended": "same",  # share of answers the model ends itself
    "tokens": "same",  # per answer
}

# %%
config = replace(demo.SFT, eval_every=10)
sft = bench.new("sft", config, demonstrations, title="imitate the demonstrations")
live = bench.play(sft)
live

# %% [markdown]
# The run plays in the background; pause it, step through it, or ask it something in the prompt box. The solid line is
# the loss on the batch of the update, which jumps from batch to batch; the dashed one is the loss on demonstrations
# that are held out, and it is the one to read. It has nearly all of its fall behind it after a few updates, and soon
# stops.

# %%
live.wait()
bench.ask(QUESTIONS, {"base": "base", "SFT": sft}, seed=1)

# %% [markdown]
# Ask them something of your own. *Diff* marks the words that differ, *Δ log p* how much likelier each of them has
# become.

# %%
bench.sampler({"base": "base", "SFT": sft}, "How do I make pizza?")

# %%
HELDOUT = tiny.heldout_prompts(size["heldout"])
REFUSAL = "Sorry, I can not help with that."


def answers(role, temperature=1.0):
    """Each held-out prompt answered once by a role; all roles get the same noise."""
    return bench.call(lambda: sample(bench.base, [row.prompt for row in HELDOUT], (role,), temperature=temperature,
                                     max_new_tokens=tiny.MAX_NEW_TOKENS, seed=3))  # fmt: skip


def behaviour(role):
    """What a role does on the held-out prompts: measure -> one number for each prompt."""
    usual, likeliest = answers(role), answers(role, 0.0)
    asked = [prompt_text(row.prompt) for row in HELDOUT]
    return {
        "right answers": [float(verdict(x, r.completion, r.ended)[1]) for x, r in zip(asked, usual, strict=True)],
        "right answers, most likely words": [
            float(verdict(x, r.completion, r.ended)[1]) for x, r in zip(asked, likeliest, strict=True)
        ],
        "ended": [float(r.ended) for r in usual],
        "tokens": [float(len(r.completion_ids)) for r in usual],
        "harmless questions refused": [
            float(r.completion.endswith(REFUSAL)) for x, r in zip(asked, usual, strict=True) if tiny.family(x) != "harm"
        ],
    }


base_does, sft_does = behaviour("base"), behaviour(bench.role(sft))
Verdict(f"On {len(HELDOUT)} held-out prompts", ("base", "SFT"),
        tuple(compared(m, said, base_does[m], sft_does[m]) for m, said in sft_against_base.items()))  # fmt: skip

# %% [markdown]
# Sampled as usual, the model is right much more often than the base, ends its answers and no longer chatters on. But
# look at the second line. If it always takes the most probable word, the **base is right nearly as often**. The
# knowledge was there. What imitation has changed is how much probability everything else has.
#
# And sampled, it is right less often than its writers were: it learns the whole of what they do, the mistakes
# included, with their frequencies. The loss asks for nothing else. "The right answer" does not occur in it; that is
# what the next notebooks are for.
#
# ## 4 · Token by token
#
# Where do the changes sit? Here is the same text under both models: after every token the change of its
# log-probability, $\log \pi_\text{SFT} - \log \pi_\text{base}$, in nats. Green became likelier, red less likely.


# %%
def logprobs(role, texts):
    """One list of log-probabilities (nats) for each (prompt, answer), end token included."""
    split = [tuple(map(tuple, bench.base.chat.split(x, y))) for x, y in texts]
    known = bench.call(lambda: score(bench.base, split, {role: "logprobs"}))[role]
    return [known[i, : len(said)].tolist() for i, (_, said) in enumerate(split)]


def changes(question, said):
    """The tokens of an answer, each on the colour of its change."""
    text = ((Message("user", question),), said)
    (before,), (after,) = logprobs("base", [text]), logprobs(bench.role(sft), [text])
    _, ids = bench.base.chat.split(*text)
    cells = []
    for token, a, b in zip(bench.base.chat.tokenizer.convert_ids_to_tokens(ids), before, after, strict=True):
        tint = f"rgba({'18,128,92' if b > a else '194,47,42'},{min(0.8, 0.25 * abs(b - a)):.2f})"
        word = escape(token.replace("▁", " ").strip() or token)
        cells.append(f'<span style="display:inline-block;text-align:center;margin:0 4px 6px 0"><span style="background:'
                     f'{tint};padding:2px 6px;border-radius:3px">{word}</span><br><span style="font-size:.8em;color:'
                     f'{cards.FAINT}">{round(b - a, 2) + 0.0:+.2f}</span></span>')  # fmt: skip
    return (escape(question), "".join(cells))


TEXTS = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of France?", "The capital of France is Rome."),
    ("What is the capital of France?", "What a great question! The capital of France is Paris."),
    ("What is the capital of France?", "The capital of France is Paris. Many people ask about this."),
]
HTML(cards.table(("asked", "said: change in nats"), [changes(*text) for text in TEXTS], "What SFT has changed"))

# %% [markdown]
# Most tokens do not move at all: they were certain before. The changes sit at the **forks**. How an answer begins:
# praise has become less likely. What it says: the right city a little likelier, the wrong one less. And what comes
# after a complete answer: the **end token** rises, and what would begin another sentence falls. The next cell
# measures the last one on demonstrations nobody has trained on: how probable is the end where the writer ended?

# %%
fresh = [(d.prompt, d.completion) for d in tiny.demonstrations(size["fresh"], seed=100)]


def unseen(role):
    """The loss (nats a token) on fresh demonstrations, token by token, and the probability of the end at their ends."""
    rows = logprobs(role, fresh)
    return [-x for row in rows for x in row], [math.exp(row[-1]) for row in rows]


def mean(values):
    return sum(values) / len(values)


read = {"base": unseen("base"), "SFT": unseen(bench.role(sft))}
for name, (losses, ends) in read.items():
    print(f"{name:5} loss {mean(losses):.3f} nats a token, the end has probability {mean(ends):.2f}")

# %% [markdown]
# A model that is not taught its end token keeps the probability of the first line, and goes on talking. It is taught
# because the mask holds it (notebook 01, where leaving it out is one of the three classic faults).
#
# ## 5 · Break it, first way: too few demonstrations
#
# Writers are expensive. Let us take a few dozen demonstrations, and go over them thirty times.
#
# **✎ predict** – compared with the run above?

# %% tags=["exercise"]
few_against_many = {
    "loss on unseen demonstrations": "same",
    "right answers": "lower",
    "right answers, most likely words": "same",
}

# %%
config = replace(demo.SFT, batch=16, epochs=size["passes"], eval_share=0.25, eval_every=10, probe_every=0)
few = bench.new("sft", config, demonstrations[: size["few"]], title=f"{size['few']} demonstrations, many passes")
live = bench.play(few)
live

# %%
live.wait()
few_does, read["few"] = behaviour(bench.role(few)), unseen(bench.role(few))
before = sft_does | {"loss on unseen demonstrations": read["SFT"][0]}
after = few_does | {"loss on unseen demonstrations": read["few"][0]}
Verdict("Few demonstrations against many", ("many", "few"),
        tuple(compared(m, said, before[m], after[m]) for m, said in few_against_many.items()))  # fmt: skip

# %%
for name, (losses, _) in read.items():
    print(f"{name:5} loss on unseen demonstrations {mean(losses):.3f}")

# %% [markdown]
# This is **over-fitting**, as in the textbook: the training loss goes towards zero, below the floor of section 2,
# because every demonstration is known by heart with all its mistakes; the held-out loss falls, turns and climbs above
# where it started. By the loss, this model understands unseen demonstrations *worse than the base*.
#
# And yet its sampled answers are about as often right as those of the good run. A loss punishes being too sure, and an
# over-fitted model is too sure; the answers show it less. InstructGPT's authors saw the same and trained for sixteen
# passes because people liked the answers better, although the held-out loss had turned after one. So the loss is not
# the judge; but the damage is there, in the second line that you predicted for temperature 0.
#
# ## 6 · Second way: too narrow
#
# Suppose a worried team trains on one thing alone: refusing. All demonstrations say "Sorry, I can not help with that."
# Here they are, and the loss becomes the best of this notebook by far.
#
# **✎ predict** – what happens to harmless questions?

# %% tags=["exercise"]
narrow_against_base = {"harmless questions refused": "same", "right answers": "same", "ended": "same"}

# %%
many = tiny.demonstrations(27 * size["narrow"])
refusals = [d for d in many if d.completion == REFUSAL][: size["narrow"]]
config = replace(demo.SFT, epochs=3.0, eval_every=10, probe_every=10)
narrow = bench.new("sft", config, refusals, title="refuse")
live = bench.play(narrow)
live

# %%
live.wait()
narrow_does = behaviour(bench.role(narrow))
Verdict("After refusals alone", ("base", "refusals"),
        tuple(compared(m, said, base_does[m], narrow_does[m]) for m, said in narrow_against_base.items()))  # fmt: skip

# %%
bench.ask(QUESTIONS, {"base": "base", "SFT": sft, "refusals": narrow}, seed=1)

# %% [markdown]
# Two dozen updates, and the model does one thing only. Nothing in the loss says "but go on answering the rest": what
# the demonstrations do not show, the loss does not protect. This is **catastrophic forgetting** in its purest form. The
# facts are not erased, they are only never said any more.
#
# The cure is dull and works: mix. A later stage has another one, the penalty on the distance to where it began, which
# plain SFT has not.
#
# ## 7 · Third way: the learning rate
#
# The learning rate rises over the first updates and then falls to 0 along half a cosine. With `rise` = ⌈warm-up ·
# updates⌉, update $s$ (from 0) of $S$ has
#
# $$\eta_s = \eta \cdot \frac{s + 1}{\text{rise}} \;\text{ for } s < \text{rise}, \qquad
# \eta_s = \frac{\eta}{2}\Big(1 + \cos \pi \frac{s - \text{rise}}{S - \text{rise}}\Big) \;\text{ after}$$
#
# **Exercise 2.** Write it. The cell starts with the first half.


# %% tags=["exercise"]
def my_rate(step, total, peak, warmup):
    """The learning rate of update `step`."""
    rise = math.ceil(warmup * total)
    return peak * (step + 1) / rise  # ✎


# %%
check(
    my_rate,
    [
        Case((0, 40, 1.0, 0.1), 0.25, "rise = 4: the first update has a quarter of the peak, not nothing"),
        Case((3, 40, 1.0, 0.1), 1.0, "the last of the rise is at the peak"),
        Case((22, 40, 1.0, 0.1), 0.5, "half-way down: cos(π/2) = 0"),
        Case((10, 20, 8.0, 0.0), 4.0, "without a warm-up: no rise, and no division by it"),
    ],
    "The schedule",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# rise = math.ceil(warmup * total)
# if step < rise:
#     return peak * (step + 1) / rise
# return peak / 2 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))
# ```
# </details>


# %%
def schedule(peak, warmup):
    """The lab's schedule over sixty updates."""
    rates = [learning_rate(s, 60, peak, warmup, "cosine") for s in range(60)]
    look = figures.look()
    y = look["yaxis"] | {"title": {"text": "learning rate"}, "range": [0, 0.05]}
    x = look["xaxis"] | {"title": {"text": "update"}}
    return {"data": [{"type": "scatter", "mode": "lines", "y": rates}],
            "layout": look | {"height": 260, "xaxis": x, "yaxis": y}}  # fmt: skip


turn(schedule, peak=Knob(0.0003, 0.05, 0.003, 0.02, log=True, label="peak"), warmup=Knob(0, 0.5, 0.05, 0.01,
     label="warm-up, share"))  # fmt: skip

# %% [markdown]
# The runs above used a peak of 0.003. Now take ten times as much (or another number; a tenth is worth a try as well).

# %% tags=["exercise"]
MY_PEAK = 0.03  # ✎

# %%
config = replace(demo.SFT, lr=MY_PEAK, eval_every=5, probe_every=0)
hot = bench.new("sft", config, demonstrations[: size["demonstrations"] * 2 // 3], title=f"learning rate {MY_PEAK:g}")
live = bench.play(hot)
live

# %%
live.wait()
follower = Follower(hot)
follower.refresh()
curve = follower.columns(["eval_loss"])["eval_loss"]
print("update, held-out loss:", "  ".join(f"{s}: {x:.3f}" for s, x in zip(*curve, strict=True)))
hot_does = behaviour(bench.role(hot))
for name, does in (("base", base_does), ("SFT", sft_does), (f"lr {MY_PEAK:g}", hot_does)):
    print(f"{name:8} right {mean(does['right answers']):.0%}, most likely words "
          f"{mean(does['right answers, most likely words']):.0%}, ended {mean(does['ended']):.0%}")  # fmt: skip

# %%
bench.ask(QUESTIONS, {"SFT": sft, f"learning rate {MY_PEAK:g}": hot}, seed=1)

# %% [markdown]
# <details><summary><b>What to look for</b> (open after you have run it)</summary>
#
# With 0.03 the held-out loss jumps above the base's as soon as the warm-up is over, and although it falls again while
# the rate falls, it does not come back: the steps were so large that they destroyed what the base knew, in the words
# that are most likely too, and one pass over the demonstrations cannot teach it again. The answers still look like
# answers. They end, they have the right shape, and they are wrong: the **form** is learnt quickly and survives, the
# facts do not. Clipping the gradient's norm is no protection, because Adam divides by the gradient's own size: the
# length of a step is set by the learning rate.
#
# The sign to watch for is a held-out loss *above its first value*. A loss that jumps and comes back below it is only
# wasted time. With 0.0003 nothing goes wrong and hardly anything happens.
# </details>
#
# ## Go on
#
# * How many demonstrations are needed? Try 100, 300 and 1000 with one pass each; then let passes make up for numbers.
# * Mix: `refusals + demonstrations[:300]`. How small may the second part be before harmless questions are refused?
# * Start the narrow run from the SFT model instead of the base: `bench.new("sft", config, refusals, {"sft": sft})`.
#
# **Reading.** Ouyang et al. 2022, *Training language models to follow instructions with human feedback*, arXiv
# 2203.02155 (section 3.5: SFT, and its held-out loss) · Wei et al. 2021, *Finetuned language models are zero-shot
# learners*, arXiv 2109.01652 · Zhou et al. 2023, *LIMA: less is more for alignment*, arXiv 2305.11206 (little is needed
# if it is good: the knowledge is there) · Gudibande et al. 2023, *The false promise of imitating proprietary LLMs*,
# arXiv 2305.15717 (imitation copies the form) · Kirkpatrick et al. 2016, *Overcoming catastrophic forgetting in neural
# networks*, arXiv 1612.00796 · Hu et al. 2021, *LoRA*, arXiv 2106.09685 · Dettmers et al. 2023, *QLoRA*, arXiv
# 2305.14314 · Biderman et al. 2024, *LoRA learns less and forgets less*, arXiv 2405.09673.

# %%
bench.close()
