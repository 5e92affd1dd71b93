"""Parquet as other tools leave it: parts without rows, folders that say a column, an index, times of Spark."""

import datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reranker.batch.inputs import Columns, InputTable, column_names
from reranker.batch.known_ids import KnownIds
from reranker.batch.prepare import prepare
from reranker.data.table_io import read_table
from reranker.errors import DataError

COLUMNS = ["user_id", "item_id", "score"]
ROWS = [("u1", "a", 0.5), ("u1", "b", 0.25), ("u2", "a", 1.0)]


def both(path, out):
    """The rows by both ways of reading."""
    prepared = prepare(path, None, Columns(), 10, out, KnownIds(users=[], items=[]))
    batches = [batch.to_pandas()[COLUMNS] for batch in prepared.candidates.batches()]
    whole = read_table(path)[COLUMNS]
    return [list(table.itertuples(index=False, name=None)) for table in (whole, pd.concat(batches))]


def frame():
    return pd.DataFrame(ROWS, columns=COLUMNS)


def empty_part(folder):
    frame()[:0].astype(object).to_parquet(folder / "0.parquet", index=False)
    frame().to_parquet(folder / "1.parquet", index=False)


def hive(folder):
    for user, rows in frame().groupby("user_id"):
        (folder / f"user_id={user}").mkdir()
        rows.drop(columns="user_id").to_parquet(folder / f"user_id={user}" / "p.parquet", index=False)


def index(folder):
    frame().set_index("user_id").to_parquet(folder / "p.parquet")


def two_levels_and_widths(folder):
    frame()[:2].set_index(["user_id", "item_id"]).to_parquet(folder / "1.parquet")
    frame()[2:].astype({"score": "float32"}).to_parquet(folder / "2.PARQUET", index=False)


def unnamed_index(folder):
    frame().sample(frac=1, random_state=0).sort_values("score").sort_index().to_parquet(folder / "p.parquet")


@pytest.mark.parametrize("write", [empty_part, hive, index, two_levels_and_widths, unnamed_index])
def test_both_ways_read_what_other_tools_leave(tmp_path, write):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in")
    whole, offline = both(tmp_path / "in", tmp_path / "out")
    assert whole == offline == ROWS


def test_a_folder_gives_numbers_where_all_its_values_are(tmp_path):
    for day in ("7", "12"):
        (tmp_path / f"day={day}").mkdir()
        frame().to_parquet(tmp_path / f"day={day}" / "p.parquet", index=False)
    assert read_table(tmp_path)["day"].tolist() == [12] * 3 + [7] * 3


def test_old_and_far_times_are_what_they_are(tmp_path):
    times = [datetime.datetime(9999, 12, 31, 12), datetime.datetime(1000, 1, 1)]
    table = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": pa.array(times, pa.timestamp("us"))})
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    assert read_table(path)["timestamp"].dt.year.tolist() == [9999, 1000]
    opened = InputTable.open([path], {name: name for name in column_names(path)})
    assert [time.year for time in next(opened.batches()).column("timestamp").to_pylist()] == [9999, 1000]


def test_parts_of_types_that_do_not_go_together_are_refused(tmp_path):
    frame().to_parquet(tmp_path / "1.parquet", index=False)
    frame().assign(user_id=[1, 2, 3]).to_parquet(tmp_path / "2.parquet", index=False)
    with pytest.raises(DataError, match=r"types that do not go together.*Store one type"):
        read_table(tmp_path)


def without_utf8(path):
    """Three rows by a writer that does not look at its texts: 0xe9 is Latin-1."""
    rows = pa.table(frame()[["user_id", "score"]])
    ids = pa.array([b"a", b"caf\xe9", b"b"], pa.binary()).view(pa.string())
    pq.write_table(rows.append_column("item_id", ids), path)


def test_a_text_that_is_no_utf8_is_an_error_with_its_row_in_both_ways(tmp_path):
    without_utf8(tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: column 'item_id', row 2: a text that is no UTF-8"):
        read_table(tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: column 'item_id', row 2: a text that is no UTF-8"):
        both(tmp_path / "c.parquet", tmp_path / "out")


def test_columns_without_texts_are_taken_as_they_are(tmp_path):
    wide = frame().assign(seen=[True, False, None], kind=pd.Categorical(["x", "y", "x"]), parts=[["a"], [], None])
    wide.to_parquet(tmp_path / "c.parquet", index=False)
    assert list(read_table(tmp_path / "c.parquet")["kind"]) == ["x", "y", "x"]
