"""Judges as they are written down, and what each of them means in memory.

base, a run, run@step, a folder    a role of the shared base, judged by the probabilities of its labels
generate:<role>                    the same role writes its reasons and its verdict
reward:<run>                       a reward model, an ensemble, or a program as `--reward` takes it: the higher wins
endpoint:<model>@<address>         a model behind an OpenAI-compatible endpoint
gold                               the tiny world's true score
annotator:<name>                   one of its simulated people; annotator:rushed?seed=1 votes, instead of a probability
reaction:<role>                    what a role of its base expects users to say to an answer
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from lab import earning
from lab.feedback.judging import Judge, JudgeError
from lab.records import digest
from lab.runs import RunError

if TYPE_CHECKING:
    from lab.base import SharedBase
    from lab.feedback.judges.wording import Wording
    from lab.feedback.labels.words import By

CHOICES = ("base", "a run, run@step or adapter folder", "generate:<role>", "reward:<run>",
           "endpoint:<model>@<address>", "gold", "annotator:<name>", "reaction:<role>")  # fmt: skip
"""What a judge can be."""

ON_THE_BASE = ("role", "generate", "reward", "reaction")
TINY = ("gold", "annotator", "reaction")

MADE_BY: Mapping[str, By] = {"reward": "reward_model", "annotator": "annotator"}
"""What a label store calls a kind of judge; all others are judges."""

DEFAULT_KEY = "OPENAI_API_KEY"
"""Where the key of an endpoint is looked for, unless the endpoint is on this machine."""


@dataclass(frozen=True)
class Manner:
    """How judges are asked, each setting by the judges it concerns.

    question        : in the place of the wording's own (role, generate, endpoint)
    temperature, max_new_tokens, seed : of what is written (generate, endpoint)
    key_env         : environment variable with the key; None: OPENAI_API_KEY, or none on this machine
    price, timeout, retries, at_once, logprobs, body : as `EndpointJudge` takes them
    combine, doubt  : how an ensemble of reward models is read
    """

    question: str = ""
    temperature: float = 0.0
    max_new_tokens: int = 256
    seed: int = 0
    key_env: str | None = None
    price: tuple[float, float] = (0.0, 0.0)
    timeout: float = 60.0
    retries: int = 4
    at_once: int = 8
    logprobs: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)
    combine: str = "mean"
    doubt: float = 0.1


def parse(text: str) -> tuple[str, str]:
    """(kind, what) of a judge's text: ("role", "sft-1"), ("reward", "reward-1"), ("gold", "").

    Raises JudgeError for a kind without the part that it needs.
    """
    text = text.strip()
    kind, colon, what = text.partition(":")
    if text == "gold":
        return "gold", ""
    if colon and kind in ("generate", "reward", "endpoint", "annotator", "reaction"):
        if not what:
            raise JudgeError(f"{text!r} names no {kind}; a judge is one of {', '.join(CHOICES)}.")
        return kind, what
    if not text:
        raise JudgeError(f"No judge is named; a judge is one of {', '.join(CHOICES)}.")
    return "role", text


def needs_base(text: str) -> bool:
    """Whether a judge is asked on the shared base."""
    return parse(text)[0] in ON_THE_BASE


def origin(root: Path | str, text: str) -> dict[str, Any] | None:
    """Where the adapter of a judge comes from ({"run": …} or {"folder": …}); None where it has none.

    Raises JudgeError where there is no such run or folder.
    """
    kind, what = parse(text)
    without = kind not in ON_THE_BASE or what == "base" or (kind == "reward" and earning.is_program(what))
    return None if without else _find(root, text, what)[1]


def make_judge(
    text: str,
    base: SharedBase | None = None,
    *,
    root: Path | str = "runs",
    world: str = "",
    manner: Manner | None = None,
) -> Judge:
    """The judge that a text names. Its adapter is loaded onto the base unless a role of that name is there.

    base  : for the judges that are asked on one, see `needs_base`
    root  : the folder of the runs
    world : "tiny" for the tiny world's judges, and for the words its base knows

    Raises JudgeError with the choices for what is none.
    """
    manner = manner or Manner()
    kind, what = parse(text)
    if kind in TINY and world != "tiny":
        raise JudgeError(f"{text} knows the tiny world only; judge its answers (--model tiny), or take another judge.")
    if kind == "endpoint":
        return _endpoint(text, what, manner)
    if kind == "gold":
        from lab.tiny.judges import GoldJudge

        return GoldJudge()
    if kind == "annotator":
        return _annotator(what)
    if base is None:
        raise JudgeError(f"{text} is asked on a base model, and none is loaded.")
    if kind == "reward":
        return _reward(base, root, text, what, manner)
    role = _role(base, root, text, what)
    if kind == "reaction":
        from lab.tiny.judges import ReactionJudge

        return ReactionJudge(base, role, text)
    from lab.feedback.judges.generative import GenerativeJudge
    from lab.feedback.judges.role import RoleJudge
    from lab.feedback.judges.wording import ONE_LETTER, THINK_FIRST

    if kind == "generate":
        return GenerativeJudge(base, role, THINK_FIRST.about(manner.question), manner.temperature,
                               manner.max_new_tokens, manner.seed, text)  # fmt: skip
    return RoleJudge(base, role, _words(world, ONE_LETTER).about(manner.question), called=text)


def _words(world: str, usual: Wording) -> Wording:
    """The usual words, or those of the tiny world."""
    if world != "tiny":
        return usual
    from lab.tiny.judges import wording

    return wording()


def _endpoint(text: str, what: str, manner: Manner) -> Judge:
    from lab.feedback.judges.endpoint import EndpointJudge
    from lab.feedback.judges.wording import ONE_LETTER, THINK_FIRST

    model, at, rest = what.rpartition("@http")
    if not at:
        raise JudgeError("The endpoint has no address; it is written endpoint:model@http://localhost:8000/v1.")
    address = f"http{rest}"
    key_env = manner.key_env if manner.key_env is not None else "" if _is_here(address) else DEFAULT_KEY
    wording = (ONE_LETTER if manner.logprobs else THINK_FIRST).about(manner.question)
    return EndpointJudge(model, address, key_env, wording, manner.price, manner.timeout, manner.retries,
                         manner.at_once, manner.logprobs, manner.temperature, manner.max_new_tokens,
                         manner.body)  # fmt: skip


def _is_here(address: str) -> bool:
    """Whether an address is this machine's."""
    try:
        host = urlsplit(address).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _annotator(what: str) -> Judge:
    from lab.tiny.annotators import ANNOTATORS
    from lab.tiny.judges import AnnotatorJudge

    name, _, query = what.partition("?")
    if name not in ANNOTATORS:
        raise JudgeError(f"There is no annotator {name!r}; choose one of {', '.join(ANNOTATORS)}.")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if set(options) - {"seed"} or not options.get("seed", "0").isdecimal():
        raise JudgeError(f"An annotator has one option, seed, a whole number: annotator:{name}?seed=1, not {query!r}.")
    return AnnotatorJudge(ANNOTATORS[name], int(options["seed"]) if "seed" in options else None)


