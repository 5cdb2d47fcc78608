"""The peak of a run: what is always there, role by role, and what each phase adds. `predict` reads no weights.

    total = base + adapters, gradients and moments of the roles + the largest of the phases + torch's own

| phase    | what it adds                                                                                   |
|----------|------------------------------------------------------------------------------------------------|
| sampling | keys and values of all rows, a step's logits, the prompts' own pass                            |
| scoring  | one pass without gradients, the logits of a chunk                                              |
| training | what every layer keeps for the backward pass, the logits of a chunk or a layer's own gradients |
"""

from __future__ import annotations

from typing import NamedTuple

from lab.memory import cost, passes
from lab.memory.cost import Wish
from lab.memory.shape import Shape


class Part(NamedTuple):
    """Bytes of one thing. `owner`: "base", the name of a role, or "passing" for what a phase needs for a while."""

    name: str
    owner: str
    size: int


class Phase(NamedTuple):
    """What a phase adds to what is always there."""

    name: str
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(p.size for p in self.parts)


class Plan(NamedTuple):
    """`standing` is there from the beginning to the end; of the `phases` one happens at a time. Bytes."""

    standing: tuple[Part, ...]
    phases: tuple[Phase, ...]
    runtime: int = 0

    @property
    def peak(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda p: p.size)

    @property
    def base(self) -> int:
        """Bytes of the frozen base, with its dequantised copy."""
        return sum(p.size for p in self.standing if p.owner == "base")

    @property
    def total(self) -> int:
        """Bytes at the worst moment."""
        return sum(p.size for p in self.standing) + self.peak.size + self.runtime


def predict(shape: Shape, wish: Wish) -> Plan:
    """The peak memory of a run on a model of this shape.

    Weights, adapters, gradients, moments, keys and values are exact. The rest was compared with what torch allocated on
    a CPU for random Llama, Qwen 3, Phi 3 and Gemma 3 models of 15 to 42 million weights: single passes and sampling
    within 1.5 %, the first steps of SFT, DPO, PPO and GRPO on text of uneven lengths 0 to 4 % too high (the padding is
    an upper bound). On a GPU, where norms keep fp32 beside bf16, nothing has been measured yet; fragmentation and
    kernels' workspaces come on top. `tests/test_memory.py` holds it to these numbers.
    """
    weights = cost.weight_bytes(shape, wish)
    standing = [Part(name, "base", size) for name, size in weights.items() if size]
    if dense := cost.dense_bytes(shape, wish, sum(weights.values())):
        standing.append(Part("dequantised copy", "base", dense))
    for role, trained, head in passes.roles_of(wish):
        own = cost.role_bytes(shape, wish.adapter, head=head, trained=trained)
        standing += [Part(name, role, size) for name, size in own.items()]
    found = (_sampling(shape, wish), _scoring(shape, wish), _training(shape, wish))
    return Plan(tuple(standing), tuple(p for p in found if p.size), wish.machine.runtime)


def _training(shape: Shape, wish: Wish) -> Phase:
    tokens, places, scored = passes.training(wish)
    saved, every = cost.saved_bytes(shape, wish, tokens, places), wish.checkpoint_every
    kept = -(-shape.layers // every) if every else 0  # these layers keep their input alone
    whole = (shape.layers - kept) * saved + kept * tokens * shape.hidden * wish.size + (saved if kept else 0)
    once = max(cost.logits_bytes(shape, wish, tokens, scored, gradients=True),
               cost.passing_bytes(shape, wish, tokens, places, gradients=True))  # fmt: skip
    return Phase("training", (Part("kept for the backward pass", "passing", whole),
                              Part("logits and gradients", "passing", once)))  # fmt: skip


def _scoring(shape: Shape, wish: Wish) -> Phase:
    found = passes.scoring(wish)
    if found is None:
        return Phase("scoring", ())
    tokens, places, scored = found
    once = max(cost.logits_bytes(shape, wish, tokens, scored, gradients=False),
               cost.passing_bytes(shape, wish, tokens, places, gradients=False))  # fmt: skip
    return Phase("scoring", (Part("one pass", "passing", once),))


def _sampling(shape: Shape, wish: Wish) -> Phase:
    s = passes.sampling(wish)
    if not s.rows:
        return Phase("sampling", ())
    prompts = s.prompts * s.prompt
    once = max(
        cost.drawing_bytes(shape, wish, s.rows), cost.passing_bytes(shape, wish, prompts, prompts, gradients=False)
    )
    parts = (Part("keys and values", "passing", cost.cache_bytes(shape, wish, s.rows, s.length)),
             Part("logits and noise", "passing", once),
             Part("merged matrices", "passing", cost.merged_bytes(shape, wish, 1)))  # fmt: skip
    return Phase("sampling", tuple(p for p in parts if p.size))


def fits(plan: Plan, free: int) -> bool:
    """Whether the plan's worst moment stays within so many free bytes."""
    return plan.total <= free


def pretty(size: int) -> str:
    """Bytes as people read them: 512 MB, 4.9 GB (1 GB is 10⁹ bytes)."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if abs(size) >= unit:
            value = size / unit
            return f"{value:.0f} {name}" if abs(value) >= 99.95 else f"{value:.1f} {name}"
    return f"{size} bytes"
