import math
import time
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.engines.scripted import ByteTokenizer
from reranker.prompting import clean_text
from reranker.prompting.text import MAX_CHARACTERS, cut_to_tokens, field_text


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


@settings(deadline=None)
@given(st.text(min_size=1), st.integers(1, 20))
def test_cut_text_is_the_longest_beginning_that_fits(text: str, limit: int) -> None:
    tokenizer, text = ByteTokenizer(), clean_text(text)
    cut = cut_to_tokens(text, limit, tokenizer)
    assert text.startswith(cut)
    assert cut == "" or len(tokenizer.encode(f" {cut}")) <= limit
    longer = text[: len(cut) + 1]
    assert cut == text or longer.endswith(" ") or len(tokenizer.encode(f" {longer}")) > limit
