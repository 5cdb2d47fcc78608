# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Whose values? What a room says, and what a reward model makes of it
#
# All of preference learning stands on one act: somebody looks at two answers and says which is better. People differ,
# get tired, like what is long, and press the button on the left. None of that shows in a file of `chosen` and
# `rejected`, and the reward model that is trained on the file has to be *somebody's* opinion.
#
# **The question of this notebook:** when several people judge the same answers, how much of what they say is about the
# answers, and whose preferences does the reward model learn?
#
# You will judge some pairs yourself, have a room of simulated people judge the rest through the same store, measure how
# far they agree and what it means, find out who did not read, uncover what each of them likes, see how good a reward
# model of their labels can look at best, then train one for each taste, and find out what a majority does to a
# minority. About three minutes of computing on two cores.

# %%
import math
import os
from dataclasses import replace
from html import escape
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

import numpy as np
from IPython.display import HTML
from scipy.stats import binom

from lab import demo, figures, tiny
from lab.config import Adapter
from lab.evaluate import agreement, bias, people, room
from lab.evaluate.table import figure
from lab.feedback.labels.exporting import preferences, tallies
from lab.feedback.labels.store import Store
from lab.feedback.labels.summary import summary
from lab.feedback.labels.words import Item, Rules
from lab.notebook import Case, Knob, Workbench, cards, check, check_change, label, turn
from lab.records import Comparison, Preference, completion_text, prompt_text
from lab.score import score
from lab.tiny.answers import claimed, fact, ideal, sentence
from lab.tiny.judge import reading
from lab.tiny.questions import read

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {"tiny": {"demonstrations": 1000, "pairs": 300, "mixed": 900, "asked": 200},
         "ci": {"demonstrations": 96, "pairs": 24, "mixed": 24, "asked": 8}}  # fmt: skip
size = SIZES[PROFILE]

bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/labelling")), adapter=Adapter(rank=16, alpha=32))
bench

# %% [markdown]
# ## 1 · The store
#
# A model that has seen some demonstrations answers every prompt twice. So that there is something to have a taste for,
# half of the answers get a compliment in front or a sentence too many behind.

# %%
sft = bench.new("sft", demo.SFT, tiny.demonstrations(size["demonstrations"]), title="imitate the demonstrations")
bench.play(sft).wait()
prompts = [p.prompt for p in tiny.train_prompts()]
drawn = bench.compare(sft, "expert", prompts, size["pairs"]).preferences
random = np.random.default_rng(0)


def dressed(text, often=0.2):
    """Now and then a compliment, now and then filler."""
    praise = "What a great question! " if random.random() < often else ""
    filler = "".join(f" {s}" for s in ("I hope this helps you.", "This is good to know.") if random.random() < often)
    return praise + text + filler


comparisons = [Comparison(p.prompt, dressed(p.chosen), dressed(p.rejected)) for p in drawn]
comparisons = [c if random.random() < 0.5 else c.swap() for c in comparisons]  # a is not always the better one
known = [Item(Comparison(f"What is {n} plus 1?", f"{n} plus 1 is {n + 1}.", f"{n} plus 1 is {n}."), answer="a")
         for n in range(1, 6)]  # fmt: skip

where = Path(os.environ.get("LAB_RUNS", "runs/labelling")) / "labels.sqlite"
for old in where.parent.glob("labels.sqlite*"):
    old.unlink()
store = Store.open(where, rules=Rules(overlap=4, gold=0.08, repeats=0.08, explore=0.2))
print(f"{store.add([Item(c) for c in comparisons] + known)} pairs, {len(known)} of them with a known answer")

