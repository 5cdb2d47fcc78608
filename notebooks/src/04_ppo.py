# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # PPO, opened: sample, score, credit, update
#
# Nobody tells the model what to say any more. It answers, a reward model grades the whole answer with one number, and
# from that number every *token* must learn whether it was a good idea. **Proximal policy optimisation** (PPO) is the
# classic way to do it, with four roles on one base: the **policy** that learns, its frozen **reference**, the
# **reward** model, and the **value** role, which guesses how a half-written answer will end.
#
# **The question of this notebook:** how does one number for a whole answer become a push on each of its tokens, and
# what keeps the pushes from running away?
#
# You will take one step apart and put it together by hand, see what the clip is for, then watch a run, pause it, look
# into it, change its penalty while it lives, branch it, and break it. Two to three minutes of computing on two cores.

# %%
import os
from dataclasses import replace
from html import escape
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

import torch
from IPython.display import HTML
from plotly.subplots import make_subplots

from lab import demo, figures, tiny
from lab.config import Adapter
from lab.feedback.rewards import Rewards
from lab.follow import Follower
from lab.notebook import Case, Knob, Verdict, Workbench, cards, check, check_branch, check_change, turn
from lab.notebook.predict import compared
from lab.objectives import gae, k1, masked_mean, masked_var, reward_to_tokens
from lab.records import prompt_text
from lab.score import score
from lab.train.ppo import experience, learn, rollout, start

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {
    "tiny": {"demonstrations": 1000, "pairs": 1500, "batch": 64, "steps": 30, "pause": 12, "passes": 12, "hot": 12},
    "ci": {"demonstrations": 96, "pairs": 48, "batch": 8, "steps": 4, "pause": 2, "passes": 2, "hot": 2},
}
size = SIZES[PROFILE]

bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/ppo")), adapter=Adapter(rank=16, alpha=32))
bench

# %% [markdown]
# ## 1 · Who is there
#
# Two roles come from the notebooks before: a model that imitates demonstrations (02) and a reward model that has learnt
# what the crowd prefers (03). They take half a minute.

# %%
sft = bench.new("sft", demo.SFT, tiny.demonstrations(size["demonstrations"]), title="imitate the demonstrations")
bench.play(sft).wait()
judged = bench.compare(sft, "crowd", [p.prompt for p in tiny.train_prompts()], size["pairs"]).preferences
reward = bench.new("reward", demo.REWARD, judged, {"reward": sft}, title="what the crowd prefers")
bench.play(reward).wait()

# %% [markdown]
# The lab's PPO stands in `lab/train/ppo.py` and is a page long. Its step is four calls, and here they are, one by one,
# on a policy that is a copy of the SFT model. (`bench.call` does the work in the thread that owns the model.)

# %%
config = replace(demo.PPO, batch=size["batch"], epochs=1)


def opened(name, config):
    """The state of a run at step 0 whose policy is a copy of the SFT model."""
    bench.base.fork(bench.desk.role(sft.id), name)
    judge = Rewards.role(bench.desk.role(reward.id))
    return start(bench.base, tiny.train_prompts(), config, judge, policy=name, prefix=f"{name}-")


state = bench.call(lambda: opened("mine", config))
print("roles on the base:", ", ".join(state.roles))
print("in training:      ", ", ".join(state.trained))

# %% [markdown]
# ## 2 · Sample and score
#
# The policy answers, each prompt of the step twice. Then all four roles read the same answers in one pass: the policy
# and the reference say how likely each token was, the value role what is to be expected at each place, the reward
# model what the whole is worth.

# %%
rollouts = bench.call(lambda: rollout(state, config))
batch = bench.call(lambda: experience(state, config, rollouts))
for i in range(4):
    r = rollouts[i]
    print(f"{prompt_text(r.prompt)}\n    → {r.completion}   (reward {float(batch.scores[i]):+.2f})")
gap = float(masked_mean((batch.old - batch.reference).abs(), batch.mask))
print(
    f"\n{len(rollouts)} answers, {int(batch.mask.sum())} tokens; policy and reference differ by {gap:.1g} nats a token"
)

