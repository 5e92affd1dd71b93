"""Item vectors from texts alone, without a model: means of random word vectors, part by part.

The word vectors are those of the lexical engine (`reranker.engines.lexical`): a random projection of word counts.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from reranker.data.schema import CATEGORY, DESCRIPTION, TITLE, UNTITLED
from reranker.engines.lexical import LexicalEngine
from reranker.prompting.text import MAX_CHARACTERS, field_text
from reranker.types import IntArray
from reranker.utils.spaces import EmbeddingSpace

PARTS = (TITLE, CATEGORY, DESCRIPTION)
SAMPLE = 20_000
"""Items that the directions are learned from, at most."""

_ROWS = 20_000  # items whose wide vectors are held at once

Vectors = NDArray[np.float32]


def part_texts(items: pd.DataFrame) -> list[list[str]]:
    """Title, category and description of each item of a validated table, "" where there is none: one list a part."""
    return [[_text(value) for value in items[part].tolist()] if part in items else [""] * len(items) for part in PARTS]


class WordSpace:
    """Places texts by their words: title, category and description each a weighted mean of word vectors.

    Rarer words weigh more: log(n items / items with the word). A part that no item of the catalogue has is left out.
    """

    def __init__(self) -> None:
        self._engine = LexicalEngine()
        self._parts: list[int] = []
        self._weights: list[dict[int, float]] = []
        self._spaces: list[EmbeddingSpace] = []

    @property
    def width(self) -> int:
        """Of what `blocks` yields."""
        return self._engine.model.dim * len(self._parts)

    def fit(self, texts: Sequence[Sequence[str]]) -> "WordSpace":
        """From the texts of a catalogue, one list a part. Returns self."""
        self._parts, self._weights, self._spaces = [], [], []
        for number, part in enumerate(texts):
            if not any(part):
                continue
            tokenizer = self._engine.tokenizer
            texts_with = Counter(token for text in part if text for token in set(tokenizer.encode(text)))
            self._weights.append(
                {
                    token: float(np.log(len(part) / count) + 1e-3)  # a word of every item still says a little
                    for token, count in texts_with.items()
                    if tokenizer.word(token)
                }
            )
            drawn = np.random.default_rng(0).permutation(len(part))[:SAMPLE]
            sample = self._means([part[row] for row in np.sort(drawn)], self._weights[-1])
            said = sample[sample.any(axis=1)]
            self._spaces.append(EmbeddingSpace.fit(said if len(said) else sample))
            self._parts.append(number)
        return self

    def blocks(self, texts: Sequence[Sequence[str]]) -> Iterator[tuple[slice, Vectors]]:
        """Rows and their (n, width) vectors, each part of unit length, zeros where an item has none."""
        for start in range(0, len(texts[0]), _ROWS):
            rows = slice(start, start + _ROWS)
            placed: list[Vectors] = [np.zeros((len(texts[0][rows]), 0), dtype=np.float32)]
            for number, weights, space in zip(self._parts, self._weights, self._spaces, strict=True):
                means = self._means(texts[number][rows], weights)
                placed.append(space.place(means, None))
                placed[-1][~means.any(axis=1)] = 0.0
            yield rows, np.concatenate(placed, axis=1)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `restored` needs."""
        arrays: dict[str, NDArray[Any]] = {}
        for number, weights, space in zip(self._parts, self._weights, self._spaces, strict=True):
            arrays[f"words_{number}"] = np.array(list(weights), dtype=np.int64)
            arrays[f"word_weights_{number}"] = np.array(list(weights.values()), dtype=np.float64)
            arrays[f"centre_{number}"], arrays[f"basis_{number}"] = space.centre, space.basis
        return arrays

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]]) -> "WordSpace":
        """From `arrays`."""
        space = cls()
        for number in range(len(PARTS)):
            if f"words_{number}" not in arrays:
                continue
            words, weights = arrays[f"words_{number}"].tolist(), arrays[f"word_weights_{number}"].tolist()
            space._weights.append(dict(zip(words, weights, strict=True)))
            centre, basis = arrays[f"centre_{number}"], arrays[f"basis_{number}"]
            space._spaces.append(EmbeddingSpace(centre=centre, basis=basis))
            space._parts.append(number)
        return space

    def _tokens(self, texts: Sequence[str]) -> tuple[int, IntArray, IntArray]:
        """How many texts, and the row and token of each word in them."""
        rows: list[int] = []
        tokens: list[int] = []
        tokenizer, is_word = self._engine.tokenizer, dict[int, bool]()
        for row, text in enumerate(texts):
            for token in tokenizer.encode(text) if text else ():
                if token not in is_word:
                    is_word[token] = bool(tokenizer.word(token))
                if is_word[token]:
                    rows.append(row)
                    tokens.append(token)
        return len(texts), np.array(rows, dtype=np.int64), np.array(tokens, dtype=np.int64)

    def _means(self, texts: Sequence[str], weights: Mapping[int, float]) -> Vectors:
        """(n_texts, dim) weighted sums of the words' vectors; a word that the catalogue lacks weighs as the rarest."""
        count, rows, tokens = self._tokens(texts)
        if not len(rows):
            return np.zeros((count, self._engine.model.dim), dtype=np.float32)
        words, columns = np.unique(tokens, return_inverse=True)
        rarest = max(weights.values(), default=1.0)
        weighted = np.array([weights.get(word, rarest) for word in words.tolist()], dtype=np.float32)
        vectors = self._engine.embed_tokens(words.tolist()) * weighted[:, None]
        counts = sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(count, len(words)))
        summed: Vectors = np.asarray(counts @ vectors, dtype=np.float32)
        return summed


def _text(value: object) -> str:
    text = field_text(value)[:MAX_CHARACTERS]
    return "" if text == UNTITLED else text
