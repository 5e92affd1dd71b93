"""Reranking over HTTP."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from pydantic_core import to_json

from reranker.data.filler import FILLER, is_filler
from reranker.errors import ConfigError, StoreError
from reranker.fusion import Order
from reranker.pipeline.text_ranking import TextList
from reranker.serve.batcher import Done
from reranker.serve.connection import while_connected
from reranker.serve.domains import Domain
from reranker.serve.errors import ProblemError, broken
from reranker.serve.exploration import Shown
from reranker.serve.ids import all_as_known
from reranker.serve.interleaving import Part, mixed
from reranker.serve.observability.ranking_log import Entry
from reranker.serve.rank_jobs import ItemList, Job, Ranked
from reranker.serve.routes.rerank_checks import check_budget, check_reader, check_request
from reranker.serve.schemas.rerank import LONGEST_ID, Document, RerankAnswer, RerankRequest
from reranker.serve.state import BEARER, Service
from reranker.types import UserState

logger = logging.getLogger(__name__)

RERANK_PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")


def add_ranking(app: FastAPI, service: Service) -> list[APIRoute]:
    """POST /rerank, /v1/rerank and /v2/rerank.

    Returns:
        The routes, whose handlers read the request by themselves.
    """
    router = APIRouter(route_class=_lean_route(service))
    described = [Depends(BEARER)] if service.keys.asked_for else []  # what checks them is `_lean_route`

    async def rerank(request: Request, body: RerankRequest) -> Response:
        content = await ranked(service, request, body)
        return Response(content, media_type="application/json", headers={"server-timing": request.state.timing})

    for path in RERANK_PATHS:
        router.post(path, response_model=RerankAnswer, dependencies=described)(rerank)
    app.include_router(router)
    return [route for route in router.routes if isinstance(route, APIRoute)]


def _lean_route(service: Service) -> type[APIRoute]:
    """Routes that read the body as a RerankRequest in one go: FastAPI's own way through json and its dependencies takes
    the event loop several times as long, and every other caller waits for the loop."""

    class LeanRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            async def handle(request: Request) -> Response:
                service.let_in(request, "rank")  # before the body is looked at: what a new user sends is not parsed
                message = await request.receive()  # with the whole body: `BodyLimits` stands before
                try:
                    body = RerankRequest.model_validate_json(message["body"])
                except ValidationError as error:
                    raise broken(error.errors(include_url=False)) from error
                response: Response = await self.endpoint(request, body)
                return response

            return handle

    return LeanRoute


async def ranked(service: Service, request: Request, body: RerankRequest) -> bytes:
    """Answers one request with a `RerankAnswer` as JSON; a caller that goes away frees its place in the queue.

    Raises:
        ProblemError: with the field that is wrong.
    """
    if service.failure:
        raise service.not_ready
    domain = service.domains.pick(model=body.model, domain=body.domain)
    check_request(service.settings, body)
    user = await _user(service, domain, body)
    if body.explain and user is not None:
        check_reader(service.key_of(request.scope))
    explains = bool(body.explain) and not _unexplained(service, body)
    part = Part.of(service.settings, body, explains)
    ranks: list[ItemList | TextList] = (
        [_items(service, domain, body, user, explains, order) for order in part.orders]
        if body.item_ids
        else [_texts(domain, body, user)]
    )
    jobs = [Job(domain=domain, ranks=one) for one in ranks]
    check_budget(service.settings, jobs[0])
    submitted = time.time_ns()
    done = await while_connected(request, _ranked(service, jobs))
    result, teams = done[0].answer, None
    if part.is_mixed:
        result, teams = mixed(result, done[1].answer, part.teams, service.coins)
    free = bool(body.item_ids) and body.order is None and not explains and body.rules is None and teams is None
    exploration = service.explored(len(result.order)) if free else None
    if service.tracing is not None:
        service.tracing.ranked(submitted, done[0])
    if service.score_log is not None:
        service.score_log.add(_entry(service, domain, request, body, result, exploration, part.arm, teams))
    if service.drift is not None and isinstance(ranks[0], ItemList):
        service.drift.add(domain, ranks[0], result)
    state, worked = request.state, sum(one.worked for one in done)
    state.timing = f"queue;dur={1000 * max(one.waited for one in done):.2f}, engine;dur={1000 * worked:.2f}"
    served = "first_stage" if service.settings.shadow else result.served
    service.metrics.documents.inc(len(result.order))
    service.metrics.served.labels(served).inc()
    counts = {"documents": len(result.order), "prompt_tokens": result.prompt_tokens}
    state.log = {**getattr(state, "log", {}), **counts, "served": served}
    state.prompt_tokens = result.prompt_tokens
    answer = _answer(service, domain, request, body, user, _as_shown(result, exploration))
    meta: dict[str, object] = answer["meta"]
    meta |= {
        **({} if part.arm is None else {"arm": part.arm}),
        **({"explored": True} if _explored(exploration) else {}),
    }
    return to_json(answer, inf_nan_mode="null")


async def _ranked(service: Service, jobs: Sequence[Job]) -> list[Done[Ranked]]:
    """What came of each; of two orders of one list at the same time."""
    timeout = service.settings.timeout_seconds
    if len(jobs) == 1:
        return [await service.batcher.submit(jobs[0], timeout)]
    return list(await asyncio.gather(*(service.batcher.submit(job, timeout) for job in jobs)))


def _explored(exploration: Shown | None) -> bool:
    return exploration is not None and exploration.explored


def _as_shown(result: Ranked, exploration: Shown | None) -> Ranked:
    """Items as they are shown; scores stay with the places, so that they fall from place to place."""
    if exploration is None or not exploration.explored:
        return result
    return replace(result, order=tuple(result.order[rank] for rank in exploration.ranks.tolist()))


@dataclass(frozen=True, kw_only=True, eq=False)
class _User:
    """Whom a ranking is for, as far as it goes by what is known here of the user.

    Attributes:
        id: as the bundle has it.
        state: what the store keeps.
        unread: the store failed, and the ranking goes by the bundle alone.
    """

    id: str | int
    state: UserState | None
    unread: bool = False


async def _user(service: Service, domain: Domain, body: RerankRequest) -> _User | None:
    """The user that is named; None for a new user, and where the request brings a history of its own."""
    if body.user is None or body.history is not None:
        return None
    known = domain.user(body.user)
    try:
        state = await domain.state_of(known, service.stores, service.settings.max_history)
    except (ProblemError, StoreError) as error:
        if service.settings.on_store_failure == "refuse":
            raise
        logger.warning("ranked without what the store keeps of a user: %s", error)
        return _User(id=known, state=None, unread=True)
    return _User(id=known, state=state)


def _texts(domain: Domain, body: RerankRequest, user: _User | None) -> TextList:
    words: list[Any] = [one.item() if isinstance(one, Document) else str(one) for one in body.history or ()]
    if user is not None:
        words = domain.reranker.titles(domain.history(user.id, user.state))
    return TextList(
        query=body.query or "",
        instruction=body.instruction or "",
        max_tokens_per_doc=body.max_tokens_per_doc or body.max_doc_length or None,
        fields=body.rank_fields,
        documents=[one if isinstance(one, str) else one.item() for one in body.documents or ()],
        history=words,
        state=None if user is None else user.state,
    )


def _items(
    service: Service, domain: Domain, body: RerankRequest, user: _User | None, explains: bool, order: Order | None
) -> ItemList:
    """The history of a user is looked up in the engine's thread."""
    items = all_as_known(body.item_ids or (), domain.items)
    if len(set(items)) < len(items):
        first = next(item for at, item in enumerate(items) if item in items[:at])
        message = f"item_ids holds the item {first!r} twice: name each once"
        raise ProblemError(422, message, param="item_ids", code="duplicate")
    filler = is_filler(np.array(body.first_stage_scores or (), dtype=np.float64))
    if filler.any():
        param = f"first_stage_scores.{int(filler.argmax())}"
        message = f"{param}: {FILLER}; leave such items out, they are no candidates"
        raise ProblemError(422, message, param=param, code="invalid_field")
    rules = None if service.settings.shadow else body.rules
    if rules is not None:
        try:
            domain.reranker.item_columns.require(rules)
        except ConfigError as error:
            raise ProblemError(422, str(error), param="rules", code="invalid_field") from error
    given = [one for one in body.history or () if not isinstance(one, Document)]
    if len(given) < len(body.history or ()):
        message = "history holds item ids where item_ids are ranked, no objects"
        raise ProblemError(422, message, param="history", code="invalid_field")
    for number, one in enumerate(given):
        if isinstance(one, str) and len(one) > LONGEST_ID:
            message = f"history.{number}: {len(one)} characters, an item id has at most {LONGEST_ID}"
            raise ProblemError(422, message, param=f"history.{number}", code="invalid_field")
    return ItemList(
        items=items,
        first_stage_scores=body.first_stage_scores,
        order=order,
        query=(body.query or "").strip() or (body.instruction or "").strip(),
        explained=min(body.top_n or len(items), len(items)) if explains else 0,
        rules=rules,
        features=_features(domain, body, len(items)),
        language=body.explain if isinstance(body.explain, str) else "en",
        user=None if user is None else user.id,
        state=None if user is None else user.state,
        history=None if body.history is None else all_as_known(given, domain.items),
    )


