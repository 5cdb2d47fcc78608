# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A constitution: learning from principles, and whose values those are
#
# People's labels are slow, dear, and hard to argue with: nobody wrote down *why*. **Constitutional AI** (Bai et al.
# 2022) turns it round. A page of principles is written; a model criticises and rewrites its own answers by them, learns
# from the result, then compares its answers by them, and learns from that.
#
# **The question of this notebook:** what do the principles reach, and what do they not?
#
# You will write a principle as a program, watch a model that helps with *everything* be revised, attack it before and
# after, see why the order of the stages matters, hold two constitutions against the votes of people, and take a
# principle away. About three minutes of computing on two cores.

# %%
import os
from dataclasses import replace
from html import escape
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this machine

from IPython.display import HTML, display

from lab import tiny
from lab.cai import play
from lab.cai.measure import measure
from lab.cai.settings import CAIConfig
from lab.evaluate import principles as tests
from lab.evaluate.redteam import needed
from lab.events import Done, Started
from lab.feedback.constitution.chain import read_chains
from lab.feedback.constitution.labels import RuleJudge
from lab.feedback.constitution.principles import ConstitutionError, parse
from lab.notebook import Case, Workbench, cards, check, front_end, watch
from lab.records import prompt_text
from lab.tiny.constitution import CRITIC, PRINCIPLES, constitution

PROFILE = os.environ.get("LAB_PROFILE", "tiny")  # "ci" runs a handful of steps, to test that every cell works
SIZES = {
    "tiny": {"chains": 600, "mix": 600, "comparisons": 1200, "heldout": 300, "people": 500, "edits": ()},
    "ci": {"chains": 24, "mix": 24, "comparisons": 24, "heldout": 24, "people": 24,
           "edits": ("helpful.epochs=0.05",)},
}  # fmt: skip
size = SIZES[PROFILE]

root = Path(os.environ.get("LAB_RUNS", "runs/constitution"))
bench = Workbench(root)
bench


def watched(folder):
    """Shows each stage of a stack live as it begins; where nobody is looking, says when it begins and ends."""

    def heard(run, event):
        if isinstance(event, Started) and front_end():
            display(watch(folder / run))  # click on a curve: the answers of that step
        elif isinstance(event, Started | Done):
            print(f"{run}: {event.total} steps" if isinstance(event, Started) else f"{run}: {event.outcome}")

    return heard


# %% [markdown]
# ## 1 · A page of principles
#
# A constitution is a file. Every principle has a text (for people, and for a judge of two answers), a request for a
# **critique** and one for a **revision** (for the model), and a weight: how often it is drawn.

# %%
ours = constitution()
body = [(f"<b>{escape(p.id)}</b>", escape(p.text), escape(p.critique), escape(p.revision), f"{p.weight:g}")
        for p in ours.principles]  # fmt: skip
HTML(cards.table(("", "text", "critique", "revision", "weight"), body, f"The tiny world's constitution, {ours.digest}"))

# %% [markdown]
# Its digest names the version: change a word, and it is another one. A mistake is found before anything runs, with its
# line.

# %%
broken = PRINCIPLES.read_text(encoding="utf-8").replace("weight: 3", "weigth: 3").replace("id: claim", "id: harm")
try:
    parse(broken, "mine.yaml")
except ConstitutionError as error:
    print(error)

# %% [markdown]
# In the tiny world each principle is a **program** as well: `violated` says whether an answer breaks it, and `revise`
# mends it. A real project has a model for that (`critic=self`, or one that has learned to criticise); the programs let
# us see the method with a critic that is always right.
#
# **Exercise 1.** Write `violated` for the principle *flattery*: an answer breaks it if it praises the one who asks. The
# tiny world knows three compliments.


# %% tags=["exercise"]
def my_flattery(answer):
    """Whether the answer praises."""
    return "great" in answer  # ✎ one of them


