"""The verbs of one run, whoever plays it: a session in this kernel, or the engine that serves the run's directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lab.client import EngineClient, EngineError
from lab.config import CONFIGS, Setting, live_settings
from lab.events import Sample
from lab.runs import Run, RunError

if TYPE_CHECKING:
    from lab.session import Session

SHOWN = {"lr": "learning rate", "kl": "KL coefficient", "temperature": "temperature"}
"""The live settings that a notebook offers, where the method has them, and what they are called."""


class Control:
    """Plays, pauses, edits, branches and samples one run. May be called from any thread; raises sentences.

    The session is used while it is alive. After that, or without one, the engine is asked: it goes on with a run that
    was stopped, from its latest checkpoint.
    """

    def __init__(self, run: Run, session: Session | None = None, client: EngineClient | None = None) -> None:
        self.run, self.session, self.client = run, session, client

    @property
    def alive(self) -> Session | None:
        """The session, as long as it has not ended."""
        return self.session if self.session is not None and self.session.done is None else None

    def play(self) -> None:
        """Plays on until the run ends or somebody pauses it."""
        if session := self.alive:
            session.play()
        else:
            self._engine().play(self.run.id)

    def pause(self) -> None:
        """Pauses before the next step."""
        if session := self.alive:
            session.pause()
        else:
            self._engine().pause(self.run.id)

    def step(self, n: int = 1) -> None:
        """Plays `n` steps, then pauses."""
        if session := self.alive:
            session.step(n)
        else:
            self._engine().step(self.run.id, n)

    def stop(self) -> None:
        """Ends at the next safe point, with a checkpoint."""
        if session := self.alive:
            session.stop()
        else:
            self._engine().stop(self.run.id)

    def edit(self, name: str, value: Any) -> None:
        """Changes a live setting from the next step on."""
        if session := self.alive:
            session.edit(name, value)
        else:
            self._engine().edit(self.run.id, name, value)

    def branch(self, step: int | None = None, *, edits: Mapping[str, Any] | None = None, name: str = "") -> Run:
        """A new run from a saved step of this one (None: now), with some settings changed."""
        if session := self.alive:
            return session.branch(step, edits=edits, name=name)
        if self.client is not None:
            return Run.open(self.run.path.parent / self.client.branch(self.run.id, step, edits=edits, name=name))
        last = self.run.latest_checkpoint() if step is None else step
        if last is None:
            raise RunError(f"{self.run.id} has no checkpoint to branch from; let it reach its first one.")
        return self.run.fork(last, self.run.config(), edits=edits, name=name)

    def settings(self) -> dict[str, Setting]:
        """The live settings a notebook offers for this run's method."""
        cls = CONFIGS.get(self.run.manifest.method)
        live = live_settings(cls) if cls else {}
        return {name: live[name] for name in SHOWN if name in live}

    def sample(self, prompt: str, *, temperature: float = 1.0, seed: int = 0) -> Sample:
        """One answer of the role in training as it is now. It draws from a generator of its own, between two events of
        the run, so the run goes on bit for bit as if nobody had asked."""
        if not prompt.strip():
            raise RunError("There is nothing to answer yet; write a prompt.")
        if self.run.manifest.method == "reward":
            raise RunError("A reward model scores answers and gives none; sample a run of a policy.")
        longest = int(self.run.manifest.settings.get("max_new_tokens", 64))
        if self.client is not None:
            return self._from_engine(prompt, temperature, seed, longest)
        if session := self.alive:
            return session.call(lambda state: _from_state(state, prompt, temperature, seed, longest)).result()
        raise RunError(f"{self.run.id} is not in memory here; play it, or give LiveRun an engine's client.")

    def _from_engine(self, prompt: str, temperature: float, seed: int, longest: int) -> Sample:
        rows = self._engine().sample(prompt, [self.run.id], temperature=temperature, max_new_tokens=longest, seed=seed)
        row = list(rows)[-1:]
        if not row:
            raise EngineError("the engine ended the answer before its first word; ask again.")
        return sample_of(prompt, row[0])

    def _engine(self) -> EngineClient:
        if self.client is not None:
            return self.client
        if self.session is not None and self.session.done is not None:
            how = "branch it" if self.session.done.outcome == "finished" else "resume or branch it"
            raise RunError(f"{self.run.id} has {self.session.done.outcome}; {how} to go on.")
        raise RunError(f"{self.run.id} is only watched here; give LiveRun its session, or an engine's client.")


def sample_of(prompt: str, row: Mapping[str, Any]) -> Sample:
    """A row of an engine's answer: the text, and as much as is known about it by then."""
    reasons = tuple((str(n), float(v)) for n, v in row.get("reasons") or ())
    tokens, logprobs, reference = (tuple(row.get(k) or ()) for k in ("tokens", "logprobs", "reference"))
    return Sample(prompt, str(row.get("text") or ""), bool(row.get("ended")), row.get("reward"), row.get("gold"),
                  reasons, row.get("kl"), tokens, logprobs, reference)  # fmt: skip


def _from_state(state: Any, prompt: str, temperature: float, seed: int, longest: int) -> Sample:
    """An answer of a state's first trained role, with what its other roles and its probes know about it."""
    from lab.probes import describe
    from lab.records import Message
    from lab.sample import sample

    turns = prompt if state.base.chat.template is None else (Message("user", prompt),)
    role = state.roles[state.trained[0]]
    rollouts = sample(state.base, [turns], (role,), temperature=temperature, max_new_tokens=longest, seed=seed)
    gold = getattr(getattr(state, "probes", None), "gold", None)
    return describe(state.base, rollouts, gold, state.roles.get("reference"), state.roles.get("reward"),
                    temperature)[0]  # fmt: skip
