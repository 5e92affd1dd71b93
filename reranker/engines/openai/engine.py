"""A remote engine: scores on any vLLM OpenAI server, with token ids as prompts.

Only what a server offers over HTTP can be had: no soft prompts, and likelihoods without the prefix cache (vLLM computes
`prompt_logprobs` anew each time). The server's dtype and head decide how finely scores differ: start it with
`--hf-overrides '{"head_dtype": "float32"}'`, or half-precision logits make ties.
"""

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from reranker.engines.loading import HubTokenizer, Model
from reranker.engines.openai.client import OpenAIClient
from reranker.engines.openai.generation import remote_pieces
from reranker.engines.openai.probe import (
    COMPLETIONS,
    Capabilities,
    labels_body,
    likelihood_body,
    probe,
    read_labels,
    read_likelihoods,
    server_tokens,
)
from reranker.engines.validation import check_generation, check_labels, check_requests
from reranker.errors import ConfigError, EngineError, ModelError
from reranker.hub import ResolvedModel, resolve_tokenizer
from reranker.types import GenerationPiece, GenerationRequest, ModelInfo, ScoringRequest, SpanScores

BASE_URL_VARIABLE, API_KEY_VARIABLE = "OPENAI_BASE_URL", "OPENAI_API_KEY"
_T = TypeVar("_T")

_LABELS_A_REQUEST = 100  # vLLM takes at most 128
_PROBE_TEXT = "Alien (1979) naïve 電影 \n- Blade Runner"
_NO_VECTORS = (
    "the openai engine cannot send vectors: a server takes token ids only. Use soft_tokens=0, or engine='vllm' on the "
    "machine that has the model"
)