# %%
check(
    my_flattery,
    [
        Case(("What a great question! The fox is red.",), True, "a compliment in front"),
        Case(("You are so clever! The fox is red.",), True, "another one"),
        Case(("The fox is red. What a lovely idea!",), True, "behind the answer it is one too"),
        Case(("The great fox is red.",), False, "a fox is nobody who asks"),
        Case(("The fox is red.",), False, "nothing but the answer"),
    ],
    "Flattery",
)

# %% [markdown]
# <details><summary><b>Solution</b></summary>
#
# ```python
# return any(s in answer for s in ("What a great question!", "You are so clever!", "What a lovely idea!"))
# ```
# </details>
#
# ## 2 · A model that helps with everything
#
# The method begins with a **helpful-only** model: it has been taught to help, and never to refuse. Then, on prompts of
# a red team that ask for harm:
#
# 1. it answers (the *draft*);
# 2. a principle is drawn, the critic says what is wrong with the answer by it, and rewrites it; up to four rounds;
# 3. the model learns from the **last revisions**, mixed with ordinary helpful demonstrations (SFT);
# 4. the new model answers twice, a few principles are drawn, each says which answer keeps better to it; the label is
#    what they say together; the model learns from the labels (DPO here).
#
# **✎ predict** – the share of harmful requests the model complies with, on things no stage has been trained on: at
# first, after the revisions, and after the labels. And the share of *harmless* requests it refuses?

# %% tags=["exercise"]
my_shares = {"helpful": 1.0, "revised": 0.5, "rl": 0.5, "refuses what is harmless, at the end": 0.3}

# %%
config = CAIConfig(chains=size["chains"], mix=size["mix"], comparisons=size["comparisons"], rounds=3, rl="dpo")
ended = play.run("tiny", config, root / "cai", base=bench.base, edits=size["edits"], on_event=watched(root / "cai"))
chains = read_chains(ended.root / "chains.jsonl")
changed = sum(bool(c.changes) for c in chains)
print(f"{len(chains)} answers, {changed} of them changed; the models: {', '.join(ended.policies)}")

# %% [markdown]
# The whole chain of every answer is kept. Some that changed:

# %%
rows = []
for c in [c for c in chains if c.changes][:5]:
    said = [f"<i>draft</i> {escape(c.draft)}"]
    said += [
        f"<i>{escape(r.principle)}</i> {escape(r.critique)}<br>&nbsp;&nbsp;→ {escape(r.revision)}" for r in c.rounds
    ]
    rows.append((escape(prompt_text(c.prompt)), "<br>".join(said)))
HTML(cards.table(("asked", "draft, then critique → revision, round by round"), rows, "Chains"))

# %%
fired = [
    (escape(id), f"{n}", f"{changed}", f"{changed / n:.0%}" if n else "–") for id, (n, changed) in ended.fired.items()
]
HTML(cards.table(("principle", "drawn", "changed the answer", ""), fired, "Which principles fired"))

# %% [markdown]
# ## 3 · Attack it
#
# Harm alone is half of the story: a model that refuses everything is perfectly harmless. So two figures, always
# together, each with its interval: **compliance with harm**, and **refusals of harmless things that only sound
# harmful** (how to crack an egg, how to kill time). All about things no stage has seen, some behind a pretext.

# %%
policies = dict(ended.policies)
table = bench.call(lambda: measure(bench.base, policies, heldout=size["heldout"]))


def percent(found):
    return "–" if found is None else f"<b>{found.rate:.0%}</b> [{found.low:.0%}, {found.high:.0%}]"


def outcomes(table):
    body = [(f"<b>{escape(r.policy)}</b>", percent(r.red.whole.attacks), percent(r.red.whole.refusals),
             percent(r.refused), percent(r.helpful),
             f"{r.gold.mean:+.2f} [{r.gold.low:+.2f}, {r.gold.high:+.2f}]") for r in table]  # fmt: skip
    head = ("", "complies with harm", "refuses look-alikes", "refuses other harmless", "right answers", "true score")
    return HTML(cards.table(head, body, "On what nobody was trained on, 95 % intervals"))


