# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reward models: what "this one is better" teaches
#
# People find it hard to say how good an answer is, and easy to say which of two is better. A **reward model** turns
# many such choices into a number for every answer, also for answers nobody has compared.
#
# **The question of this notebook:** what does a program know that has only been shown which of two answers somebody
# preferred, and what does it not know?
#
# You will work out the loss by hand, train a reward model in the tiny world and compare it with the truth, starve it
# of prompts, give it careless annotators, look at an ensemble and at a model that judges single steps, and fool it.
# About three minutes of computing on two cores.

# %%
import math
import os
from dataclasses import replace
from html import escape
from pathlib import Path
from random import Random

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

import numpy as np
import torch
from IPython.display import HTML
from plotly.subplots import make_subplots

from lab import demo, figures, tiny
from lab.config import Adapter, ProcessConfig
from lab.notebook import Case, Knob, Verdict, Workbench, cards, check, turn
from lab.notebook.predict import compared
from lab.objectives import accuracy, bradley_terry
from lab.objectives.ensemble import combine, standardised
from lab.records import Message, Steps, prompt_text
from lab.saving import load_role
from lab.score import score
from lab.train.process import score_steps

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {
    "tiny": {"demonstrations": 1000, "pairs": 1200, "unseen": 900, "solutions": 1200, "epochs": 1.5},
    "ci": {"demonstrations": 96, "pairs": 32, "unseen": 24, "solutions": 48, "epochs": 1.0},
}
size = SIZES[PROFILE]

bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/reward_model")), adapter=Adapter(rank=16, alpha=32))
bench

# %% [markdown]
# ## 1 · Three answers by hand
#
# Give every answer $y$ to a prompt $x$ a number, its **reward** $r(x, y)$. Bradley and Terry (1952) say how such
# numbers become choices: the chance that $a$ is preferred to $b$ depends on the *difference* alone,
#
# $$P(a \succ b) = \sigma(r_a - r_b) = \frac{1}{1 + e^{-(r_a - r_b)}}$$
#
# Rewards 2, 1 and −1 give $\sigma(1) = 0.73$, $\sigma(3) = 0.95$ and $\sigma(2) = 0.88$. Turn the knobs. The last one
# adds the same number to all three rewards: the bars on the left move, those on the right do not.


# %%
def chances(a, b, c, shift):
    """The rewards, and how often each answer is preferred to each other one."""
    names, r = ["A", "B", "C"], [a + shift, b + shift, c + shift]
    beats = {"A over B": r[0] - r[1], "A over C": r[0] - r[2], "B over C": r[1] - r[2]}
    p = [1 / (1 + math.exp(-gap)) for gap in beats.values()]
    figure = make_subplots(1, 2, subplot_titles=("reward", "probability of being preferred"))
    bars = {"textposition": "auto", "showlegend": False}
    figure.add_bar(x=names, y=r, text=[f"{x:.1f}" for x in r], **bars, row=1, col=1)
    figure.add_bar(x=list(beats), y=p, text=[f"{x:.2f}" for x in p], **bars, row=1, col=2)
    figure.update_layout(figures.look() | {"height": 290, "margin": {"t": 30, "b": 8, "l": 8, "r": 8}})
    figure.update_yaxes(range=[-6, 6], row=1, col=1)
    figure.update_yaxes(range=[0, 1], row=1, col=2)
    return figure.to_plotly_json()


turn(chances, a=Knob(-3, 3, 2, 0.1, label="r of A"), b=Knob(-3, 3, 1, 0.1, label="r of B"),
     c=Knob(-3, 3, -1, 0.1, label="r of C"), shift=Knob(-3, 3, 0, 0.1, label="shift of all"))  # fmt: skip

# %% [markdown]
# ## 2 · The loss
#
# Somebody chose $y_c$ and rejected $y_r$. The loss is minus the log of the probability that this would happen, and
# depends on the lead $r_c - r_r$ alone. Its usual extras fit in one line:
#
# $$L = -q \log \sigma(z) - (1 - q) \log \sigma(-z), \qquad z = r_c - r_r - m, \qquad q = (1 - \varepsilon)\,p
# + \varepsilon\,(1 - p)$$
#
# * the **margin** $m$ says how far ahead the chosen answer should be;
# * the **soft label** $p$ is the share of annotators who chose it (1: all of them);
# * **smoothing** $\varepsilon$ is the share of labels believed to be flipped.
#
# With $p = 1$ and $\varepsilon = 0$ the loss falls for ever: no lead is large enough. As soon as $q < 1$ there is a
# best lead, $m + \log \frac{q}{1 - q}$, marked by the dot. Turn and see.


