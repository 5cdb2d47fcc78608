"""Rows that share prompts -> one packed tree of tokens, and back.

Every distinct token passes each linear layer of the base once. A row is one prompt with one completion under one
role; rows of a role that have the same prompt share its tokens. The packed axis holds, role by role, each prompt
followed by its completions:

    role a:  P0 C0 C1 | P1 C2      role b:  P0 C3      ->  N packed tokens, two contiguous role slices

Attention sees *views*: (R, T) gathers of the packed axis in which every row is whole and right-padded, so plain
causal attention without a mask is exact. `owner` says which view position gives each packed token its output; the
gradients of a shared token's keys and values add up over the rows that read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BUCKETS = 3
"""At most this many views a pack: rows of similar length together, so that one long row does not pad all others."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt with one completion under one role. The prompt has at least one token; the completion may be empty."""

    role: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """Packed tokens `start:stop` belong to `role`."""

    role: str
    start: int
    stop: int


@dataclass(frozen=True)
class Pack:
    """A packed tree of B rows, N packed tokens, M completion tokens.

    input_ids, positions : (1, N)   tokens and their positions within their own row
    slices               : the role of each contiguous part of the packed axis
    views                : (R_b, T_b) packed index of every row position, right-padded with the row's last token
    owner                : (N,) position in the concatenated, flattened views that owns each packed token
    shared               : positions of the flattened views that read a token another row owns, padding left out
    rows, columns        : (M,) the place of each completion token in a (B, T) grid, in the caller's row order
    sources              : (M,) packed index of the token whose hidden state predicts it
    targets              : (M,) the token ids
    lengths              : (B,) completion tokens of each row
    last                 : (B,) packed index of each row's last real token
    """

    input_ids: Tensor
    positions: Tensor
    slices: tuple[Slice, ...]
    views: tuple[Tensor, ...]
    owner: Tensor
    shared: Tensor
    rows: Tensor
    columns: Tensor
    sources: Tensor
    targets: Tensor
    lengths: Tensor
    last: Tensor

    @property
    def n_tokens(self) -> int:
        return self.input_ids.shape[1]

    def grid(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """(M,) values of the completion tokens as a right-padded (B, T) grid in the caller's row order."""
        shape = (len(self.lengths), int(self.lengths.max()) if len(self.lengths) else 0)
        return values.new_full(shape, fill).index_put((self.rows, self.columns), values)

    def only(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`sources`, `targets`, `rows`, `columns` of the completion tokens of the caller's rows start:stop."""
        if start == 0 and stop >= len(self.lengths):
            return self.sources, self.targets, self.rows, self.columns
        first, last = (int(self.lengths[:n].sum()) for n in (start, stop))  # completion tokens are in row order
        part = slice(first, last)
        return self.sources[part], self.targets[part], self.rows[part] - start, self.columns[part]


def pack(rows: Sequence[Row], device: torch.device | str = "cpu", share: bool = True, buckets: int = BUCKETS) -> Pack:
    """Packs rows into a tree. `share=False` keeps a prompt's tokens apart for every row (plain padding-free packing);
    `buckets=1` makes one view, its rows in the caller's order.

    Raises ValueError for an empty list or a row without prompt tokens.
    """
    if not rows:
        raise ValueError("There is nothing to pack: the list of rows is empty.")
    ids: list[int] = []
    positions: list[int] = []
    slices: list[Slice] = []
    heads: list[int] = [0] * len(rows)  # packed index of the first prompt token of each row
    tails: list[int] = [0] * len(rows)  # packed index of the first completion token of each row
    for role in dict.fromkeys(row.role for row in rows):
        start = len(ids)
        for prompt, members in _families(rows, role, share):
            if not prompt:
                raise ValueError(f"Row {members[0]} has no prompt token; a row needs at least its begin token.")
            head = len(ids)
            ids.extend(prompt)
            positions.extend(range(len(prompt)))
            for b in members:
                heads[b], tails[b] = head, len(ids)
                ids.extend(rows[b].completion)
                positions.extend(range(len(prompt), len(prompt) + len(rows[b].completion)))
        slices.append(Slice(role, start, len(ids)))
    return _index(rows, ids, positions, tuple(slices), heads, tails, device, buckets)


def _families(rows: Sequence[Row], role: str, share: bool) -> list[tuple[tuple[int, ...], list[int]]]:
    """The rows of one role, grouped by prompt in the order in which the prompts first appear."""
    members = [b for b, row in enumerate(rows) if row.role == role]
    if not share:
        return [(rows[b].prompt, [b]) for b in members]
    families: dict[tuple[int, ...], list[int]] = {}
    for b in members:
        families.setdefault(rows[b].prompt, []).append(b)
    return list(families.items())


def _index(
    rows: Sequence[Row],
    ids: list[int],
    positions: list[int],
    slices: tuple[Slice, ...],
    heads: list[int],
    tails: list[int],
    device: torch.device | str,
    buckets: int,
) -> Pack:
    prompts = np.array([len(row.prompt) for row in rows])
    answers = np.array([len(row.completion) for row in rows])
    lengths, head, tail = prompts + answers, np.array(heads), np.array(tails)
    views, owner, shared = _views(prompts, lengths, head, tail, _buckets(lengths.tolist(), buckets), len(ids))
    row_of = np.repeat(np.arange(len(rows)), answers)
    column_of = np.arange(len(row_of)) - np.repeat(np.cumsum(answers) - answers, answers)
    targets = tail[row_of] + column_of
    sources = np.where(column_of == 0, (head + prompts - 1)[row_of], targets - 1)
    last = np.where(answers == 0, head + prompts - 1, tail + answers - 1)
    tokens = np.array(ids)

    def put(values: np.ndarray | list[int]) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(device, non_blocking=True)

    return Pack(
        put(tokens)[None],
        put(positions)[None],
        slices,
        tuple(put(view) for view in views),
        put(owner),
        put(shared),
        put(row_of),
        put(column_of),
        put(sources),
        put(tokens[targets]),
        put(answers),
        put(last),
    )


def _views(
    prompts: np.ndarray, lengths: np.ndarray, head: np.ndarray, tail: np.ndarray, groups: list[list[int]], n_tokens: int
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The (R, T) views of the groups of rows, the owner of each packed token, and the places that only read one."""
    views: list[np.ndarray] = []
    reads: list[np.ndarray] = []  # packed index of every place of the flattened views; -1 for padding
    for group in groups:
        p, n, h, t = (x[group, None] for x in (prompts, lengths, head, tail))
        place = np.arange(n.max())[None]
        at = np.minimum(place, n - 1)
        view = np.where(at < p, h + at, t + at - p)
        views.append(view)
        reads.append(np.where(place < n, view, -1).reshape(-1))
    flat = np.concatenate(reads)
    real = np.flatnonzero(flat >= 0)
    owner = np.zeros(n_tokens, dtype=np.int64)
    owner[flat[real]] = real
    return views, owner, real[owner[flat[real]] != real]


def _buckets(lengths: list[int], most: int) -> list[list[int]]:
    """Row numbers in at most `most` groups of similar length; a split must save a quarter of the padded area."""
    if most == 1:
        return [list(range(len(lengths)))]
    groups = [sorted(range(len(lengths)), key=lambda b: lengths[b])]
    while len(groups) < most:
        best = max(range(len(groups)), key=lambda g: _best_cut(groups[g], lengths)[1])
        cut, saved = _best_cut(groups[best], lengths)
        area = sum(len(g) * lengths[g[-1]] for g in groups)
        if saved < 0.25 * area:
            break
        groups[best : best + 1] = [groups[best][:cut], groups[best][cut:]]
    return groups


def _best_cut(group: list[int], lengths: list[int]) -> tuple[int, int]:
    """Where to cut a sorted group so that its padded area shrinks most, and by how many positions."""
    if len(group) < 2:
        return 0, 0
    size = np.array([lengths[b] for b in group])
    cuts = np.arange(1, len(group))
    saved = cuts * (size[-1] - size[:-1])  # rows before the cut are padded to its last one, not to the longest
    best = int(saved.argmax())
    return best + 1, int(saved[best])


def split(rows: Sequence[Row], tokens: int) -> list[list[int]]:
    """Row numbers in groups whose padded-free size stays within `tokens` (a longer single row stands alone).

    Rows that share a role and prompt and stand next to each other stay together while they fit.
    """
    groups: list[list[int]] = [[]]
    used = 0
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for b, row in enumerate(rows):
        key = (row.role, row.prompt)
        need = len(row.completion) + (0 if key in seen else len(row.prompt))
        if groups[-1] and used + need > tokens:
            groups.append([])
            used, seen = 0, set()
            need = len(row.completion) + len(row.prompt)
        groups[-1].append(b)
        used += need
        seen.add(key)
    return [g for g in groups if g]
