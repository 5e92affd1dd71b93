"""What the model says of the lists that `Reranker.fit` learns from, as of before the choices that they hold."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.data.catalog import Catalog
from reranker.fusion.features import chosen_items
from reranker.pipeline.domain import with_newer_items
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.pipeline.windows import ValidationFold
from reranker.soft_tokens import ItemTokens
from reranker.types import IntArray


def read_folds(
    reader: LLMScorer,
    catalog: Catalog,
    folds: Sequence[ValidationFold],
    wanted: IntArray,
    tokens: ItemTokens | None,
    progress: bool | None = False,
) -> dict[int, NDArray[np.float64]]:
    """Reads lists of several windows; the reader is left with the projections and item tokens of the last one.

    Tastes and item tokens are those of before the choices that they predict; contexts start from the histories of that
    window, without gradient steps.

    Args:
        reader: knows the catalogue's items already.
        catalog: the items' texts.
        folds: one a window.
        wanted: numbers of the lists, counted on from one fold to the next.
        tokens: the domain's item tokens as they were trained.
        progress: as `progress_bar` has it.

    Returns:
        List number -> (n_candidates, n_components).
    """
    components: dict[int, NDArray[np.float64]] = {}
    if not reader.config.reads_texts:
        sizes = np.bincount(np.concatenate([fold.list_index + begin for fold, begin in _numbered(folds)]))
        return {number: np.zeros((sizes[number], 0)) for number in wanted.tolist()}
    begins = np.cumsum([0, *(len(fold.users) for fold in folds)])
    for fold, begin, end in zip(folds, begins[:-1], begins[1:], strict=True):
        numbers = wanted[(wanted >= begin) & (wanted < end)]
        if not len(numbers):
            continue
        reader.item_tokens = with_newer_items(tokens, fold.statistics)
        reader.learn_choices(*chosen_items(catalog, fold.statistics))
        candidates = fold.candidates[np.isin(fold.list_index, numbers - begin)].reset_index(drop=True)
        read = reader.components(reader.lists(candidates, catalog, fold.statistics.history, {}), progress)
        components |= zip(numbers.tolist(), read, strict=True)
    return components


def _numbered(folds: Sequence[ValidationFold]) -> Iterator[tuple[ValidationFold, int]]:
    """Each fold with the number of its first list."""
    begin = 0
    for fold in folds:
        yield fold, begin
        begin += len(fold.users)
