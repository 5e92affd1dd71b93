"""Item tokens while their projector learns: a table's rows stand in the prompts, and become tokens with a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from reranker.soft_tokens import WEIGHTS, ItemTokens
from reranker.types import IntArray, ItemId, TokenSequence

Values = Mapping[str, torch.Tensor]


def projector_leaves(tokens: Mapping[str, ItemTokens], device: torch.device) -> dict[str, torch.Tensor]:
    """Parameters that an optimizer moves: a projector a domain."""
    return {
        _name(domain, weight): torch.from_numpy(getattr(one, weight).copy()).to(device)
        for domain, one in tokens.items()
        for weight in WEIGHTS
    }


def trained_item_tokens(
    values: Values, start: Mapping[str, ItemTokens], base_model_id: str = "", base_model_sha256: str = ""
) -> dict[str, ItemTokens]:
    """`start` with trained parameters."""
    trained = {}
    for domain, one in start.items():
        inner, inner_bias, outer, outer_bias = (
            values[_name(domain, weight)].detach().float().cpu().numpy().copy() for weight in WEIGHTS
        )
        trained[domain] = replace(
            one,
            inner=inner,
            inner_bias=inner_bias,
            outer=outer,
            outer_bias=outer_bias,
            base_model_id=base_model_id,
            base_model_sha256=base_model_sha256,
        )
    return trained


class ItemProjection:
    """The tokens of one domain's items under the parameters of this moment.

    Args:
        tokens: of the domain.
        values: parameters by name.
    """

    def __init__(self, tokens: ItemTokens, values: Values) -> None:
        self._tokens = tokens
        self._weights = [values[_name(tokens.domain, weight)] for weight in WEIGHTS]

    def at(self, sequence: TokenSequence, skip: int = 0) -> torch.Tensor:
        """(n_vectors - skip, dim) tokens of the items that stand in for vectors in `sequence`, a graph of its own.

        Args:
            sequence: rendered with `stand_ins`.
            skip: vectors in front that are no items.
        """
        return self.tokens(sequence.vectors[skip:, :1].astype(np.int64).reshape(-1))

    def tokens(self, rows: IntArray) -> torch.Tensor:
        """(len(rows), dim) tokens of rows of the table: `ItemTokens`, differentiable."""
        inner, inner_bias, outer, outer_bias = self._weights
        vectors = torch.from_numpy(self._tokens.table.vectors[rows]).to(inner) * self._tokens.table.dim**0.5
        return torch.tanh(vectors @ inner + inner_bias) @ outer + outer_bias


def stand_ins(tokens: ItemTokens, item_ids: Sequence[ItemId]) -> dict[int, NDArray[np.float32]]:
    """Position in `item_ids` -> (dim,) vector that holds the item's row in the table; float32 is exact to 2^24 rows."""
    found = {}
    for position, row in enumerate(tokens.table.rows(item_ids).tolist()):
        if row >= 0:
            found[position] = np.zeros(tokens.dim, dtype=np.float32)
            found[position][0] = row
    return found


def _name(domain: str, weight: str) -> str:
    return f"item_tokens.{domain}.{weight}"
