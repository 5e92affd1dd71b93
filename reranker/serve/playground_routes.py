"""The playground: one page, and what it shows of the bundle. The page itself asks /v1/rerank, like any client."""

import asyncio
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse

from reranker.serve.domains import Domain
from reranker.serve.ids import as_known
from reranker.serve.problems import ProblemError
from reranker.serve.service import Service, allowed
from reranker.tables import ITEM, SCORE
from reranker.types import ItemId

_USERS = 200
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def add_playground(app: FastAPI, service: Service) -> None:
    """GET /, /playground/users and /playground/list."""
    page = files("reranker.serve").joinpath("playground.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": _POLICY})

    @app.get("/playground/users", dependencies=[allowed(service, "rank")])
    async def users(domain: Annotated[str | None, Query(max_length=500)] = None) -> dict[str, Any]:
        shown = service.domains.pick(domain=domain or service.domains.names[0])
        ids = sorted(shown.users, key=lambda user: (len(str(user)), str(user)))[:_USERS]
        return {"domains": service.domains.names, "domain": shown.name, "users": ids, "of": len(shown.users)}

    @app.get("/playground/list", dependencies=[allowed(service, "rank")])
    async def recalled(
        user: Annotated[str, Query(max_length=500)] = "",
        n: Annotated[int, Query(ge=1, le=100)] = 20,
        domain: Annotated[str | None, Query(max_length=500)] = None,
    ) -> dict[str, Any]:
        shown = service.domains.pick(domain=domain)
        recall = shown.reranker.recall
        if recall is None:
            message = "this bundle holds no recall stage, so there is no list to show: fit it with one"
            raise ProblemError(404, message, code="no_recall")
        known = as_known(user, shown.users)
        table = await asyncio.to_thread(recall.recommend, [known], n)
        history = shown.reranker.history(known) if known in shown.users else []
        return {
            "user": known,
            "stranger": known not in shown.users,
            "history": _items(shown, history),
            "candidates": _items(shown, table[ITEM].tolist()),
            "recall_scores": table[SCORE].astype(float).tolist(),
        }


def _items(domain: Domain, ids: list[ItemId]) -> list[dict[str, Any]]:
    return [{"id": one, "title": title} for one, title in zip(ids, domain.reranker.titles(ids), strict=True)]
