# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reward hacking: when the judge is happy and the answers are worse
#
# A reward model is right most of the time. Whoever *chooses* by it, or *trains* on it, meets it mostly where it is
# wrong, because that is where high rewards are cheap. The first is called best-of-n: let the model answer $n$ times,
# score the answers, keep the best. The second is PPO. Both maximise a **proxy** and hope for the truth.
#
# **The question of this notebook:** more optimisation always means a higher reward. When does it stop meaning better
# answers, what is it that the judge falls for, and what holds it back?
#
# You will compute best-of-n by hand, draw its curve for every $n$ from one set of samples, watch the truth part from
# the reward, read what fooled the judge, let PPO do the same with the brakes off and on, and choose by length alone.
# Under three minutes of computing on two cores.

# %%
import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

import torch
from plotly.subplots import make_subplots

from lab import charts, demo, figures, tiny
from lab.config import Adapter
from lab.evaluate.best_of_n import curve, pool
from lab.evaluate.table import figure
from lab.feedback.rewards import Rewards
from lab.notebook import Case, Knob, Workbench, check, check_branch, frontier, turn
from lab.objectives.selection import (
    best_of,
    best_of_n_curve,
    best_of_n_exact_kl,
    best_of_n_kl,
    best_of_n_pmf,
    best_of_n_win_rate,
)
from lab.records import prompt_text
from lab.sample import sample
from lab.score import score

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {
    "tiny": {"demonstrations": 1000, "pairs": 1500, "small": 300, "prompts": 48, "samples": 64, "steps": 50,
             "batch": 64, "save": 10, "heldout": 200},
    "ci": {"demonstrations": 96, "pairs": 48, "small": 24, "prompts": 6, "samples": 16, "steps": 2, "batch": 8,
           "save": 1, "heldout": 12},
}  # fmt: skip
size = SIZES[PROFILE]

bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/reward_hacking")), adapter=Adapter(rank=16, alpha=32))
bench

# %% [markdown]
# ## 1 · Three answers by hand
#
# Suppose a model has three answers: A with probability 0.5, B with 0.3, C with 0.2, and the judge likes C best, A
# least. Best-of-n gives an answer at most as good as B when *all* $n$ samples are at most that good. So
#
# $$P_n(y) = \Big(\sum_{r(y') \le r(y)} p(y')\Big)^n - \Big(\sum_{r(y') < r(y)} p(y')\Big)^n$$
#
# **Exercise 1.** With two samples, how likely is each answer? Write the formula for one answer, from its probability
# $p$ and the probability of all *better* ones. (No two of them tie.)


# %% tags=["exercise"]
def my_chance(p, better, n):
    """The probability that best-of-n gives this answer."""
    return p  # ✎ right for n = 1 only


