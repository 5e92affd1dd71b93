"""Items as templates see them, and lists of ids turned into lists of items."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.fusion import EvidenceModel
from reranker.item_tokens import ItemTokens
from reranker.scoring import ScoringList
from reranker.tables import CATEGORY, DESCRIPTION, ITEM, TITLE, UNTITLED, USER
from reranker.types import ItemId, TokenSequence, UserId

Item = Mapping[str, object]

LONGEST_HISTORY = 200
"""Newest items that are looked up for a prompt; the prompt's own budgets decide how many of them it shows."""


class Catalog:
    """Looks items up by id. Unknown items are "(untitled)": they keep their place in the list and their evidence."""

    def __init__(self, items: pd.DataFrame) -> None:
        fields = [str(column) for column in items.columns if column != ITEM]
        records = [
            {str(name): value for name, value in record.items()}
            for record in items.drop(columns=ITEM).to_dict("records")
        ]
        self._items: dict[ItemId, Item] = dict(zip(items[ITEM], records, strict=True))
        self._unknown: Item = {**dict.fromkeys([*fields, CATEGORY, DESCRIPTION], ""), TITLE: UNTITLED}

    def __contains__(self, item: ItemId) -> bool:
        return item in self._items

    def items(self, ids: Iterable[ItemId]) -> list[Item]:
        return [self._items.get(item, self._unknown) for item in ids]

    def titles(self, ids: Iterable[ItemId]) -> list[str]:
        return [str(item[TITLE]) for item in self.items(ids)]


def chosen_items(
    catalog: Catalog, evidence: EvidenceModel
) -> tuple[list[Item], NDArray[np.float32], NDArray[np.float64]]:
    """Items that have a text, their (n, n_factors) vectors in the recall space and (n,) how often each was chosen."""
    rows = [row for row, item in enumerate(evidence.item_ids) if item in catalog]
    items = catalog.items(evidence.item_ids[row] for row in rows)
    return items, evidence.vectors[rows], evidence.popularity[rows]


def scoring_lists(
    candidates: pd.DataFrame,
    catalog: Catalog,
    history_of: Callable[[UserId], Sequence[ItemId]],
    soft_prompt: TokenSequence | None,
    user_tokens_of: Callable[[UserId, Sequence[Item]], TokenSequence | None] | None = None,
    item_tokens: ItemTokens | None = None,
) -> list[ScoringList]:
    """One list a user, users in order of appearance, candidates in row order.

    Args:
        candidates: a validated candidates table.
        history_of: user id -> the user's items, oldest first; empty for a stranger.
        soft_prompt: the domain's soft tokens.
        user_tokens_of: user id and history -> the user's own soft tokens.
        item_tokens: gives items tokens of their own.
    """
    lists = []
    for user, rows in candidates.groupby(USER, sort=False).indices.items():
        chosen, proposed = history_of(user)[-LONGEST_HISTORY:], candidates[ITEM].iloc[rows].tolist()
        history = catalog.items(chosen)
        lists.append(
            ScoringList(
                history=history,
                candidates=catalog.items(proposed),
                soft_prompt=soft_prompt,
                user_tokens=user_tokens_of(user, history) if user_tokens_of else None,
                history_vectors=item_tokens.before_history(chosen) if item_tokens else None,
                candidate_vectors=item_tokens.before_candidates(proposed) if item_tokens else None,
            )
        )
    return lists
