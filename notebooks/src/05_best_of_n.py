# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Best of n: ask again, and take what the judge likes
#
# The simplest way to use a reward model needs no training at all. Let the model answer $n$ times, score the answers,
# keep the best. It is hard to beat, and because nothing in it can go wrong but the judge, it is the cleanest way to see
# how far a judge can be trusted.
#
# **The question of this notebook:** more samples always mean a higher reward. When do they stop meaning a better
# answer?
#
# You will compute best-of-n by hand, draw its curve for every $n$ from one set of samples, watch the truth part from
# the reward, try what is said to help, turn the choice into training, and choose by length alone. About three minutes
# of computing on two cores.

# %%
import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

import torch
from plotly.subplots import make_subplots

from lab import charts, demo, figures, tiny
from lab.config import Adapter, SelectionConfig
from lab.evaluate.best_of_n import curve, pool
from lab.evaluate.table import figure
from lab.feedback.rewards import Rewards
from lab.notebook import Case, Knob, Workbench, check, check_branch, frontier, turn
from lab.objectives.ensemble import combine
from lab.objectives.selection import (
    best_of,
    best_of_n_curve,
    best_of_n_exact_kl,
    best_of_n_kl,
    best_of_n_pmf,
    best_of_n_win_rate,
)
from lab.records import prompt_text
from lab.saving import load_role
from lab.score import score

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {
    "tiny": {"demonstrations": 1000, "pairs": 1500, "small": 300, "prompts": 64, "samples": 64, "rounds": 12,
             "round": 32, "heldout": 300},
    "ci": {"demonstrations": 96, "pairs": 48, "small": 24, "prompts": 6, "samples": 16, "rounds": 2, "round": 4,
           "heldout": 12},
}  # fmt: skip
size = SIZES[PROFILE]

bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/best_of_n")), adapter=Adapter(rank=16, alpha=32))
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
# ## 2 · A model and some judges
#
# The model is an SFT model of the tiny world, mediocre on purpose. Its answers are compared in pairs by the *crowd*
# (see notebook 03), and from the pairs come the judges:
#
# * an **ensemble** of three reward models, each with its own order of all pairs; the first of them is also used alone,
#   as the **single** judge;
# * a **small** one, which has seen a fifth of the pairs.

# %%
sft = bench.new("sft", demo.SFT, tiny.demonstrations(size["demonstrations"]), title="imitate the demonstrations")
bench.play(sft).wait()
judged = bench.compare(sft, "crowd", [p.prompt for p in tiny.train_prompts()], size["pairs"]).preferences

ensemble = bench.new("reward", replace(demo.REWARD, members=3), judged, {"reward": sft}, title="three members")
live = bench.play(ensemble)
live

# %%
live.wait()
small = bench.new("reward", replace(demo.REWARD, eval_every=0), judged[: size["small"]], {"reward": sft}, title="small")
bench.play(small).wait()

folder = ensemble.checkpoint(ensemble.latest_checkpoint())
members = [bench.role(ensemble), "second", "third"]
for i in (1, 2):
    bench.call(lambda i=i: load_role(bench.base, folder / f"reward-{i}", members[i]))

# %% [markdown]
# ## 3 · One set of samples for every n
#
# Sixty-four answers to each of sixty-four held-out prompts, scored once by every judge and by the truth. That is all
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
    """The pool, scored by the single judge; then what every judge says of it."""
    found = pool(bench.base, rows, bench.desk.role(sft.id), size["samples"], Rewards.role(members[0]), tiny.gold,
                 max_new_tokens=tiny.MAX_NEW_TOKENS)  # fmt: skip
    roles = dict.fromkeys([*members, bench.desk.role(small.id)], "reward")
    known = score(bench.base, [(r.prompt_ids, r.completion_ids) for r in found.rollouts], roles)
    return found, [known[role].view_as(found.proxy).cpu() for role in roles]


found, (first, second, third, few_pairs) = bench.call(sampled)
together = torch.stack([first, second, third])
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
          f"{p.kl_bound:11.2f}   {p.kl.mean:11.2f}")  # fmt: skip

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
# Two kinds of mistakes, over and over: facts about things the judge was never trained on, where it cannot tell a wrong
# one from a right one; and good sentences that answer *another* question. The second kind is rare in the samples, so a
# choice among four seldom meets one, and a choice among 64 often does. Turn the knob to see which families pay.


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
# ## 5 · Better judges?
#
# Two remedies are in every textbook: more pairs, and an ensemble (its mean, or the worst of its members, so that a
# mistake must fool all three).
#
# **✎ predict** – the true score of the best of 64, compared with the single judge's: `"higher"`, `"lower"` or
# `"same"`?

# %% tags=["exercise"]
against_single = {"a fifth of the pairs": "lower", "mean of three": "higher", "worst of three": "higher"}

# %%
JUDGES = {
    "single": first,
    "a fifth of the pairs": few_pairs,
    "mean of three": combine(together, "mean"),
    "worst of three": combine(together, "worst"),
    "the truth itself": found.gold,
}
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
print(f"best of {size['samples']}, true score, paired difference to the single judge with its 95 % interval")
for name, said in against_single.items():
    gap = figure((end[name] - end["single"]).numpy())
    seen = "same" if gap.low <= 0 <= gap.high else "higher" if gap.mean > 0 else "lower"
    print(f"{name:22} {float(end[name].mean()):+.2f}   {gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]   "
          f"peak at n = {curves[name].peak.n}   you said {said}, it was {seen}")  # fmt: skip

