"""One server, several domains: each request is read by the bundle it names."""

import signal

import httpx
import pytest

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import ConfigError
from reranker.serve.app import create_app
from reranker.serve.domains import Domain, Domains
from reranker.serve.errors import ProblemError
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready
from tests.serve.process import Process

ITEMS = ["g1i1", "g0i1", "g2i1", "g3i1"]


def fitted(domain, seed=0, **settings):
    """The same catalogue; users of "shop" have the next taste."""
    data = toys.taste_dataset(seed=seed)
    interactions = data.interactions.copy()
    if domain == "shop":
        interactions["item_id"] = [f"g{(int(item[1]) + 1) % 4}{item[2:]}" for item in interactions["item_id"]]
    data = Dataset(interactions=interactions, items=data.items, domain=domain)
    generator = PopularityGenerator().fit(data.interactions)
    return Reranker(toys.config(**settings), ScriptedEngine()).fit(data, generator)


@pytest.fixture(scope="module")
def movies():
    return fitted("movies")


@pytest.fixture(scope="module")
def shop():
    return fitted("shop")


@pytest.fixture
def server(movies, shop, tmp_path):
    stores = [SqliteUserStore(tmp_path / f"{name}.db") for name in ("movies", "shop")]
    with serving(create_app([Domain(movies, stores[0]), Domain(shop, stores[1])])) as url:
        wait_until_ready(url)
        yield url


def post(url, path="/v1/rerank", **body):
    return httpx.post(f"{url}{path}", json=body, timeout=30)


def best(url, **fields):
    return post(url, item_ids=ITEMS, **fields).json()["results"][0]["item_id"]


def test_each_domain_is_a_model_and_their_base_comes_last(server):
    movies, shop, base = httpx.get(f"{server}/v1/models").json()["data"]
    assert [movies["id"], shop["id"], base["id"]] == ["movies", "shop", "scripted"]
    assert movies["card"]["domain"] == "movies" and shop["card"]["items"] == 32
    assert httpx.get(f"{server}/v1/models/shop").json() == shop


def test_model_or_domain_picks_the_bundle(server):
    for fields in ({"model": "movies"}, {"domain": "movies"}, {"model": "scripted", "domain": "movies"}):
        assert best(server, user="u0", **fields) == "g0i1"
    for fields in ({"model": "shop"}, {"domain": "shop"}, {"model": "shop", "domain": "shop"}):
        assert best(server, user="u0", **fields) == "g1i1"
    assert post(server, item_ids=ITEMS, domain="shop").json()["model"] == "shop"


def test_a_chat_ranks_under_its_model(server):
    asked = {"messages": [{"role": "user", "content": "tonight"}], "item_ids": ITEMS, "user": "u0"}
    for model, first in (("movies", "g0i1"), ("shop", "g1i1")):
        answer = post(server, "/v1/chat/completions", model=model, **asked).json()
        assert f'"item_id":"{first}"' in answer["choices"][0]["message"]["content"].split("}")[0]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({}, 422, "domain"),
        ({"model": "scripted"}, 422, "domain"),
        ({"domain": "books"}, 404, "domain"),
        ({"model": "gpt", "domain": "shop"}, 404, "model"),
        ({"model": "movies", "domain": "shop"}, 422, "domain"),
    ],
)
def test_what_names_no_domain_says_so(server, fields, status, param):
    answer = post(server, item_ids=ITEMS, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_users_are_kept_apart_and_forgotten_everywhere(server, tmp_path):
    rows = [{"item_id": f"g3i{number}"} for number in (2, 3, 4, 5)]  # of fewer the guard knows nothing
    assert post(server, "/v1/users/new/interactions", interactions=rows).json()["error"]["param"] == "domain"
    assert post(server, "/v1/users/new/interactions", interactions=rows, domain="shop").json()["domain"] == "shop"
    assert best(server, user="new", domain="shop") == "g3i1"
    assert best(server, user="new", domain="movies") == best(server, domain="movies")
    assert list(httpx.get(f"{server}/v1/users/new").json()["domains"]) == ["shop"]
    gone = httpx.delete(f"{server}/v1/users/new").json()
    assert gone == {"user": "new", "forgotten": True, "score_log_rows": 0, "in_bundles": []}
    assert httpx.delete(f"{server}/v1/users/u1").json()["in_bundles"] == ["movies", "shop"]
    for file in tmp_path.glob("*.db*"):
        assert b'"new"' not in file.read_bytes()


def test_the_playground_is_told_of_all(server):
    told = httpx.get(f"{server}/playground/users", params={"domain": "shop"}).json()
    assert told["domains"] == ["movies", "shop"] and told["domain"] == "shop"
    assert httpx.get(f"{server}/playground/users").json()["domain"] == "movies"
    shown = httpx.get(f"{server}/playground/list", params={"domain": "shop", "user": "u0"}).json()
    assert all(one["id"].startswith("g1") for one in shown["history"])


def test_one_domain_cannot_be_served_twice(movies):
    with pytest.raises(ConfigError, match="two bundles"):
        create_app([Domain(movies), Domain(movies)])
    with pytest.raises(ConfigError, match="nothing to serve"):
        create_app([])
    with pytest.raises(ProblemError):
        Domains([Domain(movies)]).pick(model="shop")


def test_engines_are_shared_where_they_are_the_same(movies, shop, tmp_path):
    for reranker in (movies, shop):
        reranker.save(tmp_path / reranker.llm_scorer.domain)
    one, other = (Reranker.load(tmp_path / name) for name in ("movies", "shop"))
    assert other.llm_scorer.share_engine(one.llm_scorer)
    assert other.llm_scorer.engine is one.llm_scorer.engine
    apart = Reranker.load(tmp_path / "shop", dtype="float32")
    assert not apart.llm_scorer.share_engine(one.llm_scorer)
    assert apart.llm_scorer.engine is not one.llm_scorer.engine


def test_another_domain_reads_with_the_same_engine_which_stays_when_it_is_done(movies, tmp_path):
    movies.save(tmp_path / "movies")
    one = Reranker.load(tmp_path / "movies").llm_scorer
    other = one.for_domain("shop")  # nothing is loaded yet
    engine = other.engine
    assert one.engine is engine
    other.close()
    assert one.engine is engine and engine.embed_tokens([1]).shape == (1, engine.model.dim)


def test_the_command_serves_several_bundles(movies, shop, tmp_path):
    for reranker in (movies, shop):
        reranker.save(tmp_path / reranker.llm_scorer.domain)
    flags = ["--bundle", tmp_path / "shop", "--users-db", tmp_path / "a.db", "--users-db", tmp_path / "b.db"]
    server = Process(tmp_path / "movies", *flags)
    try:
        assert best(server.url, user="u0", model="movies") == "g0i1"
        assert best(server.url, user="u0", model="shop") == "g1i1"
    finally:
        server.end(signal.SIGTERM)
