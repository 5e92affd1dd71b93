"""Interaction statistics in a bundle: arrays that are checked before anything goes by them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from reranker.data.item_vectors import MOST_DIRECTIONS, MOST_NUMBERS, ItemVectors
from reranker.data.schema import USER
from reranker.data.table_io import read_table, write_table
from reranker.errors import BundleError
from reranker.fusion import InteractionStatistics
from reranker.fusion.dislikes import Dislikes
from reranker.fusion.histories import UserHistories
from reranker.fusion.own_columns import OwnColumn
from reranker.fusion.own_features import OwnFeatures
from reranker.fusion.own_vectors import VectorFeatures
from reranker.utils.id_json import decode_ids, encode_ids
from reranker.utils.spaces import CFProjection, EmbeddingSpace, PopularityProjection
from reranker.utils.untrusted import read_json, read_npz, require_small_parquet

_VECTORS = "item_vectors.npz"
_OWN, _USERS = "own_features.json", "users.parquet"
_SPARSE = ("co_visits", "transitions", "categories")
_UNIT = 1.001  # of a vector of length 1, any coordinate
_MOST_COUNT = 1e12  # interactions of an item
_DENSE = ("vectors", "popularity", "recent_popularity")


def write_statistics(path: Path, statistics: InteractionStatistics) -> None:
    """Writes arrays and histories; ids of items and users are kept elsewhere."""
    arrays: dict[str, NDArray[Any]] = {name: getattr(statistics, name) for name in _DENSE}
    for name in _SPARSE:
        matrix: sparse.csr_array = getattr(statistics, name)
        arrays |= {
            f"{name}_data": matrix.data,
            f"{name}_indices": matrix.indices,
            f"{name}_indptr": matrix.indptr,
            f"{name}_shape": np.array(matrix.shape),
        }
    histories = UserHistories.of(statistics.histories)
    arrays["history_lengths"], arrays["history_rows"] = histories.lengths, histories.rows
    if (dislikes := statistics.dislikes) is not None:
        places = {user: place for place, user in enumerate(statistics.histories)}
        arrays["disliked_share"] = dislikes.shares
        arrays["disliked_users"] = np.array([places[user] for user in dislikes.of_users], dtype=np.int64)
        arrays["disliked_lengths"] = np.array([len(rows) for rows in dislikes.of_users.values()], dtype=np.int64)
        arrays["disliked_rows"] = np.concatenate([*dislikes.of_users.values(), np.zeros(0, dtype=np.int64)])
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_statistics(path: Path, item_ids: list[Any], user_ids: list[Any]) -> InteractionStatistics:
    """Reads what `write_statistics` wrote.

    Raises:
        BundleError: an array does not fit the ids, or holds what no statistics are; an id stands twice.
    """
    arrays, n = read_npz(path), len(item_ids)
    matrices = {name: _sparse(arrays, name, n, path) for name in _SPARSE}
    rows, lengths = arrays["history_rows"], arrays["history_lengths"]
    for name, fits in {
        "vectors": arrays["vectors"].ndim == 2
        and len(arrays["vectors"]) == n
        and _lies(arrays["vectors"], -_UNIT, _UNIT),
        **{
            name: arrays[name].shape == (n,) and _lies(arrays[name], 0, _MOST_COUNT)
            for name in ("popularity", "recent_popularity")
        },
        "history_lengths": lengths.shape == (len(user_ids),)
        and lengths.dtype.kind == "i"
        and bool((lengths >= 0).all())
        and lengths.sum() == len(rows),
        "history_rows": rows.ndim == 1 and rows.dtype.kind == "i" and bool(((rows >= 0) & (rows < n)).all()),
        "co_visits": matrices["co_visits"].shape == (n, n),
        "transitions": matrices["transitions"].shape == (n, n),
        "categories": matrices["categories"].shape[0] == n,
        **{f"{name}_data": _lies(matrix.data, 0, _MOST_COUNT) for name, matrix in matrices.items()},
    }.items():
        if not fits:
            raise BundleError(f"{path} is damaged: {name!r} does not fit the bundle's {n} items")
    index = {item: row for row, item in enumerate(item_ids)}
    histories = UserHistories(user_ids, rows, np.concatenate([[0], np.cumsum(lengths)]))
    if len(index) != n or len(set(user_ids)) != len(user_ids):
        raise BundleError(f"{path.parent / 'ids.json'} is damaged: it names an item or a user twice")
    return InteractionStatistics(
        index=index,
        histories=histories,
        vectors=arrays["vectors"],
        popularity=arrays["popularity"],
        recent_popularity=arrays["recent_popularity"],
        co_visits=matrices["co_visits"],
        transitions=matrices["transitions"],
        categories=matrices["categories"],
        dislikes=_dislikes(arrays, n, user_ids, path) if "disliked_share" in arrays else None,
    )


def _dislikes(arrays: dict[str, NDArray[Any]], n_items: int, user_ids: list[Any], path: Path) -> Dislikes:
    """Dislikes whose users and items all are known."""
    shares, users, rows = arrays["disliked_share"], arrays["disliked_users"], arrays["disliked_rows"]
    lengths = arrays["disliked_lengths"]
    for name, fits in {
        "disliked_share": shares.shape == (n_items,) and _lies(shares, 0, 1),
        "disliked_users": _places(users, len(user_ids)),
        "disliked_lengths": lengths.shape == users.shape
        and _places(lengths, n_items + 1)
        and lengths.sum() == len(rows),
        "disliked_rows": _places(rows, n_items),
    }.items():
        if not fits:
            raise BundleError(f"{path} is damaged: {name!r} does not fit the bundle's {n_items} items")
    parts = np.split(rows, np.cumsum(lengths)[:-1])
    return Dislikes(of_users={user_ids[user]: part for user, part in zip(users, parts, strict=False)}, shares=shares)


def _places(values: NDArray[Any], n: int) -> bool:
    """One dimension of whole numbers from 0 on, below n."""
    return values.ndim == 1 and values.dtype.kind == "i" and bool(((values >= 0) & (values < n)).all())


def _lies(values: NDArray[Any], low: float, high: float) -> bool:
    """All real, and within these bounds."""
    return values.dtype.kind in "biuf" and bool(((values >= low) & (values <= high)).all())


def _sparse(arrays: dict[str, NDArray[Any]], name: str, n_rows: int, path: Path) -> sparse.csr_array:
    """A matrix of the bundle's items in its rows, whose indices all lie within it and rise within each row."""
    shape = tuple(int(length) for length in arrays[f"{name}_shape"])
    data, indices, indptr = (arrays[f"{name}_{part}"] for part in ("data", "indices", "indptr"))
    if len(shape) != 2 or shape[0] != n_rows or not 0 <= shape[1] <= np.iinfo(np.int32).max:
        raise BundleError(f"{path} is damaged: {name!r} of shape {shape} does not fit the bundle's {n_rows} items")
    matrix = sparse.csr_array((data, indices, indptr), shape=shape)
    matrix.check_format(full_check=True)  # ValueError where an index lies outside
    if not matrix.has_sorted_indices:
        raise BundleError(f"{path} is damaged: the rows of {name!r} are not in order")
    return matrix


