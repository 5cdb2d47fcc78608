# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # GRPO and verifiers: rewards that a program can check
#
# PPO needs a reward model to judge answers and a value model to say what was to be expected. For some questions both
# are too much. Whether 7 plus 5 is 12 can be *checked*, and what was to be expected can be read off a few more tries
# at the same question.
#
# **The question of this notebook:** what does a group of answers teach, and what does a program that checks them
# really reward?
#
# You will compute advantages by hand, find out what two innocent divisions do, cheat a verifier, watch a model learn
# sums from nothing but right and wrong, see another one learn to cheat, and write a verifier of your own. About three
# minutes of computing on two cores.

# %%
import inspect
import os
import re
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

import torch
from IPython.display import display
from plotly.subplots import make_subplots

from lab import demo, figures, tiny
from lab.config import Adapter, GroupConfig
from lab.evaluate.best_of_n import pass_rates, pool
from lab.feedback.rewards import Rewards
from lab.feedback.verifiers import make
from lab.notebook import Case, Knob, Workbench, check, check_change, turn
from lab.objectives import length_mask, token_weights
from lab.objectives.group import ADVANTAGES
from lab.records import prompt_text
from lab.tabular import TabularWorld, total_variation
from lab.tiny.answers import sentence, series
from lab.tiny.facts import CAPITALS
from lab.tiny.questions import read
from lab.train import group

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {
    "tiny": {"demonstrations": 4000, "steps": 25, "prompts": 8, "group": 8, "heldout": 60, "table": 60},
    "ci": {"demonstrations": 300, "steps": 2, "prompts": 2, "group": 4, "heldout": 4, "table": 2},
}
size = SIZES[PROFILE]

bench = Workbench(Path(os.environ.get("LAB_RUNS", "runs/grpo")), adapter=Adapter(rank=16, alpha=32))
bench

# %% [markdown]
# ## 1 · An advantage without a critic
#
# Policy gradients make an answer more likely in proportion to its **advantage**: how much better it did than was to be
# expected. PPO asks a second network what was to be expected. *Group-relative* methods ask the policy itself: they
# sample $G$ answers to the same prompt and compare each one with the others. Five rules are in use:
#
# | rule | advantage | where |
# |---|---|---|
# | `group_std` | $(r_i - \bar r) / \sigma_\text{group}$ | GRPO |
# | `group_mean` | $r_i - \bar r$ | Dr. GRPO |
# | `leave_one_out` | $r_i - \text{mean of the others}$ | RLOO |
# | `batch_std` | $(r_i - \bar r) / \sigma_\text{batch}$ | Lite PPO |
# | `none` | $r_i$ | REINFORCE |
#
# **Exercise.** Four answers to one prompt earn 1, 0, 0, 0. Compute the advantages of the **first** one by hand. (The
# standard deviation divides by $G - 1$.)

# %% tags=["exercise"]
first_one = {"group_std": 0.0, "group_mean": 0.0, "leave_one_out": 0.0, "none": 0.0}  # ✎

# %%
check(
    lambda rule: first_one[rule],
    [
        Case(("group_mean",), 0.75, "the mean is ¼, and 1 − ¼ = ¾"),
        Case(("leave_one_out",), 1.0, "the others earned 0"),
        Case(("group_std",), 1.5, "σ² = (9 + 1 + 1 + 1) / 16 / 3 = ¼, so ¾ / ½"),
        Case(("none",), 1.0, "no baseline: the reward itself"),
    ],
    "A group of four",
    tolerance=0.01,
)

# %% [markdown]
# Three groups as a batch: a hard prompt, one that is always solved, and an easy one.

# %%
rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]])
print(f"{'rewards':14}", *(f"{' '.join(f'{r:5.0f}' for r in row)}   " for row in rewards.tolist()))
for rule, advantage in ADVANTAGES.items():
    print(f"{rule:14}", *(f"{' '.join(f'{a:5.2f}' for a in row)}   " for row in advantage(rewards).tolist()))

