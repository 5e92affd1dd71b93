"""Items as templates see them, and lists of ids turned into lists of items."""

from collections.abc import Iterable, Mapping

import pandas as pd

from reranker.fusion import EvidenceModel
from reranker.scoring import ScoringList
from reranker.tables import CATEGORY, DESCRIPTION, ITEM, TITLE, UNTITLED, USER
from reranker.types import IntArray, ItemId, TokenSequence, UserId

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


def scoring_lists(
    candidates: pd.DataFrame,
    catalog: Catalog,
    evidence: EvidenceModel,
    histories: Mapping[UserId, IntArray],
    soft_prompt: TokenSequence | None,
) -> list[ScoringList]:
    """One list a user, users in order of appearance, candidates in row order."""
    ids = list(evidence.index)
    lists = []
    for user, rows in candidates.groupby(USER, sort=False).indices.items():
        newest: Iterable[int] = histories[user][-LONGEST_HISTORY:] if user in histories else ()
        lists.append(
            ScoringList(
                history=catalog.items(ids[row] for row in newest),
                candidates=catalog.items(candidates[ITEM].iloc[rows]),
                soft_prompt=soft_prompt,
            )
        )
    return lists
