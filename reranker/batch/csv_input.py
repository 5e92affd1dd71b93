"""CSV and TSV to parquet, a block at a time; lines that are no rows are kept apart."""

from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from reranker.batch.inputs import ORIGIN_FILE, ORIGIN_ROW, InputTable, column_names
from reranker.batch.row_checks import REJECTED_SCHEMA
from reranker.data.csv_quotes import require_closed_quotes
from reranker.data.schema import ITEM, TIMESTAMP, USER
from reranker.data.table_io import NO_ROW, separator_of
from reranker.errors import DataError
from reranker.utils.atomic_io import whole_file

ColumnsOf = Callable[[Sequence[str], str], dict[str, str]]
"""(columns present, where) -> canonical name -> name in the file."""

_BLOCK_BYTES = 1 << 20


def converted(
    files: Sequence[Path], names: Sequence[str], columns_of: ColumnsOf, folder: Path, texts: Container[str] = ()
) -> tuple[InputTable, int]:
    """CSV files as one parquet file a CSV, under the canonical names, with the origin of each row.

    Ids are integers where every one of them is and they are no texts elsewhere, else text. Scores and ranks stay text,
    so that a value that is no number can be rejected alone.

    Args:
        files: all of them CSV or TSV.
        names: what each is called in `malformed.parquet`.
        columns_of: finds the wanted columns.
        folder: gets the copies, and `malformed.parquet` with the lines that have too many or too few fields.
        texts: columns of ids that are texts elsewhere.

    Returns:
        The table, and how many lines were malformed.

    Raises:
        DataError: a file cannot be read as text or lacks a column.
    """
    for file in files:
        try:
            require_closed_quotes(file, separator_of(file), of_pairs=True)
        except OSError as error:
            raise DataError(f"cannot read {file}: {error}") from error
    columns = [columns_of(_header(file), str(file)) for file in files]
    types = {
        name: pa.string()
        if name in texts
        else _narrowest(name, [(file, own[name]) for file, own in zip(files, columns, strict=True) if name in own])
        for name in columns[0]
    }
    if any(own.keys() != columns[0].keys() for own in columns):
        raise DataError(f"{files[0].parent}: the files do not have the same columns; give all of them one header")
    schema = pa.schema([*types.items(), (ORIGIN_FILE, pa.int32()), (ORIGIN_ROW, pa.int64())])
    targets, malformed = [], 0
    with (
        whole_file(folder / "malformed.parquet") as bad_file,
        pq.ParquetWriter(bad_file, REJECTED_SCHEMA) as bad,
    ):
        for index, (file, own) in enumerate(zip(files, columns, strict=True)):
            target = folder / f"{index:05d}.parquet"
            bad_lines: list[tuple[int, str]] = []
            with whole_file(target) as temporary, pq.ParquetWriter(temporary, schema) as writer:
                row = 0
                for batch in _blocks(file, own.values(), bad_lines):
                    numbers = _row_numbers(row, len(batch), [number for number, _ in bad_lines])
                    row = int(numbers[-1]) + 1
                    arrays = [batch.column(own[name]).cast(kind) for name, kind in types.items()]
                    origin = [pa.repeat(pa.scalar(index, pa.int32()), len(batch)), pa.array(numbers)]
                    writer.write_batch(pa.RecordBatch.from_arrays([*arrays, *origin], schema=schema))
            bad.write_table(_malformed(names[index], bad_lines))
            malformed += len(bad_lines)
            targets.append(target)
    return InputTable.open(targets, {name: name for name in types}, has_origin=True), malformed


def reopened(folder: Path) -> tuple[InputTable, int]:
    """What `converted` wrote, opened again."""
    targets = sorted(folder.glob("[0-9]*.parquet"))
    names = [name for name in column_names(targets[0]) if name not in (ORIGIN_FILE, ORIGIN_ROW)]
    table = InputTable.open(targets, {name: name for name in names}, has_origin=True)
    return table, pq.read_metadata(folder / "malformed.parquet").num_rows


def _header(file: Path) -> list[str]:
    with _open(file) as reader:
        names: list[str] = reader.schema.names
    return names


def _narrowest(name: str, columns: Sequence[tuple[Path, str]]) -> Any:
    """The type that every value of a column has, over all files."""
    for kind in {USER: (pa.int64(),), ITEM: (pa.int64(),), TIMESTAMP: (pa.int64(), pa.float64())}.get(name, ()):
        try:
            for file, column in columns:
                for batch in _blocks(file, [column], []):
                    values = batch.column(column)
                    numbers = values.cast(kind)
                    if name in (USER, ITEM) and not numbers.cast(values.type).equals(values):
                        raise pa.ArrowInvalid("leading zeros would be lost")
        except pa.ArrowInvalid:
            continue
        return kind
    return pa.string()


def _blocks(file: Path, columns: Any, bad_lines: list[tuple[int, str]]) -> Iterator[Any]:
    with _open(file, list(columns), bad_lines) as reader:
        try:
            yield from (batch for batch in reader if len(batch))
        except pa.ArrowInvalid as error:
            raise DataError(f"cannot read {file}: {error}") from error


def _open(file: Path, columns: Sequence[str] = (), bad_lines: list[tuple[int, str]] | None = None) -> Any:
    """A streaming reader; every column wanted is text."""

    def skip(line: Any) -> str:
        if bad_lines is not None:
            bad_lines.append((line.number - 2, line.text))  # lines count from 1 and the header is one
        return "skip"

    try:
        return pacsv.open_csv(
            pa.input_stream(str(file), compression="detect"),
            read_options=pacsv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
            parse_options=pacsv.ParseOptions(
                delimiter=separator_of(file), newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=True,
                null_values=[""],  # by default "NA" and the like too, which can be ids
                include_columns=columns,
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read {file}: {error}") from error


def _row_numbers(first: int, count: int, bad: Sequence[int]) -> Any:
    """(count,) numbers of the next `count` rows when the bad ones between them are left out."""
    every = np.arange(first, first + count + len(bad), dtype=np.int64)
    return every[~np.isin(every, bad)][:count]


def _malformed(name: str, lines: Sequence[tuple[int, str]]) -> Any:
    values = {
        "file": [name] * len(lines),
        "row": [number for number, _ in lines],
        "line": [text for _, text in lines],
        "reason": [NO_ROW] * len(lines),
    }
    nothing = [None] * len(lines)
    return pa.table({field.name: pa.array(values.get(field.name, nothing), field.type) for field in REJECTED_SCHEMA})