# %% [markdown]
# The middle group is the thing to remember. Where all answers earn the same, every difference is 0 and **the group
# teaches nothing**, be it all right or all wrong. (With `none` it does push: all of its answers at once.) A run
# therefore shows the share of flat groups, and methods like DAPO sample again in their place.
#
# ## 2 · What dividing does
#
# ### by the spread: which prompts count
#
# Turn how many of eight answers are right. Left, the advantage of a right and of a wrong answer. Right, the total push
# of the group, $\sum_i |A_i|$. Without the division a group counts most where half of its answers are right, and
# little at the ends. Dividing by $\sigma$ lifts the ends: a prompt solved once in eight then pushes two thirds as hard
# as one solved every other time, instead of less than half as hard. The authors of Dr. GRPO call it a bias towards
# very hard and very easy prompts, and leave the division out.

# %%
G = 8
every = (torch.arange(G)[None, :] < torch.arange(G + 1)[:, None]).float()  # row k: k right ones, then 8 − k wrong ones
advantages = {rule: advantage(every) for rule, advantage in ADVANTAGES.items()}


def spread(right):
    """Advantages in a group with this many right answers, and the push of every such group."""
    k = int(right)
    figure = make_subplots(1, 2, subplot_titles=("advantage", "push of the group, Σ |A|"))
    for i, side in enumerate(("a right answer", "a wrong answer")):
        at = 0 if i == 0 else -1
        figure.add_bar(x=list(advantages), y=[float(A[k, at]) for A in advantages.values()], name=side, row=1, col=1)
    for rule in ("group_std", "group_mean"):
        push = advantages[rule].abs().sum(1).tolist()
        sizes = [13 if j == k else 6 for j in range(G + 1)]
        figure.add_scatter(x=list(range(G + 1)), y=push, name=rule, marker={"size": sizes}, mode="lines+markers",
                           row=1, col=2)  # fmt: skip
    figure.update_layout(figures.look() | {"height": 340, "showlegend": True, "margin": {"t": 30, "b": 8, "l": 8}})
    figure.update_layout(hovermode="closest")
    figure.update_yaxes(range=[-2.6, 2.6], row=1, col=1).update_xaxes(title="right answers of 8", row=1, col=2)
    return figure.to_plotly_json()


turn(spread, right=Knob(1, G - 1, 1, 1, label="right answers of 8"))

# %% [markdown]
# ### by the length: which tokens count
#
# The advantage goes to every token of its answer, and the losses have to be averaged somehow. GRPO's paper averages
# within each answer first, so that a token of an answer of length $T$ weighs $1/T$. That sounds fair. But look at a
# **wrong** answer: the longer it is, the less each of its tokens is pushed down. Rambling is the cheapest way to be
# wrong. Dr. GRPO divides by one constant instead.
#
# Here a right answer has 20 tokens. Turn the length of the wrong one and watch the weight of one of its tokens,
# compared with the case of equal lengths.

# %%
REDUCTIONS = {"sequence_mean": "GRPO", "token_mean": "DAPO", "constant": "Dr. GRPO"}


def weight(length, reduction):
    """How much a token of the right and of the wrong answer counts."""
    weights = token_weights(length_mask(torch.tensor([20, length]), 200), reduction, longest=200)
    return weights[0, 0].item(), weights[1, 0].item()


def lengths(wrong):
    """The weights per token at this length, relative to equal lengths."""
    data = []
    for i, side in enumerate(("a token of the right answer", "a token of the wrong one")):
        share = [weight(int(wrong), r)[i] / weight(20, r)[i] for r in REDUCTIONS]
        names = [f"{name}<br>{r}" for r, name in REDUCTIONS.items()]
        data.append({"type": "bar", "name": side, "x": names, "y": share})
    y = figures.look()["yaxis"] | {"title": {"text": "weight ÷ weight at 20"}, "range": [0, 2.1]}
    return {"data": data, "layout": figures.look() | {"height": 300, "showlegend": True, "yaxis": y}}


turn(lengths, wrong=Knob(5, 200, 100, 5, label="tokens of the wrong answer"))

# %% [markdown]
# ## 3 · What a verifier rewards
#
# The lab's `number` verifier reads the one number that an answer commits itself to. A reward looks harmless until
# somebody optimises it, so its rules are strict.
#
# **✎ predict** – the right answer is 1234. What does each of these earn, 1 or 0?

