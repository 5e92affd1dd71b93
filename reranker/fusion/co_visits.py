"""Matrices of items by items: who chose both, and what followed what."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reranker.fusion.histories import UserHistories
from reranker.types import IntArray

CO_VISIT_WINDOW = 100
"""Only a user's newest interactions count as co-visits, so that one heavy user cannot fill the matrix."""

MOST_CO_VISITS = 64_000_000
"""Pairs of items that users chose together from which on each item keeps its strongest ones, so many in all: 0.5 GB."""

_FEWEST_KEPT = 32  # of an item, in a catalogue of any size
_PRODUCTS_A_BLOCK = 8_000_000


def co_visits(histories: UserHistories, n_items: int) -> sparse.csr_array:
    """(n_items, n_items) float64 cosines of items' user sets; of very many the strongest of each item, as float32."""
    normalised = _normalised(histories, n_items)
    sizes = np.diff(normalised.indptr).astype(np.float64)
    if float(sizes @ sizes) > MOST_CO_VISITS:
        work = np.bincount(normalised.indices, np.repeat(sizes, np.diff(normalised.indptr)), minlength=n_items)
        return strongest_products(normalised, work.astype(np.float64), max(_FEWEST_KEPT, MOST_CO_VISITS // n_items))
    together = sparse.csr_array(normalised.T @ normalised)
    together.setdiag(0.0)
    together.eliminate_zeros()
    return together


def _normalised(histories: UserHistories, n_items: int) -> sparse.csr_array:
    """(n_users, n_items) CSR: 1 / sqrt(users of the item) where the user chose it lately, so columns have length 1."""
    rows, offsets, lengths = histories.rows, histories.offsets, histories.lengths
    if lengths.max(initial=0) > CO_VISIT_WINDOW:
        rows = rows[np.repeat(offsets[1:], lengths) - np.arange(len(rows)) <= CO_VISIT_WINDOW]
        offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, CO_VISIT_WINDOW))])
    cells = (np.ones(len(rows), dtype=np.int8), rows.copy(), _pointers(offsets))  # copies, which are changed
    there = sparse.csr_array(cells, shape=(len(lengths), n_items))
    there.sum_duplicates()
    factors = 1.0 / np.sqrt(np.maximum(np.bincount(there.indices, minlength=n_items), 1.0))
    return sparse.csr_array((factors[there.indices], there.indices, there.indptr), shape=there.shape)


def strongest_products(columns: sparse.csr_array, work: NDArray[np.float64], most: int) -> sparse.csr_array:
    """(n, n) float32 CSR: the `most` largest of each row of columnsᵀ columns without its diagonal.

    A block of rows at a time, compared as float64 and kept in arrays that are made once.

    Args:
        columns: (rows, n).
        work: (n,) products that each row of the result takes.
        most: entries kept a row.
    """
    across = sparse.csr_array(columns.T)
    n = across.shape[0]
    block_of = np.floor(np.cumsum(work) / _PRODUCTS_A_BLOCK).astype(np.int64)
    starts = [*np.flatnonzero(np.diff(block_of, prepend=-1)).tolist(), n]
    room, filled = int(np.minimum(work, most).sum()), 0
    data, indices = np.empty(room, dtype=np.float32), np.empty(room, dtype=np.int32)
    counts = np.zeros(n, dtype=np.int64)
    for begin, end in pairwise(starts):
        part = sparse.csr_array(across[begin:end] @ columns)
        part.sort_indices()
        rows = np.repeat(np.arange(end - begin), np.diff(part.indptr))
        kept = part.indices != rows + begin
        _keep_strongest(kept, rows, part.data, most)
        after = filled + int(kept.sum())
        data[filled:after], indices[filled:after] = part.data[kept], part.indices[kept]
        counts[begin:end], filled = np.bincount(rows[kept], minlength=end - begin), after
    pointers = _pointers(np.concatenate([[0], np.cumsum(counts)]))
    return sparse.csr_array((data[:filled], indices[:filled], pointers), shape=(n, n))


def _pointers(offsets: IntArray) -> NDArray[np.integer]:
    """A copy as int32 where they fit: beside int64, scipy keeps indices as int64, too, which are twice as large."""
    return offsets.astype(np.int32 if offsets[-1] <= np.iinfo(np.int32).max else np.int64)


def _keep_strongest(kept: NDArray[np.bool_], rows: IntArray, values: NDArray[np.float64], most: int) -> None:
    """Leaves at most so many True in `kept` a row: the highest values, of equals the first; only long rows are sorted.

    Args:
        kept: (n,), changed.
        rows: (n,) ascending.
        values: (n,).
        most: a row.
    """
    long = np.flatnonzero(kept & (np.bincount(rows[kept], minlength=int(rows.max(initial=0)) + 1) > most)[rows])
    order = long[np.lexsort((long, -values[long], rows[long]))]
    ordered = rows[order]
    kept[order[np.arange(len(order)) - np.searchsorted(ordered, ordered) >= most]] = False


def transitions(histories: UserHistories, n_items: int) -> sparse.csr_array:
    """(n_items, n_items) float32: how often the column directly followed the row."""
    rows, first = histories.rows, np.zeros(len(histories.rows) + 1, dtype=np.bool_)
    first[histories.offsets] = True  # of a user, who has nothing before it
    after = np.flatnonzero(~first[: len(rows)])
    cells = (rows[after - 1], rows[after])
    counts = sparse.coo_array((np.ones(len(after), dtype=np.float32), cells), shape=(n_items, n_items))
    return sparse.csr_array(counts)


def enlarged(matrix: sparse.csr_array, size: int) -> sparse.csr_array:
    """(n, n) -> (size, size), with nothing in what is new."""
    pointers = np.pad(matrix.indptr, (0, size - matrix.shape[0]), mode="edge")
    return sparse.csr_array((matrix.data, matrix.indices, pointers), shape=(size, size))


def block(matrix: sparse.csr_array, rows: IntArray, columns: IntArray) -> NDArray[np.float64]:
    """(len(rows), len(columns)) entries; scipy's own slicing takes a millisecond, however few they are.

    Args:
        matrix: whose rows are sorted by column.
        rows: may be empty.
        columns: likewise, in any order.
    """
    block = np.zeros((len(rows), len(columns)))
    for number, row in enumerate(rows.tolist()):
        begin, end = matrix.indptr[row], matrix.indptr[row + 1]
        stored = matrix.indices[begin:end]
        if len(stored):
            at = np.minimum(np.searchsorted(stored, columns), len(stored) - 1)
            hit = stored[at] == columns
            block[number, hit] = matrix.data[begin:end][at[hit]]
    return block
