"""Packed rows by hand, and for any candidates."""

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reranker.engines.packing import PackedRow, pack
from reranker.types import ScoringRequest
from tests.contracts.engine import plain, span

spans = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=6), min_size=1, max_size=12)


def rows_of(candidates: list[list[int]], max_nodes: int = 1000, *, labels: bool = False) -> list[PackedRow]:
    request = ScoringRequest(prefix=plain([9, 9]), candidates=tuple(map(span, candidates)))
    return list(pack(request, 0, max_nodes, labels=labels))


def path(row: PackedRow, node: int) -> list[int]:
    tokens: list[int] = []
    while node >= 0:
        tokens.insert(0, int(row.nodes.token_ids[node]))
        node = int(row.parents[node])
    return tokens


def test_common_beginnings_are_computed_once() -> None:
    (row,) = rows_of([[1, 2, 3], [1, 2, 4], [1, 5, 6]])
    # The last token of each is predicted only: nodes are 1, then 2 and 5 below it.
    assert row.nodes.token_ids.tolist() == [1, 2, 5]
    assert row.depths.tolist() == [0, 1, 1]
    assert row.parents.tolist() == [-1, 0, 0]
    assert row.positions.tolist() == [0, 1, 2, 3, 3]
    assert row.visible().astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 0, 1],
    ]


@given(spans)
def test_each_pair_reads_the_path_before_its_target(candidates: list[list[int]]) -> None:
    (row,) = rows_of(candidates)
    found: dict[int, list[tuple[list[int], int]]] = {}
    for read, target, owner in zip(row.pair_reads, row.pair_targets, row.pair_candidates, strict=True):
        found.setdefault(int(owner), []).append((path(row, int(row.reads[read])), int(target)))
    for number, tokens in enumerate(candidates):
        expected = [(tokens[:position], tokens[position]) for position in range(1, len(tokens))]
        assert sorted(found[number]) == sorted(expected)


@given(spans)
def test_labels_read_the_whole_span(candidates: list[list[int]]) -> None:
    (row,) = rows_of(candidates, labels=True)
    pairs = zip(row.pair_reads, row.pair_candidates, strict=True)
    whole = {int(owner): path(row, int(row.reads[read])) for read, owner in pairs}
    assert whole == dict(enumerate(candidates))


@given(spans, st.randoms(use_true_random=False))
def test_shuffled_candidates_make_the_same_row(candidates: list[list[int]], random: Random) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)
    (first,), (second,) = rows_of(candidates), rows_of(shuffled)
    assert (first.nodes.token_ids == second.nodes.token_ids).all()
    assert (first.visible() == second.visible()).all()
    assert (first.reads == second.reads).all()


@given(spans, st.integers(1, 8))
def test_long_lists_are_cut_and_no_candidate_is_lost(candidates: list[list[int]], max_nodes: int) -> None:
    rows = rows_of(candidates, max_nodes, labels=True)
    owners = np.concatenate([row.pair_candidates for row in rows])
    assert sorted(owners.tolist()) == list(range(len(candidates)))
    longest = max(map(len, candidates))
    assert all(len(row.nodes) <= max(max_nodes, longest) for row in rows)
