"""Runs packed rows through a transformers causal LM and reads log-probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reranker.engines.head import head_of
from reranker.engines.packing import PackedRow
from reranker.errors import ModelError
from reranker.types import IntArray, TokenSequence

_FULL, _SLIDING = "full_attention", "sliding_attention"


class PackedLM:
    """A causal LM that takes 4D attention masks.

    Args:
        lm: a loaded transformers causal LM.
        device: where it is.

    Raises:
        ModelError: its attention is of a kind that a mask cannot describe.
    """

    def __init__(self, lm: Any, device: torch.device) -> None:
        config = lm.config.get_text_config()
        self._config = config
        self._trunk = lm.base_model
        self._embeddings = lm.get_input_embeddings()
        self._head = head_of(lm)
        self._device = device
        self._layer_types = _layer_types(config)
        self._window = int(getattr(config, "sliding_window", None) or 0)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    def embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """(len, dim) rows of the embedding table, as the first layer gets them."""
        rows: torch.Tensor = self._embeddings(torch.tensor(token_ids, dtype=torch.int64, device=self._device))
        return rows

    def log_probs(
        self, rows: Sequence[PackedRow], labels: IntArray | None, behind: Any = None
    ) -> list[NDArray[np.float64]]:
        """Per row: (n_pairs,) log p(target), or (n_pairs, n_labels) log p(label), in nats.

        Args:
            rows: packed requests.
            labels: token ids, or None for the rows' own targets.
            behind: what `remember` returned: what all rows come behind.
        """
        hidden = self._hidden(rows, behind=behind)
        begins = np.cumsum([0] + [len(row.reads) for row in rows])
        pair_reads = [row.pair_reads + begin for row, begin in zip(rows, begins, strict=False)]
        reads = self._tensor(np.concatenate(pair_reads))
        if labels is None:
            targets = self._tensor(np.concatenate([row.pair_targets for row in rows]))
        else:
            targets = self._tensor(labels).expand(len(reads), -1)
        values = self._head.log_probs(hidden, targets, reads).cpu().numpy().astype(np.float64)
        return np.split(values, np.cumsum([len(row.pair_reads) for row in rows])[:-1])

    def states(self, rows: Sequence[PackedRow], behind: Any = None) -> list[NDArray[np.float32]]:
        """Per row: (n_reads, dim) states after the last norm; `behind` as in `log_probs`."""
        values: NDArray[np.float32] = self._hidden(rows, behind=behind).float().cpu().numpy()
        return np.split(values, np.cumsum([len(row.reads) for row in rows])[:-1])

    def differentiable_log_probs(
        self, rows: Sequence[PackedRow], vectors: Sequence[torch.Tensor], behind: Any = None
    ) -> list[torch.Tensor]:
        """Per row: (n_pairs,) log p(target) in nats, with a graph back to `vectors`.

        Args:
            rows: packed requests.
            vectors: per row (n_vectors, dim), read at the vector positions of its prefix and then of its nodes, in
                place of those it holds.
            behind: what `remember` returned: what all rows come behind. No gradient goes there.
        """
        hidden = self._hidden(rows, vectors, behind)
        begins = np.cumsum([0] + [len(row.reads) for row in rows])
        reads = np.concatenate([row.pair_reads + begin for row, begin in zip(rows, begins, strict=False)])
        targets = np.concatenate([row.pair_targets for row in rows])
        values = self._head.log_probs(hidden, self._tensor(targets), self._tensor(reads))
        return list(torch.split(values, [len(row.pair_reads) for row in rows]))

    @torch.no_grad()
    def remember(self, sequence: TokenSequence, vectors: torch.Tensor | None = None) -> Any:
        """Keys and values of a beginning of many rows, computed once.

        Args:
            sequence: the beginning.
            vectors: (n_vectors, dim) in place of those it holds.
        """
        from transformers import DynamicCache

        cache = DynamicCache()  # without the config: layers of a sliding window, too, keep everything for the masks
        embeddings = self._input(sequence)
        if vectors is not None and not sequence.is_plain:
            embeddings[self._tensor(sequence.vector_positions)] = vectors.to(embeddings)
        self._trunk(inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True)
        return cache

    def new_cache(self) -> Any:
        """An empty KV cache for `next_logits`."""
        from transformers import DynamicCache

        return DynamicCache(config=self._config)

    def next_logits(self, sequence: TokenSequence, cache: Any) -> NDArray[np.float32]:
        """(vocabulary,) logits after `sequence`, which continues what is in `cache` and joins it."""
        states = self._trunk(
            inputs_embeds=self._input(sequence)[None], past_key_values=cache, use_cache=True
        ).last_hidden_state
        logits: NDArray[np.float32] = self._head.logits(states[0, -1]).cpu().numpy()
        return logits

    def _hidden(
        self, rows: Sequence[PackedRow], vectors: Sequence[torch.Tensor] | None = None, behind: Any = None
    ) -> torch.Tensor:
        """(total reads, dim) last hidden states at the rows' reads, row after row."""
        longest, begin = max(map(len, rows)), 0 if behind is None else behind.get_seq_length()
        embeddings = self._embeddings.weight.new_zeros((len(rows), longest, self._embeddings.weight.shape[1]))
        positions = np.zeros((len(rows), longest), dtype=np.int64)
        visible = np.zeros((len(rows), 1, longest, begin + longest), dtype=np.bool_)
        visible[..., : max(begin, 1)] = True  # padding needs something to attend to, or it makes NaN
        for number, row in enumerate(rows):
            whole = TokenSequence.concatenate([row.prefix, row.nodes])
            embeddings[number, : len(row)] = self._input(whole)
            if vectors is not None and not whole.is_plain:
                embeddings[number, self._tensor(whole.vector_positions)] = vectors[number].to(embeddings)
            positions[number, : len(row)] = begin + row.positions
            visible[number, 0, : len(row), begin : begin + len(row)] = row.visible()
        states = self._trunk(
            inputs_embeds=embeddings,
            position_ids=self._tensor(positions),
            attention_mask=self._masks(visible, positions, embeddings.dtype),
            past_key_values=None if behind is None else _repeated(behind, len(rows)),
            use_cache=behind is not None,
        ).last_hidden_state
        flat = [number * longest + len(row.prefix) + row.reads for number, row in enumerate(rows)]
        selected: torch.Tensor = states.flatten(0, 1)[self._tensor(np.concatenate(flat))]
        return selected

    def _input(self, sequence: TokenSequence) -> torch.Tensor:
        embeddings: torch.Tensor = self._embeddings(self._tensor(np.where(_is_soft(sequence), 0, sequence.token_ids)))
        if not sequence.is_plain:
            embeddings[self._tensor(sequence.vector_positions)] = torch.from_numpy(sequence.vectors).to(embeddings)
        return embeddings

    def _masks(
        self, visible: NDArray[np.bool_], positions: NDArray[np.int64], dtype: torch.dtype
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Additive masks of the shape of `visible`: one, or one for each kind of layer.

        Args:
            visible: (rows, 1, longest, begin + longest), behind `begin` tokens that all rows share.
            positions: (rows, longest).
        """
        full = self._additive(visible, dtype)
        if _SLIDING not in self._layer_types:
            return full
        shared = np.tile(np.arange(visible.shape[-1] - positions.shape[1]), (len(positions), 1))
        near = positions[:, None, :, None] - np.concatenate([shared, positions], axis=1)[:, None, None] < self._window
        near[..., 0] |= ~(visible & near).any(axis=-1)
        sliding = self._additive(visible & near, dtype)
        return {_FULL: full, _SLIDING: sliding} if _FULL in self._layer_types else sliding

    def _additive(self, visible: NDArray[np.bool_], dtype: torch.dtype) -> torch.Tensor:
        """0 where visible, the dtype's minimum elsewhere: SDPA on a CPU is faster with it than with booleans."""
        mask = torch.zeros(visible.shape, dtype=dtype, device=self._device)
        return mask.masked_fill_(self._tensor(~visible), torch.finfo(dtype).min)

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _repeated(cache: Any, rows: int) -> Any:
    """A KV cache of one row for several."""
    from transformers import DynamicCache

    repeated = DynamicCache()
    for number, layer in enumerate(cache.layers):
        repeated.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number)
    return repeated


def _is_soft(sequence: TokenSequence) -> NDArray[np.bool_]:
    soft = np.zeros(len(sequence), dtype=np.bool_)
    soft[sequence.vector_positions] = True
    return soft


def _layer_types(config: Any) -> frozenset[str]:
    """Which kinds of attention the layers have.

    Raises:
        ModelError: a kind that a mask over positions does not describe (linear attention, chunks).
    """
    default = _SLIDING if getattr(config, "sliding_window", None) else _FULL
    kinds = frozenset(getattr(config, "layer_types", None) or [default])
    unknown = kinds - {_FULL, _SLIDING}
    if unknown:
        raise ModelError(
            f"the torch engine cannot pack a model with {', '.join(sorted(unknown))} layers "
            f"({config.model_type}); use engine='vllm'"
        )
    return kinds
