"""An end that was asked for: work in steps finishes the one it is in, keeps what it has and ends."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from reranker.errors import StoppedError


class _Asked:
    steps = 0  # blocks of steps that run now
    end = False


@contextmanager
def end_by_sigterm() -> Iterator[None]:
    """SIGTERM asks for the end within the block: between `steps` at once, in them after the one in work.

    A second SIGTERM ends at once. Does nothing outside the main thread, which alone gets signals.

    Raises:
        SystemExit: 143, where no step is in work.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handle(number: int, frame: Any) -> None:
        if os.getpid() != owner:  # a process that was forked in a step
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif _Asked.steps and not _Asked.end:
            _Asked.end = True
        else:
            raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, handle)
    _Asked.end = False
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def steps() -> Iterator[None]:
    """Within the block, somebody asks `end_asked` after each step."""
    _Asked.steps += 1
    try:
        yield
    finally:
        _Asked.steps -= 1


def end_asked() -> bool:
    """Whether the work should keep what it has and raise `stopped`."""
    return _Asked.end


def stopped(step: int, of: int) -> StoppedError:
    """What to raise once everything up to `step` is kept."""
    return StoppedError(f"stopped after step {step} of {of}, which is kept: the same command goes on from there")
