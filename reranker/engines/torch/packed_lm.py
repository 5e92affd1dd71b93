"""Runs packed rows through a transformers causal LM and reads log-probabilities."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reranker.engines.lm_head import head_of
from reranker.engines.torch.attention import (
    FULL,
    SLIDING,
    AttentionKind,
    Beginning,
    attending,
    planned,
    recording,
    use_packed_attention,
)
from reranker.engines.torch.compiling import compile_layers
from reranker.engines.torch.packing import PackedRow, pack
from reranker.errors import ModelError
from reranker.types import CandidateSpan, IntArray, ScoringRequest, TokenSequence

TESTED = frozenset({"gemma3_text", "llama", "mistral", "qwen2", "qwen3"})
"""Types of models that the tests compare with their own reading, so that loading one need not."""

_NOTHING: Beginning = {}
_VOCABULARY_PART = 8192  # embeddings that are averaged at a time
_EXACT, _ROUNDED = 1e-4, 0.1  # tolerances; float32 makes 1e-6, bfloat16 0.01
_PROMPT, _PREFIX = 6, 2  # tokens of a prompt that a model is checked with, and of what such prompts may share


class PackedLM:
    """A causal LM that attends as packed rows need.

    Args:
        lm: a loaded transformers causal LM.
        device: where it is.
        compiled: whether its layers are compiled for packed rows that need no gradients.

    Raises:
        ModelError: its attention is of a kind that rows cannot be packed for, packed rows read otherwise than the
            model itself reads their prompts, or its layers cannot be compiled.
    """

    def __init__(self, lm: Any, device: torch.device, *, compiled: bool = False) -> None:
        self._config = lm.config.get_text_config()
        self._trunk = lm.base_model
        self._embeddings = lm.get_input_embeddings()
        self._head = head_of(lm)
        self._device = device
        self._attention = _attention_of(lm)
        self._layers = _layers_of(self._trunk, self._config.num_hidden_layers)
        self._shortened: dict[int, Any] = {}
        if lm.config.model_type in TESTED:
            use_packed_attention(lm, opaque=compiled)
        else:
            self._attend_packed(lm, opaque=compiled)
        if compiled:
            compile_layers(lm)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    def embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """(len, dim) rows of the embedding table, as the first layer gets them."""
        rows: torch.Tensor = self._embeddings(torch.tensor(token_ids, dtype=torch.int64, device=self._device))
        return rows

    @torch.no_grad()
    def mean_embedding(self) -> torch.Tensor:
        """(dim,) float32 mean of the vocabulary's embeddings, as the first layer gets them: no word."""
        size = self._config.vocab_size
        sums = [
            self.embed(range(begin, min(begin + _VOCABULARY_PART, size))).float().sum(dim=0)
            for begin in range(0, size, _VOCABULARY_PART)
        ]
        mean: torch.Tensor = torch.stack(sums).sum(dim=0) / size
        return mean

    def log_probs(
        self, rows: Sequence[PackedRow], labels: IntArray | None, behind: Beginning = _NOTHING
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

    @property
    def n_layers(self) -> int:
        """Layers that states can be read after; 0 where the model's layers are in no list of their own."""
        return 0 if self._layers is None else len(getattr(self._trunk, self._layers))

    def states(
        self, rows: Sequence[PackedRow], behind: Beginning = _NOTHING, layer: int | None = None
    ) -> list[NDArray[np.float32]]:
        """Per row: (n_reads, dim) states after the last norm.

        Args:
            rows: packed requests.
            behind: as in `log_probs`.
            layer: how many layers are computed, `n_layers` at most; the norm follows the last of them. None for all.
        """
        values: NDArray[np.float32] = self._hidden(rows, behind=behind, layer=layer).float().cpu().numpy()
        return np.split(values, np.cumsum([len(row.reads) for row in rows])[:-1])

    def differentiable_log_probs(
        self, rows: Sequence[PackedRow], vectors: Sequence[torch.Tensor], behind: Beginning = _NOTHING
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
    def remember(self, sequence: TokenSequence, vectors: torch.Tensor | None = None) -> Beginning:
        """Keys and values of a beginning of many rows, computed once.

        Args:
            sequence: the beginning.
            vectors: (n_vectors, dim) in place of those it holds.
        """
        embeddings = self._input(sequence)
        if vectors is not None and not sequence.is_plain:
            embeddings[self._tensor(sequence.vector_positions)] = vectors.to(embeddings)
        with recording() as beginning:
            self._trunk(inputs_embeds=embeddings[None], use_cache=False)
        return beginning

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
        self,
        rows: Sequence[PackedRow],
        vectors: Sequence[torch.Tensor] | None = None,
        behind: Beginning = _NOTHING,
        layer: int | None = None,
    ) -> torch.Tensor:
        """(total reads, dim) last hidden states at the rows' reads, row after row."""
        whole = TokenSequence.concatenate([part for row in rows for part in (row.prefix, row.nodes)])
        embeddings = self._input(whole)
        if vectors is not None and not whole.is_plain:
            embeddings[self._tensor(whole.vector_positions)] = torch.cat(list(vectors)).to(embeddings)
        layers = self._attention.layers
        nothing = embeddings.new_zeros((1, 1, 1, 1))  # masks are the plan's; without any, transformers would make one
        plan = planned(rows, behind, self._attention, self._device)
        with attending(plan):
            states = self._up_to(layer)(
                inputs_embeds=embeddings[None],
                position_ids=plan.positions[None],
                attention_mask=dict.fromkeys(layers, nothing) if len(layers) > 1 else nothing,
                use_cache=False,
            ).last_hidden_state[0]
        nodes = np.cumsum([0] + [len(row) for row in rows])[:-1] + [len(row.prefix) for row in rows]
        flat = [first + row.reads for first, row in zip(nodes, rows, strict=True)]
        selected: torch.Tensor = states.index_select(0, self._tensor(np.concatenate(flat)))
        return selected

    def _up_to(self, layer: int | None) -> Any:
        """The model without its head and without the layers above; the same weights, nothing is copied."""
        if layer is None or layer == self.n_layers:
            return self._trunk
        if layer not in self._shortened:
            assert self._layers is not None
            short = copy.copy(self._trunk)
            short._modules = {
                **self._trunk._modules,
                self._layers: torch.nn.ModuleList(getattr(self._trunk, self._layers)[:layer]),
            }
            self._shortened[layer] = short
        return self._shortened[layer]

    @torch.no_grad()
    def _attend_packed(self, lm: Any, *, opaque: bool) -> None:
        """`use_packed_attention`, and a comparison of three short prompts in two rows with how the model reads them.

        Raises:
            ModelError: the two differ, or the prompts cannot be read.
        """
        prompts = _prompts(self._config.vocab_size)
        rows = [next(pack(_request(part), 0, prompts.size, labels=False)) for part in (prompts[:1], prompts[1:])]
        owners = np.concatenate([rows[0].pair_candidates, 1 + rows[1].pair_candidates])
        try:
            own = _own_log_probs(lm, self._tensor(prompts))
            use_packed_attention(lm, opaque=opaque)
            values = np.concatenate(self.log_probs(rows, None))
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise ModelError(
                f"the torch engine cannot read packed rows with a model of type {self._config.model_type} ({error}); "
                "use engine='vllm'"
            ) from error
        packed = np.stack([values[owners == owner] for owner in range(len(own))])
        apart, most = float(np.abs(packed - own).mean()), _tolerance(lm) * max(1.0, float(np.abs(own).mean()))
        if np.isfinite(own).all() and not apart <= most:  # nothing compares with weights that make NaN
            raise ModelError(
                f"the torch engine reads a model of type {self._config.model_type} wrongly: log-probabilities of "
                f"packed rows are {apart:.2g} nats from the model's own, more than {most:.2g}; use engine='vllm'"
            )

    def _input(self, sequence: TokenSequence) -> torch.Tensor:
        embeddings: torch.Tensor = self._embeddings(self._tensor(np.where(_is_soft(sequence), 0, sequence.token_ids)))
        if not sequence.is_plain:
            embeddings[self._tensor(sequence.vector_positions)] = torch.from_numpy(sequence.vectors).to(embeddings)
        return embeddings

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _is_soft(sequence: TokenSequence) -> NDArray[np.bool_]:
    soft = np.zeros(len(sequence), dtype=np.bool_)
    soft[sequence.vector_positions] = True
    return soft


def _prompts(vocabulary: int) -> IntArray:
    """(3, `_PROMPT`) token ids: a prompt, and two that begin alike; low ones, where words and bytes stand."""
    ids = (11 + 17 * np.arange(3 * _PROMPT).reshape(3, _PROMPT)) % vocabulary
    ids[2, : _PREFIX + 1] = ids[1, : _PREFIX + 1]
    return ids


def _request(prompts: IntArray) -> ScoringRequest:
    """Of prompts that begin alike: all behind the first token after what they share is scored."""
    prefix, *spans = (TokenSequence.from_tokens(ids.tolist()) for ids in (prompts[0][:_PREFIX], *prompts[:, _PREFIX:]))
    return ScoringRequest(prefix=prefix, candidates=tuple(CandidateSpan(sequence=span) for span in spans))


def _own_log_probs(lm: Any, ids: torch.Tensor) -> NDArray[np.float64]:
    """(n, n_scored) log p of what is scored of prompts (n, `_PROMPT`), in nats, as the model itself has it.

    Its own attention is the eager one: SDPA leaves out what it does not know.
    """
    lm.set_attn_implementation("eager")
    logits = lm(input_ids=ids, use_cache=False).logits[:, _PREFIX:-1].float()
    scored = logits.log_softmax(dim=-1).gather(2, ids[:, _PREFIX + 1 :, None])[:, :, 0]
    values: NDArray[np.float64] = scored.cpu().numpy().astype(np.float64)
    return values


def _tolerance(lm: Any) -> float:
    """How far log-probabilities of two ways to compute the same may be apart in the mean, as a part of their size."""
    exact = lm.dtype in (torch.float32, torch.float64) and not getattr(lm, "is_quantized", False)
    return _EXACT if exact and torch.get_float32_matmul_precision() == "highest" else _ROUNDED


def _layers_of(trunk: Any, count: int) -> str | None:
    """Name of the trunk's list of layers; None where there is none, or several."""
    found = [name for name, one in trunk.named_children() if isinstance(one, torch.nn.ModuleList) and len(one) == count]
    return found[0] if len(found) == 1 else None


def _attention_of(lm: Any) -> AttentionKind:
    """What attention the layers have.

    Raises:
        ModelError: a kind that cannot be packed (linear attention, chunks, attention that transformers does not route).
    """
    config = lm.config.get_text_config()
    window = int(getattr(config, "sliding_window", None) or 0)
    layer_types = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    layers = frozenset(layer_types or [SLIDING if window else FULL])
    unknown = ", ".join(sorted(layers - {FULL, SLIDING}))
    if not unknown and not lm._supports_attention_backend:
        unknown = "its own attention in its"
    if unknown:
        raise ModelError(
            f"the torch engine cannot pack a model with {unknown} layers ({config.model_type}); use engine='vllm'"
        )
    heads = config.num_attention_heads
    return AttentionKind(
        layers=layers,
        window=window,
        queries=heads // (getattr(config, "num_key_value_heads", None) or heads),
        dtype=lm.dtype,
    )
