"""Headers and trailers past the limit: 431, and the connection is closed, before any key is looked at."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from reranker.serve.app import create_app
from reranker.serve.auth import Keys, new_key, read_keys
from reranker.serve.http_limits import MAX_HEADER_BYTES
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

BODY = json.dumps({"documents": ["a b", "c d"]}).encode()
START = b"POST /rerank HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    new_key(keys, "somebody", ["rank"], None)
    with serving(create_app(toys.fitted(), keys=Keys(read_keys(keys)))) as url:
        wait_until_ready(url)
        yield url


def spoken(url, *parts):
    """All that comes back, and how many bytes were taken."""
    place = urlsplit(url)
    taken = 0
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                taken += len(part)
        except OSError:  # it hung up
            pass
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except OSError:
            pass
    return answer, taken


def chunks(count):
    return (b"x" * 4096 for _ in range(count))


@pytest.mark.parametrize(
    "parts",
    [
        [START, b"x-long: " + b"y" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\n"],
        [START, *(b"x-%d: %s\r\n" % (number, b"y" * 1000) for number in range(100)), b"\r\n"],
        [b"GET /" + b"y" * (2 * MAX_HEADER_BYTES) + b" HTTP/1.1\r\nhost: x\r\n\r\n"],
    ],
    ids=["one header", "many headers", "path"],
)
def test_whole_heads(url, parts):
    answer, _ = spoken(url, *parts)
    assert not answer or b" 431 " in answer.split(b"\r\n")[0]  # a reset may outrun the answer


def test_a_header_without_an_end_is_not_taken(url):
    _, taken = spoken(url, START + b"x-long: ", *chunks(20_000))
    assert taken < 40_000_000  # of 82 MB: what the sockets hold, and the limit


def test_the_answer_is_json_in_openais_shape(url):
    answer, _ = spoken(url, START + b"x-long: " + b"y" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ") and json.loads(body)["error"]["code"] == "headers_too_large"


def test_trailers_are_counted_and_bodies_are_not(url):
    chunked = START + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    whole = b"%x\r\n%s\r\n" % (len(BODY), BODY)
    fine, _ = spoken(url, chunked, whole, b"0\r\n\r\n")
    assert fine.startswith(b"HTTP/1.1 401 ")
    _, taken = spoken(url, chunked, whole, b"0\r\nx-trailer: ", *chunks(20_000))
    assert taken < 40_000_000
    large = START + b"content-length: 1000000\r\nconnection: close\r\n\r\n"
    answer, _ = spoken(url, large, b"y" * 1_000_000)
    assert not answer or answer.startswith(b"HTTP/1.1 401 ")
    many = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 2000  # pipelined: each is short
    last = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer, _ = spoken(url, many + last)
    assert answer.count(b"HTTP/1.1 200 ") == 2001
