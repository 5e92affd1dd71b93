"""Sorts a table by user outside memory: split at users of a sample until a piece fits, sort the pieces one by one.

DuckDB's external sort was tried first: on 24 million rows it took 1.4 GiB under a limit of 128 MB, and more with more
rows. This one holds `PIECE_ROWS` rows and some hundred open files, whatever comes in: 0.27 GiB on the same rows.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from reranker.batch.inputs import InputTable, without_nan
from reranker.data.schema import USER
from reranker.errors import DataError
from reranker.utils.atomic_io import whole_file

PIECE_ROWS = 1 << 18
_ROW_GROUP = 1 << 16
_MOST_SPLITTERS = 64
_BATCH_ROWS = 1 << 15
_SAMPLES_A_BATCH = 16

Batches = Callable[[], Iterator[Any]]
"""Begins reading record batches from the first row."""


def sorted_by_user(table: InputTable, target: Path, piece_rows: int = PIECE_ROWS) -> InputTable:
    """A copy of `table` in the order of its users; each user's rows stay in the order in which they stood.

    Rows without a user come last. Needs disk space of about twice the table beside `target`.

    Raises:
        DataError: the disk is full, or the table cannot be read.
    """
    scratch = target.with_name(f"{target.name}.scratch")
    shutil.rmtree(scratch, ignore_errors=True)  # of an attempt that was killed
    scratch.mkdir(parents=True)
    try:
        with whole_file(target) as temporary, pq.ParquetWriter(temporary, table.schema()) as writer:
            for piece in _in_order(table.batches, table.total_rows, piece_rows, scratch):
                writer.write_table(piece, row_group_size=_ROW_GROUP)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot sort the table by user into {target}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return sorted_copy(table, target)


def sorted_copy(table: InputTable, target: Path) -> InputTable:
    """What `sorted_by_user` wrote, opened again."""
    return InputTable.open([target], {name: name for name in table.columns}, has_origin=True)


def _in_order(batches: Batches, rows: int, piece_rows: int, scratch: Path) -> Iterator[Any]:
    """The rows as tables, in the order of their users."""
    if rows <= piece_rows:
        if held := list(batches()):
            yield _sorted(pa.Table.from_batches(held))
        return
    splitters = _splitters(batches, min(_MOST_SPLITTERS, 2 * rows // piece_rows))
    with _Pieces(scratch) as pieces:
        for batch in batches():
            pieces.split(batch, splitters)
    for number in range(2 * len(splitters) + 2):
        path, count = pieces.path(number), pieces.rows.get(number, 0)
        if not count:
            continue
        if number % 2:  # one user's rows, or those without a user: they stand in order
            for batch in _stored(path):
                yield pa.Table.from_batches([batch])
        else:
            below = scratch / str(number)
            below.mkdir()
            yield from _in_order(partial(_stored, path), count, piece_rows, below)
        path.unlink()


class _Pieces:
    """Files between the splitters: piece 2i lies before splitter i, piece 2i + 1 is splitter i itself.

    A splitter is a user that occurs, so every level takes whole users out: the recursion ends however uneven they are.
    The last piece of all holds the rows without a user.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[int, Any] = {}
        self.rows: dict[int, int] = {}

    def __enter__(self) -> "_Pieces":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def path(self, number: int) -> Path:
        return self._folder / f"{number}.arrow"

    def split(self, batch: Any, splitters: Any) -> None:
        ordered = _sorted(pa.Table.from_batches([batch]))
        users = _users(ordered.column(USER).combine_chunks())
        edges = [np.searchsorted(users, splitters, side="left"), np.searchsorted(users, splitters, side="right")]
        bounds = [0, *np.stack(edges, axis=1).ravel().tolist(), len(users), len(ordered)]
        for number, (start, stop) in enumerate(pairwise(bounds)):
            if stop > start:
                self._write(number, ordered.slice(start, stop - start))

    def _write(self, number: int, rows: Any) -> None:
        if number not in self._writers:
            self._writers[number] = pyarrow.ipc.new_file(str(self.path(number)), rows.schema)
        self._writers[number].write_table(rows)
        self.rows[number] = self.rows.get(number, 0) + len(rows)


def _splitters(batches: Batches, most: int) -> Any:
    """At most so many users that cut the rows into about equal pieces; none where no row has a user."""
    rng = np.random.default_rng(0)
    sample = [
        _users(batch.column(USER).take(pa.array(rng.integers(0, len(batch), _SAMPLES_A_BATCH)))) for batch in batches()
    ]
    users = np.sort(np.concatenate(sample))
    places = np.linspace(0, len(users), most + 1, endpoint=False)[1:].astype(np.int64)
    return np.unique(users[places]) if len(users) else users


def _sorted(table: Any) -> Any:
    """Arrow's sort is stable; what is missing comes last."""
    return table.take(pc.sort_indices(without_nan(table.column(USER))))


def _users(ids: Any) -> Any:
    """(valid ids,) as a NumPy array, which can be searched."""
    return pa.chunked_array([without_nan(ids).drop_null()]).to_numpy()


def _stored(path: Path) -> Iterator[Any]:
    """The batches of a piece, put together to the usual size: they were cut into crumbs when they were written."""
    crumbs: list[Any] = []
    with pyarrow.ipc.open_file(str(path)) as reader:
        for number in range(reader.num_record_batches):
            crumbs.append(reader.get_batch(number))
            if sum(map(len, crumbs)) >= _BATCH_ROWS or number == reader.num_record_batches - 1:
                yield pa.concat_batches(crumbs)
                crumbs = []
