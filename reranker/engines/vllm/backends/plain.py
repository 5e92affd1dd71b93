"""vLLM's own prompt log-probabilities, of either runner: an object a token goes to the front end, which is slow."""

from typing import Any, ClassVar

from reranker.engines.vllm.backends.base import Fresh
from reranker.engines.vllm.calls import LOG_PROBS, Call, Prompt, extra
from reranker.errors import EngineError


class Plain:
    """Reads each prompt's own log-probabilities; no token has another id, for vLLM looks every id up in its logits."""

    name: ClassVar[str] = "plain"
    reads_states: ClassVar[bool] = False
    reads_followers: ClassVar[bool] = False

    def span(self, prompt: Prompt, fresh: Fresh) -> Call:
        return prompt.prefix + prompt.own, LOG_PROBS | extra(prompt.transfer)

    def states(self, prompt: Prompt, number: int, fresh: Fresh) -> Call:
        raise EngineError("vLLM's own prompt log-probabilities come without hidden states: take the torch engine")

    def sum(self, prompt: Prompt, output: Any) -> float | None:
        # From the end: V1 gives a row for every token of the prompt, V2 for those that were computed.
        rows = output.prompt_logprobs[-len(prompt.scored) :]
        if len(rows) < len(prompt.scored) or any(not row for row in rows):
            return None
        return float(sum(row[token].logprob for row, token in zip(rows, prompt.scored, strict=True)))
