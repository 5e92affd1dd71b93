"""V1's runner with a `SpanReader` in the place of its prompt log-probabilities (`span_scoring`)."""

from typing import Any, ClassVar

from reranker.engines.vllm.backends.base import Fresh
from reranker.engines.vllm.calls import LOG_PROBS, Call, Prompt, extra, stopping
from reranker.engines.vllm.wire import KEPT, LAST_TOKEN, SCORED_FROM, STATES, UNREAD


class V1Patched:
    """The last scored token is named, not computed; one number a request comes back, in the first token's place."""

    name: ClassVar[str] = "v1_patched"
    reads_states: ClassVar[bool] = True
    reads_followers: ClassVar[bool] = True

    def span(self, prompt: Prompt, fresh: Fresh) -> Call:
        first, *middle, last = prompt.own
        arguments = extra(prompt.transfer, {SCORED_FROM: prompt.start, LAST_TOKEN: last, UNREAD: True})
        return [*prompt.prefix, fresh(first), *middle], LOG_PROBS | arguments

    def states(self, prompt: Prompt, number: int, fresh: Fresh) -> Call:
        token_ids, options = self.span(prompt, fresh)
        arguments = {STATES: True, KEPT: number} | stopping(prompt.layer)
        return token_ids, {**options, "extra_args": options["extra_args"] | arguments}

    def sum(self, prompt: Prompt, output: Any) -> float | None:
        rows = output.prompt_logprobs
        return float(next(iter(rows[1].values())).logprob) if rows and len(rows) > 1 else None