def _features(domain: Domain, body: RerankRequest, n: int) -> dict[str, list[Any]]:
    """One value for each item of every column that was given, and of every one that the ranker was fitted with."""
    given = dict(body.features or {})
    for name, values in given.items():
        if len(values) != n:
            message = f"features.{name} holds {len(values)}, item_ids {n}: one for each"
            raise ProblemError(422, message, param=f"features.{name}", code="length")
    for name, value in (body.context or {}).items():
        if name in given:
            message = f"context.{name} is among the features, too: give it once"
            raise ProblemError(422, message, param=f"context.{name}", code="duplicate")
        given[name] = [value] * n
    if missing := [name for name in domain.reranker.candidate_columns if name not in given]:
        message = (
            f"features: the ranker was fitted with {', '.join(missing)} of each candidate: give a value for each, or "
            "one for all in context"
        )
        raise ProblemError(422, message, param="features", code="missing")
    return given


def _answer(
    service: Service, domain: Domain, request: Request, body: RerankRequest, user: _User | None, result: Ranked
) -> dict[str, Any]:
    """A `RerankAnswer`, without what is None."""
    order, served = result.order, result.served
    scores = result.scores if body.wants_raw_scores else result.shares()
    if service.settings.shadow:
        order, served = tuple(range(len(order))), "first_stage"
        scores = tuple(1.0 / (place + 1) for place in order)
    results: list[dict[str, object]] = [
        {"index": index, "relevance_score": score}
        for index, score in zip(order[: body.top_n or None], scores, strict=False)
    ]
    if body.return_documents and body.documents:
        for one, index in zip(results, order, strict=False):
            one["document"] = _shown(body.documents[index])
    if ids := body.item_ids:
        for one, index in zip(results, order, strict=False):
            one["item_id"] = ids[index]
        if body.return_documents and not body.documents:
            known = all_as_known([ids[index] for index in order[: len(results)]], domain.items)
            for one, title in zip(results, domain.reranker.titles(known), strict=True):
                one["document"] = {"text": title}
    for one, reasons in zip(results, result.explanations, strict=False):
        one["explanation"] = {name: value for name, value in reasons.items() if name != "item_id"}
    return {
        "id": request.state.request_id,
        "model": domain.name,
        "results": results,
        "usage": {"total_tokens": result.prompt_tokens, "documents": len(order)},
        "meta": {
            "served": served,
            **({"guard": result.guard} if body.order else {}),
            "unknown_items": result.unknown_items,
            **result.texts,
            **({} if result.rules is None else {"rules": result.rules.to_json()}),
            **({"state": "store_failed"} if user is not None and user.unread else {}),
            **({} if user is None else {"known_user": user.state is not None or user.id in domain.users}),
            **({"not_used": not_used} if (not_used := _not_used(service, domain, body, result)) else {}),
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
        },
    }


