# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evaluation: did it get better, or did it only look so?
#
# A new policy has been trained. Its reward is higher, the answers look nice, and a judge prefers eleven of twenty. Is
# it better? Most claims of progress fail here, quietly: too few prompts, a judge with a habit, a reward model that is
# asked to mark its own pupil.
#
# **The question of this notebook:** how does one find out that a model got better, and how sure can one be?
#
# You will compare policies on the same prompts with the same noise, write the interval that belongs to it, catch
# judges that look at the place and at the length, see how far a reward model's probabilities can be believed, watch
# the reward and the truth part, set up a league table, and fool yourself by looking too often. About three minutes of
# computing on two cores.

# %%
import os
from dataclasses import replace
from html import escape
from math import sqrt
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

import numpy as np
from IPython.display import HTML
from plotly.subplots import make_subplots

from lab import demo, figures, tiny
from lab.config import Adapter, PreferenceConfig
from lab.evaluate.arena import Result, bradley_terry, votes_needed
from lab.evaluate.table import figure, win_rate
from lab.feedback.judges.role import RoleJudge
from lab.feedback.judging import judge
from lab.notebook import Case, Knob, Workbench, cards, check, check_change, frontier, turn
from lab.records import Comparison, prompt_text
from lab.sample import sample
from lab.score import score
from lab.tiny.judges import AnnotatorJudge, GoldJudge, ReactionJudge, wording

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {"tiny": {"demonstrations": 1000, "pairs": 1500, "steps": 40, "heldout": 400, "rounds": 2000},
         "ci": {"demonstrations": 64, "pairs": 16, "steps": 2, "heldout": 12, "rounds": 20}}  # fmt: skip
size = SIZES[PROFILE]

bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/evaluation")), adapter=Adapter(rank=16, alpha=32))
bench

# %% [markdown]
# ## 1 · Who stands for election
#
# Four policies from one family. **SFT** imitates demonstrations. **DPO** has learned from pairs of its answers, judged
# by the *crowd*. **PPO** has earned the reward of a model of the same judgements, with nothing that holds it back
# ($\beta = 0$). And **padded** is no training at all: it says what SFT says, and one sentence more.

# %%
sft = bench.new("sft", replace(demo.SFT, probe_every=0), tiny.demonstrations(size["demonstrations"]), title="imitate")
bench.play(sft).wait()
prompts = [p.prompt for p in tiny.train_prompts()]
judged = bench.compare(sft, "crowd", prompts, size["pairs"]).preferences
settings = PreferenceConfig(beta=0.5, lr=1e-3, batch=32, eval_share=0.0, eval_every=0, probe_every=0, save_every=0)
dpo = bench.new("dpo", settings, judged, {"policy": sft}, title="from the crowd's pairs")
bench.play(dpo).wait()
reward = bench.new("reward", replace(demo.REWARD, eval_every=0), judged, {"reward": sft}, title="what the crowd likes")
bench.play(reward).wait()

# %% [markdown]
# **✎ predict** – PPO with $\beta = 0$. Where will it end, compared with its first steps? `reward` is what the reward
# model says, `gold` what is true. Say `"higher"`, `"lower"` or `"same"`.

# %% tags=["exercise"]
my_prediction = {"reward": "higher", "gold": "higher", "kl": "higher"}