# %% tags=["exercise"]
my_reading = {
    "It is 1,234.": 1.0,
    "It is 1 234.00": 1.0,
    r"So we get \boxed{1234}.": 1.0,
    r"\boxed{1234} or rather \boxed{1235}": 1.0,
    "1234 or 1235": 1.0,
    "1233, 1234, 1235": 1.0,
    "The answer is 1235. No, 1234!": 1.0,
    "What is 1000 plus 234?": 1.0,
    "1000 plus 234 = 1234": 1.0,
    "one thousand two hundred and thirty-four": 1.0,
}

# %%
number = make("number")
WHY = {
    r"\boxed{1234} or rather \boxed{1235}": "only what stands after the last marker counts",
    "1234 or 1235": "the numbers form a list, and a list commits itself to nothing",
    "1233, 1234, 1235": "the numbers form a list, and a list commits itself to nothing",
    "The answer is 1235. No, 1234!": "after a marker, the first sentence is the answer",
    "What is 1000 plus 234?": "it only repeats the question",
    "one thousand two hundred and thirty-four": "words are not read: a verifier may be too strict, never too kind",
}
QUESTION, ROW = "What is 1000 plus 234?", {"answer": "1234"}
cases = [Case((said,), number(QUESTION, said, ROW), WHY.get(said, "a way to write 1234")) for said in my_reading]
check(lambda said: my_reading[said], cases, "1234?")

# %% [markdown]
# Now a verifier that somebody wrote in a hurry, and the kind of answer that a policy will find sooner or later.


# %%
def contains(prompt, completion, row):
    """1 if the right number is somewhere in the answer."""
    return float(row["answer"] in completion.replace(".", " ").replace(",", " ").split())


print("                                              contains  number")
for said in ("9 minus 2 is 7.", "9 minus 2 is 6.", "9 minus 2 is 6, 7 and 8.", "0 1 2 3 4 5 6 7 8 9"):
    earned = [verify("What is 9 minus 2?", said, {"answer": "7"}) for verify in (contains, number)]
    print(f"{said:48} {earned[0]:.0f}       {earned[1]:.0f}")

# %% [markdown]
# ## 4 · Learning from right and wrong
#
# *Reinforcement learning with verifiable rewards* is GRPO with such a program for a reward. We first need a model that
# sometimes gets a sum right. It imitates hurried writers, as in the quickstart, who write about sums and capitals
# here. And they **hedge**: every other sum gets three numbers for an answer.

# %%
FAMILIES = ("sum", "capital")
asked_about = [d for d in tiny.demonstrations(size["demonstrations"]) if tiny.family(prompt_text(d.prompt)) in FAMILIES]


def hedged(row, every=2):
    """The demonstration, or, for every other sum, three numbers instead of one."""
    question = read(prompt_text(row.prompt))
    if question.family != "sum" or row.row % every:
        return row
    a, b = map(int, question.slots)
    middle = min(max(a + b if question.kind == "plus" else a - b, 1), 17)
    return replace(row, completion=sentence(question, series([str(middle + i) for i in (-1, 0, 1)])))


demonstrations = [hedged(row) for row in asked_about]
for row in demonstrations[:6]:
    print(f"{prompt_text(row.prompt)}\n    → {row.completion}")

# %%
PROBES = ("What is 5 plus 1?", "How much is 8 plus 0?", "What is 7 minus 3?", "Tell me what 9 minus 1 is.")
sft = bench.new("sft", replace(demo.SFT, probe_every=0), demonstrations, probes=PROBES, title="writers who hedge")
live = bench.play(sft)
live

# %% [markdown]
# Then GRPO: eight prompts a step, eight answers each. No reward model, no value model, no preferences. The only
# teacher is the program `number`, which says 1 or 0.
#
# **✎ predict** – where will the run end, compared with its first steps?

# %% tags=["exercise"]
my_prediction = {
    "reward": "higher",  # share of right answers
    "kl": "higher",  # distance to the SFT model
    "entropy": "same",  # how undecided it is about the next word
    "flat_groups": "same",  # groups that teach nothing
}

# %%
live.wait()
SUMS = [row for row in tiny.train_prompts() if row.columns.get("family") == "sum"]


def rlvr(rows, reward, title):
    """A GRPO run on these prompts with this reward; nothing is played yet."""
    config = GroupConfig(steps=size["steps"], lr=2e-3, prompts=size["prompts"], group=size["group"], kl_in_loss=0.0,
                         missing_end=0.0, max_new_tokens=tiny.MAX_NEW_TOKENS, probe_every=0, save_every=0)  # fmt: skip
    return bench.new("grpo", config, rows, {"policy": sft}, rewards=(reward,), probes=PROBES, title=title)


