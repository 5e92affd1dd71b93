"""vLLM's processes wait for each other by spinning for up to a second, which on a CPU takes a core from the model.

Beside a worker with as many threads as cores, the engine process used a third of all processor time to wait. vLLM's
own slow way, a socket that is polled, is made to begin after a moment.
"""

from typing import Any

_SPIN_SECONDS = 0.0005  # a GPU's steps are shorter than a CPU's wake-ups; a CPU's are not


def wait_without_spinning() -> bool:
    """Shortens the spinning of this process's vLLM; False where this vLLM waits in another way."""
    from vllm.distributed.device_communicators import shm_broadcast

    condition: Any = getattr(shm_broadcast, "SpinCondition", None)
    if condition is None or "busy_loop_s" not in condition.__init__.__code__.co_varnames:
        return False
    wait = condition.wait

    def patient(self: Any, timeout_ms: int | None = None) -> None:
        self.busy_loop_s = min(self.busy_loop_s, _SPIN_SECONDS)
        wait(self, timeout_ms)

    condition.wait = patient
    return True
