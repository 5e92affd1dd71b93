"""Tables in text: both ways of ranking read them alike, and no row is lost between them."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.batch.csv_input import converted
from reranker.batch.inputs import Columns
from reranker.data.table_io import read_table
from reranker.errors import DataError
from tests.batch.helpers import offline, ranking

KEY = ["user_id", "item_id"]


def both(path, folder):
    """(rows of the whole table, rows of the offline run's copy, lines that it rejected); None for what was refused."""
    (folder / "copy").mkdir()
    try:
        whole = list(read_table(path)[KEY].itertuples(index=False, name=None))
    except DataError:
        whole = None
    try:
        table, malformed = converted([path], [path.name], Columns().of_candidates, folder / "copy")
    except DataError:
        return whole, None, Counter()
    rows = pq.read_table(table.files[0]).select(KEY).to_pylist()
    return whole, [tuple(row.values()) for row in rows], malformed


BODY = st.lists(st.sampled_from([*'12a",\n\r;\té ', "1,7,0.5\n", '1,7,"5\n']), max_size=14).map("".join)


@settings(max_examples=150, deadline=None)
@given(
    header=st.sampled_from(["user_id,item_id,score", "user_id, item_id, score"]),
    body=BODY.map(str.encode) | st.binary(max_size=30),
    encoding=st.sampled_from(["utf-8", "utf-16"]),
)
def test_both_ways_read_a_table_alike(tmp_path_factory, header, body, encoding):
    folder = tmp_path_factory.mktemp("both")
    (folder / "t.csv").write_bytes(f"{header}\n".encode(encoding) + body)
    whole, offline_rows, malformed = both(folder / "t.csv", folder)
    if offline_rows is None or malformed:
        assert whole is None
    else:
        assert [tuple(map(_plain, row)) for row in whole] == [tuple(map(_plain, row)) for row in offline_rows]


def _plain(value):
    return None if pd.isna(value) else value


ROWS = [("1", "g0i1", 0.5), ("1", "g1i1", 1.0), ("2", "g0i1", 2.0)]


def written(path):
    """The rows as the name of the file wants them."""
    name = path.name.lower()
    if ".jsonl" in name or ".ndjson" in name:
        text = "".join(json.dumps({"user_id": u, "item_id": i, "score": s}) + "\n" for u, i, s in ROWS)
    else:
        separator = "\t" if ".tsv" in name else ";" if "semicolon" in name else "|" if "bar" in name else ","
        rows = [(*KEY, "score"), *ROWS]
        if "index" in name:  # as pandas writes its own
            rows = [("", *rows[0]), *((number, *row) for number, row in enumerate(ROWS))]
        text = "".join(separator.join(map(str, row)) + "\n" for row in rows)
    content = text.encode("utf-16" if "utf-16" in name else "utf-8-sig" if "bom" in name else "utf-8")
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


NAMES = [
    "t.csv", "t.CSV", "t.csv.gz", "t.CSV.GZ", "t.tsv", "t.tsv.gz", "semicolon.csv", "bar.csv", "utf-16.csv",
    "utf-16.csv.gz", "index.csv", "bom.csv", "t.jsonl", "t.ndjson", "t.jsonl.gz", "utf-16.jsonl",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_a_table_is_taken_by_both_ways(bundle, tmp_path, name):
    written(tmp_path / name)
    whole = read_table(tmp_path / name, known={"user_id": ["u1"], "item_id": ["g0i1"]})
    whole = whole[[*KEY, "score"]]
    assert list(whole.itertuples(index=False, name=None)) == ROWS
    assert offline(bundle, tmp_path, name, order="first_stage").run()["ranked"] == 3
    found = ranking(tmp_path)
    assert set(found[[*KEY, "first_stage_score"]].itertuples(index=False, name=None)) == set(ROWS)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv.gz", gzip.compress(b"user_id,item_id,score\n" + b"1,g0i1,0.5\n" * 9000)[:-20], "damaged or cut off"),
        ("t.csv", b"user_id,item_id,score\n1,\xe9,2\n", "line 2: byte 0xe9 is not UTF-8"),
        ("t.csv", b"user_id,item_id,score\n1,\0,2\n", "line 2: it holds a NUL"),
        ("t.csv", "user_id,item_id,score\n1,2,3\n".encode("utf-16")[:-1], "no whole utf-16"),
        ("t.jsonl", b"[]\n", "no line at its beginning is a JSON object"),
        ("t.xlsx", b"", "expected .*jsonl"),
    ],
)
def test_both_ways_refuse_a_file_with_the_reason(bundle, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{said}"):
        read_table(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}.*{said}"):
        offline(bundle, tmp_path, name).run()


def test_json_lines_that_are_no_objects_are_rejected_with_their_line(bundle, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"user_id": 1, "item_id": "g0i1", "score": 1}\n\n[1]\n{"user_id": 2, "item_id": "g1i1"\n')
    with pytest.raises(DataError, match=r"line 3: the line is no JSON object: '\[1\]' \(and 1 more"):
        read_table(path)
    summary = offline(bundle, tmp_path, "t.jsonl", order="first_stage").run()
    assert (summary["ranked"], summary["rejected"]) == (1, {"the line is no JSON object": 2})


def test_json_that_names_a_key_twice_is_rejected_and_marks_between_joined_files_are_left_out(bundle, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"user_id": "1", "user_id": "2", "item_id": "g0i1", "score": 1}\n'
        '\ufeff{"user_id": "2", "item_id": "g1i1", "score": 1, "a: b": {"user_id": 3, "item_id": 4}}\n'
    )
    with pytest.raises(DataError, match=r"line 1: the line names a key twice: .*Give each key one value"):
        read_table(path)
    summary = offline(bundle, tmp_path, "t.jsonl", order="first_stage").run()
    assert (summary["ranked"], summary["rejected"]) == (1, {"the line names a key twice": 1})


def test_json_says_which_ids_are_texts_and_keeps_lists_of_categories(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"item_id": "7", "title": "A", "tags": ["x", "y"], "year": 1984}\n{"item_id": "8", "title": 1984}\n'
    )
    read = read_table(path)
    assert read["item_id"].tolist() == ["7", "8"] and read["title"].tolist() == ["A", "1984"]
    assert read["tags"][0] == "x, y" and read["year"][0] == 1984


