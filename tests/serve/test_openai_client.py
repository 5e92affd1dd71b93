"""The real openai client against a live server."""

import json

import pytest

from candidate_gen import PopularityRecall
from reranker import Reranker
from reranker.serve.app import create_app
from reranker.serve.keys import Keys, new_key, read_keys
from reranker.serve.schemas import RerankAnswer
from tests.pipeline import toys
from tests.serve.live import serving

openai = pytest.importorskip("openai")

DOCUMENTS = ["mipfen mippel 7", "zorblax zomzik 7"]
ASKED = {"query": "", "documents": DOCUMENTS, "history": ["zorblax zomzik 1"]}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    data = toys.taste_dataset()
    reranker = Reranker(toys.config()).fit(data, PopularityRecall().fit(data.interactions))
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    secret = new_key(file, "client", ["rank"])
    with serving(create_app(reranker, keys=Keys(read_keys(file)))) as url:
        yield url, secret


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url[0]}/v1", api_key=url[1], max_retries=0) as client:
        yield client


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == "toy" and model.owned_by == "reranker" and model.created > 0
    assert client.models.retrieve("toy").id == "toy"


def test_a_ranking_parses_into_its_schema(client):
    messages = [{"role": "system", "content": "rank"}, {"role": "user", "content": json.dumps(ASKED)}]
    done = client.chat.completions.parse(model="toy", messages=messages, response_format=RerankAnswer)
    answer = done.choices[0].message.parsed
    assert [one.index for one in answer.results] == [1, 0]
    assert done.choices[0].finish_reason == "stop" and done.object == "chat.completion"
    parts = [{"type": "text", "text": json.dumps(ASKED)}]
    again = client.chat.completions.create(model="toy", messages=[{"role": "user", "content": parts}])
    assert json.loads(again.choices[0].message.content)["results"][0]["index"] == 1


def test_errors_are_the_clients_own(client, url):
    with pytest.raises(openai.UnprocessableEntityError, match="does not converse") as refused:
        client.chat.completions.create(model="toy", messages=[{"role": "user", "content": "hello"}])
    assert refused.value.param == "messages.0.content" and refused.value.request_id
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": json.dumps(ASKED)}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError, match="sent whole"):
        client.chat.completions.create(
            model="toy", messages=[{"role": "user", "content": json.dumps(ASKED)}], stream=True
        )
    with pytest.raises(openai.AuthenticationError), openai.OpenAI(base_url=f"{url[0]}/v1", api_key="no") as stranger:
        stranger.models.list()