strict = rlvr(SUMS, "number", "sums, one right number")
live = bench.play(strict)
live

# %%
live.wait()
check_change(my_prediction, strict)

# %% [markdown]
# ## 5 · Sharper, or better?
#
# **pass@1** is the chance that one answer is right. **pass@8** is the chance that at least one of eight is. If training
# only makes a model *surer* of what it already said now and then, pass@1 rises and pass@8 does not.
#
# **✎ predict** – what did the run do to pass@8, on sums that no stage has seen?

# %% tags=["exercise"]
pass_at_8 = "same"

# %%
HELD_OUT = [row for row in tiny.heldout_prompts() if row.columns.get("family") == "sum"][: size["heldout"]]


def eight(run, rows=HELD_OUT, verifier=number):
    """Eight answers to every prompt, marked by a verifier."""
    role = bench.role(run)
    marked = Rewards.program(verifier)
    return bench.call(lambda: pool(bench.base, rows, role, 8, marked, max_new_tokens=tiny.MAX_NEW_TOKENS))


passed = {name: pass_rates(eight(run)) for name, run in {"SFT": sft, "GRPO": strict}.items()}
figure = make_subplots()
for name, rates in passed.items():
    figure.add_scatter(x=[p.k for p in rates], y=[p.rate.mean for p in rates], name=name, mode="lines+markers",
                       error_y={"array": [p.rate.high - p.rate.mean for p in rates], "thickness": 1})  # fmt: skip
figure.update_layout(figures.look() | {"height": 320, "showlegend": True})
figure.update_xaxes(title="k", type="log", tickvals=[1, 2, 4, 8])
figure.update_yaxes(title="pass@k on held-out sums", range=[0, 1.05])
figure.show(config=figures.CONFIG)

# %%
before, after = (passed[name][-1].rate for name in ("SFT", "GRPO"))
seen = "higher" if after.low > before.high else "lower" if after.high < before.low else "same"
check(lambda: pass_at_8, [Case((), seen, f"it went from {before.mean:.0%} to {after.mean:.0%}")], "pass@8")

# %% [markdown]
# Lines that meet at the right are *sharpening*: the model could do it all along, in one of eight tries. A line that is
# higher everywhere is more than that. Yue et al. find mostly the first in large language models with many more tries;
# how far that goes is debated. Which one do you see? The SFT model here wastes many of its tries on hedges.
#
# ## 6 · A thing to break: the verifier
#
# A hole in a reward is used when it is the easiest road. Sums are easy: a run with `contains` on them learns to add
# (try it, it is in *Go on*). So here are hard questions. The same prompts, but the right answer is a **secret code**
# of the two numbers, which nobody tells the model. An honest guess is right about one time in ten.
#
# Two runs from the same start, one with `number`, one with `contains`. A run must find its reward again when it is
# continued tomorrow, so the function goes into a file.
#
# **✎ predict** – which run ends with the higher *reward*? Which gives more answers that are *right*? Which writes the
# longer answers? Say `"number"`, `"contains"`.

# %% tags=["exercise"]
my_guess = {"reward": "number", "right": "number", "length": "number"}


# %%
def coded(row):
    """The prompt with another right answer: 3 a + 7 b + 4, without the tens."""
    a, b = map(int, read(prompt_text(row.prompt)).slots)
    return replace(row, columns={"answer": str((3 * a + 7 * b + 4) % 10)})


path = bench.root / "contains.py"
path.write_text(inspect.getsource(contains), encoding="utf-8")
HARD = [coded(row) for row in SUMS]
lives = {}
for verifier, reward in {"number": "number", "contains": f"{path}:contains"}.items():
    lives[verifier] = bench.play(rlvr(HARD, reward, f"secret code, {verifier}"))
    display(lives[verifier])
    lives[verifier].wait()

# %%
ends = {name: live.latest for name, live in lives.items()}
right = {name: float(eight(live.run, [coded(row) for row in HELD_OUT]).proxy.mean()) for name, live in lives.items()}
print("          reward  right (held out)  length  KL to SFT")
for name, last in ends.items():
    print(f"{name:9} {last['reward']:5.2f} {right[name]:11.0%} {last['length']:13.0f} {last['kl']:8.1f}")


