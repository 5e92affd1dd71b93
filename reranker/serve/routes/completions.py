"""Text after a prompt, as OpenAI's completions API has it."""

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.responses import Response

from reranker.protocols import Generator
from reranker.serve.errors import ProblemError
from reranker.serve.generation.limits import Limits
from reranker.serve.routes.text_generation import write
from reranker.serve.schemas.generation import CompletionRequest
from reranker.serve.schemas.openai_responses import STREAMS, Shape
from reranker.serve.state import Service, allowed

_DEFAULT_TOKENS = 16  # OpenAI's


def add_completions(app: FastAPI, service: Service) -> None:
    """POST /v1/completions."""

    @app.post("/v1/completions", dependencies=[allowed(service, "rank")], responses=STREAMS)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        if not all(body.prompts):
            raise ProblemError(422, "prompt is empty", param="prompt", code="empty")

        def encode(engine: Generator) -> Sequence[Sequence[int]]:
            return [one if isinstance(one, list) else engine.tokenizer.encode_prompt(one) for one in body.prompts]

        shape = Shape(chat=False, id=request.state.request_id, model=body.model, with_usage=body.with_usage)
        limits = Limits(prompt="prompt", tokens="max_tokens", most=body.max_tokens, default=_DEFAULT_TOKENS)
        return await write(service, request, body, shape, limits, encode)
