"""Table contracts: interactions, items, candidates, ranking. Validated once, at the edge.

Ids may be anything hashable and leave as they came. Row order is kept; every sort is stable.
"""

import logging
import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.categories import readable_categories
from reranker.data.column_names import meant
from reranker.data.filler import FILLER, is_filler
from reranker.errors import DataError

if TYPE_CHECKING:
    from reranker.data.signals import Signals

logger = logging.getLogger(__name__)

USER, ITEM = "user_id", "item_id"
TIMESTAMP, WEIGHT = "timestamp", "weight"
EVENT, RATING, STRENGTH = "event", "rating", "strength"
TITLE, CATEGORY, DESCRIPTION = "title", "category", "description"
SCORE, RANK = "score", "rank"
VECTOR = "vector"
QUERY = "query"
RECALL_SCORE, RECALL_RANK = "first_stage_score", "first_stage_rank"

CANDIDATE_COLUMNS = [USER, ITEM, SCORE, RANK]
SCORE_SCALE = "score_scale"
LOG_ODDS, OF_FIRST_STAGE = "log_odds", "first_stage"
"""What `score` is in a ranking: log-odds within the list, or what came in (1 / rank where no scores did)."""

RANKING_COLUMNS = [USER, ITEM, SCORE, RANK, RECALL_SCORE, RECALL_RANK, SCORE_SCALE]
ALIASES = {"datetime": TIMESTAMP}
"""Other names of columns of interactions."""

UNTITLED = "(untitled)"

_SHOWN_ROWS = 5


def as_frame(table: Any, name: str = "table") -> pd.DataFrame:
    """`frames.as_frame`, which reads files and takes the names of columns from here."""
    from reranker.data import frames

    return frames.as_frame(table, name)


def validate_interactions(
    frame: pd.DataFrame, name: str = "interactions", signals: "Signals | None" = None
) -> pd.DataFrame:
    """Returns a copy with canonical column names, sorted stably by time when there are timestamps.

    A user may choose the same item again: repeated rows are kept. Timestamps that are texts become numbers or times;
    events, ratings and weights become strengths (`reranker.data.signals`).

    Raises:
        DataError: empty table, missing column, missing or unhashable id, missing timestamp or one that is a text in no
            unambiguous order, and as `signals.with_strengths` does.
    """
    from reranker.data.signals import Signals, with_strengths  # it takes the names of columns from here

    frame = _with_canonical_names(as_frame(frame, name), name, ALIASES)
    _require_table(frame, [USER, ITEM], name)
    for column in (USER, ITEM):
        _require_ids(frame, column, name)
    frame = with_strengths(frame, signals or Signals(), name)
    if TIMESTAMP in frame:
        categorical = isinstance(frame[TIMESTAMP].dtype, pd.CategoricalDtype)  # which stand in an order of their own
        times = _times(_decategorised(frame[TIMESTAMP]) if categorical else frame[TIMESTAMP], name)
        refuse_rows(frame, TIMESTAMP, times.isna().to_numpy(), "is missing", name)
        frame[TIMESTAMP] = times
        try:
            frame = sort_by_time(frame)
        except TypeError as error:  # numbers beside strings, or times with and without a zone
            raise DataError(
                f"table {name!r}, column {TIMESTAMP!r}: the values cannot be put in order ({error}). "
                "Give all of them one type"
            ) from error
    return frame.reset_index(drop=True)


def validate_items(frame: pd.DataFrame, name: str = "items") -> pd.DataFrame:
    """Returns a copy in which every item has a title; items without one are called "(untitled)" and counted in the log.

    In a column that holds texts and numbers, the numbers become texts. Several categories in one text ("A|B",
    "['A', 'B']") become "A, B".

    Raises:
        DataError: empty table, missing column, missing, unhashable or duplicate item_id.
    """
    frame = one_row_each(frame, [ITEM, TITLE], name)
    titles = frame[TITLE].astype(object).where(frame[TITLE].notna(), "").map(_as_title).str.strip()
    untitled = (titles == "").to_numpy()
    if untitled.any():
        logger.warning(
            "table %r: %d of %d items have no title; shown as %r", name, untitled.sum(), len(frame), UNTITLED
        )
    frame[TITLE] = titles.where(~untitled, UNTITLED)
    if CATEGORY in frame:
        frame[CATEGORY] = frame[CATEGORY].map(readable_categories)
    return mixed_as_texts(frame).reset_index(drop=True)


def validate_users(frame: pd.DataFrame, name: str = "users") -> pd.DataFrame:
    """Returns a copy with one row a user; raises DataError as `validate_items` does."""
    return one_row_each(frame, [USER], name).reset_index(drop=True)


def one_row_each(frame: pd.DataFrame, columns: Sequence[str], name: str) -> pd.DataFrame:
    """A table with these columns, of which the first holds an id, each once."""
    frame, column = _with_canonical_names(frame, name), columns[0]
    _require_table(frame, columns, name)
    _require_ids(frame, column, name)
    keep = f"appears more than once; keep one row {'an item' if column == ITEM else 'a user'}"
    refuse_rows(frame, column, frame[column].duplicated().to_numpy(), keep, name)
    return frame


