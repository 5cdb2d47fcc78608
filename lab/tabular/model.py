"""The model of a tabular world: a table of logits, one column for every context, with a head.

A *context* s is a prompt with the words said so far. W (V, S) holds in column s the logits of the token after s. A role
is a low-rank adapter of W like any other; at rank V and more it can turn W into every table. The hidden state at s is

    h_s = [ (W + (alpha / rank) · B A) e_s | e_s ]        H = V + S,  e_s one-hot

so that a reward or value head, which reads h, can be every function of the context. Tokens that lead to no completion
of the world are closed: the head of the model adds `CLOSED` to their logits, and their probability is exactly 0.

Shapes: P prompts, C completions, V tokens a completion may hold, S contexts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.attention import KVCache

CLOSED = -1e4
"""Added to the logits of tokens that lead nowhere: exp(−10⁴) is 0 in every precision, and 0 · log 0 stays finite."""

END, UNKNOWN = "<end>", "<unknown>"

WORD = r"\w+|[^\w\s]"
"""One token: a word, or a sign."""

START, NOWHERE = 0, 1
"""The contexts before anything is said, and after what no row of the world says."""

Ids = tuple[int, ...]


class TabularError(ValueError):
    """Prompts, completions or probabilities that make no table, or text that is not in it."""


class Hidden(NamedTuple):
    """What the table gives back, under the name a transformers decoder uses: (1, N, H)."""

    last_hidden_state: Tensor


class Table(nn.Module):
    """The model: contexts in, [logits | one-hot context] out. Frozen; a role's adapter sits on `rows`.

    logits  : (V, S) of the base     closed : (V, S) bool, True where a token leads nowhere
    follows : (S, ids) the context after one more token
    """

    config: ClassVar[dict[str, Any]] = {}  # PEFT asks for these three; there is nothing to say
    is_gradient_checkpointing = False
    prepare_inputs_for_generation = None

    def __init__(self, logits: Tensor, closed: Tensor, follows: Tensor) -> None:
        super().__init__()
        tokens, contexts = logits.shape
        self.rows = nn.Linear(contexts, tokens, bias=False)
        self.head = nn.Linear(tokens + contexts, tokens, bias=False)
        self.rows.weight.data = logits
        self.head.weight.data = torch.cat([torch.eye(tokens), closed * CLOSED], dim=1)
        self.follows = nn.Buffer(follows)
        self.requires_grad_(False)

    def get_decoder(self) -> Table:
        """The table itself: it has no language-model head of its own to leave out."""
        return self

    def get_output_embeddings(self) -> nn.Linear:
        """The head, hidden states to logits."""
        return self.head

    get_input_embeddings = get_output_embeddings  # tied, as in small language models

    def forward(self, input_ids: Tensor, views: tuple[Tensor, ...], owner: Tensor, cache: KVCache | None = None,
                **_: Any) -> Hidden:  # fmt: skip
        """The hidden states (1, N, H) of a packed tree, or of the newest token of each row of a cache."""
        if cache is not None and cache.keys:
            context = self._newest(input_ids[0], cache)
        else:
            context = self._packed(input_ids[0], views, owner, cache)
        here = F.one_hot(context, len(self.follows)).to(self.head.weight.dtype)[None]
        return Hidden(torch.cat([self.rows(here), here], dim=-1))

    def _packed(self, ids: Tensor, views: tuple[Tensor, ...], owner: Tensor, cache: KVCache | None) -> Tensor:
        """(N,) the context of every packed token. A cache is filled with the tokens: they are a table's keys."""
        found = []
        for view in views:
            found.append(self._walk(ids[view]).reshape(-1))
            if cache is not None:
                cache.fill(0, *[ids[view][:, None, :, None]] * 2)
        context = torch.cat(found)[owner]
        if bool((context == NOWHERE).any()):
            raise TabularError("A row holds tokens that begin no completion of this tabular world; use its own "
                               "prompts and completions.")  # fmt: skip
        return context

    def _newest(self, ids: Tensor, cache: KVCache) -> Tensor:
        """(R,) the context after each row's newest token. Rows that ended are nowhere, and nobody looks at them."""
        tokens, _ = cache.write(0, *[ids[:, None, None]] * 2)
        return self._walk(tokens[:, 0, :, 0]).gather(1, cache.lengths[:, None])[:, 0]

    def _walk(self, tokens: Tensor) -> Tensor:
        """(R, T) tokens -> (R, T) the context after each of them."""
        context, out = tokens.new_full((len(tokens),), START), []
        for column in tokens.unbind(1):
            context = self.follows[context, column]
            out.append(context)
        return torch.stack(out, dim=1)


def tokenizer(prompts: Sequence[str], completions: Sequence[str]) -> Any:
    """One token a word or sign, the completions' first: their numbers, with the end, are the table's V rows."""
    from tokenizers import Regex, Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys(w for text in (*completions, *prompts) for w in re.findall(WORD, text))
    core = Tokenizer(WordLevel({w: i for i, w in enumerate((END, *words, UNKNOWN))}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, unk_token=UNKNOWN)


def table(prompts: Sequence[Ids], completions: Sequence[Ids], p: Tensor, ids: int) -> tuple[Table, dict[Ids, int]]:
    """The table whose completions have the probabilities p (P, C), and the number of every context.

    The logit of token v after s is the log of the mass of all completions that go on from s with v.
    """
    contexts: dict[Ids, int] = {(): START, (-1,): NOWHERE}
    follows: dict[tuple[int, int], int] = {}
    mass: dict[tuple[int, int], float] = {}
    for i, x in enumerate(prompts):
        for j, y in enumerate(completions):
            for t, token in enumerate(x + y):
                s = contexts[(x + y)[:t]]
                follows[s, token] = contexts.setdefault((x + y)[: t + 1], len(contexts))
                if t >= len(x):
                    mass[token, s] = mass.get((token, s), 0.0) + float(p[i, j])
    tokens = 1 + max(token for y in completions for token in y)
    weight = torch.zeros(tokens, len(contexts), dtype=torch.float64)
    for (token, s), m in mass.items():
        weight[token, s] = m
    some, closed = weight.sum(0) > 0, weight == 0
    logits = torch.where(closed, 0.0, weight.log())
    turn = torch.full((len(contexts), ids), NOWHERE)
    for (s, token), after in follows.items():
        turn[s, token] = after
    return Table(logits.float(), closed & some, turn), contexts
