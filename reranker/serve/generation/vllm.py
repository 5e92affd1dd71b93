"""vLLM's own chat and completions, over the engine that ranks: all fields of its server; queue, limits and errors ours.

vLLM's serving objects ask an engine client for outputs. Here that client is the engine whose front end we step by hand
(`reranker.engines.vllm.stepping`), so that texts and rankings share its batches.
"""

import asyncio
import copy
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError

from reranker.errors import ConfigError, RerankerError
from reranker.protocols import VLLMHost
from reranker.serve.connection import while_connected
from reranker.serve.errors import ProblemError, broken, problem_of
from reranker.serve.generation.constraints import grammar_field
from reranker.serve.generation.grammars import Grammars
from reranker.serve.generation.limits import Limits, Tally
from reranker.serve.generation.queue import Generations
from reranker.serve.schemas.generation import ChatRequest, SamplingFields
from reranker.serve.schemas.openai_responses import STREAM_HEADERS, event
from reranker.serve.settings import ServeSettings
from reranker.types import TokenSequence

_KEPT_BACK = frozenset(
    {
        "ec_transfer_params",  # as kv_transfer_params
        "kv_transfer_params",  # names what other requests left in the cache
        "media_io_kwargs",  # texts only
        "mm_processor_kwargs",
        "priority",  # the queue is ours
        "prompt_embeds",  # clients send no vectors
        "request_id",  # x-request-id
        "session_id",
        "use_beam_search",  # asks for many texts at once, past the limits
        "vllm_xargs",  # reaches the engine's own arguments
    }
)


