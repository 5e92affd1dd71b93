"""Attention of packed rows, in the place of a transformers model's own.

All rows of a batch stand in one sequence, without padding. A row's trunk (its prefix, or all of it where it is one
plain prompt) attends causally; its nodes attend to the trunk and to their own group. A mask over all pairs of a row's
tokens, which transformers models take, costs the square of the row: a third of a long list's time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from reranker.engines.torch.packing import BoolArray, PackedRow
from reranker.errors import ModelError
from reranker.types import IntArray

FULL, SLIDING = "full_attention", "sliding_attention"

Beginning = Mapping[int, tuple[torch.Tensor, torch.Tensor]]
"""What rows come behind: layer -> (1, key heads, tokens, d) keys and values, as attention gets them; empty for none."""

_NAME = "reranker_packed"
_OPAQUE = "reranker_packed_opaque"  # the same, which a compiler does not look into
_TRUNK_BLOCK = 64  # queries of a trunk that attend together, and what larger blocks are multiples of
_TRUNK_BLOCKS = {"cpu": 8}  # at most: SDPA's own causal mask skips nothing within 512 keys on a CPU


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionKind:
    """What a plan must know of a model.

    Attributes:
        layers: which of `FULL` and `SLIDING` there are.
        window: of the sliding ones, in tokens.
        queries: query heads a key head.
        dtype: of masks.
    """

    layers: frozenset[str]
    window: int
    queries: int
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """Queries and the keys that they may attend to, a block a row or group. Padding stands at any place.

    Attributes:
        queries: (n, most queries) places among the tokens.
        keys: (n, most keys) places among the keys: a common beginning, then the tokens.
        masks: kind of layer -> additive (n, 1, most queries x query heads a key head, most keys).
    """

    queries: torch.Tensor
    keys: torch.Tensor
    masks: Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Who attends to whom.

    Attributes:
        sides: trunks in blocks, which see those before them; then groups of nodes.
        back: (n_tokens,) where each token stands among the queries of the sides, one after the other.
        positions: (n_tokens,) of each token in its own prompt: what rotary embeddings are given.
        behind: the beginning that all rows come behind.
    """

    sides: Sequence[Side]
    back: torch.Tensor
    positions: torch.Tensor
    behind: Beginning


