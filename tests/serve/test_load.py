"""Many users at once: each gets what they get alone."""

import asyncio
import re

import httpx
import numpy as np
import pytest

from reranker.serve.app import create_app
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

REQUESTS, AT_ONCE = 200, 16


def bodies():
    """Lists of items for users and new users, and texts, all of different lengths and orders."""
    rng = np.random.default_rng(0)
    catalogue = [f"g{group}i{number}" for group in range(4) for number in range(8)]
    for number in range(REQUESTS):
        drawn = rng.permutation(len(catalogue))[: rng.integers(2, 13)].tolist()
        if number % 5 == 4:
            texts = [f"{toys.GROUPS[at % 4]} {at}" for at in drawn]
            yield {"query": "", "documents": texts, "history": [f"{toys.GROUPS[number % 4]} 1"], "raw_scores": True}
            continue
        items = [catalogue[at] for at in drawn]
        body = {"user": f"u{rng.integers(60)}", "item_ids": items, "raw_scores": True}  # 48 of them are known
        yield {**body, "first_stage_scores": rng.random(len(items)).tolist()} if number % 2 else body


async def answers_to(url, asked, at_once):
    gate = asyncio.Semaphore(at_once)

    async def ask(client, number, body):
        async with gate:
            answer = await client.post(f"{url}/v1/rerank", json=body, headers={"x-request-id": f"ask-{number}"})
            return answer.json()

    async with httpx.AsyncClient(timeout=60) as client:
        return await asyncio.gather(*(ask(client, number, body) for number, body in enumerate(asked)))


def batches(url):
    return int(float(re.search(r"reranker_batch_size_count (\S+)", httpx.get(f"{url}/metrics").text)[1]))


def did(url, user, group):
    rows = [{"item_id": f"g{group}i{number}"} for number in range(2, 7)]
    answer = httpx.post(f"{url}/v1/users/{user}/interactions", json={"interactions": rows}, timeout=60)
    assert answer.status_code == 200


def test_nobody_gets_anothers_answer(tmp_path):
    asked = list(bodies())
    reranker = toys.fitted()
    reranker.fusion_model = toys.served(reranker.fusion_model, "fused")
    with serving(create_app(reranker, store=SqliteUserStore(tmp_path / "users.db"))) as url:
        wait_until_ready(url)
        for number in range(40, 60):  # eight who are known, and twelve who are not: each has a taste of his own
            did(url, f"u{number}", number % 4)
        alone = asyncio.run(answers_to(url, asked, 1))
        so_far = batches(url)
        together = asyncio.run(answers_to(url, asked, AT_ONCE))
        assert so_far == REQUESTS and batches(url) - so_far < REQUESTS
    used = [body["user"] for body, one in zip(asked, alone, strict=True) if one["meta"].get("known_user")]
    assert any(int(user[1:]) >= 48 for user in used)
    assert len({tuple(one["index"] for one in answer["results"]) for answer in alone}) > REQUESTS / 2
    for number, (body, one, other) in enumerate(zip(asked, alone, together, strict=True)):
        assert other["id"] == f"ask-{number}"
        order = [result["index"] for result in other["results"]]
        assert sorted(order) == list(range(len(body.get("item_ids") or body["documents"])))
        if "item_ids" in body:
            assert [result["item_id"] for result in other["results"]] == [body["item_ids"][at] for at in order]
        assert order == [result["index"] for result in one["results"]]
        scores = [result["relevance_score"] for result in other["results"]]
        assert scores == pytest.approx([result["relevance_score"] for result in one["results"]])
