"""What an engine does with a base: builds runs, samples any roles side by side, scores given texts.

Roles people may name: `base`, a run (its policy as it is now, or at its last checkpoint), run@step (at that one).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import asking, form, launch, making, tasks
from lab.base import RAW, RoleError, SharedBase
from lab.engine import Handlers, SampleRequest, ScoreRequest
from lab.events import Sample
from lab.probes import describe, inside, pieces
from lab.queueing import Player
from lab.records import Message, Prompt, Rollout, prompt_text
from lab.runs import Run, RunError, runs
from lab.sample import stream
from lab.saving import load_role
from lab.session import Session


class PromptError(ValueError):
    """A prompt the world cannot answer. `payload` names the unknown words and prompts that would work."""

    def __init__(self, unknown: list[str], suggestions: list[str]) -> None:
        words = ", ".join(f"“{w}”" for w in unknown[:5])
        super().__init__(
            f"The tiny world does not know {words}; try “{suggestions[0]}”."
            if suggestions
            else f"The tiny world does not know {words}."
        )
        self.payload = {"unknown": unknown, "suggestions": suggestions}


class Desk:
    """The handlers of an engine around one base. Those that use it are called in the one worker thread."""

    def __init__(self, root: Path | str, base: SharedBase, world: str = "") -> None:
        self.root, self.base, self.world = Path(root), base, world

    def handlers(self) -> Handlers:
        """What the engine is handed."""
        return Handlers(
            build=lambda run: launch.build(self.base, run),
            sample=self.sample,
            score=self.score,
            release=self.release,
            about=self.about,
            offers=lambda: form.offers(self.world),
            check=form.check,
            make=self.make,
            attend=self.attend,
            task=self.task,
            opened=lambda engine: Player(engine).start(),
        )

    def about(self) -> dict[str, Any]:
        """What can be sampled, and prompts to begin with; reads run directories only."""
        examples: tuple[str, ...] = ()
        if self.world == "tiny":
            from lab import tiny

            examples = tiny.PROBES
        names = [
            i.id
            for i in runs(self.root)
            if launch.PARTS.get(i.manifest.method) in ("sft", "policy")
            and self._fits(i.manifest.base)
            and (i.status.state in ("running", "paused") or Run(i.path).latest_checkpoint() is not None)
        ]
        return {"roles": [RAW, *names], "examples": list(examples), "model": self.base.source, "bits": self.base.bits}

    def make(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The run of a form, on this base; nothing is played yet. Reads and writes run directories only."""
        ready = making.prepare(self.root, form.order(asked), self._ground())
        for _, where in ready.found.values():
            if "run" in where and not self._fits(Run.open(self.root / where["run"]).manifest.base):
                raise RunError(f"{where['run']} runs on another model; start an engine for that one.")
        return {"id": ready.make(self.root).id, "left_out": ready.left_out()}

    def task(self, name: str, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The rows of a named task. Raises RunError for a name that is none."""
        return tasks.find(name)(self, row)

    def attend(self, session: Session) -> None:
        """Has whoever the run names answer what it asks."""
        setup = launch.setup_of(session.run)
        if setup.asks:
            asking.attend(session, asking.answerer(setup.asks, self.base, root=self.root, world=self.world,
                                                   run=session.run.id))  # fmt: skip

    def release(self, state: Any) -> None:
        """Frees what an ended run held, but for the role people sample from."""
        main = {launch.role_name(i.id) for i in runs(self.root)}
        for name in set(state.roles.values()) - main:
            if name in self.base.roles:
                self.base.drop(name)
        self.base.freeze()

    def role(self, text: str) -> str:
        """The role on the base that a name means, loaded from its run's checkpoint if it is not there."""
        if text == RAW:
            return RAW
        run_id, _, step = text.partition("@")
        name = launch.role_name(run_id) + (f"_at_{step}" if step else "")
        if name not in self.base.roles:
            folder, _ = launch.find_role(self.root, text)
            load_role(self.base, folder, name)
        return name

    def reference(self, text: str) -> str | None:
        """The role a policy's log-probabilities are compared with: what its run started from."""
        if text == RAW:
            return None
        run = Run.open(self.root / text.partition("@")[0])
        start = launch.starting_roles(run).get(launch.PARTS[run.manifest.method])
        if start is None:
            return RAW
        name = launch.role_name(run.id, "reference")
        if name not in self.base.roles:
            load_role(self.base, start, name)
        return name

    def reward(self) -> str | None:
        """The newest finished reward model of this directory, loaded."""
        found = [
            i.id
            for i in runs(self.root)
            if i.manifest.method == "reward" and i.status.state == "finished" and self._fits(i.manifest.base)
        ]
        return self.role(found[-1]) if found else None

    def sample(self, asked: SampleRequest) -> Iterator[dict[str, Any]]:
        """One row for each token of each role as it is drawn, then one row a role with everything known about it."""
        prompt = self.checked(asked.prompt)
        names = {text: self.role(text) for text in asked.roles}
        ids = self.base.chat.encode_prompt(prompt)
        said: dict[int, list[int]] = {i: [] for i in range(len(names))}
        sampled: dict[int, list[float]] = {i: [] for i in range(len(names))}
        ended = dict.fromkeys(said, False)
        shown = list(names)
        for drawn in stream(
            self.base,
            [ids],
            list(names.values()),
            temperature=asked.temperature,
            max_new_tokens=asked.max_new_tokens,
            seed=asked.seed,
        ):
            for row, token, logprob, end in drawn.tokens:
                said[row].append(token)
                sampled[row].append(logprob)
                ended[row] = end
                yield {
                    "role": shown[row],
                    "token": pieces(self.base, said[row])[-1],
                    "logprob": logprob,
                    "text": self.base.chat.decode(said[row]),
                }
        rollouts = [Rollout(names[text], prompt, self.base.chat.decode(said[i]), tuple(ids), tuple(said[i]), ended[i],
                            tuple(sampled[i])) for i, text in enumerate(shown)]  # fmt: skip
        for text, rollout in zip(shown, rollouts, strict=True):
            yield {"role": text, "text": rollout.completion, **self._known(text, rollout, asked.temperature)}

    def score(self, asked: ScoreRequest) -> dict[str, Any]:
        """What is known of given completions of one prompt, under each role."""
        prompt = self.checked(asked.prompt)
        out: dict[str, list[dict[str, Any]]] = {}
        for text in asked.roles:
            rows = []
            for completion in asked.completions:
                prompt_ids, ids = self.base.chat.split(prompt, completion)
                rollout = Rollout(self.role(text), prompt, completion, tuple(prompt_ids), tuple(ids), True)
                rows.append(self._known(text, rollout, 1.0))
            out[text] = rows
        return {"roles": out}

    def _known(self, text: str, rollout: Rollout, temperature: float) -> dict[str, Any]:
        gold = launch.truth(launch.Setup(self.base.source, world=self.world))
        judge = self.reward()
        found: Sample = describe(self.base, [rollout], gold, self.reference(text), judge, temperature)[0]
        return {name: getattr(found, name) for name in ("tokens", "logprobs", "reference", "ended", "reward", "gold",
                                                        "reasons", "kl")} | inside(
            self.base, rollout, judge, temperature)._asdict()  # fmt: skip

    def checked(self, prompt: Prompt) -> Prompt:
        """The prompt as turns; in the tiny world, PromptError for words it does not know."""
        if self.world == "tiny":
            from lab import tiny

            if isinstance(prompt, str):
                prompt = tiny.tidy(prompt)  # words are case-sensitive: “france” is France
            text = prompt_text(prompt)
            unknown = tiny.unknown_words(text)
            if unknown:
                raise PromptError(unknown, tiny.suggestions(text))
        if isinstance(prompt, str) and self.base.chat.template is not None:
            prompt = (Message("user", prompt),)
        return prompt

    def _ground(self) -> launch.Setup:
        """What every run made here stands on."""
        quantised = getattr(self.base.model.config, "quantization_config", None)
        double = bool(getattr(quantised, "bnb_4bit_use_double_quant", False))
        ground = launch.Setup(self.base.source, self.base.bits, double, world=self.world)
        if self.world != "tiny":
            return ground
        from lab import tiny

        return replace(ground, probes=tiny.PROBES)

    def _fits(self, base: dict[str, Any]) -> bool:
        return base.get("source") == self.base.source and base.get("bits") == self.base.bits


__all__ = ["Desk", "PromptError", "RoleError", "RunError"]
