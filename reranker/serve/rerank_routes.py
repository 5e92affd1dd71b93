"""Reranking over HTTP."""

import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from reranker.ranking import TextList
from reranker.serve.connection import while_connected
from reranker.serve.ids import all_as_known, as_known
from reranker.serve.problems import ProblemError
from reranker.serve.schemas import Document, RerankAnswer, RerankRequest, Result
from reranker.serve.score_log import Entry
from reranker.serve.service import Service, allowed, check_model
from reranker.serve.work import ItemList, Ranked

RERANK_PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")


def add_ranking(app: FastAPI, service: Service) -> None:
    """POST /rerank, /v1/rerank and /v2/rerank."""

    async def rerank(request: Request, body: RerankRequest) -> JSONResponse:
        answer = await ranked(service, request, body)
        return JSONResponse(answer.model_dump(exclude_none=True), headers={"server-timing": request.state.timing})

    for path in RERANK_PATHS:
        app.post(path, dependencies=[allowed(service, "rank")], response_model=RerankAnswer)(rerank)


async def ranked(service: Service, request: Request, body: RerankRequest) -> RerankAnswer:
    """Answers one request; a caller that goes away frees its place in the queue.

    Raises:
        ProblemError: with the field that is wrong.
    """
    _check(service, body)
    job = await _job(service, body)
    submitted = time.time_ns()
    done = await while_connected(request, service.batcher.submit(job, service.settings.timeout_seconds))
    result = done.answer
    if service.tracing is not None:
        service.tracing.ranked(submitted, done)
    if service.score_log is not None:
        service.score_log.add(_entry(service, request, body, result))
    request.state.timing = f"queue;dur={1000 * done.waited:.2f}, engine;dur={1000 * done.worked:.2f}"
    served = "recall" if service.settings.shadow else result.served
    service.metrics.documents.inc(len(result.order))
    service.metrics.served.labels(served).inc()
    request.state.log = {**getattr(request.state, "log", {}), "documents": len(result.order), "served": served}
    return _answer(service, request, body, result)


def _check(service: Service, body: RerankRequest) -> None:
    check_model(service, body.model)
    if body.domain not in (None, service.name):
        message = f"no domain {body.domain!r} here; there is {service.name!r}"
        raise ProblemError(404, message, param="domain", code="domain_not_found")
    if body.documents is None and body.item_ids is None:
        raise ProblemError(422, "give documents, or item_ids of the catalogue", param="documents", code="missing")
    for name in ("documents", "item_ids"):
        values = getattr(body, name)
        if values is not None and not values:
            raise ProblemError(422, f"{name} is empty: nothing to rank", param=name, code="empty")
        if values is not None and len(values) > service.settings.max_documents:
            most = service.settings.max_documents
            raise ProblemError(
                413, f"{name} holds {len(values)}, at most {most} are taken", param=name, code="too_many"
            )
    if body.history is not None and len(body.history) > service.settings.max_history:
        most = service.settings.max_history
        raise ProblemError(
            413, f"history holds {len(body.history)} items, at most {most}", param="history", code="too_many"
        )
    if body.item_ids is None:
        if body.recall_scores is not None:
            raise ProblemError(422, "recall_scores need item_ids", param="recall_scores", code="missing")
        return
    for name in ("documents", "recall_scores"):
        values = getattr(body, name)
        if values is not None and len(values) != len(body.item_ids):
            message = f"{name} holds {len(values)}, item_ids {len(body.item_ids)}: one for each"
            raise ProblemError(422, message, param=name, code="length")
    if len(set(all_as_known(body.item_ids, service.items))) < len(body.item_ids):
        raise ProblemError(422, "item_ids holds an item twice", param="item_ids", code="duplicate")


async def _job(service: Service, body: RerankRequest) -> TextList | ItemList:
    user = None if body.user is None else as_known(body.user, service.users)
    if body.item_ids is None:
        documents = [one if isinstance(one, str) else one.item() for one in body.documents or ()]
        words: list[Any] = [one.item() if isinstance(one, Document) else str(one) for one in body.history or ()]
        if body.history is None and user is not None:
            words = service.reranker.titles((await service.known_of(user))[0])
        query = f"{body.instruction}: {body.query}" if body.instruction else body.query
        return TextList(query=query, documents=documents, history=words)
    state = None
    if body.history is None:
        history, state = ([], None) if user is None else await service.known_of(user)
    else:
        given = [one for one in body.history if not isinstance(one, Document)]
        if len(given) < len(body.history):
            message = "history holds item ids where item_ids are ranked, no objects"
            raise ProblemError(422, message, param="history", code="invalid_field")
        history = all_as_known(given, service.items)
    return ItemList(
        items=all_as_known(body.item_ids, service.items),
        recall_scores=body.recall_scores,
        history=history,
        state=state,
    )


def _answer(service: Service, request: Request, body: RerankRequest, result: Ranked) -> RerankAnswer:
    scores = result.scores if body.raw_scores else result.shares()
    order, meta = result.order, {"served": result.served, "unknown_items": result.unknown_items}
    if service.settings.shadow:
        meta = {"served": "recall", "unknown_items": result.unknown_items}
        n = len(order)
        order, scores = tuple(range(n)), tuple(1.0 / (place + 1) for place in range(n))
    results = [
        Result(
            index=index,
            relevance_score=score,
            document=_shown(body, index) if body.return_documents and body.documents else None,
            item_id=body.item_ids[index] if body.item_ids is not None else None,
        )
        for index, score in zip(order[: body.top_n], scores, strict=False)
    ]
    return RerankAnswer(
        id=request.state.request_id,
        model=service.name,
        results=results,
        usage={"total_tokens": 0, "documents": len(order)},
        meta={**meta, "api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    )


def _entry(service: Service, request: Request, body: RerankRequest, result: Ranked) -> Entry:
    return Entry(
        request_id=request.state.request_id,
        user=body.user if service.settings.score_log_users else None,
        items=body.item_ids,
        recall_scores=body.recall_scores,
        ranked=result,
        top_n=body.top_n,
        shadow=service.settings.shadow,
    )


def _shown(body: RerankRequest, index: int) -> dict[str, Any]:
    document = (body.documents or [])[index]
    return (
        {"text": document}
        if isinstance(document, str)
        else {"text": document.words, **document.model_dump(exclude_none=True)}
    )
