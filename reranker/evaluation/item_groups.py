"""Groups of items: by provider, by category, by how popular they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from reranker.data.categories import category_names
from reranker.data.schema import CATEGORY, ITEM
from reranker.data.splits import Fold
from reranker.errors import DataError
from reranker.evaluation.diagnostics import popularity_bands
from reranker.types import ItemId

NONE, UNKNOWN = "(none)", "(not in the catalogue)"
"""Groups of items that name none, and of candidates without a row in the item table."""

PROVIDER = "provider"
"""Column of the item table that names an item's provider, by default."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemGroups:
    """Which items belong to which group.

    Attributes:
        name: "provider", "category" or "popularity".
        groups: names; the last is `UNKNOWN`.
        membership: (n_items + 1, n_groups) shares, each row adds up to 1: an item of two categories counts half in
            each. The last row is that of items without a row in the table.
        index: item -> row.
    """

    name: str
    groups: tuple[str, ...]
    membership: sparse.csr_array
    index: Mapping[ItemId, int]

    def of(self, items: pd.Series) -> sparse.csr_array:
        """(len(items), n_groups) shares."""
        rows = items.map(self.index).fillna(self.membership.shape[0] - 1).to_numpy(dtype=np.int64)
        return sparse.csr_array(self.membership[rows])

    def catalogue_shares(self) -> NDArray[np.float64]:
        """(n_groups,) share of the items of the catalogue."""
        return _shares(self.membership[:-1])

    def shares_of(self, items: pd.Series) -> NDArray[np.float64]:
        """(n_groups,) share of these items, each as often as it stands there."""
        return _shares(self.of(items))


def item_groups(fold: Fold, provider: str | None = None) -> list[ItemGroups]:
    """The groupings that the item table allows: by popularity always, by provider and category where it names them.

    Args:
        fold: popularity is that in its training part.
        provider: column of the item table; `PROVIDER` by default, where there is one.

    Raises:
        DataError: the item table has no such column.
    """
    items = fold.items
    if provider is not None and provider not in items:
        raise DataError(
            f"table 'items' has no column {provider!r} to name providers; it has {', '.join(map(str, items.columns))}"
        )
    found = []
    column = provider or PROVIDER
    if column in items:
        found.append(_grouped("provider", items[ITEM], items[column].map(_one_name)))
    if CATEGORY in items:
        found.append(_grouped("category", items[ITEM], items[CATEGORY].map(_names)))
    bands = items[ITEM].map(popularity_bands(fold.train)).astype(object).fillna("new")
    found.append(_grouped("popularity", items[ITEM], bands.map(lambda band: [band]), ("head", "middle", "tail", "new")))
    return found


def _grouped(name: str, items: pd.Series, named: pd.Series, groups: Sequence[str] = ()) -> ItemGroups:
    """Groups in the order given, else by how many items they have."""
    counts = pd.Series([group for names in named for group in names], dtype=object).value_counts()
    kept = [*(groups or map(str, counts.index)), UNKNOWN]
    column = {group: number for number, group in enumerate(kept)}
    rows = np.repeat(np.arange(len(items)), [len(names) for names in named])
    columns = np.array([column[group] for names in named for group in names], dtype=np.int64)
    shares = np.array([1.0 / len(names) for names in named for _ in names])
    rows, columns = np.append(rows, len(items)), np.append(columns, len(kept) - 1)
    membership = sparse.csr_array((np.append(shares, 1.0), (rows, columns)), shape=(len(items) + 1, len(kept)))
    index: dict[ItemId, int] = {item: row for row, item in enumerate(items)}
    return ItemGroups(name=name, groups=tuple(kept), membership=membership, index=index)


def _one_name(value: object) -> list[str]:
    said = "" if value is None or value != value else str(value).strip()  # NaN is not itself
    return [said or NONE]


def _names(value: object) -> list[str]:
    said = "" if value is None or value != value else str(value)
    return list(category_names(said)) or [NONE]


def _shares(membership: sparse.csr_array) -> NDArray[np.float64]:
    sums = np.asarray(membership.sum(axis=0), dtype=np.float64).ravel()
    shares: NDArray[np.float64] = sums / max(sums.sum(), 1.0)
    return shares
