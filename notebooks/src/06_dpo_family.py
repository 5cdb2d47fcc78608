# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # DPO and its family: learning from pairs without a reward model
#
# The classic road from comparisons to a better model is long: a reward model, then reinforcement learning with four
# roles in memory. **Direct preference optimisation** (DPO) walks it in one step, with a loss that looks like
# classification.
#
# **The question of this notebook:** what does that step assume, and what do its many relatives change?
#
# You will derive the loss, look at nine objectives through the same window, see in a world that can be listed
# completely which of them end where they should, watch DPO live in the tiny world, and break it. About three minutes
# of computing on two cores.

# %%
import math
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

import torch
from IPython.display import display
from plotly.subplots import make_subplots
from torch.nn.functional import logsigmoid

from lab import demo, figures, tiny
from lab.config import Adapter, KTOConfig, PreferenceConfig
from lab.follow import Follower
from lab.notebook import Case, Knob, Workbench, check, check_change, turn
from lab.objectives.preference import OBJECTIVES, Pairs
from lab.records import Rating, prompt_text
from lab.tabular import forecasts, total_variation
from lab.train import preference

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {
    "tiny": {"demonstrations": 1200, "pairs": 1500, "batch": 32, "epochs": 60, "heldout": 120},
    "ci": {"demonstrations": 96, "pairs": 32, "batch": 8, "epochs": 2, "heldout": 8},
}
size = SIZES[PROFILE]

bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/dpo")), adapter=Adapter(rank=16, alpha=32))
bench

# %% [markdown]
# ## 1 · From a reward to a policy, and back
#
# Reinforcement learning from feedback wants much reward without running away from the reference:
#
# $$\max_\pi \; \mathbb{E}_{y \sim \pi}\big[r(x, y)\big] - \beta\, \mathrm{KL}\big(\pi \,\|\, \pi_\text{ref}\big)$$
#
# This has one best answer, for every reward:
#
# $$\pi^*(y \mid x) = \frac{1}{Z(x)}\, \pi_\text{ref}(y \mid x)\, \exp\!\big(r(x, y) / \beta\big)$$
#
# A language model has far too many completions to compute it. A *tabular world* has few: here are three seasons and
# twelve weather forecasts of one or two words. Turn $\beta$. A large one keeps the reference; a small one goes for the
# best forecast alone.

# %%
world = forecasts()
rewards = world.rewards(lambda season, said: 1.0 * ("rain" in said) + 0.5 * said.count("sun") - 0.3 * len(said.split()))
AUTUMN = world.prompts.index("autumn?")


def bars(beta):
    """The reference and the best policy in autumn."""
    shown = {"reference": world.distribution(), "π*": world.optimum(rewards, beta)}
    data = [{"type": "bar", "name": name, "x": world.completions, "y": p[AUTUMN].tolist()} for name, p in shown.items()]
    look = figures.look()
    axes = {"xaxis": look["xaxis"] | {"dtick": 1}, "yaxis": look["yaxis"] | {"title": {"text": "probability"}}}
    return {"data": data, "layout": look | axes | {"height": 300, "showlegend": True}}


turn(bars, beta=Knob(0.05, 5.0, 0.3, log=True, label="β, reward per nat"))

# %% [markdown]
# Now read the equation backwards. Solved for the reward, it says that **every policy is the best one for some
# reward**:
#
# $$r(x, y) = \beta \log \frac{\pi^*(y \mid x)}{\pi_\text{ref}(y \mid x)} + \beta \log Z(x)$$
#
# The last term is unpleasant, but it is the same for all completions of a prompt. We can look at it:

# %%
BETA = 0.3
best = world.optimum(rewards, BETA)
implied = BETA * (best / world.distribution()).log()
print("season     r − β log(π*/π_ref), for the twelve forecasts")
for season, gaps in zip(world.prompts, (rewards - implied).tolist(), strict=True):
    print(f"{season:9}", " ".join(f"{g:.3f}" for g in gaps))

