"""The vLLM engine: one prompt a candidate, the shared prefix from the prefix cache.

Prompts are token ids throughout. Vectors become ids of slots (see `vllm_worker`), so likelihoods work for soft prompts
too; vLLM refuses prompt log-probabilities for embedded prompts.
"""

import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.engines.causal_lm import (
    HubTokenizer,
    Model,
    broken_packages,
    require_working_packages,
    resolved,
)
from reranker.engines.generation import written
from reranker.engines.slots import SlotTable
from reranker.engines.turns import Turns
from reranker.engines.validation import check_generation, check_labels, check_requests, check_token_ids
from reranker.engines.vllm_steps import Steps, writing_parameters
from reranker.errors import ConfigError, EngineError, ModelError
from reranker.types import GenerationPiece, GenerationRequest, ModelInfo, ScoringRequest, SpanScores, TokenSequence

DTYPES = ("bfloat16", "float32")
_LABELS_A_REQUEST = 128  # vLLM's bound on SamplingParams.logprob_token_ids
_SHUTDOWN_SECONDS = 10.0
_EXTENSION = "reranker.engines.vllm_worker.SlotWorkerExtension"


class VLLMEngine:
    """Scores and writes with vLLM in a process of its own.

    Args:
        model: a known name, a Hugging Face id, a directory or a `ResolvedModel`.
        dtype: "bfloat16" or "float32". The output head computes in float32 either way: in bfloat16 it makes ties.
        slots: distinct vectors the engine can hold at once; each takes one row of the embedding table.
        kv_cache_gib: memory for the KV cache on a CPU, in GiB.
        gpu_memory_utilization: part of the GPU that vLLM may take.
        max_length: context window in tokens; None takes the model's own.
        **vllm_options: further arguments of `vllm.LLM`, for instance tensor_parallel_size.

    Raises:
        ConfigError: unknown dtype, or vLLM is not installed.
        ModelError: the model cannot be found or loaded.
    """

    name = "vllm"

    def __init__(
        self,
        model: Model,
        *,
        dtype: str = "bfloat16",
        slots: int = 4096,
        kv_cache_gib: float = 2.0,
        gpu_memory_utilization: float = 0.8,
        max_length: int | None = None,
        **vllm_options: Any,
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"unknown dtype {dtype!r} for the vllm engine; choose one of {', '.join(DTYPES)}")
        source = resolved(model)
        require_working_packages(broken_packages())
        self.dtype = dtype
        self.tokenizer = HubTokenizer(source.path)
        self._lock = Turns()
        with _quiet_vllm():
            self._llm: Any = _load(
                source.path,
                dtype=dtype,
                kv_cache_gib=kv_cache_gib,
                gpu_memory_utilization=gpu_memory_utilization,
                max_length=max_length,
                options=vllm_options,
            )
        config = self._llm.llm_engine.model_config
        self.model = ModelInfo(
            model_id=source.model_id,
            sha256=source.sha256,
            dim=config.get_hidden_size(),
            vocab_size=config.get_vocab_size(),
            # vLLM always generates one token after the prompt
            max_length=config.max_model_len - 1,
        )
        self._steps = Steps(self._llm)
        self._add_slots(slots)

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        check_token_ids(token_ids, self.model)
        with self._lock:
            rows = self._loaded().collective_rpc("reranker_embed", args=([int(token) for token in token_ids],))[0]
        return np.asarray(rows, dtype=np.float32).reshape(len(token_ids), self.model.dim)

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        check_requests(requests, self.model, targets_are_scored=True)
        results = []
        with self._lock:
            for group in self._groups(requests):
                prompts, starts = [], []
                for request in group:
                    prefix = self._slots.token_ids(request.prefix)
                    for candidate in request.candidates:
                        prompts.append(prefix + self._slots.token_ids(candidate.sequence))
                        starts.append(len(prefix) + candidate.scored_from)
                sums = iter(self._sums(prompts, starts))
                for request in group:
                    results.append(
                        SpanScores(
                            sums=np.array([next(sums) for _ in request.candidates], dtype=np.float64),
                            counts=np.array([len(c.sequence) - c.scored_from for c in request.candidates]),
                        )
                    )
        return results

    def label_log_probs(
        self, requests: Sequence[ScoringRequest], label_token_ids: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        check_requests(requests, self.model, targets_are_scored=False)
        check_labels(label_token_ids, self.model)
        labels = [int(label) for label in label_token_ids]
        results = []
        with self._lock:
            for group in self._groups(requests):
                prompts = []
                for request in group:
                    prefix = self._slots.token_ids(request.prefix)
                    prompts += [prefix + self._slots.token_ids(candidate.sequence) for candidate in request.candidates]
                values = np.concatenate(
                    [
                        self._labels(prompts, labels[begin : begin + _LABELS_A_REQUEST])
                        for begin in range(0, len(labels), _LABELS_A_REQUEST)
                    ],
                    axis=1,
                )
                ends = np.cumsum([len(request.candidates) for request in group])
                results += [
                    values[end - len(request.candidates) : end] for request, end in zip(group, ends, strict=True)
                ]
        return results

    def generate(self, request: GenerationRequest) -> Generator[GenerationPiece]:
        check_generation(request, self.model)
        return written(self._tokens(request), request, self.tokenizer)

    def close(self) -> None:
        with self._lock:
            if self._llm is not None:
                core = self._llm.llm_engine.engine_core
                core.shutdown()
                # vLLM leaves its ZeroMQ context to the garbage collector, which warns about it at some later moment.
                core.output_queue_thread.join(timeout=_SHUTDOWN_SECONDS)
                core.ctx.destroy(linger=0)
                self._llm = None
                self._steps = Steps(None)

    def _loaded(self) -> Any:
        if self._llm is None:
            raise EngineError("this vllm engine was closed; make a new one")
        return self._llm

    def _add_slots(self, slots: int) -> None:
        first = self.model.vocab_size

        def write(begin: int, rows: NDArray[np.float32]) -> None:
            self._loaded().collective_rpc("reranker_write_slots", args=(begin, rows.tobytes(), self.model.dim))

        def forget() -> None:
            self._steps.finish_texts()
            if not self._loaded().reset_prefix_cache():
                raise EngineError("vLLM did not empty its prefix cache; slots cannot be reused safely")

        problems = [
            problem for problem in self._llm.collective_rpc("reranker_add_slots", args=(first, slots)) if problem
        ]
        if problems:
            self.close()
            raise ModelError(f"the vllm engine cannot give vectors to this model: {problems[0]}. Use engine='torch'")
        self._slots = SlotTable(first, slots, write, forget)

    def _tokens(self, request: GenerationRequest) -> Generator[int]:
        """Tokens as vLLM writes them, beside whatever is scored meanwhile."""
        with self._lock:
            self._loaded()
            self._slots.load([request.prompt])
            parameters = writing_parameters(request, self.tokenizer.end_ids)
            name = self._steps.begin(self._slots.token_ids(request.prompt), parameters)
        try:
            while True:
                with self._lock:
                    self._loaded()
                    tokens = self._steps.fetch(name)
                yield from tokens
        finally:
            with self._lock:
                if self._llm is not None:
                    self._steps.end(name)

    def _groups(self, requests: Sequence[ScoringRequest]) -> Iterator[Sequence[ScoringRequest]]:
        """Requests in order, as many at once as the slots can serve, with their vectors loaded."""
        group: list[ScoringRequest] = []
        vectors = 0
        for request in requests:
            count = sum(len(sequence.vectors) for sequence in _sequences(request))
            if group and vectors + count > self._slots.size:
                self._slots.load([sequence for member in group for sequence in _sequences(member)])
                yield group
                group, vectors = [], 0
            group.append(request)
            vectors += count
        if group:
            self._slots.load([sequence for member in group for sequence in _sequences(member)])
            yield group

    def _sums(self, prompts: list[list[int]], starts: list[int]) -> list[float]:
        """Σ log p(prompt[i]) for i from each start on.

        vLLM computes no logits for what it takes from the cache. Where the cache reached into the scored tokens (the
        same candidate was scored before), the numbers there are garbage, and the prompt runs again without the cache.
        """
        outputs = self._generate(prompts, prompt_logprobs=0, skip_reading_prefix_cache=False)
        again = [
            index
            for index, (output, start) in enumerate(zip(outputs, starts, strict=True))
            if (output.num_cached_tokens or 0) >= start
        ]
        if again:
            fresh = self._generate(
                [prompts[index] for index in again], prompt_logprobs=0, skip_reading_prefix_cache=True
            )
            for index, output in zip(again, fresh, strict=True):
                outputs[index] = output
        return [
            sum(output.prompt_logprobs[position][prompt[position]].logprob for position in range(start, len(prompt)))
            for prompt, start, output in zip(prompts, starts, outputs, strict=True)
        ]

    def _labels(self, prompts: list[list[int]], labels: list[int]) -> NDArray[np.float64]:
        """(n_prompts, n_labels) log p(label | prompt)."""
        outputs = self._generate(prompts, logprob_token_ids=labels)
        return np.array([[output.outputs[0].logprobs[0][label].logprob for label in labels] for output in outputs])

    def _generate(self, prompts: list[list[int]], **options: Any) -> list[Any]:
        from vllm import SamplingParams

        parameters = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, **options)
        self._loaded()
        return self._steps.score(prompts, parameters)


