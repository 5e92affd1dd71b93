"""Table contracts: hand-made cases, and properties that hold for any table."""

import gzip
import logging
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.data.dataset import Dataset
from reranker.data.filler import is_filler
from reranker.data.schema import (
    CANDIDATE_COLUMNS,
    UNTITLED,
    refuse_single,
    require_ids_like,
    sort_by_time,
    validate_candidates,
    validate_interactions,
    validate_items,
)
from reranker.data.table_io import read_table, write_table
from reranker.errors import DataError

ids = st.integers(0, 5) | st.sampled_from(["0", "a", "é🙂"]) | st.tuples(st.just("shop"), st.integers(0, 2))


def objects(values: list[object]) -> pd.Series:
    column = pd.Series([None] * len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = value
    return column


def two_rows(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"user_id": [1, 2], "item_id": ["a", "b"], **columns})


class TestInteractions:
    def test_aliases_get_their_canonical_names(self) -> None:
        frame = validate_interactions(two_rows(datetime=[2, 1]))
        assert list(frame.columns) == ["user_id", "item_id", "timestamp"]
        assert frame["item_id"].tolist() == ["b", "a"]

    def test_an_alias_beside_the_canonical_name_is_an_ordinary_column(self) -> None:
        frame = validate_interactions(two_rows(timestamp=[1, 2], datetime=["x", "y"]))
        assert frame["datetime"].tolist() == ["x", "y"]
        assert frame["timestamp"].tolist() == [1, 2]

    @given(st.lists(st.tuples(ids, st.integers(0, 3)), min_size=1, max_size=30))
    def test_sort_is_stable_and_keeps_every_row_and_id(self, rows: list[tuple[object, int]]) -> None:
        users = [user for user, _ in rows]
        times = [time for _, time in rows]
        table = pd.DataFrame({"user_id": objects(users), "item_id": range(len(rows)), "timestamp": times})
        frame = validate_interactions(table)
        expected = sorted(range(len(rows)), key=lambda row: times[row])
        assert frame["item_id"].tolist() == expected
        assert [(type(user), user) for user in frame["user_id"]] == [(type(users[row]), users[row]) for row in expected]
        assert frame.index.tolist() == list(range(len(rows)))

    def test_the_callers_table_is_left_alone(self) -> None:
        table = two_rows(datetime=[2, 1], rating=["5", "3"])
        before = table.copy()
        validate_interactions(table)
        pd.testing.assert_frame_equal(table, before)

    def test_repeated_choices_are_kept(self) -> None:
        assert len(validate_interactions(pd.DataFrame({"user_id": [1, 1], "item_id": ["a", "a"]}))) == 2

    def test_without_timestamps_rows_keep_their_order(self) -> None:
        table = two_rows()
        assert sort_by_time(table) is table
        assert validate_interactions(table)["user_id"].tolist() == [1, 2]

    def test_weights_may_be_any_kind_of_number(self) -> None:
        assert validate_interactions(two_rows(weight=[Decimal("1.5"), 2]))["weight"].tolist() == [1.5, 2.0]

    @pytest.mark.parametrize("bad", [math.nan, math.inf, None, "many", (1,)])
    def test_a_weight_that_is_no_finite_number_is_refused(self, bad: object) -> None:
        with pytest.raises(DataError, match=r"'interactions', column 'weight': .*not a finite number \(row 1"):
            validate_interactions(two_rows(weight=objects([1.0, bad])))

    def test_a_missing_time_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"column 'timestamp': the value is missing \(row 1"):
            validate_interactions(two_rows(timestamp=[1.0, None]))

    def test_times_that_cannot_be_compared_are_refused(self) -> None:
        with pytest.raises(DataError, match="column 'timestamp': the values cannot be put in order"):
            validate_interactions(two_rows(timestamp=objects([1, "2"])))

    @pytest.mark.parametrize("column", ["user_id", "item_id"])
    @pytest.mark.parametrize("bad", [None, math.nan, pd.NA, pd.NaT])
    def test_a_missing_id_is_refused(self, column: str, bad: object) -> None:
        table = two_rows()
        table[column] = objects(["a", bad])
        with pytest.raises(DataError, match=rf"column '{column}': the value is missing \(row 1"):
            validate_interactions(table)

    @pytest.mark.parametrize("bad", [[1], {"a": 1}, ("a", [1]), np.zeros(2)])
    def test_an_unhashable_id_is_refused(self, bad: object) -> None:
        table = two_rows()
        table["item_id"] = objects(["a", bad])
        with pytest.raises(DataError, match="not hashable"):
            validate_interactions(table)

    def test_missing_columns_and_rows(self) -> None:
        with pytest.raises(DataError, match=r"'clicks' lacks the column 'item_id'; it has \['user_id', 'movie'\]"):
            validate_interactions(pd.DataFrame({"user_id": [1], "movie": [2]}), name="clicks")
        with pytest.raises(DataError, match="'interactions' is empty"):
            validate_interactions(two_rows().iloc[:0])

    def test_what_is_no_flat_table_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"must be a pandas, polars or pyarrow table, or the path .*, got list"):
            validate_interactions([{"user_id": 1}])
        with pytest.raises(DataError, match="more than one column called 'user_id'"):
            validate_interactions(pd.DataFrame([[1, 2, 3]], columns=["user_id", "user_id", "item_id"]))
        with pytest.raises(DataError, match="2 levels"):
            levels = pd.MultiIndex.from_tuples([("user_id", "x"), ("item_id", "x")])
            validate_interactions(pd.DataFrame([[1, 2]], columns=levels))

    def test_the_message_shows_five_rows_and_counts_the_rest(self) -> None:
        table = pd.DataFrame({"user_id": [1] * 8, "item_id": objects([None] * 8)})
        with pytest.raises(DataError, match=r"row 0: None, row 1.*row 4: None and 3 more\)"):
            validate_interactions(table)


