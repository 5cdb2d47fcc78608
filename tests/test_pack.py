"""Packing: the tree of distinct tokens, the views attention reads, and the way back to rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.pack import Row, Slice, pack, split

X, Y = (1, 2), (1, 5, 6)


def test_a_tree_worked_out_by_hand():
    rows = [Row("a", X, (3,)), Row("b", X, (4,)), Row("a", Y, (8, 9)), Row("a", X, (7, 7))]
    packed = pack(rows, buckets=1)
    # role a: X once with the completions of rows 0 and 3, then Y with row 2; role b: X again, it has its own weights
    assert packed.input_ids.tolist() == [[1, 2, 3, 7, 7, 1, 5, 6, 8, 9, 1, 2, 4]]
    assert packed.positions.tolist() == [[0, 1, 2, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2]]
    assert packed.slices == (Slice("a", 0, 10), Slice("b", 10, 13))
    assert packed.lengths.tolist() == [1, 1, 2, 2]
    assert packed.last.tolist() == [2, 12, 9, 4]
    assert packed.rows.tolist() == [0, 1, 2, 2, 3, 3]
    assert packed.columns.tolist() == [0, 0, 0, 1, 0, 1]
    assert packed.sources.tolist() == [1, 11, 7, 8, 1, 3]  # the token before; for a first one the prompt's last
    assert packed.targets.tolist() == [3, 4, 8, 9, 7, 7]
    assert [view.tolist() for view in packed.views] == [
        [[0, 1, 2, 2, 2], [10, 11, 12, 12, 12], [5, 6, 7, 8, 9], [0, 1, 3, 4, 4]]
    ]
    assert packed.n_tokens == 13


def test_without_sharing_every_row_keeps_its_own_prompt():
    packed = pack([Row("a", X, (3,)), Row("a", X, (4,))], share=False, buckets=1)
    assert packed.input_ids.tolist() == [[1, 2, 3, 1, 2, 4]]
    assert packed.sources.tolist() == [1, 4]


def test_the_same_row_twice_counts_twice():
    packed = pack([Row("a", X, (3,)), Row("a", X, (3,))])
    assert packed.targets.tolist() == [3, 3]
    assert packed.grid(torch.tensor([0.25, 0.5])).tolist() == [[0.25], [0.5]]


def test_one_row_and_a_row_with_an_empty_completion():
    packed = pack([Row("a", (4, 5))])
    assert packed.lengths.tolist() == [0]
    assert packed.last.tolist() == [1]
    assert packed.targets.numel() == packed.sources.numel() == 0
    assert packed.grid(torch.zeros(0)).shape == (1, 0)
    mixed = pack([Row("a", (4, 5)), Row("a", (4, 5), (6,)), Row("a", (4,))])
    assert mixed.last.tolist() == [1, 2, 3]
    assert mixed.grid(torch.tensor([2.0]), fill=-1.0).tolist() == [[-1.0], [2.0], [-1.0]]


def test_a_grid_is_in_the_callers_order_whatever_the_roles_and_lengths():
    rows = [Row("b", X, (10, 11, 12)), Row("a", Y, (20,)), Row("b", Y, (30, 31)), Row("a", X, ())]
    packed = pack(rows)
    assert packed.grid(packed.targets.float()).tolist() == [[10, 11, 12], [20, 0, 0], [30, 31, 0], [0, 0, 0]]


def test_only_picks_the_tokens_of_some_rows():
    packed = pack([Row("a", X, (3,)), Row("a", X, (7, 8)), Row("a", Y, (9,))], buckets=1)
    sources, targets, rows, columns = packed.only(1, 3)
    assert targets.tolist() == [7, 8, 9]
    assert rows.tolist() == [0, 0, 1]
    assert columns.tolist() == [0, 1, 0]
    assert packed.input_ids[0, sources].tolist() == [2, 7, 6]


def test_one_long_row_does_not_pad_the_others():
    rows = [Row("a", (1,), (2,) * n) for n in (3, 90, 4, 3)]
    packed = pack(rows, buckets=3)
    assert sum(view.numel() for view in packed.views) <= 91 + 3 * 5
    assert len(pack(rows, buckets=1).views) == 1
    assert pack(rows, buckets=1).views[0].shape == (4, 91)


def test_rows_of_equal_length_stay_in_one_view():
    assert len(pack([Row("a", (i,), (2, 3)) for i in range(6)]).views) == 1


ROWS = st.lists(st.builds(Row, st.sampled_from("ab"), st.sampled_from([(1,), (1, 2), (1, 2, 3), (7, 8, 9, 10, 11)]),
                          st.lists(st.integers(20, 24), max_size=12).map(tuple)), min_size=1, max_size=12)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, buckets=st.integers(1, 4), share=st.booleans())
def test_every_row_is_read_whole_and_every_packed_token_has_one_owner_that_reads_the_same_past(rows, buckets, share):
    packed = pack(rows, buckets=buckets, share=share)
    ids, positions = packed.input_ids[0], packed.positions[0]
    prompts = {(r.role, r.prompt) for r in rows} if share else [(r.role, r.prompt) for r in rows]
    assert packed.n_tokens == sum(len(p) for _, p in prompts) + sum(len(r.completion) for r in rows)
    # views: each row once, right-padded with its last token, positions counting from 0
    wanted = sorted(r.prompt + r.completion for r in rows)
    lines = [line for view in packed.views for line in view]
    found = []
    for line in lines:
        whole = int((line == line[-1]).long().argmax()) + 1
        assert positions[line[:whole]].tolist() == list(range(whole))
        assert bool((line[whole:] == line[whole - 1]).all())
        found.append(tuple(ids[line[:whole]].tolist()))
    assert sorted(found) == wanted
    # owners: the view position that gives a token its output is that token
    flat = torch.cat([view.reshape(-1) for view in packed.views])
    assert torch.equal(flat[packed.owner], torch.arange(packed.n_tokens))
    # roles: slices tile the packed axis, and each row ends inside a slice of its role
    assert [s.start for s in packed.slices] == [0, *[s.stop for s in packed.slices[:-1]]]
    assert packed.slices[-1].stop == packed.n_tokens
    for b, row in enumerate(rows):
        (role,) = {s.role for s in packed.slices if s.start <= int(packed.last[b]) < s.stop}
        assert role == row.role
        here = packed.rows == b
        assert tuple(packed.targets[here].tolist()) == row.completion
        assert packed.columns[here].tolist() == list(range(len(row.completion)))
        before = (row.prompt + row.completion)[len(row.prompt) - 1 : -1] if row.completion else ()
        assert tuple(ids[packed.sources[here]].tolist()) == before
        assert int(positions[packed.last[b]]) == len(row.prompt) + len(row.completion) - 1


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, tokens=st.integers(1, 40))
def test_parts_hold_every_row_once_in_order_and_keep_to_their_size(rows, tokens):
    parts = split(rows, tokens)
    assert [b for part in parts for b in part] == list(range(len(rows)))
    for part in parts:
        assert len(part) == 1 or pack([rows[b] for b in part]).n_tokens <= tokens


def test_rows_of_one_prompt_share_it_in_a_part():
    rows = [Row("a", (1,) * 8, (2, 2)) for _ in range(4)]
    assert split(rows, 16) == [[0, 1, 2, 3]]  # 8 + 4 · 2
    assert split(rows, 15) == [[0, 1, 2], [3]]


def test_nothing_to_pack_and_a_row_without_a_prompt_are_refused():
    with pytest.raises(ValueError, match="nothing to pack"):
        pack([])
    with pytest.raises(ValueError, match="Row 1 has no prompt token"):
        pack([Row("a", (1,), (2,)), Row("a", (), (2,))])
