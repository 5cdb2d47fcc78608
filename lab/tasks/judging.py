"""Duels and judges on the engine's base: pairs of answers of two to four roles, and verdicts on pairs in both orders.

What comes from the page may name runs, never folders or programs: a judge is a role, what it writes or what it expects,
a reward model, or in the tiny world its true score or one of its people.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lab import making
from lab.columns import DataError
from lab.feedback.judging import Judged, JudgeError, judge
from lab.judges import MADE_BY, make_judge, parse
from lab.records import Comparison, Prompt, comparison, prompt_text, to_json
from lab.runs import RunError
from lab.sample import stream

if TYPE_CHECKING:
    from lab.desk import Desk

MOST_ROLES, MOST_PROMPTS = 4, 500
AT_ONCE = 8
"""Prompts answered, or pairs judged, together."""

HERE = "tiny:heldout"
"""The prompts of a duel where nobody gives others: those of the tiny world that nobody was trained on."""

SOURCE = re.compile(r"tiny:(heldout|prompts)|run:[\w.-]+")


def duel(desk: Desk, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every role answers every prompt with the same noise; each two of the answers that differ are a pair.

    row : roles (two to four), n prompts, seed, temperature, max_new_tokens; prompts (texts, one each) or data
          (`tiny:heldout`, `tiny:prompts`, `run:name`)

    Rows: {"done", "of"} while answers grow, {"pairs": [{"comparison", "source"}, …], "alike", "done", "of"} for every
    few prompts; `alike` counts pairs of equal answers, which are left out.
    """
    roles = [str(r) for r in dict.fromkeys(row.get("roles") or ())]
    if not 2 <= len(roles) <= MOST_ROLES:
        raise RunError(f"A duel is between two to {MOST_ROLES} different roles; {len(roles)} are named.")
    names = [known_role(desk, r) for r in roles]
    prompts = _prompts(desk, row)
    seed, temperature = int(row.get("seed") or 0) % 2**31, min(max(float(row.get("temperature") or 1.0), 0.01), 5.0)
    longest = min(max(int(row.get("max_new_tokens") or 32), 1), 512)
    about = {"by": "duel", "temperature": temperature, "seed": seed}
    for at in range(0, len(prompts), AT_ONCE):
        part = prompts[at : at + AT_ONCE]
        encoded = [desk.base.chat.encode_prompt(p) for p in part]
        ids: list[list[int]] = [[] for _ in range(len(names) * len(part))]
        ended = [False] * len(ids)
        for drawn in stream(desk.base, encoded, names, temperature=temperature, max_new_tokens=longest,
                            seed=(seed, at)):  # fmt: skip
            for i, token, _, end in drawn.tokens:
                ids[i].append(token)
                ended[i] = end
            yield {"done": at, "of": len(prompts)}
        said = [(desk.base.chat.decode(tokens), end) for tokens, end in zip(ids, ended, strict=True)]
        pairs, alike = [], 0
        for (i, a), (j, b) in itertools.combinations(enumerate(roles), 2):
            for k, prompt in enumerate(part):
                (left, left_ended), (right, right_ended) = said[i * len(part) + k], said[j * len(part) + k]
                if left == right or not left.strip() or not right.strip():
                    alike += 1
                    continue
                c = Comparison(prompt, left, right, (left_ended, right_ended))
                pairs.append({"comparison": to_json(c), "source": {"a": a, "b": b, **about}})
        yield {"pairs": pairs, "alike": alike, "done": at + len(part), "of": len(prompts)}


def _prompts(desk: Desk, row: Mapping[str, Any]) -> list[Prompt]:
    """The prompts of a duel. Raises DataError or RunError where there are none."""
    typed = [str(text).strip() for text in row.get("prompts") or () if str(text).strip()]
    n = min(max(int(row.get("n") or len(typed)), 1), MOST_PROMPTS)
    if typed:
        return [desk.checked(text[:4000]) for text in dict.fromkeys(typed)][:n]
    data = str(row.get("data") or (HERE if desk.world == "tiny" else ""))
    if not SOURCE.fullmatch(data):
        raise DataError("A duel needs prompts: type some, one a line, or name a run whose prompts it takes.")
    rows = making.rows_of(desk.root, data, "prompt", int(row.get("seed") or 0), desk.world).some()
    return list({prompt_text(r.prompt): r.prompt for r in rows}.values())[:n]


def verdicts(desk: Desk, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A judge's verdicts on pairs, both orders together.

    row : judge (as `lab.judges` takes it, on runs alone), pairs (comparisons as JSON)

    Rows: {"made_by"} first, then {"at", "verdicts": [[p or None, why], …], "flipped", "done", "of"} for every few
    pairs; `flipped` counts those of which the two orders named different answers.
    """
    text = page_judge(str(row.get("judge") or ""))
    pairs = [comparison(pair) for pair in row.get("pairs") or ()]
    yield {"made_by": MADE_BY.get(parse(text)[0], "judge"), "done": 0, "of": len(pairs)}
    who = make_judge(text, desk.base, root=desk.root, world=desk.world)
    for at in range(0, len(pairs), AT_ONCE):
        found: Sequence[Judged] = judge(who, pairs[at : at + AT_ONCE])
        yield {"at": at, "verdicts": [[j.verdict.p, j.verdict.why] for j in found],
               "flipped": sum(j.flipped for j in found), "done": at + len(found), "of": len(pairs)}  # fmt: skip


RUN = re.compile(r"[\w][\w.-]*(@\d+)?")


def page_judge(text: str) -> str:
    """A judge's text, if the page may name it: no endpoint, no folder, no program. Raises JudgeError otherwise."""
    kind, what = parse(text)
    fits = {"gold": True, "annotator": re.fullmatch(r"\w+(\?seed=\d+)?", what) is not None,
            "endpoint": False}.get(kind, RUN.fullmatch(what) is not None)  # fmt: skip
    if not fits:
        raise JudgeError(f"{text[:80]!r} cannot be asked from the page; name base, a run or run@step, generate: or "
                         "reward: with a run, and in the tiny world gold, annotator:name or reaction:base. "
                         "`lab judge` takes everything.")  # fmt: skip
    return text.strip()


def known_role(desk: Desk, text: str) -> str:
    """The role on the base of a run, run@step or `base`. Raises RunError for anything else."""
    known = desk.about()["roles"]
    if text.partition("@")[0] not in known or not RUN.fullmatch(text):
        raise RunError(f"There is no role {text[:80]!r}; there are {', '.join(known)}.")
    return desk.role(text)
