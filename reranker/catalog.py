"""Items as templates see them."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.fusion import EvidenceModel
from reranker.tables import CATEGORY, DESCRIPTION, ITEM, TITLE, UNTITLED
from reranker.types import ItemId

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
