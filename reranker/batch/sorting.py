"""Sorts a table by user outside memory, with DuckDB."""

import shutil
from pathlib import Path

import duckdb
import pyarrow as pa

from reranker.batch.files import whole_file
from reranker.batch.inputs import ORIGIN_FILE, ORIGIN_ROW, InputTable
from reranker.errors import DataError
from reranker.tables import USER

# Fixed, so that memory does not grow with the table: what does not fit goes to the disk.
_MEMORY = "384MB"
_THREADS = 2
_ROW_GROUP = 1 << 16


def sorted_by_user(table: InputTable, target: Path) -> InputTable:
    """A copy of `table` in the order of its users; each user's rows stay in the order in which they stood.

    Needs disk space of about twice the table beside `target`.

    Raises:
        DataError: the disk is full, or the table cannot be read.
    """
    scratch = target.with_name(f"{target.name}.scratch")
    shutil.rmtree(scratch, ignore_errors=True)  # of an attempt that was killed
    rows = pa.RecordBatchReader.from_batches(table.schema(), table.batches())
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY,
        "threads": _THREADS,
        "temp_directory": str(scratch),
    }
    try:
        with whole_file(target) as temporary, duckdb.connect(config=settings) as connection:
            connection.register("unsorted", rows)
            connection.execute(
                f"COPY (SELECT * FROM unsorted ORDER BY {USER}, {ORIGIN_FILE}, {ORIGIN_ROW}) "
                f"TO '{str(temporary).replace(chr(39), chr(39) * 2)}' (FORMAT parquet, ROW_GROUP_SIZE {_ROW_GROUP})"
            )
    except (duckdb.Error, pa.ArrowException) as error:
        raise DataError(f"cannot sort the table by user into {target}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return sorted_copy(table, target)


def sorted_copy(table: InputTable, target: Path) -> InputTable:
    """What `sorted_by_user` wrote, opened again."""
    return InputTable.open([target], {name: name for name in table.columns}, has_origin=True)
