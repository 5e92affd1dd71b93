"""Items of highest inner product: exact in small catalogues, by an inverted file (faiss) in big ones.

Jégou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search" (2011), without the quantisation of residuals.
"""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.types import IntArray

EXACT_UP_TO = 50_000
"""Items of a catalogue that is searched exactly."""

_CELLS = 4.0  # times the root of how many items: cells of the inverted file
_PROBED = 32  # cells that a search looks into
_TRAINED_ON = 64  # items a cell that the cells are learned from

logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32]


def approximate_index(vectors: Vectors) -> Any | None:
    """A faiss index over (n, d) vectors; None for a small catalogue, or without the package (the log says so)."""
    if len(vectors) <= EXACT_UP_TO:
        return None
    try:
        import faiss
    except ImportError:
        logger.warning(
            "%d items are searched exactly, which is slow: pip install 'reranker[ann]' for an approximate search",
            len(vectors),
        )
        return None
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
