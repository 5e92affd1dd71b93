"""Text that comes from users and item tables, made harmless: one line, no invisible characters, within a budget."""

import html
import math
import numbers
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from html.entities import html5

from reranker.protocols import Tokenizer

# Longer text is cut before anything looks at it: no title needs more, and 100,000 characters must cost nothing.
MAX_CHARACTERS = 2000

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"})
_JOINERS = frozenset({"\u200c", "\u200d"})
_SPACES = str.maketrans("\t\n\r\v\f", "     ")
_SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_REGIONS = frozenset(map(chr, range(0x1F1E6, 0x1F200)))  # two make a flag

_WORD = re.compile(r"[^ ]+")
# Thai to Burmese, Khmer, CJK signs, kana, Han, full-width forms: written without spaces between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)
_BLOCK = 16  # characters
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
# Tags by name: "I <3 you" and "a < b > c" are none.
_TAG = re.compile(
    r"</?(?:a|abbr|article|b|big|blockquote|body|br|center|code|dd|div|dl|dt|em|font|footer|h[1-6]|head|header|hr|html|i|"
    r"img|li|main|mark|nav|ol|p|pre|s|script|section|small|span|strong|style|sub|sup|table|tbody|td|tfoot|th|thead|"
    r"title|tr|tt|u|ul)(?:\s[^<>]{0,500})?/?>",
    re.IGNORECASE,
)


def clean_text(text: str, most: int | None = MAX_CHARACTERS) -> str:
    """One line of visible text, in Unicode NFC, cut to `most` characters (None: not at all).

    Control and format characters (newlines, tabs, bidi overrides, zero-width characters, U+2028) and every kind of
    space become one space. Zero-width joiners stay between two characters beyond ASCII, where emoji and scripts such
    as Persian need them. HTML entities become what they stand for, and its tags spaces.
    """
    text = _without_markup(text[:most]).translate(_SPACES)
    if not text.isprintable():
        text = "".join(_visible(text, position) for position in range(len(text)))
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_blank(text: str) -> bool:
    """Whether nothing of it can be read: spaces, invisible characters and markup at most."""
    return not clean_text(text) and not (len(text) > MAX_CHARACTERS and clean_text(text, None))


def _without_markup(text: str) -> str:
    """Entities first: feeds often hold tags as `&lt;br&gt;`."""
    if "&" in text:
        text = _ENTITY.sub(_character, text)
    return _TAG.sub(" ", text) if "<" in text else text


def _character(entity: re.Match[str]) -> str:
    """What an entity stands for; itself where none has that name: unescape would take "&notable;" for "&not;"."""
    text = entity.group()
    return html.unescape(text) if text[1] == "#" else html5.get(text[1:], text)


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
    """The beginning of a cleaned text that takes at most `limit` tokens behind a space, in whole words.

    Words are counted one by one and added until one does not fit. So the cut depends on the words that stay and the
    next one, never on what comes later: whether a text fits is not monotone in its length under BPE. Scripts without
    spaces are cut between characters, and so is a first word that is too long by itself.
    """
    if limit <= 0:
        return ""
    ends = _fitting(text, _blocks(text), limit, tokenizer)
    if not ends:  # not even the first word
        ends = _fitting(text, [(0, _boundaries(text, 0, text.find(" ")))], limit, tokenizer)
    # Words in a row seldom take more tokens than one by one, but nothing forbids a tokenizer to.
    while ends and len(tokenizer.encode(f" {text[: ends[-1]]}")) > limit:
        ends.pop()
    return text[: ends[-1]] if ends else ""


def _fitting(text: str, blocks: Iterable[tuple[int, Sequence[int]]], limit: int, tokenizer: Tokenizer) -> list[int]:
    """Places where `text` may be cut, up to the first that takes more than `limit` tokens, block by block."""
    fitting, used = list[int](), 0
    for begin, ends in blocks:
        space = " " if begin == 0 or text[begin - 1] == " " else ""
        taken = 0
        for end in ends:
            taken = len(tokenizer.encode(space + text[begin:end]))
            if used + taken > limit:
                return fitting
            fitting.append(end)
        used += taken
    return fitting


def _blocks(text: str) -> Iterator[tuple[int, list[int]]]:
    """Where each word begins and where it may be cut: behind it, and in scripts without spaces behind each character.
    Such words come in blocks, so that the work does not grow with the square of their length."""
    for word in _WORD.finditer(text):
        if _UNSPACED.search(word.group()) is None:
            yield word.start(), [word.end()]
            continue
        begin, ends = word.start(), list[int]()
        for end in _boundaries(text, *word.span()):
            if end < word.end() and not (_UNSPACED.match(text, end) or _UNSPACED.match(text, end - 1)):
                continue  # within a word of another script
            ends.append(end)
            if len(ends) == _BLOCK:
                yield begin, ends
                begin, ends = end, []
        if ends:
            yield begin, ends


def _boundaries(text: str, begin: int, end: int) -> list[int]:
    """Ends of the visible characters in text[begin:end], or to its end for -1; what joins others to one is none."""
    end = len(text) if end < 0 else end
    return [at for at in range(begin + 1, end) if not _joins(text[at - 1], text[at])] + [end]


def _joins(before: str, after: str) -> bool:
    if after in _JOINERS or before in _JOINERS or unicodedata.category(after).startswith("M"):
        return True
    return after in _SKIN_TONES or (before in _REGIONS and after in _REGIONS)


def _visible(text: Sequence[str], position: int) -> str:
    character = text[position]
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    if character in _JOINERS and 0 < position < len(text) - 1:
        neighbours = (text[position - 1], text[position + 1])
        if all(ord(n) > 127 and unicodedata.category(n) not in _INVISIBLE for n in neighbours):
            return character
    return " "
