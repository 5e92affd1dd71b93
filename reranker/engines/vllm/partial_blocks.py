"""What the prefix cache leaves out: the end of a shared prefix that does not fill a block.

vLLM caches whole blocks, so each candidate would compute the rest of its user's prefix anew: on average half a block,
which on a CPU (blocks of 32) is twice as long as the candidate. This KV connector, vLLM's own door for outside caches,
copies the half-filled block instead. One request computes the prefix alone, and its last block is kept under the number
`KEPT_TAIL` in one of `TAIL_ROWS` rows; the candidates, which name that number as their `TAIL`, get a copy of it. A
request may do both: begin with one prefix, and be another.

Blocks are copied whole, so the layout within a block does not matter, only that blocks are the first axis.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata

from reranker.engines.vllm.waiting import wait_without_spinning
from reranker.engines.vllm.wire import KEPT_TAIL, LENGTH, TAIL, TAIL_ROWS


@dataclass(kw_only=True)
class TailCopies(KVConnectorMetadata):  # type: ignore[misc]
    """What the worker does in one step.

    Attributes:
        loads: (row, block) copied before the forward pass.
        saves: (block, row) copied after it.
    """

    loads: list[tuple[int, int]] = field(default_factory=list)
    saves: list[tuple[int, int]] = field(default_factory=list)


class PrefixTails(KVConnectorBase_V1):  # type: ignore[misc]
    """Both sides of the connector: vLLM makes one in the scheduler and one in the worker."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        wait_without_spinning()
        self._block = int(vllm_config.cache_config.block_size)
        self._rows: dict[int, int] = {}  # tail -> row, oldest first
        self._computing: dict[str, Any] = {}  # requests that compute a prefix
        self._copies = TailCopies()
        self._caches: list[torch.Tensor] = []
        self._kept: list[torch.Tensor] = []

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """How much of the prefix lies beyond its last whole block and can be copied."""
        tail = _tail(request)
        if tail is None or tail[0] not in self._rows or request.num_prompt_tokens <= tail[1]:
            return 0, False
        beyond = tail[1] - num_computed_tokens
        return (beyond, False) if 0 < beyond < self._block else (0, False)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        tail = _tail(request)
        if tail and num_external_tokens:
            block = blocks.get_block_ids()[0][tail[1] // self._block]
            self._copies.loads.append((self._rows[tail[0]], block))
        if KEPT_TAIL in (request.kv_transfer_params or {}):
            self._computing[request.request_id] = request

    def build_connector_meta(self, scheduler_output: Any) -> TailCopies:
        for name, scheduled in scheduler_output.num_scheduled_tokens.items():
            request = self._computing.get(name)
            if request is None or request.num_computed_tokens + scheduled < request.num_prompt_tokens:
                continue
            block = self._kv_cache_manager.get_block_ids(name)[0][request.num_prompt_tokens // self._block]
            self._copies.saves.append((block, self._row(request.kv_transfer_params[KEPT_TAIL])))
            del self._computing[name]
        copies, self._copies = self._copies, TailCopies()
        return copies

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, None]:
        self._computing.pop(request.request_id, None)
        return False, None

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._caches = list(kv_caches.values())
        self._kept = [torch.zeros((TAIL_ROWS, *cache.shape[1:]), dtype=cache.dtype) for cache in self._caches]

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if loads := self._get_connector_metadata().loads:
            rows, blocks = torch.tensor(loads).T
            for cache, kept in zip(self._caches, self._kept, strict=True):
                cache[blocks] = kept[rows]

    def wait_for_save(self) -> None:
        if saves := self._get_connector_metadata().saves:
            blocks, rows = torch.tensor(saves).T
            for cache, kept in zip(self._caches, self._kept, strict=True):
                kept[rows] = cache[blocks]

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are complete before the forward pass."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Blocks are copied after the forward pass."""

    def _row(self, tail: int) -> int:
        row = self._rows.pop(tail, len(self._rows))
        if row == TAIL_ROWS:
            row = self._rows.pop(next(iter(self._rows)))
        self._rows[tail] = row
        return row


def _tail(request: Any) -> tuple[int, int] | None:
    """(tail, length of its prefix) that a request begins with."""
    parameters = request.kv_transfer_params or {}
    return (parameters[TAIL], parameters[LENGTH]) if TAIL in parameters else None
