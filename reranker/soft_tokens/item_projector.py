"""From an item's vector to a soft token that stands before its title.

A small network over a vector per item, as in CoLLM (Zhang et al. 2023): the text prompt is learned first and stays as
it is, then the projector. An item without a vector gets no token: its prompt is the text prompt.

**A projector is worth nothing without the vectors it was trained on.** Two fits of a factor model differ by a rotation
(measured: mean cosine 0.0 between fits with two seeds), so a projector learned over one fit says nothing of the next,
let alone of another domain. Hence a projector belongs to one domain and one table, and both are kept in one file: `fit`
takes them into the bundle together. A newer fit of the same candidate generator, or a longer table, can add items
(`VectorTable.extended`), which are rotated to where the old ones lie; the old ones keep the vectors they had.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reranker.errors import PromptError
from reranker.soft_tokens.item_vectors import VectorTable
from reranker.types import ItemId, ModelInfo
from reranker.utils.id_json import decode_ids, encode_ids
from reranker.utils.safetensors_io import read_tensors, require_base_model, write_tensors

ITEM_TOKENS_FILE = "item_tokens.safetensors"
ITEM_TOKENS_FOLDER = "item_tokens"

WEIGHTS = ("inner", "inner_bias", "outer", "outer_bias")
_KEPT_TOKENS = 1 << 14
_WHAT = "projector of item tokens"


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemTokens:
    """token = tanh(√d · v · inner + inner_bias) · outer + outer_bias, for an item with the unit vector v.

    Attributes:
        table: the vectors it was trained on.
        inner: (d, hidden) float32.
        inner_bias: (hidden,) float32.
        outer: (hidden, dim) float32.
        outer_bias: (dim,) float32.
        domain: whose items these are.
        candidates: whether tokens stand before candidates too, or before items of the history only.
        base_model_id: the model it was made for; "" when not known.
        base_model_sha256: hash of that model's weights; "" when not known.

    Raises:
        PromptError: shapes that do not belong together, or a value that is not finite.
    """

    table: VectorTable
    inner: NDArray[np.float32]
    inner_bias: NDArray[np.float32]
    outer: NDArray[np.float32]
    outer_bias: NDArray[np.float32]
    domain: str
    candidates: bool
    base_model_id: str = ""
    base_model_sha256: str = ""

    def __post_init__(self) -> None:
        for name in WEIGHTS:
            value = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            if not np.isfinite(value).all():
                raise PromptError(f"{_WHAT}: {name} has values that are not finite: training diverged, lower lr")
            object.__setattr__(self, name, value)
        hidden, dim = self.inner_bias.size, self.outer_bias.size
        wanted = [(self.table.dim, hidden), (hidden,), (hidden, dim), (dim,)]
        shapes = [getattr(self, name).shape for name in WEIGHTS]
        if shapes != wanted or not hidden or not dim:
            raise PromptError(
                f"{_WHAT} over vectors of {self.table.dim} numbers has {', '.join(WEIGHTS)} of shapes {shapes}: "
                "needs (d, hidden), (hidden,), (hidden, dim), (dim,)"
            )

    @classmethod
    def initial(
        cls,
        table: VectorTable,
        token: NDArray[np.float32],
        hidden: int,
        *,
        domain: str,
        candidates: bool,
        seed: int = 0,
    ) -> "ItemTokens":
        """Before training: every item gets `token`, (dim,), whatever its vector."""
        random = np.random.default_rng(seed)
        return cls(
            table=table,
            inner=(random.standard_normal((table.dim, hidden)) / np.sqrt(table.dim)).astype(np.float32),
            inner_bias=np.zeros(hidden, dtype=np.float32),
            outer=np.zeros((hidden, len(token)), dtype=np.float32),
            outer_bias=token,
            domain=domain,
            candidates=candidates,
        )

    @property
    def dim(self) -> int:
        """Width of the tokens: the model's embedding width."""
        return self.outer_bias.size

    @cached_property
    def sha256(self) -> str:
        """Hash of projector, table and places."""
        values = b"".join(getattr(self, name).astype("<f4").tobytes() for name in WEIGHTS)
        return hashlib.sha256(values + f"\0{self.table.sha256}\0{self.candidates}".encode()).hexdigest()

    def before_history(self, item_ids: Sequence[ItemId]) -> dict[int, NDArray[np.float32]]:
        """Position in `item_ids` -> (dim,) token of that item; no entry for an item without a vector."""
        rows = self.table.rows(item_ids).tolist()
        return {position: self._token(row) for position, row in enumerate(rows) if row >= 0}

    def before_candidates(self, item_ids: Sequence[ItemId]) -> dict[int, NDArray[np.float32]]:
        """As `before_history`; empty where only items of the history get tokens."""
        return self.before_history(item_ids) if self.candidates else {}

    def require_model(self, model: ModelInfo) -> None:
        """Raises PromptError when the projector was made for another model than `model`."""
        require_base_model(_WHAT, self.dim, self.base_model_id, self.base_model_sha256, model)

    def extended(self, other: VectorTable) -> "ItemTokens":
        """With the items that only `other` has. Raises DataError when `other` is of another space."""
        return replace(self, table=self.table.extended(other))

    def save(self, path: Path) -> None:
        """Writes safetensors: the projector and its table. Raises OSError when the disk refuses."""
        ids = np.frombuffer(json.dumps(encode_ids(self.table.item_ids)).encode(), dtype=np.uint8)
        tensors = {name: getattr(self, name) for name in WEIGHTS} | {"vectors": self.table.vectors, "item_ids": ids}
        notes = {
            "domain": self.domain,
            "table": self.table.name,
            "candidates": str(self.candidates),
            "base_model_id": self.base_model_id,
            "base_model_sha256": self.base_model_sha256,
        }
        write_tensors(path, tensors, notes)

    @classmethod
    def load(cls, path: Path) -> "ItemTokens":
        """Reads what `save` wrote.

        Raises:
            PromptError: the file is missing, damaged or something else.
            BundleError: an id in it is damaged.
        """
        tensors, notes = read_tensors(path, (*WEIGHTS, "vectors", "item_ids"), _WHAT)
        vectors = tensors.pop("vectors")
        try:
            ids = decode_ids(json.loads(tensors.pop("item_ids").tobytes()))
        except ValueError as error:
            raise PromptError(f"{path}: its item ids are damaged ({error}), save it again") from error
        if vectors.ndim != 2 or len(ids) != len(vectors) or not np.isfinite(vectors).all():
            raise PromptError(
                f"{path} is damaged: {len(ids)} items and vectors of shape {vectors.shape}, save it again"
            )
        return cls(
            **tensors,
            table=VectorTable(item_ids=ids, vectors=vectors, name=notes.get("table", "")),
            domain=notes.get("domain", ""),
            candidates=notes.get("candidates") == str(True),
            base_model_id=notes.get("base_model_id", ""),
            base_model_sha256=notes.get("base_model_sha256", ""),
        )

    @cached_property
    def _token(self) -> Callable[[int], NDArray[np.float32]]:
        """`_project`, its newest results kept."""
        return lru_cache(maxsize=_KEPT_TOKENS)(self._project)

    def _project(self, row: int) -> NDArray[np.float32]:
        # One row at a time: a sum over a batch may round otherwise, and an item's token is known by its bits.
        inner = np.tanh(np.sqrt(np.float32(self.table.dim)) * self.table.vectors[row] @ self.inner + self.inner_bias)
        return np.asarray(inner @ self.outer + self.outer_bias, dtype=np.float32)


def save_item_tokens(tokens: Mapping[str, ItemTokens], directory: Path) -> None:
    """Writes each domain's projector to a folder in `directory`. Raises OSError when the disk refuses."""
    folder = directory / ITEM_TOKENS_FOLDER
    folder.mkdir(exist_ok=True)
    # Files are numbered because domains may not be legal file names.
    for number, one in enumerate(tokens.values()):
        one.save(folder / f"{number:06d}.safetensors")


def load_item_tokens(directory: Path) -> dict[str, ItemTokens]:
    """Domain -> projector, as `save_item_tokens` wrote them; empty where there are none.

    Raises:
        PromptError: a file is damaged.
    """
    found = [ItemTokens.load(path) for path in sorted((directory / ITEM_TOKENS_FOLDER).glob("*.safetensors"))]
    return {one.domain: one for one in found}