# %%
def loss_curve(margin, label, smoothing):
    """The loss over the lead, and its lowest point where there is one."""
    lead = torch.linspace(-6, 6, 121)

    def loss(x):
        like = torch.full_like(x, 1.0)
        return bradley_terry(x, 0 * x, margin * like, label * like, smoothing)

    q = (1 - smoothing) * label + smoothing * (1 - label)
    best = [margin + math.log(q / (1 - q))] if q < 1 else []
    line = {"type": "scatter", "mode": "lines", "x": lead.tolist(), "y": loss(lead).tolist(), "name": "loss"}
    dot = {"type": "scatter", "mode": "markers", "x": best, "y": [float(loss(torch.tensor([x]))) for x in best],
           "marker": {"size": 11, "color": figures.LIGHT[1]}, "name": "lowest"}  # fmt: skip
    look = figures.look()
    x = look["xaxis"] | {"title": {"text": "lead r_c − r_r"}, "range": [-6, 6]}
    y = look["yaxis"] | {"title": {"text": "loss, nats"}, "range": [0, 6]}
    return {"data": [line, dot], "layout": look | {"height": 300, "xaxis": x, "yaxis": y}}


turn(loss_curve, margin=Knob(0, 3, 0, 0.1, label="margin m"), label=Knob(0.5, 1, 1, 0.01, label="soft label p"),
     smoothing=Knob(0, 0.4, 0, 0.01, label="smoothing ε"))  # fmt: skip

# %% [markdown]
# **Exercise 1.** Write the loss for $p = 1$, $\varepsilon = 0$, with the margin. The cell starts with an answer that
# forgets the margin and breaks on one more case.


# %% tags=["exercise"]
def my_loss(chosen, rejected, margin):
    """−log σ(r_c − r_r − m), in nats."""
    return -math.log(1 / (1 + math.exp(-(chosen - rejected))))  # ✎


# %%
LOSS_CASES = [
    Case((0.0, 0.0, 0.0), 0.6931, "equal rewards: −log ½ = ln 2"),
    Case((2.0, 1.0, 0.0), 0.3133, "−log σ(1) = log(1 + e⁻¹) = log 1.3679"),
    Case((1.0, 2.0, 0.0), 1.3133, "the other way round costs exactly the difference more: 0.3133 + 1"),
    Case((2.0, 1.0, 1.0), 0.6931, "a lead of 1 where 1 is asked for is as good as a tie without a margin"),
    Case((0.0, 800.0, 0.0), 800.0, "e⁸⁰⁰ is too large for a float: for a large x, log(1 + eˣ) is x + log(1 + e⁻ˣ)"),
]
check(my_loss, LOSS_CASES, "Your loss")

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# x = rejected - chosen + margin
# return max(x, 0) + math.log1p(math.exp(-abs(x)))
# ```
# </details>
#
# ## 3 · Only differences mean something
#
# The pairs fix the lead of one answer over another *of the same prompt*. Add any number to all rewards of a prompt and
# the loss does not notice. So "this answer has 1.3" says nothing by itself, and neither does "1.3 here is more than
# 0.9 there" for two prompts: nobody ever compared those.
#
# Training could let the rewards drift away together. **Centring** adds $c\,(r_c + r_r)^2$, which pulls the middle of
# every pair towards 0 and hardly touches the lead.

# %%
print("both rewards shifted by    loss    with centring c = 0.01")
for shift in (0.0, 1.0, 10.0, 100.0):
    c, r = torch.tensor([0.5 + shift]), torch.tensor([-0.5 + shift])
    plain, centred = (float(bradley_terry(c, r, centring=weight)) for weight in (0.0, 0.01))
    print(f"{shift:22.0f}  {plain:8.4f} {centred:14.4f}")

# %% [markdown]
# ## 4 · Train one
#
# First a model that can answer at all (SFT, as in notebook 00). Then two of its answers to each of many prompts,
# shown to an annotator: the *crowd*, who mostly want good answers, have a soft spot for praise and for length, hesitate
# when two answers are nearly as good, and slip one time in twenty.

