"""A data set: interactions and the items they are about, validated, and their order in time."""

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.column_names import likely
from reranker.data.id_matching import require_most_known
from reranker.data.schema import (
    EVENT,
    ITEM,
    RATING,
    STRENGTH,
    TIMESTAMP,
    USER,
    WEIGHT,
    require_ids_like,
    validate_interactions,
    validate_items,
    validate_users,
)
from reranker.data.signals import Signals, require_targets, signals_told, targets_of

if TYPE_CHECKING:
    from reranker.data.item_vectors import ItemVectors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Interactions and the items they are about, validated.

    Both tables may be given as pandas, polars or pyarrow tables, or as paths of files (`frames.as_frame`).

    Attributes:
        interactions: `user_id, item_id`, optional `timestamp`, `event`, `rating`, `weight`, sorted by time; those of
            one time come in a random order, whatever their order was (`in_sequence`). What a row says is its
            `strength` (`reranker.data.signals`).
        items: `item_id, title`, optional `category`, `description`; further columns are visible to templates.
        domain: names the prompt family and the domain's soft prompt, for instance "movies".
        users: `user_id` and further columns, one row a user, for `RerankerConfig.features`; or None.
        item_vectors: vectors of items from elsewhere (pictures, sounds, a model of your own), by which `fit` compares
            items, too: a table or a file that `ItemVectors.of` takes; or None.
        signals: what events and ratings are worth, which events are to be predicted, whether users choose items again.

    Raises:
        DataError: a table breaks its contract, or the interactions lack the target events.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    domain: str = "generic"
    users: pd.DataFrame | None = None
    item_vectors: "ItemVectors | None" = None
    signals: Signals = field(default_factory=Signals)

    def __post_init__(self) -> None:
        from reranker.data.frames import (  # it reads files, and this module is read with the package
            as_dataset,
            as_frame,
        )

        chosen, listed = as_dataset(self.interactions, self.items)
        interactions = validate_interactions(chosen, signals=self.signals)
        if TIMESTAMP not in interactions and (time := likely(TIMESTAMP, map(str, interactions.columns))) is not None:
            logger.warning(
                "table 'interactions' has no column %r, so the order of its rows in time is not known; %r may be it: "
                "rename it",
                TIMESTAMP,
                time,
            )
        if TIMESTAMP in interactions:  # rows of one time may be sorted by anything, and that must teach nothing
            interactions = in_sequence(interactions).reset_index(drop=True)
        require_targets(interactions, self.signals)
        object.__setattr__(self, "signals", signals_told(interactions, self.signals))
        object.__setattr__(self, "interactions", interactions)
        object.__setattr__(self, "items", validate_items(listed))
        if self.users is not None:
            users = validate_users(as_frame(self.users, "users", {USER: interactions[USER]}))
            require_ids_like(interactions[USER], users[USER], "users")
            object.__setattr__(self, "users", users)
        if self.item_vectors is not None:
            from reranker.data.item_vectors import ItemVectors

            ids = pd.concat([self.items[ITEM], interactions[ITEM]]).drop_duplicates()
            object.__setattr__(self, "item_vectors", ItemVectors.of(self.item_vectors, ids))

    def with_interactions(self, interactions: pd.DataFrame) -> "Dataset":
        """Other interactions with the same items, users and signals."""
        return replace(self, interactions=interactions)

    @property
    def has_order(self) -> bool:
        """True when interactions carry timestamps, so that "earlier" and "later" mean something."""
        return TIMESTAMP in self.interactions

    @property
    def targets(self) -> NDArray[np.bool_]:
        """(rows,) True for the interactions that are to be predicted."""
        return targets_of(self.interactions, self.signals)

    @property
    def unused_columns(self) -> list[str]:
        """Columns of the interactions that nothing reads."""
        read = (USER, ITEM, TIMESTAMP, EVENT, RATING, WEIGHT, STRENGTH)
        return [str(name) for name in self.interactions if name not in read]

    def require_shared_items(self) -> None:
        """Refuses tables that are not about the same items, and logs how many interactions are of items without a row.

        Raises:
            DataError: most interactions are with items that are not in the item table.
        """
        unknown = require_most_known(self.items[ITEM], self.interactions[ITEM], "interactions", "the item table")
        if unknown:
            logger.warning(
                "%d of %d interactions are with items that are not in the item table: they count, but have no text",
                unknown,
                len(self.interactions),
            )


def in_sequence(interactions: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Sorted by timestamp; rows of one time, or all of a table without times, are put in a random order.

    The seed and the ids of a row alone decide where it stands among ties. So a part of the rows keeps the order of the
    whole: holding out the last two of each user is the same as holding out the last one twice.
    """
    hashes = pd.util.hash_pandas_object(interactions[[USER, ITEM]], index=False)
    anywhere = _scattered(np.asarray(hashes, dtype=np.uint64), seed)
    if TIMESTAMP in interactions:
        order = np.lexsort((anywhere, pd.factorize(interactions[TIMESTAMP], sort=True)[0]))
    else:
        order = np.argsort(anywhere, kind="stable")
    ordered: pd.DataFrame = interactions.iloc[order]
    return ordered


def _scattered(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014), begun at another place for each seed."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15 * (seed + 1) % 2**64)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: NDArray[np.uint64] = keys ^ (keys >> np.uint64(31))
    return scattered
