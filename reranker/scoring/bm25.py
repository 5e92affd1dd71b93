"""Lexical relevance: how much of a query's words a text holds, by BM25 (Robertson & Zaragoza 2009; package bm25s)."""

import logging
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

K1 = 1.2
B = 0.75
"""The usual constants (Robertson & Zaragoza 2009, section 3.2)."""

_COMMON_WORDS = """
a about above after again all also an and any are as at be because been before being between both but by can could did
do does doing down during each few for from further had has have having he her here hers him his how i if in into is it
its itself just me more most my no nor not now of off on once only or other our out over own same she should so some
such than that the their them then there these they this those through to too under until up very was we were what when
where which while who whom why will with would you your
""".split()  # noqa: SIM905
_BACKGROUND = [_COMMON_WORDS] * 50
"""Texts that stand beside those of a request and say what is rare and what is long where it has but few."""
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """Words without case, accents' spelling variants and English plural endings; scripts without spaces (and Korean)
    by character and by pair of characters."""
    words: list[str] = []
    end = -1  # of the character before, where it was one of such a script
    for found in _WORD.finditer(unicodedata.normalize("NFKC", text).casefold()):
        word = found.group()
        if len(word) > 1 or not is_unspaced(word):
            words.append(_singular(word))
            continue
        if found.start() == end:
            words.append(found.string[end - 1 : found.end()])
        words.append(word)
        end = found.end()
    return words


def relevance(query: Sequence[str], texts: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """(n_texts,) BM25 of each text as a share of the query's own score as a text, cut to 0..1.

    The share makes scores of different queries comparable; 0 where no word is shared.

    Args:
        query: its words, as of `words_of`.
        texts: words of each.
    """
    if not query or not any(texts):
        return np.zeros(len(texts))
    index = _bm25s().BM25(k1=K1, b=B, method="lucene")
    index.index([list(query), *map(list, texts), *_BACKGROUND], show_progress=False)
    scores = np.asarray(index.get_scores(list(query)), dtype=np.float64)
    shares: NDArray[np.float64] = np.clip(scores[1 : 1 + len(texts)] / scores[0], 0.0, 1.0)
    return shares


@cache
def _bm25s() -> ModuleType:
    """The package, imported when it is needed: it imports numba where that is installed, beside which vLLM's processes
    on a CPU do not start. Its logger comes at DEBUG, which would print a line for each query."""
    import bm25s

    logging.getLogger(bm25s.__name__).setLevel(logging.NOTSET)
    module: ModuleType = bm25s
    return module


def count_words(text: str) -> int:
    """Words of a text; characters of scripts without spaces count as such."""
    return sum(1 for _ in _WORD.finditer(text))


def windows(text: str, n_words: int) -> list[tuple[int, str]]:
    """Stretches of `n_words` words with where they begin, each half a stretch behind the one before; the whole of a
    text that is not longer. Characters of scripts without spaces count as words."""
    starts = [found.start() for found in _WORD.finditer(text)]
    if len(starts) <= n_words:
        return [(0, text)]
    half = max(1, n_words // 2)
    ends = [*starts, len(text)]
    firsts = range(0, len(starts) - n_words + half, half)
    begins = [starts[first] if first else 0 for first in firsts]
    stretches = zip(begins, (ends[min(first + n_words, len(starts))] for first in firsts), strict=True)
    return [(begin, text[begin:end]) for begin, end in stretches]


def is_unspaced(character: str) -> bool:
    """Whether it is of a script without spaces between words, as Chinese, Japanese and Thai are."""
    return re.match(f"[{_UNSPACED}]", character) is not None


def _singular(word: str) -> str:
    """An English plural's singular, about; the same for what merely looks like one, in query and text alike."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ses", "xes", "zes", "hes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and word[-2] not in "su":
        return word[:-1]
    return word