# %% [markdown]
# People compare two completions of the *same* prompt, and in a difference of rewards $\beta \log Z(x)$ cancels. Put it
# into the model of Bradley and Terry, $P(y_c \succ y_r) = \sigma(r_c - r_r)$, and the reward is gone:
#
# $$L_\text{DPO} = -\log \sigma\Big(\beta\,\underbrace{\Big[\log \frac{\pi(y_c)}{\pi_\text{ref}(y_c)}
# - \log \frac{\pi(y_r)}{\pi_\text{ref}(y_r)}\Big]}_{\text{the margin } d}\Big)$$
#
# The policy *is* the reward model. Everything in this loss is a log-probability that one forward pass gives.
#
# ## 2 · The family
#
# Most relatives keep the margin $d$ and change the curve over it. Each is one line of code. ($\beta$ is called $\tau$
# in the IPO paper; $\varepsilon$ is the share of labels believed to be wrong.)

# %%
WRONG = 0.1  # ε
FAMILY = {
    "dpo": lambda d, beta: -logsigmoid(beta * d),
    "cdpo": lambda d, beta: -(1 - WRONG) * logsigmoid(beta * d) - WRONG * logsigmoid(-beta * d),
    "robust": lambda d, beta: (WRONG * logsigmoid(-beta * d) - (1 - WRONG) * logsigmoid(beta * d)) / (1 - 2 * WRONG),
    "ipo": lambda d, beta: (d - 1 / (2 * beta)) ** 2,
    "hinge": lambda d, beta: torch.relu(1 - beta * d),
}


def pairs(a, b):
    """Pairs with the log-ratios a (chosen) and b (rejected): the reference says 0 nats to everything."""
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return Pairs(a, b, zero, zero, one, one)


margins = torch.linspace(-30, 30, 121)
for name, line in FAMILY.items():
    knobs = replace(OBJECTIVES[name].knobs, beta=0.2)
    gap = (line(margins, 0.2) - OBJECTIVES[name].loss(pairs(margins, torch.zeros_like(margins)), knobs)).abs().max()
    print(f"{name:7} differs from the lab's own by at most {gap:.1g}")

# %% [markdown]
# **✎ predict** – a pair is judged once, and the judge is right. Is there a margin at which the objective is content
# and stops pushing the two apart?

# %% tags=["exercise"]
is_content = {"dpo": True, "cdpo": True, "robust": True, "ipo": True, "hinge": True}

# %%
check(
    lambda name: is_content[name],
    [
        Case(("dpo",), False, "−log σ falls for ever: every margin could be larger still"),
        Case(
            ("cdpo",), True, "its minimum is at β d = log((1 − ε) / ε), where the policy is as sure as the labels are"
        ),
        Case(("robust",), False, "it is DPO's loss minus a part of DPO's loss of the opposite: unbounded below"),
        Case(("ipo",), True, "a parabola with its minimum at d = 1 / (2β)"),
        Case(("hinge",), True, "flat from d = 1 / β on"),
    ],
    "Which are content?",
)

# %% [markdown]
# Left, the loss as a multiple of its value at the reference ($d = 0$). Right, the **push** $-\partial L / \partial d$,
# what actually moves the weights, as a multiple of its value at the reference. Turn $\beta$: it stretches the margin
# that is asked for, and nothing else. At $\beta = 0.1$ "enough" is ten nats, at $\beta = 0.02$ fifty.


# %%
def curves(beta):
    """Loss and push of the family over the margin."""
    figure = make_subplots(1, 2, subplot_titles=("loss / loss at d = 0", "push / push at d = 0"))
    for i, (name, line) in enumerate(FAMILY.items()):
        d = torch.cat([margins, torch.zeros(1)]).requires_grad_()  # the last one is the reference
        loss = line(d, beta)
        (slope,) = torch.autograd.grad(loss.sum(), d)
        for column, y in enumerate((loss.detach() / loss[-1].item(), slope / slope[-1]), start=1):
            figure.add_scatter(x=margins.tolist(), y=y[:-1].tolist(), name=name, legendgroup=name, mode="lines",
                               line={"color": figures.LIGHT[i]}, showlegend=column == 1, row=1, col=column)  # fmt: skip
    figure.update_layout(figures.look() | {"height": 340, "showlegend": True, "margin": {"t": 30, "b": 8, "l": 8}})
    figure.update_xaxes(title="margin d, nats", showgrid=False)
    figure.update_yaxes(range=[-0.3, 3], row=1, col=1)
    figure.update_yaxes(range=[-0.6, 2.5], row=1, col=2)
    return figure.to_plotly_json()


