"""What a Reranker knows of one domain: its items, and what interactions say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from reranker.data.catalog import Catalog
from reranker.data.dataset import Dataset
from reranker.data.frames import Table
from reranker.data.item_vectors import ItemVectors
from reranker.data.schema import ITEM, TIMESTAMP, USER, WEIGHT, mixed_as_texts, require_ids_like
from reranker.errors import DataError
from reranker.fusion import InteractionStatistics
from reranker.fusion.own_columns import OwnColumn
from reranker.fusion.statistics import interaction_statistics
from reranker.protocols import CandidateGenerator
from reranker.rules import ItemColumns
from reranker.scoring import calibration_histories
from reranker.types import ItemId


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainData:
    """Items and statistics as served: learned from every interaction `fit` was given.

    Attributes:
        items: the validated items table.
        catalog: the same items by id, as templates see them.
        statistics: statistics and histories.
        calibration_ids: histories of nobody, oldest first, behind which titles are read to know what is likely for
            anybody.
        calibration_items: rows of `items` that they are made of, as they were when weights were fitted.
        details: one row an interaction, in the order of the histories laid end to end: `timestamp` and `weight`, where
            the interactions have them; None where that is not known, as in a bundle of an earlier version.
    """

    items: pd.DataFrame
    catalog: Catalog
    statistics: InteractionStatistics
    calibration_ids: Sequence[Sequence[ItemId]]
    calibration_items: pd.DataFrame
    details: pd.DataFrame | None = None

    @classmethod
    def build(
        cls,
        data: Dataset,
        generator: CandidateGenerator | None,
        n_calibration: int = 0,
        seed: int = 0,
        own: Sequence[OwnColumn] = (),
        vectors: bool = False,
    ) -> "DomainData":
        """Learns from the whole data set, in the item space of `generator`; draws calibration histories by `seed`.

        Own columns and the data's item vectors are features where they are asked for.
        """
        statistics = interaction_statistics(data.interactions, data.items, generator)
        statistics = statistics.with_vectors(data.item_vectors if vectors else None)
        drawn = calibration_histories(data.items[ITEM].tolist(), n_calibration, seed)
        return cls(
            items=data.items,
            catalog=Catalog(data.items),
            statistics=statistics.with_own(own, data.items, data.users),
            calibration_ids=drawn,
            calibration_items=data.items[data.items[ITEM].isin([item for one in drawn for item in one])],
            details=_details(data.interactions),
        )

    @property
    def interactions(self) -> pd.DataFrame | None:
        """The interactions table that all this was learned from, user by user; None where times are not known."""
        if self.details is None:
            return None
        histories = self.statistics.histories
        users = [user for user, rows in histories.items() for _ in range(len(rows))]
        items = [self.statistics.item_ids[row] for rows in histories.values() for row in rows.tolist()]
        # Of their own kinds again: rows of one time are put in an order by hashes, which go by the kind.
        ids = {USER: pd.Series(users, dtype=object), ITEM: pd.Series(items, dtype=object)}
        ids = {name: column.infer_objects() for name, column in ids.items()}
        return pd.DataFrame(
            {**ids, **{name: self.details[name] for name in (TIMESTAMP, WEIGHT) if name in self.details}}
        )

    @property
    def candidate_columns(self) -> list[str]:
        """Columns of the candidates, beside ids, scores and ranks, that the ranker was fitted with."""
        return [] if self.statistics.own is None else self.statistics.own.candidate_columns

    @cached_property
    def item_columns(self) -> ItemColumns:
        """The item table as rules read it."""
        return ItemColumns(self.items)

    @property
    def calibration_histories(self) -> list[list[Mapping[str, object]]]:
        """The items of `calibration_ids` as templates see them; later rows of the same items change nothing of them."""
        return list(map(Catalog(self.calibration_items).items, self.calibration_ids))

    def with_items(self, items: pd.DataFrame, item_vectors: Table | None = None) -> "DomainData":
        """With the rows of a validated items table, which stand in for rows of the same items.

        Args:
            items: new items, or new rows of known ones.
            item_vectors: of these or of known items, as `Dataset` takes them.

        Raises:
            DataError: no id is of a type that the known ones have, as where one table holds "7" and the other 7; or
                vectors are not as those known are, or none are gone by.
        """
        require_ids_like(self.items[ITEM], items[ITEM], "items")
        kept = self.items[~self.items[ITEM].isin(items[ITEM])]
        every = mixed_as_texts(pd.concat([kept, items], ignore_index=True))
        vectors = None if item_vectors is None else self._with_vectors(item_vectors, every)
        return replace(self, items=every, catalog=Catalog(every), statistics=self.statistics.extended(every, vectors))

    def _with_vectors(self, item_vectors: Table, items: pd.DataFrame) -> ItemVectors:
        known = self.statistics.own_vectors
        if known is None:
            raise DataError(
                "this ranker goes by no item vectors: none were given when it was fitted, or the guard found that they "
                "add nothing. Leave them out, or fit again with them"
            )
        return known.vectors.with_more(ItemVectors.of(item_vectors, items[ITEM], known.vectors.space))


def _details(interactions: pd.DataFrame) -> pd.DataFrame:
    """Timestamps and weights in the order of the histories: users as they first come, each one's rows as they stand."""
    order = np.argsort(pd.factorize(interactions[USER])[0], kind="stable")
    columns = [name for name in (TIMESTAMP, WEIGHT) if name in interactions]
    details = interactions[columns].iloc[order].reset_index(drop=True)
    return details if columns else details.assign(rows=np.ones(len(order), dtype=np.int8))
