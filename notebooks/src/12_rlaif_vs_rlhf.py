# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # RLAIF against RLHF: does it matter who gives the labels?
#
# A label by a person costs about as much as a coffee, a label by a model about as much as the steam. Lee et al. (2023)
# trained two policies in the same way, one on people's preferences and one on a model's, and people could hardly tell
# them apart.
#
# **The question of this notebook:** when is a cheap label as good as a dear one, and how would one notice that it is
# not?
#
# The same answers will be judged by people (simulated ones), by a program that holds them against principles, and by
# the model itself. Each set of labels trains a policy through the very same pipeline; then the truth decides. About
# three minutes of computing on two cores.

# %%
import os
from html import escape
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

import numpy as np
from IPython.display import HTML, display

from lab import demo, figures, tiny
from lab.config import Adapter, PreferenceConfig
from lab.evaluate.table import figure, win_rate
from lab.feedback.constitution.labels import RuleJudge
from lab.feedback.judges.role import RoleJudge
from lab.feedback.judging import Opinion, habits, judge, preferences
from lab.notebook import Case, Knob, Workbench, cards, check, turn
from lab.records import Comparison, prompt_text
from lab.sample import sample
from lab.tiny.constitution import CRITIC, constitution
from lab.tiny.judges import AnnotatorJudge, GoldJudge, ReactionJudge, wording

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {"tiny": {"demonstrations": 1000, "pairs": 1500, "heldout": 400},
         "ci": {"demonstrations": 96, "pairs": 48, "heldout": 24}}  # fmt: skip
size = SIZES[PROFILE]

bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/rlaif")), adapter=Adapter(rank=16, alpha=32))
bench

# %% [markdown]
# ## 1 · The same answers for everybody
#
# An SFT model answers each prompt twice. These pairs are all that anybody will judge.

# %%
sft = bench.new("sft", demo.SFT, tiny.demonstrations(size["demonstrations"]), title="imitate the demonstrations")
bench.play(sft).wait()
drawn = bench.compare(sft, "crowd", [p.prompt for p in tiny.train_prompts()], size["pairs"]).preferences
coin = np.random.default_rng(0)
pairs = [Comparison(p.prompt, p.chosen, p.rejected) for p in drawn]
pairs = [c if coin.random() < 0.5 else c.swap() for c in pairs]
print(f"{len(pairs)} pairs about {len({c.prompt for c in pairs})} prompts")

# %% [markdown]
# ## 2 · A judge is asked twice
#
# A judge that is a model reads the answers one after the other, and which one stands first may matter more than what
# they say. So every pair is shown in **both orders**. With $p_{ab}$ the probability that the first is preferred when
# $a$ stands first, and $p_{ba}$ when $b$ does,
#
# $$p = \tfrac12\,(p_{ab} + 1 - p_{ba})$$
#
# A verdict that changes with the order is a **tie**. Turn the knobs: how much a judge sees of the answers, and how much
# it likes what stands first (in nats).


# %%
def asked_twice(sees, leans):
    """What a judge says in both orders, over how much better a really is."""
    gap = np.linspace(-4, 4, 81)
    ab, ba = (1 / (1 + np.exp(-(sign * sees * gap + leans))) for sign in (1, -1))
    lines = (("a first: p(a)", ab, "dash"), ("b first: p(a)", 1 - ba, "dot"), ("both", (ab + 1 - ba) / 2, "solid"))
    look = figures.look()
    data = [{"type": "scatter", "mode": "lines", "x": gap.tolist(), "y": y.tolist(), "name": name,
             "line": {"dash": dash}} for name, y, dash in lines]  # fmt: skip
    return {"data": data, "layout": look | {
        "height": 300, "showlegend": True, "yaxis": look["yaxis"] | {"range": [0, 1]},
        "xaxis": look["xaxis"] | {"title": {"text": "how much better a is"}, "dtick": 2}}}  # fmt: skip


turn(asked_twice, sees=Knob(0, 3, 1, 0.1, label="sees the answers"), leans=Knob(-3, 3, 1, 0.1, label="likes the first"))

