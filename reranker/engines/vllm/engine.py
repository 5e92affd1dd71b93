"""The vLLM engine: one prompt a candidate, the shared prefix from the prefix cache.

Prompts are token ids throughout. Vectors become ids of slots (see `worker`), so likelihoods work for soft prompts
too; vLLM refuses prompt log-probabilities for embedded prompts. How likelihoods and states are read is a backend's
(`backends`), and prefixes are shared to their last token (`partial_blocks`).
"""

import logging
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any, TypeVar

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
from reranker.engines.vllm.backends.base import answered, reasons
from reranker.engines.vllm.backends.plain import Plain
from reranker.engines.vllm.calls import Call, Prompt, cache_salt
from reranker.engines.vllm.death import engine_errors, is_dead, shut_down, watch
from reranker.engines.vllm.grammars import GrammarTrials
from reranker.engines.vllm.groups import grouped, sequences
from reranker.engines.vllm.process import LABELS_A_REQUEST, load, prepare, quiet_vllm
from reranker.engines.vllm.prompts import LISTS, Branch, PromptWriter
from reranker.engines.vllm.self_check import layer_problem_of, problem_of
from reranker.engines.vllm.stepping import Steps, writing_parameters
from reranker.engines.vllm.virtual_tokens import Aliases, SlotTable
from reranker.engines.vllm.wire import TAIL_ROWS
from reranker.errors import EngineError, ModelError, RerankerError
from reranker.hub import ResolvedModel, settings_sha256
from reranker.protocols import HIDDEN_STATES, LOWER_STATES
from reranker.types import GenerationPiece, GenerationRequest, ModelInfo, ScoringRequest, SpanScores, TokenSequence

logger = logging.getLogger(__name__)

