"""What is new in a table of interactions, against those that a bundle holds."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reranker.data.schema import (
    ITEM,
    RATING,
    STRENGTH,
    TIMESTAMP,
    USER,
    WEIGHT,
    require_ids_like,
    validate_interactions,
)
from reranker.data.signals import Signals, targets_of
from reranker.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Merged:
    """Interactions that were known and those that came.

    Attributes:
        every: the known ones, then the new ones.
        new: rows that were not known; a validated table.
        choices: targets of `new` that came after all that was known of their user: what the user chose next.
        n_repeated: rows that were known already.
        n_late: rows of `new` from before something that was known of their user: they join the statistics, and no
            weights are fitted on them.
    """

    every: pd.DataFrame
    new: pd.DataFrame
    choices: pd.DataFrame
    n_repeated: int
    n_late: int


def merge(known: pd.DataFrame, interactions: pd.DataFrame, signals: Signals | None = None) -> Merged:
    """Tells new rows from known ones by user, item and time; without times, by user and item.

    Args:
        known: interactions that the bundle holds.
        interactions: a table of further ones, which may repeat some.
        signals: how they are read.

    Raises:
        DataError: the table breaks its contract, its ids are of another type, one has times and the other none, or it
            says how strong its rows are and the bundle was fitted without.
    """
    signals = signals or Signals()
    given = validate_interactions(interactions, signals=signals)
    for column in (USER, ITEM):
        require_ids_like(known[column], given[column], "interactions")
    if (TIMESTAMP in known) != (TIMESTAMP in given):
        has, lacks = ("the bundle", "the new table") if TIMESTAMP in known else ("the new table", "the bundle")
        raise DataError(
            f"table 'interactions': {has} has a column {TIMESTAMP!r} and {lacks} has none, so what came later cannot "
            "be told: give both times, or fit again"
        )
    keys = [USER, ITEM, TIMESTAMP] if TIMESTAMP in known else [USER, ITEM]
    repeated = _rows_in(given, known, keys) | given.duplicated(keys).to_numpy()
    new = given[~repeated].reset_index(drop=True)
    late = _late(new, known)
    every = _joined(known, new)
    if STRENGTH not in known and (STRENGTH in given or _varies(every)):
        raise DataError(
            "table 'interactions': events, ratings or weights say how strong its rows are, and the bundle was fitted "
            "without such, so its ranker knows no dislikes: leave the columns out, or fit again with them in all rows"
        )
    return Merged(
        every=every,
        new=new,
        choices=new[~late & targets_of(new, signals)].reset_index(drop=True),
        n_repeated=int(repeated.sum()),
        n_late=int(late.sum()),
    )


def _rows_in(rows: pd.DataFrame, known: pd.DataFrame, keys: list[str]) -> np.ndarray:
    if TIMESTAMP in keys and rows[TIMESTAMP].dtype.kind != known[TIMESTAMP].dtype.kind:
        kinds = f"{known[TIMESTAMP].dtype} and {rows[TIMESTAMP].dtype}"
        if {rows[TIMESTAMP].dtype.kind, known[TIMESTAMP].dtype.kind} - set("iuf"):
            raise DataError(
                f"table 'interactions', column {TIMESTAMP!r}: the times of the bundle and of the new table are of two "
                f"kinds ({kinds}) and cannot be compared. Give the new ones in the kind of the first"
            )
    # Only rows of users who are in both can be the same: a day's users are few.
    near = known[known[USER].isin(rows[USER].unique())]
    found = rows[keys].merge(near[keys].drop_duplicates(), how="left", on=keys, indicator=True)
    return np.asarray(found["_merge"] == "both", dtype=np.bool_)


def _late(new: pd.DataFrame, known: pd.DataFrame) -> np.ndarray:
    if TIMESTAMP not in known or new.empty:
        return np.zeros(len(new), dtype=np.bool_)
    newest = known.groupby(USER, sort=False)[TIMESTAMP].max()
    last = new[USER].map(newest)
    return np.asarray(last.notna() & (new[TIMESTAMP] < last), dtype=np.bool_)


def _varies(interactions: pd.DataFrame) -> bool:
    """Whether weights or ratings, the same in each of two tables, are others in both together."""
    return any(interactions[name].nunique() > 1 for name in (RATING, WEIGHT) if name in interactions)


def _joined(known: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """One table; a weight or strength that one of them lacks is 1."""
    tables = [known, new]
    for name in (WEIGHT, STRENGTH):
        if any(name in table for table in tables):
            tables = [table if name in table else table.assign(**{name: 1.0}) for table in tables]
    return pd.concat(tables, ignore_index=True)
