"""A table in many parquet files, read by row numbers with constant memory.

A row's number counts through all files in the order of their names. Columns come out under the names of
`reranker.data.schema`, ids as int64, string or the type they have, and every row keeps its origin (file, row).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reranker.data.formats import TAKEN, files_under, folders_under, table_format
from reranker.data.parquet_files import INT96_UNIT, require_utf8
from reranker.data.schema import ALIASES, EVENT, ITEM, QUERY, RANK, RATING, SCORE, STRENGTH, TIMESTAMP, USER, WEIGHT
from reranker.errors import ConfigError, DataError
from reranker.utils.atomic_io import sha256

ORIGIN_FILE, ORIGIN_ROW = "_file", "_row"
_BATCH_ROWS = 1 << 15
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of your candidates are called.

    Attributes:
        user, item: ids.
        score, rank: None takes `score` and `rank` where they exist. If you name one of them, only that one is read.
        further: read as they are; own features of the bundle.
    """

    user: str = USER
    item: str = ITEM
    score: str | None = None
    rank: str | None = None
    further: tuple[str, ...] = ()

    def of_candidates(self, present: Sequence[str], where: str) -> dict[str, str]:
        """Canonical name -> name in the file.

        Raises:
            DataError: a column is missing.
        """
        wanted = {USER: self.user, ITEM: self.item}
        ordering = {name: column for name, column in ((SCORE, self.score), (RANK, self.rank)) if column is not None}
        wanted |= ordering or {name: name for name in (SCORE, RANK) if name in present}
        _require(wanted, present, where)
        if len(wanted) == 2:
            raise DataError(
                f"{where} needs a {SCORE!r} or a {RANK!r} column; it has {', '.join(present)}. "
                "Name yours with --score-col or --rank-col"
            )
        if missing := [name for name in self.further if name not in present]:
            raise DataError(
                f"{where} lacks the column {', '.join(map(repr, missing))}, which the ranker was fitted with (features)"
                f"; it has {', '.join(present)}"
            )
        read = [*self.further, *([QUERY] if QUERY in present and QUERY not in wanted.values() else [])]
        return wanted | {name: name for name in read}

    def of_interactions(self, present: Sequence[str], where: str) -> dict[str, str]:
        """Canonical name -> name in the file; your names where the table has them, else the canonical ones."""
        wanted = {name: own if own in present else name for name, own in ((USER, self.user), (ITEM, self.item))}
        own = (TIMESTAMP, EVENT, RATING, WEIGHT, STRENGTH)
        for alias, name in (*zip(own, own, strict=True), *ALIASES.items()):
            if alias in present:
                wanted.setdefault(name, alias)
        _require(wanted, present, where)
        return wanted


