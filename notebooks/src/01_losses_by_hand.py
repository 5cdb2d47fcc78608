# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Losses by hand: what every method asks of a model
#
# Learning from feedback is a handful of formulas, none longer than a line. All of them are about the same thing: how
# likely is a token, and how likely should it be? Each can be worked out on four tokens or one pair with a pencil, and
# most mistakes that ruin a run are mistakes that three numbers would have shown.
#
# **The question of this notebook:** what does each loss ask for, exactly, and how would you notice that one line of
# it is wrong?
#
# You will compute six losses on a few numbers, check each against a closed form and then against the lab's own, break
# the first one in the three ways that everybody breaks it, and at the end compute the first loss of a real run before
# the run does. Under a minute of computing on two cores.

# %%
import math
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

import torch
from IPython.display import HTML

from lab import figures, tiny
from lab.config import Adapter, SFTConfig
from lab.follow import Follower
from lab.notebook import Case, Knob, Workbench, cards, check, check_change, turn
from lab.objectives import (
    bradley_terry,
    k1,
    k2,
    k3,
    length_mask,
    nll,
    ppo_policy,
    shift,
    token_logprobs,
    token_weights,
    weighted_sum,
)
from lab.objectives.group import group_std
from lab.objectives.preference import OBJECTIVES, Knobs, Pairs
from lab.score import score

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {"tiny": {"demonstrations": 16, "passes": 40.0}, "ci": {"demonstrations": 8, "passes": 4.0}}
size = SIZES[PROFILE]

# %% [markdown]
# **✎ predict** – four runs are about to begin. What is the loss of their *first* update, before anything has been
# learnt, in nats?
#
# * **SFT** of a model that knows nothing and thinks all of four words equally likely;
# * a **reward model** whose head is all zeros;
# * **DPO** of a policy that is still a copy of its reference;
# * **PPO**, whose advantages have been whitened (mean 0, spread 1).
#
# Write numbers or formulas, such as `math.log(3)`. They are worth knowing by heart: a run whose first loss is another
# one has a mistake in it, and you have lost one update and not a night.

# %% tags=["exercise"]
first_losses = {"SFT": 1.0, "reward model": 1.0, "DPO": 1.0, "PPO": 1.0}  # ✎

# %%
check(
    lambda method: first_losses[method],
    [
        Case(("SFT",), math.log(4), "every token has probability ¼: −log ¼ = ln 4"),
        Case(("reward model",), math.log(2), "both rewards are 0: −log σ(0) = −log ½ = ln 2"),
        Case(("DPO",), math.log(2), "policy and reference agree, so both implicit rewards are 0: ln 2 again"),
        Case(("PPO",), 0.0, "all ratios are 1, so the loss is minus the mean advantage, and whitening made that 0"),
    ],
    "The first loss",
)

# %% [markdown]
# ## 1 · Cross-entropy: imitate
#
# A language model reads a row of tokens and says after each of them how likely every word is to come next. Supervised
# fine-tuning (SFT) raises the probability of the words that a person wrote:
#
# $$L = -\frac{1}{\sum_t m_t} \sum_t m_t \log \pi(y_t \mid x, y_{<t})$$
#
# The mask $m_t$ is 1 on the tokens of the **answer**, its **end token** included, and 0 on the prompt and on padding.
# Two things are easy to get wrong, so here is one row in full: the question "crow ?", the answer "black .", its end,
# and one place of padding, because the other rows of the batch are longer. As in many real models, padding and the end
# are *the same token*.

# %%
WORDS = ["⟨end⟩", "crow", "?", "black", "white", "."]
tokens = [1, 2, 3, 5, 0, 0]
counts = [0, 0, 1, 1, 1, 0]
next_prob = [0.25, 0.5, 0.25, 0.125, 0.9]  # after each token: the probability of the one that does come next

body = []
for t, p in enumerate(next_prob):
    learnt = counts[t + 1]
    cost = f"−log {p:g} = <b>{-math.log(p):.4f}</b>" if learnt else f'<span style="color:{cards.FAINT}">0</span>'
    body.append((f"{t}", WORDS[tokens[t]], WORDS[tokens[t + 1]], f"{p:g}", f"{learnt}", cost))
HTML(cards.table(("position", "reads", "should say next", "with probability", "counts", "cost, nats"), body,
                 "The shift by one: position t is asked for token t + 1"))  # fmt: skip

# %% [markdown]
# **Exercise 1.** The mean cost of the tokens that count. `next_prob[t]` is the probability that the model, having read
# tokens 0 … t, gave to token t + 1; `counts[t]` says whether *token t* is to be learnt. The cell starts with an answer
# that has overlooked something.


