"""Item vectors from texts alone, without a model: means of random word vectors, part by part.

The word vectors are those of the lexical engine (`reranker.engines.lexical`): a random projection of word counts.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from reranker.data.schema import CATEGORY, DESCRIPTION, TITLE, UNTITLED
from reranker.engines.lexical import LexicalEngine
from reranker.prompting.text import MAX_CHARACTERS, field_text
from reranker.types import IntArray

PARTS = (TITLE, CATEGORY, DESCRIPTION)
SAMPLE = 20_000
"""Items that the directions are learned from, at most."""

_POWER = 0.25  # of the variances, by which loud directions are turned down: half way to whitening
_SMALLEST = 1e-3  # of the mean variance
_ROWS = 20_000  # items whose wide vectors are held at once

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """Takes out what a set of vectors has in common and turns its loud directions down.

    Attributes:
        centre: (d,) their mean.
        basis: (d, d) principal directions, each divided by its variance to the power of 1/4.
    """

    centre: Vectors
    basis: Vectors

    @classmethod
    def fit(cls, vectors: Vectors) -> "Directions":
        """From (n, d) vectors; those of zeros say nothing."""
        sample = vectors[vectors.any(axis=1)].astype(np.float64)
        if not len(sample):
            return cls(centre=np.zeros(vectors.shape[1], np.float32), basis=np.eye(vectors.shape[1], dtype=np.float32))
        centre = sample.mean(axis=0)
        variances, directions = np.linalg.eigh((sample - centre).T @ (sample - centre) / len(sample))
        floor = _SMALLEST * variances.mean() or 1.0  # 1 where all are the same: nothing to compare then
        basis = directions * np.maximum(variances, floor) ** -_POWER
        return cls(centre=centre.astype(np.float32), basis=basis.astype(np.float32))

    def place(self, vectors: Vectors) -> Vectors:
        """(n, d) -> (n, d) of unit length; zeros stay."""
        placed = unit(((vectors - self.centre) @ self.basis).astype(np.float32))
        placed[~vectors.any(axis=1)] = 0.0
        return placed


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """(n, d) vectors of length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return scaled


def part_texts(items: pd.DataFrame) -> list[list[str]]:
    """Title, category and description of each item of a validated table, "" where there is none: one list a part."""
    return [[_text(value) for value in items[part].tolist()] if part in items else [""] * len(items) for part in PARTS]


class WordSpace:
    """Places texts by their words: title, category and description each a weighted mean of word vectors.

    Rarer words weigh more: log(n items / items with the word).
    """

    def __init__(self) -> None:
        self._engine = LexicalEngine()
        self._weights: list[dict[int, float]] = []
        self._directions: list[Directions] = []

    @property
    def width(self) -> int:
        """Of what `blocks` yields."""
        return self._engine.model.dim * len(PARTS)

    def fit(self, texts: Sequence[Sequence[str]]) -> "WordSpace":
        """From the texts of a catalogue, one list a part. Returns self."""
        self._weights, self._directions = [], []
        for part in texts:
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
            sample = [part[row] for row in np.sort(drawn)]
            self._directions.append(Directions.fit(self._means(sample, self._weights[-1])))
        return self

    def blocks(self, texts: Sequence[Sequence[str]]) -> Iterator[tuple[slice, Vectors]]:
        """Rows and their (n, width) vectors, each part of unit length, zeros where an item has none."""
        for start in range(0, len(texts[0]), _ROWS):
            rows = slice(start, start + _ROWS)
            placed = [
                directions.place(self._means(part[rows], weights))
                for part, weights, directions in zip(texts, self._weights, self._directions, strict=True)
            ]
            yield rows, np.concatenate(placed, axis=1)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `restored` needs."""
        arrays: dict[str, NDArray[Any]] = {}
        for number, (weights, directions) in enumerate(zip(self._weights, self._directions, strict=True)):
            arrays[f"words_{number}"] = np.array(list(weights), dtype=np.int64)
            arrays[f"word_weights_{number}"] = np.array(list(weights.values()), dtype=np.float64)
            arrays[f"centre_{number}"], arrays[f"basis_{number}"] = directions.centre, directions.basis
        return arrays

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]]) -> "WordSpace":
        """From `arrays`."""
        space = cls()
        for number in range(len(PARTS)):
            words, weights = arrays[f"words_{number}"].tolist(), arrays[f"word_weights_{number}"].tolist()
            space._weights.append(dict(zip(words, weights, strict=True)))
            centre, basis = arrays[f"centre_{number}"], arrays[f"basis_{number}"]
            space._directions.append(Directions(centre=centre, basis=basis))
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