@dataclass(frozen=True, kw_only=True)
class InputTable:
    """Parquet files read as one table.

    Attributes:
        files: in the order in which they are read.
        rows: rows of each file.
        columns: canonical name -> name in the files.
        types: canonical name -> the type it is read as.
        has_origin: the files carry `_file` and `_row` themselves, because they are copies of others.
        folders: column in no file -> its value for each file, from the name of a folder (`key=value`).
    """

    files: tuple[Path, ...]
    rows: tuple[int, ...]
    columns: dict[str, str]
    types: dict[str, pa.DataType]
    has_origin: bool = False
    folders: dict[str, Any] = field(default_factory=dict)

    @property
    def total_rows(self) -> int:
        return sum(self.rows)

    @classmethod
    def open(
        cls,
        files: Sequence[Path],
        columns: dict[str, str],
        *,
        has_origin: bool = False,
        folders: Mapping[str, Any] | None = None,
    ) -> "InputTable":
        """Reads the footers.

        Args:
            files: parquet.
            columns: canonical name -> name in the files, or of a folder's value.
            has_origin: as the attribute.
            folders: as `folder_values` gives them; columns of the files come before them.

        Raises:
            DataError: a file is no parquet, lacks a column, or has one of another or an impossible type.
        """
        rows: list[int] = []
        types: dict[str, pa.DataType] = {}
        folders = folders or {}
        for file in files:
            schema, count = _footer(file)
            _require(columns, [*schema.names, *folders], str(file))
            rows.append(count)
            for name, column in columns.items():
                kind = schema.field(column).type if column in schema.names else folders[column].type
                found = _plain_type(kind, name, column, file) if count else pa.null()  # pandas makes one up
                known = types.get(name, pa.null())
                if found != known and not pa.types.is_null(found) and not pa.types.is_null(known):
                    raise DataError(
                        f"{file}: column {column!r} is {found}, in the files before it {known}. Store one type"
                    )
                if not pa.types.is_null(found) or name not in types:
                    types[name] = found
        # A column without a single value has no type of its own; text can hold whatever it meant.
        types = {name: pa.string() if pa.types.is_null(found) else found for name, found in types.items()}
        used = {name: values for name, values in folders.items() if name in columns.values()}
        return cls(
            files=tuple(files), rows=tuple(rows), columns=columns, types=types, has_origin=has_origin, folders=used
        )

    def only(self, *names: str) -> "InputTable":
        """The same table with these columns alone."""
        return replace(
            self,
            columns={name: self.columns[name] for name in names},
            types={name: self.types[name] for name in names},
        )

    def resolved(self) -> "InputTable":
        """The same table under absolute paths, for processes that stand elsewhere."""
        return replace(self, files=tuple(file.resolve() for file in self.files))

    def schema(self) -> pa.Schema:
        """What is read: the columns and the origin of each row."""
        return pa.schema([*self.types.items(), (ORIGIN_FILE, pa.int32()), (ORIGIN_ROW, pa.int64())])

    def batches(self, start: int = 0) -> Iterator[pa.RecordBatch]:
        """Record batches from row number `start` on."""
        for index, end in enumerate(accumulate(self.rows)):
            if end > start:
                yield from self._file_batches(index, max(0, start - (end - self.rows[index])))

    def _file_batches(self, index: int, skip: int) -> Iterator[pa.RecordBatch]:
        """One file's batches without its first `skip` rows; row groups before them are not read at all."""
        # pre_buffer would hold whole row groups, and the usual writers make them a million rows long.
        options = {"pre_buffer": False, "coerce_int96_timestamp_unit": INT96_UNIT}
        with pq.ParquetFile(self.files[index], buffer_size=_BUFFER_BYTES, **options) as file:
            groups, row = list(range(file.num_row_groups)), 0
            while groups and row + file.metadata.row_group(groups[0]).num_rows <= skip:
                row += file.metadata.row_group(groups.pop(0)).num_rows
            stored = [column for column in self.columns.values() if column in file.schema_arrow.names]
            wanted = [*stored, *((ORIGIN_FILE, ORIGIN_ROW) if self.has_origin else ())]
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=wanted, use_threads=False):
                if row + len(batch) > skip:
                    for name, column in zip(batch.schema.names, batch.columns, strict=True):
                        require_utf8(column, name, self.files[index], row)
                    first = max(0, skip - row)
                    yield self._canonical(batch.slice(first), index, row + first)
                row += len(batch)

    def _canonical(self, batch: pa.RecordBatch, index: int, row: int) -> pa.RecordBatch:
        values = [
            _plain(
                batch.column(column)
                if column in batch.schema.names
                else pa.repeat(self.folders[column][index], len(batch)),
                self.types[name],
            )
            for name, column in self.columns.items()
        ]
        if self.has_origin:
            origin = [batch.column(ORIGIN_FILE), batch.column(ORIGIN_ROW)]
        else:
            origin = [pa.repeat(pa.scalar(index, pa.int32()), len(batch)), pa.array(range(row, row + len(batch)))]
        return pa.RecordBatch.from_arrays([*values, *origin], schema=self.schema())


