"""A live server in a thread, as clients see it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from reranker.serve.http_limits import BoundedHttp


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serves on a free port of this machine until the block ends; yields the base URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=BoundedHttp, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until `true()`; an AssertionError past `seconds`: for what never comes true, not for what is slow."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not true within {seconds:g} s"
        time.sleep(0.005)


def wait_until_ready(url: str, seconds: float = 60) -> None:
    """Until the model is loaded."""
    until(lambda: httpx.get(f"{url}/ready").status_code == 200, seconds)
