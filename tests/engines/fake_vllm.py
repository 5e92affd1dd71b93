"""A `vllm.LLM` over V2's runner without a process, a scheduler or a cache: our engine, worker and backend run as they
do beside the real one, and vLLM's own prompt-log-probability worker beside ours.

Each step computes all prompts that wait, whole. Of a token's state the token alone decides.
"""

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

VOCABULARY, DIM, LAYERS = 264, 32, 2  # as in `models.TINY`


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(DIM, DIM)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states + torch.tanh(self.inner(states))


class Trunk(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(VOCABULARY, DIM)
        self.layers = torch.nn.ModuleList(Block() for _ in range(LAYERS))
        self.start_layer, self.end_layer = 0, LAYERS
        self.norm = torch.nn.LayerNorm(DIM)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        states = self.embed_tokens(token_ids)
        for layer in self.layers[self.start_layer : self.end_layer]:
            states = layer(states)
        normed: torch.Tensor = self.norm(states)
        return normed


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = Trunk()
        self.weight = torch.randn(VOCABULARY, DIM)
        self.lm_head = SimpleNamespace(weight=self.weight, tp_size=1)
        self.logits_processor = SimpleNamespace(org_vocab_size=VOCABULARY, scale=1.0, soft_cap=None)

    def compute_logits(self, states: torch.Tensor) -> torch.Tensor:
        return states @ self.weight.T

    def states(self, token_ids: list[int], layers: int = LAYERS) -> torch.Tensor:
        """(n, dim) after so many layers and the norm, of tokens of the vocabulary."""
        with torch.inference_mode():
            states = self.model.embed_tokens(torch.tensor(token_ids))
            for layer in self.model.layers[:layers]:
                states = layer(states)
            normed: torch.Tensor = self.model.norm(states)
            return normed

    def log_probs(self, token_ids: list[int]) -> torch.Tensor:
        """(n, vocabulary) of what follows each token."""
        return (self.states(token_ids) @ self.weight.T).log_softmax(dim=-1)


class V2Runner:
    """What our code, and vLLM's worker, want of V2's model runner."""

    def __init__(self) -> None:
        from vllm.v1.worker.gpu.sample.prompt_logprob import PromptLogprobsWorker

        self.prompt_logprobs_worker: Any = PromptLogprobsWorker(256, torch.device("cpu"), logprobs_mode="raw_logprobs")
        self.model_config = SimpleNamespace(dtype=torch.float32, enforce_eager=True, get_vocab_size=lambda: VOCABULARY)
        self.model = Model()

    def get_model(self) -> Model:
        return self.model


class Engine:
    """vLLM's front end."""

    def __init__(self, runner: V2Runner) -> None:
        self.runner = runner
        self.waiting: list[tuple[str, list[int], Any]] = []
        self.model_config = SimpleNamespace(
            get_hidden_size=lambda: DIM, get_vocab_size=lambda: VOCABULARY, max_model_len=512
        )
        self.vllm_config = SimpleNamespace(
            cache_config=SimpleNamespace(num_gpu_blocks=64, block_size=16), kv_transfer_config=None
        )
        self.renderer = SimpleNamespace()
        self.engine_core = SimpleNamespace(
            resources=SimpleNamespace(engine_dead=False),
            shutdown=lambda: None,
            output_queue_thread=SimpleNamespace(join=lambda timeout: None),
            ctx=SimpleNamespace(destroy=lambda linger: None),
        )

    def abort_request(self, ids: list[str], internal: bool = False) -> None:
        self.waiting = [one for one in self.waiting if one[0] not in ids]

    def step(self) -> list[Any]:
        requests, self.waiting = self.waiting, []
        lengths = np.array([len(token_ids) for _, token_ids, _ in requests], dtype=np.int32)
        for place, (name, _, parameters) in enumerate(requests):
            self.runner.prompt_logprobs_worker.add_request(name, place, parameters)
        batch = SimpleNamespace(
            req_ids=[name for name, _, _ in requests],
            idx_mapping_np=np.arange(len(requests)),
            num_computed_prefill_tokens_np=np.zeros(len(requests), dtype=np.int32),
            num_scheduled_tokens=lengths,
            query_start_loc_np=np.cumsum([0, *lengths]).astype(np.int32),
            prefill_len_np=lengths,
        )
        model = self.runner.get_model()
        with torch.inference_mode():
            states = model.model(torch.tensor([token for _, token_ids, _ in requests for token in token_ids]))
            scores = self.runner.prompt_logprobs_worker.compute_prompt_token_id_logprobs(
                model.compute_logits, states, batch, lengths
            )
            outputs = [
                self._output(request, part, scores.get(request[0]))
                for request, part in zip(requests, torch.split(states, lengths.tolist()), strict=True)
            ]
        for name, _, _ in requests:
            self.runner.prompt_logprobs_worker.remove_request(name)
        return outputs

    def _output(self, request: tuple[str, list[int], Any], states: torch.Tensor, scores: Any) -> Any:
        name, token_ids, parameters = request
        log_probs = self.runner.get_model().compute_logits(states).log_softmax(dim=-1)
        told = {label: float(log_probs[-1, label]) for label in parameters.logprob_token_ids or ()}
        rows: list[Any] | None = None
        if parameters.prompt_logprobs is not None:
            pairs = zip(log_probs, token_ids[1:], strict=False)
            rows = [None, *({token: SimpleNamespace(logprob=float(row[token]))} for row, token in pairs)]
        return SimpleNamespace(
            request_id=name,
            finished=True,
            num_cached_tokens=0,
            prompt_token_id_logprobs=None if scores is None else scores.numpy(),
            prompt_logprobs=rows,
            outputs=[
                SimpleNamespace(logprobs=[{label: SimpleNamespace(logprob=value) for label, value in told.items()}])
            ],
        )


class LLM:
    """Takes the place of `vllm.LLM`.

    Args:
        model: a directory, of which nothing is read.
        worker_extension_cls: the class of our worker's methods, with its module.
        **settings: as vLLM has them.

    Raises:
        ValueError: settings that vLLM refuses, in as many lines.
    """

    def __init__(self, model: str, worker_extension_cls: str, **settings: Any) -> None:
        if settings["max_num_batched_tokens"] < settings.get("max_num_seqs", 1):
            raise ValueError("1 validation error for SchedulerConfig\n  max_num_batched_tokens is too small")
        module, _, name = worker_extension_cls.rpartition(".")
        self.llm_engine = Engine(V2Runner())
        extension = getattr(importlib.import_module(module), name)
        self.worker = type("Worker", (InProcess, extension), {})()
        self.worker.model_runner, self.worker.engine = self.llm_engine.runner, self.llm_engine
        self._numbers = iter(range(1_000_000))

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        return [getattr(self.worker, method)(*args)]

    def enqueue(self, prompts: list[dict[str, Any]], parameters: list[Any], use_tqdm: bool) -> list[str]:
        names = []
        for prompt, asked in zip(prompts, parameters, strict=True):
            if asked.prompt_logprob_token_ids is not None:  # as vLLM's own check leaves them
                asked.prompt_logprob_token_ids = np.array(asked.prompt_logprob_token_ids, dtype=np.int32)
            names.append(str(next(self._numbers)))
            self.llm_engine.waiting.append((names[-1], prompt["prompt_token_ids"], asked))
        return names

    def reset_prefix_cache(self) -> bool:
        return True


class InProcess:
    """What our worker does to the process that it runs in is left out: it is the tests' own."""

    model_runner: V2Runner
    engine: Engine

    def reranker_end_with(self, owner: int) -> None: ...

    def reranker_keep_memory(self) -> None: ...
