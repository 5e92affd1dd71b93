"""What goes wrong over HTTP, as OpenAI's clients expect it: {"error": {message, type, param, code}}."""

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from reranker.errors import DataError, EngineError, PromptError, RerankerError, StoreError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_BRANCHES = frozenset({"str", "int", "float", "constrained-str", "function-after"})


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


def refusal(problem: ProblemError, **headers: str) -> JSONResponse:
    """The answer that tells it."""
    return JSONResponse(problem.body(), problem.status, {**problem.headers, **headers})


def problem_of(error: ProblemError | RerankerError | RequestValidationError) -> ProblemError:
    """An error as an answer: a body that breaks its schema is 422 (400 where it is no JSON), else the caller's fault is
    400 and ours 500."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError):
        return _broken(error)
    if isinstance(error, (DataError, PromptError)):
        return ProblemError(400, str(error), code="bad_data")
    if isinstance(error, EngineError):
        return ProblemError(500, str(error), code="engine_failed")
    if isinstance(error, StoreError):
        return ProblemError(503, str(error), code="store_failed", retry_after=1.0)
    return ProblemError(500, str(error), code="failed")


def _broken(error: RequestValidationError) -> ProblemError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ProblemError(400, f"the body is not JSON: {first['ctx']['error']}", code="invalid_json")
    param = _field([str(part) for part in first["loc"] if part != "body"])
    return ProblemError(422, f"{param or 'body'}: {first['msg']}", param=param or None, code="invalid_field")


def _field(place: Sequence[str]) -> str:
    """documents.3.text of ["documents", "3", "Document", "text"]: pydantic names the branch of a union too."""
    fields = (part for part in place if part not in _BRANCHES and "[" not in part)
    return ".".join(part for part in fields if part.isdigit() or part[:1].islower())