def _as_title(value: object) -> str:
    """1984.0, which a number becomes beside a missing one, is "1984"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def mixed_as_texts(items: pd.DataFrame) -> pd.DataFrame:
    """Items in whose columns numbers are texts where they stand beside texts, as years beside "n.d."."""
    items = items.copy(deep=False)
    for column in items.columns.drop(ITEM):
        values = items[column]
        if values.dtype == object and {"text", "number"} <= {_kind(value) for value in values.dropna()}:
            items[column] = values.map(str, na_action="ignore")
    return items


def validate_candidates(frame: pd.DataFrame, name: str = "candidates", further: Sequence[str] = ()) -> pd.DataFrame:
    """Returns a copy with `user_id, item_id, score, rank`; users in order of appearance, each list by rank.

    Rows with which `implicit` fills short lists are left out and counted in the log.

    `rank` decides the first-stage order. Without it, lists are ranked by descending score (ties keep row order);
    without `score`, the score is the reciprocal rank.

    Args:
        frame: the table.
        name: for errors.
        further: columns that are kept as they are, where the table has them.

    Raises:
        DataError: empty table, missing column, missing id, duplicate (user, item), duplicate rank, score or rank that
            is not finite.
    """
    frame = _with_canonical_names(frame, name)
    require_columns(frame, [USER, ITEM], name)
    if SCORE not in frame and RANK not in frame:
        raise DataError(
            f"table {name!r} needs a {SCORE!r} or a {RANK!r} column; it has {list(map(str, frame.columns))}"
        )
    _require_table(frame, [USER, ITEM], name)
    if SCORE in frame:
        frame = _without_filler(frame, name)
    for column in (USER, ITEM):
        _require_ids(frame, column, name)
    duplicated = frame.duplicated([USER, ITEM]).to_numpy()
    refuse_rows(frame, ITEM, duplicated, "is proposed twice to the same user; keep one row a (user, item)", name)
    if SCORE in frame:
        frame[SCORE] = numeric(frame, SCORE, name)
    if RANK in frame:
        frame[RANK] = numeric(frame, RANK, name)
        refuse_rows(frame, RANK, frame.duplicated([USER, RANK]).to_numpy(), "appears twice in one user's list", name)
    group = pd.Series(pd.factorize(frame[USER])[0], index=frame.index)
    if RANK in frame:
        order = np.lexsort((frame[RANK].to_numpy(), group.to_numpy()))
    else:
        order = np.lexsort((-frame[SCORE].to_numpy(), group.to_numpy()))
    frame, group = frame.iloc[order], group.iloc[order]
    frame[RANK] = frame.groupby(group).cumcount() + 1
    if SCORE not in frame:
        frame[SCORE] = 1.0 / frame[RANK]
    kept = [column for column in further if column in frame and column not in CANDIDATE_COLUMNS]
    return frame[[*CANDIDATE_COLUMNS, *kept]].reset_index(drop=True)


def _without_filler(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    filler = is_filler(pd.to_numeric(frame[SCORE], errors="coerce").to_numpy(dtype=np.float64))
    if not filler.any():
        return frame
    if filler.all():
        raise DataError(f"table {name!r} holds no candidate: of all {len(frame)} rows {FILLER}")
    logger.warning("table %r: %d of %d rows are left out: %s", name, filler.sum(), len(frame), FILLER)
    return frame[~filler].copy()


def sort_by_time(interactions: pd.DataFrame) -> pd.DataFrame:
    """Sorted by timestamp; ties and tables without timestamps keep their row order."""
    if TIMESTAMP not in interactions or interactions[TIMESTAMP].is_monotonic_increasing:
        return interactions
    return interactions.sort_values(TIMESTAMP, kind="stable")


def require_ids_like(known: Iterable[Hashable], given: pd.Series, name: str) -> None:
    """Refuses ids of which none is known, nor of a kind that is, as where one table holds "7" and the other 7.

    Of `known`, no more is looked at than it takes to find one of such a kind: most often the first.

    Args:
        known: may be many.
        name: of the table of the given ids.

    Raises:
        DataError: no id is of such a kind.
    """
    here, there = {_kind(one) for one in given.drop_duplicates()}, set()
    for one in known:
        if (kind := _kind(one)) in here:
            return
        there.add(kind)
    if here and there and not given.isin(list(known)).any():  # equal, though of two types
        raise DataError(
            f"table {name!r}, column {given.name!r}: the ids are of kind {', '.join(sorted(here))}, those known so far "
            f"of kind {', '.join(sorted(there))}, so none would be found: convert them"
        )


def refuse_single(values: object, what: str, name: str) -> None:
    """Refuses one text where several values are meant: its characters would be taken for them.

    Args:
        what: that is meant, for instance "user ids".
        name: of the argument.

    Raises:
        DataError: it is a str or bytes.
    """
    if isinstance(values, str | bytes):
        raise DataError(f"{name} must be a list of {what}, got the single text {values!r}: pass [{values!r}]")


def _kind(value: object) -> str:
    """Ids of two kinds are never equal."""
    if isinstance(value, numbers.Number | np.bool_):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__


def _times(column: pd.Series, name: str) -> pd.Series:
    """Texts as numbers or times: as texts, "10" stands before "9". Blank texts are missing."""
    zoned = isinstance(column.dtype, pd.DatetimeTZDtype)
    numbers_or_times = zoned or (isinstance(column.dtype, np.dtype) and column.dtype.kind in "iufM")
    if numbers_or_times or not column.map(lambda value: isinstance(value, str)).all():
        return column
    for parse in (pd.to_numeric, _iso_times):
        with suppress(ValueError):
            return parse(column)
    raise DataError(
        f"table {name!r}, column {TIMESTAMP!r}: the texts (first: {column.iloc[0]!r}) are neither numbers nor times in "
        "ISO 8601, so their order is not known. Convert them, for instance with pandas.to_datetime(..., format=...)"
    )


def _iso_times(column: pd.Series) -> pd.Series:
    try:
        return pd.to_datetime(column, format="ISO8601")
    except ValueError:  # with several offsets from UTC
        return pd.to_datetime(column, format="ISO8601", utc=True)


def _with_canonical_names(frame: pd.DataFrame, name: str, aliases: Mapping[str, str] | None = None) -> pd.DataFrame:
    frame = as_frame(frame, name)
    if frame.columns.nlevels > 1:
        raise DataError(f"table {name!r} has {frame.columns.nlevels} levels of column names; flatten them to one")
    if not frame.columns.is_unique:
        repeated = sorted({str(column) for column in frame.columns[frame.columns.duplicated()]})
        raise DataError(f"table {name!r} has more than one column called {', '.join(map(repr, repeated))}")
    renames = {alias: column for alias, column in (aliases or {}).items() if alias in frame and column not in frame}
    return frame.rename(columns=renames).copy()


def require_columns(frame: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Raises DataError for a column that the table `name` lacks."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise DataError(
            f"table {name!r} lacks the column {', '.join(map(repr, missing))}; it has {list(map(str, frame.columns))}."
            f"{meant(missing, map(str, frame.columns))} Rename your columns to these names"
        )


def _require_table(frame: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Raises DataError for a missing column, or without a single row."""
    require_columns(frame, columns, name)
    if frame.empty:
        raise DataError(f"table {name!r} is empty: it has columns but no rows")


