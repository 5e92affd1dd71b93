"""A vLLM worker that cannot sum spans, as one of another version."""

from reranker.engines.vllm.worker import SlotWorkerExtension


class PlainWorkerExtension(SlotWorkerExtension):
    def reranker_read_spans(self) -> str:
        self._pad_logits()
        return "this worker is a test"