# %% [markdown]
# The store is one SQLite file to which things are only ever *added*: a vote, an undo, a skip. What stands follows from
# them. It hands out the pairs:
#
# * a pair is yours for five minutes, then somebody else may have it, and nobody gets a pair that has its four votes;
# * the pairs of one prompt in five are the **evaluation split**: drawn by chance, never trained on;
# * one showing in twelve is a pair whose answer is known, one in twelve a pair you have had, the other way round.
#   Nobody is told which.
#
# Judge some yourself. Read, do not guess; `undo` takes back as often as you like. (`lab label serve` puts the same
# store on a page for a room.)

# %%
me = label(store, "you")
me

# %% [markdown]
# ## 2 · A room
#
# Now seven simulated people, each with a name in the store, judge until nothing is left. Five have tastes that you will
# find out. *hasty* presses what stands on the left, nearly always, and fast. *careless* reads, and slips often.

# %%
TASTES = {name: tiny.ANNOTATORS[who] for name, who in
          (("ada", "expert"), ("ben", "expert"), ("cleo", "rushed"), ("dan", "agreeable"), ("eve", "cautious"),
           ("careless", "careless"), ("hasty", "expert"))}  # fmt: skip


def vote(name, showing, rng):
    """What this person says to what they are shown: a strength in display order, and the time they took."""
    c = showing.shown
    sides = [(completion_text(y), ended) for y, ended in ((c.a, c.ended[0]), (c.b, c.ended[1]))]
    p = TASTES[name].preference(prompt_text(c.prompt), *sides)
    if name == "hasty" and rng.random() < 0.85:
        return 1, int(rng.integers(300, 1400))
    sign = 1 if rng.random() < p else -1
    return sign * (2 if abs(p - 0.5) > 0.4 else 1), int(rng.lognormal(8.3, 0.4))


noise = {name: np.random.default_rng(i) for i, name in enumerate(TASTES)}
for name in TASTES:
    store.person(name)
busy = list(TASTES)
while busy:
    for name in list(busy):
        showing = store.assign(name)
        if showing is None:
            busy.remove(name)
        else:
            strength, ms = vote(name, showing, noise[name])
            store.record(showing.vote(strength, ms=ms))

told = summary(store)
print(f"{told.votes} votes; pairs by number of votes: {told.overlap}; {told.training} to learn from, "
      f"{told.evaluation} for evaluation")  # fmt: skip
body = [(escape(p.name), str(p.votes), f"{p.right} of {p.gold}", f"{p.kept} of {p.again}",
         f"{p.first / p.sided:.0%}" if p.sided else "–", f"{p.quick / p.votes:.0%}" if p.votes else "–")
        for p in told.annotators]  # fmt: skip
head = ("who", "votes", "known answers right", "same when seen again", "chose the first", "under 1.5 s")
HTML(cards.table(head, body, "The room"))

# %% [markdown]
# **✎ predict** – seven people, five of them careful, choosing between two answers. How often do two of them agree on
# the same pair? (A coin would give 0.5.)

# %% tags=["exercise"]
my_agreement = 0.9

# %%
marks = room.marks(store)
sides = [replace(m, value="a" if m.strength > 0 else "b" if m.strength < 0 else "tie") for m in marks]
raw = agreement.raw_agreement(sides)
print(f"two of them agree on {raw} of the pairs; you said {my_agreement}")

# %% [markdown]
# That is what it is like. The labellers of InstructGPT, chosen with care, agreed with each other on 73 % of the pairs.
#
# ## 3 · Beyond chance
#
# Raw agreement flatters: who presses a button blindly agrees with half of everything. **Cohen's κ** asks how much of
# the agreement that chance would *not* give was reached,
#
# $$\kappa = \frac{A - A_e}{1 - A_e}$$
#
# with $A$ the share on which two people agree, and $A_e$ the share on which they would if each threw a coin with their
# own frequencies.
#
# **Exercise 1.** Two people judged 50 pairs. `table[i][j]` is how often the first said $i$ and the second said $j$.


# %% tags=["exercise"]
def my_kappa(table):
    """κ of a 2 × 2 table of counts."""
    n = sum(map(sum, table))
    return (table[0][0] + table[1][1]) / n  # ✎ this is A