# %% tags=["exercise"]
def my_cross_entropy(next_prob, counts):
    """−mean log p over the tokens that count, in nats; 0 where none does."""
    costs = [-math.log(p) for p, c in zip(next_prob, counts, strict=False) if c]  # ✎
    return sum(costs) / len(costs)


# %%
check(
    my_cross_entropy,
    [
        Case((tuple(next_prob), tuple(counts)), 1.3863, "probabilities ½, ¼ and ⅛ cost (1 + 2 + 3) ln 2, over 3 "
             "tokens: 2 ln 2"),
        Case(((0.001, 0.5), (0, 0, 1)), 0.6931, "the prompt is free, however badly the model foresaw it"),
        Case(((0.5, 0.5, 0.001), (0, 0, 1, 0)), 0.6931, "so is what follows the end"),
        Case(((0.5,), (0, 0)), 0.0, "no token counts: 0, and not 0 / 0"),
    ],
    "Cross-entropy",
)  # fmt: skip

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# costs = [-math.log(p) for p, c in zip(next_prob, counts[1:]) if c]  # position t predicts token t + 1
# return sum(costs) / max(len(costs), 1)
# ```
# </details>
#
# The lab's own, step by step. It starts from logits, which are log-probabilities up to a constant, and nothing in it
# reduces until the last line: every token has its loss and its **weight**, and the loss of an update is $\sum w L$.

# %%
others = [[(1 - p) / (len(WORDS) - 1)] * len(WORDS) for p in next_prob]
logits = torch.tensor(others).log()
for t, p in enumerate(next_prob):
    logits[t, tokens[t + 1]] = math.log(p)

row, mask = torch.tensor([tokens]), torch.tensor([counts]).bool()
inputs, targets, learnt = shift(row, mask)
logprobs = token_logprobs(logits[None], targets)
loss = weighted_sum(nll(logprobs, learnt), token_weights(learnt, "token_mean"))
print("targets  ", [WORDS[i] for i in targets[0]])
print("learnt   ", learnt[0].int().tolist())
print("nats     ", [round(x, 4) + 0.0 for x in nll(logprobs, learnt)[0].tolist()])
print(f"loss       {float(loss):.6f}   2 ln 2 = {2 * math.log(2):.6f}")

# %% [markdown]
# ## 2 · Break it: three ways to get the mask wrong
#
# A toy model learns the row above and two like it. It is the smallest language model there is: one table of logits, a
# line for each word and a column for the word after it. It is trained four times, and the only difference is which
# tokens count:
#
# | rule | which tokens count |
# |---|---|
# | `length` | the answer up to and including its end, from the *lengths* of the rows |
# | `id != pad` | the answer, but only tokens that are not the padding token |
# | `no end` | the answer without its end token |
# | `everything` | all tokens of the row |
#
# **✎ predict** – how does each of the three others compare with `length`? Say `"higher"`, `"lower"` or `"same"`.

# %% tags=["exercise"]
against_length = {
    "id != pad": {"loss shown": "same", "length of answers": "same"},
    "no end": {"loss shown": "same", "length of answers": "same"},
    "everything": {"loss shown": "same", "length of answers": "same"},
}

# %%
ROWS = torch.tensor([[1, 2, 3, 5, 0, 0, 0], [1, 2, 4, 5, 0, 0, 0], [1, 2, 3, 3, 3, 5, 0]])
LENGTHS, ANSWER = torch.tensor([5, 5, 7]), 2  # the answer begins at place 2
in_row = length_mask(LENGTHS, ROWS.shape[1])
answer = in_row & (torch.arange(ROWS.shape[1]) >= ANSWER)
PAD = END = 0
RULES = {
    "length": answer,
    "id != pad": answer & (ROWS != PAD),
    "no end": answer & (torch.arange(ROWS.shape[1]) < LENGTHS[:, None] - 1),
    "everything": torch.ones_like(answer),
}


