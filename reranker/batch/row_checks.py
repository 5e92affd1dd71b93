"""Splits candidate rows into those that can be ranked and those that cannot, with the reason."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reranker.batch.inputs import ORIGIN_FILE, ORIGIN_ROW, without_nan
from reranker.data.filler import FILLER, is_filler
from reranker.data.schema import ITEM, RANK, SCORE, USER

_TEXT_COLUMNS = (USER, ITEM, SCORE, RANK)
REJECTED_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("line_number", pa.int64()),
        *((name, pa.string()) for name in _TEXT_COLUMNS),
        ("line", pa.string()),
        ("reason", pa.string()),
    ]
)
"""Of rejected.parquet: where a row stood (0 is the first row of the file), its values as text, and why it was rejected.
`line` holds a line of text that is no row, and `line_number` where it stands in the file, from 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sifted:
    """One part's rows.

    Attributes:
        good: a candidates table; `validate_candidates` takes it.
        rejected: the other rows, in `REJECTED_SCHEMA`.
        reasons: how many rows were rejected for what.
        users: users with a row, good or bad.
        users_without_candidates: those of them who have no good row.
    """

    good: pd.DataFrame
    rejected: pa.Table
    reasons: Counter[str]
    users: int
    users_without_candidates: int


def sift(rows: pa.Table, file_names: Sequence[str]) -> Sifted:
    """Rejects rows without an id, without a finite score or rank, and whatever repeats an item or a rank.

    Of rows that repeat each other the first one is kept.

    Args:
        rows: all rows of some users, as `RowReader` reads them.
        file_names: what `_file` means.
    """
    ids = {name: without_nan(rows.column(name)) for name in (USER, ITEM)}
    reasons = np.full(len(rows), "", dtype=object)
    for name, values in ids.items():
        _mark(reasons, ~np.asarray(values.is_valid()), f"{name} is missing")
    numbers = {name: _numbers(rows, name, reasons) for name in (SCORE, RANK) if name in rows.column_names}
    open_rows = np.flatnonzero(reasons == "")
    # Only now to pandas: integers with a missing value among them would become floats.
    frame = pd.DataFrame(
        {name: values.take(pa.array(open_rows)).to_pandas() for name, values in ids.items()}
        | {name: values[open_rows] for name, values in numbers.items()}
        | {name: rows.column(name).take(pa.array(open_rows)).to_pandas() for name in _further(rows)}
    )
    for repeated, reason in (
        ([USER, ITEM], "the item was proposed to this user before"),
        ([USER, RANK], "the rank appears twice in this user's list"),
    ):
        if set(repeated) <= set(frame.columns):
            twice = frame.duplicated(repeated).to_numpy()
            _mark(reasons, open_rows[twice], reason)
            frame, open_rows = frame[~twice], open_rows[~twice]
    users = len(ids[USER].drop_null().unique())
    return Sifted(
        good=frame.reset_index(drop=True),
        rejected=_rejected(rows, reasons, file_names),
        reasons=Counter(reason for reason in reasons if reason),
        users=users,
        users_without_candidates=users - int(frame[USER].nunique()),
    )


def _further(rows: pa.Table) -> list[str]:
    """Columns that are kept as they are."""
    return [name for name in rows.column_names if name not in (USER, ITEM, SCORE, RANK, ORIGIN_FILE, ORIGIN_ROW)]


def _numbers(rows: pa.Table, name: str, reasons: NDArray[np.object_]) -> NDArray[np.float64]:
    """The column as numbers; rows where it has none are marked."""
    values = rows.column(name)
    numbers: NDArray[np.float64] = pd.to_numeric(values.to_pandas(), errors="coerce").to_numpy(dtype=np.float64)
    missing = ~np.asarray(values.is_valid())
    _mark(reasons, missing, f"{name} is missing")
    if pa.types.is_string(values.type):
        _mark(reasons, np.isnan(numbers), f"{name} is not a number")
    _mark(reasons, ~np.isfinite(numbers), f"{name} is not finite")
    if name == SCORE:
        _mark(reasons, is_filler(numbers), FILLER)
    return numbers


def _mark(reasons: NDArray[np.object_], rows: NDArray[np.bool_] | NDArray[np.int64], reason: str) -> None:
    """Gives rows a reason; the first one a row gets stays."""
    chosen = reasons[rows]
    reasons[rows] = np.where(chosen == "", reason, chosen)


def _as_text(values: Any) -> Any:
    """Values as they are shown; bytes in hexadecimal digits."""
    if pa.types.is_binary(values.type) or pa.types.is_fixed_size_binary(values.type):
        return pa.array([None if value is None else value.hex() for value in values.to_pylist()], pa.string())
    return pc.cast(values, pa.string())


def _rejected(rows: pa.Table, reasons: NDArray[np.object_], file_names: Sequence[str]) -> pa.Table:
    taken = np.flatnonzero(reasons != "")
    bad = rows.take(pa.array(taken))
    files = bad.column(ORIGIN_FILE).to_pylist()
    columns = {
        "file": [file_names[file] for file in files],
        "row": bad.column(ORIGIN_ROW),
        "reason": list(reasons[taken]),
        **{name: _as_text(bad.column(name)) for name in _TEXT_COLUMNS if name in bad.column_names},
    }
    nothing = [None] * len(taken)
    return pa.table({field.name: columns.get(field.name, nothing) for field in REJECTED_SCHEMA}, schema=REJECTED_SCHEMA)
