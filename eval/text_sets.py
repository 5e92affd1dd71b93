"""Retrieval sets from the items of a domain: which of 50 texts answers a query?

    description       an item's title against descriptions: its own is the answer
    description-hard  the same, the words of the title taken out of the description
    category          an item's categories against titles: those of items that have all of them
    category-hard     the same, the words of the categories taken out of the titles

Queries come from items and their answers from other fields of the same rows, so nobody judged anything, and nothing
that a system reads holds the answer's id or place.
"""

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import CATEGORY, DESCRIPTION, TITLE
from reranker.scoring.bm25 import words_of

POOL = 50
"""Texts that a query is put to."""

POOLS = 10
"""Of a set; each text stands in one."""

SHORTEST = 60
"""Characters of a description that says more than a year or a price."""

MOST_COMMON = 0.2
"""A category that a larger share of the items has asks for nothing."""

_PIECE = re.compile(r"(\w+)|(\W+)")
_CATEGORY_END = re.compile(r"[;|]")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Queries against the same texts.

    Attributes:
        queries: in words.
        texts: (n_texts)
        relevant: (n_queries, n_texts) True for an answer; each query has at least one.
    """

    queries: list[str]
    texts: list[str]
    relevant: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalSet:
    """Pools of one kind from one domain."""

    domain: str
    kind: str
    pools: list[Pool]

    @property
    def name(self) -> str:
        return f"{self.domain}, {self.kind}"


def retrieval_sets(domain: str, items: pd.DataFrame, n_queries: int) -> list[RetrievalSet]:
    """The sets that a domain's items allow; none where they have neither descriptions nor categories.

    Args:
        domain: seeds the draw.
        items: an items table.
        n_queries: of each set, spread over its pools.
    """
    texts = items.reindex(columns=[TITLE, CATEGORY, DESCRIPTION]).astype(object).fillna("").astype(str)
    described = texts[texts[DESCRIPTION].str.len() >= SHORTEST]
    tags = texts[CATEGORY].map(categories)
    common = _common([tag for one in tags for tag in one], len(texts))
    sorted_ = texts[[bool(one) and not one <= common for one in tags]]
    sets = []
    kinds: list[tuple[str, pd.DataFrame, Callable[[pd.DataFrame], _Texts]]] = [
        ("description", described, _by_title),
        ("description-hard", described, lambda rows: _without(_by_title(rows))),
        ("category", sorted_, _by_category),
        ("category-hard", sorted_, lambda rows: _without(_by_category(rows))),
    ]
    for kind, rows, made in kinds:
        if len(rows) < POOL * POOLS:
            continue
        rng = np.random.default_rng(zlib.crc32(f"{domain} {kind.removesuffix('-hard')}".encode()))
        drawn = rows.iloc[rng.permutation(len(rows))[: POOL * POOLS]]
        asked = np.sort(rng.permutation(POOL)[: max(1, n_queries // POOLS)])
        pools = [_pool(drawn.iloc[begin : begin + POOL], made, asked) for begin in range(0, len(drawn), POOL)]
        sets.append(RetrievalSet(domain=domain, kind=kind, pools=pools))
    return sets


def categories(text: str) -> frozenset[str]:
    """Categories of a field in which they are joined by ";" or "|"."""
    return frozenset(one.strip().casefold() for one in _CATEGORY_END.split(text) if one.strip())


@dataclass(frozen=True, kw_only=True)
class _Texts:
    queries: list[str]
    texts: list[str]
    answers: list[frozenset[str]]
    """What each item is; an item answers a query whose own it includes."""


def _pool(rows: pd.DataFrame, made: Callable[[pd.DataFrame], _Texts], asked: NDArray[np.int64]) -> Pool:
    texts = made(rows)
    relevant = np.array([[texts.answers[at] <= other for other in texts.answers] for at in asked])
    return Pool(queries=[texts.queries[at] for at in asked], texts=texts.texts, relevant=relevant)


def _by_title(rows: pd.DataFrame) -> _Texts:
    numbers = [frozenset([str(number)]) for number in range(len(rows))]
    return _Texts(queries=rows[TITLE].tolist(), texts=rows[DESCRIPTION].tolist(), answers=numbers)


def _by_category(rows: pd.DataFrame) -> _Texts:
    queries = [", ".join(one.strip() for one in _CATEGORY_END.split(text) if one.strip()) for text in rows[CATEGORY]]
    return _Texts(queries=queries, texts=rows[TITLE].tolist(), answers=rows[CATEGORY].map(categories).tolist())


def _without(texts: _Texts) -> _Texts:
    """The words of each item's query taken out of its own text, in whatever number they stand there."""
    left = []
    for query, text in zip(texts.queries, texts.texts, strict=True):
        words = set(words_of(query))
        kept = (part for part in _PIECE.findall(text) if not part[0] or not set(words_of(part[0])) <= words)
        left.append(" ".join("".join(word or other for word, other in kept).split()) or "-")
    return _Texts(queries=texts.queries, texts=left, answers=texts.answers)


def _common(tags: Sequence[str], n_items: int) -> frozenset[str]:
    counts = pd.Series(tags, dtype=object).value_counts()
    return frozenset(counts[counts > MOST_COMMON * n_items].index)
