"""vLLM's processes wait for each other by spinning for up to a second, which on a CPU takes a core from the model.

Beside a worker with as many threads as cores, the engine process used a third of all processor time to wait. vLLM's
own slow way, a socket that is polled, is made to begin after a moment. The socket may drop a notice (it holds one at
most), and vLLM looks again after five seconds; here after a fraction of the time already waited.
"""

import time
from typing import Any

_SPIN_SECONDS = 0.0005  # a GPU's steps are shorter than a CPU's wake-ups; a CPU's are not
_LOOK_AGAIN = 0.05  # of the time waited so far: what a dropped notice may cost
_LOOK_AGAIN_MS = (1, 50)  # an idle engine looks 20 times a second


def wait_without_spinning() -> bool:
    """Shortens the spinning of this process's vLLM; False where this vLLM waits in another way."""
    from vllm.distributed.device_communicators import shm_broadcast

    condition: Any = getattr(shm_broadcast, "SpinCondition", None)
    if condition is None or "busy_loop_s" not in condition.__init__.__code__.co_varnames:
        return False
    wait = condition.wait

    def patient(self: Any, timeout_ms: int | None = None) -> None:
        self.busy_loop_s = min(self.busy_loop_s, _SPIN_SECONDS)
        least, most = _LOOK_AGAIN_MS
        waited_ms = 1000 * (time.monotonic() - self.last_read)
        look_again = min(max(int(waited_ms * _LOOK_AGAIN), least), most)
        wait(self, look_again if timeout_ms is None else min(timeout_ms, look_again))

    condition.wait = patient
    return True