# %% [markdown]
# **Exercise 1.** The verdict of both orders: 1 (a is better), 0 (b is better), or ½ where the orders disagree or where
# there is nothing to choose. `None` is an order without a usable answer; then there is no verdict.


# %% tags=["exercise"]
def my_verdict(p_ab, p_ba):
    """What the two orders say together about a."""
    return 1.0 if p_ab > 0.5 else 0.0  # ✎ it has asked once


# %%
check(
    my_verdict,
    [
        Case((0.9, 0.2), 1.0, "a is preferred in either place"),
        Case((0.3, 0.8), 0.0, "b is preferred in either place"),
        Case((0.9, 0.8), 0.5, "what stands first is preferred: the order decides, so it is a tie"),
        Case((0.99, 0.6), 0.5, "the mean is 0.695, and still the two orders name different answers"),
        Case((0.5, 0.5), 0.5, "nothing to choose"),
        Case((None, 0.1), None, "half an answer is none"),
    ],
    "Both orders",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# if p_ab is None or p_ba is None:
#     return None
# p = (p_ab + 1 - p_ba) / 2
# if (p_ab - 0.5) * (p_ba - 0.5) > 0 or p == 0.5:
#     return 0.5
# return float(p > 0.5)
# ```
# </details>
#
# ## 3 · Five judges
#
# * **people**: the *crowd*, one vote a pair (they like praise and length a little, and slip);
# * **principles**: a program that counts which answer breaks more of the constitution of notebook 08;
# * **the base, asked**: "which answer is good, 1 or 2?", by the probabilities of the two words;
# * **the base, overheard**: what it expects to come after an answer, silence or a complaint. It has read how people go
#   on after good and bad answers;
# * **the truth**, for comparison.
#
# **✎ predict** – put them in order of their agreement with the truth (on pairs which the truth tells apart), best
# first.

# %% tags=["exercise"]
my_order = ["the base, asked", "people", "principles", "the base, overheard"]


# %%
class Principles:
    """All principles together: the answer that breaks less weight of them is the better one."""

    name = "principles"
    every = tuple((p.weight, RuleJudge(CRITIC, p)) for p in constitution().active)

    def ask(self, comparisons):
        said = [[w * (o.p - 0.5) for o in one.ask(comparisons)] for w, one in self.every]
        totals = [sum(votes) for votes in zip(*said, strict=True)]
        return [Opinion(0.5 if t == 0 else float(t > 0)) for t in totals]


JUDGES = {
    "people": AnnotatorJudge(tiny.ANNOTATORS["crowd"], seed=1),
    "principles": Principles(),
    "the base, asked": RoleJudge(bench.base, "base", wording()),
    "the base, overheard": ReactionJudge(bench.base),
    "the truth": GoldJudge(),
}
labels = {name: bench.call(lambda who=who: judge(who, pairs)) for name, who in JUDGES.items()}
truth = [j.verdict.p for j in labels["the truth"]]


def right(judged):
    """1 where a verdict is the truth's, ½ for a tie, on the pairs which the truth tells apart."""
    out = []
    for j, t in zip(judged, truth, strict=True):
        if t != 0.5 and j.verdict.p is not None:
            out.append(0.5 if j.verdict.p == 0.5 else float(j.verdict.p == t))
    return figure(out)


rows, agrees = [], {}
for name, judged in labels.items():
    h, agrees[name] = habits(judged), right(judged)
    bias = "–" if h.position_bias is None else f"{h.position_bias:+.2f}"
    same = "–" if h.consistency is None else f"{h.consistency:.0%}"
    ties = "–" if h.ties is None else f"{h.ties:.0%}"
    rows.append((f"<b>{escape(name)}</b>", bias, same, ties,
                 f"{agrees[name].mean:.0%} [{agrees[name].low:.0%}, {agrees[name].high:.0%}]"))  # fmt: skip
order = sorted(my_order, key=lambda name: -agrees[name].mean)
print(f"the order is {', '.join(order)}; you said {', '.join(my_order)}")
head = ("judge", "position bias", "same in both orders", "ties", "agrees with the truth (a tie is half)")
HTML(cards.table(head, rows, f"On {len(pairs)} pairs"))

# %% [markdown]
# Look at the base that was *asked*. Its mean position bias is small, and it names the same answer in both orders hardly
# ever: on some prompts it always takes the first, on others always the second. A mean of both orders hides it, the
# consistency shows it. And the *same model* with another question is a judge. What a judge knows and what its prompt
# gets out of it are two things.
#
# Principles tie often, since most answers break none of them. What they do say is nearly always right; they are blind
# to the rest, above all to plain mistakes about facts.
#
# ## 4 · One pipeline
#
# Now DPO, with the same settings, from the same start, on the labels of each. Pairs that tie are no preference; so a
# judge who ties often has fewer.
#
# **✎ predict** – which policy will be truly best, and which worst?

# %% tags=["exercise"]
best, worst = "people", "the base, asked"

# %%
config = PreferenceConfig(beta=0.5, lr=1e-3, batch=32, eval_share=0.0, eval_every=0, probe_every=20, save_every=0)
runs = {}
for name in ("people", "principles", "the base, asked", "the base, overheard"):
    learnt = preferences(labels[name])
    runs[name] = bench.new("dpo", config, learnt, {"policy": sft}, title=f"labels by {name}")
    print(f"{name}: {len(learnt)} preferences")
for run in runs.values():
    live = bench.play(run)
    display(live)  # click on a curve: the probe prompts at that step
    live.wait()

# %% [markdown]
# Every policy answers the same held-out prompts. The truth says what each answer is worth, and which of two policies
# has the better one on the same prompt: the **win rate**, a tie counted half.

# %%
held = [p.prompt for p in tiny.heldout_prompts(size["heldout"])]


def worth(run):
    """True scores of a policy's answers to the held-out prompts."""
    role = bench.role(run)
    said = bench.call(lambda: [r for at in range(0, len(held), 200) for r in sample(
        bench.base, held[at : at + 200], (role,), max_new_tokens=tiny.MAX_NEW_TOKENS, seed=(3, at))])  # fmt: skip
    return [tiny.gold(prompt_text(r.prompt), r.completion, r.ended).score for r in said]


scores = {"SFT": worth(sft)} | {name: worth(run) for name, run in runs.items()}
rows = []
for name, values in scores.items():
    g, w = figure(values), win_rate(values, scores["people"])
    wins = "–" if name == "people" else f"{w.mean:.0%} [{w.low:.0%}, {w.high:.0%}]"
    rows.append((f"<b>{escape(name)}</b>", f"{g.mean:+.2f} [{g.low:+.2f}, {g.high:+.2f}]", wins))
ranked = sorted(runs, key=lambda name: -figure(scores[name]).mean)
print(f"best: {ranked[0]} (you said {best}); worst: {ranked[-1]} (you said {worst})")
HTML(cards.table(("labels by", "true score", "wins against the policy of people's labels"), rows,
                 f"On {len(held)} held-out prompts, 95 % intervals"))  # fmt: skip

# %% [markdown]
# The base that was overheard knows nothing of people's labels, and its policy is as good as theirs: this is what Lee et
# al. saw. Principles are right where they speak; they are silent about three mistakes in five.
#
# An interval that contains 50 % means: with this many prompts the two cannot be told apart. It does *not* mean that
# they are equal. Four hundred prompts see differences of about three points.
#
# ## 5 · What a label costs
#
# Say that a person takes half a minute at 20 an hour, and that a model reads and writes 400 tokens for a pair, in both
# orders, at 0.5 per million. What one gets per unit of money depends on how good each label is. Turn the knobs.


# %%
def per_money(wage, price):
    """What labels for the whole set cost, in money."""
    people = len(pairs) * wage * 30 / 3600
    model = len(pairs) * 2 * 400 * price / 1e6
    look = figures.look()
    return {"data": [{"type": "bar", "x": ["people", "a model"], "y": [people, model],
                      "text": [f"{people:.2f}", f"{model:.2f}"], "textposition": "auto"}],
            "layout": look | {"height": 280, "yaxis": look["yaxis"] | {"type": "log", "title": {"text": "cost"}},
                              "xaxis": look["xaxis"] | {"type": "category", "dtick": 1}}}  # fmt: skip


turn(per_money, wage=Knob(5, 60, 20, 1, label="wage per hour"),
     price=Knob(0.05, 20, 0.5, 0.1, log=True, label="price per million tokens"))  # fmt: skip

# %% [markdown]
# The factor is of the order of a thousand. That is why it matters so much *where* AI labels fail: one can have any
# number of them, all with the same mistake.
#
# ## 6 · Where the labels part
#
# Families of prompts, and how often people and principles agree with the truth on each. What is a principle about, and
# what not?

# %%
families = [tiny.family(prompt_text(c.prompt)) for c in pairs]
rows = []
for own in sorted(set(families)):
    at = [i for i, f in enumerate(families) if f == own and truth[i] != 0.5]
    if len(at) < 5:
        continue
    cells = []
    for name in ("people", "principles", "the base, overheard"):
        hits = [0.5 if labels[name][i].verdict.p == 0.5 else float(labels[name][i].verdict.p == truth[i]) for i in at]
        ties = np.mean([labels[name][i].verdict.p == 0.5 for i in at])
        cells.append(f"{np.mean(hits):.0%} <span style='color:{cards.FAINT}'>({ties:.0%} ties)</span>")
    rows.append((escape(own), str(len(at)), *cells))
HTML(cards.table(("family", "pairs", "people", "principles", "the base, overheard"), rows, "Right, by family"))

# %% [markdown]
# ## 7 · Break it
#
# Be the judge. Write one that looks at the words alone, have it label all pairs, and train on its labels. Can you beat
# the principles? Can you make a policy worse than SFT with a judge that sounds reasonable?


# %% tags=["exercise"]
def my_judge(prompt, a, b):
    """The probability that a is the better one, from the words."""
    return 0.5 if len(a) == len(b) else float(len(a) < len(b))  # ✎ the shorter one


# %%
class Mine:
    """A judge out of a function."""

    name = "mine"

    def ask(self, comparisons):
        return [Opinion(my_judge(prompt_text(c.prompt), str(c.a), str(c.b))) for c in comparisons]


mine = judge(Mine(), pairs)
run = bench.new("dpo", config, preferences(mine), {"policy": sft}, title="labels by mine")
bench.play(run).wait()
values = worth(run)
g, w = figure(values), win_rate(values, scores["SFT"])
print(f"agrees with the truth on {right(mine).mean:.0%}; true score {g.mean:+.2f} [{g.low:+.2f}, {g.high:+.2f}]; "
      f"wins against SFT {w.mean:.0%} [{w.low:.0%}, {w.high:.0%}]")  # fmt: skip

# %% [markdown]
# ## Go on
#
# * `lab judge --judge base --judge reward:my-reward --pairs votes.jsonl` sets judges side by side on people's votes.
# * `lab judge --judge endpoint:model@http://localhost:8000/v1 --out ai.jsonl` labels with any OpenAI-compatible server,
#   and counts tokens.
# * `lab online --judge asked --ask annotator:crowd` asks while the policy learns, about what it says now.
#
# **Reading.** Lee et al. 2023, *RLAIF vs. RLHF: scaling reinforcement learning from human feedback with AI feedback*
# (arXiv:2309.00267) · Bai et al. 2022, *Constitutional AI* (2212.08073) · Zheng et al. 2023, *Judging LLM-as-a-judge
# with MT-Bench and Chatbot Arena* (2306.05685) · Wang et al. 2023, *Large language models are not fair evaluators*
# (2305.17926) · Sharma et al. 2024, *A critical evaluation of AI feedback for aligning large language models*
# (2402.12366).

# %%
bench.close()