# %%
config = replace(demo.PPO, steps=size["steps"], kl=0.0, save_every=max(2, size["steps"] // 4))
ppo = bench.new("ppo", config, tiny.train_prompts(), {"policy": sft, "reward": reward}, title="reward, and no leash")
live = bench.play(ppo)
live  # click on a curve to read the answers of that step

# %%
live.wait()
check_change(my_prediction, ppo)

# %% [markdown]
# Keep that in mind. Outside of a toy world there is no curve called `gold`; all that follows is what one does instead.
#
# ## 2 · The same prompts, the same noise
#
# All policies answer prompts that **no stage has seen**. Each prompt is given to all of them, and they draw with the
# **same noise**: where two policies would say the same, they do say the same. Then the difference on a prompt is
# caused by the policies and not by luck. For comparison, SFT answers everything once more with other noise.

# %%
held = [p.prompt for p in tiny.heldout_prompts(size["heldout"])]
texts = [prompt_text(p) for p in held]


def answers(run, seed=1):
    """(completion, ended) of a policy for every held-out prompt."""
    role = bench.role(run)
    said = bench.call(lambda: [r for at in range(0, len(held), 200) for r in sample(
        bench.base, held[at : at + 200], (role,), max_new_tokens=tiny.MAX_NEW_TOKENS, seed=(seed, at))])  # fmt: skip
    return [(r.completion, r.ended) for r in said]


def worth(said):
    """The true score of every answer."""
    return np.array([tiny.gold(x, *y).score for x, y in zip(texts, said, strict=True)])


said = {"SFT": answers(sft), "DPO": answers(dpo), "PPO": answers(ppo)}
said["padded"] = [(f"{y} I hope this helps you.", ended) for y, ended in said["SFT"]]
other = answers(sft, seed=2)
gold = {name: worth(y) for name, y in said.items()}
again = worth(other)
same = np.mean([a == b for a, b in zip(said["SFT"], said["DPO"], strict=True)])
print(f"On {same:.0%} of the {len(held)} prompts DPO says, word by word, what SFT says.")

# %% [markdown]
# **Exercise 1.** The 95 % interval of a difference is $\bar d \pm 1.96\,s$, with $s$ its standard error. Two separate
# samples have $s^2 = s_x^2 / n + s_y^2 / n$. But here every prompt has both scores, and hard prompts are hard for
# both. Write the standard error of the **paired** difference, from the differences $d_i = x_i - y_i$ themselves:
# $s^2 = \frac{1}{n} \cdot \frac{1}{n - 1}\sum_i (d_i - \bar d)^2$. The cell starts with the unpaired one.


# %% tags=["exercise"]
def my_error(x, y):
    """Standard error of mean(x) − mean(y), both on the same prompts."""
    x, y = np.array(x), np.array(y)
    return sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))  # ✎ as if the prompts were different


# %%
PAIRED = [
    Case(([1.0, 2, 3, 4], [0.0, 1, 2, 3]), 0.0, "every difference is 1: there is nothing to be unsure of"),
    Case(([1.0, 0], [0.0, 0]), 0.5, "differences 1 and 0: variance ½, and √(½ / 2) = ½"),
    Case(([2.0, 0, 2, 0], [0.0, 0, 0, 0]), sqrt(1 / 3), "differences 2, 0, 2, 0: variance 4/3, and √(4/3 / 4)"),
    Case(([1.0, -1], [-1.0, 1]), 2.0, "opposite scores: pairing makes it wider than √2, and rightly so"),
]
check(my_error, PAIRED, "The paired error")

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# d = np.array(x) - np.array(y)
# return sqrt(d.var(ddof=1) / len(d))
# ```
# </details>
#
# **✎ predict** – DPO against SFT, three ways: as two separate samples; paired by prompt, but with other noise; paired,
# with the same noise. How wide is the last interval, as a share of the first?

# %% tags=["exercise"]
my_share = 0.95

# %%


def apart(x, y):
    """The interval of two separate samples."""
    s = 1.96 * sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))
    return x.mean() - y.mean(), x.mean() - y.mean() - s, x.mean() - y.mean() + s


def shown(low_high):
    mean, low, high = low_high
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", f"{high - low:.3f}"


def paired(x, y):
    """The interval of the differences."""
    f = figure(x - y)
    return f.mean, f.low, f.high


ways = {"two separate samples": apart(gold["DPO"], again), "paired by prompt, other noise": paired(gold["DPO"], again),
        "paired by prompt, same noise": paired(gold["DPO"], gold["SFT"]),
        "SFT against itself, other noise": paired(gold["SFT"], again),
        "SFT against itself, same noise": paired(gold["SFT"], gold["SFT"])}  # fmt: skip
widths = [high - low for _, low, high in ways.values()]
print(f"you said {my_share:.0%}, it is {widths[2] / widths[0]:.0%}")
HTML(cards.table(("how", "DPO less SFT, true score", "width"), [(escape(k), *shown(v)) for k, v in ways.items()],
                 f"{len(held)} prompts, 95 % intervals"))  # fmt: skip

