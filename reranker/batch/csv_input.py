"""CSV and JSON lines to parquet, a block at a time; lines that are no rows are kept apart."""

import logging
from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reranker.batch.inputs import ORIGIN_FILE, ORIGIN_ROW, InputTable, column_names
from reranker.batch.row_checks import REJECTED_SCHEMA
from reranker.data.formats import open_rows
from reranker.data.row_blocks import RejectedLine, RowBlock, RowFile, tell_spaced
from reranker.data.schema import ITEM, TIMESTAMP, USER
from reranker.data.text_values import IdKind
from reranker.errors import DataError
from reranker.utils.atomic_io import whole_file

logger = logging.getLogger(__name__)

ColumnsOf = Callable[[Sequence[str], str], dict[str, str]]
"""(columns present, where) -> canonical name -> name in the file."""


def converted(
    files: Sequence[Path],
    names: Sequence[str],
    columns_of: ColumnsOf,
    folder: Path,
    texts: Container[str] = (),
    known: Mapping[str, Iterable[Hashable]] | None = None,
) -> tuple[InputTable, Counter[str]]:
    """Files of text as one parquet file each, under the canonical names, with the origin of each row.

    Ids are integers where every one of them is and they are no texts elsewhere, else text. Scores and ranks stay text,
    so that a value that is no number can be rejected alone.

    Args:
        files: all of them CSV or JSON lines.
        names: what each is called in `malformed.parquet`.
        columns_of: finds the wanted columns.
        folder: gets the copies, and `malformed.parquet` with the lines that are no rows.
        texts: columns of ids that are texts elsewhere.
        known: USER and ITEM -> ids of the bundle: where some have spaces around them, so may those of the files.

    Returns:
        The table, and for what reasons how many lines were malformed.

    Raises:
        DataError: a file cannot be read as text or lacks a column.
    """
    opened = [_Source(file, columns_of) for file in files]
    if any(source.columns.keys() != opened[0].columns.keys() for source in opened):
        raise DataError(f"{files[0].parent}: the files do not have the same columns; give all of them one header")
    kinds = _Kinds(opened, texts, known or {})
    schema = pa.schema([*kinds.types.items(), (ORIGIN_FILE, pa.int32()), (ORIGIN_ROW, pa.int64())])
    targets, malformed = [], Counter[str]()
    with (
        whole_file(folder / "malformed.parquet") as bad_file,
        pq.ParquetWriter(bad_file, REJECTED_SCHEMA) as bad,
    ):
        for index, source in enumerate(opened):
            target = folder / f"{index:05d}.parquet"
            with whole_file(target) as temporary, pq.ParquetWriter(temporary, schema) as writer:
                for block in source.blocks():
                    arrays = [kinds.read(name, block.rows.column(own)) for name, own in source.columns.items()]
                    origin = [pa.array(np.full(len(block.rows), index, np.int32)), pa.array(block.numbers)]
                    writer.write_table(pa.Table.from_arrays([*arrays, *origin], schema=schema))
                    if block.rejected:
                        bad.write_table(_malformed(names[index], block.rejected))
                        malformed.update(line.reason for line in block.rejected)
            targets.append(target)
    return InputTable.open(targets, {name: name for name in kinds.types}, has_origin=True), malformed


def reopened(folder: Path) -> tuple[InputTable, Counter[str]]:
    """What `converted` wrote, opened again."""
    targets = sorted(folder.glob("[0-9]*.parquet"))
    names = [name for name in column_names(targets[0]) if name not in (ORIGIN_FILE, ORIGIN_ROW)]
    table = InputTable.open(targets, {name: name for name in names}, has_origin=True)
    reasons = pq.read_table(folder / "malformed.parquet", columns=["reason"]).column("reason")
    return table, Counter({one["values"]: one["counts"] for one in pc.value_counts(reasons).to_pylist()})


class _Source:
    """A file of text and the columns that are wanted of it."""

    def __init__(self, file: Path, columns_of: ColumnsOf) -> None:
        self.file = file
        self.rows: RowFile = self._open(())
        tell_spaced(self.rows, file)
        self.columns = columns_of(self.rows.columns, str(file))
        self.rows = self._open(list(self.columns.values()))

    def blocks(self) -> Iterator[RowBlock]:
        try:
            yield from self.rows.blocks(list(self.columns.values()))
        except (DataError, OSError) as error:
            raise DataError(f"cannot read {self.file}: {error}") from error

    def _open(self, values: Sequence[str]) -> RowFile:
        try:
            return open_rows(self.file, values, pairs=True)
        except (DataError, OSError) as error:
            raise DataError(f"cannot read {self.file}: {error}") from error


class _Kinds:
    """What the columns' texts stand for, over all files: found by a first look at all of them.

    Attributes:
        types: canonical name -> type it is written as.
    """

    def __init__(
        self, sources: Sequence[_Source], texts: Container[str], known: Mapping[str, Iterable[Hashable]]
    ) -> None:
        self._ids = {name: IdKind() for name in (USER, ITEM)}
        times = {pa.int64(): True, pa.float64(): True}
        for source in sources:
            own = source.columns
            for block in source.blocks():
                for name, kind in self._ids.items():
                    kind.see(block.rows.column(own[name]))
                if TIMESTAMP in own:
                    values = block.rows.column(own[TIMESTAMP])
                    times = {kind: fits and _fits(values, kind) for kind, fits in times.items()}
            for name, kind in self._ids.items():
                if own[name] in getattr(source.rows, "quoted", ()):
                    kind.keep()
        for name, kind in self._ids.items():
            kind.keep_spaces_of(known.get(name, ()))
            for line in kind.told(sources[0].columns[name]):
                logger.warning("%s: %s", sources[0].file.parent if len(sources) > 1 else sources[0].file, line)
        columns = sources[0].columns
        self.types: dict[str, pa.DataType] = dict.fromkeys(columns, pa.string())
        self.types |= {name: kind.type for name, kind in self._ids.items() if name not in texts}
        if TIMESTAMP in columns:
            self.types[TIMESTAMP] = next((kind for kind, fits in times.items() if fits), pa.string())

    def read(self, name: str, values: Any) -> Any:
        if (kind := self._ids.get(name)) is not None:
            values = kind.texts(values)
        return values.combine_chunks().cast(self.types[name])


def _fits(values: Any, kind: pa.DataType) -> bool:
    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _malformed(name: str, lines: Sequence[RejectedLine]) -> Any:
    values: dict[str, list[Any]] = {
        "file": [name] * len(lines),
        "row": [line.row for line in lines],
        "line_number": [line.number for line in lines],
        "line": [line.text for line in lines],
        "reason": [line.reason for line in lines],
    }
    nothing = [None] * len(lines)
    return pa.table({field.name: pa.array(values.get(field.name, nothing), field.type) for field in REJECTED_SCHEMA})
