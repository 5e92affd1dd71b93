"""How vLLM's processes wait for each other, with vLLM's own class and a socket that stays silent."""

import time

import pytest

pytest.importorskip("vllm")

from vllm.distributed.device_communicators import shm_broadcast

from reranker.engines.vllm.waiting import wait_without_spinning


class SilentPoller:
    def __init__(self) -> None:
        self.timeouts: list[int | None] = []

    def poll(self, timeout: int | None) -> list[tuple[object, int]]:
        self.timeouts.append(timeout)
        return []


@pytest.fixture
def condition(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(shm_broadcast.SpinCondition, "wait", shm_broadcast.SpinCondition.wait)  # puts it back
    assert wait_without_spinning()
    condition = shm_broadcast.SpinCondition.__new__(shm_broadcast.SpinCondition)
    condition.is_reader, condition.busy_loop_s = True, 1.0
    condition.read_cancel_socket = condition.local_notify_socket = object()
    condition.poller = SilentPoller()
    return condition


@pytest.mark.parametrize(
    ("waited", "asked", "timeout"),
    [(0.01, None, 1), (0.25, 5000, 12), (32.0, 5000, 50), (32.0, 7, 7)],
)
def test_looks_again_after_a_part_of_the_time_waited(
    condition: object, waited: float, asked: int | None, timeout: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notice that was dropped costs a twentieth of the wait, at most 50 ms; vLLM's own bound is five seconds."""
    monkeypatch.setattr(time, "monotonic", lambda: 64.0)
    condition.last_read = 64.0 - waited  # type: ignore[attr-defined]
    condition.wait(asked)  # type: ignore[attr-defined]
    assert condition.poller.timeouts == [timeout]  # type: ignore[attr-defined]


def test_spins_for_a_moment_only(condition: object) -> None:
    condition.last_read = time.monotonic() + 60  # type: ignore[attr-defined]
    condition.wait(5000)  # type: ignore[attr-defined]
    assert condition.poller.timeouts == []  # type: ignore[attr-defined]
    assert condition.busy_loop_s < 0.01  # type: ignore[attr-defined]
