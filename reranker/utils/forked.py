"""Calls in a forked process, with bounds on time and memory: for work that cannot be interrupted otherwise."""

import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

_MOST_ANSWER = 1 << 16  # bytes
_PATIENCE = 6  # times the bound: how long the call may take where others have the processor


class ForkedCallError(Exception):
    """The call took too long, or its process died."""


def call_forked(call: Callable[[], str], seconds: float, memory: int) -> str:
    """The text that `call` returns, from a process that is forked for it and gone afterwards.

    To be called in a process of one thread.

    Args:
        call: what it changes stays in its process.
        seconds: of processors' time that the call may take, rounded up; and a few times as long in all.
        memory: bytes of addresses that it may take beside what this process has.

    Raises:
        ForkedCallError: no answer within the bounds, or the process died.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        _answer(call, write, math.ceil(seconds), memory)
    os.close(write)
    try:
        answer = _received(read, time.monotonic() + _PATIENCE * math.ceil(seconds))
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)  # a process that ended is still there until it is waited for
        _, status = os.waitpid(child, 0)
    if answer is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        raise ForkedCallError(f"took more than {math.ceil(seconds)} s")
    if not answer:
        raise ForkedCallError("took more memory than it may, or its process died")
    return answer[1:].decode(errors="replace")


def _answer(call: Callable[[], str], write: int, seconds: int, memory: int) -> NoReturn:
    """In the forked process."""
    try:
        bound = _addresses() + memory
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        with suppress(MemoryError), open(write, "wb") as file:
            file.write(b"+" + call().encode(errors="replace")[:_MOST_ANSWER])
    finally:
        os._exit(0)  # nothing of the parent is to be cleaned up here


def _received(read: int, until: float) -> bytes | None:
    """All that comes; None where it has not come by then."""
    parts = list[bytes]()
    while True:
        ready, _, _ = select.select([read], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        part = os.read(read, _MOST_ANSWER)
        if not part:
            return b"".join(parts)
        parts.append(part)


def _addresses() -> int:
    """Bytes of addresses that this process has; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