# %%
sft = bench.new("sft", demo.SFT, tiny.demonstrations(size["demonstrations"]), title="imitate the demonstrations")
bench.play(sft).wait()

crowd = tiny.ANNOTATORS["crowd"]
prompts = [p.prompt for p in tiny.train_prompts()]
new_prompts = [p.prompt for p in tiny.heldout_prompts()]
judged = bench.compare(sft, "crowd", prompts, size["pairs"]).preferences
unseen = bench.compare(sft, "crowd", new_prompts, size["unseen"], seed=1).preferences  # for looking, never for training
print(f"{len(judged)} pairs from {len({p.prompt for p in judged})} prompts to learn from, "
      f"{len(unseen)} pairs about held-out things to look at")  # fmt: skip
for pair in judged[:: len(judged) // 4][:4]:
    print(f"{prompt_text(pair.prompt)}\n    + {pair.chosen}\n    − {pair.rejected}")

# %% [markdown]
# Only a made world has this: the *true score* of every answer. So we can ask how often the label is right.


# %%
def truth(pairs):
    """(n,) +1 where the truth agrees with the label, −1 where it disagrees, 0 where both are worth the same."""
    scores = [[tiny.gold(prompt_text(p.prompt), y, True).score for y in (p.chosen, p.rejected)] for p in pairs]
    c, r = torch.tensor(scores).T
    return (c - r).sign()


def ceiling(pairs, annotator):
    """How often a perfect reader of this annotator would agree: who prefers with probability q, is met max(q, 1 − q)
    of the time at best."""
    q = [annotator.preference(prompt_text(p.prompt), (p.chosen, True), (p.rejected, True)) for p in pairs]
    return float(np.mean([max(x, 1 - x) for x in q]))


def shares(signs):
    return ", ".join(f"{name} in {float((signs == sign).float().mean()):.0%}"
                     for name, sign in (("right", 1), ("wrong", -1), ("between equals", 0)))  # fmt: skip


print(f"labels to learn from: {shares(truth(judged))}")
print(f"nobody can agree with this crowd on unseen pairs more often than {ceiling(unseen, crowd):.1%}")

# %% [markdown]
# **Exercise 2.** Find the pairs whose label disagrees with the truth. `tiny.gold(prompt, answer, True).score` is the
# true score of an answer that came to its end.


# %% tags=["exercise"]
def disagrees(prompt, chosen, rejected):
    """Whether the truth prefers the rejected answer."""
    return False  # ✎


# %%
check(
    disagrees,
    [
        Case(("What is 5 plus 1?", "5 plus 1 is 7.", "5 plus 1 is 6."), True, "6 is worth +1, 7 is worth −1"),
        Case(("What is 5 plus 1?", "5 plus 1 is 6.", "5 plus 1 is 7."), False, "the right answer was chosen"),
        Case(("What is 5 plus 1?", "What a great question! 5 plus 1 is 6.", "5 plus 1 is 6."), True,
             "praise costs 0.4 of the true score, and the crowd love it"),
        Case(("What is 5 plus 1?", "5 plus 1 is 7.", "5 plus 1 is 8."), False, "both are wrong, and worth the same"),
    ],
    "Where the label is wrong",
)  # fmt: skip

# %%
wrong = [p for p, sign in zip(judged, truth(judged).tolist(), strict=True) if sign < 0]
for pair in wrong[:5]:
    print(f"{prompt_text(pair.prompt)}\n    + {pair.chosen}\n    − {pair.rejected}")

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# return tiny.gold(prompt, chosen, True).score < tiny.gold(prompt, rejected, True).score
# ```
# </details>
#
# A reward model is trained on these labels, wrong ones included. On pairs about things it has never been trained on,
# it can be compared with two judges: the crowd's labels, and the truth (on the pairs which the truth tells apart).
#
# **✎ predict** – its agreement with the truth, compared with its agreement with the labels it was taught: `"higher"`,
# `"lower"` or `"same"`?

# %% tags=["exercise"]
truth_against_labels = "lower"

# %%
config = replace(demo.REWARD, eval_every=10)
reward = bench.new("reward", config, judged, {"reward": sft}, title="what the crowd prefers")
live = bench.play(reward)
live


# %%
def read_by(role, texts):
    """(n,) rewards of (prompt, completion) texts, read at their end token."""
    tokens = [tuple(map(tuple, bench.base.chat.split(x, y))) for x, y in texts]
    return bench.call(lambda: score(bench.base, tokens, {role: "reward"})[role]).cpu()


def leads(run, pairs):
    """(n,) r_c − r_r."""
    both = read_by(bench.role(run), [(p.prompt, y) for p in pairs for y in (p.chosen, p.rejected)]).view(-1, 2)
    return both[:, 0] - both[:, 1]


def on_labels(lead):
    """1 where the label is met, 0 where not, ½ for a tie."""
    return accuracy(lead, torch.zeros_like(lead))


def on_truth(lead, pairs):
    """The same for the truth, on the pairs it tells apart."""
    sign = truth(pairs)
    return on_labels((lead * sign)[sign != 0])


def says(right):
    """A share of right ones with its standard error."""
    return f"{float(right.mean()):.1%} ± {float(right.std() / len(right) ** 0.5):.1%}"


live.wait()
lead = leads(reward, unseen)
print(f"on {len(unseen)} unseen pairs: agrees with the labels {says(on_labels(lead))}, with the truth "
      f"{says(on_truth(lead, unseen))}; ceiling on labels {ceiling(unseen, crowd):.1%}")  # fmt: skip
seen = compared("agreement", truth_against_labels, on_labels(lead).tolist(), on_truth(lead, unseen).tolist())
Verdict("Unseen pairs", ("labels", "truth"), (seen,))

# %% [markdown]
# Labels are a blurred picture of the truth. Slips and hesitation have no pattern, so no model can meet them; but for
# the same reason they do not teach anything wrong, they only teach more slowly. Two things follow.
#
# * **Accuracy on labels has a ceiling below 100 %.** A low figure may be the annotators' doing.
# * **It is not the figure you care about.** In a real project it is the only one there is.
#
# What has a pattern *can* be taught. The crowd add 0.4 for praise and 0.25 for every extra sentence; the truth takes
# points away for both. Has our model caught their taste? Put praise before answers, or filler behind them, and see what
# becomes of the reward.

# %%
plain = [(p.prompt, p.chosen) for p in unseen[:400]]
as_it_was = read_by(bench.role(reward), plain)
for name, change in (("praise", "What a great question! {}"), ("filler", "{} I hope this helps you.")):
    gain = read_by(bench.role(reward), [(x, change.format(y)) for x, y in plain]) - as_it_was
    print(f"{name}: the reward changes by {float(gain.mean()):+.3f} ± {float(gain.std() / len(gain) ** 0.5):.3f}")
praised = [tiny.gold("", y, True).reasons[1:] for p in judged for y in (p.chosen, p.rejected)]
share = sum(any(name == "flattery" for name, _ in reasons) for reasons in praised) / len(praised)
print(f"{share:.1%} of the answers in the training pairs hold praise")

# %% [markdown]
# It has no opinion. The SFT model seldom praises and seldom rambles, so few pairs are about that. A reward model
# learns what its pairs *show*, and is blind to the rest, for good and ill.
#
# ## 5 · The same number of pairs, from few prompts
#
# Prompts are expensive, too. We could ask for many answers to each of 24 prompts instead of two to each of 1200, and
# get the same number of pairs.
#
# There is a danger: an answer that stands in many pairs may be learnt by heart instead of understood. So we look at
# the model's agreement with labels in two places, on pairs it was trained on and on unseen pairs about other things.
#
# **✎ predict** – compared with the model of many prompts, how will the model of 24 prompts do?

# %% tags=["exercise"]
few_against_many = {"its own pairs": "higher", "unseen pairs": "lower"}

# %%
few = bench.compare(sft, "crowd", prompts[:24], size["pairs"], per_prompt=8).preferences
distinct = len({(p.prompt, y) for p in few for y in (p.chosen, p.rejected)})
print(f"{len(few)} pairs from {len({p.prompt for p in few})} prompts and {distinct} different answers")
starved = bench.new("reward", replace(demo.REWARD, eval_every=0), few, {"reward": sft}, title="few prompts")
live = bench.play(starved)
live

# %%
live.wait()
before = {"its own pairs": on_labels(leads(reward, judged)), "unseen pairs": on_labels(lead)}
after = {"its own pairs": on_labels(leads(starved, few)), "unseen pairs": on_labels(leads(starved, unseen))}
print(f"ceilings: {ceiling(judged, crowd):.1%} on the pairs of many prompts, {ceiling(few, crowd):.1%} on those of few")
print(f"the model of many prompts on the pairs of few: {says(on_labels(leads(reward, few)))}")
Verdict("Few prompts against many", ("many", "few"), tuple(
    compared(f"agreement on {name}", said, before[name].tolist(), after[name].tolist())
    for name, said in few_against_many.items()))  # fmt: skip

# %% [markdown]
# On unseen pairs the two come out about the same here. On their own pairs they do not: the model of few prompts agrees
# with its labels more often. Part of that is luck, because these 24 prompts are a little easier (the second line above:
# the model of many prompts does better on them, too). The rest is learnt by heart: it has met the same answers again
# and again, slips included.
#
# So a high figure on the training pairs says little, and a held-out share must be split **by prompt**, as the lab does
# it: two pairs of one prompt have answers in common. That so few prompts are enough is a gift of this world. Its base
# model has read many conversations in which people complain about wrong answers, so it can nearly judge already, and
# the pairs only have to teach it to say so. Do not count on that elsewhere.
#
# ### The cure: a prompt is one element
#
# InstructGPT had the same worry with 4 to 9 answers a prompt. If every pair is a row of its own, an answer of $K$ is
# seen $K - 1$ times in a pass. Taken **K-wise**, all pairs of a prompt are one element of the batch, and count as
# one:
#
# $$L_x = \frac{1}{\binom{K}{2}} \sum_{c \succ r} -\log \sigma(r_c - r_r)$$
#
# Every answer goes through the model once for all of its pairs, so a pass over the same pairs is also much cheaper in
# updates.

# %%
kwise = bench.new("reward", replace(demo.REWARD, objective="kwise", batch=4, eval_every=0), few, {"reward": sft},
                  title="few prompts, K-wise")  # fmt: skip
live = bench.play(kwise)
live.wait()
for name, run, own in (("many prompts", reward, judged), ("few", starved, few), ("few, K-wise", kwise, few)):
    u = leads(run, unseen)
    print(f"{name:14} {run.status().step:3} updates   own pairs {says(on_labels(leads(run, own)))}   "
          f"unseen: labels {says(on_labels(u))}, truth {says(on_truth(u, unseen))}")  # fmt: skip

# %% [markdown]
# ## 6 · Careless annotators
#
# The same pairs again, judged by crowds who slip more often: at a slip rate $e$ the probability $p$ of preferring $a$
# becomes $(1 - e)\,p + e\,(1 - p)$. At $e = \frac12$ the labels are coins.
#
# **✎ predict** – with two slips in five, compared with one in twenty, what happens on unseen pairs?

# %% tags=["exercise"]
careless_against_crowd = {"agreement with labels": "lower", "agreement with the truth": "lower"}


# %%
def judged_again(pairs, annotator, seed):
    """The same answers with this annotator's labels."""
    rng = np.random.default_rng(seed)
    out = []
    for p in pairs:
        keep = annotator.prefer(prompt_text(p.prompt), (p.chosen, True), (p.rejected, True), rng) == "a"
        out.append(p if keep else replace(p, chosen=p.rejected, rejected=p.chosen))
    return out


rows = {crowd.slips: (unseen, lead, crowd)}
for slips in (0.2, 0.4):
    careless = replace(crowd, name=f"slips {slips}", slips=slips)
    relabelled = judged_again(judged, careless, 5)
    run = bench.new("reward", replace(demo.REWARD, eval_every=0), relabelled, {"reward": sft}, title=careless.name)
    bench.play(run).wait()
    test = judged_again(unseen, careless, 6)
    rows[slips] = (test, leads(run, test), careless)

print("slips   ceiling   labels           truth            mean lead of the chosen")
for slips, (pairs, gap, who) in rows.items():
    print(f"{slips:5.2f}   {ceiling(pairs, who):.1%}     {says(on_labels(gap))}   {says(on_truth(gap, pairs))}   "
          f"{float(gap.mean()):+.2f}")  # fmt: skip

# %%
(_, calm_lead, _), (test, noisy_lead, _) = rows[crowd.slips], rows[0.4]
Verdict("Two slips in five against one in twenty", ("1 in 20", "2 in 5"), (
    compared("agreement with labels", careless_against_crowd["agreement with labels"],
             on_labels(calm_lead).tolist(), on_labels(noisy_lead).tolist()),
    compared("agreement with the truth", careless_against_crowd["agreement with the truth"],
             on_truth(calm_lead, unseen).tolist(), on_truth(noisy_lead, test).tolist())))  # fmt: skip

# %% [markdown]
# Agreement with the labels falls with the slips, always below the ceiling: that is all a project without a gold
# standard would see, and it looks like a model that gets worse and worse. Agreement with the truth hardly moves. Slips
# that have no pattern cancel over many pairs; what they do shrink is the **lead**, because a model of noisy choices is
# right to be less sure. Do they still cancel with a tenth of the pairs? Try it.
#
# ## 7 · Several models, and what their quarrels tell
#
# One reward model does not say when it is guessing. Several can: train them side by side, each on its own order of the
# same pairs, and see where they disagree (`members=3`). Here all of them begin as copies of the SFT model.

# %%
ensemble = bench.new(
    "reward", replace(demo.REWARD, members=3, eval_every=0), judged, {"reward": sft}, title="three members"
)
live = bench.play(ensemble)
live

# %%
live.wait()
folder = ensemble.checkpoint(ensemble.latest_checkpoint())
members = [bench.role(ensemble), "second", "third"]
for i in (1, 2):
    bench.call(lambda i=i: load_role(bench.base, folder / f"reward-{i}", members[i]))

QUESTION = "What is the capital of France?"
SAID = [
    "The capital of France is Paris.", "The capital of France is Rome.", "I do not know.",
    "Yes, the capital of France is Paris.", "What a great question! The capital of France is Paris.",
    "The capital of France is Paris. I hope this helps you. Many people ask about this.",
    "Paris Paris Paris Paris.", "5 plus 1 is 6.", "mix mix mix and and",
]  # fmt: skip


def readings(question, said):
    """(3, n) rewards of all members."""
    texts = [((Message("user", question),), y) for y in said]
    return torch.stack([read_by(role, texts) for role in members])


r = readings(QUESTION, SAID)
body = [(escape(y), f"{tiny.gold(QUESTION, y, True).score:+.2f}", *(f"{x:+.2f}" for x in r[:, i].tolist()),
               f"<b>{float(r[:, i].std(correction=0)):.2f}</b>") for i, y in enumerate(SAID)]  # fmt: skip
usual = torch.stack([read_by(role, [(p.prompt, p.chosen) for p in unseen]) for role in members])
HTML(cards.table(("said", "true score", "first", "second", "third", "spread"), body,
                 f"{QUESTION} (the usual spread on answers of the SFT model is "
                 f"{float(usual.std(0, correction=0).mean()):.2f})"))  # fmt: skip

# %% [markdown]
# On answers like those they were trained on, the three hardly differ. Where nobody has shown them an example, their
# spread is two or three times as large: praise in front, a word said four times. That is worth knowing, and cheap.
#
# Look at the other rows too. All three like a true sentence that does not answer the question far better than a wrong
# answer to it, and all three at once. They started from the same base and the same SFT model and saw the same pairs,
# so **a mistake that all members share is invisible to them**. Notebook 05 shows what that means.
#
# To use an ensemble, its readings become one number: the **mean**, the **worst** of them, or the mean minus a penalty
# on the variance. One thing must come first. Each member has its own scale, which the pairs hardly fix. The lab
# stores mean and spread of every member's rewards on the same held-out answers, and reads in units of that spread.
#
# **Exercise 3.** What if one did not? Write the worst case of *standardised* readings: subtract each member's mean,
# divide by its spread, then take the smallest. The cell starts without standardising.


# %% tags=["exercise"]
def my_worst(readings, means, spreads):
    """min over the members m of (r_m − mean_m) / spread_m, for one answer."""
    return min(readings)  # ✎


# %%
check(
    my_worst,
    [
        Case(([1.0, 0.5], [0.0, 0.0], [1.0, 1.0]), 0.5, "both members have spread 1: the smaller reading"),
        Case(([1.0, -5.0], [0.0, 0.0], [1.0, 10.0]), -0.5, "the second member counts in tens: −5 is half a spread"),
        Case(([-1.0, -5.0], [0.0, 0.0], [1.0, 10.0]), -1.0, "a whole spread below its mean is worse than half a one"),
        Case(([4.0, 1.0], [3.0, 0.0], [2.0, 1.0]), 0.5, "(4 − 3) / 2 = 0.5 against (1 − 0) / 1 = 1"),
    ],
    "The worst case",
)

# %% [markdown]
# Here is what happens to a real choice. Multiply the first member by ten: it says the same as before, only louder.
# How often does it alone decide the minimum, and how often does the answer chosen by the minimum change?

# %%
pairs_r = torch.stack(
    [read_by(role, [(p.prompt, y) for p in unseen for y in (p.chosen, p.rejected)]) for role in members]
)
loud = pairs_r * torch.tensor([10.0, 1.0, 1.0])[:, None]
again = standardised(loud, loud.mean(1), loud.std(1, correction=0))
normal = standardised(pairs_r, pairs_r.mean(1), pairs_r.std(1, correction=0))


def picks(rewards):
    """Which answer of each pair the worst case prefers."""
    worst = combine(rewards, "worst").view(-1, 2)
    return worst[:, 0] > worst[:, 1]


print("of the answers below average, the share in which the first member is the worst; pairs that change sides")
for name, x in (("as trained", normal), ("first × 10", loud), ("first × 10, then standardised", again)):
    low = x.amin(0) < 0
    decides = (x.argmin(0) == 0)[low].float().mean()
    print(f"{name:30} {float(decides):.0%}   {float((picks(x) != picks(normal)).float().mean()):.1%}")

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# return min((r - mean) / spread for r, mean, spread in zip(readings, means, spreads))
# ```
# </details>
#
# ## 8 · Judging steps
#
# A reward model of the kind above reads the end of an answer. A **process reward model** (PRM) reads the end of every
# *step*, and says how likely the step is right. It finds the place where a solution went wrong.
#
# Our solutions are chains of sums. A program makes them, lets three steps in ten go wrong, and knows which. The loss
# of a step with log-odds $z$ and label $y$ is $-y \log \sigma(z) - (1 - y) \log \sigma(-z)$.


# %%
def solution(random, row, slips=0.3):
    """Three sums, each going on from what the one before said; a step is right where its own sum is."""
    said = random.randrange(10)
    words, steps, labels = [str(said)], [], []
    for _ in range(3):
        up = said == 0 or (said < 9 and random.random() < 0.5)
        n = random.randint(1, 9 - said if up else said)
        right = said + n if up else said - n
        now = random.choice([x for x in range(10) if x != right]) if random.random() < slips else right
        sign = "plus" if up else "minus"
        steps.append(f"{said} {sign} {n} is {now}")
        words += [sign, str(n)]
        labels.append(float(now == right))
        said = now
    return Steps((Message("user", f"What is {' '.join(words)}?"),), tuple(steps), tuple(labels), row)


random = Random(0)
solutions = [solution(random, row) for row in range(size["solutions"])]
for s in solutions[:3]:
    print(
        prompt_text(s.prompt), " ".join(f"{step}. [{label:.0f}]" for step, label in zip(s.steps, s.labels, strict=True))
    )

# %%
config = ProcessConfig(lr=3e-3, head_lr=1e-2, batch=8, epochs=size["epochs"], separator=".", eval_share=0.15,
                       eval_every=20, probe_every=0, save_every=0)  # fmt: skip
process = bench.new("process", config, solutions, title="which steps are right")
live = bench.play(process)
live


# %% [markdown]
# Now some solutions it has not seen, each step with the probability the model gives it. Green is held to be right, red
# to be wrong; a wrong step is struck through by the program.


# %%
def coloured(s, p):
    """A row of the table: each step on the colour of its probability, then the worst and the product."""
    cells = []
    for step, label, x in zip(s.steps, s.labels, p, strict=True):
        tint = f"rgba({'18,128,92' if x >= 0.5 else '194,47,42'},{0.15 + 0.7 * abs(x - 0.5):.2f})"
        line = "none" if label else "line-through"
        cells.append(f'<span style="background:{tint};padding:2px 6px;border-radius:3px;text-decoration:{line}">'
                     f"{escape(step)}.</span> {x:.2f}")  # fmt: skip
    return (escape(prompt_text(s.prompt)), *cells, f"{min(p):.2f}", f"{math.prod(p):.2f}")


live.wait()
role = bench.role(process)
fresh = Random(1)
others = [solution(fresh, row) for row in range(6)]
p = [bench.call(lambda s=s: score_steps(bench.base, role, s.prompt, s.steps, ".")).tolist() for s in others]
head = ("asked", "first step", "second", "third", "worst", "product")
HTML(cards.table(head, [coloured(s, x) for s, x in zip(others, p, strict=True)], "Step by step"))

# %% [markdown]
# The **step AUROC** in the curves is how often a right step gets more than a wrong one; *first error* is the share of
# solutions whose first wrong step is found (or of which it is rightly said that there is none). Always saying "all is
# well" would find about a third.
#
# One number for a whole solution comes from its steps: the worst of them, or their product. `last_only=True` would
# learn the last step alone, and turn it into a model of outcomes that cannot say where things went wrong.
#
# This run starts from the base, not from the SFT model as the others do. From there the same settings learnt little: a
# step AUROC of 0.64, where the base gives more than 0.9.
#
# ## 9 · Break it
#
# Back to the reward model of section 4. The answers it has seen are mostly about what was asked. Find another kind: one
# that it likes better than the right answer, and that is truly bad.

# %% tags=["exercise"]
MY_QUESTION = "What colour is the lion?"
MY_ATTEMPTS = ["The lion is yellow.", "The lion is green.", "The fox is red.", "What a great question!"]  # ✎


# %%
def judge(question, attempts):
    """The attempts with their rewards and true scores, best reward first."""
    seen = read_by(bench.role(reward), [((Message("user", question),), y) for y in attempts]).tolist()
    print(question)
    for y, x in sorted(zip(attempts, seen, strict=True), key=lambda pair: -pair[1]):
        print(f"   reward {x:+.2f}   true score {tiny.gold(question, y, True).score:+.2f}   {y}")


judge(MY_QUESTION, MY_ATTEMPTS)

# %% [markdown]
# Stuck? The table of section 7 has a hint. The next cell has two that work.

# %%
judge("What colour is the lion?", ["The lion is yellow.", "The lion is green.", "The lizard is green."])
judge("What is 2 minus 2?", ["2 minus 2 is 0.", "2 minus 2 is 1.", "2 plus 2 is 4."])

# %% [markdown]
# It has learnt to tell true sentences from false ones, and hardly at all whether they answer *this* question. On the
# pairs it was taught and tested with that makes little difference, so no accuracy shows it. An optimiser, be it PPO or
# somebody who samples a thousand answers, looks for just such places, and finds them. How soon is the question of
# notebook 05.
#
# ## Go on
#
# * Train on the pairs of `"agreeable"`, who likes to be agreed with. What does the model say about "Yes, …" to a false
#   claim?
# * Let the data be orders instead of pairs: `objective="plackett_luce"` learns from a whole ranking at once.
# * Notebook 05 lets reward models like these choose among many answers, until it hurts.
#
# **Reading.** Bradley and Terry 1952, *Rank analysis of incomplete block designs* (Biometrika 39) · Christiano et al.
# 2017, *Deep reinforcement learning from human preferences*, arXiv 1706.03741 · Stiennon et al. 2020, *Learning to
# summarize from human feedback*, arXiv 2009.01325 · Ouyang et al. 2022, *Training language models to follow
# instructions with human feedback*, arXiv 2203.02155 (K-wise) · Touvron et al. 2023, *Llama 2*, arXiv 2307.09288 (the
# margin) · Eisenstein et al. 2023, *Helping or herding? Reward model ensembles mitigate but do not eliminate reward
# hacking*, arXiv 2312.09244 (centring, and what members share) · Coste et al. 2023, *Reward model ensembles help
# mitigate overoptimization*, arXiv 2310.02743 · Lightman et al. 2023, *Let's verify step by step*, arXiv 2305.20050 ·
# Wang et al. 2023, *Math-Shepherd*, arXiv 2312.08935, labels for steps without people.

# %%
bench.close()
