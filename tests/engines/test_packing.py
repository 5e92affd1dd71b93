"""Packed rows by hand, and for any candidates."""

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reranker.engines.torch.packing import PackedRow, batches, pack, split_common
from reranker.types import ScoringRequest, TokenSequence
from tests.contracts.engine import plain, span

spans = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=6), min_size=1, max_size=12)


def rows_of(
    candidates: list[list[int]], max_nodes: int = 1000, *, labels: bool = False, group_nodes: int = 64
) -> list[PackedRow]:
    request = ScoringRequest(prefix=plain([9, 9]), candidates=tuple(map(span, candidates)))
    return list(pack(request, 0, max_nodes, labels=labels, group_nodes=group_nodes))


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
    assert row.groups.tolist() == [0, 3]
    assert row.visible(0).astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_a_group_takes_no_more_than_its_bound() -> None:
    """The second group computes the common 1 anew."""
    (row,) = rows_of([[1, 2, 3], [1, 4, 3], [1, 5, 6]], group_nodes=3)
    assert row.nodes.token_ids.tolist() == [1, 2, 4, 1, 5]
    assert row.groups.tolist() == [0, 3, 5]
    assert row.parents.tolist() == [-1, 0, 0, -1, 3]
    assert row.visible(1).astype(int).tolist() == [[1, 0], [1, 1]]


@given(spans, st.integers(1, 8))
def test_groups_see_paths(candidates: list[list[int]], group_nodes: int) -> None:
    (row,) = rows_of(candidates, group_nodes=group_nodes)
    seen: list[list[int]] = []
    for group, begin in enumerate(row.groups[:-1]):
        seen += [list(row.nodes.token_ids[begin + np.flatnonzero(one)]) for one in row.visible(group)]
        assert len(row.visible(group)) <= max(group_nodes, 5)
    assert seen == [path(row, node) for node in range(len(row.nodes))]


def test_one_candidate_is_a_chain() -> None:
    assert rows_of([[1, 2, 3]])[0].is_chain and rows_of([[1, 2, 3], [1, 2, 4]])[0].is_chain
    assert not rows_of([[1, 2, 3], [1, 3, 4]])[0].is_chain


@given(spans, st.integers(1, 8))
def test_each_pair_reads_the_path_before_its_target(candidates: list[list[int]], group_nodes: int) -> None:
    (row,) = rows_of(candidates, group_nodes=group_nodes)
    found: dict[int, list[tuple[list[int], int]]] = {}
    for read, target, owner in zip(row.pair_reads, row.pair_targets, row.pair_candidates, strict=True):
        found.setdefault(int(owner), []).append((path(row, int(row.reads[read])), int(target)))
    for number, tokens in enumerate(candidates):
        expected = [(tokens[:position], tokens[position]) for position in range(1, len(tokens))]
        assert sorted(found[number]) == sorted(expected)


@given(spans, st.integers(1, 8))
def test_labels_read_the_whole_span(candidates: list[list[int]], group_nodes: int) -> None:
    (row,) = rows_of(candidates, labels=True, group_nodes=group_nodes)
    pairs = zip(row.pair_reads, row.pair_candidates, strict=True)
    whole = {int(owner): path(row, int(row.reads[read])) for read, owner in pairs}
    assert whole == dict(enumerate(candidates))


@given(spans, st.randoms(use_true_random=False))
def test_shuffled_candidates_make_the_same_row(candidates: list[list[int]], random: Random) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)
    (first,), (second,) = rows_of(candidates), rows_of(shuffled)
    assert (first.nodes.token_ids == second.nodes.token_ids).all()
    assert (first.parents == second.parents).all() and (first.groups == second.groups).all()
    assert (first.reads == second.reads).all()


@given(spans, st.integers(1, 8))
def test_long_lists_are_cut_and_no_candidate_is_lost(candidates: list[list[int]], max_nodes: int) -> None:
    rows = rows_of(candidates, max_nodes, labels=True)
    owners = np.concatenate([row.pair_candidates for row in rows])
    assert sorted(owners.tolist()) == list(range(len(candidates)))
    longest = max(map(len, candidates))
    assert all(len(row.nodes) <= max(max_nodes, longest) for row in rows)


def test_batches_are_full_and_no_fuller() -> None:
    assert list(batches([3, 9, 2, 4, 1], 6)) == [[1], [3], [0, 2, 4]]


@given(st.lists(st.integers(1, 9)), st.integers(1, 20))
def test_every_number_is_in_one_batch(sizes: list[int], most: int) -> None:
    found = list(batches(sizes, most))
    assert sorted(number for batch in found for number in batch) == list(range(len(sizes)))
    assert all(sum(sizes[number] for number in batch) <= most for batch in found if len(batch) > 1)


def soft(value: float) -> TokenSequence:
    return TokenSequence.from_vectors(np.full((1, 2), value, dtype=np.float32))


def requests_of(*prefixes: list[TokenSequence]) -> list[ScoringRequest]:
    return [ScoringRequest(prefix=TokenSequence.concatenate(parts), candidates=(span([1, 2]),)) for parts in prefixes]


def test_common_beginnings_end_at_the_first_difference() -> None:
    """A token, a vector, tokens; the second users' vectors differ."""
    shared = [plain([5]), soft(1.0), plain([6, 7])]
    common, (first, second) = split_common(requests_of([*shared, soft(2.0), plain([8])], [*shared, soft(3.0)]))
    assert common.token_ids.tolist() == [5, 0, 6, 7] and common.vectors.tolist() == [[1.0, 1.0]]
    assert first.prefix.token_ids.tolist() == [0, 8] and first.prefix.vectors.tolist() == [[2.0, 2.0]]
    assert second.prefix.vector_positions.tolist() == [0] and second.prefix.vectors.tolist() == [[3.0, 3.0]]


def test_a_vector_is_no_token() -> None:
    """A vector's placeholder is 0, as is the id of a token."""
    common, _ = split_common(requests_of([plain([5]), soft(1.0)], [plain([5, 0])]))
    assert common.token_ids.tolist() == [5]


def test_prefixes_that_share_all_or_nothing() -> None:
    whole, rest = split_common(requests_of([plain([5, 6])], [plain([5, 6])]))
    assert whole.token_ids.tolist() == [5] and [one.prefix.token_ids.tolist() for one in rest] == [[6], [6]]
    for apart in (requests_of([plain([5, 6])]), requests_of([plain([5])], [plain([6])])):
        common, same = split_common(apart)
        assert len(common) == 0 and [one.prefix for one in same] == [one.prefix for one in apart]
