"""What is known of items beside who chose them: their texts, or vectors of the user's own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from candidate_gen.item_texts import PARTS, part_texts
from reranker.data.item_vectors import validate_item_vectors
from reranker.data.schema import ITEM, TIMESTAMP, validate_items
from reranker.errors import ConfigError, DataError
from reranker.types import ItemId
from reranker.utils.id_json import decode_ids, encode_ids


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """Texts or vectors of items.

    Attributes:
        ids: the items.
        texts: title, category and description, one list a part; None where there are vectors.
        vectors: (n_items, d); (n_items, 0) where there are texts.
        came: (n_items,) when each item came, numbers or times without a zone; None where nobody says.
    """

    ids: list[ItemId]
    texts: list[list[str]] | None
    vectors: NDArray[np.float32]
    came: pd.Series | None = None

    @classmethod
    def of(cls, items: pd.DataFrame | None, vectors: pd.DataFrame | None) -> "Content | None":
        """From an item table, or from a table of vectors; None from neither.

        Raises:
            ConfigError: both were given.
            DataError: the table breaks its contract.
        """
        if items is not None and vectors is not None:
            raise ConfigError("TextGenerator: give items= (texts) or vectors=, not both")
        if vectors is not None:
            ids, values = validate_item_vectors(vectors)
            return cls(ids=ids, texts=None, vectors=values)
        if items is None:
            return None
        table = validate_items(items)
        came = comparable_times(table[TIMESTAMP], "items") if TIMESTAMP in table else None
        nothing = np.zeros((len(table), 0), dtype=np.float32)
        return cls(ids=table[ITEM].tolist(), texts=part_texts(table), vectors=nothing, came=came)

    @cached_property
    def rows(self) -> dict[ItemId, int]:
        """Row of each item."""
        return {item: row for row, item in enumerate(self.ids)}

    def with_more(self, added: "Content") -> "Content":
        """These items and those of `added` that are new; nobody says any longer when they came, if `added` does not.

        Raises:
            DataError: vectors of another width.
        """
        rows = [row for row, item in enumerate(added.ids) if item not in self.rows]
        if self.vectors.shape[1] != added.vectors.shape[1]:
            raise DataError(
                f"table 'item_vectors': vectors of {added.vectors.shape[1]} numbers, those known have "
                f"{self.vectors.shape[1]}"
            )
        came = None
        if self.came is not None and added.came is not None:
            came = pd.concat([self.came, added.came.iloc[rows]], ignore_index=True)
        texts = self.texts
        if texts is not None and added.texts is not None:
            texts = [[*mine, *(more[row] for row in rows)] for mine, more in zip(texts, added.texts, strict=True)]
        return replace(
            self,
            ids=[*self.ids, *(added.ids[row] for row in rows)],
            texts=texts,
            vectors=np.concatenate([self.vectors, added.vectors[rows]]),
            came=came,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `restored` needs, without pickle."""
        arrays: dict[str, NDArray[Any]] = {
            "content_ids": _bytes(json.dumps(encode_ids(self.ids)).encode()),
            "content_vectors": self.vectors,
        }
        if self.texts is not None:
            arrays["content_texts"] = _bytes(json.dumps(self.texts).encode("utf-8", "surrogatepass"))
        if self.came is not None:
            arrays["content_came"] = self.came.to_numpy()
        return arrays

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]]) -> "Content":
        """From `arrays`.

        Raises:
            KeyError, ValueError: it is not what `arrays` gave.
        """
        texts = None
        if "content_texts" in arrays:
            texts = json.loads(arrays["content_texts"].tobytes())
            if len(texts) != len(PARTS):
                raise ValueError(f"{len(texts)} parts of texts")
        return cls(
            ids=decode_ids(json.loads(arrays["content_ids"].tobytes())),
            texts=texts,
            vectors=arrays["content_vectors"],
            came=pd.Series(arrays["content_came"]) if "content_came" in arrays else None,
        )


def comparable_times(times: pd.Series, name: str) -> pd.Series:
    """Numbers as they are, times without a zone (in UTC): what can be kept and compared.

    Raises:
        DataError: they are neither, or one is missing.
    """
    if times.isna().any():
        raise DataError(f"table {name!r}, column {TIMESTAMP!r}: {int(times.isna().sum())} values are missing")
    if pd.api.types.is_numeric_dtype(times):
        return times.reset_index(drop=True)
    if pd.api.types.is_datetime64_any_dtype(times):
        return pd.to_datetime(times, utc=True).dt.tz_localize(None).reset_index(drop=True)
    raise DataError(
        f"table {name!r}, column {TIMESTAMP!r}: neither numbers nor times (first: {times.iloc[0]!r}). Convert them, "
        "for instance with pandas.to_datetime"
    )


def _bytes(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, dtype=np.uint8)