def _find(root: Path | str, text: str, what: str) -> tuple[Path, dict[str, Any]]:
    from lab.launch import find_role

    try:
        return find_role(root, what)
    except RunError as error:
        raise JudgeError(f"{text!r} is no judge: {error} A judge is one of {', '.join(CHOICES)}.") from error


def _role(base: SharedBase, root: Path | str, text: str, what: str) -> str:
    """The name on the base of the role that a judge names, loaded where it is not there yet."""
    from lab.launch import is_raw, role_name
    from lab.saving import load_role

    if is_raw(what) or what in base.roles:
        return what
    folder, where = _find(root, text, what)
    own = f"{where['run']}@{where['step']}" if "run" in where else f"{folder.name}-{digest(str(folder.resolve()))[:8]}"
    name = role_name(own, "judge")
    if name not in base.roles:
        load_role(base, folder, name)
    return name


def _reward(base: SharedBase, root: Path | str, text: str, what: str, manner: Manner) -> Judge:
    """The reward model, with the other members of its ensemble where it has any; or a reward program."""
    from lab.feedback.judges.reward import RewardJudge
    from lab.feedback.rewards import Rewards
    from lab.launch import members
    from lab.saving import load_role

    if earning.is_program(what):
        return RewardJudge(base, earning.rewards([what], {}, device=str(base.device)), text)
    role = _role(base, root, text, what)
    names = [role]
    if role != what:
        for part, (folder, _) in members(role, _find(root, text, what)).items():
            names.append(part)
            if part not in base.roles:
                load_role(base, folder, part)
    if any(name == "base" or not base.role(name).head for name in names):
        raise JudgeError(f"{text!r} has no reward head; name a run of lab reward.")
    return RewardJudge(base, Rewards.role(*names, combine=manner.combine, doubt=manner.doubt), text)
