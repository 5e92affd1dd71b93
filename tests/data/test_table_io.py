"""CSV says less than parquet: what is missing, what is a number, and which lines are rows at all."""

import gzip
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.data.table_io import are_texts, files_under, like_known, read_dataset, read_table, write_table
from reranker.errors import DataError

MISSING_WORDS = ["NA", "N/A", "None", "null", "NULL", "nan", "NaN", "<NA>", "#N/A"]
"""What readers of CSV like to take for nothing."""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["1,The Good, the Bad", "2,Heat"], r"line 2: .* 3 where the header has 2: '1,The Good, the Bad'"),
        (["1,Heat", "2,A, B", "3,C, D"], r"line 3: .*'2,A, B' \(and 1 more such lines\)"),
        (["1,Heat", "2"], r"line 3: .* 1 where the header has 2: '2'"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz"])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, name: str, lines: list[str], said: str) -> None:
    text = "\n".join(["item_id,title", *lines]) + "\n"
    if name == "t.tsv":
        text, said = text.replace(",", "\t"), said.replace(",", r"\\t")
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    with pytest.raises(DataError, match=rf"{name} as a table: {said}"):
        read_table(tmp_path / name)


def test_blank_lines_and_fields_over_several_lines_are_no_mistakes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes('\ufeffitem_id,title\r\n\r\n1,"a\r\nb, c"\r\n2,"5"" disk"\r\n'.encode())
    assert read_table(tmp_path / "t.csv").to_dict("list") == {"item_id": [1, 2], "title": ["a\r\nb, c", '5" disk']}


@pytest.mark.parametrize("word", MISSING_WORDS)
def test_only_an_empty_field_is_missing(tmp_path: Path, word: str) -> None:
    (tmp_path / "t.csv").write_text(f'user_id,item_id,title,year,genre\n{word},{word},{word},1,{word}\nu,i,"",,\n')
    table = read_table(tmp_path / "t.csv")
    for column in ("user_id", "item_id", "title", "genre"):
        assert table[column].iloc[0] == word
    assert table["title"].isna().tolist() == table["genre"].isna().tolist() == [False, True]
    assert table["year"].dtype == float and table["year"].isna().tolist() == [False, True]


def test_titles_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("item_id,title,category,description,year\n1,007,01,1.50,007\n2,1984,,2,8\n")
    table = read_table(tmp_path / "t.csv")
    assert table["title"].tolist() == ["007", "1984"] and table["description"].tolist() == ["1.50", "2"]
    assert table["category"].iloc[0] == "01" and table["year"].tolist() == [7, 8]


texts = st.text(st.sampled_from('0123456789aé,"\n\t #-.'), min_size=1, max_size=6) | st.sampled_from(MISSING_WORDS)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=8))
def test_texts_come_back_from_a_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    table = pd.DataFrame(rows, columns=["item_id", "title"])
    write_table(table, path)
    try:
        read = read_table(path, known={"item_id": table["item_id"]})
    except DataError as error:  # a line that looks like a row, or an id of two lines, is refused and not guessed at
        assert "would swallow lines that look like rows" in str(error) or "whose values have one line" in str(error)
        rows_within = any("," in line for row in rows for text in row for line in text.split("\n")[1:])
        assert rows_within or any({"\r", "\n"} & set(item) for item, _ in rows)
        return
    assert list(read.itertuples(index=False, name=None)) == rows


@settings(max_examples=50, deadline=None)
@given(known=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8))
@pytest.mark.parametrize("kind", [int, str])
def test_ids_come_back_from_a_csv_as_they_are_known(
    tmp_path_factory: pytest.TempPathFactory, kind: type, known: list[int]
) -> None:
    path, ids = tmp_path_factory.mktemp("csv") / "t.csv", list(map(kind, known))
    write_table(pd.DataFrame({"user_id": ids, "item_id": ids}), path)
    read = read_table(path, known={"user_id": ids})
    assert read["user_id"].tolist() == ids
    assert read["item_id"].tolist() == known  # nothing is known of these


