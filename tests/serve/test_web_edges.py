"""What a browser, or a page in one, may do with a server on the same machine."""

import socket
from urllib.parse import urlsplit

import httpx
import pytest

from reranker.serve.app import create_app
from reranker.serve.auth import Keys, new_key, read_keys
from reranker.serve.settings import ServeSettings
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

RANKING = b'{"documents": ["a b", "c d"]}'


@pytest.fixture(scope="module")
def fitted():
    return toys.fitted()


@pytest.fixture(scope="module")
def url(fitted, tmp_path_factory):
    store = SqliteUserStore(tmp_path_factory.mktemp("users") / "u.db")
    with serving(create_app(fitted, store=store)) as url:
        wait_until_ready(url)
        yield url


def as_host(url, host, path="/v1/models"):
    return httpx.get(f"{url}{path}", headers={"host": host})


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", ""])
@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/users/u0", "/metrics", "/openapi.json"])
def test_a_name_that_was_rebound_to_this_machine_is_refused(url, host, path):
    answer = as_host(url, host, path)
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "host_not_allowed"
    assert "allowed_hosts" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "127.9.9.9:80", "[::1]:8000", "[::1]"])
def test_this_machines_own_names_are_answered(url, host):
    assert as_host(url, host).status_code == 200


def test_rankings_are_checked_like_the_rest(url):
    headers = {"host": "evil.example", "content-type": "application/json"}
    assert httpx.post(f"{url}/rerank", content=RANKING, headers=headers).status_code == 403


def test_a_list_of_hosts_holds_for_everybody(fitted, tmp_path):
    keys = tmp_path / "keys.json"
    secret = new_key(keys, "somebody", ["rank"], None)
    settings = ServeSettings.from_mapping({"allowed_hosts": ["Shop.example", "::1"]})
    with serving(create_app(fitted, keys=Keys(read_keys(keys)), settings=settings)) as url:
        for host, status in (("shop.example:8000", 200), ("[::1]", 200), ("localhost", 403), ("other.example", 403)):
            headers = {"host": host, "authorization": f"Bearer {secret}"}
            assert httpx.get(f"{url}/v1/models", headers=headers).status_code == status
    with serving(create_app(fitted, keys=Keys(read_keys(keys)))) as url:  # a page has no key: any name will do
        headers = {"host": "shop.example", "authorization": f"Bearer {secret}"}
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/rerank", "/v1/chat/completions", "/v1/users/u0/interactions"])
@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_what_a_page_of_another_site_can_send_unasked_is_no_json(url, path, media):
    headers = {} if media is None else {"content-type": media}
    answer = httpx.post(f"{url}{path}", content=RANKING, headers=headers)
    assert answer.status_code == 415 and answer.json()["error"]["param"] == "content-type"


@pytest.mark.parametrize("media", ["application/json", "Application/JSON; charset=utf-8", "application/ld+json"])
def test_json_is_taken(url, media):
    assert httpx.post(f"{url}/rerank", content=RANKING, headers={"content-type": media}).status_code == 200


def test_nobody_is_sent_to_the_host_that_the_request_named(url):
    answer = httpx.get(f"{url}/v1/models/", follow_redirects=False)
    assert answer.status_code == 404 and "location" not in answer.headers


def test_the_page_is_framed_by_nobody_and_loads_nothing_from_elsewhere(url):
    page = httpx.get(url)
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-frame-options"] == "DENY" and page.headers["referrer-policy"] == "no-referrer"
    for path in ("/", "/rerank", "/v1/models", "/nowhere"):
        assert httpx.get(f"{url}{path}").headers["x-content-type-options"] == "nosniff"
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
        assert httpx.get(f"{url}{path}").status_code == 404


def test_what_is_no_http_is_refused_in_openais_shape(url):
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400 ") and b'"code": "invalid_http"' in answer
