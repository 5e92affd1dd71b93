"""The torch engine: all candidates of a user in one packed row, many users in one batch.

float32 is the numerical reference for every other engine; bfloat16 is the default where the machine computes in it.
"""

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reranker.engines.fair_lock import FairLock
from reranker.engines.loading import HubTokenizer, Model, load_causal_lm, resolved
from reranker.engines.precision import AUTO_DEVICE, AUTO_DTYPE, chosen_dtype, torch_device
from reranker.engines.text_generation import draw, written
from reranker.engines.torch.attention import Beginning
from reranker.engines.torch.packed_lm import PackedLM
from reranker.engines.torch.packing import PackedRow, batches, pack, split_common
from reranker.engines.validation import check_generation, check_labels, check_layer, check_requests, check_token_ids
from reranker.errors import EngineError
from reranker.hub import settings_sha256
from reranker.types import (
    GenerationPiece,
    GenerationRequest,
    ModelInfo,
    ScoringRequest,
    SpanScores,
    TokenSequence,
)

_CPU_BATCH_TOKENS = 1024  # activations stay near the cache; larger batches were slower
_CUDA_BATCH_TOKENS = 16384
_PROMPT_STEP = 512  # tokens of a prompt to continue that are read before other threads get a turn
_ROW_NODES = 4096  # candidate tokens a row: bounds memory


_Read = Callable[[PackedLM, list[PackedRow], Beginning], list[NDArray[Any]]]


