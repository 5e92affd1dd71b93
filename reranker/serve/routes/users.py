"""Personal state over HTTP. No vectors are taken from clients."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query
from starlette.convertors import PathConvertor, register_url_convertor

from reranker.errors import DataError
from reranker.serve.domains import Domain
from reranker.serve.errors import ProblemError
from reranker.serve.ids import as_known, forms_of
from reranker.serve.schemas.rerank import Interaction, Interactions, Text
from reranker.serve.state import Service, allowed
from reranker.stores.records import shown_interaction
from reranker.types import Signal, UserInteraction, UserState


class _UserConvertor(PathConvertor):
    """An id in a path: any text, slashes and line ends, too."""

    regex = "(?s:.+)"


register_url_convertor("user", _UserConvertor())
UserPath = Annotated[Text, Path(max_length=500)]


def add_users(app: FastAPI, service: Service) -> None:
    """What users did since the bundles were fitted: append in one domain; show and forget in all."""

    @app.post("/v1/users/{user:user}/interactions", dependencies=[allowed(service, "adapt")])
    async def append(user: UserPath, body: Interactions) -> dict[str, Any]:
        domain = service.domains.pick(domain=body.domain)
        domain.states()  # a server without users says so first
        if len(body.interactions) > service.settings.max_history:
            message = f"{len(body.interactions)} interactions, at most {service.settings.max_history} a call"
            raise ProblemError(413, message, param="interactions", code="too_many")
        rows = [_row(one, number, domain) for number, one in enumerate(body.interactions)]
        state = await service.stores.run(domain.append, domain.user(user), rows)
        adaptation = service.adaptations.get(domain.name)
        if adaptation is not None:
            adaptation.want(state.user_id)
        appended = _shown(rows)  # what was stored before is for `admin`
        return {"user": state.user_id, "domain": domain.name, "adapts": adaptation is not None, "appended": appended}

    @app.get("/v1/users/{user:user}", dependencies=[allowed(service, "admin")])
    async def show(user: UserPath, logged_rows: Annotated[bool, Query()] = False) -> dict[str, Any]:
        found = {}
        for domain in service.domains:
            known = domain.user(user)
            state = await domain.state_of(known, service.stores)
            if state is not None or known in domain.users:
                state = state or UserState(user_id=known)
                vector = [float(one) for one in state.vector]
                fitted_on = domain.history(known, None)
                bundle = {"in_bundle": known in domain.users, "bundle_history": fitted_on}
                found[domain.name] = {**_kept(state), "context": vector, **bundle}
        logged = await service.logged_rows(forms_of(user))
        if not found and not logged:
            raise ProblemError(404, f"nothing is stored of user {user!r}", param="user", code="user_not_found")
        rows = {"score_log": await service.logged(forms_of(user))} if logged_rows else {}
        return {"user": user, "domains": found, "score_log_rows": logged, **rows}

    @app.delete("/v1/users/{user:user}", dependencies=[allowed(service, "admin")])
    async def forget(user: UserPath) -> dict[str, Any]:
        logged = await service.forget_logged(forms_of(user))
        kept = [domain for domain in service.domains if domain.store is not None]
        removed = [await _forget(service, domain, forms_of(user)) for domain in kept]
        in_bundles = [domain.name for domain in service.domains if domain.user(user) in domain.users]
        forgotten = any(removed) or logged > 0
        return {"user": user, "forgotten": forgotten, "score_log_rows": logged, "in_bundles": in_bundles}


async def _forget(service: Service, domain: Domain, forms: Sequence[str | int]) -> int:
    adaptation = service.adaptations.get(domain.name)
    if adaptation is not None:
        return await adaptation.forget(forms, domain.forget)
    return await service.stores.run(domain.forget, forms, seconds=service.settings.timeout_seconds)


def _kept(state: UserState) -> dict[str, Any]:
    return {
        "interactions": _shown(state.interactions),
        "support": state.support,
        "updated_at": state.updated_at or None,
    }


def _row(one: Interaction, number: int, domain: Domain) -> UserInteraction:
    """As it is stored.

    Raises:
        ProblemError: 422 for an event that is not known, a rating out of the bundle's scale, or a weight below 0 beside
            either.
    """
    item = as_known(one.item_id, domain.items)
    said = Signal(one.event, one.rating, one.weight)
    if said == Signal():
        return item, one.timestamp
    try:
        domain.reranker.signals.of_row(*said)
    except DataError as error:
        raise ProblemError(422, f"{error}", param=f"interactions.{number}", code="invalid_field") from error
    return item, one.timestamp, said


def _shown(rows: Sequence[UserInteraction]) -> list[dict[str, Any]]:
    return [shown_interaction(row) for row in rows]
