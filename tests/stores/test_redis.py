"""The Redis store against a real server: the contract, and what is particular to a server."""

import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("redis")

import redis

from reranker.errors import StoreError
from reranker.stores import RedisUserStore, open_user_store
from tests.contracts.stores import StoreContract, state

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None,
    reason="redis-server is not installed (Debian: apt-get install redis-server)",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """A server on a socket in a directory of its own: no port that another test could take."""
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", directory]
        process = subprocess.Popen([*command, "--appendonly", "yes", "--save", ""], stdout=subprocess.DEVNULL)
        for _ in range(100):
            if socket.exists():
                break
            time.sleep(0.1)
        yield socket
        process.terminate()
        process.wait(timeout=30)


class TestRedis(StoreContract):
    @pytest.fixture
    def place(self, server: Path) -> str:
        client = redis.Redis(unix_socket_path=str(server))
        client.flushdb()
        client.close()
        return f"unix://{server}"


@pytest.fixture
def url(server: Path) -> str:
    return f"unix://{server}"


def test_prefixes_share_a_server(url: str) -> None:
    prefix = f"odd*[prefix]?{uuid.uuid4().hex}:"
    one, other = RedisUserStore(url, prefix), RedisUserStore(url, prefix + "2:")
    one.put([state("u", support=1)])
    other.put([state("u", support=2), state("v")])
    assert one.get(["u"])["u"].support == 1
    assert sorted(other.user_ids()) == ["u", "v"]
    assert other.forget(["u"]) == 1
    assert set(one.get(["u", "v"])) == {"u"}
    one.close()
    other.close()


def test_expiry_is_the_servers(url: str, server: Path) -> None:
    prefix = uuid.uuid4().hex
    store = RedisUserStore(url, prefix, ttl_seconds=100)
    store.put([state("put")])
    store.append("appended", [("a", None)])
    client = redis.Redis(unix_socket_path=str(server))
    assert {90_000 < client.pttl(key) <= 100_000 for key in client.keys(f"{prefix}*")} == {True}
    kept = RedisUserStore(url, prefix)
    kept.append("put", [("a", None)])
    assert client.pttl(f'{prefix}"put"') == -1
    for opened in (store, kept, client):
        opened.close()


def test_a_damaged_record_names_its_user(url: str, server: Path) -> None:
    prefix = uuid.uuid4().hex
    store = RedisUserStore(url, prefix)
    client = redis.Redis(unix_socket_path=str(server))
    client.set(f'{prefix}"u"', b"something else")
    with pytest.raises(StoreError, match="'u' is damaged"):
        store.get(["u"])
    store.close()
    client.close()


def test_no_server() -> None:
    with pytest.raises(StoreError, match="Check that it runs") as caught:
        open_user_store("redis://me:secret@127.0.0.1:1/0")
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match="no Redis URL"):
        RedisUserStore("http://127.0.0.1")


def test_warns_of_a_server_that_keeps_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    socket = tmp_path / "r.sock"
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    while not socket.exists():
        time.sleep(0.05)
    with caplog.at_level(logging.WARNING):
        RedisUserStore(f"unix://{socket}").close()
    process.terminate()
    process.wait(timeout=30)
    assert "appendonly yes" in caplog.text


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[str]:
    """The URL of a server that takes connections and answers nothing, once a store was opened."""
    socket = tmp_path / "r.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "yes"]
    process = subprocess.Popen([*command, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
    while not socket.exists():
        time.sleep(0.05)
    yield f"unix://{socket}"
    process.send_signal(signal.SIGCONT)
    process.terminate()
    process.wait(timeout=30)


def _halt(url: str) -> None:
    client = redis.Redis.from_url(url)
    process = client.info("server")["process_id"]
    client.close()
    os.kill(process, signal.SIGSTOP)


@pytest.mark.parametrize("call", ["get", "append", "put", "forget", "user_ids"])
def test_a_server_that_hangs_is_given_up_after_the_timeout(stopped: str, call: str) -> None:
    store = open_user_store(stopped, timeout_seconds=0.2)
    _halt(stopped)
    calls = {
        "get": lambda: store.get(["u"]),
        "append": lambda: store.append("u", [("a", None)]),
        "put": lambda: store.put([state("u")]),
        "forget": lambda: store.forget(["u"]),
        "user_ids": lambda: list(store.user_ids()),
    }
    with pytest.raises(StoreError, match="Timeout"):
        calls[call]()
    store.close()


def test_a_server_that_hangs_is_not_opened(stopped: str) -> None:
    _halt(stopped)
    with pytest.raises(StoreError, match="Timeout"):
        open_user_store(stopped, timeout_seconds=0.2)


def test_a_server_that_comes_back_is_used_again(stopped: str) -> None:
    store = open_user_store(stopped, timeout_seconds=0.2)
    store.append("u", [("a", None)])
    process = redis.Redis.from_url(stopped).info("server")["process_id"]
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(StoreError):
        store.get(["u"])
    os.kill(process, signal.SIGCONT)
    assert store.get(["u"])["u"].interactions == (("a", None),)
    store.close()
