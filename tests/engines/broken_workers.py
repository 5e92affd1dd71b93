"""vLLM workers of which something is broken."""

import os
import signal
from collections.abc import Collection
from typing import Any

from reranker.engines.vllm import span_scoring
from reranker.engines.vllm.backends import v2_worker, worker
from reranker.engines.vllm.backends.v1_patched import V1Patched
from reranker.engines.vllm.backends.v2_native import V2Native
from reranker.engines.vllm.worker import SlotWorkerExtension


class PlainWorkerExtension(SlotWorkerExtension):
    """Cannot sum spans, as one of another version."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        name, refused = super().reranker_take_backend([*besides, V1Patched.name, V2Native.name])
        return name, refused | {V1Patched.name: "this worker is a test"}


class MovedWorkerExtension(SlotWorkerExtension):
    """Has not what either backend puts itself in the place of: another vLLM, in which it has another name."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        span_scoring._RUNNER_METHOD = v2_worker._WORKER = "moved_elsewhere"
        return super().reranker_take_backend(besides)


class WrongWorkerExtension(SlotWorkerExtension):
    """Its backend, whichever, reads the row beside the right one, and says nothing of it."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        taken = super().reranker_take_backend(besides)
        reader = None if self._reranker_taken is None else self._reranker_taken.reader
        if reader is not None:
            head = reader._head
            log_probs = head.log_probs
            head.log_probs = lambda states, *others: log_probs(states.roll(1, dims=0), *others)
        return taken


class WrongStatesWorkerExtension(SlotWorkerExtension):
    """Its likelihoods are right, its hidden states are not."""

    def reranker_take(self, numbers: list[int]) -> list[bytes]:
        taken = super().reranker_take(numbers)
        dim = 4 * self._reranker_slots.slots.shape[1]
        return [bytes(dim) if len(one) == dim else one for one in taken]


class AllLayersWorkerExtension(SlotWorkerExtension):
    """Its model does not go by `end_layer`: it runs all layers, whatever it is told."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        taken = super().reranker_take_backend(besides)
        stop = self._reranker_taken and self._reranker_taken.reader and self._reranker_taken.reader.stop
        if stop:
            forward = stop._forward

            def whole(*args: Any, **kwargs: Any) -> Any:
                stop._trunk.end_layer = len(stop)
                return forward(*args, **kwargs)

            stop._forward = whole
        return taken


class CompiledWorkerExtension(SlotWorkerExtension):
    """Its model is compiled, so that nothing of its layers can be left out."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        self.model_runner.model_config.enforce_eager = False
        return super().reranker_take_backend(besides)


class RaisingWorkerExtension(SlotWorkerExtension):
    """Its backends fail where they are put in, in a way that nobody foresaw."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        def fail(runner: Any) -> str:
            raise AttributeError("moved")

        worker._INSTALL = dict.fromkeys(worker._INSTALL, fail)
        return super().reranker_take_backend(besides)


class DyingWorkerExtension(SlotWorkerExtension):
    """Its process is killed while it is set up, as by the system when memory runs out."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("alive")
