"""Tables of item vectors: what is taken, what is refused, and how newer tables join."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reranker.data.table_io import write_table
from reranker.errors import DataError
from reranker.soft_tokens import VectorTable


def listed(**vectors: object) -> pd.DataFrame:
    return pd.DataFrame({"item_id": list(vectors), "vector": pd.Series(list(vectors.values()), dtype=object)})


def directions(n: int, d: int = 4, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_vectors_come_to_unit_length_and_items_without_one_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="reranker"):
        table = VectorTable.from_frame(listed(a=[3.0, 4.0], b=[0, 0], c=None, d=(0, -2)))
    assert list(table.item_ids) == ["a", "d"]
    np.testing.assert_allclose(table.vectors, [[0.6, 0.8], [0, -1]])
    assert "2 of 4 items have no vector" in caplog.text
    assert table.rows(["d", "b", "nobody", "a"]).tolist() == [1, -1, -1, 0]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_numeric_columns_are_coordinates(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"x": [1, 0, np.nan], "item_id": [7, 8, 9], "y": [0.0, 2.0, np.nan]})
    write_table(frame, tmp_path / f"t.{suffix}")
    table = VectorTable.read(tmp_path / f"t.{suffix}")
    assert list(table.item_ids) == [7, 8]
    assert table.vectors.tolist() == [[1, 0], [0, 1]]
    assert table.name == f"t.{suffix}"


def test_a_parquet_column_of_lists(tmp_path: Path) -> None:
    write_table(listed(a=[3.0, 4.0], b=[1.0, 0.0]), tmp_path / "clip.parquet")
    np.testing.assert_allclose(VectorTable.read(tmp_path / "clip.parquet").vectors, [[0.6, 0.8], [1, 0]])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"vector": [[1.0]]}), "lacks the column 'item_id'"),
        (pd.DataFrame({"item_id": [], "vector": []}), "is empty"),
        (pd.DataFrame({"item_id": [1, 1], "x": [1.0, 2.0]}), "more than once"),
        (pd.DataFrame({"item_id": [1]}), "further columns are missing"),
        (pd.DataFrame({"item_id": [1], "x": [1.0], "title": ["t"]}), "'title' hold no numbers"),
        (listed(a=[1.0, 2.0], b=[1.0]), r"another length than 2; shown are the lengths \(row 1: 1\)"),
        (listed(a="[1, 2]"), r"lengths \(row 0: 0\)"),
        (listed(a=["x", "y"]), "each row must list numbers"),
        (listed(a=[1.0, float("inf")]), "not finite"),
        (pd.DataFrame({"item_id": [1, 2], "x": [1.0, 2.0], "y": [np.nan, 1.0]}), r"not finite \(row 0: 1\)"),
        (listed(a=[0.0], b=None), "none of its 2 items has a vector"),
    ],
)
def test_bad_tables_are_refused(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        VectorTable.from_frame(frame)


def test_a_longer_table_of_the_same_space_adds_its_items_as_they_are() -> None:
    vectors = directions(6)
    old = VectorTable.build(list("abcd"), vectors[:4], "clip.parquet")
    longer = old.extended(VectorTable.build(list("fdcbae"), vectors[[5, 3, 2, 1, 0, 4]], "newer.parquet"))
    assert list(longer.item_ids) == list("abcdfe")
    np.testing.assert_allclose(longer.vectors, vectors[[0, 1, 2, 3, 5, 4]], atol=1e-6)
    assert longer.name == "clip.parquet"


def test_another_fit_is_rotated_to_where_the_old_items_lie() -> None:
    vectors = directions(44)
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))[0].astype(np.float32)
    old = VectorTable.build(range(40), vectors[:40])
    longer = old.extended(VectorTable.build(range(44), vectors @ turn))
    np.testing.assert_allclose(longer.vectors, vectors, atol=1e-5)
    np.testing.assert_array_equal(longer.vectors[:40], old.vectors)


def test_a_table_of_another_space_is_refused() -> None:
    old = VectorTable.build(range(40), directions(40))
    with pytest.raises(DataError, match="no rotation brings them together"):
        old.extended(VectorTable.build(range(44), directions(44, seed=1)))
    lopsided = directions(40) + 3, directions(44, seed=1) + 3  # two spaces whose vectors all lean to one side
    with pytest.raises(DataError, match="no rotation brings them together"):
        VectorTable.build(range(40), lopsided[0]).extended(VectorTable.build(range(44), lopsided[1]))
    with pytest.raises(DataError, match="4 items are in both"):
        old.extended(VectorTable.build(range(36, 50), directions(14, seed=2)))
    with pytest.raises(DataError, match="0 items are in both"):
        old.extended(VectorTable.build(range(100, 110), directions(10)))
    with pytest.raises(DataError, match="have 3 numbers"):
        old.extended(VectorTable.build(range(40), directions(40, d=3)))


def test_ids_of_another_type_are_noticed() -> None:
    with pytest.raises(DataError, match=r"none of the 2 items of domain 'movies' is among its 3 ids \(such as 0\)"):
        VectorTable.build(range(3), directions(3)).require_items(["0", "1"], "movies")


def test_the_hash_follows_ids_and_vectors() -> None:
    vectors = directions(3)
    tables = [VectorTable.build(ids, v) for ids in ("abc", "abd") for v in (vectors, -vectors)]
    assert len({one.sha256 for one in tables}) == 4
    assert VectorTable.build("abc", 2 * vectors, "elsewhere").sha256 == tables[0].sha256


def test_ids_of_a_csv_are_of_the_catalogues_kind(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"item_id": [1, 2], "x": [1.0, 2.0]}), tmp_path / "v.csv")
    assert list(VectorTable.read(tmp_path / "v.csv", ["1", "2", "3"]).item_ids) == ["1", "2"]
    assert list(VectorTable.read(tmp_path / "v.csv", [1, 2]).item_ids) == [1, 2]
