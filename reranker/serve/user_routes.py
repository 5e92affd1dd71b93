"""Personal state over HTTP. No vectors are taken from clients."""

import asyncio
from typing import Any

from fastapi import FastAPI

from reranker.serve.domains import Domain
from reranker.serve.ids import as_known
from reranker.serve.problems import ProblemError
from reranker.serve.schemas import Interactions
from reranker.serve.service import Service, allowed
from reranker.types import UserState


def add_users(app: FastAPI, service: Service) -> None:
    """What users did since the bundles were fitted: append in one domain; show and forget in all."""

    @app.post("/v1/users/{user}/interactions", dependencies=[allowed(service, "adapt")])
    async def append(user: str, body: Interactions) -> dict[str, Any]:
        domain = service.domains.pick(domain=body.domain)
        store = domain.states()
        if len(body.interactions) > service.settings.max_history:
            message = f"{len(body.interactions)} interactions, at most {service.settings.max_history} a call"
            raise ProblemError(413, message, param="interactions", code="too_many")
        rows = [(as_known(one.item_id, domain.items), one.timestamp) for one in body.interactions]
        state = await asyncio.to_thread(store.append, as_known(user, domain.users), rows)
        adaptation = service.adaptations.get(domain.name)
        if adaptation is not None:
            adaptation.want(state.user_id)
        return {"user": state.user_id, "domain": domain.name, "adapts": adaptation is not None, **_kept(state)}

    @app.get("/v1/users/{user}", dependencies=[allowed(service, "admin")])
    async def show(user: str) -> dict[str, Any]:
        found = {}
        for domain in _with_users(service):
            known = as_known(user, domain.users)
            state = (await asyncio.to_thread(domain.states().get, [known])).get(known)
            if state is not None or known in domain.users:
                state = state or UserState(user_id=known)
                vector = [float(one) for one in state.vector]
                found[domain.name] = {**_kept(state), "context": vector, "in_bundle": known in domain.users}
        if not found:
            raise ProblemError(404, f"nothing is stored of user {user!r}", param="user", code="user_not_found")
        return {"user": user, "domains": found}

    @app.delete("/v1/users/{user}", dependencies=[allowed(service, "admin")])
    async def forget(user: str) -> dict[str, Any]:
        domains = _with_users(service)
        removed = [await _forget(service, domain, as_known(user, domain.users)) for domain in domains]
        kept = [domain.name for domain in domains if as_known(user, domain.users) in domain.users]
        return {"user": user, "forgotten": any(removed), "in_bundles": kept}


def _with_users(service: Service) -> list[Domain]:
    domains = [domain for domain in service.domains if domain.store is not None]
    if not domains:
        raise ProblemError(404, "this server keeps no users: start it with --users-db", code="no_user_store")
    return domains


async def _forget(service: Service, domain: Domain, user: str | int) -> int:
    adaptation = service.adaptations.get(domain.name)
    if adaptation is not None:
        return await adaptation.forget(user)
    return await asyncio.to_thread(domain.states().forget, [user])


def _kept(state: UserState) -> dict[str, Any]:
    return {
        "interactions": [{"item_id": item, "timestamp": time} for item, time in state.interactions],
        "support": state.support,
        "updated_at": state.updated_at or None,
    }