def planned(rows: Sequence[PackedRow], behind: Beginning, kind: AttentionKind, device: torch.device) -> Plan:
    """The plan of rows that stand one after the other.

    Args:
        rows: packed requests.
        behind: the beginning that all rows come behind.
        kind: what the model is like.
        device: where the plan will be.
    """
    begin = next((key.shape[2] for key, _ in behind.values()), 0)
    builder = _Builder(rows, begin, kind, device)
    starts = begin + np.cumsum([0] + [len(row) for row in rows])
    lengths = [len(row) if row.is_chain else len(row.prefix) for row in rows]
    trunks, real = _padded([np.arange(start, start + length) for start, length in zip(starts, lengths, strict=False)])
    keys = np.concatenate([np.tile(np.arange(begin), (len(rows), 1)), trunks], axis=1)
    known = np.concatenate([np.ones((len(rows), begin), dtype=np.bool_), real], axis=1)
    sees = np.tri(trunks.shape[1], keys.shape[1], begin, dtype=np.bool_) & known[:, None]
    blocks = _TRUNK_BLOCKS.get(device.type, 1)  # a GPU is kept waiting by every further launch
    size = _TRUNK_BLOCK * -(-trunks.shape[1] // (_TRUNK_BLOCK * blocks))
    for start in range(0, trunks.shape[1], size):
        part, end = slice(start, start + size), begin + start + size
        builder.add(trunks[:, part], real[:, part], keys[:, :end], sees[:, part, :end])

    members = [
        (number, group) for number, row in enumerate(rows) if not row.is_chain for group in range(len(row.groups) - 1)
    ]
    if members:
        nodes = starts[:-1] + [len(row.prefix) for row in rows]
        groups, real = _padded([nodes[row] + np.arange(*rows[row].groups[group:][:2]) for row, group in members])
        owners = np.array([row for row, _ in members])
        sees = np.zeros((*groups.shape, keys.shape[1] + groups.shape[1]), dtype=np.bool_)
        sees[:, :, : keys.shape[1]] = known[owners][:, None]
        for one, (row, group) in zip(sees[:, :, keys.shape[1] :], members, strict=True):
            visible = rows[row].visible(group)
            one[: len(visible), : len(visible)] = visible
        builder.add(groups, real, np.concatenate([keys[owners], groups], axis=1), sees)
    return builder.plan(behind)


class _Builder:
    """Arrays of places to a plan. Places count keys: the common beginning, then all tokens."""

    def __init__(self, rows: Sequence[PackedRow], begin: int, kind: AttentionKind, device: torch.device) -> None:
        self._positions = np.concatenate([np.arange(begin), *(begin + row.positions for row in rows)])
        self._begin, self._kind, self._device = begin, kind, device
        self._sides: list[Side] = []
        self._back = np.zeros(len(self._positions) - begin, dtype=np.int64)
        self._queries = 0

    def add(self, queries: IntArray, real: BoolArray, keys: IntArray, sees: BoolArray) -> None:
        """A side.

        Args:
            queries: (n, q).
            real: (n, q) False for padding.
            keys: (n, k).
            sees: (n, q, k) who attends to whom.
        """
        self._back[queries[real] - self._begin] = self._queries + np.flatnonzero(real)
        self._queries += queries.size
        masks: dict[str, torch.Tensor] = {}
        for layer in self._kind.layers:
            seen = sees
            if layer == SLIDING:
                apart = self._positions[queries][:, :, None] - self._positions[keys][:, None]
                seen = sees & (apart < self._kind.window)
            masks[layer] = self._additive(seen)
        places = np.maximum(queries - self._begin, 0)
        self._sides.append(Side(queries=self._tensor(places), keys=self._tensor(keys), masks=masks))

    def plan(self, behind: Beginning) -> Plan:
        positions = self._positions[self._begin :]
        return Plan(sides=self._sides, back=self._tensor(self._back), positions=self._tensor(positions), behind=behind)

    def _additive(self, seen: BoolArray) -> torch.Tensor:
        """0 where seen, the dtype's minimum elsewhere: SDPA on a CPU is faster with it than with booleans."""
        blind = ~seen
        blind[..., 0] &= ~blind.all(axis=-1)  # padding needs something to attend to, or it makes NaN
        mask = torch.zeros(blind.shape, dtype=self._kind.dtype, device=self._device)
        mask.masked_fill_(self._tensor(blind), torch.finfo(mask.dtype).min)
        return mask.repeat_interleave(self._kind.queries, dim=1)[:, None]

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _padded(runs: Sequence[IntArray]) -> tuple[IntArray, BoolArray]:
    """(n, longest) runs, with places of others behind their ends, evenly; and which are real."""
    real = np.arange(max(map(len, runs))) < np.array([len(run) for run in runs])[:, None]
    places = np.concatenate(runs)
    padded = np.empty(real.shape, dtype=np.int64)
    padded[real] = places
    padded[~real] = np.resize(places, np.count_nonzero(~real))
    return padded, real


@contextmanager
def attending(plan: Plan) -> Iterator[None]:
    """Models that `use_packed_attention` was called for attend by the plan inside."""
    token = _PLAN.set(plan)
    try:
        yield
    finally:
        _PLAN.reset(token)


@contextmanager
def recording() -> Iterator[Beginning]:
    """What a model that `use_packed_attention` was called for reads inside, one sequence, as a beginning."""
    record: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    token = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(token)


def is_attending() -> bool:
    """Whether there is a plan."""
    return _PLAN.get() is not None


def use_packed_attention(lm: Any, *, opaque: bool = False) -> None:
    """Has a transformers model attend by plans; without one it does what it did.

    Args:
        lm: the model.
        opaque: whether its layers are compiled: a compiler cannot follow a plan.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    name = _OPAQUE if opaque else _NAME
    disable: Any = torch.compiler.disable
    AttentionInterface.register(name, disable(_attention) if opaque else _attention)
    AttentionMaskInterface.register(name, sdpa_mask)
    lm.set_attn_implementation(name)


_NOT_HERE = {"s_aux": "attention sinks", "position_bias": "biases of attention"}  # what a layer may ask for -> in words

_PLAN: ContextVar[Plan | None] = ContextVar("plan", default=None)
_RECORD: ContextVar[dict[int, tuple[torch.Tensor, torch.Tensor]] | None] = ContextVar("record", default=None)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What every layer calls.

    Args:
        module: the layer.
        query: (1, heads, tokens, d).
        key, value: (1, key heads, tokens, d), without those of the plan's beginning.
        attention_mask: of no meaning where there is a plan.
        scaling: factor on the products.
        softcap: bound of the scaled products, or None.
        **kwargs: `sliding_window`, and what SDPA takes.

    Returns:
        (1, tokens, heads, d), and no weights.

    Raises:
        ModelError: the layer wants what is not computed here.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    for option, meaning in _NOT_HERE.items():
        if kwargs.get(option) is not None:
            raise ModelError(
                f"the torch engine does not compute {meaning} ({option} of {type(module).__name__}); use engine='vllm'"
            )
    plan, record = _PLAN.get(), _RECORD.get()
    if record is not None:
        record[module.layer_idx] = key, value
    if plan is None and softcap is not None:
        return _attend_capped(query, key, value, attention_mask, scaling, softcap), None
    if plan is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return output, None
    if plan.behind:
        first_key, first_value = plan.behind[module.layer_idx]
        key, value = torch.cat([first_key, key], dim=2), torch.cat([first_value, value], dim=2)
    kind = FULL if kwargs.get("sliding_window") is None else SLIDING
    tokens, keys, values = (one[0].transpose(0, 1) for one in (query, key, value))
    parts = [
        _attend(
            _rows(tokens, side.queries),
            _rows(keys, side.keys),
            _rows(values, side.keys),
            _mask_of(side, kind),
            scaling,
            softcap,
        )
        for side in plan.sides
    ]
    return _rows(torch.cat(parts), plan.back)[None], None


def _rows(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """`values[places]`; the gradient of that expression is summed place by place, and this is faster on a CPU, too."""
    return values.index_select(0, places.reshape(-1)).view(*places.shape, *values.shape[1:])


def _mask_of(side: Side, kind: str) -> torch.Tensor:
    """Models all of whose layers are alike may say of a window what they like."""
    return side.masks[kind] if len(side.masks) > 1 else next(iter(side.masks.values()))


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """(n, q, heads, d), (n, k, key heads, d) -> (n q, heads, d).

    The query heads of a key head are read as further queries, so that no key is copied.
    """
    count, length, heads, dim = query.shape
    key_heads = key.shape[2]
    grouped = query.view(count, length, key_heads, heads // key_heads, dim).transpose(1, 2)
    wanted = grouped.flatten(2, 3), key.transpose(1, 2), value.transpose(1, 2)
    if softcap is None:
        output = functional.scaled_dot_product_attention(*wanted, attn_mask=mask, scale=scaling)
    else:
        output = _capped(*wanted, mask, scaling, softcap)
    outputs = output.view(count, key_heads, length, heads // key_heads, -1).transpose(1, 2)
    return outputs.flatten(2, 3).flatten(0, 1)


def _attend_capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """(n, heads, q, d), (n, key heads, k, d) -> (n, q, heads, d) without a plan, by transformers' mask for SDPA."""
    length, keys = query.shape[2], key.shape[2]
    if mask is None:  # one query sees all keys
        mask = torch.ones((length, keys), dtype=torch.bool, device=query.device).tril(keys - 1 if length == 1 else 0)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)
    key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], dim=1) for one in (key, value))
    return _capped(query, key, value, mask, scaling, softcap).transpose(1, 2).contiguous()


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """(..., q, d), (..., k, d) -> (..., q, d), as transformers' eager attention of Gemma-2: softcap tanh(x / softcap).

    SDPA knows no such bound, and transformers leaves it out there without a word.
    """
    products = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(products / softcap) + mask
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype) @ value