_P = TypeVar("_P", bound=Prompt)


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
            rows = self._loaded().collective_rpc("reranker_embed", args=([int(token) for token in token_ids],))[0]
        return np.asarray(rows, dtype=np.float32).reshape(len(token_ids), self.model.dim)

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        check_requests(requests, self.model, targets_are_scored=True)
        results = []
        with self._turn():
            for group in self._groups(requests, LISTS):
                sums = iter(self._sums(self._prompts(group, likelihood=True)))
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
            for group in self._groups(requests):
                prompts = self._prompts(group)
                values = np.concatenate(
                    [
                        self._labels(prompts, labels[begin : begin + LABELS_A_REQUEST])
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
            for group in self._groups(requests):
                states = self._states(self._prompts(group, layer=stops_at))
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
            name, others = self._llm.collective_rpc("reranker_take_backend", args=(list(refused),))[0]
            refused |= others
            self._backend = BACKENDS[name]()
            self._writer = PromptWriter(self._slots, self._aliases, block, self._backend)
            problem = problem_of(self, self._backend.reads_states)
            if not problem:
                break
            refused[name] = problem
            if name == Plain.name:
                raise ModelError(
                    f"this vLLM reads no likelihoods that are right: {reasons(refused)}. Use engine='torch'"
                )
        self.backend = name
        chosen = f"vLLM's backend is {name!r}" + (f"; not {reasons(refused)}" if refused else "")
        if not self._backend.reads_states:
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
        n_layers, problem = self._loaded().collective_rpc("reranker_layers", args=(stops,))[0]
        return n_layers, problem

    def log_prob(self, state: NDArray[np.float32], token_id: int) -> float:
        """log p of a token after one hidden state, (dim,), in nats."""
        with self._turn():
            return float(self._loaded().collective_rpc("reranker_log_prob", args=(state.tobytes(), token_id))[0])

    def _tokens(self, request: GenerationRequest) -> Generator[int]:
        with closing(self.run(request.prompt, writing_parameters(request, self.tokenizer.end_ids))) as steps:
            for output in chain.from_iterable(steps):
                yield from output.outputs[0].token_ids

    def _groups(self, requests: Sequence[ScoringRequest], most: int = TAIL_ROWS) -> Iterator[Sequence[ScoringRequest]]:
        """Requests in order, as many at once as slots and prefix cache serve, `most` at most; vectors are loaded."""
        for group in grouped(requests, self._slots.size, self._prefix_tokens, most):
            self._slots.load([sequence for request in group for sequence in sequences(request)])
            yield group

    def _prompts(
        self, group: Sequence[ScoringRequest], *, likelihood: bool = False, layer: int | None = None
    ) -> list[Prompt]:
        """The prompts of all lists, one after the other, with what they share computed."""
        lists = [self._writer.write(request, likelihood=likelihood, layer=layer) for request in group]
        self._generate([one.before for one in lists if one.before])
        kept = {one.kept: one.read for one in lists if one.kept is not None}
        for read, values in zip(kept.values(), self._take(list(kept)), strict=True):
            for prompt, value in zip(read, values.tolist(), strict=True):
                prompt.first = value
        self._read_branches(self._writer.branches(lists))
        return [prompt for one in lists for prompt in one.prompts]

    def _read_branches(self, branches: Sequence[Branch]) -> None:
        prompts: dict[int, list[int]] = {}

        def call(branch: Branch) -> Call:
            token_ids, options = self._writer.branch(branch)
            prompts[branch.kept] = token_ids
            return token_ids, options

        outputs = self._uncached(branches, call)
        followers = self._take([branch.kept for branch in branches])
        for branch, output, values in zip(branches, outputs, followers, strict=True):
            branch.hand_on(prompts[branch.kept], answered(self._backend.sum(branch, output)), values.tolist())

    def _take(self, numbers: list[int]) -> list[NDArray[np.float32]]:
        """What the worker kept under these numbers."""
        kept = self._loaded().collective_rpc("reranker_take", args=(numbers,))[0] if numbers else []
        return [np.frombuffer(one, dtype=np.float32) for one in kept]

    def _sums(self, prompts: Sequence[Prompt]) -> list[float]:
        """Σ log p of each prompt's scored tokens."""
        scored = [prompt for prompt in prompts if prompt.scored]
        outputs = self._uncached(scored, self._writer.span)
        sums = iter([self._backend.sum(prompt, output) for prompt, output in zip(scored, outputs, strict=True)])
        found = [next(sums) if prompt.scored else 0.0 for prompt in prompts]
        return [prompt.first + answered(value) for prompt, value in zip(prompts, found, strict=True)]

    def _states(self, prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        """(n_prompts, dim) mean of the states that each prompt's scored tokens follow."""
        numbers: dict[int, list[int]] = {id(prompt): [] for prompt in prompts}

        def call(prompt: Prompt) -> Call:
            number = next(self._writer.numbers)
            numbers[id(prompt)].append(number)
            return self._writer.states(prompt, number)

        self._uncached([prompt for prompt in prompts if prompt.scored], call)
        asked = [number for tried in numbers.values() for number in tried]
        sums = dict(zip(asked, self._take(asked), strict=True))
        states = np.zeros((len(prompts), self.model.dim), dtype=np.float32)
        for row, prompt in zip(states, prompts, strict=True):
            if tried := numbers[id(prompt)]:
                found = sums[tried[-1]]
                row[:] = answered(found if len(found) else None) / len(prompt.scored)
        return states

    def _uncached(self, prompts: Sequence[_P], call: Callable[[_P], Call]) -> list[Any]:
        """vLLM's outputs for prompts whose scored tokens were all computed.

        It computes nothing for what it takes from the cache. Where the cache reached into the scored tokens, the prompt
        runs again without it.
        """
        outputs = self._generate([call(prompt) for prompt in prompts])
        again = [
            place
            for place, (output, prompt) in enumerate(zip(outputs, prompts, strict=True))
            if (output.num_cached_tokens or 0) >= prompt.start
        ]
        calls = [call(prompts[place]) for place in again]
        fresh = self._generate([(ids, {**options, "skip_reading_prefix_cache": True}) for ids, options in calls])
        for place, output in zip(again, fresh, strict=True):
            outputs[place] = output
        return outputs

    def _labels(self, prompts: Sequence[Prompt], labels: list[int]) -> NDArray[np.float64]:
        """(n_prompts, n_labels) log p(label | prompt)."""
        outputs = self._generate([self._writer.labels(prompt, labels) for prompt in prompts])
        return np.array([[output.outputs[0].logprobs[0][label].logprob for label in labels] for output in outputs])

    def _generate(self, calls: Sequence[Call]) -> list[Any]:
        from vllm import SamplingParams

        self._loaded()
        parameters = [
            SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, **options) for _, options in calls
        ]
        return self._steps.score([token_ids for token_ids, _ in calls], parameters, list(map(cache_salt, calls)))