class TestItems:
    def test_titles_are_stripped_text_and_the_untitled_are_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        titles = objects(["  Alien ", None, " ", 1917, math.nan])
        with caplog.at_level(logging.WARNING):
            frame = validate_items(pd.DataFrame({"item_id": range(5), "title": titles}))
        assert frame["title"].tolist() == ["Alien", UNTITLED, UNTITLED, "1917", UNTITLED]
        assert "3 of 5 items have no title" in caplog.text

    def test_long_and_foreign_titles_and_further_columns_stay(self) -> None:
        titles = ["x" * 100_000, "🙂", "\u202eمرحبا"]
        frame = validate_items(pd.DataFrame({"item_id": [1, 2, 3], "title": titles, "year": [1, 2, 3]}))
        assert frame["title"].tolist() == titles
        assert frame["year"].tolist() == [1, 2, 3]

    def test_an_item_twice_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"column 'item_id': the value appears more than once.*row 2: 'a'"):
            validate_items(pd.DataFrame({"item_id": ["a", "b", "a"], "title": ["A", "B", "C"]}))

    def test_items_named_1_and_text_1_are_two_items(self) -> None:
        assert len(validate_items(pd.DataFrame({"item_id": objects([1, "1"]), "title": ["A", "B"]}))) == 2


class TestCandidates:
    def test_rank_decides_over_score(self) -> None:
        frame = validate_candidates(
            pd.DataFrame(
                {"user_id": list("vuvu"), "item_id": [1, 2, 3, 4], "score": [9, 9, 1, 1], "rank": [7, 2, 3, 1]}
            )
        )
        assert list(frame.columns) == CANDIDATE_COLUMNS
        assert frame.values.tolist() == [["v", 3, 1.0, 1], ["v", 1, 9.0, 2], ["u", 4, 1.0, 1], ["u", 2, 9.0, 2]]

    def test_without_a_rank_the_score_decides_and_ties_keep_their_order(self) -> None:
        frame = validate_candidates(pd.DataFrame({"user_id": 1, "item_id": list("abcd"), "score": [1, 2, 1, 3]}))
        assert frame["item_id"].tolist() == ["d", "b", "a", "c"]
        assert frame["rank"].tolist() == [1, 2, 3, 4]

    def test_without_a_score_it_is_the_reciprocal_rank(self) -> None:
        frame = validate_candidates(pd.DataFrame({"user_id": [1, 1], "item_id": ["a", "b"], "rank": [20, 10]}))
        assert frame["item_id"].tolist() == ["b", "a"]
        assert frame["score"].tolist() == [1.0, 0.5]

    @given(
        st.dictionaries(
            st.tuples(ids, ids),
            st.floats(allow_nan=False, allow_infinity=False).filter(lambda score: not is_filler(np.array(score))),
            min_size=1,
            max_size=30,
        )
    )
    def test_every_pair_is_kept_and_validation_is_idempotent(self, scores: dict[tuple[object, object], float]) -> None:
        users, items = [user for user, _ in scores], [item for _, item in scores]
        # A repeated index must not matter: identity is by position.
        table = pd.DataFrame({"user_id": objects(users), "item_id": objects(items), "score": list(scores.values())})
        table.index = pd.Index([0] * len(table))
        frame = validate_candidates(table)
        kept = dict(zip(zip(frame["user_id"], frame["item_id"], strict=True), frame["score"], strict=True))
        assert kept == scores
        assert list(dict.fromkeys(frame["user_id"])) == list(dict.fromkeys(users))
        for _, one in frame.groupby(frame["user_id"].map(repr), sort=False):
            assert one["rank"].tolist() == list(range(1, len(one) + 1))
            assert one["score"].is_monotonic_decreasing
        pd.testing.assert_frame_equal(validate_candidates(frame), frame)

    def test_neither_score_nor_rank_is_refused(self) -> None:
        with pytest.raises(DataError, match="needs a 'score' or a 'rank' column"):
            validate_candidates(two_rows())

    def test_a_pair_proposed_twice_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"proposed twice .*row 1: 'a'"):
            validate_candidates(pd.DataFrame({"user_id": [1, 1], "item_id": ["a", "a"], "score": [1, 2]}))

    def test_a_rank_given_twice_is_refused(self) -> None:
        with pytest.raises(DataError, match="column 'rank': the value appears twice in one user's list"):
            validate_candidates(pd.DataFrame({"user_id": [1, 1], "item_id": ["a", "b"], "rank": [1, 1]}))

    @pytest.mark.parametrize("column", ["score", "rank"])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_numbers_that_are_not_finite_are_refused(self, column: str, bad: float) -> None:
        with pytest.raises(DataError, match=rf"column '{column}': .*not a finite number \(row 1"):
            validate_candidates(two_rows(**{column: [1.0, bad]}))

    def test_categories_are_ids_like_others(self) -> None:
        users = pd.Categorical(["b", "a", "b"])
        frame = validate_candidates(pd.DataFrame({"user_id": users, "item_id": [1, 2, 3], "score": [1, 2, 3]}))
        assert frame["user_id"].tolist() == ["b", "b", "a"]