@pytest.mark.parametrize("known", [["u1", "196"], [196]])
def test_ids_that_pandas_wrote_as_decimals_are_healed_in_both_ways(bundle, tmp_path, known, caplog):
    pd.DataFrame({"user_id": [196.0, None], "item_id": ["g0i1", "g1i1"], "score": [1, 2]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    read = read_table(tmp_path / "t.csv", known={"user_id": known})
    assert str(read["user_id"].iloc[0]).removesuffix(".0") == "196"
    assert "with a decimal point (196.0): read as whole numbers (196)" in caplog.text
    offline(bundle, tmp_path, "t.csv", order="first_stage").run()  # the bundle's users are texts
    assert ranking(tmp_path)["user_id"].tolist() == ["196"]


def test_columns_that_folders_of_text_name_are_told(bundle, tmp_path, caplog):
    inner = tmp_path / "in" / "event=purchase"
    inner.mkdir(parents=True)
    (inner / "t.csv").write_text("user_id,item_id,score\n1,g0i1,1\n")
    assert read_table(tmp_path / "in").columns.tolist() == [*KEY, "score"]
    offline(bundle, tmp_path, "in", order="first_stage").run()
    assert sum("'event' named by folders is not read" in line for line in caplog.messages) == 2


SPACED = {
    "header and rows": "user_id, item_id, score\nu1, g0i1, 1\nu2, g1i1, 2\n",
    "rows": "user_id,item_id,score\nu1, g0i1, 1\nu2, g1i1, 2\n",
    "header": "user_id, item_id, score\nu1,g0i1,1\nu2,g1i1,2\n",
    "in quotes": 'user_id, item_id, "score"\nu1, "g0i1", 1\nu2, g1i1, 2\n',
    "padded": "user_id ,item_id ,score\nu1   ,g0i1  ,1\nu2   ,g1i1  ,2\n",
    "both sides": "user_id | item_id | score\nu1 | g0i1 | 1\nu2 | g1i1 | 2\n",
}


@pytest.mark.parametrize("name", SPACED)
def test_spaces_beside_every_id_are_none_of_it_and_that_is_said(tmp_path, name, caplog):
    (tmp_path / "t.csv").write_text(SPACED[name])
    whole, offline_rows, malformed = both(tmp_path / "t.csv", tmp_path)
    assert whole == offline_rows == [("u1", "g0i1"), ("u2", "g1i1")] and not malformed
    said = [line for line in caplog.messages if "a space stands b" in line]
    assert len(said) >= 2 and all("t.csv: " in line for line in said)  # by either way


def test_numbers_behind_spaces_are_numbers_and_texts_beside_them_stay(tmp_path):
    (tmp_path / "t.csv").write_text("user_id,item_id,title\n1, 7, A\n2, 8, B\n")
    assert read_table(tmp_path / "t.csv").to_dict("list") == {
        "user_id": [1, 2],
        "item_id": [7, 8],
        "title": [" A", " B"],
    }
    (tmp_path / "t.csv").write_text('item_id, title\n7, "A, b"\n8, C\n')
    assert read_table(tmp_path / "t.csv").to_dict("list") == {"item_id": [7, 8], "title": ["A, b", "C"]}
    (tmp_path / "t.csv").write_text("user_id,item_id\n1, 7.0\n2, 8.0\n")
    assert read_table(tmp_path / "t.csv")["item_id"].tolist() == [7, 8]


def test_ids_of_which_some_have_a_space_stay_and_are_counted(tmp_path, caplog):
    (tmp_path / "t.csv").write_text("user_id,item_id,score\nu1,i1,1\nu1, i1,2\n")
    whole, offline_rows, _ = both(tmp_path / "t.csv", tmp_path)
    assert whole == offline_rows == [("u1", "i1"), ("u1", " i1")]
    assert sum("1 of 2 values begin or end with a space" in line for line in caplog.messages) == 2


def test_a_field_of_spaces_is_a_missing_id_where_all_have_spaces(bundle, tmp_path):
    (tmp_path / "t.csv").write_text("user_id,item_id,score\n1, g0i1,1\n1, ,2\n")
    summary = offline(bundle, tmp_path, "t.csv", order="first_stage").run()
    assert (summary["ranked"], summary["rejected"]) == (1, {"item_id is missing": 1})


def test_spaces_that_known_ids_have_stay(tmp_path):
    (tmp_path / "t.csv").write_text("user_id,item_id,score\nu1,i1   ,1\nu1,i2   ,2\n")
    known = {"user_id": ["u1"], "item_id": ["i1   ", "i1000"]}
    assert read_table(tmp_path / "t.csv", known=known)["item_id"].tolist() == ["i1   ", "i2   "]
    table, _ = converted(
        [tmp_path / "t.csv"], ["t.csv"], Columns().of_candidates, tmp_path, texts=("item_id",), known=known
    )
    assert pq.read_table(table.files[0])["item_id"].to_pylist() == ["i1   ", "i2   "]


def test_ids_in_json_keep_their_spaces(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"user_id": " u1", "item_id": " 7", "score": 1}\n')
    whole, offline_rows, _ = both(tmp_path / "t.jsonl", tmp_path)
    assert whole == offline_rows == [(" u1", " 7")]


def test_a_long_field_is_read_alike(tmp_path):
    text = "x" * 3_000_000
    (tmp_path / "t.csv").write_text(f'user_id,item_id,score,title\n1,{text},1,A\n2,7,1,"{text}"\n')
    whole, offline_rows, malformed = both(Path(tmp_path / "t.csv"), tmp_path)
    assert whole == [("1", text), ("2", "7")] or whole == [(1, text), (2, "7")]
    assert offline_rows == whole and not malformed
