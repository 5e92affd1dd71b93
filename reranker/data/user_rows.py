"""Where rows stand among those of their user, and which rows another table shares."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import ITEM, USER


def id_codes(ids: pd.Series) -> NDArray[np.int64]:
    """(rows,) number of each id, in order of first appearance."""
    return pd.factorize(ids)[0].astype(np.int64)


def rows_of_user(rows: pd.DataFrame) -> NDArray[np.int64]:
    """(rows,) interactions of the row's user."""
    codes = id_codes(rows[USER])
    return np.asarray(np.bincount(codes)[codes], dtype=np.int64)


def row_places(rows: pd.DataFrame) -> NDArray[np.int64]:
    """(rows,) 0 for a user's first row, 1 for the next, and so on."""
    codes = id_codes(rows[USER])
    return np.asarray(pd.Series(codes).groupby(codes).cumcount(), dtype=np.int64)


def last_target_places(rows: pd.DataFrame, targets: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(rows,) place of the last target of the row's user; -1 where there is none."""
    places = pd.Series(np.where(targets, row_places(rows), -1))
    return np.asarray(places.groupby(id_codes(rows[USER])).transform("max"), dtype=np.int64)


def targets_behind(rows: pd.DataFrame, targets: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(rows,) how many targets of the row's user come after it."""
    behind = pd.Series(targets[::-1].astype(np.int64)).groupby(id_codes(rows[USER])[::-1]).cumsum().to_numpy()[::-1]
    return np.asarray(behind - targets, dtype=np.int64)


def last_targets(rows: pd.DataFrame, targets: NDArray[np.bool_], k: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(rows,) each user's last k targets, where something comes before them, and the (rows,) place of their first.

    The place is beyond the user's rows where none is held out.
    """
    held = targets & (targets_behind(rows, targets) < k)
    places, size = row_places(rows), rows_of_user(rows)
    first = pd.Series(np.where(held, places, size)).groupby(id_codes(rows[USER])).transform("min").to_numpy()
    enough = (first > 0) & (first < size)
    return held & enough, np.asarray(np.where(enough, first, size), dtype=np.int64)


def pairs_in(left: pd.DataFrame, right: pd.DataFrame) -> NDArray[np.bool_]:
    """(len(left),) True where the (user, item) pair of a row of `left` occurs in `right`."""
    known = set(zip(right[USER], right[ITEM], strict=True))
    return np.fromiter(
        (pair in known for pair in zip(left[USER], left[ITEM], strict=True)), dtype=bool, count=len(left)
    )
