"""What a bundle keeps of one user, for data requests."""

import math
from typing import Any

import numpy as np
import pandas as pd

from reranker.data.schema import ITEM, TIMESTAMP, USER
from reranker.pipeline.domain import SIGNAL_COLUMNS
from reranker.pipeline.reranker import Reranker
from reranker.types import UserId


def exported_user(reranker: Reranker, user: UserId) -> dict[str, Any]:
    """Everything of a user in a fitted Reranker, as values that JSON holds.

    Args:
        reranker: fitted or loaded.
        user: as the bundle has the id.

    Returns:
        `columns` of the table of users, `interactions` (item, title and, where they are kept, time, event, rating,
        weight and strength, oldest first), `judged_lists` (NDCG@10 of the user's lists that the guard went by, under
        each order), and `learned_from`: whether choices of the user are among those that the head's weights were fitted
        on, as far as is known.

    Raises:
        DataError: nothing was fitted.
    """
    data, fusion_model = reranker.fitted()
    known = data.interactions
    mine = pd.DataFrame({ITEM: reranker.history(user)}) if known is None else known[known[USER] == user]
    items = mine[ITEM].tolist()
    rows: list[dict[str, Any]] = [
        {"item_id": item, "title": title} for item, title in zip(items, reranker.titles(items), strict=True)
    ]
    for name in (TIMESTAMP, *SIGNAL_COLUMNS):
        if name in mine:
            for row, value in zip(rows, mine[name].tolist(), strict=True):
                row[name] = _plain(value)
    judged = fusion_model.judged
    lists: list[dict[str, float]] = []
    if judged is not None:
        theirs = np.array([one == user for one in judged.users], dtype=np.bool_)
        lists = [
            {"first_stage": first, "baseline": second, "fused": third}
            for first, second, third in judged.ndcg[theirs].tolist()
        ]
    own = data.statistics.own
    table = None if own is None else own.users
    of_user = None if table is None else table[table[USER] == user]
    columns = {} if of_user is None or of_user.empty else of_user.drop(columns=USER).iloc[0].to_dict()
    return {
        "domain": reranker.llm_scorer.domain,
        "columns": {str(name): _plain(value) for name, value in columns.items()},
        "interactions": rows,
        "judged_lists": lists,
        "learned_from": None if judged is None else bool(lists),
    }


def _plain(value: object) -> object:
    """As JSON holds it; what it has no kind for, such as a time, as text."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | str) else str(value)
