"""From the user's files to a table in the order of its users, and the cut into parts. Copies lie in OUT/_run."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reranker.batch.csv_input import ColumnsOf, converted, reopened
from reranker.batch.external_sort import sorted_by_user, sorted_copy
from reranker.batch.inputs import Columns, InputTable, column_names, input_files
from reranker.batch.known_ids import KnownIds
from reranker.batch.part import STATE
from reranker.batch.partition import Cut, cut
from reranker.data.formats import is_text, open_rows
from reranker.data.parquet_files import folder_values, tell_unread_folders
from reranker.data.schema import ITEM, USER
from reranker.errors import DataError

_COPIES = ("candidates", "interactions")

Texts = Callable[[], AbstractSet[str]]
"""The columns of ids that are texts elsewhere; asked only where a CSV is converted."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A table that can be read by parts.

    Attributes:
        candidates: in the order of its users.
        file_names: what its files are called by the user.
        cut: the parts.
        malformed: lines of text that are no rows by their reasons, kept in OUT/_run/candidates/malformed.parquet.
        unused_columns: of the candidates' first file, that nothing reads.
        unused_history_columns: the same of the interactions.
        interactions: in the order of their users, or None.
    """

    candidates: InputTable
    file_names: tuple[str, ...]
    cut: Cut
    malformed: Counter[str]
    unused_columns: tuple[str, ...]
    unused_history_columns: tuple[str, ...]
    interactions: InputTable | None


def prepare(
    candidates: Path, interactions: Path | None, columns: Columns, part_users: int, out: Path, known: KnownIds
) -> Prepared:
    """Opens the inputs; converts what is CSV and sorts what is not in the order of its users.

    Copies that an earlier attempt finished are used again: drop them with `drop_copies` when the inputs changed.

    Args:
        known: of the bundle. A CSV's ids are of its kind; where both inputs are given, their users are of one kind.

    Raises:
        DataError: an input cannot be read, lacks a column or is empty; interactions without ids or time.
    """
    folder = out / STATE
    files = input_files(candidates, "candidates")
    newer = () if interactions is None else input_files(interactions, "interactions")

    def texts() -> AbstractSet[str]:
        if interactions is None or any(map(is_text, newer)):
            return known.texts
        return known.texts & {ITEM} | _texts(_opened_parquet(newer, interactions, columns.of_interactions)) & {USER}

    unused = _unused(files[0], candidates, columns.of_candidates)
    unused_history = () if interactions is None else _unused(newer[0], interactions, columns.of_interactions)
    table, malformed = _opened(files, candidates, columns.of_candidates, folder / "candidates", texts, known)
    table = known.of_known_kind(table, texts())
    if table.total_rows + malformed.total() == 0:
        raise DataError(f"candidates: {candidates} is empty: it has columns but no rows")
    copy = folder / "candidates" / "sorted.parquet"
    parts = cut(table, part_users)
    if parts is None:
        table = sorted_copy(table, copy) if copy.exists() else sorted_by_user(table, copy)
        parts = cut(table, part_users)
    if parts is None:
        raise DataError(f"{copy} is not in order: delete {folder} and start again with --force")
    return Prepared(
        candidates=table,
        file_names=_names(files, candidates),
        cut=parts,
        malformed=malformed,
        unused_columns=unused,
        unused_history_columns=unused_history,
        interactions=None if interactions is None else _histories(interactions, newer, columns, table, folder, known),
    )


def _unused(file: Path, root: Path, columns_of: ColumnsOf) -> tuple[str, ...]:
    if is_text(file):
        try:
            present = list(open_rows(file, ()).columns)
        except (DataError, OSError):  # told with the file's name where it is converted
            return ()
    else:
        present = [*column_names(file), *folder_values([file], root)]
    used = columns_of(present, str(file)).values()
    return tuple(dict.fromkeys(name for name in present if name not in used and not name.startswith("__index")))


def malformed_file(out: Path) -> Path:
    """Where CSV lines that are no rows lie."""
    return out / STATE / "candidates" / "malformed.parquet"


def drop_copies(out: Path) -> None:
    """Removes the copies of the inputs."""
    for name in _COPIES:
        shutil.rmtree(out / STATE / name, ignore_errors=True)


def _histories(
    path: Path, files: Sequence[Path], columns: Columns, candidates: InputTable, folder: Path, known: KnownIds
) -> InputTable:
    """Interactions sorted by user: a part then reads the few row groups that hold its users."""
    place, texts = folder / "interactions", _texts(candidates)
    table, malformed = _opened(files, path, columns.of_interactions, place, lambda: texts, known)
    if malformed:
        first = pq.ParquetFile(place / "malformed.parquet").read_row_group(0).to_pylist()[0]
        raise DataError(
            f"interactions: {malformed.total()} lines of {path} are no rows; the first is line {first['line_number']} "
            f"of {first['file']}: {first['reason']}. Repair them"
        )
    for name in (USER, ITEM):
        if table.types[name] != candidates.types[name]:
            raise DataError(
                f"{name} is {table.types[name]} in the interactions and {candidates.types[name]} in the candidates: "
                "nobody would be found. Store one type"
            )
    copy = place / "sorted.parquet"
    table = sorted_copy(table, copy) if copy.exists() else sorted_by_user(table, copy)
    _refuse_missing(table, path)
    return table


def _refuse_missing(table: InputTable, path: Path) -> None:
    metadata = pq.read_metadata(table.files[0])
    place = {metadata.schema.column(index).name: index for index in range(metadata.num_columns)}
    for name in table.columns:
        groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
        missing = sum(group.column(place[name]).statistics.null_count for group in groups)
        if missing:
            raise DataError(f"interactions: {missing} rows of {path} have no {name}; remove or repair them")


def _texts(table: InputTable) -> frozenset[str]:
    return frozenset(name for name in (USER, ITEM) if table.types[name] == pa.string())


def _opened_parquet(files: Sequence[Path], root: Path, columns_of: ColumnsOf) -> InputTable:
    folders = folder_values(files, root)
    present = dict.fromkeys([*column_names(files[0]), *folders])
    return InputTable.open(files, columns_of(list(present), str(files[0])), folders=folders)


def _opened(
    files: Sequence[Path], root: Path, columns_of: ColumnsOf, folder: Path, texts: Texts, known: KnownIds
) -> tuple[InputTable, Counter[str]]:
    text = [is_text(file) for file in files]
    if not any(text):
        return _opened_parquet(files, root, columns_of), Counter()
    if not all(text):
        raise DataError(f"{files[0].parent} holds text beside parquet; give one kind")
    complete = folder / "complete"
    if complete.exists():
        return reopened(folder)
    table = converted(files, [file.name for file in files], columns_of, folder, texts(), known.columns)
    tell_unread_folders(files, root, open_rows(files[0], ()).columns)
    complete.touch()
    return table


def _names(files: Sequence[Path], root: Path) -> tuple[str, ...]:
    return tuple(file.name if file == root else file.relative_to(root).as_posix() for file in files)
