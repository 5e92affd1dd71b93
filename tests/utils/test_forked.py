"""Calls in a forked process end within their bounds, whatever they do."""

import os
import signal
import time

import pytest

from reranker.utils.forked import ForkedCallError, call_forked

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

MEMORY = 1 << 28


def spin():
    while True:
        pass


def swallow():
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


def crash():
    os.kill(os.getpid(), signal.SIGKILL)
    return "not reached"


def sleep():
    time.sleep(3600)
    return "not reached"


def test_the_answer_comes_back_and_changes_stay_there():
    changed = []
    assert call_forked(lambda: changed.append(1) or "für dich", 5, MEMORY) == "für dich"
    assert call_forked(lambda: "", 5, MEMORY) == "" and changed == []


@pytest.mark.parametrize(("call", "why"), [(spin, "more than 1 s"), (swallow, "memory"), (crash, "died")])
def test_what_takes_too_much_is_ended(call, why):
    with pytest.raises(ForkedCallError, match=why):
        call_forked(call, 0.3, MEMORY)


@pytest.mark.slow  # waits for some seconds
def test_what_only_waits_is_ended_too():
    with pytest.raises(ForkedCallError, match="more than 1 s"):
        call_forked(sleep, 0.3, MEMORY)
