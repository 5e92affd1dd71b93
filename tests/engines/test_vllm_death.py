"""Who waits for vLLM's process is told when it ends, by a process of our own in its place."""

import queue
import time
from concurrent.futures import Future
from multiprocessing import get_context
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")

from reranker.engines.vllm.death import engine_errors, is_dead, watch
from reranker.errors import EngineError

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own, at import


def test_the_calls_that_wait_fail_when_the_process_is_killed():
    process = get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    answered, waiting = Future(), Future()
    answered.set_result("an answer")
    core = SimpleNamespace(
        resources=SimpleNamespace(engine_dead=False, engine_manager=SimpleNamespace(processes=[process])),
        outputs_queue=queue.Queue(),
        utility_results={1: answered, 2: waiting},
    )
    watch(core)
    assert not is_dead(core) and not waiting.done()
    process.kill()
    with pytest.raises(EngineError, match="process is gone"), engine_errors():
        raise core.outputs_queue.get(timeout=20)
    assert is_dead(core)
    with pytest.raises(EngineError, match="process is gone"), engine_errors():
        waiting.result(timeout=20)
    assert answered.result() == "an answer"


def test_other_errors_stay_what_they_are():
    with pytest.raises(ValueError, match="another"), engine_errors():
        raise ValueError("another")
