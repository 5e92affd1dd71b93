"""Items as templates see them."""

from collections.abc import Iterable, Mapping

import pandas as pd

from reranker.data.schema import CATEGORY, DESCRIPTION, ITEM, TITLE, UNTITLED
from reranker.types import ItemId

Item = Mapping[str, object]

LONGEST_HISTORY = 200
"""Newest items that are looked up for a prompt; the prompt's own budgets decide how many of them it shows."""


class Catalog:
    """Looks items up by id. Unknown items are "(untitled)": they keep their place in the list and their statistics."""

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
