"""The vLLM engine: one prompt a candidate, the shared prefix from the prefix cache.

Prompts are token ids throughout. Vectors become ids of slots (see `worker`), so likelihoods work for soft prompts
too; vLLM refuses prompt log-probabilities for embedded prompts. How likelihoods and states are read is a backend's
(`backends`), and prefixes are shared to their last token (`partial_blocks`).
"""

import logging
import weakref
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.engines.fair_lock import FairLock
from reranker.engines.loading import (
    HubTokenizer,
    Model,
    broken_packages,
    require_working_packages,
    resolved,
)
from reranker.engines.precision import AUTO_DEVICE, AUTO_DTYPE, chosen_device, chosen_dtype
from reranker.engines.text_generation import written
from reranker.engines.validation import check_generation, check_labels, check_layer, check_requests, check_token_ids
from reranker.engines.vllm.backends import BACKENDS
from reranker.engines.vllm.backends.base import reasons
from reranker.engines.vllm.backends.plain import Plain
from reranker.engines.vllm.death import engine_errors, is_dead, shut_down, watch
from reranker.engines.vllm.grammars import GrammarTrials
from reranker.engines.vllm.process import LABELS_A_REQUEST, load, prepare, quiet_vllm
from reranker.engines.vllm.prompts import LISTS, PromptWriter
from reranker.engines.vllm.reading import PromptReader
from reranker.engines.vllm.self_check import layer_problem_of, problem_of
from reranker.engines.vllm.stepping import Steps, writing_parameters
from reranker.engines.vllm.virtual_tokens import Aliases, SlotTable
from reranker.errors import EngineError, ModelError, RerankerError
from reranker.hub import ResolvedModel, settings_sha256
from reranker.protocols import HIDDEN_STATES, LOWER_STATES
from reranker.types import GenerationPiece, GenerationRequest, ModelInfo, ScoringRequest, SpanScores, TokenSequence

logger = logging.getLogger(__name__)


