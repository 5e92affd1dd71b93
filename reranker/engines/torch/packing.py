"""One request -> packed rows: the prefix once, then all candidates as trees of tokens that share beginnings.

A row is [prefix | node | node | ...]. A node sees the prefix, its ancestors and itself, and its position continues the
prefix at its depth, so each path from the root reads exactly like one prompt of its own. Candidates that begin alike
("\\n- The ...") share the nodes of the common beginning: the same numbers, computed once. Nodes stand in small groups,
a tree each, so that attention is computed within groups.

Candidates are laid out in the order of their content, not of the request. Shuffled candidates therefore make the same
row, bit for bit, and get the same scores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reranker.types import IntArray, ScoringRequest, TokenSequence

_FIRST_VECTOR = 1 << 40  # symbols below are token ids, from here on they number the distinct vectors
_ABSENT = -1
GROUP_NODES = 64  # smaller groups share less, larger ones attend to more of what they do not see

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedRow:
    """A prefix and the token trees of some of its candidates.

    Attributes:
        request: index of the request in the batch.
        prefix: the shared prefix.
        nodes: (n_nodes,) the trees' tokens and vectors; parents come before children.
        groups: (n_groups + 1,) where the trees begin among the nodes, and where the last one ends.
        depths: (n_nodes,) 0 for children of the prefix.
        parents: (n_nodes,) node index of the parent, -1 for the prefix.
        reads: (n_reads,) nodes whose next-token distribution is wanted, ascending.
        pair_reads: (n_pairs,) which read each wanted log-probability comes from.
        pair_targets: (n_pairs,) the token whose log-probability is wanted; empty for labels.
        pair_candidates: (n_pairs,) candidate, in the order of the request, that the pair belongs to.
    """

    request: int
    prefix: TokenSequence
    nodes: TokenSequence
    groups: IntArray
    depths: IntArray
    parents: IntArray
    reads: IntArray
    pair_reads: IntArray
    pair_targets: IntArray
    pair_candidates: IntArray

    def __len__(self) -> int:
        return len(self.prefix) + len(self.nodes)

    @property
    def positions(self) -> IntArray:
        """(len,) position of each token in its own prompt: what rotary embeddings are given."""
        return np.concatenate([np.arange(len(self.prefix)), len(self.prefix) + self.depths])

    @property
    def is_chain(self) -> bool:
        """Whether each node follows the one before it: the row is one plain prompt."""
        return bool((self.parents == np.arange(-1, len(self.nodes) - 1)).all())

    def visible(self, group: int) -> BoolArray:
        """(n, n) True where the row's node of this group attends to the column's node of it."""
        begin, end = self.groups[group : group + 2]
        depths, parents = self.depths[begin:end], self.parents[begin:end] - begin
        mask = np.eye(end - begin, dtype=np.bool_)
        for depth in range(1, int(depths.max(initial=0)) + 1):
            level = np.flatnonzero(depths == depth)
            mask[level] |= mask[parents[level]]
        return mask


def pack(
    request: ScoringRequest, number: int, max_nodes: int, *, labels: bool, group_nodes: int = GROUP_NODES
) -> Iterator[PackedRow]:
    """Rows of at most about `max_nodes` candidate tokens; a single longer candidate gets a row of its own.

    Args:
        request: the prefix and its candidates.
        number: index of the request, carried along.
        max_nodes: bound on the nodes of one row, and with it on memory.
        labels: True reads the distribution after each candidate's last token, False that of every scored token. The
            last token of a likelihood span is only predicted, never read, so it takes no node.
        group_nodes: bound on the nodes of one group; the longest candidate's, if it has more.
    """
    sequences = [candidate.sequence for candidate in request.candidates]
    symbols, vectors = _symbols(sequences)
    lengths = np.array([len(sequence) for sequence in sequences])
    starts = np.array([candidate.scored_from for candidate in request.candidates])
    order = np.lexsort((starts, *symbols.T[::-1]))
    used = lengths if labels else lengths - 1
    group_nodes = max(group_nodes, int(used.max()))
    for chunk in _chunks(order, symbols, used, max_nodes):
        trees: list[_Tree] = []
        begins = [0]
        for group in _chunks(chunk, symbols, used, group_nodes):
            trees.append(_Tree(symbols[group], used[group], begins[-1]))
            begins.append(begins[-1] + len(trees[-1].symbols))
        grid = np.concatenate([tree.grid for tree in trees])
        if labels:
            read_nodes, targets = grid[np.arange(len(chunk)), lengths[chunk] - 1], np.zeros(0, dtype=np.int64)
            owners = np.arange(len(chunk))
        else:
            column = np.arange(symbols.shape[1])
            scored = (column >= starts[chunk, None]) & (column < lengths[chunk, None])
            owners, columns = np.nonzero(scored)
            read_nodes, targets = grid[owners, columns - 1], symbols[chunk][owners, columns]
        reads, pair_reads = np.unique(read_nodes, return_inverse=True)
        yield PackedRow(
            request=number,
            prefix=request.prefix,
            nodes=_sequence(np.concatenate([tree.symbols for tree in trees]), vectors),
            groups=np.array(begins),
            depths=np.concatenate([tree.depths for tree in trees]),
            parents=np.concatenate([tree.parents for tree in trees]),
            reads=reads,
            pair_reads=pair_reads.reshape(-1),
            pair_targets=targets,
            pair_candidates=chunk[owners],
        )


def batches(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Numbers of like size together, the largest first, at most `most` in sum; a larger one goes alone."""
    batch: list[int] = []
    total = 0
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        if batch and total + sizes[number] > most:
            yield batch
            batch, total = [], 0
        batch.append(number)
        total += sizes[number]
    if batch:
        yield batch