class TorchEngine:
    """Scores and writes with a transformers causal LM.

    Args:
        model: a known name, a Hugging Face id, a directory or a `ResolvedModel`.
        dtype: "bfloat16", "float32" or "auto" (see `precision`).
        device: "cpu", "cuda", "cuda:1", ...; "auto" takes CUDA when there is one.
        max_batch_tokens: bound on the tokens of one forward pass. None: by device.
        compiled: compile the layers (`torch.compile`), which takes a while at the first lists, and a C++ compiler;
            without one, these raise EngineError.

    Raises:
        ConfigError: unknown dtype, no such device, or a missing package.
        ModelError: the model cannot be found or loaded, its attention cannot be masked, packed rows read otherwise than
            the model itself reads, or its layers cannot be compiled.
    """

    name = "torch"

    def __init__(
        self,
        model: Model,
        *,
        dtype: str = AUTO_DTYPE,
        device: str = AUTO_DEVICE,
        max_batch_tokens: int | None = None,
        compiled: bool = False,
    ) -> None:
        self.device = torch_device(device)
        self.dtype = chosen_dtype(dtype, self.device.type)
        source = resolved(model)
        default_tokens = _CPU_BATCH_TOKENS if self.device.type == "cpu" else _CUDA_BATCH_TOKENS
        self.max_batch_tokens = max_batch_tokens or default_tokens
        lm: Any = load_causal_lm(source.path, self.dtype, str(self.device))
        self.tokenizer = HubTokenizer(source.path)
        config = lm.config.get_text_config()
        self.model = ModelInfo(
            model_id=source.model_id,
            sha256=source.sha256,
            dim=config.hidden_size,
            vocab_size=config.vocab_size,
            max_length=config.max_position_embeddings,
        )
        self.arithmetic = f"{self.name}|{self.dtype}|{settings_sha256(source.path)}"
        self._lm: PackedLM | None = PackedLM(lm, self.device, compiled=compiled)
        self._lock = FairLock()

    @property
    def packed_lm(self) -> PackedLM:
        """The loaded model, for what needs gradients."""
        return self._loaded()

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        check_token_ids(token_ids, self.model)
        with self._lock, torch.inference_mode():
            rows: NDArray[np.float32] = self._loaded().embed(list(token_ids)).float().cpu().numpy()
        return rows

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        check_requests(requests, self.model, targets_are_scored=True)
        sums = [np.zeros(len(request.candidates)) for request in requests]
        for row, log_probs in self._read(requests, lambda lm, rows, behind: lm.log_probs(rows, None, behind)):
            sums[row.request] += np.bincount(row.pair_candidates, log_probs, minlength=len(sums[row.request]))
        return [
            SpanScores(
                sums=sums[number],
                counts=np.array([len(candidate.sequence) - candidate.scored_from for candidate in request.candidates]),
            )
            for number, request in enumerate(requests)
        ]

    def label_log_probs(
        self, requests: Sequence[ScoringRequest], label_token_ids: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        check_requests(requests, self.model, targets_are_scored=False)
        check_labels(label_token_ids, self.model)
        labels = np.asarray(label_token_ids, dtype=np.int64)
        results = [np.zeros((len(request.candidates), len(labels))) for request in requests]
        for row, log_probs in self._read(
            requests, lambda lm, rows, behind: lm.log_probs(rows, labels, behind), labels=True
        ):
            results[row.request][row.pair_candidates] = log_probs
        return results

    @property
    def n_layers(self) -> int:
        """Layers that states can be read after; 0 where the model shows those of the last one only."""
        return self._loaded().n_layers

    def span_states(self, requests: Sequence[ScoringRequest], layer: int | None = None) -> list[NDArray[np.float32]]:
        check_requests(requests, self.model, targets_are_scored=False)
        check_layer(layer, self.n_layers, self.name)
        results = [np.zeros((len(request.candidates), self.model.dim), dtype=np.float32) for request in requests]
        for row, states in self._read(requests, lambda lm, rows, behind: lm.states(rows, behind, layer)):
            np.add.at(results[row.request], row.pair_candidates, states[row.pair_reads])
        for request, sums in zip(requests, results, strict=True):
            counts = [len(candidate.sequence) - candidate.scored_from for candidate in request.candidates]
            sums /= np.maximum(counts, 1)[:, None]
        return results

    def generate(self, request: GenerationRequest) -> Generator[GenerationPiece]:
        check_generation(request, self.model)
        return written(self._tokens(request), request, self.tokenizer)

    def close(self) -> None:
        with self._lock:
            self._lm = None
            gc.collect()  # compiled layers hold themselves
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _loaded(self) -> PackedLM:
        if self._lm is None:
            raise EngineError("this torch engine was closed; make a new one")
        return self._lm

    def _tokens(self, request: GenerationRequest) -> Generator[int]:
        """Tokens without end; scoring gets its turn after each."""
        rng = np.random.default_rng(request.seed)
        cache = self._loaded().new_cache()
        *parts, unread = request.prompt.split(_PROMPT_STEP)
        for part in parts:
            self._next_logits(part, cache)
        while True:
            token = draw(self._next_logits(unread, cache), request, rng)
            yield token
            unread = TokenSequence.from_tokens([token])

    def _next_logits(self, sequence: TokenSequence, cache: Any) -> NDArray[np.float32]:
        with self._lock, torch.inference_mode():
            try:
                return self._loaded().next_logits(sequence, cache)
            except torch.cuda.OutOfMemoryError as error:
                raise EngineError(f"out of GPU memory while writing ({error}). Shorten the prompt") from error

    def _read(
        self, requests: Sequence[ScoringRequest], read: _Read, *, labels: bool = False
    ) -> Iterator[tuple[PackedRow, NDArray[Any]]]:
        """Each row with what `read` says of it; `labels` as in `pack`."""
        common, requests = split_common(requests) if requests else (None, [])
        rows = [
            row for number, request in enumerate(requests) for row in pack(request, number, _ROW_NODES, labels=labels)
        ]
        rows = [row for row in rows if len(row.pair_reads)]  # nothing scored: nothing to compute
        behind: Beginning = {}
        if rows and common:
            with self._lock, torch.inference_mode():
                behind = self._loaded().remember(common)
        for numbers in batches([len(row) for row in rows], self.max_batch_tokens):
            batch = [rows[number] for number in numbers]
            with self._lock, torch.inference_mode():
                results = self._forward(batch, read, behind)
            yield from zip(batch, results, strict=True)

    def _forward(self, batch: list[PackedRow], read: _Read, behind: Beginning) -> list[NDArray[Any]]:
        try:
            return read(self._loaded(), batch, behind)
        except torch.cuda.OutOfMemoryError as error:
            if len(batch) == 1:
                raise EngineError(
                    f"out of GPU memory on one row of {len(batch[0])} tokens ({error}). Shorten the prompt or use a "
                    "smaller model"
                ) from error
        torch.cuda.empty_cache()  # outside the handler, which would keep the failed pass's tensors alive
        half = len(batch) // 2
        return self._forward(batch[:half], read, behind) + self._forward(batch[half:], read, behind)