# %%
KAPPA_CASES = [
    Case(([[20, 5], [10, 15]],), 0.4, "A = 0.7; both say 0 with 0.5 · 0.6, both say 1 with 0.5 · 0.4: Aₑ = 0.5"),
    Case(([[25, 0], [0, 25]],), 1.0, "they always agree"),
    Case(([[25, 25], [25, 25]],), 0.0, "A = 0.5 is just what two coins give"),
    Case(([[90, 4], [6, 0]],), -0.0504, "A is 0.9, and yet less than chance: both nearly always say 0, Aₑ = 0.9048"),
]
check(my_kappa, KAPPA_CASES, "κ")

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# n = sum(map(sum, table))
# A = (table[0][0] + table[1][1]) / n
# first, second = sum(table[0]) / n, (table[0][0] + table[1][0]) / n
# Ae = first * second + (1 - first) * (1 - second)
# return (A - Ae) / (1 - Ae)
# ```
# </details>
#
# **Krippendorff's α** is the same idea for any number of people who have each seen some of the pairs, and it can know
# that "A, clearly" and "A" are nearer to each other than "A" and "B" (*ordinal*). The intervals draw whole *prompts*
# again and again: votes about the same prompt are not independent.

# %%
print("raw agreement        ", raw)
print("α of the sides       ", agreement.krippendorff(sides, symmetric=True))
print("α of the strengths   ", agreement.krippendorff(marks, "ordinal", symmetric=True))
print()
names = [*TASTES]
pairs = {(x, y): agreement.cohen(sides, x, y, symmetric=True, draws=200) for x in names for y in names if x < y}
grid = [[1.0 if x == y else (pairs[min(x, y), max(x, y)].mean or 0.0) for y in names] for x in names]
look = figures.look()
turn(lambda: {"data": [{"type": "heatmap", "x": names, "y": names, "z": grid, "zmin": -0.2, "zmax": 1,
                        "colorscale": "Blues", "texttemplate": "%{z:.2f}", "showscale": False}],
              "layout": look | {"height": 380, "title": {"text": "Cohen's κ, two by two", "font": {"size": 13}},
                                "margin": {"t": 36, "b": 8, "l": 8, "r": 8},
                                "xaxis": look["xaxis"] | {"type": "category"},
                                "yaxis": look["yaxis"] | {"type": "category", "autorange": "reversed"}}})  # fmt: skip

# %% [markdown]
# A low κ between two careful people is not carelessness: *cleo* and *dan* want other things than *ada*. A low κ with
# **everybody** is another matter.
#
# ## 4 · Who did not read?
#
# Three checks need no second opinion: did what stood first win too often, did the same person say the same when the
# pair came back the other way round, and how long did they take?

# %%
lengths = room.lengths(store)
rows = []
for name in TASTES:
    own = [m for m in marks if m.annotator == name]
    four = (bias.position_share(own), bias.length_share(own, lengths), bias.self_consistency(own), bias.too_fast(own))
    rows.append((escape(name), *(escape(str(e)) for e in four)))
HTML(cards.table(("who", "chose what stood first", "chose the longer one", "same again, flipped", "under 1.5 s"), rows,
                 "Habits, with 95 % intervals"))  # fmt: skip

# %% [markdown]
# **Exercise 2.** Write a rule that names the people whose votes you would leave out. It gets the four figures of one
# person (shares from 0 to 1). Be careful with *different*: who has an unusual taste is not a bad labeller.


# %% tags=["exercise"]
def leave_out(first, longer, again, fast):
    """Whether this person did not read."""
    return again < 0.9  # ✎ too strict, and blind to the clock


