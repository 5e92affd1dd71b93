"""The playground: one page, and what it shows of the bundle. The page itself asks /v1/rerank, like any client."""

import asyncio
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse

from reranker.data.schema import ITEM, SCORE
from reranker.serve.auth import Key
from reranker.serve.domains import Domain
from reranker.serve.errors import ProblemError
from reranker.serve.ids import for_javascript
from reranker.serve.state import Service, allowed
from reranker.types import ItemId

_USERS = 200
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {"content-security-policy": _POLICY, "x-frame-options": "DENY", "referrer-policy": "no-referrer"}


def add_playground(app: FastAPI, service: Service) -> None:
    """GET /, /playground/users and /playground/list. Users and their histories are for keys that may read users.

    Ids are as the bundle has them; numbers beyond 2^53, which the page could not send back, are text.
    """
    page = files("reranker.serve").joinpath("playground.html").read_text(encoding="utf-8")

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(page, headers=_HEADERS)

    @app.get("/playground/users")
    async def users(
        key: Annotated[Key, allowed(service, "rank")], domain: Annotated[str | None, Query(max_length=500)] = None
    ) -> dict[str, Any]:
        shown = service.domains.pick(domain=domain or service.domains.names[0])
        known = shown.users if key.may("admin") else frozenset()
        first = sorted(known, key=lambda user: (len(str(user)), str(user)))[:_USERS]
        ids = [for_javascript(user) for user in first]
        return {"domains": service.domains.names, "domain": shown.name, "users": ids, "of": len(known)}

    @app.get("/playground/list")
    async def recalled(
        key: Annotated[Key, allowed(service, "rank")],
        user: Annotated[str, Query(max_length=500)] = "",
        n: Annotated[int, Query(ge=1, le=100)] = 20,
        domain: Annotated[str | None, Query(max_length=500)] = None,
    ) -> dict[str, Any]:
        shown = service.domains.pick(domain=domain)
        generator = shown.reranker.generator
        if generator is None:
            message = "this bundle holds no candidate generator, so there is no list to show: fit it with one"
            raise ProblemError(404, message, code="no_recall")
        if user and not key.may("admin"):
            message = f"the key {key.name!r} may not read users: leave the user empty, for a new user"
            raise ProblemError(403, message, param="user", code="scope_missing")
        known = shown.user(user)
        table = await asyncio.to_thread(generator.recommend, [known], n)
        state = await shown.state_of(known, service.stores)
        history = shown.history(known, state)
        return {
            "user": for_javascript(known),
            "new_user": state is None and known not in shown.users,
            "history": _items(shown, history),
            "candidates": _items(shown, table[ITEM].tolist()),
            "first_stage_scores": table[SCORE].astype(float).tolist(),
        }


def _items(domain: Domain, ids: list[ItemId]) -> list[dict[str, Any]]:
    titles = domain.reranker.titles(ids)
    return [{"id": for_javascript(one), "title": title} for one, title in zip(ids, titles, strict=True)]
