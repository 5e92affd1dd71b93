"""The playground: one page, and what it shows of the bundle. The page itself asks /v1/rerank, like any client."""

import asyncio
import itertools
import math
import numbers
import re
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse

from reranker.data.catalog import Item
from reranker.data.schema import CATEGORY, ITEM, SCORE, TITLE
from reranker.prompting.text import field_text
from reranker.serve.auth import Key
from reranker.serve.domains import Domain
from reranker.serve.errors import ProblemError
from reranker.serve.ids import for_javascript
from reranker.serve.state import Service, allowed
from reranker.types import ItemId

IMAGES = ("image", "image_url", "picture", "thumbnail")
"""Columns of items that may hold the address of a picture, or a data: address."""

_USERS = 200
_ORIGINS = 10
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; img-src data:"
)
_HEADERS = {"x-frame-options": "DENY", "referrer-policy": "no-referrer"}


def add_playground(app: FastAPI, service: Service) -> None:
    """GET /, /playground/users and /playground/list. Users and their histories are for keys that may read users.

    Ids are as the bundle has them; numbers beyond 2^53, which the page could not send back, are text.
    """
    page = files("reranker.serve").joinpath("playground.html").read_text(encoding="utf-8")
    headers = {"content-security-policy": " ".join([_POLICY, *_image_origins(service)]), **_HEADERS}

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

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
    found = domain.reranker.item_fields(ids)
    return [
        {"id": for_javascript(one), "title": str(fields[TITLE]), **_beside(fields)}
        for one, fields in zip(ids, found, strict=True)
    ]


def _beside(fields: Item) -> dict[str, str]:
    """What is shown beside a title: category, price and picture, where the item table has them."""
    shown = {"category": field_text(fields.get(CATEGORY)), "price": _price(fields), "image": _image(fields)}
    return {name: text for name, text in shown.items() if text}


def _price(fields: Item) -> str:
    price = fields.get("price")
    if isinstance(price, numbers.Real) and not isinstance(price, bool):
        if not math.isfinite(price):
            return ""
        return f"{float(price):.2f} {field_text(fields.get('currency'))}".strip()
    return field_text(price)


def _image(fields: Item) -> str:
    """Address of the picture, or "": web addresses and pictures within the table, nothing else."""
    address = next((field_text(fields[name]) for name in IMAGES if fields.get(name)), "")
    return address if _origin(address) or address.startswith("data:image/") else ""


def _origin(address: str) -> str:
    """ "https://host:port" of a web address, which may stand in a policy; "" of anything else."""
    try:
        parts = urlsplit(address)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[A-Za-z0-9.-]+", parts.hostname or ""):
        return ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def _image_origins(service: Service) -> list[str]:
    """Where the pictures of the catalogues come from, for the page's policy; at most `_ORIGINS`."""
    rerankers = [service.domains.pick(domain=name).reranker for name in service.domains.names]
    addresses = (_image(fields) for reranker in rerankers for fields in reranker.item_fields(reranker.item_ids))
    return list(itertools.islice(dict.fromkeys(filter(None, map(_origin, addresses))), _ORIGINS))