# %%
alike = torch.corrcoef(torch.stack([x - x.mean(1, keepdim=True) for x in (first, second, third, few_pairs)]).flatten(1))
print("how alike the judges are: correlation of their rewards within a prompt")
for name, line in zip(("first", "second", "third", "a fifth of the pairs"), alike.tolist(), strict=True):
    print(f"{name:22}", " ".join(f"{x:.2f}" for x in line))

# %% [markdown]
# None of them helps here: all peak at about the same $n$ and fall alike. The last table says why: the rewards are
# nearly the same, so they make the same mistakes, and neither a mean nor a minimum can remove what all of them share.
# It is the base's own idea of a good answer, which the pairs have only brought to the surface. Members that begin at
# the raw base, each with its own random matrices, agree just as closely, and so does a judge of 100 pairs.
#
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
# ## 7 · From choosing to learning: RAFT
#
# Sampling many times for every question is expensive for ever. **RAFT** pays once: sample, keep the best of each
# prompt, imitate it by SFT, and again from the new model. It is best-of-n baked into the weights, round by round.
#
# Two runs, twelve rounds each: one imitates the best of 4, the other the best of 16. The second one's examples have the
# higher reward.
#
# **✎ predict** – in the last rounds, the run with 16 samples compared with the one with 4?

# %% tags=["exercise"]
sixteen_against_four = {
    "reward": "higher",  # what the judge says of all samples
    "gold": "higher",  # what they are truly worth
    "kl": "higher",  # the distance to the SFT model
    "length": "same",  # tokens per answer
}

# %%
config = SelectionConfig(steps=size["rounds"], prompts=size["round"], samples=4, lr=3e-3, epochs=2,
                         max_new_tokens=tiny.MAX_NEW_TOKENS, probe_every=4, save_every=0)  # fmt: skip
starts = {"policy": sft, "reward": ensemble}
four = bench.new("raft", config, tiny.train_prompts(), starts, title="imitate the best of 4")
live = bench.play(four)
live

# %%
live.wait()
sixteen = bench.new("raft", replace(config, samples=16), tiny.train_prompts(), starts, title="imitate the best of 16")
live = bench.play(sixteen)
live

# %%
live.wait()
check_branch(sixteen_against_four, sixteen, four)

# %%
frontier(four, sixteen).show(config=figures.CONFIG)

# %%
bench.measure({"SFT": sft, "best of 4": four, "best of 16": sixteen}, reward=ensemble, n=size["heldout"])

# %% [markdown]
# The best of 4 is a good teacher: more reward, a better true score, a nat or two from where it began. The best of 16
# should be a better one by the judge's own measure. It ends much farther away and truly worse than the SFT model, and
# in the end the judge itself likes its answers less. Each round samples from the model that the round before has made,
# so what has fooled the judge once becomes common, and there is neither a penalty on the distance (as in PPO) nor a
# stop.
#
# With the figure above you would stop in time. Without the dashed line, which only a made world has, you would need
# fresh human labels to know when.
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
    print(f"{p.n:4}   {p.proxy.mean:11.2f}   {p.gold.mean:+10.2f}   {p.kl_bound:11.2f}   {p.kl.mean:11.2f}")
for i in range(3):
    print(f"{prompt_text(rows[i].prompt)}\n    {found.of(i)[int(best_of(scores)[i])].completion}")

# %% [markdown]
# With length there is not even a peak: the second sample already makes the answers worse. What the curve of section 3
# has and this one has not is a stretch in which the reward *means* something. A judge is not good or bad. It is good
# up to some $n$, and the art is to know it.
#
# ## Go on
#
# * Let the crowd judge pairs of answers that *best-of-64* likes (the samples of section 3 with their rewards), add them
#   to the pairs, and train the judge again. Where is the peak now?
# * `SelectionConfig(rule="rejection")` keeps more than the best, with probability $e^{(r - r_\max) / \beta}$;
#   `lab pairs --rule rso` makes preference pairs of what is kept, for `lab dpo`.
# * `lab bestof` draws the curve of section 3 for any model and any reward.
#
# **Reading.** Stiennon et al. 2020, *Learning to summarize from human feedback* (best-of-n, and its KL) · Nakano et al.
# 2021, *WebGPT* (the curve from one set of samples) · Gao, Schulman and Hilton 2023, *Scaling laws for reward model
# overoptimization* · Coste et al. 2024, *Reward model ensembles help mitigate overoptimization* · Eisenstein et al.
# 2023, *Helping or herding? Reward model ensembles mitigate but do not eliminate reward hacking* · Beirami et al.
# 2024, *Theoretical guarantees on the best-of-n alignment policy* (why the formula is a bound) · Dong et al. 2023,
# *RAFT: reward ranked finetuning* · Liu et al. 2024, *Statistical rejection sampling improves preference optimization*.

# %%
bench.close()