class OpenAIEngine:
    """Scores on a server.

    Args:
        model: the model's name on the server.
        base_url: "http://host:8000/v1"; by default the environment's OPENAI_BASE_URL.
        tokenizer: known name, directory or Hugging Face id of the tokenizer, when it is not called as `model` is.
        api_key: by default the environment's OPENAI_API_KEY; none is sent when there is none.
        prompts_a_request: prompts in one HTTP call.
        **client_options: of `OpenAIClient`: concurrency, attempts, backoff_seconds, max_wait_seconds, timeout_seconds.

    Attributes:
        capabilities: what the server offers, as asked at the start.

    Raises:
        ConfigError: no base_url.
        EngineError: the server does not answer, does not serve the model, cannot score tokens or has another tokenizer.
        ModelError: the tokenizer cannot be found.
    """

    name = "openai"

    def __init__(
        self,
        model: Model,
        *,
        base_url: str | None = None,
        tokenizer: str | Path | None = None,
        api_key: str | None = None,
        prompts_a_request: int = 16,
        **client_options: Any,
    ) -> None:
        base_url = base_url or os.environ.get(BASE_URL_VARIABLE)
        if not base_url:
            raise ConfigError(
                f"the openai engine needs the server's address: base_url='http://host:8000/v1' (in engine_options), or "
                f"{BASE_URL_VARIABLE} in the environment"
            )
        name = model.model_id if isinstance(model, ResolvedModel) else str(model)
        self._prompts_a_request = prompts_a_request
        self._client = OpenAIClient(base_url, api_key or os.environ.get(API_KEY_VARIABLE), **client_options)
        try:
            self.capabilities: Capabilities = probe(self._client, name)
            if not self.capabilities.labels:
                raise EngineError(f"this server cannot score given tokens:\n{self.capabilities.table()}")
            path = resolve_tokenizer(tokenizer or name)
            self.tokenizer = HubTokenizer(path)
            self.model = _model_info(name, path, self.capabilities)
            self._check_tokenizer(tokenizer or name)
        except BaseException:
            self._client.close()
            raise

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Not possible.

        Raises:
            EngineError: always; a server does not give its embedding table away.
        """
        raise EngineError(_NO_VECTORS)

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        self._check(requests, targets_are_scored=True)
        if not self.capabilities.likelihood:
            raise EngineError(
                "this server gives no log-probabilities of prompt tokens; use scorer='labels'\n"
                f"{self.capabilities.table()}"
            )
        starts = [
            len(request.prefix) + candidate.scored_from for request in requests for candidate in request.candidates
        ]
        sums = self._tail_sums(_prompts(requests), starts)
        return [
            SpanScores(
                sums=part,
                counts=np.array([len(candidate.sequence) - candidate.scored_from for candidate in request.candidates]),
            )
            for request, part in zip(requests, _by_request(sums, requests), strict=True)
        ]

    def label_log_probs(
        self, requests: Sequence[ScoringRequest], label_token_ids: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        self._check(requests, targets_are_scored=False)
        check_labels(label_token_ids, self.model)
        labels = [int(label) for label in label_token_ids]
        prompts = _prompts(requests)
        if self.capabilities.labels == "appended":
            longer = [[*prompt, label] for prompt in prompts for label in labels]
            sums = self._tail_sums(longer, [len(prompt) - 1 for prompt in longer])
            return _by_request(sums.reshape(len(prompts), len(labels)), requests)
        columns = [
            self._labels(prompts, labels[start : start + _LABELS_A_REQUEST])
            for start in range(0, len(labels), _LABELS_A_REQUEST)
        ]
        return _by_request(np.concatenate(columns, axis=1), requests)

    def generate(self, request: GenerationRequest) -> Generator[GenerationPiece]:
        check_generation(request, self.model)
        if not request.prompt.is_plain:
            raise EngineError(_NO_VECTORS)
        return remote_pieces(self._client, self.capabilities.model, request)

    def close(self) -> None:
        self._client.close()

    def _check(self, requests: Sequence[ScoringRequest], *, targets_are_scored: bool) -> None:
        check_requests(requests, self.model, targets_are_scored=targets_are_scored)
        for request in requests:
            if not request.prefix.is_plain or not all(one.sequence.is_plain for one in request.candidates):
                raise EngineError(_NO_VECTORS)

    def _check_tokenizer(self, tokenizer: str | Path) -> None:
        """Token ids are what is sent: with another tokenizer every score would be of another text."""
        theirs = server_tokens(self._client, self.capabilities.model, _PROBE_TEXT)
        ours = self.tokenizer.encode(_PROBE_TEXT)
        if theirs is not None and theirs != ours:
            raise EngineError(
                f"the tokenizer {str(tokenizer)!r} is not the server's for {self.capabilities.model!r}: it makes "
                f"{ours[:8]} of a text that the server makes {theirs[:8]} of. Give its Hugging Face id or directory as "
                "tokenizer"
            )

    def _tail_sums(self, prompts: list[list[int]], starts: list[int]) -> NDArray[np.float64]:
        """(n_prompts,) Σ log p(prompt[i]) for i from each start on; nothing is sent where nothing is scored."""
        sums = np.zeros(len(prompts))
        scored = [row for row, (prompt, start) in enumerate(zip(prompts, starts, strict=True)) if start < len(prompt)]
        model, way = self.capabilities.model, self.capabilities.likelihood
        parts = [[prompts[row] for row in rows] for rows in self._batches(scored)]
        answers = self._client.post_all(COMPLETIONS, [likelihood_body(model, way, part) for part in parts])
        read = [
            values
            for answer, part in zip(answers, parts, strict=True)
            for values in read_likelihoods(answer, way, part)
        ]
        for row, values in zip(scored, read, strict=True):
            sums[row] = sum(values[starts[row] - 1 :])  # values[0] is of the second token
        return sums

    def _labels(self, prompts: list[list[int]], labels: list[int]) -> NDArray[np.float64]:
        """(n_prompts, n_labels) log p(label | prompt)."""
        parts = self._batches(prompts)
        bodies = [labels_body(self.capabilities.model, labels, part) for part in parts]
        answers = self._client.post_all(COMPLETIONS, bodies)
        rows = [row for answer, part in zip(answers, parts, strict=True) for row in read_labels(answer, labels, part)]
        return np.array(rows, dtype=np.float64).reshape(len(prompts), len(labels))

    def _batches(self, members: list[_T]) -> list[list[_T]]:
        size = self._prompts_a_request
        return [members[start : start + size] for start in range(0, len(members), size)]


def probe_server(base_url: str, model: str | None = None) -> Capabilities:
    """What the server at `base_url` offers, with the key in OPENAI_API_KEY; raises what `probe` raises."""
    client = OpenAIClient(base_url, os.environ.get(API_KEY_VARIABLE), attempts=2)
    try:
        return probe(client, model)
    finally:
        client.close()


def _prompts(requests: Sequence[ScoringRequest]) -> list[list[int]]:
    """Prefix and candidate of every candidate, requests laid end to end."""
    prompts: list[list[int]] = []
    for request in requests:
        prefix = request.prefix.token_ids.tolist()
        prompts += [prefix + candidate.sequence.token_ids.tolist() for candidate in request.candidates]
    return prompts


def _by_request(values: NDArray[np.float64], requests: Sequence[ScoringRequest]) -> list[NDArray[np.float64]]:
    """The rows of each request's candidates."""
    ends = np.cumsum([len(request.candidates) for request in requests], dtype=np.int64)
    return [values[end - len(request.candidates) : end] for request, end in zip(requests, ends, strict=True)]


def _model_info(name: str, tokenizer: Path, capabilities: Capabilities) -> ModelInfo:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(tokenizer, trust_remote_code=False).get_text_config()
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the model's config.json in {tokenizer}: {error}") from error
    # vLLM always generates one token after the prompt; labels that are appended take one more.
    reserved = 2 if capabilities.labels == "appended" else 1
    return ModelInfo(
        model_id=name,
        sha256="",
        dim=config.hidden_size,
        vocab_size=config.vocab_size,
        max_length=(capabilities.max_length or config.max_position_embeddings) - reserved,
    )
