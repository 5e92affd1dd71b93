"""Frames of other libraries, paths and indexes are tables; errors say which column is meant."""

import pandas as pd
import pyarrow as pa
import pytest

from reranker.data.column_names import likely
from reranker.data.dataset import Dataset
from reranker.data.frames import as_dataset, as_frame
from reranker.data.schema import validate_candidates, validate_interactions, validate_items
from reranker.errors import DataError

pl = pytest.importorskip("polars")

ROWS = {"user_id": ["u1", "u2", "u1"], "item_id": [7, 8, 8], "score": [0.5, 1.0, 0.25]}


def as_file(frame, tmp_path, name):
    frame.to_parquet(tmp_path / name) if name.endswith("parquet") else frame.to_csv(tmp_path / name, index=False)
    return tmp_path / name


FORMS = {
    "pandas": lambda frame, _: frame,
    "polars": lambda frame, _: pl.DataFrame(frame.to_dict("list")),
    "lazy": lambda frame, _: pl.LazyFrame(frame.to_dict("list")),
    "arrow": lambda frame, _: pa.table(frame.to_dict("list")),
    "index": lambda frame, _: frame.set_index("user_id"),
    "two levels": lambda frame, _: frame.set_index(["user_id", "item_id"]),
    "odd index": lambda frame, _: frame.set_index(pd.Index([5, 5, 6], name="my_row")),
    "csv": lambda frame, folder: as_file(frame, folder, "t.csv"),
    "text path": lambda frame, folder: str(as_file(frame, folder, "t.csv")),
    "parquet": lambda frame, folder: as_file(frame, folder, "t.parquet"),
    "parquet index": lambda frame, folder: as_file(frame.set_index("user_id"), folder, "t.parquet"),
}


@pytest.mark.parametrize("form", FORMS)
def test_candidates_come_in_every_form(tmp_path, form):
    read = validate_candidates(FORMS[form](pd.DataFrame(ROWS), tmp_path))
    expected = [("u1", 7, 0.5, 1), ("u1", 8, 0.25, 2), ("u2", 8, 1.0, 1)]
    assert list(read.itertuples(index=False, name=None)) == expected


@pytest.mark.parametrize("items", ["pandas", "polars", "csv", "parquet"])
@pytest.mark.parametrize("interactions", ["polars", "arrow", "csv"])
def test_a_data_set_of_any_two_forms(tmp_path, interactions, items):
    chosen = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["7", "8"], "timestamp": [2, 1]})
    listed = pd.DataFrame({"item_id": ["7", "8", "X1"], "title": ["A", "B", "C"]})
    for name in ("chosen", "listed"):
        (tmp_path / name).mkdir()
    data = Dataset(
        interactions=FORMS[interactions](chosen, tmp_path / "chosen"), items=FORMS[items](listed, tmp_path / "listed")
    )
    assert data.interactions["item_id"].tolist() == ["8", "7"]  # texts, as the item table has them
    assert data.items["item_id"].tolist() == ["7", "8", "X1"]


def test_a_title_in_the_index_of_items_is_a_column_and_a_row_number_is_not():
    items = pd.DataFrame({"item_id": [1, 2], "title": ["A", "B"]}).set_index("item_id")
    assert validate_items(items)["item_id"].tolist() == [1, 2]
    assert "row" not in validate_items(items.reset_index().rename_axis("row"))


@pytest.mark.parametrize("table", [[1, 2], {"user_id": [1]}, None, 7])
def test_what_is_no_table_is_refused_with_what_is_taken(table):
    with pytest.raises(DataError, match=r"'t' must be a pandas, polars or pyarrow table, or the path .*jsonl.*got \w+"):
        as_frame(table, "t")


@pytest.mark.parametrize(
    ("column", "present", "found"),
    [
        ("user_id", ["userId", "movieId"], "userId"),
        ("item_id", ["userId", "movieId"], "movieId"),
        ("timestamp", ["user_id", "ts"], "ts"),
        ("timestamp", ["user_id", "Time Stamp"], "Time Stamp"),
        ("title", ["item_id", "product_name"], "product_name"),
        ("user_id", ["user_idd"], "user_idd"),
        ("score", ["user_id", "title"], None),
    ],
)
def test_the_column_that_is_meant(column, present, found):
    assert likely(column, present) == found


def test_errors_name_your_columns(caplog):
    table = pd.DataFrame({"userId": [1], "movieId": [7], "rating": [5.0], "ts": [1]})
    with pytest.raises(DataError, match=r"'userId' may be user_id\. 'movieId' may be item_id\. Rename your columns"):
        validate_interactions(table)
    named = table.rename(columns={"userId": "user_id", "movieId": "item_id"})
    validate_interactions(named)
    Dataset(interactions=named, items=pd.DataFrame({"item_id": [7], "title": ["x"]}))
    said = "has no column 'timestamp', so the order of its rows in time is not known; 'ts' may be it"
    assert caplog.text.count(said) == 1  # a table is validated many times on its way
    with pytest.raises(DataError, match="column 'rating': the value is not a finite number"):
        validate_interactions(named.assign(rating="five"))
    caplog.clear()
    validate_interactions(named.rename(columns={"ts": "timestamp"}))
    assert not caplog.records


def test_movielens_as_it_is_unpacked(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n2::661::3::978302109\n")
    (tmp_path / "movies.dat").write_bytes("661::Les Mis\xe9rables (1995)::Drama\n1193::B::Comedy\n".encode("latin-1"))
    data = Dataset(interactions=tmp_path / "ratings.dat", items=tmp_path / "movies.dat")
    assert data.interactions[["user_id", "item_id", "rating"]].to_numpy().tolist() == [[1, 1193, 5], [2, 661, 3]]
    assert data.items["title"].tolist() == ["Les Misérables (1995)", "B"] and data.has_order


def test_columns_that_nothing_reads_are_named():
    chosen = pd.DataFrame(
        {"user_id": ["u"], "item_id": ["7"], "datetime": [1], "rating": [5], "event": ["view"], "shop": ["x"]}
    )
    data = Dataset(interactions=chosen, items=pd.DataFrame({"item_id": ["7"], "title": ["A"]}))
    assert data.unused_columns == ["shop"]


def test_two_tables_of_which_one_is_a_file_are_of_one_kind(tmp_path):
    (tmp_path / "i.csv").write_text("item_id,title\n7,A\n")
    _, items = as_dataset(pd.DataFrame({"user_id": ["u"], "item_id": ["7"]}), tmp_path / "i.csv")
    assert items["item_id"].tolist() == ["7"]