def write_own(own: OwnFeatures, directory: Path, ids: dict[str, Any]) -> None:
    """Writes the user's own columns, and puts the ids of the user table among `ids`."""
    (directory / _OWN).write_text(json.dumps([column.to_json() for column in own.columns], indent=1))
    if own.users is not None:
        ids["user_table"] = encode_ids(own.users[USER])
        write_table(own.users.drop(columns=USER), directory / _USERS)


def write_vectors(own: VectorFeatures, directory: Path, ids: dict[str, Any]) -> None:
    """Writes item vectors of the user's own, their space and projections, and puts the ids of theirs among `ids`."""
    ids["item_vectors"] = encode_ids(own.vectors.ids)
    space = own.vectors.space
    arrays = {"values": own.vectors.values, "centre": space.centre, "basis": space.basis}
    if own.cf_projection is not None:
        arrays["cf_projection"] = own.cf_projection.weights
    if own.popularity is not None:
        arrays["popularity"] = own.popularity.weights
    np.savez(directory / _VECTORS, allow_pickle=False, **arrays)


def with_vectors(statistics: InteractionStatistics, directory: Path, ids: dict[str, Any]) -> InteractionStatistics:
    """The statistics with item vectors of the user's own, where the bundle has some.

    Raises:
        BundleError: arrays do not fit each other, or the ids.
    """
    path = directory / _VECTORS
    if not path.exists():
        return statistics
    arrays, item_ids = read_npz(path), decode_ids(ids["item_vectors"])
    values, centre, basis = arrays["values"], arrays["centre"], arrays["basis"]
    cf_projection, popularity = arrays.get("cf_projection"), arrays.get("popularity")
    width = values.shape[1] if values.ndim == 2 else 0
    directions = min(width, MOST_DIRECTIONS)
    for name, fits in {
        "values": 0 < len(values) == len(item_ids) == len(set(item_ids)) and 2 <= width <= MOST_NUMBERS,
        "centre": centre.shape == (width,),
        "basis": basis.shape == (width, width),
        "cf_projection": cf_projection is None or cf_projection.shape == (directions, statistics.vectors.shape[1]),
        "popularity": popularity is None or popularity.shape == (directions,),
        **{f"type of {name}": array.dtype == np.float32 for name, array in arrays.items()},
    }.items():
        if not fits:
            raise BundleError(f"{path} is damaged: {name!r} does not fit the bundle's item vectors")
    vectors = ItemVectors(ids=item_ids, values=values, space=EmbeddingSpace(centre=centre, basis=basis))
    found = VectorFeatures(
        vectors=vectors,
        rows=np.zeros(0, dtype=np.int64),
        cf_projection=None if cf_projection is None else CFProjection(weights=cf_projection),
        popularity=None if popularity is None else PopularityProjection(weights=popularity),
    )
    return replace(statistics, own_vectors=found.for_index(statistics.index))


def with_own(
    statistics: InteractionStatistics, directory: Path, ids: dict[str, Any], items: pd.DataFrame
) -> InteractionStatistics:
    """The statistics with the user's own columns, where the bundle has some."""
    if not (directory / _OWN).exists():
        return statistics
    users = None
    if (directory / _USERS).exists():
        require_small_parquet(directory / _USERS, len(ids["user_table"]))
        users = read_table(directory / _USERS)
        users.insert(0, USER, pd.Series(decode_ids(ids["user_table"]), dtype=object))
    return statistics.with_own([OwnColumn.from_json(one) for one in read_json(directory / _OWN)], items, users)