class VLLMEngine:
    """Scores and writes with vLLM in a process of its own.

    Args:
        model: a known name, a Hugging Face id, a directory or a `ResolvedModel`.
        dtype: "bfloat16", "float32" or "auto" (see `precision`). Labels are read in float32 either way: in bfloat16
            they make ties.
        slots: distinct vectors the engine can hold at once; each takes one row of the embedding table.
        kv_cache_gib: memory for the KV cache on a CPU, in GiB.
        gpu_memory_utilization: part of the GPU that vLLM may take.
        max_length: context window in tokens; None takes the model's own.
        **vllm_options: further arguments of `vllm.LLM`, for instance tensor_parallel_size.

    Attributes:
        backend: how vLLM's worker is asked, see `backends`.
        lacks: what this vLLM cannot do for the model, with the reason (`protocols.Limited`).

    Raises:
        ConfigError: unknown dtype, or vLLM is not installed.
        ModelError: the model cannot be found or loaded.
    """

    name = "vllm"

    def __init__(
        self,
        model: Model,
        *,
        dtype: str = AUTO_DTYPE,
        slots: int = 4096,
        kv_cache_gib: float = 2.0,
        gpu_memory_utilization: float = 0.8,
        max_length: int | None = None,
        **vllm_options: Any,
    ) -> None:
        self.dtype = chosen_dtype(dtype, chosen_device(AUTO_DEVICE))
        source = resolved(model)
        require_working_packages(broken_packages())
        self.tokenizer = HubTokenizer(source.path)
        self.arithmetic = f"{self.name}|{self.dtype}|{sorted(vllm_options.items())}|{settings_sha256(source.path)}"
        self._lock = FairLock()
        with quiet_vllm():
            self._llm: Any = load(
                source.path,
                dtype=self.dtype,
                kv_cache_gib=kv_cache_gib,
                gpu_memory_utilization=gpu_memory_utilization,
                max_length=max_length,
                options=vllm_options,
            )
        # Also at the interpreter's end: vLLM's thread, still reading then, would abort the process now and then.
        self._shut_down = weakref.finalize(self, shut_down, self._llm.llm_engine.engine_core)
        watch(self._llm.llm_engine.engine_core)
        try:
            with engine_errors():
                self._set_up(source, slots)
        except BaseException as error:
            self.close()  # its memory may be wanted by the engine that stands in
            if isinstance(error, RerankerError) or not isinstance(error, Exception):
                raise
            raise EngineError(
                f"vLLM failed while it was set up, its own lines above say more: {type(error).__name__}: {error}"
            ) from error

    def _set_up(self, source: ResolvedModel, slots: int) -> None:
        prepare(self._llm)
        config = self._llm.llm_engine.model_config
        self.model = ModelInfo(
            model_id=source.model_id,
            sha256=source.sha256,
            dim=config.get_hidden_size(),
            vocab_size=config.get_vocab_size(),
            max_length=config.max_model_len - 1,  # vLLM always generates one token after the prompt
        )
        self._steps = Steps(self._llm)
        self._grammars = GrammarTrials(self._llm.llm_engine.vllm_config)
        self._add_slots(slots)
        cache = self._llm.llm_engine.vllm_config.cache_config
        self._prefix_tokens = cache.num_gpu_blocks * cache.block_size // 2
        self._aliases = Aliases(self.model.vocab_size, self.model.vocab_size + slots)
        self._take_backend(cache.block_size if self._llm.llm_engine.vllm_config.kv_transfer_config else 0)

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        check_token_ids(token_ids, self.model)
        with self._turn():
            rows = self._rpc("reranker_embed", [int(token) for token in token_ids])
        return np.asarray(rows, dtype=np.float32).reshape(len(token_ids), self.model.dim)

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        check_requests(requests, self.model, targets_are_scored=True)
        results = []
        with self._turn():
            for group in self._reader.groups(requests, LISTS):
                sums = iter(self._reader.sums(self._reader.prompts(group, likelihood=True)))
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
        with self._turn():
            for group in self._reader.groups(requests):
                prompts = self._reader.prompts(group)
                values = np.concatenate(
                    [
                        self._reader.labels(prompts, labels[begin : begin + LABELS_A_REQUEST])
                        for begin in range(0, len(labels), LABELS_A_REQUEST)
                    ],
                    axis=1,
                )
                results += np.split(values, np.cumsum([len(request.candidates) for request in group])[:-1])
        return results

    @property
    def n_layers(self) -> int:
        """Layers that states can be read after; 0 where only the last one's are shown, for the reason in `lacks`."""
        return self._n_layers

    def span_states(self, requests: Sequence[ScoringRequest], layer: int | None = None) -> list[NDArray[np.float32]]:
        check_requests(requests, self.model, targets_are_scored=False)
        if HIDDEN_STATES in self.lacks:
            raise EngineError(
                f"the vllm engine shows no hidden states here: {self.lacks[HIDDEN_STATES]}. Take engine='torch'"
            )
        check_layer(layer, self.n_layers, self.name)
        stops_at = None if layer == self.n_layers else layer
        results = []
        with self._turn():
            for group in self._reader.groups(requests):
                states = self._reader.states(self._reader.prompts(group, layer=stops_at))
                results += np.split(states, np.cumsum([len(request.candidates) for request in group])[:-1])
        return results

    def generate(self, request: GenerationRequest) -> Generator[GenerationPiece]:
        check_generation(request, self.model)
        return written(self._tokens(request), request, self.tokenizer)

    @property
    def dead(self) -> bool:
        """vLLM's process is gone; every call raises EngineError from now on."""
        return self._llm is not None and is_dead(self._llm.llm_engine.engine_core)

    @property
    def prompt_tokens(self) -> tuple[int, int]:
        """Tokens of the prompts that were scored so far, and those of them that came from the prefix cache."""
        return self._steps.prompt_tokens, self._steps.cached_tokens

    @property
    def front(self) -> Any:
        """vLLM's own front end, a `vllm.v1.engine.llm_engine.LLMEngine`: its configuration, renderer and tokenizer."""
        return self._loaded().llm_engine

    def run(self, prompt: TokenSequence, parameters: Any, cache_salt: str | None = None) -> Generator[list[Any]]:
        """`vllm.RequestOutput`s of each step, often none, beside whatever is scored. Closing it ends the work.

        Args:
            prompt: tokens and vectors.
            parameters: `vllm.SamplingParams`.
            cache_salt: prompts share cached blocks only with prompts of the same salt.
        """
        with self._turn():
            self._loaded()
            self._slots.load([prompt])
            name = self._steps.begin(self._slots.token_ids(prompt), parameters, cache_salt)
        try:
            while True:
                with self._turn():
                    self._loaded()
                    outputs = self._steps.fetch(name)
                yield outputs
                if outputs and outputs[-1].finished:
                    return
        finally:
            with self._turn():
                if self._llm is not None:
                    self._steps.end(name)

    def grammar_problem(self, parameters: Any, seconds: float) -> str:
        return self._grammars.problem(parameters, seconds)

    def close(self) -> None:
        self._grammars.close()
        with self._turn():
            self._shut_down()
            self._llm = None
            self._steps = Steps(None)

    @contextmanager
    def _turn(self) -> Generator[None]:
        """Alone with vLLM; its death is an EngineError."""
        with self._lock, engine_errors():
            yield

    def _loaded(self) -> Any:
        if self._llm is None:
            raise EngineError("this vllm engine was closed; make a new one")
        return self._llm

    def _rpc(self, method: str, *arguments: Any) -> Any:
        """What the first of vLLM's workers answers."""
        return self._loaded().collective_rpc(method, args=arguments)[0]

    def _open_steps(self) -> Steps:
        self._loaded()
        return self._steps

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
            raise ModelError(f"the vllm engine cannot give vectors to this model: {problems[0]}. Use engine='torch'")
        self._slots = SlotTable(first, slots, write, forget)

    def _take_backend(self, block: int) -> None:
        """The first backend that this vLLM has what it takes for and that passes the self-check."""
        self.lacks = {}
        self._n_layers = 0
        refused: dict[str, str] = {}
        while True:
            name, others = self._rpc("reranker_take_backend", list(refused))
            refused |= others
            backend = BACKENDS[name]()
            self._reader = PromptReader(
                backend,
                PromptWriter(self._slots, self._aliases, block, backend),
                slots=self._slots,
                steps=self._open_steps,
                rpc=self._rpc,
                dim=self.model.dim,
                most_tokens=self._prefix_tokens,
            )
            problem = problem_of(self, backend.reads_states)
            if not problem:
                break
            refused[name] = problem
            if name == Plain.name:
                raise ModelError(
                    f"this vLLM reads no likelihoods that are right: {reasons(refused)}. Use engine='torch'"
                )
        self.backend = name
        chosen = f"vLLM's backend is {name!r}" + (f"; not {reasons(refused)}" if refused else "")
        if not backend.reads_states:
            self.lacks[HIDDEN_STATES] = self.lacks[LOWER_STATES] = chosen
        elif problem := self._find_layers():
            self._n_layers, self.lacks[LOWER_STATES] = 0, problem
            chosen += f"; it computes all layers, for {problem}"
        logger.log(logging.WARNING if name == Plain.name else logging.INFO, chosen)

    def _find_layers(self) -> str:
        """After how many layers states can be read; returns what keeps vLLM from it, "" where nothing does."""
        self._n_layers, problem = self._stop_at_layers(True)
        return problem or layer_problem_of(self, self._stop_at_layers)

    def _stop_at_layers(self, stops: bool) -> tuple[int, str]:
        """Whether steps may end at a layer below the last, see `SlotWorkerExtension.reranker_layers`."""
        n_layers, problem = self._rpc("reranker_layers", stops)
        return n_layers, problem

    def log_prob(self, state: NDArray[np.float32], token_id: int) -> float:
        """log p of a token after one hidden state, (dim,), in nats."""
        with self._turn():
            return float(self._rpc("reranker_log_prob", state.tobytes(), token_id))

    def _tokens(self, request: GenerationRequest) -> Generator[int]:
        with closing(self.run(request.prompt, writing_parameters(request, self.tokenizer.end_ids))) as steps:
            for output in chain.from_iterable(steps):
                yield from output.outputs[0].token_ids
