"""A fitted Reranker on disk: a folder of open formats, no pickle, whole or not there at all.

bundle.yaml          versions, model, templates, settings, what the guard serves and why, sha256 of every file
summary.json         what the bundle is, for people and programs; nothing is read from it
fusion.json          scorer coefficients, fusion weights, guard
items.parquet        item table without ids;  ids.json  item and user ids with their types
calibration_items.parquet  rows of items as they were at `fit`, of which the calibration histories are made
statistics.npz         item statistics and histories
item_vectors.npz       item vectors of the user's own, their space and projections, where the ranker goes by such
details.parquet      timestamps and weights of the interactions, in the order of the histories
judged.npz           NDCG@10 of the lists that the guard went by
context.safetensors  what makes users' contexts soft tokens, where there is such a map
priors.parquet       log-likelihood of titles behind the calibration histories
states.npz           hidden states of items' texts and the spaces they are compared in
prompts/             soft prompts in PEFT PROMPT_TUNING format
generator/           the candidate generator, where its class is registered (candidate_gen.register_generator)
"""

import logging
from pathlib import Path

import pandas as pd
import pyarrow as pa

from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM, USER
from reranker.errors import BundleError, DataError
from reranker.pipeline.bundle_parts import BundleState, read_parts, write_parts
from reranker.pipeline.manifest import read_manifest
from reranker.pipeline.untrusted_bundle import MANIFEST
from reranker.pipeline.versions import add_version, current_version, is_versioned
from reranker.utils.atomic_io import whole_folder
from reranker.utils.id_json import encode_ids
from reranker.utils.untrusted import MOST_YAML_BYTES

logger = logging.getLogger(__name__)

_TRIES = 20  # of reading a bundle that is being replaced


def require_new_place(directory: Path, overwrite: bool) -> None:
    """Raises BundleError where something else than a bundle stands, or one that is not to be replaced."""
    require_place(directory)
    if (directory / MANIFEST).exists() and not overwrite:
        raise BundleError(
            f"{directory} holds a bundle already: choose another folder with --out, or give --overwrite to have this "
            "one replaced"
        )


def require_place(directory: Path) -> None:
    """Raises BundleError where something else than a bundle stands."""
    if is_versioned(directory):
        return
    if directory.is_file() or (directory.exists() and any(directory.iterdir()) and not (directory / MANIFEST).exists()):
        raise BundleError(f"{directory} exists and is not a bundle: choose another folder")


def require_storable(data: Dataset) -> None:
    """Raises DataError for an id, or a column of items, that a bundle cannot hold."""
    for ids in (data.interactions[USER], data.interactions[ITEM], data.items[ITEM]):
        encode_ids(ids.drop_duplicates())
    _require_storable_columns(data.items.drop(columns=ITEM), "items")
    if data.users is not None:
        encode_ids(data.users[USER])
        _require_storable_columns(data.users.drop(columns=USER), "users")


def _require_storable_columns(table: pd.DataFrame, where: str) -> None:
    for name in table.columns:
        try:
            pa.array(table[name], from_pandas=True)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise DataError(
                f"table {where!r}, column {name!r}: its values cannot be stored together ({error}). Convert them to "
                "text, or leave the column out"
            ) from error


def write_bundle(directory: Path, state: BundleState) -> None:
    """Writes into a folder beside `directory` and renames it, so that a failure leaves what stood there before.

    Where `directory` holds versions, this becomes the next one.

    Raises:
        BundleError: the disk refused, or `directory` is something else than a bundle.
        DataError: an id is of a type that cannot be stored.
    """
    directory = directory.resolve()
    require_place(directory)
    if is_versioned(directory):
        add_version(directory, lambda fresh: write_parts(fresh, state))
        return
    try:
        with whole_folder(directory) as fresh:
            write_parts(fresh, state)
    except OSError as error:
        raise BundleError(
            f"cannot save the bundle {directory}: {error}. What stood there before is untouched"
        ) from error


def write_version(directory: Path, state: BundleState, keep: int) -> Path:
    """Adds a version to the bundle that stands there, and makes it the current one.

    Raises:
        BundleError: no bundle stands there, or the disk refused.
        DataError: an id is of a type that cannot be stored.
    """
    read_manifest(current_version(directory))
    return add_version(directory, lambda fresh: write_parts(fresh, state), keep)


def read_bundle(directory: Path) -> BundleState:
    """Reads and verifies what `write_bundle` wrote; all of one bundle, also where a newer one takes its place.

    Raises:
        BundleError: no bundle, another format version, or a file is missing, added to or changed.
    """
    for _ in range(_TRIES):
        before = _standing(directory)
        folder, _ = before
        try:
            state = read_parts(folder, read_manifest(folder))
        except BundleError:
            if _standing(directory) == before:
                raise
        else:
            if _standing(directory) == before:
                return state
    raise BundleError(f"the bundle {directory} was replaced {_TRIES} times while it was read: load it again")


def _standing(directory: Path) -> tuple[Path, bytes | None]:
    """The folder of the bundle that stands there, and its manifest: another pair where a newer one took its place."""
    folder = current_version(directory)
    path = folder / MANIFEST
    try:
        if not path.is_symlink() and path.is_file():
            with path.open("rb") as file:
                return folder, file.read(MOST_YAML_BYTES + 1)
    except OSError:
        pass
    return folder, None