def test_numbers_of_parquet_are_texts_only_where_they_are_known_as_such(tmp_path: Path) -> None:
    """`reranker recall` knows no item table, and wrote numbers where it has texts."""
    write_table(pd.DataFrame({"user_id": [1], "item_id": [7]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", known={"item_id": ["7", "X1"]})["item_id"].tolist() == ["7"]
    assert read_table(tmp_path / "t.parquet", known={"item_id": ["8"]})["item_id"].tolist() == [7]
    assert read_table(tmp_path / "t.parquet", known={"item_id": [7, "X1"]})["item_id"].tolist() == [7]


@pytest.mark.parametrize(
    ("known", "texts"),
    [(["a"], True), ([1], False), (["a", 1], False), ([], False), ([b"a"], False), ([("a",)], False)],
)
def test_ids_are_texts_where_a_text_is_known_and_no_number(known: list[object], texts: bool) -> None:
    assert are_texts(known) is texts  # type: ignore[arg-type]
    assert are_texts(pd.Series([*known, None], dtype=object)) is texts


@pytest.mark.parametrize("names", [("i.csv", "t.csv"), ("i.parquet", "t.csv"), ("i.csv", "t.parquet")])
@pytest.mark.parametrize("text", ["interactions", "items"])
def test_one_alphanumeric_id_makes_texts_of_both_tables(tmp_path: Path, names: tuple[str, str], text: str) -> None:
    interactions, items = (tmp_path / name for name in names)
    chosen = pd.DataFrame({"user_id": [1, 2], "item_id": ["7", "x8" if text == "interactions" else "8"]})
    listed = pd.DataFrame({"item_id": ["7", "x8" if text == "items" else "8"], "title": ["a", "b"]})
    write_table(chosen, interactions)
    write_table(listed, items)
    read, catalogue = read_dataset(interactions, items)
    assert read["item_id"].tolist() == chosen["item_id"].tolist() and read["user_id"].tolist() == [1, 2]
    assert catalogue["item_id"].tolist() == listed["item_id"].tolist()


class TestFolders:
    def test_csv_files_are_one_table(self, tmp_path: Path) -> None:
        (tmp_path / "b").mkdir()
        (tmp_path / "a.csv").write_text("user_id,item_id,score\n1,7,0.5\n")
        (tmp_path / "b" / "b.tsv").write_text("item_id\tscore\tuser_id\nx\t2\t3\n")
        (tmp_path / "_SUCCESS").touch()
        read = read_table(tmp_path)
        assert read.to_dict("list") == {"user_id": [1, 3], "item_id": ["7", "x"], "score": [0.5, 2]}
        assert like_known(read, tmp_path, {"user_id": ["u"]})["user_id"].tolist() == ["1", "3"]

    def test_other_columns_and_other_kinds_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("user_id,item_id\n1,7\n")
        (tmp_path / "b.csv").write_text("user_id,item\n1,7\n")
        with pytest.raises(DataError, match=r"b\.csv has other columns than .*a\.csv"):
            read_table(tmp_path)
        (tmp_path / "b.csv").rename(tmp_path / "b.parquet")
        with pytest.raises(DataError, match="holds text beside parquet"):
            read_table(tmp_path)

    def test_linked_folders_are_looked_into_once(self, tmp_path: Path) -> None:
        for place in ("root/own", "elsewhere/deeper"):
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / "t.csv").touch()
        (tmp_path / "root" / "a_link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "root" / "again").symlink_to(tmp_path / "root" / "own")
        (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "root")
        found = sorted(str(file.relative_to(tmp_path / "root")) for file in files_under(tmp_path / "root"))
        assert found == ["a_link/deeper/t.csv", "own/t.csv"]

    def test_a_link_to_nothing_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "_left_out").symlink_to(tmp_path / "gone")
        assert list(files_under(tmp_path)) == []
        (tmp_path / "more").symlink_to(tmp_path / "gone")
        with pytest.raises(DataError, match=r"more is a link to .*gone, which does not exist"):
            list(files_under(tmp_path))