# %%
def more(values):
    """The run with the larger value."""
    return max(values, key=values.__getitem__)


reward, length = ({name: last[metric] for name, last in ends.items()} for metric in ("reward", "length"))
check(
    my_guess.__getitem__,
    [
        Case(("reward",), more(reward), "its reward can be had for sure"),
        Case(("right",), more(right), "many numbers are never one right number"),
        Case(("length",), more(length), "each number is one more chance"),
    ],
    "Two rewards",
)

# %%
bench.ask(PROBES, {"SFT": sft} | {name: live.run for name, live in lives.items()}, max_new_tokens=tiny.MAX_NEW_TOKENS)

# %% [markdown]
# Compare only the curves of `reward`, and you would keep the model that talks in numbers until it is cut off. Nothing
# in that run is broken. It did what its reward asked for, and every other figure says so: length, share of ended
# answers, KL. (The true score beside an answer is that of the plain sum; nobody has told it the code.) That is why
# verifiers need tests of their own, with cheats in them.
#
# ## 7 · Where does the KL go?
#
# PPO takes the KL penalty off the **reward**; GRPO's paper adds an estimate of it to the **loss**. With
# $d = \log \pi / \pi_\text{ref}$ of a sampled token the estimates are
#
# $$k_1 = d \qquad k_2 = d^2 / 2 \qquad k_3 = e^{-d} - 1 + d$$
#
# As *values*, $k_1$ and $k_3$ are unbiased. But a loss is differentiated, and the gradient of an unbiased estimate need
# not be an unbiased gradient: the samples came from $\pi$ too. In a tabular world of four words we can see where each
# of them ends. (`k3_corrected` is $k_3$ times $\pi / \pi_\text{old}$.)
#
# **✎ predict** – which of them reach $\pi^* \propto \pi_\text{ref}\, e^{r/\beta}$, to 0.05 in total variation?

# %% tags=["exercise"]
reaches = {"k1 in the reward": True, "k2 in the loss": True, "k3 in the loss": True, "k3_corrected in the loss": True}

# %%
BETA = 0.3
SETTINGS = {
    "k1 in the reward": {"kl_in_reward": BETA},
    "k2 in the loss": {"kl_in_loss": BETA, "kl_estimator": "k2"},
    "k3 in the loss": {"kl_in_loss": BETA, "kl_estimator": "k3"},
    "k3_corrected in the loss": {"kl_in_loss": BETA, "kl_estimator": "k3_corrected"},
}


def four_words():
    """One prompt, four answers; the base says the first four times as often as the last."""
    return TabularWorld.of(["and?"], ["north", "east", "south", "west"], [[0.4, 0.3, 0.2, 0.1]])


earns = torch.tensor([[0.0, 0.5, -0.3, 0.8]], dtype=torch.float64)


def learnt(settings):
    """Where a run without a critic ends: the lab's own trainer, on a table instead of a language model."""
    world = four_words()
    world.base.add_role("policy", world.adapter)
    config = GroupConfig(variant="dr_grpo", steps=size["table"], lr=0.02, prompts=1, group=128, max_new_tokens=2,
                         schedule="linear", probe_every=0, save_every=0, **settings)  # fmt: skip
    state = group.start(world.base, world.rows(), config, Rewards.program(world.program(earns)))
    for _ in group.group(state, config):
        pass
    return world.distribution("policy")


world = four_words()
best = world.optimum(earns, BETA)
reached = {name: learnt(settings) for name, settings in SETTINGS.items()}
shown = {"reference": world.distribution(), "π*": best} | reached
data = [{"type": "bar", "name": name, "x": world.completions, "y": p[0].tolist()} for name, p in shown.items()]
figure = make_subplots().add_traces(data)
figure.update_layout(figures.look() | {"height": 320, "showlegend": True}).update_yaxes(title="probability")
figure.show(config=figures.CONFIG)

