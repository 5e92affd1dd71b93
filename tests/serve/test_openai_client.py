"""The real openai client against a live server."""

import json

import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.serve.app import create_app
from reranker.serve.auth import Keys, new_key, read_keys
from reranker.serve.schemas.rerank import RerankAnswer
from tests.pipeline import toys
from tests.serve.live import serving

openai = pytest.importorskip("openai")

DOCUMENTS = ["mipfen mippel 7", "zorblax zomzik 7"]
ASKED = {"query": "", "documents": DOCUMENTS, "history": ["zorblax zomzik 1"]}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    data = toys.taste_dataset()
    reranker = Reranker(toys.config()).fit(data, PopularityGenerator().fit(data.interactions))
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    secret = new_key(file, "client", ["rank"])
    with serving(create_app(reranker, keys=Keys(read_keys(file)))) as url:
        yield url, secret


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url[0]}/v1", api_key=url[1], max_retries=0) as client:
        yield client


def test_models(client):
    model, base = client.models.list().data
    assert model.id == "toy" and model.owned_by == "reranker" and model.created > 0
    assert base.id == "scripted"
    assert client.models.retrieve("toy").id == "toy" and client.models.retrieve("scripted").id == "scripted"


def test_a_ranking_parses_into_its_schema(client):
    messages = [{"role": "system", "content": "rank"}, {"role": "user", "content": json.dumps(ASKED)}]
    done = client.chat.completions.parse(model="toy", messages=messages, response_format=RerankAnswer)
    answer = done.choices[0].message.parsed
    assert [one.index for one in answer.results] == [1, 0]
    assert done.choices[0].finish_reason == "stop" and done.object == "chat.completion"
    parts = [{"type": "text", "text": json.dumps(ASKED)}]
    again = client.chat.completions.create(model="toy", messages=[{"role": "user", "content": parts}])
    assert json.loads(again.choices[0].message.content)["results"][0]["index"] == 1


def test_a_ranking_is_asked_for_by_fields_beside_the_messages(client):
    fields = {"documents": DOCUMENTS, "history": ASKED["history"], "top_n": 1}
    messages = [{"role": "user", "content": "something to watch"}]
    asked = {"messages": messages, "response_format": RerankAnswer}
    done = client.chat.completions.parse(model="scripted", **asked, extra_body=fields)
    assert [one.index for one in done.choices[0].message.parsed.results] == [1]
    items = {"item_ids": ["g1i1", "g0i1"]}
    done = client.chat.completions.parse(model="toy", **asked, user="u0", extra_body=items)
    assert {one.item_id for one in done.choices[0].message.parsed.results} == {"g1i1", "g0i1"}
    assert done.choices[0].message.parsed.meta["known_user"]
    inside = [{"role": "user", "content": json.dumps({**items, "query": messages[0]["content"]})}]
    again = client.chat.completions.create(model="toy", messages=inside, user="u0", temperature=0, metadata={"a": "b"})
    assert json.loads(again.choices[0].message.content)["results"] == [
        one.model_dump(exclude_none=True) for one in done.choices[0].message.parsed.results
    ]
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        client.chat.completions.create(model="toy", messages=inside, extra_body={"user": ["u0"]})
    assert wrong.value.param == "user"
    nulls = {**fields, "query": None, "user": None}
    done = client.chat.completions.create(model="toy", messages=messages, extra_body=nulls)
    assert len(json.loads(done.choices[0].message.content)["results"]) == 1
    with pytest.raises(openai.UnprocessableEntityError, match="top_nn"):
        client.chat.completions.create(model="toy", messages=messages, extra_body={**fields, "top_nn": 1})
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.chat.completions.create(model="toy", messages=messages, extra_body={"documents": 7})
    assert refused.value.param == "documents"


def test_a_streamed_ranking_is_one_piece(client):
    asked = {"messages": [{"role": "user", "content": json.dumps(ASKED)}], "stream_options": {"include_usage": True}}
    events = list(client.chat.completions.create(model="toy", **asked, stream=True))
    texts = [one.choices[0].delta.content for one in events if one.choices and one.choices[0].delta.content]
    assert len(texts) == 1 and [one["index"] for one in json.loads(texts[0])["results"]] == [1, 0]
    assert events[-2].choices[0].finish_reason == "stop"
    assert events[-1].usage.total_tokens == json.loads(texts[0])["usage"]["total_tokens"] > 0


def test_errors_are_the_clients_own(client, url):
    typo = json.dumps({**ASKED, "topn": 1})
    with pytest.raises(openai.UnprocessableEntityError, match="topn") as refused:
        client.chat.completions.create(model="toy", messages=[{"role": "user", "content": typo}])
    assert refused.value.param == "messages.0.content.topn" and refused.value.request_id
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": json.dumps(ASKED)}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError, match="one answer"):
        client.chat.completions.create(model="toy", messages=[{"role": "user", "content": json.dumps(ASKED)}], n=2)
    with pytest.raises(openai.AuthenticationError), openai.OpenAI(base_url=f"{url[0]}/v1", api_key="no") as new_user:
        new_user.models.list()
