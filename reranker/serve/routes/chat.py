"""OpenAI's chat API: a conversation is answered by the model, a list to rank by the ranking."""

import json
from collections.abc import Collection, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.responses import StreamingResponse

from reranker.errors import PromptError
from reranker.protocols import Generator
from reranker.serve.errors import ProblemError, broken
from reranker.serve.generation.limits import Limits
from reranker.serve.routes.rerank import ranked
from reranker.serve.routes.text_generation import write
from reranker.serve.schemas.generation import TEXT_FIELDS, ChatMessage, ChatRequest
from reranker.serve.schemas.openai_responses import STREAMS, Shape, usage
from reranker.serve.schemas.rerank import RerankRequest
from reranker.serve.state import Service, allowed

_LISTS = frozenset({"documents", "item_ids"})
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def add_chat(app: FastAPI, service: Service) -> None:
    """POST /v1/chat/completions.

    A ranking is asked for by a rerank request as JSON in the last message, or by `documents` or `item_ids` (and the
    other fields of a rerank request) beside the messages; the answer's content is a rerank answer as JSON. In the
    second way the last message is the query, unless there is a `query`; in the first, fields beside the messages
    (as OpenAI's `user`) hold where the JSON has none.
    """

    @app.post("/v1/chat/completions", dependencies=[allowed(service, "rank")], responses=STREAMS)
    async def chat(request: Request, body: ChatRequest) -> Response:
        service.domains.check_model(body.model)
        if not body.messages:
            raise ProblemError(422, "messages is empty", param="messages", code="empty")
        shape = Shape(chat=True, id=request.state.request_id, model=body.model, with_usage=body.with_usage)
        asked = _asked(body)
        if asked is not None:
            return await _rank(service, request, body, shape, asked)
        _check_parts(body.messages)
        name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        limits = Limits(prompt="messages", tokens=name, most=most, default=None)
        return await write(service, request, body, shape, limits, lambda engine: _encoded(engine, body.messages))


async def _rank(service: Service, request: Request, body: ChatRequest, shape: Shape, asked: RerankRequest) -> Response:
    if (body.n or 1) != 1:
        raise ProblemError(422, "n: a ranking is one answer", param="n", code="not_supported")
    if asked.model is None and asked.domain is None:
        asked = asked.model_copy(update={"model": body.model})
    content = (await ranked(service, request, asked)).decode()
    counts = usage(request.state.prompt_tokens, 0)
    if not body.stream:
        return JSONResponse(shape.whole([content], ["stop"], counts))
    events = [shape.opening(0), shape.piece(0, content, "stop"), shape.closing(counts)]
    return StreamingResponse(iter(events), media_type="text/event-stream", headers={"cache-control": "no-cache"})


def _asked(body: ChatRequest) -> RerankRequest | None:
    """The ranking that is asked for; None for a conversation."""
    extra = {name: value for name, value in (body.model_extra or {}).items() if value is not None}
    last = body.messages[-1].text
    if _LISTS & extra.keys():
        about_text = TEXT_FIELDS - RerankRequest.model_fields.keys()
        return _checked({"query": last, **{name: extra[name] for name in extra if name not in about_text}})
    try:
        fields = json.loads(last)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not _LISTS & fields.keys():
        return None
    beside = {name: extra[name] for name in RerankRequest.model_fields if name in extra and fields.get(name) is None}
    return _checked({**fields, **beside}, set(fields) - set(beside), f"messages.{len(body.messages) - 1}.content")


def _checked(fields: dict[str, Any], inside: Collection[str] = (), where: str = "") -> RerankRequest:
    """The request; errors in the fields `inside` are told of the place `where` they stand."""
    try:
        return RerankRequest.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        _refuse_lone_surrogates(fields, inside, where)
        errors = error.errors()
        place = errors[0]["loc"]
        raise broken(errors, where=where if not place or place[0] in inside else "") from error


def _refuse_lone_surrogates(fields: dict[str, Any], inside: Collection[str], where: str) -> None:
    """Names the field that holds one; pydantic calls all of it no JSON."""
    for name, value in fields.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            field = name.encode(errors="backslashreplace").decode()
            place = f"{where}.{field}" if name in inside else field
            message = f"{place}: holds a lone surrogate, half of an emoji, say: cut texts between characters"
            raise ProblemError(422, message, param=place, code="invalid_field") from None


def _check_parts(messages: Sequence[ChatMessage]) -> None:
    for number, message in enumerate(messages):
        for index, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                place = f"messages.{number}.content.{index}"
                raise ProblemError(422, f"{place}: only parts of text are read", param=place, code="not_supported")


def _plain(number: int, message: ChatMessage) -> dict[str, str]:
    """Role and text of a message to the model."""
    place = f"messages.{number}.role"
    if message.role not in _ROLES:
        text = f"{place}: {message.role!r} is not supported; there are {', '.join(_ROLES)}"
        raise ProblemError(422, text, param=place, code="not_supported")
    return {"role": _ROLES[message.role], "content": message.text}


def _encoded(engine: Generator, messages: Sequence[ChatMessage]) -> Sequence[Sequence[int]]:
    plain = [_plain(number, message) for number, message in enumerate(messages)]
    try:
        return [engine.tokenizer.encode_chat(plain)]
    except PromptError as error:
        raise ProblemError(422, f"messages: {error}", param="messages", code="invalid_field") from error
