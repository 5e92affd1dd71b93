"""Log lines: one JSON object each, without messages of errors, which may quote users, and nobody waits for them."""

import contextlib
import logging
import threading
import time
import traceback
from collections import deque
from typing import Any, TextIO

from pydantic_core import to_json

_SECONDS = 0.1  # between writes
_PATIENCE = 1.0  # seconds, with a stream that is blocked


def failure(error: BaseException) -> dict[str, Any]:
    """What an error was, where it came through and what it came of; no messages, which may quote what a user wrote."""
    where = [f"{one.filename}:{one.lineno} {one.name}" for one in traceback.extract_tb(error.__traceback__)]
    cause = {} if error.__cause__ is None else {"cause": failure(error.__cause__)}
    return {"error": type(error).__qualname__, "at": where, **cause}


class JsonLines(logging.Formatter):
    """A record as one JSON object: time (seconds since 1970), level, logger and message; `failure` for a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1]:
            line |= failure(record.exc_info[1])
        return to_json(line, fallback=str).decode()


class LaterLines(logging.Handler):
    """Writes lines in a thread of its own, some at a time.

    A write from the event loop would give the interpreter to the engine's thread and wait to get it back, once a
    request; and whoever does not read the server's stderr would stop it.

    A line after `close` starts anew: `logging.config.dictConfig`, which vLLM calls, closes all handlers there are.

    Args:
        stream: where they go.
        most: lines kept while the stream is blocked; beyond, the oldest are dropped.
    """

    def __init__(self, stream: TextIO, most: int = 100_000) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque(maxlen=most)
        self._written = 0
        self._given = 0
        self._hurry = threading.Event()
        self._begin()

    def _begin(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stop,), name="reranker-lines", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._stop.is_set():
            self._begin()
        try:
            self._lines.append(self.format(record))
        except Exception:  # as logging's own handlers do: whoever logs is not to fail by it
            self.handleError(record)
        else:
            self._given += 1

    def flush(self) -> None:
        """Writes what waits; gives up after a second."""
        self._hurry.set()
        until, last = time.monotonic() + _PATIENCE, self._given
        while self._written < last and time.monotonic() < until:
            time.sleep(0.005)

    def close(self) -> None:
        """Writes what waits, for at most a second."""
        self._stop.set()
        self._hurry.set()
        self._thread.join(_PATIENCE)
        super().close()

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._hurry.wait(_SECONDS)
            self._hurry.clear()
            self._write()
        self._write()

    def _write(self) -> None:
        given = self._given
        lines = []
        while self._lines:
            lines.append(self._lines.popleft() + "\n")
        if lines:
            with contextlib.suppress(OSError, ValueError):  # a pipe that is gone takes no server with it
                self._stream.write("".join(lines))
                self._stream.flush()
        self._written = given
