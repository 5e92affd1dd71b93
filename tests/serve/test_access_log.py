"""Requests are counted and logged, a burst of them together, and none is lost."""

import asyncio
import json
import logging

import pytest

from reranker.serve.observability.access_log import Books


@pytest.fixture
def counted():
    return []


@pytest.fixture
def books(counted):
    return Books(lambda *one: counted.append(one))


def lines(caplog):
    return [json.loads(record.message) for record in caplog.records if record.name == "reranker.access"]


def test_a_burst_is_entered_a_moment_later_in_its_order(books, counted, caplog):
    async def burst():
        for number in range(3):
            books.add(0.5, {"route": "/v1/rerank", "status": 200 + number})
        assert counted == [] and lines(caplog) == []
        await asyncio.sleep(0.1)

    with caplog.at_level(logging.INFO, logger="reranker.access"):
        asyncio.run(burst())
    assert counted == [("/v1/rerank", 200, 0.5), ("/v1/rerank", 201, 0.5), ("/v1/rerank", 202, 0.5)]
    assert lines(caplog) == [{"route": "/v1/rerank", "status": 200 + number} for number in range(3)]


def test_settling_enters_all_at_once_and_each_once(books, counted):
    async def settle():
        books.add(0.1, {"route": "/health", "status": 200})
        books.settle()
        assert counted == [("/health", 200, 0.1)]
        books.add(0.2, {"route": "/ready", "status": 503})
        await asyncio.sleep(0.1)

    asyncio.run(settle())
    assert counted == [("/health", 200, 0.1), ("/ready", 503, 0.2)]
