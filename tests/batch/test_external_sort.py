"""Sorting outside memory is a stable sort by user, however small the pieces and uneven the users; cutting by hand."""

import tempfile
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.batch.external_sort import sorted_by_user
from reranker.batch.inputs import InputTable, RowReader
from reranker.batch.partition import cut
from tests.batch.helpers import write

COLUMNS = {"user_id": "user_id", "item_id": "item_id"}


def table_of(folder, *files, row_group_size=None):
    for number, users in enumerate(files):
        frame = pd.DataFrame({"user_id": pd.Series(users), "item_id": range(len(users))})
        write(frame, folder / f"{number}.parquet", row_group_size)
    return InputTable.open([folder / f"{number}.parquet" for number in range(len(files))], COLUMNS)


def rows(table):
    return RowReader(table).read(0, table.total_rows).to_pydict()


users = st.one_of(
    st.lists(st.sampled_from(["a", "b", "ä", "z", "😀", "", None]), min_size=1, max_size=60),
    st.lists(st.one_of(st.none(), st.integers(-3, 3), st.integers(2**60, 2**60 + 3)), min_size=1, max_size=60),
    st.lists(st.sampled_from([0.5, -1.0, float("nan")]), min_size=1, max_size=30),
)


@settings(max_examples=60, deadline=None)
@given(users=users, piece_rows=st.integers(1, 40))
def test_it_is_a_stable_sort_with_missing_users_last(users, piece_rows):
    dtype = "str" if any(isinstance(user, str) for user in users) else None
    if dtype is None and all(user is None or isinstance(user, int) for user in users):
        dtype = "Int64"
    series = pd.Series(users, dtype=dtype)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = table_of(folder, series)
        found = rows(sorted_by_user(table, folder / "copy" / "sorted.parquet", piece_rows))
        assert [path.name for path in (folder / "copy").iterdir()] == ["sorted.parquet"]
    missing = [user is None or user != user for user in users]
    expected = sorted(range(len(users)), key=lambda row: (missing[row], 0 if missing[row] else users[row]))
    assert found["item_id"] == expected
    assert found["_row"] == expected


def test_many_pieces_of_many_users(tmp_path):
    users = [f"u{(row * 7919) % 1009:04d}" for row in range(20_000)]
    found = rows(sorted_by_user(table_of(tmp_path, users), tmp_path / "sorted.parquet", piece_rows=150))
    assert found["item_id"] == sorted(range(20_000), key=lambda row: users[row])


def test_parts_begin_where_users_begin(tmp_path):
    table = table_of(tmp_path, [1, 1, 2], [2, 3, 3], [4], row_group_size=2)
    found = cut(table, 2)
    assert (found.starts, found.rows, found.users) == (
        (
            0,
            4,
        ),
        7,
        4,
    )
    assert [found.bounds(part) for part in range(2)] == [(0, 4), (4, 7)]
    assert cut(table, 1).starts == (0, 2, 4, 6)
    assert cut(table, 100).starts == (0,)


def test_rows_without_a_user_go_with_those_before_them(tmp_path):
    table = table_of(tmp_path, pd.Series([None, "a", None, "b", None, "b"], dtype="str"))
    assert cut(table, 1).starts == (0, 3)
    assert cut(table, 1).users == 2


@pytest.mark.parametrize("users", [[2, 1], [1, 2, 1], [1, 1, 3, 2]])
def test_rows_out_of_order_are_seen(tmp_path, users):
    assert cut(table_of(tmp_path, users), 1) is None
    assert cut(table_of(tmp_path, users[:1], users[1:]), 1) is None


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    bounds=st.lists(st.integers(0, 40), min_size=2, max_size=8),
    row_group_size=st.integers(1, 5),
)
def test_any_range_of_rows_can_be_read_in_any_order(lengths, bounds, row_group_size):
    total = sum(lengths)
    with tempfile.TemporaryDirectory() as name:
        files = [[f"{file}-{row}" for row in range(length)] for file, length in enumerate(lengths)]
        typed = [pd.Series(users, dtype="str") for users in files]
        reader = RowReader(table_of(Path(name), *typed, row_group_size=row_group_size))
        flat = [user for users in files for user in users]
        for start, stop in pairwise(bounds):
            start, stop = sorted((min(start, total), min(stop, total)))
            assert reader.read(start, stop)["user_id"].to_pylist() == flat[start:stop]
