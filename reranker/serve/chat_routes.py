"""Ranking through OpenAI's chat API, for clients and tools that speak nothing else."""

import time
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, ValidationError

from reranker.serve.problems import ProblemError
from reranker.serve.rerank_routes import ranked
from reranker.serve.schemas import RerankRequest
from reranker.serve.service import Service, allowed, check_model


class ChatMessage(BaseModel):
    """One message; parts of text count, other parts are refused."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(str(part.get("text", "")) for part in self.content or ())


class ChatRequest(BaseModel):
    """OpenAI's fields; those that steer generation are taken and mean nothing, because nothing is generated."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[ChatMessage]
    stream: bool = False
    n: int | None = None


def add_chat(app: FastAPI, service: Service) -> None:
    """POST /v1/chat/completions: the last message holds a rerank request as JSON, the answer a rerank answer."""

    @app.post("/v1/chat/completions", dependencies=[allowed(service, "rank")])
    async def chat(request: Request, body: ChatRequest) -> dict[str, Any]:
        check_model(service, body.model)
        if body.stream or (body.n or 1) != 1:
            field = "stream" if body.stream else "n"
            raise ProblemError(422, "a ranking is one answer, sent whole", param=field, code="not_served")
        answer = await ranked(service, request, _asked(body))
        message = {"role": "assistant", "content": answer.model_dump_json(exclude_none=True), "refusal": None}
        return {
            "id": f"chatcmpl-{answer.id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": service.name,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }


def _asked(body: ChatRequest) -> RerankRequest:
    if not body.messages:
        raise ProblemError(422, "messages is empty", param="messages", code="empty")
    try:
        return RerankRequest.model_validate_json(body.messages[-1].text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["messages", str(len(body.messages) - 1), "content", *map(str, first["loc"])])
        message = (
            f"{place}: {first['msg']}. This server ranks and does not converse: the last message must be a rerank "
            'request as JSON, for instance {"query": "...", "documents": ["...", "..."]}'
        )
        raise ProblemError(422, message, param=place, code="invalid_field") from error