class RowReader:
    """Reads ranges of rows; going on where the last range ended costs no second look at a row group."""

    def __init__(self, table: InputTable) -> None:
        self._table = table
        self._next = -1
        self._rest: list[pa.RecordBatch] = []
        self._stream: Iterator[pa.RecordBatch] = iter(())

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows start..stop, stop not included."""
        if start != self._next:
            self._rest, self._stream = [], self._table.batches(start)
        missing, parts = stop - start, []
        while missing > 0:
            batch = self._rest.pop() if self._rest else next(self._stream)
            parts.append(batch.slice(0, missing))
            if len(batch) > missing:
                self._rest.append(batch.slice(missing))
            missing -= len(parts[-1])
        self._next = stop
        return pa.Table.from_batches(parts, schema=self._table.schema())


def input_files(path: Path, what: str) -> tuple[Path, ...]:
    """The file, or the tables that `files_under` finds in a folder, in the order of their names.

    Raises:
        DataError: there is nothing to read, or a link leads nowhere.
    """
    if path.is_file():
        if table_format(path) is None:
            raise DataError(f"{what}: cannot read {path}; expected one of {TAKEN}")
        return (path,)
    files = files_under(path) if path.is_dir() else ()
    found = sorted(file for file in files if table_format(file) is not None)
    if not found:
        reason = "holds no table" if path.is_dir() else "does not exist"
        raise DataError(f"{what}: {path} {reason}; give a file or a folder of {TAKEN}")
    return tuple(found)


def is_input_of(folder: Path, place: Path) -> bool:
    """Whether tables under `place` would be among the `input_files` of a folder."""
    place = place.resolve()
    reached = [inner.resolve() for inner in folders_under(folder)] if folder.is_dir() else []
    below = [place.relative_to(inner) for inner in reached if place.is_relative_to(inner)]
    return any(not any(part.startswith((".", "_")) for part in relative.parts) for relative in below)


def fingerprints(files: Sequence[Path], root: Path) -> list[dict[str, Any]]:
    """What changes when an input changes: names, sizes, times, and a hash of a text or of a parquet's footer."""
    return [_fingerprint(file, root) for file in files]


def column_names(file: Path) -> list[str]:
    """The columns of a parquet file."""
    names: list[str] = _footer(file)[0].names
    return names


def _fingerprint(file: Path, root: Path) -> dict[str, Any]:
    status = file.stat()
    with file.open("rb") as opened:
        opened.seek(max(0, status.st_size - 8))
        last = opened.read(8)
        footer = int.from_bytes(last[:4], "little") + 8 if last[4:] == b"PAR1" else 0
        opened.seek(max(0, status.st_size - footer))
        found = hashlib.sha256(opened.read(footer)).hexdigest() if footer else sha256(file)
    name = file.name if root == file else file.relative_to(root).as_posix()
    return {"file": name, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": found}


def _footer(file: Path) -> tuple[Any, int]:
    try:
        with pq.ParquetFile(file, pre_buffer=False, coerce_int96_timestamp_unit=INT96_UNIT) as opened:
            return opened.schema_arrow, opened.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {file} as parquet: {error}") from error


def _require(wanted: dict[str, str], present: Sequence[str], where: str) -> None:
    missing = [column for column in wanted.values() if column not in present]
    if missing:
        raise DataError(
            f"{where} lacks the column {', '.join(map(repr, missing))}; it has {', '.join(present)}. "
            "Name your columns with --user-col, --item-col, --score-col, --rank-col"
        )
    if len(set(wanted.values())) < len(wanted):
        raise ConfigError(f"two columns of {where} are read from one: {wanted}. Give each its own")


def _plain_type(found: pa.DataType, name: str, column: str, file: Path) -> pa.DataType:
    """The type a column is read as: one integer, one float, one text type; numbers for scores that are numbers."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found):
        return pa.string()
    number = pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found)
    if name in (SCORE, RANK, RATING, WEIGHT, STRENGTH):
        if number:
            return pa.float64()
        if not pa.types.is_null(found):
            raise DataError(f"{file}: column {column!r} is {found}, expected numbers")
        return found
    if pa.types.is_nested(found) or isinstance(found, pa.BaseExtensionType):  # the latter: UUIDs, among others
        raise DataError(f"{file}: column {column!r} is {found}; an id is a number or a text. Convert it to a string")
    if pa.types.is_integer(found) and not pa.types.is_uint64(found):
        return pa.int64()
    return pa.float64() if pa.types.is_floating(found) else found


def _plain(values: Any, wanted: pa.DataType) -> Any:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if values.type != wanted:
        values = values.cast(wanted, safe=False)
    return values


def without_nan(ids: Any) -> Any:
    """Ids in which a floating-point NaN is a missing value, as it is in pandas."""
    if not pa.types.is_floating(ids.type):
        return ids
    return pc.if_else(pc.is_nan(ids), pa.scalar(None, ids.type), ids)
