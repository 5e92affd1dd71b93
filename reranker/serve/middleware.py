"""Around every request: an id, an entry in the books without the user's words, and limits on the body."""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reranker.serve.errors import ProblemError, refusal
from reranker.serve.observability.access_log import Books
from reranker.serve.observability.logging import failure
from reranker.serve.schemas.openai_responses import event


class Envelope:
    """Gives each request an id and enters it in the books: no path parameter, no query, no body.

    An error that nothing else answers is answered here with 500, under the request's id; what is still in work when
    the server has to end, with 503.
    """

    def __init__(self, app: ASGIApp, books: Books) -> None:
        self._app = app
        self._books = books

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        identity = given if given.isascii() and given.isprintable() and 0 < len(given) <= 100 else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = identity
        started, status, streams = time.perf_counter(), 0, False
        failed: dict[str, Any] = {}

        async def send_with_id(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                added = ((b"x-request-id", identity.encode()), (b"x-content-type-options", b"nosniff"))
                streams = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # by uvicorn, when the time to drain is over
            problem = ProblemError(503, "the server was stopped before this was done", code="shutting_down")
            if not status:
                await refusal(problem, connection="close")(scope, receive, send_with_id)
            elif streams:
                await send({"type": "http.response.body", "body": event(problem.body()).encode()})
            else:
                raise
        except Exception as error:
            failed = failure(error)
            if status:  # half of the answer is out: the caller must not take it for all
                raise ConnectionAbortedError("an answer broke off; the request's line in the log says why") from None
            problem = ProblemError(500, "the server failed; its log says more under this request's id", code="failed")
            await refusal(problem)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            line = {
                "time": round(time.time(), 3),
                "request_id": identity,
                "method": scope["method"],
                "route": getattr(scope.get("route"), "path_format", "unknown"),
                "status": status or 500,
                "ms": round(1000 * seconds, 2),
                **scope["state"].get("log", {}),
                **failed,
            }
            self._books.add(seconds, line)


class BodyLimits:
    """Refuses bodies that are too large (413), do not arrive in time (408), are not said to be JSON (415), or whose
    sender is unknown.

    A page of another site can have a browser send text, forms and bodies of no type here, but no JSON.

    Args:
        app: what gets the others, each body whole.
        max_bytes: of a body.
        seconds: in which it has to arrive.
        admit: raises a ProblemError for a request whose body is not to be read at all.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float, admit: Callable[[Scope], object]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._admit = admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        try:
            self._admit(scope)
            _require_json(scope)
            async with asyncio.timeout(self._seconds):
                body = await self._body(scope, receive)
        except TimeoutError:
            problem = ProblemError(408, f"the body did not arrive within {self._seconds:g} s", code="slow_body")
            await refusal(problem, connection="close")(scope, receive, send)
            return
        except ProblemError as problem:
            await refusal(problem, connection="close")(scope, receive, send)
            return
        if body is None:  # the caller went away
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large()
        parts, size = [], 0
        while True:
            message: Any = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                raise self._too_large()
            if not message.get("more_body"):
                return b"".join(parts)

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413, f"the body is larger than {self._max_bytes} bytes: send fewer documents", code="too_large"
        )


def _require_json(scope: Scope) -> None:
    given = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    media = given.partition(b";")[0].strip().lower()
    if media != b"application/json" and not (media.startswith(b"application/") and media.endswith(b"+json")):
        named = media.decode("latin-1")[:100]
        message = f"the content type is {named!r}: send JSON as 'content-type: application/json'"
        raise ProblemError(415, message, param="content-type", code="unsupported_media_type")