def split_common(requests: Sequence[ScoringRequest]) -> tuple[TokenSequence, list[ScoringRequest]]:
    """What all prefixes begin with, vectors by content, and the requests without it. Of one request: nothing.

    Each prefix keeps its last token at least.
    """
    first = requests[0].prefix if len(requests) > 1 else TokenSequence.from_tokens([])
    length = min(min(_common_length(first, one.prefix), len(one.prefix) - 1) for one in requests)
    if not length:
        return TokenSequence.from_tokens([]), list(requests)
    return split_prefixes(requests, length)


def split_prefixes(requests: Sequence[ScoringRequest], length: int) -> tuple[TokenSequence, list[ScoringRequest]]:
    """The first `length` tokens, at least one, of the first prefix, and the requests without theirs."""
    parts = [one.prefix.split(length) for one in requests]
    rests = [TokenSequence.concatenate(rest) for _, *rest in parts]
    return parts[0][0], [replace(one, prefix=rest) for one, rest in zip(requests, rests, strict=True)]


def _common_length(one: TokenSequence, other: TokenSequence) -> int:
    length = min(len(one), len(other))
    rows: list[NDArray[np.float32]] = []
    soft = np.zeros((2, length), dtype=np.bool_)
    for place, sequence in enumerate((one, other)):
        count = int(np.searchsorted(sequence.vector_positions, length))
        soft[place, sequence.vector_positions[:count]] = True
        rows.append(sequence.vectors[:count])
    same = (soft[0] == soft[1]) & (soft[0] | (one.token_ids[:length] == other.token_ids[:length]))
    length = length if same.all() else int(same.argmin())
    for position, mine, theirs in zip(np.flatnonzero(soft[0, :length]).tolist(), *rows, strict=False):
        if not np.array_equal(mine, theirs):
            return int(position)
    return length


class _Tree:
    """The distinct beginnings of sequences that are sorted by content.

    Args:
        symbols: (n_sequences, longest).
        used: (n_sequences,) how many of them become nodes.
        begin: number of the first node.

    Attributes:
        grid: (n_sequences, longest) node of each position; -1 beyond the end.
        symbols, depths, parents: (n_nodes,), level by level.
    """

    def __init__(self, symbols: IntArray, used: IntArray, begin: int) -> None:
        present = np.arange(symbols.shape[1]) < used[:, None]
        symbols = np.where(present, symbols, _ABSENT)
        new = _is_new(symbols) & present
        columns, rows = np.nonzero(new.T)  # level by level: parents first
        number = np.full(symbols.shape, _ABSENT, dtype=np.int64)
        number[rows, columns] = begin + np.arange(len(rows))
        # A position that is not new repeats the last new node above it in its column.
        row_of_node = np.maximum.accumulate(np.where(new, np.arange(len(symbols))[:, None], 0), axis=0)
        self.grid = np.where(present, np.take_along_axis(number, row_of_node, axis=0), _ABSENT)
        self.symbols: IntArray = symbols[rows, columns]
        self.depths: IntArray = columns.astype(np.int64)
        self.parents: IntArray = np.where(columns > 0, self.grid[rows, np.maximum(columns - 1, 0)], _ABSENT)


def _is_new(symbols: IntArray) -> BoolArray:
    """(n, longest) True where a sorted sequence differs from the one above it, here or earlier."""
    differs = np.ones(symbols.shape, dtype=np.bool_)
    differs[1:] = np.logical_or.accumulate(symbols[1:] != symbols[:-1], axis=1)
    return differs


def _chunks(order: IntArray, symbols: IntArray, used: IntArray, max_nodes: int) -> Iterator[IntArray]:
    """Cuts the sorted candidates where the tree would outgrow `max_nodes`."""
    in_order = np.where(np.arange(symbols.shape[1]) < used[order, None], symbols[order], _ABSENT)
    added = (_is_new(in_order) & (in_order != _ABSENT)).sum(axis=1)
    begin, nodes = 0, 0
    for index, (count, alone) in enumerate(zip(added.tolist(), used[order].tolist(), strict=True)):
        if nodes + count > max_nodes and index > begin:
            yield order[begin:index]
            begin, nodes = index, alone
        else:
            nodes += count
    yield order[begin:]


def _symbols(sequences: Sequence[TokenSequence]) -> tuple[IntArray, NDArray[np.float32]]:
    """((n, longest) symbols, (n_distinct, dim) vectors). Vectors are numbered by content, so order cannot matter."""
    longest = max(len(sequence) for sequence in sequences)
    symbols = np.full((len(sequences), longest), _ABSENT, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        symbols[row, : len(sequence)] = sequence.token_ids
    soft = [(row, sequence) for row, sequence in enumerate(sequences) if not sequence.is_plain]
    if not soft:
        return symbols, np.zeros((0, 0), dtype=np.float32)
    vectors, numbers = np.unique(
        np.concatenate([sequence.vectors for _, sequence in soft]), axis=0, return_inverse=True
    )
    begin = 0
    for row, sequence in soft:
        end = begin + len(sequence.vectors)
        symbols[row, sequence.vector_positions] = _FIRST_VECTOR + numbers.reshape(-1)[begin:end]
        begin = end
    return symbols, vectors


def _sequence(symbols: IntArray, vectors: NDArray[np.float32]) -> TokenSequence:
    soft = symbols >= _FIRST_VECTOR
    if not soft.any():
        return TokenSequence(token_ids=symbols)
    return TokenSequence(
        token_ids=np.where(soft, 0, symbols),
        vectors=vectors[symbols[soft] - _FIRST_VECTOR],
        vector_positions=np.flatnonzero(soft),
    )