def learn(counted, steps=300):
    """The table after training, and the loss that was shown last."""
    table = torch.zeros(len(WORDS), len(WORDS), requires_grad=True)
    optimiser = torch.optim.Adam([table], lr=0.1)
    read, ask, use = shift(ROWS, counted)
    for _ in range(steps):
        loss = weighted_sum(nll(token_logprobs(table[read], ask), use), token_weights(use, "token_mean"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return table.detach(), float(loss.detach())


def answers(table, n=400, longest=30):
    """Sampled answers to "crow ?", as lists of words."""
    draw, p, said = torch.Generator().manual_seed(0), table.softmax(-1), []
    for _ in range(n):
        now, words = 2, []
        while len(words) < longest and (not words or now != END):
            now = int(torch.multinomial(p[now], 1, generator=draw))
            words.append(WORDS[now])
        said.append(words)
    return said


seen, shown = {}, []
for rule, counted in RULES.items():
    table, loss = learn(counted)
    said = answers(table)
    length = sum(map(len, said)) / len(said)
    seen[rule] = {"loss shown": loss, "length of answers": length}
    end = float(table.softmax(-1)[WORDS.index("."), END])
    shown.append((f"<code>{rule}</code>", f"{loss:.3f}", f"{end:.2f}", f"{length:.1f}", " ".join(said[0])))
HTML(cards.table(("counts", "loss shown", "P(end) after “.”", "tokens an answer", "one of them"), shown))

# %%
WHY = {
    ("id != pad", "loss shown"): "the certain end is not counted, so the mean of what is left is higher",
    ("id != pad", "length of answers"): "the end token *is* the padding token: it was never learnt",
    ("no end", "loss shown"): "the same tokens count as with id != pad, so it is the same mistake",
    ("no end", "length of answers"): "what is never shown to end does not learn to end",
    ("everything", "loss shown"): "padding after the end is easy to foresee, and pulls the mean down",
    ("everything", "length of answers"): "here it only flatters the loss",
}


def word(rule, what):
    """How a rule compares with `length`."""
    mine, right = seen[rule][what], seen["length"][what]
    return "same" if abs(mine - right) < 0.1 * right else "higher" if mine > right else "lower"


check(lambda rule, what: against_length[rule][what], [Case(key, word(*key), why) for key, why in WHY.items()],
      "The wrong masks")  # fmt: skip

# %% [markdown]
# The first two train without complaint and give a model that **never knows when it is done**: after the full stop every
# word is as likely as at the start. It is a common fault of home-made trainers, because `pad_token = eos_token` is a
# common line in them. Masks come from lengths, never from token ids, and the end token is inside.
#
# The third does not harm this toy, and its loss is the lowest of all. That is what is wrong with it: a run whose loss
# falls because of padding and prompts is a run whose loss tells you nothing. (In a real model the prompts' tokens would
# also teach it to write questions.)
#
# ### The third way: averaging averages
#
# Batches are often too large for memory, so an update is split into *passes* whose gradients are added. Take two rows:
# an answer of 2 tokens which cost 3 nats each, and one of 8 tokens of 1 nat each. Together: $(6 + 8) / 10 = 1.4$. If
# every pass takes its own mean, and the two means are averaged: $(3 + 1) / 2 = 2$. That is another loss with another
# gradient, in which a token of a short answer counts four times as much, and it changes with the way the rows happen to
# be split. It went unnoticed in several well-known trainers until 2024.
#
# **Exercise 2.** The loss of an update, from the token losses of each of its passes.


# %% tags=["exercise"]
def my_update_loss(passes):
    """The mean over all tokens of the update, in nats; `passes` holds a tuple of token losses for each pass."""
    means = [sum(losses) / len(losses) for losses in passes]  # ✎
    return sum(means) / len(means)


# %%
check(
    my_update_loss,
    [
        Case((((3.0, 3.0), (1.0,) * 8),), 1.4, "(6 + 8) / 10"),
        Case((((3.0, 3.0, 1.0, 1.0, 1.0, 1.0), (1.0,) * 4),), 1.4, "the same tokens, split elsewhere: the same loss"),
        Case((((3.0, 3.0, *(1.0,) * 8),),), 1.4, "and in one pass"),
        Case((((2.0,), ()),), 2.0, "a pass in which nothing counts adds nothing, above and below the line"),
    ],
    "The loss of an update",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# n = sum(len(losses) for losses in passes)
# return sum(sum(losses) for losses in passes) / n
# ```
# </details>
#
# The lab makes the weights $1 / \sum m$ once, from the mask of the *whole* update, and cuts them together with the
# rows. Whatever the split, the parts add up to the same loss.

# %%
losses = torch.zeros(2, 8)
losses[0, :2], losses[1] = 3.0, 1.0
use = length_mask(torch.tensor([2, 8]), 8)
weights = token_weights(use, "token_mean")
parts = [weighted_sum(losses[i : i + 1], weights[i : i + 1]) for i in range(2)]
print(f"one pass: {float(weighted_sum(losses, weights)):g}   two passes:", " + ".join(f"{float(x):g}" for x in parts))

# %% [markdown]
# Turn the length of the second answer. Where both have the same length, the two rules agree, which is why a test with
# rows of equal lengths finds nothing.


# %%
def averages(n):
    """The share of one token of each row in the loss, under both rules."""
    names = ["token of the row of 2", f"token of the row of {int(n)}"]
    right, wrong = [1 / (2 + n)] * 2, [1 / 4, 1 / (2 * n)]
    data = [{"type": "bar", "name": name, "x": names, "y": y, "text": [f"{v:.3f}" for v in y]}
            for name, y in (("mean over the update", right), ("mean of the passes' means", wrong))]  # fmt: skip
    look = figures.look()
    y = look["yaxis"] | {"title": {"text": "weight in the loss"}, "range": [0, 0.3]}
    return {"data": data, "layout": look | {"height": 280, "showlegend": True, "yaxis": y,
                                            "xaxis": look["xaxis"] | {"type": "category"}}}  # fmt: skip


turn(averages, n=Knob(2, 40, 8, 1, label="tokens of the second answer"))

# %% [markdown]
# ## 3 · Bradley and Terry: one pair
#
# A reward model gives every answer a number. Somebody preferred $c$ to $r$; the model holds that this happens with
# probability $\sigma(r_c - r_r)$, and the loss is minus the log of it.
#
# **Exercise 3.** Write it. `1 / (1 + math.exp(-x))` is $\sigma(x)$.


# %% tags=["exercise"]
def my_bradley_terry(chosen, rejected):
    """−log σ(r_c − r_r), in nats."""
    return rejected - chosen  # ✎


# %%
check(
    my_bradley_terry,
    [
        Case((0.0, 0.0), 0.6931, "equal rewards: −log ½ = ln 2"),
        Case((1.0986, 0.0), 0.2877, "a lead of ln 3 is a probability of ¾: −log ¾"),
        Case((0.0, 1.0986), 1.3863, "the other way round: −log ¼"),
        Case((101.0986, 100.0), 0.2877, "only the difference counts: the same as ln 3 against 0"),
    ],
    "Bradley and Terry",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# return -math.log(1 / (1 + math.exp(-(chosen - rejected))))
# ```
# </details>
#
# The gradient is as simple as the loss: $-\partial L / \partial r_c = 1 - \sigma(r_c - r_r)$, the probability the
# model gave to what did *not* happen. A pair it already gets right hardly pushes; one it gets wrong pushes with nearly
# 1, and a wrong label pushes for ever.

# %%
lead = torch.tensor([0.0, math.log(3), -math.log(3)], requires_grad=True)
loss = bradley_terry(lead, torch.zeros(3))
loss.sum().backward()
print("loss of the lab", [round(x, 4) for x in loss.tolist()], "  push", [round(-x, 4) for x in lead.grad.tolist()])

# %% [markdown]
# ## 4 · DPO: four log-probabilities
#
# Direct preference optimisation has no reward model. It takes four numbers, the log-probabilities of both answers under
# the policy and under its frozen starting point, and calls
#
# $$\hat r(y) = \beta \log \frac{\pi(y)}{\pi_\text{ref}(y)}$$
#
# the **implicit reward** of an answer. Then it is Bradley and Terry again: $L = -\log \sigma(\hat r_c - \hat r_r)$.
#
# **Exercise 4.** Write it. ($-\log \sigma(x)$ is the same as $\log(1 + e^{-x})$.)


# %% tags=["exercise"]
def my_dpo(chosen, rejected, chosen_reference, rejected_reference, beta):
    """The loss in nats, from log-probabilities of whole answers, in nats."""
    lead = beta * chosen - beta * rejected  # ✎ something is missing
    return math.log(1 + math.exp(-lead))


# %%
check(
    my_dpo,
    [
        Case((-9.0, -5.0, -9.0, -5.0, 0.1), 0.6931, "the policy is the reference: ln 2"),
        Case((-5.0, -15.0, -10.0, -10.0, 0.1), 0.3133, "up 5 nats and down 5: β · 10 = 1, and −log σ(1) = 0.3133"),
        Case((-15.0, -25.0, -10.0, -10.0, 0.1), 0.3133, "down 5 nats and down 15: the same margin, the same loss"),
        Case((-10.0, -10.0, -10.0, -20.0, 0.1), 1.3133, "the reference preferred c by 10 nats and the policy no longer "
             "does: −log σ(−1)"),
    ],
    "DPO",
)  # fmt: skip

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# lead = beta * (chosen - chosen_reference) - beta * (rejected - rejected_reference)
# return math.log(1 + math.exp(-lead))
# ```
# </details>
#
# Look at the second and the third case. In the third, the *chosen* answer has become $e^5 \approx 148$ times less
# likely, and the loss is just as happy. Turn the four log-probabilities and see what DPO can see: two bars, of which
# only the difference counts.


# %%
def four(chosen, rejected, chosen_reference, rejected_reference, beta):
    """Implicit rewards of both answers, and the lab's loss of the pair."""
    numbers = (chosen, rejected, chosen_reference, rejected_reference)
    pair = Pairs(*(torch.tensor([float(x)]) for x in numbers), torch.ones(1), torch.ones(1))
    loss = float(OBJECTIVES["dpo"].loss(pair, Knobs(beta)))
    rewards = [beta * (chosen - chosen_reference), beta * (rejected - rejected_reference)]
    look = figures.look()
    title = f"loss {loss:.4f}: the chosen one leads by {rewards[0] - rewards[1]:+.2f}"
    bar = {"type": "bar", "x": ["chosen", "rejected"], "y": rewards, "text": [f"{r:+.2f}" for r in rewards],
           "marker": {"color": [figures.LIGHT[0], figures.LIGHT[1]]}}  # fmt: skip
    return {"data": [bar], "layout": look | {
        "height": 290, "title": {"text": title, "font": {"size": 13}, "x": 0.02},
        "margin": {"t": 36, "b": 8, "l": 8, "r": 8}, "xaxis": look["xaxis"] | {"type": "category"},
        "yaxis": look["yaxis"] | {"title": {"text": "implicit reward"}, "range": [-4, 4]}}}  # fmt: skip


turn(four, chosen=Knob(-30, -1, -15, 0.5, label="log π(chosen)"), rejected=Knob(-30, -1, -25, 0.5,
     label="log π(rejected)"), chosen_reference=Knob(-30, -1, -10, 0.5, label="log π_ref(chosen)"),
     rejected_reference=Knob(-30, -1, -10, 0.5, label="log π_ref(rejected)"),
     beta=Knob(0.02, 1.0, 0.1, log=True, label="β"))  # fmt: skip

# %% [markdown]
# ## 5 · PPO: a ratio, an advantage, and a clip
#
# In reinforcement learning the tokens come from the model itself. Each has an **advantage** $A$: how much better than
# expected things went after it. While the policy learns from a batch it drifts away from the one that wrote it; the
# **ratio** $\rho = \pi(y_t) / \pi_\text{old}(y_t)$ says how far. The loss of a token is
#
# $$L = \max\big(-A\,\rho,\; -A\,\mathrm{clip}(\rho, 1 - \varepsilon, 1 + \varepsilon)\big)$$
#
# The maximum is the pessimist's choice: what a token could still *earn* by moving on ends at the edge of the clip, what
# it *costs* does not.
#
# **Exercise 5.** Write it. The cell starts without the clip.


# %% tags=["exercise"]
def my_surrogate(logprob, old, advantage, clip):
    """The loss of one token, in units of the advantage; `logprob` and `old` in nats."""
    ratio = math.exp(logprob - old)
    return -advantage * ratio  # ✎


# %%
check(
    my_surrogate,
    [
        Case((-2.0, -2.0, 1.5, 0.2), -1.5, "nothing has moved: ρ = 1 and L = −A"),
        Case((-1.5945, -2.0, 1.0, 0.2), -1.2, "a good token, already 1.5 times as likely: it earns 1.2 and no more"),
        Case((-2.6931, -2.0, -1.0, 0.2), 0.8, "a bad token, already half as likely: clipped at 0.8"),
        Case((-1.5945, -2.0, -1.0, 0.2), 1.5, "a bad token that became *likelier*: costs all of 1.5, no clip helps"),
        Case((-2.6931, -2.0, 1.0, 0.2), -0.5, "a good token that became *less* likely: not clipped either"),
    ],
    "The clipped surrogate",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# held = min(max(ratio, 1 - clip), 1 + clip)
# return max(-advantage * ratio, -advantage * held)
# ```
# </details>
#
# Where the clip decides, the line is flat: the gradient is exactly 0 and the token has no say in this update. Turn the
# advantage through 0 and watch which side goes flat.


# %%
def surrogate(advantage, clip, ratio):
    """The lab's loss over the ratio, and one token on it with its push."""
    rho = torch.cat([torch.linspace(0.05, 2.5, 99), torch.tensor([ratio])])
    logprob = rho.log().requires_grad_()
    found = ppo_policy(logprob[None], torch.zeros(1, 100), torch.full((1, 100), float(advantage)), clip)
    (slope,) = torch.autograd.grad(found.loss.sum(), logprob)
    y = found.loss[0].tolist()
    note = "  (clipped)" if found.clipped[0, -1] else ""
    title = f"loss {y[-1]:+.3f}, push on log π {0.0 - float(slope[-1]):+.3f}{note}"
    data = [{"type": "scatter", "mode": "lines", "x": rho[:-1].tolist(), "y": y[:-1], "name": "loss"},
            {"type": "scatter", "mode": "markers", "x": [ratio], "y": [y[-1]], "name": "the token",
             "marker": {"size": 11, "color": figures.LIGHT[1]}}]  # fmt: skip
    look = figures.look()
    return {"data": data, "layout": look | {
        "height": 310, "title": {"text": title, "font": {"size": 13}, "x": 0.02},
        "margin": {"t": 36, "b": 8, "l": 8, "r": 8},
        "xaxis": look["xaxis"] | {"title": {"text": "ratio ρ"}, "range": [0, 2.5]},
        "yaxis": look["yaxis"] | {"title": {"text": "loss"}, "range": [-3, 3]}}}  # fmt: skip


turn(surrogate, advantage=Knob(-2, 2, 1, 0.1, label="advantage A"), clip=Knob(0.02, 1, 0.2, 0.02, label="clip ε"),
     ratio=Knob(0.05, 2.5, 1.5, 0.05, label="ratio ρ"))  # fmt: skip

# %% [markdown]
# ## 6 · How far is far? Three estimators of the KL divergence
#
# A policy that learns from a reward must not run away from where it began. The distance is
# $\mathrm{KL}(\pi \,\|\, \pi_\text{ref}) = \mathbb{E}_{y \sim \pi}[\log \pi(y) - \log \pi_\text{ref}(y)]$, and all we
# have are samples. With $d = \log \pi(y) - \log \pi_\text{ref}(y)$ of a sampled token,
#
# $$k_1 = d \qquad k_2 = \tfrac12 d^2 \qquad k_3 = e^{-d} - 1 + d$$
#
# **Exercise 6.** Write all three.


# %% tags=["exercise"]
def my_estimate(name, d):
    """k1, k2 or k3 of one token, in nats."""
    return d  # ✎


# %%
check(
    my_estimate,
    [
        Case(("k1", 0.6931), 0.6931, "twice as likely as under the reference: ln 2"),
        Case(("k1", -0.6931), -0.6931, "half as likely: it can be negative, and the distance cannot"),
        Case(("k2", 0.6931), 0.2402, "(ln 2)² / 2"),
        Case(("k3", 0.6931), 0.1931, "½ − 1 + ln 2"),
        Case(("k3", -0.6931), 0.3069, "2 − 1 − ln 2: never negative"),
    ],
    "Estimators",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# return {"k1": d, "k2": d**2 / 2, "k3": math.exp(-d) - 1 + d}[name]
# ```
# </details>
#
# Which is right? On a vocabulary of three words we can take the mean over *all* words instead of samples. The policy
# says (½, ¼, ¼), the reference (¼, ¼, ½), so the truth is $\tfrac12 \ln 2 + \tfrac14 \ln \tfrac12 = \tfrac14 \ln 2$.

# %%
POLICY, REFERENCE = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])


def spread(p, q):
    """Mean and standard deviation of every estimator over tokens from p."""
    found = {}
    for name, estimator in (("k1", k1), ("k2", k2), ("k3", k3)):
        k = estimator(p.log()[None], q.log()[None])[0]
        mean = float((p * k).sum())
        found[name] = (mean, float((p * (k - mean) ** 2).sum().sqrt()))
    return found


print(f"KL = ¼ ln 2 = {math.log(2) / 4:.4f}\n      mean    standard deviation of one sample")
for name, (mean, sd) in spread(POLICY, REFERENCE).items():
    print(f"{name}   {mean:.4f}   {sd:.4f}")

# %% [markdown]
# $k_1$ and $k_3$ have the right mean, and $k_3$ scatters less; $k_2$ is a little off. Now let the policy walk away from
# the reference. The bars are the means, the whiskers one standard deviation of a single sample.


# %%
def walked(distance):
    """The estimators when the policy has gone some way from the reference towards its first word."""
    p = (REFERENCE.log() + distance * torch.tensor([1.0, 0.0, 0.0])).softmax(0)
    true, found = float((p * (p / REFERENCE).log()).sum()), spread(p, REFERENCE)
    data = [{"type": "bar", "x": ["KL", *found], "y": [true, *(mean for mean, _ in found.values())],
             "marker": {"color": [figures.LIGHT[1], *[figures.LIGHT[0]] * 3]},
             "error_y": {"array": [0, *(sd for _, sd in found.values())]}}]  # fmt: skip
    look = figures.look()
    title = f"policy ({', '.join(f'{x:.2f}' for x in p.tolist())}), KL {true:.3f} nats"
    return {"data": data, "layout": look | {
        "height": 300, "title": {"text": title, "font": {"size": 13}, "x": 0.02},
        "margin": {"t": 36, "b": 8, "l": 8, "r": 8}, "xaxis": look["xaxis"] | {"type": "category"},
        "yaxis": look["yaxis"] | {"title": {"text": "nats"}, "range": [-1.5, 2.5]}}}  # fmt: skip


turn(walked, distance=Knob(-4, 4, 1, 0.1, label="steps from the reference"))

# %% [markdown]
# Near the reference the three means agree. Far to the left $k_2$ shows a third of the distance. $k_1$ scatters most,
# and still it is the one to add up in a reward: over a completion its sum is exactly
# $\log \pi(y) / \pi_\text{ref}(y)$.
#
# A trap for later: what is a good *value* need not be a good *loss*. The expected gradient of $k_1$ is zero, and a KL
# penalty of $k_1$ put into the loss instead of the reward does nothing at all. The next cell takes the expectation of
# the gradient with respect to the policy's logits: the true one first.

# %%
z = POLICY.log().requires_grad_()
(true,) = torch.autograd.grad((z.softmax(0) * (z.log_softmax(0) - REFERENCE.log())).sum(), z)
print(f"{'gradient of the KL':28}", [round(x, 4) for x in true.tolist()])
for name, estimator in (("k1", k1), ("k2", k2), ("k3", k3)):
    k = estimator(z.log_softmax(0)[None], REFERENCE.log()[None])[0]
    (mean,) = torch.autograd.grad((POLICY * k).sum(), z)  # tokens are drawn from π, and the draw has no gradient
    print(f"{f'expected gradient of {name}':28}", [round(x, 4) + 0.0 for x in mean.tolist()])

# %% [markdown]
# As a loss, $k_2$ is the right one, $k_1$ teaches nothing, and $k_3$ follows another divergence (that of the reference
# from the policy).
#
# ## 7 · GRPO: a group is its own yardstick
#
# Where does the advantage of section 5 come from? PPO trains a second network to say what is to be expected. GRPO asks
# $G$ times and compares: $A_i = (r_i - \text{mean}) / \text{spread}$, with the standard deviation that divides by
# $G - 1$.
#
# **Exercise 7.** The advantage of member $i$. If all are equal there is nothing to learn: 0.


# %% tags=["exercise"]
def my_advantage(rewards, i):
    """(r_i − mean) / standard deviation of the group."""
    return rewards[i] - sum(rewards) / len(rewards)  # ✎


# %%
check(
    my_advantage,
    [
        Case(((1.0, 0.0), 0), 0.7071, "½ over √½, the spread of (1, 0) with n − 1 = 1"),
        Case(((1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0), 2.4749, "one right of eight: (7/8) / √(1/8)"),
        Case(((1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), 1), -0.3536, "each wrong one of them: (−1/8) / √(1/8)"),
        Case(((100.0, 0.0), 0), 0.7071, "the scale of the reward does not matter"),
        Case(((1.0, 1.0, 1.0, 1.0), 2), 0.0, "all right: nobody is better than the others, and 0 / 0 must not happen"),
    ],
    "The advantage in a group",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# mean = sum(rewards) / len(rewards)
# sd = (sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5
# return (rewards[i] - mean) / sd if sd else 0.0
# ```
# </details>
#
# The lab adds 1e-4 to the spread. Turn how many of eight answers were right. A rare success is pushed hard, a rare
# failure held back hard, and at 0 and at 8 the group is **flat**: it was sampled and scored for nothing.


# %%
def group(right):
    """Advantages of right and wrong answers in a group of eight."""
    rewards = torch.tensor([[1.0] * int(right) + [0.0] * (8 - int(right))])
    A = group_std(rewards)[0].tolist()
    colours = [figures.LIGHT[0] if r else figures.LIGHT[1] for r in rewards[0].tolist()]
    names = [f"{'right' if r else 'wrong'} {i + 1}" for i, r in enumerate(rewards[0].tolist())]
    look = figures.look()
    bar = {"type": "bar", "x": names, "y": A, "marker": {"color": colours}, "text": [f"{a:+.2f}" for a in A]}
    return {"data": [bar], "layout": look | {
        "height": 280, "xaxis": look["xaxis"] | {"type": "category", "dtick": 1},
        "yaxis": look["yaxis"] | {"title": {"text": "advantage"}, "range": [-3, 3]}}}  # fmt: skip


turn(group, right=Knob(0, 8, 1, 1, label="right answers of 8"))

# %% [markdown]
# ## 8 · The first loss of a real run, before the run
#
# Enough of toys. The tiny world's base model is loaded, a small SFT run is made, and we compute what its first update
# will log: tokens and masks of its demonstrations, log-probabilities of the base, minus the mean over the counted ones.

# %%
bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/losses_by_hand")), adapter=Adapter(rank=16, alpha=32))
bench

# %%
demonstrations = tiny.demonstrations(size["demonstrations"])
encoded = bench.base.chat.encode(demonstrations[0].prompt, demonstrations[0].completion)
words = bench.base.chat.tokenizer.convert_ids_to_tokens(list(encoded.ids))
print(" ".join(f"[{w}]" if counted else w for w, counted in zip(words, encoded.mask, strict=True)))
print("in brackets: the tokens that count, the end token among them")

# %%
split = [tuple(map(tuple, bench.base.chat.split(d.prompt, d.completion))) for d in demonstrations]
known = bench.call(lambda: score(bench.base, split, {"base": "logprobs"}))["base"]
costs = [[-float(known[i, t]) for t in range(len(said))] for i, (_, said) in enumerate(split)]
n = sum(map(len, costs))
mine = sum(map(sum, costs)) / n
print(f"{n} tokens count; their mean cost is {mine:.6f} nats, a perplexity of {math.exp(mine):.2f}")
print(f"(the mean of the rows' means would be {sum(sum(row) / len(row) for row in costs) / len(costs):.6f})")

# %% [markdown]
# All of these demonstrations together are one batch, and the run shows it to the model again and again. That is no way
# to train, but it is the first test of any trainer: **one batch must be learnt by heart**. If the loss does not go to
# nearly nothing, look for a wrong mask, a wrong shift or a frozen weight before you look for a better learning rate.
#
# **✎ predict** – over the run, from its first updates to its last: `"higher"`, `"lower"` or `"same"`?

# %% tags=["exercise"]
my_prediction = {"loss": "lower", "token_accuracy": "higher", "grad_norm": "same"}

# %%
config = SFTConfig(lr=3e-3, batch=len(demonstrations), epochs=size["passes"], eval_share=0.0, eval_every=0,
                   probe_every=0, save_every=0)  # fmt: skip
run = bench.new("sft", config, demonstrations, title="one batch by heart")
live = bench.play(run)
live

# %%
live.wait()
follower = Follower(run)
follower.refresh()
logged = follower.columns(["loss"])["loss"].values
print(f"by hand {mine:.6f}   the run's first update {logged[0]:.6f}   difference {abs(mine - logged[0]):.1g}")
print(f"its last update {logged[-1]:.6f}")

# %%
check_change(my_prediction, run)

# %% [markdown]
# What you computed and what the run logged differ by rounding alone. The list in the view above calls such checks
# **invariants**: a first loss of ln 2, a first ratio of 1, a first KL of 0. They are the cheapest tests there are. Look
# at them before you look at a curve.
#
# ## Go on
#
# * Notebook 02 does section 1 to a model, 03 section 3, 04 sections 5 and 6, and 06 and 07 take 4 and 7 further.
# * Break section 8: leave the end token out of `costs`, or take the mean of the rows' means. By how much is your number
#   off, and would you have noticed it in a curve?
# * Every function used here stands in `lab/objectives/`, with equation, shapes, limits and source.
#
# **Reading.** Bradley and Terry 1952, *Rank analysis of incomplete block designs* (Biometrika 39) · Ouyang et al.
# 2022, *Training language models to follow instructions with human feedback*, arXiv 2203.02155 (SFT, reward model and
# PPO in one place) · Rafailov et al. 2023, *Direct preference optimization*, arXiv 2305.18290 · Schulman et al. 2017,
# *Proximal policy optimization algorithms*, arXiv 1707.06347 (equation 7) · Schulman 2020, *Approximating KL
# divergence* (joschu.net/blog/kl-approx.html) · Shao et al. 2024, *DeepSeekMath*, arXiv 2402.03300 (GRPO) · Huang et
# al. 2024, *The N+ implementation details of RLHF with PPO*, arXiv 2403.17031.

# %%
bench.close()
