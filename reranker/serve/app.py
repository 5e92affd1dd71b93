"""The app: its routes, its errors, its start and its end."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from reranker.errors import ConfigError, RerankerError
from reranker.pipeline.reranker import Reranker
from reranker.protocols import UserStore
from reranker.serve.auth import Keys
from reranker.serve.domains import Domain, Domains
from reranker.serve.errors import PROBLEMS, ProblemError, problem_of, refusal
from reranker.serve.fast_path import ShortRoad
from reranker.serve.host_check import HostCheck
from reranker.serve.middleware import BodyLimits, Envelope
from reranker.serve.observability.tracing import Tracing
from reranker.serve.path_text import Utf8Paths
from reranker.serve.reloading import add_reloading
from reranker.serve.routes.chat import add_chat
from reranker.serve.routes.completions import add_completions
from reranker.serve.routes.playground import add_playground
from reranker.serve.routes.rerank import add_ranking
from reranker.serve.routes.users import add_users
from reranker.serve.settings import ServeSettings
from reranker.serve.state import Service, allowed


def create_app(
    served: Reranker | Sequence[Domain],
    *,
    store: UserStore | None = None,
    settings: ServeSettings | None = None,
    keys: Keys | None = None,
    score_log: Path | None = None,
    tracing: Tracing | None = None,
    when_loaded: Callable[[], None] = lambda: None,
    when_dead: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The ASGI app; models are loaded when it starts.

    Args:
        served: a fitted Reranker; or several domains, each with its own users.
        store: where users' new interactions go where `served` is one Reranker; None offers no personal state.
        settings: limits.
        keys: who is let in; everyone by default.
        score_log: folder that gets the rankings as parquet (`observability.ranking_log`); None keeps none.
        tracing: makes OpenTelemetry spans; None makes none.
        when_loaded: called once the models are loaded, before anything is answered.
        when_dead: called once the process of an engine is gone, which only another start helps.

    Raises:
        ConfigError: nothing or two bundles of one domain are served, a store without its domain, or the folder of the
            score log cannot be written to.
    """
    if isinstance(served, Reranker):
        served = [Domain(served, store)]
    elif store is not None:
        raise ConfigError("several domains keep their users apart: give each Domain its own store")
    service = Service(
        Domains(served), settings or ServeSettings(), keys or Keys(), score_log, tracing, when_loaded, when_dead
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.close()

    # No /docs: its page loads programs from elsewhere. No redirects: they name whatever host the request named.
    app = FastAPI(
        title="reranker", lifespan=lifespan, responses=PROBLEMS, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.service = service
    _handle_errors(app)
    ranking = add_ranking(app, service)
    _add_operations(app, service)
    add_users(app, service)
    add_reloading(app, service)
    add_chat(app, service)
    add_completions(app, service)
    add_playground(app, service)
    app.add_middleware(ShortRoad, routes=ranking)
    limits = service.settings
    app.add_middleware(BodyLimits, max_bytes=limits.max_body_bytes, seconds=limits.body_seconds, admit=service.key_of)
    if limits.allowed_hosts is not None or not service.keys.asked_for:
        app.add_middleware(HostCheck, hosts=limits.allowed_hosts)
    app.add_middleware(Utf8Paths)
    app.add_middleware(Envelope, books=service.books)
    if tracing is not None:
        app.add_middleware(tracing.wrap)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    @app.exception_handler(RerankerError)
    @app.exception_handler(RequestValidationError)
    async def known(request: Request, error: ProblemError | RerankerError | RequestValidationError) -> JSONResponse:
        return refusal(problem_of(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # FastAPI's own, for a body that is not UTF-8 or nests without end
            return refusal(ProblemError(400, "the body is not JSON", code="invalid_json"))
        return refusal(ProblemError(error.status_code, str(error.detail), code="not_served"), **(error.headers or {}))


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, str]:
        if service.dead:
            raise service.not_ready
        return {"status": "ok"}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready")
    async def ready() -> dict[str, str]:
        if not service.ready:
            raise service.not_ready
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        service.books.settle()
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", dependencies=[allowed(service, "rank")])
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": service.domains.models()}

    @app.get("/v1/models/{name:path}", dependencies=[allowed(service, "rank")])
    async def model(name: str) -> dict[str, Any]:
        service.domains.check_model(name)
        return next(one for one in service.domains.models() if one["id"] == name)