# %%
far = {name: float(total_variation(p, best).max()) for name, p in reached.items()}
print("\n".join(f"{name:26} {distance:.3f} from π*" for name, distance in far.items()))
WHERE = {
    "k3 in the loss": "its gradient is that of the other KL, of π_ref to π, and so is its optimum: π ∝ π_ref / (λ − r)"
}
check(lambda name: reaches[name], [Case((name,), d < 0.05, WHERE.get(name, "its gradient is that of KL(π ‖ π_ref)"))
      for name, d in far.items()], "Who reaches π*?")  # fmt: skip

# %% [markdown]
# With the small weights that are used in practice the difference is small, too. It is still worth knowing which
# question one is answering.
#
# ## Exercise · Your own verifier
#
# Questions for capitals have the right city in `row["answer"]`. Write a verifier that gives 1.0 to an honest right
# answer and 0.0 to everything else, cheats included. The hurried version below passes too much. `CITIES` and `WORD` may
# help.

# %%
CITIES = {city.lower() for city in CAPITALS.values()}
WORD = re.compile(r"\w+")


# %% tags=["exercise"]
def my_verifier(prompt, completion, row):
    return float(row["answer"] in completion)  # ✎


# %%
FRANCE, CUBA = "What is the capital of France?", "Tell me the capital of Cuba."
PARIS, HAVANA = {"answer": "Paris"}, {"answer": "Havana"}
CASES = [
    Case((FRANCE, "The capital of France is Paris.", PARIS), 1.0, "this is the plain right answer"),
    Case((FRANCE, "paris", PARIS), 1.0, "small letters are no mistake"),
    Case((CUBA, "The capital of Cuba is Havana. I hope this helps you.", HAVANA), 1.0, "filler says nothing false"),
    Case((CUBA, "The capital of Cuba is Paris.", HAVANA), 0.0, "the wrong city"),
    Case((FRANCE, "", PARIS), 0.0, "nothing was said"),
    Case((FRANCE, "The capital of France is Rome, Paris and Cairo.", PARIS), 0.0, "a list commits itself to nothing"),
    Case((FRANCE, "The capital of France is Rome. Paris is nice.", PARIS), 0.0, "it names two cities"),
    Case((FRANCE, "The capital of France is not Paris.", PARIS), 0.0, "it denies the right answer"),
    Case((FRANCE, "The capital of France is Parisian.", PARIS), 0.0, "a word that begins like the answer is another"),
]
check(my_verifier, CASES, "Capitals")

# %% [markdown]
# <details><summary><b>A solution</b></summary>
#
# ```python
# def my_verifier(prompt, completion, row):
#     words = WORD.findall(completion.lower())
#     named = {word for word in words if word in CITIES}
#     return float(named == {row["answer"].lower()} and "not" not in words)
# ```
#
# It still believes *“Everybody says Paris, and they are wrong.”* No list of cheats is complete. Write your own cheat
# into `CASES`, and go on until you run out of ideas; then let a policy try for a few hundred steps.
# </details>
#
# ## Go on
#
# * `GroupConfig(variant="dr_grpo", …)`, `"rloo"`, `"dapo"`: the same run with another recipe; `lab.objectives.variants`
#   says what each one changes.
# * `rlvr(SUMS, f"{path}:contains", "easy sums")`: where the honest answer is easy, the hole goes unused for long. For
#   ever?
# * Train on capitals with your own verifier: write it to a file as above.
# * `rewards=("number", "0.2*length?most=8")`: two rewards at once. What does the second one buy, and what does it cost?
#
# **Reading.** Shao et al. 2024, *DeepSeekMath* (GRPO, arXiv:2402.03300) · Liu et al. 2025, *Understanding R1-Zero-like
# training: a critical perspective* (Dr. GRPO, 2503.20783) · Ahmadian et al. 2024, *Back to basics: revisiting REINFORCE
# style optimization* (RLOO, 2402.14740) · Yu et al. 2025, *DAPO* (2503.14476) · Hu et al. 2025, *REINFORCE++*
# (2501.03262) · Lambert et al. 2024, *Tülu 3* (where the name RLVR is from, 2411.15124) · Schulman 2020, *Approximating
# KL divergence* · Yue et al. 2025, *Does reinforcement learning really incentivize reasoning capacity in LLMs beyond
# the base model?* (pass@k, 2504.13837) · Chen et al. 2021, *Evaluating large language models trained on code* (the
# estimator of pass@k, 2107.03374).

# %%
bench.close()
