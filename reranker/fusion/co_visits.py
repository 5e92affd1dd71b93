"""Matrices of items by items: who chose both, and what followed what."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reranker.types import IntArray

CO_VISIT_WINDOW = 100
"""Only a user's newest interactions count as co-visits, so that one heavy user cannot fill the matrix."""

MOST_CO_VISITS = 64_000_000
"""Pairs of items that users chose together from which on each item keeps its strongest ones, so many in all: 0.8 GB."""

_FEWEST_KEPT = 32  # of an item, in a catalogue of any size
_PRODUCTS_A_BLOCK = 8_000_000


def co_visits(histories: Sequence[IntArray], n_items: int) -> sparse.csr_array:
    """(n_items, n_items) cosines of items' user sets; the strongest of each item where there are very many."""
    newest = [history[-CO_VISIT_WINDOW:] for history in histories]
    users = np.repeat(np.arange(len(newest)), [len(items) for items in newest])
    columns = np.concatenate(newest)
    visits = sparse.csr_array((np.ones(len(columns)), (users, columns)), shape=(len(newest), n_items))
    visits.sum_duplicates()
    visits.data[:] = 1.0
    lengths = np.sqrt(np.maximum(visits.sum(axis=0), 1.0))
    normalised = sparse.csr_array(visits @ sparse.diags_array(1.0 / lengths))
    sizes = np.diff(visits.indptr).astype(np.float64)
    if float(sizes @ sizes) > MOST_CO_VISITS:
        work = np.bincount(visits.indices, weights=np.repeat(sizes, np.diff(visits.indptr)), minlength=n_items)
        return strongest_products(normalised, work.astype(np.float64), max(_FEWEST_KEPT, MOST_CO_VISITS // n_items))
    together = sparse.csr_array(normalised.T @ normalised)
    together.setdiag(0.0)
    together.eliminate_zeros()
    return together


def strongest_products(columns: sparse.csr_array, work: NDArray[np.float64], most: int) -> sparse.csr_array:
    """(n, n) CSR: the `most` largest of each row of columnsᵀ columns without its diagonal, a block of rows at a time.

    Args:
        columns: (rows, n).
        work: (n,) products that each row of the result takes.
        most: entries kept a row.
    """
    across = sparse.csr_array(columns.T)
    block_of = np.floor(np.cumsum(work) / _PRODUCTS_A_BLOCK).astype(np.int64)
    starts = [*np.flatnonzero(np.diff(block_of, prepend=-1)).tolist(), across.shape[0]]
    data: list[NDArray[np.float64]] = []
    indices: list[IntArray] = []
    counts: list[IntArray] = []
    for begin, end in pairwise(starts):
        part = sparse.csr_array(across[begin:end] @ columns)
        rows = np.repeat(np.arange(end - begin), np.diff(part.indptr))
        others = part.indices != rows + begin
        rows, items, values = rows[others], part.indices[others], part.data[others]
        order = np.lexsort((items, -values, rows))
        place = np.arange(len(order)) - np.searchsorted(rows, rows[order])
        kept = order[place < most]
        kept = kept[np.lexsort((items[kept], rows[kept]))]
        data.append(values[kept])
        indices.append(items[kept])
        counts.append(np.bincount(rows[kept], minlength=end - begin))
    pointers = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return sparse.csr_array((np.concatenate(data), np.concatenate(indices), pointers), shape=(across.shape[0],) * 2)


def transitions(histories: Sequence[IntArray], n_items: int) -> sparse.csr_array:
    """(n_items, n_items) how often the column directly followed the row."""
    before = [history[:-1] for history in histories]
    after = [history[1:] for history in histories]
    sources = np.concatenate(before) if before else np.zeros(0, dtype=np.int64)
    targets = np.concatenate(after) if after else np.zeros(0, dtype=np.int64)
    counts = sparse.coo_array((np.ones(len(sources)), (sources, targets)), shape=(n_items, n_items))
    return sparse.csr_array(counts)


def enlarged(matrix: sparse.csr_array, size: int) -> sparse.csr_array:
    """(n, n) -> (size, size), with nothing in what is new."""
    pointers = np.pad(matrix.indptr, (0, size - matrix.shape[0]), mode="edge")
    return sparse.csr_array((matrix.data, matrix.indices, pointers), shape=(size, size))


def block(matrix: sparse.csr_array, rows: IntArray, columns: IntArray) -> NDArray[np.float64]:
    """(len(rows), len(columns)) entries; scipy's own slicing takes a millisecond, however few they are."""
    block = np.zeros((len(rows), len(columns)))
    order = np.argsort(columns)
    for number, row in enumerate(rows.tolist()):
        begin, end = matrix.indptr[row], matrix.indptr[row + 1]
        stored = matrix.indices[begin:end]
        at = np.searchsorted(columns, stored, sorter=order)
        inside = at < len(columns)
        hit = np.zeros(len(stored), dtype=np.bool_)
        hit[inside] = columns[order[at[inside]]] == stored[inside]
        block[number, order[at[hit]]] = matrix.data[begin:end][hit]
    return block