class VLLMTexts:
    """vLLM's serving objects for one model name.

    Args:
        engine: that ranks, too.
        name: of the model, in requests and answers.
        soft: read before every prompt; None for the base model.
        tool_call_parser: vLLM's name of how the model writes tool calls; None offers no tools to call.

    Raises:
        ConfigError: vLLM has no such parser.
    """

    def __init__(self, engine: VLLMHost, name: str, soft: TokenSequence | None, tool_call_parser: str | None) -> None:
        from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
        from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
        from vllm.entrypoints.openai.models.protocol import BaseModelPath
        from vllm.entrypoints.openai.models.serving import OpenAIServingModels
        from vllm.renderers.online_renderer import OnlineRenderer

        front = engine.front
        config = copy.copy(front.model_config)
        config.max_model_len -= 0 if soft is None else len(soft)
        client: Any = SimpleNamespace(
            vllm_config=front.vllm_config,
            model_config=config,
            renderer=front.renderer,
            input_processor=front.input_processor,
        )
        chats = {"chat_template": None, "chat_template_content_format": "auto"}
        tools = {"enable_auto_tools": tool_call_parser is not None, "tool_parser": tool_call_parser}
        try:
            renderer = OnlineRenderer(config, front.renderer, request_logger=None, **chats, **tools)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"setting 'tool_call_parser': {error}") from error
        parts = {
            "engine_client": client,
            "models": OpenAIServingModels(client, [BaseModelPath(name=name, model_path=config.model)]),
            "online_renderer": renderer,
            "request_logger": None,
        }
        self._completions: Any = OpenAIServingCompletion(**parts)
        self._chats: Any = OpenAIServingChat(**parts, response_role="assistant", **chats, **tools)
        self._engine = engine
        self._soft = soft
        self._grammars = Grammars(engine)

    async def answer(
        self,
        generations: Generations,
        settings: ServeSettings,
        request: Request,
        body: SamplingFields,
        limits: Limits,
        tally: Tally,
    ) -> Response:
        """vLLM's answer, whole or as a stream; a caller that goes away ends the work.

        Raises:
            ProblemError: vLLM refuses the request or a field of it, or one of our limits does.
        """
        grammars = partial(self._grammars.check, seconds=settings.grammar_seconds, field=grammar_field(body))
        client = _Client(self._engine, self._soft, generations, settings, limits, tally, grammars)
        streams = False
        try:
            made = await while_connected(request, _cancellable(self._create(client, request.state.request_id, body)))
            if not isinstance(made, AsyncGenerator):
                return JSONResponse(made)
            first = await while_connected(request, _next(made))
            if failure := client.failure(first):  # what fails before the first piece is an ordinary error
                await made.aclose()
                raise failure
            streams = True
        finally:
            if not streams:
                tally.close()
        return StreamingResponse(_events(first, made, client), media_type="text/event-stream", headers=STREAM_HEADERS)

    async def _create(self, client: "_Client", request_id: str, body: SamplingFields) -> Any:
        """JSON, or the events of a stream."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest
        from vllm.entrypoints.serve import create_error_response
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse

        chat = isinstance(body, ChatRequest)
        kind: Any = ChatCompletionRequest if chat else CompletionRequest
        serving = copy.copy(self._chats if chat else self._completions)
        serving.engine_client = client
        body.refuse_others(kind.model_fields.keys() - _KEPT_BACK)
        fields = {name: value for name, value in body.model_dump(exclude_unset=True).items() if value is not None}
        try:
            asked = kind.model_validate({**fields, "request_id": request_id})
            made = await (serving.create_chat_completion(asked) if chat else serving.create_completion(asked))
        except ValidationError as error:
            raise broken(error.errors()) from error
        except (ProblemError, RerankerError):
            raise
        except Exception as error:
            made = create_error_response(error)
        if isinstance(made, ErrorResponse):
            raise client.problem or _problem(made.model_dump()["error"], client.limits)
        return made if isinstance(made, AsyncGenerator) else made.model_dump()


@dataclass
class _Client:
    """What vLLM's serving objects see of an engine while they answer one request: `vllm.engine.protocol.EngineClient`.

    Attributes:
        check_grammar: raises ProblemError for `vllm.SamplingParams` whose grammar does not compile.
        problem: what went wrong on our side of vLLM.
    """

    engine: VLLMHost
    soft: TokenSequence | None
    generations: Generations
    settings: ServeSettings
    limits: Limits
    tally: Tally
    check_grammar: Callable[[Any], Awaitable[None]]
    problem: ProblemError | None = None
    errored: bool = False

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """Texts wait in a queue of ours, see `generate`."""

    async def generate(self, prompt: Any, sampling_params: Any, request_id: str, **others: Any) -> AsyncGenerator[Any]:
        """vLLM's outputs for a rendered prompt."""
        try:
            sequence = self._prompt(prompt["prompt_token_ids"], sampling_params)
            sampling_params.max_tokens = min(sampling_params.max_tokens, self.settings.max_generated_tokens)
            await self.check_grammar(sampling_params)
            self.tally.prompt_tokens += len(sequence)
            run = partial(self.engine.run, sequence, sampling_params, prompt.get("cache_salt"))
            async with aclosing(self.generations.pieces(run, self.settings.generation_seconds)) as steps:
                async for output in _each(steps):
                    self.tally.tokens += sum(len(one.token_ids) for one in output.outputs)
                    output.prompt = prompt.get("prompt")
                    yield output
        except ProblemError as problem:
            self.problem = problem
            raise
        except RerankerError as error:
            self.problem = problem_of(error)
            raise

    def failure(self, chunk: str) -> ProblemError | None:
        """The error that an event of a stream tells of."""
        if not chunk.startswith('data: {"error"'):
            return None
        return self.problem or _problem(json.loads(chunk.removeprefix("data: "))["error"], self.limits)

    def _prompt(self, token_ids: list[int], parameters: Any) -> TokenSequence:
        self.limits.check_prompt(token_ids, self.engine.model.vocab_size)
        plain = TokenSequence.from_tokens(token_ids)
        if self.soft is None:
            return plain
        if parameters.prompt_logprobs is not None:
            message = (
                "prompt_logprobs, or logprobs of an echo: this model's prompt begins with vectors, ask the base model"
            )
            raise ProblemError(422, message, param="prompt_logprobs", code="not_supported")
        return TokenSequence.concatenate([self.soft, plain])


def _problem(error: dict[str, Any], limits: Limits) -> ProblemError:
    """vLLM's error as ours."""
    status, field = int(error["code"]), error["param"]
    if status >= 500:
        return ProblemError(status, error["message"], code="engine_failed")
    if field == "input_tokens":
        return ProblemError(status, error["message"], param=limits.prompt, code="context_length_exceeded")
    return ProblemError(status, error["message"], param=field, code="invalid_field" if field else "refused")


async def _cancellable(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of `work`. vLLM answers a cancellation with an error of its own; this stays cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _each(steps: AsyncIterator[list[Any]]) -> AsyncIterator[Any]:
    async for outputs in steps:
        for output in outputs:
            yield output


async def _next(chunks: AsyncGenerator[str]) -> str:
    return await anext(chunks)


async def _events(first: str, chunks: AsyncGenerator[str], client: _Client) -> AsyncIterator[str]:
    try:
        yield first
        async for chunk in chunks:
            failure = client.failure(chunk)
            yield chunk if failure is None else event(failure.body())
    finally:
        await chunks.aclose()
        client.tally.close()
