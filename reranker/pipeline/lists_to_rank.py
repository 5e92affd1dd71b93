"""The tables that `Reranker.rerank` is given, checked against what the ranker was fitted with."""

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence

import pandas as pd

from reranker.data.frames import Table, as_frame
from reranker.data.id_matching import refuse_written_otherwise, told_without_list
from reranker.data.schema import ITEM, QUERY, USER, refuse_single, require_ids_like, validate_candidates
from reranker.pipeline.domain import DomainData
from reranker.types import ItemId, UserId

logger = logging.getLogger(__name__)

Newer = pd.DataFrame | Mapping[UserId, Sequence[ItemId]] | None
"""Newer interactions: a validated table, items by user, or none."""


def lists_to_rank(
    data: DomainData, candidates: Table, interactions: Table | Mapping[UserId, Sequence[ItemId]] | None
) -> tuple[pd.DataFrame, Newer]:
    """Validated candidates and newer interactions; arguments as `Reranker.rerank` has them.

    Raises:
        DataError: a table breaks its contract, or its ids are not as those of the ranker.
    """
    known: dict[str, Iterable[Hashable]] = {USER: data.statistics.histories, ITEM: data.items[ITEM]}
    lists = validate_candidates(as_frame(candidates, "candidates", known), further=[*data.candidate_columns, QUERY])
    if isinstance(interactions, Mapping):  # with it come single lists of a server, whose items may all be new
        for user, chosen in interactions.items():
            refuse_single(chosen, "item ids", f"interactions[{user!r}]")
        require_ids_like(lists[USER], pd.Series(list(interactions), dtype=object, name=USER), "interactions")
        return lists, interactions
    require_ids_like(data.items[ITEM], lists[ITEM], "candidates")
    refuse_written_otherwise(data.items[ITEM], lists[ITEM], "candidates")
    if interactions is None:
        require_ids_like(data.statistics.histories, lists[USER], "candidates")
        refuse_written_otherwise(data.statistics.histories, lists[USER], "candidates")
        return lists, None
    newer = data.read_interactions(as_frame(interactions, "interactions", known))
    require_ids_like(data.items[ITEM], newer[ITEM], "interactions")
    refuse_written_otherwise(data.items[ITEM], newer[ITEM], "interactions")
    require_ids_like(lists[USER], newer[USER], "interactions")
    if unused := told_without_list(newer, lists[USER]):
        logger.warning(unused)
    return lists, newer
