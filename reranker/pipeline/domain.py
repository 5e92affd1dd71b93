"""What a Reranker knows of one domain: its items, and what interactions say of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from reranker.data.catalog import Catalog
from reranker.data.dataset import Dataset
from reranker.data.frames import Table
from reranker.data.item_vectors import ItemVectors
from reranker.data.schema import (
    EVENT,
    ITEM,
    RATING,
    STRENGTH,
    TIMESTAMP,
    USER,
    WEIGHT,
    mixed_as_texts,
    require_ids_like,
    validate_interactions,
)
from reranker.data.signals import Signals
from reranker.errors import DataError
from reranker.fusion import InteractionStatistics
from reranker.fusion.own_columns import OwnColumn
from reranker.fusion.statistics import interaction_statistics
from reranker.protocols import CandidateGenerator
from reranker.rules import ItemColumns
from reranker.scoring import calibration_histories
from reranker.types import ItemId

logger = logging.getLogger(__name__)

SIGNAL_COLUMNS = (EVENT, RATING, WEIGHT, STRENGTH)
_KEPT = (TIMESTAMP, *SIGNAL_COLUMNS)
_USER_ROW, _ITEM_ROW = "user_row", "item_row"


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
        details: one row an interaction, in the order of the histories laid end to end: `timestamp`, where the
            interactions have it. Where they say how strong they are, with `user_row` and `item_row` (places among the
            statistics' users and items), `event`, `rating`, `weight` and `strength`. None where that is not known.
        signals: how interactions are read.
    """

    items: pd.DataFrame
    catalog: Catalog
    statistics: InteractionStatistics
    calibration_ids: Sequence[Sequence[ItemId]]
    calibration_items: pd.DataFrame
    details: pd.DataFrame | None = None
    signals: Signals = field(default_factory=Signals)

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
            details=_details(data.interactions, statistics),
            signals=data.signals,
        )

    @property
    def interactions(self) -> pd.DataFrame | None:
        """The interactions table that all this was learned from, user by user; None where times are not known."""
        if self.details is None:
            return None
        histories, every, details = self.statistics.histories, self.statistics.item_ids, self.details
        if _USER_ROW in details:
            known = list(histories)
            users = [known[row] for row in details[_USER_ROW].tolist()]
            items = [every[row] for row in details[_ITEM_ROW].tolist()]
        else:
            users = [user for user, rows in histories.items() for _ in range(len(rows))]
            items = [every[row] for rows in histories.values() for row in rows.tolist()]
        # Of their own kinds again: rows of one time are put in an order by hashes, which go by the kind.
        ids = {USER: pd.Series(users, dtype=object), ITEM: pd.Series(items, dtype=object)}
        ids = {name: column.infer_objects() for name, column in ids.items()}
        return pd.DataFrame({**ids, **{name: details[name] for name in _KEPT if name in details}})

    def read_interactions(self, table: pd.DataFrame) -> pd.DataFrame:
        """Newer interactions, read as those of `fit`; columns that say how strong they are only where those said so.

        Raises:
            DataError: the table breaks its contract.
        """
        if self.statistics.dislikes is None and (unread := [name for name in SIGNAL_COLUMNS if name in table]):
            logger.warning(
                "table 'interactions': %s: the bundle was fitted without such, so every row counts as a choice; fit "
                "again to have them count",
                ", ".join(unread),
            )
            table = table.drop(columns=unread)
        return validate_interactions(table, signals=self.signals)

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


def _details(interactions: pd.DataFrame, statistics: InteractionStatistics) -> pd.DataFrame:
    """What is kept of each interaction: users as they first come, each one's rows as they stand."""
    users = pd.factorize(interactions[USER])[0]
    order = np.argsort(users, kind="stable")
    columns = [name for name in _KEPT if name in interactions]
    details = interactions[columns].iloc[order].reset_index(drop=True)
    if STRENGTH in interactions:  # histories hold choices alone
        items = interactions[ITEM].map(statistics.index).to_numpy(dtype=np.int64)
        return details.assign(**{_USER_ROW: users[order].astype(np.int64), _ITEM_ROW: items[order]})
    return details if columns else details.assign(rows=np.ones(len(order), dtype=np.int8))