# %% [markdown]
# To halve an interval takes four times the prompts; the same noise costs nothing. Look at the second line, too: pairing
# by prompt *alone* helps little here, since what an answer of these policies is worth depends more on the luck of the
# draw than on the prompt. Where prompts differ more, it helps more.
#
# The last two lines are the check that every comparison should begin with: **a model against itself**. With other
# noise it shows how far two draws of the same thing lie apart by luck; with the same noise it is exactly 0.
#
# ## 3 · How many prompts?
#
# Turn the knobs. The half-width of an interval is $1.96\,\sigma / \sqrt n$, with the spread $\sigma$ of the differences
# of *these* policies. The dotted line is the difference you would like to see. (To see it four times of five one
# needs twice the prompts that make the lines cross, for $(1.96 + 0.84)^2 \approx 2 \cdot 1.96^2$.)
#
# **✎ predict** – how many prompts until a difference of 0.05 in the true score shows, with the same noise?

# %% tags=["exercise"]
my_prompts = 100

# %%
SPREADS = {"two samples": sqrt(gold["DPO"].var(ddof=1) + again.var(ddof=1)),
           "paired, other noise": float((gold["DPO"] - again).std(ddof=1)),
           "paired, same noise": float((gold["DPO"] - gold["SFT"]).std(ddof=1))}  # fmt: skip


def needed(spread, gap):
    """Prompts whose interval is just as wide as the difference."""
    return int(np.ceil((1.96 * spread / gap) ** 2))


def widths_over_n(gap):
    """Half-widths over the number of prompts."""
    n = np.geomspace(10, 10000, 60)
    data = [{"type": "scatter", "mode": "lines", "x": n.tolist(), "y": (1.96 * s / np.sqrt(n)).tolist(),
             "name": f"{name}: {needed(s, gap)} prompts"} for name, s in SPREADS.items()]  # fmt: skip
    data.append({"type": "scatter", "mode": "lines", "x": [10, 10000], "y": [gap, gap], "name": "the difference",
                 "line": {"dash": "dot", "color": "#888"}})  # fmt: skip
    look = figures.look()
    return {"data": data, "layout": look | {
        "height": 320, "showlegend": True, "hovermode": "closest",
        "xaxis": look["xaxis"] | {"type": "log", "title": {"text": "prompts"}, "nticks": None, "dtick": 1},
        "yaxis": look["yaxis"] | {"title": {"text": "half-width"}, "range": [0, 0.6]}}}  # fmt: skip


print(f"you said {my_prompts}, it takes {needed(SPREADS['paired, same noise'], 0.05)}")
turn(widths_over_n, gap=Knob(0.01, 0.3, 0.05, 0.01, label="the difference"))

# %% [markdown]
# The *number of answers* is not the number of prompts: ten answers to each of forty prompts are not four hundred
# prompts. `figure(values, groups)` in `lab.evaluate.table` clusters by prompt.
#
# ## 4 · A judge instead of the truth
#
# Nobody has a true score. What one has is a judge that reads two answers and names one. Its **win rate**, ties counted
# half, is what most tables show. Judges have habits, and each habit has a test.
#
# * **the place**: ask in both orders. A judge that wants the first answer wins either way, whoever is first.
# * **the length**: let *padded* run. It is SFT with a sentence that says nothing.
#
# Six judges: the truth; an *expert* and a *rushed* person, one vote each; one who takes what stands first in six votes
# of ten and listens to the expert otherwise; the base, asked "1 or 2?"; and the base, overheard (notebook 12).

# %%


class Leaning:
    """A judge that takes what stands first, with this probability, and else asks somebody."""

    def __init__(self, who, leans, seed=0):
        self.who, self.leans, self.name, self.coin = who, leans, "leaning", np.random.default_rng(seed)

    def ask(self, comparisons):
        return [replace(o, p=1.0) if self.coin.random() < self.leans else o for o in self.who.ask(comparisons)]


expert = AnnotatorJudge(tiny.ANNOTATORS["expert"], seed=1)
JUDGES = {"the truth": GoldJudge(), "expert": expert, "rushed": AnnotatorJudge(tiny.ANNOTATORS["rushed"], seed=1),
          "leaning to the first": Leaning(expert, 0.6), "the base, asked": RoleJudge(bench.base, "base", wording()),
          "the base, overheard": ReactionJudge(bench.base)}  # fmt: skip


def meet(one, two):
    """Both answers to every prompt on which they differ, and which prompts those are."""
    pairs = [Comparison(p, a, b, (x, y))
             for p, (a, x), (b, y) in zip(held, said[one], said[two], strict=True)]  # fmt: skip
    apart = [i for i, c in enumerate(pairs) if c.a != c.b]
    return [pairs[i] for i in apart], apart