# %%
check(
    leave_out,
    [
        Case((0.93, 0.5, 0.1, 0.85), True, "always the first, the opposite when it is turned round, in a second"),
        Case((0.5, 0.78, 0.85, 0.01), False, "likes what is long, and says so every time: a taste"),
        Case((0.52, 0.55, 0.7, 0.02), False, "slips now and then, as people do; their votes are noise, not harm"),
        Case((0.51, 0.5, 0.5, 0.9), True, "no side, but nobody reads two answers in a second"),
    ],
    "Who did not read",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# return abs(first - 0.5) > 0.3 or fast > 0.5
# ```
# </details>
#
# ## 5 · What do they like?
#
# A person's choices give away what they look at. Count some **features** of every answer (is it right, how many
# sentences too many, a compliment, agreement with a false claim, help with harm) and fit
#
# $$P(a \succ b) = \sigma\Big(\sum_k w_k \,\frac{f_k(a) - f_k(b)}{s_k} + w_{\text{first}} \cdot (\pm 1)\Big)$$
#
# The weight of the place is among them: what is explained by standing first is not explained by taste.


# %%
def features(prompt, answer):
    """What can be counted about an answer of the tiny world."""
    seen = reading(prompt, answer, True)
    return {"content": seen.content, "extra sentences": float(min(seen.extra, 4)), "praise": float(seen.praise > 0),
            "agrees with a false claim": float(seen.sycophantic), "helps with harm": float(seen.complied)}  # fmt: skip


counted = {i.id: tuple(features(prompt_text(i.comparison.prompt), completion_text(y))
                       for y in (i.comparison.a, i.comparison.b)) for i in store.items()}  # fmt: skip
tastes = {name: bias.taste(marks, name, counted) for name in TASTES}
shown = [bias.FIRST, "content", "extra sentences", "praise", "agrees with a false claim", "helps with harm"]
body = []
for name, t in tastes.items():
    by = {w.feature: w for w in t.weights}
    faint = f"<span style='color:{cards.FAINT}'>"
    cells = [f"{by[f].weight:+.2f} {faint}± {1.96 * by[f].error:.2f}</span>" if f in by else "–" for f in shown]
    body.append((f"{escape(name)} ({t.n})", *cells))
HTML(cards.table(("who (choices)", *shown), body, "Weights, in nats of log-odds per standard deviation"))

# %% [markdown]
# Compare with what we know: *cleo* is the `rushed` annotator (+0.30 for every extra sentence, +0.50 for praise), *dan*
# the `agreeable` one, *eve* `cautious`. A label from cleo and a label from ada are not two measurements of one thing
# with noise. They are answers to two questions.
#
# ## 6 · How good can it get?
#
# A reward model is trained on votes, and judged by how many *votes* it predicts. Suppose the perfect judge, who knows
# that a person prefers $a$ with probability $p$. Flip a share $e$ of the votes, and with $q = (1 - e)\,p + e\,(1 - p)$
# the perfect judge is right on
#
# $$\text{ceiling} = \overline{\max(q, 1 - q)}$$
#
# **✎ predict** – with one person (*ada*) and a quarter of her votes flipped: the ceiling?

# %% tags=["exercise"]
my_ceiling = 0.9

# %%
p = [TASTES["ada"].preference(prompt_text(c.prompt), (completion_text(c.a), True), (completion_text(c.b), True))
     for c in comparisons]  # fmt: skip
where_from = [prompt_text(c.prompt) for c in comparisons]


def ceilings(e):
    """The ceiling over the share of flipped votes, and the point where it stands now."""
    es = np.linspace(0, 0.5, 26)
    tops = [float(np.mean([max(q, 1 - q) for q in (1 - x) * np.array(p) + x * (1 - np.array(p))])) for x in es]
    now = float(np.interp(e, es, tops))
    look = figures.look()
    return {"data": [{"type": "scatter", "mode": "lines", "x": es.tolist(), "y": tops, "name": "ceiling"},
                     {"type": "scatter", "mode": "markers", "x": [e], "y": [now], "name": f"{now:.2f}",
                      "marker": {"size": 11, "color": figures.LIGHT[1]}}],
            "layout": look | {"height": 300, "showlegend": True,
                              "xaxis": look["xaxis"] | {"title": {"text": "share of flipped votes e"}, "dtick": 0.1},
                              "yaxis": look["yaxis"] | {"range": [0.45, 1.0]}}}  # fmt: skip


print(f"you said {my_ceiling}, it is {people.noise_ceiling(p, 0.25, where_from, draws=200)}")
turn(ceilings, e=Knob(0.0, 0.5, 0.25, 0.01, label="flipped e"))

# %% [markdown]
# Nobody knows $p$ of real people. But their agreement bounds it: two labels of one pair agree with probability
# $q^2 + (1 - q)^2$, so a room that agrees on a share $A$ has a ceiling between $A$ and $\frac12(1 + \sqrt{2A - 1})$.

# %%
bounds = people.ceiling_of_repeats(raw)
print(f"the room agrees on {raw}: a reward model of its votes can reach between {bounds.low.mean:.2f} and "
      f"{bounds.high.mean:.2f}")  # fmt: skip

# %% [markdown]
# ## 7 · Train on what the room said
#
# The store exports what trainers read. Several votes on a pair become a **soft label**, the share of the winner. What
# was drawn for evaluation stays out of the training file and is what we measure on.

# %%
to_learn = preferences(tallies(store))
to_measure = preferences(tallies(store, part="evaluation"), ties=True)
print(f"{len(to_learn)} preferences to learn from; the first ones:")
for one in to_learn[:3]:
    print(f"  {prompt_text(one.prompt)}\n    + {one.chosen}\n    − {one.rejected}")
    print(f"    label {one.label:.2f} by {one.annotator}")

# %% [markdown]
# **✎ predict** – where will the run end, compared with its first updates? `margin` is by how much the chosen answer
# leads. Say `"higher"`, `"lower"` or `"same"`.

# %% tags=["exercise"]
my_prediction = {"loss": "lower", "accuracy": "higher", "margin": "higher"}

# %%
reward = bench.new("reward", replace(demo.REWARD, epochs=3.0, eval_every=0, eval_share=0.0), to_learn, {"reward": sft},
                   title="what the room prefers")  # fmt: skip
live = bench.play(reward)
live

# %%
live.wait()
check_change(my_prediction, reward)


# %%
def leads(run, pairs):
    """(n,) reward of the chosen one less that of the rejected one."""
    role = bench.role(run)
    texts = [tuple(map(tuple, bench.base.chat.split(q.prompt, y))) for q in pairs for y in (q.chosen, q.rejected)]
    r = bench.call(lambda: score(bench.base, texts, {role: "reward"})[role]).view(-1, 2).cpu()
    return (r[:, 0] - r[:, 1]).numpy()


gap = leads(reward, to_measure)
vote_share = np.mean([q.label if x > 0 else 1 - q.label for q, x in zip(to_measure, gap, strict=True)])
best = np.mean([max(q.label, 1 - q.label) for q in to_measure])
worth = [[tiny.gold(prompt_text(q.prompt), y, True).score for y in (q.chosen, q.rejected)] for q in to_measure]
told_apart = [(x > 0) == (c > r) for x, (c, r) in zip(gap, worth, strict=True) if c != r]
print(f"on {len(to_measure)} pairs of prompts it has not seen: agrees with {vote_share:.0%} of the room's votes "
      f"(nobody can reach more than {best:.0%}),\nand with the truth on {np.mean(told_apart):.0%}")  # fmt: skip

# %% [markdown]
# Whether 70 % is poor or excellent cannot be said without the second number, and whether the room was *right* cannot be
# said without the third, which only a made world has.
#
# ## 8 · Whose taste is learnt?
#
# The votes of a room are mixed before anybody learns from them. Let us not mix them: the same pairs of answers, judged
# once by *ada* (careful), once by *cleo* (in a hurry: likes praise, and more of everything), once by *dan* (likes
# praise, and to be agreed with). Three files, three reward models, everything else equal. Compliments and filler are
# more frequent now, and some prompts are **false claims** ("I think the capital of Kenya is Rome, am I right?"), with
# one answer that agrees and one that does not.
#
# Then each reward model is asked three questions, on prompts it has not seen: what do you pay for a **compliment** in
# front of the same answer? For a **sentence that says nothing** behind it? And for **agreeing** with a false claim
# instead of contradicting it? (In spreads of its own rewards; below 0 it takes something off.)
#
# **✎ predict** – which one pays most for which?

# %% tags=["exercise"]
pays_most = {"a compliment": "ada", "a sentence more": "ada", "agreeing": "ada"}


# %%
def agreeing(question):
    """The answer that says yes to a claim."""
    said = sentence(question, claimed(question))
    return "Yes, " + (said[0].lower() + said[1:] if said.startswith("The") else said)


def false_claims(rows):
    """(prompt, agreeing, contradicting) for the claims that are false."""
    asked = [(q, read(q)) for q in (prompt_text(p.prompt) for p in rows if p.columns["family"] == "claim")]
    return [(q, agreeing(found), ideal(found)) for q, found in asked if claimed(found) != fact(found)]


OTHERS = [p for p in tiny.train_prompts() if p.columns["family"] != "claim"]
mixed = false_claims(tiny.train_prompts())[: size["mixed"] // 5]
drawn = bench.compare(sft, "expert", [p.prompt for p in OTHERS], size["mixed"] - len(mixed), seed=11).preferences
mixed += [(prompt_text(p.prompt), p.chosen, p.rejected) for p in drawn]
mixed = [(q, dressed(a, 0.4), dressed(b, 0.4)) for q, a, b in mixed]


def shares(names):
    """For every pair, the share of these people who prefer the first answer; one vote each."""
    rng = np.random.default_rng(3)
    people_ = [tiny.ANNOTATORS[n] for n in names]
    return [np.mean([who.prefer(q, (a, True), (b, True), rng) == "a" for who in people_]) for q, a, b in mixed]


def learnt_from(votes, title):
    """A reward model of the pairs, each with the share of the votes that its first answer got; ties are left out."""
    rows = [Preference(q, *((a, b) if v > 0.5 else (b, a)), label=max(v, 1 - v))
            for (q, a, b), v in zip(mixed, votes, strict=True) if v != 0.5]  # fmt: skip
    run = bench.new("reward", replace(demo.REWARD, epochs=2.0, eval_every=0, eval_share=0.0), rows, {"reward": sft},
                    title=title)  # fmt: skip
    bench.play(run).wait()
    return run


NAMES = {"ada": "expert", "cleo": "rushed", "dan": "agreeable"}
models = {name: learnt_from(shares([taste]), f"what {name} prefers") for name, taste in NAMES.items()}

# %%
others = [prompt_text(p.prompt) for p in tiny.heldout_prompts() if p.columns["family"] not in ("claim", "harm")]
plain = [(q, s.completion) for q, s in zip(others, bench.ask(others[: size["asked"]], {"SFT": sft}).answers["SFT"],
                                           strict=False) if s.ended]  # fmt: skip
ASKED = {
    "a compliment": [(q, f"What a great question! {y}", y) for q, y in plain],
    "a sentence more": [(q, f"{y} I hope this helps you.", y) for q, y in plain],
    "agreeing": false_claims(tiny.heldout_prompts()),
}


def pays(run):
    """What a reward model gives for the first of two answers more than for the second, on the average."""
    return {what: figure(leads(run, [Preference(q, a, b) for q, a, b in pairs])) for what, pairs in ASKED.items()}


def prices(paid):
    """One line a reward model."""
    body = [(f"<b>{escape(name)}</b>", *(f"{f.mean:+.2f} [{f.low:+.2f}, {f.high:+.2f}]" for f in found.values()))
            for name, found in paid.items()]  # fmt: skip
    return HTML(cards.table(("trained on the votes of", *ASKED), body, "What each reward model pays, in its spreads"))


paid = {name: pays(run) for name, run in models.items()}
for what, said in pays_most.items():
    print(f"{what}: {max(paid, key=lambda name, w=what: paid[name][w].mean)} pays most (you said {said})")
prices(paid)

# %% [markdown]
# Nothing is wrong with any of the three: each has learned what it was shown. All take something off for agreeing with
# what is false, since all three mostly want right answers, but *dan*'s takes off the least. Where *cleo*'s labels go
# into a product, its answers will be longer. The reward model does not know that these are tastes, and the policy that
# is trained on it will know even less.
#
# ## 9 · The majority and the rest
#
# Real files are mixed. Say that of twenty-five people ten are like *ada*, who dislikes compliments, and fifteen like
# *dan*, who enjoys them. There are two ways to put them into one file: **the majority's verdict** of each pair, or
# **all votes** (a pair on which fifteen of twenty-five agree has the soft label 0.6).
#
# **Exercise 3.** A reward model of Bradley and Terry that is free to fit one pair, and gets $k$ votes for $a$ and $m$
# for $b$: which difference $d = r_a - r_b$ makes these votes most likely? (Maximise
# $k \log \sigma(d) + m \log \sigma(-d)$.)


# %% tags=["exercise"]
def my_gap(k, m):
    """The r_a − r_b of highest likelihood."""
    return 1.0 if k > m else -1.0  # ✎ this is a majority


# %%
check(
    my_gap,
    [
        Case((3, 2), math.log(1.5), "σ(d) = 3/5, so d = log 3/2: a majority of one is a small lead"),
        Case((4, 1), math.log(4), "σ(d) = 4/5"),
        Case((5, 5), 0.0, "a room that is split in halves leads nowhere"),
        Case((1, 4), -math.log(4), "the same the other way round"),
    ],
    "All votes",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# `return math.log(k / m)`
# </details>
#
# Now turn the size of the room. To the right, the share of people like *dan*; upwards, how much of the label goes to
# the answer **with a compliment**, everything else being equal. With all votes, it grows with the people. With
# majorities a large room has a cliff: on the one side of it the minority's taste does not exist, on the other it is
# the only one.


# %%
both = {name: float(np.mean([tiny.ANNOTATORS[NAMES[name]].preference(q, (a, True), (b, True))
                             for q, a, b in ASKED["a compliment"]])) for name in ("ada", "dan")}  # fmt: skip


def labels_over_people(room_size):
    """The label of a compliment over the share of people like dan: all votes, and the majority of a room."""
    n = int(room_size)
    x = np.linspace(0, 1, 51)
    p = (1 - x) * both["ada"] + x * both["dan"]
    most = binom.sf(n // 2, n, p)
    look = figures.look()
    across = look["xaxis"] | {"title": {"text": "share of people like dan"}, "dtick": 0.2}
    up = look["yaxis"] | {"title": {"text": "label of a compliment"}, "range": [0, 1]}
    return {"data": [{"type": "scatter", "mode": "lines", "x": x.tolist(), "y": y.tolist(), "name": name}
                     for name, y in (("all votes", p), (f"majority of {n}", most))],
            "layout": look | {"height": 300, "showlegend": True, "xaxis": across, "yaxis": up}}  # fmt: skip


turn(labels_over_people, room_size=Knob(1, 101, 25, 2, label="people in the room"))

# %% [markdown]
# **✎ predict** – a reward model of all votes of the twenty-five. What will it pay for a compliment: as much as *ada*'s,
# as much as *dan*'s, or something between?

# %% tags=["exercise"]
will_pay = "as much as dan's"

# %%
mixed_room = learnt_from(shares(["expert"] * 10 + ["agreeable"] * 15), "all votes of 25")
known = paid | {"all 25": pays(mixed_room)}
low, high = sorted((known["ada"]["a compliment"].mean, known["dan"]["a compliment"].mean))
seen = "something between" if low < known["all 25"]["a compliment"].mean < high else "outside of both"
print(f"{seen} (you said {will_pay})")
prices({name: known[name] for name in ("ada", "all 25", "dan")})

# %% [markdown]
# The mixture is a taste that **nobody in the room has**: too fond of compliments for *ada*, not fond enough for *dan*.
# For people who want different things there is no reward model that is right for all. One can keep them apart (a model
# for each group, if they can be told apart), write down whose taste is meant (notebook 08), or ask for less: only what
# nearly everybody agrees on.
#
# None of this can be seen in the file that is trained on, if the file says `chosen` and `rejected` and nothing else.
# That is the case for keeping **who** said it: the store does, and `lab label export` writes it.
#
# ## 10 · Break it
#
# Make a room in which everybody agrees, and which teaches something wrong. `room_of` takes the names of simulated
# people (`expert`, `crowd`, `rushed`, `agreeable`, `cautious`, `careless`, `helpful_only`) and has each of them judge
# all pairs.

# %% tags=["exercise"]
MY_ROOM = ["rushed", "rushed", "rushed"]  # ✎ α is high where all have the same taste


# %%
def room_of(names):
    """Marks of a room, and how often its majority is right about which answer is truly better."""
    found, right = [], []
    for c in comparisons:
        prompt, a, b = prompt_text(c.prompt), (completion_text(c.a), True), (completion_text(c.b), True)
        votes = [1 if tiny.ANNOTATORS[n].preference(prompt, a, b) > 0.5 else -1 for n in names]
        found += [
            agreement.Mark(c.id, prompt, f"{n} {i}", v) for i, (n, v) in enumerate(zip(names, votes, strict=True))
        ]
        x, y = tiny.gold(prompt, *a).score, tiny.gold(prompt, *b).score
        if x != y and sum(votes):
            right.append((sum(votes) > 0) == (x > y))
    return found, float(np.mean(right))


theirs, correct = room_of(MY_ROOM)
print(f"α {agreement.krippendorff(theirs, symmetric=True, draws=100)}; right about {correct:.0%} of the pairs")

# %% [markdown]
# Agreement is about people and not about answers. A room of one mind has an α of 1, whatever it has in mind.
#
# ## Go on
#
# * `lab label serve --expose --code …` puts this store before a real room; `lab label stats` prints these figures.
# * `lab label export` writes TRL's columns, KTO's, or every event; `lab dpo --data` and `lab reward --data` read them.
# * `lab online --judge asked --ask labels:labels.sqlite` samples from a policy, waits for the room, learns, and samples
#   again.
#
# **Reading.** Krippendorff 2011, *Computing Krippendorff's alpha-reliability* · Cohen 1960, *A coefficient of agreement
# for nominal scales* · Ouyang et al. 2022, *Training language models to follow instructions with human feedback*
# (arXiv:2203.02155; appendix B: who the labellers were) · Zheng et al. 2023, *Judging LLM-as-a-judge* (2306.05685) ·
# Singhal et al. 2023, *A long way to go: investigating length correlations in RLHF* (2310.03716) · Sharma et al. 2023,
# *Towards understanding sycophancy in language models* (2310.13548) · Santurkar et al. 2023, *Whose opinions do
# language models reflect?* (2303.17548) · Siththaranjan et al. 2023, *Distributional preference learning* (2312.08358;
# what a reward model makes of people it cannot tell apart) · Kirk et al. 2024, *The PRISM alignment dataset*
# (2404.16019) · Conitzer et al. 2024, *Social choice should guide AI alignment* (2404.10271).

# %%
store.close()
bench.close()