def _sequences(request: ScoringRequest) -> list[TokenSequence]:
    return [request.prefix, *(candidate.sequence for candidate in request.candidates)]


def _load(
    path: Path,
    *,
    dtype: str,
    kv_cache_gib: float,
    gpu_memory_utilization: float,
    max_length: int | None,
    options: dict[str, Any],
) -> Any:
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ConfigError(
            f"the vllm engine needs a package that is not installed ({error}). "
            "Run `pip install 'reranker[cpu]'` (no GPU) or `pip install 'reranker[gpu]'`"
        ) from error
    window = json.loads((path / "config.json").read_text()).get("max_position_embeddings")
    settings: dict[str, Any] = {
        "dtype": dtype,
        "max_model_len": max_length or window,
        "skip_tokenizer_init": True,  # prompts are ids, and slot ids lie beyond the tokenizer's vocabulary
        "enable_prefix_caching": True,
        "enforce_eager": True,  # compiled graphs would hold the embedding table from before the slots
        "hf_overrides": {"head_dtype": "float32"},
        "max_logprobs": _LABELS_A_REQUEST,
        "max_num_batched_tokens": 2048,  # prompt log-probabilities hold (tokens, vocabulary) float32 logits
        "disable_log_stats": True,
        "worker_extension_cls": _EXTENSION,
    }
    if current_platform.is_cpu():
        # 128, the default on a CPU, halves the speed: prefixes seldom end near a block's end.
        settings |= {"block_size": 32, "kv_cache_memory_bytes": int(kv_cache_gib * 2**30)}
    else:
        settings |= {"gpu_memory_utilization": gpu_memory_utilization}
    try:
        return LLM(model=str(path), **(settings | options))
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"vLLM cannot load {path}: {error}") from error


@contextmanager
def _quiet_vllm() -> Iterator[None]:
    """Keeps vLLM's log to errors while it loads, unless the user asked for more; the environment is left as found."""
    settings = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1"}
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
