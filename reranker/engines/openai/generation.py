"""Texts that a remote server writes, as it writes them."""

from collections.abc import Generator
from typing import Any, Literal

from reranker.engines.openai.client import OpenAIClient
from reranker.engines.openai.probe import COMPLETIONS
from reranker.errors import EngineError
from reranker.types import GenerationPiece, GenerationRequest


def generation_body(model: str, request: GenerationRequest) -> dict[str, Any]:
    """The request for a text, streamed, with token counts at the end."""
    body = {
        "model": model,
        "prompt": request.prompt.token_ids.tolist(),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    optional = {"stop": list(request.stop) or None, "seed": request.seed}
    return {**body, **{name: value for name, value in optional.items() if value is not None}}


def remote_pieces(client: OpenAIClient, model: str, request: GenerationRequest) -> Generator[GenerationPiece]:
    """Pieces as the server sends them. The last one holds the tokens that the server counted and the others did not.

    Raises:
        EngineError: the server refuses, breaks off or does not answer as an OpenAI server does.
    """
    counted, total, held = 0, None, ""
    reason: Literal["stop", "length"] | None = None
    events = client.stream(COMPLETIONS, generation_body(model, request))
    try:
        for event in events:
            if "error" in event:
                raise EngineError(f"{client.base_url} stopped writing: {event['error']}")
            total = (event.get("usage") or {}).get("completion_tokens", total)
            for choice in event["choices"]:
                if choice.get("finish_reason"):
                    reason, held = ("length" if choice["finish_reason"] == "length" else "stop"), choice["text"] or ""
                elif choice["text"]:
                    counted += 1
                    yield GenerationPiece(text=choice["text"], tokens=1)
    except (LookupError, TypeError, AttributeError) as error:
        raise EngineError(f"{client.base_url} does not stream as an OpenAI server does ({error!r})") from error
    finally:
        events.close()
    if reason is None:
        raise EngineError(f"{client.base_url} ended an answer without a finish_reason")
    left = int(bool(held)) if total is None else max(0, int(total) - counted)
    yield GenerationPiece(text=held, tokens=left, finish_reason=reason)