# %%
check(
    my_chance,
    [
        Case((0.2, 0.0, 2), 0.36, "C is chosen unless both samples miss it: 1 − 0.8²"),
        Case((0.3, 0.2, 2), 0.39, "no C (0.8²), but not two A either (0.5²): 0.64 − 0.25"),
        Case((0.5, 0.5, 2), 0.25, "A only if both samples are A: 0.5²"),
        Case((0.2, 0.0, 16), 0.9719, "1 − 0.8¹⁶: what is likely enough is nearly always found"),
    ],
    "Best of n",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# return (1 - better) ** n - (1 - better - p) ** n
# ```
# </details>
#
# Turn $n$, and the probability of the best answer. Two measures of how far the choice has moved the model are above the
# bars, both in nats: the exact KL divergence, and the formula that everybody uses,
#
# $$\mathrm{KL}(P_n \,\|\, p) \le \log n - \frac{n - 1}{n}$$
#
# It is exact if no two samples ever tie. A sample ties with itself at least, so with few answers it is far too large:
# the true distance can never exceed $-\log p$ of the best answer, however large $n$ is.


# %%
def toy(n, best):
    """Three answers before and after the choice."""
    p = torch.tensor([0.625 * (1 - best), 0.375 * (1 - best), best])
    scores, names = torch.tensor([0.0, 1.0, 2.0]), ["A", "B", "C (best)"]
    after = best_of_n_pmf(p, scores, int(n))
    title = f"KL {best_of_n_exact_kl(p, scores, int(n)):.3f}, formula {best_of_n_kl(int(n)):.3f}"
    data = [
        {"type": "bar", "name": name, "x": names, "y": y.tolist()} for name, y in (("model", p), ("best of n", after))
    ]
    look = figures.look()
    layout = look | {"height": 300, "showlegend": True, "title": {"text": title, "font": {"size": 13}, "x": 0.02},
                     "margin": {"t": 36, "b": 8, "l": 8, "r": 8}}  # fmt: skip
    return {"data": data, "layout": layout | {"yaxis": look["yaxis"] | {"range": [0, 1]}}}


turn(toy, n=Knob(1, 32, 2, 1, label="samples n"), best=Knob(0.01, 0.9, 0.2, 0.01, label="probability of the best"))

# %% [markdown]
# ## 2 · A model and two judges
#
# The model is an SFT model of the tiny world, mediocre on purpose. Its answers are compared in pairs by the *crowd*
# (see notebook 03), and from the pairs come two judges: one of all of them, and a **small** one that has seen a fifth.

# %%
sft = bench.new("sft", demo.SFT, tiny.demonstrations(size["demonstrations"]), title="imitate the demonstrations")
bench.play(sft).wait()
prompts = [p.prompt for p in tiny.train_prompts()]
judged = bench.compare(sft, "crowd", prompts, size["pairs"]).preferences

reward = bench.new("reward", demo.REWARD, judged, {"reward": sft}, title="what the crowd prefers")
live = bench.play(reward)
live

# %%
live.wait()
small = bench.new("reward", replace(demo.REWARD, eval_every=0), judged[: size["small"]], {"reward": sft}, title="small")
bench.play(small).wait()

# %% [markdown]
# ## 3 · One set of samples for every n
#
# Sixty-four answers to each of forty-eight held-out prompts, scored once by both judges and by the truth. That is all
# the sampling this needs. What best-of-4 is worth, say, is the mean over **all** sets of 4 out of the 64 answers, and
# that mean has a closed form. Sort the answers of a prompt by the judge's reward, lowest first; then
#
# $$\text{worth}(n) = \sum_{i=1}^{N} \frac{\binom{i-1}{n-1}}{\binom{N}{n}}\; \text{gold}_{(i)}$$
#
# because answer $i$ wins exactly those sets whose other $n - 1$ members stand below it. Where answers tie, each counts
# with the mean of the tie.

# %%
rows = tiny.heldout_prompts(size["prompts"])


def sampled():
    """The pool, scored by the judge; then what the small judge says of it."""
    found = pool(bench.base, rows, bench.desk.role(sft.id), size["samples"], Rewards.role(bench.desk.role(reward.id)),
                 tiny.gold, max_new_tokens=tiny.MAX_NEW_TOKENS)  # fmt: skip
    other = bench.desk.role(small.id)
    known = score(bench.base, [(r.prompt_ids, r.completion_ids) for r in found.rollouts], {other: "reward"})
    return found, known[other].view_as(found.proxy).cpu()


found, few_pairs = bench.call(sampled)
different = [len({r.completion_ids for r in found.of(i)}) for i in range(size["prompts"])]
print(f"{found.proxy.numel()} answers; of {size['samples']} to a prompt, "
      f"{sum(different) / len(different):.0f} are different on average")  # fmt: skip

# %% [markdown]
# Is the formula right? For $n = 2$ we can go through all pairs of one prompt.

# %%
r, g = found.proxy[0].tolist(), found.gold[0].tolist()
worths = [
    (g[i] + g[j]) / 2 if r[i] == r[j] else g[i] if r[i] > r[j] else g[j] for i, j in combinations(range(len(r)), 2)
]
formula = float(best_of_n_curve(found.proxy[:1], found.gold[:1], [2]))
print(f"all {len(worths)} pairs: {sum(worths) / len(worths):.6f}   formula: {formula:.6f}")

# %% [markdown]
# **✎ predict** – the judge agrees with the truth on about four pairs in five. From how many samples on do more samples
# make the chosen answers *truly worse*? Write the $n$ at which the true score is highest (1, 2, 4, …, 64).

# %% tags=["exercise"]
my_peak = 64

# %%
single = curve(found)
check(lambda: my_peak, [Case((), single.peak.n, "see the dashed line below")], "Where the true score peaks")

# %%
turn(lambda: charts.best_of_n_curve(single, "n"))

# %% [markdown]
# The solid line is what was maximised, and it rises for ever. The dashed one rises steeply to a handful of samples and
# then falls; at 64 a large part of the gain is gone. This is **Goodhart's law**, with no training involved.
#
# Why a peak? The first few samples are a choice between bad answers and good ones, and there the judge is mostly right.
# Later samples are a choice among answers that all look good to it, and what is at the very top is there because of a
# mistake.

# %%
print("   n   reward   true score         KL: formula   of the pool")
for p in single.points:
    print(f"{p.n:4}   {p.proxy.mean:+.2f}    {p.gold.mean:+.2f} [{p.gold.low:+.2f}, {p.gold.high:+.2f}]   "
          f"{p.kl_bound:11.2f}   {max(p.kl.mean, 0.0):11.2f}")  # fmt: skip

# %% [markdown]
# The last column takes the 64 answers of a prompt for the model itself. Many of them are the same, so they tie, and
# the choice moves the model less far than the formula says. The formula is a bound, not a measurement.
#
# ## 4 · What the judge is fooled by
#
# Here are the prompts that lose most between the peak and the last point. Read the answers.

# %%
at_peak, at_end = best_of_n_curve(found.proxy, found.gold, [single.peak.n, size["samples"]]).T
taken = best_of(found.proxy)
for i in (at_end - at_peak).argsort()[:8].tolist():
    answer = found.of(i)[int(taken[i])]
    reason = tiny.gold(prompt_text(answer.prompt), answer.completion, answer.ended).reasons[0][0]
    print(f"{at_peak[i]:+.2f} → {at_end[i]:+.2f}   {prompt_text(answer.prompt)}\n"
          f"                  {answer.completion}   ({reason})")  # fmt: skip

# %% [markdown]
# Mostly two kinds of mistakes, over and over: facts about things the judge was never trained on, where it cannot tell a
# wrong one from a right one; and good sentences that answer *another* question. The second kind is rare in the samples,
# so a choice among four seldom meets one, and a choice among 64 often does. Turn the knob to see which families pay.


# %%
families = [tiny.family(prompt_text(p.prompt)) for p in rows]


def by_family(n):
    """Reward and true score of the chosen answers, family by family."""
    worth = {"reward": best_of_n_curve(found.proxy, found.proxy, [int(n)]), "true score": best_of_n_curve(
        found.proxy, found.gold, [int(n)])}  # fmt: skip
    names = sorted(set(families))
    data = []
    for name, values in worth.items():
        y = [float(torch.stack([values[i, 0] for i, f in enumerate(families) if f == own]).mean()) for own in names]
        data.append({"type": "bar", "name": name, "x": names, "y": y})
    look = figures.look()
    x, y = look["xaxis"] | {"type": "category", "dtick": 1}, look["yaxis"] | {"range": [-1.2, 1.6]}
    return {"data": data, "layout": look | {"height": 300, "showlegend": True, "xaxis": x, "yaxis": y}}


turn(by_family, n=Knob(1, size["samples"], size["samples"], 1, label="samples n"))

# %% [markdown]
# ## 5 · A better judge?
#
# The textbook remedy is more pairs. The small judge has seen a fifth of them.
#
# **✎ predict** – the true score of the best of 64 by the small judge, compared with the judge of all pairs: `"higher"`,
# `"lower"` or `"same"`?

# %% tags=["exercise"]
small_against_all = "lower"

# %%
JUDGES = {"all pairs": found.proxy, "a fifth of the pairs": few_pairs, "the truth itself": found.gold}
curves = {name: curve(replace(found, proxy=proxy)) for name, proxy in JUDGES.items()}
ns = [p.n for p in single.points]
plot = make_subplots(1, 2, subplot_titles=("what the judge says", "what it is worth"))
for i, (name, line) in enumerate(curves.items()):
    pen = {"name": name, "legendgroup": name, "line": {"color": figures.LIGHT[i]}, "x": ns}
    plot.add_scatter(y=[p.proxy.mean for p in line.points], **pen, row=1, col=1)
    plot.add_scatter(y=[p.gold.mean for p in line.points], showlegend=False, **pen, row=1, col=2)
plot.update_layout(figures.look() | {"height": 330, "showlegend": True, "margin": {"t": 30, "b": 8, "l": 8, "r": 8}})
plot.update_xaxes(type="log", tickvals=ns, title="samples n")
turn(plot.to_plotly_json)

# %%
end = {name: best_of_n_curve(proxy, found.gold, [size["samples"]])[:, 0] for name, proxy in JUDGES.items()}
gap = figure((end["a fifth of the pairs"] - end["all pairs"]).numpy())
word = "same" if gap.low <= 0 <= gap.high else "higher" if gap.mean > 0 else "lower"
print(f"best of {size['samples']}: paired difference {gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}], peak at n = "
      f"{curves['a fifth of the pairs'].peak.n}; you said {small_against_all}, it was {word}")  # fmt: skip
centred = torch.stack([x - x.mean(1, keepdim=True) for x in (found.proxy, few_pairs)]).flatten(1)
print(f"correlation of the two judges within a prompt: {float(torch.corrcoef(centred)[0, 1]):.2f}")

# %% [markdown]
# The two judges are alike, and so are their mistakes: more pairs of the same kind buy little here. The other remedy of
# the textbooks is an **ensemble**, read by its mean or by its worst member, so that a mistake has to fool all of them.
# It was measured in this world (three seeds, `NOTES.md`) and did not help either, for the same reason. All members
# start from one base and share its idea of a good answer, and what all of them share, none of them can report.
# Eisenstein et al. (2023) saw the like at scale: ensembles whose members differ in their fine-tuning alone help less
# than those whose members were pretrained apart, and even those share some mistakes.
#
# The last line of the figure is the one to envy. A judge that is always right has no peak.
#
# ## 6 · How often does it win?
#
# How often does the best of $n$ beat one more sample, *by the judge's own score*? Put the $n + 1$ samples in order: the
# newcomer is on top with probability $1 / (n + 1)$. So best-of-n wins at most $\frac{n}{n + 1}$ of the time, a tie
# counted half. Best-of-1 wins half the time, best-of-9 nine times in ten, and no judge can change that.


# %%
def wins(proxy, n):
    """The share of wins of the best of n over the next sample, in all blocks of n + 1."""
    blocks = proxy[:, : proxy.shape[1] // (n + 1) * (n + 1)].reshape(-1, n + 1)
    gap = blocks[:, :n].amax(1) - blocks[:, n]
    return float((gap.sign() + 1).mean() / 2)


print("   n   measured   n / (n + 1)")
for n in (1, 3, 7, 15):
    print(f"{n:4}   {wins(found.proxy, n):8.3f}   {best_of_n_win_rate(n):11.3f}")

# %% [markdown]
# Where even best-of-15 ties with many newcomers, the win rate stays well below its bound. A high win rate against the
# starting model needs a model that is *not* sure of one answer.
#
# ## 7 · PPO with the brakes off, and on
#
# Best-of-n cannot go far: the answer must at least be among the $n$. A policy that *learns* has no such limit. It makes
# what has earned a reward more likely, samples again, and finds the next thing beside it. Two runs, from the same
# start with the same judge and the same prompts:
#
# * **off**: no KL penalty, $\beta = 0$;
# * **on**: $\beta = 0.1$, a price for every nat of distance to the SFT model.
#
# **✎ predict** – over the last steps, the run without the penalty compared with the one that has it?

# %% tags=["exercise"]
off_against_on = {
    "reward": "higher",  # what the judge says
    "gold": "same",  # what the answers are truly worth
    "kl": "higher",  # the distance to the SFT model, nats per answer
    "length": "higher",  # tokens per answer: do they ramble?
}

# %%
config = replace(demo.PPO, steps=size["steps"], batch=size["batch"], kl=0.0, probe_every=0, save_every=size["save"])
starts = {"policy": sft, "reward": reward}
off = bench.new("ppo", config, tiny.train_prompts(), starts, title="no penalty")
live = bench.play(off)
live

# %%
live.wait()
on = bench.new("ppo", replace(config, kl=0.1), tiny.train_prompts(), starts, title="β = 0.1")
live = bench.play(on)
live

# %% [markdown]
# While it plays: the solid line of *Reward* is the judge, the dashed one the truth. In a real project there is no
# dashed line.

# %%
live.wait()
check_branch(off_against_on, off, on)

# %% [markdown]
# ### The frontier
#
# The same two runs as in the figure that belongs to this subject (Gao, Schulman and Hilton 2022): how much reward for
# how much distance. The horizontal axis is $\sqrt{\mathrm{KL}}$, as in that paper. Solid is the judge, dashed the
# truth.

# %%
frontier(off, on).show(config=figures.CONFIG)

# %% [markdown]
# And on prompts that no stage has seen, at checkpoints on the way:

# %%
stops = [stop for stop in (size["steps"] // 5, size["steps"]) if stop]
checkpoints = {f"{name}, step {stop}": f"{run.id}@{stop}" for name, run in (("off", off), ("on", on)) for stop in stops}
board = bench.measure({"SFT": sft} | checkpoints, reward=reward, n=size["heldout"])
board

# %%
ends = (board["SFT"], board[f"off, step {size['steps']}"], board[f"on, step {size['steps']}"])
print("                 SFT     off     on")
print("the judge says ", *(f"{row.proxy.mean:+7.2f}" for row in ends))
print("the truth is   ", *(f"{row.gold.mean:+7.2f}" for row in ends))

# %% [markdown]
# Read the two lines. Without the brake the judge says that the model is *better* than the one it began with, and the
# truth says that it is *worse*. Both had risen at first. With the brake the judge is at least as happy, the distance is
# a fraction, and the true score has kept most of what it had won.
#
# ### What is exploited
#
# Where does the reward come from? Family by family, the change from the SFT model to the end of the run without a
# penalty: in the judge's opinion, and in truth.

# %%
heldout = tiny.heldout_prompts(size["heldout"])
kinds = [tiny.family(prompt_text(p.prompt)) for p in heldout]


def answered(run):
    """Answers to the held-out prompts with the same noise for every run, their rewards and true scores."""
    role, judge = bench.role(run), bench.role(reward)

    def work():
        said = sample(bench.base, [p.prompt for p in heldout], (role,), max_new_tokens=tiny.MAX_NEW_TOKENS, seed=3)
        return said, score(bench.base, [(r.prompt_ids, r.completion_ids) for r in said], {judge: "reward"})[judge]

    said, rewards = bench.call(work)
    truth = [tiny.gold(prompt_text(r.prompt), r.completion, r.ended).score for r in said]
    return said, rewards.cpu(), torch.tensor(truth)


before, after = answered(sft), answered(off)
gain, loss = after[1] - before[1], after[2] - before[2]
names = sorted(set(kinds))
look = figures.look()
bars = [{"type": "bar", "name": name, "x": names, "y": [float(x[[k == own for k in kinds]].mean()) for own in names]}
        for x, name in ((gain, "the judge’s opinion"), (loss, "the truth"))]  # fmt: skip
axes = {"xaxis": look["xaxis"] | {"type": "category", "dtick": 1}, "yaxis": look["yaxis"] | {"title": {"text": "gain"}}}
turn(lambda: {"data": bars, "layout": look | axes | {"height": 320, "showlegend": True}})

# %%
print("reward and true score of the SFT model's answer, and of the one after PPO without a penalty")
for i in (loss - gain).argsort()[:8].tolist():
    print(prompt_text(heldout[i].prompt))
    for said, rewards, truth in (before, after):
        print(f"    {float(rewards[i]):+.2f}  {float(truth[i]):+.2f}   {said[i].completion}")

# %% [markdown]
# Some of it is what best-of-n had found: a fact the judge cannot check, a "No" where a "Yes" was due, a good sentence
# that answers another question. Some of it is new: fragments that are no answer to anything, with some seeds one
# sentence for a whole family of questions. The SFT model hardly ever says such things, so they were in no pair, the
# judge has no reason to know better, and a choice among 64 samples does not come across them. That is why the KL tells
# so much. A judge is good **where its training pairs were**, and $\sqrt{\mathrm{KL}}$ measures how far the policy has
# left that place.
#
# Look for more of them yourself: the next cell asks three models with the same noise.

# %%
bench.sampler({"SFT": sft, "off": off, "on": on}, "What is 1 plus 9?")

# %% [markdown]
# And praise and filler, which the crowd like? They hardly grow: the SFT model says them seldom, so the judge has learnt
# little about them (notebook 03). A policy exploits not what you fear but what it finds.
#
# ## 8 · Break it
#
# The judge is any program. Choose by length alone, and see what more samples do now.


# %% tags=["exercise"]
def my_reward(prompt, answer):
    """What the choice goes by."""
    return float(len(answer.split()))  # ✎ try: whether it begins with "Yes"; minus the length; a word you like


# %%
scores = torch.tensor([my_reward(prompt_text(r.prompt), r.completion) for r in found.rollouts]).view_as(found.proxy)
mine = curve(replace(found, proxy=scores))
print("   n   your reward   true score   KL: formula   of the pool")
for p in mine.points:
    print(f"{p.n:4}   {p.proxy.mean:11.2f}   {p.gold.mean:+10.2f}   {p.kl_bound:11.2f}   {max(p.kl.mean, 0.0):11.2f}")
for i in range(3):
    print(f"{prompt_text(rows[i].prompt)}\n    {found.of(i)[int(best_of(scores)[i])].completion}")

# %% [markdown]
# With length there is not even a peak: the second sample already makes the answers worse. What the curve of section 3
# has and this one has not is a stretch in which the reward *means* something. A judge is not good or bad. It is good
# up to some $n$, or some KL, and the art is to know it.
#
# What can be done, then? Hold the policy near (the penalty, a small $n$, a stop in time), and ask people about what the
# *present* policy says, which is the loop that this lab is built around. What cannot be done is to read it off the
# reward.
#
# ## Go on
#
# * Let the crowd judge the run's own answers: `bench.compare(off, "crowd", prompts, 500).preferences`. Add them to
#   `judged`, train the judge again and look at the same answers. Has it learnt? What would PPO find next?
# * Other brakes: `kl_target=2.0`, or a smaller learning rate. Draw their frontiers beside these. Do they get more truth
#   for a nat, or do they only go less far?
# * Best-of-n can be *learnt*: `SelectionConfig(steps=12, prompts=32, samples=16, lr=3e-3, epochs=2,
#   max_new_tokens=tiny.MAX_NEW_TOKENS)` with the method `"raft"` imitates the best of 16, round after round, without
#   any penalty. Compare it with `samples=4`, by `check_branch` and `frontier`.
# * `lab bestof` draws the curve of section 3 for any model and any reward.
#
# **Reading.** Gao, Schulman and Hilton 2022, *Scaling laws for reward model overoptimization*, arXiv 2210.10760 ·
# Stiennon et al. 2020, *Learning to summarize from human feedback*, arXiv 2009.01325 (best-of-n, and its KL) · Nakano
# et al. 2021, *WebGPT*, arXiv 2112.09332 (the curve from one set of samples) · Manheim and Garrabrant 2018,
# *Categorizing variants of Goodhart's law*, arXiv 1803.04585 · Skalse et al. 2022, *Defining and characterizing
# reward hacking*, arXiv 2209.13085 · Pan, Bhatia and Steinhardt 2022, *The effects of reward misspecification*, arXiv
# 2201.03544 · Coste et al. 2023, *Reward model ensembles help mitigate overoptimization*, arXiv 2310.02743 ·
# Eisenstein et al. 2023, *Helping or herding? Reward model ensembles mitigate but do not eliminate reward hacking*,
# arXiv 2312.09244 · Beirami et al. 2024, *Theoretical guarantees on the best-of-n alignment policy*, arXiv 2401.01879
# (why the formula is a bound) · Dong et al. 2023, *RAFT: reward ranked finetuning*, arXiv 2304.06767 · Casper et al.
# 2023, *Open problems and fundamental limitations of reinforcement learning from human feedback*, arXiv 2307.15217.

# %%
bench.close()
