"""vLLM workers of which something is broken."""

from collections.abc import Collection
from typing import Any

from reranker.engines.vllm.backends import worker
from reranker.engines.vllm.backends.v1_patched import V1Patched
from reranker.engines.vllm.backends.v2_native import V2Native
from reranker.engines.vllm.worker import SlotWorkerExtension


class PlainWorkerExtension(SlotWorkerExtension):
    """Cannot sum spans, as one of another version."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        name, refused = super().reranker_take_backend([*besides, V1Patched.name, V2Native.name])
        return name, refused | {V1Patched.name: "this worker is a test"}


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


class RaisingWorkerExtension(SlotWorkerExtension):
    """Its backends fail where they are put in, in a way that nobody foresaw."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        def fail(runner: Any) -> str:
            raise AttributeError("moved")

        worker._INSTALL = dict.fromkeys(worker._INSTALL, fail)
        return super().reranker_take_backend(besides)
