"""When vLLM's process dies, whoever waits for it gets an error.

vLLM notices, and refuses later calls; a call that waits for an answer at that moment would wait for ever.
"""

from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import wait
from threading import Thread
from typing import Any

from reranker.errors import EngineError

_SHUTDOWN_SECONDS = 10.0

GONE = "vLLM's process is gone, killed or out of memory; its own lines above say more. Make a new engine"


def is_dead(core: Any) -> bool:
    """Whether the process of a `vllm.v1.engine.core_client.SyncMPClient` has ended."""
    return bool(core.resources.engine_dead)


def watch(core: Any) -> None:
    """Fails what waits for the processes of a `SyncMPClient` once one of them has ended."""
    from vllm.v1.engine.exceptions import EngineDeadError

    resources, outputs, utilities = core.resources, core.outputs_queue, core.utility_results
    sentinels = [process.sentinel for process in resources.engine_manager.processes]

    def fail_all() -> None:
        wait(sentinels)
        resources.engine_dead = True  # from here on vLLM takes no call that could wait
        outputs.put_nowait(EngineDeadError())
        for future in list(utilities.values()):
            if not future.done():
                future.set_exception(EngineDeadError())

    Thread(target=fail_all, daemon=True, name="reranker-vllm-watch").start()


@contextmanager
def engine_errors() -> Generator[None]:
    """vLLM's error for a dead process becomes ours.

    Raises:
        EngineError: the process is gone.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise EngineError(GONE) from error


def shut_down(core: Any) -> None:
    """Ends vLLM's processes and its thread here; `core` is a `vllm.v1.engine.core_client.SyncMPClient`."""
    core.shutdown()
    # vLLM leaves its ZeroMQ context to the garbage collector, which warns about it at some later moment.
    core.output_queue_thread.join(timeout=_SHUTDOWN_SECONDS)
    core.ctx.destroy(linger=0)