for r in table:
    print(f"{r.policy}: you said {my_shares.get(r.policy, 0):.0%}, it complies with {r.red.whole.attacks.rate:.0%}")
said, last = my_shares["refuses what is harmless, at the end"], table[-1].red.whole.refusals
print(f"refuses what sounds harmful and is not: you said {said:.0%}, it was {last.rate:.0%}")
outcomes(table)

# %% [markdown]
# Nearly all of the work is done by the revisions. And there is a limit to what such a table can claim. If *none* of $n$
# attacks succeeds, the rate may still be as high as $u$ with $1 - u = 0.05^{1/n}$.

# %%
print("to rule out a rate of     attacks needed without a success")
for u in (0.1, 0.05, 0.01, 0.001):
    print(f"{u:17.1%}         {needed(u)}")

# %% [markdown]
# ## 4 · Why not the labels alone?
#
# The labels are cheaper than the revisions: no rewriting, only comparing. So leave the revisions out, and learn from
# the labels of the helpful model's own answers.
#
# **✎ predict** – how often does that model comply with harm?

# %% tags=["exercise"]
labels_alone = 0.1

# %%
start = root / "cai" / "helpful"
start = start / "checkpoints" / sorted(p.name for p in (start / "checkpoints").iterdir())[-1] / "sft"
alone = play.run("tiny", replace(config, sl=False), root / "labels-alone", base=bench.base, start=start,
                 on_event=watched(root / "labels-alone"))  # fmt: skip
second = bench.call(lambda: measure(bench.base, {"labels alone": alone.policies["rl"]}, heldout=size["heldout"]))
print(f"you said {labels_alone:.0%}; it complies with {second[0].red.whole.attacks.rate:.0%}")
outcomes([table[0], *second, table[-1]])

# %% [markdown]
# A comparison can only prefer an answer that *was given*. The helpful model hardly ever refuses, once in some two
# hundred requests for harm, so among its pairs there are next to no refusals to prefer, and labels do not invent any.
# That is what the revisions are for: they put the behaviour where sampling can find it. (The same holds for PPO and
# every other method that learns from its own samples. With more luck or many more pairs some refusals turn up, and then
# a reward model may find them; nobody should rely on that.)
#
# ## 5 · How each principle works as a judge
#
# The labels were made principle by principle, in both orders. So one can ask of each how often it takes a side, whether
# it says the same when the answers change places (one look in ten is a slip here), how often the verdict would be
# another without it, and how often it is right.


# %%
def share(x):
    return "–" if x is None else f"{x:.0%}"


rows = [
    (escape(h.principle), str(h.asked), *map(share, (h.fires, h.stability, h.decides, h.agreement)))
    for h in ended.habits
]
HTML(
    cards.table(("principle", "asked", "takes a side", "same in both orders", "decides", "is right"), rows, "As labels")
)

# %% [markdown]
# ## 6 · Whose values?
#
# A constitution can be tested like a program: against judgements that people have made. Here are pairs of answers to
# false claims and to requests for harm, judged by three groups: *expert* (what is true, and no harm), *agreeable* (who
# likes to be agreed with), *helpful_only* (who likes help of any kind). Three versions: ours, one without the principle
# `claim`, one without `harm`.
#
# **✎ predict** – with which group does the constitution agree *better* once a principle is gone?

# %% tags=["exercise"]
gains = {"claim": "expert", "harm": "expert"}

# %%
asked = [r.prompt for r in tiny.heldout_prompts() if r.columns["family"] == "claim"]
asked += [r.prompt for r in tiny.red_team_prompts(len(asked))]
groups = {who: bench.compare("base", who, asked, size["people"]).preferences
          for who in ("expert", "agreeable", "helpful_only")}  # fmt: skip
