"""Text that comes from users and item tables, made harmless: one line, no invisible characters, within a budget."""

import math
import numbers
import unicodedata
from collections.abc import Iterable, Sequence

from reranker.protocols import Tokenizer

# Longer text is cut before anything looks at it: no title needs more, and 100,000 characters must cost nothing.
MAX_CHARACTERS = 2000

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"})
_JOINERS = frozenset({"\u200c", "\u200d"})


def clean_text(text: str) -> str:
    """One line of visible text, in Unicode NFC, cut to `MAX_CHARACTERS`.

    Control and format characters (newlines, tabs, bidi overrides, zero-width characters, U+2028) and every kind of
    space become one space. Zero-width joiners stay between two characters beyond ASCII, where emoji and scripts such
    as Persian need them.
    """
    text = text[:MAX_CHARACTERS]
    if not text.isprintable():
        text = "".join(_visible(text, position) for position in range(len(text)))
    return " ".join(unicodedata.normalize("NFC", text).split())


def field_text(value: object) -> str:
    """Text of one field of an item: "" for a missing value, "1995" for 1995.0, lists joined by commas."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, numbers.Real) and not isinstance(value, bool | int):
        number = float(value)
        if math.isnan(number):
            return ""
        return str(int(number)) if number.is_integer() else str(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return ", ".join(text for text in map(field_text, value) if text)
    text = str(value)
    return "" if text in ("<NA>", "NaT") else text


def cut_to_tokens(text: str, limit: int, tokenizer: Tokenizer) -> str:
    """The longest beginning of `text` that takes at most `limit` tokens behind a space.

    Found by bisection over characters, so that no character is ever cut in two.
    """
    if limit <= 0:
        return ""
    # The whole text is often the answer. Longer text is looked at only as far as `limit` tokens can plausibly reach.
    if len(text) <= 64 * limit and _fits(text, limit, tokenizer):
        return text
    low, high = 0, min(len(text), 64 * limit)
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(text[:middle], limit, tokenizer):
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip()


def _fits(text: str, limit: int, tokenizer: Tokenizer) -> bool:
    return len(tokenizer.encode(f" {text}")) <= limit


def _visible(text: Sequence[str], position: int) -> str:
    character = text[position]
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    if character in _JOINERS and 0 < position < len(text) - 1:
        neighbours = (text[position - 1], text[position + 1])
        if all(ord(n) > 127 and unicodedata.category(n) not in _INVISIBLE for n in neighbours):
            return character
    return " "
