"""How many prompt tokens a ranking says it read: the scripted engine's tokens are bytes, so they can be counted."""

import json

import httpx
import pytest

from reranker.serve.app import create_app
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

INSTRUCTION = (
    "Below is a list of things that one person chose, oldest first. The list shows what this person likes. "
    "Continue it with what they choose next.\n"
)
SOFT = 16
ASKED = {"query": "ab", "documents": ["xyz", "q"], "history": ["old"]}
TASTE = SOFT + len(INSTRUCTION + "Chosen before:\n- old") + len("\n- xyz\n") + len("\n- q\n")
RELEVANCE = sum(len(f"Document:{text}") + len("\nSearch: ab\n") for text in ("", " xyz", " q"))  # "": for any document
READ = TASTE + RELEVANCE


def fitted(serve):
    reranker = toys.fitted()
    reranker.fusion_model = toys.served(reranker.fusion_model, serve)
    return reranker


@pytest.fixture(scope="module")
def url():
    with serving(create_app(fitted("fused"))) as url:
        wait_until_ready(url)
        yield url


def rerank(url, body):
    answer = httpx.post(f"{url}/v1/rerank", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["usage"]


def test_texts(url):
    for _ in range(2):  # priors that are known by now were never counted
        assert rerank(url, ASKED) == {"total_tokens": READ, "documents": 2}


def test_items_of_a_stranger(url):
    titles = ["zorblax zomzik 1", "quxard quxley 7"]
    read = SOFT + len(INSTRUCTION + "Chosen before:") + sum(len(f"\n- {title}\n") for title in titles)
    assert rerank(url, {"item_ids": ["g0i1", "g2i7"]})["total_tokens"] == read


def test_nothing_is_read_where_the_guard_serves_an_order_without_the_model():
    with serving(create_app(fitted("baseline"))) as url:
        wait_until_ready(url)
        assert rerank(url, {"item_ids": ["g0i1", "g2i7"]}) == {"total_tokens": 0, "documents": 2}
        assert rerank(url, ASKED)["total_tokens"] == READ


@pytest.mark.parametrize("stream", [False, True])
def test_ranking_through_chat(url, stream):
    message = {"role": "user", "content": json.dumps(ASKED)}
    body = {"model": "toy", "messages": [message], "stream": stream, "stream_options": {"include_usage": True}}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body if stream else {**body, "stream_options": None})
    assert answer.status_code == 200, answer.text
    last = answer.json() if not stream else json.loads(answer.text.split("data: ")[-2])
    assert last["usage"] == {"prompt_tokens": READ, "completion_tokens": 0, "total_tokens": READ}