held = {(who, gone): tests.check(judged, ours.without(gone), lambda p: RuleJudge(CRITIC, p, 0.0), ours, draws=500)
        for who, judged in groups.items() for gone in gains}  # fmt: skip


def interval(x):
    return f"{x.mean:.0%} [{x.low:.0%}, {x.high:.0%}]"


rows = []
for who, judged in groups.items():
    first, second = (held[who, gone] for gone in gains)
    rows.append((f"<b>{who}</b>", str(len(judged)), interval(first.against.agreement),
                 *(f"{t.gain.mean:+.0%} [{t.gain.low:+.0%}, {t.gain.high:+.0%}]" for t in (first, second)),
                 f"{len(first.flips)}, {len(second.flips)}"))  # fmt: skip
for gone, said in gains.items():
    up = max(groups, key=lambda who, gone=gone: held[who, gone].gain.mean)
    print(f"without {gone}, most is gained with {up}; you said {said}")
head = ("judged by", "judgements", "agreement of ours", "without claim", "without harm", "verdicts that change")
HTML(cards.table(head, rows, "Three constitutions against people (a tie counts half)"))

# %% [markdown]
# Some of the judgements that change without `claim`, as *agreeable* made them. This list is what to read before anybody
# changes a constitution.

# %%
words = {1: "agrees", 0: "no side", -1: "disagrees"}
rows = [(escape(f.prompt), escape(f.chosen), escape(f.rejected), words[f.before], words[f.after])
        for f in held["agreeable", "claim"].flips[:6]]  # fmt: skip
HTML(cards.table(("asked", "they preferred", "over", "ours", "without claim"), rows, "Flips"))

# %% [markdown]
# The figures do not say which version is *right*. They say whose it is. Writing principles down does not remove that
# question; it puts it where it can be seen and argued about.
#
# ## 7 · Break it
#
# Take a principle away and play the revisions again (no labels this time, so it is quick). Look at the table of
# section 2 first: does a principle that hardly ever changed an answer do anything at all? And what do the others get
# when its weight is free?

# %% tags=["exercise"]
TAKE_AWAY = "refusal"  # ✎ harm, refusal, claim, flattery, brevity, honesty

# %%
text = PRINCIPLES.read_text(encoding="utf-8").replace(f"- id: {TAKE_AWAY}\n", f"- id: {TAKE_AWAY}\n    on: false\n")
mine = root / "mine.yaml"
mine.write_text(text, encoding="utf-8")
third = play.run(str(mine), replace(config, rl="none"), root / f"without-{TAKE_AWAY}", base=bench.base, start=start,
                 on_event=watched(root / f"without-{TAKE_AWAY}"))  # fmt: skip
fourth = bench.call(lambda: measure(bench.base, {f"without {TAKE_AWAY}": third.policies["revised"]},
                                    heldout=size["heldout"]))  # fmt: skip
outcomes([table[1], *fourth])

# %% [markdown]
# ## Go on
#
# * `lab constitution run --principles mine.yaml --critic learned` has a model learn to criticise first, and lets *that*
#   one revise. How much is lost?
# * `lab constitution test --principles new.yaml --against old.yaml --labels votes.jsonl` is section 6 in a terminal.
# * `lab redteam --role my-run --prompts mine.jsonl` attacks any model, with your own prompts.
#
# **Reading.** Bai et al. 2022, *Constitutional AI: harmlessness from AI feedback* (arXiv:2212.08073) · Lee et al. 2023,
# *RLAIF vs. RLHF* (2309.00267) · Ganguli et al. 2022, *Red teaming language models to reduce harms* (2209.07858) ·
# Röttger et al. 2024, *XSTest* (exaggerated refusals, 2308.01263) · Huang et al. 2024, *Collective Constitutional AI:
# aligning a language model with public input* (2406.07814).

# %%
bench.close()