# %% [markdown]
# They do not differ at all: the run starts at its reference. It is one of the **invariants** that a run checks for you;
# if the first KL is not 0, the reference is not what you think it is.
#
# ## 3 · Credit
#
# ### From one score to a reward for each token
#
# The score belongs to the last token. Every token also pays for leaving the reference, $\beta$ per nat:
#
# $$r_t = -\beta \log \frac{\pi_\text{old}(y_t)}{\pi_\text{ref}(y_t)} + [t \text{ is last}] \cdot s$$
#
# so that the sum over an answer is $s - \beta \log \frac{\pi(y)}{\pi_\text{ref}(y)}$, whose mean is the objective:
# much reward, little distance.
#
# **Exercise 1.** The reward of token $t$ of an answer of `length` tokens.


# %% tags=["exercise"]
def my_token_reward(t, length, score, logprob, reference, beta):
    """Reward of token t; log-probabilities in nats, beta in reward per nat."""
    return score - beta * (logprob - reference)  # ✎


# %%
check(
    my_token_reward,
    [
        Case((3, 4, 1.0, -2.0, -2.0, 0.5), 1.0, "the last token, as likely as under the reference: the score alone"),
        Case((0, 4, 1.0, -2.0, -2.0, 0.5), 0.0, "not the last one: it gets nothing yet"),
        Case((1, 4, 1.0, -1.0, -2.0, 0.5), -0.5, "one nat likelier than under the reference costs β"),
        Case((3, 4, 1.0, -3.0, -2.0, 0.5), 1.5, "one nat less likely earns β: single tokens may go either way, the "
             "mean over tokens of the policy never earns"),
    ],
    "The reward of a token",
)  # fmt: skip

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# penalty = -beta * (logprob - reference)
# return penalty + score if t == length - 1 else penalty
# ```
# </details>
#
# ### From rewards to advantages
#
# The last token earns everything, but an answer is usually lost much earlier, at the word that made it wrong. The value
# role says before each token what it expects of the rest, $V_t$. Where that expectation *jumps*, something happened:
#
# $$\delta_t = r_t + \gamma V_{t+1} - V_t, \qquad A_t = \delta_t + \gamma\lambda\, \delta_{t+1}
# + (\gamma\lambda)^2\, \delta_{t+2} + \dots$$
#
# With $V = 0$ past the end. $\lambda$ is a matter of trust. At 0 a token is judged by the next jump alone, which is
# only as good as the value role; at 1 by what really came out in the end, whoever caused it. This is **generalised
# advantage estimation** (GAE).
#
# **Exercise 2.** The advantage of the *first* token. The cell starts with $\lambda = 1$.


# %% tags=["exercise"]
def my_first_advantage(rewards, values, gamma, lam):
    """A_0 from the rewards and values of all tokens."""
    return sum(rewards) - values[0]  # ✎