def _require_ids(frame: pd.DataFrame, column: str, name: str) -> None:
    """Ids that are there and hashable; categories become what they are categories of."""
    ids = frame[column]
    if isinstance(ids.dtype, pd.CategoricalDtype):  # pandas 2 groups by categories that do not occur
        frame[column] = ids = _decategorised(ids)
    if ids.dtype == object and not _are_hashable(ids):
        unhashable = ids.map(lambda value: not _is_hashable(value)).to_numpy(dtype=bool)
        refuse_rows(frame, column, unhashable, "is not hashable, so it cannot be an id", name)
    refuse_rows(frame, column, ids.isna().to_numpy(), "is missing", name)


def _decategorised(values: pd.Series) -> pd.Series:
    """What the categories are categories of."""
    return values.astype(object if values.isna().any() else values.cat.categories.dtype)


def numeric(frame: pd.DataFrame, column: str, name: str) -> pd.Series:
    """The column as finite numbers; raises DataError for other values."""
    numbers = pd.to_numeric(frame[column], errors="coerce").astype(np.float64)
    refuse_rows(frame, column, ~np.isfinite(numbers.to_numpy()), "is not a finite number", name)
    return numbers


def refuse_rows(frame: pd.DataFrame, column: str, bad: NDArray[np.bool_], problem: str, name: str) -> None:
    """Raises DataError with the first of the `bad` rows, where there are some."""
    if not bad.any():
        return
    positions = np.flatnonzero(bad)
    first = positions[:_SHOWN_ROWS]
    values = frame[column].iloc[first].tolist()  # Python's own numbers: nan and not np.float64(nan)
    shown = ", ".join(f"row {position}: {value!r}" for position, value in zip(first, values, strict=True))
    more = "" if len(positions) <= _SHOWN_ROWS else f" and {len(positions) - _SHOWN_ROWS} more"
    raise DataError(f"table {name!r}, column {column!r}: the value {problem} ({shown}{more})")


def _are_hashable(ids: pd.Series) -> bool:
    try:
        set(ids.tolist())
    except TypeError:
        return False
    return True


def _is_hashable(value: object) -> bool:
    if not isinstance(value, Hashable):
        return False
    try:
        hash(value)
    except TypeError:  # a tuple with a list inside
        return False
    return True
