"""Quotes that swallow rows are refused with the line; others are read as pandas and Python's csv read them."""

import csv
import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.data.csv_quotes import require_closed_quotes
from reranker.data.table_io import read_table
from reranker.errors import DataError

HEAD = "user_id,item_id,score,title\n"


@pytest.mark.parametrize(
    ("rows", "line", "problem"),
    [
        ('817,333,0.9,A\n817,742,0.8,"B\n259,255,0.9,C\n259,286,0.8,D\n', 3, "would swallow line 4"),
        ('817,333,0.9,A\n817,742,0.8,"B\n', 3, "never closed"),
        ('817,333,0.9,"A"x\n', 2, "behind a closing quote"),
        ('817,742,0.8,"B\n259,255,0.9,"\n259,286,0.8,D\n', 2, "would swallow line 3"),
        ('"817,742,0.8,B\n"259,255,0.9,C\n', 2, "would swallow line 3"),
        ('817,742,0.8,"B\r\n259,255,0.9,C"\r\n', 2, "would swallow line 3"),
        ('817,742,0.8,"', 2, "never closed"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_quote_that_swallows_rows_is_refused(tmp_path, rows, line, problem, name):
    path = tmp_path / name
    content = (HEAD + rows).encode()
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(DataError, match=rf"line {line}: .*{problem}"):
        read_table(path)


@pytest.mark.parametrize(
    "rows",
    [
        '1,2,0.5,"a, b"\n',
        '1,2,0.5,12" LP\n',
        '1,2,0.5,"he said ""no"""\n',
        '1,2,0.5,""\n',
        '1,2,0.5,"two\nlines"\n',
        '"1","2",0.5,"a"',
    ],
)
def test_quotes_as_they_are_meant_are_read(tmp_path, rows):
    path = tmp_path / "t.csv"
    path.write_text(HEAD + rows)
    assert len(read_table(path)) == 1


def test_paragraphs_may_run_over_lines(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text('item_id,title,description\n1,A,"one, two\nthree, four, five"\n')
    assert len(read_table(path)) == 1


FIELDS = st.text(st.sampled_from('ab,"\n\r 7'), max_size=6)


@given(st.lists(st.tuples(FIELDS, FIELDS), min_size=1, max_size=5))
def test_what_pythons_csv_writes_is_never_refused_for_its_quotes(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("title", "description"), *rows])
    path.write_bytes(text.getvalue().encode())
    require_closed_quotes(path, ",")


@given(st.text(st.sampled_from('ab,"\n'), max_size=60))
def test_a_file_that_is_taken_ends_outside_of_quotes(tmp_path_factory, body):
    """A row behind whatever was taken is never part of it."""
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_text("a,description\n" + body)
    try:
        require_closed_quotes(path, ",")
    except DataError:
        return
    rows = list(csv.reader(io.StringIO("a,description\n" + body + "\nlast,row\n"), strict=True))
    assert rows[-1] == ["last", "row"]
