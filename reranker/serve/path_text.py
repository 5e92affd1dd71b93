"""Paths that are UTF-8, or refused: what is not would be read with U+FFFD, and several users become one."""

from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from reranker.serve.errors import ProblemError, refusal


class Utf8Paths:
    """Refuses (400) a path whose percent escapes, or bytes, are no UTF-8.

    Args:
        app: what gets the others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes | None = scope.get("raw_path") if scope["type"] == "http" else None
        try:
            unquote_to_bytes(raw or b"").decode()
        except UnicodeDecodeError as error:
            problem = ProblemError(
                400,
                f"the path is not UTF-8 at {raw!r} (byte 0x{error.object[error.start]:02x}): escape the UTF-8 bytes of "
                "each character, %C3%A9 for é",
                param="path",
                code="invalid_path",
            )
            await refusal(problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)