def with_times(*times: object) -> pd.DataFrame:
    return pd.DataFrame({"user_id": 1, "item_id": list("abc"), "timestamp": times})


@pytest.mark.parametrize(
    "times",
    [
        ("999", "1000", "98"),
        ("2024-02-01", "2024-10-01", "2023-12-31"),
        ("2024-02-01T10:00:00+01:00", "2024-02-01T10:00:00Z", "2024-02-01T10:00:00+02:00"),
        (999, 1000, 98),
    ],
)
def test_times_that_are_texts_are_put_in_the_order_of_what_they_mean(times: tuple[object, ...]) -> None:
    assert validate_interactions(with_times(*times))["item_id"].tolist() == ["c", "a", "b"]


def test_times_in_no_known_order_are_refused() -> None:
    with pytest.raises(DataError, match=r"first: '10/01/2023'\) are neither numbers nor times in ISO 8601"):
        validate_interactions(with_times("10/01/2023", "9/01/2023", "02/01/2024"))


def test_other_names_of_columns_of_interactions_are_left_alone_in_items() -> None:
    items = validate_items(pd.DataFrame({"item_id": [1], "title": ["A"], "rating": [4.5], "datetime": ["2020"]}))
    assert list(items) == ["item_id", "title", "rating", "datetime"]


def test_dataset_validates_both_tables() -> None:
    items = pd.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"]})
    assert Dataset(interactions=two_rows(datetime=[1, 2]), items=items).has_order
    assert not Dataset(interactions=two_rows(), items=items).has_order
    with pytest.raises(DataError, match="'items' lacks the column 'title'"):
        Dataset(interactions=two_rows(), items=items[["item_id"]])


