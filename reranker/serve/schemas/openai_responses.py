"""Answers in OpenAI's shapes: whole, and as the events of a stream."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

DONE = "data: [DONE]\n\n"
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

STREAMS: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}, "text/event-stream": {}}}}
"""Of a route's description: with `stream`, events are sent."""


def event(body: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of one answer.

    Attributes:
        chat: of /v1/chat/completions, else of /v1/completions.
        id: of the request.
        model: the name that was asked for.
        with_usage: the stream ends with token counts, and its other events say that they hold none.
    """

    chat: bool
    id: str
    model: str
    with_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, texts: Sequence[str], reasons: Sequence[str | None], counts: dict[str, int]) -> dict[str, Any]:
        """All choices at once."""
        choices = [self._choice(index, text, reasons[index], whole=True) for index, text in enumerate(texts)]
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": counts}

    def opening(self, index: int) -> str:
        """The event that begins a choice; a completion has none."""
        return self._event([self._choice(index, "", None, role=True)]) if self.chat else ""

    def piece(self, index: int, text: str, reason: str | None = None) -> str:
        """An event with more of a choice, or its end."""
        if self.chat and text and reason:
            return self.piece(index, text) + self.piece(index, "", reason)
        return self._event([self._choice(index, text, reason)])

    def closing(self, counts: dict[str, int]) -> str:
        """The end of the stream."""
        return (self._event([], counts) if self.with_usage else "") + DONE

    def _event(self, choices: list[dict[str, Any]], counts: dict[str, int] | None = None) -> str:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return event({**self._head(kind), "choices": choices, **({"usage": counts} if self.with_usage else {})})

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _choice(
        self, index: int, text: str, reason: str | None, *, whole: bool = False, role: bool = False
    ) -> dict[str, Any]:
        words: dict[str, Any] = {"text": text}
        if self.chat and whole:
            words = {"message": {"role": "assistant", "content": text, "refusal": None}}
        elif self.chat:
            delta = {"role": "assistant", "content": ""} if role else {"content": text} if text else {}
            words = {"delta": delta}
        return {"index": index, **words, "logprobs": None, "finish_reason": reason}