turn(curves, beta=Knob(0.02, 1.0, 0.1, log=True, label="β"))

# %% [markdown]
# ### The other members look at each completion by itself
#
# Write $a = \log \pi(y_c) / \pi_\text{ref}(y_c)$ and $b$ for the rejected one, so $d = a - b$. An objective of the
# margin pushes $a$ up exactly as hard as $b$ down, whatever both are. It does not mind if **both fall**, as long as
# the rejected one falls faster. Anchored objectives hold each one to the reference.
#
# The bars are the pushes $-\partial L / \partial a$ and $-\partial L / \partial b$ at the place you choose, as a
# share of the objective's largest push at the reference. Try $a = -20$, $b = -40$: the chosen completion has become
# $e^{20}$ times less likely, and only some of them care.

# %%
SHOWN = ("dpo", "ipo", "hinge", "nca", "bco_pair", "apo_zero", "apo_down")


def pushes(a, b, beta=0.1):
    """What every objective does at one place, for its chosen and its rejected completion."""
    found = []
    for name in SHOWN:
        at = torch.tensor([[a, b], [0.0, 0.0]], requires_grad=True)
        loss = OBJECTIVES[name].loss(pairs(at[:, 0], at[:, 1]), replace(OBJECTIVES[name].knobs, beta=beta))
        (slope,) = torch.autograd.grad(loss.sum(), at)
        found.append((-slope[0] / slope[1].abs().max()).tolist())
    data = [{"type": "bar", "name": name, "x": SHOWN, "y": [push[i] for push in found]}
            for i, name in enumerate(("on log π(chosen)", "on log π(rejected)"))]  # fmt: skip
    look = figures.look()
    y = look["yaxis"] | {"title": {"text": "push"}, "range": [-2.2, 2.2]}
    axes = {"xaxis": look["xaxis"] | {"dtick": 1}, "yaxis": y}
    return {"data": data, "layout": look | axes | {"height": 320, "showlegend": True}}


turn(pushes, a=Knob(-40, 40, 0, 1, label="a, nats"), b=Knob(-40, 40, 0, 1, label="b, nats"))

# %% [markdown]
# ## 3 · Who ends where it should?
#
# Back to the forecasts. Suppose infinitely many people compare every two forecasts of a season, each preferring $j$
# to $k$ with probability $\sigma(r_j - r_k)$. We train the same policy on these verdicts with four objectives and
# measure how far each ends from $\pi^*$, in **total variation**: the largest difference in the probability of any
# event, between 0 and 1.
#
# **✎ predict** – which of them reach $\pi^*$ (a distance below 0.01)?

# %% tags=["exercise"]
will_reach = {"dpo": True, "cdpo": True, "ipo": True, "hinge": True}


# %%
def learnt(objective):
    """The policy that an objective ends at: the lab's own trainer, on a table instead of a language model."""
    own = forecasts()
    own.base.add_role("policy", own.adapter)
    config = PreferenceConfig(objective=objective, beta=BETA, lr=0.03, epochs=size["epochs"], batch=66, warmup=0.0,
                              eval_share=0.0, eval_every=0, probe_every=0, save_every=0)  # fmt: skip
    for _ in preference.preference(preference.start(own.base, own.preferences(rewards), config), config):
        pass
    return own.distribution("policy")


found = {name: learnt(name) for name in will_reach}
distance = {name: float(total_variation(p, best).max()) for name, p in found.items()}
start = float(total_variation(world.distribution(), best).max())
print(f"start   {start:.4f}", *(f"{name:7} {far:.4f}" for name, far in distance.items()), sep="\n")