def _not_used(service: Service, domain: Domain, body: RerankRequest, result: Ranked) -> list[str]:
    """Names of fields that were given and not read, those within documents and histories by the templates."""
    found = [*body.not_used, *(["explain"] if body.explain and _unexplained(service, body) else [])]
    if body.item_ids and (body.features or body.context):
        needed = domain.reranker.candidate_columns
        named = [("features", body.features or ()), ("context", body.context or ())]
        found += [f"{field}.{column}" for field, columns in named for column in columns if column not in needed]
    found += ["rules"] if body.rules is not None and service.settings.shadow else []
    for name, block in (("documents", "candidate"), ("history", "history_item")):
        if name == "documents" and result.unread_fields is not None:
            found += [f"{name}.{field}" for field in result.unread_fields]
            continue
        given = [] if body.item_ids else getattr(body, name) or []
        further = frozenset[str]().union(*(one.further for one in given if isinstance(one, Document)))
        if further and (read := domain.fields_read(block)) is not None:
            found += [f"{name}.{field}" for field in sorted(further - read)]
    return found


def _unexplained(service: Service, body: RerankRequest) -> bool:
    """What shadow mode answers has no reasons, and those of a list without its query would be those of another list."""
    return service.settings.shadow or bool((body.query or body.instruction or "").strip())


def _entry(
    service: Service,
    domain: Domain,
    request: Request,
    body: RerankRequest,
    result: Ranked,
    exploration: Shown | None,
    arm: str | None,
    teams: Sequence[str] | None,
) -> Entry:
    return Entry(
        request_id=request.state.request_id,
        domain=domain.name,
        user=body.user if service.settings.score_log_users else None,
        items=body.item_ids,
        first_stage_scores=body.first_stage_scores,
        ranked=result,
        top_n=body.top_n or None,
        shadow=service.settings.shadow,
        exploration=exploration,
        arm=arm,
        teams=teams,
        bundle=domain.reranker.identity,
    )


def _shown(document: str | Document) -> dict[str, object]:
    if isinstance(document, str):
        return {"text": document}
    return {"text": document.words, **document.model_dump(exclude_none=True)}
