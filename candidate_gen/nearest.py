"""Items of highest inner product in big catalogues: by an inverted file (faiss), or exactly, block by block.

Jégou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search" (2011), without the quantisation of residuals.
"""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.types import IntArray

EXACT_UP_TO = 50_000
"""Items of a catalogue that needs no index."""

_CELLS = 4.0  # times the root of how many items: cells of the inverted file
_PROBED = 32  # cells that a search looks into
_TRAINED_ON = 64  # items a cell that the cells are learned from

_ITEMS, _QUERIES = 16_384, 256  # of a block that is scored at once: 16 MB
_SPARE = 8  # found beyond what is asked for, so that rounding to float32 decides nothing

logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32]


class ExactIndex:
    """Every item is scored, and only the best so far are held.

    Args:
        vectors: (n, d)
    """

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def search(self, queries: Vectors, n: int) -> tuple[Vectors, IntArray]:
        """(n_queries, n) products, highest first, and rows; row -1 where there are fewer. As faiss has it."""
        parts = [self._block(queries[start : start + _QUERIES], n) for start in range(0, len(queries), _QUERIES)]
        scores, rows = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(rows)

    def _block(self, queries: Vectors, n: int) -> tuple[Vectors, IntArray]:
        held = n + _SPARE
        best = np.full((len(queries), held), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), held), -1, dtype=np.int64)
        for start in range(0, len(self._vectors), _ITEMS):
            scores = queries @ self._vectors[start : start + _ITEMS].T
            if not start and scores.shape[1] > held:  # nothing is held yet that would leave most of them out
                lowest = np.partition(scores, scores.shape[1] - held, axis=1)[:, scores.shape[1] - held]
                users, items = np.nonzero(scores >= lowest[:, None])
            else:
                users, items = np.nonzero(scores > best[:, -1:])
            if len(users):
                best, rows = _merged(best, rows, users, scores[users, items], items + start)
        return self._settled(queries, rows, n)

    def _settled(self, queries: Vectors, rows: IntArray, n: int) -> tuple[Vectors, IntArray]:
        """The n best of these rows by products summed in float64: a query alone scores as in a block."""
        products = np.einsum("qd,qnd->qn", queries, self._vectors[rows], dtype=np.float64)
        scores = np.where(rows >= 0, products, -np.inf).astype(np.float32)
        order = np.lexsort((rows, -scores), axis=1)[:, :n]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _merged(
    best: Vectors, rows: IntArray, users: IntArray, scores: Vectors, items: IntArray
) -> tuple[Vectors, IntArray]:
    """What is held of each user after further scores came, the highest first, of equals the lower row."""
    n_users, held = best.shape
    users = np.concatenate([np.repeat(np.arange(n_users), held), users])
    scores, items = np.concatenate([best.ravel(), scores]), np.concatenate([rows.ravel(), items])
    order = np.lexsort((items, -scores, users))
    ordered = users[order]
    kept = order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < held]
    return scores[kept].reshape(n_users, held), items[kept].reshape(n_users, held)


def index_of(vectors: Vectors) -> Any | None:
    """An index over (n, d) vectors, approximate by faiss or without the package exact; None for a small catalogue."""
    if len(vectors) <= EXACT_UP_TO:
        return None
    try:
        import faiss
    except ImportError:
        logger.warning(
            "%d items are searched exactly: pip install 'reranker[ann]' for a faster, approximate search", len(vectors)
        )
        return ExactIndex(vectors)
    cells = int(_CELLS * np.sqrt(len(vectors)))
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.max_points_per_centroid = 0, _TRAINED_ON
    index.cp.niter = 10
    drawn = np.random.default_rng(0).permutation(len(vectors))[: cells * _TRAINED_ON]
    index.train(np.ascontiguousarray(vectors[np.sort(drawn)]))
    index.add(np.ascontiguousarray(vectors))
    index.nprobe = _PROBED
    return index


def search(index: Any, queries: Vectors, n: int) -> tuple[IntArray, Vectors]:
    """(n_queries, n) rows of highest inner product, best first, and the products; row -1 where fewer were found."""
    scores, rows = index.search(np.ascontiguousarray(queries, dtype=np.float32), n)
    return np.asarray(rows, dtype=np.int64), np.asarray(scores, dtype=np.float32)