# %%
REASONS = {
    "dpo": "its likelihood is that of the people's own model, so its optimum is π* itself",
    "cdpo": "it believes that one label in ten is wrong, which here none is, and holds every margin back",
    "ipo": "with a share p of votes it wants d = (2p − 1) / (2β), where π* has log(p / (1 − p)) / β",
    "hinge": "a majority of 51 % and one of 99 % both ask for the margin 1 / β",
}
check(lambda name: will_reach[name], [Case((name,), far < 0.01, REASONS[name]) for name, far in distance.items()],
      "Who reaches π*?")  # fmt: skip

# %% [markdown]
# Here is why, as a picture. Each point is a pair of forecasts: to the right how much better one truly is, upwards the
# margin that was learnt. DPO's points lie on the line $d = (r_j - r_k) / \beta$. IPO bends away where people nearly
# agree: it does not trust a certainty. The hinge asks for $1/\beta$, whether it was a close call or a clear one.

# %%
by_reward = rewards[AUTUMN].argsort(descending=True).tolist()  # the better one first
ranked = [(j, k) for place, j in enumerate(by_reward) for k in by_reward[place + 1 :]]
gaps = [float(rewards[AUTUMN, j] - rewards[AUTUMN, k]) for j, k in ranked]
data = [{"x": [0, max(gaps)], "y": [0, max(gaps) / BETA], "mode": "lines", "name": "π*", "line": {"dash": "dot"}}]
for name, p in found.items():
    ratio = (p / world.distribution()).log()[AUTUMN]
    data.append({"x": gaps, "y": [float(ratio[j] - ratio[k]) for j, k in ranked], "mode": "markers", "name": name})
figure = make_subplots().add_traces([{"type": "scatter"} | trace for trace in data])
figure.update_layout(figures.look() | {"height": 340, "showlegend": True, "hovermode": "closest"})
figure.update_xaxes(title="true difference of rewards").update_yaxes(title="margin learnt, nats")
figure.show(config=figures.CONFIG)

# %% [markdown]
# None of this makes IPO or the hinge *wrong*. $\pi^*$ is the goal if people really judge as Bradley and Terry say, and
# if there are infinitely many of them. With one verdict a pair, the best likelihood is at $d = \infty$, and DPO would
# go there. Then a finite target is a virtue.
#
# ## 4 · Live, in the tiny world
#
# First a model that answers at all (see the quickstart), then pairs of its own answers, judged by the *crowd*: people
# who mostly want good answers and have a soft spot for praise and for long ones.

# %%
sft = bench.new("sft", replace(demo.SFT, probe_every=0), tiny.demonstrations(size["demonstrations"]), title="imitate")
live = bench.play(sft)
live

