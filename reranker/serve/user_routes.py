"""Personal state over HTTP. No vectors are taken from clients."""

import asyncio
from typing import Any

from fastapi import FastAPI

from reranker.serve.ids import as_known
from reranker.serve.problems import ProblemError
from reranker.serve.schemas import Interactions
from reranker.serve.service import Service, allowed
from reranker.types import UserState


def add_users(app: FastAPI, service: Service) -> None:
    """What users did since the bundle was fitted: append, show, forget."""

    @app.post("/v1/users/{user}/interactions", dependencies=[allowed(service, "adapt")])
    async def append(user: str, body: Interactions) -> dict[str, Any]:
        store = service.states()
        if len(body.interactions) > service.settings.max_history:
            message = f"{len(body.interactions)} interactions, at most {service.settings.max_history} a call"
            raise ProblemError(413, message, param="interactions", code="too_many")
        rows = [(as_known(one.item_id, service.items), one.timestamp) for one in body.interactions]
        state = await asyncio.to_thread(store.append, as_known(user, service.users), rows)
        if service.adaptation is not None:
            service.adaptation.want(state.user_id)
        return _state(service, state)

    @app.get("/v1/users/{user}", dependencies=[allowed(service, "admin")])
    async def show(user: str) -> dict[str, Any]:
        known = as_known(user, service.users)
        state = (await asyncio.to_thread(service.states().get, [known])).get(known)
        if state is None and known not in service.users:
            raise ProblemError(404, f"nothing is stored of user {user!r}", param="user", code="user_not_found")
        return _state(service, state or UserState(user_id=known))

    @app.delete("/v1/users/{user}", dependencies=[allowed(service, "admin")])
    async def forget(user: str) -> dict[str, Any]:
        known = as_known(user, service.users)
        removed = await asyncio.to_thread(service.states().forget, [known])
        return {"user": known, "forgotten": bool(removed), "in_bundle": known in service.users}


def _state(service: Service, state: UserState) -> dict[str, Any]:
    return {
        "user": state.user_id,
        "interactions": [{"item_id": item, "timestamp": time} for item, time in state.interactions],
        "vector": [float(one) for one in state.vector],
        "support": state.support,
        "updated_at": state.updated_at or None,
        "in_bundle": state.user_id in service.users,
    }
