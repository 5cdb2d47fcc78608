"""The world of a table: everything that can be said in it, and what is true of it.

What is exact is computed in float64 from the weights alone, by none of the code that samples, scores and trains.

Source: the optimum, Rafailov et al. 2023 (DPO), equation 4. Shapes: P prompts, C completions, V tokens, S contexts.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lab.base import RAW, SharedBase
from lab.chat import Chat
from lab.config import Adapter
from lab.lowrank import Now
from lab.records import Demonstration, Preference, PromptRow
from lab.tabular.model import Ids, TabularError, table, tokenizer


@dataclass(frozen=True, eq=False)
class TabularWorld:
    """Prompts, every completion they can have, and the base whose model is a table. Made by `TabularWorld.of`.

    `contexts` numbers every beginning of a row, (prompt, words so far), as token ids; it is the columns of the table.
    """

    base: SharedBase = field(repr=False)
    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    prompt_ids: tuple[Ids, ...] = field(repr=False)
    completion_ids: tuple[Ids, ...] = field(repr=False)
    contexts: dict[Ids, int] = field(repr=False)

    @classmethod
    def of(cls, prompts: Sequence[str], completions: Sequence[str], reference: Any = None) -> TabularWorld:
        """The world of these prompts and completions: words, and signs with spaces around them.

        reference : (P, C) probabilities of the base; None: all completions alike. A 0 closes a completion for good.

        Raises TabularError for completions that are not words with single spaces or occur twice, a prompt that begins
        another one, and probabilities that are none.
        """
        if not prompts or not completions:
            raise TabularError("A tabular world needs at least one prompt and one completion.")
        chat = Chat.of(tokenizer(prompts, completions))
        prompt_ids = tuple(tuple(chat.encode_prompt(p)) for p in prompts)
        completion_ids = tuple((*chat.tokenizer.encode(c), chat.eos_id) for c in completions)
        _check_texts(chat, completions, prompt_ids, completion_ids)
        p = _probabilities(reference, (len(prompts), len(completions)))
        model, contexts = table(prompt_ids, completion_ids, p, len(chat.tokenizer))
        seal = hashlib.sha256(repr((tuple(prompts), tuple(completions), p.tolist())).encode()).hexdigest()[:16]
        base = SharedBase(model, chat, "tabular", 32, seal, {}, Now(), lean=False)
        return cls(base, tuple(prompts), tuple(completions), prompt_ids, completion_ids, contexts)

    @property
    def adapter(self) -> Adapter:
        """An adapter that can become any table."""
        rank = max(16, self.base.head_weight.shape[0])
        return Adapter(rank, alpha=4 * rank)

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the longest completion: with this room every completion ends."""
        return max(map(len, self.completion_ids))

    # --- what is true ------------------------------------------------------------------------------------------------

    def logits(self, role: str = RAW) -> Tensor:
        """(V, S) of a role: what follows each context. `CLOSED` is added where a token leads nowhere."""
        rows = self._rows(role)
        return rows + self.base.head_weight[:, len(rows) :].detach().double()

    def distribution(self, role: str = RAW, temperature: float = 1.0) -> Tensor:
        """(P, C) the probability of every completion: the product of its tokens', read off the role's table."""
        logp = torch.log_softmax(self.logits(role) / temperature, dim=0)
        return torch.tensor([[sum(logp[token, s].item() for token, s in self._path(x, y)) for y in self.completion_ids]
                             for x in self.prompt_ids], dtype=torch.float64).exp()  # fmt: skip

    def optimum(self, rewards: Tensor, beta: float, reference: str = RAW) -> Tensor:
        """(P, C) π* ∝ π_ref exp(r / β), the best that E[r] − β KL(π ‖ π_ref) can become."""
        return torch.softmax(self.distribution(reference).log() + rewards.double() / beta, dim=1)

    def reading(self, role: str) -> Tensor:
        """(P, C) what the role's head reads at the end token of every completion, in the role's reward units."""
        own, rows = self.base.role(role), self._rows(role)
        ends = torch.tensor([[self.contexts[x + y] for y in self.completion_ids] for x in self.prompt_ids])
        w = own.head_weight.detach().double()
        read = w[: len(rows)] @ rows + w[len(rows) : -1] + w[-1]
        return (read[ends] - own.mean) / own.spread

    # --- what is said ------------------------------------------------------------------------------------------------

    def rewards(self, of: Callable[[str, str], float]) -> Tensor:
        """(P, C) rewards, from a function of the prompt's and the completion's words."""
        return torch.tensor([[of(x, y) for y in self.completions] for x in self.prompts], dtype=torch.float64)

    def program(self, rewards: Tensor) -> Callable[[str, str, Any], float]:
        """The rewards (P, C) as a program for `lab.feedback.rewards`: (prompt, completion, row) -> a reward."""
        rows = itertools.product(self.prompts, self.completions)
        known = dict(zip(rows, rewards.reshape(-1).tolist(), strict=True))
        return lambda prompt, completion, _: known[prompt, completion]

    def rows(self) -> list[PromptRow]:
        """The prompts, to sample from."""
        return [PromptRow(x, i) for i, x in enumerate(self.prompts)]

    def pairs(self) -> list[tuple[Ids, Ids]]:
        """The tokens of every prompt with every completion, P · C of them, prompt by prompt."""
        return [(x, y) for x in self.prompt_ids for y in self.completion_ids]

    def demonstrations(self, probabilities: Tensor, n: int, seed: int = 0) -> list[Demonstration]:
        """`n` demonstrations of every prompt, drawn from the distribution (P, C)."""
        drawn = torch.multinomial(probabilities, n, replacement=True, generator=torch.Generator().manual_seed(seed))
        return [
            Demonstration(x, self.completions[j])
            for x, row in zip(self.prompts, drawn.tolist(), strict=True)
            for j in row
        ]

    def preferences(self, rewards: Tensor, votes: int = 0) -> list[Preference]:
        """Every two completions of every prompt, judged by Bradley and Terry: j beats k with σ(r_j − r_k).

        It is what infinitely many judgements say on average: each two are one preference for the better one, whose
        `label` is that probability. With `votes`, that many preferences, in the same proportion but for rounding.
        """
        out = []
        for (i, x), (j, k) in itertools.product(enumerate(self.prompts), itertools.combinations(range(self._n), 2)):
            j, k = (j, k) if rewards[i, j] >= rewards[i, k] else (k, j)
            share = float(torch.sigmoid(rewards[i, j] - rewards[i, k]))
            kept = [True] * round(share * votes) + [False] * (votes - round(share * votes)) if votes else [True]
            for first in kept:
                pair = (j, k) if first else (k, j)
                out.append(self._preference(x, pair, len(out), 1.0 if votes else share))
        return out

    def judgements(self, rewards: Tensor, probabilities: Tensor, n: int, seed: int = 0) -> list[Preference]:
        """`n` preferences of every prompt: two different completions drawn from (P, C), and one drawn verdict each."""
        generator = torch.Generator().manual_seed(seed)
        out = []
        for i, x in enumerate(self.prompts):
            drawn = torch.multinomial(probabilities[i].expand(n, -1), 2, generator=generator)
            gap = rewards[i][drawn[:, 0]] - rewards[i][drawn[:, 1]]
            kept = torch.rand(n, generator=generator) < torch.sigmoid(gap)
            for (j, k), first in zip(drawn.tolist(), kept.tolist(), strict=True):
                out.append(self._preference(x, (j, k) if first else (k, j), len(out)))
        return out

    # --- inside ------------------------------------------------------------------------------------------------------

    def _path(self, prompt: Ids, completion: Ids) -> Iterator[tuple[int, int]]:
        """Every token of a completion with the context it is drawn in."""
        return ((token, self.contexts[prompt + completion[:t]]) for t, token in enumerate(completion))

    def _preference(self, prompt: str, pair: tuple[int, int], row: int, label: float = 1.0) -> Preference:
        chosen, rejected = (self.completions[j] for j in pair)
        return Preference(prompt, chosen, rejected, label=label, row=row)

    @property
    def _n(self) -> int:
        return len(self.completions)

    def _rows(self, role: str) -> Tensor:
        """(V, S) of a role: the first part of the hidden state of every context."""
        rows = self.base.decoder.rows
        base = getattr(rows, "base_layer", rows).weight.detach().double()
        if role == RAW:
            return base
        own = self.base.role(role)
        a, b = (m.detach().double() for m in own.parameters[:2])
        return base + own.alpha / own.rank * b @ a


