import logging
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.scoring import bm25


def relevance(query: str, *texts: str) -> list[float]:
    return bm25.relevance(bm25.words_of(query), [bm25.words_of(text) for text in texts]).tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Printer Inks, 2 batteries", ["printer", "ink", "2", "battery"]),
        ("boxes glasses glass bus", ["box", "glass", "glass", "bus"]),
        ("Ｔｏｎｅｒ", ["toner"]),
        ("打印机墨水", ["打", "打印", "印", "印机", "机", "机墨", "墨", "墨水", "水"]),
        ("HP62墨盒", ["hp62", "墨", "墨盒", "盒"]),
        ("墨 水", ["墨", "水"]),
        ("?!", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert bm25.words_of(text) == words


def test_rarer_words_count_more_and_common_words_hardly() -> None:
    both, rare, common, none = relevance("the toner for it", "the toner for it", "a toner", "for the it", "a pen")
    assert both > rare > 5 * common > none == 0
    assert both == pytest.approx(1)


def test_a_single_document_is_judged_like_one_among_others() -> None:
    alone = relevance("printer ink", "black ink for a printer")
    assert alone[0] > 0.8
    assert relevance("printer ink", "the ink of it is black")[0] == pytest.approx(0.5, abs=0.15)


def test_no_word_in_common_or_none_at_all() -> None:
    assert relevance("printer", "pen", "") == [0, 0]
    assert relevance("?!", "pen") == [0]
    assert relevance("printer", "", "?") == [0, 0]
    assert len(relevance("printer")) == 0


@given(st.text(), st.lists(st.text(), max_size=5))
def test_shares_are_between_0_and_1_and_go_with_their_texts(query: str, texts: list[str]) -> None:
    shares = relevance(query, *texts)
    assert len(shares) == len(texts)
    assert all(0 <= share <= 1 for share in shares)
    assert relevance(query, *texts[::-1]) == pytest.approx(shares[::-1])


def test_windows_overlap_by_half_and_cover_the_text() -> None:
    text = " ".join(f"w{number}" for number in range(10))
    assert bm25.windows(text, 10) == [(0, text)]
    stretches = bm25.windows(text, 4)
    assert [stretch.split()[0] for _, stretch in stretches] == ["w0", "w2", "w4", "w6"]
    assert [len(stretch.split()) for _, stretch in stretches] == [4, 4, 4, 4]
    assert all(text[begin:].startswith(stretch) for begin, stretch in stretches)
    assert bm25.windows("", 4) == [(0, "")]
    assert [stretch for _, stretch in bm25.windows("甲乙丙丁戊", 2)] == ["甲乙", "乙丙", "丙丁", "丁戊"]


@given(st.text(), st.integers(1, 8))
def test_every_word_is_in_a_window(text: str, n_words: int) -> None:
    covered = np.zeros(len(text), dtype=bool)
    for begin, stretch in bm25.windows(text, n_words):
        assert text[begin : begin + len(stretch)] == stretch
        covered[begin : begin + len(stretch)] = True
    assert covered.all()


def test_nothing_is_logged_where_the_program_logs_warnings() -> None:
    """In a process of its own, for the package sets its logger's level when it is first imported."""
    code = (
        f"import logging; logging.basicConfig(level={logging.WARNING})\n"
        "from reranker.scoring import bm25\n"
        "print(bm25.relevance(['toner'], [['toner'], ['pen']]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout and found.stderr == ""
