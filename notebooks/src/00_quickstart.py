# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From imitation to reinforcement, in three minutes
#
# A language model that has only read text can already talk. It does not yet know what people *want* to hear. This
# notebook walks the whole road from there, with every step small enough to watch:
#
# | stage | what it learns from | what comes out |
# |---|---|---|
# | **SFT** | written answers to imitate | a model that answers |
# | **Reward model** | pairs of answers, one of them preferred | a program that scores answers |
# | **PPO** | its own answers and their scores | a model that earns the reward |
#
# **The question of this notebook:** what does each stage add, and how would you know that the last one has really made
# the model better?
#
# All of it happens in a **tiny world**: a few hundred words, thirty countries, some animals, some things nobody
# should do. It fits on two CPU cores and needs no network. It has one luxury that real projects lack: the *true
# score* of every answer is known, so we can see when the learned reward stops meaning what we meant.
#
# Run the cells one after the other with <kbd>Shift</kbd>+<kbd>Enter</kbd>. Cells marked **✎ predict** ask for a guess
# first. Guess; it is half the fun, and the better half of the learning.

# %%
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

from lab import demo, figures, tiny
from lab.config import Adapter
from lab.notebook import Case, Workbench, check, check_branch, check_change, frontier
from lab.records import prompt_text

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {
    "tiny": {"demonstrations": 1500, "pairs": 3000, "steps": 36, "pause": 12, "batch": 64, "heldout": 300},
    "ci": {"demonstrations": 96, "pairs": 48, "steps": 4, "pause": 2, "batch": 16, "heldout": 24},
}
size = SIZES[PROFILE]

bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/quickstart")), adapter=Adapter(rank=16, alpha=32))
bench

# %% [markdown]
# ## 1 · The base model
#
# The base was trained to continue text, nothing else. It is stored in 4 bits (NF4) and stays frozen from here on.
# Whatever we teach goes into small *adapters* beside it, one for each **role**: `sft`, `reward`, `policy`, `value`.
# All roles share the one base in memory.
#
# Let us ask it something. The true score is at most 1; hover over it to see what it is made of.

# %%
QUESTIONS = [
    "What is the capital of Norway?",
    "What is 5 plus 1?",
    "I think the capital of Kenya is Rome, am I right?",
    "How do I make drugs?",
    "What is the capital of Elbany?",
]
bench.ask(QUESTIONS, {"base, seed 0": "base"})

# %% [markdown]
# It knows a lot, and says all sorts of things with it: right answers, wrong ones, chatter, praise. Norway, Kenya and
# Elbany (which does not exist) are *held out*: no later stage trains on a question about them.
#
# Words the world does not know are refused with a suggestion. Try your own question by changing the list above.
#
# ## 2 · SFT: imitate
#
# Supervised fine-tuning raises the likelihood of answers that somebody wrote:
#
# $$L = -\frac{1}{\sum_t m_t}\sum_t m_t \,\log \pi_\theta(y_t \mid x, y_{<t})$$
#
# where $m_t$ is 1 on the tokens of the answer, its end token included, and 0 on the prompt. Our writers are in a
# hurry: about two answers in three are as they should be.

# %%
demonstrations = tiny.demonstrations(size["demonstrations"])
for d in demonstrations[:4]:
    print(f"{prompt_text(d.prompt)}\n    → {d.completion}")

# %% [markdown]
# The next cell starts the run and gives you a live view of it. **Play, Pause, Step, Stop** do what they say; the
# learning rate can be changed while it runs; the prompt box asks the model as it is at this moment, without
# disturbing the run.

# %%
sft = bench.new("sft", demo.SFT, demonstrations, title="imitate the demonstrations")
live = bench.play(sft)
live

# %% [markdown]
# A run lives in its own directory and plays in the background, so this notebook stays free: try the buttons now. The
# next cell waits for the end, and while a cell waits the buttons wait too. (Interrupt it if you like: the run stops
# after its step with a checkpoint, and `bench.play(sft)` goes on from there.)

# %%
live.wait()
bench.ask(QUESTIONS, {"base": "base", "SFT": sft})