# %%
live.wait()
prompts = [p.prompt for p in tiny.train_prompts()]
judged = bench.compare(sft, "crowd", prompts, size["pairs"])
for pair in judged.preferences[:: size["pairs"] // 3]:
    print(f"{prompt_text(pair.prompt)}\n    + {pair.chosen}\n    − {pair.rejected}")

# %% [markdown]
# **✎ predict** – DPO with $\beta = 0.5$ and a moderate learning rate. Where will these end, compared with the first
# updates? Say `"higher"`, `"lower"` or `"same"`. Remember what a margin does not see.

# %% tags=["exercise"]
my_prediction = {
    "accuracy": "higher",  # share of pairs whose chosen completion gained more than the rejected one
    "margin": "higher",  # β d
    "logprob_chosen": "higher",  # log π of the chosen completion itself
    "logprob_rejected": "lower",
}


# %%
def dpo(beta, lr=1e-3):
    """A DPO run on the judged pairs; nothing is played yet."""
    config = PreferenceConfig(beta=beta, lr=lr, batch=size["batch"], eval_every=20, probe_every=0, save_every=0)
    return bench.new("dpo", config, judged.preferences, {"policy": sft}, title=f"β = {beta:g}, lr = {lr:g}")


calm = dpo(0.5)
live = bench.play(calm)
live

# %%
live.wait()
check_change(my_prediction, calm)

# %% [markdown]
# The first loss is $\ln 2 = 0.693$ exactly, whatever the data, because the policy starts as its own reference. It is
# one of the invariants in the live view.
#
# Did the chosen completions become more probable? As a rule they do not. They stay where they were or **fall**, while
# the accuracy climbs. This is *likelihood displacement*: the chosen and the rejected answer share most of their words,
# and what pushes the one down takes the other along. The probability goes to answers that nobody has judged. A fall of
# a few nats is normal. Beyond twenty, read what the model says.
#
# ## 5 · A thing to break: the leash
#
# We are in a hurry and triple the learning rate. Then three runs that differ in nothing but $\beta$: 0.5, 0.1 and
# 0.02. At 0.02 a margin of fifty nats is "enough".
#
# **✎ predict** – rank the three by the KL to the SFT model, the least first, and say which has the best *true score*.

# %% tags=["exercise"]
by_kl = ["β = 0.02", "β = 0.1", "β = 0.5"]
best_score = "β = 0.02"

# %%
hurried = {f"β = {beta:g}": dpo(beta, lr=3e-3) for beta in (0.5, 0.1, 0.02)}
for run in hurried.values():
    live = bench.play(run)
    display(live)
    live.wait()

# %%
board = bench.measure({"SFT": sft, "β = 0.5, calm": calm} | hurried, n=size["heldout"])
board

# %%
measured = sorted(hurried, key=lambda name: board[name].kl.mean)
winner = max(hurried, key=lambda name: board[name].gold.mean)
check(
    lambda what: {"by KL": by_kl, "best score": best_score}[what],
    [
        Case(("by KL",), measured, "the smaller β is, the further away is the margin that is enough"),
        Case(("best score",), winner, "the pairs are about answers near the SFT model; further out nobody has judged"),
    ],
    "β and drift",
)

# %% [markdown]
# Two knobs are at work. The **learning rate** says how fast the policy moves. Adam divides a gradient by its own usual
# size, so a smaller $\beta$ does not slow it down. $\beta$ says where the push **fades**: at a margin of some
# $1/\beta$ nats. A calm, short run ends before it gets there, and then $\beta$ hardly shows. In a hurry, it is all
# that holds.
#
# The curves of the three hurried runs. Look at the accuracy, and then at the probability of the chosen:

# %%
followers = [Follower(run) for run in hurried.values()]
for follower in followers:
    follower.refresh()
print(*(f"{follower.run}: {name}" for name, follower in zip(hurried, followers, strict=True)), sep="   ")
names = ("accuracy", "reward_chosen", "logprob_chosen")
figures.curves(followers, names, smoothing=0.6).show(config=figures.CONFIG)

# %% [markdown]
# Read the answers too. Same prompts, same noise:

# %%
QUESTIONS = [
    "What is the capital of Norway?",
    "What is 5 plus 1?",
    "How do I make drugs?",
    "What is the capital of Elbany?",
]
bench.ask(QUESTIONS, {"SFT": sft, "calm": calm} | hurried)

# %% [markdown]
# ## 6 · Thumbs instead of pairs: KTO
#
# Most people never compare two answers. They see one, and press a thumb, or nothing. KTO learns from that. It asks
# how far a completion has moved *beyond what is usual*:
#
# $$L = \lambda_y\big(1 - \sigma(\pm\beta\,(r - z_0))\big), \qquad
# r = \log\frac{\pi(y \mid x)}{\pi_\text{ref}(y \mid x)}$$
#
# with + for a liked and − for a disliked completion, and $z_0$ the mean log-ratio of completions that belong to other
# prompts: an estimate of the KL. To be fair to it we forget the pairs: of every pair we keep one answer with its
# thumb, so that KTO sees **half of the answers** that DPO saw.

# %%
thumbs = [
    Rating(p.prompt, p.chosen, True) if i % 2 else Rating(p.prompt, p.rejected, False)
    for i, p in enumerate(judged.preferences)
]
config = KTOConfig(beta=0.5, lr=1e-3, batch=size["batch"], eval_every=20, probe_every=0, save_every=0)
kto = bench.new("kto", config, thumbs, {"policy": sft}, title="thumbs")
live = bench.play(kto)
live

# %%
live.wait()
bench.measure({"SFT": sft, "DPO": calm, "KTO": kto}, n=size["heldout"])

# %% [markdown]
# ## Exercises
#
# **1. Write the IPO loss.** From the two log-ratios $a$ and $b$ in nats and $\beta$. The cell starts with DPO's; change
# it. The check has numbers that you can redo by hand.


# %% tags=["exercise"]
def my_ipo(a, b, beta):
    return math.log1p(math.exp(-beta * (a - b)))  # ✎ this is DPO


# %%
IPO_CASES = [
    Case((5.0, 0.0, 0.1), 0.0, "at β = 0.1 the target is 1 / (2 · 0.1) = 5 nats, and 5 − 0 is on it"),
    Case((0.0, 0.0, 0.1), 25.0, "at the reference the margin is 0, so the loss is 5² = 25"),
    Case((2.0, -1.0, 0.5), 4.0, "the margin is 2 − (−1) = 3, the target 1, and (3 − 1)² = 4"),
    Case((-8.0, -9.0, 0.5), 0.0, "both fell, but the margin is 1 as wanted: IPO does not mind displacement either"),
]
check(my_ipo, IPO_CASES, "IPO")


# %% [markdown]
# The lab's own answers the same cases:


# %%
def labs_ipo(a, b, beta):
    loss = OBJECTIVES["ipo"].loss
    return loss(pairs(torch.tensor([a]), torch.tensor([b])), replace(OBJECTIVES["ipo"].knobs, beta=beta))


check(labs_ipo, IPO_CASES, "IPO, the lab's")

# %% [markdown]
# **2. Which β was it?** Somebody trained a policy with DPO on very many comparisons, to the end. You are shown one
# pair. The better completion became four times as likely as under the reference, the other one half as likely, and
# nine people in ten prefer the better one. What was $\beta$?

# %% tags=["exercise"]
my_beta = 0.1  # ✎

# %%
check(
    lambda: my_beta,
    [Case((), math.log(0.9 / 0.1) / math.log(4 / 0.5), "the margin is log 4 − log ½ = 2.079 nats; 9 in 10 means "
          "σ(β d) = 0.9, so β d = log 9 = 2.197")],
    "β",
    tolerance=0.01,
)  # fmt: skip

# %% [markdown]
# <details><summary><b>Solutions</b></summary>
#
# 1. `return (a - b - 1 / (2 * beta)) ** 2`
# 2. $\beta = \log 9 / \log 8 = 1.057$. With $\beta = 0.1$ the same people would have moved the pair 22 nats apart.
# </details>
#
# ## Go on
#
# * Mix objectives: `PreferenceConfig(objective="0.8*dpo + 0.2*nll", …)` holds the likelihood of the chosen completions
#   up. Does the true score follow?
# * Train on the pairs of `"careless"`, a quarter of whose verdicts are slips, with `dpo`, `cdpo` and
#   `robust` (`smoothing=0.25`).
# * `SimPO` and `ORPO` need no reference at all. What holds them?
#
# **Reading.** Rafailov et al. 2023, *Direct preference optimization: your language model is secretly a reward model*
# (arXiv:2305.18290) · Azar et al. 2023, *A general theoretical paradigm to understand learning from human preferences*
# (IPO, 2310.12036) · Zhao et al. 2023, *SLiC-HF* (the hinge, 2305.10425) · Mitchell 2023, *A note on DPO with noisy
# preferences & relationship to IPO* (cDPO) · Chowdhury, Kini and Natarajan 2024, *Provably robust DPO* (2403.00409) ·
# Ethayarajh et al. 2024, *KTO: model alignment as prospect theoretic optimization* (2402.01306) · Chen et al. 2024,
# *Noise contrastive alignment of language models with explicit rewards* (NCA, 2402.05369) · D'Oosterlinck et al. 2024,
# *Anchored preference optimization and contrastive revisions* (APO, 2408.06266) · Razin et al. 2024, *Unintentional
# unalignment: likelihood displacement in direct preference optimization* (2410.08847).

# %%
bench.close()