def sentences(words: Sequence[str], longest: int, shortest: int = 1) -> tuple[str, ...]:
    """Every sequence of `shortest` to `longest` of these words, the short ones first."""
    lengths = range(shortest, longest + 1)
    return tuple(" ".join(s) for n in lengths for s in itertools.product(words, repeat=n))


def forecasts() -> TabularWorld:
    """Three seasons, and twelve forecasts of one or two words.

    The base says every word with its season's own probability q, and ends after the first word every other time:
    π(a) = q(a) / 2 and π(a b) = q(a) q(b) / 2.
    """
    words, seasons = ("sun", "rain", "snow"), ("summer?", "autumn?", "winter?")
    q = torch.tensor([[0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.1, 0.3, 0.6]], dtype=torch.float64)
    two = torch.einsum("pa,pb->pab", q, q).flatten(1)
    return TabularWorld.of(seasons, sentences(words, 2), torch.cat([q, two], dim=1) / 2)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """½ Σ |p − q|, (…, C) -> (…): the largest difference in the probability of any event; 0 to 1."""
    return (p - q).abs().sum(-1) / 2


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Σ p log(p / q) in nats, (…, C) -> (…), with 0 log 0 = 0; infinite where q misses something that p says."""
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)


def expected(p: Tensor, rewards: Tensor) -> Tensor:
    """E_p[r], (…, C) -> (…), reward units."""
    return (p * rewards).sum(-1)


def objective(p: Tensor, rewards: Tensor, beta: float, reference: Tensor) -> Tensor:
    """E_p[r] − β KL(p ‖ π_ref), (…, C) -> (…), reward units: what a KL-regularised method maximises.

    At π* it is β log Z with Z = Σ π_ref exp(r / β).
    """
    return expected(p, rewards) - beta * kl(p, reference)


def _check_texts(chat: Chat, texts: Sequence[str], prompts: Sequence[Ids], completions: Sequence[Ids]) -> None:
    for text, ids in zip(texts, completions, strict=True):
        if chat.decode(ids) != text:
            raise TabularError(f"The completion {text!r} reads back as {chat.decode(ids)!r}; part words and signs by "
                               "single spaces.")  # fmt: skip
    if len(set(completions)) < len(completions):
        raise TabularError("Two completions are the same; list each one once.")
    if not all(prompts):
        raise TabularError("A prompt holds no word; give it at least one.")
    for a, b in itertools.permutations(prompts, 2):
        if b[: len(a)] == a:
            raise TabularError("One prompt is the beginning of another, so that a context could be either's; "
                               "end all prompts with the same sign.")  # fmt: skip


def _probabilities(given: Any, shape: tuple[int, int]) -> Tensor:
    """(P, C) in float64, checked."""
    if given is None:
        return torch.full(shape, 1 / shape[1], dtype=torch.float64)
    p = torch.as_tensor(given).double()
    if p.shape != shape or bool((p < 0).any()) or not float((p.sum(1) - 1).abs().max()) <= 1e-6:
        raise TabularError(f"The reference must be {shape} probabilities, none below 0, that add up to 1 in every row; "
                           f"these are {tuple(p.shape)} and add up to {p.sum(-1).tolist()}.")  # fmt: skip
    return p
