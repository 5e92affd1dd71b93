"""What goes wrong over HTTP, as OpenAI's clients expect it: {"error": {message, type, param, code}}."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from reranker.errors import DataError, EngineError, PromptError, RerankerError, StoreError


class Problem(BaseModel):
    """What went wrong: `param` is the field, `code` a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(BaseModel):
    """OpenAI's shape of every error."""

    error: Problem


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refusal},
    422: {"model": Refusal},
    "5XX": {"model": Refusal},
}
"""How OpenAPI describes what goes wrong, on every route."""

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_BRANCHES = frozenset({"str", "int", "float", "constrained-str", "constrained-int"})


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
        return broken(error.errors(), within=1)
    if isinstance(error, (DataError, PromptError)):
        return ProblemError(400, str(error), code="bad_data")
    if isinstance(error, EngineError):
        return ProblemError(500, str(error), code="engine_failed")
    if isinstance(error, StoreError):
        return ProblemError(503, str(error), code="store_failed", retry_after=1.0)
    return ProblemError(500, str(error), code="failed")


def broken(errors: Sequence[Mapping[str, Any]], *, within: int = 0, where: str = "") -> ProblemError:
    """What breaks its schema: 400 for what is no JSON, else 422 with the field.

    Args:
        errors: pydantic's.
        within: first parts of each place that are no fields, as FastAPI's "body" and "query".
        where: the field that holds all of it.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        code, status = ("invalid_field", 422) if where else ("invalid_json", 400)
        message = f"{where or 'the body'} is not JSON: {first['ctx']['error']}"
        return ProblemError(status, message, param=where or None, code=code)
    place = _field(first, within)
    for error in errors:  # of the branches of a union, the one that got furthest into what was given
        found = _field(error, within)
        if found.startswith(f"{place}."):
            place, first = found, error
    param = ".".join(filter(None, (where, place)))
    return ProblemError(422, f"{param or 'body'}: {first['msg']}", param=param or None, code="invalid_field")


def _field(error: Mapping[str, Any], within: int) -> str:
    """documents.3.text of ("documents", 3, "Document", "text"): pydantic names the branch of a union, too."""
    top, *rest = map(str, error["loc"][within:] or ("",))
    fields = (part for part in rest if part not in _BRANCHES and "[" not in part and not part[:1].isupper())
    return ".".join([top, *fields])
