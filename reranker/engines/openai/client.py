"""HTTP to an OpenAI-compatible server: so many calls at once, retries with backoff, errors in plain words."""

import json
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import tenacity

from reranker.errors import EngineError

_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_SHOWN = 300  # characters of a server's answer in a message


class RefusedError(EngineError):
    """The server answered that it will not do this; asking again would not help.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _BusyError(Exception):
    """Worth another attempt; `retry_after` is what the server asked for, in seconds."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OpenAIClient:
    """Calls one server.

    Args:
        base_url: with its version, for instance "http://127.0.0.1:8000/v1".
        api_key: sent as a bearer token; never part of a message.
        concurrency: calls at once, over all threads that use this client.
        attempts: tries a call; connection errors, timeouts, 408, 425, 429 and 5xx are tried again.
        backoff_seconds: mean wait before the second try; doubles from try to try. `Retry-After` goes before it.
        max_wait_seconds: longest wait before a try; a server that asks for more is given up.
        timeout_seconds: for one answer.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        concurrency: int = 8,
        attempts: int = 6,
        backoff_seconds: float = 0.5,
        max_wait_seconds: float = 60.0,
        timeout_seconds: float = 600.0,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._attempts = attempts
        self._max_wait = max_wait_seconds
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="reranker-openai")
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=10.0),
            limits=httpx.Limits(max_connections=concurrency),
        )
        jitter = tenacity.wait_random_exponential(multiplier=2 * backoff_seconds, max=max_wait_seconds)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, _BusyError) else None
            return jitter(state) if asked is None else asked

        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_BusyError),
            stop=tenacity.stop_after_attempt(attempts),
            wait=wait,
            sleep=self._sleep,
            reraise=True,
        )
        self._closed = threading.Event()

    def get(self, path: str) -> Any:
        """The JSON at `path`.

        Raises:
            RefusedError: the server says no.
            EngineError: it does not answer, or not in JSON.
        """
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to `body`; raises what `get` raises."""
        return self._call("POST", path, body)

    def post_all(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        """One answer a body, in their order; the first failure cancels the rest."""
        if self._closed.is_set():
            raise EngineError("this openai engine was closed; make a new one")
        futures: list[Future[Any]] = [self._pool.submit(self.post, path, body) for body in bodies]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def stream(self, path: str, body: dict[str, Any]) -> Generator[Any]:
        """The events that answer `body`, in JSON; tried once, because someone waits for them.

        Raises:
            RefusedError: the server says no.
            EngineError: it does not answer, breaks off, or does not answer in events.
        """
        if self._closed.is_set():
            raise EngineError("this openai engine was closed; make a new one")
        url = f"{self.base_url}{path}"
        try:
            with self._http.stream("POST", url, json=body) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    message = f"{url} answered {response.status_code}: {_reason(response)}{_hint(response)}"
                    raise RefusedError(message, response.status_code)
                for line in response.iter_lines():
                    name, _, data = line.partition(":")
                    if name == "data" and data.strip() == "[DONE]":
                        return
                    if name == "data":
                        yield json.loads(data)
        except httpx.HTTPError as error:
            raise EngineError(f"no answer from {url}: {error or type(error).__name__}") from error
        except ValueError as error:
            raise EngineError(f"{url} did not answer in events: {error}. Is it an OpenAI server?") from error
        raise EngineError(f"{url} broke off in the middle of an answer")

    def close(self) -> None:
        """Ends waits and closes the connections."""
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)
        self._http.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        if self._closed.is_set():
            raise EngineError("this openai engine was closed; make a new one")
        try:
            return self._retrying.copy()(self._once, method, path, body)
        except _BusyError as error:
            raise EngineError(
                f"{error} (tried {self._attempts} times). Check that the server runs, is not overloaded, and that "
                "base_url is right"
            ) from error

    def _sleep(self, seconds: float) -> None:
        self._closed.wait(seconds)

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        url = path if path.startswith("http") else f"{self.base_url}{path}"
        try:
            response = self._http.request(method, url, json=body)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise EngineError(f"{url!r} is no URL: {error}. Give base_url='http://host:8000/v1'") from error
        except httpx.TransportError as error:
            raise _BusyError(f"no answer from {url}: {error or type(error).__name__}") from error
        if response.status_code in _BUSY:
            raise self._busy(response, url)
        if response.status_code != httpx.codes.OK:
            raise RefusedError(
                f"{url} answered {response.status_code}: {_reason(response)}{_hint(response)}", response.status_code
            )
        try:
            return response.json()
        except ValueError as error:
            raise EngineError(
                f"{url} did not answer in JSON: {response.text[:_SHOWN]!r}. Is it an OpenAI server?"
            ) from error

    def _busy(self, response: httpx.Response, url: str) -> Exception:
        message = f"{url} answered {response.status_code}: {_reason(response)}"
        retry_after = _retry_after(response)
        if retry_after is not None and retry_after > self._max_wait:
            return EngineError(
                f"{message}. It asks to wait {retry_after:.0f} s, more than max_wait_seconds={self._max_wait:g}"
            )
        return _BusyError(message, retry_after)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds the server asks to wait: a number, or a date (RFC 9110)."""
    value = response.headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _reason(response: httpx.Response) -> str:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        message = response.text
    return " ".join(str(message).split())[:_SHOWN] or response.reason_phrase


def _hint(response: httpx.Response) -> str:
    match response.status_code:
        case 401 | 403:
            return ". Set the key in OPENAI_API_KEY"
        case 404:
            return ". Check base_url (it ends in /v1) and the model's name"
        case _:
            return ""
