"""The attention of packed rows against one mask over all pairs of tokens."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.engines.torch import attention as packed_attention
from reranker.engines.torch.attention import FULL, SLIDING, AttentionKind, attending, planned
from reranker.engines.torch.attention import _attention as attention
from reranker.engines.torch.packing import PackedRow, pack
from reranker.errors import ModelError
from reranker.types import ScoringRequest
from tests.contracts.engine import plain, span

HEADS, KEY_HEADS, DIM, WINDOW = 4, 2, 8, 5

lists = st.tuples(
    st.integers(1, 150), st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=6), min_size=1, max_size=8)
)


def row_of(prefix: int, candidates: list[list[int]], group_nodes: int) -> PackedRow:
    request = ScoringRequest(prefix=plain(list(range(prefix))), candidates=tuple(map(span, candidates)))
    (row,) = pack(request, 0, 1000, labels=False, group_nodes=group_nodes)
    return row


def dense(rows: list[PackedRow], begin: int, window: int | None) -> np.ndarray:
    """(tokens, begin + tokens) who attends to whom, one token at a time."""
    positions = np.concatenate([np.arange(begin), *(begin + row.positions for row in rows)])
    sees = np.zeros((len(positions) - begin, len(positions)), dtype=bool)
    sees[:, :begin] = True
    start = 0
    for row in rows:
        for token in range(len(row)):
            node = token - len(row.prefix)
            seen = list(range(min(token + 1, len(row.prefix))))
            while node >= 0:
                seen.append(len(row.prefix) + node)
                node = int(row.parents[node])
            sees[start + token, begin + start + np.array(seen)] = True
        start += len(row)
    if window is not None:
        sees &= positions[begin:, None] - positions < window
    return sees


@pytest.mark.parametrize("softcap", [None, 0.5], ids=["unbounded", "bounded"])
@pytest.mark.parametrize("blocks", [{"cpu": 8}, {}], ids=["trunks in blocks", "trunks whole, as on a GPU"])
@settings(max_examples=60, deadline=None)
@given(st.lists(lists, min_size=1, max_size=3), st.integers(0, 9), st.integers(1, 8), st.integers(0, 99))
def test_equals_one_mask_over_all_pairs(
    blocks: dict[str, int],
    softcap: float | None,
    packed: list[tuple[int, list[list[int]]]],
    begin: int,
    group_nodes: int,
    seed: int,
) -> None:
    rows = [row_of(prefix, candidates, group_nodes) for prefix, candidates in packed]
    draws = torch.Generator().manual_seed(seed)
    tokens = sum(map(len, rows))
    query, key, value = (
        torch.randn((1, heads, count, DIM), generator=draws, dtype=torch.float64, requires_grad=True)
        for heads, count in ((HEADS, tokens), (KEY_HEADS, begin + tokens), (KEY_HEADS, begin + tokens))
    )
    kind = AttentionKind(layers=frozenset({FULL, SLIDING}), window=WINDOW, queries=2, dtype=torch.float64)
    other = torch.full((1, KEY_HEADS, begin, DIM), torch.nan, dtype=torch.float64)  # of a layer before
    behind = {0: (other, other), 1: (key[:, :, :begin], value[:, :, :begin])} if begin else {}
    own = key[:, :, begin:], value[:, :, begin:]
    with mock.patch.dict(packed_attention._TRUNK_BLOCKS, blocks, clear=True):
        plan = planned(rows, behind, kind, torch.device("cpu"))
    for window in (None, WINDOW):
        with attending(plan):
            ours, _ = attention(
                SimpleNamespace(layer_idx=1), query, *own, None, scaling=0.3, softcap=softcap, sliding_window=window
            )
        scores = 0.3 * query @ key.repeat_interleave(2, dim=1).transpose(2, 3)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(torch.from_numpy(~dense(rows, begin, window)), float("-inf"))
        theirs = scores.softmax(dim=-1) @ value.repeat_interleave(2, dim=1)
        torch.testing.assert_close(ours, theirs.transpose(1, 2))
        push = torch.randn(ours.shape, generator=draws, dtype=torch.float64)
        ours_back, theirs_back = (
            torch.autograd.grad(one, (query, key, value), push) for one in (ours, theirs.transpose(1, 2))
        )
        torch.testing.assert_close(ours_back, theirs_back)


@pytest.mark.parametrize(
    ("option", "meaning"), [("s_aux", "attention sinks"), ("position_bias", "biases of attention")]
)
def test_what_a_layer_asks_for_in_vain(option: str, meaning: str) -> None:
    states = torch.ones((1, 2, 3, 4))
    with pytest.raises(ModelError, match=rf"does not compute {meaning} \({option} of SimpleNamespace\).*vllm"):
        attention(SimpleNamespace(layer_idx=0), states, states, states, None, **{option: torch.ones(2)})


def test_padding_is_spread() -> None:
    """A GPU adds up the gradients of one place one after another, so none may have most of them."""
    rows = [row_of(150, [[7, 5]], 64), *(row_of(2, [[7, 5]], 64) for _ in range(20))]
    kind = AttentionKind(layers=frozenset({FULL}), window=0, queries=1, dtype=torch.float32)
    for side in planned(rows, {}, kind, torch.device("cpu")).sides:
        for places in (side.queries, side.keys):
            assert places.unique(return_counts=True)[1].max() <= 4 + 2 * places.numel() / sum(map(len, rows))


def test_work_grows_with_the_list_and_not_with_its_square() -> None:
    """Pairs of queries and keys that are multiplied, of lists of 100 and 200 candidates behind 50 tokens."""

    def pairs(candidates: int) -> int:
        row = row_of(50, [[7, number, 5, 6] for number in range(candidates)], 64)
        kind = AttentionKind(layers=frozenset({FULL}), window=0, queries=1, dtype=torch.float32)
        return sum(side.masks[FULL].numel() for side in planned([row], {}, kind, torch.device("cpu")).sides)

    assert pairs(200) < 2.1 * pairs(100)