class TestFiles:
    def test_ids_in_a_csv_become_numbers_only_where_nothing_is_lost(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("user_id,item_id,score\n007,12,1\n7,-3,2\n")
        table = read_table(tmp_path / "t.csv")
        assert table["user_id"].tolist() == ["007", "7"] and table["item_id"].tolist() == [12, -3]
        (tmp_path / "u.csv").write_text("user_id,item_id\n99999999999999999999,1.0\n1,\n")
        table = read_table(tmp_path / "u.csv")
        assert table["user_id"].tolist() == ["99999999999999999999", "1"]
        assert table["item_id"].isna().tolist() == [False, True]

    @pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
    def test_round_trip(self, tmp_path: Path, name: str) -> None:
        table = two_rows(score=[0.1, 1e-300])
        table.attrs["note"] = object()
        write_table(table, tmp_path / "new" / name)
        pd.testing.assert_frame_equal(read_table(tmp_path / "new" / name), table, check_exact=True)
        assert [path.name for path in (tmp_path / "new").iterdir()] == [name]

    def test_a_tsv_a_gz_and_a_directory_are_read(self, tmp_path: Path) -> None:
        table = two_rows()
        (tmp_path / "t.tsv").write_text("user_id\titem_id\n1\ta\n2\tb\n")
        (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"user_id,item_id\n1,a\n2,b\n"))
        write_table(table.iloc[:1], tmp_path / "parts" / "0.parquet")
        write_table(table.iloc[1:], tmp_path / "parts" / "1.parquet")
        for name in ("t.tsv", "t.csv.gz", "parts"):
            pd.testing.assert_frame_equal(read_table(tmp_path / name), table)

    @pytest.mark.parametrize("users", [[1, "1"], [("a", "b"), ("c", "d")], [2**70, 1], [1, True]])
    def test_ids_that_parquet_would_change_are_refused_and_the_old_file_stays(
        self, tmp_path: Path, users: list[object]
    ) -> None:
        path = tmp_path / "t.parquet"
        write_table(two_rows(), path)
        with pytest.raises(DataError, match=r"onvert .* to str"):
            write_table(pd.DataFrame({"user_id": objects(users), "item_id": [1, 2]}), path)
        pd.testing.assert_frame_equal(read_table(path), two_rows())
        assert list(tmp_path.iterdir()) == [path]

    def test_files_get_the_ordinary_permissions(self, tmp_path: Path) -> None:
        (tmp_path / "ordinary").touch()
        write_table(two_rows(), tmp_path / "t.csv")
        assert (tmp_path / "t.csv").stat().st_mode == (tmp_path / "ordinary").stat().st_mode

    @pytest.mark.parametrize("name", ["t.parquet", "t.csv.gz", "t.csv", "t.xlsx", "t.json"])
    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", gzip.compress(b"user_id\n" * 999, mtime=0)[:20]])
    def test_files_that_are_no_table_are_refused(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot read"):
            read_table(tmp_path / name)

    def test_missing_files_and_unknown_types(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="does not exist"):
            read_table(tmp_path / "no.csv")
        with pytest.raises(DataError, match=r"written as \.parquet or \.csv"):
            write_table(two_rows(), tmp_path / "t.xlsx")


def test_ids_that_are_equal_are_alike_whatever_holds_them():
    known = pd.Series([1, 2, 3], name="item_id")
    for alike in (pd.Series([1, 9], dtype="Int64"), pd.Series([1.0, 9.0]), pd.Series([np.int64(8)], dtype=object)):
        require_ids_like(known, alike.rename("item_id"), "candidates")
    require_ids_like(known.astype(str), pd.Series(["9"], name="item_id"), "candidates")
    with pytest.raises(DataError, match=r"'candidates', column 'item_id': the ids are of kind text, .* of kind number"):
        require_ids_like(known, pd.Series(["1"], name="item_id"), "candidates")


def test_ids_of_a_kind_that_few_of_the_known_have_are_alike():
    known = {**dict.fromkeys(range(2000)), "a": None}
    require_ids_like(known, pd.Series(["b"], name="user_id"), "candidates")
    with pytest.raises(DataError, match="of kind bytes, those known so far of kind number, text"):
        require_ids_like(known, pd.Series([b"b"], name="user_id"), "candidates")


def test_texts_beside_numbers_become_texts():
    items = pd.DataFrame({"item_id": ["a", "b", "c", "d"], "title": list("abcd"), "year": [1990, "n.d.", None, 1.5]})
    assert validate_items(items)["year"].tolist()[:2] == ["1990", "n.d."]
    assert validate_items(items)["year"].isna().tolist() == [False, False, True, False]
    assert validate_items(items.assign(year=[1, 2, 3, 4]))["year"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("times", [["3", "", "1"], ["2020-01-01", "NaT", "2019-01-01"]])
def test_texts_that_are_no_times_are_missing(times):
    table = pd.DataFrame({"user_id": "u", "item_id": ["a", "b", "c"], "timestamp": times})
    with pytest.raises(DataError, match=r"'timestamp': the value is missing \(row 1"):
        validate_interactions(table)


def test_categorical_ids_become_plain_ones():
    table = pd.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"], "score": [1.0, 2.0]})
    categories = table.astype({"user_id": "category", "item_id": "category"})[:1]  # "v" and "b" are left as categories
    validated = validate_candidates(categories)
    assert not any(isinstance(dtype, pd.CategoricalDtype) for dtype in validated.dtypes)
    assert validated.groupby("user_id").size().index.tolist() == ["u"]


def test_a_missing_id_among_categories_is_refused():
    table = pd.DataFrame({"user_id": pd.Categorical([1, None]), "item_id": ["a", "b"]})
    with pytest.raises(DataError, match=r"'user_id': the value is missing \(row 1"):
        validate_interactions(table)


def test_categorical_times_are_sorted_by_what_they_say():
    times = pd.Categorical([2, 1], categories=[2, 1])
    table = pd.DataFrame({"user_id": "u", "item_id": ["later", "sooner"], "timestamp": times})
    assert validate_interactions(table)["item_id"].tolist() == ["sooner", "later"]


def test_titles_that_are_numbers_beside_a_missing_one():
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": [1984, 300, None]})
    assert validate_items(items)["title"].tolist() == ["1984", "300", "(untitled)"]


def test_one_text_is_not_a_list_of_ids():
    refuse_single(["196"], "user ids", "users")
    for single in ("196", b"196"):
        with pytest.raises(DataError, match="users must be a list of user ids, got the single text"):
            refuse_single(single, "user ids", "users")
