"""What goes wrong over HTTP, as OpenAI's clients expect it: {"error": {message, type, param, code}}."""

from typing import Any

from reranker.errors import DataError, EngineError, PromptError, RerankerError, StoreError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ProblemError(Exception):
    """An answer that is an error.

    Attributes:
        status: HTTP status.
        param: the field that is wrong, or None.
        code: a word for programs.
        retry_after: seconds to wait, or None.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code or None}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(max(1, round(self.retry_after + 0.5)))}


def problem_of(error: RerankerError) -> ProblemError:
    """One of our errors as an answer: the caller's fault is 400, ours is 500."""
    if isinstance(error, (DataError, PromptError)):
        return ProblemError(400, str(error), code="bad_data")
    if isinstance(error, EngineError):
        return ProblemError(500, str(error), code="engine_failed")
    if isinstance(error, StoreError):
        return ProblemError(503, str(error), code="store_failed", retry_after=1.0)
    return ProblemError(500, str(error), code="failed")
