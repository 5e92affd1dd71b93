"""HTTP parsing with a bound on all that is no body: request line, headers, trailers, chunk extensions."""

import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reranker.serve.errors import ProblemError

MAX_HEADER_BYTES = 32_768
_OF_A_CHUNK = 20  # bytes that frame a chunk


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol, which answers 431 and hangs up past `MAX_HEADER_BYTES` of a request outside its body.

    Nothing of such a request is looked at. uvicorn's own takes any amount into memory, and parts of one header are put
    together in quadratic time.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._received = self._bodies = self._fields = self._chunks = 0
        self._begun: int | None = None  # bytes outside bodies when this request began; None while that is not known
        self._refused = False

    def data_received(self, data: bytes) -> None:
        if self._refused:  # until the connection is closed
            return
        super().data_received(data)
        self._received += len(data)
        outside = self._received - self._bodies
        if self._begun is None:
            self._begun = outside
        elif outside - self._begun - _OF_A_CHUNK * self._chunks > MAX_HEADER_BYTES:
            self._refuse()

    def on_message_begin(self) -> None:
        self._begun, self._fields, self._chunks = None, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_chunk_header(self) -> None:
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        self._bodies += len(body)
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this when parsing fails, so also when `_count` ends it."""
        if not self._refused:
            self._answer("400 Bad Request", ProblemError(400, msg, code="invalid_http"))
            self.transport.close()

    def _count(self, length: int) -> None:
        self._fields += length
        if self._fields > MAX_HEADER_BYTES:
            self._refuse()
            raise ValueError("headers too large")  # ends the parsing

    def _refuse(self) -> None:
        if self._refused or self.transport is None:
            return
        self._refused = True
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            message = f"request line, headers and trailers hold more than {MAX_HEADER_BYTES} bytes"
            status = "431 Request Header Fields Too Large"
            self._answer(status, ProblemError(431, message, code="headers_too_large"))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()

    def _answer(self, status: str, problem: ProblemError) -> None:
        body = json.dumps(problem.body()).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
