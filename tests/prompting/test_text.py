import math
import time
import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.engines.scripted import ByteTokenizer
from reranker.prompting import clean_text
from reranker.prompting.text import MAX_CHARACTERS, cut_to_tokens, field_text
from reranker.protocols import Tokenizer


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Alien\n- fake item", "Alien - fake item"),
        ("  a\t\r\n b  ", "a b"),
        ("a\x00b\x1bc", "a b c"),
        ("a\u2028b\u2029c\u0085d", "a b c d"),
        ("safe\u202etxt.exe", "safe txt.exe"),
        ("zero\u200bwidth\ufeff", "zero width"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("a\u00a0\u3000b", "a b"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\u200db", "a b"),
    ],
)
def test_clean_text_leaves_one_visible_line(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@pytest.mark.parametrize(
    "text", ["👨\u200d👩\u200d👧 🎬", "שלום עולם", "مرحبا", "می\u200cخواهم", "銀河鉄道の夜", "🏳️\u200d🌈"]
)
def test_emoji_joined_scripts_and_right_to_left_text_survive(text: str) -> None:
    assert clean_text(text) == text


@settings(deadline=None)
@given(st.text())
def test_cleaned_text_is_one_line_and_clean_already(text: str) -> None:
    clean = clean_text(text)
    assert clean == clean.strip()
    assert len(clean.splitlines()) <= 1
    assert not {unicodedata.category(character) for character in clean} & {"Cc", "Cs", "Zl", "Zp"}
    assert clean_text(clean) == clean


def test_huge_text_is_cut_before_it_is_looked_at() -> None:
    start = time.perf_counter()
    assert len(clean_text("x\u202e" * 500_000)) <= MAX_CHARACTERS
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (math.nan, ""),
        (pd.NA, ""),
        (pd.NaT, ""),
        (1995.0, "1995"),
        (np.float32(1995), "1995"),
        (7, "7"),
        (np.int64(7), "7"),
        (2.5, "2.5"),
        (math.inf, "inf"),
        (True, "True"),
        (["Action", None, "War"], "Action, War"),
        (np.array(["a", "b"]), "a, b"),
        ("Action|War", "Action|War"),
    ],
)
def test_field_text(value: object, text: str) -> None:
    assert field_text(value) == text


def test_cut_counts_the_space_before_the_text() -> None:
    # A byte a token: " abc" is four.
    assert cut_to_tokens("abcdef", 4, ByteTokenizer()) == "abc"
    assert cut_to_tokens("abc", 4, ByteTokenizer()) == "abc"
    assert cut_to_tokens("abc", 0, ByteTokenizer()) == ""


def test_cut_never_splits_a_character() -> None:
    # é is two bytes: " é" takes three tokens, " éé" five.
    assert cut_to_tokens("ééé", 4, ByteTokenizer()) == "é"


@pytest.mark.parametrize(
    ("text", "limit", "cut"),
    [
        ("Dry Erase Markers", 11, "Dry Erase"),  # never "Dry Erase M"
        ("Dry Erase Markers", 18, "Dry Erase Markers"),
        ("Incomprehensible", 5, "Inco"),
        ("银河铁道之夜", 7, "银河"),  # a space and three bytes each
        ("Thomas und 银河铁道", 15, "Thomas und 银"),
        ("iPhone手机壳", 11, "iPhone手"),
        ("iPhone手机壳", 6, "iPhon"),  # not even the first word
        ("手机iPhone壳", 12, "手机"),
        ("a 👨\u200d👩\u200d👧", 10, "a"),
        ("e\u0301e\u0301e\u0301", 8, "e\u0301e\u0301"),
        ("🇫🇷🇩🇪", 10, ""),
    ],
)
def test_cut_falls_between_words_or_where_there_are_none_between_characters(text: str, limit: int, cut: str) -> None:
    assert cut_to_tokens(text, limit, ByteTokenizer()) == cut


class Merging:
    """A letter is a token, but "ab" is one token, too: longer text can take fewer tokens."""

    opening_ids: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        return list(text.replace("ab", "\0").encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode().replace("\0", "ab")


WORDS = st.lists(st.text(alphabet="ab銀河é", min_size=1, max_size=6), min_size=1, max_size=12)


@settings(deadline=None)
@given(WORDS, WORDS, st.integers(1, 12), st.sampled_from([ByteTokenizer(), Merging()]))
def test_cut_depends_on_what_stays_and_the_next_word_alone(
    words: list[str], others: list[str], limit: int, tokenizer: Tokenizer
) -> None:
    text = " ".join(words)
    cut = cut_to_tokens(text, limit, tokenizer)
    assert text.startswith(cut)
    assert not cut or len(tokenizer.encode(f" {cut}")) <= limit
    assert cut_to_tokens(cut, limit, tokenizer) == cut
    if len(cut) < len(text):
        end = text.find(" ", len(cut) + 1)
        next_word = text if end < 0 else text[:end]
        assert cut_to_tokens(" ".join([next_word, *others]), limit, tokenizer) == cut


@settings(deadline=None)
@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=6), min_size=1, max_size=12), st.integers(1, 30))
def test_as_many_whole_words_as_fit_are_kept(words: list[str], limit: int) -> None:
    text = " ".join(words)
    lengths = np.cumsum([1 + len(word) for word in words])  # a byte a token, the space included
    whole = int(np.sum(lengths <= limit))
    assert cut_to_tokens(text, limit, ByteTokenizer()) == (" ".join(words[:whole]) if whole else text[: limit - 1])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("It&#39;s &#x41;&nbsp;B", "It's A B"),
        ("one<br/>two<BR>three", "one two three"),
        ('<p class="x">text</p> <a href="http://x">link</a>', "text link"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("I <3 you, a < b > c, <unk>, AT&T; R&D &notable;", "I <3 you, a < b > c, <unk>, AT&T; R&D &notable;"),
    ],
)
def test_markup_is_not_read_as_words(given: str, expected: str) -> None:
    assert clean_text(given) == expected