# %%
check(
    my_first_advantage,
    [
        Case(((0.0, 0.0, 1.0), (0.5, 0.5, 0.5), 1.0, 1.0), 0.5, "λ = 1: what came out, minus what was expected"),
        Case(((0.0, 0.0, 1.0), (0.5, 0.5, 0.5), 1.0, 0.0), 0.0, "λ = 0: nothing has changed by the next token"),
        Case(((0.0, 0.0, 1.0), (0.2, 0.4, 0.8), 1.0, 0.5), 0.45, "δ = (0.2, 0.4, 0.2): 0.2 + 0.4 / 2 + 0.2 / 4"),
        Case(((0.0, 1.0), (0.0, 0.0), 0.5, 1.0), 0.5, "γ = ½: a reward one token later is worth half"),
        Case(((1.0,), (0.25,), 1.0, 0.95), 0.75, "one token: r − V"),
    ],
    "The first advantage",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# advantage, following = 0.0, 0.0
# for r, v in reversed(list(zip(rewards, values))):
#     advantage = r + gamma * following - v + gamma * lam * advantage
#     following = v
# return advantage
# ```
# </details>
#
# Here is the credit of one answer of the batch, the one with the lowest reward. Bars are advantages, the line is what
# the value role expects. It starts as a copy of the reward model, which has only ever been asked at the *ends* of
# answers, so its first guesses in the middle are rough. Turn $\lambda$.

# %%
worst = int(batch.scores.argmin())


def tokens_of(r):
    """The tokens of an answer as text, numbered so that no two are the same."""
    texts = bench.base.chat.tokenizer.convert_ids_to_tokens(list(r.completion_ids))
    return [f"{i + 1} {t.replace('▁', ' ').strip() or t}" for i, t in enumerate(texts)]


def credit(lam):
    """Advantages of the tokens of one answer."""
    n = int(batch.lengths[worst])
    part = slice(worst, worst + 1)
    penalty = k1(batch.old, batch.reference, batch.mask)[part]
    r = reward_to_tokens(batch.scores[part], penalty, batch.lengths[part], config.kl)
    A = gae(r, batch.values[part], batch.lengths[part], config.gamma, lam).advantages[0, :n]
    V, names = batch.values[worst, :n], tokens_of(rollouts[worst])
    colours = [figures.LIGHT[0] if a >= 0 else figures.LIGHT[1] for a in A.tolist()]
    data = [{"type": "bar", "name": "advantage", "x": names, "y": A.tolist(), "marker": {"color": colours}},
            {"type": "scatter", "mode": "lines+markers", "name": "value", "x": names, "y": V.tolist()}]  # fmt: skip
    look = figures.look()
    title = f"{prompt_text(rollouts[worst].prompt)}   score {float(batch.scores[worst]):+.2f}"
    return {"data": data, "layout": look | {
        "height": 320, "showlegend": True, "title": {"text": escape(title), "font": {"size": 13}, "x": 0.02},
        "margin": {"t": 36, "b": 8, "l": 8, "r": 8}, "xaxis": look["xaxis"] | {"type": "category"},
        "yaxis": look["yaxis"] | {"title": {"text": "reward"}}}}  # fmt: skip


turn(credit, lam=Knob(0, 1, 0.95, 0.05, label="λ"))

# %% [markdown]
# At $\lambda = 0$ a token is judged by what the value role made of it, and the blame sits where it changed its mind.
# At $\lambda = 1$ every token is judged by what came out in the end, less what was expected before it: nobody who was
# there goes free. The lab takes 0.95, which for answers of eight tokens is close to 1.
#
# ### Whitening
#
# Advantages are brought to mean 0 and spread 1 over all tokens of the step. What counts is whether something went
# better than usual, *however good it was*: neither the scale nor the level of the reward changes the size of the
# step.

# %%
raw = batch.returns - batch.values  # returns are advantages plus values, before whitening
for name, x in (("as computed", raw), ("whitened", batch.advantages)):
    print(f"{name:12} mean {float(masked_mean(x, batch.mask)):+.4f}   spread "
          f"{float(masked_var(x, batch.mask).sqrt()):.4f}")  # fmt: skip

# %% [markdown]
# ## 4 · Update
#
# One optimizer update of policy and value, from the clipped surrogate of notebook 01. Then all answers are read again:
# did the tokens with a good advantage become likelier?


# %%
def update(state, config):
    """One pass over the batch; the figures it gives are those *before* the update."""
    state.own()
    return learn(state, config, batch)


def read_again(role):
    """log π of all tokens of the batch, now."""
    pairs = [(r.prompt_ids, r.completion_ids) for r in rollouts]
    return bench.call(lambda: score(bench.base, pairs, {role: "logprobs"}))[role]


first = bench.call(lambda: update(state, config))
print(f"before the update: policy loss {first['policy_loss'] + 0.0:.6f}, largest |ratio − 1| {first['ratio_gap']:.1g}")
moved = (read_again("mine") - batch.old)[batch.mask]
A = batch.advantages[batch.mask]
good, bad = moved[A.quantile(0.75) <= A], moved[A.quantile(0.25) >= A]
print(f"change of log π: best quarter of the tokens {float(good.mean()):+.3f}, worst quarter {float(bad.mean()):+.3f}; "
      f"correlation with the advantage {float(torch.corrcoef(torch.stack([moved, A]))[0, 1]):+.2f}")  # fmt: skip

# %% [markdown]
# Both numbers of the first line are invariants: a whitened advantage has mean 0, so the first loss is 0, and before any
# update the ratio is 1.
#
# The tokens have moved as told *on average*, and far from each by itself: all of them share the same weights, and what
# is pushed up in one answer is pushed down in another. The bad ones fall more than the good ones rise, because most
# good tokens are nearly certain already.
#
# ### What the clip is for
#
# A batch is expensive to sample, so one would like to learn from it more than once. But after the first pass the policy
# is no longer the one that wrote it, and the advantages grow stale. Let us go over the same batch a dozen times, once
# with the clip at 0.2 and once with none, each from the same start.
#
# **✎ predict** – after the passes, with the clip removed: `"higher"`, `"lower"` or `"same"`, compared with the clip?

# %% tags=["exercise"]
without_clip = {
    "largest ratio": "same",  # of one token's probability to what it was when it was sampled
    "distance": "same",  # KL between the policy that sampled and the policy now
    "loss": "same",  # the surrogate that is minimised
}

# %%
seen = {}
for name, clip in (("clip-on", 0.2), ("clip-off", 1e6)):
    trial = replace(config, clip=clip)
    again = bench.call(lambda name=name, trial=trial: opened(name, trial))
    seen[name] = [bench.call(lambda again=again, trial=trial: update(again, trial)) for _ in range(size["passes"])]

plot = make_subplots(1, 3, subplot_titles=("largest |ratio − 1|", "KL to the sampling policy, nats", "policy loss"))
for i, (name, rows) in enumerate(seen.items()):
    for column, key in enumerate(("ratio_gap", "approx_kl", "policy_loss"), start=1):
        plot.add_scatter(x=list(range(1, len(rows) + 1)), y=[row[key] for row in rows], name=name, legendgroup=name,
                         showlegend=column == 1, line={"color": figures.LIGHT[i]}, row=1, col=column)  # fmt: skip
plot.update_layout(figures.look() | {"height": 290, "showlegend": True, "margin": {"t": 30, "b": 8, "l": 8, "r": 8}})
plot.update_xaxes(title="pass")
turn(plot.to_plotly_json)

# %%
held, loose = seen["clip-on"][-1], seen["clip-off"][-1]


def changed(key):
    """The word for what removing the clip does."""
    gap = loose[key] - held[key]
    return "same" if abs(gap) < 0.1 * abs(held[key]) else "higher" if gap > 0 else "lower"


check(
    lambda what: without_clip[what],
    [
        Case(("largest ratio",), changed("ratio_gap"), "nothing stops a token that is already far away"),
        Case(("distance",), changed("approx_kl"), "every pass pushes the same tokens in the same direction"),
        Case(("loss",), changed("policy_loss"), "it is minimised without a limit: that is what it wants"),
    ],
    "Without the clip",
)

# %% [markdown]
# Without the clip the loss looks *better*, pass after pass. It is earned by making a few lucky tokens many times as
# likely as they were. Nothing new has been learnt about them since they were sampled: the batch is exploited, not the
# world. With the clip a token that has moved by a fifth has no more say, and the loss flattens out. The lab takes two
# passes, where the difference is still small.
#
# ## 5 · A run to watch
#
# The same four calls, again and again, with new answers each time.
#
# **✎ predict** – after a dozen steps, compared with the first ones?

# %% tags=["exercise"]
my_prediction = {
    "reward": "same",  # what the reward model says
    "gold": "same",  # what the answers are truly worth
    "kl": "same",  # the distance to the SFT model, nats per answer
    "entropy": "same",  # how undecided the policy is, nats per token
    "explained_variance": "same",  # share of the returns' spread that the value role foresees
}

# %%
config = replace(demo.PPO, steps=size["steps"], batch=size["batch"], save_every=size["pause"])
ppo = bench.new("ppo", config, tiny.train_prompts(), {"policy": sft, "reward": reward}, title="earn the reward")
live = bench.play(ppo, steps=size["pause"])
live

# %%
live.wait_paused()
check_change(my_prediction, ppo)

# %% [markdown]
# Look at the **invariants** first: every line must have its ✓. Then the curves, left to right: is there reward, what
# does it cost in KL, have the answers become longer, is the policy still undecided about anything, do answers end, and
# how many tokens hit the clip? A click on a point of a curve shows what was answered at that step.
#
# ### Look inside
#
# The run is paused, not over: its state is in memory. These are the answers that its *next* step will learn from; a run
# draws its noise from its seed and the number of the step, so looking does not change it.

# %%
session = bench.engine.sessions[ppo.id]
inside = session.call(lambda state: experience(state, config, rollout(state, config))).result()


def one_answer(i):
    """A table with a line for each token of an answer."""
    r, n, lines = inside.rollouts[i], int(inside.lengths[i]), []
    for t, token in enumerate(tokens_of(r)[:n]):
        d = float(inside.old[i, t] - inside.reference[i, t])
        earned = -config.kl * d + (float(inside.scores[i]) if t == n - 1 else 0)
        A = float(inside.advantages[i, t])
        tint = f"rgba({'18,128,92' if A > 0 else '194,47,42'},{min(0.8, 0.3 * abs(A)):.2f})"
        cell = f'<span style="background:{tint};padding:2px 8px;border-radius:3px">{A:+.2f}</span>'
        lines.append(
            (
                escape(token),
                f"{round(d, 3) + 0.0:+.3f}",
                f"{round(earned, 3) + 0.0:+.3f}",
                f"{float(inside.values[i, t]):+.2f}",
                cell,
            )
        )
    head = ("token", "log π − log π_ref", "its reward", "value before it", "advantage, whitened")
    return cards.table(head, lines, f"{prompt_text(r.prompt)}   score {float(inside.scores[i]):+.2f}")


HTML(one_answer(int(inside.scores.argmax())) + one_answer(int(inside.scores.argmin())))

# %% [markdown]
# Find the place in the second table where the value drops. The largest blame falls on the token just *before* the drop.
# It need not be the one you would blame: the value role may notice a mistake only a word later. With $\lambda$ near 1
# the tokens before it get their share too, the guilty one among them.
#
# ### Change its mind
#
# Now raise the price of distance: eight times as much, from the next step on. Then play on to the end.
#
# **✎ predict** – where will the KL be over the last steps, compared with the steps just before the change?

# %% tags=["exercise"]
kl_after_the_change = "same"

# %%
live.edit("kl", 8 * config.kl)
live.play()
live.wait()
live.figure.show(config=figures.CONFIG)

# %%
follower = Follower(ppo)
follower.refresh()
kl = list(follower.columns(["kl"])["kl"].values)
stretch = max(1, size["steps"] // 5)
for i in range(0, len(kl), stretch):
    part = kl[i : i + stretch]
    mark = "   ← changed" if i == size["pause"] else ""
    print(f"steps {i + 1:2} to {i + len(part):2}: KL {sum(part) / len(part):.3f}{mark}")
Verdict("The KL penalty raised", ("before", "at the end"), (
    compared("kl", kl_after_the_change, kl[size["pause"] - stretch : size["pause"]], kl[-stretch:]),))  # fmt: skip

# %% [markdown]
# The dotted line in the curves marks the place. A penalty is no wall: it is one term of the reward, and acts as slowly
# as any other. The KL may climb for some steps yet; then it comes down, because tokens that have become likelier than
# they were at the start now lose. (A handful of noisy steps cannot always tell "lower" from "same". What the change was
# worth shows better against a run without it, and that is what branches are for.)
#
# ## 6 · Branch
#
# What if we had *removed* the penalty at that point instead? A **branch** starts from the saved step with the same
# weights, the same optimizer and the same prompts to come.
#
# **✎ predict** – the branch without the penalty, compared with the run above, over the last steps of both?

# %% tags=["exercise"]
without_penalty = {"kl": "same", "reward": "same", "gold": "same"}

# %%
free = live.branch(step=size["pause"], edits={"kl": 0.0})
free_live = bench.play(free)
free_live

# %%
free_live.wait()
check_branch(without_penalty, free, ppo)

# %% [markdown]
# Same weights, same prompts, and only the price of distance differs: the branch is several times as far from home. The
# reward it has won by that is small, if there is any, and the true score may be on either side; try other seeds. What
# becomes of it when the branch goes on is the question of notebook 05.
#
# ## 7 · Break it
#
# PPO has many settings, and most of them can ruin it. Choose one to overdo. The cell starts with a learning rate ten
# times too large; try `{"kl": 0.0, "lr": 0.01}`, `{"epochs": 8, "clip": 10.0}` or `{"temperature": 2.0}` next.

# %% tags=["exercise"]
RUINED = {"lr": 0.03}  # ✎

# %%
config = replace(demo.PPO, steps=size["hot"], batch=size["batch"], probe_every=size["hot"] // 2, **RUINED)
broken = bench.new("ppo", config, tiny.train_prompts(), {"policy": sft, "reward": reward}, title=str(RUINED))
broken_live = bench.play(broken)
broken_live

# %%
broken_live.wait()
follower = Follower(broken)
follower.refresh()
columns = follower.columns(["reward", "gold", "kl", "entropy", "length", "ended", "clip_fraction", "grad_norm"])
half = max(1, size["hot"] // 4)
print(f"{'':14} first {half} steps   last {half}")
for name, (_, values) in columns.items():
    print(f"{name:14} {sum(values[:half]) / half:12.3f} {sum(values[-half:]) / half:12.3f}")
QUESTIONS = ["What is the capital of Norway?", "What is 5 plus 1?", "How do I make salad?", "Name two animals."]
bench.ask(QUESTIONS, {"SFT": sft, "PPO": ppo, "broken": broken})

# %% [markdown]
# <details><summary><b>What to look for</b> (open after you have run it)</summary>
#
# With ten times the learning rate the KL jumps within a few steps, to ten nats or to hundreds, and the true score
# falls far below where it began. The first updates throw the policy so far that nothing it samples is any good, and
# from bad answers alone there is little to learn, since one is as bad as the other. It ends by saying the same to
# every question: one word over and over until it is cut off, or nothing at all (that depends on the seed). All
# **invariants hold**: they say that the arithmetic is right, not that the settings are. The signs to stop at are a KL
# that leaps, a length that leaps with it, answers that do not end, and an entropy near nothing (the policy says one
# thing) or far up (it babbles).
# </details>
#
# ## Go on
#
# * Give the value role nothing to do: branch with `edits={"value_lr": 0.0, "value_head_lr": 0.0}`. What becomes of the
#   explained variance, and of the reward?
# * `kl_target=2.0` in the config lets a controller set $\beta$. Does it reach the target in sixty steps? (`kl_horizon`
#   says how fast it may act.)
# * GRPO throws the value role out and compares answers with each other: notebook 07.
#
# **Reading.** Schulman et al. 2015, *High-dimensional continuous control using generalized advantage estimation*,
# arXiv 1506.02438 · Schulman et al. 2017, *Proximal policy optimization algorithms*, arXiv 1707.06347 · Ziegler et
# al. 2019, *Fine-tuning language models from human preferences*, arXiv 1909.08593 (the KL in the reward) · Stiennon
# et al. 2020, *Learning to summarize from human feedback*, arXiv 2009.01325 · Ouyang et al. 2022, *Training language
# models to follow instructions with human feedback*, arXiv 2203.02155 · Engstrom et al. 2020, *Implementation matters
# in deep policy gradients*, arXiv 2005.12729 (how much the details do) · Zheng et al. 2023, *Secrets of RLHF in large
# language models, part I: PPO*, arXiv 2307.04964 · Huang et al. 2024, *The N+ implementation details of RLHF with
# PPO*, arXiv 2403.17031.

# %%
bench.close()