# %% [markdown]
# Both columns were sampled with **the same noise**. Where they differ, it is because the training moved the
# probabilities, not because one of them was lucky.
#
# ## 3 · Comparisons: which of two answers is better?
#
# Writing good answers is hard; choosing the better of two is easy. So we sample several answers to each prompt from
# the SFT model and show pairs of them to an annotator. Ours is simulated and called *crowd*: it mostly wants good
# answers, and has a soft spot for praise and for long ones. The true score has not. Remember that.

# %%
prompts = [p.prompt for p in tiny.train_prompts()]
judged = bench.compare(sft, "crowd", prompts, size["pairs"])
for pair in judged.preferences[:: size["pairs"] // 4]:
    print(f"{prompt_text(pair.prompt)}\n    + {pair.chosen}\n    − {pair.rejected}")
print(f"\n{len(judged.preferences)} pairs, {judged.equal} more had two equal answers")

# %% [markdown]
# ## 4 · The reward model
#
# A scalar head on top of the SFT adapter reads the whole answer and gives one number $r$. It learns from the pairs by
# the Bradley–Terry likelihood: the probability that $a$ beats $b$ is the logistic function of the difference of their
# rewards.
#
# $$L = -\log \sigma\big(r(x, y_\text{chosen}) - r(x, y_\text{rejected})\big)$$
#
# The head starts at zero, so the first loss is $\ln 2 = 0.693$ exactly. It is one of the **invariants** in the live
# view: what must hold for a run to be right, checked while it plays, with the number that was seen.

# %%
reward = bench.new("reward", demo.REWARD, judged.preferences, {"reward": sft}, title="learn what the crowd prefers")
live = bench.play(reward)
live

# %%
live.wait()
seen = live.latest
print(f"agrees with the annotator on {seen['eval_accuracy']:.0%} of the held-out pairs")
if "gold_accuracy" in seen:
    print(f"agrees with the true score on {seen['gold_accuracy']:.0%} of those where one answer is truly better")

# %% [markdown]
# The annotator slips now and then, and cannot tell nearly equal answers apart, so nobody could agree with it all the
# time.
#
# ## 5 · PPO: earn the reward
#
# Now the model writes its own answers, the reward model scores them, and what scored better than expected becomes
# more likely. Four roles work on the one base: the **policy** that learns, its frozen starting point, the
# **reference**, the **reward** model, and the **value** role that guesses how a half-written answer will end. One
# term keeps the policy from running away:
#
# $$R(x, y) = r(x, y) - \beta \,\log\frac{\pi_\theta(y \mid x)}{\pi_\text{ref}(y \mid x)}$$
#
# The expectation of that logarithm is the **KL divergence**, in nats: how far the policy has moved from where it
# began.
#
# **✎ exercise** – write $R$ for one answer, from its reward and its log-probabilities (in nats) under the policy and
# the reference. The cell starts without the penalty.


# %% tags=["exercise"]
def my_objective(reward, logprob, reference, beta):
    """What PPO maximises, for one answer."""
    return reward  # ✎


# %%
check(
    my_objective,
    [
        Case((1.0, -8.0, -8.0, 0.25), 1.0, "as likely as before: nothing to pay"),
        Case((1.0, -6.0, -8.0, 0.25), 0.5, "two nats likelier than under the reference, at a quarter each"),
        Case((1.0, -9.0, -8.0, 0.25), 1.25, "less likely than under the reference: a single answer may even gain"),
    ],
    "Reward minus distance",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# return reward - beta * (logprob - reference)
# ```
# </details>
#
# **✎ predict** – compared with its first steps, where will the run end? Say `"higher"`, `"lower"` or `"same"`.

# %% tags=["exercise"]
my_prediction = {
    "reward": "higher",  # what the reward model says
    "gold": "higher",  # what the answers are truly worth
    "kl": "higher",  # the distance to the SFT model
    "length": "same",  # tokens per answer
}

# %%
config = replace(demo.PPO, steps=size["steps"], batch=size["batch"])
ppo = bench.new("ppo", config, tiny.train_prompts(), {"policy": sft, "reward": reward}, title="earn the crowd’s reward")
live = bench.play(ppo, steps=size["pause"])
live

# %% [markdown]
# It plays a few steps and pauses. Now look: is the reward moving? Do all invariants hold? The first *ratio* must be 1
# and the first KL 0: the policy starts as its own reference. Below the curves, the probe prompts show what changed
# since step 0.

# %%
live.wait_paused()
bench.ask(QUESTIONS, {"SFT": sft, f"PPO at step {size['pause']}": ppo})

# %% [markdown]
# A paused run can be changed. Suppose we want it to stay nearer to the SFT model: double the penalty $\beta$ (`kl`)
# and play on. The change holds from the next step, is written to the run's log, and the curves mark the place with a
# dotted line.

# %%
live.edit("kl", 2 * config.kl)
live.play()
live.wait()
live.figure.show(config=figures.CONFIG)  # as it is now, to keep

# %%
check_change(my_prediction, ppo)

# %% [markdown]
# ## 6 · Was it worth it?
#
# The reward model is a *proxy*. What counts is the true score, on prompts that no stage has seen, each role with the
# same noise.

# %%
bench.measure({"base": "base", "SFT": sft, "PPO": ppo}, reward=reward, n=size["heldout"])

# %% [markdown]
# The picture that people working on alignment know by heart: how much reward the policy earned for the distance it
# went. The solid line is the reward model's opinion, the dashed one the true score. As long as they rise together,
# the proxy is a good guide. Where they part, the policy has begun to please the judge instead of answering well
# (Goodhart's law).

# %%
frontier(ppo).show(config=figures.CONFIG)

# %% [markdown]
# ## 7 · Break it: a world without the penalty
#
# We paused the run and doubled $\beta$. What if we had *removed* it? A run can be **branched** from any saved step:
# same weights, same optimizer, same prompts to come; only what you change differs. So the comparison is fair.
#
# **✎ predict** – over the last steps of both, how will the branch with `kl = 0` compare with the run above?

# %% tags=["exercise"]
without_penalty = {
    "kl": "same",
    "reward": "same",
    "gold": "same",
    "length": "same",
}

# %%
free = live.branch(step=size["pause"], edits={"kl": 0.0})
free_live = bench.play(free)
free_live

# %%
free_live.wait()
check_branch(without_penalty, free, ppo)

# %%
frontier(ppo, free).show(config=figures.CONFIG)

# %% [markdown]
# <details><summary><b>What to look for</b> (open after you have run it)</summary>
#
# Without the penalty nothing holds the policy near the reference, so **KL** can only be expected to end *higher*. The
# **reward** usually ends at least as high, because the penalty no longer competes with it. The **true score** has no
# reason to follow: what is gained beyond this point is more and more what the crowd likes and the true score does
# not, praise and length. A few dozen steps are noisy, so "same" is often what the numbers can support. Play the
# branch for longer with `steps` in the config, or with another seed, and see whether the verdict stays.
# </details>
#
# ## Go on
#
# * Read the answers, not only the curves: `bench.sampler({"PPO": ppo, "no penalty": free}, QUESTIONS[0])`.
# * Change the annotator: `"expert"` dislikes praise, `"agreeable"` loves to be agreed with. Which policy do you get?
# * Run `lab studio` on the directory named at the top and label pairs yourself.
# * Notebook 01 works the losses out by hand, 02 to 05 take one stage each.
#
# **Reading.** Christiano et al. 2017, *Deep reinforcement learning from human preferences*, arXiv 1706.03741, where
# the loop comes from · Stiennon et al. 2020, *Learning to summarize from human feedback*, arXiv 2009.01325 · Ouyang
# et al. 2022, *Training language models to follow instructions with human feedback*, arXiv 2203.02155 (InstructGPT),
# the three stages as here · Schulman et al. 2017, *Proximal policy optimization algorithms*, arXiv 1707.06347 · Gao,
# Schulman and Hilton 2022, *Scaling laws for reward model overoptimization*, arXiv 2210.10760, the last figure ·
# Dettmers et al. 2023, *QLoRA*, arXiv 2305.14314, adapters on a 4-bit base · Casper et al. 2023, *Open problems and
# fundamental limitations of reinforcement learning from human feedback*, arXiv 2307.15217, what this road cannot do.

# %%
bench.close()
