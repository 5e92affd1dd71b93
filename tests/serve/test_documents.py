"""Documents in the forms that clients send them, and what is told of what was not read."""

import httpx
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.engines.lexical import LexicalEngine
from reranker.serve.app import create_app
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

PART = {"type": "text", "text": "zorblax zomzik 7"}


@pytest.fixture(scope="module")
def url():
    with serving(create_app(toys.fitted())) as url:
        wait_until_ready(url)
        yield url


def post(url, **body):
    return httpx.post(f"{url}/rerank", json=body, timeout=60)


@pytest.mark.parametrize(
    "documents",
    [
        "zorblax zomzik 7",
        {"content": [PART]},
        {"content": "zorblax zomzik 7"},
        [{"content": [PART]}],
        {"text": PART["text"]},
    ],
)
def test_vllms_forms(url, documents):
    answer = post(url, documents=documents, query="q", return_documents=True)
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["document"]["text"] == "zorblax zomzik 7"
    chat = {"model": "toy", "messages": [{"role": "user", "content": "q"}], "documents": documents}
    assert httpx.post(f"{url}/v1/chat/completions", json=chat, timeout=60).status_code == 200


def test_a_picture_is_refused_with_its_place(url):
    answer = post(url, documents=["a", {"content": [{"type": "image_url", "image_url": "x"}]}])
    assert (answer.status_code, answer.json()["error"]["param"][:21]) == (422, "documents.1.content.0")


def test_items_are_returned_by_title(url):
    ids = ["g0i1", "nowhere", "g1i2"]
    results = post(url, item_ids=ids, return_documents=True, top_n=2).json()["results"]
    titles = {"g0i1": "zorblax zomzik 1", "nowhere": "(untitled)", "g1i2": "mipfen mippel 2"}
    assert [one["document"] for one in results] == [{"text": titles[one["item_id"]]} for one in results]


def test_fields_that_no_template_reads_are_named(url):
    documents = ["a b", {"text": "c d", "year": 1, "category": "x"}]
    meta = post(url, documents=documents, history=[{"text": "e", "colour": "red"}], truncation=True).json()["meta"]
    assert set(meta["not_used"]) >= {"truncation", "documents.year", "history.colour"}
    assert "not_used" not in post(url, documents=["a b", {"text": "c d"}]).json()["meta"]


def test_words_are_not_called_a_language_model():
    data = toys.taste_dataset()
    words = Reranker(toys.config(engine="lexical"), LexicalEngine())
    words.fit(data, PopularityGenerator().fit(data.interactions), progress=False)
    with serving(create_app(words)) as url:
        wait_until_ready(url)
        meta = post(url, query="zorblax", documents=["zorblax", "b"], history=["c"]).json()["meta"]
        assert (meta["served"], meta["scored_by"]) == ("lexical", ["bm25", "lexical", "history"])
        assert 'reranker_served_total{order="lexical"} 1.0' in httpx.get(f"{url}/metrics").text
