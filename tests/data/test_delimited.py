"""One grammar for CSV: each line of a file is part of one row, or rejected with its number; nothing vanishes."""

import csv
import gzip
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reranker.data import delimited, text_blocks
from reranker.data.delimited import DelimitedFile
from reranker.data.row_blocks import (
    BEHIND_QUOTE,
    BREAK_IN_VALUE,
    HEADER_AGAIN,
    NO_ROW,
    OPEN_QUOTE,
    SWALLOWS_ROWS,
)
from reranker.errors import DataError

HEAD = "user_id,item_id,score,title\n"


def read(path, **options):
    """(rows, {line number: reason})."""
    rows, rejected = [], {}
    for block in DelimitedFile(path, **options).blocks():
        rows += [tuple(row.values()) for row in block.rows.to_pylist()]
        rejected |= {line.number: line.reason for line in block.rejected}
    return rows, rejected


@pytest.mark.parametrize(
    ("body", "kept", "rejected"),
    [
        ('817,333,0.9,A\n817,742,0.8,"B\n259,255,0.9,C\n259,286,0.8,D\n', 3, {3: OPEN_QUOTE}),
        ('817,333,0.9,"A"x\n1,2,3,B\n', 1, {2: BEHIND_QUOTE}),
        ('817,742,0.8,"B\n259,255,0.9,"\n259,286,0.8,D\n', 1, {2: SWALLOWS_ROWS, 3: OPEN_QUOTE}),
        ('817,742,0.8,"B\r259,255,0.9,C"\r', 1, {2: SWALLOWS_ROWS}),
        ('"817,742,0.8,B\n"259,255,0.9,C\n1,2,3,D\n', 1, {2: BEHIND_QUOTE, 3: OPEN_QUOTE}),
        ('1,2,"5\n3,4\n7",A\n5,6,7,B\n', 1, {2: BREAK_IN_VALUE, 3: NO_ROW, 4: NO_ROW}),
        ('817,742,0.8,"', 0, {2: OPEN_QUOTE}),
        ("1,2,3\n\n4,5,6,7\n1,2,3,4,5\n", 1, {2: NO_ROW, 5: NO_ROW}),
        ('1,2,3,"two\nlines"\n', 1, {}),
        ('1,2,3,12" LP\n', 1, {}),
        ('"1","2",3,"he said ""no"""', 1, {}),
        ("1,2,3,A\nuser_id,item_id,score,title\n4,5,6,B\n", 2, {3: HEADER_AGAIN}),
        ('1,2,3,A\n\ufeff"user_id","item_id",score,title\n\ufeff4,5,6,B\n', 2, {3: HEADER_AGAIN}),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_bad_line_costs_itself(tmp_path, name, body, kept, rejected):
    content = (HEAD + body).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    rows, found = read(tmp_path / name, one_line=["user_id", "item_id", "score"])
    assert (len(rows), found) == (kept, rejected)


def test_a_pair_of_stray_quotes_in_items_is_seen_and_paragraphs_are_not(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text('item_id,title\n1,"A\n2,B\n3,C"\n4,D\n')
    assert read(path) == ([("2", "B"), ("3", 'C"'), ("4", "D")], {2: SWALLOWS_ROWS})
    path.write_text('item_id,title,description\n1,A,"one, two\nthree, four, five"\n')
    assert len(read(path)[0]) == 1


ITEM_BODIES = {
    "ids with spaces": ('item_id,title', 'SKU 1,"Alien\nSKU 2,Blade Runner\nSKU 3,C"\nSKU 4,D\n'),
    "a space behind the separator": ('item_id,title', 'i1,"Alien\ni2, Blade Runner\ni3, C"\ni4,D\n'),
    "the title first": ('title,item_id', '"Alien\nBlade Runner,i2\nC",i3\nD,i4\n'),
    "nothing but ids": ('item_id', '"i1\ni2\ni3"\ni4\n'),
    "an id over two lines": ('item_id,title', '"i1\ni2",B\ni3,C\n'),
}  # fmt: skip


@pytest.mark.parametrize("what", ITEM_BODIES)
def test_a_quote_swallows_no_items_however_their_ids_are_written(tmp_path, what):
    header, body = ITEM_BODIES[what]
    path = tmp_path / "items.csv"
    path.write_text(f"{header}\n{body}")
    _, rejected = read(path, one_line=["item_id"])
    assert rejected.get(2) in (SWALLOWS_ROWS, BREAK_IN_VALUE)


def test_texts_over_lines_are_no_rows(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text('title,item_id,description\n"Alien\nor, the other",i1,"two\nlines, of 2"\n"A","i2","B\nC"\n')
    assert read(path, one_line=["item_id"]) == (
        [("Alien\nor, the other", "i1", "two\nlines, of 2"), ("A", "i2", "B\nC")],
        {},
    )


def test_quoted_separators_and_ends_of_lines_in_the_header(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'\r\n"item_id";"title, long";"of\r\ntwo"\r\n1;A;B\r\n2;C\r\n')
    assert DelimitedFile(path).columns == ("item_id", "title, long", "of\r\ntwo")
    assert read(path) == ([("1", "A", "B")], {5: NO_ROW})


@pytest.mark.parametrize("separator", delimited.SEPARATORS)
@pytest.mark.parametrize("name", ["t.csv", "t.TSV"])
def test_the_separator_is_that_of_the_header(tmp_path, separator, name):
    (tmp_path / name).write_text(f'item_id{separator}title\n1{separator}"A{separator} B"\n2{separator}C\n')
    assert read(tmp_path / name) == ([("1", f"A{separator} B"), ("2", "C")], {})


def test_excels_first_line_says_the_separator(tmp_path):
    (tmp_path / "t.csv").write_text("sep=|\nitem_id|title, long\n1|A\n")
    assert DelimitedFile(tmp_path / "t.csv").columns == ("item_id", "title, long")
    assert read(tmp_path / "t.csv") == ([("1", "A")], {})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("packed", [False, True])
def test_encodings(tmp_path, encoding, packed):
    content = 'item_id,title\n1,"Amélie\n電影"\n2,é\n'.encode(encoding)
    (tmp_path / "t.csv").write_bytes(gzip.compress(content) if packed else content)
    assert read(tmp_path / "t.csv") == ([("1", "Amélie\n電影"), ("2", "é")], {})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"item_id,title\n1,A\n2,Am\xe9lie\n", "line 3: byte 0xe9 is not UTF-8.*iconv"),
        (b"item_id,title\n1,A\n2,\0\n", "line 3: it holds a NUL"),
        ("item_id\n1\n".encode("utf-16")[:-1], "no whole utf-16-le"),
        (gzip.compress(b"item_id\n1\n" * 9000)[:-9], "damaged or cut off"),
        (b"\x1f\x8bno gzip", "damaged or cut off"),
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (b"a,b,a\n1,2,3\n", "names 'a' more than once"),
        (b'"a,b\n1,2\n', "line 1: a quote in the header is not closed"),
    ],
)
def test_a_file_that_is_refused_as_a_whole(tmp_path, content, said):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "t.csv")


