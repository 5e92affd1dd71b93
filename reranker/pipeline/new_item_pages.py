"""Pages of items that are new by pretence: what a fit learns of items that nobody chose."""

import logging

from reranker.data.dataset import Dataset
from reranker.data.schema import RANK
from reranker.data.splits import new_items
from reranker.errors import DataError, GeneratorError
from reranker.pipeline.lists import CandidateLists, FoldLists, among_new_items, propose

SHARE = 0.1
"""Of the items that somebody chose: so many are made new."""

MOST_PAGES = 2_000
FEWEST_PAGES = 50

logger = logging.getLogger(__name__)


def new_item_pages(window: CandidateLists, data: Dataset, seed: int = 0) -> FoldLists | None:
    """Pages of new items alone, one a user who chose one of them, from what was known before a window's choices.

    Interactions of a tenth of the items are left out, and generator and statistics learn anew without them. A page is
    as long as the window's lists; of the data's users, 2,000 at most have one, drawn at random.

    Args:
        window: gives what was known, the generator, and which own columns and vectors are features.
        data: gives items, signals and item vectors.
        seed: of which items are new, and of what is drawn.

    Returns:
        The pages; None where there are fewer than 50, lists have columns that no page has, or the generator failed.
    """
    own = window.statistics.own
    if own is not None and own.candidate_columns:
        logger.info("new items are not judged: lists have columns of their own (%s)", ", ".join(own.candidate_columns))
        return None
    try:
        fold = new_items(data.with_interactions(window.known), SHARE, seed).sample_users(MOST_PAGES, seed)
    except DataError:  # nobody who chose one of them chose anything else
        return None
    if len(fold.users) < FEWEST_PAGES or len(fold.cold_items) < 2:
        logger.info("new items are not judged: %d users chose one of %d", len(fold.users), len(fold.cold_items))
        return None
    n = int(window.candidates[RANK].max())
    if window.generator is None:
        pages = FoldLists(fold=fold, candidates=among_new_items(fold.held_out, fold.cold_items, n, seed), n=n)
    else:
        try:
            pages = propose(fold, window.generator, n)
        except (DataError, GeneratorError) as error:  # everything else can be fitted without
            logger.warning("new items are not judged: %s", error)
            return None
    pages = pages.with_columns_of(window.statistics)
    if list(pages.statistics.columns) != list(window.statistics.columns):  # no dislikes are left, for instance
        logger.info("new items are not judged: without them the interactions give other features")
        return None
    _ = pages.features
    return pages