def rates(found, apart):
    """Win rates of the first policy, equal answers being ties: it stood first, it stood second, both orders."""
    out = []
    for read in (lambda j: j.ab.p, lambda j: 1 - j.ba.p, lambda j: j.verdict.p):
        wins = np.full(len(held), 0.5)
        wins[apart] = [(np.sign(read(j) - 0.5) + 1) / 2 for j in found]
        out.append(figure(wins))
    return out


# %% [markdown]
# **Exercise 2.** A win rate from both orders. Each row is one prompt: what the judge said when mine stood first
# (`"first"`, `"second"` or `"tie"`), and when it stood second. A prompt counts 1 where both orders name mine, 0 where
# both name the other, and ½ for everything else. The cell starts with one order only.


# %% tags=["exercise"]
def my_win_rate(rows):
    """The share of mine, from (said when mine stood first, said when mine stood second)."""
    return sum(one == "first" for one, _ in rows) / len(rows)  # ✎


# %%
check(
    my_win_rate,
    [
        Case(([("first", "second"), ("second", "first")],), 0.5, "one clear win and one clear defeat"),
        Case(([("first", "first"), ("first", "first")],), 0.5, "it always takes the first: it knows nothing"),
        Case(([("first", "second"), ("first", "first")],), 0.75, "a win, and one that depends on the order: 1 and ½"),
        Case(([("tie", "second"), ("tie", "tie")],), 0.5, "a tie in either order is a tie here"),
    ],
    "Both orders",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# mine = sum(row == ("first", "second") for row in rows)
# theirs = sum(row == ("second", "first") for row in rows)
# return (mine + (len(rows) - mine - theirs) / 2) / len(rows)
# ```
# </details>
#
# **✎ predict** – which judge will call *padded* better than SFT? And which gives DPO a win rate on SFT that changes by
# more than ten points with the order?

# %% tags=["exercise"]
likes_padding, looks_at_the_place = "the base, asked", "rushed"

# %%


def percent(f):
    return f"{f.mean:.0%} [{f.low:.0%}, {f.high:.0%}]"


rows, order_matters, padding = [], {}, {}
for name, who in JUDGES.items():
    cells = []
    for one, two in (("DPO", "SFT"), ("padded", "SFT")):
        pairs, apart = meet(one, two)
        found = bench.call(lambda who=who, pairs=pairs: judge(who, pairs))
        cells.append(rates(found, apart))
    order_matters[name] = abs(cells[0][0].mean - cells[0][1].mean)
    padding[name] = cells[1][2]
    rows.append((f"<b>{escape(name)}</b>", *(percent(f) for f in cells[0]), percent(cells[1][2])))
fond = [name for name, f in padding.items() if f.low > 0.5] or ["nobody"]
moved = [name for name, change in order_matters.items() if change > 0.1] or ["nobody"]
print(f"called padded better: {', '.join(fond)} (you said {likes_padding})")
print(f"changed with the order by more than ten points: {', '.join(moved)} (you said {looks_at_the_place})")
head = ("judge", "DPO on SFT: DPO first", "SFT first", "both orders", "padded on SFT, both orders")
HTML(cards.table(head, rows, "Win rates, ties counted half"))

# %% [markdown]
# Read a line from the left to the right. A judge that leans shows two numbers that are far apart, and their mean is
# pulled towards ½: both orders remove the *bias*, not the *ignorance*. (The base that is asked shows two numbers close
# to ½ and knows nothing: on one prompt it always takes the first, on another always the second.)
#
# The last column cannot be mended by asking twice. A taste for length is not a mistake of reading, it is what that
# judge wants, or what it has learned to expect of good answers. So a win rate is always a win rate **by somebody**,
# and the lengths of the answers belong beside it.
#
# ## 5 · Can the reward model be believed?
#
# A reward model says $\sigma(r_a - r_b)$: "with this probability, people will prefer a". That can be checked on pairs
# it has not seen. Put them into bins by what it said, and count what people chose. On the diagonal the model is
# **calibrated**. (The reward is stored in standard deviations; the probability needs its raw scale.)
#
# **✎ predict** – is it too sure of itself, not sure enough, or about right?

# %% tags=["exercise"]
my_calibration = "too sure"

# %%
held_pairs = bench.compare(sft, "crowd", held, size["heldout"] * 3, seed=5).preferences
role = bench.role(reward)
sides = [tuple(map(tuple, bench.base.chat.split(p.prompt, y))) for p in held_pairs for y in (p.chosen, p.rejected)]
r = bench.call(lambda: score(bench.base, sides, {role: "reward"})[role]).view(-1, 2).cpu().numpy()
raw = (r[:, 0] - r[:, 1]) * bench.base.roles[role].spread
sure = 1 / (1 + np.exp(-np.abs(raw)))  # what it says of the answer it prefers
right = (raw > 0).astype(float)  # whether the person chose that one
of = [p.prompt for p in held_pairs]


def reliability(temperature):
    """What it said against what people chose, in eight bins, with the probabilities of r / temperature."""
    p = 1 / (1 + np.exp(-np.abs(raw) / temperature))
    bins = np.minimum((16 * (p - 0.5)).astype(int), 7)
    data = [{"type": "scatter", "mode": "lines", "x": [0.5, 1], "y": [0.5, 1], "name": "calibrated",
             "line": {"dash": "dot", "color": "#888"}}]  # fmt: skip
    seen = [
        (p[bins == k].mean(), figure(right[bins == k]), (bins == k).sum()) for k in range(8) if (bins == k).sum() > 9
    ]
    ece = sum(n * abs(f.mean - x) for x, f, n in seen) / max(1, sum(n for *_, n in seen))
    data.append({"type": "scatter", "mode": "lines+markers", "x": [x for x, _, _ in seen],
                 "y": [f.mean for _, f, _ in seen], "name": f"reward model, {ece:.3f} off on the average",
                 "error_y": {"array": [f.high - f.mean for _, f, _ in seen], "thickness": 1},
                 "text": [f"{n} pairs" for *_, n in seen]})  # fmt: skip
    look = figures.look()
    return {"data": data, "layout": look | {
        "height": 340, "showlegend": True, "hovermode": "closest",
        "xaxis": look["xaxis"] | {"title": {"text": "what it says"}, "range": [0.49, 1.01]},
        "yaxis": look["yaxis"] | {"title": {"text": "what people chose"}, "range": [0.35, 1.05]}}}  # fmt: skip


def loss(temperature):
    """The mean of −log p of what people chose."""
    return float(np.log1p(np.exp(-np.where(right == 1, 1, -1) * np.abs(raw) / temperature)).mean())


scales = np.geomspace(0.25, 4, 200)
fits = scales[int(np.argmin([loss(t) for t in scales]))]
gap = figure(sure - right)
verdict = "too sure" if gap.low > 0 else "not sure enough" if gap.high < 0 else "about right"
print(f"it says {sure.mean():.1%} on the average and is right about {right.mean():.1%}: {verdict} "
      f"(you said {my_calibration}); rewards divided by {fits:.2f} fit best")  # fmt: skip
turn(reliability, temperature=Knob(0.25, 4, 1, 0.05, log=True, label="divide rewards by"))

# %% [markdown]
# One number does most of what can be done, the **temperature** by which rewards are divided: turn it until the points
# lie about the line. It changes no ranking, so the accuracy stays the same. And calibration is about pairs *like those
# it was trained on*. Where a policy goes that has learned to please it, nobody has asked anybody.
#
# ## 6 · The pupil must not mark the paper
#
# That is what PPO did above. Here are its checkpoints, each against SFT on the held-out prompts: the win rate by the
# reward model that taught it; by **another reward model**, of other pairs, judged by the *expert*; by the base,
# overheard, which has not been trained on judgements at all; and by the truth.
#
# **✎ predict** – which checkpoint would you keep, by each of the four?

# %% tags=["exercise"]
keep = {"its own reward model": 40, "another reward model": 40, "the base, overheard": 40, "the truth": 40}

# %%
fresh = bench.compare(sft, "expert", prompts, size["pairs"], seed=9).preferences
second = bench.new("reward", replace(demo.REWARD, eval_every=0), fresh, {"reward": sft}, title="a second opinion")
bench.play(second).wait()
MODELS = {"its own reward model": bench.role(reward), "another reward model": bench.role(second)}


def rewarded(replies, role):
    """What a reward model gives to the answers."""
    ids = [tuple(map(tuple, bench.base.chat.split(p, y))) for p, (y, _) in zip(held, replies, strict=True)]
    return bench.call(lambda: score(bench.base, ids, {role: "reward"})[role]).cpu().numpy()


def opinions(replies):
    """The win rate against SFT's answers by each of the four."""
    pairs = [Comparison(p, a, b, (x, y)) for p, (a, x), (b, y) in zip(held, replies, said["SFT"], strict=True)]
    out = {name: win_rate(rewarded(replies, role), rewarded(said["SFT"], role)) for name, role in MODELS.items()}
    out["the base, overheard"] = figure([o.p for o in bench.call(lambda: ReactionJudge(bench.base).ask(pairs))])
    return out | {"the truth": win_rate(worth(replies), gold["SFT"])}


by = {step: opinions(answers(f"{ppo.id}@{step}")) for step in ppo.checkpoints() if step}
drawn = make_subplots()
for name, dash in zip(keep, ("solid", "dash", "dashdot", "dot"), strict=True):
    line = [f[name] for f in by.values()]
    drawn.add_scatter(x=[0, *by], y=[0.5, *(f.mean for f in line)], name=name, mode="lines+markers",
                      line={"dash": dash},
                      error_y={"array": [0, *(f.high - f.mean for f in line)], "thickness": 1})  # fmt: skip
drawn.update_layout(figures.look() | {"height": 320, "showlegend": True, "hovermode": "closest"})
drawn.update_xaxes(title="step of PPO (0: SFT)").update_yaxes(title="win rate against SFT")
drawn.show(config=figures.CONFIG)
for name, step in keep.items():
    line = " ".join(f"{step}: {f[name].mean:.0%}" for step, f in by.items())
    print(f"{name:22} {line}   best at {max(by, key=lambda s, n=name: by[s][n].mean)} (you said {step})")

# %% [markdown]
# Look at the last checkpoint. By the truth it has lost again what the first ones had won, and is no better than SFT; by
# the model it was trained on it still looks like a success. So it does by the other two. A second reward model is a
# better examiner than the first, since it has not been optimised, but these were all made of the same base and the
# answers of the same SFT model: **what they do not see, they do not see together** (the ensembles of notebook 03). What
# helps is a judge with other eyes, people above all, and stopping early.
#
# The same run as a *frontier*, reward and truth over how far the policy has gone:

# %%
frontier(ppo).show(config=figures.CONFIG)

# %% [markdown]
# ## 7 · A league
#
# With more than two policies one wants a table. Every two meet on every eighth prompt or so, *crowd* judges each
# meeting once, the two in a drawn order, and the strengths $\theta$ of Bradley and Terry are fitted to who beat whom:
# $P(i \succ j) = \sigma(\theta_i - \theta_j)$. This is how Chatbot Arena ranks models; the ranks have intervals too.

# %%
crowd = AnnotatorJudge(tiny.ANNOTATORS["crowd"], seed=3)
coin = np.random.default_rng(0)


def league(names, meetings):
    """Results of every two of `names`, each meeting on a prompt of its own drawing."""
    found = []
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            pairs, apart = meet(one, two)
            if not pairs:
                continue
            for k in coin.choice(len(pairs), min(meetings, len(pairs)), replace=False):
                swapped = coin.random() < 0.5
                p = crowd.ask([pairs[k].swap() if swapped else pairs[k]])[0].p
                found.append(Result(one, two, 1 - p if swapped else p, texts[apart[k]]))
    return found


def standings(board, title):
    """A leaderboard beside the truth."""

    def interval(e, sign="+"):
        return f"{e.mean:{sign}.2f}" + (f" [{e.low:{sign}.2f}, {e.high:{sign}.2f}]" if e.low is not None else "")

    body = [(str(s.rank), f"<b>{escape(s.policy)}</b>", interval(s.strength), interval(s.win_rate, ""), str(s.votes),
             f"{gold[s.policy].mean():+.2f}") for s in board.standings]  # fmt: skip
    return HTML(cards.table(("rank", "policy", "strength θ, nats", "win rate", "votes", "true score"), body, title))


few = bradley_terry(league(list(said), 12))
standings(few, f"After {few.votes} votes")

# %%
many = bradley_terry(league(list(said), 150))
for one, two in (("DPO", "SFT"), ("DPO", "PPO")):
    more = votes_needed(few, one, two)
    words = "they are told apart" if more == 0 else f"about {more} more" if more else "no number can be said"
    print(f"{one} against {two} after {few.votes} votes: {words}; after {many.votes}: gap {many.gap(one, two)} nats")
standings(many, f"After {many.votes} votes")

# %% [markdown]
# A rank says how many are *surely* better, so several may share one. Compare the order with the column of true scores:
# *padded*, whose answers are worth the least of all, stands with the best. A league shows who pleases those who vote,
# and *crowd* likes a sentence more.
#
# ## 8 · Break it: look until you like it
#
# Somebody evaluates in batches of ten prompts, looks at the interval after every batch, and stops as soon as it
# leaves out 0. To see what that does, let **SFT play against itself**, with other noise: whatever is found is false.
#
# **✎ predict** – with an honest interval at the end, five in a hundred such comparisons would find a difference. How
# many do when one looks after every batch? Then change the rule in the next cell: batches of 50? At least 100 prompts
# before the first look? An interval of 99.9 %?

# %% tags=["exercise"]
my_false_alarms = 0.05
BATCH, FIRST_LOOK, Z = 10, 20, 1.96  # ✎

# %%
luck = gold["SFT"] - again


def alarms(batch, first, z, rounds=size["rounds"]):
    """Share of repeated comparisons that stop with a difference which is not there, and the same with one look."""
    rng, hits, honest = np.random.default_rng(1), 0, 0
    looks = np.arange(max(first, 2), len(luck) + 1, batch)
    for _ in range(rounds):
        d = rng.choice(luck - luck.mean(), len(luck))  # prompts drawn again, and no difference in truth
        n = np.arange(1, len(d) + 1)
        mean = np.cumsum(d) / n
        s = np.sqrt(np.maximum(np.cumsum(d**2) - n * mean**2, 1e-12) / np.maximum(n - 1, 1) / n)
        out = np.abs(mean) > z * s
        hits += bool(out[looks - 1].any())
        honest += bool(out[-1])
    return hits / rounds, honest / rounds


found, honest = alarms(BATCH, FIRST_LOOK, Z)
print(f"one look at the end: {honest:.1%}; a look after every {BATCH}: {found:.1%} (you said {my_false_alarms:.0%})")

# %% [markdown]
# What to look for: every further look is another chance to be fooled. Decide on the number of prompts **before**, or
# pay for the looks with wider intervals. The same trap has other names: many checkpoints and the best is reported;
# many seeds and one is shown; many benchmarks and one is in the title.
#
# ## Before you say that it got better
#
# 1. Prompts no stage has seen, as many as section 3 says for the difference that matters.
# 2. The same prompts and the same noise for both; the interval of the *differences*, clustered by prompt.
# 3. The model against itself first.
# 4. A judge in both orders; its agreement with people (notebook 09); the lengths beside the win rate.
# 5. Never the reward model that was optimised. People, or at least another model, or a program that checks.
# 6. Read twenty answers yourself.
#
# ## Go on
#
# * `bench.sampler({"SFT": sft, "DPO": dpo, "PPO": ppo}, "What is the capital of Norway?")` puts them side by side.
# * Make *padded* worse on purpose (three sentences). From where on does *rushed* mind?
# * `lab judge --judge base --judge reward:my-reward --pairs votes.jsonl` measures judges against people's votes.
#
# **Reading.** Miller 2024, *Adding error bars to evals* (arXiv:2411.00640) · Card et al. 2020, *With little power comes
# great responsibility* (2010.06595) · Zheng et al. 2023, *Judging LLM-as-a-judge with MT-Bench and Chatbot Arena*
# (2306.05685) · Wang et al. 2023, *Large language models are not fair evaluators* (2305.17926) · Dubois et al. 2024,
# *Length-controlled AlpacaEval* (2404.04475) · Chiang et al. 2024, *Chatbot Arena* (2403.04132) · Guo et al. 2017, *On
# calibration of modern neural networks* (1706.04599) · Gao, Schulman and Hilton 2023, *Scaling laws for reward model
# overoptimization* (2210.10760) · Lambert et al. 2024, *RewardBench* (2403.13787).

# %%
bench.close()