def test_a_field_longer_than_blocks_and_an_endless_line(tmp_path, monkeypatch):
    path, text = tmp_path / "t.csv", "x" * 3_000_000
    path.write_text(f'item_id,title\n1,{text}\n2,"{text}\n{text}"\n3,A\n')
    assert read(path) == ([("1", text), ("2", f"{text}\n{text}"), ("3", "A")], {})
    monkeypatch.setattr(text_blocks, "LONGEST_LINE", 1000)
    with pytest.raises(DataError, match="line 2: it is longer than"):
        read(path)


def test_an_open_quote_takes_no_more_than_the_limit_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "LONGEST_LINE", 200)
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", 64)
    path = tmp_path / "t.csv"
    path.write_text('item_id,title\n1,"A\n' + "2,B, C\n" * 100 + '3,D\n4,"E"\n')
    rows, rejected = read(path)
    assert rows == [("3", "D"), ("4", "E")]
    assert rejected == {2: OPEN_QUOTE} | dict.fromkeys(range(3, 103), NO_ROW)


def test_movielens(tmp_path):
    (tmp_path / "movies.dat").write_bytes('1::Amélie (2001)::Comedy|Romance\n2::A "B\n3::C\n'.encode("latin-1"))
    (tmp_path / "ratings.dat").write_bytes(b"1::1193::5::978300760\r\n1::661::3::978302109\r\n")
    (tmp_path / "tags.dat").write_bytes(b"1::2\n")
    assert read(tmp_path / "movies.dat") == ([("1", "Amélie (2001)", "Comedy|Romance")], {2: NO_ROW, 3: NO_ROW})
    assert DelimitedFile(tmp_path / "ratings.dat").columns == ("user_id", "item_id", "rating", "timestamp")
    assert read(tmp_path / "ratings.dat")[0] == [("1", "1193", "5", "978300760"), ("1", "661", "3", "978302109")]
    with pytest.raises(DataError, match="line 1: 2 fields between '::'"):
        read(tmp_path / "tags.dat")


def lines_of(row):
    """Lines of a file that a row takes, but for the blank ones within its fields."""
    pieces = [field.replace("\r\n", "\n").replace("\r", "\n").split("\n") for field in row if field]
    return 1 + sum(sum(map(bool, inner[1:-1])) + (len(inner) > 1) for inner in pieces)


HEADERS = ["user_id,item_id,score", "item_id,title", "item_id;title;x", '"user_id","item_id","a,b"', "user_id"]
BODY = st.text(st.sampled_from('ab12,;" \n\r\té\x0b\u2028'), max_size=80)


@settings(max_examples=200, deadline=None)
@given(header=st.sampled_from(HEADERS), body=BODY, block=st.sampled_from([16, 60, 1 << 20]))
@example(header="item_id,title", body='1,"\r\n', block=1 << 20)
def test_every_line_is_part_of_a_row_or_rejected(tmp_path_factory, header, body, block):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(f"{header}\n{body}".encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_blocks, "BLOCK_BYTES", max(block, len(header) + 2))
        rows, rejected = read(path, one_line=["user_id", "item_id", "score"])
        numbers = [number for part in DelimitedFile(path).blocks() for number in part.numbers]
    lines = list(io.StringIO(body, newline=""))
    assert sum(map(lines_of, rows)) + len(rejected) == sum(bool(line.strip("\r\n")) for line in lines)
    assert len(set(numbers)) == len(numbers)
    if '"' not in body:
        cut = [line.rstrip("\r\n").split(";" if ";" in header else ",") for line in lines if line.strip("\r\n")]
        expected = [
            tuple(value or None for value in row) for row in cut if len(row) == len(DelimitedFile(path).columns)
        ]
        assert rows == expected


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=60), start=st.sampled_from([b"", b"user_id,item_id\n", b"\xff\xfe", b"\x1f\x8b\x08\0"])
)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, start):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(start + content)
    try:
        read(path)
    except DataError as error:
        assert len(str(error)) > 10


FIELDS = st.lists(st.sampled_from([*'ab7"é \t.', "\n", "\r\n", ", "]), max_size=6).map("".join)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(FIELDS, FIELDS), min_size=1, max_size=5))
def test_what_pythons_csv_writes_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("title", "description"), *rows])
    path.write_bytes(text.getvalue().encode())
    assert read(path) == ([tuple(value or None for value in row) for row in rows], {})
